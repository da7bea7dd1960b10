# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Arrays of 64-bit integers in shared memory: OTP's `atomics` and `counters`.

An array is a block of the arena (arena.pyx). A handle holds it, as a `Shared` does that goes to many receivers; what is different is that
its content changes, so it never travels by value (`Shared.live`): in a message goes the number of the block, and the message holds it.
Bytes that nobody counts (timers, exit reasons, the state of a process that moves) pin it: such an array stays until the node stops.

=========  ==================  ==========================================================================================
array      bytes               a cell
=========  ==================  ==========================================================================================
atomics    8 * size            word `i`; each operation is one C11 operation, sequentially consistent
counters   8 * size            the same, but `add` is relaxed
 for many  rows of 8 * size,   one row per OS process (a holder of the arena), which alone adds to it; the sum of the
 writers   to 128 each         column is the counter. `put` writes its own row and clears the others, one after the other
=========  ==================  ==========================================================================================

The words wrap around: sums are made without a sign, and the sign is a matter of how a word is read. Nothing here runs user code, blocks, or
is preempted in the middle.
"""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from parallel_actors.workers.arena cimport Arena, Block
from parallel_actors.workers.codec cimport Shared, make_shared
from parallel_actors.workers.scheduler cimport Scheduler, here

from parallel_actors.workers.errors import SegmentFull

cdef extern from "atomics.h" nogil:
    uint64_t ld64_relaxed "pa_ld64_relaxed"(const void* p) noexcept
    uint64_t ld64_seq "pa_ld64_seq"(const void* p) noexcept
    uint64_t xchg64 "pa_xchg64"(void* p, uint64_t v) noexcept
    uint64_t add64 "pa_add64"(void* p, uint64_t v) noexcept
    uint64_t add64_relaxed "pa_add64_relaxed"(void* p, uint64_t v) noexcept
    bint cas64 "pa_cas64"(void* p, uint64_t old, uint64_t v) noexcept

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object o, int* overflow) except? -1
    unsigned long long PyLong_AsUnsignedLongLong(object o) except? 0xFFFFFFFFFFFFFFFF

cdef enum:
    ANY_WORD = 0        # what fits into 64 bits, with a sign or without
    SIGNED = 1
    UNSIGNED = 2

cdef tuple ranges = ("-2**63 to 2**64 - 1", "-2**63 to 2**63 - 1", "0 to 2**64 - 1")


cdef uint64_t word_of(object value, int kind) except? 0xFFFFFFFFFFFFFFFF:
    """The bits of a number."""
    cdef int overflow = 0
    cdef long long small
    if isinstance(value, int) and not isinstance(value, bool):
        small = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow == 0 and (small >= 0 or kind != UNSIGNED):
            return <uint64_t>small
        if overflow > 0 and kind != SIGNED:
            try:
                return PyLong_AsUnsignedLongLong(value)
            except OverflowError:
                pass
        raise ValueError(f"expected a whole number from {ranges[kind]}, got {value!r}")
    raise TypeError(f"expected a whole number from {ranges[kind]}, got {value!r} ({type(value).__name__})")


cdef class Cells:
    """What both kinds of arrays are: a handle on a block."""

    cdef Shared shared
    cdef uint8_t* at
    cdef Py_ssize_t size
    cdef Py_ssize_t row             # bytes from one row to the next; 0: there is one row only
    cdef int kind

    def __init__(self):
        raise TypeError("an array is made by atomics.new(size) or counters.new(size)")

    cdef int use(self, Shared shared, Py_ssize_t size, Py_ssize_t row, int kind) except -1:
        shared.live = True
        self.shared = shared
        self.at = shared.block.data
        self.size = size
        self.row = row
        self.kind = kind
        return 0

    cdef uint8_t* cell(self, object index) except NULL:
        """Where a cell is, in the first row."""
        cdef Py_ssize_t i
        if type(index) is not int:
            raise TypeError(f"expected an index from 0 to {self.size - 1}, got {index!r} ({type(index).__name__})")
        if not 0 <= index < self.size:
            raise IndexError(f"expected an index from 0 to {self.size - 1}, got {index!r}")
        i = index
        return self.at + 8 * i

    cdef object number(self, uint64_t word):
        return <unsigned long long>word if self.kind == UNSIGNED else <long long>word

    def __eq__(self, other):
        if type(other) is not type(self):
            return NotImplemented
        return self.shared.block is (<Cells>other).shared.block

    def __hash__(self):
        return hash(self.shared.block.id)

    def __reduce__(self):
        return _again, (type(self), self.shared, self.size, self.row, self.kind)


@cython.final
cdef class AtomicsRef(Cells):
    """An array of `atomics`. It travels in messages: whoever has it uses the same numbers."""

    def __repr__(self):
        return f"<atomics of {self.size}, {'unsigned' if self.kind == UNSIGNED else 'signed'}>"


@cython.final
cdef class CountersRef(Cells):
    """An array of `counters`. It travels in messages: whoever has it uses the same numbers."""

    def __repr__(self):
        return f"<counters of {self.size}{', for many writers' if self.row else ''}>"


def _again(cls, Shared shared not None, Py_ssize_t size, Py_ssize_t row, int kind):
    cdef Cells made = cls.__new__(cls)
    made.use(shared, size, row, kind)
    return made


cdef int make(Cells made, object size, int kind, bint many) except -1:
    cdef Scheduler s = here()
    cdef Arena arena = s.segment.arena
    cdef Block block = None
    cdef Py_ssize_t row = 0
    cdef uint64_t n
    s.may_act()
    if type(size) is not int:
        raise TypeError(f"expected a size of 1 or more, got {size!r} ({type(size).__name__})")
    if not 1 <= size < 1 << 40:
        raise ValueError(f"expected a size of 1 to 2**40 - 1, got {size!r}")
    n = 8 * <uint64_t>size
    if many and arena is not None:
        row = (n + 127) // 128 * 128
        n = row * arena.holders
    if arena is not None:
        block = arena.allocate(n)
    if block is None:
        raise SegmentFull(f"no shared memory for an array of {size} numbers ({n} bytes): give the system more (`arena_bytes`), or make fewer arrays")
    memset(block.data, 0, n)
    return made.use(make_shared(block, 0, n, b""), size, row, kind)


cdef dict facts(Cells ref):
    low, high = (0, 2**64 - 1) if ref.kind == UNSIGNED else (-2**63, 2**63 - 1)
    return {"size": ref.size, "min": low, "max": high, "memory": ref.shared.length}


# ---------------------------------------------------------------------- atomics

def atomics_new(size, *, bint signed=True):
    """A new array of `size` numbers, all 0 (OTP: `atomics:new/2`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     tickets = pa.atomics.new(1)
    ...     pa.atomics.add_get(tickets, 0, 1), pa.atomics.add_get(tickets, 0, 1)
    (1, 2)

    Args:
        size: how many, from 1. They take 8 bytes each, and an array at least a page.
        signed: whether a number is from -2**63 to 2**63 - 1, or from 0 to 2**64 - 1. What grows beyond wraps around.

    Raises:
        TypeError, ValueError: for a bad size.
        SegmentFull: there is no shared memory left, or this worker has made 65,536 large buffers and arrays that are still in use.
    """
    cdef AtomicsRef made = AtomicsRef.__new__(AtomicsRef)
    make(made, size, SIGNED if signed else UNSIGNED, False)
    return made


def atomics_get(AtomicsRef ref not None, index, /):
    """The number at `index` (OTP: `atomics:get/2`)."""
    return ref.number(ld64_seq(ref.cell(index)))


def atomics_put(AtomicsRef ref not None, index, value, /):
    """Set the number at `index` (OTP: `atomics:put/3`)."""
    cdef uint64_t word = word_of(value, ref.kind)
    xchg64(ref.cell(index), word)


def atomics_add(AtomicsRef ref not None, index, incr=1, /):
    """Add to the number at `index` (OTP: `atomics:add/3`)."""
    cdef uint64_t word = word_of(incr, ANY_WORD)
    add64(ref.cell(index), word)


def atomics_sub(AtomicsRef ref not None, index, decr=1, /):
    """Subtract from the number at `index` (OTP: `atomics:sub/3`)."""
    cdef uint64_t word = word_of(decr, ANY_WORD)
    add64(ref.cell(index), 0 - word)


def atomics_add_get(AtomicsRef ref not None, index, incr=1, /):
    """Add, and return the sum, in one step (OTP: `atomics:add_get/3`)."""
    cdef uint64_t word = word_of(incr, ANY_WORD)
    return ref.number(add64(ref.cell(index), word) + word)


def atomics_sub_get(AtomicsRef ref not None, index, decr=1, /):
    """Subtract, and return the difference, in one step (OTP: `atomics:sub_get/3`)."""
    cdef uint64_t word = word_of(decr, ANY_WORD)
    return ref.number(add64(ref.cell(index), 0 - word) - word)


def atomics_exchange(AtomicsRef ref not None, index, value, /):
    """Set the number at `index`, and return the one that was there, in one step (OTP: `atomics:exchange/3`)."""
    cdef uint64_t word = word_of(value, ref.kind)
    return ref.number(xchg64(ref.cell(index), word))


def atomics_compare_exchange(AtomicsRef ref not None, index, expected, desired, /):
    """Set the number at `index` to `desired` if it is `expected`, in one step (OTP: `atomics:compare_exchange/4`).

    Returns None if it was, else the number that is there: then nothing has changed.
    """
    cdef uint64_t old = word_of(expected, ref.kind), word = word_of(desired, ref.kind), found
    cdef uint8_t* at = ref.cell(index)
    while not cas64(at, old, word):
        found = ld64_seq(at)
        if found != old:        # else it has come back meanwhile
            return ref.number(found)
    return None


def atomics_info(AtomicsRef ref not None, /):
    """Its size, the least and the greatest number, and its bytes of memory (OTP: `atomics:info/1`)."""
    return facts(ref)


# ---------------------------------------------------------------------- counters

def counters_new(size, *, bint write_concurrency=False):
    """A new array of `size` counters, all 0 (OTP: `counters:new/2`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     hits = pa.counters.new(2)
    ...     pa.counters.add(hits, 0, 3)
    ...     pa.counters.get(hits, 0), pa.counters.get(hits, 1)
    (3, 0)

    Args:
        size: how many, from 1.
        write_concurrency: for counters that many workers write often, and few read: each worker adds in memory of its own, so that none
            waits for another. Takes that much more memory. A `get` may miss what is added meanwhile elsewhere, and a `put` at the
            same time as an `add` may lose either; each process sees its own adds.

    A counter is a signed number of 64 bits, and wraps around. Each operation is atomic. Nothing is said about the order in which
    others see changes of different counters: use `atomics` where that matters.

    Raises:
        TypeError, ValueError, SegmentFull: as `atomics.new`.
    """
    cdef CountersRef made = CountersRef.__new__(CountersRef)
    make(made, size, SIGNED, write_concurrency)
    return made


cdef inline uint8_t* own(CountersRef ref, uint8_t* cell) noexcept:
    """The cell of the row that this OS process adds to."""
    return cell + ref.row * ref.shared.block.arena.me


def counters_get(CountersRef ref not None, index, /):
    """The counter at `index` (OTP: `counters:get/2`)."""
    cdef uint8_t* at = ref.cell(index)
    cdef uint64_t total = 0
    cdef uint32_t h
    if ref.row == 0:
        return ref.number(ld64_seq(at))
    for h in range(ref.shared.block.arena.holders):
        total += ld64_relaxed(at + ref.row * h)
    return ref.number(total)


def counters_put(CountersRef ref not None, index, value, /):
    """Set the counter at `index` (OTP: `counters:put/3`)."""
    cdef uint64_t word = word_of(value, SIGNED)
    cdef uint8_t* at = ref.cell(index)
    cdef uint32_t h
    if ref.row:
        for h in range(ref.shared.block.arena.holders):
            if h != ref.shared.block.arena.me:
                xchg64(at + ref.row * h, 0)
    xchg64(own(ref, at), word)


def counters_add(CountersRef ref not None, index, incr=1, /):
    """Add to the counter at `index` (OTP: `counters:add/3`)."""
    cdef uint64_t word = word_of(incr, ANY_WORD)
    add64_relaxed(own(ref, ref.cell(index)), word)


def counters_sub(CountersRef ref not None, index, decr=1, /):
    """Subtract from the counter at `index` (OTP: `counters:sub/3`)."""
    cdef uint64_t word = word_of(decr, ANY_WORD)
    add64_relaxed(own(ref, ref.cell(index)), 0 - word)


def counters_info(CountersRef ref not None, /):
    """Its size and its bytes of memory (OTP: `counters:info/1`)."""
    return {name: value for name, value in facts(ref).items() if name in ("size", "memory")}
