"""Behaviours: functions that are actors, what they become, and what is done to them from outside (S7.3)."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from puppets import WAIT, puppet


def add(a: int, b: int) -> int:
    return a + b


def times(a: int, b: int) -> int:
    return a * b


def count(n: int, by: int) -> int:
    """Goes on with what it has counted."""
    pa.become(count, n + by)
    return n + by


async def slowly(n: int, by: int) -> int:
    await pa.asleep(0)
    pa.become(slowly, n + by)
    return n + by


def close(_: int) -> int:
    raise ValueError("closed")


@dataclass
class Stack:
    """State in an object that is called."""

    items: list[int] = field(default_factory=list)

    def __call__(self, item: int) -> list[int]:
        self.items.append(item)
        return self.items


def on(worker: int, function: Any, *args: Any) -> pa.BehaviourRef[..., Any]:
    return pa.BehaviourRef(pa.options(worker=worker).start(pa.Behaviour, function, *args), timeout=WAIT)


@contract("S7.3", partly=True)
@pytest.mark.parametrize("worker", [0, 1])
def test_a_message_is_a_call_of_the_function(node: pa.ActorSystem, worker: int) -> None:
    adder = on(worker, add, 10)
    assert 11 == adder.call(1)
    assert 12 == adder.call(b=2)
    assert 13 == adder.request(3).wait(WAIT)
    assert 14 == asyncio.run(adder.acall(4))
    adder.cast(5)
    assert 15 == adder.query("result")
    assert [[1], [1, 2]] == [on_stack.call(n) for on_stack in [on(worker, Stack())] for n in (1, 2)]


@contract("S7.3", partly=True)
@pytest.mark.parametrize("function", [count, slowly])
def test_become_from_within_is_for_the_next_message(node: pa.ActorSystem, function: Any) -> None:
    counter = on(1, function, 0)
    counter.cast(1)
    assert [3, 6] == [counter.call(n) for n in (2, 3)]
    assert (6,) == counter.query()


@contract("S7.3", partly=True)
def test_become_from_outside_is_for_later_messages(node: pa.ActorSystem) -> None:
    adder = on(1, add, 10)
    requests = [adder.request(2)]
    adder.become(times, 10)
    requests.append(adder.request(2))
    assert [12, 20] == [request.wait(WAIT) for request in requests]
    assert times is adder.query("function")


def test_become_elsewhere_is_an_error(node: pa.ActorSystem) -> None:
    adder = on(1, add, 10)
    with pytest.raises(pa.ActorError, match="expected become\\(\\) to be called by the function of a Behaviour"):
        pa.become(add, 1)
    with pytest.raises(pa.RemoteError, match="expected become"):
        adder.exec(pa.become, add, 1)


@contract("S7.3", partly=True)
def test_exec_runs_any_function_there(node: pa.ActorSystem) -> None:
    adder = on(1, add, 10)
    assert adder.address == adder.exec(pa.self_) == adder.__pid__
    assert 3 == adder.exec(add, 1, b=2)
    assert 4 == adder.exec(slow_add, 1, b=3)
    assert adder.query("result") is None
    assert 11 == adder.call(1)


async def slow_add(a: int, b: int) -> int:
    await pa.asleep(0)
    return a + b


@contract("S7.3", partly=True)
def test_query_and_update(node: pa.ActorSystem) -> None:
    adder = on(1, keyed, 1)
    assert ((1,), {}, None) == (adder.query(), adder.query("kwargs"), adder.query("result"))
    adder.update(2, u=10)
    adder.update(3, v=100)
    assert ((3,), {"u": 10, "v": 100}) == (adder.query(), adder.query("kwargs"))
    assert 117 == adder.call(4)
    assert 8 == adder.call(4, u=0, v=1)
    adder.update()
    assert 1110 == adder.call(0, 1000)
    with pytest.raises(ValueError, match="expected one of function, args, kwargs, result, got 'state'"):
        adder.query("state")  # type: ignore[call-overload]


def keyed(a: int, b: int, u: int = 0, v: int = 0) -> int:
    return a + b + u + v


def hold_a_lock(_: object) -> None:
    pa.become(hold_a_lock, threading.Lock())


def test_a_query_for_what_cannot_travel_harms_nobody(node: pa.ActorSystem) -> None:
    holder = on(1, hold_a_lock)
    holder.call(0)
    with pytest.raises(pa.NotPicklable):
        holder.query()
    assert holder.query("result") is None


def test_what_a_function_raises_ends_the_actor(node: pa.ActorSystem) -> None:
    pid = pa.spawn(pa.receive)
    closed = pa.Behaviour.start(close)
    ref = pa.monitor(closed)
    with pytest.raises(pa.RemoteError, match="ValueError: closed") as caught:
        closed.options(timeout=WAIT).call(1)
    assert isinstance(caught.value.__cause__, ValueError)
    assert "ValueError" == pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason.type
    with pytest.raises(pa.NoProc):
        closed.query()
    closed.cast(1)
    closed.become(close)
    assert pa.is_alive(pid)


def test_a_time_out_is_the_references(node: pa.ActorSystem) -> None:
    sleeper = on(1, pa.sleep)
    with pytest.raises(pa.CallTimeout):
        sleeper.options(timeout=0).call(None)


def test_bad_input_is_refused_at_the_call(node: pa.ActorSystem) -> None:
    adder = on(1, add, 10)
    uses: list[Any] = [pa.Behaviour.start, pa.Behaviour.start_link, adder.become, adder.exec]
    for use in uses:
        with pytest.raises(TypeError, match="expected a function to be called with each message, got 3"):
            use(3)
    with pytest.raises(pa.StartError, match="expected a function"):
        pa.start(pa.Behaviour, 3)
    with pytest.raises(pa.NotPicklable):
        adder.become(add, threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(pa.NotRegistered, match="nobody"):
        pa.link(pa.BehaviourRef("nobody"))
    assert 11 == adder.call(1)


def test_a_supervised_one_begins_again_with_its_function(node: pa.ActorSystem) -> None:
    pa.Supervisor.start_link([pa.child(pa.Behaviour, count, 40, name="counter")])
    counter: pa.BehaviourRef[[int], int] = pa.BehaviourRef("counter", WAIT)
    assert 42 == counter.call(2)
    first = counter.__pid__
    counter.become(close)
    counter.cast(0)
    eventually(lambda: pa.whereis("counter") not in (None, first), "it is started again")
    assert 41 == counter.call(1)


def test_it_moves_with_what_it_has_become(node: pa.ActorSystem) -> None:
    counter = on(0, count, 0)
    counter.call(5)
    pa.migrate(counter, 1, timeout=WAIT)
    assert 7 == counter.call(2)
    assert 1 == counter.exec(pa.worker_index)


def test_references_are_values(node: pa.ActorSystem) -> None:
    adder = on(1, add, 10)
    assert adder == pa.BehaviourRef(adder.address, WAIT)
    assert {adder} == {puppet(0).do(same, adder)}
    assert 11 == puppet(0).do(adder.call, 1)
    with pytest.raises(pa.RemoteError, match="CallingSelf"):
        adder.exec(adder.call, 1)


def same(value: Any) -> Any:
    return value
