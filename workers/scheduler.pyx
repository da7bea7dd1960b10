# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The scheduler of one endpoint: processes, mailboxes, run queue, carriers, signals.

The way of a message: `send` -> `Process.append` (same endpoint) or `Outbox.put` (another one) -> `drain`
-> `signal` -> `deliver` -> run queue -> `run` -> the process's own `receive`.

Who calls whom:

* the process API (``api.pyx``) calls in with a current process, and may leave the stack in `block`;
* `run_forever` (a worker, the root) makes carriers; each runs `_carrier`, which takes processes from `pick`;
* `pick` polls: rings, timers, overflow; and parks when there is nothing to do. It runs no user code.

Rules that hold everywhere here:

* User code (`__reduce__`, `__del__`, patterns) may run wherever an object is encoded, decoded or released, and may
  call the API. So state is consistent before each such point, and mail of the dead is released last.
* No pointer to a C stack variable outlives a switch: greenlet moves stacks.
* A process that has been ended by a signal is dead to all others at once; its stack unwinds later, by `pending`.
"""
import marshal
import os
import struct
import sys
import time
import traceback
import types
from sys import _getframe

from collections import deque
from importlib import import_module

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport EBADF, EEXIST, EINTR, ENOENT, EPERM, errno
from libc.string cimport memcpy
cimport cython

from parallel_actors.workers.arena cimport KEEP, Holds
from parallel_actors.workers.codec cimport Encoded
from parallel_actors.workers.ident cimport (
    hi_endpoint, hi_incarnation, hi_nonce, lo_counter, lo_incarnation, lo_spawner, make_hi, make_lo, new_pid, new_ref,
)
from parallel_actors.workers.patterns cimport match, mentions_ref
from parallel_actors.workers.preempt cimport CUTTABLE, IN_DEL, IN_IMPORT, IN_LOCK, IN_LOOP, IN_NATIVE, Tick
from parallel_actors.workers.ring cimport ring_born
from parallel_actors.workers.segment cimport SLOT_LIVE, ld32_relaxed, ld64_acquire
from parallel_actors.workers.steal cimport (
    BEGUN, CLAIMED, Exports, Loot, an_idle, any_ready, begin, claim, clear_idle, give_back, set_idle, stage_of, thief_incarnation_of, thief_of,
)

from parallel_actors.workers.codec import find_arena_by
from parallel_actors.workers.errors import (
    MailboxFull, NameTaken, NoProc, NotPicklable, NotRegistered, NotRunning, ProcessExit, ProcessKilled, SegmentFull,
)
from parallel_actors.workers.reasons import Crash, Down, Exit, FdReady, WorkerDown, is_normal

cdef extern from *:
    """
    #include <time.h>
    #include <unistd.h>
    #include <errno.h>
    #include <stdlib.h>
    #ifdef __GLIBC__
    #include <malloc.h>
    #endif
    #include <string.h>
    #include <sys/epoll.h>
    #include <sys/syscall.h>

    /* greenlet's C API by its capsule: no header needed at build time. The numbers are greenlet.h's. */
    static void **pa_greenlet;
    static int pa_import_greenlet(void) {
        pa_greenlet = (void **)PyCapsule_Import("greenlet._C_API", 0);
        return pa_greenlet ? 0 : -1;
    }
    static PyObject *pa_switch(PyObject *g) {
        return ((PyObject *(*)(PyObject *, PyObject *, PyObject *))pa_greenlet[6])(g, NULL, NULL);
    }
    static PyObject *pa_current(void) { return ((PyObject *(*)(void))pa_greenlet[4])(); }

    /* The contextvars context of the running code. A process owns the one that it made; the switch of
       greenlets saves it for suspended stacks, these two carry it for processes that hold no stack. */
    static PyObject *pa_take_context(void) {
        PyThreadState *t = PyThreadState_Get();
        PyObject *c = t->context;
        t->context = NULL;
        t->context_ver++;
        return c;
    }
    static void pa_give_context(PyObject *c) {
        PyThreadState *t = PyThreadState_Get();
        PyObject *old = t->context;
        t->context = c;
        t->context_ver++;
        Py_XDECREF(old);
    }

    /* The one that the running code has, made where it has none yet. */
    static PyObject *pa_own_context(void) {
        PyThreadState *t = PyThreadState_Get();
        if (t->context == NULL) {
            t->context = PyContext_New();
            if (t->context == NULL) return NULL;
            t->context_ver++;
        }
        Py_INCREF(t->context);
        return t->context;
    }

    static __thread PyObject *pa_here = NULL;

    /* Where the stack of a process begins. A number, not a pointer: greenlet moves stacks away and back. */
    static inline uintptr_t pa_stack(void) { return (uintptr_t)__builtin_frame_address(0); }

    /* The runtime works on the stack of whichever process is there, which may stand at the limit of its recursion: what others
       have sent must not fail for that. */
    static void pa_headroom(int calls) {
        PyThreadState *t = PyThreadState_Get();
    #if PY_VERSION_HEX >= 0x030C0000
        t->py_recursion_remaining += calls;
        t->c_recursion_remaining += calls;
    #else
        t->recursion_remaining += calls;
    #endif
    }

    static int64_t pa_now(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (int64_t)ts.tv_sec * 1000000000LL + ts.tv_nsec;
    }
    /* The stacks of processes that are gone lie about in malloc's heap; it keeps them unless asked. */
    static void pa_trim(void) {
    #ifdef __GLIBC__
        malloc_trim(0);
    #endif
    }
    /* Ends a worker that could not tell others what they wait for. Needs no memory. */
    static void pa_no_memory(void) {
        static const char text[] = "parallel_actors: this worker has no memory left for signals to other processes: it ends\\n";
        ssize_t r = write(2, text, sizeof text - 1);
        (void)r;
        _exit(12);
    }
    static void pa_relax(void) {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ __volatile__("yield");
    #endif
    }
    static int pa_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }
    static int pa_epoll_set(int ep, int how, int fd, uint32_t events) {
        struct epoll_event ev = { .events = events, .data = { .fd = fd } };
        return epoll_ctl(ep, how, fd, &ev);
    }
    static int pa_epoll_add(int ep, int fd) { return pa_epoll_set(ep, EPOLL_CTL_ADD, fd, EPOLLIN); }
    static int pa_epoll_del(int ep, int fd) { return epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL); }
    /* Waits at most ns; fds of what is ready go to out. epoll_pwait2 (Linux 5.11) has the resolution; else milliseconds. */
    static int pa_epoll_wait(int ep, int *out, uint32_t *events, int max, int64_t ns) {
        struct epoll_event ev[32];
        int n;
        if (max > 32) max = 32;
    #ifdef SYS_epoll_pwait2
        struct timespec ts = { .tv_sec = ns / 1000000000LL, .tv_nsec = ns % 1000000000LL };
        n = (int)syscall(SYS_epoll_pwait2, ep, ev, max, &ts, NULL, 0);
        if (n < 0 && errno == ENOSYS)
    #endif
        n = epoll_wait(ep, ev, max, (int)((ns + 999999) / 1000000));
        for (int i = 0; i < n; i++) {
            out[i] = ev[i].data.fd;
            events[i] = ev[i].events;
        }
        return n;
    }
    static void pa_clear_eventfd(int fd) { uint64_t v; ssize_t r = read(fd, &v, 8); (void)r; }

    typedef struct { uint64_t a, b, c, d, e, f; } pa_head;
    /* Before the head of a record that a process sends which isn't at home: its home, and up to where the ring of a former host is to be
       read first; then the record's own. */
    typedef struct { uint64_t home, fence, position; uint8_t kind, flags; uint16_t aux; uint32_t none; uint8_t head[48]; } pa_wrap;
    /* What waits in a slot. */
    typedef struct { uint64_t hi, lo; uint32_t body, args, kwargs, control; int32_t flags; uint32_t priority; } pa_spec;
    """
    int pa_import_greenlet() except -1
    object pa_switch(PyObject *g)
    object pa_current()
    PyObject *pa_take_context()
    void pa_give_context(PyObject *)
    object pa_own_context()
    PyObject *pa_here
    uintptr_t pa_stack() nogil
    void pa_headroom(int)
    int64_t pa_now() nogil
    void pa_relax() nogil
    void pa_no_memory() nogil
    void pa_trim() nogil
    int pa_epoll_create() nogil
    int pa_epoll_add(int, int) nogil
    int pa_epoll_del(int, int) nogil
    int pa_epoll_set(int, int, int, uint32_t) nogil
    int pa_epoll_wait(int, int *, uint32_t *, int, int64_t) nogil
    enum: EPOLL_CTL_ADD
    enum: EPOLL_CTL_MOD
    enum: EPOLLIN
    enum: EPOLLOUT
    void pa_clear_eventfd(int) nogil
    ctypedef struct pa_head:
        uint64_t a, b, c, d, e, f
    ctypedef struct pa_wrap:
        uint64_t home, fence, position
        uint8_t kind, flags
        uint16_t aux
        uint32_t none
        uint8_t head[48]
    ctypedef struct pa_spec:
        uint64_t hi, lo
        uint32_t body, args, kwargs, control
        int32_t flags
        uint32_t priority

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object, object, PyObject **) except? PYGEN_ERROR
    int PyCoro_CheckExact(object)
    int PyGen_CheckExact(object)
    int PyAsyncGen_CheckExact(object)
    int PyErr_CheckSignals() except -1

import greenlet as _greenlet_module

pa_import_greenlet()
cdef object GREENLET = _greenlet_module.greenlet
cdef object GreenletExit = _greenlet_module.GreenletExit

PRIORITIES = ("normal", "high", "low")
cdef dict NONE = {}                 # the links, monitors and watchers of processes that have none; never written
NOT_FOUND = object()
SUSPENDED = object()

cdef str NORMAL = "normal", SHUTDOWN = "shutdown", KILL = "kill", KILLED = "killed", NOPROC = "noproc"
cdef str CALL = "$gen_call"
cdef str MAILBOX_FULL = "mailbox_full"      # why a call has no answer, where its request had no room
POLICIES = ("suspend", "fail", "drop_newest", "drop_oldest")    # Invariant: in the order of `Policy`

cdef enum:
    REDUCTIONS = 2000               # API operations before a process gives way
    CALLBACK_BUDGET = 256           # messages that a callback process handles in a row
    DRAIN_BUDGET = 4096             # records of one ring per turn
    PARK_NS = 100_000_000           # a sleep is never longer: a producer may die between tail and bell
    FLOW_BYTES = 4 << 20            # overflow to one endpoint at which a sender is suspended,
    FLOW_COUNT = 16384
    FLOW_LOW_BYTES = 1 << 20        # and at which it goes on
    FLOW_LOW_COUNT = 4096
    MAX_RAISED = 500                # kills raised in a process that swallows them before it is abandoned
    CALIBRATION_NS = 20_000
    TICK_NS = 2_000_000             # between two ticks while processes run
    GRACE_TICKS = 500               # that a process which was told to end may use for its cleaning up before it is told again
    IMPORT_TICKS = 2500             # that it may use for an import before it is told at all
    LOOP_TICKS = 50                 # after which a loop that is where it was waits there
    LOW_EVERY = 8                   # normal processes for each one of low priority (as in OTP)
    LOCK_NS = 20_000_000            # that a process may stay in code which may hold a lock before it is cut there after all
    SHIELD_NS = 100_000_000         # no_preempt() is reported when it keeps others waiting for longer
    MAX_LINEAGE = 32
    HEADROOM = 200                  # calls that the runtime may nest beyond the limit of recursion
    BALLAST = 1 << 20               # bytes kept for the time when memory is used up
    MIDDLE_COLLECTIONS = 10         # of some 7,000 allocations each, for each full garbage collection
    POOL = 2048                     # idle carriers that are kept, of some 8 KB each
    MOVES_ALONG = TRAP_EXIT | SPREAD | UNCUT | TERMINATES | SHUTTING | KEEPS
    SHED_MOST = 32                  # processes that one order moves
    SHED_LEAST = 5                  # thousandths of a core that one must use for it to be worth it
    SHED_REST = 5                   # seconds between two moves of one process for the sake of balance
    WRAP = 32                       # bytes of FROM's own head
    NOT_GIVEN = 0xFFFFFFFF          # a length: there is none
    STEAL_AGE_NS = 20_000           # that work waits before others may take it: a worker that turns has begun it by then
    WORTH_NS = 50_000               # that stolen work takes; where it takes less, work has to have waited for longer before it is stolen,
    MOST_AGE_NS = 2_000_000         # up to this
    NAP_NS = 1_000_000              # an idle worker's sleep while others work: who sits in a native call can't wake it
    OFFERS = 4                      # processes that wait for others at which an idle worker is woken
    QUIET = 64                      # exports that nobody has taken, after which only one in 16 is exported at its spawn
    PAUSE_NS = 1_000_000            # without a spawn, after which it begins anew
    REFILL = 16                     # exports at a tick
    LEAVERS = 64                    # of our processes that move away at the same time where this worker leaves
    LEAVE_NS = 5_000_000            # between two looks at who is here still
    ASK_NS = 1_000_000_000          # after which a home is asked again to take a process away
    FRESH = 256                     # processes that are remembered for later exports
    TRIM_NS = 1_000_000_000         # between two looks of an idle worker for memory of free blocks
    ONCE_MORE = 1                   # flag of RESUME: another worker may take it
    HASTE = 10                      # phases of STOP above it are for who runs still where a worker leaves
    LEFT = 1 << 20                  # causes of WDOWN beside an exit code and -signal: a guest's thread ended,
    UNKNOWN = 1 << 21               # nobody can tell

CAUSE_LEFT = LEFT
CAUSE_UNKNOWN = UNKNOWN

cdef uint64_t ALL = 0xFFFFFFFFFFFFFFFF      # of a ring: all that its producer has published

cdef dict _services = {}            # process-wide hooks: "guest" -> callable() that makes the calling thread a guest


cdef Scheduler here():
    """The scheduler of the calling thread; a thread that has none becomes a guest."""
    if pa_here != NULL and (<Scheduler>pa_here).lost is None:
        return <Scheduler>pa_here
    return _adopt()


cdef Scheduler _adopt():
    cdef Scheduler lost
    factory = _services.get("guest")
    if factory is None and pa_here != NULL:
        lost = <Scheduler>pa_here
        _services["lost"](lost)
        raise NotRunning(lost.lost)
    if factory is None:
        raise NotRunning(
            "expected a running actor system in this program, got none: use `with ActorSystem():`, "
            "or run the program with `parallel-actors run`"
        )
    factory()
    if pa_here == NULL:
        raise NotRunning("the actor system of this program has ended: start another one")
    return <Scheduler>pa_here


def _arena_here():
    return None if pa_here == NULL else (<Scheduler>pa_here).segment.arena


find_arena_by(_arena_here)


cdef Process me(Scheduler s):
    if s.current is None:
        raise NotRunning("expected to be called by a process, got a call from the runtime itself (a __del__ or __reduce__ on its way)")
    return s.current


def _forked():
    # A fork of a program (never of ours) has our memory, not our endpoint: what it did here would tear the rings.
    global pa_here
    if pa_here != NULL:
        (<Scheduler>pa_here).forked = True
    pa_here = NULL
    _services.clear()


os.register_at_fork(after_in_child=_forked)


def on_tick(signum, frame):
    """The handler of the tick's signal (see preempt.pyx). It may take the processor from the process that it interrupts."""
    cdef Scheduler s
    if pa_here != NULL:         # NULL: this OS process was forked by user code
        s = <Scheduler>pa_here
        if s.tick is not None and not s.closed:
            pa_headroom(HEADROOM)
            try:
                s.ticked(frame)
            finally:
                pa_headroom(-HEADROOM)


def set_lost_hook(hook):
    """Set what is called with a guest's scheduler whose system has ended, at the thread's next call."""
    _services["lost"] = hook


def set_guest_factory(factory):
    """Set what makes the calling thread a guest of the current system (None: nobody does). Returns the former one."""
    old = _services.get("guest")
    _services["guest"] = factory
    return old


def use_scheduler(Scheduler scheduler):
    """Make `scheduler` (or None) the calling thread's. Returns the former one."""
    global pa_here
    old = <object>pa_here if pa_here != NULL else None
    if scheduler is None:
        pa_here = NULL
    else:
        Py_INCREF(scheduler)
        pa_here = <PyObject *>scheduler
    # The reference that the slot held is now `old`'s.
    if old is not None:
        Py_XDECREF(<PyObject *>old)
    return old


def current_scheduler():
    """The calling thread's scheduler, or None. Makes no guest."""
    return <object>pa_here if pa_here != NULL else None


@cython.no_gc
@cython.freelist(1024)
cdef class Envelope:
    """One message in a mailbox. Not tracked by the collector: the mailbox of a dead process is emptied explicitly."""


@cython.final
@cython.no_gc
cdef class Counted(Envelope):
    """One that counts against the limit of its mailbox."""


@cython.final
cdef class MailboxLimit:
    """The limit of a mailbox (S9.8); see docs/internals.md, "Limited mailboxes"."""

    cdef bint has_room(self, Py_ssize_t size) noexcept:
        # One message may be larger than all are to be: else it could never come in.
        return (not self.most or self.count < self.most) and (
            not self.most_bytes or self.count == 0 or self.bytes + size <= self.most_bytes)

    cdef bint is_full(self) noexcept:
        return (self.most and self.count >= self.most) or (self.most_bytes and self.bytes >= self.most_bytes)

    cdef bint is_low(self) noexcept:
        return (not self.most or self.count <= self.most // 2) and (not self.most_bytes or self.bytes <= self.most_bytes // 2)


@cython.final
cdef class FullMailbox:
    """A full mailbox of another endpoint, as this one knows it."""


@cython.final
cdef class Link:
    """One side's view of a link; see docs/internals.md, "Links"."""


@cython.final
cdef class Place:
    """What a process needs that isn't where its pid says; see docs/internals.md, "Processes that run elsewhere"."""

    def __cinit__(self):
        self.slot = self.next_host = -1


@cython.final
cdef class Move:
    """An order to move a process."""


cdef class Watch:

    cdef int ready(self, uint32_t events) except -1:
        raise NotImplementedError(type(self).__qualname__)      # an abstract method


@cython.final
cdef class FdMonitor(Watch):

    cdef int ready(self, uint32_t events) except -1:
        cdef Process p = self.process
        p.scheduler.unwatch(self)
        del p.extra.fds[self.ref]
        # An error, or the other side's end, is found by whoever reads or writes.
        return p.scheduler.deliver(p, FdReady(
            self.ref, self.fd, bool(self.events & EPOLLIN and events & ~<uint32_t>EPOLLOUT),
            bool(self.events & EPOLLOUT and events & ~<uint32_t>EPOLLIN)))


cdef class Tasks:
    """See the declaration; all but `wake` is abstract."""

    cdef int wake(self) except -1:
        cdef Process p = self.process
        self.woken = True
        if p.state == IDLE or p.state == BLOCKED and self.at_rest:
            p.scheduler.enqueue(p)
        return 0

    cdef bint turn(self) except -1:
        raise NotImplementedError()

    cdef bint joined(self, object coroutine, object yielded) except -1:
        raise NotImplementedError()

    cdef object drive(self, object coroutine, object yielded, bint begun):
        raise NotImplementedError()

    cdef int background(self) except -1:
        raise NotImplementedError()

    cdef int part(self) except -1:
        raise NotImplementedError()

    cdef int end(self) except -1:
        raise NotImplementedError()

    cdef bint busy(self) except -1:
        raise NotImplementedError()

    cdef object wait_in_task(self, object patterns, double limit, object timeout, object default):
        raise NotImplementedError()


cdef class Loops:
    """See the declaration; abstract."""

    cdef Tasks tasks_of(self, Process p):
        raise NotImplementedError()

    cdef int join(self, Process p) except -1:
        raise NotImplementedError()

    cdef object leave(self):
        raise NotImplementedError()

    cdef int enter(self, object loop) except -1:
        raise NotImplementedError()


@cython.final
cdef class Extra:
    """What only some processes have: links, monitors, aliases, dictionary, name, label."""


@cython.final
@cython.freelist(256)
cdef class Process:
    """One green process. States and who changes them: docs/internals.md, "States of a process"."""

    cdef Extra more(self):
        if self.extra is None:
            self.extra = Extra()
            # Most have one of them at most: the first writer makes its own (`put_link` and its like).
            self.extra.links = self.extra.monitors = self.extra.watchers = NONE
        return self.extra

    cdef int put_link(self, Pid other, Link link) except -1:
        cdef Extra extra = self.more()
        if extra.links is NONE:
            extra.links = {}
        extra.links[other] = link
        return 0

    cdef Link link_with(self, Pid other):
        """The link with `other`; a new one, if there is none."""
        cdef Link link = <Link>self.more().links.get(other)
        if link is None:
            link = Link()
            self.put_link(other, link)
        return link

    cdef int put_monitor(self, Ref ref, Pid target) except -1:
        cdef Extra extra = self.more()
        if extra.monitors is NONE:
            extra.monitors = {}
        extra.monitors[ref] = target
        return 0

    cdef int put_watcher(self, Ref ref, Pid watcher) except -1:
        cdef Extra extra = self.more()
        if extra.watchers is NONE:
            extra.watchers = {}
        extra.watchers[ref] = watcher
        return 0

    cdef int append(self, object body) except -1:
        cdef Envelope envelope = Envelope.__new__(Envelope)
        envelope.body = body
        self.chain(envelope)
        return 0

    cdef void chain(self, Envelope envelope) noexcept:
        if self.last is None:
            self.first = envelope
        else:
            self.last.next = envelope
        self.last = envelope
        self.mail += 1

    cdef object unlink(self, Envelope before, Envelope envelope):
        """Take `envelope`, which follows `before` (None: it is the first), out of the mailbox. Returns its body."""
        if before is None:
            self.first = envelope.next
        else:
            before.next = envelope.next
        if self.last is envelope:
            self.last = before
        if self.mark is envelope:
            self.mark = before
        self.mail -= 1
        envelope.next = None
        body = envelope.body
        envelope.body = None
        if self.flags & LIMITED:
            self.scheduler.taken_out(self, envelope)
        return body

    def check_invariants(self):
        """Raise AssertionError unless the mailbox is one chain of `mail` envelopes ending at `last`."""
        n = counted = 0
        cdef Envelope e = self.first, tail = None
        while e is not None:
            n += 1
            counted += type(e) is Counted
            tail = e
            e = e.next
        assert n == self.mail, (n, self.mail)
        assert tail is self.last
        assert bool(self.flags & LIMITED) == (self.pid.lo in self.scheduler.limits)
        assert counted == (self.scheduler.limit_of(self).count if self.flags & LIMITED else 0)


cdef void _discard_mail(Process p):
    # One by one: a chain released at its head would recurse through every `next`. `__del__` of a message may run here.
    cdef Envelope envelope = p.first, following
    p.first = p.last = p.mark = p.save = None
    p.mail = 0
    while envelope is not None:
        following = envelope.next
        envelope.next = None
        envelope = following


@cython.final
cdef class RunQueue:

    cdef void push(self, Process p) noexcept:
        p.next = None
        if self.tail is None:
            self.head = p
        else:
            self.tail.next = p
        self.tail = p

    cdef Process pop(self):
        cdef Process p = self.head
        if p is not None:
            self.head = p.next
            p.next = None
            if self.head is None:
                self.tail = None
        return p


cdef class Handler:
    """Takes the messages of a callback process. See the declaration."""

    cdef bint handle(self, object message) except -1:
        raise NotImplementedError(f"{type(self).__qualname__} has no handle()")     # an abstract method

    def __call__(self, message):
        return self.handle(message)


@cython.final
cdef class Loop:
    """Returned by the body of a `def` process, which then lives on without a stack: `handler(message)` is called once per message.

    The handler may block as any body may. When it returns `True` the process ends with the reason `normal`.
    """

    def __init__(self, handler):
        self.handler = handler


@cython.final
cdef class Scheduler:
    """Runs the green processes of one endpoint. One thread drives it.

    Args:
        segment: the node's shared memory.
        endpoint: this endpoint's number.
        incarnation: its incarnation.
        role: "worker", "root" or "guest".
        tick: what preempts its processes; None: nothing does.
        long_schedule: seconds that a process which can't be preempted may keep others waiting before that is reported.
        long_mailbox: messages at which a mailbox is reported.
        spin: seconds that it goes on looking at its rings before it sleeps. Only for who has a core of its own.
    """

    def __cinit__(self, Segment segment, int endpoint, int incarnation, str role, *, Tick tick=None,
                  double long_schedule=0.5, Py_ssize_t long_mailbox=131072, double spin=0):
        cdef uint32_t n = segment.endpoints, e
        self.segment = segment
        self.endpoint = endpoint
        self.incarnation = incarnation
        self.role = role
        self.hi = make_hi(segment.nonce, endpoint, incarnation)
        self.root_hi = make_hi(segment.nonce, segment.root, 0)
        self.root_lo = make_lo(segment.root, 0, 1)
        self.codec = Codec(segment.store_put, segment.store_get, segment.arena)
        self.names = NameTable(segment)
        self.names.claim_as(endpoint, incarnation)
        self.table = {}
        self.aliases = {}
        self.requests = {}
        self.calls = {}
        self.unborn = {}
        self.profile = {}
        self.ref_timers = {}
        self.ties = [None] * n
        self.exported = [None] * 64
        self.fresh = deque()
        self.function_bytes = {}
        self.foreign = [None] * n
        self.away = [None] * n
        self.hosted = {}
        self.relayed = {}
        self.arriving = []
        self.late_ends = []
        self.moves = {}
        self.due_moves = []
        self.shed_at = {}
        self.packages = []
        self.leavers = []
        self.stayers = set()
        self.asked_away = {}
        self.services = {}
        self.passing = {}
        self.kept_timers = set()
        self.moved_timers = {}
        self.outboxes = [None] * n
        self.inboxes = [None] * n
        self.flow_waiting = []
        self.full = {}
        self.limits = {}
        self.owing = []
        self.pool = []
        self.abandoned = []
        self.timers = TimerHeap()
        self.high = RunQueue()
        self.normal = RunQueue()
        self.low = RunQueue()
        self.hogs = RunQueue()
        self.tick = tick
        if role == "worker":
            self.ballast = bytearray(BALLAST)
        self.no_reason = self.codec.encode("system_limit")
        if role == "worker":
            self.no_body = self.codec.encode((no_memory_for_arguments, (), None, None, ()))
            self.exports = Exports(segment, endpoint)
            self.steal_age = STEAL_AGE_NS
        self.long_schedule = <int64_t>(long_schedule * 1e9)
        self.long_mailbox = long_mailbox
        self.spin = <int64_t>(spin * 1e9)
        self.watched_fds = {}
        self.partial_lines = {}
        self.reductions = REDUCTIONS
        self.believed = <uint32_t *>PyMem_Calloc(n, sizeof(uint32_t))
        self.spawned = <uint64_t *>PyMem_Calloc(n, sizeof(uint64_t))
        self.spawned_before = <uint64_t *>PyMem_Calloc(n, sizeof(uint64_t))
        self.seen = <uint64_t *>PyMem_Calloc(n, sizeof(uint64_t))
        self.again = <uint8_t *>PyMem_Calloc(n, 1)
        self.reading = <uint8_t *>PyMem_Calloc(n, 1)
        if self.reading == NULL or self.believed == NULL or self.spawned == NULL or self.spawned_before == NULL or self.seen == NULL or self.again == NULL:
            raise MemoryError()
        for e in range(n):
            self.believed[e] = segment.incarnation(e)
        self.now = self.awake_since = self.profiled_at = pa_now()
        self.epoll = pa_epoll_create()
        if self.epoll < 0:
            raise OSError(errno, "epoll_create1 failed: are there file descriptors left? see `parallel-actors doctor`")
        if pa_epoll_add(self.epoll, segment.eventfds[endpoint]) < 0:
            raise OSError(errno, "epoll_ctl failed")
        if role == "worker":
            self.show_count()       # before it is said to be up: until then it counts as full

    def __dealloc__(self):
        PyMem_Free(self.believed)
        PyMem_Free(self.spawned)
        PyMem_Free(self.spawned_before)
        PyMem_Free(self.seen)
        PyMem_Free(self.again)
        PyMem_Free(self.reading)

    def close(self):
        """Give up the epoll descriptor. The scheduler is dead after this; pids of its processes are too."""
        cdef Process p
        if self.closed:
            return
        self.closed = True
        os.close(self.epoll)
        for p in list(self.table.values()):
            p.pid.process = None
            _discard_mail(p)
        self.table.clear()
        self.fresh.clear()
        self.exported = []
        self.foreign = []
        self.watched_fds.clear()

    def watch_fd(self, int fd, callback):
        """Call `callback()` between two turns whenever `fd` is readable. Not for user code: it runs in the runtime."""
        if pa_epoll_add(self.epoll, fd) < 0:
            raise OSError(errno, f"epoll_ctl failed for descriptor {fd}")
        self.watched_fds[fd] = callback

    def unwatch_fd(self, int fd):
        """Undo `watch_fd`."""
        if self.watched_fds.pop(fd, None) is not None:
            pa_epoll_del(self.epoll, fd)

    cdef int watch(self, Watch watch) except -1:
        """Have `watch` told when `watch.fd` is ready for one of `watch.events`."""
        cdef int failed
        if pa_epoll_set(self.epoll, EPOLL_CTL_ADD, watch.fd, watch.events) < 0:
            failed = errno
            if failed == EEXIST:
                raise ValueError(f"expected a descriptor that nobody waits for, got {watch.fd}: another process of this worker does, or this one has")
            if failed == EPERM:
                raise OSError(failed, f"expected a descriptor that can be waited for, got {watch.fd}: a file is always ready, read it by run_blocking()")
            raise OSError(failed, f"expected an open descriptor, got {watch.fd}: {os.strerror(failed)}")
        # Where there was one, its descriptor has been closed, and the number is in use again.
        self.watched_fds[watch.fd] = watch
        watch.muted = False
        return 0

    cdef int unwatch(self, Watch watch) except -1:
        """Undo `watch`; also where the descriptor has been closed since, and its number is somebody else's."""
        if self.watched_fds.get(watch.fd) is watch:
            del self.watched_fds[watch.fd]
            if not watch.muted:
                pa_epoll_del(self.epoll, watch.fd)
        return 0

    cdef int mute(self, Watch watch) except -1:
        """It has been told and hasn't looked: not again until `unmute`, or the worker would never sleep."""
        if not watch.muted and self.watched_fds.get(watch.fd) is watch:
            watch.muted = True
            pa_epoll_del(self.epoll, watch.fd)
        return 0

    cdef int unmute(self, Watch watch) except -1:
        if watch.muted and self.watched_fds.get(watch.fd) is watch:
            watch.muted = False
            pa_epoll_set(self.epoll, EPOLL_CTL_ADD, watch.fd, watch.events)     # it fails where it was closed: nothing comes any more
        return 0

    def use_loops(self, Loops loops not None):
        """asyncio has been imported here: whoever awaits has a task and a loop from now on, at once the one that imports it."""
        cdef Process p = self.current
        self.loops = loops
        if pa_here == <PyObject *>self and p is not None and p.kind == ASYNC and p.tasks is None:
            loops.join(p)

    def wake_tasks(self, Tasks tasks not None):
        """Something has come for the loop of these: from another thread, by way of ours."""
        tasks.wake()

    def was_forked(self):
        """For `os.register_at_fork`: this is a copy from now on, in an OS process that user code has forked."""
        self.forked = True

    def lose(self, reason):
        """Guest: the system is gone; whatever waits, or is called from now on, raises NotRunning(reason)."""
        self.lost = reason

    @property
    def awaits(self):
        """Guest: whether its process has an alias or watches somebody, so that something it was promised is still to come."""
        cdef Process p = self.current
        return p is not None and p.extra is not None and bool(p.extra.aliases or p.extra.monitors)

    @property
    def root_pid(self):
        """The root's own process."""
        return new_pid(self.root_hi, self.root_lo)

    @property
    def process_count(self):
        """Live processes of this endpoint, the runtime's own left out."""
        return len(self.table) - self.system_processes

    @property
    def running_pid(self):
        """The pid of the process that runs now, or None in the runtime itself."""
        return None if self.current is None else self.current.pid

    def running_label(self):
        """Label or name of the process that runs now, for marking its output."""
        if self.current is None or self.current.extra is None:
            return None
        return self.current.extra.label or self.current.extra.name

    def send_to_root(self, message):
        """A message to the root's own process. Blocks the running process where the root can't keep up."""
        self.send_pid(new_pid(self.root_hi, self.root_lo), message)

    def flush_all(self, double limit):
        """Move all overflow into the rings, at most `limit` seconds. Whether it is empty now."""
        cdef int64_t until = pa_now() + <int64_t>(limit * 1e9)
        self.flush()
        while self.backlog and pa_now() < until:
            self.poll(1_000_000)
            self.flush()
        return not self.backlog

    def flush_last(self):
        """Move all overflow into the rings and take nothing in: that is somebody else's. Sleeps while there is no room."""
        self.flush()
        while self.backlog:
            time.sleep(0.001)
            self.flush()

    def read_to_end(self, uint32_t e):
        """Take in all that the ring of `e` holds."""
        while self.drain_one(e):
            pass

    def attend(self):
        """For other event loops: handle what has come in, without waiting. Then call `rest` before sleeping on `epoll_fd`."""
        self.segment.park_end(self.endpoint)
        self.turn += 16 - (self.turn & 15)
        self.park(0)
        self.poll(0)
        if self.due_moves and self.role == "relay":
            self.make_moves()

    def rest(self):
        """For other event loops: from now on `epoll_fd` becomes readable when something comes. False: there is something already."""
        self.segment.park_begin(self.endpoint)
        return not (self.segment.any_dirty(self.endpoint) or self.again_count)

    def epoll_fd(self):
        """The descriptor that is readable when this endpoint has something to do (for other event loops)."""
        return self.epoll

    # ------------------------------------------------------------------ processes

    cdef Process new_process(self, uint64_t lo, int kind):
        cdef Process p = Process.__new__(Process)
        p.scheduler = self
        p.pid = new_pid(self.hi, lo)
        p.pid.process = p
        p.kind = kind
        p.lineage = ()
        self.table[lo] = p
        return p

    cdef Process find(self, uint64_t lo):
        return <Process>self.table.get(lo)

    cdef bint is_unborn(self, uint64_t lo) noexcept:
        """Whether the process `lo` of this endpoint may still be born: its spawner lives and its number is to come."""
        cdef uint32_t spawner = lo_spawner(lo), inc = lo_incarnation(lo)
        if spawner >= self.segment.endpoints or spawner == self.endpoint:
            return False
        if inc < self.believed[spawner]:
            return False
        if inc > self.believed[spawner]:
            return True
        return lo_counter(lo) > self.seen[spawner]

    cdef Ref make_ref(self, Process p):
        cdef Ref ref = new_ref(self.hi if p is None else p.pid.hi, self.new_lo(p))
        if p is not None:
            # Receive mark (S3.2): no message that is already here can mention this reference.
            p.mark = p.last
            p.mark_lo = ref.lo
        return ref

    def add_callback_process(self, body, bint system=False):
        """Start a callback process: `body(message)` is called once per message; returning `True` ends it. Returns its Pid."""
        cdef Process p
        self.spawned[self.endpoint] += 1
        p = self.new_process(make_lo(self.endpoint, self.incarnation, self.spawned[self.endpoint]), CALLBACK)
        p.body = body
        if system:
            p.flags |= SYSTEM
            self.system_processes += 1
        self.show_count()
        return p.pid

    def add_guest_process(self):
        """The calling thread's own process. Returns its Pid."""
        cdef Process p
        self.spawned[self.endpoint] += 1
        p = self.new_process(make_lo(self.endpoint, self.incarnation, self.spawned[self.endpoint]), GUEST)
        p.flags |= SPREAD
        p.state = RUNNING
        self.current = p
        self.segment.set_load(self.endpoint, 1, 0)      # is_alive() looks there
        return p.pid

    def end_guest(self, reason):
        """The guest's thread leaves: its process ends with `reason` for everybody who watches it."""
        cdef Process p = self.current
        if p is not None and p.state != DEAD:
            self.terminate(p, reason)
            p.state = DEAD
            self.flush_all(1.0)

    cdef int place(self, Process parent, int wish) except -1:
        """The endpoint for a new process: `wish`, or here, or (from guests and the main process) the least loaded worker."""
        cdef uint32_t e, best = self.segment.workers
        cdef int64_t load, least = -1
        cdef uint64_t born
        cdef uint32_t start
        if wish >= 0:
            e = <uint32_t>wish
            if e >= self.segment.workers or not self.segment.takes(e, self.segment.slot_word(e)):
                there = ", ".join([str(w) for w in self.segment.worker_indices() if not self.segment.is_leaving(w)])
                raise ValueError(f"expected worker= to be one of this system's workers ({there}), got {wish}")
            return wish
        if self.role == "worker" and not self.leaving and (parent is None or not parent.flags & SPREAD):
            return self.endpoint
        start = <uint32_t>(self.turn % self.segment.workers)
        for e in range(self.segment.workers):
            if self.segment.state(e) != SLOT_LIVE or self.segment.is_leaving(e):
                continue
            if e == self.endpoint:
                load = len(self.table)
            else:
                # Those under way: in our ring, not yet seen by their home. Read before its load, which counts what was born.
                load = 0
                if self.spawned[e]:
                    born = ring_born(self.segment, self.endpoint, e)
                    load = <int64_t>(self.spawned[e] - max(born, self.spawned_before[e]))
                load += ld32_relaxed(self.segment.slot_at(e) + 256)
            if least < 0 or load < least:
                least = load
                best = e
        if best == self.segment.workers:
            # All are being replaced: any of them will be back; its next incarnation takes the process.
            for e in range(self.segment.workers):
                best = (start + e) % self.segment.workers
                if self.segment.takes(best, self.segment.slot_word(best)):
                    return best
            raise NotRunning("expected a worker that takes new processes, got a system that has none: it stops")
        return best

    cdef Pid spawn(self, object function, tuple args, dict kwargs, int how, Ref ref, object options):
        """Start a process. how: of How, together; ref: of the monitor, or of the answer. options: (worker, name, label, traits),
        and where its mailbox has limits of its own (messages, bytes, policy).
        """
        cdef Process parent = self.current, p
        cdef Pid pid
        cdef uint32_t home, inc
        cdef uint64_t word
        cdef pa_head head
        cdef pa_head bounds
        cdef bytes payload
        cdef Link link
        cdef int traits = options[3]
        limits = options[4] if len(<tuple>options) > 4 else None
        cdef tuple lineage = () if parent is None else (parent.pid, *parent.lineage)[:MAX_LINEAGE]
        name = options[1]
        home = self.place(parent, options[0])
        if options[0] >= 0:
            traits |= WILL_KEEP
        if how & AWAITED:
            traits |= WILL_START
        if home == self.endpoint:
            body = self.codec.isolate_callable(function)
            # What has to be unpickled is so in the new process, as on another worker: a failure is its own.
            args_own = self.codec.isolate_message(args, False) if args else args
            kwargs_own = self.codec.isolate_message(kwargs, False) if kwargs else kwargs
            self.spawned[home] += 1
            pid = new_pid(self.hi, make_lo(self.endpoint, self.incarnation, self.spawned[home]))
            if name is not None and self.names.claim(name, pid.hi, pid.lo) != 1:
                raise self.taken(name)
            p = Process.__new__(Process)
            p.scheduler = self
            p.pid = pid
            pid.process = p
            p.kind = STACK
            self.table[pid.lo] = p
            p.body = body
            p.args = args_own
            p.kwargs = kwargs_own
            p.lineage = lineage
            self.give_traits(p, traits)
            if limits is None:
                limits = self.mailbox_default
            if limits is not None:
                self.limit_mailbox(p, limits)
            if name is not None:
                p.more().name = name
            if options[2] is not None:
                p.more().label = options[2]
            if how & LINKED:
                self.add_link(parent, pid)
            if how & MONITORED:
                self.add_monitor(parent, ref, pid)
            if how & AWAITED:
                if parent.pid.hi != self.hi:
                    p.put_watcher(ref, parent.pid)      # see `call`
                    self.tie(p, parent.pid)
                self.begin_wait(parent, p if parent.pid.hi == self.hi else None, pid, ref)
            self.enqueue(p)
            self.show_count()
            if self.exports is not None and not p.flags & KEEPS and not traits & WILL_START:
                self.offer(p, True)
            return pid
        payload = self.codec.pack((function, args, kwargs or None, options[2], lineage), False)
        cdef Holds holds = self.packed()
        if how & LINKED and parent.pid.hi != self.hi:
            self.wait_published(parent)     # LINKED_TO, which goes before it, must not come after it
        # User code ran: number and put in one go from here on. A worker that is being replaced: its next incarnation takes it.
        self.spawned[home] += 1
        while True:
            word = self.segment.slot_word(home)
            if not self.segment.takes(home, word):
                # That worker was removed while the arguments were encoded: nobody may ever come to that place again.
                self.spawned[home] -= 1
                return self.spawn(function, args, kwargs, how, ref, options)
            inc = <uint32_t>word
            pid = new_pid(make_hi(self.segment.nonce, home, inc), make_lo(self.endpoint, self.incarnation, self.spawned[home]))
            if name is None:
                break
            if self.names.claim(name, pid.hi, pid.lo) != 1:
                self.spawned[home] -= 1
                raise self.taken(name)
            if self.segment.incarnation(home) == inc:
                break
            # The root may have swept the names of that incarnation before ours was among them.
            self.names.free(name, pid.hi, pid.lo)
        head.a = pid.lo
        head.b = head.c = head.d = head.e = head.f = 0
        if parent is not None:
            head.b = parent.pid.hi
            head.c = parent.pid.lo
        if how & LINKED:
            self.link_counter += 1
            link = Link()
            link.own = self.link_counter
            parent.put_link(pid, link)
            self.tie(parent, pid)
            if parent.pid.hi != self.hi:
                self.tell_home(parent, LINKED_TO, pid.hi, pid.lo, link.own)
            head.f = link.own
        if how & (MONITORED | AWAITED):
            head.d = ref.hi
            head.e = ref.lo
        if how & MONITORED:
            parent.put_monitor(ref, pid)
            self.tie(parent, pid)
        if how & AWAITED:
            self.begin_wait(parent, None, pid, ref)
        # The name stands outside the pickle: it has to be freed even if the process dies before it first runs.
        text = b"" if name is None else (<str>name).encode()
        if limits is not None:
            traits |= WILL_LIMIT
            bounds.a, bounds.b, bounds.c = limits
            payload = (<char *>&bounds)[:24] + payload
        try:
            self.put(home, inc, SPAWN, <int>len(text), &head, 48, text + payload, True, traits, holds)
        except MemoryError:
            if parent is not None and parent.extra is not None:
                parent.extra.links.pop(pid, None)
                parent.extra.monitors.pop(ref, None)
            if name is not None:
                self.names.free(name, pid.hi, pid.lo)
            raise
        return pid

    cdef int give_traits(self, Process p, int traits) noexcept:
        if traits & WILL_SPREAD:
            p.flags |= SPREAD
        if traits & WILL_STAY:
            p.flags |= UNCUT
        if traits & WILL_KEEP:
            p.flags |= KEEPS
        p.priority = <uint8_t>(traits >> TRAIT_PRIORITY & 3)
        return 0

    def use_mailbox_limits(self, tuple limits):
        """Limit the mailboxes of processes that are spawned here without limits of their own: (messages, bytes, policy), or None."""
        self.mailbox_default = limits

    cdef int limit_mailbox(self, Process p, object limits) except -1:
        """limits: (messages, bytes, Policy); 0: no limit."""
        cdef MailboxLimit limit
        if limits[0] or limits[1]:
            limit = MailboxLimit()
            limit.most, limit.most_bytes, limit.policy = limits
            self.limits[p.pid.lo] = limit
            p.flags |= LIMITED
        return 0

    cdef MailboxLimit limit_of(self, Process p):
        """Of a process that is LIMITED."""
        return <MailboxLimit>self.limits[p.pid.lo]

    cdef object decoded(self, Encoded message):
        cdef bytes data = message.data
        return self.codec.decode(<const uint8_t *><const char *>data, len(data))

    def taken(self, str name):
        """The error for a name that another process has."""
        cdef uint64_t hi = 0, lo = 0
        holder = new_pid(hi, lo) if self.names.lookup(name, &hi, &lo) else None
        return NameTaken(f"expected a name that is free, got {name!r}, which {holder or 'a dying process'} has", target=holder)

    def isolated_now(self, value):
        """An isolated copy of `value`, decoded at once (spawn arguments on the same worker)."""
        copy = self.codec.isolate(value)
        if type(copy) is Encoded:
            return self.decoded(copy)
        return copy

    cdef int birth(self, Record *r, Holds holds) except -1:
        """A SPAWN record: the process is in the table at once; what it runs is decoded on its own stack."""
        cdef pa_head head
        cdef Process p
        cdef uint32_t spawner
        cdef Pid parent
        cdef Link link
        cdef pa_head bounds
        memcpy(&head, r.body, 48)
        spawner = lo_spawner(head.a)
        p = self.new_process(head.a, STACK)
        self.show_count()           # before it is told as born: see `place`
        if lo_incarnation(head.a) == self.believed[spawner] and lo_counter(head.a) > self.seen[spawner]:
            self.seen[spawner] = lo_counter(head.a)
            (<Inbox>self.inboxes[spawner]).set_born(lo_counter(head.a))
        self.give_traits(p, r.aux)
        cdef size_t named = 48 + <size_t>r.flags
        if r.flags:
            p.more().name = (<bytes>r.body[48:named]).decode()
        if r.aux & WILL_LIMIT:
            memcpy(&bounds, r.body + named, 24)
            named += 24
            self.limit_mailbox(p, (bounds.a, bounds.b, bounds.c))
        elif self.mailbox_default is not None:
            self.limit_mailbox(p, self.mailbox_default)
        p.body = encoded(<bytes>r.body[named:r.size])
        (<Encoded>p.body).holds = holds
        if head.b:
            parent = new_pid(head.b, head.c)
            p.lineage = (parent,)
            if head.f:
                link = Link()
                link.peer = head.f
                p.put_link(parent, link)
                self.tie(p, parent)
            if head.d:
                p.put_watcher(new_ref(head.d, head.e), parent)
                self.tie(p, parent)
        if self.role == "relay":
            # Sent to a worker at the moment when it left: nobody runs here, nor ever will.
            self.terminate(p, NOPROC)
        else:
            self.enqueue(p)
        if head.b and head.f and self.gone(parent):
            # A parent that ran elsewhere, and whose home died while this was under way: that death has fired already.
            self.take_exit(p, parent, WorkerDown(hi_endpoint(parent.hi)), BY_LINK, 0xFFFFFFFFFFFFFFFFULL)
        held = self.unborn.pop(head.a, None)
        if held is not None:
            for kind, flags, aux, body in held:
                self.replay(kind, flags, aux, body)
        if self.stopping or self.hastened:
            self.shut(p, max(self.stopping, self.hastened))
        elif self.exports is not None and not p.flags & (KEEPS | EXITING) and not r.aux & WILL_START:
            self.offer(p, False)
        return 0

    def replay(self, kind, flags, aux, body):
        """Handle a held record as if it came now. body: bytes, or Encoded where it mentions blocks."""
        cdef Record r
        cdef Holds holds = None
        if type(body) is Encoded:
            holds = (<Encoded>body).holds
            body = (<Encoded>body).data
        r.kind = kind
        r.flags = flags
        r.aux = aux
        r.body = <const uint8_t *><char *><bytes>body
        r.size = len(<bytes>body)
        self.holds = holds
        self.signal(self.endpoint, &r)

    # ------------------------------------------------------------------ messages

    cdef int deliver(self, Process p, object body) except -1:
        p.append(body)
        if p.mail >= self.long_mailbox and not p.flags & LONG_MAIL:
            self.report_long_mailbox(p)
        if p.state == IDLE or (p.state == BLOCKED and p.wait == MAIL):
            self.enqueue(p)
        return 0

    cdef int report_long_mailbox(self, Process p) except -1:
        p.flags |= LONG_MAIL
        self.report("long_mailbox", {"pid": p.pid, "label": None if p.extra is None else p.extra.name or p.extra.label,
                                     "message_queue_len": p.mail})
        return 0

    cdef object received(self, const uint8_t *data, size_t n, Holds holds):
        """A message that came as bytes: the value, or Encoded, which has the blocks that it mentions."""
        body = self.codec.receive(data, n)
        if holds is not None and type(body) is Encoded:
            (<Encoded>body).holds = holds
        return body

    cdef Holds packed(self):
        """The blocks that the bytes of the latest `pack` mention, or None. Called right after it."""
        cdef Holds holds = self.codec.packed
        if holds is not None:
            self.codec.packed = None
        return holds

    cdef int send_pid(self, Pid to, object message, bint own=False) except -1:
        cdef Process p
        cdef bytes data
        cdef Holds holds
        cdef uint64_t lo = to.lo
        if to.hi == self.hi:
            body = self.codec.isolate_message(message, own)
            p = <Process>to.process
            if p is None:
                p = self.find(lo)
                if p is None:
                    if self.is_unborn(lo):
                        data = self.codec.encode(message)
                        self.unborn.setdefault(lo, []).append((MSG, 0, 0, (<char *>&lo)[:8] + data))
                    return 0
                to.process = p
            if p.flags & AWAY:
                data = self.codec.encode(message)
                # Encoding runs user code: it may have come home meanwhile.
                if self.elsewhere(lo):
                    return self.hold(lo, MSG, 0, 0, (<char *>&lo)[:8] + data)
            if p.state != DEAD and not p.flags & EXITING:
                if p.flags & LIMITED:
                    return self.admit(p, body, True)
                self.deliver(p, body)
            return 0
        data = self.codec.pack(message, own)
        holds = self.packed()
        if hi_nonce(to.hi) != self.segment.nonce:
            return 0
        if self.full:
            full = self.full_mailbox(to)
            if full is not None:
                self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), MSG, 0, &lo, 8, data, True, 0, holds)
                return self.await_room(to, full)
        return self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), MSG, 0, &lo, 8, data, True, 0, holds)

    cdef int send_order(self, Pid to, object message) except -1:
        """A message that no limit of a mailbox holds up or drops: such as the order to stop."""
        cdef Process p
        cdef uint64_t lo = to.lo
        if to.hi == self.hi:
            p = self.find(lo)
            if p is not None and not p.flags & AWAY:
                body = self.codec.isolate(message)
                if p.flags & (EXPORTED | AWAY) and self.local(lo) is None:
                    return self.send_order(to, message)         # isolating runs user code
                return 0 if p.flags & EXITING else self.deliver(p, body)
            if self.elsewhere(lo):
                data = self.codec.encode(message)
                if self.elsewhere(lo):
                    self.hold(lo, MSG, IS_ORDER, 0, (<char *>&lo)[:8] + <bytes>data)
            return 0
        data = self.codec.encode(message)
        if hi_nonce(to.hi) != self.segment.nonce:
            return 0
        return self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), MSG, IS_ORDER, &lo, 8, data, True)

    cdef int send_request(self, Process p, Pid to, Ref ref, object request, bint order) except -1:
        """`("$gen_call", (own pid, ref, True), request)`: a call whose answer, `(ref, value)`, comes as a message. ref: of a monitor with an alias."""
        cdef Process q
        cdef FullMailbox full = None
        cdef pa_head head
        cdef bytes data
        if to.hi == self.hi:
            q = self.find(to.lo)
            if q is not None and not q.flags & AWAY:
                body = (CALL, (p.pid, ref, True), self.codec.isolate_message(request, False))
                if q.flags & (EXPORTED | AWAY) and self.local(to.lo) is None:
                    return self.send_request(p, to, ref, request, order)        # isolating runs user code
                if q.state != DEAD and not q.flags & EXITING:
                    if q.flags & LIMITED and not order:
                        return self.admit(q, body, True)
                    self.deliver(q, body)
                return 0
            if not self.elsewhere(to.lo):
                return 0
        elif hi_nonce(to.hi) != self.segment.nonce:
            return 0
        cdef Holds holds = None
        if to.hi == self.hi:
            data = self.codec.encode(request)       # it waits here, on its own
        else:
            data = self.codec.pack(request, False)
            holds = self.packed()
        head.a = to.lo
        head.b = p.pid.hi
        head.c = p.pid.lo
        head.d = ref.hi
        head.e = ref.lo
        cdef int flags = IS_CALL | IS_TAGGED | (IS_ORDER if order else 0)
        if to.hi == self.hi:
            if self.elsewhere(to.lo):
                self.hold(to.lo, MSG, flags, 0, (<char *>&head)[:40] + data)
            return 0
        if self.full and not order:
            full = self.full_mailbox(to)
        self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), MSG, flags, &head, 40, data, True, 0, holds)
        if full is not None:
            self.await_room(to, full)
        return 0

    # ------------------------------------------------------------------ limited mailboxes

    cdef int take_in(self, Process p, object body, Py_ssize_t size) except -1:
        """`deliver`, for a message that counts."""
        cdef Counted envelope = Counted.__new__(Counted)
        cdef MailboxLimit limit = self.limit_of(p)
        envelope.body = body
        envelope.size = size
        limit.count += 1
        limit.bytes += size
        p.chain(envelope)
        if p.mail >= self.long_mailbox and not p.flags & LONG_MAIL:
            self.report_long_mailbox(p)
        if p.state == IDLE or (p.state == BLOCKED and p.wait == MAIL):
            self.enqueue(p)
        return 0

    cdef int admit(self, Process p, object body, bint waits) except -1:
        """A message of the running process to `p`, of this endpoint, whose mailbox is limited. waits: whether the sender may have to.

        What the runtime sends is always taken, and what a process sends to itself: nobody else could make room for it.
        """
        cdef MailboxLimit limit = self.limit_of(p)
        cdef Process sender = self.current
        cdef Py_ssize_t size = weight_of(body) if limit.most_bytes else 0
        if limit.has_room(size) or sender is None or sender is p or sender.flags & SYSTEM:
            return self.take_in(p, body, size)
        if limit.policy == FAIL:
            limit.refused += 1
            raise mailbox_full(p.pid)
        if limit.policy == DROP_NEWEST or limit.policy == DROP_OLDEST and p.flags & SCANNING:
            limit.dropped += 1
            return self.unanswered(p, body)
        if limit.policy == DROP_OLDEST:
            return self.drop_oldest(p, limit, size) or self.take_in(p, body, size)
        self.take_in(p, body, size)
        if waits and not sender.flags & EXITING:
            # It is in already: so nothing is lost if the sender is killed while it waits.
            limit.suspended += 1
            if limit.held is None:
                limit.held = []
            limit.held.append(sender)
            self.block(sender, FLOW)
        return 0

    cdef int admit_from(self, uint32_t e, Process p, object body, Py_ssize_t size) except -1:
        """A message from endpoint `e` to `p`, whose mailbox is limited. What was sent before `e` knew that it is full is taken in."""
        cdef MailboxLimit limit = self.limit_of(p)
        cdef pa_head head
        cdef uint32_t inc
        if not limit.most_bytes:
            size = 0
        if not limit.has_room(size):
            if limit.policy == DROP_NEWEST or limit.policy == DROP_OLDEST and p.flags & SCANNING:
                limit.dropped += 1
                return self.unanswered(p, body)
            if limit.policy == DROP_OLDEST:
                self.drop_oldest(p, limit, size)
            elif limit.policy == FAIL and is_request(body):
                limit.refused += 1
                return self.unanswered(p, body)
        self.take_in(p, body, size)
        if (limit.policy == SUSPEND or limit.policy == FAIL) and limit.is_full() and e != self.endpoint:
            inc = self.believed[e]
            if limit.told is None:
                limit.told = {}
            if limit.told.get(e) != inc:
                limit.told[e] = inc
                head.a = p.pid.hi
                head.b = p.pid.lo
                self.put(e, inc, MAILBOX, FULL, &head, 16, None, False, limit.policy)
        return 0

    cdef int drop_oldest(self, Process p, MailboxLimit limit, Py_ssize_t size) except -1:
        """Drop the oldest messages that count until there is room for one of `size`."""
        cdef Envelope before = None, envelope = p.first, following
        cdef list dropped = []
        while envelope is not None and not limit.has_room(size):
            following = envelope.next
            if type(envelope) is Counted:
                if p.save is envelope:
                    p.save = before
                dropped.append(p.unlink(before, envelope))
                limit.dropped += 1
            else:
                before = envelope
            envelope = following
        for body in dropped:
            self.unanswered(p, body)
        # Released here, where the chain is whole: a __del__ of the user's may send.
        return 0

    cdef int unanswered(self, Process p, object body) except -1:
        """A message to `p` was dropped: if it asks for an answer, there is none (S6.3)."""
        cdef tuple from_
        if is_request(body):
            from_ = <tuple>(<tuple>body)[1]
            if p.extra is not None:
                p.extra.watchers.pop(from_[1], None)
            self.send_down(<Pid>from_[0], <Ref>from_[1], p.pid, MAILBOX_FULL)
        return 0

    cdef int taken_out(self, Process p, Envelope envelope) except -1:
        """`envelope` has left the mailbox of `p`, which is limited."""
        cdef MailboxLimit limit
        if type(envelope) is not Counted:
            return 0
        limit = self.limit_of(p)
        limit.count -= 1
        limit.bytes -= (<Counted>envelope).size
        if (limit.held is not None or limit.told is not None) and limit.is_low():
            self.let_in(p, limit)
        return 0

    cdef int let_in(self, Process p, MailboxLimit limit) except -1:
        """The mailbox of `p` has room again, or `p` has ended: whoever waits for it goes on, however full it is by then."""
        cdef pa_head head
        held = limit.held
        told = limit.told
        limit.held = limit.told = None
        if held is not None:
            self.wake_held(held)
        if told is not None:
            head.a = p.pid.hi
            head.b = p.pid.lo
            for e, inc in told.items():
                self.put(e, inc, MAILBOX, ROOM, &head, 16, None, False)
        return 0

    cdef int wake_held(self, list held) except -1:
        cdef Process p
        for p in held:
            if p.state == BLOCKED and p.wait == FLOW:
                self.enqueue(p)
        return 0

    cdef FullMailbox full_mailbox(self, Pid to):
        """What is known here of the mailbox of `to`, on another endpoint, if it is full and the running process must heed that; else None."""
        cdef FullMailbox full = <FullMailbox>self.full.get(to)
        if full is None or self.current is None or self.current.flags & SYSTEM:
            return None
        if full.policy == FAIL:
            full.refused += 1
            raise mailbox_full(to)
        return full

    cdef int await_room(self, Pid to, FullMailbox full) except -1:
        """The running process waits until there is room in the mailbox of `to` again."""
        cdef pa_head head
        cdef Process p = self.current
        # It may have waited in `put`, and the mailbox have drained meanwhile.
        if p.flags & EXITING or self.full.get(to) is not full:
            return 0
        head.a = to.lo
        head.b = 1
        head.c = 0
        self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), MAILBOX, COUNTS, &head, 24, None, False)
        if self.full.get(to) is full:
            full.held.append(p)
            self.block(p, FLOW)
        return 0

    cdef int mailbox_news(self, Record *r) except -1:
        cdef MailboxLimit limit
        cdef pa_head head
        cdef Process p
        cdef Pid pid
        cdef FullMailbox full
        memcpy(&head, r.body, r.size)
        if r.flags == COUNTS:
            p = self.find(head.a)
            if p is not None and p.flags & LIMITED:
                limit = self.limit_of(p)
                limit.suspended += head.b
                limit.refused += head.c
            return 0
        pid = new_pid(head.a, head.b)
        if r.flags == ROOM:
            return self.has_room_again(pid)
        if pid not in self.full and not self.gone(pid):
            full = FullMailbox()
            full.policy = r.aux
            full.held = []
            self.full[pid] = full
        return 0

    cdef int has_room_again(self, Pid pid) except -1:
        cdef FullMailbox full = <FullMailbox>self.full.pop(pid, None)
        cdef pa_head head
        if full is None:
            return 0
        self.wake_held(full.held)
        if full.refused:
            head.a = pid.lo
            head.b = 0
            head.c = full.refused
            self.put(hi_endpoint(pid.hi), hi_incarnation(pid.hi), MAILBOX, COUNTS, &head, 24, None, False)
        return 0

    cdef int send_ref(self, Ref to, object message, bint own=False) except -1:
        cdef bytes data
        cdef Holds holds
        cdef uint64_t lo = to.lo
        if to.hi == self.hi and not lo >> 52:
            body = self.codec.isolate_message(message, own)
            return self.take_alias(lo, body)
        data = self.codec.pack(message, own)
        holds = self.packed()
        if hi_nonce(to.hi) != self.segment.nonce:
            return 0
        if to.hi == self.hi:
            return self.pass_alias(lo, (<char *>&lo)[:8] + data, holds)
        return self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), ALIAS, 0, &lo, 8, data, True, 0, holds)

    cdef int pass_alias(self, uint64_t lo, bytes body, Holds holds=None) except -1:
        """A message to a reference that one of our processes has made on another worker: to there."""
        cdef uint32_t e = <uint32_t>(lo >> 52) - 1
        cdef uint64_t head = ALIAS
        if e >= self.segment.workers:
            return 0
        # It may have begun there without our knowledge: then what was sent to it before lies here still.
        if self.segment.reserve_header(e, self.endpoint):
            self.catch_up(make_hi(self.segment.nonce, e, self.believed[e]), ld64_acquire(self.segment.ring_base(e, self.endpoint) + 128))
        return self.put(e, <uint32_t>(lo >> 36 & 0xFFFF), FORWARD, 0, &head, 8, body, True, 0, holds)

    cdef int take_alias(self, uint64_t lo, object body) except -1:
        cdef Ref ref
        entry = self.aliases.get(lo)
        if entry is None:
            return 0
        if entry[1]:
            # The alias of a monitor made for one reply: it takes alias and monitor away.
            ref = new_ref((<Process>entry[0]).pid.hi, lo)
            self.drop_alias(ref)
            self.remove_monitor(<Process>entry[0], ref)
        return self.deliver(<Process>entry[0], body)

    def drop_alias(self, Ref ref):
        """Switch an alias off: what comes later is dropped before the mailbox (S4.4)."""
        entry = self.aliases.pop(ref.lo, None)
        if entry is None:
            return False
        extra = (<Process>entry[0]).extra
        if extra is not None and (<Extra>extra).aliases is not None:
            (<Extra>extra).aliases.pop(ref, None)
        return True

    cdef int put(self, uint32_t e, uint32_t inc, int kind, int flags, const void *head, size_t nhead, bytes payload, bint may_block, int aux=0,
                 Holds holds=None) except -1:
        """One record to another endpoint, in order. A process whose overflow is too long is suspended (S2.5); signals never are.

        holds: the blocks that `payload` mentions (`packed`, or `Encoded.holds` of a message that is handed on as it is): this endpoint
        holds them until the other one has taken its own hold.
        """
        cdef Outbox box
        cdef int done
        cdef const char *data = NULL
        cdef size_t n = 0
        cdef Process sender
        cdef pa_wrap wrapped
        if e >= self.segment.endpoints:
            return 0
        if self.closed:
            raise NotRunning("the actor system of this thread has ended: start another one")
        if self.forked:
            raise NotRunning("this OS process was forked from a worker: it is no part of the actor system")
        if payload is not None:
            data = payload
            n = len(payload)
        box = self.outbox(e)
        sender = self.current if self.behalf is None else self.behalf
        # What a home forwards, and what endpoints say to each other, is their own word, whoever they have it from.
        if kind < FORWARD and (self.behind or sender is not None and sender.flags & CARRIED):
            nhead = self.wrap(&wrapped, sender, e, inc, kind, flags, aux, head, nhead)
            head = &wrapped
            kind = FROM
            flags = aux = 0
        if holds is not None:
            self.flying = True
            box.holds = holds       # nothing may come between this and the put
        try:
            done = box.put(inc, <uint8_t>kind, <uint8_t>flags, <uint16_t>aux, head, nhead, data, n)
        except MemoryError:
            if may_block:
                raise               # a message, or a spawn: its sender hears of it
            return self.wait_for_memory(box, inc, kind, flags, aux, head, nhead, payload)
        if done == 0:
            self.backlog = 1
            # Nobody flushes for a guest that has gone on to other things: it waits for every record.
            if self.role == "guest" or may_block and (
                    box.queued_bytes > FLOW_BYTES or box.queued_count > FLOW_COUNT or box.meter.bytes > FLOW_BYTES):
                self.hold_sender(box)
        elif holds is not None:
            # Large buffers count as if they stood in the overflow until their receiver's worker has taken them.
            if may_block and box.meter.bytes > FLOW_BYTES and not self.settled(box, FLOW_BYTES):
                self.backlog = 1
                self.hold_sender(box)
        return 0

    cdef size_t wrap(self, void *at, Process sender, uint32_t e, uint32_t inc, int kind, int flags, int aux, const void *head, size_t nhead) except 0:
        """Make the head of a FROM. Its length."""
        cdef Place place
        cdef pa_wrap *to = <pa_wrap *>at
        to.home = self.hi if sender is None else sender.pid.hi
        to.fence = to.position = 0
        if self.behind:
            to.home = self.hi
            to.fence = self.behind
            to.position = ALL
        elif sender.extra is not None and sender.extra.place is not None:
            place = sender.extra.place
            if place.fences is not None:
                fence = place.fences.pop(e, None)
                if fence is not None and fence[2] == inc:
                    to.fence, to.position, _ = fence
                if not place.fences:
                    place.fences = None
                    if sender.pid.hi == self.hi:
                        sender.flags &= ~CARRIED
        to.kind = <uint8_t>kind
        to.flags = <uint8_t>flags
        to.aux = <uint16_t>aux
        to.none = 0
        memcpy(to.head, head, nhead)
        return WRAP + nhead

    cdef int wait_for_memory(self, Outbox box, uint32_t inc, int kind, int flags, int aux, const void *head, size_t nhead, bytes payload) except -1:
        """A signal that others wait for is never lost (S2.2): for a ring that can't be made it stays in the overflow; where there is no
        memory for that either, an exit or a Down goes without its reason; and if even that fails, this worker ends.
        """
        cdef const char *body
        cdef size_t n
        self.backlog = 1
        for data in (payload, self.no_reason) if kind == EXIT or kind == DOWN else (payload,):
            body = NULL
            n = 0
            if data is not None:
                body = <bytes>data
                n = len(<bytes>data)
            try:
                box._queue(inc, <uint8_t>kind, <uint8_t>flags, <uint16_t>aux, head, nhead, body, n, 0)
                return 0
            except MemoryError:
                self.ballast = None
        return self.out_of_memory()

    cdef int out_of_memory(self) except -1:
        """Called in an `except MemoryError`, where a control signal would be lost: rather a dead worker, of which all others hear."""
        if self.role == "worker":
            pa_no_memory()
        raise

    cdef int keep_ballast(self) except -1:
        if self.ballast is None and self.role == "worker":
            try:
                self.ballast = bytearray(BALLAST)
            except MemoryError:
                pass        # others hold the rest; the next one that fails has no more room than this one
        return 0

    cdef int reach(self, uint64_t hi) except -1:
        """Raise SegmentFull now, while nothing is done yet, if there is no memory for a ring to that endpoint."""
        if hi != self.hi and hi_nonce(hi) == self.segment.nonce and hi_endpoint(hi) < self.segment.endpoints and not self.closed:
            self.outbox(hi_endpoint(hi)).need()
        return 0

    cdef int wait_published(self, Process p) except -1:
        """Suspend the running process, which is not at home, until its home can read all that it was told."""
        cdef Outbox box = self.outbox(hi_endpoint(p.pid.hi))
        while not is_published(box) and p is self.current and not p.flags & EXITING and box.peer_incarnation == hi_incarnation(p.pid.hi):
            self.flow_waiting.append((p, box, True))
            self.backlog = True     # so that somebody looks, where nothing but room is wanting
            self.block(p, FLOW)
        return 0

    cdef int hold_sender(self, Outbox box) except -1:
        """Suspend the running process until `box` has drained. A guest's overflow nobody else flushes: it waits till it is empty."""
        cdef Process p = self.current
        if p is None or p.flags & (SYSTEM | EXITING):
            return 0
        if p.kind == GUEST:
            # A dead worker's overflow is thrown away by its WDOWN, which this very loop takes in.
            while (box.queued_count or box.meter.bytes > FLOW_BYTES and not self.settled(box, FLOW_BYTES)) and self.lost is None:
                self.poll(1_000_000)
                PyErr_CheckSignals()
            return 0
        # Woken, it goes on, however full it is again by then: others that weren't suspended may have been at it first.
        self.flow_waiting.append((p, box, False))
        self.backlog = True
        self.block(p, FLOW)
        return 0

    # ------------------------------------------------------------------ exits

    cdef int exit_signal(self, Pid to, Pid sender, object reason, int flags, uint64_t seen) except -1:
        """Send the exit signal `reason` (a value, or Encoded) from `sender` to `to`."""
        cdef Process p
        cdef pa_head head
        cdef bytes data
        if to.hi == self.hi:
            p = self.local(to.lo)
            if p is not None:
                return self.take_exit(p, sender, reason, flags, seen)
            if not self.elsewhere(to.lo):
                return 0
        elif hi_nonce(to.hi) != self.segment.nonce:
            return 0
        data = (<Encoded>reason).data if type(reason) is Encoded else self.codec.encode(reason)
        head.a = to.lo
        head.b = sender.hi
        head.c = sender.lo
        head.d = seen
        if to.hi == self.hi:
            return self.hold(to.lo, EXIT, flags, 0, (<char *>&head)[:32] + data)
        if not flags & (BY_LINK | IS_NORMAL) and hi_endpoint(to.hi) < self.segment.workers:
            self.segment.set_end_due(hi_endpoint(to.hi), True)
        return self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), EXIT, flags, &head, 32, data, False)

    cdef int take_exit(self, Process p, Pid sender, object reason, int flags, uint64_t seen) except -1:
        """An exit signal arrives at `p` (OTP: erlang:exit/2, link exits)."""
        cdef Link link
        if p.flags & SYSTEM:
            return 0            # the runtime's own processes end with their endpoint
        if flags & BY_LINK:
            if p.extra is None:
                return 0
            link = <Link>p.extra.links.get(sender)
            # Unlinked meanwhile, or unlinked and linked anew: an exit of the old link doesn't act (S4.2).
            if link is None or (link.peer == 0 and seen < link.own):
                return 0
            del p.extra.links[sender]
        elif flags & IS_KILL:
            return self.terminate(p, KILLED)
        if p.flags & TERMINATES and not p.flags & TRAP_EXIT and not flags & (BY_LINK | IS_NORMAL) and (
                sender.hi == self.root_hi and sender.lo == self.root_lo or p.lineage and sender == p.lineage[0]):
            return self.deliver(p, ("$shutdown", self.reason_value(reason)))
        if p.flags & TRAP_EXIT:
            return self.deliver(p, Exit(sender, self.reason_value(reason)))
        if flags & IS_NORMAL and not (sender == p.pid and not flags & BY_LINK):
            return 0
        if p.kind == GUEST:
            # A thread can't be unwound from outside: it finds out at its next call.
            if p.pending is None:
                p.pending = ProcessExit(self.reason_value(reason))
            if p.state == BLOCKED:
                self.enqueue(p)
            return 0
        return self.terminate(p, self.reason_value(reason))

    def reason_value(self, reason):
        """The reason as this receiver's own value."""
        if type(reason) is not Encoded:
            return reason
        # User code, in the middle of a signal: it can't block, and nothing is raised in it but the end of its time.
        running = self.current
        self.current = None
        guarded = self.guard()
        try:
            return self.decoded(reason)
        except BaseException as error:
            return Crash.from_exception(error)
        finally:
            self.guarded = guarded
            self.current = running

    cdef int guard(self) except -1:
        """User code is about to run on the runtime's own account, where nothing can be cut: after GRACE_TICKS it is ended by a TimeoutError.

        Returns what `guarded` was, for the end of it.
        """
        cdef int before = self.guarded
        if not before:
            self.guarded_at = pa_now()
        self.guarded = before or 1
        if self.tick is not None and not self.tick.armed:
            self.tick.arm(TICK_NS)
        return before

    cdef bint guard_is_over(self, object frame) except -1:
        """Whether what runs under `guard` has had its time: a module that is imported for it has more (a package broken off could not be imported again)."""
        cdef int64_t took = self.ticked_at - self.guarded_at
        if took < <int64_t>GRACE_TICKS * TICK_NS:
            return False            # ticks that were late come at once
        return took > <int64_t>IMPORT_TICKS * TICK_NS or self.tick.place(frame, self.base, NULL) != IN_IMPORT

    def clean_reason(self, reason):
        """A reason that can travel: itself where it is immutable, Encoded otherwise, a Crash where it can't be pickled."""
        if type(reason) is str:
            return reason
        running = self.current
        self.current = None             # as in reason_value
        guarded = self.guard()
        try:
            if self.codec.isolate(reason) is reason:
                return reason
            # Several may see it, and each gets one of its own.
            return encoded(self.codec.encode(reason))
        except BaseException as error:
            return Crash.from_exception(error)
        finally:
            self.guarded = guarded
            self.current = running

    cdef int terminate(self, Process p, object reason) except -1:
        """`p` ends with `reason`: dead to everybody from here on (S4.5: names are free before links and monitors fire).

        What it ran may still be on a stack or in a frame: that unwinds when the loop resumes it.
        """
        if p.state == DEAD or p.flags & EXITING:
            return 0
        pa_headroom(HEADROOM)           # half an end would be worse than none
        try:
            return self.terminate_now(p, reason)
        finally:
            pa_headroom(-HEADROOM)

    cdef int tell_of_end(self, Process p, Extra extra, object reason) except -1:
        cdef Link link
        cdef Pid other
        cdef Ref ref
        cdef int flags = BY_LINK | (IS_NORMAL if is_normal_exit(reason) else 0)
        for ref, other in list(extra.monitors.items()):
            self.forget_monitor(ref, other)
        for other, link in list(extra.links.items()):
            self.exit_signal(other, p.pid, reason, flags, link.peer)
        for ref, other in list(extra.watchers.items()):
            self.send_down(other, ref, p.pid, reason)
        return 0

    cdef int terminate_now(self, Process p, object reason) except -1:
        cdef Ref ref
        cdef Process caller
        cdef Extra extra = p.extra
        cdef bint has_stack
        cdef Process before = self.behalf
        has_stack = p.state == RUNNING or p.carrier is not None or (p.kind == ASYNC and p.body is not None) or p.tasks is not None
        if p.flags & EXPORTED and not self.recall(p):
            return self.exit_signal(p.pid, p.pid, KILL, IS_KILL, 0)     # it has begun elsewhere
        if p.flags & AWAY:
            self.unmake_stub(p)
        if p.pid.hi == self.hi:
            del self.table[p.pid.lo]
            if self.moves:
                self.moved(p.pid.lo, NoProc(f"{p.pid} has ended", reason=NOPROC))
        else:
            self.remove_foreign(p)
        p.pid.process = None
        if p.flags & SYSTEM:
            self.system_processes -= 1
        self.show_count()
        p.flags |= EXITING
        self.disarm(p)
        self.leave(p)
        if p.flags & LIMITED:
            p.flags &= ~LIMITED
            self.let_in(p, <MailboxLimit>self.limits.pop(p.pid.lo))
        if extra is not None:
            reason = self.clean_reason(reason)
            p.extra = None
            if extra.name is not None:
                self.names.free(extra.name, p.pid.hi, p.pid.lo)
            if self.tables:
                self.service("ets").owner_ended(p.pid)
            if extra.aliases is not None:
                for ref in list(extra.aliases):
                    self.aliases.pop(ref.lo, None)
            if extra.fds is not None:
                for watch in extra.fds.values():
                    self.unwatch(<Watch>watch)
            # `wrap` looks there, and `extra` is gone from the process.
            if p.flags & CARRIED and extra.place is not None:
                p.more().place = extra.place
            self.behalf = p
            try:
                self.tell_of_end(p, extra, reason)
            except MemoryError:
                # Once more from the beginning: what comes twice is ignored, what doesn't come is waited for.
                self.ballast = None
                try:
                    self.tell_of_end(p, extra, reason)
                except MemoryError:
                    self.out_of_memory()
                self.keep_ballast()
            finally:
                self.behalf = before
                p.extra = None
            if p.pid.hi != self.hi:
                # Last: if we die before, its home tells them all.
                self.tell_ended(p.pid.hi, p.pid.lo, extra.place.passed)
            for e in extra.tied or ():
                if self.ties[e] is not None:
                    (<set>self.ties[e]).discard(p)
        if p.callers is not None:
            if extra is None:
                reason = self.clean_reason(reason)
            while p.callers is not None:
                caller = p.callers
                self.leave(caller)
                self.settle(caller, caller.awaited, REFUSED, reason)
        killed = type(reason) is str and reason == KILLED       # its == may be user code
        if p.kind == GUEST:
            self.segment.set_load(self.endpoint, 0, 0)
            p.pending = ProcessKilled(KILLED) if killed else ProcessExit(self.reason_value(reason))
            if p.state == BLOCKED:
                self.enqueue(p)
            _discard_mail(p)
            return 0
        if has_stack:
            self.exiting += 1
            p.pending = ProcessKilled(KILLED) if killed else ProcessExit(self.reason_value(reason))
            if p.state == BLOCKED or p.state == IDLE:       # idle, with tasks of its own
                self.enqueue(p)
        else:
            # Fresh or without a stack. If it stands in the run queue, the loop finds it dead.
            if p.state != QUEUED:
                p.state = DEAD
            p.body = p.args = p.kwargs = p.context = None
        _discard_mail(p)
        return 0

    # ------------------------------------------------------------------ links and monitors

    cdef int tie(self, Process p, Pid other) except -1:
        """Remember that `p` has a link or monitor with `other`, for the day that other endpoint dies."""
        cdef uint32_t e = hi_endpoint(other.hi)
        if p.pid.hi != self.hi:
            return 0            # its home tells when an endpoint has died: see HEARD
        if other.hi == self.hi or hi_nonce(other.hi) != self.segment.nonce or e >= self.segment.endpoints:
            return 0
        if self.ties[e] is None:
            self.ties[e] = set()
        if p not in <set>self.ties[e]:
            (<set>self.ties[e]).add(p)
            if p.more().tied is None:
                p.extra.tied = []
            p.extra.tied.append(e)
        return 0

    cdef bint gone(self, Pid other):
        """Whether `other`'s endpoint is known to be dead, or of another run: no signal will ever come back from it."""
        cdef uint32_t e = hi_endpoint(other.hi)
        return hi_nonce(other.hi) != self.segment.nonce or e >= self.segment.endpoints or (
            other.hi != self.hi and hi_incarnation(other.hi) < self.believed[e])

    cdef int add_link(self, Process p, Pid other) except -1:
        cdef Process q
        cdef Link link
        cdef pa_head head
        if other == p.pid or (p.extra is not None and other in p.extra.links):
            return 0
        self.link_counter += 1
        link = Link()
        link.own = self.link_counter
        p.put_link(other, link)
        self.tie(p, other)
        if p.pid.hi != self.hi:
            self.tell_home(p, LINKED_TO, other.hi, other.lo, link.own)
            self.wait_published(p)
        if other.hi == self.hi:
            q = self.local(other.lo)
            if q is not None and p.pid.hi != self.hi:
                # What `q` has sent to it before is still on its way by its home.
                return self.take_link(q, other.lo, p.pid, link.own)
            if q is not None:
                link.peer = link.own
                link = q.link_with(p.pid)
                link.own = link.peer = self.link_counter
                return 0
            if not self.elsewhere(other.lo):
                if self.hosted:
                    self.after_hosts(self.endpoint)
                return self.take_exit(p, other, NOPROC, BY_LINK, link.own)
        elif self.gone_for(p, other):
            return self.take_exit(p, other, NOPROC, BY_LINK, link.own)
        head.a = other.lo
        head.b = p.pid.hi
        head.c = p.pid.lo
        head.d = link.own
        if other.hi == self.hi:
            return self.hold(other.lo, LINK, 0, 0, (<char *>&head)[:32])
        return self.put(hi_endpoint(other.hi), hi_incarnation(other.hi), LINK, 0, &head, 32, None, False)

    cdef int take_link(self, Process p, uint64_t lo, Pid other, uint64_t link_id) except -1:
        """`lo`: of this endpoint, where there is no such process."""
        cdef Link link
        if p is None:
            if self.hosted:
                self.after_hosts(hi_endpoint(other.hi))
            return self.exit_signal(other, new_pid(self.hi, lo), NOPROC, BY_LINK, link_id)
        if self.gone_for(p, other):
            # Held for the unborn while its sender's endpoint died: that death has fired already, without this link.
            link = Link()
            link.peer = link_id
            p.put_link(other, link)
            return self.take_exit(p, other, WorkerDown(hi_endpoint(other.hi)), BY_LINK, link_id)
        p.link_with(other).peer = link_id
        self.tie(p, other)
        return 0

    cdef int remove_link(self, Process p, Pid other) except -1:
        cdef Process q
        cdef Link link
        cdef pa_head head
        if p.extra is None:
            return 0
        link = <Link>p.extra.links.pop(other, None)
        if link is None:
            return 0
        head.a = other.lo
        head.b = p.pid.hi
        head.c = p.pid.lo
        head.d = link.peer
        if other.hi == self.hi:
            q = self.local(other.lo)
            if q is not None:
                if p.pid.hi != self.hi:
                    self.take_unlink(q, p.pid, link.peer)
                elif q.extra is not None:
                    q.extra.links.pop(p.pid, None)
            elif self.elsewhere(other.lo):
                self.hold(other.lo, UNLINK, 0, 0, (<char *>&head)[:32])
        else:
            self.put(hi_endpoint(other.hi), hi_incarnation(other.hi), UNLINK, 0, &head, 32, None, False)
        if p.pid.hi != self.hi and (other.hi == self.hi or not self.outbox(hi_endpoint(other.hi)).queued_count):
            # After it, and not while it can't be read: a link too many among the home's copies does nothing, one that is missing would never fire.
            self.tell_home(p, UNLINKED_FROM, other.hi, other.lo, link.peer)
        return 0

    cdef int take_unlink(self, Process p, Pid other, uint64_t seen) except -1:
        cdef Link link
        if p is None or p.extra is None:
            return 0
        link = <Link>p.extra.links.get(other)
        if link is None:
            return 0
        if link.own > seen:
            # Our LINK crossed this: it will link them anew.
            link.peer = 0
        else:
            del p.extra.links[other]
        return 0

    cdef int add_monitor(self, Process p, Ref ref, Pid target) except -1:
        cdef Process q
        cdef pa_head head
        p.put_monitor(ref, target)
        self.tie(p, target)
        if target.hi == self.hi:
            q = self.local(target.lo)
            if q is not None:
                q.put_watcher(ref, p.pid)
                self.tie(q, p.pid)
                return 0
            if not self.elsewhere(target.lo):
                if self.hosted:
                    self.after_hosts(self.endpoint)
                return self.take_down(p, ref, target, NOPROC)
        elif self.gone_for(p, target):
            return self.take_down(p, ref, target, NOPROC)
        head.a = target.lo
        head.b = p.pid.hi
        head.c = p.pid.lo
        head.d = ref.hi
        head.e = ref.lo
        if target.hi == self.hi:
            return self.hold(target.lo, MONITOR, 0, 0, (<char *>&head)[:40])
        return self.put(hi_endpoint(target.hi), hi_incarnation(target.hi), MONITOR, 0, &head, 40, None, False)

    cdef int take_monitor(self, Process p, uint64_t lo, Pid watcher, Ref ref) except -1:
        """`lo`: of this endpoint, where there is no such process."""
        if p is None:
            if self.hosted:
                self.after_hosts(hi_endpoint(watcher.hi))
            return self.send_down(watcher, ref, new_pid(self.hi, lo), NOPROC)
        if self.gone_for(p, watcher):
            return 0
        p.put_watcher(ref, watcher)
        self.tie(p, watcher)
        return 0

    cdef bint remove_monitor(self, Process p, Ref ref) except -1:
        cdef Pid target
        if p.extra is None:
            return False
        target = <Pid>p.extra.monitors.pop(ref, None)
        if target is None:
            return False
        self.forget_monitor(ref, target)
        return True

    def forget_monitor(self, Ref ref, Pid target):
        """Tell `target`'s home that nobody waits for this monitor any more."""
        cdef Process q
        cdef pa_head head
        if target.hi == self.hi:
            q = self.local(target.lo)
            if q is not None:
                if q.extra is not None:
                    q.extra.watchers.pop(ref, None)
                return
            if not self.elsewhere(target.lo):
                return
        head.a = target.lo
        head.b = ref.hi
        head.c = ref.lo
        if target.hi == self.hi:
            self.hold(target.lo, DEMONITOR, 0, 0, (<char *>&head)[:24])
        elif hi_nonce(target.hi) == self.segment.nonce:
            self.put(hi_endpoint(target.hi), hi_incarnation(target.hi), DEMONITOR, 0, &head, 24, None, False)

    cdef int send_down(self, Pid watcher, Ref ref, Pid target, object reason) except -1:
        cdef Process p
        cdef pa_head head
        cdef bytes data
        if watcher.hi == self.hi:
            p = self.local(watcher.lo)
            if p is not None:
                self.take_down(p, ref, target, reason)
            if p is not None or not self.elsewhere(watcher.lo):
                return 0
        data = (<Encoded>reason).data if type(reason) is Encoded else self.codec.encode(reason)
        head.a = watcher.lo
        head.b = target.hi
        head.c = target.lo
        head.d = ref.hi
        head.e = ref.lo
        if watcher.hi == self.hi:
            return self.hold(watcher.lo, DOWN, 0, 0, (<char *>&head)[:40] + data)
        return self.put(hi_endpoint(watcher.hi), hi_incarnation(watcher.hi), DOWN, 0, &head, 40, data, False)

    cdef int take_down(self, Process p, Ref ref, Pid target, object reason) except -1:
        if ref.lo == p.awaited and ref.hi == p.pid.hi and not p.answered:       # the monitor of a call, or of a start
            return self.settle(p, ref.lo, REFUSED, reason)
        # Exactly one Down per monitor (S4.3): the entry goes with it; none when it was taken off meanwhile.
        if p.extra is None or p.extra.monitors.pop(ref, None) is None:
            return 0
        entry = self.aliases.get(ref.lo) if ref.hi == p.pid.hi else None
        if entry is not None and entry[1]:
            self.drop_alias(ref)
        return self.deliver(p, Down(ref, target, self.reason_value(reason)))

    cdef int endpoint_down(self, uint32_t e, uint32_t inc, int cause) except -1:
        """WDOWN: drain what the dead endpoint had published, then fire our links and monitors to it (S2.4)."""
        cdef Process p
        cdef Pid other
        cdef Ref ref
        cdef Inbox box
        cdef list fallen
        cdef bint guest = e > self.segment.root
        while self.drain_one(e):
            pass
        # Also where the news is late (we went live after the root had counted the slot up): the rings may still be the dead one's.
        box = self.inbox(e)
        box.peer_down(inc)
        if box.owed and box not in self.owing:
            self.owing.append(box)
        self.outbox(e).peer_down(inc)
        self.backlog = 1
        if inc < self.believed[e]:
            return 0
        self.believed[e] = inc + 1
        self.seen[e] = 0
        self.spawned_before[e] = self.spawned[e]
        # A guest that left has told its links and monitors, and those made since came to a dead process. A worker that died
        # takes its processes with a reason that says so.
        if cause == LEFT:
            reason = NOPROC
        elif cause == UNKNOWN:
            reason = WorkerDown(e)
        else:
            reason = WorkerDown(e, -cause if cause < 0 else None, cause if cause >= 0 else None)
        # Mail for processes that will never be born: as for the dead.
        fallen = [lo for lo in self.unborn if lo_spawner(lo) == e and lo_incarnation(lo) <= inc]
        for lo in fallen:
            for kind, flags, aux, body in self.unborn.pop(lo):
                self.replay(kind, flags, aux, body)
        # A name claimed for a process that was not born.
        if fallen or not guest:
            for name, hi, lo in self.names.registered():
                if hi == self.hi and lo_spawner(lo) == e and lo_incarnation(lo) <= inc and lo not in self.table:
                    self.names.free(name, hi, lo)
        tied = self.ties[e]
        self.ties[e] = None
        self.host_down(e, inc, reason)
        self.home_down(e, inc)
        if tied is not None:
            for p in tied:
                if p.extra is None:
                    continue
                if p.flags & EXPORTED:
                    self.recall(p)
                if p.flags & AWAY:
                    # What it has sent before comes to the host by us, and so does this: see HEARD. Until it is known who runs it, it is kept.
                    if p.extra.place.held is None:
                        forget_endpoint(p.extra, e, inc)
                    continue
                for ref, other in list(p.extra.watchers.items()):
                    if hi_endpoint(other.hi) == e and hi_incarnation(other.hi) <= inc:
                        del p.extra.watchers[ref]
                for ref, other in list(p.extra.monitors.items()):
                    if hi_endpoint(other.hi) == e:
                        if hi_incarnation(other.hi) <= inc:
                            self.take_down(p, ref, other, reason)
                        else:
                            self.tie(p, other)
                if p.extra is None:
                    continue
                for other in list(p.extra.links):
                    if p.extra is not None and hi_endpoint(other.hi) == e:
                        if hi_incarnation(other.hi) <= inc:
                            self.take_exit(p, other, reason, BY_LINK, 0xFFFFFFFFFFFFFFFFULL)
                        else:
                            self.tie(p, other)
        if self.full:
            for other in list(self.full):
                if hi_endpoint(other.hi) == e and hi_incarnation(other.hi) <= inc:
                    self.has_room_again(other)
        for asked in (self.requests, self.calls):
            for lo, (asker, where, asked_inc) in list(asked.items()):
                if where == e and asked_inc <= inc:
                    del asked[lo]
                    self.settle(<Process>asker, lo, REFUSED, reason)
        for some in self.away:
            if some:
                for p in list((<dict>some).values()):
                    self.send_beliefs(p)
        return 0

    # ------------------------------------------------------------------ requests to another endpoint

    cdef object ask(self, uint32_t e, uint32_t inc, object operation, double timeout):
        """Have `operation` performed by endpoint `e`; its result, or the error that it raised there."""
        cdef Process p = me(self)
        cdef Ref ref
        cdef pa_head head
        cdef bytes data
        cdef uint64_t unborn = 0
        cdef bint moves = operation[0] == "migrate"
        if e == self.endpoint:
            unborn = self.unborn_of(operation)
            if not unborn and not moves:
                return self.perform(operation)
        if inc < self.believed[e]:
            raise NoProc(f"worker {e} has been replaced", reason=NOPROC)
        data = self.codec.encode(operation)
        if e != self.endpoint:
            self.outbox(e).need()
        self.ref_counter += 1
        ref = new_ref(self.hi, self.ref_counter)
        head.a = ref.hi
        head.b = ref.lo
        head.c = p.pid.hi
        head.d = p.pid.lo
        self.wait_for(p, ref.lo)
        self.requests[ref.lo] = (p, e, inc)
        try:
            if unborn:
                self.hold(unborn, REQUEST, 0, 0, (<char *>&head)[:32] + data)
            elif e == self.endpoint:
                self.perform_for(operation, ref.hi, ref.lo)
            else:
                self.put(e, inc, REQUEST, 0, &head, 32, data, False)
            if not self.await_answer(p, timeout):
                return NOT_FOUND
            if p.answered == GIVEN:
                return p.reply
            if isinstance(p.reply, BaseException):
                raise p.reply
            raise NoProc(f"worker {e} died before it answered", reason=p.reply)
        finally:
            self.requests.pop(ref.lo, None)
            self.end_wait(p, None, None)

    cdef int wait_for(self, Process p, uint64_t lo) except -1:
        """From here on `p` waits for the answer `lo`. One at a time: a finalizer or a signal's handler may run in the middle of a wait."""
        if p.awaited:
            raise RuntimeError(
                f"expected {p.pid} to wait for one answer at a time, got a call from a __del__ or a signal's handler while it waits for "
                "another: send a message there, or cast")
        p.awaited = lo
        p.answered = 0
        return 0

    cdef int await_answer(self, Process p, double timeout) except -1:
        """Wait for what `p.awaited` says; `timeout` s at most, for ever if it is negative. GIVEN or REFUSED, then `p.reply` has it; 0: too late."""
        if p.answered:
            return p.answered
        if timeout >= 0:
            self.arm(p, timeout)
        while not p.answered and not p.timed_out:
            self.block(p, REPLY)
        return p.answered

    cdef int settle(self, Process p, uint64_t lo, int how, object value) except -1:
        """Hand the answer with the reference `lo` to `p`, if it waits for that one still."""
        if lo and p.awaited == lo and not p.answered:
            p.answered = <uint8_t>how
            p.reply = value
            if p.state == BLOCKED and p.wait == REPLY:
                self.enqueue(p)
        return 0

    # ------------------------------------------------------------------ calls

    cdef int begin_wait(self, Process p, Process q, Pid to, Ref ref) except -1:
        """From here on an answer with `ref` is `p`'s, and so is the end of `q`, or, where it isn't of this endpoint, of `to`."""
        self.wait_for(p, ref.lo)
        if q is not None:
            p.asked = q
            p.former_caller = None
            p.next_caller = q.callers
            if q.callers is not None:
                q.callers.former_caller = p
            q.callers = p
        elif to.hi != self.hi:
            self.calls[ref.lo] = (p, hi_endpoint(to.hi), hi_incarnation(to.hi))
        return 0

    cdef void leave(self, Process p) noexcept:
        """`p` is no caller of anybody's any more."""
        cdef Process q = p.asked, following = p.next_caller
        if q is None:
            return
        p.asked = p.next_caller = None
        if following is not None:
            following.former_caller = p.former_caller
        if p.former_caller is not None:
            p.former_caller.next_caller = following
            p.former_caller = None
        else:
            q.callers = following

    cdef int end_wait(self, Process p, Ref ref, Pid to) except -1:
        """Undo what a wait has set. ref, to: of one that is monitored by MONITOR, or None."""
        cdef bint ended = p.answered == REFUSED
        if p.timer is not None or p.timed_out:
            self.disarm(p)
        p.awaited = 0
        p.answered = 0
        p.reply = None
        if p.asked is not None:
            self.leave(p)
        elif ref is not None:
            self.calls.pop(ref.lo, None)
            if to is not None and not ended:
                self.forget_monitor(ref, to)
        return 0

    cdef int call(self, Process p, Pid to, object request, double timeout, bint order) except -1:
        """Send `("$gen_call", (own pid, ref), request)` and wait for the answer with `ref` (OTP: gen:call/4).

        GIVEN: `p.reply` is the answer, which may be Encoded; REFUSED: the reason of the other's end; 0: it is too late, and what
        comes then is dropped. Whoever has read `p.reply` sets it to None. order: no limit of the mailbox holds for it. A call of this endpoint costs its receiver a place in a chain;
        one across is a monitor and a message.
        """
        cdef Ref ref
        cdef Process q = None
        cdef pa_head head
        cdef bytes data = None
        cdef Holds holds = None
        cdef bint here = to.hi == self.hi
        cdef int answered
        ref = new_ref(p.pid.hi, self.new_lo(p))
        if here:
            q = <Process>to.process
            if q is None or q.flags & (EXPORTED | AWAY):
                q = self.local(to.lo)
            if q is None and not self.elsewhere(to.lo):
                p.reply = NOPROC
                return REFUSED
        elif self.gone(to):
            p.reply = NOPROC
            return REFUSED
        if q is not None:
            # Where it has to be unpickled, the receiver does that, on its own stack: see `opened`.
            body = (CALL, (p.pid, ref), self.codec.isolate_message(request, False))
            if q.state == DEAD or q.flags & EXITING:        # isolating runs user code
                p.reply = NOPROC
                return REFUSED
            if q.flags & (EXPORTED | AWAY) and self.local(to.lo) is None:
                q = None
        if q is None:
            if here:
                data = self.codec.encode(request)       # it waits for its receiver's birth, or at its stub, on its own
            else:
                data = self.codec.pack(request, False)
                holds = self.packed()
            data = (<char *>&p.pid.hi)[:8] + (<char *>&p.pid.lo)[:8] + (<char *>&ref.hi)[:8] + (<char *>&ref.lo)[:8] + data
            if self.full and not order and not here:
                try:
                    self.full_mailbox(to)           # where senders are suspended, a caller waits anyway
                except MailboxFull:
                    p.reply = MAILBOX_FULL
                    return REFUSED
        self.begin_wait(p, q if p.pid.hi == self.hi else None, to, ref)
        value = None
        try:
            if q is not None:
                if p.pid.hi != self.hi:
                    # What `q` has sent to it before is still on its way by its home: so must be its end.
                    self.take_monitor(q, to.lo, p.pid, ref)
                if q.flags & LIMITED and not order:
                    try:
                        self.admit(q, body, False)
                    except MailboxFull:
                        self.settle(p, ref.lo, REFUSED, MAILBOX_FULL)
                else:
                    self.deliver(q, body)
            else:
                head.a = to.lo
                head.b = p.pid.hi
                head.c = p.pid.lo
                head.d = ref.hi
                head.e = ref.lo
                if here:
                    self.hold(to.lo, MONITOR, 0, 0, (<char *>&head)[:40])
                    self.hold(to.lo, MSG, IS_CALL | (IS_ORDER if order else 0), 0, (<char *>&to.lo)[:8] + data)
                else:
                    self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), MONITOR, 0, &head, 40, None, False)
                    self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), MSG, IS_CALL | (IS_ORDER if order else 0), &to.lo, 8, data, True, 0, holds)
            answered = self.await_answer(p, timeout)
            value = p.reply
        finally:
            self.end_wait(p, ref, to if q is None or q.flags & AWAY or p.pid.hi != self.hi else None)
        p.reply = value
        return answered

    cdef int reply(self, Pid to, Ref ref, object value) except -1:
        """Answer the call that `to` has made with `ref`, from any process; too late, or twice: dropped."""
        cdef Process p
        cdef pa_head head
        cdef bytes data
        if to.hi == self.hi:
            isolated = self.codec.isolate_message(value, False)
            p = <Process>to.process
            if p is None:
                p = self.find(to.lo)
            if p is not None and not p.flags & AWAY:
                if ref.hi == self.hi:
                    self.settle(p, ref.lo, GIVEN, isolated)
                return 0
            if p is None:
                return 0
        cdef Holds holds = None
        if to.hi == self.hi:
            data = self.codec.encode(value)
        else:
            data = self.codec.pack(value, False)
            holds = self.packed()
        if hi_nonce(to.hi) != self.segment.nonce or ref.hi != to.hi:        # a caller makes its references itself
            return 0
        head.a = to.lo
        head.b = ref.lo
        if to.hi == self.hi:
            return self.hold(to.lo, ANSWER, 0, 0, (<char *>&head)[:16] + data)
        return self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), ANSWER, 0, &head, 16, data, True, 0, holds)

    # ------------------------------------------------------------------ answers to other endpoints

    cpdef object service(self, str name):
        """What another module of the engine keeps on this endpoint: its `Service`, imported and made when it is first asked for."""
        found = self.services.get(name)
        if found is None:
            module = import_module("parallel_actors.workers." + name)
            found = self.services[name] = module.Service(self)
        return found

    cdef int answer(self, Record *r) except -1:
        cdef pa_head head
        cdef uint64_t lo
        memcpy(&head, r.body, 32)
        guarded = self.guard()
        try:
            operation = self.codec.decode(r.body + 32, r.size - 32)
            lo = self.unborn_of(operation)
            if lo:
                # It isn't dead: whoever asks has heard of it before us, or it runs elsewhere. Answered at its birth, or its spawner's
                # end, or by its host.
                return self.hold(lo, REQUEST, r.flags, r.aux, <bytes>r.body[:r.size])
        except Exception as error:
            return self.answer_to(head.a, head.b, (False, error))
        finally:
            self.guarded = guarded
        self.perform_for(operation, head.a, head.b)
        return 0

    def perform_for(self, tuple operation, uint64_t hi, uint64_t lo, of=None):
        """Perform `operation`, and answer to a reference; an order to move, when it is carried out. of: the process it is about, if it isn't ours."""
        guarded = self.guard()
        try:
            if operation[0] == "migrate":
                return self.order_move(self.find(operation[1]), operation[2], hi, lo)
            reply = (True, self.perform(operation, of))
        except Exception as error:
            reply = (False, error)
        finally:
            self.guarded = guarded
        self.answer_to(hi, lo, reply)

    cdef int answer_to(self, uint64_t hi, uint64_t lo, tuple reply) except -1:
        """Answer a question that this endpoint, or another, has asked; 0, 0: nobody has, it was an order."""
        if not hi:
            return 0
        if hi == self.hi:
            asked = self.requests.pop(lo, None)
            if asked is not None:
                self.settle(<Process>asked[0], lo, GIVEN if reply[0] else REFUSED, reply[1])
            return 0
        try:
            data = self.codec.encode(reply)
        except NotPicklable as error:
            data = self.codec.encode((False, error))
        return self.put(hi_endpoint(hi), hi_incarnation(hi), ALIAS, 0, &lo, 8, data, False)

    cdef uint64_t unborn_of(self, tuple operation) except? 0:
        """The process that `operation` is about, if it may still be born, or runs elsewhere; else 0."""
        cdef uint64_t lo
        cdef Process p
        what = operation[0]
        if what == "info" or what == "is_alive" or what == "timer_of" or what == "adopt":
            lo = operation[1]
        elif what == "register" or what == "unregister":
            lo = operation[2]
        elif what == "migrate":
            return operation[1] if self.find(operation[1]) is None and self.is_unborn(operation[1]) else 0
        else:
            return 0
        p = self.find(lo)
        if p is None:
            return lo if what != "is_alive" and self.is_unborn(lo) else 0
        if p.flags & EXPORTED and what != "is_alive":
            self.recall(p)
        return lo if p.flags & AWAY else 0

    cdef object lives(self, uint64_t lo):
        """Whether a process of ours is alive; None: its host knows."""
        cdef Process p = self.find(lo)
        if p is None:
            return self.is_unborn(lo)
        return None if p.flags & AWAY else True

    cdef object perform(self, tuple operation, Process p=None):
        """What other endpoints may ask of this one. The first item names the operation. p: the process that it is about, where it isn't ours."""
        cdef uint64_t hi, lo
        cdef Process foreign = p
        what = operation[0]
        if what == "is_alive":
            lo = operation[1]
            return foreign is not None or self.find(lo) is not None or self.is_unborn(lo)
        if what == "living":
            return [self.lives(lo) for lo in operation[1]]
        if what == "processes":
            self.after_hosts(self.endpoint)     # of those that have ended there, too
            return [p.pid for p in self.table.values() if not p.flags & SYSTEM]
        if what == "info":
            if p is None:
                p = self.find(operation[1])
            return None if p is None else self.describe(p, operation[2])
        if what == "adopt":         # by operation[2], if operation[3] is its parent still
            if p is None:
                p = self.find(operation[1])
            if p is None:
                raise NoProc(f"{new_pid(self.hi, operation[1])} is dead", reason=NOPROC)
            if (p.lineage[0] if p.lineage else None) != operation[3]:
                return False
            p.lineage = (operation[2], *p.lineage)[:MAX_LINEAGE]
            return True
        if what == "register":
            lo = operation[2]
            hi = self.hi if p is None else p.pid.hi
            if p is None:
                p = self.find(lo)
            if p is None:
                raise NoProc(f"expected a live process to register as {operation[1]!r}, got {new_pid(self.hi, lo)}, which is dead", reason=NOPROC)
            extra = p.more()
            if extra.name is not None:
                raise NameTaken(f"{p.pid} is registered as {extra.name!r} already: a process has one name")
            if self.names.claim(operation[1], hi, lo) != 1:
                raise self.taken(operation[1])
            if hi != self.hi and self.segment.incarnation(hi_endpoint(hi)) != hi_incarnation(hi):
                self.names.free(operation[1], hi, lo)       # the root may have swept the names of its home before
            extra.name = operation[1]
            return True
        if what == "unregister":
            lo = operation[2]
            if p is None:
                p = self.find(lo)
            if p is None or p.extra is None or p.extra.name != operation[1]:
                raise NotRegistered(operation[1])
            self.names.free(operation[1], p.pid.hi, lo)
            p.extra.name = None
            return True
        if what == "start_timer":
            _, hi, lo, due, period, dest, message = operation
            self.start_timer(hi, lo, due, period, dest, message)
            return True
        if what == "timer":
            return self.timer_left(operation[1], operation[2], operation[3])
        if what == "timer_of":          # one that has moved with its receiver
            return self.timer_left(operation[2], operation[3], operation[4])
        if what == "ets" or what == "terms":
            return self.service(what).perform(operation)
        raise ValueError(f"unknown operation {what!r}")

    def describe(self, Process p, item=None):
        """process_info's facts about one of our processes; item: the one that is asked for. Stack and dictionary cost something: for who wants them."""
        cdef Extra extra = p.extra
        status = "runnable" if p.state == QUEUED else "running" if p.state == RUNNING else "waiting"
        stack = dictionary = None
        if item is None or item == "dictionary":
            dictionary = {} if extra is None or extra.dictionary is None else self.shown(extra.dictionary)
        if item is not None and item != "current_stacktrace":
            pass
        elif p.kind == ASYNC and p.body is not None and p.state != RUNNING and p.carrier is None:
            stack = [f"{f.f_code.co_filename}:{f.f_lineno} {f.f_code.co_qualname}" for f in _await_frames(p.body)]
        elif p.carrier is not None or p.state == RUNNING:
            # It may have gone to look for other work on its own stack: then that is the running one.
            try:
                frame = _getframe() if p.carrier is None or p.carrier is pa_current() else p.carrier.gr_frame
            except ValueError:
                frame = None        # no Python function at all: its body is a built-in one
            stack = [] if frame is None else [
                f"{f.filename}:{f.lineno} {f.name}" for f in reversed(traceback.extract_stack(frame))]
        body = p.body
        facts = {
            "status": status,
            "worker": self.endpoint,
            "message_queue_len": p.mail,
            "mailbox": facts_of(self.limit_of(p)) if p.flags & LIMITED else None,
            "links": [] if extra is None else list(extra.links),
            "monitors": [] if extra is None else list(extra.monitors.values()),
            "monitored_by": [] if extra is None else list(extra.watchers.values()),
            "registered_name": None if extra is None else extra.name,
            "label": None if extra is None else extra.label,
            "dictionary": dictionary,
            "trap_exit": bool(p.flags & TRAP_EXIT),
            "priority": PRIORITIES[p.priority],
            "parent": p.lineage[0] if p.lineage else None,
            "ancestors": list(p.lineage),
            "kind": "guest" if p.kind == GUEST else "async" if p.kind == ASYNC else "callback" if p.kind == CALLBACK else "def",
            "current_stacktrace": stack,
            "initial_call": getattr(body, "__qualname__", None) if body is not None else None,
        }
        return {item: facts[item]} if item in facts else facts

    def shown(self, dict values):
        """A copy of a process dictionary for another process's eyes: what can't travel is its repr()."""
        found = {}
        for key, value in list(values.items()):
            try:
                found[key] = self.isolated_now(value)
                self.codec.encode((key, value))
            except Exception:
                try:
                    found[key if type(key) is str else repr(key)] = repr(value)
                except Exception as error:
                    found[str(type(key))] = f"<repr() failed: {type(error).__name__}>"
        return found

    # ------------------------------------------------------------------ timers

    def start_timer(self, uint64_t hi, uint64_t lo, int64_t due, int64_t period, dest, bytes message):
        """Arm send_after/send_interval. `due`: ns on the monotonic clock, which all OS processes share. `message`: encoded."""
        cdef Timer timer = Timer()
        cdef Ref ref
        timer.deadline = due
        timer.period = period
        timer.target = dest
        timer.message = message
        timer.hi = hi
        timer.lo = lo
        self.ref_timers[(hi, lo)] = timer
        self.timers.add(timer)
        if period and type(dest) is Pid:
            # An interval ends with its receiver: a process of the runtime watches for that.
            if self.interval_server is None:
                self.interval_server = <Process>(<Pid>self.add_callback_process(self._interval_receiver_down, True)).process
            ref = new_ref(hi, lo)
            self.add_monitor(self.interval_server, ref, <Pid>dest)

    def every(self, double interval, message):
        """Send `message` to this endpoint's first process every `interval` seconds (the runtime's own clock)."""
        cdef int64_t ns = <int64_t>(interval * 1e9)
        cdef Timer timer = Timer()
        timer.deadline = pa_now() + ns
        timer.period = ns
        timer.target = new_pid(self.hi, make_lo(self.endpoint, self.incarnation, 1))
        timer.message = self.codec.encode(message)
        self.timers.add(timer)

    def remind(self, double seconds, Pid to not None, message):
        """Send `message` to `to`, a process of this endpoint, in so many seconds (the runtime's own clock)."""
        cdef Timer timer = Timer()
        timer.deadline = pa_now() + <int64_t>(seconds * 1e9)
        timer.target = to
        timer.message = self.codec.encode(message)
        self.timers.add(timer)

    def _interval_receiver_down(self, down):
        self.timer_left((<Ref>down.ref).hi, (<Ref>down.ref).lo, True)

    def timer_left(self, uint64_t hi, uint64_t lo, bint cancel):
        """Seconds until the timer fires, or None if there is none (any more)."""
        cdef Timer timer = <Timer>self.ref_timers.get((hi, lo))
        if timer is None:
            return self.moved_timers.get((hi, lo))      # the pid that it has moved with
        if cancel:
            del self.ref_timers[(hi, lo)]
            self.timers.remove(timer)
            if timer.period and self.interval_server is not None:
                self.remove_monitor(self.interval_server, new_ref(hi, lo))
        return max(0.0, (timer.deadline - pa_now()) / 1e9)

    cdef int fire_timers(self) except -1:
        cdef Timer timer
        cdef Process p
        while True:
            timer = self.timers.pop_due(self.now)
            if timer is None:
                return 0
            if timer.wakes:
                p = <Process>timer.target
                if p.timer is timer:
                    p.timer = None
                    p.timed_out = True
                    if p.state == BLOCKED:
                        self.enqueue(p)
                elif p.tasks is not None and p.tasks.timer is timer:
                    p.tasks.timer = None
                    p.tasks.wake()
                continue
            if timer.message is None:
                self.moved_timers.pop((timer.hi, timer.lo), None)
                continue
            if timer.period:
                timer.deadline = max(timer.deadline + timer.period, self.now)
                self.timers.add(timer)
            else:
                self.ref_timers.pop((timer.hi, timer.lo), None)
            try:
                self.send_bytes(timer.target, <bytes>timer.message)
            except Exception as error:
                self.report("dead_letter", {"to": repr(timer.target), "error": error})

    cdef int send_bytes(self, object dest, bytes data) except -1:
        """Send what a timer sends, encoded: no user code runs, and no limit counts it. A name is looked up now; nobody there: dropped."""
        cdef uint64_t hi = 0, lo = 0
        cdef Process p
        cdef bint to_ref = type(dest) is Ref
        if type(dest) is str:
            if not self.names.lookup(dest, &hi, &lo):
                return 0
        elif to_ref:
            hi = (<Ref>dest).hi
            lo = (<Ref>dest).lo
        else:
            hi = (<Pid>dest).hi
            lo = (<Pid>dest).lo
        if hi == self.hi:
            message = self.codec.receive(<const uint8_t *><const char *>data, len(data))
            if to_ref:
                if lo >> 52:
                    self.pass_alias(lo, (<char *>&lo)[:8] + data)
                    return 0
                return self.take_alias(lo, message)
            p = self.find(lo)
            if p is not None and not p.flags & AWAY:
                self.deliver(p, message)
            elif self.elsewhere(lo):
                self.hold(lo, MSG, IS_ORDER, 0, (<char *>&lo)[:8] + data)
            return 0
        if hi_nonce(hi) != self.segment.nonce:
            return 0
        return self.put(hi_endpoint(hi), hi_incarnation(hi), ALIAS if to_ref else MSG, 0 if to_ref else IS_ORDER, &lo, 8, data, False)

    cdef int arm(self, Process p, double seconds) except -1:
        """Let `p` be woken after `seconds`; sets `timed_out` then."""
        cdef Timer timer = Timer.__new__(Timer)
        cdef double ns = seconds * 1e9
        timer.wakes = True
        timer.target = p
        timer.deadline = pa_now() + (<int64_t>ns if ns < 4e18 else <int64_t>4000000000000000000)
        p.timed_out = False
        p.timer = timer
        return self.timers.add(timer)

    cdef int disarm(self, Process p) except -1:
        cdef Timer timer = p.timer
        p.timed_out = False
        if timer is not None:
            p.timer = None
            timer.target = None
            return self.timers.remove(timer)
        return 0

    # ------------------------------------------------------------------ run queue and carriers

    cdef int enqueue(self, Process p) except -1:
        """An idle or blocked process becomes runnable. Never called for any other: so it stands in the queue once."""
        p.state = QUEUED
        if p.kind == GUEST:
            return 0
        if p.flags & HOG:
            self.hogs.push(p)
        elif p.priority == NORMAL_PRIORITY:
            self.normal.push(p)
        elif p.priority == HIGH_PRIORITY:
            self.high.push(p)
        else:
            self.low.push(p)
        self.queue_length += 1
        return 0

    cdef Process next_process(self):
        """Take the process whose turn it is out of the run queues, or None.

        High priority first; then normal and low, one of low for LOW_EVERY others. Hogs have the processor when nobody else
        wants it, and else every second tick: so they can't starve, and what waits for a message hardly notices them.
        """
        cdef Process p
        if self.hogs.head is not None and (
                self.hog_due or self.high.head is None and self.normal.head is None and self.low.head is None):
            self.hog_due = False
            self.tick.arm(TICK_NS)      # a full slice
            p = self.hogs.pop()
        elif self.high.head is not None:
            p = self.high.pop()
        elif self.low.head is not None and (self.normal.head is None or self.low_passed >= LOW_EVERY):
            self.low_passed = 0
            p = self.low.pop()
        else:
            p = self.normal.pop()
            if p is None:
                return None
            if self.low.head is not None:
                self.low_passed += 1
        self.queue_length -= 1
        return p

    cdef Process pick(self):
        """The next process to run. Polls; parks while there is nothing to do. None: the scheduler shall stop. Runs no user code."""
        cdef Process p
        cdef int64_t wait
        self.current = None
        while True:
            self.turn += 1
            if self.segment.any_dirty(self.endpoint) or self.again_count or self.backlog or self.turn & 15 == 0:
                self.poll(0)
            if self.leaving and not self.stopping:
                self.send_away()
            if self.due_moves or self.packages:
                self.make_moves()
            p = self.next_process()
            if p is not None:
                if p.flags & (EXITING | EXPORTED | AWAY | FROZEN):
                    if p.flags & EXITING:
                        if p.pending is None:
                            p.state = DEAD      # ended before it ran
                            continue
                    elif not p.flags & EXPORTED or not self.recall(p):
                        p.state = IDLE          # it runs elsewhere
                        continue
                    elif self.unstolen < QUIET:
                        self.unstolen += 1
                return self.turn_of(p)
            if self.closed or self.stopping and self.process_count == 0 and self.foreign_count == 0 and self.exiting == 0:
                return None
            wait = PARK_NS
            if self.leaving and not self.stopping:
                wait = LEAVE_NS
                if self.nobody_here():
                    # Whoever chose this worker before it was said that it leaves may have put its SPAWN into a ring meanwhile.
                    self.poll(0)
                    if self.nobody_here() and not self.unborn and not self.again_count:
                        if not self.away_count and not self.ref_timers:
                            return None
                        self.post = self.post_office()
                        if self.post is not None:
                            return None
            if self.exports is not None and not self.stopping and not self.leaving:
                p = self.steal()
                if p is not None:
                    return self.turn_of(p)
                set_idle(self.segment, self.endpoint)
                wait = self.nap()
            if self.ended_carriers >= POOL:
                self.ended_carriers = 0
                pa_trim()
            if wait:
                self.poll(wait)
            if self.exports is not None:
                clear_idle(self.segment, self.endpoint)

    cdef Process turn_of(self, Process p):
        """`p` is given the processor next."""
        self.slices += 1
        if self.collect_due:
            self.collect_garbage()
        if self.tick is not None and not self.tick.armed:
            self.ticked_at = pa_now()
            self.tick.arm(TICK_NS)
        return p

    cdef int poll(self, int64_t wait_ns) except -1:
        """`turn_over`, with no process current: a tick that interrupts a finalizer or a message's constructor in there must do nothing.

        (It would take in the same rings once more, before the record under way; or end the process, and the record with it.) A guest
        has no ticks, and its own exceptions come through here.
        """
        cdef Process running = self.current
        if self.tick is not None:
            self.current = None
        pa_headroom(HEADROOM)
        try:
            return self.turn_over(wait_ns)
        finally:
            pa_headroom(-HEADROOM)
            self.current = running

    cdef int turn_over(self, int64_t wait_ns) except -1:
        """Take what came in, fire what is due, flush what waits; sleep up to `wait_ns` if there is nothing at all."""
        cdef int64_t due
        if self.backlog:
            self.flush()
        self.drain()
        if wait_ns == 0 and self.turn & 15:
            return 0            # the clock is read now and then only
        if self.flying:
            self.settle_blocks()
        self.now = pa_now()
        due = -1 if self.role == "relay" else self.timers.next_deadline()
        if due >= 0 and due <= self.now:
            self.fire_timers()
            return 0
        if wait_ns == 0:
            if self.turn & 63 == 0:
                self.show_load()
                if self.watched_fds:
                    self.park(0)
            return 0
        if self.queue_length or self.again_count:
            return 0
        if self.role == "guest" and self.current is not None and self.current.state == QUEUED:
            return 0
        if due >= 0 and due - self.now < wait_ns:
            wait_ns = due - self.now
        if wait_ns > 1_000_000 and self.role == "worker" and self.now - self.trimmed > TRIM_NS and self.segment.arena is not None:
            self.trimmed = self.now
            self.segment.arena.trim(KEEP)
        if self.backlog and wait_ns > 1_000_000:
            # The consumer of an overflow doesn't ring when it has made room.
            wait_ns = 1_000_000
        self.show_load()
        return self.park(wait_ns)

    cdef bint settled(self, Outbox box, uint64_t most) except -1:
        """Whether no more than `most` bytes of blocks are under way to that endpoint. If not, it rings when it takes the next ones."""
        box.ask()
        self.segment.arena.settle()
        return box.meter.bytes <= most

    cdef int settle_blocks(self) except -1:
        """Let go of the blocks that their receivers have taken by now."""
        self.segment.arena.settle()
        self.flying = len(self.segment.arena.flights) > 0 or self.backlog
        return 0

    cdef int park(self, int64_t wait_ns) except -1:
        cdef int ready[32]
        cdef uint32_t events[32]
        cdef int n = 0, i, failed = 0
        cdef bint found, watches = len(self.watched_fds) > 0
        cdef int bell = self.segment.eventfds[self.endpoint]
        cdef uint32_t e = self.endpoint
        cdef Segment segment = self.segment
        if wait_ns:
            self.awake += <uint64_t>(self.now - self.awake_since)
            if self.spin:
                with nogil:
                    if watches:         # what is ready doesn't wait for the end of the spinning
                        n = pa_epoll_wait(self.epoll, ready, events, 32, 0)
                    found = n <= 0 and spin_for(segment, e, self.spin if self.spin < wait_ns else wait_ns)
                if found:
                    self.awake_since = pa_now()
                    return 0
        if n <= 0:
            if wait_ns:
                segment.park_begin(e)
            if wait_ns == 0 or not segment.any_dirty(e):
                self.asleep = wait_ns != 0
                with nogil:
                    n = pa_epoll_wait(self.epoll, ready, events, 32, wait_ns)
                if n < 0:
                    failed = errno
            if wait_ns:
                segment.park_end(e)
        if wait_ns:
            self.awake_since = pa_now()
        if failed:
            if failed != EINTR:
                raise OSError(failed, "epoll_pwait2 failed")
            if self.role == "guest":
                PyErr_CheckSignals()
            else:
                # A handler that user code installed, and that raises, has no process to raise in.
                try:
                    PyErr_CheckSignals()
                except BaseException:
                    last_words()
        self.asleep = False
        for i in range(n):
            if ready[i] == bell:
                pa_clear_eventfd(bell)
            else:
                callback = self.watched_fds.get(ready[i])
                if isinstance(callback, Watch):
                    (<Watch>callback).ready(events[i])
                elif callback is not None:
                    callback()
        return 0

    cdef int switch_away(self, Process p) except -1:
        """`p`, blocked, leaves the processor; returns when the loop has resumed it."""
        cdef Process q
        cdef object target
        if p.kind == GUEST:
            try:
                while p.state == BLOCKED:
                    if self.lost is not None or self.closed:
                        raise NotRunning(self.lost or "the actor system of this thread has ended: start another one")
                    self.poll(PARK_NS)
                    # Ctrl-C may come to another thread, or between two sleeps: no EINTR tells of it.
                    PyErr_CheckSignals()
            finally:
                p.state = RUNNING       # also when Ctrl-C came
                p.wait = NOTHING
            return 0
        # A finalizer that the collector has called waits: the collection goes on when it is resumed.
        cdef bint collecting = self.collecting
        self.collecting = False
        # From here on a signal that ends `p` sees that it holds a stack. It is not always a carrier's: user code may have greenlets of
        # its own (SQLAlchemy, gevent), and wait in one.
        p.carrier = pa_current()
        loop = None
        if self.loops is not None:
            loop = self.loops.leave()   # its own, or that of an asyncio.run(): the thread's is nobody's while others run
        pa_headroom(HEADROOM)       # with `p` queued and nobody current, nothing may fail
        try:
            q = self.pick()
            if q is p:
                # Nobody else had to run: no switch at all.
                p.carrier = None
                self.current = p
                p.state = RUNNING
                self.collecting = collecting
                if loop is not None:
                    self.loops.enter(loop)
                return 0
            if q is not None and q.carrier is not None:
                target = q.carrier
                q.carrier = None
                self.current = q
            else:
                self.starting = q
                target = self.pool.pop() if q is not None and self.pool else self.hub
            self.carrier = target
        finally:
            pa_headroom(-HEADROOM)
        pa_switch(<PyObject *>target)
        # Whoever switched here has made `p` current and this carrier the running one.
        p.state = RUNNING
        self.collecting = collecting
        if loop is not None:
            self.loops.enter(loop)
        return 0

    cdef int block(self, Process p, int wait) except -1:
        """The running process `p` waits. Raises what was sent to end it."""
        if p.flags & EXITING or p.pending is not None:
            self.check(p)
        if p is self.janitor:
            raise RuntimeError("expected a __del__ that doesn't wait, got one that does: the garbage collector has called it")
        if self.current is not p:
            raise RuntimeError(f"{p.pid} blocked while another process was running: a bug in parallel_actors")
        p.state = BLOCKED
        p.wait = <uint8_t>wait
        p.flags &= ~(HOG | WAITS_LOCK | LATE)
        self.switch_away(p)
        p.wait = NOTHING
        self.reductions = REDUCTIONS
        if p.pending is not None:
            self.check(p)
        return 0

    cdef int check(self, Process p) except -1:
        """Raise what ends `p`, again at each call while its stack unwinds (S1.9); abandon a stack that swallows it for ever."""
        if p.pending is None:
            return 0
        if p.flags & ENDING:
            return 0
        if p.kind == GUEST:
            pending = p.pending
            if not p.flags & EXITING:
                p.pending = None        # told once; a killed guest is told at each call
            raise pending.with_traceback(None)
        p.raised += 1
        if p.raised > MAX_RAISED:
            self.abandon(p)
        raise p.pending.with_traceback(None)

    cdef int abandon(self, Process p) except -1:
        """The running process swallows its end for ever: its stack is put aside. Doesn't return."""
        self.report("abandoned", {"pid": p.pid, "reason": p.pending.reason})
        self.exiting -= 1
        p.state = DEAD
        self.abandoned.append(pa_current())
        self.switch_away(p)
        return 0

    # ------------------------------------------------------------------ preemption

    cdef int ticked(self, object frame) except -1:
        """A tick has interrupted Python code, of the running process or of the runtime itself; `frame` is its innermost one."""
        cdef Process p = self.current
        cdef int64_t now, gap
        cdef int place
        cdef bint fresh = self.ticked_slice != self.slices
        cdef const char *library = NULL
        self.ticked_slice = self.slices
        if p is None or p.state != RUNNING:
            self.ticked_at = pa_now()
            if self.asleep and not fresh:
                self.tick.disarm()
            if self.guarded:
                self.guarded += 1
                if self.guarded > GRACE_TICKS and not self.collecting and self.guard_is_over(frame):
                    self.guarded = 1        # what makes a reason of this has its own time
                    self.guarded_at = self.ticked_at
                    raise TimeoutError("expected an exit reason, a value in a process dictionary, or a process that moves, to be pickled or unpickled "
                                       "in a second, and it wasn't")
            return 0
        if self.tick.plain == 0 and p.flags & SYSTEM:
            self.tick.calibrate(self.base)
            self.tick.arm(TICK_NS)
            return 0
        now = pa_now()
        gap = now - self.ticked_at
        self.ticked_at = now
        # What others have sent is taken in, however long this process computes (S2.5).
        self.current = None
        try:
            if self.backlog:
                self.flush()
            if self.again_count or self.segment.any_dirty(self.endpoint):
                self.drain(self.where(frame, NULL) == IN_IMPORT)
            self.now = now
            if 0 <= self.timers.next_deadline() <= now:
                self.fire_timers()
            if self.watched_fds:
                self.park(0)
            self.show_load()
            if self.exports is not None:
                self.refill()
            if not p.flags & SYSTEM:
                self.profile[p] = self.profile.get(p, 0) + 1
                self.age_profile(now)
            if self.collect_due:
                self.collect_garbage()
            if self.queue_length == 0 and (self.due_moves or self.packages or self.leaving and now >= self.leavers_at):
                self.interrupt()
        finally:
            self.current = p
        if p.pending is not None:
            return self.unwind(p, frame)
        if self.queue_length == 0:
            self.uncut_since = 0
            self.beats += 1
            return 0
        if gap > self.long_schedule:
            self.late(p, gap, IN_NATIVE, NULL)
        if not p.flags & HOG:
            self.hog_due = self.hogs.head is not None
            if fresh:
                self.uncut_since = 0
                self.beats += 1
                return 0        # its turn began since the last tick
        if self.collecting:
            place = IN_DEL
        elif p.shield or p.flags & UNCUT:
            place = CUTTABLE
        else:
            place = self.where(frame, &library)
            if place == CUTTABLE or place == IN_LOOP:
                p.flags &= ~WAITS_LOCK
                return self.cut(p, frame)
            if place == IN_LOCK and (self.stands_still(p, frame, place) or self.uncut_since and now - self.uncut_since > LOCK_NS):
                return self.cut(p, frame)
        # Where nobody can have the processor the heartbeat stands still (S1.10); an import has some more time.
        if place == IN_IMPORT and now - self.uncut_since < <int64_t>IMPORT_TICKS * TICK_NS:
            self.beats += 1
        if self.uncut_since == 0:
            self.uncut_since = now
            self.beats += 1
        elif now - self.uncut_since > (SHIELD_NS if p.shield else self.long_schedule):
            self.late(p, now - self.uncut_since, place, library)
        return 0

    cdef int where(self, object frame, const char **library) except -1:
        """`Tick.place`, for code that stands on a carrier. The stack of a greenlet of the user's own ends where others may lie by now: it can't
        be unwound, so nobody knows whether a native library is below.
        """
        if pa_current().parent is not self.hub:
            if library != NULL:
                library[0] = "a greenlet of its own"
            return IN_NATIVE
        return self.tick.place(frame, self.base, library)

    def stands_still(self, Process p, frame, int place):
        """Whether `p`, in code that may hold a lock, waits for one itself: it is where it was for some ticks.

        A loop that is busy comes by the same few places again and again, one that waits for its selector stays there.
        """
        at = (id(frame), frame.f_lasti)
        if at != self.stood_at:
            self.stood_at = at
            self.stood = 0
        self.stood += 1
        if place == IN_LOOP:
            return self.stood >= LOOP_TICKS
        if self.stood < (1 if p.flags & WAITS_LOCK else 4):
            return False
        p.flags |= WAITS_LOCK
        return True

    cdef int cut(self, Process p, object frame) except -1:
        """The running process gives way, in the middle of its code."""
        self.cuts += 1
        self.uncut_since = 0
        p.flags |= HOG
        p.flags &= ~LATE
        self.enqueue(p)
        self.switch_away(p)
        self.reductions = REDUCTIONS
        if p.pending is not None:
            return self.unwind(p, frame)        # it may be told where it may be cut alone: a loop would lose a callback
        return 0

    cdef int unwind(self, Process p, object frame) except -1:
        """The running process has been told to end, and computes: raise it there; once, and again when it has had time to clean up (S1.9)."""
        cdef int place
        if self.collecting:
            return 0
        place = self.where(frame, NULL)
        if place == IN_DEL:
            return 0            # an exception would end there, and change nothing: where it doesn't return, the root ends this worker
        if p.ticks < 65535:
            p.ticks += 1
        if p.raised == 0:
            # A package whose import is broken off can't be imported again: its parts are there, and it lacks them. Code that may hold
            # a lock has as long, and so has a loop, which would lose the callback that it is about to call, or close a good connection.
            if (place == IN_IMPORT or (place == IN_LOCK or place == IN_LOOP) and not self.stands_still(p, frame, place)) and p.ticks < IMPORT_TICKS:
                self.beats += 1
                return 0
            p.ticks = 0
        if place <= IN_LOCK:
            self.beats += 1
        if not p.flags & ENDING and (p.raised == 0 or p.ticks > GRACE_TICKS and place != IN_LOOP and p.raised < MAX_RAISED):
            p.raised += 1
            raise p.pending.with_traceback(None)
        if place > IN_LOCK:
            return 0
        if p.ticks > GRACE_TICKS + MAX_RAISED:
            return self.abandon(p)
        if self.queue_length and not p.shield:
            self.cuts += 1
            p.flags |= HOG
            self.enqueue(p)
            self.switch_away(p)
        return 0

    cdef int late(self, Process p, int64_t ns, int place, const char *library) except -1:
        """Report that the running process keeps others waiting; once per turn."""
        if p.flags & LATE:
            return 0
        p.flags |= LATE
        if p.shield:
            why = "no_preempt()"
        elif p.flags & UNCUT:
            why = "options(preempt=False)"
        elif place == IN_IMPORT:
            why = "an import"
        elif place == IN_DEL:
            why = "a __del__ or the garbage collector"
        elif library != NULL:
            why = f"a callback of native code: {library.decode(errors='replace')}"
        else:
            why = "a native call"
        # None of it may fail in the process's own code.
        self.current = None
        try:
            facts = self.crash_facts(p, None)
            facts["seconds"] = ns / 1e9
            facts["why"] = why
            facts["stack"] = "".join(traceback.format_stack(_getframe()))
            self.report("long_schedule", facts)
        except BaseException:
            last_words()
        finally:
            self.current = p
        return 0

    cdef void show_count(self) noexcept:
        """Tell who places processes how many live here: at each birth and end, so that what has been heard of is counted already."""
        self.segment.set_load(self.endpoint, <uint32_t>(len(self.table) - self.system_processes - self.away_count + self.foreign_count),
                              <uint32_t>self.queue_length)

    cdef int show_load(self) except -1:
        """Tell the root how much there is to do here, and that this endpoint turns."""
        cdef uint32_t e = self.endpoint
        self.show_count()
        self.segment.set_progress(e, self.handled, self.turn + self.beats)
        self.segment.set_busy(e, self.awake + <uint64_t>(self.now - self.awake_since))
        # What was to end is ending; what still unwinds has to come to its end in time (S1.10).
        self.segment.set_end_due(e, self.exiting > 0 or self.stopping > 0)
        return 0

    cdef int age_profile(self, int64_t now) except -1:
        """Halve the counts for each second that has passed; who is dead, or left with nothing, is forgotten."""
        cdef int64_t seconds = (now - self.profiled_at) // 1_000_000_000
        if seconds > 0:
            self.profiled_at += seconds * 1_000_000_000
            seconds = min(seconds, 30)
            self.profile = {p: ticks >> seconds for p, ticks in self.profile.items() if ticks >> seconds and runs_here(<Process>p)}
        return 0

    def hottest(self, Py_ssize_t n):
        """The `n` processes here that have computed most of late, the busiest first: (pid, ticks that found it running).

        A sample: a tick comes every 2 ms while processes run. The counts are halved every second, so an older second weighs less.
        """
        cdef Process p
        self.age_profile(pa_now())
        found = sorted(self.profile.items(), key=_second, reverse=True)
        return [((<Process>p).pid, ticks) for p, ticks in found if runs_here(<Process>p)][:n]

    def calibrate(self, spin):
        """Learn how much C stack lies below a tick in plain Python code (see `Tick.place`): `spin(calibrated)` runs as a process."""
        cdef Process p = <Process>(<Pid>self.add_callback_process(spin, True)).process
        p.kind = STACK
        p.args = (self.calibrated,)
        self.enqueue(p)
        self.ticked_at = pa_now()
        self.tick.arm(CALIBRATION_NS)

    cdef Process a_janitor(self):
        """The process as which code of the user's runs that the runtime calls on its own account."""
        if self.janitor is None:
            self.janitor = <Process>(<Pid>self.add_callback_process(None, True)).process
        return self.janitor

    cdef int collect_garbage(self) except -1:
        """Run the full collection that is due. The finalizers that it calls act as a process of the runtime, which can't wait."""
        running = self.current
        self.current = self.a_janitor()
        try:
            self.collect_due = False
            self.collections = 0
            self.collector.full()
        finally:
            self.current = running
        return 0

    def use_collector(self, collector):
        """Have `collector.full()` called for full garbage collections. `on_gc` belongs into `gc.callbacks` then."""
        self.collector = collector

    def on_gc(self, phase, info):
        """For `gc.callbacks`. Compiled, so that no tick comes in here: finalizers may be called from anywhere from now on."""
        self.collecting = phase == "start"
        if not self.collecting and info["generation"] == 1:
            self.collections += 1
            self.collect_due = self.collections >= MIDDLE_COLLECTIONS

    def calibrated(self):
        return self.tick.plain != 0


    # ------------------------------------------------------------------ blocking calls

    cdef object offload(self, Process p, object function, tuple args, dict kwargs):
        """Have a thread call `function`; its result, or its exception. The process waits, its worker goes on."""
        cdef uint64_t lo
        self.ref_counter += 1
        lo = self.ref_counter
        self.wait_for(p, lo)
        self.requests[lo] = (p, self.endpoint, self.incarnation)
        try:
            self.threads.submit(lo, function, args, kwargs)
            if self.await_answer(p, -1) == GIVEN:
                return p.reply
            raise p.reply
        finally:
            self.requests.pop(lo, None)
            self.end_wait(p, None, None)

    def finish_offload(self, uint64_t lo, reply):
        """A thread has ended the call `lo`: (True, its result) or (False, its exception)."""
        asked = self.requests.pop(lo, None)
        if asked is not None:
            self.settle(<Process>asked[0], lo, GIVEN if reply[0] else REFUSED, reply[1])

    cdef int may_act(self) except -1:
        """Whoever acts here, a process or the runtime on its own account, may: raises what is to end it. One operation of its slice."""
        cdef Process p = self.current
        if p is not None:
            if p.pending is not None:
                self.check(p)
            if self.lost is not None and p.kind == GUEST:
                raise NotRunning(self.lost)
            self.spend(p)
        return 0

    cdef int spend(self, Process p) except -1:
        """One API operation: after enough of them the process gives way, so a chatty one starves nobody."""
        self.reductions -= 1
        if self.reductions > 0:
            return 0
        self.reductions = REDUCTIONS
        if p.kind == GUEST:
            if p.flags & EXITING == 0:
                self.poll(0)
                self.turn += 16
            return 0
        if p.flags & (EXITING | SCANNING) or p.shield or p.kind == CALLBACK and p.flags & SYSTEM:
            return 0
        self.enqueue(p)
        self.switch_away(p)
        if p.pending is not None:
            self.check(p)
        return 0

    def run_forever(self):
        """Drive this endpoint until STOP has ended its processes. The caller's greenlet makes the carriers."""
        self.hub = pa_current()
        while True:
            if self.handed is not None:
                target = self.handed
                self.handed = None
                pa_switch(<PyObject *>target)
            else:
                # Carriers start here only: one started from a deep stack would inherit its depth.
                self.carrier = GREENLET(self._carrier)
                pa_switch(<PyObject *>self.carrier)
            if self.starting is None and self.handed is None:
                break
        self.hub = None
        self.segment.set_load(self.endpoint, 0, 0)

    def _carrier(self):
        """What every carrier runs: processes without a stack of their own, one after the other."""
        cdef Process p
        cdef object mine = pa_current()
        cdef object target
        while True:
            p = self.starting
            self.starting = None
            if p is None:
                p = self.pick()
                if p is None:
                    # Stop: the hub sees `starting is None`.
                    self.carrier = self.hub
                    return
            if p.carrier is not None:
                target = p.carrier
                p.carrier = None
                self.current = p
                self.carrier = target
                if len(self.pool) >= POOL:
                    self.ended_carriers += 1
                    self.handed = target        # this carrier ends; the hub, its parent, switches there
                    return
                self.pool.append(mine)
                pa_switch(<PyObject *>target)
                if self.starting is None:
                    return          # woken by the end of the scheduler
                continue
            self.run(p)

    cdef int run(self, Process p) except -1:
        """Run a process that holds no stack, on this one, until it ends, waits or (callback) has no mail."""
        cdef bint done = True
        cdef PyObject *context
        reason = NORMAL
        self.current = p
        self.base = pa_stack()
        p.state = RUNNING
        if p.context is not None:
            saved = p.context
            p.context = None
            Py_INCREF(saved)
            pa_give_context(<PyObject *>saved)
        try:
            done = self.advance(p)
            if self.forked:
                os._exit(0)
        except ProcessExit as error:
            if self.forked:
                os._exit(0)
            reason = error.reason
        except GreenletExit as error:
            if self.forked:
                os._exit(1)
            if self.hub is None:
                raise               # the scheduler has ended, and its carriers with it
            p.flags |= ENDING
            reason = Crash.from_exception(error)    # the process's own
        except SystemExit as error:
            code = error.code
            if self.forked:
                os._exit(code if type(code) is int else 0 if code is None else 1)
            if code is not None and code != 0:
                p.flags |= ENDING
                reason = Crash.from_exception(error)
        except BaseException as error:
            if self.forked:
                last_words()
                os._exit(1)
            # What the exception says of itself is user code, on the process's own time: but nothing is raised in it any more.
            p.flags |= ENDING
            if isinstance(error, MemoryError):
                self.make_room(error)
            if p.flags & EXITING:
                reason = Crash.from_exception(error)
            elif self.admits("crash"):
                reason = Crash.from_exception(error)
                self.report("crash", self.crash_facts(p, reason), True)
            elif p.extra is not None or p.callers is not None:
                reason = Crash.from_exception(error)
            # else nobody sees why: no links, no monitors, no calls, and no report any more in this second
            error = None
        context = pa_take_context()
        if done:
            Py_XDECREF(context)
            self.finish(p, reason)
        elif context != NULL:
            p.context = <object>context
            Py_XDECREF(context)
        self.current = None
        return 0

    cdef bint advance(self, Process p) except -1:
        """Go on with the body of `p`. True: it has ended, and its tasks with it."""
        cdef bint done
        try:
            done = self.go_on(p)
        except GreenletExit:
            raise
        except BaseException:
            if p.tasks is not None and not self.forked:
                p.tasks.end()
            raise
        if done and p.tasks is not None and not self.forked:
            p.tasks.end()
        return done

    cdef bint go_on(self, Process p) except -1:
        if p.pending is not None and p.kind != ASYNC:
            p.raised += 1           # a tick in what follows, such as the end of its tasks, leaves it alone
            raise p.pending
        if p.kind == CALLBACK:
            return self.turn_callback(p)
        elif p.kind == STACK:
            result = self.enter(p)
            if PyCoro_CheckExact(result):
                p.kind = ASYNC
                p.body = result
                result = None
                return self.step(p)
            elif type(result) is Loop:
                p.kind = CALLBACK
                p.body = (<Loop>result).handler
                result = None
                return self.turn_callback(p)
            elif PyGen_CheckExact(result) or PyAsyncGen_CheckExact(result):
                raise TypeError(f"expected a def or an async def as the body of a process, got a generator function: {result!r} would never run")
        else:
            return self.step(p)
        return True

    cdef int make_room(self, object error) except -1:
        """A process has used up the memory. What it held goes first, so that there is some to tell of its end."""
        self.ballast = None
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
        return self.keep_ballast()

    def crash_facts(self, Process p, reason):
        """What a crash report says."""
        cdef Extra extra = p.extra
        return {
            "pid": p.pid,
            "name": None if extra is None else extra.name,
            "label": None if extra is None else extra.label,
            "reason": reason,
            "ancestors": p.lineage,
            "message_queue_len": p.mail,
            "links": [] if extra is None else list(extra.links),
            "worker": self.endpoint,
            "initial_call": getattr(p.body, "__qualname__", type(p.body).__name__),
        }

    cdef int finish(self, Process p, object reason) except -1:
        """The body of `p` has ended, by itself or unwound."""
        if p.flags & EXITING:
            self.exiting -= 1
        else:
            p.state = BLOCKED       # it holds nothing any more: terminate() has nothing to unwind
            body = p.body
            p.body = None
            self.terminate(p, reason)
        p.state = DEAD
        p.pending = None
        p.body = p.args = p.kwargs = p.resume = p.reply = p.context = None
        if self.partial_lines:
            text = self.partial_lines.pop(p.pid, None)
            if text is not None:
                self.report("partial_line", {"pid": p.pid, "texts": text}, True)
        return 0

    cdef object drive(self, object coroutine):
        """Run a coroutine to its end on the running process's own stack, which waits whenever the coroutine does. Its result."""
        cdef Process p = self.current
        cdef PyObject *out = NULL
        cdef PySendResult got
        cdef int kind = p.kind
        if self.loops is not None and p.tasks is None:
            p.tasks = self.loops.tasks_of(p)
        if p.tasks is not None:
            return p.tasks.drive(coroutine, None, False)
        while True:
            p.kind = ASYNC          # what it awaits looks there
            try:
                p.wait = NOTHING
                got = PyIter_Send(coroutine, None, &out)
            finally:
                p.kind = <uint8_t>kind
                if p.tasks is not None:
                    p.tasks.part()  # it has imported asyncio
            yielded = <object>out
            Py_XDECREF(out)
            if got == PYGEN_RETURN:
                return yielded
            if p.tasks is not None:
                return p.tasks.drive(coroutine, yielded, True)
            try:
                if yielded is not SUSPENDED and yielded is not None:
                    raise RuntimeError(f"expected an await of the process API (areceive, asleep, ...) or of asyncio, got {yielded!r}")
                if p.wait == NOTHING:
                    self.reductions = 0
                    self.spend(p)
                elif (p.wait != MAIL or p.save is p.last) and not p.timed_out:
                    self.block(p, p.wait)
            except BaseException as error:
                p.kind = ASYNC
                try:
                    coroutine.throw(error)
                except StopIteration as stop:
                    return stop.value
                finally:
                    p.kind = <uint8_t>kind

    cdef object enter(self, Process p):
        """Call the body of a def process. What came encoded is decoded here, on its own stack: it is user code."""
        function = p.body
        args = p.args
        kwargs = p.kwargs
        p.args = p.kwargs = None
        if type(function) is Encoded:
            decoded = self.decoded(function)
            if args is None:
                function, args, kwargs, label, lineage = decoded
                p.lineage = (*p.lineage[:-1], *lineage)[:MAX_LINEAGE]      # its parent was known; somebody may have adopted it since
                if label is not None:
                    p.more().label = label
            else:
                function = decoded
            p.body = function
        if type(args) is Encoded:
            args = self.decoded(args)
        if type(kwargs) is Encoded:
            kwargs = self.decoded(kwargs)
        if kwargs:
            return function(*args, **kwargs)
        return function(*args)

    cdef bint turn_callback(self, Process p) except -1:
        """Handle waiting messages of a callback process. True: it has ended."""
        cdef int left = CALLBACK_BUDGET
        cdef Handler handler = <Handler>p.body if isinstance(p.body, Handler) else None
        while True:
            if p.tasks is not None and left:
                p.tasks.background()        # what its tasks wait for is theirs, before it is a message
            if p.first is None or not left:
                break
            left -= 1
            body = p.unlink(None, p.first)
            if is_closed(body):
                try:
                    if self.role == "root":
                        raise TypeError("the root decodes no user objects")
                    body = self.opened(body)
                except (Exception, SystemExit) as error:
                    self.unreadable(p, body, error)
                    continue
            self.handled += 1
            if handler.handle(body) if handler is not None else p.body(body) is True:
                return True
            if p.pending is not None:
                self.check(p)
            if p.flags & MOVING:
                break
        p.state = IDLE
        if p.flags & MOVING:
            self.due_moves.append(p)
        if p.first is not None or p.tasks is not None and p.tasks.woken:
            self.enqueue(p)
        else:
            p.flags &= ~(HOG | WAITS_LOCK | LATE)
        return False

    cdef bint step(self, Process p) except -1:
        """Run a coroutine until it waits. True: it has ended."""
        cdef PyObject *out = NULL
        cdef PySendResult got
        coroutine = p.body
        if self.loops is not None and p.tasks is None and p.pending is None:
            p.tasks = self.loops.tasks_of(p)
            return p.tasks.joined(coroutine, None)
        if p.tasks is not None:
            return p.tasks.turn()
        while True:
            if p.pending is not None:
                p.raised += 1
                if p.raised > MAX_RAISED:
                    self.report("abandoned", {"pid": p.pid, "reason": p.pending.reason})
                    self.abandoned.append(coroutine)    # released, it would be closed: and swallow that too
                    return True
                try:
                    coroutine.throw(p.pending)
                except StopIteration:
                    return True
                if p.flags & EXITING:
                    continue
            else:
                p.wait = NOTHING
                try:
                    got = PyIter_Send(coroutine, None, &out)
                finally:
                    if p.tasks is not None:
                        p.tasks.part()      # it has imported asyncio
                yielded = <object>out
                Py_XDECREF(out)
                if got == PYGEN_RETURN:
                    return True
                if p.tasks is not None:
                    return p.tasks.joined(coroutine, yielded)
                if yielded is not SUSPENDED and yielded is not None:
                    try:
                        coroutine.throw(RuntimeError(
                            f"expected an await of the process API (areceive, asleep, ...) or of asyncio, got {yielded!r}"))
                    except StopIteration:
                        return True
                    continue
            # The awaitable has set what it waits for.
            if p.wait != NOTHING:
                p.flags &= ~(HOG | WAITS_LOCK | LATE)
            if p.wait == NOTHING:
                p.state = IDLE
                self.enqueue(p)
            elif p.wait == MAIL and p.save is not p.last:
                # Mail came between its look and this point.
                self.enqueue(p)
            elif p.state != QUEUED:
                p.state = BLOCKED
                if p.timed_out or p.pending is not None:
                    self.enqueue(p)
            return False

    # ------------------------------------------------------------------ transport

    cdef Outbox outbox(self, uint32_t e):
        box = self.outboxes[e]
        if box is None:
            box = Outbox(self.segment, self.endpoint, self.incarnation, e, self.believed[e])
            self.outboxes[e] = box
        return <Outbox>box

    cdef Inbox inbox(self, uint32_t e):
        box = self.inboxes[e]
        if box is None:
            box = Inbox(self.segment, self.endpoint, self.incarnation, e, self.believed[e])
            self.inboxes[e] = box
        return <Inbox>box

    cdef int flush(self) except -1:
        """Move overflow into rings, in order; let suspended senders go on."""
        cdef Outbox box
        cdef Process p
        cdef bint left = False
        for item in self.outboxes:
            if item is not None:
                box = <Outbox>item
                if box.queued_count and not box.flush():
                    left = True
        if self.owing:
            self.owing = [late for late in self.owing if not (<Inbox>late).settle()]
            left = left or bool(self.owing)
        self.backlog = left
        if self.arriving:
            self.begin_arrived()
        if self.late_ends and not left:
            ends = self.late_ends
            self.late_ends = []
            for hi, lo, passed in ends:
                self.tell_ended(hi, lo, passed)
        if self.flying:
            self.settle_blocks()
        if self.flow_waiting:
            # One for each overflow, in the order of their coming: if all were let go at once, the first would fill it again, and
            # the last would never have its turn.
            woken = []
            waiting = self.flow_waiting
            self.flow_waiting = []
            for item in waiting:
                p = <Process>item[0]
                box = <Outbox>item[1]
                if p.state != BLOCKED or p.wait != FLOW:
                    continue
                if item[2]:
                    if not is_published(box):
                        self.flow_waiting.append(item)
                    else:
                        self.enqueue(p)
                elif (box.queued_bytes > FLOW_LOW_BYTES or box.queued_count > FLOW_LOW_COUNT or box in woken
                        or box.meter.bytes > FLOW_LOW_BYTES and not self.settled(box, FLOW_LOW_BYTES)):
                    self.flow_waiting.append(item)
                else:
                    woken.append(box)
                    self.enqueue(p)
            if self.flow_waiting:
                self.backlog = True     # the next one's turn comes even if this one sends no more
        return 0

    cdef int drain(self, bint importing=False) except -1:
        """Take records from every producer that has published since the last look.

        importing: somebody is in the middle of an import: what may need a module waits, with all that its producer has published after it.
        """
        cdef uint32_t word, words = self.segment.dirty_words, e
        cdef uint64_t bits
        cdef Segment segment = self.segment
        if segment.any_dirty(self.endpoint):
            for word in range(words):
                bits = segment.take_dirty(self.endpoint, word)
                e = word << 6
                while bits:
                    if bits & 1:
                        self.come_again(e)
                    bits >>= 1
                    e += 1
        if self.again_count:
            for e in range(segment.endpoints):
                if self.again[e]:
                    self.again[e] = 0
                    self.again_count -= 1
                    self.drain_one(e, ALL, importing)
        return 0

    cdef void come_again(self, uint32_t e) noexcept:
        if not self.again[e]:
            self.again[e] = 1
            self.again_count += 1

    cdef bint unpickles(self, Record *r) except -1:
        """Whether to handle this signal is to unpickle something, which may import. Messages are unpickled by their receiver.

        The lock of a module is its thread's, which is everybody's here: where that is being imported, what is there of it would be taken.
        """
        cdef Record inner
        cdef uint64_t lo
        cdef uint32_t own
        cdef int kind = r.kind
        if kind == FROM or kind == FORWARD:
            own = WRAP if kind == FROM else 8
            inner.kind = r.body[own - 8]
            inner.body = r.body + own
            inner.size = r.size - own
            return self.unpickles(&inner)
        if kind == EXIT or kind == REQUEST:
            own = 32
        elif kind == DOWN:
            own = 40
        elif kind == ALIAS:
            memcpy(&lo, r.body, 8)
            if lo not in self.requests:
                return False
            own = 8
        else:
            return False
        return r.size > own and not self.codec.is_plain(r.body + own, r.size - own)

    cdef int drain_one(self, uint32_t e, uint64_t position=ALL, bint importing=False) except -1:
        """Handle what `e` has published, up to `position` in its ring. How many records: no more than DRAIN_BUDGET where there is no position.

        importing: as in `drain`.
        """
        cdef Inbox box = self.inbox(e)
        cdef Record r
        cdef int n = 0
        cdef uint8_t reading = self.reading[e]
        self.reading[e] = 1
        try:
            while (box.back or box.position < position) and box.next(&r):
                if importing and self.unpickles(&r):
                    box.put_back(&r)
                    self.come_again(e)
                    break
                if box.holds is not None:
                    self.holds = box.holds
                    box.holds = None
                try:
                    self.signal(e, &r)
                except (NotRunning, KeyboardInterrupt):
                    raise                   # the record counts as handled
                except Exception as error:
                    if isinstance(error, MemoryError) and r.kind != MSG and r.kind != ALIAS and r.kind != LOST:
                        self.out_of_memory()
                    # A record that can't be handled must not take the others down with it.
                    self.report("dead_letter", {"to": f"endpoint {self.endpoint}, record kind {r.kind}", "error": error})
                finally:
                    box.release()
                n += 1
                if n >= DRAIN_BUDGET and position == ALL:
                    self.come_again(e)
                    break
        finally:
            self.reading[e] = reading
        return n

    cdef object body_of(self, Record *r, Holds holds):
        """The message of a MSG."""
        cdef pa_head head
        cdef Pid caller
        cdef Ref ref
        if not r.flags & IS_CALL:
            return self.received(r.body + 8, r.size - 8, holds)
        memcpy(&head, r.body, 40)
        caller = new_pid(head.b, head.c)
        ref = new_ref(head.d, head.e)
        return CALL, (caller, ref, True) if r.flags & IS_TAGGED else (caller, ref), self.received(r.body + 40, r.size - 40, holds)

    cdef int signal(self, uint32_t e, Record *r) except -1:
        """Handle one record from endpoint `e`. It is copied out before this returns."""
        cdef pa_head head
        cdef Process p
        cdef uint64_t lo
        cdef int kind = r.kind
        cdef Holds holds = None
        if self.holds is not None:
            holds = self.holds
            self.holds = None
        if kind == LOST:
            return self.signal_lost(e, r)
        if kind == MSG:
            memcpy(&lo, r.body, 8)
            p = self.find(lo)
            if p is None:
                if self.is_unborn(lo):
                    self.unborn.setdefault(lo, []).append((kind, r.flags, r.aux, kept(r, holds)))
                return 0
            if p.flags & AWAY or p.flags & EXPORTED and r.flags & IS_CALL and not self.recall(p):
                return self.forward(p, kind, r.flags, r.aux, r.body, r.size, holds)
            body = self.body_of(r, holds)
            if p.flags & LIMITED and not r.flags & IS_ORDER:
                return self.admit_from(e, p, body, r.size - 8)
            return self.deliver(p, body)
        if kind == FROM:
            return self.signal_from(e, r, holds)
        if kind == FORWARD:
            return self.signal_forwarded(e, r, holds)
        if kind == ALIAS:
            memcpy(&lo, r.body, 8)
            asked = self.relayed.pop(lo, None)
            if asked is not None:
                memcpy(&head, <const char *><bytes>asked[3], 16)
                if head.a == self.hi:
                    lo = head.b
                else:
                    return self.put(hi_endpoint(head.a), hi_incarnation(head.a), ALIAS, 0, &head.b, 8, <bytes>r.body[8:r.size], False)
            asked = self.requests.pop(lo, None)
            if asked is not None:
                guarded = self.guard()
                try:
                    reply = self.codec.decode(r.body + 8, r.size - 8)
                except BaseException as error:
                    reply = (False, error)
                finally:
                    self.guarded = guarded
                return self.settle(<Process>asked[0], lo, GIVEN if reply[0] else REFUSED, reply[1])
            if lo >> 52:
                self.pass_alias(lo, <bytes>r.body[:r.size], holds)
            elif lo in self.aliases:
                self.take_alias(lo, self.received(r.body + 8, r.size - 8, holds))
            return 0
        if kind == SPAWN:
            return self.birth(r, holds)
        if kind == MAILBOX:
            return self.mailbox_news(r)
        if kind == WDOWN:
            memcpy(&head, r.body, 16)
            return self.endpoint_down(<uint32_t>head.a, <uint32_t>(head.a >> 32), <int><uint32_t>head.b)
        if kind == REQUEST:
            return self.answer(r)
        if kind == STOP:
            memcpy(&head, r.body, 8)
            return self.stop_processes(<int>head.a)
        if kind == SHED:
            memcpy(&head, r.body, 16)
            return self.shed(<int>head.a, <int64_t>head.b)
        if kind >= STOLEN:
            return self.signal_of_host(e, r, holds)
        # The rest is addressed to a process: hold it for the unborn.
        memcpy(&lo, r.body, 8)
        p = self.local(lo)
        if p is None and self.elsewhere(lo):
            return self.hold(lo, kind, r.flags, r.aux, kept(r, holds))
        return self.act_on(p, r, holds)

    cdef int act_on(self, Process p, Record *r, Holds holds) except -1:
        """A control signal for a process that runs here; None: for one of this endpoint that is dead."""
        cdef pa_head head
        cdef int kind = r.kind
        memcpy(&head, r.body, 48 if r.size >= 48 else r.size)
        if kind == EXIT:
            if p is not None:
                self.take_exit(p, new_pid(head.b, head.c), encoded(<bytes>r.body[32:r.size]), r.flags, head.d)
        elif kind == LINK:
            self.take_link(p, head.a, new_pid(head.b, head.c), head.d)
        elif kind == UNLINK:
            self.take_unlink(p, new_pid(head.b, head.c), head.d)
        elif kind == MONITOR:
            self.take_monitor(p, head.a, new_pid(head.b, head.c), new_ref(head.d, head.e))
        elif kind == DEMONITOR:
            if p is not None and p.extra is not None:
                p.extra.watchers.pop(new_ref(head.b, head.c), None)
        elif kind == DOWN:
            if p is not None:
                self.take_down(p, new_ref(head.d, head.e), new_pid(head.b, head.c), encoded(<bytes>r.body[40:r.size]))
        elif kind == ANSWER:
            if p is not None and p.awaited == head.b:
                # Its receiver decodes it: what is in there may be user code.
                self.settle(p, head.b, GIVEN, self.received(r.body + 16, r.size - 16, holds))
        return 0

    cdef int signal_lost(self, uint32_t e, Record *r) except -1:
        """A large body that there is no memory for: `r.flags` is its kind, `r.body` its beginning. What others wait for goes on without the rest."""
        cdef pa_head head
        cdef Process p
        cdef Record rest
        cdef bytes body
        cdef uint64_t lo
        cdef size_t own = 32 if r.flags == EXIT else 40 if r.flags == DOWN else 48 + r.aux
        if r.flags == FROM or r.flags == FORWARD:
            own = WRAP if r.flags == FROM else 8
            rest.kind = LOST
            rest.flags = r.body[own - 8]
            rest.aux = r.body[own - 7]
            rest.body = r.body + own
            rest.size = r.size - own
            if r.flags == FROM:
                return self.signal_lost(e, &rest)
            memcpy(&lo, rest.body, 8)
            some = self.foreign[e]
            return 0 if not some or lo not in some else self.lost_forwarded(<Process>some[lo], &rest)
        memcpy(&head, r.body, 48)
        error = MemoryError(f"no memory for a message of {r.size:,} bytes from endpoint {e}")
        if r.flags == EXIT or r.flags == DOWN or r.flags == SPAWN:
            body = <bytes>r.body[:own] + (self.no_body if r.flags == SPAWN else self.no_reason)
            rest.kind = r.flags
            rest.flags = <uint8_t>r.aux
            rest.aux = 0
            rest.body = <const uint8_t *><const char *>body
            rest.size = len(body)
            return self.signal(e, &rest)
        if r.flags == MSG and r.aux & IS_CALL:
            p = self.find(head.a)
            if p is not None:
                return self.unreadable(p, (CALL, (new_pid(head.b, head.c), new_ref(head.d, head.e))), error)
        elif r.flags == ALIAS:
            asked = self.requests.pop(head.a, None)
            if asked is not None:
                return self.settle(<Process>asked[0], head.a, REFUSED, "system_limit")
        elif r.flags == ANSWER:
            p = self.find(head.a)
            if p is not None:
                return self.settle(p, head.b, REFUSED, "system_limit")
        raise error

    cdef int lost_forwarded(self, Process p, Record *r) except -1:
        """As signal_lost, for a process of another home."""
        cdef Record rest
        cdef bytes body
        cdef size_t own = 32 if r.flags == EXIT else 40
        error = MemoryError(f"no memory for a message of {r.size:,} bytes to {p.pid}")
        if r.flags == EXIT or r.flags == DOWN:
            body = <bytes>r.body[:own] + self.no_reason
            rest.kind = r.flags
            rest.flags = <uint8_t>r.aux
            rest.aux = 0
            rest.body = <const uint8_t *><const char *>body
            rest.size = len(body)
            return self.act_on(p, &rest, None)
        raise error

    # ------------------------------------------------------------------ processes that run elsewhere (docs/internals.md)

    cdef uint64_t new_lo(self, Process p) noexcept:
        """The number of a new reference of `p`'s, whose `hi` is its home: it says where it was made, if that is another worker."""
        self.ref_counter += 1
        if p is None or p.pid.hi == self.hi:
            return self.ref_counter
        return (<uint64_t>(self.endpoint + 1) << 52) | (<uint64_t>(self.incarnation & 0xFFFF) << 36) | (self.ref_counter & 0xFFFFFFFFFULL)

    cdef Process here_is(self, Pid pid):
        """The process, if it runs here, whatever its home."""
        if pid.hi == self.hi:
            return self.local(pid.lo)
        some = self.foreign[hi_endpoint(pid.hi)] if hi_endpoint(pid.hi) < self.segment.endpoints else None
        if not some:
            return None
        found = <Process>(<dict>some).get(pid.lo)
        return found if found is not None and (<Process>found).pid.hi == pid.hi else None

    cdef object alias_of(self, Ref ref):
        """Who has this alias, if that is a process which runs here: (process, reply-once)."""
        return self.aliases.get(ref.lo) if ref.hi == self.hi or ref.lo >> 52 else None

    # -- at home

    cdef Process local(self, uint64_t lo):
        """A process of ours, if it runs here. One that others might take is taken back."""
        cdef Process p = self.find(lo)
        if p is None or not p.flags & (EXPORTED | AWAY):
            return p
        if p.flags & EXPORTED and self.recall(p):
            return p
        return None

    cdef bint elsewhere(self, uint64_t lo):
        """Whether a process of ours, which isn't `local`, isn't dead: it is to be born, or runs on another worker."""
        return self.find(lo) is not None or self.is_unborn(lo)

    cdef int hold(self, uint64_t lo, int kind, int flags, int aux, object body) except -1:
        """A signal for a process that is `elsewhere`: to its birth, or to its host. body: bytes, or Encoded where it mentions blocks."""
        cdef Process p = self.find(lo)
        if p is None:
            self.unborn.setdefault(lo, []).append((kind, flags, aux, body))
            return 0
        return self.forward_kept(p, kind, flags, aux, body)

    cdef int forward_kept(self, Process p, int kind, int flags, int aux, object body) except -1:
        """`forward`, of what was kept: bytes, or Encoded where it mentions blocks."""
        cdef Holds holds = None
        cdef bytes data
        if type(body) is Encoded:
            holds = (<Encoded>body).holds
            data = (<Encoded>body).data
        else:
            data = <bytes>body
        return self.forward(p, kind, flags, aux, <const uint8_t *><const char *>data, len(data), holds)

    cdef int forward(self, Process p, int kind, int flags, int aux, const uint8_t *body, size_t size, Holds holds=None) except -1:
        """To the host of a stub, in order."""
        cdef Place place = p.extra.place
        cdef pa_head head
        cdef Pid other
        cdef Link link
        cdef Ref ref
        cdef uint64_t own
        cdef bint dead = False
        if kind == EXIT and not flags & (BY_LINK | IS_NORMAL):
            self.segment.set_end_due(place.host, True)
        if place.held is not None:
            place.held.append((kind, flags, aux, kept_bytes(<bytes>body[:size], holds)))
            return 0
        if kind == REQUEST:
            return self.relay(p, flags, aux, <bytes>body[:size])
        memcpy(&head, body, 48 if size >= 48 else size)
        # What is needed at the host's death.
        if kind == LINK:
            other = new_pid(head.b, head.c)
            dead = self.gone(other)
            p.link_with(other).peer = head.d
            self.tie(p, other)
            place.passed += 1
            place.late[other] = place.passed
        elif kind == MONITOR:
            other = new_pid(head.b, head.c)
            if self.gone(other):
                return 0
            ref = new_ref(head.d, head.e)
            p.put_watcher(ref, other)
            self.tie(p, other)
            place.passed += 1
            place.late[ref] = place.passed
        elif kind == UNLINK:
            other = new_pid(head.b, head.c)
            self.take_unlink(p, other, head.d)
            place.late.pop(other, None)
        elif kind == DEMONITOR:
            ref = new_ref(head.b, head.c)
            p.extra.watchers.pop(ref, None)
            place.late.pop(ref, None)
        elif kind == EXIT:
            if flags & BY_LINK:
                other = new_pid(head.b, head.c)
                link = <Link>p.extra.links.get(other)
                if link is not None and (link.peer != 0 or head.d >= link.own):
                    del p.extra.links[other]
        own = <uint64_t>kind | <uint64_t>(flags & 0xFF) << 8 | <uint64_t>(aux & 0xFFFF) << 16
        self.put(place.host, place.incarnation, FORWARD, 0, &own, 8, <bytes>body[:size], kind == MSG or kind == ALIAS, 0, holds)
        if dead and not self.releasing:
            self.send_beliefs(p)
        return 0

    cdef int relay(self, Process p, int flags, int aux, bytes body) except -1:
        """A question about a process that runs elsewhere: asked there by a reference of ours, since its host may die before it answers."""
        cdef Place place = p.extra.place
        cdef uint64_t own = REQUEST, lo
        self.ref_counter += 1
        lo = self.ref_counter
        self.relayed[lo] = (p.pid.lo, flags, aux, body)
        return self.put(place.host, place.incarnation, FORWARD, 0, &own, 8, (<char *>&self.hi)[:8] + (<char *>&lo)[:8] + body[16:], False)

    cdef int relayed_end(self, uint64_t lo) except -1:
        """What was asked about a process that has ended meanwhile is answered as about the dead."""
        for ref, asked in list(self.relayed.items()):
            if asked[0] == lo:
                del self.relayed[ref]
                self.replay(REQUEST, asked[1], asked[2], asked[3])
        return 0

    cdef int offer(self, Process p, bint user_code) except -1:
        """Let others take `p`, which hasn't begun. user_code: whether it may run here, in a pickler."""
        cdef pa_spec spec
        cdef bytes body, args = None, kwargs = None, control
        cdef Extra extra = p.extra
        cdef Link link
        cdef int slot, idle
        cdef int64_t now = pa_now()
        if p.flags & LIMITED:
            return 0            # what is told to its senders, its home tells
        self.offers += 1
        if now - self.offered_at > PAUSE_NS:
            self.unstolen = 0       # after a pause it may be work of another kind
        self.offered_at = now
        if self.exports.used == <uint64_t>-1 or self.unstolen >= QUIET and self.offers & 15:
            if self.queue_length > OFFERS and len(self.fresh) < FRESH:      # else its turn comes before the next tick
                self.fresh.append(p)
            return 0
        if extra is not None and (extra.dictionary is not None or extra.label is not None and type(extra.label) is not str):
            return 0
        function = p.body
        if type(function) is Encoded:
            if (<Encoded>function).holds is not None:
                return 0            # its arguments lie in blocks that we hold
            body = (<Encoded>function).data
        else:
            body = <bytes>self.function_bytes.get(function) if type(function) in FUNCTIONS else self.codec.compact(function)
            if body is None:
                if not user_code:
                    return 0
                try:
                    body = self.codec.encode_to_move(function)
                except Exception:
                    return 0        # then it stays, as whatever else can't be pickled
                if type(function) in FUNCTIONS:         # else than by name they would be Encoded
                    if len(self.function_bytes) >= 256:
                        self.function_bytes.clear()
                    self.function_bytes[function] = body
        if p.args is not None:
            args = self.bytes_of(p.args, user_code)
            if args is None:
                return 0
            if p.kwargs:
                kwargs = self.bytes_of(p.kwargs, user_code)
                if kwargs is None:
                    return 0
        # User code may have run meanwhile: also `p`.
        if p.state != QUEUED or p.kind != STACK or p.carrier is not None or p.flags & (EXITING | EXPORTED | AWAY) or p.callers is not None:
            return 0
        if extra is None:
            control = self.codec.compact((None, None, p.lineage, self.link_counter, (), ()))
        else:
            control = self.codec.compact((
                extra.name, extra.label, p.lineage, self.link_counter,
                [(pid, (<Link>link).own, (<Link>link).peer) for pid, link in extra.links.items()], list(extra.watchers.items())))
        if control is None:
            return 0
        spec.hi = self.hi
        spec.lo = p.pid.lo
        spec.body = <uint32_t>len(body)
        spec.args = NOT_GIVEN if args is None else <uint32_t>len(args)
        spec.kwargs = NOT_GIVEN if kwargs is None else <uint32_t>len(kwargs)
        spec.control = <uint32_t>len(control)
        spec.flags = p.flags & (SPREAD | UNCUT | TRAP_EXIT)
        spec.priority = p.priority
        rest = body + (args or b"") + (kwargs or b"") + control
        slot = self.exports.put(<const char *>&spec, sizeof(pa_spec), <const char *>rest, len(rest), now)
        if slot < 0:
            return 0
        p.flags |= EXPORTED
        p.resume = slot
        self.exported[slot] = p
        if self.queue_length >= OFFERS:
            self.call_thief()
        return 0

    cdef bytes bytes_of(self, object value, bint user_code):
        """The encoding of what a new process is called with; None: it has none, or only user code could tell."""
        if type(value) is Encoded:
            return (<Encoded>value).data
        found = self.codec.compact(value)
        if found is None and user_code:
            try:
                return self.codec.encode_to_move(value)
            except Exception:
                return None     # then it stays, as whatever else can't be pickled
        return found

    cdef int call_thief(self) except -1:
        """Wake an idle worker, if there is one that hasn't been woken yet."""
        cdef int idle = an_idle(self.segment, self.endpoint)
        if idle >= 0:
            self.segment.ring_bell(self.endpoint, <uint32_t>idle)
        return 0

    cdef int refill(self) except -1:
        """At a tick: offer what waits still, and wake who could take it. Runs no user code."""
        cdef Process p
        cdef int left = REFILL
        cdef int unstolen = self.unstolen
        if self.fresh:
            self.unstolen = 0
            while left and self.fresh and self.exports.used != <uint64_t>-1:
                p = <Process>self.fresh.popleft()
                if p.state == QUEUED and p.kind == STACK and p.carrier is None and not p.flags & (EXITING | EXPORTED | AWAY | KEEPS):
                    left -= 1
                    self.offer(p, False)
            self.unstolen = unstolen
        if self.exports.used:
            self.call_thief()
        return 0

    cdef bint recall(self, Process p) except -1:
        """`p` was offered: it is ours alone again. False: somebody has it already, and what is here from now on is a stub."""
        cdef int slot = p.resume
        cdef uint64_t word
        p.flags &= ~EXPORTED
        if self.exports.take_back(slot):
            p.resume = None
            self.exported[slot] = None
            return True
        self.unstolen = 0
        word = self.exports.word(slot)
        self.make_stub(p, thief_of(word), thief_incarnation_of(word))
        p.extra.place.slot = slot
        return False

    cdef int make_stub(self, Process p, uint32_t host, uint32_t incarnation) except -1:
        """From here on `p` is elsewhere, and what comes for it is held."""
        cdef Place place = p.more().place
        if place is None:
            place = p.extra.place = Place()
        place.host = host
        place.incarnation = incarnation
        place.held = []
        place.leaving = False
        place.passed = 0
        place.late = {}
        p.flags |= AWAY
        if self.away[host] is None:
            self.away[host] = {}
        self.away[host][p.pid.lo] = p
        self.hosted[host] = incarnation
        self.away_count += 1
        return 0

    cdef int unmake_stub(self, Process p) except -1:
        cdef Place place = p.extra.place
        if place.slot >= 0:
            self.exported[place.slot] = None
            self.exports.free(place.slot)
            place.slot = -1
            p.resume = None
        (<dict>self.away[place.host]).pop(p.pid.lo, None)
        self.away_count -= 1
        p.flags &= ~AWAY
        return 0

    cdef int come_home(self, Process p) except -1:
        """A stub is the process itself again."""
        cdef Place place = p.extra.place
        held = place.held
        self.unmake_stub(p)
        place.held = None
        if p.kind == CALLBACK:
            if p.state == IDLE and p.first is not None:
                self.enqueue(p)
        elif p.state != QUEUED:
            self.enqueue(p)
        self.restore_timers(p)
        if place.fences:
            p.flags |= CARRIED          # those that were noted when it left, in vain, do no harm; but they must not grow old
        self.nobody_gone = True         # who has died since comes in its turn
        try:
            for kind, flags, aux, body in held or ():
                self.replay(kind, flags, aux, body)
        finally:
            self.nobody_gone = False
        if p.extra is not None:
            self.fire_gone(p, None)
        self.show_count()
        return 0

    cdef int restore_timers(self, Process p) except -1:
        """What was packed with `p` and isn't elsewhere after all."""
        if p.extra is None or p.extra.place is None or p.extra.place.timers is None:
            return 0
        timers = p.extra.place.timers
        p.extra.place.timers = None
        for hi, lo, deadline, period, message in timers:
            self.moved_timers.pop((hi, lo), None)
            self.start_timer(hi, lo, deadline, period, p.pid, message)
        return 0

    cdef int release_held(self, Process p) except -1:
        """It is known who runs the stub's process: there goes what was held."""
        cdef Place place = p.extra.place
        held = place.held
        place.held = None
        self.releasing = True
        try:
            for kind, flags, aux, body in held:
                self.forward_kept(p, kind, flags, aux, body)
        finally:
            self.releasing = False
        return self.send_beliefs(p)

    cdef int send_beliefs(self, Process p) except -1:
        """Tell the host of a stub which incarnations are dead: what their processes had sent to it has been forwarded."""
        cdef uint64_t lo = p.pid.lo
        return self.hold(lo, HEARD, 0, 0, (<char *>&lo)[:8] + (<char *>self.believed)[:self.segment.endpoints * sizeof(uint32_t)])

    cdef int host_down(self, uint32_t e, uint32_t inc, object reason) except -1:
        """Endpoint `e`, which has run processes of ours, is dead: what had not begun there is ours again, the rest ends."""
        cdef Process p
        cdef Place place
        cdef uint64_t word
        cdef int slot
        if self.exports is not None:
            for slot in range(len(self.exported)):
                p = <Process>self.exported[slot]
                if p is not None and p.flags & EXPORTED:
                    word = self.exports.word(slot)
                    if stage_of(word) in (CLAIMED, BEGUN) and thief_of(word) == e and thief_incarnation_of(word) <= inc:
                        self.recall(p)
        if self.passing:
            for p in list(self.passing.values()):
                if p.extra.place.next_host == <int>e and p.extra.place.next_incarnation <= inc:
                    self.not_passed(p, NoProc(f"worker {e} has died", reason=NOPROC))
        some = self.away[e]
        if not some:
            return 0
        self.unpack_all(e)
        lost = []
        for p in list((<dict>some).values()):
            place = p.extra.place
            if place.incarnation > inc:
                continue
            if place.next_host >= 0:
                continue        # where it goes is known: that one tells whether it is there
            if place.leaving or place.slot >= 0 and stage_of(self.exports.word(place.slot)) != BEGUN:
                self.come_home(p)
                self.moved(p.pid.lo, NoProc(f"worker {e} has died", reason=reason))
            else:
                lost.append(p)
        if lost:
            self.end_lost(lost, e, inc, reason)
        return 0

    cdef int end_lost(self, list lost, uint32_t e, uint32_t inc, object reason) except -1:
        """Stubs whose processes have ended with their host `e`."""
        cdef Process p
        # Named by themselves: only the host knew.
        names = {}
        for name, hi, lo in self.names.registered():
            if hi == self.hi:
                names[lo] = name
        self.behind = make_hi(self.segment.nonce, e, inc)
        try:
            for p in lost:
                p.extra.name = names.get(p.pid.lo)
                held = p.extra.place.held
                _discard_mail(p)
                # What it had sent from the hosts before, and was not read yet, comes before its end too.
                for other_end, fence in (p.extra.place.fences or {}).items():
                    self.send_fence(other_end, fence)
                self.terminate(p, reason)
                self.relayed_end(p.pid.lo)
                for kind, flags, aux, body in held or ():
                    self.replay(kind, flags, aux, body)
        finally:
            self.behind = 0
        return 0

    cdef int send_fence(self, uint32_t e, tuple fence) except -1:
        """Have endpoint `e` read another's ring to it up to a position, before what we send next."""
        cdef pa_wrap wrapped
        if fence[2] != self.believed[e]:
            return 0
        wrapped.home = self.hi
        wrapped.fence = fence[0]
        wrapped.position = fence[1]
        wrapped.kind = 0
        wrapped.flags = 0
        wrapped.aux = 0
        wrapped.none = 0
        before = self.behind
        self.behind = 0
        try:
            return self.put(e, self.believed[e], FROM, 0, &wrapped, WRAP, None, False)
        finally:
            self.behind = before

    cdef int after_hosts(self, uint32_t e) except -1:
        """Before `e` hears that a process of ours is dead: what it has sent to `e` from a worker where it ran is read first."""
        cdef uint32_t host, incarnation
        cdef uint64_t tail
        cdef uint8_t *ring
        for host, incarnation in self.hosted.items():
            if host == e or not self.segment.reserve_header(host, e):
                continue
            ring = self.segment.ring_base(host, e)
            tail = ld64_acquire(ring + 128)
            if tail == ld64_acquire(ring + 256) or ld64_acquire(ring) >> 32 > incarnation:
                continue        # all is read, or it is another one's that has run nothing of ours
            incarnation = <uint32_t>(ld64_acquire(ring) >> 32)
            hi = make_hi(self.segment.nonce, host, incarnation)
            if e == self.endpoint:
                self.catch_up(hi, tail)
            else:
                self.send_fence(e, (hi, tail, self.believed[e]))
        return 0

    cdef int fire_gone(self, Process p, list believed) except -1:
        """End the links and monitors of `p` to endpoints that are dead, by our belief, or by its home's."""
        cdef Pid other
        cdef Ref ref
        cdef uint32_t e
        if p.extra is None:
            return 0
        for ref, other in list(p.extra.watchers.items()):
            if self.is_gone(other, believed):
                p.extra.watchers.pop(ref, None)
        for ref, other in list(p.extra.monitors.items()):
            if self.is_gone(other, believed):
                self.take_down(p, ref, other, WorkerDown(hi_endpoint(other.hi)))
        if p.extra is None:
            return 0
        for other in list(p.extra.links):
            if p.extra is not None and self.is_gone(other, believed):
                self.take_exit(p, other, WorkerDown(hi_endpoint(other.hi)), BY_LINK, 0xFFFFFFFFFFFFFFFFULL)
        return 0

    cdef bint is_gone(self, Pid other, list believed):
        cdef uint32_t e = hi_endpoint(other.hi)
        if believed is None:
            return self.gone(other)
        return hi_nonce(other.hi) != self.segment.nonce or e >= self.segment.endpoints or hi_incarnation(other.hi) < <uint32_t>believed[e]

    cdef bint gone_for(self, Process p, Pid other):
        """`gone`, as `p` may see it: what the processes of a dead endpoint have sent to it comes by its home."""
        if p is None or p.pid.hi == self.hi:
            return not self.nobody_gone and self.gone(other)
        believed = p.extra.place.believed
        if believed is None:
            return hi_nonce(other.hi) != self.segment.nonce or hi_endpoint(other.hi) >= self.segment.endpoints
        return other.hi != self.hi and self.is_gone(other, believed)

    cdef int signal_of_host(self, uint32_t e, Record *r, Holds holds) except -1:
        """What a host says of our processes, or a home of those that we run."""
        cdef pa_head head
        cdef Process p
        cdef Pid other
        cdef Link link
        cdef Ref ref
        cdef Move move
        cdef uint64_t since
        cdef int kind = r.kind
        memcpy(&head, r.body, 48 if r.size >= 48 else r.size)
        if kind == HEARD:
            p = self.find(head.a)       # it has come home
            return 0 if p is None else self.fire_gone(p, None)
        if kind == ARRIVE:
            # Unpacked between two turns: here somebody may be in the middle of an import. All that comes for it is held until we answer.
            if self.role == "relay":
                return self.turn_down(e, head.a)
            self.packages.append((kind, e, self.believed[e], kept(r, holds)))
            return 0
        if kind == RECALL or kind == DROP or kind == RESUME or kind == PAUSED:
            some = self.foreign[e]
            p = <Process>(<dict>some).get(head.a) if some else None
            if p is None:
                return 0            # it has ended, and said so
            if kind == RECALL:
                if p.kind != CALLBACK:
                    return self.tell_home(p, STAYS, 0, 0, 0, self.codec.encode(HAS_STACK))
                p.flags |= MOVING
                self.due_moves.append(p)
            elif kind == DROP:
                self.forget(p)
            elif kind == PAUSED:
                # Nothing comes for it any more.
                p.extra.place.paused = True
                p.flags |= MOVING
                self.due_moves.append(p)
            else:
                self.restore_timers(p)
                self.thaw(p)
                if self.leaving and not r.flags & ONCE_MORE:
                    self.stayers.add((p.pid.hi, p.pid.lo))
            return 0
        p = self.find(head.a)
        if p is None:
            return 0
        if kind == AWAY_WITH:
            # Its host leaves. Here is the best place for it, unless we leave, too.
            if p.flags & AWAY and p.extra.place.host == e and p.pid.lo not in self.moves:
                target = <int>self.endpoint if self.role == "worker" and not self.leaving else self.least_loaded(e)
                if target >= 0:
                    self.order_move(p, target, 0, 0)
            return 0
        if kind == STOLEN:
            if p.flags & EXPORTED:
                self.recall(p)
            if not p.flags & AWAY or p.extra.place.slot < 0:
                return 0
            return self.begun(p)
        if not p.flags & AWAY:
            return 0
        if p.extra.place.next_host == <int>e and (kind == ARRIVED or kind == REJECTED):
            if kind == ARRIVED:
                return self.passed(p)
            return self.not_passed(p, self.error_in(r))
        if p.extra.place.host != e:
            return 0
        if kind == LINKED_TO:
            other = new_pid(head.b, head.c)
            p.link_with(other).own = head.d
            self.tie(p, other)
        elif kind == UNLINKED_FROM:
            other = new_pid(head.b, head.c)
            link = <Link>p.extra.links.get(other)
            if link is not None and link.peer <= head.d:        # not linked anew by the other side
                del p.extra.links[other]
        elif kind == ENDED:
            # It has told all that it knew of. What it didn't know of is what we have forwarded since.
            self.ended(p, head.b)
        elif kind == ARRIVED:
            if p.extra.place.leaving:
                p.extra.place.leaving = False
                p.extra.place.timers = None
                _discard_mail(p)
                released = p.body
                p.body = p.context = None
                self.release_held(p)
                self.moved(head.a, None)
        elif kind == REJECTED:
            if p.extra.place.leaving:
                error = self.error_in(r)
                self.come_home(p)
                self.moved(head.a, error)
        elif kind == PAUSE:
            if p.extra.place.held is None:
                p.extra.place.held = []
                self.put(e, p.extra.place.incarnation, PAUSED, 0, &head.a, 8, None, False)
        elif kind == STAYS:
            error = self.error_in(r)
            if type(error) is str and error == HAS_STACK:
                move = <Move>self.moves.pop(head.a, None)
                if move is not None:
                    p.flags &= ~MOVING
                    for asker in move.askers:
                        self.answer_to(asker[0], asker[1], (False, holds_a_stack(p.pid)))
                return 0
            self.release_held(p)
            if type(error) is str and error == AGAIN:
                if head.a in self.moves:
                    p.flags |= MOVING
                    self.due_moves.append(p)
            else:
                self.moved(head.a, error)
        elif kind == PACKED:
            if self.role == "relay":
                self.pass_on(p, r, holds)
            else:
                self.packages.append((kind, e, self.believed[e], kept(r, holds)))
        return 0

    cdef object error_in(self, Record *r):
        """Why a process could not be packed or unpacked."""
        if self.role == "relay":
            # It unpickles nothing of the user's; a word of ours needs no pickle.
            said = self.codec.receive(r.body + 8, r.size - 8)
            if type(said) is str:
                return said
            return TypeError("expected a process that can be packed and unpacked, got one that can't: see the log of the worker where it runs")
        return self.reason_value(encoded(<bytes>r.body[8:r.size]))

    cdef int begun(self, Process p) except -1:
        """STOLEN has come: the thief runs `p`, which was ours. Its mail goes there."""
        cdef Place place = p.extra.place
        cdef Envelope envelope = p.first
        cdef uint64_t lo = p.pid.lo
        released = (p.body, p.args, p.kwargs)
        p.body = p.args = p.kwargs = p.resume = None
        self.exported[place.slot] = None
        self.exports.free(place.slot)
        place.slot = -1
        held = place.held
        place.held = None
        place.passed = 0
        if envelope is not None:
            mail = self.mail_records(p, held)
            _discard_mail(p)
            for kind, flags, aux, body in mail:
                self.forward_kept(p, kind, flags, aux, body)
        place.held = held
        self.release_held(p)
        self.show_count()
        return 0

    cdef list mail_records(self, Process p, list held):
        """What waits in the mailbox of `p`, as it would have come from elsewhere. What can't be pickled is a dead letter where `held` is given."""
        cdef Envelope envelope = p.first
        cdef uint64_t lo = p.pid.lo
        cdef Pid pid
        cdef Ref ref
        cdef bytes data
        found = []
        while envelope is not None:
            body = envelope.body
            envelope = envelope.next
            guarded = self.guard()
            try:
                if type(body) is Encoded:
                    found.append((MSG, 0, 0, kept_bytes((<char *>&lo)[:8] + (<Encoded>body).data, (<Encoded>body).holds)))
                elif is_closed(body) or type(body) is tuple and len(<tuple>body) == 3 and type((<tuple>body)[0]) is str and body[0] == CALL and (
                        type(body[1]) is tuple and len(<tuple>body[1]) == 2):
                    pid = body[1][0]
                    ref = body[1][1]
                    data = (<Encoded>body[2]).data if type(body[2]) is Encoded else self.codec.encode(body[2])
                    data = ((<char *>&lo)[:8] + (<char *>&pid.hi)[:8] + (<char *>&pid.lo)[:8] + (<char *>&ref.hi)[:8]
                            + (<char *>&ref.lo)[:8] + data)
                    found.append((MSG, IS_CALL | (IS_TAGGED if len(<tuple>body[1]) == 3 else 0), 0,
                                  kept_bytes(data, (<Encoded>body[2]).holds if type(body[2]) is Encoded else None)))
                else:
                    found.append((MSG, 0, 0, (<char *>&lo)[:8] + self.codec.encode(body)))
            except Exception as error:
                if held is None:
                    raise
                self.report("dead_letter", {"to": repr(p.pid), "error": error})
            finally:
                self.guarded = guarded
        return found

    cdef int ended(self, Process p, uint64_t passed) except -1:
        """The process of a stub has ended at its host, which has seen `passed` of our LINKs and MONITORs."""
        cdef Place place = p.extra.place
        cdef Pid other
        cdef Ref ref
        cdef Link link
        late = place.late
        held = place.held
        links = [(other, (<Link>link).peer) for other, link in p.extra.links.items() if late.get(other, 0) > passed]
        watchers = [(other, ref) for ref, other in p.extra.watchers.items() if late.get(ref, 0) > passed]
        self.forget(p)
        self.relayed_end(p.pid.lo)
        for other, seen in links:
            self.after_hosts(hi_endpoint(other.hi))
            self.exit_signal(other, p.pid, NOPROC, BY_LINK, seen)
        for other, ref in watchers:
            self.after_hosts(hi_endpoint(other.hi))
            self.send_down(other, ref, p.pid, NOPROC)
        for kind, flags, aux, body in held or ():
            self.replay(kind, flags, aux, body)
        return 0

    cdef int forget(self, Process p) except -1:
        """Take a process out of the tables without a word: it has ended elsewhere, or lives on elsewhere."""
        cdef Extra extra = p.extra
        if p.flags & AWAY:
            self.unmake_stub(p)
        if p.pid.hi == self.hi:
            self.table.pop(p.pid.lo, None)
            self.moved(p.pid.lo, NoProc(f"{p.pid} has ended", reason=NOPROC))
        else:
            self.remove_foreign(p)
        p.pid.process = None
        p.flags |= EXITING
        p.extra = None
        for e in (extra.tied or ()) if extra is not None else ():
            if self.ties[e] is not None:
                (<set>self.ties[e]).discard(p)
        if p.state != QUEUED:
            p.state = DEAD
        released = (p.body, p.args, p.kwargs, p.context)
        p.body = p.args = p.kwargs = p.context = None
        _discard_mail(p)
        self.show_count()
        return 0

    # -- at the host

    cdef int signal_from(self, uint32_t e, Record *r, Holds holds) except -1:
        """A record of a process that isn't at home, or was away: behind what it has sent from there; dropped if its home is dead."""
        cdef pa_wrap wrapped
        cdef Record inner
        memcpy(&wrapped, r.body, WRAP)
        if wrapped.fence:
            self.catch_up(wrapped.fence, wrapped.position)
        if not wrapped.kind:
            return 0            # that was all it had to say
        if hi_incarnation(wrapped.home) < self.believed[hi_endpoint(wrapped.home)] and wrapped.kind != SPAWN:
            return 0            # we have told all here that it is dead
        inner.kind = wrapped.kind
        inner.flags = wrapped.flags
        inner.aux = wrapped.aux
        inner.body = r.body + WRAP
        inner.size = r.size - WRAP
        self.holds = holds
        return self.signal(e, &inner)

    cdef int catch_up(self, uint64_t hi, uint64_t position) except -1:
        """Read the ring of the endpoint `hi` up to `position` before anything else. It lies in the past: all of it is there."""
        cdef uint32_t e = hi_endpoint(hi)
        # Of an endpoint that is dead, as far as we know, it was read when we heard of that. A ring that is being read has been read up to
        # here: what the fence waits for was sent before the record under way.
        if e == self.endpoint or hi_incarnation(hi) != self.believed[e] or self.reading[e]:
            return 0
        # What is read has nothing to do with who runs, or whose end is being told (see `poll`).
        running = self.current
        behalf = self.behalf
        behind = self.behind
        if self.tick is not None:
            self.current = None
        self.behalf = None
        self.behind = 0
        try:
            if position == ALL:
                while self.drain_one(e):
                    pass
            else:
                self.drain_one(e, position)
        finally:
            self.current = running
            self.behalf = behalf
            self.behind = behind
        return 0

    cdef int signal_forwarded(self, uint32_t e, Record *r, Holds holds) except -1:
        """A record for a process that runs here, from its home `e`."""
        cdef Record inner
        cdef Process p
        cdef uint64_t lo
        cdef uint32_t i, known
        cdef pa_head head
        inner.kind = r.body[0]
        inner.flags = r.body[1]
        memcpy(&inner.aux, r.body + 2, 2)
        inner.body = r.body + 8
        inner.size = r.size - 8
        memcpy(&lo, inner.body, 8)
        if inner.kind == ALIAS:
            if lo in self.aliases:
                self.take_alias(lo, self.received(inner.body + 8, inner.size - 8, holds))
            return 0
        some = self.foreign[e]
        if inner.kind == REQUEST:
            return self.answer_forwarded(<dict>some if some else {}, &inner)
        p = <Process>(<dict>some).get(lo) if some else None
        if p is None:
            return 0            # it has ended: its home knows, or will, and tells whoever waits
        if inner.kind == MSG:
            return self.deliver(p, self.body_of(&inner, holds))
        if inner.kind == HEARD:
            believed = []
            for i in range(self.segment.endpoints):
                memcpy(&known, inner.body + 8 + 4 * i, 4)
                believed.append(known)
            p.extra.place.believed = believed
            return self.fire_gone(p, believed)
        if inner.kind == LINK or inner.kind == MONITOR:
            p.extra.place.passed += 1
        return self.act_on(p, &inner, holds)

    cdef int answer_forwarded(self, dict some, Record *r) except -1:
        """A question about a process that runs here."""
        cdef pa_head head
        memcpy(&head, r.body, 32)
        guarded = self.guard()
        try:
            operation = self.codec.decode(r.body + 32, r.size - 32)
        finally:
            self.guarded = guarded
        p = some.get(operation[2] if operation[0] in ("register", "unregister") else operation[1])
        if p is None:
            # None of ours has such a number: so it is answered as one about the dead.
            operation = operation[:1] + ((operation[1], 0) if operation[0] in ("register", "unregister") else (0, *operation[2:]))
        self.perform_for(operation, head.a, head.b, p)
        return 0

    cdef int home_down(self, uint32_t e, uint32_t inc) except -1:
        """Endpoint `e` is dead, and all that had their home there: those that run here end without a word, all others know."""
        cdef Process p
        some = self.foreign[e]
        if some:
            for p in list((<dict>some).values()):
                if hi_incarnation(p.pid.hi) <= inc:
                    self.end_silently(p)
        return 0

    cdef int end_silently(self, Process p) except -1:
        cdef Extra extra = p.extra
        cdef Ref ref
        cdef Process caller
        if p.flags & EXITING:
            return 0
        for ref in list(extra.aliases or ()):
            self.aliases.pop(ref.lo, None)
        if extra.name is not None:
            self.names.free(extra.name, p.pid.hi, p.pid.lo)
        if not (p.state == RUNNING or p.carrier is not None or (p.kind == ASYNC and p.body is not None) or p.tasks is not None):
            while p.callers is not None:
                caller = p.callers
                self.leave(caller)
            return self.forget(p)
        self.remove_foreign(p)
        p.pid.process = None
        p.extra = None
        p.flags |= EXITING
        self.disarm(p)
        self.leave(p)
        self.exiting += 1
        p.pending = ProcessKilled(KILLED)
        if p.state == BLOCKED or p.state == IDLE:
            self.enqueue(p)
        _discard_mail(p)
        return 0

    cdef Process add_foreign(self, uint64_t hi, uint64_t lo, int kind, int flags):
        cdef Process p = Process.__new__(Process)
        cdef uint32_t e = hi_endpoint(hi)
        p.scheduler = self
        p.pid = new_pid(hi, lo)
        p.pid.process = p
        p.kind = <uint8_t>kind
        p.flags = flags | CARRIED
        p.lineage = ()
        p.more().place = Place()
        if self.foreign[e] is None:
            self.foreign[e] = {}
        self.foreign[e][lo] = p
        self.foreign_count += 1
        return p

    cdef int remove_foreign(self, Process p) except -1:
        some = self.foreign[hi_endpoint(p.pid.hi)]
        if some and (<dict>some).pop(p.pid.lo, None) is not None:
            self.foreign_count -= 1
        return 0

    cdef int tell_home(self, Process p, int kind, uint64_t b, uint64_t c, uint64_t d, bytes payload=None, Holds holds=None) except -1:
        cdef pa_head head
        head.a = p.pid.lo
        head.b = b
        head.c = c
        head.d = d
        return self.put(hi_endpoint(p.pid.hi), hi_incarnation(p.pid.hi), kind, 0, &head, 8 if payload is not None else 32, payload, False, 0, holds)

    cdef Process steal(self):
        """Work that hasn't begun, from another worker; None: there is none."""
        cdef uint32_t i, e, n = self.segment.workers
        cdef Loot loot
        cdef Process p
        cdef int64_t before = 0
        for i in range(1, n):
            e = (self.endpoint + i) % n
            if not any_ready(self.segment, e) or self.outboxes[e] is not None and self.outbox(e).queued_count:
                continue
            if before == 0:
                before = pa_now()
                if self.stolen_at:
                    # What was stolen last is over, or waits: was it worth it?
                    if before - self.stolen_at >= WORTH_NS:
                        self.steal_age = STEAL_AGE_NS
                    elif self.steal_age < MOST_AGE_NS:
                        self.steal_age *= 2
                    self.stolen_at = 0
                before -= self.steal_age
            loot.word = 0
            try:
                data = claim(self.segment, e, self.endpoint, self.incarnation, before, &loot)
                if data is None:
                    continue
                p = self.take_loot(data, &loot)
            except Exception as error:
                if loot.word:
                    give_back(self.segment, &loot)
                self.report("dead_letter", {"to": f"worker {e}, work to steal", "error": error})
                continue
            if p is not None:
                self.steals += 1
                self.stolen_at = pa_now()
                return p
        return None

    cdef Process take_loot(self, bytes data, Loot *loot):
        """A process of what was claimed; None: its owner is dead."""
        cdef pa_spec spec
        cdef const char *at = data
        cdef Process p
        cdef Link link
        cdef Pid other
        cdef Ref ref
        cdef size_t end = sizeof(pa_spec)
        memcpy(&spec, at, sizeof(pa_spec))
        if hi_nonce(spec.hi) != self.segment.nonce or hi_endpoint(spec.hi) != loot.owner or hi_incarnation(spec.hi) < self.believed[loot.owner]:
            return None
        body = data[end:end + spec.body]
        end += spec.body
        args = kwargs = None
        if spec.args != NOT_GIVEN:
            args = encoded(data[end:end + spec.args])
            end += spec.args
        if spec.kwargs != NOT_GIVEN:
            kwargs = encoded(data[end:end + spec.kwargs])
            end += spec.kwargs
        name, label, lineage, link_counter, links, watchers = self.codec.decode(<const uint8_t *>at + end, spec.control)
        if not begin(self.segment, loot):
            return None
        self.link_counter = max(self.link_counter, <uint64_t>link_counter)
        p = self.add_foreign(spec.hi, spec.lo, STACK, spec.flags)
        p.priority = <uint8_t>spec.priority
        p.body = encoded(body)
        p.args = args
        p.kwargs = kwargs
        p.lineage = lineage
        p.extra.name = name
        p.extra.label = label
        for other, own, peer in links:
            link = Link()
            link.own = own
            link.peer = peer
            p.put_link(other, link)
        for ref, other in watchers:
            p.put_watcher(ref, other)
        self.tell_home(p, STOLEN, 0, 0, 0)
        self.show_count()
        if self.outbox(loot.owner).queued_count:
            # It must not run before its home can know.
            p.flags |= FROZEN
            self.arriving.append(p)
            return None
        return p

    cdef int64_t nap(self) except -1:
        """How long an idle worker sleeps: who sits in a native call wakes nobody. 0: there is something to steal, in a moment."""
        cdef uint32_t e
        cdef bint busy = False
        for e in range(self.segment.workers):
            if e == self.endpoint or self.segment.state(e) != SLOT_LIVE:
                continue
            if any_ready(self.segment, e):
                return 0
            if not ld32_relaxed(self.segment.slot_at(e) + 128):
                busy = True
        return NAP_NS if busy else PARK_NS

    # -- moving

    cdef int order_move(self, Process p, int target, uint64_t hi, uint64_t lo) except -1:
        """Move `p`, one of ours, to a worker. What asks, by a reference, is answered when it is there, or can't be."""
        cdef Move move
        if p is None:
            self.answer_to(hi, lo, (False, NoProc("expected a live process to move, got one that is dead", reason=NOPROC)))
            return 0
        if p.flags & EXPORTED:
            self.recall(p)
        where = p.extra.place.host if p.flags & AWAY else self.endpoint
        if target == where and p.pid.lo not in self.moves:
            return self.answer_to(hi, lo, (True, True))
        if p.flags & LIMITED:
            return self.answer_to(hi, lo, (False, ValueError(f"expected a process whose mailbox has no limit to move, got {p.pid}")))
        if p.kind != CALLBACK and not p.flags & AWAY or p.flags & SYSTEM:     # what it has become elsewhere is its host's to know
            return self.answer_to(hi, lo, (False, holds_a_stack(p.pid)))
        move = <Move>self.moves.get(p.pid.lo)
        if target != <int>self.endpoint and self.segment.is_leaving(target):
            return self.answer_to(hi, lo, (False, ValueError(f"expected a worker that stays, got {target}, which is leaving")))
        if move is None:
            move = Move()
            move.askers = []
            self.moves[p.pid.lo] = move
        move.target = target
        if hi or lo:
            move.askers.append((hi, lo))
        p.flags |= MOVING
        self.due_moves.append(p)
        return 0

    cdef int shed(self, int taker, int64_t share) except -1:
        """Move those that compute most, together up to `share` thousandths of a core, to the worker `taker`; for the sake of balance."""
        cdef Process p
        cdef int64_t all, part, now = pa_now(), rest = <int64_t>SHED_REST * 1_000_000_000
        cdef int left = SHED_MOST
        cdef pa_head head
        self.age_profile(now)
        all = sum(self.profile.values())
        for p, ticks in sorted(self.profile.items(), key=_second, reverse=True):
            part = ticks * 1000 // all
            if part > share or part < SHED_LEAST or not runs_here(p) or p.kind != CALLBACK or p.flags & (SYSTEM | KEEPS | LIMITED | MOVING | STAYED) or (
                    p.tasks is not None and p.tasks.busy()):
                continue
            if now - <int64_t>self.shed_at.get(p.pid, now - rest) < rest:
                continue
            self.shed_at[p.pid] = now
            share -= part
            left -= 1
            if p.pid.hi == self.hi:
                self.order_move(p, taker, 0, 0)
            else:
                # Its home gives the order.
                head.a = head.b = 0
                head.c = p.pid.hi
                head.d = p.pid.lo
                self.put(hi_endpoint(p.pid.hi), hi_incarnation(p.pid.hi), REQUEST, 0, &head, 32,
                         self.codec.encode(("migrate", p.pid.lo, taker)), False)
            if not left:
                break
        for pid, then in list(self.shed_at.items()):
            if now - <int64_t>then >= rest:
                del self.shed_at[pid]
        return 0

    cdef int moved(self, uint64_t lo, object error) except -1:
        """A move of ours has come to its end, or to one of its steps."""
        cdef Process p
        cdef Move move = <Move>self.moves.get(lo)
        if move is None:
            return 0
        p = self.find(lo)
        if error is None and p is not None:
            where = p.extra.place.host if p.flags & AWAY else self.endpoint
            if where != <uint32_t>move.target:
                p.flags |= MOVING
                self.due_moves.append(p)
                return 0
        del self.moves[lo]
        if p is not None:
            p.flags &= ~MOVING
        if error is not None and p is not None:
            p.flags |= STAYED
        if error is not None and not isinstance(error, NoProc):
            if self.leaving:
                self.stayers.add((self.hi, lo))
            self.report("stays", {"pid": new_pid(self.hi, lo), "error": error})
        for asker in move.askers:
            self.answer_to(asker[0], asker[1], (True, True) if error is None else (False, error))
        return 0

    cdef bint between_messages(self, Process p) noexcept:
        return p.kind == CALLBACK and p.carrier is None and (p.state == IDLE or p.state == QUEUED)

    cdef int make_moves(self) except -1:
        """Carry out what moves are due; those that can't be yet are tried again."""
        cdef Process p
        cdef list due
        self.unpack_all(-1)
        due = self.due_moves
        self.due_moves = []
        for p in due:
            if p.flags & MOVING and not p.flags & EXITING and not self.try_move(p) and p not in self.due_moves:
                self.due_moves.append(p)
        return 0

    cdef int unpack_all(self, int64_t only) except -1:
        """Unpack what has come (from one endpoint; -1: from all). User code runs: not in a tick, where another process may import, or hold a lock."""
        cdef Record r
        cdef Process p
        cdef uint64_t lo
        cdef Holds holds
        packages = self.packages
        self.packages = []
        for kind, e, inc, body in packages:
            if only >= 0 and e != only:
                self.packages.append((kind, e, inc, body))
                continue
            if inc != self.believed[e] and (only < 0 or kind == ARRIVE):
                continue            # of a home that is dead; what hosts had packed was unpacked when we heard of their end
            holds = None
            if type(body) is Encoded:
                holds = (<Encoded>body).holds
                body = (<Encoded>body).data
            r.kind = kind
            r.body = <const uint8_t *><const char *><bytes>body
            r.size = len(<bytes>body)
            if kind == ARRIVE:
                self.arrive(e, &r, holds)
                continue
            memcpy(&lo, r.body, 8)
            p = self.find(lo)
            if p is not None and p.flags & AWAY and p.extra.place.host == e and p.extra.place.held is not None and not p.extra.place.leaving:
                self.unpack_home(p, &r, holds)
        return 0

    cdef bint try_move(self, Process p) except -1:
        """The next step of a move. False: it has to wait."""
        cdef Move move
        cdef Place place
        cdef Encoded user
        cdef uint64_t lo = p.pid.lo
        if p.pid.hi == self.hi:
            move = <Move>self.moves.get(lo)
            if move is None:
                p.flags &= ~MOVING
                return True
            if p.flags & AWAY:
                place = p.extra.place
                if place.held is not None:
                    return True             # under way: its end looks at the target again
                if place.host == <uint32_t>move.target:
                    self.moved(lo, None)
                    return True
                self.put(place.host, place.incarnation, RECALL, 0, &lo, 8, None, False)
                return True
            if move.target == self.endpoint:
                self.moved(lo, None)
                return True
            if self.segment.state(move.target) != SLOT_LIVE or self.stopping:
                self.moved(lo, NoProc(f"worker {move.target} isn't there (any more)", reason=NOPROC))
                return True
        if not self.between_messages(p):
            return True             # it comes again by itself, when its message is handled
        if p.pid.hi != self.hi and p.flags & FROZEN:
            if not p.extra.place.paused:
                return False            # for the word of its home, or until its arrival is published
            if self.backlog or p.extra.aliases:
                # Its home holds what comes for it: not for long. Once more from the beginning.
                self.thaw(p)
                self.tell_home(p, STAYS, 0, 0, 0, self.codec.encode(AGAIN))
                p.flags &= ~MOVING
                return True
        elif self.backlog or p.extra is not None and p.extra.aliases:
            return False
        elif p.pid.hi != self.hi:
            p.flags |= FROZEN
            p.flags &= ~MOVING
            self.tell_home(p, PAUSE, 0, 0, 0)
            return True
        try:
            user = self.pack_user(p)
        except Exception as error:
            p.flags &= ~MOVING
            if p.pid.hi == self.hi:
                self.moved(lo, error)
            else:
                if self.leaving:
                    self.stayers.add((p.pid.hi, p.pid.lo))
                self.thaw(p)
                self.tell_home(p, STAYS, 0, 0, 0, self.encoded_error(error))
            return True
        # User code has run, and may have sent something, or ended it.
        if p.flags & EXITING:
            return True
        if self.backlog:
            return False                # it looks again at what is above
        data = self.pack(p) + user.data
        p.flags &= ~MOVING
        if p.pid.hi == self.hi:
            self.make_stub(p, move.target, self.segment.incarnation(move.target))
            p.extra.place.leaving = True
            self.put(p.extra.place.host, p.extra.place.incarnation, ARRIVE, 0, &lo, 8, data, False, 0, user.holds)
        else:
            self.tell_home(p, PACKED, 0, 0, 0, data, user.holds)
        self.show_count()
        return True

    # -- a worker that leaves

    cdef bint nobody_here(self) noexcept:
        return (self.process_count == self.away_count and self.foreign_count == 0 and self.exiting == 0 and not self.packages
                and (self.tables == 0 or self.hastened))

    cdef int least_loaded(self, int not_this) noexcept:
        """The worker with the fewest processes among those that stay; -1: there is none."""
        cdef uint32_t e, load, least = 0
        cdef int best = -1
        for e in range(self.segment.workers):
            if e == self.endpoint or <int>e == not_this or self.segment.state(e) != SLOT_LIVE or self.segment.is_leaving(e):
                continue
            load = ld32_relaxed(self.segment.slot_at(e) + 256)
            if load < 0xFFFFFFFF:
                load += self.coming_to(e)
            if best < 0 or load < least:
                best = <int>e
                least = load
        return best

    cdef uint32_t coming_to(self, uint32_t e) noexcept:
        """Of our processes: how many are on their way there."""
        cdef uint32_t n = 0
        for move in self.moves.values():
            n += (<Move>move).target == <int>e
        return n

    cdef int send_away(self) except -1:
        """Have the processes that run here go on elsewhere: ours by an order to move, the others by asking their homes. Some at a time.

        Only who can move now: one that is in the middle of a message, or has an alias, has its turn at a later look.
        """
        cdef Process p
        cdef int64_t now
        cdef int target
        if not self.leavers:
            if self.nobody_here():
                return 0
            now = pa_now()
            if now < self.leavers_at:
                return 0
            self.leavers_at = now + LEAVE_NS
            self.leavers = [p for p in self.table.values() if not p.flags & AWAY]
            for some in self.foreign:
                if some:
                    self.leavers.extend((<dict>some).values())
        while self.leavers and len(self.moves) < LEAVERS:
            p = <Process>self.leavers.pop()
            if (p.flags & (SYSTEM | AWAY | LIMITED | EXITING | MOVING | FROZEN) or not self.between_messages(p)
                    or p.extra is not None and p.extra.aliases or (p.pid.hi, p.pid.lo) in self.stayers):
                continue
            if p.pid.hi == self.hi:
                target = self.least_loaded(-1)
                if target < 0:
                    self.leavers.clear()
                    return 0
                self.order_move(p, target, 0, 0)
            else:
                now = pa_now()
                if self.asked_away.get(p.pid, 0) <= now:
                    self.asked_away[p.pid] = now + ASK_NS
                    self.tell_home(p, AWAY_WITH, 0, 0, 0)
        return 0

    def interrupt(self):
        """Have a process that computes give way for a moment: the loop has something to do between two turns."""
        if self.interrupter is None:
            self.interrupter = <Process>(<Pid>self.add_callback_process(_nothing_to_do, True)).process
        self.deliver(self.interrupter, None)

    cdef bytes post_office(self):
        """What has to go on where nobody runs any more: stubs, and all that is known of others; None: this isn't a quiet moment.

        Plain numbers, so that whoever takes over needs nothing of the user's.
        """
        cdef Process p
        cdef Place place
        cdef Inbox box
        cdef Timer timer
        cdef Link link
        cdef FullMailbox full
        cdef uint32_t e, n = self.segment.endpoints
        if self.backlog:
            self.flush()
        if (self.backlog or self.arriving or self.late_ends or self.owing or self.flow_waiting or self.due_moves or self.moves or self.packages or self.exports.used
                or self.segment.any_dirty(self.endpoint)):
            return None
        for p in self.table.values():
            if p.flags & AWAY and (p.extra.place.held is not None or p.extra.place.slot >= 0):
                return None
        for held in self.unborn.values():
            for record in held:
                if type(record[3]) is Encoded:
                    return None         # it mentions blocks that this OS process holds
        inboxes = []
        for e in range(n):
            if self.inboxes[e] is not None:
                box = <Inbox>self.inboxes[e]
                if not box.at_rest():
                    return None
                inboxes.append(e)
        stubs = []
        for p in self.table.values():
            if not p.flags & AWAY:
                continue
            place = p.extra.place
            stubs.append((
                p.pid.lo, p.kind, p.flags & (MOVES_ALONG | CARRIED), p.priority, [_plain(pid) for pid in p.lineage], p.extra.name,
                [(*_plain(pid), (<Link>link).own, (<Link>link).peer) for pid, link in p.extra.links.items()],
                [(*_plain(ref), *_plain(pid)) for ref, pid in p.extra.watchers.items()],
                [(*_plain(ref), *_plain(pid)) for ref, pid in p.extra.monitors.items()],
                place.host, place.incarnation, place.passed,
                [(*_plain(which), type(which) is Ref, number) for which, number in place.late.items()],
                [(e, *fence) for e, fence in (place.fences or {}).items()]))
        timers = []
        moved = []
        for timer in self.timers.heap:
            if timer.wakes:
                continue
            if timer.message is None:
                pid = self.moved_timers.get((timer.hi, timer.lo))
                if pid is not None:
                    moved.append((timer.hi, timer.lo, timer.deadline, *_plain(pid)))
            elif (timer.hi, timer.lo) in self.ref_timers:
                target = timer.target
                timers.append((timer.hi, timer.lo, timer.deadline, timer.period, target if type(target) is str else _plain(target),
                               type(target) is Ref, timer.message))
        return marshal.dumps((
            self.ref_counter, self.link_counter, (<char *>self.believed)[:4 * n], (<char *>self.spawned)[:8 * n],
            (<char *>self.spawned_before)[:8 * n], (<char *>self.seen)[:8 * n], inboxes, stubs, self.unborn, self.relayed, self.hosted,
            [(*_plain(pid), full.policy, full.refused) for pid, full in self.full.items()], timers, moved))

    def take_over(self, bytes state, Scheduler root=None):
        """Go on where `post_office` was made, as the same endpoint. root: whose timers ours are, where we are a relay."""
        cdef Process p
        cdef Place place
        cdef Link link
        cdef FullMailbox full
        cdef uint32_t n = self.segment.endpoints
        (self.ref_counter, self.link_counter, believed, spawned, before, seen, inboxes, stubs, unborn, self.relayed, hosted, fulls, timers,
         moved) = marshal.loads(state)
        memcpy(self.believed, <const char *><bytes>believed, 4 * n)
        memcpy(self.spawned, <const char *><bytes>spawned, 8 * n)
        memcpy(self.spawned_before, <const char *><bytes>before, 8 * n)
        memcpy(self.seen, <const char *><bytes>seen, 8 * n)
        for (lo, kind, flags, priority, lineage, name, links, watchers, monitors, host, incarnation, passed, late, fences) in stubs:
            p = self.new_process(lo, kind)
            p.flags = flags
            p.priority = priority
            p.lineage = tuple([new_pid(a, b) for a, b in lineage])
            p.more().name = name
            for hi, number, own, peer in links:
                link = Link()
                link.own = own
                link.peer = peer
                pid = new_pid(hi, number)
                p.put_link(pid, link)
                self.tie(p, pid)
            for ref_hi, ref_lo, hi, number in watchers:
                pid = new_pid(hi, number)
                p.put_watcher(new_ref(ref_hi, ref_lo), pid)
                self.tie(p, pid)
            for ref_hi, ref_lo, hi, number in monitors:
                p.put_monitor(new_ref(ref_hi, ref_lo), new_pid(hi, number))
            self.make_stub(p, host, incarnation)
            place = p.extra.place
            place.held = None
            place.passed = passed
            place.late = {new_ref(hi, number) if is_ref else new_pid(hi, number): count for hi, number, is_ref, count in late}
            place.fences = {e: (hi, position, inc) for e, hi, position, inc in fences} or None
        self.unborn = unborn
        self.hosted = hosted
        for hi, number, policy, refused in fulls:
            full = FullMailbox()
            full.policy = policy
            full.held = []
            full.refused = refused
            self.full[new_pid(hi, number)] = full
        if root is not None:
            self.timers = root.timers
            self.ref_timers = root.ref_timers
            self.moved_timers = root.moved_timers
            self.kept_timers = {(hi, number) for hi, number, _, _, _, _, _ in timers}
        for hi, number, due, period, dest, is_ref, message in timers:
            if type(dest) is not str:
                dest = new_ref(dest[0], dest[1]) if is_ref else new_pid(dest[0], dest[1])
            (self if root is None else root).start_timer(hi, number, due, period, dest, message)
        for hi, number, due, pid_hi, pid_lo in moved:
            self.leave_timer(hi, number, due, new_pid(pid_hi, pid_lo))
        for e in inboxes:
            self.come_again(e)
        self.show_count()

    @property
    def posts(self):
        """How many processes of ours run elsewhere, and timers of theirs and others that may be cancelled, and what else keeps a relay from its end."""
        if not self.table and self.kept_timers:
            self.kept_timers = {which for which in self.kept_timers if which in self.ref_timers}
        return len(self.table) + len(self.relayed) + len(self.unborn) + len(self.kept_timers) + self.backlog + self.again_count

    # A relay unpacks nothing: what one host has packed goes to the next one as it is.

    cdef int pass_on(self, Process p, Record *r, Holds holds) except -1:
        cdef Place place = p.extra.place
        cdef Move move = <Move>self.moves.get(p.pid.lo)
        cdef uint64_t lo = p.pid.lo
        cdef int target = -1 if move is None else move.target
        if target < 0 or self.segment.state(target) != SLOT_LIVE or self.segment.is_leaving(target) or self.stopping:
            return self.not_passed(p, NoProc(f"worker {target} isn't there (any more)", reason=NOPROC))
        if <uint32_t>target == place.host:
            return self.not_passed(p, None)         # the order was changed: it is there
        place.next_host = target
        place.next_incarnation = self.segment.incarnation(target)
        self.passing[lo] = p
        return self.put(place.next_host, place.next_incarnation, ARRIVE, 0, &lo, 8, <bytes>r.body[8:r.size], False, 0, holds)

    cdef int turn_down(self, uint32_t e, uint64_t lo) except -1:
        """A process of `e` was sent to a worker that has left."""
        error = self.encoded_error(NoProc(f"worker {self.endpoint} has left", reason=NOPROC))
        return self.put(e, self.believed[e], REJECTED, 0, &lo, 8, error, False)

    cdef int passed(self, Process p) except -1:
        """It runs where it was sent on to."""
        cdef Place place = p.extra.place
        cdef uint64_t lo = p.pid.lo
        held = place.held
        self.put(place.host, place.incarnation, DROP, 0, &lo, 8, None, False)
        self.passing.pop(lo, None)
        self.unmake_stub(p)
        self.make_stub(p, place.next_host, place.next_incarnation)
        place.next_host = -1
        place.held = held
        self.release_held(p)
        return self.moved(lo, None)

    cdef int not_passed(self, Process p, object error) except -1:
        """It stays where it was, if that host lives."""
        cdef Place place = p.extra.place
        cdef uint64_t lo = p.pid.lo
        self.passing.pop(lo, None)
        place.next_host = -1
        if place.incarnation < self.believed[place.host]:
            return self.end_lost([p], place.host, place.incarnation, WorkerDown(place.host))
        self.put(place.host, place.incarnation, RESUME, ONCE_MORE if error is None or isinstance(error, NoProc) else 0, &lo, 8, None, False)
        self.release_held(p)
        return self.moved(lo, error)

    cdef int thaw(self, Process p) except -1:
        p.flags &= ~FROZEN
        p.extra.place.paused = False
        if p.state == IDLE and (p.first is not None or p.kind != CALLBACK):
            self.enqueue(p)
        return 0

    cdef bytes encoded_error(self, object error):
        try:
            return self.codec.encode(error)
        except Exception:
            return self.codec.encode(TypeError(f"{type(error).__name__}: {error}"))

    cdef Encoded pack_user(self, Process p):
        """The user's part of what another worker needs to run `p`, with the blocks that its mail mentions. Raises what its pickling raises."""
        cdef Extra extra = p.more()
        cdef Holds holds = None
        cdef uint32_t i
        if extra.fds is not None and extra.fds or p.tasks is not None and p.tasks.busy():
            raise ValueError(f"expected a process with nothing open, got {p.pid}: its asyncio tasks, or descriptors that it monitors, stay on their worker")
        if p.tasks is not None:
            p.tasks.end()           # nobody uses its loop
        mail = []
        for kind, flags, aux, body in self.mail_records(p, None):
            if type(body) is Encoded:
                if holds is None:
                    holds = Holds()
                holds.add_all((<Encoded>body).holds)
                body = (<Encoded>body).data
            mail.append((kind, flags, aux, body))
        guarded = self.guard()
        running = self.current
        self.current = None
        try:
            return <Encoded>kept_always(self.codec.encode((p.body, extra.dictionary, extra.label, mail)), holds)
        finally:
            self.current = running
            self.guarded = guarded

    cdef bytes pack(self, Process p):
        """The rest of it: of simple types, so no user code runs. From here on `p` doesn't run here, until it is known that it stays."""
        cdef Extra extra = p.more()
        cdef Link link
        cdef Process caller
        cdef Timer timer
        cdef Outbox box
        cdef Ref ref
        # Callers of this worker wait as others do.
        while p.callers is not None:
            caller = p.callers
            self.leave(caller)
            ref = new_ref(caller.pid.hi, caller.awaited)
            p.put_watcher(ref, caller.pid)
            self.calls[caller.awaited] = (caller, hi_endpoint(p.pid.hi), hi_incarnation(p.pid.hi))
        timers = []
        for timer in list(self.ref_timers.values()):
            if type(timer.target) is Pid and timer.target == p.pid:
                timers.append((timer.hi, timer.lo, timer.deadline, timer.period, timer.message))
                self.timer_left(timer.hi, timer.lo, True)
                self.leave_timer(timer.hi, timer.lo, timer.deadline, p.pid)
        fences = {}
        if extra.place is not None and extra.place.fences is not None:
            fences.update(extra.place.fences)
        former = fences
        fences = {}
        for e, item in enumerate(self.outboxes):
            if item is not None:
                box = <Outbox>item
                if e in former:
                    fences[e] = former[e]       # it has sent nothing there from here
                elif box.tail:
                    fences[e] = (self.hi, box.tail, box.peer_incarnation)
        for e, fence in former.items():
            fences.setdefault(e, fence)
        if extra.place is None:
            extra.place = Place()
        extra.place.fences = fences or None
        extra.place.timers = timers
        # What it knows of deaths is its home's knowledge, also where a relay passes it on.
        believed = (<char *>self.believed)[:self.segment.endpoints * sizeof(uint32_t)]
        if p.pid.hi != self.hi:
            known = extra.place.believed or [0] * self.segment.endpoints
            believed = struct.pack(f"={len(known)}I", *known)
        control = self.codec.encode((
            p.flags & MOVES_ALONG, p.priority, p.lineage, extra.name, self.link_counter,
            [(pid, (<Link>link).own, (<Link>link).peer) for pid, link in extra.links.items()], list(extra.watchers.items()),
            list(extra.monitors.items()), list(fences.items()), timers, believed))
        return len(control).to_bytes(8, "little") + control

    def leave_timer(self, uint64_t hi, uint64_t lo, int64_t due, Pid pid):
        """Remember, until it is due, with whom a timer has moved: for who cancels it."""
        cdef Timer timer = Timer()
        timer.deadline = due
        timer.hi = hi
        timer.lo = lo
        timer.message = None
        self.moved_timers[(hi, lo)] = pid
        self.timers.add(timer)

    cdef list unpack(self, Process p, bytes data):
        """Make of `p` what was packed, and return its mail. Raises, and has done nothing, where the user's part can't be unpickled."""
        cdef uint64_t length
        cdef Link link
        cdef Extra extra = p.more()
        cdef Place place
        cdef Pid other
        cdef Ref ref
        cdef const char *at = data
        memcpy(&length, at, 8)
        flags, priority, lineage, name, link_counter, links, watchers, monitors, fences, timers, believed = self.codec.decode(
            <const uint8_t *>at + 8, <size_t>length)
        guarded = self.guard()
        running = self.current
        self.current = None
        try:
            body, dictionary, label, mail = self.codec.decode(<const uint8_t *>at + 8 + length, len(data) - 8 - <size_t>length)
        finally:
            self.current = running
            self.guarded = guarded
        p.body = body
        self.link_counter = max(self.link_counter, <uint64_t>link_counter)     # the ids of its links must go on growing
        p.flags = p.flags & ~MOVES_ALONG | flags
        p.priority = priority
        p.lineage = lineage
        extra.name = name
        extra.label = label
        extra.dictionary = dictionary
        extra.links = extra.watchers = extra.monitors = NONE
        for other, own, peer in links:
            link = Link()
            link.own = own
            link.peer = peer
            p.put_link(other, link)
            self.tie(p, other)
        for ref, other in watchers:
            p.put_watcher(ref, other)
            self.tie(p, other)
        for ref, other in monitors:
            p.put_monitor(ref, other)
            self.tie(p, other)
        place = extra.place
        if place is None:
            place = extra.place = Place()
        place.fences = dict(fences) or None
        own_fence = place.fences.pop(self.endpoint, None) if place.fences is not None else None
        if place.fences:
            p.flags |= CARRIED
        else:
            place.fences = None
        if own_fence is not None and own_fence[2] == self.incarnation:
            self.catch_up(own_fence[0], own_fence[1])
        place.timers = timers
        self.restore_timers(p)
        place.believed = [known for (known,) in struct.iter_unpack("=I", believed)]
        return mail

    cdef int arrive(self, uint32_t e, Record *r, Holds holds) except -1:
        """A process of the home `e` is to run here from now on."""
        cdef Process p
        cdef uint64_t lo
        cdef uint32_t i, known
        cdef uint64_t hi = make_hi(self.segment.nonce, e, self.believed[e])
        cdef bytes data = <bytes>r.body[8:r.size]
        memcpy(&lo, r.body, 8)
        p = self.add_foreign(hi, lo, CALLBACK, 0)
        try:
            mail = self.unpack(p, data)
        except Exception as error:
            self.tell_home(p, REJECTED, 0, 0, 0, self.encoded_error(error))
            self.remove_foreign(p)
            p.pid.process = None
            p.state = DEAD
            return 0
        self.tell_home(p, ARRIVED, 0, 0, 0)
        self.shed_at[p.pid] = pa_now()
        self.show_count()
        if self.outbox(e).queued_count:
            # It must not run before its home can know: if we die, it goes on there with the same mail.
            p.flags |= FROZEN
            self.arriving.append(p)
        return self.take_mail(p, mail, holds)

    def begin_arrived(self):
        """Those whose homes can read by now that they are here."""
        cdef Process p
        waiting = self.arriving
        self.arriving = []
        for p in waiting:
            if p.flags & EXITING:
                continue
            if self.outbox(hi_endpoint(p.pid.hi)).queued_count:
                self.arriving.append(p)
            else:
                self.thaw(p)

    def tell_ended(self, uint64_t hi, uint64_t lo, uint64_t passed):
        """ENDED, but not before what it has sent can be read: its home may have to tell that it is dead, too."""
        cdef pa_head head
        if self.backlog:
            self.late_ends.append((hi, lo, passed))
            return
        head.a = lo
        head.b = passed
        self.put(hi_endpoint(hi), hi_incarnation(hi), ENDED, 0, &head, 32, None, False)

    cdef int take_mail(self, Process p, list mail, Holds holds) except -1:
        """The messages that were packed with `p`."""
        cdef Record r
        for kind, flags, aux, record in mail:
            r.kind = kind
            r.flags = flags
            r.aux = aux
            r.body = <const uint8_t *><const char *><bytes>record
            r.size = len(<bytes>record)
            self.deliver(p, self.body_of(&r, holds))
        return 0

    cdef int unpack_home(self, Process p, Record *r, Holds holds) except -1:
        """One of ours comes home."""
        cdef uint64_t lo = p.pid.lo
        cdef uint32_t host = p.extra.place.host, inc = p.extra.place.incarnation
        cdef bytes data = <bytes>r.body[8:r.size]
        try:
            mail = self.unpack(p, data)
        except Exception as error:
            self.put(host, inc, RESUME, 0, &lo, 8, None, False)
            self.release_held(p)
            return self.moved(lo, error)
        self.put(host, inc, DROP, 0, &lo, 8, None, False)
        p.kind = CALLBACK
        p.state = QUEUED if p.state == QUEUED else IDLE
        held = p.extra.place.held
        p.extra.place.held = None
        # `deliver` would put it into the run queue before it is itself again: come_home() does.
        state = p.state
        p.state = RUNNING
        self.take_mail(p, mail, holds)
        p.state = state
        p.extra.place.held = held
        self.come_home(p)
        return self.moved(lo, None)

    # ------------------------------------------------------------------ stop, reports

    def announce_down(self, uint32_t e, uint32_t inc, int cause):
        """Root: tell every live endpoint that `(e, inc)` is dead. cause: -signal, an exit code, CAUSE_LEFT or CAUSE_UNKNOWN.

        Raises SegmentFull in the end where a ring could not be handed over: that endpoint's next incarnation must not start.
        """
        failed = None
        cdef pa_head head
        cdef uint32_t other
        head.a = (<uint64_t>inc << 32) | e
        head.b = <uint32_t>cause
        for other in range(self.segment.endpoints):
            if other == self.endpoint or other == e:
                continue
            if self.segment.state(other) == SLOT_LIVE:
                self.put(other, self.segment.incarnation(other), WDOWN, 0, &head, 16, None, False)
            else:
                # Nobody lives there to hand the rings over to the next incarnations. A guest that goes live just now has
                # seen the new count (it goes live first, then reads), so it doesn't touch them before this.
                try:
                    self.segment.reset_pair(e, other, inc + 1, self.segment.incarnation(other))
                except SegmentFull as error:
                    failed = error
        self.endpoint_down(e, inc, cause)
        for other in range(self.segment.endpoints):
            # A producer may have died between its tail and its bell.
            self.segment.wake(other)
        if failed is not None:
            raise failed

    def order_stop(self, uint32_t e, int phase):
        """Root: have worker `e` end its processes (1: shutdown, 2: kill), or (0) send them away and end itself once nobody runs there; of those
        that do still, shut down (11) or kill (12) them."""
        cdef pa_head head
        head.a = phase
        self.put(e, self.segment.incarnation(e), STOP, 0, &head, 8, None, False)

    def order_shed(self, uint32_t e, uint32_t taker, double share):
        """Root: have worker `e` move processes that use up to `share` of a core to `taker`, of its own choice."""
        cdef pa_head head
        head.a = taker
        head.b = <uint64_t>(share * 1000)
        self.put(e, self.segment.incarnation(e), SHED, 0, &head, 16, None, False)

    def stop_here(self, int phase):
        """End this endpoint's processes as STOP does; `run_forever` returns when they are gone."""
        self.stop_processes(phase)

    cdef int stop_processes(self, int phase) except -1:
        cdef Process p
        if phase == 0:
            self.leaving = True
            return 0
        if phase >= HASTE:
            # Who runs here still, of ours or of others'.
            self.hastened = phase - HASTE
            for p in list(self.table.values()):
                if p.flags & EXPORTED:
                    self.recall(p)
                if not p.flags & AWAY:
                    self.shut(p, self.hastened)
            for some in self.foreign:
                for p in list((<dict>some).values()) if some else ():
                    if not p.flags & FROZEN:
                        self.shut(p, self.hastened)
            return 0
        if phase > self.stopping:
            self.stopping = phase
        for p in list(self.table.values()):
            self.shut(p, phase)
        return 0

    def shut(self, Process p, int phase):
        """Phase 1: the exit signal `shutdown`, which can be trapped; phase 2: kill."""
        if p.flags & SYSTEM or p.kind == GUEST:
            return
        if p.flags & EXPORTED:
            self.recall(p)
        if p.flags & AWAY:
            # Its host ends it, but for our order: it doesn't know whether we live.
            self.exit_signal(p.pid, new_pid(self.root_hi, self.root_lo), KILL if phase >= 2 else SHUTDOWN, IS_KILL if phase >= 2 else 0, 0)
        elif phase >= 2:
            self.terminate(p, KILLED)
        elif not p.flags & SHUTTING:
            p.flags |= SHUTTING
            self.take_exit(p, new_pid(self.root_hi, self.root_lo), SHUTDOWN, 0, 0)

    cpdef bint admits(self, str kind) except -1:
        """Whether one more report of this kind may be made now. Asked, and counted, before its facts are put together."""
        if self.limit is None:
            return True
        pa_headroom(HEADROOM)
        try:
            return self.limit.admits(kind)
        finally:
            pa_headroom(-HEADROOM)

    def report(self, str kind, dict facts, bint admitted=False):
        """Hand a crash, a dead letter or an abandoned stack to whoever logs them. admitted: the caller has asked `admits`."""
        hook = self.on_report
        if hook is None or not (admitted or self.admits(kind)):
            return
        running = self.current
        pa_headroom(HEADROOM)
        try:
            if self.tick is not None and (running is None or running.flags & EXITING):
                self.current = self.a_janitor()     # a log handler of the user's may send
            hook(kind, facts)
        except BaseException:           # a handler of the user's, for a log record of ours
            last_words()
        finally:
            pa_headroom(-HEADROOM)
            self.current = running

    def check_invariants(self):
        """Raise AssertionError where the scheduler's own bookkeeping contradicts itself. For tests, between turns."""
        cdef Process p, tail
        cdef RunQueue queue
        n = 0
        for queue in (self.high, self.normal, self.low, self.hogs):
            p = queue.head
            tail = None
            while p is not None:
                assert p.state == QUEUED, (p.pid, p.state)
                n += 1
                tail = p
                p = p.next
            assert tail is queue.tail
        assert n == self.queue_length
        for lo, p in self.table.items():
            assert p.pid.lo == lo and p.pid.process is p and not p.flags & EXITING
            p.check_invariants()
        self.timers.check_invariants()

    # ------------------------------------------------------------------ mail

    cdef object opened(self, object body):
        """A message that came as bytes, or a call whose request did, unpickled: user code."""
        if type(body) is Encoded:
            return self.decoded(<Encoded>body)
        return (<tuple>body)[0], (<tuple>body)[1], self.decoded(<Encoded>(<tuple>body)[2])

    cdef int unreadable(self, Process p, object body, object error) except -1:
        """A message to `p` can't be unpickled: a dead letter, and an error for whoever has called (S2.7)."""
        self.report("dead_letter", {"to": repr(p.pid), "error": error})
        if type(body) is tuple:
            from_ = (<tuple>body)[1]
            if p.extra is not None:
                p.extra.watchers.pop(from_[1], None)
            self.send_down(<Pid>from_[0], <Ref>from_[1], p.pid, Crash.from_exception(error))
        return 0

    cdef object scan(self, Process p, tuple patterns):
        """Take the first message that matches, after `p.save`; NOT_FOUND, and `p.save` at the end, otherwise."""
        cdef Envelope before, envelope
        cdef Py_ssize_t i, n = len(patterns)
        cdef bint found
        if p.flags & SCANNING:
            raise RuntimeError("receive() was called while a message of the same process was being matched or unpickled")
        before = p.save
        envelope = p.first if before is None else before.next
        if envelope is None:
            if p.first is None:
                p.flags &= ~LONG_MAIL
            return NOT_FOUND
        if n == 0 and not is_closed(envelope.body):
            p.save = None
            return p.unlink(before, envelope)
        p.flags |= SCANNING
        try:
            while envelope is not None:
                found = n == 0
                if is_closed(envelope.body):
                    try:
                        envelope.body = self.opened(envelope.body)
                    except (Exception, SystemExit) as error:
                        # S2.7: it harms nobody but itself.
                        self.unreadable(p, p.unlink(before, envelope), error)
                        envelope = p.first if before is None else before.next
                        continue
                for i in range(n):
                    if match(patterns[i], envelope.body):
                        found = True
                        break
                if found:
                    p.save = None
                    return p.unlink(before, envelope)
                before = envelope
                envelope = envelope.next
            p.save = before
            return NOT_FOUND
        finally:
            p.flags &= ~SCANNING


cdef object own_context():
    """The contextvars context of the running process itself."""
    return pa_own_context()


cdef inline bint is_closed(object body):
    """Whether a message, or the request of a call, has still to be unpickled."""
    if type(body) is tuple:
        return len(<tuple>body) == 3 and type((<tuple>body)[2]) is Encoded
    return type(body) is Encoded


cdef bint is_request(object body):
    """Whether a message in a mailbox asks for an answer: what `call` and `send_request` have made."""
    if type(body) is not tuple or len(<tuple>body) != 3 or (<tuple>body)[0] is not CALL:
        return False
    from_ = (<tuple>body)[1]        # of what a user has made up, anything
    return type(from_) is tuple and len(<tuple>from_) >= 2 and type((<tuple>from_)[0]) is Pid and type((<tuple>from_)[1]) is Ref


cdef object mailbox_full(Pid to):
    return MailboxFull(f"expected room in the mailbox of {to!r}, and it is full", reason=MAILBOX_FULL, target=to)


cdef dict facts_of(MailboxLimit limit):
    return {
        "max_mailbox": limit.most or None,
        "max_mailbox_bytes": limit.most_bytes or None,
        "mailbox_policy": POLICIES[limit.policy],
        "count": limit.count,
        "bytes": limit.bytes if limit.most_bytes else None,
        "dropped": limit.dropped,
        "refused": limit.refused,
        "suspended": limit.suspended,
    }


cdef Py_ssize_t weight_of(object body):
    """About how many bytes a message of this endpoint takes: what was pickled exactly, the rest by its lengths. Looks at 1000 items at most."""
    cdef int budget = 1000
    return weigh((<tuple>body)[2] if is_request(body) else body, &budget, 0)


cdef Py_ssize_t weigh(object body, int *budget, int depth):
    cdef Py_ssize_t total
    kind = type(body)
    budget[0] -= 1
    if kind is Encoded:
        return len((<Encoded>body).data)
    if kind is bytes or kind is str or kind is bytearray:
        return 40 + len(body)
    if kind is not tuple and kind is not list and kind is not dict and kind is not set and kind is not frozenset:
        return 32
    total = 56 + 8 * len(body)
    if depth > 16:
        return total
    if kind is dict:
        total += 32 * len(body)
        for key, value in (<dict>body).items():
            if budget[0] <= 0:
                break
            total += weigh(key, budget, depth + 1) + weigh(value, budget, depth + 1)
        return total
    for item in body:
        if budget[0] <= 0:
            break
        total += weigh(item, budget, depth + 1)
    return total


cdef bint spin_for(Segment segment, uint32_t e, int64_t ns) noexcept nogil:
    """Look at `e`'s dirty map for at most `ns`. Whether something has come."""
    cdef int64_t until = pa_now() + ns
    cdef int i
    while True:
        for i in range(32):
            if segment.any_dirty(e):
                return True
            pa_relax()
        if pa_now() >= until:
            return False


cdef void last_words():
    """Show the exception that nobody is there for, on the OS process's own standard error."""
    if sys.__stderr__ is not None:
        try:
            traceback.print_exc(file=sys.__stderr__)
        except (OSError, ValueError):
            pass        # closed: there is nobody left to tell


cdef str AGAIN = "again"            # instead of an error: the host could not pack it just now
cdef str HAS_STACK = "has a stack"  # it is no callback process, or none yet
cdef tuple FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


cdef object holds_a_stack(Pid pid):
    return ValueError(
        f"expected a GenServer, a typed actor or another callback process to move, got {pid}: one whose body is a function holds a stack, which can't move")


cdef int forget_endpoint(Extra extra, uint32_t e, uint32_t inc) except -1:
    """A stub's copies of links and watchers at a dead endpoint go: its host fires them."""
    for other in [other for other in extra.links if hi_endpoint((<Pid>other).hi) == e and hi_incarnation((<Pid>other).hi) <= inc]:
        del extra.links[other]
    for ref in [ref for ref, other in extra.watchers.items() if hi_endpoint((<Pid>other).hi) == e and hi_incarnation((<Pid>other).hi) <= inc]:
        del extra.watchers[ref]
    return 0


def _nothing_to_do(message):
    pass


def _plain(which):
    """A pid or reference as two numbers."""
    return which.hi, which.lo


def _second(pair):
    return pair[1]


cdef bint is_published(Outbox box) noexcept:
    """Whether all that was put there can be read, and one more short record could be at once."""
    return not box.queued_count and (not box.usable or box._room(256))


cdef object kept_bytes(bytes data, Holds holds):
    """What is kept for later: with the blocks that it mentions."""
    cdef Encoded message
    if holds is None:
        return data
    message = encoded(data)
    message.holds = holds
    return message


cdef Encoded kept_always(bytes data, Holds holds):
    cdef Encoded message = encoded(data)
    message.holds = holds
    return message


cdef object kept(Record *r, Holds holds):
    return kept_bytes(<bytes>r.body[:r.size], holds)


cdef bint runs_here(Process p) noexcept:
    return p.state != DEAD and not p.flags & (EXITING | AWAY)


cdef Encoded encoded(bytes data):
    cdef Encoded e = Encoded.__new__(Encoded)
    e.data = data
    return e


cdef bint is_normal_exit(object reason):
    return type(reason) is str and <str>reason == "normal"


def no_memory_for_arguments():
    """The body of a process whose own, or whose arguments, its worker had no memory for."""
    raise MemoryError("no memory for the function and arguments of this process")


def _await_frames(coroutine):
    """The frames of a suspended coroutine, outermost first."""
    frames = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None:
            break
        frames.append(frame)
        coroutine = getattr(coroutine, "cr_await", None)
    return frames
