"""Pykka: actors that are threads of one OS process; messages by `tell` and `ask`, which are faster than its proxies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from typing import Any

import pykka

from benchmarks.peers import expect, grown, resident

__all__ = ["TESTS", "started", "version"]


def version() -> str:
    return installed("pykka")


@contextmanager
def started() -> Iterator[None]:
    try:
        yield
    finally:
        pykka.ActorRegistry.stop_all()


class Counter(pykka.ThreadingActor):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def on_receive(self, message: Any) -> Any:
        if message == "inc":
            self.n += 1
        elif message == "get":
            return self.n
        return "pong"


def call(count: int) -> list[float]:
    to = Counter.start()
    began = time.perf_counter()
    for _ in range(count):
        answer = to.ask("ping")
    seconds = time.perf_counter() - began
    to.stop()
    expect("the answer", "pong", answer)
    return [count / seconds]


def cast(count: int) -> list[float]:
    to = Counter.start()
    began = time.perf_counter()
    for _ in range(count):
        to.tell("inc")
    arrived = to.ask("get")
    seconds = time.perf_counter() - began
    to.stop()
    expect("the casts that arrived", count, arrived)
    return [count / seconds]


class Pong(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> None:
        message.tell("pong")


class Ping(pykka.ThreadingActor):
    def __init__(self, other: pykka.ActorRef[Pong], count: int) -> None:
        super().__init__()
        self.other = other
        self.left = count
        self.done = pykka.ThreadingFuture[str]()

    def on_receive(self, message: Any) -> Any:
        if message == "go":
            self.other.tell(self.actor_ref)
            return self.done
        self.left -= 1
        if self.left:
            self.other.tell(self.actor_ref)
        else:
            self.done.set("done")
        return None


def ping_pong(count: int) -> list[float]:
    pong = Pong.start()
    ping = Ping.start(pong, count)
    began = time.perf_counter()
    done = ping.ask("go").get()
    seconds = time.perf_counter() - began
    ping.stop()
    pong.stop()
    expect("the last word", "done", done)
    return [count / seconds]


def spawn(count: int) -> list[float]:
    began = time.perf_counter()
    actors = [Counter.start() for _ in range(count)]
    answer = actors[-1].ask("ping")
    seconds = time.perf_counter() - began
    for one in actors:
        one.stop()
    expect("the answer", "pong", answer)
    return [seconds / count]


def memory(count: int) -> list[float]:
    before = resident()
    actors = [Counter.start() for _ in range(count)]
    for one in actors:
        one.ask("ping")
    return [grown(before, count)]


TESTS = {"call": call, "cast": cast, "ping_pong": ping_pong, "spawn": spawn, "memory": memory}
