"""The life of a worker, from the forkserver's child to its exit.

`main` is the target of `multiprocess.Process`. The forkserver imports this module ahead (preload), so that a start
costs a fork and little more. The user's main file is never imported: what is `__main__` there is nobody's here.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
import pickle
import signal
import socket
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import cloudpickle  # noqa: F401  (preloaded for the codec)
import greenlet
from multiprocess import resource_tracker

from parallel_actors.workers import api, blocking, chunks, collector, guest, output, watcher  # noqa: F401  (preloaded for what unpickles there)
from parallel_actors.workers.preempt import TICK_SIGNAL, Tick
from parallel_actors.workers.scheduler import Scheduler, on_tick, use_scheduler
from parallel_actors.workers.segment import Segment

__all__ = ["WorkerConfig", "inherit", "main", "standby"]


@dataclass(frozen=True)
class WorkerConfig:
    """What the root tells a worker. Travels by pickle."""

    index: int
    incarnation: int
    name: str
    log_level: str
    interactive: tuple[bool, bool]
    sys_path: list[str]
    stop_timeout: float
    long_schedule: float
    cpu: int | None = None
    spin: float = 0
    max_reports: int = 100
    mailbox_limits: tuple[int, int, int] | None = None
    forward_logs: bool = False
    preload: tuple[str, ...] = ()
    post: bytes | None = None
    """What an earlier OS process of this worker, which has left, had handed over."""


def call_process(system: str, part: str) -> None:
    """Name this OS process in process lists (the kernel keeps 15 characters)."""
    with open("/proc/self/comm", "w") as comm:
        comm.write(f"{system[:10]}:{part}"[:15])


def inherit(fd: Any) -> int:
    """A descriptor sent along with the start of this worker."""
    return int(fd.detach())


# The root has a worker write down its stack by this one, also when it is inside a native call.
STACK_SIGNAL = TICK_SIGNAL - 1


def make_tick() -> Tick:
    """The timer that preempts the processes of this thread."""
    stdlib = [str(Path(os.__file__).parent)]
    compiled = [f"{folder}/" for folder in sys.path if folder.endswith("lib-dynload")]
    ours = Path(__file__).parent
    return Tick(
        stdlib=stdlib,
        trusted=[*compiled, f"{ours.parent}/", f"{Path(greenlet.__file__).parent}/"],
        locks=[str(ours)],
    )


class AsyncioImport(MetaPathFinder, Loader):
    """Tells the scheduler of a worker when asyncio has been imported: what doesn't use it doesn't pay for it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._loader: Loader | None = None
        if "asyncio" in sys.modules:
            self._tell()
        else:
            sys.meta_path.insert(0, self)

    def _tell(self) -> None:
        from parallel_actors.workers import loops  # it imports asyncio

        loops.use_asyncio(self._scheduler)

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "asyncio":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            self._loader = spec.loader
            spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        assert self._loader is not None
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._tell()


def forget_tracker() -> None:
    """Let `multiprocess` start a resource tracker for this worker, if the program needs one: the root has none."""
    tracker = resource_tracker._resource_tracker
    os.close(tracker._fd)
    tracker._fd = None


def spin(calibrated: Callable[[], bool]) -> None:
    """Run plain Python code until a tick has come."""
    while not calibrated():
        pass


def begin(root_pidfd: int, sys_path: list[str], preload: tuple[str, ...]) -> None:
    """What needs no place in the node."""
    # Ctrl-C is the root's to handle; the forkserver's mask has kept it off until here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    watcher.start(root_pidfd)
    forget_tracker()
    faulthandler.enable(file=2)
    sys.path[:] = sys_path
    sys.modules["__main__"] = types.ModuleType("__main__")
    for name in preload:
        importlib.import_module(name)


def main(config: WorkerConfig, memfd: int, eventfds: list[int], root_pidfd: int) -> None:
    """Run worker `config.index` until the root stops it."""
    begin(root_pidfd, config.sys_path, config.preload)
    work(config, memfd, eventfds)


def standby(
    system: str,
    sys_path: list[str],
    preload: tuple[str, ...],
    line: int,
    memfd: int,
    eventfds: list[int],
    root_pidfd: int,
) -> None:
    """Be a spare worker: wait on the socket `line` for the WorkerConfig of the one whose place is taken."""
    call_process(system, "spare")
    begin(root_pidfd, sys_path, preload)
    with socket.socket(fileno=line) as told:
        told.send(b"ready")
        config = told.recv(1 << 20)
    if config:
        work(pickle.loads(config), memfd, eventfds)


def work(config: WorkerConfig, memfd: int, eventfds: list[int]) -> None:
    call_process(config.name, f"w{config.index}")
    if config.cpu is not None:
        os.sched_setaffinity(0, {config.cpu})
    segment = Segment.attach(memfd, eventfds, config.index)
    if not segment.take_slot(config.index, config.incarnation, os.getpid()):
        os._exit(0)  # the forkserver was killed before it could tell the root of us: another one is this worker
    chunks.install()
    tick = make_tick()
    scheduler = Scheduler(
        segment,
        config.index,
        config.incarnation,
        "worker",
        tick=tick,
        long_schedule=config.long_schedule,
        spin=config.spin,
    )
    if config.post is not None:
        scheduler.take_over(config.post)
    scheduler.use_mailbox_limits(config.mailbox_limits)
    use_scheduler(scheduler)
    signal.signal(TICK_SIGNAL, on_tick)
    faulthandler.register(STACK_SIGNAL, file=2, all_threads=False)
    collector.install(scheduler)
    AsyncioImport(scheduler)
    threads = guest.GuestThreads(segment, None, config.max_reports)
    guest.enter(threads)
    output.install(scheduler, config.log_level, config.interactive, config.max_reports, config.forward_logs)
    scheduler.send_to_root(("ready", config.index, config.incarnation))
    code = 70
    try:
        try:
            scheduler.calibrate(spin)
            scheduler.run_forever()
            code = 0
        except BaseException:
            logging.getLogger("parallel_actors").critical(
                "worker %s failed: a bug in parallel_actors", config.index, exc_info=True
            )
        if scheduler.limit is not None:
            scheduler.limit.close()
        scheduler.send_to_root(("bye", config.index, config.incarnation))
        if scheduler.post is None:
            scheduler.flush_all(config.stop_timeout)
        else:
            # From the moment when the root can read this our rings are somebody else's: nothing comes after it, and
            # nothing is taken out of them (`flush_all` would).
            scheduler.send_to_root(("handover", config.index, config.incarnation, scheduler.post))
            scheduler.flush_last()
        output.restore()
    finally:
        # Not sys.exit: a thread that user code left behind must not keep the worker. Nor what has failed just now:
        # there may be no memory left for the interpreter's own orderly end.
        os._exit(code)
