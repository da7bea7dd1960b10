"""The Python peers: what they measure beside our rows, and how much of it.

    peer.py       a peer as a counterpart of `parallel-actors bench`
    __main__.py   the OS process of a peer: `python -m benchmarks.peers NAME [TEST NUMBER ...]`
    NAME.py       the peer, with

        version    what is installed of it; called after the import
        TESTS      the tests that it can do: functions of the numbers in ROWS, which return figures in the rows' order
        started    optional: a context manager around the runs of a process, for what they share

Each is written as its own users would, with the settings that it recommends for speed. A test checks what it got, and
ends what it started.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = [
    "FAILED",
    "PEERS",
    "ROWS",
    "Wrong",
    "calls_asleep",
    "cross_calls",
    "exchanges",
    "expect",
    "grown",
    "latencies",
    "of_calls",
    "resident",
]

# How the line begins that says why there are no figures; `counterparts.py` knows it, too.
FAILED = "failed: "

# The first row of a part of our catalogue: the test beside it, and the sizes that it takes.
ROWS: Mapping[str, tuple[str, ...]] = {
    "memory_actor": ("memory", "count"),
    "spawn": ("spawn", "count"),
    "cast": ("cast", "count"),
    "cast_typed": ("cast", "count"),
    "call": ("call", "count"),
    "call_typed": ("call", "count"),
    "ping_pong": ("ping_pong", "count"),
    "cross_call_rate": ("cross_call", "count"),
    "cross_call_asleep_p50": ("cross_call_asleep", "count", "pause_ms"),
    "cross_cast": ("cross_cast", "count"),
    "payload_1MB": ("payload", "size", "count"),
    "payload_64MB": ("payload", "size", "count"),
    "payload_shared_1MB": ("payload_shared", "size", "count"),
    "payload_shared_64MB": ("payload_shared", "size", "count"),
    "payload_bytes_1MB": ("payload_bytes", "size", "count"),
    "payload_bytes_64MB": ("payload_bytes", "size", "count"),
}

# Each peer, with the most that a test, or a row, does of something where our sizes would take it more than some ten
# seconds. The figures are per piece, so that they stay comparable; the JSON has each one's own count.
PEERS: Mapping[str, Mapping[str, int]] = {
    "multiprocessing": {"cross_cast": 200_000},
    "executor": {"cross_call": 20_000, "cross_cast": 50_000},
    "pykka": {"call": 50_000, "cast": 500_000, "ping_pong": 50_000, "spawn": 2_000, "memory": 2_000},
    "thespian": {
        "call": 100_000,
        "cast": 200_000,
        "ping_pong": 100_000,
        "cross_call": 2_000,
        "cross_cast": 3_000,
        "payload": 50,
        "payload_bytes": 50,
        "payload_64MB": 1,
        "payload_bytes_64MB": 1,
    },
    "pyzmq": {"cross_cast": 500_000},
    "faster-fifo": {"cross_cast": 200_000},
    "xoscar": {
        "cast": 500_000,
        "ping_pong": 100_000,
        "spawn": 20_000,
        "memory": 20_000,
        "cross_call": 10_000,
        "cross_cast": 10_000,
    },
    "ray": {
        "spawn": 4,
        "memory": 4,
        "cross_call": 5_000,
        "cross_cast": 20_000,
        "payload": 200,
        "payload_bytes": 200,
    },
    "charm4py": {"cross_cast": 200_000},
    "monarch": {
        "call": 20_000,
        "cast": 100_000,
        "ping_pong": 10_000,
        "spawn": 500,
        "memory": 500,
        "cross_call": 5_000,
        "cross_cast": 50_000,
    },
}


class Wrong(Exception):
    """Raised by a test whose result isn't what it has to be."""


def expect(what: str, expected: object, got: object) -> None:
    """Raise Wrong unless a result is as it has to be."""
    if expected != got:
        raise Wrong(f"{what}: expected {expected!r}, got {got!r}")


def of_calls(taken: Sequence[float], seconds: float) -> list[float]:
    """The figures of `cross_call`: per second, and seconds at the median and at 99 %."""
    from parallel_actors.bench.figures import percentile  # only here: a peer's processes load nothing of ours

    return [len(taken) / seconds, percentile(taken, 0.5), percentile(taken, 0.99)]


def latencies(call: Callable[[], object], count: int, pause: float = 0.0) -> list[float]:
    """Seconds of each of `count` calls, with `pause` seconds of sleep before each."""
    taken = []
    for _ in range(count):
        if pause:
            time.sleep(pause)
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return taken


def cross_calls(call: Callable[[], object], count: int) -> list[float]:
    """The figures of `count` calls, after some that warm up."""
    latencies(call, 1 + count // 100)
    began = time.perf_counter()
    taken = latencies(call, count)
    return of_calls(taken, time.perf_counter() - began)


def calls_asleep(call: Callable[[], object], count: int, pause_ms: int) -> list[float]:
    """The figure of `cross_call_asleep`."""
    return [of_calls(latencies(call, count, pause_ms / 1e3), 1.0)[1]]


def exchanges(exchange: Callable[[], int], size: int, count: int) -> list[float]:
    """Seconds of an exchange, which sends `size` bytes and returns the answer, after some that warm up."""
    for _ in range(1 + count // 10):
        expect("the size of what arrived", size, exchange())
    began = time.perf_counter()
    for _ in range(count):
        answer = exchange()
    seconds = time.perf_counter() - began
    expect("the size of what arrived", size, answer)
    return [seconds / count]


def resident() -> int:
    """Resident bytes of this OS process, without garbage."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def grown(before: int, count: int) -> float:
    """The figure of `memory`: bytes for each of `count` since then."""
    return (resident() - before) / count
