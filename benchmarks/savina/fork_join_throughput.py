"""Fork Join (throughput): many actors that get messages in turn. What dispatching costs, with a little work."""

from __future__ import annotations

import math

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"actors": 60, "messages": 10_000}
QUICK = {"actors": 6, "messages": 20}


class Adder(pa.Actor):
    def __init__(self) -> None:
        self.total = 0.0

    @pa.cast
    def add(self, number: int) -> None:
        self.total += math.sin(number) ** 2

    @pa.call
    def sum(self) -> float:
        return self.total


def run(actors: int, messages: int) -> None:
    adders = [pa.options(worker=number % pa.worker_count()).start_link(Adder) for number in range(actors)]
    for number in range(messages):
        for adder in adders:
            adder.add(number)
    # The order of a sum of floats matters: they are equal only if each actor got all its messages in order.
    total = 0.0
    for number in range(messages):
        total += math.sin(number) ** 2
    expect("the sums", [total] * actors, [adder.sum.options(timeout=None)() for adder in adders])
    for adder in adders:
        pa.stop(adder)
