"""Counting Actor: one process tells another to count, as often as it can, then asks. What a message costs."""

from __future__ import annotations

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"messages": 2_000_000}
QUICK = {"messages": 1_000}


class Counter(pa.Actor):
    def __init__(self) -> None:
        self.count = 0

    @pa.cast
    def increment(self) -> None:
        self.count += 1

    @pa.call
    def value(self) -> int:
        return self.count


def run(messages: int) -> None:
    counter = pa.start_link(Counter)
    for _ in range(messages):
        counter.increment()
    expect("the count", messages, counter.value())
    pa.stop(counter)
