"""Exit signals and kills: what ends a process, what it may still do, and what others see (S1.9, S4.1, S4.5)."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from parallel_actors.workers import api
from puppets import GUEST, PLACES, WAIT, Puppet, get, leave, mail, obey, park, place, puppet

everywhere = pytest.mark.parametrize(("here", "there"), PLACES, ids=str)
workers = pytest.mark.parametrize("worker", [0, 1])

# --- exit(pid, reason) ------------------------------------------------------------------------------------------------


@pytest.mark.contract("S4.1")
@everywhere
@pytest.mark.parametrize(
    "reason", ["boom", "shutdown", "killed", "noproc", ("term", [1]), pa.Shutdown(1), None], ids=str
)
def test_an_exit_signal_ends_a_process(node: pa.ActorSystem, here: int, there: int, reason: object) -> None:
    one, other = place(here), puppet(there)
    watch = other.watch()
    one.do(pa.exit, other.pid, reason)
    assert other.reason_of(watch) == reason


@pytest.mark.contract("S4.1")
@everywhere
@pytest.mark.parametrize("reason", ["boom", "normal", "killed", ("term", [1]), None], ids=str)
def test_an_exit_signal_can_be_trapped(node: pa.ActorSystem, here: int, there: int, reason: object) -> None:
    one, other = place(here), puppet(there)
    other.do(pa.trap_exit)
    one.do(pa.exit, other.pid, reason)
    assert other.do(get) == pa.Exit(one.pid, reason)
    assert other.alive


@pytest.mark.contract("S4.1")
@everywhere
def test_kill_cannot_be_trapped(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    other.do(pa.trap_exit)
    watch = other.watch()
    one.do(pa.exit, other.pid, "kill")
    assert other.reason_of(watch) == "killed"


@pytest.mark.contract("S4.1")
@everywhere
def test_exit_normal_does_nothing_to_others(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    one.do(pa.exit, other.pid, "normal")
    one.do(pa.send, other.pid, "mark")
    assert other.do(mail) == ["mark"]


@pytest.mark.contract("S4.1")
@workers
@pytest.mark.parametrize("reason", ["normal", "kill", "boom"])
def test_exit_to_oneself_ends_at_once(node: pa.ActorSystem, worker: int, reason: str) -> None:
    pid, ref = pa.options(worker=worker).spawn_monitor(exit_self, pa.self_(), reason)
    expected = "killed" if reason == "kill" else reason
    assert get() == pa.Down(ref, pid, expected)


def exit_self(asker: pa.Pid, reason: str) -> None:
    pa.exit(pa.self_(), reason)
    pa.send(asker, "still here")


@pytest.mark.contract("S4.1")
@pytest.mark.parametrize("worker", [GUEST, 0, 1])
@pytest.mark.parametrize("reason", ["normal", "boom"])
def test_exit_to_oneself_can_be_trapped(node: pa.ActorSystem, worker: int, reason: str) -> None:
    one = place(worker)
    one.do(pa.trap_exit)
    one.do(pa.exit, one.pid, reason)
    assert one.do(mail) == [pa.Exit(one.pid, reason)]


@pytest.mark.contract("S5.3", partly=True)
@everywhere
def test_a_name_can_be_told_to_exit(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there, name="victim")
    watch = other.watch()
    one.do(pa.exit, "victim", "boom")
    assert other.reason_of(watch) == "boom"
    with pytest.raises(pa.NotRegistered):
        one.do(pa.exit, "victim", "boom")


@pytest.mark.contract("S2.3", partly=True)
@everywhere
def test_signals_to_the_dead_do_nothing(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    other.end("boom")
    one.do(pa.exit, other.pid, "kill")
    one.do(pa.exit, other.pid, ("x", [1]))
    one.do(pa.unlink, other.pid)
    one.do(pa.send, other.pid, "x")
    puppet(there).do(pa.process_info, one.pid)
    assert one.do(mail) == []


@pytest.mark.contract("S2.1", "S2.2", partly=True)
@everywhere
def test_an_exit_signal_overtakes_unread_mail_but_no_sent_one(node: pa.ActorSystem, here: int, there: int) -> None:
    # The mail was there first, and unread: the exit acts all the same. What was sent first is in the mailbox first.
    one, other = place(here), puppet(there)
    other.do(pa.trap_exit)
    for number in range(100):
        one.do(pa.send, other.pid, number)
    one.do(pa.exit, other.pid, "boom")
    one.do(pa.send, other.pid, 100)
    assert other.do(mail) == [*range(100), pa.Exit(one.pid, "boom"), 100]
    other.do(pa.trap_exit, False)
    for number in range(100):
        one.do(pa.send, other.pid, number)
    watch = other.watch()
    one.do(pa.exit, other.pid, "boom")
    assert other.reason_of(watch) == "boom"


@pytest.mark.contract("S4.1")
@workers
@pytest.mark.parametrize("how", ["raise", "return", "sys.exit(0)", "sys.exit()"])
def test_ways_to_end_normally(node: pa.ActorSystem, worker: int, how: str) -> None:
    pid, ref = pa.options(worker=worker).spawn_monitor(end_by, how)
    assert get() == pa.Down(ref, pid, "normal")


def end_by(how: str) -> None:
    import sys

    if how == "raise":
        raise pa.ProcessExit
    if how == "sys.exit(0)":
        sys.exit(0)
    if how == "sys.exit()":
        sys.exit()


@pytest.mark.parametrize("bad", [Callable, lambda: open, Any], ids=["generic", "lambda", "any"])
def test_a_reason_is_any_value(node: pa.ActorSystem, bad: object) -> None:
    other = puppet(1)
    watch = other.watch()
    pa.exit(other.pid, (bad, 1))
    assert other.reason_of(watch)[1] == 1


@pytest.mark.contract("S10.2", partly=True)
def test_a_reason_that_cannot_travel_is_refused_at_the_call(node: pa.ActorSystem) -> None:
    import threading

    for worker in (0, 1):
        one, other = puppet(0), puppet(worker)
        with pytest.raises(pa.NotPicklable):
            pa.exit(other.pid, ("lock", threading.Lock()))
        with pytest.raises(pa.NotPicklable):
            one.do(exit_with_lock, other.pid)
        assert other.alive


def exit_with_lock(pid: pa.Pid) -> None:
    import threading

    pa.exit(pid, [threading.Lock()])


class Odd:
    """A reason whose comparison can't be used."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    def __hash__(self) -> int:
        raise RuntimeError("not hashable")


@pytest.mark.contract("S1.7", partly=True)
@pytest.mark.parametrize("worker", [0, 1])
@pytest.mark.parametrize("watched", [True, False])
def test_a_reason_that_cannot_be_compared_or_hashed(node: pa.ActorSystem, worker: int, watched: bool) -> None:
    one, other = puppet(0), puppet(worker)
    watch = other.watch() if watched else None
    one.do(pa.exit, other.pid, Odd())
    if watch is not None:
        assert type(other.reason_of(watch)) is Odd
    eventually(lambda: not other.alive, "it has ended")
    again = puppet(worker)
    again.tell(leave, Odd())
    eventually(lambda: not again.alive, "it has ended")
    assert puppet(worker).do(pa.worker_index) == worker


# --- kill: dead at once, then a bounded unwinding ---------------------------------------------------------------------

CALLS: dict[str, Callable[[pa.Pid], object]] = {
    "self_": lambda pid: pa.receive(timeout=0, default=None),
    "send": lambda pid: pa.send(pid, "from the dead"),
    "spawn": lambda pid: pa.spawn(pa.send, pid, "from a child of the dead"),
    "receive": lambda pid: pa.receive(timeout=1),
    "sleep": lambda pid: pa.sleep(0.01),
    "link": pa.link,
    "monitor": pa.monitor,
    "exit": lambda pid: pa.exit(pid, "from the dead"),
    "register": lambda pid: pa.register("dead man", pid),
    "alias": lambda pid: pa.alias(),
    "send_after": lambda pid: pa.send_after(0, pid, "from the dead"),
    "processes": lambda pid: pa.processes(),
    "make_ref": lambda pid: pa.make_ref(),
}


def holding(asker: pa.Pid, call: str, record: str, how: str) -> None:
    """Waits in `how`; at its end it calls `call`, and leaves what became of that in a file."""
    try:
        pa.send(asker, "up")
        if how == "receive":
            pa.receive(pa.make_ref())
        elif how == "sleep":
            pa.sleep(None)
        else:
            pa.receive(pa.make_ref(), timeout=3600)
    finally:
        try:
            CALLS[call](asker)
            outcome = "returned"
        except BaseException as error:
            outcome = type(error).__name__
        with open(record, "w") as file:
            file.write(outcome)


@pytest.mark.contract("S1.9", partly=True)
@workers
@pytest.mark.parametrize("call", CALLS)
def test_library_calls_in_finally_blocks_of_the_killed_raise_at_once(
    node: pa.ActorSystem, worker: int, call: str, tmp_path: Any
) -> None:
    record = tmp_path / "record"
    pa.trap_exit()
    pid, ref = pa.options(worker=worker).spawn_monitor(holding, pa.self_(), call, str(record), "receive")
    assert get() == "up"
    pa.exit(pid, "kill")
    assert get() == pa.Down(ref, pid, "killed")
    eventually(lambda: record.is_file() and record.read_text(), "its finally block has run")
    assert record.read_text() == "ProcessKilled"
    puppet(worker).do(pa.process_info, pa.self_())
    assert mail() == []
    assert pa.process_info(pa.self_(), "links") == []


@pytest.mark.contract("S1.9", partly=True)
@workers
@pytest.mark.parametrize("how", ["receive", "sleep", "timeout"])
@pytest.mark.parametrize("reason", ["kill", "shutdown", "boom"])
def test_finally_blocks_run_however_it_waits(
    node: pa.ActorSystem, worker: int, how: str, reason: str, tmp_path: Any
) -> None:
    record = tmp_path / "record"
    pid = pa.options(worker=worker).spawn(holding, pa.self_(), "make_ref", str(record), how)
    assert get() == "up"
    pa.exit(pid, reason)
    eventually(lambda: record.is_file() and record.read_text(), "its finally block has run")
    assert record.read_text() == ("ProcessKilled" if reason == "kill" else "ProcessExit")


@pytest.mark.contract("S1.9", partly=True)
@workers
def test_finally_blocks_of_an_async_process_run(node: pa.ActorSystem, worker: int, tmp_path: Any) -> None:
    for reason in ("kill", "boom"):
        record = tmp_path / reason
        pid, ref = pa.options(worker=worker).spawn_monitor(aholding, pa.self_(), str(record))
        assert get() == "up"
        pa.exit(pid, reason)
        assert get() == pa.Down(ref, pid, "killed" if reason == "kill" else "boom")
        eventually(lambda record=record: record.is_file() and record.read_text(), "its finally block has run")  # type: ignore[misc]
        assert record.read_text() == ("ProcessKilled" if reason == "kill" else "ProcessExit")


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


async def aholding(asker: pa.Pid, record: str) -> None:
    try:
        pa.send(asker, "up")
        await pa.areceive(pa.make_ref())
    finally:
        outcome = "returned"
        try:
            await pa.asleep(0)
        except BaseException as error:
            outcome = type(error).__name__
        write(record, outcome)


@pytest.mark.contract("S1.9", partly=True)
@workers
def test_with_blocks_and_the_stack_below_are_unwound_in_order(node: pa.ActorSystem, worker: int, tmp_path: Any) -> None:
    record = tmp_path / "record"
    pid = pa.options(worker=worker).spawn(nested, pa.self_(), str(record), 5)
    assert get() == "up"
    pa.exit(pid, "kill")
    eventually(lambda: record.is_file() and record.read_text().endswith("5\n"), "all blocks have run")
    assert record.read_text() == "0\n1\n2\n3\n4\n5\n"


def nested(asker: pa.Pid, record: str, depth: int) -> None:
    class Block:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: object) -> None:
            with open(record, "a") as file:
                file.write(f"{depth}\n")

    with Block():
        if depth:
            nested(asker, record, depth - 1)
        pa.send(asker, "up")
        park()


# --- what swallows its kill -------------------------------------------------------------------------------------------


def stubborn(asker: pa.Pid) -> None:
    for turn in itertools.count():
        try:
            if turn == 0:
                pa.send(asker, "up")
            pa.receive(pa.make_ref())
        except BaseException:
            continue


def stubborn_callees(asker: pa.Pid) -> None:
    """Each call below swallows in turn."""

    def deep(level: int) -> None:
        for turn in itertools.count():
            try:
                if level:
                    deep(level - 1)
                elif turn == 0:
                    pa.send(asker, "up")
                pa.sleep(None)
            except BaseException:
                continue

    deep(5)


async def stubborn_async(asker: pa.Pid) -> None:
    for turn in itertools.count():
        try:
            if turn == 0:
                pa.send(asker, "up")
            await pa.areceive(pa.make_ref())
        except BaseException:
            continue


async def stubborn_mixed(asker: pa.Pid) -> None:
    """Swallows in the waits of an async process and in plain calls by turns."""
    for turn in itertools.count():
        try:
            pa.send(asker, "more" if turn else "up")
            await pa.asleep(3600)
        except BaseException:
            continue


@pytest.mark.contract("S1.9", partly=True)
@workers
@pytest.mark.parametrize("body", [stubborn, stubborn_callees, stubborn_async], ids=lambda body: body.__name__)
@pytest.mark.parametrize("reason", ["kill", "boom"])
def test_what_swallows_its_end_is_abandoned_and_the_worker_goes_on(
    node: pa.ActorSystem,
    worker: int,
    body: Callable[[pa.Pid], Any],
    reason: str,
) -> None:
    pid, ref = pa.options(worker=worker, name="stubborn").spawn_monitor(body, pa.self_())
    assert get() == "up"
    neighbour = puppet(worker)
    pa.exit(pid, reason)
    # Dead at once to everybody else.
    assert get() == pa.Down(ref, pid, "killed" if reason == "kill" else reason)
    assert pa.whereis("stubborn") is None
    assert pid not in pa.processes()
    assert neighbour.do(pa.worker_index) == worker
    assert puppet(worker).do(pa.worker_index) == worker


@pytest.mark.contract("S1.9", partly=True)
@workers
def test_what_swallows_its_end_between_waits_is_abandoned(node: pa.ActorSystem, worker: int) -> None:
    pid, ref = pa.options(worker=worker).spawn_monitor(stubborn_mixed, pa.self_())
    assert get() == "up"
    pa.exit(pid, "kill")
    down = pa.receive(pa.Down, timeout=WAIT)
    assert (down.ref, down.reason) == (ref, "killed")
    assert puppet(worker).do(pa.worker_index) == worker


@pytest.mark.contract("S1.9", "S9.5", partly=True)
def test_a_system_with_abandoned_stacks_stops(actor_system: pa.ActorSystem) -> None:
    made = [pa.options(worker=number % 2).spawn_monitor(stubborn, pa.self_()) for number in range(20)]
    for _ in made:
        assert pa.receive("up", timeout=WAIT) == "up"
    for pid, _ in made:
        pa.exit(pid, "kill")
    for pid, ref in made:
        assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT) == pa.Down(ref, pid, "killed")


@pytest.mark.contract("S1.9", partly=True)
@workers
def test_the_kill_of_a_process_that_computes_shows_at_its_next_call(node: pa.ActorSystem, worker: int) -> None:
    # It runs on, to its next call of the library; on its own worker others run after that only (without preemption).
    me = pa.self_()
    pid, ref = pa.options(worker=worker).spawn_monitor(kill_me_while_i_compute, me, puppet(1 - worker).pid)
    assert get() == pa.Down(ref, pid, "killed")
    assert mail() == []


def kill_me_while_i_compute(asker: pa.Pid, killer: pa.Pid) -> None:
    pa.send(killer, ("do", pa.self_(), pa.make_ref(), pa.exit, (pa.self_(), "kill"), {}))
    while True:
        pa.whereis("nobody")
        pa.make_ref()


@pytest.mark.contract("S1.9", partly=True)
def test_a_process_killed_before_it_ran_never_runs(node: pa.ActorSystem) -> None:
    for worker in (0, 1):
        assert puppet(0).do(spawn_and_kill, worker, pa.self_()) == ["killed"] * 20
    assert mail() == []


def spawn_and_kill(worker: int, asker: pa.Pid) -> list[object]:
    made = []
    with pa.no_preempt():
        for _ in range(20):
            made.append(pa.options(worker=worker).spawn_monitor(report_and_park, asker, pa.self_(), worker))
            pa.exit(made[-1][0], "kill")
    return [pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason for _, ref in made]


def report_and_park(asker: pa.Pid, parent: pa.Pid, worker: int) -> None:
    if worker == parent.worker:
        pa.send(asker, "ran")
    park()


@pytest.mark.contract("S1.9", partly=True)
@workers
def test_a_second_kill_changes_nothing(node: pa.ActorSystem, worker: int) -> None:
    pid, ref = pa.options(worker=worker).spawn_monitor(park)
    for reason in ("boom", "kill", "kill", "bang"):
        pa.exit(pid, reason)
    assert get() == pa.Down(ref, pid, "boom")
    puppet(worker).do(pa.process_info, pa.self_())
    assert mail() == []


# --- a guest that is killed -------------------------------------------------------------------------------------------


@pytest.mark.contract("S1.9", partly=True)
@workers
@pytest.mark.parametrize("waits", [True, False])
def test_a_killed_guest_is_dead_to_others_and_its_calls_raise(node: pa.ActorSystem, worker: int, waits: bool) -> None:
    import threading

    one = puppet(worker)
    one.do(pa.trap_exit)
    guests: list[pa.Pid] = []
    raised: list[BaseException] = []
    up, killed = threading.Event(), threading.Event()

    def visit() -> None:
        guests.append(pa.self_())
        pa.link(one.pid)
        one.do(pa.worker_index)
        up.set()
        if not waits:
            killed.wait(WAIT)
        for _ in range(3):
            try:
                pa.receive(timeout=WAIT)
            except BaseException as error:
                raised.append(error)

    thread = threading.Thread(target=visit)
    thread.start()
    up.wait(WAIT)
    ref = one.do(pa.monitor, guests[0])
    if waits:
        eventually(lambda: one.do(pa.process_info, guests[0], "status") == "waiting", "the guest waits")
    one.do(pa.exit, guests[0], "kill")
    killed.set()
    assert one.do(pa.receive, pa.Exit, timeout=WAIT) == pa.Exit(guests[0], "killed")
    assert one.do(get) == pa.Down(ref, guests[0], "killed")
    thread.join()
    assert [type(error) for error in raised] == [pa.ProcessKilled] * 3
    assert one.do(mail) == []


# --- names are free when others hear of it (S4.5) ---------------------------------------------------------------------


@pytest.mark.contract("S4.5")
@everywhere
@pytest.mark.parametrize("reason", ["normal", "boom", "kill"])
def test_the_name_is_free_when_the_down_arrives(node: pa.ActorSystem, here: int, there: int, reason: str) -> None:
    one = place(here)
    for _ in range(30):
        assert one.do(name_after_down, there, reason) == ("down", None)


def name_after_down(worker: int, reason: str) -> tuple[str, pa.Pid | None]:
    pid, ref = pa.options(worker=worker, name="phoenix").spawn_monitor(park)
    pa.exit(pid, "kill") if reason == "kill" else pa.exit(pid, reason if reason != "normal" else pa.Shutdown(0))
    pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT)
    found = pa.whereis("phoenix")
    # At once to be had again, here and there.
    again, ref = pa.options(worker=1 - worker, name="phoenix").spawn_monitor(park)
    pa.exit(again, "kill")
    pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT)
    return "down", found


@pytest.mark.contract("S4.5")
@everywhere
def test_the_name_is_free_when_the_exit_signal_arrives(node: pa.ActorSystem, here: int, there: int) -> None:
    one = place(here)
    one.do(pa.trap_exit)
    for _ in range(30):
        assert one.do(name_after_exit, there) is None
    one.do(pa.trap_exit, False)


def name_after_exit(worker: int) -> pa.Pid | None:
    pid = pa.options(worker=worker, name="phoenix").spawn_link(obey)
    pa.send(pid, ("do", pa.self_(), pa.make_ref(), leave, ("boom",), {}))
    pa.receive(pa.Exit(pid, pa.ANY), timeout=WAIT)
    return pa.whereis("phoenix")


@pytest.mark.contract("S4.5")
def test_the_names_of_a_whole_chain_are_free_when_the_last_one_falls(node: pa.ActorSystem) -> None:
    chain = [puppet(index % 2, name=f"chain {index}") for index in range(10)]
    for one, other in pairwise(chain):
        one.do(pa.link, other.pid)
    watch = chain[-1].watch()
    pa.exit(chain[0].pid, "boom")
    assert Puppet.reason_of(watch) == "boom"
    assert pa.whereis("chain 9") is None
    eventually(lambda: pa.registered() == [], "all names are free")


# --- stop_all: what supervisors stop their children by ----------------------------------------------------------------


def trap_and_leave(starter: pa.Pid, reason: object) -> None:
    """Traps exits, and ends otherwise than it is asked to."""
    pa.trap_exit(True)
    pa.send(starter, "trapping")
    pa.receive(pa.Exit)
    leave(reason)


def trap_and_park(starter: pa.Pid) -> None:
    pa.trap_exit(True)
    pa.send(starter, "trapping")
    park()


def await_trapping(count: int) -> None:
    for _ in range(count):
        pa.receive("trapping", timeout=WAIT)


@pytest.mark.contract("S8.1", "S8.3", partly=True)
@pytest.mark.parametrize("here", [GUEST, 0])
def test_stop_all_ends_each_as_it_is_asked_to(node: pa.ActorSystem, here: int) -> None:
    boss = place(here)
    boss.do(pa.trap_exit)
    mine, expected = boss.do(start_all_kinds)
    assert boss.do(stop_all, mine) == expected
    assert not any(pa.is_alive(pid) for pid in mine)
    # What else is in the mailbox stays there, in its order.
    assert boss.do(mail) == [1, pa.Exit(boss.pid, "a lie"), 2, 3]
    assert boss.do(links) == []
    pa.trap_exit(False)


def links() -> list[pa.Pid]:
    return [pid for pid in pa.process_info(pa.self_(), "links") if pid.worker < pa.worker_count()]


def stop_all(children: dict[pa.Pid, Any]) -> dict[pa.Pid, Any]:
    return api.stop_all(children)


def start_all_kinds() -> tuple[dict[pa.Pid, Any], dict[pa.Pid, Any]]:
    """Children of all kinds on both workers: how to stop each, and the reason that it ends with."""
    me = pa.self_()
    shutdown: dict[pa.Pid, Any] = {}
    expected: dict[pa.Pid, Any] = {}

    def have(pid: pa.Pid, how: Any, reason: Any) -> pa.Pid:
        shutdown[pid], expected[pid] = how, reason
        return pid

    pa.send(me, 1)
    for worker in (0, 1):
        spawn_link = pa.options(worker=worker).spawn_link
        have(spawn_link(park), 5.0, "shutdown")
        have(spawn_link(park), "infinity", "shutdown")
        have(spawn_link(park), 0, "shutdown")
        have(spawn_link(park), "brutal_kill", "killed")
        have(spawn_link(trap_and_park, me), 0.02, "killed")
        have(spawn_link(trap_and_park, me), 0, "killed")
        have(spawn_link(trap_and_leave, me, ("no", [1])), "infinity", ("no", [1]))
        await_trapping(3)
        for told in (True, False):
            pid = have(spawn_link(park), 5.0, "boom" if told else "noproc")
            watch = pa.monitor(pid)
            if not told:
                pa.unlink(pid)
            pa.exit(pid, "boom")
            pa.receive(pa.Down(watch, pid, "boom"), timeout=WAIT)
    pa.send(me, pa.Exit(me, "a lie"))
    pa.send(me, 2)
    pa.send(me, 3)
    return shutdown, expected


@pytest.mark.contract("S8.3", "S9.2", partly=True)
def test_stop_all_sees_the_death_of_a_worker(actor_system: pa.ActorSystem) -> None:
    pa.trap_exit(True)
    boss = puppet(0)
    boss.do(pa.trap_exit)
    there = boss.do(start_on, 1, 3)
    boss.tell(stop_and_tell, pa.self_(), there)
    eventually(lambda: pa.process_info(boss.pid, "monitors"), "it waits for them")
    os.kill(actor_system.worker_pids[1], signal.SIGKILL)
    assert pa.receive(dict, timeout=WAIT) == dict.fromkeys(there, pa.WorkerDown(1, signal.SIGKILL))
    pa.exit(boss.pid, "kill")  # it traps exits: the stop of the system would wait for it


def start_on(worker: int, count: int) -> dict[pa.Pid, Any]:
    pids = [pa.options(worker=worker).spawn_link(trap_and_park, pa.self_()) for _ in range(count)]
    await_trapping(count)
    return dict.fromkeys(pids, "infinity")


def stop_and_tell(to: pa.Pid, children: dict[pa.Pid, Any]) -> None:
    pa.send(to, api.stop_all(children))


@pytest.mark.contract("S8.3", partly=True)
def test_who_stops_others_can_be_killed_meanwhile(node: pa.ActorSystem) -> None:
    boss = puppet(0)
    stubborn = boss.do(start_on, 1, 1)
    boss.tell(stop_and_tell, pa.self_(), stubborn)
    eventually(lambda: pa.process_info(boss.pid, "monitors"), "it waits for them")
    pa.exit(boss.pid, "kill")
    assert boss.reason() in ("killed", "noproc")
    assert mail() == []


def stop_inside_a_pattern() -> str:
    def pattern(message: object) -> bool:
        api.stop_all({})
        return True

    pa.send(pa.self_(), "x")
    try:
        pa.receive(pattern)
    except RuntimeError as error:
        return str(error)
    return "nothing"


def test_stop_all_is_refused_inside_a_pattern(node: pa.ActorSystem) -> None:
    assert "while a message of the same process was being matched" in puppet(0).do(stop_inside_a_pattern)
