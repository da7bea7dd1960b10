"""The BEAM beside us: `beam/bench.erl`, compiled to a temporary folder, asked for one run at a time."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

from parallel_actors.bench.catalog import Part
from parallel_actors.bench.counterparts import Counterpart, CounterpartError, Machine, Runs
from parallel_actors.bench.machine import beam_startup

__all__ = ["Beam", "compiled"]


class Beam(Counterpart):
    """The compiled test module, and the `erl` that runs it."""

    name = "beam"
    title = "BEAM"
    spoken = "the BEAM"
    version = "otp"

    def __init__(self, erl: str, folder: str) -> None:
        self.erl = erl
        self.folder = folder

    def sizes(self, part: Part, ours: Mapping[str, int], workers: int) -> dict[str, int] | None:
        if not part.beam:
            return None
        return {**ours, "schedulers": {"one": 1, "two": 2, "all": workers}[part.schedulers]}

    def start(self, part: Part, sizes: Mapping[str, int]) -> Runs:
        if part.place == "command":
            return _Boot(self.erl)
        test = [part.beam[0], *(str(sizes[name]) for name in part.beam[1:])]
        return self.machine(sizes["schedulers"], test, timed=part.timed)

    def machine(self, schedulers: int, test: Sequence[str], *, timed: bool = False) -> Machine:
        """An `erl` with that many schedulers that waits for runs of `test` (its name and numbers).

        timed: the name is that of a module, whose `run` is timed.
        """
        # A table of processes that holds skynet. Several schedulers are bound, so that 1 and 2 are two cores.
        flags = ["-noshell", "+S", f"{schedulers}:{schedulers}", "+P", "2000000"]
        if schedulers > 1:
            flags += ["+sbt", "db"]
        run = ["-run", "bench", "timed" if timed else "main"]
        return Machine("erl", [self.erl, *flags, "-pa", self.folder, *run, *test])


class _Boot:
    """Runs of `startup`: an `erl` each."""

    release = ""

    def __init__(self, erl: str) -> None:
        self._erl = erl

    def run(self) -> list[float]:
        try:
            return [beam_startup(self._erl)]
        except RuntimeError as error:
            raise CounterpartError(str(error)) from error

    def close(self) -> None:
        pass


@contextmanager
def compiled(modules: Sequence[Path] = ()) -> Iterator[Beam | None]:
    """The BEAM of this machine, with `modules`, if `erl` and `erlc` are on PATH, else None.

    Raises CounterpartError if erlc fails.
    """
    erl, erlc = shutil.which("erl"), shutil.which("erlc")
    if erl is None or erlc is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="parallel_actors-bench-") as folder:
        with as_file(files("parallel_actors.bench") / "beam" / "bench.erl") as source:
            done = subprocess.run(
                [erlc, "-o", folder, str(Path(source)), *map(str, modules)], capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            raise CounterpartError(f"erlc failed: {(done.stdout + done.stderr).strip()}")
        yield Beam(erl, folder)
