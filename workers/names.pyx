# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The node-wide name table: names to pids, in the shared memory, read and claimed without a lock.

Open addressing with linear probing over 262,144 entries. An entry is bound to its name for the life of the run and never
removed, so a probe may stop at the first empty key and two claimers of one name always meet at the same entry. What
changes is the entry's owner:

    free --CAS--> claiming --pid is written--> CAS --> owned --CAS--> free

The claimer does the first two. Free it is made by the owner's worker (`free`) or, where that worker is dead, by the root
(`free_owner`), which also frees a claim that a kill -9 left half done. Each claim counts the version up, so a reader that finds
the same owner word before and after the pid has a pid that belongs to it.

A page of the table exists only after a claim has reserved it; a bitmap in the header says which do. A reader looks there
first (reading a hole would allocate it), and `free_owner` scans only those.
"""
cimport cython
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcmp, memcpy

from parallel_actors.workers.errors import NamesFull
from parallel_actors.workers.ident cimport hi_endpoint, hi_incarnation
from parallel_actors.workers.segment cimport (
    Segment,
    add64,
    cas64,
    fence,
    fence_acquire,
    ld32_relaxed,
    ld64_acquire,
    ld64_relaxed,
    or64,
    st32_relaxed,
    st64_relaxed,
)

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    ENTRIES = 262144
    ENTRY = 32
    PAGE_ENTRIES = 128               # 4096 / 32
    MOST = ENTRIES // 8 * 7          # beyond this, probes get long
    LONGEST = 255                    # bytes of UTF-8

    AT_BOUND = 384                   # header: names bound
    AT_PAGES = 512                   # header: a bit per page of the table that exists

    IN_OWNER = 8
    IN_HI = 16
    IN_LO = 24

    FREE = 0
    CLAIMING = 1
    OWNED = 2

# key:   a tag of the hash (high 16) | offset of the text in the segment (low 48)
# owner: state 2 | endpoint 12 | incarnation 16 | version 34
cdef uint64_t VERSIONS = (<uint64_t>1 << 34) - 1
cdef uint64_t OFFSETS = (<uint64_t>1 << 48) - 1


cdef inline uint64_t hash_of(const char* text, size_t n) noexcept nogil:
    """The same in every OS process (Python's own is seeded per process). Eight bytes a step, multiply and fold."""
    cdef uint64_t h = 0x9E3779B97F4A7C15ULL ^ (n * 0xC2B2AE3D27D4EB4FULL), part
    while n >= 8:
        memcpy(&part, text, 8)
        h = (h ^ part) * 0x9FB21C651E98DF25ULL
        h ^= h >> 29
        text += 8
        n -= 8
    part = 0
    memcpy(&part, text, n)
    h = (h ^ part) * 0x9FB21C651E98DF25ULL
    h ^= h >> 32
    h *= 0xD6E8FEB86659FD93ULL
    return h ^ (h >> 32)


cdef inline uint64_t owner_of(uint64_t state, uint32_t endpoint, uint32_t incarnation, uint64_t version) noexcept nogil:
    return state << 62 | <uint64_t>(endpoint & 0xFFF) << 50 | <uint64_t>(incarnation & 0xFFFF) << 34 | (version & VERSIONS)


cdef inline uint32_t state_of(uint64_t owner) noexcept nogil:
    return <uint32_t>(owner >> 62)


cdef const char* utf8(object name, Py_ssize_t* n) except NULL:
    cdef const char* text
    if not isinstance(name, str):
        raise TypeError(f"expected a name to be a str, got: {name!r}")
    try:
        text = PyUnicode_AsUTF8AndSize(name, n)
    except UnicodeEncodeError:
        raise ValueError(f"expected a name that can be written in UTF-8 (no lone surrogates), got: {name!r}") from None
    if not 1 <= n[0] <= LONGEST:
        raise ValueError(f"expected a name of 1 to {LONGEST} bytes in UTF-8, got {n[0]} bytes: {name[:40]!r}")
    return text


@cython.final
cdef class NameTable:
    """The names of the run over a `Segment`. Any thread of any OS process may call it.

    >>> from parallel_actors.workers.segment import Segment
    >>> segment = Segment.create(2)
    >>> names = NameTable(segment)
    >>> names.try_claim("db", 0x1_0000_0000, 7)
    True
    >>> names.whereis("db")
    (4294967296, 7)
    >>> segment.close()
    """

    # Invariant: a key != 0 never changes, and its text in the store doesn't either.

    def __init__(self, Segment segment not None):
        segment._open()
        self.segment = segment

    cdef uint8_t* _find(self, const char* text, size_t n, uint64_t hash, uint64_t* at_free) noexcept nogil:
        """The entry bound to the text; NULL: none, and `at_free` is the index of the empty entry where the probe ended (ENTRIES: none)."""
        cdef uint8_t* table = self.segment.base + self.segment.names_at
        cdef uint8_t* pages = self.segment.base + AT_PAGES
        cdef uint8_t* entry
        cdef uint8_t* there
        cdef uint64_t i = hash & (ENTRIES - 1), page, key
        cdef uint32_t step
        for step in range(ENTRIES):
            page = i // PAGE_ENTRIES
            # Race: the page is reserved right now. Then no entry in it was bound when we began, so "not found" is right.
            if not ld64_acquire(pages + (page >> 6 << 3)) >> (page & 63) & 1:
                at_free[0] = i
                return NULL
            entry = table + i * ENTRY
            key = ld64_acquire(entry)
            if key == 0:
                at_free[0] = i
                return NULL
            if key >> 48 == hash >> 48:
                there = self.segment.base + (key & OFFSETS)
                if ld32_relaxed(there) == n and memcmp(there + 4, text, n) == 0:
                    return entry
            i = (i + 1) & (ENTRIES - 1)
        at_free[0] = ENTRIES
        return NULL

    cdef uint8_t* _bind(self, const char* text, size_t n) except NULL:
        """The entry of a name, bound now if it wasn't."""
        cdef uint64_t hash = hash_of(text, n), i = 0, at = 0, page
        cdef uint8_t* entry
        cdef uint8_t* pages = self.segment.base + AT_PAGES
        while True:
            entry = self._find(text, n, hash, &i)
            if entry != NULL:
                return entry
            if i == ENTRIES or ld64_relaxed(self.segment.base + AT_BOUND) >= MOST:
                raise NamesFull(
                    f"a run can bind {MOST} different names, and all are used: names stay bound when they are unregistered. "
                    "Address processes that come and go by their pids"
                )
            if at == 0:
                at = self.segment.store_alloc(4 + n)
                st32_relaxed(self.segment.base + at, <uint32_t>n)
                memcpy(self.segment.base + at + 4, text, n)
            page = i // PAGE_ENTRIES
            if not ld64_acquire(pages + (page >> 6 << 3)) >> (page & 63) & 1:
                self.segment.reserve(self.segment.names_at + page * PAGE_ENTRIES * ENTRY, PAGE_ENTRIES * ENTRY)
                or64(pages + (page >> 6 << 3), <uint64_t>1 << (page & 63))
            # Race: another claimer binds this entry first. If to the same name, the next _find returns it (and our text is a
            # hole in the store); if not, the probe goes on behind it.
            entry = self.segment.base + self.segment.names_at + i * ENTRY
            if cas64(entry, 0, (hash >> 48 << 48) | at):
                add64(self.segment.base + AT_BOUND, 1)
                return entry

    cdef bint lookup(self, str name, uint64_t* hi, uint64_t* lo) except -1:
        cdef Py_ssize_t n
        cdef const char* text = utf8(name, &n)
        cdef uint64_t i, owner
        cdef uint8_t* entry
        if self.segment.base == NULL:
            self.segment._open()
        entry = self._find(text, n, hash_of(text, n), &i)
        if entry == NULL:
            return False
        while True:
            owner = ld64_acquire(entry + IN_OWNER)
            if state_of(owner) != OWNED:
                return False
            hi[0] = ld64_relaxed(entry + IN_HI)
            lo[0] = ld64_relaxed(entry + IN_LO)
            # Race: freed and claimed again between the two loads of the pid. Its claimer's fence makes the new owner word visible
            # to whoever saw a new half.
            fence_acquire()
            if ld64_relaxed(entry + IN_OWNER) == owner:
                return True

    cdef int claim(self, str name, uint64_t hi, uint64_t lo) except -2:
        cdef Py_ssize_t n
        cdef const char* text = utf8(name, &n)
        cdef uint64_t old, mine
        cdef uint8_t* entry
        self.segment._open()
        entry = self._bind(text, n)
        while True:
            old = ld64_acquire(entry + IN_OWNER)
            if state_of(old) != FREE:
                return 0
            # The claimer's own tag while it claims: if it is killed now, the sweep for *it* frees the entry.
            if self.claims_as_itself:
                mine = owner_of(CLAIMING, self.endpoint, self.incarnation, (old & VERSIONS) + 1)
            else:
                mine = owner_of(CLAIMING, hi_endpoint(hi), hi_incarnation(hi), (old & VERSIONS) + 1)
            if cas64(entry + IN_OWNER, old, mine):
                break
        # Before any half of the pid: a reader that sees one must see that the owner has changed.
        fence()
        st64_relaxed(entry + IN_HI, hi)
        st64_relaxed(entry + IN_LO, lo)
        # Fails only if the root has freed it: it holds us to be dead, and then so do all others.
        return cas64(entry + IN_OWNER, mine, owner_of(OWNED, hi_endpoint(hi), hi_incarnation(hi), mine & VERSIONS))

    cdef void claim_as(self, uint32_t endpoint, uint32_t incarnation) noexcept:
        """Whose claims these are, where a name is claimed for a process of another endpoint (spawn with a name)."""
        self.endpoint = endpoint & 0xFFF
        self.incarnation = incarnation & 0xFFFF
        self.claims_as_itself = True

    cdef bint free(self, str name, uint64_t hi, uint64_t lo) except -1:
        cdef Py_ssize_t n
        cdef const char* text = utf8(name, &n)
        cdef uint64_t i, owner
        cdef uint8_t* entry
        self.segment._open()
        entry = self._find(text, n, hash_of(text, n), &i)
        if entry == NULL:
            return False
        owner = ld64_acquire(entry + IN_OWNER)
        if (state_of(owner) != OWNED or ld64_relaxed(entry + IN_HI) != hi or ld64_relaxed(entry + IN_LO) != lo):
            return False
        # The version stays, and the next claim counts it up. The CAS fails where the pid was another's all along.
        return cas64(entry + IN_OWNER, owner, owner & VERSIONS)

    def free_owner(self, endpoint, incarnation):
        """Free every name of a dead endpoint's incarnation, also half-claimed ones. Returns how many. For the root.

        Reads only pages in use: 1 ms where 100,000 names are bound, microseconds where a few are.
        """
        cdef uint32_t e = self.segment._endpoint(endpoint) & 0xFFF, k = <uint32_t>(incarnation & 0xFFFF)
        cdef uint64_t page, owner
        cdef uint32_t i, count = 0
        cdef uint8_t* pages = self.segment.base + AT_PAGES
        cdef uint8_t* entry
        for page in range(ENTRIES // PAGE_ENTRIES):
            if not ld64_acquire(pages + (page >> 6 << 3)) >> (page & 63) & 1:
                continue
            entry = self.segment.base + self.segment.names_at + page * PAGE_ENTRIES * ENTRY
            for i in range(PAGE_ENTRIES):
                owner = ld64_acquire(entry + IN_OWNER)
                if state_of(owner) != FREE and (owner >> 50 & 0xFFF) == e and (owner >> 34 & 0xFFFF) == k:
                    # The owner is dead, and nobody else changes what it owns: this can't fail.
                    count += cas64(entry + IN_OWNER, owner, owner & VERSIONS)
                entry += ENTRY
        return count

    def registered(self):
        """All names that have an owner: a list of (name, hi, lo), in no order. A name may come or go meanwhile."""
        cdef uint64_t page, owner, hi, lo, key
        cdef uint32_t i
        cdef uint8_t* pages
        cdef uint8_t* entry
        self.segment._open()
        pages = self.segment.base + AT_PAGES
        out = []
        for page in range(ENTRIES // PAGE_ENTRIES):
            if not ld64_acquire(pages + (page >> 6 << 3)) >> (page & 63) & 1:
                continue
            for i in range(PAGE_ENTRIES):
                entry = self.segment.base + self.segment.names_at + (page * PAGE_ENTRIES + i) * ENTRY
                key = ld64_acquire(entry)
                owner = ld64_acquire(entry + IN_OWNER)
                while key and state_of(owner) == OWNED:
                    hi = ld64_relaxed(entry + IN_HI)
                    lo = ld64_relaxed(entry + IN_LO)
                    fence_acquire()
                    if ld64_relaxed(entry + IN_OWNER) == owner:
                        out.append((self._text(key), hi, lo))
                        break
                    owner = ld64_acquire(entry + IN_OWNER)
        return out

    def _text(self, uint64_t key):
        cdef uint8_t* at = self.segment.base + (key & OFFSETS)
        return PyUnicode_DecodeUTF8(<const char*>at + 4, ld32_relaxed(at), NULL)

    def bound(self):
        """How many names have an entry, with or without an owner. A process killed while binding may leave it one too low."""
        self.segment._open()
        return ld64_relaxed(self.segment.base + AT_BOUND)

    def whereis(self, name):
        """The pid that owns `name` as (hi, lo), or None.

        Raises:
            ValueError: the name is empty, longer than 255 bytes, or not UTF-8.
        """
        cdef uint64_t hi, lo
        if self.lookup(name, &hi, &lo):
            return hi, lo
        return None

    def try_claim(self, name, hi, lo):
        """Give `name` to a pid. False: it's taken, also by a dead process whose names aren't freed yet.

        Raises:
            ValueError: the name is empty, longer than 255 bytes, or not UTF-8.
            NamesFull, SegmentFull: no name can be bound any more, or there is no memory.
        """
        return self.claim(name, hi, lo) == 1

    def release(self, name, hi, lo):
        """Take `name` away from that pid. False: the pid doesn't own it."""
        return self.free(name, hi, lo)
