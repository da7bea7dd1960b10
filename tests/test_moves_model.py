"""Processes that run elsewhere: all interleavings of small instances (docs/internals.md; S2.1, S2.4, S4.2, S4.3, S9.7).

The home H of a process p, one or two workers that steal it or to which it is moved and from which it comes back, and a
third endpoint A with one process that watches p. A sends p a numbered stream, p sends A one, and may ask A something
and wait for the answer in the middle of a message. H, its hosts and A may be killed between any two publications; a
host may have a replacement, or there is a second one.

Each step is what one endpoint does between two publications: one record handled, one access to the slot, one act of
p, or one more of the records that a step has left to send. Rings are queues; with `room`, what doesn't fit waits in the
overflow of a host and is lost with it. News of a death comes as late as it likes.

What must hold:
- A reads what p sends, and p gets what A sends, in order and without a gap, each once, and nothing after the Down;
- p handles no message twice, and runs at one place only; it isn't lost with a worker on which it hadn't begun;
- where nothing moves any more, everything has arrived, each monitor of a dead p has given its Down, nobody waits for
  anything, and nothing of a dead home runs.

`Links` is about the link between A's process and a p that runs at T, both of which make it and take it off, and about
the copy at home, by which A hears of T's death.

Left out: aliases, names, timers, questions, the ids of links made at different places, and the rings themselves
(test_epochs_model.py).
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

contract = pytest.mark.contract

Fence = tuple[str, int]  # (whose ring to A is to be read first, up to where)
Record = tuple[Any, ...]
# Everything that there is, by name; all values are hashable. See Model.start.
State = dict[str, Any]
Move = tuple[str, bool, Callable[[State], None]]

EVERYTHING = 1_000_000  # as a position: all that was published


class Violation(Exception):
    """Something that must hold doesn't."""


class Process(NamedTuple):
    """p, where it runs, waits, or is kept."""

    mail: tuple[int, ...] = ()
    arrived: int = 0  # of A's stream
    sent: int = 0  # of its own
    asked: bool = False
    waiting: bool = False  # for the answer, in the middle of a message
    watchers: tuple[int, ...] = ()
    down: bool = False  # it has got its Down of A
    fence: Fence | None = None  # for its next record to A
    # At a host:
    passed: int = 0  # MONITORs that have come from home
    released: bool = True  # what was held for it has come; from then on it believes what its home believes
    unpublished: bool = False  # its ARRIVED may be in the overflow
    recalled: bool = False
    frozen: int = 0  # 1: what comes is added still; 2: packed


class Stub(NamedTuple):
    """What is at home of a process that runs elsewhere."""

    host: str
    mode: str  # slot: claimed, not known to have begun; leaving: not known to have arrived; paused; there
    held: tuple[Record, ...] | None = ()
    kept: Process | None = None
    passed: int = 0
    watchers: tuple[tuple[int, int], ...] = ()  # (ref, as which of the MONITORs passed)
    fence: Fence | None = None  # that it left with


class Model:
    """The rules, or with `broken` one of them changed.

    Args:
        hosts: how many there are, 1 or 2.
        replaces: the second is the first one's replacement.
        start: how p begins: "exported" (not begun), "home" (runs there), or as a stub "there".
        room: of a host's rings, in records; 0: no end. `noise`: how many records of others go to H.
        to_p, to_a, monitors: how many messages A may send, p may send, and monitors A may make.
        ask, end: whether p may ask A something; may end.
        moves, refusals: how often p may be moved; how often that may fail because it can't be unpickled.
        kills: who may die, one each; at most `deaths` together.
    """

    def __init__(
        self,
        hosts: int = 1,
        replaces: bool = False,
        start: str = "home",
        room: int = 0,
        noise: int = 0,
        to_p: int = 1,
        to_a: int = 1,
        monitors: int = 1,
        ask: bool = False,
        end: bool = False,
        moves: int = 0,
        refusals: int = 0,
        kills: str = "",
        deaths: int = 2,
        broken: str = "",
    ) -> None:
        self.hosts = "TU"[:hosts]
        self.replaces, self.begins, self.room, self.noise = replaces, start, room, noise
        self.to_p, self.to_a, self.monitors, self.ask, self.end = to_p, to_a, monitors, ask, end
        self.moves, self.refusals, self.kills, self.deaths = moves, refusals, kills, deaths
        self.broken = broken
        self.direct = True

    def start(self) -> State:
        s: State = {
            "dead": frozenset(),
            "p": Process(),  # at home: Process, Stub or None
            "begun": self.begins != "exported",
            "slot": ("READY", "", Process()) if self.begins == "exported" else ("EMPTY", "", None),
            "hosted": (),  # who has hosted p, as H knows
            "sent": 0,  # by A
            "got": 0,  # by A
            "monitors": (0,) * self.monitors,  # 1: made; 2: it has given its Down
            "noise": self.noise,
            "moves": self.moves,
            "refusals": self.refusals,
            # What really is:
            "where": "H",
            "handled": -1,
        }
        for e in ("H", "A", *self.hosts):
            s[f"heard {e}"] = frozenset()
            s[f"out {e}"] = ()  # [(ring, record)] that the last step has left to publish
        if self.replaces:
            s["heard U"] = None  # it isn't there yet
        for ring in (
            "AH",
            "HA",
            *(f"{e}H" for e in self.hosts),
            *(f"{e}A" for e in self.hosts),
            *(f"H{e}" for e in self.hosts),
        ):
            s[ring] = ()
        for e in ("H", *self.hosts):
            s[f"{e}A read"] = 0
        for e in self.hosts:
            s[f"at {e}"] = (
                None  # Process, or the number of MONITORs that one had got which has ended, its ENDED not sent
            )
            s[f"loot {e}"] = False  # it has claimed the slot
            s[f"{e}H over"] = s[f"{e}A over"] = ()
        if self.begins == "there":
            s["p"], s["at T"] = Stub("T", "there", None), Process()
            s["hosted"], s["where"] = ("T",), "T"
        return s

    # --- rings ---

    def put(self, s: State, ring: str, record: Record) -> None:
        """The first record of a step is published with it; before each of the others anybody may move, or die."""
        if self.direct and not s[f"out {ring[0]}"]:
            self.direct = False
            self.publish(s, ring, record)
        else:
            s[f"out {ring[0]}"] += ((ring, record),)

    def publish(self, s: State, ring: str, record: Record) -> None:
        over = f"{ring} over"
        if over in s and (s[over] or not self.fits(s, ring)):
            s[over] += (record,)
            return
        self.in_ring(s, ring, record)

    def in_ring(self, s: State, ring: str, record: Record) -> None:
        if ring[1] not in s["dead"]:
            s[ring] += (record,)
        if record[0] in ("ARRIVED", "PACKED") and "H" not in s["dead"]:
            s["where"] = ring[0] if record[0] == "ARRIVED" else "H"

    def fits(self, s: State, ring: str) -> bool:
        if ring[0] == "U" and self.replaces and "T" not in s[f"heard {ring[1]}"]:
            return False  # the ring is held back
        return not self.room or len(s[ring]) < self.room

    def publish_next(self, s: State, e: str) -> None:
        (ring, record), *left = s[f"out {e}"]
        s[f"out {e}"] = tuple(left)
        self.publish(s, ring, record)

    def flush(self, s: State, ring: str) -> None:
        record, *left = s[f"{ring} over"]
        s[f"{ring} over"] = tuple(left)
        self.in_ring(s, ring, record)

    def overflows(self, s: State, e: str) -> bool:
        return e != "H" and bool(s[f"{e}H over"] or s[f"{e}A over"])

    @staticmethod
    def take(s: State, ring: str) -> Record:
        record, *left = s[ring]
        s[ring] = tuple(left)
        found: Record = record
        return found

    # --- A ---

    def read(self, s: State, e: str) -> None:
        """One record of (wrapped, fences, what, number)."""
        wrapped, fences, what, number = self.take(s, f"{e}A")
        s[f"{e}A read"] += 1
        for whose, position in fences if self.broken != "no fence" else ():
            self.catch_up(s, whose, position)
        if wrapped and "H" in s["heard A"] and self.broken != "the dead home's not dropped":
            return
        if what == "DOWN":
            if s["monitors"][number] == 1:
                s["monitors"] = (*s["monitors"][:number], 2, *s["monitors"][number + 1 :])
            return
        if 2 in s["monitors"]:
            raise Violation(f"A gets record {number} of p after its Down")
        if number != s["got"]:
            raise Violation(f"A gets record {number} of p, expected {s['got']}")
        s["got"] += 1
        if what == "ASK":
            self.put(s, "AH", ("ANSWER", s["sent"]))
            s["sent"] += 1

    def catch_up(self, s: State, whose: str, position: int) -> None:
        while s[f"{whose}A"] and s[f"{whose}A read"] < position:
            self.read(s, whose)

    def a_hears(self, s: State, who: str) -> None:
        if who != "A":
            self.catch_up(s, who, EVERYTHING)
        s["heard A"] |= {who}
        if who == "H":
            s["monitors"] = tuple(2 if state == 1 else state for state in s["monitors"])

    def a_sends(self, s: State) -> None:
        number = s["sent"]
        s["sent"] += 1
        self.put(s, "AH", ("MSG", number))

    def a_monitors(self, s: State, ref: int) -> None:
        s["monitors"] = (*s["monitors"][:ref], 1, *s["monitors"][ref + 1 :])
        if "H" in s["heard A"]:
            s["monitors"] = (*s["monitors"][:ref], 2, *s["monitors"][ref + 1 :])
        else:
            self.put(s, "AH", ("MONITOR", ref))

    # --- p, wherever it runs ---

    def arrive_at(self, p: Process, record: Record) -> Process:
        what, number = record
        if what == "MONITOR":
            return p._replace(watchers=(*p.watchers, number), passed=p.passed + 1)
        if p.down:
            raise Violation(f"p gets record {number} of A after its Down")
        if number != p.arrived:
            raise Violation(f"p gets record {number} of A, expected {p.arrived}")
        if what == "ANSWER":
            return p._replace(arrived=number + 1, waiting=False)
        return p._replace(arrived=number + 1, mail=(*p.mail, number))

    def with_p(self, s: State, e: str, p: Process | None) -> None:
        s["p" if e == "H" else f"at {e}"] = p

    def from_p(self, s: State, e: str, p: Process, what: str, number: int) -> Process:
        """A record to A."""
        self.put(s, f"{e}A", (e != "H" or p.fence is not None, (p.fence,) if p.fence else (), what, number))
        return p._replace(fence=None)

    def handle(self, s: State, e: str, p: Process) -> None:
        number, *left = p.mail
        if number <= s["handled"]:
            raise Violation(f"p handles record {number} of A twice")
        s["handled"] = number
        self.with_p(s, e, p._replace(mail=tuple(left)))

    def send(self, s: State, e: str, p: Process, what: str) -> None:
        p = self.from_p(s, e, p, what, p.sent)
        self.with_p(s, e, p._replace(sent=p.sent + 1, waiting=what == "ASK", asked=p.asked or what == "ASK"))

    def ends(self, s: State, e: str, p: Process) -> None:
        s["where"] = ""
        if self.broken == "the end is told at home first" and e != "H":
            self.put(s, f"{e}H", ("ENDED", p.passed))
        for ref in p.watchers:
            p = self.from_p(s, e, p, "DOWN", ref)
        if e == "H":
            s["p"] = None
        else:
            s[f"at {e}"] = None if self.broken == "the end is told at home first" else p.passed

    def acts(self, s: State, e: str, p: Process) -> Iterator[Move]:
        """What p can do at `e`."""
        if p.frozen and self.broken != "what is packed runs on":
            return
        if p.unpublished and s[f"{e}H over"] and self.broken != "runs before it has arrived":
            return
        if p.waiting:
            return
        if p.mail:
            yield f"p handles {p.mail[0]} at {e}", True, partial(self.handle, e=e, p=p)
        if p.sent < self.to_a:
            yield f"p sends {p.sent} from {e}", False, partial(self.send, e=e, p=p, what="MSG")
        if self.ask and not p.asked and not p.down:
            yield f"p asks at {e}", False, partial(self.send, e=e, p=p, what="ASK")
        if self.end:
            yield f"p ends at {e}", False, partial(self.ends, e=e, p=p)

    # --- H ---

    def h_reads_a(self, s: State) -> None:
        self.for_p(s, self.take(s, "AH"))

    def for_p(self, s: State, record: Record) -> None:
        """A record for p has come to its home."""
        p = s["p"]
        if p is None:
            if record[0] == "MONITOR":
                self.tell_noproc(s, record[1])
        elif isinstance(p, Stub):
            self.forward(s, p, record)
        elif s["begun"] or record[0] == "MSG" or (record[0] == "ANSWER" and self.broken == "an answer as mail"):
            s["p"] = self.arrive_at(p, record)
        elif self.taken_back(s):
            s["p"] = self.arrive_at(s["p"], record)
        else:
            self.forward(s, s["p"], record)

    def tell_noproc(self, s: State, ref: int) -> None:
        """Behind what all former hosts have published for A by now: the process may have sent it."""
        hosts = s["hosted"][-1:] if self.broken == "noproc behind the last host only" else s["hosted"]
        fences = tuple((e, s[f"{e}A read"] + len(s[f"{e}A"])) for e in hosts if s[f"{e}A"])
        self.put(s, "HA", (True, () if self.broken == "noproc without a fence" else fences, "DOWN", ref))

    def taken_back(self, s: State) -> bool:
        """READY -> EMPTY, or p is a stub from here on."""
        word, thief, _ = s["slot"]
        self.direct = False
        if word == "READY" or self.broken == "taken back without a look":
            s["slot"] = ("EMPTY", "", None)
            s["begun"] = True
            return True
        s["p"] = Stub(thief, "slot", (), s["p"])
        self.note_host(s, thief)
        return False

    def turn(self, s: State) -> None:
        self.taken_back(s)

    @staticmethod
    def note_host(s: State, e: str) -> None:
        if e not in s["hosted"]:
            s["hosted"] += (e,)

    def forward(self, s: State, stub: Stub, record: Record) -> None:
        if stub.held is not None:
            s["p"] = stub._replace(held=(*stub.held, record))
            return
        if record[0] == "MONITOR":
            passed = stub.passed + 1
            s["p"] = stub._replace(passed=passed, watchers=(*stub.watchers, (record[1], passed)))
        self.put(s, f"H{stub.host}", ("FORWARD", record))

    def release(self, s: State, stub: Stub, mail: tuple[Record, ...] = ()) -> None:
        """It is known who runs it: there goes what was held."""
        s["p"] = stub._replace(mode="there", held=None, kept=None)
        held = stub.held or ()
        for record in (*held, *mail) if self.broken == "mail after what was held" else (*mail, *held):
            self.forward(s, s["p"], record)
        self.put(s, f"H{stub.host}", ("RELEASED", "A" in s["heard H"]))

    def come_home(self, s: State, stub: Stub, p: Process) -> None:
        gone = "A" in s["heard H"]
        p = p._replace(released=True, unpublished=False, recalled=False, frozen=0, passed=0)
        if gone and self.broken == "fires before it replays":
            p = p._replace(down=True, waiting=False)
        for record in stub.held or ():
            p = self.arrive_at(p, record)
        s["p"] = p._replace(down=True, waiting=False) if gone else p
        s["begun"] = True

    def h_reads(self, s: State, e: str, refuse: bool = False) -> None:
        """A record from the host `e`."""
        what, value = self.take(s, f"{e}H")
        if what == "STOLEN" and isinstance(s["p"], Process):
            self.taken_back(s)
        stub = s["p"]
        if not isinstance(stub, Stub) or stub.host != e:
            return
        if what == "STOLEN":
            s["slot"] = ("EMPTY", "", None)
            self.direct = False
            assert stub.kept is not None
            mail = tuple(("MSG", number) for number in stub.kept.mail)
            s["begun"] = True
            self.release(s, stub, mail)
        elif what == "ARRIVED":
            self.release(s, stub)
        elif what == "REJECTED":
            assert stub.kept is not None
            self.come_home(s, stub, stub.kept)
        elif what == "PAUSE":
            if stub.held is None:
                s["p"] = stub._replace(mode="paused", held=())
            self.put(s, f"H{e}", ("PAUSED", 0))
        elif what == "PACKED":
            if refuse:
                s["refusals"] -= 1
                s["where"] = e
                self.put(s, f"H{e}", ("KEEP", 0))
                self.release(s, stub)
            else:
                self.put(s, f"H{e}", ("DROP", 0))
                self.come_home(s, stub, value)
        elif what == "ENDED":
            s["p"] = None
            late = [ref for ref, number in stub.watchers if number > value]
            for ref in late if self.broken != "no noproc for the late" else ():
                self.tell_noproc(s, ref)
            for what, number in stub.held or ():
                if what == "MONITOR":
                    self.tell_noproc(s, number)

    def h_hears(self, s: State, who: str) -> None:
        if who == "A":
            while s["AH"]:
                self.h_reads_a(s)
        elif self.broken != "no drain":
            while s[f"{who}H"]:
                self.h_reads(s, who)
        s["heard H"] |= {who}
        p = s["p"]
        if who == "A":
            if isinstance(p, Stub):
                # There may be other stubs there, which hold nothing.
                self.put(s, f"H{p.host}", ("HEARD", True))
            elif p is not None:
                s["p"] = p._replace(down=True, waiting=False)
            return
        word, thief, _ = s["slot"]
        if isinstance(p, Process) and thief == who and word in ("CLAIMED", "BEGUN"):
            self.taken_back(s)
            p = s["p"]
        if not isinstance(p, Stub) or p.host != who:
            return
        fate = p.mode
        if fate == "slot":
            # Its thief is dead: nobody moves the word any more.
            claimed = (
                self.broken == "who has begun comes home" if word == "BEGUN" else self.broken != "who claims has begun"
            )
            fate = "leaving" if claimed else "there"
            s["slot"] = ("EMPTY", "", None)
            self.direct = False
        if fate == "leaving":
            assert p.kept is not None
            self.come_home(s, p, p.kept)
            return
        if s["where"] not in (who, ""):
            raise Violation(f"p is lost with {who}, but it is at {s['where']}")
        s["p"] = None
        s["where"] = ""
        fences: tuple[Fence, ...] = ((who, EVERYTHING),) if self.broken != "the Down without a fence" else ()
        if p.fence is not None and self.broken != "the stub keeps no fence":
            fences += (p.fence,)
        watchers = [ref for ref, _ in p.watchers]
        watchers += [ref for ref in (p.kept.watchers if p.kept is not None else ()) if ref not in watchers]
        for ref in watchers:
            self.put(s, "HA", (True, fences, "DOWN", ref))
        for what, number in p.held or ():
            if what == "MONITOR":
                self.put(s, "HA", (True, fences, "DOWN", number))

    def leaves(self, s: State, e: str) -> None:
        p = self.carried(s, "H", s["p"])
        s["moves"] -= 1
        held = None if self.broken == "nothing held for who leaves" else ()
        watchers = tuple((ref, 0) for ref in p.watchers)
        s["p"] = Stub(e, "leaving", held, p, 0, watchers, p.fence)
        self.note_host(s, e)
        self.put(s, f"H{e}", ("ARRIVE", p._replace(passed=0)))

    def carried(self, s: State, e: str, p: Process) -> Process:
        """p with a fence to what it may have sent from here. One that it hasn't used: it has sent nothing."""
        if p.fence is not None and self.broken != "a fence not used is forgotten":
            return p
        tail = s[f"{e}A read"] + len(s[f"{e}A"])
        return p._replace(fence=(e, tail) if s[f"{e}A"] else None)

    def recalls(self, s: State) -> None:
        stub = s["p"]
        s["moves"] -= 1
        if self.broken == "a recall holds":
            s["p"] = stub._replace(mode="paused", held=())
        self.put(s, f"H{stub.host}", ("RECALL", 0))

    # --- a host ---

    def e_reads(self, s: State, e: str, refuse: bool = False) -> None:
        """A record from H."""
        what, value = self.take(s, f"H{e}")
        p = s[f"at {e}"]
        if what == "ARRIVE":
            if refuse:
                s["refusals"] -= 1
                self.put(s, f"{e}H", ("REJECTED", 0))
            else:
                s[f"at {e}"] = value._replace(released=False, unpublished=True)
                self.put(s, f"{e}H", ("ARRIVED", 0))
            return
        if not isinstance(p, Process):
            return
        if what == "FORWARD":
            p = self.arrive_at(p, value)
        elif what == "RELEASED":
            p = p._replace(released=True)
            if value:
                p = p._replace(down=True, waiting=False)
        elif what == "HEARD":
            if p.frozen < 2 and (p.released or self.broken == "news pass what is held"):
                p = p._replace(down=True, waiting=False)
        elif what == "RECALL":
            p = p._replace(recalled=True)
            if p.frozen == 1 and self.broken == "a second recall packs at once":
                p = p._replace(frozen=2)
                self.put(s, f"{e}H", ("PACKED", self.carried(s, e, p)))
        elif what == "PAUSED":
            if p.frozen != 1:
                return
            p = p._replace(frozen=2, released=False)
            self.put(s, f"{e}H", ("PACKED", self.carried(s, e, p)))
            if self.broken == "who packs keeps nothing":
                p = None
        elif what == "KEEP":
            p = p._replace(frozen=0, recalled=False)
        elif what == "DROP":
            p = None
        s[f"at {e}"] = p

    def pauses(self, s: State, e: str, p: Process) -> None:
        s[f"at {e}"] = p._replace(frozen=1)
        self.put(s, f"{e}H", ("PAUSE", 0))

    def e_hears(self, s: State, e: str, who: str) -> None:
        if who == "H":
            while s[f"H{e}"]:
                self.e_reads(s, e)
            if self.broken != "runs on without a home":
                s[f"at {e}"] = None
        elif who == "A" and self.broken == "the host fires by its own news" and isinstance(s[f"at {e}"], Process):
            s[f"at {e}"] = s[f"at {e}"]._replace(down=True, waiting=False)
        s[f"heard {e}"] |= {who}

    def tells_end(self, s: State, e: str) -> None:
        passed, s[f"at {e}"] = s[f"at {e}"], None
        self.put(s, f"{e}H", ("ENDED", passed))

    def claims(self, s: State, e: str) -> None:
        _, _, p = s["slot"]
        s["slot"] = ("BEGUN" if self.broken == "claimed is begun" else "CLAIMED", e, p)
        s[f"loot {e}"] = True

    def begins_loot(self, s: State, e: str) -> None:
        word, thief, p = s["slot"]
        s[f"loot {e}"] = False
        if word != "CLAIMED" or thief != e:
            return
        if self.broken != "begins without saying so":
            s["slot"] = ("BEGUN", e, p)
        self.direct = False
        s["where"] = e if "H" not in s["dead"] else ""
        s[f"at {e}"] = p._replace(released=False)
        self.put(s, f"{e}H", ("STOLEN", 0))

    # --- who can do what ---

    def kill(self, s: State, e: str) -> None:
        s["dead"] |= {e}
        s[f"out {e}"] = ()
        for name in s:
            if len(name) == 2 and name[1] == e:
                s[name] = ()
        if e == "H":
            s["p"] = None
            s["hosted"] = ()
            s["where"] = ""
        elif e != "A":
            s[f"at {e}"] = None
            s[f"loot {e}"] = False
            s[f"{e}H over"] = s[f"{e}A over"] = ()

    def make_noise(self, s: State, e: str) -> None:
        s["noise"] -= 1
        self.put(s, f"{e}H", ("NOISE", 0))

    def start_u(self, s: State) -> None:
        s["heard U"] = s["dead"]

    def reuse_slot(self, s: State) -> None:
        s["slot"] = ("EMPTY", "", None)

    def options(self, s: State) -> Iterator[Move]:
        """What can happen next: its name, whether it happens for sure if nothing else does, and what it does."""
        dead = s["dead"]
        for e in self.kills:
            if e not in dead and len(dead) < self.deaths and s[f"heard {e}"] is not None:
                yield f"{e} is killed", False, partial(self.kill, e=e)
        if self.replaces and s["heard U"] is None and "T" in dead:
            yield "U starts", True, self.start_u
        if "H" in dead and s["slot"][0] != "EMPTY":
            yield "H's replacement uses the slot", False, self.reuse_slot
        if "A" not in dead:
            yield from self.options_of_a(s)
        if "H" not in dead:
            yield from self.options_of_h(s)
        for e in self.hosts:
            if e not in dead and s[f"heard {e}"] is not None:
                yield from self.options_of_host(s, e)

    def options_of_a(self, s: State) -> Iterator[Move]:
        if s["out A"]:
            yield "A goes on", True, partial(self.publish_next, e="A")
            return
        for who in s["dead"] - s["heard A"]:
            yield f"A hears of {who}", True, partial(self.a_hears, who=who)
        for e in ("H", *self.hosts):
            if s[f"{e}A"]:
                yield f"A reads {s[f'{e}A'][0]} from {e}", True, partial(self.read, e=e)
        if s["sent"] < self.to_p:
            yield "A sends", False, self.a_sends
        if 0 in s["monitors"]:
            yield "A monitors", False, partial(self.a_monitors, ref=s["monitors"].index(0))

    def options_of_h(self, s: State) -> Iterator[Move]:
        if s["out H"]:
            yield "H goes on", True, partial(self.publish_next, e="H")
            return
        for who in s["dead"] - s["heard H"]:
            yield f"H hears of {who}", True, partial(self.h_hears, who=who)
        if s["AH"]:
            yield f"H reads {s['AH'][0]}", True, self.h_reads_a
        for e in self.hosts:
            if s[f"{e}H"]:
                what = s[f"{e}H"][0][0]
                yield f"H reads {what}", True, partial(self.h_reads, e=e)
                if what == "PACKED" and s["refusals"]:
                    yield "H refuses PACKED", False, partial(self.h_reads, e=e, refuse=True)
        p = s["p"]
        if isinstance(p, Process):
            if not s["begun"]:
                yield "H's turn for p", True, self.turn
                return
            yield from self.acts(s, "H", p)
            if s["moves"] and not p.waiting:
                for e in self.hosts:
                    if e not in s["heard H"] and not (self.replaces and e == "U" and "T" not in s["heard H"]):
                        yield f"p leaves for {e}", False, partial(self.leaves, e=e)
        elif isinstance(p, Stub) and p.mode == "there" and s["moves"]:
            yield "H recalls p", False, self.recalls

    def options_of_host(self, s: State, e: str) -> Iterator[Move]:
        if s[f"out {e}"]:
            yield f"{e} goes on", True, partial(self.publish_next, e=e)
            return
        if s[f"loot {e}"]:
            yield f"{e} begins", True, partial(self.begins_loot, e=e)
            return
        for who in s["dead"] - s[f"heard {e}"]:
            yield f"{e} hears of {who}", True, partial(self.e_hears, e=e, who=who)
        for ring in (f"{e}H", f"{e}A"):
            if s[f"{ring} over"] and self.fits(s, ring):
                yield f"{e} flushes to {ring[1]}", True, partial(self.flush, ring=ring)
        if s[f"H{e}"]:
            what = s[f"H{e}"][0][0]
            yield f"{e} reads {s[f'H{e}'][0]}", True, partial(self.e_reads, e=e)
            if what == "ARRIVE" and s["refusals"]:
                yield f"{e} refuses p", False, partial(self.e_reads, e=e, refuse=True)
        if s["slot"][0] == "READY" and ("H" not in s[f"heard {e}"] or self.broken == "steals from the dead"):
            yield f"{e} claims", False, partial(self.claims, e=e)
        if s["noise"]:
            yield f"{e} sends something else to H", False, partial(self.make_noise, e=e)
        p = s[f"at {e}"]
        if isinstance(p, Process):
            yield from self.acts(s, e, p)
            if p.recalled and not p.frozen and not p.waiting and not self.overflows(s, e):
                yield f"{e} pauses p", True, partial(self.pauses, e=e, p=p)
        elif p is not None and (not self.overflows(s, e) or self.broken == "its end passes its last words"):
            yield f"{e} tells the end", True, partial(self.tells_end, e=e)

    def check_end(self, s: State) -> None:
        """Nothing moves any more."""
        dead, p = s["dead"], s["p"]
        if "H" in dead:
            for e in self.hosts:
                if s[f"at {e}"] is not None:
                    raise Violation(f"p runs at {e}, but its home is dead")
        if isinstance(p, Stub):
            if p.mode != "there" or not isinstance(s[f"at {p.host}"], Process):
                raise Violation(f"p is nowhere: {p}")
            p = s[f"at {p.host}"]
        if isinstance(p, Process):
            if p.frozen or not p.released or p.waiting or p.mail:
                raise Violation(f"p waits for ever: {p}")
            if "A" in dead:
                if not p.down:
                    raise Violation("p waits for ever for the Down of A")
                return
            if p.arrived != s["sent"] or s["got"] != p.sent:
                raise Violation(f"p has got {p.arrived} of {s['sent']} records, A {s['got']} of {p.sent}")
        elif s["where"]:
            raise Violation(f"p is lost: it was at {s['where']}")
        if "A" not in dead and p is None and 1 in s["monitors"]:
            raise Violation("A waits for ever for a Down")

    def explore(self) -> int:
        """How many states there are. Raises Violation, with the shortest way there."""
        first = self.start()
        names = list(first)
        came: dict[tuple[Any, ...], tuple[tuple[Any, ...] | None, str]] = {tuple(first.values()): (None, "")}
        todo = deque(came)
        while todo:
            key = todo.popleft()
            state = dict(zip(names, key, strict=True))
            at_rest, name = True, ""
            try:
                for name, sure, act in self.options(state):
                    after = state.copy()
                    self.direct = True
                    act(after)
                    at_rest = at_rest and not sure
                    found = tuple(after.values())
                    if found not in came:
                        came[found] = key, name
                        todo.append(found)
                if at_rest:
                    name = "nothing moves"
                    self.check_end(state)
            except Violation as violation:
                way = [name]
                at: tuple[Any, ...] | None = key
                while at is not None:
                    at, name = came[at]
                    way.append(name)
                raise Violation("\n    ".join([str(violation), *reversed(way)])) from None
        return len(came)


Ends = tuple[int, int]  # of a link at one side: (id of the LINK that it has sent last, id of the one that has come)


class Links(Model):
    """p at T and A's process link and unlink each other; what H keeps of it. docs/internals.md, "Links".

    Args:
        of_p, of_a: how often each may link or unlink.
    """

    def __init__(self, of_p: int, of_a: int, room: int = 0, noise: int = 0, broken: str = "") -> None:
        super().__init__(room=room, noise=noise, kills="T", broken=broken)
        self.of_p, self.of_a = of_p, of_a

    def start(self) -> State:
        s: State = {"dead": frozenset(), "noise": self.noise, "where": "", "slot": ("EMPTY", "", None)}
        for e in "HTA":
            s[f"heard {e}"] = frozenset()
            s[f"out {e}"] = ()
            s[f"link {e}"] = None  # of p, of A's process, and the copy
            s[f"ids {e}"] = 0
        for ring in ("AH", "HA", "TH", "TA", "HT"):
            s[ring] = ()
        s["TH over"] = s["TA over"] = ()
        s["acts T"], s["acts A"] = self.of_p, self.of_a
        s["at T"], s["loot T"] = None, False
        return s

    def link(self, s: State, e: str) -> None:
        s[f"acts {e}"] -= 1
        s[f"ids {e}"] += 1
        own = s[f"ids {e}"]
        s[f"link {e}"] = (own, 0)
        if e == "T":
            if self.broken == "LINKED after LINK":
                self.put(s, "TA", ("LINK", own))
            self.put(s, "TH", ("LINKED", own))
            if self.broken != "LINKED after LINK":
                self.put(s, "TA", ("LINK", own))
        else:
            self.put(s, "AH", ("LINK", own))

    def unlink(self, s: State, e: str) -> None:
        s[f"acts {e}"] -= 1
        _, seen = s[f"link {e}"]
        s[f"link {e}"] = None
        if e == "T":
            if self.broken == "UNLINKED before UNLINK":
                self.put(s, "TH", ("UNLINKED", seen))
            self.put(s, "TA", ("UNLINK", seen))
            if self.broken != "UNLINKED before UNLINK":
                self.put(s, "TH", ("UNLINKED", seen))
        else:
            self.put(s, "AH", ("UNLINK", seen))

    def take_link(self, s: State, e: str, what: str, number: int) -> None:
        """A LINK, UNLINK or EXIT of the other side."""
        link: Ends | None = s[f"link {e}"]
        if what == "LINK":
            s[f"link {e}"] = (link[0] if link else 0, number)
        elif link is None:
            return
        elif what == "UNLINK":
            s[f"link {e}"] = (link[0], 0) if link[0] > number else None
        elif link[1] or number >= link[0]:
            s[f"link {e}"] = None

    def a_reads(self, s: State, e: str) -> None:
        what, number = self.take(s, f"{e}A")
        if what == "EXIT":
            self.a_reads_all(s)
        self.take_link(s, "A", what, number)

    def a_reads_all(self, s: State) -> None:
        while s["TA"]:
            self.a_reads(s, "T")

    def a_hears(self, s: State, who: str) -> None:
        self.a_reads_all(s)
        s["heard A"] |= {who}

    def h_reads_a(self, s: State) -> None:
        what, number = self.take(s, "AH")
        if "T" in s["heard H"]:
            if what == "LINK":
                self.put(s, "HA", ("EXIT", number))
            return
        self.take_link(s, "H", what, number)
        self.put(s, "HT", (what, number))

    def h_reads(self, s: State, e: str, refuse: bool = False) -> None:
        what, number = self.take(s, "TH")
        copy: Ends | None = s["link H"]
        if what == "LINKED":
            s["link H"] = (number, copy[1] if copy else 0)
        elif what == "UNLINKED" and copy is not None:
            # A's next LINK may have passed here before this came: p is going to have it.
            newer = copy[1] > number and self.broken != "UNLINKED takes off what is newer"
            s["link H"] = (0, copy[1]) if newer else None

    def h_hears(self, s: State, who: str) -> None:
        while s["TH"]:
            self.h_reads(s, "T")
        s["heard H"] |= {who}
        copy: Ends | None = s["link H"]
        s["link H"] = None
        if copy is not None:
            self.put(s, "HA", ("EXIT", copy[1]))

    def t_reads(self, s: State) -> None:
        self.take_link(s, "T", *self.take(s, "HT"))

    def publish(self, s: State, ring: str, record: Record) -> None:
        """UNLINKED isn't said where the UNLINK may be lost: then H knows of a link too many, and A drops the EXIT."""
        if record[0] == "UNLINKED" and s["TA over"] and self.broken != "UNLINK in the overflow":
            return
        super().publish(s, ring, record)

    def kill(self, s: State, e: str) -> None:
        super().kill(s, e)
        s["link T"] = None

    def options(self, s: State) -> Iterator[Move]:
        dead = s["dead"]
        if "T" not in dead:
            yield "T is killed", False, partial(self.kill, e="T")
        for e in "HTA":
            if e in dead:
                continue
            if s[f"out {e}"]:
                # A LINK goes out when its LINKED is in the ring.
                waits = s[f"out {e}"][0][1][0] == "LINK" and s["TH over"] and self.broken != "LINKED in the overflow"
                if e != "T" or not waits:
                    yield f"{e} goes on", True, partial(self.publish_next, e=e)
                    continue
            elif s.get(f"acts {e}"):
                act = self.link if s[f"link {e}"] is None else self.unlink
                yield f"{e}: {act.__name__}", False, partial(act, e=e)
            if e != "T" and dead - s[f"heard {e}"]:
                yield f"{e} hears of T", True, partial(self.a_hears if e == "A" else self.h_hears, who="T")
        for ring in ("TH", "TA"):
            if s[f"{ring} over"] and self.fits(s, ring):
                yield f"T flushes to {ring[1]}", True, partial(self.flush, ring=ring)
        for ring, read in (
            ("AH", self.h_reads_a),
            ("TH", partial(self.h_reads, e="T")),
            ("HT", self.t_reads),
            ("HA", partial(self.a_reads, e="H")),
            ("TA", partial(self.a_reads, e="T")),
        ):
            if s[ring] and not s[f"out {ring[1]}"]:
                yield f"{ring[1]} reads {s[ring][0]} from {ring[0]}", True, read
        if s["noise"] and "T" not in dead:
            yield "T sends something else to H", False, partial(self.make_noise, e="T")

    def check_end(self, s: State) -> None:
        if "T" in s["dead"]:
            if s["link A"] is not None:
                raise Violation(f"A is linked to the dead for ever: {s['link A']}")
            return
        if (s["link A"] is None) != (s["link T"] is None):
            raise Violation(f"one side is linked: {s['link T']}, {s['link A']}")
        if s["link T"] is not None and s["link H"] is None:
            raise Violation("p's home doesn't know of a link")


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Of a million tuples none is in a cycle; to look for some takes a third of the time."""
    gc.disable()
    yield
    gc.enable()


# What takes part; each instance is small, and another rule matters in each.
STEAL = {"start": "exported", "to_p": 2, "kills": "TH"}
STEAL_FULL = {"start": "exported", "room": 1, "noise": 1, "kills": "T"}
STEAL_ASK = {"start": "exported", "to_p": 1, "to_a": 0, "ask": True, "kills": "TA"}
TWO_THIEVES = {"start": "exported", "hosts": 2, "kills": "TH"}
REPLACED_THIEF = {**TWO_THIEVES, "replaces": True}
THERE_AND_BACK = {"moves": 2, "refusals": 1, "kills": "TH"}
FULL = {"room": 1, "noise": 1, "moves": 1, "to_a": 2, "kills": "T"}
CALL = {"start": "there", "moves": 1, "ask": True, "kills": "T"}
RECALLED_TWICE = {"start": "there", "moves": 2, "refusals": 1}
THIRD = {"moves": 2, "refusals": 1, "to_a": 0, "kills": "TA"}
END = {"start": "there", "end": True, "monitors": 2, "moves": 1, "kills": "T"}
END_FULL = {"start": "there", "end": True, "monitors": 2, "room": 1, "to_a": 2, "to_p": 0, "kills": "T"}
ON = {"start": "there", "hosts": 2, "moves": 2, "to_p": 0, "to_a": 2, "kills": "U"}
ON_TO_NEXT = {**ON, "replaces": True, "end": True, "kills": "TU"}

HOLD = [
    pytest.param(STEAL, id="steal"),
    pytest.param(STEAL_FULL, id="steal, full rings"),
    pytest.param(STEAL_ASK, id="steal, a call"),
    pytest.param(TWO_THIEVES, id="two thieves"),
    pytest.param(REPLACED_THIEF, id="a thief and its replacement"),
    pytest.param(THERE_AND_BACK, id="there and back"),
    pytest.param(FULL, id="full rings"),
    pytest.param(CALL, id="recalled in a call"),
    pytest.param(RECALLED_TWICE, id="recalled twice"),
    pytest.param(THIRD, id="the third dies"),
    pytest.param(END, id="an end"),
    pytest.param(END_FULL, id="an end, full rings"),
    pytest.param(ON, id="from one host to the other"),
    pytest.param(ON_TO_NEXT, id="from one host to its replacement"),
]


@contract("S2.1", "S2.4", "S4.3", partly=True)
@pytest.mark.parametrize("instance", HOLD)
def test_model_order_downs_and_turns_hold_wherever_a_process_runs(instance: dict[str, Any]) -> None:
    assert Model(**instance).explore() > 1_000


# What is changed in the rules, where, and what comes of it.
BROKEN = [
    # What p sends
    ("no fence", THERE_AND_BACK, "A gets record . of p"),
    ("a fence not used is forgotten", ON, "A gets record 1 of p, expected 0"),
    ("the stub keeps no fence", ON, "A gets record . of p after its Down"),
    ("the Down without a fence", END, "A gets record 0 of p after its Down"),
    ("noproc without a fence", END, "A gets record 0 of p after its Down"),
    ("noproc behind the last host only", ON_TO_NEXT, "A gets record 0 of p after its Down"),
    ("the dead home's not dropped", THERE_AND_BACK, "A gets record 0 of p after its Down"),
    # Its end
    ("the end is told at home first", END, "A waits for ever for a Down"),
    ("its end passes its last words", END_FULL, "A waits for ever for a Down"),
    ("no noproc for the late", END, "A waits for ever for a Down"),
    ("runs on without a home", THERE_AND_BACK, "p runs at T, but its home is dead"),
    # Stealing
    ("taken back without a look", STEAL, "p has got 0 of 0 records, A 1 of 0"),
    ("claimed is begun", TWO_THIEVES, "p is lost with T, but it is at H"),
    ("who claims has begun", STEAL, "p is lost with T, but it is at H"),
    ("who has begun comes home", STEAL_FULL, "p has got 0 of 0 records, A 1 of 0"),
    ("begins without saying so", STEAL_FULL, "p has got 0 of 0 records, A 1 of 0"),
    ("steals from the dead", STEAL, "p runs at T, but its home is dead"),
    ("mail after what was held", STEAL, "p gets record 1 of A, expected 0"),
    ("an answer as mail", STEAL_ASK, "p waits for ever"),
    # Moving
    ("no drain", THERE_AND_BACK, "p handles record 0 of A twice"),
    ("nothing held for who leaves", THERE_AND_BACK, "p has got 0 of 1 records"),
    ("runs before it has arrived", FULL, "p has got 0 of 0 records, A 1 of 0"),
    ("a recall holds", CALL, "p is nowhere"),
    ("a second recall packs at once", RECALLED_TWICE, "p has got 0 of 1 records"),
    ("what is packed runs on", THERE_AND_BACK, "p handles record 0 of A twice"),
    ("who packs keeps nothing", THERE_AND_BACK, "p is nowhere"),
    # The death of a third
    ("the host fires by its own news", THIRD, "p gets record 0 of A after its Down"),
    ("news pass what is held", THIRD, "p gets record 0 of A after its Down"),
    ("fires before it replays", THIRD, "p gets record 0 of A after its Down"),
]


@pytest.mark.parametrize(
    ("broken", "instance", "what"), BROKEN, ids=[f"{name} {i}" for i, (name, _, _) in enumerate(BROKEN)]
)
def test_model_catches_what_would_break_the_moves(broken: str, instance: dict[str, Any], what: str) -> None:
    with pytest.raises(Violation, match=what):
        Model(**instance, broken=broken).explore()


@contract("S4.1", "S4.2", partly=True)
@pytest.mark.parametrize(("of_p", "of_a", "room", "noise"), [(3, 3, 0, 0), (3, 2, 1, 1), (2, 4, 1, 0)])
def test_model_a_link_holds_wherever_a_process_runs(of_p: int, of_a: int, room: int, noise: int) -> None:
    assert Links(of_p, of_a, room, noise).explore() > 1_000


BROKEN_LINKS = [
    ("LINKED after LINK", (1, 0, 0, 0), "A is linked to the dead for ever"),
    ("LINKED in the overflow", (1, 0, 1, 1), "A is linked to the dead for ever"),
    ("UNLINKED before UNLINK", (2, 0, 0, 0), "A is linked to the dead for ever"),
    ("UNLINK in the overflow", (2, 0, 1, 0), "A is linked to the dead for ever"),
    (
        "UNLINKED takes off what is newer",
        (2, 2, 0, 0),
        "p's home doesn't know of a link|A is linked to the dead for ever",
    ),
]


@pytest.mark.parametrize(("broken", "instance", "what"), BROKEN_LINKS, ids=[name for name, _, _ in BROKEN_LINKS])
def test_model_catches_what_would_break_links(broken: str, instance: tuple[int, int, int, int], what: str) -> None:
    with pytest.raises(Violation, match=what):
        Links(*instance, broken=broken).explore()
