"""What workers print and log: whole lines, in order per process, marked where asked (S9.6); their last words (S2.4)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from leaks import eventually
from test_death import ended_at_last, gone
from test_root import started

Program = Callable[..., tuple[int, str, str]]

HEAD = """
import logging, os, signal, sys
import parallel_actors as pa

def all_down(count):
    for _ in range(count):
        pa.receive(pa.Down, timeout=60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Program:
    """Run a program to its end: exit code, stdout, stderr."""
    (tmp_path / "pyproject.toml").touch()

    def start(text: str, *options: str) -> tuple[int, str, str]:
        (tmp_path / "program.py").write_text(HEAD + textwrap.dedent(text))
        command = (sys.executable, "-m", "parallel_actors", "run", "--workers", "2", *options, "program.py")
        with started(*command, cwd=tmp_path) as running:
            return running.end(), running.out.close(), running.err.close()

    return start


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S9.6")
def test_lines_are_whole_and_in_order_per_process(run: Program) -> None:
    text = """
        def talk(name):
            for number in range(200):
                # A line in several writes, with others running between them.
                print(name, end=" ")
                if number % 10 == 0:
                    pa.sleep(0)
                print(number, end=" ")
                print("x" * (number % 7))

        def main():
            for name in range(20):
                pa.options(worker=name % 2).spawn_monitor(talk, name)
            all_down(20)
    """
    code, out, err = run(text)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 20 * 200
    for name in range(20):
        mine = [line for line in lines if line.startswith(f"{name} ")]
        assert mine == [f"{name} {number} {'x' * (number % 7)}" for number in range(200)]


@pytest.mark.contract("S9.6", partly=True)
def test_stdout_and_stderr_are_kept_apart(run: Program) -> None:
    text = """
        def talk():
            for number in range(100):
                print("out", number)
                print("err", number, file=sys.stderr)

        def main():
            pa.options(worker=1).spawn_monitor(talk)
            all_down(1)
    """
    code, out, err = run(text)
    assert code == 0
    assert out.splitlines() == [f"out {number}" for number in range(100)]
    assert err.splitlines() == [f"err {number}" for number in range(100)]


@pytest.mark.contract("S9.6", partly=True)
def test_an_unfinished_line_comes_out_whole_at_the_end_of_its_process(run: Program) -> None:
    text = """
        def talk(name):
            print(name, "begins", end=" ", flush=True)
            pa.receive("go")
            print("and ends", end="")

        def main():
            pids = [pa.options(worker=n % 2).spawn_monitor(talk, n)[0] for n in range(4)]
            for pid in reversed(pids):
                pa.send(pid, "go")
            all_down(4)
            print("main", end="")
    """
    code, out, err = run(text)
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == [*(f"{n} begins and ends" for n in range(4)), "main"]


@pytest.mark.contract("S9.6", partly=True)
@pytest.mark.parametrize("reason", ["boom", "kill"])
def test_an_unfinished_line_of_a_process_that_is_ended_is_not_lost(run: Program, reason: str) -> None:
    text = f"""
        def talk(asker):
            print("half a line", end="")
            pa.send(asker, "up")
            pa.receive()

        def main():
            for worker in (0, 1):
                pid, ref = pa.options(worker=worker).spawn_monitor(talk, pa.self_())
                pa.receive("up", timeout=60)
                pa.exit(pid, {reason!r})
                all_down(1)
    """
    code, out, _ = run(text)
    assert code == 0
    assert out.splitlines() == ["half a line"] * 2


@pytest.mark.contract("S9.6", partly=True)
def test_odd_texts(run: Program) -> None:
    text = r"""
        def talk():
            print("ä 漢字 🐍")
            print("a lone surrogate: \udc80")
            print("nul \0 here")
            print()
            print("two\nlines")
            sys.stdout.write("")
            sys.stdout.writelines(["a", "b\n"])
            print("x" * 100_000)
            print("last")

        def main():
            pa.options(worker=1).spawn_monitor(talk)
            all_down(1)
    """
    code, out, err = run(text)
    assert (code, err) == (0, "")
    expected = [
        "ä 漢字 🐍",
        r"a lone surrogate: \udc80",
        "nul \0 here",
        "",
        "two",
        "lines",
        "ab",
        "x" * 100_000,
        "last",
    ]
    assert out.split("\n") == [*expected, ""]


@pytest.mark.contract("S9.6", partly=True)
def test_much_output_is_complete(run: Program) -> None:
    # Far more than a ring holds, from both workers: nothing is lost at the end of the program either.
    text = """
        def talk(name):
            for number in range(20_000):
                print(name, number, "." * 50)

        def main():
            for name in range(4):
                pa.options(worker=name % 2).spawn_monitor(talk, name)
            all_down(4)
    """
    code, out, err = run(text)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for name in range(4):
        mine = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
        assert mine == [str(number) for number in range(20_000)]


@pytest.mark.contract("S9.6", partly=True)
def test_a_reader_that_has_gone_does_not_hold_the_program_up(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    text = "def main():\n    for n in range(50_000):\n        print(n)\n    print('done', file=sys.stderr)\n"
    (tmp_path / "program.py").write_text(HEAD + text)
    command = f"{sys.executable} -m parallel_actors run --workers 2 program.py | head -n 1"
    with started("bash", "-o", "pipefail", "-c", command, cwd=tmp_path) as running:
        assert running.end() == 0
        assert running.out.close() == "0\n"
        assert running.err.close().splitlines()[-1] == "done"


@pytest.mark.contract("S9.4", "S9.6", partly=True)
def test_a_reader_that_does_not_read_does_not_keep_ctrl_c_out(tmp_path: Path) -> None:
    # A terminal that is paused by Ctrl-S, a pipe into a program that hangs.
    (tmp_path / "pyproject.toml").touch()
    text = """
        def talk(ready):
            for number in range(10_000_000):
                print(number)
                if number == 15_000:
                    open(ready, "w").close()

        def main():
            for worker in (0, 1):
                pa.options(worker=worker).spawn(talk, f"ready {worker}")
            pa.receive()
    """
    (tmp_path / "program.py").write_text(HEAD + textwrap.dedent(text))
    program = subprocess.Popen(
        [sys.executable, "-m", "parallel_actors", "run", "--workers", "2", "program.py"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert program.stdout is not None
    family = []
    try:
        eventually(lambda: len(list(tmp_path.glob("ready *"))) == 2, "both have printed more than the root takes in")
        process = psutil.Process(program.pid)
        family = [process, *process.children(recursive=True)]
        for _ in range(3):
            os.killpg(program.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(0.5)
        assert program.wait(15) == 130
        eventually(lambda: gone(family), "nothing is left")
    finally:
        program.kill()
        program.wait()
        program.stdout.close()
        with ended_at_last(family):
            pass


# --- at a death -------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S9.6", "S2.4", partly=True)
@pytest.mark.parametrize("way", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "os.abort()"])
def test_the_last_lines_of_a_worker_that_dies_arrive(run: Program, way: str) -> None:
    text = f"""
        def talk():
            for number in range(300):
                print("line", number)
            {way}

        def main():
            for _ in range(3):
                pa.options(worker=1).spawn_monitor(talk)
                all_down(1)
            print("main ends")
    """
    code, out, err = run(text)
    assert code == 0
    assert out.splitlines() == [f"line {number}" for number in range(300)] * 3 + ["main ends"]
    assert len(re.findall(r"parallel-actors: worker 1 .*; it is replaced\n", err)) == 3


@pytest.mark.contract("S9.6", partly=True)
def test_a_segfault_says_where(run: Program) -> None:
    text = """
        import ctypes

        def fault():
            print("before")
            ctypes.string_at(0)

        def main():
            pa.options(worker=1).spawn_monitor(fault)
            print(pa.receive(pa.Down, timeout=60).reason)
    """
    code, out, err = run(text)
    assert code == 0
    assert out.splitlines() == ["before", "worker 1 was killed by SIGSEGV"]
    assert "Fatal Python error: Segmentation fault" in err
    assert "in fault" in err


# --- marks ------------------------------------------------------------------------------------------------------------

PID = r"<0\.\d+(?:#\d+)?\.\d+(?:@\d+(?:#\d+)?)?>"


@pytest.mark.contract("S9.6", partly=True)
def test_each_line_is_marked_with_its_source(run: Program) -> None:
    text = """
        def talk(name):
            pa.set_label(name)
            print("one\\ntwo")
            print("three", file=sys.stderr)
            print("half", end="")

        def main():
            pa.options(worker=1).spawn_monitor(talk, "talker")
            pa.options(worker=1, name="registered").spawn_monitor(print, "four")
            all_down(2)
            print("of main")
    """
    code, out, err = run(text, "--prefix-output")
    assert code == 0
    found = []
    for line in out.splitlines():
        mark = re.fullmatch(rf"\[({PID})( \w+)?\] (.*)", line)
        assert mark is not None, line
        found.append(((mark[2] or "").strip(), mark[3]))
    talker = [line for label, line in found if line in ("one", "two", "half")]
    assert talker == ["one", "two", "half"]
    assert ("talker", "one") in found
    assert ("talker", "two") in found
    assert ("registered", "four") in found
    assert ("main", "of main") in found
    assert re.fullmatch(rf"\[{PID} talker\] three\n", err)


@pytest.mark.contract("S9.6", partly=True)
def test_nothing_is_marked_by_default(run: Program) -> None:
    code, out, err = run("def main():\n    print('plain')\n")
    assert (code, out, err) == (0, "plain\n", "")


# --- logs -------------------------------------------------------------------------------------------------------------

LOG = """
    def talk():
        log = logging.getLogger("mine")
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(log, level)("said at %s", level)
        try:
            1 / 0
        except ZeroDivisionError:
            log.exception("it failed")

    def main():
        pa.options(worker=1, label="talker").spawn_monitor(talk)
        all_down(1)
"""


@pytest.mark.contract("S9.6", partly=True)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["INFO", "WARNING", "ERROR", "CRITICAL"]),
        (("--log-level", "debug"), ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
        (("--log-level", "CRITICAL"), ["CRITICAL"]),
    ],
    ids=["default", "debug", "critical"],
)
def test_log_records_come_with_level_logger_and_source(
    run: Program, options: tuple[str, ...], expected: list[str]
) -> None:
    code, out, err = run(LOG, *options)
    assert (code, out) == (0, "")
    said = re.findall(rf"^\d\d:\d\d:\d\d\.\d\d\d (\w+) ({PID}) talker mine: said at (\w+)$", err, re.MULTILINE)
    assert [level for level, _, _ in said] == expected
    assert [word.upper() for _, _, word in said] == expected
    assert len({pid for _, pid, _ in said}) == 1
    assert (
        err.count("it failed") == err.count("ZeroDivisionError: division by zero") == (1 if "ERROR" in expected else 0)
    )


@pytest.mark.contract("S9.6", partly=True)
def test_logs_and_prints_of_a_process_keep_their_order(run: Program) -> None:
    text = """
        def talk():
            for number in range(100):
                print("line", 2 * number, file=sys.stderr)
                logging.getLogger().warning("line %d", 2 * number + 1)

        def main():
            pa.options(worker=1).spawn_monitor(talk)
            all_down(1)
    """
    code, out, err = run(text)
    assert (code, out) == (0, "")
    assert re.findall(r"line (\d+)$", err, re.MULTILINE) == [str(number) for number in range(200)]


# --- crash reports ----------------------------------------------------------------------------------------------------


@pytest.mark.contract("S9.6", partly=True)
@pytest.mark.parametrize("worker", [0, 1])
def test_a_crash_is_reported_once(run: Program, worker: int) -> None:
    text = f"""
        def inner():
            raise ValueError("no good")

        def crash(word):
            pa.receive("go")
            inner()

        def main():
            pid, ref = pa.options(worker={worker}, name="crasher").spawn_monitor(crash, "x")
            other = pa.monitor(pid)
            for message in ("waiting", "too", "go"):
                pa.send(pid, message)
            all_down(2)
            print(pid)
    """
    code, out, err = run(text)
    assert code == 0
    pid = out.strip()
    assert err.count("crashed") == err.count("Traceback") == err.count("ValueError: no good\n  running") == 1
    assert f"process {pid} crasher crashed on worker {worker}: ValueError: no good" in err
    assert "running crash; 2 messages waiting" in err
    assert "in inner" in err
    assert "in crash" in err
    assert "parallel_actors/workers" not in err
    assert re.search(r"^\d\d:\d\d:\d\d\.\d\d\d ERROR ", err)


@pytest.mark.contract("S9.6", partly=True)
@pytest.mark.parametrize(
    "end",
    [
        "return",
        "raise pa.ProcessExit('boom')",
        "raise pa.ProcessExit(pa.Shutdown('x'))",
        "sys.exit(0)",
        "pa.exit(pa.self_(), 'kill')",
        "pa.exit(pa.self_(), 'shutdown')",
    ],
)
def test_what_is_no_crash_is_not_reported(run: Program, end: str) -> None:
    text = f"""
        def leave():
            {end}

        def main():
            for worker in (0, 1):
                pa.options(worker=worker).spawn_monitor(leave)
            all_down(2)
    """
    assert run(text) == (0, "", "")


@pytest.mark.contract("S9.6", "S1.9", partly=True)
def test_what_swallows_its_kill_is_reported_once(run: Program) -> None:
    text = """
        def stubborn(asker):
            while True:
                try:
                    pa.send(asker, "up")    # in here: the kill may be raised as soon as it is sent
                    pa.receive()
                except BaseException:
                    pass

        async def astubborn(asker):
            while True:
                try:
                    pa.send(asker, "up")
                    await pa.areceive()
                except BaseException:
                    pass

        def main():
            for body in (stubborn, astubborn):
                pid, ref = pa.options(worker=1).spawn_monitor(body, pa.self_())
                pa.receive("up", timeout=60)
                pa.exit(pid, "kill")
                all_down(1)
            pa.options(worker=1).spawn_monitor(print, "the worker goes on")
            all_down(1)
    """
    code, out, err = run(text)
    assert (code, out) == (0, "the worker goes on\n")
    assert err.count("swallowed its kill") == 2
    assert len(err.splitlines()) == 2


@pytest.mark.contract("S9.6", partly=True)
def test_the_last_report_comes_before_the_program_is_over(run: Program) -> None:
    text = """
        def crash():
            raise ValueError("at the last moment")

        def main():
            pa.options(worker=1).spawn_monitor(crash)
            all_down(1)
    """
    code, out, err = run(text)
    assert (code, out) == (0, "")
    assert err.count("ValueError: at the last moment") == 2  # the first line, and the end of the traceback


# --- inside another program -------------------------------------------------------------------------------------------


@pytest.mark.contract("S9.6", partly=True)
def test_output_of_a_system_inside_a_program_appears_on_its_streams(tmp_path: Path) -> None:
    text = """
        def talk(name):
            print("hello from", name)
            print("oops from", name, file=sys.stderr)

        with pa.ActorSystem(workers=2):
            for worker in (0, 1):
                pa.options(worker=worker).spawn_monitor(talk, worker)
            all_down(2)
        print("over")
    """
    (tmp_path / "program.py").write_text(HEAD + textwrap.dedent(text))
    with started(sys.executable, "program.py", cwd=tmp_path) as running:
        assert running.end() == 0
        lines = running.out.close().splitlines()
        assert sorted(lines[:2]) == ["hello from 0", "hello from 1"]
        assert lines[2:] == ["over"]
        assert sorted(running.err.close().splitlines()) == ["oops from 0", "oops from 1"]
