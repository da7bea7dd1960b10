"""Applications: trees that are started and stopped as one, after those that they need (OTP's `application`).

    start(App) -> ("application", "start", ...) to the root, the application controller (`root/applications.py`)
        -> a `Master` on a worker: it calls `App().start(args)`, links to the tree, and keeps it until one of both ends
        -> ("application", "word", ...) to the root: "started", "failed" or "ended"

The root holds what has to outlive a worker: which applications run, in which order, and what was set in their
environments, as bytes that it doesn't look into. A master or a tree that dies with its worker is started anew.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from parallel_actors.gen_server import GenServer, NoReply, Ok, Stop
from parallel_actors.workers import api
from parallel_actors.workers.codec import decode_bytes, encode_bytes
from parallel_actors.workers.errors import ActorError, CallTimeout, NotRunning, StartError
from parallel_actors.workers.ident import Pid
from parallel_actors.workers.patterns import ANY
from parallel_actors.workers.reasons import Crash, Down, Exit, Shutdown, WorkerDown
from parallel_actors.workers.scheduler import current_scheduler

__all__ = [
    "Application",
    "ApplicationInfo",
    "delete_env",
    "ensure_all_started",
    "ensure_started",
    "fetch_env",
    "get_all_env",
    "get_env",
    "put_env",
    "start",
    "started_applications",
    "stop",
]

Type = Literal["permanent", "transient", "temporary"]

_LOG = logging.getLogger("parallel_actors.application")

# Seconds that what a dead worker's tree has left on others (a process that ends, and has its name still) may take.
_LEFTOVER = 15.0
_MISSING: Any = object()


class Application:
    """The base of applications (OTP: the behaviour `application`). An instance is made in the application's master.

    >>> import parallel_actors as pa
    >>> class Store(pa.Application):
    ...     env = {"shelves": 3}
    ...     def start(self, args):
    ...         shelves = pa.application.get_env(Store, "shelves")
    ...         return pa.Supervisor.start_link([pa.child(pa.GenServer, shelves, name="store")])
    >>> class Shop(pa.Application):
    ...     applications = (Store,)
    ...     def start(self, args):
    ...         return pa.Supervisor.start_link([pa.child(pa.GenServer, "open", name="shop")])
    >>> with pa.ActorSystem(workers=1):
    ...     started = pa.application.ensure_all_started(Shop)
    ...     [name.rpartition(":")[2] for name in started], pa.sys_.get_state("store")
    (['Store', 'Shop'], 3)

    `parallel-actors run shop:Shop` starts one, and ends when it does.
    """

    applications: ClassVar[Sequence[type[Application] | str]] = ()
    """Those that must run before it starts: classes, or "module:Name"."""

    env: ClassVar[Mapping[str, Any]] = {}
    """What `get_env` knows of it by default."""

    start_phases: ClassVar[Sequence[tuple[str, Any]]] = ()
    """(phase, args) for `start_phase`, called in this order once the tree is up."""

    def start(self, args: Any) -> Any:
        """Start the tree: its top supervisor's pid, or (pid, state) (OTP: `Mod:start/2`). Not to be `async def`.

        It runs in the master, which is the parent of what it starts. `args` are those of `start`, or what stands
        behind the target on the command line.
        """
        raise NotImplementedError(f"expected {type(self).__qualname__} to have start(self, args): it starts the tree")

    def start_phase(self, phase: str, args: Any) -> None:
        """One of `start_phases` (OTP: `Mod:start_phase/3`). What it raises fails the start."""

    def prep_stop(self, state: Any) -> Any:
        """Before the tree is stopped, or when it has ended by itself; the state for `stop` (OTP: `Mod:prep_stop/1`)."""
        return state

    def stop(self, state: Any) -> None:
        """After the tree has ended: clean up (OTP: `Mod:stop/1`). `state` is what `start` returned, else None."""


@dataclass(frozen=True, slots=True)
class ApplicationInfo:
    """One application, as `started_applications` tells it."""

    name: str
    """"module:Name"."""

    type: Type

    pid: Pid
    """The top of its tree."""


# --- which application ------------------------------------------------------------------------------------------------


App = type[Application] | str  # its class, or "module:Name"


def name_of(app: App) -> str:
    """Its name: "module:Name"."""
    if isinstance(app, str):
        return app
    kind: object = app
    if not (isinstance(kind, type) and issubclass(kind, Application)):
        raise TypeError(f'expected a class of Application, or "module:Name", got {app!r}')
    return f"{app.__module__}:{app.__qualname__}"


def find(app: App) -> type[Application]:
    """The class. One that is given by name is imported."""
    if not isinstance(app, str):
        name_of(app)
        return app
    module, colon, name = app.partition(":")
    if not (module and colon and name):
        raise ValueError(f'expected the name of an application, "module:Name", got {app!r}')
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, Application)):
        raise ValueError(f"expected {app!r} to be a class of Application, got {found!r}")
    return found


def in_order(app: App, above: tuple[str, ...] = ()) -> dict[str, type[Application]]:
    """The application and all that it needs, in start order, by their names.

    Raises:
        ValueError: an application needs itself, by way of others.
    """
    kind = find(app)
    name = name_of(kind)
    if name in above:
        raise ValueError(f"expected no application to need itself, got {' -> '.join((*above, name))}")
    if isinstance(kind.applications, str):
        raise TypeError(f"expected {name} to have a tuple of applications, got the text {kind.applications!r}")
    found: dict[str, type[Application]] = {}
    for needed in kind.applications:
        found.update(in_order(needed, (*above, name)))
    return {**found, name: kind}


# --- starting and stopping --------------------------------------------------------------------------------------------


def start(app: App, type: Type = "temporary", *, args: Any = ()) -> None:
    """Start an application; returns when its tree is up (OTP: `application:start/2`).

    Args:
        app: its class, or "module:Name".
        type: what its end means, unless `stop` brings it about. "permanent": the node stops. "transient": the node
            stops, unless the reason is "normal" (that of a supervisor never is). "temporary": it is reported.
        args: for its `start`; whenever that runs.

    Raises:
        StartError: `start` failed, and nothing of it is left; or the `reason` is ("already_started", name) or
            ("not_started", name): one that it needs doesn't run.
        NotPicklable: for `args` that can't leave their process.
        NotRunning: the system stops.
        ValueError, TypeError: for what is no application, or no type.
    """
    if type not in get_args(Type):
        raise ValueError(f"expected type to be permanent, transient or temporary, got {type!r}")
    kind = find(app)
    name = name_of(kind)
    done, value = _ask("start", name, type, [name_of(each) for each in kind.applications], _encoded((kind, args)))
    if done:
        return
    match value:
        case ("already_started", _):
            raise StartError(f"expected an application that doesn't run, got {name}", reason=value)
        case ("not_started", needed):
            raise StartError(
                f"{name} needs {needed}, which doesn't run: start it first, or use ensure_all_started", reason=value
            )
        case ("failed", text, reason):
            found = _decoded(reason) if reason else text
            error = StartError(
                f"{name} did not start: {text}",
                reason=found,
                remote_traceback=found.traceback if isinstance(found, Crash) else None,
            )
            raise error from (found.exception if isinstance(found, Crash) else None)
    raise NotRunning(f"expected a running system, got one that stops: {name} isn't started")


def ensure_started(app: App, type: Type = "temporary") -> None:
    """`start`, unless it runs already (OTP: `application:ensure_started/2`)."""
    _ensured(app, type, ())


def ensure_all_started(apps: App | Iterable[App], type: Type = "temporary", *, args: Any = ()) -> list[str]:
    """Start applications and all that they need, as far as they don't run; the names of those that were started, in
    that order (OTP: `application:ensure_all_started/2`).

    If one fails, those that this call has started are stopped again, last first. Raises as `start`.
    `args` are for the applications that are named, not for what they need.
    """
    named = [apps] if isinstance(apps, str) or not isinstance(apps, Iterable) else list(apps)
    order: dict[str, Any] = {}
    for each in named:
        order.update(in_order(each))
    for_named = {name_of(each) for each in named}
    started: list[str] = []
    try:
        for name, kind in order.items():
            if _ensured(kind, type, args if name in for_named else ()):
                started.append(name)
    except BaseException:
        for name in reversed(started):
            stop(name)
        raise
    return started


def _ensured(app: App, type: Type, args: Any) -> bool:
    try:
        start(app, type, args=args)
    except StartError as error:
        if error.reason == ("already_started", name_of(app)):
            return False
        raise
    return True


def stop(app: App, timeout: float | None = None) -> None:
    """Stop an application: `prep_stop`, its tree, `stop`; returns when it has ended (OTP: `application:stop/1`).

    Whatever its type, nobody else is stopped; but `parallel-actors run shop:App` ends when App is stopped.

    Args:
        app: its class, or "module:Name".
        timeout: seconds to wait at most; None: as long as it takes. The order stands after that, too.

    Raises:
        ActorError: it doesn't run; `reason` is ("not_started", name).
        CallTimeout: it hasn't ended in time.
        NotRunning: the system stops.
    """
    name = name_of(app)
    done, value = _ask("stop", name, timeout=timeout)
    if done:
        return
    if value == "timeout":
        raise CallTimeout(f"{name} did not stop within {timeout} s\n  it will, when its processes have ended")
    raise ActorError(f"expected an application that runs, got {name}", reason=("not_started", name))


def started_applications() -> list[ApplicationInfo]:
    """The applications that run, in start order (OTP: `application:which_applications/0`)."""
    _, found = _ask("which")
    return [ApplicationInfo(*each) for each in found]


def _ask(what: str, *arguments: object, timeout: float | None = None) -> tuple[bool, Any]:
    ref = api.alias()
    try:
        scheduler = current_scheduler()
        assert scheduler is not None  # whoever has an alias is a process
        scheduler.send_to_root(("application", what, ref, *arguments))
        answer = api.receive((ref, ANY, ANY), timeout=timeout, default=None)
    finally:
        api.unalias(ref)
    if answer is None:
        return False, "timeout"
    if answer[2] == "stops":
        raise NotRunning("expected a running system, got one that stops")
    return answer[1], answer[2]


def _encoded(value: object) -> bytes:
    scheduler = current_scheduler()
    if scheduler is None:
        api.self_()  # raises: nobody has a codec outside of a system
    assert scheduler is not None
    return encode_bytes(scheduler.codec, value)


def _decoded(data: bytes) -> Any:
    scheduler = current_scheduler()
    assert scheduler is not None
    return decode_bytes(scheduler.codec, data)


# --- the environment --------------------------------------------------------------------------------------------------


def get_env(app: App, key: str, default: Any = None) -> Any:
    """A value of an application's environment: the one that was put, else its class's own, else `default`.

    The whole node shares it (OTP: `application:get_env/3`). Each read asks the root: keep what is read often.
    """
    _, found = _ask("get_env", name_of(app), _key(key))
    return _decoded(found) if found is not None else find(app).env.get(key, default)


def fetch_env(app: App, key: str) -> Any:
    """As `get_env`; there has to be one (Elixir: `Application.fetch_env!/2`).

    Raises:
        KeyError: the text names those that there are.
    """
    found = get_env(app, key, _MISSING)
    if found is _MISSING:
        raise KeyError(f"expected a key of the environment of {name_of(app)}, got {key!r}{_known(get_all_env(app))}")
    return found


def get_all_env(app: App) -> dict[str, Any]:
    """The whole environment of an application (OTP: `application:get_all_env/1`)."""
    _, found = _ask("get_all_env", name_of(app))
    return {**find(app).env, **{key: _decoded(value) for key, value in found.items()}}


def put_env(app: App, key: str, value: Any) -> None:
    """Set a value; every worker sees it when this returns (OTP: `application:set_env/3`; Elixir: `put_env/3`).

    An application that runs looks when it looks: most do so at their start.
    """
    _ask("put_env", name_of(app), _key(key), _encoded(value))


def delete_env(app: App, key: str) -> None:
    """Forget what `put_env` has set; the class's own value is there again (OTP: `application:unset_env/2`)."""
    _ask("delete_env", name_of(app), _key(key))


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"expected the key of an environment to be a str, got {key!r}")
    return key


def _known(env: Mapping[str, Any]) -> str:
    return f"; there {'are' if env else 'is none'} {', '.join(sorted(env))}".rstrip()


# --- the command line -------------------------------------------------------------------------------------------------


def boot(app: type[Application], args: list[str], settings: Sequence[str]) -> str:
    """What `parallel-actors run shop:App` does on a worker: the environment, then everything; the application's name.

    settings: "key=value" for the application itself, "module:Name.key=value" for one that it needs.

    Raises:
        ValueError: there is no such application or key.
    """
    order = in_order(app)
    own = name_of(app)
    for text in settings:
        place, equals, value = text.partition("=")
        name, _, key = place.rpartition(".") if ":" in place else (own, "", place)
        if not equals or not key:
            raise ValueError(f"--env: expected KEY=VALUE or MODULE:NAME.KEY=VALUE, got {text!r}")
        if name not in order:
            raise ValueError(f"--env {text}: expected one of {', '.join(order)}, got {name!r}")
        env = order[name].env
        if key not in env:
            raise ValueError(f"--env {text}: expected a key of the env of {name}, got {key!r}{_known(env)}")
        try:
            put_env(order[name], key, parsed(value, env[key]))
        except ValueError as error:
            raise ValueError(f"--env {text}: {error}") from None
    ensure_all_started(app, "permanent", args=args)
    return own


def parsed(text: str, default: object) -> object:
    """`text` as a value like `default`: a bool, an int, a float or a str; of another type as TOML has it.

    >>> parsed("8080", 80), parsed("8080", "http"), parsed("[1, 2]", None)
    (8080, '8080', [1, 2])
    """
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(f"expected true or false, got {text!r}")
        return text == "true"
    if isinstance(default, (int, float)):
        kind = type(default)
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"expected {what}, got {text!r}") from None
    if isinstance(default, str):
        return text
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


# --- the master -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Running:
    """The state of a master. It moves from worker to worker, where the application's own state can."""

    name: str
    app: Application
    pid: Pid
    state: Any
    ended: Any = None  # the reason, once the tree has ended by itself


class Master(GenServer):
    """The application master: starts one application's tree, and stops it (OTP: `application_master`).

    The root, its parent, orders its end by an exit signal. `again`: a worker has died, and with it an earlier one.
    """

    def init(self, name: str, application: bytes, again: bool) -> Any:
        api.trap_exit(True)
        try:
            kind, args = _decoded(application)
            app: Application = kind()
            pid, state = _pid_and_state(kind, _started_again(app, args) if again else app.start(args))
        except (Exception, SystemExit) as error:
            return _refused(name, error)
        api.link(pid)
        running = Running(name, app, pid, state)
        try:
            for phase, phase_args in app.start_phases:
                app.start_phase(phase, phase_args)
        except (Exception, SystemExit) as error:
            self._end_tree(running)
            return _refused(name, error)
        _tell(name, "started", pid)
        return Ok(running)

    def handle_info(self, message: Any, state: Running) -> Any:
        if isinstance(message, Exit) and message.pid == state.pid:
            state.ended = message.reason
            return Stop("shutdown")
        return NoReply()

    def terminate(self, reason: Any, state: Running) -> None:
        running = state
        by_itself = running.ended is not None
        try:
            running.state = running.app.prep_stop(running.state)
        except Exception:
            _LOG.exception("%s: prep_stop failed", running.name)
        if not by_itself:
            self._end_tree(running)
        try:
            running.app.stop(running.state)
        except Exception:
            _LOG.exception("%s: stop failed", running.name)
        how = "worker" if isinstance(running.ended, WorkerDown) else "itself" if by_itself else "told"
        _tell(running.name, "ended", how, _text(running.ended if by_itself else reason))

    @staticmethod
    def _end_tree(running: Running) -> None:
        api.exit(running.pid, "shutdown")
        running_down = api.receive(Exit(running.pid, ANY))  # as OTP: for as long as its supervisors give their children
        if isinstance(running_down.reason, Crash):
            _LOG.error("%s: its tree ended otherwise than by shutdown: %s", running.name, running_down.reason)


def _tell(name: str, word: str, *facts: object) -> None:
    scheduler = current_scheduler()
    assert scheduler is not None
    scheduler.send_to_root(("application", "word", name, api.self_(), word, *facts))


def _refused(name: str, error: Exception | SystemExit) -> Stop:
    """The start has failed: the controller has the reason from us, and nobody reports it twice."""
    reason = error.reason if isinstance(error, StartError) else Crash.from_exception(error)
    try:
        packed = _encoded(reason)
    except Exception as failure:
        packed = _encoded(Crash.from_exception(failure))
    _tell(name, "failed", str(error), packed)
    return Stop(Shutdown("failed"))


def _text(reason: object) -> str:
    try:
        return f"{reason.type}: {reason.text}" if isinstance(reason, Crash) else str(reason)
    except Exception as error:  # a reason is anybody's object
        return f"<str() of a {type(reason).__qualname__} failed: {type(error).__name__}>"


def _pid_and_state(kind: type[Application], result: Any) -> tuple[Pid, Any]:
    top, state = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    pid = getattr(top, "__pid__", top)
    if not isinstance(pid, Pid):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"expected {kind.__qualname__}.start to return a pid or (pid, state), got {result!r}")
    return pid, state


def _started_again(app: Application, args: Any) -> Any:
    """Start the tree anew. Names may be taken still, by what is left of the former one and about to end."""
    waited: set[Pid] = set()
    while True:
        try:
            return app.start(args)
        except ActorError as error:
            left = _holder(error)
            if left is None or left in waited:
                raise
            waited.add(left)
            ref = api.monitor(left)
            down = api.receive(Down(ref, ANY, ANY), timeout=_LEFTOVER, default=None)
            api.demonitor(ref, flush=True)
            if down is None:
                raise


def _holder(error: ActorError) -> Pid | None:
    """The process whose name was in the way of a start, however deep in the tree."""
    reason = error.reason
    while isinstance(reason, Shutdown) and isinstance(reason.term, tuple) and len(reason.term) == 3:
        reason = reason.term[2]
    if isinstance(reason, tuple) and len(reason) == 2 and reason[0] == "already_started":
        reason = reason[1]
    return reason if isinstance(reason, Pid) else None
