"""Registry: processes by keys of any kind, with values (Elixir's `Registry`).

    Registry "players"         -> a supervisor of the partitions "players/0", "players/1", ...; it has the meta data
    register(name, key)        -> a call to the key's partition, which links itself to the caller and notes the entry
    a registered process ends  -> its Exit comes to the partition, which forgets its keys
    lookup, dispatch, match    -> a call to the partition; then the caller asks who lives (`api.living`)
    via(name, key)             -> a name: `Registry.whereis_name` is asked at each use

User code (functions for `dispatch` and `update_value`, patterns) runs in the caller, never in a partition: nobody can
stop one. A partition that dies takes the processes that are registered there along, by its links, and begins empty: so
nobody lives who believes itself registered and isn't.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from parallel_actors.gen_server import GenServer, NoReply, Reply, call
from parallel_actors.names import Via
from parallel_actors.partition_supervisor import partition_of
from parallel_actors.process import is_whole, options
from parallel_actors.request import send_request
from parallel_actors.supervisor import Supervisor, admits, ask, child, stopping
from parallel_actors.workers import api
from parallel_actors.workers.errors import ActorError, AlreadyRegistered, MailboxFull, NoProc
from parallel_actors.workers.ident import Pid
from parallel_actors.workers.patterns import ANY, matches
from parallel_actors.workers.reasons import Exit

__all__ = ["Registry", "via"]

Keys = Literal["unique", "duplicate"]

_LOG = logging.getLogger("parallel_actors.registry")

_LAYOUT = "$registry"


# --- a partition ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Table:
    """What a partition knows.

    Invariant: `owned[pid]` has each key once for each entry of `pid`, and the partition is linked to just the pids in
    it.
    """

    registry: str
    unique: bool
    listeners: tuple[str, ...]
    entries: dict[Hashable, dict[int, tuple[Pid, Any]]] = field(default_factory=dict)  # key -> {number: (pid, value)}
    owned: dict[Pid, list[Hashable]] = field(default_factory=dict)
    number: int = 0

    def add(self, key: Hashable, pid: Pid, value: Any) -> None:
        api.link(pid)  # of a dead one the Exit comes, as of one that dies later
        self.number += 1
        self.entries.setdefault(key, {})[self.number] = (pid, value)
        self.owned.setdefault(pid, []).append(key)
        self.tell(("register", self.registry, key, pid, value))

    def remove(self, key: Hashable, number: int) -> None:
        entries = self.entries[key]
        pid, _ = entries.pop(number)
        if not entries:
            del self.entries[key]
        self.owned[pid].remove(key)
        if not self.owned[pid]:
            del self.owned[pid]
            api.unlink(pid)
        self.tell(("unregister", self.registry, key, pid))

    def forget(self, pid: Pid) -> None:
        """It has ended."""
        for key in list(dict.fromkeys(self.owned.get(pid, ()))):
            for number in self.numbers(key, pid):
                self.remove(key, number)

    def numbers(self, key: Hashable, pid: Pid) -> list[int]:
        return [number for number, (owner, _) in self.entries.get(key, {}).items() if owner == pid]

    def tell(self, message: tuple[Any, ...]) -> None:
        for listener in self.listeners:
            pid = api.whereis(listener)
            if pid is None:
                continue
            try:
                api.send(pid, message)
            except MailboxFull:
                if admits("registry_listener"):
                    _LOG.warning("registry %r: the mailbox of its listener %r is full", self.registry, listener)


class Partition(GenServer):
    """Keeps the entries of some keys. A request becomes a call of the method `do_<request>`."""

    def init(self, registry: str, unique: bool, listeners: tuple[str, ...]) -> Any:
        api.trap_exit(True)
        return _Table(registry, unique, listeners)

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        do = getattr(self, f"do_{request[0]}", None) if isinstance(request, tuple) and request else None
        if do is None:
            return Reply(("error", ActorError(f"expected a request to a registry, got {request!r}")))
        try:
            return Reply(("ok", do(state, from_[0], *request[1:])))
        except Exception as error:  # of somebody's key, say: raised in the caller
            return Reply(("error", error))

    def handle_cast(self, request: Any, state: Any) -> Any:
        if admits("unexpected_message"):
            _LOG.warning("registry %r got a cast that it doesn't know: %r", state.registry, request)
        return NoReply()

    def handle_info(self, message: Any, state: Any) -> Any:
        if isinstance(message, Exit):
            state.forget(message.pid)
            return NoReply()
        return super().handle_info(message, state)

    def do_register(self, table: _Table, caller: Pid, key: Hashable, value: Any, dead: Pid | None) -> Pid | None:
        """None: done; else who has the key. dead: whose entry stands in the way no more, says the caller."""
        if table.unique:
            for number, (pid, _) in list(table.entries.get(key, {}).items()):
                if pid != dead:
                    return pid
                table.remove(key, number)
        table.add(key, caller, value)
        return None

    def do_unregister(self, table: _Table, caller: Pid, key: Hashable, numbers: list[int] | None) -> None:
        for number in table.numbers(key, caller):
            if numbers is None or number in numbers:
                table.remove(key, number)

    def do_own(self, table: _Table, caller: Pid, key: Hashable) -> list[tuple[int, Any]]:
        entries = table.entries.get(key, {})
        return [(number, entries[number][1]) for number in table.numbers(key, caller)]

    def do_put(self, table: _Table, caller: Pid, key: Hashable, number: int, value: Any) -> None:
        table.entries[key][number] = (caller, value)

    def do_lookup(self, table: _Table, caller: Pid, key: Hashable) -> list[tuple[Pid, Any]]:
        return list(table.entries.get(key, {}).values())

    def do_keys(self, table: _Table, caller: Pid, pid: Pid) -> list[Hashable]:
        return table.owned.get(pid, [])

    def do_count(self, table: _Table, caller: Pid) -> int:
        return sum(map(len, table.entries.values()))

    def do_entries(self, table: _Table, caller: Pid) -> list[tuple[Hashable, Pid, Any]]:
        return [(key, pid, value) for key, entries in table.entries.items() for pid, value in entries.values()]


# --- the registry -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a registry is like, for those who use it. It never changes."""

    name: str
    unique: bool
    partitions: int

    def partition(self, number: int) -> Pid:
        """Waits for one that is just being restarted: its processes went down with it, and want to register again."""
        while (pid := api.whereis(f"{self.name}/{number}")) is None:
            if stopping():
                raise NoProc(
                    f"partition {number} of registry {self.name!r} has ended: the system stops", reason="noproc"
                )
            ask(self.name, "meta", None, None)  # its supervisor answers between two restarts; NoProc where it is gone
        return pid

    def ask(self, key: Hashable, operation: str, *arguments: Any) -> Any:
        """The answer of the partition of a key."""
        try:
            hash(key)
        except TypeError as error:
            raise TypeError(f"expected a key that can be hashed, got {key!r} ({type(key).__name__})") from error
        partition = self.partition(partition_of(key, self.partitions) if self.partitions > 1 else 0)
        return _settled(call(partition, (operation, key, *arguments), timeout=None))

    def ask_all(self, *request: Any) -> list[Any]:
        """The answers of all partitions."""
        requests = [send_request(self.partition(number), request) for number in range(self.partitions)]
        return [_settled(each.wait(None)) for each in requests]


def _settled(answer: Any) -> Any:
    kind, value = answer
    if kind == "error":
        raise value
    return value


# Of registries that this worker has asked.
_layouts: dict[Pid, _Layout] = {}


def _layout(registry: str | Pid) -> _Layout:
    pid = registry if isinstance(registry, Pid) else api.whereis(registry)
    found = _layouts.get(pid) if pid is not None else None
    if found is None:
        if pid is None:
            raise NoProc(
                f"expected the name of a Registry, got {registry!r}: nobody has it", reason="noproc", target=registry
            )
        found = (api.process_info(pid, "dictionary") or {}).get(_LAYOUT)
        if found is None:
            raise NoProc(f"expected a Registry, got {registry!r}: {pid!r} is none", reason="noproc", target=registry)
        if len(_layouts) > 1000:
            _layouts.clear()
        _layouts[pid] = found
    return found


def _of_living(entries: list[tuple[Pid, Any]]) -> list[tuple[Pid, Any]]:
    alive = set(api.living([pid for pid, _ in entries]))
    return [entry for entry in entries if entry[0] in alive]


def _need_unique(layout: _Layout, what: str) -> None:
    if not layout.unique:
        raise ValueError(
            f"expected {what} for a registry with unique keys, got {layout.name!r}, whose keys are duplicate"
        )


class Registry(Supervisor):
    """Finds processes by keys of any kind (Elixir: `Registry`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=2):
    ...     players = pa.Registry.start_link(keys="unique", name="players")
    ...     server = pa.options(name=pa.via("players", 7)).start(pa.GenServer, "state")
    ...     pa.Registry.lookup("players", 7) == [(server, None)], pa.whereis(pa.via("players", 8))
    (True, None)

    As a child of a supervisor: `child(Registry, keys="unique", name="players")`, before those who use it.

    A process registers itself, under any number of keys that can be hashed and pickled, with a value each; with unique
    keys there is one entry for a key, with duplicate ones any number. When it ends its entries vanish; that may take a
    moment, but no function here tells of a process that is dead. The registry and its processes are linked: a registry
    (or its worker) that ends takes them along, and a restarted one is empty.

    `registry` is everywhere the registry's name, or its pid. All functions may raise `NoProc` (there is no such
    registry, or it is being restarted), `NodeDown` and `RemoteError` (it ended meanwhile), `NotPicklable`, and
    TypeError for a key that can't be hashed.

    Not for processes that are found by one fixed name (`options(name=...)`), nor for groups whose members shouldn't die
    with anything (`pg`).
    """

    @staticmethod
    def start_link(  # type: ignore[override]
        *,
        keys: Keys,
        name: str,
        partitions: int = 1,
        listeners: Iterable[str] = (),
        meta: dict[Hashable, Any] | None = None,
    ) -> Pid:
        """Start a registry (Elixir: `Registry.start_link/1`).

        Args:
            keys: "unique" or "duplicate".
            name: what it is found by; its partitions are registered as `<name>/0`, `<name>/1`, ...
            partitions: how many processes share the keys, so that one isn't what all wait for.
            listeners: names of processes that get `("register", registry, key, pid, value)` and `("unregister",
                registry, key, pid)` for each entry that comes and goes. Their mailboxes should have no limit: they keep
                a partition waiting.
            meta: see `put_meta`.

        Raises:
            NameTaken: another process has the name.
            ValueError, TypeError: for an option that doesn't fit.
        """
        listeners = tuple(listeners)
        _check(keys, name, partitions, listeners)
        pid = options(name=name).start_link(Registry, keys=keys, partitions=partitions, listeners=listeners, meta=meta)
        assert pid is not None
        return pid

    def init(self, *args: Any, **kwargs: Any) -> Any:
        return self._init(*args, **kwargs)

    def _init(
        self,
        *,
        keys: Keys,
        partitions: int = 1,
        listeners: Iterable[str] = (),
        meta: dict[Hashable, Any] | None = None,
    ) -> Any:
        name = api.process_info(api.self_(), "registered_name")
        listeners = tuple(listeners)
        _check(keys, name, partitions, listeners)
        self._meta = dict(meta or {})
        # For whoever uses it: the worker tells, not this process.
        api.process_dict()[_LAYOUT] = _Layout(name, keys == "unique", partitions)
        return self.supervise(
            child(Partition, name, keys == "unique", listeners, id=number, name=f"{name}/{number}")
            for number in range(partitions)
        )

    # --- for the process that is registered ---

    @staticmethod
    def register(registry: str | Pid, key: Hashable, value: Any = None) -> Pid:
        """Register the caller; the pid of the partition, to which it is linked (Elixir: `Registry.register/3`).

        Raises:
            AlreadyRegistered: the keys are unique, and a process has this one; `target` is that, and may be the caller.
        """
        layout = _layout(registry)
        dead: Pid | None = None
        while (holder := layout.ask(key, "register", value, dead)) is not None:
            if holder == api.self_() or api.is_alive(holder):
                raise AlreadyRegistered(
                    f"expected a key of {layout.name!r} that is free, got {key!r}, which {holder!r} has", target=holder
                )
            dead = holder  # the word of its end is under way to the registry
        return layout.partition(partition_of(key, layout.partitions) if layout.partitions > 1 else 0)

    @staticmethod
    def unregister(registry: str | Pid, key: Hashable) -> None:
        """Take all entries of the calling process for `key` out; none is fine (Elixir: `Registry.unregister/2`)."""
        _layout(registry).ask(key, "unregister", None)

    @staticmethod
    def unregister_match(registry: str | Pid, key: Hashable, pattern: object) -> None:
        """`unregister` entries whose value fits `pattern`, one of `receive` (Elixir: `Registry.unregister_match/4`)."""
        layout = _layout(registry)
        fitting = [number for number, value in layout.ask(key, "own") if matches(pattern, value)]
        if fitting:
            layout.ask(key, "unregister", fitting)

    @staticmethod
    def update_value(registry: str | Pid, key: Hashable, function: Callable[[Any], Any]) -> tuple[Any, Any] | None:
        """Put `function(value)` in place of the caller's value (Elixir: `Registry.update_value/3`).

        Returns:
            `(new, old)`; None where it doesn't have the key.

        Raises:
            ValueError: the keys are duplicate. And what `function` raises; the value stays then.
        """
        layout = _layout(registry)
        _need_unique(layout, "update_value()")
        # Nobody but the caller changes its entries, so nothing can come between.
        for number, value in layout.ask(key, "own"):
            new = function(value)
            layout.ask(key, "put", number, new)
            return new, value
        return None

    # --- for everybody ---

    @staticmethod
    def lookup(registry: str | Pid, key: Hashable) -> list[tuple[Pid, Any]]:
        """Who lives and has the key, as `(pid, value)`, in the order of registration (Elixir: `Registry.lookup/2`)."""
        return _of_living(_layout(registry).ask(key, "lookup"))

    @staticmethod
    def dispatch(registry: str | Pid, key: Hashable, function: Callable[[list[tuple[Pid, Any]]], object]) -> None:
        """Call `function` in the caller with what `lookup` returns, unless that is empty (`Registry.dispatch/3`).

        >>> import parallel_actors as pa
        >>> with pa.ActorSystem(workers=1):
        ...     rooms = pa.Registry.start_link(keys="duplicate", name="rooms")
        ...     owner = pa.Registry.register("rooms", "lobby", "main")
        ...     pa.Registry.dispatch("rooms", "lobby", lambda entries: [pa.send(pid, value) for pid, value in entries])
        ...     pa.receive(timeout=10)
        'main'
        """
        entries = Registry.lookup(registry, key)
        if entries:
            function(entries)

    @staticmethod
    def match(registry: str | Pid, key: Hashable, pattern: object) -> list[tuple[Pid, Any]]:
        """`lookup`, but only entries whose value fits `pattern`, one of `receive` (Elixir: `Registry.match/4`)."""
        entries = _layout(registry).ask(key, "lookup")
        return _of_living([entry for entry in entries if matches(pattern, entry[1])])

    @staticmethod
    def count_match(registry: str | Pid, key: Hashable, pattern: object) -> int:
        """How many entries `match` returns (Elixir: `Registry.count_match/4`)."""
        return len(Registry.match(registry, key, pattern))

    @staticmethod
    def select(registry: str | Pid, pattern: object = ANY) -> list[tuple[Hashable, Pid, Any]]:
        """All entries `(key, pid, value)` that fit `pattern`, one of `receive` (Elixir: `Registry.select/2`).

        They all come to the caller: for looking around, not for each message.
        """
        found = [entry for some in _layout(registry).ask_all("entries") for entry in some if matches(pattern, entry)]
        alive = set(api.living([pid for _, pid, _ in found]))
        return [entry for entry in found if entry[1] in alive]

    @staticmethod
    def count_select(registry: str | Pid, pattern: object = ANY) -> int:
        """How many entries `select` returns (Elixir: `Registry.count_select/2`)."""
        return len(Registry.select(registry, pattern))

    @staticmethod
    def keys(registry: str | Pid, pid: Pid) -> list[Hashable]:
        """The keys of a process, each once for each entry; none of a dead one (Elixir: `Registry.keys/2`)."""
        if not isinstance(pid, Pid):
            raise TypeError(f"expected a Pid, got {pid!r} ({type(pid).__name__})")
        found = [key for some in _layout(registry).ask_all("keys", pid) for key in some]
        return found if found and api.is_alive(pid) else []

    @staticmethod
    def values(registry: str | Pid, key: Hashable, pid: Pid) -> list[Any]:
        """The values that `pid` has registered under `key` (Elixir: `Registry.values/3`)."""
        return [value for owner, value in Registry.lookup(registry, key) if owner == pid]

    @staticmethod
    def count(registry: str | Pid) -> int:
        """How many entries there are; those of a process that has just ended may count (Elixir: `Registry.count/1`)."""
        return sum(_layout(registry).ask_all("count"))

    # --- data of the registry itself ---

    @staticmethod
    def put_meta(registry: str | Pid, key: Hashable, value: Any) -> None:
        """Keep a value with the registry; it outlives its partitions (Elixir: `Registry.put_meta/3`)."""
        ask(registry, "put_meta", key, value)

    @staticmethod
    def meta(registry: str | Pid, key: Hashable, default: Any = None) -> Any:
        """What `put_meta` or `start_link(meta=)` has put there, else `default` (Elixir: `Registry.meta/2`)."""
        return ask(registry, "meta", key, default)

    @staticmethod
    def delete_meta(registry: str | Pid, key: Hashable) -> None:
        """Take it out again (Elixir: `Registry.delete_meta/2`)."""
        ask(registry, "delete_meta", key)

    def do_put_meta(self, tree: Any, key: Hashable, value: Any) -> None:
        self._meta[key] = value

    def do_meta(self, tree: Any, key: Hashable, default: Any) -> Any:
        return self._meta.get(key, default)

    def do_delete_meta(self, tree: Any, key: Hashable) -> None:
        self._meta.pop(key, None)

    # --- via names ---

    @staticmethod
    def register_name(name: Hashable, pid: Pid, /) -> None:
        """For `Via`: register the caller as `(registry, key)` or `(registry, key, value)` says."""
        registry, key, value = _parts(name)
        if pid != api.self_():
            raise ValueError(f"expected the caller to register itself, got {pid!r}")
        Registry.register(registry, key, value)

    @staticmethod
    def whereis_name(name: Hashable, /) -> Pid | None:
        """For `Via`: who is registered so. May tell of one that has just ended: `whereis()` looks whether it lives."""
        registry, key, _ = _parts(name)
        layout = _layout(registry)
        _need_unique(layout, "a via name")
        entries = layout.ask(key, "lookup")
        return entries[0][0] if entries else None


def _parts(name: Any) -> tuple[str | Pid, Hashable, Any]:
    registry, key, *value = name
    return registry, key, value[0] if value else None


def via(registry: str | Pid, key: Hashable, value: Any = None) -> Via:
    """The name of who has `key` in a registry with unique keys (Elixir: `{:via, Registry, {registry, key}}`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     sup = pa.Supervisor.start_link([
    ...         pa.child(pa.Registry, keys="unique", name="rooms"),
    ...         pa.child(pa.GenServer, "state", name=pa.via("rooms", ("lobby", 1))),
    ...     ])
    ...     pa.sys_.get_state(pa.via("rooms", ("lobby", 1)))
    'state'

    It can be used wherever a pid or a plain name can: to send and call, to monitor, as the name of what is started, in
    `ref(Actor, via(...))`. Each use asks the registry: a process that talks to another often keeps its pid.

    Args:
        registry: the registry's name (or pid).
        key: anything that can be hashed and pickled.
        value: of its entry, for one that is started under this name.

    Raises:
        TypeError: for a key that can't be hashed.
        Where it is used: as a plain name that nobody has (`NotRegistered` by `send`, `NoProc` by `call`, ...), also
            where there is no
        such registry; ValueError where the registry's keys are duplicate.
    """
    if not isinstance(registry, (str, Pid)):
        raise TypeError(f"expected the name of a registry, got {registry!r} ({type(registry).__name__})")
    return Via(Registry, (registry, key) if value is None else (registry, key, value))


def _check(keys: object, name: object, partitions: object, listeners: tuple[object, ...]) -> None:
    if keys not in ("unique", "duplicate"):
        raise ValueError(f'expected keys to be "unique" or "duplicate", got {keys!r}')
    if not isinstance(name, str):
        _no_name(name)
    if not is_whole(partitions, 1):
        raise ValueError(f"expected partitions to be a whole number from 1, got {partitions!r}")
    for listener in listeners:
        if not isinstance(listener, str):
            raise TypeError(f"expected listeners to be names, got {listener!r} ({type(listener).__name__})")


def _no_name(name: object) -> NoReturn:
    raise TypeError(f"expected a Registry to have a plain name (name=...): it is found by it; got {name!r}")
