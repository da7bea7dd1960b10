"""An unbalanced tree, searched by processes that all begin on one worker (after UTS, the Unbalanced Tree Search).

    parallel-actors run examples/unbalanced_tree.py                     some 120,000 nodes
    parallel-actors run examples/unbalanced_tree.py --roots 20000       twenty times as many
    parallel-actors run examples/unbalanced_tree.py --no-steal          every piece stays where it was spawned

A node has eight children or none, as its hash says, so nobody can tell how large a subtree is before it has been
searched: work like this can't be handed out fairly beforehand. A process searches up to `--piece` nodes (some
milliseconds) and spawns two others for what is left then. They are spawned where it runs itself, so all of them are on
the worker of the first, until other workers that have nothing to do take some of them. The plain loop at the end
searches the same tree.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import NamedTuple

import parallel_actors as pa

CHILDREN = 8
# Of a million nodes so many have children: on average one node has 0.9944, so the tree ends, but late.
FERTILE = 124_300

MASK = (1 << 64) - 1
LIMIT = (FERTILE << 64) // 1_000_000


# --- the tree ---------------------------------------------------------------------------------------------------------


def child_of(node: int, number: int) -> int:
    """A child's own number: 64 bits that look random, the same in each run (splitmix64)."""
    z = (node + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
    return z ^ z >> 31


def search(nodes: list[int], most: int = sys.maxsize) -> int:
    """Count the nodes of the subtrees of `nodes`, at most `most` of them: what isn't searched is left in `nodes`."""
    for count in range(most):
        if not nodes:
            return count
        node = nodes.pop()
        if node < LIMIT:
            nodes.extend([child_of(node, number) for number in range(CHILDREN)])
    return most


# --- the processes ----------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """From a piece to `main`: what it has counted, and who goes on."""

    piece: pa.Pid
    worker: int | None
    nodes: int
    others: list[pa.Pid]


def piece(nodes: list[int], most: int, stealable: bool, main: pa.Pid) -> None:
    """Search a part of the tree; two others search what is left."""
    count = search(nodes, most)
    others = [
        pa.options(stealable=stealable).spawn(piece, part, most, stealable, main)
        for part in (nodes[::2], nodes[1::2])
        if part
    ]
    pa.send(main, Found(pa.self_(), pa.worker_index(), count, others))


def search_by_processes(roots: list[int], most: int, stealable: bool) -> tuple[int, Counter[int | None]]:
    """The number of nodes, and how many pieces each worker has searched. All begin on worker 0."""
    first = pa.options(worker=0).spawn(piece, roots, most, stealable, pa.self_())
    count = 0
    pieces: Counter[int | None] = Counter()
    searched: set[pa.Pid] = set()
    # A piece names its others before it ends: so when nobody is watched any more, all have ended.
    watched = {pa.monitor(first)}
    while watched:
        match pa.receive(Found, pa.Down):
            case Found() as found:
                count += found.nodes
                pieces[found.worker] += 1
                searched.add(found.piece)
                watched |= {pa.monitor(other) for other in found.others}
            case pa.Down(ref=ref, pid=pid, reason=reason):
                watched.discard(ref)
                if pid not in searched:  # what it has found comes before its end
                    sys.exit(f"a piece was not searched: {reason}")
    return count, pieces


# --- the command line -------------------------------------------------------------------------------------------------


def number(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="unbalanced_tree.py", description="Count the nodes of an unbalanced tree.")
    parser.add_argument("--roots", metavar="N", type=number, default=1000, help="nodes at the top (default 1000)")
    parser.add_argument("--piece", metavar="N", type=number, default=4000, help="nodes in a piece (default 4000)")
    parser.add_argument("--no-steal", action="store_true", help="pieces run where they were spawned")
    options = parser.parse_args(args)
    roots = [child_of(1, root) for root in range(options.roots)]

    began = time.perf_counter()
    count, pieces = search_by_processes(roots, options.piece, not options.no_steal)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    plain = search(roots)
    plain_seconds = time.perf_counter() - began
    print(f"{count} nodes in {pieces.total()} pieces: {seconds:.2f} s")
    for worker in sorted(pieces, key=str):
        print(f"worker {worker}: {pieces[worker]} pieces")
    print(f"a plain loop: {plain_seconds:.2f} s, ratio {seconds / plain_seconds:.2f}")
    if count != plain:
        sys.exit(f"the counts differ: the loop finds {plain}")
    print("the counts are equal")
