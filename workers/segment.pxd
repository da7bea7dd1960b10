cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from parallel_actors.workers.arena cimport Arena

cdef extern from "atomics.h" nogil:
    uint32_t ld32_relaxed "pa_ld32_relaxed"(const void* p) noexcept
    uint32_t ld32_acquire "pa_ld32_acquire"(const void* p) noexcept
    void st32_relaxed "pa_st32_relaxed"(void* p, uint32_t v) noexcept
    void st32_release "pa_st32_release"(void* p, uint32_t v) noexcept
    uint32_t xchg32 "pa_xchg32"(void* p, uint32_t v) noexcept
    uint32_t add32 "pa_add32"(void* p, uint32_t v) noexcept
    uint32_t or32 "pa_or32"(void* p, uint32_t v) noexcept
    bint cas32 "pa_cas32"(void* p, uint32_t old, uint32_t v) noexcept
    uint64_t ld64_relaxed "pa_ld64_relaxed"(const void* p) noexcept
    uint64_t ld64_acquire "pa_ld64_acquire"(const void* p) noexcept
    void st64_relaxed "pa_st64_relaxed"(void* p, uint64_t v) noexcept
    void st64_release "pa_st64_release"(void* p, uint64_t v) noexcept
    uint64_t xchg64 "pa_xchg64"(void* p, uint64_t v) noexcept
    uint64_t add64 "pa_add64"(void* p, uint64_t v) noexcept
    uint64_t or64 "pa_or64"(void* p, uint64_t v) noexcept
    uint64_t and64 "pa_and64"(void* p, uint64_t v) noexcept
    bint cas64 "pa_cas64"(void* p, uint64_t old, uint64_t v) noexcept
    void fence "pa_fence"() noexcept
    void fence_acquire "pa_fence_acquire"() noexcept
    void fence_release "pa_fence_release"() noexcept

# State of a slot (the high half of its word).
cdef enum:
    SLOT_FREE = 0
    SLOT_CLAIMED = 1
    SLOT_LIVE = 2
    SLOT_ENDED = 3
    SLOT_DOWN = 4

@cython.final
cdef class Segment:
    cdef readonly int fd
    cdef readonly uint32_t nonce
    cdef readonly uint32_t workers           # slots for workers; how many there are may change
    cdef readonly uint32_t endpoints
    cdef readonly uint32_t ring_bytes
    cdef readonly uint32_t root              # == workers
    cdef uint8_t* base                       # NULL once closed
    cdef readonly list eventfds              # one per endpoint
    cdef int* bells                          # the same, for C
    cdef uint8_t* reserved                   # endpoints^2, of this OS process only: this block's header page is known to exist
    cdef uint32_t dirty_words                # words of a dirty map that are in use
    cdef uint64_t slots_at
    cdef uint64_t rings_at
    cdef uint64_t steals_at
    cdef uint64_t names_at
    cdef uint64_t store_at
    cdef uint64_t total                      # bytes of the memfd up to the arena, a multiple of 4096
    cdef readonly Arena arena                # None: this OS process has none
    cdef uint64_t block_bytes                # 4096 + ring_bytes

    cdef int _map(self, int fd) except -1
    cdef void _unmap(self) noexcept
    cdef int _open(self) except -1
    cdef int _endpoint(self, object e) except -1

    cdef uint8_t* slot_at(self, uint32_t e) noexcept nogil
    cdef uint64_t slot_word(self, uint32_t e) noexcept nogil
    cdef uint32_t incarnation(self, uint32_t e) noexcept nogil
    cdef uint32_t state(self, uint32_t e) noexcept nogil
    cdef bint is_leaving(self, uint32_t e) noexcept nogil
    cdef bint takes(self, uint32_t e, uint64_t word) noexcept nogil
    cdef bint cas_slot(self, uint32_t e, uint64_t old, uint64_t new) noexcept nogil
    # Release store, then a full fence: "go live, then read the others' incarnations" against the root's
    # "count up, then read the others' states" is Dekker's pattern too.
    cdef void set_slot(self, uint32_t e, uint32_t incarnation, uint32_t state) noexcept nogil

    # Producer, after it stored a tail: fence, dirty bit, parked swap, eventfd.
    cdef void ring_bell(self, uint32_t producer, uint32_t consumer) noexcept nogil
    # Always writes the eventfd (deaths, stop).
    cdef void wake(self, uint32_t endpoint) noexcept nogil
    cdef bint any_dirty(self, uint32_t consumer) noexcept nogil
    # Takes one word of the map (swap to 0, then a full fence: read the tails after it). Words: 0 .. dirty_words - 1.
    cdef uint64_t take_dirty(self, uint32_t consumer, uint32_t word) noexcept nogil
    cdef void park_begin(self, uint32_t e) noexcept nogil
    cdef void park_end(self, uint32_t e) noexcept nogil

    cdef uint8_t* ring_base(self, uint32_t producer, uint32_t consumer) noexcept nogil
    # fallocate of [offset, offset + n); 0 or the errno
    cdef int reserve_errno(self, uint64_t offset, uint64_t n) noexcept nogil
    cdef int reserve(self, uint64_t offset, uint64_t n) except -1
    # The header page of a block exists after this (even reading a hole of shmem allocates, and a full memory is SIGBUS).
    cdef bint reserve_header(self, uint32_t producer, uint32_t consumer) noexcept nogil
    cdef int need_header(self, uint32_t producer, uint32_t consumer) except -1
    cdef int need_ring(self, uint32_t producer, uint32_t consumer) except -1
    # head = tail = hungry = born = 0, then the epoch. Only for who may: see "Epochs".
    cdef void reset_ring(self, uint32_t producer, uint32_t consumer, uint32_t inc_producer, uint32_t inc_consumer) noexcept nogil

    cdef int bury_holder(self, uint32_t holder) except -1
    cdef uint64_t store_alloc(self, size_t n) except? 0
    cdef void set_load(self, uint32_t e, uint32_t processes, uint32_t runq) noexcept nogil
    cdef void set_end_due(self, uint32_t e, bint due) noexcept nogil
    cdef void set_busy(self, uint32_t e, uint64_t ns) noexcept nogil
    cdef void set_progress(self, uint32_t e, uint64_t messages, uint64_t turns) noexcept nogil
