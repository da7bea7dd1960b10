"""The name table: one owner per name however many claim it at once, and nothing left of a dead worker."""

from __future__ import annotations

import mmap
import os
import random
import struct
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_actors.workers.names import NameTable
from parallel_actors.workers.segment import Segment, SegmentFull, StoreFull


@pytest.fixture
def names(segment: Segment) -> NameTable:
    return NameTable(segment)


def hi(endpoint: int, incarnation: int = 0, nonce: int = 9) -> int:
    return nonce << 32 | endpoint << 16 | incarnation


@pytest.mark.contract("S5.1")
def test_a_name_has_one_owner(names: NameTable) -> None:
    assert names.whereis("db") is None
    assert names.try_claim("db", hi(1), 5)
    assert (hi(1), 5) == names.whereis("db")
    assert not names.try_claim("db", hi(0), 6)
    assert not names.try_claim("db", hi(1), 5), "also not twice by its owner"
    assert not names.release("db", hi(0), 6)
    assert not names.release("db", hi(1), 6)
    assert (hi(1), 5) == names.whereis("db")
    assert names.release("db", hi(1), 5)
    assert not names.release("db", hi(1), 5)
    assert names.whereis("db") is None
    assert names.try_claim("db", hi(0), 6)
    assert (hi(0), 6) == names.whereis("db")
    assert 1 == names.bound()


@pytest.mark.contract("S5.1")
def test_registered_lists_the_owned(names: NameTable) -> None:
    for i in range(500):
        assert names.try_claim(f"name {i}", hi(i % 3), i)
    for i in range(0, 500, 2):
        assert names.release(f"name {i}", hi(i % 3), i)
    assert sorted((f"name {i}", hi(i % 3), i) for i in range(1, 500, 2)) == sorted(names.registered())
    assert names.release("never bound", hi(0), 0) is False


@pytest.mark.parametrize("name", ["a", "a" * 255, "ü" * 127, "a\0b", "\U0001f600", "a" * 7, "a" * 8, "a" * 9])
def test_names_of_every_kind(names: NameTable, name: str) -> None:
    assert names.try_claim(name, hi(1), 1)
    assert (hi(1), 1) == names.whereis(name)
    assert [(name, hi(1), 1)] == names.registered()
    assert names.whereis(name + "b" if len(name) < 100 else name[:-1]) is None


@pytest.mark.parametrize("name", ["", "a" * 256, "ü" * 128])
def test_names_too_short_or_too_long(names: NameTable, name: str) -> None:
    for use in (names.whereis, lambda n: names.try_claim(n, 0, 0), lambda n: names.release(n, 0, 0)):
        with pytest.raises(ValueError, match="expected a name of 1 to 255 bytes in UTF-8, got"):
            use(name)


def test_names_that_are_no_text(names: NameTable) -> None:
    with pytest.raises(ValueError, match="no lone surrogates"):
        names.whereis("\ud800")
    for bad in (None, b"db", 5):
        with pytest.raises(TypeError, match=r"(?i)expected .*str"):
            names.whereis(bad)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("cfo"), st.integers(0, 5), st.integers(0, 2), st.integers(0, 1)), max_size=60)
)
def test_against_a_dict(steps: list[tuple[str, int, int, int]]) -> None:
    segment = Segment.create(2)
    names = NameTable(segment)
    model: dict[str, tuple[int, int]] = {}
    for what, i, endpoint, incarnation in steps:
        name, pid = f"n{i}", (hi(endpoint, incarnation), endpoint)
        if what == "c":
            assert (name not in model) == names.try_claim(name, *pid)
            model.setdefault(name, pid)
        elif what == "f":
            assert (model.get(name) == pid) == names.release(name, *pid)
            if model.get(name) == pid:
                del model[name]
        else:
            dead = [n for n, (h, _) in model.items() if h == pid[0]]
            assert len(dead) == names.free_owner(endpoint, incarnation)
            for n in dead:
                del model[n]
        assert model == {n: (h, lo) for n, h, lo in names.registered()}
        assert all(names.whereis(f"n{k}") == model.get(f"n{k}") for k in range(6))
    segment.close()


# --- memory ---


def test_looking_up_costs_no_memory(segment: Segment, names: NameTable) -> None:
    before = segment.allocated_bytes()
    for i in range(5000):
        assert names.whereis(f"nobody {i}") is None
    assert [] == names.registered()
    assert 0 == names.free_owner(0, 0)
    assert before == segment.allocated_bytes()


def test_only_pages_of_claimed_names_are_scanned(segment: Segment, names: NameTable) -> None:
    names.try_claim("one", hi(1), 1)
    before = segment.allocated_bytes()
    assert 1 == names.free_owner(1, 0)
    assert before == segment.allocated_bytes()


def test_a_full_table_and_a_full_store_say_so() -> None:
    segment = Segment.create(1, store_bytes=4096)
    try:
        names = NameTable(segment)
        for i in range(4096 // 16):
            assert names.try_claim(f"n{i:06}", hi(0), i)
        with pytest.raises(StoreFull, match="store of this run has 4096 bytes"):
            names.try_claim("one more", hi(0), 1)
        assert 256 == len(names.registered())
        with mmap.mmap(segment.fd, 4096) as header:
            struct.pack_into("=Q", header, 384, 229376)
        with pytest.raises(MemoryError, match=r"can bind 229376 different names.*Address processes"):
            names.try_claim("one more", hi(0), 1)
        assert names.release("n000001", hi(0), 1)
        assert names.try_claim("n000001", hi(0), 2), "a bound name goes on working"
    finally:
        segment.close()


def test_memory_that_is_refused_is_an_error(segment: Segment, names: NameTable) -> None:
    saved = os.dup(segment.fd)
    readonly = os.open(f"/proc/self/fd/{segment.fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(readonly, segment.fd, inheritable=False)
    with pytest.raises(SegmentFull):
        names.try_claim("db", hi(0), 1)
    os.dup2(saved, segment.fd, inheritable=False)
    os.close(saved)
    os.close(readonly)
    assert names.whereis("db") is None
    assert names.try_claim("db", hi(0), 1)


def test_a_crowded_table_finds_every_name() -> None:
    """100,000 names: long probes, and entries of other names with the same start."""
    segment = Segment.create(1)
    try:
        names = NameTable(segment)
        for i in range(100_000):
            assert names.try_claim(f"n{i}", hi(i % 2), i)
        assert all(names.whereis(f"n{i}") == (hi(i % 2), i) for i in range(100_000))
        assert all(names.whereis(f"m{i}") is None for i in range(100_000))
        assert 50_000 == names.free_owner(1, 0)
        assert 50_000 == len(names.registered())
    finally:
        segment.close()


# --- deaths ---


@pytest.mark.contract("S4.5")
def test_a_dead_incarnation_keeps_no_name(names: NameTable) -> None:
    for i in range(100):
        names.try_claim(f"a{i}", hi(1, 3), i)
        names.try_claim(f"b{i}", hi(1, 4), i)
        names.try_claim(f"c{i}", hi(2, 3), i)
    assert 100 == names.free_owner(1, 3)
    assert 0 == names.free_owner(1, 3)
    assert {"b", "c"} == {name[0] for name, _, _ in names.registered()}
    assert names.try_claim("a0", hi(1, 4), 7)


@pytest.mark.contract("S4.5")
def test_a_claim_cut_in_half_is_freed(segment: Segment, names: NameTable) -> None:
    assert names.try_claim("db", hi(1, 3), 7)
    assert names.release("db", hi(1, 3), 7)
    at = entry_of(segment)
    with mmap.mmap(segment.fd, os.fstat(segment.fd).st_size) as memory:
        (owner,) = struct.unpack_from("=Q", memory, at + 8)
        assert 1 == owner, "free, version 1"
        struct.pack_into("=QQQ", memory, at + 8, 1 << 62 | 1 << 50 | 3 << 34 | 2, hi(1, 3), 0)
        assert names.whereis("db") is None
        assert [] == names.registered()
        assert not names.try_claim("db", hi(0), 1)
        assert 0 == names.free_owner(1, 2)
        assert 0 == names.free_owner(0, 3)
        assert 1 == names.free_owner(1, 3)
    assert names.try_claim("db", hi(0), 1)
    assert (hi(0), 1) == names.whereis("db")


def entry_of(segment: Segment) -> int:
    """Where the only entry of the table is, by the layout in docs/internals.md."""
    start, store = struct.unpack_from("=QQ", os.pread(segment.fd, 4096, 0), 48)
    table = os.pread(segment.fd, store - start, start)
    at = next(i for i in range(0, len(table), 32) if table[i : i + 8] != bytes(8))
    return int(start + at)


# --- several OS processes ---

PRELUDE = """
import os, sys, time
from parallel_actors.workers.names import NameTable
from parallel_actors.workers.segment import Segment
fds = [int(fd) for fd in sys.argv[1].split(",")]
segment = Segment.attach(fds[0], fds[1:])
names = NameTable(segment)
me, *arguments = [int(a) for a in sys.argv[2:]]
"""


def child(script: str, segment: Segment, *arguments: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, ",".join(map(str, segment.fds())), *map(str, arguments)],
        pass_fds=segment.fds(),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.contract("S5.1")
@pytest.mark.parametrize("bound", [False, True], ids=["new names", "bound names"])
def test_of_two_that_claim_at_once_exactly_one_wins(segment: Segment, names: NameTable, bound: bool) -> None:
    script = """
other, count = arguments
won = []
until = time.monotonic() + 10                  # where others have the cores, a step takes some milliseconds
last = False
for i in range(count):
    name = f"name {i}"
    last = last or me == 0 and time.monotonic() > until
    segment.put_slot(me, i + 1, int(last))     # both begin each name together; one says which is the last
    spun = 0
    while segment.slot(other)[0] < i + 1:
        spun += 1
        if spun > 100:
            os.sched_yield()
    if names.try_claim(name, 9 << 32 | me << 16, i + 1):
        won.append(i)
    if last or me == 1 and segment.slot(other)[1]:
        break
print(*won)
"""
    count = 20_000
    for i in range(count if bound else 0):
        assert names.try_claim(f"name {i}", hi(2), 1)
        assert names.release(f"name {i}", hi(2), 1)
    both = [child(script, segment, 0, 1, count), child(script, segment, 1, 0, count)]
    try:
        won = [set(map(int, process.communicate(timeout=60)[0].split())) for process in both]
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert [0, 0] == [process.returncode for process in both]
    assert not won[0] & won[1]
    done = len(won[0] | won[1])
    assert set(range(done)) == won[0] | won[1]
    assert min(map(len, won)) > 0, "they did meet"
    for i in range(done):
        assert (hi(0 if i in won[0] else 1), i + 1) == names.whereis(f"name {i}")
    assert done == len(names.registered())
    assert names.bound() == (count if bound else done)


@pytest.mark.contract("S5.1")
def test_a_reader_never_sees_two_pids_mixed(segment: Segment, names: NameTable) -> None:
    script = """
i = 0
while segment.phase == 0:
    i += 1
    hi = (i & 0xFFFFFFFF) << 32 | me << 16
    if names.try_claim("hot", hi, i * 3 + me):
        assert names.release("hot", hi, i * 3 + me)
"""
    both = [child(script, segment, 0), child(script, segment, 1)]
    try:
        found: set[int] = set()
        seen = 0
        while seen < 20_000 or len(found) < 2:
            pid = names.whereis("hot")
            if pid is not None:
                seen += 1
                found.add(pid[0] >> 16 & 0xFFF)
                assert pid[1] == (pid[0] >> 32) * 3 + (pid[0] >> 16 & 0xFFF)
        segment.phase = 1
        for process in both:
            process.communicate(timeout=60)
        assert [0, 0] == [process.returncode for process in both]
    finally:
        for process in both:
            process.kill()
            process.communicate()


@pytest.mark.contract("S4.5", "S5.1")
def test_a_worker_killed_while_it_claims_keeps_nothing(segment: Segment, names: NameTable) -> None:
    script = """
incarnation, = arguments
hi = 9 << 32 | me << 16 | incarnation
i = 0
while True:
    names.try_claim(f"name {i % 5000}", hi, i)
    if i % 3 == 0:
        names.release(f"name {i % 5000}", hi, i)
    i += 1
    segment.put_slot(me, i, 0)
"""
    chance = random.Random(3)
    names.try_claim("survivor", hi(0), 1)
    for incarnation in range(15):
        segment.put_slot(1, 0, 0)
        process = child(script, segment, 1, incarnation)
        stop_at = chance.randint(1, 8000)
        while segment.slot(1)[0] < stop_at:
            assert process.poll() is None
            os.sched_yield()
        process.kill()
        process.communicate()
        names.free_owner(1, incarnation)
        assert [("survivor", hi(0), 1)] == names.registered()
    for i in range(5000):
        assert names.try_claim(f"name {i}", hi(2), i)
