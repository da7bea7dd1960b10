# cython: language_level=3, boundscheck=False, wraparound=False
"""GenServer: a process that keeps a state and answers calls, casts and other messages (OTP's `gen_server`).

    start_link -> spawn(boot), awaited as a call is ... init() on its own stack, answers ... returns Loop(Server): no stack from then on
    call       -> Scheduler.call: ("$gen_call", (caller, ref), request) -> Server.handle -> handle_call -> reply(caller, ref)

Callbacks come from a class (`GenServer`) or a plain module of functions, and may be `async def`. What they return, and what it
means, is OTP's: `Reply`, `NoReply`, `Stop`, and from `init` also `Ok` and `IGNORE`. Types and the public docstrings: gen_server.pyi.
"""
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from parallel_actors.workers.codec cimport Encoded
from parallel_actors.workers.ident cimport Pid, Ref, new_ref
from parallel_actors.workers.scheduler cimport (
    AWAITED, EXITING, GIVEN, LINKED, MONITORED, REFUSED, SPREAD, TERMINATES, Handler, Process, Scheduler, here, me,
)
from parallel_actors.workers.timers cimport seconds

import logging
import sys
import types

from greenlet import GreenletExit

from parallel_actors.workers import api
from parallel_actors.workers.codec import decode_bytes, encode_bytes, newest
from parallel_actors.workers.errors import (
    ActorError, CallingSelf, CallTimeout, MailboxFull, NameTaken, NodeDown, NoProc, NotRegistered, ProcessExit, RemoteError, StartError,
)
from parallel_actors.workers.patterns import ANY
from parallel_actors.workers.reasons import Crash, Down, Exit, Shutdown, WorkerDown, is_orderly
from parallel_actors.workers.scheduler import Loop

cdef str CALL = "$gen_call", CAST = "$gen_cast", TIMEOUT = "$gen_timeout", STOP = "$gen_stop"
cdef str SHUTDOWN_ORDER = "$shutdown", CHECKPOINT = "$checkpoint"
CARRY = "$carry"            # the keyword by which a supervisor gives a child its `checkpoint.Carrying`
cdef object KEEP = object()         # "the state as it is"
cdef object NOTHING = object()

_LOG = logging.getLogger("parallel_actors.gen_server")


# ---------------------------------------------------------------------- what callbacks return

cdef extern from *:
    """
    /* How a class is called without a tuple of its arguments and a dict of its keywords: most messages make one such call. */
    static void pa_set_vectorcall(PyObject *type, void *function) { ((PyTypeObject *)type)->tp_vectorcall = (vectorcallfunc)function; }
    static PyObject *pa_call_slowly(PyObject *type, PyObject *args, PyObject *keywords) { return PyType_Type.tp_call(type, args, keywords); }
    """
    void pa_set_vectorcall(object, void *)
    object pa_call_slowly(PyObject *, object, object)
    Py_ssize_t PyVectorcall_NARGS(size_t)


cdef object call_slowly(PyObject *kind, PyObject **args, Py_ssize_t n, PyObject *names):
    """What calling a class does where it has no `tp_vectorcall`."""
    cdef Py_ssize_t i
    keywords = {}
    if names != NULL:
        for i, name in enumerate(<tuple>names):
            keywords[name] = <object>args[n + i]
    return pa_call_slowly(kind, tuple([<object>args[i] for i in range(n)]), keywords)


@cython.freelist(16)
cdef class _Action:
    """The part that all returns which go on have: what comes next."""

    cdef readonly object state, timeout, continue_
    cdef object answer              # of a Reply
    cdef readonly bint hibernate

    cdef bint plain(self):
        return self.timeout is None and self.continue_ is NOTHING

    cdef int next(self, timeout, hibernate, continue_) except -1:
        cdef double limit
        if timeout is not None:
            limit = seconds_of(timeout)
            if limit > 3e9:
                raise ValueError(f"expected a time-out of at most 3e9 seconds, got {timeout!r}")
            if continue_ is not NOTHING:
                raise ValueError("expected either timeout or continue_, got both: handle_continue may return the time-out")
            self.timeout = None if limit < 0 else limit
        self.hibernate = hibernate
        self.continue_ = continue_
        return 0


@cython.final
cdef class Reply(_Action):
    """From `handle_call`: answer `value`, and go on (OTP: `{reply, Value, State, Action}`).

    >>> Reply(1, ["state"], timeout=5.0)
    Reply(1, ...)

    Args:
        value: the answer. One that can't be pickled is the server's error.
        state: the new state; left out, it stays as it is.
        timeout: seconds; if no message comes within them, `handle_info("timeout", state)` is called. Any message cancels it, and one that
            waits already wins, also against 0. None: no time-out.
        hibernate: accepted for OTP's sake; an idle server holds no stack anyway.
        continue_: `handle_continue(continue_, state)` is called next, before any waiting message. Not together with `timeout`.

    Raises:
        ValueError, TypeError: for a `timeout` that is no number of seconds from 0 to 3e9, or comes with `continue_`.
    """

    @property
    def value(self):
        return self.answer

    def __init__(self, value, state=KEEP, *, timeout=None, hibernate=False, continue_=NOTHING):
        self.answer = value
        self.state = state
        self.next(timeout, hibernate, continue_)

    def __repr__(self):
        return f"Reply({self.answer!r}, ...)"


cdef object new_reply(PyObject *kind, PyObject **args, size_t nargs, PyObject *names):
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargs)
    cdef Reply made
    if names != NULL or not 1 <= n <= 2:
        return call_slowly(kind, args, n, names)
    made = Reply.__new__(Reply)
    made.answer = <object>args[0]
    made.state = <object>args[1] if n == 2 else KEEP
    made.continue_ = NOTHING
    return made


pa_set_vectorcall(Reply, <void *>new_reply)


@cython.final
cdef class NoReply(_Action):
    """Go on; a call is answered later, by `reply` (OTP: `{noreply, State, Action}`).

    >>> NoReply(["state"], continue_="then this")
    NoReply(...)

    Args:
        state: the new state; left out, it stays as it is.
        timeout: seconds; if no message comes within them, `handle_info("timeout", state)` is called. Any message cancels it, and one that
            waits already wins, also against 0. None: no time-out.
        hibernate: accepted for OTP's sake; an idle server holds no stack anyway.
        continue_: `handle_continue(continue_, state)` is called next, before any waiting message. Not together with `timeout`.

    Raises:
        ValueError, TypeError: for a `timeout` that is no number of seconds from 0 to 3e9, or comes with `continue_`.
    """

    def __init__(self, state=KEEP, *, timeout=None, hibernate=False, continue_=NOTHING):
        self.state = state
        self.next(timeout, hibernate, continue_)

    def __repr__(self):
        return "NoReply(...)"


cdef object new_noreply(PyObject *kind, PyObject **args, size_t nargs, PyObject *names):
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargs)
    cdef NoReply made
    if names != NULL or n > 1:
        return call_slowly(kind, args, n, names)
    made = NoReply.__new__(NoReply)
    made.state = <object>args[0] if n else KEEP
    made.continue_ = NOTHING
    return made


pa_set_vectorcall(NoReply, <void *>new_noreply)


@cython.final
cdef class Ok(_Action):
    """From `init`: start with `state`, None by default (OTP: `{ok, State, Action}`). Without any of the rest, the bare state does too.

    >>> Ok({"a": 1}, continue_="load")
    Ok({'a': 1})

    Args:
        state: the server's first state.
        timeout: seconds; if no message comes within them, `handle_info("timeout", state)` is called. Any message cancels it, and one that
            waits already wins, also against 0. None: no time-out.
        hibernate: accepted for OTP's sake; an idle server holds no stack anyway.
        continue_: `handle_continue(continue_, state)` is called next, before any waiting message. Not together with `timeout`.

    Raises:
        ValueError, TypeError: for a `timeout` that is no number of seconds from 0 to 3e9, or comes with `continue_`.
    """

    def __init__(self, state=None, *, timeout=None, hibernate=False, continue_=NOTHING):
        self.state = state
        self.next(timeout, hibernate, continue_)

    def __repr__(self):
        return f"Ok({self.state!r})"


@cython.final
cdef class Stop:
    """End with `reason` (OTP: `{stop, Reason, State}`, `{stop, Reason, Reply, State}`).

    >>> Stop("shutdown", reply="bye")
    Stop('shutdown')

    Args:
        reason: what others see as the reason of the end. All but "normal", "shutdown" and `Shutdown(term)` are logged as a crash.
        state: the state for `terminate`; left out, it stays as it is.
        reply: the answer to the call, from `handle_call` alone; it is sent when `terminate` has run. Without it, the caller gets a
            `RemoteError` with the reason.
    """

    cdef readonly object reason, state, reply

    def __init__(self, reason="normal", state=KEEP, *, reply=NOTHING):
        self.reason = reason
        self.state = state
        self.reply = reply

    def __repr__(self):
        return f"Stop({self.reason!r})"


class _Ignore:
    """From init: don't start, and don't call that an error (OTP: ignore)."""

    def __repr__(self):
        return "IGNORE"

    def __reduce__(self):
        return "IGNORE"


IGNORE = _Ignore()


class GenServer:
    """The base of server classes (OTP: the behaviour `gen_server`). A callback may be `async def`; what isn't defined does as in Elixir.

    An instance is made in the new process, without arguments. Anything but the returns named below ends the server with the reason
    `("bad_return_value", its repr)`; an exception, with `Crash`.

    >>> import parallel_actors as pa
    >>> class Stack(pa.GenServer):
    ...     def init(self, *items):
    ...         return list(items)
    ...     def handle_call(self, request, from_, state):
    ...         head, *rest = state
    ...         return pa.Reply(head, rest)
    ...     def handle_cast(self, request, state):
    ...         return pa.NoReply([request, *state])
    >>> with pa.ActorSystem(workers=1):
    ...     stack = pa.start(Stack, 1, 2)
    ...     pa.cast(stack, 0)
    ...     pa.call(stack, "pop"), pa.call(stack, "pop")
    (0, 1)
    """

    def init(self, *args, **kwargs):
        """The first state, from the arguments of `start`: bare or in an `Ok`; or `Stop(reason)`, or `IGNORE` (OTP: `init/1`)."""
        return args[0] if len(args) == 1 else args

    def handle_call(self, request, from_, state):
        """Answer `call`: `Reply`, `NoReply` (then `reply(from_, value)` does), `Stop`. Default: an error, which ends the server."""
        raise NotImplementedError(f"{called_as(self)} has no handle_call: got the call {request!r}")

    def handle_cast(self, request, state):
        """Handle `cast`: `NoReply`, `Stop`. Default: an error, which ends the server."""
        raise NotImplementedError(f"{called_as(self)} has no handle_cast: got the cast {request!r}")

    def handle_info(self, message, state):
        """Handle any other message, and "timeout": `NoReply`, `Stop`. Default: a warning in the log."""
        if here().admits("unexpected_message"):
            _LOG.warning("%s in %r has no handle_info: dropped the message %s", called_as(self), api.self_(), short(message))
        return NoReply()

    def handle_continue(self, term, state):
        """Do what a return has put off by `continue_=term`: `NoReply`, `Stop`. Default: an error, which ends the server."""
        raise NotImplementedError(f"{called_as(self)} has no handle_continue: it was asked to continue with {term!r}")

    def terminate(self, reason, state):
        """Clean up. Called before each end but a kill; before an exit signal's only where that is trapped, or comes from the parent.

        What it returns doesn't matter; what it raises is the reason then.
        """

    def carried(self, state):
        """In the place of `init`, where there is a state of an earlier life: see `Carry`. Returns what `init` may; raises to refuse it.

        Default: the same. Timers, monitors and links of that life are gone: set them up here, too.
        """
        return state

    def code_change(self, version, state, extra):
        """The state for this class, from that of its former `version`: see `sys_.change_code`. Default: the same."""
        return state

    def format_status(self, status):
        """What a crash report shows of `status`: a dict with "state", "message" (the last) and "reason". To hide what is secret."""
        return status


# ---------------------------------------------------------------------- the server's side

cdef class Server(Handler):
    """The callbacks and the state of one server process."""

    cdef object callbacks           # an instance, or a module
    cdef str title                  # what it is called in reports
    cdef object on_call, on_cast
    cdef bint unbound               # they take `callbacks` as their first argument
    cdef object state
    cdef object last                # the message under way, for a crash report
    cdef Scheduler scheduler
    cdef Ref timer                  # of the time-out under way
    cdef uint64_t awaited           # its number, 0 when there is none: one that has fired already, and is void, is told apart
    cdef uint64_t timeouts          # counts them
    cdef bint ending, suspended
    cdef object debug               # `sys_.Debug` while somebody traces it or counts its messages
    cdef object carry               # `checkpoint.Carrying` of a child whose state outlives it

    def __init__(self, target):
        self.scheduler = here()
        self.callbacks = target
        self.title = title_of(target)

    def __reduce__(self):
        """It moves to another worker, between two messages; but not while these may differ in their code."""
        stays_while_loading()
        return moved_server, (self.callbacks, self.title, self.state, self.timer, self.awaited, self.timeouts, self.debug, self.carry)

    cdef Pid parent(self):
        """Who started it, or has adopted it."""
        cdef Process p = me(self.scheduler)
        return p.lineage[0] if p.lineage else None

    @property
    def __qualname__(self):
        return self.title       # what process_info calls it

    cdef object callback(self, str name):
        found = getattr(self.callbacks, name, None)
        if found is None and not isinstance(self.callbacks, GenServer):
            found = getattr(Defaults(self.title), name)     # a module, or a class of somebody's own
        return found

    cdef int find_handlers(self) except -1:
        """What takes calls and casts. Methods of a class are kept without their instance: bound ones, for each server, take more room."""
        kind = type(self.callbacks)
        own = getattr(self.callbacks, "__dict__", NO_KEYWORDS)
        if "handle_call" not in own and "handle_cast" not in own:
            self.on_call = plain_method(kind, "handle_call")
            self.on_cast = plain_method(kind, "handle_cast")
            self.unbound = self.on_call is not None and self.on_cast is not None
            if self.unbound:
                return 0
        self.unbound = False
        self.on_call = self.callback("handle_call")
        self.on_cast = self.callback("handle_cast")
        return 0

    cdef bint has_own(self, str name):
        """Whether the user has defined this callback."""
        if isinstance(self.callbacks, GenServer):
            return getattr(type(self.callbacks), name) is not getattr(GenServer, name)
        return hasattr(self.callbacks, name)

    # -- life

    cdef object boot(self, args, kwargs, Ref starter, via):
        """Run init, and tell the starter, who is the parent. The Loop to go on with, or None: ignored, or the via name is taken."""
        cdef Process p = me(self.scheduler)
        try:
            if via is not None:
                try:
                    via.register()
                except NameTaken as error:
                    self.scheduler.reply(self.parent(), starter, error)
                    return None
            if isinstance(self.callbacks, type):
                self.callbacks = self.callbacks()
            self.find_handlers()
            result = self.first(args, kwargs)
        except BaseException as error:
            return self.refuse(reason_of(error))
        if type(result) is Stop:
            return self.refuse((<Stop>result).reason if (<Stop>result).reply is NOTHING else ("bad_return_value", short(result)))
        if result is IGNORE:
            self.scheduler.reply(self.parent(), starter, False)
            return None
        if type(result) is Reply or type(result) is NoReply:
            return self.refuse(("bad_return_value", short(result)))
        if self.cleans_up():
            p.flags |= TERMINATES
        if type(result) is Ok:
            self.state = (<Ok>result).state
        else:
            self.state = result
            result = None
        self.scheduler.reply(self.parent(), starter, True)
        if result is not None and not (<_Action>result).plain():
            try:
                self.act(<_Action>result)
            except BaseException as error:
                self.failed(error)
        return Loop(self)

    cdef object first(self, args, kwargs):
        """What init returns; or what `carried` does, if there is a state that it takes."""
        if self.carry is not None:
            for origin, state in self.carry.states():
                try:
                    return self.run(self.callback("carried")(state))
                except Exception as error:
                    self.carry.refused(origin, error)
        return self.run(self.callback("init")(*args, **kwargs))

    cdef bint cleans_up(self):
        """Whether it has something to do when it is told to end."""
        return self.has_own("terminate") or self.carry is not None and self.carry.keeps

    cdef object refuse(self, reason):
        """The server doesn't come up. Its starter has the reason from its end."""
        cdef dict facts
        if not is_orderly(reason) and self.scheduler.admits("crash"):
            facts = self.scheduler.crash_facts(me(self.scheduler), shown_reason(reason))
            facts["initial_call"] = self.title
            self.scheduler.report("crash", facts, True)
        raise ProcessExit(reason)

    cdef bint handle(self, object message) except -1:
        """One message. Raises ProcessExit where the process ends."""
        cdef tuple parts
        cdef Py_ssize_t n
        self.last = message
        try:
            if self.debug is not None:
                self.debug.came_in(message)
            if type(message) is tuple:
                parts = <tuple>message
                n = len(parts)
                if n == 3 and type(parts[0]) is str:
                    if parts[0] == CALL and is_from(parts[1]):
                        if type(parts[2]) is System:
                            return self.ask(<tuple>parts[2], <tuple>parts[1])
                        if self.awaited:
                            self.cancel_timeout()
                        if self.unbound:
                            return self.called(self.on_call(self.callbacks, parts[2], parts[1], self.state), parts[1])
                        return self.called(self.on_call(parts[2], parts[1], self.state), parts[1])
                    if parts[0] == STOP:
                        return self.end(parts[2])
                elif n == 2 and type(parts[0]) is str:
                    if parts[0] == CAST:
                        if self.awaited:
                            self.cancel_timeout()
                        if self.unbound:
                            return self.went(self.on_cast(self.callbacks, parts[1], self.state))
                        return self.went(self.on_cast(parts[1], self.state))
                    if parts[0] == TIMEOUT:
                        if not self.awaited or parts[1] != self.awaited:
                            return False
                        self.timer = None
                        self.last = message = "timeout"
                    elif parts[0] == SHUTDOWN_ORDER:
                        return self.end(parts[1])
                    elif parts[0] == CHECKPOINT and self.carry is not None:
                        self.carry.checkpoint(self.state)
                        return False
            elif type(message) is Exit and (message.pid == self.parent() or message.pid == self.scheduler.root_pid):
                return self.end(message.reason)
            if self.awaited:
                self.cancel_timeout()
            return self.went(self.callback("handle_info")(message, self.state))
        except BaseException as error:
            return self.failed(error)
        finally:
            self.last = None

    cdef bint ask(self, tuple request, tuple from_) except -1:
        """A question about the server itself, or an order (`sys_`). While it is suspended it handles nothing else."""
        self.answer(request, from_)
        while self.suspended:
            message = api.receive(self.heeds)
            if type(message) is Exit:
                return self.end(message.reason)
            if message[0] == SHUTDOWN_ORDER:
                return self.end(message[1])
            if message[0] == STOP:
                return self.end(message[2])
            self.answer(<tuple>message[2], <tuple>message[1])
        return False

    def heeds(self, message):
        """Whether it handles this message while it is suspended."""
        if type(message) is Exit:
            return message.pid == self.parent() or message.pid == self.scheduler.root_pid
        if type(message) is not tuple or not message or type((<tuple>message)[0]) is not str:
            return False
        if len(<tuple>message) == 3:
            return message[0] == STOP or message[0] == CALL and is_from(message[1]) and type(message[2]) is System
        return len(<tuple>message) == 2 and message[0] == SHUTDOWN_ORDER

    cdef int answer(self, tuple request, tuple from_) except -1:
        """Answer a request of `sys_`: (True, value), or (False, the exception). What can't be answered has not been done."""
        state = self.state
        try:
            answer_to(self.scheduler, from_, self.answered(request))
        except (Exception, SystemExit, ProcessExit) as error:
            if isinstance(error, ProcessExit) and me(self.scheduler).flags & EXITING:
                raise
            self.state = state
            if not isinstance(error, Exception):
                error = ActorError(f"the function for sys_ ended by {error!r}: the server goes on as it was")
            try:
                answer_to(self.scheduler, from_, (False, error))
            except Exception:       # an exception that can't travel either
                answer_to(self.scheduler, from_, (False, ActorError(f"{type(error).__qualname__}: {said(error)}")))
        return 0

    cdef tuple answered(self, tuple request):
        """Do what is asked."""
        op = request[0]
        if op == "get_state":
            return True, self.state
        if op == "replace_state":
            self.state = self.run(request[1](self.state))
            return True, self.state
        if op == "get_status":
            return True, self.status()
        if op == "debug":
            self.debug, value = request[1](self.debug)
            return True, value
        if op == "change_code":
            return True, self.change_code(request[1], request[2], request[3])
        if op == "suspend":
            self.suspended = True
        elif op == "resume":
            self.suspended = False
        else:
            raise ValueError(f"expected an operation of sys_, got {op!r}")
        return True, None

    cdef object change_code(self, target, version, extra):
        """Other callbacks from now on, with the state that they make of the one there is. All or nothing."""
        cdef Process p = me(self.scheduler)
        if not self.suspended:
            raise ActorError("expected a suspended server, got one that runs: suspend() it before change_code()")
        former = self.callbacks
        kind = kind_of(former)
        if version is None:
            version = getattr(kind, "vsn", None)
        state = as_now(self.scheduler, self.state)
        change = getattr(former, "_system_code_change", None)
        if change is not None:      # those of another behaviour
            self.callbacks, self.state = change(target, version, state, extra)
        else:
            if target is None:
                target = latest(kind)
            adapter = getattr(target, "_served_by", None)
            if adapter is not getattr(kind, "_served_by", None) or adapter is None and not (
                    isinstance(target, (type, types.ModuleType)) and callable(getattr(target, "init", None))):
                what = "a class or a module with init()" if type(former) is kind or former is kind else f"a class like {kind.__qualname__}"
                raise TypeError(f"expected {what} to change to, got {target!r}")
            try:
                self.callbacks = adapter(target) if adapter is not None else target() if isinstance(target, type) else target
                self.state = self.run(self.callback("code_change")(version, state, extra))
            except BaseException:
                self.callbacks = former
                raise
        self.title = title_of(self.callbacks)
        self.find_handlers()
        if self.cleans_up():
            p.flags |= TERMINATES
        else:
            p.flags &= ~TERMINATES

    cdef dict status(self):
        shown = dict(self.run(self.callback("format_status")({"state": self.state, "message": None, "reason": None})))
        shown.pop("message", None)
        shown.pop("reason", None)
        return {
            **shown, "pid": api.self_(), "name": api.process_info(api.self_(), "registered_name"), "class": self.title,
            "parent": self.parent(), "status": "suspended" if self.suspended else "running",
        }

    cdef bint failed(self, object error) except -1:
        """Something was raised while a message was handled: the server's end."""
        if self.ending:
            raise error
        return self.end(reason_of(error))

    cdef object run(self, result):
        """The value of a callback: that of an `async def` is awaited."""
        if type(result) is types.CoroutineType:
            return self.scheduler.drive(result)
        return result

    cdef bint called(self, object result, object from_) except -1:
        if type(result) is types.CoroutineType:
            result = self.run(result)
        if type(result) is Reply:
            if self.debug is not None:
                self.debug.went_out((<Reply>result).answer, from_)
            answer_to(self.scheduler, <tuple>from_, (<Reply>result).answer)
            if (<Reply>result).state is not KEEP:
                self.state = (<Reply>result).state
            if not (<_Action>result).plain():
                self.act(<_Action>result)
            return False
        if type(result) is Stop and (<Stop>result).reply is not NOTHING:
            if (<Stop>result).state is not KEEP:
                self.state = (<Stop>result).state
            # After terminate() has run, as in OTP: who has the answer finds the server's work done.
            return self.end((<Stop>result).reason, from_, (<Stop>result).reply)
        return self.went(result)

    cdef bint went(self, object result) except -1:
        """A callback has returned that answers nobody."""
        if type(result) is types.CoroutineType:
            result = self.run(result)
        if type(result) is NoReply:
            if (<NoReply>result).state is not KEEP:
                self.state = (<NoReply>result).state
            if not (<_Action>result).plain():
                self.act(<_Action>result)
            return False
        if type(result) is Stop and (<Stop>result).reply is NOTHING:
            if (<Stop>result).state is not KEEP:
                self.state = (<Stop>result).state
            return self.end((<Stop>result).reason)
        return self.end(("bad_return_value", short(result)))

    cdef act(self, _Action action):
        """What comes before the next message: continue, else a time-out is set."""
        cdef object term
        cdef object seconds
        while action.continue_ is not NOTHING:
            term = action.continue_
            result = self.run(self.callback("handle_continue")(term, self.state))
            if type(result) is not NoReply:
                self.went(result)       # ends
                return
            if (<NoReply>result).state is not KEEP:
                self.state = (<NoReply>result).state
            action = <_Action>result
        seconds = action.timeout
        if seconds is not None:
            self.timeouts += 1
            self.awaited = self.timeouts
            if seconds == 0:
                api.send(api.self_(), (TIMEOUT, self.awaited))      # behind whatever waits
            else:
                self.timer = api.send_after(seconds, api.self_(), (TIMEOUT, self.awaited))

    cdef cancel_timeout(self):
        timer = self.timer
        self.timer = None
        self.awaited = 0
        if timer is not None:
            api.cancel_timer(timer)

    # -- its end

    cdef bint end(self, object reason, object from_=None, object answer=None) except -1:
        """terminate(), the report of an abnormal reason, and the end. Raises ProcessExit."""
        self.ending = True
        try:
            if self.carry is not None and not is_orderly(reason):
                self.carry.crashed(self.state)
            self.run(self.callback("terminate")(reason, self.state))
            if self.carry is not None and is_orderly(reason):
                self.carry.checkpoint(self.state)
        except BaseException as error:
            reason = reason_of(error)
        if from_ is not None:
            try:
                answer_to(self.scheduler, <tuple>from_, answer)
            except BaseException as error:
                reason = reason_of(error)
        if not is_orderly(reason) and self.scheduler.admits("crash"):
            self.report(reason)
        raise ProcessExit(reason)

    cdef report(self, reason):
        """One crash report (S6.8)."""
        facts = self.scheduler.crash_facts(me(self.scheduler), reason)
        try:
            status = self.run(self.callback("format_status")({"state": self.state, "message": self.last, "reason": reason}))
            shown = {"state": short(status["state"]), "message": short(status["message"])}
            more = {key: short(status[key]) for key in status if key not in ("state", "message", "reason")}
            reason = status["reason"]
        except BaseException as error:
            reason_of(error)
            shown = {"state": f"<format_status of {self.title} failed: {type(error).__name__}>", "message": "?"}
            more = {}
        facts["initial_call"] = self.title
        facts["last_message"] = shown["message"]
        facts["state"] = shown["state"]
        facts["more"] = more
        facts["reason"] = shown_reason(reason)
        self.scheduler.report("crash", facts, True)


def moved_server(callbacks, title, state, timer, awaited, timeouts, debug, carry):
    """The server that another worker has packed."""
    stays_while_loading()
    cdef Server server = Server.__new__(Server)
    server.scheduler = here()
    server.callbacks = callbacks
    server.title = title
    server.state = state
    server.timer = timer
    server.awaited = awaited
    server.timeouts = timeouts
    server.debug = debug
    server.carry = carry
    server.find_handlers()
    return server


cdef object plain_method(kind, str name):
    """The method of that name as it stands in the class; None where it isn't a plain one (a static method, a property, none)."""
    for each in kind.__mro__:
        found = each.__dict__.get(name)
        if found is not None:
            return found if type(found) in METHODS else None
    return None


cdef tuple METHODS = (types.FunctionType, types.MethodDescriptorType, type(GenServer.handle_call))


class Defaults(GenServer):
    """What a module of functions leaves out."""

    def __init__(self, title):
        self._title = title


cdef str called_as(server):
    """What a server is called in texts."""
    return server._title if type(server) is Defaults else type(server).__qualname__


cdef str title_of(target):
    return getattr(target, "__qualname__", None) or getattr(target, "__name__", None) or type(target).__qualname__


cpdef str short(value):
    try:
        text = repr(value)
    except BaseException as error:      # in the middle of a report
        return f"<repr() of a {type(value).__qualname__} failed: {type(error).__name__}>"
    return text if len(text) <= 1000 else text[:1000] + f"... ({len(text)} characters)"


cdef str said(reason):
    """A reason as text: of a crash, what Python would have printed."""
    try:
        return str(reason)
    except BaseException:
        return short(reason)


cdef object shown_reason(reason):
    """A reason as it can stand in a report: one with a str() that works."""
    if isinstance(reason, (Crash, str)):
        return reason
    try:
        str(reason)
    except BaseException:
        return short(reason)
    return reason


def latest(kind):
    """The module of callbacks, or the class, as it is now: it may have been loaded anew."""
    if isinstance(kind, types.ModuleType):
        return sys.modules.get(kind.__name__, kind)
    found = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, type) else kind


cdef object kind_of(callbacks):
    """What the user has written: a class or a module."""
    if isinstance(callbacks, types.ModuleType):
        return callbacks
    found = getattr(callbacks, "_serves", None)     # an adapter's: the class of an actor, of a state machine
    return type(callbacks) if found is None else found


cdef object as_now(Scheduler s, state):
    """The state of a server as its new code has it: instances of classes that were loaded anew are such of the new ones.

    One that can't be pickled stays as it is, and the log says so.
    """
    if not code_loaded:
        return state
    try:
        return decode_bytes(s.codec, encode_bytes(s.codec, state))
    except Exception as error:
        _LOG.warning(
            "the state of %s keeps the classes that it was made of, the old ones: it can't be pickled: %s: %s",
            api.self_(), type(error).__name__, error)
        return state


cdef bint code_loaded = False, code_loading = False


def loading_code(bint now):
    """New code is being loaded, on this worker or on another: servers stay where they are. (Or: it was, and they may move.)"""
    global code_loaded, code_loading
    code_loaded = True
    code_loading = now


cdef int stays_while_loading() except -1:
    if code_loading:
        raise ActorError("expected a server to be moved at another time, got one that stays: new code is being loaded")
    return 0


def servers_here():
    """The servers that run on this worker: (pid, their class or module)."""
    cdef Scheduler s = here()
    cdef Process p
    found = []
    for table in (s.table, *s.foreign):
        for p in (<dict>table).values() if table else ():
            if type(p.body) is Server:
                found.append((p.pid, kind_of((<Server>p.body).callbacks)))
    return found


class System(tuple):
    """A request of `sys_` to a server, sent as a call: (operation, ...)."""

    __slots__ = ()


cdef bint is_from(value):
    """Whether a call can be answered by it: (pid, ref), and a third item where the answer is to be (ref, value)."""
    return (type(value) is tuple and 2 <= len(<tuple>value) <= 3
            and type((<tuple>value)[0]) is Pid and type((<tuple>value)[1]) is Ref)


cdef int answer_to(Scheduler s, tuple from_, object value) except -1:
    cdef Ref ref = <Ref>from_[1]
    if len(from_) == 2:
        return s.reply(<Pid>from_[0], ref, value)
    return s.send_ref(ref, (ref, value))


def tagged_call(server, request):
    """Send a call whose answer comes as the message (ref, value): the server's pid, and ref. For `send_request`."""
    cdef Scheduler s = here()
    cdef Process p = me(s)
    cdef Pid to = address(s, server, request)
    if p.pending is not None:
        s.check(p)
    ref = api.monitor(to, alias=True)
    try:
        s.spend(p)
        s.send_request(p, to, ref, request, type(request) is System)
    except BaseException:
        api.demonitor(ref, flush=True)
        raise
    return to, ref


def boot(target, args, kwargs, Ref starter, via=None):
    """The body of a server process, until its Loop. starter: the reference of the word that its starter waits for. via: its name, where that isn't plain."""
    target = newest(target)         # whoever starts it may be of the code before
    adapter = getattr(target, "_served_by", None)       # the callbacks of another behaviour: an actor's, a state machine's
    cdef Server server = Server(target if adapter is None else adapter(target))
    if kwargs and CARRY in kwargs:
        kwargs = dict(kwargs)
        server.carry = kwargs.pop(CARRY)
    return server.boot(args, kwargs, starter, via)


# ---------------------------------------------------------------------- starting

def start_with(options, int how, target, args, kwargs, timeout=None):
    """Start a server; what `start`, `start_link` and `start_monitor` do. how: as for `spawn_with`."""
    cdef Scheduler s = here()
    cdef Process p = me(s)
    cdef Ref ref, monitor = None
    cdef Pid pid = None
    cdef double limit = seconds_of(timeout)
    cdef int answered, how_else
    cdef tuple body = ()
    actor = None
    if isinstance(target, type) and actor_class is not None and issubclass(target, actor_class):
        actor = target
    elif not (isinstance(target, (type, types.ModuleType)) and callable(getattr(target, "init", None))):
        raise TypeError(f"expected an Actor class, or a class or a module with init(), got {target!r}")
    if p.pending is not None:
        s.check(p)
    s.spend(p)
    if p.awaited:
        s.wait_for(p, 0)            # raises, before anything is started
    if how == 2:
        how_else = MONITORED
        ref = s.make_ref(p)         # the monitor's, which stays
    else:
        how_else = LINKED if how == 1 else 0
        ref = new_ref(p.pid.hi, s.new_lo(p))
    try:
        if options[1] is not None and type(options[1]) is not str:
            body = (options[1],)            # a via name: the process registers itself
            options = (options[0], None, *options[2:])
        pid = s.spawn(boot, (target, args, kwargs, ref, *body), NO_KEYWORDS, AWAITED | how_else, ref, options)
        answered = s.await_answer(p, limit)
        answer = p.reply
    finally:
        s.end_wait(p, ref, pid if how != 2 and pid is not None and (pid.hi != s.hi or p.pid.hi != s.hi) else None)
    if answered == GIVEN and answer is True:
        started = pid if actor is None else refer(pid, actor)
        return (started, ref) if how == 2 else started
    if how == 2:
        api.demonitor(ref, flush=True)
    if answered != REFUSED:
        monitor = api.monitor(pid)
        if not answered:
            if how == 1:
                api.unlink(pid)
            api.exit(pid, "kill")
        api.receive(Down(monitor, ANY, ANY))        # its name is free now
    if how == 1:
        api.receive(Exit(pid, ANY), timeout=0, default=None)        # the link's word of the end that is told here already
    if answered == GIVEN:
        if answer is False:
            return None         # ignored
        raise s.decoded(<Encoded>answer) if type(answer) is Encoded else answer     # its via name is taken
    if not answered:
        raise StartError(f"{title_of(target)} was not up within {timeout} s: it is killed", reason="timeout", target=pid, elapsed=timeout)
    reason = s.reason_value(answer)
    if isinstance(reason, Crash):
        error = StartError(
            f"{title_of(target)} failed to start: {reason.type}: {reason.text}", reason=reason, target=pid, remote_traceback=reason.traceback)
        raise error from reason.exception
    raise StartError(f"{title_of(target)} did not start: {said(reason)}", reason=reason, target=pid)


cdef dict NO_KEYWORDS = {}
cdef object actor_class = None, refer = None        # what actor.py adds


def use_actors(kind, reference):
    """Have `start` return `reference(pid, class)` for classes derived from `kind`."""
    global actor_class, refer
    actor_class = kind
    refer = reference


# ---------------------------------------------------------------------- for other behaviours, whose callbacks an adapter calls

def settled(result):
    """The value of a callback: that of an `async def` is awaited."""
    return here().drive(result) if type(result) is types.CoroutineType else result


cpdef object reason_of(error):
    """What a process ends with by the exception of a callback. One that is its end already goes on."""
    cdef Scheduler s = here()
    if isinstance(error, ProcessExit):
        if me(s).flags & EXITING:
            raise error
        return error.reason
    if isinstance(error, SystemExit) and (error.code is None or error.code == 0):
        return "normal"
    if isinstance(error, GreenletExit):
        raise error
    if isinstance(error, MemoryError):
        s.make_room(error)
    return Crash.from_exception(error)


def says_more(action):
    """Whether a NoReply or Reply brings a time-out or a continue, or a Stop a reply."""
    return (<Stop>action).reply is not NOTHING if type(action) is Stop else not (<_Action>action).plain()


def state_after(action, state):
    """The state that a NoReply, Reply or Stop leaves behind, of the one there was."""
    found = action.state
    return state if found is KEEP else found


def cleans_up(bint whether):
    """Whether the running server has a `terminate`, which runs at a shutdown, too."""
    cdef Process p = me(here())
    if whether:
        p.flags |= TERMINATES
    else:
        p.flags &= ~TERMINATES


cdef Ref answers_to(Scheduler s, Process p):
    """A new reference that is an address of the caller's, until `drop_alias`."""
    cdef Ref ref = s.make_ref(p)
    if p.more().aliases is None:
        p.extra.aliases = {}
    p.extra.aliases[ref] = None
    s.aliases[ref.lo] = (p, False)
    return ref


def launch(bint linked, body, args, kwargs):
    """Spawn `body(ref, *args, **kwargs)`, on the least loaded worker: its pid, and `ref`. For `Task`.

    Its answer `(ref, value)` and its Down come with that reference.
    """
    cdef Scheduler s = here()
    cdef Process p = me(s)
    cdef Ref ref
    cdef bint spread = p.flags & SPREAD
    if p.pending is not None:
        s.check(p)
    s.spend(p)
    ref = answers_to(s, p)
    p.flags |= SPREAD
    try:
        return s.spawn(body, (ref, *args), kwargs, MONITORED | (LINKED if linked else 0), ref, PLAIN), ref
    except BaseException:
        s.drop_alias(ref)
        raise
    finally:
        if not spread:
            p.flags &= ~SPREAD


cdef object PLAIN = (-1, None, None, 0)


def start(target, /, *args, **kwargs):
    """Start a server; returns when its `init` has (OTP: `gen_server:start/3`).

    Without a time-out: `options(...).start(target, ..., timeout=seconds)` has one, and a name, a worker and so on.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     pid = pa.start(pa.GenServer, "state")
    ...     pa.is_alive(pid)
    True

    Args:
        target: a class with `init` (a `GenServer`, as a rule), or a module with callbacks as functions.
        args, kwargs: for `init`. Isolated, as everything that goes to another process.

    Returns:
        The server's `Pid`; None where `init` returned `IGNORE`.

    Raises:
        StartError: `init` failed, returned `Stop(reason)` or something else that it can't, or took too long: its `reason` is "timeout"
            then, and the server is killed. The process is dead and its name is free when this is raised.
        NameTaken: another process has the name; `target` is its pid.
        NotPicklable: for arguments that can't leave their process.
        TypeError: for a `target` that is no class or module with `init`.
    """
    return start_with(PLAIN, 0, target, args, kwargs)


def start_link(target, /, *args, **kwargs):
    """`start` and `link` in one step (OTP: `gen_server:start_link/3`).

    A server that fails in `init` ends its starter, too, as any link does, unless the starter traps exits: then there is the
    `StartError` alone, and no `Exit` in the mailbox. One that takes too long is unlinked before it is killed.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     pid = pa.start_link(pa.GenServer, "state")
    ...     pa.process_info(pid, "links") == [pa.self_()]
    True

    Args, Returns, Raises: as `start`.
    """
    return start_with(PLAIN, 1, target, args, kwargs)


def start_monitor(target, /, *args, **kwargs):
    """`start` and `monitor` in one step (OTP: `gen_server:start_monitor/3`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     pid, ref = pa.start_monitor(pa.GenServer, "state")
    ...     pa.stop(pid)
    ...     pa.receive(timeout=10) == pa.Down(ref, pid, "normal")
    True

    Args, Raises: as `start`.

    Returns:
        `(pid, ref)`; None where `init` returned `IGNORE`. There is no `Down` for a start that failed.
    """
    return start_with(PLAIN, 2, target, args, kwargs)


# ---------------------------------------------------------------------- the caller's side

cdef inline double seconds_of(object timeout) except -2:
    return seconds(timeout, "a time-out")


cdef Pid address(Scheduler s, object target, object request):
    """The pid of `target`; NoProc where a name has none."""
    if type(target) is Pid:
        return <Pid>target
    if type(target) is str:
        pid = api.whereis(target)
        if pid is None:
            raise NoProc(f"expected a server called {target!r}, got none: no process has this name", reason="noproc", target=target, request=request)
        return <Pid>pid
    if not isinstance(target, type):
        try:
            found = getattr(target, "__pid__", None)        # a via name, or the reference of a typed actor
        except NotRegistered as error:
            raise NoProc(str(error), reason="noproc", target=target, request=request) from error
        if type(found) is Pid:
            return <Pid>found
    raise TypeError(f"expected a Pid or a registered name, got {target!r} ({type(target).__name__})")


def call(server, request=NOTHING, timeout=5.0):
    """Send a request and wait for its answer (OTP: `gen_server:call/3`). The caller waits, its worker goes on.

    Mail that waits in the caller's mailbox isn't looked at. An answer that comes too late is dropped.

    >>> import parallel_actors as pa
    >>> class Echo(pa.GenServer):
    ...     def handle_call(self, request, from_, state):
    ...         return pa.Reply(request)
    >>> with pa.ActorSystem(workers=1):
    ...     pa.call(pa.start(Echo), "hello", timeout=10)
    'hello'

    As a decorator, `@call` makes a method of an `Actor` a call.

    Args:
        server: a `Pid`, a registered name or a typed actor.
        request: for `handle_call`.
        timeout: seconds to wait at most; None: as long as the server lives.

    Raises:
        CallTimeout: no answer in time; the server may be at it still.
        NoProc: the server is dead, or nobody has the name.
        NodeDown: its worker died.
        MailboxFull: its mailbox has a limit (`max_mailbox`) and is full, and its policy isn't to suspend who sends to it.
        RemoteError: the server ended during the call, or request or answer couldn't be unpickled: `reason`, `remote_traceback`, and the
            exception itself as the `__cause__` where it could be pickled.
        CallingSelf: the caller would wait for itself.
        NotPicklable: for a request that can't leave its process.
        ValueError, TypeError: for a time-out that is none, or a `server` that is neither.
    """
    if request is NOTHING:
        return method("call", server)
    cdef Scheduler s = here()
    cdef Process p = me(s)
    cdef Pid to = address(s, server, request)
    cdef double limit = 5.0 if timeout is 5.0 else seconds_of(timeout)
    if p.pending is not None:
        s.check(p)
    if to == p.pid:
        raise CallingSelf(f"expected a call to another process, got one to the caller itself ({to}): it would wait for itself", target=server, request=request)
    s.spend(p)
    cdef int answered = s.call(p, to, request, limit, type(request) is System)
    value = p.reply
    p.reply = None
    if answered == GIVEN:
        if type(value) is not Encoded:
            return value
        try:
            return s.decoded(<Encoded>value)
        except (Exception, SystemExit) as error:
            raise RemoteError(
                f"the reply of {to!r} can't be read here: {type(error).__name__}: {said(error)}\n  request: {short(request)}",
                target=server, request=request) from error
    raise failure(s, server, to, request, timeout, answered, value)


cdef object failure(Scheduler s, object server, Pid to, object request, object timeout, int answered, object reason):
    """Why a call has no answer (S6.3)."""
    asked = short(request)
    name = f"{to!r} {server!r}" if type(server) is str else repr(to)
    if not answered:
        return CallTimeout(
            f"call to {name} timed out after {timeout} s\n  request: {asked}\n"
            "  a late reply will be dropped; give the call a longer timeout, or find out what keeps the server busy",
            target=server, request=request, elapsed=timeout)
    reason = s.reason_value(reason)
    if isinstance(reason, str) and reason == "noproc":
        return NoProc(f"call to {name}: there is no such process (any more)\n  request: {asked}", reason=reason, target=server, request=request)
    if isinstance(reason, str) and reason == "mailbox_full":
        return MailboxFull(
            f"call to {name}: its mailbox is full, and the request was not taken in\n  request: {asked}\n  call again later, or less often",
            reason=reason, target=server, request=request)
    return ended(f"{name.replace('%', '%%')} %s while a call waited for it", f"\n  request: {asked}", reason, server, request)


cdef object ended(str what, str asked, object reason, object server, object request):
    """The error of one who waited for a server that has ended."""
    if isinstance(reason, str) and reason == "mailbox_full":
        return MailboxFull(f"{what % 'has a full mailbox'}{asked}", reason=reason, target=server, request=request)
    if isinstance(reason, WorkerDown):
        return NodeDown(f"{what % 'ended'}: {reason}{asked}", reason=reason, target=server, request=request)
    if isinstance(reason, Crash):
        error = RemoteError(
            f"{what % 'failed'}: {reason.type}: {reason.text}{asked}",
            reason=reason, target=server, request=request, remote_traceback=reason.traceback)
        error.__cause__ = reason.exception
        return error
    return RemoteError(f"{what % 'ended'}: {said(reason)}{asked}", reason=reason, target=server, request=request)


cdef object method(str kind, target):
    """What `@call` and `@cast` make of a method."""
    from parallel_actors.actor import CallMethod, CastMethod
    if type(target) is not types.FunctionType:
        raise TypeError(f"expected {kind}(server, request), or a method of an Actor to decorate, got {kind}({target!r})")
    return CallMethod(target) if kind == "call" else CastMethod(target)


def cast(server, request=NOTHING, /):
    """Send a request that isn't answered; returns at once, whether there is such a server or not (OTP: `gen_server:cast/2`).

    As a decorator, `@cast` makes a method of an `Actor` a cast.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     pa.cast("nobody", "request")

    Args:
        server: a `Pid` or a registered name.
        request: for `handle_cast`.

    Raises:
        NotPicklable: for a request that can't leave its process.
        MailboxFull: the server's mailbox has a limit and the policy "fail", and is full.
        TypeError: for a `server` that is neither.
    """
    if request is NOTHING:
        return method("cast", server)
    cdef Scheduler s = here()
    cdef Pid to
    try:
        to = address(s, server, None)
    except NoProc:
        return
    s.may_act()
    s.send_pid(to, (CAST, request))


def reply(from_, value, /):
    """Answer a call, from any process (OTP: `gen_server:reply/2`). A second answer, or one that nobody waits for any more, is dropped.

    >>> import parallel_actors as pa
    >>> class Later(pa.GenServer):
    ...     def handle_call(self, request, from_, state):
    ...         pa.spawn(pa.reply, from_, "by another")
    ...         return pa.NoReply()
    >>> with pa.ActorSystem(workers=1):
    ...     pa.call(pa.start(Later), "question", timeout=10)
    'by another'

    Args:
        from_: what `handle_call` got with the request.
        value: the answer.

    Raises:
        NotPicklable: for an answer that can't leave its process.
        TypeError: for what is no `from_`.
    """
    cdef Scheduler s = here()
    if not is_from(from_):
        raise TypeError(f"expected the from_ of a call, got {from_!r}")
    body = me(s).body
    if type(body) is Server and (<Server>body).debug is not None:
        (<Server>body).debug.went_out(value, from_)
    answer_to(s, <tuple>from_, value)


def stop(server, reason="normal", timeout=None):
    """Have the server end, and wait until it has: `terminate` has run, its name is free (OTP: `gen_server:stop/3`).

    The order waits its turn behind the server's other messages.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     pid = pa.start(pa.GenServer)
    ...     pa.stop(pid)
    ...     pa.is_alive(pid)
    False

    Args:
        server: a `Pid` or a registered name.
        reason: what it ends with.
        timeout: seconds to wait at most; None: for ever. The order stands after that, too.

    Raises:
        CallTimeout: it hasn't ended in time.
        NoProc: it is dead already, or nobody has the name.
        NodeDown: its worker died.
        RemoteError: it ended with another reason, such as an exception in `terminate`.
        CallingSelf: in the server itself; return `Stop(reason)` there.
        NotPicklable: for a reason that can't leave its process.
        ValueError, TypeError: for a time-out that is none, or a `server` that is neither.
    """
    cdef Scheduler s = here()
    cdef Process p = me(s)
    cdef Pid to = address(s, server, None)
    cdef double limit = seconds_of(timeout)
    if to == p.pid:
        raise CallingSelf(f"expected to stop another process, got the caller itself ({to}): return Stop(...) instead", target=server)
    if limit < 0:
        timeout = None
    ref = api.monitor(to)
    try:
        s.may_act()
        s.send_order(to, (STOP, None, reason))
        down = api.receive(Down(ref, ANY, ANY), timeout=timeout, default=None)
    except BaseException:
        if not p.flags & EXITING:
            api.demonitor(ref, flush=True)
        raise
    if down is None:
        api.demonitor(ref, flush=True)
        raise CallTimeout(
            f"{to!r} did not stop within {timeout} s\n  it will, when it gets to the order; or end it by exit(pid, \"kill\")",
            target=server, elapsed=timeout)
    if is_same(down.reason, reason):
        return
    if type(down.reason) is str and down.reason == "noproc":
        raise NoProc(f"expected a live process to stop, got {to!r}, which is dead", reason="noproc", target=server)
    raise ended(f"{to!r} %s when it was told to stop", f"\n  reason to stop with: {short(reason)}", down.reason, server, None)


def failed_with(str what, reason, target):
    """The error of one who waited for `what`, which has ended with `reason`."""
    return ended(what.replace("%", "%%") + " %s", "", reason, target, None)


cdef bint is_same(one, other):
    try:
        return bool(one == other)
    except Exception:
        return False
