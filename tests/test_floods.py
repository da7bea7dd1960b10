"""Floods: everybody sends faster than anybody reads, bytes and megabytes mixed (S2.1, S2.2, S2.4, S2.5)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import parallel_actors as pa
from leaks import eventually
from parallel_actors.workers.scheduler import Loop
from puppets import GUEST, WAIT, Hog, Puppet, echo, get, leave, mail, obey, park, puppet

contract = pytest.mark.contract

MB = 1 << 20
# A ring and the overflow before a sender is suspended take no more than this, in bytes or in messages.
BYTES = 8 * MB
COUNT = 30_000
# More than that, in messages.
MANY = 60_000
# A flood may be under way when the machine has other things to do.
LONG = 4 * WAIT


# --- numbered messages of every size ----------------------------------------------------------------------------------


def size_of(number: int, largest: int = 10_000_000) -> int:
    """Mostly a few bytes; now and then more than a record, than a ring, than an overflow takes."""
    for every, size in ((250, 10_000_000), (60, 300_000), (17, 17_000), (5, 1_000)):
        if number % every == every - 1 and size <= largest:
            return size
    return 1 + number % 50


def numbered(number: int, largest: int = 10_000_000) -> tuple[Any, ...]:
    return ("no", pa.self_(), number, bytes([number % 251]) * size_of(number, largest))


class Tally:
    """What came from whom: without a gap, nothing twice, every byte as it was sent."""

    def __init__(self, largest: int = 10_000_000) -> None:
        self.next: dict[pa.Pid, int] = {}
        self.largest = largest

    def take(self, message: tuple[Any, ...]) -> None:
        _, sender, number, payload = message
        assert number == self.next.get(sender, 0), (sender, number, self.next.get(sender, 0))
        assert len(payload) == size_of(number, self.largest) == payload.count(number % 251)
        self.next[sender] = number + 1

    def take_all(self, senders: int, count: int) -> None:
        """Until each of `senders` has sent `count`."""
        while len(self.next) < senders or set(self.next.values()) != {count}:
            self.take(pa.receive(("no", pa.ANY, pa.ANY, pa.ANY), timeout=LONG))


def party(others: int, count: int, largest: int, starter: pa.Pid) -> None:
    """Flood every other party, and oneself, reading only what happens to be there; then read the rest."""
    tally = Tally(largest)
    parties = pa.receive(list, timeout=LONG)
    for number in range(count):
        for pid in parties:
            pa.send(pid, numbered(number, largest))
        while (message := pa.receive(("no", pa.ANY, pa.ANY, pa.ANY), timeout=0, default=None)) is not None:
            tally.take(message)
    tally.take_all(others, count)
    pa.send(starter, "in order")


def mail_taken() -> bool:
    """This thread has looked at its rings."""
    pa.sleep(0.001)
    return True


@contextlib.contextmanager
def in_threads(bodies: list[Callable[[], object]]) -> Iterator[None]:
    """Run each in a thread, and wait for them; what one raises is raised at the end."""
    errors: list[BaseException] = []

    def run(body: Callable[[], object]) -> None:
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        # In the library: one of them may wait for room in this thread's own ring.
        eventually(lambda: mail_taken() and not any(t.is_alive() for t in threads), "the threads have ended", LONG)
    if errors:
        raise errors[0]


@contract("S2.1", "S2.4", "S2.5", partly=True)
@pytest.mark.parametrize(
    ("processes", "threads", "count"),
    [(2, 2, 250), pytest.param(4, 4, 2000, marks=pytest.mark.stress)],
)
def test_everybody_floods_everybody(actor_system: pa.ActorSystem, processes: int, threads: int, count: int) -> None:
    # Two workers, threads and oneself, all at once. Not the 10 MB: those that nobody reads would lie in the mailboxes.
    others, largest = 2 * processes + threads, 300_000
    pids = [
        pa.options(worker=index % 2).spawn(party, others, count, largest, pa.self_()) for index in range(2 * processes)
    ]
    main = pa.self_()
    bodies: list[Callable[[], object]] = []
    for _ in range(threads):

        def body() -> None:
            pa.send(main, ("thread", pa.self_()))
            party(others, count, largest, main)

        bodies.append(body)
    with in_threads(bodies):
        pids += [pa.receive(("thread", pa.ANY), timeout=WAIT)[1] for _ in range(threads)]
        for pid in pids:
            pa.send(pid, pids)
        for _ in pids:
            assert pa.receive(str, timeout=2 * LONG) == "in order"


def stream(to: pa.Pid, count: int) -> None:
    for number in range(count):
        pa.send(to, numbered(number))


def tally_of(senders: int, count: int, starter: pa.Pid) -> None:
    Tally().take_all(senders, count)
    pa.send(starter, "in order")


@contract("S2.1", "S2.4", partly=True)
@pytest.mark.parametrize("where", [0, GUEST])
def test_everybody_floods_one(node: pa.ActorSystem, where: int) -> None:
    count = 250
    main = pa.self_()
    to = main if where == GUEST else pa.options(worker=where).spawn(tally_of, 6, count, main)
    for index in range(4):
        pa.options(worker=index % 2).spawn(stream, to, count)
    with in_threads([lambda: stream(to, count)] * 2):
        if where == GUEST:
            Tally().take_all(6, count)
        else:
            assert pa.receive(str, timeout=2 * LONG) == "in order"
    assert mail() == []


@contract("S2.1", partly=True)
def test_a_flood_to_oneself_starves_nobody(node: pa.ActorSystem) -> None:
    def flood_self(starter: pa.Pid) -> None:
        me, alias = pa.self_(), pa.alias()
        sent = 0
        # Until neighbours of the same worker have talked ten times meanwhile.
        while pa.receive("ten answers", timeout=0, default=None) is None:
            for number in range(sent, sent + MANY // 10):
                pa.send(me if number % 2 else alias, number)
            sent += MANY // 10
        for number in range(sent):
            assert number == pa.receive(int, timeout=0)
        pa.send(starter, "in order")

    def ask(neighbour: pa.Pid, flooder: pa.Pid) -> None:
        for number in range(10):
            pa.send(neighbour, (pa.self_(), number))
            assert pa.receive(int, timeout=WAIT) == number
        pa.send(flooder, "ten answers")

    flooder = pa.options(worker=0).spawn(flood_self, pa.self_())
    pa.options(worker=0).spawn(ask, pa.options(worker=0).spawn(echo), flooder)
    assert pa.receive("in order", timeout=2 * WAIT) == "in order"


# --- suspended senders ------------------------------------------------------------------------------------------------


def count_flood(to: pa.Pid, size: int, count: int) -> None:
    """Send `count` messages; how many it has sent shows in its dictionary."""
    mine = pa.process_dict()
    payload = bytes(size)
    for number in range(count):
        mine["sent"] = number
        pa.send(to, (pa.self_(), number, payload))
    mine["sent"] = count
    pa.receive("leave")


async def async_flood(to: pa.Pid, size: int, count: int) -> None:
    count_flood(to, size, count)


def callback_flood(to: pa.Pid, size: int, count: int) -> Loop:
    def go(_: object) -> None:
        count_flood(to, size, count)

    pa.send(pa.self_(), "go")
    return Loop(go)


def shielded_flood(to: pa.Pid, size: int, count: int) -> None:
    with pa.no_preempt():
        count_flood(to, size, count)


def computing_flood(to: pa.Pid, size: int, count: int) -> None:
    """Cut again and again between two messages, and while one is pickled."""
    payload = bytes(size)
    for number in range(count):
        sum(range(300))
        pa.process_dict()["sent"] = number
        pa.send(to, (pa.self_(), number, Slow(payload)))
    pa.process_dict()["sent"] = count
    pa.receive("leave")


class Slow:
    """Takes its time to be pickled, in Python code."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def __reduce__(self) -> tuple[Any, ...]:
        sum(range(300))
        return bytes, (self.payload,)


def read_all(senders: int, count: int, starter: pa.Pid) -> None:
    expected: dict[pa.Pid, int] = {}
    for _ in range(senders * count):
        sender, number, _ = pa.receive((pa.ANY, int, bytes))
        assert number == expected.get(sender, 0)
        expected[sender] = number + 1
    pa.send(starter, "in order")


def sent_by(pid: pa.Pid) -> int:
    found: int = pa.process_info(pid, "dictionary").get("sent", 0)
    return found


def suspended(pid: pa.Pid) -> bool:
    return bool(pa.process_info(pid, "status") == "waiting")


@contract("S2.5", partly=True)
@pytest.mark.parametrize(
    "flooder", [count_flood, async_flood, callback_flood, shielded_flood, computing_flood], ids=lambda f: f.__name__
)
def test_whoever_floods_is_suspended_and_goes_on(node: pa.ActorSystem, tmp_path: Path, flooder: Any) -> None:
    # computing_flood among hogs: it has the processor only now and then, and is cut inside its messages.
    count = 8_000
    neighbour = pa.options(worker=0).spawn(echo)
    with Hog(1, tmp_path):
        receiver = pa.options(worker=1).spawn(read_all, 2, count, pa.self_())
        flooders = [pa.options(worker=0).spawn(flooder, receiver, 2_000, count) for _ in range(2)]
        for number, pid in enumerate(flooders):
            eventually(lambda pid=pid: suspended(pid), "the sender is suspended")  # type: ignore[misc]
            pa.send(neighbour, (pa.self_(), number))
            assert pa.receive(int, timeout=WAIT) == number
        sent = [sent_by(pid) for pid in flooders]
        assert 1_000 < sum(sent) < BYTES / 2_000
    assert pa.receive(str, timeout=LONG) == "in order"
    for pid in flooders:
        eventually(lambda pid=pid: suspended(pid) and sent_by(pid) == count, "it has gone on")  # type: ignore[misc]
        pa.send(pid, "leave")


@contract("S2.5", partly=True)
@pytest.mark.parametrize("size", [0, 1_000, 100_000, 10_000_000])
def test_what_waits_for_a_worker_that_does_not_read_is_bounded(
    actor_system: pa.ActorSystem, tmp_path: Path, size: int
) -> None:
    worker = psutil.Process(actor_system.worker_pids[0])
    senders = 4
    with Hog(1, tmp_path):
        receiver = pa.options(worker=1).spawn(park)
        puppet(0).do(abs, 1)
        before = worker.memory_info().rss
        pids = [pa.options(worker=0).spawn(count_flood, receiver, size, MANY) for _ in range(senders)]
        for pid in pids:
            eventually(lambda pid=pid: suspended(pid), "the sender is suspended")  # type: ignore[misc]
        sent = sum(sent_by(pid) for pid in pids)
        # Each may have had one more on the way when it was suspended.
        assert sent <= COUNT + senders
        assert (sent - senders) * size <= BYTES
        # The messages themselves, their encoded bytes, the overflow: three times; and the processes' own needs.
        assert worker.memory_info().rss - before < 3 * (BYTES + senders * size) + 64 * MB
        for pid in [*pids, receiver]:
            pa.exit(pid, "kill")


@contract("S2.5", partly=True)
def test_all_suspended_senders_have_their_turn(node: pa.ActorSystem, tmp_path: Path) -> None:
    count = 200
    with Hog(1, tmp_path):
        receiver = pa.options(worker=1).spawn(read_all, 10, count, pa.self_())
        pids = [pa.options(worker=0).spawn(count_flood, receiver, 100_000, count) for _ in range(10)]
        for pid in pids:
            eventually(lambda pid=pid: suspended(pid), "the sender is suspended")  # type: ignore[misc]
    assert pa.receive(str, timeout=LONG) == "in order"


@contract("S2.5", "S2.2", partly=True)
def test_a_killed_sender_takes_nobody_with_it(node: pa.ActorSystem, tmp_path: Path) -> None:
    # Killed while it is suspended, in the middle of a body of 10 MB. What it had sent comes whole, as far as it goes.
    with Hog(1, tmp_path):
        receiver = puppet(1)
        pids = [pa.options(worker=0).spawn(count_flood, receiver.pid, 10_000_000, 5) for _ in range(4)]
        for pid in pids:
            eventually(lambda pid=pid: suspended(pid), "the sender is suspended")  # type: ignore[misc]
        for pid in pids[:2]:
            ref = pa.monitor(pid)
            pa.exit(pid, "kill")
            assert Puppet.reason_of(ref) == "killed"
        assert [sent_by(pid) for pid in pids[2:]] == [0, 0]
    numbers = receiver.do(numbers_of, pids, 2 + 10)
    assert numbers == [[0], [0], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]


def numbers_of(pids: list[pa.Pid], count: int) -> list[list[int]]:
    found: dict[pa.Pid, list[int]] = {pid: [] for pid in pids}
    for _ in range(count):
        sender, number, payload = get(LONG)
        assert len(payload) == 10_000_000
        found[sender].append(number)
    assert mail() == []
    return [found[pid] for pid in pids]


@contract("S2.5", partly=True)
def test_a_killed_receiver_lets_its_flooders_go_on(node: pa.ActorSystem) -> None:
    receiver = pa.options(worker=1).spawn(park)
    pids = [pa.options(worker=0).spawn(count_flood, receiver, 500, MANY) for _ in range(3)]
    eventually(lambda: min(sent_by(pid) for pid in pids) > 100, "it is under way")
    pa.exit(receiver, "kill")
    for pid in pids:
        eventually(lambda pid=pid: sent_by(pid) == MANY, "its mail goes nowhere", LONG)  # type: ignore[misc]


@contract("S2.5", "S2.4", "S9.2", partly=True)
def test_who_is_suspended_goes_on_when_the_worker_it_waits_for_dies(
    actor_system: pa.ActorSystem, tmp_path: Path
) -> None:
    former = actor_system.worker_pids[1]
    receiver = pa.options(worker=1).spawn(park)
    watch = pa.monitor(receiver)
    os.kill(former, signal.SIGSTOP)
    pids = [pa.options(worker=0).spawn(count_flood, receiver, size, 3_000) for size in (3_000, 100_000)]
    for pid in pids:
        eventually(lambda pid=pid: suspended(pid), "the sender is suspended")  # type: ignore[misc]
    blocked: list[str] = []

    def thread() -> None:
        pa.send(receiver, bytes(10_000_000))
        blocked.append("the thread has gone on")

    with in_threads([thread]):
        os.kill(former, signal.SIGKILL)
        assert Puppet.reason_of(watch) == pa.WorkerDown(1, signal.SIGKILL)
        for pid in pids:
            eventually(lambda pid=pid: sent_by(pid) == 3_000, "it sends to the dead")  # type: ignore[misc]
    assert blocked
    # The next incarnation gets nothing of it, and is reached.
    eventually(lambda: actor_system.worker_pids[1] not in (0, former), "the worker is replaced")
    fresh = puppet(1)
    assert fresh.do(mail) == []


# --- signals in a flood -----------------------------------------------------------------------------------------------


def flood_for_ever(to: pa.Pid) -> None:
    number = 0
    while True:
        pa.send(to, numbered(number, 300_000))
        number += 1


def swallow() -> None:
    while True:
        pa.receive()


@contextlib.contextmanager
def flooded() -> Iterator[None]:
    """Both workers flood each other, until the end of the block."""
    sinks = [pa.options(worker=worker).spawn(swallow) for worker in (0, 1)]
    floods = [pa.options(worker=worker).spawn(flood_for_ever, sinks[1 - worker]) for worker in (0, 1) for _ in range(2)]
    try:
        yield
    finally:
        for pid in floods + sinks:
            pa.exit(pid, "kill")


@contract("S2.2", "S4.1", "S4.3", "S1.4", "S4.5", partly=True)
def test_no_signal_is_lost_in_a_flood(node: pa.ActorSystem) -> None:
    with flooded():
        for one, other in ((puppet(0), 1), (puppet(1), 0)):
            one.do(pa.trap_exit)
            for round in range(4):
                got = one.do(signals, other, 40, f"{other} {round}")
                assert got == {"links": 40, "unlinked": 0, "downs": 40, "spawned": 40, "over": 40, "mail first": 40}
            assert one.do(mail) == []
            one.do(pa.trap_exit, False)
    assert pa.registered() == []


def signals(worker: int, count: int, name: str) -> dict[str, int]:
    """Everything that one process can tell another, `count` times; what came of it."""
    far = pa.options(worker=worker)
    made = [pa.options(worker=worker, name=f"{name} {i}").spawn_monitor(obey) for i in range(count)]
    refs = {ref for _, ref in made}
    pids = [pid for pid, _ in made]
    more = {pa.monitor(pid) for pid in pids}
    dropped = [pa.monitor(pid) for pid in pids]
    linked = [far.spawn_link(park) for _ in range(count)]
    unlinked = [far.spawn_link(park) for _ in range(count)]
    for pid in pids:
        pa.link(pid)
    for ref in dropped:
        assert pa.demonitor(ref)
    for pid in unlinked:
        pa.unlink(pid)
        pa.exit(pid, "over")
    for number, pid in enumerate(pids):
        pa.send(pid, ("do", pa.self_(), number, abs, (-number,), {}))
        # Behind the order in the same ring: it has answered before it ends.
        pa.send(pid, ("do", pa.self_(), number, leave, ("over",), {}))
    for pid in linked:
        pa.exit(pid, "over")
    found: dict[str, int] = dict.fromkeys(("links", "unlinked", "downs", "spawned", "over", "mail first"), 0)
    answered = set()
    while found["downs"] + found["spawned"] < 2 * count or found["links"] + found["over"] < 2 * count:
        message = pa.receive(pa.Down, pa.Exit, ("done", pa.ANY, True, pa.ANY), timeout=LONG)
        if isinstance(message, pa.Down):
            kind = "downs" if message.ref in more else "spawned" if message.ref in refs else "unlinked"
            assert message.reason == "over"
            assert pa.whereis(f"{name} {pids.index(message.pid)}") is None
            found[kind] += 1
        elif isinstance(message, pa.Exit):
            assert message.reason == "over"
            found["over" if message.pid in linked else "links" if message.pid in pids else "unlinked"] += 1
            if message.pid in pids:
                found["mail first"] += pids.index(message.pid) in answered
        else:
            assert message[1] == message[3]
            answered.add(message[1])
    return found


@contract("S2.2", "S2.5", partly=True)
def test_signals_wait_behind_a_flood_and_are_all_there_in_the_end(node: pa.ActorSystem, tmp_path: Path) -> None:
    # Their worker reads nothing; the overflow to it is full when the signals are sent, and none suspends its sender.
    targets = [puppet(1) for _ in range(100)]
    one, two = puppet(0), puppet(0)
    two.do(pa.trap_exit)
    with Hog(1, tmp_path):
        flooder = pa.options(worker=0).spawn(count_flood, targets[0].pid, 100_000, 200)
        eventually(lambda: suspended(flooder), "the sender is suspended")
        refs = one.do(monitor_all, [target.pid for target in targets])
        two.do(link_all, [target.pid for target in targets])
        one.do(end_all, [target.pid for target in targets[1:]])
        assert one.do(mail) == two.do(mail) == []
    downs = one.do(take_downs, 99)
    assert {down.ref for down in downs} == set(refs[1:])
    assert {down.reason for down in downs} == {"over"}
    exits = two.do(take_downs, 99)
    assert {exit.pid for exit in exits} == {target.pid for target in targets[1:]}
    assert {exit.reason for exit in exits} == {"over"}
    assert targets[0].do(mail_count) == 200
    assert one.do(mail) == two.do(mail) == []
    two.do(pa.trap_exit, False)
    pa.send(flooder, "leave")


def monitor_all(pids: list[pa.Pid]) -> list[pa.Ref]:
    return [pa.monitor(pid) for pid in pids]


def link_all(pids: list[pa.Pid]) -> None:
    for pid in pids:
        pa.link(pid)


def end_all(pids: list[pa.Pid]) -> None:
    for pid in pids:
        pa.exit(pid, "over")


def take_downs(count: int) -> list[Any]:
    return [pa.receive(pa.Down, pa.Exit, timeout=LONG) for _ in range(count)]


def mail_count() -> int:
    for number in range(200):
        assert pa.receive((pa.ANY, int, bytes), timeout=LONG)[1] == number
    return 200 + len(mail())


class Finalized:
    """A cycle whose end takes some ticks, whenever the garbage collector comes to it."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        for _ in range(100):
            sum(range(2_000))


@contract("S2.1", partly=True)
@pytest.mark.parametrize("timeout", [0, None], ids=["polls", "waits"])
def test_what_comes_while_a_record_is_read_stays_behind_it(node: pa.ActorSystem, timeout: float | None) -> None:
    # Taking in mail allocates, so the collector runs there, and with it finalizers, and ticks in them.
    count = 30_000
    reader = pa.options(worker=0).spawn(read_with_garbage, count, timeout, pa.self_())
    pa.options(worker=1).spawn(send_tuples, reader, count)
    assert pa.receive(str, timeout=LONG) == "in order"


def send_tuples(to: pa.Pid, count: int) -> None:
    for number in range(count):
        pa.send(to, (number, (number, number)))


def read_with_garbage(count: int, timeout: float | None, starter: pa.Pid) -> None:
    expected = 0
    while expected < count:
        message = pa.receive(tuple, timeout=timeout, default=None)
        if message is not None:
            if message != (expected, (expected, expected)):
                pa.send(starter, f"expected {expected}, got {message}")
                return
            expected += 1
            if expected % 200 == 0:
                Finalized()
    pa.send(starter, "in order")


# --- guests -----------------------------------------------------------------------------------------------------------


@contract("S2.5", "S1.13", partly=True)
def test_a_thread_that_floods_waits_and_the_others_do_not(actor_system: pa.ActorSystem) -> None:
    count = 3_000
    main = pa.self_()
    neighbour = pa.options(worker=0).spawn(echo)
    receiver = pa.options(worker=1).spawn(read_all, 2, count, main)
    assert pa.is_alive(receiver)
    stopped = psutil.Process(actor_system.worker_pids[1])
    sent = [0, 0]

    def flood(index: int) -> None:
        for number in range(count):
            pa.send(receiver, (pa.self_(), number, bytes(5_000)))
            sent[index] = number + 1

    stopped.suspend()
    eventually(lambda: stopped.status() == psutil.STATUS_STOPPED, "the worker does nothing")
    with in_threads([lambda: flood(0), lambda: flood(1)]):
        eventually(lambda: min(sent) > 0, "both have begun")
        for number in range(100):
            pa.send(neighbour, (main, number))
            assert pa.receive(int, timeout=WAIT) == number
        # No more than a ring takes: nobody flushes for a thread.
        assert max(sent) <= 65_536 / 5_000
        stopped.resume()
        assert pa.receive(str, timeout=LONG) == "in order"
    assert sent == [count, count]


@contract("S2.5", "S1.13", partly=True)
def test_a_flood_into_a_thread_that_does_something_else_waits_for_it(actor_system: pa.ActorSystem) -> None:
    count = 1_000
    neighbour = puppet(0)
    addresses: list[pa.Pid] = []
    go = threading.Event()
    tally = Tally()

    def busy() -> None:
        addresses.append(pa.self_())
        go.wait(LONG)  # outside the library
        tally.take_all(2, count)

    with in_threads([busy]):
        eventually(lambda: addresses, "the thread has a pid")
        pids = [pa.options(worker=worker).spawn(stream, addresses[0], count) for worker in (0, 1)]
        for pid in pids:
            eventually(lambda pid=pid: suspended(pid), "the sender is suspended")  # type: ignore[misc]
        assert neighbour.do(pa.worker_index) == 0
        go.set()
    assert list(tally.next.values()) == [count, count]


@contract("S2.5", "S1.13", partly=True)
def test_two_threads_flood_each_other(actor_system: pa.ActorSystem) -> None:
    main = pa.self_()

    def body() -> None:
        pa.send(main, ("thread", pa.self_()))
        party(3, 400, 300_000, main)

    with in_threads([body] * 3):
        pids = [pa.receive(("thread", pa.ANY), timeout=WAIT)[1] for _ in range(3)]
        for pid in pids:
            pa.send(pid, pids)
        for _ in pids:
            assert pa.receive(str, timeout=LONG) == "in order"


@contract("S9.5", "S2.5", partly=True)
@pytest.mark.parametrize("how", ["stop", "the root dies"])
def test_the_end_of_a_system_frees_who_waits_for_room(no_leaks: None, how: str) -> None:
    ends: list[str] = []
    started = threading.Event()

    def flood(receiver: pa.Pid) -> None:
        me = pa.self_()
        started.set()
        try:
            while pa.self_() == me:  # another system that runs in this program may take it in
                pa.send(receiver, bytes(100_000))
            ends.append("of another system")
        except pa.NotRunning:
            ends.append("of none")

    with pa.ActorSystem(workers=2) as system:
        receiver = pa.options(worker=1).spawn(park)
        for worker in (0, 1):
            pa.options(worker=worker).spawn(flood_for_ever, puppet(1 - worker).pid)
        stopped = psutil.Process(system.worker_pids[1])
        stopped.suspend()
        thread = threading.Thread(target=flood, args=(receiver,), daemon=True)
        thread.start()
        assert started.wait(WAIT)
        if how == "stop":
            stopped.resume()
        else:
            os.kill(system.root_pid, signal.SIGKILL)
            thread.join(WAIT)
            assert len(ends) == 1
            with contextlib.suppress(psutil.NoSuchProcess):
                stopped.resume()  # so far it could not see that its root is dead
            eventually(lambda: not stopped.is_running(), "the worker has ended")
    thread.join(WAIT)
    assert len(ends) == 1
