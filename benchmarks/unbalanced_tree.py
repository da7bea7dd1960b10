"""Draws docs/unbalanced_tree.svg: the time of examples/unbalanced_tree.py, with and without stealing.

    python benchmarks/unbalanced_tree.py                        five runs of each, on two workers
    python benchmarks/unbalanced_tree.py --runs 1 --roots 1000  a quick look

Runs with and without stealing take turns, so that both meet the same hours of a machine. A bar is the median, the line
on it goes from the least to the greatest. What was measured, and under which load, stands below the bars.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "unbalanced_tree.py"
PICTURE = ROOT / "docs" / "unbalanced_tree.svg"
PYTHON = platform.python_version()

SAID = re.compile(
    r"(?P<nodes>\d+) nodes in (?P<pieces>\d+) pieces: (?P<ours>[\d.]+) s\n(?:worker .*\n)+"
    r"a plain loop: (?P<plain>[\d.]+) s"
)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the example says: seconds by processes, and by the plain loop."""

    nodes: int
    ours: float
    plain: float


def run(workers: int, roots: int, *args: str) -> Run:
    """One run of the example."""
    command = [sys.executable, "-m", "parallel_actors", "run", "-w", str(workers), str(EXAMPLE), "--roots", str(roots)]
    done = subprocess.run([*command, *args], capture_output=True, text=True, check=False)
    said = SAID.search(done.stdout)
    if done.returncode or said is None or "the counts are equal" not in done.stdout:
        sys.exit(f"expected {' '.join(command)} to search the tree, it ended with {done.returncode}:\n{done.stderr}")
    return Run(int(said["nodes"]), float(said["ours"]), float(said["plain"]))


# --- the picture ------------------------------------------------------------------------------------------------------

LEFT, WIDTH, BAR, STEP = 170, 420, 26, 44


def drawn(bars: dict[str, list[float]], ideal: float, below: list[str]) -> str:
    """The SVG. bars: seconds of each; ideal: where the line of the fair share of the plain loop stands."""
    most = max(max(values) for values in bars.values())
    scale = WIDTH / most
    bottom = 30 + STEP * len(bars)
    height = bottom + 24 + 16 * len(below)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="680" height="{height}">',
        "<style>text { font: 13px sans-serif; fill: #1f2933 } .small { font-size: 11px }</style>",
        f'<rect width="680" height="{height}" fill="#ffffff"/>',
    ]
    for number, (label, values) in enumerate(bars.items()):
        top = 30 + STEP * number
        middle, value = top + BAR / 2, statistics.median(values)
        low, high, end = (LEFT + scale * seconds for seconds in (min(values), max(values), value))
        colour = "#2a7f62" if label == "with stealing" else "#9aa5b1"
        lines += [
            f'<text x="{LEFT - 10}" y="{middle + 5:g}" text-anchor="end">{label}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{end - LEFT:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<path d="M{low:.1f} {middle:g}H{high:.1f}" stroke="#1f2933" stroke-width="2"/>',
            f'<text x="{high + 8:.1f}" y="{middle + 5:g}">{value:.2f} s</text>',
        ]
    at = LEFT + scale * ideal
    lines += [
        f'<path d="M{at:.1f} 22V{bottom - 8}" stroke="#b44d12" stroke-dasharray="4 3"/>',
        f'<text x="{at:.1f}" y="16" text-anchor="middle" class="small">the loop, divided by the workers</text>',
    ]
    lines += [
        f'<text x="12" y="{bottom + 16 + 16 * number}" class="small">{text}</text>' for number, text in enumerate(below)
    ]
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure and draw examples/unbalanced_tree.py.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--roots", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    loads = [os.getloadavg()[0]]
    stealing: list[Run] = []
    kept: list[Run] = []
    for _ in range(options.runs):
        stealing.append(run(options.workers, options.roots))
        kept.append(run(options.workers, options.roots, "--no-steal"))
        loads.append(os.getloadavg()[0])
    plain = [one.plain for one in stealing + kept]
    ideal = statistics.median(plain) / options.workers
    ratio = statistics.median(one.ours / (one.plain / options.workers) for one in stealing)
    below = [
        f"{stealing[0].nodes:,} nodes; median, least and greatest of {options.runs} runs",
        f"{options.workers} workers on {os.cpu_count()} cores ({platform.machine()}), CPython {PYTHON}",
        f"load average {min(loads):.1f} to {max(loads):.1f}",
        f"with stealing: {ratio:.2f} times the loop's time divided by the workers (median of the runs' own ratios)",
    ]
    bars = {
        "plain loop": plain,
        "without stealing": [one.ours for one in kept],
        "with stealing": [one.ours for one in stealing],
    }
    PICTURE.write_text(drawn(bars, ideal, below))
    for label, values in bars.items():
        print(f"{label}: {statistics.median(values):.2f} s ({min(values):.2f} .. {max(values):.2f})")
    print(*below, sep="\n")


if __name__ == "__main__":
    main()
