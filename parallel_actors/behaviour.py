"""Behaviour: an actor that is a function, called once per message, and can become another (Actors.jl).

    Behaviour.start(f, a)  -> a GenServer that holds `f` and `(a,)`, and a `BehaviourRef` to it
    ref.call(x), .cast(x)  -> f(a, x) in the actor
    become(g, b)           -> from within: the next message calls g(b, x)

What it knows is in the arguments that stand before those of a message: Actors.jl calls them acquaintances, Python a
`functools.partial`. What goes wrong in the function ends the actor, as in any server.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

from parallel_actors import gen_server
from parallel_actors.gen_server import GenServer, NoReply, Reply, call, cast, reply
from parallel_actors.request import Request, ask, send_request
from parallel_actors.workers import api
from parallel_actors.workers.errors import ActorError, NotPicklable, NotRegistered
from parallel_actors.workers.ident import Pid

__all__ = ["Behaviour", "BehaviourRef", "become"]

A = TypeVar("A")
B = TypeVar("B")
P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")

_WHAT = ("function", "args", "kwargs", "result")


@dataclass(slots=True)
class _State:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any = None  # of the last message

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What one message gives; a coroutine, if the function is an `async def`."""
        token = _running.set(self)
        try:
            result = self.function(*self.args, *args, **{**self.kwargs, **kwargs})
        finally:
            _running.reset(token)
        if type(result) is CoroutineType:
            return self._awaited(result)
        self.result = result
        return result

    async def _awaited(self, result: Coroutine[Any, Any, Any]) -> Any:
        token = _running.set(self)
        try:
            self.result = await result
        finally:
            _running.reset(token)
        return self.result


# The actor whose function runs: for `become`.
_running: ContextVar[_State] = ContextVar("_running")


def _check(function: object) -> None:
    if not callable(function):
        raise TypeError(f"expected a function to be called with each message, got {function!r}")


def become(function: Callable[..., object], /, *args: Any) -> None:
    """Within a behaviour: have the next message call `function(*args, ...)` (Actors.jl: `become`).

    >>> import parallel_actors as pa
    >>> def count(n: int, by: int) -> int:
    ...     pa.become(count, n + by)
    ...     return n + by
    >>> with pa.ActorSystem(workers=1):
    ...     counter = pa.Behaviour.start(count, 0)
    ...     counter.call(1), counter.call(2)
    (1, 3)

    Raises:
        ActorError: the caller isn't the function of a behaviour.
        TypeError: for a `function` that can't be called.
    """
    _check(function)
    state = _running.get(None)
    if state is None:
        raise ActorError(
            "expected become() to be called by the function of a Behaviour, got a call from elsewhere: to change"
            " another actor, use become() of its reference"
        )
    state.function, state.args, state.kwargs = function, args, {}


class Behaviour(GenServer):
    """An actor that calls a function for each message, with arguments of its own before those of the message.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     adder = pa.Behaviour.start(lambda a, b: a + b, 10)
    ...     first = adder.call(1)
    ...     adder.become(lambda a, b: a * b, 10)
    ...     first, adder.call(2)
    (11, 20)

    The function may be `async def`, or an instance with `__call__`, whose attributes are the actor's state then.
    Options, a name for one: `BehaviourRef(pa.options(name="adder").start(pa.Behaviour, function, 10))`. Under a
    supervisor: `pa.child(pa.Behaviour, function, 10, name="adder")`. It begins with that function again when it is
    restarted, whatever it had become; with `carry_state=True`, with what it was.

    When not to use it: a typed actor (`Actor`) has several calls, each with its name.
    """

    @overload
    @staticmethod
    def start(function: Callable[P, Coroutine[Any, Any, R]], /) -> BehaviourRef[P, R]: ...
    @overload
    @staticmethod
    def start(function: Callable[P, R], /) -> BehaviourRef[P, R]: ...
    @overload
    @staticmethod
    def start(function: Callable[Concatenate[A, P], Coroutine[Any, Any, R]], first: A, /) -> BehaviourRef[P, R]: ...
    @overload
    @staticmethod
    def start(function: Callable[Concatenate[A, P], R], first: A, /) -> BehaviourRef[P, R]: ...
    @overload
    @staticmethod
    def start(function: Callable[Concatenate[A, B, P], R], first: A, second: B, /) -> BehaviourRef[P, R]: ...
    @staticmethod
    def start(function: Callable[..., Any], /, *args: Any) -> BehaviourRef[..., Any]:
        """Start one, on the caller's worker or the least loaded one, as any server (Actors.jl: `spawn`).

        Args:
            function: called with `args` and the arguments of each message.
            args: its first arguments. For more than two, or keywords, give a `functools.partial`.

        Raises:
            TypeError: for a `function` that can't be called.
            StartError, NotPicklable: as `parallel_actors.start`.
        """
        _check(function)
        return BehaviourRef(gen_server.start(Behaviour, function, *args))

    @overload
    @staticmethod
    def start_link(function: Callable[P, Coroutine[Any, Any, R]], /) -> BehaviourRef[P, R]: ...
    @overload
    @staticmethod
    def start_link(function: Callable[P, R], /) -> BehaviourRef[P, R]: ...
    @overload
    @staticmethod
    def start_link(
        function: Callable[Concatenate[A, P], Coroutine[Any, Any, R]], first: A, /
    ) -> BehaviourRef[P, R]: ...
    @overload
    @staticmethod
    def start_link(function: Callable[Concatenate[A, P], R], first: A, /) -> BehaviourRef[P, R]: ...
    @overload
    @staticmethod
    def start_link(function: Callable[Concatenate[A, B, P], R], first: A, second: B, /) -> BehaviourRef[P, R]: ...
    @staticmethod
    def start_link(function: Callable[..., Any], /, *args: Any) -> BehaviourRef[..., Any]:
        """`start` and `link` in one step."""
        _check(function)
        return BehaviourRef(gen_server.start_link(Behaviour, function, *args))

    # --- callbacks ---

    def init(self, function: Callable[..., Any], *args: Any) -> _State:
        _check(function)
        return _State(function, args, {})

    def handle_call(self, request: Any, from_: Any, state: _State) -> Any:
        match request:
            case ("call", args, kwargs):
                return _then(state.run(args, kwargs), Reply)
            case ("exec", function, args, kwargs):
                return _then(function(*args, **kwargs), Reply)
            case ("query", what):
                _tell(from_, getattr(state, what))
                return NoReply()
        return super().handle_call(request, from_, state)

    def handle_cast(self, request: Any, state: _State) -> Any:
        match request:
            case ("cast", args, kwargs):
                return _then(state.run(args, kwargs), lambda _: NoReply())
            case ("become", function, args):
                state.function, state.args, state.kwargs = function, args, {}
            case ("update", args, kwargs):
                state.args, state.kwargs = args, {**state.kwargs, **kwargs}
            case _:
                return super().handle_cast(request, state)
        return NoReply()


def _tell(from_: Any, value: object) -> None:
    """Answer a query. That somebody asks for what can't travel is no reason to end."""
    try:
        reply(from_, (True, value))
    except NotPicklable as error:
        reply(from_, (False, error))


def _then(result: Any, returned: Callable[[Any], Any]) -> Any:
    """`returned(result)`, of an `async def` when it is there."""
    return _awaited(result, returned) if type(result) is CoroutineType else returned(result)


async def _awaited(result: Coroutine[Any, Any, Any], returned: Callable[[Any], Any]) -> Any:
    return returned(await result)


@dataclass(frozen=True)
class BehaviourRef(Generic[P, R]):
    """A reference to a `Behaviour`: `P` is what a message has to bring, `R` what it gives (Actors.jl: `Link`).

    Compares and hashes by what it addresses, travels in messages, and is accepted where a pid is.

    Fields:
        address: the pid, or a registered name, which is looked up at each call.
        timeout: how long `call`, `exec` and `query` wait, in seconds; None: as long as it lives. They raise as
            `parallel_actors.call` does: `CallTimeout`, `NoProc`, `NodeDown`, `RemoteError`, `CallingSelf`.
    """

    address: Pid | str
    timeout: float | None = 5.0

    @property
    def __pid__(self) -> Pid:
        pid = api.whereis(self.address) if isinstance(self.address, str) else self.address
        if pid is None:
            raise NotRegistered(f"expected an actor called {self.address!r}, got none: no process has this name")
        return pid

    def options(self, *, timeout: float | None) -> BehaviourRef[P, R]:
        """The same with another time-out."""
        return BehaviourRef(self.address, timeout)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Have the function called, and wait for what it gives (Actors.jl: `call`)."""
        found: R = call(self.address, ("call", args, kwargs), self.timeout)
        return found

    async def acall(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """`call` for `async def` bodies, and for asyncio."""
        found: R = await ask(self.address, ("call", args, kwargs), self.timeout)
        return found

    def request(self, *args: P.args, **kwargs: P.kwargs) -> Request[R]:
        """`call`, and wait later: `request.wait(timeout)` (Actors.jl: `request`)."""
        return send_request(self.address, ("call", args, kwargs))

    def cast(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have the function called, and go on; `query("result")` tells what it gave (Actors.jl: `cast`)."""
        cast(self.address, ("cast", args, kwargs))

    @overload
    def become(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> None: ...
    @overload
    def become(self, function: Callable[P, R], /) -> None: ...
    @overload
    def become(self, function: Callable[Concatenate[A, P], Coroutine[Any, Any, R]], first: A, /) -> None: ...
    @overload
    def become(self, function: Callable[Concatenate[A, P], R], first: A, /) -> None: ...
    @overload
    def become(self, function: Callable[Concatenate[A, B, P], R], first: A, second: B, /) -> None: ...
    def become(self, function: Callable[..., Any], /, *args: Any) -> None:
        """Have messages that are sent from now on call another function (Actors.jl: `become!`).

        Raises:
            TypeError: for a `function` that can't be called.
            NotPicklable: for one that can't leave its process.
        """
        _check(function)
        cast(self.address, ("become", function, args))

    @overload
    def exec(self, function: Callable[Q, Coroutine[Any, Any, T]], /, *args: Q.args, **kwargs: Q.kwargs) -> T: ...
    @overload
    def exec(self, function: Callable[Q, T], /, *args: Q.args, **kwargs: Q.kwargs) -> T: ...
    def exec(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Have the actor call any function, once, between two messages; what it gives (Actors.jl: `exec`).

        Its own function stays, and isn't asked. What `function` raises ends the actor.
        """
        _check(function)
        return call(self.address, ("exec", function, args, kwargs), self.timeout)

    @overload
    def query(self, what: Literal["result"]) -> R | None: ...
    @overload
    def query(self, what: Literal["args"] = "args") -> tuple[Any, ...]: ...
    @overload
    def query(self, what: Literal["kwargs"]) -> dict[str, Any]: ...
    @overload
    def query(self, what: Literal["function"]) -> Callable[..., Any]: ...
    def query(self, what: str = "args") -> Any:
        """What the actor holds (Actors.jl: `query`): a copy.

        Args:
            what: "args", the arguments that stand before those of a message; "kwargs", the keywords that `update` has
                given; "function"; "result", what the last message gave, None before the first.

        Raises:
            NotPicklable: for what can't travel. The actor goes on.
        """
        if what not in _WHAT:
            raise ValueError(f"expected one of {', '.join(_WHAT)}, got {what!r}")
        fine, value = call(self.address, ("query", what), self.timeout)
        if not fine:
            raise value
        return value

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Give the function other arguments, for messages that are sent from now on (Actors.jl: `update!` with `Args`).

        Args:
            args: stand before those of a message, in the place of the former ones.
            kwargs: are added to the keywords, which those of a message override.
        """
        cast(self.address, ("update", args, kwargs))
