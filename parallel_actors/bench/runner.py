"""The command: checks what was asked for, measures it in turn with the BEAM, prints the table, writes the JSON.

A part of the catalogue goes: a warm-up, ours and theirs; then the runs, each of ours followed by one of theirs, of the
BEAM and of each peer that `benchmarks` brings. The
parts of a benchmark share a system, unless they need a fresh one for each run. Before and after a benchmark we look at
the cores.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import parallel_actors as pa
from parallel_actors.bench import beam, cores, machine, report
from parallel_actors.bench.beam import Beam
from parallel_actors.bench.catalog import NAMES, PARTS, Part
from parallel_actors.bench.counterparts import Counterpart, CounterpartError, Runs
from parallel_actors.bench.figures import Figure, Row
from parallel_actors.bench.report import Beside, Measured
from parallel_actors.cli.target import UsageError
from parallel_actors.config import Options, resolve_from

__all__ = ["BenchFailed", "bench", "chosen", "measure"]

RUNS = 5
RUN_TIMEOUT = 600.0  # s


class BenchFailed(Exception):
    """Raised when a workload ended otherwise than with its figures; the text says how."""


def chosen(names: Sequence[str], workers: int) -> tuple[list[Part], list[str]]:
    """The parts that `names` ask for (none: all), and the rows that are left out for want of workers.

    Raises UsageError for a name that can't be measured.
    """
    for name in names:
        if name not in NAMES:
            near = get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]}? known are" if near else "known are"
            raise UsageError(f"expected the name of a benchmark, got {name!r}; {hint} {', '.join(NAMES)}")
    wanted = [part for part in PARTS if not names or part.name in names]
    parts = [part for part in wanted if part.workers <= workers]
    for name in names:
        if all(part.name != name for part in parts):
            raise UsageError(f"{name} needs two workers at least, got {workers}: use --workers 2")
    return parts, [row.name for part in wanted if part not in parts for row in part.rows]


def bench(
    names: Sequence[str],
    settings: Mapping[str, object],
    *,
    quick: bool,
    json_file: Path | None,
    peers: Sequence[Counterpart] = (),
    without_beam: bool = False,
    notes: Sequence[str] = (),
) -> int:
    """Measure, print and write; the exit code of the command: 0, or 1 when a workload or a start failed.

    peers: what else is measured beside us; the JSON has the ratios of the pairs of runs then.
    notes: what to print of them.

    Raises UsageError for names, settings and files that don't do.
    """
    try:
        options = resolve_from(settings, "option --{name}".format)
    except ValueError as error:
        raise UsageError(str(error)) from error
    parts, left_out = chosen(names, options.workers)
    if json_file is not None and not os.access(json_file.parent, os.W_OK):
        raise UsageError(f"expected --json to be a file that can be written, got {str(json_file)!r}")
    try:
        measured, more = measure(parts, options, quick=quick, peers=peers, without_beam=without_beam)
    except (BenchFailed, pa.StartError) as failure:
        print(f"Error: {failure}", file=sys.stderr)
        return 1
    notes = [*notes, *more]
    if left_out:
        notes.append(f"left out, they need two workers: {', '.join(left_out)}")
    report.show(measured, notes)
    if json_file is not None:
        figures = [figure for one in measured for figure in one.figures(ratios=bool(peers))]
        json_file.write_text(json.dumps([figure.as_json() for figure in figures], indent=1) + "\n")
    return 0


def measure(
    parts: Sequence[Part],
    options: Options,
    *,
    quick: bool,
    modules: Sequence[Path] = (),
    peers: Sequence[Counterpart] = (),
    without_beam: bool = False,
) -> tuple[list[Measured], list[str]]:
    """Measure `parts`, with the BEAM and `peers` beside them: their rows, and what to know of them.

    modules: the BEAM's, of parts that are `timed`.

    Raises BenchFailed.
    """
    notes: list[str] = []
    measured: list[Measured] = []
    with ExitStack() as stack:
        others = [*([] if without_beam else _the_beam(stack, modules, notes)), *peers]
        names = list(dict.fromkeys(part.name for part in parts))
        looks = [cores.look()]
        for number, name in enumerate(names, start=1):
            if sys.stderr.isatty():
                print(f"{number}/{len(names)} {name} ...", file=sys.stderr)
            own: list[Measured] = []
            with _Systems(options) as systems:
                for part in parts:
                    if part.name == name:
                        own += _Run(part, options, systems, others, quick=quick).measure(notes)
            looks.append(cores.look())
            measured += [replace(one, cores=looks[-2:]) for one in own]
    return measured, notes


def _the_beam(stack: ExitStack, modules: Sequence[Path], notes: list[str]) -> list[Counterpart]:
    """This machine's, or nothing, with a note that says why."""
    try:
        theirs = stack.enter_context(beam.compiled(modules))
    except CounterpartError as error:
        notes.append(f"without the BEAM: {error}")
        return []
    if theirs is None:
        notes.append("without the BEAM: erl and erlc are not on PATH (Debian: apt install erlang-base)")
        return []
    return [theirs]


class _Systems:
    """The system that the parts of a benchmark share; a fresh one where asked for."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._stack = ExitStack()
        self._shared: pa.ActorSystem | None = None

    def __enter__(self) -> _Systems:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def system(self, part: Part) -> Iterator[pa.ActorSystem | None]:
        """What `part` runs in; None for the command alone."""
        if part.place == "command":
            yield None
        elif part.fresh:
            self._stack.close()
            self._shared = None
            with self._new() as system:
                yield system
        else:
            if self._shared is None:
                if part.kills:
                    self._stack.enter_context(machine.without_obituaries())
                self._shared = self._stack.enter_context(self._new())
            yield self._shared
            _await_quiet()

    def _new(self) -> pa.ActorSystem:
        # Mailboxes of a million messages are what some workloads are about, and no news.
        return pa.ActorSystem(workers=self.options.workers, log_level="ERROR")


def _await_quiet() -> None:
    """Wait until the processes of a workload are gone: what it killed may still unwind."""
    me = pa.self_()
    while pa.processes() != [me]:
        pa.sleep(0.001)


def _workload(home: pa.Pid, ours: Callable[..., list[float]], params: Mapping[str, int]) -> None:
    """A process on worker 0: it runs the workload of a part and sends home what it returns."""
    pa.send(home, ("figures", ours(**params)))


class _Run:
    """One part: its runs, and those of others beside them, in turn."""

    def __init__(
        self, part: Part, options: Options, systems: _Systems, others: Sequence[Counterpart], *, quick: bool
    ) -> None:
        self.part = part
        self.systems = systems
        self.sizes = {**part.params, **(part.quick if quick else {})}
        self.runs = 1 if quick else RUNS
        self.others = [
            (other, sizes) for other in others if (sizes := other.sizes(part, self.sizes, options.workers)) is not None
        ]
        self.params = {
            **self.sizes,
            "workers": options.workers,
            "quick": quick,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }

    def measure(self, notes: list[str]) -> list[Measured]:
        """The part's rows. What keeps others from their runs goes into `notes`."""
        ours: list[list[float]] = []
        with ExitStack() as stack:
            others = [_Theirs(other, self.part, sizes, stack) for other, sizes in self.others]
            for number in range(1 + self.runs):
                figures = self._ours(warm_up=number == 0)
                if number:
                    ours.append(figures)
                for theirs in list(others):
                    try:
                        figures = theirs.run()
                    except CounterpartError as error:
                        notes.append(f"{self.part.name}, without {theirs.other.spoken}: {error}")
                        others.remove(theirs)
                        continue
                    if number:
                        theirs.figures.append(figures)
        return [self._measured(place, row, ours, others) for place, row in enumerate(self.part.rows)]

    def _measured(self, place: int, row: Row, ours: list[list[float]], others: list[_Theirs]) -> Measured:
        own = [figures[place] for figures in ours]
        beside: list[Beside] = []
        for theirs in others:
            values = [figures[place] for figures in theirs.figures]
            beside.append(Beside.of(theirs.other, row, own, values, {**self.params, **theirs.params()}))
        beam = next((one.figure for one in beside if one.name == Beam.name), None)
        return Measured(row, Figure.of(row.name, row.unit, own, self.params), beam, others=beside)

    # --- ours ---

    def _ours(self, *, warm_up: bool) -> list[float]:
        # A run in a fresh system warms nothing up but files and page cache: little of it does.
        sizes = {**self.sizes, **self.part.quick} if warm_up and self.part.fresh else self.sizes
        with self.systems.system(self.part) as system:
            if self.part.place == "worker":
                return self._on_worker(sizes)
            try:
                return self.part.ours(*(() if system is None else (system,)), **sizes)
            except RuntimeError as error:
                raise BenchFailed(f"{self.part.name}: {error}") from error

    def _on_worker(self, sizes: Mapping[str, int]) -> list[float]:
        spawn = pa.options(worker=0, label=f"bench {self.part.name}").spawn_monitor
        pid, ref = spawn(_workload, pa.self_(), self.part.ours, sizes)
        got: Any = pa.receive(("figures", list), pa.Down(ref, pid, pa.ANY), timeout=RUN_TIMEOUT, default=None)
        if got is None:
            raise BenchFailed(f"{self.part.name}: expected a run to take at most {RUN_TIMEOUT:g} s, it goes on")
        if isinstance(got, pa.Down):
            why = f"{got.reason.type}: {got.reason.text}" if isinstance(got.reason, pa.Crash) else got.reason
            raise BenchFailed(f"{self.part.name}: its workload ended: {why}")
        pa.receive(pa.Down(ref, pid, pa.ANY))
        return list(got[1])


class _Theirs:
    """The runs of one part by one counterpart."""

    def __init__(self, other: Counterpart, part: Part, sizes: Mapping[str, int], stack: ExitStack) -> None:
        self.other = other
        self.part = part
        self.sizes = sizes
        self.stack = stack
        self.kept: Runs | None = None
        self.release = ""
        self.figures: list[list[float]] = []

    def run(self) -> list[float]:
        """One run, in the machine that the part keeps, or in one of its own: a figure for each row."""
        if self.part.fresh:
            with self._start() as fresh:
                figures = fresh.run()
        else:
            if self.kept is None:
                self.kept = self.stack.enter_context(self._start())
            figures = self.kept.run()
        if len(figures) != len(self.part.rows):
            raise CounterpartError(f"expected a figure for each of {len(self.part.rows)} rows, got {figures!r}")
        return figures

    def _start(self) -> closing[Runs]:
        one = self.other.start(self.part, self.sizes)
        self.release = one.release
        return closing(one)

    def params(self) -> dict[str, object]:
        return {**self.sizes, **({self.other.version: self.release} if self.release else {})}
