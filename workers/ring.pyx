# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Rings: how records get from one endpoint to another. `Outbox` is the producer's side of one ordered pair, `Inbox` the consumer's.

    Outbox.put -> ring (tail, bell)  ->  Inbox.next -> the scheduler copies or decodes -> Inbox.release -> (head)
              \\-> overflow -> Outbox.flush, each turn

Each side is driven by one thread. No lock exists: a `kill -9` at any instruction leaves either a published record or none.
Layout, memory orders and the rules for epochs are in docs/internals.md ("Shared memory", "Epochs"). User code never runs here.

**Blocks.** A message may mention blocks of the arena (arena.pyx). `Outbox.holds`, set before `put`, has them; their numbers go ahead
of the message in a record of their own (a fragment with the flag HOLD), and the producer holds them until the head has passed that
(`Arena.fly`). The consumer takes its holds when it reads that record, publishes the head at once, and finds them in `Inbox.holds`
with the message.

**Order.** A record goes into the ring only where the overflow is empty; the overflow is first in, first out. A record for an
incarnation that we haven't heard of yet waits in the overflow and holds up what comes behind it: that is for an incarnation
which is dead already (or a newer one that waits as well), so nobody misses it.

**Large bodies.** More than a quarter of the ring goes as fragments, straight from the caller's memory while there is room; what
is left is copied once into the overflow and goes on from there. The consumer makes room for the whole body at the first
fragment. Nothing comes between the fragments of a body.

**Room.** A producer without room sets `hungry` and looks again (full fence between); a consumer stores the head each time
it has freed an eighth of the ring and then looks at `hungry` (full fence between) and rings the producer's bell. So a
producer may sleep with a full overflow and still goes on as soon as there is room. (A record and its marker need at most half
of the ring and 8 bytes; a hungry producer thus has almost half a ring unread before it, so that another head will come; and
less than an eighth stays unpublished when all is read, so that in the end there is room.) The same bell tells a new
incarnation that the survivor has handed its ring over.

**No memory.** A ring that can't be made (`SegmentFull`) fails a message at once, but a control signal waits in the overflow for the
memory. A header page that can't be made when the peer dies was never written, so nothing is lost with it: the reset of that
ring is owed, and done before its first use.

**Who may touch what.** `usable` means: the epoch was ours at some time since the last `peer_down`. Nobody but ourselves changes it while
we live (the root only touches rings whose two sides are dead), so it isn't read again for each record.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.unistd cimport read

from parallel_actors.workers.arena cimport MAX_BLOCKS, Arena, Block, Holds, Meter

from parallel_actors.workers.errors import SegmentFull
from parallel_actors.workers.segment cimport (
    SLOT_LIVE,
    Segment,
    fence,
    ld32_relaxed,
    ld64_acquire,
    ld64_relaxed,
    st32_relaxed,
    st64_release,
    xchg32,
)

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long n, int timeout)
    short POLLIN

cdef enum:
    HEADER = 4096                    # of a block, before the records
    EPOCH = 0
    TAIL = 128
    HUNGRY = 136
    HEAD = 256
    BORN = 264

    RECORD = 8                       # length u32, kind u8, flags u8, aux u16
    KIND_WRAP = 0
    KIND_FRAGMENT = 1
    FRAGMENT_FIRST = 1
    FRAGMENT_LAST = 2
    FRAGMENT_HOLD = 8                # no part of a body: numbers (u64) of the blocks that the next record mentions
    FRAGMENT_ABORT = 4               # forget this body: its producer has no memory for the rest
    LOST_START = 304                 # bytes kept of a body that there is no memory for
    FIRST = 16                       # the first fragment's own fields: total u64, kind u8, flags u8, aux u16, 0 u32

cdef struct Head:
    uint32_t length                  # with the 8 bytes of this head, without padding
    uint8_t kind
    uint8_t flags
    uint16_t aux

cdef struct First:
    uint64_t total
    uint8_t kind
    uint8_t flags
    uint16_t aux
    uint32_t zero


class RingCorrupt(RuntimeError):
    """Raised when a ring holds what no producer writes: native code of some worker has overwritten the shared memory."""


cdef inline uint32_t pad(uint64_t n) noexcept nogil:
    return <uint32_t>((n + 7) & ~<uint64_t>7)


@cython.final
cdef class Outbox:
    """The producer's side of the ring from `endpoint` to `peer`, with its overflow. Driven by one thread.

    Obligations: `flush` each turn while `queued_count` isn't 0, and before sleeping; `peer_down` for each `WDOWN` of the peer.

    >>> from parallel_actors.workers.segment import Segment
    >>> segment = Segment.create(2)
    >>> out, into = Outbox(segment, 0, 0, 1, 0), Inbox(segment, 1, 0, 0, 0)
    >>> out.put_bytes(2, 0, 0, b"hello")
    1
    >>> into.next_record()
    (2, 0, 0, b'hello')
    >>> segment.close()
    """

    # Invariants: head in the ring <= head_seen's successor <= tail; tail - head_seen <= size; tail % 8 == 0.
    # queued_bytes is the sum of size - sent over the overflow. Only the first of the overflow has sent > 0 or begun.

    def __init__(self, Segment segment not None, endpoint, incarnation, peer, peer_incarnation):
        segment._endpoint(endpoint)
        segment._endpoint(peer)
        if self.segment is not None:
            raise RuntimeError("this Outbox is in use: make a new one")
        self.segment = segment
        self.endpoint = endpoint
        self.incarnation = incarnation
        self.peer = peer
        self.peer_incarnation = peer_incarnation
        self.ring = segment.ring_base(endpoint, peer)
        self.size = segment.ring_bytes
        self.largest = self.size // 4
        self.meter = Meter()

    def __dealloc__(self):
        while self.first != NULL:
            self._drop_first()

    # --- the ring ---

    cdef bint _ready(self) except -1:
        """Whether the ring may be used now."""
        if self.segment is None or self.segment.base == NULL:
            raise ValueError("this Outbox's Segment is closed")
        if self.usable:
            return True
        if not self.reserved:
            # Before anything is read: a read of a hole allocates too, and is SIGBUS where memory is full.
            self.segment.need_ring(self.endpoint, self.peer)
            self.reserved = True
        if self.owed:
            self._reset()
        if ld64_acquire(self.ring + EPOCH) != (<uint64_t>self.incarnation << 32 | self.peer_incarnation):
            return False
        self.tail = ld64_relaxed(self.ring + TAIL)
        self.head_seen = ld64_acquire(self.ring + HEAD)
        self.usable = True
        return True

    cdef void _reset(self) noexcept:
        """Hand the ring over to the incarnations that live now, unless it is theirs already. Its header page exists."""
        self.owed = False
        # The news may be late: an endpoint that went live after the count-up believes the new incarnation from the start. Then the
        # ring may be handed over already, and in use: resetting it again would lose records.
        if ld64_acquire(self.ring + EPOCH) != (<uint64_t>self.incarnation << 32 | self.peer_incarnation):
            self.usable = False
            self.segment.reset_ring(self.endpoint, self.peer, self.incarnation, self.peer_incarnation)

    cdef int need(self) except -1:
        self._ready()
        return 0

    cdef bint _room(self, uint32_t padded) noexcept nogil:
        """Whether `padded` bytes go in, with the marker that they may need. If not: asks for the room bell."""
        cdef uint32_t left = self.size - <uint32_t>(self.tail & (self.size - 1))
        cdef uint64_t need = padded if padded <= left else <uint64_t>left + padded
        if self.size - (self.tail - self.head_seen) >= need:
            return True
        self.head_seen = ld64_acquire(self.ring + HEAD)
        if self.size - (self.tail - self.head_seen) >= need:
            return True
        # Race: the consumer empties the ring between our look at the head and our sleep. Dekker: we store `hungry`, fence, look
        # at the head; it stores the head, fence, looks at `hungry`. Its bell also sets a dirty bit, so that a bell that comes
        # before we park is seen by the look before sleeping.
        st32_relaxed(self.ring + HUNGRY, 1)
        fence()
        self.head_seen = ld64_acquire(self.ring + HEAD)
        return self.size - (self.tail - self.head_seen) >= need

    cdef bint _write(self, uint8_t kind, uint8_t flags, uint16_t aux, const void* a, size_t na, const void* b, size_t nb,
                     const void* c, size_t nc) noexcept nogil:
        """One record of three parts, if there is room; not published yet."""
        cdef uint32_t length = <uint32_t>(RECORD + na + nb + nc), padded = pad(length), left
        cdef uint8_t* at
        if not self._room(padded):
            return False
        left = self.size - <uint32_t>(self.tail & (self.size - 1))
        at = self.ring + HEADER + (self.size - left)
        if padded > left:
            (<Head*>at).length = left
            (<Head*>at).kind = KIND_WRAP
            self.tail += left
            at = self.ring + HEADER
        (<Head*>at).length = length
        (<Head*>at).kind = kind
        (<Head*>at).flags = flags
        (<Head*>at).aux = aux
        at += RECORD
        if na:
            memcpy(at, a, na)
            at += na
        if nb:
            memcpy(at, b, nb)
            at += nb
        if nc:
            memcpy(at, c, nc)
        self.tail += padded
        return True

    cdef size_t _fragments(self, uint8_t kind, uint8_t flags, uint16_t aux, uint64_t total, size_t done, const uint8_t* a,
                           size_t na, const uint8_t* b, size_t nb, bint begun) noexcept nogil:
        """Write fragments of the body a + b from `done` on, while there is room; published. Returns the new `done`.

        `total` is the whole body's size, `begun` whether its first fragment is in the ring already: a + b may be just its end.
        """
        cdef First head
        cdef size_t n, from_a, from_b
        cdef uint8_t mark
        head.total = total
        head.kind = kind
        head.flags = flags
        head.aux = aux
        head.zero = 0
        while done < na + nb:
            n = self.largest - FIRST
            mark = 0 if begun else FRAGMENT_FIRST
            if n >= na + nb - done:
                n = na + nb - done
                mark |= FRAGMENT_LAST
            from_a = 0 if done >= na else min(n, na - done)
            from_b = n - from_a
            if not self._write(KIND_FRAGMENT, mark, 0, &head, 0 if begun else FIRST, a + done if from_a else NULL, from_a,
                               b + (done + from_a - na) if from_b else NULL, from_b):
                break
            begun = True
            done += n
            # Each at once: the consumer copies one fragment while we write the next.
            self._publish()
        return done

    cdef void _publish(self) noexcept nogil:
        st64_release(self.ring + TAIL, self.tail)
        self.segment.ring_bell(self.endpoint, self.peer)

    cdef void ask(self) noexcept nogil:
        """Have the consumer ring our bell at its next head. As in `_room`: look at the head after this, then sleep."""
        if self.usable:
            st32_relaxed(self.ring + HUNGRY, 1)
            fence()

    cdef int _write_holds(self, Holds holds) except -1:
        """The record of the blocks that the next one mentions, if there is room; from here on they are under way."""
        cdef uint64_t numbers[MAX_BLOCKS + 8]
        cdef uint32_t i, n = min(holds.count, <uint32_t>(MAX_BLOCKS + 8))
        cdef uint64_t tail = self.tail
        for i in range(n):
            numbers[i] = (<Block>holds.blocks[i]).id
        if not self._write(KIND_FRAGMENT, FRAGMENT_HOLD, 0, numbers, 8 * n, NULL, 0, NULL, 0):
            return False
        try:
            self.segment.arena.fly(self.ring, <uint64_t>self.incarnation << 32 | self.peer_incarnation, self.tail, holds, self.meter)
        except MemoryError:
            self.tail = tail        # as if it had not been written: nobody has seen it
            raise
        return True

    cdef int put(self, uint32_t incarnation, uint8_t kind, uint8_t flags, uint16_t aux,
                 const void* head, size_t nhead, const void* payload, size_t npayload) except -2:
        cdef size_t done = 0
        if self.holds is not None:
            return self._put_held(incarnation, kind, flags, aux, head, nhead, payload, npayload)
        if incarnation < self.peer_incarnation:
            return -1
        if self._ready() and self.first == NULL and incarnation == self.peer_incarnation:
            if nhead + npayload <= self.largest:
                if self._write(kind, flags, aux, head, nhead, payload, npayload, NULL, 0):
                    self._publish()
                    return 1
            else:
                done = self._fragments(kind, flags, aux, nhead + npayload, 0, <const uint8_t*>head, nhead,
                                       <const uint8_t*>payload, npayload, False)
                if done == nhead + npayload:
                    return 1
        return self._queue(incarnation, kind, flags, aux, head, nhead, payload, npayload, done)

    cdef int _put_held(self, uint32_t incarnation, uint8_t kind, uint8_t flags, uint16_t aux,
                       const void* head, size_t nhead, const void* payload, size_t npayload) except -2:
        """`put` of a record that mentions the blocks `self.holds`."""
        cdef Holds holds = self.holds
        self.holds = None
        if incarnation < self.peer_incarnation:
            return -1
        if self._ready() and self.first == NULL and incarnation == self.peer_incarnation and self._write_holds(holds):
            if nhead + npayload <= self.largest and self._write(kind, flags, aux, head, nhead, payload, npayload, NULL, 0):
                self._publish()
                return 1
            self._publish()
            # The rest, or all of it, waits or goes in fragments: nothing else comes in between.
            return self.put(incarnation, kind, flags, aux, head, nhead, payload, npayload)
        self._queue(incarnation, kind, flags, aux, head, nhead, payload, npayload, 0)
        Py_INCREF(holds)
        self.last.holds = <PyObject*>holds
        self.meter.bytes += holds.bytes
        return 0

    # --- the overflow ---

    cdef int _queue(self, uint32_t incarnation, uint8_t kind, uint8_t flags, uint16_t aux, const void* head, size_t nhead,
                    const void* payload, size_t npayload, size_t done) except -1:
        cdef size_t n = nhead + npayload - done
        cdef Waiting* w = <Waiting*>malloc(sizeof(Waiting) + n)
        cdef uint8_t* at = <uint8_t*>w + sizeof(Waiting)
        cdef bint lost = w == NULL
        if lost:
            if done:
                # Fragments of it are in the ring. What waits instead is a few bytes that tell the consumer to forget them.
                w = <Waiting*>malloc(sizeof(Waiting))
            if w == NULL:
                raise MemoryError(f"no memory for a message of {n} bytes that waits for room")
            n = 0
        w.after = NULL
        w.size = n
        w.sent = 0
        w.total = nhead + npayload
        w.incarnation = incarnation
        w.kind = kind
        w.flags = flags
        w.aux = aux
        w.begun = done > 0
        w.holds = NULL
        if not lost:
            if done < nhead:
                memcpy(at, <const uint8_t*>head + done, nhead - done)
                at += nhead - done
                done = nhead
            if npayload > done - nhead:
                memcpy(at, <const uint8_t*>payload + (done - nhead), npayload - (done - nhead))
        if self.last == NULL:
            self.first = w
        else:
            self.last.after = w
        self.last = w
        self.queued_count += 1
        self.queued_bytes += n
        if lost:
            raise MemoryError(f"no memory for a message of {nhead + npayload} bytes, most of which waits for room")
        return 0

    cdef void _drop_first(self) noexcept:
        cdef Waiting* w = self.first
        self.first = w.after
        if self.first == NULL:
            self.last = NULL
        self.queued_count -= 1
        self.queued_bytes -= w.size - w.sent
        if w.holds != NULL:
            self.meter.bytes -= (<Holds>w.holds).bytes
            Py_DECREF(<object>w.holds)
        free(w)

    cdef bint flush(self) except -1:
        cdef Waiting* w
        cdef uint8_t* data
        cdef size_t sent
        cdef bint wrote = False
        if self.first == NULL:
            return True
        try:
            if not self._ready():
                return False
        except SegmentFull:
            return False            # signals that were told so already: they wait
        while self.first != NULL:
            w = self.first
            if w.incarnation != self.peer_incarnation:
                break
            data = <uint8_t*>w + sizeof(Waiting)
            if w.holds != NULL:
                try:
                    if not self._write_holds(<Holds>w.holds):
                        break
                except MemoryError:
                    break
                self.meter.bytes -= (<Holds>w.holds).bytes      # counted as under way now
                Py_DECREF(<object>w.holds)
                w.holds = NULL
                wrote = True
            if w.total <= self.largest:
                if not self._write(w.kind, w.flags, w.aux, data, w.size, NULL, 0, NULL, 0):
                    break
                wrote = True
            elif w.size == 0:
                if not self._write(KIND_FRAGMENT, FRAGMENT_ABORT, 0, NULL, 0, NULL, 0, NULL, 0):
                    break
                wrote = True
            else:
                sent = self._fragments(w.kind, w.flags, w.aux, w.total, w.sent, data, w.size, NULL, 0, w.begun)
                w.begun = w.begun or sent > 0
                self.queued_bytes -= sent - w.sent
                w.sent = sent
                if sent < w.size:
                    break
            self._drop_first()
        if wrote:
            self._publish()
        return self.first == NULL

    cdef void peer_down(self, uint32_t dead_incarnation) except *:
        cdef Waiting* w
        cdef Waiting* kept = NULL
        cdef Waiting* end = NULL
        if self.segment is None or self.segment.base == NULL:
            raise ValueError("this Outbox's Segment is closed")
        if dead_incarnation >= self.peer_incarnation:
            self.peer_incarnation = dead_incarnation + 1
        while self.first != NULL:
            w = self.first
            if w.incarnation < self.peer_incarnation:
                self._drop_first()
                continue
            self.first = w.after
            w.after = NULL
            if end == NULL:
                kept = w
            else:
                end.after = w
            end = w
        self.first = kept
        self.last = end
        if self.segment.reserve_header(self.endpoint, self.peer):
            self._reset()
        else:
            self.usable = False
            self.owed = True

    # --- for Python: tests and debugging ---

    def put_bytes(self, kind, flags, aux, body, incarnation=None):
        """Put one record: 1 it's in the ring, 0 it waits in the overflow, -1 dropped. For tests and debugging.

        Args:
            kind, flags, aux: 2 to 255; 0 to 255; 0 to 65535.
            body: bytes, or any buffer.
            incarnation: the peer's that it is for; by default the one believed.
        """
        cdef Py_buffer view
        if not 2 <= kind <= 255:
            raise ValueError(f"expected a kind of 2 to 255 (0 and 1 are the ring's own), got: {kind!r}")
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            return self.put(self.peer_incarnation if incarnation is None else incarnation, kind, flags, aux, NULL, 0,
                            view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    def put_parts(self, kind, flags, aux, bytes head, bytes payload):
        """As `put_bytes`, of a head and a payload, as the scheduler writes its records. For tests and debugging."""
        return self.put(self.peer_incarnation, kind, flags, aux, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head),
                        PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))

    def put_held(self, kind, flags, aux, body, blocks):
        """As `put_bytes`, of a record that mentions `blocks`. For tests and debugging."""
        cdef Holds holds = Holds()
        for block in blocks:
            holds.add(<Block?>block)
        self.holds = holds
        return self.put(self.peer_incarnation, kind, flags, aux, NULL, 0, PyBytes_AS_STRING(<bytes?>body), PyBytes_GET_SIZE(<bytes?>body))

    def flush_all(self):
        """Move what waits into the ring, as far as it goes. True: nothing waits any more. For tests and debugging."""
        return self.flush()

    def on_peer_down(self, dead_incarnation):
        """What `peer_down` does. For tests and debugging."""
        self.peer_down(dead_incarnation)

    def check_invariants(self):
        """Raise AssertionError where the state contradicts itself. For tests."""
        cdef Waiting* w = self.first
        cdef size_t count = 0, total = 0
        cdef Waiting* end = NULL
        while w != NULL:
            assert w.incarnation >= self.peer_incarnation, "the overflow holds a record for a dead incarnation"
            assert w.sent <= w.size <= w.total, "sent <= size <= total"
            assert w is self.first or not w.begun, "only the first of the overflow can have begun"
            assert w.total > self.largest or not w.begun, "only a large record goes in fragments"
            count += 1
            total += w.size - w.sent
            end = w
            w = w.after
        assert end == self.last, "last"
        assert count == self.queued_count, f"queued_count {self.queued_count}, but {count} wait"
        assert total == self.queued_bytes, f"queued_bytes {self.queued_bytes}, but {total} wait"
        if self.usable:
            head = ld64_acquire(self.ring + HEAD)
            assert self.head_seen <= head <= self.tail, f"head_seen {self.head_seen} <= head {head} <= tail {self.tail}"
            assert self.tail - self.head_seen <= self.size, "no more in the ring than goes in"
            assert self.tail % 8 == 0 and self.tail == ld64_relaxed(self.ring + TAIL), "the tail is published and by 8"
            epoch = ld64_acquire(self.ring + EPOCH)
            assert epoch == (<uint64_t>self.incarnation << 32 | self.peer_incarnation), f"usable, but the epoch is {epoch:#x}"


@cython.final
cdef class Inbox:
    """The consumer's side of the ring from `peer` to `endpoint`. Driven by one thread.

    Obligations: `next` until it returns False whenever the peer's dirty bit was taken (or come back to it without waiting);
    `release` after each record was copied out; for a `WDOWN` of the peer `next` to the end, then `peer_down`.
    """

    # Invariants: published <= released <= position <= tail_seen <= tail in the ring; `published` is the head in the ring.

    def __init__(self, Segment segment not None, endpoint, incarnation, peer, peer_incarnation):
        segment._endpoint(endpoint)
        segment._endpoint(peer)
        if self.segment is not None:
            raise RuntimeError("this Inbox is in use: make a new one")
        self.segment = segment
        self.endpoint = endpoint
        self.incarnation = incarnation
        self.peer = peer
        self.peer_incarnation = peer_incarnation
        self.ring = segment.ring_base(peer, endpoint)
        self.size = segment.ring_bytes

    cdef bint _ready(self) except -1:
        if self.segment is None or self.segment.base == NULL:
            raise ValueError("this Inbox's Segment is closed")
        if self.usable:
            return True
        # No page, and no memory for one: then there is no record either, since its producer would have made it.
        if not self.segment.reserve_header(self.peer, self.endpoint):
            return False
        if self.owed:
            self._reset()
        if ld64_acquire(self.ring + EPOCH) != (<uint64_t>self.peer_incarnation << 32 | self.incarnation):
            return False
        self.position = self.released = self.published = ld64_relaxed(self.ring + HEAD)
        self.tail_seen = self.position
        self.usable = True
        return True

    cdef void _publish(self) noexcept nogil:
        self.published = self.released
        st64_release(self.ring + HEAD, self.published)
        # Race: the producer finds the ring full and goes to sleep while we make room. See Outbox._room.
        fence()
        if ld32_relaxed(self.ring + HUNGRY) and xchg32(self.ring + HUNGRY, 0):
            self.segment.ring_bell(self.endpoint, self.peer)

    cdef bint next(self, Record* r) except -1:
        cdef uint8_t* at
        cdef Head head
        cdef uint32_t padded, left
        cdef uint64_t there
        if not self._ready():
            return False
        if self.back:
            self.back = False
            r[0] = self.last
            return True
        if self.whole is not None:
            self.whole = None
        while True:
            if self.position == self.tail_seen:
                there = ld64_acquire(self.ring + TAIL)
                if there - self.position > self.size or there & 7:
                    raise RingCorrupt(f"ring {self.peer} -> {self.endpoint}: the tail is {there}, but the head {self.position}")
                self.tail_seen = there
                if there == self.position:
                    return False
            left = self.size - <uint32_t>(self.position & (self.size - 1))
            at = self.ring + HEADER + (self.size - left)
            head = (<Head*>at)[0]
            padded = pad(head.length)
            # Also against a length so large that padding wraps to 0.
            if head.length < RECORD or head.length > left or padded > self.tail_seen - self.position:
                raise RingCorrupt(f"ring {self.peer} -> {self.endpoint}: a record of {head.length} bytes at {self.position}")
            if head.kind == KIND_WRAP:
                if self.released == self.position:
                    self.released += padded
                self.position += padded
                continue
            if head.kind != KIND_FRAGMENT:
                if self.gathering is not None:
                    raise RingCorrupt(f"ring {self.peer} -> {self.endpoint}: a record of kind {head.kind} between fragments")
                self.position += padded
                r.kind = head.kind
                r.flags = head.flags
                r.aux = head.aux
                r.body = at + RECORD
                r.size = head.length - RECORD
                return True
            if head.flags & FRAGMENT_HOLD:
                self._take_holds(at + RECORD, head.length - RECORD)
                self.position += padded
                # At once: the producer holds them until it sees this.
                self.released = self.position
                self._publish()
                continue
            if self._fragment(r, head.flags, at + RECORD, head.length - RECORD):
                self.position += padded
                self.release()
                return True
            self.position += padded
            self.release()

    cdef int _take_holds(self, const uint8_t* body, size_t n) except -1:
        """Hold the blocks that the next record mentions. Without memory for that they aren't held, and that message can't be decoded."""
        cdef Arena arena = self.segment.arena
        cdef Holds holds
        cdef uint64_t number
        cdef size_t i
        if self.gathering is not None or n & 7 or n > 8 * (MAX_BLOCKS + 8) or arena is None:
            raise RingCorrupt(f"ring {self.peer} -> {self.endpoint}: a list of blocks that can't be one")
        self.holds = None
        try:
            holds = Holds()
            for i in range(n >> 3):
                memcpy(&number, body + 8 * i, 8)
                holds.add(arena.take(number))
        except MemoryError:
            return 0
        except ValueError as error:
            raise RingCorrupt(f"ring {self.peer} -> {self.endpoint}: {error}") from error
        self.holds = holds
        return 0

    cdef int _fragment(self, Record* r, uint8_t flags, const uint8_t* body, size_t n) except -1:
        """Take one fragment; 1 if that makes a whole body."""
        cdef First* first
        if flags & FRAGMENT_ABORT:
            self.gathering = None
            self.holds = None
            self.lost = 0
            return 0
        if flags & FRAGMENT_FIRST:
            if self.gathering is not None or n <= FIRST or (<First*>body).total <= n - FIRST or (<First*>body).total >> 62:
                raise RingCorrupt(f"ring {self.peer} -> {self.endpoint}: a first fragment that can't be one")
            first = <First*>body
            self.gathered = 0
            self.kind = first.kind
            self.flags = first.flags
            self.aux = first.aux
            try:
                self.gathering = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>first.total)
            except MemoryError:
                # It is read to its end and thrown away: what comes behind it goes on.
                self.lost = first.total
                memcpy(self.lost_start, body + FIRST, min(n - FIRST, <size_t>LOST_START))
                return self._lose(r, flags)
            body += FIRST
            n -= FIRST
        if self.lost:
            return self._lose(r, flags)
        if self.gathering is None or n > <uint64_t>PyBytes_GET_SIZE(self.gathering) - self.gathered:
            raise RingCorrupt(f"ring {self.peer} -> {self.endpoint}: a fragment that doesn't belong to a body")
        memcpy(PyBytes_AS_STRING(self.gathering) + self.gathered, body, n)
        self.gathered += n
        if not flags & FRAGMENT_LAST:
            return 0
        if self.gathered != <uint64_t>PyBytes_GET_SIZE(self.gathering):
            raise RingCorrupt(f"ring {self.peer} -> {self.endpoint}: a body ends after {self.gathered} bytes")
        self.whole = self.gathering
        self.gathering = None
        r.kind = self.kind
        r.flags = self.flags
        r.aux = self.aux
        r.body = <const uint8_t*>PyBytes_AS_STRING(self.whole)
        r.size = self.gathered
        return 1

    cdef int _lose(self, Record* r, uint8_t flags) noexcept:
        """One fragment of a body that there is no memory for; 1 at its end: a record of KIND_FRAGMENT, of the lost size, with its first bytes."""
        if not flags & FRAGMENT_LAST:
            return 0
        r.kind = KIND_FRAGMENT
        r.flags = self.kind
        r.aux = self.flags
        r.body = self.lost_start
        r.size = self.lost
        self.lost = 0
        return 1

    cdef void release(self) noexcept:
        self.released = self.position
        # Not for each record: the line would bounce between the cores, and a full fence follows. See "Room" above.
        if self.released - self.published >= self.size >> 3:
            self._publish()

    cdef void put_back(self, Record* r) noexcept:
        self.back = True
        self.last = r[0]

    cdef bint at_rest(self) except -1:
        if not self.usable:
            return not self.owed
        if self.gathering is not None or self.lost or self.released != self.position:
            return False
        if self.published != self.released:
            self._publish()
        return True

    cdef bint more(self) except -1:
        return self._ready() and (self.back or self.position != ld64_acquire(self.ring + TAIL))

    cdef void set_born(self, uint64_t counter) noexcept nogil:
        st64_release(self.ring + BORN, counter)

    cdef void peer_down(self, uint32_t dead_incarnation) except *:
        if self.segment is None or self.segment.base == NULL:
            raise ValueError("this Inbox's Segment is closed")
        if dead_incarnation >= self.peer_incarnation:
            self.peer_incarnation = dead_incarnation + 1
        if self.segment.reserve_header(self.peer, self.endpoint):
            self._reset()
        else:
            self.usable = False
            self.owed = True

    cdef bint settle(self) except -1:
        if self.owed:
            self._ready()
        return not self.owed

    cdef void _reset(self) noexcept:
        self.owed = False
        # A late WDOWN, of an incarnation that we never believed in: see Outbox._reset.
        if ld64_acquire(self.ring + EPOCH) == (<uint64_t>self.peer_incarnation << 32 | self.incarnation):
            return
        self.usable = False
        # A body whose producer died before its last fragment was never sent.
        self.gathering = None
        self.lost = 0
        self.back = False
        self.whole = None
        self.holds = None
        self.segment.reset_ring(self.peer, self.endpoint, self.peer_incarnation, self.incarnation)
        # The new incarnation may sleep with records that wait for this epoch.
        self.segment.ring_bell(self.endpoint, self.peer)

    # --- for Python: tests and debugging ---

    def next_record(self):
        """The next record as (kind, flags, aux, body), copied out and released; None: there is none. For tests and debugging."""
        cdef Record r
        if not self.next(&r):
            return None
        body = self.whole if self.whole is not None else PyBytes_FromStringAndSize(
            <const char*>r.body, LOST_START if r.kind == KIND_FRAGMENT else r.size)
        out = (r.kind, r.flags, r.aux, body)
        self.release()
        self.holds = None
        return out

    def next_held(self):
        """As `next_record`, with the blocks that it mentions (None: there are none) as a fifth. For tests and debugging."""
        cdef Holds holds
        cdef Record r
        if not self.next(&r):
            return None
        body = self.whole if self.whole is not None else PyBytes_FromStringAndSize(<const char*>r.body, r.size)
        holds = self.holds
        self.holds = None
        self.release()
        return r.kind, r.flags, r.aux, body, None if holds is None else [<object>holds.blocks[i] for i in range(holds.count)]

    def has_more(self):
        """Whether `next_record` has something to read (it may be part of a body only). For tests and debugging."""
        return self.more()

    def on_peer_down(self, dead_incarnation):
        """What `peer_down` does. For tests and debugging."""
        self.peer_down(dead_incarnation)

    def put_born(self, counter):
        """What `set_born` does. For tests and debugging."""
        self.segment._open()
        self.segment.need_header(self.peer, self.endpoint)
        self.set_born(counter)

    def check_invariants(self):
        """Raise AssertionError where the state contradicts itself. For tests."""
        if not self.usable:
            return
        tail = ld64_acquire(self.ring + TAIL)
        assert self.published <= self.released <= self.position <= self.tail_seen <= tail, (
            f"published {self.published} <= released {self.released} <= position {self.position} <= tail {self.tail_seen}, {tail}"
        )
        assert self.published == ld64_relaxed(self.ring + HEAD), "the head is what we published"
        assert tail - self.published <= self.size, "no more in the ring than goes in"
        assert self.position % 8 == 0, "records are 8-aligned"
        assert self.gathering is None or self.gathered < len(self.gathering), "a body is gathered"


def adopt_flights(Segment segment not None, producer):
    """Hold the blocks that a dead producer's records mention, until they are taken. For the root: before it announces the death, and
    before it lets go of what the dead held (`Segment.bury`).

    Nobody writes to these rings meanwhile: the producer is dead, and its consumers hand them over only when they are told.
    """
    cdef uint32_t p = segment._endpoint(producer), c
    cdef uint64_t epoch, at, tail
    cdef uint32_t left, padded
    cdef uint8_t* ring
    cdef Head* head
    cdef Arena arena = segment.arena
    cdef Holds holds
    cdef size_t i
    cdef uint64_t number
    if arena is None:
        return
    for c in range(segment.endpoints):
        if c == p or segment.state(c) != SLOT_LIVE or not segment.reserve_header(p, c):
            continue
        ring = segment.ring_base(p, c)
        epoch = <uint64_t>segment.incarnation(p) << 32 | segment.incarnation(c)
        at = ld64_acquire(ring + HEAD)
        tail = ld64_acquire(ring + TAIL)
        if ld64_acquire(ring + EPOCH) != epoch or tail - at > segment.ring_bytes or at & 7:
            continue
        holds = Holds()
        while at != tail:
            left = segment.ring_bytes - <uint32_t>(at & (segment.ring_bytes - 1))
            head = <Head*>(ring + HEADER + (segment.ring_bytes - left))
            padded = pad(head.length)
            if head.length < RECORD or head.length > left or padded > tail - at:
                break           # its consumer will say so
            if head.kind == KIND_FRAGMENT and head.flags & FRAGMENT_HOLD:
                for i in range((head.length - RECORD) >> 3):
                    memcpy(&number, <uint8_t*>head + RECORD + 8 * i, 8)
                    try:
                        holds.add(arena.take(number))
                    except ValueError:
                        pass        # no such block: its consumer will say so
            at += padded
        if holds.count:
            arena.fly(ring, epoch, tail, holds, None)


cdef uint64_t ring_born(Segment segment, uint32_t producer, uint32_t consumer) noexcept nogil:
    # The page may not exist; where it can't be made either, nothing was ever born through it.
    if not segment.reserve_header(producer, consumer):
        return 0
    return ld64_acquire(segment.ring_base(producer, consumer) + BORN)


def born(Segment segment not None, producer, consumer):
    """What `ring_born` says: the highest spawn counter that `consumer` has seen from `producer`. For tests and debugging."""
    return ring_born(segment, segment._endpoint(producer), segment._endpoint(consumer))


def hammer(Outbox out not None, int count, bytes body):
    """Put `count` records of kind 2 as fast as possible, spinning on `flush` while the ring is full. Returns nothing. For benchmarks."""
    cdef int i
    cdef const char* at = PyBytes_AS_STRING(body)
    cdef size_t n = PyBytes_GET_SIZE(body)
    for i in range(count):
        if out.put(out.peer_incarnation, 2, 0, 0, at, n, NULL, 0) == 0:
            while not out.flush():
                pass


def drain(Inbox inbox not None, int count):
    """Read `count` records as fast as possible, spinning. For benchmarks."""
    cdef Record r
    cdef int i = 0
    while i < count:
        if inbox.next(&r):
            inbox.release()
            i += 1


def exchange(Outbox out not None, Inbox inbox not None, int count, bint begin, int patience_ms=20000):
    """Send one record, wait for the peer's, `count` times, and really sleep in between. Returns how often it slept.

    For tests and benchmarks of the wake-up, at the speed of C: both sides call it, one with `begin`.

    Raises:
        TimeoutError: nothing came within `patience_ms`, be it that a wake-up was lost or that the peer is gone.
    """
    cdef Segment segment = out.segment
    cdef Record r
    cdef uint32_t me = out.endpoint, word
    cdef int i, spin, ready, slept = 0
    cdef uint64_t bell, chance = me + 1
    cdef pollfd wait
    wait.fd = segment.bells[me]
    wait.events = POLLIN
    for i in range(count):
        if begin or i:
            out.put(out.peer_incarnation, 2, 0, 0, &i, sizeof(i), NULL, 0)
        # Sometimes asleep before the answer, sometimes awake, and mostly on the verge.
        chance = chance * 6364136223846793005ULL + 1442695040888963407ULL
        for spin in range(<int>(chance >> 54)):
            fence()
        while not inbox.next(&r):
            segment.park_begin(me)
            if not segment.any_dirty(me):
                wait.revents = 0
                with nogil:
                    ready = poll(&wait, 1, patience_ms)
                if ready == 0:
                    segment.park_end(me)
                    raise TimeoutError(f"no wake-up within {patience_ms} ms, in exchange {i}")
                read(wait.fd, &bell, 8)
                slept += 1
            segment.park_end(me)
            for word in range(segment.dirty_words):
                segment.take_dirty(me, word)
        inbox.release()
    if not begin:
        out.put(out.peer_incarnation, 2, 0, 0, &i, sizeof(i), NULL, 0)
    return slept
