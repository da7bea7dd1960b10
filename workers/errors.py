"""The exceptions of the library: one tree, rooted in `ActorError`.

Everything here is raised in the process that made the failing call, at the call. What a process *ends*
with is not an exception but a value, an exit reason (`parallel_actors.workers.reasons`). The two at the end,
`ProcessExit` and `ProcessKilled`, are neither: they unwind the stack of a process that has to end.

Every exception can be pickled, so it can be sent, be a reply, and be part of a crash.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AccessDenied",
    "ActorError",
    "AlreadyRegistered",
    "CallTimeout",
    "CallingSelf",
    "ChildError",
    "HandlerError",
    "MailboxFull",
    "NameTaken",
    "NamesFull",
    "NoKey",
    "NoProc",
    "NoTable",
    "NodeDown",
    "NotPicklable",
    "NotRegistered",
    "NotRunning",
    "ProcessExit",
    "ProcessKilled",
    "ReceiveTimeout",
    "RemoteError",
    "SegmentFull",
    "StartError",
    "StoreFull",
]


class ActorError(Exception):
    """Raised when the library can't do what it was asked; the root of all its exceptions.

    Its fields are None where they don't apply:

    - `reason`: the exit reason of the process concerned, a value (`reasons.Crash`, `"normal"`, ...)
    - `target`: whom the operation was for: a pid, a name, a reference
    - `request`: what was asked of it
    - `elapsed`: seconds from the start of the operation to its failure
    - `remote_traceback`: the formatted traceback of the other process
    """

    # The fields are attributes of the class, so that instances carry (and pickle) only what was set.
    reason: Any = None
    target: Any = None
    request: Any = None
    elapsed: float | None = None
    remote_traceback: str | None = None

    def __init__(
        self,
        *args: Any,
        reason: Any = None,
        target: Any = None,
        request: Any = None,
        elapsed: float | None = None,
        remote_traceback: str | None = None,
    ) -> None:
        super().__init__(*args)
        if reason is not None:
            self.reason = reason
        if target is not None:
            self.target = target
        if request is not None:
            self.request = request
        if elapsed is not None:
            self.elapsed = elapsed
        if remote_traceback is not None:
            self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        text = super().__str__()
        if self.remote_traceback:
            text = f"{text}\n--- traceback in the other process ---\n{self.remote_traceback.rstrip()}"
        return text


class NotPicklable(ActorError, TypeError):
    """Raised when a message, an argument or a reply holds something that can't leave its process.

    The text names the place inside the object (`msg["conn"].socket`); `path` has it alone. The original
    exception is the `__cause__`. What to do: send what describes the thing (a host name, a path) and open it
    in the receiver, or give its class a `__reduce__` that does.
    """

    path: str | None = None

    def __init__(self, *args: Any, path: str | None = None, **fields: Any) -> None:
        super().__init__(*args, **fields)
        if path is not None:
            self.path = path


class NotRegistered(ActorError, LookupError):
    """Raised when a name is used as an address and no process has it.

    What to do: register the process before others send to its name, or ask `whereis` first. A name is freed
    when its process dies, so this is also what a sender sees between a crash and the restart.
    """


class NameTaken(ActorError, ValueError):
    """Raised when a name is registered that another process has.

    What to do: `whereis(name)` says who; unregister it there, or choose another name. `target` is that process.
    """


class AlreadyRegistered(NameTaken):
    """Raised when a key of a registry with unique keys is registered that another process has.

    `target` is that process. What to do: talk to that one, or choose another key. A key is free again when its process
    unregisters it, or ends.
    """


class ReceiveTimeout(ActorError, TimeoutError):
    """Raised when no fitting message came in time.

    What to do: give `receive` a longer `timeout`, or a `default` to return instead. Mail that fitted no pattern
    is still in the mailbox.
    """


class NoProc(ActorError, LookupError):
    """Raised when the process that was called is dead, or was never there.

    What to do: monitor or link to learn of deaths; supervise what has to live, and call it by its name, which
    outlives a restart.
    """


class NodeDown(ActorError, ConnectionError):
    """Raised when the worker or node of the called process has gone.

    What to do: as for `NoProc`. The call may or may not have been carried out: only the receiver could tell.
    """


class NoTable(ActorError, LookupError):
    """Raised when a table (`ets`) is used that was deleted, whose owner has ended, or whose name no table has.

    What to do: have a process own the table that lives as long as it is needed, or give it an heir. Where the worker of
    the table has died, `NodeDown` is raised instead.
    """


class NoKey(ActorError, LookupError):
    """Raised when a table (`ets`) has no row of a key, or no persistent term has it, and no default was given."""


class AccessDenied(ActorError, PermissionError):
    """Raised when a process reads or changes a table (`ets`) that it may not: see the table's `access`.

    What to do: make the table "public", or ask its owner, by a call, to do it.
    """


class MailboxFull(ActorError, RuntimeError):
    """Raised in the sender when the receiver's mailbox has a limit (`max_mailbox`), is full, and takes no more.

    `target` is the receiver. What to do: send less, or later; or give the receiver another `mailbox_policy`: one that
    suspends its senders.
    """


class NotRunning(ActorError, RuntimeError):
    """Raised when there is no actor system here, or it has ended.

    What to do: start one with `with ActorSystem():`, or run the program by `parallel-actors run`.
    """


class CallTimeout(ActorError, TimeoutError):
    """Raised when a call got no reply in time; the server may be alive and still at it.

    What to do: give the call a longer `timeout`, or find out what keeps the server busy. A late reply is
    dropped; the request may still be carried out.
    """


class CallingSelf(ActorError, RuntimeError):
    """Raised when a process calls itself: it would wait for itself for ever.

    What to do: call the method or function directly, or `cast` to yourself for later.
    """


class RemoteError(ActorError, RuntimeError):
    """Raised in the caller when the called process failed while it handled the call.

    `reason` is what it ended with, `remote_traceback` where; if its exception could be pickled, it is the
    `__cause__`. What to do: mend the server, or answer with an error value what callers should handle.
    """


class StartError(ActorError, RuntimeError):
    """Raised in the starter when a process failed, or took too long, to start.

    `reason` says why. The process is dead and its name is free when this is raised.
    """


class ChildError(ActorError, ValueError):
    """Raised when a supervisor refuses a request about a child: `reason` is a word that says why.

    "not_found", "already_started", "already_present", "running", "restarting", "max_children". What to do:
    `which_children` tells what there is.
    """


class HandlerError(ActorError, ValueError):
    """Raised when an event manager has no such handler; `request` is what was asked for.

    What to do: `GenEvent.which_handlers` tells what there is. One that failed was removed.
    """


class SegmentFull(ActorError, MemoryError):
    """Raised when the shared memory can't grow: the machine, or this program's cgroup, has no memory left.

    What to do: give the program more memory, or have fewer and smaller messages under way.
    """


class StoreFull(SegmentFull):
    """Raised when the store of the run (names, definitions of `__main__`) is used up: 256 MiB.

    What to do: use fewer distinct names, and don't define classes and functions anew without end.
    """


class NamesFull(ActorError, MemoryError):
    """Raised when no name can be bound any more: every name that was ever registered in a run keeps its entry.

    What to do: don't make names without end; address processes that come and go by their pids.
    """


class ProcessExit(BaseException):
    """Raised to end the process it is raised in, with a reason: `raise ProcessExit("shutdown")`.

    Not an error: as with SystemExit, `except Exception` lets it pass, and `finally` and `with` blocks run.
    """

    reason: Any

    def __init__(self, reason: Any = "normal") -> None:
        super().__init__(reason)
        self.reason = reason


class ProcessKilled(ProcessExit):
    """Raised in a process that was killed, to unwind its stack: to everybody else it is dead already.

    Don't catch it: it comes again at the next chance, and what goes on swallowing it is abandoned.
    """

    def __init__(self, reason: Any = "killed") -> None:
        super().__init__(reason)
