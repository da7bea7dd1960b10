"""Servers that talk and listen while they are moved, and who moves and calls them; no imports of test modules.

What arrives at a worker that was started a moment ago brings its module along: while that is imported, the worker does
nothing else.
"""

from __future__ import annotations

import random
import time
from typing import Any

import parallel_actors as pa
from parallel_actors.workers.api import migrate
from parallel_actors.workers.scheduler import current_scheduler
from puppets import WAIT

__all__ = ["WORKERS", "Listener", "Talker", "call_about", "foreigners", "is_report", "length", "move_about"]

WORKERS = 4
WINDOW = 32  # a worker whose messages stand in an overflow lets nobody go
# What a question or a move may end with where a worker is killed meanwhile.
ENDS = (pa.NoProc, pa.NodeDown, pa.RemoteError)


class Talker(pa.GenServer):
    """Sends numbers to every receiver, for ever, but no more ahead of the slowest than WINDOW; it moves in between."""

    def init(self, receivers: list[pa.Pid]) -> Any:
        return pa.Ok((dict.fromkeys(receivers, 0), 0, False))

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
        return pa.Ok(
            {"expected": {}, "watched": {}, "over": set(), "downs": 0, "messages": 0, "faults": [], "ends": {}}
        )

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
