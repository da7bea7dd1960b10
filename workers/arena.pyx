# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The arena: blocks of shared memory for large buffers, so that they cross OS processes with one copy, the sender's.

    pack -> Arena.allocate, copy in -> Outbox: a record of holds, then the message   ->  Inbox takes the holds
                                       (Arena.fly keeps ours until then)                 decode: views on the block
                                                                                         last view gone: hold dropped

A *holder* is an OS process that maps the arena: a worker, the root, the program that started the system (threads that are guests
belong to theirs). Each has a *part* of the address space to allocate from; blocks of it are never moved, joined or given to another
part. Only what is used costs memory. Layout and memory orders: docs/internals.md, "Arena".

**Who holds.** A block's entry has one byte per holder, which that holder alone writes (the root for the dead): 1 while it has any
reference. In an OS process a hold is one `Block` object; every view, message and record under way refers to that. So the local
count is Python's own, and what is shared is a set, which can be repaired by writing the same thing twice. A block whose bytes are
all 0 is free; its owner finds that out when it next looks for one: nobody has to tell.

**A hold is only taken while somebody else has one** that stays until after it: a sender keeps its own (`fly`) until the consumer's
head has passed the record that lists the blocks; the consumer takes its own before it stores that head. So at no time is a block
that somebody will look at free, whoever is killed where:

=======================================================  ==========================================================================
killed                                                   then
=======================================================  ==========================================================================
the sender, before its record is published               the root clears its byte (`bury`): free
the sender, with records that nobody has taken yet       the root holds what they list before it clears the byte, until they are taken
the consumer, before or after it took its hold           the root clears its byte; the sender's hold ends when the ring is handed over
the owner of the block                                   its entries stay; its next incarnation finds them and allocates from them
between a new entry and the count, memory and `backed`   the next incarnation writes the same entry; gives back what isn't `backed`
=======================================================  ==========================================================================

**Is it free?** The bytes are more than one word, so they can't be read at once, and a hold may wander from one that isn't read yet
to one that was read. `takes` counts: a taker sets its byte, *then* counts, and only after that does who held before let go. If the
count is the same before and after all bytes were read as 0, nobody can have had a hold: one that was counted before would have
had to last all the time.

**No memory.** A block's pages are reserved with `fallocate` before they are touched, as everywhere (segment.pyx). What fails gives
None: the message then goes through the ring. Free blocks keep up to `KEEP` bytes of memory, since fresh pages cost ten times
what the copy does; the rest is given back.

No user code runs here and nothing blocks. The GIL guards all that is this OS process's own.
"""
cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memcpy

import collections
import os

cdef extern from "atomics.h" nogil:
    uint8_t ld8 "pa_ld8_acquire"(const void* p) noexcept
    void st8 "pa_st8_release"(void* p, uint8_t v) noexcept
    uint32_t ld32_relaxed "pa_ld32_relaxed"(const void* p) noexcept
    uint32_t add32 "pa_add32"(void* p, uint32_t v) noexcept
    void st32_relaxed "pa_st32_relaxed"(void* p, uint32_t v) noexcept
    uint64_t ld64_relaxed "pa_ld64_relaxed"(const void* p) noexcept
    uint64_t ld64_acquire "pa_ld64_acquire"(const void* p) noexcept
    void st64_relaxed "pa_st64_relaxed"(void* p, uint64_t v) noexcept
    void st64_release "pa_st64_release"(void* p, uint64_t v) noexcept
    void fence "pa_fence"() noexcept

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <sys/mman.h>
    static int pa_arena_allocate(int fd, uint64_t at, uint64_t n) {
        int r;
        do r = fallocate(fd, 0, (off_t)at, (off_t)n); while (r != 0 && errno == EINTR);
        return r;
    }
    static void pa_arena_punch(int fd, uint64_t at, uint64_t n) {
        /* KEEP_SIZE | PUNCH_HOLE. What fails leaves the memory where it is. */
        while (fallocate(fd, 3, (off_t)at, (off_t)n) != 0 && errno == EINTR) {}
    }
    static void *pa_arena_map(int fd, uint64_t at, uint64_t n) {
        void *p = mmap(NULL, (size_t)n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)at);
        return p == MAP_FAILED ? NULL : p;
    }
    static void pa_arena_unmap(void *p, uint64_t n) { munmap(p, (size_t)n); }
    """
    int pa_arena_allocate(int fd, uint64_t at, uint64_t n) noexcept nogil
    void pa_arena_punch(int fd, uint64_t at, uint64_t n) noexcept nogil
    void* pa_arena_map(int fd, uint64_t at, uint64_t n) noexcept nogil
    void pa_arena_unmap(void* p, uint64_t n) noexcept nogil

cdef enum:
    PAGE = 4096
    SMALLEST = 15                    # log2 of the least size class
    CLASSES = 64 - SMALLEST
    CAPACITY = 65536                 # entries of a part
    TRIES = 16                       # blocks looked at for a free one before a new one is made

    # an entry
    E_OFFSET = 0                     # of the block, from the beginning of the part's data
    E_ROOM = 8                       # bytes of address space, a power of two
    E_BACKED = 16                    # bytes that have memory behind them
    E_TAKES = 24
    E_PINNED = 28                    # 1: never free again
    E_HOLDERS = 32                   # a byte for each

    # of a slot (segment.pyx): how many entries this holder's part has
    IN_SLOT = 1024
    IN_BLOCKS = 640

# In a child that user code has forked, the objects are copies: they hold nothing, and must not let go of anything. An Arena belongs
# to the OS process in which this number is its `born` (workers are forked themselves, before they have one).
cdef int forks = 0


def _forked():
    global forks
    forks += 1


os.register_at_fork(after_in_child=_forked)


cdef inline uint64_t up(uint64_t n, uint64_t to) noexcept nogil:
    return (n + to - 1) & ~(to - 1)


cdef inline int class_of(uint64_t n) noexcept nogil:
    """The least size class that `n` bytes fit in."""
    cdef int c = 0
    while (<uint64_t>1 << (SMALLEST + c)) < n:
        c += 1
    return c


cdef uint64_t entry_size(uint32_t workers) noexcept:
    return up(E_HOLDERS + workers + 2, 64)


cdef uint64_t arena_bytes_of(uint32_t workers, uint64_t part_bytes) noexcept:
    """Bytes of address space of an arena whose parts have so many each."""
    if part_bytes == 0:
        return 0
    return (workers + 2) * (up(CAPACITY * entry_size(workers), PAGE) + part_bytes)


@cython.final
cdef class Meter:
    """Counts the bytes of blocks that are under way to one endpoint."""


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Block:
    """A hold. See the declaration."""

    def __dealloc__(self):
        cdef Arena arena = self.arena
        if arena is None or arena.base == NULL:
            return
        arena.live.pop(self.id, None)
        if arena.born == forks:
            st8(arena.entry(<uint32_t>(self.id >> 32), <uint32_t>self.id) + E_HOLDERS + arena.me, 0)
        if arena.slots == NULL and not arena.live:
            arena.unmap()       # the segment is closed, and this was the last view

    def __getbuffer__(self, Py_buffer* view, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("expected to be read only: others look at the same memory; make a copy to write to")
        PyBuffer_FillInfo(view, self, self.data, <Py_ssize_t>self.size, 1, flags)

    def __len__(self):
        return self.size


@cython.final
@cython.no_gc
cdef class Holds:
    """What keeps the blocks of a message while it isn't decoded."""

    cdef int add(self, Block block) except -1:
        cdef uint32_t i, room
        cdef PyObject** more
        for i in range(self.count):
            if self.blocks[i] == <PyObject*>block:
                return 0
        if self.count == self.room:
            room = 4 if self.room == 0 else self.room * 2
            more = <PyObject**>PyMem_Realloc(self.blocks, room * sizeof(PyObject*))
            if more == NULL:
                raise MemoryError
            self.blocks = more
            self.room = room
        Py_INCREF(block)
        self.blocks[self.count] = <PyObject*>block
        self.count += 1
        self.bytes += block.size
        return 0

    cdef int add_all(self, Holds others) except -1:
        cdef uint32_t i
        for i in range(others.count):
            self.add(<Block>others.blocks[i])
        return 0

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count):
            Py_DECREF(<object>self.blocks[i])
        PyMem_Free(self.blocks)


@cython.final
@cython.no_gc
cdef class Flight:
    """See the declaration."""


@cython.final
cdef class Arena:
    """The arena, as one OS process has it. Made by `Segment`, whose descriptor it uses until `close`."""

    # Invariants: `live` has exactly the Blocks that exist, and the own byte of an entry is 1 exactly for those; `backed` is the sum
    # of E_BACKED over the own part; the own entries 0 .. end_index - 1 stand in `known`, each once.

    def __init__(self):
        raise TypeError("an Arena can't be made by hand: it is part of a Segment")

    def __dealloc__(self):
        self.unmap()

    cdef void unmap(self) noexcept:
        if self.base != NULL:
            pa_arena_unmap(self.base, self.size)
            self.base = NULL

    cdef uint8_t* entry(self, uint32_t part, uint32_t index) noexcept nogil:
        return self.base + part * self.table_bytes + index * self.entry_bytes

    cdef uint32_t count(self, uint32_t part) noexcept nogil:
        """How many entries a part has. Acquire: they were written before."""
        return <uint32_t>ld64_acquire(self.slots + <uint64_t>part * IN_SLOT + IN_BLOCKS)

    cdef bint is_free(self, const uint8_t* entry) noexcept nogil:
        cdef uint32_t takes = add32(<uint8_t*>entry + E_TAKES, 0), h
        for h in range(self.holders):
            if ld8(entry + E_HOLDERS + h):
                return False
        fence()
        # It is pinned while somebody holds it: whoever saw all the bytes gone sees that.
        return add32(<uint8_t*>entry + E_TAKES, 0) == takes and not ld32_relaxed(entry + E_PINNED)

    cdef Block make(self, uint32_t part, uint32_t index):
        """The Block of an entry whose byte is ours already."""
        cdef uint8_t* entry = self.entry(part, index)
        cdef Block block = Block.__new__(Block)
        block.id = <uint64_t>part << 32 | index
        block.data = self.base + self.holders * self.table_bytes + part * self.part_bytes + ld64_relaxed(entry + E_OFFSET)
        block.size = ld64_relaxed(entry + E_BACKED)
        self.live[block.id] = <size_t><PyObject*>block
        block.arena = self          # last: from here on its end lets go
        return block

    cdef Block held(self, uint64_t id):
        address = self.live.get(id)
        return None if address is None else <Block><object><PyObject*><size_t>address

    cdef Block take(self, uint64_t id):
        cdef Block block = self.held(id)
        cdef uint32_t part = <uint32_t>(id >> 32), index = <uint32_t>id
        cdef uint8_t* entry
        if block is not None:
            return block
        if self.slots == NULL or part >= self.parts or index >= self.count(part):
            raise ValueError(f"expected the number of a block of this node's arena, got: {id:#x}")
        entry = self.entry(part, index)
        st8(entry + E_HOLDERS + self.me, 1)
        add32(entry + E_TAKES, 1)           # after the byte, and before whoever held it lets go: see `is_free`
        try:
            return self.make(part, index)
        except MemoryError:
            st8(entry + E_HOLDERS + self.me, 0)
            raise

    cdef void pin(self, Block block) noexcept:
        """Somebody holds `block`, and bytes that nobody counts are to name it: it stays for as long as the segment."""
        st32_relaxed(self.entry(<uint32_t>(block.id >> 32), <uint32_t>block.id) + E_PINNED, 1)

    cdef Block at(self, const void* address, uint64_t n):
        cdef const uint8_t* data = <const uint8_t*>address
        cdef uint64_t offset, room
        cdef uint32_t part, low = 0, high, middle
        cdef uint8_t* entry
        if self.slots == NULL or data < self.base + self.holders * self.table_bytes or data + n > self.base + self.size:
            return None
        offset = data - self.base - self.holders * self.table_bytes
        part = <uint32_t>(offset // self.part_bytes)
        offset -= part * self.part_bytes
        # Entries stand in the order of their blocks.
        high = self.count(part)
        while high - low > 1:
            middle = (low + high) // 2
            if ld64_relaxed(self.entry(part, middle) + E_OFFSET) <= offset:
                low = middle
            else:
                high = middle
        if high == low:
            return None
        entry = self.entry(part, low)
        if offset + n - ld64_relaxed(entry + E_OFFSET) > ld64_relaxed(entry + E_BACKED):
            return None
        return self.held(<uint64_t>part << 32 | low)

    # --- allocation ---

    cdef Block allocate(self, uint64_t n):
        cdef int c, tried
        cdef uint32_t index
        cdef uint64_t at
        cdef uint8_t* entry
        cdef Block block
        if not self.owns or self.slots == NULL or self.born != forks or n == 0 or n > self.part_bytes:
            return None
        self.settle()
        c = class_of(n)
        known = self.known[c]
        for tried in range(min(<int>TRIES, <int>len(known))):
            index = known.popleft()         # the one that has been out for the longest time
            known.append(index)
            if self.is_free(self.entry(self.me, index)):
                break
        else:
            at = up(self.end_at, <uint64_t>1 << (SMALLEST + c)) if c < 6 else up(self.end_at, 1 << 21)
            if at + (<uint64_t>1 << (SMALLEST + c)) > self.part_bytes or self.end_index == CAPACITY:
                # No more addresses. There may be a free one that wasn't among those looked at.
                for index in known:
                    if self.is_free(self.entry(self.me, index)):
                        break
                else:
                    return None
            else:
                index = self.end_index
                entry = self.entry(self.me, index)
                # Before anything is written: a write to a hole is a SIGBUS where memory is full. The table may straddle pages.
                if pa_arena_allocate(self.fd, self.file_at + (entry - self.base) // PAGE * PAGE, 2 * PAGE if
                                     (entry - self.base) % PAGE + self.entry_bytes > PAGE else PAGE) != 0:
                    return None
                for tried in range(<int>(self.entry_bytes // 8)):
                    st64_relaxed(entry + 8 * tried, 0)
                st64_relaxed(entry + E_OFFSET, at)
                st64_relaxed(entry + E_ROOM, <uint64_t>1 << (SMALLEST + c))
                known.append(index)
                self.end_at = at + (<uint64_t>1 << (SMALLEST + c))
                self.end_index += 1
                st64_release(self.slots + <uint64_t>self.me * IN_SLOT + IN_BLOCKS, self.end_index)
        if not self.back(index, n):
            return None
        entry = self.entry(self.me, index)
        st8(entry + E_HOLDERS + self.me, 1)
        try:
            return self.make(self.me, index)
        except MemoryError:
            st8(entry + E_HOLDERS + self.me, 0)
            raise

    cdef bint back(self, uint32_t index, uint64_t n) noexcept:
        """Have memory behind the first `n` bytes of an own block that is free."""
        cdef uint8_t* entry = self.entry(self.me, index)
        cdef uint64_t backed = ld64_relaxed(entry + E_BACKED), at
        n = up(n, PAGE)
        if backed >= n:
            return True
        if self.backed + n - backed > self.trimmed_at + KEEP:
            self.trim(KEEP)
            self.trimmed_at = self.backed
            backed = ld64_relaxed(entry + E_BACKED)
        at = self.file_at + self.holders * self.table_bytes + self.me * self.part_bytes + ld64_relaxed(entry + E_OFFSET)
        if pa_arena_allocate(self.fd, at + backed, n - backed) != 0:
            self.trim(0)                    # this one too
            if pa_arena_allocate(self.fd, at, n) != 0:
                return False
            backed = 0
        st64_release(entry + E_BACKED, n)
        self.backed += n - backed
        return True

    cdef uint64_t trim(self, uint64_t keep) noexcept:
        """Give back the memory of own free blocks beyond `keep` bytes. Returns how much."""
        cdef uint32_t index
        cdef uint64_t backed, kept = 0, given = 0
        cdef uint8_t* entry
        if not self.owns or self.slots == NULL or self.born != forks:
            return 0
        for index in range(self.end_index):
            entry = self.entry(self.me, index)
            backed = ld64_relaxed(entry + E_BACKED)
            if backed == 0 or not self.is_free(entry):
                continue
            if kept + backed <= keep:
                kept += backed
                continue
            st64_release(entry + E_BACKED, 0)      # before the memory goes: a successor must not take it for there
            pa_arena_punch(self.fd, self.file_at + self.holders * self.table_bytes + self.me * self.part_bytes
                           + ld64_relaxed(entry + E_OFFSET), ld64_relaxed(entry + E_ROOM))
            self.backed -= backed
            given += backed
        return given

    # --- records under way ---

    cdef int fly(self, uint8_t* ring, uint64_t epoch, uint64_t end, Holds holds, Meter meter) except -1:
        cdef Flight flight = Flight.__new__(Flight)
        flight.ring = ring
        flight.epoch = epoch
        flight.end = end
        flight.holds = holds
        self.flights.append(flight)
        flight.meter = meter
        if meter is not None:
            meter.bytes += holds.bytes
        return 0

    cdef int settle(self) except -1:
        """Let go of what was taken: the head has passed its record, or the ring was handed over (then nobody will look)."""
        cdef Flight flight
        cdef list left
        if not self.flights or self.slots == NULL or self.born != forks:
            return 0
        left = []
        for item in self.flights:
            flight = <Flight>item
            # Epoch (offset 0), then head (offset 256), of a ring block. A handed-over ring begins at 0: look at the epoch last.
            if ld64_acquire(flight.ring + 256) < flight.end and ld64_acquire(flight.ring) == flight.epoch:
                left.append(flight)
            elif flight.meter is not None:
                flight.meter.bytes -= flight.holds.bytes
        if len(left) != len(self.flights):
            self.flights = left
        return 0

    # --- death ---

    cdef int bury(self, uint32_t holder) except -1:
        """An OS process is dead, and all that it had published is held by others: let go of what it held."""
        cdef uint32_t part, index
        cdef uint8_t* at
        if self.slots == NULL or self.born != forks or holder >= self.holders:
            return 0
        for part in range(self.parts):
            for index in range(self.count(part)):
                at = self.entry(part, index) + E_HOLDERS + holder
                if ld8(at):
                    st8(at, 0)
        return 0

    cdef int close(self, bint alone) except -1:
        """The segment is closed. What this OS process still looks at stays mapped until the last view is gone.

        Its file lives as long, so the memory of everything else is given back; alone: no other OS process uses the arena any more.
        """
        cdef uint32_t part, index
        cdef uint64_t at
        cdef uint8_t* entry
        if self.slots == NULL:
            return 0
        self.flights = []
        if self.live and self.born == forks:
            for part in range(self.parts):
                for index in range(self.count(part)):
                    if (<uint64_t>part << 32 | index) in self.live:
                        continue
                    entry = self.entry(part, index)
                    if alone or part == self.me and self.is_free(entry):
                        at = self.file_at + self.holders * self.table_bytes + part * self.part_bytes + ld64_relaxed(entry + E_OFFSET)
                        pa_arena_punch(self.fd, at, ld64_relaxed(entry + E_ROOM))
        self.slots = NULL
        self.fd = -1
        if not self.live:
            self.unmap()
        return 0

    # --- for Python: tests and debugging ---

    def used(self):
        """Blocks that somebody holds: (how many, bytes of memory behind them), over all parts."""
        cdef uint32_t part, index
        cdef uint64_t blocks = 0, n = 0
        if self.slots == NULL:
            raise ValueError("the Segment of this Arena is closed")
        self.settle()
        for part in range(self.parts):
            for index in range(self.count(part)):
                if not self.is_free(self.entry(part, index)):
                    blocks += 1
                    n += ld64_relaxed(self.entry(part, index) + E_BACKED)
        return blocks, n

    def blocks(self):
        """All blocks there are, as (part, index, offset, room, backed, holders). For tests and debugging."""
        cdef uint32_t part, index, h
        cdef uint8_t* entry
        found = []
        for part in range(self.parts):
            for index in range(self.count(part)):
                entry = self.entry(part, index)
                found.append((part, index, ld64_relaxed(entry + E_OFFSET), ld64_relaxed(entry + E_ROOM), ld64_relaxed(entry + E_BACKED),
                              tuple([h for h in range(self.holders) if ld8(entry + E_HOLDERS + h)])))
        return found

    def allocate_bytes(self, data):
        """Copy `data` into a new block and return that, or None. For tests and debugging."""
        cdef Block block = self.allocate(len(data))
        if block is not None:
            memcpy(block.data, <const char*><bytes>data, len(data))
        return block

    def take_block(self, id):
        """What `take` does. For tests and debugging."""
        return self.take(id)

    def trim_to(self, keep):
        """What `trim` does. For tests and debugging."""
        return self.trim(keep)

    def bury_holder(self, holder):
        """What `bury` does. For tests and debugging."""
        self.bury(holder)

    def check_invariants(self):
        """Raise AssertionError where the state contradicts itself. For tests."""
        cdef uint32_t part, index
        cdef uint64_t backed = 0, end = 0
        cdef uint8_t* entry
        for part in range(self.parts):
            for index in range(self.count(part)):
                entry = self.entry(part, index)
                held = bool(ld8(entry + E_HOLDERS + self.me))
                assert held == ((<uint64_t>part << 32 | index) in self.live), f"block {part}.{index}: the own byte is {held}"
                assert ld64_relaxed(entry + E_BACKED) <= ld64_relaxed(entry + E_ROOM), "backed <= room"
                if part == self.me:
                    assert ld64_relaxed(entry + E_OFFSET) >= end, "blocks don't overlap"
                    end = ld64_relaxed(entry + E_OFFSET) + ld64_relaxed(entry + E_ROOM)
                    backed += ld64_relaxed(entry + E_BACKED)
        if self.owns:
            assert self.backed == backed, f"backed is {self.backed}, and the entries have {backed}"
            numbers = sorted([number for known in self.known for number in known])
            assert numbers == list(range(self.end_index)), f"known: {numbers}, of {self.end_index}"


cdef Arena open_arena(int fd, uint64_t file_at, uint64_t part_bytes, uint32_t workers, uint32_t endpoints, uint32_t me, uint8_t* slots):
    """Map the arena of a segment. None: there is no address space for it."""
    cdef Arena arena = Arena.__new__(Arena)
    cdef uint32_t index
    cdef uint64_t at
    cdef uint8_t* entry
    arena.born = forks
    arena.fd = fd
    arena.file_at = file_at
    arena.holders = workers + 2
    arena.parts = min(arena.holders, endpoints)         # a part's count stands in the slot of its number
    arena.me = me
    arena.owns = me < arena.parts
    arena.entry_bytes = entry_size(workers)
    arena.table_bytes = up(CAPACITY * arena.entry_bytes, PAGE)
    arena.part_bytes = part_bytes
    arena.size = arena_bytes_of(workers, part_bytes)
    arena.live = {}
    arena.flights = []
    arena.known = [collections.deque() for _ in range(CLASSES)]
    arena.base = <uint8_t*>pa_arena_map(fd, file_at, arena.size)
    if arena.base == NULL:
        return None
    arena.slots = slots
    if arena.owns:
        # What a predecessor has made. Its memory that isn't `backed` was on its way in or out when it was killed.
        arena.end_index = arena.count(me)
        for index in range(arena.end_index):
            entry = arena.entry(me, index)
            at = ld64_relaxed(entry + E_OFFSET)
            arena.end_at = at + ld64_relaxed(entry + E_ROOM)
            arena.backed += ld64_relaxed(entry + E_BACKED)
            arena.known[class_of(ld64_relaxed(entry + E_ROOM))].append(index)
            if ld64_relaxed(entry + E_BACKED) < ld64_relaxed(entry + E_ROOM):
                at += file_at + arena.holders * arena.table_bytes + me * part_bytes + ld64_relaxed(entry + E_BACKED)
                pa_arena_punch(fd, at, ld64_relaxed(entry + E_ROOM) - ld64_relaxed(entry + E_BACKED))
    arena.trimmed_at = arena.backed
    return arena
