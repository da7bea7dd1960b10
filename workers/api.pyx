# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The process API: what a process does to itself and to others (OTP's `erlang` module).

Each function finds the calling thread's scheduler and the process that runs on it, checks its arguments
at the call, and raises there. Public names, types and the documentation's signatures: ``api.pyi``.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
cimport cython

from parallel_actors.workers.codec cimport Encoded
from parallel_actors.workers.ident cimport (
    Pid, Ref, hi_endpoint, hi_incarnation, hi_nonce, lo_counter, make_hi, make_lo, new_pid,
)
from parallel_actors.workers.patterns cimport mentions_ref
from parallel_actors.workers.scheduler cimport (
    ASYNC, AWAY, EXITING, GUEST, HIGH_PRIORITY, IS_KILL, IS_NORMAL, LOW_PRIORITY, MAIL, NORMAL_PRIORITY, NOT_FOUND, NOTHING, SCANNING, SLEEP,
    SPREAD, SUSPENDED, SYSTEM, TRAIT_PRIORITY, TRAP_EXIT, WILL_KEEP, WILL_SPREAD, WILL_STAY,
    Envelope, FdMonitor, Process, Scheduler, here, me,
)
from parallel_actors.workers.segment cimport SLOT_LIVE, Segment, ld32_relaxed
from parallel_actors.workers.timers cimport seconds

import time as _time

from parallel_actors.workers.errors import CallTimeout, NoProc, NotRegistered, NotRunning, ReceiveTimeout
from parallel_actors.workers.reasons import Down, Exit, FdReady

from types import CoroutineType

cdef extern from "sys/epoll.h":
    enum: EPOLLIN
    enum: EPOLLOUT

cdef object _NO_DEFAULT = object()
cdef double FOREVER = -1.0
cdef double REMOTE_TIMEOUT = 5.0        # how long another endpoint may take to answer a question, s


cdef Process acting(Scheduler s):
    """The calling process, ready to act: it hasn't been ended, and it has used up one operation of its slice."""
    cdef Process p = me(s)
    if p.pending is not None:
        s.check(p)
    if s.lost is not None and p.kind == GUEST:
        raise NotRunning(s.lost)
    s.spend(p)
    return p


cdef str checked_name(object name):
    if type(name) is not str:
        raise TypeError(f"expected a name to be a str, got {name!r} ({type(name).__name__})")
    return <str>name


cdef Pid named(Scheduler s, str name):
    cdef uint64_t hi = 0, lo = 0
    if s.names.lookup(name, &hi, &lo):
        return new_pid(hi, lo)
    return None


cdef Pid resolve(Scheduler s, object target):
    """The pid behind a pid or a registered name."""
    cdef Pid pid
    if type(target) is Pid:
        return <Pid>target
    if type(target) is str:
        pid = named(s, <str>target)
        if pid is None:
            raise NotRegistered(f"expected a registered name, got {target!r}: no process has it (any more)", target=target)
        return pid
    if type(target) is Ref:
        raise TypeError(f"expected a Pid or a registered name, got the reference {target!r}: only send() takes an alias")
    found = behind(target)
    if found is not None:
        return <Pid>found
    raise TypeError(f"expected a Pid or a registered name, got {target!r} ({type(target).__name__})")


cdef Pid looked_up(Scheduler s, object target):
    """`resolve`, or None where nobody has the name."""
    if type(target) is str:
        return named(s, <str>target)
    try:
        return resolve(s, target)
    except NotRegistered:
        return None


cdef object behind(target):
    """The pid of what stands for a process, such as a via name or the reference of a typed actor: it has `__pid__`."""
    if isinstance(target, type):
        return None
    found = getattr(target, "__pid__", None)
    return found if type(found) is Pid else None


# ---------------------------------------------------------------------- oneself

def self_():
    """The calling process's own `Pid` (OTP: `self/0`)."""
    return me(here()).pid


def make_ref():
    """A new `Ref`, unique in the run (OTP: `make_ref/0`)."""
    cdef Scheduler s = here()
    return s.make_ref(acting(s))


def trap_exit(bint on=True):
    """Whether exit signals become `Exit` messages instead of ending the caller; returns the former setting (OTP: `process_flag(trap_exit, ...)`)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef bint before = p.flags & TRAP_EXIT
    if on:
        p.flags |= TRAP_EXIT
    else:
        p.flags &= ~TRAP_EXIT
    return before


def process_dict():
    """The caller's process dictionary: a plain dict that lives as long as the process (OTP: `put/2`, `get/1`)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    if p.more().dictionary is None:
        p.extra.dictionary = {}
    return p.extra.dictionary


def set_label(label):
    """Give the caller a label for reports and `process_info` (OTP: `proc_lib:set_label/1`)."""
    cdef Scheduler s = here()
    acting(s).more().label = s.isolated_now(label)


cdef dict _priorities = {"normal": NORMAL_PRIORITY, "high": HIGH_PRIORITY, "low": LOW_PRIORITY}


cdef int priority_of(object name) except -1:
    found = _priorities.get(name) if type(name) is str else None
    if found is None:
        raise ValueError(f'expected a priority "low", "normal" or "high", got {name!r}')
    return found


def traits_of(bint spread, bint preempt, priority, bint stealable=True):
    """What `options` says of the new process itself, as one number (see `Trait` in scheduler.pxd)."""
    return ((WILL_SPREAD if spread else 0) | (0 if preempt else WILL_STAY) | (0 if stealable else WILL_KEEP)
            | priority_of(priority) << TRAIT_PRIORITY)


def set_priority(priority):
    """Give the caller the priority "low", "normal" or "high"; returns the former one (OTP: `process_flag(priority, ...)`)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef int before = p.priority
    p.priority = <uint8_t>priority_of(priority)
    return "high" if before == HIGH_PRIORITY else "low" if before == LOW_PRIORITY else "normal"


@cython.final
cdef class no_preempt:
    """`with no_preempt():` the caller isn't preempted inside. For state of the whole thread, such as `np.errstate`."""

    cdef Process process

    def __enter__(self):
        cdef Process p = acting(here())
        if self.process is not None:
            raise RuntimeError("expected each `with` to have a no_preempt() of its own, got one that is in use")
        if p.shield == 255:
            raise RuntimeError("expected no_preempt() to be nested at most 255 deep")
        p.shield += 1
        self.process = p

    def __exit__(self, *_):
        self.process.shield -= 1
        self.process = None


def run_blocking(function, /, *args, **kwargs):
    """Have a thread call `function(*args, **kwargs)`, while the caller waits and its worker goes on (OTP: dirty schedulers)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    if not callable(function):
        raise TypeError(f"expected a function to call in a thread, got {function!r} ({type(function).__name__})")
    if p.kind == GUEST:
        return function(*args, **kwargs)        # a thread of its own already
    if s.threads is None:
        from parallel_actors.workers.blocking import Threads
        s.threads = Threads(s)
    return s.offload(p, function, args, kwargs)


def ancestors():
    """The pids of the caller's ancestors, its parent first (OTP: `$ancestors`)."""
    cdef Scheduler s = here()
    return acting(s).lineage


# ---------------------------------------------------------------------- spawn

cdef object plain = (-1, None, None, 0)


cdef int check_callable(object function) except -1:
    if not callable(function):
        raise TypeError(
            f"expected a function to run in the new process, got {function!r} ({type(function).__name__}): "
            "pass the function itself and its arguments, as in spawn(f, 1), not spawn(f(1))")
    return 0


def spawn(function, /, *args, **kwargs):
    """Start a process that runs `function(*args, **kwargs)`; its `Pid`, at once (OTP: `spawn/3`)."""
    cdef Scheduler s = here()
    s.spend(acting(s))
    check_callable(function)
    return s.spawn(function, args, kwargs, 0, None, plain)


def spawn_link(function, /, *args, **kwargs):
    """`spawn` and `link` in one step (OTP: `spawn_link/3`)."""
    cdef Scheduler s = here()
    s.spend(acting(s))
    check_callable(function)
    return s.spawn(function, args, kwargs, 1, None, plain)


def spawn_monitor(function, /, *args, **kwargs):
    """`spawn` and `monitor` in one step: `(pid, ref)` (OTP: `spawn_monitor/3`)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef Ref ref
    check_callable(function)
    s.spend(p)
    ref = s.make_ref(p)
    return s.spawn(function, args, kwargs, 2, ref, plain), ref


def spawn_with(options, int how, function, args, kwargs):
    """What `options(...)` calls: `options` is (worker or -1, name, label, traits, limits of the mailbox or None); how: 0 spawn, 1 link, 2 monitor."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef Ref ref = None
    check_callable(function)
    s.spend(p)
    if how == 2:
        ref = s.make_ref(p)
    pid = s.spawn(function, args, kwargs, how, ref, options)
    return (pid, ref) if how == 2 else pid


# ---------------------------------------------------------------------- send and receive

def send(dest, message, /, *, bint copy=False):
    """Send `message` to a pid, a registered name, or an alias; returns at once (OTP: `!`).

    NumPy arrays of 32 KB and more, and memoryviews, arrive read-only: all receivers look at the same memory, which nobody copies. With
    `copy=True` each receiver gets its own, which it may write to.
    """
    cdef Scheduler s = here()
    s.may_act()
    if type(dest) is Pid:
        s.send_pid(<Pid>dest, message, copy)
    elif type(dest) is Ref:
        s.send_ref(<Ref>dest, message, copy)
    else:
        s.send_pid(resolve(s, dest), message, copy)


def share(buffer, /):
    """Put a buffer into shared memory once, to send it often: a handle (`Shared`) that any number of messages and receivers share.

    >>> import parallel_actors as pa
    >>> def total():
    ...     table, sender = pa.receive()
    ...     pa.send(sender, sum(memoryview(table)))
    >>> with pa.ActorSystem(workers=2):
    ...     table = pa.share(bytes(range(100)))
    ...     for worker in 0, 1:
    ...         pa.send(pa.options(worker=worker).spawn(total), (table, pa.self_()))
    ...     [pa.receive(timeout=10) for _ in range(2)]
    [4950, 4950]

    Args:
        buffer: bytes, bytearray, memoryview, a NumPy array, or any other object with a buffer. It is copied: what is written to it later
            doesn't change what was shared. What was received as a read-only view isn't copied again.

    Raises:
        TypeError: it has no buffer, or is an array of Python objects.

    The memory comes back when the last handle, view and unread message that has it is gone, or when those who have it die. Where the
    shared memory is full, the handle has a copy of its own, and takes it along.
    """
    cdef Scheduler s = here()
    s.may_act()
    return s.codec.share(buffer)


cdef int begin_scan(Scheduler s, Process p, tuple patterns) except -1:
    """Where a receive starts: at the first message, or at the receive mark where only later ones can match (S3.2)."""
    p.save = None
    if p.mark_lo and p.mark is not None and patterns:
        for pattern in patterns:
            if not mentions_ref(pattern, p.pid.hi, p.mark_lo):
                return 0
        p.save = p.mark
    return 0


cdef object timed_out(tuple patterns, object timeout, object default, Process p):
    if default is not _NO_DEFAULT:
        return default
    wanted = " or ".join(repr(pattern) if not isinstance(pattern, type) else pattern.__name__ for pattern in patterns) or "any message"
    waiting = f"; {p.mail} other message{'s' if p.mail != 1 else ''} waiting" if p.mail else ""
    raise ReceiveTimeout(f"expected {wanted} within {timeout} s, got none{waiting}", target=p.pid, elapsed=timeout)


def receive(*patterns, timeout=None, default=_NO_DEFAULT):
    """Take the first message that matches a pattern (any, if there are none) out of the mailbox; wait for it (OTP: `receive`)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef double limit = seconds(timeout, "timeout")
    begin_scan(s, p, patterns)
    found = s.scan(p, patterns)
    if found is not NOT_FOUND:
        return found
    # What has arrived but wasn't taken in counts as there, also for timeout=0.
    if limit == 0 or p.kind == GUEST:
        s.poll(0)
        found = s.scan(p, patterns)
        if found is not NOT_FOUND:
            return found
        if limit == 0:
            return timed_out(patterns, timeout, default, p)
    if limit > 0:
        s.arm(p, limit)
    try:
        while True:
            s.block(p, MAIL)
            found = s.scan(p, patterns)
            if found is not NOT_FOUND:
                return found
            if p.timed_out:
                break
    finally:
        if p.timer is not None or p.timed_out:
            s.disarm(p)
    return timed_out(patterns, timeout, default, p)


@cython.final
cdef class _Await:
    """What `areceive` and `asleep` return inside an async process: steps of the scheduler, no asyncio involved."""

    cdef Scheduler scheduler
    cdef Process process
    cdef tuple patterns         # None: a sleep
    cdef double limit
    cdef object timeout, default
    cdef bint begun

    def __await__(self):
        if self.process.tasks is not None and self.scheduler.current is self.process:
            found = self.process.tasks.wait_in_task(self.patterns, self.limit, self.timeout, self.default)
            if found is not None:
                return found.__await__()
        return self

    def __iter__(self):
        return self

    def throw(self, error, *_):
        """The await is broken off: by a cancellation, or the process's end."""
        self.scheduler.disarm(self.process)
        raise error

    def close(self):
        self.scheduler.disarm(self.process)

    def __next__(self):
        cdef Scheduler s = self.scheduler
        cdef Process p = self.process
        if s.current is not p:
            raise RuntimeError("expected to be awaited by the process that made it, got another one")
        if p.pending is not None:
            s.check(p)
        if self.patterns is None:
            if p.timed_out or self.begun and self.limit == 0:
                s.disarm(p)
                raise StopIteration(None)
            if not self.begun:
                self.begun = True
                if self.limit == 0:
                    p.wait = NOTHING
                    return SUSPENDED
                if self.limit > 0:
                    s.arm(p, self.limit)
            p.wait = SLEEP
            return SUSPENDED
        if not self.begun:
            s.reductions -= 1
            if s.reductions <= 0:
                s.reductions = 2000
                p.wait = NOTHING
                return SUSPENDED
            begin_scan(s, p, self.patterns)
        found = s.scan(p, self.patterns)
        if found is NOT_FOUND and not self.begun and self.limit == 0:
            s.poll(0)
            found = s.scan(p, self.patterns)
        if found is not NOT_FOUND:
            s.disarm(p)
            raise StopIteration(found)
        if p.timed_out or self.limit == 0:
            s.disarm(p)
            raise StopIteration(timed_out(self.patterns, self.timeout, self.default, p))
        if not self.begun:
            self.begun = True
            if self.limit > 0:
                s.arm(p, self.limit)
        p.wait = MAIL
        return SUSPENDED


cdef object awaiting(tuple patterns, object timeout, object default):
    cdef Scheduler s = here()
    cdef Process p = me(s)
    cdef _Await a
    cdef double limit = seconds(timeout, "timeout")
    if p.kind == GUEST:
        from parallel_actors.workers import guest_asyncio
        return guest_asyncio.wait(s, patterns, None if limit < 0 else limit, default is not _NO_DEFAULT, default)
    if p.kind != ASYNC:
        raise RuntimeError("expected to be awaited in a process whose body is an `async def`, got a plain one: use receive() and sleep() there, or await_()")
    a = _Await.__new__(_Await)
    a.scheduler = s
    a.process = p
    a.patterns = patterns
    a.limit = limit
    a.timeout = timeout
    a.default = default
    return a


def timed_out_in_task(patterns, timeout, default):
    """What an areceive() of a task that isn't the body's ends with when its time is up."""
    return timed_out(patterns, timeout, default, me(here()))


def await_(awaitable, /):
    """Wait for an awaitable from plain code, such as a `def` body or a callback: its result. Suspends the calling process and nothing else.

    >>> import asyncio
    >>> import parallel_actors as pa
    >>> def body(to):
    ...     text = pa.await_(asyncio.wait_for(asyncio.sleep(0.01, "slept"), 5))
    ...     pa.send(to, text)
    >>> with pa.ActorSystem(workers=1):
    ...     pid = pa.spawn(body, pa.self_())
    ...     pa.receive(str, timeout=10)
    'slept'

    Args:
        awaitable: a coroutine, of asyncio or of the process API, or anything else that `await` takes. Where it doesn't exist before a loop
            does (a future, `loop.create_connection`), give a coroutine function's call that makes it.

    Raises:
        RuntimeError: in a coroutine: `await` there.
        TypeError: it is no awaitable.
        What the awaitable raises.

    Tasks that it has started go on while the process awaits anything else, a server's also between its messages; they end with the process.
    In a guest (the program itself) it is `asyncio.run`. There is nothing like it in OTP, where whatever waits is a process.
    """
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    if not hasattr(awaitable, "__await__"):
        raise TypeError(f"expected an awaitable, got {awaitable!r} ({type(awaitable).__name__})")
    if p.kind == ASYNC:
        raise RuntimeError("expected a plain function to call await_(), got a coroutine: use `await` there")
    if type(awaitable) is not CoroutineType:
        awaitable = _awaited(awaitable)
    try:
        if p.kind == GUEST:
            import asyncio
            return asyncio.run(awaitable)
        return s.drive(awaitable)
    finally:
        awaitable.close()       # where it never began


async def _awaited(awaitable):
    return await awaitable


def monitor_fd(fd, /, *, bint read=True, bint write=False):
    """Have an `FdReady` message sent, once, when the descriptor is ready; the `Ref` that it comes with (OTP: `enif_select`, `{active, once}`).

    >>> import os
    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     reader, writer = os.pipe()
    ...     ref = pa.monitor_fd(reader)
    ...     os.write(writer, b"hi")
    ...     ready = pa.receive(pa.FdReady, timeout=10)
    ...     ready.ref == ref, ready.readable, os.read(reader, 2)
    ...     os.close(reader), os.close(writer)
    2
    (True, True, b'hi')
    (None, None)

    For libraries that have a descriptor and no asyncio. Read or write what there is, without blocking, then monitor it again: so a slow
    process gets one message, however much comes.

    Args:
        fd: an open descriptor, or an object with `fileno()`, such as a socket. It stays the caller's: closing it is, too, after `demonitor_fd`.
        read: when it can be read: there is something, or the end.
        write: when it can be written to.

    Raises:
        ValueError: neither read nor write; a process of this worker monitors it already.
        OSError: it is closed (EBADF), or can't be waited for, as files can't (EPERM).

    It ends with the process, which can't be moved meanwhile.
    """
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef FdMonitor watch = FdMonitor.__new__(FdMonitor)
    number = fd if type(fd) is int else fd.fileno() if hasattr(fd, "fileno") else None
    if type(number) is not int:
        raise TypeError(f"expected a descriptor's number, or an object with fileno(), got {fd!r} ({type(fd).__name__})")
    if not read and not write:
        raise ValueError("expected read or write to be waited for, got neither")
    watch.fd = number
    watch.events = (EPOLLIN if read else 0) | (EPOLLOUT if write else 0)
    watch.process = p
    watch.ref = s.make_ref(p)
    s.watch(watch)
    if p.more().fds is None:
        p.extra.fds = {}
    p.extra.fds[watch.ref] = watch
    return watch.ref


def demonitor_fd(Ref ref not None, /, *, bint flush=False):
    """Take a `monitor_fd` off; with `flush`, its message out of the mailbox too. Whether it was still there."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    watch = None
    if p.extra is not None and p.extra.fds is not None:
        watch = p.extra.fds.pop(ref, None)
    if watch is not None:
        s.unwatch(<FdMonitor>watch)
    elif flush:
        receive(_ready_of(ref), timeout=0, default=None)
    return watch is not None


def _ready_of(ref):
    return lambda message: type(message) is FdReady and message.ref == ref


def areceive(*patterns, timeout=None, default=_NO_DEFAULT):
    """`receive` for `async def` bodies: `message = await areceive(...)`. Holds only the coroutine's frame while it waits."""
    return awaiting(patterns, timeout, default)


def asleep(duration):
    """`sleep` for `async def` bodies: `await asleep(0.5)`."""
    return awaiting(None, duration, _NO_DEFAULT)


def sleep(duration):
    """Suspend the calling process for `duration` seconds; its worker runs others (OTP: `timer:sleep/1`). 0: give way once."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef double limit = seconds(duration, "the duration")
    if limit == 0:
        s.reductions = 0
        s.spend(p)
        return
    if limit > 0:
        s.arm(p, limit)
    try:
        while True:
            s.block(p, SLEEP)
            if p.timed_out:
                return
    finally:
        s.disarm(p)


# ---------------------------------------------------------------------- exits, links, monitors, aliases

def exit(target, reason, /):
    """Send `target` the exit signal `reason` (OTP: `exit/2`)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef Pid pid = resolve(s, target)
    cdef int flags = 0
    if type(reason) is str:
        if reason == "kill":
            flags = IS_KILL
        elif reason == "normal":
            flags = IS_NORMAL
    reason = s.codec.isolate(reason)
    s.reach(pid.hi)
    s.exit_signal(pid, p.pid, reason, flags, 0)
    if p.pending is not None:
        s.check(p)


cdef Envelope gather(Process p, Envelope before, dict waiting, dict ends, dict told):
    """Take the Downs that `waiting` is for, and Exits of their processes, out of the mailbox after `before`; its last envelope then."""
    cdef Envelope envelope = p.first if before is None else before.next
    cdef Envelope following
    while envelope is not None:
        following = envelope.next
        body = envelope.body
        if type(body) is Down:
            pid = waiting.pop(body.ref, None)
            if pid is not None:
                ends[pid] = body.reason
                p.unlink(before, envelope)
                envelope = following
                continue
        elif type(body) is Exit and body.pid in ends:
            told.setdefault(body.pid, body.reason)
            p.unlink(before, envelope)
            envelope = following
            continue
        before = envelope
        envelope = following
    return before


def stop_all(dict children not None, /):
    """End linked processes, all at once: `{pid: shutdown}`; returns when they are gone, with the reasons `{pid: reason}`.

    `shutdown` is that of a child's spec: each gets the exit signal `shutdown`, and is killed where it hasn't ended after so many
    seconds ("infinity": never); "brutal_kill": is killed. The links are taken off first. One that was dead before has the reason
    of its Exit, where that is in the mailbox, else "noproc".

    A supervisor does this for thousands: so it is one pass over them, and one over the mailbox (each `receive` of one Down
    would look at all others).
    """
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef dict waiting = {}                          # Ref -> Pid
    cdef dict ends = dict.fromkeys(children, NOT_FOUND)     # Pid -> reason
    cdef dict told = {}                             # Pid -> the reason of its Exit
    cdef list due = []                              # (seconds, Pid)
    cdef Py_ssize_t asked = 0, first = 0
    cdef double began, left
    cdef Ref ref
    cdef Pid pid
    if p.flags & SCANNING:
        raise RuntimeError("stop_all() was called while a message of the same process was being matched or unpickled")
    p.save = None       # how far it has looked: a limited mailbox may drop what is there, and minds this
    for pid, limit in list(children.items()):
        ref = s.make_ref(p)
        waiting[ref] = pid
        s.add_monitor(p, ref, pid)
        # From here on no Exit of it comes any more: one that dies now tells by its Down.
        s.remove_link(p, pid)
        if type(limit) is str and limit == "brutal_kill":
            s.exit_signal(pid, p.pid, "kill", IS_KILL, 0)
        else:
            s.exit_signal(pid, p.pid, "shutdown", 0, 0)
            if type(limit) is not str:
                due.append((limit, pid))
        s.spend(p)
        if p.pending is not None:
            s.check(p)
        asked += 1
        if asked & 511 == 0:
            p.save = gather(p, p.save, waiting, ends, told)     # the mailbox stays short meanwhile
    due.sort(key=_seconds_first)
    began = _time.monotonic()
    try:
        while True:
            if p.kind == GUEST:
                s.poll(0)
            p.save = gather(p, p.save, waiting, ends, told)
            if not waiting:
                break
            left = 0
            while first < len(due) and left <= 0:
                limit, pid = due[first]
                if ends[pid] is NOT_FOUND:
                    left = began + limit - _time.monotonic()
                    if left > 0:
                        break
                    s.exit_signal(pid, p.pid, "kill", IS_KILL, 0)
                first += 1
            p.save = gather(p, p.save, waiting, ends, told)     # who lived here is dead at once
            if not waiting:
                break
            if left > 0:
                s.arm(p, left)
            s.block(p, MAIL)
            s.disarm(p)
    finally:
        s.disarm(p)
    for pid, reason in told.items():
        if type(ends[pid]) is str and ends[pid] == "noproc":
            ends[pid] = reason
    return ends


def adopt(Pid pid not None, parent, /):
    """Become the parent of a process whose parent is `parent` (None: it has none): what ends a server with its parent. False: it has another.

    For supervisors. Raises NoProc for a dead one.
    """
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    if s.gone(pid):
        raise NoProc(f"{pid} is dead", reason="noproc", target=pid)
    return s.ask(hi_endpoint(pid.hi), hi_incarnation(pid.hi), ("adopt", pid.lo, p.pid, parent), FOREVER)


def call_off(Pid owner not None, list watched not None, /):
    """Kill processes that `owner` waits for, in its name, from whatever process runs on its worker; doesn't wait for their ends.

    `watched`: (pid, the reference of its monitor, an alias or not). Their links to the owner go first, so that it outlives them, and
    what they send to the reference is dropped; what has come before stays in its mailbox. For finalizers, which run anywhere, and
    for an owner that is being killed. False: it lives in another thread; nothing is done.
    """
    cdef Scheduler s = here()
    cdef Process p
    cdef Pid pid
    cdef Ref ref
    p = s.here_is(owner)
    if p is None and owner.hi != s.hi:
        return False
    for pid, ref in watched:
        if p is not None:
            s.remove_link(p, pid)
            s.remove_monitor(p, ref)
            entry = s.alias_of(ref)
            if entry is not None and entry[0] is p:
                s.drop_alias(ref)
        s.exit_signal(pid, owner, "kill", IS_KILL, 0)
    return True


def _seconds_first(pair):
    return pair[0]


def link(target, /):
    """Link the caller and `target`: when one ends abnormally, so does the other (OTP: `link/1`)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef Pid pid = resolve(s, target)
    s.reach(pid.hi)
    s.add_link(p, pid)
    if p.pending is not None:
        s.check(p)


def unlink(target, /):
    """Take the link to `target` off: no exit from it acts or arrives after this returns (OTP: `unlink/1`)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    s.remove_link(p, resolve(s, target))


def monitor(target, /, *, bint alias=False):
    """Watch `target`: exactly one `Down(ref, pid, reason)` when it ends; returns the `Ref` (OTP: `monitor/2`)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef Ref ref
    cdef Pid pid
    pid = looked_up(s, target)
    if pid is not None:
        s.reach(pid.hi)
    ref = s.make_ref(p)
    # Nobody has the name: the Down comes at once, and takes the alias away.
    if alias and pid is not None:
        if p.more().aliases is None:
            p.extra.aliases = {}
        p.extra.aliases[ref] = None
        s.aliases[ref.lo] = (p, True)
    if pid is None:
        s.deliver(p, Down(ref, target, "noproc"))
    else:
        s.add_monitor(p, ref, pid)
    return ref


def demonitor(Ref ref not None, /, *, bint flush=False):
    """Take a monitor off; with `flush`, its Down out of the mailbox too. Whether it was still there (OTP: `demonitor/2`)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef bint was
    cdef Envelope before = None, envelope
    if flush and p.flags & SCANNING:
        raise RuntimeError("demonitor(flush=True) was called while a message of the same process was being matched or unpickled")
    was = s.remove_monitor(p, ref)
    entry = s.alias_of(ref)
    if entry is not None and entry[0] is p and entry[1]:
        s.drop_alias(ref)
    if flush and not was:
        envelope = p.first
        while envelope is not None:
            if type(envelope.body) is Down and envelope.body.ref == ref:
                p.unlink(before, envelope)
                break
            before = envelope
            envelope = envelope.next
    return was


def alias():
    """A `Ref` that works as the caller's address until `unalias` (OTP: `alias/0`)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef Ref ref = s.make_ref(p)
    if p.more().aliases is None:
        p.extra.aliases = {}
    p.extra.aliases[ref] = None
    s.aliases[ref.lo] = (p, False)
    return ref


def unalias(Ref ref not None, /):
    """Switch an alias of the caller off: what comes later is dropped before the mailbox. Whether it was on (OTP: `unalias/1`)."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    entry = s.alias_of(ref)
    if entry is None or entry[0] is not p:
        return False
    return s.drop_alias(ref)


# ---------------------------------------------------------------------- names

def register(name, target, /):
    """Give `target` a name, unique in the node (OTP: `register/2`)."""
    cdef Scheduler s = here()
    acting(s)
    cdef Pid pid
    checked_name(name)
    pid = resolve(s, target)
    if s.gone(pid):
        raise NoProc(f"expected a live process to register as {name!r}, got {pid}, which is dead", reason="noproc", target=pid)
    if s.ask(hi_endpoint(pid.hi), hi_incarnation(pid.hi), ("register", name, pid.lo), REMOTE_TIMEOUT) is NOT_FOUND:
        raise NoProc(f"{pid}'s worker did not answer within {REMOTE_TIMEOUT} s", target=pid)


def unregister(name, /):
    """Take a name back (OTP: `unregister/1`)."""
    cdef Scheduler s = here()
    acting(s)
    cdef Pid pid = resolve(s, checked_name(name))
    if s.ask(hi_endpoint(pid.hi), hi_incarnation(pid.hi), ("unregister", name, pid.lo), REMOTE_TIMEOUT) is NOT_FOUND:
        raise NoProc(f"{pid}'s worker did not answer within {REMOTE_TIMEOUT} s", target=pid)


def whereis(name, /):
    """The pid registered as `name`, or behind a via name or a reference; None where there is none (OTP: `whereis/1`)."""
    if type(name) is str:
        return named(here(), <str>name)
    try:
        found = behind(name)
    except NotRegistered:
        return None
    if found is None:
        checked_name(name)
    return found if is_alive(found) else None       # a registry may not have heard of its end yet


def registered():
    """All registered names (OTP: `registered/0`)."""
    return [name for name, _, _ in here().names.registered() if not name.startswith("\0")]      # those are tables (ets.pyx)


# ---------------------------------------------------------------------- timers

cdef object start_timer(object delay, object dest, object message, bint repeat):
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef double limit = seconds(delay, "the time")
    cdef int64_t ns, due
    cdef Ref ref
    if limit < 0 or limit > 3e9:
        raise ValueError(f"expected a time of at most 3e9 seconds, got {delay!r}")
    if repeat and limit == 0:
        raise ValueError("expected an interval of more than 0 seconds, got 0")
    if type(dest) is not Pid and type(dest) is not Ref and type(dest) is not str:
        stands = behind(dest)
        if stands is None:
            raise TypeError(f"expected a Pid, a name or an alias, got {dest!r} ({type(dest).__name__})")
        dest = stands
    data = s.codec.encode(message)
    ns = <int64_t>(limit * 1e9)
    if repeat and ns == 0:
        ns = 1
    due = _time.monotonic_ns() + ns
    ref = s.make_ref(p)
    if p.kind == GUEST:
        # Nobody polls for a guest that computes: the root keeps its timers.
        s.ask(s.segment.root, 0, ("start_timer", ref.hi, ref.lo, due, ns if repeat else 0, dest, data), REMOTE_TIMEOUT)
    else:
        s.start_timer(ref.hi, ref.lo, due, ns if repeat else 0, dest, data)
    return ref


def send_after(delay, dest, message, /):
    """Send `message` to `dest` in `delay` seconds; a `Ref` to cancel it by (OTP: `erlang:send_after/3`)."""
    return start_timer(delay, dest, message, False)


def send_interval(interval, dest, message, /):
    """Send `message` to `dest` every `interval` seconds until cancelled or `dest` is dead (OTP: `timer:send_interval/3`)."""
    return start_timer(interval, dest, message, True)


cdef object ask_timer(Ref ref, bint cancel):
    cdef Scheduler s = here()
    acting(s)
    cdef uint32_t e = hi_endpoint(ref.hi), inc = hi_incarnation(ref.hi)
    if hi_nonce(ref.hi) != s.segment.nonce or e >= s.segment.endpoints:
        return None
    if ref.lo >> 52:
        # Made by a process that ran on another worker than its home.
        e = <uint32_t>(ref.lo >> 52) - 1
        inc = <uint32_t>(ref.lo >> 36 & 0xFFFF)
    left = s.timer_left(ref.hi, ref.lo, cancel)
    if left is None or type(left) is Pid:
        left = ask_for_timer(s, ref, cancel, e, inc)
    if type(left) is Pid:
        # It has moved with its receiver.
        try:
            left = s.ask(hi_endpoint((<Pid>left).hi), hi_incarnation((<Pid>left).hi),
                         ("timer_of", (<Pid>left).lo, ref.hi, ref.lo, cancel), REMOTE_TIMEOUT)
        except NoProc:
            return None
    return None if left is NOT_FOUND or type(left) is Pid else left


cdef object ask_for_timer(Scheduler s, Ref ref, bint cancel, uint32_t e, uint32_t inc):
    """Where it was made."""
    if e > s.segment.root:
        return s.ask(s.segment.root, 0, ("timer", ref.hi, ref.lo, cancel), REMOTE_TIMEOUT)
    if s.believed[e] > inc or e == s.endpoint:
        return s.moved_timers.get((ref.hi, ref.lo))
    return s.ask(e, inc, ("timer", ref.hi, ref.lo, cancel), REMOTE_TIMEOUT)


def cancel_timer(Ref ref not None, /):
    """Cancel a timer: the seconds it had left, or None if it had fired or was none (OTP: `erlang:cancel_timer/1`)."""
    return ask_timer(ref, True)


def read_timer(Ref ref not None, /):
    """The seconds a timer has left, or None (OTP: `erlang:read_timer/1`)."""
    return ask_timer(ref, False)


# ---------------------------------------------------------------------- looking at processes

cdef bint guest_lives(Scheduler s, uint32_t e):
    """Whether the guest of a live slot is alive: one that was killed is not, though its thread is still there."""
    return ld32_relaxed(s.segment.slot_at(e) + 256) != 0


cdef bint is_guest_pid(Scheduler s, Pid pid):
    return hi_endpoint(pid.hi) > s.segment.root


def is_alive(pid, /):
    """Whether the process lives (OTP: `is_process_alive/1`)."""
    cdef Scheduler s = here()
    acting(s)
    cdef Pid target = looked_up(s, pid)
    cdef uint32_t e
    if target is None:
        return False
    if target.hi == s.hi and s.find(target.lo) is None:
        return s.is_unborn(target.lo)
    if target.hi == s.hi and not s.find(target.lo).flags & AWAY:
        return True
    if s.gone(target):
        return False
    e = hi_endpoint(target.hi)
    if e >= s.segment.root:
        # The root lives as long as the run; a guest is its thread: as long as its slot.
        return (s.segment.state(e) == SLOT_LIVE and s.segment.incarnation(e) == hi_incarnation(target.hi)
                and lo_counter(target.lo) == 1 and (e == s.segment.root or guest_lives(s, e)))
    try:
        return s.ask(e, hi_incarnation(target.hi), ("is_alive", target.lo), FOREVER)
    except NoProc:
        return False


def living(pids, /):
    """Those of `pids` that live, in their order: `is_alive` for many, with one question to each worker, not one for each process."""
    cdef Scheduler s = here()
    acting(s)
    cdef Pid pid
    cdef dict asked = {}            # (endpoint, incarnation) -> [Pid]
    cdef set found = set()
    for pid in set(pids):
        if s.here_is(pid) is not None:
            found.add(pid)
        elif pid.hi == s.hi or hi_endpoint(pid.hi) >= s.segment.root:
            if is_alive(pid):
                found.add(pid)
        elif not s.gone(pid):
            asked.setdefault((hi_endpoint(pid.hi), hi_incarnation(pid.hi)), []).append(pid)
    for (e, inc), some in asked.items():
        try:
            answers = s.ask(e, inc, ("living", [(<Pid>each).lo for each in some]), FOREVER)
        except NoProc:
            continue
        for pid, lives in zip(some, answers):
            if is_alive(pid) if lives is None else lives:
                found.add(pid)
    return [pid for pid in pids if pid in found]


def pid_of(target, /):
    """The pid behind whatever stands for a process, now. Raises NotRegistered, TypeError."""
    cdef Scheduler s = here()
    acting(s)
    return resolve(s, target)


def runs_here(Pid pid not None, /):
    """Whether it runs on the caller's worker; a guest does in its own thread."""
    return here().here_is(pid) is not None


def processes():
    """The pids of all live processes of the node, guests included, the runtime's own left out (OTP: `processes/0`)."""
    cdef Scheduler s = here()
    acting(s)
    cdef uint32_t e, inc
    found = []
    for e in range(s.segment.endpoints):
        if s.segment.state(e) != SLOT_LIVE or e == s.segment.root:
            continue
        inc = s.segment.incarnation(e)
        if e > s.segment.root:
            if guest_lives(s, e):
                found.append(new_pid(make_hi(s.segment.nonce, e, inc), make_lo(e, inc, 1)))
            continue
        try:
            some = s.ask(e, inc, ("processes",), FOREVER)
        except NoProc:
            continue
        found.extend(some)
    return found


def process_info(pid, item=None, /):
    """Facts about a process, on whatever worker it lives: a dict, or one `item` of it; None if it is dead (OTP: `process_info/1,2`)."""
    cdef Scheduler s = here()
    acting(s)
    cdef Pid target = looked_up(s, pid)
    if target is None or s.gone(target):
        return None
    try:
        facts = s.ask(hi_endpoint(target.hi), hi_incarnation(target.hi), ("info", target.lo, item if type(item) is str else None),
                      REMOTE_TIMEOUT if is_guest_pid(s, target) else FOREVER)
    except NoProc:
        return None
    if facts is NOT_FOUND:
        raise ReceiveTimeout(f"the thread of {target} did not answer within {REMOTE_TIMEOUT} s: it answers only while it calls this library", target=pid)
    if facts is None or item is None:
        return facts
    if item not in facts:
        raise KeyError(f"expected one of {sorted(facts)}, got {item!r}")
    return facts[item]


def migrate(pid, worker, timeout=5.0):
    """Move a GenServer, a typed actor or another callback process to a worker, between two of its messages; returns when it is there.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=2):
    ...     supervisor = pa.options(worker=0).start(pa.Supervisor, [])
    ...     pa.migrate(supervisor, 1)
    ...     pa.process_info(supervisor, "worker")
    1

    Its pid, name and references stay good, its messages keep their order, and its state, timers, links and monitors go along
    (docs/moving.md). OTP's schedulers do so by themselves; so does the setting `rebalance`.

    Args:
        pid: the process, its name or its reference.
        worker: the worker's number, as in `worker_indices()`.
        timeout: seconds; None waits without end.

    Raises:
        ValueError: there is no such worker, or the process can't move: its body is a function, its mailbox is limited, or it is the caller.
        CallTimeout: it is busy with a message, suspended, or has an active alias. It moves when it can, all the same.
        NoProc: it is dead, or a guest.
        NotRegistered: nobody has that name.
        NotPicklable: its state can't be pickled; so it stays where it is, and goes on. What its state raises there when it is unpickled is
            raised, too.
    """
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef Pid target
    cdef double limit = seconds(timeout, "a time-out")
    if type(pid) is not Pid:
        pid = resolve(s, pid)
    target = <Pid>pid
    if type(worker) is not int or not 0 <= worker < s.segment.workers or s.segment.state(worker) != SLOT_LIVE or s.segment.is_leaving(worker):
        raise ValueError(f"expected worker to be the number of a worker of this system, got {worker!r}")
    if target == p.pid:
        raise ValueError(f"expected another process to move, got the caller itself ({target}): it moves between two of its messages, so ask another to move it")
    if s.gone(target) or hi_endpoint(target.hi) >= s.segment.workers:
        raise NoProc(f"expected a live process of a worker to move, got {target}", reason="noproc", target=target)
    if s.ask(hi_endpoint(target.hi), hi_incarnation(target.hi), ("migrate", target.lo, worker), limit) is NOT_FOUND:
        raise CallTimeout(f"{target} did not move to worker {worker} within {timeout} s: it is busy with a message, or holds an alias; it moves when it can", target=target, elapsed=timeout)


def worker_index():
    """The number of the worker that the caller runs on; None for a guest."""
    cdef Scheduler s = here()
    return s.endpoint if s.endpoint < s.segment.workers else None


def worker_count():
    """How many workers the node has: as many as `worker_indices()` lists."""
    return len(worker_indices())


def worker_indices():
    """The numbers of the workers that take new processes, in order: what `options(worker=)` takes.

    0 to n - 1, until one is removed. One that is being replaced counts, one that leaves doesn't.
    """
    cdef Segment segment = here().segment
    cdef uint32_t e
    found = []
    for e in range(segment.workers):
        if segment.takes(e, segment.slot_word(e)):
            found.append(e)
    return found


def spread_spawns(bint on=True):
    """Whether the caller's spawns spread over the workers (as those of the main process do). Returns the former setting."""
    cdef Scheduler s = here()
    cdef Process p = acting(s)
    cdef bint before = p.flags & SPREAD
    if on:
        p.flags |= SPREAD
    else:
        p.flags &= ~SPREAD
    return before
