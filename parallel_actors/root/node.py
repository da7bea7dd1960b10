"""`Root`: starts, watches, replaces and stops the workers of one node.

One thread drives it: its scheduler's loop (the root is an endpoint like any other), which also waits for the workers'
pidfds and for whatever `watch` adds. The flow of a worker's life: `_start_worker` -> ("ready") -> its pidfd ->
`_worker_ended` -> names freed, slot counted up, death announced -> `_start_worker` again, unless the node stops or the
worker was told to leave (`_remove`): then its slot is free for the next one that is added (`_add`). One that leaves
while its processes live on elsewhere has sent "handover" before: `_hand_over` makes a `Relay` of it, or starts its
successor.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from multiprocess import reduction
from multiprocess.context import ForkServerContext

from parallel_actors.config import Options, cpu_quota
from parallel_actors.root import forkserver
from parallel_actors.root.applications import Applications
from parallel_actors.root.balance import Balance, Load
from parallel_actors.root.console import Console
from parallel_actors.root.spares import Spares
from parallel_actors.workers import api, boot
from parallel_actors.workers.errors import SegmentFull
from parallel_actors.workers.ident import Ref
from parallel_actors.workers.limit import ReportLimit
from parallel_actors.workers.names import NameTable
from parallel_actors.workers.reasons import Down
from parallel_actors.workers.ring import adopt_flights
from parallel_actors.workers.scheduler import CAUSE_LEFT, CAUSE_UNKNOWN, Scheduler, use_scheduler
from parallel_actors.workers.segment import Segment

__all__ = ["Root"]

FREE, CLAIMED, LIVE, ENDED, DOWN = range(5)
STARTING, RUNNING, STOPPING, STOPPED = range(4)
# What STOP tells a worker: to end once it has no processes, to shut them down, to kill them. 3: the worker is killed.
LEAVE, SHUT_DOWN, KILL, KILL_WORKER = range(4)
# The second and third for who runs still on a worker that leaves: those that have moved away live on.
_HASTE = 10

# A slot's incarnation is part of every pid, in 16 bits: the last one is never passed.
_LAST_INCARNATION = 65_534
# A worker that ends before it was ready this often in a row can't be started at all.
_MAX_FAILED_STARTS = 5
# Seconds that the exit status of a dead worker may take to come through the forkserver: a moment, unless that gets no
# core. One that is dead lets nobody wait.
_STATUS_TIMEOUT = 2.0
_TICK = 0.1
# Looks at the workers' clocks that are kept, one a tick: a second of them.
_LOOKS = 11
# Ticks between two looks at how much memory the workers use, and seconds after which one that was replaced for that is
# looked at again: at first, and at most.
_RSS_TICKS, _RSS_REST, _RSS_LONGEST_REST = 10, 30.0, 3600.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Turns of a relay before the root's own mail has its turn.
_RELAY_TURNS = 64
# Seconds after which a worker that doesn't turn, while others wait for it, shows its stack.
_STUCK = 2.0
# Seconds that a worker looks at its rings before it sleeps. A message between two that are awake takes a third of a
# microsecond, one that has to wake its receiver some fifteen.
_SPIN = 20e-6


@dataclass
class Leaving:
    """That a worker was told to leave."""

    refs: list[Ref]  # who asked for it, and waits
    phase: int  # what it was told last
    deadline: float | None  # when it is told the next
    replaced: bool = False  # whether another OS process goes on as the same worker


@dataclass
class Relay:
    """The post office of a worker that has left: its processes run on others, and their pids lead here."""

    index: int
    incarnation: int
    scheduler: Scheduler
    again: bool = False  # whether it has more to do than one turn takes


@dataclass
class Rest:
    """That a worker was replaced because it used too much memory."""

    until: float  # when it is looked at again
    seconds: float  # how long that is


@dataclass
class Worker:
    """A running worker, as the root knows it."""

    index: int
    incarnation: int
    process: Any
    pidfd: int
    ready: bool = False
    leaving: Leaving | None = None
    post: bytes | None = None  # what it has handed over (`Scheduler.post_office`)
    turns: int = -1  # at the latest look,
    turned: float = 0.0  # the time at which they had changed,
    shown: bool = False  # and whether it was said that they don't any more


class Root:
    """The root of one node.

    Args:
        segment: the node's shared memory, made by the caller.
        options: the node's settings.
        sys_path: where workers look for modules.
        on_message: called with each message to the root that isn't the root's own (the program's end, a stop).
        log_fd: where log records go as JSON lines (see `root.records`); None: to stderr, as text.
    """

    def __init__(
        self,
        segment: Segment,
        options: Options,
        sys_path: list[str],
        on_message: Callable[[Any], None],
        log_fd: int | None = None,
    ) -> None:
        self.segment = segment
        self.options = options
        self.sys_path = sys_path
        self._log_fd = log_fd
        self.console = Console(prefix=options.prefix_output, urgent=self._urgent, log_fd=log_fd)
        self._watched = select.poll()
        self.workers: dict[int, Worker] = {}
        self.relays: dict[int, Relay] = {}
        self.applications = Applications(self)
        self._rests: dict[int, Rest] = {}
        self._ticks = 0
        self.stop_phase = 0
        self.failure: str | None = None
        self._to_start: set[int] = set()
        self._adding: dict[int, Ref] = {}  # workers that were added and aren't up yet: who waits for them
        # At the latest ticks: when it was, and `_awake` then.
        self._balance = Balance()
        self._looks: deque[tuple[float, dict[int, tuple[int, int]]]] = deque(maxlen=_LOOKS)
        self._on_message = on_message
        self._failed_starts = 0
        self._ready_hook: Callable[[], None] | None = None
        self._failed_hook: Callable[[str], None] | None = None
        self._deadline: float | None = None
        self._cpus = sorted(os.sched_getaffinity(0))
        self._alone: socket.socket | None = None
        self._spins = options.spin if options.spin is not None else self._has_cores()
        segment.put_slot(segment.root, 0, LIVE)
        segment.set_os_pid(segment.root, os.getpid())
        self.scheduler = Scheduler(segment, segment.root, 0, "root")
        self.scheduler.on_report = self._report
        self.scheduler.limit = ReportLimit(
            options.max_reports, lambda kind, count: self._report("left_out", {"kind": kind, "count": count})
        )
        self.pid = self.scheduler.add_callback_process(self._handle, system=True)
        self._former = use_scheduler(self.scheduler)
        self._names = NameTable(segment)
        self._pidfd = os.pidfd_open(os.getpid())
        self._context = ForkServerContext()
        self._spares = Spares(options.spare_workers, self._start_spare, self.scheduler, self.console.note)

    def _has_cores(self) -> bool:
        """Whether each worker can have a core to itself."""
        if self.options.workers > len(self._cpus) or cpu_quota() is not None or "PYTEST_XDIST_WORKER" in os.environ:
            return False
        # The first system of a user has this name until it ends, however it ends: the kernel takes it back.
        alone = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            alone.bind(f"\0parallel_actors.cores.{os.getuid()}")
        except OSError:
            alone.close()
            return False
        self._alone = alone
        return True

    # --- life ---

    def run(self, on_ready: Callable[[], None], on_failure: Callable[[str], None]) -> None:
        """Start the workers and run until the node has stopped.

        `on_ready` is called once all workers are up, or `on_failure` with why they can't be.
        """
        self._ready_hook, self._failed_hook = on_ready, on_failure
        # The workers must not import the main file of this program: for `multiprocess` there is none.
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            forkserver.ensure_running()
            for index in range(self.options.workers):
                self._start_worker(index)
            self.scheduler.every(_TICK, ("tick",))
            self.scheduler.run_forever()
        finally:
            sys.modules["__main__"] = main
            self._close()

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `fd` is readable."""
        self.scheduler.watch_fd(fd, callback)
        self._watched.register(fd, select.POLLIN)

    def _urgent(self) -> bool:
        """Whether something needs the root more than the output does."""
        return self.stop_phase > 0 or bool(self._watched.poll(0))

    def _start_worker(self, index: int, post: bytes | None = None) -> None:
        """post: what it goes on with, as the same incarnation."""
        incarnation, _ = self.segment.slot(index)
        if incarnation > _LAST_INCARNATION:
            self.console.note(f"worker {index} was replaced {incarnation} times: it isn't any more")
            return
        self.segment.bury(index)  # what its predecessor held of the arena
        self.segment.set_starting(index)
        # Live from here on, for the root: whatever is announced from now on waits in its ring.
        self.segment.put_slot(index, incarnation, LIVE)
        self.segment.offer_slot(index)
        config = boot.WorkerConfig(
            index=index,
            incarnation=incarnation,
            name=self.options.name,
            log_level=self.options.log_level,
            interactive=self.console.interactive,
            sys_path=self.sys_path,
            stop_timeout=self.options.stop_timeout,
            long_schedule=self.options.long_schedule,
            cpu=self._cpus[index % len(self._cpus)] if self.options.pin else None,
            # Those that would take others' cores for it don't.
            spin=_SPIN if self._spins and len(self.workers) < len(self._cpus) else 0.0,
            max_reports=self.options.max_reports,
            mailbox_limits=self.options.mailbox_limits(),
            forward_logs=self._log_fd is not None,
            preload=self.options.preload,
            post=post,
        )
        # What has been handed over may be large: a spare's socket isn't for that.
        spare = self._spares.take(config) if post is None else None
        if spare is not None:
            self._started(Worker(index, incarnation, *spare))
            return
        process = self._process(boot.main, f"worker-{index}", config)
        try:
            process.start()
            pidfd = os.pidfd_open(process.pid)
        except (OSError, EOFError) as error:
            # No memory, no process table entry, no descriptor: it may be better in a moment. Or the forkserver was
            # killed (EOFError): it may have forked before, and not have told of it.
            orphan = self.segment.withdraw_slot(index) if isinstance(error, EOFError) else 0
            if orphan:
                _end_orphan(orphan)
                adopt_flights(self.segment, index)
            if process.pid is not None:
                # It runs, or ran, but can't be watched. What it may have done was done as this incarnation.
                process.kill()
                process.join(_STATUS_TIMEOUT)
                adopt_flights(self.segment, index)
                code = process.exitcode  # it may have been killed before it could be watched
                self._endpoint_ended(index, incarnation, CAUSE_UNKNOWN if code is None else code, DOWN)
            elif post is not None or isinstance(error, EOFError):
                # Nobody is there to go on with it: that is the end of those who have their home there. Nor may who was
                # forked and comes late take the next one's slot.
                self._endpoint_ended(index, incarnation, CAUSE_UNKNOWN, DOWN)
            why = "the forkserver was killed" if isinstance(error, EOFError) else str(error)
            if index in self._adding:
                self._give_up(index, why)
                return
            self.console.note(f"worker {index} can't be started: {why}; trying again")
            self._failed(index, why)
            self._to_start.add(index)
            return
        self._started(Worker(index, incarnation, process, pidfd))

    def _started(self, worker: Worker) -> None:
        self.workers[worker.index] = worker
        self.watch(worker.pidfd, lambda: self._worker_ended(worker))

    def _process(self, target: Callable[..., None], name: str, *first: Any) -> Any:
        """An OS process of a worker, not started; `target` gets `first`, then the descriptors that all have."""
        fds = (Inherited(self.segment.fd), [Inherited(fd) for fd in self.segment.eventfds], Inherited(self._pidfd))
        return self._context.Process(target=target, name=f"{self.options.name}-{name}", args=(*first, *fds))

    def _start_spare(self, line: int) -> Any:
        options = self.options
        process = self._process(boot.standby, "spare", options.name, self.sys_path, options.preload, Inherited(line))
        process.start()
        return process

    def _give_up(self, index: int, why: str) -> None:
        """An added worker could not be started: its place is free again. What its rings hold is for a dead one."""
        self._endpoint_ended(index, self.segment.slot(index)[0], CAUSE_LEFT, FREE)
        self._answer(self._adding.pop(index), False, ("actor", f"the new worker could not be started: {why}"))

    def _failed(self, index: int, why: str) -> None:
        """A start of a worker has failed; too often in a row and the node can't be helped."""
        self._failed_starts += 1
        if self._failed_starts >= _MAX_FAILED_STARTS and not self.stop_phase:
            text = f"worker {index} could not be started {_MAX_FAILED_STARTS} times in a row: {why}"
            self.console.note(text)
            if self._failed_hook is not None:
                hook, self._failed_hook = self._failed_hook, None
                hook(text)
            self.failure = text
            self.stop(3)

    def _worker_ended(self, worker: Worker) -> None:
        self.scheduler.unwatch_fd(worker.pidfd)
        self._watched.unregister(worker.pidfd)
        worker.process.join(_STATUS_TIMEOUT)
        code = worker.process.exitcode
        if worker.leaving is not None:
            # Whether it has handed over what must go on: that was its last word, and its turn comes after all others.
            self.scheduler.read_to_end(worker.index)
            api.send(self.pid, ("gone", worker.index, worker.incarnation, code))
            return
        self._worker_gone(worker, code)

    def _worker_gone(self, worker: Worker, code: int | None) -> None:
        os.close(worker.pidfd)
        if code is not None:
            worker.process.close()
        # The forkserver was killed: nobody can tell how its children end.
        cause = CAUSE_UNKNOWN if code is None or (code == 255 and not forkserver.alive()) else code
        del self.workers[worker.index]
        os_pid = self.segment.os_pid(worker.index)
        leaving = worker.leaving
        # Before anybody is told: large buffers that it has sent, and that nobody has taken yet.
        for endpoint in [worker.index, *self._guests_of(os_pid)]:
            adopt_flights(self.segment, endpoint)
        if leaving is not None and worker.post is not None:
            self._end_guests(os_pid, cause)
            self.segment.bury(worker.index)
            self._hand_over(worker, leaving, worker.post)
            return
        if leaving is not None and cause == 0:
            # Its processes have told their links and monitors themselves; what was made since came to dead ones.
            cause = CAUSE_LEFT
        replaced = leaving is None or leaving.replaced
        if leaving is not None and replaced:
            self.segment.set_leaving(worker.index, False)
        self._endpoint_ended(worker.index, worker.incarnation, cause, DOWN if replaced else FREE)
        self._end_guests(os_pid, cause)
        self.segment.bury(worker.index)
        if self.stop_phase:
            self._continue_stop()
            return
        if leaving is not None and replaced and cause == CAUSE_LEFT:
            self.console.note(f"worker {worker.index} is empty, and replaced")
            self._start_worker(worker.index)
            return
        if leaving is not None and not replaced:
            for ref in leaving.refs:
                self._answer(ref, True, None)
            return
        if not worker.ready and worker.index in self._adding:
            self._give_up(worker.index, f"it {_describe(cause)} before it was up")
            return
        if not worker.ready:
            self._failed(worker.index, f"it {_describe(cause)} before it was up")
            if self.stop_phase:
                return
        self.console.note(f"worker {worker.index} {_describe(cause)}; it is replaced")
        self._start_worker(worker.index)

    def _end_guests(self, os_pid: int, cause: int) -> None:
        """Threads of a dead OS process that were guests."""
        for guest in self._guests_of(os_pid):
            self._endpoint_ended(guest, self.segment.slot(guest)[0], cause, FREE)

    def _guests_of(self, os_pid: int) -> list[int]:
        return [
            guest
            for guest in range(self.segment.root + 1, self.segment.endpoints)
            if self.segment.slot(guest)[1] in (CLAIMED, LIVE, ENDED) and os_pid and self.segment.os_pid(guest) == os_pid
        ]

    def _hand_over(self, worker: Worker, leaving: Leaving, post: bytes) -> None:
        """A worker has left whose processes run on others: somebody else forwards what comes for them."""
        index = worker.index
        if leaving.replaced and not self.stop_phase:
            self.console.note(f"worker {index} was drained; another OS process goes on as worker {index}")
            self.segment.set_leaving(index, False)
            self._start_worker(index, post)
            return
        self.segment.set_os_pid(index, os.getpid())
        scheduler = Scheduler(self.segment, index, worker.incarnation, "relay")
        scheduler.on_report = self._report
        scheduler.limit = self.scheduler.limit
        scheduler.take_over(post, self.scheduler)
        relay = self.relays[index] = Relay(index, worker.incarnation, scheduler)
        self.scheduler.watch_fd(scheduler.epoll_fd(), lambda: self._attend(relay))
        if self.stop_phase:
            scheduler.stop_here(min(self.stop_phase, KILL))
        self._attend(relay)
        for ref in leaving.refs:
            self._answer(ref, True, None)
        if self.stop_phase:
            self._continue_stop()

    def _attend(self, relay: Relay) -> None:
        """Let a relay forward what has come; it has left when nobody is left whose home it is."""
        if self.relays.get(relay.index) is not relay:
            return
        relay.again = False
        for _ in range(_RELAY_TURNS):
            relay.scheduler.attend()
            if relay.scheduler.rest():
                break
        else:
            relay.again = True
            api.send(self.pid, ("attend", relay.index))
        if relay.scheduler.posts == 0 and not relay.again:
            self._close_relay(relay)
            self._endpoint_ended(relay.index, relay.incarnation, CAUSE_LEFT, FREE)

    def _close_relay(self, relay: Relay) -> None:
        del self.relays[relay.index]
        self.scheduler.unwatch_fd(relay.scheduler.epoll_fd())
        relay.scheduler.close()

    def _endpoint_ended(self, endpoint: int, incarnation: int, cause: int, state: int) -> None:
        """Everything that one death needs, in one go (docs/internals.md, "Epochs"): count up, free names, announce."""
        if incarnation >= _LAST_INCARNATION:
            state = DOWN
        self.segment.put_slot(endpoint, incarnation + 1, state if state != FREE else CLAIMED)
        self._names.free_owner(endpoint, incarnation)
        try:
            self.scheduler.announce_down(endpoint, incarnation, cause)
        except SegmentFull as error:
            # Everybody has been told, but that slot can't be used again.
            self.failure = f"the place of {endpoint} can't be taken by another: {error}"
            self.console.note(self.failure)
            self.stop(3)
            return
        if state == FREE:
            # Only now may another thread take the slot: its rings have been handed over or will be, by those who were
            # told. And a death of its former owner's OS process is none of the next one's.
            self.segment.set_os_pid(endpoint, 0)
            self.segment.set_leaving(endpoint, False)
            self.segment.put_slot(endpoint, incarnation + 1, FREE)

    def _collect_guests(self) -> None:
        for guest in range(self.segment.root + 1, self.segment.endpoints):
            incarnation, state = self.segment.slot(guest)
            if state == ENDED:
                self._endpoint_ended(guest, incarnation, CAUSE_LEFT, FREE)

    # --- messages to the root ---

    def _handle(self, message: Any) -> None:
        match message:
            case ("out", number, _, source, text):
                self.console.out(number, source, text)
            case ("log", worker_index, source, level, logger, created, text, fields):
                self.console.log(source, level, logger, created, text, {"worker": worker_index, **(fields or {})})
            case ("ready", index, incarnation):
                worker = self.workers.get(index)
                if worker is not None and worker.incarnation == incarnation:
                    worker.ready = True
                    self._failed_starts = 0
                    if index in self._adding:
                        self._answer(self._adding.pop(index), True, index)
                if (
                    self._ready_hook is not None
                    and len(self.workers) == self.options.workers
                    and all(w.ready for w in self.workers.values())
                ):
                    hook, self._ready_hook = self._ready_hook, None
                    self._failed_hook = None
                    self.segment.phase = RUNNING
                    hook()
            case ("add_worker", ref):
                self._add(ref)
            case ("remove_worker", ref, index, timeout):
                self._remove(ref, index, timeout)
            case ("handover", index, incarnation, post):
                worker = self.workers.get(index)
                if worker is not None and worker.incarnation == incarnation:
                    worker.post = post
            case ("gone", index, incarnation, code):
                worker = self.workers.get(index)
                if worker is not None and worker.incarnation == incarnation:
                    self._worker_gone(worker, code)
            case ("attend", index):
                relay = self.relays.get(index)
                if relay is not None:
                    self._attend(relay)
            case ("worker_loads", ref):
                self._answer(ref, True, self._loads())
            case Down() if self.applications.went_down(message):
                pass
            case ("application", *_):
                self.applications.handle(message)
            case ("bye", _, _):
                pass  # its last lines came before this
            case ("tick",):
                self._tick()
            case _:
                self._on_message(message)

    def _report(self, kind: str, facts: dict[str, Any]) -> None:
        self.console.note(f"{kind}: {facts}")

    # --- more workers, and fewer ---

    def _answer(self, ref: Ref, done: bool, value: object) -> None:
        """Tell who asked: the value, or (kind, text) of an error (see `scaling.py`)."""
        api.send(ref, (ref, done, value))

    def _stops(self, ref: Ref) -> bool:
        if self.stop_phase:
            self._answer(ref, False, ("stops", "expected a running system, got one that stops"))
        return self.stop_phase > 0

    def _add(self, ref: Ref) -> None:
        if self._stops(ref):
            return
        for index in range(self.segment.workers):
            incarnation, state = self.segment.slot(index)
            if state == FREE and incarnation <= _LAST_INCARNATION:
                break
        else:
            text = f"expected at most {self.segment.workers} workers (max_workers), got one more: raise max_workers"
            self._answer(ref, False, ("actor", text))
            return
        self._adding[index] = ref
        self._start_worker(index)
        if len(self.workers) == len(self._cpus) + 1:
            self.console.note(f"{len(self.workers)} workers share {len(self._cpus)} cores")

    def _remove(self, ref: Ref, index: int, timeout: float | None) -> None:
        if self._stops(ref):
            return
        there = self.segment.worker_indices()
        staying = [worker for worker in there if not self.segment.leaving(worker)]
        if index not in there:
            known = ", ".join(map(str, there))
            text = f"expected the number of one of this system's workers ({known}), got {index}"
            self._answer(ref, False, ("value", text))
        elif index in self.workers and (leaving := self.workers[index].leaving) is not None and leaving.replaced:
            # It is being drained, to be replaced: that it isn't, then.
            leaving.replaced = False
            leaving.refs.append(ref)
            leaving.deadline = None if timeout is None else time.monotonic() + timeout
        elif index not in staying:
            self._answer(ref, False, ("value", f"expected a worker that stays, got {index}, which is leaving already"))
        elif len(staying) == 1:
            text = f"expected a worker to be left, got the last one, {index}: stop the system instead"
            self._answer(ref, False, ("actor", text))
        elif index in self._adding:
            self._answer(ref, False, ("actor", f"expected a worker that is up, got {index}, which is being added"))
        else:
            self.segment.set_leaving(index, True)
            worker = self.workers.get(index)
            if worker is None:
                # It died, and could not be started again so far.
                self._to_start.discard(index)
                self._endpoint_ended(index, self.segment.slot(index)[0], CAUSE_LEFT, FREE)
                self._answer(ref, True, None)
                return
            deadline = None if timeout is None else time.monotonic() + timeout
            worker.leaving = Leaving([ref], LEAVE, deadline)
            self.scheduler.order_stop(index, LEAVE)

    def _hasten(self, worker: Worker, leaving: Leaving) -> None:
        """A worker that was told to leave, and hasn't in time: the next phase."""
        now = time.monotonic()
        if leaving.deadline is None or now < leaving.deadline:
            return
        if leaving.phase == KILL and self.segment.load(worker.index)[0] == 0 and not self.segment.end_due(worker.index):
            # Nobody is there who could be killed: it waits for a host's word. Its death would be that of who has moved.
            leaving.deadline = now + 1.0
            return
        leaving.phase += 1
        leaving.deadline = now + (self.options.stop_timeout if leaving.phase == SHUT_DOWN else 1.0)
        if leaving.phase < KILL_WORKER:
            self.scheduler.order_stop(worker.index, _HASTE + leaving.phase)
        else:
            leaving.deadline = None
            self.console.note(f"worker {worker.index} was told to leave and doesn't end: it is killed")
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)

    def _awake(self) -> dict[int, tuple[int, int]]:
        """How long each worker that is up has been awake: {worker: (incarnation, ns)}."""
        up = (worker for worker in self.workers.values() if worker.ready)
        return {worker.index: (worker.incarnation, self.segment.busy(worker.index)) for worker in up}

    def _loads(self) -> list[tuple[int, int, int, float]]:
        """(number, processes, those that are runnable, busy part of the last second) of each worker that is up."""
        found: list[tuple[int, int, int, float]] = []
        now = time.monotonic()
        for index, (incarnation, awake) in sorted(self._awake().items()):
            busy = 0.0
            for then, earlier in self._looks:
                since = earlier.get(index)
                if since is not None and since[0] == incarnation and then < now:
                    # A call of native code that has just ended may be longer than the time looked at.
                    busy = min(1.0, (awake - since[1]) / 1e9 / (now - then))
                    break
            found.append((index, *self.segment.load(index), busy))
        return found

    # --- stop ---

    def stop(self, phase: int = 1) -> None:
        """Stop the node. 1: applications are stopped, then processes get the exit signal `shutdown`; 2: processes are
        killed; 3: the workers are."""
        if phase <= self.stop_phase:
            return
        self.stop_phase = phase
        self.segment.phase = STOPPING
        self._deadline = time.monotonic() + (self.options.stop_timeout if phase == 1 else 1.0)
        if phase == 1:
            self.applications.stop_all(lambda: self._stop_processes(1))
        else:
            self.applications.give_up()
            self._stop_processes(phase)

    def _stop_processes(self, phase: int) -> None:
        for worker in self.workers.values():
            if phase < 3:
                self.scheduler.order_stop(worker.index, phase)
            else:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
        if phase < 3:
            for relay in list(self.relays.values()):
                relay.scheduler.stop_here(phase)
                self._attend(relay)
        self._continue_stop()

    def _continue_stop(self) -> None:
        if not self.workers:
            self._finish()

    def _tick(self) -> None:
        """Escalate a stop that takes too long, try failed starts again, take in guests that have left."""
        self._collect_guests()
        for index in list(self._to_start):
            if not self.stop_phase:
                self._to_start.discard(index)
                self._start_worker(index)
        for worker in self.workers.values():
            self._watch_turns(worker)
            if worker.leaving is not None and not self.stop_phase:
                self._hasten(worker, worker.leaving)
        for relay in list(self.relays.values()):
            self._attend(relay)
        self._ticks += 1
        if self.options.max_worker_rss is not None and self._ticks % _RSS_TICKS == 0 and not self.stop_phase:
            self._watch_memory(self.options.max_worker_rss)
        if self.segment.phase == RUNNING and all(worker.ready for worker in self.workers.values()):
            self._spares.keep()
        self._looks.append((time.monotonic(), self._awake()))
        if self.options.rebalance and not self.stop_phase:
            loads = {i: Load(queue, busy, not self.segment.leaving(i)) for i, _, queue, busy in self._loads()}
            for order in self._balance.decide(loads):
                self.scheduler.order_shed(order.giver, order.taker, order.share)
        if self._deadline is not None and self.stop_phase < 3 and time.monotonic() >= self._deadline:
            self.stop(self.stop_phase + 1)

    def _watch_memory(self, limit: int) -> None:
        """Drain a worker that uses more memory than it may; another OS process goes on in its place. One at a time."""
        now = time.monotonic()
        staying = [index for index, worker in self.workers.items() if worker.ready and worker.leaving is None]
        if len(staying) < 2 or any(worker.leaving is not None for worker in self.workers.values()):
            return
        for index in staying:
            worker = self.workers[index]
            rest = self._rests.get(index)
            if rest is not None and now < rest.until:
                continue
            used = _memory(self.segment.os_pid(index))
            if used <= limit:
                continue
            # It was replaced, and is too large at the first look after that: so the limit may be too low.
            early = rest is not None and now < rest.until + rest.seconds
            seconds = min(2 * rest.seconds, _RSS_LONGEST_REST) if rest is not None and early else _RSS_REST
            self._rests[index] = Rest(now + seconds, seconds)
            text = f"worker {index} uses {used:,} bytes of memory, more than max_worker_rss ({limit:,}): it is drained"
            if early:
                text += f", and was so a short while ago: it is left alone for {seconds:.0f} s; is the limit too low?"
            self.console.note(text)
            self.segment.set_leaving(index, True)
            worker.leaving = Leaving([], LEAVE, None, replaced=True)
            self.scheduler.order_stop(index, LEAVE)
            return

    def _watch_turns(self, worker: Worker) -> None:
        """A worker that doesn't turn sits in a native call, say. If a process of it is to end, it is killed (S1.10)."""
        index, now = worker.index, time.monotonic()
        turns = self.segment.progress(index)[1]
        if turns != worker.turns or not worker.ready or self.segment.parked(index):
            worker.turns, worker.turned, worker.shown = turns, now, False
            return
        stuck = now - worker.turned
        if stuck >= self.options.stuck_timeout and (self.stop_phase or self.segment.end_due(index)):
            self.console.note(
                f"worker {index} has not turned for {stuck:.1f} s, though a process of it was told to end: it is killed"
            )
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
        elif stuck >= _STUCK and not worker.shown and not self.stop_phase and self.segment.wanted(index):
            worker.shown = True
            self.console.note(f"worker {index} has not turned for {stuck:.1f} s, and others wait. Its stack:")
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker.pidfd, boot.STACK_SIGNAL)

    def _finish(self) -> None:
        self._deadline = None
        if self.segment.phase != STOPPED:
            self.segment.phase = STOPPED
            # What the workers have printed is in our mailbox by now, and is handled before the loop ends.
            self.scheduler.stop_here(1)

    def _close(self) -> None:
        for relay in list(self.relays.values()):
            self._close_relay(relay)
        for worker in self.workers.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
            worker.process.join(1.0)
            os.close(worker.pidfd)
        self.workers.clear()
        self._spares.close()
        use_scheduler(self._former)
        self.scheduler.close()
        os.close(self._pidfd)
        if self._alone is not None:
            self._alone.close()
        # Who has asked for it twice wants it now.
        self.console.close(5.0 if self.stop_phase < 2 else 0.5)
        forkserver.end()


class Inherited:
    """A descriptor among a worker's arguments: the worker gets its own duplicate, as an int."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return boot.inherit, (reduction.DupFd(self.fd),)


def _memory(pid: int) -> int:
    """Bytes of memory that an OS process has for itself; 0: it has ended."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = file.read().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(resident) - int(shared)) * _PAGE


def _end_orphan(os_pid: int) -> None:
    """Kill a worker that isn't known as a child of anybody, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(os_pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], _STATUS_TIMEOUT)
        finally:
            os.close(pidfd)


def _describe(cause: int) -> str:
    if cause == CAUSE_UNKNOWN:
        return "died"
    if cause < 0:
        try:
            return f"was killed by {signal.Signals(-cause).name}"
        except ValueError:
            return f"was killed by signal {-cause}"
    return f"exited with code {cause}"
