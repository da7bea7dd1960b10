"""charm4py: chares of one processing element, or of two by `charmrun`. A run is a program of its own, this module."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version as installed
from typing import Any

import numpy
from charm4py import Chare, Future, charm

from benchmarks.peers import FAILED, expect, grown, of_calls, resident

__all__ = ["TESTS", "version"]

FIGURES = "figures: "


def version() -> str:
    return installed("charm4py")


class Counter(Chare):
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


class Player(Chare):
    """Hits the ball back as often as it has been told to."""

    def __init__(self, left: int, done: Any) -> None:
        self.left = left
        self.done = done

    def play(self, other: Any) -> None:
        self.other = other

    def hit(self) -> None:
        if self.left:
            self.left -= 1
            self.other.hit()
        else:
            self.done.send("done")


def counter(element: int) -> Any:
    """One that is up."""
    made = Chare(Counter, onPE=element)
    expect("the answer", "pong", made.ping(ret=True).get())
    return made


# --- on one element ---------------------------------------------------------------------------------------------------


def call(count: int) -> list[float]:
    to = counter(0)
    began = time.perf_counter()
    for _ in range(count):
        answer = to.ping(ret=True).get()
    seconds = time.perf_counter() - began
    expect("the answer", "pong", answer)
    return [count / seconds]


def casts(to: Any, count: int) -> list[float]:
    began = time.perf_counter()
    for _ in range(count):
        to.inc()
    arrived = to.get(ret=True).get()
    seconds = time.perf_counter() - began
    expect("the casts that arrived", count, arrived)
    return [count / seconds]


def cast(count: int) -> list[float]:
    return casts(counter(0), count)


def ping_pong(count: int) -> list[float]:
    done = Future()
    ping, pong = (Chare(Player, args=[count, done], onPE=0) for _ in range(2))
    ping.play(pong, ret=True).get()
    pong.play(ping, ret=True).get()
    began = time.perf_counter()
    ping.hit()
    said = done.get()
    seconds = time.perf_counter() - began
    expect("the last word", "done", said)
    return [count / seconds]


def spawn(count: int) -> list[float]:
    began = time.perf_counter()
    for _ in range(count):
        last = Chare(Counter, onPE=0)
    answer = last.ping(ret=True).get()
    seconds = time.perf_counter() - began
    expect("the answer", "pong", answer)
    return [seconds / count]


def memory(count: int) -> list[float]:
    counter(0)
    before = resident()
    made = [Chare(Counter, onPE=0) for _ in range(count)]
    for one in made:
        one.ping(ret=True).get()
    return [grown(before, count)]


# --- across -----------------------------------------------------------------------------------------------------------


def latencies(to: Any, count: int, pause: float = 0.0) -> list[float]:
    taken = []
    for _ in range(count):
        if pause:
            charm.sleep(pause)
        began = time.perf_counter()
        to.ping(ret=True).get()
        taken.append(time.perf_counter() - began)
    return taken


def cross_call(count: int) -> list[float]:
    to = counter(1)
    latencies(to, 1 + count // 100)
    began = time.perf_counter()
    taken = latencies(to, count)
    return of_calls(taken, time.perf_counter() - began)


def cross_call_asleep(count: int, pause_ms: int) -> list[float]:
    return [of_calls(latencies(counter(1), count, pause_ms / 1e3), 1.0)[1]]


def cross_cast(count: int) -> list[float]:
    return casts(counter(1), count)


def exchanges(what: Callable[[], Any], size: int, count: int) -> list[float]:
    to = counter(1)
    for _ in range(1 + count // 10):
        expect("the size of what arrived", size, to.size(what(), ret=True).get())
    began = time.perf_counter()
    for _ in range(count):
        to.size(what(), ret=True).get()
    return [(time.perf_counter() - began) / count]


def payload(size: int, count: int) -> list[float]:
    """An array, which it doesn't pickle."""
    data = numpy.full(size, 7, numpy.uint8)
    return exchanges(lambda: data, size, count)


def payload_bytes(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    return exchanges(lambda: bytes(data), size, count)


# --- the program ------------------------------------------------------------------------------------------------------

HERE = {"call": call, "cast": cast, "ping_pong": ping_pong, "spawn": spawn, "memory": memory}
ACROSS = {
    "cross_call": cross_call,
    "cross_call_asleep": cross_call_asleep,
    "cross_cast": cross_cast,
    "payload": payload,
    "payload_bytes": payload_bytes,
}


def program(words: Sequence[str]) -> None:
    name, *numbers = words[1:]
    try:
        figures = {**HERE, **ACROSS}[name](*(int(number) for number in numbers if number.isdecimal()))
        print(FIGURES, *figures, flush=True)
    except Exception as error:
        print(f"{FAILED}{type(error).__name__}: {error}", flush=True)
    charm.exit()


def run(name: str) -> Callable[..., list[float]]:
    command = [sys.executable, "-m", *(["charmrun.start", "+p2", "++local", "-m"] if name in ACROSS else [])]

    def test(*numbers: int) -> list[float]:
        done = subprocess.run(
            [*command, "benchmarks.peers.charm4py", name, *map(str, numbers)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        for line in done.stdout.splitlines():
            if line.startswith(FIGURES):
                return [float(word) for word in line.removeprefix(FIGURES).split()]
        said = (done.stdout + done.stderr).strip().splitlines()
        why = [line.removeprefix(FAILED) for line in said if line.startswith(FAILED)] or said[-1:]
        raise RuntimeError(f"the program ended with exit code {done.returncode}: {' '.join(why)}")

    return test


TESTS = {name: run(name) for name in (*HERE, *ACROSS)}

if __name__ == "__main__":
    charm.options.quiet = True
    charm.start(program)
