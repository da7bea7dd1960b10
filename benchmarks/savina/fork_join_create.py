"""Fork Join (create): many processes that each take one message, compute a little and end. What a process costs."""

from __future__ import annotations

import math

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"processes": 40_000}
QUICK = {"processes": 100}


def compute(number: int) -> int:
    return int(math.sin(number) ** 2 * 1_000_000)


def once() -> None:
    sender, number = pa.receive()
    pa.send(sender, compute(number))


def run(processes: int) -> None:
    me = pa.self_()
    for number in range(processes):
        pa.send(pa.spawn_link(once), (me, number))
    total = sum(pa.receive(int) for _ in range(processes))
    expect("the sum of the results", sum(map(compute, range(processes))), total)
