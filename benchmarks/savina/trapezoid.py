"""Trapezoidal Approximation: an integral, a share of it for each worker. Computing, and next to no messages."""

from __future__ import annotations

from math import exp, sin, sqrt

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"pieces": 1_000_000, "actors": 100}
QUICK = {"pieces": 2_000, "actors": 10}

LEFT, RIGHT = 1.0, 5.0


def f(x: float) -> float:
    return sin(x**3 - 1) / (x + 1) * sqrt(1 + exp(sqrt(2 * x)))


def worker(master: pa.Pid, first: int, after: int, width: float) -> None:
    area = 0.0
    for piece in range(first, after):
        x = LEFT + piece * width
        area += (f(x) + f(x + width)) / 2 * width
    pa.send(master, area)


def simpson(parts: int) -> float:
    """The same by another rule, which needs far fewer points."""
    width = (RIGHT - LEFT) / parts
    inner = sum((4 if part % 2 else 2) * f(LEFT + part * width) for part in range(1, parts))
    return (f(LEFT) + inner + f(RIGHT)) * width / 3


def run(pieces: int, actors: int) -> None:
    me, width = pa.self_(), (RIGHT - LEFT) / pieces
    for actor in range(actors):
        pa.spawn_link(worker, me, actor * pieces // actors, (actor + 1) * pieces // actors, width)
    area = sum(pa.receive(float) for _ in range(actors))
    # The rule's own error falls with the square of the number of pieces.
    near = abs(area - simpson(4_000)) < 1e-8 + 50 / pieces**2
    expect(f"whether the area, {area}, is right", True, near)
