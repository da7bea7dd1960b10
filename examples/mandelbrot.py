"""The Mandelbrot set as a picture, its rows computed by tasks on every core: plain Python, no NumPy.

    parallel-actors run examples/mandelbrot.py                              mandelbrot.png, 320 x 240
    parallel-actors run examples/mandelbrot.py --width 1920 --height 1080 --iterations 1000 --out set.png
    parallel-actors run examples/mandelbrot.py --at -0.7436 0.1318 --span 0.01
    parallel-actors run -w 1 examples/mandelbrot.py                         the same on one core, to compare

Rows differ in their work: those through the middle of the set take the longest. So each is a task of its own, and
whoever has finished one gets the next; the stream gives them back in order.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import parallel_actors as pa
from png import png


@dataclass(frozen=True)
class View:
    """The part of the complex plane that the picture shows, and how closely it looks."""

    width: int
    height: int
    iterations: int
    x: float
    y: float
    span: float  # from the left edge to the right one


def steps_to_leave(c: complex, most: int) -> int:
    """After how many steps z * z + c is sure to go to infinity; `most`: it isn't."""
    z = 0j
    for step in range(most):
        z = z * z + c
        if z.real * z.real + z.imag * z.imag > 4.0:
            return step
    return most


def colour(steps: int, most: int) -> bytes:
    """Black inside the set; outside from blue to white, the later it is left."""
    if steps == most:
        return b"\0\0\0"
    light = (steps / most) ** 0.4
    return bytes((round(255 * light**3), round(255 * light**1.5), round(80 + 175 * light)))


def row(view: View, number: int) -> bytes:
    """The pixels of one row."""
    pixel = view.span / view.width
    y = view.y + (view.height / 2 - number - 0.5) * pixel
    left = view.x - view.span / 2 + pixel / 2
    return b"".join(
        colour(steps_to_leave(complex(left + column * pixel, y), view.iterations), view.iterations)
        for column in range(view.width)
    )


def rows(view: View) -> Iterator[bytes]:
    """All rows, from the top, computed on every core."""
    # One that is computed and one that waits, for each worker: none has to wait for us to hand out the next.
    most = 2 * pa.worker_count()
    return pa.Task.async_stream(partial(row, view), range(view.height), max_concurrency=most, timeout=None)


def number(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="mandelbrot.py", description="A picture of the Mandelbrot set.")
    parser.add_argument("--width", metavar="N", type=number, default=320, help="of the picture (default 320)")
    parser.add_argument("--height", metavar="N", type=number, default=240, help="of the picture (default 240)")
    parser.add_argument("--iterations", metavar="N", type=number, default=200, help="for each pixel (default 200)")
    parser.add_argument("--at", metavar=("X", "Y"), nargs=2, type=float, default=(-0.6, 0.0), help="the middle")
    parser.add_argument("--span", metavar="S", type=float, default=3.2, help="how much is seen (default 3.2)")
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("mandelbrot.png"), help="where it goes")
    options = parser.parse_args(args)
    x, y = options.at
    view = View(options.width, options.height, options.iterations, x, y, options.span)
    began = time.perf_counter()
    picture = png(view.width, view.height, rows(view))
    options.out.write_bytes(picture)
    seconds = time.perf_counter() - began
    print(f"{options.out}: {view.width} x {view.height}, {len(picture)} bytes")
    print(f"{seconds:.2f} s on {pa.worker_count()} workers")
