"""`python -m benchmarks`: others are measured in turn with us, and one that can't be is skipped by name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from leaks import eventually
from parallel_actors.bench.counterparts import CounterpartError, Machine

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
START = "import runpy, sys; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"

# A peer that says how often it was asked, and what for.
FAKE = """
from contextlib import contextmanager

asked = []

def version():
    print("what it prints is no answer")
    return "7.1"

def call(count):
    asked.append(count)
    return [len(asked)]

def cast(count):
    raise ValueError("no casts\\ntoday")

TESTS = {"call": call, "cast": cast}

@contextmanager
def started():
    yield
    print("ended", file=open("ended", "a"))
"""

DIES = (
    FAKE
    + """
import os, sys

def call(count):
    asked.append(count)
    if len(asked) == 2:
        print("it is gone", file=sys.stderr, flush=True)
        os._exit(3)
    return [1.0]

TESTS = {"call": call}
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the benchmarks alone: beside them the package's sources would hide the one that is installed."""
    shutil.copytree(BENCHMARKS, tmp_path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def add(folder: Path, name: str, text: str) -> None:
    """Add a peer."""
    table = folder / "benchmarks" / "peers" / "__init__.py"
    table.write_text(
        table.read_text().replace('    "multiprocessing": {', f'    "{name}": {{}},\n    "multiprocessing": {{')
    )
    (folder / "benchmarks" / "peers" / f"{name.replace('-', '_')}.py").write_text(text)


def start(folder: Path, module: str, *words: str, asked: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START, module, *words],
        cwd=folder,
        input=asked,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": ""},
        check=False,
    )


# --- a peer's process -------------------------------------------------------------------------------------------------


def test_a_peer_names_its_tests(folder: Path) -> None:
    add(folder, "fa-ke", FAKE)
    done = start(folder, "benchmarks.peers", "fa-ke")
    assert (0, "7.1\ncall cast\n") == (done.returncode, done.stdout)
    assert "what it prints is no answer" in done.stderr


def test_each_line_is_a_run_and_the_end_ends_it(folder: Path) -> None:
    add(folder, "fake", FAKE)
    done = start(folder, "benchmarks.peers", "fake", "call", "10", asked="run\nrun\nrun\n")
    assert (0, "7.1\n1\n2\n3\n") == (done.returncode, done.stdout)
    assert "ended\n" == (folder / "ended").read_text()


def test_a_test_that_fails_says_why_in_a_line(folder: Path) -> None:
    add(folder, "fake", FAKE)
    done = start(folder, "benchmarks.peers", "fake", "cast", "10", asked="run\nrun\n")
    assert (1, "7.1\nfailed: ValueError: no casts today\n") == (done.returncode, done.stdout)


REAL = {
    "cross_call": ("60", 3),
    "cross_call_asleep": ("10 1", 1),
    "cross_cast": ("60", 1),
    "payload": ("100000 20", 1),
    "payload_bytes": ("100000 20", 1),
    "payload_shared": ("100000 20", 1),
}


@pytest.mark.parametrize("peer", ["multiprocessing", "executor"])
def test_the_peers_of_the_standard_library(folder: Path, peer: str) -> None:
    tests = start(folder, "benchmarks.peers", peer).stdout.splitlines()[1].split()
    assert {"cross_call", "cross_cast", "payload"} <= set(tests) <= set(REAL)
    for test in tests:
        numbers, count = REAL[test]
        done = start(folder, "benchmarks.peers", peer, test, *numbers.split(), asked="run\nrun\n")
        assert (0, "") == (done.returncode, done.stderr), test
        _, *answers = done.stdout.splitlines()
        assert [count, count] == [len(answer.split()) for answer in answers], test
        assert all(float(word) > 0 for answer in answers for word in answer.split()), test


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("arrived += 1", "arrived += 2"),
        ("pipe.send(len(pipe.recv_bytes()))", "pipe.send(len(pipe.recv_bytes()) - 1)"),
    ],
)
def test_a_wrong_result_is_no_figure(folder: Path, line: str, wrong: str) -> None:
    broken = folder / "benchmarks" / "peers" / "multiprocessing.py"
    assert line in broken.read_text()
    broken.write_text(broken.read_text().replace(line, wrong))
    test = ["cross_cast", "60"] if "arrived" in line else ["payload", "100000", "20"]
    done = start(folder, "benchmarks.peers", "multiprocessing", *test, asked="run\n")
    assert 1 == done.returncode
    assert re.search(r"^failed: Wrong: .*: expected \d+, got \d+$", done.stdout, re.MULTILINE)


# --- the command ------------------------------------------------------------------------------------------------------


def test_peers_stand_beside_ours(folder: Path) -> None:
    add(folder, "fake", FAKE)
    args = ["call", "cross_call", "--workers", "2", "--quick", "--peers", "fake", "multiprocessing", "--json", "b.json"]
    done = start(folder, "benchmarks", *args)
    assert (0, "") == (done.returncode, done.stderr)
    assert re.search(r"fake, ratio +multiprocessing, ratio$", done.stdout, re.MULTILINE)
    assert "without" not in done.stdout
    written = {figure["name"]: figure for figure in json.loads((folder / "b.json").read_text())}
    for row, peer in (
        ("call", "fake"),
        ("call_typed", "fake"),
        ("cross_call_rate", "multiprocessing"),
        ("cross_call_p99", "multiprocessing"),
    ):
        ours, theirs, ratio = (written[name] for name in (row, f"{peer}_{row}", f"ratio_{peer}_{row}"))
        assert ours["value"] / theirs["value"] == ratio["value"]
        assert (ours["unit"], "1") == (theirs["unit"], ratio["unit"])
        assert ours["params"].items() < theirs["params"].items()
    assert 2 == written["fake_call"]["value"], "it was asked for a warm-up and for a run"
    assert "7.1" == written["fake_call"]["params"]["version"]
    assert not [name for name in written if "beam" in name or "fake_cross" in name or "multiprocessing_call" in name]


def test_a_peer_does_less_where_the_table_says_so(folder: Path) -> None:
    add(folder, "fake", FAKE)
    table = folder / "benchmarks" / "peers" / "__init__.py"
    table.write_text(table.read_text().replace('"fake": {}', '"fake": {"call": 10}'))
    done = start(folder, "benchmarks", "call", "--workers", "1", "--quick", "--peers", "fake", "--json", "b.json")
    assert (0, "") == (done.returncode, done.stderr)
    counts = {figure["name"]: figure["params"]["count"] for figure in json.loads((folder / "b.json").read_text())}
    assert (20_000, 10) == (counts["call"], counts["fake_call"])


def test_who_is_not_there_is_skipped_by_name(folder: Path) -> None:
    add(folder, "absent", "import no_such_library\n")
    done = start(folder, "benchmarks", "call", "--workers", "1", "--quick", "--peers", "absent")
    assert (0, "") == (done.returncode, done.stderr)
    assert "without absent: ModuleNotFoundError: No module named 'no_such_library'" in done.stdout
    assert "absent, ratio" not in done.stdout
    assert re.search(r"^call\*? +[\d.]", done.stdout, re.MULTILINE)


def test_who_fails_or_dies_in_the_middle_is_skipped_there(folder: Path) -> None:
    add(folder, "fake", FAKE)
    add(folder, "dies", DIES)
    done = start(folder, "benchmarks", "call", "cast", "--workers", "1", "--quick", "--peers", "fake", "dies")
    assert (0, "") == (done.returncode, done.stderr)
    assert "call, without dies: dies ended with exit code 3: it is gone" in done.stdout
    assert "cast, without fake: ValueError: no casts today" in done.stdout
    assert "fake, ratio" in done.stdout
    assert "dies, ratio" not in done.stdout


def test_a_figure_too_few(folder: Path) -> None:
    add(folder, "fake", FAKE.replace("return [len(asked)]", "return []"))
    done = start(folder, "benchmarks", "call", "--workers", "1", "--quick", "--peers", "fake")
    assert (0, "") == (done.returncode, done.stderr)
    assert "call, without fake: expected a figure for each of 1 rows, got []" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--peers", "pika"], "expected the name of a peer, got 'pika'; did you mean pykka? known are"),
        (
            ["pingpong", "--peers", "executor"],
            "expected the name of a benchmark, got 'pingpong'; did you mean ping_pong?",
        ),
        (["--workers", "0", "--peers", "executor"], "expected a whole number from 1"),
    ],
)
def test_what_is_not_there(folder: Path, words: list[str], expected: str) -> None:
    done = start(folder, "benchmarks", *words)
    assert 2 == done.returncode
    assert expected in done.stderr


# --- the process of a counterpart -------------------------------------------------------------------------------------


def machine(program: str, timeout: float | None = None) -> Machine:
    return Machine("it", [sys.executable, "-c", program], keep_stderr=True, timeout=timeout)


def test_no_answer_in_time() -> None:
    with (
        machine("print('1.0', flush=True); input(); input()", timeout=0.5) as asked,
        pytest.raises(CounterpartError, match=r"expected it to answer in 0\.5 s, it goes on"),
    ):
        asked.run()


def test_an_answer_that_is_no_figure() -> None:
    with (
        machine("print('1.0', flush=True); print(input())") as asked,
        pytest.raises(CounterpartError, match="expected figures from it, got 'run'"),
    ):
        asked.run()


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(CounterpartError, match="/no/such/command can't be started"):
        Machine("it", ["/no/such/command"], keep_stderr=True)


# It leaves a process behind, which keeps its output open, leads a group of its own, and listens to nobody.
LEAVES = """
import os, subprocess, sys

child = subprocess.Popen(
    [sys.executable, "-c", "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {15}); signal.pause()"],
    start_new_session=START_NEW_SESSION,
)
print(child.pid, flush=True)
input()
os._exit(3)
"""


def test_what_it_started_ends_with_it() -> None:
    with machine(LEAVES.replace("START_NEW_SESSION", "True")) as asked:
        left = int(asked.release)
        assert psutil.pid_exists(left)
    eventually(lambda: not psutil.pid_exists(left), "what it started is gone")


def test_its_death_is_seen_while_what_it_started_keeps_the_pipe() -> None:
    with machine(LEAVES.replace("START_NEW_SESSION", "False"), timeout=60.0) as asked:
        left = int(asked.release)
        with pytest.raises(CounterpartError, match="it ended with exit code 3"):
            asked.run()
        assert psutil.pid_exists(left)
    eventually(lambda: not psutil.pid_exists(left), "what it started is gone")
