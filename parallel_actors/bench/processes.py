"""Workloads of processes. Each runs as a process on worker 0. They return figures in row order."""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import parallel_actors as pa
from parallel_actors.bench.figures import percentile
from parallel_actors.bench.loops import alone, hog
from parallel_actors.bench.messages import latencies
from parallel_actors.bench.server import Counter, TypedCounter, here, server
from parallel_actors.workers.scheduler import Loop

__all__ = [
    "BODIES",
    "fair_shares",
    "fairness",
    "memory",
    "memory_actor",
    "monitors",
    "names",
    "pause",
    "restart",
    "skynet",
    "spawn_all",
    "spawn_and_end",
    "start_link",
    "worker_death",
]

clock = time.perf_counter
PAGE = os.sysconf("SC_PAGESIZE")


def _idle() -> None:
    pa.receive()


async def _idle_async() -> None:
    await pa.areceive()


def _callback() -> Loop:
    return Loop(_ignore)


def _ignore(message: object) -> None:
    pass


BODIES: dict[str, Callable[[], object]] = {"def": _idle, "async": _idle_async, "callback": _callback}


def _settle() -> None:
    """Wait until every process that was spawned before has had its first turn."""
    me = pa.self_()
    here.spawn(pa.send, me, "settled")
    pa.receive("settled")


def end(pids: Iterable[pa.Pid]) -> None:
    """Kill these processes of the caller's worker, and wait until they are gone."""
    pids = list(pids)
    for pid in pids:
        pa.exit(pid, "kill")
    for pid in pids:
        while pa.is_alive(pid):
            pa.sleep(0)


# --- memory and spawn -------------------------------------------------------------------------------------------------


def _resident() -> int:
    """Resident bytes of this worker."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def memory(body: int, count: int) -> list[float]:
    """Resident bytes per idle process: `body` is the place in BODIES. They stay: for a system of its own."""
    function = list(BODIES.values())[body]
    gc.collect()
    before = _resident()
    for _ in range(count):
        here.spawn(function)
    _settle()
    gc.collect()
    return [(_resident() - before) / count]


def memory_actor(count: int) -> list[float]:
    """Resident bytes per idle typed actor with one attribute, supervised, after one call. They stay, as in `memory`."""
    supervisor = pa.options(worker=0).start_link(pa.DynamicSupervisor)
    assert supervisor is not None
    spec = pa.child(TypedCounter, worker=0)
    gc.collect()
    before = _resident()
    for _ in range(count):
        actor = pa.DynamicSupervisor.start_child(supervisor, spec)
        assert actor is not None
        pa.ref(TypedCounter, actor).ping()
    gc.collect()
    return [(_resident() - before) / count]


def spawn_all(count: int) -> list[float]:
    """Seconds per process, from the first spawn until all of them wait for mail; all on one worker."""
    began = clock()
    pids = [pa.spawn(_idle) for _ in range(count)]
    _settle()
    seconds = clock() - began
    end(pids)
    return [seconds / count]


def start_link(count: int, worker: int) -> list[float]:
    """Seconds per start_link of a GenServer on `worker`, one after the other."""
    start = pa.options(worker=worker).start_link
    began = clock()
    pids = [start(Counter) for _ in range(count)]
    seconds = clock() - began
    for pid in pids:
        assert pid is not None
        pa.unlink(pid)
        pa.exit(pid, "kill")
        while pa.is_alive(pid):
            pa.sleep(0)
    return [seconds / count]


def _nothing() -> None:
    pass


def spawn_and_end(count: int, worker: int) -> list[float]:
    """Seconds from spawn_monitor to the Down of a process on `worker` that returns at once, one after the other."""
    spawn_monitor = pa.options(worker=worker).spawn_monitor
    began = clock()
    for _ in range(count):
        spawn_monitor(_nothing)
        pa.receive(pa.Down)
    return [(clock() - began) / count]


def _sky(parent: pa.Pid, number: int, size: int) -> None:
    if size == 1:
        pa.send(parent, number)
        return
    me, part = pa.self_(), size // 10
    for child in range(10):
        pa.spawn(_sky, me, number + child * part, part)
    pa.send(parent, sum(pa.receive() for _ in range(10)))


def skynet(size: int) -> list[float]:
    """Seconds for a tree of processes with `size` leaves, ten children each, to add its leaves up.

    The ten subtrees go round the workers; inside one, children begin where their
    parent is, or on a worker that has nothing to do.
    """
    began = clock()
    me, part, workers = pa.self_(), size // 10, pa.worker_count()
    for child in range(10):
        pa.options(worker=child % workers).spawn(_sky, me, child * part, part)
    total = sum(pa.receive() for _ in range(10))
    seconds = clock() - began
    if total != size * (size - 1) // 2:
        raise RuntimeError(f"expected the sum of the leaves, got {total}")
    return [seconds]


# --- monitors and names -----------------------------------------------------------------------------------------------


class _Count:
    """What the watchers of this worker have reached."""

    waiting = 0
    fired = 0


async def _watch(target: pa.Pid, count: int, home: pa.Pid) -> None:
    pa.monitor(target)
    _Count.waiting += 1
    if _Count.waiting == count:
        pa.send(home, "ready")
    await pa.areceive(pa.Down)
    _Count.fired += 1
    if _Count.fired == count:
        pa.send(home, "fired")


def monitors(count: int) -> list[float]:
    """Seconds from the end of a process until `count` processes that monitor it (`async def`) have taken their Down."""
    _Count.waiting = _Count.fired = 0
    me, target = pa.self_(), here.spawn(_idle)
    for _ in range(count):
        here.spawn(_watch, target, count, me)
    pa.receive("ready")
    _settle()
    began = clock()
    pa.exit(target, "kill")
    pa.receive("fired")
    return [clock() - began]


def names(count: int) -> list[float]:
    """Seconds of register with unregister, and of whereis."""
    me, names = pa.self_(), [f"bench_{number}" for number in range(1000)]
    rounds = count // 1000
    began = clock()
    for _ in range(rounds):
        for name in names:
            pa.register(name, me)
            pa.unregister(name)
    registered = clock() - began
    pa.register("bench_name", me)
    began = clock()
    for _ in range(rounds * 1000):
        pa.whereis("bench_name")
    found = clock() - began
    pa.unregister("bench_name")
    return [registered / (rounds * 1000), found / (rounds * 1000)]


# --- pauses -----------------------------------------------------------------------------------------------------------


class _Account:
    """A live actor: one attribute, and a method that takes its messages."""

    __slots__ = ("balance",)

    def __init__(self) -> None:
        self.balance = 0

    def handle(self, message: Any) -> None:
        self.balance += message


def _account() -> Loop:
    return Loop(_Account().handle)


def pause(actors: int, milliseconds: int) -> list[float]:
    """The longest gap, in seconds, between two steps of a process that allocates beside `actors` live ones.

    A step makes some hundred containers, a few of which stay for a while: what the garbage collector works for.
    """
    for _ in range(actors):
        here.spawn(_account)
    _settle()
    kept: list[object] = [None] * 100_000
    longest, place = 0.0, 0
    now = clock()
    until = now + milliseconds / 1e3
    while now < until:
        for number in range(100):
            kept[place] = {"number": number, "parts": [number]}
            place = (place + 7919) % len(kept)
        then, now = now, clock()
        longest = max(longest, now - then)
    return [longest]


# --- death ------------------------------------------------------------------------------------------------------------


def _say_os_pid() -> None:
    while True:
        sender = pa.receive()
        pa.send(sender, os.getpid())


def worker_death(kills: int) -> list[float]:
    """Seconds, at the median, from the SIGKILL of a worker until the process that replaces one of its own answers."""
    me = pa.self_()
    there = pa.options(worker=1)
    pid, ref = there.spawn_monitor(_say_os_pid)
    pa.send(pid, me)
    victim: int = pa.receive(int)
    taken: list[float] = []
    for _ in range(kills):
        began = clock()
        os.kill(victim, signal.SIGKILL)
        pa.receive(pa.Down(ref, pid, pa.ANY))
        pid, ref = there.spawn_monitor(_say_os_pid)
        pa.send(pid, me)
        victim = pa.receive(int)
        taken.append(clock() - began)
    pa.demonitor(ref, flush=True)
    pa.exit(pid, "kill")
    return [percentile(taken, 0.5)]


def restart(kills: int) -> list[float]:
    """Seconds, at the median, from the kill of a supervised server until its successor here answers. Not logged."""
    logging.getLogger("parallel_actors.supervisor").setLevel(logging.CRITICAL)
    name = "benchmark of restart"
    child = pa.child(Counter, name=name, worker=0)
    supervisor = pa.options(worker=0).start_link(pa.Supervisor, [child], max_restarts=10**9)
    taken: list[float] = []
    for _ in range(kills):
        victim = pa.whereis(name)
        assert victim is not None
        began = clock()
        pa.exit(victim, "kill")
        while pa.whereis(name) in (victim, None):
            pa.sleep(0)
        pa.call(name, "ping", timeout=None)
        taken.append(clock() - began)
    pa.unlink(supervisor)
    pa.stop(supervisor, "shutdown")
    return [percentile(taken, 0.5)]


# --- endless loops ----------------------------------------------------------------------------------------------------


# The laps of each loop: theirs is the worker of the one who asks. A list in a message would be a copy.
_laps: list[int] = []


def _hog(number: int) -> None:
    hog(number, _laps)


def fairness(loops: int, count: int) -> list[float]:
    """Calls of a pair beside endless loops on the same worker: seconds at the median and at 99.9 %."""
    _laps[:] = [0] * loops
    to = server()
    hogs = [here.spawn(_hog, number) for number in range(loops)]
    latencies(to, count // 20 + 1)
    taken = latencies(to, count)
    end([to, *hogs])
    return [percentile(taken, 0.5), percentile(taken, 0.999)]


def _calls_for_ever() -> None:
    to = pa.start_link(Counter)
    assert to is not None
    while True:
        latencies(to, 100)


def fair_shares(loops: int, milliseconds: int) -> list[float]:
    """The smallest endless loop's part of a fair share of the time that the loops got, beside a pair that calls."""
    unhurried = [alone(number) for number in range(loops)]
    _laps[:] = [0] * loops
    hogs = [here.spawn(_hog, number) for number in range(loops)]
    caller = here.spawn_link(_calls_for_ever)
    pa.sleep(0.2)
    before = list(_laps)
    pa.sleep(milliseconds / 1e3)
    used = [(after - first) * each for after, first, each in zip(_laps, before, unhurried, strict=True)]
    pa.unlink(caller)
    end([caller, *hogs])
    return [min(used) / (sum(used) / loops)]
