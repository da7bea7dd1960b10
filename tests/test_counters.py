"""`counters` and `atomics`: arrays in shared memory, from all workers at once, and what becomes of their memory."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import parallel_actors as pa
from leaks import eventually
from parallel_actors import atomics, counters
from puppets import PLACES, WAIT, Hog, get, park, place, puppet

contract = pytest.mark.contract

# What type checkers refuse, too.
loose_atomics: Any = atomics
loose_counters: Any = counters

LOW, HIGH = -(2**63), 2**63 - 1


def blocks(system: pa.ActorSystem) -> int:
    """How many blocks of shared memory are in use."""
    assert system._node is not None
    pa.receive(pa.make_ref(), timeout=0, default=None)
    return system._node.segment.arena_used()[0]


def all_back(system: pa.ActorSystem) -> None:
    eventually(lambda: blocks(system) == 0, "every block is free")


def signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def unsigned(value: int) -> int:
    return value % 2**64


# --- one array, one process -------------------------------------------------------------------------------------------


words = st.integers(LOW, HIGH) | st.sampled_from([0, 1, -1, LOW, HIGH])
steps = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), words, words), max_size=30)


@pytest.fixture(scope="module")
def arrays(shared_node: pa.ActorSystem) -> dict[str, Any]:
    return {"signed": atomics.new(3), "unsigned": atomics.new(3, signed=False)}


@pytest.mark.parametrize("kind", ["signed", "unsigned"])
@given(script=steps)
@settings(max_examples=40, deadline=None)
def test_atomics_do_what_numbers_of_64_bits_do(arrays: dict[str, Any], kind: str, script: list[Any]) -> None:
    wrap = {"signed": signed, "unsigned": unsigned}[kind]
    array, model = arrays[kind], [0, 0, 0]
    for i in range(3):
        atomics.put(array, i, 0)
    for op, i, value, other in script:
        old = model[i]
        match op:
            case 0:
                atomics.put(array, i, wrap(value))
                model[i] = wrap(value)
            case 1:
                atomics.add(array, i, value)
                model[i] = wrap(old + value)
            case 2:
                atomics.sub(array, i, value)
                model[i] = wrap(old - value)
            case 3:
                model[i] = wrap(old + value)
                assert atomics.add_get(array, i, value) == model[i]
            case 4:
                model[i] = wrap(old - value)
                assert atomics.sub_get(array, i, value) == model[i]
            case 5:
                assert atomics.exchange(array, i, wrap(value)) == old
                model[i] = wrap(value)
            case _:
                assert atomics.compare_exchange(array, i, wrap(other), wrap(value)) == (
                    None if old == wrap(other) else old
                )
                assert atomics.compare_exchange(array, i, atomics.get(array, i), wrap(value)) is None
                model[i] = wrap(value)
        assert [atomics.get(array, each) for each in range(3)] == model


@pytest.mark.parametrize("many", [False, True])
def test_counters_count_and_wrap_around(node: pa.ActorSystem, many: bool) -> None:
    array = counters.new(40, write_concurrency=many)
    counters.add(array, 39)
    counters.add(array, 39, 5)
    counters.sub(array, 39, 2)
    assert [counters.get(array, i) for i in (0, 38, 39)] == [0, 0, 4]
    counters.put(array, 0, HIGH)
    counters.add(array, 0, 1)
    assert counters.get(array, 0) == LOW
    counters.sub(array, 0)
    assert counters.get(array, 0) == HIGH
    counters.add(array, 0, 2**64 - 1)  # as -1
    assert counters.get(array, 0) == HIGH - 1
    other = puppet(1)
    other.do(counters.add, array, 39, 10)
    assert counters.get(array, 39) == 14
    counters.put(array, 39, 1)
    assert other.do(counters.get, array, 39) == 1


def test_info(node: pa.ActorSystem) -> None:
    assert atomics.info(atomics.new(7)) == {"size": 7, "min": LOW, "max": HIGH, "memory": 56}
    assert atomics.info(atomics.new(1, signed=False)) == {"size": 1, "min": 0, "max": 2**64 - 1, "memory": 8}
    assert counters.info(counters.new(7)) == {"size": 7, "memory": 56}
    assert counters.info(counters.new(7, write_concurrency=True))["memory"] > 56
    assert "atomics of 7, signed" in repr(atomics.new(7))
    assert "counters of 2, for many" in repr(counters.new(2, write_concurrency=True))


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        (lambda a, c: loose_atomics.new(0), ValueError, "a size of 1 to"),
        (lambda a, c: loose_counters.new(-1), ValueError, "a size of 1 to"),
        (lambda a, c: loose_counters.new("3"), TypeError, "a size of 1 or more, got '3'"),
        (lambda a, c: loose_atomics.new(True), TypeError, "a size of 1 or more, got True"),
        (lambda a, c: loose_atomics.get(a, 2), IndexError, "an index from 0 to 1, got 2"),
        (lambda a, c: loose_atomics.put(a, -1, 0), IndexError, "an index from 0 to 1, got -1"),
        (lambda a, c: loose_atomics.add(a, 10**30, 0), IndexError, "an index from 0 to 1"),
        (lambda a, c: loose_counters.add(c, "0"), TypeError, "an index from 0 to 1, got '0'"),
        (lambda a, c: loose_atomics.put(a, 0, 2**63), ValueError, "from -2**63 to 2**63 - 1, got 9223372036854775808"),
        (lambda a, c: loose_atomics.add(a, 0, 2**64), ValueError, "from -2**63 to 2**64 - 1"),
        (lambda a, c: loose_atomics.compare_exchange(a, 0, 0, -(2**63) - 1), ValueError, "from -2**63 to 2**63 - 1"),
        (
            lambda a, c: loose_atomics.exchange(loose_atomics.new(1, signed=False), 0, -1),
            ValueError,
            "from 0 to 2**64 - 1, got -1",
        ),
        (lambda a, c: loose_counters.put(c, 0, 1.0), TypeError, "a whole number from -2**63 to 2**63 - 1, got 1.0"),
        (lambda a, c: loose_atomics.put(c, 0, 1), TypeError, "AtomicsRef"),
        (lambda a, c: loose_counters.get([0], 0), TypeError, "CountersRef"),
        (lambda a, c: type(a)(), TypeError, "made by atomics.new"),
    ],
)
def test_bad_arguments(
    node: pa.ActorSystem, what: Callable[[Any, Any], object], error: type[Exception], text: str
) -> None:
    a, c = atomics.new(2), counters.new(2)
    with pytest.raises(error) as caught:
        what(a, c)
    assert text in str(caught.value)
    assert [atomics.get(a, 0), counters.get(c, 0)] == [0, 0]


def test_an_array_that_there_is_no_memory_for(node: pa.ActorSystem) -> None:
    with pytest.raises(pa.SegmentFull, match="no shared memory for an array of"):
        atomics.new(2**39)


# --- many processes ---------------------------------------------------------------------------------------------------


def add_often(array: Any, times: int) -> None:
    """In a loop of Python code, which is cut in the middle."""
    for _ in range(times):
        if isinstance(array, counters.CountersRef):
            counters.add(array, 0)
        else:
            atomics.add(array, 0)


@pytest.mark.parametrize("make", [counters.new, lambda n: counters.new(n, write_concurrency=True), atomics.new])
def test_none_of_many_adds_is_lost(node: pa.ActorSystem, make: Callable[[int], Any]) -> None:
    """From processes of two workers that are preempted, and from this thread, all at once."""
    array, times = make(1), 20_000
    watches = [pa.options(worker=i % 2).spawn_monitor(add_often, array, times)[1] for i in range(4)]
    add_often(array, times)
    assert [pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason for ref in watches] == ["normal"] * 4
    assert value_of(array) == 5 * times


def value_of(array: Any) -> int:
    return counters.get(array, 0) if isinstance(array, counters.CountersRef) else atomics.get(array, 0)


def draw(array: Any, count: int, to: pa.Pid) -> None:
    """Take numbers: one by one, by compare_exchange."""
    taken: list[int] = []
    while len(taken) < count:
        seen = atomics.get(array, 0)
        while (found := atomics.compare_exchange(array, 0, seen, seen + 1)) is not None:
            seen = found
        taken.append(seen)
    pa.send(to, taken)


def test_compare_exchange_has_one_winner(node: pa.ActorSystem) -> None:
    array = atomics.new(1)
    for worker in (0, 1, 0, 1):
        pa.options(worker=worker).spawn(draw, array, 3000, pa.self_())
    taken = [number for _ in range(4) for number in pa.receive(timeout=WAIT)]
    assert sorted(taken) == list(range(12_000))
    assert atomics.get(array, 0) == 12_000


# --- a handle travels -------------------------------------------------------------------------------------------------


def keep_and_add(array: Any) -> None:
    pa.process_dict()["array"] = array
    atomics.add(array, 0, 1)


def kept() -> Any:
    return pa.process_dict()["array"]


def add_and_tell(what: dict[str, Any]) -> None:
    pa.send(what["to"], atomics.add_get(what["array"], 0, 1))


@pytest.mark.parametrize(("a", "b"), PLACES)
def test_a_handle_in_a_message_is_the_same_array(node: pa.ActorSystem, a: int, b: int) -> None:
    """In a tuple, in a dict, in the state of others, as an argument of a spawn, and back again."""
    first, second = place(a), place(b)
    array = first.do(atomics.new, 2)
    second.do(keep_and_add, array)
    assert first.do(atomics.get, array, 0) == 1
    assert atomics.add_get(second.do(kept), 0, 1) == 2
    assert second.do(kept) == array
    assert hash(second.do(kept)) == hash(array)
    assert second.do(kept) != atomics.new(2)
    pa.options(worker=1).spawn(add_and_tell, {"to": pa.self_(), "array": array})
    assert pa.receive(int, timeout=WAIT) == 3
    pa.process_dict().clear()


def test_a_handle_in_a_timer_a_reason_and_a_state_that_moves(actor_system: pa.ActorSystem) -> None:
    """Where nobody counts who has it, the array stays until the node stops."""
    array = atomics.new(1)
    pa.send_after(0.0, pa.self_(), ("timer", array))
    atomics.add(pa.receive(("timer", pa.ANY), timeout=WAIT)[1], 0, 1)
    _, watch = pa.options(worker=1).spawn_monitor(end_with, array)
    atomics.add(pa.receive(pa.Down(watch, pa.ANY, pa.ANY), timeout=WAIT).reason.term, 0, 1)
    agent = pa.options(worker=0).start(Keeper, array)
    pa.migrate(agent, 1)
    assert pa.process_info(agent, "worker") == 1
    assert pa.call(agent, "add") == 3
    assert atomics.get(array, 0) == 3
    assert pa.call(agent, "add") == 4
    pa.stop(agent)
    del array, watch
    assert blocks(actor_system) == 1


def end_with(array: Any) -> None:
    pa.exit(pa.self_(), pa.Shutdown(array))


class Keeper(pa.GenServer):
    def init(self, array: Any) -> Any:
        return pa.Ok(array)

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return pa.Reply(atomics.add_get(state, 0, 1), state)


def in_main(text: str) -> Any:
    """Functions and globals of a `__main__`."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(text, names)
    return names


def test_a_handle_may_be_a_global_of_main(node: pa.ActorSystem) -> None:
    names = in_main(
        "import parallel_actors as pa\n"
        "hits = pa.counters.new(1)\n"
        "def hit(to):\n"
        "    pa.counters.add(hits, 0)\n"
        "    pa.send(to, 'done')\n"
    )
    for worker in (0, 1):
        pa.options(worker=worker).spawn(names["hit"], pa.self_())
        assert pa.receive("done", timeout=WAIT) == "done"
    assert counters.get(names["hits"], 0) == 2


def test_work_with_a_handle_stays_where_its_memory_is_counted(actor_system: pa.ActorSystem) -> None:
    """A process that could be stolen before it begins isn't: nobody would count its arguments on the way."""
    parent = puppet(0)
    array = parent.do(atomics.new, 1)
    parent.do(spawn_some, array, 200)
    eventually(functools.partial(all_ran, array, 200), "all have run")
    parent.end("normal")
    del array
    all_back(actor_system)


def all_ran(array: Any, count: int) -> bool:
    return atomics.get(array, 0) == count


def spawn_some(array: Any, count: int) -> None:
    for _ in range(count):
        pa.spawn(atomics.add, array, 0, 1)


# --- memory -----------------------------------------------------------------------------------------------------------


def hold(array: Any, to: pa.Pid) -> None:
    pa.send(to, os.getpid())
    park()
    atomics.get(array, 0)


def make_and_park(to: pa.Pid) -> None:
    array = atomics.new(1)
    pa.send(to, array)
    park()
    atomics.get(array, 0)


def test_the_memory_comes_back_with_the_last_handle(actor_system: pa.ActorSystem) -> None:
    array = atomics.new(100_000)
    pid = pa.options(worker=0).spawn(hold, array, pa.self_())
    assert pa.receive(int, timeout=WAIT)
    del array
    assert blocks(actor_system) == 1
    pa.exit(pid, "kill")
    all_back(actor_system)
    # What comes back is used again, and begins at 0.
    for _ in range(300):
        assert atomics.add_get(atomics.new(100_000), 99_999, 1) == 1
    all_back(actor_system)


def test_unread_mail_holds_an_array(actor_system: pa.ActorSystem, tmp_path: Any) -> None:
    reader = puppet(1)
    with Hog(1, tmp_path):
        array = atomics.new(1)
        atomics.put(array, 0, 42)
        pa.send(reader.pid, ("array", array))
        del array
        assert blocks(actor_system) == 1
    found = reader.do(get)
    assert atomics.get(found[1], 0) == 42
    del found
    reader.end("normal")
    all_back(actor_system)


def test_a_killed_worker_holds_nothing_any_more(actor_system: pa.ActorSystem) -> None:
    """Neither what it was sent, nor what it has made; and what it has made stays for who has it."""
    array = atomics.new(1)
    _, watch = pa.options(worker=1).spawn_monitor(hold, array, pa.self_())
    os_pid = pa.receive(int, timeout=WAIT)
    pa.options(worker=1).spawn(make_and_park, pa.self_())
    others = pa.receive(atomics.AtomicsRef, timeout=WAIT)
    os.kill(os_pid, signal.SIGKILL)
    assert isinstance(pa.receive(pa.Down(watch, pa.ANY, pa.ANY), timeout=WAIT).reason, pa.WorkerDown)
    assert atomics.add_get(others, 0, 1) == 1
    later = puppet(1)
    assert later.do(atomics.add_get, others, 0, 1) == 2
    assert atomics.add_get(array, 0, 1) == 1
    later.end("normal")
    del array, others
    all_back(actor_system)
