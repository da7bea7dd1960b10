"""Sixteen endless loops of varied Python code: the ones that others have to live beside.

A lap takes well under a millisecond.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["LAPS", "alone", "hog"]


def arithmetic() -> None:
    x = 1
    for _ in range(1000):
        x = (x * 75 + 74) & 0xFFFF


def big_numbers() -> None:
    x = 3
    for _ in range(200):
        x = (x * 1103515245 + 12345) % (1 << 200)


def floats() -> None:
    x = 0.5
    for _ in range(1000):
        x = 3.7 * x * (1.0 - x)


def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def recursion() -> None:
    fib(12)


def lists() -> None:
    values = list(range(500))
    while len(values) > 1:
        values.append(values.pop() + values.pop())


def dicts() -> None:
    counts: dict[int, int] = {}
    for number in range(500):
        counts[number % 37] = counts.get(number % 37, 0) + 1


def sets() -> None:
    left = {number * 3 for number in range(200)}
    right = {number * 5 for number in range(200)}
    for _ in range(10):
        len(left & right | {1})


def strings() -> None:
    for number in range(200):
        f"{number:>8}".strip().replace("1", "one").upper()


def joins() -> None:
    for _ in range(20):
        ",".join(str(number) for number in range(50)).split(",")


def generators() -> None:
    sum(number * number for number in range(1000))


def comprehensions() -> None:
    for _ in range(5):
        [x + y for x in range(14) for y in range(14)]


def sorting() -> None:
    sorted(((number * 7919) % 1009 for number in range(300)), key=lambda x: -x)


def exceptions() -> None:
    for number in range(300):
        try:
            raise ValueError(number)
        except ValueError as error:
            str(error)


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def moved(self, by: int) -> Point:
        return Point(self.x + by)


def objects() -> None:
    point = Point(0)
    for _ in range(300):
        point = point.moved(1)


def closures() -> None:
    total = 0

    def add(x: int) -> None:
        nonlocal total
        total += x

    for number in range(600):
        add(number)


def byte_arrays() -> None:
    data = bytearray(256)
    for number in range(600):
        data[number & 255] ^= number & 255


LAPS: list[Callable[[], object]] = [
    arithmetic,
    big_numbers,
    floats,
    recursion,
    lists,
    dicts,
    sets,
    strings,
    joins,
    generators,
    comprehensions,
    sorting,
    exceptions,
    objects,
    closures,
    byte_arrays,
]


def hog(number: int, laps: list[int]) -> None:
    """Run a loop for ever, and count its laps."""
    lap = LAPS[number]
    while True:
        lap()
        laps[number] += 1


def alone(number: int) -> float:
    """Seconds that a lap takes when nothing else runs: the best of some."""
    lap = LAPS[number]
    best = 1.0
    for _ in range(100):
        began = time.perf_counter()
        lap()
        best = min(best, time.perf_counter() - began)
    return best
