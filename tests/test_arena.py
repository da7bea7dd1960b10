"""The arena (S9.9): blocks that come back, whoever dies where, and are never used again while anybody looks at them."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from leaks import eventually
from parallel_actors.workers.arena import Arena, Block
from parallel_actors.workers.codec import (
    Codec,
    Shared,
    decode_bytes,
    encode_bytes,
    isolated_message,
    pack_bytes,
    share_with,
    unpack,
)
from parallel_actors.workers.errors import NotPicklable
from parallel_actors.workers.ring import Inbox, Outbox, adopt_flights
from parallel_actors.workers.segment import Segment

np: Any = pytest.importorskip("numpy")

contract = pytest.mark.contract

KB = 1 << 10
MB = 1 << 20
BIG = 100 * KB
LIVE, DOWN = 2, 4


@pytest.fixture
def arena(segment: Segment) -> Iterator[Arena]:
    """The arena of the program that made `segment`."""
    assert segment.arena is not None
    yield segment.arena
    segment.arena.check_invariants()


@pytest.fixture
def codec(segment: Segment) -> Codec:
    return Codec(segment.store_put, segment.store_get, segment.arena)


def attached(segment: Segment, holder: int) -> Segment:
    """The segment as another OS process has it."""
    fds = [os.dup(fd) for fd in segment.fds()]
    return Segment.attach(fds[0], fds[1:], holder)


@pytest.fixture
def others(segment: Segment) -> Iterator[list[Segment]]:
    """The segment as workers 0 and 1 and the root have it."""
    made = [attached(segment, holder) for holder in range(3)]
    for endpoint in range(3):
        segment.put_slot(endpoint, 0, LIVE)
    yield made
    for one in made:
        one.close()


def arena_of(segment: Segment) -> Arena:
    assert segment.arena is not None
    return segment.arena


def block(arena: Arena, data: bytes) -> Block:
    made = arena.allocate_bytes(data)
    assert made is not None
    return made


def fill(number: int, size: int = BIG) -> bytes:
    return bytes([number % 251]) * size


# --- blocks -----------------------------------------------------------------------------------------------------------


def test_a_block_is_used_while_there_is_a_view_and_then_again(segment: Segment, arena: Arena) -> None:
    first = block(arena, fill(1))
    number = first.id
    view = memoryview(first)[10:20]
    del first
    assert (1, up(BIG)) == segment.arena_used()
    other = block(arena, fill(2))
    assert other.id != number
    assert fill(1, 10) == view
    del other, view
    assert (0, 0) == segment.arena_used()
    assert block(arena, fill(3)).id == number  # the one that was out for longest, and warm


def up(n: int) -> int:
    return -(-n // 4096) * 4096


def test_the_smallest_view_keeps_the_whole_block(segment: Segment, arena: Arena) -> None:
    view = np.frombuffer(block(arena, fill(7)), np.uint8)[5:50:3][1:2].reshape(1, 1)
    gc.collect()
    assert (1, up(BIG)) == segment.arena_used()
    for number in range(10):
        block(arena, fill(number))
    assert 7 == view[0, 0]
    del view
    assert (0, 0) == segment.arena_used()


def test_blocks_are_read_only(arena: Arena) -> None:
    made = block(arena, fill(1))
    assert memoryview(made).readonly
    array = np.frombuffer(made, np.uint8)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 2
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    with pytest.raises(TypeError, match="read-write"):
        struct.pack_into("B", made, 0, 1)


def test_sizes_from_one_byte_to_more_than_32_bits_have_a_block_of_their_own(segment: Segment, arena: Arena) -> None:
    for size in (1, 32 * KB - 1, 32 * KB, 32 * KB + 1, MB, MB + 1, 5 * MB):
        made = block(arena, fill(size, size))
        assert len(made) == up(size)
        assert fill(size, size) == memoryview(made)[:size]
        del made
    assert arena.allocate_bytes(b"") is None


def test_free_memory_is_given_back_beyond_what_is_kept(segment: Segment, arena: Arena) -> None:
    before = segment.allocated_bytes()
    kept = block(arena, fill(1, MB))
    blocks = [block(arena, fill(n, MB)) for n in range(2, 6)]
    blocks.clear()
    assert 5 * MB == arena.backed
    assert 3 * MB == arena.trim_to(MB)
    assert 2 * MB == arena.backed
    assert segment.allocated_bytes() - before <= 2 * MB + 8 * KB
    assert fill(1, MB) == memoryview(kept)
    arena.check_invariants()
    again = [block(arena, fill(n, MB)) for n in range(2, 6)]
    assert [fill(n, MB) for n in range(2, 6)] == [bytes(memoryview(one)) for one in again]
    assert 5 == len(arena.blocks())


def test_a_full_arena_has_no_block_and_is_right_again_later() -> None:
    segment = Segment.create(1, guests=1, arena_bytes=MB)
    blocks: list[Block] = []
    try:
        arena = arena_of(segment)
        blocks += [block(arena, fill(n, 256 * KB)) for n in range(4)]
        assert arena.allocate_bytes(fill(9, 256 * KB)) is None
        assert arena.allocate_bytes(fill(9, 2 * MB)) is None
        assert [fill(n, 256 * KB) for n in range(4)] == [bytes(memoryview(one)) for one in blocks]
        del blocks[1]
        assert fill(9, 200 * KB) == memoryview(block(arena, fill(9, 200 * KB)))[: 200 * KB]
        arena.check_invariants()
    finally:
        del blocks
        segment.close()


def test_memory_that_the_system_refuses_gives_no_block(segment: Segment, arena: Arena, codec: Codec) -> None:
    # fallocate on a descriptor that can't be written stands for a memory that is full.
    saved = os.dup(segment.fd)
    readonly = os.open(f"/proc/self/fd/{segment.fd}", os.O_RDONLY | os.O_CLOEXEC)
    message = (1, memoryview(fill(1)), np.arange(20_000))
    os.dup2(readonly, segment.fd, inheritable=False)
    try:
        assert arena.allocate_bytes(fill(1)) is None
        got = unpack(codec, pack_bytes(codec, message))
        assert fill(1) == got[1]
        assert same(message[2], got[2])
        assert (0, 0) == segment.arena_used()
    finally:
        os.dup2(saved, segment.fd, inheritable=False)
        os.close(saved)
        os.close(readonly)
    assert fill(2) == memoryview(block(arena, fill(2)))[:BIG]


# --- messages as bytes ------------------------------------------------------------------------------------------------

ARRAYS: dict[str, Any] = {
    "plain": np.arange(20_000.0),
    "fortran": np.asfortranarray(np.arange(40_000).reshape(200, 200)),
    "strided": np.arange(40_000)[::2],
    "transposed slice": np.arange(90_000).reshape(300, 300)[10:, ::3].T,
    "structured": np.array([(n, n / 2, b"x" * 3) for n in range(3000)], dtype=[("a", "i4"), ("b", "f8"), ("c", "S3")]),
    "dates": np.arange(5000).astype("M8[s]"),
    "spans": np.arange(5000).astype("m8[ms]"),
    "big-endian": np.arange(5000, dtype=">i8"),
    "text": np.array(["word"] * 4000, dtype="U4"),
    "complex": np.arange(5000) * 1j,
    "bool": np.arange(40_000) % 3 == 0,
    "one item": np.zeros((), dtype="V50000"),
    "no stride": np.broadcast_to(np.arange(100), (400, 100)),
}


def same(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())


@contract("S9.9", "S1.3", partly=True)
@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("way", ["across", "here"])
def test_a_large_array_arrives_as_a_view_of_any_layout(segment: Segment, codec: Codec, name: str, way: str) -> None:
    array = ARRAYS[name]
    got = unpack(codec, pack_bytes(codec, array)) if way == "across" else isolated_message(codec, array)
    assert type(got) is np.ndarray
    assert same(array, got)
    assert not got.flags.writeable
    assert got.flags.f_contiguous or got.flags.c_contiguous
    assert (1, up(array.nbytes)) == segment.arena_used()
    del got
    assert (0, 0) == segment.arena_used()


@contract("S9.9", "S1.2", partly=True)
@pytest.mark.parametrize("way", ["across", "here"])
def test_what_its_sender_writes_later_does_not_change_it(codec: Codec, way: str) -> None:
    for source in (np.zeros(BIG, np.uint8), bytearray(BIG), memoryview(bytearray(BIG))):
        gots = []
        for number in range(5):
            source[:] = np.full(BIG, number, np.uint8) if isinstance(source, np.ndarray) else fill(number)
            gots.append(
                unpack(codec, pack_bytes(codec, [source, 1]))[0]
                if way == "across"
                else isolated_message(codec, [source, 1])[0]
            )
        assert [fill(number) for number in range(5)] == [bytes(got) for got in gots]


@contract("S9.9", "S1.3", partly=True)
@pytest.mark.parametrize("size", [0, 1, 100, 32 * KB - 1, 32 * KB, BIG])
@pytest.mark.parametrize("way", ["across", "here"])
def test_buffers_arrive_as_what_they_were(codec: Codec, size: int, way: str) -> None:
    for value in (fill(3, size), bytearray(fill(4, size)), memoryview(bytearray(fill(5, size)))):
        for message in (value, [value, 7], {"a": (value,)}):
            got: Any = (
                unpack(codec, pack_bytes(codec, message)) if way == "across" else isolated_message(codec, message)
            )
            assert message == got
            inner = got[0] if isinstance(got, list) else got["a"][0] if isinstance(got, dict) else got
            assert type(inner) is type(value)
            if isinstance(inner, bytearray):
                inner += b"writable, and of its own"
                assert value == fill(4, size)
            if isinstance(inner, memoryview):
                assert inner.readonly


@pytest.mark.parametrize(
    "view",
    [
        memoryview(np.arange(20_000.0)),
        memoryview(np.arange(20_000.0).reshape(100, 200)),
        memoryview(np.arange(12.0).reshape(2, 2, 3)),
        memoryview(np.arange(40_000)[::2]),
        memoryview(np.asfortranarray(np.arange(40_000).reshape(200, 200))),
        memoryview(np.zeros((0, 3), "i2")),
        memoryview(b"abcdef")[::-2],
        memoryview(b""),
    ],
)
def test_a_memoryview_keeps_shape_and_format(codec: Codec, view: memoryview) -> None:
    for data in (pack_bytes(codec, view), encode_bytes(codec, view)):
        got = decode_bytes(codec, data) if isinstance(data, bytes) else unpack(codec, data)
        assert got.readonly
        assert view.format == got.format
        assert view.tolist() == got.tolist()
        del got


def test_a_memoryview_that_says_too_much_is_refused(codec: Codec) -> None:
    with pytest.raises(Exception, match="expected a memoryview of plain numbers, got one of format"):
        pack_bytes(codec, memoryview(ARRAYS["structured"]))


@contract("S9.9", partly=True)
def test_small_arrays_and_arrays_of_objects_are_the_receivers_own(segment: Segment, codec: Codec) -> None:
    for array in (np.arange(10), np.array([[1], {}, "x"] * 5000, dtype=object)):
        for got in (unpack(codec, pack_bytes(codec, array)), isolated_message(codec, array)):
            assert array.tolist() == got.tolist()
            assert got.flags.writeable
    assert (0, 0) == segment.arena_used()


class Tagged(np.ndarray):  # type: ignore[misc]
    pass


@contract("S9.9", partly=True)
def test_a_subclass_of_ndarray_stays_one(codec: Codec) -> None:
    array = np.arange(20_000).view(Tagged)
    for got in (unpack(codec, pack_bytes(codec, array)), isolated_message(codec, array)):
        assert type(got) is Tagged
        assert array.tolist() == got.tolist()
    masked = np.ma.masked_array(np.arange(20_000), mask=np.arange(20_000) % 2)
    for got in (unpack(codec, pack_bytes(codec, masked)), isolated_message(codec, masked)):
        assert masked.sum() == got.sum()


@contract("S9.9", partly=True)
def test_a_message_of_a_hundred_arrays(segment: Segment, codec: Codec) -> None:
    arrays = {n: np.full(BIG, n, np.uint8) for n in range(100)}
    got = unpack(codec, pack_bytes(codec, arrays))
    assert all(same(array, got[n]) for n, array in arrays.items())
    assert (1, up(100 * (BIG + 63) // 64 * 64)) >= segment.arena_used() > (0, 0)
    # And on, by way of one in between: what is in the arena already isn't copied.
    used = segment.arena_used()
    there = unpack(codec, pack_bytes(codec, (got, got[7][10:])))
    assert used == segment.arena_used()
    assert np.shares_memory(there[0][99], got[99])
    assert all(same(array, there[0][n]) for n, array in arrays.items())
    assert same(arrays[7][10:], there[1])
    del got, there
    assert (0, 0) == segment.arena_used()


@contract("S9.9", partly=True)
def test_more_blocks_than_a_message_may_mention(segment: Segment, codec: Codec) -> None:
    views = [unpack(codec, pack_bytes(codec, np.full(BIG, n, np.uint8))) for n in range(200)]
    handles = [share_with(codec, fill(n)) for n in range(200)]
    packed = pack_bytes(codec, (views, handles))
    got = unpack(codec, packed)
    assert [n % 251 for n in range(200)] == [int(view[-1]) for view in got[0]]
    assert [fill(n) for n in range(200)] == [bytes(handle) for handle in got[1]]
    del views, handles, packed, got
    assert (0, 0) == segment.arena_used()


@contract("S9.9", partly=True)
def test_the_same_array_twice_stays_one(codec: Codec) -> None:
    array = np.arange(20_000)
    for got in (
        unpack(codec, pack_bytes(codec, [array, {"a": array}])),
        isolated_message(codec, [array, {"a": array}]),
    ):
        assert got[0] is got[1]["a"]


@contract("S9.9", "S1.2", partly=True)
def test_a_view_goes_on_without_a_copy_and_its_shape_is_its_own(segment: Segment, codec: Codec) -> None:
    first = isolated_message(codec, np.arange(20_000))
    for got in (isolated_message(codec, first), unpack(codec, pack_bytes(codec, first))):
        assert np.shares_memory(first, got)
        assert got is not first  # NumPy's own of shape and strides
    assert 1 == segment.arena_used()[0]


@contract("S9.9", partly=True)
@pytest.mark.parametrize("way", ["across", "here"])
def test_copy_makes_arrays_that_can_be_written_to(segment: Segment, codec: Codec, way: str) -> None:
    frozen = np.arange(20_000)
    frozen.flags.writeable = False
    for array in (np.arange(20_000), frozen, np.asfortranarray(np.arange(40_000).reshape(200, 200))):
        message = {"a": array, "b": memoryview(bytes(BIG))}
        got: Any = (
            unpack(codec, pack_bytes(codec, message, own=True))
            if way == "across"
            else isolated_message(codec, message, own=True)
        )
        got["a"][0] = 77
        got["b"][0] = 77
        assert array.flat[0] == 0
        del got
    assert (0, 0) == segment.arena_used()


@contract("S9.9", partly=True)
def test_a_full_arena_sends_the_bytes_along_and_all_is_as_else() -> None:
    segment = Segment.create(1, guests=1, arena_bytes=256 * KB)
    try:
        codec = Codec(segment.store_put, segment.store_get, segment.arena)
        message = [np.arange(20_000 + n) for n in range(5)] + [
            memoryview(fill(1)),
            bytearray(fill(2)),
            fill(3),
            "x" * BIG,
        ]
        for _ in range(3):
            for got in (unpack(codec, pack_bytes(codec, message)), isolated_message(codec, message)):
                for array, there in zip(message[:5], got[:5], strict=True):
                    assert same(array, there)
                    assert not there.flags.writeable
                    assert there.flags.aligned
                assert message[5:] == got[5:]
                got = there = None
        handle = share_with(codec, fill(4, MB))
        assert fill(4, MB) == bytes(unpack(codec, pack_bytes(codec, handle)))
        assert (0, 0) == segment.arena_used()
    finally:
        segment.close()


@contract("S9.9", partly=True)
def test_without_an_arena_arrays_arrive_the_same() -> None:
    codec = Codec()
    for array in ARRAYS.values():
        for got in (unpack(codec, pack_bytes(codec, array)), isolated_message(codec, array)):
            assert same(array, got)
            assert not got.flags.writeable


def test_bytes_without_their_holds_are_refused_and_read_nothing(segment: Segment, codec: Codec) -> None:
    packed = pack_bytes(codec, np.arange(20_000))
    data = packed.data
    del packed
    with pytest.raises(ValueError, match="a block that it doesn't hold"):
        decode_bytes(codec, data)
    kept = pack_bytes(codec, np.arange(20_000))
    for position in range(1, len(kept.data)):
        for damage in (0, 255):
            damaged = bytearray(kept.data)
            damaged[position] = damage
            try:
                decode_bytes(codec, bytes(damaged))
            except Exception:
                continue  # what pickle makes of it may be anything, but it stays within the block
    del kept
    gc.collect()
    assert (0, 0) == segment.arena_used()


class Unwilling:
    def __reduce__(self) -> Any:
        raise ValueError("no")


@pytest.mark.parametrize("rest", [1, Unwilling(), bytes(BIG), [str(n) for n in range(50_000)]])
def test_a_sent_buffer_is_its_senders_own_again_at_once(codec: Codec, rest: object) -> None:
    # Not only after a collection: the pickler stands in a cycle.
    gc.disable()
    try:
        source = bytearray(BIG)
        view = memoryview(source)
        array = np.frombuffer(source, np.uint8)
        watch = weakref.ref(array)
        with contextlib.suppress(NotPicklable) if isinstance(rest, Unwilling) else contextlib.nullcontext():
            pack_bytes(codec, (view, array, rest))
        del array
        view.release()
        assert watch() is None
        source += b"x"  # nobody exports it any more
    finally:
        gc.enable()


# --- shared handles ---------------------------------------------------------------------------------------------------


@contract("S9.9", partly=True)
def test_a_shared_buffer_is_copied_once_however_often_it_goes(segment: Segment, codec: Codec) -> None:
    source = bytearray(fill(1))
    handle = share_with(codec, source)
    source[:] = fill(2)
    packed = [pack_bytes(codec, (handle, n)) for n in range(100)]
    assert 1 == segment.arena_used()[0]
    gots = [unpack(codec, one)[0] for one in packed]
    assert all(fill(1) == bytes(got) for got in gots)
    assert all(len(one.data) < 100 for one in packed)
    del handle, packed, gots
    assert (0, 0) == segment.arena_used()


@contract("S9.9", partly=True)
@pytest.mark.parametrize("name", ARRAYS)
def test_a_shared_array_has_type_and_shape(codec: Codec, name: str) -> None:
    array = ARRAYS[name]
    for handle in (share_with(codec, array), unpack(codec, pack_bytes(codec, [object, share_with(codec, array)]))[1]):
        assert same(array, handle.array())
        assert not handle.array().flags.writeable
        mine = handle.array(copy=True)
        assert same(array, mine)
        assert mine.flags.writeable
        assert array.nbytes == handle.nbytes == len(handle) == memoryview(handle).nbytes


def test_what_can_be_shared(segment: Segment, codec: Codec) -> None:
    handle = share_with(codec, b"")
    assert b"" == bytes(unpack(codec, pack_bytes(codec, handle)))
    handle = share_with(codec, memoryview(b"abcdef")[::2])
    assert b"ace" == bytes(handle)
    assert handle is share_with(codec, handle)
    assert [97, 99, 101] == handle.array().tolist()
    received = isolated_message(codec, np.arange(20_000))
    assert np.shares_memory(received, share_with(codec, received).array())
    for wrong in ("text", 1, [b"x"], np.array([object()])):
        with pytest.raises(TypeError, match=r"expected (a buffer|an array of numbers) to share"):
            share_with(codec, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"made by share\(buffer\)"):
        Shared()
    with pytest.raises(TypeError, match="read-write"):
        struct.pack_into("B", handle, 0, 1)
    assert "3 bytes" in repr(handle)
    assert "shape (20000,)" in repr(share_with(codec, received))


def test_a_handle_that_goes_by_value_is_as_good(segment: Segment, codec: Codec) -> None:
    handle = share_with(codec, np.arange(20_000))
    again = decode_bytes(codec, encode_bytes(codec, handle))  # what waits for a timer, say
    del handle
    assert same(np.arange(20_000), again.array())
    there = unpack(codec, pack_bytes(codec, again))
    assert same(np.arange(20_000), there.array())
    other = Segment.create(1, guests=1)
    try:
        foreign = Codec(other.store_put, other.store_get, other.arena)
        assert same(np.arange(20_000), unpack(foreign, pack_bytes(foreign, there)).array())
    finally:
        other.close()


# --- records, and who dies where --------------------------------------------------------------------------------------


class Pair:
    """The ring from worker 0 to worker 1, and a block in worker 0's part."""

    def __init__(self, segment: Segment, others: list[Segment]) -> None:
        self.segment, (self.zero, self.one, self.root) = segment, others
        self.out, self.inbox = Outbox(self.zero, 0, 0, 1, 0), Inbox(self.one, 1, 0, 0, 0)

    def block(self, number: int) -> Block:
        return block(arena_of(self.zero), fill(number))

    def used(self) -> int:
        """Blocks in use, as the root sees it. What is under way is let go of by whoever holds it."""
        for segment in (self.zero, self.one):
            if not segment.closed:
                arena_of(segment).used()
        return arena_of(self.root).used()[0]

    def kill(self, worker: int, incarnation: int = 0) -> None:
        """What remains of a worker that is killed: nothing runs any more, nothing is let go of."""
        self.root.put_slot(worker, incarnation, LIVE)

    def bury(self, worker: int) -> None:
        """The root handles the death."""
        adopt_flights(self.root, worker)
        self.root.put_slot(worker, 1, DOWN)
        self.root.bury(worker)


@pytest.fixture
def pair(segment: Segment, others: list[Segment]) -> Pair:
    return Pair(segment, others)


def test_a_record_holds_its_blocks_until_they_are_taken(pair: Pair) -> None:
    made = pair.block(1)
    assert 1 == pair.out.put_held(2, 0, 0, b"look", [made])
    del made
    assert 1 == pair.used()
    got = pair.inbox.next_held()
    assert got is not None
    assert b"look" == got[3]
    assert got[4] is not None
    assert fill(1) == memoryview(got[4][0])[:BIG]
    assert 1 == pair.used()
    del got
    assert 0 == pair.used()


def test_holds_and_records_keep_their_order_whatever_waits(pair: Pair) -> None:
    total = 3000
    sent: list[tuple[int, bool]] = []
    number = 0
    for number in range(total):
        if number % 3:
            body = number.to_bytes(4, "little") * (5000 if number % 50 == 1 else 3)
            pair.out.put_bytes(2, 0, 0, body)
        else:
            made = pair.block(number)
            pair.out.put_held(2, 0, 0, number.to_bytes(4, "little") * (6000 if number % 60 == 0 else 2), [made])
            del made
        sent.append((number, number % 3 == 0))
        if number % 500 == 499:
            pair.out.check_invariants()
    got: list[tuple[int, bool]] = []
    while len(got) < total:
        pair.out.flush_all()
        while (record := pair.inbox.next_held()) is not None:
            n = int.from_bytes(record[3][:4], "little")
            if record[4] is not None:
                assert fill(n) == memoryview(record[4][0])[:BIG]
            got.append((n, record[4] is not None))
            del record
    assert sent == got
    assert 0 == pair.used()


@contract("S9.9", "S9.2", partly=True)
def test_a_sender_that_dies_before_it_publishes_leaves_nothing(pair: Pair) -> None:
    kept = pair.block(1)
    assert 1 == pair.used()
    pair.bury(0)
    assert 0 == arena_of(pair.root).used()[0]
    # Its successor finds the entry, and uses it again.
    successor = attached(pair.segment, 0)
    arena_of(successor).check_invariants()
    assert kept.id == block(arena_of(successor), fill(2)).id
    successor.close()


@contract("S9.9", "S2.4", partly=True)
def test_a_sender_that_dies_with_records_under_way_holds_them_still(pair: Pair) -> None:
    for n in (1, 2, 3):
        pair.out.put_held(2, 0, 0, bytes([n]), [pair.block(n)])
    unpublished = pair.block(4)
    pair.bury(0)
    assert 3 == arena_of(pair.root).used()[0]
    successor = attached(pair.segment, 0)
    mine = [block(arena_of(successor), fill(n)) for n in range(5, 9)]
    for n in (1, 2, 3):
        got = pair.inbox.next_held()
        assert got is not None
        assert got[4] is not None
        assert fill(n) == memoryview(got[4][0])[:BIG]
        assert got[4][0].id not in {one.id for one in mine}
        del got
    pair.inbox.on_peer_down(0)
    del mine
    assert 0 == arena_of(pair.root).used()[0]
    del unpublished
    successor.close()


@contract("S9.9", partly=True)
@pytest.mark.parametrize("taken", ["before it took its hold", "after it", "when it had let go"])
def test_a_receiver_that_dies_holds_nothing(pair: Pair, taken: str) -> None:
    pair.out.put_held(2, 0, 0, b"x", [pair.block(1)])
    got = None if taken == "before it took its hold" else pair.inbox.next_held()
    if taken == "when it had let go":
        got = None
    pair.bury(1)
    pair.out.on_peer_down(0)
    arena_of(pair.zero).used()
    assert 0 == arena_of(pair.root).used()[0]
    del got


@contract("S9.9", partly=True)
def test_both_die_one_after_the_other(pair: Pair) -> None:
    pair.out.put_held(2, 0, 0, b"x", [pair.block(1)])
    pair.bury(0)
    assert 1 == arena_of(pair.root).used()[0]
    pair.bury(1)
    # Nobody lives to hand the ring over: the root does it.
    pair.root.reset_pair(0, 1, 1, 1)
    assert 0 == arena_of(pair.root).used()[0]


@contract("S9.9", partly=True)
def test_an_overflow_that_is_thrown_away_lets_go(pair: Pair) -> None:
    for n in range(3000):
        pair.out.put_held(2, 0, 0, bytes(1000), [pair.block(n % 3)])
    assert pair.out.queued_count > 1000
    pair.out.on_peer_down(0)
    assert 0 == pair.used()


def test_a_forked_child_lets_go_of_nothing(segment: Segment, arena: Arena) -> None:
    kept = block(arena, fill(1))
    pid = os.fork()
    if pid == 0:
        del kept
        allocated = arena.allocate_bytes(fill(2))
        os._exit(0 if allocated is None else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert 1 == segment.arena_used()[0]
    assert fill(1) == memoryview(kept)[:BIG]


@contract("S9.9", partly=True)
def test_views_outlive_the_segment(no_leaks: None) -> None:
    segment = Segment.create(1, guests=1)
    codec = Codec(segment.store_put, segment.store_get, segment.arena)
    array = isolated_message(codec, np.arange(20_000))
    view = unpack(codec, pack_bytes(codec, memoryview(fill(3))))
    others = [isolated_message(codec, np.arange(200_000)) for _ in range(5)]
    others.clear()
    segment.phase = 3
    segment.close()
    assert same(np.arange(20_000), array)
    assert fill(3) == view
    del array
    assert fill(3) == view
    del view, codec  # now it is unmapped: `no_leaks` looks


def test_views_at_the_end_of_the_interpreter_do_no_harm() -> None:
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=60)
    assert (0, "") == (done.returncode, done.stderr)


AT_EXIT = """
import sys
from parallel_actors.workers.segment import Segment
from parallel_actors.workers.codec import Codec, isolated_message, pack_bytes, share_with, unpack
segment = Segment.create(1, guests=1)
codec = Codec(segment.store_put, segment.store_get, segment.arena)
sys.kept = [unpack(codec, pack_bytes(codec, memoryview(bytes(100_000)))), share_with(codec, bytes(100_000))]
class Late:
    def __del__(self, view=sys.kept[0]):
        assert view[99_999] == 0
sys.late = Late()
"""


# --- other OS processes, killed at random -----------------------------------------------------------------------------

# Worker 0 sends blocks, each full of its own number, as fast as it can; worker 1 takes them, keeps some for a while and
# checks all.
SENDER = """
import itertools, os, sys
from parallel_actors.workers.segment import Segment
from parallel_actors.workers.errors import NotPicklable
from parallel_actors.workers.ring import Outbox
fds = list(map(int, sys.argv[1].split(",")))
segment = Segment.attach(fds[0], fds[1:], 0)
out = Outbox(segment, 0, int(sys.argv[2]), 1, 0)
os.write(1, b"go")
for number in itertools.count():
    size = (40_000, 70_000, 300_000)[number % 3]
    block = segment.arena.allocate_bytes(bytes([number % 251]) * size)
    body = number.to_bytes(8, "little") + size.to_bytes(8, "little")
    while out.put_held(2, 0, 0, body, [block]) == 0 and not out.flush_all():
        pass
    while segment.arena_used()[0] > 40:
        pass
    del block
"""


class Taker:
    """Takes what the sender sends, without a gap, and keeps it for a while before it looks."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.kept: list[tuple[int, int, Block]] = []
        self.count = 0

    def take(self) -> bool:
        record = self.inbox.next_held()
        if record is None:
            return False
        number, size = int.from_bytes(record[3][:8], "little"), int.from_bytes(record[3][8:], "little")
        assert number == self.count
        self.count += 1
        assert record[4] is not None
        self.kept.append((number, size, record[4][0]))
        self.check(20)
        return True

    def check(self, most: int) -> None:
        while len(self.kept) > most:
            number, size, made = self.kept.pop(0)
            assert memoryview(made)[:size] == fill(number, size)


@contract("S9.9", "S2.4", partly=True)
def test_a_sender_killed_anywhere_leaks_and_spoils_nothing(segment: Segment) -> None:
    root, taker = attached(segment, 2), attached(segment, 1)
    try:
        segment.put_slot(1, 0, LIVE)
        inbox = Inbox(taker, 1, 0, 0, 0)
        fds = segment.fds()
        for incarnation in range(12):
            segment.put_slot(0, incarnation, LIVE)
            sender = subprocess.Popen(
                [sys.executable, "-c", SENDER, ",".join(map(str, fds)), str(incarnation)],
                pass_fds=fds,
                stdout=subprocess.PIPE,
            )
            assert sender.stdout is not None
            assert b"go" == sender.stdout.read(2)
            taker_side = Taker(inbox)
            while taker_side.count < 30 + 37 * incarnation:
                taker_side.take()
            sender.send_signal(signal.SIGKILL)
            sender.wait()
            sender.stdout.close()
            adopt_flights(root, 0)
            segment.put_slot(0, incarnation + 1, DOWN)
            root.bury(0)
            while taker_side.take():
                pass
            inbox.on_peer_down(incarnation)
            taker_side.check(0)
            assert (0, 0) == arena_of(root).used()
    finally:
        root.close()
        taker.close()


def test_threads_of_one_os_process_share_its_hold(segment: Segment, codec: Codec) -> None:
    view = unpack(codec, pack_bytes(codec, np.arange(20_000)))
    seen = []
    ready, go = threading.Event(), threading.Event()

    def look(mine: Any) -> None:
        ready.set()
        go.wait(30)
        seen.append(int(mine[100]))

    thread = threading.Thread(target=look, args=(view[1:],))
    thread.start()
    del view
    ready.wait(30)
    for number in range(20):
        unpack(codec, pack_bytes(codec, np.full(20_000, number)))
    go.set()
    thread.join()
    del thread
    assert [101] == seen
    eventually(lambda: segment.arena_used() == (0, 0), "the thread has let go")
