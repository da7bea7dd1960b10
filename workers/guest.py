"""Guests: threads that the library didn't start, each a process of the node with an endpoint of its own (S1.13).

A guest polls its rings only while it is inside the library. For asyncio programs see `guest_asyncio.py`.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable

from parallel_actors.workers import output
from parallel_actors.workers.errors import NotRunning
from parallel_actors.workers.ident import Pid
from parallel_actors.workers.scheduler import (
    Scheduler,
    current_scheduler,
    set_guest_factory,
    set_lost_hook,
    use_scheduler,
)
from parallel_actors.workers.segment import Segment

__all__ = ["GuestThreads", "attach", "detach", "enter", "inside_worker", "leave"]

# How long a thread waits for the slot of one that has just ended, seconds: the root hands it out again.
_PATIENCE = 2.0
_FREE, _CLAIMED, _LIVE, _ENDED = range(4)
_ROOT_DIED = "the actor system has ended: its root process died"


def attach(segment: Segment, root_pidfd: int | None, max_reports: int) -> tuple[Scheduler, Pid]:
    """Make the calling thread a guest of the node. Its former scheduler, if any, is the caller's to put back."""
    endpoint, incarnation = _claim(segment)
    scheduler = Scheduler(segment, endpoint, incarnation, "guest")
    pid = scheduler.add_guest_process()
    output.bound(scheduler, max_reports)
    if root_pidfd is not None:
        scheduler.watch_fd(root_pidfd, lambda: scheduler.lose(_ROOT_DIED))
    use_scheduler(scheduler)
    return scheduler, pid


def _claim(segment: Segment) -> tuple[int, int]:
    """A slot for the calling thread, live: (endpoint, incarnation).

    Live first; the Scheduler's constructor reads the others' incarnations after that: so of a death at the same time
    either the count is seen there, or this slot's being live by the root.
    """
    until = time.monotonic() + _PATIENCE
    while (endpoint := segment.claim_guest()) is None:
        slots = range(segment.root + 1, segment.endpoints)
        leaving = any(segment.slot(e)[1] in (_FREE, _CLAIMED, _ENDED) for e in slots)
        if not leaving or time.monotonic() > until:
            raise NotRunning(
                f"expected at most {len(slots)} threads of the program in this system, got one more: "
                "give it more by ActorSystem(guests=...)"
            )
        segment.wake_endpoint(segment.root)
        time.sleep(0.002)
    segment.set_os_pid(endpoint, os.getpid())
    incarnation, _ = segment.slot(endpoint)
    segment.put_slot(endpoint, incarnation, _LIVE)
    return endpoint, incarnation


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _leave_loop(scheduler: Scheduler) -> None:
    """Take the guest off the asyncio loop that it joined, if any."""
    loops = sys.modules.get("parallel_actors.workers.guest_asyncio")
    if loops is not None:
        loops.leave(scheduler)


def detach(scheduler: Scheduler, reason: object = "normal") -> None:
    """The guest leaves: links and monitors to it fire with `reason`, then its slot is given back."""
    _leave_loop(scheduler)
    if scheduler.limit is not None:
        scheduler.limit.close()
    scheduler.end_guest(reason)
    endpoint, segment = scheduler.endpoint, scheduler.segment
    scheduler.close()
    # The root hands the slot out again.
    segment.put_slot(endpoint, segment.slot(endpoint)[0], _ENDED)
    segment.wake_endpoint(segment.root)


class _Leave:
    """Lives in a thread's own storage: collected in that thread when it ends, it takes the guest off."""

    def __init__(self, threads: GuestThreads, scheduler: Scheduler) -> None:
        self.threads = threads
        self.scheduler = scheduler

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing():  # by then this module's globals may be gone
            self.threads.forget(self.scheduler)


# Of each thread: the `_Leave` of the system that it is a guest of.
_LOCAL = threading.local()


class GuestThreads:
    """The threads of this OS process that became guests by calling the API (not those that run `with ActorSystem`)."""

    def __init__(self, segment: Segment, root_pidfd: int | None, max_reports: int) -> None:
        self._segment = segment
        self._max_reports = max_reports
        self._root_pidfd = root_pidfd
        # An RLock: a collection inside may end another guest of this thread.
        self._lock = threading.RLock()
        self._guests: set[Scheduler] = set()
        self._ended: str | None = None
        self._released = False

    @property
    def in_worker(self) -> bool:
        """Whether these are threads that user code started in a worker."""
        return self._root_pidfd is None

    def adopt(self) -> None:
        """Make the calling thread a guest (the engine calls this at a thread's first use of the API).

        Also where it was a guest of a system that has ended, as the threads of a pool are that outlives systems. But in
        the middle of something, between a request and the wait for its answer, it is told: in the new system it would
        wait without end.
        """
        former = current_scheduler()
        if former is not None:
            told = former.awaits
            if not _drop(former) or former.segment is self._segment or told:
                raise NotRunning(former.lost)
        with self._lock:
            if self._ended is not None:
                raise NotRunning(self._ended)
            if self._root_pidfd is not None and _readable(self._root_pidfd):
                raise NotRunning(_ROOT_DIED)
            scheduler, _ = attach(self._segment, self._root_pidfd, self._max_reports)
            self._guests.add(scheduler)
        _LOCAL.leave = _Leave(self, scheduler)

    def forget(self, scheduler: Scheduler) -> None:
        """The thread of `scheduler` has ended, or is a guest of another system now."""
        if current_scheduler() is scheduler:
            use_scheduler(None)
        with self._lock:
            if self._ended is None:
                detach(scheduler)
            else:
                _leave_loop(scheduler)
                scheduler.close()
            self._guests.discard(scheduler)
            if self._released and not self._guests:
                self._segment.close()

    def end(self, reason: str) -> None:
        """The system stops: the guests' next calls raise NotRunning."""
        with self._lock:
            self._ended = reason
            for scheduler in self._guests:
                scheduler.lose(reason)
                self._segment.wake_endpoint(scheduler.endpoint)

    def release(self) -> None:
        """The system has stopped: close its segment, now or when the last thread that still looks at it has left."""
        with self._lock:
            self._released = True
            if not self._guests:
                self._segment.close()


def _drop(scheduler: Scheduler) -> bool:
    """Let go of what the calling thread holds of a system that has ended; False if it's the thread that started it."""
    held: _Leave | None = getattr(_LOCAL, "leave", None)
    if held is None or held.scheduler is not scheduler:
        return False
    del _LOCAL.leave, held  # its __del__ does it
    return True


set_lost_hook(_drop)


# The running systems of this program that adopt threads, in the order of their start; in a worker: its own.
_SYSTEMS: list[GuestThreads] = []
_SYSTEMS_LOCK = threading.Lock()


def enter(threads: GuestThreads) -> None:
    """From now on `threads` adopts the threads that call the API."""
    with _SYSTEMS_LOCK:
        _SYSTEMS.append(threads)
        set_guest_factory(threads.adopt)


def leave(threads: GuestThreads) -> None:
    """Its system stops: the one that was started last of the others adopts threads again."""
    with _SYSTEMS_LOCK:
        _SYSTEMS.remove(threads)
        set_guest_factory(_SYSTEMS[-1].adopt if _SYSTEMS else None)


def inside_worker() -> bool:
    """Whether this OS process is a worker."""
    return any(threads.in_worker for threads in _SYSTEMS)
