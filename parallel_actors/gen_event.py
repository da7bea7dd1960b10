"""GenEvent: an event manager, and the handlers that it calls with each event (OTP's `gen_event`).

    notify(manager, event) -> a cast -> each handler's handle_event, in the order in which they were added
    call(manager, Handler, request) -> that one's handle_call

The manager is a GenServer that traps exits; its state is the list of its `InstalledHandler`s. A handler that fails is
taken out, and reported: the manager and the other handlers go on.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from parallel_actors.gen_server import (
    GenServer,
    NoReply,
    Ok,
    Reply,
    Stop,
    call,
    cast,
    failed_with,
    latest,
    reason_of,
    reply,
    says_more,
    settled,
    short,
    state_after,
    tagged_call,
)
from parallel_actors.process import options
from parallel_actors.request import Done, Failed, Request
from parallel_actors.supervisor import admits
from parallel_actors.workers import api
from parallel_actors.workers.errors import HandlerError, NotPicklable, StartError
from parallel_actors.workers.ident import Pid
from parallel_actors.workers.reasons import Crash, Exit, is_orderly

if TYPE_CHECKING:
    from parallel_actors.gen_server import Server

__all__ = ["EventHandler", "GenEvent", "GenEventExit", "InstalledHandler", "RemoveHandler", "SwapHandler"]

_LOG = logging.getLogger("parallel_actors.gen_event")

_MISSING = "no such handler"
_KEEP: Any = object()  # "the state as it is"
_NOTHING: Any = object()


# --- handlers ---------------------------------------------------------------------------------------------------------


class RemoveHandler:
    """From a handler: take me out (OTP: `remove_handler`, `{remove_handler, Reply}`).

    Args:
        reply: the answer to the call, from `handle_call` alone.
    """

    __slots__ = ("reply",)

    def __init__(self, *, reply: object = _NOTHING) -> None:
        self.reply = reply

    def __repr__(self) -> str:
        return "RemoveHandler()"


class SwapHandler:
    """From a handler: have another one take my place (OTP: `{swap_handler, Args1, State, Handler2, Args2}`).

    `terminate(args, state)` of the old one is called, and `init((new_args, what that returned))` of the new one.

    Args:
        args: for the old one's `terminate`.
        state: for it, too.
        handler: the new one, a class or `(class, id)`.
        new_args: for the new one's `init`.
        reply: the answer to the call, from `handle_call` alone.

    Raises:
        TypeError: for a `handler` that is none.
    """

    __slots__ = ("args", "handler", "new_args", "reply", "state")

    def __init__(
        self, args: object, state: object, handler: HandlerId, new_args: object = None, *, reply: object = _NOTHING
    ) -> None:
        _check_handler(handler)
        self.args = args
        self.state = state
        self.handler = handler
        self.new_args = new_args
        self.reply = reply

    def __repr__(self) -> str:
        return f"SwapHandler({_named(self.handler)})"


class EventHandler:
    """The base of event handlers (OTP: the behaviour `gen_event`).

    >>> import parallel_actors as pa
    >>> class Count(pa.EventHandler):
    ...     def init(self, *args):
    ...         return 0
    ...     def handle_event(self, event, count):
    ...         return pa.NoReply(count + 1)
    ...     def handle_call(self, request, count):
    ...         return pa.Reply(count)
    >>> with pa.ActorSystem(workers=1):
    ...     events = pa.GenEvent.start_link()
    ...     pa.GenEvent.add_handler(events, Count)
    ...     pa.GenEvent.notify(events, "one")
    ...     pa.GenEvent.notify(events, "two")
    ...     pa.GenEvent.call(events, Count, "how many?")
    2

    An instance is made in the manager's process, without arguments. Callbacks may be `async def`. While one waits, all
    handlers of the manager do: what takes long is for a process of its own.

    A handler that raises, or returns something else than what is named here, is taken out: its `terminate` is called
    with `("error", reason)`, the `Crash` or `("bad_return_value", its repr)`.
    """

    def init(self, *args: Any, **kwargs: Any) -> Any:  # any signature may override it
        """The first state, from the arguments of `add_handler`: bare, or in an `Ok`; or `Stop(reason)`.

        In place of another handler it gets one argument, `(args, term)`: see `GenEvent.swap_handler`.
        """
        return args[0] if len(args) == 1 else args

    def handle_event(self, event: Any, state: Any) -> Any:
        """What to do about an event: `NoReply(state)`, `RemoveHandler()`, `SwapHandler(...)`. Default: an error."""
        raise NotImplementedError(f"{type(self).__qualname__} has no handle_event: got the event {event!r}")

    def handle_call(self, request: Any, state: Any) -> Any:
        """Answer a call: `Reply(value, state)`; or `RemoveHandler`, `SwapHandler`, with `reply=`. Default: an error."""
        raise NotImplementedError(f"{type(self).__qualname__} has no handle_call: got the call {request!r}")

    def handle_info(self, message: Any, state: Any) -> Any:
        """What to do about any other message; returns as `handle_event`. Default: a warning in the log."""
        if admits("unexpected_message"):
            text = "%s in %r has no handle_info: dropped the message %s"
            _LOG.warning(text, type(self).__qualname__, api.self_(), short(message))
        return NoReply()

    def terminate(self, args: Any, state: Any) -> Any:
        """Clean up. `args` says why the handler goes.

        Those of `delete_handler` or of a swap, which get what this returns; "remove_handler", by its own wish; "stop",
        the manager ends; `("stop", reason)`, who supervises it has ended; `("error", reason)`, it failed.
        """

    def code_change(self, version: Any, state: Any, extra: Any) -> Any:
        """The state for this class, from that of its former `version`: see `sys_.change_code`. Default: the same."""
        return state

    def format_status(self, status: dict[str, Any]) -> dict[str, Any]:
        """What reports and `sys_.get_status` show of "state", "message" and "reason". To hide what is secret."""
        return status


HandlerId = type[EventHandler] | tuple[type[EventHandler], Hashable]


@dataclass(frozen=True, slots=True)
class GenEventExit:
    """To who has added a handler by `add_sup_handler`: it is out (OTP: `{gen_event_EXIT, Handler, Reason}`).

    Fields:
        manager: the pid of the manager.
        handler: the class, or `(class, id)`.
        reason: "normal" (it was deleted, or asked for it), "shutdown" (the manager ends), `("swapped", new handler, its
            supervisor's pid or None)`, or why it failed: a `Crash`, `("bad_return_value", its repr)`.
    """

    manager: Pid
    handler: HandlerId
    reason: Any


@dataclass(slots=True, eq=False)
class InstalledHandler:
    """A handler of a manager, as `sys_.get_state` shows it.

    Fields:
        module: the class.
        id: None where it was added by its class alone.
        state: the handler's own.
        supervised: the pid of who has added it by `add_sup_handler`.
        callbacks: the instance.
    """

    module: type[EventHandler]
    id: Hashable
    state: Any
    supervised: Pid | None = None
    callbacks: EventHandler = field(default_factory=EventHandler, repr=False)

    @property
    def handler(self) -> HandlerId:
        """What it is called by: the class, or `(class, id)`."""
        return self.module if self.id is None else (self.module, self.id)


def _is_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, EventHandler)


def _check_handler(handler: object) -> None:
    if _is_class(handler):
        return
    if not (isinstance(handler, tuple) and len(handler) == 2 and _is_class(handler[0])):
        raise TypeError(f"expected a handler to be a class of EventHandler, or (class, id), got {handler!r}")
    hash(handler[1])
    if handler[1] is None:
        raise TypeError(f"expected the id of a handler to be anything but None, got {handler!r}")


def _named(handler: HandlerId) -> str:
    return f"({handler[0].__qualname__}, {handler[1]!r})" if isinstance(handler, tuple) else handler.__qualname__


# --- the manager ------------------------------------------------------------------------------------------------------


class GenEvent(GenServer):
    """An event manager: it has no handlers when it starts (OTP: `gen_event`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     sup = pa.Supervisor.start_link([pa.child(pa.GenEvent, name="events")])
    ...     pa.GenEvent.which_handlers("events")
    []

    `start(GenEvent)` and the like start it, `stop(manager)` stops it. A handler is called by its class, or by
    `(class, id)` where there are several of one class. `manager` is a pid or a registered name.

    All but `notify` wait for the manager, and all but `call` without a time-out. Raised by these: NoProc, NodeDown,
    RemoteError, CallingSelf, NotPicklable, as by `pa.call`; TypeError for what is no handler.
    """

    # -- for callers

    @staticmethod
    def start_link(*, name: str | None = None) -> Pid:
        """Start one, linked to the caller (OTP: `gen_event:start_link/1`). Raises as `start_link`."""
        pid: Pid = options(name=name).start_link(GenEvent)
        return pid

    @staticmethod
    def add_handler(manager: Server, handler: HandlerId, /, *args: Any, **kwargs: Any) -> None:
        """Add a handler; returns when its `init` has (OTP: `gen_event:add_handler/3`).

        Args:
            handler: a class of `EventHandler`, or `(class, id)`.
            args, kwargs: for its `init`.

        Raises:
            StartError: `init` failed, or returned `Stop(reason)`, or what it can't: its `reason`.
        """
        _add(manager, "add_handler", handler, args, kwargs)

    @staticmethod
    def add_sup_handler(manager: Server, handler: HandlerId, /, *args: Any, **kwargs: Any) -> None:
        """`add_handler`, and supervise it: the caller is linked to the manager (OTP: `gen_event:add_sup_handler/3`).

        When the handler is taken out, for whatever reason, the caller gets a `GenEventExit`. When the caller ends, the
        handler is taken out: its `terminate` gets `("stop", reason)`. Arguments, errors: as `add_handler`.
        """
        _add(manager, "add_sup_handler", handler, args, kwargs)

    @staticmethod
    def delete_handler(manager: Server, handler: HandlerId, args: object = None, /) -> Any:
        """Take a handler out; what its `terminate(args, state)` returns (OTP: `gen_event:delete_handler/3`).

        Raises:
            HandlerError: there is no such handler.
            RemoteError: its `terminate` failed; it is out all the same.
        """
        return _ask(manager, None, "delete_handler", _checked(handler), args)

    @staticmethod
    def swap_handler(manager: Server, old: HandlerId, args: object, new: HandlerId, new_args: object, /) -> None:
        """Put a new handler in the place of an old one, without an event between (OTP: `gen_event:swap_handler/3`).

        The old one's `terminate(args, state)` is called, then the new one's `init((new_args, what that returned))`.
        Without the old one, that is `"error"`. Who supervises the old one supervises the new one.

        Raises:
            StartError: the `init` of the new one failed. The old one is out.
        """
        _swap(manager, "swap_handler", old, args, new, new_args)

    @staticmethod
    def swap_sup_handler(manager: Server, old: HandlerId, args: object, new: HandlerId, new_args: object, /) -> None:
        """`swap_handler`; the caller supervises the new one (OTP: `gen_event:swap_sup_handler/3`)."""
        _swap(manager, "swap_sup_handler", old, args, new, new_args)

    @staticmethod
    def notify(manager: Server, event: object, /) -> None:
        """Send an event to all handlers; returns at once, also without a manager (OTP: `gen_event:notify/2`).

        Raises:
            NotPicklable: for an event that can't leave its process.
        """
        cast(manager, ("notify", event))

    @staticmethod
    def sync_notify(manager: Server, event: object, /) -> None:
        """`notify`, and wait until all handlers have handled it (OTP: `gen_event:sync_notify/2`)."""
        _ask(manager, None, "sync_notify", event)

    @staticmethod
    def call(manager: Server, handler: HandlerId, request: object, timeout: float | None = 5.0) -> Any:
        """Ask one handler (OTP: `gen_event:call/3,4`).

        Args:
            request: for its `handle_call`.
            timeout: seconds to wait at most; None: as long as the manager lives.

        Raises:
            HandlerError: there is no such handler.
            RemoteError: it failed, with `reason`, and is out; or its answer couldn't be pickled.
            CallTimeout: no answer in time.
        """
        return _ask(manager, timeout, "call", _checked(handler), request)

    @staticmethod
    def send_request(manager: Server, handler: HandlerId, request: object, /) -> Request[Any]:
        """Send what `call` sends; `wait()` for the answer later, as of `pa.send_request` (OTP: `send_request/3`)."""
        pid, ref = tagged_call(manager, ("call", _checked(handler), request))
        return _HandlerRequest(pid, ref, api.self_())

    @staticmethod
    def which_handlers(manager: Server) -> list[HandlerId]:
        """The handlers, in the order in which events come to them (OTP: `gen_event:which_handlers/1`)."""
        found: list[HandlerId] = _ask(manager, None, "which_handlers")
        return found

    # -- callbacks

    linked: set[Pid]

    def init(self) -> Any:
        api.trap_exit(True)
        self.linked = set(api.process_info(api.self_(), "links"))  # to whom started it, or to nobody
        return Ok([])

    def handle_call(self, request: Any, from_: Any, state: list[InstalledHandler]) -> Any:
        answer = self._asked(request, from_[0], state)
        try:
            reply(from_, answer)
        except BaseException as error:  # what a handler has answered can't travel: that isn't the manager's end
            reply(from_, ("failed", reason_of(error)))
        return NoReply()

    def _asked(self, request: Any, caller: Pid, state: list[InstalledHandler]) -> Any:
        match request:
            case ("sync_notify", event):
                self._notify(state, "handle_event", event)
                return "ok", None
            case ("call", handler, asked):
                found = _find(state, handler)
                return (_MISSING, handler) if found is None else self._follow(state, found, "handle_call", asked)
            case ("add_handler" | "add_sup_handler", handler, args, kwargs):
                owner = caller if request[0] == "add_sup_handler" else None
                return self._add(state, len(state), handler, owner, args, kwargs)
            case ("delete_handler", handler, args):
                found = _find(state, handler)
                if found is None:
                    return _MISSING, handler
                state.remove(found)
                return self._end(found, args, None, "normal")
            case ("swap_handler" | "swap_sup_handler", old, args, new, new_args):
                owner = caller if request[0] == "swap_sup_handler" else None
                return self._swap(state, old, args, new, new_args, owner)
            case ("which_handlers",):
                return "ok", [each.handler for each in state]
        return "failed", f"expected a request of GenEvent to an event manager, got the call {short(request)}"

    def handle_cast(self, request: Any, state: list[InstalledHandler]) -> Any:
        match request:
            case ("notify", event):
                self._notify(state, "handle_event", event)
            case _:
                self._notify(state, "handle_info", request)
        return NoReply()

    def handle_info(self, message: Any, state: list[InstalledHandler]) -> Any:
        if type(message) is Exit:
            for each in [each for each in state if each.supervised == message.pid]:
                state.remove(each)
                self._end(each, ("stop", message.reason), None, "shutdown")
        self._notify(state, "handle_info", message)
        return NoReply()

    def terminate(self, reason: Any, state: list[InstalledHandler]) -> None:
        """All handlers are told; who supervises them isn't to end with the manager, but who started it by a link is."""
        for each in state:
            self._end(each, "stop", None, "shutdown")
        for each in state:
            if each.supervised is not None and each.supervised not in self.linked:
                api.unlink(each.supervised)

    def format_status(self, status: dict[str, Any]) -> dict[str, Any]:
        handlers = [
            replace(each, state=settled(each.callbacks.format_status({**status, "state": each.state}))["state"])
            for each in status["state"]
        ]
        return {**status, "state": handlers}

    def _system_code_change(self, target: Any, version: Any, state: Any, extra: Any) -> Any:
        """New code for the handlers of that class; None: for all, as their modules have it now."""
        if target is not None and not _is_class(target):
            raise TypeError(f"expected the class of a handler to change, got {target!r}")
        changed: list[InstalledHandler] = []
        for each in state:
            kind: Any = latest(each.module)
            if target is not None and target is not each.module and target is not kind:
                changed.append(each)
                continue
            made = (target or kind)()
            value = settled(made.code_change(version, each.state, extra))
            changed.append(replace(each, module=type(made), state=value, callbacks=made))
        return self, changed

    # -- what is done to handlers

    def _notify(self, handlers: list[InstalledHandler], callback: str, event: Any) -> None:
        for each in list(handlers):
            self._follow(handlers, each, callback, event)

    def _follow(self, handlers: list[InstalledHandler], each: InstalledHandler, callback: str, event: Any) -> Any:
        """Call a handler, and do what it returns. What a caller gets: ("ok", value), or ("failed", reason)."""
        asked = callback == "handle_call"
        try:
            result = settled(getattr(each.callbacks, callback)(event, each.state))
        except BaseException as error:
            reason = reason_of(error)
        else:
            kind = type(result)
            if kind is (Reply if asked else NoReply) and not says_more(result):
                each.state = state_after(result, each.state)
                return ("ok", result.value) if asked else None
            if kind in (RemoveHandler, SwapHandler) and (result.reply is not _NOTHING) == asked:
                if kind is RemoveHandler:
                    handlers.remove(each)
                    self._end(each, "remove_handler", None, "normal")
                else:
                    each.state = result.state
                    self._swapped(handlers, each, result)
                return ("ok", result.reply) if asked else None
            reason = ("bad_return_value", short(result))
        handlers.remove(each)
        self._end(each, ("error", reason), event, reason)
        return ("failed", reason)

    def _swapped(self, handlers: list[InstalledHandler], each: InstalledHandler, result: SwapHandler) -> None:
        place = _take(handlers, each)
        _, term = self._end(each, result.args, None, ("swapped", result.handler, each.supervised))
        kind, reason = self._add(handlers, place, result.handler, each.supervised, ((result.new_args, term),), {})
        if kind == "failed":
            module, id = result.handler if isinstance(result.handler, tuple) else (result.handler, None)
            _report(InstalledHandler(module, id, None, each.supervised, module()), None, reason)

    def _swap(
        self,
        handlers: list[InstalledHandler],
        old: HandlerId,
        args: Any,
        new: HandlerId,
        new_args: Any,
        owner: Pid | None,
    ) -> Any:
        found = _find(handlers, old)
        if found is None:
            return self._add(handlers, len(handlers), new, owner, ((new_args, "error"),), {})
        owner = owner or found.supervised
        place = _take(handlers, found)
        _, term = self._end(found, args, None, ("swapped", new, owner))
        return self._add(handlers, place, new, owner, ((new_args, term),), {})

    def _add(
        self,
        handlers: list[InstalledHandler],
        place: int,
        handler: HandlerId,
        owner: Pid | None,
        args: Any,
        kwargs: Any,
    ) -> Any:
        module, id = handler if isinstance(handler, tuple) else (handler, None)
        try:
            made = module()
            result = settled(made.init(*args, **kwargs))
        except BaseException as error:
            return "failed", reason_of(error)
        if type(result) is Stop and not says_more(result):
            return "failed", result.reason
        if type(result) in (Reply, NoReply, Stop, RemoveHandler, SwapHandler) or (
            type(result) is Ok and says_more(result)
        ):
            return "failed", ("bad_return_value", short(result))
        handlers.insert(
            place, InstalledHandler(module, id, result.state if type(result) is Ok else result, owner, made)
        )
        if owner is not None:
            api.link(owner)  # one that is dead by now is told by its Exit
        return "ok", None

    def _end(self, each: InstalledHandler, args: Any, event: Any, reason: Any) -> Any:
        """terminate() of a handler that is out, the report of a failure, and the word to who supervises it."""
        answer: tuple[str, Any]
        try:
            answer = ("ok", settled(each.callbacks.terminate(args, each.state)))
        except BaseException as error:
            answer = ("failed", reason_of(error))
        _report(each, event, reason)
        return answer


def _find(handlers: list[InstalledHandler], handler: HandlerId) -> InstalledHandler | None:
    return next((each for each in handlers if each.handler == handler), None)


def _take(handlers: list[InstalledHandler], each: InstalledHandler) -> int:
    """Take it out; the place where it was."""
    place = handlers.index(each)
    del handlers[place]
    return place


def _report(each: InstalledHandler, event: Any, reason: Any) -> None:
    """Log what failed, and tell who supervises it."""
    swapped = isinstance(reason, tuple) and len(reason) == 3 and reason[0] == "swapped"
    if not swapped and not is_orderly(reason) and _LOG.isEnabledFor(logging.ERROR) and admits("handler"):
        state, message, why = each.state, event, reason
        try:
            status = settled(each.callbacks.format_status({"state": state, "message": message, "reason": reason}))
            state, message, why = short(status["state"]), short(status["message"]), status["reason"]
        except BaseException as error:
            reason_of(error)
            state, message = f"<format_status of {each.module.__qualname__} failed: {type(error).__name__}>", "?"
        text = str(why) if isinstance(why, Crash) else short(why)
        _LOG.error(
            "event handler %s of %r was removed\n  last event: %s\n  state: %s\n  reason: %s",
            _named(each.handler),
            api.self_(),
            message,
            state,
            text.rstrip(),
            extra={
                "event": "handler_removed",
                "manager": api.self_(),
                "handler": _named(each.handler),
                "last_message": message,
                "state": state,
                "reason": text,
            },
        )
    if each.supervised is not None:
        try:
            api.send(each.supervised, GenEventExit(api.self_(), each.handler, reason))
        except NotPicklable:  # a reason of the user's
            api.send(each.supervised, GenEventExit(api.self_(), each.handler, short(reason)))


# --- the caller's side ------------------------------------------------------------------------------------------------


def _checked(handler: HandlerId) -> HandlerId:
    _check_handler(handler)
    return handler


def _ask(manager: Server, timeout: float | None, *request: Any) -> Any:
    kind, value = call(manager, request, timeout=timeout)
    if kind == "ok":
        return value
    raise _failure(kind, value, manager)


def _failure(kind: str, value: Any, manager: Any) -> Exception:
    if kind == _MISSING:
        text = f"expected a handler of {manager!r}, got {_named(value)}, which isn't one (any more)"
        return HandlerError(text, target=manager, request=value)
    return failed_with(f"a handler of {manager!r}", value, manager)


def _add(manager: Server, how: str, handler: HandlerId, args: Any, kwargs: Any) -> None:
    kind, value = call(manager, (how, _checked(handler), args, kwargs), timeout=None)
    if kind != "ok":
        raise _not_started(handler, manager, value)


def _swap(manager: Server, how: str, old: HandlerId, args: Any, new: HandlerId, new_args: Any) -> None:
    kind, value = call(manager, (how, _checked(old), args, _checked(new), new_args), timeout=None)
    if kind != "ok":
        raise _not_started(new, manager, value)


def _not_started(handler: HandlerId, manager: Any, reason: Any) -> StartError:
    why = f"{reason.type}: {reason.text}" if isinstance(reason, Crash) else short(reason)
    text = f"the handler {_named(handler)} was not added: {why}"
    error = StartError(
        text, reason=reason, target=manager, remote_traceback=reason.traceback if isinstance(reason, Crash) else None
    )
    error.__cause__ = reason.exception if isinstance(reason, Crash) else None
    return error


class _HandlerRequest(Request[Any]):
    """A request to a handler: its answer may be that it failed."""

    __slots__ = ()

    def _ended(self, answer: Any) -> Done[Any] | Failed:
        ended = Request._ended(self, answer)
        if isinstance(ended, Failed):
            return ended
        kind, value = ended.value
        return Done(value) if kind == "ok" else Failed("bad_module" if kind == _MISSING else value)

    def _result(self, answer: Any) -> Any:
        ended = Request._ended(self, answer)
        if isinstance(ended, Failed):
            raise failed_with(self._what(), ended.reason, self.pid)
        kind, value = ended.value
        if kind == "ok":
            return value
        raise _failure(kind, value, self.pid)
