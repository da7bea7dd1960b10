"""A worker that leaves sends its processes away first; their pids stay good, wherever they are (S9.7)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

import parallel_actors as pa
from draining import Counter, Stubborn, hoard, keep_calling, never_end
from leaks import eventually
from movables import WORKERS as STORM_WORKERS
from movables import call_about, company, is_report, move_about
from parallel_actors.root.node import FREE
from parallel_actors.workers.api import migrate
from parallel_actors.workers.scheduler import current_scheduler
from puppets import WAIT, Puppet, Witness, get, mail, park, puppet

WORKERS = 3


@pytest.fixture(scope="module")
def shared_node() -> Iterator[pa.ActorSystem]:
    """The system behind `node`, of three workers; each test adds the one that it removes."""
    with pa.ActorSystem(workers=WORKERS, max_workers=16, max_reports=10**6) as system:
        yield system


def counter(worker: int, *first: Any, **choices: Any) -> pa.Pid:
    pid = pa.options(worker=worker, **choices).start(Counter, *first)
    assert isinstance(pid, pa.Pid)
    return pid


def worker_of(pid: pa.Pid) -> int:
    found: int = pa.process_info(pid, "worker")
    return found


def told(pid: pa.Pid, function: Any, *args: Any) -> Any:
    return pa.call(pid, ("run", function, args), timeout=WAIT)


def notes_of(pid: pa.Pid) -> list[Any]:
    found: list[Any] = pa.call(pid, "notes", timeout=WAIT)
    return found


def is_free(worker: int) -> bool:
    scheduler = current_scheduler()
    assert scheduler is not None
    return scheduler.segment.slot(worker)[1] == FREE


def died_with(worker: int, reason: object) -> bool:
    """By what that worker was killed is not always known: on a busy machine its exit status can come too late."""
    return isinstance(reason, pa.WorkerDown) and reason.worker == worker and reason.signal in (None, signal.SIGKILL)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def os_pid(node: pa.ActorSystem, worker: int) -> int:
    return told(counter(worker), os.getpid)  # type: ignore[no-any-return]


# --- removal ----------------------------------------------------------------------------------------------------------


def test_nobody_notices_a_removal(node: pa.ActorSystem) -> None:
    index = node.add_worker()
    former = os_pid(node, index)
    servers = [counter(index) for _ in range(20)]
    callers = [pa.options(worker=worker).spawn(keep_calling, pa.self_(), servers) for worker in range(WORKERS)]
    for number in range(20):
        assert [number] * 20 == [pa.call(one, ("count", number), timeout=WAIT) for one in servers]
    removal = ThreadPoolExecutor(1)
    with removal:
        removed = removal.submit(node.remove_worker, index, timeout=None)
        number = 20
        while not removed.done() or number < 40:
            for one in servers:
                assert number == pa.call(one, ("count", number), timeout=WAIT)
            number += 1
        removed.result()
    for caller in callers:
        pa.send(caller, "stop")
    for _ in callers:
        _, count, faults = pa.receive(("called", pa.ANY, pa.ANY), timeout=60)
        assert (True, []) == (count > 0, faults)
    assert [[]] * 20 == [pa.call(one, "faults", timeout=WAIT) for one in servers]
    assert {worker_of(one) for one in servers} <= set(range(WORKERS))
    assert list(range(WORKERS)) == pa.worker_indices()
    assert gone(former)
    assert set(servers) <= set(pa.processes())


def test_names_links_and_monitors_hold_through_a_removal(node: pa.ActorSystem) -> None:
    index = node.add_worker()
    ends = [counter(index, name=f"kept {number}") for number in range(3)]
    watcher, linked = puppet(0), puppet(1)
    linked.do(pa.trap_exit)
    refs = [watcher.do(pa.monitor, pid) for pid in ends]
    for pid in ends:
        linked.do(pa.link, pid)
    outside = puppet(2)
    watches = told(ends[0], pa.monitor, outside.pid)
    node.remove_worker(index)
    assert ends == [pa.whereis(f"kept {number}") for number in range(3)]
    late = pa.monitor(ends[1])
    outside.tell(pa.exit, outside.pid, "over")
    eventually(lambda: notes_of(ends[0]) == [pa.Down(watches, outside.pid, "over")], "it hears of others' ends")
    for pid in ends:
        pa.cast(pid, ("leave", "done"))
    assert {pa.Down(ref, pid, "done") for ref, pid in zip(refs, ends, strict=True)} == {watcher.do(get) for _ in ends}
    assert {pa.Exit(pid, "done") for pid in ends} == {linked.do(get) for _ in ends}
    assert "done" == Puppet.reason_of(late)
    assert [None] * 3 == [pa.whereis(f"kept {number}") for number in range(3)]
    eventually(lambda: is_free(index), "the last of them has ended: the place is free again")


def test_timers_hold_through_a_removal(node: pa.ActorSystem) -> None:
    index = node.add_worker()
    clock = counter(index)
    for_me = told(clock, pa.send_after, 0.3, pa.self_(), "ring")
    for_itself = told(clock, pa.send_after, 0.3, clock, "own")
    dropped = told(clock, pa.send_after, 60, pa.self_(), "never")
    node.remove_worker(index)
    left = pa.cancel_timer(dropped)
    assert left is not None
    assert 0 < left < 60
    assert "ring" == get()
    eventually(lambda: notes_of(clock) == ["own"], "its own timer fires")
    assert for_me != for_itself
    pa.exit(clock, "kill")


def test_timers_of_those_who_were_guests_there(node: pa.ActorSystem) -> None:
    index = node.add_worker()
    pid = counter(0)
    migrate(pid, index)
    dropped = told(pid, pa.send_after, 60, pa.self_(), "never")
    told(pid, pa.send_after, 0.3, pa.self_(), "ring")
    node.remove_worker(index)
    assert pa.cancel_timer(dropped) is not None
    assert "ring" == get()
    eventually(lambda: is_free(index), "the place is free when the last timer is over")


def test_processes_move_on_after_their_home_has_left(node: pa.ActorSystem) -> None:
    index = node.add_worker()
    pid = counter(index)
    node.remove_worker(index)
    asker = puppet(2)
    for turn in range(50):
        migrate(pid, turn % WORKERS)
        assert turn % WORKERS == worker_of(pid)
        assert turn == asker.do(pa.call, pid, ("count", turn))
    with pytest.raises(ValueError, match="expected worker to be the number of a worker"):
        migrate(pid, index)
    assert [] == pa.call(pid, "faults")


def test_one_down_when_the_host_dies_after_the_home_has_left(node: pa.ActorSystem) -> None:
    index = node.add_worker()
    pids = [counter(index, name=f"doomed {number}") for number in range(6)]
    node.remove_worker(index)
    host = node.add_worker()
    for pid in pids[:3]:
        migrate(pid, host)
    for pid in pids[3:]:
        migrate(pid, 0)
    refs = {pa.monitor(pid): pid for pid in pids[:3]}
    os.kill(told(pids[0], os.getpid), signal.SIGKILL)
    for _ in range(3):
        down = get()
        assert refs.pop(down.ref) == down.pid
        assert died_with(host, down.reason)
    assert [None] * 3 == [pa.whereis(f"doomed {number}") for number in range(3)]
    assert all(pa.is_alive(pid) for pid in pids[3:])
    assert [False] * 3 == [pa.is_alive(pid) for pid in pids[:3]]
    eventually(lambda: puppet(host).alive, "the host is replaced")
    node.remove_worker(host, timeout=0)


def test_processes_that_are_guests_there_are_sent_on(node: pa.ActorSystem) -> None:
    index = node.add_worker()
    pids = [counter(0) for _ in range(10)]
    for pid in pids:
        migrate(pid, index)
    assert list(range(10)) == [pa.call(pid, ("count", 0)) + number for number, pid in enumerate(pids)]
    node.remove_worker(index)
    assert index not in {worker_of(pid) for pid in pids}
    assert [1] * 10 == [pa.call(pid, ("count", 1)) for pid in pids]
    assert [[]] * 10 == [pa.call(pid, "faults") for pid in pids]


def test_two_removals_in_a_row(node: pa.ActorSystem) -> None:
    """The home is gone when the host is told to leave: what its processes say of it goes to the root."""
    home, host = node.add_worker(), node.add_worker()
    pids = [counter(home) for _ in range(5)]
    for pid in pids:
        migrate(pid, host)
    node.remove_worker(home)
    node.remove_worker(host)
    assert {worker_of(pid) for pid in pids} <= set(range(WORKERS))
    assert [0] * 5 == [pa.call(pid, ("count", 0)) for pid in pids]


def test_a_server_whose_worker_computes_is_moved(node: pa.ActorSystem) -> None:
    index = node.add_worker()
    pid = counter(index)
    computing = pa.options(worker=index).spawn(compute)
    with ThreadPoolExecutor(1) as pool:
        removed = pool.submit(node.remove_worker, index, timeout=None)
        eventually(lambda: worker_of(pid) != index, "it has moved")
        assert pa.is_alive(computing)
        pa.exit(computing, "kill")
        removed.result(WAIT)
    assert 0 == pa.call(pid, ("count", 0))


def compute() -> None:
    while True:
        pass


def test_what_never_ends_is_shut_down_and_what_has_moved_lives(node: pa.ActorSystem) -> None:
    index = node.add_worker()
    stays, moves = pa.options(worker=index).spawn(never_end), counter(index)
    watch = pa.monitor(stays)
    node.remove_worker(index, timeout=0.2)
    assert "shutdown" == Puppet.reason_of(watch)
    assert 0 == pa.call(moves, ("count", 0))


def test_what_cannot_be_pickled_is_said_and_shut_down(node: pa.ActorSystem) -> None:
    index = node.add_worker()
    puppet(index, name="witness").do(Witness.start, pa.self_())
    pid = pa.options(worker=index).start(Stubborn)
    assert isinstance(pid, pa.Pid)
    watch = pa.monitor(pid)
    node.remove_worker(index, timeout=0.5)
    assert "shutdown" == Puppet.reason_of(watch)
    lines = []
    while (line := pa.receive(("logged", pa.ANY, pa.ANY), timeout=0, default=None)) is not None:
        lines.append(line)
    assert 1 == len([text for _, _, text in lines if repr(pid) in text and "goes on where it is" in text])


def test_supervised_servers_live_through_a_removal(node: pa.ActorSystem) -> None:
    index = node.add_worker()
    top = pa.options(worker=index).start(Nursery)
    assert isinstance(top, pa.Pid)
    child = pa.whereis("nursling")
    assert child is not None
    node.remove_worker(index)
    assert child == pa.whereis("nursling")
    assert index not in {worker_of(top), worker_of(child)}
    watch = pa.monitor(child)
    pa.exit(child, "kill")
    assert "killed" == Puppet.reason_of(watch)
    eventually(lambda: pa.whereis("nursling") not in (None, child), "it is started again")


class Nursery(pa.Supervisor):
    def init(self) -> Any:
        return self.supervise([pa.child(Counter, name="nursling")])


def test_a_stop_with_processes_whose_homes_have_left() -> None:
    with pa.ActorSystem(workers=2, max_workers=3) as system:
        index = system.add_worker()
        pids = [counter(index) for _ in range(5)]
        watches = [pa.monitor(pid) for pid in pids]
        told_of = [pa.options(worker=0).spawn(park)]
        system.remove_worker(index)
        assert all(pa.is_alive(pid) for pid in [*pids, *told_of])
        assert 5 == len(watches)


# --- deaths in the middle of it ---------------------------------------------------------------------------------------


def die_in_between(system: pa.ActorSystem, chance: random.Random) -> None:
    """Kill the worker that leaves at some moment: its processes live on, or end with one Down each."""
    index = system.add_worker()
    pids = [counter(index) for _ in range(20)]
    former = told(pids[0], os.getpid)
    refs = {pa.monitor(pid): pid for pid in pids}
    delay = chance.uniform(0, 0.03)
    killer = threading.Timer(delay, _kill, (former,))
    killer.start()
    system.remove_worker(index, timeout=None)
    killer.join()
    assert gone(former)
    downs = set()
    for pid in pids:
        try:
            assert 0 == pa.call(pid, ("count", 0), timeout=60)
        except (pa.NoProc, pa.NodeDown, pa.RemoteError):
            downs.add(pid)
    assert downs == {pid for pid in pids if not pa.is_alive(pid)}
    for _ in downs:
        down = get()
        assert down.pid in downs
        assert down.pid == refs.pop(down.ref)
    assert pa.receive(timeout=0, default=None) is None
    for ref, pid in refs.items():
        pa.exit(pid, "kill")
        assert "killed" == Puppet.reason_of(ref)
    assert index not in pa.worker_indices()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has left
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("seed", range(2))
def test_kills_while_a_worker_leaves(node: pa.ActorSystem, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(10):
        die_in_between(node, chance)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_kills_while_a_worker_leaves(node: pa.ActorSystem, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(50):
        die_in_between(node, chance)


# --- under load -------------------------------------------------------------------------------------------------------


def storm(system: pa.ActorSystem, chance: random.Random, kills: bool) -> tuple[int, int]:
    """Everybody talks and moves while the home of half of them is removed, and then a host dies. (messages, deaths)."""
    here = pa.self_()
    home = system.add_worker()
    listeners, talkers, watches = company([home, 0, home, 1, home, 2])
    helpers = [
        pa.options(worker=place).spawn_monitor(f, pids, here, 0.8, chance.randrange(1 << 30))
        for place in range(STORM_WORKERS)
        for f, pids in ((move_about, [*listeners, *talkers]), (call_about, listeners))
    ]
    pa.sleep(chance.uniform(0, 0.3))
    system.remove_worker(home, timeout=None)
    pa.sleep(chance.uniform(0, 0.2))
    victim = chance.randrange(STORM_WORKERS)
    former = system.worker_pids[victim]
    if kills:
        os.kill(former, signal.SIGKILL)
    for _, ref in helpers:
        down = pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=4 * WAIT)
        assert down.reason in ("normal", "noproc") or died_with(victim, down.reason)
    if kills:
        eventually(lambda: system.worker_pids[victim] not in (0, former), "the host is replaced")
    while (report := pa.receive(is_report, timeout=0, default=None)) is not None:
        assert [] == report[3]
    living = [pid for pid in (*listeners, *talkers) if pa.is_alive(pid)]
    downs = [pa.receive(pa.Down, timeout=WAIT) for _ in range(len(watches) - len(living))]
    for down in downs:
        assert down.pid == watches.pop(down.ref)
        assert died_with(victim, down.reason)
    ends = {talker: pa.call(talker, "end", timeout=WAIT) for talker in talkers if talker in living}
    messages = 0
    for listener in listeners:
        if listener not in living:
            continue
        eventually(
            lambda: ends.items() <= pa.call(listener, "state", timeout=WAIT)["ends"].items(),  # noqa: B023
            "the last words are here",
        )
        eventually(
            lambda: pa.call(listener, "state", timeout=WAIT)["downs"] == len(talkers) - len(ends),  # noqa: B023
            "the Downs are here",
        )
        state = pa.call(listener, "state", timeout=WAIT)
        assert [] == state["faults"]
        messages += state["messages"]
    for pid in pa.processes():
        if pid != here:
            pa.exit(pid, "kill")
    eventually(lambda: pa.processes() == [here], "all are gone")
    mail()
    eventually(lambda: is_free(home), "the place of the removed one is free again")
    return messages, len(downs)


def storms(rounds: int, chance: random.Random) -> None:
    with pa.ActorSystem(workers=STORM_WORKERS, max_workers=STORM_WORKERS + 1, max_reports=2) as system:
        for number in range(rounds):
            messages, deaths = storm(system, chance, number % 2 == 1)
            assert messages > 0
            assert number % 2 == 1 or deaths == 0


def test_a_home_leaves_while_everybody_talks_and_moves() -> None:
    storms(2, random.Random(7))


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(8))
def test_many_homes_leave_while_everybody_talks_and_moves(seed: int) -> None:
    storms(20, random.Random(seed))


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_worker_that_has_grown_is_replaced_and_nobody_notices(capfd: pytest.CaptureFixture[str]) -> None:
    with pa.ActorSystem(workers=2, max_worker_rss=150 << 20) as system:
        quiet, large = counter(1, name="quiet"), counter(1)
        watch = pa.monitor(quiet)
        _, former = pa.call(quiet, "where")
        assert [0, 1, 2] == [pa.call(quiet, ("count", number)) for number in range(3)]
        assert 160 << 20 == told(large, hoard, 160 << 20)
        eventually(lambda: system.worker_pids[1] not in (0, former) and gone(former), "another OS process goes on")
        assert quiet == pa.whereis("quiet")
        assert 3 == pa.call(quiet, ("count", 3), timeout=WAIT)
        assert [] == pa.call(quiet, "faults")
        eventually(lambda: pa.worker_indices() == [0, 1] and puppet(1).alive, "the worker takes processes again")
        assert system.worker_pids[1] == puppet(1).do(os.getpid)
        migrate(quiet, 1)
        assert (1, system.worker_pids[1]) == pa.call(quiet, "where")
        assert 0 == told(large, hoard, 0)  # the leak has stayed behind
        pa.exit(quiet, "kill")
        assert "killed" == Puppet.reason_of(watch)
    assert "uses" in (text := capfd.readouterr().err)
    assert "another OS process goes on as worker 1" in text


def test_a_limit_that_every_worker_exceeds_replaces_each_and_loses_nobody() -> None:
    with pa.ActorSystem(workers=2, max_worker_rss=1) as system:
        pids = [counter(worker) for worker in (0, 1) for _ in range(5)]
        former = [pa.call(pids[0], "where")[1], pa.call(pids[-1], "where")[1]]
        number = 0
        while not all(map(gone, former)):
            assert [number] * 10 == [pa.call(pid, ("count", number), timeout=WAIT) for pid in pids]
            number += 1
        assert [number] * 10 == [pa.call(pid, ("count", number), timeout=WAIT) for pid in pids]
        assert [[]] * 10 == [pa.call(pid, "faults", timeout=WAIT) for pid in pids]
        assert 2 == len(set(system.worker_pids) - set(former))
