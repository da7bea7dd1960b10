"""`Applications`: the application controller (OTP: `application_controller`), a part of the root.

No worker's death takes it along. It knows which applications run, in start order, who waits for them, and their
environments. Classes, arguments and values are bytes to it. The life of an application:

    _start -> a `Master` on a worker -> word "started" -> word "ended" and its Down, or the Down alone
        -> started anew, if a worker's death was the reason; else what its type says
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parallel_actors.workers import api
from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.reasons import Down, WorkerDown

if TYPE_CHECKING:
    from parallel_actors.root.node import Root

__all__ = ["Applications"]

# More restarts of one application in so many seconds, and it isn't started anew: as a supervisor's default.
_MAX_RESTARTS, _MAX_SECONDS = 3, 5.0
_NO_LIMITS = None
_HERE_OR_THERE = -1  # the worker with the least to do


@dataclass(slots=True)
class _Application:
    name: str
    type: str
    packed: bytes  # (class, args)
    master: Pid
    ref: Ref
    top: Pid | None = None  # of the tree, once it is up
    up: bool = False  # whether it was, once: from then on its end is more than a failed start
    ordered: bool = False  # whether it was told to stop
    word: tuple[Any, ...] | None = None  # the master's last
    starters: list[Ref] = field(default_factory=list)
    stoppers: list[Ref] = field(default_factory=list)
    restarts: deque[float] = field(default_factory=deque)


class Applications:
    """The applications of one node.

    `exit_code`: that of the node, where the end of an application has stopped it. `announce`: whether a stop says
    which were stopped.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._running: dict[str, _Application] = {}  # in start order
        self._by_ref: dict[Ref, _Application] = {}
        self._env: dict[str, dict[str, bytes]] = {}
        self._then: Callable[[], None] | None = None  # what follows when all have stopped
        self._stopped: list[str] = []
        self._main: str | None = None
        self.exit_code: int | None = None
        self.announce = False

    # --- messages ---

    def handle(self, message: Sequence[Any]) -> None:
        """One message ("application", ...) to the root."""
        match tuple(message[1:]):
            case ("start", ref, name, type, needs, packed):
                self._start(ref, name, type, needs, packed)
            case ("stop", ref, name):
                found = self._running.get(name)
                if found is None:
                    self._answer(ref, False, "not_started")
                else:
                    found.stoppers.append(ref)
                    self._order_end(found)
            case ("which", ref):
                up = [(each.name, each.type, each.top) for each in self._running.values() if each.top is not None]
                self._answer(ref, True, up)
            case ("word", name, master, *word):
                found = self._running.get(name)
                if found is not None and found.master == master:
                    self._heard(found, tuple(word))
            case ("get_env", ref, name, key):
                self._answer(ref, True, self._env.get(name, {}).get(key))
            case ("get_all_env", ref, name):
                self._answer(ref, True, self._env.get(name, {}))
            case ("put_env", ref, name, key, value):
                self._env.setdefault(name, {})[key] = value
                self._answer(ref, True, None)
            case ("delete_env", ref, name, key):
                self._env.get(name, {}).pop(key, None)
                self._answer(ref, True, None)
            case ("stop_next",):
                self._stop_next()
            case _:
                raise AssertionError(f"no message of parallel_actors.application: {message!r}")

    def went_down(self, down: Down) -> bool:
        """Whether this was the end of a master, which is dealt with then."""
        found = self._by_ref.pop(down.ref, None)
        if found is None:
            return False
        self._ended(found, down.reason)
        return True

    def keep(self, name: str) -> None:
        """The node stops when this application has ended, or has ended already."""
        self._main = name
        if name not in self._running:
            self._stop_node(0)

    def _answer(self, ref: Ref, done: bool, value: object) -> None:
        api.send(ref, (ref, done, value))

    # --- start ---

    def _start(self, ref: Ref, name: str, type: str, needs: list[str], packed: bytes) -> None:
        found = self._running.get(name)
        missing = next((each for each in needs if each not in self._running or not self._running[each].up), None)
        if self._root.stop_phase:
            self._answer(ref, False, "stops")
        elif found is not None and not found.up and not found.ordered:
            found.starters.append(ref)
        elif found is not None:
            self._answer(ref, False, ("already_started", name))
        elif missing is not None:
            self._answer(ref, False, ("not_started", missing))
        else:
            master, watch = self._spawn(name, packed, False)
            made = self._running[name] = _Application(name, type, packed, master, watch, starters=[ref])
            self._by_ref[watch] = made

    def _spawn(self, name: str, packed: bytes, again: bool) -> tuple[Pid, Ref]:
        from parallel_actors.application import Master  # most nodes have no applications
        from parallel_actors.gen_server import boot

        options = (_HERE_OR_THERE, None, f"application {name}", 0, _NO_LIMITS)
        made: tuple[Pid, Ref] = api.spawn_with(
            options, 2, boot, (Master, (name, packed, again), {}, api.make_ref()), {}
        )
        return made

    def _start_again(self, found: _Application, why: str) -> bool:
        """Whether it is started anew, on a worker that lives: so many deaths in so short a time are its own doing."""
        now = time.monotonic()
        found.restarts.append(now)
        while now - found.restarts[0] > _MAX_SECONDS:
            found.restarts.popleft()
        if len(found.restarts) > _MAX_RESTARTS:
            return False
        self._root.console.note(f"application {found.name}: {why}; it is started again")
        found.top, found.word = None, None
        found.master, found.ref = self._spawn(found.name, found.packed, True)
        self._by_ref[found.ref] = found
        return True

    def _heard(self, found: _Application, word: tuple[Any, ...]) -> None:
        if word[0] != "started":
            found.word = word
            return
        found.top = word[1]
        if not found.up:
            found.up = True
            # In the order in which they were up.
            self._running[found.name] = self._running.pop(found.name)
        for ref in found.starters:
            self._answer(ref, True, None)
        found.starters.clear()

    # --- end ---

    def _order_end(self, found: _Application) -> None:
        if not found.ordered:
            found.ordered = True
            api.exit(found.master, "shutdown")

    def _ended(self, found: _Application, reason: Any) -> None:
        """A master is gone. What it has said before tells how its application ended."""
        word = found.word
        how, text = "itself", str(reason)
        if word is not None and word[0] == "ended":
            how, text = word[1], word[2]
        elif word is not None:
            how, text = "failed", word[1]
        elif isinstance(reason, WorkerDown):
            how = "worker"
        if not found.ordered and not self._root.stop_phase and how in ("worker", "told"):
            # Told, but not by us: its worker leaves.
            if self._start_again(found, text if how == "worker" else "its worker has left"):
                return
            text = f"it died with its worker more than {_MAX_RESTARTS} times in {_MAX_SECONDS:g} s: {text}"
        del self._running[found.name]
        for ref in found.starters:
            self._answer(ref, False, ("failed", text, word[2] if word is not None and how == "failed" else None))
        for ref in found.stoppers:
            self._answer(ref, True, None)
        if self._root.stop_phase == 1:
            self._stopped.append(found.name)
            self._stop_next()
        elif self._root.stop_phase:
            pass  # it is being killed
        elif found.ordered:
            if found.name == self._main:
                self._stop_node(0)
        elif found.up:
            self._ended_by_itself(found, text)

    def _ended_by_itself(self, found: _Application, text: str) -> None:
        normal = text == "normal"
        fatal = found.type == "permanent" or (found.type == "transient" and not normal)
        note = f"application {found.name} ended: {text}"
        self._root.console.note(f"{note}; it is {found.type}: the node stops" if fatal else note)
        if fatal or found.name == self._main:
            self._stop_node(0 if normal else 1)

    def _stop_node(self, code: int) -> None:
        if not self._root.stop_phase:
            self.exit_code = code
            self._root.stop(1)

    # --- the node stops ---

    def stop_all(self, then: Callable[[], None]) -> None:
        """Stop all of them, the last started first, then call `then`."""
        self._then = then
        # From whatever place the stop was ordered: in the root's own process.
        api.send(self._root.pid, ("application", "stop_next"))

    def _stop_next(self) -> None:
        if self._running:
            self._order_end(next(reversed(self._running.values())))
            return
        if self._stopped and self.announce:
            self._root.console.note(f"stopped {', '.join(self._stopped)}")
        self._stopped.clear()
        if self._then is not None:
            then, self._then = self._then, None
            then()

    def give_up(self) -> None:
        """The time for it is over, or nobody wants to wait: whatever runs still is killed by whoever calls this."""
        if self._then is not None and self.announce:
            self._root.console.note(f"killed before they had stopped: {', '.join(reversed(self._running))}")
        self._then = None
