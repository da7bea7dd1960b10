from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, final, overload

from parallel_actors.actor import Actor, CallMethod, CastMethod
from parallel_actors.names import Via
from parallel_actors.workers.errors import ActorError
from parallel_actors.workers.ident import Pid, Ref

A = TypeVar("A", bound=Actor)
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

# Where a server is addressed: by pid, registered name, via name, or the reference of a typed actor.
Server = Pid | str | Via | Actor

@final
class Reply:
    def __init__(
        self,
        value: object,
        state: object = ...,
        *,
        timeout: float | None = None,
        hibernate: bool = False,
        continue_: object = ...,
    ) -> None: ...

@final
class NoReply:
    def __init__(
        self, state: object = ..., *, timeout: float | None = None, hibernate: bool = False, continue_: object = ...
    ) -> None: ...

@final
class Ok:
    def __init__(
        self, state: object = None, *, timeout: float | None = None, hibernate: bool = False, continue_: object = ...
    ) -> None: ...

@final
class Stop:
    def __init__(self, reason: object = "normal", state: object = ..., *, reply: object = ...) -> None: ...

class _Ignore: ...

IGNORE: _Ignore

# What identifies a call to whoever answers it: for `reply` alone.
From = tuple[Pid, Ref] | tuple[Pid, Ref, bool]

class GenServer:
    def init(self, *args: Any, **kwargs: Any) -> Any: ...  # any signature may override it
    def handle_call(self, request: Any, from_: From, state: Any) -> Any: ...
    def handle_cast(self, request: Any, state: Any) -> Any: ...
    def handle_info(self, message: Any, state: Any) -> Any: ...
    def handle_continue(self, term: Any, state: Any) -> Any: ...
    def terminate(self, reason: Any, state: Any) -> Any: ...
    def code_change(self, version: Any, state: Any, extra: Any) -> Any: ...
    def format_status(self, status: dict[str, Any]) -> dict[str, Any]: ...

class Defaults(GenServer):
    def __init__(self, title: str) -> None: ...

class _HasInit(Protocol):
    @property
    def init(self) -> Callable[..., Any]: ...

# A class or a module of callbacks; an Actor class isn't one, so that its arguments are checked.
Callbacks = type[_HasInit] | ModuleType

# None where init returned IGNORE. Most don't: whoever starts one that does knows to look.
_MaybeNone = Any

@overload
def start(target: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> A: ...
@overload
def start(target: Callbacks, /, *args: Any, **kwargs: Any) -> Pid | _MaybeNone: ...
@overload
def start_link(target: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> A: ...
@overload
def start_link(target: Callbacks, /, *args: Any, **kwargs: Any) -> Pid | _MaybeNone: ...
@overload
def start_monitor(target: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> tuple[A, Ref]: ...
@overload
def start_monitor(target: Callbacks, /, *args: Any, **kwargs: Any) -> tuple[Pid, Ref] | _MaybeNone: ...
def start_with(
    options: tuple[int, str | Via | None, object, int, tuple[int, int, int] | None],
    how: Literal[0, 1, 2],
    target: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timeout: float | None = None,
) -> Any: ...

class System(tuple[Any, ...]):
    def __new__(cls, parts: tuple[Any, ...], /) -> System: ...

def use_actors(kind: type, server: Callable[[Any], object], reference: Callable[[Pid, Any], object]) -> None: ...
def launch(
    linked: bool, body: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Pid, Ref]: ...
def tagged_call(server: Server, request: object) -> tuple[Pid, Ref]: ...
def failed_with(what: str, reason: object, target: object) -> ActorError: ...
@overload
def call(method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]], /) -> CallMethod[P, R]: ...
@overload
def call(method: Callable[Concatenate[S, P], R], /) -> CallMethod[P, R]: ...
@overload
def call(server: Server, request: object, timeout: float | None = 5.0) -> Any: ...
@overload
def cast(method: Callable[Concatenate[S, P], object], /) -> CastMethod[P]: ...
@overload
def cast(server: Server, request: object, /) -> None: ...
def reply(from_: From, value: object, /) -> None: ...
def stop(server: Server, reason: object = "normal", timeout: float | None = None) -> None: ...
