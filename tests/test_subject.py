"""Subjects and selectors: who gets what, what a call raises, and what is left behind (S7.3)."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from puppets import PLACES, WAIT, mail, place, puppet
from test_receive import anywhere, looks, run


@dataclass(frozen=True)
class Add:
    by: int
    reply_to: pa.Subject[int]


@dataclass(frozen=True)
class Fail:
    how: str
    reply_to: pa.Subject[int]


Request = Add | Fail


def counter(started: pa.Subject[pa.Subject[Request]]) -> None:
    requests, n = pa.Subject[Request](), 0
    started.send(requests)
    while True:
        match requests.receive():
            case Add(by, reply_to):
                n += by
                reply_to.send(n)
            case Fail("normal"):
                return
            case Fail("late", reply_to):
                pa.receive("answer now")
                reply_to.send(-1)
                reply_to.send(-2)
            case Fail("twice", reply_to):
                reply_to.send(1)
                reply_to.send(2)
            case Fail("forward", reply_to):
                pa.spawn(reply_to.send, 7)
            case Fail(how):
                raise ValueError(how)


async def async_counter(started: pa.Subject[pa.Subject[Request]]) -> None:
    requests, n = pa.Subject[Request](), 0
    started.send(requests)
    while True:
        request = await requests.areceive()
        assert isinstance(request, Add)
        n += request.by
        request.reply_to.send(n)


def started_on(worker: int, body: Callable[..., Any] = counter) -> pa.Subject[Request]:
    """The requests of a counter there."""
    started = pa.Subject[pa.Subject[Request]]()
    pa.options(worker=worker).spawn(body, started)
    return started.receive(timeout=WAIT)


def pair() -> tuple[pa.Subject[Any], pa.Subject[Any]]:
    return pa.Subject[Any](), pa.Subject[Any]()


def takes(subject: pa.Subject[Any], default: object = "nothing") -> Any:
    return subject.receive(timeout=0, default=default)


def send_twice(one: pa.Subject[Any], two: pa.Subject[Any]) -> None:
    two.send("b")
    one.send("a")


# --- Subject ----------------------------------------------------------------------------------------------------------


@contract("S7.3", partly=True)
@pytest.mark.parametrize("places", PLACES)
def test_each_subject_has_its_own_messages(node: pa.ActorSystem, places: tuple[int, int]) -> None:
    owner, sender = map(place, places)
    one, two = owner.do(pair)
    assert one != two
    assert owner.pid == one.pid() == one.owner
    sender.do(send_twice, one, two)
    owner.do(pa.receive, ("anything else",), timeout=0, default=None)
    assert "a" == owner.do(one.receive, WAIT)
    assert "b" == owner.do(two.receive, WAIT)
    assert "nothing" == owner.do(takes, one)
    assert [] == owner.do(mail)


def test_only_the_owner_receives(node: pa.ActorSystem) -> None:
    theirs = puppet(0).do(pair)[0]
    theirs.send(1)
    for receive in (theirs.receive, pa.Selector().select(theirs).receive):
        with pytest.raises(pa.ActorError, match="expected the owner of the subject"):
            receive(timeout=0)
    with pytest.raises(pa.ActorError, match="expected the owner"):
        asyncio.run(theirs.areceive(timeout=0))


def test_a_time_out_tells(node: pa.ActorSystem) -> None:
    subject = pa.Subject[int]()
    with pytest.raises(pa.ReceiveTimeout):
        subject.receive(timeout=0)
    assert subject.receive(timeout=0, default=None) is None
    subject.send(0)
    assert 0 == subject.receive(timeout=0, default=None)


def test_a_message_that_cannot_be_pickled_raises_at_the_sender(node: pa.ActorSystem) -> None:
    theirs = puppet(0).do(pair)[0]
    with pytest.raises(pa.NotPicklable):
        theirs.send(threading.Lock())


def test_a_named_subject_is_whoever_has_the_name(node: pa.ActorSystem) -> None:
    named = pa.Subject[int](name="numbers")
    assert named == pa.Subject[int](name="numbers")
    assert named.pid() is None
    with pytest.raises(pa.NotRegistered):
        named.send(0)
    with pytest.raises(pa.NoProc, match="numbers"):
        named.call(partial(Add, 1))  # type: ignore[arg-type]
    for worker in (0, 1):
        owner = puppet(worker)
        pa.register("numbers", owner.pid)
        assert owner.pid == named.pid()
        named.send(worker)
        assert worker == owner.do(named.receive, WAIT)
        pa.unregister("numbers")
    with pytest.raises(TypeError, match="expected name to be a str, got 3"):
        pa.Subject[int](name=3)  # type: ignore[arg-type]


def test_a_dead_owner_is_nobody(node: pa.ActorSystem) -> None:
    owner = puppet(1)
    subject = owner.do(pair)[0]
    assert "normal" == owner.end("normal")
    subject.send(1)


def test_a_message_for_later(node: pa.ActorSystem) -> None:
    subject = pa.Subject[str]()
    subject.send_after(0, "now")
    timer = subject.send_after(1000, "never")
    assert "now" == subject.receive(timeout=WAIT)
    left = pa.cancel_timer(timer)
    assert left is not None
    assert left > 500


def by_subject() -> object:
    subject = pa.Subject[str]()
    pa.options(worker=0).spawn(subject.send, "the answer")
    return subject.receive(timeout=WAIT)


def by_selector() -> object:
    subject = pa.Subject[str]()
    pa.options(worker=1).spawn(subject.send, "the answer")
    return pa.Selector().select(subject).receive(timeout=WAIT)


def by_call() -> object:
    return started_on(1).call(partial(Add, 1), timeout=WAIT)


@contract("S3.2", partly=True)
@anywhere
@pytest.mark.parametrize("wait", [by_subject, by_selector, by_call])
def test_old_mail_is_not_looked_at(node: pa.ActorSystem, here: int, wait: Callable[[], object]) -> None:
    assert run(here, looks, wait) == (0, 1 if wait is by_call else "the answer")


# --- call -------------------------------------------------------------------------------------------------------------


@contract("S7.3", partly=True)
@pytest.mark.parametrize("body", [counter, async_counter])
@pytest.mark.parametrize("worker", [0, 1])
def test_a_call_is_answered(node: pa.ActorSystem, worker: int, body: Callable[..., Any]) -> None:
    requests = started_on(worker, body)
    assert [1, 3] == [requests.call(partial(Add, by), timeout=WAIT) for by in (1, 2)]
    assert 6 == puppet(0).do(requests.call, partial(Add, 3), WAIT)
    assert 10 == asyncio.run(requests.acall(partial(Add, 4), timeout=WAIT))
    answer = pa.Subject[int]()
    pa.spawn(call_in_async, requests, answer)
    assert 15 == answer.receive(timeout=WAIT)


async def call_in_async(requests: pa.Subject[Request], answer: pa.Subject[int]) -> None:
    answer.send(await requests.acall(partial(Add, 5), timeout=WAIT))


@pytest.mark.parametrize(
    ("how", "error"),
    [("boom", pa.RemoteError), ("normal", pa.RemoteError)],
)
def test_a_call_whose_owner_ends_fails(node: pa.ActorSystem, how: str, error: type[Exception]) -> None:
    requests = started_on(1)
    with pytest.raises(error) as caught:
        requests.call(partial(Fail, how), timeout=WAIT)
    assert how in str(caught.value)
    if how == "boom":
        assert "ValueError" in str(caught.value.remote_traceback)  # type: ignore[attr-defined]
    with pytest.raises(pa.NoProc, match="no such process"):
        requests.call(partial(Add, 1), timeout=WAIT)


def test_a_call_to_oneself_is_refused(node: pa.ActorSystem) -> None:
    with pytest.raises(pa.CallingSelf):
        pa.Subject[Request]().call(partial(Add, 1))


def test_late_and_second_answers_are_dropped(node: pa.ActorSystem) -> None:
    requests = started_on(1)
    with pytest.raises(pa.CallTimeout, match="timed out after 0 s"):
        requests.call(partial(Fail, "late"), timeout=0)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(requests.acall(partial(Add, 1), timeout=None), timeout=0.01))
    pa.send(owner_of(requests), "answer now")
    assert 1 == requests.call(partial(Fail, "twice"), timeout=WAIT)
    neighbour = puppet(1)  # has both answers before its turn comes
    assert 1 == neighbour.do(requests.call, partial(Fail, "twice"), WAIT)
    assert [] == neighbour.do(mail)
    assert 7 == requests.call(partial(Fail, "forward"), timeout=WAIT)
    assert 3 == requests.call(partial(Add, 2), timeout=WAIT)
    assert pa.receive(timeout=0, default=None) is None
    assert [] == pa.process_info(pa.self_(), "monitors")


def owner_of(subject: pa.Subject[Any]) -> pa.Pid:
    pid = subject.pid()
    assert pid is not None
    return pid


def test_a_request_that_cannot_be_made_leaves_nothing(node: pa.ActorSystem) -> None:
    requests = started_on(1)
    with pytest.raises(ZeroDivisionError):
        requests.call(lambda _: 1 // 0)  # type: ignore[arg-type, return-value]
    assert [] == pa.process_info(pa.self_(), "monitors")


def test_a_call_whose_worker_is_killed_fails(actor_system: pa.ActorSystem) -> None:
    requests = started_on(1)
    victim = puppet(1).do(os.getpid)
    pa.options(worker=0).spawn(kill_when_busy, owner_of(requests), victim)
    with pytest.raises(pa.NodeDown):
        requests.call(partial(Fail, "late"), timeout=WAIT)
    with pytest.raises(pa.NoProc):
        requests.call(partial(Add, 1), timeout=WAIT)


def kill_when_busy(pid: pa.Pid, victim: int) -> None:
    """Kill the worker when the process waits for the word to answer: its request is in its hands then."""
    while not pa.process_info(pid, "monitored_by"):
        pa.sleep(0)
    os.kill(victim, signal.SIGKILL)


# --- Selector ---------------------------------------------------------------------------------------------------------


@contract("S7.3", partly=True)
def test_a_selector_takes_what_comes_first(node: pa.ActorSystem) -> None:
    words, numbers = pa.Subject[str](), pa.Subject[int]()
    named = pa.Subject[str](name="mine")
    pa.register("mine", pa.self_())
    selector = pa.Selector().select(words).select_map(numbers, lambda n: n + 1).select(named)
    numbers.send(1)
    pa.send(pa.self_(), "other")
    words.send("a")
    named.send("b")
    assert [2, "a", "b"] == [selector.receive(timeout=WAIT) for _ in range(3)]
    assert "nothing" == selector.receive(timeout=0, default="nothing")
    with pytest.raises(pa.ReceiveTimeout):
        selector.receive(timeout=0)
    assert "other" == pa.receive(timeout=0)
    pa.unregister("mine")


def test_other_messages_can_be_selected(node: pa.ActorSystem) -> None:
    words = pa.Subject[str]()
    pa.trap_exit(True)
    pid = pa.spawn_link(words.send, "a")
    other, ref = pa.spawn_monitor(words.send, "b")
    selector = (
        pa.Selector()
        .select(words)
        .select_record(pa.Exit, lambda exit: ("exit", exit.pid))
        .select_record(pa.Down(ref, pa.ANY, pa.ANY))
        .select_other(lambda message: ("other", message))
    )
    found = [selector.receive(timeout=WAIT) for _ in range(4)]
    assert {"a", "b", ("exit", pid), pa.Down(ref, other, "normal")} == set(found)
    pa.send(pa.self_(), ["else"])
    assert ("other", ["else"]) == selector.receive(timeout=0)
    assert "c" == pa.Selector().select_record(str).select_record("c").receive(timeout=0, default="c")


def test_selectors_are_values(node: pa.ActorSystem) -> None:
    """Merging, mapping and leaving out make new ones; of two functions for one subject the later counts."""
    one, two = pa.Subject[int](), pa.Subject[int]()
    first = pa.Selector().select(one)
    second = pa.Selector().select_map(one, lambda n: n * 10).select(two)
    merged = first.merge(second)
    assert 30 == heard(merged, one, 3)
    assert 3 == heard(second.merge(first), one, 3)
    assert 4 == heard(merged, two, 4)
    assert "40" == heard(merged.map(str), one, 4)
    assert "4" == heard(merged.map(str), two, 4)
    assert heard(merged.deselect(one), one, 5) is None
    assert heard(first, two, 5) is None
    assert "6" == heard(first.select_other(lambda message: message[1]).map(str), two, 6)


def heard(selector: pa.Selector[Any], subject: pa.Subject[int], message: int) -> Any:
    subject.send(message)
    found = selector.receive(timeout=0, default=None)
    subject.receive(timeout=0, default=None)
    return found


def test_what_a_function_of_a_selector_raises_is_raised(node: pa.ActorSystem) -> None:
    subject = pa.Subject[int]()
    subject.send(0)
    with pytest.raises(ZeroDivisionError):
        pa.Selector().select_map(subject, lambda n: 1 // n).receive(timeout=0)
    assert pa.receive(timeout=0, default=None) is None  # it was taken


def test_bad_selectors_are_refused(node: pa.ActorSystem) -> None:
    mine, theirs = pa.Subject[int](), puppet(0).do(pair)[0]
    with pytest.raises(LookupError, match="selects nothing"):
        pa.Selector().receive(timeout=0)
    with pytest.raises(pa.ActorError, match="to have one owner"):
        pa.Selector().select(mine).select(theirs)
    with pytest.raises(pa.ActorError, match="to have one owner"):
        pa.Selector().select(mine).merge(pa.Selector().select(theirs))
    with pytest.raises(TypeError, match="expected a Subject to receive from, got 3"):
        pa.Selector().select(3)  # type: ignore[arg-type]
    answers = iter([True, False])
    pa.send(pa.self_(), 1)
    with pytest.raises(RuntimeError, match="expected a predicate to say the same"):
        pa.Selector().select_record(lambda message: next(answers)).receive(timeout=0)


def test_async_processes_select(node: pa.ActorSystem) -> None:
    answers = pa.Subject[str]()
    pa.options(worker=1).spawn(select_in_async, answers)
    assert ["2", "a", "none"] == [answers.receive(timeout=WAIT) for _ in range(3)]


async def select_in_async(answers: pa.Subject[str]) -> None:
    words, numbers = pa.Subject[str](), pa.Subject[int]()
    selector = pa.Selector().select(words).select_map(numbers, str)
    pa.spawn(send_twice, words, numbers)
    numbers.send(2)
    answers.send(await selector.areceive(timeout=WAIT))
    await numbers.areceive(timeout=WAIT)
    answers.send(await selector.areceive(timeout=WAIT))
    answers.send(await selector.areceive(timeout=0, default="none"))
