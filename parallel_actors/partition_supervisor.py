"""PartitionSupervisor: one child per partition, found by a key (Elixir's `PartitionSupervisor`).

name = "shards", partitions = 8 -> the children are registered as "shards/0" ... "shards/7"
whereis("shards", key) -> the pid behind "shards/<partition of key>": one look into shared memory, no message
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, Unpack

from parallel_actors.checkpoint import Carry
from parallel_actors.process import is_whole, options
from parallel_actors.supervisor import ChildSpec, Strategies, Supervisor, spec_of, tree_of
from parallel_actors.workers import api
from parallel_actors.workers.codec import dumps
from parallel_actors.workers.errors import NoProc
from parallel_actors.workers.ident import Pid

__all__ = ["PartitionSupervisor", "partition_of"]

_COUNT = "$partitions"

# Of supervisors that this worker has asked: their numbers of partitions, which never change.
_partitions: dict[Pid, int] = {}


def partition_of(key: object, partitions: int) -> int:
    """The partition of a key, the same on every worker and in every run: of an int its remainder, else of a checksum.

    >>> partition_of(13, 8), partition_of("a", 8) == partition_of("a", 8)
    (5, True)

    Raises:
        NotPicklable: for a key that can't be pickled.
    """
    if isinstance(key, int):
        return int(key) % partitions
    data = key.encode() if isinstance(key, str) else bytes(key) if isinstance(key, bytes) else dumps(key)
    return zlib.crc32(data) % partitions


class PartitionSupervisor(Supervisor):
    """Starts the same child once per partition, so that one busy process becomes several (Elixir's module).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=2):
    ...     sup = pa.PartitionSupervisor.start_link(pa.child(pa.GenServer, "state"), name="shards", partitions=4)
    ...     pa.PartitionSupervisor.whereis("shards", "a key") == pa.PartitionSupervisor.whereis("shards", "a key")
    True
    """

    @staticmethod
    def start_link(  # type: ignore[override]
        of: Any,
        *,
        name: str,
        partitions: int | None = None,
        with_arguments: Callable[[tuple[Any, ...], int], tuple[Any, ...]] | None = None,
        **choices: Unpack[Strategies],
    ) -> Pid:
        """Start it and its children, whose ids are 0, 1, ...

        Args:
            of: the child: `child(...)` without a name, a class, or `(class, *args)`. The children go round the workers,
                the first on worker 0, also after restarts, so that those of a dead worker don't gather on the others.
                A `worker` in the spec puts all of them there.
            name: what it is registered as, and found by. The child of partition 3 is registered as `<name>/3`.
            partitions: how many; by default as many as there are workers.
            with_arguments: makes the arguments of each partition's child: `with_arguments(args, partition)`.
            strategy, max_restarts, max_seconds, backoff: as for `Supervisor.start_link`.

        Raises:
            As `Supervisor.start_link`.
        """
        # A bad one is refused here, where it was written.
        tree_of(_children(spec_of(of), name, partitions, with_arguments), **choices)
        pid = options(name=name).start_link(
            PartitionSupervisor, of, partitions=partitions, with_arguments=with_arguments, **choices
        )
        assert pid is not None
        return pid

    def init(self, *args: Any, **kwargs: Any) -> Any:
        return self._init(*args, **kwargs)

    def _init(
        self,
        of: Any,
        partitions: int | None = None,
        with_arguments: Callable[[tuple[Any, ...], int], tuple[Any, ...]] | None = None,
        **choices: Any,
    ) -> Any:
        name = api.process_info(api.self_(), "registered_name")
        if not isinstance(name, str):
            raise TypeError("expected a PartitionSupervisor to have a name: it is found by it")
        children = _children(spec_of(of), name, partitions, with_arguments)
        # For whoever looks a child up, from within its init too: the worker answers, not this process.
        api.process_dict()[_COUNT] = len(children)
        return self.supervise(children, **choices)

    @staticmethod
    def whereis(name: str, key: object) -> Pid:
        """The child that is responsible for `key`.

        Raises:
            NoProc: there is no such supervisor, or the child is just being restarted.
            NotPicklable: for a key that is no str, bytes or int, and can't be pickled.
        """
        partition = partition_of(key, PartitionSupervisor.partitions(name))
        pid = api.whereis(f"{name}/{partition}")
        if pid is None:
            raise NoProc(f"partition {partition} of {name!r} has no process: it is being restarted", reason="noproc")
        return pid

    @staticmethod
    def whereis_name(name: Hashable, /) -> Pid | None:
        """For `Via(PartitionSupervisor, (name, key))`, the name of the child that is responsible for `key`."""
        supervisor, key = _parts(name)
        return api.whereis(f"{supervisor}/{partition_of(key, PartitionSupervisor.partitions(supervisor))}")

    @staticmethod
    def register_name(name: Hashable, pid: Pid, /) -> None:
        """For `Via`: refuses. The children have their names already."""
        raise TypeError(
            f"expected a name for what is started here, got {name!r}: a PartitionSupervisor starts its children itself"
        )

    @staticmethod
    def partitions(name: str) -> int:
        """How many partitions there are.

        Raises:
            NoProc: there is no such supervisor.
        """
        pid = api.whereis(name)
        if pid is None:
            raise NoProc(f"expected the name of a PartitionSupervisor, got {name!r}: nobody has it", reason="noproc")
        found = _partitions.get(pid)
        if found is None:
            if len(_partitions) > 1000:
                _partitions.clear()
            found = (api.process_info(pid, "dictionary") or {}).get(_COUNT)
            if found is None:
                raise NoProc(
                    f"expected the name of a PartitionSupervisor, got {name!r}: {pid!r} is none", reason="noproc"
                )
            _partitions[pid] = found
        return found


def _parts(name: Any) -> tuple[str, object]:
    supervisor, key = name
    return supervisor, key


def _children(
    spec: ChildSpec,
    name: str,
    partitions: int | None,
    with_arguments: Callable[[tuple[Any, ...], int], tuple[Any, ...]] | None,
) -> list[ChildSpec]:
    workers = api.worker_indices()
    if partitions is None:
        partitions = len(workers)
    if not is_whole(partitions, 1):
        raise ValueError(f"expected partitions to be a whole number from 1, got {partitions!r}")
    if spec.name is not None:
        raise ValueError(f"expected the child of a PartitionSupervisor to have no name, got {spec.name!r}")
    return [
        replace(
            spec,
            id=number,
            args=spec.args if with_arguments is None else with_arguments(spec.args, number),
            name=f"{name}/{number}",
            worker=workers[number % len(workers)] if spec.worker is None else spec.worker,
            carry_state=_carry_of(spec, number),
        )
        for number in range(partitions)
    ]


def _carry_of(spec: ChildSpec, number: int) -> Carry | None:
    """Each partition has a checkpoint of its own."""
    carry = spec.carry_state
    return carry if carry is None or carry.key is None else replace(carry, key=f"{carry.key}/{number}")
