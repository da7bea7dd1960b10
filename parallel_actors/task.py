"""Task: one function in a process of its own, and its result (Elixir's `Task`).

    async_ -> launch(_run): the task is linked and monitored -> it sends (ref, result) to `ref`, an alias of its owner
    await_ -> the first of (ref, result), Down(ref, ...)

Whoever waits takes the answer that was sent before the end, or else the reason of the end: nothing is asked twice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, cast, overload

from parallel_actors.gen_server import failed_with, launch
from parallel_actors.process import is_whole
from parallel_actors.request import Done, Failed, Pending
from parallel_actors.workers import api
from parallel_actors.workers.errors import ActorError, CallTimeout, NotRunning
from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.patterns import ANY
from parallel_actors.workers.reasons import Down, Exit

__all__ = ["Task", "callers"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
V = TypeVar("V")

_CALLERS = "$callers"


def callers() -> tuple[Pid, ...]:
    """The pids on whose behalf the calling process works, the nearest first (Elixir: `$callers`).

    A task's owner and its callers; for a task of a supervisor it isn't the parent. Empty for what is no task.
    """
    found: tuple[Pid, ...] = api.process_dict().get(_CALLERS, ())
    return found


def on_behalf() -> tuple[Pid, ...]:
    """What `callers` says in a task that the calling process starts."""
    return (api.self_(), *callers())


def run(ref: Ref, behalf: tuple[Pid, ...], function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Be a task: call the function, and send its result to `ref`."""
    api.process_dict()[_CALLERS] = behalf
    result = function(*args, **kwargs)
    if type(result) is CoroutineType:
        return _answer(ref, result)
    api.send(ref, (ref, result))
    return None


async def _answer(ref: Ref, result: Coroutine[Any, Any, Any]) -> None:
    api.send(ref, (ref, await result))


def ref_in(message: Any, waiting: Mapping[Ref, object]) -> Ref | None:
    """Which of those that somebody waits for `message` is the answer or the end of."""
    if type(message) is tuple:
        found = message[0] if len(message) == 2 else None
    else:
        found = message.ref if type(message) is Down else None
    return found if type(found) is Ref and found in waiting else None


def run_alone(behalf: tuple[Pid, ...], function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    api.process_dict()[_CALLERS] = behalf
    return function(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Task(Pending[T]):
    """A function that runs in a process of its own (Elixir: `Task`); made by `Task.async_`, for the caller alone.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=2):
    ...     tasks = [pa.Task.async_(pow, 2, n) for n in range(4)]
    ...     [task.await_() for task in tasks]
    [1, 2, 4, 8]

    Fields:
        pid: the process.
        ref: what its answer and its end come with.
        owner: who started it, and alone may wait for it.
    """

    # --- start ---

    @overload
    @staticmethod
    def async_(function: Callable[P, Coroutine[Any, Any, V]], /, *args: P.args, **kwargs: P.kwargs) -> Task[V]: ...
    @overload
    @staticmethod
    def async_(function: Callable[P, V], /, *args: P.args, **kwargs: P.kwargs) -> Task[V]: ...
    @staticmethod
    def async_(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[Any]:
        """Have a process, linked to the caller, call `function`, and go on (Elixir: `Task.async/1,3`).

        `await_`, `yield_` or `shutdown` it: its answer waits in the mailbox otherwise. If it fails, so does the caller,
        as by any link. An `async def` runs as an async body. Tasks spread over the workers, the least loaded first.

        Raises:
            NotPicklable: for a function or arguments that can't leave their process.
        """
        return start(function, args, kwargs, linked=True)

    @staticmethod
    def start(function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Pid:
        """Have a process call `function`, whose result nobody wants (Elixir: `Task.start/1,3`)."""
        return api.spawn(run_alone, on_behalf(), function, args, kwargs)

    @staticmethod
    def start_link(function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Pid:
        """As `start`, linked to the caller: for a supervisor's child, say (Elixir: `Task.start_link/1,3`)."""
        return api.spawn_link(run_alone, on_behalf(), function, args, kwargs)

    # --- wait ---

    def await_(self, timeout: float | None = 5.0) -> T:
        """The result (Elixir: `Task.await/2`). Once.

        Args:
            timeout: seconds to wait at most; None: until it ends.

        Raises:
            CallTimeout: it takes longer. It runs on, and its answer is dropped; uncaught, this ends the caller, and by
                its link the task.
            RemoteError: it ended without a result (and the caller traps exits, or isn't linked).
            NodeDown: its worker died.
            ActorError: the caller isn't its owner.
        """
        answer = self._wait(timeout)
        if answer is None:
            self._forget()
            raise CallTimeout(
                f"task {self.pid!r} has no result after {timeout} s\n"
                "  it runs on unless the caller ends; shutdown() ends it",
                target=self.pid,
                elapsed=timeout,
            )
        return self._result(answer)

    def yield_(self, timeout: float | None = 5.0) -> Done[T] | Failed | None:
        """Look whether it has ended: what with, or None if it hasn't within the time (Elixir: `Task.yield/2`)."""
        answer = self._wait(timeout)
        return None if answer is None else self._ended(answer)

    def shutdown(self, timeout: float | Literal["brutal_kill"] | None = 5.0) -> Done[T] | Failed | None:
        """End it: its result if it came to one, else None (Elixir: `Task.shutdown/2`).

        Args:
            timeout: seconds from the exit signal `shutdown` to the kill; "brutal_kill": none; None: no kill.

        Returns:
            `Done(value)`; None where it ended as it was asked to; `Failed(reason)` where it ended otherwise: it had
            failed before, its time was up ("killed"), or its end was known already ("noproc").
        """
        self._check_owner()
        api.unlink(self.pid)
        api.receive(Exit(self.pid, ANY), timeout=0, default=None)
        kill = timeout == "brutal_kill"
        answer = self._wait(0)
        if answer is None:
            watch = api.monitor(self.pid)  # of one that was waited for already, nothing else tells
            try:
                api.exit(self.pid, "kill" if kill else "shutdown")
                answer = self._wait_or_end(watch, None if kill else cast("float | None", timeout))
                if answer is None:
                    api.exit(self.pid, "kill")
                    answer = self._wait_or_end(watch, None)
            finally:
                api.demonitor(watch, flush=True)
        ended = self._ended(answer)
        # An end that was asked for is no failure; one that took the kill is.
        wanted = "killed" if kill else "shutdown"
        asked_for = isinstance(ended, Failed) and isinstance(ended.reason, str) and ended.reason == wanted
        return None if asked_for else ended

    def ignore(self) -> Done[T] | Failed | None:
        """Let it run on by itself, unlinked: what it has ended with if it has, else None (Elixir: `Task.ignore/1`)."""
        self._check_owner()
        api.unlink(self.pid)
        api.receive(Exit(self.pid, ANY), timeout=0, default=None)
        answer = self._wait(0)
        if answer is not None:
            return self._ended(answer)
        self._forget()
        return None

    @staticmethod
    def await_many(tasks: Iterable[Task[R]], timeout: float | None = 5.0) -> list[R]:
        """The results of all, in order, within one time (Elixir: `Task.await_many/2`).

        Raises as `await_`, for the first that fails, whichever that is. The others run on then, and their answers are
        dropped; uncaught, it ends the caller, and them by their links.
        """
        wanted = list(tasks)
        for each in wanted:
            each._check_owner()
        until = None if timeout is None else time.monotonic() + timeout
        by_ref = {each.ref: each for each in wanted}
        if until is None:
            # Of one that was waited for already nothing comes any more, but the end of its process does.
            by_ref |= {api.monitor(each.pid): each for each in wanted}
        results: dict[Ref, R] = {}
        try:
            while any(each.ref not in results for each in wanted):
                answer = api.receive(
                    lambda message: ref_in(message, by_ref) is not None,
                    timeout=None if until is None else max(0.0, until - time.monotonic()),
                    default=None,
                )
                if answer is None:
                    late = next(each for each in wanted if each.ref not in results)
                    raise CallTimeout(
                        f"task {late.pid!r} has no result after {timeout} s; {len(results)} of {len(wanted)} have one",
                        target=late.pid,
                        elapsed=timeout,
                    )
                each = by_ref[cast("Ref", ref_in(answer, by_ref))]
                if each.ref not in results:
                    results[each.ref] = each._result(answer)
        finally:
            for ref, each in by_ref.items():
                if ref != each.ref:
                    api.demonitor(ref, flush=True)
                elif ref not in results:
                    each._forget()
        return [results[each.ref] for each in wanted]

    @staticmethod
    def yield_many(tasks: Iterable[Task[R]], timeout: float | None = 5.0) -> list[Done[R] | Failed | None]:
        """What each has ended with, None for those that haven't within the one time (Elixir: `Task.yield_many/2`)."""
        until = None if timeout is None else time.monotonic() + timeout
        return [each.yield_(None if until is None else max(0.0, until - time.monotonic())) for each in tasks]

    # --- many ---

    @overload
    @staticmethod
    def async_stream(
        function: Callable[[V], Coroutine[Any, Any, R]],
        items: Iterable[V],
        /,
        *,
        max_concurrency: int | None = None,
        ordered: bool = True,
        timeout: float | None = 5.0,
        on_timeout: Literal["exit"] = "exit",
    ) -> Iterator[R]: ...
    @overload
    @staticmethod
    def async_stream(
        function: Callable[[V], R],
        items: Iterable[V],
        /,
        *,
        max_concurrency: int | None = None,
        ordered: bool = True,
        timeout: float | None = 5.0,
        on_timeout: Literal["exit"] = "exit",
    ) -> Iterator[R]: ...
    @overload
    @staticmethod
    def async_stream(
        function: Callable[[V], Coroutine[Any, Any, R]],
        items: Iterable[V],
        /,
        *,
        max_concurrency: int | None = None,
        ordered: bool = True,
        timeout: float | None = 5.0,
        on_timeout: Literal["kill_task"],
    ) -> Iterator[Done[R] | Failed]: ...
    @overload
    @staticmethod
    def async_stream(
        function: Callable[[V], R],
        items: Iterable[V],
        /,
        *,
        max_concurrency: int | None = None,
        ordered: bool = True,
        timeout: float | None = 5.0,
        on_timeout: Literal["kill_task"],
    ) -> Iterator[Done[R] | Failed]: ...
    @staticmethod
    def async_stream(
        function: Callable[[Any], Any],
        items: Iterable[Any],
        /,
        *,
        max_concurrency: int | None = None,
        ordered: bool = True,
        timeout: float | None = 5.0,
        on_timeout: Literal["exit", "kill_task"] = "exit",
    ) -> Iterator[Any]:
        """The results of `function(item)` for each item, each in a task (Elixir: `Task.async_stream/3,5`).

        Lazy: items are taken as results are, so that never more than `max_concurrency` tasks are under way or have a
        result waiting. Leaving the loop ends the tasks that are left; so does the end of the iterator, wherever it is
        closed or collected. Who takes the first result takes them all.

        >>> import parallel_actors as pa
        >>> with pa.ActorSystem(workers=2):
        ...     list(pa.Task.async_stream(abs, [-1, -2, -3], max_concurrency=2))
        [1, 2, 3]

        Args:
            max_concurrency: by default as many as there are workers.
            ordered: give results in the order of the items; otherwise as they come.
            timeout: seconds for each item; None: any time.
            on_timeout: "exit": raise CallTimeout in the caller; "kill_task": kill the task, and give
                `Failed("timeout")`; results come as `Done(value)` then.

        Raises:
            As `await_`, at the item concerned, and what `items` raises. ActorError: in another process.
        """
        if on_timeout not in ("exit", "kill_task"):
            raise ValueError(f'expected on_timeout to be "exit" or "kill_task", got {on_timeout!r}')
        wrapped = on_timeout == "kill_task"
        return stream(
            lambda item, enlist: enlist(start(function, (item,), {}, linked=True)),
            items,
            max_concurrency,
            ordered=ordered,
            timeout=timeout,
            kill=wrapped,
            wrapped=wrapped,
        )

    def _what(self) -> str:
        return f"task {self.pid!r}"


def start(function: Callable[..., Any], args: Any, kwargs: Any, *, linked: bool) -> Task[Any]:
    """`Task.async_`, linked or not."""
    if not callable(function):
        raise TypeError(f"expected a function to run as a task, got {function!r} ({type(function).__name__})")
    pid, ref = launch(linked, run, (on_behalf(), function, args, kwargs), {})
    return Task(pid, ref, api.self_())


# Starts the task of an item, and hands it to the second argument, before it begins where nothing links it to the owner.
Begin: TypeAlias = Callable[[Any, Callable[["Task[Any]"], None]], object]


def stream(
    begin: Begin,
    items: Iterable[Any],
    max_concurrency: int | None,
    *,
    ordered: bool,
    timeout: float | None,
    kill: bool,
    wrapped: bool,
    linked: bool = True,
) -> Iterator[Any]:
    """What `async_stream` gives; the tasks are started by `begin`, linked or not."""
    most = api.worker_count() if max_concurrency is None else max_concurrency
    if not is_whole(most, 1):
        raise ValueError(f"expected max_concurrency to be a whole number from 1, got {max_concurrency!r}")
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"expected timeout to be a number of seconds or None, got {timeout!r}")
    return _stream(
        begin, iter(items), most, ordered=ordered, timeout=timeout, kill=kill, wrapped=wrapped, linked=linked
    )


@dataclass(slots=True)
class _Item:
    task: Task[Any]
    until: float | None
    ended: Done[Any] | Failed | None = None


def _stream(
    begin: Begin,
    items: Iterator[Any],
    most: int,
    *,
    ordered: bool,
    timeout: float | None,
    kill: bool,
    wrapped: bool,
    linked: bool,
) -> Iterator[Any]:
    owner = api.self_()  # who takes the first result
    window: deque[_Item] = deque()  # begun, in order, their results not yet given
    running: dict[Ref, _Item] = {}
    more = True

    def enlist(task: Task[Any]) -> None:
        begun = _Item(task, None if timeout is None else time.monotonic() + timeout)
        running[task.ref] = begun
        window.append(begun)

    try:
        while True:
            if api.self_() != owner:
                raise ActorError(
                    f"expected {owner!r}, who took the first result of a stream, to take the next one; got "
                    f"{api.self_()!r}: have it send on what it gets"
                )
            while more and len(window) < most:
                try:
                    item = next(items)
                except StopIteration:
                    more = False
                    break
                begin(item, enlist)
            if not window:
                return
            ready = window[0] if window[0].ended is not None or ordered else None
            if ready is None:
                ready = next((each for each in window if each.ended is not None), None)
            if ready is None or ready.ended is None:
                _next_end(window, running, timeout, kill=kill)
                continue
            window.remove(ready)
            if wrapped:
                yield ready.ended
            elif isinstance(ready.ended, Failed):
                raise failed_with(f"task {ready.task.pid!r}", ready.ended.reason, ready.task.pid)
            else:
                yield ready.ended.value
    finally:
        _end(owner, running, linked=linked)


def _end(owner: Pid, running: dict[Ref, _Item], *, linked: bool) -> None:
    """End the tasks that are left of a stream. It may be closed anywhere: in a finalizer, in another process."""
    try:
        while running and api.self_() == owner:
            ref = next(iter(running))
            running[ref].task.shutdown("brutal_kill")
            del running[ref]
    except NotRunning:
        running.clear()  # the system has ended, and everybody with it
    finally:  # also where the owner is being killed
        if running and not api.call_off(owner, [(each.task.pid, ref) for ref, each in running.items()]) and not linked:
            # The owner is another thread. Tasks that are linked to it would take it along: they end by themselves.
            for each in running.values():
                api.exit(each.task.pid, "kill")


def _next_end(window: deque[_Item], running: dict[Ref, _Item], timeout: float | None, *, kill: bool) -> None:
    """Wait for one more task to end, or for its time to be up."""
    first = min(running.values(), key=lambda each: each.until or 0.0) if timeout is not None else None
    seconds = None if first is None or first.until is None else max(0.0, first.until - time.monotonic())

    answer = api.receive(lambda message: ref_in(message, running) is not None, timeout=seconds, default=None)
    if answer is not None:
        each = running.pop(cast("Ref", ref_in(answer, running)))
        each.ended = each.task._ended(answer)
        # Who traps exits would have as many of them in its mailbox as there are items.
        api.unlink(each.task.pid)
        api.receive(Exit(each.task.pid, ANY), timeout=0, default=None)
        return
    assert first is not None
    if not kill:
        raise CallTimeout(
            f"task {first.task.pid!r} has no result after {timeout} s, and ends with the others of its stream",
            target=first.task.pid,
            elapsed=timeout,
        )
    del running[first.task.ref]
    first.ended = first.task.shutdown("brutal_kill") or Failed("timeout")
