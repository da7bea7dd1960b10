"""Messages and signals: order, sizes, isolation, what can't be sent or read, who isn't there (S1.2, S1.3, S2)."""

from __future__ import annotations

import dataclasses
import os
import random
import threading
import zlib
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

import parallel_actors as pa
from puppets import GUEST, PLACES, WAIT, Puppet, echo, get, mail, park, place, puppet

contract = pytest.mark.contract
everywhere = pytest.mark.parametrize(("here", "there"), [*PLACES, (0, GUEST)])
both = pytest.mark.parametrize("worker", [0, 1])
KB, MB = 1024, 1024 * 1024


def payload(i: int, size: int) -> bytes:
    """`size` bytes that differ from those of any other `i`."""
    return random.Random(i).randbytes(min(size, 4096)) * (size // 4096 + 1) if size else b""


def pour(to: pa.Pid, sizes: list[int]) -> None:
    for i, size in enumerate(sizes):
        pa.send(to, ("poured", i, payload(i, size)[:size]))


def sums(sizes: list[int]) -> list[tuple[int, int, int]]:
    return [(i, size, zlib.crc32(payload(i, size)[:size])) for i, size in enumerate(sizes)]


def gather(n: int) -> list[tuple[int, int, int]]:
    """Number, length and checksum of the next `n` messages, in order of arrival."""
    got = []
    for _ in range(n):
        _, i, data = pa.receive(("poured", int, bytes), timeout=WAIT)
        got.append((i, len(data), zlib.crc32(data)))
    return got


# Small ones, those around the sizes at which a record is split (16 KB) or a ring is full (64 KB), and large ones.
SIZES = [0, 1, 7, 8, 9, 100, 479, 480, 481, 4000, 16 * KB - 40, 16 * KB - 8, 16 * KB, 16 * KB + 1]
SIZES += [64 * KB - 100, 64 * KB, 64 * KB + 1, 300 * KB, 3 * MB]


# --- order ------------------------------------------------------------------------------------------------------------


@contract("S2.1", "S2.4")
@everywhere
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_messages_arrive_once_and_in_order_large_ones_between_small(
    node: pa.ActorSystem, here: int, there: int, seed: int
) -> None:
    sizes = [*SIZES, *[10] * 500, 5 * MB, *[100] * 500, *SIZES]
    random.Random(seed).shuffle(sizes)
    sender, receiver = place(here), place(there)
    expected = sums(sizes)
    if here == GUEST:
        pour(receiver.pid, sizes)
    else:
        sender.tell(pour, receiver.pid, sizes)
    assert receiver.do(gather, len(sizes)) == expected


@contract("S2.1")
@contract("S2.5", partly=True)
def test_order_holds_while_the_overflow_is_full_and_others_send_too(node: pa.ActorSystem) -> None:
    """More than a ring and its overflow take; the sender is suspended and goes on."""
    sizes = [200] * 20_000
    first, second, receiver = puppet(0), puppet(0), puppet(1)
    for sender in (first, second):
        sender.tell(pour, receiver.pid, sizes)

    def gather_both(senders: int) -> list[list[int]]:
        # Two streams with the same numbers: each must rise by itself.
        heads = [0] * senders
        for _ in range(senders * 20_000):
            _, i, _ = pa.receive(("poured", int, bytes), timeout=WAIT)
            heads[heads.index(i)] += 1
        return [heads]

    assert receiver.do(gather_both, 2) == [[20_000, 20_000]]


def chain(to: pa.Pid, n: int) -> None:
    """Messages and every kind of signal to one process, in a fixed order, a large one first."""
    pa.send(to, bytes(2 * MB))
    for i in range(n):
        pa.send(to, i)
        pa.exit(to, ("exit", i))
        child = pa.options(worker=pa.worker_index()).spawn(park)
        pa.send(to, (child, bytes(20 * KB)))
    pa.link(to)
    pa.send(to, "linked")
    raise pa.ProcessExit("the end")


@contract("S2.1")
@pytest.mark.parametrize("there", [0, 1, GUEST])
def test_exits_keep_their_place_among_messages(node: pa.ActorSystem, there: int) -> None:
    receiver = place(there)
    receiver.do(pa.trap_exit)
    sender = pa.options(worker=0).spawn(chain, receiver.pid, 50)

    def look(sender: pa.Pid) -> list[object]:
        seen: list[object] = []
        while not (seen and seen[-1] == pa.Exit(sender, "the end")):
            message = get()
            seen.append(message if not isinstance(message, tuple) else "child")
        return seen[1:]

    expected: list[object] = []
    for i in range(50):
        expected += [i, pa.Exit(sender, ("exit", i)), "child"]
    assert receiver.do(look, sender) == [*expected, "linked", pa.Exit(sender, "the end")]


def talk_and_end(to: pa.Pid, n: int) -> None:
    pa.receive("go")
    for i in range(n):
        pa.send(to, (i, bytes(random.Random(i).choice([0, 10, 70 * KB]))))


@contract("S2.1", "S4.3")
@pytest.mark.parametrize("there", [0, 1, GUEST])
def test_a_down_comes_behind_everything_its_process_sent(node: pa.ActorSystem, there: int) -> None:
    receiver = place(there)
    for _ in range(5):
        pid = pa.options(worker=0).spawn(talk_and_end, receiver.pid, 40)

        def look(pid: pa.Pid) -> list[object]:
            ref = pa.monitor(pid)
            pa.send(pid, "go")
            got = [get() for _ in range(41)]
            assert got[40] == pa.Down(ref, pid, "normal")
            return [message[0] for message in got[:40]]

        assert receiver.do(look, pid) == list(range(40))


def kill_behind(to: pa.Pid) -> None:
    for i in range(1000):
        pa.send(to, i)
    pa.exit(to, "kill")


def relay_all(to: pa.Pid) -> None:
    for i in range(1000):
        assert pa.receive(int) == i
        pa.send(to, i)
    park()


@contract("S2.1", "S2.2")
@both
def test_control_signals_act_on_receipt_and_never_before_older_signals(node: pa.ActorSystem, worker: int) -> None:
    """A kill overtakes unread mail, since it acts at once; what had been read before it came was all in order."""
    receiver, ref = pa.options(worker=worker).spawn_monitor(relay_all, pa.self_())
    pa.options(worker=0).spawn(kill_behind, receiver)
    got = []
    while not isinstance(message := pa.receive(timeout=WAIT), pa.Down):
        got.append(message)
    assert message == pa.Down(ref, receiver, "killed")
    assert got == list(range(len(got)))


@contract("S2.2")
@both
def test_an_exit_acts_ahead_of_unread_mail(node: pa.ActorSystem, worker: int) -> None:
    target, ref = pa.options(worker=worker).spawn_monitor(park)
    for _ in range(10_000):
        pa.send(target, "unread")
    pa.exit(target, "now")
    assert pa.receive(timeout=WAIT) == pa.Down(ref, target, "now")


# --- what arrives -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Point:
    x: int
    y: list[int]


@contract("S1.2", "S1.5")
@everywhere
def test_values_arrive_equal_and_of_the_same_type(node: pa.ActorSystem, here: int, there: int) -> None:
    sender, receiver = place(here), place(there)
    values = [
        *(
            None,
            True,
            1,
            -1,
            2**200,
            -(2**63),
            1.5,
            float("inf"),
            "",
            "ä\0\U0001f600",
            "\ud800",
            b"",
            bytearray(b"x"),
            ...,
        ),
        *(
            (),
            [],
            {},
            set(),
            frozenset({1}),
            {1: {2: [3, (4,)]}},
            Point(1, [2]),
            pa.self_(),
            pa.make_ref(),
            int,
            Point,
            echo,
        ),
        *(pa.Shutdown(1), pa.Down(pa.make_ref(), pa.self_(), "x"), range(3), 1j, ValueError("v", 1), pa.ANY, dict, len),
    ]
    for value in values:
        sender.do(pa.send, receiver.pid, value)
        got = receiver.do(get)
        if isinstance(value, ValueError):
            got, value = got.args, value.args
        assert got == value
        assert type(got) is type(value)


@contract("S1.2")
@everywhere
def test_a_message_is_the_receivers_own(node: pa.ActorSystem, here: int, there: int) -> None:
    def send_and_change(to: pa.Pid) -> None:
        inner = [1]
        point = Point(1, inner)
        message = {"inner": inner, "again": inner, "point": point}
        pa.send(to, message)
        inner.append(2)
        point.x = 2
        message.clear()

    sender, receiver = place(here), place(there)
    sender.do(send_and_change, receiver.pid)
    got = receiver.do(get)
    assert got == {"inner": [1], "again": [1], "point": Point(1, [1])}
    sender.do(send_and_change, receiver.pid)
    assert receiver.do(lambda: (lambda m: m["inner"] is m["again"] and m["inner"] is m["point"].y)(get())), (
        "sharing is kept"
    )


@contract("S1.2")
def test_two_local_receivers_share_nothing(node: pa.ActorSystem) -> None:
    def send_twice(first: pa.Pid, second: pa.Pid) -> None:
        message = [[]]  # type: list[list[int]]
        for to in (first, second):
            pa.send(to, message)

    def change() -> list[list[int]]:
        got: list[list[int]] = get()
        got[0].append(1)
        return got

    sender, first, second = puppet(0), puppet(0), puppet(0)
    sender.do(send_twice, first.pid, second.pid)
    assert first.do(change) == [[1]]
    assert second.do(change) == [[1]]


@contract("S2.1", partly=True)
@pytest.mark.parametrize("place_", [0, GUEST])
def test_a_message_to_oneself(node: pa.ActorSystem, place_: int) -> None:
    def talk() -> list[object]:
        me = pa.self_()
        mine = [1]
        for message in (1, mine, bytes(MB), "last"):
            pa.send(me, message)
        mine.append(2)
        return [get(0), get(0), len(get(0)), get(0), mail()]

    assert place(place_).do(talk) == [1, [1], MB, "last", []]


@contract("S2.4", partly=True)
def test_200_mb_cross_to_another_worker(node: pa.ActorSystem) -> None:
    def make(to: pa.Pid) -> None:
        pa.send(to, "before")
        pa.send(to, os.urandom(MB) * 200)
        pa.send(to, "after")

    def measure() -> tuple[object, int, bool, object]:
        before, data, after = get(), get(120), get()
        return before, len(data), data[:MB] == data[-MB:], after

    sender, receiver = puppet(0), puppet(1)
    sender.tell(make, receiver.pid)
    assert receiver.do(measure) == ("before", 200 * MB, True, "after")


# --- what can't be sent -----------------------------------------------------------------------------------------------


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise ValueError("not me")


class Holder:
    def __init__(self, held: object) -> None:
        self.held = held

    def __repr__(self) -> str:
        return "Holder()"


class Shy(Holder):
    def __repr__(self) -> NoReturn:
        raise ValueError("nor can it be shown")


@contract("S1.3", "S10.2")
@everywhere
def test_what_cannot_be_pickled_is_refused_at_the_call(node: pa.ActorSystem, here: int, there: int) -> None:
    """To a neighbour, to another worker, and to a process that is long dead."""

    def refused(to: pa.Pid) -> list[tuple[str | None, str]]:
        lock = threading.Lock()
        bad: list[object] = [lock, {"conn": Holder(lock)}, [1, (2, lock)], {1, Holder(lock)}, {Shy(lock)}]
        bad += [Unpicklable(), (i for i in range(1))]
        found: list[tuple[str | None, str]] = []
        for message in bad:
            try:
                pa.send(to, message)
            except pa.NotPicklable as error:
                named = error.path is not None and error.path in str(error)
                found.append((error.path if named else "not in the text", type(error.__cause__).__name__))
            else:
                found.append(("sent", ""))
        return found

    sender, receiver, dead = place(here), place(there), puppet(max(there, 0))
    dead.end("normal")
    found = sender.do(refused, receiver.pid)
    assert sender.do(refused, dead.pid) == found
    assert [path for path, _ in found[:3]] == ["msg", "msg['conn'].held", "msg[1][1]"]
    assert [cause for _, cause in found] == ["TypeError"] * 5 + ["ValueError", "TypeError"]
    assert receiver.do(mail) == [], "nothing of it was sent"


@contract("S1.3", "S10.2")
@everywhere
def test_the_same_holds_for_everything_that_carries_values(node: pa.ActorSystem, here: int, there: int) -> None:
    def refused(to: pa.Pid, worker: int) -> list[bool]:
        lock = threading.Lock()
        spawning = pa.options(worker=worker)
        found = []
        for call in (
            lambda: pa.exit(to, lock),
            lambda: pa.send_after(60, to, lock),
            lambda: pa.send_interval(60, to, lock),
            lambda: spawning.spawn(print, lock),
            lambda: spawning.spawn_link(lambda: lock.acquire()),
            lambda: spawning.spawn_monitor(print, end=lock),  # type: ignore[arg-type]
        ):
            try:
                call()
            except pa.NotPicklable:
                found.append(True)
            else:
                found.append(False)
        return found

    sender, receiver = place(here), place(there)
    before = len(pa.processes())
    assert sender.do(refused, receiver.pid, max(there, 0)) == [True] * 6
    assert receiver.alive
    assert len(pa.processes()) == before, "no process was spawned"
    assert sender.do(lambda: pa.process_info(pa.self_(), "links")) == []
    assert sender.do(lambda: pa.process_info(pa.self_(), "monitors")) in ([], [pa.self_()])


@contract("S10.2", partly=True)
@everywhere
def test_what_reduce_raises_comes_out_at_the_call(node: pa.ActorSystem, here: int, there: int) -> None:
    def send_bad(to: pa.Pid, error: BaseException) -> str:
        try:
            pa.send(to, Raising(error))
        except BaseException as raised:
            return type(raised).__name__
        return "sent"

    sender, receiver = place(here), place(there)
    # What isn't an error of the object (Ctrl-C, an exit) keeps its type.
    for error, expected in (
        (OSError(), "NotPicklable"),
        (RecursionError(), "NotPicklable"),
        (SystemExit(1), "SystemExit"),
    ):
        assert sender.do(send_bad, receiver.pid, error) == expected


class Raising:
    """Raises when it is pickled; itself it travels as what it raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        raise self.error


@contract("S1.3", partly=True)
@everywhere
def test_a_nest_too_deep_is_refused_or_arrives(node: pa.ActorSystem, here: int, there: int) -> None:
    """Never a crash of the worker, and the same wherever the target lives."""

    def send_deep(to: pa.Pid, depth: int) -> str:
        nest: list[Any] = []
        for _ in range(depth):
            nest = [nest]
        try:
            pa.send(to, nest)
        except pa.NotPicklable:
            return "refused"
        return "sent"

    sender, receiver = place(here), place(there)
    assert sender.do(send_deep, receiver.pid, 100) == "sent"
    assert sender.do(send_deep, receiver.pid, 1_000_000) == "refused"
    assert receiver.do(lambda: len(mail())) == 1


# --- what can't be read -----------------------------------------------------------------------------------------------


def refuse(what: str) -> NoReturn:
    raise RuntimeError(f"no {what} here")


class Poison:
    """Pickles well, and can't be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return refuse, ("Poison",)


@contract("S2.7", partly=True)
@pytest.mark.parametrize(("here", "there"), [(0, 0), (0, 1), (GUEST, 0)])
def test_what_cannot_be_unpickled_is_a_dead_letter(node: pa.ActorSystem, logged: None, here: int, there: int) -> None:
    sender, receiver, neighbour = place(here), puppet(there), puppet(there)
    for message in ("before", Poison(), [Poison()], "after"):
        sender.do(pa.send, receiver.pid, message) if here == GUEST else sender.do(
            send_made, receiver.pid, message_name(message)
        )
    assert receiver.do(get) == "before"
    assert receiver.do(get) == "after"
    for _ in range(2):
        *_, text = pa.receive(("logged", "parallel_actors.dead_letters", pa.ANY), timeout=WAIT)
        assert repr(receiver.pid) in text
        assert "RuntimeError: no Poison here" in text
    assert receiver.do(mail) == []
    assert neighbour.do(lambda: "unharmed") == "unharmed"
    assert pa.receive(timeout=0, default=None) is None


def message_name(message: object) -> str:
    return message if isinstance(message, str) else "list" if isinstance(message, list) else "poison"


def send_made(to: pa.Pid, name: str) -> None:
    pa.send(to, {"list": [Poison()], "poison": Poison()}.get(name, name))


@contract("S2.7", partly=True)
def test_a_guest_survives_dead_letters_too(node: pa.ActorSystem) -> None:
    sender = puppet(0)
    for name in ("poison", "list", "after"):
        sender.do(send_made, pa.self_(), name)
    assert pa.receive(timeout=WAIT) == "after"
    assert pa.receive(timeout=0, default=None) is None


@contract("S2.7", partly=True)
@pytest.mark.parametrize(("here", "there"), PLACES)
def test_selective_receive_passes_over_what_cannot_be_unpickled(node: pa.ActorSystem, here: int, there: int) -> None:
    sender, receiver = place(here), puppet(there)
    for name in ("first", "poison", "second", "list", "third"):
        sender.do(send_made, receiver.pid, name)

    def pick() -> list[object]:
        return [pa.receive("third", timeout=WAIT), pa.receive("second", timeout=0), mail()]

    assert receiver.do(pick) == ["third", "second", ["first"]]


class TwoFaced(Exception):
    """An exception that pickles, and can't be unpickled: a common mistake."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(one)
        self.two = two


class Secretive(Exception):
    def __reduce__(self) -> NoReturn:
        raise TypeError("I don't travel")

    def __str__(self) -> NoReturn:
        raise ValueError("nor do I speak")


def throw(name: str) -> NoReturn:
    if name == "two-faced":
        raise TwoFaced(1, 2)
    if name == "secretive":
        raise Secretive
    raise OSError(threading.Lock())


@contract("S1.7")
@both
@pytest.mark.parametrize("name", ["two-faced", "secretive", "holding a lock"])
def test_an_exception_that_cannot_travel_hides_nothing_and_harms_nobody(
    node: pa.ActorSystem, worker: int, name: str
) -> None:
    neighbour = puppet(worker)
    pid, ref = pa.options(worker=worker).spawn_monitor(throw, name)
    down = pa.receive(pa.Down, timeout=WAIT)
    assert (down.ref, down.pid) == (ref, pid)
    crash = down.reason
    kind = {"two-faced": "TwoFaced", "secretive": "Secretive"}.get(name, "OSError")
    assert crash.type.endswith(kind)
    assert "in throw" in crash.traceback
    assert crash.exception is None
    assert neighbour.do(lambda: 1) == 1


class Reviving:
    """Its `__setstate__` does what the test wants done while a message is unpickled."""

    def __init__(self, what: str, to: pa.Pid) -> None:
        self.what, self.to = what, to

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        acted: dict[str, Callable[[], object]] = {"send": self.send, "receive": pa.receive, "spawn": self.spawn}
        acted["sleep"] = lambda: pa.sleep(0.01)
        acted[self.what]()

    def send(self) -> None:
        pa.send(self.to, (pa.self_(), "sent while it was unpickled"))
        pa.send(pa.self_(), "to oneself")

    def spawn(self) -> None:
        pa.spawn(pa.send, self.to, (pa.self_(), "spawned while it was unpickled"))


@contract("S2.7", partly=True)
@pytest.mark.parametrize(("here", "there"), PLACES)
def test_what_unpickling_may_do(node: pa.ActorSystem, here: int, there: int) -> None:
    """It runs in the receiver, as the receiver; only a receive inside a receive is an error."""
    me = pa.self_()

    def send_reviving(to: pa.Pid, what: str) -> None:
        pa.send(to, Reviving(what, me))

    sender, receiver = place(here), puppet(there)
    sender.do(send_reviving, receiver.pid, "send")
    assert receiver.do(lambda: type(get()).__name__) == "Reviving"
    assert pa.receive(tuple, timeout=WAIT) == (receiver.pid, "sent while it was unpickled")
    assert receiver.do(get) == "to oneself"
    sender.do(send_reviving, receiver.pid, "sleep")
    assert receiver.do(lambda: type(get()).__name__) == "Reviving"
    sender.do(send_reviving, receiver.pid, "spawn")
    assert receiver.do(lambda: type(get()).__name__) == "Reviving"
    assert pa.receive(tuple, timeout=WAIT) == (receiver.pid, "spawned while it was unpickled")
    sender.do(send_reviving, receiver.pid, "receive")
    pa.send(receiver.pid, "the next")
    assert receiver.do(get) == "the next", "that one was a dead letter"


# --- sending while sending --------------------------------------------------------------------------------------------


class Sending:
    """Sends, and does much else, whenever it is pickled."""

    def __init__(self, to: pa.Pid, n: int) -> None:
        self.to, self.n = to, n

    def __reduce__(self) -> tuple[Any, ...]:
        for i in range(self.n):
            pa.send(self.to, ("inner", i, [bytearray(10)], Holder(i)))
        if self.n > 1:
            pa.sleep(0)
            pa.make_ref()
            pa.options(worker=1).spawn(park)
        return str, ("outer",)


@contract("S2.1", partly=True)
@everywhere
@pytest.mark.parametrize("n", [1, 3000])
def test_a_reduce_that_sends(node: pa.ActorSystem, here: int, there: int, n: int) -> None:
    """What it sends arrives first: the outer message isn't sent before it is pickled."""

    def send_sending(to: pa.Pid) -> None:
        pa.send(to, [Sending(to, n), bytearray(100)])

    def look() -> tuple[list[int], object]:
        inner = [get()[1] for _ in range(n)]
        return inner, get()

    sender, receiver = place(here), place(there)
    if there == GUEST or here == GUEST:
        sender.do(send_sending, receiver.pid)
    else:
        sender.tell(send_sending, receiver.pid)
    assert receiver.do(look) == (list(range(n)), ["outer", bytearray(100)])


class Mourned:
    """Sends when it is collected."""

    def __init__(self, to: pa.Pid, name: str) -> None:
        self.to, self.name = to, name

    def __reduce__(self) -> tuple[Any, ...]:
        return Mourned, (self.to, self.name)

    def __del__(self) -> None:
        pa.send(self.to, ("collected", self.name))


def names_of_the_collected(n: int) -> list[str]:
    return sorted(pa.receive(("collected", str), timeout=WAIT)[1] for _ in range(n))


def send_mourned(to: pa.Pid, watcher: pa.Pid, n: int) -> None:
    for i in range(n):
        pa.send(to, Mourned(watcher, f"m{i}"))


@contract("S2.7", partly=True)
@pytest.mark.parametrize(("here", "there"), [(0, 0), (0, 1), (GUEST, 0)])
def test_a_del_that_sends(node: pa.ActorSystem, here: int, there: int) -> None:
    """While a mailbox is read, and while that of a killed process is emptied: also to the dying process itself."""
    sender, receiver = place(here), puppet(there)
    sender.do(send_mourned, receiver.pid, pa.self_(), 5)
    # The senders' own copies come to as much again.
    assert names_of_the_collected(5) == [f"m{i}" for i in range(5)]
    receiver.do(lambda: mail() and None)
    assert names_of_the_collected(5) == [f"m{i}" for i in range(5)]
    sender.do(send_mourned, receiver.pid, receiver.pid, 100)
    sender.do(send_mourned, receiver.pid, pa.self_(), 1)
    assert names_of_the_collected(1) == ["m0"]
    receiver.do(decode_all)
    watch = pa.monitor(receiver.pid)
    pa.exit(receiver.pid, "kill")
    assert pa.receive(pa.Down, timeout=WAIT) == pa.Down(watch, receiver.pid, "killed")
    assert names_of_the_collected(1) == ["m0"]
    assert puppet(there).do(lambda: "unharmed") == "unharmed"


def decode_all() -> None:
    """Have every waiting message unpickled, and take none."""
    pa.receive(pa.make_ref(), lambda _: False, timeout=0, default=None)


# --- nobody there -----------------------------------------------------------------------------------------------------


@contract("S2.3")
@everywhere
def test_a_send_to_a_dead_process_does_nothing(node: pa.ActorSystem, here: int, there: int) -> None:
    sender, dead = place(here), puppet(max(there, 0))
    dead.end("normal")
    for message in ("hello", [1], Point(1, []), bytes(MB)):
        sender.do(pa.send, dead.pid, message)
    sender.do(pa.exit, dead.pid, "kill")
    assert not sender.do(pa.is_alive, dead.pid)
    assert sender.do(pa.process_info, dead.pid) is None


def earlier_pids() -> list[Any]:
    """Pids of a system that has ended: of its main process and of both workers, and a reference."""
    with pa.ActorSystem(workers=2):
        return [pa.self_(), *(pa.options(worker=worker).spawn(park) for worker in (0, 1)), pa.alias()]


@contract("S2.3")
def test_pids_of_an_earlier_run_are_dead(no_leaks: None) -> None:
    *stale, ref = earlier_pids()
    with pa.ActorSystem(workers=2):
        living = [pa.options(worker=worker).spawn(echo) for worker in (0, 1)]
        sender = puppet(0)
        for asker in (sender, place(GUEST)):
            for pid in stale:
                asker.do(pa.send, pid, (pa.self_(), "to the past"))
                asker.do(pa.exit, pid, "kill")
                assert not asker.do(pa.is_alive, pid)
                assert asker.do(pa.process_info, pid) is None
                with pytest.raises(pa.NoProc):
                    asker.do(pa.register, "ghost", pid)
                watch = asker.do(pa.monitor, pid)
                assert asker.do(get) == pa.Down(watch, pid, "noproc")
            asker.do(pa.send, ref, "to an alias of the past")
            assert asker.do(pa.cancel_timer, ref) is None
            with pytest.raises(pa.NotPicklable):
                asker.do(send_lock, stale[0])
        pa.trap_exit()
        pa.link(stale[1])
        assert pa.receive(timeout=WAIT) == pa.Exit(stale[1], "noproc")
        for pid in living:
            pa.send(pid, (pa.self_(), "alive"))
            assert pa.receive(timeout=WAIT) == "alive"
        assert not set(stale) & set(pa.processes())


def send_lock(to: pa.Pid) -> None:
    pa.send(to, threading.Lock())


@contract("S2.3")
@pytest.mark.parametrize("here", [0, GUEST])
def test_a_send_to_an_unregistered_name_raises(node: pa.ActorSystem, here: int) -> None:
    sender, named = place(here), puppet(1, name="somebody")
    sender.do(pa.send, "somebody", "hi")
    assert named.do(get) == "hi"
    named.end("normal")
    for name in ("somebody", "never bound", "ü" * 100):
        with pytest.raises(pa.NotRegistered, match="registered name") as caught:
            sender.do(pa.send, name, "hi")
        assert name in str(caught.value)
        assert caught.value.target == name


@pytest.mark.parametrize("here", [0, GUEST])
@pytest.mark.parametrize("target", [None, 1, b"name", ("name",), object, 1.5, Point(1, [])], ids=repr)
def test_a_send_to_what_is_no_address_says_so(node: pa.ActorSystem, here: int, target: Any) -> None:
    sender = place(here)
    for call in (pa.send, pa.exit):
        with pytest.raises(TypeError, match="expected a Pid or a registered name, got"):
            sender.do(call, target, "hi")
    for look in (pa.link, pa.unlink, pa.monitor):
        with pytest.raises(TypeError, match="expected a Pid or a registered name, got"):
            sender.do(look, target)


class AwkwardReason:
    """As an exit reason: compares with nothing."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("don't compare me")

    __hash__ = None  # type: ignore[assignment]


@contract("S1.7", partly=True)
@pytest.mark.parametrize(("here", "there"), PLACES)
def test_a_reason_that_compares_with_nothing(node: pa.ActorSystem, here: int, there: int) -> None:
    def send_exit(to: pa.Pid) -> None:
        pa.exit(to, AwkwardReason())

    sender, target, neighbour = place(here), puppet(there), puppet(there)
    watch = pa.monitor(target.pid)
    target.do(bool)  # it has the monitor: the exit comes from somebody else, and could overtake it
    sender.do(send_exit, target.pid)
    assert type(Puppet.reason_of(watch)) is AwkwardReason
    assert neighbour.do(lambda: 1) == 1


@contract("S1.7", partly=True)
@pytest.mark.parametrize(("here", "there"), PLACES)
def test_a_reason_that_cannot_be_unpickled_is_a_crash_that_says_so(node: pa.ActorSystem, here: int, there: int) -> None:
    def send_exit(to: pa.Pid) -> None:
        pa.exit(to, Poison())

    sender, target, neighbour = place(here), puppet(there), puppet(there)
    watch = pa.monitor(target.pid)
    target.do(bool)  # it has the monitor: the exit comes from somebody else, and could overtake it
    sender.do(send_exit, target.pid)
    reason = Puppet.reason_of(watch)
    assert isinstance(reason, pa.Crash)
    assert reason.text == "no Poison here"
    assert neighbour.do(lambda: 1) == 1
