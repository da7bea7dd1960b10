"""The root as a child of a program that uses `ActorSystem`: `python -c "... child.main()"`, started by `system.py`.

It gets its descriptors and settings on the command line, says "ready" (or why not) on the report pipe, and stops when
the control pipe says so or closes, or when the launching program dies, however it dies.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from parallel_actors.config import Options
from parallel_actors.root import forkserver
from parallel_actors.root.node import Root
from parallel_actors.workers import boot
from parallel_actors.workers.segment import Segment

__all__ = ["main"]


def main(argument: str) -> None:
    """Run the root until the node has stopped. `argument`: JSON, as `system.py` writes it."""
    told = json.loads(argument)
    told["options"]["preload"] = tuple(told["options"]["preload"])  # JSON has lists alone
    # Our own process group: a Ctrl-C in the terminal is the launching program's, which tells us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.fork_first()
    boot.call_process(told["options"]["name"], "root")
    segment = Segment.attach(told["memfd"], told["eventfds"], told["options"]["workers"])
    if told["log"] is not None:
        os.set_inheritable(told["log"], False)  # its reader waits for our end, not for that of what we start
    root = Root(segment, Options(**told["options"]), told["sys_path"], _ignore, told["log"])
    launcher, control, report = told["launcher"], told["control"], told["report"]
    os.set_blocking(control, False)

    def say(text: str) -> None:
        os.write(report, text.encode())
        os.close(report)

    def launcher_died() -> None:
        root.scheduler.unwatch_fd(launcher)
        root.stop(3)

    def told_to_stop() -> None:
        command = os.read(control, 64)
        if not command:  # closed: the launcher has gone, or doesn't care any more
            root.scheduler.unwatch_fd(control)
            root.stop(3)
        for phase in command:
            root.stop(max(phase - ord("0"), root.stop_phase))

    # A SIGTERM for the root alone (a service manager's, say) is an orderly stop.
    signal.signal(signal.SIGTERM, lambda *_: root.stop(1))
    root.watch(launcher, launcher_died)
    root.watch(control, told_to_stop)
    try:
        root.run(lambda: say("ready"), say)
    finally:
        segment.close()
    sys.exit(1 if root.failure else 0)


def _ignore(message: Any) -> None:
    """The launching program speaks by the control pipe."""
