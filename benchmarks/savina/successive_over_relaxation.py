"""Successive Over-Relaxation: a grid of cells, each a process that knows its neighbours only.

Red and black cells take turns: a cell waits for the values of its neighbours, has a new one, and sends it to them. Two
halves of the grid are set up by two processes, which give each other the cells along the border.
"""

from __future__ import annotations

from random import Random

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"size": 30, "iterations": 100}
QUICK = {"size": 6, "iterations": 5}

OMEGA = 1.25

Place = tuple[int, int]


def neighbours(place: Place, size: int) -> list[Place]:
    x, y = place
    around = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]
    return [(x, y) for x, y in around if 0 <= x < size and 0 <= y < size]


def relaxed(place: Place, size: int, value: float, total: float) -> float:
    """A cell's next value; those at the edge keep theirs."""
    return OMEGA / 4 * total + (1 - OMEGA) * value if {*place}.isdisjoint({0, size - 1}) else value


def is_red(place: Place) -> bool:
    return sum(place) % 2 == 0


def cell(collector: pa.Pid, place: Place, size: int, value: float, iterations: int) -> None:
    others = pa.receive(list)
    if is_red(place):
        for other in others:
            pa.send(other, value)
    for iteration in range(1, iterations + 1):
        total = 0.0
        for _ in others:
            total += pa.receive(float)
        value = relaxed(place, size, value, total)
        if iteration < iterations or not is_red(place):
            for other in others:
                pa.send(other, value)
    pa.send(collector, (place, value))


def half(master: pa.Pid, values: dict[Place, float], size: int, iterations: int) -> None:
    """Set up the cells that have these values, and send the master what they have in the end."""
    peer = pa.receive(pa.Pid)
    cells = {place: pa.spawn_link(cell, pa.self_(), place, size, value, iterations) for place, value in values.items()}
    pa.send(peer, {place: pid for place, pid in cells.items() if place[0] in (size // 2 - 1, size // 2)})
    everywhere = pa.receive(dict) | cells
    for place, pid in cells.items():
        pa.send(pid, [everywhere[other] for other in neighbours(place, size)])
    pa.send(master, dict(pa.receive((tuple, float)) for _ in cells))


def plain(values: dict[Place, float], size: int, iterations: int) -> dict[Place, float]:
    """The same by a loop."""
    values = dict(values)
    for turn in range(2 * iterations):
        for place, value in values.items():
            if is_red(place) == bool(turn % 2):
                values[place] = relaxed(place, size, value, sum(values[other] for other in neighbours(place, size)))
    return values


def run(size: int, iterations: int) -> None:
    random, indices = Random(10101010), pa.worker_indices()
    values = {(x, y): random.random() * 1e-6 for x in range(size) for y in range(size)}
    left = {place: value for place, value in values.items() if place[0] < size // 2}
    right = {place: value for place, value in values.items() if place not in left}
    halves = [
        pa.options(worker=indices[number % len(indices)]).spawn_link(half, pa.self_(), part, size, iterations)
        for number, part in enumerate((left, right))
    ]
    for pid, peer in zip(halves, reversed(halves), strict=True):
        pa.send(pid, peer)
    result = pa.receive(dict) | pa.receive(dict)
    expected = plain(values, size, iterations)
    # The values of its neighbours come to a cell in any order, so its sum may differ by what is rounded.
    wrong = [place for place in values if abs(result[place] - expected[place]) > 1e-12 * expected[place]]
    expect("cells that are wrong", [], wrong)
