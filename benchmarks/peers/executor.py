"""The standard library's `concurrent.futures.ProcessPoolExecutor`, with one process."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from benchmarks.peers import calls_asleep, cross_calls, exchanges, expect

__all__ = ["TESTS", "version"]


def version() -> str:
    return platform.python_version()


@contextmanager
def pool() -> Iterator[ProcessPoolExecutor]:
    """One process, which is up."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as made:
        made.submit(ping).result()
        yield made


def ping() -> str:
    return "pong"


def cross_call(count: int) -> list[float]:
    with pool() as there:
        return cross_calls(lambda: there.submit(ping).result(), count)


def cross_call_asleep(count: int, pause_ms: int) -> list[float]:
    with pool() as there:
        return calls_asleep(lambda: there.submit(ping).result(), count, pause_ms)


class Counter:
    """Of the pool's process."""

    arrived = 0


def inc() -> None:
    Counter.arrived += 1


def get() -> int:
    return Counter.arrived


def cross_cast(count: int) -> list[float]:
    with pool() as there:
        began = time.perf_counter()
        for _ in range(count):
            there.submit(inc)
        arrived = there.submit(get).result()
        seconds = time.perf_counter() - began
    expect("the casts that arrived", count, arrived)
    return [count / seconds]


def payload(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    with pool() as there:
        return exchanges(lambda: there.submit(len, data).result(), size, count)


def payload_bytes(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    with pool() as there:
        return exchanges(lambda: there.submit(len, bytes(data)).result(), size, count)


TESTS = {
    "cross_call": cross_call,
    "cross_call_asleep": cross_call_asleep,
    "cross_cast": cross_cast,
    "payload": payload,
    "payload_bytes": payload_bytes,
}
