"""Nobody can starve the others of a worker: what may be cut, what must not be, what ends at last (S1.8 to S1.10)."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import decimal
import functools
import gc
import heapq
import importlib
import itertools
import json
import logging
import math
import multiprocessing
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import greenlet
import pytest

import parallel_actors as pa
from leaks import eventually
from parallel_actors.workers.preempt import TICK_SIGNAL
from parallel_actors.workers.scheduler import Loop, current_scheduler
from puppets import WAIT, Puppet, Witness, ask, echo, get, park, puppet
from test_death import ended_at_last, gone
from test_root import Start, run

__all__ = ["run"]

contract = pytest.mark.contract
np: Any = pytest.importorskip("numpy")

# A module's globals belong to the worker: all its processes see them, and the test asks a puppet for them.
ROUNDS: dict[Any, int] = {}
TRACE: list[Any] = []
LOCK = threading.Lock()
KEPT: list[Any] = []


def cuts() -> int:
    scheduler = current_scheduler()
    assert scheduler is not None
    return scheduler.cuts


def spin(seconds: float) -> int:
    """Compute, without calling the library."""
    until = time.monotonic() + seconds
    n = 0
    while time.monotonic() < until:
        n += 1
    return n


def hog() -> None:
    while True:
        pass


def rounds() -> dict[Any, int]:
    return dict(ROUNDS)


def trace() -> list[Any]:
    return list(TRACE)


def add_path(folder: str) -> None:
    sys.path.insert(0, folder)


def forget_modules(folder: str, names: list[str]) -> None:
    sys.path.remove(folder)
    for name in names:
        sys.modules.pop(name, None)


def go_on() -> None:
    ROUNDS["go on"] = 1


def clear() -> None:
    ROUNDS.clear()
    TRACE.clear()
    KEPT.clear()


@pytest.fixture
def other(node: pa.ActorSystem) -> Iterator[Puppet]:
    """A puppet on worker 1, where the hogs of these tests live."""
    made = puppet(1)
    made.do(clear)
    yield made
    if made.alive:
        made.do(clear)


def on_1(function: Callable[..., object], *args: Any, **choices: Any) -> pa.Pid:
    return pa.options(worker=1, **choices).spawn(function, *args)


def answers(count: int, worker: int = 1) -> None:
    """A process that only answers gets its turn `count` times."""
    pid = pa.options(worker=worker).spawn(echo)
    for number in range(count):
        pa.send(pid, (pa.self_(), ("answer", number)))
        assert pa.receive(("answer", pa.ANY), timeout=WAIT)[1] == number
    pa.exit(pid, "kill")


def killed(pid: pa.Pid) -> Any:
    """Kill it, and wait until everybody knows: its reason."""
    ref = pa.monitor(pid)
    pa.exit(pid, "kill")
    return pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason


# --- hogs -------------------------------------------------------------------------------------------------------------


def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def caught(n: int) -> int:
    found = 0
    for number in range(n):
        try:
            raise ValueError(number)
        except ValueError as error:
            found += error.args[0]
    return found


def evens(n: int) -> Iterator[int]:
    for number in range(n):
        if number % 2 == 0:
            yield number


def nested(n: int) -> Iterator[int]:
    if n:
        yield from nested(n - 1)
    yield n


class Key:
    """What is sorted, hashed and compared in Python."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __lt__(self, other: Key) -> bool:
        return self.value < other.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.value == other.value

    def __hash__(self) -> int:
        return self.value % 7


def heap(n: int) -> list[int]:
    found = [Key(number * 7919 % 1009) for number in range(n)]
    heapq.heapify(found)
    return [heapq.heappop(found).value for _ in range(n)]


def qsort(n: int) -> list[int]:
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    values = (ctypes.c_int * n)(*(number * 7919 % 1009 for number in range(n)))
    ctypes.CDLL(None).qsort(values, n, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: a[0] - b[0]))
    return list(values)


def decimals(n: int) -> str:
    with decimal.localcontext() as context:
        context.prec = 20 + n % 30
        return str(functools.reduce(lambda x, y: x / 3 + y, range(1, n), decimal.Decimal(1)))


def slow_square(x: Any) -> Any:
    total = x * 0
    for _ in range(30):
        total = total + x
    return total * x


def quad(n: int) -> list[float]:
    integrate: Any = importlib.import_module("scipy.integrate")

    def wave(x: float, k: int) -> float:
        return math.sin(x * k) / (1 + x * x)

    return [integrate.quad(wave, 0, 3, args=(k,))[0] for k in range(1, 1 + n // 100)]


def ode(n: int) -> list[float]:
    integrate: Any = importlib.import_module("scipy.integrate")

    def pendulum(y: Any, t: float, b: float) -> list[float]:
        return [y[1], -b * y[1] - math.sin(y[0]) * sum(1 for _ in range(5)) / 5]

    found = integrate.odeint(pendulum, [3.0, 0.0], np.linspace(0, 5, n // 10), args=(0.25,))
    return [float(x) for x in found.ravel()]


def least(n: int) -> list[float]:
    optimize: Any = importlib.import_module("scipy.optimize")

    def rosen(x: Any) -> float:
        return float(sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))

    found = optimize.minimize(rosen, [1.3, 0.7, 0.8], method="COBYLA", options={"maxiter": n})
    return [float(x) for x in found.x]


WORK: dict[str, Callable[[int], Any]] = {
    "counts": lambda n: sum(number for number in range(n)),
    "sorts": lambda n: sorted(range(n), key=lambda number: number * 7919 % 1009),
    "compares": lambda n: [key.value for key in sorted(Key(number * 7919 % 1009) for number in range(n))],
    "hashes": lambda n: len({Key(number % 50): number for number in range(n)}),
    "matches": lambda n: re.sub(r"(a|b)+c", lambda match: str(fib(len(match[0]))), "ababc" * n),
    "recurses": lambda n: fib(8 + n % 8),
    "formats": lambda n: [f"{number:>8,}" for number in range(n)],
    "raises": caught,
    "generates": lambda n: sum(evens(n)) + sum(nested(n % 200)),
    "comprehends": lambda n: {x: [y * y for y in range(x % 10)] for x in range(n)},
    "heaps": heap,
    "reduces": lambda n: functools.reduce(lambda x, y: (x * 31 + y) % 1_000_003, range(n)),
    "reads json": lambda n: json.loads(
        json.dumps([{"a": number} for number in range(n)]), object_hook=lambda d: d["a"]
    ),
    "decimals": decimals,
    "products": lambda n: sum(a * b for a, b in itertools.product(range(n // 30), repeat=2)),
    "qsort": qsort,
    "vectorize": lambda n: np.vectorize(slow_square)(np.arange(n)).tolist(),
    "along an axis": lambda n: np.apply_along_axis(
        lambda row: sorted(row)[:2], 1, np.arange(n).reshape(-1, 2)
    ).tolist(),
    "frompyfunc": lambda n: np.frompyfunc(lambda a, b: slow_square(a) - b, 2, 1)(np.arange(n), 3).tolist(),
    "numpy": lambda n: float(np.linalg.norm(np.outer(np.arange(n % 100), np.arange(n % 100)))),
    "quad": quad,
    "odeint": ode,
    "minimize": least,
}
SCIPY = ("quad", "odeint", "minimize")
KINDS = [kind for kind in WORK if kind not in SCIPY]


def works(kind: str, number: Any) -> None:
    """Compute for ever."""
    work = WORK[kind]
    ROUNDS[number] = 0
    for n in itertools.count(100):
        work(100 + n // 2 * 2 % 300)
        ROUNDS[number] += 1


@contract("S1.8", partly=True)
@pytest.mark.parametrize("kind", KINDS)
def test_an_endless_loop_starves_nobody(other: Puppet, kind: str) -> None:
    hogs = [on_1(works, kind, number) for number in range(2)]
    answers(50)
    eventually(lambda: min([other.do(rounds).get(number, 0) for number in range(2)]) > 5, "both loops go on")
    answers(20)
    assert [killed(pid) for pid in hogs] == ["killed", "killed"]


@contract("S1.8", partly=True)
def test_loops_of_all_kinds_at_once_starve_nobody(other: Puppet) -> None:
    for kind in KINDS:
        on_1(works, kind, kind)
    answers(1000)
    eventually(lambda: min([other.do(rounds).get(kind, 0) for kind in KINDS]) > 2, "each loop goes on")


def timed_work(asker: pa.Pid, kind: str) -> None:
    """Until it was cut often enough: all results of one kind."""
    begin = cuts()
    found: list[tuple[int, Any]] = []
    while cuts() - begin < 200:
        now = [(n, WORK[kind](n)) for n in (100, 150, 250)]
        assert found in ([], now)
        found = now
    pa.send(asker, (kind, found))


def results_beside_others(kinds: list[str]) -> None:
    expected = {kind: [(n, WORK[kind](n)) for n in (100, 150, 250)] for kind in kinds}
    on_1(hog)  # so that also the last one is cut
    for kind in kinds * 2:
        on_1(timed_work, pa.self_(), kind)
    for _ in kinds * 2:
        kind, found = pa.receive((str, list), timeout=2 * WAIT)
        assert found == expected[kind], kind


@contract("S1.8", partly=True)
def test_results_are_those_of_an_undisturbed_run(other: Puppet) -> None:
    results_beside_others(KINDS)


@contract("S1.8", partly=True)
def test_results_of_scipys_callbacks_are_those_of_an_undisturbed_run(other: Puppet) -> None:
    pytest.importorskip("scipy")
    # Each of them keeps state in static memory of Fortran and C: entered again while it waits for a callback, it lies.
    results_beside_others([*SCIPY, "counts", "qsort"])


@contract("S1.8", partly=True)
def test_hogs_that_run_the_same_code_get_about_the_same(other: Puppet) -> None:
    many = range(8)
    for number in many:
        on_1(works, "counts", number)
    eventually(lambda: sum(other.do(rounds).values()) > 20_000, "all together have done some work")
    found = other.do(rounds)
    mean = sum(found.values()) / len(many)
    assert min(found.values()) >= mean / 4, found


@contract("S1.8", partly=True)
def test_hogs_do_not_starve_where_others_talk_without_end(other: Puppet) -> None:
    def talk(peer: pa.Pid) -> None:
        while True:
            ask(peer, "hello")

    for _ in range(3):
        on_1(talk, on_1(echo))
    for number in range(3):
        on_1(works, "counts", number)
    # Not only in its first turn.
    eventually(lambda: len(other.do(rounds)) == 3, "each hog has begun")
    answers(50)
    for _ in range(3):
        before = other.do(rounds)
        eventually(lambda before=before: all(other.do(rounds)[n] > before[n] for n in range(3)), "each hog goes on")  # type: ignore[misc]


# --- what is kept across cuts -----------------------------------------------------------------------------------------


VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=-1)


def keeps_context(number: int) -> bool:
    VARIABLE.set(number)
    decimal.getcontext().prec = 10 + number
    spin(0.003)
    return VARIABLE.get() == number and decimal.getcontext().prec == 10 + number


def keeps_inner_context(number: int) -> bool:
    def inside() -> bool:
        VARIABLE.set(number + 100)
        spin(0.003)
        return VARIABLE.get() == number + 100

    VARIABLE.set(number)
    return contextvars.copy_context().run(inside) and VARIABLE.get() == number


def keeps_exception(number: int) -> bool:
    try:
        raise KeyError(number)
    except KeyError as outer:
        spin(0.002)
        try:
            raise ValueError(number)
        except ValueError as inner:
            spin(0.002)
            if sys.exc_info()[1] is not inner or inner.__context__ is not outer:
                return False
        spin(0.002)
        if sys.exc_info()[1] is not outer:
            return False
    return sys.exc_info() == (None, None, None)


def keeps_generators(number: int) -> bool:
    def counter() -> Iterator[int]:
        try:
            for n in range(50):
                spin(0.0002)
                try:
                    raise KeyError(number)
                except KeyError:
                    yield n + number
        finally:
            spin(0.001)

    return list(counter()) == [n + number for n in range(50)]


def keeps_depth(number: int) -> bool:
    def down(n: int) -> int:
        if n == 0:
            spin(0.003)
            return number
        return down(n - 1)

    return down(300 + 20 * number) == number


def keeps_c_depth(number: int) -> bool:
    # Each level is a call by C: sorted().
    def down(n: int) -> int:
        if n == 0:
            spin(0.003)
            return number
        return number if sorted([0], key=lambda _: down(n - 1)) else -1

    return down(20 + number) == number


def keeps_recursion_errors(number: int) -> bool:
    def down(n: int) -> int:
        return down(n + 1)

    for _ in range(10):
        try:
            down(0)
        except RecursionError:
            continue
        return False
    return True


def keeps_half_built(number: int) -> bool:
    found = {(number, n): [number] * (n % 5) for n in range(3000)}
    return len(found) == 3000 and all(key[0] == number for key in found)


KEEPS = [
    keeps_context,
    keeps_inner_context,
    keeps_exception,
    keeps_generators,
    keeps_depth,
    keeps_c_depth,
    keeps_recursion_errors,
    keeps_half_built,
]


def keep(asker: pa.Pid, what: Callable[[int], bool], number: int) -> None:
    begin = cuts()
    while cuts() - begin < 40:
        assert what(number)
    pa.send(asker, ("kept", number))


async def akeep(asker: pa.Pid, what: Callable[[int], bool], number: int) -> None:
    await pa.asleep(0)
    keep(asker, what, number)
    await pa.asleep(0)


def loop_keep(asker: pa.Pid, what: Callable[[int], bool], number: int) -> Loop:
    pa.send(pa.self_(), "go")

    def handle(_: object) -> bool:
        keep(asker, what, number)
        return True

    return Loop(handle)


@contract("S1.8", "S1.6", partly=True)
@pytest.mark.parametrize("body", [keep, akeep, loop_keep])
@pytest.mark.parametrize("what", KEEPS)
def test_what_a_process_has_is_kept_when_it_is_cut(
    other: Puppet, body: Callable[..., object], what: Callable[[int], bool]
) -> None:
    on_1(hog)
    for number in range(4):
        pa.options(worker=1).spawn_link(body, pa.self_(), what, number)
    assert sorted(pa.receive(("kept", int), timeout=2 * WAIT)[1] for _ in range(4)) == [0, 1, 2, 3]


class Slow:
    """Its pickling and unpickling take many ticks, and send."""

    def __init__(self, to: pa.Pid | None, number: int) -> None:
        self.to, self.number = to, number

    def __reduce__(self) -> tuple[Any, ...]:
        spin(0.01)
        if self.to is not None:
            pa.send(self.to, ("from __reduce__", self.number, [self.number] * 10))
        spin(0.01)
        return Slow.made, (self.number,)

    @staticmethod
    def made(number: int) -> Slow:
        spin(0.01)
        return Slow(None, number)


def send_slowly(to: pa.Pid, number: int) -> None:
    for n in range(4):
        pa.send(to, (number, n, Slow(to, number), {"rest": [number] * 100}))


@contract("S1.8", "S1.2", "S2.1", partly=True)
@pytest.mark.parametrize("worker", [0, 1])
def test_messages_whose_pickling_is_cut_stay_whole(other: Puppet, worker: int) -> None:
    taker = puppet(worker)
    for number in range(5):
        on_1(send_slowly, taker.pid, number)
    found = taker.do(take_slowly)
    for number in range(5):
        mine = [message for message in found if message[0] == number]
        assert mine == [(number, n, number, {"rest": [number] * 100}) for n in range(4)]
        inner = [message for message in found if message[:2] == ("from __reduce__", number)]
        assert inner == [("from __reduce__", number, [number] * 10)] * 4


def take_slowly() -> list[Any]:
    found = []
    for _ in range(40):
        message = pa.receive(lambda message: message[0] != "do", timeout=WAIT)
        if isinstance(message[2], Slow):
            message = (*message[:2], message[2].number, message[3])
        found.append(message)
    return found


@contract("S1.8", "S3.1", partly=True)
def test_a_predicate_that_computes_is_cut_while_mail_comes(other: Puppet) -> None:
    def choosy(asker: pa.Pid) -> None:
        def wanted(message: object) -> bool:
            spin(0.004)
            return message == 9

        pa.send(asker, pa.receive(wanted))
        pa.send(asker, [pa.receive() for _ in range(9)])

    pids = [on_1(choosy, pa.self_()) for _ in range(3)]
    for number in range(10):
        for pid in pids:
            pa.send(pid, number)
        answers(3)
    assert [pa.receive(int, timeout=WAIT) for _ in pids] == [9] * 3
    assert [pa.receive(list, timeout=WAIT) for _ in pids] == [list(range(9))] * 3


@contract("S1.8", "S1.9", partly=True)
def test_a_predicate_that_never_ends_is_cut_and_killed(other: Puppet) -> None:
    def choosy(asker: pa.Pid) -> None:
        def endless(message: object) -> bool:
            pa.send(asker, "asked")
            while True:
                pass

        pa.receive(endless)

    pid = on_1(choosy, pa.self_())
    for number in range(3):
        pa.send(pid, number)
    assert pa.receive("asked", timeout=WAIT) == "asked"
    answers(50)
    pa.send(pid, 4)
    assert killed(pid) == "killed"
    answers(50)


# --- what is not cut --------------------------------------------------------------------------------------------------


def enter(name: str) -> None:
    """The caller is inside something that no other process may be inside of."""
    TRACE.append(("in", name, repr(pa.self_())))
    spin(0.012)
    TRACE.append(("out", name, repr(pa.self_())))


def in_qsort() -> None:
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    values = (ctypes.c_int * 2)(2, 1)

    def ordered(a: Any, b: Any) -> int:
        enter("qsort")
        return int(a[0] - b[0])

    ctypes.CDLL(None).qsort(values, 2, ctypes.sizeof(ctypes.c_int), compare(ordered))


def in_numpy() -> None:
    np.frompyfunc(lambda x: enter("numpy"), 1, 1)(np.arange(2))


class Dying:
    def __del__(self) -> None:
        enter("__del__")


def in_del() -> None:
    Dying()


class Ring(Dying):
    def __init__(self) -> None:
        self.ring = self


def in_collector() -> None:
    Ring()
    gc.collect()


def in_finalizer() -> None:
    # Called by the collector, a function with any name isn't cut.
    class Node:
        pass

    node: Any = Node()
    node.ring = node
    weakref.finalize(node, enter, "finalizer")
    del node
    gc.collect()


def in_no_preempt() -> None:
    with pa.no_preempt():
        enter("no_preempt")
        with pa.no_preempt():
            spin(0.005)
        enter("no_preempt")


def uncut() -> None:
    enter("preempt=False")


PROTECTED = [in_qsort, in_numpy, in_del, in_collector, in_finalizer, in_no_preempt]


@contract("S1.8", partly=True)
@pytest.mark.parametrize("inside", PROTECTED)
def test_there_a_process_is_not_cut(other: Puppet, inside: Callable[[], None]) -> None:
    on_1(hog)
    pairs = [pa.options(worker=1).spawn_monitor(inside) for _ in range(5)]
    for _, ref in pairs:
        assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "normal"
    found = other.do(trace)
    assert len(found) >= 10
    for begin, end in zip(found[::2], found[1::2], strict=True):
        assert (begin[0], end[0]) == ("in", "out")
        assert begin[1:] == end[1:], "another process came between"
    answers(20)


@contract("S1.8", partly=True)
def test_a_process_that_chose_so_is_not_cut(other: Puppet) -> None:
    on_1(hog)
    pairs = [pa.options(worker=1, preempt=False).spawn_monitor(uncut) for _ in range(5)]
    for _, ref in pairs:
        assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "normal"
    found = other.do(trace)
    assert [item[0] for item in found] == ["in", "out"] * 5
    assert [item[2] for item in found[::2]] == [item[2] for item in found[1::2]]


def test_without_protection_it_would_have_been(other: Puppet) -> None:
    # The control of the two tests above: what they do is long enough to be cut.
    pids = [on_1(enter, "nothing") for _ in range(5)]
    assert len(pids) == 5
    eventually(lambda: len(other.do(trace)) == 10, "all have ended")
    assert [item[0] for item in other.do(trace)] != ["in", "out"] * 5


def test_no_preempt_says_what_is_wrong(other: Puppet) -> None:
    def wrong() -> str:
        shield = pa.no_preempt()
        with shield, pytest.raises(RuntimeError, match="of its own"), shield:
            pass
        with shield:
            return "usable again"

    assert other.do(wrong) == "usable again"


@contract("S1.8", partly=True)
def test_others_run_while_a_process_in_no_preempt_waits(other: Puppet) -> None:
    def waits(asker: pa.Pid) -> None:
        with pa.no_preempt():
            pa.send(asker, "inside")
            assert pa.receive() == "go on"
            enter("no_preempt")

    pid, ref = pa.options(worker=1).spawn_monitor(waits, pa.self_())
    assert pa.receive("inside", timeout=WAIT) == "inside"
    answers(50)
    on_1(hog)
    pa.send(pid, "go on")
    assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "normal"


@contract("S1.8", partly=True)
def test_nobody_sees_a_half_made_module(other: Puppet, tmp_path: Path) -> None:
    text = "from test_preemption import spin\nfirst = 1\nspin(0.02)\nimport {next}\nspin(0.02)\nlast = 2\n"
    names = [f"half_made_{number}" for number in range(4)]
    for name, following in itertools.zip_longest(names, names[1:], fillvalue="math"):
        (tmp_path / f"{name}.py").write_text(text.format(next=following))

    def use(asker: pa.Pid, name: str) -> None:
        while name not in sys.modules:
            spin(0.001)
        pa.send(asker, (name, "last" in vars(sys.modules[name])))

    def load(asker: pa.Pid, name: str) -> None:
        pa.send(asker, (name, importlib.import_module(name).last == 2))

    other.do(add_path, str(tmp_path))
    try:
        for name in names:
            on_1(use, pa.self_(), name)
        for name in reversed(names):
            on_1(load, pa.self_(), name)
        found = [pa.receive((str, bool), timeout=WAIT) for _ in range(8)]
        assert sorted(found) == sorted((name, True) for name in names * 2)
    finally:
        other.do(forget_modules, str(tmp_path), names)


def dies_of(module: str) -> None:
    raise pa.ProcessExit(importlib.import_module(module).Reason("over"))


@contract("S1.8", partly=True)
@pytest.mark.parametrize("how", ["exit", "down"])
def test_what_signals_bring_with_them_sees_no_half_made_module(other: Puppet, tmp_path: Path, how: str) -> None:
    """A tick took one in in the middle of an import: the class of its reason came from what was there of its module."""
    name = "module_of_reasons"
    (tmp_path / f"{name}.py").write_text(
        "import parallel_actors as pa\nfrom test_preemption import spin\n"
        "if pa.worker_index() == 1:\n    pa.send(pa.ancestors()[0], 'half')\n    spin(0.2)\n"
        "class Reason(str):\n    pass\n"
    )

    def end(pid: pa.Pid) -> None:
        pa.exit(pid, importlib.import_module(name).Reason("over"))

    def load() -> None:
        importlib.import_module(name)

    one = puppet(0)
    for there in (one, other):
        there.do(add_path, str(tmp_path))
    add_path(str(tmp_path))
    try:
        one.do(load)
        pid = puppet(1).pid if how == "exit" else puppet(0).pid
        ref = (other if how == "down" else one).do(pa.monitor, pid)
        on_1(load)
        assert pa.receive("half", timeout=WAIT) == "half"
        if how == "exit":
            one.do(end, pid)
        else:
            Puppet(pid).tell(dies_of, name)
        down = (other if how == "down" else one).do(pa.receive, pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT)
        assert (type(down.reason).__name__, down.reason) == ("Reason", "over")
    finally:
        for there in (one, other):
            there.do(forget_modules, str(tmp_path), [name])
        forget_modules(str(tmp_path), [name])


# --- locks and calls that block ---------------------------------------------------------------------------------------


def locked(asker: pa.Pid, number: int) -> None:
    for _ in range(4):
        with LOCK:
            TRACE.append(number)
            spin(0.004)
            TRACE.append(number)
    pa.send(asker, ("done", number))


def acquired(asker: pa.Pid, number: int) -> None:
    for _ in range(4):
        while not LOCK.acquire(timeout=1000):
            pass
        TRACE.append(number)
        spin(0.004)
        TRACE.append(number)
        LOCK.release()
    pa.send(asker, ("done", number))


@contract("S1.8", partly=True)
@pytest.mark.parametrize("body", [locked, acquired])
def test_a_lock_held_by_a_cut_process_is_no_deadlock(other: Puppet, body: Callable[[pa.Pid, int], None]) -> None:
    on_1(hog)
    for number in range(6):
        on_1(body, pa.self_(), number)
    assert sorted(pa.receive(("done", int), timeout=2 * WAIT)[1] for _ in range(6)) == list(range(6))
    found = other.do(trace)
    assert found[::2] == found[1::2], "one at a time"
    answers(20)


def test_a_lock_is_free_when_its_holder_was_killed(other: Puppet) -> None:
    def holds(asker: pa.Pid) -> None:
        with LOCK:
            pa.send(asker, "held")
            hog()

    pid = on_1(holds, pa.self_())
    assert pa.receive("held", timeout=WAIT) == "held"
    waiter = on_1(locked, pa.self_(), 1)
    answers(10)
    assert killed(pid) == "killed"
    assert pa.receive(("done", 1), timeout=WAIT) == ("done", 1)
    assert not pa.is_alive(waiter) or killed(waiter) is not None


QUEUE: queue.Queue[int] = queue.Queue(3)
EVENT = threading.Event()


def put(numbers: range) -> None:
    for number in numbers:
        QUEUE.put(number)
        spin(0.0005)


def get_many(asker: pa.Pid, count: int) -> None:
    EVENT.wait()
    pa.send(asker, [QUEUE.get() for _ in range(count)])


def set_event(on: bool) -> None:
    if on:
        EVENT.set()
    else:
        EVENT.clear()


@contract("S1.8", partly=True)
def test_queues_conditions_and_events_join_processes_of_one_worker(other: Puppet) -> None:
    on_1(hog)
    for _ in range(3):
        on_1(get_many, pa.self_(), 40)
    for number in range(4):
        on_1(put, range(number * 30, number * 30 + 30))
    answers(20)
    other.do(set_event, True)
    found = [pa.receive(list, timeout=2 * WAIT) for _ in range(3)]
    assert sorted(itertools.chain(*found)) == list(range(120))
    other.do(set_event, False)


def in_event(_: str) -> None:
    threading.Event().wait()


def in_queue(_: str) -> None:
    queue.Queue[int]().get()


def in_condition(_: str) -> None:
    condition = threading.Condition()
    with condition:
        condition.wait()


def in_lock(_: str) -> None:
    lock = threading.Lock()
    with lock, lock:
        pass


def in_join(_: str) -> None:
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    thread.join()


def in_sleep(_: str) -> None:
    time.sleep(1000)


def in_recv(_: str) -> None:
    a, b = socket.socketpair()
    with a, b:
        a.recv(1)


def in_read(_: str) -> None:
    a, b = os.pipe()
    try:
        os.read(a, 1)
    finally:
        os.close(a)
        os.close(b)


def in_write(_: str) -> None:
    a, b = os.pipe()
    try:
        with open(b, "wb", closefd=False) as file:
            try:
                while True:
                    file.write(b"x" * 10_000)
            finally:
                os.read(a, 1_000_000)
    finally:
        os.close(a)
        os.close(b)


def in_open(folder: str) -> None:
    fifo = f"{folder}/fifo-{pa.make_ref()}"
    os.mkfifo(fifo)
    with open(fifo, "rb"):
        pass


def in_subprocess(_: str) -> None:
    subprocess.run(["sleep", "1000"], check=True)


WAITS = [
    in_event,
    in_queue,
    in_condition,
    in_lock,
    in_join,
    in_sleep,
    in_recv,
    in_read,
    in_write,
    in_open,
    in_subprocess,
]


@contract("S1.8", "S1.9", partly=True)
@pytest.mark.parametrize("body", WAITS)
def test_what_blocks_in_the_interpreter_blocks_nobody_else(
    other: Puppet, tmp_path: Path, body: Callable[[str], None]
) -> None:
    pids = [on_1(body, str(tmp_path)) for _ in range(2)]
    answers(30)
    assert [killed(pid) for pid in pids] == ["killed"] * 2
    answers(30)


def test_a_subprocess_is_run_and_waited_for(other: Puppet) -> None:
    def runs(asker: pa.Pid, number: int) -> None:
        done = subprocess.run(["echo", str(number)], capture_output=True, text=True, check=True)
        pa.send(asker, ("said", done.stdout))

    on_1(hog)
    for number in range(5):
        on_1(runs, pa.self_(), number)
    answers(10)
    assert sorted(pa.receive(("said", str), timeout=WAIT)[1] for _ in range(5)) == [f"{n}\n" for n in range(5)]


@contract("S9.6", "S1.8", partly=True)
def test_what_100_processes_print_and_log_comes_in_whole_lines(
    no_leaks: None, capfd: pytest.CaptureFixture[str]
) -> None:
    def prints(number: int) -> None:
        for n in range(10):
            print("line", number, n, *range(20))
            spin(0.0005)
            logging.getLogger("counts").info("logged %s %s", number, n)

    with pa.ActorSystem(workers=1):
        pa.spawn(hog)
        for number in range(100):
            pa.spawn_monitor(prints, number)
        for _ in range(100):
            assert pa.receive(pa.Down, timeout=2 * WAIT).reason == "normal"
    out, err = capfd.readouterr()
    tail = " ".join(str(n) for n in range(20))
    for number in range(100):
        mine = [line for line in out.splitlines() if line.startswith(f"line {number} ")]
        assert mine == [f"line {number} {n} {tail}" for n in range(10)]
        logged = re.findall(rf"counts: (logged {number} .*)$", err, re.MULTILINE)
        assert logged == [f"logged {number} {n}" for n in range(10)]
    assert len(out.splitlines()) == 1000


# --- signals, threads, forks of user code -----------------------------------------------------------------------------


@contract("S1.8", partly=True)
def test_user_code_may_use_the_alarm(other: Puppet) -> None:
    def alarmed(asker: pa.Pid) -> None:
        rung: list[int] = []
        former = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            while len(rung) < 20:
                pass
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.alarm(100)
            assert signal.alarm(0) > 0
        finally:
            signal.signal(signal.SIGALRM, former)
        pa.send(asker, "rung")

    on_1(hog)
    on_1(alarmed, pa.self_())
    answers(50)
    assert pa.receive("rung", timeout=WAIT) == "rung"
    answers(50)


@contract("S1.8", partly=True)
def test_threads_of_user_code_that_compute_do_not_keep_it_off(other: Puppet) -> None:
    def threads(asker: pa.Pid) -> None:
        found: list[int] = []
        made = [threading.Thread(target=lambda: found.append(sum(range(300_000)))) for _ in range(3)]
        for thread in made:
            thread.start()
        for thread in made:
            thread.join()
        pa.send(asker, found)

    on_1(hog)
    for _ in range(3):
        on_1(threads, pa.self_())
    answers(50)
    assert [pa.receive(list, timeout=WAIT) for _ in range(3)] == [[sum(range(300_000))] * 3] * 3


def child_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forked_hog(asker: pa.Pid) -> None:
    pid = os.fork()
    if pid == 0:
        spin(0.05)
        os._exit(7)
    pa.send(asker, ("child", child_status(pid)))


def forked_caller(asker: pa.Pid) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            pa.send(asker, "from a child")
        except pa.NotRunning:
            os._exit(7)
        os._exit(1)
    pa.send(asker, ("child", child_status(pid)))


def forked_leaver(asker: pa.Pid) -> None:
    pid = os.fork()
    if pid == 0:
        sys.exit(7)
    pa.send(asker, ("child", child_status(pid)))


def forked_raiser(asker: pa.Pid) -> None:
    pid = os.fork()
    if pid == 0:
        raise ValueError("in the child")
    assert child_status(pid) != 0
    pa.send(asker, ("child", 7))


def forked_returner(asker: pa.Pid) -> None:
    pid = os.fork()
    if pid == 0:
        return
    assert child_status(pid) == 0
    pa.send(asker, ("child", 7))


def print_and_log() -> None:
    for _ in range(100):
        print("a child's line")
        logging.getLogger("child").error("a child's record")


def forked_printer(asker: pa.Pid) -> None:
    """Found: it wrote into the worker's ring, and the root, which met the torn one, ended the node."""
    pid = os.fork()
    if pid == 0:
        print_and_log()
        os._exit(7)
    print("the parent's line")
    pa.send(asker, ("child", child_status(pid)))


def fork_and_print() -> int:
    pid = os.fork()
    if pid == 0:
        print_and_log()
        os._exit(7)
    return child_status(pid)


def forked_by_a_thread(asker: pa.Pid) -> None:
    status = pa.run_blocking(fork_and_print)
    print("the parent's line")
    pa.send(asker, ("child", status))


def forked_by_multiprocessing(asker: pa.Pid) -> None:
    child = multiprocessing.get_context("fork").Process(target=print_and_log)
    child.start()
    child.join()
    assert child.exitcode == 0
    pa.send(asker, ("child", 7))


FORKS = [
    forked_hog,
    forked_caller,
    forked_leaver,
    forked_raiser,
    forked_returner,
    forked_printer,
    forked_by_a_thread,
    forked_by_multiprocessing,
]


@contract("S1.8", partly=True)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("body", FORKS)
def test_a_fork_in_a_process(actor_system: pa.ActorSystem, body: Callable[[pa.Pid], None]) -> None:
    # A fork has the worker's memory, rings and all: it must not go on as a second worker.
    on_1(hog)
    pid = on_1(body, pa.self_())
    assert pa.receive(("child", int), timeout=WAIT) == ("child", 7)
    eventually(lambda: not pa.is_alive(pid), "it has ended")
    answers(200)
    answers(20, worker=0)
    assert actor_system.running


def in_greenlets(asker: pa.Pid, waits: str) -> None:
    """Waits, or computes, in a greenlet of its own, twice; its own parent runs in between."""

    def inner(first: object) -> object:
        got: list[object] = [first]
        for _ in range(2):
            match waits:
                case "receive":
                    got.append(pa.receive(int, timeout=WAIT))
                case "sleep":
                    pa.sleep(0.01)
                case "computes":
                    spin(0.05)
            got.append(parent.switch("half"))
        return got

    parent = greenlet.getcurrent()
    mine = greenlet.greenlet(inner)
    pa.send_after(0.02, pa.self_(), 1)
    pa.send_after(0.04, pa.self_(), 2)
    found = [mine.switch("first")]
    pa.sleep(0.01)
    found += [mine.switch("second"), mine.switch("third")]
    pa.send(asker, ("found", found))


@contract("S1.6", "S1.8", partly=True)
@pytest.mark.parametrize("waits", ["receive", "sleep", "computes"])
def test_user_code_may_have_greenlets_of_its_own(other: Puppet, waits: str) -> None:
    """Found: it was resumed in its outermost one, with the wrong value, or never (SQLAlchemy has its own).

    Nor is it cut there: its stack can't be unwound.
    """
    on_1(hog)
    on_1(echo)
    for _ in range(4):
        on_1(in_greenlets, pa.self_(), waits)
    mail: list[object] = [1, 2] if waits == "receive" else []
    expected: list[object] = ["half", "half", ["first", *mail[:1], "second", *mail[1:], "third"]]
    for _ in range(4):
        assert pa.receive(("found", pa.ANY), timeout=WAIT)[1] == expected
    answers(20)


# --- kills ------------------------------------------------------------------------------------------------------------


def hog_def(asker: pa.Pid) -> None:
    pa.trap_exit()
    pa.register("victim", pa.self_())
    try:
        pa.send(asker, "up")
        hog()
    finally:
        TRACE.append("finally")


async def hog_async(asker: pa.Pid) -> None:
    await pa.asleep(0)
    hog_def(asker)


def hog_callback(asker: pa.Pid) -> Loop:
    pa.send(pa.self_(), "go")
    return Loop(lambda _: hog_def(asker))


def hog_in_qsort(asker: pa.Pid) -> None:
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    values = (ctypes.c_int * 2)(2, 1)

    def ordered(a: Any, b: Any) -> int:
        hog_def(asker)
        return 0

    ctypes.CDLL(None).qsort(values, 2, ctypes.sizeof(ctypes.c_int), compare(ordered))
    hog()


BODIES = [hog_def, hog_async, hog_callback]


@contract("S1.8", "S1.9", "S4.1", "S4.3", "S4.5", partly=True)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("worker", [0, 1])
def test_a_hog_that_is_killed_is_dead_at_once(other: Puppet, body: Callable[..., object], worker: int) -> None:
    friend, watcher = puppet(worker), puppet(worker)
    pid = on_1(body, pa.self_())
    assert pa.receive("up", timeout=WAIT) == "up"
    friend.do(pa.trap_exit)
    friend.do(pa.link, pid)
    ref = watcher.do(pa.monitor, pid)
    answers(20)
    assert killed(pid) == "killed"
    assert pa.whereis("victim") is None
    assert friend.do(pa.receive, pa.Exit, timeout=WAIT) == pa.Exit(pid, "killed")
    assert watcher.do(pa.receive, pa.Down, timeout=WAIT) == pa.Down(ref, pid, "killed")
    eventually(lambda: other.do(trace) == ["finally"], "its stack unwinds")
    assert not pa.is_alive(pid)
    answers(20)


@contract("S1.9", partly=True)
def test_a_kill_waits_until_an_import_is_over(other: Puppet, tmp_path: Path) -> None:
    """Broken off, `asyncio` could not be imported on that worker any more: its parts are there, and it lacks them."""
    package = tmp_path / "package_of_parts"
    package.mkdir()
    (package / "part.py").write_text("thing = 1\n")
    (package / "__init__.py").write_text(
        "from .part import *\nimport parallel_actors as pa\nfrom test_preemption import spin\n"
        "pa.send(pa.ancestors()[0], 'half')\nspin(0.2)\nname = part.__name__\n"
    )

    def load(asker: pa.Pid) -> None:
        pa.send(asker, importlib.import_module(package.name).name)

    other.do(add_path, str(tmp_path))
    try:
        pid, ref = pa.options(worker=1).spawn_monitor(load, pa.self_())
        assert pa.receive("half", timeout=WAIT) == "half"
        pa.exit(pid, "kill")
        assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "killed"
        on_1(load, pa.self_())
        assert pa.receive(timeout=WAIT) == "package_of_parts.part"
    finally:
        other.do(forget_modules, str(tmp_path), [package.name, f"{package.name}.part"])


@contract("S1.9", partly=True)
@pytest.mark.parametrize("reason", ["shutdown", "no more"])
@pytest.mark.parametrize("body", BODIES)
def test_an_exit_signal_ends_a_hog(other: Puppet, body: Callable[..., object], reason: str) -> None:
    pid = on_1(body, pa.self_())
    assert pa.receive("up", timeout=WAIT) == "up"
    ref = pa.monitor(pid)
    pa.exit(pid, reason)
    # It traps exits: the signal is a message that it never reads.
    eventually(lambda: pa.process_info(pid, "message_queue_len") == 1, "the signal is mail")
    pa.exit(pid, "kill")
    assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "killed"
    second, ref = pa.options(worker=1).spawn_monitor(hog)
    pa.exit(second, reason)
    assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == reason


@contract("S1.9")
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a hog"])
def test_a_killed_hog_cleans_up_and_no_more(other: Puppet, beside: bool) -> None:
    def cleans(asker: pa.Pid) -> None:
        @contextlib.contextmanager
        def block() -> Iterator[None]:
            try:
                yield
            finally:
                TRACE.append("with")

        try:
            with block():
                pa.send(asker, "up")
                hog()
        finally:
            spin(0.02)
            for call in (lambda: pa.send(asker, "too late"), pa.receive, lambda: pa.sleep(0), lambda: pa.spawn(hog)):
                try:
                    call()
                except pa.ProcessKilled as error:
                    TRACE.append(error.reason)
            TRACE.append("cleaned up")

    if beside:
        on_1(hog)
    pid = on_1(cleans, pa.self_())
    assert pa.receive("up", timeout=WAIT) == "up"
    assert killed(pid) == "killed"
    eventually(lambda: "cleaned up" in other.do(trace), "it has cleaned up")
    assert other.do(trace) == ["with", *["killed"] * 4, "cleaned up"]
    answers(10)
    assert pa.receive("too late", timeout=0, default=None) is None


def swallow_everything(asker: pa.Pid, depth: int = 6) -> None:
    """A kill that comes between two rounds of one level is swallowed by the next."""
    while True:
        try:
            if depth:
                swallow_everything(asker, depth - 1)
            pa.send(asker, "up")
            while True:
                pass
        except BaseException:
            pass


async def swallow_async(asker: pa.Pid) -> None:
    swallow_everything(asker)


def swallow_callback(asker: pa.Pid) -> Loop:
    pa.send(pa.self_(), "go")
    return Loop(lambda _: swallow_everything(asker))


def swallow_in_finally(asker: pa.Pid) -> None:
    try:
        pa.send(asker, "up")
        hog()
    finally:
        swallow_everything(asker)


@contract("S1.9", partly=True)
@pytest.mark.parametrize("body", [swallow_everything, swallow_async, swallow_callback, swallow_in_finally])
def test_a_hog_that_swallows_its_kill_is_abandoned(
    other: Puppet, logged: None, body: Callable[[pa.Pid], object]
) -> None:
    pid = on_1(body, pa.self_())
    assert pa.receive("up", timeout=WAIT) == "up"
    assert killed(pid) == "killed"
    answers(20)
    text = pa.receive(("logged", "parallel_actors.crash", str), timeout=2 * WAIT)[2]
    assert f"{pid} swallowed its kill" in text
    answers(20)
    assert pa.receive(("logged", str, str), timeout=0, default=None) is None, "once"


def stuck(asker: pa.Pid) -> None:
    """A native call that handles no signals; nor does anything after "up", so that nothing more is taken in."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [TICK_SIGNAL])
    pa.send(asker, "up")
    sum(range(1 << 60))


@contract("S1.10")
@pytest.mark.parametrize("way", ["kill", "shutdown", "stop", "neighbour"])
def test_a_worker_that_does_not_turn_when_a_process_is_to_end_is_killed(no_leaks: None, way: str) -> None:
    with pa.ActorSystem(workers=2, stuck_timeout=0.3, stop_timeout=600) as system:
        before = system.worker_pids
        neighbour, other = pa.options(worker=1).spawn_monitor(park)
        pid, ref = pa.options(worker=1).spawn_monitor(stuck, pa.self_())
        assert pa.receive("up", timeout=WAIT) == "up"
        answers(20, worker=0)
        if way == "stop":
            return  # the `with` ends in less than 600 s
        pa.exit(neighbour if way == "neighbour" else pid, "kill" if way == "neighbour" else way)
        for target in (other, ref):
            assert pa.receive(pa.Down(target, pa.ANY, pa.ANY), timeout=WAIT).reason == pa.WorkerDown(1, 9)
        answers(20)
        assert system.worker_pids[0] == before[0]
        assert system.worker_pids[1] != before[1]


class Endless:
    def __init__(self, asker: pa.Pid) -> None:
        self.asker = asker

    def __del__(self) -> None:
        pa.send(self.asker, "up")
        while True:
            pass


def endless_del(asker: pa.Pid, folder: str) -> None:
    Endless(asker)


class EndlessReason:
    """Unpickling it never ends."""

    def __reduce__(self) -> tuple[Any, ...]:
        return hog, ()


def leave_endlessly() -> None:
    pa.receive("leave")
    raise pa.ProcessExit(EndlessReason())


def keep_endless() -> None:
    pa.process_dict()["endless"] = EndlessReason()


@contract("S1.8", "S1.7", partly=True)
@pytest.mark.parametrize("way", ["exit", "down", "link", "dictionary"])
def test_a_reason_that_never_unpickles_starves_nobody(other: Puppet, way: str) -> None:
    """Found: it was unpickled in the middle of a signal, where nothing could be cut: the worker stood still."""
    far = pa.options(worker=0).spawn(leave_endlessly)
    one = puppet(1)
    match way:
        case "exit":
            one.do(pa.trap_exit, True)
            pa.exit(one.pid, EndlessReason())
        case "down":
            one.do(pa.monitor, far)
        case "link":
            one.do(pa.trap_exit, True)
            one.do(pa.link, far)
        case "dictionary":
            target = puppet(0)
            target.do(keep_endless)
            # What can't travel is shown by its repr().
            assert "EndlessReason" in one.do(pa.process_info, target.pid)["dictionary"]["endless"]
            answers(20, worker=0)
            answers(20)
            return
    pa.send(far, "leave")
    reason = one.do(get).reason
    assert isinstance(reason, pa.Crash)
    assert reason.type == "TimeoutError"
    answers(20)


ENDLESS_MODULE = """
import parallel_actors as pa
from test_preemption import KEPT
pa.send(KEPT[-1], "up")
while True:
    pass
"""


def endless_import(asker: pa.Pid, folder: str) -> None:
    sys.path.insert(0, folder)
    KEPT.append(asker)
    importlib.import_module("endless_module")


def log_without_end(asker: pa.Pid, folder: str) -> None:
    class Endless(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            pa.send(asker, "up")
            while True:
                pass

    logger = logging.getLogger("without end")
    logger.addHandler(Endless())
    try:
        logger.warning("never written")
    finally:
        logger.handlers.clear()


def endless_callback(asker: pa.Pid, folder: str) -> None:
    def callback(x: object) -> None:
        pa.send(asker, "up")
        hog()

    np.frompyfunc(callback, 1, 1)(np.arange(2))


@contract("S1.10", partly=True)
@pytest.mark.parametrize("body", [endless_del, endless_import, endless_callback])
def test_a_worker_where_nothing_can_be_cut_when_a_process_is_to_end_is_killed(
    no_leaks: None, tmp_path: Path, body: Callable[[pa.Pid, str], None]
) -> None:
    """Found: the ticks that came there counted as turns, and the worker stayed as it was for ever."""
    (tmp_path / "endless_module.py").write_text(ENDLESS_MODULE)
    with pa.ActorSystem(workers=2, stuck_timeout=0.3, stop_timeout=600) as system:
        before = system.worker_pids
        neighbour, ref = pa.options(worker=1).spawn_monitor(park)
        _, other = pa.options(worker=1).spawn_monitor(park)
        pa.options(worker=1).spawn(body, pa.self_(), str(tmp_path))
        assert pa.receive("up", timeout=WAIT) == "up"
        pa.exit(neighbour, "kill")
        assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "killed"
        # It can't unwind.
        assert pa.receive(pa.Down(other, pa.ANY, pa.ANY), timeout=WAIT).reason == pa.WorkerDown(1, 9)
        answers(20)
        assert system.worker_pids[0] == before[0]


@contract("S1.10", "S1.9", partly=True)
@pytest.mark.parametrize("body", [endless_import, endless_callback, log_without_end])
def test_a_process_that_can_not_be_cut_ends_when_it_is_killed(
    other: Puppet, tmp_path: Path, body: Callable[[pa.Pid, str], None]
) -> None:
    (tmp_path / "endless_module.py").write_text(ENDLESS_MODULE)
    os_pid = other.do(os.getpid)
    pid = on_1(body, pa.self_(), str(tmp_path))
    assert pa.receive("up", timeout=WAIT) == "up"
    assert killed(pid) == "killed"
    answers(20)
    assert other.do(os.getpid) == os_pid
    if body is endless_import:
        other.do(forget_modules, str(tmp_path), ["endless_module"])


@contract("S1.10", partly=True)
def test_a_worker_is_not_killed_for_what_ended_long_ago(no_leaks: None, tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)

    def native() -> None:
        # Straight into a call that handles no signals, without any call of the library.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [TICK_SIGNAL])
        with open(fifo, "rb"):
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    with pa.ActorSystem(workers=2, stuck_timeout=0.3) as system:
        answers(20)
        before = system.worker_pids
        for _ in range(3):
            pid = pa.options(worker=1).spawn(park)
            assert killed(pid) == "killed"
            pa.receive(timeout=0.3, default=None)  # the worker goes to sleep
            pid, ref = pa.options(worker=1).spawn_monitor(native)
            # It would be killed three times over; then there is nobody to open the other side.
            got = pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=1, default="as long as it takes")
            assert got == "as long as it takes"
            with open(fifo, "wb"):
                assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "normal"
        answers(20)
        assert system.worker_pids == before


@contract("S1.9", "S3.1", partly=True)
def test_waiting_at_the_limit_of_recursion_fails_or_waits(other: Puppet) -> None:
    """Found: the process was queued and nobody ran any more, as the switch itself failed."""

    def deep(asker: pa.Pid) -> None:
        def down(n: int) -> None:
            if n:
                down(n - 1)
            else:
                pa.sleep(0)

        def reach(n: int) -> int:
            return 0 if n == 0 else reach(n - 1)

        best, failed = 0, 0
        with contextlib.suppress(RecursionError):
            for best in range(10, 2000):
                reach(best)
        for spare in range(best - 1):
            pa.spawn(int)  # has no stack yet: it gets the next one
            try:
                down(best - 1 - spare)
            except RecursionError:
                failed += 1
            else:
                break
        pa.send(asker, ("failed", failed))

    for _ in range(5):
        on_1(deep, pa.self_())
        assert pa.receive(("failed", int), timeout=WAIT)[1] < 20
    answers(20)


@contract("S1.8", "S4.3", "S2.2", partly=True)
@pytest.mark.parametrize("spare", [0, 2, 4])
def test_a_hog_at_the_limit_of_recursion_loses_nothing_for_others(other: Puppet, spare: int) -> None:
    def down(n: int) -> int:
        if n == 0:
            TRACE.append("down")
            x = 0
            while True:
                x ^= 1
        return down(n - 1)

    def reach(n: int) -> int:
        return 0 if n == 0 else reach(n - 1)

    def deep() -> None:
        best = 0
        with contextlib.suppress(RecursionError):
            for best in range(10, 2000):
                reach(best)
        while True:
            try:
                TRACE.append("again")
                down(best - 1 - spare)
            except RecursionError:
                TRACE.append("failed")

    def leave() -> None:
        pa.receive()
        raise pa.ProcessExit([1, {"a": {1, 2}}, ValueError("x")])

    on_1(deep)
    eventually(lambda: "again" in other.do(trace), "the hog has begun")
    for _ in range(3):
        leaver = pa.options(worker=0).spawn(leave)
        ref = other.do(pa.monitor, leaver)
        pa.send(leaver, "now")
        assert isinstance(other.do(pa.receive, pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason, list)
        victim, ref = pa.options(worker=1).spawn_monitor(park)
        pa.exit(victim, ["a reason", {1}])
        assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == ["a reason", {1}]
    answers(20)


@contract("S1.8", partly=True)
def test_a_finalizer_that_waits_leaves_preemption_on(other: Puppet) -> None:
    class Waits:
        def __init__(self) -> None:
            self.ring = self

        def __del__(self) -> None:
            pa.receive("never")

    def collects() -> None:
        Waits()
        gc.collect()

    pid = on_1(collects)
    on_1(hog)
    answers(50)
    pa.exit(pid, "kill")
    answers(50)


# --- reports, timers, rings -------------------------------------------------------------------------------------------


def late_native() -> None:
    sum(range(30_000_000))
    TRACE.append("native")


def late_import() -> None:
    importlib.import_module("late_module")


class Lingers:
    def __del__(self) -> None:
        spin(0.4)


def late_del() -> None:
    Lingers()


def late_callback() -> None:
    np.frompyfunc(lambda _: spin(0.2), 1, 1)(np.arange(3))


def late_shield() -> None:
    with pa.no_preempt():
        spin(0.4)


def late_uncut() -> None:
    spin(0.4)


@pytest.fixture
def reports(no_leaks: None) -> Iterator[Puppet]:
    """A puppet on worker 1, whose reports come to the test; what keeps others waiting is reported after 0.1 s."""
    with pa.ActorSystem(workers=2, long_schedule=0.1, log_level="ERROR"):
        made = puppet(1)
        made.do(clear)  # this file has been imported there: that took long
        made.do(Witness.start, pa.self_())
        made.do(logging.getLogger("parallel_actors").setLevel, "INFO")
        yield made


@contract("S1.8", partly=True)
@pytest.mark.parametrize(
    ("body", "why"),
    [
        (late_native, "in a native call"),
        (late_import, "in an import"),
        (late_del, "in a __del__ or the garbage collector"),
        (late_callback, "in a callback of native code: .*numpy.*"),
        (late_shield, r"in no_preempt\(\)"),
        (late_uncut, r"in options\(preempt=False\)"),
    ],
)
def test_what_cannot_be_cut_is_reported_with_its_stack(
    reports: Puppet, tmp_path: Path, body: Callable[[], None], why: str
) -> None:
    (tmp_path / "late_module.py").write_text("from test_preemption import spin\nspin(0.4)\n")
    reports.do(add_path, str(tmp_path))
    pid, ref = pa.options(worker=1, preempt=body is not late_uncut, label="slow").spawn_monitor(body)
    answers(50)
    while pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=0, default=None) is None:
        answers(1)
    name, text = pa.receive(("logged", str, str), timeout=WAIT)[1:]
    assert name == "parallel_actors.schedule"
    assert re.search(rf"process {re.escape(repr(pid))} slow has kept the others of worker 1 waiting .*{why}\n", text)
    assert body.__name__ in text, "the stack"


@contract("S1.8", "S1.9", partly=True)
def test_compiled_code_without_any_frame_is_not_cut(actor_system: pa.ActorSystem) -> None:
    """Found: a tick that came while a server's state was shown, in a storm of crashes, killed the worker."""
    workers = actor_system.worker_pids
    spawn_monitor = pa.options(worker=1).spawn_monitor
    # repr() looks for signals, and nothing here is Python code. Two: there is something to cut the first one for.
    for _, ref in [spawn_monitor(max, map(repr, range(2_000_000))) for _ in range(2)]:
        assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "normal"
    pid, ref = spawn_monitor(max, map(repr, range(10**12)))
    pa.exit(pid, "kill")
    assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "killed"
    assert puppet(1).alive  # the worker goes on
    assert actor_system.worker_pids == workers


@contract("S1.8", partly=True)
def test_what_can_be_cut_is_not_reported(reports: Puppet) -> None:
    for kind in ("counts", "sorts", "matches", "raises"):
        on_1(works, kind, kind)
    on_1(in_event, "")
    eventually(lambda: min([0, *reports.do(rounds).values()]) >= 0 and len(reports.do(rounds)) == 4, "all have begun")
    eventually(lambda: min(reports.do(rounds).values()) > 100, "all go on")
    assert pa.receive(("logged", str, str), timeout=0, default=None) is None


@contract("S2.6")
def test_a_mailbox_has_no_limit_and_a_long_one_is_reported(other: Puppet, logged: None) -> None:
    many = 140_000
    pid = on_1(park, label="slow reader")
    sender = puppet(0)

    def flood() -> None:
        for number in range(many):
            pa.send(pid, number)

    sender.tell(flood)
    text = pa.receive(("logged", "parallel_actors.schedule", str), timeout=2 * WAIT)[2]
    assert re.match(rf"process {re.escape(repr(pid))} slow reader has \d+ messages waiting", text)
    eventually(lambda: pa.process_info(pid, "message_queue_len") == many, "all are there")
    assert pa.receive(("logged", str, str), timeout=0, default=None) is None, "once"


def counting_hog(asker: pa.Pid, count: int) -> None:
    """Computes until that many messages have come, and never looks."""
    pa.send(asker, "up")
    while ROUNDS.get("go on") is None:
        pass
    pa.send(asker, [pa.receive(int, timeout=0) for _ in range(count)] == list(range(count)))


@contract("S2.5")
def test_rings_are_drained_while_a_hog_is_alone_on_its_worker(other: Puppet) -> None:
    # Far more than ring and overflow take before a sender is suspended: it isn't, for the other worker takes them in.
    many = 100_000
    pid = on_1(counting_hog, pa.self_(), many)
    assert pa.receive("up", timeout=WAIT) == "up"

    def flood(asker: pa.Pid) -> None:
        for number in range(many):
            pa.send(pid, number)
        pa.send(asker, "all sent")

    pa.options(worker=0).spawn(flood, pa.self_())
    assert pa.receive("all sent", timeout=2 * WAIT) == "all sent"
    eventually(lambda: pa.process_info(pid, "message_queue_len") == many, "all are in its mailbox")
    other.do(go_on)
    assert pa.receive(bool, timeout=WAIT) is True


@contract("S1.11", "S1.8", partly=True)
def test_timers_fire_beside_a_hog(other: Puppet) -> None:
    on_1(hog)
    on_1(hog)

    def clock(asker: pa.Pid) -> None:
        pa.send_after(0.01, asker, "after")
        pa.send_interval(0.001, pa.self_(), "tick")
        for _ in range(20):
            pa.receive("tick")
            pa.sleep(0.001)
        assert pa.receive("never", timeout=0.01, default="timed out") == "timed out"
        pa.send(asker, "clock")

    on_1(clock, pa.self_())
    assert pa.receive("after", timeout=WAIT) == "after"
    assert pa.receive("clock", timeout=WAIT) == "clock"


@contract("S1.12", "S1.8", partly=True)
def test_a_hog_can_be_looked_at(other: Puppet) -> None:
    def outer() -> None:
        hog()

    pid = on_1(outer)
    for _ in range(20):
        assert pa.process_info(pid, "status") in ("running", "runnable")
    assert any("hog" in line for line in pa.process_info(pid, "current_stacktrace"))
    on_1(hog)
    answers(10)
    assert any("hog" in line for line in pa.process_info(pid, "current_stacktrace"))


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------

LOADED = """
    import itertools, re, time

    def compute(kind, asker):
        try:
            pa.send(asker, "up")
            for n in itertools.count():
                if kind == 0:
                    while True: n += 1
                elif kind == 1:
                    sorted(range(1000), key=lambda x: -x)
                elif kind == 2:
                    re.sub("a+", lambda m: m[0], "aab" * 1000)
                else:
                    time.sleep(1000)
        finally:
            print("cleaned up", flush=True)

    def main():
        for number in range(16):
            pa.options(worker=number % 2).spawn(compute, number // 2 % 4, pa.self_())
        for _ in range(16):
            pa.receive("up")
        print("up", flush=True)
        {rest}
"""


@contract("S9.4", "S1.8", partly=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("rest", ["pa.receive()", "\n        while True: pass"], ids=["main waits", "main hogs"])
def test_the_first_ctrl_c_is_enough_under_full_load(run: Start, rest: str, number: signal.Signals) -> None:
    with run(LOADED.format(rest=rest), "--stop-timeout", "600") as running:
        running.out.expect("up\n")
        everybody = running.family()
        with ended_at_last(everybody):
            if number == signal.SIGINT:
                running.ctrl_c()
            else:
                running.program.send_signal(number)
            assert running.end() == (130 if number == signal.SIGINT else 143)
            assert running.out.close().splitlines().count("cleaned up") == 16
            assert "Traceback" not in running.err.close()
            eventually(lambda: gone(everybody), "nothing is left")
