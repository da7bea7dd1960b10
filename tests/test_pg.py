"""Groups of processes: who is in them, seen from everywhere, and who tells of changes (S5.2)."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from parallel_actors import pg
from puppets import GUEST, Puppet, get, mail, park, place, puppet

PLACES = [0, 1, GUEST]


def members(group: Hashable, scope: str = "pg") -> Counter[pa.Pid]:
    return Counter(pg.get_members(group, scope=scope))


def counted(*puppets: Puppet) -> Counter[pa.Pid]:
    return Counter(each.pid for each in puppets)


def scope_process(worker: int, scope: str = "pg") -> pa.Pid:
    pid = pa.whereis(f"$pg/{scope}/{worker}")
    assert pid is not None
    return pid


@contract("S5.2", partly=True)
@pytest.mark.parametrize("home", PLACES)
@pytest.mark.parametrize("caller", PLACES)
def test_who_has_joined_is_a_member(node: pa.ActorSystem, home: int, caller: int) -> None:
    member, actor, other = place(home), place(caller), puppet(1)
    group = ("room", 7)
    for asker in actor, other, member:
        assert [] == asker.do(pg.get_members, group)
        assert not asker.do(pg.leave, group, member.pid)
    actor.do(pg.join, group, member.pid)
    for asker in actor, other, member:
        assert [member.pid] == asker.do(pg.get_members, group)
        assert [group] == asker.do(pg.which_groups)
    member.do(pg.join, group)
    other.do(pg.join, group)
    assert counted(member, member, other) == members(group)
    assert actor.do(pg.leave, group, member.pid)
    assert counted(member, other) == members(group)
    assert member.do(pg.leave, group)
    assert not member.do(pg.leave, group)
    assert [other.pid] == pg.get_members(group)


def test_many_join_and_leave_at_once(node: pa.ActorSystem) -> None:
    many = [puppet(number % 2, name=f"p{number}") for number in range(6)]
    pg.join("all", [pa.self_(), *(each.pid for each in many[:3]), *(f"p{number}" for number in range(3, 6))])
    pg.join("all", "p1")
    assert counted(*many, many[1], Puppet(pa.self_())) == members("all")
    assert pg.leave("all", [many[0].pid, many[1].pid, puppet(0).pid])
    assert counted(*many[1:], Puppet(pa.self_())) == members("all")
    pg.join("all", [])
    assert not pg.leave("all", [])


def test_local_members_run_on_the_callers_worker(node: pa.ActorSystem) -> None:
    here, there, mover = puppet(0), puppet(1), pa.options(worker=0).start(pa.GenServer)
    pg.join("both", [here.pid, there.pid, mover])
    pg.join("far", there.pid)
    assert counted(here) + Counter([mover]) == Counter(here.do(pg.get_local_members, "both"))
    assert [there.pid] == there.do(pg.get_local_members, "both")
    assert ["both"] == here.do(pg.which_local_groups)
    assert ["both", "far"] == sorted(there.do(pg.which_local_groups), key=str)
    assert [] == pg.get_local_members("both"), "the test's own thread is no worker"
    pa.migrate(mover, 1)
    assert counted(there) + Counter([mover]) == Counter(there.do(pg.get_local_members, "both"))
    assert [here.pid] == here.do(pg.get_local_members, "both")


def test_scopes_have_nothing_to_do_with_each_other(node: pa.ActorSystem) -> None:
    one, other = puppet(0), puppet(1)
    one.do(pg.join, "group")
    other.do(pg.join, "group", scope="mine")
    assert counted(one) == members("group")
    assert counted(other) == members("group", "mine")
    assert ["group"] == pg.which_groups(scope="mine")
    assert not other.do(pg.leave, "group")
    assert [] == pg.which_groups(scope="another")


@contract("S4.5", partly=True)
@pytest.mark.parametrize("worker", [0, 1])
def test_who_is_dead_is_no_member(node: pa.ActorSystem, worker: int) -> None:
    one = puppet(worker)
    for reason in ["normal", "boom"] * 10:
        one = puppet(worker)
        pg.join("group", [one.pid, one.pid])
        pg.join("other", one.pid)
        one.end(reason)
        assert [] == pg.get_members("group")
        assert [] == puppet(0).do(pg.which_groups)
    pg.join("group", one.pid)
    assert [] == pg.get_members("group")
    state = pa.sys_.get_state(scope_process(worker))
    eventually(lambda: not pa.sys_.get_state(scope_process(worker)).own, "nothing is kept of the dead")
    assert not state.peers.get("group")


@contract("S4.5", partly=True)
def test_the_dead_are_not_told_of_before_the_scope_process_has_heard(node: pa.ActorSystem) -> None:
    one, living = puppet(0), puppet(0)
    living.do(pg.join, "living")
    one.end("done")

    def stale(state: Any) -> Any:
        state.own["group"] = [one.pid]
        state.joined[one.pid] = (pa.make_ref(), ["group"])
        return state

    pa.sys_.replace_state(scope_process(0), stale)
    assert [] == pg.get_members("group")
    assert ["living"] == pg.which_groups()


def test_who_moves_stays_a_member(node: pa.ActorSystem) -> None:
    mover = pa.options(worker=0).start(pa.GenServer)
    pg.join("group", mover)
    pa.migrate(mover, 1)
    assert [mover] == pg.get_members("group")
    pa.stop(mover)
    assert [] == pg.get_members("group")


# --- monitors ---------------------------------------------------------------------------------------------------------


@contract("S5.2", partly=True)
@pytest.mark.parametrize("home", PLACES)
@pytest.mark.parametrize("watcher", PLACES)
def test_a_monitor_tells_of_changes(node: pa.ActorSystem, home: int, watcher: int) -> None:
    member, eyes, ending = place(home), place(watcher), puppet(1)
    pg.join("group", ending.pid, scope="s")
    ref, there = eyes.do(pg.monitor, "group", scope="s")
    seen = list(there)
    if not there:  # it was started for this, and hears of the others in a moment
        assert (ref, "join", "group", [ending.pid]) == eyes.do(get)
        seen = [ending.pid]
    assert [ending.pid] == seen
    member.do(pg.join, "group", [member.pid, member.pid], scope="s")
    assert (ref, "join", "group", [member.pid, member.pid]) == eyes.do(get)
    member.do(pg.join, "other", scope="s")
    member.do(pg.leave, "group", scope="s")
    assert (ref, "leave", "group", [member.pid]) == eyes.do(get)
    ending.end("boom")
    assert (ref, "leave", "group", [ending.pid]) == eyes.do(get)
    assert eyes.do(pg.demonitor, ref)
    member.do(pg.leave, "group", scope="s")
    assert not eyes.do(pg.demonitor, ref)
    assert [] == eyes.do(mail)


@pytest.mark.parametrize("watcher", PLACES)
def test_a_whole_scope_is_monitored(node: pa.ActorSystem, watcher: int) -> None:
    one, eyes = puppet(0), place(watcher)
    one.do(pg.join, "a")
    other = puppet(1)
    other.do(pg.join, "a")
    eyes.do(pg.join, "mine")  # there is a scope process for it from here on
    peers = pa.whereis(f"$pg/pg/{watcher}") or scope_process(0)
    eventually(lambda: any("a" in groups for groups in pa.sys_.get_state(peers).peers.values()), "they know each other")
    ref, groups = eyes.do(pg.monitor_scope)
    assert {"a", "mine"} == set(groups)
    assert sorted([one.pid, other.pid]) == sorted(groups["a"])
    other.do(pg.join, "b")
    assert (ref, "join", "b", [other.pid]) == eyes.do(get)
    one.end("x")
    assert (ref, "leave", "a", [one.pid]) == eyes.do(get)
    assert eyes.do(pg.demonitor, ref)


def test_demonitor_takes_what_has_come(node: pa.ActorSystem) -> None:
    ref, _ = pg.monitor("group")
    pa.send(pa.self_(), "other mail")
    pg.join("group")
    assert pg.demonitor(ref)
    assert ["other mail"] == mail()
    with pytest.raises(TypeError, match="expected the Ref of a monitor"):
        puppet(0).do(pg.demonitor, ["no ref"])  # type: ignore[arg-type]


def test_who_monitors_and_ends_is_forgotten(node: pa.ActorSystem) -> None:
    eyes = puppet(0)
    eyes.do(pg.monitor, "group")
    eyes.end("done")
    eventually(lambda: not pa.sys_.get_state(scope_process(0)).watchers, "it is forgotten")
    pg.join("group", puppet(0).pid)


# --- races ------------------------------------------------------------------------------------------------------------


def churn(seed: int, others: list[pa.Pid], to: pa.Pid) -> None:
    """Join and leave, for oneself and others, and end as a member of one group."""
    for number in range(30):
        pg.join(("churn", number % 3))
        pg.join("others", others[(seed + number) % len(others)])
        pg.leave("others", others[(seed + number) % len(others)])
        pg.leave(("churn", number % 3))
    pg.join("end")
    pa.send(to, "done")
    park()


def test_all_at_once(node: pa.ActorSystem) -> None:
    others = [puppet(number % 2).pid for number in range(3)]
    racers = [pa.options(worker=number % 2).spawn(churn, number, others, pa.self_()) for number in range(6)]
    assert ["done"] * 6 == [get() for _ in racers]
    assert Counter(racers) == members("end")
    assert [] == pg.get_members("others")
    assert ["end"] == pg.which_groups()
    for worker in 0, 1:
        eventually(
            lambda worker=worker: Counter(racers) == known(worker).get("end"),  # type: ignore[misc]
            "each scope process has heard of all",
        )


def known(worker: int) -> dict[Hashable, Counter[pa.Pid]]:
    """What a scope process tells those who monitor there."""
    state = pa.sys_.get_state(scope_process(worker))
    groups = {group for some in (state.own, *state.peers.values()) for group in some}
    return {group: Counter(state.members(group)) for group in groups}


# --- workers that die -------------------------------------------------------------------------------------------------


@contract("S5.2", partly=True)
def test_a_worker_dies_with_its_members_alone(actor_system: pa.ActorSystem) -> None:
    here, there = puppet(1), puppet(0)
    pg.join("group", [here.pid, there.pid, pa.self_(), pa.self_()])
    assert pa.self_() in pa.sys_.get_state(scope_process(0)).joined, "the first one looks after guests"
    here.do(pg.join, "mine")
    ref, _ = here.do(pg.monitor, "group")
    eventually(lambda: known(1).get("group") == members("group"), "it has heard of all")
    here.do(mail)
    watch = there.watch()
    os.kill(actor_system.worker_pids[0], signal.SIGKILL)
    assert isinstance(Puppet.reason_of(watch), pa.WorkerDown)
    expected = Counter([here.pid, pa.self_(), pa.self_()])
    eventually(lambda: members("group") == expected, "the guest is looked after by another")
    assert there.pid not in here.do(pg.get_members, "group")
    changes = Counter([there.pid])

    def told() -> bool:
        for _, what, group, pids in here.do(mail):
            assert group == "group"
            changes.update(pids) if what == "join" else changes.subtract(pids)
        return changes[there.pid] == 0 and changes[pa.self_()] == 0

    eventually(told, "who monitors has heard of it")
    eventually(lambda: len(pa.worker_indices()) == 2 and pa.is_alive(puppet(0).pid), "there is a new worker")
    newcomer = puppet(0)
    newcomer.do(pg.join, "group")
    assert expected + counted(newcomer) == members("group")
    assert pg.leave("group")
    assert counted(here, newcomer) + Counter([pa.self_()]) == members("group")
    eventually(lambda: known(1).get("group") == members("group") == known(0).get("group"), "all agree")
    assert here.do(pg.demonitor, ref)


def test_a_scope_process_that_is_killed_loses_no_member(node: pa.ActorSystem) -> None:
    one, other = puppet(0), puppet(1)
    pg.join("group", [one.pid, other.pid])
    eventually(lambda: known(1).get("group") == members("group"), "they know each other")
    former = scope_process(0)
    pa.exit(former, "kill")
    eventually(lambda: members("group") == counted(one, other), "the other one looks after its members")
    one.do(pg.join, "group")
    assert counted(one, one, other) == members("group")
    assert one.do(pg.leave, "group")
    assert one.do(pg.leave, "group")
    assert counted(other) == members("group")
    other.end("x")
    assert [] == pg.get_members("group")


def test_a_monitor_tells_when_its_scope_process_ends(node: pa.ActorSystem) -> None:
    eyes = puppet(0)
    ref, _ = eyes.do(pg.monitor, "group")
    pa.exit(scope_process(0), "kill")
    down = eyes.do(get)
    assert (ref, "killed") == (down.ref, down.reason)
    assert eyes.do(pg.demonitor, ref)
    ref, _ = eyes.do(pg.monitor, "group")
    eyes.do(pg.join, "group")
    assert (ref, "join", "group", [eyes.pid]) == eyes.do(get)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_bad_groups_and_members_are_refused(node: pa.ActorSystem) -> None:
    unhashable: Any = []
    bad: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: pg.join(unhashable), TypeError, "expected a group that can be hashed, got"),
        (lambda: pg.get_members(unhashable), TypeError, "expected a group that can be hashed"),
        (lambda: pg.monitor(unhashable), TypeError, "expected a group that can be hashed"),
        (lambda: pg.join("a", 7), TypeError, "expected a Pid or a registered name, got 7"),  # type: ignore[arg-type]
        (lambda: pg.join("a", [7]), TypeError, "expected a Pid"),  # type: ignore[list-item]
        (lambda: pg.join("a", "nobody"), pa.NotRegistered, "expected a registered name, got 'nobody'"),
        (lambda: pg.join("a", scope=7), TypeError, "expected the name of a scope"),  # type: ignore[arg-type]
        (lambda: pg.which_groups(scope=None), TypeError, "expected the name"),  # type: ignore[arg-type]
    ]
    for call, error, text in bad:
        with pytest.raises(error, match=text):
            call()
    pg.join("a")
    home = next(pid for worker in (0, 1) if (pid := pa.whereis(f"$pg/pg/{worker}")))
    pa.send(home, "junk")
    assert "error" == pa.call(home, "junk")[0]
    assert [pa.self_()] == pg.get_members("a")
