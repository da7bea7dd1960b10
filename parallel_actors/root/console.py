"""Writes what the workers print and log: whole lines, in order per process.

A thread does the writing, so that a reader of our output who has stopped reading (a full pipe, a paused terminal)
can't keep the root from its work. The queue in between is bounded by count of pieces: beyond it the root itself
waits, and with it, in turn, the printers; but only as long as nothing else needs the root (a death, a Ctrl-C, a stop).
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from parallel_actors.root import records

__all__ = ["Console"]

_BACKLOG = 10_000
# Seconds between two looks at a full queue.
_PAUSE = 0.005


class Console:
    """The root's output.

    `prefix`: mark each line with its source; `urgent`: whether the root mustn't wait now; `log_fd`: where log records
    go as lines of `records.py`, None: to stderr as text.
    """

    def __init__(self, *, prefix: bool = False, urgent: Callable[[], bool] = bool, log_fd: int | None = None) -> None:
        self._prefix = prefix
        self._log_fd = log_fd
        self._urgent = urgent
        self._written = 0  # bytes; only the thread writes it
        self._queue: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="console", daemon=True)
        self._thread.start()

    @property
    def interactive(self) -> tuple[bool, bool]:
        """Whether stdout and stderr are terminals."""
        return os.isatty(1), os.isatty(2)

    def out(self, number: int, source: str, text: str) -> None:
        """Write `text` of a process to stdout (1) or stderr (2)."""
        if self._prefix:
            text = "".join(f"[{source}] {line}" for line in text.splitlines(keepends=True))
        self._put(number, text)

    def log(self, source: str, level: int, logger: str, created: float, text: str, fields: dict[str, Any]) -> None:
        """Write a log record."""
        if self._log_fd is not None:
            self._put(self._log_fd, records.line(source, level, logger, created, text, fields))
            return
        clock = time.strftime("%H:%M:%S", time.localtime(created)) + f".{int(created * 1000) % 1000:03d}"
        self._put(2, f"{clock} {logging.getLevelName(level)} {source} {logger}: {text}\n")

    def note(self, text: str) -> None:
        """A line of the root's own, on stderr."""
        self._queue.put((2, f"parallel-actors: {text}\n"))

    def close(self, timeout: float = 5.0) -> None:
        """Write what is left; give up when the readers have taken nothing for `timeout` seconds."""
        self._queue.put(None)
        while self._thread.is_alive():
            before = self._written
            self._thread.join(timeout)
            if self._written == before:
                return

    def _put(self, number: int, text: str) -> None:
        while self._queue.qsize() >= _BACKLOG and not self._urgent():
            time.sleep(_PAUSE)
        self._queue.put((number, text))

    def _write(self) -> None:
        broken: set[int] = set()
        while (item := self._queue.get()) is not None:
            number, text = item
            if number in broken:
                continue
            data = text.encode("utf-8", "backslashreplace")
            try:
                while data:
                    count = os.write(number, data)
                    self._written += count
                    data = data[count:]
            except OSError as error:
                # The reader has gone (head, a closed terminal): its stream is over, the program is not.
                broken.add(number)
                if number == 1 and sys.__stderr__ is not None:
                    self._queue_note(error)

    def _queue_note(self, error: OSError) -> None:
        self._queue.put((2, f"parallel-actors: standard output can't be written any more: {error}\n"))
