"""Settings: what a system can be told, and where it looks for what it isn't told.

    >>> from parallel_actors.config import resolve
    >>> resolve(workers=4, guests=2).workers
    4

Each setting is taken from the first of these that has it:

1. a keyword argument (`ActorSystem(workers=4)`) or an option of the command line (`parallel-actors run --workers 4`),
2. the environment variable `PARALLEL_ACTORS_<NAME>`, such as `PARALLEL_ACTORS_WORKERS=4`,
3. the table `[tool.parallel_actors]` of the nearest `pyproject.toml`, from the current directory upward,
4. the default.

A value that doesn't fit is a ValueError that says where it stands; nothing is corrected in silence. `ActorSystem` and
the command line call `resolve` once, in the launching program; workers get the result and never look for themselves.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

__all__ = ["Options", "Settings", "cpu_quota", "resolve", "unknown_variables", "usable_cores"]

PREFIX = "PARALLEL_ACTORS_"
TABLE = "parallel_actors"
MAILBOX_POLICIES = ("suspend", "fail", "drop_newest", "drop_oldest")  # as in the scheduler, which isn't imported here
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# The dirty map of a slot has a bit per endpoint: the workers, the root and the guests.
MAX_ENDPOINTS = 1024
# The kernel hands on some 250 descriptors at once, and a worker gets one for each endpoint at its start.
_SENDABLE = 240


# --- cores -----------------------------------------------------------------------------------------------------------


def usable_cores(*, root: str | Path = "/", affinity: int | None = None) -> int:
    """How many cores this program may keep busy: the default number of workers.

        >>> usable_cores() >= 1
        True

    It is the smaller of the CPU affinity (`taskset`, cpusets) and the CPU quota of the cgroups that the program is in
    (`docker run --cpus`, a Kubernetes limit, `CPUQuota=`), rounded up, and at least 1: `os.cpu_count()` sees neither.

    `root` is where `/proc` and `/sys` are looked for and `affinity` replaces the measured one; both are for tests.
    """
    cores = len(os.sched_getaffinity(0)) if affinity is None else affinity
    quota = cpu_quota(root=root)
    if quota is not None:
        cores = min(cores, math.ceil(quota))
    return max(1, cores)


def cpu_quota(*, root: str | Path = "/") -> float | None:
    """The CPU quota of this program's cgroups in cores (1.5 = one and a half), or None if nothing limits it.

    Versions 1 and 2 of cgroups are read, and every level: a quota on a parent binds its children too.
    """
    root = Path(root)
    quotas = [
        quota
        for version, mount_point, path in _cpu_cgroups(root)
        for group in _upward(root / mount_point.lstrip("/"), path)
        if (quota := _quota_of(version, group)) is not None
    ]
    return min(quotas, default=None)


def _cpu_cgroups(root: Path) -> list[tuple[int, str, str]]:
    """(version, where it is mounted, our path below that) of each hierarchy that may limit CPU time."""
    ours: dict[int, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            ours[2] = path
        elif "cpu" in controllers.split(","):
            ours[1] = path
    found: list[tuple[int, str, str]] = []
    for line in _read(root / "proc/self/mountinfo").splitlines():
        # id parent device root mount-point options [tags...] - type source super-options
        left, _, right = line.partition(" - ")
        fields, after = left.split(), right.split()
        if len(fields) < 5 or len(after) < 3:
            continue
        if after[0] == "cgroup2":
            version = 2
        elif after[0] == "cgroup" and "cpu" in after[2].split(","):
            version = 1
        else:
            continue
        if version not in ours:
            continue
        # A container without a cgroup namespace sees its path on the host, but only that part of the tree is mounted.
        path, mounted = ours[version], fields[3].rstrip("/")
        inside = path == mounted or path.startswith(mounted + "/")
        found.append((version, fields[4], path.removeprefix(mounted) if inside else ""))
    return found


def _upward(top: Path, path: str) -> list[Path]:
    """The directories from `top/path` up to `top`; what climbs out of the mount (`..`) counts as `top`."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        parts = []
    return [top.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _quota_of(version: int, group: Path) -> float | None:
    if version == 2:
        words = _read(group / "cpu.max").split()
    else:
        words = [*_read(group / "cpu.cfs_quota_us").split(), *_read(group / "cpu.cfs_period_us").split()]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # no such file, or "max": no limit
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    """What stands in a file of `/proc` or `/sys`; nothing, where it isn't there or isn't ours to read."""
    try:
        return path.read_text()
    except OSError:
        return ""


# --- values ----------------------------------------------------------------------------------------------------------
# A parser takes a value of any source (the text of a variable; what TOML or a caller gave) and returns what `Options`
# holds, or raises _Unfit with what it expected.


class _Unfit(Exception):
    """Raised by a parser with what it expected; `resolve` adds where the value came from."""


def _whole_number(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number: object = value
        if isinstance(value, str):
            try:
                number = int(value)
            except ValueError:
                number = None
        if isinstance(number, int) and not isinstance(number, bool) and low <= number <= high:
            return number
        raise _Unfit(f"expected a whole number from {low} to {high}")

    return parse


def _seconds(value: object) -> float:
    number: object = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = None
    if isinstance(number, (int, float)) and not isinstance(number, bool) and 0 <= number < math.inf:
        return float(number)
    raise _Unfit("expected a number of seconds, 0 or more")


_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _flag(value: object) -> bool:
    known = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else value
    if isinstance(known, bool):
        return known
    raise _Unfit("expected true or false (as text also 1, 0, yes, no, on, off)")


def _flag_or_auto(value: object) -> bool | None:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return None
    try:
        return _flag(value)
    except _Unfit:
        raise _Unfit('expected true, false or "auto"') from None


def _level(value: object) -> str:
    if isinstance(value, str) and value.strip().upper() in LEVELS:
        return value.strip().upper()
    raise _Unfit(f"expected one of {', '.join(LEVELS)}")


def _policy(value: object) -> str:
    if isinstance(value, str) and value.strip().lower() in MAILBOX_POLICIES:
        return value.strip().lower()
    raise _Unfit(f"expected one of {', '.join(MAILBOX_POLICIES)}")


def _modules(value: object) -> tuple[str, ...]:
    names: object = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if isinstance(names, (list, tuple)):
        known = [name for name in names if isinstance(name, str) and all(map(str.isidentifier, name.split(".")))]
        if len(known) == len(names):
            return tuple(known)
    raise _Unfit("expected names of modules, such as numpy, shop.orders")


def _label(value: object) -> str:
    if isinstance(value, str) and value.isprintable() and 1 <= len(value.strip()) <= 64:
        return value.strip()
    raise _Unfit("expected 1 to 64 printable characters")


# --- options ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every setting of one system, checked. Made by `resolve`."""

    workers: int = field(default_factory=usable_cores)
    """Worker processes, one per core that is to be kept busy. Default: `usable_cores()`."""

    guests: int = 8
    """Threads of the launching program that may use the system at the same time (its main thread is one)."""

    max_workers: int | None = None
    """How many workers there may be at the same time (`add_worker`). A place that isn't taken costs a descriptor in
    each worker. None: twice `workers`, at least the usable cores and 8, as far as there is room beside the guests."""

    spare_workers: int = 0
    """OS processes that are there already, with the modules of `preload`, to be the next worker: in place of one that
    dies, or one that is added. Each uses the memory of a worker that has nothing to do."""

    preload: tuple[str, ...] = ()
    """Modules that each worker imports before it is up, spare ones too: nobody waits for that later. In a variable or a
    keyword also as a text, with commas."""

    rebalance: bool = True
    """Move GenServers and typed actors from workers that have too much to do to others, while they run. Those that are
    started with `options(stealable=False)` or `options(worker=...)` stay."""

    stop_timeout: float = 5.0
    """Seconds that a stop waits for the processes to end before what is left is killed."""

    stuck_timeout: float = 5.0
    """Seconds after which a worker that doesn't turn is killed, if a process of it has been told to end."""

    long_schedule: float = 0.5
    """Seconds that a process which can't be preempted may keep others of its worker waiting before that is reported."""

    arena_bytes: int | None = None
    """Address space in which each OS process of the system can have large buffers that it sends (docs/payloads.md), 0
    for none. Memory is taken for what is used. None: as much as the machine has memory, up to 64 GiB; less where
    `ulimit -v` says so."""

    log_level: str = "INFO"
    """Lowest level of log records that workers hand to the root: DEBUG, INFO, WARNING, ERROR or CRITICAL."""

    prefix_output: bool = False
    """Mark each line that a worker prints with its source."""

    max_reports: int = 100
    """Reports of each kind (crashes, supervisor reports, dead letters, ...) that each worker logs in a second. What is
    more is counted, and one line tells how many. What user code logs or prints isn't limited."""

    forward_logs: bool = False
    """Hand log records of the workers to `logging` in the program that started the system, fields included, instead of
    writing them to its stderr. Only for `ActorSystem`: what `parallel-actors run` runs lives on the workers itself."""

    max_mailbox: int | None = None
    """How many messages may wait in the mailbox of a process. None: any number. For processes that were spawned without
    limits of their own; see `options`."""

    max_mailbox_bytes: int | None = None
    """How many bytes the messages in a mailbox may have together, about. None: any number."""

    mailbox_policy: str = "suspend"
    """What becomes of a message that such a limit has no room for: suspend, fail, drop_newest or drop_oldest."""

    max_worker_rss: int | None = None
    """Bytes of memory that a worker may use (what it shares with others isn't counted). One that uses more is drained:
    its callback processes move to other workers, the others are waited for until they end; then another OS process goes
    on in its place. Looked at about once a second, one worker at a time; nothing is done where there is one worker
    alone, or where one was replaced less than half a minute ago. None: no limit."""

    pin: bool | None = None
    """Bind each worker to a core of its own. None: no."""

    spin: bool | None = None
    """Let a worker look for mail for 20 microseconds before it sleeps: a message from another core finds it awake.
    None: where each worker can have a core to itself (no more workers than cores, no CPU quota, no other system of the
    user, not under pytest-xdist)."""

    name: str = "parallel_actors"
    """What the OS processes are called in process lists (the first ten characters, then `:root`, `:w0`, ...)."""

    @property
    def worker_slots(self) -> int:
        """`max_workers`, or what it is by default."""
        if self.max_workers is not None:
            return self.max_workers
        wanted = max(2 * self.workers, usable_cores(), 8)
        return max(self.workers, min(wanted, _SENDABLE - 1 - self.guests))

    def mailbox_limits(self) -> tuple[int, int, int] | None:
        """As a worker's scheduler takes them: 0 is no limit, and a policy is a number."""
        if self.max_mailbox is None and self.max_mailbox_bytes is None:
            return None
        return self.max_mailbox or 0, self.max_mailbox_bytes or 0, MAILBOX_POLICIES.index(self.mailbox_policy)


class Settings(TypedDict, total=False):
    """The keywords of `resolve` and `ActorSystem`. None means "not given"."""

    workers: int | None
    guests: int | None
    max_workers: int | None
    spare_workers: int | None
    preload: Sequence[str] | None
    rebalance: bool | None
    stop_timeout: float | None
    stuck_timeout: float | None
    long_schedule: float | None
    arena_bytes: int | None
    log_level: str | None
    prefix_output: bool | None
    max_reports: int | None
    max_mailbox: int | None
    max_mailbox_bytes: int | None
    max_worker_rss: int | None
    mailbox_policy: str | None
    forward_logs: bool | None
    pin: bool | None
    spin: bool | None
    name: str | None


_PARSERS: Mapping[str, Callable[[object], Any]] = {
    "workers": _whole_number(1, MAX_ENDPOINTS - 2),
    "guests": _whole_number(1, MAX_ENDPOINTS - 2),
    "max_workers": _whole_number(1, MAX_ENDPOINTS - 2),
    "spare_workers": _whole_number(0, MAX_ENDPOINTS - 2),
    "preload": _modules,
    "rebalance": _flag,
    "stop_timeout": _seconds,
    "stuck_timeout": _seconds,
    "long_schedule": _seconds,
    "arena_bytes": _whole_number(0, 1 << 42),
    "log_level": _level,
    "prefix_output": _flag,
    "max_reports": _whole_number(0, 1_000_000),
    "max_mailbox": _whole_number(1, 2**62 - 1),
    "max_mailbox_bytes": _whole_number(1, 2**62 - 1),
    "max_worker_rss": _whole_number(1, 2**62 - 1),
    "mailbox_policy": _policy,
    "forward_logs": _flag,
    "pin": _flag_or_auto,
    "spin": _flag_or_auto,
    "name": _label,
}


def resolve(**keywords: Unpack[Settings]) -> Options:
    """The settings of a new system: keyword, else variable, else `pyproject.toml`, else default.

        >>> resolve(log_level="debug").log_level
        'DEBUG'

    A keyword of None counts as not given, an empty variable likewise.

    Raises TypeError for an unknown keyword, ValueError for a value that doesn't fit and for an unknown key in
    `pyproject.toml`; both say where it stands, what was expected and what was got.
    """
    return resolve_from(cast("Mapping[str, object]", keywords), "keyword argument {name}".format)


def resolve_from(given: Mapping[str, object], place: Callable[..., str]) -> Options:
    """As `resolve`; `place(name=...)` says where a value of `given` came from (the command line has its own words)."""
    for name in given:
        if name not in _PARSERS:
            raise TypeError(f"expected the name of a setting, got {place(name=name)}{_closest(name)}")
    values: dict[str, Any] = {}
    for source in (_from_pyproject(Path.cwd()), _from_environment(), _from_keywords(given, place)):
        for name, (value, where) in source.items():
            try:
                values[name] = _PARSERS[name](value)
            except _Unfit as unfit:
                raise ValueError(f"{where}: {unfit}, got {value!r}") from None
    options = Options(**values)
    if options.workers + 1 + options.guests > MAX_ENDPOINTS:
        raise ValueError(
            f"expected workers + guests to be at most {MAX_ENDPOINTS - 1}, "
            f"got {options.workers} workers and {options.guests} guests; lower one of them"
        )
    if options.worker_slots < options.workers:
        raise ValueError(
            f"expected max_workers to be at least workers, got {options.max_workers} for {options.workers} workers"
        )
    if options.worker_slots + 1 + options.guests > MAX_ENDPOINTS:
        raise ValueError(
            f"expected max_workers + guests to be at most {MAX_ENDPOINTS - 1}, "
            f"got {options.max_workers} and {options.guests} guests; lower one of them"
        )
    return options


_Source = dict[str, tuple[object, str]]  # name -> (value, where it stands)


def _from_keywords(given: Mapping[str, object], place: Callable[..., str]) -> _Source:
    return {name: (value, place(name=name)) for name, value in given.items() if value is not None}


def _from_environment() -> _Source:
    found: _Source = {}
    for name in _PARSERS:
        variable = PREFIX + name.upper()
        if text := os.environ.get(variable, "").strip():
            found[name] = (text, f"environment variable {variable}")
    return found


def unknown_variables() -> dict[str, str]:
    """Variables `PARALLEL_ACTORS_*` that name no setting, each with a hint. They do nothing; `doctor` shows them."""
    known = {PREFIX + name.upper() for name in _PARSERS}
    return {
        variable: f"no setting of that name{_closest(variable.removeprefix(PREFIX).lower(), PREFIX, upper=True)}"
        for variable in sorted(os.environ)
        if variable.startswith(PREFIX) and variable not in known
    }


def _from_pyproject(directory: Path) -> _Source:
    candidates = (parent / "pyproject.toml" for parent in (directory, *directory.parents))
    path = next((file for file in candidates if file.is_file()), None)
    if path is None:
        return {}
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: expected a readable file: {error.strerror}") from error
    if b"parallel" not in text:  # the usual case; it spares `run` the import of a TOML reader
        return {}
    import tomllib

    try:
        tool = tomllib.loads(text.decode()).get("tool")
    except ValueError as error:
        raise ValueError(f"{path}: expected valid TOML: {error}") from error
    if not isinstance(tool, dict):
        return {}
    if TABLE not in tool and "parallel-actors" in tool:
        raise ValueError(f"{path}: expected the table [tool.{TABLE}], got [tool.parallel-actors]; rename it")
    table = tool.get(TABLE, {})
    if not isinstance(table, dict):
        raise ValueError(f"{path}: expected tool.{TABLE} to be a table, got {table!r}")
    found: _Source = {}
    for key, value in cast("dict[str, object]", table).items():
        where = f"{path}, [tool.{TABLE}] {key}"
        if key not in _PARSERS:
            raise ValueError(f"{where}: expected the name of a setting, got {key!r}{_closest(key)}")
        found[key] = (value, where)
    return found


def _closest(name: str, prefix: str = "", *, upper: bool = False) -> str:
    """`; did you mean workers?`, or the list of all names where none is near."""
    from difflib import get_close_matches  # who starts a system needs none of it

    show: Callable[[str], str] = (lambda known: prefix + known.upper()) if upper else (lambda known: prefix + known)
    if near := get_close_matches(name.replace("-", "_"), _PARSERS, n=1):
        return f"; did you mean {show(near[0])}?"
    return f"; known are {', '.join(map(show, _PARSERS))}"
