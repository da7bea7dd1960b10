"""TaskSupervisor: tasks that a supervisor stops, and whose failure needn't be their owner's (`Task.Supervisor`).

async_nolink -> start_child(_wait_for_owner) in the supervisor -> the owner monitors, then sends ("$task", ref)
             -> the task begins; its answer is (ref, result), as that of any `Task`
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Unpack, overload

from parallel_actors.dynamic_supervisor import DynamicSupervisor, TaskOptions, crowd_of
from parallel_actors.names import Via
from parallel_actors.process import options
from parallel_actors.request import Done, Failed
from parallel_actors.supervisor import ChildSpec, ask
from parallel_actors.task import Task, on_behalf, run, run_alone, stream
from parallel_actors.workers import api
from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.patterns import ANY
from parallel_actors.workers.reasons import Down

if TYPE_CHECKING:
    from parallel_actors.gen_server import Server

__all__ = ["TaskSupervisor"]

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")

_GO = "$task"


class TaskSupervisor(DynamicSupervisor):
    """A supervisor of tasks (Elixir: `Task.Supervisor`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     jobs = pa.TaskSupervisor.start_link()
    ...     task = pa.TaskSupervisor.async_nolink(jobs, int, "no number")
    ...     task.yield_(10).reason.type
    'ValueError'
    """

    @staticmethod
    def start_link(  # type: ignore[override]
        *, name: str | Via | None = None, **choices: Unpack[TaskOptions]
    ) -> Pid:
        """Start one without tasks (Elixir: `Task.Supervisor.start_link/1`). Options as for `DynamicSupervisor`."""
        crowd_of(**choices)
        pid = options(name=name).start_link(TaskSupervisor, **choices)
        assert pid is not None
        return pid

    @overload
    @staticmethod
    def async_(
        supervisor: Server, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[T]: ...
    @overload
    @staticmethod
    def async_(supervisor: Server, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...
    @staticmethod
    def async_(supervisor: Server, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[Any]:
        """`Task.async_`, as a child of `supervisor`, linked to the caller too (Elixir: `Task.Supervisor.async/2,4`).

        Raises:
            ChildError: there are `max_children`.
            NoProc, NodeDown, NotPicklable: there is no such supervisor; the function can't leave its process.
        """
        return _start(supervisor, function, args, kwargs, linked=True)

    @overload
    @staticmethod
    def async_nolink(
        supervisor: Server, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[T]: ...
    @overload
    @staticmethod
    def async_nolink(supervisor: Server, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...
    @staticmethod
    def async_nolink(supervisor: Server, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[Any]:
        """As `async_`, but the caller outlives its failure (Elixir: `Task.Supervisor.async_nolink/2,4`)."""
        return _start(supervisor, function, args, kwargs, linked=False)

    @staticmethod
    def start_child(  # type: ignore[override]
        supervisor: Server,
        function: Callable[..., Any],
        /,
        *args: Any,
        restart: Literal["permanent", "transient", "temporary"] = "temporary",
        shutdown: float | Literal["brutal_kill", "infinity"] = 5.0,
        **kwargs: Any,
    ) -> Pid:
        """Have a child call `function`, whose result nobody wants (Elixir: `Task.Supervisor.start_child/2,3`).

        Raises:
            ChildError: there are `max_children`.
        """
        return _child(supervisor, run_alone, (on_behalf(), function, args, kwargs), restart, shutdown)

    @staticmethod
    def children(supervisor: Server) -> list[Pid]:
        """The pids of its tasks (Elixir: `Task.Supervisor.children/1`)."""
        return [info.pid for info in DynamicSupervisor.which_children(supervisor) if info.pid is not None]

    @staticmethod
    def async_stream(
        supervisor: Server,
        function: Callable[[V], T],
        items: Iterable[V],
        /,
        *,
        max_concurrency: int | None = None,
        ordered: bool = True,
        timeout: float | None = 5.0,
    ) -> Iterator[T]:
        """`Task.async_stream`, its tasks children of `supervisor` (Elixir: `Task.Supervisor.async_stream/4,6`)."""
        return stream(
            lambda item, enlist: _start(supervisor, function, (item,), {}, linked=True, enlist=enlist),
            items,
            max_concurrency,
            ordered=ordered,
            timeout=timeout,
            kill=False,
            wrapped=False,
        )

    @staticmethod
    def async_stream_nolink(
        supervisor: Server,
        function: Callable[[V], T],
        items: Iterable[V],
        /,
        *,
        max_concurrency: int | None = None,
        ordered: bool = True,
        timeout: float | None = 5.0,
        on_timeout: Literal["exit", "kill_task"] = "exit",
    ) -> Iterator[Done[T] | Failed]:
        """As `async_stream`, but a task's failure is a result, `Failed(reason)`, beside the others' `Done(value)`."""
        if on_timeout not in ("exit", "kill_task"):
            raise ValueError(f'expected on_timeout to be "exit" or "kill_task", got {on_timeout!r}')
        return stream(
            lambda item, enlist: _start(supervisor, function, (item,), {}, linked=False, enlist=enlist),
            items,
            max_concurrency,
            ordered=ordered,
            timeout=timeout,
            kill=on_timeout == "kill_task",
            wrapped=True,
            linked=False,
        )


def _child(supervisor: Server, body: Callable[..., Any], args: tuple[Any, ...], restart: Any, shutdown: Any) -> Pid:
    pid: Pid = ask(supervisor, "start_child", ChildSpec("task", body, args, restart=restart, shutdown=shutdown))
    return pid


def _start(
    supervisor: Server,
    function: Callable[..., Any],
    args: Any,
    kwargs: Any,
    *,
    linked: bool,
    enlist: Callable[[Task[Any]], object] = lambda _: None,
) -> Task[Any]:
    """`enlist` gets the task before it may begin: whenever its owner is killed, it is on the list or never begins."""
    if not callable(function):
        raise TypeError(f"expected a function to run as a task, got {function!r} ({type(function).__name__})")
    me = api.self_()
    pid = _child(supervisor, _wait_for_owner, (me, on_behalf(), function, args, kwargs), "temporary", 5.0)
    ref = api.monitor(pid, alias=True)
    if linked:
        api.link(pid)
    task: Task[Any] = Task(pid, ref, me)
    enlist(task)
    api.send(pid, (_GO, me, ref))
    return task


def _wait_for_owner(owner: Pid, behalf: tuple[Pid, ...], function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    watch = api.monitor(owner)
    told = api.receive((_GO, owner, Ref), Down(watch, ANY, ANY))
    api.demonitor(watch, flush=True)
    if isinstance(told, Down):
        return None  # its owner has ended before it could begin
    return run(told[2], behalf, function, args, kwargs)
