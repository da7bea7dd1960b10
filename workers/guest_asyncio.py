"""Guests inside asyncio: `await areceive()` suspends a task of the program's event loop and nothing else.

The guest's epoll descriptor joins the loop while tasks wait. Imported on first use: `asyncio` takes longer to import
than this library.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable
from typing import Any

from parallel_actors.workers import api
from parallel_actors.workers.errors import NotRunning, ReceiveTimeout
from parallel_actors.workers.scheduler import Scheduler, current_scheduler

__all__ = ["leave", "wait"]


class _LoopGuest:
    """Joins one guest's endpoint to one asyncio event loop while tasks wait for its mail."""

    def __init__(self, scheduler: Scheduler, loop: asyncio.AbstractEventLoop) -> None:
        self.scheduler: Scheduler | None = scheduler  # None: it has left the system
        self.fd = scheduler.epoll_fd()
        self.loop = loop
        self.waiting: set[asyncio.Future[None]] = set()

    async def changed(self, timeout: float | None) -> None:
        """Return when something has come in, or after `timeout` seconds."""
        assert self.scheduler is not None
        future: asyncio.Future[None] = self.loop.create_future()
        if not self.waiting:
            self.loop.add_reader(self.fd, self.wake)
        self.waiting.add(future)
        if not self.scheduler.rest():
            self.loop.call_soon(self.wake)
        try:
            await asyncio.wait((future,), timeout=timeout)
        finally:
            self.waiting.discard(future)
            future.cancel()
            if not self.waiting and self.scheduler is not None:
                self.loop.remove_reader(self.fd)

    def wake(self) -> None:
        if self.scheduler is not None:
            self.scheduler.attend()
        for future in self.waiting:
            if not future.done():
                future.set_result(None)

    def leave(self) -> None:
        """The guest leaves: its descriptor is closed after this, and the tasks that wait find out."""
        self.scheduler = None
        if not self.loop.is_closed():
            if self.waiting:
                self.loop.remove_reader(self.fd)
            self.wake()


_LOOPS: weakref.WeakKeyDictionary[Scheduler, _LoopGuest] = weakref.WeakKeyDictionary()
# The epoll wait of a guest is bounded for the same reason as a worker's: see "Wake-up" in docs/internals.md.
_LONGEST = 0.1


def leave(scheduler: Scheduler) -> None:
    """The guest leaves its system."""
    joined = _LOOPS.pop(scheduler, None)
    if joined is not None:
        joined.leave()


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
        if joined is not None:
            joined.leave()
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
