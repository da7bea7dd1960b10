"""Processes: spawn, what can be a body, ends and their reasons, what a process says about itself (S1)."""

from __future__ import annotations

import contextvars
import decimal
import functools
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn

import greenlet
import pytest

import parallel_actors as pa
from leaks import eventually
from puppets import PLACES, WAIT, Hog, ask, echo, leave, park, place, puppet

contract = pytest.mark.contract
both = pytest.mark.parametrize("worker", [0, 1])
everywhere = pytest.mark.parametrize(("here", "there"), PLACES)


def report(to: pa.Pid, function: Callable[..., object], *args: object) -> None:
    pa.send(to, (pa.self_(), function(*args)))


def reason_of(function: Callable[..., object], *args: object, worker: int = 0) -> Any:
    """What a process with this body ends with."""
    pid, ref = pa.options(worker=worker).spawn_monitor(function, *args)
    down = pa.receive(pa.Down, timeout=WAIT)
    assert (ref, pid) == (down.ref, down.pid)
    return down.reason


def raises(error: BaseException) -> NoReturn:
    raise error


# --- spawn ------------------------------------------------------------------------------------------------------------


@contract("S1.4")
@both
def test_a_spawned_process_gets_what_was_sent_right_after(node: pa.ActorSystem, worker: int) -> None:
    pid = pa.options(worker=worker).spawn(echo)
    pa.send(pid, (pa.self_(), "hi"))
    assert pa.receive(timeout=WAIT) == "hi"


@contract("S1.4")
def test_spawn_returns_before_the_process_is_born(node: pa.ActorSystem, tmp_path: Path) -> None:
    with Hog(1, tmp_path):
        pid, ref = pa.options(worker=1).spawn_monitor(echo)
        pa.send(pid, (pa.self_(), "early"))
        assert pa.receive(timeout=0, default=None) is None, "its worker hasn't looked at its rings yet"
    assert pa.receive(timeout=WAIT) == "early"
    pa.exit(pid, "bye")
    assert pa.receive(timeout=WAIT) == pa.Down(ref, pid, "bye")


def spawn_behind(load: int, to: pa.Pid) -> None:
    """Fill the ring to worker 1, so that the birth stands in the overflow, then tell `to` the pid."""
    sink = pa.options(worker=1).spawn(park)
    for _ in range(load // 4096):
        pa.send(sink, bytes(4096))
    pa.send(to, ("born", pa.options(worker=1).spawn(echo)))
    park()


@contract("S1.4", "S2.1")
def test_mail_of_a_third_party_that_overtakes_the_birth_is_kept_in_order(node: pa.ActorSystem, tmp_path: Path) -> None:
    with Hog(1, tmp_path):
        pa.options(worker=0).spawn(spawn_behind, 1 << 20, pa.self_())
        _, pid = pa.receive(("born", pa.ANY), timeout=WAIT)
        for i in range(100):
            pa.send(pid, (pa.self_(), i))
        pa.send_after(0, pid, (pa.self_(), "from the root's timers"))
    assert [pa.receive(int, timeout=WAIT) for _ in range(100)] == list(range(100))
    assert pa.receive(timeout=WAIT) == "from the root's timers"


@contract("S1.4", "S2.2")
def test_signals_of_a_third_party_that_overtake_the_birth_act(node: pa.ActorSystem, tmp_path: Path) -> None:
    pa.trap_exit()
    with Hog(1, tmp_path):
        pa.options(worker=0).spawn(spawn_behind, 1 << 20, pa.self_())
        _, pid = pa.receive(("born", pa.ANY), timeout=WAIT)
        pa.send(pid, (pa.self_(), "never read"))
        gone = pa.monitor(pid)
        assert pa.demonitor(gone)
        pa.unlink(pid)
        pa.link(pid)
        ref = pa.monitor(pid)
        pa.exit(pid, "boom")
    ends = [pa.receive(timeout=WAIT), pa.receive(timeout=WAIT)]
    assert pa.Exit(pid, "boom") in ends
    assert pa.Down(ref, pid, "boom") in ends
    assert pa.receive(timeout=0, default=None) is None
    assert not pa.is_alive(pid)


def overtake(to: pa.Pid) -> None:
    while True:
        pa.send(to, pa.options(worker=1).spawn(echo))
        pa.receive("next")


@contract("S1.4")
def test_a_third_party_can_send_to_a_pid_at_once(node: pa.ActorSystem) -> None:
    spawner = pa.options(worker=0).spawn(overtake, pa.self_())
    for i in range(300):
        pid = pa.receive(pa.Pid, timeout=WAIT)
        pa.send(spawner, "next")
        pa.send(pid, (pa.self_(), i))
        assert pa.receive(int, timeout=WAIT) == i
        pa.exit(pid, "kill")


def spawns(how: Callable[..., Any], worker: int, n: int, to: pa.Pid) -> None:
    """Spawn processes that end at once, and tell what came of them."""
    pa.trap_exit()
    made = [pa.options(worker=worker).spawn_link(leave, i) for i in range(n)]
    pa.send(to, [pa.receive(pa.Exit, timeout=WAIT) for _ in range(n)] == [pa.Exit(made[i], i) for i in range(n)])
    for i in range(n):
        pid, ref = pa.options(worker=worker).spawn_monitor(leave, i)
        down = pa.receive(pa.Down, timeout=WAIT)
        assert down == pa.Down(ref, pid, i)
    pa.send(to, "monitors")


@contract("S1.4")
@everywhere
def test_link_and_monitor_are_one_with_the_spawn(node: pa.ActorSystem, here: int, there: int) -> None:
    """However fast the process ends: with its own reason, not with `noproc`."""
    if here == -1:
        spawns(pa.spawn_link, there, 100, pa.self_())
        pa.trap_exit(False)
    else:
        pa.options(worker=here).spawn(spawns, pa.spawn_link, there, 100, pa.self_())
    assert pa.receive(timeout=WAIT) is True
    assert pa.receive(timeout=WAIT) == "monitors"


@contract("S1.4")
def test_the_spawner_may_end_right_after(node: pa.ActorSystem) -> None:
    def generations(left: int, to: pa.Pid) -> None:
        if left:
            pa.options(worker=left % 2).spawn(generations, left - 1, to)
        else:
            pa.send(to, len(pa.ancestors()))

    pa.spawn(generations, 100, pa.self_())
    assert pa.receive(timeout=WAIT) == 32, "a lineage is bounded, as long as the ancestry may be"


@pytest.mark.parametrize("n", [2000])
def test_many_processes_at_once(node: pa.ActorSystem, n: int) -> None:
    pids = [pa.spawn(echo) for _ in range(n)]
    assert len(set(pids)) == n
    assert set(pids) < set(pa.processes())
    for i, pid in enumerate(pids):
        pa.send(pid, (pa.self_(), i))
    assert sorted(pa.receive(timeout=WAIT) for _ in range(n)) == list(range(n))


def where(to: pa.Pid) -> None:
    pa.send(to, pa.worker_index())


def spawn_where(to: pa.Pid, n: int) -> None:
    for _ in range(n):
        pa.options(stealable=False).spawn(where, to)


def sit_where(to: pa.Pid) -> None:
    pa.send(to, pa.worker_index())
    park()


def test_where_processes_live(node: pa.ActorSystem) -> None:
    assert pa.worker_count() == 2
    assert pa.worker_index() is None
    for worker in (0, 1):
        pa.options(worker=worker).spawn(where, pa.self_())
        assert pa.receive(timeout=WAIT) == worker
        pa.options(worker=worker).spawn(spawn_where, pa.self_(), 10)
        assert {pa.receive(timeout=WAIT) for _ in range(10)} == {worker}, "children stay with their parent"
    for _ in range(20):
        pa.spawn(sit_where, pa.self_())
    homes = [pa.receive(timeout=WAIT) for _ in range(20)]
    # The counts it goes by lag a little behind.
    assert 3 <= homes.count(0) <= 17, "the main process's children go where there are fewest"
    pa.options(worker=0, spread=True).spawn(spawn_sitting, pa.self_(), 20)
    assert {pa.receive(timeout=WAIT) for _ in range(20)} == {0, 1}


def spawn_sitting(to: pa.Pid, n: int) -> None:
    for _ in range(n):
        pa.spawn(sit_where, to)
    park()


# --- bodies -----------------------------------------------------------------------------------------------------------


class Caller:
    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def __call__(self, to: pa.Pid, *, name: str = "you") -> None:
        pa.send(to, f"{self.greeting} {name}")

    def method(self, to: pa.Pid, name: str) -> None:
        self(to, name=name)

    async def coroutine(self, to: pa.Pid, name: str) -> None:
        await pa.asleep(0)
        self(to, name=name)

    @classmethod
    def made(cls, to: pa.Pid, name: str) -> None:
        cls("hi").method(to, name)


@contract("S1.5", "S1.6")
@both
def test_what_can_be_a_body(node: pa.ActorSystem, worker: int) -> None:
    me = pa.self_()
    greeting = "hi"

    def closure(to: pa.Pid, name: str) -> None:
        pa.send(to, f"{greeting} {name}")

    async def coroutine(to: pa.Pid, name: str) -> None:
        await pa.asleep(0)
        pa.send(to, f"{greeting} {name}")

    async def generator_inside(to: pa.Pid, name: str) -> None:
        async def parts() -> AsyncIterator[str]:
            for part in (greeting, name):
                await pa.asleep(0)
                yield part

        pa.send(to, " ".join([part async for part in parts()]))

    bodies: list[Callable[..., object]] = [
        closure,
        coroutine,
        generator_inside,
        lambda to, name: pa.send(to, f"{greeting} {name}"),
        functools.partial(closure),
        functools.partial(coroutine),
        Caller(greeting).method,
        Caller(greeting).coroutine,
        Caller.made,
        lambda to, name: Caller(greeting)(to, name=name),
        lambda to, name: coroutine(to, name),
    ]
    for body in bodies:
        pa.options(worker=worker).spawn(body, me, "you")
        assert pa.receive(timeout=WAIT) == "hi you", body
    pa.options(worker=worker).spawn(Caller(greeting), me, name="all")
    assert pa.receive(timeout=WAIT) == "hi all"
    pa.options(worker=worker).spawn(Caller, "a class is a callable too")
    pa.options(worker=worker).spawn(pa.send, me, "built in")
    assert pa.receive(timeout=WAIT) == "built in"


def deep(n: int) -> Any:
    return deep(n - 1) if n else pa.receive()


def receive_after(_: object) -> Any:
    return pa.receive()


@contract("S1.6")
def test_a_plain_body_blocks_anywhere_in_its_stack(node: pa.ActorSystem) -> None:
    """Also inside built-in functions that call back."""
    me = pa.self_()

    def body(to: pa.Pid) -> None:
        order = sorted([3, 1, 2], key=lambda i: (pa.receive(), i)[1])
        pa.send(to, (order, deep(400), list(map(receive_after, range(2)))))

    pids = [pa.options(worker=0).spawn(body, me) for _ in range(20)]
    for i in range(6):
        for pid in pids:
            pa.send(pid, i)
    assert [pa.receive(timeout=WAIT) for _ in pids] == [([1, 2, 3], 3, [4, 5])] * 20


precision: contextvars.ContextVar[int] = contextvars.ContextVar("precision", default=28)


def third(turns: int, mine: int, to: pa.Pid) -> None:
    seen = {(precision.get(), decimal.getcontext().prec)}
    precision.set(mine)
    decimal.getcontext().prec = mine
    digits = set()
    for _ in range(turns):
        pa.sleep(0)
        digits.add(str(decimal.Decimal(1) / 3))
        digits.add("0." + "3" * precision.get())
    pa.send(to, (mine, seen, digits))


async def athird(turns: int, mine: int, to: pa.Pid) -> None:
    seen = {(precision.get(), decimal.getcontext().prec)}
    precision.set(mine)
    decimal.getcontext().prec = mine
    digits = set()
    for turn in range(turns):
        await (pa.asleep(0) if turn % 2 else pa.areceive(timeout=0.001, default=None))
        digits.add(str(decimal.Decimal(1) / 3))
        digits.add("0." + "3" * precision.get())
        if turn % 5 == 0:
            pa.sleep(0)
    pa.send(to, (mine, seen, digits))


@contract("S1.6")
def test_each_process_has_its_own_context(node: pa.ActorSystem) -> None:
    """So its own decimal precision, whoever ran before on the same stack and whoever runs between."""
    for round_ in range(3):
        for i in range(10):
            pa.options(worker=0).spawn(third, 20, 2 + i, pa.self_())
            pa.options(worker=0).spawn(athird, 20, 20 + i, pa.self_())
        seen = sorted(pa.receive(timeout=WAIT) for _ in range(20))
        expected = [*range(2, 12), *range(20, 30)]
        assert seen == [(n, {(28, 28)}, {"0." + "3" * n}) for n in expected], round_
    assert decimal.getcontext().prec == 28


def in_except(to: pa.Pid, n: int) -> None:
    try:
        raises(ValueError(n))
    except ValueError:
        for _ in range(10):
            pa.sleep(0)
            error = sys.exc_info()[1]
            assert isinstance(error, ValueError)
            assert error.args == (n,)
    assert sys.exc_info() == (None, None, None)
    pa.send(to, n)


@contract("S1.6", partly=True)
def test_each_process_handles_its_own_exception(node: pa.ActorSystem) -> None:
    for n in range(20):
        pa.options(worker=0).spawn(in_except, pa.self_(), n)
    assert sorted(pa.receive(timeout=WAIT) for _ in range(20)) == list(range(20))


# --- isolation --------------------------------------------------------------------------------------------------------


@contract("S1.2")
@both
def test_arguments_and_closures_are_the_processes_own(node: pa.ActorSystem, worker: int) -> None:
    shared: list[int] = [0]

    def change(to: pa.Pid, positional: list[int], *, keyword: dict[str, list[int]]) -> None:
        for held in (shared, positional, keyword["k"]):
            held.append(1)
        pa.send(to, (shared, positional, keyword))

    positional, keyword = [0], {"k": [0]}
    for _ in range(2):
        pa.options(worker=worker).spawn(change, pa.self_(), positional, keyword=keyword)
        assert pa.receive(timeout=WAIT) == ([0, 1], [0, 1], {"k": [0, 1]})
    assert (shared, positional, keyword) == ([0], [0], {"k": [0]})


def spawn_and_change(to: pa.Pid, worker: int) -> None:
    """What a spawner changes after `spawn` isn't seen, on its own worker either."""
    mine = {"n": [1]}
    pa.options(worker=worker).spawn(lambda them: pa.send(to, (them, mine)), mine)
    mine["n"].append(2)
    mine["m"] = []
    pa.send(to, "changed")


@contract("S1.2")
@both
def test_what_the_spawner_changes_later_is_not_seen(node: pa.ActorSystem, worker: int) -> None:
    pa.options(worker=0).spawn(spawn_and_change, pa.self_(), worker)
    assert pa.receive("changed", timeout=WAIT) == "changed"
    assert pa.receive(tuple, timeout=WAIT) == ({"n": [1]}, {"n": [1]})


@contract("S1.2")
@everywhere
def test_exit_reasons_are_isolated(node: pa.ActorSystem, here: int, there: int) -> None:
    """Of two on one worker that see the same death each has a reason of its own."""
    first, second = place(here), place(here)
    target = puppet(there)

    def watch(pid: pa.Pid) -> None:
        pa.process_dict()["ref"] = pa.monitor(pid)

    def spoil() -> list[object]:
        reason = pa.receive(pa.Down(pa.process_dict()["ref"], pa.ANY, pa.ANY), timeout=WAIT).reason
        reason.append("spoiled")
        reason[0].append("too")
        return reason  # type: ignore[no-any-return]

    first.do(watch, target.pid)
    if here != -1:
        second.do(watch, target.pid)
    target.end([[1], 2])
    assert first.do(spoil) == [[1, "too"], 2, "spoiled"]
    if here != -1:
        assert second.do(spoil) == [[1, "too"], 2, "spoiled"]


@contract("S1.2")
@everywhere
def test_process_info_gives_no_way_into_a_process(node: pa.ActorSystem, here: int, there: int) -> None:
    def put() -> None:
        pa.process_dict()["list"] = [1]

    def look(pid: pa.Pid) -> None:
        pa.process_info(pid)["dictionary"]["list"].append(2)

    asker, target = place(here), puppet(there)
    target.do(put)
    asker.do(look, target.pid)
    assert target.do(lambda: pa.process_dict()["list"]) == [1]


# --- ends -------------------------------------------------------------------------------------------------------------


@contract("S1.7")
@both
def test_reasons_are_values(node: pa.ActorSystem, worker: int) -> None:
    assert reason_of(lambda: None, worker=worker) == "normal"
    assert reason_of(lambda: "a result is nobody's", worker=worker) == "normal"
    reasons = ["normal", "shutdown", "killed", pa.Shutdown({"term": [1]}), ("mine", 1), None, 0, [[]], {"a": (1,)}]
    for reason in reasons:
        assert reason_of(leave, reason, worker=worker) == reason


@contract("S1.7")
@both
def test_a_crash_says_what_python_would_have_printed(node: pa.ActorSystem, worker: int) -> None:
    def body() -> None:
        try:
            raises(KeyError("inner"))
        except KeyError as error:
            raise ValueError("outer", 1) from error

    crash = reason_of(body, worker=worker)
    assert isinstance(crash, pa.Crash)
    assert (crash.type, crash.text) == ("ValueError", "('outer', 1)")
    assert "KeyError: 'inner'" in crash.traceback
    assert "direct cause" in crash.traceback
    assert __file__ in crash.traceback
    assert "in body" in crash.traceback
    assert "parallel_actors/" not in crash.traceback, "the library's frames say nothing to a user"
    assert crash.traceback.endswith("ValueError: ('outer', 1)\n")
    assert str(crash) == crash.traceback
    assert isinstance(crash.exception, ValueError)
    assert crash.exception.args == ("outer", 1)
    with pytest.raises(ValueError, match="outer"):
        raise crash.exception


@contract("S1.7")
@both
@pytest.mark.parametrize(
    ("code", "reason"),
    [(None, "normal"), (0, "normal"), (1, pa.Crash("SystemExit", "1")), ("no", pa.Crash("SystemExit", "no"))],
)
def test_sys_exit_ends_one_process(node: pa.ActorSystem, worker: int, code: Any, reason: object) -> None:
    neighbour = pa.options(worker=worker).spawn(echo)
    assert reason_of(sys.exit, code, worker=worker) == reason
    assert reason_of(lambda: deep_exit(50, code), worker=worker) == reason

    async def body() -> None:
        await pa.asleep(0)
        sys.exit(code)

    assert reason_of(body, worker=worker) == reason
    assert ask(neighbour, 1) == 1


def deep_exit(n: int, code: object) -> None:
    if n:
        deep_exit(n - 1, code)
    sys.exit(code)  # type: ignore[arg-type]


@contract("S1.7")
@both
@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(3),
        StopAsyncIteration(),
        greenlet.GreenletExit(),
        MemoryError(),
        RecursionError("deep"),
        BaseException("base"),
        pa.NotRunning("mine"),
        ExceptionGroup("two", [ValueError(1), OSError()]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_exception_ends_one_process(node: pa.ActorSystem, worker: int, error: BaseException) -> None:
    neighbour = pa.options(worker=worker).spawn(echo)
    crash = reason_of(raises, error, worker=worker)
    assert isinstance(crash, pa.Crash)
    assert crash.type.rpartition(".")[2] == type(error).__name__
    assert type(crash.exception) is type(error)

    async def body() -> None:
        await pa.asleep(0)
        raise error

    crash = reason_of(body, worker=worker)
    assert isinstance(crash, pa.Crash)
    # Python itself turns a StopIteration out of a coroutine into a RuntimeError.
    expected = "RuntimeError" if isinstance(error, StopIteration) else type(error).__name__
    assert crash.type.rpartition(".")[2] == expected
    assert ask(neighbour, 1) == 1


def runaway() -> None:
    runaway()


@contract("S1.7")
@both
def test_a_runaway_recursion_is_a_crash(node: pa.ActorSystem, worker: int) -> None:
    crash = reason_of(runaway, worker=worker)
    assert crash.type == "RecursionError"
    assert "in runaway" in crash.traceback
    assert len(crash.traceback) < 100_000


@contract("S1.7", partly=True)
def test_only_a_crash_is_reported(node: pa.ActorSystem, logged: None) -> None:
    for reason in ("normal", "shutdown", pa.Shutdown(1), "anything"):
        assert reason_of(leave, reason) == reason
    pid, _ = pa.options(worker=0, name="doomed").spawn_monitor(raises, ValueError("boom"))
    pa.receive(pa.Down, timeout=WAIT)
    _, logger, text = pa.receive(timeout=WAIT)
    assert logger == "parallel_actors.crash"
    for part in (repr(pid), "doomed", "ValueError: boom", "worker 0", "Traceback (most recent call last)"):
        assert part in text
    assert pa.receive(timeout=0.05, default=None) is None


@contract("S1.9", partly=True)
@both
def test_a_kill_unwinds_the_stack(node: pa.ActorSystem, worker: int) -> None:
    def body(to: pa.Pid) -> None:
        try:
            pa.send(to, "ready")
            pa.receive("never")
        finally:
            seen = []
            for call in (lambda: pa.send(to, "from the dead"), lambda: pa.receive(timeout=0), lambda: pa.sleep(1)):
                try:
                    call()
                except BaseException as error:
                    seen.append(type(error))
            unwound.append(seen)

    unwound: list[Any] = []
    probe = puppet(worker)
    pid, ref = pa.options(worker=worker).spawn_monitor(body, pa.self_())
    assert pa.receive(timeout=WAIT) == "ready"
    pa.exit(pid, "kill")
    assert pa.receive(timeout=WAIT) == pa.Down(ref, pid, "killed")
    assert not pa.is_alive(pid)
    assert probe.alive
    assert pa.receive(timeout=0.05, default=None) is None


# --- about oneself ----------------------------------------------------------------------------------------------------


@contract("S1.1")
def test_the_main_thread_is_a_process(node: pa.ActorSystem) -> None:
    me = pa.self_()
    assert node.pid == me
    assert pa.is_alive(me)
    assert me in pa.processes()
    pa.send(me, "a note")
    assert pa.receive(timeout=0) == "a note"
    watcher = puppet(1)
    assert watcher.do(pa.is_alive, me)
    assert me in watcher.do(pa.processes)
    assert pa.process_info(me, "kind") == "guest"
    assert pa.ancestors() == ()


@contract("S1.12", partly=True)
@both
def test_the_process_dictionary(node: pa.ActorSystem, worker: int) -> None:
    first, second = puppet(worker), puppet(worker)

    def put(value: object) -> None:
        pa.process_dict()["key"] = value

    first.do(put, [1])
    second.do(put, [2])
    assert first.do(lambda: pa.process_dict()) == {"key": [1]}
    assert second.do(lambda: pa.process_dict().pop("key")) == [2]
    assert second.do(pa.process_dict) == {}
    assert first.do(lambda: pa.process_dict() is pa.process_dict())
    assert pa.process_info(first.pid, "dictionary") == {"key": [1]}
    assert puppet(worker).do(pa.process_dict) == {}, "a new process begins with none"


@contract("S1.12", partly=True)
@everywhere
def test_labels(node: pa.ActorSystem, here: int, there: int) -> None:
    asker = place(here)
    target = puppet(there, label="first")
    target.do(bool)  # its label comes with what it runs: it is there once that has begun
    assert asker.do(pa.process_info, target.pid, "label") == "first"
    target.do(pa.set_label, ("second", 2))
    assert asker.do(pa.process_info, target.pid, "label") == ("second", 2)
    assert asker.do(pa.process_info, puppet(there).pid, "label") is None


@contract("S1.12", partly=True)
def test_ancestors(node: pa.ActorSystem) -> None:
    def child(line: list[pa.Pid], to: pa.Pid) -> None:
        pa.send(to, (list(pa.ancestors()) == line, pa.process_info(pa.self_(), "parent") == line[0]))
        if len(line) < 5:
            pa.options(worker=len(line) % 2).spawn(child, [pa.self_(), *line], to)

    pa.spawn(child, [pa.self_()], pa.self_())
    assert [pa.receive(timeout=WAIT) for _ in range(5)] == [(True, True)] * 5


@contract("S1.12", partly=True)
@everywhere
def test_process_info(node: pa.ActorSystem, here: int, there: int) -> None:
    asker, target, other = place(here), puppet(there, name="the target"), puppet(1)
    target.do(pa.link, other.pid)
    target.do(pa.monitor, other.pid)
    other.do(pa.monitor, target.pid)
    target.do(pa.trap_exit)
    for i in range(3):
        pa.send(target.pid, i)
    pa.monitor(target.pid)
    target.do(lambda: None)
    info = asker.do(pa.process_info, target.pid)
    assert info["status"] == "waiting"
    assert info["worker"] == there
    assert info["message_queue_len"] == 3
    assert info["links"] == [other.pid]
    assert info["monitors"] == [other.pid]
    assert set(info["monitored_by"]) == {other.pid, pa.self_()}
    assert info["registered_name"] == "the target"
    assert info["trap_exit"] is True
    assert info["parent"] == pa.self_()
    assert info["kind"] == "def"
    assert info["initial_call"] == "obey"
    assert "obey" in info["current_stacktrace"][0]
    for item, fact in info.items():
        if item != "monitored_by":  # the puppets' own monitors come and go
            assert asker.do(pa.process_info, target.pid, item) == fact
    with pytest.raises(KeyError, match=r"expected one of .* got 'nonsense'"):
        asker.do(pa.process_info, target.pid, "nonsense")
    target.end("normal")
    assert asker.do(pa.process_info, target.pid) is None
    assert asker.do(pa.process_info, target.pid, "status") is None


@contract("S1.12", partly=True)
@everywhere
def test_process_info_of_an_async_process_and_of_a_guest(node: pa.ActorSystem, here: int, there: int) -> None:
    async def outer() -> None:
        await inner()

    async def inner() -> None:
        await pa.areceive("never")

    asker = place(here)
    pid = pa.options(worker=there).spawn(outer)
    eventually(lambda: asker.do(pa.process_info, pid, "status") == "waiting", "it waits")
    info = asker.do(pa.process_info, pid)
    assert info["kind"] == "async"
    assert info["initial_call"].endswith("outer")
    assert ["outer" in info["current_stacktrace"][0], "inner" in info["current_stacktrace"][-1]] == [True, True]
    assert asker.do(pa.process_info, pa.self_())["kind"] == "guest"


@contract("S1.12", partly=True)
@everywhere
def test_process_info_of_a_process_that_holds_what_cannot_travel(node: pa.ActorSystem, here: int, there: int) -> None:
    """Whether it can be looked at doesn't depend on where the asker lives."""
    asker, target = place(here), puppet(there)

    def put() -> None:
        pa.process_dict().update(lock=threading.Lock(), plain=1)

    target.do(put)
    info = asker.do(pa.process_info, target.pid)
    assert info["dictionary"]["plain"] == 1
    assert "lock" in repr(info["dictionary"]["lock"])
    assert info["status"] == "waiting"


def test_pids_are_values(node: pa.ActorSystem) -> None:
    pid = pa.spawn(echo)
    again = ask(pid, pid)
    assert again == pid
    assert hash(again) == hash(pid)
    assert repr(again) == repr(pid)
    assert {pid: 1}[again] == 1
    assert pid != pa.self_()
    assert pid != object()
    pa.send(again, (pa.self_(), "by the copy"))
    assert pa.receive(timeout=WAIT) == "by the copy"
