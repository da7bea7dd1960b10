"""Workloads that start OS processes of their own, or watch them. They run in the command itself, not in a worker, and
return figures in row order.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

import parallel_actors as pa

__all__ = ["beam_startup", "idle", "import_time", "scaling", "startup", "without_obituaries"]

clock = time.perf_counter

OBITUARY = "was killed by SIGKILL; it is replaced"

PLAIN = """
import sys

def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

print("ready", flush=True)
sys.stdin.readline()
for _ in range({share}):
    fib({n})
print("done", flush=True)
"""


# --- CPU --------------------------------------------------------------------------------------------------------------


def _fib(n: int) -> int:
    return n if n < 2 else _fib(n - 1) + _fib(n - 2)


def _ours(tasks: int, n: int, workers: int, home: pa.Pid) -> None:
    began = clock()
    for number in range(tasks):
        pa.options(worker=number % workers).spawn_monitor(_fib, n)
    for _ in range(tasks):
        pa.receive(pa.Down)
    pa.send(home, clock() - began)


def _plain(tasks: int, n: int, workers: int) -> float:
    """Seconds that plain `python` processes take, as many as workers, each with an equal share, once all are up."""
    shares = [len(range(number, tasks, workers)) for number in range(workers)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PLAIN.format(share=share, n=n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for share in shares
    ]
    try:
        for process in processes:
            _expect(process, "ready")
        began = clock()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            _expect(process, "done")
        return clock() - began
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _expect(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    if (line := process.stdout.readline().strip()) != word:
        raise RuntimeError(f"expected a plain python process to say {word!r}, got {line!r}")


def scaling(system: pa.ActorSystem, tasks: int, n: int) -> list[float]:
    """The time that plain `python` processes take for fib(n), `tasks` times, over the time of as many workers."""
    workers = system.options.workers
    plain = _plain(tasks, n, workers)
    system.options_for(worker=0).spawn_link(_ours, tasks, n, workers, system.pid)
    return [plain / pa.receive(float)]


# --- death ------------------------------------------------------------------------------------------------------------


@contextmanager
def without_obituaries() -> Iterator[None]:
    """Keep what the root says of killed workers off stderr, of systems that are started inside. Other lines come at the
    end.
    """
    with tempfile.TemporaryFile("w+") as said:
        sys.stderr.flush()
        stderr = os.dup(2)
        try:
            os.dup2(said.fileno(), 2)
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            sys.stderr.writelines(line for line in said if not line.rstrip().endswith(OBITUARY))


# --- idle -------------------------------------------------------------------------------------------------------------


def _cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time of these OS processes so far. The kernel has a CPU clock for each, numbered by its process id."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def idle(system: pa.ActorSystem, milliseconds: int) -> list[float]:
    """The share of one core that all OS processes of a system take which has nothing to do."""
    pids = [system.root_pid, *(child.pid for child in psutil.Process(system.root_pid).children(recursive=True))]
    time.sleep(0.2)
    began, before = clock(), _cpu_seconds(pids)
    time.sleep(milliseconds / 1e3)
    return [(_cpu_seconds(pids) - before) / (clock() - began)]


# --- startup ----------------------------------------------------------------------------------------------------------


def _seconds_of(command: Sequence[str], folder: str) -> float:
    began = clock()
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    seconds = clock() - began
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {done.returncode}: {done.stderr.strip()}")
    return seconds


def startup(workers: int) -> list[float]:
    """Seconds of a whole `parallel-actors run hello.py`, from the command to its exit."""
    with tempfile.TemporaryDirectory(prefix="parallel_actors-bench-") as folder:
        (Path(folder) / "hello.py").write_text('def main() -> None:\n    print("hello")\n')
        command = [sys.executable, "-m", "parallel_actors", "run", "-w", str(workers), "hello.py"]
        return [_seconds_of(command, folder)]


def import_time(times: int) -> list[float]:
    """Seconds that `import parallel_actors` adds to a fresh interpreter."""
    with tempfile.TemporaryDirectory(prefix="parallel_actors-bench-") as folder:
        bare, ours = [], []
        for _ in range(times):
            bare.append(_seconds_of([sys.executable, "-c", "pass"], folder))
            ours.append(_seconds_of([sys.executable, "-c", "import parallel_actors"], folder))
        return [statistics.median(ours) - statistics.median(bare)]


def beam_startup(erl: str) -> float:
    """Seconds of `erl` from boot to halt."""
    with tempfile.TemporaryDirectory(prefix="parallel_actors-bench-") as folder:
        return _seconds_of([erl, "-noshell", "-eval", "halt(0)."], folder)
