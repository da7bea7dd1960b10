"""Quicksort: a process splits its list and has two others sort the parts, until these are short. Lists as messages."""

from __future__ import annotations

from random import Random

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"values": 200_000, "threshold": 2_048}
QUICK = {"values": 2_000, "threshold": 100}


def split(values: list[int]) -> tuple[list[int], list[int], list[int]]:
    """The less, the equal and the greater ones, seen from the one in the middle."""
    pivot = values[len(values) // 2]
    return [v for v in values if v < pivot], [v for v in values if v == pivot], [v for v in values if v > pivot]


def quicksort(values: list[int]) -> list[int]:
    if len(values) < 2:
        return values
    less, equal, greater = split(values)
    return quicksort(less) + equal + quicksort(greater)


def sorter(parent: pa.Pid, side: str, threshold: int) -> None:
    """Sort the list that comes, and send it to the parent."""
    values = pa.receive(list)
    if len(values) < threshold:
        pa.send(parent, (side, quicksort(values)))
        return
    less, equal, greater = split(values)
    for part, its_side in ((less, "left"), (greater, "right")):
        # The list comes as a message: idle workers take what has only small arguments.
        pa.send(pa.spawn_link(sorter, pa.self_(), its_side, threshold), part)
    _, left = pa.receive(("left", list))
    _, right = pa.receive(("right", list))
    pa.send(parent, (side, left + equal + right))


def run(values: int, threshold: int) -> None:
    random = Random(1024)
    numbers = [random.randrange(1 << 59) for _ in range(values)]
    pa.send(pa.spawn_link(sorter, pa.self_(), "whole", threshold), numbers)
    _, result = pa.receive(("whole", list))
    expect("whether the list is sorted", True, result == sorted(numbers))
