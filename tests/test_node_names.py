"""Registered names: one owner in the whole node, seen everywhere at once (S5.1)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from puppets import GUEST, PLACES, WAIT, Puppet, get, mail, park, place, puppet

everywhere = pytest.mark.parametrize(("here", "there"), [*PLACES, (0, GUEST), (GUEST, GUEST)], ids=str)


# --- register and look up ---------------------------------------------------------------------------------------------


@pytest.mark.contract("S5.1")
@everywhere
def test_a_name_is_seen_by_every_worker_once_register_has_returned(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), place(there)
    observers = [puppet(0), puppet(1), Puppet(pa.self_())]
    one.do(pa.register, "name", other.pid)
    assert [actor.do(pa.whereis, "name") for actor in observers] == [other.pid] * 3
    assert [actor.do(pa.registered) for actor in observers] == [["name"]] * 3
    assert pa.process_info(other.pid, "registered_name") == "name"
    one.do(pa.unregister, "name")
    assert [actor.do(pa.whereis, "name") for actor in observers] == [None] * 3
    assert [actor.do(pa.registered) for actor in observers] == [[]] * 3
    assert pa.process_info(other.pid, "registered_name") is None


@pytest.mark.contract("S5.1", partly=True)
def test_registered_then_used_by_another_worker_without_a_look_up(node: pa.ActorSystem) -> None:
    # Worker 0 registers and tells worker 1; whoever hears of the name can use it.
    for number in range(100):
        one, other = puppet(0), puppet(1)
        one.do(register_and_tell, f"n{number}", other.pid)
        assert other.do(pa.receive, ("use", pa.ANY), timeout=WAIT) == ("use", f"n{number}")
        other.do(pa.send, f"n{number}", "hello")
        assert one.do(get) == "hello"


def register_and_tell(name: str, other: pa.Pid) -> None:
    pa.register(name, pa.self_())
    pa.send(other, ("use", name))


@pytest.mark.contract("S5.1", partly=True)
@pytest.mark.parametrize("name", ["ä ö 漢字 🐍", "a" * 255, "with\0zero", "with\nline", " "], ids=ascii)
def test_any_text_is_a_name(node: pa.ActorSystem, name: str) -> None:
    one = puppet(1)
    pa.register(name, one.pid)
    assert puppet(0).do(pa.whereis, name) == one.pid
    assert pa.registered() == [name]
    pa.send(name, "hello")
    assert one.do(get) == "hello"


@pytest.mark.contract("S5.1", partly=True)
@pytest.mark.parametrize("name", ["", "a" * 256, "漢" * 100], ids=["empty", "256 bytes", "300 bytes"])
@pytest.mark.parametrize("worker", [0, 1])
def test_a_name_of_no_or_too_many_bytes_is_refused(node: pa.ActorSystem, worker: int, name: str) -> None:
    one = puppet(0)
    spawn = pa.options(worker=worker, name=name).spawn
    calls: list[Callable[[], object]] = [
        lambda: one.do(pa.register, name, one.pid),
        lambda: one.do(spawn, park),
        lambda: one.do(pa.whereis, name),
        lambda: one.do(pa.send, name, "x"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="expected a name of 1 to 255 bytes"):
            call()
    assert pa.registered() == []
    assert sorted(pa.processes()) == sorted([pa.self_(), one.pid])
    assert puppet(worker).do(pa.worker_index) == worker


@pytest.mark.parametrize("name", [None, 1, b"bytes", ("a",)], ids=str)
def test_what_is_no_text_is_no_name(node: pa.ActorSystem, name: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: pa.register(name, pa.self_()),
        lambda: pa.unregister(name),
        lambda: pa.whereis(name),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="expected a name to be a str"):
            call()
    with pytest.raises(pa.NotRegistered, match="expected a registered name"):
        pa.register("name", "name")
    assert pa.registered() == []


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.contract("S5.1")
@everywhere
def test_a_taken_name_is_refused(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), place(there)
    owner = puppet(1, name="taken")
    with pytest.raises(pa.NameTaken, match="taken"):
        one.do(pa.register, "taken", other.pid)
    assert pa.whereis("taken") == owner.pid
    assert pa.process_info(other.pid, "registered_name") is None


@pytest.mark.contract("S5.1")
@pytest.mark.parametrize("worker", [0, 1])
def test_registering_the_same_name_again_is_refused_too(node: pa.ActorSystem, worker: int) -> None:
    one = puppet(worker)
    pa.register("mine", one.pid)
    with pytest.raises(pa.NameTaken):
        pa.register("mine", one.pid)
    assert pa.whereis("mine") == one.pid


@pytest.mark.contract("S5.1")
@everywhere
def test_a_process_has_one_name(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), place(there)
    pa.register("first", other.pid)
    with pytest.raises(pa.NameTaken, match="first"):
        one.do(pa.register, "second", other.pid)
    assert pa.whereis("second") is None
    one.do(pa.unregister, "first")
    one.do(pa.register, "second", other.pid)
    assert pa.registered() == ["second"]
    pa.unregister("second")


@pytest.mark.contract("S5.1")
@pytest.mark.parametrize(("here", "there"), PLACES, ids=str)
def test_a_dead_process_gets_no_name(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    other.end("boom")
    with pytest.raises(pa.NoProc, match="dead"):
        one.do(pa.register, "late", other.pid)
    assert pa.whereis("late") is None
    puppet(1 - there, name="late")


@pytest.mark.contract("S5.1", partly=True)
def test_a_guest_that_has_gone_gets_no_name(node: pa.ActorSystem) -> None:
    guests: list[pa.Pid] = []
    thread = threading.Thread(target=lambda: guests.append(pa.self_()))
    thread.start()
    thread.join()
    eventually(lambda: not pa.is_alive(guests[0]), "the guest is gone")
    for one in (Puppet(pa.self_()), puppet(0)):
        with pytest.raises(pa.NoProc):
            one.do(pa.register, "late", guests[0])


@pytest.mark.contract("S5.1")
@pytest.mark.parametrize("here", [GUEST, 0, 1])
def test_a_name_that_nobody_has(node: pa.ActorSystem, here: int) -> None:
    one = place(here)
    assert one.do(pa.whereis, "nobody") is None
    with pytest.raises(pa.NotRegistered, match="nobody"):
        one.do(pa.unregister, "nobody")
    with pytest.raises(pa.NotRegistered, match="nobody"):
        one.do(pa.send, "nobody", "x")


# --- spawn with a name ------------------------------------------------------------------------------------------------


@pytest.mark.contract("S5.1")
@pytest.mark.parametrize(("here", "there"), PLACES, ids=str)
@pytest.mark.parametrize("how", ["spawn", "spawn_link", "spawn_monitor"])
def test_a_process_is_spawned_with_its_name(node: pa.ActorSystem, here: int, there: int, how: str) -> None:
    one = place(here)
    one.do(pa.trap_exit)
    made = one.do(getattr(pa.options(worker=there, name="born"), how), park)
    pid = made[0] if how == "spawn_monitor" else made
    assert pa.whereis("born") == pid
    with pytest.raises(pa.NameTaken, match="born"):
        one.do(getattr(pa.options(worker=there, name="born"), how), park)
    # The refused one has left no trace: no link, no monitor, no message, no process.
    assert pa.process_info(one.pid, "links") == ([pid] if how == "spawn_link" else [])
    assert pa.process_info(one.pid, "monitors").count(pid) == (1 if how == "spawn_monitor" else 0)
    pa.exit(pid, "kill")
    if how != "spawn":
        assert one.do(get).reason == "killed"
    else:
        Puppet(pid).reason()
    assert one.do(mail) == []
    assert pa.whereis("born") is None


@pytest.mark.contract("S5.1", partly=True)
@pytest.mark.parametrize("there", [0, 1])
def test_after_a_refused_spawn_the_next_one_is_born(node: pa.ActorSystem, there: int) -> None:
    # The number of the refused one must not be waited for.
    one = puppet(0)
    owner = puppet(1, name="taken")
    for _ in range(5):
        with pytest.raises(pa.NameTaken):
            one.do(pa.options(worker=there, name="taken").spawn, park)
        pid = one.do(pa.options(worker=there).spawn, park)
        assert pa.is_alive(pid)
        watch = pa.monitor(pid)
        pa.exit(pid, "over")
        assert Puppet.reason_of(watch) == "over"
    assert pa.whereis("taken") == owner.pid


@pytest.mark.contract("S5.1", partly=True)
@pytest.mark.parametrize("there", [0, 1])
def test_the_name_is_free_when_a_spawn_fails(node: pa.ActorSystem, there: int) -> None:
    one = puppet(0)
    with pytest.raises(pa.NotPicklable):
        one.do(spawn_unpicklable, there)
    assert pa.whereis("unborn") is None
    pid, ref = pa.options(worker=there, name="unborn").spawn_monitor(unpickles_never, Broken())
    down = get()
    assert (down.ref, down.pid) == (ref, pid)
    assert isinstance(down.reason, pa.Crash)
    assert pa.whereis("unborn") is None


def spawn_unpicklable(worker: int) -> None:
    pa.options(worker=worker, name="unborn").spawn(park, threading.Lock())  # type: ignore[call-arg]


class Broken:
    def __reduce__(self) -> tuple[Any, ...]:
        return fail, ()


def fail() -> None:
    raise ValueError("can't be unpickled")


def unpickles_never(_: object) -> None:
    raise AssertionError("has been called")


# --- two at once ------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S5.1")
def test_of_two_workers_that_claim_a_name_at_once_one_wins(node: pa.ActorSystem) -> None:
    names = [f"contested {number}" for number in range(300)]
    claimers = [puppet(0), puppet(1)]
    me = pa.self_()
    for actor in claimers:
        actor.tell(claim_all, names, me)
    won: Counter[str] = Counter()
    for _ in claimers:
        pid, mine = pa.receive((pa.Pid, list), timeout=WAIT)
        for name, child in mine:
            assert pa.whereis(name) == child
            assert child.worker == pid.worker
        won.update(name for name, _ in mine)
    assert won == Counter(names)
    assert sorted(pa.registered()) == sorted(names)


def claim_all(names: list[str], asker: pa.Pid) -> None:
    """Spawn a process and try to register it, for each name. Tells which were won."""
    won = []
    for name in names:
        child = pa.spawn(park)
        try:
            pa.register(name, child)
        except pa.NameTaken:
            pa.exit(child, "kill")
        else:
            won.append((name, child))
    pa.send(asker, (pa.self_(), won))


@pytest.mark.contract("S5.1")
def test_of_two_workers_that_spawn_with_a_name_at_once_one_wins(node: pa.ActorSystem) -> None:
    # One name, claimed and freed again and again by both: never do two have it.
    claimers = [puppet(0), puppet(1)]
    for actor in claimers:
        actor.tell(take_turns, "baton", 300, pa.self_())
    got = [pa.receive(("turns", int, int), timeout=2 * WAIT) for _ in claimers]
    assert all(won + lost == 300 for _, won, lost in got)
    assert sum(won for _, won, _ in got) >= 2
    assert pa.registered() == []


def take_turns(name: str, rounds: int, asker: pa.Pid) -> None:
    won = 0
    for _ in range(rounds):
        try:
            pid, ref = pa.options(name=name).spawn_monitor(park)
        except pa.NameTaken:
            pa.sleep(0)
            continue
        # It is ours until we end it: whatever the other one does meanwhile.
        assert pa.whereis(name) == pid
        pa.sleep(0)
        assert pa.whereis(name) == pid
        pa.exit(pid, "kill")
        pa.receive(pa.Down(ref, pa.ANY, pa.ANY))
        won += 1
    pa.send(asker, ("turns", won, rounds - won))


@pytest.mark.contract("S5.1")
def test_two_workers_register_one_process_at_once_under_two_names(node: pa.ActorSystem) -> None:
    for number in range(50):
        target = puppet(number % 2)
        claimers = [puppet(0), puppet(1)]
        for actor, name in zip(claimers, ("left", "right"), strict=True):
            actor.tell(try_register, name, target.pid, pa.self_())
        outcomes = sorted(pa.receive(("outcome", pa.ANY, pa.ANY), timeout=WAIT)[1] for _ in claimers)
        assert outcomes == ["NameTaken", "ok"]
        assert pa.registered() == [pa.process_info(target.pid, "registered_name")]
        pa.unregister(pa.registered()[0])


def try_register(name: str, pid: pa.Pid, asker: pa.Pid) -> None:
    try:
        pa.register(name, pid)
    except pa.ActorError as error:
        pa.send(asker, ("outcome", type(error).__name__, name))
    else:
        pa.send(asker, ("outcome", "ok", name))


@pytest.mark.contract("S5.1", "S4.5", partly=True)
def test_register_while_the_process_dies(node: pa.ActorSystem) -> None:
    # Either it is refused, or the name goes with the process: it never stays with the dead.
    outcomes: Counter[str] = Counter()
    for number in range(100):
        target = puppet(number % 2)
        claimer = puppet(0)
        watch = target.watch()
        claimer.tell(try_register, "mortal", target.pid, pa.self_())
        if number % 3:
            pa.exit(target.pid, "boom")
        outcomes[pa.receive(("outcome", pa.ANY, pa.ANY), timeout=WAIT)[1]] += 1
        pa.exit(target.pid, "boom")
        Puppet.reason_of(watch)
        assert pa.whereis("mortal") is None
    assert outcomes["ok"] >= 1
    assert set(outcomes) <= {"ok", "NoProc"}


@pytest.mark.contract("S5.1", partly=True)
def test_a_thousand_names(node: pa.ActorSystem) -> None:
    made = {
        f"service {number}": pa.options(worker=number % 2, name=f"service {number}").spawn(park)
        for number in range(1000)
    }
    assert sorted(pa.registered()) == sorted(made)
    assert puppet(0).do(look_up, list(made)) == made
    for pid in made.values():
        pa.exit(pid, "kill")
    eventually(lambda: pa.registered() == [], "all names are free")


def look_up(names: list[str]) -> dict[str, pa.Pid | None]:
    return {name: pa.whereis(name) for name in names}


# --- a name as an address ---------------------------------------------------------------------------------------------


@pytest.mark.contract("S2.3", partly=True)
@pytest.mark.parametrize(("here", "there"), PLACES, ids=str)
def test_a_name_is_the_address_of_who_has_it_now(node: pa.ActorSystem, here: int, there: int) -> None:
    one, first = place(here), puppet(there, name="service")
    one.do(pa.send, "service", "to the first")
    pa.unregister("service")
    with pytest.raises(pa.NotRegistered):
        one.do(pa.send, "service", "to nobody")
    second = puppet(1 - there, name="service")
    one.do(pa.send, "service", "to the second")
    assert first.do(get) == "to the first"
    assert second.do(get) == "to the second"
    second.end("boom")
    with pytest.raises(pa.NotRegistered):
        one.do(pa.send, "service", "to nobody")


@pytest.mark.contract("S5.1", partly=True)
def test_the_name_of_a_guest_thread_goes_with_it(node: pa.ActorSystem) -> None:
    seen: list[pa.Pid | None] = []

    def visit() -> None:
        pa.register("visitor", pa.self_())
        seen.append(puppet(1).do(pa.whereis, "visitor"))
        seen.append(pa.self_())

    thread = threading.Thread(target=visit)
    thread.start()
    thread.join()
    assert seen[0] == seen[1]
    assert seen[0] is not None
    assert pa.whereis("visitor") is None
