"""The command: `python -m benchmarks`, ours beside the BEAM and what else Python has."""

from __future__ import annotations

import argparse
import sys
from difflib import get_close_matches
from pathlib import Path

from benchmarks.peers import PEERS
from benchmarks.peers.peer import Peer
from parallel_actors.bench.counterparts import CounterpartError
from parallel_actors.bench.runner import bench
from parallel_actors.cli.target import UsageError

BEAM = "beam"
KNOWN = (*PEERS, BEAM)


def known(name: str) -> str:
    """The name of a peer, or why it is none."""
    if name in KNOWN:
        return name
    near = get_close_matches(name, KNOWN, n=1)
    hint = f"did you mean {near[0]}? known are" if near else "known are"
    raise argparse.ArgumentTypeError(f"expected the name of a peer, got {name!r}; {hint} {', '.join(KNOWN)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="The workloads of `parallel-actors bench`, in turn with the BEAM's and those of Python's peers.",
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="what to measure (default: everything)")
    parser.add_argument(
        "--peers",
        metavar="PEER",
        nargs="+",
        type=known,
        default=KNOWN,
        help=f"beside whom (default: all that are installed): {', '.join(KNOWN)}",
    )
    parser.add_argument("--workers", type=int, help="ours (default: one per usable core)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one run of each")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures, and the ratios, to a file")
    options = parser.parse_args()
    peers, notes = [], []
    for name in dict.fromkeys(options.peers):
        if name == BEAM:
            continue
        try:
            peers.append(Peer(name))
        except CounterpartError as error:
            notes.append(f"without {name}: {error}")
    try:
        return bench(
            options.names,
            {"workers": options.workers},
            quick=options.quick,
            json_file=options.json,
            peers=peers,
            without_beam=BEAM not in options.peers,
            notes=notes,
        )
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
