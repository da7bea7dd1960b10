"""`ActorSystem`: a node of one's own inside a program, a notebook, an asyncio application or a test.

The calling thread becomes a process of the node (a guest, with a pid and a mailbox). The root is a small child process; workers are started
by it. Everything ends with the `with` block, or with the program, however it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, Unpack

from parallel_actors import process
from parallel_actors.config import Options, Settings, resolve
from parallel_actors.workers import api, guest
from parallel_actors.workers.errors import ActorError, NotRunning, StartError
from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.scheduler import Scheduler, current_scheduler, set_guest_factory, use_scheduler
from parallel_actors.workers.segment import Segment

__all__ = ["ActorSystem"]

P = ParamSpec("P")
R = TypeVar("R")

# Seconds for the root and all workers to come up, on a machine whose cores are busy with other things.
_START_TIMEOUT = 60.0
_ROOT = "import sys; sys.path[:] = {path!r}; from parallel_actors.root.child import main; main(sys.argv[1])"


class ActorSystem:
    """A node: worker processes, one per core, and the calling thread as a process among theirs.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=2) as system:
    ...     pid, ref = system.spawn_monitor(print, "hello")
    ...     pa.receive(pa.Down, timeout=10).reason
    'normal'

    Args:
        settings: `workers`, `guests`, `stop_timeout` (s), `log_level`, `prefix_output`, `pin`, `name`; see
            `parallel_actors.config.Options`. What isn't given comes from `PARALLEL_ACTORS_<NAME>`, then from
            `[tool.parallel_actors]` in pyproject.toml.

    Raises:
        ValueError: a setting that doesn't fit; the text says where it stands.
        StartError: the root or its workers could not be started.
        ActorError: inside a worker, where there is a system already.

    Systems may be nested and repeated; the innermost `with` is the current one. `async with` works the same inside asyncio.
    """

    def __init__(self, **settings: Unpack[Settings]) -> None:
        self.options: Options = resolve(**settings)
        self._root: subprocess.Popen[bytes] | None = None

    # --- life ---

    def start(self) -> None:
        """Start the node and make the calling thread a process of it. `with` does this."""
        running = current_scheduler()
        if running is not None and running.role == "worker":
            raise ActorError(
                "expected ActorSystem to be started outside of any, got a call inside a worker: the functions of "
                "parallel_actors work here as they are"
            )
        if self._root is not None:
            raise ActorError("expected a system that is not running, got one that is: make another ActorSystem")
        options = self.options
        self._segment = Segment.create(options.workers, options.guests)
        try:
            self._start_root()
        except BaseException:
            self._segment.close()
            raise
        assert self._root is not None
        self._root_pidfd = os.pidfd_open(self._root.pid)
        self._threads = guest.GuestThreads(self._segment, self._root_pidfd)
        self._former = running
        self._former_factory = set_guest_factory(self._threads.adopt)
        self._thread = threading.get_ident()
        self._scheduler, self._pid = guest.attach(self._segment, self._root_pidfd)

    def _start_root(self) -> None:
        launcher = os.pidfd_open(os.getpid())
        control, self._control = os.pipe()
        self._report, report = os.pipe()
        inherited = [launcher, control, report]
        told = {
            "memfd": self._segment.fd,
            "eventfds": self._segment.eventfds,
            "launcher": launcher,
            "control": control,
            "report": report,
            "options": asdict(self.options),
            "sys_path": [os.path.abspath(entry) for entry in sys.path],
        }
        try:
            self._root = subprocess.Popen(
                [sys.executable, "-c", _ROOT.format(path=told["sys_path"]), json.dumps(told)],
                stdin=subprocess.DEVNULL,
                pass_fds=[*self._segment.fds(), *inherited],
                process_group=0,
            )
        except OSError as error:
            os.close(self._control)
            os.close(self._report)
            raise StartError(f"the root process can't be started: {error}") from error
        finally:
            for fd in inherited:
                os.close(fd)
        try:
            self._await_ready()
        except BaseException:
            os.close(self._control)
            self._root.wait()
            self._root = None
            raise
        finally:
            os.close(self._report)

    def _await_ready(self) -> None:
        """Wait for the root's word that all workers are up."""
        assert self._root is not None
        said = b""
        until = time.monotonic() + _START_TIMEOUT
        while True:
            ready, _, _ = select.select([self._report], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                self._root.kill()
                raise StartError(f"expected {self.options.workers} workers to be up within {_START_TIMEOUT} s, they are not")
            part = os.read(self._report, 4096)
            said += part
            if not part:
                break
        if said != b"ready":
            code = self._root.wait()
            text = said.decode("utf-8", "replace") or f"its root process ended with exit code {code}; see its messages above"
            raise StartError(f"the actor system could not be started: {text}")

    def stop(self) -> None:
        """Stop the node: every process gets the exit signal `shutdown`, what is left after `stop_timeout` is killed. `with` does this.

        The calling thread's process ends too; pids of this node are dead from now on. Calling it again does nothing.
        """
        if self._root is None:
            return
        if threading.get_ident() != self._thread:
            raise ActorError("expected stop() to be called by the thread that started the system")
        try:
            self._leave()
            self._stop_root()
        finally:
            self._close()

    def _leave(self) -> None:
        """End the guests of this program: their links and monitors fire before the workers stop."""
        set_guest_factory(self._former_factory)
        self._others = self._threads.end("the actor system of this thread has ended: start another one")
        if current_scheduler() is self._scheduler:
            use_scheduler(self._former)
        guest.detach(self._scheduler)

    def _stop_root(self) -> None:
        assert self._root is not None
        phase = 1
        while True:
            try:
                os.write(self._control, str(phase).encode())
            except BrokenPipeError:
                pass  # it has ended already
            try:
                self._root.wait(timeout=self.options.stop_timeout + 10.0)
                return
            except subprocess.TimeoutExpired:
                self._root.kill()
            except KeyboardInterrupt:
                # As with the command: the second Ctrl-C stops now, the third kills.
                phase += 1
                if phase > 3:
                    self._root.kill()
                    raise

    def _close(self) -> None:
        assert self._root is not None
        os.close(self._control)
        if self._root.poll() is None:
            self._root.kill()
        self._root.wait()
        self._root = None
        os.close(self._root_pidfd)
        if self._others == 0:
            self._segment.close()
        del self._segment, self._scheduler, self._threads

    @property
    def running(self) -> bool:
        """Whether the node is up: started, not stopped, its root alive."""
        return self._root is not None and self._root.poll() is None

    @property
    def pid(self) -> Pid:
        """The pid of the thread that started the system."""
        if self._root is None:
            raise NotRunning("expected a running system, got one that isn't: use `with ActorSystem() as system:`")
        return self._pid

    @property
    def root_pid(self) -> int:
        """The operating system's process id of the root."""
        if self._root is None:
            raise NotRunning("expected a running system, got one that isn't")
        return self._root.pid

    @property
    def worker_pids(self) -> list[int]:
        """The operating system's process ids of the workers, in order; 0 while one is being replaced."""
        if self._root is None:
            raise NotRunning("expected a running system, got one that isn't")
        return [self._segment.os_pid(index) for index in range(self._segment.workers)]

    def __enter__(self) -> ActorSystem:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> ActorSystem:
        # In this thread: it is the one that becomes a process. A start takes a fraction of a second.
        self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        await asyncio.sleep(0)

    # --- the process API, for those who like it on the system ---

    def _check(self) -> None:
        if self._root is None:
            raise NotRunning("expected a running system, got one that isn't: use `with ActorSystem() as system:`")
        if threading.get_ident() == self._thread and current_scheduler() is not self._scheduler:
            raise NotRunning("expected the innermost system of this thread, got an outer one: use the functions of parallel_actors")

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

    def options_for(self, **choices: Unpack[process.Choices]) -> process.SpawnOptions:
        """`parallel_actors.options` on this system."""
        self._check()
        return process.options(**choices)
