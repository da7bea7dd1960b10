"""`options`: how to spawn. The rest of the process API is compiled: `parallel_actors.workers.api`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypedDict, TypeVar, Unpack, overload

from parallel_actors import gen_server
from parallel_actors.names import Via
from parallel_actors.workers import api
from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.scheduler import POLICIES

if TYPE_CHECKING:
    from parallel_actors.actor import Actor
    from parallel_actors.gen_server import Callbacks

__all__ = ["Choices", "MailboxPolicy", "SpawnOptions", "is_whole", "options"]

A = TypeVar("A", bound="Actor")
P = ParamSpec("P")

MailboxPolicy = Literal["suspend", "fail", "drop_newest", "drop_oldest"]


class Choices(TypedDict, total=False):
    """The keywords of `options`."""

    name: str | Via | None
    worker: int | None
    label: str | None
    spread: bool
    preempt: bool
    priority: Literal["low", "normal", "high"]
    stealable: bool
    max_mailbox: int | None
    max_mailbox_bytes: int | None
    mailbox_policy: MailboxPolicy


class SpawnOptions:
    """How to spawn; made by `options`. Can be kept and used again (without a name)."""

    __slots__ = ("_options",)

    def __init__(self, **choices: Unpack[Choices]) -> None:
        unknown = set(choices) - set(Choices.__annotations__)
        if unknown:
            raise TypeError(f"expected {', '.join(Choices.__annotations__)}, got {', '.join(sorted(unknown))}")
        name, worker, label = choices.get("name"), choices.get("worker"), choices.get("label")
        _check_choices(name, worker)
        stealable: object = choices.get("stealable", True)
        if not isinstance(stealable, bool):
            raise TypeError(f"expected stealable to be True or False, got {stealable!r} ({type(stealable).__name__})")
        traits = api.traits_of(
            bool(choices.get("spread", False)),
            bool(choices.get("preempt", True)),
            choices.get("priority", "normal"),
            stealable,
        )
        self._options = (-1 if worker is None else worker, name, label, traits, _limits(choices))

    def spawn(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Pid:
        """`spawn` with these options."""
        return api.spawn_with(self._plain(), 0, function, args, kwargs)  # type: ignore[no-any-return]

    def spawn_link(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Pid:
        """`spawn_link` with these options."""
        return api.spawn_with(self._plain(), 1, function, args, kwargs)  # type: ignore[no-any-return]

    def spawn_monitor(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> tuple[Pid, Ref]:
        """`spawn_monitor` with these options."""
        return api.spawn_with(self._plain(), 2, function, args, kwargs)  # type: ignore[no-any-return]

    def _plain(self) -> tuple[int, str | None, object, int, tuple[int, int, int] | None]:
        """For a process that runs a function."""
        worker, name, label, traits, limits = self._options
        if isinstance(name, Via):
            raise TypeError(
                f"expected a plain name for a process that runs a function, got {name!r}: via names are for"
                " start() and start_link(); the function itself may call Registry.register()"
            )
        return worker, name, label, traits, limits

    @overload
    def start(self, target: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> A: ...
    @overload
    def start(self, target: Callbacks, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Pid | Any: ...
    def start(self, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`start` with these options; `timeout` bounds the server's init, in seconds."""
        return gen_server.start_with(self._options, 0, target, args, kwargs, kwargs.pop("timeout", None))

    @overload
    def start_link(self, target: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> A: ...
    @overload
    def start_link(
        self, target: Callbacks, /, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Pid | Any: ...
    def start_link(self, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`start_link` with these options."""
        return gen_server.start_with(self._options, 1, target, args, kwargs, kwargs.pop("timeout", None))

    @overload
    def start_monitor(self, target: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> tuple[A, Ref]: ...
    @overload
    def start_monitor(
        self, target: Callbacks, /, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> tuple[Pid, Ref] | Any: ...
    def start_monitor(self, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`start_monitor` with these options."""
        return gen_server.start_with(self._options, 2, target, args, kwargs, kwargs.pop("timeout", None))


def is_whole(value: object, least: int) -> bool:
    """Whether it is a whole number of at least `least`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_choices(name: object, worker: object) -> None:
    if name is not None and not isinstance(name, (str, Via)):
        raise TypeError(f"expected name to be a str or a via name, got {name!r} ({type(name).__name__})")
    if worker is not None and (isinstance(worker, bool) or not isinstance(worker, int) or not 0 <= worker < 4096):
        raise ValueError(f"expected worker to be the number of a worker (0, 1, ...), got {worker!r}")


def _limits(choices: Choices) -> tuple[int, int, int] | None:
    """The limits of a mailbox (0: none) and the number of its policy; None: the system's."""
    limits: list[int] = []
    given: tuple[tuple[str, object], ...] = (
        ("max_mailbox", choices.get("max_mailbox")),
        ("max_mailbox_bytes", choices.get("max_mailbox_bytes")),
    )
    for what, value in given:
        if value is None:
            limits.append(0)
        elif isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**62:
            limits.append(value)
        else:
            raise ValueError(f"expected {what} to be a whole number, 1 or more, or None (no limit), got {value!r}")
    policy = choices.get("mailbox_policy", "suspend")
    if policy not in POLICIES:
        raise ValueError(f"expected mailbox_policy to be one of {', '.join(POLICIES)}, got {policy!r}")
    if "max_mailbox" in choices or "max_mailbox_bytes" in choices:
        return limits[0], limits[1], POLICIES.index(policy)
    if "mailbox_policy" in choices:
        raise ValueError("expected mailbox_policy together with max_mailbox or max_mailbox_bytes, got it alone")
    return None


def options(**choices: Unpack[Choices]) -> SpawnOptions:
    """Choose how to spawn: `options(name="db", worker=1).spawn(serve)`.

    Args:
        name: register the process under this name, atomically with the spawn; `NameTaken` if another has it. A server
            (`start`, `start_link`, `start_monitor`) may have a via name: it registers itself before its `init`.
        worker: the number of the worker to live on; by default the caller's own, or (for the program's main process and
            for guests) the least loaded one.
        label: a text for reports and `process_info`.
        spread: whether the process's own spawns spread over the workers, as those of the main process do.
        preempt: False for a process that others of its worker wait for, however long it computes between two calls of
            this library. It is reported when they wait for longer than `long_schedule`.
        priority: "high" runs before all others of its worker, "low" once for eight of "normal" (OTP:
            `process_flag(priority, ...)`). Who computes without a pause gets the same share whatever its priority.
        stealable: False for a process that has to run on the worker that it is spawned on.
        max_mailbox: how many messages may wait in its mailbox; None: any number. What isn't said here, for none of both
            limits, is the system's setting (none, by default).
        max_mailbox_bytes: how many bytes they may have together, about.
        mailbox_policy: what becomes of a message that there is no room for: "suspend" (the default) suspends its sender
            until half of the mailbox is free, "fail" raises `MailboxFull` in its sender, "drop_newest" drops it,
            "drop_oldest" drops what has waited longest. Signals, answers and timers aren't limited: see
            docs/processes.md, "Limits".
    """
    return SpawnOptions(**choices)
