"""Bitonic Sort: a network of thousands of processes, through which numbers flow one by one and come out in order.

A message is (port, number): which of a receiver's inputs it comes to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"values": 4_096}
QUICK = {"values": 16}

Input = tuple[pa.Pid, int]  # a process and its port


def put(to: Input, value: int) -> None:
    pid, port = to
    pa.send(pid, (port, value))


# --- the processes ----------------------------------------------------------------------------------------------------


def splitter(outs: Sequence[Input], length: int) -> None:
    """Deal numbers out in turn, so many at a time."""
    while True:
        for out in outs:
            for _ in range(length):
                _, value = pa.receive()
                put(out, value)


def joiner(out: Input, ports: int, length: int) -> None:
    """The other way round: take so many from each port in turn."""
    waiting: list[deque[int]] = [deque() for _ in range(ports)]
    while True:
        for queue in waiting:
            for _ in range(length):
                while not queue:
                    port, value = pa.receive()
                    waiting[port].append(value)
                put(out, queue.popleft())


def compare_exchange(out: Input, up: bool) -> None:
    while True:
        pair = pa.receive()[1], pa.receive()[1]
        for value in sorted(pair, reverse=not up):
            put(out, value)


# --- the network ------------------------------------------------------------------------------------------------------


class Builder:
    """Starts the processes of one stage, linked, on one worker; from the end, since each has to know who is next."""

    def __init__(self, worker: int) -> None:
        self.spawn_link = pa.options(worker=worker).spawn_link

    def stage(self, out: Input, values: int, length: int) -> Input:
        """Sorted pieces of `length` values from pieces of the half: in turn upwards and downwards, the last upwards."""
        if length == values:
            return self.merge(out, length, True)
        both = self.spawn_link(joiner, out, 2, length)
        return self.spawn_link(
            splitter, [self.merge((both, port), length, up) for port, up in enumerate((True, False))], length
        ), 0

    def merge(self, out: Input, length: int, up: bool) -> Input:
        part = 2
        while part <= length:
            out = self.partition(out, part, up)
            part *= 2
        return out

    def partition(self, out: Input, length: int, up: bool) -> Input:
        """Compare each number of the first half of `length` with that of the second, and exchange them if need be."""
        half = length // 2
        end = self.spawn_link(joiner, out, half, 1)
        pairs = [(self.spawn_link(compare_exchange, (end, port), up), 0) for port in range(half)]
        return self.spawn_link(splitter, pairs, 1), 0


def network(sink: pa.Pid, values: int) -> None:
    """Start all of it; it ends when this process does."""
    indices = pa.worker_indices()
    out, length = (sink, 0), values
    while length > 1:
        out = Builder(indices[length.bit_length() % len(indices)]).stage(out, values, length)
        length //= 2
    pa.send(sink, out)
    pa.receive("never")


def run(values: int) -> None:
    random = Random(2048)
    numbers = [random.randrange(1 << 59) for _ in range(values)]
    whole = pa.spawn_link(network, pa.self_(), values)
    begin = pa.receive((pa.Pid, int))
    for number in numbers:
        put(begin, number)
    result = [pa.receive((0, int))[1] for _ in numbers]
    pa.unlink(whole)
    pa.exit(whole, "shutdown")
    expect("places out of order", [], [(a, b) for a, b in pairwise(result) if a > b])
    expect("the sum", sum(numbers), sum(result))
