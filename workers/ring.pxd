cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from parallel_actors.workers.arena cimport Holds, Meter
from parallel_actors.workers.segment cimport Segment

cdef struct Record:
    uint8_t kind
    uint8_t flags
    uint16_t aux
    const uint8_t* body      # valid until release() or the following next()
    size_t size              # of a lost body (kind 1, flags: its own kind, aux: its own flags): `body` is its first 304 bytes

# One record of the overflow; its bytes follow it in the same allocation.
cdef struct Waiting:
    Waiting* after
    size_t size              # of the bytes that follow; 0 of a large body: there was no memory, tell the consumer to forget it
    size_t sent              # of them, already in the ring (fragments)
    uint64_t total           # of the whole body; more than `size` where the first fragments went straight from the caller
    uint32_t incarnation
    uint16_t aux
    uint8_t kind
    uint8_t flags
    bint begun               # the first fragment is in the ring
    PyObject* holds          # owned: a Holds whose record is still to be written before this one; or NULL

@cython.final
cdef class Outbox:           # one per (self -> peer), owned by self's thread
    cdef readonly Segment segment
    cdef readonly uint32_t endpoint           # self
    cdef readonly uint32_t incarnation        # own
    cdef readonly uint32_t peer
    cdef readonly uint32_t peer_incarnation   # what we believe
    cdef readonly size_t queued_bytes         # overflow
    cdef readonly size_t queued_count
    cdef uint8_t* ring
    cdef uint64_t tail
    cdef uint64_t head_seen                   # a lower bound of the consumer's head
    cdef uint32_t size
    cdef uint32_t largest                     # body of a record that goes unfragmented
    cdef bint reserved
    cdef bint usable                          # the epoch is ours; stays so until peer_down
    cdef bint owed                            # a reset that there was no memory for
    # Set right before `put`: the blocks that its record mentions.
    cdef Holds holds
    cdef Meter meter                 # bytes of blocks that are under way, taken by nobody yet
    cdef Waiting* first
    cdef Waiting* last

    cdef bint _ready(self) except -1
    cdef void _reset(self) noexcept
    cdef bint _room(self, uint32_t padded) noexcept nogil
    cdef bint _write(self, uint8_t kind, uint8_t flags, uint16_t aux, const void* a, size_t na, const void* b, size_t nb,
                     const void* c, size_t nc) noexcept nogil
    cdef size_t _fragments(self, uint8_t kind, uint8_t flags, uint16_t aux, uint64_t total, size_t done, const uint8_t* a,
                           size_t na, const uint8_t* b, size_t nb, bint begun) noexcept nogil
    cdef void _publish(self) noexcept nogil
    cdef void ask(self) noexcept nogil
    cdef int _write_holds(self, Holds holds) except -1
    cdef int _put_held(self, uint32_t incarnation, uint8_t kind, uint8_t flags, uint16_t aux,
                       const void* head, size_t nhead, const void* payload, size_t npayload) except -2
    cdef int _queue(self, uint32_t incarnation, uint8_t kind, uint8_t flags, uint16_t aux, const void* head, size_t nhead,
                    const void* payload, size_t npayload, size_t done) except -1
    cdef void _drop_first(self) noexcept

    # 1 in the ring, 0 queued, -1 dropped (for an incarnation older than believed). Never blocks.
    cdef int put(self, uint32_t incarnation, uint8_t kind, uint8_t flags, uint16_t aux,
                 const void* head, size_t nhead, const void* payload, size_t npayload) except -2
    cdef bint flush(self) except -1           # True: the overflow is empty now
    cdef int need(self) except -1             # SegmentFull, if there is no memory for the ring
    cdef void peer_down(self, uint32_t dead_incarnation) except *

@cython.final
cdef class Inbox:            # one per (peer -> self), owned by self's thread
    cdef readonly Segment segment
    cdef readonly uint32_t endpoint
    cdef readonly uint32_t incarnation
    cdef readonly uint32_t peer
    cdef readonly uint32_t peer_incarnation
    # The body of the record that next() gave, where it came in fragments (take it instead of copying); else None.
    cdef readonly bytes whole
    # The blocks of the record that next() gave, held: take them, and leave None.
    cdef Holds holds
    cdef uint8_t* ring
    cdef uint64_t position                    # read up to here
    cdef uint64_t released                    # copied out up to here
    cdef uint64_t published                   # == head in the ring
    cdef uint64_t tail_seen
    cdef uint32_t size
    cdef bint usable
    cdef bint owed                            # a reset that there was no memory for: `settle` tries again
    cdef bytes gathering                      # fragments so far
    cdef uint64_t gathered
    cdef uint64_t lost                        # size of a body that there is no memory for; 0 = none is under way
    cdef bint back                            # `last` comes again
    cdef Record last
    cdef uint8_t[304] lost_start              # its first bytes: the scheduler's own part, and a name of 255
    cdef uint8_t kind
    cdef uint8_t flags
    cdef uint16_t aux

    cdef bint _ready(self) except -1
    cdef void _reset(self) noexcept
    cdef void _publish(self) noexcept nogil
    cdef int _fragment(self, Record* r, uint8_t flags, const uint8_t* body, size_t n) except -1
    cdef int _take_holds(self, const uint8_t* body, size_t n) except -1
    cdef int _lose(self, Record* r, uint8_t flags) noexcept
    cdef bint next(self, Record* r) except -1      # False: nothing (also when the epoch isn't ours)
    cdef void put_back(self, Record* r) noexcept    # what next() has given and isn't released: it gives that again
    cdef bint at_rest(self) except -1              # False: a body is half read. Else another Inbox may go on from here
    cdef void release(self) noexcept
    cdef bint settle(self) except -1               # True: no reset is owed (any more)
    cdef bint more(self) except -1                 # a look: next() would find a record or a fragment
    cdef void set_born(self, uint64_t counter) noexcept nogil
    cdef void peer_down(self, uint32_t dead_incarnation) except *   # after draining with next()

# The highest spawn counter that the consumer has seen from this producer (0: none, or nothing was ever sent).
cdef uint64_t ring_born(Segment segment, uint32_t producer, uint32_t consumer) noexcept nogil
