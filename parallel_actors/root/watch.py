"""`Watch`: `parallel-actors run --reload`. Looks at the program's files, and has the workers load what has changed.

The root runs none of the program: it looks at the times of files. Which those are, the workers say, one of them at each
look; the new code is loaded by a process on a worker (`parallel_actors.code`), one at a time.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from parallel_actors import code
from parallel_actors.workers import api
from parallel_actors.workers.ident import Ref
from parallel_actors.workers.reasons import Down
from parallel_actors.workers.scheduler import current_scheduler

if TYPE_CHECKING:
    from parallel_actors.root.node import Root

__all__ = ["Watch"]

# Seconds between two looks.
_LOOK = 0.2


class Watch:
    """The files of one program that runs, below `directory`, `first` among them."""

    def __init__(self, root: Root, directory: str, first: str | None) -> None:
        self._root = root
        self._directory = directory
        self._began = time.time_ns()
        self._looks = 0
        self._seen: dict[str, tuple[int, int]] = {}
        self._loading: Ref | None = None  # the end of the process that loads new code
        if first is not None:
            self._seen[first] = _stamp(first)

    def start(self) -> None:
        """The program runs: look from now on."""
        self._root.scheduler.every(_LOOK, ("watch", "look"))

    def handle(self, message: tuple[Any, ...]) -> None:
        """One message ("watch", ...) to the root."""
        match message[1:]:
            case ("look",):
                self._look()
            case ("files", files):
                for file in files:
                    # Of one that was changed since the program began nobody knows which of the two was imported.
                    now = _stamp(file)
                    self._seen.setdefault(file, now if now[0] < self._began else (0, 0))
            case ("loaded", text):
                if text:
                    self._root.console.note(f"reload: {text}")

    def went_down(self, down: Down) -> bool:
        """Whether this was the end of what loads new code."""
        if down.ref != self._loading:
            return False
        self._loading = None
        if down.reason not in ("normal", "shutdown"):
            # It died with its worker, say: whatever has changed has so still, somewhere.
            self._root.console.note(f"reload: {down.reason}; trying again")
            self._seen = dict.fromkeys(self._seen, (0, 0))
        return True

    def _look(self) -> None:
        if self._root.stop_phase or self._loading is not None:
            return
        there = self._root.segment.worker_indices()
        self._looks += 1
        worker = there[self._looks % len(there)]
        if not self._root.segment.leaving(worker):
            api.spawn_with((worker, None, "watch", 0, None), 0, _tell_files, (self._directory,), {})
        changed = [file for file, before in self._seen.items() if _stamp(file) not in (before, (0, 0))]
        if changed:
            self._seen.update({file: _stamp(file) for file in changed})
            _, self._loading = api.spawn_with((-1, None, "reload", 0, None), 2, _load, (changed,), {})


def _stamp(file: str) -> tuple[int, int]:
    """When it was written, in ns, and its size; (0, 0): it isn't there, as while an editor replaces it."""
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _tell_files(directory: str) -> None:
    _tell("files", code.files_below(directory))


def _load(files: list[str]) -> None:
    _tell("loaded", code.reload_files(files))


def _tell(*words: object) -> None:
    scheduler = current_scheduler()
    assert scheduler is not None
    scheduler.send_to_root(("watch", *words))
