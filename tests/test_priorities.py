"""Priorities: who comes first when several want their worker (S1.12)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import pytest

import parallel_actors as pa
from leaks import eventually
from puppets import WAIT, ask, echo, leave, puppet

contract = pytest.mark.contract

Priority = Literal["low", "normal", "high"]
LEVELS: list[Priority] = ["low", "normal", "high"]
ROUNDS: dict[int, int] = {}


def tell(starter: pa.Pid, what: object) -> None:
    pa.send(starter, what)


def start_all(starter: pa.Pid, levels: list[Priority]) -> None:
    """Start one process of each of these priorities, on this worker, before any of them can run."""
    with pa.no_preempt():
        for number, level in enumerate(levels):
            pa.options(worker=pa.worker_index(), priority=level).spawn(tell, starter, (level, number))


def order_of(levels: list[Priority]) -> list[tuple[Priority, int]]:
    puppet(1).do(start_all, pa.self_(), levels)
    return [pa.receive((str, int), timeout=WAIT) for _ in levels]


@contract("S1.12", partly=True)
def test_high_comes_first_and_low_last(node: pa.ActorSystem) -> None:
    found = order_of(["low", "normal", "high"] * 5)
    assert [level for level, _ in found[:5]] == ["high"] * 5
    assert [number for level, number in found if level == "high"] == [2, 5, 8, 11, 14], "in the order of their coming"
    assert [level for level, _ in found[5:]] == ["normal"] * 5 + ["low"] * 5


@contract("S1.12", partly=True)
def test_low_gets_its_turn_once_for_eight_of_normal(node: pa.ActorSystem) -> None:
    levels: list[Priority] = ["low", "low", "low", *LEVELS[1:2] * 30]
    found = [level for level, _ in order_of(levels)]
    assert sorted(found) == ["low"] * 3 + ["normal"] * 30
    places = [place for place, level in enumerate(found) if level == "low"]
    assert [later - earlier for earlier, later in pairwise(places)] == [9, 9]
    assert places[0] <= 8


@contract("S1.12", partly=True)
@pytest.mark.parametrize("worker", [0, 1])
def test_a_priority_can_be_asked_for_and_set(node: pa.ActorSystem, worker: int) -> None:
    for level in LEVELS:
        made = puppet(worker, priority=level)
        assert pa.process_info(made.pid, "priority") == level
        other: Priority = "low" if level == "high" else "high"
        assert made.do(pa.set_priority, other) == level
        assert pa.process_info(made.pid, "priority") == other
        assert made.do(pa.set_priority, "normal") == other
    assert pa.process_info(puppet(worker).pid, "priority") == "normal"
    assert pa.set_priority("high") == "normal", "a guest may say so too"
    assert pa.set_priority("normal") == "high"


@pytest.mark.parametrize("wrong", ["urgent", "", "HIGH", None, 1, b"high", ["high"]])
def test_a_priority_that_is_none_is_an_error(node: pa.ActorSystem, wrong: Any) -> None:
    with pytest.raises(ValueError, match='expected a priority "low", "normal" or "high", got '):
        pa.set_priority(wrong)
    with pytest.raises(ValueError, match='expected a priority "low", "normal" or "high", got '):
        pa.options(priority=wrong)


def test_a_priority_is_not_inherited(node: pa.ActorSystem) -> None:
    parent = puppet(1, priority="high")
    child = parent.do(pa.spawn, leave_when_told)
    assert pa.process_info(child, "priority") == "normal"


def leave_when_told() -> None:
    leave(pa.receive())


def compute(number: int) -> None:
    while True:
        sum(range(1000))
        ROUNDS[number] = ROUNDS.get(number, 0) + 1


def rounds() -> dict[int, int]:
    return dict(ROUNDS)


def forget_rounds() -> None:
    ROUNDS.clear()


def talk(peer: pa.Pid) -> None:
    while True:
        ask(peer, "hello")


@contract("S1.12", "S1.8", partly=True)
def test_hogs_of_any_priority_starve_nobody_of_any_other(node: pa.ActorSystem) -> None:
    looker = puppet(1, priority="high")
    looker.do(forget_rounds)
    for number, level in enumerate(LEVELS * 2):
        pa.options(worker=1, priority=level).spawn(compute, number)
    for level in LEVELS:
        pid = pa.options(worker=1, priority=level).spawn(echo)
        for number in range(100):
            assert ask(pid, number) == number
    eventually(lambda: sum(looker.do(rounds).values()) > 3000, "all together have done some work")
    found = looker.do(rounds)
    assert min(found.get(number, 0) for number in range(6)) > sum(found.values()) / 6 / 4, found


@contract("S1.12", "S1.8", partly=True)
def test_low_and_hogs_go_on_where_normal_ones_talk_without_end(node: pa.ActorSystem) -> None:
    looker = puppet(1)
    looker.do(forget_rounds)
    for _ in range(3):
        pa.options(worker=1).spawn(talk, pa.options(worker=1).spawn(echo))
    pa.options(worker=1).spawn(compute, 0)
    low = pa.options(worker=1, priority="low").spawn(echo)
    for number in range(200):
        assert ask(low, number) == number
    before = looker.do(rounds).get(0, 0)
    eventually(lambda: looker.do(rounds).get(0, 0) > before, "the hog goes on")


@contract("S1.12", "S1.9", partly=True)
@pytest.mark.parametrize("level", LEVELS)
def test_a_process_of_any_priority_can_be_killed(node: pa.ActorSystem, level: Priority) -> None:
    chosen = pa.options(worker=1, priority=level)
    for pid, ref in (chosen.spawn_monitor(compute, 7), chosen.spawn_monitor(echo)):
        pa.exit(pid, "kill")
        assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "killed"
