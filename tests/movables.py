"""Servers that talk and listen while they are moved, and who moves and calls them; no imports of test modules.

What arrives at a worker that was started a moment ago brings its module along: while that is imported, the worker does
nothing else.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

import parallel_actors as pa
from parallel_actors.workers.api import migrate
from parallel_actors.workers.scheduler import current_scheduler
from puppets import WAIT

__all__ = [
    "ENDS",
    "WORKERS",
    "Listener",
    "Talker",
    "call_about",
    "foreigners",
    "is_report",
    "length",
    "move_about",
    "own_work",
]

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


def company(places: list[int]) -> tuple[list[pa.Pid], list[pa.Pid], dict[pa.Ref, pa.Pid]]:
    """Listeners and talkers, one of each on these workers, who watch each other and talk already; monitors of all."""
    listeners = [pa.options(worker=place).start(Listener) for place in places]
    talkers = [pa.options(worker=place).start(Talker, listeners) for place in places]
    for listener in listeners:
        for talker in talkers:
            pa.send(listener, ("watch", talker))
            pa.send(talker, ("watch", listener))
    watches = {pa.monitor(pid): pid for pid in (*listeners, *talkers)}
    for talker in talkers:
        pa.send(talker, "go")
    return listeners, talkers, watches


def is_report(message: object) -> bool:
    return isinstance(message, tuple) and message[0] in ("moves", "calls")


def foreigners() -> int:
    scheduler = current_scheduler()
    assert scheduler is not None
    return scheduler.foreign_count


# --- work that is taken -----------------------------------------------------------------------------------------------


def own_work(test: pa.Pid, book: str, number: int, seconds: float, dice: float) -> None:
    """Spawn work of every kind, sit in a native call, and see what comes of it: each begins once, and ends once.

    A worker that is killed between taking a process and its first line has it with it: one at most, "unbegun".
    """
    chance = random.Random(dice)
    pa.trap_exit()
    until = time.monotonic() + seconds
    facts = {"spawned": 0, "stolen": 0, "downs": 0, "lost": 0, "mail": 0, "linked": 0, "unbegun": 0}
    faults: list[Any] = []
    said: dict[pa.Pid, list[Any]] = {}

    def ended(pid: pa.Pid, reason: Any) -> None:
        if reason == "normal":
            if pid not in said:
                faults.append(("ended without a word", pid))
        elif isinstance(reason, pa.WorkerDown) and reason.worker != number:
            facts["lost"] += 1
            facts["unbegun"] += not begun_in(book, pid)
        else:
            faults.append(("reason", pid, reason))

    while time.monotonic() < until:
        refs: dict[pa.Ref, pa.Pid] = {}
        links: set[pa.Pid] = set()
        said.clear()
        for _ in range(chance.randrange(1, 12)):
            count = chance.choice([0, 0, 3])
            args = (book, pa.self_(), count, chance.choice([0, 0, 2000]))
            if chance.random() < 0.5:
                pid, ref = pa.spawn_monitor(work, *args)
                refs[ref] = pid
            else:
                name = f"work {number} {facts['spawned']}" if chance.random() < 0.3 else None
                pid = pa.options(name=name).spawn_link(work, *args)
                links.add(pid)
            facts["spawned"] += 1
            for each in range(count):
                pa.send(pid, each)
        # Native calls, with the GIL and without.
        if chance.random() < 0.6:
            sum(range(chance.choice([100_000, 1_000_000])))
        else:
            time.sleep(chance.choice([0, 0.001, 0.01]))
        while refs or links:
            match pa.receive(timeout=WAIT, default=None):
                case None:
                    faults.append(("limbo", refs, links, [(p, pa.is_alive(p)) for p in (*refs.values(), *links)]))
                    break
                case ("begun", pid, worker, got):
                    if pid in said:
                        faults.append(("begun twice", pid))
                    if got != list(range(len(got))):
                        faults.append(("mail", pid, got))
                    said[pid] = got
                    facts["mail"] += len(got)
                    facts["stolen"] += worker != number
                case pa.Down(ref=ref, pid=pid, reason=reason):
                    facts["downs"] += 1
                    if refs.pop(ref, None) != pid:
                        faults.append(("a second Down", pid, reason))
                    ended(pid, reason)
                case pa.Exit(pid=pid, reason=reason):
                    facts["linked"] += 1
                    if pid not in links:
                        faults.append(("a second Exit", pid, reason))
                    links.discard(pid)
                    ended(pid, reason)
    while (late := pa.receive(timeout=0, default=None)) is not None:
        faults.append(("late", late))
    pa.send(test, ("owned", number, facts, faults))


def begun_in(book: str, pid: pa.Pid) -> bool:
    with open(book) as lines:
        return repr(pid) in lines.read().split()


def work(book: str, owner: pa.Pid, count: int, rounds: int) -> None:
    """Write down that it has begun, take its mail, compute a little, and say so."""
    fd = os.open(book, os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{pa.self_()!r}\n".encode())  # one write: whole, whoever else writes
    os.close(fd)
    got = [pa.receive(timeout=WAIT) for _ in range(count)]
    for _ in range(rounds):
        sum(range(100))
    pa.send(owner, ("begun", pa.self_(), pa.worker_index(), got))
