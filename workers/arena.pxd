cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    ARENA_MIN = 32768                # bytes from which a buffer goes into a block
    KEEP = 256 << 20                 # bytes of memory that the free blocks of a part keep
    MAX_BLOCKS = 100                 # of one message: their numbers go in one record, also in the smallest ring

@cython.final
cdef class Meter:                    # bytes under way to one endpoint, taken by nobody yet
    cdef uint64_t bytes

@cython.final
cdef class Block:
    # A hold of this OS process on one block: there is one of these for it, and the hold ends with it. Exports the block's memory,
    # read-only, so every view keeps it.
    cdef Arena arena
    cdef readonly uint64_t id
    cdef uint8_t* data
    cdef uint64_t size               # bytes that have memory behind them

@cython.final
cdef class Holds:
    # The blocks that one message mentions. No Python code runs when they are let go.
    cdef PyObject** blocks           # owned references
    cdef uint32_t count
    cdef uint32_t room
    cdef uint64_t bytes
    cdef int add(self, Block block) except -1
    cdef int add_all(self, Holds others) except -1

@cython.final
cdef class Flight:
    # Blocks of a record that its consumer hasn't taken yet, held by its producer.
    cdef uint8_t* ring
    cdef uint64_t epoch
    cdef uint64_t end                # where the head is when it has
    cdef Holds holds
    cdef Meter meter                 # or None

@cython.final
cdef class Arena:
    cdef int born                    # see `forks`
    cdef int fd                      # the Segment's
    cdef uint64_t file_at            # where the mapping begins in the file
    cdef uint8_t* base               # NULL once unmapped
    cdef uint64_t size
    cdef uint8_t* slots              # the Segment's; NULL once closed
    cdef readonly uint32_t holders   # OS processes that can hold: workers, the root, the program
    cdef readonly uint32_t parts     # of them, those that allocate
    cdef readonly uint32_t me
    cdef bint owns                   # this OS process has a part of its own to allocate from
    cdef uint64_t entry_bytes
    cdef uint64_t table_bytes
    cdef uint64_t part_bytes         # of each holder's data
    cdef dict live                   # id -> address of its Block (a borrowed reference)
    cdef list known                  # per size class: a deque of the numbers of the own blocks
    cdef list flights
    cdef uint32_t end_index          # the own blocks that exist,
    cdef uint64_t end_at             # and where the next one begins
    cdef readonly uint64_t backed    # bytes of memory behind the own blocks
    cdef uint64_t trimmed_at         # the same, when free ones were last looked for

    cdef uint8_t* entry(self, uint32_t part, uint32_t index) noexcept nogil
    cdef uint32_t count(self, uint32_t part) noexcept nogil
    cdef bint is_free(self, const uint8_t* entry) noexcept nogil
    cdef Block make(self, uint32_t part, uint32_t index)
    # A block of at least `n` bytes with memory behind them, held by this OS process alone; None: no room, no memory.
    cdef Block allocate(self, uint64_t n)
    cdef bint back(self, uint32_t index, uint64_t n) noexcept
    cdef uint64_t trim(self, uint64_t keep) noexcept
    # Take a hold. Only while somebody else is known to have one.
    cdef Block take(self, uint64_t id)
    # The Block that this OS process holds already, or None.
    cdef Block held(self, uint64_t id)
    # From here on `take` may be called without a hold of anybody's.
    cdef void pin(self, Block block) noexcept
    # The held Block that this memory belongs to, or None: it isn't the arena's.
    cdef Block at(self, const void* address, uint64_t n)
    cdef int fly(self, uint8_t* ring, uint64_t epoch, uint64_t end, Holds holds, Meter meter) except -1
    cdef int settle(self) except -1
    cdef int bury(self, uint32_t holder) except -1
    cdef int close(self, bint alone) except -1
    cdef void unmap(self) noexcept

cdef Arena open_arena(int fd, uint64_t file_at, uint64_t part_bytes, uint32_t workers, uint32_t endpoints, uint32_t me, uint8_t* slots)
cdef uint64_t arena_bytes_of(uint32_t workers, uint64_t part_bytes) noexcept
