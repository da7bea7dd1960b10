"""What happens when processes die: monitors, links, trapped exits, and a worker that is killed.

    parallel-actors run -w 2 examples/crash.py

It prints step by step what the others see. The library's own reports of the crashes go to stderr; `2>/dev/null` hides
them.
"""

from __future__ import annotations

import os
import signal
import sys

import parallel_actors as pa


def divide(number: int) -> float:
    return number / 0


def wait() -> None:
    """Live until something ends it."""
    pa.receive("stop")


def pair(report_to: pa.Pid) -> None:
    """Be linked to another process, and wait."""
    partner = pa.spawn_link(wait)
    pa.send(report_to, partner)
    wait()


def count() -> None:
    """Count the ticks; tell the count to who asks."""
    n = 0
    while True:
        match pa.receive():
            case "tick":
                n += 1
            case (sender, "how many?"):
                pa.send(sender, ("ticks", n))


def tell_os_pid(report_to: pa.Pid) -> None:
    pa.send(report_to, ("os pid", os.getpid()))
    wait()


def main() -> None:
    if pa.worker_count() < 2:
        sys.exit("expected at least 2 workers (one is killed), got 1: parallel-actors run -w 2 examples/crash.py")

    print("1. A monitor: somebody else's crash is a message.")
    pa.spawn_monitor(divide, 1)
    down = pa.receive(pa.Down, timeout=10)
    print(f"   it ended with {down.reason.type}: {down.reason.text}")

    print("2. A link: who belongs together dies together.")
    first, _ = pa.spawn_monitor(pair, pa.self_())
    second = pa.receive(pa.Pid, timeout=10)
    pa.monitor(second)
    pa.exit(first, "no more")
    reasons = [pa.receive(pa.Down, timeout=10).reason for _ in range(2)]
    print(f"   one was told to end, both did: {reasons}")

    print("3. Trapped exits: the end of a linked process is a message, and we live on.")
    pa.trap_exit(True)
    pid = pa.spawn_link(divide, 2)
    end = pa.receive(pa.Exit, timeout=10)
    assert end.pid == pid
    print(f"   our linked process ended with {end.reason.type}: {end.reason.text}")

    print("4. kill: it can't be trapped.")
    pid, _ = pa.spawn_monitor(wait)
    pa.exit(pid, "kill")
    print(f"   it ended with {pa.receive(pa.Down, timeout=10).reason!r}")

    print("5. A worker is killed: its processes end, the others go on.")
    counter = pa.options(worker=0).spawn(count)
    pa.send(counter, "tick")
    victims = [pa.options(worker=1).spawn_monitor(wait) for _ in range(3)]
    pa.options(worker=1).spawn(tell_os_pid, pa.self_())
    _, os_pid = pa.receive(("os pid", int), timeout=10)
    os.kill(os_pid, signal.SIGKILL)
    for _ in victims:
        print(f"   one ended: {pa.receive(pa.Down, timeout=10).reason}")
    pa.send(counter, "tick")
    pa.send(counter, (pa.self_(), "how many?"))
    _, ticks = pa.receive(("ticks", int), timeout=10)
    print(f"   the counter on worker 0 goes on: {ticks} ticks")

    print("6. The worker has been replaced: it takes new processes.")
    pa.options(worker=1).spawn(tell_os_pid, pa.self_())
    _, another = pa.receive(("os pid", int), timeout=60)
    print(f"   worker 1 runs in another OS process: {another != os_pid}")
