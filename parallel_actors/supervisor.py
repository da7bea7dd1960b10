"""Supervisor: starts children in order, restarts those that end, and stops them in reverse (OTP's `supervisor`).

    child(...)   -> ChildSpec: what to start, and what its end means
    Supervisor   -> a GenServer that traps exits. An Exit of a child -> `_Tree.ended` -> counted by `Intensity`
                    -> the affected children are stopped, last first, and started again, first first

What `DynamicSupervisor` shares with it stands here too: specs, counting, starting and stopping of one child, reports.
"""

from __future__ import annotations

import functools
import logging
import math
import random
import time
from collections import deque
from collections.abc import Coroutine, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import CoroutineType, ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from parallel_actors.checkpoint import Carry, Carrying, carried_by
from parallel_actors.gen_server import CARRY, IGNORE, GenServer, NoReply, Ok, Reply, Stop, call
from parallel_actors.names import Via
from parallel_actors.process import Choices, MailboxPolicy, SpawnOptions, is_whole, options
from parallel_actors.workers import api
from parallel_actors.workers.codec import newest
from parallel_actors.workers.errors import ActorError, ChildError, NameTaken, NoProc, NotRegistered, StartError
from parallel_actors.workers.ident import Pid
from parallel_actors.workers.reasons import Crash, Exit, Shutdown, WorkerDown, is_orderly
from parallel_actors.workers.scheduler import current_scheduler

if TYPE_CHECKING:
    from parallel_actors.gen_server import Server

__all__ = ["Backoff", "ChildInfo", "ChildSpec", "Supervisor", "child"]

Restart = Literal["permanent", "transient", "temporary"]
Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
AutoShutdown = Literal["never", "any_significant", "all_significant"]

_LOG = logging.getLogger("parallel_actors.supervisor")

_STOPPING = 2  # a phase of the run: see `Segment.phase`
_SUPERVISOR = "$supervisor"  # in the process dictionary of one
RESTART = "$restart"  # ("$restart", attempt): a supervisor to itself


# --- child specs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to start, and what its end means; made by `child`, which explains the fields."""

    id: Hashable
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    name: str | Via | None = None
    worker: int | None = None
    restart: Restart = "permanent"
    shutdown: float | Literal["brutal_kill", "infinity"] = 5.0
    type: Literal["worker", "supervisor"] = "worker"
    significant: bool = False
    max_mailbox: int | None = None
    max_mailbox_bytes: int | None = None
    mailbox_policy: MailboxPolicy | None = None
    carry_state: Carry | None = None

    def __post_init__(self) -> None:
        if not callable(self.target) and not isinstance(self.target, ModuleType):
            raise TypeError(f"expected a child's target to be a class, a module or a function, got {self.target!r}")
        _one_of("restart", self.restart, ("permanent", "transient", "temporary"))
        _one_of("type", self.type, ("worker", "supervisor"))
        if self.shutdown not in ("brutal_kill", "infinity") and not is_seconds(self.shutdown):
            raise ValueError(
                f'expected shutdown to be a number of seconds, "brutal_kill" or "infinity", got {self.shutdown!r}'
            )
        if self.significant and self.restart == "permanent":
            raise ValueError("expected a significant child to be transient or temporary, got a permanent one")
        self.chosen()  # refuses what they can't be
        if self.carry_state is not None:
            self._check_carry(self.carry_state)

    def _check_carry(self, carry: Carry) -> None:
        if not isinstance(carry, Carry):
            raise TypeError(f"expected carry_state to be True, False or a Carry, got {carry!r}")
        if not isinstance(self.target, (type, ModuleType)) or self.type == "supervisor":
            raise ValueError(f"expected a server to carry its state, got {self.target!r}, which has none to carry")
        if hasattr(self.target, "_served_by") and not hasattr(self.target, "_actor_methods"):
            raise ValueError(
                f"expected a GenServer or a typed actor to carry its state, got {self.target!r}: a state machine has "
                "time-outs and postponed events, too, and begins with its init"
            )
        if carry.store is not None:
            carry.key_of(self.name)

    def carrying(self, state: Any) -> ChildSpec:
        """The same for one start, with the state of the crash before it."""
        return (
            self if self.carry_state is None else replace(self, carry_state=replace(self.carry_state, crashed=(state,)))
        )

    def afresh(self) -> ChildSpec:
        """The same without that."""
        if self.carry_state is None or self.carry_state.crashed is None:
            return self
        return replace(self, carry_state=replace(self.carry_state, crashed=None))

    def chosen(self) -> SpawnOptions:
        """How it is spawned."""
        given: Choices = {"name": self.name, "worker": self.worker}
        if self.max_mailbox is not None:
            given["max_mailbox"] = self.max_mailbox
        if self.max_mailbox_bytes is not None:
            given["max_mailbox_bytes"] = self.max_mailbox_bytes
        if self.mailbox_policy is not None:
            given["mailbox_policy"] = self.mailbox_policy
        return options(**given)


def child(
    target: Any,
    /,
    *args: Any,
    id: Hashable = None,
    name: str | Via | None = None,
    worker: int | None = None,
    restart: Restart = "permanent",
    shutdown: float | Literal["brutal_kill", "infinity"] | None = None,
    type: Literal["worker", "supervisor"] | None = None,
    significant: bool = False,
    max_mailbox: int | None = None,
    max_mailbox_bytes: int | None = None,
    mailbox_policy: MailboxPolicy | None = None,
    carry_state: bool | Carry = False,
    **kwargs: Any,
) -> ChildSpec:
    """Describe a child of a supervisor (OTP: `supervisor:child_spec()`; Elixir: `Supervisor.child_spec/2`).

    >>> import parallel_actors as pa
    >>> pa.child(pa.GenServer, "state", name="db", restart="transient").id
    'db'

    Args:
        target: a class or module as for `start_link`; a function is spawned as the body of a raw process.
        args, kwargs: for `init`, or for the function. Kept by the supervisor: a restart begins with the same.
            A keyword `timeout`, for a class or module, is the time in seconds that its `init` has at each start: one
            that hangs there keeps the supervisor waiting.
        id: what the supervisor knows it by, unique among its children; by default its name, else the target's.
        name: registered for each of its lives; a via name for a class or module.
        worker: the number of the worker to live on; by default the least loaded one, at each start.
        restart: "permanent": always; "transient": after an abnormal end; "temporary": never, nor with its siblings.
        shutdown: seconds that it has from the exit signal `shutdown` to its kill; "brutal_kill": none; "infinity".
            By default 5.0, and "infinity" for supervisors.
        type: "worker" or "supervisor"; by default what it is.
        significant: whether its end by itself may end the supervisor: see `auto_shutdown`.
        max_mailbox, max_mailbox_bytes, mailbox_policy: as for `options`; by default the system's settings.
        carry_state: whether a new life begins with the state of the one before, and where that is kept: see `Carry`. By
            default it begins with nothing, as in OTP.

    Raises:
        ValueError, TypeError: for what doesn't fit; the text says what was expected.
    """
    if type is None:
        type = "supervisor" if getattr(target, "_is_supervisor", False) else "worker"
    if shutdown is None:
        shutdown = "infinity" if type == "supervisor" else 5.0
    if id is None:
        id = name or getattr(target, "__qualname__", None) or getattr(target, "__name__", None) or repr(target)
    return ChildSpec(
        id,
        target,
        args,
        kwargs,
        name,
        worker,
        restart,
        shutdown,
        type,
        significant,
        max_mailbox,
        max_mailbox_bytes,
        mailbox_policy,
        Carry() if carry_state is True else None if carry_state is False else carry_state,
    )


def spec_of(entry: Any) -> ChildSpec:
    """The spec behind what a list of children may hold: a spec, a class, or `(class, *args)`."""
    if isinstance(entry, ChildSpec):
        return entry
    target, args = (entry[0], entry[1:]) if isinstance(entry, tuple) and entry else (entry, ())
    own = getattr(target, "child_spec", None)
    if own is not None and isinstance(target, type):
        made = own(*args)
        if not isinstance(made, ChildSpec):
            raise TypeError(f"expected {target.__qualname__}.child_spec() to return a ChildSpec, got {made!r}")
        return made
    if not callable(target) and not isinstance(target, ModuleType):
        raise TypeError(f"expected a child to be a child(...), a class or a (class, argument), got {entry!r}")
    return child(target, *args)


def is_seconds(value: object) -> bool:
    """Whether it is a finite number of seconds from 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _one_of(what: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"expected {what} to be one of {', '.join(allowed)}, got {value!r}")


# --- what both kinds of supervisors do --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the n-th restart in a row: `first * factor**(n - 1)` seconds, at most `limit`.

    Each time is made longer or shorter by up to `jitter` of itself, so that many don't come back at the same moment.
    Restarts are in a row until `max_seconds` have passed without one.
    """

    first: float = 0.1
    factor: float = 2.0
    limit: float = 30.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if not (0 <= self.first <= self.limit < 1e9 and self.factor >= 1 and 0 <= self.jitter <= 1):
            raise ValueError(f"expected 0 <= first <= limit, factor >= 1 and jitter from 0 to 1, got {self!r}")

    def delay(self, attempt: int) -> float:
        """Seconds before restart number `attempt` (1, 2, ...) in a row."""
        longest = min(self.limit, self.first * self.factor ** min(attempt - 1, 1000))
        return longest * (1 + self.jitter * random.uniform(-1, 1))


class Limits(TypedDict, total=False):
    """Options of every supervisor: how often its children may be started anew."""

    max_restarts: int
    max_seconds: float
    backoff: Backoff | None


class Strategies(Limits, total=False):
    """Options of those whose children belong together."""

    strategy: Strategy


class TreeOptions(Strategies, total=False):
    """Options of a Supervisor."""

    auto_shutdown: AutoShutdown


@dataclass(slots=True)
class Intensity:
    """Counts restarts: more than `max_restarts` within `max_seconds` are too many (OTP: MaxR, MaxT)."""

    max_restarts: int = 3
    max_seconds: float = 5.0
    backoff: Backoff | None = None
    times: deque[float] = field(default_factory=deque)
    deaths: list[tuple[float, int, int | None]] = field(default_factory=list)  # counted: when, worker, its incarnation

    def __post_init__(self) -> None:
        if not is_whole(self.max_restarts, 0):
            raise ValueError(f"expected max_restarts to be a whole number from 0, got {self.max_restarts!r}")
        if not is_seconds(self.max_seconds) or self.max_seconds == 0:
            raise ValueError(f"expected max_seconds to be a number of seconds above 0, got {self.max_seconds!r}")
        if self.backoff is not None and not isinstance(self.backoff, Backoff):
            raise TypeError(f"expected backoff to be a Backoff or None, got {self.backoff!r}")

    def allows(self, pid: Pid | None, reason: object) -> bool:
        """Count one restart, of the child that was `pid`; whether there may be one. A worker's death counts once."""
        now = time.monotonic()
        while self.times and now - self.times[0] > self.max_seconds:
            self.times.popleft()
        if isinstance(reason, WorkerDown):
            self.deaths = [death for death in self.deaths if now - death[0] <= self.max_seconds]
            # Of one that lived elsewhere and went down by a link, the worker's incarnation isn't known: None.
            mine = pid.incarnation if pid is not None and pid.worker == reason.worker else None
            for _, worker, incarnation in self.deaths:
                if worker == reason.worker and (mine is None or incarnation is None or mine == incarnation):
                    return True
            self.deaths.append((now, reason.worker, mine))
        self.times.append(now)
        return len(self.times) <= self.max_restarts

    def delay(self) -> float:
        """Seconds to wait before the restart that was just counted."""
        return self.backoff.delay(max(1, len(self.times))) if self.backoff is not None else 0.0


def start_child_of(spec: ChildSpec, extra: tuple[Any, ...] = ()) -> Pid | None:
    """Start one child, linked to the caller. None: it ignored the start. Raises StartError."""
    chosen = spec.chosen()
    kwargs = spec.kwargs
    if (carry := spec.carry_state) is not None:
        key = repr(spec.id) if carry.store is None else carry.key_of(spec.name)
        kwargs = {**kwargs, CARRY: Carrying(carry.store, key, carry.every, carry.crashed)}
    try:
        if isinstance(spec.target, (type, ModuleType)):
            started = chosen.start_link(spec.target, *extra, *spec.args, **kwargs)
            return getattr(started, "__pid__", started)
        return chosen.spawn_link(newest(spec.target), *extra, *spec.args, **spec.kwargs)
    except StartError:
        raise
    except NameTaken as error:
        raise StartError(str(error), reason=("already_started", error.target), target=error.target) from error
    except Exception as error:
        raise StartError(
            f"child {spec.id!r} can't be started: {type(error).__name__}: {error}", reason=Crash.from_exception(error)
        ) from error


def adopt(pid: Pid, spec: ChildSpec) -> None:
    """Become the parent of a process that runs already, and be linked to it."""
    if not isinstance(pid, Pid):
        raise TypeError(f"expected the Pid of a process to adopt, got {pid!r} ({type(pid).__name__})")
    facts = api.process_info(pid)
    if facts is None:
        raise _dead(pid)
    if facts["kind"] == "guest":
        raise ValueError(f"expected a process that can be started again, got {pid!r}, a thread of the program")
    if pid == api.self_() or pid in api.ancestors():
        raise ValueError(f"expected a process other than the supervisor itself and its ancestors, got {pid!r}")
    if facts["registered_name"] != spec.name:
        raise ValueError(
            f"expected child(name={facts['registered_name']!r}), the name of {pid!r}, got {spec.name!r}: the next one"
            " is registered as the spec says"
        )
    parent: Pid | None = facts["parent"]
    if parent is not None and parent in facts["links"] and is_supervisor(parent):
        raise _supervised(pid, parent)
    api.link(pid)
    try:
        # Another supervisor may have been quicker: then it is the parent.
        if not api.adopt(pid, parent):
            api.unlink(pid)
            raise _supervised(pid, None)
    except NoProc:
        api.unlink(pid)
        raise _dead(pid) from None


def be_supervisor() -> None:
    """What every supervisor does first."""
    api.trap_exit(True)
    api.spread_spawns(True)
    api.process_dict()[_SUPERVISOR] = True


def is_supervisor(pid: Pid) -> bool:
    """Whether the process is one; False for a dead one."""
    if pid == api.self_():
        return True
    facts = api.process_info(pid, "dictionary")
    return facts is not None and _SUPERVISOR in facts


def _dead(pid: Pid) -> ChildError:
    return ChildError(f"expected a live process to adopt, got {pid!r}, which is dead", reason="noproc", target=pid)


def _supervised(pid: Pid, parent: Pid | None) -> ChildError:
    by = "another supervisor" if parent is None else repr(parent)
    return ChildError(f"{pid!r} is a child of {by} already", reason="already_supervised", target=pid)


def died_with(error: StartError) -> Pid | None:
    """The process that could not be started, where there was one."""
    return error.target if isinstance(error.target, Pid) else None


def stop_children(children: dict[Pid, ChildSpec]) -> None:
    """Stop children, all at once, and wait until they are gone."""
    for pid, reason in api.stop_all({pid: spec.shutdown for pid, spec in children.items()}).items():
        check_end(pid, children[pid], reason)


def check_end(pid: Pid, spec: ChildSpec, reason: object) -> None:
    """Report a child that ended otherwise than it was asked to."""
    if isinstance(reason, WorkerDown) and reason.exit_code == 0:
        return  # the whole system stops, and its worker had nothing left to do before we asked
    fine = {"killed" if spec.shutdown == "brutal_kill" else "shutdown", "noproc"}
    if spec.restart != "permanent":
        fine |= {"normal", "shutdown"}
    if not (isinstance(reason, Shutdown) or (isinstance(reason, str) and reason in fine)):
        report("shutdown_error", pid, spec, reason)


def admits(kind: str) -> bool:
    """Whether there may be one more report of this kind in this second; it is counted."""
    scheduler = current_scheduler()
    return scheduler is None or scheduler.admits(kind)


def report(event: str, pid: Pid | None, spec: ChildSpec | None, reason: object) -> None:
    """One supervisor report (OTP: the SUPERVISOR REPORT of `logger`): text for people, `extra` for programs."""
    if not _LOG.isEnabledFor(logging.ERROR) or not admits("supervisor"):
        return
    try:
        text = str(reason) if isinstance(reason, Crash) else repr(reason)
    except Exception as error:  # a reason is anybody's object
        text = f"<repr() of a {type(reason).__qualname__} failed: {type(error).__name__}>"
    _LOG.error(
        "supervisor %r: %s\n  child: %r (%r), %s\n  reason: %s",
        api.self_(),
        event,
        None if spec is None else spec.id,
        pid,
        "" if spec is None else spec.restart,
        text,
        extra={
            "event": event,
            "supervisor": api.self_(),
            "child": pid,
            "child_id": None if spec is None else spec.id,
            "restart": None if spec is None else spec.restart,
            "reason": text,
        },
    )


def ask(supervisor: Server, *request: Any) -> Any:
    """The answer of a supervisor to one of its own requests; raises what it refuses with."""
    kind, value = call(supervisor, request, timeout=None)
    if kind == "error":
        raise value
    return value


def restarts(spec: ChildSpec, reason: object) -> bool:
    """Whether a child that ended so is to be started again."""
    return spec.restart == "permanent" or (spec.restart == "transient" and not is_orderly(reason))


def stopping() -> bool:
    """Whether the system is being stopped: nothing is started again then.

    Each worker ends its processes by itself, so the end of a child on another one may come before our own order to end.
    """
    scheduler = current_scheduler()
    return scheduler is not None and scheduler.segment.phase >= _STOPPING


def attempt_in(message: Any) -> int:
    """The number of the attempt that a supervisor reminds itself of; 0 for other messages."""
    if type(message) is tuple and len(message) == 2 and type(message[0]) is str and message[0] == RESTART:
        return message[1] if type(message[1]) is int else 0
    return 0


def _checked(result: Any, title: str) -> Any:
    """What an `init` of one's own has returned, if a supervisor can live with it; else an end with the reason why."""
    if result is IGNORE or isinstance(result, Stop) or hasattr(getattr(result, "state", None), "intensity"):
        return result
    got = f"expected {title}.init to return self.supervise(...), Stop or IGNORE, got {type(result).__qualname__}"
    return Stop(("bad_return_value", got))


async def _checked_later(result: Coroutine[Any, Any, Any], title: str) -> Any:
    return _checked(await result, title)


class Supervising(GenServer):
    """A request to a supervisor becomes a call of the method `do_<request>`; its errors go to the caller."""

    _is_supervisor = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A forgotten `return` in `init` would be a supervisor that supervises nothing, and says nothing of it."""
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("init")
        if own is None:
            return

        @functools.wraps(own)
        def init(self: Supervising, *args: Any, **kwargs: Any) -> Any:
            result = own(self, *args, **kwargs)
            return (_checked_later if type(result) is CoroutineType else _checked)(result, type(self).__qualname__)

        cls.init = init  # type: ignore[method-assign, assignment]

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        do = getattr(self, f"do_{request[0]}", None) if isinstance(request, tuple) and request else None
        if do is None:
            return Reply(("error", ChildError(f"expected a request to a supervisor, got {request!r}")))
        try:
            return Reply(("ok", do(state, *request[1:])))
        except (ActorError, ValueError, TypeError) as error:
            return Reply(("error", error))

    def handle_cast(self, request: Any, state: Any) -> Any:
        if admits("unexpected_message"):
            _LOG.warning("supervisor %r got a cast that it doesn't know: %r", api.self_(), request)
        return NoReply()

    # --- for callers ---

    @staticmethod
    def start_child(supervisor: Server, spec: Any) -> Pid | None:
        """Add a child, and start it; its pid, None where it ignored the start (OTP: `supervisor:start_child/2`).

        Raises:
            StartError: it could not be started, and isn't kept.
            ChildError: a Supervisor has a child of this id; `reason` is "already_started" (`target` is its pid) or
                "already_present". A DynamicSupervisor has as many as it may have; `reason` is "max_children".
            NoProc, NodeDown, RemoteError: as `call`.
        """
        pid: Pid | None = ask(supervisor, "start_child", spec_of(spec))
        return pid

    @staticmethod
    def which_children(supervisor: Server) -> list[ChildInfo]:
        """All children; those of a Supervisor in start order (OTP: `supervisor:which_children/1`)."""
        found: list[ChildInfo] = ask(supervisor, "which_children")
        return found

    @staticmethod
    def count_children(supervisor: Server) -> dict[str, int]:
        """How many there are: "specs", "active", "supervisors", "workers" (OTP: `supervisor:count_children/1`)."""
        found: dict[str, int] = ask(supervisor, "count_children")
        return found

    @staticmethod
    def adopt(supervisor: Server, process: Server, spec: Any) -> Pid:
        """Make a process that runs already a child (Actors.jl: `supervise`).

        From now on it is like one that the supervisor has started: linked, started again by the spec when it ends,
        stopped with the others, last started.

        >>> import parallel_actors as pa
        >>> with pa.ActorSystem(workers=2):
        ...     sup = pa.Supervisor.start_link([])
        ...     pid = pa.start(pa.GenServer, "first")
        ...     pid == pa.Supervisor.adopt(sup, pid, pa.child(pa.GenServer, "again", id="server"))
        True

        Args:
            process: its pid, its name, or a reference to it. Whoever has started it may still be linked to it: `start`
                it, or `unlink` it, so that its end doesn't end that one.
            spec: as for `start_child`; how the next one is started. Its name has to be that of the process. What the
                process was started with doesn't matter, and with `carry_state` it is the next one that carries.

        Raises:
            ChildError: `reason` is "noproc": it is dead; "already_supervised": it is a child of this or another
                supervisor; "already_started", "already_present", "max_children": as for `start_child`.
            ValueError: it is a thread of the program, the supervisor itself or an ancestor of it, or has another name.
            NotRegistered: nobody has the name.
            NoProc, NodeDown, RemoteError: as `call`.
        """
        pid = api.whereis(process) if isinstance(process, str) else getattr(process, "__pid__", process)
        if pid is None:
            raise NotRegistered(f"expected a registered name, got {process!r}: no process has it", target=process)
        found: Pid = ask(supervisor, "adopt", pid, spec_of(spec))
        return found

    def too_many(self, pid: Pid | None, spec: ChildSpec) -> Stop:
        report("reached_max_restart_intensity", pid, spec, "shutdown")
        return Stop("shutdown")


# --- Supervisor -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ChildInfo:
    """One child, as `which_children` tells it. pid: None when it has ended, or ignored its start."""

    id: Hashable
    pid: Pid | None
    type: Literal["worker", "supervisor"]
    restarting: bool = False


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    pid: Pid | None = None
    attempt: int = 0  # of the restart that is awaited; 0: none is


@dataclass(slots=True)
class _Tree:
    """The state of a supervisor."""

    strategy: Strategy
    auto_shutdown: AutoShutdown
    intensity: Intensity
    children: dict[Hashable, _Child] = field(default_factory=dict)  # in start order
    by_pid: dict[Pid, _Child] = field(default_factory=dict)
    attempts: int = 0

    def start(self, child: _Child) -> None:
        child.attempt = 0
        spec, child.spec = child.spec, child.spec.afresh()  # what doesn't start with that state may start without it
        pid = start_child_of(spec)
        child.pid = pid
        if pid is not None:
            self.by_pid[pid] = child
        elif child.spec.restart == "temporary":
            self.children.pop(child.spec.id, None)

    def stop(self, child: _Child) -> None:
        """A temporary child is forgotten then."""
        child.attempt = 0
        child.spec = child.spec.afresh()
        pid, child.pid = child.pid, None
        if child.spec.restart == "temporary":
            self.children.pop(child.spec.id, None)
        if pid is not None:
            del self.by_pid[pid]
            stop_children({pid: child.spec})

    def affected(self, child: _Child) -> list[_Child]:
        """Who is started anew together with `child`, in start order."""
        if self.strategy == "one_for_one":
            return [child]
        everybody = list(self.children.values())
        return everybody if self.strategy == "one_for_all" else everybody[everybody.index(child) :]

    def add(self, spec: ChildSpec) -> _Child:
        if spec.significant and self.auto_shutdown == "never":
            raise ValueError(f'child {spec.id!r} is significant: expected auto_shutdown to be other than "never"')
        made = _Child(spec)
        self.children[spec.id] = made
        return made

    def find(self, id: Hashable) -> _Child:
        found = self.children.get(id)
        if found is None:
            raise ChildError(
                f"expected the id of a child, got {id!r}; there are {list(self.children)!r}", reason="not_found"
            )
        return found


class Supervisor(Supervising):
    """Keeps its children alive (OTP: the behaviour `supervisor`; the defaults are Elixir's).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     sup = pa.Supervisor.start_link([pa.child(pa.GenServer, 1, name="one"), pa.child(pa.GenServer, 2, id="two")])
    ...     [info.id for info in pa.Supervisor.which_children(sup)]
    ['one', 'two']

    It traps exits, and its children spread over the workers. A class of one's own overrides `init` and returns
    `self.supervise([...], strategy=...)`; it is started by `start_link(Class, ...)`, or is itself a child.
    """

    @staticmethod
    def start_link(children: Iterable[Any], *, name: str | Via | None = None, **choices: Unpack[TreeOptions]) -> Pid:
        """Start a supervisor and its children; returns when all of them are up (OTP: `supervisor:start_link/2,3`).

        Args:
            children: `child(...)`, a class, or `(class, *args)` each, in the order of their start.
            strategy: who is started anew with one that ended: "one_for_one" (the default) nobody else, "one_for_all"
                all of them, "rest_for_one" those after it.
            max_restarts, max_seconds: more restarts in so many seconds (3 in 5.0), and the supervisor stops its
                children and ends with `shutdown`. What dies with one worker counts once.
            auto_shutdown: whether the end, by themselves, of children marked `significant` ends it: "never" (the
                default), "any_significant", "all_significant".
            backoff: how long to wait before a restart; none by default, as in OTP.
            name: register it.

        Raises:
            StartError: a child could not be started; the ones before it have been stopped. The `reason` is
                `Shutdown(("failed_to_start_child", id, reason))`.
            ValueError, TypeError: for a spec or an option that doesn't fit, two children of one id, a significant child
                without `auto_shutdown`.
        """
        specs = [spec_of(entry) for entry in children]
        tree_of(specs, **choices)  # a bad one is refused here, where it was written
        pid = options(name=name).start_link(Supervisor, specs, **choices)
        assert pid is not None
        return pid

    def init(self, *args: Any, **kwargs: Any) -> Any:
        return self.supervise(*args, **kwargs)

    def supervise(self, children: Iterable[Any] = (), **choices: Unpack[TreeOptions]) -> Any:
        """What `init` returns: these children, started in order. Arguments as for `start_link`."""
        be_supervisor()
        tree = tree_of(children, **choices)
        for each in list(tree.children.values()):
            try:
                tree.start(each)
            except StartError as error:
                report("start_error", None, each.spec, error.reason)
                self.terminate("shutdown", tree)
                return Stop(Shutdown(("failed_to_start_child", each.spec.id, error.reason)))
            except BaseException:  # told to end while a child starts
                self.terminate("shutdown", tree)
                raise
        return Ok(tree)

    def handle_info(self, message: Any, state: Any) -> Any:
        if isinstance(message, Exit):
            return self._ended(message.pid, message.reason, state)
        crashed = carried_by(message)
        if crashed is not None:
            found = state.by_pid.get(crashed[0])
            if found is not None:
                found.spec = found.spec.carrying(crashed[1])
            return NoReply()
        number = attempt_in(message)
        if number:
            found = next((each for each in state.children.values() if each.attempt == number), None)
            return NoReply() if found is None or stopping() else self._start_again(found, state)
        return super().handle_info(message, state)

    def _ended(self, pid: Pid, reason: Any, tree: _Tree) -> Any:
        found = tree.by_pid.pop(pid, None)
        if found is None:
            return NoReply()  # it was stopped, or never a child
        found.pid = None
        spec = found.spec
        again = restarts(spec, reason) and not stopping()
        if again or not is_orderly(reason):
            report("child_terminated", pid, spec, reason)
        if again:
            return self._restart(found, pid, reason, tree)
        if spec.restart == "temporary":
            del tree.children[spec.id]
        if spec.significant and (
            tree.auto_shutdown == "any_significant"
            or not any(each.spec.significant and (each.pid or each.attempt) for each in tree.children.values())
        ):
            return Stop("shutdown")
        return NoReply()

    def _restart(self, found: _Child, pid: Pid | None, reason: Any, tree: _Tree) -> Any:
        if not tree.intensity.allows(pid, reason):
            return self.too_many(pid, found.spec)
        for each in reversed(tree.affected(found)):
            if each is not found:
                tree.stop(each)
        delay = tree.intensity.delay()
        if delay:
            self._try_later(found, tree, delay)
            return NoReply()
        return self._start_again(found, tree)

    def _start_again(self, found: _Child, tree: _Tree) -> Any:
        for each in tree.affected(found):
            if each.pid is not None:
                continue  # started by a request meanwhile
            try:
                tree.start(each)
            except StartError as error:
                report("start_error", None, each.spec, error.reason)
                if not tree.intensity.allows(died_with(error), error.reason):
                    return self.too_many(None, each.spec)
                # Its messages come first, an order to stop among them.
                for other in reversed(tree.affected(each)):
                    if other is not each:
                        tree.stop(other)
                self._try_later(each, tree, tree.intensity.delay())
                return NoReply()
        return NoReply()

    def _try_later(self, found: _Child, tree: _Tree, delay: float) -> None:
        tree.attempts += 1
        found.attempt = tree.attempts
        message = (RESTART, found.attempt)
        if delay:
            api.send_after(delay, api.self_(), message)
        else:
            api.send(api.self_(), message)

    def terminate(self, reason: Any, state: Any) -> None:
        for each in reversed(list(state.children.values())):
            state.stop(each)

    # --- requests ---

    def do_start_child(self, tree: _Tree, entry: Any) -> Pid | None:
        spec = spec_of(entry)
        _check_new(tree, spec)
        made = tree.add(spec)
        try:
            tree.start(made)
        except BaseException:
            del tree.children[spec.id]
            raise
        return made.pid

    def do_adopt(self, tree: _Tree, pid: Pid, spec: ChildSpec) -> Pid:
        _check_new(tree, spec)
        made = tree.add(spec)
        try:
            adopt(pid, spec)
        except BaseException:
            del tree.children[spec.id]
            raise
        made.pid = pid
        tree.by_pid[pid] = made
        return pid

    def do_terminate_child(self, tree: _Tree, id: Hashable) -> None:
        tree.stop(tree.find(id))

    def do_restart_child(self, tree: _Tree, id: Hashable) -> Pid | None:
        found = tree.find(id)
        _check_ended(found)
        tree.start(found)
        return found.pid

    def do_delete_child(self, tree: _Tree, id: Hashable) -> None:
        _check_ended(tree.find(id))
        del tree.children[id]

    def do_which_children(self, tree: _Tree) -> list[ChildInfo]:
        return [ChildInfo(each.spec.id, each.pid, each.spec.type, each.attempt != 0) for each in tree.children.values()]

    def do_count_children(self, tree: _Tree) -> dict[str, int]:
        return counted([(each.spec.type, each.pid is not None) for each in tree.children.values()])

    def do_get_childspec(self, tree: _Tree, id: Hashable) -> ChildSpec:
        found = next((each for each in tree.children.values() if each.pid == id), None) if type(id) is Pid else None
        return (found or tree.find(id)).spec

    # --- the same for callers ---

    @staticmethod
    def terminate_child(supervisor: Server, id: Hashable) -> None:
        """Stop a child; its spec stays, unless it is temporary (OTP: `supervisor:terminate_child/2`).

        Raises:
            ChildError: there is none of this id; `reason` is "not_found".
        """
        ask(supervisor, "terminate_child", id)

    @staticmethod
    def restart_child(supervisor: Server, id: Hashable) -> Pid | None:
        """Start a child again that has ended (OTP: `supervisor:restart_child/2`).

        Raises:
            ChildError: `reason` is "not_found", "running" or "restarting".
            StartError: it could not be started.
        """
        pid: Pid | None = ask(supervisor, "restart_child", id)
        return pid

    @staticmethod
    def delete_child(supervisor: Server, id: Hashable) -> None:
        """Forget a child that has ended (OTP: `supervisor:delete_child/2`).

        Raises:
            ChildError: `reason` is "not_found", "running" or "restarting".
        """
        ask(supervisor, "delete_child", id)

    @staticmethod
    def get_childspec(supervisor: Server, id: Hashable) -> ChildSpec:
        """The spec of a child, by its id or pid (OTP: `supervisor:get_childspec/2`).

        Raises:
            ChildError: there is none; `reason` is "not_found".
        """
        found: ChildSpec = ask(supervisor, "get_childspec", id)
        return found


def tree_of(
    children: Iterable[Any],
    *,
    strategy: Strategy = "one_for_one",
    auto_shutdown: AutoShutdown = "never",
    **limits: Unpack[Limits],
) -> _Tree:
    _one_of("strategy", strategy, ("one_for_one", "one_for_all", "rest_for_one"))
    _one_of("auto_shutdown", auto_shutdown, ("never", "any_significant", "all_significant"))
    tree = _Tree(strategy, auto_shutdown, Intensity(**limits))
    for entry in children:
        spec = spec_of(entry)
        if spec.id in tree.children:
            raise ValueError(f"expected each child to have an id of its own, got {spec.id!r} twice: give child(id=...)")
        tree.add(spec)
    return tree


def _check_new(tree: _Tree, spec: ChildSpec) -> None:
    found = tree.children.get(spec.id)
    if found is None:
        return
    if found.pid is not None:
        raise ChildError(f"child {spec.id!r} is running: {found.pid!r}", reason="already_started", target=found.pid)
    raise ChildError(
        f"child {spec.id!r} is there, and has ended: restart_child starts it, delete_child forgets it",
        reason="already_present",
    )


def _check_ended(found: _Child) -> None:
    if found.pid is not None:
        raise ChildError(
            f"child {found.spec.id!r} is running: {found.pid!r}; terminate_child stops it", reason="running"
        )
    if found.attempt:
        raise ChildError(f"child {found.spec.id!r} is being restarted", reason="restarting")


def counted(children: Sequence[tuple[str, bool]]) -> dict[str, int]:
    """What count_children tells of children: (their type, whether they are alive) each."""
    supervisors = sum(type == "supervisor" for type, _ in children)
    return {
        "specs": len(children),
        "active": sum(alive for _, alive in children),
        "supervisors": supervisors,
        "workers": len(children) - supervisors,
    }
