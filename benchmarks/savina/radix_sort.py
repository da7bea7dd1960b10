"""Radix Sort: a pipeline of processes, one for each bit; all numbers pass through all of them. Streams of messages."""

from __future__ import annotations

import random

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"numbers": 50_000, "bits": 24}
QUICK = {"numbers": 50, "bits": 6}

SEED = 1


def sorter(bit: int, count: int, following: pa.Pid) -> None:
    """Hand on those without the bit at once, the others when all have come."""
    later = []
    for _ in range(count):
        number = pa.receive(int)
        if number >> bit & 1:
            later.append(number)
        else:
            pa.send(following, number)
    for number in later:
        pa.send(following, number)


def run(numbers: int, bits: int) -> None:
    source = random.Random(SEED)
    values = [source.getrandbits(bits) for _ in range(numbers)]
    following = pa.self_()
    for bit in reversed(range(bits)):
        worker = bit * pa.worker_count() // bits  # neighbours together
        following = pa.options(worker=worker).spawn_link(sorter, bit, numbers, following)
    for value in values:
        pa.send(following, value)
    expect("the numbers, sorted", sorted(values), [pa.receive(int) for _ in range(numbers)])
