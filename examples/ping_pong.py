"""Two processes that play ping pong.

    parallel-actors run examples/ping_pong.py                              three rounds, shown
    parallel-actors run examples/ping_pong.py --rounds 100000 --quiet      how long a round takes
    parallel-actors run -w 2 examples/ping_pong.py --apart --rounds 100000 --quiet

It shows messages in both directions: on one worker, where a message is handed over, and with `--apart` between two,
where it goes through shared memory.
"""

from __future__ import annotations

import argparse
import sys
import time

import parallel_actors as pa


def pong() -> None:
    """Answer each ("ping", sender, number) with ("pong", number)."""
    while True:
        match pa.receive():
            case ("ping", sender, number):
                pa.send(sender, ("pong", number))
            case "stop":
                return


def ping(player: pa.Pid, rounds: int, quiet: bool) -> float:
    """Play `rounds` rounds; the seconds that they took."""
    began = time.perf_counter()
    for number in range(1, rounds + 1):
        pa.send(player, ("ping", pa.self_(), number))
        pa.receive(("pong", number), timeout=10)
        if not quiet:
            print(f"ping {number} - pong {number}")
    return time.perf_counter() - began


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="ping_pong.py", description="Two processes play ping pong.")
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--apart", action="store_true", help="each on a worker of its own")
    parser.add_argument("--quiet", action="store_true", help="don't show the rounds")
    options = parser.parse_args(args)
    if options.rounds < 1:
        parser.error(f"expected --rounds to be at least 1, got {options.rounds}")
    if options.apart and pa.worker_count() == 1:
        sys.exit("expected two workers for --apart, got one: parallel-actors run -w 2 ...")

    # main runs on worker 0.
    player = pa.options(worker=1 if options.apart else 0).spawn_link(pong)
    seconds = ping(player, options.rounds, options.quiet)
    pa.send(player, "stop")
    where = "on two workers" if options.apart else "on one worker"
    print(f"{options.rounds} rounds {where}: {seconds / options.rounds * 1e6:.1f} us a round")
