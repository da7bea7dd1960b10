"""Thread Ring: a number goes round a ring of processes, one less at each. What a switch to another one costs."""

from __future__ import annotations

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"processes": 100, "hops": 1_000_000}
QUICK = {"processes": 10, "hops": 1_000}


def member(home: pa.Pid, place: int) -> None:
    next_one = pa.receive(pa.Pid)
    passed = 0
    while (left := pa.receive()) != "stop":
        if left == 0:
            pa.send(home, ("last", place))
        else:
            passed += 1
            pa.send(next_one, left - 1)
    pa.send(home, (place, passed))


def run(processes: int, hops: int) -> None:
    ring = [pa.spawn_link(member, pa.self_(), place) for place in range(processes)]
    for pid, next_one in zip(ring, [*ring[1:], ring[0]], strict=True):
        pa.send(pid, next_one)
    pa.send(ring[0], hops)
    expect("where it ended", hops % processes, pa.receive(("last", int))[1])
    for pid in ring:
        pa.send(pid, "stop")
    rounds, more = divmod(hops, processes)
    counts = dict(pa.receive((int, int)) for _ in ring)
    expect("who passed it how often", {place: rounds + (place < more) for place in range(processes)}, counts)
