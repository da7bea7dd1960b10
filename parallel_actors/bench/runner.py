"""The command: checks what was asked for, measures it in turn with the BEAM, prints the table, writes the JSON.

A part of the catalogue goes: a warm-up, ours and theirs; then the runs, each of ours followed by one of theirs. The
parts of a benchmark share a system, unless they need a fresh one for each run. Before and after a benchmark we look at
the cores.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import parallel_actors as pa
from parallel_actors.bench import beam, cores, machine, report
from parallel_actors.bench.catalog import NAMES, PARTS, Part
from parallel_actors.bench.figures import Figure
from parallel_actors.bench.report import Measured
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


def bench(names: Sequence[str], settings: Mapping[str, object], *, quick: bool, json_file: Path | None) -> int:
    """Measure, print and write; the exit code of the command: 0, or 1 when a workload or a start failed.

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
        measured, notes = measure(parts, options, quick=quick)
    except (BenchFailed, pa.StartError) as failure:
        print(f"Error: {failure}", file=sys.stderr)
        return 1
    if left_out:
        notes.append(f"left out, they need two workers: {', '.join(left_out)}")
    report.show(measured, notes)
    if json_file is not None:
        figures = [figure for one in measured for figure in one.figures()]
        json_file.write_text(json.dumps([figure.as_json() for figure in figures], indent=1) + "\n")
    return 0


def measure(
    parts: Sequence[Part], options: Options, *, quick: bool, modules: Sequence[Path] = ()
) -> tuple[list[Measured], list[str]]:
    """Measure `parts`, with the BEAM beside them: their rows, and what to know of them.

    modules: the BEAM's, of parts that are `timed`.

    Raises BenchFailed.
    """
    notes: list[str] = []
    measured: list[Measured] = []
    with ExitStack() as stack:
        try:
            theirs = stack.enter_context(beam.compiled(modules))
        except beam.BeamError as error:
            theirs = None
            notes.append(f"without the BEAM: {error}")
        else:
            if theirs is None:
                notes.append("without the BEAM: erl and erlc are not on PATH (Debian: apt install erlang-base)")
        names = list(dict.fromkeys(part.name for part in parts))
        looks = [cores.look()]
        for number, name in enumerate(names, start=1):
            if sys.stderr.isatty():
                print(f"{number}/{len(names)} {name} ...", file=sys.stderr)
            own: list[Measured] = []
            with _Systems(options) as systems:
                for part in parts:
                    if part.name == name:
                        own += _Run(part, options, systems, theirs, quick=quick).measure(notes)
            looks.append(cores.look())
            measured += [replace(one, cores=looks[-2:]) for one in own]
    return measured, notes


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
    """One part: its runs, and the BEAM's beside them."""

    def __init__(
        self, part: Part, options: Options, systems: _Systems, theirs: beam.Beam | None, *, quick: bool
    ) -> None:
        self.part = part
        self.systems = systems
        self.sizes = {**part.params, **(part.quick if quick else {})}
        self.runs = 1 if quick else RUNS
        self.theirs = theirs if part.beam else None
        self.schedulers = {"one": 1, "two": 2, "all": options.workers}[part.schedulers]
        self.params = {
            **self.sizes,
            "workers": options.workers,
            "quick": quick,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }

    def measure(self, notes: list[str]) -> list[Measured]:
        """The part's rows. What keeps the BEAM from its runs goes into `notes`."""
        ours: list[list[float]] = []
        beams: list[list[float]] = []
        release = ""
        with ExitStack() as stack:
            counterpart = None
            if self.theirs is not None:
                counterpart = _Theirs(self.theirs, self.part, self.schedulers, self.sizes, stack)
            for number in range(1 + self.runs):
                figures = self._ours(warm_up=number == 0)
                if number:
                    ours.append(figures)
                try:
                    answer = counterpart.run() if counterpart else None
                except beam.BeamError as error:
                    notes.append(f"{self.part.name}, without the BEAM: {error}")
                    counterpart, beams = None, []
                    continue
                if answer is not None and number:
                    beams.append(answer)
            if counterpart is not None:
                release = counterpart.release
        rows: list[Measured] = []
        for place, row in enumerate(self.part.rows):
            own = Figure.of(row.name, row.unit, [figures[place] for figures in ours], self.params)
            other = None
            if beams:
                params = {**self.params, "schedulers": self.schedulers, **({"otp": release} if release else {})}
                other = Figure.of(f"beam_{row.name}", row.unit, [figures[place] for figures in beams], params)
            rows.append(Measured(row, own, other))
        return rows

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
    """The BEAM's runs of one part."""

    def __init__(self, erl: beam.Beam, part: Part, schedulers: int, sizes: Mapping[str, int], stack: ExitStack) -> None:
        self.erl = erl
        self.part = part
        self.schedulers = schedulers
        self.test = [part.beam[0], *(str(sizes[name]) for name in part.beam[1:])]
        self.stack = stack
        self.machine: beam.Machine | None = None
        self.release = ""

    def run(self) -> list[float]:
        """One run, in the machine that the part keeps, or in one of its own."""
        if self.part.place == "command":
            return [machine.beam_startup(self.erl.erl)]
        if self.part.fresh:
            with self.erl.machine(self.schedulers, self.test, timed=self.part.timed) as one:
                self.release = one.release
                return one.run()
        if self.machine is None:
            self.machine = self.stack.enter_context(self.erl.machine(self.schedulers, self.test, timed=self.part.timed))
            self.release = self.machine.release
        return self.machine.run()
