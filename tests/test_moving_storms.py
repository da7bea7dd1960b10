"""Workers killed at random while processes move and are stolen (S9.7, S2.1, S2.4).

Nothing is lost, doubled or out of order between the living; who ends gives one Down, and nothing comes behind it; no
call hangs; nobody is left in between. What each test has done is counted and must not be nothing; `STRESS_SECONDS`
sets how long each runs in `tox -e stress`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

import parallel_actors as pa
from leaks import eventually
from movables import WORKERS, Listener, Talker, call_about, foreigners, is_report, length, move_about
from parallel_actors.workers.api import migrate
from puppets import WAIT, mail, puppet
from test_stress import LENGTHS, await_replaced, seed, summary

__all__ = ["summary"]  # a fixture

contract = pytest.mark.contract


@contract("S2.1", "S2.4", "S4.3", "S9.2", "S9.7", partly=True)
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
            listeners = [pa.options(worker=i % WORKERS).start(Listener) for i in range(6)]
            talkers = [pa.options(worker=i % WORKERS).start(Talker, listeners) for i in range(6)]
            for listener in listeners:
                for talker in talkers:
                    pa.send(listener, ("watch", talker))
                    pa.send(talker, ("watch", listener))
            watches = {pa.monitor(pid): pid for pid in (*listeners, *talkers)}
            for talker in talkers:
                pa.send(talker, "go")
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
                assert down.reason in ("normal", pa.WorkerDown(victim, signal.SIGKILL), "noproc"), down
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
                assert down.reason == pa.WorkerDown(victim, signal.SIGKILL), down
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
