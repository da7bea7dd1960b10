"""Endless loops beside a process that keeps answering: nobody can starve the others of a worker.

    parallel-actors run examples/runaway.py                    16 endless loops on one worker, for 3 seconds
    parallel-actors run examples/runaway.py --loops 100 --seconds 10

The loops never call the library. A timer signal cuts each when it has had its 2 ms and others wait; what was cut stands
behind those that weren't. At the end they are killed, in the middle of whatever they compute.
"""

from __future__ import annotations

import argparse
import itertools
import re
import time

import parallel_actors as pa

LOOPS = {
    "counts": lambda n: sum(range(n)),
    "sorts": lambda n: sorted(range(n), key=lambda number: -number),
    "matches": lambda n: re.sub(r"(a|b)+c", lambda match: match[0].upper(), "ababc" * n),
    "recurses": lambda n: fib(n % 20),
    "formats": lambda n: [f"{number:>8,}" for number in range(n)],
    "raises": lambda n: [catch() for _ in range(n)],
}


def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def catch() -> bool:
    try:
        raise ValueError
    except ValueError:
        return True


def loop(kind: str, rounds: dict[int, int], number: int) -> None:
    """Compute for ever."""
    for n in itertools.count(100):
        LOOPS[kind](n % 1000)
        rounds[number] += 1


# What the loops of one worker have done: a module's globals belong to the worker, and all its processes see them.
ROUNDS: dict[int, int] = {}


def run_away(number: int, kind: str) -> None:
    ROUNDS[number] = 0
    loop(kind, ROUNDS, number)


def tell_rounds(asker: pa.Pid) -> None:
    pa.send(asker, dict(ROUNDS))


def answer() -> None:
    """Answer whoever asks."""
    while True:
        asker, question = pa.receive((pa.Pid, pa.ANY))
        pa.send(asker, ("answer", question))


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="runaway.py", description="Ask a process beside endless loops.")
    parser.add_argument("--loops", metavar="N", type=int, default=16, help="endless loops (default 16)")
    parser.add_argument("--seconds", metavar="S", type=float, default=3.0, help="how long (default 3)")
    options = parser.parse_args(args)
    if options.loops < 0 or options.seconds <= 0:
        parser.error(f"expected 0 loops or more, and some seconds, got {options.loops} and {options.seconds}")

    here = pa.options(worker=pa.worker_index())
    kinds = itertools.cycle(LOOPS)
    loops = [here.spawn_monitor(run_away, number, next(kinds)) for number in range(options.loops)]
    server = here.spawn(answer)

    latencies: list[float] = []
    until = time.monotonic() + options.seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        pa.send(server, (pa.self_(), len(latencies)))
        pa.receive(("answer", len(latencies)), timeout=60)
        latencies.append(time.perf_counter() - began)

    latencies.sort()
    p50, p99, p999 = (latencies[int(len(latencies) * part)] for part in (0.5, 0.99, 0.999))
    print(f"{options.loops} endless loops and {len(latencies)} answers on one worker in {options.seconds:g} s")
    print(
        f"an answer took {p50 * 1e6:.1f} us (p50), {p99 * 1e6:.1f} us (p99), {p999 * 1e6:.1f} us (p99.9), "
        f"{latencies[-1] * 1e3:.1f} ms at most"
    )
    here.spawn(tell_rounds, pa.self_())
    rounds = pa.receive(dict)
    print(f"rounds of the loops: {', '.join(str(rounds[number]) for number in sorted(rounds))}")
    for pid, _ in loops:
        pa.exit(pid, "kill")
    reasons = {pa.receive(pa.Down(ref, pid, pa.ANY), timeout=60).reason for pid, ref in loops}
    print(f"they are killed: {', '.join(sorted(map(str, reasons))) or 'there were none'}")
