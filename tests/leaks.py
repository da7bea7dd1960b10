"""What a test may not leave behind: OS processes, threads, descriptors (sockets too), mappings and files (S9.5)."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# A condition that should hold in a moment has this long on a machine whose cores are all busy.
PATIENCE = 30.0


def eventually(condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """Wait until `condition()` is true; fail with `what` otherwise. For what has no event to wait for."""
    until = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"not within {timeout} s: {what}")
        pause.wait(0.005)


# OS processes that were seen, and whether they came from this one. What they were started with doesn't change.
_seen: dict[int, bool] = {}


def children() -> set[int]:
    """Living OS processes that came from this one: its descendants, and the orphans that they left.

    An orphan is known by its environment, which names the folder for temporary files (conftest.py). Zombies count if
    this OS process should have waited for them.
    """
    listed = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    for pid in _seen.keys() - listed:
        del _seen[pid]
    found = set()
    for pid in sorted(listed):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if _seen.get(pid) is False:
                continue
            state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
            if pid not in _seen:
                _seen[pid] = int(parent) == os.getpid() or _seen.get(int(parent), False) or _has_our_folder(pid)
            if _seen[pid] and (state != "Z" or int(parent) == os.getpid()):
                found.add(pid)
    return found


def _has_our_folder(pid: int) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError:
        return False
    return f"TMPDIR={tempfile.gettempdir()}".encode() in environment.split(b"\0")


def descriptors() -> dict[int, str]:
    """Open descriptors and what they are."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one that listed them
            continue
    return found


def mappings() -> int:
    """Mappings of memfds."""
    return sum("memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines())


def files() -> set[str]:
    """What lies where a node could leave something: shared memory, temporary files, the current directory."""
    return {f"{place}/{name}" for place in ("/dev/shm", tempfile.gettempdir(), ".") for name in os.listdir(place)}


@dataclass
class Footprint:
    """What this OS process has at one moment."""

    children: set[int] = field(default_factory=children)
    threads: set[int | None] = field(default_factory=lambda: {thread.ident for thread in threading.enumerate()})
    descriptors: dict[int, str] = field(default_factory=descriptors)
    mappings: int = field(default_factory=mappings)
    files: set[str] = field(default_factory=files)

    def grown(self, now: Footprint) -> list[str]:
        """What is there now and wasn't then, in words."""
        found = [f"OS process {pid}: {_command(pid)}" for pid in now.children - self.children]
        found += [f"thread {ident}" for ident in now.threads - self.threads]
        found += [f"descriptor {fd}: {what}" for fd, what in now.descriptors.items() if fd not in self.descriptors]
        if now.mappings > self.mappings:
            found.append(f"{now.mappings - self.mappings} memfd mappings")
        # The folder for temporary files is this OS process's own (conftest.py); the others are not.
        ours = ("parallel_actors", "pymp-", "memfd")
        found += [f"file {path}" for path in now.files - self.files if os.path.basename(path).startswith(ours)]
        return found

    def check(self) -> None:
        """Fail if there is more now than then. What is on its way out has a moment."""
        until = time.monotonic() + PATIENCE
        pause = threading.Event()
        while left := self.grown(Footprint()):
            if time.monotonic() > until:
                raise AssertionError("left behind: " + "; ".join(left))
            pause.wait(0.005)


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())[:120]
    except psutil.Error:
        return "(gone)"
