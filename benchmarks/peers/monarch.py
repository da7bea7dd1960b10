"""Monarch: actors in this OS process (`this_proc`), and in another (`this_host().spawn_procs`).

It leaves a log of its own in /tmp, in a folder of the user's name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from typing import Any

from monarch.actor import Actor, Channel, endpoint, this_host, this_proc

from benchmarks.peers import calls_asleep, cross_calls, exchanges, expect, grown, resident

__all__ = ["TESTS", "version"]


def version() -> str:
    return installed("torchmonarch")


class Counter(Actor):
    def __init__(self) -> None:
        self.n = 0

    @endpoint
    async def ping(self) -> str:
        return "pong"

    @endpoint
    async def inc(self) -> None:
        self.n += 1

    @endpoint
    async def get(self) -> int:
        return self.n

    @endpoint
    async def length(self, data: Any) -> int:
        return len(data)


class Player(Actor):
    """Hits the ball back as often as it has been told to."""

    def __init__(self, left: int, done: Any) -> None:
        self.left = left
        self.done = done

    @endpoint
    async def play(self, other: Any) -> None:
        self.other = other

    @endpoint
    async def hit(self) -> None:
        if self.left:
            self.left -= 1
            self.other.hit.broadcast()
        else:
            self.done.send("done")


def ping(to: Any) -> None:
    to.ping.call_one().get()


def up(to: Any) -> Any:
    expect("the answer", "pong", to.ping.call_one().get())
    return to


def here() -> Any:
    return up(this_proc().spawn("counter", Counter))


@contextmanager
def across() -> Iterator[Any]:
    there = this_host().spawn_procs(per_host={"procs": 1})
    try:
        yield up(there.spawn("counter", Counter))
    finally:
        there.stop().get()


# --- in one OS process ------------------------------------------------------------------------------------------------


def call(count: int) -> list[float]:
    to = here()
    began = time.perf_counter()
    for _ in range(count):
        answer = to.ping.call_one().get()
    seconds = time.perf_counter() - began
    to.stop().get()
    expect("the answer", "pong", answer)
    return [count / seconds]


def casts(to: Any, count: int) -> list[float]:
    began = time.perf_counter()
    for _ in range(count):
        to.inc.broadcast()
    arrived = to.get.call_one().get()
    seconds = time.perf_counter() - began
    expect("the casts that arrived", count, arrived)
    return [count / seconds]


def cast(count: int) -> list[float]:
    to = here()
    figures = casts(to, count)
    to.stop().get()
    return figures


def ping_pong(count: int) -> list[float]:
    done, arrived = Channel.open()
    one, other = (this_proc().spawn(name, Player, count, done) for name in ("one", "other"))
    one.play.call_one(other).get()
    other.play.call_one(one).get()
    began = time.perf_counter()
    one.hit.broadcast()
    said = arrived.recv().get()
    seconds = time.perf_counter() - began
    one.stop().get()
    other.stop().get()
    expect("the last word", "done", said)
    return [count / seconds]


def spawn(count: int) -> list[float]:
    began = time.perf_counter()
    made = [this_proc().spawn("counter", Counter) for _ in range(count)]
    up(made[-1])
    seconds = time.perf_counter() - began
    for one in made:
        one.stop().get()
    return [seconds / count]


def memory(count: int) -> list[float]:
    here()
    before = resident()
    made = [this_proc().spawn("counter", Counter) for _ in range(count)]
    for one in made:
        ping(one)
    return [grown(before, count)]


# --- across -----------------------------------------------------------------------------------------------------------


def cross_call(count: int) -> list[float]:
    with across() as to:
        return cross_calls(lambda: ping(to), count)


def cross_call_asleep(count: int, pause_ms: int) -> list[float]:
    with across() as to:
        return calls_asleep(lambda: ping(to), count, pause_ms)


def cross_cast(count: int) -> list[float]:
    with across() as to:
        return casts(to, count)


def payload(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    with across() as to:
        return exchanges(lambda: int(to.length.call_one(data).get()), size, count)


def payload_bytes(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    with across() as to:
        return exchanges(lambda: int(to.length.call_one(bytes(data)).get()), size, count)


TESTS: dict[str, Callable[..., list[float]]] = {
    "call": call,
    "cast": cast,
    "ping_pong": ping_pong,
    "spawn": spawn,
    "memory": memory,
    "cross_call": cross_call,
    "cross_call_asleep": cross_call_asleep,
    "cross_cast": cross_cast,
    "payload": payload,
    "payload_bytes": payload_bytes,
}
