"""GenStatem: events, transitions, actions, time-outs, ends (S6.9), as OTP's suite groups them.

The machines here are dolls: what an event holds is a function, called as the callback that gets it; `seen` has the
others.

    pid = doll(0, "a")
    pa.cast(pid, lambda event, state, data: pa.NextState("b", data))
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from parallel_actors.gen_statem import _Machine
from puppets import WAIT, Puppet, get, mail, puppet

Do = Callable[[Any, Any, Any], Any]


def react(event: pa.Event, state: Any, data: dict[str, Any]) -> Any:
    """What every doll does: an event that holds a function is that function's."""
    if isinstance(event, pa.Enter):
        data["seen"].append(("enter", event.old_state, state))
        return data["enter"](event, state, data) if "enter" in data else pa.KeepStateAndData()
    if callable(event.content):
        return event.content(event, state, data)
    data["seen"].append((state, pa.Call(event.content, None) if isinstance(event, pa.Call) else event))  # type: ignore[arg-type]
    return pa.KeepStateAndData()


class AnyState(pa.GenStatem[Any, dict[str, Any]], state_enter=True):
    """Any value is a state."""

    def init(self, state: Any = "a", *actions: Any, **data: Any) -> Any:
        return state() if callable(state) else pa.NextState(state, {"seen": [], **data}, *actions)

    def handle_event(self, event: pa.Event, state: Any, data: Any) -> Any:
        return react(event, state, data)


class Functions(pa.GenStatem[Any, dict[str, Any]], state_enter=True):
    """The same by state functions."""

    init = AnyState.init

    @pa.state
    def a(self, event: pa.Event, data: Any) -> Any:
        return react(event, "a", data)

    @pa.state
    def b(self, event: pa.Event, data: Any) -> Any:
        return react(event, "b", data)

    @pa.state
    def c(self, event: pa.Event, data: Any) -> Any:
        return react(event, "c", data)


class Later(pa.GenStatem[Any, dict[str, Any]], state_enter=True):
    """The same in `async def`; each waits a little."""

    async def init(self, *args: Any, **data: Any) -> Any:
        await pa.asleep(0)
        return AnyState.init(self, *args, **data)  # type: ignore[arg-type]

    async def handle_event(self, event: pa.Event, state: Any, data: Any) -> Any:
        await pa.asleep(0)
        return react(event, state, data)


class Careful(AnyState):
    """Tells `data["to"]` of its end."""

    def terminate(self, reason: Any, state: Any, data: Any) -> None:
        pa.send(data["to"], ("terminate", reason, state, data.get("last")))

    def format_status(self, status: dict[str, Any]) -> dict[str, Any]:
        return {**status, "data": "<hidden>"}

    def code_change(self, version: Any, state: Any, data: Any, extra: Any) -> Any:
        if extra == "fail":
            raise ValueError("no such version")
        return "c", {**data, "version": version}


class CarefulFunctions(Functions):
    terminate = Careful.terminate
    format_status = Careful.format_status
    code_change = Careful.code_change


class Plain(AnyState, state_enter=False):
    """Without enter calls."""


def str_of(kind: Any) -> str:
    return f"{kind[0].__name__}-{kind[1]}"


@pytest.fixture(params=[(AnyState, 0), (Functions, 1), (Functions, 0), (AnyState, 1), (Later, 0)], ids=str_of)
def kind(request: pytest.FixtureRequest) -> tuple[type[pa.GenStatem[Any, Any]], int]:
    """The mode, and the worker."""
    return request.param  # type: ignore[no-any-return]


careful = pytest.mark.parametrize("kind", [(Careful, 0), (CarefulFunctions, 1)], ids=str_of)
both = pytest.mark.parametrize("kind", [(AnyState, 1), (Functions, 0)], ids=str_of)
Kind = tuple[Any, int]


def doll(kind: Kind, *args: Any, data: dict[str, Any] | None = None, **choices: Any) -> pa.Pid:
    pid: pa.Pid = pa.options(worker=kind[1], **choices).start(kind[0], *args, **(data or {}))
    return pid


def state_of(pid: pa.Pid) -> Any:
    return pa.sys_.get_state(pid, WAIT)[0]


def seen(pid: pa.Pid) -> list[Any]:
    """What it has been told until now, but enter calls."""
    return [each for each in pa.sys_.get_state(pid, WAIT)[1]["seen"] if each[0] != "enter"]


def entered(pid: pa.Pid) -> list[Any]:
    return [each[1:] for each in pa.sys_.get_state(pid, WAIT)[1]["seen"] if each[0] == "enter"]


def timeouts(pid: pa.Pid) -> list[Any]:
    found: list[Any] = pa.sys_.get_status(pid, WAIT)["timeouts"]
    return found


def stay(*actions: Any) -> Do:
    """An event: these actions."""
    return lambda *_: pa.KeepStateAndData(*actions)


def go(state: Any, *actions: Any) -> Do:
    """An event: go to a state."""
    return lambda _, __, data: pa.NextState(state, data, *actions)


def tell(to: pa.Pid, what: Any, then: Do | None = None) -> Do:
    """An event: send `what`, and the state, to somebody."""

    def told(event: Any, state: Any, data: Any) -> Any:
        pa.send(to, (what, state))
        return pa.KeepStateAndData() if then is None else then(event, state, data)

    return told


def when(wanted: Any, then: Do) -> Do:
    """An event: `then` in that state, postponed in all others."""
    return lambda event, state, data: (
        then(event, state, data) if state == wanted else pa.KeepStateAndData(pa.Postpone())
    )


def reason_of(pid: pa.Pid, content: Any) -> Any:
    """What it ends with when it gets that cast."""
    watch = Puppet(pid).watch()
    pa.cast(pid, content)
    return Puppet.reason_of(watch)


def reports(worker: int) -> list[str]:
    """The crashes that were logged on that worker since the last look. For tests with `logged`."""
    puppet(worker).do(logging.getLogger("parallel_actors.mark").error, "mark")
    found: list[str] = []
    while True:
        _, logger, text = pa.receive(("logged", pa.ANY, pa.ANY), timeout=WAIT)
        if logger == "parallel_actors.mark":
            return found
        if logger == "parallel_actors.crash":
            found.append(text)


# --- start ------------------------------------------------------------------------------------------------------------


@contract("S6.9", partly=True)
def test_a_start_returns_when_init_has_not_when_the_state_is_entered(node: pa.ActorSystem, kind: Kind) -> None:
    def hold(*_: Any) -> Any:
        pa.receive("go on")
        return pa.KeepStateAndData()

    pid = doll(kind, "a", data={"enter": hold}, name="machine")
    assert pa.whereis("machine") == pid
    pa.send(pid, "go on")  # taken by the enter call: it isn't an event
    assert entered(pid) == [("a", "a")]
    assert seen(pid) == []


@contract("S6.9", partly=True)
def test_starts(node: pa.ActorSystem, kind: Kind) -> None:
    """It starts, is linked and monitored, ignores, stops and fails as a GenServer."""
    chosen = pa.options(worker=kind[1])
    pid, ref = chosen.start_monitor(kind[0])
    pa.stop(pid)
    assert get() == pa.Down(ref, pid, "normal")
    pid = chosen.start_link(kind[0], "b")
    assert pa.process_info(pid, "links") == [pa.self_()]
    assert state_of(pid) == "b"
    pa.unlink(pid)
    assert chosen.start(kind[0], lambda: pa.IGNORE) is None
    for result, reason in [
        (lambda: pa.Stop("why"), "why"),
        (lambda: pa.KeepStateAndData(), ("bad_return_value", "KeepStateAndData()")),
        (lambda: None, ("bad_return_value", "None")),
    ]:
        with pytest.raises(pa.StartError) as caught:
            chosen.start(kind[0], result)
        assert caught.value.reason == reason
    assert mail() == []


@contract("S6.9", partly=True)
def test_the_actions_of_init(node: pa.ActorSystem, kind: Kind) -> None:
    """A postpone isn't one there: there is no event."""
    actions = [pa.Postpone(), pa.NextEvent(pa.Internal("first")), pa.StateTimeout(0, "second"), pa.Timeout("t", 1000)]
    pid = doll(kind, "b", *actions)
    eventually(lambda: len(seen(pid)) == 2, "both events came")
    assert seen(pid) == [("b", pa.Internal("first")), ("b", pa.StateTimeout(0, "second"))]
    assert timeouts(pid) == [pa.Timeout("t", 1000)]
    assert pa.sys_.get_status(pid)["postponed"] == []


@contract("S6.9", partly=True)
def test_a_state_that_there_is_not_names_those_that_there_are(node: pa.ActorSystem, logged: None) -> None:
    for state in ("lcoked", 1, ["a"], "init"):
        with pytest.raises(pa.StartError, match=r"expected a state of Functions \(a, b, c\), got "):
            doll((Functions, 0), state)
    pid = doll((Functions, 0))
    reason = reason_of(pid, go("lcoked"))
    assert (reason.type, reason.text) == ("ValueError", "expected a state of Functions (a, b, c), got 'lcoked'")


# --- events -----------------------------------------------------------------------------------------------------------


@contract("S6.9", partly=True)
def test_the_types_of_events(node: pa.ActorSystem, kind: Kind) -> None:
    pid = doll(kind)
    request = pa.send_request(pid, 1)
    pa.cast(pid, 2)
    pa.send(pid, 3)
    pa.send(pid, "timeout")
    made: list[Any] = [
        pa.Internal(4),
        pa.Cast(5),
        pa.Info(6),
        pa.StateTimeout(7, 8),
        pa.Timeout("n", 9),
        pa.EventTimeout(1),
    ]
    pa.cast(pid, stay(*map(pa.NextEvent, made)))
    events = [pa.Call(1, None), pa.Cast(2), pa.Info(3), pa.Info("timeout"), *made]  # type: ignore[arg-type]
    assert seen(pid) == [("a", each) for each in events]
    request.abandon()


@contract("S6.9", partly=True)
def test_calls_are_answered_now_later_and_by_others(node: pa.ActorSystem, kind: Kind) -> None:
    pid = doll(kind)
    me = pa.self_()
    assert pa.call(pid, lambda event, *_: pa.KeepStateAndData(event.reply("now"))) == "now"
    assert pa.call(pid, lambda event, *_: pa.KeepStateAndData(pa.ReplyAction(event.from_, None))) is None

    def ask_back(event: Any, *_: Any) -> Any:
        pa.send(me, event.from_)
        return pa.KeepStateAndData()

    first, second = pa.send_request(pid, ask_back), pa.send_request(pid, ask_back)
    froms = [pa.receive((pa.ANY, pa.ANY, pa.ANY), timeout=WAIT) for _ in range(2)]
    pa.cast(pid, stay(pa.ReplyAction(froms[1], 2), pa.ReplyAction(froms[0], 1)))
    assert (first.wait(WAIT), second.wait(WAIT)) == (1, 2)
    third = pa.send_request(pid, ask_back)
    pa.reply(pa.receive((pa.ANY, pa.ANY, pa.ANY), timeout=WAIT), "from outside")
    assert third.wait(WAIT) == "from outside"


@contract("S6.9", partly=True)
def test_inserted_events_come_before_all_others_in_their_order(node: pa.ActorSystem, kind: Kind) -> None:
    pid = doll(kind)

    def insert(*_: Any) -> Any:
        pa.send(pa.self_(), "external")
        deeper = stay(pa.NextEvent(pa.Internal(2)), pa.NextEvent(pa.Internal(3)))
        return pa.KeepStateAndData(
            pa.NextEvent(pa.Internal(1)), pa.NextEvent(pa.Cast(deeper)), pa.NextEvent(pa.Internal(4))
        )

    pa.cast(pid, insert)
    eventually(lambda: len(seen(pid)) == 5, "all events came")
    assert [event.content for _, event in seen(pid)] == [1, 2, 3, 4, "external"]


# --- transitions ------------------------------------------------------------------------------------------------------


@contract("S6.9", partly=True)
def test_what_a_callback_may_return(node: pa.ActorSystem, kind: Kind) -> None:
    """State and data after each, and the enter calls."""
    pid = doll(kind)
    steps: list[tuple[Do, str, Any, list[Any]]] = [
        (lambda _, __, data: pa.NextState("b", {**data, "n": 1}), "b", 1, [("a", "b")]),
        (lambda _, __, data: pa.NextState("b", {**data, "n": 2}), "b", 2, []),
        (lambda _, __, data: pa.KeepState({**data, "n": 3}), "b", 3, []),
        (lambda *_: pa.KeepStateAndData(), "b", 3, []),
        (lambda _, __, data: pa.RepeatState({**data, "n": 4}), "b", 4, [("b", "b")]),
        (lambda *_: pa.RepeatStateAndData(), "b", 4, [("b", "b")]),
        (lambda _, __, data: pa.NextState("a", {**data, "n": 5}), "a", 5, [("b", "a")]),
    ]
    calls = entered(pid)
    assert calls == [("a", "a")]
    for step, state, n, more in steps:
        pa.cast(pid, step)
        found, data = pa.sys_.get_state(pid, WAIT)
        calls += more
        assert (found, data["n"], entered(pid)) == (state, n, calls)


@contract("S6.9", partly=True)
def test_states_may_be_any_values(node: pa.ActorSystem) -> None:
    pid = doll((AnyState, 1), ("floor", 1))
    pa.cast(pid, go(("floor", 2)))
    pa.cast(pid, go(("floor", 2)))
    pa.cast(pid, go(["not", "hashed"]))
    assert entered(pid) == [
        (("floor", 1), ("floor", 1)),
        (("floor", 1), ("floor", 2)),
        (("floor", 2), ["not", "hashed"]),
    ]


@contract("S6.9", partly=True)
def test_what_an_enter_call_may_do(node: pa.ActorSystem, kind: Kind) -> None:
    """Its data counts; its actions come after those of the event; it may have itself repeated; no event is between."""

    def enter(event: Any, state: Any, data: Any) -> Any:
        if state == "a":
            return pa.KeepStateAndData()
        if data.get("times", 0) < 2:
            return pa.RepeatState({**data, "times": data.get("times", 0) + 1})
        return pa.NextState(
            "b", {**data, "done": True}, data["asked"].reply("entered"), pa.StateTimeout(1000, "enter"), pa.Hibernate()
        )

    pid = doll(kind, "a", data={"enter": enter})

    def change(event: Any, state: Any, data: Any) -> Any:
        timer = pa.StateTimeout(1000, "event")
        return pa.NextState("b", {**data, "asked": event}, timer, pa.NextEvent(pa.Internal("next")))

    assert pa.call(pid, change) == "entered"
    assert entered(pid) == [("a", "a"), *[("a", "b")] * 3]
    assert (timeouts(pid), seen(pid)) == ([pa.StateTimeout(1000, "enter")], [("b", pa.Internal("next"))])
    assert pa.sys_.get_state(pid)[1]["done"]


@contract("S6.9", partly=True)
@both
def test_what_an_enter_call_may_not_do(node: pa.ActorSystem, kind: Kind) -> None:
    module = kind[0]
    results: list[tuple[Any, str]] = [
        (pa.NextState("c", {}), "bad_return_value"),
        (pa.KeepStateAndData(pa.Postpone()), "bad_action_value"),
        (pa.KeepStateAndData(pa.NextEvent(pa.Internal())), "bad_action_value"),
        (pa.KeepStateAndData(pa.PushCallbackModule(module)), "bad_action_value"),
    ]
    for result, reason in results:
        pid = doll(kind, "a", data={"enter": lambda _, s, __, r=result: r if s == "b" else pa.KeepStateAndData()})
        assert reason_of(pid, go("b"))[0] == reason
    pid = doll(kind, "a", data={"enter": lambda *_: pa.KeepStateAndData(pa.Postpone(False))})
    assert reason_of(pid, lambda *_: pa.Stop("it may say that it doesn't")) == "it may say that it doesn't"
    pid = doll(kind, "a", data={"enter": lambda _, s, d: pa.Stop("in enter") if s == "b" else pa.KeepStateAndData()})
    assert reason_of(pid, go("b")) == "in enter"


@contract("S6.9", partly=True)
def test_there_are_no_enter_calls_where_nobody_asks_for_them(node: pa.ActorSystem) -> None:
    pid = doll((Plain, 0))
    pa.cast(pid, go("b"))
    pa.cast(pid, lambda *_: pa.RepeatStateAndData())
    assert entered(pid) == []


# --- postpone ---------------------------------------------------------------------------------------------------------


@contract("S6.9", partly=True)
def test_postponed_events_come_again_in_order_after_a_change_of_state(node: pa.ActorSystem, kind: Kind) -> None:
    """After the events that the change inserts, before what waits inside and outside."""
    pid = doll(kind)
    me = pa.self_()
    for number in range(3):
        pa.cast(pid, when("b", tell(me, number)))
    pa.cast(pid, go("b", pa.NextEvent(pa.Internal(tell(me, "inserted")))))
    pa.cast(pid, tell(me, "outside"))
    assert [get() for _ in range(5)] == [(what, "b") for what in ("inserted", 0, 1, 2, "outside")]
    pa.cast(pid, when("c", tell(me, "postponed")))
    pa.cast(pid, stay(pa.NextEvent(pa.Internal(go("c"))), pa.NextEvent(pa.Internal(tell(me, "inside")))))
    assert [get() for _ in range(2)] == [("postponed", "c"), ("inside", "c")]


@contract("S6.9", partly=True)
def test_postponed_events_wait_for_another_state(node: pa.ActorSystem, kind: Kind) -> None:
    """Nothing else brings them back: not new data, not the same state, not a repeated one."""
    pid = doll(kind)
    me = pa.self_()
    tries = lambda event, state, data: tell(me, "tried", stay(pa.Postpone()))(event, state, data)  # noqa: E731
    pa.cast(pid, tries)
    assert get() == ("tried", "a")
    for step in (go("a"), lambda _, __, data: pa.KeepState(data), lambda *_: pa.RepeatStateAndData(), stay()):
        pa.cast(pid, step)
    assert len(pa.sys_.get_status(pid)["postponed"]) == 1
    assert mail() == []
    pa.cast(pid, go("b"))
    assert get() == ("tried", "b")
    pa.cast(pid, go("a"))
    assert get() == ("tried", "a")
    assert len(pa.sys_.get_status(pid)["postponed"]) == 1


@contract("S6.9", partly=True)
def test_an_event_that_is_postponed_as_the_state_changes(node: pa.ActorSystem, kind: Kind) -> None:
    """It is the last of those that come again, and does so at once."""
    pid = doll(kind)
    me = pa.self_()
    pa.cast(pid, when("b", tell(me, "first")))
    pa.cast(pid, lambda e, s, d: tell(me, "second", go("b", pa.Postpone()) if s == "a" else None)(e, s, d))
    assert [get() for _ in range(3)] == [("second", "a"), ("first", "b"), ("second", "b")]


@contract("S6.9", partly=True)
def test_a_postponed_call_is_answered_later(node: pa.ActorSystem, kind: Kind) -> None:
    pid = doll(kind)
    request = pa.send_request(pid, when("c", lambda event, *_: pa.KeepStateAndData(event.reply("at last"))))
    pa.cast(pid, go("b"))
    with pytest.raises(pa.CallTimeout):
        request.wait(0)
    pa.cast(pid, go("c"))
    assert request.wait(WAIT) == "at last"


# --- time-outs --------------------------------------------------------------------------------------------------------

SHORT = 0.01
kinds_of_timeouts = pytest.mark.parametrize(
    "timeout",
    [pa.EventTimeout, pa.StateTimeout, lambda *args, **kwargs: pa.Timeout("name", *args, **kwargs)],
    ids=["event", "state", "name"],
)


@contract("S6.9", partly=True)
@kinds_of_timeouts
@both
def test_a_timeout_comes_once_with_its_content(node: pa.ActorSystem, kind: Kind, timeout: Any) -> None:
    pid = doll(kind)
    me = pa.self_()
    pa.cast(pid, stay(timeout(SHORT, tell(me, "timeout"))))
    assert get() == ("timeout", "a")
    pa.cast(pid, stay(timeout(time.monotonic() + SHORT, tell(me, "absolute"), absolute=True)))
    assert get() == ("absolute", "a")
    pa.cast(pid, stay(timeout(0, tell(me, "zero"))))
    assert get() == ("zero", "a")
    pa.cast(pid, stay(timeout(-5, tell(me, "long ago"), absolute=True)))
    assert get() == ("long ago", "a")
    assert (timeouts(pid), mail()) == ([], [])


@contract("S6.9", partly=True)
def test_what_ends_a_timeout(node: pa.ActorSystem, kind: Kind) -> None:
    pid = doll(kind)
    all_of_them = [pa.EventTimeout(1000), pa.StateTimeout(1000), pa.Timeout("x", 1000), pa.Timeout(("y", 2), 1000)]
    pa.cast(pid, stay(*all_of_them))
    assert timeouts(pid) == all_of_them  # a question of sys_ is no event
    pa.cast(pid, stay())
    assert timeouts(pid) == all_of_them[1:]
    pa.cast(pid, stay(pa.EventTimeout(1000), pa.NextEvent(pa.Internal())))  # ends it, though made by the machine itself
    assert timeouts(pid) == all_of_them[1:]
    pa.cast(pid, go("a"))
    pa.cast(pid, lambda *_: pa.RepeatStateAndData())
    assert timeouts(pid) == all_of_them[1:]
    pa.cast(pid, go("b", pa.StateTimeout(2000)))
    assert timeouts(pid) == [*all_of_them[2:], pa.StateTimeout(2000)]
    pa.cast(pid, go("a"))
    assert timeouts(pid) == all_of_them[2:]
    pa.cast(pid, stay(pa.Timeout("x", "cancel"), pa.Timeout("none", "cancel")))
    assert timeouts(pid) == all_of_them[3:]
    pa.cast(pid, stay(pa.Timeout(("y", 2), None)))
    assert timeouts(pid) == []


@contract("S6.9", partly=True)
@kinds_of_timeouts
def test_the_last_of_a_kind_counts(node: pa.ActorSystem, timeout: Any) -> None:
    """Among the actions of one return, and of later ones: setting one again begins it anew."""
    pid = doll((Functions, 1))
    pa.cast(pid, stay(timeout(0, "first"), timeout(1000, "second"), timeout(2000, "third")))
    assert (timeouts(pid), seen(pid)) == ([timeout(2000, "third")], [])
    pa.cast(pid, stay(timeout(3000, "fourth")))
    assert timeouts(pid) == [timeout(3000, "fourth")]
    pa.cast(pid, stay(timeout(0, "fifth"), timeout("cancel")))
    assert (timeouts(pid), seen(pid)) == ([], [])
    me = pa.self_()
    pa.cast(pid, stay(pa.Postpone(), pa.Postpone(False)))
    assert pa.sys_.get_status(pid)["postponed"] == []
    pa.cast(pid, stay(timeout(1000), timeout(SHORT, tell(me, "came"))))
    assert get() == ("came", "a")


@contract("S6.9", partly=True)
@both
def test_the_content_of_a_timeout_is_updated(node: pa.ActorSystem, kind: Kind) -> None:
    """Of one that runs; else it comes at once. An event time-out has ended by the very event that updates it."""
    pid = doll(kind)
    pa.cast(pid, stay(pa.StateTimeout(1000, "old"), pa.Timeout("t", 2000, "old"), pa.EventTimeout(1000, "old")))
    pa.cast(
        pid, stay(*(each("update", "new") for each in (pa.StateTimeout, pa.EventTimeout)), pa.Timeout("t", "update"))
    )
    assert timeouts(pid) == [pa.StateTimeout(1000, "new"), pa.Timeout("t", 2000, None)]
    assert seen(pid) == [("a", pa.EventTimeout(0, "new"))]
    pa.cast(pid, stay(pa.Timeout("other", "update", "at once")))
    assert seen(pid)[1:] == [("a", pa.Timeout("other", 0, "at once"))]
    pa.cast(pid, stay(pa.StateTimeout(0, "zero"), pa.NextEvent(pa.Cast(stay(pa.StateTimeout("update", "changed"))))))
    assert seen(pid)[2:] == [("a", pa.StateTimeout(0, "changed"))]


@contract("S6.9", partly=True)
def test_a_timeout_of_zero_waits_for_what_is_inside_not_for_what_is_outside(node: pa.ActorSystem, kind: Kind) -> None:
    pid = doll(kind)

    def zero(*_: Any) -> Any:
        pa.send(pa.self_(), "outside")
        return pa.KeepStateAndData(
            pa.Timeout("n", 0),
            pa.StateTimeout(0),
            pa.Timeout("n", 0),
            pa.NextEvent(pa.Internal(1)),
            pa.NextEvent(pa.Internal(2)),
        )

    pa.cast(pid, zero)
    eventually(lambda: len(seen(pid)) == 5, "all events came")
    expected = [pa.Internal(1), pa.Internal(2), pa.StateTimeout(0), pa.Timeout("n", 0), pa.Info("outside")]
    assert [event for _, event in seen(pid)] == expected


@contract("S6.9", partly=True)
def test_a_timeout_of_zero_can_be_ended(node: pa.ActorSystem, kind: Kind) -> None:
    """An event one by an event that waits inside, a state one by a change of state, a named one by hand."""
    pid = doll(kind)
    pa.cast(pid, stay(pa.EventTimeout(0), pa.NextEvent(pa.Internal(1))))
    assert seen(pid) == [("a", pa.Internal(1))]
    pa.cast(pid, stay(pa.StateTimeout(0), pa.NextEvent(pa.Cast(go("b")))))
    pa.cast(pid, stay(pa.Timeout("n", 0), pa.NextEvent(pa.Cast(stay(pa.Timeout("n", "cancel"))))))
    pa.cast(pid, stay(pa.EventTimeout(0, "alone")))
    assert seen(pid)[1:] == [("b", pa.EventTimeout(0, "alone"))]


@contract("S6.9", partly=True)
@kinds_of_timeouts
def test_a_timeout_that_is_ended_as_its_message_waits(node: pa.ActorSystem, timeout: Any) -> None:
    pid = doll((AnyState, 0))
    me = pa.self_()

    def cancel(*_: Any) -> Any:
        eventually(lambda: pa.process_info(pa.self_(), "message_queue_len"), "the time-out's message is there")
        pa.send(me, "ended")
        return pa.KeepStateAndData(timeout("cancel"))

    pa.cast(pid, stay(timeout(SHORT, "void"), pa.NextEvent(pa.Internal(cancel))))
    assert get() == "ended"
    pa.send(pid, "next")
    assert (seen(pid), timeouts(pid)) == ([("a", pa.Info("next"))], [])


@contract("S6.9", partly=True)
def test_an_ended_timeout_leaves_no_timer(node: pa.ActorSystem) -> None:
    machine = _Machine(AnyState)  # ours for once: its timers are this process's
    pair = machine.init("a").state
    for change in (stay(pa.StateTimeout("cancel")), stay(pa.StateTimeout(2000)), go("b")):
        machine.handle_cast(stay(pa.StateTimeout(1000)), pair)
        ref = machine.timers[pa.StateTimeout].ref
        assert ref is not None
        assert pa.read_timer(ref) is not None
        machine.handle_cast(change, pair)
        assert pa.read_timer(ref) is None
    machine.handle_cast(stay(pa.StateTimeout("cancel")), pair)
    assert (machine.timers, machine.numbers) == ({}, {})


# --- other callback modules -------------------------------------------------------------------------------------------


class Inner(pa.GenStatem[Any, Any]):
    """Another class for the same states and data."""

    def handle_event(self, event: pa.Event, state: Any, data: Any) -> Any:
        if isinstance(event, pa.Call) and event.content == "who":
            return pa.KeepStateAndData(event.reply("inner"))
        return react(event, state, data)

    def terminate(self, reason: Any, state: Any, data: Any) -> None:
        pa.send(data["to"], ("inner", reason))


@contract("S6.9", partly=True)
def test_another_class_takes_over(node: pa.ActorSystem) -> None:
    me = pa.self_()
    pid = doll((Careful, 0), data={"to": me})
    who = stay
    pa.cast(pid, stay(pa.PushCallbackModule(Inner)))
    assert pa.call(pid, "who") == "inner"
    pa.cast(pid, go("b"))  # without an enter call: the class asks for none
    assert entered(pid) == [("a", "a")]
    pa.cast(pid, who(pa.PopCallbackModule()))
    pa.cast(pid, go("c"))
    assert entered(pid) == [("a", "a"), ("b", "c")]
    pa.cast(pid, stay(pa.ChangeCallbackModule(Functions)))
    assert pa.sys_.get_state(pid)[0] == "c"
    pa.cast(pid, go("b"))
    assert entered(pid)[2:] == [("c", "b")]
    assert reason_of(pid, stay(pa.PopCallbackModule())) == ("bad_action_value", "PopCallbackModule()")
    assert mail() == []  # Functions has no terminate


@contract("S6.9", partly=True)
def test_the_class_that_took_over_cleans_up(node: pa.ActorSystem) -> None:
    """Also at its parent's shutdown, though the first class had no terminate."""
    me = pa.self_()
    supervisor = pa.Supervisor.start_link([pa.child(Plain, "a", pa.PushCallbackModule(Inner), name="m", to=me)])
    pa.sys_.get_state("m")
    pa.stop(supervisor)
    assert get() == ("inner", "shutdown")


# --- ends -------------------------------------------------------------------------------------------------------------


@contract("S6.9", partly=True)
@careful
def test_stops(node: pa.ActorSystem, kind: Kind) -> None:
    me = pa.self_()
    for reason in ("normal", pa.Shutdown(1), "boom"):
        pid = doll(kind, data={"to": me})
        assert reason_of(pid, lambda *_, r=reason: pa.Stop(r)) == reason
        assert get() == ("terminate", reason, "a", None)
        pid = doll(kind, "b", data={"to": me})
        assert reason_of(pid, lambda *_, r=reason: pa.Stop(r, {"to": me, "last": 1})) == reason
        assert get() == ("terminate", reason, "b", 1)
    pid = doll(kind, data={"to": me})
    pa.stop(pid, "order")
    assert get() == ("terminate", "order", "a", None)
    pid = doll(kind, data={"to": me})
    with pytest.raises(pa.RemoteError) as caught:
        pa.call(pid, lambda *_: pa.Stop("unanswered"))
    assert caught.value.reason == "unanswered"
    assert get() == ("terminate", "unanswered", "a", None)
    pid = doll(kind, data={"to": me})
    watch = Puppet(pid).watch()
    pa.exit(pid, "kill")
    assert Puppet.reason_of(watch) == "killed"
    assert mail() == []


@contract("S6.9", partly=True)
@careful
def test_stop_and_reply(node: pa.ActorSystem, kind: Kind) -> None:
    """The answers go out before terminate() runs: what it waits for can come from the caller."""
    me = pa.self_()

    base: Any = kind[0]

    class Waits(base):  # type: ignore[misc]
        def terminate(self, reason: Any, state: Any, data: Any) -> None:
            pa.receive("answered")
            pa.send(me, ("terminate", data.get("last")))

    def end(event: Any, _: Any, data: Any) -> Any:
        return pa.StopAndReply("normal", event.reply("bye"), {**data, "last": 2})

    pid = doll((Waits, kind[1]), data={"to": me})
    watch = Puppet(pid).watch()
    assert pa.call(pid, end) == "bye"
    pa.send(pid, "answered")
    assert Puppet.reason_of(watch) == "normal"
    assert get() == ("terminate", 2)
    pid = doll(kind, data={"to": me})
    first = pa.send_request(pid, lambda e, s, d: pa.KeepState({**d, "first": e}))
    answer = pa.call(pid, lambda e, s, d: pa.StopAndReply("shutdown", [d["first"].reply(1), e.reply(2)]))
    assert (first.wait(WAIT), answer) == (1, 2)
    assert get() == ("terminate", "shutdown", "a", None)
    pid = doll(kind, data={"to": me})
    assert reason_of(pid, lambda *_: pa.StopAndReply("normal", ["no reply"])) == ("bad_action_value", "'no reply'")  # type: ignore[list-item]
    assert get()[0] == "terminate"


@contract("S6.9", partly=True)
@careful
def test_bad_returns(node: pa.ActorSystem, kind: Kind) -> None:
    me = pa.self_()
    results: list[Any] = [None, "next_state", pa.NoReply(), pa.Reply(1), pa.Stop("r", reply=1), ("b", {})]
    for result in results:
        pid = doll(kind, data={"to": me})
        assert reason_of(pid, lambda *_, r=result: r) == ("bad_return_value", repr(result))
        assert get()[:3] == ("terminate", ("bad_return_value", repr(result)), "a")
    actions: list[Any] = ["postpone", pa.Internal(), None, pa.Postpone]
    for action in actions:
        pid = doll(kind, data={"to": me})
        reason = reason_of(pid, lambda _, __, d, a=action: pa.NextState("b", {**d, "last": 3}, a))
        assert reason == ("bad_action_value", repr(action))
        assert get() == ("terminate", reason, "b", 3)  # as in OTP, where it was to go


@contract("S6.9", "S6.8", partly=True)
@careful
def test_a_failure_ends_it_with_a_report(node: pa.ActorSystem, logged: None, kind: Kind) -> None:
    """State and data are those of before the event; what waits is told, the data through format_status."""
    me = pa.self_()

    def fail(event: Any, state: Any, data: Any) -> Any:
        return 1 / 0

    pid = doll(kind, "b", data={"to": me})
    pa.cast(pid, stay(pa.Timeout("t", 1000, "in time")))
    pa.send(pid, stay(pa.Postpone()))
    watch = Puppet(pid).watch()
    with pytest.raises(pa.RemoteError, match="division by zero") as caught:
        pa.call(pid, lambda *_: pa.KeepStateAndData(pa.NextEvent(pa.Internal(fail)), pa.NextEvent(pa.Internal("next"))))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert Puppet.reason_of(watch).type == "ZeroDivisionError"
    assert get()[::2] == ("terminate", "b")
    (report,) = reports(kind[1])
    assert "ZeroDivisionError: division by zero" in report.splitlines()[0]
    assert f"running {kind[0].__name__};" in report
    assert "last message: Internal(content=<function" in report
    assert "state: ('b', '<hidden>')" in report
    assert "queue: [Internal(content='next')]" in report
    assert "postponed: [Info(content=<function" in report
    assert "timeouts: [Timeout(name='t', seconds=1000, content='in time', absolute=False)]" in report


@contract("S6.9", partly=True)
def test_a_machine_under_a_supervisor(node: pa.ActorSystem, kind: Kind) -> None:
    supervisor = pa.Supervisor.start_link([pa.child(kind[0], "b", name="door", worker=kind[1])])
    first = pa.whereis("door")
    assert first is not None
    assert reason_of(first, lambda *_: 1 / 0).type == "ZeroDivisionError"
    eventually(lambda: pa.whereis("door") not in (None, first), "it is started again")
    assert pa.call("door", lambda event, state, _: pa.KeepStateAndData(event.reply(state))) == "b"
    pa.stop(supervisor)
    assert pa.whereis("door") is None


# --- sys_ -------------------------------------------------------------------------------------------------------------


@contract("S6.9", partly=True)
@careful
def test_sys(node: pa.ActorSystem, kind: Kind) -> None:
    me = pa.self_()
    pid = doll(kind, data={"to": me})
    assert pa.sys_.replace_state(pid, lambda pair: ("b", {**pair[1], "n": 1}))[0] == "b"
    assert pa.sys_.get_state(pid)[1]["n"] == 1
    status = pa.sys_.get_status(pid)
    assert (status["state"], status["class"], status["status"]) == (("b", "<hidden>"), kind[0].__qualname__, "running")
    pa.sys_.statistics(pid, True)
    assert pa.call(pid, lambda event, *_: pa.KeepStateAndData(event.reply(1))) == 1
    counted = pa.sys_.statistics(pid)
    assert counted is not None
    assert (counted["messages_in"], counted["messages_out"]) == (2, 1)  # the question is one of them


@contract("S6.9", partly=True)
@both
def test_a_suspended_machine_handles_neither_events_nor_timeouts(node: pa.ActorSystem, kind: Kind) -> None:
    pid = doll(kind)
    me = pa.self_()
    pa.cast(pid, stay(pa.StateTimeout(SHORT, "time is up")))
    pa.sys_.suspend(pid)
    pa.cast(pid, tell(me, "handled"))
    before = seen(pid)  # whether it was in time before or not: it doesn't come meanwhile
    eventually(lambda: pa.process_info(pid, "message_queue_len") >= 2 - len(before), "all of it waits")
    assert (seen(pid), mail()) == (before, [])
    pa.sys_.resume(pid)
    assert get() == ("handled", "a")
    eventually(lambda: seen(pid) == [("a", pa.StateTimeout(SHORT, "time is up"))], "the time-out came")


@contract("S6.9", partly=True)
@careful
def test_the_code_of_a_machine_is_changed(node: pa.ActorSystem, kind: Kind) -> None:
    """With its postponed events and time-outs; no enter call follows, and no postponed event comes again."""
    pid = doll(kind, data={"to": pa.self_()})
    pa.send(pid, when("c", lambda _, __, data: pa.KeepState({**data, "came": True})))
    pa.cast(pid, stay(pa.Timeout("t", 1000), pa.StateTimeout(1000)))
    pa.sys_.suspend(pid)
    for target, extra, error in [
        (Careful, "fail", "no such version"),
        (pa.GenServer, None, "expected a class of GenS"),
    ]:
        with pytest.raises(Exception, match=error):
            pa.sys_.change_code(pid, target, 1, extra)
    pa.sys_.replace_state(pid, lambda pair: ("elsewhere", pair[1]))
    with pytest.raises(ValueError, match=r"expected a state of Functions \(a, b, c\), got 'elsewhere'"):
        pa.sys_.change_code(pid, Functions)
    pa.sys_.replace_state(pid, lambda pair: ("a", pair[1]))
    assert pa.sys_.get_status(pid)["class"] == kind[0].__qualname__
    other = CarefulFunctions if kind[0] is Careful else Careful
    pa.sys_.change_code(pid, other, 7)
    pa.sys_.change_code(pid, None, 8)
    pa.sys_.resume(pid)
    state, data = pa.sys_.get_state(pid)
    assert (state, data["version"], "came" in data, entered(pid)) == ("c", 8, False, [("a", "a")])
    assert pa.sys_.get_status(pid)["class"] == other.__qualname__
    assert timeouts(pid) == [pa.Timeout("t", 1000), pa.StateTimeout(1000)]
    assert len(pa.sys_.get_status(pid)["postponed"]) == 1
    server = pa.start(pa.GenServer, 1)
    pa.sys_.suspend(server)
    with pytest.raises(TypeError, match="expected a class or a module with init"):
        pa.sys_.change_code(server, Careful)


# --- moving -----------------------------------------------------------------------------------------------------------


@contract("S6.9", "S9.7", partly=True)
def test_a_machine_moves_with_all_that_it_has(node: pa.ActorSystem, kind: Kind) -> None:
    pid = doll(kind)
    me = pa.self_()
    request = pa.send_request(pid, when("b", lambda event, *_: pa.KeepStateAndData(event.reply(pa.worker_index()))))
    pa.cast(pid, stay(pa.Timeout("long", 1000), pa.StateTimeout(1000), pa.Timeout("soon", SHORT, tell(me, "soon"))))
    there = 1 - kind[1]
    pa.migrate(pid, there, WAIT)
    assert get() == ("soon", "a")
    assert timeouts(pid) == [pa.Timeout("long", 1000), pa.StateTimeout(1000)]
    pa.cast(pid, go("b"))
    assert request.wait(WAIT) == there
    assert timeouts(pid) == [pa.Timeout("long", 1000)]
    pa.migrate(pid, kind[1], WAIT)
    pa.cast(pid, stay(pa.Timeout("long", SHORT, tell(me, "set again"))))
    assert get() == ("set again", "b")
    assert entered(pid) == [("a", "a"), ("a", "b")]


@contract("S6.9", partly=True)
def test_an_idle_machine_holds_no_stack(node: pa.ActorSystem, kind: Kind) -> None:
    pid = doll(kind)
    pa.cast(pid, stay(pa.Postpone()))
    eventually(lambda: pa.process_info(pid, "status") == "waiting", "it is idle")
    facts = pa.process_info(pid)
    assert (facts["kind"], facts["current_stacktrace"]) == ("callback", None)


# --- what is refused where it is written ------------------------------------------------------------------------------


@contract("S6.9", partly=True)
@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: pa.StateTimeout(-1), ValueError, "expected a time-out of 0 to 3e9 seconds, got -1"),
        (lambda: pa.EventTimeout(4e9), ValueError, "expected a time-out of 0 to 3e9 seconds, got 4000000000.0"),
        (lambda: pa.EventTimeout(float("nan")), ValueError, "expected a time-out of 0 to 3e9 seconds, got nan"),
        (lambda: pa.Timeout("n", "soon"), TypeError, "expected a time-out in seconds, .* got 'soon'"),  # type: ignore[arg-type]
        (lambda: pa.StateTimeout(True), TypeError, "expected a time-out in seconds, .* got True"),
        (lambda: pa.Timeout([], 1), TypeError, "unhashable"),  # type: ignore[arg-type]
        (lambda: pa.NextEvent("internal"), TypeError, r"expected an event such as Internal\(content\), got 'internal'"),  # type: ignore[arg-type]
        (lambda: pa.NextEvent(pa.Enter("a")), TypeError, "expected an event such as"),
        (lambda: pa.PushCallbackModule(pa.GenServer), TypeError, "expected a class of GenStatem, got"),  # type: ignore[arg-type]
        (lambda: pa.ChangeCallbackModule(Plain()), TypeError, "expected a class of GenStatem, got"),  # type: ignore[arg-type]
        (lambda: pa.state("open"), TypeError, "expected a method of a GenStatem, got 'open'"),  # type: ignore[type-var]
    ],
)
def test_bad_actions_are_refused(make: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@contract("S6.9", partly=True)
def test_bad_classes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expected .*Both to have either .*, got both: handle_event, a, b, c"):

        class Both(Functions):
            def handle_event(self, event: pa.Event, state: Any, data: Any) -> Any: ...

    with pytest.raises(TypeError, match=r"expected a state of .*Taken not to be called as a callback, got 'terminate'"):

        class Taken(pa.GenStatem[Any, Any]):
            @pa.state  # type: ignore[type-var]
            def terminate(self, reason: Any, state: Any, data: Any) -> Any: ...


@contract("S6.9", partly=True)
def test_a_class_without_events_or_init(node: pa.ActorSystem) -> None:
    class Empty(pa.GenStatem[str, None]):
        def init(self) -> Any:
            return pa.NextState("a", None)

    with pytest.raises(pa.StartError, match="GenStatem has no init"):
        pa.start(pa.GenStatem)
    reason = reason_of(pa.start(Empty), "event")
    assert reason.type == "NotImplementedError"
    assert reason.text.endswith("Empty has neither handle_event nor a method with @state")
