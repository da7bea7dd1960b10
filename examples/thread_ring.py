"""A ring of processes that hand a number on until it is 0 (the benchmark ThreadRing of Savina).

    parallel-actors run examples/thread_ring.py                            100 processes, 100,000 hops
    parallel-actors run examples/thread_ring.py -n 10000 --hops 1000000
    parallel-actors run examples/thread_ring.py --spread                   neighbours on different workers

Only one process has something to do at any time, so this shows what a hop costs, not what many cores do: spread over
the workers it is slower, since each hop wakes another core.
"""

from __future__ import annotations

import argparse
import time

import parallel_actors as pa


def member(number: int, main: pa.Pid) -> None:
    """Learn who comes next, then hand on what comes."""
    next_one = pa.receive(pa.Pid)
    while True:
        left = pa.receive(int)
        if left == 0:
            pa.send(main, number)
            return
        pa.send(next_one, left - 1)


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="thread_ring.py", description="Hand a number on in a ring of processes.")
    parser.add_argument("-n", "--processes", metavar="N", type=int, default=100, help="in the ring (default 100)")
    parser.add_argument(
        "--hops", metavar="M", type=int, default=100_000, help="how often it is handed on (default 100,000)"
    )
    parser.add_argument("--spread", action="store_true", help="over all workers, in turn")
    options = parser.parse_args(args)
    if options.processes < 1 or options.hops < 0:
        parser.error(f"expected at least 1 process and 0 hops, got {options.processes} and {options.hops}")

    ring = [
        # Links: when main ends, so do they.
        pa.options(worker=number % pa.worker_count() if options.spread else 0).spawn_link(member, number, pa.self_())
        for number in range(options.processes)
    ]
    for pid, next_one in zip(ring, [*ring[1:], ring[0]], strict=True):
        pa.send(pid, next_one)
    began = time.perf_counter()
    pa.send(ring[0], options.hops)
    last = pa.receive(int)
    seconds = time.perf_counter() - began
    print(f"{options.processes} processes, {options.hops} hops: it ended at process {last}")
    print(f"{seconds:.2f} s, {seconds / max(1, options.hops) * 1e6:.2f} us a hop")
