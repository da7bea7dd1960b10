"""Exit reasons: what a process ends with, and the messages that tell others.

A reason is a value, never a text to parse (S1.7):

- the strings of this module (`NORMAL`, `SHUTDOWN`, `KILLED`, ...),
- `Shutdown(term)`: an orderly end that says something,
- `WorkerDown(worker, signal, exit_code)`: its worker died,
- `Crash(type, text, traceback)`: an exception that nobody caught.

A user's own value is a reason too, and counts as abnormal. `Down` answers a monitor, `Exit` a link of a process that
traps exits. All are frozen and made of immutable values, so that a local send passes them by reference.
"""

from __future__ import annotations

import os
import signal as _signal
import traceback as _traceback
from dataclasses import dataclass, field
from types import CodeType
from typing import TYPE_CHECKING, Any, Final

import parallel_actors

if TYPE_CHECKING:
    from parallel_actors.workers.ident import Pid, Ref

__all__ = [
    "KILL",
    "KILLED",
    "NOCONNECTION",
    "NOPROC",
    "NORMAL",
    "SHUTDOWN",
    "Crash",
    "Down",
    "Exit",
    "FdReady",
    "Shutdown",
    "WorkerDown",
    "is_normal",
    "is_orderly",
]

NORMAL: Final = "normal"  # it returned, or asked to end so
SHUTDOWN: Final = "shutdown"  # its supervisor, or the system, ended it
KILLED: Final = "killed"  # what others see of a process that was killed
KILL: Final = "kill"  # what one asks for: exit(pid, KILL) can't be trapped
NOPROC: Final = "noproc"  # there was no such process
NOCONNECTION: Final = "noconnection"  # its node can't be reached

# A longer traceback is cut in its middle: its two ends say most.
_MAX_TEXT = 64 * 1024
_MAX_FRAMES = 256
_MAX_PICKLE = 1024 * 1024
_PACKAGE_FOLDERS = tuple(
    {
        os.path.dirname(os.path.abspath(parallel_actors.__file__)) + os.sep,
        os.path.dirname(os.path.realpath(__file__)) + os.sep,  # elsewhere, where the package lies as its sources do
        "parallel_actors" + os.sep,  # Cython names its sources like this
    }
)


@dataclass(frozen=True, slots=True)
class Shutdown:
    """An orderly end with something to say: no crash report, no restart of a transient child."""

    term: Any

    def __str__(self) -> str:
        return f"shutdown: {self.term!r}"


@dataclass(frozen=True, slots=True)
class WorkerDown:
    """The worker on which the process lived has died; `signal` or `exit_code` where they are known."""

    worker: int
    signal: int | None = None
    exit_code: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                name = _signal.Signals(self.signal).name
            except ValueError:
                name = f"signal {self.signal}"
            return f"worker {self.worker} was killed by {name}"
        if self.exit_code is not None:
            return f"worker {self.worker} exited with code {self.exit_code}"
        return f"worker {self.worker} died"


@dataclass(frozen=True, slots=True)
class Crash:
    """An exception ended the process. `str()` of it is what Python would have printed.

    `type` is the name of the exception's class, `text` its `str()`, `traceback` the whole formatted text with causes
    and contexts, without the library's own frames. `exception` is the exception itself, where it could be pickled.
    Two crashes are equal when type and text are.
    """

    type: str
    text: str
    traceback: str = field(default="", compare=False, repr=False)
    pickled: bytes | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_exception(cls, exception: BaseException) -> Crash:
        """Record an exception. Never raises, whatever the exception's own methods do."""
        name = _guarded(lambda: _type_name(exception), "unknown exception")
        text = _guarded(lambda: _cut(str(exception)), f"<str() of this {name} failed>")
        formatted = _guarded(lambda: _cut(_format(exception)), f"{name}: {text}\n")
        return cls(name, text, formatted, _guarded(lambda: _dumps(exception), None))

    @property
    def exception(self) -> BaseException | None:
        """The exception, made anew from its pickle; None if that can't be done here. Never raises."""
        if self.pickled is None:
            return None
        data = self.pickled
        made = _guarded(lambda: _loads(data), None)
        return made if isinstance(made, BaseException) else None

    def __str__(self) -> str:
        return self.traceback or f"{self.type}: {self.text}"


@dataclass(frozen=True, slots=True, init=False)
class Down:
    """What a monitor sends, once: the process `pid` has ended with `reason`. `ref` is what `monitor` returned."""

    ref: Ref
    pid: Pid
    reason: Any

    # Thousands are made when a worker dies: the slots are set directly, in half the time of the generated __init__.
    def __init__(self, ref: Ref, pid: Pid, reason: Any) -> None:
        _down_ref(self, ref)
        _down_pid(self, pid)
        _down_reason(self, reason)

    def __reduce__(self) -> tuple[Any, ...]:
        return Down, (self.ref, self.pid, self.reason)


@dataclass(frozen=True, slots=True)
class FdReady:
    """What `monitor_fd` sends, once: the descriptor `fd` is ready. `ref` is what `monitor_fd` returned.

    A failed connection, and the end of the other side, make it ready for what was asked for: whoever reads or writes
    finds out.
    """

    ref: Ref
    fd: int
    readable: bool
    writable: bool


@dataclass(frozen=True, slots=True, init=False)
class Exit:
    """What a process that traps exits gets from a link: the linked process `pid` has ended with `reason`."""

    pid: Pid
    reason: Any

    def __init__(self, pid: Pid, reason: Any) -> None:
        _exit_pid(self, pid)
        _exit_reason(self, reason)

    def __reduce__(self) -> tuple[Any, ...]:
        return Exit, (self.pid, self.reason)


# Setters of the slots; a frozen dataclass refuses plain assignment.
_down_ref = Down.__dict__["ref"].__set__
_down_pid = Down.__dict__["pid"].__set__
_down_reason = Down.__dict__["reason"].__set__
_exit_pid = Exit.__dict__["pid"].__set__
_exit_reason = Exit.__dict__["reason"].__set__


def is_normal(reason: object) -> bool:
    """Whether an exit with this reason leaves linked processes alone (S4.1)."""
    return type(reason) is str and reason == NORMAL


def is_orderly(reason: object) -> bool:
    """Whether nothing went wrong: normal, shutdown, or Shutdown(term). No crash report, no transient restart."""
    if type(reason) is str:
        return reason in (NORMAL, SHUTDOWN)
    return type(reason) is Shutdown


def _guarded(make: Any, otherwise: Any) -> Any:
    """The result of user code that must not do harm, or `otherwise`, which shows that there is none.

    BaseException too, or an exception's own method could end whoever records it. A kill that comes just now comes again
    at the next call of the API. A Ctrl-C can't be told from a KeyboardInterrupt that the user code raises: it has to be
    pressed again.
    """
    try:
        return make()
    except BaseException:
        return otherwise


def _type_name(exception: BaseException) -> str:
    kind = type(exception)
    module = kind.__module__
    if module in ("builtins", "__main__") or not isinstance(module, str):
        return str(kind.__qualname__)
    return f"{module}.{kind.__qualname__}"


def _cut(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    head = _MAX_TEXT // 4
    tail = _MAX_TEXT - head - 64
    return f"{text[:head]}\n... {len(text) - head - tail} characters left out ...\n{text[-tail:]}"


# What frames look like in a traceback: (file, code, instruction) -> text. In a storm of crashes they are all the same,
# and to find a line and what to underline in it takes most of the time of a crash.
_FRAMES: dict[tuple[str, CodeType, int], str] = {}
_MAX_KEPT = 1000
# Their last line depends on more than themselves, or is more than one.
_SPECIAL = (BaseExceptionGroup, SyntaxError, NameError, AttributeError, ImportError)


def _format_plain(exception: BaseException) -> str | None:
    """As `_format`, for an exception without causes, notes, recursion or hints; None for others."""
    if (
        exception.__cause__ is not None
        or (exception.__context__ is not None and not exception.__suppress_context__)
        or isinstance(exception, _SPECIAL)
        or hasattr(exception, "__notes__")
    ):
        return None
    frames: list[str] = []
    step = exception.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if not code.co_filename.startswith(_PACKAGE_FOLDERS):
            key = (code.co_filename, code, step.tb_lasti)  # code of two files may be equal
            text = _FRAMES.get(key)
            if text is None:
                if len(_FRAMES) >= _MAX_KEPT:
                    _FRAMES.clear()
                text = _FRAMES[key] = "".join(_traceback.format_list(_traceback.extract_tb(step, limit=1)))
            frames.append(text)
        step = step.tb_next
        if len(frames) > 32:
            return None
    if not frames or len(set(frames)) < len(frames):
        return None
    return "".join(["Traceback (most recent call last):\n", *frames, *_traceback.format_exception_only(exception)])


def _format(exception: BaseException) -> str:
    plain = _guarded(lambda: _format_plain(exception), None)
    if isinstance(plain, str):
        return plain
    # Negative: the innermost frames, where a runaway recursion still says where it is.
    shown = _traceback.TracebackException(
        type(exception), exception, exception.__traceback__, limit=-_MAX_FRAMES, compact=True
    )
    _trim(shown)
    return "".join(shown.format())


def _trim(top: _traceback.TracebackException) -> None:
    """Take the library's own frames out, of causes, contexts and members of groups too."""
    if all(frame.filename.startswith(_PACKAGE_FOLDERS) for frame in top.stack):
        return  # the fault is in the library itself, and its frames are all there is
    todo = [top]
    while todo:
        shown = todo.pop()
        shown.stack[:] = [frame for frame in shown.stack if not frame.filename.startswith(_PACKAGE_FOLDERS)]
        todo += [e for e in (shown.__cause__, shown.__context__) if e is not None]
        todo += shown.exceptions or ()


def _dumps(exception: BaseException) -> bytes | None:
    # Not at import: the codec imports the errors, and an exception's class may be one of `__main__`.
    from parallel_actors.workers.codec import dumps

    data = dumps(exception)
    return data if len(data) <= _MAX_PICKLE else None


def _loads(data: bytes) -> object:
    from parallel_actors.workers.codec import loads

    return loads(data)
