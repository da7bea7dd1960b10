"""A* Search: workers look for a way through a grid in three dimensions, the pieces that are near its end first.

The edges lie in memory that all workers share, and so do the ways back: whoever reaches a node first is the one who
writes down where he came from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import islice, pairwise
from random import Random

import parallel_actors as pa
from benchmarks.savina import expect
from parallel_actors.atomics import AtomicsRef

PARAMETERS = {"grid": 150, "threshold": 1_024, "actors": 20}
QUICK = {"grid": 8, "threshold": 64, "actors": 4}

STEPS = ((0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0))

ORIGIN = 0


def onward(node: int, grid: int, edges: memoryview) -> list[int]:
    """The nodes that an edge leads to from this one."""
    rest, k = divmod(node, grid)
    i, j = divmod(rest, grid)
    return [
        node + (x * grid + y) * grid + z
        for bit, (x, y, z) in enumerate(STEPS)
        if edges[node] >> bit & 1 and i + x < grid and j + y < grid and k + z < grid
    ]


def distance(node: int, target: int, grid: int) -> int:
    """How far it is, at least: each step counts once, in however many directions."""
    rest, k = divmod(node, grid)
    to_rest, to_k = divmod(target, grid)
    return max(abs(to_rest // grid - rest // grid), abs(to_rest % grid - rest % grid), abs(to_k - k))


class Worker(pa.Actor):
    def __init__(self, edges: pa.Shared, parents: AtomicsRef, grid: int, target: int, threshold: int) -> None:
        self.edges = memoryview(edges)
        self.parents = parents
        self.grid, self.target, self.threshold = grid, target, threshold

    @pa.cast
    def search(self, master: pa.Pid, number: int, node: int) -> None:
        """Look at some nodes from this one on; the master gets those that are left, or the target."""
        left = deque([node])
        for _ in range(self.threshold):
            if not left:
                break
            node = left.popleft()
            for other in onward(node, self.grid, self.edges):
                # A parent is one more than its number: 0 is none.
                if pa.atomics.compare_exchange(self.parents, other, 0, node + 1) is None:
                    if other == self.target:
                        pa.send(master, (number, [other]))
                        return
                    left.append(other)
        pa.send(master, (number, list(left)))


def way_back(node: int, parents: AtomicsRef) -> Iterator[int]:
    yield node
    while node != ORIGIN:
        node = pa.atomics.get(parents, node) - 1
        yield node


def run(grid: int, threshold: int, actors: int) -> None:
    edges = Random(123456).randbytes(grid**3)  # of a node, a bit for each step
    target = (grid * 4 // 5) * (grid * grid + grid + 1)
    shared, parents = pa.share(edges), pa.atomics.new(grid**3, signed=False)
    pa.atomics.put(parents, ORIGIN, ORIGIN + 1)
    indices = pa.worker_indices()
    workers = [
        pa.options(worker=indices[actor % len(indices)]).start_link(Worker, shared, parents, grid, target, threshold)
        for actor in range(actors)
    ]
    me, work, idle, found = pa.self_(), [(0, ORIGIN)], deque(range(actors)), False
    while len(idle) < actors or (work and not found):
        while work and idle and not found:
            number = idle.popleft()
            workers[number].search(me, number, heappop(work)[1])
        number, left = pa.receive((int, list))
        idle.append(number)
        found = found or target in left
        for node in left:
            heappush(work, (distance(node, target, grid), node))
    for worker in workers:
        pa.stop(worker)

    expect("whether the target was found", True, found)
    # Each step is nearer to the origin in one direction at least.
    way = list(islice(way_back(target, parents), 3 * grid))[::-1]
    expect("the ends of the way", (ORIGIN, target), (way[0], way[-1]))
    seen = memoryview(edges)
    expect("steps without an edge", [], [(a, b) for a, b in pairwise(way) if b not in onward(a, grid, seen)])
