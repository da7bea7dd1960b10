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
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from parallel_actors.workers.api import migrate
from parallel_actors.workers.scheduler import current_scheduler
from puppets import WAIT, mail, puppet
from test_stress import LENGTHS, await_replaced, seed, summary

__all__ = ["summary"]  # a fixture

contract = pytest.mark.contract

WORKERS = 4
WINDOW = 32  # a worker whose messages stand in an overflow lets nobody go
# What a question or a move may end with where a worker is killed meanwhile.
ENDS = (pa.NoProc, pa.NodeDown, pa.RemoteError)


class Talker(pa.GenServer):
    """Sends numbers to every receiver, for ever, but no more ahead of the slowest than WINDOW; it moves in between."""

    def init(self, receivers: list[pa.Pid]) -> Any:
        return pa.Ok(({receiver: 0 for receiver in receivers}, 0, False))

    def handle_info(self, message: Any, state: Any) -> Any:
        heard, number, going = state
        match message:
            case "go":
                going = True
            case ("heard", receiver, count):
                heard[receiver] = count
            case pa.Down(pid=receiver):
                del heard[receiver]
            case ("watch", receiver):
                pa.monitor(receiver)
        while going and heard and number < min(heard.values()) + WINDOW:
            for receiver in heard:
                pa.send(receiver, ("no", pa.self_(), number, bytes(length(number))))
            number += 1
        return pa.NoReply((heard, number, going))

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        heard, number, _ = state
        for receiver in heard:
            pa.send(receiver, ("end", pa.self_(), number))
        return pa.Reply(number, (heard, number, False))


class Listener(pa.GenServer):
    """Watches every sender that is announced: its numbers come without a gap until its one Down, nothing after it."""

    def init(self) -> Any:
        return pa.Ok({"expected": {}, "watched": {}, "over": set(), "downs": 0, "messages": 0, "faults": [], "ends": {}})

    def handle_info(self, message: Any, state: Any) -> Any:
        expected, over = state["expected"], state["over"]
        match message:
            case ("no", sender, number, payload):
                state["messages"] += 1
                if sender in over or expected.get(sender, 0) != number or len(payload) != length(number):
                    state["faults"].append(("number", sender, number, expected.get(sender), sender in over))
                expected[sender] = number + 1
                if number % 8 == 7:
                    pa.send(sender, ("heard", pa.self_(), number + 1))
            case ("end", sender, number):
                if expected.get(sender, 0) != number:
                    state["faults"].append(("lost", sender, number, expected.get(sender)))
                state["ends"][sender] = number
            case ("watch", sender):
                state["watched"][pa.monitor(sender)] = sender
            case pa.Down(ref=ref, pid=pid):
                state["downs"] += 1
                if state["watched"].pop(ref, None) != pid:
                    state["faults"].append(("a second Down", pid))
                over.add(pid)
            case other:
                state["faults"].append(("unknown", repr(other)[:100]))
        return pa.NoReply(state)

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return pa.Reply(state, state)


def length(number: int) -> int:
    """What is put into the ring at once, what goes in parts, and what is more than a ring holds."""
    return 100_000 if number % 499 == 498 else 20_000 if number % 97 == 96 else number % 50


def move_about(pids: list[pa.Pid], asker: pa.Pid, seconds: float, number: int) -> None:
    """Move the processes at random, as fast as it goes."""
    chance = random.Random(number)
    until = time.monotonic() + seconds
    moves = failures = waits = 0
    faults: list[Any] = []
    while time.monotonic() < until:
        pid = chance.choice(pids)
        try:
            migrate(pid, chance.randrange(WORKERS), timeout=2)
            moves += 1
        except (*ENDS, ValueError):  # ValueError: that worker is being replaced
            failures += 1
        except pa.CallTimeout:
            waits += 1
        except Exception as error:
            faults.append(("move", pid, repr(error)))
    pa.send(asker, ("moves", moves, failures, faults, waits))


def call_about(pids: list[pa.Pid], asker: pa.Pid, seconds: float, number: int) -> None:
    """Call the processes at random: each call has its end."""
    chance = random.Random(number)
    until = time.monotonic() + seconds
    answers = failures = 0
    faults: list[Any] = []
    slowest = 0.0
    while time.monotonic() < until:
        pid = chance.choice(pids)
        begin = time.monotonic()
        try:
            pa.call(pid, ("whoami", number), timeout=WAIT)
            answers += 1
        except ENDS:
            failures += 1
        except Exception as error:
            faults.append(("call", pid, repr(error)))
        slowest = max(slowest, time.monotonic() - begin)
    while (late := pa.receive(timeout=0, default=None)) is not None:
        faults.append(("late", late))
    pa.send(asker, ("calls", answers, failures, faults, slowest))


def is_report(message: object) -> bool:
    return isinstance(message, tuple) and message[0] in ("moves", "calls")


def foreigners() -> int:
    scheduler = current_scheduler()
    assert scheduler is not None
    return scheduler.foreign_count


@contract("S2.1", "S2.4", "S4.3", "S9.2", "S9.7", partly=True)
@pytest.mark.parametrize("kills", [True, False], ids=["kills", "quiet"])
@pytest.mark.parametrize("seconds", LENGTHS)
def test_everything_moves_under_load_and_kills(
    no_leaks: None, summary: Callable[[str, float], None], seconds: float, kills: bool
) -> None:
    chance = random.Random(seed())
    begin = time.monotonic()
    total = dict.fromkeys(("rounds", "messages", "downs", "moves", "no_moves", "late_moves", "answers", "no_answers", "dead"), 0)
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
            helpers = [pa.options(worker=i).spawn_monitor(
                f, pids, here, 0.6, chance.randrange(1 << 30)
            ) for i in range(WORKERS) for f, pids in ((move_about, [*listeners, *talkers]), (call_about, listeners))]
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


