"""Supervisors: what is started, restarted and stopped, in which order, and what is refused (S8.1 to S8.4, S8.7)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from parallel_actors import dynamic_supervisor
from parallel_actors import supervisor as supervisor_module
from parallel_actors.supervisor import check_end
from parallel_actors.workers import api
from puppets import WAIT, mail, park, puppet

np: Any = pytest.importorskip("numpy")

SHUT = pa.Shutdown("told")
ORDERLY = ["normal", "shutdown", SHUT]
ABNORMAL = ["boom", "raise", "kill"]


class Kid(pa.GenServer):
    """Tells `asker` when it is up and down."""

    def init(self, asker: pa.Pid, name: str, mode: str = "ok") -> Any:
        if mode == "fail":
            raise ValueError(f"{name} fails")
        if mode == "ignore":
            return pa.IGNORE
        if mode == "stop":
            return pa.Stop("no")
        pa.send(asker, ("up", name, pa.self_(), time.monotonic_ns()))
        return asker, name

    def handle_cast(self, request: Any, state: Any) -> Any:
        if request == "raise":
            raise ValueError("told to")
        return pa.Stop(request)

    def terminate(self, reason: Any, state: Any) -> None:
        why = reason if isinstance(reason, str | pa.Shutdown) else "crash"
        pa.send(state[0], ("down", state[1], why, time.monotonic_ns()))


class Stubborn(Kid):
    """Doesn't end when it is asked to."""

    def terminate(self, reason: Any, state: Any) -> None:
        super().terminate(reason, state)
        park()


@pytest.fixture
def me(node: pa.ActorSystem) -> Iterator[pa.Pid]:
    """The test's own process, which outlives its supervisors."""
    pa.trap_exit(True)
    yield pa.self_()
    pa.trap_exit(False)


def kid(name: str, /, *more: Any, target: Any = Kid, **choices: Any) -> pa.ChildSpec:
    return pa.child(target, pa.self_(), name, *more, id=name, **choices)


def end(pid: pa.Pid, how: Any) -> None:
    if how == "kill":
        pa.exit(pid, "kill")
    else:
        pa.cast(pid, how)


def next_events(count: int) -> list[tuple[str, str]]:
    """The next words of kids, ("up" or "down", name), in the order in which they were said.

    They come in another: of messages from several senders, on several workers, nothing is promised.
    """
    said = [pa.receive((str, str, pa.ANY, int), timeout=WAIT) for _ in range(count)]
    return [word[:2] for word in sorted(said, key=lambda word: word[3])]


def up(name: str) -> pa.Pid:
    pid: pa.Pid = pa.receive(("up", name, pa.Pid, int), timeout=WAIT)[2]
    return pid


def down(name: str) -> Any:
    """The reason that it told."""
    return pa.receive(("down", name, pa.ANY, int), timeout=WAIT)[2]


def pids(supervisor: pa.Pid) -> dict[Any, pa.Pid | None]:
    return {info.id: info.pid for info in pa.Supervisor.which_children(supervisor)}


def start(*children: Any, **choices: Any) -> pa.Pid:
    return pa.Supervisor.start_link(children, **choices)


def ended(supervisor: pa.Pid) -> Any:
    """The reason with which it ends."""
    return pa.receive(pa.Exit(supervisor, pa.ANY), timeout=WAIT).reason


# --- start and stop ---------------------------------------------------------------------------------------------------


@contract("S8.3")
def test_children_start_in_order_and_stop_in_reverse(me: pa.Pid) -> None:
    supervisor = start(kid("a"), kid("b"), kid("c"))
    assert next_events(3) == [("up", "a"), ("up", "b"), ("up", "c")]
    assert list(pids(supervisor)) == ["a", "b", "c"]
    pa.exit(supervisor, "shutdown")
    assert next_events(3) == [("down", name) for name in "cba"]
    assert ended(supervisor) == "shutdown"
    assert mail() == []


@contract("S8.3")
def test_children_spread_over_the_workers(me: pa.Pid) -> None:
    # So many that an old figure of what a worker holds, from the test before, doesn't matter.
    supervisor = start(*(kid(str(number)) for number in range(40)))
    assert {pid.worker for pid in pids(supervisor).values() if pid} == {0, 1}


@contract("S8.3", "S6.2", partly=True)
@pytest.mark.parametrize(("mode", "reason"), [("fail", "ValueError"), ("stop", "no")])
def test_a_failed_start_stops_those_already_started(me: pa.Pid, mode: str, reason: str) -> None:
    with pytest.raises(pa.StartError) as caught:
        start(kid("a"), kid("b"), kid("c", mode), kid("d"))
    assert next_events(4) == [("up", "a"), ("up", "b"), ("down", "b"), ("down", "a")]
    assert isinstance(caught.value.reason, pa.Shutdown)
    what, name, why = caught.value.reason.term
    assert (what, name) == ("failed_to_start_child", "c")
    assert getattr(why, "type", why) == reason
    assert mail() == []


@contract("S8.3", partly=True)
def test_a_child_that_ignores_its_start_is_kept_without_a_process(me: pa.Pid) -> None:
    supervisor = start(kid("a", "ignore"), kid("b", "ignore", restart="temporary"), kid("c"))
    up("c")
    assert [(info.id, info.pid is None) for info in pa.Supervisor.which_children(supervisor)] == [
        ("a", True),
        ("c", False),
    ]
    assert pa.Supervisor.restart_child(supervisor, "a") is None


@contract("S8.1", "S8.3", partly=True)
def test_a_brutal_kill_gives_no_time(me: pa.Pid) -> None:
    supervisor = start(kid("a", shutdown="brutal_kill"), kid("b"))
    next_events(2)
    pa.stop(supervisor, "shutdown")
    assert next_events(1) == [("down", "b")]
    assert ended(supervisor) == "shutdown"
    assert mail() == []


@contract("S8.1", "S8.3", partly=True)
def test_who_ignores_the_shutdown_is_killed_after_its_time(me: pa.Pid) -> None:
    supervisor = start(kid("a", target=Stubborn, shutdown=0.05), kid("b", target=Stubborn, shutdown=0))
    stubborn = [up(name) for name in "ab"]
    pa.stop(supervisor, "shutdown", timeout=WAIT)
    assert not any(pa.is_alive(pid) for pid in stubborn)


def stand_alone(asker: pa.Pid) -> None:
    pa.send(asker, ("up", "raw", pa.self_(), 0))
    park()


@contract("S8.1", partly=True)
def test_a_function_is_a_raw_process(me: pa.Pid) -> None:
    supervisor = start(pa.child(stand_alone, me, name="raw"))
    first = up("raw")
    assert pa.whereis("raw") == first
    pa.exit(first, "kill")
    second = up("raw")
    assert pids(supervisor) == {"raw": second}


class Named(Kid):
    @classmethod
    def child_spec(cls, asker: pa.Pid) -> pa.ChildSpec:
        return pa.child(cls, asker, "named", id="own", restart="transient")


@contract("S8.1")
def test_what_a_list_of_children_may_hold(me: pa.Pid) -> None:
    supervisor = start(pa.GenServer, (Kid, me, "k"), (Named, me))
    assert list(pids(supervisor)) == ["GenServer", "Kid", "own"]
    assert pa.Supervisor.get_childspec(supervisor, "own").restart == "transient"
    pid = pids(supervisor)["Kid"]
    assert pa.Supervisor.get_childspec(supervisor, pid).id == "Kid"


class Mine(pa.Supervisor):
    def init(self, asker: pa.Pid, count: int) -> Any:
        return self.supervise(
            [pa.child(Kid, asker, str(n), id=n) for n in range(count)], strategy="one_for_all", max_restarts=count
        )


@contract("S8.1", "S8.2", partly=True)
def test_a_class_of_ones_own(me: pa.Pid) -> None:
    outer = start(pa.child(Mine, me, 2, name="mine"))
    assert next_events(2) == [("up", "0"), ("up", "1")]
    assert pa.Supervisor.count_children(outer) == {"specs": 1, "active": 1, "supervisors": 1, "workers": 0}
    assert pa.Supervisor.get_childspec(outer, "mine").shutdown == "infinity"
    inner = pa.whereis("mine")
    assert inner is not None
    end(pids(inner)[1], "boom")  # type: ignore[arg-type]
    assert next_events(4) == [("down", "1"), ("down", "0"), ("up", "0"), ("up", "1")]


# --- restart ----------------------------------------------------------------------------------------------------------


@contract("S8.1", "S8.2")
@pytest.mark.parametrize("how", [*ORDERLY, *ABNORMAL], ids=str)
@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
def test_who_is_restarted(me: pa.Pid, restart: Any, how: Any) -> None:
    supervisor = start(kid("a", restart=restart), kid("b"))
    first, other = up("a"), up("b")
    end(first, how)
    if restart == "permanent" or (restart == "transient" and how in ABNORMAL):
        second = up("a")
        assert second != first
        assert pids(supervisor) == {"a": second, "b": other}
    elif restart == "transient":
        eventually(lambda: pids(supervisor) == {"a": None, "b": other}, "it has ended, and is known")
    else:
        eventually(lambda: pids(supervisor) == {"b": other}, "it is forgotten")
    assert pa.is_alive(supervisor)


@contract("S8.2")
@pytest.mark.parametrize("how", ABNORMAL)
@pytest.mark.parametrize(
    ("strategy", "downs", "ups"),
    [("one_for_one", "", "b"), ("rest_for_one", "dc", "bcd"), ("one_for_all", "dca", "abcd")],
)
def test_who_is_restarted_with_it(me: pa.Pid, strategy: Any, downs: str, ups: str, how: str) -> None:
    supervisor = start(*map(kid, "abcd"), strategy=strategy)
    before = {name: up(name) for name in "abcd"}
    end(before["b"], how)
    expected = [("down", "b")] if how != "kill" else []
    expected += [("down", name) for name in downs] + [("up", name) for name in ups]
    assert next_events(len(expected)) == expected
    after = pids(supervisor)
    assert list(after) == list("abcd")
    assert {name for name in "abcd" if after[name] != before[name]} == set(ups)


@contract("S8.2")
@pytest.mark.parametrize(("strategy", "left"), [("one_for_all", "cd"), ("rest_for_one", "acd")])
def test_temporary_siblings_are_stopped_and_forgotten(me: pa.Pid, strategy: Any, left: str) -> None:
    specs = [kid("a", restart="temporary"), kid("b", restart="temporary"), kid("c"), kid("d", restart="transient")]
    supervisor = start(specs[1], specs[2], specs[3], strategy=strategy)
    if strategy == "rest_for_one":
        pa.exit(supervisor, "shutdown")
        assert ended(supervisor) == "shutdown"
        mail()
        supervisor = start(specs[0], specs[2], specs[1], specs[3], strategy=strategy)
    eventually(lambda: all(pids(supervisor).values()), "they are up")
    end(pids(supervisor)["c"], "boom")  # type: ignore[arg-type]
    eventually(lambda: "".join(pids(supervisor)) == left and all(pids(supervisor).values()), "who is left is up")


@contract("S8.2")
@pytest.mark.parametrize("most", [0, 1, 3])
def test_more_restarts_than_allowed_end_the_supervisor(me: pa.Pid, most: int) -> None:
    supervisor = start(kid("a"), kid("b"), kid("c"), max_restarts=most, max_seconds=60)
    next_events(3)
    for _ in range(most):
        end(pids(supervisor)["b"], "boom")  # type: ignore[arg-type]
        assert next_events(2) == [("down", "b"), ("up", "b")]
    end(pids(supervisor)["b"], "boom")  # type: ignore[arg-type]
    assert next_events(3) == [("down", "b"), ("down", "c"), ("down", "a")]
    assert ended(supervisor) == "shutdown"


@contract("S8.2", partly=True)
def test_old_restarts_are_forgotten(me: pa.Pid) -> None:
    supervisor = start(kid("a"), max_restarts=1, max_seconds=0.05)
    for _ in range(4):
        pid = up("a")
        ticks = pa.send_after(0.06, me, "later")
        assert pa.receive("later", timeout=WAIT) == "later", ticks
        end(pid, "boom")
        assert down("a") == "boom"
    up("a")
    assert pa.is_alive(supervisor)


class Flaky(Kid):
    """Fails to start while there is a file."""

    def init(self, asker: pa.Pid, name: str, mode: str = "") -> Any:
        pa.send(asker, ("try", name))
        if os.path.exists(mode):
            raise ValueError("not yet")
        return super().init(asker, name)


@contract("S8.2")
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
@pytest.mark.parametrize("heals", [True, False])
def test_a_restart_that_fails_is_tried_again_and_counts(me: pa.Pid, tmp_path: Any, strategy: Any, heals: bool) -> None:
    path = tmp_path / "not yet"
    supervisor = start(
        kid("a"), kid("b", str(path), target=Flaky), kid("c"), strategy=strategy, max_restarts=10**6 if heals else 5
    )
    pa.receive(("try", "b"), timeout=WAIT)
    first = up("b")
    path.touch()
    end(first, "boom")
    for _ in range(2):
        pa.receive(("try", "b"), timeout=WAIT)
    if heals:
        path.unlink()
        up("b")
        eventually(lambda: all(pids(supervisor).values()), "all of them are up again")
    else:
        for _ in range(3):
            pa.receive(("try", "b"), timeout=WAIT)
        assert ended(supervisor) == "shutdown"


@contract("S8.2")
def test_a_restart_may_wait(me: pa.Pid) -> None:
    backoff = pa.Backoff(first=0.01, factor=2.0, limit=0.02, jitter=0.5)
    supervisor = start(kid("a"), kid("b"), strategy="one_for_all", max_restarts=9, backoff=backoff)
    next_events(2)
    for _ in range(3):
        end(pids(supervisor)["a"], "boom")  # type: ignore[arg-type]
        assert next_events(4) == [("down", "a"), ("down", "b"), ("up", "a"), ("up", "b")]
    delays = [backoff.delay(attempt) for attempt in (1, 2, 1000, 10**9)]
    assert all(0.005 <= delay <= 0.03 for delay in delays)


@contract("S8.2", "S8.3", partly=True)
def test_a_delayed_restart_can_be_called_off(me: pa.Pid) -> None:
    supervisor = start(kid("a"), backoff=pa.Backoff(first=60, limit=60))
    end(up("a"), "boom")
    eventually(lambda: [info.restarting for info in pa.Supervisor.which_children(supervisor)] == [True], "it waits")
    with pytest.raises(pa.ChildError, match="being restarted") as caught:
        pa.Supervisor.restart_child(supervisor, "a")
    assert caught.value.reason == "restarting"
    pa.Supervisor.terminate_child(supervisor, "a")
    assert [info.restarting for info in pa.Supervisor.which_children(supervisor)] == [False]
    assert pa.Supervisor.restart_child(supervisor, "a") == up("a")


@contract("S8.2")
def test_failure_escalates_through_three_levels(me: pa.Pid) -> None:
    lowest = pa.child(pa.Supervisor, [kid("leaf")], max_restarts=1, max_seconds=60, id="lowest")
    middle = pa.child(pa.Supervisor, [lowest], max_restarts=1, max_seconds=60, id="middle")
    top = start(middle, max_restarts=1, max_seconds=60)
    # Each level allows one restart: 2 * 2 * 2 ends of the leaf.
    for _ in range(8):
        end(up("leaf"), "boom")
    assert ended(top) == "shutdown"
    assert [word for word in mail() if isinstance(word, tuple) and word[0] == "up"] == []


# --- significant children ---------------------------------------------------------------------------------------------


@contract("S8.2")
@pytest.mark.parametrize("how", ["normal", "shutdown", "boom", "kill"])
@pytest.mark.parametrize("restart", ["transient", "temporary"])
@pytest.mark.parametrize("auto", ["any_significant", "all_significant"])
def test_auto_shutdown(me: pa.Pid, auto: Any, restart: Any, how: str) -> None:
    supervisor = start(
        kid("a", restart=restart, significant=True),
        kid("b", restart=restart, significant=True),
        kid("c"),
        auto_shutdown=auto,
    )
    first, second, third = (up(name) for name in "abc")
    end(first, how)
    if restart == "transient" and how in ("boom", "kill"):
        up("a")
        assert pa.is_alive(supervisor)
        return
    if auto == "all_significant":
        eventually(lambda: pids(supervisor).get("a") is None, "a is known to have ended")
        assert pa.is_alive(second)
        end(second, how)
    assert ended(supervisor) == "shutdown"
    assert not pa.is_alive(third)


@contract("S8.2", partly=True)
@pytest.mark.parametrize("auto", ["never", "any_significant"])
def test_the_end_of_others_never_ends_the_supervisor(me: pa.Pid, auto: Any) -> None:
    supervisor = start(kid("a", restart="temporary"), auto_shutdown=auto)
    end(up("a"), "normal")
    eventually(lambda: pids(supervisor) == {}, "it is forgotten")
    assert pa.is_alive(supervisor)


# --- requests ---------------------------------------------------------------------------------------------------------


@contract("S8.3")
def test_children_at_run_time(me: pa.Pid) -> None:
    supervisor = start()
    assert pa.Supervisor.count_children(supervisor) == {"specs": 0, "active": 0, "supervisors": 0, "workers": 0}
    first = pa.Supervisor.start_child(supervisor, kid("a"))
    assert first == up("a")
    with pytest.raises(pa.ChildError) as caught:
        pa.Supervisor.start_child(supervisor, kid("a"))
    assert (caught.value.reason, caught.value.target) == ("already_started", first)
    for refused in (pa.Supervisor.restart_child, pa.Supervisor.delete_child):
        with pytest.raises(pa.ChildError) as caught:
            refused(supervisor, "a")
        assert caught.value.reason == "running"
    pa.Supervisor.terminate_child(supervisor, "a")
    assert pids(supervisor) == {"a": None}
    with pytest.raises(pa.ChildError) as caught:
        pa.Supervisor.start_child(supervisor, kid("a"))
    assert caught.value.reason == "already_present"
    second = pa.Supervisor.restart_child(supervisor, "a")
    assert second is not None
    assert second != first
    pa.Supervisor.terminate_child(supervisor, "a")
    pa.Supervisor.delete_child(supervisor, "a")
    assert pids(supervisor) == {}
    for missing in (pa.Supervisor.restart_child, pa.Supervisor.delete_child, pa.Supervisor.terminate_child):
        with pytest.raises(pa.ChildError) as caught:
            missing(supervisor, "a")
        assert caught.value.reason == "not_found"


@contract("S8.3", partly=True)
@pytest.mark.parametrize("mode", ["fail", "stop"])
def test_a_child_that_cannot_be_started_is_not_kept(me: pa.Pid, mode: str) -> None:
    supervisor = start()
    with pytest.raises(pa.StartError):
        pa.Supervisor.start_child(supervisor, kid("a", mode))
    assert pids(supervisor) == {}
    taken = pa.spawn(park)
    pa.register("taken", taken)
    with pytest.raises(pa.StartError) as caught:
        pa.Supervisor.start_child(supervisor, kid("b", name="taken"))
    assert caught.value.reason == ("already_started", taken)
    assert pa.is_alive(supervisor)


anything: Any = pa.child  # for arguments that no type checker lets pass
LIST: Any = [1]


@contract("S8.1", "S10.1", partly=True)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: anything(5), "target to be a class, a module or a function, got 5"),
        (lambda: anything(Kid, restart="always"), "restart to be one of permanent, transient, temporary, got 'always'"),
        (lambda: anything(Kid, shutdown=-1), "shutdown to be a number of seconds"),
        (lambda: anything(Kid, shutdown="soon"), "shutdown to be a number of seconds"),
        (lambda: anything(Kid, shutdown=True), "shutdown to be a number of seconds"),
        (lambda: anything(Kid, type="actor"), "type to be one of worker, supervisor, got 'actor'"),
        (lambda: anything(Kid, significant=True), "significant child to be transient or temporary"),
        (lambda: anything(Kid, name=5), "name to be a str or a via name, got 5"),
        (lambda: anything(Kid, worker=-1), "worker to be the number of a worker"),
        (lambda: start(Kid, Kid), "each child to have an id of its own, got 'Kid' twice"),
        (lambda: start(5), "a child to be a child(...), a class or a (class, argument), got 5"),
        (lambda: start(strategy="all"), "strategy to be one of one_for_one, one_for_all, rest_for_one, got 'all'"),
        (lambda: start(auto_shutdown=True), "auto_shutdown to be one of"),
        (lambda: start(max_restarts=-1), "max_restarts to be a whole number from 0, got -1"),
        (lambda: start(max_seconds=0), "max_seconds to be a number of seconds above 0, got 0"),
        (lambda: start(backoff=1.0), "backoff to be a Backoff or None, got 1.0"),
        (lambda: start(anything(Kid, restart="temporary", significant=True)), "is significant: expected auto_shutdown"),
        (lambda: pa.Backoff(first=2, limit=1), "expected 0 <= first <= limit"),
        (lambda: pa.DynamicSupervisor.start_link(max_children=-1), "max_children to be a whole number or None, got -1"),
        (lambda: pa.DynamicSupervisor.start_link(extra_arguments=LIST), "extra_arguments to be a tuple"),
        (lambda: pa.PartitionSupervisor.start_link(Kid, name="p", partitions=0), "partitions to be a whole number"),
        (lambda: pa.PartitionSupervisor.start_link(anything(Kid, name="k"), name="p"), "to have no name, got 'k'"),
    ],
)
def test_what_does_not_fit_is_refused_where_it_stands(me: pa.Pid, make: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert words in str(caught.value)
    assert mail() == []


@contract("S8.3", "S10.1", partly=True)
def test_a_supervisor_takes_no_harm_from_what_it_does_not_know(me: pa.Pid) -> None:
    supervisor = start(kid("a"))
    with pytest.raises(pa.ChildError, match="expected a request to a supervisor, got 'what'"):
        raise pa.call(supervisor, "what")[1]
    pa.cast(supervisor, "what")
    pa.send(supervisor, "what")
    assert list(pids(supervisor)) == ["a"]


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError("no words")


def end_otherwise(asker: pa.Pid, name: str) -> None:
    """A raw process that ends with an array, when it is told to end."""
    pa.trap_exit(True)
    pa.send(asker, ("up", name, pa.self_(), 0))
    pa.receive(pa.Exit)
    raise pa.ProcessExit(np.array([1, 2]))


@contract("S8.3", "S1.7", partly=True)
def test_reasons_that_are_not_plain_harm_no_supervisor(me: pa.Pid) -> None:
    """Found: it compared a reason before it knew what it was, and took its repr()."""
    supervisor = start(kid("a"), kid("b", target=end_otherwise, restart="temporary"), kid("c"))
    for name in "abc":
        up(name)
    pa.Supervisor.terminate_child(supervisor, "b")
    assert list(pids(supervisor)) == ["a", "c"]
    pa.exit(pids(supervisor)["a"], Unspeakable())  # type: ignore[arg-type]
    up("a")
    pa.Supervisor.start_child(supervisor, kid("d", target=end_otherwise))
    pa.stop(supervisor, "shutdown", timeout=WAIT)
    assert ended(supervisor) == "shutdown"


@contract("S8.3", "S10.1", partly=True)
def test_stray_messages_harm_no_supervisor(me: pa.Pid) -> None:
    strays: list[Any] = [(np.array([1, 2]), 1), (np.array([1, 2]), 1, 2), ("$restart", []), ("$restart", 1)]
    for supervisor in (start(kid("a")), pa.DynamicSupervisor.start_link()):
        for stray in strays:
            pa.send(supervisor, stray)
        assert pa.Supervisor.count_children(supervisor)["active"] <= 1


@contract("S8.3", partly=True)
def test_a_child_that_tells_its_end_too_early_is_stopped(me: pa.Pid) -> None:
    """Found: an exit signal that it had sent was taken for its end, and it lived on alone."""
    supervisor = pa.DynamicSupervisor.start_link()
    pid = pa.DynamicSupervisor.start_child(supervisor, kid("a"))
    assert pid is not None
    pa.sys_.suspend(supervisor)
    pa.sys_.replace_state(supervisor, tell_an_end)
    pa.sys_.resume(supervisor)
    pa.stop(supervisor, "shutdown", timeout=WAIT)
    eventually(lambda: not pa.is_alive(pid), "it is stopped")


def tell_an_end(state: Any) -> Any:
    for pid in state.children:
        pa.send(pa.self_(), pa.Exit(pid, "a lie"))
        state.children = dict(state.children)
    return state


# --- deaths -----------------------------------------------------------------------------------------------------------


@contract("S8.7")
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all"])
def test_the_death_of_a_worker_counts_once(actor_system: pa.ActorSystem, strategy: Any) -> None:
    pa.trap_exit(True)
    specs = [pa.child(Kid, pa.self_(), str(n), id=n, worker=1) for n in range(20)]
    supervisor = pa.options(worker=0).start_link(pa.Supervisor, specs, strategy=strategy, max_restarts=1)
    assert supervisor is not None
    before = pids(supervisor)
    for expected in (True, False):
        os.kill(actor_system.worker_pids[1], signal.SIGKILL)
        if not expected:
            break
        eventually(
            lambda: (
                pa.is_alive(supervisor)
                and all(pid and pid != before[n] and pa.is_alive(pid) for n, pid in pids(supervisor).items())
            ),
            "all of them are up again, elsewhere or on the new worker",
        )
    assert ended(supervisor) == "shutdown"  # the second one was one too many


@contract("S8.7")
def test_who_goes_down_with_a_worker_by_a_link_counts_with_it(actor_system: pa.ActorSystem) -> None:
    """Found: those elsewhere, linked to one that lived there, counted once more."""
    pa.trap_exit(True)
    specs = [pa.child(Kid, pa.self_(), "there", worker=1)]
    specs += [pa.child(link_and_park, pa.self_(), id=n, worker=0) for n in range(3)]
    supervisor = pa.options(worker=0).start_link(pa.Supervisor, specs, max_restarts=1, max_seconds=60)
    first = up("there")
    for _ in range(3):
        pa.send(pa.receive(("link", pa.Pid), timeout=WAIT)[1], first)
        assert pa.receive("linked", timeout=WAIT) == "linked"
    os.kill(actor_system.worker_pids[1], signal.SIGKILL)
    up("there")
    for _ in range(3):
        assert pa.receive(("link", pa.Pid), timeout=WAIT)
    assert pa.is_alive(supervisor)


def link_and_park(asker: pa.Pid) -> None:
    pa.send(asker, ("link", pa.self_()))
    pa.link(pa.receive(pa.Pid))
    pa.send(asker, "linked")
    park()


@pytest.mark.parametrize("kind", ["supervisor", "dynamic"])
def test_a_stop_of_the_system_restarts_nobody(no_leaks: None, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    """Each worker stops its processes by itself: a supervisor sees children of others end before it is told to."""
    with pa.ActorSystem(workers=2, stop_timeout=60.0) as system:
        far = pa.child(pa.GenServer, "state", worker=1)
        if kind == "supervisor":
            pa.options(worker=0).start_link(pa.Supervisor, [far])
        else:
            pa.DynamicSupervisor.start_child(pa.options(worker=0).start_link(pa.DynamicSupervisor), far)
        first, second = (psutil.Process(os_pid) for os_pid in system.worker_pids)
        first.suspend()

        def go_on() -> None:
            second.wait()
            first.resume()

        waiting = threading.Thread(target=go_on)  # calls nothing of the library, so it is no process of it
        waiting.start()
    waiting.join()
    assert "child_terminated" not in capfd.readouterr().err


@contract("S9.2", "S8.3", partly=True)
def test_the_worker_of_a_supervisor_dies(actor_system: pa.ActorSystem) -> None:
    pa.trap_exit(True)
    inner = pa.child(pa.Supervisor, [pa.child(Kid, pa.self_(), "kid", worker=0)], id="inner", worker=1)
    outer = pa.options(worker=0).start_link(pa.Supervisor, [inner])
    assert outer is not None
    first, supervisor = up("kid"), pids(outer)["inner"]
    assert supervisor is not None
    os.kill(actor_system.worker_pids[1], signal.SIGKILL)
    second = up("kid")
    assert second != first
    eventually(lambda: not pa.is_alive(first), "nobody is left without a supervisor")
    eventually(lambda: pids(outer)["inner"] not in (None, supervisor), "it was restarted")


@contract("S6.6", "S8.3", partly=True)
def test_a_killed_supervisor_takes_its_children_along(me: pa.Pid) -> None:
    supervisor = start(kid("a"), kid("b"))
    children = [up("a"), up("b")]
    pa.exit(supervisor, "kill")
    assert ended(supervisor) == "killed"
    eventually(lambda: not any(pa.is_alive(pid) for pid in children), "they are linked to it")


@contract("S8.3", "S9.5", partly=True)
def test_the_stop_of_a_system_stops_the_tree() -> None:
    with pa.ActorSystem(workers=2) as system:
        pa.trap_exit(True)
        start(*map(kid, "abc"))
        workers = system.worker_pids
    assert not any(psutil.pid_exists(pid) for pid in workers)


# --- DynamicSupervisor ------------------------------------------------------------------------------------------------


@contract("S8.4", partly=True)
@pytest.mark.parametrize("how", ["normal", "boom", "kill"])
@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
def test_dynamic_children_are_restarted_each_for_itself(me: pa.Pid, restart: Any, how: str) -> None:
    supervisor = pa.DynamicSupervisor.start_link(extra_arguments=(me,))
    spec = pa.child(Kid, "a", restart=restart)
    first, other = (pa.DynamicSupervisor.start_child(supervisor, spec) for _ in range(2))
    assert first is not None
    assert {up("a"), up("a")} == {first, other}
    end(first, how)
    if restart == "permanent" or (restart == "transient" and how != "normal"):
        again = up("a")
        assert {info.pid for info in pa.DynamicSupervisor.which_children(supervisor)} == {again, other}
    else:
        eventually(
            lambda: [info.pid for info in pa.DynamicSupervisor.which_children(supervisor)] == [other], "it is forgotten"
        )


@contract("S8.4", partly=True)
def test_dynamic_children_are_counted_and_limited(me: pa.Pid) -> None:
    supervisor = pa.DynamicSupervisor.start_link(max_children=2)
    first = pa.DynamicSupervisor.start_child(supervisor, kid("a"))
    assert pa.DynamicSupervisor.start_child(supervisor, kid("b", "ignore")) is None
    pa.DynamicSupervisor.start_child(supervisor, pa.child(pa.Supervisor))
    assert pa.DynamicSupervisor.count_children(supervisor) == {
        "specs": 2,
        "active": 2,
        "supervisors": 1,
        "workers": 1,
    }
    with pytest.raises(pa.ChildError) as caught:
        pa.DynamicSupervisor.start_child(supervisor, kid("c"))
    assert caught.value.reason == "max_children"
    assert first is not None
    pa.DynamicSupervisor.terminate_child(supervisor, first)
    assert not pa.is_alive(first)
    with pytest.raises(pa.ChildError) as caught:
        pa.DynamicSupervisor.terminate_child(supervisor, first)
    assert caught.value.reason == "not_found"
    with pytest.raises(pa.StartError):
        pa.DynamicSupervisor.start_child(supervisor, kid("c", "fail"))
    assert pa.DynamicSupervisor.start_child(supervisor, kid("c")) is not None


@contract("S8.2", "S8.4", partly=True)
def test_a_dynamic_supervisor_gives_up_too(me: pa.Pid) -> None:
    supervisor = pa.DynamicSupervisor.start_link(max_restarts=1, max_seconds=60)
    for name in "ab":
        pa.DynamicSupervisor.start_child(supervisor, kid(name))
    end(up("a"), "boom")
    end(up("a"), "boom")
    assert ended(supervisor) == "shutdown"
    assert not pa.is_alive(up("b"))


@contract("S8.4", partly=True)
def test_many_dynamic_children_stop_at_once(me: pa.Pid) -> None:
    supervisor = pa.DynamicSupervisor.start_link()
    for n in range(50):
        # One after the other, they would take 50 times as long as the longest, and longer than the test has.
        pa.DynamicSupervisor.start_child(supervisor, kid(str(n), target=Stubborn, shutdown=1.0))
    pa.stop(supervisor, "shutdown", timeout=WAIT)
    assert ended(supervisor) == "shutdown"


class Counted:
    """The engine, as a supervisor sees it: notes the operations it asks for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name != "self_":  # of its reports
            self.asked.append(name)
        return getattr(api, name)


class Many(pa.DynamicSupervisor):
    """Starts children by the thousand, and tells which operations it needed to stop them."""

    def init(self, asker: pa.Pid) -> Any:
        self.asker = asker
        return self.supervise()

    def do_start_many(self, crowd: Any, count: int, specs: list[pa.ChildSpec]) -> list[pa.Pid | None]:
        return [self.do_start_child(crowd, specs[n % len(specs)]) for n in range(count)]

    def terminate(self, reason: Any, state: Any) -> None:
        counted = Counted()
        with pytest.MonkeyPatch.context() as patch:
            for module in (supervisor_module, dynamic_supervisor):
                patch.setattr(module, "api", counted)
            super().terminate(reason, state)
        pa.send(self.asker, ("asked", counted.asked))


@contract("S8.4", partly=True)
@pytest.mark.parametrize("count", [10, 10_000])
def test_thousands_of_children_are_stopped_by_one_operation(me: pa.Pid, count: int) -> None:
    """Found: it took four for each, one of them a look through all that had ended: 10,000 took seconds."""
    supervisor = pa.start_link(Many, me)
    assert supervisor is not None
    specs = [pa.child(pa.GenServer), pa.child(pa.GenServer, shutdown="brutal_kill"), pa.child(park)]
    children = supervisor_module.ask(supervisor, "start_many", count, specs)
    stubborn = pa.DynamicSupervisor.start_child(supervisor, kid("a", target=Stubborn, shutdown=0.05))
    assert stubborn is not None
    assert {pid.worker for pid in children} == {0, 1}
    pa.stop(supervisor, "shutdown", timeout=None)
    assert ended(supervisor) == "shutdown"
    assert pa.receive(("asked", list), timeout=WAIT) == ("asked", ["stop_all"])
    assert pa.processes() == [me]


# --- PartitionSupervisor ----------------------------------------------------------------------------------------------


@contract("S8.4", partly=True)
def test_partitions_are_found_by_key(me: pa.Pid) -> None:
    supervisor = pa.PartitionSupervisor.start_link(
        (Kid, me, "part"), name="parts", partitions=3, with_arguments=lambda args, n: (args[0], f"{args[1]} {n}")
    )
    children = [up(f"part {n}") for n in range(3)]
    assert pa.PartitionSupervisor.partitions("parts") == 3
    assert [pa.PartitionSupervisor.whereis("parts", n) for n in (0, 1, 2, 3, -1)] == [
        children[n] for n in (0, 1, 2, 0, 2)
    ]
    keys: list[Any] = ["a", b"a", ("a", 1), 1.5, None, pa.self_(), "ä", True]
    found = [pa.PartitionSupervisor.whereis("parts", key) for key in keys]
    elsewhere = pa.options(worker=1).spawn_monitor(find_all, me, keys)
    assert pa.receive(("found", list), timeout=WAIT)[1] == found, elsewhere
    assert set(found) <= set(children)
    end(children[1], "boom")
    again = up("part 1")
    assert pa.PartitionSupervisor.whereis("parts", 1) == again
    pa.stop(supervisor, "shutdown")
    with pytest.raises(pa.NoProc, match="expected the name of a PartitionSupervisor"):
        pa.PartitionSupervisor.whereis("parts", 1)


def find_all(asker: pa.Pid, keys: list[Any]) -> None:
    pa.send(asker, ("found", [pa.PartitionSupervisor.whereis("parts", key) for key in keys]))


class Curious(Kid):
    """Asks for its siblings while it starts."""

    def init(self, asker: pa.Pid, name: str, mode: str = "ok") -> Any:
        pa.send(asker, ("count", pa.PartitionSupervisor.partitions("curious")))
        return super().init(asker, name)


@contract("S8.4", partly=True)
def test_partitions_are_counted_by_children_that_start(me: pa.Pid) -> None:
    """Found: they waited for the supervisor, which waited for them; and a temporary one that had ended didn't count."""
    pa.PartitionSupervisor.start_link(pa.child(Curious, me, "part", restart="temporary"), name="curious", partitions=3)
    assert [pa.receive(("count", int), timeout=WAIT)[1] for _ in range(3)] == [3, 3, 3]
    end(up("part"), "normal")
    eventually(lambda: pa.Supervisor.count_children("curious")["active"] == 2, "one has ended")
    assert puppet(1).do(pa.PartitionSupervisor.partitions, "curious") == 3
    pa.register("no supervisor", puppet(0).pid)
    with pytest.raises(pa.NoProc, match="expected the name of a PartitionSupervisor"):
        pa.PartitionSupervisor.partitions("no supervisor")


@contract("S8.4", "S9.2", partly=True)
def test_partitions_go_round_the_workers_also_after_a_death(actor_system: pa.ActorSystem) -> None:
    """Found: each time a worker died, its partitions were started on the others, until one had them all."""
    me = pa.self_()
    pa.PartitionSupervisor.start_link((Kid, me, "part"), name="round", partitions=4, max_restarts=10)
    assert {(pid.worker, pid.incarnation) for pid in (up("part") for _ in range(4))} == {(0, 0), (1, 0)}
    for _ in range(2):
        supervisor = pa.whereis("round")
        assert supervisor is not None
        victim = 1 - supervisor.worker
        before = [pa.whereis(f"round/{n}") for n in range(4)]
        os.kill(actor_system.worker_pids[victim], signal.SIGKILL)
        found = {up("part") for _ in range(2)}
        assert {pid.worker for pid in found} == {victim}
        now = [pa.whereis(f"round/{n}") for n in range(4)]
        assert [pid.worker for pid in now if pid is not None] == [0, 1, 0, 1]
        assert found == set(now) - set(before)


@contract("S8.4", partly=True)
def test_partitions_as_a_child(me: pa.Pid) -> None:
    start(pa.child(pa.PartitionSupervisor, of=pa.child(Kid, me, "part"), name="shards"))
    assert len({up("part") for _ in range(2)}) == 2  # one per worker
    assert pa.PartitionSupervisor.partitions("shards") == 2
    with pytest.raises(pa.StartError, match="to have a name"):
        start(pa.child(pa.PartitionSupervisor, of=Kid))


@contract("S8.3", partly=True)
def test_a_child_whose_worker_has_stopped_before_is_no_error(me: pa.Pid, caplog: pytest.LogCaptureFixture) -> None:
    """Where the whole system stops, a worker without processes ends: the supervisor's question reaches nobody."""
    spec = pa.child(Kid, id="kid")
    check_end(me, spec, pa.WorkerDown(1, exit_code=0))
    assert [] == caplog.messages
    check_end(me, spec, pa.WorkerDown(1, signal=signal.SIGKILL))
    check_end(me, spec, pa.WorkerDown(1, exit_code=1))
    assert ["shutdown_error"] * 2 == [record.event for record in caplog.records]  # type: ignore[attr-defined]
