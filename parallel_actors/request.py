"""Requests: a call whose answer is waited for later, or several at once (OTP's `gen_server:send_request`).

send_request -> ("$gen_call", (own pid, ref, TAGGED), request) to the server; `ref` is a monitor and an alias
its reply    -> the message (ref, value) to the alias
wait         -> the first of (ref, value), Down(ref, ...)
"""

from __future__ import annotations

import time
from collections.abc import Generator, Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from parallel_actors.gen_server import failed_with, tagged_call
from parallel_actors.workers import api
from parallel_actors.workers.errors import ActorError, CallTimeout, ProcessExit
from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.patterns import ANY
from parallel_actors.workers.reasons import Down

if TYPE_CHECKING:
    from parallel_actors.gen_server import Server

__all__ = ["Done", "Failed", "Pending", "Request", "Requests", "send_request"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """An answer has come, or a task has ended with a result (Elixir: `{:ok, value}`)."""

    value: T


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no answer: why, an exit reason; "timeout" where its time was up (Elixir: `{:exit, reason}`)."""

    reason: Any


@dataclass(frozen=True, slots=True)
class Pending(Generic[T]):
    """What comes as `(ref, value)`, or doesn't, and then as `Down(ref, ...)`: the part that requests and tasks share.

    Fields:
        pid: the process that is to answer.
        ref: what its answer and its end come with.
        owner: who asked, and alone may wait.
    """

    pid: Pid
    ref: Ref
    owner: Pid

    def check(self, message: Any) -> Done[T] | Failed | None:
        """What `message`, taken from the mailbox by the caller, says of this one; None: it is about something else."""
        self._check_owner()
        if type(message) is tuple and len(message) == 2 and type(message[0]) is Ref and message[0] == self.ref:
            return self._ended(message)
        return self._ended(message) if type(message) is Down and message.ref == self.ref else None

    def _what(self) -> str:
        return repr(self.pid)

    def _check_owner(self) -> None:
        if self.owner != api.self_():
            raise ActorError(
                f"expected {self.owner!r}, who asked, to wait for the answer; got {api.self_()!r}: have the owner send"
                " on what it gets",
                target=self.pid,
            )

    def _wait(self, timeout: float | None) -> Any:
        self._check_owner()
        if timeout is not None:
            return api.receive((self.ref, ANY), Down(self.ref, ANY, ANY), timeout=timeout, default=None)
        # Of one that was waited for already nothing comes any more, but the end of its process does.
        watch = api.monitor(self.pid)
        try:
            return self._wait_or_end(watch, None)
        finally:
            api.demonitor(watch, flush=True)

    def _wait_or_end(self, watch: Ref, timeout: float | None) -> Any:
        """The answer, or a Down: of the process itself, or of `watch`, another monitor of it."""
        return api.receive(
            (self.ref, ANY), Down(self.ref, ANY, ANY), Down(watch, ANY, ANY), timeout=timeout, default=None
        )

    def _forget(self) -> None:
        """Nothing of it arrives any more."""
        api.unalias(self.ref)
        api.demonitor(self.ref, flush=True)
        api.receive((self.ref, ANY), timeout=0, default=None)

    def _ended(self, answer: Any) -> Done[T] | Failed:
        self._forget()
        return Failed(answer.reason) if isinstance(answer, Down) else Done(answer[1])

    def _result(self, answer: Any) -> T:
        ended = self._ended(answer)
        if isinstance(ended, Failed):
            raise failed_with(self._what(), ended.reason, self.pid)
        return ended.value

    async def _awaited(self, timeout: float | None = None) -> T:
        try:
            answer = await api.areceive((self.ref, ANY), Down(self.ref, ANY, ANY), timeout=timeout, default=None)
        except BaseException as error:
            if not isinstance(error, ProcessExit):
                self._forget()  # cancelled: nobody else waits for it
            raise
        if answer is None:
            self._forget()
            raise CallTimeout(f"no answer of {self._what()} within {timeout} s", target=self.pid, elapsed=timeout)
        return self._result(answer)

    def __await__(self) -> Generator[Any, Any, T]:
        """The value, for `async def` bodies and for asyncio: `await` it. No time-out; raises as waiting does."""
        self._check_owner()
        return self._awaited().__await__()


@dataclass(frozen=True, slots=True)
class Request(Pending[T]):
    """A request under way; made by `send_request` (OTP: `request_id()`).

    >>> import parallel_actors as pa
    >>> class Echo(pa.GenServer):
    ...     def handle_call(self, request, from_, state):
    ...         return pa.Reply(request)
    >>> with pa.ActorSystem(workers=1):
    ...     request = pa.send_request(pa.start(Echo), "hello")
    ...     request.wait(10)
    'hello'
    """

    def wait(self, timeout: float | None = 5.0) -> T:
        """The answer; too early, the request stands, and may be waited for again (OTP: `gen_server:wait_response/2`).

        Args:
            timeout: seconds to wait at most; None: as long as the server lives.

        Raises:
            CallTimeout: no answer yet.
            RemoteError, NodeDown: there will be none: the server has ended, or was dead ("noproc").
            ActorError: the caller isn't who asked.
        """
        answer = self._wait(timeout)
        if answer is None:
            raise CallTimeout(
                f"no answer of {self.pid!r} within {timeout} s\n  the request stands: wait() again, or abandon() it",
                target=self.pid,
                elapsed=timeout,
            )
        return self._result(answer)

    def receive(self, timeout: float | None = 5.0) -> T:
        """As `wait`, but too late is abandoned (OTP: `gen_server:receive_response/2`)."""
        try:
            return self.wait(timeout)
        except CallTimeout:
            self._forget()
            raise

    def abandon(self) -> None:
        """Drop the answer, whenever it comes. The server may handle the request still."""
        self._check_owner()
        self._forget()


def send_request(server: Server, request: object, /) -> Request[Any]:
    """Send what `call` sends, and go on; wait for the answer later (OTP: `gen_server:send_request/2`).

    Args:
        server: a pid or a registered name. One that is dead shows when the answer is waited for.
        request: for `handle_call`.

    Raises:
        NoProc: nobody has the name.
        NotPicklable: for a request that can't leave its process.
    """
    pid, ref = tagged_call(server, request)
    return Request(pid, ref, api.self_())


async def ask(server: Server, request: object, timeout: float | None) -> Any:
    """`call`, for `async def` bodies and for asyncio."""
    return await send_request(server, request)._awaited(timeout)


@dataclass(slots=True)
class Requests:
    """Requests under way with a label each, to take the answers of as they come (OTP: `request_id_collection()`).

    >>> import parallel_actors as pa
    >>> class Echo(pa.GenServer):
    ...     def handle_call(self, request, from_, state):
    ...         return pa.Reply(request)
    >>> with pa.ActorSystem(workers=1):
    ...     requests = pa.Requests()
    ...     for word in ("a", "b"):
    ...         requests.send(pa.start(Echo), word, label=word.upper())
    ...     sorted(requests.answers(timeout=10))
    [('A', Done(value='a')), ('B', Done(value='b'))]
    """

    _open: dict[Ref, tuple[Request[Any], Hashable]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, request: Request[Any], label: Hashable = None) -> None:
        """Put a request in (OTP: `gen_server:reqids_add/3`)."""
        self._open[request.ref] = (request, label)

    def send(self, server: Server, request: object, label: Hashable = None) -> None:
        """`send_request`, and put it in (OTP: `gen_server:send_request/4`)."""
        self.add(send_request(server, request), label)

    def wait(self, timeout: float | None = 5.0) -> tuple[Hashable, Done[Any] | Failed]:
        """The next answer that comes, with its label; it is taken out (OTP: `gen_server:wait_response/3`).

        Raises:
            CallTimeout: none came in time. All of them stand.
            LookupError: there is none to wait for.
        """
        if not self._open:
            raise LookupError("expected a request to wait for, got an empty collection")

        def ours(message: Any) -> bool:
            if type(message) is tuple:
                return len(message) == 2 and type(message[0]) is Ref and message[0] in self._open
            return type(message) is Down and message.ref in self._open

        message = api.receive(ours, timeout=timeout, default=None)
        if message is None:
            raise CallTimeout(f"none of {len(self._open)} requests was answered within {timeout} s", elapsed=timeout)
        request, label = self._open.pop(message.ref if isinstance(message, Down) else message[0])
        return label, request._ended(message)

    def answers(self, timeout: float | None = 5.0) -> Iterator[tuple[Hashable, Done[Any] | Failed]]:
        """All answers as they come, within one time; `Failed("timeout")` for those that don't, which are abandoned."""
        until = None if timeout is None else time.monotonic() + timeout
        while self._open:
            try:
                yield self.wait(None if until is None else max(0.0, until - time.monotonic()))
            except CallTimeout:
                late = list(self._open.values())
                self._open.clear()
                for request, label in late:
                    request.abandon()
                    yield label, Failed("timeout")
