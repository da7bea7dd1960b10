"""Timers: sleep, send_after, send_interval, cancel_timer, read_timer (S1.11)."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from puppets import GUEST, WAIT, mail, place, puppet

contract = pytest.mark.contract
# The timer's owner and the receiver: on one worker, on two, one of them the test's thread, both.
everywhere = pytest.mark.parametrize(("here", "there"), [(0, 0), (0, 1), (GUEST, 0), (0, GUEST), (GUEST, GUEST)])
anywhere = pytest.mark.parametrize("here", [0, GUEST])


def get_soon() -> Any:
    return pa.receive(lambda m: not isinstance(m, tuple), timeout=WAIT)


def await_sleep(pid: pa.Pid) -> None:
    eventually(lambda: pa.process_info(pid, "status") == "waiting", "it sleeps")


# --- sleep ------------------------------------------------------------------------------------------------------------


@contract("S1.11")
@anywhere
@pytest.mark.parametrize("duration", [0, 0.0, 0.001, 0.05])
def test_sleep_lasts_at_least_as_long_as_asked(node: pa.ActorSystem, here: int, duration: float) -> None:
    def elapsed() -> float:
        begun = time.monotonic()
        pa.sleep(duration)
        return time.monotonic() - begun

    assert duration <= place(here).do(elapsed) < WAIT


@contract("S1.11")
@anywhere
def test_mail_does_not_wake_a_sleeper(node: pa.ActorSystem, here: int) -> None:
    def sleep(to: pa.Pid) -> tuple[float, list[object]]:
        for i in range(20):
            pa.send_after(i * 0.005, pa.self_(), i)
        begun = time.monotonic()
        pa.sleep(0.2)
        return time.monotonic() - begun, mail()

    elapsed, messages = place(here).do(sleep, pa.self_())
    assert elapsed >= 0.2
    assert messages == list(range(20))


@contract("S1.11")
def test_a_sleeper_does_not_hold_up_its_neighbours(node: pa.ActorSystem) -> None:
    def sleeper() -> None:
        pa.sleep(WAIT * 10)

    sleepers = [pa.options(worker=0).spawn(sleeper) for _ in range(500)]
    assert puppet(0).do(lambda: "here") == "here"
    assert all(pa.is_alive(pid) for pid in sleepers[::100])


@contract("S1.11", "S2.2")
def test_an_exit_wakes_a_sleeper(node: pa.ActorSystem) -> None:
    for reason, seen in (("stop it", "stop it"), ("kill", "killed")):
        pid, ref = pa.options(worker=0).spawn_monitor(pa.sleep, WAIT * 10)
        await_sleep(pid)
        pa.exit(pid, reason)
        assert pa.receive(timeout=WAIT) == pa.Down(ref, pid, seen)


@contract("S1.11", partly=True)
@pytest.mark.parametrize("duration", [None, math.inf, 1e300])
def test_sleep_for_ever(node: pa.ActorSystem, duration: float | None) -> None:
    pid, ref = pa.options(worker=0).spawn_monitor(pa.sleep, duration)
    await_sleep(pid)
    pa.exit(pid, "enough")
    assert pa.receive(timeout=WAIT) == pa.Down(ref, pid, "enough")


# --- send_after -------------------------------------------------------------------------------------------------------


@contract("S1.11")
@everywhere
@pytest.mark.parametrize("delay", [0, 0.02])
def test_send_after(node: pa.ActorSystem, here: int, there: int, delay: float) -> None:
    def start(to: pa.Pid) -> float:
        begun = time.monotonic()
        assert isinstance(pa.send_after(delay, to, ["due"]), pa.Ref)
        return begun

    owner, receiver = place(here), place(there)
    begun = owner.do(start, receiver.pid)
    got, arrived = receiver.do(lambda: (get_soon(), time.monotonic()))
    assert got == ["due"]
    assert arrived - begun >= delay, "CLOCK_MONOTONIC is one for all OS processes"


@contract("S1.11")
@everywhere
def test_timers_fire_in_the_order_of_their_deadlines(node: pa.ActorSystem, here: int, there: int) -> None:
    def start(to: pa.Pid) -> None:
        due = time.monotonic() + 0.2
        for i in (5, 1, 4, 2, 3, 0):
            # However long it takes to start them.
            pa.send_after(max(0.0, due + i * 0.05 - time.monotonic()), to, i)

    owner, receiver = place(here), place(there)
    owner.do(start, receiver.pid)
    assert receiver.do(lambda: [get_soon() for _ in range(6)]) == list(range(6))


@contract("S1.11", "S1.2")
@anywhere
def test_a_timers_message_is_taken_when_it_is_started(node: pa.ActorSystem, here: int) -> None:
    def start() -> list[int]:
        message = [1]
        pa.send_after(0.01, pa.self_(), message)
        message.append(2)
        got: list[int] = get_soon()
        return got

    assert place(here).do(start) == [1]


@contract("S1.11")
@pytest.mark.parametrize("there", [0, 1, GUEST])
def test_a_timer_outlives_the_process_that_started_it(node: pa.ActorSystem, there: int) -> None:
    receiver, owner = place(there), puppet(0)
    owner.do(pa.send_after, 0.1, receiver.pid, "inherited")
    owner.end("normal")
    assert receiver.do(get_soon) == "inherited"


@contract("S1.11", "S2.3")
@anywhere
def test_a_timer_for_the_dead_or_unknown_does_nothing(node: pa.ActorSystem, here: int) -> None:
    owner, dead, late = place(here), puppet(1), puppet(1)
    dead.end("normal")
    owner.do(pa.send_after, 0, dead.pid, "to the dead")
    owner.do(pa.send_after, 0, "nobody has this name", "to nobody")
    owner.do(pa.send_after, 0.05, "the late", "by name, looked up when it is due")
    pa.register("the late", late.pid)
    assert late.do(get_soon) == "by name, looked up when it is due"
    pa.unregister("the late")


@contract("S1.11")
@anywhere
def test_a_timer_to_an_alias(node: pa.ActorSystem, here: int) -> None:
    def start() -> list[object]:
        on, off = pa.alias(), pa.alias()
        pa.send_after(0.01, on, "on")
        pa.send_after(0.01, off, "off")
        pa.unalias(off)
        pa.send_after(0.1, pa.self_(), "end")
        return [get_soon(), get_soon()]

    assert place(here).do(start) == ["on", "end"]


# --- cancel and read --------------------------------------------------------------------------------------------------


@contract("S1.11")
@everywhere
def test_a_cancelled_timer_never_fires(node: pa.ActorSystem, here: int, there: int) -> None:
    """By whom ever: the one that started it, or another process."""
    owner, other = place(here), place(there)

    def race() -> int:
        """Cancel timers that are due about now: either a time is left and nothing comes, or None and it comes."""
        wrong = 0
        for i in range(100):
            ref = pa.send_after(0.0001 * (i % 10), pa.self_(), i)
            left = pa.cancel_timer(ref)
            came = pa.receive(i, timeout=0 if left is not None else WAIT, default=None) == i
            wrong += came != (left is None)
            assert pa.cancel_timer(ref) is None
        pa.sleep(0.01)
        return wrong + len(mail())

    assert owner.do(race) == 0
    ref = owner.do(pa.send_after, 600, pa.self_(), "never")
    left = other.do(pa.read_timer, ref)
    assert left is not None
    assert 590 < left <= 600
    left = other.do(pa.cancel_timer, ref)
    assert left is not None
    assert 590 < left <= 600
    assert owner.do(pa.cancel_timer, ref) is None
    assert owner.do(pa.read_timer, ref) is None


@contract("S1.11")
@anywhere
def test_a_timer_that_fired_is_none(node: pa.ActorSystem, here: int) -> None:
    def fire() -> tuple[object, object]:
        ref = pa.send_after(0, pa.self_(), "x")
        get_soon()
        return pa.read_timer(ref), pa.cancel_timer(ref)

    assert place(here).do(fire) == (None, None)


@contract("S1.11", partly=True)
@anywhere
def test_a_reference_that_is_no_timer(node: pa.ActorSystem, here: int) -> None:
    def read() -> list[object]:
        ref = pa.make_ref()
        return [pa.read_timer(ref), pa.cancel_timer(ref), pa.read_timer(pa.alias())]

    assert place(here).do(read) == [None, None, None]
    for call in (pa.read_timer, pa.cancel_timer):
        for bad in (None, 1, "ref", pa.self_()):
            with pytest.raises(TypeError):
                call(bad)  # type: ignore[arg-type]


@contract("S1.11", partly=True)
def test_timers_of_a_thread_that_has_ended_can_still_be_cancelled(node: pa.ActorSystem) -> None:
    made: list[pa.Ref] = []
    thread = threading.Thread(target=lambda: made.append(pa.send_after(600, node.pid, "never")))
    thread.start()
    thread.join(WAIT)
    left = pa.read_timer(made[0])
    assert left is not None
    assert 590 < left <= 600
    assert pa.cancel_timer(made[0]) is not None
    assert pa.cancel_timer(made[0]) is None


# --- send_interval ----------------------------------------------------------------------------------------------------


@contract("S1.11")
@everywhere
def test_an_interval_repeats_until_it_is_cancelled(node: pa.ActorSystem, here: int, there: int) -> None:
    owner, receiver = place(here), place(there)
    ref = owner.do(pa.send_interval, 0.005, receiver.pid, "tick")
    assert receiver.do(lambda: [get_soon() for _ in range(10)]) == ["tick"] * 10
    left = owner.do(pa.read_timer, ref)
    assert left is not None
    assert 0 <= left <= 0.005
    assert owner.do(pa.cancel_timer, ref) is not None
    assert owner.do(pa.cancel_timer, ref) is None
    receiver.do(mail)
    pa.sleep(0.05)
    # What was on its way to another worker at the moment of the cancel may have come since, and no more than that.
    assert len(receiver.do(mail)) <= 1


@contract("S1.11")
@anywhere
def test_an_interval_does_not_drift(node: pa.ActorSystem, here: int) -> None:
    def count() -> tuple[float, int]:
        begun = time.monotonic()
        ref = pa.send_interval(0.01, pa.self_(), "tick")
        for _ in range(30):
            pa.receive("tick", timeout=WAIT)
        elapsed = time.monotonic() - begun
        pa.cancel_timer(ref)
        return elapsed, len(mail())

    elapsed, _ = place(here).do(count)
    assert elapsed >= 0.3


@contract("S1.11")
@everywhere
def test_an_interval_ends_with_its_receiver(node: pa.ActorSystem, here: int, there: int) -> None:
    owner, receiver = place(here), puppet(max(there, 0))
    ref = owner.do(pa.send_interval, 0.005, receiver.pid, "tick")
    receiver.do(get_soon)
    receiver.end("normal")
    eventually(lambda: owner.do(pa.read_timer, ref) is None, "the interval has ended")
    dead = owner.do(pa.send_interval, 0.005, receiver.pid, "tick")
    eventually(lambda: owner.do(pa.read_timer, dead) is None, "that to a dead process ends too")


@contract("S1.11", partly=True)
@pytest.mark.parametrize("interval", [1e-3, 1e-6, 1e-9, 1e-12, 5e-324])
def test_a_very_short_interval_repeats_and_starves_nobody(node: pa.ActorSystem, interval: float) -> None:
    receiver, neighbour = puppet(0), puppet(0)
    ref = receiver.do(start_ticks, interval)
    assert neighbour.do(lambda: "here") == "here"
    assert receiver.do(lambda: [pa.receive("tick", timeout=WAIT) for _ in range(100)]) == ["tick"] * 100
    assert receiver.do(pa.cancel_timer, ref) is not None


def start_ticks(interval: float) -> pa.Ref:
    return pa.send_interval(interval, pa.self_(), "tick")


@contract("S1.11", partly=True)
@anywhere
@pytest.mark.parametrize("start", [pa.send_after, pa.send_interval], ids=lambda f: f.__name__)
@pytest.mark.parametrize("delay", [None, math.inf, 1e300, 10**400, -1, math.nan, "1", True], ids=lambda d: repr(d)[:8])
def test_absurd_times_are_refused(node: pa.ActorSystem, here: int, start: Callable[..., Any], delay: Any) -> None:
    def refused() -> str:
        try:
            start(delay, pa.self_(), "never")
        except (TypeError, ValueError) as error:
            return str(error)
        return "not refused"

    assert place(here).do(refused).startswith("expected ")


@contract("S1.11", partly=True)
@anywhere
def test_an_interval_of_nothing_is_refused(node: pa.ActorSystem, here: int) -> None:
    with pytest.raises(ValueError, match="expected an interval of more than 0 seconds, got 0"):
        place(here).do(pa.send_interval, 0, pa.self_(), "never")


@contract("S1.11", partly=True)
@anywhere
def test_a_timer_for_what_is_no_address_is_refused(node: pa.ActorSystem, here: int) -> None:
    nonsense: list[Any] = [None, 1, b"name", ("name",)]
    for bad in nonsense:
        with pytest.raises(TypeError, match="expected a Pid, a name or an alias, got"):
            place(here).do(pa.send_after, 0, bad, "never")


def test_very_many_timers(node: pa.ActorSystem) -> None:
    """Half of them cancelled: the others come, and only they."""
    owner = puppet(0)

    def start() -> list[int]:
        refs = [pa.send_after(0.3 + (i * 7919 % 1000) / 1e5, pa.self_(), i) for i in range(10_000)]
        for ref in refs[::2]:
            pa.cancel_timer(ref)
        return sorted(pa.receive(int, timeout=WAIT) for _ in range(5000))

    assert owner.do(start) == list(range(1, 10_000, 2))
    assert owner.do(mail) == []
