"""What the library reports: with fixed fields, in one place for all workers (S6.8, S9.6)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from puppets import WAIT, puppet
from records import Account, Records, end_of_log


@pytest.fixture(scope="module")
def shared_node() -> Iterator[pa.ActorSystem]:
    """The system behind `node`, whose records come to this program."""
    with pa.ActorSystem(workers=2, forward_logs=True) as system:
        yield system


@pytest.fixture
def me(records: Records) -> Iterator[pa.Pid]:
    pa.trap_exit(True)
    yield pa.self_()
    pa.trap_exit(False)


# --- fields -----------------------------------------------------------------------------------------------------------


@contract("S6.8", "S9.6", partly=True)
@pytest.mark.parametrize("worker", [0, 1])
def test_a_crash_report_has_fixed_fields(me: pa.Pid, records: Records, worker: int) -> None:
    name = f"account {worker}"
    pid = pa.options(worker=worker, name=name).start(Account, 100)
    assert pid is not None
    other = puppet(1 - worker)
    other.do(pa.trap_exit)
    other.do(pa.link, pid)
    pa.cast(pid, "overdraw")
    record = records.one(event="crash", pid=repr(pid))
    assert (record.name, record.levelname, record.source) == ("parallel_actors.crash", "ERROR", repr(pid))
    assert (record.registered_name, record.worker, record.initial_call) == (name, worker, "Account")
    assert record.reason == "ValueError: no such request: overdraw"
    assert "overdraw" in record.last_message
    assert record.state == "100"
    assert "in handle_cast" in record.traceback
    assert (record.links, record.ancestors) == ([repr(other.pid)], [repr(me)])
    assert record.message_queue_len == 0
    assert record.label is None
    assert record.getMessage().startswith(f"process {pid!r} {name} crashed on worker {worker}: ValueError")


@contract("S6.8", "S8.3", "S9.6", partly=True)
def test_a_supervisor_report_has_fixed_fields(me: pa.Pid, records: Records) -> None:
    supervisor = pa.Supervisor.start_link([pa.child(Account, 7, id="a", restart="temporary")])
    (info,) = pa.Supervisor.which_children(supervisor)
    assert info.pid is not None
    pa.exit(info.pid, "boom")
    record = records.one(event="child_terminated", child=repr(info.pid))
    assert (record.name, record.supervisor) == ("parallel_actors.supervisor", repr(supervisor))
    assert (record.child_id, record.restart, record.reason) == ("a", "temporary", "'boom'")
    assert record.worker == supervisor.worker


def say() -> None:
    extra = {"number": 3, "deep": [1, (None, "x")], "who": pa.self_(), "odd": {1, 2}, "object": Account()}
    logging.getLogger("mine").warning("%s items", 3, extra=extra)
    logging.getLogger("mine").debug("below the level of the workers")
    try:
        raise ValueError("caught")
    except ValueError:
        logging.getLogger("mine").exception("it failed")


@contract("S9.6", partly=True)
def test_records_of_user_code_keep_their_plain_fields(me: pa.Pid, records: Records) -> None:
    pid = puppet(1, label="talker").pid
    began = time.time()
    pa.send(pid, ("do", me, pa.make_ref(), say, (), {}))
    record = records.one(number=3)
    assert (record.name, record.levelno, record.getMessage()) == ("mine", logging.WARNING, "3 items")
    assert record.source == f"{pid!r} talker"
    assert (record.deep, record.who) == ([1, [None, "x"]], repr(pid))
    assert not hasattr(record, "odd")
    assert not hasattr(record, "object")
    assert began - 1 <= record.created <= time.time() + 1
    eventually(lambda: any("ValueError: caught" in r.getMessage() for r in records.of(name="mine")), "the traceback")
    assert not any("below" in each.getMessage() for each in records.all)
    pa.receive(("done", pa.ANY, pa.ANY, pa.ANY), timeout=WAIT)


class Refuse(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("refused")


@contract("S9.6", partly=True)
def test_a_filter_that_raises_stops_no_record_but_its_own(
    me: pa.Pid, records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse = Refuse()
    logging.getLogger("mine").addFilter(refuse)
    try:
        one = puppet(0)
        one.do(say)
        one.do(logging.getLogger("other").warning, "after it")
        records.one(name="other")
        assert records.of(name="mine") == []
    finally:
        logging.getLogger("mine").removeFilter(refuse)
    assert "RuntimeError: refused" in capsys.readouterr().err


@contract("S6.8", partly=True)
@pytest.mark.parametrize("reason", ["normal", "shutdown", pa.Shutdown("told")], ids=str)
def test_an_orderly_end_reports_nothing(me: pa.Pid, records: Records, reason: Any) -> None:
    supervisor = pa.Supervisor.start_link([pa.child(Account, 7, id="a", restart="temporary")])
    (info,) = pa.Supervisor.which_children(supervisor)
    assert info.pid is not None
    pa.stop(info.pid, reason)
    pa.stop(supervisor, reason)
    end_of_log(records)
    assert [record.name for record in records.all if record.name.startswith("parallel_actors")] == []


@contract("S8.2", "S6.8", partly=True)
def test_a_supervisor_reports_each_failure_once_and_then_that_it_gives_up(me: pa.Pid, records: Records) -> None:
    supervisor = pa.Supervisor.start_link([pa.child(Account, 7, name="again")], max_restarts=2, max_seconds=60)
    failed: list[pa.Pid] = []
    for _ in range(3):
        eventually(lambda: pa.whereis("again") not in (None, *failed), "it is up (again)")
        pid = pa.whereis("again")
        assert pid is not None
        failed.append(pid)
        pa.cast(pid, "fail")
    assert pa.receive(pa.Exit(supervisor, pa.ANY), timeout=WAIT).reason == "shutdown"
    end_of_log(records)
    ours = [each for each in records.all if each.name == "parallel_actors.supervisor"]
    assert [(each.event, each.child) for each in ours] == [  # type: ignore[attr-defined]
        *(("child_terminated", repr(pid)) for pid in failed),
        ("reached_max_restart_intensity", repr(failed[-1])),
    ]
    assert sorted(each.pid for each in records.of(event="crash")) == sorted(map(repr, failed))
