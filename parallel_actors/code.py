"""New code in a running system (OTP's `code` and `release_handler`).

    reload("shop") -> on each worker an agent, which holds its servers in place -> "load", to one agent, then to the
        others: the modules are imported anew, all of them or none -> each agent has the servers of the old classes
        suspended, changed (`code_change`) and resumed, all at the same time -> what came of it, to the caller

Old and new code live side by side, as on the BEAM: a module that is loaded anew is another module object, so a function
that runs, and a server that could not be changed, go on with their old code and its globals. Whatever is looked up by
name from then on is new: messages to other workers, restarts by supervisors, names in other modules.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import linecache
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any, cast

from parallel_actors.gen_server import System, loading_code, servers_here
from parallel_actors.process import options
from parallel_actors.request import Done, Requests
from parallel_actors.workers import api
from parallel_actors.workers.codec import supersede
from parallel_actors.workers.errors import ActorError
from parallel_actors.workers.guest import inside_worker
from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.patterns import ANY
from parallel_actors.workers.reasons import Crash, Down

__all__ = ["Reloaded", "reload"]

_INSTALLED = frozenset({"site-packages", "dist-packages"})


@dataclass(slots=True)
class Reloaded:
    """What `reload` has done."""

    modules: list[str] = field(default_factory=list)
    """Those that were loaded anew: the ones that were asked for, and those whose classes derive from theirs."""

    changed: list[Pid] = field(default_factory=list)
    """Servers that run the new code."""

    failed: dict[Pid, str] = field(default_factory=dict)
    """Servers that could not be changed, and run the old code: why."""

    busy: list[Pid] = field(default_factory=list)
    """Servers that had not come to it when the time was up. They change when they have finished what they are at."""

    def __str__(self) -> str:
        text = f"loaded {', '.join(self.modules)}; servers changed: {len(self.changed)}"
        if self.busy:
            text += f", busy still: {', '.join(map(repr, self.busy))}"
        return "".join([text, *(f"\n  {pid} goes on with its old code: {why}" for pid, why in self.failed.items())])


def reload(*modules: ModuleType | str, timeout: float = 5.0) -> Reloaded:
    """Load modules anew on every worker, and have their servers go on with the new code (OTP: `update` in an appup).

    Each server of one of their classes is suspended, goes on as an instance of the new class with the state that
    `code_change(version, state, extra)` makes of the old one, and is resumed; `version` is the attribute `vsn` of the
    old class, `extra` is None. Without a `code_change` the state carries over as it is; instances of classes of these
    modules in it become such of the new classes, where it can be pickled.

    Args:
        modules: modules, or their names. Those that a worker hasn't imported it imports when it needs them.
        timeout: seconds to wait at most for the servers.

    Raises:
        ActorError: a module could not be imported: nothing has changed anywhere. The exception is the `__cause__`.
        ValueError, TypeError: for what is no module, or one that can't be loaded from a file.

    Where the caller isn't on a worker, its own program loads them anew, too.

    Functions that run go on with their old code, as in Erlang those that call each other without the module's name.
    Servers whose `init` runs meanwhile keep their old code, too. What a module does when it is imported, it does again.
    """
    names: list[str] = []
    for each in modules:
        name = each.__name__ if isinstance(each, ModuleType) else each
        if not isinstance(name, str):
            raise TypeError(f"expected a module or the name of one, got {each!r}")
        spec = None if name == "__main__" else importlib.util.find_spec(name)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise ValueError(f"expected the name of a module with a .py file, got {name!r}")
        if name.partition(".")[0] == "parallel_actors":
            raise ValueError(f"expected a module of the program, got {name!r}: the library itself can't be loaded anew")
        names.append(name)
    return _reload(_Named(tuple(names)), timeout)


def files_below(directory: str) -> list[str]:
    """The files of this worker's modules that stand below a directory: those of the program itself."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return [
        file for file in files if file and file.startswith(f"{directory}/") and _INSTALLED.isdisjoint(file.split("/"))
    ]


def reload_files(files: list[str]) -> str:
    """What `run --reload` does: load those modules anew whose files have changed; what came of it, if anything did."""
    try:
        done = _reload(_OfFiles(tuple(files)), 5.0)
    except ActorError as error:
        return str(error)
    return str(done) if done.modules else ""


@dataclass(frozen=True, slots=True)
class _Named:
    """The modules of these names that a worker has imported."""

    names: tuple[str, ...]

    def __call__(self) -> list[str]:
        return [name for name in self.names if name in sys.modules]


@dataclass(frozen=True, slots=True)
class _OfFiles:
    """The modules of a worker that come from these files."""

    files: tuple[str, ...]

    def __call__(self) -> list[str]:
        return [name for name, module in list(sys.modules.items()) if getattr(module, "__file__", None) in self.files]


def _reload(which: Callable[[], list[str]], timeout: float) -> Reloaded:
    if not inside_worker():
        # This program has modules of its own, beside those of the workers.
        try:
            load(which())
        except Exception as error:
            raise _not_loaded(Crash.from_exception(error)) from error
    ref = api.make_ref()
    agents: dict[Pid, Ref] = {}  # those that live, and their monitors
    for worker in api.worker_indices():
        with contextlib.suppress(ValueError):  # it leaves just now
            pid, watch = options(worker=worker, label="reload").spawn_monitor(_agent, api.self_(), ref, which)
            agents[pid] = watch
    done = Reloaded()
    try:
        _answers(agents, list(agents), ref, "held")
        # One first: what can't be loaded there is loaded nowhere.
        everybody = list(agents)
        for some in (everybody[:1], everybody[1:]):
            for pid in some:
                api.send(pid, (ref, "load", timeout))
            for pid, crash, loaded in _answers(agents, some, ref, "loaded"):
                if crash is None:
                    done.modules += [name for name in loaded if name not in done.modules]
                    continue
                if pid == everybody[0]:
                    raise _not_loaded(crash) from crash.exception
                done.failed[pid] = f"its worker could not load the modules: {crash.type}: {crash.text}"
        for _, changed, failed, busy in _answers(agents, list(agents), ref, "changed"):
            done.changed += changed
            done.failed.update(failed)
            done.busy += busy
    finally:
        for pid in agents:
            api.send(pid, (ref, "release"))
        for watch in agents.values():
            api.receive(Down(watch, ANY, ANY))
    return done


def _not_loaded(error: Crash) -> ActorError:
    text = f"the new code can't be loaded, and the old one goes on: {error.type}: {error.text}"
    return ActorError(text, reason=error, remote_traceback=error.traceback)


def _answers(agents: dict[Pid, Ref], some: list[Pid], ref: Ref, word: str) -> list[tuple[Any, ...]]:
    """What some agents say next: (pid, *facts) each. Who dies with its worker is none any more."""
    found: list[tuple[Any, ...]] = []
    for pid in some:
        watch = agents.get(pid)
        if watch is None:
            continue
        answer = api.receive((ref, pid, word, ANY), Down(watch, ANY, ANY))
        if isinstance(answer, Down):
            del agents[pid]
        else:
            found.append((pid, *answer[3]))
    return found


# --- on each worker ---------------------------------------------------------------------------------------------------


def _agent(caller: Pid, ref: Ref, which: Callable[[], list[str]]) -> None:
    """Does one worker's part. If the caller dies, servers go on as they are by then, and may move again."""
    gone = api.monitor(caller)

    def say(word: str, *facts: object) -> None:
        api.send(caller, (ref, api.self_(), word, facts))

    def order() -> Any:
        message = api.receive((ref, "load", ANY), (ref, "release"), Down(gone, ANY, ANY))
        return message[2] if isinstance(message, tuple) and len(message) == 3 else None

    loading_code(True)
    try:
        say("held")
        timeout = order()
        if timeout is None:
            return
        try:
            loaded, former = load(which())
        except (Exception, SystemExit) as error:
            say("loaded", Crash.from_exception(error), [])
            say("changed", [], {}, [])
            order()
            return
        say("loaded", None, loaded)
        say("changed", *_change(former, timeout))
        order()
    finally:
        loading_code(False)


def _change(former: set[object], timeout: float) -> tuple[list[Pid], dict[Pid, str], list[Pid]]:
    """Have the servers of these classes and modules go on with the new ones: who does, who can't, who is busy still."""
    changed: list[Pid] = []
    failed: dict[Pid, str] = {}
    busy: list[Pid] = []
    asked: set[Pid] = set()
    until = time.monotonic() + timeout
    while True:
        requests = Requests()
        for pid, kind in servers_here():
            if kind in former and pid not in asked:
                asked.add(pid)
                version = getattr(kind, "vsn", None)
                # Behind one another: it does nothing else in between.
                for request in (("suspend",), ("change_code", None, version, None), ("resume",)):
                    requests.send(pid, System(request), (pid, request[0]))
        if not len(requests):
            return changed, failed, busy  # nobody has come up meanwhile
        for label, answer in requests.answers(max(0.0, until - time.monotonic())):
            pid, what = cast("tuple[Pid, str]", label)
            if what != "change_code":
                continue
            if isinstance(answer, Done):
                fine, error = answer.value
                if fine:
                    changed.append(pid)
                else:
                    failed[pid] = f"{type(error).__name__}: {error}"
            elif answer.reason == "timeout":
                busy.append(pid)  # else it has ended


def load(names: list[str]) -> tuple[list[str], set[object]]:
    """Import modules of this worker anew, all of them or none: their names, and what they and their classes were.

    Those whose classes derive from theirs are loaded with them. Raises what they raise.
    """
    names = _with_heirs([name for name in names if name in sys.modules])
    former = {name: sys.modules[name] for name in names}
    for module in former.values():
        # Python compares whole seconds, and sizes: an edit may have changed neither.
        if module.__file__ is not None:
            with contextlib.suppress(OSError, NotImplementedError):
                os.unlink(importlib.util.cache_from_source(module.__file__))
    importlib.invalidate_caches()
    for name in names:
        del sys.modules[name]
    try:
        for name in names:
            importlib.import_module(name)
    except BaseException:
        for name, module in former.items():
            _put(name, module)
        raise
    for name, module in list(sys.modules.items()):
        parent, _, child = name.rpartition(".")
        if parent in former and not hasattr(sys.modules[parent], child):
            setattr(sys.modules[parent], child, module)  # importing it has set this, once
    linecache.checkcache()
    things = [thing for module in former.values() for thing in _defined(module)]
    supersede(things)
    _rebind(former)
    return names, {*former.values(), *things}


def _imported() -> list[tuple[str, ModuleType]]:
    """All modules. Other things may stand among them."""
    found: list[tuple[str, object]] = list(sys.modules.items())
    return [(name, module) for name, module in found if isinstance(module, ModuleType)]


def _put(name: str, module: ModuleType) -> None:
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)


def _with_heirs(names: list[str]) -> list[str]:
    """And those modules that define classes which derive from theirs."""
    found = list(names)
    while True:
        heirs = [
            name
            for name, module in _imported()
            if name not in found
            and getattr(module, "__file__", None)
            and any(
                isinstance(kind, type) and any(base.__module__ in found for base in kind.__mro__[1:])
                for kind in _defined(module)
            )
        ]
        if not heirs:
            return found
        found += heirs


def _defined(module: ModuleType) -> Iterator[Any]:
    """The functions and classes that stand in a module, also those inside classes."""
    rest: list[Any] = list(vars(module).values())
    seen: set[int] = set()
    while rest:
        thing = rest.pop()
        if isinstance(thing, (type, FunctionType)) and thing.__module__ == module.__name__ and id(thing) not in seen:
            seen.add(id(thing))
            yield thing
            if isinstance(thing, type):
                rest += vars(thing).values()


def _rebind(former: dict[str, ModuleType]) -> None:
    """Names in other modules that mean these modules, or what was imported from them, mean the new ones."""
    now: dict[int, Any] = {}
    for name, module in former.items():
        now[id(module)] = sys.modules[name]
        for key, value in vars(module).items():
            if isinstance(value, (type, FunctionType)) and value.__module__ == name:
                now[id(value)] = getattr(sys.modules[name], key, value)
    for name, module in _imported():
        if name not in former:
            names = vars(module)
            names.update({key: now[id(value)] for key, value in list(names.items()) if id(value) in now})
