"""What `timer` calls and ends, when, and how it is called off (S1.11)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from puppets import WAIT, Puppet, get, mail, park, place, puppet

PLACES = [0, 1, -1]


def tell(to: pa.Pid, *what: object) -> None:
    pa.send(to, (*what, pa.self_(), time.monotonic()))


def tell_and_stay(to: pa.Pid) -> None:
    pa.send(to, pa.self_())
    park()


@contract("S1.11", partly=True)
@pytest.mark.parametrize("caller", PLACES)
def test_a_function_is_called_once_after_its_time(node: pa.ActorSystem, caller: int) -> None:
    before = time.monotonic()
    timer = place(caller).do(pa.timer.apply_after, 0.02, tell, pa.self_(), "now")
    what, pid, when = get()
    assert "now" == what
    assert pid not in (pa.self_(), timer.pid), "a process of its own"
    assert when - before >= 0.02
    eventually(lambda: not pa.is_alive(timer.pid), "the timer is over")
    assert not pa.timer.cancel(timer)
    assert [] == mail()


def test_a_function_may_be_called_at_once_and_with_keywords(node: pa.ActorSystem) -> None:
    pa.timer.apply_after(0, pa.send, pa.self_(), "x")
    assert "x" == get()
    seen: Callable[..., None] = lambda to, *, word: pa.send(to, word)  # noqa: E731
    pa.timer.apply_after(0, seen, pa.self_(), word="y")
    assert "y" == get()


@pytest.mark.parametrize("caller", PLACES)
@pytest.mark.parametrize("other", PLACES)
def test_what_is_called_off_never_comes(node: pa.ActorSystem, caller: int, other: int) -> None:
    timer = place(caller).do(pa.timer.apply_after, 1000, tell, pa.self_())
    assert place(other).do(pa.timer.cancel, timer)
    assert not pa.timer.cancel(timer)
    assert not pa.is_alive(timer.pid)


def test_called_off_or_called_never_both(node: pa.ActorSystem) -> None:
    for number in range(100):
        timer = pa.timer.apply_after(0.001 * (number % 3), pa.send, pa.self_(), "came")
        if not pa.timer.cancel(timer):
            assert "came" == get()
    assert [] == mail()


@pytest.mark.parametrize("apply", ["apply_interval", "apply_repeatedly"])
@pytest.mark.parametrize("caller", PLACES)
def test_intervals_go_on_until_called_off(node: pa.ActorSystem, apply: str, caller: int) -> None:
    before = time.monotonic()
    owner = place(caller)
    timer = owner.do(getattr(pa.timer, apply), 0.01, tell, pa.self_())
    times = [get()[-1] for _ in range(5)]
    assert times[-1] - before >= 0.05
    assert pa.timer.cancel(timer)
    mail()
    assert not pa.is_alive(timer.pid)


@pytest.mark.parametrize("apply", ["apply_interval", "apply_repeatedly"])
def test_intervals_end_with_their_owner_and_single_ones_do_not(node: pa.ActorSystem, apply: str) -> None:
    owner = puppet(1)
    ticking = owner.do(getattr(pa.timer, apply), 0.001, int)
    single = owner.do(pa.timer.apply_after, 0.05, pa.send, pa.self_(), "still")
    watch = Puppet(ticking.pid).watch()
    owner.end("done")
    assert "normal" == Puppet.reason_of(watch)
    assert "still" == get()
    assert not pa.timer.cancel(single)


def test_intervals_do_not_wait_and_repetitions_do(node: pa.ActorSystem) -> None:
    timer = pa.timer.apply_interval(0.001, tell_and_stay, pa.self_())
    assert 3 == len({pa.receive(pa.Pid, timeout=WAIT) for _ in range(3)}), "though none of them is done"
    assert pa.timer.cancel(timer)
    mail()

    timer = pa.timer.apply_repeatedly(0.001, tell_and_stay, pa.self_())
    for _ in range(3):
        (first,) = [pa.receive(pa.Pid, timeout=WAIT)]
        assert pa.receive(pa.Pid, timeout=0.02, default=None) is None, "two at the same time"
        pa.exit(first, "done")
    last = pa.receive(pa.Pid, timeout=WAIT)
    assert pa.timer.cancel(timer), "while one is at it"
    assert pa.is_alive(last)


def test_a_function_that_fails_ends_no_interval(node: pa.ActorSystem) -> None:
    def fail(to: pa.Pid) -> None:
        pa.send(to, "tried")
        raise pa.ProcessExit("bad")

    timer = pa.timer.apply_interval(0.001, fail, pa.self_())
    again = pa.timer.apply_repeatedly(0.001, fail, pa.self_())
    assert ["tried"] * 6 == [get() for _ in range(6)]
    assert pa.timer.cancel(timer)
    assert pa.timer.cancel(again)
    mail()


@pytest.mark.parametrize("target", PLACES[:2])
def test_processes_are_ended_in_time(node: pa.ActorSystem, target: int) -> None:
    one, other, third = puppet(target), puppet(target, name="other"), puppet(target)
    watches = [each.watch() for each in (one, other, third)]
    pa.timer.exit_after(0.001, "late", one.pid)
    pa.timer.exit_after(0.001, "kill", "other")
    third.do(pa.timer.kill_after, 0.001)
    assert ["late", "killed", "killed"] == [Puppet.reason_of(watch) for watch in watches]
    fourth = puppet(target)
    fourth.do(pa.trap_exit)
    timer = fourth.do(pa.timer.exit_after, 0, "told")
    eventually(lambda: [message.reason for message in fourth.do(mail)] == ["told"], "it is told")
    assert not pa.timer.cancel(timer)
    never = pa.timer.kill_after(1000, fourth.pid)
    assert pa.timer.cancel(never)
    assert fourth.alive


def test_how_long_it_took(node: pa.ActorSystem) -> None:
    seconds, value = pa.timer.tc(pa.sleep, 0.01)
    assert (True, None) == (seconds >= 0.01, value)
    assert 3 == pa.timer.tc(max, 1, 3)[1]
    with pytest.raises(ZeroDivisionError):
        pa.timer.tc(lambda: 1 // 0)


def test_bad_times_and_functions_are_refused(node: pa.ActorSystem) -> None:
    bad: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: pa.timer.apply_after(-1, int), ValueError, "expected a number of seconds, 0 or more, got -1"),
        (lambda: pa.timer.apply_after("1", int), ValueError, "got '1'"),  # type: ignore[arg-type]
        (lambda: pa.timer.apply_after(float("inf"), int), ValueError, "got inf"),
        (lambda: pa.timer.apply_interval(0, int), ValueError, "expected a number of seconds, more than 0, got 0"),
        (lambda: pa.timer.apply_repeatedly(0, int), ValueError, "more than 0"),
        (lambda: pa.timer.apply_after(1, 2), TypeError, "expected a function to call, got 2"),  # type: ignore[arg-type]
        (lambda: pa.timer.exit_after(1, "x", "nobody"), pa.NotRegistered, "expected a registered name, got 'nobody'"),
        (lambda: pa.timer.exit_after(1, "x", 7), TypeError, "expected a Pid or a registered name, got 7"),
        (lambda: pa.timer.cancel(pa.make_ref()), TypeError, "expected a Timer"),  # type: ignore[arg-type]
    ]
    for call, error, text in bad:
        with pytest.raises(error, match=text):
            call()
    assert [pa.self_()] == pa.processes()
