"""Processes move between two of their messages: all that they have goes along, and their pids stay good (S9.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from parallel_actors.workers.api import migrate
from puppets import GUEST, WAIT, Puppet, place, puppet

WORKERS = 3


@pytest.fixture(scope="module")
def shared_node() -> Iterator[pa.ActorSystem]:
    """The system behind `node`, of three workers: home, host, and somebody else."""
    with pa.ActorSystem(workers=WORKERS, max_reports=10**6) as system:
        yield system


def worker_of(pid: pa.Pid) -> int:
    found: int = pa.process_info(pid, "worker")
    return found


class Server(pa.GenServer):
    """Runs what it is told in a callback, and keeps the other messages in its state, in order."""

    def init(self, *first: Any) -> Any:
        return pa.Ok(list(first))

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        match request:
            case "state":
                return pa.Reply(list(state), state)
            case ("run", function, args):
                return pa.Reply(function(*args), state)
            case ("later", asker):
                pa.send(asker, "asked")
                return pa.NoReply([*state, from_])
            case ("timeout", seconds):
                return pa.Reply("set", state, timeout=seconds)
        return super().handle_call(request, from_, state)

    def handle_cast(self, request: Any, state: Any) -> Any:
        match request:
            case ("leave", reason):
                return pa.Stop(reason, state)
            case ("answer", value):
                pa.reply(state[-1], value)
                return pa.NoReply(state[:-1])
        return pa.NoReply([*state, ("cast", request)])

    def handle_info(self, message: Any, state: Any) -> Any:
        return pa.NoReply([*state, message])


def told(pid: pa.Pid, function: Callable[..., Any], *args: Any) -> Any:
    """Run it in the server."""
    return pa.call(pid, ("run", function, args), timeout=WAIT)


def state_of(pid: pa.Pid) -> list[Any]:
    found: list[Any] = pa.call(pid, "state", timeout=WAIT)
    return found


def server(worker: int = 0, *first: Any, **choices: Any) -> pa.Pid:
    pid = pa.options(worker=worker, **choices).start(Server, *first)
    assert isinstance(pid, pa.Pid)
    return pid


# --- what goes along --------------------------------------------------------------------------------------------------


@contract("S9.7", partly=True)
@pytest.mark.parametrize("by", [GUEST, 0, 1, 2])
def test_a_server_moves_and_back(node: pa.ActorSystem, by: int) -> None:
    pid = server(0, "first")
    hand = place(by)
    for target in (1, 2, 2, 0, 1, 0):
        hand.do(migrate, pid, target)
        assert worker_of(pid) == target
        assert told(pid, pa.worker_index) == target
        assert told(pid, pa.self_) == pid
    assert state_of(pid) == ["first"]
    assert hand.do(pa.is_alive, pid)
    assert pid in pa.processes()


@contract("S9.7", partly=True)
def test_a_thousand_moves(node: pa.ActorSystem) -> None:
    pid = server()
    for number in range(1000):
        pa.send(pid, number)
        migrate(pid, number % 2 + 1 if number % 3 else 0)
    assert state_of(pid) == list(range(1000))


@contract("S9.7", partly=True)
def test_a_thousand_servers_move(node: pa.ActorSystem) -> None:
    pids = [server(0, number) for number in range(1000)]
    puppet(1).do(move_all, pids, 2)
    assert {worker_of(pid) for pid in pids[::50]} == {2}
    assert [state_of(pid) for pid in pids] == [[number] for number in range(1000)]
    watches = [pa.monitor(pid) for pid in pids]
    for pid in pids:
        pa.cast(pid, ("leave", "normal"))
    for watch in watches:
        assert Puppet.reason_of(watch) == "normal"


def move_all(pids: list[pa.Pid], target: int) -> None:
    for pid in pids:
        migrate(pid, target)


@contract("S9.7", partly=True)
def test_mail_moves_in_order(node: pa.ActorSystem) -> None:
    # It sits in a callback while messages come, and has been told to move: so they go with it.
    pid = server()
    gate = puppet(1)
    pa.cast(pid, "before")
    asking = pa.send_request(pid, ("run", wait_for, (gate.pid,)))
    for number in range(100):
        pa.send(pid, number)
        pa.cast(pid, number)
    mover = pa.options(worker=2).spawn_monitor(migrate, pid, 1)
    gate.do(pa.send, pid, "late")
    gate.do(pa.send, pid, ("open", gate.pid))
    assert pa.wait_response(asking, timeout=WAIT) == pa.Done("open")
    assert Puppet.reason_of(mover[1]) == "normal"
    assert worker_of(pid) == 1
    expected: list[Any] = [("cast", "before")]
    for number in range(100):
        expected += [number, ("cast", number)]
    found = state_of(pid)
    found.remove("late")
    assert found == expected


def wait_for(gate: pa.Pid) -> str:
    pa.receive(("open", gate), timeout=WAIT)
    return "open"
