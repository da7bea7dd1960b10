"""Workloads of work that changes its worker. Each runs as a process on worker 0. They return figures in row order."""

from __future__ import annotations

import sys
import time

import parallel_actors as pa
from parallel_actors.bench.figures import percentile
from parallel_actors.bench.server import TypedCounter

__all__ = ["kept_tree", "migrate", "steal", "unbalanced_tree"]

clock = time.perf_counter  # the same clock for all OS processes of a machine


# --- one process ------------------------------------------------------------------------------------------------------

# Seconds that the owner of what is to be stolen doesn't turn, and that the thief is kept busy: work that is over sooner
# than a theft takes is left alone for longer.
_AWAY = 0.004
_WORTH = 0.000_2


def _begin(home: pa.Pid) -> None:
    began = clock()
    while clock() < began + _WORTH:
        pass
    pa.send(home, (pa.worker_index(), began))


def steal(count: int) -> list[float]:
    """Seconds, at the median, from a spawn on a worker that sits in a native call until the function begins on another.

    Those that nobody has taken meanwhile, since the other cores were busy, don't count.
    """
    me, here, taken = pa.self_(), pa.worker_index(), []
    for _ in range(count):
        with pa.no_preempt():
            spawned = clock()
            pa.spawn(_begin, me)
            time.sleep(_AWAY)
        worker, began = pa.receive(tuple)
        if worker != here:
            taken.append(began - spawned)
    if not taken:
        raise RuntimeError(f"expected some of {count} processes to be stolen, got none: no other core was free")
    return [percentile(taken, 0.5)]


def migrate(count: int) -> list[float]:
    """Seconds, at the median, for a typed actor with one attribute to move to worker 1, or back, and be there."""
    actor = pa.options(worker=0).start(TypedCounter)
    assert actor is not None
    taken: list[float] = []
    for number in range(count):
        began = clock()
        pa.migrate(actor, 1 - number % 2)
        taken.append(clock() - began)
    pa.stop(actor)
    return [percentile(taken, 0.5)]


# --- a tree that nobody can hand out fairly ---------------------------------------------------------------------------

# The tree of examples/unbalanced_tree.py, which says more about it.
_CHILDREN = 8
_LIMIT = (124_300 << 64) // 1_000_000
_MASK = (1 << 64) - 1


def _child_of(node: int, number: int) -> int:
    z = (node + (number + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
    return z ^ z >> 31


def _search(nodes: list[int], most: int = sys.maxsize) -> int:
    """Count at most `most` nodes of the subtrees of `nodes`, and leave the others there."""
    for count in range(most):
        if not nodes:
            return count
        node = nodes.pop()
        if node < _LIMIT:
            nodes.extend([_child_of(node, number) for number in range(_CHILDREN)])
    return most


def _piece(nodes: list[int], most: int, stealable: bool, home: pa.Pid) -> None:
    pa.link(home)  # where one fails, the workload does
    count = _search(nodes, most)
    others = [
        pa.options(stealable=stealable).spawn(_piece, part, most, stealable, home)
        for part in (nodes[::2], nodes[1::2])
        if part
    ]
    pa.send(home, (pa.self_(), count, others))
    pa.unlink(home)


def _alone(nodes: list[int]) -> tuple[int, float]:
    """The plain loop over the tree: its nodes, and seconds."""
    mine = list(nodes)
    began = clock()
    return _search(mine), clock() - began


def _by_processes(nodes: list[int], piece: int, stealable: bool, expected: int) -> float:
    """Seconds to search the tree by processes, the first of them here."""
    began = clock()
    found = 0
    left = {pa.spawn(_piece, nodes, piece, stealable, pa.self_())}
    while left:
        who, count, others = pa.receive(tuple)
        found += count
        # Whichever comes first: that it is there, from its parent, or that it is over, from itself.
        left ^= {who, *others}
    seconds = clock() - began
    if found != expected:
        raise RuntimeError(f"expected {expected} nodes, got {found}")
    return seconds


def _whole(nodes: list[int], home: pa.Pid) -> None:
    pa.link(home)
    pa.send(home, "ready")
    pa.receive("go")
    pa.send(home, _alone(nodes))
    pa.unlink(home)


def _at_once(nodes: list[int], expected: int) -> float:
    """Seconds, on the average, of plain loops on all workers at once, each over the whole tree."""
    loops = [pa.options(worker=worker).spawn(_whole, nodes, pa.self_()) for worker in pa.worker_indices()]
    for _ in loops:
        pa.receive("ready")
    for pid in loops:
        pa.send(pid, "go")
    found = [pa.receive((int, float)) for _ in loops]
    if any(count != expected for count, _ in found):
        raise RuntimeError(f"expected {expected} nodes from each, got {found}")
    return float(sum(seconds for _, seconds in found)) / len(found)


def unbalanced_tree(roots: int, piece: int) -> list[float]:
    """The time to search the tree, begun on worker 0, over that of a plain loop divided by the number of workers.

    Of one loop that has the machine to itself, before and after; and of loops that run on all workers at once, which
    share nothing. Between these two the second over the first: what the machine allows.
    """
    nodes = [_child_of(1, root) for root in range(roots)]
    expected, before = _alone(nodes)
    at_once = _at_once(nodes, expected)
    seconds = pa.worker_count() * _by_processes(nodes, piece, True, expected)
    alone = (before + _alone(nodes)[1]) / 2
    return [seconds / alone, at_once / alone, seconds / at_once]


def kept_tree(roots: int, piece: int) -> list[float]:
    """As `unbalanced_tree`, but nothing may be stolen."""
    nodes = [_child_of(1, root) for root in range(roots)]
    expected, before = _alone(nodes)
    seconds = pa.worker_count() * _by_processes(nodes, piece, False, expected)
    return [2 * seconds / (before + _alone(nodes)[1])]
