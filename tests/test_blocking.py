"""`run_blocking`: calls that block go to threads of the worker, and nobody waits for them but the caller (S1.8)."""

from __future__ import annotations

import contextvars
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from parallel_actors.workers.scheduler import Loop
from puppets import WAIT, Puppet, echo, puppet

contract = pytest.mark.contract

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="none")
TRACE: list[str] = []


def trace() -> list[str]:
    return list(TRACE)


def forget() -> None:
    TRACE.clear()


def answers(count: int) -> None:
    pid = pa.options(worker=1).spawn(echo)
    for number in range(count):
        pa.send(pid, (pa.self_(), ("answer", number)))
        assert pa.receive(("answer", pa.ANY), timeout=WAIT)[1] == number
    pa.exit(pid, "kill")


class Gate:
    """A call that blocks, in a way that no tick interrupts for good, until the test lets it go."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "gate")
        os.mkfifo(self.path)

    def wait(self) -> str:
        with open(self.path, "rb") as file:
            return file.read().decode()

    def open(self) -> None:
        with open(self.path, "wb") as file:
            file.write(b"opened")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def blocks(asker: pa.Pid, gate: Gate) -> None:
    pa.send(asker, "begun")
    pa.send(asker, ("ended", pa.run_blocking(gate.wait)))


async def ablocks(asker: pa.Pid, gate: Gate) -> None:
    await pa.asleep(0)
    blocks(asker, gate)


def loop_blocks(asker: pa.Pid, gate: Gate) -> Loop:
    pa.send(pa.self_(), "go")

    def handle(_: object) -> bool:
        blocks(asker, gate)
        return True

    return Loop(handle)


@contract("S1.8", partly=True)
@pytest.mark.parametrize("body", [blocks, ablocks, loop_blocks])
def test_others_go_on_while_a_call_blocks(node: pa.ActorSystem, gate: Gate, body: Any) -> None:
    pid, ref = pa.options(worker=1).spawn_monitor(body, pa.self_(), gate)
    assert pa.receive("begun", timeout=WAIT) == "begun"
    answers(100)
    eventually(lambda: pa.process_info(pid, "status") == "waiting", "it waits")
    pa.send(pid, "mail meanwhile")
    gate.open()
    assert pa.receive(("ended", str), timeout=WAIT) == ("ended", "opened")
    assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "normal"


def digest(data: bytes, *, rounds: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", data, b"salt", rounds)


@contract("S1.8", partly=True)
def test_many_calls_at_once_give_each_caller_its_own_result(node: pa.ActorSystem) -> None:
    def caller(asker: pa.Pid, number: int) -> None:
        for n in range(3):
            data = f"{number} {n}".encode()
            assert pa.run_blocking(digest, data, rounds=2000) == digest(data, rounds=2000)
        pa.send(asker, ("right", number))

    for number in range(80):
        pa.options(worker=1).spawn(caller, pa.self_(), number)
    answers(50)
    assert sorted(pa.receive(("right", int), timeout=2 * WAIT)[1] for _ in range(80)) == list(range(80))


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [KeyError("key"), SystemExit(3), KeyboardInterrupt(), StopIteration(4)], ids=repr)
def test_what_the_call_raises_is_raised_in_the_caller(node: pa.ActorSystem, error: BaseException) -> None:
    def caller() -> str:
        with pytest.raises(BaseException) as caught:
            pa.run_blocking(fail, error)
        return repr(caught.value)

    assert puppet(1).do(caller) == repr(error)
    answers(10)


def test_the_call_has_the_callers_context_and_a_thread_of_its_own(node: pa.ActorSystem) -> None:
    def look() -> tuple[str, bool]:
        before = VARIABLE.get()
        VARIABLE.set("changed in the thread")
        return before, threading.current_thread() is threading.main_thread()

    def caller() -> tuple[Any, ...]:
        VARIABLE.set("the caller's")
        return (*pa.run_blocking(look), VARIABLE.get())

    assert puppet(1).do(caller) == ("the caller's", False, "the caller's")


def test_arguments_and_results_are_not_copied(node: pa.ActorSystem) -> None:
    def same(value: list[int], *, also: list[int]) -> list[int]:
        value.append(1)
        return also

    def caller() -> bool:
        mine: list[int] = []
        return pa.run_blocking(same, mine, also=mine) is mine and mine == [1]

    assert puppet(1).do(caller)


@contract("S1.8", "S1.9", partly=True)
@pytest.mark.parametrize("reason", ["kill", "no more"])
def test_a_caller_can_be_ended_while_the_call_goes_on(node: pa.ActorSystem, gate: Gate, reason: str) -> None:
    pid, ref = pa.options(worker=1).spawn_monitor(blocks, pa.self_(), gate)
    assert pa.receive("begun", timeout=WAIT) == "begun"
    answers(10)
    pa.exit(pid, reason)
    seen = pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason
    assert seen == ("killed" if reason == "kill" else reason)
    # What comes of the call is nobody's.
    gate.open()
    answers(50)
    assert pa.receive(("ended", str), timeout=0, default=None) is None


def test_a_stop_does_not_wait_for_a_call(no_leaks: None, gate: Gate) -> None:
    with pa.ActorSystem(workers=2, stop_timeout=600):
        pa.options(worker=1).spawn(blocks, pa.self_(), gate)
        assert pa.receive("begun", timeout=WAIT) == "begun"


def test_a_guest_calls_it_itself(node: pa.ActorSystem) -> None:
    assert pa.run_blocking(threading.get_ident) == threading.get_ident()


@pytest.mark.parametrize("wrong", [None, 3, "sleep"])
def test_what_is_no_function_is_refused(node: pa.ActorSystem, wrong: Any) -> None:
    def caller() -> str:
        with pytest.raises(TypeError, match="expected a function to call in a thread, got ") as caught:
            pa.run_blocking(wrong)
        return str(caught.value)

    assert repr(wrong) in puppet(1).do(caller)


@contract("S1.8", "S1.13", partly=True)
def test_the_thread_is_a_process_of_its_own(actor_system: pa.ActorSystem) -> None:
    def caller() -> tuple[pa.Pid, pa.Pid]:
        return pa.self_(), pa.run_blocking(pa.self_)

    mine, thread = puppet(1).do(caller)
    assert mine != thread


def test_a_call_beside_hogs(node: pa.ActorSystem) -> None:
    def hog() -> None:
        while True:
            pass

    def caller(asker: pa.Pid) -> None:
        for number in range(20):
            assert pa.run_blocking(int, str(number)) == number
        pa.send(asker, "right")

    for _ in range(3):
        pa.options(worker=1).spawn(hog)
    for _ in range(5):
        pa.options(worker=1).spawn(caller, pa.self_())
    assert [pa.receive("right", timeout=2 * WAIT) for _ in range(5)] == ["right"] * 5


def test_a_call_in_no_preempt_and_in_cleaning_up(node: pa.ActorSystem) -> None:
    def shielded() -> int:
        with pa.no_preempt():
            return pa.run_blocking(int, "7")

    def cleans() -> None:
        try:
            pa.receive()
        finally:
            try:
                pa.run_blocking(TRACE.append, "called")
            except pa.ProcessKilled:
                TRACE.append("killed")

    looker: Puppet = puppet(1)
    looker.do(forget)
    assert looker.do(shielded) == 7
    pid = pa.options(worker=1).spawn(cleans)
    answers(2)
    pa.exit(pid, "kill")
    eventually(lambda: looker.do(trace) == ["killed"], "library calls raise at once")
