"""Processes that run already become children (S7.4)."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from puppets import PLACES, WAIT, place, puppet
from test_actor import Counter


class Told(pa.GenServer):
    """Tells `asker` when it is up and down."""

    def init(self, asker: pa.Pid, trap: bool = False) -> Any:
        pa.trap_exit(trap)
        pa.send(asker, ("up", pa.self_()))
        return asker

    def handle_cast(self, request: Any, state: Any) -> Any:
        return pa.Stop(request)

    def terminate(self, reason: Any, state: Any) -> None:
        pa.send(state, ("down", pa.self_(), reason))


def up() -> pa.Pid:
    pid: pa.Pid = pa.receive(("up", pa.ANY), timeout=WAIT)[1]
    return pid


def supervisor(kind: Any, worker: int = 0, **choices: Any) -> pa.Pid:
    args: tuple[Any, ...] = ([],) if kind is pa.Supervisor else ()
    pid: pa.Pid = pa.options(worker=worker).start(kind, *args, **choices)
    return pid


KINDS = pytest.mark.parametrize("kind", [pa.Supervisor, pa.DynamicSupervisor])


@contract("S7.4", partly=True)
@KINDS
@pytest.mark.parametrize("worker", [0, 1])
@pytest.mark.parametrize("trap", [False, True])
def test_an_adopted_process_is_a_child(node: pa.ActorSystem, kind: Any, worker: int, trap: bool) -> None:
    """It is started again by the spec; and both are told to end as children are, which they trap or not."""
    sup = supervisor(kind)
    first = pa.options(worker=worker).start(Told, pa.self_(), trap)
    assert first == up()
    assert first == kind.adopt(sup, first, pa.child(Told, pa.self_(), trap, id="told"))
    assert [first] == [child.pid for child in kind.which_children(sup)]
    assert sup == pa.process_info(first, "parent")
    pa.cast(first, "boom")
    assert ("down", first, "boom") == pa.receive(("down", first, pa.ANY), timeout=WAIT)
    second = up()
    assert second != first
    third = pa.options(worker=worker).start(Told, pa.self_(), trap)
    up()
    kind.adopt(sup, third, pa.child(Told, pa.self_(), trap, id="third"))
    pa.stop(sup, "shutdown")
    ends = {pa.receive(("down", pid, "shutdown"), timeout=WAIT) for pid in (second, third)}
    assert {("down", second, "shutdown"), ("down", third, "shutdown")} == ends


@contract("S7.4", partly=True)
@pytest.mark.parametrize("places", PLACES)
def test_raw_processes_and_actors_are_adopted(node: pa.ActorSystem, places: tuple[int, int]) -> None:
    asker = place(places[0])
    sup = supervisor(pa.Supervisor, 1, strategy="rest_for_one")
    raw = puppet(places[1])
    actor = pa.options(worker=places[1]).start(Counter, 3)
    asker.do(pa.Supervisor.adopt, sup, raw.pid, pa.child(receive_for_ever, id="raw"))
    assert actor.__pid__ == asker.do(pa.Supervisor.adopt, sup, actor, pa.child(Counter, 4, id="counter"))
    raw.end("boom")
    eventually(lambda: None not in pids(sup) and raw.pid not in pids(sup), "both are started again")
    assert actor.__pid__ not in pids(sup)
    assert not pa.is_alive(actor)


def receive_for_ever() -> None:
    pa.receive(pa.make_ref())


def pids(sup: pa.Pid) -> list[pa.Pid | None]:
    return [child.pid for child in pa.Supervisor.which_children(sup)]


@KINDS
def test_a_supervisors_end_ends_what_it_has_adopted(node: pa.ActorSystem, kind: Any) -> None:
    sup = supervisor(kind)
    child = puppet(1)
    kind.adopt(sup, child.pid, pa.child(receive_for_ever, id="raw"))
    watch = child.watch()
    pa.exit(sup, "kill")
    assert "killed" == child.reason_of(watch)


def test_one_that_has_moved_is_adopted(node: pa.ActorSystem) -> None:
    """And one that moves afterwards has the same parent."""
    pid = pa.options(worker=0).start(Told, pa.self_(), True)
    pa.migrate(pid, 1, WAIT)
    sup = supervisor(pa.Supervisor, 0)
    pa.Supervisor.adopt(sup, pid, pa.child(Told, pa.self_(), id="told"))
    for worker in (0, 1):
        pa.migrate(pid, worker, WAIT)
        assert sup == pa.process_info(pid, "parent")
    pa.stop(sup, "shutdown")
    assert ("down", pid, "shutdown") == pa.receive(("down", pid, pa.ANY), timeout=WAIT)


@KINDS
def test_what_cannot_be_adopted(node: pa.ActorSystem, kind: Any) -> None:
    other = supervisor(pa.DynamicSupervisor, 1)
    top = supervisor(pa.DynamicSupervisor)
    sup = pa.DynamicSupervisor.start_child(top, pa.child(kind, worker=0))
    assert sup is not None
    spec = pa.child(receive_for_ever, id="raw")
    dead = puppet(1)
    dead.end("normal")
    theirs = pa.DynamicSupervisor.start_child(other, spec)
    mine = puppet(1).pid
    kind.adopt(sup, mine, spec)
    again = pa.child(receive_for_ever, id="again")
    for pid, reason in ((dead.pid, "noproc"), (theirs, "already_supervised"), (mine, "already_supervised")):
        with pytest.raises(pa.ChildError) as caught:
            kind.adopt(sup, pid, again)
        assert (reason, pid) == (caught.value.reason, caught.value.target)
    named = puppet(0, name="somebody").pid
    bad: list[tuple[Any, type[Exception], str]] = [
        (pa.self_(), ValueError, "a thread of the program"),
        (sup, ValueError, "other than the supervisor itself"),
        (top, ValueError, "and its ancestors"),
        (named, ValueError, "expected child\\(name='somebody'\\)"),
        ("nobody", pa.NotRegistered, "expected a registered name, got 'nobody'"),
        (3, TypeError, "expected the Pid of a process to adopt, got 3"),
    ]
    for pid, error, text in bad:
        with pytest.raises(error, match=text):
            kind.adopt(sup, pid, again)
    assert [mine] == [child.pid for child in kind.which_children(sup)]
    assert [] == pa.process_info(named, "links")
    assert named == kind.adopt(sup, "somebody", pa.child(receive_for_ever, name="somebody"))
    assert 2 == kind.count_children(sup)["active"]
    if kind is pa.Supervisor:
        with pytest.raises(pa.ChildError, match="is running"):
            kind.adopt(sup, puppet(0).pid, spec)


def test_of_two_supervisors_one_adopts(node: pa.ActorSystem) -> None:
    """However they are interleaved."""
    for _ in range(20):
        sups = [supervisor(pa.DynamicSupervisor, worker) for worker in (0, 1)]
        pid = puppet(1).pid
        tasks = [pa.Task.async_(try_to_adopt, sup, pid) for sup in sups]
        assert {pid, "already_supervised"} == {task.await_(WAIT) for task in tasks}
        children = [child.pid for sup in sups for child in pa.DynamicSupervisor.which_children(sup)]
        assert [pid] == children


def try_to_adopt(sup: pa.Pid, pid: pa.Pid) -> Any:
    try:
        return pa.DynamicSupervisor.adopt(sup, pid, pa.child(receive_for_ever, id="raw"))
    except pa.ChildError as error:
        return error.reason


def test_one_that_has_not_begun_is_adopted(node: pa.ActorSystem, tmp_path: Path) -> None:
    """What its spawner has sent with it says who that was, and is looked at when it begins."""
    sup = supervisor(pa.Supervisor, 0)
    hog = puppet(1)
    hog.tell(sit, tmp_path / "go on")
    eventually(lambda: (tmp_path / "go on.begun").exists(), "nobody else has a turn there")
    pid = pa.options(worker=1, stealable=False).spawn(receive_for_ever)
    pa.Supervisor.adopt(sup, pid, pa.child(receive_for_ever, id="raw"))
    (tmp_path / "go on").touch()
    eventually(lambda: pa.process_info(pid, "status") == "waiting", "it has begun")
    assert [sup, pa.self_()] == pa.process_info(pid, "ancestors")


def sit(until: Path) -> None:
    """Keep the worker to oneself until there is such a file."""
    with pa.no_preempt():
        until.with_suffix(".begun").touch()
        while not until.exists():
            pass


def test_a_crowd_that_is_full_adopts_nobody(node: pa.ActorSystem) -> None:
    sup = supervisor(pa.DynamicSupervisor, max_children=0)
    with pytest.raises(pa.ChildError, match="the most allowed"):
        pa.DynamicSupervisor.adopt(sup, puppet(0).pid, pa.child(receive_for_ever, id="raw"))


def test_an_adopted_child_whose_worker_dies_is_started_elsewhere(actor_system: pa.ActorSystem) -> None:
    sup = supervisor(pa.Supervisor, 0)
    pid = pa.options(worker=1).start(Told, pa.self_())
    up()
    pa.Supervisor.adopt(sup, pid, pa.child(Told, pa.self_(), id="told"))
    os.kill(puppet(1).do(os.getpid), signal.SIGKILL)
    assert pid != up()
    pa.stop(sup, "shutdown")
