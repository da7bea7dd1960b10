"""DynamicSupervisor: children that come and go, each for itself (Elixir's module; OTP's `simple_one_for_one`).

It has no children when it starts, knows them by their pids, and stops them all at once.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parallel_actors.gen_server import NoReply, Ok
from parallel_actors.process import is_whole, options
from parallel_actors.supervisor import (
    RESTART,
    Backoff,
    ChildInfo,
    ChildSpec,
    Intensity,
    Supervising,
    ask,
    ask_to_end,
    attempt_in,
    check_end,
    counted,
    died_with,
    grace,
    report,
    restarts,
    spec_of,
    start_child_of,
    stop_child,
    stopping,
    wait_for_end,
)
from parallel_actors.workers import api
from parallel_actors.workers.errors import ChildError, StartError
from parallel_actors.workers.ident import Pid
from parallel_actors.workers.reasons import Exit, is_orderly

if TYPE_CHECKING:
    from parallel_actors.gen_server import Server

__all__ = ["DynamicSupervisor"]


@dataclass(slots=True)
class _Crowd:
    """The state of a dynamic supervisor."""

    max_children: int | None
    extra: tuple[Any, ...]
    intensity: Intensity
    children: dict[Pid, ChildSpec] = field(default_factory=dict)
    restarting: dict[int, ChildSpec] = field(default_factory=dict)
    attempts: int = 0


class DynamicSupervisor(Supervising):
    """A supervisor for children that are started on demand (Elixir: `DynamicSupervisor`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     sup = pa.DynamicSupervisor.start_link(max_children=1)
    ...     pid = pa.DynamicSupervisor.start_child(sup, pa.child(pa.GenServer, "state"))
    ...     pa.DynamicSupervisor.count_children(sup)["active"]
    1

    Ids don't matter: there may be many children of one spec. Each restart concerns one child.
    """

    @staticmethod
    def start_link(
        *,
        max_children: int | None = None,
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        extra_arguments: tuple[Any, ...] = (),
        backoff: Backoff | None = None,
        name: str | None = None,
    ) -> Pid:
        """Start one without children (Elixir: `DynamicSupervisor.start_link/1`).

        Args:
            max_children: more are refused, with ChildError("max_children"); None: as many as one likes.
            max_restarts, max_seconds, backoff, name: as for `Supervisor.start_link`.
            extra_arguments: put before the arguments of each child's spec.

        Raises:
            ValueError, TypeError: for an option that doesn't fit.
        """
        choices: dict[str, Any] = {
            "max_children": max_children,
            "max_restarts": max_restarts,
            "max_seconds": max_seconds,
            "extra_arguments": extra_arguments,
            "backoff": backoff,
        }
        crowd_of(**choices)
        pid = options(name=name).start_link(DynamicSupervisor, **choices)
        assert pid is not None
        return pid

    def init(self, *args: Any, **kwargs: Any) -> Any:
        return self.supervise(*args, **kwargs)

    def supervise(
        self,
        *,
        max_children: int | None = None,
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        extra_arguments: tuple[Any, ...] = (),
        backoff: Backoff | None = None,
    ) -> Any:
        """What `init` returns. Arguments as for `start_link`."""
        api.trap_exit(True)
        api.spread_spawns(True)
        return Ok(
            crowd_of(
                max_children=max_children,
                max_restarts=max_restarts,
                max_seconds=max_seconds,
                extra_arguments=extra_arguments,
                backoff=backoff,
            )
        )

    def handle_info(self, message: Any, state: Any) -> Any:
        if isinstance(message, Exit):
            return self._ended(message.pid, message.reason, state)
        number = attempt_in(message)
        if number:
            spec = state.restarting.pop(number, None)
            return NoReply() if spec is None or stopping() else self._start_again(spec, state)
        return super().handle_info(message, state)

    def _ended(self, pid: Pid, reason: Any, crowd: _Crowd) -> Any:
        spec = crowd.children.pop(pid, None)
        if spec is None:
            return NoReply()
        again = restarts(spec, reason) and not stopping()
        if again or not is_orderly(reason):
            report("child_terminated", pid, spec, reason)
        if not again:
            return NoReply()
        if not crowd.intensity.allows(pid, reason):
            return self.too_many(pid, spec)
        delay = crowd.intensity.delay()
        if delay:
            return self._try_later(spec, crowd, delay)
        return self._start_again(spec, crowd)

    def _start_again(self, spec: ChildSpec, crowd: _Crowd) -> Any:
        try:
            pid = start_child_of(spec, crowd.extra)
        except StartError as error:
            report("start_error", None, spec, error.reason)
            if not crowd.intensity.allows(died_with(error), error.reason):
                return self.too_many(None, spec)
            return self._try_later(spec, crowd, crowd.intensity.delay())
        if pid is not None:
            crowd.children[pid] = spec
        return NoReply()

    def _try_later(self, spec: ChildSpec, crowd: _Crowd, delay: float) -> NoReply:
        crowd.attempts += 1
        crowd.restarting[crowd.attempts] = spec
        message = (RESTART, crowd.attempts)
        if delay:
            api.send_after(delay, api.self_(), message)
        else:
            api.send(api.self_(), message)
        return NoReply()

    def terminate(self, reason: Any, state: Any) -> None:
        """All of them at once: each has its own time."""
        asked = [(pid, spec, *ask_to_end(pid, spec)) for pid, spec in state.children.items()]
        state.children.clear()
        state.restarting.clear()
        began = time.monotonic()
        for pid, spec, ref, told in sorted(asked, key=lambda each: _within(each[1])):
            seconds = grace(spec)
            left = None if seconds is None else max(0.0, began + seconds - time.monotonic())
            check_end(pid, spec, wait_for_end(pid, spec, ref, left), told)

    # --- requests ---

    def do_start_child(self, crowd: _Crowd, entry: Any) -> Pid | None:
        spec = spec_of(entry)
        if crowd.max_children is not None and len(crowd.children) + len(crowd.restarting) >= crowd.max_children:
            raise ChildError(f"there are {crowd.max_children} children, the most allowed", reason="max_children")
        pid = start_child_of(spec, crowd.extra)
        if pid is not None:
            crowd.children[pid] = spec
        return pid

    def do_terminate_child(self, crowd: _Crowd, pid: Pid) -> None:
        spec = crowd.children.pop(pid, None)
        if spec is None:
            raise ChildError(f"expected the pid of a child, got {pid!r}", reason="not_found", target=pid)
        stop_child(pid, spec)

    def do_which_children(self, crowd: _Crowd) -> list[ChildInfo]:
        running = [ChildInfo(spec.id, pid, spec.type) for pid, spec in crowd.children.items()]
        return running + [ChildInfo(spec.id, None, spec.type, True) for spec in crowd.restarting.values()]

    def do_count_children(self, crowd: _Crowd) -> dict[str, int]:
        running = [(spec.type, True) for spec in crowd.children.values()]
        return counted(running + [(spec.type, False) for spec in crowd.restarting.values()])

    # --- the same for callers ---

    @staticmethod
    def start_child(supervisor: Server, spec: Any) -> Pid | None:
        """Start a child; its pid, None where it ignored the start (Elixir: `DynamicSupervisor.start_child/2`).

        Raises:
            StartError: it could not be started.
            ChildError: there are `max_children`.
            NoProc, NodeDown, RemoteError: as `call`.
        """
        pid: Pid | None = ask(supervisor, "start_child", spec_of(spec))
        return pid

    @staticmethod
    def terminate_child(supervisor: Server, pid: Pid) -> None:
        """Stop a child, for good (Elixir: `DynamicSupervisor.terminate_child/2`).

        Raises:
            ChildError: it is none; `reason` is "not_found".
        """
        ask(supervisor, "terminate_child", pid)

    @staticmethod
    def which_children(supervisor: Server) -> list[ChildInfo]:
        """All children (Elixir: `DynamicSupervisor.which_children/1`)."""
        found: list[ChildInfo] = ask(supervisor, "which_children")
        return found

    @staticmethod
    def count_children(supervisor: Server) -> dict[str, int]:
        """How many there are: "specs", "active", "supervisors", "workers"."""
        found: dict[str, int] = ask(supervisor, "count_children")
        return found


def _within(spec: ChildSpec) -> float:
    """Seconds until its kill is due."""
    seconds = grace(spec)
    return math.inf if seconds is None else seconds


def crowd_of(
    *,
    max_children: int | None,
    max_restarts: int,
    max_seconds: float,
    extra_arguments: tuple[Any, ...],
    backoff: Backoff | None,
) -> _Crowd:
    if max_children is not None and not is_whole(max_children, 0):
        raise ValueError(f"expected max_children to be a whole number or None, got {max_children!r}")
    if not isinstance(extra_arguments, tuple):
        raise TypeError(f"expected extra_arguments to be a tuple, got {extra_arguments!r}")
    return _Crowd(max_children, extra_arguments, Intensity(max_restarts, max_seconds, backoff))
