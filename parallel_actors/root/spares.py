"""`Spares`: OS processes that wait to be a worker, forked and with their modules imported.

One says on its socket that it is ready, and gets there the `WorkerConfig` of the worker whose place it takes; from then
on it is that worker's OS process like any other. Source: the `spares` of Actors.jl's supervisors.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parallel_actors.workers.boot import WorkerConfig
from parallel_actors.workers.scheduler import Scheduler

__all__ = ["Spares"]

# Spares that ended before they were ready, in a row, after which no more are started.
_MAX_FAILED_STARTS = 5
# Seconds that the end of one that was killed may take to come through the forkserver.
_END_TIMEOUT = 1.0


@dataclass
class Spare:
    """One that waits."""

    process: Any
    pidfd: int
    line: socket.socket
    ready: bool = False
    taken: bool = False  # it is a worker


class Spares:
    """The spare workers of a node.

    Args:
        wanted: how many there are to be.
        start: makes and starts the OS process of one, which has this descriptor.
        scheduler: the root's.
        note: writes a line.
    """

    def __init__(
        self, wanted: int, start: Callable[[int], Any], scheduler: Scheduler, note: Callable[[str], None]
    ) -> None:
        self.wanted = wanted
        self._start = start
        self._scheduler = scheduler
        self._note = note
        self._waiting: deque[Spare] = deque()
        self._lines: list[Spare] = []  # those whose sockets are open
        self._failed = 0

    def keep(self) -> None:
        """Start one, if there are too few."""
        if len(self._waiting) >= self.wanted or self._failed >= _MAX_FAILED_STARTS:
            return
        process = None
        try:
            ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)  # what is told comes whole
            with theirs:
                try:
                    process = self._start(theirs.fileno())
                    pidfd = os.pidfd_open(process.pid)
                except (OSError, EOFError):
                    ours.close()
                    raise
        except (OSError, EOFError) as error:
            if process is not None:
                process.kill()
                process.join(_END_TIMEOUT)
            self._has_failed(str(error))
            return
        spare = Spare(process, pidfd, ours)
        self._waiting.append(spare)
        self._lines.append(spare)
        self._scheduler.watch_fd(ours.fileno(), lambda: self._heard(spare))

    def take(self, config: WorkerConfig) -> tuple[Any, int] | None:
        """The process and pidfd of one that is worker `config.index` from now on; None: there is none."""
        data = pickle.dumps(config)
        while self._waiting:
            spare = self._waiting.popleft()
            spare.taken = True
            try:
                spare.line.send(data)
            except OSError:  # it is dead
                self._hang_up(spare)
                self._end(spare)
                continue
            # Closed by us before it has read that, with its word that it is ready unread here, it would read a reset.
            return spare.process, spare.pidfd
        return None

    def close(self) -> None:
        """End those that wait."""
        while self._lines:
            self._hang_up(self._lines[-1])
        while self._waiting:
            self._end(self._waiting.pop())

    def _heard(self, spare: Spare) -> None:
        try:
            said = spare.line.recv(16)
        except OSError:
            said = b""
        if said:
            spare.ready = True
            self._failed = 0
            return
        self._hang_up(spare)
        if spare.taken:
            return
        self._waiting.remove(spare)
        self._end(spare)
        if spare.ready:
            self._note("a spare worker has died; it is replaced")
        else:
            self._has_failed("it ended before it was ready")

    def _hang_up(self, spare: Spare) -> None:
        self._scheduler.unwatch_fd(spare.line.fileno())
        self._lines.remove(spare)
        spare.line.close()

    def _has_failed(self, why: str) -> None:
        self._failed += 1
        if self._failed == _MAX_FAILED_STARTS:
            self._note(
                f"a spare worker could not be started {self._failed} times in a row: {why}; there are none from now on"
            )

    def _end(self, spare: Spare) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(spare.pidfd, signal.SIGKILL)
        os.close(spare.pidfd)
        spare.process.join(_END_TIMEOUT)
