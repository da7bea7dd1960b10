"""The identifiers that a body of Python code uses most, counted by actors on every core.

    parallel-actors run examples/word_count.py                  the standard library of this Python
    parallel-actors run examples/word_count.py src --top 10     the *.py files below a folder
    parallel-actors run examples/word_count.py --compare        also counts one file after another, and compares
    parallel-actors run -w 4 examples/word_count.py             on four workers

One mapper runs on each worker. `main` is the dispatcher: it hands out the files, largest first, to whoever has finished
one, and adds up what comes back. It monitors the mappers: when one dies, with its worker or without, another takes its
place and its files. A file that was being counted at `MAX_DEATHS` deaths is skipped. (`main` itself lives on worker 0:
if that one dies, the program ends.)
"""

from __future__ import annotations

import argparse
import keyword
import os
import sys
import sysconfig
import time
import tokenize
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import parallel_actors as pa

# Files in a mapper's hands: one that it counts and some for when it has finished, since the dispatcher, which shares
# its worker with a mapper, answers only between two of that mapper's files.
IN_HAND = 3
MAX_DEATHS = 3
NOT_SOURCES = {"site-packages", "dist-packages", "__pycache__"}


# --- counting ---------------------------------------------------------------------------------------------------------


class Counted(NamedTuple):
    """What one file holds: how often each identifier stands in it, or why that can't be told."""

    words: Counter[str]
    skipped: str | None = None


def count_file(path: str) -> Counted:
    """Count the identifiers of a Python file: its names that aren't keywords."""
    words: Counter[str] = Counter()
    try:
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                    words[token.string] += 1
    except (tokenize.TokenError, SyntaxError, ValueError, OSError) as error:
        return Counted(Counter(), f"{type(error).__name__}: {error}")
    return Counted(words)


class Tally:
    """The sum of what was counted, and the bar that shows how far it is."""

    def __init__(self, sizes: dict[str, int], title: str) -> None:
        self.words: Counter[str] = Counter()
        self.skipped: dict[str, str] = {}
        self._sizes = sizes
        self._title = title
        self._files = 0
        self._bytes = 0
        self._all = max(1, sum(sizes.values()))
        self._tty = sys.stderr.isatty()
        self._shown = time.monotonic()

    def add(self, path: str, counted: Counted) -> None:
        if counted.skipped is None:
            # Not `+=`, which would look at every word found so far.
            self.words.update(counted.words)
        else:
            self.skipped[path] = counted.skipped
        self._files += 1
        self._bytes += self._sizes[path]
        if time.monotonic() - self._shown >= (0.1 if self._tty else 5.0):
            self.show()

    def show(self) -> None:
        """A bar on a terminal; elsewhere a line now and then."""
        self._shown = time.monotonic()
        done = self._bytes / self._all
        text = f"{self._title}: {done:4.0%}, {self._files} of {len(self._sizes)} files"
        if self._tty:
            bar = "#" * round(30 * done)
            print(f"\r[{bar:30}] {text}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr)

    def finish(self) -> None:
        if self._tty:
            self.show()
            print(file=sys.stderr)


def count_one_after_another(sizes: dict[str, int]) -> Tally:
    """The plain way: one loop, one core."""
    tally = Tally(sizes, "one after another")
    for path in sizes:
        tally.add(path, count_file(path))
    tally.finish()
    return tally


# --- the actors -------------------------------------------------------------------------------------------------------


class Done(NamedTuple):
    """From a mapper to the dispatcher: a file is counted, and the next is welcome."""

    mapper: pa.Pid
    path: str
    counted: Counted
    seconds: float


def mapper(dispatcher: pa.Pid) -> None:
    """Count the files that come, one after the other; None ends it."""
    while (path := pa.receive()) is not None:
        began = time.perf_counter()
        counted = count_file(path)
        pa.send(dispatcher, Done(pa.self_(), path, counted, time.perf_counter() - began))


@dataclass
class Share:
    """What one worker has done."""

    files: int = 0
    words: int = 0
    seconds: float = 0.0


@dataclass
class Mapper:
    """A mapper, as the dispatcher knows it. It counts the first of its files."""

    worker: int
    files: deque[str] = field(default_factory=deque)


class Dispatcher:
    """Hands out the files and adds up the counts. Lives in one process, so nothing here is locked."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.tally = Tally(sizes, f"{pa.worker_count()} workers")
        self.shares = [Share() for _ in range(pa.worker_count())]
        self.waiting = deque(sorted(sizes, key=lambda path: sizes[path], reverse=True))
        self.mappers: dict[pa.Pid, Mapper] = {}
        self.deaths: Counter[str] = Counter()

    def run(self) -> None:
        for worker in range(pa.worker_count()):
            self.start_mapper(worker)
        while self.mappers:
            match pa.receive(Done, pa.Down):
                case Done() as done:
                    self.take(done)
                case pa.Down(pid=pid, reason=reason):
                    self.bury(pid, reason)
        self.tally.finish()

    def start_mapper(self, worker: int) -> None:
        pid, _ = pa.options(worker=worker, label=f"mapper {worker}").spawn_monitor(mapper, pa.self_())
        self.mappers[pid] = Mapper(worker)
        self.feed(pid)

    def feed(self, pid: pa.Pid) -> None:
        """Fill the mapper's hands, or tell it that there is nothing left."""
        files = self.mappers[pid].files
        while self.waiting and len(files) < IN_HAND:
            files.append(self.waiting.popleft())
            pa.send(pid, files[-1])
        if not files:
            pa.send(pid, None)

    def take(self, done: Done) -> None:
        it = self.mappers[done.mapper]
        it.files.remove(done.path)
        self.feed(done.mapper)
        self.tally.add(done.path, done.counted)
        share = self.shares[it.worker]
        share.files += 1
        share.words += done.counted.words.total()
        share.seconds += done.seconds

    def bury(self, pid: pa.Pid, reason: object) -> None:
        """A mapper has ended. What it sent before has come before this, so its files are exactly those not counted."""
        it = self.mappers.pop(pid)
        if not it.files:
            return
        print(f"a mapper on worker {it.worker} died ({first_line(reason)}): its files go to another", file=sys.stderr)
        culprit = it.files[0]
        self.deaths[culprit] += 1
        if self.deaths[culprit] == MAX_DEATHS:
            it.files.popleft()
            self.tally.add(
                culprit, Counted(Counter(), f"{MAX_DEATHS} mappers died of it, the last: {first_line(reason)}")
            )
        self.waiting.extendleft(reversed(it.files))
        self.start_mapper(it.worker)


def first_line(reason: object) -> str:
    if isinstance(reason, pa.Crash):
        return f"{reason.type}: {reason.text}".partition("\n")[0]
    return str(reason)


# --- the command line -------------------------------------------------------------------------------------------------


def python_files(folder: str) -> Iterator[str]:
    """The *.py files below a folder, in a fixed order; installed packages aren't sources."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - NOT_SOURCES)
        yield from (os.path.join(place, name) for name in sorted(files) if name.endswith(".py"))


def sizes_of(paths: Iterable[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for path in paths:
        try:
            sizes[path] = os.path.getsize(path)
        except OSError:  # a broken link: counting it will say so
            sizes[path] = 0
    return sizes


def number(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="word_count.py", description="Count the identifiers in Python files, on every core."
    )
    parser.add_argument(
        "folders", metavar="FOLDER", nargs="*", help="where to look; default: Python's standard library"
    )
    parser.add_argument("--top", metavar="N", type=number, default=20, help="how many words to show (default 20)")
    parser.add_argument("--compare", action="store_true", help="count one file after another too, and compare")
    options = parser.parse_args(args)
    folders = [os.path.abspath(folder) for folder in options.folders] or [sysconfig.get_path("stdlib")]
    for folder in folders:
        if not os.path.isdir(folder):
            parser.error(
                f"expected a folder, got {folder!r}, which is {'a file' if os.path.exists(folder) else 'not there'}"
            )
    sizes = sizes_of(path for folder in folders for path in python_files(folder))
    if not sizes:
        parser.error(f"expected *.py files below {', '.join(folders)}, found none")
    print(f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB, in {', '.join(folders)}", flush=True)

    began = time.perf_counter()
    dispatcher = Dispatcher(sizes)
    dispatcher.run()
    seconds = time.perf_counter() - began
    tally = dispatcher.tally
    show(tally, options.top)
    print("\nworker  files  identifiers  seconds")
    for worker, share in enumerate(dispatcher.shares):
        print(f"{worker:6}  {share.files:5}  {share.words:11,}  {share.seconds:7.2f}")
    print(f"\n{pa.worker_count()} workers         {seconds:7.2f} s")
    if options.compare:
        compare(tally, seconds, sizes)


def show(tally: Tally, top: int) -> None:
    for path, why in sorted(tally.skipped.items()):
        print(f"skipped {path}: {why}")
    print(f"{tally.words.total():,} identifiers, {len(tally.words):,} different, {len(tally.skipped)} files skipped\n")
    # Not most_common(): words of the same count in a fixed order, whoever finished first.
    for word, count in sorted(tally.words.items(), key=lambda item: (-item[1], item[0]))[:top]:
        print(f"{count:9,}  {word}")


def compare(tally: Tally, seconds: float, sizes: dict[str, int]) -> None:
    # After the actors, so that the plain way finds every file in the system's cache.
    began = time.perf_counter()
    plain = count_one_after_another(sizes)
    plain_seconds = time.perf_counter() - began
    print(f"one after another {plain_seconds:7.2f} s")
    print(f"ratio             {seconds / plain_seconds:7.2f}")
    if (tally.words, tally.skipped) != (plain.words, plain.skipped):
        sys.exit("the counts differ")
    print("the counts are equal")
