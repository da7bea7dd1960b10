"""Aliases: addresses that can be switched off (S4.4)."""

from __future__ import annotations

from typing import Any

import pytest

import parallel_actors as pa
from puppets import GUEST, PLACES, WAIT, get, leave, mail, place, puppet

everywhere = pytest.mark.parametrize(("here", "there"), PLACES, ids=str)
on_all = pytest.mark.parametrize("here", [GUEST, 0, 1])


@pytest.mark.contract("S4.4", "S5.3", partly=True)
@everywhere
def test_an_alias_is_an_address(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    first, second = one.do(pa.alias), one.do(pa.alias)
    assert first != second
    other.do(pa.send, first, "one")
    other.do(pa.send, second, ["two", bytes(100_000)])
    other.do(pa.send, first, "three")
    assert [one.do(get) for _ in range(3)] == ["one", ["two", bytes(100_000)], "three"]


@pytest.mark.contract("S4.4")
@everywhere
def test_what_comes_after_unalias_is_dropped(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    off, on = one.do(pa.alias), one.do(pa.alias)
    other.do(pa.send, off, "early")
    other.do(pa.send, on, "mark")
    assert one.do(pa.receive, "mark", timeout=WAIT) == "mark"
    assert one.do(pa.unalias, off)
    other.do(pa.send, off, "late")
    other.do(pa.send, on, "last")
    # What was in the mailbox already stays there.
    assert [one.do(get), one.do(get)] == ["early", "last"]
    assert one.do(mail) == []
    assert not one.do(pa.unalias, off)


@pytest.mark.contract("S4.4")
@pytest.mark.parametrize("here", [GUEST, 0])
def test_a_message_under_way_is_dropped_before_the_mailbox(node: pa.ActorSystem, here: int) -> None:
    one = place(here)
    # A tick may take the message in before: tried until it was under way.
    for attempt in range(100):
        address, name = one.do(pa.alias), f"mark {attempt}"
        sender = pa.options(worker=1).spawn(send_and_register, address, name)
        there = one.do(unalias_late, sender, address, name)
        assert puppet(1).do(pa.is_alive, one.pid)
        assert one.do(mail) == ["late"] * there
        if not there:
            return
    pytest.fail("the message was never under way at unalias")


def send_and_register(address: pa.Ref, name: str) -> None:
    pa.receive("go")
    pa.send(address, "late")
    pa.register(name, pa.self_())
    pa.receive(pa.make_ref())


def unalias_late(sender: pa.Pid, address: pa.Ref, name: str) -> int:
    """The number of messages that were there, when `address` was switched off after one had been sent to it."""
    with pa.no_preempt():
        pa.send(sender, "go")
        while pa.whereis(name) is None:  # reads shared memory
            pass
        pa.unalias(address)
        there: int = pa.process_info(pa.self_(), "message_queue_len")
        return there


@pytest.mark.contract("S4.4", partly=True)
@everywhere
def test_only_its_owner_can_switch_an_alias_off(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = place(here), puppet(there)
    address = one.do(pa.alias)
    assert not other.do(pa.unalias, address)
    assert not other.do(pa.demonitor, address, flush=True)
    other.do(pa.send, address, "still on")
    assert one.do(get) == "still on"


@pytest.mark.contract("S4.4", partly=True)
@on_all
def test_demonitor_does_not_touch_an_alias_that_is_no_monitor(node: pa.ActorSystem, here: int) -> None:
    one = place(here)
    address = one.do(pa.alias)
    assert not one.do(pa.demonitor, address)
    pa.send(address, "still on")
    assert one.do(get) == "still on"


@pytest.mark.contract("S4.4", partly=True)
def test_references_of_different_workers_do_not_meet(node: pa.ActorSystem) -> None:
    # Counters are per endpoint: the alias of one may have the number of a monitor of another.
    one, other = puppet(0), puppet(1)
    addresses = [one.do(pa.alias) for _ in range(50)]
    target = puppet(1)
    for _ in range(200):
        ref = other.do(pa.monitor, target.pid)
        one.do(pa.demonitor, ref, flush=True)
        one.do(pa.unalias, ref)
        other.do(pa.demonitor, ref, flush=True)
    for number, address in enumerate(addresses):
        pa.send(address, number)
    assert [one.do(get) for _ in addresses] == list(range(50))


@pytest.mark.contract("S4.4", partly=True)
@everywhere
def test_an_alias_dies_with_its_owner(node: pa.ActorSystem, here: int, there: int) -> None:
    one, other = puppet(there), place(here)
    address = one.do(pa.alias)
    one.end("boom")
    other.do(pa.send, address, "to nobody")
    assert other.do(mail) == []


def test_only_send_takes_an_alias(node: pa.ActorSystem) -> None:
    address = pa.alias()
    for call in (pa.link, pa.unlink, pa.monitor):
        with pytest.raises(TypeError, match=r"only send\(\) takes an alias"):
            call(address)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"only send\(\) takes an alias"):
        pa.exit(address, "kill")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pa.unalias("name")  # type: ignore[arg-type]


@pytest.mark.contract("S4.4", partly=True)
def test_an_unknown_reference_as_an_address_does_nothing(node: pa.ActorSystem) -> None:
    pa.send(pa.make_ref(), "x")
    pa.send(puppet(0).do(pa.make_ref), "x")
    assert mail() == []


# --- a monitor with an alias: the way of a call -----------------------------------------------------------------------


@pytest.mark.contract("S4.3", "S4.4")
@everywhere
def test_one_reply_takes_alias_and_monitor_away(node: pa.ActorSystem, here: int, there: int) -> None:
    one, server = place(here), puppet(there)
    ref = one.do(pa.monitor, server.pid, alias=True)
    server.do(send_all, ref, ["reply", "a second reply", "a third"])
    assert one.do(get) == "reply"
    assert not one.do(pa.demonitor, ref)
    assert not one.do(pa.unalias, ref)
    server.end("boom")
    puppet(there).do(pa.process_info, one.pid)
    assert one.do(mail) == []
    assert pa.process_info(one.pid, "monitors") == []


def send_all(address: pa.Ref, messages: list[Any]) -> None:
    for message in messages:
        pa.send(address, message)


@pytest.mark.contract("S4.3", "S4.4")
@everywhere
def test_the_down_takes_the_alias_away(node: pa.ActorSystem, here: int, there: int) -> None:
    one, server, helper = place(here), puppet(there), puppet(there)
    ref = one.do(pa.monitor, server.pid, alias=True)
    server.end("boom")
    assert one.do(get) == pa.Down(ref, server.pid, "boom")
    # A reply by a helper of the server that comes late.
    helper.do(pa.send, ref, "late")
    helper.do(pa.process_info, one.pid)
    assert one.do(mail) == []


@pytest.mark.contract("S4.3", "S4.4")
@everywhere
def test_demonitor_takes_the_alias_away(node: pa.ActorSystem, here: int, there: int) -> None:
    # A call that has timed out.
    one, server = place(here), puppet(there)
    ref = one.do(pa.monitor, server.pid, alias=True)
    assert one.do(pa.demonitor, ref, flush=True)
    server.do(pa.send, ref, "late")
    server.end("boom")
    puppet(there).do(pa.process_info, one.pid)
    assert one.do(mail) == []


@pytest.mark.contract("S4.4", partly=True)
@on_all
@pytest.mark.parametrize("target", ["dead", "unregistered"])
def test_a_monitor_on_the_dead_leaves_no_alias(node: pa.ActorSystem, here: int, target: str) -> None:
    one, server = place(here), puppet(1)
    server.end("normal")
    ref = one.do(pa.monitor, server.pid if target == "dead" else "nobody", alias=True)
    down = one.do(get)
    assert (down.ref, down.reason) == (ref, "noproc")
    helper = puppet(1)
    helper.do(pa.send, ref, "late")
    helper.do(pa.process_info, one.pid)
    assert one.do(mail) == []
    assert not one.do(pa.unalias, ref)


@pytest.mark.contract("S4.4", partly=True)
@everywhere
def test_unalias_leaves_the_monitor(node: pa.ActorSystem, here: int, there: int) -> None:
    one, server = place(here), puppet(there)
    ref = one.do(pa.monitor, server.pid, alias=True)
    assert one.do(pa.unalias, ref)
    server.do(pa.send, ref, "late")
    server.end("boom")
    assert one.do(get) == pa.Down(ref, server.pid, "boom")
    assert one.do(mail) == []


@pytest.mark.contract("S2.1", partly=True)
@everywhere
def test_mail_by_pid_and_by_alias_keeps_its_order(node: pa.ActorSystem, here: int, there: int) -> None:
    one = place(here)
    pid = pa.options(worker=there).spawn(alternate, one.pid, one.do(pa.alias), 500)
    ref = one.do(pa.monitor, pid)
    pa.send(pid, "go")
    got = [one.do(get) for _ in range(501)]
    assert got[:-1] == list(range(500))
    assert got[-1] == pa.Down(ref, pid, "normal")


def alternate(pid: pa.Pid, address: pa.Ref, count: int) -> None:
    pa.receive("go")
    for number in range(count):
        pa.send(address if number % 2 else pid, number)
    leave("normal")
