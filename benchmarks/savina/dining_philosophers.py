"""Dining Philosophers: they ask an arbiter for two forks each, again and again. What a small call costs, or a refusal.

A fork is a number, how often it has been used. Whoever gets it gives it back one greater: two that had it at the same
time would lose a use.
"""

from __future__ import annotations

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"philosophers": 20, "meals": 10_000}
QUICK = {"philosophers": 5, "meals": 20}


class Arbiter(pa.Actor):
    def __init__(self, forks: int) -> None:
        self.uses = [0] * forks
        self.free = [True] * forks

    @pa.call
    def hungry(self, place: int) -> tuple[int, int] | None:
        """Both forks; None if one of them isn't there."""
        left, right = place, (place + 1) % len(self.uses)
        if not (self.free[left] and self.free[right]):
            return None
        self.free[left] = self.free[right] = False
        return self.uses[left], self.uses[right]

    @pa.cast
    def done(self, place: int, left_uses: int, right_uses: int) -> None:
        left, right = place, (place + 1) % len(self.uses)
        self.uses[left], self.uses[right] = left_uses, right_uses
        self.free[left] = self.free[right] = True

    @pa.call
    def forks(self) -> list[tuple[int, bool]]:
        return list(zip(self.uses, self.free, strict=True))


def philosopher(arbiter: Arbiter, place: int, meals: int) -> None:
    while meals:
        forks = arbiter.hungry.options(timeout=None)(place)
        if forks is not None:
            left, right = forks
            arbiter.done(place, left + 1, right + 1)
            meals -= 1


def run(philosophers: int, meals: int) -> None:
    arbiter = pa.start_link(Arbiter, philosophers)
    tasks = [pa.Task.async_(philosopher, arbiter, place, meals) for place in range(philosophers)]
    pa.Task.await_many(tasks, timeout=None)
    expect("how often each fork was used", [(2 * meals, True)] * philosophers, arbiter.forks())
    pa.stop(arbiter)
