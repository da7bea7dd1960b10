"""What a worker prints and logs goes to the root, which writes it (S9.6).

`sys.stdout` and `sys.stderr` are replaced by `LineWriter`: it keeps an unfinished line per process and hands whole
lines to the root, as messages in the worker's ring: so they keep the order of each process, and a killed worker's
last lines arrive. A child that user code forks has no ring: it writes to the streams of the OS process. (A file object
shared by all processes of a worker would mix their lines, and isn't re-entrant.)
Records of `logging` go the same way, formatted here.

The messages to the root's process: ``("out", 1 | 2, worker, source, text)`` and ``("log", worker, source, level,
logger, created, text)``.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, TextIO

from parallel_actors.workers.reasons import Crash

if TYPE_CHECKING:
    from parallel_actors.workers.scheduler import Scheduler

__all__ = ["LineWriter", "RootHandler", "install", "report"]

# A longer text goes in pieces, so that one print doesn't fill the ring for all others.
_PIECE = 16 * 1024
_CRASHES = logging.getLogger("parallel_actors.crash")
_DEAD_LETTERS = logging.getLogger("parallel_actors.dead_letters")
_SCHEDULE = logging.getLogger("parallel_actors.schedule")


class LineWriter(io.TextIOBase):
    """`sys.stdout` (1) or `sys.stderr` (2) of a worker.

    `flush` hands an unfinished line over only where the root's own stream is a terminal (a progress bar, a prompt);
    elsewhere lines stay whole.
    """

    def __init__(self, scheduler: Scheduler, number: int, interactive: bool) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._number = number
        self._interactive = interactive

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def name(self) -> str:
        return "<stdout>" if self._number == 1 else "<stderr>"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._interactive

    def fileno(self) -> int:
        # Of the OS process's own stream: what is written there goes past the root, unordered.
        return self._number

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._scheduler.forked:
            os.write(self._number, text.encode("utf-8", "backslashreplace"))
            return len(text)
        lines, newline, rest = text.rpartition("\n")
        unfinished = self._scheduler.partial_lines
        pid = self._scheduler.running_pid
        if newline:
            kept = unfinished.get(pid)
            begun = kept.pop(self._number, "") if kept else ""
            if kept is not None and not kept:
                del unfinished[pid]
            self._hand_over(begun + lines + newline)
        if rest:
            kept = unfinished.setdefault(pid, {})
            kept[self._number] = kept.get(self._number, "") + rest
            if len(kept[self._number]) > _PIECE:
                self._hand_over(kept.pop(self._number))
        return len(text)

    def flush(self) -> None:
        if self._interactive and not self._scheduler.forked:
            kept = self._scheduler.partial_lines.get(self._scheduler.running_pid)
            if kept and self._number in kept:
                self._hand_over(kept.pop(self._number))

    def _hand_over(self, text: str) -> None:
        scheduler = self._scheduler
        source = source_of(scheduler)
        for start in range(0, len(text), _PIECE):
            piece = text[start : start + _PIECE]
            scheduler.send_to_root(("out", self._number, scheduler.endpoint, source, piece))


class RootHandler(logging.Handler):
    """Hands log records of this worker to the root, formatted (tracebacks included)."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            scheduler = self._scheduler
            if scheduler.forked:
                os.write(2, f"{text}\n".encode("utf-8", "backslashreplace"))
                return
            source = getattr(record, "source", None) or source_of(scheduler)
            scheduler.send_to_root(
                ("log", scheduler.endpoint, source, record.levelno, record.name, record.created, text)
            )
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if sys.__stderr__ is not None:
            traceback.print_exc(file=sys.__stderr__)


def source_of(scheduler: Scheduler) -> str:
    """How the running process is called in output: its pid, and its label or name."""
    pid = scheduler.running_pid
    if pid is None:
        return f"worker {scheduler.endpoint}"
    label = scheduler.running_label()
    return repr(pid) if label is None else f"{pid!r} {label}"


def install(scheduler: Scheduler, level: str, interactive: tuple[bool, bool]) -> None:
    """Replace this worker's streams and the handlers of its root logger. Called once, before any user code runs."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: TextIO = LineWriter(scheduler, number, interactive[number - 1])  # type: ignore[assignment]
        setattr(sys, name, stream)
    handler = RootHandler(scheduler)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger()
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    os.register_at_fork(after_in_child=scheduler.was_forked)
    scheduler.on_report = lambda kind, facts: report(scheduler, kind, facts)


def report(scheduler: Scheduler, kind: str, facts: dict[str, Any]) -> None:
    """Log what the scheduler reports: crashes, dead letters, abandoned stacks, lines that a process left unfinished."""
    if kind == "partial_line":
        for number, text in facts["texts"].items():
            scheduler.send_to_root(("out", number, scheduler.endpoint, repr(facts["pid"]), text + "\n"))
    elif kind == "crash":
        if facts["label"] == "main":
            return  # the root shows the main process's own end
        pid, reason = facts["pid"], facts["reason"]
        called = facts["name"] or facts["label"]
        who = f"{pid!r} {called}" if called else repr(pid)
        mail, links, ancestors = facts["message_queue_len"], facts["links"], list(facts["ancestors"])
        crashed = isinstance(reason, Crash)
        why = f"{reason.type}: {reason.text}" if crashed else str(reason)
        lines = [
            f"process {who} crashed on worker {facts['worker']}: {why}",
            f"  running {facts['initial_call']}; {mail} messages waiting; links {links}; ancestors {ancestors}",
        ]
        if "last_message" in facts:  # a server's
            lines += [f"  last message: {facts['last_message']}", f"  state: {facts['state']}"]
        if crashed:
            lines.append(reason.traceback.rstrip())
        _CRASHES.error("%s", "\n".join(lines), extra={"source": repr(pid), "report": facts})
    elif kind == "dead_letter":
        error = facts["error"]
        text = "".join(traceback.format_exception_only(error)).rstrip()
        _DEAD_LETTERS.warning("a message to %s could not be delivered: %s", facts["to"], text)
    elif kind == "long_schedule":
        called = facts["name"] or facts["label"]
        who = f"{facts['pid']!r} {called}" if called else repr(facts["pid"])
        _SCHEDULE.warning(
            "process %s has kept the others of worker %s waiting for %.2f s, in %s\n%s",
            who,
            facts["worker"],
            facts["seconds"],
            facts["why"],
            facts["stack"].rstrip(),
        )
    elif kind == "long_mailbox":
        called = facts["label"]
        who = f"{facts['pid']!r} {called}" if called else repr(facts["pid"])
        _SCHEDULE.warning(
            "process %s has %s messages waiting: it takes them slower than they come", who, facts["message_queue_len"]
        )
    elif kind == "abandoned":
        _CRASHES.error(
            "process %r swallowed its kill (%s) again and again: its stack was abandoned. "
            "Catch Exception, not BaseException",
            facts["pid"],
            facts["reason"],
        )


def restore() -> None:
    """Give the OS process its own streams back (it is about to end)."""
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    logging.getLogger().handlers[:] = []
    # Nothing may be left in C's or Python's buffers when the worker leaves by os._exit.
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                os.close(stream.fileno())
