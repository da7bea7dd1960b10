"""Every benchmark: its rows and what they are to reach, its workload and sizes, and the BEAM's counterpart.

A benchmark (a name of the command line) has one or more parts. A part runs in one go and gives one or more rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from parallel_actors.bench import io, machine, messages, moves, processes, tables
from parallel_actors.bench.figures import Row, above, at_least, at_most, below

__all__ = ["NAMES", "PARTS", "Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """What runs in one go.

    Fields:
        name: the benchmark that it belongs to.
        rows: its figures, in the order in which `ours` and the BEAM's test return them.
        ours: the workload, called with `params` as keywords.
        params: its sizes. `quick` overrides them for `--quick`.
        place: where `ours` runs: as a process on worker 0; in the command, with the running system as its first
            argument; in the command, without a system.
        beam: a test of `beam/bench.erl`, and the names of the parameters that it takes. Empty: no counterpart.
        timed: the test is a module of its own.
        schedulers: the BEAM's: one, two, or as many as workers.
        workers: how many it needs at least.
        fresh: each run has a system (and a BEAM) of its own.
        kills: it kills workers; the root's word on each is left out.
    """

    name: str
    rows: tuple[Row, ...]
    ours: Callable[..., list[float]]
    params: Mapping[str, int]
    quick: Mapping[str, int] = field(default_factory=dict)
    place: Literal["worker", "system", "command"] = "worker"
    beam: tuple[str, ...] = ()
    timed: bool = False
    schedulers: Literal["one", "two", "all"] = "one"
    workers: int = 1
    fresh: bool = False
    kills: bool = False


def _memory(body: int, row: Row, test: str) -> Part:
    return Part(
        "memory",
        (row,),
        processes.memory,
        {"body": body, "count": 100_000},
        {"count": 10_000},
        beam=(test, "count"),
        fresh=True,
    )


def _payload(row: Row, size: int, count: int, kind: int) -> Part:
    return Part(
        "payload",
        (row,),
        messages.payload,
        {"size": size, "count": count, "kind": kind},
        {"count": max(1, count // 10)},
        beam=("payload_shared" if kind == messages.SHARED else "payload_fresh", "size", "count"),
        schedulers="two",
        workers=2,
    )


def _shape(shape: int, name: str, worker: int) -> Part:
    kind = "transport" if worker else "isolation"
    return Part(
        "isolation",
        (Row(f"{kind}_{name}", "s"),),
        messages.isolation,
        {"shape": shape, "count": 100_000, "worker": worker},
        {"count": 10_000},
        beam=() if name == "object" else (kind, "shape", "count"),
        schedulers="two" if worker else "one",
        workers=2 if worker else 1,
    )


def _shared(rows: tuple[Row, ...], ours: Callable[..., list[float]], test: str, worker: int = 0) -> Part:
    return Part(
        "shared_state",
        rows,
        ours,
        {"count": 100_000, "worker": worker},
        {"count": 10_000},
        beam=(test, "count"),
        schedulers="two" if worker and test.startswith("server") else "one",
        workers=1 + worker,
    )


MIB = 1 << 20

# Seconds between two ticks, each of which may take the processor from a process.
TICK = 0.002

# Seconds that work waits for its own worker before others may take it, and that a thief may need then.
STEAL = 20e-6 + 20e-6

PARTS: tuple[Part, ...] = (
    _memory(2, Row("memory_callback", "B", at_most(0.3)), "memory_server"),
    _memory(1, Row("memory_async", "B", at_most(0.4)), "memory_process"),
    _memory(0, Row("memory_def", "B", at_most(3)), "memory_process"),
    Part(
        "memory",
        (Row("memory_actor", "B", at_most(0.3)),),
        processes.memory_actor,
        {"count": 50_000},
        {"count": 5_000},
        beam=("memory_supervised", "count"),
        fresh=True,
    ),
    Part(
        "spawn",
        (Row("spawn", "s", at_most(1)),),
        processes.spawn_all,
        {"count": 100_000},
        {"count": 10_000},
        beam=("spawn_all", "count"),
    ),
    Part(
        "spawn",
        (Row("spawn_and_end", "s"),),
        processes.spawn_and_end,
        {"count": 50_000, "worker": 0},
        {"count": 5_000},
        beam=("spawn_and_end", "count"),
    ),
    Part(
        "spawn",
        (Row("spawn_and_end_across", "s"),),
        processes.spawn_and_end,
        {"count": 5_000, "worker": 1},
        {"count": 500},
        workers=2,
    ),
    Part(
        "start_link",
        (Row("start_link", "s", at_most(1)),),
        processes.start_link,
        {"count": 50_000, "worker": 0},
        {"count": 5_000},
        beam=("start_link", "count"),
    ),
    Part(
        "start_link",
        (Row("start_link_across", "s"),),
        processes.start_link,
        {"count": 5_000, "worker": 1},
        {"count": 500},
        workers=2,
    ),
    Part(
        "cast",
        (Row("cast", "1/s", at_least(0.7)),),
        messages.cast,
        {"count": 1_000_000, "worker": 0},
        {"count": 100_000},
        beam=("cast", "count"),
    ),
    Part(
        "cast",
        (Row("cast_typed", "1/s", at_least(0.7)),),
        messages.cast_typed,
        {"count": 1_000_000, "worker": 0},
        {"count": 100_000},
        beam=("cast", "count"),
    ),
    Part(
        "call",
        (Row("call", "1/s", at_least(1)),),
        messages.call,
        {"count": 200_000},
        {"count": 20_000},
        beam=("call", "count"),
    ),
    Part(
        "call",
        (Row("call_typed", "1/s", at_least(1)),),
        messages.call_typed,
        {"count": 200_000},
        {"count": 20_000},
        beam=("call", "count"),
    ),
    Part(
        "ping_pong",
        (Row("ping_pong", "1/s", at_least(0.8)),),
        messages.ping_pong,
        {"count": 500_000},
        {"count": 50_000},
        beam=("ping_pong", "count"),
    ),
    Part(
        "ring",
        (Row("ring", "s", at_most(1)),),
        messages.ring,
        {"size": 503, "hops": 1_000_000},
        {"hops": 100_000},
        beam=("ring", "size", "hops"),
    ),
    Part(
        "fan_in",
        (Row("fan_in", "1/s", at_least(0.7)),),
        messages.fan_in,
        {"senders": 4, "each": 250_000},
        {"each": 25_000},
        beam=("fan_in", "senders", "each"),
    ),
    Part(
        "skynet",
        (Row("skynet", "s", at_most(1.5)),),
        processes.skynet,
        {"size": 1_000_000},
        {"size": 10_000},
        beam=("skynet", "size"),
        schedulers="all",
    ),
    Part(
        "cross_call",
        (
            Row("cross_call_rate", "1/s", at_least(1)),
            Row("cross_call_p50", "s", at_most(1)),
            Row("cross_call_p99", "s", at_most(1)),
        ),
        messages.cross_call,
        {"count": 50_000},
        {"count": 5_000},
        beam=("cross_call", "count"),
        schedulers="two",
        workers=2,
    ),
    Part(
        "cross_call",
        (Row("cross_call_asleep_p50", "s", at_most(1)),),
        messages.cross_call_asleep,
        {"count": 200, "pause_ms": 5},
        {"count": 40},
        beam=("cross_call_asleep", "count", "pause_ms"),
        schedulers="two",
        workers=2,
    ),
    Part(
        "cross_cast",
        (Row("cross_cast", "1/s", at_least(0.5)),),
        messages.cast,
        {"count": 1_000_000, "worker": 1},
        {"count": 100_000},
        beam=("cross_cast", "count"),
        schedulers="two",
        workers=2,
    ),
    _payload(Row("payload_1MB", "s", at_most(1)), MIB, 500, messages.FRESH),
    _payload(Row("payload_shared_1MB", "s", at_most(1)), MIB, 500, messages.SHARED),
    _payload(Row("payload_64MB", "s", at_most(1.7)), 64 * MIB, 10, messages.FRESH),
    _payload(Row("payload_shared_64MB", "s", at_most(2)), 64 * MIB, 10, messages.SHARED),
    _payload(Row("payload_bytes_1MB", "s"), MIB, 500, messages.BYTES),
    _payload(Row("payload_bytes_64MB", "s"), 64 * MIB, 10, messages.BYTES),
    Part(
        "fairness",
        (
            Row("fairness_p50", "s", at_most(1)),
            Row("fairness_p999", "s", below(2 * TICK)),
        ),
        processes.fairness,
        {"loops": 16, "count": 2_000},
        {"count": 500},
        beam=("fairness", "loops", "count"),
    ),
    Part(
        "fairness",
        (Row("fairness_share", "1", above(0.8)),),
        processes.fair_shares,
        {"loops": 16, "milliseconds": 3_000},
        {"milliseconds": 1_000},
    ),
    Part(
        "monitors",
        (Row("monitors_100k", "s", at_most(1.5)),),
        processes.monitors,
        {"count": 100_000},
        {"count": 10_000},
        beam=("monitors", "count"),
    ),
    Part(
        "selective_receive",
        (Row("receive_scan", "s", at_most(10)),),
        messages.receive_scan,
        {"waiting": 100_000, "count": 50},
        {"waiting": 10_000, "count": 50},
        beam=("receive_scan", "waiting", "count"),
    ),
    Part(
        "selective_receive",
        (Row("receive_ref_0", "s"),),
        messages.receive_ref,
        {"waiting": 0, "count": 50_000},
        {"count": 10_000},
        beam=("receive_ref", "waiting", "count"),
    ),
    Part(
        "selective_receive",
        (Row("receive_ref_100k", "s"),),
        messages.receive_ref,
        {"waiting": 100_000, "count": 50_000},
        {"waiting": 10_000, "count": 10_000},
        beam=("receive_ref", "waiting", "count"),
    ),
    Part(
        "scaling",
        (Row("scaling", "1", above(0.97)),),
        machine.scaling,
        {"tasks": 64, "n": 27},
        {"tasks": 16, "n": 22},
        place="system",
    ),
    Part(
        "steal",
        (Row("steal_p50", "s", below(STEAL)),),
        moves.steal,
        {"count": 500},
        {"count": 100},
        workers=2,
    ),
    Part(
        "migrate",
        (Row("migrate_p50", "s", below(100e-6)),),
        moves.migrate,
        {"count": 20_000},
        {"count": 2_000},
        workers=2,
    ),
    Part(
        "unbalanced_tree",
        (
            Row("unbalanced_tree", "1", below(1.05)),
            Row("unbalanced_tree_bare", "1"),
            Row("unbalanced_tree_beside_bare", "1"),
        ),
        moves.unbalanced_tree,
        {"roots": 10_000, "piece": 4_000},
        {"roots": 1_000},
        workers=2,
    ),
    Part(
        "unbalanced_tree",
        (Row("unbalanced_tree_kept", "1"),),
        moves.kept_tree,
        {"roots": 10_000, "piece": 4_000},
        {"roots": 1_000},
        workers=2,
    ),
    Part(
        "restart",
        (Row("restart_p50", "s", at_most(3)),),
        processes.restart,
        {"kills": 300},  # more, and the BEAM's time is that of its list of restarts
        {"kills": 100},
        beam=("restart", "kills"),
    ),
    Part(
        "worker_death",
        (Row("worker_death_p50", "s", below(0.05)),),
        processes.worker_death,
        {"kills": 20},
        {"kills": 5},
        workers=2,
        kills=True,
    ),
    Part(
        "startup",
        (Row("startup", "s", below(0.3)),),
        machine.startup,
        {"workers": 2},
        place="command",
        beam=("startup",),
    ),
    Part(
        "startup",
        (Row("import", "s", below(0.06)),),
        machine.import_time,
        {"times": 5},
        {"times": 1},
        place="command",
    ),
    Part(
        "pause",
        (Row("pause_max", "s", below(0.02)),),
        processes.pause,
        {"actors": 1_000_000, "milliseconds": 3_000},
        {"actors": 10_000, "milliseconds": 300},
        fresh=True,
    ),
    Part(
        "idle",
        (Row("idle_cpu", "1", below(0.005)),),
        machine.idle,
        {"milliseconds": 3_000},
        {"milliseconds": 500},
        place="system",
    ),
    Part(
        "io",
        (Row("async_echo", "1/s"), Row("async_echo_asyncio", "1/s")),
        io.async_echo,
        {"count": 20_000},
        {"count": 1_000},
    ),
    Part(
        "names",
        (Row("register", "s"), Row("whereis", "s", below(1e-6))),
        processes.names,
        {"count": 100_000},
        {"count": 10_000},
        beam=("names", "count"),
    ),
    _shared((Row("ets_lookup", "s", at_most(1)),), tables.ets_lookup, "ets_lookup"),
    _shared((Row("ets_insert", "s", at_most(1)),), tables.ets_insert, "ets_insert"),
    _shared((Row("server_dict_get", "s"), Row("server_dict_put", "s")), tables.server_dict, "server_map"),
    _shared((Row("ets_lookup_across", "s"),), tables.ets_lookup, "ets_lookup", 1),
    _shared((Row("ets_insert_across", "s"),), tables.ets_insert, "ets_insert", 1),
    _shared(
        (Row("server_dict_get_across", "s"), Row("server_dict_put_across", "s")),
        tables.server_dict,
        "server_map_across",
        1,
    ),
    Part(
        "shared_state",
        (Row("counters_add", "s"),),
        tables.counters_add,
        {"count": 1_000_000},
        {"count": 100_000},
        beam=("counters_add", "count"),
    ),
    Part(
        "shared_state",
        (Row("counters_add_contended", "s"),),
        tables.counters_add_contended,
        {"count": 1_000_000, "many": 0},
        {"count": 100_000},
        beam=("counters_add_contended", "count", "many"),
        schedulers="two",
        workers=2,
    ),
    Part(
        "shared_state",
        (Row("counters_add_write_concurrency", "s"),),
        tables.counters_add_contended,
        {"count": 1_000_000, "many": 1},
        {"count": 100_000},
        beam=("counters_add_contended", "count", "many"),
        schedulers="two",
        workers=2,
    ),
    Part(
        "shared_state",
        (Row("persistent_term_get", "s"),),
        tables.persistent_term_get,
        {"count": 1_000_000},
        {"count": 100_000},
        beam=("persistent_term_get", "count"),
    ),
    *(_shape(number, name, 0) for number, name in enumerate(messages.SHAPES)),
    *(_shape(number, name, 1) for number, name in enumerate(messages.SHAPES)),
)

NAMES: tuple[str, ...] = tuple(dict.fromkeys(part.name for part in PARTS))
