"""The BEAM beside us: `beam/bench.erl`, compiled to a temporary folder, asked for one run at a time."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

__all__ = ["Beam", "BeamError", "Machine", "compiled"]


class BeamError(Exception):
    """Raised when the BEAM's side can't be compiled, started or asked; the text says what it said."""


class Machine:
    """A running `erl` with one test, its two pipes and its release."""

    def __init__(self, erl: str, folder: str, schedulers: int, test: Sequence[str], *, timed: bool) -> None:
        # A table of processes that holds skynet. Several schedulers are bound, so that 1 and 2 are two cores.
        flags = ["-noshell", "+S", f"{schedulers}:{schedulers}", "+P", "2000000"]
        if schedulers > 1:
            flags += ["+sbt", "db"]
        try:
            self._process = subprocess.Popen(
                [erl, *flags, "-pa", folder, "-run", "bench", "timed" if timed else "main", *test],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                process_group=0,  # Ctrl-C is ours: erl would ask what to do
            )
        except OSError as error:
            raise BeamError(f"{erl} can't be started: {error}") from error
        try:
            self.release = self._line()
        except BaseException:
            self.close()
            raise

    def run(self) -> list[float]:
        """One run: its figures, in the order of the rows."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("run\n")
            self._process.stdin.flush()
        except OSError as error:
            raise BeamError(f"erl ended: {error}") from error
        line = self._line()
        try:
            return [float(word) for word in line.split()]
        except ValueError:
            raise BeamError(f"expected figures from erl, got {line!r}") from None

    def _line(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line.strip()
        raise BeamError(f"erl ended with exit code {self._process.wait()}; see its message above")

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()


class Beam:
    """The compiled test module, and the `erl` that runs it."""

    def __init__(self, erl: str, folder: str) -> None:
        self.erl = erl
        self.folder = folder

    @contextmanager
    def machine(self, schedulers: int, test: Sequence[str], *, timed: bool = False) -> Iterator[Machine]:
        """An `erl` with that many schedulers that waits for runs of `test` (its name and numbers).

        timed: the name is that of a module, whose `run` is timed.
        """
        machine = Machine(self.erl, self.folder, schedulers, test, timed=timed)
        try:
            yield machine
        finally:
            machine.close()


@contextmanager
def compiled(modules: Sequence[Path] = ()) -> Iterator[Beam | None]:
    """The BEAM of this machine, with `modules`, if `erl` and `erlc` are on PATH, else None.

    Raises BeamError if erlc fails.
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
            raise BeamError(f"erlc failed: {(done.stdout + done.stderr).strip()}")
        yield Beam(erl, folder)
