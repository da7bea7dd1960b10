"""The watcher: a worker ends with its root, whatever it does at that time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

WITHIN = 1.0  # S9.3


@pytest.fixture
def watched() -> Iterator[subprocess.Popen[bytes]]:
    """Any process that lives until it is killed."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    yield process
    process.kill()
    process.communicate()


def run(script: str, pidfd: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys\nfrom parallel_actors.workers import watcher\npidfd = int(sys.argv[1])\n" + script,
            str(pidfd),
        ],
        pass_fds=[pidfd],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.contract("S9.3")
@pytest.mark.parametrize(
    "busy",
    [
        pytest.param("import ctypes; ctypes.PyDLL(None).sleep(600)", id="a native call that holds the GIL"),
        pytest.param("while True: pass", id="a loop"),
        pytest.param("import time; time.sleep(600)", id="asleep"),
        pytest.param(
            "import signal as s; s.pthread_sigmask(s.SIG_SETMASK, s.valid_signals())\nwhile True: sum(range(10**9))",
            id="all signals blocked",
        ),
        pytest.param(
            "import atexit; atexit.register(lambda: [0 for _ in iter(int, 1)]); [0 for _ in iter(int, 1)]",
            id="atexit that hangs",
        ),
    ],
)
def test_it_dies_within_a_second_of_the_watched(watched: subprocess.Popen[bytes], busy: str) -> None:
    pidfd = os.pidfd_open(watched.pid)
    process = run(f"watcher.start(pidfd)\nos.close(pidfd)\nprint('on', flush=True)\n{busy}", pidfd)
    os.close(pidfd)
    try:
        assert process.stdout
        assert "on\n" == process.stdout.readline()
        assert process.poll() is None
        watched.kill()
        began = time.monotonic()
        assert -signal.SIGKILL == process.wait(10)
        assert time.monotonic() - began < WITHIN
    finally:
        process.kill()
        process.communicate()


def test_of_a_process_that_is_dead_already(watched: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(watched.pid)
    watched.kill()
    process = run("watcher.start(pidfd)\nwhile True: pass", pidfd)
    os.close(pidfd)
    try:
        assert -signal.SIGKILL == process.wait(20)
    finally:
        process.kill()
        process.communicate()


def test_start_and_stop_leave_nothing(watched: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(watched.pid)
    process = run(
        """
import time
def threads():
    while True:
        try: return sorted(open(f"/proc/self/task/{t}/comm").read().strip() for t in os.listdir("/proc/self/task"))
        except (FileNotFoundError, ProcessLookupError): pass    # one has just gone
def descriptors(): return set(os.listdir("/proc/self/fd"))
def check():
    # A thread that was joined has run to its end, but the kernel lists it a moment longer.
    until = time.monotonic() + 15
    while threads() != before[0]: assert time.monotonic() < until, threads()
    assert descriptors() == before[1], (before, descriptors())
before = threads(), descriptors()
watcher.stop()
for _ in range(50):
    watcher.start(pidfd)
    assert "pa-watcher" in threads()
    try: watcher.start(pidfd)
    except RuntimeError as error: assert "has a watcher already: call stop() first" in str(error)
    else: raise SystemExit("started twice")
    assert os.readlink(f"/proc/self/fd/{pidfd}")
    watcher.stop()
    watcher.stop()
    check()
for bad in (-1, 999):
    try: watcher.start(bad)
    except OSError as error: assert f"can't watch descriptor {bad}" in str(error)
    else: raise SystemExit("started on no descriptor")
check()
print("done")
""",
        pidfd,
    )
    os.close(pidfd)
    assert "done\n" == process.communicate(timeout=20)[0]
    assert 0 == process.returncode


def test_signals_go_to_the_main_thread_and_a_pause_does_no_harm(watched: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(watched.pid)
    process = run(
        """
import signal
before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
watcher.start(pidfd)
assert before == signal.pthread_sigmask(signal.SIG_BLOCK, [])
def blocked_by_the_watcher():
    for task in os.listdir("/proc/self/task"):
        if open(f"/proc/self/task/{task}/comm").read() == "pa-watcher\\n":
            return int(dict(line.split(":", 1) for line in open(f"/proc/self/task/{task}/status"))["SigBlk"], 16)
# A new thread has everything blocked, glibc's own signals 32 and 33 too, until it has taken its own mask.
while (blocked := blocked_by_the_watcher()) >> 31 & 3:
    os.sched_yield()
others = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, 32, 33}
assert all(blocked >> s - 1 & 1 for s in others), hex(blocked)
print("on", flush=True)
while True: pass
""",
        pidfd,
    )
    os.close(pidfd)
    try:
        assert process.stdout
        assert "on\n" == process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        process.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        assert process.poll() is None
        watched.kill()
        assert -signal.SIGKILL == process.wait(WITHIN)
    finally:
        process.kill()
        process.communicate()


def test_a_forked_child_has_no_watcher_and_may_start_its_own(watched: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(watched.pid)
    process = run(
        """
watcher.start(pidfd)
child = os.fork()
if child == 0:
    watcher.stop()
    watcher.start(pidfd)
    watcher.stop()
    os._exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
print("on", flush=True)
while True: pass
""",
        pidfd,
    )
    os.close(pidfd)
    try:
        assert process.stdout
        assert "on\n" == process.stdout.readline()
        watched.kill()
        assert -signal.SIGKILL == process.wait(10), "the child's stop() must not stop its parent's watcher"
    finally:
        process.kill()
        process.communicate()
