"""Monitors: one way, as many as one likes, and exactly one Down for each (S4.3)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from puppets import GUEST, PLACES, WAIT, Puppet, get, leave, mail, obey, park, place, puppet, take

everywhere = pytest.mark.parametrize(("here", "there"), PLACES, ids=str)
both_workers = pytest.mark.parametrize(("here", "there"), [(0, 0), (0, 1)], ids=str)


def settle(one: Puppet, other: Puppet) -> None:
    """Whatever either has sent the other by now has been taken in."""
    one.do(pa.process_info, other.pid)
    other.do(pa.process_info, one.pid)


# --- one Down each ----------------------------------------------------------------------------------------------------


@pytest.mark.contract("S4.3")
@everywhere
@pytest.mark.parametrize("reason", ["normal", "boom", "kill", ("term", [1]), pa.Shutdown(2), None], ids=str)
def test_a_monitor_gives_one_down(node: pa.ActorSystem, here: int, there: int, reason: object) -> None:
    one, other = place(here), puppet(there)
    ref = one.do(pa.monitor, other.pid)
    other.end(reason)
    assert one.do(get) == pa.Down(ref, other.pid, reason)
    settle(one, puppet(there))
    assert one.do(mail) == []
    assert pa.process_info(one.pid, "monitors") == []


@pytest.mark.contract("S4.3")
@everywhere
def test_a_crash_arrives_with_its_traceback_and_exception(node: pa.ActorSystem, here: int, there: int) -> None:
    one = place(here)
    pid, ref = one.do(pa.options(worker=there).spawn_monitor, lookup, "key")
    down = one.do(get)
    assert down == pa.Down(ref, pid, pa.Crash("KeyError", "'key'"))
    assert "in lookup" in down.reason.traceback
    assert isinstance(down.reason.exception, KeyError)


def lookup(key: str) -> int:
    empty: dict[str, int] = {}
    return empty[key]


@pytest.mark.contract("S4.3")
@everywhere
def test_monitors_stack(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    refs = [one.do(pa.monitor, other.pid) for _ in range(5)]
    assert len(set(refs)) == 5
    assert one.do(pa.demonitor, refs[2])
    other.end("boom")
    downs = [one.do(get) for _ in range(4)]
    assert {down.ref for down in downs} == set(refs) - {refs[2]}
    settle(one, puppet(there))
    assert one.do(mail) == []


@pytest.mark.contract("S4.3")
def test_many_watchers_of_one_process(node: pa.ActorSystem) -> None:
    target = puppet(1)
    watchers = [puppet(index % 2) for index in range(20)]
    refs = [watcher.do(pa.monitor, target.pid) for watcher in watchers]
    target.end("boom")
    assert [w.do(get) for w in watchers] == [pa.Down(ref, target.pid, "boom") for ref in refs]


@pytest.mark.contract("S4.3")
@everywhere
def test_a_monitor_is_one_way(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = puppet(there), place(here)
    one.do(pa.monitor, other.pid)
    one.end("boom")
    settle(other, puppet(there))
    assert other.do(mail) == []
    assert pa.process_info(other.pid, "monitored_by") == []


@pytest.mark.contract("S4.3")
@pytest.mark.parametrize("worker", [GUEST, 0])
def test_a_monitor_on_oneself_never_fires(node: pa.ActorSystem, worker: int) -> None:
    one = place(worker)
    ref = one.do(pa.monitor, one.pid)
    assert one.do(mail) == []
    assert one.do(pa.demonitor, ref)
    assert not one.do(pa.demonitor, ref)
    if worker != GUEST:
        one.do(pa.monitor, one.pid)
        assert one.end("boom") == "boom"


@pytest.mark.contract("S4.3")
def test_two_watch_each_other_and_end_at_once(node: pa.ActorSystem) -> None:
    one, other = puppet(0), puppet(1)
    one.do(pa.monitor, other.pid)
    other.do(pa.monitor, one.pid)
    watches = [one.watch(), other.watch()]
    one.tell(leave, "left")
    other.tell(leave, "right")
    assert [Puppet.reason_of(watch) for watch in watches] == ["left", "right"]


# --- the dead ---------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S4.3")
@everywhere
def test_a_monitor_on_the_dead_gives_noproc(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    other.end("boom")
    refs = [one.do(pa.monitor, other.pid) for _ in range(3)]
    assert [one.do(get) for _ in refs] == [pa.Down(ref, other.pid, "noproc") for ref in refs]
    assert pa.process_info(one.pid, "monitors") == []


@pytest.mark.contract("S4.3")
def test_a_monitor_while_the_target_dies_gives_one_down(node: pa.ActorSystem) -> None:
    one = puppet(0)
    for _ in range(50):
        target = puppet(1)
        target.tell(leave, "boom")
        refs = one.do(monitor_often, target.pid, 20)
        downs = [one.do(get) for _ in refs]
        assert [down.ref for down in downs] == refs
        assert {down.reason for down in downs} <= {"boom", "noproc"}
    settle(one, puppet(1))
    assert one.do(mail) == []


def monitor_often(pid: pa.Pid, times: int) -> list[pa.Ref]:
    return [pa.monitor(pid) for _ in range(times)]


@pytest.mark.contract("S1.4", "S4.3", partly=True)
@everywhere
@pytest.mark.parametrize("reason", ["normal", "boom", "kill"])
def test_spawn_monitor_is_one_step(node: pa.ActorSystem, here: int, there: int, reason: str) -> None:
    one = place(here)
    made = [one.do(pa.options(worker=there).spawn_monitor, leave, reason) for _ in range(20)]
    assert [one.do(get) for _ in made] == [pa.Down(ref, pid, reason) for pid, ref in made]


@pytest.mark.contract("S1.4", partly=True)
@pytest.mark.parametrize("third", [0, 1, GUEST])
def test_a_monitor_that_overtakes_the_birth_holds(node: pa.ActorSystem, third: int) -> None:
    # The spawner tells the third party before the home has seen the birth.
    spawner, watcher = puppet(0), place(third)
    for _ in range(50):
        pid = spawner.do(pa.options(worker=1).spawn, leave, "boom")
        ref = watcher.do(pa.monitor, pid)
        down = watcher.do(get)
        assert (down.ref, down.pid) == (ref, pid)
        assert down.reason in ("boom", "noproc")
    pid = spawner.do(pa.options(worker=1).spawn, park)
    ref = watcher.do(pa.monitor, pid)
    pa.exit(pid, "over")
    assert watcher.do(get) == pa.Down(ref, pid, "over")


# --- demonitor --------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S4.3")
@everywhere
def test_after_demonitor_no_down(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    ref = one.do(pa.monitor, other.pid)
    assert one.do(pa.demonitor, ref)
    assert not one.do(pa.demonitor, ref)
    settle(one, other)
    assert one.pid not in pa.process_info(other.pid, "monitored_by")
    other.end("boom")
    settle(one, puppet(there))
    assert one.do(mail) == []


@pytest.mark.contract("S4.3")
@everywhere
def test_flush_takes_the_down_out_of_the_mailbox_and_nothing_else(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    kept, flushed = (one.do(pa.monitor, other.pid) for _ in range(2))
    other.do(pa.send, one.pid, "before")
    other.end("boom")
    pa.send(one.pid, "after")
    assert one.do(pa.receive, "after", timeout=WAIT) == "after"
    assert not one.do(pa.demonitor, flushed, flush=True)
    assert one.do(mail) == ["before", pa.Down(kept, other.pid, "boom")]


@pytest.mark.contract("S4.3")
@everywhere
def test_demonitor_without_flush_leaves_what_has_arrived(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    ref = one.do(pa.monitor, other.pid)
    other.end("boom")
    settle(one, puppet(there))
    assert not one.do(pa.demonitor, ref)
    assert one.do(mail) == [pa.Down(ref, other.pid, "boom")]


@pytest.mark.contract("S4.3")
@pytest.mark.parametrize("here", [GUEST, 0])
def test_a_down_under_way_does_not_arrive_after_demonitor(node: pa.ActorSystem, here: int) -> None:
    one, other = place(here), puppet(1)
    ref = one.do(pa.monitor, other.pid)
    # Behind the Down in the same ring: the canary, which the target is linked to, ends after it.
    other.do(pa.link, puppet(1, name="canary").pid)
    one.do(demonitor_late, other.pid, "canary", ref)
    settle(one, puppet(1))
    assert one.do(mail) == []


def demonitor_late(target: pa.Pid, canary: str, ref: pa.Ref) -> bool:
    with pa.no_preempt():
        pa.send(target, ("do", pa.self_(), pa.make_ref(), leave, ("boom",), {}))
        while pa.whereis(canary) is not None:  # reads shared memory, takes nothing in
            pass
        return pa.demonitor(ref, flush=True)


@pytest.mark.contract("S4.3")
def test_only_its_owner_can_take_a_monitor_off(node: pa.ActorSystem) -> None:
    one, stranger, target = puppet(0), puppet(0), puppet(1)
    ref = one.do(pa.monitor, target.pid)
    assert not stranger.do(pa.demonitor, ref, flush=True)
    assert not pa.demonitor(ref)
    target.end("boom")
    assert one.do(get) == pa.Down(ref, target.pid, "boom")


@pytest.mark.contract("S4.3")
def test_a_reference_that_is_no_monitor_is_taken_off_without_effect(node: pa.ActorSystem) -> None:
    assert pa.demonitor(pa.make_ref(), flush=True) is False
    with pytest.raises(TypeError):
        pa.demonitor("ref")  # type: ignore[arg-type]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S4.3", "S5.3", partly=True)
@everywhere
def test_a_name_can_be_monitored(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there, name="watched")
    ref = one.do(pa.monitor, "watched")
    other.end("boom")
    down = one.do(get)
    assert (down.ref, down.reason) == (ref, "boom")


@pytest.mark.contract("S4.3", partly=True)
@pytest.mark.parametrize("worker", [GUEST, 0])
def test_a_name_that_nobody_has_gives_noproc(node: pa.ActorSystem, worker: int) -> None:
    one = place(worker)
    ref = one.do(pa.monitor, "nobody")
    assert one.do(get) == pa.Down(ref, "nobody", "noproc")  # type: ignore[arg-type]
    assert not one.do(pa.demonitor, ref)


@pytest.mark.contract("S4.3")
@both_workers
def test_the_monitor_of_a_name_stays_with_the_process_that_had_it(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = puppet(here), puppet(there, name="moving")
    ref = one.do(pa.monitor, "moving")
    pa.unregister("moving")
    heir = puppet(there, name="moving")
    heir.end("boom")
    settle(one, other)
    assert one.do(mail) == []
    other.end("bang")
    down = one.do(get)
    assert (down.ref, down.reason) == (ref, "bang")


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S2.1", partly=True)
@everywhere
def test_the_down_comes_behind_all_that_the_process_had_sent(node: pa.ActorSystem, here: int, there: int) -> None:
    one = place(here)
    pid, ref = pa.options(worker=there).spawn_monitor(flood, one.pid, 2000)
    ref = ref if here == GUEST else one.do(pa.monitor, pid)
    pa.send(pid, "go")
    got = one.do(take, 2001)
    assert got[:-1] == list(range(2000))
    assert (got[-1].ref, got[-1].reason) == (ref, "normal")


def flood(receiver: pa.Pid, count: int) -> None:
    pa.receive("go")
    for number in range(count):
        # Some large ones between: they take more than one record.
        pa.send(receiver, number if number % 100 else Padded(number))


class Padded(int):
    """A number that takes 40 kB to send."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpad, (int(self), bytes(40_000))


def _unpad(number: int, _: bytes) -> int:
    return number


@pytest.mark.contract("S4.3")
def test_ten_thousand_monitors_give_ten_thousand_downs(node: pa.ActorSystem) -> None:
    one = puppet(0)
    made = one.do(monitor_all, 5000)
    assert len(set(made)) == 10_000
    downs = one.do(take, 10_000)
    assert Counter(made) == Counter(down.ref for down in downs)
    assert {down.reason for down in downs} == {"normal"}


def monitor_all(count: int) -> list[pa.Ref]:
    refs = []
    for number in range(count):
        pid, ref = pa.options(worker=number % 2).spawn_monitor(pa.receive, "go")
        refs += [ref, pa.monitor(pid)]
        pa.send(pid, "go")
    return refs


# --- guests -----------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S4.3", partly=True)
@pytest.mark.parametrize("worker", [0, 1])
def test_the_end_of_a_guest_thread_is_a_normal_end(node: pa.ActorSystem, worker: int) -> None:
    one = puppet(worker)
    seen: list[Any] = []

    def visit() -> None:
        seen.append(pa.self_())
        seen.append(one.do(pa.monitor, pa.self_()))

    thread = threading.Thread(target=visit)
    thread.start()
    thread.join()
    guest, ref = seen
    assert one.do(get) == pa.Down(ref, guest, "normal")
    again = one.do(pa.monitor, guest)
    assert one.do(get) == pa.Down(again, guest, "noproc")


@pytest.mark.contract("S4.3", partly=True)
def test_a_guest_that_leaves_takes_its_monitors_along(node: pa.ActorSystem) -> None:
    target = puppet(0)

    def visit() -> None:
        pa.monitor(target.pid)
        assert pa.self_() in pa.process_info(target.pid, "monitored_by")

    thread = threading.Thread(target=visit)
    thread.start()
    thread.join()
    eventually(lambda: pa.process_info(target.pid, "monitored_by") == [], "its end has come to the target")


@pytest.mark.contract("S4.3")
@pytest.mark.parametrize("body", [park, obey], ids=["parked", "obeying"])
def test_a_process_of_another_run_is_dead(body: Callable[[], None]) -> None:
    with pa.ActorSystem(workers=1):
        former = pa.spawn(body)
        myself = pa.self_()
    with pa.ActorSystem(workers=1):
        for pid in (former, myself):
            ref = pa.monitor(pid)
            assert pa.receive(timeout=WAIT) == pa.Down(ref, pid, "noproc")
            assert not pa.is_alive(pid)
            pa.send(pid, "nothing happens")
            pa.exit(pid, "kill")
        assert pa.is_alive(pa.self_())
