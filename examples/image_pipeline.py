"""Pictures through a pipeline: made, filtered on every core and written as PNGs, under a supervisor (needs NumPy).

    parallel-actors run examples/image_pipeline.py                          twelve pictures, into ./pictures
    parallel-actors run examples/image_pipeline.py --count 100 --size 1024 --out big_pictures
    parallel-actors run examples/image_pipeline.py --crash                  kills a filter on the way

    Source -> (number, picture) -> Filter, one on each worker -> (number, picture) -> Writer
       ^----------------------------- (number is written) ----------------------------'

The source sends the next picture when one has been written, so never more than `--in-flight` are on their way, however
slow the others are. What has been written is on disk: a writer that is started anew finds it there, and a source that
is started anew makes what is missing. So the order of the children, and "rest_for_one", is all there is for when one
of them dies: those behind it are started anew, and the source is the last.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

import parallel_actors as pa
from png import png

Picture = npt.NDArray[np.uint8]  # height x width x (red, green, blue)


# --- pictures ---------------------------------------------------------------------------------------------------------


def generated(number: int, size: int) -> Picture:
    """A picture to begin with: discs on a gradient, with noise; the same for the same number."""
    generator = np.random.default_rng(number)
    y, x = np.mgrid[0:size, 0:size] / size
    picture = np.stack([x, y, 1 - x], axis=2) * 160
    for _ in range(8):
        centre_x, centre_y, radius = generator.random(3) * (1, 1, 0.2)
        inside = (x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2
        picture[inside] = generator.integers(0, 256, 3)
    noisy = picture + generator.normal(0, 25, picture.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def smoothed(picture: Picture, radius: int = 2) -> Picture:
    """Each pixel the mean of its neighbours, first along the columns and then along the rows."""
    mean = picture.astype(np.float64)
    width = 2 * radius + 1
    for axis in (0, 1):
        around = [(radius, radius) if each == axis else (0, 0) for each in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(mean, around, mode="edge"), width, axis=axis)
        mean = windows.mean(axis=-1)
    return mean.round().astype(np.uint8)


def file_of(folder: Path, number: int) -> Path:
    return folder / f"picture-{number:04}.png"


# --- the actors -------------------------------------------------------------------------------------------------------


class Writer(pa.Actor):
    """Writes the pictures. Knows what there is by looking."""

    def __init__(self, folder: Path, count: int, main: pa.Pid) -> None:
        self.folder = folder
        self.main = main
        self.missing = {number for number in range(count) if not file_of(folder, number).exists()}
        for number in set(range(count)) - self.missing:  # written, and perhaps not told before we were started anew
            pa.send(main, ("written", number))

    @pa.call
    def still_missing(self) -> list[int]:
        return sorted(self.missing)

    @pa.cast
    def write(self, number: int, picture: Picture) -> None:
        if number in self.missing:  # one comes twice where a source was started anew
            height, width, _ = picture.shape
            # Under another name first: a file that is there is whole.
            unfinished = self.folder / f"unfinished-{number}"
            unfinished.write_bytes(png(width, height, (row.tobytes() for row in picture)))
            unfinished.rename(file_of(self.folder, number))
            self.missing.discard(number)
            pa.send(self.main, ("written", number))
        pa.ref(Source, "source").written(number)


class Filter(pa.Actor):
    """Smoothes pictures, one after the other."""

    @pa.cast
    def smooth(self, number: int, picture: Picture) -> None:
        pa.ref(Writer, "writer").write(number, smoothed(picture))


class Source(pa.Actor):
    """Makes the pictures that are missing, a few at a time, and gives them to the filters in turn."""

    def __init__(self, size: int, filters: list[str], in_flight: int) -> None:
        self.size = size
        self.filters = filters
        self.waiting = pa.ref(Writer, "writer").still_missing()[::-1]
        self.under_way: set[int] = set()
        for _ in range(in_flight):
            self.send_next()

    def send_next(self) -> None:
        if self.waiting:
            number = self.waiting.pop()
            self.under_way.add(number)
            name = self.filters[number % len(self.filters)]
            pa.ref(Filter, name).smooth(number, generated(number, self.size))

    @pa.cast
    def written(self, number: int) -> None:
        if number in self.under_way:  # not one of a former source's
            self.under_way.discard(number)
            self.send_next()


# --- the command line -------------------------------------------------------------------------------------------------


def number_of(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="image_pipeline.py", description="Pictures through a pipeline of actors.")
    parser.add_argument("--count", metavar="N", type=number_of, default=12, help="how many pictures (default 12)")
    parser.add_argument("--size", metavar="N", type=number_of, default=160, help="their width (default 160)")
    parser.add_argument("--in-flight", metavar="N", type=number_of, default=4, help="at the same time (default 4)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("pictures"), help="where they go")
    parser.add_argument("--crash", action="store_true", help="kill a filter when a third is written")
    options = parser.parse_args(args)
    folder = options.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(options.count):
        file_of(folder, number).unlink(missing_ok=True)

    began = time.perf_counter()
    filters = {f"filter/{worker}": worker for worker in pa.worker_indices()}
    pa.Supervisor.start_link(
        [
            pa.child(Writer, folder, options.count, pa.self_(), name="writer"),
            *(pa.child(Filter, name=name, worker=worker) for name, worker in filters.items()),
            pa.child(Source, options.size, list(filters), options.in_flight, name="source"),
        ],
        strategy="rest_for_one",
    )
    written: set[int] = set()
    while len(written) < options.count:
        written.add(pa.receive(("written", int))[1])
        if options.crash and len(written) == -(-options.count // 3):
            options.crash = False
            victim = pa.whereis("filter/0")
            if victim is not None:
                print(f"{len(written)} are written: filter/0 is killed")
                pa.exit(victim, "kill")
    seconds = time.perf_counter() - began
    print(f"{options.count} pictures of {options.size} x {options.size} in {options.out}")
    print(f"{seconds:.2f} s on {len(filters)} workers")
