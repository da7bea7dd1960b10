"""Who hands how much to whom (the rules alone), and that a node whose worker has too much acts on it (S9.7)."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

import parallel_actors as pa
from contract import contract
from parallel_actors.root.balance import Balance, Load, Order

FULL = Load(queue=5, busy=1.0)
IDLE = Load(queue=0, busy=0.0)
LOOKS = 5


def decide(balance: Balance, loads: dict[int, Load], looks: int) -> list[list[Order]]:
    return [balance.decide(loads) for _ in range(looks)]


@contract("S9.7", partly=True)
def test_it_is_patient_and_moves_half_of_the_difference() -> None:
    orders = decide(Balance(), {0: FULL, 1: Load(queue=0, busy=0.4)}, LOOKS)
    assert [[]] * (LOOKS - 1) + [[Order(0, 1, 0.3)]] == orders


@contract("S9.7", partly=True)
@pytest.mark.parametrize(
    "loads",
    [
        {0: FULL, 1: FULL},
        {0: Load(queue=0, busy=1.0), 1: IDLE},  # nobody waits there: it is one process that computes
        {0: Load(queue=3, busy=0.5), 1: IDLE},
        {0: FULL, 1: Load(queue=0, busy=0.8)},
        {0: FULL, 1: Load(queue=0, busy=0.0, open=False)},
        {0: FULL},
    ],
    ids=["all full", "one alone", "half full", "little to spare", "leaving", "the only one"],
)
def test_nothing_moves_where_nothing_is_gained(loads: dict[int, Load]) -> None:
    assert [[]] * 30 == decide(Balance(), loads, 30)


@contract("S9.7", partly=True)
def test_after_an_order_both_are_left_alone_until_it_shows() -> None:
    balance = Balance()
    given = [number for number, orders in enumerate(decide(balance, {0: FULL, 1: IDLE}, 60)) if orders]
    assert len(given) >= 3
    assert all(later - earlier >= 12 for earlier, later in pairwise(given))


@contract("S9.7", partly=True)
def test_one_look_that_is_not_full_begins_anew() -> None:
    balance = Balance()
    decide(balance, {0: FULL, 1: IDLE}, LOOKS - 1)
    balance.decide({0: IDLE, 1: IDLE})
    assert [[]] * (LOOKS - 1) == decide(balance, {0: FULL, 1: IDLE}, LOOKS - 1)


@contract("S9.7", partly=True)
def test_the_fullest_gives_to_the_emptiest() -> None:
    loads = {0: FULL, 1: Load(queue=9, busy=1.0), 2: Load(queue=0, busy=0.5), 3: IDLE}
    assert [Order(1, 3, 0.5), Order(0, 2, 0.25)] == decide(Balance(), loads, LOOKS)[-1]


class Busy(pa.Actor):
    """Works for ever, a little at a time."""

    @pa.cast
    def work(self) -> None:
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass
        pa.ref(Busy, pa.self_()).work()

    @pa.call
    def where(self) -> int | None:
        return pa.worker_index()


def start_busy(asker: pa.Pid, count: int) -> None:
    actors = [pa.start(Busy) for _ in range(count)]
    pa.send(asker, actors)
    for actor in actors:
        actor.work()
    pa.receive()


@contract("S9.7", partly=True)
@pytest.mark.parametrize("rebalance", [True, False])
def test_actors_leave_a_worker_that_has_too_much(rebalance: bool) -> None:
    with pa.ActorSystem(workers=2, rebalance=rebalance):
        pa.options(worker=0).spawn(start_busy, pa.self_(), 4)
        actors = pa.receive(list, timeout=30)
        looks = 0
        while True:
            places = [actor.where.options(timeout=60)() for actor in actors]
            assert set(places) <= {0, 1}
            looks += 1
            if rebalance and set(places) == {0, 1}:
                break  # some have moved, and not all of them
            if not rebalance and looks == 400:
                assert [0] * 4 == places
                break
            assert looks < 100_000, "nothing has moved, or everything"
