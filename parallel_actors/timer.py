"""timer: functions that are called, and processes that are ended, at their time (OTP's `timer`).

    apply_after(delay, f)  -> a process that waits, then spawns f, and ends
    apply_interval(...)    -> one that spawns f again and again, until its owner ends
    cancel(timer)          -> the message CANCEL to it; how it ends says which of the two was first

Messages need none of this: `send_after`, `send_interval`, `cancel_timer` are the scheduler's own. All times are in
seconds, on the monotonic clock. A timer is a process on one worker, and ends with that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from parallel_actors.supervisor import is_seconds
from parallel_actors.workers import api
from parallel_actors.workers.errors import ProcessExit
from parallel_actors.workers.ident import Pid
from parallel_actors.workers.patterns import ANY
from parallel_actors.workers.reasons import Down, Shutdown

__all__ = ["Timer", "apply_after", "apply_interval", "apply_repeatedly", "cancel", "exit_after", "kill_after", "tc"]

P = ParamSpec("P")
T = TypeVar("T")

_CANCEL = "$cancel"
_CANCELLED = Shutdown("cancelled")


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer under way, to `cancel`. Travels in messages."""

    pid: Pid


def apply_after(delay: float, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Timer:
    """Have a new process call `function(*args, **kwargs)` in `delay` seconds (OTP: `timer:apply_after/4`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     timer = pa.timer.apply_after(0.001, pa.send, pa.self_(), "now")
    ...     pa.receive(timeout=10)
    'now'

    It outlives the caller.

    Raises:
        ValueError: for a `delay` that is no number of seconds from 0.
        TypeError: for what can't be called.
        NotPicklable: for a function or arguments that can't leave their process.
    """
    _check(delay, 0, function)
    return Timer(api.spawn(_once, delay, function, args, kwargs))


def apply_interval(interval: float, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Timer:
    """Have new processes call it every `interval` seconds, one done or not (OTP: `timer:apply_interval/4`).

    Until the caller ends, or it is cancelled. A time that was missed, since the worker was busy, isn't made up for.
    Raises as `apply_after`; the interval must be more than 0.
    """
    _check(interval, None, function)
    return Timer(api.spawn(_again, api.self_(), interval, False, function, args, kwargs))


def apply_repeatedly(interval: float, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Timer:
    """`apply_interval`, but never two at the same time (OTP: `timer:apply_repeatedly/4`).

    A call that takes longer than the interval is followed by the next at once.
    """
    _check(interval, None, function)
    return Timer(api.spawn(_again, api.self_(), interval, True, function, args, kwargs))


def exit_after(delay: float, reason: object, target: Any = None) -> Timer:
    """Send `target`, by default the caller, the exit signal `reason` in `delay` seconds (OTP: `timer:exit_after/2,3`).

    Args:
        delay: seconds from 0.
        reason: as for `exit`.
        target: a pid, a name, a via name, a reference: the process that it means now.

    Raises:
        ValueError, TypeError: for what doesn't fit.
        NotRegistered: nobody has the name.
        NotPicklable: for a reason that can't leave its process.
    """
    _check(delay, 0, api.exit)
    pid = target
    if target is None:
        pid = api.self_()
    elif not isinstance(target, Pid):
        pid = api.pid_of(target)
    return Timer(api.spawn(_once, delay, api.exit, (pid, reason), {}))


def kill_after(delay: float, target: Any = None) -> Timer:
    """`exit_after(delay, "kill", target)` (OTP: `timer:kill_after/1,2`)."""
    return exit_after(delay, "kill", target)


def cancel(timer: Timer) -> bool:
    """Call a timer off; whether there was something to call off (OTP: `timer:cancel/1`).

    True: nothing of it begins any more (what has begun goes on). False: it was over already, or its worker has died.
    """
    if not isinstance(timer, Timer):
        raise TypeError(
            f"expected a Timer, as apply_after() returns it, got {timer!r}: cancel_timer() is for send_after()"
        )
    ref = api.monitor(timer.pid)
    api.send(timer.pid, _CANCEL)
    reason = api.receive(Down(ref, ANY, ANY)).reason
    return isinstance(reason, Shutdown) and reason == _CANCELLED


def tc(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> tuple[float, T]:
    """Call it here; `(seconds, result)`, by the monotonic clock (OTP: `timer:tc/2`). What it raises goes through.

    >>> import parallel_actors as pa
    >>> seconds, value = pa.timer.tc(sum, [1, 2])
    >>> value, 0 <= seconds < 1
    (3, True)
    """
    began = time.monotonic()
    value = function(*args, **kwargs)
    return time.monotonic() - began, value


def _check(seconds: object, least: int | None, function: object) -> None:
    if not is_seconds(seconds) or (least is None and seconds == 0):
        allowed = "more than 0" if least is None else "0 or more"
        raise ValueError(f"expected a number of seconds, {allowed}, got {seconds!r}")
    if not callable(function):
        raise TypeError(f"expected a function to call, got {function!r} ({type(function).__name__})")


async def _once(delay: float, function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if await api.areceive(_CANCEL, timeout=delay, default=None) is not None:
        raise ProcessExit(_CANCELLED)
    api.spawn(function, *args, **kwargs)


async def _again(
    owner: Pid,
    interval: float,
    one_by_one: bool,
    function: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    watch = api.monitor(owner)
    ended = Down(watch, ANY, ANY)
    due = time.monotonic() + interval
    while True:
        message = await api.areceive(_CANCEL, ended, timeout=max(0.0, due - time.monotonic()), default=None)
        if message is None and one_by_one:
            _, ref = api.spawn_monitor(function, *args, **kwargs)
            message = await api.areceive(_CANCEL, ended, Down(ref, ANY, ANY))
            if isinstance(message, Down) and message.ref == ref:
                message = None
        elif message is None:
            api.spawn(function, *args, **kwargs)
        if message == _CANCEL:
            raise ProcessExit(_CANCELLED)
        if message is not None:
            return
        due = max(due + interval, time.monotonic()) if one_by_one else _next(due, interval)


def _next(due: float, interval: float) -> float:
    """The next time that isn't over, on the grid of the first."""
    return due + interval * max(1, int((time.monotonic() - due) / interval))
