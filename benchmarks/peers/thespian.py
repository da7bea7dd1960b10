"""Thespian: `simpleSystemBase` for what happens in one OS process, `multiprocTCPBase`, its most used, across."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from typing import Any

from thespian.actors import Actor, ActorAddress, ActorSystem

from benchmarks.peers import calls_asleep, cross_calls, exchanges, expect, grown, resident

__all__ = ["TESTS", "version"]

LOGS: dict[str, Any] = {"version": 1, "root": {"handlers": []}}


def version() -> str:
    return installed("thespian")


@contextmanager
def system(base: str) -> Iterator[ActorSystem]:
    capabilities: dict[str, object] = {}
    if base == "multiprocTCPBase":
        with socket.socket() as free:  # an admin of our own, beside one that may run at the usual port
            free.bind(("127.0.0.1", 0))
            capabilities = {"Admin Port": free.getsockname()[1], "Process Startup Method": "spawn"}
    made = ActorSystem(base, capabilities, logDefs=LOGS, transientUnique=True)
    try:
        yield made
    finally:
        made.shutdown()


@contextmanager
def here() -> Iterator[ActorSystem]:
    with system("simpleSystemBase") as made:
        yield made


@contextmanager
def across() -> Iterator[tuple[ActorSystem, ActorAddress]]:
    """A system, and a counter that is up."""
    with system("multiprocTCPBase") as made:
        to = made.createActor(Counter)
        expect("the answer", "pong", made.ask(to, "ping", 60))
        yield made, to


class Counter(Actor):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        if message == "inc":
            self.n += 1
        elif message == "get":
            self.send(sender, self.n)
        elif message == "ping":
            self.send(sender, "pong")
        elif isinstance(message, bytes | bytearray):
            self.send(sender, len(message))


def call(count: int) -> list[float]:
    with here() as made:
        to = made.createActor(Counter)
        began = time.perf_counter()
        for _ in range(count):
            answer = made.ask(to, "ping")
        seconds = time.perf_counter() - began
    expect("the answer", "pong", answer)
    return [count / seconds]


def casts(made: ActorSystem, to: ActorAddress, count: int) -> list[float]:
    began = time.perf_counter()
    for _ in range(count):
        made.tell(to, "inc")
    arrived = made.ask(to, "get")
    seconds = time.perf_counter() - began
    expect("the casts that arrived", count, arrived)
    return [count / seconds]


def cast(count: int) -> list[float]:
    with here() as made:
        return casts(made, made.createActor(Counter), count)


class Pong(Actor):
    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        if message == "ping":
            self.send(sender, "pong")


class Ping(Actor):
    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        if isinstance(message, tuple):
            self.home = sender
            self.other, self.left = message
        elif message == "pong":
            self.left -= 1
        else:
            return
        if self.left:
            self.send(self.other, "ping")
        else:
            self.send(self.home, "done")


def ping_pong(count: int) -> list[float]:
    with here() as made:
        ping, pong = made.createActor(Ping), made.createActor(Pong)
        began = time.perf_counter()
        done = made.ask(ping, (pong, count))
        seconds = time.perf_counter() - began
    expect("the last word", "done", done)
    return [count / seconds]


def spawn(count: int) -> list[float]:
    with here() as made:
        began = time.perf_counter()
        actors = [made.createActor(Counter) for _ in range(count)]
        answer = made.ask(actors[-1], "ping")
        seconds = time.perf_counter() - began
    expect("the answer", "pong", answer)
    return [seconds / count]


def memory(count: int) -> list[float]:
    with here() as made:
        before = resident()
        actors = [made.createActor(Counter) for _ in range(count)]
        for one in actors:
            made.ask(one, "ping")
        return [grown(before, count)]


# --- across -----------------------------------------------------------------------------------------------------------


def cross_call(count: int) -> list[float]:
    with across() as (made, to):
        return cross_calls(lambda: made.ask(to, "ping"), count)


def cross_call_asleep(count: int, pause_ms: int) -> list[float]:
    with across() as (made, to):
        return calls_asleep(lambda: made.ask(to, "ping"), count, pause_ms)


def cross_cast(count: int) -> list[float]:
    with across() as (made, to):
        return casts(made, to, count)


def payload(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    with across() as (made, to):
        return exchanges(lambda: made.ask(to, data), size, count)


def payload_bytes(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    with across() as (made, to):
        return exchanges(lambda: made.ask(to, bytes(data)), size, count)


TESTS = {
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
