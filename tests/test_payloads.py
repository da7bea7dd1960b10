"""Large buffers between processes (S9.9), on one worker and across, and what comes back when who dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from parallel_actors.workers.segment import Segment
from puppets import PLACES, WAIT, Hog, Puppet, echo, get, mail, park, place, puppet, take

np: Any = pytest.importorskip("numpy")

contract = pytest.mark.contract

MB = 1 << 20
SIZE = 100_000


def segment_of(system: pa.ActorSystem) -> Segment:
    assert system._node is not None
    return system._node.segment


def blocks(system: pa.ActorSystem) -> int:
    """How many blocks are in use. What this thread has under way is let go of when it is next in the library."""
    pa.receive(pa.make_ref(), timeout=0, default=None)
    return segment_of(system).arena_used()[0]


def all_back(system: pa.ActorSystem) -> None:
    eventually(lambda: blocks(system) == 0, "every block is free")


def numbered(number: int) -> Any:
    return np.full(SIZE, number % 251, np.uint8)


def holds(array: Any, number: int) -> bool:
    return bool((array == number % 251).all()) and len(array) == SIZE


def describe(message: Any) -> tuple[str, bool, bytes]:
    """Type, whether it can be written to, content."""
    kind = type(message).__name__
    if isinstance(message, np.ndarray):
        return kind, message.flags.writeable, message.tobytes()
    return kind, not memoryview(message).readonly, bytes(message)


def look() -> tuple[str, bool, bytes]:
    return describe(get())


def keep(count: int) -> None:
    """Take messages and keep them."""
    kept: list[Any] = pa.process_dict().setdefault("kept", [])
    kept += take(count)


def kept_right(numbers: list[int]) -> list[bool]:
    return [holds(array, number) for array, number in zip(pa.process_dict()["kept"], numbers, strict=True)]


def drop() -> None:
    pa.process_dict().clear()


def send_numbered(to: pa.Pid, numbers: list[int]) -> None:
    for number in numbers:
        pa.send(to, numbered(number))


@contract("S9.9", "S1.3")
@pytest.mark.parametrize(("sender", "receiver"), PLACES)
def test_buffers_arrive_the_same_here_and_across(node: pa.ActorSystem, sender: int, receiver: int) -> None:
    one, other = place(sender), place(receiver)
    cases: list[tuple[Callable[[], Any], tuple[str, bool]]] = [
        (lambda: np.arange(SIZE), ("ndarray", False)),
        (lambda: np.arange(10), ("ndarray", True)),
        (lambda: memoryview(bytearray(SIZE)), ("memoryview", False)),
        (lambda: memoryview(bytearray(10)), ("memoryview", False)),
        (lambda: bytes(SIZE), ("bytes", False)),
        (lambda: bytearray(SIZE), ("bytearray", True)),
        (lambda: pa.share(bytes(SIZE)), ("Shared", False)),
    ]
    for make, expected in cases:
        there_and_back(one, other, make(), expected)
    one.do(abs, 1)  # its last orders had the messages
    other.do(abs, 1)
    all_back(node)


def there_and_back(one: Puppet, other: Puppet, message: Any, expected: tuple[str, bool]) -> None:
    one.do(pa.send, other.pid, message)
    assert (*expected, bytes(message)) == other.do(look)
    one.do(pa.send, other.pid, message, copy=True)
    kind, writable, content = other.do(look)
    assert (expected[0], bytes(message)) == (kind, content)
    assert writable == (kind not in ("bytes", "Shared"))


@contract("S9.9", "S1.2")
@pytest.mark.parametrize("worker", [0, 1])
def test_a_source_that_changes_between_sends(node: pa.ActorSystem, worker: int) -> None:
    to = puppet(worker)
    source = np.zeros(SIZE, np.uint8)
    for number in range(20):
        source[:] = number
        pa.send(to.pid, source)
    source[:] = 99
    to.do(keep, 20)
    assert all(to.do(kept_right, list(range(20))))
    to.do(drop)
    all_back(node)


@contract("S9.9", "S2.1", partly=True)
def test_large_and_small_and_middling_keep_their_order(node: pa.ActorSystem) -> None:
    to = puppet(1)
    sizes = [10, 40_000, 1_000, 20_000, 2 * MB, 31_000, 33_000, 5]
    for number in range(400):
        size = sizes[number * 7 % len(sizes)]
        data = bytes([number % 251]) * size
        pa.send(to.pid, (number, (data, memoryview(data), np.frombuffer(data, np.uint8))[number % 3]))
    assert to.do(in_order, 400, sizes)
    all_back(node)


def in_order(count: int, sizes: list[int]) -> bool:
    for number in range(count):
        n, data = get()
        assert n == number
        assert bytes(data) == bytes([number % 251]) * sizes[number * 7 % len(sizes)], number
    return True


@contract("S9.9", partly=True)
def test_views_kept_for_long_never_change(node: pa.ActorSystem) -> None:
    # In states of several processes, whole and in slices, while blocks of all sizes come and go.
    keepers = [puppet(n % 2) for n in range(6)]
    numbers: dict[int, list[int]] = {n: [] for n in range(6)}
    for number in range(120):
        keeper = number % 6
        pa.send(keepers[keeper].pid, numbered(number))
        numbers[keeper].append(number)
        if number % 10 == 9:
            for n in range(6):
                keepers[n].do(keep, len(numbers[n]) - keepers[n].do(kept_count))
                assert all(keepers[n].do(kept_right, numbers[n]))
            victim = number // 10 % 6
            keepers[victim].do(drop)
            numbers[victim].clear()
    for n in range(6):
        keepers[n].do(drop)
    all_back(node)


def kept_count() -> int:
    return len(pa.process_dict().get("kept", []))


@contract("S9.9", partly=True)
def test_arguments_calls_and_replies_carry_views(node: pa.ActorSystem) -> None:
    for worker in (0, 1):
        pid = pa.options(worker=worker).spawn(answer_with, pa.self_(), np.arange(SIZE))
        assert (pid, ("ndarray", False, np.arange(SIZE).tobytes())) == pa.receive((pid, pa.ANY), timeout=WAIT)
        server: Summing = pa.options(worker=worker).start(Summing, np.ones(SIZE))
        doubled = server.add(np.ones(SIZE))
        assert 2 * SIZE == doubled.sum()
        assert not doubled.flags.writeable
        pa.exit(server, "kill")
        del doubled
    all_back(node)


def answer_with(to: pa.Pid, array: Any) -> None:
    pa.send(to, (pa.self_(), describe(array)))


class Summing(pa.Actor):
    def __init__(self, start: Any) -> None:
        self.total = start.copy()

    @pa.call
    def add(self, array: Any) -> Any:
        self.total += array
        return self.total


@contract("S9.9", partly=True)
def test_what_is_unread_when_its_receiver_ends_comes_back(node: pa.ActorSystem) -> None:
    for worker in (0, 1):
        receivers = [pa.options(worker=worker).spawn(park) for _ in range(3)]
        for receiver in receivers:
            send_numbered(receiver, [1, 2, 3])
        eventually(lambda: blocks(node) == 9, "they lie in the mailboxes")
        for receiver in receivers:
            pa.exit(receiver, "kill")
        all_back(node)
        send_numbered(receivers[0], [1, 2, 3])  # to a dead one
        all_back(node)
        owner = puppet(worker)
        alias = owner.do(pa.alias)
        owner.do(pa.unalias, alias)
        pa.send(alias, numbered(1))
        owner.do(abs, 1)
        all_back(node)


class Poison:
    """Can't be unpickled."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __setstate__(self, state: Any) -> None:
        raise ValueError("poison")


@contract("S9.9", "S2.7", partly=True)
def test_a_dead_letter_comes_back(node: pa.ActorSystem, logged: None) -> None:
    to = puppet(1)
    pa.send(to.pid, Poison(numbered(1)))
    pa.send(to.pid, "behind it")
    assert ["behind it"] == [to.do(get)]
    assert "poison" in pa.receive(("logged", "parallel_actors.dead_letters", pa.ANY), timeout=WAIT)[2]
    all_back(node)


@contract("S9.9", partly=True)
def test_mail_that_waits_for_a_birth_or_a_timer(node: pa.ActorSystem, tmp_path: Path) -> None:
    to = puppet(1)
    pa.send_after(0.01, to.pid, numbered(5))
    to.do(keep, 1)
    with Hog(0, tmp_path):
        # Born on worker 1 by worker 0's word, which sits: ours overtakes it.
        spawner = puppet(0)
        spawner.tell(spawn_for, to.pid, pa.self_())
    child = pa.receive(pa.Pid, timeout=WAIT)
    pa.send(child, ("keep", numbered(6)))
    assert all(to.do(kept_right, [5]))
    to.do(drop)
    assert pa.receive(("got", pa.ANY), timeout=WAIT)[1] == 6
    all_back(node)


def spawn_for(near: pa.Pid, teller: pa.Pid) -> None:
    pa.send(teller, pa.options(worker=1).spawn(tell_first, teller))


def tell_first(teller: pa.Pid) -> None:
    pa.send(teller, ("got", int(pa.receive(("keep", pa.ANY), timeout=WAIT)[1][0])))


@contract("S9.9", partly=True)
def test_a_shared_buffer_goes_to_many_and_comes_back_at_the_end(node: pa.ActorSystem) -> None:
    handle = pa.share(np.arange(SIZE))
    keepers = [puppet(n % 2) for n in range(6)]
    for keeper in keepers:
        for _ in range(50):
            pa.send(keeper.pid, handle)
        keeper.do(keep, 50)
    assert 1 == blocks(node)
    assert [int(np.arange(SIZE).sum())] * 6 == [keeper.do(sum_of_kept) for keeper in keepers]
    del handle
    for keeper in keepers:
        assert 1 == blocks(node)
        keeper.do(drop)
    all_back(node)


def sum_of_kept() -> int:
    return int(pa.process_dict()["kept"][-1].array().sum())


@contract("S9.9", partly=True)
def test_other_threads_and_the_end_of_their_guests(node: pa.ActorSystem) -> None:
    to = puppet(0)
    kept: list[Any] = []

    def body() -> None:
        for number in range(20):
            pa.send(to.pid, numbered(number))
        pa.send(echoer, (pa.self_(), numbered(7)))
        kept.append(pa.receive(timeout=WAIT))

    echoer = pa.options(worker=1).spawn(echo)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    # The thread's place is free; what it had under way and what it received is the OS process's.
    to.do(keep, 20)
    assert all(to.do(kept_right, list(range(20))))
    to.do(drop)
    send_numbered(to.pid, list(range(20)))
    assert holds(kept.pop(), 7)
    to.do(keep, 20)
    to.do(drop)
    pa.exit(echoer, "kill")
    all_back(node)


@contract("S9.9", "S9.2", partly=True)
def test_the_blocks_of_killed_workers_come_back(actor_system: pa.ActorSystem) -> None:
    for victim in (0, 1, 0, 1):
        keeper, other = puppet(victim), puppet(1 - victim)
        keeper.tell(send_numbered, other.pid, [1, 2, 3])
        other.tell(send_numbered, keeper.pid, [4, 5])
        other.do(keep, 3)
        keeper.do(keep, 2)
        send_numbered(keeper.pid, [6, 7])  # unread
        mine = [numbered(8)]
        pa.send(keeper.pid, mine)
        ref = pa.monitor(keeper.pid)
        former = actor_system.worker_pids[victim]
        os.kill(former, signal.SIGKILL)
        assert isinstance(Puppet.reason_of(ref), pa.WorkerDown)
        # What the survivor has of the dead one's blocks is right, whatever its successor does with the others.
        eventually(lambda: actor_system.worker_pids[victim] != former, "it is replaced")  # noqa: B023
        fresh = puppet(victim)
        fresh.do(send_numbered, other.pid, [9] * 5)
        assert all(other.do(kept_right, [1, 2, 3]))
        other.do(drop)
        other.do(mail_count)
        fresh.do(drop)
        all_back(actor_system)


def mail_count() -> int:
    return len(mail())


@contract("S9.9", "S9.2", "S2.4", partly=True)
def test_workers_killed_in_the_middle_of_a_stream_leak_and_spoil_nothing(actor_system: pa.ActorSystem) -> None:
    for round_ in range(6):
        victim = round_ % 2
        taker, giver = puppet(1 - victim), puppet(victim)
        ref = giver.watch()
        giver.tell(stream_numbered, taker.pid)
        taker.do(check_stream, 10 + 20 * round_)
        os.kill(actor_system.worker_pids[victim], signal.SIGKILL)
        assert isinstance(Puppet.reason_of(ref), pa.WorkerDown)
        taker.do(check_rest)
        all_back(actor_system)


def stream_numbered(to: pa.Pid) -> None:
    number = 0
    while True:
        pa.send(to, (number, numbered(number)))
        number += 1


def check_stream(count: int) -> None:
    for number in range(count):
        n, array = get()
        assert n == number
        assert holds(array, number)
    pa.process_dict()["next"] = count


def check_rest() -> None:
    """What had been sent before the death, without a gap, each as it was sent."""
    for n, array in mail():
        assert n == pa.process_dict()["next"]
        assert holds(array, n)
        pa.process_dict()["next"] += 1


@contract("S9.9", partly=True)
def test_a_full_arena_falls_back_and_stays_right(no_leaks: None) -> None:
    with pa.ActorSystem(workers=2, arena_bytes=MB) as system:
        to = puppet(1)
        send_numbered(to.pid, list(range(40)))
        pa.send(to.pid, np.full(3 * MB, 7, np.uint8))
        to.do(keep, 40)
        assert all(to.do(kept_right, list(range(40))))
        assert ("ndarray", False, b"\7" * 3 * MB) == to.do(look)
        assert ("ndarray", False, b"\7" * 3 * MB) == describe(to.do(np.full, 3 * MB, 7, np.uint8))
        to.do(drop)
        all_back(system)
    with pa.ActorSystem(workers=1, arena_bytes=0) as system:
        to = puppet(0)
        pa.send(to.pid, numbered(3))
        assert ("ndarray", False, numbered(3).tobytes()) == to.do(look)
        assert numbered(4).tobytes() == bytes(pa.share(numbered(4)))
        assert (0, 0) == segment_of(system).arena_used()


@contract("S9.9", "S9.5", partly=True)
def test_what_a_program_keeps_outlives_its_system(no_leaks: None) -> None:
    with pa.ActorSystem(workers=1):
        to = pa.options(worker=0).spawn(echo)
        pa.send(to, (pa.self_(), numbered(9)))
        mine = pa.receive(timeout=WAIT)
        handle = pa.share(numbered(8))
    assert holds(mine, 9)
    del mine
    assert holds(handle.array(), 8)
