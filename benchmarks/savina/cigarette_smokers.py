"""Cigarette Smokers: an arbiter has one of many smokers smoke, and goes on when he has begun. One of many has work."""

from __future__ import annotations

import random

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"rounds": 20_000, "smokers": 200, "longest": 500}
QUICK = {"rounds": 50, "smokers": 5, "longest": 20}

SEED = 1


class Smoker(pa.Actor):
    def __init__(self) -> None:
        self.puffs = 0

    @pa.cast
    def smoke(self, puffs: int, arbiter: pa.Pid) -> None:
        pa.send(arbiter, "started smoking")
        for _ in range(puffs):
            self.puffs += 1

    @pa.call
    def smoked(self) -> int:
        return self.puffs


def run(rounds: int, smokers: int, longest: int) -> None:
    me = pa.self_()
    all_of_them = [pa.options(worker=n % pa.worker_count()).start_link(Smoker) for n in range(smokers)]
    numbers = random.Random(SEED)
    for _ in range(rounds):
        smoker, puffs = numbers.randrange(smokers), 1 + numbers.randrange(longest)
        all_of_them[smoker].smoke(puffs, me)
        pa.receive("started smoking")
    smoked = [smoker.smoked.options(timeout=None)() for smoker in all_of_them]
    for one in all_of_them:
        pa.stop(one)

    expected = [0] * smokers
    numbers = random.Random(SEED)
    for _ in range(rounds):
        smoker = numbers.randrange(smokers)
        expected[smoker] += 1 + numbers.randrange(longest)
    expect("the puffs", expected, smoked)
