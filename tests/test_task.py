"""Tasks: one function, one process, one result (S8.5, S8.4); their callers (S1.12)."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from parallel_actors import task_supervisor
from parallel_actors.workers import api
from puppets import WAIT, Puppet, mail, park, puppet


@pytest.fixture
def me(node: pa.ActorSystem) -> Iterator[pa.Pid]:
    """The test's own process, which outlives its tasks."""
    pa.trap_exit(True)
    yield pa.self_()
    pa.trap_exit(False)


@pytest.fixture
def jobs(me: pa.Pid) -> pa.Pid:
    return pa.TaskSupervisor.start_link()


def fail(text: str) -> None:
    raise ValueError(text)


def leave(reason: Any) -> None:
    raise pa.ProcessExit(reason)


async def double(number: int) -> int:
    await pa.asleep(0)
    return 2 * number


def settled() -> list[Any]:
    """What is in the mailbox besides the ends of linked tasks."""
    return [message for message in mail() if not isinstance(message, pa.Exit)]


# --- one task ---------------------------------------------------------------------------------------------------------


@contract("S8.5")
def test_a_task_gives_its_result_once(me: pa.Pid) -> None:
    tasks = [pa.Task.async_(pow, 2, n) for n in range(20)]
    assert [task.await_(WAIT) for task in reversed(tasks)] == [2**n for n in reversed(range(20))]
    assert settled() == []
    assert pa.Task.async_(double, 4).await_(WAIT) == 8
    # Asked again it is gone: the process is dead and nothing waits.
    with pytest.raises(pa.CallTimeout):
        tasks[0].await_(0.01)


@contract("S8.5", partly=True)
def test_tasks_spread_over_the_workers(me: pa.Pid) -> None:
    tasks: list[pa.Task[None]] = []

    def both_have_some() -> bool:
        """Start one more. A worker shows its load when it has nothing to do: who starts many at once may see less."""
        tasks.append(pa.Task.async_(begin_and_park, me))
        assert pa.receive("begun", timeout=WAIT) == "begun"
        return {task.pid.worker for task in tasks} == {0, 1}

    eventually(both_have_some, "they are on both workers")
    for task in tasks:
        task.shutdown("brutal_kill")


@contract("S8.5")
def test_only_its_owner_may_wait(me: pa.Pid) -> None:
    task = pa.Task.async_(park)
    other = puppet(1)
    for call in (task.await_, task.yield_, task.shutdown, task.ignore):
        with pytest.raises(pa.ActorError, match="who asked, to wait for the answer"):
            other.do(call)
    assert task.shutdown("brutal_kill") is None


@contract("S8.5")
def test_a_time_out_exits_the_caller_and_drops_what_comes_late(me: pa.Pid) -> None:
    slow = pa.Task.async_(ask_and_return, me)
    with pytest.raises(pa.CallTimeout, match=r"no result after 0.01 s") as caught:
        slow.await_(0.01)
    assert (caught.value.target, caught.value.elapsed) == (slow.pid, 0.01)
    pa.send(slow.pid, "go on")
    assert pa.receive(pa.Exit(slow.pid, pa.ANY), timeout=WAIT).reason == "normal"
    assert mail() == []
    # Uncaught it ends the caller, and the caller the task.
    caller, ref = pa.spawn_monitor(await_parked, me)
    task = pa.receive(pa.Pid, timeout=WAIT)
    reason = pa.receive(pa.Down(ref, caller, pa.ANY), timeout=WAIT).reason
    assert reason.type.endswith("CallTimeout")
    eventually(lambda: not pa.is_alive(task), "it is linked to its owner")


def ask_and_return(asker: pa.Pid) -> str:
    pa.receive("go on")
    return "late"


def await_parked(asker: pa.Pid) -> None:
    task = pa.Task.async_(park)
    pa.send(asker, task.pid)
    task.await_(0.01)


@contract("S8.5", "S10.1", partly=True)
def test_a_failure_is_told_with_its_reason(me: pa.Pid) -> None:
    task = pa.Task.async_(fail, "what for")
    with pytest.raises(pa.RemoteError, match="what for") as caught:
        task.await_(WAIT)
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.remote_traceback is not None
    assert isinstance(pa.receive(pa.Exit(task.pid, pa.ANY), timeout=WAIT).reason, pa.Crash)
    for reason in ("gone", "normal"):
        with pytest.raises(pa.RemoteError, match=f"ended: {reason}"):
            pa.Task.async_(leave, reason).await_(WAIT)
    with pytest.raises(pa.RemoteError, match="lock"):
        pa.Task.async_(make_lock).await_(WAIT)  # a result that can't travel
    assert settled() == []


def make_lock() -> Any:
    import threading

    return threading.Lock()


@contract("S8.5", partly=True)
def test_a_failure_ends_an_owner_that_does_not_trap_exits(me: pa.Pid) -> None:
    owner, ref = pa.spawn_monitor(own_a_failure)
    assert pa.receive(pa.Down(ref, owner, pa.ANY), timeout=WAIT).reason.text == "taken along"


def own_a_failure() -> None:
    pa.Task.async_(fail, "taken along")
    park()


@contract("S8.5", "S1.6", partly=True)
def test_tasks_of_async_bodies_are_awaited(me: pa.Pid) -> None:
    async def body() -> None:
        task: pa.Task[int] = pa.Task.async_(double, 21)
        pa.send(me, ("sum", await task))

    pa.spawn(body)
    assert pa.receive(("sum", int), timeout=WAIT) == ("sum", 42)


@contract("S8.5", partly=True)
def test_yield_says_what_there_is(me: pa.Pid) -> None:
    slow = pa.Task.async_(ask_and_return, me)
    assert slow.yield_(0.01) is None
    pa.send(slow.pid, "go on")
    assert slow.yield_(WAIT) == pa.Done("late")
    failed = pa.Task.async_(leave, "gone").yield_(WAIT)
    assert failed == pa.Failed("gone")
    assert settled() == []


@contract("S8.5", partly=True)
def test_shutdown_gives_a_result_that_came(me: pa.Pid) -> None:
    done = pa.Task.async_(int)
    eventually(lambda: not pa.is_alive(done.pid), "it has ended")
    assert done.shutdown() == pa.Done(0)
    failed = pa.Task.async_(leave, "gone")
    eventually(lambda: not pa.is_alive(failed.pid), "it has ended")
    assert failed.shutdown() == pa.Failed("gone")
    for timeout in (WAIT, "brutal_kill", None):
        task = pa.Task.async_(park)
        assert task.shutdown(timeout) is None
        assert not pa.is_alive(task.pid)
    stubborn = pa.Task.async_(trap_and_park, me)
    assert pa.receive("trapping", timeout=WAIT) == "trapping"
    assert stubborn.shutdown(0.01) == pa.Failed("killed")
    assert not pa.is_alive(stubborn.pid)
    assert mail() == []


@contract("S8.5", partly=True)
@pytest.mark.parametrize("how", [WAIT, "brutal_kill"])
@pytest.mark.parametrize("reason", ["normal", "shutdown", "killed", "gone"])
def test_shutdown_of_one_that_has_ended_without_a_result(me: pa.Pid, how: Any, reason: str) -> None:
    """Found: one that another had shut down was a failure here."""
    task = pa.Task.async_(leave, reason)
    eventually(lambda: not pa.is_alive(task.pid), "it has ended")
    asked_for = reason == ("killed" if how == "brutal_kill" else "shutdown")
    assert task.shutdown(how) == (None if asked_for else pa.Failed(reason))
    assert settled() == []


@contract("S8.5", partly=True)
def test_a_task_that_was_waited_for_can_still_be_shut_down(me: pa.Pid) -> None:
    """Found: it waited for ever, since nothing told of the end any more."""
    late = pa.Task.async_(park)
    with pytest.raises(pa.CallTimeout):
        late.await_(0.01)
    assert late.shutdown(WAIT) is None
    assert not pa.is_alive(late.pid)
    done = pa.Task.async_(int)
    assert done.await_(WAIT) == 0
    assert done.shutdown(WAIT) == pa.Failed("noproc")
    assert done.yield_(None) == pa.Failed("noproc")
    with pytest.raises(pa.RemoteError, match="noproc"):
        done.await_(None)
    with pytest.raises(pa.RemoteError, match="noproc"):
        pa.Task.await_many([done], None)
    assert settled() == []


def trap_and_park(asker: pa.Pid) -> None:
    pa.trap_exit(True)
    pa.send(asker, "trapping")
    park()


@contract("S8.5", partly=True)
def test_an_ignored_task_runs_on_by_itself(me: pa.Pid) -> None:
    task = pa.Task.async_(ask_and_return, me)
    assert task.ignore() is None
    pa.send(task.pid, "go on")
    eventually(lambda: not pa.is_alive(task.pid), "it ends")
    assert mail() == []


@contract("S8.5", partly=True)
def test_many_at_once(me: pa.Pid) -> None:
    tasks = [pa.Task.async_(double, n) for n in range(5)]
    assert pa.Task.await_many(tasks, WAIT) == [0, 2, 4, 6, 8]
    assert pa.Task.await_many([]) == []
    mixed: list[pa.Task[Any]] = [pa.Task.async_(double, 1), pa.Task.async_(leave, "gone"), pa.Task.async_(park)]
    eventually(lambda: not pa.is_alive(mixed[1].pid) and not pa.is_alive(mixed[0].pid), "two have ended")
    assert pa.Task.yield_many(mixed, 0.01) == [pa.Done(2), pa.Failed("gone"), None]
    mixed[2].shutdown()
    assert settled() == []


@contract("S8.5", partly=True)
def test_the_first_failure_of_many_is_told_at_once(me: pa.Pid) -> None:
    """Found: it waited for those before it, which never end here."""
    for reason in ("gone", "normal"):
        slow: pa.Task[Any] = pa.Task.async_(ask_and_return, me)
        failing: pa.Task[Any] = pa.Task.async_(leave, reason)
        with pytest.raises(pa.RemoteError, match=f"ended: {reason}") as caught:
            pa.Task.await_many([slow, failing], WAIT)
        assert caught.value.target == failing.pid
        # The others run on, and nothing of them arrives.
        pa.send(slow.pid, "go on")
        assert pa.receive(pa.Exit(slow.pid, pa.ANY), timeout=WAIT).reason == "normal"
        assert settled() == []


@contract("S8.5", partly=True)
def test_many_share_one_time(me: pa.Pid) -> None:
    slow: pa.Task[Any] = pa.Task.async_(ask_and_return, me)
    quick: pa.Task[Any] = pa.Task.async_(double, 1)
    with pytest.raises(pa.CallTimeout) as caught:
        pa.Task.await_many([slow, quick], 0.01)
    assert caught.value.elapsed == 0.01
    pa.send(slow.pid, "go on")
    for task in (slow, quick):
        assert pa.receive(pa.Exit(task.pid, pa.ANY), timeout=WAIT).reason == "normal"
    assert settled() == []
    with pytest.raises(pa.ActorError, match="who asked, to wait for the answer"):
        puppet(1).do(pa.Task.await_many, [slow])


@contract("S8.5", partly=True)
def test_a_task_whose_result_nobody_wants(me: pa.Pid) -> None:
    pa.Task.start(pa.send, me, "started")
    assert pa.receive("started", timeout=WAIT) == "started"
    linked = pa.Task.start_link(fail, "linked")
    assert pa.receive(pa.Exit(linked, pa.ANY), timeout=WAIT).reason.text == "linked"


@contract("S1.12")
def test_callers_are_those_on_whose_behalf_a_task_works(me: pa.Pid, jobs: pa.Pid) -> None:
    assert pa.callers() == ()
    for task in (pa.Task.async_(callers_of_a_task), pa.TaskSupervisor.async_nolink(jobs, callers_of_a_task)):
        mine, inner, pid = task.await_(WAIT)
        assert mine == (me,)
        assert inner == (pid, me)
    assert pa.ancestors() == ()
    parents = pa.TaskSupervisor.async_(jobs, pa.ancestors).await_(WAIT)
    assert parents == (jobs, me)


def callers_of_a_task() -> Any:
    return pa.callers(), pa.Task.async_(pa.callers).await_(WAIT), pa.self_()


@contract("S10.1", partly=True)
def test_what_is_no_function_is_refused(me: pa.Pid, jobs: pa.Pid) -> None:
    no_function: Any = 5
    with pytest.raises(TypeError, match="expected a function to run as a task, got 5"):
        pa.Task.async_(no_function)
    with pytest.raises(TypeError, match="expected a function to run as a task, got 5"):
        pa.TaskSupervisor.async_nolink(jobs, no_function)
    with pytest.raises(pa.NotPicklable):
        pa.Task.async_(print, make_lock())
    with pytest.raises(ValueError, match="max_concurrency"):
        pa.Task.async_stream(abs, [], max_concurrency=0)
    with pytest.raises(ValueError, match="max_children"):
        pa.TaskSupervisor.start_link(max_children=-1)
    with pytest.raises(ValueError, match="on_timeout"):
        pa.Task.async_stream(abs, [], on_timeout="no")  # type: ignore[call-overload]
    assert mail() == []


# --- streams ----------------------------------------------------------------------------------------------------------


def sleepy(seconds: float) -> float:
    pa.sleep(seconds)
    return seconds


@contract("S8.5")
@pytest.mark.parametrize("most", [1, 3, 100])
def test_a_stream_keeps_the_order_of_its_items(me: pa.Pid, most: int) -> None:
    delays = [0.02, 0.0, 0.01, 0.0, 0.0]
    assert list(pa.Task.async_stream(sleepy, delays, max_concurrency=most)) == delays
    assert list(pa.Task.async_stream(double, range(50), max_concurrency=most)) == [2 * n for n in range(50)]
    assert list(pa.Task.async_stream(abs, [])) == []
    assert mail() == []  # nor the ends of its linked tasks, though the caller traps exits


@contract("S8.5")
def test_a_stream_without_order_gives_what_is_ready(me: pa.Pid) -> None:
    found = pa.Task.async_stream(wait_for_word, [me, None, None], max_concurrency=3, ordered=False)
    assert [next(found), next(found)] == [None, None]
    eventually(lambda: pa.whereis("waiter"), "the first item waits")
    pa.send("waiter", "go on")
    assert next(found) == me
    assert list(found) == []
    assert settled() == []


def wait_for_word(asker: pa.Pid | None) -> pa.Pid | None:
    if asker is not None:
        pa.register("waiter", pa.self_())
        pa.receive("go on")
    return asker


@contract("S8.5")
@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_is_lazy_and_bounded(me: pa.Pid, ordered: bool) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(10**9):
            taken.append(n)
            yield n

    stream = pa.Task.async_stream(abs, items(), max_concurrency=4, ordered=ordered)
    assert taken == []
    for n in range(10):
        next(stream)
        assert len(taken) <= n + 4
    stream.close()  # type: ignore[attr-defined]
    eventually(lambda: pa.processes() == [me], "nothing is left of it")
    assert settled() == []


@contract("S8.5", partly=True)
def test_the_time_of_each_item(me: pa.Pid) -> None:
    with pytest.raises(pa.CallTimeout, match="no result after"):
        list(pa.Task.async_stream(sleepy, [0.0, 1000.0, 1000.0], timeout=0.05, max_concurrency=3))
    eventually(lambda: pa.processes() == [me], "the others end with it")
    killed = list(pa.Task.async_stream(sleepy, [0.0, 1000.0, 0.0], timeout=2.0, on_timeout="kill_task"))
    assert killed == [pa.Done(0.0), pa.Failed("timeout"), pa.Done(0.0)]
    assert settled() == []


@contract("S8.5", partly=True)
def test_a_failure_in_a_stream(me: pa.Pid, jobs: pa.Pid) -> None:
    stream = pa.Task.async_stream(int, ["1", "x", "3"], max_concurrency=1)
    assert next(stream) == 1
    with pytest.raises(pa.RemoteError, match="invalid literal"):
        next(stream)
    ends = list(pa.TaskSupervisor.async_stream_nolink(jobs, int, ["1", "x", "3"]))
    assert ends[::2] == [pa.Done(1), pa.Done(3)]
    assert isinstance(ends[1], pa.Failed)
    assert ends[1].reason.type == "ValueError"
    assert list(pa.TaskSupervisor.async_stream(jobs, int, ["1", "2"])) == [1, 2]
    assert settled() == []


# What processes of one worker find in this module is one and the same.
OPEN: list[Any] = []

tasks: Any = task_supervisor


def first_or_park(item: tuple[pa.Pid, int]) -> int:
    asker, number = item
    if number:
        pa.send(asker, ("task", pa.self_()))
        park()
    return number


def open_stream(asker: pa.Pid, jobs: pa.Pid | None) -> None:
    """Take the first result of a stream, the others of which never come, and leave it open."""
    items = [(asker, number) for number in range(3)]
    if jobs is None:
        stream: Iterator[Any] = pa.Task.async_stream(first_or_park, items, max_concurrency=3)
    else:
        stream = pa.TaskSupervisor.async_stream_nolink(jobs, first_or_park, items, max_concurrency=3)
    next(stream)
    OPEN.append(stream)


def close_stream() -> None:
    OPEN.pop().close()


def collect_stream() -> None:
    ring: list[Any] = [OPEN.pop()]
    ring.append(ring)
    del ring
    gc.collect()


def next_of_stream() -> None:
    with pytest.raises(pa.ActorError, match="who took the first result"):
        next(OPEN[0])
    OPEN.clear()


def opened(owner: Puppet, jobs: pa.Pid | None) -> list[pa.Ref]:
    """Monitors of the two tasks that are left of a stream of `owner`."""
    owner.do(open_stream, pa.self_(), jobs)
    return watch_tasks()


def watch_tasks(count: int = 2) -> list[pa.Ref]:
    return [Puppet(pa.receive(("task", pa.Pid), timeout=WAIT)[1]).watch() for _ in range(count)]


def await_kills(watches: list[pa.Ref]) -> None:
    for watch in watches:
        assert pa.receive(pa.Down(watch, pa.ANY, pa.ANY), timeout=WAIT).reason == "killed"


@contract("S8.5", partly=True)
@pytest.mark.parametrize("how", [close_stream, collect_stream, next_of_stream])
@pytest.mark.parametrize("linked", [True, False])
def test_a_stream_that_ends_in_another_process_ends_its_tasks(me: pa.Pid, jobs: pa.Pid, linked: bool, how: Any) -> None:
    """Found: it raised ActorError there, and tasks that weren't linked ran on."""
    owner, other = puppet(0), puppet(0)
    watches = opened(owner, None if linked else jobs)
    other.do(how)
    await_kills(watches)
    assert owner.do(mail) == []  # it outlives them, and hears nothing
    assert pa.process_info(owner.pid, "links") == []
    assert pa.process_info(owner.pid, "monitors") == []


@contract("S8.5", partly=True)
@pytest.mark.parametrize("reason", ["normal", "kill"])
def test_a_stream_outlives_its_owner_for_no_longer_than_its_iterator(me: pa.Pid, jobs: pa.Pid, reason: str) -> None:
    owner = puppet(0)
    watches = opened(owner, jobs)
    if reason == "kill":
        pa.exit(owner.pid, "kill")
        owner.reason()
    else:
        owner.end(reason)
    puppet(0).do(close_stream)
    await_kills(watches)


def iterate(asker: pa.Pid, jobs: pa.Pid) -> None:
    for _ in pa.TaskSupervisor.async_stream_nolink(jobs, first_or_park, [(asker, 0), (asker, 1), (asker, 2)]):
        pass


@contract("S8.5", partly=True)
def test_a_killed_owner_takes_its_stream_along(me: pa.Pid, jobs: pa.Pid) -> None:
    owner = pa.options(worker=0).spawn(iterate, me, jobs)
    watches = watch_tasks()
    pa.exit(owner, "kill")
    await_kills(watches)


class Halting:
    """`api` for one process: its first send is its last act."""

    def __init__(self, halted: pa.Pid, asker: pa.Pid) -> None:
        self.halted, self.asker = halted, asker

    def __getattr__(self, name: str) -> Any:
        return getattr(api, name)

    def send(self, target: Any, message: Any) -> None:
        api.send(target, message)
        if api.self_() == self.halted:
            api.send(self.asker, "sent")
            park()


def iterate_to_the_first_go(asker: pa.Pid, jobs: pa.Pid) -> None:
    tasks.api = Halting(pa.self_(), asker)
    try:
        list(pa.TaskSupervisor.async_stream_nolink(jobs, first_or_park, [(asker, 1)]))
    finally:
        tasks.api = api


@contract("S8.5", partly=True)
def test_an_owner_killed_as_a_task_begins_takes_it_along(me: pa.Pid, jobs: pa.Pid) -> None:
    """Found: the task was begun, and then put on the list of those that end with the stream."""
    owner = pa.options(worker=0).spawn(iterate_to_the_first_go, me, jobs)
    assert pa.receive("sent", timeout=WAIT)
    watches = watch_tasks(1)
    pa.exit(owner, "kill")
    await_kills(watches)


@contract("S8.5", partly=True)
def test_a_stream_that_another_thread_closes(me: pa.Pid, jobs: pa.Pid) -> None:
    """Those linked to the owner would take it along, and run on."""
    watches = opened(Puppet(me), jobs)
    threading_close()
    await_kills(watches)
    linked = opened(Puppet(me), None)
    threading_close()
    assert pa.receive(pa.Down(linked[0], pa.ANY, pa.ANY), timeout=0, default=None) is None
    assert len(pa.process_info(me, "links")) == 3  # the supervisor's too


def threading_close() -> None:
    thread = threading.Thread(target=close_stream)
    thread.start()
    thread.join()


# --- TaskSupervisor ---------------------------------------------------------------------------------------------------


@contract("S8.4", "S8.5")
def test_supervised_tasks(me: pa.Pid, jobs: pa.Pid) -> None:
    assert pa.TaskSupervisor.async_(jobs, double, 3).await_(WAIT) == 6
    failed = pa.TaskSupervisor.async_nolink(jobs, fail, "not mine").yield_(WAIT)
    assert isinstance(failed, pa.Failed)
    assert failed.reason.text == "not mine"
    assert settled() == []
    linked = pa.TaskSupervisor.async_(jobs, fail, "mine")
    assert pa.receive(pa.Exit(linked.pid, pa.ANY), timeout=WAIT).reason.text == "mine"
    eventually(lambda: pa.TaskSupervisor.children(jobs) == [], "they are forgotten")
    assert pa.is_alive(jobs)


@contract("S8.4", "S8.5", partly=True)
def test_a_supervisor_of_tasks_ends_them(me: pa.Pid) -> None:
    jobs = pa.TaskSupervisor.start_link(max_children=2, name="jobs")
    task = pa.TaskSupervisor.async_nolink("jobs", begin_and_park, me)
    # It has begun: so its owner's monitor is there before the supervisor's exit, which is another's signal.
    assert pa.receive("begun", timeout=WAIT) == "begun"
    pid = pa.TaskSupervisor.start_child("jobs", trap_and_park, me, shutdown=0.01)
    assert pa.receive("trapping", timeout=WAIT) == "trapping"
    assert set(pa.TaskSupervisor.children("jobs")) == {task.pid, pid}
    with pytest.raises(pa.ChildError) as caught:
        pa.TaskSupervisor.async_nolink("jobs", park)
    assert caught.value.reason == "max_children"
    pa.stop(jobs, "shutdown", timeout=WAIT)
    assert task.yield_(WAIT) == pa.Failed("shutdown")
    assert not pa.is_alive(pid)


def begin_and_park(asker: pa.Pid) -> None:
    pa.send(asker, "begun")
    park()


@contract("S8.5", partly=True)
def test_a_task_whose_owner_ends_before_it_begins_never_runs(me: pa.Pid, jobs: pa.Pid) -> None:
    for _ in range(20):
        owner, ref = pa.options(worker=1).spawn_monitor(begin_and_end, jobs, me)
        pa.exit(owner, "kill")
        assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason in ("killed", "normal", "noproc")
    eventually(lambda: pa.TaskSupervisor.children(jobs) == [], "none of them waits for ever")


def begin_and_end(jobs: pa.Pid, asker: pa.Pid) -> None:
    pa.TaskSupervisor.async_nolink(jobs, time.perf_counter)


@contract("S8.5", "S8.1", partly=True)
def test_a_transient_task_is_run_again(me: pa.Pid, jobs: pa.Pid) -> None:
    pa.TaskSupervisor.start_child(jobs, fail_once, me, restart="transient")
    first = pa.receive(pa.Pid, timeout=WAIT)
    pa.send(first, "fail")
    second = pa.receive(pa.Pid, timeout=WAIT)
    assert second != first
    pa.send(second, "return")
    eventually(lambda: pa.TaskSupervisor.children(jobs) == [], "it has returned")
    assert pa.is_alive(jobs)


def fail_once(asker: pa.Pid) -> None:
    pa.send(asker, pa.self_())
    if pa.receive() == "fail":
        raise ValueError("once")
