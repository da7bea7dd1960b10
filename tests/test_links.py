"""Links: who ends with whom, and that a link that was taken off stays off (S4.1, S4.2)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from parallel_actors.workers.preempt import TICK_SIGNAL
from puppets import GUEST, PLACES, WAIT, Puppet, get, leave, mail, obey, place, puppet

everywhere = pytest.mark.parametrize(("here", "there"), PLACES, ids=str)
both_workers = pytest.mark.parametrize(("here", "there"), [(0, 0), (0, 1)], ids=str)

# A reason that goes by pickle, one that goes as it is, and the library's own.
REASONS = ["boom", "shutdown", "killed", ("term", 1, [2.5]), pa.Shutdown("done"), None, 0]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keeps the calling process on its worker's core: nothing else runs there meanwhile, nothing is taken in."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [TICK_SIGNAL])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def links_of(pid: pa.Pid) -> list[pa.Pid]:
    found: list[pa.Pid] = pa.process_info(pid, "links")
    return found


def trapping(worker: int) -> Puppet:
    actor = place(worker)
    actor.do(pa.trap_exit)
    return actor


def settled(watcher: Puppet, target: Puppet, reason: object) -> Any:
    """End `target`; return what others see as its reason once `watcher` has taken in all that the death sends it."""
    ref = watcher.do(pa.monitor, target.pid)
    target.tell(leave, reason)
    return watcher.do(pa.receive, pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason


# --- what ends whom ---------------------------------------------------------------------------------------------------


@pytest.mark.contract("S4.1")
@both_workers
@pytest.mark.parametrize("linker", ["one", "other"])
@pytest.mark.parametrize("reason", REASONS, ids=str)
def test_an_abnormal_exit_ends_the_linked_process_with_the_same_reason(
    node: pa.ActorSystem, here: int, there: int, linker: str, reason: object
) -> None:
    one, other = puppet(here), puppet(there)
    if linker == "one":
        one.do(pa.link, other.pid)
    else:
        other.do(pa.link, one.pid)
    watch = one.watch()
    other.end(reason)
    assert one.reason_of(watch) == reason


@pytest.mark.contract("S4.1")
@both_workers
def test_a_crash_ends_the_linked_process_with_the_crash(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = puppet(here), puppet(there)
    one.do(pa.link, other.pid)
    watch = one.watch()
    other.tell(divide, 1, 0)
    reason = one.reason_of(watch)
    # `do` keeps Exceptions: so an exception of another kind.
    assert isinstance(reason, pa.Crash)
    assert (reason.type, reason.text) == ("test_links.Fatal", "1/0")
    assert "divide" in reason.traceback


class Fatal(BaseException):
    pass


def divide(a: int, b: int) -> None:
    raise Fatal(f"{a}/{b}")


@pytest.mark.contract("S4.1")
@everywhere
def test_a_normal_exit_leaves_the_linked_process_alone(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    one.do(pa.link, other.pid)
    assert settled(one, other, "normal") == "normal"
    assert one.do(mail) == []
    assert other.pid not in links_of(one.pid)


@pytest.mark.contract("S4.1")
@everywhere
@pytest.mark.parametrize("reason", ["normal", "kill", *REASONS], ids=str)
def test_a_process_that_traps_exits_gets_a_message(node: pa.ActorSystem, here: int, there: int, reason: object) -> None:
    one, other = trapping(here), puppet(there)
    one.do(pa.link, other.pid)
    assert settled(one, other, reason) == reason
    assert one.do(mail) == [pa.Exit(other.pid, reason)]
    assert links_of(one.pid) == []


@pytest.mark.contract("S4.1")
def test_the_guest_finds_out_at_its_next_call(node: pa.ActorSystem) -> None:
    other = puppet(1)
    pa.link(other.pid)
    other.tell(leave, "boom")
    with pytest.raises(pa.ProcessExit) as caught:
        pa.receive(timeout=WAIT)
    assert caught.value.reason == "boom"
    # A thread can't be ended from outside. It goes on, if it wants to.
    assert pa.is_alive(pa.self_())
    assert links_of(pa.self_()) == []
    assert other.reason() == "noproc"


@pytest.mark.contract("S4.1")
@both_workers
def test_reason_kill_through_a_link_can_be_trapped(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other, third = trapping(here), puppet(there), puppet(there)
    one.do(pa.link, other.pid)
    third.do(pa.link, other.pid)
    watch = third.watch()
    assert settled(one, other, "kill") == "kill"
    assert one.do(mail) == [pa.Exit(other.pid, "kill")]
    # The one that doesn't trap ends, and with "kill", not "killed".
    assert third.reason_of(watch) == "kill"


@pytest.mark.contract("S4.1")
@both_workers
def test_kill_travels_on_as_killed(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other, third = trapping(here), trapping(there), puppet(here)
    one.do(pa.link, other.pid)
    third.do(pa.link, other.pid)
    watch = third.watch()
    ref = one.do(pa.monitor, other.pid)
    pa.exit(other.pid, "kill")
    assert one.do(pa.receive, pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "killed"
    assert one.do(mail) == [pa.Exit(other.pid, "killed")]
    assert third.reason_of(watch) == "killed"


@pytest.mark.contract("S4.1")
@everywhere
def test_a_link_is_one_however_often_it_is_made(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = trapping(here), puppet(there)
    for _ in range(3):
        one.do(pa.link, other.pid)
        other.do(pa.link, one.pid)
    assert one.do(links_of, one.pid) == [other.pid]
    assert other.do(links_of, other.pid) == [one.pid]
    settled(one, other, "boom")
    assert one.do(mail) == [pa.Exit(other.pid, "boom")]


@pytest.mark.contract("S4.2")
@everywhere
def test_one_unlink_takes_off_a_link_made_often_and_from_both_sides(
    node: pa.ActorSystem, here: int, there: int
) -> None:
    one, other = trapping(here), puppet(there)
    for _ in range(3):
        one.do(pa.link, other.pid)
        other.do(pa.link, one.pid)
    one.do(pa.unlink, other.pid)
    assert one.do(links_of, one.pid) == []
    assert other.do(links_of, other.pid) == []
    settled(one, other, "boom")
    assert one.do(mail) == []


@pytest.mark.contract("S4.1")
@pytest.mark.parametrize("worker", [GUEST, 0])
def test_a_link_to_oneself_does_nothing(node: pa.ActorSystem, worker: int) -> None:
    one = place(worker)
    one.do(pa.link, one.pid)
    assert links_of(one.pid) == []
    one.do(pa.unlink, one.pid)


@pytest.mark.contract("S4.1", "S5.3", partly=True)
@both_workers
def test_a_name_can_be_linked_and_unlinked(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = puppet(here), puppet(there, name="linked")
    one.do(pa.link, "linked")
    assert links_of(one.pid) == [other.pid]
    one.do(pa.unlink, "linked")
    assert links_of(one.pid) == []
    one.do(pa.link, "linked")
    watch = one.watch()
    pa.exit("linked", "boom")
    assert one.reason_of(watch) == "boom"
    with pytest.raises(pa.NotRegistered):
        pa.link("linked")


@pytest.mark.parametrize("target", [None, 7, b"name", ("name",)], ids=str)
@pytest.mark.parametrize("call", [pa.link, pa.unlink, pa.monitor], ids=["link", "unlink", "monitor"])
def test_what_is_no_process_is_refused(node: pa.ActorSystem, call: Callable[[Any], object], target: object) -> None:
    with pytest.raises(TypeError, match="expected a Pid or a registered name, got"):
        call(target)


@pytest.mark.contract("S4.1")
def test_a_chain_and_a_ring_of_links_over_both_workers_fall_together(node: pa.ActorSystem) -> None:
    actors = [puppet(index % 2) for index in range(20)]
    for one, other in zip(actors, [*actors[1:], actors[0]], strict=True):
        one.do(pa.link, other.pid)
    watches = [actor.watch() for actor in actors]
    actors[7].tell(leave, "boom")
    assert [Puppet.reason_of(watch) for watch in watches] == ["boom"] * 20


@pytest.mark.contract("S4.1")
@both_workers
def test_a_trapping_process_in_the_middle_stops_the_fall(node: pa.ActorSystem, here: int, there: int) -> None:
    first, middle, last = puppet(here), trapping(there), puppet(here)
    middle.do(pa.link, first.pid)
    middle.do(pa.link, last.pid)
    settled(middle, first, "boom")
    assert middle.do(mail) == [pa.Exit(first.pid, "boom")]
    assert links_of(middle.pid) == [last.pid]
    assert last.alive


# --- atomic with spawn ------------------------------------------------------------------------------------------------


@pytest.mark.contract("S1.4", partly=True)
@everywhere
@pytest.mark.parametrize("reason", ["normal", "boom", "kill"])
def test_spawn_link_is_one_step(node: pa.ActorSystem, here: int, there: int, reason: str) -> None:
    one = trapping(here)
    pids = [one.do(spawn_linked, there, reason) for _ in range(20)]
    assert [one.do(get) for _ in pids] == [pa.Exit(pid, reason) for pid in pids]
    assert links_of(one.pid) == []


def spawn_linked(worker: int, reason: str) -> pa.Pid:
    return pa.options(worker=worker).spawn_link(leave, reason)


@pytest.mark.contract("S1.4", partly=True)
@both_workers
def test_the_child_of_a_parent_that_ends_right_after_spawn_link_ends_too(
    node: pa.ActorSystem, here: int, there: int
) -> None:
    me = pa.self_()
    for _ in range(20):
        pa.options(worker=here).spawn(bear_and_leave, me, there)
        watch = pa.monitor(pa.receive(pa.Pid, timeout=WAIT))
        assert Puppet.reason_of(watch) in ("boom", "noproc")


def bear_and_leave(asker: pa.Pid, worker: int) -> None:
    pa.send(asker, pa.options(worker=worker).spawn_link(obey))
    raise pa.ProcessExit("boom")


# --- the dead ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def dead_of() -> Iterator[Callable[[int], pa.Pid]]:
    def make(worker: int) -> pa.Pid:
        actor = puppet(worker)
        actor.end("normal")
        return actor.pid

    return make  # type: ignore[return-value]


@pytest.mark.contract("S4.2")
@everywhere
def test_linking_to_the_dead_gives_noproc(
    node: pa.ActorSystem, here: int, there: int, dead_of: Callable[[int], pa.Pid]
) -> None:
    one, dead = trapping(here), dead_of(there)
    one.do(pa.link, dead)
    assert one.do(get) == pa.Exit(dead, "noproc")
    assert links_of(one.pid) == []


@pytest.mark.contract("S4.2")
@both_workers
def test_linking_to_the_dead_ends_who_does_not_trap(
    node: pa.ActorSystem, here: int, there: int, dead_of: Callable[[int], pa.Pid]
) -> None:
    one, dead = puppet(here), dead_of(there)
    watch = one.watch()
    one.tell(pa.link, dead)
    assert one.reason_of(watch) == "noproc"


@pytest.mark.contract("S4.2")
def test_the_guest_links_to_the_dead(node: pa.ActorSystem, dead_of: Callable[[int], pa.Pid]) -> None:
    dead = dead_of(1)
    with pytest.raises(pa.ProcessExit) as caught:  # noqa: PT012
        pa.link(dead)
        pa.receive(timeout=WAIT)
    assert caught.value.reason == "noproc"


# --- unlink -----------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S4.2")
@everywhere
@pytest.mark.parametrize("traps", [True, False])
def test_after_unlink_the_other_side_may_end(node: pa.ActorSystem, here: int, there: int, traps: bool) -> None:
    one, other = place(here), puppet(there)
    one.do(pa.trap_exit, traps)
    one.do(pa.link, other.pid)
    one.do(pa.unlink, other.pid)
    settled(one, other, "boom")
    assert one.do(mail) == []


@pytest.mark.contract("S4.2")
@everywhere
def test_after_unlink_the_own_end_leaves_the_other_side_alone(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = puppet(there), place(here)
    other.do(pa.link, one.pid)
    other.do(pa.unlink, one.pid)
    settled(other, one, "boom")
    assert other.do(mail) == []
    assert links_of(other.pid) == []


@pytest.mark.contract("S4.2")
@everywhere
def test_linked_again_after_unlink_it_acts_again(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = trapping(here), puppet(there)
    for _ in range(3):
        one.do(pa.link, other.pid)
        one.do(pa.unlink, other.pid)
    one.do(pa.link, other.pid)
    settled(one, other, "boom")
    assert one.do(mail) == [pa.Exit(other.pid, "boom")]


def die_behind_my_back(target: pa.Pid, canary: str) -> None:
    """Have `target` end while nothing from it is taken in here; returns when its exit is on its way to the caller.

    The canary lives beside the target, which linked to it after it was linked to the caller: so its name is free when
    the exit for the caller has been sent.
    """
    pa.send(target, ("do", pa.self_(), pa.make_ref(), leave, ("boom",), {}))
    while pa.whereis(canary) is not None:  # reads shared memory, takes nothing in
        pass


def unlink_late(target: pa.Pid, canary: str) -> bool:
    with uninterrupted():
        die_behind_my_back(target, canary)
        pa.unlink(target)
    return True


def relink_late(target: pa.Pid, canary: str, rounds: int) -> bool:
    with uninterrupted():
        die_behind_my_back(target, canary)
        for _ in range(rounds):
            pa.unlink(target)
            pa.link(target)
    return True


def linked_with_canary(one: Puppet, other: Puppet, canary: str, by: str) -> None:
    if by == "caller":
        one.do(pa.link, other.pid)
    elif by == "target":
        other.do(pa.link, one.pid)
    else:
        one.do(pa.link, other.pid)
        other.do(pa.link, one.pid)
    other.do(pa.link, puppet(1, name=canary).pid)


@pytest.mark.contract("S4.2")
@pytest.mark.parametrize("here", [GUEST, 0])
@pytest.mark.parametrize("by", ["caller", "target", "both"])
def test_an_exit_under_way_does_not_act_after_unlink(node: pa.ActorSystem, here: int, by: str) -> None:
    one, other = place(here), puppet(1)
    linked_with_canary(one, other, "canary", by)
    assert one.do(unlink_late, other.pid, "canary")
    # It has been taken in by the time that what the other worker sends later is: and nobody has ended.
    assert puppet(1).do(pa.is_alive, one.pid)
    assert one.do(mail) == []


@pytest.mark.contract("S4.2")
@pytest.mark.parametrize("here", [GUEST, 0])
@pytest.mark.parametrize("by", ["caller", "target", "both"])
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_an_exit_under_way_does_not_act_on_the_link_made_anew(
    node: pa.ActorSystem, here: int, by: str, rounds: int
) -> None:
    one, other = trapping(here), puppet(1)
    linked_with_canary(one, other, "canary", by)
    assert one.do(relink_late, other.pid, "canary", rounds)
    # The new link is a link to a dead process: one noproc, no "boom".
    assert one.do(get) == pa.Exit(other.pid, "noproc")
    assert one.do(links_of, one.pid) == []
    assert puppet(1).do(pa.is_alive, one.pid)
    assert one.do(mail) == []


# --- both at once -----------------------------------------------------------------------------------------------------


def link_often(other: pa.Pid, rounds: int, last: Callable[[pa.Pid], None]) -> None:
    """Link and unlink while the other side does the same; end with `last`."""
    for _ in range(rounds):
        pa.link(other)
        pa.unlink(other)
    last(other)


@pytest.mark.contract("S4.1", "S4.2")
@both_workers
def test_both_sides_link_at_once(node: pa.ActorSystem, here: int, there: int) -> None:
    for dying in (0, 1):
        pair = one, other = trapping(here), trapping(there)
        one.tell(pa.link, other.pid)
        other.tell(pa.link, one.pid)
        for actor in pair:
            actor.do(mail)
        assert one.do(links_of, other.pid) == [one.pid]
        assert other.do(links_of, one.pid) == [other.pid]
        settled(pair[1 - dying], pair[dying], "boom")
        assert pair[1 - dying].do(mail) == [pa.Exit(pair[dying].pid, "boom")]


@pytest.mark.contract("S4.2")
@both_workers
@pytest.mark.parametrize("rounds", [1, 7, 300])
def test_both_sides_link_and_unlink_at_once_and_agree_in_the_end(
    node: pa.ActorSystem, here: int, there: int, rounds: int
) -> None:
    # Whoever's signal comes last, both sides have the same view when all is quiet.
    for ends in [(pa.link, pa.link), (pa.link, pa.unlink), (pa.unlink, pa.unlink)]:
        one, other = trapping(here), trapping(there)
        one.tell(link_often, other.pid, rounds, ends[0])
        other.tell(link_often, one.pid, rounds, ends[1])
        quiet(one, other)
        views = (one.do(links_of, one.pid), other.do(links_of, other.pid))
        assert views in (([other.pid], [one.pid]), ([], [])), ends
        if ends == (pa.link, pa.link):
            assert views == ([other.pid], [one.pid])
        settled(one, other, "boom")
        assert one.do(mail) == ([pa.Exit(other.pid, "boom")] if views[0] else [])


def quiet(one: Puppet, other: Puppet) -> None:
    """Wait until each has done what it was told, and has taken in what the other had sent by then."""
    for actor in (one, other):
        actor.do(mail)
    one.do(pa.process_info, other.pid)
    other.do(pa.process_info, one.pid)


@pytest.mark.contract("S4.1")
@both_workers
def test_both_sides_end_at_once(node: pa.ActorSystem, here: int, there: int) -> None:
    for _ in range(20):
        one, other = puppet(here), puppet(there)
        one.do(pa.link, other.pid)
        watches = [one.watch(), other.watch()]
        one.tell(leave, "left")
        other.tell(leave, "right")
        reasons = [Puppet.reason_of(watch) for watch in watches]
        assert set(reasons) <= {"left", "right"}


# --- the end of a guest -----------------------------------------------------------------------------------------------


@pytest.mark.contract("S4.1", partly=True)
def test_the_end_of_a_guest_thread_reaches_its_links(node: pa.ActorSystem) -> None:
    import threading

    one = puppet(0)
    one.do(pa.trap_exit)
    guests: list[pa.Pid] = []

    def visit() -> None:
        guests.append(pa.self_())
        pa.link(one.pid)

    thread = threading.Thread(target=visit)
    thread.start()
    thread.join()
    assert one.do(get) == pa.Exit(guests[0], "normal")
    assert links_of(one.pid) == []
    eventually(lambda: not pa.is_alive(guests[0]), "the guest is gone")
