"""Agent: a process that keeps a state, and nothing else (Elixir's `Agent`).

    agent.get(f) -> a call of the typed actor `Agent` -> f(state), in the agent -> the result, a copy

It is an `Actor`: the reference has four calls and casts, which take functions. What they return, type checkers infer
from the function and from the type of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

from parallel_actors import gen_server
from parallel_actors.actor import Actor
from parallel_actors.request import Request
from parallel_actors.workers.ident import Pid

__all__ = ["Agent"]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
C = TypeVar("C", covariant=True)


if TYPE_CHECKING:
    # What stands behind `agent.get` and its like, as `BoundCall` behind other calls: its result depends on the
    # argument.

    class _Get(Protocol[C]):
        def __call__(self, function: Callable[[C], T], /) -> T: ...
        def options(self, *, timeout: float | None) -> _Get[C]: ...
        def request(self, function: Callable[[C], T], /) -> Request[T]: ...
        def aio(self, function: Callable[[C], T], /) -> Coroutine[Any, Any, T]: ...

    class _Update(Protocol[S]):
        def __call__(self, function: Callable[[S], S], /) -> None: ...
        def options(self, *, timeout: float | None) -> _Update[S]: ...
        def request(self, function: Callable[[S], S], /) -> Request[None]: ...
        def aio(self, function: Callable[[S], S], /) -> Coroutine[Any, Any, None]: ...

    class _GetAndUpdate(Protocol[S]):
        def __call__(self, function: Callable[[S], tuple[T, S]], /) -> T: ...
        def options(self, *, timeout: float | None) -> _GetAndUpdate[S]: ...
        def request(self, function: Callable[[S], tuple[T, S]], /) -> Request[T]: ...
        def aio(self, function: Callable[[S], tuple[T, S]], /) -> Coroutine[Any, Any, T]: ...


class Agent(Actor, Generic[S]):
    """A state that many processes read and change (Elixir: `Agent`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     words = pa.Agent.start_link(dict, one=1)
    ...     words.update(lambda state: state | {"two": 2})
    ...     words.get(len), words.get_and_update(lambda state: (state["one"], {}))
    (2, 1)

    Functions run in the agent, one at a time, in the order in which they come; a slow one keeps all others waiting, so
    do there only what needs the state. They travel as anything that is spawned: with copies of what they refer to. What
    they return is copied, too. A function that raises ends the agent, and the caller gets a `RemoteError`: a supervisor
    begins anew, with the first state.

    As a child: `child(Agent, dict, name="words")`; by name: `ref(Agent, "words")`. For a state with rules of its own
    write an `Actor`.
    """

    def __init__(self, function: Callable[P, S], /, *args: P.args, **kwargs: P.kwargs) -> None:
        self._state: S = function(*args, **kwargs)

    @staticmethod
    def start(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Agent[T]:
        """Start an agent whose state is `function(*args, **kwargs)`, computed there (Elixir: `Agent.start/2`).

        Raises:
            StartError: `function` failed.
        """
        started: Agent[T] = gen_server.start(Agent, function, *args, **kwargs)
        return started

    @staticmethod
    def start_link(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Agent[T]:
        """`start` and `link` in one step (`Agent.start_link/2`). Named: `options(name=...).start_link(Agent, f)`."""
        started: Agent[T] = gen_server.start_link(Agent, function, *args, **kwargs)
        return started

    @staticmethod
    def stop(agent: Agent[Any] | Pid | str, reason: object = "normal", timeout: float | None = None) -> None:
        """Have the agent end, and wait until it has (Elixir: `Agent.stop/3`). Raises as `parallel_actors.stop`."""
        gen_server.stop(agent, reason, timeout)

    if TYPE_CHECKING:

        @property
        def get(self) -> _Get[S]:
            """`agent.get(function)`: what `function(state)` returns (Elixir: `Agent.get/3`).

            Waits for 5 s; `agent.get.options(timeout=seconds)(function)` for as long as one likes. There are
            `get.request(function)` and `await agent.get.aio(function)` as for every call of an actor.

            Raises:
                CallTimeout, NoProc, NodeDown, RemoteError, CallingSelf, NotPicklable: as `call`.
            """
            raise NotImplementedError

        @property
        def update(self) -> _Update[S]:
            """`agent.update(function)`: the new state is `function(state)` (`Agent.update/3`). Raises as `get`."""
            raise NotImplementedError

        @property
        def get_and_update(self) -> _GetAndUpdate[S]:
            """`agent.get_and_update(function)`: the value, where `function(state)` is `(value, new state)`.

            Elixir: `Agent.get_and_update/3`. Raises as `get`.
            """
            raise NotImplementedError

        def cast(self, function: Callable[[S], S], /) -> None:
            """`update`, without waiting, whether the agent lives or not (Elixir: `Agent.cast/2`)."""

    else:

        @gen_server.call
        def get(self, function):
            return function(self._state)

        @gen_server.call
        def update(self, function):
            self._state = function(self._state)

        @gen_server.call
        def get_and_update(self, function):
            result = function(self._state)
            if not isinstance(result, tuple) or len(result) != 2:
                raise TypeError(f"expected the function to return (value, new state), got {result!r}")
            value, self._state = result
            return value

        @gen_server.cast
        def cast(self, function):
            self._state = function(self._state)
