"""Processes on a string: a test tells each what to do, on whatever worker it lives, and sees what comes of it.

    watcher, target = puppet(0), puppet(1)
    ref = watcher.do(pa.monitor, target.pid)
    target.leave("boom")
    assert watcher.do(mail) == [pa.Down(ref, target.pid, "boom")]

`do` runs a function in the puppet and returns its result. Workers can import the functions of test modules.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import parallel_actors as pa
from parallel_actors.workers.preempt import TICK_SIGNAL

__all__ = [
    "GUEST",
    "PLACES",
    "WAIT",
    "Hog",
    "Puppet",
    "Witness",
    "ask",
    "echo",
    "get",
    "leave",
    "mail",
    "obey",
    "park",
    "place",
    "puppet",
    "take",
]

P = ParamSpec("P")
R = TypeVar("R")

# Seconds for what should come in a moment, on a machine whose cores are all busy.
WAIT = 15.0
GUEST = -1
# Where the one and the other live: on one worker, on two, one of them the test's own thread.
PLACES = [(0, 0), (0, 1), (GUEST, 0)]


_SIGNALS: tuple[object, ...] = (pa.link, pa.unlink, pa.monitor, pa.exit)


def park() -> None:
    """Wait for ever."""
    pa.receive(pa.make_ref())


def obey() -> None:
    """The body of a puppet. What it is told doesn't show in its mailbox."""
    while True:
        _, asker, ref, function, args, kwargs = pa.receive(("do", pa.ANY, pa.ANY, pa.ANY, pa.ANY, pa.ANY))
        try:
            done, value = True, function(*args, **kwargs)
        except Exception as error:
            done, value = False, error
        pa.send(asker, ("done", ref, done, value))


def echo() -> None:
    """Send everything back to its sender."""
    while True:
        sender, message = pa.receive()
        pa.send(sender, message)


def ask(pid: pa.Pid, message: object) -> Any:
    """Send to an `echo`, or what takes messages like it, and wait for the answer."""
    pa.send(pid, (pa.self_(), message))
    return pa.receive(timeout=WAIT)


def leave(reason: object) -> NoReturn:
    """End by itself."""
    raise pa.ProcessExit(reason)


def mail() -> list[Any]:
    """Everything in the mailbox but orders."""
    found: list[Any] = []
    while True:
        message = pa.receive(is_mail, timeout=0, default=None)
        if message is None:
            return found
        found.append(message)


def get(timeout: float = WAIT) -> Any:
    """The next message that is no order."""
    return pa.receive(is_mail, timeout=timeout)


def take(count: int) -> list[Any]:
    """The next `count` messages that are no orders."""
    return [get() for _ in range(count)]


def is_mail(message: object) -> bool:
    return not (
        isinstance(message, tuple) and bool(message) and type(message[0]) is str and message[0] in ("do", "done")
    )


@dataclass(frozen=True)
class Puppet:
    """A process that does what it is told; the calling thread itself, where it lives at GUEST."""

    pid: pa.Pid

    def do(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function(*args)` in the process. Its result, or its exception. Fails if the process is dead.

        The signal that a `link` or `monitor` sends has been taken in by its target: nothing that the test does next, by
        another way, can be there before it.
        """
        result = self._do(function, *args, **kwargs)
        if (
            function in _SIGNALS
            and isinstance(target := args[0], pa.Pid)
            # Another thread of the test answers only while it calls the library.
            and (target.worker < pa.worker_count() or target == pa.self_())
        ):
            self._do(pa.process_info, target, "status")  # goes the same way
        return result

    def _do(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if self.pid == pa.self_():
            return function(*args, **kwargs)
        watch = pa.monitor(self.pid)
        ref = pa.make_ref()
        pa.send(self.pid, ("do", pa.self_(), ref, function, args, kwargs))
        answer = pa.receive(("done", ref, pa.ANY, pa.ANY), pa.Down(watch, pa.ANY, pa.ANY), timeout=2 * WAIT)
        pa.demonitor(watch, flush=True)
        if isinstance(answer, pa.Down):
            raise AssertionError(f"{self.pid} ended while it was told to do something: {answer.reason!r}")
        if not answer[2]:
            raise answer[3]
        value: R = answer[3]
        return value

    def tell(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run `function(*args)` in the process; don't wait for it."""
        pa.send(self.pid, ("do", pa.self_(), pa.make_ref(), function, args, kwargs))

    def end(self, reason: object) -> Any:
        """The process ends by itself with `reason`; wait until it is dead. What others see as its reason."""
        watch = pa.monitor(self.pid)
        self.tell(leave, reason)
        return self.reason_of(watch)

    def watch(self) -> pa.Ref:
        """A monitor that is in place: whatever the process does from now on is behind it."""
        ref = pa.monitor(self.pid)
        pa.process_info(self.pid, "status")  # goes the same way
        return ref

    def reason(self) -> Any:
        """Wait until the process is dead; `noproc` if it was so long ago."""
        return self.reason_of(pa.monitor(self.pid))

    @staticmethod
    def reason_of(watch: pa.Ref) -> Any:
        return pa.receive(pa.Down(watch, pa.ANY, pa.ANY), timeout=WAIT).reason

    @property
    def alive(self) -> bool:
        return pa.is_alive(self.pid)


def puppet(worker: int, **choices: Any) -> Puppet:
    """A new puppet on that worker."""
    return Puppet(pa.options(worker=worker, **choices).spawn(obey))


def place(worker: int) -> Puppet:
    """A new puppet, or the calling thread for GUEST."""
    return Puppet(pa.self_()) if worker == GUEST else puppet(worker)


class Witness(logging.Handler):
    """On a worker: sends a test what is logged there, as ("logged", logger, text)."""

    def __init__(self, to: pa.Pid) -> None:
        super().__init__()
        self.to = to

    def emit(self, record: logging.LogRecord) -> None:
        pa.send(self.to, ("logged", record.name, record.getMessage()))

    @classmethod
    def start(cls, to: pa.Pid) -> None:
        logging.getLogger("parallel_actors").addHandler(cls(to))

    @classmethod
    def stop(cls) -> None:
        logger = logging.getLogger("parallel_actors")
        for handler in logger.handlers[:]:
            if isinstance(handler, cls):
                logger.removeHandler(handler)


class Hog:
    """Keeps a worker inside one native call, so that it doesn't look at its rings, until the `with` block ends."""

    def __init__(self, worker: int, tmp_path: Path) -> None:
        self.fifo = tmp_path / f"hog-{worker}"
        os.mkfifo(self.fifo)
        self.pid = pa.options(worker=worker).spawn(self.sit, pa.self_(), str(self.fifo))

    @staticmethod
    def sit(starter: pa.Pid, fifo: str) -> None:
        pa.send(starter, "sitting")
        pa.sleep(0)  # let the message out: it may stand in the overflow
        # As in a call that handles signals by itself: a tick would interrupt this one, and rings are read at each tick.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [TICK_SIGNAL])
        try:
            with open(fifo, "rb"):  # returns when the other side opens it
                pass
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def __enter__(self) -> Hog:
        assert pa.receive("sitting", timeout=WAIT) == "sitting"
        return self

    def __exit__(self, *_: object) -> None:
        with open(self.fifo, "wb"):
            pass
