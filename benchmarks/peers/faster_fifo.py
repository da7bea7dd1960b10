"""faster-fifo: queues in shared memory. The receiver takes many at once; payload goes as it is, without pickle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from multiprocessing import get_context
from typing import Any

from faster_fifo import Queue

from benchmarks.peers import calls_asleep, cross_calls, exchanges, expect

__all__ = ["TESTS", "version"]

SMALL = 1_000_000  # bytes of a queue
FOREVER = 3600.0  # s; it takes no None


def version() -> str:
    return installed("faster-fifo")


def as_it_is(data: Any) -> Any:
    return data


@contextmanager
def child(target: Callable[[Any, Any], None], there: Any, last: object) -> Iterator[Callable[[], Any]]:
    """A process that runs `target` with the queue `there`, which `last` ends: what takes its next answer."""
    back = Queue(SMALL)
    process = get_context("spawn").Process(target=target, args=(there, back))
    process.start()
    try:
        expect("the first word", "ready", back.get(timeout=FOREVER))
        yield lambda: back.get(timeout=FOREVER)
    finally:
        there.put(last)
        process.join()
        there.close()
        back.close()


def answer(there: Any, back: Any) -> None:
    back.put("ready")
    while there.get(timeout=FOREVER) == "ping":
        back.put("pong")


def cross_call(count: int) -> list[float]:
    there = Queue(SMALL)
    with child(answer, there, None) as taken:

        def call() -> None:
            there.put("ping")
            taken()

        return cross_calls(call, count)


def cross_call_asleep(count: int, pause_ms: int) -> list[float]:
    there = Queue(SMALL)
    with child(answer, there, None) as taken:

        def call() -> None:
            there.put("ping")
            taken()

        return calls_asleep(call, count, pause_ms)


def count_up(there: Any, back: Any) -> None:
    back.put("ready")
    arrived = 0
    while True:
        for message in there.get_many(timeout=FOREVER):
            if message == "inc":
                arrived += 1
            elif message == "get":
                back.put(arrived)
            else:
                return


def cross_cast(count: int) -> list[float]:
    there = Queue(64 * SMALL)
    with child(count_up, there, None) as taken:
        began = time.perf_counter()
        for _ in range(count):
            there.put("inc", timeout=FOREVER)
        there.put("get", timeout=FOREVER)
        arrived = taken()
        seconds = time.perf_counter() - began
    expect("the casts that arrived", count, arrived)
    return [count / seconds]


def sizes(there: Any, back: Any) -> None:
    back.put("ready")
    while data := there.get(timeout=FOREVER):
        back.put(len(data))


def payload_bytes(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    there = Queue(2 * size + SMALL, dumps=as_it_is, loads=as_it_is)
    with child(sizes, there, b"") as taken:

        def exchange() -> int:
            there.put(bytes(data))
            return int(taken())

        return exchanges(exchange, size, count)


TESTS = {
    "cross_call": cross_call,
    "cross_call_asleep": cross_call_asleep,
    "cross_cast": cross_cast,
    "payload": payload_bytes,  # it takes bytes alone
    "payload_bytes": payload_bytes,
}
