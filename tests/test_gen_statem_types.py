"""What type checkers say of state machines and event handlers: mypy strict and pyright read this file (S6.9).

`assert_type` shows what passes. A line that must fail carries a `type: ignore`, which both refuse where nothing is
wrong (mypy: warn_unused_ignores; pyright: the comment below).
"""
# pyright: reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

from typing import Any, Literal, assert_type

import pytest

import parallel_actors as pa
from contract import contract

State = Literal["off", "on"]


class Switch(pa.GenStatem[State, int], state_enter=True):
    def init(self, count: int) -> pa.NextState[State, int]:
        return pa.NextState("off", count)

    @pa.state
    def off(self, event: pa.Event, count: int) -> pa.Transition[State, int]:
        match event:
            case pa.Call("count", from_):
                assert_type(event, pa.Call)
                return pa.KeepState(count, pa.ReplyAction(from_, count), event.reply(count))
            case pa.StateTimeout() | pa.Timeout("name"):
                return pa.NextState("on", count + 1, pa.StateTimeout(1.0), pa.Timeout("name", "cancel"))
            case pa.Cast("typo"):
                return pa.NextState("onn", count)  # type: ignore[arg-type]
            case pa.Cast("type"):
                return pa.KeepState("many")  # type: ignore[arg-type]
            case pa.Cast("action"):
                return pa.KeepStateAndData("postpone")  # type: ignore[arg-type]
            case pa.Info("none"):
                return None  # type: ignore[return-value]
            case _:
                return pa.Stop("normal", count)

    @pa.state
    async def on(self, event: pa.Event, count: int) -> pa.Transition[State, int]:
        return pa.RepeatStateAndData(pa.Postpone())

    @pa.state  # type: ignore[type-var]
    def bad(self, event: pa.Event, count: int) -> int:
        return 1

    def terminate(self, reason: Any, state: State, data: int) -> None:
        return None


class Lift(pa.GenStatem[tuple[str, int], None]):
    def init(self) -> pa.NextState[tuple[str, int], None]:
        return pa.NextState(("floor", 1), None)

    def handle_event(self, event: pa.Event, state: tuple[str, int], data: None) -> pa.Transition[tuple[str, int], None]:
        if isinstance(event, pa.Cast):
            return pa.NextState(("floor", state[1] + 1), data)
        return pa.NextState(("floor", "second"), data)  # type: ignore[arg-type]


class Count(pa.EventHandler):
    def init(self, start: int = 0) -> int:
        return start

    def handle_event(self, event: Any, state: int) -> pa.NoReply | pa.RemoveHandler:
        return pa.NoReply(state + 1) if event else pa.RemoveHandler()


def what_passes() -> None:
    switch = pa.start_link(Switch, 0)
    pa.cast(switch, "push")
    pa.Supervisor.start_link([pa.child(Switch, 0), pa.child(pa.GenEvent, name="events")])
    events = pa.GenEvent.start_link()
    assert_type(events, pa.Pid)
    pa.GenEvent.add_handler(events, Count, 1)
    pa.GenEvent.add_sup_handler("events", (Count, "second"), start=1)
    assert_type(pa.GenEvent.send_request(events, Count, 1), pa.Request[Any])
    assert_type(pa.receive(pa.GenEventExit).manager, pa.Pid)


def what_fails(events: pa.Pid) -> None:
    pa.StateTimeout("soon")  # type: ignore[arg-type]
    pa.NextEvent("internal")  # type: ignore[arg-type]
    pa.PushCallbackModule(pa.GenServer)  # type: ignore[arg-type]
    pa.StopAndReply("normal", "bye")  # type: ignore[arg-type]
    pa.GenEvent.add_handler(events, pa.GenServer)  # type: ignore[arg-type]
    pa.GenEvent.notify(events)  # type: ignore[call-arg]
    pa.SwapHandler("args", None, Switch)  # type: ignore[arg-type]


@contract("S6.9", partly=True)
def test_the_types_are_those_of_the_page() -> None:
    """Nothing runs: `tox -e types` reads the functions above."""
    assert [function.__name__ for function in (what_passes, what_fails)]
    with pytest.raises(pa.NotRunning):
        what_passes()
