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
import os
import sys
import traceback
from sys import _getframe

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport EINTR, errno
from libc.string cimport memcpy
cimport cython

from parallel_actors.workers.arena cimport KEEP, Holds
from parallel_actors.workers.codec cimport Encoded
from parallel_actors.workers.ident cimport (
    hi_endpoint, hi_incarnation, hi_nonce, lo_counter, lo_incarnation, lo_spawner, make_hi, make_lo, new_pid, new_ref,
)
from parallel_actors.workers.patterns cimport match, mentions_ref
from parallel_actors.workers.preempt cimport CUTTABLE, IN_DEL, IN_IMPORT, IN_LOCK, IN_NATIVE, Tick
from parallel_actors.workers.ring cimport ring_born
from parallel_actors.workers.segment cimport SLOT_LIVE, ld32_relaxed

from parallel_actors.workers.errors import (
    NameTaken, NoProc, NotPicklable, NotRegistered, NotRunning, ProcessExit, ProcessKilled, SegmentFull,
)
from parallel_actors.workers.reasons import Crash, Down, Exit, WorkerDown, is_normal

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
    static int pa_epoll_add(int ep, int fd) {
        struct epoll_event ev = { .events = EPOLLIN, .data = { .fd = fd } };
        return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
    }
    static int pa_epoll_del(int ep, int fd) { return epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL); }
    /* Waits at most ns; fds of what is ready go to out. epoll_pwait2 (Linux 5.11) has the resolution; else milliseconds. */
    static int pa_epoll_wait(int ep, int *out, int max, int64_t ns) {
        struct epoll_event ev[32];
        int n;
        if (max > 32) max = 32;
    #ifdef SYS_epoll_pwait2
        struct timespec ts = { .tv_sec = ns / 1000000000LL, .tv_nsec = ns % 1000000000LL };
        n = (int)syscall(SYS_epoll_pwait2, ep, ev, max, &ts, NULL, 0);
        if (n < 0 && errno == ENOSYS)
    #endif
        n = epoll_wait(ep, ev, max, (int)((ns + 999999) / 1000000));
        for (int i = 0; i < n; i++) out[i] = ev[i].data.fd;
        return n;
    }
    static void pa_clear_eventfd(int fd) { uint64_t v; ssize_t r = read(fd, &v, 8); (void)r; }

    typedef struct { uint64_t a, b, c, d, e, f; } pa_head;
    """
    int pa_import_greenlet() except -1
    object pa_switch(PyObject *g)
    object pa_current()
    PyObject *pa_take_context()
    void pa_give_context(PyObject *)
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
    int pa_epoll_wait(int, int *, int, int64_t) nogil
    void pa_clear_eventfd(int) nogil
    ctypedef struct pa_head:
        uint64_t a, b, c, d, e, f

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
    LOW_EVERY = 8                   # normal processes for each one of low priority (as in OTP)
    LOCK_NS = 20_000_000            # that a process may stay in code which may hold a lock before it is cut there after all
    SHIELD_NS = 100_000_000         # no_preempt() is reported when it keeps others waiting for longer
    MAX_LINEAGE = 32
    HEADROOM = 200                  # calls that the runtime may nest beyond the limit of recursion
    BALLAST = 1 << 20               # bytes kept for the time when memory is used up
    MIDDLE_COLLECTIONS = 10         # of some 7,000 allocations each, for each full garbage collection
    POOL = 2048                     # idle carriers that are kept, of some 8 KB each
    TRIM_NS = 1_000_000_000         # between two looks of an idle worker for memory of free blocks
    LEFT = 1 << 20                  # causes of WDOWN beside an exit code and -signal: a guest's thread ended,
    UNKNOWN = 1 << 21               # nobody can tell

CAUSE_LEFT = LEFT
CAUSE_UNKNOWN = UNKNOWN

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


@cython.final
@cython.no_gc
@cython.freelist(1024)
cdef class Envelope:
    """One message in a mailbox. Not tracked by the collector: the mailbox of a dead process is emptied explicitly."""


@cython.final
cdef class Link:
    """One side's view of a link; see docs/internals.md, "Links"."""


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
        if self.last is None:
            self.first = envelope
        else:
            self.last.next = envelope
        self.last = envelope
        self.mail += 1
        return 0

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
        return body

    def check_invariants(self):
        """Raise AssertionError unless the mailbox is one chain of `mail` envelopes ending at `last`."""
        n = 0
        cdef Envelope e = self.first, tail = None
        while e is not None:
            n += 1
            tail = e
            e = e.next
        assert n == self.mail, (n, self.mail)
        assert tail is self.last


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
        self.ref_timers = {}
        self.ties = [None] * n
        self.outboxes = [None] * n
        self.inboxes = [None] * n
        self.flow_waiting = []
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
        if self.believed == NULL or self.spawned == NULL or self.spawned_before == NULL or self.seen == NULL or self.again == NULL:
            raise MemoryError()
        for e in range(n):
            self.believed[e] = segment.incarnation(e)
        self.now = pa_now()
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

    def was_forked(self):
        """For `os.register_at_fork`: this is a copy from now on, in an OS process that user code has forked."""
        self.forked = True

    def lose(self, reason):
        """Guest: the system is gone; whatever waits, or is called from now on, raises NotRunning(reason)."""
        self.lost = reason

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

    def attend(self):
        """For other event loops: handle what has come in, without waiting. Then call `rest` before sleeping on `epoll_fd`."""
        self.segment.park_end(self.endpoint)
        self.turn += 16 - (self.turn & 15)
        self.park(0)
        self.poll(0)

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
        cdef Ref ref
        self.ref_counter += 1
        ref = new_ref(self.hi, self.ref_counter)
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
            if <uint32_t>wish >= self.segment.workers:
                raise ValueError(f"expected worker= to be 0..{self.segment.workers - 1} (this system's workers), got {wish}")
            return wish
        if self.role == "worker" and (parent is None or not parent.flags & SPREAD):
            return self.endpoint
        start = <uint32_t>(self.turn % self.segment.workers)
        for e in range(self.segment.workers):
            if self.segment.state(e) != SLOT_LIVE:
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
            best = start
        return best

    cdef Pid spawn(self, object function, tuple args, dict kwargs, int how, Ref ref, object options):
        """Start a process. how: of How, together; ref: of the monitor, or of the answer. options: (worker, name, label, traits)."""
        cdef Process parent = self.current, p
        cdef Pid pid
        cdef uint32_t home, inc
        cdef uint64_t link_id = 0
        cdef pa_head head
        cdef bytes payload
        cdef Link link
        cdef int traits = options[3]
        cdef tuple lineage = () if parent is None else (parent.pid, *parent.lineage)[:MAX_LINEAGE]
        name = options[1]
        home = self.place(parent, options[0])
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
            if name is not None:
                p.more().name = name
            if options[2] is not None:
                p.more().label = options[2]
            if how & LINKED:
                self.add_link(parent, pid)
            if how & MONITORED:
                self.add_monitor(parent, ref, pid)
            if how & AWAITED:
                self.begin_wait(parent, p, pid, ref)
            self.enqueue(p)
            self.show_count()
            return pid
        payload = self.codec.pack((function, args, kwargs or None, options[2], lineage), False)
        cdef Holds holds = self.packed()
        # User code ran: number and put in one go from here on. A worker that is being replaced: its next incarnation takes it.
        self.spawned[home] += 1
        while True:
            inc = self.segment.incarnation(home)
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
        p.priority = <uint8_t>(traits >> TRAIT_PRIORITY)
        return 0

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
        memcpy(&head, r.body, 48)
        spawner = lo_spawner(head.a)
        p = self.new_process(head.a, STACK)
        self.show_count()           # before it is told as born: see `place`
        if lo_incarnation(head.a) == self.believed[spawner] and lo_counter(head.a) > self.seen[spawner]:
            self.seen[spawner] = lo_counter(head.a)
            (<Inbox>self.inboxes[spawner]).set_born(lo_counter(head.a))
        self.give_traits(p, r.aux)
        named = 48 + r.flags
        if r.flags:
            p.more().name = (<bytes>r.body[48:named]).decode()
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
        self.enqueue(p)
        held = self.unborn.pop(head.a, None)
        if held is not None:
            for kind, flags, aux, body in held:
                self.replay(kind, flags, aux, body)
        if self.stopping:
            self.shut(p, self.stopping)
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
            p.flags |= LONG_MAIL
            self.report("long_mailbox", {"pid": p.pid, "label": None if p.extra is None else p.extra.name or p.extra.label,
                                         "message_queue_len": p.mail})
        if p.state == IDLE or (p.state == BLOCKED and p.wait == MAIL):
            self.enqueue(p)
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
            if p.state != DEAD and not p.flags & EXITING:
                self.deliver(p, body)
            return 0
        data = self.codec.pack(message, own)
        holds = self.packed()
        if hi_nonce(to.hi) != self.segment.nonce:
            return 0
        return self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), MSG, 0, &lo, 8, data, True, 0, holds)

    cdef int send_ref(self, Ref to, object message, bint own=False) except -1:
        cdef bytes data
        cdef Holds holds
        cdef uint64_t lo = to.lo
        if to.hi == self.hi:
            body = self.codec.isolate_message(message, own)
            return self.take_alias(lo, body)
        data = self.codec.pack(message, own)
        holds = self.packed()
        if hi_nonce(to.hi) != self.segment.nonce:
            return 0
        return self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), ALIAS, 0, &lo, 8, data, True, 0, holds)

    cdef int take_alias(self, uint64_t lo, object body) except -1:
        cdef Ref ref
        entry = self.aliases.get(lo)
        if entry is None:
            return 0
        if entry[1]:
            # The alias of a monitor made for one reply: it takes alias and monitor away.
            ref = new_ref(self.hi, lo)
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
        self.flow_waiting.append((p, box))
        self.block(p, FLOW)
        return 0

    # ------------------------------------------------------------------ exits

    cdef int exit_signal(self, Pid to, Pid sender, object reason, int flags, uint64_t seen) except -1:
        """Send the exit signal `reason` (a value, or Encoded) from `sender` to `to`."""
        cdef Process p
        cdef pa_head head
        cdef bytes data
        if to.hi == self.hi:
            p = self.find(to.lo)
            if p is not None:
                return self.take_exit(p, sender, reason, flags, seen)
            if not self.is_unborn(to.lo):
                return 0
        elif hi_nonce(to.hi) != self.segment.nonce:
            return 0
        data = (<Encoded>reason).data if type(reason) is Encoded else self.codec.encode(reason)
        head.a = to.lo
        head.b = sender.hi
        head.c = sender.lo
        head.d = seen
        if to.hi == self.hi:
            self.unborn.setdefault(to.lo, []).append((EXIT, flags, 0, (<char *>&head)[:32] + data))
            return 0
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
        self.guarded = before or 1
        if self.tick is not None and not self.tick.armed:
            self.tick.arm(TICK_NS)
        return before

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
        has_stack = p.state == RUNNING or p.carrier is not None or (p.kind == ASYNC and p.body is not None)
        del self.table[p.pid.lo]
        p.pid.process = None
        if p.flags & SYSTEM:
            self.system_processes -= 1
        self.show_count()
        p.flags |= EXITING
        self.disarm(p)
        self.leave(p)
        if extra is not None:
            reason = self.clean_reason(reason)
            p.extra = None
            if extra.name is not None:
                self.names.free(extra.name, p.pid.hi, p.pid.lo)
            if extra.aliases is not None:
                for ref in list(extra.aliases):
                    self.aliases.pop(ref.lo, None)
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
            if p.state == BLOCKED:
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
        if other.hi == self.hi:
            q = self.find(other.lo)
            if q is not None:
                link.peer = link.own
                link = <Link>q.more().links.get(p.pid)
                if link is None:
                    link = Link()
                    q.put_link(p.pid, link)
                link.own = link.peer = self.link_counter
                return 0
            if not self.is_unborn(other.lo):
                return self.take_exit(p, other, NOPROC, BY_LINK, link.own)
        elif self.gone(other):
            return self.take_exit(p, other, NOPROC, BY_LINK, link.own)
        head.a = other.lo
        head.b = p.pid.hi
        head.c = p.pid.lo
        head.d = link.own
        if other.hi == self.hi:
            self.unborn.setdefault(other.lo, []).append((LINK, 0, 0, (<char *>&head)[:32]))
            return 0
        return self.put(hi_endpoint(other.hi), hi_incarnation(other.hi), LINK, 0, &head, 32, None, False)

    cdef int take_link(self, uint64_t lo, Pid other, uint64_t link_id) except -1:
        cdef Process p = self.find(lo)
        cdef Link link
        if p is None:
            return self.exit_signal(other, new_pid(self.hi, lo), NOPROC, BY_LINK, link_id)
        if self.gone(other):
            # Held for the unborn while its sender's endpoint died: that death has fired already, without this link.
            link = Link()
            link.peer = link_id
            p.put_link(other, link)
            return self.take_exit(p, other, WorkerDown(hi_endpoint(other.hi)), BY_LINK, link_id)
        link = <Link>p.more().links.get(other)
        if link is None:
            link = Link()
            p.put_link(other, link)
            self.tie(p, other)
        link.peer = link_id
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
            q = self.find(other.lo)
            if q is not None:
                if q.extra is not None:
                    q.extra.links.pop(p.pid, None)
            elif self.is_unborn(other.lo):
                self.unborn.setdefault(other.lo, []).append((UNLINK, 0, 0, (<char *>&head)[:32]))
            return 0
        return self.put(hi_endpoint(other.hi), hi_incarnation(other.hi), UNLINK, 0, &head, 32, None, False)

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
            q = self.find(target.lo)
            if q is not None:
                q.put_watcher(ref, p.pid)
                return 0
            if not self.is_unborn(target.lo):
                return self.take_down(p, ref, target, NOPROC)
        elif self.gone(target):
            return self.take_down(p, ref, target, NOPROC)
        head.a = target.lo
        head.b = p.pid.hi
        head.c = p.pid.lo
        head.d = ref.hi
        head.e = ref.lo
        if target.hi == self.hi:
            self.unborn.setdefault(target.lo, []).append((MONITOR, 0, 0, (<char *>&head)[:40]))
            return 0
        return self.put(hi_endpoint(target.hi), hi_incarnation(target.hi), MONITOR, 0, &head, 40, None, False)

    cdef int take_monitor(self, uint64_t lo, Pid watcher, Ref ref) except -1:
        cdef Process p = self.find(lo)
        if p is None:
            return self.send_down(watcher, ref, new_pid(self.hi, lo), NOPROC)
        if self.gone(watcher):
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
            q = self.find(target.lo)
            if q is not None and q.extra is not None:
                q.extra.watchers.pop(ref, None)
                return
            if not self.is_unborn(target.lo):
                return
        head.a = target.lo
        head.b = ref.hi
        head.c = ref.lo
        if target.hi == self.hi:
            self.unborn.setdefault(target.lo, []).append((DEMONITOR, 0, 0, (<char *>&head)[:24]))
        elif hi_nonce(target.hi) == self.segment.nonce:
            self.put(hi_endpoint(target.hi), hi_incarnation(target.hi), DEMONITOR, 0, &head, 24, None, False)

    cdef int send_down(self, Pid watcher, Ref ref, Pid target, object reason) except -1:
        cdef Process p
        cdef pa_head head
        cdef bytes data
        if watcher.hi == self.hi:
            p = self.find(watcher.lo)
            if p is not None:
                self.take_down(p, ref, target, reason)
            return 0
        data = (<Encoded>reason).data if type(reason) is Encoded else self.codec.encode(reason)
        head.a = watcher.lo
        head.b = target.hi
        head.c = target.lo
        head.d = ref.hi
        head.e = ref.lo
        return self.put(hi_endpoint(watcher.hi), hi_incarnation(watcher.hi), DOWN, 0, &head, 40, data, False)

    cdef int take_down(self, Process p, Ref ref, Pid target, object reason) except -1:
        if ref.lo == p.awaited and ref.hi == self.hi and not p.answered:       # the monitor of a call, or of a start
            return self.settle(p, ref.lo, REFUSED, reason)
        # Exactly one Down per monitor (S4.3): the entry goes with it; none when it was taken off meanwhile.
        if p.extra is None or p.extra.monitors.pop(ref, None) is None:
            return 0
        entry = self.aliases.get(ref.lo) if ref.hi == self.hi else None
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
        if tied is not None:
            for p in tied:
                if p.extra is None:
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
        for asked in (self.requests, self.calls):
            for lo, (asker, where, asked_inc) in list(asked.items()):
                if where == e and asked_inc <= inc:
                    del asked[lo]
                    self.settle(<Process>asker, lo, REFUSED, reason)
        return 0

    # ------------------------------------------------------------------ requests to another endpoint

    cdef object ask(self, uint32_t e, uint32_t inc, object operation, double timeout):
        """Have `operation` performed by endpoint `e`; its result, or the error that it raised there."""
        cdef Process p = me(self)
        cdef Ref ref
        cdef pa_head head
        cdef bytes data
        cdef uint64_t unborn = 0
        if e == self.endpoint:
            unborn = self.unborn_of(operation)
            if not unborn:
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
                self.unborn.setdefault(unborn, []).append((REQUEST, 0, 0, (<char *>&head)[:32] + data))
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

    cdef int call(self, Process p, Pid to, object request, double timeout) except -1:
        """Send `("$gen_call", (own pid, ref), request)` and wait for the answer with `ref` (OTP: gen:call/4).

        GIVEN: `p.reply` is the answer, which may be Encoded; REFUSED: the reason of the other's end; 0: it is too late, and what
        comes then is dropped. Whoever has read `p.reply` sets it to None. A call of this endpoint costs its receiver a place in a chain;
        one across is a monitor and a message.
        """
        cdef Ref ref
        cdef Process q = None
        cdef pa_head head
        cdef bytes data = None
        cdef Holds holds = None
        cdef bint here = to.hi == self.hi
        cdef int answered
        self.ref_counter += 1
        ref = new_ref(self.hi, self.ref_counter)
        if here:
            q = <Process>to.process
            if q is None:
                q = self.find(to.lo)
            if q is None and not self.is_unborn(to.lo):
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
        else:
            if here:
                data = self.codec.encode(request)       # it waits for its receiver's birth, on its own
            else:
                data = self.codec.pack(request, False)
                holds = self.packed()
            data = (<char *>&p.pid.hi)[:8] + (<char *>&p.pid.lo)[:8] + (<char *>&ref.hi)[:8] + (<char *>&ref.lo)[:8] + data
        self.begin_wait(p, q, to, ref)
        value = None
        try:
            if q is not None:
                self.deliver(q, body)
            else:
                head.a = to.lo
                head.b = p.pid.hi
                head.c = p.pid.lo
                head.d = ref.hi
                head.e = ref.lo
                if here:
                    held = self.unborn.setdefault(to.lo, [])
                    held.append((MONITOR, 0, 0, (<char *>&head)[:40]))
                    held.append((MSG, IS_CALL, 0, (<char *>&to.lo)[:8] + data))
                else:
                    self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), MONITOR, 0, &head, 40, None, False)
                    self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), MSG, IS_CALL, &to.lo, 8, data, True, 0, holds)
            answered = self.await_answer(p, timeout)
            value = p.reply
        finally:
            self.end_wait(p, ref, to if q is None else None)
        p.reply = value
        return answered

    cdef int reply(self, Pid to, Ref ref, object value) except -1:
        """Answer the call that `to` has made with `ref`, from any process; too late, or twice: dropped."""
        cdef Process p
        cdef pa_head head
        cdef bytes data
        if to.hi == self.hi:
            value = self.codec.isolate_message(value, False)
            p = <Process>to.process
            if p is None:
                p = self.find(to.lo)
            if p is not None and ref.hi == self.hi:
                self.settle(p, ref.lo, GIVEN, value)
            return 0
        data = self.codec.pack(value, False)
        cdef Holds holds = self.packed()
        if hi_nonce(to.hi) != self.segment.nonce or ref.hi != to.hi:        # a caller makes its references itself
            return 0
        head.a = to.lo
        head.b = ref.lo
        return self.put(hi_endpoint(to.hi), hi_incarnation(to.hi), ANSWER, 0, &head, 16, data, True, 0, holds)

    # ------------------------------------------------------------------ answers to other endpoints

    cdef int answer(self, Record *r) except -1:
        cdef pa_head head
        cdef uint64_t lo
        memcpy(&head, r.body, 32)
        guarded = self.guard()
        try:
            operation = self.codec.decode(r.body + 32, r.size - 32)
            lo = self.unborn_of(operation)
            if lo:
                # It isn't dead: whoever asks has heard of it before us. Answered at its birth, or its spawner's end.
                self.unborn.setdefault(lo, []).append((REQUEST, r.flags, r.aux, <bytes>r.body[:r.size]))
                return 0
            reply = (True, self.perform(operation))
        except Exception as error:
            reply = (False, error)
        finally:
            self.guarded = guarded
        if head.a == self.hi:
            asked = self.requests.pop(head.b, None)
            if asked is not None:
                self.settle(<Process>asked[0], head.b, GIVEN if reply[0] else REFUSED, reply[1])
            return 0
        try:
            data = self.codec.encode(reply)
        except NotPicklable as error:
            data = self.codec.encode((False, error))
        lo = head.b
        return self.put(hi_endpoint(head.a), hi_incarnation(head.a), ALIAS, 0, &lo, 8, data, False)

    cdef uint64_t unborn_of(self, tuple operation) except? 0:
        """The process that `operation` is about, if it may still be born; else 0."""
        cdef uint64_t lo
        what = operation[0]
        if what == "info":
            lo = operation[1]
        elif what == "register" or what == "unregister":
            lo = operation[2]
        else:
            return 0
        return lo if self.find(lo) is None and self.is_unborn(lo) else 0

    cdef object perform(self, tuple operation):
        """What other endpoints may ask of this one. The first item names the operation."""
        cdef Process p
        cdef uint64_t hi, lo
        what = operation[0]
        if what == "is_alive":
            lo = operation[1]
            return self.find(lo) is not None or self.is_unborn(lo)
        if what == "processes":
            return [p.pid for p in self.table.values() if not p.flags & SYSTEM]
        if what == "info":
            p = self.find(operation[1])
            return None if p is None else self.describe(p)
        if what == "register":
            lo = operation[2]
            p = self.find(lo)
            if p is None:
                raise NoProc(f"expected a live process to register as {operation[1]!r}, got {new_pid(self.hi, lo)}, which is dead", reason=NOPROC)
            extra = p.more()
            if extra.name is not None:
                raise NameTaken(f"{p.pid} is registered as {extra.name!r} already: a process has one name")
            if self.names.claim(operation[1], self.hi, lo) != 1:
                raise self.taken(operation[1])
            extra.name = operation[1]
            return True
        if what == "unregister":
            lo = operation[2]
            p = self.find(lo)
            if p is None or p.extra is None or p.extra.name != operation[1]:
                raise NotRegistered(operation[1])
            self.names.free(operation[1], self.hi, lo)
            p.extra.name = None
            return True
        if what == "start_timer":
            _, hi, lo, due, period, dest, message = operation
            self.start_timer(hi, lo, due, period, dest, message)
            return True
        if what == "timer":
            return self.timer_left(operation[1], operation[2], operation[3])
        raise ValueError(f"unknown operation {what!r}")

    def describe(self, Process p):
        """process_info's facts about one of our processes."""
        cdef Extra extra = p.extra
        status = "runnable" if p.state == QUEUED else "running" if p.state == RUNNING else "waiting"
        stack = None
        if p.kind == ASYNC and p.body is not None and p.state != RUNNING and p.carrier is None:
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
        return {
            "status": status,
            "worker": self.endpoint,
            "message_queue_len": p.mail,
            "links": [] if extra is None else list(extra.links),
            "monitors": [] if extra is None else list(extra.monitors.values()),
            "monitored_by": [] if extra is None else list(extra.watchers.values()),
            "registered_name": None if extra is None else extra.name,
            "label": None if extra is None else extra.label,
            "dictionary": {} if extra is None or extra.dictionary is None else self.shown(extra.dictionary),
            "trap_exit": bool(p.flags & TRAP_EXIT),
            "priority": PRIORITIES[p.priority],
            "parent": p.lineage[0] if p.lineage else None,
            "ancestors": list(p.lineage),
            "kind": "guest" if p.kind == GUEST else "async" if p.kind == ASYNC else "callback" if p.kind == CALLBACK else "def",
            "current_stacktrace": stack,
            "initial_call": getattr(body, "__qualname__", None) if body is not None else None,
        }

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
            return None
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
        """Send an encoded message on: no user code runs. A name is looked up now; nobody there: dropped."""
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
                return self.take_alias(lo, message)
            p = self.find(lo)
            if p is not None:
                self.deliver(p, message)
            elif self.is_unborn(lo):
                self.unborn.setdefault(lo, []).append((MSG, 0, 0, (<char *>&lo)[:8] + data))
            return 0
        if hi_nonce(hi) != self.segment.nonce:
            return 0
        return self.put(hi_endpoint(hi), hi_incarnation(hi), ALIAS if to_ref else MSG, 0, &lo, 8, data, False)

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
            p = self.next_process()
            if p is not None:
                if p.flags & EXITING and p.pending is None:
                    p.state = DEAD      # ended before it ran
                    continue
                self.slices += 1
                if self.collect_due:
                    self.collect_garbage()
                if self.tick is not None and not self.tick.armed:
                    self.ticked_at = pa_now()
                    self.tick.arm(TICK_NS)
                return p
            if self.stopping and self.process_count == 0 and self.exiting == 0 or self.closed:
                return None
            if self.ended_carriers >= POOL:
                self.ended_carriers = 0
                pa_trim()
            self.poll(PARK_NS)

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
        due = self.timers.next_deadline()
        if due >= 0 and due <= self.now:
            self.fire_timers()
            return 0
        if wait_ns == 0:
            if self.turn & 63 == 0:
                self.show_load()
                if self.watched_fds and self.turn & 255 == 0:
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
        cdef int n = 0, i, failed = 0
        cdef bint found
        cdef int bell = self.segment.eventfds[self.endpoint]
        cdef uint32_t e = self.endpoint
        cdef Segment segment = self.segment
        if wait_ns:
            if self.spin:
                with nogil:
                    found = spin_for(segment, e, self.spin if self.spin < wait_ns else wait_ns)
                if found:
                    return 0
            segment.park_begin(e)
        if wait_ns == 0 or not segment.any_dirty(e):
            self.asleep = wait_ns != 0
            with nogil:
                n = pa_epoll_wait(self.epoll, ready, 32, wait_ns)
            if n < 0:
                failed = errno
        if wait_ns:
            segment.park_end(e)
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
                if callback is not None:
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
        pa_headroom(HEADROOM)       # with `p` queued and nobody current, nothing may fail
        try:
            q = self.pick()
            if q is p:
                # Nobody else had to run: no switch at all.
                p.carrier = None
                self.current = p
                p.state = RUNNING
                self.collecting = collecting
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
                if self.guarded > GRACE_TICKS and not self.collecting:
                    self.guarded = 1        # what makes a reason of this has its own time
                    raise TimeoutError("expected an exit reason, or a value in a process dictionary, to be pickled or unpickled in a second, and it wasn't")
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
            self.drain()
            self.now = now
            if 0 <= self.timers.next_deadline() <= now:
                self.fire_timers()
            if self.watched_fds:
                self.park(0)
            self.show_load()
            if self.collect_due:
                self.collect_garbage()
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
            if place == CUTTABLE:
                p.flags &= ~WAITS_LOCK
                return self.cut(p)
            if place == IN_LOCK and (self.stands_still(p, frame) or self.uncut_since and now - self.uncut_since > LOCK_NS):
                return self.cut(p)
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

    def stands_still(self, Process p, frame):
        """Whether `p`, in code that may hold a lock, waits for one itself: it is where it was for some ticks."""
        at = (id(frame), frame.f_lasti)
        if at != self.stood_at:
            self.stood_at = at
            self.stood = 0
        self.stood += 1
        if self.stood < (1 if p.flags & WAITS_LOCK else 4):
            return False
        p.flags |= WAITS_LOCK
        return True

    cdef int cut(self, Process p) except -1:
        """The running process gives way, in the middle of its code."""
        self.cuts += 1
        self.uncut_since = 0
        p.flags |= HOG
        p.flags &= ~LATE
        self.enqueue(p)
        self.switch_away(p)
        self.reductions = REDUCTIONS
        if p.pending is not None:
            self.check(p)
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
            # a lock has as long.
            if (place == IN_IMPORT or place == IN_LOCK and not self.stands_still(p, frame)) and p.ticks < IMPORT_TICKS:
                self.beats += 1
                return 0
            p.ticks = 0
        if place == CUTTABLE or place == IN_LOCK:
            self.beats += 1
        if not p.flags & ENDING and (p.raised == 0 or p.ticks > GRACE_TICKS and p.raised < MAX_RAISED):
            p.raised += 1
            raise p.pending.with_traceback(None)
        if place != CUTTABLE and place != IN_LOCK:
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
        self.segment.set_load(self.endpoint, <uint32_t>(len(self.table) - self.system_processes), <uint32_t>self.queue_length)

    cdef int show_load(self) except -1:
        """Tell the root how much there is to do here, and that this endpoint turns."""
        cdef uint32_t e = self.endpoint
        self.show_count()
        self.segment.set_progress(e, self.handled, self.turn + self.beats)
        # What was to end is ending; what still unwinds has to come to its end in time (S1.10).
        self.segment.set_end_due(e, self.exiting > 0 or self.stopping > 0)
        return 0

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
            if p.pending is not None and p.kind != ASYNC:
                raise p.pending
            if p.kind == CALLBACK:
                done = self.turn_callback(p)
            elif p.kind == STACK:
                result = self.enter(p)
                if PyCoro_CheckExact(result):
                    p.kind = ASYNC
                    p.body = result
                    result = None
                    done = self.step(p)
                elif type(result) is Loop:
                    p.kind = CALLBACK
                    p.body = (<Loop>result).handler
                    result = None
                    done = self.turn_callback(p)
                elif PyGen_CheckExact(result) or PyAsyncGen_CheckExact(result):
                    raise TypeError(f"expected a def or an async def as the body of a process, got a generator function: {result!r} would never run")
            else:
                done = self.step(p)
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
        while True:
            p.kind = ASYNC          # what it awaits looks there
            try:
                value = p.resume
                p.resume = None
                p.wait = NOTHING
                got = PyIter_Send(coroutine, value, &out)
            finally:
                p.kind = <uint8_t>kind
            yielded = <object>out
            Py_XDECREF(out)
            if got == PYGEN_RETURN:
                return yielded
            try:
                if yielded is not SUSPENDED:
                    raise RuntimeError(
                        f"expected an await of the process API (areceive, asleep, ...), got {yielded!r}: "
                        "asyncio's own awaitables are not available in processes yet")
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
                p.lineage = lineage
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
        while p.first is not None and left:
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
        p.state = IDLE
        if p.first is not None:
            self.enqueue(p)
        else:
            p.flags &= ~(HOG | WAITS_LOCK | LATE)
        return False

    cdef bint step(self, Process p) except -1:
        """Run a coroutine until it waits. True: it has ended."""
        cdef PyObject *out = NULL
        cdef PySendResult got
        coroutine = p.body
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
                value = p.resume
                p.resume = None
                p.wait = NOTHING
                got = PyIter_Send(coroutine, value, &out)
                yielded = <object>out
                Py_XDECREF(out)
                if got == PYGEN_RETURN:
                    return True
                if yielded is not SUSPENDED:
                    try:
                        coroutine.throw(RuntimeError(
                            f"expected an await of the process API (areceive, asleep, ...), got {yielded!r}: "
                            "asyncio's own awaitables are not available in processes yet"))
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
                if (box.queued_bytes > FLOW_LOW_BYTES or box.queued_count > FLOW_LOW_COUNT or box in woken
                        or box.meter.bytes > FLOW_LOW_BYTES and not self.settled(box, FLOW_LOW_BYTES)):
                    self.flow_waiting.append(item)
                else:
                    woken.append(box)
                    self.enqueue(p)
            if self.flow_waiting:
                self.backlog = True     # the next one's turn comes even if this one sends no more
        return 0

    cdef int drain(self) except -1:
        """Take records from every producer that has published since the last look."""
        cdef uint32_t word, words = self.segment.dirty_words, e
        cdef uint64_t bits
        cdef Segment segment = self.segment
        if segment.any_dirty(self.endpoint):
            for word in range(words):
                bits = segment.take_dirty(self.endpoint, word)
                e = word << 6
                while bits:
                    if bits & 1 and not self.again[e]:
                        self.again[e] = 1
                        self.again_count += 1
                    bits >>= 1
                    e += 1
        if self.again_count:
            for e in range(segment.endpoints):
                if self.again[e]:
                    self.again[e] = 0
                    self.again_count -= 1
                    self.drain_one(e)
        return 0

    cdef int drain_one(self, uint32_t e) except -1:
        cdef Inbox box = self.inbox(e)
        cdef Record r
        cdef int n = 0
        while box.next(&r):
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
            if n >= DRAIN_BUDGET:
                if not self.again[e]:
                    self.again[e] = 1
                    self.again_count += 1
                break
        return n

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
            if p is not None and r.flags & IS_CALL:
                memcpy(&head, r.body, 40)
                self.deliver(p, (CALL, (new_pid(head.b, head.c), new_ref(head.d, head.e)), self.received(r.body + 40, r.size - 40, holds)))
            elif p is not None:
                self.deliver(p, self.received(r.body + 8, r.size - 8, holds))
            elif self.is_unborn(lo):
                held = <bytes>r.body[:r.size]
                if holds is not None:
                    held = encoded(held)
                    (<Encoded>held).holds = holds
                self.unborn.setdefault(lo, []).append((kind, r.flags, r.aux, held))
            return 0
        if kind == ALIAS:
            memcpy(&lo, r.body, 8)
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
            if lo in self.aliases:
                self.take_alias(lo, self.received(r.body + 8, r.size - 8, holds))
            return 0
        if kind == ANSWER:
            memcpy(&head, r.body, 16)
            p = self.find(head.a)
            if p is not None and p.awaited == head.b:
                # Its receiver decodes it: what is in there may be user code.
                self.settle(p, head.b, GIVEN, self.received(r.body + 16, r.size - 16, holds))
            return 0
        if kind == SPAWN:
            return self.birth(r, holds)
        if kind == WDOWN:
            memcpy(&head, r.body, 16)
            return self.endpoint_down(<uint32_t>head.a, <uint32_t>(head.a >> 32), <int><uint32_t>head.b)
        if kind == REQUEST:
            return self.answer(r)
        if kind == STOP:
            memcpy(&head, r.body, 8)
            return self.stop_processes(<int>head.a)
        # The rest is addressed to a process: hold it for the unborn.
        memcpy(&head, r.body, 48 if r.size >= 48 else r.size)
        lo = head.a
        p = self.find(lo)
        if p is None and self.is_unborn(lo):
            self.unborn.setdefault(lo, []).append((kind, r.flags, r.aux, <bytes>r.body[:r.size]))
            return 0
        if kind == EXIT:
            if p is not None:
                self.take_exit(p, new_pid(head.b, head.c), encoded(<bytes>r.body[32:r.size]), r.flags, head.d)
        elif kind == LINK:
            self.take_link(lo, new_pid(head.b, head.c), head.d)
        elif kind == UNLINK:
            self.take_unlink(p, new_pid(head.b, head.c), head.d)
        elif kind == MONITOR:
            self.take_monitor(lo, new_pid(head.b, head.c), new_ref(head.d, head.e))
        elif kind == DEMONITOR:
            if p is not None and p.extra is not None:
                p.extra.watchers.pop(new_ref(head.b, head.c), None)
        elif kind == DOWN:
            if p is not None:
                self.take_down(p, new_ref(head.d, head.e), new_pid(head.b, head.c), encoded(<bytes>r.body[40:r.size]))
        return 0

    cdef int signal_lost(self, uint32_t e, Record *r) except -1:
        """A large body that there is no memory for: `r.flags` is its kind, `r.body` its beginning. What others wait for goes on without the rest."""
        cdef pa_head head
        cdef Process p
        cdef Record rest
        cdef bytes body
        cdef size_t own = 32 if r.flags == EXIT else 40 if r.flags == DOWN else 48 + r.aux
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
        """Root: have worker `e` end its processes (1: shutdown, 2: kill)."""
        cdef pa_head head
        head.a = phase
        self.put(e, self.segment.incarnation(e), STOP, 0, &head, 8, None, False)

    def stop_here(self, int phase):
        """End this endpoint's processes as STOP does; `run_forever` returns when they are gone."""
        self.stop_processes(phase)

    cdef int stop_processes(self, int phase) except -1:
        cdef Process p
        if phase > self.stopping:
            self.stopping = phase
        for p in list(self.table.values()):
            self.shut(p, phase)
        return 0

    def shut(self, Process p, int phase):
        """Phase 1: the exit signal `shutdown`, which can be trapped; phase 2: kill."""
        if p.flags & SYSTEM or p.kind == GUEST:
            return
        if phase >= 2:
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
            pid, ref = (<tuple>body)[1]
            if p.extra is not None:
                p.extra.watchers.pop(ref, None)
            self.send_down(<Pid>pid, <Ref>ref, p.pid, Crash.from_exception(error))
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


cdef inline bint is_closed(object body):
    """Whether a message, or the request of a call, has still to be unpickled."""
    if type(body) is tuple:
        return len(<tuple>body) == 3 and type((<tuple>body)[2]) is Encoded
    return type(body) is Encoded


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
