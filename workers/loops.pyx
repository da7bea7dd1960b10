# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""asyncio inside of processes: a loop and a task for each process that awaits, on the scheduler's epoll and timers.

Imported when a worker has imported asyncio (boot.py); until then coroutines are stepped by the scheduler alone.

    process API awaited by the body      Body -> SUSPENDED -> the task's next step is kept in `step`, the process waits as ever
    asyncio awaited by anybody           stock asyncio: futures, handles in the loop's `_ready`, `BaseEventLoop._run_once`
    process API awaited by another task  a future, resolved when the mailbox has changed (`look`)

    descriptor ready -> park -> IoWatch.ready -> `events`, process runnable -> turn -> _run_once -> its callbacks

Each process has a loop of its own, which is nothing before it is used: so a callback's process is known, it runs as that process (which
is preempted, killed and counted as ever), `asyncio.all_tasks()` are the process's, and what is open is closed with it, as OTP closes the
ports of a process. All loops of a worker share the scheduler's epoll, one bell for other threads, and one pool of threads.

Used of asyncio beyond what is public: `BaseEventLoop._run_once`, `_ready`, `_scheduled`, `_transports`, `_thread_id`, `_make_self_pipe`,
`_close_self_pipe`, `_write_to_self`, and a task's `_log_destroy_pending`.
"""
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uint8_t, uint32_t
cimport cython

from parallel_actors.workers.scheduler cimport (
    ASYNC, BLOCKED, EXITING, HOG, IDLE, LATE, LIMITED, MAIL, NOTHING, SUSPENDED, TASKS, WAITS_LOCK,
    Envelope, Loops, Process, Scheduler, Tasks, Watch, own_context,
)
from parallel_actors.workers.timers cimport Timer

import asyncio
import os
import selectors
import sys
import threading
import time
from asyncio import _enter_task, _leave_task, _set_running_loop
from asyncio.coroutines import _is_debug_mode
from asyncio.events import _get_running_loop
from collections import deque
from weakref import WeakSet

from parallel_actors.workers import api, blocking
from parallel_actors.workers.errors import ProcessExit

cdef extern from "sys/epoll.h":
    enum: EPOLLIN
    enum: EPOLLOUT

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object, object, PyObject **) except? PYGEN_ERROR

cdef enum:
    ROUNDS = 64             # of a loop before its process gives way
    FORCED_ROUNDS = 1000    # that the tasks of a process which was told to end have for their cleaning up
    CANCELS = 10            # and how often they are cancelled meanwhile
    CHILD_SECONDS = 1       # that a killed child process may take to end

cdef int READ = selectors.EVENT_READ, WRITE = selectors.EVENT_WRITE
cdef Envelope UNTOUCHED = Envelope.__new__(Envelope)
cdef object NOTHING_THERE = object()


# ---------------------------------------------------------------------- descriptors

@cython.final
cdef class IoWatch(Watch):
    """A descriptor of one loop."""

    cdef Own tasks
    cdef object key                 # its SelectorKey
    cdef int pending                # what it is ready for, until the end of the turn that sees it
    cdef bint handed                # that turn has begun

    cdef int ready(self, uint32_t events) except -1:
        cdef Process p = self.tasks.process
        cdef int mask = 0
        if events & ~<uint32_t>EPOLLOUT and self.events & EPOLLIN:
            mask |= READ
        if events & ~<uint32_t>EPOLLIN and self.events & EPOLLOUT:
            mask |= WRITE
        if self.pending or not mask:
            # It is told already, and busy: level-triggered, this would come at each look.
            self.tasks.muted.append(self)
            return p.scheduler.mute(self)
        self.pending = mask
        self.handed = False
        self.tasks.events.append(self)
        return self.tasks.wake()


class _Selector(selectors.SelectSelector):
    """What a loop takes for its selector: the scheduler's epoll."""

    def __init__(self, Own tasks):
        super().__init__()
        self._tasks = tasks
        self._watches = {}

    def register(self, fileobj, events, data=None):
        cdef Own tasks = self._tasks
        cdef IoWatch watch = IoWatch.__new__(IoWatch)
        key = super().register(fileobj, events, data)
        watch.tasks = tasks
        watch.fd = key.fd
        watch.key = key
        watch.events = (EPOLLIN if events & READ else 0) | (EPOLLOUT if events & WRITE else 0)
        try:
            tasks.process.scheduler.watch(watch)
        except BaseException:
            super().unregister(fileobj)
            raise
        self._watches[key.fd] = watch
        return key

    def unregister(self, fileobj):
        cdef Own tasks = self._tasks
        cdef IoWatch watch
        key = super().unregister(fileobj)
        watch = <IoWatch>self._watches.pop(key.fd)
        watch.pending = 0
        tasks.process.scheduler.unwatch(watch)
        return key

    def modify(self, fileobj, events, data=None):
        key = super().modify(fileobj, events, data)
        (<IoWatch>self._watches[key.fd]).key = key
        return key

    def select(self, timeout=None):
        """What has become ready; never waits."""
        cdef Own tasks = self._tasks
        cdef IoWatch watch
        cdef list found = []
        events = tasks.events
        if events:
            tasks.events = []
            for watch in events:
                if watch.pending and not watch.handed:
                    watch.handed = True
                    tasks.muted.append(watch)       # for the end of the turn
                    found.append((watch.key, watch.pending))
        return found

    def close(self):
        cdef Own tasks = self._tasks
        cdef IoWatch watch
        for watch in self._watches.values():
            tasks.process.scheduler.unwatch(watch)
        self._watches.clear()
        super().close()


# ---------------------------------------------------------------------- the loop

class ProcessLoop(asyncio.SelectorEventLoop):
    """The event loop of one process. Nothing of it exists until something is used that the process API has no part in."""

    _closed = False
    _debug = _is_debug_mode()

    def __init__(self, Own tasks):
        self._tasks = tasks         # the rest when it is first asked for

    def __getattr__(self, name):
        cdef Own tasks = self._tasks
        if tasks.started or self._closed:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        tasks.started = True
        self._servers = WeakSet()
        self._others = WeakSet()
        self._thread_id = threading.get_ident()
        asyncio.SelectorEventLoop.__init__(self, _Selector(tasks))
        self._thread_id = threading.get_ident()     # it runs as long as its process lives
        return getattr(self, name)

    def __del__(self):
        pass        # it is closed with its process

    def __reduce__(self):
        raise TypeError("expected what can be pickled, got an asyncio event loop (a task, future or transport has one): it stays in its process")

    def __repr__(self):
        cdef Own tasks = self._tasks
        return f"<asyncio loop of {tasks.process.pid!r}{' closed' if self._closed else ''}>"

    def call_soon(self, callback, *args, context=None):
        cdef Own tasks = self._tasks
        if tasks.parking:
            # The body's task, in the very step that awaits the process API: its next one is ours to make.
            tasks.parking = False
            tasks.step = callback
            return None
        handle = asyncio.SelectorEventLoop.call_soon(self, callback, *args, context=context)
        if tasks.process.scheduler.current is not tasks.process:
            tasks.wake()        # by another process, through an object that both have
        return handle

    def _make_self_pipe(self):
        pass

    def _close_self_pipe(self):
        pass

    def _write_to_self(self):
        cdef Own tasks = self._tasks
        tasks.bell.ring(tasks)

    def stop(self):
        raise RuntimeError("expected the loop of a process to end with it, got stop(): return from the body instead")

    def add_signal_handler(self, sig, callback, *args):
        # Libraries that would like to have signals do without, as on Windows.
        raise NotImplementedError("expected no handlers of signals in a process, got one: they are the runtime's")

    def remove_signal_handler(self, sig):
        return False

    def call_exception_handler(self, context):
        cdef Own tasks = self._tasks
        exception = context.get("exception")
        if isinstance(exception, ProcessExit) and tasks.process.flags & EXITING or isinstance(exception, asyncio.CancelledError) and tasks.ending:
            return              # that is how the process, or (Python 3.11's streams log it) its tasks end
        super().call_exception_handler(context)

    def run_in_executor(self, executor, func, *args):
        # The worker's pool: one for each process would be thousands of threads.
        return super().run_in_executor(self._tasks.threads() if executor is None else executor, func, *args)

    async def shutdown_default_executor(self, timeout=None):
        pass

    async def create_server(self, *args, **keywords):
        server = await super().create_server(*args, **keywords)
        self._servers.add(server)
        return server

    async def create_unix_server(self, *args, **keywords):
        server = await super().create_unix_server(*args, **keywords)
        self._servers.add(server)
        return server

    async def connect_read_pipe(self, *args, **keywords):
        made = await super().connect_read_pipe(*args, **keywords)
        self._others.add(made[0])
        return made

    async def connect_write_pipe(self, *args, **keywords):
        made = await super().connect_write_pipe(*args, **keywords)
        self._others.add(made[0])
        return made

    async def subprocess_exec(self, *args, **keywords):
        made = await super().subprocess_exec(*args, **keywords)
        self._others.add(made[0])
        return made

    async def subprocess_shell(self, *args, **keywords):
        made = await super().subprocess_shell(*args, **keywords)
        self._others.add(made[0])
        return made

    def close_what_is_open(self):
        for server in list(self._servers):
            server.close()
        for transport in list(self._others):
            transport.close()
        for transport in list(self._transports.values()):
            transport.abort()


class BodyTask(asyncio.Task):
    """The task of a process's body, or of a coroutine that it drives. Real; only its steps that await the process API are ours."""

    def cancel(self, msg=None):
        done = super().cancel(msg)
        if done:
            self.tasks.cancelled(self)
        return done


@cython.final
cdef class Body:
    """The coroutine that such a task sees: the user's, between which and the task the process API is heard."""

    cdef Own tasks
    cdef object coroutine
    cdef object yielded             # a future that it has yielded to somebody else
    cdef bint ended
    cdef object value
    cdef object error               # the exception that it has ended with

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef PyObject *out = NULL
        cdef PySendResult got
        if self.ended:
            if self.error is not None:
                raise self.error
            raise StopIteration(self.value)
        if self.yielded is not None:
            yielded = self.yielded
            self.yielded = None
            return yielded
        self.tasks.process.wait = NOTHING
        try:
            got = PyIter_Send(self.coroutine, None, &out)
        except BaseException as error:
            self.ended = True
            self.error = error
            raise
        yielded = <object>out
        Py_XDECREF(out)
        if got == PYGEN_RETURN:
            self.ended = True
            self.value = yielded
            raise StopIteration(yielded)
        return self.passed(yielded)

    cdef object passed(self, yielded):
        if yielded is SUSPENDED or yielded is None:
            if not self.tasks.lets_others(yielded):
                self.tasks.main_wait = self.tasks.process.wait
                self.tasks.parking = True
            return None
        return yielded

    def send(self, value):
        return self.__next__()

    def throw(self, *what):
        if self.ended:
            raise StopIteration(None)
        self.yielded = None
        return self.passed(self.thrown(what))

    cdef object thrown(self, tuple what):
        """Throw it in: what is yielded then, or StopIteration, or what it ends with."""
        self.tasks.process.wait = NOTHING
        try:
            return self.coroutine.throw(*what)
        except StopIteration as stop:
            self.ended = True
            self.value = stop.value
            raise
        except BaseException as error:
            self.ended = True
            self.error = error
            raise

    def close(self):
        if self.coroutine is not None:
            self.coroutine.close()

    def __getattr__(self, name):
        return getattr(self.coroutine, name)        # cr_frame, __qualname__, ...

    def __repr__(self):
        return repr(self.coroutine)


# ---------------------------------------------------------------------- a process's tasks

@cython.final
cdef class Own(Tasks):
    """The loop of one process, and the task of what it runs.

    Invariant: the thread's running loop is `loop` exactly while the process runs between `enter` and `leave`; whoever switches away in
    between saves it (`Scheduler.switch_away`).
    """

    cdef object loop
    cdef Bell bell
    cdef bint started               # the loop has been used
    cdef Body body                  # what `main` runs; None: nothing
    cdef object main                # the BodyTask under way
    cdef object step                # its next step while it awaits the process API; None: it awaits asyncio, or runs
    cdef int main_wait              # what that awaits: a Wait
    cdef bint parking               # the next call_soon() is that step
    cdef bint ending                # tasks that are left are cancelled
    cdef bint gives_way             # other processes have their turn now
    cdef bint called_off            # it has been cancelled meanwhile
    cdef list events                # IoWatches that are ready
    cdef list muted                 # that the end of the turn lets go on
    cdef set waiting                # futures of other tasks that wait for mail
    cdef Envelope seen              # the end of the mailbox when they looked last

    # -- the running loop

    cdef int begin_turn(self) except -1:
        _set_running_loop(self.loop)
        return 0

    cdef int part(self) except -1:
        """The code that has imported asyncio in the middle of a step gives way (see `join`)."""
        _leave_task(self.loop, self.main)
        _set_running_loop(None)
        return 0

    # -- turns

    cdef bint due(self):
        """Whether the body, which awaits the process API, is to look again."""
        cdef Process p = self.process
        return (self.main_wait == NOTHING or self.called_off or p.timed_out
                or self.main_wait == MAIL and p.save is not p.last)

    cdef bint ready_now(self):
        cdef Process p = self.process
        return (self.woken or p.pending is not None or self.step is not None and self.due()
                or self.waiting and p.last is not self.seen
                or self.started and (self.events or self.loop._ready))

    cdef int look(self) except -1:
        """Mail has come: all tasks that wait for some look, in their next step."""
        cdef Process p = self.process
        if p.last is not self.seen:
            self.seen = p.last
            for future in list(self.waiting):
                if not future.done():
                    future.set_result(None)
        return 0

    cdef int rounds(self) except -1:
        """Run what is due, between begin_turn() and its end."""
        cdef Process p = self.process
        cdef int left = ROUNDS
        cdef bint did
        while left:
            left -= 1
            did = False
            if self.step is not None and self.due():
                did = True
                self.go_on()
            if self.body is not None and self.body.ended:
                return 0
            if self.waiting:
                self.look()
            if self.started and (self.woken or self.events or self.loop._ready):
                did = True
                self.woken = False
                self.run_once()
                if self.body is not None and self.body.ended:
                    return 0
            if not did:
                self.woken = False
                return 0
            if p.pending is not None:
                return 0
            if self.gives_way:
                self.gives_way = False
                return 0
        return 0

    cdef int go_on(self) except -1:
        """The body's next step. As long as it awaits the process API alone its task has no part in it, beyond being the current one."""
        cdef Body body = self.body
        cdef Process p = self.process
        cdef PyObject *out = NULL
        cdef PySendResult got
        if not self.called_off and body.yielded is None:
            p.wait = NOTHING
            _enter_task(self.loop, self.main)
            try:
                got = PyIter_Send(body.coroutine, None, &out)
            except BaseException as error:
                body.ended = True
                body.error = error
                return 0
            finally:
                _leave_task(self.loop, self.main)
            yielded = <object>out
            Py_XDECREF(out)
            if got == PYGEN_RETURN:
                body.ended = True
                body.value = yielded
                return 0
            if yielded is SUSPENDED or yielded is None:
                if self.lets_others(yielded):
                    asyncio.SelectorEventLoop.call_soon(self.loop, self.step, context=own_context())
                    self.step = None
                else:
                    self.main_wait = p.wait
                return 0
            body.yielded = yielded      # the task takes it from there
        step = self.step
        self.step = None
        self.called_off = False
        step()
        return 0

    cdef bint lets_others(self, yielded):
        """Whether the body, which has yielded this, goes on as soon as other tasks have run: its next step stands in line with theirs."""
        if self.process.wait != NOTHING:
            return False
        self.gives_way = yielded is not None or not self.started    # to other processes: asleep(0), or a slice that is used up
        return self.started

    cdef int run_once(self) except -1:
        """One turn of the loop. A task or a callback may wait inside of it (`receive`): what the body waits for is put aside meanwhile."""
        cdef Process p = self.process
        cdef Timer timer
        cdef Envelope save
        if self.step is None:
            self.loop._run_once()
            return 0
        timer = p.timer
        save = p.save
        late = p.timed_out
        p.timer = None
        p.timed_out = False
        p.save = UNTOUCHED
        try:
            self.loop._run_once()
        finally:
            if p.flags & EXITING:
                if timer is not None:
                    timer.target = None
                    p.scheduler.timers.remove(timer)
            else:
                p.timed_out = late
                if timer is not None:
                    if timer.index < 0:
                        p.timed_out = True      # it has fired
                    else:
                        p.timer = timer
            p.save = save if p.save is UNTOUCHED and not p.flags & LIMITED else None
        return 0

    cdef int wait_kind(self):
        return MAIL if self.waiting or self.step is not None and self.main_wait == MAIL else TASKS

    cdef int prepare(self) except -1:
        """The process is about to wait: it is told of what its loop waits for.

        This runs Python code, in which a tick may take in mail and what is ready: look for it (`ready_now`) after this.
        """
        cdef Scheduler s = self.process.scheduler
        cdef int64_t due
        if not self.started:
            return 0
        scheduled = self.loop._scheduled
        if scheduled:
            due = <int64_t>(<double>scheduled[0].when() * 1e9) + 1
            if self.timer is None or due < self.timer.deadline:
                if self.timer is None:
                    self.timer = Timer.__new__(Timer)
                    self.timer.wakes = True
                    self.timer.target = self.process
                self.timer.deadline = due
                s.timers.add(self.timer)
        return 0

    cdef int release(self) except -1:
        """The end of a turn: what was ready and has been looked at may be told anew."""
        cdef IoWatch watch
        if self.muted:
            muted = self.muted
            self.muted = []
            for watch in muted:
                if watch.pending and not watch.handed:
                    self.muted.append(watch)
                else:
                    watch.pending = 0
                    self.process.scheduler.unmute(watch)
        return 0

    cdef int disarm(self) except -1:
        if self.timer is not None:
            self.timer.target = None
            self.process.scheduler.timers.remove(self.timer)
            self.timer = None
        return 0

    cdef bint turn(self) except -1:
        cdef Process p = self.process
        self.at_rest = False
        if p.pending is not None:
            try:
                self.unwind()
            finally:
                self.finish()
            return True
        self.begin_turn()
        try:
            self.rounds()
        finally:
            _set_running_loop(None)
        return self.after()

    cdef bint after(self) except -1:
        """The end of a coroutine process's turn. True: it has ended."""
        cdef Process p = self.process
        if self.body.ended:
            error = self.body.error
            self.finish()
            if error is not None:
                raise error
            return True
        self.release()
        if not self.ready_now():
            self.prepare()
        if self.ready_now():
            p.state = IDLE
            p.scheduler.enqueue(p)
            return False
        p.flags &= ~(HOG | WAITS_LOCK | LATE)
        p.wait = <uint8_t>self.wait_kind()
        p.state = BLOCKED
        self.at_rest = True
        return False

    cdef bint joined(self, object coroutine, object yielded) except -1:
        """The body of a coroutine process, which the scheduler has stepped until now, gets its task."""
        self.take_over(coroutine, yielded)
        return self.turn() if yielded is None else self.after()

    cdef int take_over(self, object coroutine, object yielded) except -1:
        if self.main is None:
            self.begin(coroutine)
        self.body.coroutine = coroutine
        if yielded is SUSPENDED:
            self.main_wait = self.process.wait
        elif yielded is not None:
            self.body.yielded = yielded
        return 0

    cdef int begin(self, object coroutine) except -1:
        """Make the task of a coroutine. Its first step is due."""
        cdef Body body = Body.__new__(Body)
        body.tasks = self
        body.coroutine = coroutine
        self.body = body
        self.main_wait = NOTHING
        self.called_off = False
        self.parking = True
        try:
            self.main = BodyTask(body, loop=self.loop, context=own_context())
        finally:
            self.parking = False
        self.main.tasks = self
        return 0

    cdef int finish(self) except -1:
        """The coroutine has ended: so does its task."""
        main = self.main
        step = self.step
        self.step = None
        if main is None:
            return 0
        if not main.done():
            main._log_destroy_pending = False
            self.body.ended = True
            self.body.coroutine = None
            if step is None:
                asyncio.Task.cancel(main)       # its future's callback steps it
            else:
                self.begin_turn()
                try:
                    step()
                except BaseException as error:
                    if error is not self.body.error:
                        raise
                finally:
                    _set_running_loop(None)
        if main.done() and not main.cancelled():
            main.exception()                # it is known
        self.main = None
        self.body = None
        return 0

    cpdef cancelled(self, main):
        """The task of the body has been told to cancel itself; what awaits the process API is woken."""
        if main is self.main:
            self.called_off = True
            if self.step is not None and self.process.scheduler.current is not self.process:
                self.wake()

    # -- on a stack

    cdef object drive(self, object coroutine, object yielded, bint begun):
        """Run a coroutine to its end, the process's other tasks meanwhile. Its result."""
        if begun:
            self.take_over(coroutine, yielded)
        elif self.main is not None:
            raise RuntimeError("expected no await_() inside of a coroutine: await there")
        else:
            self.begin(coroutine)
        try:
            while True:
                self.rounds_on_stack()
                if self.body.ended:
                    break
                self.rest()
            if self.body.error is not None:
                raise self.body.error
            return self.body.value
        except BaseException:
            if not self.body.ended:
                self.unwind()
            raise
        finally:
            self.finish()

    cdef int rounds_on_stack(self) except -1:
        """Run what is due, in a process that has a stack or handles messages: awaits find a coroutine process meanwhile."""
        cdef Process p = self.process
        cdef int kind = p.kind
        p.kind = ASYNC
        self.begin_turn()
        try:
            self.rounds()
        finally:
            _set_running_loop(None)
            p.kind = <uint8_t>kind
        return 0

    cdef int rest(self) except -1:
        """Wait, on a stack, until there is something to do. Raises what is to end the process."""
        cdef Process p = self.process
        cdef Scheduler s = p.scheduler
        if p.pending is not None:
            s.check(p)
        self.release()
        if not self.ready_now():
            self.prepare()
        if self.ready_now():
            s.reductions = 0
            return s.spend(p)
        self.at_rest = True
        try:
            s.block(p, self.wait_kind())
        finally:
            self.at_rest = False
        return 0

    cdef int unwind(self) except -1:
        """The process has been told to end: raise that in the body, and again in whatever it awaits in its cleaning up."""
        cdef Process p = self.process
        cdef Scheduler s = p.scheduler
        cdef Body body = self.body
        cdef int kind = p.kind
        if body is None or body.coroutine is None:
            s.check(p)
            return 0
        while not body.ended:
            try:
                s.check(p)          # counts, and gives up on one that swallows it
                raise p.pending
            except BaseException as error:
                p.kind = ASYNC
                self.begin_turn()
                _enter_task(self.loop, self.main)
                try:
                    body.thrown((error,))
                except StopIteration:
                    pass
                finally:
                    _leave_task(self.loop, self.main)
                    _set_running_loop(None)
                    p.kind = <uint8_t>kind
        return 0

    # -- between the messages of a server

    cdef int background(self) except -1:
        """What the tasks of a callback process have to do between two messages."""
        if not self.started:
            return 0
        if self.ready_now():
            self.rounds_on_stack()
            self.release()
        if not self.ready_now():
            self.prepare()
        if self.ready_now():
            self.woken = True
        return 0

    # -- awaits of tasks other than the body's

    cdef object wait_in_task(self, object patterns, double limit, object timeout, object default):
        """What such a task awaits; None where the body itself does."""
        if not self.started or asyncio.current_task(self.loop) is self.main:
            return None         # where the loop hasn't been used there are no others
        if patterns is None:
            return asyncio.sleep(float("inf") if limit < 0 else limit)
        return self.receive(patterns, limit, timeout, default)

    async def receive(self, patterns, double limit, timeout, default):
        until = None if limit < 0 else self.loop.time() + limit
        while True:
            if self.waiting:
                self.look()
            self.seen = self.process.last       # before the mailbox is looked at: what comes meanwhile shows
            message = api.receive(*patterns, timeout=0, default=NOTHING_THERE)
            if message is not NOTHING_THERE:
                return message
            left = None if until is None else until - self.loop.time()
            if left is not None and left <= 0:
                return api.timed_out_in_task(patterns, timeout, default)
            future = self.loop.create_future()
            self.waiting.add(future)
            timer = None if left is None else self.loop.call_later(left, woken_up, future)
            try:
                await future
            finally:
                self.waiting.discard(future)
                if timer is not None:
                    timer.cancel()

    def threads(self):
        """The worker's pool of threads."""
        cdef Scheduler s = self.process.scheduler
        if s.threads is None:
            s.threads = blocking.Threads(s)
        return s.threads.pool

    # -- the end

    cdef bint busy(self) except -1:
        """Whether the process has anything open: it can't move then."""
        return self.main is not None or self.started and (
            bool(self.loop._ready) or bool(self.loop._scheduled) or bool(self.loop._selector.get_map()) or bool(self.loop._servers)
            or bool(self.loop._others) or bool(asyncio.all_tasks(self.loop)))

    cdef int end(self) except -1:
        """The process has ended: its tasks are cancelled and what they have open is closed, as `asyncio.run` does it."""
        cdef Process p = self.process
        cdef int kind = p.kind
        self.at_rest = False
        self.ending = True
        try:
            self.finish()
            if self.started:
                if not p.flags & EXITING and self.busy():
                    try:
                        self.drive(self.settle(), None, False)
                    except ProcessExit:
                        if not p.flags & EXITING:
                            raise
                try:
                    self.force()
                except ProcessExit:
                    self.force()        # what is to end it came in the middle: it comes no second time soon
        finally:
            p.kind = <uint8_t>kind
            self.close()
        return 0

    async def settle(self):
        me = asyncio.current_task()
        others = [task for task in asyncio.all_tasks(self.loop) if task is not me]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self.tell_of_errors(others)
        await self.loop.shutdown_asyncgens()

    def tell_of_errors(self, tasks):
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                self.loop.call_exception_handler(
                    {"message": "a task ended by an exception when its process ended", "exception": task.exception(), "task": task})

    cdef int force(self) except -1:
        """Cancel tasks that are still there, without waiting for anything; close what is open."""
        cdef int cancels, left
        cdef Process p = self.process
        p.kind = ASYNC
        others = []
        for cancels in range(CANCELS):
            others = list(asyncio.all_tasks(self.loop))
            if not others:
                break
            for task in others:
                task.cancel()
            self.spin()
            self.tell_of_errors([task for task in others if task.done()])
        for task in asyncio.all_tasks(self.loop):
            p.scheduler.report("abandoned", {"pid": p.pid, "reason": "a task that doesn't end when it is cancelled"})
            task._log_destroy_pending = False
        self.loop.close_what_is_open()
        self.spin()
        # A child process has been killed: whoever waits for its end has a descriptor open until then, or a thread.
        until = time.monotonic() + CHILD_SECONDS
        while self.children_left() and time.monotonic() < until:
            p.scheduler.enqueue(p)
            p.scheduler.switch_away(p)
            self.release()
            self.spin()
        return 0

    cdef bint children_left(self) except -1:
        for transport in self.loop._others:
            if getattr(transport, "get_returncode", int)() is None:
                return True
        return False

    cdef int spin(self) except -1:
        """Turns of the loop until nothing is ready."""
        cdef int left = FORCED_ROUNDS
        while left and (self.loop._ready or self.events):
            left -= 1
            self.begin_turn()
            try:
                self.loop._run_once()
            except BaseException as error:
                if not isinstance(error, (ProcessExit, SystemExit)):
                    raise
            finally:
                _set_running_loop(None)
        return 0

    cdef int close(self) except -1:
        self.disarm()
        ends = False
        if self.started:
            ends = self.children_left()
            self.loop._thread_id = None
            self.loop.close()
        # A thread that waits for the end of a child (which has been killed) complains of a closed loop: it is told nothing.
        self.loop._closed = not ends
        self.process.tasks = None
        self.waiting.clear()
        self.events = []
        self.muted = []
        self.main = self.step = self.body = None
        self.loop = None        # which has us
        return 0


def woken_up(future):
    if not future.done():
        future.set_result(None)


@cython.final
cdef class Bell:
    """How other threads wake the loops of a worker."""

    cdef Scheduler scheduler
    cdef object rung                # deque of Owns
    cdef int fd

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.rung = deque()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        scheduler.watch_fd(self.fd, self.collect)

    cpdef ring(self, tasks):
        self.rung.append(tasks)
        os.eventfd_write(self.fd, 1)

    def collect(self):
        os.eventfd_read(self.fd)
        while self.rung:
            self.scheduler.wake_tasks(self.rung.popleft())


@cython.final
cdef class AsyncIO(Loops):
    """asyncio for the processes of one worker."""

    cdef Bell bell
    cdef bint hooked

    cdef Tasks tasks_of(self, Process p):
        cdef Own tasks = Own.__new__(Own)
        tasks.process = p
        tasks.bell = self.bell
        tasks.events = []
        tasks.muted = []
        tasks.waiting = set()
        tasks.loop = ProcessLoop(tasks)
        if not self.hooked:
            self.hooked = True
            sys.set_asyncgen_hooks(begun, dropped)      # of this thread
        return tasks

    cdef int join(self, Process p) except -1:
        """`p` has imported asyncio in the middle of a step: the rest of that is a task's already."""
        cdef Own tasks = <Own>self.tasks_of(p)
        tasks.begin(None)
        p.tasks = tasks
        tasks.begin_turn()
        _enter_task(tasks.loop, tasks.main)
        return 0

    cdef object leave(self):
        """Take the running loop off this thread: who runs next has none, or another."""
        loop = _get_running_loop()
        if loop is not None:
            _set_running_loop(None)
        return loop

    cdef int enter(self, object loop) except -1:
        _set_running_loop(loop)
        return 0


def begun(generator):
    """For `sys.set_asyncgen_hooks`: the loop that iterates an asynchronous generator first closes it at the latest."""
    loop = _get_running_loop()
    if type(loop) is ProcessLoop:
        loop._asyncgen_firstiter_hook(generator)


def dropped(generator):
    """Likewise: one that nobody has any more is closed by the loop that runs now."""
    loop = _get_running_loop()
    if type(loop) is ProcessLoop and not loop._closed:
        loop._asyncgen_finalizer_hook(generator)


def use_asyncio(scheduler):
    """asyncio has been imported: from now on the processes of `scheduler` have loops."""
    cdef AsyncIO made = AsyncIO.__new__(AsyncIO)
    made.bell = Bell(scheduler)
    scheduler.use_loops(made)
