"""A million processes, and a message that goes through all of them.

    parallel-actors run examples/million.py                 1,000,000 processes on all workers (about 0.8 GB)
    parallel-actors run examples/million.py -n 100000

Each process waits for a number and hands it on, one more than it got, to the one before it. An `async def` body holds
only its frame while it waits: some 700 bytes.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import parallel_actors as pa


async def member(next_one: pa.Pid) -> None:
    """Hand one number on."""
    pa.send(next_one, await pa.areceive(int) + 1)


def build(count: int, end: pa.Pid, asker: pa.Pid) -> None:
    """Start a chain of `count` processes on this worker, the last of which talks to `end`; tell who is the first."""
    before, began = resident(), time.perf_counter()
    first = end
    for _ in range(count):
        first = pa.spawn(member, first)
    pa.send(asker, (first, time.perf_counter() - began, resident() - before))


def resident() -> int:
    """Bytes of memory that this worker has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="million.py", description="Send a message through a chain of processes.")
    parser.add_argument("-n", "--processes", metavar="N", type=int, default=1_000_000, help="default 1,000,000")
    count: int = parser.parse_args(args).processes
    if count < 1:
        parser.error(f"expected at least 1 process, got {count}")

    began = time.perf_counter()
    first = pa.self_()
    memory = 0
    workers = pa.worker_count()
    for worker in range(workers):
        share = count // workers + (worker < count % workers)
        # Linked: what goes wrong there, an exhausted memory say, ends main as well.
        builder = pa.options(worker=worker).spawn_link(build, share, first, pa.self_())
        first, seconds, used = pa.receive((pa.Pid, float, int))
        pa.monitor(builder)
        pa.receive(pa.Down)  # it has ended, and isn't counted
        memory += used
        print(f"worker {worker}: {share} processes in {seconds:.2f} s", flush=True)
    alive = count if count > 100_000 else len(pa.processes()) - 1  # the list of a million pids would be a long message
    print(f"{alive} processes wait: {time.perf_counter() - began:.2f} s, {memory / count:.0f} bytes each")

    began = time.perf_counter()
    pa.send(first, 0)
    hops = pa.receive(int)
    seconds = time.perf_counter() - began
    assert hops == count, hops
    print(f"the message has been through {hops} of them: {seconds:.2f} s, {seconds / hops * 1e6:.2f} us each")
