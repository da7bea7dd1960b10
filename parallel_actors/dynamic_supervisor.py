"""DynamicSupervisor: children that come and go, each for itself (Elixir's module; OTP's `simple_one_for_one`).

It has no children when it starts, knows them by their pids, and stops them all at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

from parallel_actors.checkpoint import carried_by
from parallel_actors.gen_server import NoReply, Ok
from parallel_actors.names import Via
from parallel_actors.process import is_whole, options
from parallel_actors.supervisor import (
    RESTART,
    ChildInfo,
    ChildSpec,
    Intensity,
    Limits,
    Supervising,
    adopt,
    ask,
    attempt_in,
    be_supervisor,
    counted,
    died_with,
    report,
    restarts,
    spec_of,
    start_child_of,
    stop_children,
    stopping,
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


class TaskOptions(Limits, total=False):
    """Options of a supervisor of tasks."""

    max_children: int | None


class CrowdOptions(TaskOptions, total=False):
    """Options of a DynamicSupervisor."""

    extra_arguments: tuple[Any, ...]


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
    def start_link(*, name: str | Via | None = None, **choices: Unpack[CrowdOptions]) -> Pid:
        """Start one without children (Elixir: `DynamicSupervisor.start_link/1`).

        Args:
            max_children: more are refused, with ChildError("max_children"); None: as many as one likes.
            max_restarts, max_seconds, backoff, name: as for `Supervisor.start_link`.
            extra_arguments: put before the arguments of each child's spec.

        Raises:
            ValueError, TypeError: for an option that doesn't fit.
        """
        crowd_of(**choices)  # a bad one is refused here, where it was written
        pid = options(name=name).start_link(DynamicSupervisor, **choices)
        assert pid is not None
        return pid

    def init(self, *args: Any, **kwargs: Any) -> Any:
        return self.supervise(*args, **kwargs)

    def supervise(self, **choices: Unpack[CrowdOptions]) -> Any:
        """What `init` returns. Arguments as for `start_link`."""
        be_supervisor()
        return Ok(crowd_of(**choices))

    def handle_info(self, message: Any, state: Any) -> Any:
        if isinstance(message, Exit):
            return self._ended(message.pid, message.reason, state)
        crashed = carried_by(message)
        if crashed is not None:
            if crashed[0] in state.children:
                state.children[crashed[0]] = state.children[crashed[0]].carrying(crashed[1])
            return NoReply()
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
        crashed, spec = spec, spec.afresh()  # what doesn't start with that state may start without it
        try:
            pid = start_child_of(crashed, crowd.extra)
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
        children, state.children = state.children, {}
        state.restarting.clear()
        stop_children(children)

    # --- requests ---

    def do_start_child(self, crowd: _Crowd, entry: Any) -> Pid | None:
        spec = spec_of(entry)
        _check_room(crowd)
        pid = start_child_of(spec, crowd.extra)
        if pid is not None:
            crowd.children[pid] = spec
        return pid

    def do_adopt(self, crowd: _Crowd, pid: Pid, spec: ChildSpec) -> Pid:
        _check_room(crowd)
        adopt(pid, spec)
        crowd.children[pid] = spec
        return pid

    def do_terminate_child(self, crowd: _Crowd, pid: Pid) -> None:
        spec = crowd.children.pop(pid, None)
        if spec is None:
            raise ChildError(f"expected the pid of a child, got {pid!r}", reason="not_found", target=pid)
        stop_children({pid: spec})

    def do_which_children(self, crowd: _Crowd) -> list[ChildInfo]:
        running = [ChildInfo(spec.id, pid, spec.type) for pid, spec in crowd.children.items()]
        return running + [ChildInfo(spec.id, None, spec.type, True) for spec in crowd.restarting.values()]

    def do_count_children(self, crowd: _Crowd) -> dict[str, int]:
        running = [(spec.type, True) for spec in crowd.children.values()]
        return counted(running + [(spec.type, False) for spec in crowd.restarting.values()])

    # --- the same for callers ---

    @staticmethod
    def terminate_child(supervisor: Server, pid: Pid) -> None:
        """Stop a child, for good (Elixir: `DynamicSupervisor.terminate_child/2`).

        Raises:
            ChildError: it is none; `reason` is "not_found".
        """
        ask(supervisor, "terminate_child", pid)


def _check_room(crowd: _Crowd) -> None:
    if crowd.max_children is not None and len(crowd.children) + len(crowd.restarting) >= crowd.max_children:
        raise ChildError(f"there are {crowd.max_children} children, the most allowed", reason="max_children")


def crowd_of(
    *, max_children: int | None = None, extra_arguments: tuple[Any, ...] = (), **limits: Unpack[Limits]
) -> _Crowd:
    if max_children is not None and not is_whole(max_children, 0):
        raise ValueError(f"expected max_children to be a whole number or None, got {max_children!r}")
    if not isinstance(extra_arguments, tuple):
        raise TypeError(f"expected extra_arguments to be a tuple, got {extra_arguments!r}")
    return _Crowd(max_children, extra_arguments, Intensity(**limits))
