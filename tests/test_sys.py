"""`sys_`: looking into a server, stopping it for a while, following it."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from puppets import WAIT, Witness, puppet


class Stack(pa.GenServer):
    def init(self, *items: int) -> Any:
        return list(items)

    def handle_call(self, request: Any, from_: Any, state: list[int]) -> Any:
        return pa.Reply(list(state))

    def handle_cast(self, request: Any, state: list[int]) -> Any:
        return pa.NoReply([request, *state])

    def handle_info(self, message: Any, state: list[Any]) -> Any:
        return pa.NoReply([threading.Lock()] if message == "lock" else [message, *state])

    def format_status(self, status: dict[str, Any]) -> dict[str, Any]:
        return {**status, "state": f"{len(status['state'])} items"}


@pytest.fixture(params=[0, 1])
def stack(node: pa.ActorSystem, request: pytest.FixtureRequest) -> pa.Pid:
    pid = pa.options(worker=request.param, name="stack").start(Stack, 1, 2)
    assert pid is not None
    return pid


@contract("S6.1", partly=True)
def test_the_state_is_read_and_replaced(stack: pa.Pid) -> None:
    assert pa.sys_.get_state(stack) == [1, 2]
    assert pa.sys_.replace_state("stack", lambda state: [0, *state]) == [0, 1, 2]
    assert pa.call(stack, "all") == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        pa.sys_.replace_state(stack, lambda state: 1 / 0)
    assert pa.sys_.get_state(stack) == [0, 1, 2]


@contract("S6.1", "S10.2", partly=True)
def test_a_state_that_cannot_travel_harms_nobody(stack: pa.Pid) -> None:
    with pytest.raises(pa.NotPicklable):
        pa.sys_.replace_state(stack, lambda state: [threading.Lock()])
    assert pa.sys_.get_state(stack) == [1, 2]  # it is as it was
    pa.send(stack, "lock")
    with pytest.raises(pa.NotPicklable):
        pa.sys_.get_state(stack)
    assert pa.sys_.get_status(stack)["state"] == "1 items"


@contract("S6.1", "S10.2", partly=True)
def test_a_change_that_fails_leaves_the_server_as_it_was(stack: pa.Pid) -> None:
    """Found: it ended the server, where the exception couldn't travel or wasn't an Exception."""

    def raises(state: Any) -> Any:
        error = ValueError("can't travel")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    def leaves(state: Any) -> Any:
        raise SystemExit(3)

    with pytest.raises(Exception, match="can't travel"):
        pa.sys_.replace_state(stack, raises)
    with pytest.raises(pa.ActorError, match="the server goes on as it was"):
        pa.sys_.replace_state(stack, leaves)
    assert pa.sys_.get_state(stack) == [1, 2]


@contract("S6.8", partly=True)
def test_the_status_is_shown_as_the_server_wants(stack: pa.Pid) -> None:
    assert pa.sys_.get_status(stack) == {
        "pid": stack,
        "name": "stack",
        "class": "Stack",
        "parent": pa.self_(),
        "status": "running",
        "state": "2 items",
    }


def test_a_suspended_server_leaves_its_messages_alone(stack: pa.Pid) -> None:
    pa.sys_.suspend(stack)
    pa.sys_.suspend(stack)
    assert pa.sys_.get_status(stack)["status"] == "suspended"
    pa.cast(stack, 3)
    pa.send(stack, 4)
    with pytest.raises(pa.CallTimeout):
        pa.call(stack, "all", timeout=0.05)
    assert pa.sys_.get_state(stack) == [1, 2]
    assert pa.sys_.replace_state(stack, lambda state: [9]) == [9]
    pa.sys_.resume(stack)
    assert pa.call(stack, "all", timeout=WAIT) == [4, 3, 9]
    pa.sys_.resume(stack)


class Careful(Stack):
    def terminate(self, reason: Any, state: Any) -> None:
        pa.send(state[0], ("terminated", reason))


class Plain(pa.Actor):
    pass


@contract("S6.1", "S6.6", partly=True)
def test_the_new_code_may_have_a_terminate(stack: pa.Pid) -> None:
    pa.sys_.suspend(stack)
    for wrong in (Plain, int, 5):
        with pytest.raises(TypeError, match="expected a class or a module with init"):
            pa.sys_.change_code(stack, wrong)
    pa.sys_.change_code(stack, Careful)
    pa.sys_.replace_state(stack, partial(lambda me, state: [me], pa.self_()))
    pa.sys_.resume(stack)
    pa.exit(stack, "shutdown")
    assert pa.receive(("terminated", "shutdown"), timeout=WAIT)


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError("no words")


def test_a_trace_of_what_has_no_words(stack: pa.Pid) -> None:
    """Found: the trace ended the server."""
    pa.sys_.trace(stack, True)
    pa.cast(stack, Unspeakable())
    assert len(pa.call(stack, "all")) == 3


class Second(Stack):
    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return pa.Reply(("second", state))

    def code_change(self, version: Any, state: Any, extra: Any) -> Any:
        if extra == "fail":
            raise ValueError("can't")
        return (version, *state, extra)


@contract("S6.1")
def test_the_code_of_a_suspended_server_is_changed(stack: pa.Pid) -> None:
    with pytest.raises(pa.ActorError, match="expected a suspended server"):
        pa.sys_.change_code(stack, Second)
    pa.sys_.suspend(stack)
    with pytest.raises(ValueError, match="can't"):
        pa.sys_.change_code(stack, Second, 1, "fail")
    assert pa.sys_.get_status(stack)["class"] == "Stack"
    pa.sys_.change_code(stack, version=0)  # the same class: as it is
    assert pa.sys_.get_state(stack) == [1, 2]
    pa.sys_.change_code(stack, Second, 1, "more")
    pa.sys_.resume(stack)
    assert pa.call(stack, "all") == ("second", (1, 1, 2, "more"))
    assert pa.sys_.get_status(stack)["class"] == "Second"


def test_a_suspended_server_ends_with_its_parent(node: pa.ActorSystem) -> None:
    pa.trap_exit(True)
    supervisor = pa.Supervisor.start_link([pa.child(Stack, id="trapping"), pa.child(Stack, id="other")])
    children = [info.pid for info in pa.Supervisor.which_children(supervisor)]
    for pid in children:
        assert pid is not None
        pa.sys_.suspend(pid)
    pa.stop(supervisor, "shutdown", timeout=WAIT)
    assert not any(pa.is_alive(pid) for pid in children if pid)
    pa.trap_exit(False)


def test_a_suspended_server_is_stopped(stack: pa.Pid) -> None:
    pa.sys_.suspend(stack)
    pa.stop(stack, timeout=WAIT)
    assert not pa.is_alive(stack)


def test_terminate_ends_a_suspended_server_too(stack: pa.Pid) -> None:
    pa.sys_.suspend(stack)
    pa.sys_.terminate(stack, timeout=WAIT)
    assert not pa.is_alive(stack)


def test_messages_are_counted_while_somebody_asks(stack: pa.Pid) -> None:
    assert pa.sys_.statistics(stack) is None
    pa.sys_.statistics(stack, True)
    for _ in range(3):
        pa.cast(stack, 0)
    pa.call(stack, "all")
    counted = pa.sys_.statistics(stack)
    assert counted is not None
    # The question is a message too.
    assert (counted["messages_in"], counted["messages_out"]) == (5, 1)
    assert counted["start_time"] <= counted["current_time"]
    pa.sys_.statistics(stack, False)
    assert pa.sys_.statistics(stack) is None


def listen(to: pa.Pid) -> None:
    logger = logging.getLogger("parallel_actors.sys")
    logger.setLevel(logging.INFO)
    logger.addHandler(Witness(to))


def unlisten() -> None:
    logging.getLogger("parallel_actors.sys").handlers.clear()


def test_a_trace_tells_what_comes_in_and_goes_out(stack: pa.Pid) -> None:
    other = puppet(stack.worker)
    other.do(listen, pa.self_())
    try:
        pa.sys_.trace(stack, True)
        pa.cast(stack, 7)
        assert pa.call(stack, "all") == [7, 1, 2]
        pa.sys_.trace(stack, False)
        pa.cast(stack, 8)
        words = [pa.receive(("logged", str, str), timeout=WAIT)[2] for _ in range(3)]
        assert [word.split(" ", 1)[1].split(" ")[0] for word in words] == ["got", "got", "answered"]
        assert "7" in words[0]
        eventually(lambda: pa.sys_.get_state(stack) == [8, 7, 1, 2], "the last cast has come")
    finally:
        other.do(unlisten)


def test_bad_questions(node: pa.ActorSystem) -> None:
    with pytest.raises(pa.NoProc):
        pa.sys_.get_state("nobody")
    with pytest.raises(pa.CallTimeout):
        pa.sys_.get_state(puppet(0).pid, timeout=0.01)  # a raw process doesn't know it
