"""What users get wrong, or do to a worker: spawn(f()), exits and crashes, definitions of `__main__` (S1.5, S1.7)."""

from __future__ import annotations

import ctypes
import operator
import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import parallel_actors as pa
from puppets import GUEST, PLACES, WAIT, ask, echo, get, mail, park, place, puppet

contract = pytest.mark.contract
both = pytest.mark.parametrize("worker", [0, 1])
anywhere = pytest.mark.parametrize("here", [0, GUEST])


# --- spawn(f()) and other mistakes at the call ------------------------------------------------------------------------


def returns_none() -> None:
    pass


async def coroutine() -> None:
    await pa.areceive()


def generator() -> Iterator[int]:
    yield pa.receive()


@anywhere
@pytest.mark.parametrize("how", ["spawn", "spawn_link", "spawn_monitor"])
def test_spawning_what_is_no_function(node: pa.ActorSystem, here: int, how: str) -> None:
    def texts() -> list[str]:
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the coroutine is never awaited
            made = coroutine()
            bad: list[Any] = [returns_none(), 1, "echo", b"", [echo], (echo,), made, generator(), pa.self_(), ...]  # type: ignore[func-returns-value]
            for function in bad:
                for spawn in (getattr(pa, how), getattr(pa.options(worker=0), how)):
                    try:
                        spawn(function)
                    except TypeError as error:
                        found.append(str(error))
            made.close()
        return found

    before = set(pa.processes())
    answers = place(here).do(texts)
    assert len(answers) == 20
    assert all("expected a function" in text and "spawn(f, 1), not spawn(f(1))" in text for text in answers)
    assert len(set(pa.processes()) - before) <= 1, "none was spawned"


@both
def test_wrong_arguments_are_the_new_processes_crash(node: pa.ActorSystem, worker: int) -> None:
    pid, ref = pa.options(worker=worker).spawn_monitor(echo, 1, two=2)  # type: ignore[call-arg]
    down = pa.receive(pa.Down, timeout=WAIT)
    assert (down.pid, down.ref) == (pid, ref)
    assert down.reason.type == "TypeError"
    assert "echo()" in down.reason.text


@both
def test_a_generator_function_as_a_body_is_a_crash_that_says_so(node: pa.ActorSystem, worker: int) -> None:
    """Its body would never run: silence would be the worst answer."""

    async def async_generator() -> Any:
        yield await pa.areceive()

    for body in (generator, async_generator):
        _, ref = pa.options(worker=worker).spawn_monitor(body)
        down = pa.receive(pa.Down, timeout=WAIT)
        assert down.ref == ref
        assert isinstance(down.reason, pa.Crash)
        assert down.reason.type == "TypeError"
        assert "generator" in down.reason.text


@anywhere
def test_options_that_do_not_fit(node: pa.ActorSystem, here: int) -> None:
    def texts() -> list[str]:
        found = []
        for bad in (
            {"worker": -1},
            {"worker": 2},
            {"worker": 10**30},
            {"worker": "0"},
            {"worker": True},
            {"worker": 0.0},
            {"name": 1},
            {"name": b"x"},
            {"name": ""},
            {"name": "x" * 256},
            {"nome": "x"},
        ):
            try:
                pa.options(**cast(Any, bad)).spawn(park)
            except (TypeError, ValueError) as error:
                found.append(str(error)[:9])
            else:
                found.append(f"spawned with {bad}")
        return found

    assert place(here).do(texts) == ["expected "] * 11
    assert pa.registered() == []


@anywhere
def test_wrong_arguments_of_everything(node: pa.ActorSystem, here: int) -> None:
    """A TypeError or ValueError, never a crash of the interpreter, never silence."""

    def silent() -> list[str]:
        nonsense: list[Any] = [None, 1, 1.5, "", b"x", [], {}, object(), int, pa.ANY]
        found = []
        for call in (
            pa.cancel_timer,
            pa.read_timer,
            pa.demonitor,
            pa.unalias,
            pa.is_alive,
            pa.process_info,
            pa.whereis,
        ):
            for bad in nonsense:
                try:
                    call(bad)
                except (TypeError, ValueError):
                    continue
                found.append(f"{call.__name__}({bad!r})")
        for bad in nonsense:
            for pair in ((bad, pa.self_()), ("x", bad)):
                try:
                    pa.register(*pair)
                except (TypeError, ValueError):
                    continue
                found.append(f"register{pair!r}")
        return found

    assert place(here).do(silent) == ["whereis('')"] or place(here).do(silent) == []


# --- what ends a worker -----------------------------------------------------------------------------------------------


def end_worker(how: str) -> None:
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "os._exit":
        os._exit(3)
    elif how == "abort":
        os.abort()
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "stack overflow":
        sys.setrecursionlimit(10**9)
        overflow()


def overflow() -> Any:
    # Through C, so that Python's own check doesn't see it in time.
    return list(map(operator.call, [overflow]))


@contract("S1.7", "S9.2", partly=True)
@pytest.mark.parametrize(
    ("how", "sign", "code"),
    [
        ("segfault", signal.SIGSEGV, None),
        ("os._exit", None, 3),
        ("abort", signal.SIGABRT, None),
        ("kill", signal.SIGKILL, None),
    ],
)
def test_what_kills_a_worker_is_told_and_the_worker_replaced(
    actor_system: pa.ActorSystem, how: str, sign: int | None, code: int | None
) -> None:
    neighbour, far = pa.options(worker=0).spawn(echo), pa.options(worker=1).spawn(echo)
    watch = pa.monitor(neighbour)
    pid, ref = pa.options(worker=0).spawn_monitor(end_worker, how)
    downs = {pa.receive(pa.Down, timeout=WAIT), pa.receive(pa.Down, timeout=WAIT)}
    reason = pa.WorkerDown(0, sign, code)
    assert downs == {pa.Down(ref, pid, reason), pa.Down(watch, neighbour, reason)}
    assert ask(far, "unharmed") == "unharmed"
    again = pa.options(worker=0).spawn(echo)
    assert ask(again, "replaced") == "replaced"
    assert again != neighbour


@contract("S1.7", "S9.2", partly=True)
def test_a_stack_overflow_ends_a_process_or_its_worker_and_is_told(actor_system: pa.ActorSystem) -> None:
    # CPython 3.11 doesn't count calls through C: the worker dies. From 3.12 on it does: the process crashes.
    pid, ref = pa.options(worker=0).spawn_monitor(end_worker, "stack overflow")
    down = pa.receive(pa.Down, timeout=WAIT)
    assert (down.ref, down.pid) == (ref, pid)
    if sys.version_info < (3, 12):
        assert down.reason == pa.WorkerDown(0, signal.SIGSEGV, None)
    else:
        assert down.reason.type == "RecursionError"
    assert ask(pa.options(worker=0).spawn(echo), "there is a worker 0") == "there is a worker 0"


@contract("S1.7", partly=True)
@both
def test_what_does_not_kill_a_worker(node: pa.ActorSystem, worker: int) -> None:
    """`sys.exit` in every place; a thread's exception; Ctrl-C's signal; a broken `sys.stdout`."""
    os_pid = puppet(worker).do(os.getpid)
    neighbour = pa.options(worker=worker).spawn(echo)

    def exits_in_finally() -> None:
        try:
            sys.exit(1)
        finally:
            sys.exit(2)

    def exits_while_unwinding() -> None:
        try:
            pa.receive("never")
        finally:
            sys.exit(3)

    async def exits_async() -> None:
        await pa.asleep(0)
        sys.exit(4)

    def exits_in_a_thread() -> None:
        thread = threading.Thread(target=sys.exit, args=(5,))
        thread.start()
        while thread.is_alive():
            pa.sleep(0.001)

    def raises_exit_in_del() -> None:
        class Exiting:
            def __del__(self) -> None:
                sys.exit(6)

        Exiting()

    def interrupts() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    ends = []
    for body in (
        exits_in_finally,
        exits_while_unwinding,
        exits_async,
        exits_in_a_thread,
        raises_exit_in_del,
        interrupts,
    ):
        pid, ref = pa.options(worker=worker).spawn_monitor(body)
        if body is exits_while_unwinding:
            assert ask(neighbour, "it has run") == "it has run"
            pa.exit(pid, "stop")
        ends.append(pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason)
    assert ends == [
        pa.Crash("SystemExit", "2"),
        "stop",
        pa.Crash("SystemExit", "4"),
        "normal",
        "normal",
        "normal",
    ]
    assert ask(neighbour, "unharmed") == "unharmed"
    assert puppet(worker).do(os.getpid) == os_pid


class Exploding:
    """Raises something that isn't an Exception wherever the library may touch it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        raise self.error

    def __hash__(self) -> int:
        return 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise state["error"]


@contract("S2.7", "S1.7", partly=True)
@pytest.mark.parametrize(("here", "there"), PLACES)
@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_an_exit_while_a_message_is_read_harms_no_worker(
    node: pa.ActorSystem, here: int, there: int, error: BaseException
) -> None:
    """It is the receiver's own, if anybody's: the receiver ends with it, or the message is a dead letter."""
    neighbour, receiver, sender = puppet(there), puppet(there), place(here)
    watch = pa.monitor(receiver.pid)

    def send(to: pa.Pid) -> None:
        pa.send(to, Exploding(error))

    sender.do(send, receiver.pid)
    pa.send(receiver.pid, ("do", pa.self_(), pa.make_ref(), bool, (), {}))
    got = pa.receive(("done", pa.ANY, pa.ANY, pa.ANY), pa.Down(watch, pa.ANY, pa.ANY), timeout=WAIT)
    if isinstance(got, pa.Down):
        assert got.reason.type == type(error).__name__
    assert neighbour.do(lambda: "unharmed") == "unharmed"


@contract("S1.7", partly=True)
@both
def test_an_exception_that_explodes_when_it_is_shown(node: pa.ActorSystem, worker: int) -> None:
    class Bomb(Exception):
        def __str__(self) -> str:
            raise SystemExit(1)

        __repr__ = __str__

    def body() -> None:
        raise Bomb

    neighbour = pa.options(worker=worker).spawn(echo)
    _, ref = pa.options(worker=worker).spawn_monitor(body)
    down = pa.receive(pa.Down, timeout=WAIT)
    assert down.ref == ref
    assert down.reason.type.endswith("Bomb")
    assert ask(neighbour, "unharmed") == "unharmed"


@both
def test_user_code_that_breaks_its_workers_modules(node: pa.ActorSystem, worker: int) -> None:
    """A process may do as it likes with the interpreter's globals; it mostly hurts its neighbours' output."""

    def close_stdout() -> None:
        sys.stdout.close()
        print("x", file=sys.stderr)

    neighbour = pa.options(worker=worker).spawn(echo)
    _, ref = pa.options(worker=worker).spawn_monitor(close_stdout)
    pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT)
    assert ask(neighbour, "unharmed") == "unharmed"


# --- `__main__` -------------------------------------------------------------------------------------------------------

HEADER = """
import sys, os
import parallel_actors as pa
"""


def run_program(source: str, tmp_path: Path, how: str) -> str:
    """Run a program as a script, by `python -c`, from standard input, or interactively; what it prints."""
    text = HEADER + textwrap.dedent(source)
    command, given = [sys.executable], None
    if how == "script":
        path = tmp_path / "program.py"
        path.write_text(text)
        command.append(str(path))
    elif how == "-c":
        command += ["-c", text]
    elif how == "stdin":
        command.append("-")
        given = text
    else:
        command += ["-q", "-i", "-c", "pass"]
        given = text
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    done = subprocess.run(command, input=given, text=True, capture_output=True, timeout=WAIT * 2, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if how != "interactive":
        assert done.stderr == "", done.stderr
    return done.stdout


hows = pytest.mark.parametrize("how", ["script", "-c", "stdin", "interactive"])


@contract("S1.5")
@hows
def test_functions_and_classes_of_main(no_leaks: None, tmp_path: Path, how: str) -> None:
    """No `if __name__` guard; the main file is never imported by a worker: it would print twice."""
    source = """
    print("main runs")
    FACTOR = 3

    class Base:
        def scaled(self): return self.x * FACTOR

    class Point(Base):
        made = []
        def __init__(self, x): self.x = x
        def __eq__(self, other): return type(other) is Point and self.x == other.x

    def helper(point): return Point(point.scaled())

    def body():
        while True:
            sender, point = pa.receive()
            assert type(point) is Point, "the class is one class on the worker"
            assert isinstance(point, Base)
            pa.send(sender, (helper(point), os.getpid()))

    system = pa.ActorSystem(workers=2)
    system.start()
    for worker in (0, 1):
        pid = pa.options(worker=worker).spawn(body)
        for i in range(3):
            pa.send(pid, (pa.self_(), Point(i)))
            got, os_pid = pa.receive(timeout=30)
            assert type(got) is Point
            assert got == Point(3 * i)
            assert os_pid != os.getpid()

    add = lambda n: (lambda m: n + m)
    pa.spawn(lambda to: pa.send(to, add(1)(2)), pa.self_())
    print(pa.receive(timeout=30))
    system.stop()
    """
    lines = run_program(source.replace("\n\n    def", "\n\n    def"), tmp_path, how)
    if how == "interactive":
        # A console ends a block at its first line without indentation; the blocks here are apart by blank lines.
        assert "3" in lines
    else:
        assert lines == "main runs\n3\n"


@contract("S1.5")
@pytest.mark.parametrize("how", ["script", "-c"])
def test_a_definition_of_main_travels_once_per_worker(no_leaks: None, tmp_path: Path, how: str) -> None:
    """Class identity on the worker: messages of different processes and spawns, all of one class."""
    source = """
    class Big:
        text = "x" * 1_000_000      # part of the definition

        def __init__(self, n): self.n = n

    def look(to):
        while True:
            got = pa.receive()
            pa.send(to, (os.getpid(), id(type(got)), got.n, len(got.text)))

    def relay(to, n):
        pa.send(to, Big(n))

    with pa.ActorSystem(workers=2) as system:
        for worker in (0, 1):
            pid = pa.options(worker=worker).spawn(look, pa.self_())
            for n in range(20):
                pa.send(pid, Big(n))
            for n in range(20, 30):
                pa.options(worker=n % 2).spawn(relay, pid, n)
            seen = [pa.receive(timeout=30) for _ in range(30)]
            assert sorted(n for _, _, n, _ in seen) == list(range(30))
            assert {size for _, _, _, size in seen} == {1_000_000}
            assert len({(os_pid, identity) for os_pid, identity, _, _ in seen}) == 1
    print("one class")
    """
    assert run_program(source, tmp_path, how) == "one class\n"


@contract("S1.5", partly=True)
def test_a_class_of_main_defined_anew_is_a_new_class(no_leaks: None, tmp_path: Path) -> None:
    """As in a notebook whose cell runs again; a function that uses it finds the newest."""
    source = """
    def body(to):
        while True:
            got = pa.receive()
            pa.send(to, (got.version(), VERSION))

    with pa.ActorSystem(workers=1) as system:
        VERSION = 1
        class Thing:
            def version(self): return 1
        pid = pa.spawn(body, pa.self_())
        pa.send(pid, Thing())
        first = pa.receive(timeout=30)
        VERSION = 2
        class Thing:
            def version(self): return 2
        pid = pa.spawn(body, pa.self_())
        pa.send(pid, Thing())
        print(first, pa.receive(timeout=30))
    """
    assert run_program(source, tmp_path, "script") == "(1, 1) (2, 2)\n"


@contract("S1.5", "S1.7", partly=True)
def test_errors_of_main(no_leaks: None, tmp_path: Path) -> None:
    """An exception class of `__main__` comes back as itself; so does what it is caught by."""
    source = """
    class Mine(Exception):
        def __init__(self, code): super().__init__(code); self.code = code

    def body(): raise Mine(7)

    sys.stderr = open(os.devnull, "w")
    with pa.ActorSystem(workers=2, log_level="CRITICAL") as system:
        for worker in (0, 1):
            pa.options(worker=worker).spawn_monitor(body)
            crash = pa.receive(pa.Down, timeout=30).reason
            try:
                raise crash.exception
            except Mine as error:
                print(crash.type, error.code)
    """
    text = HEADER + textwrap.dedent(source)
    path = tmp_path / "program.py"
    path.write_text(text)
    done = subprocess.run([sys.executable, str(path)], text=True, capture_output=True, timeout=WAIT * 2)
    assert done.stdout == "Mine 7\nMine 7\n", done.stderr


@contract("S1.5", partly=True)
def test_what_cannot_be_found_on_the_worker(no_leaks: None, tmp_path: Path) -> None:
    """A module that exists only in the main program: the process crashes with that, no worker dies."""
    source = """
    import types
    module = types.ModuleType("made_here")
    exec("def f(): pass", module.__dict__)
    sys.modules["made_here"] = module
    sys.stderr = open(os.devnull, "w")
    with pa.ActorSystem(workers=1, log_level="CRITICAL") as system:
        try:
            pa.spawn_monitor(module.f)
        except pa.NotPicklable as error:
            print("refused")
        else:
            print(pa.receive(pa.Down, timeout=30).reason.type)
        pa.spawn_monitor(bool)
        print(pa.receive(pa.Down, timeout=30).reason)
    """
    path = tmp_path / "program.py"
    path.write_text(HEADER + textwrap.dedent(source))
    done = subprocess.run([sys.executable, str(path)], text=True, capture_output=True, timeout=WAIT * 2)
    assert done.stdout in ("ModuleNotFoundError\nnormal\n", "refused\nnormal\n", "normal\nnormal\n"), done.stderr


@contract("S1.5")
@pytest.mark.parametrize(("here", "there"), PLACES)
def test_lambdas_closures_and_local_classes_travel(node: pa.ActorSystem, here: int, there: int) -> None:
    def make() -> list[Any]:
        n = [1]

        class Local:
            def __init__(self, x: int) -> None:
                self.x = x

            def doubled(self) -> int:
                return self.x * 2 + len(n)

        def recursive(i: int) -> int:
            return 1 if i <= 1 else i * recursive(i - 1)

        return [lambda x: x + len(n), Local, Local(3), recursive]

    def send(to: pa.Pid) -> None:
        for made in make():
            pa.send(to, made)

    def use() -> list[Any]:
        function, kind, instance, recursive = get(), get(), get(), get()
        return [function(1), kind(2).doubled(), instance.doubled(), recursive(5), mail()]

    sender, receiver = place(here), place(there)
    sender.do(send, receiver.pid)
    assert receiver.do(use) == [2, 5, 7, 120, []]
