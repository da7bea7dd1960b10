"""`parallel-actors doctor`: what this machine offers, what doesn't fit, and what to do about it.

Each check is a function that returns one `Check` and changes nothing; the last one starts a system of two workers and
stops it.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import select
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from parallel_actors.config import Options, cpu_quota, resolve, unknown_variables, usable_cores

__all__ = ["CHECKS", "Check", "doctor"]

Status = Literal["ok", "warn", "fail"]

MIB = 1 << 20
GIB = 1 << 30

REINSTALL = "pip install --force-reinstall parallel-actors"

# Worker processes without these libraries' caps would each start a thread per core.
BLAS_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. `hint` says what the value means or, unless the status is ok, what to do."""

    check: str
    status: Status
    value: str
    hint: str = ""


def doctor(*, as_json: bool = False) -> int:
    """Run every check, print the report, and return the exit code: 1 if any check failed, else 0."""
    results = [_run(check) for check in CHECKS]
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    else:
        _print_table(results)
    return 1 if any(result.status == "fail" for result in results) else 0


def _run(check: Callable[[], Check]) -> Check:
    """A check's result; one that raises has found something that nobody thought of, which is to be seen too."""
    try:
        return check()
    except Exception as error:
        name = check.__name__.removeprefix("_check_").replace("_", " ")
        return Check(name, "fail", f"{type(error).__name__}: {error}", "the check itself failed; please report it")


def _print_table(results: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table(box=None, pad_edge=False)
    for title in ("check", "", "value", "hint"):
        table.add_column(title, overflow="fold")
    for result in results:
        status = Text(result.status, style=colours[result.status])
        table.add_row(result.check, status, Text(result.value), Text(result.hint, style="dim"))
    console = Console()
    console.print(table)
    counts = {status: sum(result.status == status for result in results) for status in ("ok", "warn", "fail")}
    console.print(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed")


# --- what the library needs ------------------------------------------------------------------------------------------


def _check_platform() -> Check:
    value = f"{platform.system()} {platform.release()} {platform.machine()}"
    if platform.system() != "Linux":
        return Check("platform", "fail", value, "only Linux has what workers need (memfd, eventfd, pidfd)")
    if platform.machine() not in ("x86_64", "aarch64"):
        return Check("platform", "warn", value, "tested on x86-64 and arm64 only")
    return Check("platform", "ok", value)


def _check_python() -> Check:
    value = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("python", "fail", value, "needs CPython 3.11, 3.12 or 3.13")
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return Check("python", "fail", value, "free-threaded builds aren't supported; use the ordinary build")
    return Check("python", "ok", value)


def _check_engine() -> Check:
    try:
        scheduler = import_module("parallel_actors.workers.scheduler")
    except ImportError as error:
        return Check(
            "engine", "fail", str(error), f"the compiled part is missing; with a C compiler at hand: {REINSTALL}"
        )
    return Check("engine", "ok", os.path.basename(scheduler.__file__ or "built in"))


def _check_kernel() -> Check:
    tried = {"memfd_create": _try_memfd, "eventfd": _try_eventfd, "pidfd_open": _try_pidfd, "epoll": _try_epoll}
    missing = []
    for name, attempt in tried.items():
        try:
            attempt()
        except (OSError, AttributeError) as error:
            missing.append(f"{name} ({error})")
    if missing:
        hint = "needs Linux 5.3 or later, and a sandbox (seccomp) that lets these calls through"
        return Check("kernel calls", "fail", "missing: " + ", ".join(missing), hint)
    return Check("kernel calls", "ok", ", ".join(tried))


def _try_memfd() -> None:
    fd = os.memfd_create("parallel-actors-doctor", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, MIB)
        os.posix_fallocate(fd, 0, 4096)
    finally:
        os.close(fd)


def _try_eventfd() -> None:
    os.close(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))


def _try_pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _try_epoll() -> None:
    select.epoll().close()


def _check_libraries() -> Check:
    found: list[str] = []
    missing: list[str] = []
    for name in ("greenlet", "cloudpickle", "multiprocess", "psutil", "typer", "rich"):
        try:
            import_module(name)
            found.append(f"{name} {version(name)}")
        except (ImportError, PackageNotFoundError) as error:
            missing.append(f"{name} ({error})")
    if missing:
        return Check("libraries", "fail", "missing: " + ", ".join(missing), REINSTALL)
    return Check("libraries", "ok", ", ".join(found))


# --- how much of the machine we get ----------------------------------------------------------------------------------


def _check_cores() -> Check:
    usable, affinity, machine, quota = usable_cores(), len(os.sched_getaffinity(0)), os.cpu_count() or 0, cpu_quota()
    value = f"{usable} usable: {machine} in the machine, {affinity} by affinity, " + (
        "no cgroup quota" if quota is None else f"cgroup quota {quota:g}"
    )
    if quota is not None and quota < affinity and quota != int(quota):
        return Check(
            "cores", "warn", value, "the quota isn't whole: one worker is throttled at times; workers= decides"
        )
    if usable == 1:
        return Check("cores", "warn", value, "one core: actors run, but nothing runs in parallel")
    return Check("cores", "ok", value, "the default number of workers")


def _check_open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Each worker holds a doorbell per endpoint; the root a pidfd and an output pipe per worker besides.
    needed = 256 + 4 * _endpoints()
    value = f"{_amount(soft)} at most (hard limit {_amount(hard)})"
    if soft != resource.RLIM_INFINITY and soft < needed:
        return Check("open files", "warn", value, f"this many workers may need {needed}; raise it: ulimit -n {needed}")
    return Check("open files", "ok", value)


def _check_address_space() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = 2 * GIB + _endpoints() ** 2 * 69_632  # Python with libraries, and a ring per ordered pair of endpoints
    if soft != resource.RLIM_INFINITY and soft < needed:
        hint = f"the shared segment is sparse but mapped whole, about {needed // MIB} MiB in all: ulimit -v unlimited"
        return Check("address space", "warn", f"{soft // MIB} MiB at most", hint)
    return Check("address space", "ok", _amount(soft))


def _check_memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    value = f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f} GiB"
    needed = _options().workers * 40 * MIB  # an interpreter with the engine, before the program imports anything
    if memory.available < needed:
        return Check("memory", "warn", value, f"the workers alone take about {needed // MIB} MiB; use fewer: workers=")
    return Check("memory", "ok", value)


def _check_shm() -> Check:
    state = "there" if Path("/dev/shm").is_dir() else "not there"
    return Check("/dev/shm", "ok", state, "not used: the shared segment is a memfd, counted as memory")


def _check_blas_threads() -> Check:
    values = {name: os.environ[name] for name in BLAS_VARIABLES if name in os.environ}
    if not values:
        return Check("BLAS threads", "ok", "not set", "workers cap NumPy's and its like's own threads by themselves")
    value = ", ".join(f"{name}={text}" for name, text in values.items())
    if any(text.isdigit() and int(text) > 1 for text in values.values()):
        return Check("BLAS threads", "warn", value, "each worker starts that many threads; 1 suits one worker per core")
    return Check("BLAS threads", "ok", value)


def _check_settings() -> Check:
    try:
        options = resolve()
    except ValueError as error:
        return Check("settings", "fail", str(error), "correct it where it stands")
    value = ", ".join(f"{name}={setting}" for name, setting in asdict(options).items())
    if unknown := unknown_variables():
        return Check("settings", "warn", value, "; ".join(f"{name}: {hint}" for name, hint in unknown.items()))
    return Check("settings", "ok", value)


def _check_start() -> Check:
    """Start a system of two workers, run one process in it, and stop it."""
    began = time.perf_counter()
    try:
        import parallel_actors as pa
        from parallel_actors.system import ActorSystem

        with ActorSystem(workers=2):
            started = time.perf_counter()
            pa.spawn_monitor(_nothing)
            down = pa.receive(pa.Down, timeout=10.0)
            answered = time.perf_counter()
    except Exception as error:
        return Check("start", "fail", f"{type(error).__name__}: {error}", "see what failed above, or report it")
    stopped = time.perf_counter()
    value = (
        f"2 workers started in {1e3 * (started - began):.0f} ms, a process ran in {1e3 * (answered - started):.1f} ms "
        f"({down.reason}), stopped in {1e3 * (stopped - answered):.0f} ms"
    )
    return Check("start", "ok", value)


def _nothing() -> None:
    pass


def _options() -> Options:
    """The settings that a system would get here; the defaults where they are wrong, which `_check_settings` reports."""
    try:
        return resolve()
    except ValueError:
        return Options()


def _endpoints() -> int:
    options = _options()
    return options.worker_slots + 1 + options.guests


def _amount(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


CHECKS: tuple[Callable[[], Check], ...] = (
    _check_platform,
    _check_python,
    _check_kernel,
    _check_libraries,
    _check_engine,
    _check_cores,
    _check_memory,
    _check_shm,
    _check_open_files,
    _check_address_space,
    _check_blas_threads,
    _check_settings,
    _check_start,
)
