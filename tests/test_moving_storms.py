"""Workers killed at random while processes move and are stolen (S9.7, S2.1, S2.4).

Nothing is lost, doubled or out of order between the living; who ends gives one Down, and nothing comes behind it; no
call hangs; nobody is left in between. What each test has done is counted and must not be nothing; `STRESS_SECONDS`
sets how long each runs in `tox -e stress`.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import parallel_actors as pa
from leaks import eventually
from movables import ENDS, WORKERS, Listener, call_about, company, foreigners, is_report, length, move_about, own_work
from parallel_actors.workers.api import migrate
from puppets import WAIT, Puppet, get, mail, puppet
from test_stress import LENGTHS, await_replaced, seed, summary

__all__ = ["summary"]  # a fixture

contract = pytest.mark.contract


@contract("S9.7")
@contract("S2.1", "S2.4", "S4.3", "S9.2", partly=True)
@pytest.mark.parametrize("kills", [True, False], ids=["kills", "quiet"])
@pytest.mark.parametrize("seconds", LENGTHS)
def test_everything_moves_under_load_and_kills(
    no_leaks: None, summary: Callable[[str, float], None], seconds: float, kills: bool
) -> None:
    chance = random.Random(seed())
    begin = time.monotonic()
    total = dict.fromkeys(
        ("rounds", "messages", "downs", "moves", "no_moves", "late_moves", "answers", "no_answers", "dead"), 0
    )
    slowest = 0.0
    with pa.ActorSystem(workers=WORKERS, max_reports=2) as system:
        here = pa.self_()
        while time.monotonic() - begin < seconds or total["rounds"] < 2:
            total["rounds"] += 1
            listeners, talkers, watches = company([i % WORKERS for i in range(6)])
            victim = chance.randrange(WORKERS)
            helpers = [
                pa.options(worker=i).spawn_monitor(f, pids, here, 0.6, chance.randrange(1 << 30))
                for i in range(WORKERS)
                for f, pids in ((move_about, [*listeners, *talkers]), (call_about, listeners))
            ]
            # The test's own thread speaks too.
            until = time.monotonic() + chance.uniform(0, 0.4)
            said = 0
            while time.monotonic() < until:
                for listener in listeners:
                    pa.send(listener, ("no", here, said, bytes(length(said))))
                said += 1
                pa.sleep(0.001)
            former = system.worker_pids[victim]
            if kills and former:
                os.kill(former, signal.SIGKILL)
            for _, ref in helpers:
                down = pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=4 * WAIT)
                assert down.reason in ("normal", "noproc") or down.reason.worker == victim, down
            if kills and former:
                await_replaced(system, victim, former)
            while (report := pa.receive(is_report, timeout=0, default=None)) is not None:
                assert report[3] == []
                if report[0] == "moves":
                    total["moves"] += report[1]
                    total["no_moves"] += report[2]
                    total["late_moves"] += report[4]
                else:
                    total["answers"] += report[1]
                    total["no_answers"] += report[2]
                    slowest = max(slowest, report[4])
            living: list[pa.Pid] = []
            for pid in (*listeners, *talkers):
                if pa.is_alive(pid):
                    assert pa.process_info(pid, "worker") in range(WORKERS)
                    living.append(pid)
            for pid in living:
                migrate(pid, chance.randrange(WORKERS), timeout=WAIT)
            downs: list[pa.Pid] = []
            for _ in range(len(watches) - len(living)):
                down = pa.receive(pa.Down, timeout=WAIT)
                downs.append(watches.pop(down.ref))
                assert down.pid == downs[-1]
                assert isinstance(down.reason, pa.WorkerDown), down
                assert down.reason.worker == victim
                assert not pa.is_alive(down.pid)
            assert set(downs).isdisjoint(living)
            total["dead"] += len(downs)
            ends = {talker: pa.call(talker, "end", timeout=WAIT) for talker in talkers if talker in living}
            for listener in listeners:
                if listener not in living:
                    continue
                pa.send(listener, ("end", here, said))
                eventually(
                    lambda: {here: said, **ends}.items() <= pa.call(listener, "state", timeout=WAIT)["ends"].items(),  # noqa: B023
                    "the last words are here",
                )
                eventually(
                    lambda: pa.call(listener, "state", timeout=WAIT)["downs"] == len(talkers) - len(ends),  # noqa: B023
                    "the Downs are here",
                )
                state = pa.call(listener, "state", timeout=WAIT)
                assert not state["faults"], state["faults"]
                total["messages"] += state["messages"]
                total["downs"] += state["downs"]
            assert [other for other in mail() if other[0] != "heard"] == []
            for pid in pa.processes():
                if pid != here:
                    pa.exit(pid, "kill")
            eventually(lambda: pa.processes() == [here], "all are gone")
            mail()
            for index in range(WORKERS):
                hand = puppet(index)
                eventually(lambda: hand.do(foreigners) == 0, "no worker runs what is dead")  # noqa: B023
                hand.end("normal")
    assert total["messages"] > 1000 * total["rounds"] / 10
    assert total["moves"] > 0
    assert total["answers"] > 0
    assert (total["dead"] > 0) == kills
    took = time.monotonic() - begin
    summary(", ".join(f"{count} {what}" for what, count in total.items()) + f", slowest call {slowest:.3f} s", took)


# --- work that is taken -----------------------------------------------------------------------------------------------


@contract("S1.4", "S4.1", "S4.3", "S9.2", "S9.7", partly=True)
@pytest.mark.parametrize("kills", [True, False], ids=["kills", "quiet"])
@pytest.mark.parametrize("seconds", LENGTHS)
def test_work_is_taken_under_kills(
    no_leaks: None, summary: Callable[[str, float], None], seconds: float, kills: bool, tmp_path: Path
) -> None:
    # Owners spawn work, and sit in native calls; each piece of work writes down that it has begun, before all else.
    chance = random.Random(seed())
    begin = time.monotonic()
    counted = ("rounds", "kills", "spawned", "begun", "stolen", "downs", "lost", "unbegun", "mail", "linked")
    total = dict.fromkeys(counted, 0)
    with pa.ActorSystem(workers=WORKERS, max_reports=2) as system:
        here = pa.self_()
        while time.monotonic() - begin < seconds or total["rounds"] < 2:
            total["rounds"] += 1
            book = tmp_path / f"book-{total['rounds']}"
            book.touch()
            owners = {
                pa.options(worker=worker).spawn_monitor(own_work, here, str(book), worker, 0.3, chance.random())[
                    1
                ]: worker
                for worker in range(WORKERS)
            }
            pause(chance.uniform(0, 0.4))
            victims = chance.sample(range(WORKERS), chance.choice([1, 1, 2])) if kills else []
            former = {victim: system.worker_pids[victim] for victim in victims}
            for os_pid in former.values():
                if os_pid:
                    os.kill(os_pid, signal.SIGKILL)
                    total["kills"] += 1
                pause(chance.choice([0, 0, 0.01]))
            while owners:
                match pa.receive(timeout=2 * WAIT):
                    case ("owned", worker, facts, faults):
                        assert faults == [], faults
                        assert worker in owners.values()
                        for what, count in facts.items():
                            total[what] += count
                    case pa.Down(ref=ref, reason=reason):
                        worker = owners.pop(ref)
                        assert reason == "normal" or worker in victims, reason
            for victim, os_pid in former.items():
                if os_pid:
                    await_replaced(system, victim, os_pid)
            for pid in pa.processes():
                if pid != here:
                    pa.exit(pid, "kill")
            eventually(lambda: pa.processes() == [here], "all are gone")
            assert mail() == []
            begun = book.read_text().split()
            assert len(begun) == len(set(begun)), "something has begun twice"
            total["begun"] += len(begun)
            book.unlink()
            for index in range(WORKERS):
                hand = puppet(index)
                eventually(lambda: hand.do(foreigners) == 0, "no worker runs what is dead")  # noqa: B023
                hand.end("normal")
            assert pa.registered() == []
    assert total["stolen"] > 0
    assert total["downs"] > 0
    assert total["unbegun"] <= total["kills"]
    took = time.monotonic() - begin
    summary(", ".join(f"{count} {what}" for what, count in total.items()), took)


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


# --- instants that kills at random seldom hit -------------------------------------------------------------------------


class Stopped:
    """A worker that stands still (SIGSTOP) in the middle of whatever it did."""

    def __init__(self, system: pa.ActorSystem, worker: int) -> None:
        self.system, self.worker = system, worker
        self.os_pid = system.worker_pids[worker]
        self.killed = False

    def __enter__(self) -> Stopped:
        os.kill(self.os_pid, signal.SIGSTOP)
        return self

    def kill(self) -> None:
        os.kill(self.os_pid, signal.SIGKILL)
        self.killed = True

    def __exit__(self, *_: object) -> None:
        if not self.killed:
            os.kill(self.os_pid, signal.SIGCONT)


@pytest.fixture
def frail(no_leaks: None) -> Iterator[pa.ActorSystem]:
    """A system whose workers may be stopped and killed; nobody takes one that stands still for one that is stuck."""
    with pa.ActorSystem(workers=WORKERS, max_reports=2, stuck_timeout=60) as system:
        yield system


def listener_with_mail(worker: int, count: int) -> pa.Pid:
    pid = pa.options(worker=worker).start(Listener)
    assert isinstance(pid, pa.Pid)
    for number in range(count):
        pa.send(pid, ("no", pa.self_(), number, bytes(length(number))))
    return pid


def order(pid: pa.Pid, target: int, by: int) -> pa.Ref:
    return pa.options(worker=by).spawn_monitor(migrate, pid, target, None)[1]


@contract("S2.1", "S2.4", "S9.7", partly=True)
@pytest.mark.parametrize("end", ["goes on", "is killed"])
@pytest.mark.parametrize("who", ["home", "host", "target"])
def test_a_worker_stands_still_while_a_process_moves(frail: pa.ActorSystem, who: str, end: str) -> None:
    # Its home is 0, it runs on 1 and is to go to 2; worker 3 gives the order.
    me = pa.self_()
    pid = listener_with_mail(0, 20)
    migrate(pid, 1, timeout=WAIT)
    watch = pa.monitor(pid)
    assert pa.call(pid, "state", timeout=WAIT)["messages"] == 20
    linked = puppet(3)
    linked.do(pa.trap_exit)
    linked.do(pa.link, pid)
    victim = {"home": 0, "host": 1, "target": 2}[who]
    with Stopped(frail, victim) as stopped:
        ordered = order(pid, 2, 3)
        for number in range(20, 40):
            pa.send(pid, ("no", me, number, bytes(length(number))))
        if who != "home":
            # The rest of the move is up to the one that stands still.
            puppet(0).end("normal")
        if end == "is killed":
            stopped.kill()
    lives = end == "goes on" or who == "target"
    reason = Puppet.reason_of(ordered)
    if end == "is killed":
        await_replaced(frail, victim, stopped.os_pid)
    if lives:
        assert reason == "normal" or end == "is killed"
        pa.send(pid, ("end", me, 40))
        eventually(lambda: me in pa.call(pid, "state", timeout=WAIT)["ends"], "all has come")
        state = pa.call(pid, "state", timeout=WAIT)
        assert state["faults"] == []
        assert state["messages"] == 40
        if end == "goes on":
            assert pa.process_info(pid, "worker") == 2
        pa.exit(pid, "over")
        assert Puppet.reason_of(watch) == "over"
        assert linked.do(get) == pa.Exit(pid, "over")
    else:
        # Its exit status may come too late on a machine that is busy.
        reason = Puppet.reason_of(watch)
        assert isinstance(reason, pa.WorkerDown)
        assert reason.worker == victim
        assert linked.do(get) == pa.Exit(pid, reason)
        assert not pa.is_alive(pid)
        with pytest.raises(ENDS):
            pa.call(pid, "state", timeout=WAIT)
    assert linked.do(mail) == []
    linked.end("normal")
    for worker in range(WORKERS):
        hand = puppet(worker)
        eventually(lambda: hand.do(foreigners) == 0, "no worker runs what is dead")  # noqa: B023
        hand.end("normal")
    assert pa.processes() == [me]
    assert [each for each in mail() if each[0] != "heard"] == []


@contract("S9.2", "S9.7", partly=True)
@pytest.mark.parametrize("end", ["goes on", "is killed"])
def test_a_thief_stands_still(frail: pa.ActorSystem, tmp_path: Path, end: str) -> None:
    # All that could take work stand still before, or after, they have claimed some; then they are killed or go on.
    me = pa.self_()
    for pausing in (0.0, 0.0005, 0.002, 0.01):
        book = tmp_path / f"book-{pausing}"
        book.touch()
        owner = pa.options(worker=0).spawn_monitor(own_work, me, str(book), 0, 0.2, pausing)[1]
        pause(pausing)
        with Stopped(frail, 1) as one, Stopped(frail, 2) as two:
            pause(0.05)
            if end == "is killed":
                one.kill()
                two.kill()
        _, _, facts, faults = pa.receive(("owned", 0, pa.ANY, pa.ANY), timeout=4 * WAIT)
        assert faults == [], faults
        assert facts["spawned"] > 0
        assert facts["unbegun"] <= (2 if end == "is killed" else 0)
        assert Puppet.reason_of(owner) == "normal"
        if end == "is killed":
            await_replaced(frail, 1, one.os_pid)
            await_replaced(frail, 2, two.os_pid)
        begun = book.read_text().split()
        assert len(begun) == len(set(begun))
        eventually(lambda: pa.processes() == [me], "all are gone")
    assert mail() == []


@contract("S2.5", "S9.7", partly=True)
def test_a_guest_that_does_not_read(frail: pa.ActorSystem) -> None:
    # What it is sent stands in an overflow: from there nobody moves meanwhile, which the error says; and then all do.
    me = pa.self_()
    pid = listener_with_mail(0, 0)
    migrate(pid, 1, timeout=WAIT)
    flood = pa.options(worker=1).spawn(send_many, me, 300)
    pa.options(worker=3).spawn(tell_move, me, pid, 2)
    pause(0.1)
    got = pa.receive(("moved", pa.ANY), timeout=WAIT)
    assert got[1] in ("CallTimeout", "there")
    for number in range(300):
        assert pa.receive(("flood", number, pa.ANY), timeout=WAIT)[1] == number
    eventually(lambda: pa.process_info(pid, "worker") == 2, "it moves")
    assert not pa.is_alive(flood) or Puppet(flood).reason() in ("normal", "noproc")
    pa.exit(pid, "kill")
    eventually(lambda: pa.processes() == [me], "all are gone")


def send_many(to: pa.Pid, count: int) -> None:
    for number in range(count):
        pa.send(to, ("flood", number, bytes(5_000)))


def tell_move(to: pa.Pid, pid: pa.Pid, target: int) -> None:
    try:
        migrate(pid, target, timeout=0.05)
        pa.send(to, ("moved", "there"))
    except pa.CallTimeout:
        pa.send(to, ("moved", "CallTimeout"))
