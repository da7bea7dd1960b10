# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The slots from which idle workers take work that hasn't begun, also from a worker that sits in a native call.

A worker writes a process that waits for its first turn into one of its 64 slots (`Exports.put`); it has it back with `take_back` when
the turn has come, unless a thief was faster (`claim`, then `begin`). What is in a slot is the scheduler's business.

**A slot** (65536 bytes, of which memory is reserved for as much as was needed so far): a word, moved by compare-and-swap, says who has it; then size u32, time of the export i64, and from 64 on the bytes.

    word: stage 8 bits (EMPTY, READY, CLAIMED, BEGUN), thief 16, its incarnation 16, generation 24

The owner alone writes bytes, into a slot whose word it has made EMPTY with a new generation before. So a thief that copies a slot while its
owner dies and the next one writes there finds its claim gone when it comes to `begin`, and throws the copy away.

**Hints.** A bitmap in the owner's slot of the segment (offset 768) says which slots are READY: set after the word, cleared after it was moved;
only the word counts. A bitmap in the header (offset 768) says which workers are idle: a worker sets its bit, fence, looks at all slots once more, sleeps;
an owner makes a slot READY, fence, looks for idle ones: so one of both sees the other (Dekker).
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from parallel_actors.workers.segment cimport (
    SLOT_LIVE, Segment, and64, cas64, fence, ld32_relaxed, ld64_acquire, ld64_relaxed, or64, st32_relaxed, st64_relaxed, st64_release,
)

cdef enum:
    SLOT = 65536
    IN_SIZE = 8
    IN_TIME = 16
    IN_BYTES = 64
    IN_READY = 768          # in the owner's slot of the segment
    IN_NEXT = 776           # where the owner writes next: from there on, the first READY one is the oldest
    AT_IDLE = 768           # in the header


cdef inline uint64_t made_word(int stage, uint32_t thief, uint32_t incarnation, uint64_t generation) noexcept nogil:
    return <uint64_t>stage | <uint64_t>(thief & 0xFFFF) << 8 | <uint64_t>(incarnation & 0xFFFF) << 24 | generation << 40


cdef inline uint8_t *slot_of(Segment segment, uint32_t owner, int slot) noexcept nogil:
    return segment.base + segment.steals_at + (<uint64_t>owner * SLOTS + slot) * SLOT


cdef inline int lowest(uint64_t bits) noexcept nogil:
    cdef int n = 0
    while not bits & 1:
        bits >>= 1
        n += 1
    return n


cdef class Exports:

    def __cinit__(self, Segment segment not None, uint32_t endpoint):
        self.segment = segment
        self.endpoint = endpoint
        self.words = <uint64_t *>calloc(SLOTS, sizeof(uint64_t))
        self.reserved = <uint32_t *>calloc(SLOTS, sizeof(uint32_t))
        if self.words == NULL or self.reserved == NULL:
            raise MemoryError
        # What an earlier incarnation has left is nobody's.
        st64_release(segment.slot_at(endpoint) + IN_READY, 0)
        st32_relaxed(segment.slot_at(endpoint) + IN_NEXT, 0)

    def __dealloc__(self):
        free(self.words)
        free(self.reserved)

    cdef int put(self, const char *a, size_t na, const char *b, size_t nb, int64_t now) except -2:
        """Write a and b into an empty slot, and offer it. Its number; -1: there is none, or no room for so much, or no memory for it."""
        cdef int slot
        cdef uint32_t next
        cdef uint8_t *at
        cdef uint8_t *mine = self.segment.slot_at(self.endpoint)
        if na + nb > ROOM or self.used == <uint64_t>-1:
            return -1
        next = ld32_relaxed(mine + IN_NEXT)
        while self.used >> next & 1:
            next = next + 1 & SLOTS - 1
        slot = <int>next
        at = slot_of(self.segment, self.endpoint, slot)
        if self.reserved[slot] < IN_BYTES + na + nb:
            if self.segment.reserve_errno(at - self.segment.base, IN_BYTES + na + nb):
                return -1
            self.reserved[slot] = <uint32_t>((IN_BYTES + na + nb + 4095) & ~<size_t>4095)
        # A new generation first: whoever has claimed it from our predecessor must not believe what we write now.
        self.words[slot] = made_word(READY, 0, 0, (ld64_relaxed(at) >> 40) + 1 & 0xFFFFFF)
        st64_release(at, self.words[slot] & ~<uint64_t>0xFF)
        fence()
        st32_relaxed(at + IN_SIZE, <uint32_t>(na + nb))
        st64_relaxed(at + IN_TIME, <uint64_t>now)
        memcpy(at + IN_BYTES, a, na)
        memcpy(at + IN_BYTES + na, b, nb)
        st64_release(at, self.words[slot])
        self.used |= <uint64_t>1 << slot
        or64(mine + IN_READY, <uint64_t>1 << slot)
        st32_relaxed(mine + IN_NEXT, next + 1 & SLOTS - 1)
        return slot

    cdef bint take_back(self, int slot) noexcept:
        """The slot is EMPTY again, and what was in it the owner's alone. False: a thief has it."""
        if not cas64(slot_of(self.segment, self.endpoint, slot), self.words[slot], self.words[slot] & ~<uint64_t>0xFF):
            return False
        and64(self.segment.slot_at(self.endpoint) + IN_READY, ~(<uint64_t>1 << slot))
        self.used &= ~(<uint64_t>1 << slot)
        return True

    cdef uint64_t word(self, int slot) noexcept:
        return ld64_acquire(slot_of(self.segment, self.endpoint, slot))

    cdef void free(self, int slot) noexcept:
        """What was in the slot is the thief's, or the thief is dead."""
        st64_release(slot_of(self.segment, self.endpoint, slot), self.words[slot] & ~<uint64_t>0xFF)
        self.used &= ~(<uint64_t>1 << slot)


cdef bytes claim(Segment segment, uint32_t owner, uint32_t thief, uint32_t incarnation, int64_t before, Loot *loot):
    """Take the oldest of what `owner` has offered before `before` (ns): a copy of it. None: there is nothing."""
    cdef uint8_t *slots = segment.slot_at(owner)
    cdef uint8_t *at
    cdef uint64_t ready = ld64_acquire(slots + IN_READY), word
    cdef uint32_t first = ld32_relaxed(slots + IN_NEXT) & SLOTS - 1
    cdef uint32_t size
    cdef int i, slot
    if not ready or segment.state(owner) != SLOT_LIVE:
        return None
    for i in range(SLOTS):
        slot = first + i & SLOTS - 1
        if not ready >> slot & 1:
            continue
        at = slot_of(segment, owner, slot)
        word = ld64_acquire(at)
        if word & 0xFF != READY or <int64_t>ld64_relaxed(at + IN_TIME) > before:
            continue
        loot.owner = owner
        loot.slot = slot
        if not cas64(at, word, made_word(CLAIMED, thief, incarnation, word >> 40)):
            continue
        loot.word = made_word(CLAIMED, thief, incarnation, word >> 40)
        and64(slots + IN_READY, ~(<uint64_t>1 << slot))
        size = ld32_relaxed(at + IN_SIZE)
        if size > ROOM:
            continue            # the next owner writes there: `begin` would fail
        return PyBytes_FromStringAndSize(<const char *>at + IN_BYTES, size)
    return None


cdef bint begin(Segment segment, Loot *loot) noexcept nogil:
    """What was claimed begins now. False: its owner is dead, and what was copied is worth nothing."""
    return cas64(slot_of(segment, loot.owner, loot.slot), loot.word, loot.word & ~<uint64_t>0xFF | BEGUN)


cdef void give_back(Segment segment, Loot *loot) noexcept nogil:
    """What was claimed can't be taken after all."""
    if cas64(slot_of(segment, loot.owner, loot.slot), loot.word, loot.word & ~<uint64_t>0xFFFFFFFFFF | READY):
        or64(segment.slot_at(loot.owner) + IN_READY, <uint64_t>1 << loot.slot)


cdef bint any_ready(Segment segment, uint32_t owner) noexcept nogil:
    return ld64_relaxed(segment.slot_at(owner) + IN_READY) != 0


cdef void set_idle(Segment segment, uint32_t e) noexcept nogil:
    or64(segment.base + AT_IDLE + (e >> 6 << 3), <uint64_t>1 << (e & 63))
    fence()


cdef void clear_idle(Segment segment, uint32_t e) noexcept nogil:
    cdef uint8_t *at = segment.base + AT_IDLE + (e >> 6 << 3)
    if ld64_relaxed(at) >> (e & 63) & 1:
        and64(at, ~(<uint64_t>1 << (e & 63)))


cdef int an_idle(Segment segment, uint32_t but) noexcept nogil:
    """A worker that is idle and wasn't told yet that there is work: told now, its bit is cleared. -1: none."""
    cdef uint32_t i
    cdef uint64_t bits
    cdef int e
    fence()
    for i in range(segment.dirty_words):
        bits = ld64_relaxed(segment.base + AT_IDLE + 8 * i)
        if bits:
            e = <int>(i << 6) + lowest(bits)
            if <uint32_t>e != but:
                and64(segment.base + AT_IDLE + 8 * i, ~(bits & -bits))
                return e
    return -1
