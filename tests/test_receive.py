"""Receive: what fits, what waits, time-outs, and that a reply doesn't pay for older mail (S3)."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import fractions
import re
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

import parallel_actors as pa
from puppets import GUEST, WAIT, mail, place, puppet

contract = pytest.mark.contract
# In a process of a worker, and in the test's own thread.
anywhere = pytest.mark.parametrize("here", [0, GUEST])


@dataclasses.dataclass
class Point:
    x: object
    y: object = 0


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: object


class Named(collections.namedtuple("Named", "a b")):
    pass


def run(here: int, function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a fresh process of that place."""
    return place(here).do(function, *args)


def fill(*messages: object) -> None:
    for message in messages:
        pa.send(pa.self_(), message)


# --- what fits --------------------------------------------------------------------------------------------------------


def positive(message: object) -> bool:
    return isinstance(message, int) and message > 0


FITTING: list[tuple[object, list[object], list[object]]] = [
    (pa.ANY, [None, 0, (), "x"], []),
    (int, [1, True, 0], ["1", 1.0, None]),
    (bool, [True], [1, 0]),
    (str, ["", "x"], [b"", None]),
    (int | str, [1, "x"], [1.0, b"x"]),
    (object, [None, 1], []),
    (None, [None], [0, False, ()]),
    (1, [1, 1.0], [True, 2, "1"]),
    (True, [True], [1, "True"]),
    (0, [0], [False, None, ""]),
    ("stop", ["stop"], ["stopped", b"stop", ("stop",)]),
    (float("inf"), [float("inf")], [1.0]),
    ((), [()], [[], (1,), None]),
    ((int, str), [(1, "x")], [(1,), (1, "x", 2), [1, "x"], ("x", 1)]),
    (("add", pa.ANY, int), [("add", None, 1)], [("add", None, "1"), ("del", None, 1)]),
    (("a", ("b", pa.ANY)), [("a", ("b", 1)), ("a", ("b", ()))], [("a", "b"), ("a", ["b", 1])]),
    ([int, pa.ANY], [[1, 2], [1, None]], [(1, 2), [1], ["x", 2]]),
    ({"op": "add"}, [{"op": "add"}, {"op": "add", "n": 1}], [{"op": "del"}, {}, "op", [("op", "add")]]),
    ({"n": {"m": int}}, [{"n": {"m": 1, "k": 2}}], [{"n": {"m": "1"}}, {"n": 1}]),
    ({}, [{}, {"any": 1}], [[], None]),
    (Point(int), [Point(1)], [Point("1"), Point(1, 1), Frozen(1), 1]),
    (Point(pa.ANY, pa.ANY), [Point(1, 2), Point(None, Point(1))], [Frozen(1), (1, 2)]),
    (Frozen(Frozen(str)), [Frozen(Frozen("x"))], [Frozen("x"), Frozen(Frozen(1))]),
    (Point, [Point(1)], [Frozen(1)]),
    (Named(int, pa.ANY), [Named(1, 2)], [(1, 2), Named("1", 2)]),
    (positive, [1, 5, True], [0, -1, "1", None]),
    (("n", positive), [("n", 1)], [("n", 0), (1, "n")]),
    (re.compile("x+").fullmatch, ["xx"], ["y"]),
    (frozenset({1}), [frozenset({1}), {1}], [{2}, [1]]),
    (range(3), [range(3)], [[0, 1, 2]]),
    (b"x", [b"x", bytearray(b"x")], ["x"]),
]


@contract("S3.1")
@anywhere
def test_what_fits(node: pa.ActorSystem, here: int) -> None:
    def outcome(pattern: object, message: object) -> bool:
        pa.send(pa.self_(), message)
        if pa.receive(pattern, timeout=0, default="nothing fitted") != "nothing fitted":
            return True
        pa.receive(timeout=0)
        return False

    def outcomes() -> list[str]:
        wrong = [f"{m!r} should fit {p!r}" for p, fitting, _ in FITTING for m in fitting if not fits(p, m)]
        return wrong + [f"{m!r} shouldn't fit {p!r}" for p, _, others in FITTING for m in others if fits(p, m)]

    def fits(pattern: object, message: object) -> bool:
        if isinstance(message, str) and callable(pattern) and not isinstance(pattern, type) and pattern is not positive:
            return bool(pattern(message))  # re's predicate takes nothing but text
        return outcome(pattern, message)

    assert run(here, outcomes) == []
    assert mail() == []


@contract("S3.1")
@anywhere
def test_the_first_that_fits_is_taken_and_the_rest_stays_in_order(node: pa.ActorSystem, here: int) -> None:
    def take() -> list[object]:
        fill("a", 1, "b", 2, ("c",), 3, "d")
        got = [pa.receive(int), pa.receive(tuple, int), pa.receive("d", "b"), pa.receive()]
        fill("e")
        return [*got, *mail()]

    assert run(here, take) == [1, 2, "b", "a", ("c",), 3, "d", "e"]


@contract("S3.1")
@anywhere
def test_several_patterns_go_by_the_mail_and_not_by_their_own_order(node: pa.ActorSystem, here: int) -> None:
    def take() -> list[object]:
        fill(1, "x", 2.0)
        return [pa.receive(float, str, int), pa.receive(float, str), *mail()]

    assert run(here, take) == [1, "x", 2.0]


@contract("S3.1")
def test_what_comes_while_it_waits(node: pa.ActorSystem) -> None:
    """Mail that doesn't fit wakes a waiting receive and stays, in order; each is looked at once."""
    looked: list[object] = []

    def wait(to: pa.Pid) -> None:
        def wanted(message: object) -> bool:
            looked.append(message)
            return message == "go"

        pa.send(to, "ready")
        assert pa.receive(wanted) == "go"
        pa.send(to, (looked, mail()))

    pid = pa.options(worker=0).spawn(wait, pa.self_())
    assert pa.receive(timeout=WAIT) == "ready"
    for i in range(50):
        pa.send(pid, i)
        if i % 10 == 0:
            pa.process_info(pid)  # let it look between two of them
    pa.send(pid, "go")
    assert pa.receive(timeout=WAIT) == ([*range(50), "go"], list(range(50)))


@contract("S3.1")
@anywhere
def test_a_pattern_that_fits_nothing_that_is_there_waits(node: pa.ActorSystem, here: int) -> None:
    me = pa.self_()
    waiting = place(here)
    if here == GUEST:
        fill("other")
        puppet(0).do(pa.send_after, 0.05, me, 7)
        assert pa.receive(int, timeout=WAIT) == 7
    else:
        waiting.do(fill, "other")
        waiting.tell(lambda: pa.send(me, ("got", pa.receive(int))))
        pa.send(waiting.pid, 7)
        assert pa.receive(("got", pa.ANY), timeout=WAIT) == ("got", 7)
    assert waiting.do(mail) == ["other"]


# --- time-outs --------------------------------------------------------------------------------------------------------


@contract("S3.1")
@anywhere
@pytest.mark.parametrize("timeout", [0, 0.0, 0.02, decimal.Decimal("0.02"), fractions.Fraction(1, 50)], ids=repr)
def test_a_time_out_raises_or_gives_the_default(node: pa.ActorSystem, here: int, timeout: float) -> None:
    def outcomes() -> list[object]:
        fill("unfitting")
        found: list[object] = [
            pa.receive(int, timeout=timeout, default=None),
            pa.receive(int, timeout=timeout, default=3),
        ]
        try:
            pa.receive(int, ("x", pa.ANY), timeout=timeout)
        except pa.ReceiveTimeout as error:
            found.append(str(error) if error.elapsed == timeout and TimeoutError in type(error).__mro__ else "wrong")
        return [*found, mail()]

    none, three, text, left = run(here, outcomes)
    assert (none, three, left) == (None, 3, ["unfitting"])
    assert text == f"expected int or ('x', ANY) within {timeout} s, got none; 1 other message waiting"


@contract("S3.1")
@anywhere
def test_a_default_is_no_time_out(node: pa.ActorSystem, here: int) -> None:
    def take() -> object:
        pa.send_after(0.05, pa.self_(), "waited for")
        return pa.receive(default="at once")

    assert run(here, take) == "waited for"


@contract("S3.1")
@anywhere
def test_a_poll_sees_what_has_arrived(node: pa.ActorSystem, here: int) -> None:
    """`timeout=0` finds what another process sent before something that the caller knows to have happened."""
    me, sender = place(here), puppet(1)

    def poll(sender: pa.Pid) -> bool:
        for i in range(100):
            watch = pa.monitor(sender)
            pa.send(sender, ("do", pa.self_(), pa.make_ref(), pa.send, (pa.self_(), ("polled", i)), {}))
            pa.receive(("done", pa.ANY, pa.ANY, pa.ANY), timeout=WAIT)
            pa.demonitor(watch)
            if pa.receive(("polled", i), timeout=0, default=None) is None:
                return False
        return True

    assert me.do(poll, sender.pid)


@contract("S3.1")
@anywhere
def test_a_time_out_takes_its_time_and_counts_from_the_call(node: pa.ActorSystem, here: int) -> None:
    """Mail that doesn't fit neither shortens nor lengthens it."""

    def take() -> tuple[bool, int]:
        ref = pa.send_interval(0.01, pa.self_(), "unfitting")
        begun = time.monotonic()
        pa.receive(int, timeout=0.2, default=None)
        elapsed = time.monotonic() - begun
        pa.cancel_timer(ref)
        return 0.2 <= elapsed < WAIT, min(len(mail()), 1)

    assert run(here, take) == (True, 1)


@contract("S3.1")
@anywhere
def test_a_time_out_that_is_over_fires_no_more(node: pa.ActorSystem, here: int) -> None:
    def take() -> list[object]:
        found: list[object] = []
        for _ in range(50):
            fill("in time")
            found.append(pa.receive(timeout=0.001))
            found.append(pa.receive(timeout=0.0001, default="late"))
        pa.sleep(0.01)
        return found

    assert run(here, take) == ["in time", "late"] * 50


ABSURD = [-1, -0.001, float("nan"), -float("inf"), True, False, "1", b"1", bytearray(b"1"), [], object(), 1j, int]


@contract("S3.1", partly=True)
@anywhere
@pytest.mark.parametrize(
    "timeout", ABSURD, ids=lambda t: f"{type(t).__name__}-{t}" if isinstance(t, float | int) else type(t).__name__
)
def test_an_absurd_time_out_is_refused_before_anything_happens(node: pa.ActorSystem, here: int, timeout: Any) -> None:
    def refused() -> list[str]:
        fill("kept")
        found = []
        for call in (
            lambda: pa.receive(int, timeout=timeout),
            lambda: pa.receive(int, timeout=timeout, default=1),
            lambda: pa.sleep(timeout),
            lambda: pa.send_after(timeout, pa.self_(), "never"),
            lambda: pa.send_interval(timeout, pa.self_(), "never"),
        ):
            try:
                call()
            except (TypeError, ValueError) as error:
                found.append(f"{type(error).__name__}: {error}"[:20])
        assert pa.receive(timeout=0.01) == "kept"
        assert pa.receive(timeout=0.01, default=None) is None
        return found

    kind = "ValueError" if type(timeout) in (int, float) else "TypeError"
    texts = run(here, refused)
    assert len(texts) == 5
    assert all(text.startswith(f"{kind}: expected") for text in texts)


@contract("S3.1", partly=True)
@anywhere
def test_an_absurd_time_out_is_refused_even_when_a_message_waits(node: pa.ActorSystem, here: int) -> None:
    def take() -> list[object]:
        fill("waiting")
        try:
            pa.receive(timeout=-1)
        except ValueError:
            return mail()
        return ["not refused"]

    assert run(here, take) == ["waiting"]


@contract("S3.1", partly=True)
@anywhere
@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 1e18, 2.0**63, 10**30, None], ids=repr)
def test_a_very_long_time_out_is_for_ever(node: pa.ActorSystem, here: int, timeout: float | None) -> None:
    def take() -> object:
        pa.send_after(0.02, pa.self_(), "came")
        return pa.receive(timeout=timeout)

    assert run(here, take) == "came"


@contract("S3.1", partly=True)
def test_a_huge_integer_is_refused_or_for_ever(node: pa.ActorSystem) -> None:
    pa.send_after(0.02, pa.self_(), "came")
    try:
        assert pa.receive(timeout=10**400) == "came"
    except ValueError:
        assert pa.receive(timeout=WAIT) == "came"


def test_many_time_outs_of_many_processes(node: pa.ActorSystem) -> None:
    def sleeper(to: pa.Pid, seconds: float) -> None:
        pa.receive(timeout=seconds, default=None)
        pa.send(to, seconds)

    delays = [0.3 - i * 0.001 for i in range(200)]
    for delay in delays:
        pa.options(worker=0).spawn(sleeper, pa.self_(), delay)
    got = [pa.receive(timeout=WAIT) for _ in delays]
    assert sorted(got) == sorted(delays)


# --- predicates that misbehave ----------------------------------------------------------------------------------------


def failing(_: object) -> NoReturn:
    raise ZeroDivisionError("in the predicate")


@contract("S3.1", partly=True)
@anywhere
def test_a_predicate_that_raises(node: pa.ActorSystem, here: int) -> None:
    """The receive raises it; no message is lost, and the mailbox works on."""

    def take() -> list[object]:
        fill(1, 2)
        for timeout in (0, 1, None):
            with pytest.raises(ZeroDivisionError, match="in the predicate"):
                pa.receive(failing, timeout=timeout)
            with pytest.raises(ZeroDivisionError, match="in the predicate"):
                pa.receive((failing,), {"a": failing}, failing, timeout=timeout)
        return mail()

    assert run(here, take) == [1, 2]


@contract("S3.1", partly=True)
@anywhere
def test_a_predicate_that_raises_while_it_waits(node: pa.ActorSystem, here: int) -> None:
    def take() -> list[object]:
        pa.send_after(0.02, pa.self_(), "comes later")
        with pytest.raises(ZeroDivisionError):
            pa.receive(failing, timeout=WAIT)
        found = [pa.receive(timeout=0.05, default="none")]
        return [*found, pa.receive(timeout=0.05, default="none")]

    assert run(here, take) == ["comes later", "none"]


@contract("S3.1", partly=True)
@anywhere
def test_a_predicate_that_receives_is_told_so(node: pa.ActorSystem, here: int) -> None:
    def take() -> list[object]:
        fill(1, 2)
        with pytest.raises(RuntimeError, match="while a message of the same process was being matched"):
            pa.receive(lambda _: pa.receive(timeout=0))
        return mail()

    assert run(here, take) == [1, 2]


@contract("S3.1", partly=True)
@anywhere
def test_a_predicate_that_sends(node: pa.ActorSystem, here: int) -> None:
    """To others, and to its own process: what it sends comes behind the rest."""
    other = puppet(1)

    def take(other: pa.Pid) -> list[object]:
        me = pa.self_()

        def relay(message: object) -> bool:
            if isinstance(message, int):
                pa.send(me, ("seen", message))
                pa.send(other, message)
            return message == 3000

        fill(*range(3001))
        first = pa.receive(relay)
        rest = mail()
        return [first, rest == [*range(3000), *(("seen", i) for i in range(3001))]]

    assert run(here, take, other.pid) == [3000, True]
    # Whoever asks is a third party: nothing orders its question behind the numbers.
    assert other.do(lambda: [pa.receive(int, timeout=10) for _ in range(3001)]) == list(range(3001))


@contract("S3.1", partly=True)
@anywhere
def test_a_predicate_that_suspends(node: pa.ActorSystem, here: int) -> None:
    """Others run, mail comes; the search goes on where it was."""

    def take() -> list[object]:
        def slow(message: object) -> bool:
            pa.sleep(0.001)
            return message == "new"

        me = pa.self_()
        fill(*range(20))
        pa.send_after(0.005, me, "new")
        return [pa.receive(slow, timeout=WAIT), mail()]

    assert run(here, take) == ["new", list(range(20))]


@contract("S3.1", partly=True)
@anywhere
def test_a_predicate_that_takes_mail_away(node: pa.ActorSystem, here: int) -> None:
    """`demonitor(flush=True)` inside a predicate: refused or done, but no message comes twice or is lost."""
    dead = puppet(1)
    dead.end("normal")

    def take(dead: pa.Pid) -> list[object]:
        refs = [pa.monitor(dead) for _ in range(3)]
        while pa.process_info(pa.self_(), "message_queue_len") < 3:
            pa.sleep(0.001)
        fill("a", "b")

        def flush(message: object) -> bool:
            if isinstance(message, pa.Down):
                for ref in refs:
                    pa.demonitor(ref, flush=True)
            return message == "a"

        try:
            first = pa.receive(flush, timeout=0, default="none")
        except RuntimeError:
            first = pa.receive("a", timeout=0)
        return [first, [m for m in mail() if not isinstance(m, pa.Down)]]

    assert run(here, take, dead.pid) == ["a", ["b"]]


@contract("S3.1", partly=True)
def test_a_process_killed_inside_its_predicate(node: pa.ActorSystem) -> None:
    def take(to: pa.Pid) -> None:
        def kill(message: object) -> bool:
            if message == 2:
                pa.exit(pa.self_(), "kill")
            return False

        fill(1, 2, 3)
        pa.receive(kill)

    pid, ref = pa.options(worker=0).spawn_monitor(take, pa.self_())
    assert pa.receive(timeout=WAIT) == pa.Down(ref, pid, "killed")
    assert run(0, lambda: "unharmed") == "unharmed"


@pytest.mark.parametrize("pattern", [list[int], dict[str, int], tuple[int, ...], Callable[[int], int]], ids=repr)
@anywhere
def test_a_pattern_that_cannot_be_tested_says_so(node: pa.ActorSystem, here: int, pattern: Any) -> None:
    def take() -> list[object]:
        fill([1])
        with pytest.raises(TypeError, match=r"expected a pattern .* got"):
            pa.receive(pattern, timeout=0)
        return mail()

    assert run(here, take) == [[1]]


def test_an_async_predicate_is_refused(node: pa.ActorSystem) -> None:
    async def wanted(_: object) -> bool:
        return False

    fill(1)
    with pytest.raises(TypeError, match="expected a plain function as a predicate, got an async one"):
        pa.receive(wanted, timeout=0)
    assert mail() == [1]


# --- the receive mark (S3.2) ------------------------------------------------------------------------------------------


class Counted:
    """Older mail that says when somebody looks at it: it is unpickled then."""

    looked = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return look, ()


def look() -> str:
    Counted.looked += 1
    return "older"


def looks(wait: Callable[[], object]) -> tuple[int, object]:
    """At how many of 1000 older messages `wait` looks, and its result."""
    fill(*(Counted() for _ in range(1000)))
    Counted.looked = 0
    got = wait()
    looked = Counted.looked
    assert mail() == ["older"] * 1000
    return looked, got


def reply(to: object, ref: pa.Ref) -> None:
    pa.send(to, (ref, "the reply"))  # type: ignore[arg-type]


def by_reference() -> object:
    ref = pa.make_ref()
    pa.options(worker=0).spawn(reply, pa.self_(), ref)
    return pa.receive((ref, pa.ANY), timeout=WAIT)[1]


def by_alias() -> object:
    ref = pa.alias()
    pa.options(worker=1).spawn(reply, ref, ref)
    got = pa.receive((ref, pa.ANY), timeout=WAIT)[1]
    pa.unalias(ref)
    return got


def by_either() -> object:
    ref = pa.make_ref()
    pa.options(worker=0).spawn(reply, pa.self_(), ref)
    return pa.receive((ref, pa.ANY), (("nested", ref), pa.ANY), timeout=WAIT)[1]


def by_down() -> object:
    """As a call waits: for the reply, or the Down."""
    _, ref = pa.options(worker=0).spawn_monitor(bool)
    return pa.receive((ref, pa.ANY), pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason


def by_anything_else() -> object:
    pa.make_ref()
    pa.send(pa.self_(), 7)
    return pa.receive(int)


@contract("S3.2")
@anywhere
@pytest.mark.parametrize("wait", [by_reference, by_alias, by_either])
def test_waiting_for_a_fresh_reference_skips_older_mail(
    node: pa.ActorSystem, here: int, wait: Callable[[], object]
) -> None:
    assert run(here, looks, wait) == (0, "the reply")
    assert run(here, looks, by_anything_else) == (1000, 7), "this test would see it"


@contract("S3.2")
@anywhere
def test_a_monitors_down_skips_older_mail(node: pa.ActorSystem, here: int) -> None:
    assert run(here, looks, by_down) == (0, "normal")


@contract("S3.2")
@anywhere
def test_the_mark_never_skips_what_it_must_not(node: pa.ActorSystem, here: int) -> None:
    def take() -> list[object]:
        me = pa.self_()
        old = pa.make_ref()
        fill((old, "old"), "x")
        new = pa.make_ref()
        fill((new, "new"), (old, "old 2"))
        found = [pa.receive((old, pa.ANY), timeout=0)[1], pa.receive((new, pa.ANY), timeout=0)[1]]
        newest = pa.make_ref()
        fill((newest, 1))
        found.append(pa.receive((newest, pa.ANY), "x", timeout=0))  # `x` is older than the mark
        found.append(pa.receive((newest, pa.ANY), timeout=0)[1])
        found.append(pa.receive((old, pa.ANY), timeout=0)[1])
        # The mark's own envelope is taken away, and mail comes behind it.
        fill("a", "b")
        ref = pa.make_ref()
        found.append(pa.receive("b"))
        fill((ref, 2))
        found.append(pa.receive((ref, pa.ANY), timeout=0)[1])
        found.append(pa.receive((ref, pa.ANY), timeout=0, default="gone"))
        ref = pa.make_ref()
        found.append(pa.receive("a"))
        fill((ref, 3))
        found.append(pa.receive((ref, pa.ANY), timeout=0)[1])
        assert me == pa.self_()
        return [*found, mail()]

    assert run(here, take) == ["old", "new", "x", 1, "old 2", "b", 2, "gone", "a", 3, []]


@contract("S3.2")
def test_a_call_with_a_hundred_thousand_waiting_costs_what_it_costs_with_none(node: pa.ActorSystem) -> None:
    """Relative, and generous: a scan of 100,000 would cost hundreds of times as much."""

    def calls(n: int) -> float:
        echo = pa.spawn(echo_refs)
        begun = time.perf_counter()
        for _ in range(n):
            ref = pa.make_ref()
            pa.send(echo, (pa.self_(), ref))
            pa.receive((ref, pa.ANY))
        pa.exit(echo, "kill")
        return time.perf_counter() - begun

    def compare() -> float:
        without = min(calls(200) for _ in range(5))
        for i in range(100_000):
            pa.send(pa.self_(), i)
        return min(calls(200) for _ in range(5)) / without

    assert run(0, compare) < 20


def echo_refs() -> None:
    while True:
        sender, ref = pa.receive()
        pa.send(sender, (ref, "here"))


@contract("S3.1", "S2.6", partly=True)
def test_a_long_mailbox_is_emptied_in_order_and_its_release_does_not_recurse(node: pa.ActorSystem) -> None:
    target = puppet(0)

    def fill_with(n: int) -> None:
        for i in range(n):
            pa.send(pa.self_(), i)

    target.do(fill_with, 300_000)
    assert target.do(lambda: mail() == list(range(300_000)))
    target.do(fill_with, 300_000)
    watch = pa.monitor(target.pid)
    pa.exit(target.pid, "kill")
    assert pa.receive(pa.Down, timeout=WAIT) == pa.Down(watch, target.pid, "killed")
    assert run(0, lambda: "unharmed") == "unharmed"
