"""Guests: threads that the library didn't start, each a process of the node with an endpoint of its own (S1.13).

A guest polls its rings only while it is inside the library. For asyncio programs see `guest_asyncio.py`.
"""

from __future__ import annotations

import os
import threading
import weakref
from parallel_actors.workers.errors import NotRunning
from parallel_actors.workers.ident import Pid
from parallel_actors.workers.scheduler import Scheduler, claim_guest, current_scheduler, release_guest, use_scheduler
from parallel_actors.workers.segment import Segment

__all__ = ["GuestThreads", "attach", "detach"]


def attach(segment: Segment, root_pidfd: int | None) -> tuple[Scheduler, Pid]:
    """Make the calling thread a guest of the node. Its former scheduler, if any, is the caller's to put back."""
    endpoint, incarnation = claim_guest(segment, os.getpid())
    scheduler = Scheduler(segment, endpoint, incarnation, "guest")
    pid = scheduler.add_guest_process()
    if root_pidfd is not None:
        scheduler.watch_fd(root_pidfd, lambda: scheduler.lose("the actor system has ended: its root process died"))
    use_scheduler(scheduler)
    return scheduler, pid


def detach(scheduler: Scheduler, reason: object = "normal") -> None:
    """The guest leaves: links and monitors to it fire with `reason`, then its slot is given back."""
    scheduler.end_guest(reason)
    endpoint, segment = scheduler.endpoint, scheduler.segment
    scheduler.close()
    release_guest(segment, endpoint)


class _Leave:
    """Lives in a thread's own storage: collected in that thread when it ends, it takes the guest off."""

    def __init__(self, threads: GuestThreads, scheduler: Scheduler) -> None:
        self.threads = threads
        self.scheduler = scheduler

    def __del__(self) -> None:
        self.threads.forget(self.scheduler)


class GuestThreads:
    """The threads of this OS process that became guests by calling the API (not the one that runs `with ActorSystem`)."""

    def __init__(self, segment: Segment, root_pidfd: int | None) -> None:
        self._segment = segment
        self._root_pidfd = root_pidfd
        self._local = threading.local()
        self._lock = threading.Lock()
        self._guests: weakref.WeakSet[Scheduler] = weakref.WeakSet()
        self._ended: str | None = None

    def adopt(self) -> None:
        """Make the calling thread a guest (the engine calls this at a thread's first use of the API)."""
        with self._lock:
            if self._ended is not None:
                raise NotRunning(self._ended)
            scheduler, _ = attach(self._segment, self._root_pidfd)
            self._guests.add(scheduler)
        self._local.leave = _Leave(self, scheduler)

    def forget(self, scheduler: Scheduler) -> None:
        """The thread of `scheduler` has ended."""
        if current_scheduler() is scheduler:
            use_scheduler(None)
        if self._ended is None:
            detach(scheduler)
        else:
            scheduler.close()

    def end(self, reason: str) -> int:
        """The system stops: the guests' next calls raise NotRunning. Returns how many threads still are guests."""
        with self._lock:
            self._ended = reason
            guests = list(self._guests)
            for scheduler in guests:
                scheduler.lose(reason)
                self._segment.wake_endpoint(scheduler.endpoint)
        return len(guests)
