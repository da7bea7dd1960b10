"""The standard library's `multiprocessing`: a pipe for calls and payload, a Queue for casts, its SharedMemory."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from multiprocessing.shared_memory import SharedMemory
from typing import Any

from benchmarks.peers import calls_asleep, cross_calls, exchanges, expect

__all__ = ["TESTS", "version"]

spawning = get_context("spawn")


def version() -> str:
    return platform.python_version()


@contextmanager
def child(target: Callable[..., None], *args: object) -> Iterator[Connection[Any, Any]]:
    """A process that runs `target` with its end of a pipe: ours. It ends when ours is closed."""
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=target, args=(theirs, *args))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join()


# --- calls and casts --------------------------------------------------------------------------------------------------


def answer(pipe: Connection[Any, Any]) -> None:
    try:
        while True:
            pipe.recv()
            pipe.send("pong")
    except EOFError:
        pass


def asking(pipe: Connection[Any, Any]) -> Callable[[], None]:
    def call() -> None:
        pipe.send("ping")
        pipe.recv()

    return call


def cross_call(count: int) -> list[float]:
    with child(answer) as pipe:
        return cross_calls(asking(pipe), count)


def cross_call_asleep(count: int, pause_ms: int) -> list[float]:
    with child(answer) as pipe:
        return calls_asleep(asking(pipe), count, pause_ms)


def count_up(pipe: Connection[Any, Any], queue: Queue[str]) -> None:
    pipe.send("ready")
    arrived = 0
    while queue.get() != "get":
        arrived += 1
    pipe.send(arrived)


def cross_cast(count: int) -> list[float]:
    queue: Queue[str] = spawning.Queue()
    with child(count_up, queue) as pipe:
        pipe.recv()
        began = time.perf_counter()
        for _ in range(count):
            queue.put("inc")
        queue.put("get")
        arrived = pipe.recv()
        seconds = time.perf_counter() - began
    expect("the casts that arrived", count, arrived)
    return [count / seconds]


# --- payload ----------------------------------------------------------------------------------------------------------


def sizes(pipe: Connection[Any, Any]) -> None:
    try:
        while True:
            pipe.send(len(pipe.recv_bytes()))
    except EOFError:
        pass


def payload(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size

    def exchange() -> int:
        pipe.send_bytes(data)
        return int(pipe.recv())

    with child(sizes) as pipe:
        return exchanges(exchange, size, count)


def payload_bytes(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size

    def exchange() -> int:
        pipe.send_bytes(bytes(data))
        return int(pipe.recv())

    with child(sizes) as pipe:
        return exchanges(exchange, size, count)


def shared_sizes(pipe: Connection[Any, Any]) -> None:
    held: dict[str, SharedMemory] = {}
    try:
        while True:
            name, size = pipe.recv()
            if name not in held:
                held[name] = SharedMemory(name)
            pipe.send(len(held[name].buf[:size]))  # it is whole pages
    except EOFError:
        for memory in held.values():
            memory.close()


def payload_shared(size: int, count: int) -> list[float]:
    memory = SharedMemory(create=True, size=size)

    def exchange() -> int:
        pipe.send((memory.name, size))
        return int(pipe.recv())

    try:
        memory.buf[:size] = b"\7" * size
        with child(shared_sizes) as pipe:
            return exchanges(exchange, size, count)
    finally:
        memory.close()
        memory.unlink()


TESTS = {
    "cross_call": cross_call,
    "cross_call_asleep": cross_call_asleep,
    "cross_cast": cross_cast,
    "payload": payload,
    "payload_bytes": payload_bytes,
    "payload_shared": payload_shared,
}
