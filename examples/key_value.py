"""A key-value store whose partitions survive the death of their workers, and chaos that shows it.

    parallel-actors run examples/key_value.py               a short demonstration
    parallel-actors run examples/key_value.py --chaos       kills workers for 30 s (--seconds N, --seed N)
    python examples/key_value.py --chaos                    the same, and any worker may be killed

    main -> Store -> Shards -> store/0, store/1, ...: a Shard for each partition, going round the workers

A shard has its values in memory, and in a log on disk: a write is answered when the log has it, and a shard that starts
reads its log. So what was answered outlives a killed process or worker (not a power failure: nothing waits for the
disk). When the worker of a supervisor is killed, all below it goes, and starts again, from the logs.

Each shard has its worker, and waits for that one to be replaced. (A PartitionSupervisor does the same without: it takes
the least loaded worker at each restart. That is quicker, but where some workers are spared, all shards end up there.)

Chaos kills the OS process of a worker with SIGKILL, at random moments, while clients on every worker read and write.
`main` counts: it has to live. Under `parallel-actors run` it is the first process of worker 0, whose death ends the
program, so that one is spared. Started by `python`, it is a thread outside of the workers, and none is spared.

- answered: the call returned. Each value that is read must be the one whose write was answered last.
- failed: the call raised, with the reason: the shard's worker died (NodeDown), it is being started (NoProc), ...
- never answered: neither came within --timeout seconds (CallTimeout), or the client didn't come back at all.
- Clients die with their workers too, and are replaced. They report each failure at once, and the rest ten times a
  second. Of a killed one the last tenth of a second is lost, and nobody is left to be answered. How long it had been
  silent counts as an outage, and beyond the time-out as a call that was never answered.
- A client calls every `PACE` seconds, and repeats what failed, so the share of calls is about the share of time.
- An outage lasts from the start of a call to its answer, its repetitions included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import parallel_actors as pa

PARTITIONS = 8
# Seconds.
PACE = 0.002
REPORT_EVERY = 0.1
KILL_EVERY = (0.3, 1.2)
# What waits for a client beyond its call: a machine whose cores are all busy.
PATIENCE = 60.0


# --- the store --------------------------------------------------------------------------------------------------------


class Shard(pa.Actor):
    """One partition: its values, and the log that they are read from when it starts."""

    def __init__(self, folder: str, partition: int) -> None:
        path = Path(folder, f"{partition}.log")
        self.log = path.open("ab", buffering=0)
        data = path.read_bytes()
        lines, _, torn = data.rpartition(b"\n")
        if torn:  # the worker was killed in the middle of this write, so nobody was told that it was done
            self.log.truncate(len(data) - len(torn))
        self.values: dict[str, Any] = dict(map(json.loads, lines.splitlines()))

    @pa.call
    def get(self, key: str) -> Any:
        return self.values.get(key)

    @pa.call
    def put(self, key: str, value: Any) -> None:
        """`value`: what JSON can carry."""
        self.log.write(json.dumps([key, value]).encode() + b"\n")
        self.values[key] = value

    @pa.call
    def count(self) -> int:
        return len(self.values)


def shard_of(key: str) -> Shard:
    return shard(zlib.crc32(key.encode()) % PARTITIONS)


def shard(number: int) -> Shard:
    """By name, which is looked up at each call: the process behind it changes."""
    return pa.ref(Shard, f"store/{number}")


class Shards(pa.Supervisor):
    """The shards. It never has enough of restarts: each may be the end of one more worker."""

    def init(self, folder: str) -> Any:
        return self.supervise(
            [
                pa.child(Shard, folder, number, name=f"store/{number}", worker=number % pa.worker_count())
                for number in range(PARTITIONS)
            ],
            max_restarts=1_000_000,
        )


class Store(pa.Supervisor):
    """The top of the tree."""

    def init(self, folder: str) -> Any:
        # Shards on other workers end a moment after their supervisor did, and their names are taken until then.
        return self.supervise(
            [pa.child(Shards, folder)], max_restarts=1_000_000, backoff=pa.Backoff(first=0.01, limit=0.1)
        )


def start_store(folder: str) -> pa.Pid:
    """Start the tree, its top beside `main`. What is left of a former one goes on ending meanwhile."""
    while True:
        try:
            pid: pa.Pid = pa.options(worker=pa.worker_index()).start_link(Store, folder)
            return pid
        except pa.StartError as error:
            print(f"the store can't be started yet: {error.reason}", file=sys.stderr)
            pa.sleep(0.05)


# --- clients ----------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of calls: of one client's since its last report, or of all."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    wrong: list[str] = field(default_factory=list)  # reads that didn't give what was written
    outage: float = 0.0  # the longest, in seconds

    def add(self, other: Tally) -> None:
        self.answered += other.answered
        self.failed.update(other.failed)
        self.unanswered += other.unanswered
        self.wrong += other.wrong
        self.outage = max(self.outage, other.outage)

    @property
    def calls(self) -> int:
        return self.answered + self.failed.total() + self.unanswered


class Report(NamedTuple):
    """What a client tells `main`: its tally since the last time. `time` is the monotonic clock's, the same for all."""

    client: pa.Pid
    time: float
    tally: Tally


class Client:
    """Writes and reads keys of its own, one call at a time, and tells `main` what it saw."""

    def __init__(self, name: str, main: pa.Pid, timeout: float) -> None:
        self.name = name
        self.main = main
        self.timeout = timeout
        self.random = random.Random(name)
        self.written: dict[str, int] = {}
        self.tally = Tally()

    def run(self) -> None:
        self.report()
        told = began = time.monotonic()
        key, value = self.next_call()
        while pa.receive("stop", timeout=PACE, default=None) is None:
            answered = self.attempt(key, value)
            now = time.monotonic()
            if answered:
                self.tally.outage = max(self.tally.outage, now - began)
                key, value = self.next_call()
                began = now + PACE
            if not answered or now - told > REPORT_EVERY:
                self.report()
                told = now
        self.tally.outage = max(self.tally.outage, time.monotonic() - began)
        self.report()

    def next_call(self) -> tuple[str, int | None]:
        """A key, and the value to write; None: read it."""
        key = f"{self.name}/{self.random.randrange(4 * PARTITIONS)}"
        return key, self.written.get(key, 0) + 1 if self.random.random() < 0.5 else None

    def attempt(self, key: str, value: int | None) -> bool:
        """Make the call; whether it was answered."""
        try:
            shard = shard_of(key)
            if value is None:
                found = shard.get.options(timeout=self.timeout)(key)
                if found != self.written.get(key):
                    self.tally.wrong.append(f"{key}: expected {self.written.get(key)}, got {found}")
            else:
                shard.put.options(timeout=self.timeout)(key, value)
                self.written[key] = value
        except pa.CallTimeout:
            self.tally.unanswered += 1
        except pa.ActorError as error:
            self.tally.failed[f"{type(error).__name__}, {error.reason}"] += 1
        else:
            self.tally.answered += 1
            return True
        return False

    def report(self) -> None:
        pa.send(self.main, Report(pa.self_(), time.monotonic(), self.tally))
        self.tally = Tally()


def client(name: str, main: pa.Pid, timeout: float) -> None:
    Client(name, main, timeout).run()


# --- chaos ------------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A worker to kill: the process that tells it lives there."""

    worker: int
    os_pid: int


def tell_os_pid(main: pa.Pid, worker: int) -> None:
    pa.send(main, Target(worker, os.getpid()))


class Chaos:
    """Keeps clients at work and kills workers, all from `main`'s own process, which nothing here ends."""

    def __init__(self, folder: str, seed: int, timeout: float, clients: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.timeout = timeout
        self.tally = Tally()
        self.clients: dict[pa.Pid, int] = {}  # and the worker that each lives on
        self.heard: dict[pa.Pid, float] = {}  # when each has reported
        self.born = 0
        self.killed: Counter[int] = Counter()
        self.clients_killed = 0
        self.trees = 1
        self.spy: pa.Pid | None = None
        self.victims = [worker for worker in range(pa.worker_count()) if worker != pa.worker_index()]
        pa.trap_exit(True)
        self.tree = start_store(folder)
        for number in range(clients):
            self.start_client(number % pa.worker_count())

    def start_client(self, worker: int) -> None:
        self.born += 1
        chosen = pa.options(worker=worker, label=f"client {self.born}")
        pid, _ = chosen.spawn_monitor(client, f"client {self.born}", pa.self_(), self.timeout)
        self.clients[pid] = worker

    def run(self, seconds: float, kills: int) -> None:
        until = time.monotonic() + seconds
        self.kill_later()
        while time.monotonic() < until or self.killed.total() < kills:
            match pa.receive(timeout=0.1, default=None):
                case Report() as report:
                    self.take(report)
                case "kill":
                    worker = self.random.choice(self.victims)
                    self.spy, _ = pa.options(worker=worker).spawn_monitor(tell_os_pid, pa.self_(), worker)
                case Target(worker, os_pid):
                    self.spy = None  # its Down may say that it died with the worker
                    os.kill(os_pid, signal.SIGKILL)
                    self.killed[worker] += 1
                    self.kill_later()
                case pa.Down(pid=pid) as down if pid in self.clients:
                    self.start_client(self.clients[pid])
                    self.bury(down)
                case pa.Down(pid=self.spy, reason=pa.WorkerDown()):
                    self.kill_later()  # killed by somebody else, before it could tell
                case pa.Exit(pid=self.tree):
                    self.tree = start_store(self.folder)
                    self.trees += 1
                case pa.Exit(reason=reason):  # the program is told to end
                    raise pa.ProcessExit(reason)
        self.finish()

    def kill_later(self) -> None:
        pa.send_after(self.random.uniform(*KILL_EVERY), pa.self_(), "kill")

    def take(self, report: Report) -> None:
        self.tally.add(report.tally)
        self.heard[report.client] = report.time

    def bury(self, down: pa.Down) -> None:
        """A client has died with its worker; in a call, if it had been silent for longer than between two reports."""
        if not isinstance(down.reason, pa.WorkerDown):
            raise RuntimeError(f"a client failed: {down.reason}")
        del self.clients[down.pid]
        self.clients_killed += 1
        now = time.monotonic()
        silent = now - self.heard.pop(down.pid, now)  # of one that had not begun, nothing was due
        self.tally.outage = max(self.tally.outage, silent - REPORT_EVERY)
        self.tally.unanswered += silent - REPORT_EVERY > self.timeout

    def finish(self) -> None:
        """Have the clients finish their calls. Who doesn't come back sits in one that is never answered."""
        for pid in self.clients:
            pa.send(pid, "stop")
        until = time.monotonic() + self.timeout + PATIENCE
        while self.clients and (left := until - time.monotonic()) > 0:
            match pa.receive(timeout=left, default=None):
                case Report() as report:
                    self.take(report)
                case pa.Down(reason="normal") as down:
                    self.clients.pop(down.pid, None)
                case pa.Down() as down if down.pid in self.clients:
                    self.bury(down)
                case pa.Exit(pid=pid, reason=reason) if pid != self.tree:
                    raise pa.ProcessExit(reason)
        self.tally.unanswered += len(self.clients)
        with contextlib.suppress(pa.NoProc, pa.NodeDown):  # it died with the last worker that was killed
            pa.stop(self.tree)


def chaos(folder: str, options: argparse.Namespace) -> None:
    it = Chaos(folder, options.seed, options.timeout, options.clients)
    if not it.victims:
        sys.exit("expected at least 2 workers (main's own is spared), got 1: parallel-actors run -w 2 ...")
    began = time.monotonic()
    it.run(options.seconds, options.kills)
    tally = it.tally
    print(
        f"{time.monotonic() - began:.1f} s, {pa.worker_count()} workers, {options.clients} clients,"
        f" {PARTITIONS} partitions, seed {options.seed}"
    )
    each = ", ".join(f"worker {worker}: {times}" for worker, times in sorted(it.killed.items()))
    print(f"workers killed    {it.killed.total()} ({each})")
    print(f"clients killed    {it.clients_killed}")
    print(f"trees started     {it.trees}")
    print(f"calls answered    {tally.answered}")
    print(f"calls failed      {tally.failed.total()}")
    for reason, times in tally.failed.most_common():
        print(f"{times:10}  {reason}")
    print(f"never answered    {tally.unanswered}")
    print(f"wrong values      {len(tally.wrong)}")
    for wrong in tally.wrong[:10]:
        print(f"            {wrong}")
    print(f"longest outage    {tally.outage:.3f} s")
    print(f"availability      {100 * tally.answered / max(1, tally.calls):.2f} % of {tally.calls} calls")
    if tally.unanswered or tally.wrong:
        sys.exit(1)


# --- the command line -------------------------------------------------------------------------------------------------


def demonstrate(folder: str) -> None:
    tree = start_store(folder)
    for number in range(1000):
        shard_of(f"key {number}").put(f"key {number}", number)
    for partition in range(PARTITIONS):
        print(
            f"partition {partition} has {shard(partition).count()} values, on worker {shard(partition).__pid__.worker}"
        )
    first = pa.whereis("store/0")
    pa.exit("store/0", "kill")
    while pa.whereis("store/0") in (None, first):
        pa.sleep(0.001)
    found = sum(shard_of(f"key {number}").get(f"key {number}") == number for number in range(1000))
    print(f"partition 0 was killed, and is back: {found} of 1000 values are there")
    pa.stop(tree)


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="key_value.py", description="A store whose partitions survive their workers.")
    parser.add_argument("--chaos", action="store_true", help="kill workers while clients read and write")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long (default 30)")
    parser.add_argument("--seed", type=int, default=random.randrange(1000), help="of the choice of victims and moments")
    parser.add_argument("--kills", type=int, default=1, help="go on until there were so many (default 1)")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds that an answer may take (default 5)")
    parser.add_argument("--clients", type=int, default=16, help="how many (default 16)")
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory(prefix="key_value.") as folder:
        if options.chaos:
            chaos(folder, options)
        else:
            demonstrate(folder)


if __name__ == "__main__":
    with pa.ActorSystem():
        main(sys.argv[1:])
