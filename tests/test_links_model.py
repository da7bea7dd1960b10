"""Links, monitors and exits of four processes on two workers, against a small model (S4.1, S4.2, S4.3)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import parallel_actors as pa
from puppets import Puppet, mail, puppet

# Slow examples are those of a busy machine.
SUPPRESSED = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

COUNT = 4
REASONS = ["normal", "boom", "kill"]

# (what, who, whom or a reason)
Step = tuple[str, int, Any]

someone = st.integers(0, COUNT - 1)
steps = st.one_of(
    st.tuples(st.sampled_from(["link", "unlink", "monitor", "demonitor"]), someone, someone),
    st.tuples(st.just("trap"), someone, st.booleans()),
    st.tuples(st.just("leave"), someone, st.sampled_from(REASONS)),
    st.tuples(st.just("exit"), someone, st.tuples(someone, st.sampled_from(REASONS))),
)


@dataclass
class Actor:
    """What the model knows of one process."""

    alive: bool = True
    reason: str | None = None
    traps: bool = False
    links: set[int] = field(default_factory=set)
    monitors: list[int] = field(default_factory=list)
    # ("exit", who, reason) and ("down", who, reason): in no order, since they come from different processes.
    mail: list[tuple[str, int, str]] = field(default_factory=list)


class Model:
    """Everything acts at once, as if each step were over before the next begins."""

    def __init__(self) -> None:
        self.actors = [Actor() for _ in range(COUNT)]

    def end(self, index: int, reason: str) -> None:
        actor = self.actors[index]
        if not actor.alive:
            return
        actor.alive, actor.reason = False, reason
        linked, actor.links = actor.links, set()
        for other in sorted(linked):
            self.actors[other].links.discard(index)
            self.take_exit(other, index, reason)
        for watcher in self.actors:
            if watcher.alive:
                watcher.mail += [("down", index, reason)] * watcher.monitors.count(index)
                watcher.monitors = [target for target in watcher.monitors if target != index]

    def take_exit(self, index: int, sender: int, reason: str) -> None:
        actor = self.actors[index]
        if not actor.alive:
            return
        if actor.traps:
            actor.mail.append(("exit", sender, reason))
        elif reason != "normal":
            self.end(index, reason)

    def step(self, what: str, who: int, value: Any) -> None:
        actor = self.actors[who]
        match what:
            case "link" if value != who:
                if self.actors[value].alive:
                    actor.links.add(value)
                    self.actors[value].links.add(who)
                else:
                    self.take_exit(who, value, "noproc")
            case "unlink":
                actor.links.discard(value)
                self.actors[value].links.discard(who)
            case "monitor":
                if self.actors[value].alive:
                    actor.monitors.append(value)
                else:
                    actor.mail.append(("down", value, "noproc"))
            case "demonitor" if value in actor.monitors:
                actor.monitors.remove(value)
            case "trap":
                actor.traps = value
            case "leave":
                self.end(who, value)
            case "exit":
                target, reason = value
                if reason == "kill":
                    self.end(target, "killed")
                elif target == who and not actor.traps:
                    self.end(target, reason)
                else:
                    self.take_exit(target, who, reason)


class Node:
    """The same steps by real processes. Each step has had its effect everywhere before the next begins."""

    def __init__(self) -> None:
        self.actors = [puppet(index % 2) for index in range(COUNT)]
        self.watches = [actor.watch() for actor in self.actors]
        self.reasons: list[str | None] = [None] * COUNT
        self.refs: dict[tuple[int, int], list[pa.Ref]] = {}
        self.mail: list[list[tuple[str, int, str]]] = [[] for _ in self.actors]

    def index(self, pid: pa.Pid) -> int:
        return [actor.pid for actor in self.actors].index(pid)

    def settle(self) -> None:
        """Signals of signals: there are at most COUNT deaths in a row, each one round trip from worker to worker."""
        for _ in range(COUNT):
            for worker in (0, 1):
                relays[worker].do(pa.process_info, relays[1 - worker].pid, "status")

    def step(self, what: str, who: int, value: Any) -> None:
        actor = self.actors[who]
        match what:
            case "link":
                actor.tell(pa.link, self.actors[value].pid)
            case "unlink":
                actor.tell(pa.unlink, self.actors[value].pid)
            case "monitor":
                self.refs.setdefault((who, value), []).append(actor.do(pa.monitor, self.actors[value].pid))
            case "demonitor":
                for ref in self.refs.get((who, value), [])[-1:]:
                    actor.do(pa.demonitor, ref)
                    self.refs[who, value].pop()
            case "trap":
                actor.do(pa.trap_exit, value)
            case "leave":
                actor.end(value)
            case "exit":
                target, reason = value
                actor.tell(pa.exit, self.actors[target].pid, reason)
        pa.process_info(actor.pid, "status")  # it has done it, or is dead
        self.settle()

    def look(self) -> None:
        """Read mail and reasons."""
        for index in range(COUNT):
            if self.reasons[index] is None:
                down = pa.receive(pa.Down(self.watches[index], pa.ANY, pa.ANY), timeout=0, default=None)
                if down is not None:
                    self.reasons[index] = down.reason
        for index, actor in enumerate(self.actors):
            if self.reasons[index] is None:
                for message in actor.do(mail):
                    kind = "down" if isinstance(message, pa.Down) else "exit"
                    who = self.index(message.pid)
                    self.mail[index].append((kind, who, message.reason))
                    if kind == "down" and message.ref in self.refs.get((index, who), []):
                        self.refs[index, who].remove(message.ref)


relays: list[Puppet] = []


@pytest.mark.contract("S4.1", "S4.2", "S4.3")
def test_links_monitors_and_exits_are_as_the_model_says(node: pa.ActorSystem) -> None:
    relays[:] = [puppet(0), puppet(1)]

    @settings(max_examples=60, deadline=None, suppress_health_check=SUPPRESSED, derandomize=True)
    @given(st.lists(steps, max_size=14))
    def check(script: list[Step]) -> None:
        model, real = Model(), Node()
        for what, who, value in script:
            if not model.actors[who].alive:
                continue
            model.step(what, who, value)
            real.step(what, who, value)
            real.look()
            for index, actor in enumerate(model.actors):
                assert real.reasons[index] == actor.reason, (what, who, value)
                if actor.alive:
                    assert sorted(real.mail[index]) == sorted(actor.mail), (what, who, value)
                    facts = pa.process_info(real.actors[index].pid)
                    assert {real.index(pid) for pid in facts["links"]} == actor.links, (what, who, value)
                    watched = [real.index(pid) for pid in facts["monitors"] if pid != pa.self_()]
                    assert sorted(watched) == sorted(actor.monitors), (what, who, value)
        for left in real.actors:
            pa.exit(left.pid, "kill")
        for watch, reason in zip(real.watches, real.reasons, strict=True):
            if reason is None:
                assert Puppet.reason_of(watch) == "killed"

    check()


@pytest.mark.contract("S4.2", "S4.3", partly=True)
@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_at_once_both_sides_agree_in_the_end(node: pa.ActorSystem, seed: int) -> None:
    # Nothing waits for anything here: signals cross each other. When all is quiet, links are on both sides or on none,
    # and each monitor has given one Down or is still there.
    chance = random.Random(seed)
    acts: list[Callable[[pa.Pid], object]] = [pa.link, pa.link, pa.unlink, monitor_and_remember]
    actors = [puppet(index % 2) for index in range(8)]
    for actor in actors:
        actor.do(pa.trap_exit)
    for _ in range(400):
        one, other = chance.sample(actors, 2)
        one.tell(chance.choice(acts), other.pid)
    dead = chance.sample(actors, 3)
    for actor in dead:
        pa.exit(actor.pid, "kill")
    for _ in range(100):
        one, other = chance.sample(actors, 2)
        one.tell(chance.choice(acts), other.pid)
    for actor in dead:
        actor.reason()
    living = [actor for actor in actors if actor not in dead]
    for _ in range(3):
        for one in living:
            for other in living:
                one.do(pa.process_info, other.pid, "status")
    gone = {actor.pid for actor in dead}
    links = {actor.pid: set(pa.process_info(actor.pid, "links")) for actor in living}
    for one in living:
        assert not links[one.pid] & gone
        for other in living:
            assert (other.pid in links[one.pid]) == (one.pid in links[other.pid])
        got = one.do(mail)
        downs = [message.ref for message in got if isinstance(message, pa.Down)]
        assert len(downs) == len(set(downs))
        asked = one.do(remembered)
        assert set(downs) == {ref for ref, pid in asked if pid in gone}


def monitor_and_remember(pid: pa.Pid) -> None:
    pa.process_dict().setdefault("refs", []).append((pa.monitor(pid), pid))


def remembered() -> list[tuple[pa.Ref, pa.Pid]]:
    found: list[tuple[pa.Ref, pa.Pid]] = pa.process_dict().get("refs", [])
    return found
