"""The forkserver: the OS process that workers are forked from, and whose children they are.

`multiprocess` starts it as an interpreter of its own, which takes as long to come up as the root, and imports again
what the root has imported. So the first one is forked from the root, before that has a second thread, a signal handler
or anything of the node: a process of ours alone, in which nothing of the user's has run. Should it be killed,
`multiprocess` starts the next one its own way.

`multiprocess` also wants a resource tracker, one more interpreter, for its named semaphores and its shared memory. A
node has neither: what would be told to a tracker goes to /dev/null. A worker whose program does use them starts a
tracker then (`boot.forget_tracker`).

Its listening socket has a name in a temporary folder, which a killed root would leave behind. So both are removed as
soon as the socket is bound, and the root reaches it by a descriptor of it: nobody else can.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
import types
from collections.abc import Iterator
from typing import Any, NoReturn

from multiprocess import forkserver, process, resource_tracker, util

__all__ = ["alive", "end", "ensure_running", "fork_first"]

_PRELOAD = "parallel_actors.root.preload"
_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# The command line's: what has imported them has more in it than workers should have.
_NOT_FOR_WORKERS = frozenset({"rich", "typer"})

_server: Any = forkserver._forkserver
_tracker: Any = resource_tracker._resource_tracker
_reach = -1  # a descriptor of the listening socket's inode: its address is /proc/self/fd/<that>


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
        folder = tempfile.mkdtemp(prefix="parallel_actors-")
        try:
            listener.bind(f"{folder}/listener")
            listener.listen()
        except OSError:
            os.rmdir(folder)
            raise
        address = _hide(f"{folder}/listener")
        alive_r, alive_w = os.pipe()
        try:
            pid = os.fork()
        except OSError:  # `ensure_running` tries once more, and says why it can't
            os.close(alive_r)
            os.close(alive_w)
            _unreach()
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
        del _server.ensure_running  # a worker's program may have one of its own
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
    if alive():
        return
    _prepare()
    config = process.current_process()._config
    folder, before = tempfile.mkdtemp(prefix="parallel_actors-"), config.get("tempdir")
    config["tempdir"] = folder  # `multiprocess` puts the socket there
    try:
        with _without_ctrl_c():
            type(_server).ensure_running(_server)
        _server._forkserver_address = _hide(_server._forkserver_address)
    finally:
        config["tempdir"] = before
        _remove(folder)


def _hide(path: str) -> str:
    """Remove the name of a listening socket, and its folder. Returns an address that this OS process alone has."""
    global _reach
    _unreach()
    try:
        _reach = os.open(path, os.O_PATH | os.O_CLOEXEC)
    finally:  # there may be no descriptor left: this needs none
        os.unlink(path)
        os.rmdir(os.path.dirname(path))
    return f"/proc/self/fd/{_reach}"


def _remove(folder: str) -> None:
    """Remove a folder that may be gone already. There may be hardly a descriptor left: `shutil.rmtree` needs two."""
    with contextlib.suppress(FileNotFoundError):
        try:
            os.rmdir(folder)
        except OSError:  # not empty: `multiprocess` has failed after it had bound the socket
            for name in os.listdir(folder):
                os.unlink(f"{folder}/{name}")
            os.rmdir(folder)


def _unreach() -> None:
    global _reach
    if _reach >= 0:
        os.close(_reach)
        _reach = -1


def _prepare() -> None:
    for variable in _BLAS:
        os.environ.setdefault(variable, "1")
    if _tracker._fd is None:
        _tracker._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    _server.ensure_running = ensure_running  # each start of a worker looks whether it is there
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
        if _server._forkserver_pid is not None:
            # As `_server._stop()`, which would unlink the address too.
            os.close(_server._forkserver_alive_fd)
            pid, _server._forkserver_pid = _server._forkserver_pid, None
            _server._forkserver_alive_fd = _server._forkserver_address = None
            os.waitpid(pid, 0)
    _unreach()
    if _tracker._fd is not None:
        os.close(_tracker._fd)
        _tracker._fd = None
