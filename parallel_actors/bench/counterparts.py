"""What is measured beside us: a command that is asked for one run at a time, and what starts one for a part.

First it says its version. Then each line of its input is one run, answered by one line: its figures, in the order of
the part's rows, or `failed: ` and why. The end of its input ends it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

import psutil

from parallel_actors.bench.catalog import Part

__all__ = ["FAILED", "Counterpart", "CounterpartError", "Machine", "Runs"]

FAILED = "failed: "


class CounterpartError(Exception):
    """Raised when what is measured beside us can't be prepared, started or asked; the text says what it said."""


class Machine:
    """A running command, its pipes and its release."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        keep_stderr: bool = False,
        patience: float = 0.0,
        timeout: float | None = None,
    ) -> None:
        """Start it, and read its release.

        keep_stderr: what it says there is kept off the terminal; its last line stands in the error if it dies.
        patience: seconds from the end of its input until it and all that it started are killed.
        timeout: seconds that an answer may take.
        """
        self.name = name
        self._patience = patience
        self._timeout = timeout
        self._stderr = tempfile.TemporaryFile("w+", errors="replace") if keep_stderr else None  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                cwd=folder,
                env=environment,
                text=True,
                process_group=0,  # Ctrl-C is ours: erl would ask what to do
            )
        except OSError as error:
            self._close_stderr()
            raise CounterpartError(f"{command[0]} can't be started: {error}") from error
        try:
            self.release = self.line()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self) -> list[float]:
        """One run: its figures, in the order of the rows."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer, and its exit code says more
            self._process.stdin.write("run\n")
            self._process.stdin.flush()
        line = self.line()
        try:
            return [float(word) for word in line.split()]
        except ValueError:
            raise CounterpartError(f"expected figures from {self.name}, got {line!r}") from None

    def line(self) -> str:
        """What it says next."""
        assert self._process.stdout is not None
        if self._timeout is not None:
            self._await_line(self._process.stdout, self._timeout)
        if not (said := self._process.stdout.readline()):
            raise self._ended()
        line = said.strip()
        if line.startswith(FAILED):
            raise CounterpartError(line.removeprefix(FAILED))
        return line

    def _await_line(self, output: IO[str], timeout: float) -> None:
        """Wait for its next line, or for its end: what it started may keep its output open, and live on."""
        ended = os.pidfd_open(self._process.pid)
        try:
            ready, _, _ = select.select([output.fileno(), ended], [], [], timeout)
        finally:
            os.close(ended)
        if not ready:
            raise CounterpartError(f"expected {self.name} to answer in {timeout:g} s, it goes on")
        if ready == [ended]:
            raise self._ended()

    def _ended(self) -> CounterpartError:
        return CounterpartError(f"{self.name} ended with exit code {self._process.wait()}{self._last_words()}")

    def _last_words(self) -> str:
        if self._stderr is None:
            return "; see its message above"
        self._stderr.seek(0)
        said = self._stderr.read().strip()
        return f": {said.splitlines()[-1].strip()}" if said else ""

    def close(self) -> None:
        """End it and all that it started, whatever they do."""
        assert self._process.stdin is not None
        try:
            family = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        if self._patience:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._patience)
        self._process.kill()  # first: erl says so when it loses its helper
        for child in family:  # some lead groups of their own
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._close_stderr()

    def _close_stderr(self) -> None:
        if self._stderr is not None:
            self._stderr.close()


class Runs(Protocol):
    """What gives figures, one run after the other: a Machine, or what acts like one."""

    release: str

    def run(self) -> list[float]: ...

    def close(self) -> None: ...


class Counterpart(ABC):
    """What is measured beside us.

    Fields:
        name: before the rows' names in the JSON.
        title: of its columns.
        spoken: its name in a sentence.
        version: what its release is called in the JSON.
    """

    name: str
    title: str
    spoken: str
    version: str

    @abstractmethod
    def sizes(self, part: Part, ours: Mapping[str, int], workers: int) -> dict[str, int] | None:
        """Its sizes of this part, with what else is to be known of its runs; None if it has no such test."""

    @abstractmethod
    def start(self, part: Part, sizes: Mapping[str, int]) -> Runs:
        """What is asked for runs of this part, with these sizes."""
