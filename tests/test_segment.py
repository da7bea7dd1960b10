"""The shared segment: layout, slots, the store, life and death of the mapping, and the wake-up protocol as a model."""

from __future__ import annotations

import mmap
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from parallel_actors.workers.segment import Segment, SegmentFull, StoreFull

PAGE = 4096


# --- life ---


def test_the_header_says_what_was_asked_for(segment: Segment) -> None:
    assert (2, 5, 65536, 2) == (segment.workers, segment.endpoints, segment.ring_bytes, segment.root)
    assert segment.nonce != 0
    page = os.pread(segment.fd, PAGE, 0)
    assert b"PACTORS1" == page[:8]
    assert (2,) == struct.unpack_from("=I", page, 8)
    assert (segment.nonce, 2, 5, 65536) == struct.unpack_from("=IIII", page, 16)
    slots, rings, names, store, total, steals = struct.unpack_from("=6Q", page, 32)
    assert PAGE == slots
    assert PAGE + 2 * PAGE == rings  # five slots of 1024, to whole pages
    assert rings + 25 * (PAGE + 65536) == steals
    assert steals + 2 * 64 * 65536 == names  # 64 slots for each worker
    assert names + 262144 * 32 == store
    assert os.fstat(segment.fd).st_size == total


def test_an_unused_segment_costs_a_few_pages() -> None:
    segment = Segment.create(64)
    try:
        assert os.fstat(segment.fd).st_size > 600 << 20
        assert segment.allocated_bytes() <= (1 + 19) * PAGE
    finally:
        segment.close()


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"workers": 0}, "expected workers to be 1 to 1023, got: 0"),
        ({"workers": 1024}, "expected workers to be 1 to 1023, got: 1024"),
        ({"workers": 1, "guests": -1}, "expected guests to be 0 to 1022"),
        ({"workers": 1020, "guests": 4}, "expected guests to be 0 to 3 beside 1020 workers, got: 4"),
        ({"workers": 1, "ring_bytes": 5000}, "power of two from 4096"),
        ({"workers": 1, "ring_bytes": 2048}, "power of two from 4096"),
        ({"workers": 1, "store_bytes": 1}, "expected store_bytes"),
    ],
)
def test_bad_sizes_are_refused(arguments: dict[str, int], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Segment.create(**arguments)


def test_a_second_mapping_is_the_same_memory(segment: Segment) -> None:
    fds = [os.dup(fd) for fd in segment.fds()]
    other = Segment.attach(fds[0], fds[1:])
    try:
        assert fds == other.fds()
        assert (segment.nonce, 2, 5) == (other.nonce, other.workers, other.endpoints)
        segment.put_slot(1, 7, 2)
        other.phase = 1
        assert (7, 2) == other.slot(1)
        assert 1 == segment.phase
        assert b"hello" == other.store_get(segment.store_put(b"hello"))
    finally:
        other.close()


def test_a_slot_is_taken_once_and_only_while_it_is_offered(segment: Segment) -> None:
    segment.put_slot(0, 3, 2)
    segment.offer_slot(0)
    assert not segment.take_slot(0, 2, 4710)  # one of an earlier offer
    assert segment.take_slot(0, 3, 4711)
    assert not segment.take_slot(0, 3, 4712)
    assert 4711 == segment.os_pid(0)
    assert 4711 == segment.withdraw_slot(0)
    assert 0 == segment.withdraw_slot(0)
    assert not segment.take_slot(0, 3, 4713)
    segment.put_slot(0, 0, 2)
    segment.offer_slot(0)
    assert 0 == segment.withdraw_slot(0)
    assert not segment.take_slot(0, 0, 4714)


def test_another_os_process_attaches_by_inherited_descriptors(segment: Segment) -> None:
    script = """
import sys
from parallel_actors.workers.segment import Segment
fds = [int(fd) for fd in sys.argv[1:]]
segment = Segment.attach(fds[0], fds[1:])
segment.set_os_pid(0, 4711)
segment.wake_endpoint(3)
print(segment.nonce)
segment.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, segment.fds())],
        pass_fds=segment.fds(),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert segment.nonce == int(done.stdout)
    assert 4711 == segment.os_pid(0)
    assert 1 == os.eventfd_read(segment.eventfds[3])


def test_attach_refuses_what_is_no_segment() -> None:
    fd = os.memfd_create("other", os.MFD_CLOEXEC)
    try:
        with pytest.raises(ValueError, match="to be a segment of parallel_actors"):
            Segment.attach(fd, [])
        os.ftruncate(fd, 2 * PAGE)
        with pytest.raises(ValueError, match="to be a segment of parallel_actors"):
            Segment.attach(fd, [])
        os.pwrite(fd, b"PACTORS1" + struct.pack("=I", 99), 0)
        with pytest.raises(ValueError, match=r"layout version 2, got: 99.*restart the run"):
            Segment.attach(fd, [])
        os.pwrite(fd, struct.pack("=I", 2), 8)
        with pytest.raises(ValueError, match="expected a segment of 0 bytes, got: 8192"):
            Segment.attach(fd, [])
    finally:
        os.close(fd)


def test_attach_that_fails_leaves_the_descriptors_to_the_caller(segment: Segment) -> None:
    with pytest.raises(ValueError, match="expected 5 eventfds, one per endpoint, got: 1"):
        Segment.attach(segment.fd, segment.eventfds[:1])
    with pytest.raises(ValueError, match="expected eventfds to be descriptors"):
        Segment.attach(segment.fd, [-1] * 5)
    for fd in segment.fds():
        os.fstat(fd)


def test_nobody_can_shrink_the_memory_under_the_mapping(segment: Segment) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(segment.fd, PAGE)


def test_descriptors_do_not_reach_other_programs(segment: Segment) -> None:
    assert not any(os.get_inheritable(fd) for fd in segment.fds())


def test_close_again_does_nothing_and_use_after_it_is_an_error() -> None:
    segment = Segment.create(1)
    segment.close()
    segment.close()
    assert segment.closed
    assert "<Segment closed>" == repr(segment)
    for use in (
        lambda: segment.slot(0),
        lambda: segment.put_slot(0, 0, 0),
        lambda: segment.wake_endpoint(0),
        lambda: segment.reset_pair(0, 1, 0, 0),
        lambda: segment.store_put(b""),
        lambda: segment.store_get(0),
        lambda: segment.load(0),
        lambda: segment.phase,
        lambda: segment.fds(),
        lambda: segment.claim_guest(),
        lambda: segment.allocated_bytes(),
    ):
        with pytest.raises(ValueError, match="this Segment is closed"):
            use()


def test_a_forgotten_segment_is_closed() -> None:
    Segment.create(1)
    # no_leaks checks


def test_a_segment_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError, match=r"call Segment.create"):
        Segment()


# --- slots ---


def test_slots(segment: Segment) -> None:
    assert [(0, 0)] * 5 == [segment.slot(e) for e in range(5)]
    segment.put_slot(4, 0xFFFFFFFF, 4)
    assert (0xFFFFFFFF, 4) == segment.slot(4)
    assert (0, 0) == segment.slot(3)
    assert (0, 0) == segment.load(1) == segment.progress(1)
    for bad in (-1, 5, 1 << 40):
        with pytest.raises(ValueError, match=f"expected an endpoint of 0 to 4, got: {bad}"):
            segment.slot(bad)
    with pytest.raises(ValueError, match="expected a state of 0 to 4, got: 5"):
        segment.put_slot(0, 0, 5)
    with pytest.raises(ValueError, match="expected a phase of 0 to 3, got: 4"):
        segment.phase = 4


def test_the_workers_that_there_are(segment: Segment) -> None:
    assert [] == segment.worker_indices()
    for state, there in ((0, False), (1, False), (2, True), (3, False), (4, True)):
        segment.put_slot(1, 7, state)
        assert there == (segment.worker_indices() == [1])
    segment.put_slot(2, 0, 2)  # the root
    segment.put_slot(3, 0, 2)  # a guest
    segment.set_leaving(1, True)
    assert ([1], True) == (segment.worker_indices(), segment.leaving(1))
    segment.set_leaving(1, False)
    assert not segment.leaving(1)
    segment.set_starting(1)
    assert ((0xFFFFFFFF, 0), 0) == (segment.load(1), segment.busy(1))


def test_guests_claim_free_slots_once(segment: Segment) -> None:
    segment.put_slot(3, 6, 0)
    assert [3, 4, None] == [segment.claim_guest() for _ in range(3)]
    assert (6, 1) == segment.slot(3)
    segment.put_slot(3, 7, 0)
    assert 3 == segment.claim_guest()
    assert (7, 1) == segment.slot(3)


# --- the store ---


def test_store_round_trip(segment: Segment) -> None:
    pieces = [b"", b"a", b"1234", b"12345", b"x" * 100_000]
    at = [segment.store_put(piece) for piece in pieces]
    assert pieces == [segment.store_get(offset) for offset in at]
    assert all(offset % 8 == 0 for offset in at)
    assert b"view" == segment.store_get(segment.store_put(memoryview(b"a view")[2:]))


def test_store_get_refuses_offsets_that_were_never_given_out(segment: Segment) -> None:
    at = segment.store_put(b"12345678")
    for bad in (0, -8, at - 8, at + 1, at + 16, 1 << 62):
        with pytest.raises(ValueError, match="expected an offset that store_put returned"):
            segment.store_get(bad)
    within = segment.store_put(b"\xff" * 20) + 8
    with pytest.raises(ValueError, match="no whole piece lies there"):
        segment.store_get(within)


def test_a_full_store_refuses_large_and_still_takes_small() -> None:
    segment = Segment.create(1, store_bytes=8192)
    try:
        first = segment.store_put(b"a" * 8000)
        with pytest.raises(
            StoreFull, match=r"has 8192 bytes, 184 of them left, and needs 1004 more.*definitions of __main__"
        ):
            segment.store_put(b"b" * 1000)
        second = segment.store_put(b"c" * 100)
        assert b"a" * 8000 == segment.store_get(first)
        assert b"c" * 100 == segment.store_get(second)
    finally:
        segment.close()


def test_memory_that_the_system_refuses_is_an_error_and_no_signal(segment: Segment) -> None:
    # fallocate on a descriptor that can't be written stands for a memory that is full.
    saved = os.dup(segment.fd)
    readonly = os.open(f"/proc/self/fd/{segment.fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(readonly, segment.fd, inheritable=False)
    try:
        with pytest.raises(SegmentFull, match=r"needs .* more bytes and the system refused .*Free memory"):
            segment.store_put(b"x")
        with pytest.raises(SegmentFull, match="the system refused"):
            segment.reset_pair(0, 1, 0, 0)
    finally:
        os.dup2(saved, segment.fd, inheritable=False)
        os.close(saved)
        os.close(readonly)
    assert b"x" == segment.store_get(segment.store_put(b"x"))


# --- rings, as far as the segment knows them ---


def test_reset_pair_gives_both_rings_to_the_incarnations(segment: Segment) -> None:
    segment.reset_pair(1, 4, 5, 9)
    assert (5, 9) == segment.epoch(1, 4)
    assert (9, 5) == segment.epoch(4, 1)
    assert (0, 0) == segment.epoch(4, 0)
    assert [1] == segment.dirty(4)


def test_punch_gives_memory_back_between_dead_endpoints_only(segment: Segment) -> None:
    with pytest.raises(ValueError, match="expected endpoint 0 to be ended or down, got: state 0"):
        segment.punch(0)
    segment.put_slot(0, 0, 4)
    segment.put_slot(1, 0, 3)
    segment.put_slot(3, 0, 2)
    ring = PAGE + 2 * PAGE + (0 * 5 + 1) * (PAGE + 65536)
    live = PAGE + 2 * PAGE + (0 * 5 + 3) * (PAGE + 65536)
    os.posix_fallocate(segment.fd, ring, PAGE + 65536)
    os.posix_fallocate(segment.fd, live, PAGE + 65536)
    before = segment.allocated_bytes()
    assert 4 == segment.punch(0)  # 0 -> 0 twice, 0 -> 1, 1 -> 0
    assert before - 65536 == segment.allocated_bytes()


# --- the bell ---


def test_bells_mark_the_producer_and_wake_only_sleepers(segment: Segment) -> None:
    segment.bell(0, 3)
    segment.bell(4, 3)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(segment.eventfds[3])
    assert not segment.park(3), "a set bit keeps the consumer awake"
    assert [0, 4] == segment.dirty(3)
    assert [] == segment.dirty(3)
    assert segment.park(3)
    segment.bell(0, 3)
    segment.bell(0, 3)
    segment.bell(4, 3)
    assert 1 == os.eventfd_read(segment.eventfds[3]), "one write for one sleep"
    segment.unpark(3)


def test_wake_rings_in_any_case(segment: Segment) -> None:
    segment.wake_endpoint(2)
    assert [(segment.eventfds[2], select.POLLIN)] == poll_now(segment.eventfds[2])
    assert 1 == os.eventfd_read(segment.eventfds[2])


def poll_now(fd: int) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return poll.poll(0)


@pytest.mark.parametrize("producer", [0, 63, 64, 127, 128, 900])
def test_dirty_maps_hold_every_endpoint(producer: int) -> None:
    segment = Segment.create(1000, guests=0, ring_bytes=4096)
    try:
        assert segment.park(3)
        segment.bell(producer, 3)
        segment.unpark(3)
        assert not segment.park(3)
        assert [producer] == segment.dirty(3)
    finally:
        segment.close()


def test_the_words_are_where_internals_says(segment: Segment) -> None:
    segment.put_slot(1, 5, 2)
    segment.set_os_pid(1, 99)
    segment.set_leaving(1, True)
    segment.bell(4, 1)
    with mmap.mmap(segment.fd, PAGE * 3) as memory:
        slot = PAGE + 1024
        assert (5, 2, 99, 1) == struct.unpack_from("=IIII", memory, slot)
        struct.pack_into("=Q", memory, slot + 280, 12345678901)
        assert 12345678901 == segment.busy(1)
        assert (1 << 4,) == struct.unpack_from("=Q", memory, slot + 384)
        assert (0,) == struct.unpack_from("=I", memory, slot + 128)
        assert [4] == segment.dirty(1)
        assert segment.park(1)
        assert (1,) == struct.unpack_from("=I", memory, slot + 128)
        segment.unpark(1)


# --- the wake-up protocol: all interleavings, under store buffers ---
#
# The processor model is TSO (x86): each side has a first-in-first-out buffer of its stores, which reach the memory at
# any later time; a fence or an atomic read-modify-write empties it first; a load looks into the own buffer, then into
# the memory. An interleaving in which nothing can move any more while a record lies unread is a lost wake-up.

PUT = """
    store tail {n}
    fence
    load bit dirty
    if bit goto set{n}
    or dirty
    fence
set{n}:
    load p parked
    unless p goto done{n}
    swap p parked 0
    unless p goto done{n}
    bell consumer
done{n}:
"""

CONSUMER = """
again:
    load bit dirty
    unless bit goto park
    swap bit dirty 0
    fence
    load seen tail
    goto again
park:
    store parked 1
    fence
    load bit dirty
    if bit goto awake
    sleep consumer
awake:
    store parked 0
    goto again
"""

Memory = tuple[tuple[str, int], ...]
# program counter, registers, store buffer
Side = tuple[int, Memory, Memory]
State = tuple[tuple[Side, ...], Memory, frozenset[str]]


class Program:
    def __init__(self, text: str) -> None:
        self.code: list[list[str]] = []
        self.labels: dict[str, int] = {}
        for line in text.split("\n"):
            words = line.split()
            if words and words[0].endswith(":"):
                self.labels[words[0][:-1]] = len(self.code)
            elif words:
                self.code.append(words)


def put(memory: Memory, name: str, value: int) -> Memory:
    return tuple(sorted({**dict(memory), name: value}.items()))


def drain(buffer: Memory, memory: Memory) -> Memory:
    for name, value in buffer:
        memory = put(memory, name, value)
    return memory


def steps(programs: list[Program], state: State) -> Iterator[State]:
    """All states that one instruction, or one store that reaches the memory, leads to."""
    sides, memory, bells = state
    for i, (pc, registers, buffer) in enumerate(sides):

        def moved(side: Side, memory: Memory = memory, bells: frozenset[str] = bells, i: int = i) -> State:
            return (*sides[:i], side, *sides[i + 1 :]), memory, bells

        if buffer:
            yield moved((pc, registers, buffer[1:]), put(memory, *buffer[0]))
        program = programs[i]
        if pc == len(program.code):
            continue
        words = program.code[pc]
        match words:
            case ["store", name, value]:
                yield moved((pc + 1, registers, (*buffer, (name, int(value)))))
            case ["load", register, name]:
                seen = {**dict(memory), **dict(buffer)}[name]
                yield moved((pc + 1, put(registers, register, seen), buffer))
            case ["fence"]:
                yield moved((pc + 1, registers, ()), drain(buffer, memory))
            case ["swap", register, name, value]:
                after = drain(buffer, memory)
                old = dict(after)[name]
                yield moved((pc + 1, put(registers, register, old), ()), put(after, name, int(value)))
            case ["or", name]:
                yield moved((pc + 1, registers, ()), put(drain(buffer, memory), name, 1))
            case ["goto", label]:
                yield moved((program.labels[label], registers, buffer))
            case [("if" | "unless") as word, register, "goto", label]:
                jump = bool(dict(registers)[register]) == (word == "if")
                yield moved((program.labels[label] if jump else pc + 1, registers, buffer))
            case [("atleast"), register, n, "goto", label]:
                jump = dict(registers)[register] >= int(n)
                yield moved((program.labels[label] if jump else pc + 1, registers, buffer))
            case ["differ", register, other, label]:
                jump = dict(registers)[register] != dict(registers)[other]
                yield moved((program.labels[label] if jump else pc + 1, registers, buffer))
            case ["bell", who]:
                yield moved((pc + 1, registers, buffer), bells=bells | {who})
            case ["sleep", who]:
                if who in bells:
                    yield moved((pc + 1, registers, buffer), bells=bells - {who})
            case _:
                raise AssertionError(words)


def ends(texts: list[str], memory: dict[str, int], registers: dict[str, int]) -> tuple[list[State], int]:
    """Every state in which nothing moves any more, and how many states there are."""
    programs = [Program(text) for text in texts]
    start: State = (
        tuple((0, tuple(sorted(registers.items())), ()) for _ in programs),
        tuple(sorted(memory.items())),
        frozenset(),
    )
    seen: set[State] = {start}
    todo: list[State] = [start]
    stuck: list[State] = []
    while todo:
        state = todo.pop()
        after = list(steps(programs, state))
        if not after:
            stuck.append(state)
        for one in after:
            if one not in seen:
                seen.add(one)
                todo.append(one)
    return stuck, len(seen)


def lost_wake_ups(producer: str, consumer: str, messages: int = 3) -> int:
    text = "".join(producer.replace("{n}", str(n)) for n in range(1, messages + 1))
    stuck, states = ends([text, consumer], {"tail": 0, "dirty": 0, "parked": 0}, {"bit": 0, "p": 0, "seen": 0})
    assert states > 500
    assert stuck, "the consumer sleeps in the end"
    return sum(dict(sides[1][1])["seen"] != messages for sides, _, _ in stuck)


def test_model_no_wake_up_is_lost() -> None:
    assert 0 == lost_wake_ups(PUT, CONSUMER)


@pytest.mark.parametrize(
    ("producer", "consumer"),
    [
        pytest.param(PUT.replace("    fence\n", "", 1), CONSUMER, id="no fence after the tail"),
        pytest.param(PUT, CONSUMER.replace("store parked 1\n    fence", "store parked 1"), id="no fence after parked"),
        pytest.param(
            PUT, CONSUMER.replace("    load bit dirty\n    if bit goto awake\n", ""), id="no look before sleeping"
        ),
        pytest.param(
            PUT,
            CONSUMER.replace("    load seen tail\n", "").replace(
                "    swap bit dirty 0\n", "    load seen tail\n    swap bit dirty 0\n"
            ),
            id="tails read before the map is taken",
        ),
        pytest.param(
            PUT.replace("    store tail {n}\n    fence\n", "").replace(
                "set{n}:\n", "set{n}:\n    store tail {n}\n    fence\n"
            ),
            CONSUMER,
            id="bit set before the tail",
        ),
        pytest.param(PUT.replace("    bell consumer\n", ""), CONSUMER, id="no bell"),
    ],
)
def test_model_catches_what_would_lose_a_wake_up(producer: str, consumer: str) -> None:
    assert (producer, consumer) != (PUT, CONSUMER)
    assert lost_wake_ups(producer, consumer) > 0


# The room bell: a producer with a full ring (one record here) sleeps until the consumer has made room.

FULL = """
try{n}:
    load head head
    atleast head {before} goto room{n}
    store hungry 1
    fence
    load head head
    atleast head {before} goto room{n}
    store pparked 1
    fence
    load bit pdirty
    if bit goto awake{n}
    sleep producer
awake{n}:
    store pparked 0
    swap bit pdirty 0
    goto try{n}
room{n}:
    store tail {n}
    fence
    bell consumer
"""

EMPTIES = """
    sleep consumer
    goto look
look:
    load seen tail
    atleast seen {n} goto take{n}
    sleep consumer
    goto look
take{n}:
    store head {n}
    fence
    load p hungry
    unless p goto next{n}
    swap p hungry 0
    unless p goto next{n}
    fence
    load bit pdirty
    if bit goto set{n}
    or pdirty
    fence
set{n}:
    load p pparked
    unless p goto next{n}
    swap p pparked 0
    unless p goto next{n}
    bell producer
next{n}:
"""


def stuck_producers(full: str, empties: str, messages: int = 3) -> int:
    producer = "".join(full.replace("{n}", str(n)).replace("{before}", str(n - 1)) for n in range(1, messages + 1))
    body = empties.replace("    sleep consumer\n    goto look\nlook:", "look{n}:", 1).replace(
        "goto look\n", "goto look{n}\n"
    )
    consumer = "".join(body.replace("{n}", str(n)) for n in range(1, messages + 1))
    names = ("tail", "head", "hungry", "pparked", "pdirty")
    stuck, states = ends([producer, consumer], dict.fromkeys(names, 0), dict.fromkeys(("head", "bit", "p", "seen"), 0))
    assert states > 500
    return sum(dict(memory)["head"] != messages for _, memory, _ in stuck)


def test_model_a_producer_that_waits_for_room_is_woken() -> None:
    assert 0 == stuck_producers(FULL, EMPTIES)


@pytest.mark.parametrize(
    ("full", "empties"),
    [
        pytest.param(FULL.replace("store hungry 1\n    fence", "store hungry 1"), EMPTIES, id="no fence after hungry"),
        pytest.param(
            FULL, EMPTIES.replace("store head {n}\n    fence", "store head {n}"), id="no fence after the head"
        ),
        pytest.param(
            FULL, EMPTIES.replace("    or pdirty\n", ""), id="no dirty bit for a producer that isn't parked yet"
        ),
        pytest.param(
            FULL.replace("    fence\n    load head head\n    atleast head {before} goto room{n}\n", "    fence\n", 1),
            EMPTIES,
            id="no second look at the head",
        ),
    ],
)
def test_model_catches_what_would_leave_a_producer_asleep(full: str, empties: str) -> None:
    assert (full, empties) != (FULL, EMPTIES)
    assert stuck_producers(full, empties) > 0


# A guest goes live and reads the worker's incarnation; the root counts it up and reads who is live. One sees the other.

GOES_LIVE = """
    store live 1
    fence
    load believed incarnation
"""
COUNTS_UP = """
    store incarnation 1
    fence
    load told live
"""


def missed(guest: str, root: str) -> int:
    stuck, _ = ends([guest, root], {"live": 0, "incarnation": 0}, {"believed": 0, "told": 0})
    return sum(not dict(sides[0][1])["believed"] and not dict(sides[1][1])["told"] for sides, _, _ in stuck)


def test_model_a_guest_that_goes_live_during_a_death_hears_of_it() -> None:
    assert 0 == missed(GOES_LIVE, COUNTS_UP)
    assert missed(GOES_LIVE.replace("    fence\n", ""), COUNTS_UP) > 0
    assert missed(GOES_LIVE, COUNTS_UP.replace("    fence\n", "")) > 0


# A name is freed and claimed again while somebody looks it up: the pid's two halves must belong together.

LOOKS_UP = """
again:
    load owner owner
    atleast owner 1 goto owned
    goto none
owned:
    load hi hi
    load lo lo
    load owner2 owner
    differ owner owner2 again
    store found 1
none:
"""
CLAIMS_AGAIN = """
    swap old owner 0
    swap old owner -2
    fence
    store hi 2
    store lo 2
    swap old owner 2
"""


def mixed_pids(reader: str, writer: str) -> int:
    # An owner word of 1 or 2 is "owned, version 1 or 2"; 0 is free; -2 claiming.
    stuck, _ = ends(
        [reader, writer],
        {"owner": 1, "hi": 1, "lo": 1, "found": 0},
        {"owner": 0, "owner2": 0, "hi": 0, "lo": 0, "old": 0},
    )
    found = [dict(sides[0][1]) for sides, memory, _ in stuck if dict(memory)["found"]]
    assert found
    return sum(not pid["owner"] == pid["hi"] == pid["lo"] for pid in found)


def test_model_a_look_up_never_mixes_two_pids() -> None:
    assert 0 == mixed_pids(LOOKS_UP, CLAIMS_AGAIN)
    assert mixed_pids(LOOKS_UP.replace("    differ owner owner2 again\n", ""), CLAIMS_AGAIN) > 0
    early = "    store hi 2\n" + CLAIMS_AGAIN.replace("    store hi 2\n", "")
    assert mixed_pids(LOOKS_UP, early) > 0, "a half that is written before the claim"
