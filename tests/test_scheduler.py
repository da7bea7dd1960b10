"""The scheduler's own rules, with several endpoints in one OS process: what no race can be made to show."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import parallel_actors as pa
from parallel_actors.workers.scheduler import Scheduler, use_scheduler
from parallel_actors.workers.segment import Segment

LIVE = 2
ROOT, GUEST = 2, 3


@contextmanager
def endpoint(segment: Segment, number: int, role: str) -> Iterator[Scheduler]:
    segment.put_slot(number, segment.slot(number)[0], LIVE)
    scheduler = Scheduler(segment, number, segment.slot(number)[0], role)
    try:
        yield scheduler
    finally:
        scheduler.close()


@contextmanager
def no_memory(segment: Segment) -> Iterator[None]:
    """No page of the shared memory can be made: `fallocate` on a descriptor that can't be written is refused."""
    saved, readonly = os.dup(segment.fd), os.open(f"/proc/self/fd/{segment.fd}", os.O_RDONLY)
    os.dup2(readonly, segment.fd)
    try:
        yield
    finally:
        os.dup2(saved, segment.fd)
        os.close(saved)
        os.close(readonly)


@pytest.fixture
def former() -> Iterator[None]:
    before = use_scheduler(None)
    yield
    use_scheduler(before)


@pytest.mark.contract("S2.4", "S2.1", partly=True)
def test_what_a_dead_worker_had_published_comes_before_its_down(segment: Segment, former: None) -> None:
    # A producer may be killed between its tail and its dirty bit: only the news of its death says that there is mail.
    with (
        endpoint(segment, 0, "worker") as worker,
        endpoint(segment, ROOT, "root") as root,
        endpoint(segment, GUEST, "guest") as guest,
    ):
        here = guest.add_guest_process()
        there = worker.add_callback_process(print)
        use_scheduler(guest)
        ref = pa.monitor(there)
        use_scheduler(worker)
        pa.send(here, "last words")
        assert segment.dirty(GUEST) == [0]
        assert segment.dirty(GUEST) == [], "taken: as if the worker had never set it"
        segment.put_slot(0, 1, 4)
        root.announce_down(0, 0, -9)
        use_scheduler(guest)
        assert pa.receive(timeout=0) == "last words"
        assert pa.receive(timeout=0) == pa.Down(ref, there, pa.WorkerDown(0, 9))
        assert pa.receive(timeout=0, default="nothing more") == "nothing more"


def test_a_late_death_of_an_incarnation_that_was_never_believed_in_changes_nothing(
    segment: Segment, former: None
) -> None:
    # A guest that goes live after the count believes the new incarnation at once; the news of the old one comes later.
    with (
        endpoint(segment, ROOT, "root") as root,
        endpoint(segment, GUEST, "guest") as guest,
    ):
        guest.add_guest_process()
        segment.put_slot(0, 1, LIVE)
        with endpoint(segment, 4, "guest") as late, endpoint(segment, 0, "worker") as worker:
            here = late.add_guest_process()
            root.announce_down(0, 0, -9)
            use_scheduler(late)
            there = worker.add_callback_process(print)
            ref = pa.monitor(there)
            assert pa.receive(timeout=0, default="alive") == "alive"
            use_scheduler(worker)
            pa.send(here, "hello")
            use_scheduler(late)
            assert pa.receive(timeout=0) == "hello"
            assert pa.demonitor(ref)


def test_bookkeeping_holds_after_each_step(segment: Segment, former: None) -> None:
    with endpoint(segment, GUEST, "guest") as guest:
        here = guest.add_guest_process()
        use_scheduler(guest)
        for number in range(10):
            pa.send(here, number)
            guest.check_invariants()
        for pattern in (7, 0, 9, int):
            pa.receive(pattern, timeout=0)
            guest.check_invariants()
        timers = [pa.make_ref() for _ in range(3)]
        assert len(set(timers)) == 3
        while pa.receive(timeout=0, default=None) is not None:
            guest.check_invariants()


def _park() -> None:
    pa.receive()


def test_a_workers_load_counts_what_has_been_born_and_what_has_ended(segment: Segment, former: None) -> None:
    """Found: it was told now and then: a brisk spawner found an old load, and chose the same worker again."""
    with endpoint(segment, 0, "worker") as worker, endpoint(segment, GUEST, "guest") as guest:
        guest.add_guest_process()
        use_scheduler(guest)
        pids = [pa.options(worker=0).spawn(_park) for _ in range(3)]
        assert (0, 0) == segment.load(0)
        worker.attend()
        assert 3 == segment.load(0)[0]
        for pid in pids[:2]:
            pa.exit(pid, "kill")
        worker.attend()
        assert 1 == segment.load(0)[0]


def test_a_worker_that_is_not_up_yet_is_no_place_for_a_process(segment: Segment, former: None) -> None:
    """Found: it had its predecessor's load, so that what was restarted after a death was put there, and waited."""
    with endpoint(segment, 0, "worker") as worker, endpoint(segment, GUEST, "guest") as guest:
        worker.add_callback_process(print)
        worker.add_callback_process(print)
        guest.add_guest_process()
        use_scheduler(guest)
        segment.set_starting(1)
        segment.put_slot(1, 0, LIVE)
        assert {0} == {pa.spawn(_park).worker for _ in range(5)}
        with endpoint(segment, 1, "worker"):  # so it does before it says that it is up
            assert 1 == pa.spawn(_park).worker


# --- no memory for a ring ---------------------------------------------------------------------------------------------


@pytest.mark.contract("S2.2", "S9.2", partly=True)
def test_a_death_fires_links_and_monitors_where_there_is_no_memory_for_its_ring(segment: Segment, former: None) -> None:
    """Found: the survivor could not look whether the dead had sent anything, and told nobody of the death."""
    with endpoint(segment, ROOT, "root") as root, endpoint(segment, GUEST, "guest") as guest:
        here = guest.add_guest_process()
        with endpoint(segment, 0, "worker") as worker:
            there = worker.add_callback_process(print)
            use_scheduler(guest)
            pa.trap_exit(True)
            ref = pa.monitor(there)
            pa.link(there)
            segment.put_slot(1, 1, 4)
            root.announce_down(1, 0, -9)  # there is a ring from the root
        with no_memory(segment):
            segment.put_slot(0, 1, 4)
            with pytest.raises(pa.SegmentFull):  # for the rings to those who don't live
                root.announce_down(0, 0, -9)
            assert pa.receive(timeout=0) == pa.Down(ref, there, pa.WorkerDown(0, 9))
            assert pa.receive(timeout=0) == pa.Exit(there, pa.WorkerDown(0, 9))
            assert pa.receive(timeout=0, default="nothing more") == "nothing more"
        with endpoint(segment, 0, "worker") as worker:
            use_scheduler(worker)
            pa.send(here, "from the next incarnation")
            use_scheduler(guest)
            # The ring that is owed is handed over now.
            assert pa.receive(timeout=0, default=None) is None
            assert worker.flush_all(1.0)
            assert pa.receive(timeout=0) == "from the next incarnation"


@pytest.mark.contract("S2.2", "S4.1", "S4.3", partly=True)
def test_a_death_is_told_where_there_is_no_memory_for_a_ring(segment: Segment, former: None) -> None:
    """Found: the first signal that found no ring ended the telling: who came behind it waited for ever."""
    with (
        endpoint(segment, 0, "worker") as worker,
        endpoint(segment, GUEST, "guest") as one,
        endpoint(segment, 4, "guest") as two,
    ):
        there = worker.add_callback_process(print)
        refs = {}
        pids = []
        for guest in (one, two):
            pids.append(guest.add_guest_process())
            use_scheduler(guest)
            pa.trap_exit(True)
            pa.link(there)
            refs[guest] = pa.monitor(there)
        use_scheduler(worker)
        pa.send(pids[1], "there is a ring to the second")
        worker.attend()
        with no_memory(segment):
            use_scheduler(one)
            pa.exit(there, "kill")
            worker.attend()
            worker.check_invariants()
            use_scheduler(worker)
            assert worker.process_count == 0
            with pytest.raises(pa.SegmentFull):
                worker.send_to_root("a message is refused at once")
            use_scheduler(two)
            got = [pa.receive(timeout=0) for _ in range(3)]
            assert got[0] == "there is a ring to the second"
            assert set(got[1:]) == {pa.Exit(there, "killed"), pa.Down(refs[two], there, "killed")}
            use_scheduler(one)
            assert pa.receive(timeout=0, default="waits for memory") == "waits for memory"
            assert not worker.flush_all(0.0)
        assert worker.flush_all(1.0)
        assert {pa.receive(timeout=0) for _ in range(2)} == {
            pa.Exit(there, "killed"),
            pa.Down(refs[one], there, "killed"),
        }
        for guest in (one, two):
            use_scheduler(guest)
            assert pa.receive(timeout=0, default="nothing more") == "nothing more"


@pytest.mark.contract("S4.1", "S4.3", partly=True)
@pytest.mark.parametrize("ask", [pa.link, pa.monitor, lambda pid: pa.exit(pid, "no"), pa.process_info])
def test_what_a_process_asks_for_is_refused_where_there_is_no_memory_for_a_ring(
    segment: Segment, former: None, ask: Callable[[pa.Pid], object]
) -> None:
    with endpoint(segment, 0, "worker") as worker, endpoint(segment, GUEST, "guest") as guest:
        here = guest.add_guest_process()
        there = worker.add_callback_process(print)
        use_scheduler(guest)
        with no_memory(segment):
            with pytest.raises(pa.SegmentFull, match="the system refused"):
                ask(there)
            facts = pa.process_info(here)
            assert facts is not None
            assert facts["links"] == facts["monitors"] == [], "nothing was done"
