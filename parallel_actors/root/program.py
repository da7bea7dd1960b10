"""`run_program`: the root inside `parallel-actors run`.

The command's own process is the root; the program's `main` runs as the first process, on worker 0. Signals come by a
wake-up descriptor, so that the root's loop meets them between two turns: the first Ctrl-C (or SIGTERM) lets processes
shut down, the second kills them, the third kills the workers. Exit codes: 0, 1 (main failed), what `sys.exit` asked
for, 130 (Ctrl-C), 143 (SIGTERM).

Where the target is an application, the first process starts it and ends; the program ends when the application does.
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from parallel_actors.config import Options
from parallel_actors.root import forkserver
from parallel_actors.root.node import Root
from parallel_actors.workers import api
from parallel_actors.workers.errors import ProcessExit, StartError
from parallel_actors.workers.reasons import Crash, Down, Shutdown
from parallel_actors.workers.segment import Segment

if TYPE_CHECKING:
    from parallel_actors.cli.target import Target
    from parallel_actors.root.watch import Watch

__all__ = ["run_program"]

_ORDERLY = ("normal", "shutdown")
_APPLICATION = "$application"  # (this, name): the main process has ended because it has started an application


class _Program:
    """One run of a program: its root, its main process, its signals and its exit code."""

    def __init__(
        self,
        target: Target,
        args: list[str],
        options: Options,
        sys_path: list[str],
        env: tuple[str, ...],
        reload: bool,
    ) -> None:
        self.target = target
        self.args = args
        self.env = env
        self.code = 0
        self.interrupts = 0
        self.segment = Segment.create(options.worker_slots, options.guests, arena_bytes=options.arena_bytes)
        self.root = Root(self.segment, options, sys_path, self.handle)
        self.watch: Watch | None = None
        if reload:
            from parallel_actors.root.watch import Watch

            self.watch = Watch(self.root, target.directory, target.path)

    def run(self) -> int:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        # What was ignored when we were started (a shell's background job, nohup) stays so.
        ours_to_handle = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
        handlers = {number: signal.signal(number, lambda *_: None) for number in ours_to_handle}
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self.root.watch(ours.fileno(), lambda: self.interrupted(ours.recv(64)))
        try:
            self.root.run(self.ready, self.failed)
        finally:
            # The exit code stands: no Ctrl-C changes it any more, wherever it comes until this OS process has ended.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            ours.close()
            theirs.close()
            self.segment.close()
        if self.interrupts == 0 and self.root.applications.exit_code is not None:
            return self.root.applications.exit_code
        return self.code

    def ready(self) -> None:
        """All workers are up: the program starts. Called by the root's process."""
        api.spawn_with((0, None, "main", True, None), 2, _main, (self.target, self.args, self.env), {})
        if self.watch is not None:
            self.watch.start()

    def failed(self, why: str) -> None:
        self.code = 1

    def handle(self, message: Any) -> None:
        if self.watch is not None and isinstance(message, tuple) and message[:1] == ("watch",):
            self.watch.handle(message)
        if not isinstance(message, Down) or (self.watch is not None and self.watch.went_down(message)):
            return
        reason = message.reason
        if isinstance(reason, tuple) and len(reason) == 2 and reason[0] == _APPLICATION:
            self.root.applications.keep(reason[1])
            return
        # The main process has ended, and with it the program.
        if self.interrupts == 0:
            self.code = self.exit_code(reason)
        self.root.stop(1)

    def exit_code(self, reason: Any) -> int:
        """The exit code for how `main` ended; says why on stderr."""
        if reason in _ORDERLY or isinstance(reason, Shutdown):
            return 0
        console = self.root.console
        if isinstance(reason, Crash):
            if reason.type == "SystemExit":
                # As Python itself: a number is the code, anything else is printed.
                if reason.text.lstrip("-").isdigit() and not isinstance(getattr(reason.exception, "code", None), str):
                    return int(reason.text) & 0xFF
                console.out(2, "main", reason.text + "\n")
                return 1
            console.out(2, "main", reason.traceback)
            return 1
        console.note(f"main ended: {reason}")
        return 1

    def interrupted(self, numbers: bytes) -> None:
        for number in numbers:
            self.interrupts += 1
            phase = min(self.interrupts, 3)
            if phase == 1:
                self.code = 128 + number
                name = "interrupted" if number == signal.SIGINT else "SIGTERM"
                self.root.console.note(f"{name}: stopping (Ctrl-C again: stop now)")
                self.root.applications.announce = True
            self.root.stop(max(phase, self.root.stop_phase + 1) if phase > 1 else 1)


def _main(target: Target, args: list[str], env: tuple[str, ...]) -> Any:
    """The first process: load the program and call it, or start the application that it is."""
    from parallel_actors.application import Application, boot
    from parallel_actors.cli.target import load

    program = load(target, args)
    if isinstance(program, type) and issubclass(program, Application):
        try:
            name = boot(program, args, env)
        except (ValueError, StartError) as error:
            why = getattr(error, "reason", None)
            if isinstance(why, Crash) and isinstance(why.exception, SystemExit):
                raise why.exception from None  # what the application wants said is the code alone
            sys.exit(f"parallel-actors: {target}: {error}")
        raise ProcessExit((_APPLICATION, name))
    if env:
        sys.exit(f"parallel-actors: expected --env with an application, got {target}, which is a function")
    return program()


def run_program(
    target: Target, args: list[str], options: Options, *, env: tuple[str, ...] = (), reload: bool = False
) -> int:
    """Run `target` on a node of its own, with this process as its root; returns the exit code, with SIGINT blocked.

    Args:
        target: what to run, checked by `parallel_actors.cli.target.parse_target`.
        args: for the program's `sys.argv`.
        options: the node's settings.
        env: what `--env` says, "key=value" each, where the target is an application.
        reload: whether to load the program's modules anew when their files change.
    """
    sys_path = list(sys.path)
    # Before the workers start: so each of them can import the program's modules by name.
    if target.directory not in sys_path:
        sys_path.insert(0, target.directory)
    forkserver.fork_first()
    return _Program(target, args, options, sys_path, env, reload).run()
