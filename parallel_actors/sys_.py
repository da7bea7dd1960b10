"""Look into a running server, stop it for a while, follow what it does (OTP's `sys`; `sys` is Python's).

Each function sends a request that the server answers between two messages, so a busy one answers late. They work on
GenServers and what is made of them: typed actors, supervisors.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parallel_actors.gen_server import System, call, stop
from parallel_actors.workers import api

if TYPE_CHECKING:
    from parallel_actors.gen_server import Server

__all__ = [
    "change_code",
    "get_state",
    "get_status",
    "replace_state",
    "resume",
    "statistics",
    "suspend",
    "terminate",
    "trace",
]

_LOG = logging.getLogger("parallel_actors.sys")


@dataclass(slots=True)
class Debug:
    """What a server keeps of its own traffic while somebody asks for it."""

    tracing: bool = False
    counting: bool = False
    started: float = field(default_factory=time.time)
    messages_in: int = 0
    messages_out: int = 0

    def came_in(self, message: Any) -> None:
        self.messages_in += 1
        if self.tracing:
            _LOG.info("%r got %s", api.self_(), _cut(message))

    def went_out(self, value: Any, to: Any) -> None:
        self.messages_out += 1
        if self.tracing:
            _LOG.info("%r answered %r: %s", api.self_(), to[0], _cut(value))


def _cut(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # anybody's object
        return f"<repr() of a {type(value).__qualname__} failed: {type(error).__name__}>"
    return text if len(text) <= 500 else f"{text[:500]}... ({len(text)} characters)"


def _ask(server: Server, timeout: float | None, *request: Any) -> Any:
    fine, value = call(server, System(request), timeout=timeout)
    if not fine:
        raise value
    return value


def get_state(server: Server, timeout: float | None = 5.0) -> Any:
    """A copy of the server's state (OTP: `sys:get_state/1,2`). For debugging: a state is the server's own business.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     pa.sys_.get_state(pa.start(pa.GenServer, {"a": 1}))
    {'a': 1}

    Args:
        server: a pid or a registered name.
        timeout: seconds to wait at most; None: as long as it lives.

    Raises:
        NotPicklable: for a state that can't travel. The server goes on.
        CallTimeout, NoProc, NodeDown, RemoteError, CallingSelf: as `call`.
    """
    return _ask(server, timeout, "get_state")


def replace_state(server: Server, change: Callable[[Any], Any], timeout: float | None = 5.0) -> Any:
    """Have the server take `change(state)` as its state; the new one (OTP: `sys:replace_state/2,3`).

    Raises:
        What `change` raises; the state stays as it is then. And as `get_state`.
    """
    return _ask(server, timeout, "replace_state", change)


def get_status(server: Server, timeout: float | None = 5.0) -> dict[str, Any]:
    """Facts about the server, its state as `format_status` shows it (OTP: `sys:get_status/1,2`). Raises as `get_state`.

    Returns:
        "pid", "name", "class", "parent", "status" ("running" or "suspended"), "state".
    """
    found: dict[str, Any] = _ask(server, timeout, "get_status")
    return found


def suspend(server: Server, timeout: float | None = 5.0) -> None:
    """Have the server leave its messages alone, but those of this module, until `resume` (OTP: `sys:suspend/1,2`).

    Its callers wait, and may time out. It still ends when its parent does, or orders it to. Raises as `get_state`.
    """
    _ask(server, timeout, "suspend")


def resume(server: Server, timeout: float | None = 5.0) -> None:
    """Have a suspended server go on (OTP: `sys:resume/1,2`). Raises as `get_state`."""
    _ask(server, timeout, "resume")


def change_code(
    server: Server, target: Any = None, version: Any = None, extra: Any = None, timeout: float | None = 5.0
) -> None:
    """Have a suspended server go on with other code (OTP: `sys:change_code/4,5`).

    Its callback `code_change(version, state, extra)`, of the new code, makes the new state of the old one. A typed
    actor's is `code_change(self, version, extra)`: `self` is of the new class, with the attributes of the old instance.
    `reload` does this for all servers of a module.

    >>> import parallel_actors as pa
    >>> class Pairs(pa.GenServer):
    ...     def code_change(self, version, state, extra):
    ...         return list(state.items())
    >>> with pa.ActorSystem(workers=1):
    ...     server = pa.start(pa.GenServer, {"a": 1})
    ...     pa.sys_.suspend(server)
    ...     pa.sys_.change_code(server, Pairs)
    ...     pa.sys_.resume(server)
    ...     pa.sys_.get_state(server)
    [('a', 1)]

    Args:
        server: a pid or a registered name.
        target: the new class or module of callbacks; None: the same, as its module has it now.
        version: what the old code is called, for `code_change`; None: the attribute `vsn` of the old class or module.
        extra: for `code_change`.
        timeout: seconds to wait at most.

    Raises:
        ActorError: it isn't suspended.
        TypeError: `target` is no class or module with `init`, or for a typed actor no class of Actor.
        What `code_change` raises; code and state stay as they are then. And as `get_state`.
    """
    _ask(server, timeout, "change_code", target, version, extra)


def trace(server: Server, on: bool, timeout: float | None = 5.0) -> None:
    """Log what comes in, and each answer: logger `parallel_actors.sys`, level INFO (OTP: `sys:trace/2,3`).

    Raises as `get_state`.
    """
    _ask(server, timeout, "debug", _Change(tracing=on))


def statistics(server: Server, on: bool | None = None, timeout: float | None = 5.0) -> dict[str, Any] | None:
    """Begin (True) or end (False) to count messages, or look (None) at what was counted (OTP: `sys:statistics/2,3`).

    Returns:
        For None: "start_time" and "current_time" (seconds since the epoch), "messages_in", "messages_out" (answers);
        None where nobody counts, and for True and False.

    Raises as `get_state`.
    """
    found: dict[str, Any] | None = _ask(server, timeout, "debug", _look if on is None else _Change(counting=on))
    return found


def terminate(server: Server, reason: Any = "normal", timeout: float | None = None) -> None:
    """Have the server end (OTP: `sys:terminate/2,3`): `stop`, but a suspended server is resumed first."""
    resume(server, timeout)
    stop(server, reason, timeout)


@dataclass(frozen=True, slots=True)
class _Change:
    """What the server does to its `Debug`: the new one, and the answer."""

    tracing: bool | None = None
    counting: bool | None = None

    def __call__(self, debug: Debug | None) -> tuple[Debug | None, None]:
        tracing = self.tracing if self.tracing is not None else debug is not None and debug.tracing
        counting = self.counting if self.counting is not None else debug is not None and debug.counting
        if not (tracing or counting):
            return None, None
        if debug is None or (counting and not debug.counting):
            return Debug(tracing, counting), None
        debug.tracing, debug.counting = tracing, counting
        return debug, None


def _look(debug: Debug | None) -> tuple[Debug | None, dict[str, Any] | None]:
    if debug is None or not debug.counting:
        return debug, None
    return debug, {
        "start_time": debug.started,
        "current_time": time.time(),
        "messages_in": debug.messages_in,
        "messages_out": debug.messages_out,
    }
