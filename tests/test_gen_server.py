"""GenServer: callbacks and what they return, starts, calls, ends, reports (S6.1-S6.8).

Most servers here are dolls: a request is a function, called as the callback that gets it.

    pid = doll(0, state=1)
    assert pa.call(pid, lambda from_, state: pa.Reply(state, state + 1)) == 1
"""

from __future__ import annotations

import asyncio
import decimal
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from puppets import GUEST, PLACES, WAIT, Puppet, get, mail, park, place, puppet

contract = pytest.mark.contract
everywhere = pytest.mark.parametrize(("here", "there"), PLACES, ids=str)
workers = pytest.mark.parametrize("worker", [0, 1])


class Doll(pa.GenServer):
    """Does what each message says: a request, or an info, is a function."""

    def init(self, state: Any = None, **_: Any) -> Any:
        return state() if callable(state) else state

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return request(from_, state)

    def handle_cast(self, request: Any, state: Any) -> Any:
        return request(state)

    def handle_info(self, message: Any, state: Any) -> Any:
        if callable(message):
            return message(state)
        if isinstance(state, list):
            return pa.NoReply([*state, message])
        return pa.NoReply()

    def handle_continue(self, term: Any, state: Any) -> Any:
        return term(state)


class AsyncDoll(pa.GenServer):
    """The same in `async def`; each waits a little."""

    async def init(self, state: Any = None, **_: Any) -> Any:
        await pa.asleep(0)
        return state() if callable(state) else state

    async def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        await pa.asleep(0.0001)
        return request(from_, state)

    async def handle_cast(self, request: Any, state: Any) -> Any:
        await pa.asleep(0)
        return request(state)

    async def handle_info(self, message: Any, state: Any) -> Any:
        await pa.asleep(0)
        return Doll.handle_info(self, message, state)  # type: ignore[arg-type]

    async def handle_continue(self, term: Any, state: Any) -> Any:
        await pa.asleep(0)
        return term(state)


def init(state: Any = None, **_: Any) -> Any:
    """This module is a server, too."""
    return state() if callable(state) else state


def handle_call(request: Any, from_: Any, state: Any) -> Any:
    return request(from_, state)


def handle_cast(request: Any, state: Any) -> Any:
    return request(state)


def handle_info(message: Any, state: Any) -> Any:
    return Doll.handle_info(None, message, state)  # type: ignore[arg-type]


def handle_continue(term: Any, state: Any) -> Any:
    return term(state)


class Careful(Doll):
    """Has terminate(), which tells `state["to"]` of it, or does what `state["last"]` says."""

    def terminate(self, reason: Any, state: Any) -> None:
        pa.send(state["to"], ("terminate", reason))
        if "last" in state:
            state["last"]()


class AsyncCareful(AsyncDoll):
    async def terminate(self, reason: Any, state: Any) -> None:
        await pa.asleep(0)
        pa.send(state["to"], ("terminate", reason))
        if "last" in state:
            state["last"]()


MODULE = sys.modules[__name__]
kinds = pytest.mark.parametrize("kind", [Doll, AsyncDoll, MODULE], ids=["class", "async", "module"])


def doll(worker: int, state: object = None, kind: Any = Doll, **choices: Any) -> pa.Pid:
    """A server that is up."""
    pid: pa.Pid | None = pa.options(worker=worker, **choices).start(kind, state)
    assert pid is not None
    return pid


def state_of(_: object, state: object) -> Any:
    """A request: the state."""
    return pa.Reply(state)


def never(*_: object) -> None:
    """A request, or an init: waits for ever."""
    park()


def spin(*_: object) -> None:
    """A request: computes for ever."""
    while True:
        pass


def fail(*_: object) -> None:
    raise ValueError("broken")


def hold(pid: pa.Pid, then: Callable[[Any], Any] = lambda _: pa.NoReply()) -> None:
    """Have the server wait in a callback for "go on", and wait until it does."""
    me = pa.self_()

    def holding(state: Any) -> Any:
        pa.send(me, "holding")
        pa.receive("go on")
        return then(state)

    pa.cast(pid, holding)
    assert pa.receive("holding", timeout=WAIT)


def occupy(pid: pa.Pid, then: Callable[[], object] = park) -> None:
    """Have the server do something without end, and wait until it has begun."""
    me = pa.self_()

    def begin(_: Any) -> None:
        pa.send(me, "begun")
        then()

    pa.cast(pid, begin)
    assert pa.receive("begun", timeout=WAIT)


def end(reason: object) -> Callable[..., Any]:
    """A request: end by an exception."""

    def request(*_: object) -> None:
        raise pa.ProcessExit(reason)

    return request


@dataclass(frozen=True)
class Failure:
    """An ActorError, from the process that it was raised in."""

    kind: type[BaseException]
    text: str
    reason: Any
    target: Any
    request: Any
    elapsed: float | None
    remote_traceback: str | None
    cause: str


def failure(function: Callable[..., object], *args: Any, **kwargs: Any) -> Failure:
    """What `function(...)` raises."""
    try:
        found = function(*args, **kwargs)
    except pa.ActorError as e:
        return Failure(
            type(e), str(e), e.reason, e.target, repr(e.request), e.elapsed, e.remote_traceback, repr(e.__cause__)
        )
    raise AssertionError(f"expected an error, got {found!r}")


def starting(target: Any, *args: Any, how: str = "start", timeout: float | None = None, **choices: Any) -> Any:
    return getattr(pa.options(**choices), how)(target, *args, timeout=timeout)


def reports(worker: int, *loggers: str) -> list[str]:
    """What was logged on that worker since the last look: crashes, or by these loggers. For tests with `logged`."""
    puppet(worker).do(logging.getLogger("parallel_actors.mark").error, "mark")
    found: list[str] = []
    while True:
        _, logger, text = pa.receive(("logged", pa.ANY, pa.ANY), timeout=WAIT)
        if logger == "parallel_actors.mark":
            return found
        if logger in (loggers or ("parallel_actors.crash",)):
            found.append(text)


def down_of(pid: pa.Pid) -> pa.Ref:
    """A monitor that is in place."""
    return Puppet(pid).watch()


reason_of = Puppet.reason_of


# --- what callbacks return --------------------------------------------------------------------------------------------


@contract("S6.1", partly=True)
@everywhere
@kinds
def test_replies_and_states(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    caller = place(here)
    pid = doll(there, 1, kind)
    assert caller.do(pa.call, pid, state_of) == 1
    assert caller.do(pa.call, pid, lambda _, s: pa.Reply("new", s + 1)) == "new"
    assert caller.do(pa.call, pid, state_of) == 2
    assert caller.do(pa.call, pid, lambda _, s: pa.Reply("none", None)) == "none"
    assert caller.do(pa.call, pid, lambda _, s: pa.Reply(s)) is None
    caller.do(pa.cast, pid, lambda s: pa.NoReply([]))
    caller.do(pa.cast, pid, lambda s: pa.NoReply())
    caller.do(pa.send, pid, "info")
    assert caller.do(pa.call, pid, state_of) == ["info"]


@contract("S6.1", partly=True)
@everywhere
@kinds
def test_a_deferred_reply(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    """NoReply now, `reply` from the server itself later."""

    def keep(from_: Any, state: Any) -> Any:
        return pa.NoReply(from_, timeout=0)

    class Later(Doll):
        def handle_info(self, message: Any, state: Any) -> Any:
            assert message == "timeout"
            pa.reply(state, "later")
            return pa.NoReply(None)

    caller = place(here)
    assert caller.do(pa.call, doll(there, None, Later), keep) == "later"

    def at_once(from_: Any, state: Any) -> Any:
        pa.reply(from_, "first")
        return pa.NoReply()

    assert caller.do(pa.call, doll(there, None, kind), at_once) == "first"


@contract("S6.1", partly=True)
@everywhere
@kinds
def test_stop_with_and_without_a_reply(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    caller = place(here)
    for reason in ("normal", "shutdown", pa.Shutdown(("a", 1)), "boom"):
        pid = doll(there, None, kind)
        watch = down_of(pid)
        assert caller.do(pa.call, pid, lambda *_, r=reason: pa.Stop(r, reply="bye")) == "bye"
        assert reason_of(watch) == reason
        both: tuple[Any, ...] = (pa.cast, pa.send)
        for send in both:
            pid = doll(there, None, kind)
            watch = down_of(pid)
            caller.do(send, pid, lambda _, r=reason: pa.Stop(r))
            assert reason_of(watch) == reason
        pid = doll(there, None, kind)
        error = caller.do(failure, pa.call, pid, lambda *_, r=reason: pa.Stop(r))
        assert (error.kind, error.reason) == (pa.RemoteError, reason)


@contract("S6.1", partly=True)
@kinds
def test_stop_has_a_last_state(node: pa.ActorSystem, kind: Any) -> None:
    careful = AsyncCareful if kind is AsyncDoll else Careful
    pid = doll(0, {"to": None}, careful)
    me = pa.self_()
    pa.cast(pid, lambda _: pa.Stop("normal", {"to": me}))
    assert get() == ("terminate", "normal")


@contract("S6.1", partly=True)
@everywhere
@kinds
def test_init_gives_the_state(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    """Bare, or in an Ok."""
    starter = place(here)
    for state in (None, 7, [1], {"a": (1,)}):
        for make in (lambda s=state: s, lambda s=state: pa.Ok(s), lambda s=state: pa.Ok(s, hibernate=True)):
            pid = starter.do(starting, kind, make, worker=there)
            assert starter.do(pa.call, pid, state_of) == state


@contract("S6.1", "S6.2", partly=True)
@everywhere
@kinds
def test_init_may_ignore(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    starter = place(here)
    starter.do(pa.trap_exit)
    for how in ("start", "start_link", "start_monitor"):
        for _ in range(20):
            assert starter.do(starting, kind, lambda: pa.IGNORE, how=how, worker=there, name="ignored") is None
    assert starter.do(mail) == []
    assert pa.whereis("ignored") is None


@contract("S6.1", partly=True)
@workers
@kinds
def test_hibernate_is_accepted(node: pa.ActorSystem, worker: int, kind: Any) -> None:
    """It does nothing: a server that waits holds no stack."""
    pid = doll(worker, lambda: pa.Ok(1, hibernate=True), kind)
    assert pa.call(pid, lambda _, s: pa.Reply(s, s + 1, hibernate=True)) == 1
    pa.cast(pid, lambda s: pa.NoReply(s + 1, hibernate=True))
    pa.send(pid, lambda s: pa.NoReply(s + 1, hibernate=True, timeout=1000))
    assert pa.call(pid, state_of) == 4


@contract("S6.1", "S6.4", partly=True)
@everywhere
@kinds
def test_the_last_reply_comes_when_terminate_has_run(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    """Who has the answer finds the server's work done."""
    careful = AsyncCareful if kind is AsyncDoll else Careful
    for _ in range(10):
        caller = place(here)
        pid = doll(there, {"to": caller.pid}, careful)
        assert caller.do(call_and_look, pid) == ("bye", [("terminate", "normal")])


def call_and_look(pid: pa.Pid) -> tuple[object, list[object]]:
    return pa.call(pid, lambda *_: pa.Stop("normal", reply="bye"), None), mail()


class Default(pa.GenServer):
    """Defines nothing."""


def test_what_a_server_that_defines_nothing_does(node: pa.ActorSystem) -> None:
    pid = pa.start(Default, 1)
    assert pid is not None
    pa.stop(pid)
    assert pa.start(Default) is not None


def bad_returns() -> dict[str, Callable[[], object]]:
    return {
        "none": lambda: None,
        "text": lambda: "ok",
        "ignore": lambda: pa.IGNORE,
        "ok": lambda: pa.Ok(1),
        "class": lambda: pa.NoReply,
        "reply": lambda: pa.Reply(1),
        "stop with reply": lambda: pa.Stop("x", reply=1),
    }


@contract("S6.1", partly=True)
@everywhere
@kinds
def test_bad_returns_of_handle_call(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    caller = place(here)
    for make in [*bad_returns().values()][:5]:
        error = caller.do(failure, pa.call, doll(there, None, kind), lambda *_, make=make: make())
        assert error.kind is pa.RemoteError
        assert error.reason == ("bad_return_value", repr(make()))


@contract("S6.1", partly=True)
@kinds
@pytest.mark.parametrize("bad", bad_returns())
def test_bad_returns_of_the_others(node: pa.ActorSystem, kind: Any, bad: str) -> None:
    make = bad_returns()[bad]
    reason = ("bad_return_value", repr(make()))
    for callback in ("cast", "info", "continue"):
        pid = doll(0, None, kind)
        watch = down_of(pid)
        if callback == "cast":
            pa.cast(pid, lambda _: make())
        elif callback == "info":
            pa.send(pid, lambda _: make())
        else:
            pa.cast(pid, lambda _: pa.NoReply(continue_=lambda _: make()))
        assert reason_of(watch) == reason
    _, ref = pa.start_monitor(kind, lambda: pa.Ok(None, continue_=lambda _: make())) or (None, None)
    assert ref is not None
    assert reason_of(ref) == reason


@contract("S6.1", partly=True)
@kinds
@pytest.mark.parametrize("bad", ["reply", "noreply", "stop with reply"])
def test_bad_returns_of_init(node: pa.ActorSystem, kind: Any, bad: str) -> None:
    make: Any = {
        "reply": lambda: pa.Reply(1),
        "noreply": lambda: pa.NoReply(1),
        "stop with reply": lambda: pa.Stop("x", reply=1),
    }[bad]
    error = failure(pa.start, kind, make)
    assert error.kind is pa.StartError
    assert error.reason == ("bad_return_value", repr(make()))


def test_a_bad_return_whose_repr_fails(node: pa.ActorSystem) -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    pid = doll(0)
    error = failure(pa.call, pid, lambda *_: Shy())
    assert error.reason[0] == "bad_return_value"
    assert "failed: RuntimeError" in error.reason[1]


@pytest.mark.parametrize("bad", [-1, float("nan"), "1", True, b"1", 1e300, [1]], ids=repr)
def test_absurd_time_outs_of_returns(bad: Any) -> None:
    for make in (pa.Ok, pa.NoReply, pa.Reply):
        with pytest.raises((ValueError, TypeError), match="expected a time-out"):
            make(None, timeout=bad)


def test_a_return_has_one_action() -> None:
    with pytest.raises(ValueError, match="either timeout or continue_"):
        pa.NoReply(timeout=1, continue_=1)
    pa.NoReply(timeout=None, continue_=1)
    pa.NoReply(timeout=float("inf"))
    pa.NoReply(timeout=decimal.Decimal("0.5"))  # type: ignore[arg-type]


def test_returns_have_a_repr() -> None:
    assert repr([pa.Reply(1, 2), pa.NoReply(3), pa.Ok(4), pa.Stop("x"), pa.IGNORE]) == (
        "[Reply(1, ...), NoReply(...), Ok(4), Stop('x'), IGNORE]"
    )


@contract("S6.1", partly=True)
def test_the_callbacks_of_a_class_share_an_instance(node: pa.ActorSystem) -> None:
    class Holder(pa.GenServer):
        def __init__(self) -> None:
            self.kept: list[object] = ["made"]

        def init(self, a: int, *, b: int) -> Any:
            self.kept.append((a, b))

        def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
            return pa.Reply(self.kept)

    pid = pa.start(Holder, 1, b=2)
    assert pid is not None
    assert pa.call(pid, "kept") == ["made", (1, 2)]
    # As in any spawn: what it had at its start is its own.
    assert pa.call(pa.start(Holder, 3, b=4) or pid, "kept") == ["made", (3, 4)]


def test_a_class_of_ones_own(node: pa.ActorSystem) -> None:
    """It needn't derive from GenServer."""

    class Own:
        def init(self) -> int:
            return 5

        def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
            return pa.Reply((request, state))

    pid = pa.start(Own)
    assert pid is not None
    pa.send(pid, "dropped by the default handle_info")
    assert pa.call(pid, "r") == ("r", 5)
    watch = down_of(pid)
    pa.cast(pid, "c")
    assert "Own has no handle_cast: got the cast 'c'" in str(reason_of(watch))


def test_what_is_no_server_is_refused(node: pa.ActorSystem) -> None:
    class NoInit:
        pass

    for bad in (NoInit, Doll(), "Doll", None, lambda: None, logging):
        for how in ("start", "start_link", "start_monitor"):
            with pytest.raises(TypeError, match=r"or a class or a module with init\(\)"):
                getattr(pa, how)(bad)


# --- starts -----------------------------------------------------------------------------------------------------------


@contract("S6.2")
@everywhere
@kinds
def test_a_start_returns_when_init_has(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    starter = place(here)
    me = pa.self_()

    def slowly() -> int:
        pa.sleep(0.001)
        pa.send(me, "init is done")
        return 1

    for how in ("start", "start_link", "start_monitor"):
        starter.do(starting, kind, slowly, how=how, worker=there)
        # What it sent before is here before what comes by way of its starter.
        assert get() == "init is done"


@contract("S6.2")
@everywhere
@kinds
def test_a_start_that_fails(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    """The starter hears why, by its error alone, and the name is free by then."""
    ends: list[tuple[Callable[..., object], object]] = [
        (fail, pa.Crash("ValueError", "broken")),
        (end("boom"), "boom"),
        (end("normal"), "normal"),
        (lambda: pa.Stop("boom"), "boom"),
        (lambda: pa.Stop("normal"), "normal"),
        (lambda: pa.Stop(("t", [1])), ("t", [1])),
        (lambda: sys.exit(0), "normal"),
        (lambda: sys.exit(3), pa.Crash("SystemExit", "3")),
        (lambda: pa.exit(pa.self_(), "kill"), "killed"),
        (lambda: pa.Reply(1), ("bad_return_value", "Reply(1, ...)")),
    ]
    starter = place(here)
    starter.do(pa.trap_exit)
    for how in ("start", "start_link", "start_monitor"):
        for make, reason in ends:
            error = starter.do(failure, starting, kind, make, how=how, worker=there, name="failing")
            assert error.kind is pa.StartError
            assert error.reason == reason
            assert isinstance(error.target, pa.Pid)
            assert not pa.is_alive(error.target)
    assert starter.do(mail) == []


@contract("S6.2")
@everywhere
def test_the_error_of_a_start_shows_where_it_failed(node: pa.ActorSystem, here: int, there: int) -> None:
    error = place(here).do(failure, starting, Doll, fail, worker=there)
    assert error.text.startswith("Doll failed to start: ValueError: broken\n--- traceback in the other process ---\n")
    assert 'raise ValueError("broken")' in error.text
    assert error.cause == "ValueError('broken')"


@contract("S6.2")
@everywhere
@pytest.mark.parametrize("how", ["start", "start_link", "start_monitor"])
@pytest.mark.parametrize("hang", [never, spin], ids=["waits", "computes"])
def test_an_init_that_hangs(node: pa.ActorSystem, here: int, there: int, how: str, hang: Callable[..., object]) -> None:
    """It is killed at the time-out. The starter lives on, has no message of it, and may take the name at once."""
    starter = place(here)
    starter.do(pa.trap_exit, how == "start")  # with a link, too, it lives when it doesn't trap
    error = starter.do(failure, starting, Doll, hang, how=how, timeout=0.01, worker=there, name="hanging")
    assert (error.kind, error.reason, error.elapsed) == (pa.StartError, "timeout", 0.01)
    assert "not up within 0.01 s: it is killed" in error.text
    assert not pa.is_alive(error.target)
    assert pa.whereis("hanging") is None
    starter.do(starting, Doll, 1, how="start", worker=there, name="hanging")
    assert starter.do(mail) == []


@pytest.mark.parametrize("timeout", [-1, "1", True, float("nan")], ids=repr)
def test_absurd_time_outs_of_starts(node: pa.ActorSystem, timeout: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="expected a time-out"):
        pa.options(name="unborn").start(Doll, timeout=timeout)
    assert pa.registered() == []


@contract("S6.2")
@everywhere
@pytest.mark.parametrize("how", ["start", "start_link", "start_monitor"])
def test_a_name_that_is_taken(node: pa.ActorSystem, here: int, there: int, how: str) -> None:
    holder = doll(there, name="taken")
    starter = place(here)
    error = starter.do(failure, starting, Doll, how=how, worker=there, name="taken")
    assert (error.kind, error.target) == (pa.NameTaken, holder)
    error = starter.do(failure, starting, Doll, how=how, worker=1 - there, name="taken")
    assert (error.kind, error.target) == (pa.NameTaken, holder)
    assert starter.do(mail) == []
    assert pa.whereis("taken") == holder
    assert starter.do(pa.call, "taken", lambda *_: pa.Reply("alive")) == "alive"


@contract("S6.2")
@everywhere
def test_of_many_starters_of_one_name_one_wins(node: pa.ActorSystem, here: int, there: int) -> None:
    def attempt(to: pa.Pid, worker: int) -> None:
        try:
            pa.send(to, ("won", pa.options(name="single", worker=worker).start(Doll)))
        except pa.NameTaken as error:
            pa.send(to, ("lost", error.target))

    for i in range(40):
        pa.options(worker=i % 2).spawn(attempt, pa.self_(), there if i % 3 else 1 - there)
    found = [get() for _ in range(40)]
    assert sorted(word for word, _ in found) == ["lost"] * 39 + ["won"]
    assert {pid for _, pid in found} == {pa.whereis("single")}


@contract("S6.2")
@everywhere
def test_mail_that_comes_before_init_is_done_is_kept(node: pa.ActorSystem, here: int, there: int) -> None:
    other = puppet(1)

    def slowly() -> list[object]:
        # Others can send to the name already.
        other.do(pa.send, "early", "info")
        other.do(pa.cast, "early", lambda s: pa.NoReply([*s, "cast"]))
        return []

    starter = place(here)
    pid = starter.do(starting, Doll, slowly, worker=there, name="early")
    assert starter.do(pa.call, pid, state_of) == ["info", "cast"]


@contract("S6.2")
@everywhere
def test_init_may_receive_anything(node: pa.ActorSystem, here: int, there: int) -> None:
    """What it takes from its mailbox is mail alone: the start itself needs none of it."""
    starter = place(here)
    pa.options(name="helper", worker=0).spawn(relay, "x")

    def listen() -> list[object]:
        pa.send("helper", pa.self_())
        return [pa.receive(), pa.receive(timeout=0, default="empty")]

    pid = starter.do(starting, Doll, listen, worker=there, timeout=WAIT)
    assert starter.do(pa.call, pid, state_of) == ["x", "empty"]


def relay(answer: object) -> None:
    """Answer pids."""
    while True:
        pa.send(pa.receive(pa.Pid), answer)


@contract("S6.2")
@everywhere
def test_start_link_links(node: pa.ActorSystem, here: int, there: int) -> None:
    starter = place(here)
    starter.do(pa.trap_exit)
    pid = starter.do(starting, Doll, how="start_link", worker=there)
    assert pa.process_info(pid, "links") == [starter.pid]
    assert pa.process_info(pid, "monitored_by") == []
    starter.do(pa.cast, pid, lambda _: pa.Stop("boom"))
    assert starter.do(get) == pa.Exit(pid, "boom")
    assert starter.do(mail) == []


@contract("S6.2")
@pytest.mark.parametrize(("here", "there"), [(0, 0), (0, 1), (1, 0)])
@pytest.mark.parametrize("how", ["raises", "stops", "is killed", "can't be read"])
def test_a_failing_init_ends_a_linked_starter(node: pa.ActorSystem, here: int, there: int, how: str) -> None:
    """As any link does, unless the reason is normal or the starter traps exits."""
    make: Any = {
        "raises": fail,
        "stops": lambda: pa.Stop("boom"),
        "is killed": lambda: pa.exit(pa.self_(), "kill"),
        "can't be read": None,
    }[how]
    expected = {
        "raises": pa.Crash("ValueError", "broken"),
        "stops": "boom",
        "is killed": "killed",
        "can't be read": pa.Crash("RuntimeError", "unreadable"),
    }[how]
    for _ in range(10):
        starter = puppet(here)
        watch = starter.watch()
        if make is None:
            starter.tell(start_unreadable, "start_link", there)
        else:
            starter.tell(starting, Doll, make, how="start_link", worker=there)
        assert reason_of(watch) == expected
    starter = puppet(here)
    error = starter.do(failure, starting, Doll, lambda: pa.Stop("normal"), how="start_link", worker=there)
    assert error.reason == "normal"


class Unreadable:
    """Pickles, and can't be unpickled."""

    def __reduce__(self) -> Any:
        return unreadable, ()


def unreadable() -> None:
    raise RuntimeError("unreadable")


@contract("S6.2")
@everywhere
@pytest.mark.parametrize("how", ["start", "start_link", "start_monitor"])
def test_arguments_that_cannot_be_unpickled(node: pa.ActorSystem, here: int, there: int, how: str) -> None:
    starter = place(here)
    starter.do(pa.trap_exit)
    for _ in range(10):
        # Made there: it couldn't travel to the puppet.
        error = starter.do(start_unreadable, how, there)
        assert error.kind is pa.StartError
        assert error.reason == pa.Crash("RuntimeError", "unreadable")
    assert starter.do(mail) == []


def start_unreadable(how: str, there: int) -> Failure:
    return failure(starting, Doll, Unreadable(), how=how, worker=there, name="unreadable")


@contract("S6.2")
@everywhere
def test_arguments_that_cannot_be_pickled(node: pa.ActorSystem, here: int, there: int) -> None:
    def attempt() -> list[Any]:
        error = failure(starting, Doll, lambda: sys._getframe(), [sys._getframe()], worker=there, name="x")
        return [error.kind, pa.whereis("x"), pa.process_info(pa.self_(), "monitors")]

    assert place(here).do(attempt) == [pa.NotPicklable, None, []]


@contract("S6.2")
@everywhere
def test_start_monitor(node: pa.ActorSystem, here: int, there: int) -> None:
    starter = place(here)
    pid, ref = starter.do(starting, Doll, how="start_monitor", worker=there)
    assert pa.process_info(pid, "monitored_by") == [starter.pid]
    starter.do(pa.cast, pid, lambda _: pa.Stop("boom"))
    assert starter.do(get) == pa.Down(ref, pid, "boom")
    assert starter.do(mail) == []
    # The end of one that ends at once isn't lost.
    pid, ref = starter.do(
        starting, Doll, lambda: pa.Ok(None, continue_=lambda _: pa.Stop("at once")), how="start_monitor", worker=there
    )
    assert starter.do(get) == pa.Down(ref, pid, "at once")


@contract("S6.2")
@pytest.mark.parametrize(("here", "there"), [(0, 0), (0, 1)])
def test_a_starter_that_dies_takes_a_linked_server_along(node: pa.ActorSystem, here: int, there: int) -> None:
    starter = puppet(here)
    starter.tell(starting, Doll, never, how="start_link", worker=there, name="orphan")
    eventually(lambda: pa.whereis("orphan"), "it is being started")
    pid = pa.whereis("orphan")
    assert pid is not None
    watch = down_of(pid)
    pa.exit(starter.pid, "boom")
    assert reason_of(watch) == "boom"


@contract("S6.2")
def test_start_in_a_process_with_much_mail(node: pa.ActorSystem) -> None:
    def crowded() -> list[object]:
        for i in range(20_000):
            pa.send(pa.self_(), i)
        pid = pa.options(worker=1).start(Doll)
        assert pid is not None
        pa.stop(pid)
        return [pa.receive() for _ in range(20_000)]

    assert puppet(0).do(crowded) == [*range(20_000)]


@contract("S6.2")
def test_a_start_on_a_worker_that_dies(actor_system: pa.ActorSystem) -> None:
    pa.spawn(kill_worker_of, "starting", pa.self_())
    error = failure(starting, Doll, never, worker=1, name="starting")
    assert error.kind is pa.StartError
    assert isinstance(error.reason, pa.WorkerDown)
    assert pa.whereis("starting") is None


def kill_worker_of(name: str, _: pa.Pid) -> None:
    """From another worker."""
    while (pid := pa.whereis(name)) is None:
        pa.sleep(0.001)
    pa.exit(pid, "normal")  # it is born
    pa.options(worker=pid.worker).spawn(lambda: os.kill(os.getpid(), signal.SIGKILL))


# --- calls ------------------------------------------------------------------------------------------------------------


# --- calls ------------------------------------------------------------------------------------------------------------


@contract("S6.3")
@everywhere
@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_call_times_out(node: pa.ActorSystem, here: int, there: int, timeout: float) -> None:
    """The error says whom, what and how long; the reply, which comes later, is dropped."""
    caller = place(here)
    for name in (None, "slow"):
        pid = doll(there, name=name)
        target = name or pid
        hold(pid)
        error = caller.do(failure, pa.call, target, state_of, timeout)
        assert (error.kind, error.target) == (pa.CallTimeout, target)
        assert error.request.startswith("<function state_of")
        assert error.elapsed == timeout
        assert error.text.startswith(f"call to {pid!r}{' ' + repr(name) if name else ''} timed out after {timeout} s\n")
        assert "\n  request: <function state_of" in error.text
        assert "\n  a late reply will be dropped" in error.text
        pa.send(pid, "go on")
        assert caller.do(pa.call, pid, lambda *_: pa.Reply("next")) == "next"
    assert caller.do(mail) == []


@contract("S6.3")
@everywhere
def test_the_default_is_five_seconds(node: pa.ActorSystem, here: int, there: int) -> None:
    caller = place(here)
    pid = doll(there)
    call: Any = pa.call  # one of its overloads
    if (here, there) == (0, 1):
        helper, slow, me = puppet(0), doll(1), pa.self_()
        helper.tell(lambda: pa.send(me, failure(pa.call, slow, never)))
    for timeout in (5.0, 5, None, float("inf"), 1e300, decimal.Decimal(5)):
        assert caller.do(call, pid, lambda *_: pa.Reply(1), timeout) == 1
    if (here, there) == (0, 1):
        # It takes them: once in the suite.
        error = get()
        assert (error.kind, error.elapsed) == (pa.CallTimeout, 5.0)


@contract("S6.3")
@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), "5", b"5", True, False, [], pa.ANY], ids=repr)
def test_absurd_time_outs_of_calls(node: pa.ActorSystem, timeout: Any) -> None:
    pid = doll(0)
    for call in (pa.call, pa.stop):
        with pytest.raises((ValueError, TypeError), match="expected a time-out"):
            call(pid, "normal", timeout)
    assert pa.call(pid, lambda *_: pa.Reply("no harm")) == "no harm"


@contract("S6.3")
@everywhere
def test_a_call_to_nobody(node: pa.ActorSystem, here: int, there: int) -> None:
    caller = place(here)
    pid = doll(there)
    pa.stop(pid)
    error = caller.do(failure, pa.call, pid, "q", None)
    assert (error.kind, error.target, error.request, error.reason) == (pa.NoProc, pid, "'q'", "noproc")
    error = caller.do(failure, pa.call, "nobody", "q", None)
    assert (error.kind, error.target, error.request, error.reason) == (pa.NoProc, "nobody", "'q'", "noproc")
    error = caller.do(failure, pa.stop, pid)
    assert (error.kind, error.target) == (pa.NoProc, pid)
    error = caller.do(failure, pa.stop, "nobody")
    assert (error.kind, error.target) == (pa.NoProc, "nobody")
    caller.do(pa.cast, pid, "c")
    caller.do(pa.cast, "nobody", "c")
    assert caller.do(mail) == []


@pytest.mark.parametrize("bad", [None, 5, b"name", ("a", 1), pa.ANY], ids=repr)
def test_what_is_no_server_address(node: pa.ActorSystem, bad: Any) -> None:
    for function in (pa.call, pa.stop):
        with pytest.raises(TypeError, match="expected a Pid or a registered name"):
            function(bad, "normal")
    with pytest.raises(TypeError):
        pa.cast(bad, "c")


@contract("S6.3")
@everywhere
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: end("normal"), "normal"),
        (lambda: end("boom"), "boom"),
        (lambda: end("noproc"), "noproc"),
        (lambda: end(("t", [1])), ("t", [1])),
        (lambda: lambda *_: sys.exit(0), "normal"),
        (lambda: lambda *_: sys.exit("word"), pa.Crash("SystemExit", "word")),
        (lambda: lambda *_: pa.exit(pa.self_(), "kill"), "killed"),
        (lambda: lambda *_: pa.exit(pa.self_(), "boom"), "boom"),
        (lambda: fail, pa.Crash("ValueError", "broken")),
    ],
    ids=["normal", "boom", "noproc", "term", "sys.exit(0)", "sys.exit(word)", "killed", "exit", "crash"],
)
def test_a_server_that_ends_in_a_call(node: pa.ActorSystem, here: int, there: int, make: Any, reason: object) -> None:
    caller = place(here)
    pid = doll(there)
    error = caller.do(failure, pa.call, pid, make(), None)
    assert error.kind is (pa.NoProc if reason == "noproc" else pa.RemoteError)
    assert (error.reason, error.target) == (reason, pid)
    assert not pa.is_alive(pid)
    assert caller.do(mail) == []


@contract("S6.3")
@everywhere
@kinds
def test_a_remote_error_has_the_servers_traceback(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    error = place(here).do(failure, pa.call, doll(there, None, kind), fail, None)
    assert error.kind is pa.RemoteError
    assert "failed while a call waited for it: ValueError: broken\n  request: <function fail" in error.text
    assert 'raise ValueError("broken")' in error.text
    assert error.remote_traceback is not None
    assert "in handle_call" in error.remote_traceback
    assert "gen_server.pyx" not in error.remote_traceback
    assert error.cause == "ValueError('broken')"


@contract("S6.3")
@everywhere
def test_an_exception_that_cannot_be_pickled(node: pa.ActorSystem, here: int, there: int) -> None:
    def raise_frame(*_: object) -> None:
        raise RuntimeError(sys._getframe())

    error = place(here).do(failure, pa.call, doll(there), raise_frame, None)
    assert error.kind is pa.RemoteError
    assert error.reason.type == "RuntimeError"
    assert error.cause == "None"


@contract("S6.3")
@pytest.mark.parametrize("worker", [GUEST, 0, 1])
def test_calling_oneself(node: pa.ActorSystem, worker: int) -> None:
    def attempt() -> list[object]:
        found: list[object] = []
        if pa.whereis("self") is None:
            pa.register("self", pa.self_())
        for target in (pa.self_(), "self"):
            for function in (pa.call, pa.stop):
                error = failure(function, target, "normal", None)
                found.append((error.kind, error.target == target))
        pa.unregister("self")
        return found

    one = place(worker)
    assert one.do(attempt) == [(pa.CallingSelf, True)] * 4
    assert one.do(mail) == []
    if worker != GUEST:
        pid = doll(worker)
        # In a callback: an error of the server's own, which ends it if it isn't caught.
        assert pa.call(pid, lambda *_: pa.Reply(failure(pa.call, pa.self_(), "q").kind)) is pa.CallingSelf


@contract("S6.3")
@everywhere
@kinds
def test_a_call_inside_a_callback(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    """The server waits, and nobody else on its worker does."""
    caller = puppet(max(here, 0))
    slow, front, neighbour = doll(there), doll(there, None, kind), doll(there)
    hold(slow)
    caller.tell(call_and_tell, pa.self_(), front, lambda _, s: pa.Reply(("got", pa.call(slow, state_of, None))))
    eventually(lambda: pa.process_info(slow, "message_queue_len") == 1, "it is called")
    for _ in range(10):
        assert pa.call(neighbour, state_of) is None
    pa.cast(front, lambda _: pa.NoReply("cast after"))
    pa.send(slow, "go on")
    assert get() == ("returned", ("got", None))
    assert pa.call(front, state_of) == "cast after"


def call_and_tell(to: pa.Pid, *args: Any) -> None:
    """Call with these arguments and no time-out; tell of the outcome."""
    try:
        pa.send(to, ("returned", pa.call(args[0], args[1], None)))
    except pa.ActorError as e:
        pa.send(to, ("raised", type(e), e.reason))


@contract("S6.3")
@pytest.mark.parametrize("worker", [0, 1])
def test_calls_in_a_chain_and_in_a_circle(node: pa.ActorSystem, worker: int) -> None:
    """Through 50 servers on both workers; a circle of two is cut by the time-out of one."""

    def through(pids: list[pa.Pid]) -> Any:
        def request(_: object, state: object) -> Any:
            return pa.Reply(1 + pa.call(pids[0], through(pids[1:])) if pids else 1)

        return request

    pids = [doll(i % 2) for i in range(50)]
    assert pa.call(pids[0], through(pids[1:]), 2 * WAIT) == 50
    one, other = doll(worker), doll(1)

    def back(_: object, state: object) -> Any:
        return pa.Reply(failure(pa.call, one, state_of, 0.01).kind)

    assert pa.call(one, lambda *_: pa.Reply(pa.call(other, back, None))) is pa.CallTimeout


@contract("S6.4", partly=True)
@everywhere
@pytest.mark.parametrize("third", [0, 1])
def test_a_reply_by_another_process(node: pa.ActorSystem, here: int, there: int, third: int) -> None:
    caller, helper, pid = place(here), puppet(third), doll(there)

    def delegate(from_: Any, state: object) -> Any:
        helper.tell(pa.reply, from_, ("by another", [1]))
        helper.tell(pa.reply, from_, "twice")
        return pa.NoReply()

    for _ in range(20):
        assert caller.do(pa.call, pid, delegate) == ("by another", [1])
    assert caller.do(mail) == []

    def both(from_: Any, state: object) -> Any:
        pa.reply(from_, "first")
        pa.reply(from_, "second")
        return pa.Reply("third")

    for _ in range(20):
        assert caller.do(pa.call, pid, both) == "first"
    assert caller.do(mail) == []


@contract("S6.4", "S6.3", partly=True)
@everywhere
def test_replies_to_the_wrong_party(node: pa.ActorSystem, here: int, there: int) -> None:
    """An answer goes to the call and the process that it names; who is in another call has nothing of it."""
    callers, pid = [puppet(max(here, 0)), puppet(there)], doll(there, [])
    for caller in callers:
        asked = len(pa.call(pid, state_of))
        caller.tell(call_and_tell, pa.self_(), pid, lambda from_, s: pa.NoReply([*s, from_]))
        eventually(partial(is_longer, pid, asked), "it is asked")
    one, other = pa.call(pid, state_of)
    stranger = place(here)
    # To nobody, though a process is named that waits for another answer, or a call of another's: both must fit.
    for from_ in ((one[0], pa.make_ref()), (other[0], pa.make_ref()), (other[0], one[1]), (one[0], other[1])):
        stranger.do(pa.reply, from_, "nobody's")
    stranger.do(pa.reply, one, "the one's")
    assert get() == ("returned", "the one's")
    stranger.do(pa.reply, one, "the other's")  # it isn't in this call any more
    callers[0].tell(call_and_tell, pa.self_(), pid, lambda from_, s: pa.NoReply([*s, from_]))
    eventually(partial(is_longer, pid, 2), "it is in another")
    stranger.do(pa.reply, one, "the former's")
    stranger.do(pa.reply, other, "the other's")
    assert get() == ("returned", "the other's")
    stranger.do(pa.reply, pa.call(pid, state_of)[2], "the latter's")
    assert get() == ("returned", "the latter's")
    assert [caller.do(mail) for caller in (*callers, stranger)] == [[], [], []]
    assert pa.call(pid, lambda _, s: pa.Reply(len(s))) == 3


def is_longer(pid: pa.Pid, than: int) -> bool:
    """Whether the server's state is."""
    return len(pa.call(pid, state_of)) > than


@contract("S6.4", partly=True)
@everywhere
def test_a_reply_that_nobody_waits_for(node: pa.ActorSystem, here: int, there: int) -> None:
    """The caller is dead, or has given up, or does something else by now."""
    caller, pid = place(here), doll(there, [])

    def keep(from_: Any, state: Any) -> Any:
        return pa.NoReply(from_)

    assert caller.do(failure, pa.call, pid, keep, 0.01).kind is pa.CallTimeout
    from_ = pa.call(pid, state_of)
    assert from_[0] == caller.pid
    helper = puppet(1)
    for one in (helper, Puppet(pa.self_())):
        one.do(pa.reply, from_, "late")
    # The server is dead by now, the caller in another call.
    pa.stop(pid)
    other = doll(there)
    hold(other)
    if here != GUEST:
        caller.tell(call_and_tell, pa.self_(), other, state_of)
        helper.do(pa.reply, from_, "late")
        pa.send(other, "go on")
        assert get() == ("returned", None)
        assert caller.do(mail) == []
        caller.end("normal")
        helper.do(pa.reply, from_, "late")
    assert mail() == []


@pytest.mark.parametrize("bad", [None, (), (1, 2), [pa.ANY, pa.ANY], "from", (None, None, None)], ids=repr)
def test_replies_to_what_is_no_call(node: pa.ActorSystem, bad: Any) -> None:
    with pytest.raises(TypeError, match="expected the from_ of a call"):
        pa.reply(bad, 1)


def test_messages_that_look_like_the_librarys(node: pa.ActorSystem) -> None:
    """Sent by hand, they harm nobody."""
    pid = doll(0, [])
    forged: list[Any] = [
        ("$gen_call", 5, 6),
        ("$gen_call", (1, 2), 6),
        ("$gen_call", (), 6),
        ("$gen_call",),
        ("$gen_cast",),
        ("$gen_timeout", 5, 5),
        (),
        (1, 2, 3),
    ]
    for message in forged:
        pa.send(pid, message)
    pa.send(pid, ("$gen_timeout", 0))
    pa.send(pid, ("$gen_timeout", [0]))
    assert pa.call(pid, state_of) == forged


@contract("S6.3", "S3.2", partly=True)
@everywhere
def test_a_call_in_a_process_with_much_mail(node: pa.ActorSystem, here: int, there: int) -> None:
    """What waits in the mailbox isn't looked at, let alone moved."""

    def crowded() -> Any:
        READ.clear()
        for i in range(100_000):
            pa.send(pa.self_(), Seen(i) if i % 1000 == 0 else i)
        answers = [pa.call(pid, lambda *_: pa.Reply(1)) for _ in range(100)]
        errors = failure(pa.call, pid, never, 0.01).kind
        seen = len(READ)
        kept = [pa.receive() for _ in range(100_000)]
        order = [m.number if isinstance(m, Seen) else m for m in kept] == [*range(100_000)]
        return sum(answers), errors, seen, order, pa.receive(timeout=0, default=None), len(READ)

    pid = doll(there)
    assert place(here).do(crowded) == (100, pa.CallTimeout, 0, True, None, 100)


READ: list[int] = []


class Seen:
    """Tells when it is unpickled: a message is, when somebody looks at it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        READ.append(self.number)


@contract("S6.3", "S10.2", partly=True)
@everywhere
def test_a_request_that_cannot_be_pickled(node: pa.ActorSystem, here: int, there: int) -> None:
    def attempt() -> list[Any]:
        found = [failure(f, pid, {"frame": sys._getframe()}).kind for f in (pa.call, pa.cast, pa.stop)]
        return [*found, pa.process_info(pa.self_(), "monitors"), pa.receive(timeout=0, default=None)]

    pid = doll(there)
    assert place(here).do(attempt) == [pa.NotPicklable] * 3 + [[], None]
    assert pa.call(pid, state_of) is None


@contract("S6.3")
@everywhere
@pytest.mark.parametrize("how", ["returned", "reply()", "with stop"])
def test_a_reply_that_cannot_be_pickled(node: pa.ActorSystem, here: int, there: int, how: str) -> None:
    """It is the server's error, raised where it replies; the caller hears of it."""

    def request(from_: Any, state: object) -> Any:
        if how == "returned":
            return pa.Reply(sys._getframe())
        if how == "with stop":
            return pa.Stop("normal", reply=sys._getframe())
        try:
            pa.reply(from_, sys._getframe())
        except pa.NotPicklable:
            return pa.Reply("caught")
        return pa.Reply("not raised")

    pid = doll(there)
    if how == "reply()":
        assert place(here).do(pa.call, pid, request, None) == "caught"
        return
    error = place(here).do(failure, pa.call, pid, request, None)
    assert error.kind is pa.RemoteError
    assert error.reason.type.endswith("NotPicklable")


@contract("S6.3")
@everywhere
def test_a_reply_that_cannot_be_unpickled(node: pa.ActorSystem, here: int, there: int) -> None:
    """An error of the call, in the tree of all others; the server knows nothing of it."""
    pid = doll(there)
    caller = place(here)
    error = caller.do(failure, pa.call, pid, lambda *_: pa.Reply(Unreadable()))
    assert error.kind is pa.RemoteError
    assert "can't be read here: RuntimeError: unreadable" in error.text
    assert error.cause == "RuntimeError('unreadable')"
    assert caller.do(pa.call, pid, state_of) is None


@contract("S6.3", "S2.7", partly=True)
@everywhere
def test_a_request_that_cannot_be_unpickled(node: pa.ActorSystem, here: int, there: int) -> None:
    """The caller hears of it at once, however long it would wait; the server lives on."""

    def attempt() -> Failure:
        return failure(pa.call, pid, Unreadable(), None)

    pid = doll(there, [])
    caller = place(here)
    error = caller.do(attempt)
    assert error.kind is pa.RemoteError
    assert "unreadable" in error.text
    caller.do(lambda: pa.cast(pid, Unreadable()))
    caller.do(lambda: pa.send(pid, Unreadable()))
    assert caller.do(pa.call, pid, state_of) == []


@contract("S6.3", "S2.1", partly=True)
@everywhere
def test_casts_infos_and_calls_keep_their_order(node: pa.ActorSystem, here: int, there: int) -> None:
    def mixed() -> list[object]:
        for i in range(0, 300, 3):
            pa.cast(pid, lambda s, i=i: pa.NoReply([*s, i]))
            pa.send(pid, i + 1)
            assert pa.call(pid, lambda _, s, i=i: pa.Reply(len(s), [*s, i + 2])) == i + 2
        found: list[object] = pa.call(pid, state_of)
        return found

    pid = doll(there, [])
    assert place(here).do(mixed) == [*range(300)]


@contract("S6.3")
@everywhere
@pytest.mark.parametrize("state", ["idle", "blocked", "computing"])
def test_a_server_that_is_killed(node: pa.ActorSystem, here: int, there: int, state: str) -> None:
    """Whether it waits in a callback or computes without end: who waits for it hears of it."""
    pid = doll(there)
    callers = [puppet(i % 2) for i in range(6)]
    if state != "idle":
        occupy(pid, spin if state == "computing" else park)
    for caller in callers:
        # An idle one leaves the calls unanswered.
        caller.tell(call_and_tell, pa.self_(), pid, lambda *_: pa.NoReply((_[1] or 0) + 1))
    if state == "idle":
        eventually(lambda: pa.call(pid, state_of) == len(callers), "all of them wait")
    else:
        eventually(lambda: pa.process_info(pid, "message_queue_len") == len(callers), "all of them wait")
    place(here).do(pa.exit, pid, "kill")
    for _ in callers:
        word, kind, reason = get()
        assert word == "raised"
        assert (kind, reason) in ((pa.RemoteError, "killed"), (pa.NoProc, "noproc"))
    assert pa.call(doll(there), state_of) is None  # its worker goes on
    assert [caller.do(mail) for caller in callers] == [[]] * len(callers)


@contract("S6.3")
@workers
def test_a_thousand_callers_of_a_server_that_is_killed(node: pa.ActorSystem, worker: int) -> None:
    pid = doll(worker)
    occupy(pid)
    for i in range(1000):
        pa.options(worker=i % 2).spawn(call_and_tell, pa.self_(), pid, state_of)
    eventually(lambda: pa.process_info(pid, "message_queue_len") >= 1000, "all of them wait")
    for i in range(1000):  # and as many that come just now
        pa.options(worker=i % 2).spawn(call_and_tell, pa.self_(), pid, state_of)
    pa.exit(pid, "kill")
    found = {get()[1:] for _ in range(2000)}
    assert found <= {(pa.RemoteError, "killed"), (pa.NoProc, "noproc")}
    assert (pa.RemoteError, "killed") in found


@contract("S6.3")
@workers
def test_a_worker_that_dies_in_a_call(actor_system: pa.ActorSystem, worker: int) -> None:
    callers = [puppet(1 - worker) for _ in range(3)]
    pid = doll(worker, name="lost")
    for caller in callers:
        caller.tell(call_and_tell, pa.self_(), pid, never)
    eventually(lambda: pa.process_info(pid, "message_queue_len") == 2, "all of them wait")
    os.kill(actor_system.worker_pids[worker], signal.SIGKILL)
    error = failure(pa.call, pid, state_of, None)
    assert error.kind in (pa.NodeDown, pa.NoProc)
    for _ in callers:
        word, kind, reason = get()
        assert (word, kind) == ("raised", pa.NodeDown)
        assert reason == pa.WorkerDown(worker, signal.SIGKILL)
    assert failure(pa.call, pid, state_of, None).kind is pa.NoProc
    assert failure(pa.call, "lost", state_of, None).kind is pa.NoProc
    pa.cast(pid, "c")
    pa.cast("lost", "c")
    assert mail() == []


@contract("S6.3")
def test_a_stop_while_the_worker_dies(actor_system: pa.ActorSystem) -> None:
    pid = doll(1)
    pa.cast(pid, lambda _: os.kill(os.getpid(), signal.SIGKILL))
    error = failure(pa.stop, pid)
    assert error.kind in (pa.NodeDown, pa.NoProc)


@contract("S6.3")
@everywhere
def test_a_caller_that_is_killed_leaves_nothing(node: pa.ActorSystem, here: int, there: int) -> None:
    pid = doll(there)
    hold(pid)
    for _ in range(20):
        caller = puppet(max(here, 0))
        watch = caller.watch()
        caller.tell(pa.call, pid, state_of, None)
        caller.tell(pa.send, pa.self_(), "not reached")
        pa.exit(caller.pid, "kill")
        assert caller.reason_of(watch) == "killed"
    pa.send(pid, "go on")
    assert pa.call(pid, state_of) is None
    eventually(lambda: pa.process_info(pid, "monitored_by") == [], "no monitor is left")


@contract("S6.3")
@everywhere
def test_calls_leave_no_monitors(node: pa.ActorSystem, here: int, there: int) -> None:
    caller, pid = place(here), doll(there)
    for _ in range(10):
        caller.do(pa.call, pid, state_of)
        caller.do(failure, pa.call, pid, lambda *_: pa.NoReply(), 0)
    assert caller.do(pa.call, pid, state_of) is None
    assert pa.process_info(pid, "monitored_by") == []
    assert pa.process_info(caller.pid, "monitors") == [] if here != GUEST else True


# --- async def --------------------------------------------------------------------------------------------------------


@contract("S6.1", partly=True)
@everywhere
def test_what_async_callbacks_may_await(node: pa.ActorSystem, here: int, there: int) -> None:
    class Awaiting(pa.GenServer):
        async def init(self) -> Any:
            pa.send(pa.self_(), ("to", "init"))
            found = await pa.areceive(("to", "init"))
            await pa.asleep(0.001)
            return pa.Ok([found], continue_="go")

        async def handle_continue(self, term: Any, state: Any) -> Any:
            return pa.NoReply([*state, await pa.areceive(int, timeout=0.001, default=term)])

        async def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
            try:
                await pa.areceive("never", timeout=0)
            except pa.ReceiveTimeout:
                await pa.asleep(0)
            pa.send_after(0.001, pa.self_(), ("to", request))
            state = [*state, (await pa.areceive(("to", pa.ANY)))[1], await inner()]
            return pa.Reply(state, state)

    async def inner() -> str:
        await pa.asleep(0.001)
        pa.sleep(0.001)  # what blocks may be called, too
        return "inner"

    caller = place(here)
    pid = caller.do(starting, Awaiting, worker=there)
    assert caller.do(pa.call, pid, "call") == [("to", "init"), "go", "call", "inner"]


@contract("S6.1", partly=True)
@workers
def test_an_async_callback_that_awaits_what_it_cannot(node: pa.ActorSystem, worker: int) -> None:
    class Nonsense:
        def __await__(self) -> Any:
            yield "nonsense"

    class Foreign(AsyncDoll):
        async def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
            if request == "catch":
                try:
                    await Nonsense()
                except RuntimeError:
                    # It may go on, and wait for what it can.
                    await pa.asleep(0.001)
                    await asyncio.sleep(0.001)
                    pa.send(pa.self_(), "mail")
                    return pa.Reply(await pa.areceive("mail"))
            await Nonsense()
            return pa.Reply("no error")

    pid = doll(worker, None, Foreign)
    assert pa.call(pid, "catch") == "mail"
    error = failure(pa.call, pid, "crash")
    assert "RuntimeError: " in error.text
    assert "nonsense" in error.text


@contract("S6.1", "S1.9", partly=True)
@workers
def test_an_async_callback_is_unwound_by_a_kill(node: pa.ActorSystem, worker: int) -> None:
    class Guarded(AsyncDoll):
        async def handle_cast(self, request: Any, state: Any) -> Any:
            try:
                pa.send(request, "ready")
                await pa.areceive("never")
            finally:
                UNWOUND.append("finally")

    pid = doll(worker, None, Guarded)
    watch = down_of(pid)
    pa.cast(pid, pa.self_())
    assert get() == "ready"
    pa.exit(pid, "kill")
    assert reason_of(watch) == "killed"
    probe = puppet(worker)
    eventually(lambda: probe.do(len_unwound) == 1, "it has unwound")
    probe.do(clear_unwound)


UNWOUND: list[str] = []


def len_unwound() -> int:
    return len(UNWOUND)


def clear_unwound() -> None:
    UNWOUND.clear()


# --- continue and time-outs -------------------------------------------------------------------------------------------


def then(*names: object) -> Callable[[Any], Any]:
    """A `continue_`: note each name in the state, one continue after the other."""

    def step(state: Any) -> Any:
        if len(names) > 1:
            return pa.NoReply([*state, names[0]], continue_=then(*names[1:]))
        return pa.NoReply([*state, *names])

    return step


@contract("S6.5")
@everywhere
@kinds
def test_continue_runs_before_waiting_mail(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    caller = place(here)
    pid = doll(there, [], kind)
    hold(pid, lambda _: pa.NoReply(continue_=then(1, 2, 3)))
    caller.do(pa.send, pid, "a")
    caller.do(pa.cast, pid, lambda s: pa.NoReply([*s, "b"], continue_=then("c")))
    caller.do(pa.send, pid, "d")
    pa.send(pid, "go on")
    assert caller.do(pa.call, pid, state_of) == [1, 2, 3, "a", "b", "c", "d"]
    assert caller.do(pa.call, pid, lambda _, s: pa.Reply("before it", [], continue_=then(1, 2))) == "before it"
    assert caller.do(pa.call, pid, state_of) == [1, 2]


@contract("S6.5")
@everywhere
@kinds
def test_continue_from_init(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    """The start has returned by then; mail waits for it."""

    def make() -> Any:
        pa.send(pa.self_(), "mail")
        return pa.Ok([], continue_=then("a", "b"))

    starter = place(here)
    pid = starter.do(starting, kind, make, worker=there)
    assert starter.do(pa.call, pid, state_of) == ["a", "b", "mail"]

    def wait_for_order(_: Any) -> Any:
        pa.receive("go on")
        return pa.NoReply()

    def blocking() -> Any:
        return pa.Ok([], continue_=wait_for_order)

    pid = starter.do(starting, kind, blocking, worker=there)  # isn't waited for
    pa.send(pid, "go on")
    assert starter.do(pa.call, pid, state_of) == []


@contract("S6.5", "S6.6", partly=True)
@workers
@pytest.mark.parametrize("careful", [Careful, AsyncCareful])
def test_a_failing_continue_from_init(node: pa.ActorSystem, logged: None, worker: int, careful: Any) -> None:
    """The server was up: it ends as any server does."""
    me = pa.self_()

    def make() -> Any:
        return pa.Ok({"to": me}, continue_=fail)

    pid, ref = pa.options(worker=worker).start_monitor(careful, make) or (None, None)
    assert pid is not None
    assert ref is not None
    crash = pa.Crash("ValueError", "broken")
    assert reason_of(ref) == crash
    assert pa.receive(("terminate", pa.ANY), timeout=WAIT) == ("terminate", crash)
    (report,) = reports(worker)
    assert "Careful" in report
    assert "ValueError: broken" in report


@contract("S6.5")
@workers
@pytest.mark.parametrize("async_", [False, True], ids=["class", "async"])
def test_a_time_out_is_delivered(node: pa.ActorSystem, worker: int, async_: bool) -> None:
    telling = AsyncTelling if async_ else Telling
    for seconds in (0, 0.001, 0.01):
        me = pa.self_()
        quiet = doll(worker, None, telling)
        assert pa.call(quiet, lambda *_, s=seconds, me=me: pa.Reply(1, me, timeout=s)) == 1
        assert get() == "timeout"
        pa.cast(quiet, lambda _, s=seconds: pa.NoReply(timeout=s))
        assert get() == "timeout"
        pa.send(quiet, lambda _, s=seconds: pa.NoReply(timeout=s))
        assert get() == "timeout"
        pa.cast(quiet, lambda _, s=seconds: pa.NoReply(continue_=lambda _: pa.NoReply(timeout=s)))
        assert get() == "timeout"
        # Once only.
        pa.call(quiet, state_of)
        assert mail() == []
        pa.options(worker=worker).start(telling, lambda s=seconds, me=me: pa.Ok(me, timeout=s))
        assert get() == "timeout"


class Telling(Doll):
    """Passes its infos on to the pid in its state."""

    def handle_info(self, message: Any, state: Any) -> Any:
        if callable(message):
            return message(state)
        pa.send(state, message)
        return pa.NoReply()


class AsyncTelling(AsyncDoll):
    async def handle_info(self, message: Any, state: Any) -> Any:
        await pa.asleep(0)
        return Telling.handle_info(self, message, state)  # type: ignore[arg-type]


@contract("S6.5")
@everywhere
@kinds
@pytest.mark.parametrize("message", ["info", "cast", "call"])
def test_a_time_out_loses_to_a_waiting_message(
    node: pa.ActorSystem, here: int, there: int, kind: Any, message: str
) -> None:
    """That of 0 too; and it isn't delivered later."""
    caller, pid = place(here), doll(there, [], kind)

    hold(pid, lambda _: pa.NoReply(timeout=0))
    waiter = puppet(max(here, 0))
    if message == "info":
        caller.do(pa.send, pid, "info")
    elif message == "cast":
        caller.do(pa.cast, pid, lambda s: pa.NoReply([*s, "cast"]))
    else:
        waiter.tell(call_and_tell, pa.self_(), pid, lambda _, s: pa.Reply("r", [*s, "call"]))
    eventually(lambda: pa.process_info(pid, "message_queue_len") == 1, "it waits")
    pa.send(pid, "go on")
    for _ in range(3):
        assert caller.do(pa.call, pid, state_of) == [message]


@contract("S6.5")
@workers
@kinds
def test_a_time_out_is_cancelled_by_any_message(node: pa.ActorSystem, worker: int, kind: Any) -> None:
    """Also one that has fired already, and waits behind that message; a later one is another."""
    pid = doll(worker, [], kind)

    def set_and_hold(state: Any) -> Any:
        return pa.NoReply(timeout=0.001)

    pa.cast(pid, set_and_hold)

    def nap(state: Any) -> Any:
        pa.sleep(0.01)
        return pa.NoReply([*state, "slept"])

    pa.cast(pid, nap)
    pa.cast(pid, lambda s: pa.NoReply([*s, "after"]))
    assert pa.call(pid, state_of) in (["slept", "after"], ["timeout", "slept", "after"])
    pid = doll(worker, [], kind)
    for _ in range(20):
        pa.cast(pid, lambda s: pa.NoReply(timeout=1000))
        pa.send(pid, "x")
    assert pa.call(pid, state_of) == ["x"] * 20
    quiet = doll(worker, pa.self_(), Telling)
    for _ in range(10):
        pa.cast(quiet, lambda s: pa.NoReply(timeout=0))
    pa.call(quiet, lambda _, s: pa.Reply("x", timeout=0))
    pa.cast(quiet, lambda s: pa.NoReply(timeout=0))
    # However many were set: only who was the last before nothing came is delivered.
    assert get() == "timeout"
    pa.call(quiet, state_of)
    assert set(mail()) <= {"timeout"}


@contract("S6.5", partly=True)
@workers
@pytest.mark.parametrize("seconds", [0, 0.02])
def test_a_time_out_outlives_questions_about_the_server(node: pa.ActorSystem, worker: int, seconds: float) -> None:
    """Those of `sys_` aren't messages to it; while it is suspended, it waits."""
    quiet = doll(worker, pa.self_(), Telling)
    hold(quiet, lambda _: pa.NoReply(timeout=seconds))
    asker = puppet(worker)
    asker.tell(pa.sys_.get_state, quiet, None)
    eventually(lambda: pa.process_info(quiet, "message_queue_len") == 1, "it is asked")
    pa.send(quiet, "go on")
    assert get() == "timeout"
    pa.cast(quiet, lambda _: pa.NoReply(timeout=seconds))
    pa.sys_.suspend(quiet)
    pa.sys_.resume(quiet)
    assert get() == "timeout"
    assert mail() == []


# --- ends -------------------------------------------------------------------------------------------------------------

carefuls = pytest.mark.parametrize("careful", [Careful, AsyncCareful], ids=["class", "async"])


def careful_one(careful: Any, worker: int, **state: Any) -> tuple[pa.Pid, pa.Ref]:
    """A server with terminate(), and a monitor."""
    made: tuple[pa.Pid, pa.Ref] | None
    made = pa.options(worker=worker).start_monitor(careful, {"to": pa.self_(), **state})
    assert made is not None
    return made


def terminated() -> Any:
    """What terminate() was called with."""
    return pa.receive(("terminate", pa.ANY), timeout=WAIT)[1]


@contract("S6.6")
@workers
@carefuls
def test_terminate_runs_at_each_end_of_ones_own(node: pa.ActorSystem, worker: int, careful: Any) -> None:
    ends: list[tuple[Callable[[Any], object], object]] = [
        (lambda _: pa.Stop(), "normal"),
        (lambda _: pa.Stop("boom"), "boom"),
        (lambda _: pa.Stop(pa.Shutdown(1)), pa.Shutdown(1)),
        (fail, pa.Crash("ValueError", "broken")),
        (lambda _: None, ("bad_return_value", "None")),
        (end("mine"), "mine"),
        (lambda _: sys.exit(), "normal"),
        (lambda _: sys.exit(2), pa.Crash("SystemExit", "2")),
        (raise_base, pa.Crash("KeyboardInterrupt", "")),
    ]
    for message, reason in ends:
        for send in (pa.cast, pa.send, call_quietly):
            pid, ref = careful_one(careful, worker)
            send(pid, forgiving(message))
            assert reason_of(ref) == reason
            assert terminated() == reason
            assert mail() == []


def forgiving(request: Callable[[Any], Any]) -> Callable[..., Any]:
    """A request for calls (from_, state) as for the others (state)."""
    return lambda *args: request(args[-1])


def call_quietly(pid: pa.Pid, request: Any) -> None:
    with pytest.raises(pa.RemoteError):
        pa.call(pid, request)


def raise_base(_: object) -> None:
    raise KeyboardInterrupt


@contract("S6.6")
@everywhere
@carefuls
def test_terminate_does_not_run_on_kill(node: pa.ActorSystem, here: int, there: int, careful: Any) -> None:
    other = place(here)
    for busy in (False, True):
        pid, ref = careful_one(careful, there)
        if busy:
            occupy(pid)
        other.do(pa.exit, pid, "kill")
        assert reason_of(ref) == "killed"
        assert mail() == []


@contract("S6.6")
@everywhere
@carefuls
@pytest.mark.parametrize("reason", ["shutdown", "boom", ("t", [1])], ids=str)
def test_terminate_runs_when_the_parent_orders_the_end(
    node: pa.ActorSystem, here: int, there: int, careful: Any, reason: object
) -> None:
    """Though it doesn't trap exits: it has a terminate(), so there is something to clean up."""
    parent = place(here)
    me = pa.self_()
    pid = parent.do(starting, careful, {"to": me}, worker=there)
    watch = down_of(pid)
    parent.do(pa.exit, pid, reason)
    assert reason_of(watch) == reason
    assert terminated() == reason


@contract("S6.6")
@everywhere
@carefuls
def test_terminate_does_not_run_on_others_exits(node: pa.ActorSystem, here: int, there: int, careful: Any) -> None:
    """Neither on a stranger's nor through a link, where exits aren't trapped; `normal` does nothing at all."""
    stranger = place(here)
    parent = puppet(1)
    for how in ("exit", "link", "parent's link"):
        pid = parent.do(starting, careful, {"to": pa.self_()}, worker=there, how="start_link")
        watch = down_of(pid)
        linked = puppet(0)
        stranger.do(pa.exit, pid, "normal")
        if how == "exit":
            stranger.do(pa.exit, pid, "boom")
            parent = puppet(1)
        elif how == "link":
            linked.do(pa.link, pid)
            linked.end("boom")
            parent = puppet(1)
        else:
            parent.end("boom")
        assert reason_of(watch) == "boom"
    assert mail() == []


@contract("S6.6")
@everywhere
@carefuls
@pytest.mark.parametrize("reason", ["shutdown", "boom", "normal"])
def test_a_trapping_server_and_its_parent(
    node: pa.ActorSystem, here: int, there: int, careful: Any, reason: str
) -> None:
    """The parent's end is its own, whatever the reason; that of others is an info."""
    parent = puppet(max(here, 0))
    me = pa.self_()
    pid = parent.do(starting, careful, {"to": me}, worker=there, how="start_link")
    pa.call(pid, lambda _, s: pa.Reply(pa.trap_exit()))
    pa.exit(pid, "stranger's")
    watch = down_of(pid)
    pa.call(pid, lambda *_: pa.Reply(1))
    parent.end(reason)
    assert reason_of(watch) == reason
    assert terminated() == reason
    assert mail() == []


@contract("S6.6")
@everywhere
def test_exits_of_others_are_infos_when_trapped(node: pa.ActorSystem, here: int, there: int) -> None:
    other = place(here)
    pid = puppet(1).do(starting, Doll, lambda: [pa.trap_exit()], worker=there)
    other.do(pa.exit, pid, "boom")
    linked = puppet(0)
    linked.do(pa.link, pid)
    linked.end("bang")
    assert pa.call(pid, lambda _, s: pa.Reply(s)) == [False, pa.Exit(other.pid, "boom"), pa.Exit(linked.pid, "bang")]


@contract("S6.6")
def test_terminate_runs_at_the_stop_of_the_node(no_leaks: None, capfd: pytest.CaptureFixture[str]) -> None:
    with pa.ActorSystem(workers=2):
        for worker in (0, 1):
            for careful in (Printing, Doll):
                pid = pa.options(worker=worker).start(careful, worker)
                assert pid is not None
                assert pa.call(pid, state_of) == worker
    out = capfd.readouterr()
    assert sorted(out.out.splitlines()) == ["terminate shutdown 0", "terminate shutdown 1"]
    assert out.err == ""


class Printing(Doll):
    def terminate(self, reason: Any, state: Any) -> None:
        pa.sleep(0.01)
        print("terminate", reason, state)


@contract("S6.6")
@workers
@carefuls
@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (lambda: fail, pa.Crash("ValueError", "broken")),
        (lambda: end("other"), "other"),
        (lambda: lambda: sys.exit(0), "normal"),
        (lambda: lambda: pa.exit(pa.self_(), "kill"), "killed"),
        (lambda: lambda: pa.exit(pa.self_(), "boom"), "boom"),
    ],
    ids=["raises", "exits", "sys.exit", "killed", "exit"],
)
def test_a_terminate_that_fails(
    node: pa.ActorSystem, logged: None, worker: int, careful: Any, last: Any, reason: object
) -> None:
    """Its failure is the reason then. A caller that was to have a last reply has it, unless the server was killed."""
    pid, ref = careful_one(careful, worker, last=last())
    if reason in ("killed", "boom"):
        assert failure(pa.call, pid, lambda *_: pa.Stop("normal", reply="bye"), None).reason == reason
    else:
        assert pa.call(pid, lambda *_: pa.Stop("normal", reply="bye"), None) == "bye"
    assert pa.receive(pa.Down(ref, pid, pa.ANY), timeout=WAIT).reason == reason
    assert terminated() == "normal"
    assert len(reports(worker)) == (0 if reason in ("normal", "killed", "boom") else 1)
    pid, ref = careful_one(careful, worker, last=last())
    error = failure(pa.stop, pid, "asked")
    assert (error.kind, error.reason) == (pa.RemoteError, reason)
    if isinstance(reason, pa.Crash):
        assert error.cause == "ValueError('broken')"


@contract("S6.4", "S6.6", partly=True)
@everywhere
@carefuls
def test_stop(node: pa.ActorSystem, here: int, there: int, careful: Any) -> None:
    """It returns when terminate() has run and the name is free."""
    me = pa.self_()
    stopper = place(here)
    for reason in ("normal", "shutdown", "boom", ("t", [1]), pa.Shutdown({"a": 1})):
        for target in ("pid", "name"):
            pid = pa.options(worker=there, name="stopped").start(careful, {"to": me})
            assert pid is not None
            stopper.do(pa.stop, pid if target == "pid" else "stopped", reason)
            assert not pa.is_alive(pid)
            assert pa.whereis("stopped") is None
            assert terminated() == reason
    assert stopper.do(mail) == []


@contract("S6.4", partly=True)
@everywhere
def test_a_stop_that_takes_too_long(node: pa.ActorSystem, here: int, there: int) -> None:
    """It raises, and the server stops all the same when it gets to it."""
    stopper, pid = place(here), doll(there)
    watch = down_of(pid)
    hold(pid)
    for timeout in (0, 0.01):
        error = stopper.do(failure, pa.stop, pid, "normal", timeout)
        assert (error.kind, error.target, error.elapsed) == (pa.CallTimeout, pid, timeout)
    pa.send(pid, "go on")
    assert reason_of(watch) == "normal"
    assert stopper.do(mail) == []


@contract("S6.4", partly=True)
def test_a_stop_of_one_that_ends_otherwise(node: pa.ActorSystem) -> None:
    pid = doll(1)
    occupy(pid)
    pa.options(worker=1).spawn(kill_when_waiting, pid)
    error = failure(pa.stop, pid)
    assert (error.kind, error.reason) == (pa.RemoteError, "killed")
    pid = doll(0)
    pa.cast(pid, fail)
    assert failure(pa.stop, pid).kind in (pa.RemoteError, pa.NoProc)


def kill_when_waiting(pid: pa.Pid) -> None:
    while pa.process_info(pid, "message_queue_len") == 0:
        pa.sleep(0.001)
    pa.exit(pid, "kill")


# --- what isn't handled, and reports ----------------------------------------------------------------------------------


@contract("S6.7")
@everywhere
def test_unhandled_calls_and_casts_stop_the_server(node: pa.ActorSystem, here: int, there: int) -> None:
    caller = place(here)
    pid = doll(there, None, Default)
    error = caller.do(failure, pa.call, pid, "q")
    assert error.kind is pa.RemoteError
    assert error.reason == pa.Crash("NotImplementedError", "Default has no handle_call: got the call 'q'")
    for how, text in (
        (lambda pid: pa.cast(pid, "c"), "Default has no handle_cast: got the cast 'c'"),
        (lambda pid: None, "Default has no handle_continue: it was asked to continue with 't'"),
    ):
        pid = doll(there, None, Continuing if "continue" in text else Default)
        watch = down_of(pid)
        caller.do(how, pid)
        if "continue" in text:
            caller.do(pa.cast, pid, "go")
        assert reason_of(watch) == pa.Crash("NotImplementedError", text.replace("Default", type_of(text)))


def type_of(text: str) -> str:
    return "Continuing" if "continue" in text else "Default"


class Continuing(pa.GenServer):
    def handle_cast(self, request: Any, state: Any) -> Any:
        return pa.NoReply(continue_="t")


@contract("S6.7")
@workers
def test_unhandled_infos_are_logged(node: pa.ActorSystem, logged: None, worker: int) -> None:
    pid = doll(worker, 5, Informed)
    pa.send(pid, ("some", "info"))
    pa.send(pid, Shy())
    assert pa.call(pid, "state") == 5
    first, second = reports(worker, "parallel_actors.gen_server")
    assert first == f"Informed in {pid!r} has no handle_info: dropped the message ('some', 'info')"
    assert "repr() of a Shy failed" in second


class Informed(pa.GenServer):
    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return pa.Reply(state)


class Shy:
    """Has no repr()."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


@contract("S6.8")
@workers
@pytest.mark.parametrize("reason", ["normal", "shutdown", pa.Shutdown("x")], ids=str)
def test_an_orderly_end_logs_nothing(node: pa.ActorSystem, logged: None, worker: int, reason: object) -> None:
    for target in (Doll, MODULE, AsyncDoll):
        for message in (lambda *_: pa.Stop(reason), end(reason), lambda *_: pa.exit(pa.self_(), reason)):
            pid = doll(worker, None, target)
            watch = down_of(pid)
            pa.cast(pid, message)
            assert reason_of(watch) == reason
        pa.stop(doll(worker, None, target), reason)
        failure(starting, target, lambda: pa.Stop(reason), worker=worker)
    assert starting(Doll, lambda: pa.IGNORE, worker=worker) is None
    pid = doll(worker)
    watch = down_of(pid)
    pa.exit(pid, "kill")
    assert reason_of(watch) == "killed"
    assert reports(worker) == []


@contract("S6.8")
@workers
def test_one_report_of_each_other_end(node: pa.ActorSystem, logged: None, worker: int) -> None:
    pid = doll(worker, {"secret": 1}, name="reported")
    pa.send(pid, lambda _: pa.NoReply({"secret": 2}))
    assert failure(pa.call, pid, fail).kind is pa.RemoteError
    (report,) = reports(worker)
    lines = report.splitlines()
    assert lines[0] == f"process {pid!r} reported crashed on worker {worker}: ValueError: broken"
    assert lines[1].startswith("  running Doll; 0 messages waiting; links []; ancestors [")
    assert repr(pa.self_()) in lines[1]
    assert lines[2].startswith("  last message: ('$gen_call', (")
    assert "<function fail" in lines[2]
    assert lines[3] == "  state: {'secret': 2}"
    assert lines[-1] == "ValueError: broken"
    assert 'raise ValueError("broken")' in report
    for message, why in (
        (lambda *_: pa.Stop("boom"), "boom"),
        (lambda *_: pa.Stop(("t", [1])), "('t', [1])"),
        (lambda *_: None, "('bad_return_value', 'None')"),
        (end("mine"), "mine"),
        (lambda *_: sys.exit("word"), "SystemExit: word"),
    ):
        for send in (pa.cast, pa.send, call_quietly):
            pid = doll(worker)
            watch = down_of(pid)
            send(pid, message)
            reason_of(watch)
            (report,) = reports(worker)
            assert report.splitlines()[0] == f"process {pid!r} crashed on worker {worker}: {why}"
    failure(pa.stop, doll(worker, lambda: {"to": None, "last": None}, Careful), "asked")
    assert len(reports(worker)) == 1
    pa.stop(doll(worker), "asked")
    (report,) = reports(worker)
    assert "crashed on worker" in report


@contract("S6.8", "S6.2", partly=True)
@workers
@kinds
def test_a_report_of_an_init_that_fails(node: pa.ActorSystem, logged: None, worker: int, kind: Any) -> None:
    for make, why in (
        (fail, "ValueError: broken"),
        (lambda: pa.Stop("boom"), "boom"),
        (end("boom"), "boom"),
        (lambda: pa.NoReply(), "('bad_return_value', 'NoReply(...)')"),
    ):
        error = failure(starting, kind, make, worker=worker, name="failing")
        (report,) = reports(worker)
        first, second, *_ = report.splitlines()
        assert first == f"process {error.target!r} failing crashed on worker {worker}: {why}"
        assert second.startswith(f"  running {getattr(kind, '__qualname__', 'test_gen_server')};")


class Discreet(Doll):
    """Shows what it is told to instead of its state."""

    def format_status(self, status: dict[str, Any]) -> Any:
        return status["state"](status)


@contract("S6.8")
@workers
@pytest.mark.parametrize(
    ("format_status", "expected"),
    [
        (lambda s: {**s, "state": "<hidden>", "message": "<m>"}, ["  last message: '<m>'", "  state: '<hidden>'"]),
        (fail, ["  last message: ?", "  state: <format_status of Discreet failed: ValueError>"]),
        (lambda s: None, ["  last message: ?", "  state: <format_status of Discreet failed: TypeError>"]),
        (lambda s: {}, ["  last message: ?", "  state: <format_status of Discreet failed: KeyError>"]),
        (lambda s: sys.exit(0), ["  last message: ?", "  state: <format_status of Discreet failed: SystemExit>"]),
        (end("x"), ["  last message: ?", "  state: <format_status of Discreet failed: ProcessExit>"]),
        (
            lambda s: {**s, "state": Shy(), "message": "m" * 2000},
            [f"  last message: '{'m' * 999}... (2002 characters)", "  state: <repr() of a Shy failed: RuntimeError>"],
        ),
    ],
    ids=["hides", "raises", "none", "empty", "sys.exit", "exit", "repr fails"],
)
def test_format_status(
    node: pa.ActorSystem, logged: None, worker: int, format_status: Any, expected: list[str]
) -> None:
    pid = doll(worker, lambda: format_status, Discreet)
    watch = down_of(pid)
    pa.cast(pid, lambda _: pa.Stop("boom"))
    assert reason_of(watch) == "boom"
    (report,) = reports(worker)
    assert report.splitlines()[2:4] == expected


@contract("S6.8")
def test_format_status_may_hide_the_reason(node: pa.ActorSystem, logged: None) -> None:
    pid = doll(0, lambda: lambda s: {**s, "reason": "<hidden>"}, Discreet)
    watch = down_of(pid)
    pa.cast(pid, lambda _: pa.Stop("secret"))
    assert reason_of(watch) == "secret"
    (report,) = reports(0)
    assert "secret" not in report
    assert "<hidden>" in report


@contract("S6.8")
@workers
def test_a_reason_that_cannot_be_shown(node: pa.ActorSystem, logged: None, worker: int) -> None:
    pid = doll(worker)
    error = failure(pa.call, pid, lambda *_: pa.Stop(Shy()))
    assert "repr() of a Shy failed" in error.text
    (report,) = reports(worker)
    assert "repr() of a Shy failed" in report
    error = failure(starting, Doll, lambda: pa.Stop(Shy()), worker=worker)
    assert error.kind is pa.StartError
    (report,) = reports(worker)
    assert "repr() of a Shy failed" in report


# --- as a process -----------------------------------------------------------------------------------------------------


@everywhere
@kinds
def test_an_idle_server_holds_no_stack(node: pa.ActorSystem, here: int, there: int, kind: Any) -> None:
    def nap(*_: object) -> Any:
        pa.sleep(0.0001)
        return pa.Reply("woken")

    looker, pid = place(here), doll(there, None, kind)
    for _ in range(3):
        assert looker.do(pa.call, pid, nap) == "woken"
        eventually(lambda: looker.do(pa.process_info, pid, "status") == "waiting", "it is idle")
        facts = looker.do(pa.process_info, pid)
        assert (facts["kind"], facts["current_stacktrace"], facts["message_queue_len"]) == ("callback", None, 0)
    occupy(pid)
    eventually(lambda: looker.do(pa.process_info, pid, "current_stacktrace")[0].endswith(" park"), "it is parked")
    stack = looker.do(pa.process_info, pid, "current_stacktrace")
    assert any(line.endswith("handle_cast") for line in stack)


@contract("S1.8", partly=True)
@workers
@kinds
def test_a_server_that_computes_gives_way(node: pa.ActorSystem, worker: int, kind: Any) -> None:
    pid, neighbour = doll(worker, None, kind), doll(worker)
    watch = down_of(pid)
    occupy(pid, spin)
    for _ in range(20):
        assert pa.call(neighbour, state_of) is None
    pa.exit(pid, "kill")
    assert reason_of(watch) == "killed"


def test_many_servers(node: pa.ActorSystem) -> None:
    pids = [doll(i % 2, i) for i in range(500)]
    assert [pa.call(pid, state_of) for pid in pids] == [*range(500)]
    for pid in pids:
        pa.cast(pid, lambda s: pa.NoReply(s + 1))
    assert [pa.call(pid, state_of) for pid in pids] == [*range(1, 501)]
