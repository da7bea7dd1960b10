from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from parallel_actors.workers.segment cimport Segment

cdef enum Stage:
    EMPTY = 0
    READY = 1           # anybody may take it
    CLAIMED = 2         # a thief has it, and nothing of it has run
    BEGUN = 3           # it runs at the thief

cdef enum:
    SLOTS = 64
    ROOM = 65536 - 64   # bytes that fit into a slot


cdef class Exports:
    """The slots of one worker, for itself."""
    cdef Segment segment
    cdef readonly uint32_t endpoint
    cdef readonly uint64_t used     # slots that aren't EMPTY, as far as the owner knows
    cdef uint64_t *words            # what the owner has written to each slot last
    cdef uint32_t *reserved         # bytes of each slot that memory is reserved for

    cdef int put(self, const char *a, size_t na, const char *b, size_t nb, int64_t now) except -2
    cdef bint take_back(self, int slot) noexcept
    cdef uint64_t word(self, int slot) noexcept
    cdef void free(self, int slot) noexcept


cdef struct Loot:
    uint32_t owner
    int slot
    uint64_t word       # of the claim


cdef inline int stage_of(uint64_t word) noexcept nogil:
    return <int>(word & 0xFF)

cdef inline uint32_t thief_of(uint64_t word) noexcept nogil:
    return <uint32_t>(word >> 8 & 0xFFFF)

cdef inline uint32_t thief_incarnation_of(uint64_t word) noexcept nogil:
    return <uint32_t>(word >> 24 & 0xFFFF)

cdef bytes claim(Segment segment, uint32_t owner, uint32_t thief, uint32_t incarnation, int64_t before, Loot *loot)
cdef bint begin(Segment segment, Loot *loot) noexcept nogil
cdef void give_back(Segment segment, Loot *loot) noexcept nogil
cdef bint any_ready(Segment segment, uint32_t owner) noexcept nogil
cdef void set_idle(Segment segment, uint32_t e) noexcept nogil
cdef void clear_idle(Segment segment, uint32_t e) noexcept nogil
cdef int an_idle(Segment segment, uint32_t but) noexcept nogil
