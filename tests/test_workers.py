"""Workers come and go while the node runs, and how busy each is (S9.1, S9.2)."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic_ns
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from parallel_actors.config import Options, resolve
from parallel_actors.workers.errors import NotRunning
from parallel_actors.workers.scheduler import current_scheduler
from parallel_actors.workers.segment import Segment
from puppets import WAIT, Puppet, ask, echo, get, park, puppet

contract = pytest.mark.contract
THESE = r"this system's workers \(0, 1\), got"


def added(system: pa.ActorSystem) -> int:
    """One more worker; the test takes it away again."""
    index = system.add_worker()
    assert index in pa.worker_indices()
    return index


def kill(system: pa.ActorSystem, index: int) -> None:
    """Kill that worker, and wait until it is replaced."""
    place = pa.worker_indices().index(index)
    former = system.worker_pids[place]
    os.kill(former, signal.SIGKILL)
    eventually(lambda: system.worker_pids[place] not in (0, former), f"worker {index} is replaced")


@pytest.fixture
def small() -> Iterator[pa.ActorSystem]:
    """One worker, and room for one more."""
    with pa.ActorSystem(workers=1, max_workers=2) as system:
        yield system


# --- one more ---------------------------------------------------------------------------------------------------------


def test_a_worker_is_added_and_removed(node: pa.ActorSystem) -> None:
    former = node.worker_pids
    assert [0, 1] == pa.worker_indices()
    index = node.add_worker()
    assert 2 == index
    assert ([0, 1, 2], 3) == (pa.worker_indices(), pa.worker_count())
    assert former == node.worker_pids[:2]
    there = puppet(index)
    assert (index, node.worker_pids[2]) == (there.do(pa.worker_index), there.do(os.getpid))
    watch = there.watch()
    node.remove_worker(index, timeout=0)
    assert "shutdown" == there.reason_of(watch)
    assert ([0, 1], 2, former) == (pa.worker_indices(), pa.worker_count(), node.worker_pids)
    assert not there.alive


def test_a_new_worker_takes_its_share(node: pa.ActorSystem) -> None:
    crowd = [puppet(worker) for worker in (0, 1) for _ in range(10)]
    index = added(node)
    # The least loaded one: that is the new one, until it has as many as the others.
    shares = [pid.worker for pid in [pa.spawn(park) for _ in range(8)]]
    assert [index] * 8 == shares
    assert all(one.alive for one in crowd)
    node.remove_worker(index, timeout=0)


def test_names_links_monitors_and_calls_of_a_new_worker(node: pa.ActorSystem) -> None:
    index = added(node)
    old, new = puppet(0), puppet(index, name="newcomer")
    assert new.pid == pa.whereis("newcomer") == old.do(pa.whereis, "newcomer")
    watch = old.do(pa.monitor, new.pid)
    old.do(pa.trap_exit)
    old.do(pa.link, new.pid)
    new.tell(pa.exit, new.pid, "kill")
    assert {pa.Down(watch, new.pid, "killed"), pa.Exit(new.pid, "killed")} == {old.do(get), old.do(get)}
    assert pa.whereis("newcomer") is None
    server = pa.options(worker=index).spawn(echo)
    assert list(range(100)) == [old.do(ask, server, n) for n in range(100)]
    node.remove_worker(index, timeout=0)


def test_workers_are_added_while_others_send(node: pa.ActorSystem) -> None:
    """Whoever was there before hears of the new one's processes by message only; nothing is lost or reordered."""
    sink = pa.spawn(echo)
    stop = threading.Event()
    asked = [0]

    def keep_asking() -> None:
        while not stop.is_set():
            assert asked[0] == ask(sink, asked[0])
            asked[0] += 1

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(keep_asking)
        try:
            for _ in range(3):
                before = asked[0]
                index = added(node)
                server = pa.options(worker=index).spawn(echo)
                assert [1, 2, 3] == [ask(server, n) for n in (1, 2, 3)]
                eventually(lambda before=before: asked[0] > before or asking.done(), "the others go on")  # type: ignore[misc]
                node.remove_worker(index, timeout=0)
        finally:
            stop.set()
        asking.result(WAIT)


@contract("S9.2", partly=True)
def test_an_added_worker_that_dies_is_replaced(actor_system: pa.ActorSystem) -> None:
    index = actor_system.add_worker()
    one = puppet(index, name="there")
    watch = one.watch()
    kill(actor_system, index)
    assert pa.WorkerDown(index, signal.SIGKILL, None) == one.reason_of(watch)
    assert [0, 1, index] == pa.worker_indices()
    again = puppet(index, name="there")
    assert again.do(os.getpid) == actor_system.worker_pids[2]
    # And as any other: what died there before is dead, what is there now goes by its own end.
    actor_system.remove_worker(index, timeout=0)
    assert (False, False) == (one.alive, again.alive)


def test_there_is_room_for_max_workers(small: pa.ActorSystem) -> None:
    assert 1 == small.add_worker()
    with pytest.raises(pa.ActorError, match=r"expected at most 2 workers \(max_workers\), got one more"):
        small.add_worker()
    small.remove_worker(0)
    assert [1] == pa.worker_indices()
    assert puppet(1).do(pa.worker_count) == 1
    assert 0 == small.add_worker()
    assert [0, 1] == pa.worker_indices()
    assert {0, 1} == {puppet(worker).do(pa.worker_index) for worker in pa.worker_indices()}


def test_an_added_worker_that_cannot_start_gives_its_place_back(small: pa.ActorSystem) -> None:
    # The root may open no more descriptors: as where the system is full.
    limits = resource.prlimit(small.root_pid, resource.RLIMIT_NOFILE)
    resource.prlimit(small.root_pid, resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        with pytest.raises(pa.ActorError, match="the new worker could not be started"):
            small.add_worker()
    finally:
        resource.prlimit(small.root_pid, resource.RLIMIT_NOFILE, limits)
    assert [0] == pa.worker_indices()
    assert 1 == small.add_worker()
    assert 1 == puppet(1).do(pa.worker_index)


# --- one less ---------------------------------------------------------------------------------------------------------


def test_a_worker_that_leaves_waits_for_its_processes(node: pa.ActorSystem) -> None:
    index = added(node)
    last = puppet(index, name="last")
    watch = last.watch()
    with ThreadPoolExecutor(1) as pool:
        removal = pool.submit(pa.remove_worker, index, timeout=None)
        eventually(lambda: index not in pa.worker_indices(), "it leaves")
        # It is there, but nothing new comes: neither by number, nor by load, nor from its own processes.
        with pytest.raises(ValueError, match=f"expected worker= to be one of {THESE} {index}"):
            pa.options(worker=index).spawn(park)
        crowd = [puppet(worker) for worker in (0, 1) for _ in range(5)]
        assert index not in {pid.worker for pid in [pa.spawn(park) for _ in range(5)]}
        assert last.do(pa.spawn, park).worker in (0, 1)
        with pytest.raises(ValueError, match=f"got {index}, which is leaving already"):
            pa.remove_worker(index)
        assert last.do(pa.process_info, crowd[0].pid, "worker") == 0
        assert 3 == len(node.worker_pids)
        assert not removal.done()
        last.tell(pa.exit, last.pid, "kill")
        assert "killed" == last.reason_of(watch)
        removal.result(WAIT)
    assert pa.whereis("last") is None
    assert 2 == len(node.worker_pids)


def test_what_is_left_at_the_time_out_is_shut_down(node: pa.ActorSystem) -> None:
    index = added(node)
    trapping, plain, friend = puppet(index), puppet(index, name="plain"), puppet(0)
    trapping.do(pa.trap_exit)
    friend.do(pa.trap_exit)
    friend.do(pa.link, plain.pid)
    watch = trapping.watch()
    with ThreadPoolExecutor(1) as pool:
        removal = pool.submit(pa.remove_worker, index, timeout=0)
        assert pa.Exit(plain.pid, "shutdown") == friend.do(get)
        assert pa.whereis("plain") is None
        # It traps exits, so it has its cleaning up to do: the worker waits for that.
        assert "shutdown" == trapping.do(get).reason
        trapping.tell(pa.exit, trapping.pid, "kill")
        assert "killed" == trapping.reason_of(watch)
        removal.result(WAIT)


def test_a_process_that_ignores_the_order_is_killed() -> None:
    with pa.ActorSystem(workers=2, stop_timeout=0.2) as system:
        stubborn = puppet(1)
        stubborn.do(pa.trap_exit)
        watch = stubborn.watch()
        system.remove_worker(1, timeout=0)
        assert "killed" == stubborn.reason_of(watch)
        assert [0] == pa.worker_indices()


def test_a_worker_that_does_not_answer_is_killed_when_it_is_removed() -> None:
    with pa.ActorSystem(workers=2, stop_timeout=0.2) as system:
        one = puppet(1)
        watch = one.watch()
        os.kill(system.worker_pids[1], signal.SIGSTOP)
        system.remove_worker(1, timeout=0)
        assert pa.WorkerDown(1, signal.SIGKILL, None) == one.reason_of(watch)
        assert [0] == pa.worker_indices()
        assert 1 == system.add_worker()
        assert puppet(1).alive


def test_a_worker_that_dies_while_it_leaves_is_not_replaced(actor_system: pa.ActorSystem) -> None:
    one = puppet(1)
    watch = one.watch()
    with ThreadPoolExecutor(1) as pool:
        removal = pool.submit(pa.remove_worker, 1, timeout=None)
        eventually(lambda: pa.worker_indices() == [0], "it leaves")
        os.kill(actor_system.worker_pids[1], signal.SIGKILL)
        assert pa.WorkerDown(1, signal.SIGKILL, None) == one.reason_of(watch)
        removal.result(WAIT)
    assert 1 == len(actor_system.worker_pids)
    assert 1 == actor_system.add_worker()


@pytest.mark.parametrize("turn", range(3))
def test_a_worker_is_removed_while_others_send_and_spawn(node: pa.ActorSystem, turn: int) -> None:
    """Whatever they have under way to it ends: each process that they started is born elsewhere or ends with a Down."""
    index = added(node)
    server = pa.options(worker=index).spawn(park)
    senders = [puppet(worker) for worker in (0, 1)]
    for sender in senders:
        sender.tell(flood, server, pa.self_())
    begun = [pa.receive(("begun", pa.ANY), timeout=WAIT)[1] for _ in senders]
    assert {sender.pid for sender in senders} == set(begun)
    node.remove_worker(index, timeout=0)
    for sender in senders:
        pa.send(sender.pid, "enough")
    for _ in senders:
        homes, reasons = pa.receive(("flooded", pa.ANY, pa.ANY), timeout=WAIT)[1:]
        # One put into a ring at the very moment when the worker ended was never born.
        assert set(reasons) <= {"normal", "shutdown", "noproc"}
        assert homes <= {0, 1, index}
    assert all(sender.do(pa.worker_count) == 2 for sender in senders)
    assert index == node.add_worker()  # nothing of the former one is in the new one's rings
    assert index == puppet(index).do(pa.worker_index)
    node.remove_worker(index, timeout=0)


def flood(server: pa.Pid, test: pa.Pid) -> None:
    """Send to `server`, and spawn on whatever worker there is, until told that it's enough: how has all ended?"""
    homes, watched = set(), 0
    begun = False
    while pa.receive("enough", timeout=0, default=None) is None:
        for worker in pa.worker_indices():
            try:
                pid, _ = pa.options(worker=worker).spawn_monitor(pa.self_)
            except ValueError:  # it has left since we looked
                continue
            homes.add(pid.worker)
            watched += 1
        pa.send(server, "x" * 100)
        if not begun:
            begun = True
            pa.send(test, ("begun", pa.self_()))
    reasons = {str(pa.receive(pa.Down, timeout=WAIT).reason) for _ in range(watched)}
    pa.send(test, ("flooded", homes, reasons))


class Remover:
    """Removes a worker when it is pickled."""

    def __init__(self, worker: int) -> None:
        self.worker = worker

    def __reduce__(self) -> tuple[Any, ...]:
        if self.worker in pa.worker_indices():
            pa.remove_worker(self.worker)
        return int, (self.worker,)


def test_a_worker_is_removed_while_the_arguments_of_a_process_for_it_are_pickled(node: pa.ActorSystem) -> None:
    """The spawner has chosen it by then. A pid of a worker that nobody starts any more would be in limbo for ever."""
    for worker in (0, 1):
        puppet(worker)
    index = added(node)
    pid, ref = pa.spawn_monitor(pa.send, pa.self_(), Remover(index))  # the new one has the fewest
    assert pid.worker in (0, 1)
    assert index == pa.receive(int, timeout=WAIT)
    assert "normal" == Puppet.reason_of(ref)
    assert index == added(node)
    with pytest.raises(ValueError, match=f"expected worker= to be one of {THESE} {index}"):
        pa.options(worker=index).spawn(pa.send, pa.self_(), Remover(index))
    # The numbers of its processes go on where they were: nobody takes the next one's mail for an unborn one's.
    assert index == added(node)
    assert index == puppet(index).do(pa.worker_index)
    node.remove_worker(index, timeout=0)


def test_the_last_worker_stays(small: pa.ActorSystem) -> None:
    with pytest.raises(pa.ActorError, match="got the last one, 0: stop the system instead"):
        small.remove_worker(0)
    assert puppet(0).alive


@pytest.mark.parametrize("worker", [2, 7, 8, 4000])
def test_a_worker_that_is_not_there_cannot_be_removed(node: pa.ActorSystem, worker: int) -> None:
    with pytest.raises(ValueError, match=f"expected the number of one of {THESE} {worker}"):
        node.remove_worker(worker)
    with pytest.raises(ValueError, match=f"expected worker= to be one of {THESE} {worker}"):
        pa.options(worker=worker).spawn(park)


@pytest.mark.parametrize("worker", [-1, True, "0", None, 1.0])
def test_what_is_no_number_of_a_worker(node: pa.ActorSystem, worker: Any) -> None:
    with pytest.raises(ValueError, match=r"expected worker to be the number of a worker \(0, 1, ...\), got"):
        node.remove_worker(worker)
    with pytest.raises(ValueError, match="expected timeout to be a number of seconds or None, got"):
        node.remove_worker(0, timeout=-0.5)


# --- from everywhere --------------------------------------------------------------------------------------------------


def test_a_process_adds_and_removes_workers(node: pa.ActorSystem) -> None:
    one = puppet(0)
    index = one.do(pa.add_worker)
    assert index in pa.worker_indices()
    assert sorted(one.do(pa.worker_loads)) == pa.worker_indices()
    one.do(pa.remove_worker, index)
    assert [0, 1] == one.do(pa.worker_indices)


def test_a_process_that_removes_its_own_worker_ends_with_it(actor_system: pa.ActorSystem) -> None:
    one = puppet(1)
    watch = one.watch()
    one.tell(pa.remove_worker, 1, timeout=0)
    assert "shutdown" == one.reason_of(watch)
    eventually(lambda: len(actor_system.worker_pids) == 1, "the worker has ended")


def test_a_thread_adds_and_removes_workers(node: pa.ActorSystem) -> None:
    with ThreadPoolExecutor(1) as pool:
        index = pool.submit(pa.add_worker).result(WAIT)
        assert puppet(index).do(pa.worker_index) == index
        pool.submit(pa.remove_worker, index, timeout=0).result(WAIT)
    assert [0, 1] == pa.worker_indices()


def test_asyncio_adds_and_removes_workers() -> None:
    async def program() -> list[list[int]]:
        async with pa.ActorSystem(workers=1) as system:
            seen = [pa.worker_indices()]
            index = await pa.aadd_worker()
            one = puppet(index)
            seen.append(pa.worker_indices())
            ticks: list[int] = []

            async def tick() -> None:
                while True:
                    ticks.append(1)
                    await asyncio.sleep(0)

            ticking = asyncio.create_task(tick())
            await pa.aremove_worker(index, timeout=0.01)
            assert ticks  # the loop went on meanwhile
            ticking.cancel()
            assert not one.alive
            seen.append(pa.worker_indices())
            system.remove_worker(system.add_worker())
            return seen

    assert [[0], [0, 1], [0]] == asyncio.run(program())


# --- while the node stops ---------------------------------------------------------------------------------------------


def test_a_stop_takes_leaving_workers_along() -> None:
    with pa.ActorSystem(workers=2) as system:
        puppet(1)
        former = system.worker_pids
        thread = ThreadPoolExecutor(1)
        removal = thread.submit(pa.remove_worker, 1, timeout=None)
        eventually(lambda: pa.worker_indices() == [0], "it leaves")
    with pytest.raises(NotRunning):
        removal.result(WAIT)
    thread.shutdown()
    for pid in former:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_no_worker_comes_or_goes_once_the_system_stops(tmp_path: Path) -> None:
    with pa.ActorSystem(workers=2):
        pa.spawn(change_workers_at_the_end, pa.self_(), tmp_path / "refused")
        assert "ready" == get()
    refused = "expected a running system, got one that stops"
    assert [refused, refused] == (tmp_path / "refused").read_text().splitlines()


def change_workers_at_the_end(test: pa.Pid, told: Path) -> None:
    pa.trap_exit()
    pa.send(test, "ready")
    pa.receive(pa.Exit)
    with told.open("w") as file:
        for change in (pa.add_worker, partial(pa.remove_worker, 0)):
            try:
                change()
            except NotRunning as error:
                print(error, file=file)


# --- how busy they are ------------------------------------------------------------------------------------------------


def test_the_loads_say_who_is_busy(node: pa.ActorSystem) -> None:
    crowd = [puppet(1) for _ in range(5)]
    assert all(one.do(pa.worker_index) == 1 for one in crowd)  # they are born: until then nobody counts them
    assert {0: 0, 1: 5} == {index: load.processes for index, load in node.worker_loads().items()}
    computing = [pa.options(worker=0).spawn(compute) for _ in range(3)]
    eventually(lambda: node.worker_loads()[0].busy > 0.5, "worker 0 is known to be busy")
    # The one that runs waits for no turn. (Its load was shown while it ran.)
    eventually(lambda: node.worker_loads()[0].queue == 2, "the others wait for their turn")
    eventually(lambda: node.worker_loads()[1].busy < 0.5, "worker 1 is known to be idle")
    for pid in computing:
        pa.exit(pid, "kill")
    eventually(lambda: node.worker_loads()[0].busy < 0.5, "worker 0 is idle again")
    assert all(one.alive for one in crowd)


def compute() -> None:
    while True:
        pass


def awake(worker: int) -> int:
    return segment().busy(worker)


def segment() -> Segment:
    scheduler = current_scheduler()
    assert scheduler is not None
    return scheduler.segment


def test_the_clock_of_a_worker_runs_while_it_is_awake(node: pa.ActorSystem) -> None:
    eventually(lambda: segment().parked(0), "the worker sleeps")
    asleep = awake(0)
    computing = pa.options(worker=0).spawn(compute)
    eventually(lambda: awake(0) > asleep + 50_000_000, "its clock runs")
    pa.exit(computing, "kill")
    eventually(lambda: segment().parked(0), "the worker sleeps again")
    # It stands still, or runs with what wakes it now and then: far from all the time.
    times = []
    for _ in range(5):
        before = awake(0), monotonic_ns()
        eventually(lambda before=before: monotonic_ns() > before[1] + 20_000_000, "time passes")  # type: ignore[misc]
        times.append((awake(0) - before[0]) / (monotonic_ns() - before[1]))
    assert min(times) < 0.5


def test_the_clock_of_a_replacement_begins_anew(actor_system: pa.ActorSystem) -> None:
    pa.options(worker=1).spawn(compute)
    eventually(lambda: awake(1) > 100_000_000, "its clock runs")
    kill(actor_system, 1)
    eventually(lambda: puppet(1).alive, "it is up")
    assert awake(1) < 100_000_000
    assert 0.0 <= actor_system.worker_loads()[1].busy <= 1.0


def hottest(n: int) -> list[tuple[pa.Pid, int]]:
    scheduler = current_scheduler()
    assert scheduler is not None
    return scheduler.hottest(n)


def test_the_hottest_processes_of_a_worker(node: pa.ActorSystem) -> None:
    asker, idle = puppet(0), puppet(0)
    assert [] == asker.do(hottest, 0)
    computing = {pa.options(worker=0).spawn(compute) for _ in range(2)}
    eventually(lambda: {pid for pid, _ in asker.do(hottest, 2)} == computing, "those that compute are the hottest")
    found = asker.do(hottest, 10)
    assert [ticks for _, ticks in found] == sorted((ticks for _, ticks in found), reverse=True)
    assert all(ticks > 0 for _, ticks in found)
    assert idle.pid not in {pid for pid, _ in found}
    assert 1 == len(asker.do(hottest, 1))
    # The dead are out of it, at once.
    gone = computing.pop()
    Puppet(gone).watch()
    pa.exit(gone, "kill")
    assert gone not in {pid for pid, _ in asker.do(hottest, 10)}
    (left,) = computing
    assert left == asker.do(hottest, 1)[0][0]
    pa.exit(left, "kill")
    # And who computes no more is forgotten: its count is halved every second.
    idle.do(be_hot)
    eventually(lambda: idle.pid not in {pid for pid, _ in asker.do(hottest, 10)}, "its count has run out")


def be_hot() -> None:
    while pa.self_() not in {pid for pid, _ in hottest(10)}:
        pass


# --- settings ---------------------------------------------------------------------------------------------------------


def test_room_for_workers_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parallel_actors.config.usable_cores", lambda: 12)
    assert [12, 12, 40] == [Options(workers=workers).worker_slots for workers in (1, 4, 20)]
    monkeypatch.setattr("parallel_actors.config.usable_cores", lambda: 2)
    assert [8, 8, 10] == [Options(workers=workers).worker_slots for workers in (1, 2, 5)]
    # A worker gets all descriptors at its start, and the kernel hands on only so many.
    assert [231, 300] == [Options(workers=workers).worker_slots for workers in (128, 300)]
    assert 3 == Options(workers=2, max_workers=3).worker_slots


def test_max_workers_has_to_fit() -> None:
    with pytest.raises(ValueError, match="expected max_workers to be at least workers, got 2 for 3 workers"):
        resolve(workers=3, max_workers=2)
    with pytest.raises(ValueError, match=r"expected max_workers \+ guests to be at most 1023, got 1020 and 4 guests"):
        resolve(workers=1, max_workers=1020, guests=4)


@pytest.mark.parametrize("value", [1, 0, None, "no"])
def test_stealable_is_true_or_false(value: Any) -> None:
    with pytest.raises(TypeError, match="expected stealable to be True or False, got"):
        pa.options(stealable=value)


def test_the_traits_of_a_process_stand_beside_each_other(node: pa.ActorSystem) -> None:
    for worker in (0, 1):
        for priority in ("low", "normal", "high"):
            one = puppet(worker, stealable=False, priority=priority)
            assert priority == one.do(pa.process_info, one.pid, "priority")
