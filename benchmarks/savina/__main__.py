"""The command: `python -m benchmarks.savina`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import parallel_actors as pa
from benchmarks.savina import PROGRAMS, Timed
from parallel_actors.bench import report
from parallel_actors.bench.catalog import Part
from parallel_actors.bench.figures import Row
from parallel_actors.bench.runner import BenchFailed, measure
from parallel_actors.config import resolve

BEAM = Path(__file__).parent.parent / "beam"


def part_of(name: str) -> Part:
    module = importlib.import_module(f"benchmarks.savina.{name}")
    theirs = (BEAM / f"savina_{name}.erl").is_file()
    return Part(
        name,
        (Row(name, "s"),),
        Timed(module.run),
        module.PARAMETERS,
        module.QUICK,
        beam=(f"savina_{name}", *module.PARAMETERS) if theirs else (),
        timed=True,
        schedulers="all",
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.savina", description="The Savina actor benchmarks.")
    parser.add_argument("programs", metavar="NAME", nargs="*", help=f"some of: {', '.join(PROGRAMS)}")
    parser.add_argument("--workers", type=int, action="append", help="how many, once or more (default 1, then 2)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one run of each")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures to a file")
    options = parser.parse_args()
    for name in options.programs:
        if name not in PROGRAMS:
            parser.error(f"expected the name of a program, got {name!r}; known are {', '.join(PROGRAMS)}")
    parts = [part_of(name) for name in options.programs or PROGRAMS]
    figures = []
    for workers in options.workers or (1, 2):
        try:
            measured, notes = measure(
                parts, resolve(workers=workers), quick=options.quick, modules=sorted(BEAM.glob("savina_*.erl"))
            )
        except (BenchFailed, pa.StartError) as failure:
            print(f"Error: {failure}", file=sys.stderr)
            return 1
        print(f"\n{workers} workers\n" if workers > 1 else "\n1 worker\n")
        report.show(measured, notes)
        figures += [figure.as_json() for one in measured for figure in one.figures()]
    print(f"\n{len(parts)} programs, each result as it has to be")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
