"""What the process primitives cost: `parallel-actors run -w 2 benchmarks/primitives.py [--quick]`.

Prints one line per figure: name, median, minimum and maximum of five runs after a warm-up. Worker 0 is "here", worker
1 is "across". The same workloads on the BEAM: `pingpong`, `gs_cast`, `spawn_idle` and `spawn_join` with one and two
schedulers.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import parallel_actors as pa

RUNS = 5


def pong() -> None:
    while isinstance(message := pa.receive(), pa.Pid):
        pa.send(message, "pong")


def ping_pong(count: int, worker: int) -> float:
    """Round trips per second of two processes."""
    me = pa.self_()
    other = pa.options(worker=worker).spawn(pong)
    start = time.perf_counter()
    for _ in range(count):
        pa.send(other, me)
        pa.receive()
    elapsed = time.perf_counter() - start
    pa.send(other, "stop")
    return count / elapsed


def tally() -> None:
    count = 0
    while not isinstance(message := pa.receive(), pa.Pid):
        count += 1
    pa.send(message, count)


def one_way(count: int, worker: int) -> float:
    """Messages per second from one process to another that does nothing but take them."""
    other = pa.options(worker=worker).spawn(tally)
    start = time.perf_counter()
    for number in range(count):
        pa.send(other, number)
    pa.send(other, pa.self_())
    assert count == pa.receive()
    return count / (time.perf_counter() - start)


def nothing() -> None:
    pass


def spawn_and_end(count: int, worker: int) -> float:
    """Seconds from spawn_monitor to the Down of a process that returns at once."""
    spawn_monitor = pa.options(worker=worker).spawn_monitor
    start = time.perf_counter()
    for _ in range(count):
        spawn_monitor(nothing)
        pa.receive(pa.Down)
    return (time.perf_counter() - start) / count


def payload(count: int, worker: int) -> float:
    """Seconds for 1 MiB of bytes to a process and its answer back."""
    me = pa.self_()
    other = pa.options(worker=worker).spawn(answer_sizes)
    data = bytes(1 << 20)
    start = time.perf_counter()
    for _ in range(count):
        pa.send(other, (me, data))
        pa.receive()
    elapsed = time.perf_counter() - start
    pa.send(other, None)
    return elapsed / count


def answer_sizes() -> None:
    while (message := pa.receive()) is not None:
        pa.send(message[0], len(message[1]))


def measure(name: str, unit: str, run: Callable[[int, int], float], count: int, worker: int) -> None:
    run(count // 10 + 1, worker)
    figures = [run(count, worker) for _ in range(RUNS)]
    median, low, high = statistics.median(figures), min(figures), max(figures)
    print(f"{name:<24} {median:>16,.9g} {unit:<4} ({low:,.9g} .. {high:,.9g})")


def all_figures(scale: float) -> None:
    for place, worker in (("here", 0), ("across", 1)):
        few = 1.0 if worker == 0 else 0.1
        measure(f"ping_pong_{place}", "1/s", ping_pong, int(200_000 * scale * few), worker)
        measure(f"one_way_{place}", "1/s", one_way, int(300_000 * scale), worker)
        measure(f"spawn_and_end_{place}", "s", spawn_and_end, int(20_000 * scale * few), worker)
        measure(f"payload_1MiB_{place}", "s", payload, int(200 * scale), worker)


def main() -> None:
    if pa.worker_count() < 2:
        raise SystemExit("expected two workers at least: parallel-actors run -w 2 benchmarks/primitives.py")
    scale = 0.05 if "--quick" in sys.argv[1:] else 1.0
    # On worker 0, and not as the main process, whose spawns spread over the workers.
    _, ref = pa.options(worker=0).spawn_monitor(all_figures, scale)
    down = pa.receive(pa.Down)
    assert down.ref == ref
    if down.reason != "normal":
        raise SystemExit(str(down.reason))
