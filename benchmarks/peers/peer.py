"""A peer as a counterpart: an OS process for each part, which is asked for its runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers import PEERS, ROWS
from parallel_actors.bench.catalog import Part
from parallel_actors.bench.counterparts import Counterpart, Machine

__all__ = ["Peer"]

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 20.0  # s, until what a peer hasn't ended is killed
TIMEOUT = 300.0  # s, for a run


class Peer(Counterpart):
    """One of PEERS, if it is there.

    Raises CounterpartError where it can't be imported.
    """

    version = "version"

    def __init__(self, name: str) -> None:
        self.name = self.title = self.spoken = name
        with self._machine() as asked:
            self.tests = asked.line().split()

    def sizes(self, part: Part, ours: Mapping[str, int], workers: int) -> dict[str, int] | None:
        row = part.rows[0].name
        test, *_ = ROWS.get(row, ("",))
        if test not in self.tests:
            return None
        sizes = dict(ours)
        limits = PEERS[self.name]
        if (most := limits.get(row, limits.get(test))) is not None:
            sizes["count"] = min(most, sizes["count"])
        return sizes

    def start(self, part: Part, sizes: Mapping[str, int]) -> Machine:
        test, *names = ROWS[part.rows[0].name]
        return self._machine(test, *(str(sizes[name]) for name in names))

    def _machine(self, *test: str) -> Machine:
        return _Process(self.name, test)


class _Process(Machine):
    """A peer's OS process. Its temporary files go with it: some leave logs."""

    def __init__(self, name: str, test: Sequence[str]) -> None:
        # Sockets lie there, and their paths are short.
        self._folder = TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True)
        super().__init__(
            name,
            [sys.executable, "-m", "benchmarks.peers", name, *test],
            folder=ROOT,
            environment={**os.environ, "TMPDIR": self._folder.name},
            keep_stderr=True,
            patience=PATIENCE,
            timeout=TIMEOUT,
        )

    def close(self) -> None:
        super().close()
        self._folder.cleanup()
