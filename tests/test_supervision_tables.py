"""Supervision as tables, the way OTP groups its suites: start, restart and stop, each case against each (S8.1 to S8.4).

What happens is compared with the rule that stands beside each table, for every cell. Below: what else may go wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from puppets import WAIT, mail, park
from test_supervisor import ABNORMAL, ORDERLY, Kid, down, end, ended, kid, pids, start, up

STRATEGIES: Any = ["one_for_one", "one_for_all", "rest_for_one"]
RESTARTS: Any = ["permanent", "transient", "temporary"]


@pytest.fixture
def me(node: pa.ActorSystem) -> Iterator[pa.Pid]:
    """The test's own process, which outlives its supervisors."""
    pa.trap_exit(True)
    yield pa.self_()
    pa.trap_exit(False)


def events() -> list[str]:
    """What supervisors have reported: for tests with `logged`, after a supervisor has answered or ended."""
    found: list[str] = []
    while (report := pa.receive(("logged", "parallel_actors.supervisor", str), timeout=0, default=None)) is not None:
        found.append(report[2].split(": ", 1)[1].split("\n", 1)[0].strip("'"))
    return found


def pid_of(supervisor: pa.Pid, name: str) -> pa.Pid:
    pid = pids(supervisor)[name]
    assert pid is not None
    return pid


def watched(pid: pa.Pid) -> pa.Ref:
    """A monitor that is in place."""
    ref = pa.monitor(pid)
    pa.process_info(pid, "status")  # goes the same way
    return ref


def reason_of(ref: pa.Ref) -> Any:
    return pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason


# --- start ------------------------------------------------------------------------------------------------------------


class Moody(Kid):
    """Starts as the file says: "ok", "fail", "stop", "ignore", or "hang"."""

    def init(self, asker: pa.Pid, name: str, mode: str = "") -> Any:
        said = Path(mode).read_text()
        if said == "hang":
            park()
        return super().init(asker, name, said)


class Mood:
    """What the next start of a `Moody` does. "taken" is a name that another has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.say("ok")

    def say(self, how: str) -> None:
        self.path.write_text("ok" if how == "taken" else how)
        if how == "taken":
            holder = pa.spawn(park)
            eventually(lambda: pa.whereis("moody") is None, "the name is free")
            pa.register("moody", holder)

    def spec(self, **choices: Any) -> pa.ChildSpec:
        return kid("b", str(self.path), target=Moody, name="moody", **choices)


LIMIT = {"timeout": 0.02}  # for a start that hangs; one that doesn't may need longer on a busy machine


def hurry(state: Any) -> Any:
    """For `replace_state`: from now on, the starts of "b" have a limit."""
    if isinstance(next(iter(state.children.values())), pa.ChildSpec):
        state.children = {pid: replace(spec, kwargs=LIMIT) for pid, spec in state.children.items()}
    else:
        state.children["b"].spec = replace(state.children["b"].spec, kwargs=LIMIT)
    return state


def fail_next(supervisor: pa.Pid, mood: Mood, how: str, pid: pa.Pid) -> None:
    """Kill the child; each of its next starts fails like that."""
    if how == "hang":
        pa.sys_.replace_state(supervisor, hurry)
    # The supervisor sees it when all is ready: the name is taken before it is.
    pa.sys_.suspend(supervisor)
    pa.exit(pid, "kill")
    mood.say(how)
    pa.sys_.resume(supervisor)


def why(reason: Any) -> Any:
    """A reason as the table has it."""
    if isinstance(reason, tuple):
        assert reason == ("already_started", pa.whereis("moody"))
        return "already_started"
    return getattr(reason, "type", reason)


# The table: what a start does, and the reason that is told. IGNORE is no failure.
STARTS = {"fail": "ValueError", "stop": "no", "hang": "timeout", "taken": "already_started"}
starts = pytest.mark.parametrize("how", STARTS)


@pytest.fixture
def mood(tmp_path: Path) -> Mood:
    return Mood(tmp_path / "mood")


@contract("S8.3", "S6.2", partly=True)
@starts
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_start_that_fails_at_boot(me: pa.Pid, logged: None, mood: Mood, how: str, strategy: Any) -> None:
    """Those before it are stopped, last first; those after it never start; the supervisor's start fails."""
    mood.say(how)
    with pytest.raises(pa.StartError) as caught:
        start(kid("a"), mood.spec(**LIMIT if how == "hang" else {}), kid("c"), strategy=strategy)
    assert isinstance(caught.value.reason, pa.Shutdown)
    what, name, reason = caught.value.reason.term
    assert (what, name, why(reason)) == ("failed_to_start_child", "b", STARTS[how])
    assert down("a") == "shutdown"
    assert events() == ["start_error"]
    assert [word[1] for word in mail() if word[0] in ("up", "down")] == ["a"]


@contract("S8.3", partly=True)
@starts
def test_a_start_that_fails_on_request(me: pa.Pid, mood: Mood, how: str) -> None:
    """The spec isn't kept, and nobody else is touched."""
    supervisor = start(kid("a"))
    before = pids(supervisor)
    mood.say(how)
    with pytest.raises(pa.StartError) as caught:
        pa.Supervisor.start_child(supervisor, mood.spec(**LIMIT if how == "hang" else {}))
    assert why(caught.value.reason) == STARTS[how]
    assert pids(supervisor) == before


@contract("S8.3", partly=True)
@starts
@pytest.mark.parametrize("restart", ["permanent", "transient"])
def test_a_restart_that_fails_on_request(me: pa.Pid, mood: Mood, how: str, restart: Any) -> None:
    """The spec is kept without a process, and nobody else is touched."""
    supervisor = start(kid("a"), mood.spec(restart=restart))
    before = pids(supervisor)
    if how == "hang":
        pa.sys_.replace_state(supervisor, hurry)
    pa.Supervisor.terminate_child(supervisor, "b")
    pa.Supervisor.terminate_child(supervisor, "b")  # of one that has ended it does nothing
    mood.say(how)
    with pytest.raises(pa.StartError) as caught:
        pa.Supervisor.restart_child(supervisor, "b")
    assert why(caught.value.reason) == STARTS[how]
    assert pids(supervisor) == {**before, "b": None}


@contract("S8.2")
@starts
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_restart_that_fails(me: pa.Pid, logged: None, mood: Mood, how: str, strategy: Any) -> None:
    """It is tried again, which counts, until there were too many."""
    supervisor = start(kid("a"), mood.spec(), kid("c"), strategy=strategy, max_restarts=2, max_seconds=60)
    fail_next(supervisor, mood, how, pid_of(supervisor, "b"))
    assert ended(supervisor) == "shutdown"
    # The end of the child and one failed start are two restarts; the next failed start is one too many.
    assert events() == ["child_terminated", "start_error", "start_error", "reached_max_restart_intensity"]


@contract("S8.3", partly=True)
@pytest.mark.parametrize("restart", RESTARTS)
@pytest.mark.parametrize("moment", ["boot", "start_child", "restart_child", "restart"])
def test_a_start_that_is_ignored(me: pa.Pid, mood: Mood, moment: str, restart: Any) -> None:
    """No failure: the spec is kept without a process, unless it is a temporary one's."""
    spec = mood.spec(restart=restart)
    if moment == "boot":
        mood.say("ignore")
        supervisor = start(kid("a"), spec, kid("c"))
    elif moment == "start_child":
        mood.say("ignore")
        supervisor = start(kid("a"), kid("c"))
        assert pa.Supervisor.start_child(supervisor, spec) is None
    else:
        supervisor = start(kid("a"), spec, kid("c"))
        mood.say("ignore")
        if moment == "restart_child":
            pa.Supervisor.terminate_child(supervisor, "b")
            if restart != "temporary":
                assert pa.Supervisor.restart_child(supervisor, "b") is None
        else:
            end(pid_of(supervisor, "b"), "boom")
    kept = ["a", "c"] if restart == "temporary" else ["a", "b", "c"]
    eventually(lambda: sorted(pids(supervisor)) == kept and pids(supervisor).get("b") is None, "it isn't there")
    assert {info.restarting for info in pa.Supervisor.which_children(supervisor)} == {False}
    assert pa.Supervisor.count_children(supervisor)["active"] == 2


# --- restart ----------------------------------------------------------------------------------------------------------


@contract("S8.1", "S8.2")
@pytest.mark.parametrize("how", [*ORDERLY, *ABNORMAL], ids=str)
@pytest.mark.parametrize("restart", RESTARTS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_restarts(me: pa.Pid, logged: None, strategy: Any, restart: Any, how: Any) -> None:
    """Permanent: always; transient: after an abnormal end; temporary: never. Others: as the strategy says, or not."""
    supervisor = start(kid("a"), kid("b", restart=restart), kid("c"), strategy=strategy)
    before = pids(supervisor)
    end(up("b"), how)
    again = restart == "permanent" or (restart == "transient" and how in ABNORMAL)
    changed = {"one_for_one": "b", "one_for_all": "abc", "rest_for_one": "bc"}[strategy] if again else "b"
    if again:
        up("b")
        eventually(lambda: all(pids(supervisor).values()), "those that belong to it are up")
    else:
        eventually(lambda: pids(supervisor).get("b") is None, "its end is known")
    after = pids(supervisor)
    assert list(after) == list("ac" if restart == "temporary" else "abc")
    assert {name for name in "abc" if after.get(name) != before[name]} == set(changed)
    assert events() == (["child_terminated"] if again or how in ABNORMAL else [])


@contract("S8.2", "S8.4", partly=True)
@pytest.mark.parametrize("how", [*ORDERLY, *ABNORMAL], ids=str)
@pytest.mark.parametrize("restart", RESTARTS)
def test_restarts_of_dynamic_children(me: pa.Pid, logged: None, restart: Any, how: Any) -> None:
    supervisor = pa.DynamicSupervisor.start_link()
    first, other = (pa.DynamicSupervisor.start_child(supervisor, kid(name, restart=restart)) for name in "ab")
    assert first is not None
    end(first, how)
    again = restart == "permanent" or (restart == "transient" and how in ABNORMAL)

    def there() -> list[pa.Pid | None]:
        return [info.pid for info in pa.DynamicSupervisor.which_children(supervisor) if info.pid != other]

    eventually(lambda: first not in there() and len(there()) == again, "its end is known")
    assert pa.is_alive(other)  # type: ignore[arg-type]
    assert events() == (["child_terminated"] if again or how in ABNORMAL else [])


# --- stop -------------------------------------------------------------------------------------------------------------


def end_with(asker: pa.Pid, name: str, reason: Any) -> None:
    """A raw process that ends with `reason` when it is told to end; None: not at all."""
    pa.trap_exit(True)
    pa.send(asker, ("up", name, pa.self_(), 0))
    pa.receive(pa.Exit)
    if reason is None:
        park()
    raise pa.ProcessExit(reason)


# What a child does when it is told to end, the time that it has, and the reason that others see.
STOPS: list[tuple[Any, Any, Any]] = [
    ("shutdown", WAIT, "shutdown"),
    ("shutdown", "infinity", "shutdown"),
    ("shutdown", "brutal_kill", "killed"),
    (None, 0.02, "killed"),
    (None, 0, "killed"),
    (None, "brutal_kill", "killed"),
    ("normal", WAIT, "normal"),
    ("normal", "infinity", "normal"),
    ("other", WAIT, "other"),
    (pa.Shutdown("x"), WAIT, pa.Shutdown("x")),
]


@contract("S8.1", "S8.3", "S8.4", partly=True)
@pytest.mark.parametrize("kind", [pa.Supervisor, pa.DynamicSupervisor], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("restart", RESTARTS)
@pytest.mark.parametrize(("does", "shutdown", "reason"), STOPS, ids=str)
def test_stops(me: pa.Pid, logged: None, kind: Any, restart: Any, does: Any, shutdown: Any, reason: Any) -> None:
    """An end that was asked for isn't reported: `shutdown`; `killed` where there was no time at all; what's orderly."""
    orderly = reason == "shutdown" or isinstance(reason, pa.Shutdown) or (reason == "normal" and restart != "permanent")
    expected = [] if orderly or (reason == "killed" and shutdown == "brutal_kill") else ["shutdown_error"]
    for how in ("terminate_child", "stop"):
        supervisor = start() if kind is pa.Supervisor else pa.DynamicSupervisor.start_link()
        pid: Any = kind.start_child(supervisor, kid("a", does, target=end_with, restart=restart, shutdown=shutdown))
        assert up("a") == pid
        watch = watched(pid)
        if how == "terminate_child":
            kind.terminate_child(supervisor, "a" if kind is pa.Supervisor else pid)
            kept = kind is pa.Supervisor and restart != "temporary"
            assert [info.pid for info in kind.which_children(supervisor)] == ([None] if kept else [])
        else:
            pa.exit(supervisor, "shutdown")
            assert ended(supervisor) == "shutdown"
        assert reason_of(watch) == reason
        assert events() == expected


# --- what else may go wrong -------------------------------------------------------------------------------------------


class Odd(pa.Supervisor):
    """Its init does what it is told."""

    def init(self, asker: pa.Pid, how: str) -> Any:
        made = None if how == "ignore" else self.supervise([pa.child(Kid, asker, "kid")])
        if how == "raise":
            raise ValueError("no")
        return {"ignore": pa.IGNORE, "forget": None, "state": {}, "reply": pa.Reply(1), "ok": made}[how]


class OddLater(pa.DynamicSupervisor):
    async def init(self, how: str) -> Any:
        await pa.asleep(0)
        made = self.supervise()
        return made if how == "ok" else None


@contract("S8.1", "S6.1", partly=True)
def test_what_init_of_a_supervisor_may_return(me: pa.Pid) -> None:
    """Found: one that forgot to return `self.supervise(...)` was a supervisor, which knew no request and no child."""
    assert pa.start_link(Odd, me, "ignore") is None
    for how in ("forget", "state", "reply", "raise"):
        with pytest.raises(pa.StartError) as caught:
            pa.start_link(Odd, me, how)
        reason = caught.value.reason
        if how == "raise":
            assert reason.type == "ValueError"
        else:
            assert reason[0] == "bad_return_value"
            assert how == "reply" or "expected Odd.init to return self.supervise(...)" in reason[1]
        assert reason_of(pa.monitor(up("kid"))) in (reason, "noproc")  # what it had started ends with it
    fine: list[Any] = [(Odd, (me, "ok")), (OddLater, ("ok",))]
    for server, args in fine:
        assert pa.Supervisor.count_children(pa.start_link(server, *args))["supervisors"] == 0
    with pytest.raises(pa.StartError, match=r"expected OddLater\.init to return"):
        pa.start_link(OddLater, "forget")


@contract("S8.3", partly=True)
def test_a_child_that_never_starts(me: pa.Pid, mood: Mood) -> None:
    """The supervisor waits for it, as in OTP, and deafly; a kill ends it and those that it has started."""
    mood.say("hang")
    starter = pa.spawn(start_and_wait, me, [kid("a"), kid("b", str(mood.path), target=Moody, name="moody")])
    first = up("a")
    eventually(lambda: pa.whereis("moody"), "it is being started")
    second = pa.whereis("moody")
    assert second is not None
    (parent,) = [pid for pid in pa.process_info(first, "links") if pid != me]
    watches = [watched(pid) for pid in (parent, first, second)]
    pa.exit(parent, "shutdown")
    eventually(lambda: pa.process_info(parent, "message_queue_len") == 1, "it has the order, and doesn't look")
    pa.exit(parent, "kill")
    assert [reason_of(watch) for watch in watches] == ["killed"] * 3
    assert pa.receive("failed", timeout=WAIT), starter


def start_and_wait(asker: pa.Pid, specs: list[pa.ChildSpec]) -> None:
    pa.trap_exit(True)
    try:
        pa.Supervisor.start_link(specs)
    except pa.StartError:
        pa.send(asker, "failed")


def fail_at_once(asker: pa.Pid) -> None:
    pa.send(asker, ("up", "failing", pa.self_(), 0))
    raise ValueError("at once")


class FailsAtOnce(pa.GenServer):
    """Is up, and fails in what it goes on with."""

    def init(self, asker: pa.Pid) -> Any:
        pa.send(asker, ("up", "failing", pa.self_(), 0))
        return pa.Ok(continue_="fail")

    def handle_continue(self, term: Any, state: Any) -> Any:
        raise ValueError("at once")


@contract("S8.2")
@pytest.mark.parametrize("target", [fail_at_once, FailsAtOnce])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_child_that_fails_at_once(me: pa.Pid, target: Any, strategy: Any) -> None:
    """It was started: so is its supervisor, which has more restarts of it than it may soon after."""
    supervisor = start(kid("a"), pa.child(target, me), strategy=strategy, max_restarts=4)
    for _ in range(5):
        up("failing")
    assert ended(supervisor) == "shutdown"
    assert [word for word in mail() if word[1] == "failing" and word[0] == "up"] == []


@contract("S8.2", partly=True)
def test_a_supervisor_whose_child_will_not_come_back_is_not_deaf(me: pa.Pid, mood: Mood) -> None:
    """Between two attempts it has its messages: a request, an order to stop."""
    supervisor = start(kid("a"), mood.spec(), max_restarts=10**9)
    mood.say("fail")
    end(up("b"), "boom")
    eventually(
        lambda: [info.restarting for info in pa.Supervisor.which_children(supervisor)] == [False, True], "it tries"
    )
    for refused in (pa.Supervisor.restart_child, pa.Supervisor.delete_child):
        with pytest.raises(pa.ChildError) as caught:
            refused(supervisor, "b")
        assert caught.value.reason == "restarting"
    pa.Supervisor.terminate_child(supervisor, "b")
    assert pids(supervisor)["b"] is None
    pa.Supervisor.delete_child(supervisor, "b")
    pa.stop(supervisor, "shutdown", timeout=WAIT)
    assert ended(supervisor) == "shutdown"


def unlink_and_wait(asker: pa.Pid) -> None:
    for pid in pa.process_info(pa.self_(), "links"):
        pa.unlink(pid)
    pa.send(asker, ("up", "loose", pa.self_(), 0))
    park()


@contract("S8.3", partly=True)
def test_a_child_that_unlinks_itself_is_stopped(me: pa.Pid) -> None:
    """Its exit signal doesn't come any more: the supervisor waits for a monitor."""
    kinds: list[Any] = [pa.Supervisor, pa.DynamicSupervisor]
    for kind in kinds:
        supervisor = start() if kind is pa.Supervisor else pa.DynamicSupervisor.start_link()
        for how in ("terminate_child", "stop"):
            pid: Any = kind.start_child(supervisor, pa.child(unlink_and_wait, me, id=how, shutdown="infinity"))
            assert up("loose") == pid
            if how == "stop":
                pa.stop(supervisor, "shutdown", timeout=WAIT)
            else:
                told = pa.call(supervisor, ("terminate_child", how if kind is pa.Supervisor else pid), WAIT)
                assert told == ("ok", None)
            assert not pa.is_alive(pid)


@contract("S8.3", "S6.3", partly=True)
def test_requests_to_a_supervisor_that_is_none(me: pa.Pid) -> None:
    calls: list[Any] = [
        lambda: pa.Supervisor.start_child("nobody", kid("a")),
        lambda: pa.Supervisor.terminate_child("nobody", "a"),
        lambda: pa.Supervisor.restart_child("nobody", "a"),
        lambda: pa.Supervisor.delete_child("nobody", "a"),
        lambda: pa.Supervisor.which_children("nobody"),
        lambda: pa.Supervisor.count_children("nobody"),
        lambda: pa.Supervisor.get_childspec("nobody", "a"),
        lambda: pa.DynamicSupervisor.terminate_child("nobody", me),
        lambda: pa.TaskSupervisor.async_nolink("nobody", park),
        lambda: pa.TaskSupervisor.start_child("nobody", park),
    ]
    for call in calls:
        with pytest.raises(pa.NoProc):
            call()
    supervisor = start(kid("a"))
    pid = pid_of(supervisor, "a")
    with pytest.raises(pa.ChildError) as caught:  # by its id alone
        pa.Supervisor.terminate_child(supervisor, pid)
    assert caught.value.reason == "not_found"
    with pytest.raises(pa.ChildError) as caught:
        pa.Supervisor.get_childspec(supervisor, "b")
    assert caught.value.reason == "not_found"
    assert pa.is_alive(pid)


@contract("S8.4", partly=True)
def test_who_waits_for_its_restart_counts_among_the_most(me: pa.Pid) -> None:
    supervisor = pa.DynamicSupervisor.start_link(max_children=1, backoff=pa.Backoff(first=60, limit=60))
    pid = pa.DynamicSupervisor.start_child(supervisor, kid("a"))
    assert pid is not None
    end(pid, "boom")
    eventually(
        lambda: [info.restarting for info in pa.DynamicSupervisor.which_children(supervisor)] == [True], "it waits"
    )
    with pytest.raises(pa.ChildError) as caught:
        pa.DynamicSupervisor.start_child(supervisor, kid("b"))
    assert caught.value.reason == "max_children"
    assert pa.DynamicSupervisor.count_children(supervisor) == {"specs": 1, "active": 0, "supervisors": 0, "workers": 1}


@contract("S8.4", partly=True)
def test_a_dynamic_child_that_ignores_its_start_is_forgotten(me: pa.Pid, mood: Mood) -> None:
    supervisor = pa.DynamicSupervisor.start_link()
    mood.say("ignore")
    assert pa.DynamicSupervisor.start_child(supervisor, mood.spec()) is None
    assert pa.DynamicSupervisor.which_children(supervisor) == []
    mood.say("ok")
    pid = pa.DynamicSupervisor.start_child(supervisor, mood.spec())
    assert pid is not None
    mood.say("ignore")
    end(pid, "boom")
    eventually(lambda: pa.DynamicSupervisor.which_children(supervisor) == [], "it ignored its restart, and is gone")


@contract("S8.2", "S8.4", partly=True)
@starts
def test_a_dynamic_restart_that_fails(me: pa.Pid, logged: None, mood: Mood, how: str) -> None:
    supervisor = pa.DynamicSupervisor.start_link(max_restarts=2, max_seconds=60)
    pid = pa.DynamicSupervisor.start_child(supervisor, mood.spec())
    assert pid is not None
    fail_next(supervisor, mood, how, pid)
    assert ended(supervisor) == "shutdown"
    assert events() == ["child_terminated", "start_error", "start_error", "reached_max_restart_intensity"]


@contract("S8.1", partly=True)
def test_what_a_spec_says_when_it_says_nothing() -> None:
    """Elixir's and OTP's defaults."""
    for target, type_, shutdown in ((Kid, "worker", 5.0), (pa.Supervisor, "supervisor", "infinity")):
        spec = pa.child(target)
        assert (spec.id, spec.restart, spec.type, spec.shutdown) == (target.__name__, "permanent", type_, shutdown)
        assert not spec.significant


class Counted(pa.GenServer):
    def init(self, asker: pa.Pid) -> Any:
        pa.send(asker, ("up", "counted", pa.self_(), 0))
        return asker

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return pa.Reply(pa.Supervisor.which_children(pa.ancestors()[0])[0].pid)


@contract("S8.3", "S1.12", partly=True)
def test_a_child_may_ask_its_supervisor(me: pa.Pid) -> None:
    start(pa.child(Counted, me))
    pid = up("counted")
    assert pa.call(pid, "who", timeout=WAIT) == pid
