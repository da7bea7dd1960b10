"""What a worker prints and logs goes to the root, which writes it (S9.6).

`sys.stdout` and `sys.stderr` are replaced by `LineWriter`: it keeps an unfinished line per process and hands whole
lines to the root, as messages in the worker's ring: so they keep the order of each process, and a killed worker's
last lines arrive. A child that user code forks has no ring: it writes to the streams of the OS process. (A file object
shared by all processes of a worker would mix their lines, and isn't re-entrant.)
Records of `logging` go the same way, formatted here; where the program that started the system wants them as records
(`forward_logs`), with their fields, as plain values.

The messages to the root's process: ``("out", 1 | 2, worker, source, text)`` and ``("log", worker, source, level,
logger, created, text, fields)``.

What the library reports itself is bounded (limit.py) before it is formatted.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, TextIO

from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.limit import ReportLimit
from parallel_actors.workers.reasons import Crash

if TYPE_CHECKING:
    from parallel_actors.workers.scheduler import Scheduler

__all__ = ["LineWriter", "RootHandler", "bound", "install", "report"]

# A longer text goes in pieces, so that one print doesn't fill the ring for all others.
_PIECE = 16 * 1024
_CRASHES = logging.getLogger("parallel_actors.crash")
_DEAD_LETTERS = logging.getLogger("parallel_actors.dead_letters")
_SCHEDULE = logging.getLogger("parallel_actors.schedule")
_LEFT_OUT = logging.getLogger("parallel_actors.left_out")
# What every record has; the rest are fields that somebody gave it.
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "source"}


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
    """Hands log records of this worker to the root, formatted (tracebacks included); with their fields if asked for."""

    def __init__(self, scheduler: Scheduler, with_fields: bool = False) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._with_fields = with_fields

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            scheduler = self._scheduler
            if scheduler.forked:
                os.write(2, f"{text}\n".encode("utf-8", "backslashreplace"))
                return
            source = getattr(record, "source", None) or source_of(scheduler)
            scheduler.send_to_root(
                (
                    "log",
                    scheduler.endpoint,
                    source,
                    record.levelno,
                    record.name,
                    record.created,
                    text,
                    fields_of(record) if self._with_fields else None,
                )
            )
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if sys.__stderr__ is not None:
            traceback.print_exc(file=sys.__stderr__)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields that somebody gave a record, as far as they are plain."""
    found = {name: _plain(value) for name, value in vars(record).items() if name not in _STANDARD}
    return {name: value for name, value in found.items() if value is not _NOT_PLAIN}


_NOT_PLAIN = object()


def _plain(value: Any) -> Any:
    """A value as it can stand in JSON: a pid becomes its text; _NOT_PLAIN for what can't be told without user code."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (Pid, Ref)):
        return repr(value)
    if type(value) in (list, tuple):
        parts = [_plain(part) for part in value]
        return _NOT_PLAIN if _NOT_PLAIN in parts else parts
    return _NOT_PLAIN


def source_of(scheduler: Scheduler) -> str:
    """How the running process is called in output: its pid, and its label or name."""
    pid = scheduler.running_pid
    if pid is None:
        return f"worker {scheduler.endpoint}"
    label = scheduler.running_label()
    return repr(pid) if label is None else f"{pid!r} {label}"


def install(
    scheduler: Scheduler, level: str, interactive: tuple[bool, bool], max_reports: int, forward_logs: bool
) -> None:
    """Replace this worker's streams and the handlers of its root logger. Called once, before any user code runs."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: TextIO = LineWriter(scheduler, number, interactive[number - 1])  # type: ignore[assignment]
        setattr(sys, name, stream)
    handler = RootHandler(scheduler, forward_logs)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger()
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    bound(scheduler, max_reports)
    os.register_at_fork(after_in_child=scheduler.was_forked)


def bound(scheduler: Scheduler, max_reports: int) -> None:
    """Have the reports of `scheduler` logged, at most so many of each kind in a second."""
    scheduler.on_report = lambda kind, facts: report(scheduler, kind, facts)
    reminded: list[Pid] = []  # the process that is told when the second is over; made on first use

    def remind(seconds: float) -> None:
        if not reminded:
            reminded.append(scheduler.add_callback_process(lambda message: limit.settle(), system=True))
        scheduler.remind(seconds, reminded[0], "settle")

    limit = ReportLimit(
        max_reports,
        lambda kind, count: scheduler.report("left_out", {"kind": kind, "count": count}, True),
        # A guest is polled only while its thread is inside the library.
        None if scheduler.role == "guest" else remind,
    )
    scheduler.limit = limit


def report(scheduler: Scheduler, kind: str, facts: dict[str, Any]) -> None:
    """Log what the scheduler reports: crashes, dead letters, abandoned stacks, lines that a process left unfinished."""
    if kind == "partial_line":
        for number, text in facts["texts"].items():
            scheduler.send_to_root(("out", number, scheduler.endpoint, repr(facts["pid"]), text + "\n"))
    elif kind == "crash":
        if facts["label"] == "main":
            return  # the root shows the main process's own end
        pid, reason = facts["pid"], facts["reason"]
        label = None if facts["label"] is None else str(facts["label"])
        called = facts["name"] or label
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
            lines += [f"  {key}: {value}" for key, value in facts["more"].items()]
        if crashed:
            lines.append(reason.traceback.rstrip())
        extra = {
            "source": repr(pid),
            "event": "crash",
            "pid": pid,
            "registered_name": facts["name"],
            "label": label,
            "worker": facts["worker"],
            "reason": why,
            "traceback": reason.traceback if crashed else "",
            "initial_call": facts["initial_call"],
            "ancestors": ancestors,
            "links": links,
            "message_queue_len": mail,
            "last_message": facts.get("last_message"),
            "state": facts.get("state"),
        }
        _CRASHES.error("%s", "\n".join(lines), extra=extra)
    elif kind == "dead_letter":
        error = facts["error"]
        text = "".join(traceback.format_exception_only(error)).rstrip()
        extra = {"event": kind, "to": facts["to"], "reason": text}
        _DEAD_LETTERS.warning("a message to %s could not be delivered: %s", facts["to"], text, extra=extra)
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
            extra={"event": kind, "pid": facts["pid"], "worker": facts["worker"], "seconds": facts["seconds"]},
        )
    elif kind == "long_mailbox":
        called = facts["label"]
        who = f"{facts['pid']!r} {called}" if called else repr(facts["pid"])
        _SCHEDULE.warning(
            "process %s has %s messages waiting: it takes them slower than they come",
            who,
            facts["message_queue_len"],
            extra={"event": kind, "pid": facts["pid"], "message_queue_len": facts["message_queue_len"]},
        )
    elif kind == "stays":
        why = f"{type(facts['error']).__name__}: {facts['error']}"
        _SCHEDULE.warning(
            "process %r can't move, and goes on where it is: %s",
            facts["pid"],
            why,
            extra={"event": kind, "pid": facts["pid"], "reason": why},
        )
    elif kind == "abandoned":
        _CRASHES.error(
            "process %r swallowed its kill (%s) again and again: its stack was abandoned. "
            "Catch Exception, not BaseException",
            facts["pid"],
            facts["reason"],
            extra={"event": kind, "pid": facts["pid"], "reason": str(facts["reason"])},
        )
    elif kind == "left_out":
        _LEFT_OUT.warning(
            "%s more reports of kind %s were left out in the last second (a worker makes at most max_reports of each)",
            facts["count"],
            facts["kind"],
            extra={
                "source": f"worker {scheduler.endpoint}",
                "event": kind,
                "kind": facts["kind"],
                "count": facts["count"],
                "worker": scheduler.endpoint,
            },
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
