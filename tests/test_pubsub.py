"""Publish and subscribe: who gets what, in which order, and who is forgotten (S5.2)."""

from __future__ import annotations

import os
import signal

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from parallel_actors import pubsub
from puppets import GUEST, WAIT, Puppet, get, mail, park, place, puppet

PLACES = [0, 1, GUEST]


@contract("S5.2", partly=True)
@pytest.mark.parametrize("caller", PLACES)
def test_subscribers_get_what_is_broadcast(node: pa.ActorSystem, caller: int) -> None:
    subscribers = [place(where) for where in PLACES]
    sender = place(caller)
    sender.do(pubsub.broadcast, "scores", "nobody is there yet")
    for each in subscribers:
        each.do(pubsub.subscribe, "scores")
    puppet(0).do(pubsub.subscribe, "other scores")
    sender.do(pubsub.broadcast, "scores", ("goal", [1, 2]))
    for each in subscribers:
        assert ("goal", [1, 2]) == each.do(get)
        assert [] == each.do(mail)
    subscribers[0].do(pubsub.unsubscribe, "scores")
    sender.do(pubsub.broadcast, "scores", "again")
    assert [[], ["again"], ["again"]] == [
        subscribers[0].do(mail),
        [subscribers[1].do(get)],
        [subscribers[2].do(get)],
    ]


@contract("S5.2", partly=True)
@pytest.mark.parametrize("caller", PLACES)
def test_a_broadcast_from_somebody_leaves_that_one_out(node: pa.ActorSystem, caller: int) -> None:
    one, sender = puppet(1), place(caller)
    for each in one, sender:
        each.do(pubsub.subscribe, "t")
    sender.do(pubsub.broadcast_from, "t", 1)
    sender.do(pubsub.broadcast_from, "t", 2, sender=one.pid)
    assert 1 == one.do(get)
    assert 2 == sender.do(get)
    assert [] == one.do(mail) + sender.do(mail)


def test_a_local_broadcast_stays_on_its_worker(node: pa.ActorSystem) -> None:
    here, near, far = puppet(0), puppet(0), puppet(1)
    for each in here, near, far, Puppet(pa.self_()):
        each.do(pubsub.subscribe, "t")
    here.do(pubsub.local_broadcast, "t", 1)
    here.do(pubsub.local_broadcast_from, "t", 2)
    here.do(pubsub.broadcast, "t", "end")
    assert [1, "end"] == [here.do(get) for _ in range(2)]
    assert [1, 2, "end"] == [near.do(get) for _ in range(3)]
    assert ["end"] == [far.do(get)]
    assert ["end"] == [get()]
    assert [] == here.do(mail) + near.do(mail) + far.do(mail) + mail()


def test_two_subscriptions_give_two_copies(node: pa.ActorSystem) -> None:
    one = puppet(1)
    for _ in range(2):
        one.do(pubsub.subscribe, "t")
    one.do(pubsub.subscribe, "t", name="another")
    pubsub.broadcast("t", [1])
    assert [[1], [1]] == [one.do(get), one.do(get)]
    one.do(pubsub.unsubscribe, "t")
    pubsub.broadcast("t", [1])
    pubsub.broadcast("t", [2], name="another")
    assert [2] == one.do(get)
    assert [] == one.do(mail)


def publish(subscriber: pa.Pid, label: str, count: int) -> None:
    for number in range(count):
        pubsub.broadcast("t", (label, number))
        if number % 3 == 0:
            pa.send(subscriber, (label, number + 0.5))


@pytest.mark.parametrize("home", [0, 1])
def test_what_one_sender_broadcasts_and_sends_keeps_its_order(node: pa.ActorSystem, home: int) -> None:
    one = puppet(home)
    one.do(pubsub.subscribe, "t")
    for worker in 0, 1:
        pa.options(worker=worker).spawn(publish, one.pid, f"from {worker}", 30)
    got = [one.do(get) for _ in range(80)]
    for label in "from 0", "from 1":
        numbers = [number for who, number in got if who == label]
        assert sorted(numbers) == numbers
        assert 40 == len(numbers)


def test_who_has_died_is_forgotten(node: pa.ActorSystem) -> None:
    for worker in 0, 1:
        one, other = puppet(worker), puppet(worker)
        for each in one, other:
            each.do(pubsub.subscribe, "t")
        one.end("boom")
        pubsub.broadcast("t", 1)
        assert 1 == other.do(get)
        other.end("done")
    assert [] == pa.pg.which_groups(scope="pubsub")


def full(to: pa.Pid) -> None:
    pubsub.subscribe("t")
    pa.send(to, "subscribed")
    park()


def test_a_full_mailbox_that_refuses_misses_it_and_nobody_else(node: pa.ActorSystem) -> None:
    pa.options(worker=0, max_mailbox=1, mailbox_policy="fail").spawn(full, pa.self_())
    assert "subscribed" == get()
    one = puppet(0)
    one.do(pubsub.subscribe, "t")
    sender = puppet(0)
    for number in range(3):
        sender.do(pubsub.broadcast, "t", number)
    assert [0, 1, 2] == [one.do(get) for _ in range(3)]


def test_what_can_not_travel_is_refused(node: pa.ActorSystem) -> None:
    pubsub.subscribe("t")
    with pytest.raises(pa.NotPicklable):
        pubsub.broadcast("t", (number for number in range(3)))
    assert [] == mail()


@contract("S5.2", partly=True)
def test_subscribers_outlive_the_death_of_another_worker(actor_system: pa.ActorSystem) -> None:
    one, lost = puppet(1), puppet(0)
    for each in one, lost, Puppet(pa.self_()):
        each.do(pubsub.subscribe, "t")
    watch = lost.watch()
    os.kill(actor_system.worker_pids[0], signal.SIGKILL)
    pa.receive(pa.Down(watch, pa.ANY, pa.ANY), timeout=WAIT)
    eventually(lambda: pa.self_() in pa.pg.get_members("t", scope="pubsub"), "the guest is looked after by another")
    pubsub.broadcast("t", "from here")
    assert ["from here"] * 2 == [get(), one.do(get)]
    one.do(pubsub.broadcast, "t", "from there")
    assert ["from there"] * 2 == [get(), one.do(get)]
    eventually(lambda: pa.is_alive(puppet(0).pid), "there is a new worker")
    new = puppet(0)
    new.do(pubsub.subscribe, "t")
    new.do(pubsub.broadcast, "t", "from the new one")
    assert ["from the new one"] * 3 == [get(), one.do(get), new.do(get)]
