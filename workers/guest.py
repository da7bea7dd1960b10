"""Guests: threads that the library didn't start, each a process of the node with an endpoint of its own (S1.13).

A guest polls its rings only while it is inside the library. In an asyncio program `wait` joins its endpoint's epoll descriptor to the
event loop, so that `await areceive()` suspends a task and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable
from typing import Any

from parallel_actors.workers import api
from parallel_actors.workers.errors import NotRunning, ReceiveTimeout
from parallel_actors.workers.ident import Pid
from parallel_actors.workers.scheduler import Scheduler, claim_guest, current_scheduler, release_guest, use_scheduler
from parallel_actors.workers.segment import Segment

__all__ = ["GuestThreads", "attach", "detach", "wait"]


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


class _LoopGuest:
    """Joins one guest's endpoint to one asyncio event loop while tasks wait for its mail."""

    def __init__(self, scheduler: Scheduler, loop: asyncio.AbstractEventLoop) -> None:
        self.scheduler = scheduler
        self.loop = loop
        self.waiting: set[asyncio.Future[None]] = set()

    async def changed(self, timeout: float | None) -> None:
        """Return when something has come in, or after `timeout` seconds."""
        future: asyncio.Future[None] = self.loop.create_future()
        if not self.waiting:
            self.loop.add_reader(self.scheduler.epoll_fd(), self.wake)
        self.waiting.add(future)
        if not self.scheduler.rest():
            self.loop.call_soon(self.wake)
        try:
            await asyncio.wait((future,), timeout=timeout)
        finally:
            self.waiting.discard(future)
            future.cancel()
            if not self.waiting:
                self.loop.remove_reader(self.scheduler.epoll_fd())

    def wake(self) -> None:
        self.scheduler.attend()
        for future in self.waiting:
            if not future.done():
                future.set_result(None)


_LOOPS: weakref.WeakKeyDictionary[Scheduler, _LoopGuest] = weakref.WeakKeyDictionary()
# The epoll wait of a guest is bounded for the same reason as a worker's: see "Wake-up" in docs/internals.md.
_LONGEST = 0.1


def wait(
    scheduler: Scheduler, patterns: tuple[Any, ...] | None, timeout: float | None, has_default: bool, default: Any
) -> Awaitable[Any]:
    """What `areceive` and `asleep` return for a guest: an awaitable of the running asyncio loop."""
    if patterns is None:
        return asyncio.sleep(float("inf") if timeout is None else timeout)
    return _receive(scheduler, patterns, timeout, has_default, default)


async def _receive(
    scheduler: Scheduler, patterns: tuple[Any, ...], timeout: float | None, has_default: bool, default: Any
) -> Any:
    loop = asyncio.get_running_loop()
    joined = _LOOPS.get(scheduler)
    if joined is None or joined.loop is not loop:
        joined = _LOOPS[scheduler] = _LoopGuest(scheduler, loop)
    until = None if timeout is None else loop.time() + timeout
    nothing = object()
    while True:
        if current_scheduler() is not scheduler:
            raise NotRunning("the actor system of this areceive() has ended")
        message = api.receive(*patterns, timeout=0, default=nothing)
        if message is not nothing:
            return message
        left = _LONGEST if until is None else min(_LONGEST, until - loop.time())
        if left <= 0:
            if has_default:
                return default
            raise ReceiveTimeout(f"expected a message within {timeout} s, got none that matches", elapsed=timeout)
        await joined.changed(left)
