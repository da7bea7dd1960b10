"""The forkserver: the OS process that workers are forked from, and whose children they are.

`multiprocess` starts it as an interpreter of its own, which takes as long to come up as the root, and imports again
what the root has imported. So the first one is forked from the root, before that has a second thread, a signal handler
or anything of the node: a process of ours alone, in which nothing of the user's has run. Should it be killed,
`multiprocess` starts the next one its own way.

`multiprocess` also wants a resource tracker, one more interpreter, for its named semaphores and its shared memory. A
node has neither: what would be told to a tracker goes to /dev/null. A worker whose program does use them starts a
tracker then (`boot.forget_tracker`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import types
from collections.abc import Iterator
from typing import Any, NoReturn

from multiprocess import connection, forkserver, resource_tracker, util

__all__ = ["alive", "end", "ensure_running", "fork_first"]

_PRELOAD = "parallel_actors.root.preload"
_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# The command line's: what has imported them has more in it than workers should have.
_NOT_FOR_WORKERS = frozenset({"rich", "typer"})

_server: Any = forkserver._forkserver
_tracker: Any = resource_tracker._resource_tracker


def fork_first() -> None:
    """Fork the forkserver from this process; leave it to `ensure_running` where it can't or mustn't be a fork of us.

    The root's first act: nothing of the node is open yet.
    """
    if (
        _server._forkserver_pid is not None
        or len(os.listdir("/proc/self/task")) > 1
        or _NOT_FOR_WORKERS & sys.modules.keys()
    ):
        return
    from parallel_actors.root import preload  # noqa: F401

    _prepare()
    sys.stdout.flush()
    sys.stderr.flush()
    with socket.socket(socket.AF_UNIX) as listener, _without_ctrl_c():
        address: Any = connection.arbitrary_address("AF_UNIX")
        listener.bind(address)
        os.chmod(address, 0o600)
        listener.listen()
        alive_r, alive_w = os.pipe()
        try:
            pid = os.fork()
        except OSError:  # `ensure_running` tries once more, and says why it can't
            os.close(alive_r)
            os.close(alive_w)
            os.unlink(address)
            return
        if pid == 0:
            _serve(listener.detach(), alive_r)
        os.close(alive_r)
        _server._forkserver_address, _server._forkserver_alive_fd, _server._forkserver_pid = address, alive_w, pid


def _serve(listener: int, alive_r: int) -> NoReturn:
    """Be the forkserver, with no descriptors but its own two and the standard ones, as if it had been executed."""
    code = 1
    try:
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and fd not in (listener, alive_r):
                with contextlib.suppress(OSError):  # the one that listed them
                    os.close(fd)
        sys.modules["__main__"] = types.ModuleType("__main__")
        forkserver.main(listener, alive_r, [])
    except SystemExit:  # the root and all workers have ended
        code = 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr.flush()
    finally:
        os._exit(code)


def ensure_running() -> None:
    """Start the forkserver, if there is none."""
    _prepare()
    with _without_ctrl_c():
        forkserver.ensure_running()


def _prepare() -> None:
    for variable in _BLAS:
        os.environ.setdefault(variable, "1")
    if _tracker._fd is None:
        _tracker._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    forkserver.set_forkserver_preload([_PRELOAD])
    # `python -c` looks for modules in the current directory first: a user's dill.py there, or our own sources in a
    # clone, would be imported instead of the real ones. Workers get their sys.path from us, not from the forkserver.
    flags = util._args_from_interpreter_flags()
    if "-P" not in flags:
        util._args_from_interpreter_flags = lambda: [*flags, "-P"]


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Forkserver and workers inherit the mask: Ctrl-C is nobody's but the root's, also in a worker's first moments."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def alive() -> bool:
    """Whether it runs."""
    pid: int | None = _server._forkserver_pid
    if pid is None:
        return False
    with contextlib.suppress(ChildProcessError):
        # Not waited for: `multiprocess` does that when it starts the next one.
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    return False


def end() -> None:
    """End it now, not some milliseconds after us: a stop leaves nothing behind. It holds nothing that needs an end."""
    with contextlib.suppress(ChildProcessError):
        if alive():
            os.kill(_server._forkserver_pid, signal.SIGKILL)
        _server._stop()
    if _tracker._fd is not None:
        os.close(_tracker._fd)
        _tracker._fd = None
