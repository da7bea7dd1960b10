"""Fibonacci: a process has two others compute the two numbers before its own. What a short life costs."""

from __future__ import annotations

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"n": 22}
QUICK = {"n": 10}


async def fibonacci(n: int, parent: pa.Pid) -> None:
    if n <= 2:
        pa.send(parent, 1)
        return
    for less in (1, 2):
        pa.spawn_link(fibonacci, n - less, pa.self_())
    pa.send(parent, await pa.areceive(int) + await pa.areceive(int))


def run(n: int) -> None:
    pa.spawn_link(fibonacci, n, pa.self_())
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    expect(f"fibonacci({n})", a, pa.receive(int))
