"""Checkpoints: values that outlive the process, the worker or the program that saved them (as Actors.jl's do).

    Checkpoints        -> a GenServer in front of a store; save and restore are calls of it
    MemoryStore        -> as long as the server lives
    SQLiteStore(path)  -> one file; a save that has returned is there after any `kill -9`
    Carry              -> what a supervised child takes from one life into the next: child(..., carry_state=Carry(...))

A value is pickled where it is saved and unpickled where it is restored, so the server runs no user code. A store is
called in a thread (`run_blocking`) where it says that it blocks: its worker goes on.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle

from parallel_actors.gen_server import CARRY, GenServer, NoReply, Ok, Reply, call
from parallel_actors.request import ask
from parallel_actors.workers import api
from parallel_actors.workers.errors import NotPicklable
from parallel_actors.workers.ident import Pid
from parallel_actors.workers.scheduler import current_scheduler

if TYPE_CHECKING:
    import sqlite3

    from parallel_actors.gen_server import Server

__all__ = ["Carry", "Checkpoints", "MemoryStore", "SQLiteStore", "Store"]

_LOG = logging.getLogger("parallel_actors.checkpoint")

_FLUSH = "$flush"
_CHECKPOINT = ("$checkpoint", None)  # a server to itself: save your state

# What is saved: the pickled value; None: it is deleted.
Items = Mapping[str, bytes | None]


# --- stores -----------------------------------------------------------------------------------------------------------


class Store(Protocol):
    """Where a `Checkpoints` server keeps what it is given. One of your own needs these.

    It travels to the server when that starts, before any of it is called. What it raises is raised in who asked.
    """

    blocking: bool
    """Whether its methods wait for a disk or a network: they are called in a thread then, one at a time."""

    def load(self, key: str) -> bytes | None:
        """What was saved last under the key; None: nothing."""

    def save(self, items: Items) -> None:
        """Keep all of them, or none. They are there for good when it returns."""

    def keys(self) -> list[str]:
        """All keys, sorted."""
        ...

    def close(self) -> None:
        """The server ends in order."""


class MemoryStore:
    """Keeps checkpoints as long as its server lives."""

    blocking = False

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def load(self, key: str) -> bytes | None:
        return self._values.get(key)

    def save(self, items: Items) -> None:
        for key, value in items.items():
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value

    def keys(self) -> list[str]:
        return sorted(self._values)

    def close(self) -> None:
        pass


class SQLiteStore:
    """Keeps checkpoints in a file (SQLite, write-ahead log, a transaction that is synced to the disk for each save).

    Args:
        path: of the file; made if it isn't there, its folder isn't. Beside it there are `-wal` and `-shm` while it is
            open. On a local disk: SQLite's log doesn't work on network file systems.

    Raises:
        TypeError: for a `path` that is none.
    """

    blocking = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.path.abspath(os.fspath(path))
        self._open: sqlite3.Connection | None = None

    def __getstate__(self) -> str:
        return self._path  # a connection stays where it is

    def __setstate__(self, path: str) -> None:
        self._path, self._open = path, None

    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            import sqlite3  # no business of those who keep nothing in a file

            # One call at a time, but each may be in another thread.
            made = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
            made.execute("PRAGMA journal_mode=WAL")
            made.execute("PRAGMA synchronous=FULL")
            made.execute("CREATE TABLE IF NOT EXISTS checkpoints (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
            self._open = made
        return self._open

    def load(self, key: str) -> bytes | None:
        row = self._connection().execute("SELECT value FROM checkpoints WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def save(self, items: Items) -> None:
        connection = self._connection()
        with connection:  # all or nothing
            connection.execute("BEGIN IMMEDIATE")
            for key, value in items.items():
                if value is None:
                    connection.execute("DELETE FROM checkpoints WHERE key = ?", (key,))
                else:
                    connection.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", (key, value))

    def keys(self) -> list[str]:
        return [key for (key,) in self._connection().execute("SELECT key FROM checkpoints ORDER BY key")]

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Level:
    """The state of a server."""

    store: Store
    above: Server | None
    waiting: dict[str, bytes | None] = field(default_factory=dict)  # what the one above hasn't got yet

    def do(self, what: str, *args: Any) -> Any:
        method = getattr(self.store, what)
        return api.run_blocking(method, *args) if self.store.blocking else method(*args)


class Checkpoints(GenServer):
    """Keeps checkpoints for others (Actors.jl: `checkpointing`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=2):
    ...     sup = pa.Supervisor.start_link([pa.child(pa.Checkpoints, pa.MemoryStore(), name="checkpoints")])
    ...     pa.Checkpoints.save("checkpoints", "total", 41)
    ...     pa.Checkpoints.restore("checkpoints", "total") + 1
    42

    Args of a child, or of `start`:
        store: a `MemoryStore()`, a `SQLiteStore(path)`, or one of your own (`Store`).
        above: another server, of a higher level, that gets what is saved here every `every` seconds, and when this one
            ends in order; what isn't here is restored from there. So a `MemoryStore` answers at once, and a
            `SQLiteStore` above it keeps what was true a minute ago.
        every: seconds (60).

    One file has one server. Keys are texts; the value is a copy, as in a message. Classes and functions of `__main__`
    are saved by their definition: what is restored in another run is an instance of a class that looks the same. Put
    classes into a module.

    Each function raises what the store did (`sqlite3.Error`, `OSError`), and `CallTimeout`, `NoProc`, `NodeDown`,
    `RemoteError` as `call` does; after a time-out the value may be saved or not.
    """

    @staticmethod
    def save(server: Server, key: str, value: object, /, *, through: bool = False, timeout: float | None = 5.0) -> None:
        """Save a value; when this returns the store has it (Actors.jl: `checkpoint`).

        Args:
            through: have the levels above save it, too, before this returns.
            timeout: seconds to wait at most; None: as long as the server lives.

        Raises:
            NotPicklable: for a value that can't be pickled.
            TypeError: for a key that is no str.
        """
        _done(call(server, ("save", {_key(key): _packed(value)}, through), timeout))

    @staticmethod
    async def asave(
        server: Server, key: str, value: object, /, *, through: bool = False, timeout: float | None = 5.0
    ) -> None:
        """`save` for `async def` bodies, and for asyncio."""
        _done(await ask(server, ("save", {_key(key): _packed(value)}, through), timeout))

    @staticmethod
    def restore(server: Server, key: str, default: Any = None, /, *, timeout: float | None = 5.0) -> Any:
        """What was saved last under the key; `default` if nothing was, or it was deleted (Actors.jl: `restore`).

        Raises what unpickling does, where its class isn't there any more.
        """
        return _unpacked(call(server, ("restore", _key(key)), timeout), default)

    @staticmethod
    async def arestore(server: Server, key: str, default: Any = None, /, *, timeout: float | None = 5.0) -> Any:
        """`restore` for `async def` bodies, and for asyncio."""
        return _unpacked(await ask(server, ("restore", _key(key)), timeout), default)

    @staticmethod
    def delete(server: Server, key: str, /, *, through: bool = False, timeout: float | None = 5.0) -> None:
        """Forget a key, whether it is there or not. Arguments as for `save`."""
        _done(call(server, ("save", {_key(key): None}, through), timeout))

    @staticmethod
    def keys(server: Server, /, *, timeout: float | None = 5.0) -> list[str]:
        """The keys of this server, without those above, sorted (Actors.jl: `get_checkpoints`)."""
        found: list[str] = _done(call(server, ("keys",), timeout))
        return found

    # --- callbacks ---

    def init(self, store: Store, *, above: Server | None = None, every: float = 60.0) -> Any:
        if not all(hasattr(store, name) for name in ("blocking", "load", "save", "keys", "close")):
            raise TypeError(f"expected a store (MemoryStore(), SQLiteStore(path), ...), got {store!r}")
        level = _Level(store, above)
        level.do("keys")  # that it can be read shows here
        if above is not None:
            api.send_interval(every, api.self_(), _FLUSH)
        return Ok(level)

    def handle_call(self, request: Any, from_: Any, state: _Level) -> Any:
        try:
            match request:
                case ("save", items, through):
                    self._save(state, items, through)
                    return Reply((True, None))
                case ("restore", key):
                    return Reply((True, self._load(state, key)))
                case ("keys",):
                    return Reply((True, state.do("keys")))
        except Exception as error:  # of the store: the disk is full, say
            return Reply((False, error))
        return super().handle_call(request, from_, state)

    def handle_info(self, message: Any, state: _Level) -> Any:
        if message != _FLUSH:
            return super().handle_info(message, state)
        self._flush_or_warn(state)
        return NoReply()

    def terminate(self, reason: Any, state: _Level) -> None:
        self._flush_or_warn(state)
        state.do("close")

    def _save(self, level: _Level, items: Items, through: bool) -> None:
        level.do("save", items)
        if level.above is not None:
            level.waiting.update(items)
            if through:
                self._flush(level, True)

    def _load(self, level: _Level, key: str) -> bytes | None:
        found: bytes | None = level.do("load", key)
        if found is None and level.above is not None and key not in level.waiting:
            found = _done(call(level.above, ("restore", key)))
        return found

    def _flush(self, level: _Level, through: bool) -> None:
        if level.above is not None and level.waiting:
            _done(call(level.above, ("save", level.waiting, through)))
            level.waiting.clear()

    def _flush_or_warn(self, level: _Level) -> None:
        try:
            self._flush(level, False)
        except Exception as error:
            _warn("%r could not save at %r: %r; it tries again", api.self_(), level.above, error)


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"expected the key of a checkpoint to be a str, got {key!r} ({type(key).__name__})")
    return key


def _packed(value: object) -> bytes:
    try:
        packed: bytes = cloudpickle.dumps(value)
    except Exception as error:
        raise NotPicklable(f"expected a value that can be pickled: {error}") from error
    return packed


def _done(answer: tuple[bool, Any]) -> Any:
    fine, value = answer
    if not fine:
        raise value
    return value


def _unpacked(answer: tuple[bool, Any], default: Any) -> Any:
    packed = _done(answer)
    return default if packed is None else pickle.loads(packed)


def _warn(text: str, *args: object) -> None:
    scheduler = current_scheduler()
    if scheduler is None or scheduler.admits("checkpoint"):
        _LOG.warning(text, *args)


# --- what a child takes along -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Carry:
    """What a supervised child takes into its next life: `child(..., carry_state=Carry(...))`; True is `Carry()`.

    >>> import parallel_actors as pa
    >>> class Counter(pa.Actor):
    ...     def __init__(self) -> None:
    ...         self.n = 0
    ...     @pa.call
    ...     def add(self, by: int) -> int:
    ...         self.n += by
    ...         return self.n
    >>> with pa.ActorSystem(workers=2):
    ...     sup = pa.Supervisor.start_link([
    ...         pa.child(pa.Checkpoints, pa.MemoryStore(), name="checkpoints"),
    ...         pa.child(Counter, name="counter", carry_state=pa.Carry("checkpoints")),
    ...     ])
    ...     before = pa.ref(Counter, "counter").add(41)
    ...     pa.Supervisor.terminate_child(sup, "counter")
    ...     pid = pa.Supervisor.restart_child(sup, "counter")
    ...     pa.ref(Counter, "counter").add(1)
    42

    A new life begins with the first of these that there is and that is taken:

    1. After a crash (an exception, or `Stop` with an abnormal reason), the state that it had then. The dying server
       sends it to its supervisor. Messages that it was to handle are lost as always, the one that it crashed by among
       them; a method that had changed half of the state has changed half of it.
    2. With a `store`, at each start, also the first of a program: the last checkpoint. The server saves its state every
       `every` seconds, if it has changed (it waits for the store then), and when it ends in order (it is told to, or
       returns `Stop("normal")`; the end of the system ends all at once, the store, too: stop the tree before). So after
       a kill, the death of its worker, or an exit signal of a link, it goes back to the last checkpoint. What it
       crashed with is never saved there.
    3. Nothing: `init` or `__init__` with the arguments of the spec, as without `carry_state`.

    Instead of `init`, the callback `carried` is called, with the state: it makes what else the server needs (timers,
    monitors, connections), and raises where it won't have this state, for which there is a warning in the log.
    Siblings that a strategy restarts begin by 2 and 3, and so does a child whose start has failed.

    The default is to carry nothing: a state that has led to a crash may lead to the next one. The restart intensity of
    the supervisor ends that; its own next life knows of no crashes.

    Fields:
        store: a `Checkpoints` server; start it before the child.
        key: of the checkpoint; by default the child's name. Partitions have `key/0`, `key/1` and so on.
        every: seconds between two checkpoints; None: only at an end in order.
    """

    store: Server | None = None
    key: str | None = None
    every: float | None = 10.0
    crashed: tuple[Any] | None = field(default=None, repr=False, compare=False)
    """Of the supervisor: the state of the crash before this start."""

    def __post_init__(self) -> None:
        every: object = self.every
        if every is not None and (
            not isinstance(every, (int, float)) or isinstance(every, bool) or not 0 < every < 3e9
        ):
            raise ValueError(f"expected every to be a number of seconds above 0, or None, got {every!r}")
        if self.key is not None:
            _key(self.key)

    def key_of(self, name: object) -> str:
        """The key of the child of that name, a plain one or a via name."""
        key = self.key or (None if name is None else str(name))
        if key is None:
            raise ValueError(
                "expected a child that carries its state through a store to have a name, or Carry(key=...)"
            )
        return key


@dataclass(slots=True)
class Carrying:
    """The part of a `Carry` that a child's server has: `gen_server` calls it."""

    store: Server | None
    key: str
    every: float | None
    crash: tuple[Any] | None
    saved: tuple[Pid | None, bytes] | None = None  # which server has got what last

    @property
    def keeps(self) -> bool:
        """Whether it has something to do at an end in order."""
        return self.store is not None

    def states(self) -> Iterator[tuple[str, Any]]:
        """The states that there are, and where each is from; and from now on there will be checkpoints."""
        if self.store is not None and self.every is not None:
            api.send_interval(self.every, api.self_(), _CHECKPOINT)
        crash, self.crash = self.crash, None
        if crash is not None:
            yield "its crash", crash[0]
        if self.store is not None:
            packed = _done(call(self.store, ("restore", self.key)))
            if packed is not None:
                try:
                    state = pickle.loads(packed)
                except Exception as error:  # its class has changed, or is gone
                    self.refused("the store", error)
                else:
                    yield "the store", state

    def refused(self, origin: str, error: Exception) -> None:
        """The callback `carried` won't have it."""
        _warn("%r (%s) begins without the state of %s: %r", api.self_(), self.key, origin, error)

    def checkpoint(self, state: Any) -> None:
        """Save it, if the store hasn't got the same. That it fails is no reason to end."""
        if self.store is None:
            return
        try:
            has = api.whereis(self.store) if isinstance(self.store, str) else None, _packed(state)
            if has != self.saved:
                _done(call(self.store, ("save", {self.key: has[1]}, False)))
                self.saved = has
        except Exception as error:  # no such server, a full disk, a state that can't be pickled
            _warn("%r (%s) has no new checkpoint: %r", api.self_(), self.key, error)

    def crashed(self, state: Any) -> None:
        """It crashes: the supervisor gets the state, before it hears of the end."""
        lineage = api.ancestors()
        try:
            api.send(lineage[0], (CARRY, api.self_(), state))
        except Exception as error:  # it can't be pickled, or the memory is full
            _warn("%r (%s) can't hand over the state that it crashed with: %r", api.self_(), self.key, error)


def carried_by(message: Any) -> tuple[Pid, Any] | None:
    """Who has crashed, and with which state, if that is what the message says."""
    if type(message) is tuple and len(message) == 3 and type(message[0]) is str and message[0] == CARRY:
        return (message[1], message[2]) if type(message[1]) is Pid else None
    return None
