"""More workers, or fewer, while the node runs; and how busy each of them is.

    add_worker() -> ("add_worker", ref) to the root -> a free slot, `_start_worker` -> "ready" -> (ref, True, index)
    remove_worker(1) -> ("remove_worker", ref, 1, timeout) to the root -> the slot's flag "leaving": nobody is placed
        there any more -> STOP with phase 0 to the worker -> it sends its processes away, and ends when none runs there
        -> (ref, True, None); the root forwards what comes for those that have moved

The root does it (`root/node.py`) and answers to an alias of whoever asked. Nothing here knows how many workers there
are: their slots do (`Segment.worker_indices`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parallel_actors.process import is_whole
from parallel_actors.workers import api
from parallel_actors.workers.errors import ActorError, NotRunning
from parallel_actors.workers.ident import Ref
from parallel_actors.workers.patterns import ANY
from parallel_actors.workers.scheduler import current_scheduler

__all__ = ["WorkerLoad", "aadd_worker", "add_worker", "aremove_worker", "remove_worker", "worker_loads"]


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """How much one worker has to do."""

    processes: int
    """Processes that live there."""

    queue: int
    """Of them, those that wait for their turn."""

    busy: float
    """The part of the last second that the worker was awake, 0 to 1. In a call of native code, which nobody can look
    into, it counts as idle until the call returns: then all of it is added at once."""


def add_worker() -> int:
    """Start one more worker; returns its number when it is up (OTP's nearest: `schedulers_online`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     new = pa.add_worker()
    ...     pa.worker_indices(), pa.process_info(pa.options(worker=new).spawn(pa.receive), "worker")
    ([0, 1], 1)

    It is a worker like any other: new processes are placed there, and it is replaced when it dies. Servers that live
    already move there when it is idle and theirs has too much to do (`rebalance`). More workers than cores are allowed:
    they share the cores, and the log says so.

    Raises:
        ActorError: there are `max_workers` of them already, or the new one could not be started.
        NotRunning: the system stops.
    """
    ref = _asked("add_worker")
    try:
        return _index(api.receive((ref, ANY, ANY)))
    finally:
        api.unalias(ref)


async def aadd_worker() -> int:
    """`add_worker`, for `async def` bodies and for asyncio."""
    ref = _asked("add_worker")
    try:
        return _index(await api.areceive((ref, ANY, ANY)))
    finally:
        api.unalias(ref)


def remove_worker(worker: int, /, *, timeout: float | None = 5.0) -> None:
    """Have a worker leave the node; returns when it has ended.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=2):
    ...     pa.remove_worker(1)
    ...     pa.worker_indices()
    [0]

    From now on no process is placed there: what its processes spawn lives elsewhere, `options(worker=...)` refuses it.
    Its GenServers, typed actors and other callback processes move to the other workers, between two messages: their
    pids, names, links, monitors, timers and mail stay good. It ends when nobody runs there any more. Those that are
    still there after `timeout` seconds (whose bodies are functions, or that have an alias, a limited mailbox, or state
    that can't be pickled) get the exit signal `shutdown`, and what is left `stop_timeout` later is killed. Its place is
    free for another `add_worker` when all that were spawned there have ended.

    Args:
        worker: its number, as in `worker_indices()`.
        timeout: seconds; None waits for its processes without end.

    Raises:
        ValueError: there is no such worker, or it is leaving already.
        ActorError: it is the last one.
        NotRunning: the system stops.

    A process that removes its own worker is one of those that it waits for. The `main` of `parallel-actors run` lives
    on worker 0, and the program ends with it. Timers that were started there go on.
    """
    ref = _asked("remove_worker", *_checked(worker, timeout))
    try:
        _nothing(api.receive((ref, ANY, ANY)))
    finally:
        api.unalias(ref)


async def aremove_worker(worker: int, /, *, timeout: float | None = 5.0) -> None:
    """`remove_worker`, for `async def` bodies and for asyncio."""
    ref = _asked("remove_worker", *_checked(worker, timeout))
    try:
        _nothing(await api.areceive((ref, ANY, ANY)))
    finally:
        api.unalias(ref)


def worker_loads() -> dict[int, WorkerLoad]:
    """How busy the workers are: the load of each, by its number.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=2):
    ...     sorted(pa.worker_loads())
    [0, 1]
    """
    ref = _asked("worker_loads")
    try:
        loads: list[tuple[int, int, int, float]] = _value(api.receive((ref, ANY, ANY)))
    finally:
        api.unalias(ref)
    return {index: WorkerLoad(processes, queue, busy) for index, processes, queue, busy in loads}


def _asked(what: str, *arguments: object) -> Ref:
    """Ask the root. Its answer comes to the alias that this returns: (ref, whether it is done, value or error)."""
    ref = api.alias()
    scheduler = current_scheduler()
    assert scheduler is not None  # whoever has an alias is a process
    scheduler.send_to_root((what, ref, *arguments))
    return ref


def _checked(worker: object, timeout: object) -> tuple[object, object]:
    if not is_whole(worker, 0):
        raise ValueError(f"expected worker to be the number of a worker (0, 1, ...), got {worker!r}")
    if timeout is not None and not (isinstance(timeout, (int, float)) and timeout >= 0):
        raise ValueError(f"expected timeout to be a number of seconds or None, got {timeout!r}")
    return worker, timeout


_ERRORS: dict[str, type[Exception]] = {"value": ValueError, "actor": ActorError, "stops": NotRunning}


def _value(answer: Any) -> Any:
    _, done, value = answer
    if not done:
        kind, text = value
        raise _ERRORS[kind](text)
    return value


def _index(answer: Any) -> int:
    index: int = _value(answer)
    return index


def _nothing(answer: Any) -> None:
    _value(answer)
