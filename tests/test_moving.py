"""Processes move between two of their messages: all that they have goes along, and their pids stay good (S9.7)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import parallel_actors as pa
from contract import contract
from leaks import eventually
from parallel_actors.workers.api import migrate
from parallel_actors.workers.scheduler import Loop
from puppets import GUEST, WAIT, Puppet, get, mail, place, puppet

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
    asking = pa.send_request(pid, ("run", say_and_wait_for, (pa.self_(),)))
    assert get() == "waiting"
    for number in range(100):
        pa.send(pid, number)
        pa.cast(pid, number)
    mover = pa.options(worker=2).spawn_monitor(migrate, pid, 1)
    gate.do(pa.send, pid, "late")
    pa.send(pid, ("open", pa.self_()))
    assert asking.wait(WAIT) == "open"
    assert Puppet.reason_of(mover[1]) == "normal"
    assert worker_of(pid) == 1
    expected: list[Any] = [("cast", "before")]
    for number in range(100):
        expected += [number, ("cast", number)]
    found = state_of(pid)
    found.remove("late")
    assert found == expected


def say_and_wait_for(gate: pa.Pid) -> str:
    pa.send(gate, "waiting")
    return wait_for(gate)


def wait_for(gate: pa.Pid) -> str:
    pa.receive(("open", gate), timeout=WAIT)
    return "open"


# --- links, monitors, names -------------------------------------------------------------------------------------------

# Where a server goes before something happens, and after that: worker 0 is its home.
WAYS = [(1, 1), (1, 0), (0, 1), (1, 2)]
ways = pytest.mark.parametrize(("first", "then"), WAYS)
others = pytest.mark.parametrize("other", [GUEST, 0, 1, 2])


def to(pid: pa.Pid, worker: int) -> None:
    migrate(pid, worker, timeout=WAIT)


@contract("S4.1", "S9.7", partly=True)
@ways
@others
@pytest.mark.parametrize("linker", ["server", "other"])
def test_a_link_moves_along(node: pa.ActorSystem, first: int, then: int, other: int, linker: str) -> None:
    hand = place(other)
    hand.do(pa.trap_exit)
    pids = [server(), server()]
    for pid in pids:
        to(pid, first)
        if linker == "server":
            told(pid, pa.link, hand.pid)
        else:
            hand.do(pa.link, pid)
        to(pid, then)
        assert told(pid, links_of) == [hand.pid]
        assert pid in hand.do(links_of)
    # One ends; the other takes the link off, and then ends.
    pa.cast(pids[0], ("leave", "over"))
    assert hand.do(pa.receive, pa.Exit, timeout=WAIT) == pa.Exit(pids[0], "over")
    if linker == "server":
        told(pids[1], pa.unlink, hand.pid)
    else:
        hand.do(pa.unlink, pids[1])
    assert told(pids[1], links_of) == []
    watch = pa.monitor(pids[1])
    pa.cast(pids[1], ("leave", "over"))
    assert Puppet.reason_of(watch) == "over"
    eventually(lambda: hand.do(links_of) == [], "the other has no link")
    assert hand.do(mail) == []
    pa.trap_exit(False)


def links_of() -> list[pa.Pid]:
    found: list[pa.Pid] = pa.process_info(pa.self_(), "links")
    return found


@contract("S4.1", "S9.7", partly=True)
@ways
@pytest.mark.parametrize("other", [0, 1, 2])
@pytest.mark.parametrize("traps", [False, True])
def test_an_end_comes_by_a_link_that_moved(
    node: pa.ActorSystem, first: int, then: int, other: int, traps: bool
) -> None:
    hand = puppet(other)
    pid = server()
    told(pid, pa.trap_exit, traps)
    to(pid, first)
    hand.do(pa.link, pid)
    to(pid, then)
    watch = Puppet(pid).watch()
    hand.end("pulled")
    if traps:
        eventually(lambda: state_of(pid) == [pa.Exit(hand.pid, "pulled")], "the exit is a message")
        assert told(pid, links_of) == []
    else:
        assert Puppet.reason_of(watch) == "pulled"
        assert not pa.is_alive(pid)


@contract("S4.3", "S9.7", partly=True)
@ways
@others
def test_monitors_move_along_both_ways(node: pa.ActorSystem, first: int, then: int, other: int) -> None:
    hand = place(other)
    target = puppet((other + 1) % 2)
    pid, unwatched = server(), server()
    to(pid, first)
    to(unwatched, first)
    refs = [hand.do(pa.monitor, each) for each in (pid, pid, pid, unwatched)]
    own = [told(pid, pa.monitor, target.pid) for _ in range(3)]
    told(pid, pa.process_info, target.pid)  # goes the same way: they are in place
    to(pid, then)
    to(unwatched, then)
    hand.do(pa.demonitor, refs[1])
    hand.do(pa.demonitor, refs[3])
    told(pid, pa.demonitor, own[1])
    target.end("gone")
    eventually(lambda: len(state_of(pid)) == 2, "its monitors have fired")
    assert state_of(pid) == [pa.Down(ref, target.pid, "gone") for ref in (own[0], own[2])]
    for each in (pid, unwatched):
        pa.cast(each, ("leave", "over"))
    assert [hand.do(get) for _ in range(2)] == [pa.Down(ref, pid, "over") for ref in (refs[0], refs[2])]
    assert {Puppet(pid).reason(), Puppet(unwatched).reason()} <= {"noproc", "over"}
    assert hand.do(mail) == []


@contract("S4.3", "S5.1", "S9.7", partly=True)
@ways
def test_a_name_moves_along(node: pa.ActorSystem, first: int, then: int) -> None:
    pid = server(name="moves")
    to(pid, first)
    assert pa.whereis("moves") == pid
    told(pid, pa.unregister, "moves")
    assert pa.whereis("moves") is None
    pa.register("by another", pid)
    migrate("by another", then)
    assert worker_of(pid) == then
    assert pa.process_info(pid, "registered_name") == "by another"
    assert puppet(2).do(pa.call, "by another", "state") == []
    pa.unregister("by another")
    told(pid, pa.register, "by itself", pid)
    assert pa.whereis("by itself") == pid
    pa.send("by itself", "mail")
    eventually(lambda: state_of(pid) == ["mail"], "mail by name")
    watch = pa.monitor("by itself")
    pa.cast(pid, ("leave", "over"))
    assert Puppet.reason_of(watch) == "over"
    assert pa.registered() == []


@contract("S1.12", "S9.7", partly=True)
@ways
def test_what_belongs_to_a_process_moves_along(node: pa.ActorSystem, first: int, then: int) -> None:
    pid = server(label="with a label", priority="high")
    told(pid, remember, "key", ["value"])
    told(pid, pa.trap_exit, True)
    before = pa.process_info(pid)
    to(pid, first)
    told(pid, remember, "other", 2)
    to(pid, then)
    after = pa.process_info(pid)
    assert after.pop("worker") == then
    assert before.pop("worker") == 0
    assert after.pop("dictionary") == {**before.pop("dictionary"), "other": 2}
    assert told(pid, recall, "key") == ["value"]
    assert after == before
    assert after["trap_exit"]
    assert after["label"] == "with a label"
    assert after["priority"] == "high"
    assert told(pid, pa.ancestors) == [pa.self_()] or told(pid, pa.ancestors) == (pa.self_(),)


def remember(key: str, value: Any) -> None:
    pa.process_dict()[key] = value


def recall(key: str) -> Any:
    return pa.process_dict()[key]


@contract("S4.4", "S9.7", partly=True)
def test_who_has_an_alias_waits_until_it_is_gone(node: pa.ActorSystem) -> None:
    pid = server()
    to(pid, 1)
    ref = told(pid, pa.alias)
    with pytest.raises(pa.CallTimeout, match="holds an alias"):
        migrate(pid, 2, timeout=0.05)
    assert worker_of(pid) == 1
    for worker in (GUEST, 0, 1, 2):
        place(worker).do(pa.send, ref, worker)
    eventually(lambda: len(state_of(pid)) == 4, "mail by the alias has come")
    told(pid, pa.unalias, ref)
    eventually(lambda: worker_of(pid) == 2, "it moves now")
    assert sorted(state_of(pid)) == [GUEST, 0, 1, 2]
    pa.send(ref, "late")
    assert len(state_of(pid)) == 4


# --- timers -----------------------------------------------------------------------------------------------------------


@contract("S1.11", "S9.7", partly=True)
@ways
def test_timers_move_along(node: pa.ActorSystem, first: int, then: int) -> None:
    pid = server()
    by_itself = told(pid, pa.send_after, 0.3, pid, "itself")
    far = told(pid, pa.send_after, 1000, pid, "never")
    to(pid, first)
    at_host = told(pid, pa.send_after, 0.2, pid, "at the host")
    far_too = told(pid, pa.send_after, 1000, pid, "never")
    to(pid, then)
    assert 990 < told(pid, pa.read_timer, far) <= 1000
    assert 990 < told(pid, pa.cancel_timer, far) <= 1000
    assert 990 < told(pid, pa.cancel_timer, far_too) <= 1000
    assert told(pid, pa.cancel_timer, far) is None
    eventually(lambda: len(state_of(pid)) == 2, "both have fired")
    assert sorted(state_of(pid)) == ["at the host", "itself"]
    assert told(pid, pa.read_timer, by_itself) is None
    assert told(pid, pa.read_timer, at_host) is None


@contract("S1.11", "S9.7", partly=True)
@ways
@pytest.mark.parametrize("other", [GUEST, 0, 1, 2])
def test_timers_of_others_to_who_moves(node: pa.ActorSystem, first: int, then: int, other: int) -> None:
    pid = server()
    hand = place(other)
    to(pid, first)
    hand.do(pa.send_after, 0.05, pid, "soon")
    far = hand.do(pa.send_after, 1000, pid, "never")
    to(pid, then)
    left = hand.do(pa.read_timer, far)
    assert left is not None
    assert 990 < left <= 1000
    left = hand.do(pa.cancel_timer, far)
    assert left is not None
    assert 990 < left <= 1000
    assert hand.do(pa.cancel_timer, far) is None
    eventually(lambda: state_of(pid) == ["soon"], "it has fired")


@contract("S1.11", "S9.7", partly=True)
def test_an_interval_moves_along(node: pa.ActorSystem) -> None:
    pid = server()
    ref = told(pid, pa.send_interval, 0.01, pid, "tick")
    for number in range(6):
        to(pid, number % WORKERS)
        seen = len(state_of(pid))
        eventually(lambda: len(state_of(pid)) > seen + 1, "it ticks here")  # noqa: B023
    assert told(pid, pa.cancel_timer, ref) is not None
    seen = len(state_of(pid))
    told(pid, pa.send_after, 0.05, pid, "end")
    eventually(lambda: state_of(pid)[-1] == "end", "a timer has fired")
    assert state_of(pid)[seen:] == ["end"]


@contract("S6.5", "S9.7", partly=True)
@pytest.mark.parametrize("target", [0, 1])
def test_a_time_out_of_a_server_moves_along(node: pa.ActorSystem, target: int) -> None:
    pid = server()
    to(pid, 1 - target)
    assert pa.call(pid, ("timeout", 0.05)) == "set"
    to(pid, target)
    eventually(lambda: len(observed(pid)) == 1, "its time is out")
    assert observed(pid) == ["timeout"]


def observed(pid: pa.Pid) -> Any:
    """The state, by a look that is no message of the server's: it lets a time-out stand."""
    return pa.sys_.get_state(pid)


# --- kinds of servers -------------------------------------------------------------------------------------------------


class Counter(pa.Actor):
    def __init__(self, start: int) -> None:
        self.n = start
        self.waiting: list[pa.ReplyTo[int]] = []

    @pa.call
    def value(self) -> int:
        return self.n

    @pa.cast
    def bump(self, by: int) -> None:
        self.n += by
        for asker in self.waiting:
            asker.reply(self.n)
        self.waiting.clear()

    @pa.call_later
    def next_value(self, to: pa.ReplyTo[int]) -> None:
        """The number after the next bump."""
        self.waiting.append(to)

    @pa.call
    def where(self) -> int | None:
        return pa.worker_index()


@contract("S7.1", "S9.7", partly=True)
@pytest.mark.parametrize("by", [GUEST, 0, 1, 2])
def test_a_typed_actor_moves(node: pa.ActorSystem, by: int) -> None:
    counter = pa.options(worker=0).start(Counter, 5)
    hand = place(by)
    for target in (1, 2, 0, 1):
        hand.do(migrate, counter, target)
        assert hand.do(counter.where) == target
        hand.do(counter.bump, 1)
        assert hand.do(counter.value) == counter.value()
    assert counter.value() == 9
    waiting = counter.next_value.request()
    migrate(counter, 2)
    hand.do(counter.bump, 1)
    assert waiting.wait(WAIT) == 10


# This module is a server, too.


def init(first: int) -> Any:
    return pa.Ok(first)


def handle_call(request: Any, from_: Any, state: int) -> Any:
    return pa.Reply((state, pa.worker_index()), state + 1)


@contract("S9.7", partly=True)
def test_a_module_of_functions_moves(node: pa.ActorSystem) -> None:
    pid = pa.options(worker=0).start(sys.modules[__name__], 1)
    assert isinstance(pid, pa.Pid)
    for number, target in enumerate((1, 2, 0, 1), 1):
        to(pid, target)
        assert pa.call(pid, "next") == (number, target)


class Sum:
    def __init__(self, asker: pa.Pid) -> None:
        self.asker = asker
        self.total = 0

    def __call__(self, message: Any) -> bool:
        if message == "end":
            return True
        self.total += message
        pa.send(self.asker, (self.total, pa.worker_index()))
        return False


def as_loop(asker: pa.Pid) -> Any:
    return Loop(Sum(asker))


def as_closure(asker: pa.Pid) -> Any:
    total = 0

    def step(message: Any) -> bool:
        nonlocal total
        if message == "end":
            return True
        total += message
        pa.send(asker, (total, pa.worker_index()))
        return False

    return Loop(step)


@contract("S9.7", partly=True)
@pytest.mark.parametrize("body", [as_loop, as_closure])
def test_a_loop_moves(node: pa.ActorSystem, body: Callable[[pa.Pid], Any]) -> None:
    pid = pa.options(worker=0).spawn(body, pa.self_())
    watch = pa.monitor(pid)
    pa.send(pid, 1)
    assert get() == (1, 0)
    for target in (2, 1, 0, 2):
        to(pid, target)
        pa.send(pid, 1)
        assert get()[1] == target
    pa.send(pid, 0)
    assert get() == (5, 2)
    pa.send(pid, "end")
    assert Puppet.reason_of(watch) == "normal"


@contract("S9.7", partly=True)
def test_what_sys_keeps_moves_along(node: pa.ActorSystem, logged: None) -> None:
    pid = server()
    pa.sys_.statistics(pid, True)
    pa.sys_.trace(pid, True)
    pa.send(pid, "one")
    before = pa.sys_.statistics(pid)
    to(pid, 1)
    pa.send(pid, "two")
    after = pa.sys_.statistics(pid)
    assert before is not None
    assert after is not None
    assert after["start_time"] == before["start_time"]
    assert after["messages_in"] == before["messages_in"] + 2  # the question, and "two"
    pa.sys_.trace(pid, False)
    seen = [message[2] for message in mail() if message[0] == "logged"]
    assert [text for text in seen if "debug" not in text] == [f"{pid!r} got 'one'", f"{pid!r} got 'two'"]
    # One that is suspended waits on a stack: it moves when it goes on.
    pa.sys_.suspend(pid)
    pa.send(pid, "three")
    with pytest.raises(pa.CallTimeout):
        migrate(pid, 2, timeout=0.05)  # it waits in the middle of a message
    assert pa.sys_.get_state(pid) == ["one", "two"]
    pa.sys_.resume(pid)
    eventually(lambda: worker_of(pid) == 2, "it moves now")
    eventually(lambda: state_of(pid) == ["one", "two", "three"], "it goes on")
    assert pa.sys_.get_status(pid)["status"] == "running"


@contract("S8.2", "S9.7", partly=True)
def test_a_child_that_moved_is_restarted_and_stopped(node: pa.ActorSystem) -> None:
    pa.trap_exit(True)
    children = [pa.child(Server, id=number) for number in range(3)]
    supervisor = pa.Supervisor.start_link(children, strategy="one_for_all")
    first = children_of(supervisor)
    for number, pid in enumerate(first):
        to(pid, number)
    migrate(supervisor, 2)
    assert worker_of(supervisor) == 2
    assert children_of(supervisor) == first
    pa.cast(first[0], ("leave", "fallen"))
    eventually(
        lambda: len(children_of(supervisor)) == 3 and not {*children_of(supervisor)} & {*first},
        "all were started anew",
    )
    second = children_of(supervisor)
    for pid in second:
        to(pid, 1)
    watches = [pa.monitor(pid) for pid in (*second, supervisor)]
    pa.exit(supervisor, "shutdown")
    assert {Puppet.reason_of(watch) for watch in watches} == {"shutdown"}
    assert get() == pa.Exit(supervisor, "shutdown")
    assert not any(pa.is_alive(pid) for pid in (*first, *second, supervisor))
    pa.trap_exit(False)


def children_of(supervisor: pa.Pid) -> list[pa.Pid]:
    return [each.pid for each in pa.Supervisor.which_children(supervisor) if each.pid is not None]


# --- calls ------------------------------------------------------------------------------------------------------------


@contract("S9.7", partly=True)
@pytest.mark.parametrize("by", [GUEST, 0, 1, 2])
@pytest.mark.parametrize("way", [(0, 1), (1, 0), (0, 1, 0), (0, 1, 2)])
def test_one_that_moved_is_stopped(node: pa.ActorSystem, by: int, way: tuple[int, ...]) -> None:
    """Its home kept the order for itself, if it came from there: the server went on."""
    pid = server(way[0])
    for worker in way[1:]:
        migrate(pid, worker)
    asker = place(by)
    ref = asker.do(pa.monitor, pid)
    asker.do(pa.stop, pid, "shutdown", WAIT)
    assert asker.do(pa.receive, pa.Down, timeout=WAIT) == pa.Down(ref, pid, "shutdown")


@contract("S6.3", "S6.4", "S9.7", partly=True)
@pytest.mark.parametrize("asker", [GUEST, 0, 1, 2])
def test_an_answer_for_later_comes_from_elsewhere(node: pa.ActorSystem, asker: int) -> None:
    pid = server()
    for target in (1, 0, 2):
        before = worker_of(pid)
        request = None
        if asker == GUEST:
            request = pa.send_request(pid, ("later", pa.self_()))
        else:
            pa.options(worker=asker).spawn(call_and_tell, pid, ("later", pa.self_()), pa.self_())
        assert get() == "asked"
        assert worker_of(pid) == before
        to(pid, target)
        pa.cast(pid, ("answer", target))
        if request is not None:
            assert request.wait(WAIT) == target
        else:
            assert get() == ("answer", target)


def call_and_tell(pid: pa.Pid, request: Any, to: pa.Pid) -> None:
    try:
        pa.send(to, ("answer", pa.call(pid, request, timeout=WAIT)))
    except pa.ActorError as error:
        pa.send(to, ("failed", type(error).__name__))


@contract("S6.3", "S9.7", partly=True)
@pytest.mark.parametrize("asker", [0, 1, 2])
@ways
def test_a_call_to_one_that_moved_ends_with_it(node: pa.ActorSystem, asker: int, first: int, then: int) -> None:
    pid = server()
    to(pid, first)
    pa.options(worker=asker).spawn(call_and_tell, pid, ("later", pa.self_()), pa.self_())
    assert get() == "asked"
    to(pid, then)
    pa.exit(pid, "kill")
    assert get() == ("failed", "RemoteError")
    assert not pa.is_alive(pid)


@contract("S6.3", "S9.7", partly=True)
def test_servers_that_moved_call_each_other(node: pa.ActorSystem) -> None:
    pids = [server() for _ in range(4)]
    for number, pid in enumerate(pids):
        to(pid, number % WORKERS)
    for one in pids:
        for other in pids:
            if one != other:
                assert told(one, told, other, pa.self_) == other
        (started,) = told(one, start_some, 1)
        assert told(one, told, started, pa.ancestors)[0] == one
        assert told(started, pa.worker_index) == told(one, pa.worker_index)
        assert told(one, fails_to_call) == "CallingSelf"


def start_some(count: int) -> list[pa.Pid]:
    found: list[Any] = [pa.start(Server) for _ in range(count)]
    return found


def fails_to_call() -> str:
    try:
        pa.call(pa.self_(), "state")
    except pa.ActorError as error:
        return type(error).__name__
    return "nothing"


# --- what can't move --------------------------------------------------------------------------------------------------


class Stubborn:
    """Raises, or computes without end, when it is pickled or unpickled."""

    def __init__(self, at: str, how: str) -> None:
        self.at, self.how = at, how

    def __getstate__(self) -> dict[str, str]:
        self.resist("pickle")
        return self.__dict__

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)
        self.resist("unpickle")

    def resist(self, now: str) -> None:
        if self.at == now and self.how == "raise":
            raise ValueError("I stay here")
        while self.at == now and self.how == "hang":
            pass


def become(state: list[Any], at: str, how: str) -> list[Any]:
    return [*state, Stubborn(at, how)]


class Holder(Server):
    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        match request:
            case ("hold", at, how):
                return pa.Reply("held", [*state, Stubborn(at, how)])
            case ("lock",):
                return pa.Reply("held", [*state, threading.Lock()])
            case "release":
                return pa.Reply("free", [each for each in state if isinstance(each, int)])
            case "kept":
                return pa.Reply([each for each in state if isinstance(each, int)], state)
        return super().handle_call(request, from_, state)


@contract("S9.7", "S10.1", partly=True)
@pytest.mark.parametrize("host", [0, 1])
@pytest.mark.parametrize(
    "request_",
    [("lock",), ("hold", "pickle", "raise"), ("hold", "unpickle", "raise"), ("hold", "unpickle", "hang")],
    ids=["lock", "pickle", "unpickle", "hang"],
)
def test_what_cannot_move_stays_and_goes_on(
    node: pa.ActorSystem, logged: None, host: int, request_: tuple[str, ...]
) -> None:
    pa.trap_exit(True)
    pid: Any = pa.options(worker=0, name="stays").start_link(Holder, 1)
    to(pid, host)
    watch = pa.monitor(pid)
    timer = pa.call(pid, ("run", pa.send_after, (1000, pid, "never")))
    pa.call(pid, ("run", pa.send_after, (0.05, pid, 2)))
    target = 1 - host
    assert pa.call(pid, request_) == "held"
    with pytest.raises(Exception, match=r"I stay here|pickle|in a second") as failure:
        migrate(pid, target, timeout=WAIT)
    assert not isinstance(failure.value, pa.CallTimeout | pa.NoProc)
    pa.send(pid, 3)
    assert worker_of(pid) == host
    assert 900 < told(pid, pa.read_timer, timer) <= 1000
    eventually(lambda: sorted(pa.call(pid, "kept")) == [1, 2, 3], "it goes on")
    reports = [message for message in mail() if type(message) is tuple and message[0] == "logged"]
    assert len(reports) == 1, reports
    assert repr(pid) in reports[0][2]
    # Without that it moves, with all that it had.
    assert pa.call(pid, "release") == "free"
    to(pid, target)
    assert sorted(pa.call(pid, "kept")) == [1, 2, 3]
    assert 900 < told(pid, pa.cancel_timer, timer) <= 1000
    assert pa.whereis("stays") == pid
    pa.exit(pid, "kill")
    assert Puppet.reason_of(watch) == "killed"
    assert get() == pa.Exit(pid, "killed")
    pa.trap_exit(False)


@contract("S9.7", "S10.1", partly=True)
def test_what_is_refused_at_the_call_site(node: pa.ActorSystem) -> None:
    pid = server()
    body = puppet(0)
    with pytest.raises(ValueError, match="whose body is a function holds a stack"):
        migrate(body.pid, 1)
    assert body.alive
    for worker in (-1, WORKERS, 1.0, "1", None, True):
        with pytest.raises(ValueError, match="expected worker to be the number of a worker of this system"):
            migrate(pid, worker)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected another process to move, got the caller itself"):
        migrate(pa.self_(), 1)
    with pytest.raises(pa.RemoteError, match="expected another process to move, got the caller itself"):
        told(pid, migrate, pid, 1)
    eventually(lambda: not pa.is_alive(pid), "that was an error of the server's")
    with pytest.raises(pa.NoProc):
        migrate(pid, 1)
    with pytest.raises(pa.NotRegistered):
        migrate("nobody", 1)
    for wrong in (1, None, ["pid"]):
        with pytest.raises(TypeError, match="expected"):
            migrate(wrong, 1)  # type: ignore[arg-type]
    with pytest.raises(pa.NoProc):
        body.do(migrate, pa.self_(), 1)  # a guest has no other place
    alive = server()
    for timeout in ("1", -1):
        with pytest.raises((TypeError, ValueError), match="expected"):
            migrate(alive, 1, timeout=timeout)  # type: ignore[arg-type]


@contract("S9.7", partly=True)
def test_one_that_is_busy_moves_when_it_can(node: pa.ActorSystem) -> None:
    for home in (True, False):
        pid = server()
        to(pid, 0 if home else 2)
        asking = pa.send_request(pid, ("run", say_and_wait_for, (pa.self_(),)))
        assert get() == "waiting"
        with pytest.raises(pa.CallTimeout, match="did not move to worker 1"):
            migrate(pid, 1, timeout=0.05)
        assert worker_of(pid) == (0 if home else 2)
        pa.send(pid, ("open", pa.self_()))
        assert asking.wait(WAIT) == "open"
        eventually(lambda: worker_of(pid) == 1, "it moves now")  # noqa: B023


@contract("S1.9", "S9.7", partly=True)
@ways
@pytest.mark.parametrize("by", [GUEST, 0, 1, 2])
def test_a_kill_of_one_that_moved(node: pa.ActorSystem, first: int, then: int, by: int) -> None:
    # Also while it computes without end.
    for busy in (False, True):
        pid = server()
        to(pid, first)
        to(pid, then)
        watch = Puppet(pid).watch()
        request = None
        if busy:
            request = pa.send_request(pid, ("run", compute, (pa.self_(),)))
            assert get() == "computing"
        place(by).do(pa.exit, pid, "kill")
        assert Puppet.reason_of(watch) == "killed"
        if request is not None:
            with pytest.raises(pa.ActorError):
                request.wait(WAIT)
        assert not pa.is_alive(pid)


def compute(asker: pa.Pid) -> None:
    pa.send(asker, "computing")
    while True:
        pass


# --- all at once ------------------------------------------------------------------------------------------------------


class Sender(pa.GenServer):
    """Sends its next numbers to a receiver when it is told to."""

    def init(self, receiver: pa.Pid) -> Any:
        return pa.Ok((receiver, 0))

    def handle_info(self, message: Any, state: Any) -> Any:
        receiver, number = state
        count: int = message
        for each in range(number, number + count):
            pa.send(receiver, (pa.self_(), each, bytes(0 if each % 7 else 20_000)))
        return pa.NoReply((receiver, number + count))

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        pa.send(state[0], (pa.self_(), "end", state[1]))
        return pa.Reply(state[1], state)


class Receiver(pa.GenServer):
    """Keeps what came, by sender."""

    def init(self) -> Any:
        return pa.Ok({})

    def handle_info(self, message: Any, state: Any) -> Any:
        state.setdefault(message[0], []).append(message[1])
        return pa.NoReply(state)

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return pa.Reply(state, state)


class Watcher(Receiver):
    """Watches the first that it hears of."""

    def handle_cast(self, request: Any, state: Any) -> Any:
        pa.monitor(request)
        return pa.NoReply(state)

    def handle_info(self, message: Any, state: Any) -> Any:
        return super().handle_info((message.pid, "down") if isinstance(message, pa.Down) else message, state)


@contract("S2.1", "S2.4", "S9.7", partly=True)
@pytest.mark.parametrize("path", [(2, 1), (1, 2, 1), (2, 1, 2, 1)])
@pytest.mark.parametrize("end", ["lives", "ends"])
def test_what_was_sent_from_elsewhere_before_is_read_first(no_leaks: None, path: tuple[int, ...], end: str) -> None:
    """The receiver's worker sits while a sender talks, moves, talks, and perhaps ends; then it has ring 1 before 2.

    The messages come in order all the same, and the Down last. (The fences of messages, and those of deaths.)
    """
    with pa.ActorSystem(workers=3) as system:
        receiver: Any = pa.options(worker=0).start(Watcher)
        sender: Any = pa.options(worker=path[0]).start(Sender, receiver)
        for worker in path:
            to(sender, worker)
        for worker in reversed(path):  # everybody has met everybody
            to(sender, worker)
            pa.send(sender, 1)
        pa.cast(receiver, sender)
        numbers = len(path)
        eventually(lambda: len(pa.call(receiver, "got").get(sender, [])) == numbers, "it is there")
        sits = psutil.Process(system.worker_pids[0])
        sits.suspend()
        try:
            for worker in path:
                to(sender, worker)
                pa.send(sender, 1)
                numbers += 1
                eventually(lambda: pa.sys_.get_state(sender)[1] == numbers, "it has sent them")  # noqa: B023
            if end == "ends":
                pa.stop(sender)
        finally:
            sits.resume()
        expected = [*range(numbers), *(["down"] if end == "ends" else [])]
        eventually(lambda: len(pa.call(receiver, "got")[sender]) == len(expected), "all has come")
        assert pa.call(receiver, "got")[sender] == expected


# Who sends how many, or who moves where: the receiver is 0, the senders 1 to 4; GUEST is the test itself.
steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from([GUEST, 1, 2, 3, 4]), st.integers(1, 12)),
        st.tuples(st.just("move"), st.integers(0, 4), st.integers(0, WORKERS - 1)),
        st.tuples(st.just("order"), st.integers(0, 4), st.integers(0, WORKERS - 1)),
    ),
    min_size=5,
    max_size=40,
)


@contract("S2.1", "S2.4", "S9.7", partly=True)
@given(steps=steps)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_holds_while_all_move(node: pa.ActorSystem, steps: list[tuple[str, int, int]]) -> None:
    # "move" waits until it is there, "order" doesn't.
    receiver: Any = pa.options(worker=0).start(Receiver)
    pids: list[pa.Pid] = [receiver]
    for worker in (0, 1, 2, 0):
        sender: Any = pa.options(worker=worker).start(Sender, receiver)
        pids.append(sender)
    here, said, movers = pa.self_(), 0, []
    for what, who, value in steps:
        if what == "move":
            to(pids[who], value)
        elif what == "order":
            movers.append(pa.options(worker=who % WORKERS).spawn_monitor(migrate, pids[who], value, WAIT)[1])
        elif who == GUEST:
            for each in range(said, said + value):
                pa.send(receiver, (here, each, bytes(0 if each % 7 else 20_000)))
            said += value
        else:
            pa.send(pids[who], value)
    counts = {sender: pa.call(sender, "end", timeout=WAIT) for sender in pids[1:]}
    pa.send(receiver, (here, "end"))
    counts[here] = said
    eventually(
        lambda: all(found and found[-1] == "end" for found in map(pa.call(receiver, "got").get, counts)),
        "all have come to their end",
    )
    for sender, found in pa.call(receiver, "got").items():
        assert found == [*range(counts[sender]), "end"]
    for watch in movers:
        assert Puppet.reason_of(watch) in ("normal", "noproc")
    for pid in pids:
        pa.exit(pid, "kill")
