"""Typed actors: a class whose methods are the calls and casts of a server, and references that offer just those.

    start_link(Counter, 0) -> a GenServer whose callbacks are `Served(Counter)`, whose state is the instance
    counter.value()        -> ActorRef.__getattr__ -> BoundCall -> call(pid, ("value", args, kwargs)) -> Counter.value
    counter.bump(2)        -> ... -> cast(pid, ("bump", args, kwargs))

To a type checker a reference is an instance: a `@call` method gives a `BoundCall` with the method's own arguments and
result, and is that at run time, in other processes; inside the actor `self.value()` is a plain method call.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import CoroutineType, MethodType
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, overload

from parallel_actors.gen_server import Defaults, NoReply, Reply, cast, reply, use_actors
from parallel_actors.gen_server import call as call_server
from parallel_actors.request import Request, send_request
from parallel_actors.workers.api import self_, whereis
from parallel_actors.workers.errors import NotRegistered
from parallel_actors.workers.ident import Pid
from parallel_actors.workers.patterns import matches

__all__ = [
    "Actor",
    "ActorRef",
    "BoundCall",
    "BoundCast",
    "CallMethod",
    "CastMethod",
    "ReplyTo",
    "call_later",
    "info",
    "ref",
]

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")


# --- what decorated methods are ---------------------------------------------------------------------------------------


class _Method:
    """A method that other processes may use."""

    def __init__(self, function: Callable[..., Any], *, later: bool = False) -> None:
        if not callable(function):
            raise TypeError(f"expected a method of an Actor to decorate, got {function!r}")
        self.function = function
        self.later = later
        self.name = getattr(function, "__name__", "")
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __set_name__(self, owner: type, name: str) -> None:
        if name.startswith("_"):
            raise TypeError(f"expected the name of a call or cast to be a public one, got {name!r}")
        self.name = name


class CallMethod(_Method, Generic[P, R]):
    """What `@call` makes of a method."""

    @overload
    def __get__(self, instance: None, owner: type) -> CallMethod[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> BoundCall[P, R]: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self.function, instance)


class CastMethod(_Method, Generic[P]):
    """What `@cast` makes of a method."""

    @overload
    def __get__(self, instance: None, owner: type) -> CastMethod[P]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> BoundCast[P]: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self.function, instance)


class BoundCall(Generic[P, R]):
    """A call of one actor: `counter.value`."""

    __slots__ = ("_address", "_name", "_timeout")

    def __init__(self, address: Pid | str, name: str, timeout: float | None = 5.0) -> None:
        self._address = address
        self._name = name
        self._timeout = timeout

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it, and wait for the result. Raises as `parallel_actors.call`."""
        return call_server(self._address, (self._name, args, kwargs), self._timeout)  # type: ignore[no-any-return]

    def options(self, *, timeout: float | None) -> BoundCall[P, R]:
        """The same with another time-out: seconds, or None for as long as the actor lives."""
        return BoundCall(self._address, self._name, timeout)

    def request(self, *args: P.args, **kwargs: P.kwargs) -> Request[R]:
        """Call it, and wait later: `request.wait(timeout)`."""
        return send_request(self._address, (self._name, args, kwargs))

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it from an `async def` body, or from asyncio in a program with an `ActorSystem`: `await` this.

        Raises as `parallel_actors.call`. Cancelled, it leaves nothing behind.
        """
        return await self.request(*args, **kwargs)._awaited(self._timeout)

    def __repr__(self) -> str:
        return f"<call {self._name} of {self._address!r}>"


class BoundCast(Generic[P]):
    """A cast to one actor: `counter.bump`."""

    __slots__ = ("_address", "_name")

    def __init__(self, address: Pid | str, name: str) -> None:
        self._address = address
        self._name = name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Send it, and go on, whether the actor lives or not."""
        cast(self._address, (self._name, args, kwargs))

    def __repr__(self) -> str:
        return f"<cast {self._name} of {self._address!r}>"


class ReplyTo(Generic[R]):
    """Whom to answer: what a `@call_later` method gets. Can be kept, and sent to whoever is to answer."""

    __slots__ = ("_from",)

    def __init__(self, from_: Any) -> None:
        self._from = from_

    def reply(self, value: R, /) -> None:
        """Answer, from any process; a second answer, or one that comes too late, is dropped."""
        reply(self._from, value)

    def __reduce__(self) -> Any:
        return ReplyTo, (self._from,)


def call_later(method: Callable[Concatenate[A, ReplyTo[R], P], Any], /) -> CallMethod[P, R]:
    """Make a method a call whose answer comes later, by its first argument (OTP: `noreply`, then `gen_server:reply/2`).

    >>> import parallel_actors as pa
    >>> class Door(pa.Actor):
    ...     def __init__(self):
    ...         self.waiting = []
    ...     @pa.call_later
    ...     def wait(self, to: pa.ReplyTo[str]):
    ...         self.waiting.append(to)
    ...     @pa.cast
    ...     def open(self):
    ...         for to in self.waiting:
    ...             to.reply("come in")
    >>> with pa.ActorSystem(workers=1):
    ...     door = pa.start(Door)
    ...     request = door.wait.request()
    ...     door.open()
    ...     request.wait(10)
    'come in'
    """
    return CallMethod(method, later=True)


class _Info:
    def __init__(self, patterns: tuple[Any, ...], function: Callable[..., Any]) -> None:
        self.patterns = patterns
        self.function = function

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self.function, instance)


M = TypeVar("M", bound=Callable[..., Any])


def info(*patterns: Any) -> Callable[[M], M]:
    """Have a method take other messages: `@info(Down)`, `@info(("tick", ANY))`; without a pattern, all of them.

    The first method whose pattern fits, in the order of the class, gets the message; patterns are those of `receive`.
    What none takes is logged.
    """

    def decorate(method: M) -> M:
        return _Info(patterns, method)  # type: ignore[return-value]

    return decorate


# --- the actor --------------------------------------------------------------------------------------------------------


class Actor:
    """The base of typed actors: an ordinary class, an instance of which lives in a process of its own.

    >>> import parallel_actors as pa
    >>> class Counter(pa.Actor):
    ...     def __init__(self, start: int = 0) -> None:
    ...         self.n = start
    ...     @pa.call
    ...     def value(self) -> int:
    ...         return self.n
    ...     @pa.cast
    ...     def bump(self, by: int = 1) -> None:
    ...         self.n += by
    >>> with pa.ActorSystem(workers=1):
    ...     counter = pa.start(Counter, 40)
    ...     counter.bump(by=2)
    ...     counter.value()
    42

    `__init__` runs in the new process; what it raises is raised by `start` as a `StartError`. Other processes have a
    reference (`ActorRef`), which offers the methods with `@call` and `@cast` and nothing else. A method may be
    `async def`. What a method raises ends the actor, and is raised in the caller as a `RemoteError`: a supervisor
    begins anew. To end in order, raise `ProcessExit("normal")`.

    Optional methods, as in `GenServer`: `terminate(self, reason)`, and `format_status(self, status)`, whose "state" is
    a dict of the instance's attributes.
    """

    _actor_methods: ClassVar[dict[str, _Method]] = {}
    _actor_infos: ClassVar[list[_Info]] = []

    @property
    def __pid__(self) -> Pid:
        """What it is addressed by; of a reference its pid, inside the actor the actor's own."""
        return self_()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        methods: dict[str, _Method] = {}
        infos: dict[str, _Info] = {}
        for base in reversed(cls.__mro__):
            for name, value in vars(base).items():
                methods.pop(name, None)
                infos.pop(name, None)
                if isinstance(value, _Method):
                    methods[name] = value
                elif isinstance(value, _Info):
                    infos[name] = value
        cls._actor_methods = methods
        cls._actor_infos = list(infos.values())


class ActorRef:
    """A reference to a typed actor: its calls and casts. Compared and hashed by what it addresses; travels in messages.

    Wherever a pid is accepted, it is too.
    """

    __slots__ = ("_address", "_class")

    _address: Pid | str
    _class: type[Actor]

    def __init__(self, address: Pid | str, actor: type[Actor]) -> None:
        object.__setattr__(self, "_address", address)
        object.__setattr__(self, "_class", actor)

    @property
    def __pid__(self) -> Pid:
        """Of a name, the pid that has it now."""
        if isinstance(self._address, Pid):
            return self._address
        pid = whereis(self._address)
        if pid is None:
            raise NotRegistered(f"expected an actor called {self._address!r}, got none: no process has this name")
        return pid

    def __getattr__(self, name: str) -> Any:
        method = self._class._actor_methods.get(name)
        if method is None:
            raise AttributeError(_no_attribute(self._class, name), name=name, obj=self)
        return (BoundCall if isinstance(method, CallMethod) else BoundCast)(self._address, name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"expected attributes to be set by the actor itself, got {name!r} set on a reference to a"
            f" {self._class.__qualname__}: give the class a @cast method",
            name=name,
            obj=self,
        )

    def __dir__(self) -> list[str]:
        return list(self._class._actor_methods)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorRef) and self._address == other._address

    def __hash__(self) -> int:
        return hash(self._address)

    def __reduce__(self) -> Any:
        return ActorRef, (self._address, self._class)

    def __repr__(self) -> str:
        return f"<{self._class.__qualname__} {self._address!r}>"


T = TypeVar("T", bound=Actor)


def ref(actor: type[T], address: Pid | str | Actor, /) -> T:
    """A reference to an actor of that class, by its pid or its name. A name is looked up at each call.

    >>> import parallel_actors as pa
    >>> class Echo(pa.Actor):
    ...     @pa.call
    ...     def say(self, word: str) -> str:
    ...         return word
    >>> with pa.ActorSystem(workers=1):
    ...     sup = pa.Supervisor.start_link([pa.child(Echo, name="echo")])
    ...     pa.ref(Echo, "echo").say("hello")
    'hello'

    Args:
        actor: the class; what lives there isn't asked whether it is one.
        address: a pid, a registered name (whether there is such a process shows at the call), or another reference.

    Raises:
        TypeError: for a class that is no Actor, or an address that is none.
    """
    if not hasattr(actor, "_actor_methods"):
        raise TypeError(f"expected a class of Actor, got {actor!r}")
    if isinstance(address, ActorRef):
        address = address._address
    if not isinstance(address, (Pid, str)):
        raise TypeError(f"expected a Pid or a registered name, got {address!r} ({type(address).__name__})")
    made: Any = ActorRef(address, actor)
    return made  # type: ignore[no-any-return]


def _no_attribute(actor: type[Actor], name: str) -> str:
    offered = ", ".join(actor._actor_methods) or "none"
    text = f"a reference to a {actor.__qualname__} has no {name!r}; its calls and casts are: {offered}."
    if not name.startswith("__"):
        text += (
            f" The instance lives in another process: for an attribute or a plain method of it, give the class a @call"
            f" method that returns {name!r}."
        )
    return text


class Served:
    """The callbacks of the GenServer that serves an actor; its state is the instance."""

    def __init__(self, actor: type[Actor]) -> None:
        self._class = actor
        self.__qualname__ = actor.__qualname__  # what reports call it

    def __reduce__(self) -> Any:
        return Served, (self._class,)

    def init(self, *args: Any, **kwargs: Any) -> Any:
        made = self._class(*args, **kwargs)
        own = getattr(made, "terminate", None)
        if own is not None:
            self.terminate = lambda reason, state: own(reason)
        return made

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        method, args, kwargs = self._find(request, CallMethod)
        if method.later:
            result = method.function(state, ReplyTo(from_), *args, **kwargs)
            return _went(result) if type(result) is CoroutineType else NoReply()
        result = method.function(state, *args, **kwargs)
        return _answered(result) if type(result) is CoroutineType else Reply(result)

    def handle_cast(self, request: Any, state: Any) -> Any:
        method, args, kwargs = self._find(request, CastMethod)
        result = method.function(state, *args, **kwargs)
        return _went(result) if type(result) is CoroutineType else NoReply()

    def handle_info(self, message: Any, state: Any) -> Any:
        for each in self._class._actor_infos:
            if not each.patterns or any(matches(pattern, message) for pattern in each.patterns):
                result = each.function(state, message)
                return _went(result) if type(result) is CoroutineType else NoReply()
        return Defaults(self.__qualname__).handle_info(message, state)

    def format_status(self, status: dict[str, Any]) -> dict[str, Any]:
        made = status["state"]
        shown = {**status, "state": getattr(made, "__dict__", made)}
        own = getattr(made, "format_status", None)
        return shown if own is None else own(shown)

    def _find(self, request: Any, kind: type[_Method]) -> tuple[_Method, Any, Any]:
        if isinstance(request, tuple) and len(request) == 3 and isinstance(request[0], str):
            found = self._class._actor_methods.get(request[0])
            if found is not None and isinstance(found, kind):
                return found, request[1], request[2]
        raise NotImplementedError(
            f"expected a {'call' if kind is CallMethod else 'cast'} of {self.__qualname__}, got {request!r}:"
            " use its methods, through a reference"
        )


async def _answered(result: Coroutine[Any, Any, Any]) -> Any:
    return Reply(await result)


async def _went(result: Coroutine[Any, Any, Any]) -> Any:
    await result
    return NoReply()


use_actors(Actor, Served, ActorRef)
