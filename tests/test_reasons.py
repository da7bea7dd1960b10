"""Exit reasons, the messages that carry them, and the tree of exceptions."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import parallel_actors
from parallel_actors.workers import errors, ident, reasons
from parallel_actors.workers.codec import Codec, dumps, encode_bytes, isolate_raw, isolated, loads
from parallel_actors.workers.errors import ActorError, NotPicklable, ProcessExit, ProcessKilled
from parallel_actors.workers.reasons import Crash, Down, Exit, Shutdown, WorkerDown, is_normal, is_orderly

contract = pytest.mark.contract

makers: Any = ident  # its stub leaves the makers out: users have none
PID = makers._pid(1, 7)
REF = makers._ref(1, 9)


def crash_of(body: Callable[[], object]) -> Crash:
    try:
        body()
    except BaseException as error:
        return Crash.from_exception(error)
    raise AssertionError("nothing was raised")


# --- values


@contract("S1.7", partly=True)
def test_reasons_are_values() -> None:
    assert (reasons.NORMAL, reasons.SHUTDOWN, reasons.KILLED, reasons.KILL) == ("normal", "shutdown", "killed", "kill")
    assert (reasons.NOPROC, reasons.NOCONNECTION) == ("noproc", "noconnection")
    assert Shutdown(1) == Shutdown(1) != Shutdown(2)
    assert WorkerDown(1, 9) == WorkerDown(1, 9) != WorkerDown(1, 11)
    assert Crash("ValueError", "x", "here") == Crash("ValueError", "x", "there", b"p") != Crash("ValueError", "y")
    assert hash(Crash("ValueError", "x", "here")) == hash(Crash("ValueError", "x", "there"))


@pytest.mark.parametrize(
    ("reason", "normal", "orderly"),
    [
        ("normal", True, True),
        ("shutdown", False, True),
        (Shutdown("bye"), False, True),
        ("killed", False, False),
        (WorkerDown(1), False, False),
        (Crash("ValueError", "normal"), False, False),
        (None, False, False),
        (("normal",), False, False),
    ],
)
@contract("S4.1", partly=True)
def test_which_reasons_are_normal(reason: object, normal: bool, orderly: bool) -> None:
    assert is_normal(reason) is normal
    assert is_orderly(reason) is orderly


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (WorkerDown(1, 9), "worker 1 was killed by SIGKILL"),
        (WorkerDown(0, 11), "worker 0 was killed by SIGSEGV"),
        (WorkerDown(2, 250), "worker 2 was killed by signal 250"),
        (WorkerDown(2, exit_code=3), "worker 2 exited with code 3"),
        (WorkerDown(2), "worker 2 died"),
        (Shutdown("full"), "shutdown: 'full'"),
        (Crash("ValueError", "x"), "ValueError: x"),
    ],
)
def test_reasons_read_well(reason: object, text: str) -> None:
    assert str(reason) == text


@pytest.mark.parametrize(
    "it", [Down(REF, PID, "normal"), Exit(PID, Shutdown((1, 2))), Down(REF, PID, Crash("E", "t", "tb", b"p"))]
)
def test_messages_are_frozen_travel_and_pass_by_reference(it: Any) -> None:
    assert isolate_raw(Codec(), it) is it
    assert loads(encode_bytes(Codec(), it)) == it
    assert pickle.loads(pickle.dumps(it)) == it
    assert dataclasses.replace(it, reason="x").reason == "x"
    assert not hasattr(it, "__dict__")
    for name in ("reason", "new"):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
            setattr(it, name, 1)


def test_messages_can_be_matched() -> None:
    match Down(REF, PID, "normal"):
        case Down(ref, pid, reason):
            assert (ref, pid, reason) == (REF, PID, "normal")
    match Exit(PID, Shutdown(3)):
        case Exit(_, Shutdown(term)):
            assert term == 3
    assert repr(Exit(PID, "normal")) == f"Exit(pid={PID!r}, reason='normal')"


# --- crashes


def fail() -> None:
    raise ValueError("on purpose")


@contract("S1.7", partly=True)
def test_a_crash_has_type_text_traceback_and_the_exception() -> None:
    crash = crash_of(fail)
    assert (crash.type, crash.text) == ("ValueError", "on purpose")
    assert crash.traceback.startswith("Traceback (most recent call last):\n")
    assert 'raise ValueError("on purpose")' in crash.traceback
    assert crash.traceback.endswith("ValueError: on purpose\n")
    assert str(crash) == crash.traceback
    assert isinstance(crash.exception, ValueError)
    assert crash.exception.args == ("on purpose",)
    assert crash.exception is not crash.exception


def test_causes_contexts_notes_and_groups_are_shown() -> None:
    def body() -> None:
        try:
            try:
                fail()
            except ValueError:
                raise KeyError("second") from None
        except KeyError as error:
            error.add_note("a note")
            raise ExceptionGroup("many", [OSError("one"), error]) from ZeroDivisionError("cause")

    text = crash_of(body).traceback
    for part in ("KeyError: 'second'", "a note", "many (2 sub-exceptions)", "OSError: one", "ZeroDivisionError: cause"):
        assert part in text
    assert "direct cause" in text


@contract("S1.7", partly=True)
class Noted(ValueError):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.add_note("a note")


def deep(depth: int, make: Callable[[], BaseException]) -> None:
    if depth:
        deep(depth - 1, make)
    raise make()


def chained() -> None:
    try:
        deep(0, ValueError)
    except ValueError as error:
        raise KeyError("x") from error


def suppressed() -> None:
    try:
        deep(0, ValueError)
    except ValueError:
        raise KeyError("x") from None


def same(word: str, file: str) -> Callable[[], None]:
    """Functions that are equal but for the file that they seem to stand in."""
    found: dict[str, Any] = {}
    exec(compile(f"def fail():\n    raise ValueError({word!r})\n", file, "exec"), found)
    fail: Callable[[], None] = found["fail"]
    return fail


@pytest.mark.parametrize(
    "body",
    [
        lambda: deep(0, lambda: ValueError("one line")),
        lambda: deep(0, lambda: ValueError("two\nlines")),
        lambda: deep(0, KeyError),
        lambda: deep(0, lambda: Noted("x")),
        lambda: deep(2, ValueError),
        lambda: deep(50, ValueError),
        lambda: deep(0, lambda: ExceptionGroup("some", [ValueError(1), KeyError(2)])),
        lambda: deep(0, lambda: SystemExit(3)),
        lambda: math.nothing,  # type: ignore[attr-defined]
        lambda: strr,  # type: ignore[name-defined]  # noqa: F821
        lambda: compile("a b", "<text>", "exec"),
        lambda: int("x") + int("y"),
        chained,
        suppressed,
        same("a", "<first>"),
        same("a", "<second>"),
    ],
)
def test_a_traceback_is_what_python_prints_each_time(body: Callable[[], object]) -> None:
    """The second time, much of it is known already."""
    with pytest.raises(BaseException) as caught:
        body()
    expected = "".join(traceback.format_exception(caught.value))
    assert [Crash.from_exception(caught.value).traceback for _ in range(3)] == [expected] * 3


def test_the_frames_of_the_library_are_left_out() -> None:
    crash = crash_of(lambda: encode_bytes(Codec(), {"a": threading.Lock()}))
    assert "codec.pyx" not in crash.traceback
    assert "encode_bytes(Codec()" in crash.traceback
    assert crash.type == "parallel_actors.workers.errors.NotPicklable"
    assert "msg['a']" in crash.text


def test_the_frames_of_the_behaviours_are_left_out_too() -> None:
    crash = crash_of(lambda: parallel_actors.child(5))
    assert crash.type == "TypeError"
    assert "supervisor.py" not in crash.traceback
    assert "parallel_actors.child(5)" in crash.traceback


def test_a_fault_of_the_library_itself_keeps_its_frames() -> None:
    with pytest.raises(TypeError) as caught:
        ident.Pid()
    tb = caught.value.__traceback__
    assert tb is not None
    assert tb.tb_next is not None
    caught.value.__traceback__ = tb.tb_next  # as when the scheduler's loop had raised it
    assert "ident.pyx" in Crash.from_exception(caught.value).traceback


class BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class LoopText(Exception):
    def __str__(self) -> str:
        return str(self)


class ExitText(Exception):
    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


class NoText(Exception):
    def __str__(self) -> str:
        return 3  # type: ignore[return-value]


class LongText(Exception):
    def __str__(self) -> str:
        return "x" * 10_000_000


class BadReduce(Exception):
    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


class LoopReduce(Exception):
    def __reduce__(self) -> Any:
        return (LoopReduce, (LoopReduce(),))


class BadLoad(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__("just one")


class ExitOnLoad(Exception):
    def __setstate__(self, state: object) -> None:
        raise SystemExit

    def __reduce__(self) -> Any:
        return (ExitOnLoad, (), {"a": 1})


class BecomesAnother(Exception):
    def __reduce__(self) -> Any:
        return (int, ())


class HoldsLock(Exception):
    def __init__(self) -> None:
        super().__init__("held")
        self.lock = threading.Lock()


class BadClassName(Exception):
    pass


BadClassName.__module__ = 3  # type: ignore[assignment]


class BadNotes(Exception):
    __notes__ = 3  # type: ignore[assignment]


class BadDict(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


NASTY = [BadText, LoopText, ExitText, NoText, LongText, BadReduce, LoopReduce, ExitOnLoad, BecomesAnother, HoldsLock]
NASTY += [BadClassName, BadNotes, BadDict, lambda: BadLoad(1, 2)]  # type: ignore[list-item]


@pytest.mark.parametrize("make", NASTY, ids=lambda make: make.__name__)
@contract("S1.7")
def test_no_exception_breaks_its_crash(make: Callable[[], BaseException]) -> None:
    nasty = make()

    def body() -> None:
        try:
            fail()
        except ValueError:
            raise nasty  # noqa: B904

    crash = crash_of(body)
    assert type(nasty).__name__ in crash.type
    assert isinstance(crash.text, str)
    assert len(crash.text) < 100_000
    assert len(crash.traceback) < 100_000
    assert type(nasty).__name__ in crash.traceback
    crash.exception  # noqa: B018  # never raises
    if make not in (BadText, LoopText, ExitText, NoText, LongText, BadClassName, BadNotes, BadDict):
        assert crash.exception is None
    assert isolated(Codec(), crash) == crash
    assert loads(dumps(crash)) == crash


@contract("S1.7", partly=True)
def test_loops_of_causes_and_endless_recursion_are_cut() -> None:
    def chained() -> None:
        first, second = ValueError(1), ValueError(2)
        first.__cause__, second.__cause__ = second, first
        raise first

    assert "ValueError: 1" in crash_of(chained).traceback

    def deeper(n: int) -> int:
        return deeper(n + 1) + 1

    crash = crash_of(lambda: deeper(0))
    assert crash.type == "RecursionError"
    assert "deeper(n + 1)" in crash.traceback
    assert len(crash.traceback) < 70_000

    def long_chain() -> None:
        error: BaseException = ValueError("x" * 1000)
        for i in range(200):
            following = ValueError(f"{i} " + "y" * 1000)
            following.__cause__ = error
            error = following
        raise error

    crash = crash_of(long_chain)
    assert len(crash.traceback) <= 66_000
    assert "characters left out" in crash.traceback
    assert crash.traceback.rstrip().endswith("y")


def test_a_huge_exception_is_not_kept() -> None:
    crash = Crash.from_exception(ValueError(b"x" * 5_000_000))
    assert crash.pickled is None
    assert crash.exception is None
    assert len(crash.text) < 70_000


def test_base_exceptions_crash_too() -> None:
    assert crash_of(sys.exit).type == "SystemExit"
    assert Crash.from_exception(KeyboardInterrupt()).text == ""


@contract("S1.7", partly=True)
def test_an_exception_of_main_reaches_another_process(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import pickle, subprocess, sys
        from parallel_actors.workers.reasons import Crash
        class Mine(Exception):
            def __init__(self, a, b):
                super().__init__(a, b)
                self.b = b
        def body():
            raise Mine(1, [2])
        try: body()
        except Mine as error: crash = Crash.from_exception(error)
        assert crash.type == "Mine", crash.type
        assert type(crash.exception) is Mine
        reader = '''
        import pickle, sys
        crash = pickle.loads(sys.stdin.buffer.read())
        print(crash.exception.b, type(crash.exception).__name__, crash.traceback.splitlines()[-1])
        '''.replace("\\n        ", "\\n")
        done = subprocess.run([sys.executable, "-c", reader], input=pickle.dumps(crash), capture_output=True)
        assert done.stdout == b"[2] Mine Mine: (1, [2])\\n", done
    """)
    )
    root = str(Path(parallel_actors.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- the tree of exceptions


TREE = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("cls", [c for c in TREE if issubclass(c, ActorError)], ids=lambda c: c.__name__)
@contract("S10.1", partly=True)
def test_every_error_carries_its_fields_and_travels(cls: type[ActorError]) -> None:
    error = cls(
        "expected a, got b",
        reason=Shutdown(1),
        target=PID,
        request=("value",),
        elapsed=1.5,
        remote_traceback="Traceback ...\nValueError: x\n",
    )
    for got in (error, pickle.loads(pickle.dumps(error)), isolated(Codec(), error), loads(dumps(error))):
        assert type(got) is cls
        assert got.args == ("expected a, got b",)
        assert (got.reason, got.target, got.request, got.elapsed) == (Shutdown(1), PID, ("value",), 1.5)
        assert str(got) == ("expected a, got b\n--- traceback in the other process ---\nTraceback ...\nValueError: x")
    bare = cls("text")
    assert str(bare) == "text"
    fields = (bare.reason, bare.target, bare.request, bare.elapsed, bare.remote_traceback)
    assert fields == (None,) * 5
    assert cls().args == ()


@pytest.mark.parametrize("cls", TREE, ids=lambda c: c.__name__)
@contract("S10.1", partly=True)
def test_every_error_says_when_it_is_raised(cls: type[BaseException]) -> None:
    assert (cls.__doc__ or "").startswith("Raised ")
    assert issubclass(cls, ActorError) or issubclass(cls, ProcessExit)
    assert cls.__module__ == "parallel_actors.workers.errors"


def test_all_public_classes_are_in_the_tree() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    assert sorted(c.__name__ for c in classes) == sorted(errors.__all__)


def test_where_python_has_a_word_for_it_that_is_a_base() -> None:
    assert issubclass(errors.ReceiveTimeout, TimeoutError)
    assert issubclass(errors.CallTimeout, TimeoutError)
    assert issubclass(errors.NotRegistered, LookupError)
    assert issubclass(errors.NotPicklable, TypeError)
    assert pickle.loads(pickle.dumps(NotPicklable("t", path="msg.a"))).path == "msg.a"


def test_what_unwinds_a_process_is_no_error() -> None:
    assert not issubclass(ProcessExit, Exception)
    assert issubclass(ProcessKilled, ProcessExit)
    for error, reason in ((ProcessExit("bye"), "bye"), (ProcessExit(), "normal"), (ProcessKilled(), "killed")):
        got = pickle.loads(pickle.dumps(error))
        assert (type(got), got.reason) == (type(error), reason)
