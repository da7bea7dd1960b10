"""Precise Pi: the terms of a series with thousands of digits, handed to whoever has finished one."""

from __future__ import annotations

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"digits": 15_000, "actors": 20}
QUICK = {"digits": 200, "actors": 4}

GUARD = 10  # digits more, for what is cut off


def worker(master: pa.Pid, one: int) -> None:
    """Terms of Bailey, Borwein and Plouffe, in units of 1 / one; None ends it."""
    me = pa.self_()
    while (k := pa.receive()) is not None:
        term = 4 * one // (8 * k + 1) - 2 * one // (8 * k + 4) - one // (8 * k + 5) - one // (8 * k + 6)
        pa.send(master, (me, term >> 4 * k))


def arctan_of_one_by(x: int, one: int) -> int:
    total, power, n = 0, one // x, 1
    while power:
        total += power // n if n % 4 == 1 else -(power // n)
        power //= x * x
        n += 2
    return total


def run(digits: int, actors: int) -> None:
    one = 10 ** (digits + GUARD)
    indices = pa.worker_indices()
    workers = [
        pa.options(worker=indices[actor % len(indices)]).spawn_link(worker, pa.self_(), one) for actor in range(actors)
    ]
    for k, pid in enumerate(workers):
        pa.send(pid, k)
    pi, following, under_way = 0, actors, actors
    while under_way:
        pid, term = pa.receive((pa.Pid, int))
        pi += term
        if term:
            pa.send(pid, following)
            following += 1
        else:  # too small to count, as all after it
            pa.send(pid, None)
            under_way -= 1
    machin = 4 * (4 * arctan_of_one_by(5, one) - arctan_of_one_by(239, one))
    expect("whether all digits are right", True, abs(pi - machin) < 10**GUARD)
