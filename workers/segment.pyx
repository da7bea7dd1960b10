# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The memory that all OS processes of a run share: one sparse memfd, and one eventfd per endpoint.

This module owns the layout (header, slots, ring blocks, name table, store), the mapping, the slots' states, the wake-up
(park and bell) and the store. `ring.pyx` and `names.pyx` read and write their own areas by the offsets kept here; the
scheduler and the root call the rest. Nothing here blocks, takes a lock or runs user code.

    header   magic, version, nonce, sizes, phase, the store's cursor     (one page)
    slots    1024 bytes an endpoint: incarnation and state, parked, load, dirty map
    rings    endpoints x endpoints blocks: a header page and the records
    steals   for each worker, slots with processes that others may take (steal.pyx)
    names    an open-addressing table
    store    bump-allocated bytes: names and definitions
    arena    blocks for large buffers (arena.pyx, mapped apart: views may outlive the segment)

The tables of offset, field, writer and memory order are in docs/internals.md ("Shared memory").

**Memory that isn't there.** The file is sparse, and no page of it may be touched before `fallocate` has reserved it: not only
a write but also a *read* of a hole of shmem allocates a page, and where memory is full both end the process with SIGBUS. So:
the header and slots are reserved at creation, a ring block by its producer (all of it) or its consumer (the header page)
at first use, a page of the name table at the first claim that falls into it, and a piece of the store or a block of the arena when
it is allocated. What fails then is a `SegmentFull`, which a caller can handle.

**Who closes.** A `Segment` owns its descriptors, also those given to `attach`. `close` unmaps; the `cdef` methods, which check
nothing, must not be called after it.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EINTR, ENOMEM, errno
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, strerror

import os

from parallel_actors.workers.arena cimport arena_bytes_of, open_arena

from parallel_actors.workers.errors import SegmentFull, StoreFull

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <unistd.h>
    #include <sys/mman.h>
    #include <sys/eventfd.h>
    #include <sys/resource.h>
    #ifndef F_ADD_SEALS
    #define F_ADD_SEALS 1033
    #endif
    #ifndef F_SEAL_SEAL
    #define F_SEAL_SEAL 1
    #define F_SEAL_SHRINK 2
    #define F_SEAL_GROW 4
    #endif
    #ifndef FALLOC_FL_KEEP_SIZE
    #define FALLOC_FL_KEEP_SIZE 1
    #define FALLOC_FL_PUNCH_HOLE 2
    #endif
    static int pa_fallocate(int fd, int mode, uint64_t offset, uint64_t n) { return fallocate(fd, mode, (off_t)offset, (off_t)n); }
    static int pa_seal(int fd) { return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL); }
    static void *pa_map(int fd, uint64_t n) {
        void *p = mmap(NULL, (size_t)n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    static void pa_unmap(void *p, uint64_t n) { munmap(p, (size_t)n); }
    static long pa_write8(int fd, const void *p) { return (long)write(fd, p, 8); }
    static int pa_close(int fd) { return close(fd); }
    /* What limits address space, and the size of files. */
    static uint64_t pa_limit(void) {
        struct rlimit one;
        uint64_t least = UINT64_MAX;
        if (getrlimit(RLIMIT_AS, &one) == 0 && one.rlim_cur != RLIM_INFINITY && one.rlim_cur < least) least = one.rlim_cur;
        if (getrlimit(RLIMIT_FSIZE, &one) == 0 && one.rlim_cur != RLIM_INFINITY && one.rlim_cur < least) least = one.rlim_cur;
        return least;
    }
    """
    int pa_fallocate(int fd, int mode, uint64_t offset, uint64_t n) noexcept nogil
    int pa_seal(int fd) noexcept nogil
    void* pa_map(int fd, uint64_t n) noexcept nogil
    void pa_unmap(void* p, uint64_t n) noexcept nogil
    long pa_write8(int fd, const void* p) noexcept nogil
    int pa_close(int fd) noexcept nogil
    uint64_t pa_limit() noexcept nogil
    int EFD_NONBLOCK
    int EFD_CLOEXEC

cdef uint64_t WITHDRAWN = 0xFFFFFFFFFFFFFFFFULL

cdef enum:
    PAGE = 4096
    VERSION = 2
    SLOT_BYTES = 1024
    MAX_ENDPOINTS = 1024             # a slot's dirty map has 128 bytes
    NAME_BYTES = 262144 * 32
    STEAL_BYTES = 64 * 65536         # a worker's slots: see steal.pyx

    # header
    AT_VERSION = 8
    AT_NONCE = 16
    AT_WORKERS = 20
    AT_ENDPOINTS = 24
    AT_RING_BYTES = 28
    AT_SLOTS = 32
    AT_RINGS = 40
    AT_NAMES = 48
    AT_STORE = 56
    AT_TOTAL = 64
    AT_STEALS = 72
    AT_ARENA = 80
    AT_PART = 88
    AT_PHASE = 128
    AT_CURSOR = 256

    # slot
    IN_PID = 8
    IN_LEAVING = 12
    IN_TAKER = 16                    # incarnation (high 32), OS pid; or WITHDRAWN
    IN_PARKED = 128
    IN_PROCESSES = 256
    IN_RUNQ = 260
    IN_MESSAGES = 264
    IN_TURNS = 272
    IN_BUSY = 280
    IN_DIRTY = 384
    IN_END_DUE = 512

    # ring block
    RING_EPOCH = 0
    RING_TAIL = 128
    RING_HUNGRY = 136
    RING_HEAD = 256
    RING_BORN = 264

cdef bytes MAGIC = b"PACTORS1"


@cython.final
cdef class Segment:
    """The shared memory of one run, mapped into this OS process. Made by `create` (the root) or `attach` (everybody else).

    >>> segment = Segment.create(2)
    >>> segment.endpoints                       # 2 workers, the root, 8 guests
    11
    >>> segment.slot(0)                         # incarnation, state (0 free)
    (0, 0)
    >>> segment.close()
    """

    # Invariants: `base` is NULL or maps `total` bytes of `fd`; `bells[e] == eventfds[e]`; all of them are open while `base` is set.

    def __cinit__(self):
        self.fd = -1

    def __init__(self):
        raise TypeError("a Segment can't be made by hand: call Segment.create(workers) or Segment.attach(fd, eventfds)")

    def __dealloc__(self):
        self._unmap()

    # --- life ---

    @staticmethod
    def create(workers, guests=8, ring_bytes=65536, store_bytes=1 << 28, arena_bytes=None):
        """Make the shared memory of a run.

        Args:
            workers: how many workers there may be at the same time, at least 1. ``workers + 1 + guests`` endpoints are at most 1024.
            guests: how many threads outside the library may take part at the same time.
            ring_bytes: size of each ring, a power of two from 4096 to 2**30.
            store_bytes: room for names and definitions. Only what is used costs memory.
            arena_bytes: address space in which each OS process can have large buffers, 0 for none. Only what is used costs memory. None:
                as much as the machine has memory, up to 64 GiB; less where address space is limited.

        Raises:
            ValueError: an argument is out of range.
            SegmentFull: there is no memory for the header and the slots.
            OSError: no descriptor or no address space is left.
        """
        cdef Segment self
        cdef uint64_t slots_at = PAGE, rings_at, steals_at, names_at, store_at, total
        cdef uint32_t w, e, i
        if not 1 <= workers <= MAX_ENDPOINTS - 1:
            raise ValueError(f"expected workers to be 1 to {MAX_ENDPOINTS - 1}, got: {workers!r}")
        if not 0 <= guests <= MAX_ENDPOINTS - 1 - workers:
            raise ValueError(f"expected guests to be 0 to {MAX_ENDPOINTS - 1 - workers} beside {workers} workers, got: {guests!r}")
        if not PAGE <= ring_bytes <= 1 << 30 or ring_bytes & (ring_bytes - 1):
            raise ValueError(f"expected ring_bytes to be a power of two from {PAGE} to {1 << 30}, got: {ring_bytes!r}")
        if not PAGE <= store_bytes <= 1 << 40:
            raise ValueError(f"expected store_bytes to be {PAGE} to {1 << 40}, got: {store_bytes!r}")
        if arena_bytes is not None and not 0 <= arena_bytes <= 1 << 42:
            raise ValueError(f"expected arena_bytes to be 0 to {1 << 42}, got: {arena_bytes!r}")
        w = workers
        e = workers + 1 + guests
        cdef uint64_t part = default_part(w) if arena_bytes is None else up(arena_bytes)
        rings_at = slots_at + up(<uint64_t>e * SLOT_BYTES)
        steals_at = rings_at + <uint64_t>e * e * (PAGE + <uint64_t>ring_bytes)
        names_at = steals_at + <uint64_t>w * STEAL_BYTES
        store_at = names_at + NAME_BYTES
        total = store_at + up(store_bytes)

        self = Segment.__new__(Segment)
        fd = os.memfd_create("parallel_actors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, total + arena_bytes_of(w, part))
            # Nobody can shrink the file under our mapping (which would be a SIGBUS at the next touch).
            if pa_seal(fd) != 0:
                raise OSError(errno, f"the shared memory can't be sealed: {strerror(errno).decode()}")
            if pa_fallocate(fd, 0, 0, rings_at) != 0:
                raise SegmentFull(full(errno, rings_at))
        except BaseException:
            os.close(fd)
            raise
        self.total = total
        self._map(fd)
        st32_relaxed(self.base + AT_VERSION, VERSION)
        st32_relaxed(self.base + AT_NONCE, int.from_bytes(os.urandom(4), "little") or 1)
        st32_relaxed(self.base + AT_WORKERS, w)
        st32_relaxed(self.base + AT_ENDPOINTS, e)
        st32_relaxed(self.base + AT_RING_BYTES, ring_bytes)
        st64_relaxed(self.base + AT_SLOTS, slots_at)
        st64_relaxed(self.base + AT_RINGS, rings_at)
        st64_relaxed(self.base + AT_NAMES, names_at)
        st64_relaxed(self.base + AT_STORE, store_at)
        st64_relaxed(self.base + AT_TOTAL, total + arena_bytes_of(w, part))
        st64_relaxed(self.base + AT_ARENA, total)
        # The program that starts a system is the holder after the root.
        while part:
            self.arena = open_arena(fd, total, part, w, e, w + 1, self.base + slots_at)
            if self.arena is not None:
                break
            part = part // 2 & ~<uint64_t>((2 << 20) - 1)       # no address space for so much
        st64_relaxed(self.base + AT_PART, part)
        st64_relaxed(self.base + AT_STEALS, steals_at)
        st64_relaxed(self.base + AT_CURSOR, store_at)
        memcpy(self.base, PyBytes_AS_STRING(MAGIC), 8)
        fds = []
        try:
            for i in range(e):
                fds.append(os.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC))
            adopt(self, fds)
        except BaseException:
            for one in fds:
                os.close(one)
            self._unmap()
            raise
        return self

    @staticmethod
    def attach(fd, eventfds, holder=None):
        """Map the segment that another OS process made. From then on the descriptors belong to the new `Segment`.

        Args:
            fd: the memfd, as from the first of `fds`.
            eventfds: one descriptor per endpoint, the rest of `fds`.
            holder: the number by which this OS process holds blocks of the arena: a worker's, or the root's; who made the segment is
                `root + 1`. No two may have the same. None: it has no arena.

        Raises:
            ValueError: `fd` isn't a segment of this version, or the number of eventfds is wrong. The descriptors stay the caller's.
            OSError: `fd` can't be mapped.
        """
        cdef Segment self
        cdef bytes page = os.pread(fd, PAGE, 0)
        cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(page)
        fds = list(eventfds)
        if len(page) < PAGE or page[:8] != MAGIC:
            raise ValueError(f"expected descriptor {fd} to be a segment of parallel_actors (magic {MAGIC!r}), got: {page[:8]!r}")
        if ld32_relaxed(at + AT_VERSION) != VERSION:
            raise ValueError(
                f"expected a segment of layout version {VERSION}, got: {ld32_relaxed(at + AT_VERSION)}. "
                "All OS processes of a run must have the same parallel_actors: restart the run after an upgrade"
            )
        if ld64_relaxed(at + AT_TOTAL) != os.fstat(fd).st_size:
            raise ValueError(f"expected a segment of {ld64_relaxed(at + AT_TOTAL)} bytes, got: {os.fstat(fd).st_size}")
        if len(fds) != ld32_relaxed(at + AT_ENDPOINTS):
            raise ValueError(f"expected {ld32_relaxed(at + AT_ENDPOINTS)} eventfds, one per endpoint, got: {len(fds)}")
        self = Segment.__new__(Segment)
        self.total = ld64_relaxed(at + AT_ARENA)
        self._map(os.dup(fd))
        try:
            if holder is not None:
                open_for(self, fd, at, holder)
            adopt(self, fds)
        except BaseException:
            self.arena = None
            self._unmap()
            raise
        # Only now that nothing can fail: up to here the descriptors were the caller's.
        pa_close(self.fd)
        self.fd = fd
        return self

    cdef int _map(self, int fd) except -1:
        """Map `fd`, which is ours from now on (closed when this fails)."""
        self.base = <uint8_t*>pa_map(fd, self.total)
        if self.base == NULL:
            err = errno
            pa_close(fd)
            raise OSError(err, unmapped(self.total, err))
        self.fd = fd
        return 0

    cdef void _unmap(self) noexcept:
        cdef uint32_t i
        if self.arena is not None and self.base != NULL:
            try:
                # Once the node stops, whoever starts it waits for the others before it closes its segment.
                self.arena.close(ld32_acquire(self.base + AT_PHASE) >= 2)
            except Exception:
                pass        # no memory to look for what could be given back
        self.arena = None
        if self.base != NULL:
            pa_unmap(self.base, self.total)
            self.base = NULL
        if self.fd >= 0:
            pa_close(self.fd)
            self.fd = -1
        if self.bells != NULL:
            for i in range(self.endpoints):
                pa_close(self.bells[i])
            free(self.bells)
            self.bells = NULL
        free(self.reserved)
        self.reserved = NULL

    cdef int _open(self) except -1:
        if self.base == NULL:
            raise ValueError("this Segment is closed")
        return 0

    cdef int _endpoint(self, object e) except -1:
        self._open()
        if not 0 <= e < self.endpoints:
            raise ValueError(f"expected an endpoint of 0 to {self.endpoints - 1}, got: {e!r}")
        return e

    def close(self):
        """Unmap the memory and close all descriptors. Again: does nothing."""
        self._unmap()
        self.eventfds = []

    @property
    def closed(self):
        """Whether `close` was called."""
        return self.base == NULL

    def fds(self):
        """All descriptors, for handing on: the memfd, then the eventfds by endpoint. They stay this Segment's."""
        self._open()
        return [self.fd, *self.eventfds]

    def __repr__(self):
        if self.base == NULL:
            return "<Segment closed>"
        return f"<Segment {self.nonce:08x} workers={self.workers} endpoints={self.endpoints}>"

    # --- slots ---

    cdef uint8_t* slot_at(self, uint32_t e) noexcept nogil:
        return self.base + self.slots_at + <uint64_t>e * SLOT_BYTES

    cdef uint64_t slot_word(self, uint32_t e) noexcept nogil:
        return ld64_acquire(self.slot_at(e))

    cdef uint32_t incarnation(self, uint32_t e) noexcept nogil:
        return <uint32_t>ld64_acquire(self.slot_at(e))

    cdef uint32_t state(self, uint32_t e) noexcept nogil:
        return <uint32_t>(ld64_acquire(self.slot_at(e)) >> 32)

    cdef bint cas_slot(self, uint32_t e, uint64_t old, uint64_t new) noexcept nogil:
        cdef bint won = cas64(self.slot_at(e), old, new)
        fence()
        return won

    cdef void set_slot(self, uint32_t e, uint32_t incarnation, uint32_t state) noexcept nogil:
        st64_release(self.slot_at(e), (<uint64_t>state << 32) | incarnation)
        # An endpoint goes live and then reads the others' incarnations; the root counts one up and then reads who is live.
        # Without the fence on both sides, each could miss the other: no WDOWN is sent, and the old incarnation believed.
        fence()

    def slot(self, e):
        """Slot `e` as (incarnation, state): states 0 free, 1 claimed, 2 live, 3 ended, 4 down."""
        cdef uint64_t word = self.slot_word(self._endpoint(e))
        return <uint32_t>word, <uint32_t>(word >> 32)

    def put_slot(self, e, incarnation, state):
        """Set slot `e`. For the root, and for a slot's owner."""
        self._endpoint(e)
        if not 0 <= state <= SLOT_DOWN:
            raise ValueError(f"expected a state of 0 to {SLOT_DOWN}, got: {state!r}")
        if not 0 <= incarnation <= 0xFFFFFFFF:
            raise ValueError(f"expected an incarnation of 0 to {0xFFFFFFFF}, got: {incarnation!r}")
        self.set_slot(e, incarnation, state)

    def claim_guest(self):
        """Claim a free guest slot (free -> claimed) and return its endpoint; None where all are taken."""
        cdef uint32_t e
        cdef uint64_t word
        self._open()
        for e in range(self.workers + 1, self.endpoints):
            word = self.slot_word(e)
            if word >> 32 == SLOT_FREE and self.cas_slot(e, word, (<uint64_t>SLOT_CLAIMED << 32) | <uint32_t>word):
                return e
        return None

    cdef bint is_leaving(self, uint32_t e) noexcept nogil:
        return ld32_relaxed(self.slot_at(e) + IN_LEAVING) != 0

    cdef bint takes(self, uint32_t e, uint64_t word) noexcept nogil:
        """Whether worker `e`, whose slot's word is `word`, takes new processes: it is there (or being replaced), and doesn't leave."""
        cdef uint32_t state = <uint32_t>(word >> 32)
        return (state == SLOT_LIVE or state == SLOT_DOWN) and not self.is_leaving(e)

    def leaving(self, e):
        """Whether worker `e` has been told to leave: it takes no new processes."""
        return self.is_leaving(self._endpoint(e))

    def set_leaving(self, e, leaving):
        """Say that worker `e` leaves, or that its slot has none that does. For the root."""
        st32_relaxed(self.slot_at(self._endpoint(e)) + IN_LEAVING, 1 if leaving else 0)
        fence()

    def worker_indices(self):
        """The workers that there are, by number: those that live, are being replaced, or leave. Other slots are free for more, or
        belong to the root, which forwards what comes for processes that have moved away from there.
        """
        cdef uint32_t e, state, root
        self._open()
        root = ld32_acquire(self.slot_at(self.root) + IN_PID)
        found = []
        for e in range(self.workers):
            state = self.state(e)
            if (state == SLOT_LIVE or state == SLOT_DOWN) and not (root and ld32_acquire(self.slot_at(e) + IN_PID) == root):
                found.append(e)
        return found

    def os_pid(self, e):
        """The OS process that slot `e` belongs to; 0: none yet."""
        return ld32_acquire(self.slot_at(self._endpoint(e)) + IN_PID)

    def set_os_pid(self, e, pid):
        """Say which OS process slot `e` belongs to. For its owner."""
        st32_release(self.slot_at(self._endpoint(e)) + IN_PID, pid)

    # A worker's OS process takes its slot before it does anything: should the forkserver be killed between the fork and the word of
    # it, nobody knows that child.

    def offer_slot(self, e):
        """Let one OS process be the present incarnation of worker `e`: the first that takes its slot. For the root, before it starts one."""
        cdef uint8_t *slot = self.slot_at(self._endpoint(e))
        st64_release(slot + IN_TAKER, <uint64_t>ld32_acquire(slot) << 32)

    def take_slot(self, e, incarnation, pid):
        """Be that incarnation of worker `e`. False: the root has withdrawn the offer, or another one has taken it."""
        cdef uint8_t *slot = self.slot_at(self._endpoint(e))
        cdef uint64_t offered = <uint64_t><uint32_t>incarnation << 32
        if not cas64(slot + IN_TAKER, offered, offered | <uint32_t>pid):
            return False
        self.set_os_pid(e, pid)
        return True

    def withdraw_slot(self, e):
        """Nobody takes the slot of worker `e` from now on. Returns the OS pid of who has taken it; 0: nobody."""
        cdef uint8_t *slot = self.slot_at(self._endpoint(e))
        while True:
            taker = ld64_acquire(slot + IN_TAKER)
            if cas64(slot + IN_TAKER, taker, WITHDRAWN):
                return 0 if taker == WITHDRAWN else taker & 0xFFFFFFFF

    @property
    def phase(self):
        """Of the run: 0 starting, 1 running, 2 stopping, 3 stopped. Set by the root."""
        self._open()
        return ld32_acquire(self.base + AT_PHASE)

    @phase.setter
    def phase(self, value):
        self._open()
        if not 0 <= value <= 3:
            raise ValueError(f"expected a phase of 0 to 3, got: {value!r}")
        st32_release(self.base + AT_PHASE, value)

    cdef void set_load(self, uint32_t e, uint32_t processes, uint32_t runq) noexcept nogil:
        st32_relaxed(self.slot_at(e) + IN_PROCESSES, processes)
        st32_relaxed(self.slot_at(e) + IN_RUNQ, runq)

    def set_starting(self, e):
        """Say that worker `e` isn't up yet: it counts as more loaded than any other, until it shows its load itself."""
        self.set_load(self._endpoint(e), 0xFFFFFFFF, 0)
        self.set_busy(e, 0)

    cdef void set_progress(self, uint32_t e, uint64_t messages, uint64_t turns) noexcept nogil:
        st64_relaxed(self.slot_at(e) + IN_MESSAGES, messages)
        st64_relaxed(self.slot_at(e) + IN_TURNS, turns)

    cdef void set_busy(self, uint32_t e, uint64_t ns) noexcept nogil:
        st64_relaxed(self.slot_at(e) + IN_BUSY, ns)

    cdef void set_end_due(self, uint32_t e, bint due) noexcept nogil:
        if (ld32_relaxed(self.slot_at(e) + IN_END_DUE) != 0) != due:
            st32_relaxed(self.slot_at(e) + IN_END_DUE, due)

    def end_due(self, e):
        """Whether a process of `e` has been told to end, as far as is known: if `e` doesn't turn, it can't (S1.10)."""
        return ld32_relaxed(self.slot_at(self._endpoint(e)) + IN_END_DUE) != 0

    def wanted(self, e):
        """Whether something waits for `e`: runnable processes, or unread records in its rings."""
        cdef uint32_t i = self._endpoint(e)
        return ld32_relaxed(self.slot_at(i) + IN_RUNQ) != 0 or self.any_dirty(i)

    def parked(self, e):
        """Whether `e` sleeps, or is about to."""
        return ld32_relaxed(self.slot_at(self._endpoint(e)) + IN_PARKED) != 0

    def load(self, e):
        """What `e` has to do: (live processes, length of its run queue), as of its latest turn."""
        cdef uint8_t* slot = self.slot_at(self._endpoint(e))
        return ld32_relaxed(slot + IN_PROCESSES), ld32_relaxed(slot + IN_RUNQ)

    def progress(self, e):
        """What `e` has done: (messages handled, turns). Turns that stand still are a worker that hangs."""
        cdef uint8_t* slot = self.slot_at(self._endpoint(e))
        return ld64_relaxed(slot + IN_MESSAGES), ld64_relaxed(slot + IN_TURNS)

    def busy(self, e):
        """Nanoseconds that worker `e`'s incarnation has been awake, as of its latest turn or tick. In a native call it stands still, as turns do."""
        return ld64_relaxed(self.slot_at(self._endpoint(e)) + IN_BUSY)

    # --- wake-up ---
    #
    #   producer                              consumer
    #   tail := t                             parked := 1
    #   FENCE                                 FENCE
    #   bit set already? else set it          a bit set? then don't sleep
    #   parked? swap to 0, write the eventfd  sleep
    #
    # and the same pattern once more for the dirty bit:
    #
    #   tail := t                             swap the map to 0
    #   FENCE                                 FENCE (only arm64 needs it beside the swap)
    #   bit set already? then it's enough     read the tails
    #
    # Each side stores first and looks after a full fence, so at least one sees the other's store. Without a fence both loads
    # may run before both stores: a message lies there and its reader sleeps. tests/test_segment.py tries all interleavings.

    cdef void ring_bell(self, uint32_t producer, uint32_t consumer) noexcept nogil:
        cdef uint8_t* slot = self.slot_at(consumer)
        cdef uint8_t* word = slot + IN_DIRTY + (producer >> 6 << 3)
        cdef uint64_t bit = <uint64_t>1 << (producer & 63)
        fence()
        if not ld64_relaxed(word) & bit:
            or64(word, bit)
            fence()
        # Also where the bit was set already: whoever set it may have been killed before it looked here.
        if ld32_relaxed(slot + IN_PARKED) and xchg32(slot + IN_PARKED, 0):
            write_bell(self.bells[consumer])

    cdef void wake(self, uint32_t endpoint) noexcept nogil:
        xchg32(self.slot_at(endpoint) + IN_PARKED, 0)
        write_bell(self.bells[endpoint])

    cdef bint any_dirty(self, uint32_t consumer) noexcept nogil:
        cdef uint8_t* word = self.slot_at(consumer) + IN_DIRTY
        cdef uint32_t i
        for i in range(self.dirty_words):
            if ld64_relaxed(word + 8 * i):
                return True
        return False

    cdef uint64_t take_dirty(self, uint32_t consumer, uint32_t word) noexcept nogil:
        cdef uint8_t* at = self.slot_at(consumer) + IN_DIRTY + 8 * word
        cdef uint64_t bits
        if not ld64_relaxed(at):
            return 0                          # a swap would take the line from the producers for nothing
        bits = xchg64(at, 0)
        fence()
        return bits

    cdef void park_begin(self, uint32_t e) noexcept nogil:
        st32_relaxed(self.slot_at(e) + IN_PARKED, 1)
        fence()

    cdef void park_end(self, uint32_t e) noexcept nogil:
        st32_relaxed(self.slot_at(e) + IN_PARKED, 0)

    def wake_endpoint(self, e):
        """Ring the bell of `e` in any case: its sleep ends. For deaths and the stop."""
        self.wake(self._endpoint(e))

    def bell(self, producer, consumer):
        """Do what a producer does after it stored a tail. For tests and debugging."""
        self.ring_bell(self._endpoint(producer), self._endpoint(consumer))

    def dirty(self, consumer):
        """Take the dirty map of `consumer`: a list of the producers in it. For tests and debugging."""
        cdef uint32_t word, bit
        cdef uint64_t bits
        self._endpoint(consumer)
        out = []
        for word in range(self.dirty_words):
            bits = self.take_dirty(consumer, word)
            for bit in range(64):
                if bits >> bit & 1:
                    out.append(64 * word + bit)
        return out

    def park(self, e):
        """Announce that `e` goes to sleep: True if it may, False if its dirty map isn't empty. Then `unpark`. For tests."""
        self.park_begin(self._endpoint(e))
        if self.any_dirty(e):
            self.park_end(e)
            return False
        return True

    def unpark(self, e):
        """`e` is awake. For tests and debugging."""
        self.park_end(self._endpoint(e))

    # --- rings ---

    cdef uint8_t* ring_base(self, uint32_t producer, uint32_t consumer) noexcept nogil:
        return self.base + self.rings_at + (<uint64_t>producer * self.endpoints + consumer) * self.block_bytes

    cdef int reserve_errno(self, uint64_t offset, uint64_t n) noexcept nogil:
        while pa_fallocate(self.fd, 0, offset & ~<uint64_t>(PAGE - 1), up(offset + n) - (offset & ~<uint64_t>(PAGE - 1))) != 0:
            if errno != EINTR:
                return errno
        return 0

    cdef int reserve(self, uint64_t offset, uint64_t n) except -1:
        cdef int err = self.reserve_errno(offset, n)
        if err:
            raise SegmentFull(full(err, n))
        return 0

    cdef bint reserve_header(self, uint32_t producer, uint32_t consumer) noexcept nogil:
        cdef uint64_t i = <uint64_t>producer * self.endpoints + consumer
        if self.reserved[i]:
            return True
        if self.reserve_errno(self.rings_at + i * self.block_bytes, PAGE):
            return False
        self.reserved[i] = 1
        return True

    cdef int need_header(self, uint32_t producer, uint32_t consumer) except -1:
        if not self.reserve_header(producer, consumer):
            raise SegmentFull(full(errno, PAGE))
        return 0

    cdef int need_ring(self, uint32_t producer, uint32_t consumer) except -1:
        cdef uint64_t i = <uint64_t>producer * self.endpoints + consumer
        self.reserve(self.rings_at + i * self.block_bytes, self.block_bytes)
        self.reserved[i] = 1
        return 0

    cdef void reset_ring(self, uint32_t producer, uint32_t consumer, uint32_t inc_producer, uint32_t inc_consumer) noexcept nogil:
        cdef uint8_t* ring = self.ring_base(producer, consumer)
        st64_relaxed(ring + RING_TAIL, 0)
        st64_relaxed(ring + RING_HEAD, 0)
        st32_relaxed(ring + RING_HUNGRY, 0)
        st64_relaxed(ring + RING_BORN, 0)
        st64_release(ring + RING_EPOCH, (<uint64_t>inc_producer << 32) | inc_consumer)

    def reset_pair(self, a, b, inc_a, inc_b):
        """Empty the rings a -> b and b -> a and give them to these incarnations. For the root, while neither side lives.

        The bells of both are rung: a guest that has just gone live may already wait with records for this epoch.
        """
        cdef uint32_t i = self._endpoint(a), j = self._endpoint(b)
        self.need_header(i, j)
        self.need_header(j, i)
        self.reset_ring(i, j, inc_a, inc_b)
        self.reset_ring(j, i, inc_b, inc_a)
        self.ring_bell(i, j)
        self.ring_bell(j, i)

    def epoch(self, producer, consumer):
        """Whom the ring belongs to: (producer's incarnation, consumer's). For tests and debugging."""
        self.need_header(self._endpoint(producer), self._endpoint(consumer))
        cdef uint64_t word = ld64_acquire(self.ring_base(producer, consumer) + RING_EPOCH)
        return <uint32_t>(word >> 32), <uint32_t>word

    def punch(self, e):
        """Give back the records' memory of the rings between `e` and other dead endpoints. Returns how many rings. For the root.

        Only rings whose two sides are both ended or down: only the root can bring those back, so nobody begins to use such a
        ring meanwhile. (A free guest slot can be claimed at any time, and a producer reserves its ring only once.)
        """
        cdef uint32_t i = self._endpoint(e), x
        cdef int count = 0
        cdef uint64_t block
        if not SLOT_ENDED <= self.state(i) <= SLOT_DOWN:
            raise ValueError(f"expected endpoint {e} to be ended or down, got: state {self.state(i)}")
        for x in range(self.endpoints):
            if SLOT_ENDED <= self.state(x) <= SLOT_DOWN:
                for a, b in ((i, x), (x, i)):
                    block = self.ring_base(a, b) - self.base
                    if pa_fallocate(self.fd, 3, block + PAGE, self.ring_bytes) != 0:     # KEEP_SIZE | PUNCH_HOLE
                        raise OSError(errno, strerror(errno).decode())
                    count += 1
        return count

    # --- store ---

    cdef uint64_t store_alloc(self, size_t n) except? 0:
        cdef uint64_t at, after
        cdef uint8_t* cursor = self.base + AT_CURSOR
        while True:
            # Not fetch_add: a piece that is too large would use up the room that smaller ones still have.
            at = ld64_relaxed(cursor)
            if n > self.total - at:
                raise StoreFull(
                    f"the store of this run has {self.total - self.store_at} bytes, {self.total - at} of them left, and needs {n} more. "
                    "It holds registered names and definitions of __main__: put large data into messages, "
                    "or move the definitions into a module"
                )
            after = at + ((n + 7) & ~<uint64_t>7)
            if cas64(cursor, at, after):
                break
        # Killed, or refused, between here and the caller's reference: a hole that nobody knows of. It's never read.
        self.reserve(at, n)
        return at

    def store_put(self, data):
        """Write bytes (or any buffer) into the store and return the offset under which `store_get` finds them.

        Raises:
            StoreFull: the store is used up.
            SegmentFull: there is no memory.
        """
        cdef Py_buffer view
        cdef uint64_t at
        self._open()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len > 0xFFFFFFFF:
                raise ValueError(f"expected at most {0xFFFFFFFF} bytes, got: {view.len}")
            at = self.store_alloc(4 + <size_t>view.len)
            st32_relaxed(self.base + at, <uint32_t>view.len)
            memcpy(self.base + at + 4, view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        return at

    def store_get(self, offset):
        """The bytes that `store_put` wrote at `offset`.

        Raises:
            ValueError: nothing was written there.
        """
        cdef uint64_t at, end
        cdef uint32_t n
        self._open()
        end = ld64_relaxed(self.base + AT_CURSOR)
        if not self.store_at <= offset <= end - 4 or offset & 7:
            raise ValueError(f"expected an offset that store_put returned ({self.store_at} to {end - 4}, by 8), got: {offset!r}")
        at = offset
        n = ld32_relaxed(self.base + at)
        if n > end - at - 4:
            raise ValueError(f"expected an offset that store_put returned, got: {offset!r} (no whole piece lies there)")
        return PyBytes_FromStringAndSize(<const char*>self.base + at + 4, n)

    def store_used(self):
        """Bytes of the store in use."""
        self._open()
        return ld64_relaxed(self.base + AT_CURSOR) - self.store_at

    def arena_used(self):
        """Blocks of the arena that somebody holds: (how many, bytes of memory behind them)."""
        self._open()
        return (0, 0) if self.arena is None else self.arena.used()

    cdef int bury_holder(self, uint32_t holder) except -1:
        return 0 if self.arena is None else self.arena.bury(holder)

    def bury(self, holder):
        """An OS process is dead, and what it had published is in good hands (`ring.adopt_flights`): let go of its blocks. For the root."""
        self._open()
        self.bury_holder(holder)

    def allocated_bytes(self):
        """Bytes of memory behind the segment: what was reserved so far."""
        self._open()
        return os.fstat(self.fd).st_blocks * 512


cdef uint64_t default_part(uint32_t workers):
    """Address space for the large buffers of one OS process: as much as there is memory, and a quarter of any limit for all together."""
    cdef uint64_t part = 1 << 28, memory = <uint64_t>os.sysconf("SC_PHYS_PAGES") * <uint64_t>os.sysconf("SC_PAGE_SIZE")
    cdef uint64_t limit = pa_limit() // 4 // (workers + 2)
    while part < memory and part < <uint64_t>1 << 36:
        part *= 2
    while part > limit:
        part //= 2
    return part if part >= 1 << 24 else 0


cdef str unmapped(uint64_t n, int err):
    return (
        f"can't map {n} bytes of shared memory (address space, most of it never used): {strerror(err).decode()}. "
        "Raise RLIMIT_AS (ulimit -v), or use a smaller arena, fewer workers, fewer guests or smaller rings"
    )


cdef int open_for(Segment self, int fd, const uint8_t* header, object holder) except -1:
    cdef uint64_t part = ld64_relaxed(header + AT_PART)
    cdef uint32_t workers = ld32_relaxed(header + AT_WORKERS)
    if not 0 <= holder < workers + 2:
        raise ValueError(f"expected holder to be 0 to {workers + 1}, got: {holder!r}")
    if part:
        self.arena = open_arena(fd, self.total, part, workers, ld32_relaxed(header + AT_ENDPOINTS), holder,
                                self.base + ld64_relaxed(header + AT_SLOTS))
        if self.arena is None:
            raise OSError(ENOMEM, unmapped(arena_bytes_of(workers, part), ENOMEM))
    return 0


cdef inline uint64_t up(uint64_t n) noexcept nogil:
    """To whole pages."""
    return (n + PAGE - 1) & ~<uint64_t>(PAGE - 1)


cdef void write_bell(int fd) noexcept nogil:
    cdef uint64_t one = 1
    # EAGAIN: the counter is at its maximum, so the eventfd is readable anyway.
    while pa_write8(fd, &one) < 0 and errno == EINTR:
        pass


cdef str full(int err, uint64_t n):
    return (
        f"the shared memory needs {n} more bytes and the system refused ({strerror(err).decode()}). "
        "Free memory, raise this program's memory limit (cgroup), or use fewer workers or smaller rings"
    )


cdef int adopt(Segment self, list eventfds) except -1:
    """Read the header into C fields and take over the eventfds (last, so that a failure leaves them the caller's)."""
    cdef uint32_t i
    self.nonce = ld32_relaxed(self.base + AT_NONCE)
    self.workers = self.root = ld32_relaxed(self.base + AT_WORKERS)
    self.endpoints = ld32_relaxed(self.base + AT_ENDPOINTS)
    self.ring_bytes = ld32_relaxed(self.base + AT_RING_BYTES)
    self.slots_at = ld64_relaxed(self.base + AT_SLOTS)
    self.rings_at = ld64_relaxed(self.base + AT_RINGS)
    self.steals_at = ld64_relaxed(self.base + AT_STEALS)
    self.names_at = ld64_relaxed(self.base + AT_NAMES)
    self.store_at = ld64_relaxed(self.base + AT_STORE)
    self.block_bytes = PAGE + <uint64_t>self.ring_bytes
    self.dirty_words = (self.endpoints + 63) >> 6
    for one in eventfds:
        if not isinstance(one, int) or one < 0:
            raise ValueError(f"expected eventfds to be descriptors, got: {one!r}")
    self.reserved = <uint8_t*>calloc(<size_t>self.endpoints * self.endpoints, 1)
    cdef int* bells = <int*>calloc(self.endpoints, sizeof(int))
    if self.reserved == NULL or bells == NULL:
        free(bells)
        raise MemoryError()
    for i in range(self.endpoints):
        bells[i] = eventfds[i]
    self.eventfds = eventfds
    self.bells = bells
    return 0
