"""GenStatem: a process that is a state machine (OTP's `gen_statem`).

    start_link(Door) -> a GenServer whose callbacks are `_Machine(Door)`, whose state is the pair (state, data)
    a message        -> an event -> `_Machine._run`: the state function, or handle_event, says what becomes of it
                     -> its actions, the enter call of a new state, the postponed events of the old one, time-outs
                     -> all events that wait inside, then those whose time-out was 0 -> the next message

Whatever a server has (start, call, names, `sys_`, crash reports, moving) is the GenServer's. Between two messages a
machine holds no stack: postponed events and time-outs are values of its `_Machine`, and move with it.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from parallel_actors.gen_server import (
    IGNORE,
    NoReply,
    Ok,
    Stop,
    cleans_up,
    latest,
    reply,
    says_more,
    settled,
    short,
    state_after,
)
from parallel_actors.workers import api
from parallel_actors.workers.errors import ProcessExit

if TYPE_CHECKING:
    from parallel_actors.gen_server import From
    from parallel_actors.workers.ident import Ref

__all__ = [
    "Call",
    "Cast",
    "ChangeCallbackModule",
    "Enter",
    "Event",
    "EventTimeout",
    "GenStatem",
    "Hibernate",
    "Info",
    "Internal",
    "KeepState",
    "KeepStateAndData",
    "NextEvent",
    "NextState",
    "PopCallbackModule",
    "Postpone",
    "PushCallbackModule",
    "RepeatState",
    "RepeatStateAndData",
    "ReplyAction",
    "StateTimeout",
    "StopAndReply",
    "Timeout",
    "Transition",
    "state",
]

S = TypeVar("S")
D = TypeVar("D")

_TIMED_OUT = "$gen_statem_timeout"  # ($gen_statem_timeout, number): a machine to itself


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """Somebody has called, and waits for an answer (OTP: `{call, From}`)."""

    content: Any
    from_: From

    def reply(self, value: object) -> ReplyAction:
        """The action that answers this call."""
        return ReplyAction(self.from_, value)


@dataclass(frozen=True, slots=True)
class Cast:
    """A `cast` (OTP: `cast`)."""

    content: Any


@dataclass(frozen=True, slots=True)
class Info:
    """Any other message (OTP: `info`)."""

    content: Any


@dataclass(frozen=True, slots=True)
class Internal:
    """What only the machine itself makes, by `NextEvent` (OTP: `internal`)."""

    content: Any = None


@dataclass(frozen=True, slots=True)
class Enter:
    """The state has been entered: for classes with `state_enter=True` (OTP: state enter calls).

    The first state is entered from itself. The callback may return `KeepState`, `RepeatState` and their kin,
    `NextState` to the same state, `Stop`; without `Postpone`, `NextEvent` and other callback modules.
    """

    old_state: Any


@dataclass(frozen=True, slots=True)
class _TimeoutAction:
    seconds: float | Literal["update", "cancel"] | None
    content: Any = None
    absolute: bool = False

    def __post_init__(self) -> None:
        _check_seconds(self.seconds, self.absolute)


@dataclass(frozen=True, slots=True)
class EventTimeout(_TimeoutAction):
    """As an action: let that time pass without any event. As an event: it has passed (OTP: `timeout`).

    Any event ends it, also one that the machine makes itself.

    Args:
        seconds: 0: as soon as no event waits inside the machine, before any message that it hasn't taken yet.
            None or "cancel": there is to be none. "update": the one that runs has this content from now on; without
            one, as 0.
        content: for the event.
        absolute: `seconds` is a time of `time.monotonic()`.

    Raises:
        ValueError, TypeError: for what is no number of seconds from 0 to 3e9, nor one of the words.
    """


@dataclass(frozen=True, slots=True)
class StateTimeout(_TimeoutAction):
    """As an action: the longest time in this state. As an event: it has passed (OTP: `state_timeout`).

    A change of state ends it. Arguments, errors: as `EventTimeout`.
    """


@dataclass(frozen=True, slots=True)
class Timeout:
    """As an action: a time-out of that name. As an event: it has passed (OTP: `{timeout, Name}`).

    Nothing but the action itself ends it; setting it again begins anew. There may be any number, of different names.

    Args:
        name: any value that can be the key of a dict.
        seconds, content, absolute: as `EventTimeout`. Raises: so, too.
    """

    name: Hashable
    seconds: float | Literal["update", "cancel"] | None = None
    content: Any = None
    absolute: bool = False

    def __post_init__(self) -> None:
        hash(self.name)
        _check_seconds(self.seconds, self.absolute)


Event = Call | Cast | Info | Internal | Enter | EventTimeout | StateTimeout | Timeout
_EVENTS = (Call, Cast, Info, Internal, EventTimeout, StateTimeout, Timeout)


def _check_seconds(seconds: object, absolute: bool) -> None:
    if seconds is None or (isinstance(seconds, str) and seconds in ("update", "cancel")):
        return
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f'expected a time-out in seconds, "update", "cancel" or None, got {seconds!r}')
    if not (-3e9 if absolute else 0) <= seconds <= 3e9:
        raise ValueError(f"expected a time-out of 0 to 3e9 seconds, got {seconds!r}")


# --- actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Postpone:
    """Put the event off until the state has changed, to another one (OTP: `postpone`)."""

    on: bool = True


@dataclass(frozen=True, slots=True)
class Hibernate:
    """Accepted for OTP's sake; an idle machine holds no stack anyway (OTP: `hibernate`)."""

    on: bool = True


@dataclass(frozen=True, slots=True)
class NextEvent:
    """Handle this event next, before all that wait; several in the order given (OTP: `{next_event, Type, Content}`).

    Raises:
        TypeError: for what is no event, or an `Enter`.
    """

    event: Event

    def __post_init__(self) -> None:
        if not isinstance(self.event, _EVENTS):
            raise TypeError(f"expected an event such as Internal(content), got {self.event!r}")


@dataclass(frozen=True, slots=True)
class ReplyAction:
    """Answer a call, of now or of earlier (OTP: `{reply, From, Reply}`). `Call.reply` makes one."""

    from_: From
    value: Any


@dataclass(frozen=True, slots=True)
class ChangeCallbackModule:
    """Have another class handle the events from the next on, with the same state and data.

    OTP: `change_callback_module`.

    Raises:
        TypeError: for what is no class of GenStatem.
    """

    module: type[GenStatem[Any, Any]]

    def __post_init__(self) -> None:
        _check_class(self.module)


@dataclass(frozen=True, slots=True)
class PushCallbackModule:
    """`ChangeCallbackModule` until `PopCallbackModule` (OTP: `push_callback_module`)."""

    module: type[GenStatem[Any, Any]]

    def __post_init__(self) -> None:
        _check_class(self.module)


@dataclass(frozen=True, slots=True)
class PopCallbackModule:
    """Have the class handle events that did before the last `PushCallbackModule` (OTP: `pop_callback_module`)."""


EnterAction = Hibernate | ReplyAction | EventTimeout | StateTimeout | Timeout
Action = EnterAction | Postpone | NextEvent | ChangeCallbackModule | PushCallbackModule | PopCallbackModule


# --- what callbacks return --------------------------------------------------------------------------------------------


class _Transition:
    """A return that goes on, and what is to be done."""

    __slots__ = ("actions",)

    def __init__(self, *actions: Action) -> None:
        self.actions = actions


class _WithData(_Transition, Generic[D]):
    __slots__ = ("data",)

    def __init__(self, data: D, /, *actions: Action) -> None:
        self.data = data
        self.actions = actions

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, (self.data, *self.actions)))})"


class NextState(_Transition, Generic[S, D]):
    """Go to a state, which may be the same (OTP: `{next_state, State, Data, Actions}`, and what `init` returns).

    A change of state, `state` being another one, ends a `StateTimeout`, makes the enter call, and brings back what was
    postponed.
    """

    __slots__ = ("data", "state")

    def __init__(self, state: S, data: D, /, *actions: Action) -> None:
        self.state = state
        self.data = data
        self.actions = actions

    def __repr__(self) -> str:
        return f"NextState({', '.join(map(repr, (self.state, self.data, *self.actions)))})"


class KeepState(_WithData[D]):
    """Stay, with this data (OTP: `{keep_state, Data, Actions}`)."""

    __slots__ = ()


class KeepStateAndData(_Transition):
    """Stay as it is (OTP: `{keep_state_and_data, Actions}`)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"KeepStateAndData({', '.join(map(repr, self.actions))})"


class RepeatState(_WithData[D]):
    """`KeepState`, and make the enter call again (OTP: `{repeat_state, Data, Actions}`)."""

    __slots__ = ()


class RepeatStateAndData(_Transition):
    """`KeepStateAndData`, and make the enter call again (OTP: `{repeat_state_and_data, Actions}`)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"RepeatStateAndData({', '.join(map(repr, self.actions))})"


_KEEP: Any = object()  # "the data as it is"


class StopAndReply:
    """Answer, then end with `reason` (OTP: `{stop_and_reply, Reason, Replies, Data}`).

    Args:
        reason: as of `Stop`.
        replies: `ReplyAction`s, one or several: they go out before `terminate` runs.
        data: for `terminate`; left out, it stays as it is.
    """

    __slots__ = ("data", "reason", "replies")

    def __init__(self, reason: object, replies: ReplyAction | Iterable[ReplyAction], data: Any = _KEEP) -> None:
        self.reason = reason
        self.replies = (replies,) if isinstance(replies, ReplyAction) else tuple(replies)
        self.data = data

    def __repr__(self) -> str:
        return f"StopAndReply({self.reason!r}, {self.replies!r})"


Transition = (
    NextState[S, D] | KeepState[D] | KeepStateAndData | RepeatState[D] | RepeatStateAndData | Stop | StopAndReply
)


# --- the machine's class ----------------------------------------------------------------------------------------------

_Result = Transition[Any, Any] | Awaitable[Transition[Any, Any]]
F = TypeVar("F", bound=Callable[[Any, Event, Any], _Result])


def state(method: F) -> F:
    """Make a method of a `GenStatem` the function of the state of its name (OTP: the mode `state_functions`).

    It is called with each event in that state, and the data. It may be `async def`.
    """
    if not callable(method):
        raise TypeError(f"expected a method of a GenStatem, got {method!r}")
    method._is_state = True  # type: ignore[attr-defined]
    return method


class GenStatem(Generic[S, D]):
    """The base of state machines (OTP: the behaviour `gen_statem`). Its parameters: the types of state and data.

    >>> import parallel_actors as pa
    >>> from typing import Literal
    >>> class Switch(pa.GenStatem[Literal["off", "on"], int]):
    ...     def init(self):
    ...         return pa.NextState("off", 0)
    ...     @pa.state
    ...     def off(self, event, count):
    ...         match event:
    ...             case pa.Cast("push"):
    ...                 return pa.NextState("on", count + 1)
    ...             case pa.Call("count"):
    ...                 return pa.KeepStateAndData(event.reply(count))
    ...     @pa.state
    ...     def on(self, event, count):
    ...         match event:
    ...             case pa.Cast("push"):
    ...                 return pa.NextState("off", count)
    ...             case pa.Call():
    ...                 return pa.KeepStateAndData(pa.Postpone())
    >>> with pa.ActorSystem(workers=1):
    ...     switch = pa.start(Switch)
    ...     pa.cast(switch, "push")
    ...     pa.cast(switch, "push")
    ...     pa.call(switch, "count")
    1

    There are two modes. Either each state is a string, and a method of that name with `@state`; or `handle_event` gets
    the events of all states, which may be any values then. `class Door(GenStatem[...], state_enter=True)` asks for
    enter calls: an `Enter` event at each change of state. Callbacks may be `async def`.

    An instance is made in the new process, without arguments. It is started, called, watched and looked into as a
    `GenServer`. Anything but the returns named here ends the machine with the reason `("bad_return_value", its repr)`,
    an action that can't stand there with `("bad_action_value", its repr)`, an exception with `Crash`.
    """

    _states: frozenset[str] = frozenset()
    _state_enter = False

    def __init_subclass__(cls, *, state_enter: bool | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if state_enter is not None:
            cls._state_enter = state_enter
        cls._states = frozenset(name for name in dir(cls) if getattr(getattr(cls, name), "_is_state", False))
        taken = [name for name in sorted(cls._states) if hasattr(GenStatem, name)]
        if taken:
            raise TypeError(f"expected a state of {cls.__qualname__} not to be called as a callback, got {taken[0]!r}")
        if cls._states and cls.handle_event is not GenStatem.handle_event:
            raise TypeError(
                f"expected {cls.__qualname__} to have either handle_event or state functions, got both: handle_event,"
                f" {', '.join(sorted(cls._states))}"
            )

    def init(self, *args: Any, **kwargs: Any) -> Any:  # any signature may override it
        """The first state and data, from the arguments of `start`: `NextState(state, data, *actions)`.

        Or `Stop(reason)`, or `IGNORE`. The starter goes on when this has returned, before the enter call.
        """
        raise NotImplementedError(f"{type(self).__qualname__} has no init: it says in which state to begin")

    def handle_event(self, event: Event, state: S, data: D) -> Transition[S, D] | Awaitable[Transition[S, D]]:
        """What becomes of an event, in any state (OTP: the mode `handle_event_function`)."""
        raise NotImplementedError(f"{type(self).__qualname__} has neither handle_event nor a method with @state")

    def terminate(self, reason: Any, state: S, data: D) -> Any:
        """Clean up. Called when a GenServer's is."""

    def code_change(self, version: Any, state: S, data: D, extra: Any) -> tuple[S, D] | Awaitable[tuple[S, D]]:
        """State and data for this class, from those of its former `version`: see `sys_.change_code`.

        No enter call follows.
        """
        return state, data

    def format_status(self, status: dict[str, Any]) -> dict[str, Any]:
        """What reports and `sys_.get_status` show of `status`. To hide what is secret.

        Its keys: "state", "data", "message" (the event), "reason", "queue", "postponed", "timeouts".
        """
        return status


def _check_class(module: object) -> None:
    if not (isinstance(module, type) and issubclass(module, GenStatem)):
        raise TypeError(f"expected a class of GenStatem, got {module!r}")


# --- the server's callbacks -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Timer:
    """A time-out under way. number, ref: of the message that it will be; None of what waits in `_Machine.due`."""

    event: EventTimeout | StateTimeout | Timeout
    number: int | None = None
    ref: Ref | None = None


def _key(action: EventTimeout | StateTimeout | Timeout) -> object:
    """Which one it is: setting another of the same key ends it."""
    return (Timeout, action.name) if type(action) is Timeout else type(action)


_NO_EVENTS: deque[Event] = deque(maxlen=0)  # an empty deque of one's own takes more room than all the rest


class _Machine:
    """What a GenServer calls for a GenStatem; the GenServer's state is the pair (state, data).

    Invariants between two messages: `event` and `current` are None, `queue` is the shared `_NO_EVENTS`, `due` is empty.
    """

    __slots__ = (
        "__qualname__",
        "count",
        "current",
        "due",
        "event",
        "kind",
        "modules",
        "numbers",
        "postponed",
        "queue",
        "timers",
    )

    def __init__(self, kind: type[GenStatem[Any, Any]]) -> None:
        self.__qualname__ = kind.__qualname__  # what reports call it
        self.kind = kind
        self.modules: list[GenStatem[Any, Any]] = []  # the last one handles the events
        self.postponed: list[Event] = []  # oldest first
        self.timers: dict[object, _Timer] = {}
        self.numbers: dict[int, object] = {}  # number -> key, of those that wait for their message
        self.count = 0
        self.due: list[object] = []  # time-outs of 0: their turn comes when `queue` is empty
        self.queue = _NO_EVENTS  # what waits inside, first first
        self.event: Event | None = None  # the one under way
        self.current: tuple[Any, Any] | None = None  # state and data meanwhile

    # -- callbacks of the GenServer

    def init(self, *args: Any, **kwargs: Any) -> Any:
        self.modules.append(self.kind())
        made = settled(self.modules[-1].init(*args, **kwargs))
        if type(made) is NextState:
            self._function(made.state)
            return Ok((made.state, made.data), continue_=made.actions)
        if made is IGNORE or type(made) is Stop:
            return made
        raise ProcessExit(("bad_return_value", short(made)))

    def handle_continue(self, actions: Any, pair: Any) -> Any:
        """The first state is entered; its starter goes on already."""
        return self._run(pair, None, RepeatState(pair[1], *actions))

    def handle_call(self, request: Any, from_: Any, pair: Any) -> Any:
        return self._run(pair, Call(request, from_))

    def handle_cast(self, request: Any, pair: Any) -> Any:
        return self._run(pair, Cast(request))

    def handle_info(self, message: Any, pair: Any) -> Any:
        if type(message) is tuple and len(message) == 2 and message[0] == _TIMED_OUT:
            key = self.numbers.pop(message[1], None)
            if key is None:  # ended after it had been sent
                return NoReply()
            return self._run(pair, self.timers.pop(key).event)
        return self._run(pair, Info(message))

    @property
    def terminate(self) -> Callable[[Any, Any], Any]:
        """There is one only where the class has one: a server without it ends at once."""
        if type(self.modules[-1]).terminate is GenStatem.terminate:
            raise AttributeError("terminate")
        return self._terminate

    def _terminate(self, reason: Any, pair: Any) -> Any:
        return self.modules[-1].terminate(reason, *(self.current or pair))

    def format_status(self, status: dict[str, Any]) -> dict[str, Any]:
        state, data = self.current or status["state"]
        shown = dict(
            settled(
                self.modules[-1].format_status(
                    {
                        "state": state,
                        "data": data,
                        "message": status["message"] if self.event is None else self.event,
                        "reason": status["reason"],
                        "queue": list(self.queue),
                        "postponed": list(self.postponed),
                        "timeouts": [timer.event for timer in self.timers.values()],
                    }
                )
            )
        )
        shown["state"] = (shown["state"], shown.pop("data"))
        return shown

    @property
    def _serves(self) -> type:
        """The user's class, whose new code a `reload` looks for."""
        return type(self.modules[-1]) if self.modules else self.kind

    def _system_code_change(self, target: Any, version: Any, pair: Any, extra: Any) -> tuple[_Machine, tuple[Any, Any]]:
        kind = latest(type(self.modules[-1])) if target is None else target
        _check_class(kind)
        changed = copy.copy(self)
        changed.modules = [*self.modules[:-1], kind()]
        changed.__qualname__ = kind.__qualname__
        state, data = settled(changed.modules[-1].code_change(version, pair[0], pair[1], extra))
        changed._function(state)
        return changed, (state, data)

    # -- events

    def _function(self, state: Any) -> Callable[[Event, Any], Any]:
        """What takes the events of that state. Raises ValueError where there is no such state."""
        module = self.modules[-1]
        kind = type(module)
        if not kind._states:
            return lambda event, data: module.handle_event(event, state, data)
        if not isinstance(state, str) or state not in kind._states:
            raise ValueError(
                f"expected a state of {kind.__qualname__} ({', '.join(sorted(kind._states))}), got {state!r}"
            )
        function: Callable[[Event, Any], Any] = getattr(module, state)
        return function

    def _run(self, pair: tuple[Any, Any], event: Event | None, result: Any = None) -> Any:
        """Handle an event, and all that wait inside then; what the GenServer's callback returns.

        result: what to begin with instead, as if a callback had returned it.
        """
        self.current = pair
        self.queue = deque() if event is None else deque((event,))
        while True:
            if result is None:
                if self.queue:
                    self.event = self.queue.popleft()
                elif self.due:
                    self.event = self.timers.pop(self.due.pop(0)).event
                else:
                    break
                state, data = self.current
                result = settled(self._function(state)(self.event, data))
                if result is None:
                    raise ProcessExit(("bad_return_value", "None"))
            ended = self._follow(result)
            if ended is not None:
                return ended
            result = self.event = None
        pair, self.current = self.current, None
        self.queue = _NO_EVENTS
        return NoReply(pair)

    def _follow(self, returned: Any) -> Stop | None:
        """Do what a callback has returned for `event`. A Stop where it is the machine's end."""
        result: Transition[Any, Any] = returned
        old = self.current
        assert old is not None
        state, data = old
        postpone, entering = False, False
        next_events: list[Event] = []
        timeouts: dict[object, EventTimeout | StateTimeout | Timeout] = {}
        while True:
            enter = False
            if type(result) is NextState and not (entering and result.state != state):
                enter = result.state != state
                state, data = result.state, result.data
            elif type(result) is KeepState or type(result) is RepeatState:
                data = result.data
                enter = type(result) is RepeatState
            elif type(result) is RepeatStateAndData:
                enter = True
            elif type(result) is Stop and not says_more(result):
                self.current = (state, state_after(result, data))
                return Stop(result.reason)
            elif type(result) is StopAndReply:
                self.current = (state, data if result.data is _KEEP else result.data)
                for each in result.replies:
                    if type(each) is not ReplyAction:
                        raise ProcessExit(("bad_action_value", short(each)))
                    reply(each.from_, each.value)
                return Stop(result.reason)
            elif type(result) is not KeepStateAndData:
                self.current = (state, data)
                raise ProcessExit(("bad_return_value", short(result)))
            for action in result.actions:
                match action:
                    case ReplyAction():
                        reply(action.from_, action.value)
                    case EventTimeout() | StateTimeout() | Timeout():
                        key = _key(action)
                        timeouts.pop(key, None)  # the last of a kind counts, and its place
                        timeouts[key] = action
                    case Postpone() if not (entering and action.on):
                        postpone = action.on
                    case NextEvent() if not entering:
                        next_events.append(action.event)
                    case Hibernate():
                        continue
                    case _ if not entering and self._changed_module(action):
                        continue
                    case _:
                        self.current = (state, data)
                        raise ProcessExit(("bad_action_value", short(action)))
            if not (enter and type(self.modules[-1])._state_enter):
                break
            entering = True
            result = settled(self._function(state)(Enter(old[0]), data))
        changed = state != old[0]
        if changed:
            self._function(state)  # there is one
        self.current = (state, data)
        if postpone and self.event is not None:
            self.postponed.append(self.event)
        if self.event is not None:
            self._cancel(EventTimeout)
        if changed:
            self._cancel(StateTimeout)
            self.queue.extendleft(reversed(self.postponed))
            self.postponed.clear()
        self.queue.extendleft(reversed(next_events))
        for key, action in timeouts.items():
            self._set(key, action)
        return None

    def _changed_module(self, action: Any) -> bool:
        """Whether that was the action."""
        if type(action) is PushCallbackModule:
            self.modules.append(action.module())
        elif type(action) is ChangeCallbackModule:
            self.modules[-1] = action.module()
        elif type(action) is PopCallbackModule and len(self.modules) > 1:
            self.modules.pop()
        else:
            return False
        cleans_up(hasattr(self, "terminate"))
        return True

    # -- time-outs

    def _set(self, key: object, action: EventTimeout | StateTimeout | Timeout) -> None:
        if action.seconds is None or action.seconds == "cancel":
            self._cancel(key)
            return
        running = self.timers.get(key)
        if action.seconds == "update" and running is not None:
            running.event = replace(running.event, content=action.content)
            return
        self._cancel(key)
        if action.seconds == "update" or (action.seconds == 0 and not action.absolute):
            self.timers[key] = _Timer(replace(action, seconds=0, absolute=False))
            self.due.append(key)
            return
        self.count += 1
        delay = max(0.0, action.seconds - time.monotonic()) if action.absolute else action.seconds
        ref = api.send_after(delay, api.self_(), (_TIMED_OUT, self.count))
        self.timers[key] = _Timer(action, self.count, ref)
        self.numbers[self.count] = key

    def _cancel(self, key: object) -> None:
        timer = self.timers.pop(key, None)
        if timer is None:
            return
        if timer.number is None or timer.ref is None:
            self.due.remove(key)
        else:
            del self.numbers[timer.number]
            api.cancel_timer(timer.ref)


GenStatem._served_by = _Machine  # type: ignore[attr-defined]
