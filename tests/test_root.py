"""`parallel-actors run` and the root: exit codes, Ctrl-C, SIGTERM, and that nothing is left (S9.4, S9.5)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

from leaks import eventually
from test_death import alive, ended_at_last, gone

PATIENCE = 30.0


class Lines:
    """What a program writes, as it comes."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self._lines: list[str] = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        for line in self.stream:
            self._lines.append(line)

    @property
    def text(self) -> str:
        return "".join(self._lines)

    def expect(self, text: str) -> None:
        eventually(lambda: text in self.text, f"{text!r} is printed", PATIENCE)

    def close(self) -> str:
        self.thread.join(PATIENCE)
        self.stream.close()
        return self.text


class Running:
    """A program that was started as in a terminal: in a process group of its own, which gets the Ctrl-C as a whole."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        assert program.stdout is not None
        assert program.stderr is not None
        self.program = program
        self.out, self.err = Lines(program.stdout), Lines(program.stderr)

    def family(self) -> list[psutil.Process]:
        process = psutil.Process(self.program.pid)
        return [process, *process.children(recursive=True)]

    def ctrl_c(self) -> None:
        os.killpg(self.program.pid, signal.SIGINT)

    def end(self) -> int:
        return self.program.wait(PATIENCE)


@contextlib.contextmanager
def started(*command: str, cwd: Path) -> Iterator[Running]:
    """Start a command; at the end everything that it has left is ended."""
    program = subprocess.Popen(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    running = Running(program)
    try:
        yield running
    finally:
        program.kill()
        program.wait()
        running.out.close()
        running.err.close()


Start = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture
def run(tmp_path: Path) -> Start:
    """Start `parallel-actors run` with this program text."""
    (tmp_path / "pyproject.toml").touch()

    def start(text: str, *options: str, args: tuple[str, ...] = ()) -> contextlib.AbstractContextManager[Running]:
        (tmp_path / "program.py").write_text("import sys\nimport parallel_actors as pa\n" + textwrap.dedent(text))
        command = (sys.executable, "-m", "parallel_actors", "run", "--workers", "2", *options, "program.py", *args)
        return started(*command, cwd=tmp_path)

    return start


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S9.4", partly=True)
@pytest.mark.parametrize(
    ("body", "code", "stdout", "stderr"),
    [
        ("print('hello')", 0, "hello\n", ""),
        ("return 7", 0, "", ""),
        ("sys.exit()", 0, "", ""),
        ("sys.exit(0)", 0, "", ""),
        ("sys.exit(3)", 3, "", ""),
        ("sys.exit(-1)", 255, "", ""),
        ("sys.exit('a text')", 1, "", "a text\n"),
        ("sys.exit('17')", 1, "", "17\n"),
        ("raise pa.ProcessExit('normal')", 0, "", ""),
        ("raise pa.ProcessExit('shutdown')", 0, "", ""),
        ("raise pa.ProcessExit(pa.Shutdown('done'))", 0, "", ""),
        ("raise pa.ProcessExit('a reason')", 1, "", "parallel-actors: main ended: a reason\n"),
        ("pa.exit(pa.self_(), 'kill')", 1, "", "parallel-actors: main ended: killed\n"),
    ],
)
def test_exit_codes(run: Start, body: str, code: int, stdout: str, stderr: str) -> None:
    with run(f"def main():\n    {body}\n") as running:
        assert running.end() == code
        assert running.out.close() == stdout
        assert running.err.close() == stderr


@pytest.mark.contract("S9.4", partly=True)
def test_an_exception_of_main_is_shown_once_as_python_shows_it(run: Start) -> None:
    with run("def helper():\n    raise ValueError('no good')\n\ndef main():\n    helper()\n") as running:
        assert running.end() == 1
        assert running.out.close() == ""
        lines = running.err.close().splitlines()
        assert lines[0] == "Traceback (most recent call last):"
        assert lines[-1] == "ValueError: no good"
        assert sum("no good" in line for line in lines) == 2  # the source line and the message
        assert [line for line in lines if "File" in line and "program.py" not in line] == []


@pytest.mark.contract("S9.4", partly=True)
def test_an_async_main(run: Start) -> None:
    with run("async def main():\n    await pa.asleep(0.01)\n    print('slept')\n    sys.exit(4)\n") as running:
        assert running.end() == 4
        assert running.out.close() == "slept\n"


@pytest.mark.contract("S9.4", partly=True)
def test_arguments_and_spreading_spawns(run: Start) -> None:
    text = """
        def where(asker):
            pa.send(asker, pa.worker_index())
            pa.receive()

        def main(args):
            for _ in range(10):
                pa.options(stealable=False).spawn(where, pa.self_())
            print(args, sorted({pa.receive(timeout=30) for _ in range(10)}))
    """
    with run(text, args=("--flag", "x y")) as running:
        assert running.end() == 0
        assert running.out.close() == "['--flag', 'x y'] [0, 1]\n"


@pytest.mark.contract("S9.4", "S9.5", partly=True)
def test_the_program_ends_with_main_whatever_else_runs(run: Start) -> None:
    text = """
        def forever(asker, name):
            try:
                pa.send(asker, name)
                pa.receive()
            finally:
                print("end of", name)

        def main():
            for worker in (0, 1):
                pa.options(worker=worker).spawn(forever, pa.self_(), worker)
            pa.receive(timeout=30), pa.receive(timeout=30)
            print("main ends")
    """
    with run(text) as running:
        everybody = running.family()
        assert running.end() == 0
        assert sorted(running.out.close().splitlines()) == ["end of 0", "end of 1", "main ends"]
        assert running.err.close() == ""
        assert gone(everybody)


@pytest.mark.contract("S9.2", partly=True)
def test_main_dies_with_its_worker(run: Start) -> None:
    text = "import os, signal\ndef main():\n    print('up')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    with run(text) as running:
        assert running.end() == 1
        assert running.out.close() == "up\n"
        assert "main ended: worker 0 was killed by SIGKILL" in running.err.close()


@pytest.mark.contract("S9.2", partly=True)
def test_main_survives_the_other_worker(run: Start) -> None:
    text = """
        import os
        def main():
            for _ in range(3):
                pid, ref = pa.options(worker=1).spawn_monitor(os._exit, 9)
                print(pa.receive(pa.Down, timeout=30).reason)
    """
    with run(text) as running:
        assert running.end() == 0
        assert running.out.close() == "worker 1 exited with code 9\n" * 3


WEAKLY = """
    import weakref

    class Thing: ...

    def forgets(asker):
        pa.send(asker, "up")
        while True:
            things = weakref.WeakSet()
            for _ in range(50):
                things.add(Thing())

    def main():
        for _ in range(60):
            pid, ref = pa.options(worker=1).spawn_monitor(forgets, pa.self_())
            pa.receive("up", timeout=30)
            pa.exit(pid, "shutdown")
            pa.receive(pa.Down(ref, pid, "shutdown"), timeout=30)
"""


@pytest.mark.contract("S1.9", partly=True)
def test_an_end_is_not_lost_in_the_callback_of_a_weak_set(run: Start) -> None:
    """Raised there it is printed ("Exception ignored in ..."), and comes again only after a second."""
    with run(WEAKLY) as running:
        assert running.end() == 0
        assert running.err.close() == ""


# --- Ctrl-C and SIGTERM -----------------------------------------------------------------------------------------------

WAITING = """
    def child(asker):
        try:
            pa.send(asker, "up")
            pa.receive()
        finally:
            print("child ends")

    def main():
        for worker in (0, 1):
            pa.options(worker=worker).spawn(child, pa.self_())
            pa.receive(timeout=30)
        print("up")
        try:
            pa.receive()
        finally:
            print("main ends")
"""


@pytest.mark.contract("S9.4", "S9.5", partly=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_one_signal_drains_and_stops(run: Start, number: signal.Signals) -> None:
    with run(WAITING) as running:
        running.out.expect("up\n")
        everybody = running.family()
        with ended_at_last(everybody):
            if number == signal.SIGINT:
                running.ctrl_c()
            else:
                running.program.terminate()
            assert running.end() == 128 + number
            assert sorted(running.out.close().splitlines()) == ["child ends", "child ends", "main ends", "up"]
            said = "interrupted" if number == signal.SIGINT else "SIGTERM"
            assert running.err.close() == f"parallel-actors: {said}: stopping (Ctrl-C again: stop now)\n"
            eventually(lambda: gone(everybody), "nothing is left")


STUBBORN = """
    def ignore(asker, name):
        pa.trap_exit()
        pa.send(asker, name)
        try:
            while True:
                print(name, "ignores", pa.receive(pa.Exit).reason)
        finally:
            print(name, "is killed")

    def main():
        for worker in (0, 1):
            pa.options(worker=worker).spawn(ignore, pa.self_(), worker)
            pa.receive(timeout=30)
        print("up")
        pa.receive()
"""


@pytest.mark.contract("S9.4", partly=True)
def test_the_second_ctrl_c_kills_what_ignores_the_first(run: Start) -> None:
    with run(STUBBORN, "--stop-timeout", "600") as running:
        running.out.expect("up\n")
        everybody = running.family()
        with ended_at_last(everybody):
            running.ctrl_c()
            running.out.expect("0 ignores shutdown\n")
            running.out.expect("1 ignores shutdown\n")
            running.ctrl_c()
            assert running.end() == 130
            assert sorted(running.out.close().splitlines())[-1] == "up"
            assert {"0 is killed", "1 is killed"} <= set(running.out.text.splitlines())
            assert "Traceback" not in running.err.close()
            eventually(lambda: gone(everybody), "nothing is left")


@pytest.mark.contract("S9.4", partly=True)
def test_what_ignores_the_shutdown_is_killed_after_the_stop_timeout(run: Start) -> None:
    with run(STUBBORN, "--stop-timeout", "0.3") as running:
        running.out.expect("up\n")
        running.ctrl_c()
        assert running.end() == 130
        assert {"0 is killed", "1 is killed"} <= set(running.out.close().splitlines())


HOGS = """
    import ctypes

    def hog(asker):
        pa.send(asker, "up")
        while True:
            pass

    def native(asker):
        pa.send(asker, "up")
        pa.sleep(0.05)
        ctypes.PyDLL(None).usleep(600_000_000)

    def main():
        pa.options(worker=1).spawn({body}, pa.self_())
        pa.receive(timeout=30)
        print("up")
        {rest}
"""


@pytest.mark.contract("S9.4", partly=True)
@pytest.mark.parametrize("body", ["hog", "native"])
@pytest.mark.parametrize("rest", ["pa.receive()", "\n        while True: pass"], ids=["main waits", "main hogs"])
def test_three_ctrl_c_end_it_while_user_code_hogs_every_core(run: Start, body: str, rest: str) -> None:
    with run(HOGS.format(body=body, rest=rest), "--stop-timeout", "600") as running:
        running.out.expect("up\n")
        everybody = running.family()
        with ended_at_last(everybody):
            for _ in range(3):
                running.ctrl_c()
                running.err.expect("stopping")
            assert running.end() == 130
            assert "Traceback" not in running.err.close()
            eventually(lambda: gone(everybody), "nothing is left")


@pytest.mark.contract("S9.4", partly=True)
def test_ctrl_c_pressed_until_it_has_ended(run: Start) -> None:
    with run(HOGS.format(body="hog", rest="pa.receive()")) as running:
        running.out.expect("up\n")
        while running.program.poll() is None:
            running.ctrl_c()
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.program.wait(0.002)
        assert running.end() == 130
        assert "Traceback" not in running.err.close()


@pytest.mark.contract("S9.4", partly=True)
def test_a_stop_that_nobody_answers_ends_by_itself(run: Start) -> None:
    with run(HOGS.format(body="hog", rest="pa.receive()"), "--stop-timeout", "0.2") as running:
        running.out.expect("up\n")
        everybody = running.family()
        with ended_at_last(everybody):
            running.ctrl_c()
            assert running.end() == 130
            eventually(lambda: gone(everybody), "nothing is left")


@pytest.mark.contract("S9.4", partly=True)
def test_a_ctrl_c_while_it_starts(run: Start) -> None:
    # At whatever moment: it ends, by 130 or (before the handlers are there) by the signal, and leaves nothing.
    for pause in (0.05, 0.2, 0.3, 0.4, 0.5):
        with run(WAITING) as running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.program.wait(pause)
            everybody = running.family()
            with ended_at_last(everybody):
                running.ctrl_c()
                assert running.end() in (130, 1, -signal.SIGINT)
                eventually(lambda everybody=everybody: gone(everybody), "nothing is left")  # type: ignore[misc]


@pytest.mark.contract("S9.3", partly=True)
def test_sigkill_of_the_command_leaves_nothing(run: Start) -> None:
    with run(HOGS.format(body="native", rest="pa.receive()")) as running:
        running.out.expect("up\n")
        everybody = running.family()
        with ended_at_last(everybody):
            running.program.kill()
            running.end()
            eventually(lambda: gone(everybody), "nothing is left")


@pytest.mark.contract("S9.4", partly=True)
def test_workers_ignore_the_ctrl_c_that_is_for_the_root(run: Start) -> None:
    # The whole group of the terminal gets it: a worker must not die of it, nor of one that comes while it is started.
    text = """
        import os, signal
        def main():
            before = os.getpid()
            signal.raise_signal(signal.SIGINT)
            pid, ref = pa.options(worker=1).spawn_monitor(signal.raise_signal, signal.SIGINT)
            print(pa.receive(pa.Down, timeout=30).reason)
    """
    with run(text) as running:
        assert running.end() == 0
        assert running.out.close() == "normal\n"


# --- a program with a system in it ------------------------------------------------------------------------------------

EMBEDDED = """
    import sys
    import parallel_actors as pa

    def child(asker):
        try:
            pa.send(asker, "up")
            pa.receive()
        finally:
            print("child ends")

    with pa.ActorSystem(workers=2) as system:
        for worker in (0, 1):
            pa.options(worker=worker).spawn(child, pa.self_())
            pa.receive(timeout=30)
        print("up", flush=True)
        {wait}
"""


@pytest.fixture
def embed(tmp_path: Path) -> Start:
    """Start a program that uses ActorSystem."""

    def start(wait: str) -> contextlib.AbstractContextManager[Running]:
        (tmp_path / "program.py").write_text(textwrap.dedent(EMBEDDED).format(wait=wait))
        return started(sys.executable, "program.py", cwd=tmp_path)

    return start


@pytest.mark.contract("S9.4", "S9.5", partly=True)
@pytest.mark.parametrize(
    "wait",
    [
        "pa.receive()",
        "pa.sleep(600)",
        "__import__('time').sleep(600)",
        "sys.stdin.close() or __import__('select').select([], [], [])",
    ],
    ids=["receive", "sleep", "time.sleep", "select"],
)
def test_ctrl_c_in_a_program_with_a_system_is_a_keyboard_interrupt(embed: Start, wait: str) -> None:
    with embed(wait) as running:
        running.out.expect("up\n")
        everybody = running.family()
        with ended_at_last(everybody):
            running.ctrl_c()
            # Python's own way to leave: the traceback of the interrupted line, then the signal.
            assert running.end() == -signal.SIGINT
            assert sorted(running.out.close().splitlines()) == ["child ends", "child ends", "up"]
            lines = running.err.close().splitlines()
            assert lines[-1] == "KeyboardInterrupt"
            assert lines.count("KeyboardInterrupt") == 1
            assert sum("Traceback" in line for line in lines) == 1
            eventually(lambda: gone(everybody), "nothing is left")


@pytest.mark.contract("S9.4", partly=True)
def test_a_keyboard_interrupt_that_is_caught_leaves_the_system_running(embed: Start) -> None:
    text = (
        "\n    try:\n        print('within', flush=True)\n        pa.receive()\n"
        "    except KeyboardInterrupt:\n        print('caught', flush=True)\n"
        "    pid, ref = pa.spawn_monitor(print, 'still here')\n"
        # In one piece: the child's line, which the root writes, may come at the same time.
        "    print(pa.receive(pa.Down, timeout=30).reason + '\\n', end='')\n"
    )
    with embed(text) as running:
        running.out.expect("within\n")
        running.ctrl_c()
        assert running.end() == 0
        assert {"caught", "still here", "normal", "child ends"} <= set(running.out.close().splitlines())
        assert running.err.close() == ""


@pytest.mark.contract("S9.5", partly=True)
def test_sigterm_for_the_root_alone_stops_the_node(embed: Start) -> None:
    text = (
        "\n    print(system.root_pid, flush=True)\n    try:\n        pa.receive()\n"
        "    except pa.NotRunning as error:\n        print('not running', flush=True)\n"
    )
    with embed(text) as running:
        running.out.expect("up\n")
        eventually(lambda: len(running.out.text.split()) > 1, "the root's pid is printed")
        root = psutil.Process(int(running.out.text.split()[1]))
        os.kill(root.pid, signal.SIGTERM)
        assert running.end() == 0
        assert "not running" in running.out.close()
        assert not alive(root)


@pytest.mark.contract("S9.5", partly=True)
def test_an_exception_in_the_block_stops_the_system_and_goes_on(embed: Start) -> None:
    with embed("raise ValueError('mine')") as running:
        running.out.expect("up\n")
        assert running.end() == 1
        assert sorted(running.out.close().splitlines()) == ["child ends", "child ends", "up"]
        assert running.err.close().splitlines()[-1] == "ValueError: mine"
