"""GenStatem beside OTP's own `gen_statem`: random machines see the same events in the same states and order (S6.9).

A machine is a table: for each event and state what is returned, for each state what its enter call does. Time-outs are
either of 0 or longer than any test, so that the order is the same each time.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from puppets import WAIT

STATES = "abc"
LONG = 1000
MOST = 60  # events of one machine: from then on it only looks on

# What a table may hold: as Erlang writes it, and as Python does. %d is an event's number, %t a time in seconds.
ACTIONS: dict[str, Callable[[int, float], Any]] = {
    "{state_timeout,%t,%d}": lambda event, seconds: pa.StateTimeout(seconds, event),
    "{timeout,%t,%d}": lambda event, seconds: pa.EventTimeout(seconds, event),
    "{{timeout,x},%t,%d}": lambda event, seconds: pa.Timeout("x", seconds, event),
    "{{timeout,y},%t,%d}": lambda event, seconds: pa.Timeout("y", seconds, event),
    "{state_timeout,update,%d}": lambda event, _: pa.StateTimeout("update", event),
    "{timeout,update,%d}": lambda event, _: pa.EventTimeout("update", event),
    "{{timeout,x},update,%d}": lambda event, _: pa.Timeout("x", "update", event),
    "{state_timeout,cancel}": lambda *_: pa.StateTimeout("cancel"),
    "{timeout,infinity,0}": lambda *_: pa.EventTimeout(None),
    "{{timeout,x},cancel}": lambda *_: pa.Timeout("x", "cancel"),
}
EVENT_ACTIONS: dict[str, Callable[[int, float], Any]] = {
    **ACTIONS,
    "postpone": lambda *_: pa.Postpone(),
    "{postpone,false}": lambda *_: pa.Postpone(False),
    "{next_event,internal,%d}": lambda event, _: pa.NextEvent(pa.Internal(event)),
    " postpone": lambda *_: pa.Postpone(),  # more often
    "  postpone": lambda *_: pa.Postpone(),
}

ERLANG = """
-module(machines).
-behaviour(gen_statem).
-export([main/2, init/1, callback_mode/0, handle_event/4]).

callback_mode() -> [handle_event_function, state_enter].
init({Table, Enter}) -> {ok, a, {Table, Enter, []}}.

handle_event(enter, Old, State, {Table, Enter, Log}) ->
    Actions = case length(Log) >= MOST of true -> []; false -> maps:get(State, Enter) end,
    {keep_state, {Table, Enter, [{enter, Old, State} | Log]}, Actions};
handle_event(cast, hold, _, _) -> receive go -> keep_state_and_data end;
handle_event({call, From}, log, _, {_, _, Log}) -> {keep_state_and_data, [{reply, From, lists:reverse(Log)}]};
handle_event(Type, Event, State, {Table, Enter, Log}) ->
    Data = {Table, Enter, [{Type, Event, State} | Log]},
    case length(Log) >= MOST of
        true -> {keep_state, Data};
        false ->
            case maps:get({Event, State}, Table) of
                {next_state, Next, Actions} -> {next_state, Next, Data, Actions};
                {Kind, _, Actions} -> {Kind, Data, Actions}
            end
    end.

main(In, Out) ->
    {ok, Machines} = file:consult(In),
    {ok, File} = file:open(Out, [write]),
    [io:format(File, "~w~n", [run(Machine)]) || Machine <- Machines],
    file:close(File).

run({Table, Enter, Sent}) ->
    {ok, Pid} = gen_statem:start(?MODULE, {Table, Enter}, []),
    gen_statem:cast(Pid, hold),
    [case Each of {cast, Event} -> gen_statem:cast(Pid, Event); {info, Event} -> Pid ! Event end || Each <- Sent],
    Pid ! go,
    Log = gen_statem:call(Pid, log),
    gen_statem:stop(Pid),
    Log.
""".replace("MOST", str(MOST))


@dataclass
class Table:
    """One machine: what it does, and what is sent to it before it begins."""

    events: dict[tuple[int, str], tuple[str, str, list[tuple[str, int, float]]]]
    enter: dict[str, list[tuple[str, int, float]]]
    sent: list[tuple[str, int]]

    @classmethod
    def drawn(cls, draw: random.Random) -> Table:
        count = draw.randrange(3, 7)

        def actions(of: dict[str, Any]) -> list[tuple[str, int, float]]:
            some = draw.choices(list(of), k=draw.choice([0, 0, 0, 1, 1, 2, 3]))
            return [(each, draw.randrange(count), draw.choice([0, 0, 0, LONG])) for each in some]

        kinds = ["next_state", "next_state", "keep_state", "keep_state", "repeat_state"]
        return cls(
            {
                (event, state): (draw.choice(kinds), draw.choice(STATES), actions(EVENT_ACTIONS))
                for event in range(count)
                for state in STATES
            },
            {state: actions(ACTIONS) if draw.random() < 0.5 else [] for state in STATES},
            [(draw.choice(["cast", "info"]), draw.randrange(count)) for _ in range(draw.randrange(2, 9))],
        )

    def erlang(self) -> str:
        def actions(of: list[tuple[str, int, float]]) -> str:
            shown = [text.replace("%d", str(n)).replace("%t", str(int(t * 1000))) for text, n, t in of]
            return f"[{','.join(shown)}]"

        events = [f"{{{n},{s}}}=>{{{k},{to},{actions(a)}}}" for (n, s), (k, to, a) in self.events.items()]
        enter = [f"{state}=>{actions(a)}" for state, a in self.enter.items()]
        sent = [f"{{{kind},{event}}}" for kind, event in self.sent]
        return f"{{#{{{','.join(events)}}},#{{{','.join(enter)}}},[{','.join(sent)}]}}.\n"


class Machine(pa.GenStatem[str, tuple[Table, list[str]]], state_enter=True):
    """A table, in Python."""

    def init(self, table: Table) -> pa.NextState[str, tuple[Table, list[str]]]:
        return pa.NextState("a", (table, []))

    def handle_event(self, event: pa.Event, state: str, data: tuple[Table, list[str]]) -> Any:
        table, log = data
        full = len(log) >= MOST
        match event:
            case pa.Enter(old):
                log.append(f"{{enter,{old},{state}}}")
                return pa.KeepStateAndData(*([] if full else _made(table.enter[state])))
            case pa.Cast("hold"):
                pa.receive("go")
                return pa.KeepStateAndData()
            case pa.Call("log"):
                return pa.KeepStateAndData(event.reply(f"[{','.join(log)}]"))
        log.append(f"{{{_type_of(event)},{event.content},{state}}}")
        if full:
            return pa.KeepStateAndData()
        kind, to, actions = table.events[event.content, state]
        if kind == "next_state":
            return pa.NextState(to, data, *_made(actions))
        if kind == "repeat_state":
            return pa.RepeatState(data, *_made(actions))
        return pa.KeepState(data, *_made(actions))


def _made(actions: list[tuple[str, int, float]]) -> list[Any]:
    return [EVENT_ACTIONS[text](event, seconds) for text, event, seconds in actions]


def _type_of(event: pa.Event) -> str:
    if isinstance(event, pa.Timeout):
        return f"{{timeout,{event.name}}}"
    names = {pa.Cast: "cast", pa.Info: "info", pa.Internal: "internal", pa.StateTimeout: "state_timeout"}
    return names.get(type(event), "timeout")


def ours(table: Table) -> str:
    pid = pa.start(Machine, table)
    pa.cast(pid, "hold")
    for kind, event in table.sent:
        if kind == "cast":
            pa.cast(pid, event)
        else:
            pa.send(pid, event)
    pa.send(pid, "go")
    log: str = pa.call(pid, "log", timeout=WAIT)
    pa.stop(pid)
    return log


@contract("S6.9")
@pytest.mark.skipif(not (shutil.which("erl") and shutil.which("erlc")), reason="erl and erlc are not on PATH")
def test_random_machines_do_as_those_of_otp(node: pa.ActorSystem, tmp_path: Path) -> None:
    draw = random.Random(31)
    tables = [Table.drawn(draw) for _ in range(400)]
    (tmp_path / "machines.erl").write_text(ERLANG)
    (tmp_path / "in").write_text("".join(table.erlang() for table in tables))
    subprocess.run(["erlc", "machines.erl"], cwd=tmp_path, check=True)
    run = 'machines:main("in", "out"), halt().'
    subprocess.run(["erl", "-noshell", "-eval", run], cwd=tmp_path, check=True)
    theirs = (tmp_path / "out").read_text().splitlines()
    assert len(theirs) == len(tables)
    for table, expected in zip(tables, theirs, strict=True):
        assert ours(table) == expected, table.erlang()
