"""Minutes of everything at once: kills, floods, hogs, storms of spawns, links and monitors (S2.4, S9.2).

What each has done is counted, shown at the end and must not be nothing. `STRESS_SECONDS` sets how long each of them
runs in `tox -e stress`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from puppets import WAIT, echo, mail, puppet

contract = pytest.mark.contract

SECONDS = float(os.environ.get("STRESS_SECONDS", "100"))
# The same tests with little in them belong to the normal suite, so that they don't rot.
LENGTHS = [pytest.param(1.0, id="short"), pytest.param(SECONDS, marks=pytest.mark.stress, id="long")]
# Seconds for an answer or a reason, on a machine whose cores are all busy: 1 on one that has nothing else to do.
PATIENCE = 8.0


def seed() -> int:
    """Another one each time, shown when the test fails."""
    chosen = int(os.environ.get("STRESS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
    print("STRESS_SEED", chosen)
    return chosen


@dataclass
class Count:
    """What a run has done."""

    messages: int = 0
    answers: int = 0
    failures: int = 0
    downs: int = 0
    kills: int = 0
    slowest: float = 0.0
    faults: list[Any] = field(default_factory=list)


@pytest.fixture
def summary(request: pytest.FixtureRequest) -> Iterator[Callable[[str, float], None]]:
    """Call it with what was counted, and in how many seconds: it is shown also where output is captured."""
    lines: list[str] = []

    def tell(text: str, seconds: float) -> None:
        lines.append(f"{request.node.name}: {text} in {seconds:.1f} s")

    yield tell
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("", *lines, sep="\n", flush=True)


# --- numbers, questions and monitors under kills ----------------------------------------------------------------------


def talk(hub: pa.Pid, receivers: list[pa.Pid]) -> None:
    """Numbers to every receiver, of every size, for ever."""
    number = 0
    while True:
        for receiver in receivers:
            pa.send(receiver, ("no", pa.self_(), number, bytes(size_of(number))))
        number += 1


def size_of(number: int) -> int:
    for every, size in ((997, 1_000_000), (101, 70_000), (17, 17_000), (5, 1_000)):
        if number % every == every - 1:
            return size
    return number % 50


def listen(hub: pa.Pid) -> None:
    """Watch every sender that is announced; its numbers come without a gap until its one Down, and nothing after it."""
    expected: dict[pa.Pid, int] = {}
    watched: dict[pa.Ref, pa.Pid] = {}
    over: set[pa.Pid] = set()
    count = Count()
    while True:
        match pa.receive():
            case ("no", sender, number, payload):
                count.messages += 1
                if sender in over or expected.get(sender, 0) != number or len(payload) != size_of(number):
                    count.faults.append(("number", sender, number, expected.get(sender), sender in over))
                expected[sender] = number + 1
            case ("watch", sender):
                watched[pa.monitor(sender)] = sender
            case pa.Down(ref=ref, pid=pid):
                count.downs += 1
                if watched.pop(ref, None) != pid:
                    count.faults.append(("a second Down", pid))
                expected.pop(pid, None)
                over.add(pid)
            case ("report", asker):
                pa.send(asker, ("report", count, set(watched.values())))
                count = Count()
            case other:
                count.faults.append(("unknown", repr(other)[:100]))


def question(servers: list[pa.Pid], asker: pa.Pid, seconds: float) -> None:
    """Ask a random server, again and again, each time with a monitor: an answer or its Down comes, in time, once."""
    chance, count = random.Random(), Count()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        server = chance.choice(servers)
        ref = pa.monitor(server)
        pa.send(server, (pa.self_(), ref))
        begin = time.monotonic()
        got = pa.receive(ref, pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT, default=None)
        count.slowest = max(count.slowest, time.monotonic() - begin)
        if got is None:
            count.faults.append(("no answer", server))
        elif isinstance(got, pa.Down):
            count.failures += 1
            if not isinstance(got.reason, pa.WorkerDown) and got.reason != "noproc":
                count.faults.append(("reason", got))
        else:
            count.answers += 1
        pa.demonitor(ref, flush=True)
        # An answer behind the Down, or a second one of either.
        while (late := pa.receive(timeout=0, default=None)) is not None:
            count.faults.append(("late", late))
    pa.send(asker, ("questions", count))


@contract("S2.4", "S4.3", "S9.2", "S4.5", partly=True)
@pytest.mark.parametrize("seconds", LENGTHS)
@pytest.mark.parametrize("hogs", [False, True], ids=["", "hogs"])
def test_kills_at_random_instants_under_full_load(
    actor_system: pa.ActorSystem, summary: Callable[[str, float], None], seconds: float, hogs: bool
) -> None:
    chance = random.Random(seed())
    total = Count()
    begin = time.monotonic()
    here = pa.self_()
    rounds = 0
    while time.monotonic() - begin < seconds or rounds < 3:
        rounds += 1
        victim = chance.randrange(2)
        # Listeners on both workers and senders on both; the victim's listeners die with it.
        listeners = [pa.options(worker=index).spawn(listen, here) for index in (0, 1) for _ in range(2)]
        senders = [
            pa.options(worker=index, name=f"sender {index} {i}").spawn(talk, here, listeners)
            for index in (0, 1)
            for i in range(2)
        ]
        servers = [pa.options(worker=index).spawn(echo) for index in (0, 1)]
        for listener in listeners:
            for sender in senders:
                pa.send(listener, ("watch", sender))
        if hogs:
            for index in (0, 1):
                pa.options(worker=index).spawn(compute)
        asking = [pa.options(worker=1 - victim).spawn(question, servers, here, 0.5) for _ in range(2)]
        refs = {pa.monitor(pid): pid for pid in senders[2 * victim : 2 * victim + 2]}
        spin(chance.uniform(0, 0.3))
        former = actor_system.worker_pids[victim]
        if not former:
            continue
        os.kill(former, signal.SIGKILL)
        total.kills += 1
        while refs:
            down = pa.receive(pa.Down, timeout=WAIT)
            assert refs.pop(down.ref) == down.pid
            assert down.reason == pa.WorkerDown(victim, signal.SIGKILL)
            name = f"sender {victim} {senders.index(down.pid) - 2 * victim}"
            assert pa.whereis(name) is None
        dead = set(senders[2 * victim : 2 * victim + 2])
        for listener in listeners[2 - 2 * victim : 4 - 2 * victim]:
            report = Count()
            waiting = dead
            while waiting & dead:
                pa.send(listener, ("report", here))
                _, part, waiting = pa.receive(("report", pa.ANY, pa.ANY), timeout=WAIT)
                report.messages += part.messages
                report.downs += part.downs
                report.faults += part.faults
            assert report.faults == []
            assert report.downs == 2
            total.messages += report.messages
            total.downs += report.downs
        for _ in asking:
            _, count = pa.receive(("questions", pa.ANY), timeout=WAIT)
            assert count.faults == []
            total.answers += count.answers
            total.failures += count.failures
            assert count.slowest < PATIENCE, "neither an answer nor a reason"
            total.slowest = max(total.slowest, count.slowest)
        for pid in pa.processes():
            if pid != here:
                pa.exit(pid, "kill")
        eventually(lambda: pa.processes() == [here], "all are gone")
        await_replaced(actor_system, victim, former)
        assert pa.registered() == []
        assert mail() == []
    assert total.kills > 0
    assert total.messages > 100 * total.kills
    assert total.downs == 4 * total.kills
    assert total.answers > 0
    took = time.monotonic() - begin
    summary(
        f"{total.kills} kills, {total.messages} messages ({total.messages / took:.0f}/s), {total.downs} downs, "
        f"{total.answers} answers, {total.failures} failed questions, slowest {total.slowest:.3f} s",
        took,
    )


def await_replaced(system: pa.ActorSystem, index: int, former: int) -> None:
    eventually(lambda: system.worker_pids[index] not in (0, former), f"worker {index} is replaced")


def compute() -> None:
    while True:
        sum(range(1000))


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


# --- storms -----------------------------------------------------------------------------------------------------------


def spawn_storm(asker: pa.Pid, seconds: float, number: int) -> None:
    """Spawn on every worker as fast as it goes, each child with a monitor or a link; each gives one Down or Exit."""
    chance, count = random.Random(number), Count()
    pa.trap_exit()
    refs: dict[pa.Ref, pa.Pid] = {}
    links: set[pa.Pid] = set()
    until = time.monotonic() + seconds

    def take(timeout: float) -> bool:
        message = pa.receive(pa.Down, pa.Exit, timeout=timeout, default=None)
        if message is None:
            return False
        reason = message.reason
        if isinstance(message, pa.Down):
            count.downs += 1
            if refs.pop(message.ref, None) != message.pid:
                count.faults.append(("a second Down", message))
        elif message.pid in links:
            count.answers += 1
            links.remove(message.pid)
        elif reason != "shutdown":
            count.faults.append(("a second Exit", message))
        if reason not in ("normal", "over", "noproc", "shutdown") and not isinstance(reason, pa.WorkerDown):
            count.faults.append(("reason", message))
        return True

    while time.monotonic() < until:
        for _ in range(20):
            place = pa.options(
                worker=chance.randrange(2), name=f"{number} {count.messages % 7}" if chance.random() < 0.2 else None
            )
            try:
                if chance.random() < 0.5:
                    pid, ref = place.spawn_monitor(child, chance.random() < 0.5)
                    refs[ref] = pid
                else:
                    pid = place.spawn_link(child, chance.random() < 0.5)
                    links.add(pid)
            except pa.NameTaken:
                continue
            count.messages += 1
            pa.send(pid, "over")
        while take(0):
            pass
    while (refs or links) and take(WAIT):
        pass
    count.faults += [("no Down", len(refs))] * bool(refs) + [("no Exit", len(links))] * bool(links)
    pa.send(asker, ("storm", number, count))


def child(at_once: bool) -> None:
    if not at_once:
        pa.receive("over")
        raise pa.ProcessExit("over")


@contract("S1.4", "S4.1", "S4.3", "S9.2", "S2.5", partly=True)
@pytest.mark.parametrize("seconds", LENGTHS)
def test_a_storm_of_spawns_and_kills(
    actor_system: pa.ActorSystem, summary: Callable[[str, float], None], seconds: float
) -> None:
    chance, total = random.Random(seed()), Count()
    here = pa.self_()
    begin = time.monotonic()
    number = 0
    while time.monotonic() - begin < seconds or total.kills < 2:
        storms = {}
        for index in (0, 1, 0, 1):
            number += 1
            storms[pa.options(worker=index).spawn_monitor(spawn_storm, here, 0.5, number)[1]] = index
        spin(chance.uniform(0.05, 0.4))
        victim = chance.randrange(2)
        former = actor_system.worker_pids[victim]
        os.kill(former, signal.SIGKILL)
        total.kills += 1
        reports = 0
        while storms:
            match pa.receive(timeout=2 * WAIT):
                case ("storm", _, count):
                    assert count.faults == []
                    total.messages += count.messages
                    total.downs += count.downs
                    total.answers += count.answers
                    reports += 1
                case pa.Down(ref=ref, reason=reason):
                    index = storms.pop(ref)
                    assert reason == (pa.WorkerDown(victim, signal.SIGKILL) if index == victim else "normal")
        assert reports == 2
        await_replaced(actor_system, victim, former)
        # A child of the dead that waits for an order that was never sent.
        for pid in pa.processes():
            if pid != here:
                pa.exit(pid, "kill")
        eventually(lambda: pa.processes() == [here], "no process is left")
        assert pa.registered() == []
        assert mail() == []
    assert total.downs > 0
    assert total.answers > 0
    took = time.monotonic() - begin
    summary(
        f"{total.kills} kills, {total.messages} spawns ({total.messages / took:.0f}/s), {total.downs} downs, "
        f"{total.answers} exits of links",
        took,
    )


def monitor_and_remember(pid: pa.Pid) -> None:
    pa.process_dict().setdefault("refs", {})[pa.monitor(pid)] = pid


def demonitor_some() -> None:
    refs = pa.process_dict().get("refs", {})
    for ref in list(refs)[::3]:
        pa.demonitor(ref, flush=True)
        del refs[ref]


def remembered() -> dict[pa.Ref, pa.Pid]:
    found: dict[pa.Ref, pa.Pid] = pa.process_dict().get("refs", {})
    return found


@contract("S4.1", "S4.2", "S4.3", "S9.2", partly=True)
@pytest.mark.parametrize("seconds", LENGTHS)
def test_a_storm_of_links_and_monitors_and_kills(
    actor_system: pa.ActorSystem, summary: Callable[[str, float], None], seconds: float
) -> None:
    # When all is quiet, links are on both sides or on none, none leads to the dead, and each monitor on the dead has
    # given one Down.
    chance, total = random.Random(seed()), Count()
    acts: list[Callable[[pa.Pid], object]] = [pa.link, pa.link, pa.unlink, monitor_and_remember]
    begin = time.monotonic()
    while time.monotonic() - begin < seconds or total.kills < 2:
        actors = [puppet(index % 2) for index in range(12)]
        for actor in actors:
            actor.do(pa.trap_exit)
        victim = chance.randrange(2)
        former = actor_system.worker_pids[victim]
        steps = 600
        dies_at = chance.randrange(100, steps)
        for step in range(steps):
            one, other = chance.sample(actors, 2)
            if step == dies_at:
                os.kill(former, signal.SIGKILL)
                total.kills += 1
            if chance.random() < 0.1:
                one.tell(demonitor_some)
            else:
                one.tell(chance.choice(acts), other.pid)
            total.messages += 1
        watches = [pa.monitor(actor.pid) for index, actor in enumerate(actors) if index % 2 == victim]
        for watch in watches:
            reason = pa.receive(pa.Down(watch, pa.ANY, pa.ANY), timeout=WAIT).reason
            # Its signal is None where nobody could tell it, on a machine that is far too busy.
            assert reason in (pa.WorkerDown(victim, signal.SIGKILL), pa.WorkerDown(victim), "noproc")
        living = [actor for index, actor in enumerate(actors) if index % 2 != victim]
        for _ in range(2):
            for one in living:
                for other in living:
                    one.do(pa.process_info, other.pid, "status")
        await_replaced(actor_system, victim, former)
        gone = {actor.pid for index, actor in enumerate(actors) if index % 2 == victim}
        fresh = puppet(victim)
        for one in living:
            # What they told the dead has been answered, by the root's news or by the next incarnation.
            one.do(pa.process_info, fresh.pid, "status")
        links = {one.pid: set(pa.process_info(one.pid, "links")) for one in living}
        for one in living:
            assert not links[one.pid] & gone
            assert all((other.pid in links[one.pid]) == (one.pid in links[other.pid]) for other in living)
            downs = [message.ref for message in one.do(mail) if isinstance(message, pa.Down)]
            assert len(downs) == len(set(downs))
            assert set(downs) == {ref for ref, pid in one.do(remembered).items() if pid in gone}
            total.downs += len(downs)
        for actor in [*living, fresh]:
            pa.exit(actor.pid, "kill")
        eventually(lambda: pa.processes() == [pa.self_()], "all are gone")
        mail()
    assert total.downs > 0
    took = time.monotonic() - begin
    summary(f"{total.kills} kills, {total.messages} steps ({total.messages / took:.0f}/s), {total.downs} downs", took)
