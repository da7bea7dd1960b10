"""Spare workers: OS processes that take the place of a worker that dies."""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

import parallel_actors as pa
from leaks import eventually
from puppets import WAIT, puppet


def spares_of(system: pa.ActorSystem) -> list[psutil.Process]:
    """The OS processes of those that wait (or don't do so yet)."""
    node = system._node
    assert node is not None
    forked = psutil.Process(node.root.pid).children(recursive=True)
    return [process for process in forked if ":spar" in name_of(process)]  # the kernel keeps 15 characters


def name_of(process: psutil.Process) -> str:
    """Empty where it has ended meanwhile."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def one_spare(system: pa.ActorSystem) -> psutil.Process:
    eventually(lambda: len(spares_of(system)) == 1, "there is a spare")
    return spares_of(system)[0]


def pid_of(worker: int) -> int:
    return puppet(worker).do(os.getpid)


def pid_in_the_end(worker: int) -> int | None:
    """As `pid_of`; None where that OS process dies just then."""
    pid, ref = pa.options(worker=worker).spawn_monitor(send_pid, pa.self_())
    match pa.receive((pid, int), pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT):
        case (_, found):
            pa.demonitor(ref, flush=True)
            return int(found)
    return None


def send_pid(to: pa.Pid) -> None:
    pa.send(to, (pa.self_(), os.getpid()))


def is_other(worker: int, former: tuple[int | None, ...]) -> bool:
    return pid_in_the_end(worker) not in former


def kill_worker(worker: int) -> int:
    """Kill it, and wait until that is known here. Its former OS pid."""
    there = puppet(worker)
    former = there.do(os.getpid)
    watch = pa.monitor(there.pid)
    kill(former)
    down = pa.receive(pa.Down(watch, pa.ANY, pa.ANY), timeout=WAIT)
    assert isinstance(down.reason, pa.WorkerDown)
    return former


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def has(module: str) -> bool:
    return module in sys.modules


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_spare_takes_the_place_of_a_dead_worker(no_leaks: None) -> None:
    with pa.ActorSystem(workers=2, spare_workers=1) as system:
        for worker in (1, 0, 1):
            spare = one_spare(system)
            kill_worker(worker)
            assert pid_of(worker) == spare.pid
            assert name_of(spare).endswith(f":w{worker}")
        assert one_spare(system).pid not in (pid_of(0), pid_of(1))


def test_a_spare_is_the_next_worker_that_is_added(no_leaks: None) -> None:
    with pa.ActorSystem(workers=1, spare_workers=1) as system:
        spare = one_spare(system)
        added = pa.add_worker()
        assert pid_of(added) == spare.pid
        pa.remove_worker(added)
        eventually(lambda: ended(spare), "it has left")


def test_a_spare_that_dies_is_replaced(no_leaks: None) -> None:
    with pa.ActorSystem(workers=1, spare_workers=1) as system:
        first = one_spare(system)
        kill(first.pid)
        eventually(lambda: [spare.pid for spare in spares_of(system)] not in ([], [first.pid]), "there is another one")
        second = one_spare(system)
        kill_worker(0)
        assert pid_of(0) == second.pid


@pytest.mark.parametrize("stopped", [False, True])
def test_a_spare_that_dies_together_with_a_worker(no_leaks: None, stopped: bool) -> None:
    """Whether the root has told it by then or not: another OS process takes that place."""
    with pa.ActorSystem(workers=2, spare_workers=1) as system:
        for _ in range(5):
            spare = one_spare(system)
            if stopped:
                spare.suspend()
                former = kill_worker(1)
                kill(spare.pid)
            else:
                kill(spare.pid)
                former = kill_worker(1)
            eventually(functools.partial(is_other, 1, (None, former, spare.pid)), "there is another one")


def test_spares_end_with_their_root(no_leaks: None) -> None:
    with pa.ActorSystem(workers=1, spare_workers=2) as system:
        eventually(lambda: len(spares_of(system)) == 2, "there are two")
        spares = spares_of(system)
        node = system._node
        assert node is not None
        kill(node.root.pid)
        eventually(lambda: all(map(ended, spares)), "they end, too")


def test_modules_are_there_before_a_worker_is_up(
    no_leaks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "preloaded_package").mkdir()
    (tmp_path / "preloaded_package" / "__init__.py").touch()
    (tmp_path / "preloaded_package" / "part.py").write_text("made = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pa.ActorSystem(workers=2, spare_workers=1, preload=["preloaded_package.part", "wave"]) as system:
        for name in ("preloaded_package.part", "wave"):
            assert [puppet(worker).do(has, name) for worker in range(2)] == [True, True]
        spare = one_spare(system)
        kill_worker(1)
        assert puppet(1).do(has, "preloaded_package.part")
        assert pid_of(1) == spare.pid


def test_a_spare_that_is_not_ready_yet_is_taken(
    no_leaks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its word that it is ready came to a socket that the root had closed: it died of that."""
    hold = tmp_path / "hold"
    (tmp_path / "held_module.py").write_text(
        f"import pathlib, time\nwhile pathlib.Path({str(hold)!r}).exists():\n    time.sleep(0.001)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pa.ActorSystem(workers=2, spare_workers=1, preload=["held_module"]) as system:
        first = one_spare(system)
        hold.touch()
        kill(first.pid)
        eventually(lambda: [spare.pid for spare in spares_of(system)] not in ([], [first.pid]), "there is another one")
        spare = one_spare(system)
        kill_worker(1)
        hold.unlink()
        assert pid_of(1) == spare.pid


def test_a_module_that_is_not_there(no_leaks: None, capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(pa.StartError, match="could not be started"),
        pa.ActorSystem(workers=1, preload="no_such_module"),
    ):
        pass
    assert "No module named 'no_such_module'" in capfd.readouterr().err


def test_spares_that_cannot_be_started_are_given_up(
    no_leaks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Workers run on without them."""
    (tmp_path / "imported_once.py").write_text(f"open({str(tmp_path / 'seen')!r}, 'x').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    said: list[str] = []

    def given_up() -> bool:
        said.append(capfd.readouterr().err)
        return "there are none from now on" in "".join(said)

    with pa.ActorSystem(workers=1, spare_workers=1, preload=["imported_once"]):
        former = pid_of(0)
        eventually(given_up, "they are given up")
        assert pid_of(0) == former
