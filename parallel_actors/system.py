"""`ActorSystem`: a node of one's own inside a program, a notebook, an asyncio application or a test.

The calling thread becomes a process of the node (a guest, with a pid and a mailbox). The root is a small child
process; workers are started by it. Everything ends with the `with` block, or with the program, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, Unpack

from parallel_actors import process, scaling
from parallel_actors.config import Options, Settings, resolve
from parallel_actors.root.records import Reader
from parallel_actors.workers import api, guest
from parallel_actors.workers.errors import ActorError, NotRunning, StartError
from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.scheduler import Scheduler, current_scheduler, use_scheduler
from parallel_actors.workers.segment import Segment

__all__ = ["ActorSystem"]

P = ParamSpec("P")
R = TypeVar("R")

# Seconds for the root and all workers to come up, on a machine whose cores are busy with other things.
_START_TIMEOUT = 60.0
_ROOT = "import sys; sys.path[:] = {path!r}; from parallel_actors.root.child import main; main(sys.argv[1])"


@dataclass
class _Node:
    """What a running system holds in this program."""

    segment: Segment
    root: subprocess.Popen[bytes]
    control: int  # pipe to the root: b"1" to b"3" stop it, closing it too
    pidfd: int  # of the root
    threads: guest.GuestThreads
    scheduler: Scheduler
    pid: Pid
    former: Scheduler | None  # of this thread, put back at the end
    records: Reader | None  # hands the workers' log records to our loggers
    thread: int = field(default_factory=threading.get_ident)


def _start_root(segment: Segment, options: Options) -> tuple[subprocess.Popen[bytes], int, Reader | None]:
    """Start the root and wait until its workers are up: the root, the pipe that stops it, who reads its log records."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:

        def pipe(out: contextlib.ExitStack, into: contextlib.ExitStack) -> tuple[int, int]:
            reader, writer = os.pipe()
            out.callback(os.close, reader)
            into.callback(os.close, writer)
            return reader, writer

        root: subprocess.Popen[bytes] | None = None
        kept = contextlib.ExitStack()
        try:
            launcher = os.pidfd_open(os.getpid())
            its.callback(os.close, launcher)
            control, control_in = pipe(its, kept)
            report_out, report = pipe(ours, its)
            reader, log = None, None
            if options.forward_logs:
                log_out, log = pipe(contextlib.ExitStack(), its)
                reader = Reader(log_out)
                reader.start()  # it closes log_out, when the root has ended
            told = {
                "memfd": segment.fd,
                "eventfds": segment.eventfds,
                "launcher": launcher,
                "control": control,
                "report": report,
                "log": log,
                "options": asdict(options),
                "sys_path": [os.path.abspath(entry) for entry in sys.path],
            }
            try:
                root = subprocess.Popen(
                    [sys.executable, "-c", _ROOT.format(path=told["sys_path"]), json.dumps(told)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[*segment.fds(), launcher, control, report, *([] if log is None else [log])],
                    process_group=0,
                )
            except OSError as error:
                raise StartError(f"the root process can't be started: {error}") from error
            its.close()
            _await_ready(root, report_out)
        except BaseException:
            kept.close()
            _end_root(root)
            raise
        return root, control_in, reader


def _end_root(root: subprocess.Popen[bytes] | None) -> None:
    """End a root that nobody uses yet. Its workers end with it, and are not waited for longer than that takes."""
    if root is not None:
        root.kill()
        root.wait()


def _await_ready(root: subprocess.Popen[bytes], report: int) -> None:
    """Wait for the root's word that all workers are up."""
    said = b""
    until = time.monotonic() + _START_TIMEOUT
    while True:
        ready, _, _ = select.select([report], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise StartError(
                f"expected all workers to be up within {_START_TIMEOUT} s, they are not: is the machine overloaded?"
            )
        part = os.read(report, 4096)
        said += part
        if not part:
            break
    if said != b"ready":
        text = said.decode("utf-8", "replace")
        if not text:
            text = f"its root process ended with exit code {root.wait()}; see its messages above"
        raise StartError(f"the actor system could not be started: {text}")


def _stop_root(root: subprocess.Popen[bytes], control: int, stop_timeout: float) -> None:
    phase = 1
    while True:
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            os.write(control, str(phase).encode())
        try:
            root.wait(timeout=stop_timeout + 10.0)
            return
        except subprocess.TimeoutExpired:
            root.kill()
        except KeyboardInterrupt:
            # As with the command: the second Ctrl-C stops now, the third kills.
            phase += 1
            if phase > 3:
                root.kill()
                raise


class ActorSystem:
    """A node: worker processes, one per core, and the calling thread as a process among theirs.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=2) as system:
    ...     pid, ref = system.spawn_monitor(print, "hello")
    ...     pa.receive(pa.Down, timeout=10).reason
    'normal'

    Args:
        settings: `workers`, `max_workers`, `spare_workers`, `preload`, `rebalance`, `guests`, `stop_timeout` (s),
            `log_level`, `forward_logs`, `max_reports`, `max_mailbox`, `arena_bytes`, `prefix_output`, `pin`, `name`;
            see `parallel_actors.config.Options`. What isn't given comes from `PARALLEL_ACTORS_<NAME>`, then from
            `[tool.parallel_actors]` in pyproject.toml.

    Raises:
        ValueError: a setting that doesn't fit; the text says where it stands.
        StartError: the root or its workers could not be started.
        ActorError: inside a worker, where there is a system already.

    Systems may be nested and repeated; the innermost `with` is the current one. `async with` works the same inside
    asyncio.
    """

    def __init__(self, **settings: Unpack[Settings]) -> None:
        self.options: Options = resolve(**settings)
        self._node: _Node | None = None

    # --- life ---

    def start(self) -> None:
        """Start the node and make the calling thread a process of it. `with` does this."""
        running = current_scheduler()
        if guest.inside_worker():
            raise ActorError(
                "expected ActorSystem to be started outside of any, got a call inside a worker: the functions of "
                "parallel_actors work here as they are"
            )
        if self._node is not None:
            raise ActorError("expected a system that is not running, got one that is: make another ActorSystem")
        with contextlib.ExitStack() as undo:  # whatever comes in between: Ctrl-C too
            segment = Segment.create(
                self.options.worker_slots, self.options.guests, arena_bytes=self.options.arena_bytes
            )
            undo.callback(segment.close)
            root, control, records = _start_root(segment, self.options)
            undo.callback(_end_root, root)
            undo.callback(os.close, control)
            pidfd = os.pidfd_open(root.pid)
            undo.callback(os.close, pidfd)
            threads = guest.GuestThreads(segment, pidfd, self.options.max_reports)
            guest.enter(threads)
            undo.callback(guest.leave, threads)
            scheduler, pid = guest.attach(segment, pidfd, self.options.max_reports)
            self._node = _Node(segment, root, control, pidfd, threads, scheduler, pid, running, records)
            undo.pop_all()

    def stop(self) -> None:
        """Stop the node: every process gets the exit signal `shutdown`; what is left after `stop_timeout` is killed.
        `with` does this.

        The calling thread's process ends too; pids of this node are dead from now on. Calling it again does nothing.
        """
        node = self._node
        if node is None:
            return
        if threading.get_ident() != node.thread:
            raise ActorError("expected stop() to be called by the thread that started the system")
        self._node = None
        # The guests of this program end first: their links and monitors fire before the workers stop.
        guest.leave(node.threads)
        node.threads.end("the actor system of this thread has ended: start another one")
        if current_scheduler() is node.scheduler:
            use_scheduler(None if node.former is None or node.former.closed else node.former)
        try:
            guest.detach(node.scheduler)
            _stop_root(node.root, node.control, self.options.stop_timeout)
        finally:
            os.close(node.control)
            if node.root.poll() is None:
                node.root.kill()
                node.root.wait()
            os.close(node.pidfd)
            if node.records is not None:
                node.records.join(self.options.stop_timeout)  # a handler of the user's may never return
            node.threads.release()

    def _running(self) -> _Node:
        if self._node is None:
            raise NotRunning("expected a running system, got one that isn't: use `with ActorSystem() as system:`")
        return self._node

    @property
    def running(self) -> bool:
        """Whether the node is up: started, not stopped, its root alive."""
        return self._node is not None and self._node.root.poll() is None

    @property
    def pid(self) -> Pid:
        """The pid of the thread that started the system."""
        return self._running().pid

    @property
    def root_pid(self) -> int:
        """The operating system's process id of the root."""
        return self._running().root.pid

    @property
    def worker_pids(self) -> list[int]:
        """The operating system's process ids of the workers, in order; of one that leaves too, as long as it is there.

        Of a worker that is being replaced it is the dead one's until its successor is up.
        """
        segment = self._running().segment
        return [segment.os_pid(index) for index in segment.worker_indices()]

    def __enter__(self) -> ActorSystem:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> ActorSystem:
        # In this thread: it is the one that becomes a process. A start takes a fraction of a second.
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- the process API, for those who like it on the system ---

    def _check(self) -> None:
        node = self._running()
        if threading.get_ident() == node.thread and current_scheduler() is not node.scheduler:
            raise NotRunning(
                "expected the innermost system of this thread, got an outer one: use the functions of parallel_actors"
            )

    def spawn(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Pid:
        """`parallel_actors.spawn` on this system."""
        self._check()
        return api.spawn(function, *args, **kwargs)

    def spawn_link(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Pid:
        """`parallel_actors.spawn_link` on this system."""
        self._check()
        return api.spawn_link(function, *args, **kwargs)

    def spawn_monitor(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> tuple[Pid, Ref]:
        """`parallel_actors.spawn_monitor` on this system."""
        self._check()
        return api.spawn_monitor(function, *args, **kwargs)

    def add_worker(self) -> int:
        """`parallel_actors.add_worker` on this system."""
        self._check()
        return scaling.add_worker()

    def remove_worker(self, worker: int, /, *, timeout: float | None = 5.0) -> None:
        """`parallel_actors.remove_worker` on this system."""
        self._check()
        scaling.remove_worker(worker, timeout=timeout)

    def worker_loads(self) -> dict[int, scaling.WorkerLoad]:
        """`parallel_actors.worker_loads` on this system."""
        self._check()
        return scaling.worker_loads()

    def options_for(self, **choices: Unpack[process.Choices]) -> process.SpawnOptions:
        """`parallel_actors.options` on this system."""
        self._check()
        return process.options(**choices)
