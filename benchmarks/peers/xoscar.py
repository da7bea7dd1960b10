"""xoscar: actors with `async` methods in pools, on uvloop, which it installs. Here: in the pool of this OS process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib.metadata import version as installed
from typing import Any

import uvloop
import xoscar
from xoscar.backends.allocate_strategy import ProcessIndex

from benchmarks.peers import expect, grown, of_calls, resident

__all__ = ["TESTS", "version"]


def version() -> str:
    return installed("xoscar")


class Counter(xoscar.Actor):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    async def ping(self) -> str:
        return "pong"

    async def inc(self) -> None:
        self.n += 1

    async def get(self) -> int:
        return self.n

    async def size(self, data: bytes | bytearray) -> int:
        return len(data)


@asynccontextmanager
async def pool(others: int = 0) -> AsyncIterator[str]:
    """The address of a pool of this OS process and of `others` beside it."""
    made = await xoscar.create_actor_pool("127.0.0.1", n_process=others, subprocess_start_method="spawn")
    async with made:
        yield made.external_address


async def create(address: str, kind: type[xoscar.Actor], *args: object) -> Any:
    """An actor in this OS process, by a reference which knows that, and is ten times as fast."""
    made = await xoscar.create_actor(kind, *args, address=address)
    return await xoscar.actor_ref(address, made.uid)


@asynccontextmanager
async def here() -> AsyncIterator[Any]:
    async with pool() as address:
        yield await create(address, Counter)


@asynccontextmanager
async def across() -> AsyncIterator[Any]:
    async with pool(1) as address:
        yield await xoscar.create_actor(Counter, address=address, allocate_strategy=ProcessIndex(1))


def run(test: Callable[..., Coroutine[Any, Any, list[float]]]) -> Callable[..., list[float]]:
    return lambda *numbers: uvloop.run(test(*numbers))


# --- in one OS process ------------------------------------------------------------------------------------------------


async def call(count: int) -> list[float]:
    async with here() as to:
        began = time.perf_counter()
        for _ in range(count):
            answer = await to.ping()
        seconds = time.perf_counter() - began
    expect("the answer", "pong", answer)
    return [count / seconds]


async def casts(to: Any, count: int) -> list[float]:
    began = time.perf_counter()
    for _ in range(count):
        await to.inc.tell()
    arrived = await to.get()
    seconds = time.perf_counter() - began
    expect("the casts that arrived", count, arrived)
    return [count / seconds]


async def cast(count: int) -> list[float]:
    async with here() as to:
        return await casts(to, count)


class Player(xoscar.Actor):
    """Hits the ball back as often as it has been told to."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left
        self.done = asyncio.Event()

    async def play(self, other: Any) -> None:
        self.other = other

    async def hit(self) -> None:
        if self.left:
            self.left -= 1
            await self.other.hit.tell()
        else:
            self.done.set()

    @xoscar.no_lock
    async def end(self) -> None:
        await self.done.wait()


async def ping_pong(count: int) -> list[float]:
    async with pool() as address:
        ping = await create(address, Player, count)
        pong = await create(address, Player, count)
        await ping.play(pong)
        await pong.play(ping)
        began = time.perf_counter()
        await ping.hit()
        await ping.end()
        return [count / (time.perf_counter() - began)]


async def spawn(count: int) -> list[float]:
    async with pool() as address:
        began = time.perf_counter()
        for _ in range(count):
            last = await xoscar.create_actor(Counter, address=address)
        answer = await last.ping()
        seconds = time.perf_counter() - began
    expect("the answer", "pong", answer)
    return [seconds / count]


async def memory(count: int) -> list[float]:
    async with pool() as address:
        before = resident()
        actors = [await create(address, Counter) for _ in range(count)]
        for one in actors:
            await one.ping()
        return [grown(before, count)]


# --- across -----------------------------------------------------------------------------------------------------------


async def latencies(to: Any, count: int, pause: float = 0.0) -> list[float]:
    taken = []
    for _ in range(count):
        if pause:
            await asyncio.sleep(pause)
        began = time.perf_counter()
        await to.ping()
        taken.append(time.perf_counter() - began)
    return taken


async def cross_call(count: int) -> list[float]:
    async with across() as to:
        await latencies(to, 1 + count // 100)
        began = time.perf_counter()
        taken = await latencies(to, count)
        return of_calls(taken, time.perf_counter() - began)


async def cross_call_asleep(count: int, pause_ms: int) -> list[float]:
    async with across() as to:
        return [of_calls(await latencies(to, count, pause_ms / 1e3), 1.0)[1]]


async def cross_cast(count: int) -> list[float]:
    async with across() as to:
        return await casts(to, count)


async def exchanges(what: Callable[[], Any], size: int, count: int) -> list[float]:
    async with across() as to:
        for _ in range(1 + count // 10):
            expect("the size of what arrived", size, await to.size(what()))
        began = time.perf_counter()
        for _ in range(count):
            await to.size(what())
        return [(time.perf_counter() - began) / count]


async def payload(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    return await exchanges(lambda: data, size, count)


async def payload_bytes(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    return await exchanges(lambda: bytes(data), size, count)


TESTS = {
    "call": run(call),
    "cast": run(cast),
    "ping_pong": run(ping_pong),
    "spawn": run(spawn),
    "memory": run(memory),
    "cross_call": run(cross_call),
    "cross_call_asleep": run(cross_call_asleep),
    "cross_cast": run(cross_cast),
    "payload": run(payload),
    "payload_bytes": run(payload_bytes),
}
