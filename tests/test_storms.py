"""What the library reports is bounded in a storm, counted exactly, and opens again (S6.8)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from parallel_actors.workers.limit import ReportLimit
from parallel_actors.workers.scheduler import current_scheduler
from puppets import GUEST, WAIT, place, puppet
from records import Account, Records, end_of_log, recorded

MOST = 5


@pytest.fixture(scope="module")
def shared_node() -> Iterator[pa.ActorSystem]:
    """The system behind `node`, whose records come to this program."""
    with pa.ActorSystem(workers=2, forward_logs=True, max_reports=MOST) as system:
        yield system


@pytest.fixture
def me(records: Records) -> Iterator[pa.Pid]:
    pa.trap_exit(True)
    yield pa.self_()
    pa.trap_exit(False)
    # What was left out is told now, and not while another test counts.
    for worker in (0, 1):
        puppet(worker).do(end_second)
    end_of_log(records)


def end_second() -> None:
    scheduler = current_scheduler()
    assert scheduler is not None
    assert scheduler.limit is not None
    scheduler.limit.close()


# --- storms -----------------------------------------------------------------------------------------------------------


def fall(word: str) -> None:
    raise ValueError(word)


def fall_at_once(count: int) -> None:
    for number in range(count):
        pa.options(worker=number % 2).spawn(fall, "one of many")


def counted(records: Records, event: str, kind: str) -> tuple[int, int]:
    """Reports made, and left out."""
    made = len(records.of(event=event))
    return made, sum(record.count for record in records.of(event="left_out", kind=kind))


@contract("S6.8", partly=True)
def test_ten_thousand_crashes_at_once(me: pa.Pid, node: pa.ActorSystem, records: Records) -> None:
    bystander = pa.start_link(Account, 1)
    assert bystander is not None
    parts = [psutil.Process(pid) for pid in (node.root_pid, *node.worker_pids)]
    before = [part.memory_info().rss for part in parts]
    began = time.monotonic()
    pa.spawn_monitor(fall_at_once, 10_000)
    assert pa.sys_.get_state(bystander, timeout=WAIT) == 1  # the node answers meanwhile
    assert pa.receive(pa.Down, timeout=WAIT).reason == "normal"
    eventually(lambda: sum(counted(records, "crash", "crash")) >= 10_000, "each is reported or counted")
    seconds = int(time.monotonic() - began) + 1
    end_of_log(records)
    made, left_out = counted(records, "crash", "crash")
    assert made + left_out == 10_000  # exactly
    # A window of a worker takes a second or more: so there were at most so many begun.
    assert 0 < made <= 2 * MOST * (seconds + 1)
    assert all("one of many" in record.reason and record.traceback for record in records.of(event="crash"))
    assert {record.worker for record in records.of(event="left_out")} == {0, 1}
    grown = [part.memory_info().rss - rss for part, rss in zip(parts, before, strict=True)]
    assert max(grown) < 100_000_000


class Falling(pa.GenServer):
    def init(self, number: int) -> Any:
        return pa.Ok(number)

    def handle_info(self, message: Any, state: Any) -> Any:
        if message == "fall":
            raise ValueError("told to")
        return super().handle_info(message, state)

    def format_status(self, status: Any) -> Any:
        logging.getLogger("status").warning("%s", status["state"])
        return status


@contract("S6.8", "S8.3", partly=True)
def test_each_kind_has_a_bound_of_its_own(me: pa.Pid, records: Records) -> None:
    count = 200
    supervisor = pa.DynamicSupervisor.start_link()
    pids = [
        pa.DynamicSupervisor.start_child(supervisor, pa.child(Falling, n, restart="temporary")) for n in range(count)
    ]
    for pid in pids:
        assert pid is not None
        for _ in range(3):
            pa.send(pid, "nobody knows this")
        pa.send(pid, "fall")
    kinds = {"crash": count, "supervisor": count, "unexpected_message": 3 * count}

    def sums() -> dict[str, int]:
        made = {
            "crash": len(records.of(event="crash")),
            "supervisor": len(records.of(event="child_terminated")),
            "unexpected_message": len(records.of(name="parallel_actors.gen_server")),
        }
        return {
            kind: made[kind] + sum(each.count for each in records.of(event="left_out", kind=kind)) for kind in kinds
        }

    eventually(lambda: sums() == kinds, "each is reported or counted")
    assert {record.kind for record in records.of(event="left_out")} == set(kinds)
    # format_status runs for reports that are made, and for no others; what user code logs is never left out.
    assert len(records.of(name="status")) == len(records.of(event="crash"))
    assert pa.is_alive(supervisor)


def fall_when_asked() -> None:
    pa.receive()
    fall("the reason")


@contract("S6.3", "S6.8", partly=True)
@pytest.mark.parametrize("here", [GUEST, 0, 1])
def test_who_waits_has_the_reason_also_of_a_crash_that_is_not_reported(me: pa.Pid, records: Records, here: int) -> None:
    for _ in range(2 * MOST):
        pa.options(worker=0).spawn(fall, "one of many")
    pid = pa.options(worker=0).spawn(fall_when_asked)
    with pytest.raises(pa.RemoteError, match="the reason"):
        place(here).do(pa.call, pid, "fall", timeout=WAIT)


def say_much() -> None:
    for number in range(1000):
        logging.getLogger("mine").warning("line", extra={"number": number})


@contract("S9.6", partly=True)
def test_what_user_code_logs_is_not_bounded(me: pa.Pid, records: Records) -> None:
    pa.options(worker=1).spawn_monitor(say_much)
    eventually(lambda: len(records.of(name="mine")) == 1000, "all of it is here")
    assert [record.number for record in records.of(name="mine")] == list(range(1000))


@contract("S6.8", partly=True)
def test_what_was_left_out_last_is_told_before_the_system_ends() -> None:
    with recorded() as found, pa.ActorSystem(workers=2, forward_logs=True, max_reports=0):
        pa.spawn_monitor(fall_at_once, 50)
        assert pa.receive(pa.Down, timeout=WAIT).reason == "normal"
        eventually(lambda: len(pa.processes()) == 1, "all have fallen")
    assert counted(found, "crash", "crash") == (0, 50)


# --- the bound itself -------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes when it is told to, and what was left out."""

    def __init__(self, most: int, *, reminds: bool = True) -> None:
        self.now = 100.0
        self.told: list[tuple[str, int]] = []
        self.reminders: list[float] = []
        self.limit = ReportLimit(
            most,
            lambda kind, count: self.told.append((kind, count)),
            (lambda seconds: self.reminders.append(self.now + seconds)) if reminds else None,
            lambda: self.now,
        )

    def ask(self, kind: str, count: int) -> int:
        return sum(self.limit.admits(kind) for _ in range(count))


@contract("S6.8", partly=True)
def test_a_new_second_opens_again() -> None:
    clock = Clock(3)
    assert clock.ask("crash", 10) == 3
    clock.now += 0.999
    assert clock.ask("crash", 10) == 0
    assert clock.told == []
    clock.now += 0.001
    assert clock.ask("crash", 2) == 2
    assert clock.told == [("crash", 17)]
    clock.now += 5
    assert clock.ask("crash", 4) == 3
    assert clock.told == [("crash", 17)]  # nothing was left out in between


@contract("S6.8", partly=True)
def test_a_storm_that_is_over_is_told_without_another_report() -> None:
    clock = Clock(2)
    assert clock.ask("crash", 100) == 2
    assert clock.reminders == [101.0]  # once
    clock.now = 100.9
    clock.limit.settle()  # a timer may be early
    assert (clock.told, clock.reminders) == ([], [101.0, 101.0])
    clock.now = 101.0
    clock.limit.settle()
    clock.limit.settle()
    assert clock.told == [("crash", 98)]
    assert clock.ask("crash", 3) == 2
    assert clock.reminders[2:] == [102.0]


@contract("S6.8", partly=True)
def test_kinds_are_counted_apart() -> None:
    clock = Clock(1, reminds=False)
    assert [clock.ask(kind, n) for kind, n in (("a", 3), ("b", 1), ("c", 2))] == [1, 1, 1]
    clock.limit.close()
    assert clock.told == [("a", 2), ("c", 1)]
    clock.limit.close()
    assert len(clock.told) == 2


@contract("S6.8", partly=True)
def test_a_bound_of_nothing_counts_all() -> None:
    clock = Clock(0)
    assert clock.ask("crash", 7) == 0
    clock.limit.close()
    assert clock.told == [("crash", 7)]


@contract("S6.8", partly=True)
def test_a_handler_that_reports_something_itself_is_counted() -> None:
    clock = Clock(1)
    limit = clock.limit

    def left_out(kind: str, count: int) -> None:
        clock.told.append((kind, count))
        if len(clock.told) < 3:
            limit.admits("dead_letter")
            limit.admits("dead_letter")

    limit = ReportLimit(1, left_out, None, lambda: clock.now)
    for _ in range(3):
        limit.admits("crash")
    limit.close()
    limit.close()
    assert clock.told == [("crash", 2), ("dead_letter", 1)]
