"""Subject and Selector: typed addresses of raw processes, and waiting for several at once (gleam_erlang's `process`).

    Subject[M]()                -> (own pid, a fresh tag); whoever has it sends: the message (tag, message) to the pid
    subject.receive()           -> the first (tag, ...) in the owner's mailbox
    Selector().select(a).select_map(b, f).receive() -> the first for a or b, as `f` of it for b
    subject.call(make_request)  -> a monitor of the owner that is an alias, too: the tag of the subject for the answer.
                                   The first of (tag, answer), Down(tag, ...); what comes later is dropped

To type checkers a subject of `M` takes and gives `M` alone. Nothing is checked when a message travels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Never, TypeVar, overload

from parallel_actors.gen_server import failed_with
from parallel_actors.workers import api
from parallel_actors.workers.errors import (
    ActorError,
    CallingSelf,
    CallTimeout,
    NoProc,
    ProcessExit,
)
from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.patterns import ANY, matches
from parallel_actors.workers.reasons import Down

__all__ = ["Selector", "Subject"]

M = TypeVar("M")
D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")
U = TypeVar("U")

_NO_DEFAULT: Any = object()


# --- Subject ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, init=False)
class Subject(Generic[M]):
    """An address that takes messages of one type; who made it receives them (gleam_erlang: `process.Subject`).

    >>> import parallel_actors as pa
    >>> def double(numbers_to: pa.Subject[pa.Subject[int]], answers: pa.Subject[int]) -> None:
    ...     numbers = pa.Subject[int]()
    ...     numbers_to.send(numbers)
    ...     answers.send(2 * numbers.receive(timeout=10))
    >>> with pa.ActorSystem(workers=2):
    ...     subjects, answers = pa.Subject[pa.Subject[int]](), pa.Subject[int]()
    ...     pid = pa.spawn(double, subjects, answers)
    ...     subjects.receive(timeout=10).send(21)
    ...     answers.receive(timeout=10)
    42

    `Subject[M]()` belongs to the caller, and is different from all others. It travels in messages, and compares by
    owner and tag. Messages of one sender come in the order that they were sent in, whatever the subjects.

    `Subject[M](name="x")` is whoever has the registered name at that moment: a restarted process goes on under the same
    one (gleam_erlang: `named_subject`). All of one name are equal.

    In a mailbox it is the tuple `(tag, message)`, with the name as the tag of a named one: that is what `receive` of
    the module and `handle_info` of a GenServer see.

    Fields:
        owner: the pid that receives, or the name of whoever does.
        tag: what its messages are marked with.
    """

    __slots__ = ("_to", "owner", "tag")

    owner: Pid | str
    tag: Ref | str
    _to: Pid | Ref | str  # where it is sent to: an alias for the answer to a call

    def __init__(self, *, name: str | None = None) -> None:
        if name is None:
            self._be(api.self_(), api.make_ref(), api.self_())
        elif isinstance(name, str):
            self._be(name, name, name)
        else:
            raise TypeError(f"expected name to be a str, got {name!r} ({type(name).__name__})")

    def _be(self, owner: Pid | str, tag: Ref | str, to: Pid | Ref | str) -> None:
        for name, value in (("owner", owner), ("tag", tag), ("_to", to)):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _subject, (self.owner, self.tag, self._to)

    def pid(self) -> Pid | None:
        """The process that receives; None where nobody has the name (gleam_erlang: `subject_owner`)."""
        return self.owner if isinstance(self.owner, Pid) else api.whereis(self.owner)

    def send(self, message: M, /, *, copy: bool = False) -> None:
        """Send it; returns at once, whether the owner lives or not (gleam_erlang: `send`).

        Args:
            copy: as for `parallel_actors.send`.

        Raises:
            NotRegistered: nobody has the name.
            NotPicklable: for a message that can't leave its process.
        """
        api.send(self._to, (self.tag, message), copy=copy)

    def send_after(self, delay: float, message: M, /) -> Ref:
        """Send it in `delay` seconds; a `Ref` for `cancel_timer` (gleam_erlang: `send_after`)."""
        return api.send_after(delay, self._to, (self.tag, message))

    @overload
    def receive(self, timeout: float | None = None) -> M: ...
    @overload
    def receive(self, timeout: float | None = None, *, default: D) -> M | D: ...
    def receive(self, timeout: float | None = None, *, default: Any = _NO_DEFAULT) -> Any:
        """Take the first message for this subject out of the mailbox; wait for it (gleam_erlang: `receive`).

        For one that is newer than all other references of its process, mail that was there before isn't looked at.

        Args:
            timeout: seconds; None: without end. 0 looks at what is there.
            default: what to return then. Without it:

        Raises:
            ReceiveTimeout: none came in time.
            ActorError: the caller isn't its owner. Of a named one anybody may try; messages come to who has the name.
        """
        self._check_owner()
        return self._taken(api.receive((self.tag, ANY), timeout=timeout, **_waiting(default)), default)

    @overload
    async def areceive(self, timeout: float | None = None) -> M: ...
    @overload
    async def areceive(self, timeout: float | None = None, *, default: D) -> M | D: ...
    async def areceive(self, timeout: float | None = None, *, default: Any = _NO_DEFAULT) -> Any:
        """`receive` for `async def` bodies, and for asyncio."""
        self._check_owner()
        return self._taken(await api.areceive((self.tag, ANY), timeout=timeout, **_waiting(default)), default)

    def call(self, make_request: Callable[[Subject[R]], M], timeout: float | None = 5.0) -> R:
        """Send a request that says where to answer, and wait for the answer (gleam_erlang: `call`, `call_forever`).

        >>> import parallel_actors as pa
        >>> from dataclasses import dataclass
        >>> from functools import partial
        >>> @dataclass
        ... class Add:
        ...     by: int
        ...     reply_to: pa.Subject[int]
        >>> def counter(started: pa.Subject[pa.Subject[Add]]) -> None:
        ...     requests, n = pa.Subject[Add](), 0
        ...     started.send(requests)
        ...     while True:
        ...         request = requests.receive()
        ...         n += request.by
        ...         request.reply_to.send(n)
        >>> with pa.ActorSystem(workers=2):
        ...     started = pa.Subject[pa.Subject[Add]]()
        ...     pid = pa.spawn(counter, started)
        ...     requests = started.receive(timeout=10)
        ...     requests.call(partial(Add, 1)), requests.call(partial(Add, 2))
        (1, 3)

        Mail that waits in the caller's mailbox isn't looked at. An answer that comes too late is dropped, and so is a
        second one. Whoever has got the subject for the answer may send it.

        Args:
            make_request: makes the request from the subject for the answer; a class, say, whose one argument that is.
            timeout: seconds to wait at most; None: as long as the owner lives.

        Raises:
            CallTimeout: no answer in time.
            NoProc: the owner is dead, or nobody has the name.
            NodeDown: its worker died.
            RemoteError: it ended without an answer.
            CallingSelf: the caller is the owner.
            NotPicklable: for a request that can't leave its process.
            MailboxFull: the owner's mailbox has a limit, and its policy is "fail".
        """
        pid, ref = self._ask(make_request)
        try:
            answer = api.receive((ref, ANY), Down(ref, ANY, ANY), timeout=timeout, default=None)
        except BaseException as error:
            _forget(ref, error)
            raise
        found: R = self._answered(pid, ref, answer, timeout)
        return found

    async def acall(self, make_request: Callable[[Subject[R]], M], timeout: float | None = 5.0) -> R:
        """`call` for `async def` bodies, and for asyncio. Cancelled, it leaves nothing behind."""
        pid, ref = self._ask(make_request)
        try:
            answer = await api.areceive((ref, ANY), Down(ref, ANY, ANY), timeout=timeout, default=None)
        except BaseException as error:
            _forget(ref, error)
            raise
        found: R = self._answered(pid, ref, answer, timeout)
        return found

    def _check_owner(self) -> None:
        if isinstance(self.owner, Pid) and self.owner != api.self_():
            raise _not_ours(self.owner)

    def _taken(self, message: Any, default: Any) -> Any:
        return default if message is default else message[1]

    def _ask(self, make_request: Callable[[Subject[R]], M]) -> tuple[Pid, Ref]:
        pid = self.pid()
        if pid is None:
            raise NoProc(
                f"expected a process called {self.owner!r}, got none: no process has this name",
                reason="noproc",
                target=self.owner,
            )
        if pid == api.self_():
            raise CallingSelf(
                f"expected a call to another process, got one to the caller itself ({pid!r}): it would wait for itself",
                target=self,
            )
        ref = api.monitor(pid, alias=True)
        try:
            answer: Subject[R] = _subject(api.self_(), ref, ref)
            api.send(self._to if isinstance(self._to, Ref) else pid, (self.tag, make_request(answer)))
        except BaseException as error:
            _forget(ref, error)
            raise
        return pid, ref

    def _answered(self, pid: Pid, ref: Ref, answer: Any, timeout: float | None) -> Any:
        if answer is None:
            _forget(ref)
            raise CallTimeout(
                f"call to {pid!r} timed out after {timeout} s\n"
                "  a late answer will be dropped; give it a longer timeout, or find out what keeps its owner busy",
                target=self,
                elapsed=timeout,
            )
        if not isinstance(answer, Down):
            return answer[1]
        if answer.reason == "noproc":
            raise NoProc(f"call to {pid!r}: there is no such process (any more)", reason="noproc", target=self)
        raise failed_with(repr(pid), answer.reason, self)


def _subject(owner: Pid | str, tag: Ref | str, to: Pid | Ref | str) -> Subject[Any]:
    made: Subject[Any] = Subject.__new__(Subject)
    made._be(owner, tag, to)
    return made


def _waiting(default: Any) -> dict[str, Any]:
    """The keyword of `receive` that says what to return when nothing came."""
    return {} if default is _NO_DEFAULT else {"default": default}


def _forget(ref: Ref, error: BaseException | None = None) -> None:
    """Nothing of this call arrives any more. (The first answer takes monitor and alias away, and so does a Down.)

    One that is being ended has nothing to forget.
    """
    if not isinstance(error, ProcessExit):
        api.demonitor(ref, flush=True)
        api.receive((ref, ANY), timeout=0, default=None)


def _not_ours(owner: Pid) -> ActorError:
    return ActorError(
        f"expected the owner of the subject, {owner!r}, to receive from it; got {api.self_()!r}: make a Subject() in"
        " the process that is to receive, and send it to those that are to send",
        target=owner,
    )


# --- Selector ---------------------------------------------------------------------------------------------------------


class Selector(Generic[T]):
    """Receives from several subjects, whichever has a message first (gleam_erlang: `process.Selector`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     words, numbers = pa.Subject[str](), pa.Subject[int]()
    ...     numbers.send(1)
    ...     words.send("a")
    ...     selector = pa.Selector().select(words).select_map(numbers, lambda n: f"number {n}")
    ...     [selector.receive(timeout=0) for _ in range(2)]
    ['number 1', 'a']

    A selector never changes: each method returns another one. It is used by the process that owns its subjects.
    The first message that is selected is taken, and all others stay. A subject that is selected again has its new
    function. A function is called in the receiver, with the message that was taken; what it raises is raised.
    """

    __slots__ = ("_other", "_owner", "_parts")

    _parts: dict[object, tuple[Any, Callable[[Any], Any] | None]]  # tag, or a key of its own -> pattern, function
    _other: Callable[[Any], Any] | None
    _owner: Pid | None  # of its subjects

    def __init__(self: Selector[Never]) -> None:
        self._parts, self._other, self._owner = {}, None, None

    def select(self, subject: Subject[M], /) -> Selector[T | M]:
        """Receive from this subject, too (gleam_erlang: `select`).

        Raises:
            ActorError: its owner is another than that of the others.
        """
        return self._with(subject, None)

    def select_map(self, subject: Subject[M], transform: Callable[[M], U], /) -> Selector[T | U]:
        """`select`, but give `transform` of what comes (gleam_erlang: `select_map`)."""
        return self._with(subject, transform)

    @overload
    def select_record(self, pattern: type[M], /) -> Selector[T | M]: ...
    @overload
    def select_record(self, pattern: type[M], transform: Callable[[M], U], /) -> Selector[T | U]: ...
    @overload
    def select_record(self, pattern: object, /) -> Selector[Any]: ...
    @overload
    def select_record(self, pattern: object, transform: Callable[[Any], U], /) -> Selector[T | U]: ...
    def select_record(self, pattern: object, transform: Callable[[Any], Any] | None = None, /) -> Selector[Any]:
        """Receive other messages, too: those that fit a pattern of `receive` (gleam_erlang: `select_record`).

        >>> import parallel_actors as pa
        >>> with pa.ActorSystem(workers=1):
        ...     words = pa.Subject[str]()
        ...     selector = pa.Selector().select(words).select_record(pa.Down, lambda down: down.reason)
        ...     pid, ref = pa.spawn_monitor(words.send, "a")
        ...     selector.receive(timeout=10), selector.receive(timeout=10)
        ('a', 'normal')

        `Down` is all monitors (`select_monitors`), `Down(ref, ANY, ANY)` one of them (`select_specific_monitor`),
        `Exit` what a process that traps exits gets (`select_trapped_exits`). Of several that fit, the first counts.
        """
        return _composed({**self._parts, object(): (pattern, transform)}, self._other, self._owner)

    def select_other(self, transform: Callable[[Any], U], /) -> Selector[T | U]:
        """Receive all messages that nothing else fits, too (gleam_erlang: `select_other`)."""
        return _composed(self._parts, transform, self._owner)

    def deselect(self, subject: Subject[Any], /) -> Selector[T]:
        """Don't receive from this subject (gleam_erlang: `deselect`)."""
        parts = {key: part for key, part in self._parts.items() if key != subject.tag}
        return _composed(parts, self._other, self._owner)

    def merge(self, other: Selector[U], /) -> Selector[T | U]:
        """Receive what either does; what both have is as `other` has it (gleam_erlang: `merge_selector`).

        Raises:
            ActorError: their subjects have different owners.
        """
        if self._owner is not None and other._owner is not None and self._owner != other._owner:
            raise _of_two(self._owner, other._owner)
        parts: dict[Any, Any] = {**self._parts, **other._parts}
        return _composed(parts, other._other or self._other, self._owner or other._owner)

    def map(self, transform: Callable[[T], U], /) -> Selector[U]:
        """The same, but `transform` of what it gives (gleam_erlang: `map_selector`)."""
        parts = {key: (pattern, _after(first, transform)) for key, (pattern, first) in self._parts.items()}
        return _composed(parts, self._other and _after(self._other, transform), self._owner)

    @overload
    def receive(self, timeout: float | None = None) -> T: ...
    @overload
    def receive(self, timeout: float | None = None, *, default: D) -> T | D: ...
    def receive(self, timeout: float | None = None, *, default: Any = _NO_DEFAULT) -> Any:
        """Take the first message that it selects out of the mailbox; wait for it (gleam_erlang: `selector_receive`).

        Args:
            timeout: seconds; None: without end. 0 looks at what is there.
            default: what to return then. Without it:

        Raises:
            ReceiveTimeout: none came in time.
            ActorError: the caller isn't the owner of its subjects.
            LookupError: nothing is selected.
        """
        message = api.receive(*self._patterns(), timeout=timeout, **_waiting(default))
        return message if message is default else self._mapped(message)

    @overload
    async def areceive(self, timeout: float | None = None) -> T: ...
    @overload
    async def areceive(self, timeout: float | None = None, *, default: D) -> T | D: ...
    async def areceive(self, timeout: float | None = None, *, default: Any = _NO_DEFAULT) -> Any:
        """`receive` for `async def` bodies, and for asyncio."""
        message = await api.areceive(*self._patterns(), timeout=timeout, **_waiting(default))
        return message if message is default else self._mapped(message)

    def _with(self, subject: Subject[Any], transform: Callable[[Any], Any] | None) -> Selector[Any]:
        if not isinstance(subject, Subject):
            raise TypeError(f"expected a Subject to receive from, got {subject!r} ({type(subject).__name__})")
        owner = subject.owner if isinstance(subject.owner, Pid) else self._owner
        if self._owner is not None and owner != self._owner:
            raise _of_two(self._owner, owner)
        parts = {**self._parts, subject.tag: ((subject.tag, ANY), _after(_message, transform))}
        return _composed(parts, self._other, owner)

    def _patterns(self) -> list[Any]:
        if self._owner is not None and self._owner != api.self_():
            raise _not_ours(self._owner)
        patterns = [pattern for pattern, _ in self._parts.values()]
        if self._other is not None:
            patterns.append(ANY)
        if not patterns:
            raise LookupError("expected something to receive, got a Selector that selects nothing")
        return patterns

    def _mapped(self, message: Any) -> Any:
        for pattern, transform in self._parts.values():
            if matches(pattern, message):
                return message if transform is None else transform(message)
        if self._other is None:
            raise RuntimeError(
                f"expected a predicate to say the same twice of a message, got no and yes for {message!r}"
            )
        return self._other(message)


def _message(message: tuple[Any, Any]) -> Any:
    return message[1]


def _after(first: Callable[[Any], Any] | None, then: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    if first is None or then is None:
        return first or then
    return lambda message: then(first(message))


def _composed(parts: dict[object, Any], other: Any, owner: Pid | None) -> Selector[Any]:
    made: Selector[Any] = Selector.__new__(Selector)
    made._parts, made._other, made._owner = parts, other, owner
    return made


def _of_two(one: Pid, other: object) -> ActorError:
    return ActorError(
        f"expected all subjects of a Selector to have one owner, who receives; got {one!r} and {other!r}", target=one
    )
