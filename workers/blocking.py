"""The threads of a worker for calls that block: native work and I/O that know nothing of processes (`run_blocking`).

A thread never touches the scheduler: it leaves what came of the call in a queue and rings the scheduler's bell.
"""

from __future__ import annotations

import contextvars
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from parallel_actors.workers.scheduler import Scheduler

__all__ = ["Threads"]

# As many calls may block at the same time; the rest waits for a thread.
_THREADS = 32


class Threads:
    """The pool of one worker, also for what its processes do by `asyncio.to_thread`.

    It ends with the OS process: nothing waits for a call that nobody waits for any more.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._done: deque[tuple[int, tuple[bool, Any]]] = deque()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.pool = ThreadPoolExecutor(_THREADS, "run_blocking")
        scheduler.watch_fd(self._bell, self._collect)

    def submit(self, lo: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call `function` in a thread, in the caller's context, and hand its end to `finish_offload(lo, ...)`."""
        self.pool.submit(self._call, lo, contextvars.copy_context(), function, args, kwargs)

    def _call(
        self,
        lo: int,
        context: contextvars.Context,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        try:
            reply = True, context.run(function, *args, **kwargs)
        except BaseException as error:  # it is raised again, in the process that waits
            reply = False, error
        self._done.append((lo, reply))
        os.eventfd_write(self._bell, 1)

    def _collect(self) -> None:
        os.eventfd_read(self._bell)
        while self._done:
            self._scheduler.finish_offload(*self._done.popleft())
