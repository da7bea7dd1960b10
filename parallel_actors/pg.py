"""pg: groups of processes, found by the group's name (OTP's `pg`).

    join(group, pid)    -> a call to the scope process of the pid's first worker: it monitors the pid, tells its peers
    get_members(group)  -> all scope processes at once; each tells of those it looks after, and knows who of them lives
    monitor(group)      -> the scope process of the caller's worker, which hears of all changes from its peers

A scope has a process on each worker that has members, `$pg/<scope>/<worker>`, started when it is first needed: OTP has
one on each node. A worker that dies takes along just the members that lived there; the other scope processes tell
whoever monitors their groups. Guests live on no worker: some scope process looks after them, and at its end another one
does, from what it was told. (So it is for members whose scope process alone was killed.)

What is told to peers is for monitors and for that case; reads go to who looks after the members. So whoever knows that
a join has returned finds the member, on every worker.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from parallel_actors.gen_server import GenServer, NoReply, Reply, call
from parallel_actors.process import options
from parallel_actors.request import send_request
from parallel_actors.supervisor import admits
from parallel_actors.workers import api
from parallel_actors.workers.errors import (
    ActorError,
    MailboxFull,
    NameTaken,
    NodeDown,
    NoProc,
    NotRunning,
    RemoteError,
    StartError,
)
from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.patterns import ANY
from parallel_actors.workers.reasons import Down, WorkerDown
from parallel_actors.workers.scheduler import current_scheduler

if TYPE_CHECKING:

    class _StandsForProcess(Protocol):
        @property
        def __pid__(self) -> Pid: ...

    _Process = Pid | str | _StandsForProcess

__all__ = [
    "demonitor",
    "get_local_members",
    "get_members",
    "join",
    "leave",
    "monitor",
    "monitor_scope",
    "which_groups",
    "which_local_groups",
]

_LOG = logging.getLogger("parallel_actors.pg")

_PEER = "$pg"  # ("$pg", what, scope process, ...): between scope processes
_MONITORS = "$pg_monitors"  # in the dictionary of who monitors: {ref: scope process}

_Groups = dict[Hashable, list[Pid]]


# --- the scope's process on one worker --------------------------------------------------------------------------------


@dataclass(slots=True)
class _State:
    """What a scope process knows.

    Invariant: `joined[pid]` has each group as often as `own[group]` has the pid, and its reference is a monitor of it.
    """

    scope: str
    own: _Groups = field(default_factory=dict)
    joined: dict[Pid, tuple[Ref, list[Hashable]]] = field(default_factory=dict)
    peers: dict[Pid, _Groups] = field(default_factory=dict)  # what each has told of those it looks after
    peer_of: dict[Ref, Pid] = field(default_factory=dict)  # by our monitors
    watchers: dict[Ref, tuple[Pid, Ref, tuple[Hashable, ...]]] = field(
        default_factory=dict
    )  # who, our monitor, (group,) or ()

    def add(self, group: Hashable, pids: list[Pid]) -> None:
        for pid in pids:
            if pid not in self.joined:
                self.joined[pid] = (api.monitor(pid), [])
        # Nothing can fail any more.
        for pid in pids:
            self.joined[pid][1].append(group)
        self.own.setdefault(group, []).extend(pids)
        self.tell_peers("join", group, pids)
        self.tell("join", group, pids)

    def remove(self, group: Hashable, pids: list[Pid]) -> None:
        for pid in pids:
            _take_out(self.own, group, pid)
            ref, groups = self.joined[pid]
            groups.remove(group)
            if not groups:
                del self.joined[pid]
                api.demonitor(ref, flush=True)
        self.tell_peers("leave", group, pids)
        self.tell("leave", group, pids)

    def members(self, group: Hashable) -> list[Pid]:
        return self.own.get(group, []) + [pid for groups in self.peers.values() for pid in groups.get(group, [])]

    def tell_peers(self, what: str, group: Hashable, pids: list[Pid]) -> None:
        for peer in self.peers:
            api.send(peer, (_PEER, what, api.self_(), group, pids))

    def tell(self, what: str, group: Hashable, pids: list[Pid]) -> None:
        """Tell those who monitor the group."""
        for ref, (pid, _, only) in self.watchers.items():
            if pids and (not only or only[0] == group):
                try:
                    api.send(pid, (ref, what, group, pids))
                except MailboxFull:
                    if admits("pg_monitor"):
                        _LOG.warning("pg: the mailbox of %r, which monitors groups, is full", pid)

    def meet(self, peer: Pid) -> None:
        if peer not in self.peers and peer != api.self_():
            self.peers[peer] = {}
            self.peer_of[api.monitor(peer)] = peer

    def heard(self, peer: Pid, what: str, *rest: Any) -> None:
        self.meet(peer)
        if what == "discover":
            api.send(peer, (_PEER, "sync", api.self_(), self.own))
        elif what == "sync":
            self.replace(peer, rest[0])
        elif what == "join":
            group, pids = rest
            self.peers[peer].setdefault(group, []).extend(pids)
            self.tell("join", group, pids)
        elif what == "leave":
            group, pids = rest
            for pid in pids:
                _take_out(self.peers[peer], group, pid)
            self.tell("leave", group, pids)

    def replace(self, peer: Pid, groups: _Groups) -> None:
        """All that a peer looks after. Some of it may have been told before."""
        former, self.peers[peer] = self.peers[peer], groups
        for group in [*former, *(group for group in groups if group not in former)]:
            self.tell("leave", group, _without(former.get(group, []), groups.get(group, [])))
            self.tell("join", group, _without(groups.get(group, []), former.get(group, [])))

    def lost(self, peer: Pid) -> None:
        """A peer has ended. Of its members one of us looks after those who live: guests, as a rule."""
        groups = self.peers.pop(peer)
        heir = min([api.self_(), *self.peers]) == api.self_()
        alive = set(api.living(list({pid for pids in groups.values() for pid in pids}))) if heir else set()
        for group, pids in groups.items():
            self.tell("leave", group, pids)
            self.add_if_any(group, [pid for pid in pids if pid in alive])

    def add_if_any(self, group: Hashable, pids: list[Pid]) -> None:
        if pids:
            self.add(group, pids)


def _take_out(groups: _Groups, group: Hashable, pid: Pid) -> None:
    pids = groups[group]
    pids.remove(pid)
    if not pids:
        del groups[group]


def _without(pids: list[Pid], others: list[Pid]) -> list[Pid]:
    """Those of `pids` that `others` doesn't have; each counts as often as it is there."""
    left = list(others)
    found = []
    for pid in pids:
        if pid in left:
            left.remove(pid)
        else:
            found.append(pid)
    return found


class Scope(GenServer):
    """The callbacks of a scope process. A request becomes a call of the method `do_<request>`."""

    def init(self, scope: str) -> Any:
        state = _State(scope)
        # Our name was there before we look for others, and theirs before they do: of two that start at once, one sees
        # the other.
        for peer in _processes_of(scope):
            if peer != api.self_():
                state.meet(peer)
                api.send(peer, (_PEER, "discover", api.self_()))
        return state

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        do = getattr(self, f"do_{request[0]}", None) if isinstance(request, tuple) and request else None
        if do is None:
            return Reply(("error", ActorError(f"expected a request to a scope of pg, got {request!r}")))
        try:
            return Reply(("ok", do(state, *request[1:])))
        except Exception as error:  # of somebody's group, say: raised in the caller
            return Reply(("error", error))

    def handle_info(self, message: Any, state: Any) -> Any:
        if isinstance(message, tuple) and message and message[0] == _PEER:
            state.heard(message[2], message[1], *message[3:])
        elif isinstance(message, Down):
            self._ended(message, state)
        else:
            return super().handle_info(message, state)
        return NoReply()

    def _ended(self, down: Down, state: _State) -> None:
        peer = state.peer_of.pop(down.ref, None)
        if peer is not None:
            state.lost(peer)
            return
        ref, groups = state.joined.get(down.pid, (None, []))
        if ref == down.ref:
            for group in list(groups):
                state.remove(group, [down.pid])
            return
        for watcher, (_, watch, _) in list(state.watchers.items()):
            if watch == down.ref:
                del state.watchers[watcher]

    def do_join(self, state: _State, group: Hashable, pids: list[Pid]) -> None:
        state.add(group, pids)

    def do_leave(self, state: _State, group: Hashable, pid: Pid, every: bool) -> bool:
        times = state.joined[pid][1].count(group) if pid in state.joined else 0
        if times:
            state.remove(group, [pid] * (times if every else 1))
        return times > 0

    def do_members(self, state: _State, group: Hashable) -> list[Pid]:
        return api.living(state.own.get(group, []))

    def do_groups(self, state: _State) -> list[Hashable]:
        return [group for group, pids in state.own.items() if api.living(pids)]

    def do_monitor(self, state: _State, pid: Pid, ref: Ref, only: tuple[Hashable, ...]) -> _Groups:
        state.watchers[ref] = (pid, api.monitor(pid), only)
        groups = only or {group: None for groups in (state.own, *state.peers.values()) for group in groups}
        return {group: state.members(group) for group in groups}

    def do_demonitor(self, state: _State, ref: Ref) -> None:
        found = state.watchers.pop(ref, None)
        if found is not None:
            api.demonitor(found[1], flush=True)


# --- for callers ------------------------------------------------------------------------------------------------------


def join(group: Hashable, pids: _Process | Iterable[_Process] | None = None, *, scope: str = "pg") -> None:
    """Have processes join a group; they leave it when they end (OTP: `pg:join/2,3`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=2):
    ...     pa.pg.join("workers", [pa.self_(), pa.self_()])
    ...     pa.pg.get_members("workers") == [pa.self_(), pa.self_()]
    True

    Who has joined n times is a member n times, and must leave as often.

    Args:
        group: anything that can be hashed and pickled.
        pids: one process or several, as pids, names or references; by default the caller.
        scope: groups of one name in two scopes have nothing to do with each other. No scope needs a start.

    Raises:
        TypeError: for what is no group, or no process.
        NotRegistered: nobody has the name.
        NotPicklable: for a group that can't leave its process.
    """
    _check(group, scope)
    by_worker: dict[int, list[Pid]] = {}
    for pid in _pids(pids):
        by_worker.setdefault(pid.worker, []).append(pid)
    for some in by_worker.values():
        while some:
            try:
                _ask(_keeper(scope, some[0]), "join", group, some)
                break
            except _ENDED as error:
                if not _is_gone(error):
                    raise
            some = api.living(some)  # the others died with their worker, and these join elsewhere


def leave(group: Hashable, pids: _Process | Iterable[_Process] | None = None, *, scope: str = "pg") -> bool:
    """Have processes leave a group, each once; whether any of them was in it (OTP: `pg:leave/2,3`).

    Args, Raises: as `join`.
    """
    _check(group, scope)
    return True in [_leave(group, pid, scope) for pid in _pids(pids)]


def leave_entirely(group: Hashable, pid: Pid, scope: str) -> bool:
    """As often as it has joined. For `pubsub`."""
    _check(group, scope)
    return True in [_leave_there(keeper, group, pid, True) for keeper in _processes_of(scope)]


def get_members(group: Hashable, *, scope: str = "pg") -> list[Pid]:
    """All living members of a group, in no order; each as often as it has joined (OTP: `pg:get_members/1,2`).

    Raises: TypeError, NotPicklable, as `join`.
    """
    _check(group, scope)
    return [pid for pids in _ask_all(scope, "members", group) for pid in pids]


def get_local_members(group: Hashable, *, scope: str = "pg") -> list[Pid]:
    """Those that run on the caller's worker, which are cheap to talk to (OTP: `pg:get_local_members/1,2`, of a node).

    Raises as `get_members`.
    """
    return [pid for pid in get_members(group, scope=scope) if api.runs_here(pid)]


def which_groups(*, scope: str = "pg") -> list[Hashable]:
    """All groups that have members, in no order (OTP: `pg:which_groups/0,1`)."""
    _check(None, scope)
    return list(dict.fromkeys(group for groups in _ask_all(scope, "groups") for group in groups))


def which_local_groups(*, scope: str = "pg") -> list[Hashable]:
    """Those with members on the caller's worker (OTP: `pg:which_local_groups/0,1`, of a node)."""
    return [group for group in which_groups(scope=scope) if get_local_members(group, scope=scope)]


def monitor(group: Hashable, *, scope: str = "pg") -> tuple[Ref, list[Pid]]:
    """The members, as `(ref, members)`, and from then on messages about changes (OTP: `pg:monitor/1,2`).

    They are `(ref, "join", group, pids)` and `(ref, "leave", group, pids)`.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     ref, members = pa.pg.monitor("workers")
    ...     pa.pg.join("workers")
    ...     members, pa.receive(timeout=10) == (ref, "join", "workers", [pa.self_()])
    ([], True)

    What was done on another worker a moment ago may be among the members, or come as a message. Should the scope's
    process end that tells of it (with its worker, where the caller is a guest), there is a `Down(ref, ...)`: monitor
    anew.

    Raises: TypeError, NotPicklable, as `join`.
    """
    _check(group, scope)
    ref, groups = _monitor(scope, (group,))
    return ref, groups[group]


def monitor_scope(*, scope: str = "pg") -> tuple[Ref, dict[Hashable, list[Pid]]]:
    """`monitor` for all groups of a scope: `(ref, {group: members})` (OTP: `pg:monitor_scope/0,1`)."""
    _check(None, scope)
    return _monitor(scope, ())


def demonitor(ref: Ref) -> bool:
    """Hear no more, nor of what is in the mailbox; whether there was such a monitor (OTP: `pg:demonitor/1,2`)."""
    if not isinstance(ref, Ref):
        raise TypeError(f"expected the Ref of a monitor, got {ref!r} ({type(ref).__name__})")
    keeper = api.process_dict().get(_MONITORS, {}).pop(ref, None)
    if keeper is None:
        return False
    with suppress(*_ENDED):  # then the monitor has ended, too
        _ask(keeper, "demonitor", ref)
    api.demonitor(ref, flush=True)
    while api.receive((ref, ANY, ANY, ANY), timeout=0, default=None) is not None:
        pass
    return True


# --- below ------------------------------------------------------------------------------------------------------------

# What a call or a start may say when the process at the other end is gone.
_ENDED = (NoProc, NodeDown, RemoteError, StartError)


def _is_gone(error: ActorError) -> bool:
    """Whether a scope process has ended, by itself or with its worker; else the failure is another one."""
    if isinstance(error, StartError):
        return isinstance(error.reason, WorkerDown)
    return not (isinstance(error.target, Pid) and api.is_alive(error.target))


def _check(group: Hashable, scope: object) -> None:
    if not isinstance(scope, str):
        raise TypeError(f"expected the name of a scope, got {scope!r} ({type(scope).__name__})")
    try:
        hash(group)
    except TypeError as error:
        raise TypeError(f"expected a group that can be hashed, got {group!r} ({type(group).__name__})") from error


def _pids(processes: Any) -> list[Pid]:
    if processes is None:
        return [api.self_()]
    if isinstance(processes, Iterable) and not isinstance(processes, str):
        return [api.pid_of(each) for each in processes]
    return [api.pid_of(processes)]


def _name(scope: str, worker: int) -> str:
    return f"$pg/{scope}/{worker}"


def _processes_of(scope: str) -> list[Pid]:
    scheduler = current_scheduler()
    if scheduler is None:
        raise NotRunning("expected an actor system here: start one with `with ActorSystem():`")
    # Workers that were removed count: their scope process has moved, and goes on.
    found = (api.whereis(_name(scope, worker)) for worker in range(scheduler.segment.workers))
    return [pid for pid in found if pid is not None]


def _start(scope: str, worker: int) -> Pid:
    """The scope's process on a worker; started, if there is none."""
    while True:
        pid = api.whereis(_name(scope, worker))
        if pid is not None:
            return pid
        try:
            # Whatever limit the system sets for mailboxes: nobody should wait for others here.
            started: Pid = options(name=_name(scope, worker), worker=worker, max_mailbox=None).start(Scope, scope)
            return started
        except NameTaken:
            continue  # somebody else was first


def _keeper(scope: str, pid: Pid) -> Pid:
    """The scope process that is to look after `pid`."""
    workers = api.worker_indices()
    if pid.worker in workers:
        return _start(scope, pid.worker)
    there = _processes_of(scope)
    return there[0] if there else _start(scope, workers[0])


def _ask(keeper: Pid, *request: Any) -> Any:
    return _settled(call(keeper, request, timeout=None))


def _settled(answer: Any) -> Any:
    kind, value = answer
    if kind == "error":
        raise value
    return value


def _ask_all(scope: str, *request: Any) -> list[Any]:
    """The answers of all processes of the scope, but of those that end meanwhile: their members are dead, as a rule."""
    answers = []
    for sent in [send_request(pid, request) for pid in _processes_of(scope)]:
        try:
            answers.append(_settled(sent.wait(None)))
        except _ENDED as error:
            if not _is_gone(error):
                raise
    return answers


def _leave(group: Hashable, pid: Pid, scope: str) -> bool:
    home = api.whereis(_name(scope, pid.worker))  # looks after it, unless that was killed, or the pid is a guest's
    keepers = sorted(_processes_of(scope), key=lambda keeper: keeper != home)
    return any(_leave_there(keeper, group, pid, False) for keeper in keepers)


def _leave_there(keeper: Pid, group: Hashable, pid: Pid, every: bool) -> bool:
    try:
        left: bool = _ask(keeper, "leave", group, pid, every)
        return left
    except _ENDED as error:
        if not _is_gone(error):
            raise
        return False


def _monitor(scope: str, only: tuple[Hashable, ...]) -> tuple[Ref, _Groups]:
    while True:
        keeper = _keeper(scope, api.self_())
        ref = api.monitor(keeper)
        try:
            groups: _Groups = _ask(keeper, "monitor", api.self_(), ref, only)
        except BaseException as error:
            api.demonitor(ref, flush=True)
            if isinstance(error, _ENDED) and _is_gone(error):
                continue
            raise
        api.process_dict().setdefault(_MONITORS, {})[ref] = keeper
        return ref, groups
