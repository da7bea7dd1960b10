"""What the system refuses: memory, descriptors. A clear error, and the node goes on or ends (S1.7, S9.5)."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import parallel_actors as pa
from leaks import eventually
from parallel_actors.workers.scheduler import current_scheduler
from puppets import WAIT, Puppet, ask, echo, get, mail, park, puppet

contract = pytest.mark.contract

MB = 1 << 20


# --- in a worker ------------------------------------------------------------------------------------------------------


def leave_memory(megabytes: int) -> None:
    """From now on this worker gets that much more memory, and then none."""
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * MB, resource.RLIM_INFINITY))


def give_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def use_memory(how: str) -> None:
    held: list[Any] = []
    try:
        while True:
            held.append(bytes(10 * MB) if how == "large" else [object() for _ in range(1000)])
    finally:
        if how == "large":
            held.append("what it did is undone on the way out")


@contract("S1.7", partly=True)
@pytest.mark.parametrize("how", ["large", "small"])
def test_memory_exhausted_by_a_process_is_its_own_crash(actor_system: pa.ActorSystem, how: str) -> None:
    os_pid = actor_system.worker_pids[0]
    neighbour, boss = pa.options(worker=0).spawn(echo), puppet(0)
    boss.do(leave_memory, 100)
    for _ in range(3):
        pid, ref = pa.options(worker=0).spawn_monitor(use_memory, how)
        down = pa.receive(pa.Down(ref, pid, pa.ANY), timeout=2 * WAIT)
        assert isinstance(down.reason, pa.Crash), down
        assert down.reason.type == "MemoryError"
        assert ask(neighbour, "unharmed") == "unharmed"
    boss.do(give_memory)
    assert actor_system.worker_pids[0] == os_pid


@contract("S1.7", "S2.7", partly=True)
@pytest.mark.parametrize("sender_at", [0, 1])
def test_a_message_that_there_is_no_memory_for(actor_system: pa.ActorSystem, sender_at: int) -> None:
    # It costs its sender an error, or is a dead letter: not the worker.
    os_pid = actor_system.worker_pids[0]
    neighbour, boss, receiver, sender = (puppet(index) for index in (0, 0, 0, sender_at))
    boss.do(leave_memory, 60)
    with contextlib.suppress(MemoryError):
        sender.do(send_large, receiver.pid)
    assert neighbour.do(pa.worker_index) == 0
    sender.do(pa.send, receiver.pid, "small")
    assert receiver.do(get) == "small"
    boss.do(give_memory)
    sender.do(send_large, receiver.pid)
    assert receiver.do(length) == 200 * MB
    assert actor_system.worker_pids[0] == os_pid


def send_large(to: pa.Pid) -> None:
    pa.send(to, bytearray(200 * MB))


def length() -> int:
    return len(get())


def hold_all_memory(flag: str) -> None:
    """Take what there is, down to small pieces, say so, and keep it for a while, without giving way."""
    held: Any = None
    done = os.open(flag, os.O_CREAT | os.O_WRONLY)
    for size in [10 * MB, MB, 100_000, 10_000, 1000]:
        try:
            while True:
                held = (held, bytes(size))
        except MemoryError:
            continue
    os.write(done, b".")
    for _ in itertools.repeat(None, 100_000_000):
        pass
    del held
    os.close(done)


@contract("S2.2", "S4.1", "S4.3", "S9.2", partly=True)
@pytest.mark.parametrize("watchers", [1, 3000])
def test_no_signal_is_lost_where_memory_is_used_up(actor_system: pa.ActorSystem, tmp_path: Path, watchers: int) -> None:
    # Found: an end whose telling failed half way left links and monitors waiting for ever. Where there is no memory for
    # a signal the worker ends; so each of those who wait hears of it once, one way or the other.
    pa.trap_exit(True)
    boss, far = puppet(0), puppet(1)
    victims = [pa.options(worker=0).spawn_link(park) for _ in range(20)]
    refs = {pa.monitor(pid): pid for pid in victims for _ in range(watchers)}
    far_refs = {far.do(pa.monitor, pid): pid for pid in victims}
    boss.do(leave_memory, 30)
    flag = tmp_path / "flag"
    pa.options(worker=0, preempt=False).spawn(hold_all_memory, str(flag))
    eventually(lambda: flag.exists() and flag.stat().st_size, "memory is used up")
    for pid in victims:
        pa.exit(pid, ("a reason", pid))
    told = [pa.receive(pa.Down, timeout=2 * WAIT) for _ in refs]
    assert {down.ref: down.pid for down in told} == refs
    linked = [pa.receive(pa.Exit, timeout=WAIT) for _ in victims]
    assert {item.pid for item in linked} == set(victims)
    far_told = [far.do(get) for _ in far_refs]
    assert {down.ref: down.pid for down in far_told} == far_refs
    for reason in {repr(item.reason) for item in told + linked + far_told}:
        assert reason.startswith(("('a reason'", "'system_limit'", "WorkerDown(", "Crash(")), reason
    eventually(lambda: up(actor_system, 0), "worker 0 is there, or there again")
    assert far.do(pa.worker_index) == 1
    assert pa.receive(timeout=0, default="nothing twice") == "nothing twice"
    assert far.do(mail) == []


class Large:
    """A request of 200 MB, or an answer."""

    def __init__(self, size: int) -> None:
        self.data = bytes(size)


def large_reason() -> None:
    pa.receive("end")
    raise pa.ProcessExit(("a reason", bytes(200 * MB)))


def never_runs(data: bytes) -> None:
    pa.receive()


class Answers(pa.GenServer):
    def init(self) -> Any:
        return None

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return pa.Reply(bytes(200 * MB) if request == "large" else "small", state)


@contract("S2.2", "S1.4", "S4.3", "S6.3", partly=True)
def test_a_signal_whose_body_there_is_no_memory_for_comes_without_it(actor_system: pa.ActorSystem) -> None:
    """Found: it was thrown away, and who waited for it did so for ever."""
    os_pid = actor_system.worker_pids[0]
    boss = puppet(0)
    ender = pa.options(worker=1).spawn(large_reason)
    watch = boss.do(pa.monitor, ender)
    server = pa.options(worker=1).start(Answers)
    boss.do(leave_memory, 60)
    # A process whose arguments don't fit ends at once.
    pid, ref = pa.options(worker=0).spawn_monitor(never_runs, bytes(200 * MB))
    reason = pa.receive(pa.Down(ref, pid, pa.ANY), timeout=2 * WAIT).reason
    assert isinstance(reason, pa.Crash)
    assert reason.type == "MemoryError"
    # A Down comes without its reason.
    pa.send(ender, "end")
    assert boss.do(get) == pa.Down(watch, ender, "system_limit")
    # A call ends, whether its request or its answer is too large.
    with pytest.raises(pa.RemoteError):
        boss.do(pa.call, server, "large", timeout=None)
    assert boss.do(pa.call, server, "small") == "small"
    small = pa.options(worker=0).start(Answers)
    with pytest.raises(pa.RemoteError):
        pa.call(small, Large(200 * MB), timeout=None)
    assert pa.call(small, "small") == "small"
    boss.do(give_memory)
    assert actor_system.worker_pids[0] == os_pid


def leave_descriptors(more: int) -> None:
    """From now on this OS process can open that many more, and then none."""
    fds = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    limit = next(n for n in range(1 << 20) if n - sum(fd < n for fd in fds) >= more and n > 2) if more else 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def open_all() -> None:
    held = []
    while True:
        held.append(open("/dev/null"))  # noqa: SIM115


def use_the_node() -> str:
    """What a process does, and does without descriptors."""
    far, ref = pa.options(worker=1).spawn_monitor(park)
    near = pa.spawn_link(echo)
    assert ask(near, bytes(100_000)) == bytes(100_000)
    pa.exit(far, "over")
    assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "over"
    pa.send_after(0.001, pa.self_(), "time")
    assert pa.receive("time", timeout=WAIT) == "time"
    print("it prints")
    return "all is well"


@contract("S1.7", partly=True)
def test_descriptors_exhausted_by_a_process_are_its_own_crash(actor_system: pa.ActorSystem) -> None:
    boss, other = puppet(0), puppet(0)
    boss.do(leave_descriptors, 5)
    held, ref = pa.options(worker=0).spawn_monitor(open_all)
    down = pa.receive(pa.Down(ref, held, pa.ANY), timeout=WAIT)
    assert down.reason.type == "OSError"
    assert "Too many open files" in down.reason.text
    boss.do(leave_descriptors, 0)
    assert other.do(use_the_node) == "all is well"
    with pytest.raises(OSError):
        other.do(os.dup, 0)


@contract("S1.7", "S9.2", partly=True)
def test_shared_memory_that_the_system_refuses(actor_system: pa.ActorSystem) -> None:
    # A ring that was never used can't be made: whoever sends gets the error, and what needs no new memory goes on.
    one, neighbour, far = puppet(0), puppet(0), puppet(1)
    assert one.do(ask, pa.options(worker=0).spawn(echo), "local") == "local"
    thread_pid: list[pa.Pid] = []
    far.do(pa.send, neighbour.pid, "the first by this ring")
    assert neighbour.do(get) == "the first by this ring"
    one.do(refuse_memory)
    with other_guest(thread_pid):
        # No ring of worker 0 leads to that thread yet.
        with pytest.raises(pa.SegmentFull, match="the system refused"):
            one.do(pa.send, thread_pid[0], "no room for a ring")
        assert neighbour.do(abs, -1) == 1
        far.do(pa.send, neighbour.pid, "by rings that are there")
        assert neighbour.do(get) == "by rings that are there"
        one.do(allow_memory)
        one.do(pa.send, thread_pid[0], "now")


@contextlib.contextmanager
def other_guest(pids: list[pa.Pid]) -> Iterator[None]:
    """A thread that is a process; it waits for one message."""
    got: list[Any] = []

    def body() -> None:
        pids.append(pa.self_())
        got.append(pa.receive("now", timeout=WAIT))

    thread = threading.Thread(target=body)
    thread.start()
    try:
        eventually(lambda: pids, "the thread has a pid")
        yield
    finally:
        thread.join()
    assert got == ["now"]


def refuse_memory() -> None:
    """`fallocate` on a descriptor that can't be written stands for a memory that is full."""
    fd = memfd()
    pa.process_dict()["saved"] = os.dup(fd)
    readonly = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(readonly, fd, inheritable=False)
    os.close(readonly)


def allow_memory() -> None:
    saved = pa.process_dict().pop("saved")
    os.dup2(saved, memfd(), inheritable=False)
    os.close(saved)


def memfd() -> int:
    scheduler = current_scheduler()
    assert scheduler is not None
    return scheduler.segment.fd


# --- in the root ------------------------------------------------------------------------------------------------------


def limit_descriptors(pid: int, soft: int) -> None:
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@contract("S9.2", "S9.5", partly=True)
@pytest.mark.parametrize("more", range(0, 9, 2))
def test_a_root_without_descriptors_tries_again_and_then_stops_the_node(no_leaks: None, more: int) -> None:
    with pa.ActorSystem(workers=2) as system:
        root = psutil.Process(system.root_pid)
        survivor, victim = puppet(1), puppet(0)
        watch = victim.watch()
        used = max(map(int, os.listdir(f"/proc/{root.pid}/fd"))) + 1
        limit_descriptors(root.pid, used + more)
        os.kill(system.worker_pids[0], signal.SIGKILL)
        assert Puppet.reason_of(watch) == pa.WorkerDown(0, signal.SIGKILL)
        # It has given up, or there was just enough.
        eventually(lambda: not system.running or up(system, 0), "the node has stopped, or worker 0 is back")
        if system.running:
            assert puppet(0).do(pa.worker_index) == 0
            assert survivor.do(pa.worker_index) == 1
        else:
            with pytest.raises(pa.NotRunning):
                pa.receive(timeout=WAIT)


def up(system: pa.ActorSystem, index: int) -> bool:
    pid = system.worker_pids[index]
    return bool(pid) and os.path.exists(f"/proc/{pid}/fd") and bool(os.listdir(f"/proc/{pid}/fd"))


@contract("S9.2", partly=True)
def test_a_root_that_gets_its_descriptors_back_replaces_the_worker(actor_system: pa.ActorSystem) -> None:
    root = psutil.Process(actor_system.root_pid)
    before = resource.prlimit(root.pid, resource.RLIMIT_NOFILE)[0]
    former = actor_system.worker_pids[0]
    watch = puppet(0).watch()
    limit_descriptors(root.pid, 3)
    os.kill(former, signal.SIGKILL)
    assert Puppet.reason_of(watch) == pa.WorkerDown(0, signal.SIGKILL)
    limit_descriptors(root.pid, before)
    assert puppet(0).do(pa.worker_index) == 0
    assert actor_system.worker_pids[0] not in (0, former)


# --- in the launching program -----------------------------------------------------------------------------------------

PROGRAM = """
    import os, resource, sys
    import parallel_actors as pa

    pa.ActorSystem, pa.options      # what is imported on first use is, before there is too little for that
    kind, more = sys.argv[1], int(sys.argv[2])

    def listed():
        return sorted(os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in os.listdir("/proc/self/fd")
                      if os.path.exists(f"/proc/self/fd/{fd}"))

    def mapped():
        return sum("memfd:" in line for line in open("/proc/self/maps"))

    before = listed()
    if kind == "descriptors":
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + more, 4096))
    else:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (more << 20), resource.RLIM_INFINITY))
    try:
        with pa.ActorSystem(workers=1, guests=2, stop_timeout=1):
            pid, ref = pa.options(worker=0).spawn_monitor(abs, -1)
            reason = pa.receive(pa.Down(ref, pid, pa.ANY), timeout=30).reason
            print("ran" if reason == "normal" else repr(reason))
    except (pa.ActorError, OSError, MemoryError) as error:
        print(type(error).__name__, error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    after = listed()
    assert before == after, (before, after)
    assert mapped() == 0
    with pa.ActorSystem(workers=1):     # nothing of it is in the way of the next one
        print("ran again")
"""


def run_limited(kind: str, more: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), kind, str(more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contract("S9.5", "S10.1", partly=True)
@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("descriptors", range(1, 34, 4)),
        ("memory", [1, 150, 300, 350, 400, 600]),
        pytest.param("descriptors", range(1, 34), marks=pytest.mark.stress),
        pytest.param("memory", range(1, 600, 25), marks=pytest.mark.stress),
    ],
    ids=["descriptors", "memory", "all-descriptors", "more-memory"],
)
def test_a_start_with_too_little_says_so_and_leaves_nothing(kind: str, steps: Any) -> None:
    said = set()
    for more in steps:
        program = run_limited(kind, more)
        try:
            out, errors = program.communicate(timeout=4 * WAIT)
        finally:
            program.kill()
            program.wait()
        lines = out.splitlines()
        assert program.returncode == 0, (more, out, errors)
        assert lines[-1] == "ran again", (more, out, errors)
        said.add(lines[0].split(":")[0][:40])
    assert len(said) > 1, said
