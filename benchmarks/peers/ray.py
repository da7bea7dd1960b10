"""Ray: each actor is an OS process; payload goes through its store in shared memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Read by the import: nothing is written to the user's home, and nothing is told to anybody.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy
import psutil
import ray

from benchmarks.peers import calls_asleep, cross_calls, exchanges, expect

__all__ = ["TESTS", "started", "version"]


def version() -> str:
    return str(ray.__version__)


@contextmanager
def started() -> Iterator[None]:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=1 << 30,
        _system_config={"enable_metrics_collection": False},
    )
    try:
        yield
    finally:
        ray.shutdown()


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self) -> None:
        self.n = 0

    def ping(self) -> str:
        return "pong"

    def inc(self) -> None:
        self.n += 1

    def get(self) -> int:
        return self.n

    def size(self, data: Any) -> int:
        return len(data)

    def memory(self) -> int:
        """Bytes of this OS process that no other shares."""
        return int(psutil.Process().memory_full_info().uss)


@contextmanager
def counter() -> Iterator[Any]:
    """An actor that is up."""
    made = Counter.remote()
    try:
        expect("the answer", "pong", ray.get(made.ping.remote()))
        yield made
    finally:
        ray.kill(made)


def cross_call(count: int) -> list[float]:
    with counter() as to:
        return cross_calls(lambda: ray.get(to.ping.remote()), count)


def cross_call_asleep(count: int, pause_ms: int) -> list[float]:
    with counter() as to:
        return calls_asleep(lambda: ray.get(to.ping.remote()), count, pause_ms)


def cross_cast(count: int) -> list[float]:
    with counter() as to:
        began = time.perf_counter()
        for _ in range(count):
            to.inc.remote()
        arrived = ray.get(to.get.remote())
        seconds = time.perf_counter() - began
    expect("the casts that arrived", count, arrived)
    return [count / seconds]


def spawn(count: int) -> list[float]:
    began = time.perf_counter()
    made = [Counter.remote() for _ in range(count)]
    answers = ray.get([one.ping.remote() for one in made])
    seconds = time.perf_counter() - began
    for one in made:
        ray.kill(one)
    expect("the answers", ["pong"] * count, answers)
    return [seconds / count]


def memory(count: int) -> list[float]:
    made = [Counter.remote() for _ in range(count)]
    answers = ray.get([one.ping.remote() for one in made])
    used = ray.get([one.memory.remote() for one in made])
    for one in made:
        ray.kill(one)
    expect("the answers", ["pong"] * count, answers)
    return [sum(used) / count]


# --- payload ----------------------------------------------------------------------------------------------------------


def payload(size: int, count: int) -> list[float]:
    """An array, as Ray recommends: it is copied into the store once, and not out of it."""
    data = numpy.full(size, 7, numpy.uint8)
    with counter() as to:
        return exchanges(lambda: ray.get(to.size.remote(data)), size, count)


def payload_bytes(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    with counter() as to:
        return exchanges(lambda: ray.get(to.size.remote(bytes(data))), size, count)


def payload_shared(size: int, count: int) -> list[float]:
    data = ray.put(numpy.full(size, 7, numpy.uint8))
    with counter() as to:
        return exchanges(lambda: ray.get(to.size.remote(data)), size, count)


TESTS: dict[str, Callable[..., list[float]]] = {
    "spawn": spawn,
    "memory": memory,
    "cross_call": cross_call,
    "cross_call_asleep": cross_call_asleep,
    "cross_cast": cross_cast,
    "payload": payload,
    "payload_bytes": payload_bytes,
    "payload_shared": payload_shared,
}
