"""Senders that are faster than their receiver's worker (S2.5)."""

from __future__ import annotations

from pathlib import Path

import pytest

import parallel_actors as pa
from leaks import eventually
from puppets import WAIT, Hog, echo

# More than the ring and the overflow take before a sender is suspended, in count.
MANY = 60_000


def flood(to: pa.Pid, starter: pa.Pid) -> None:
    for number in range(MANY):
        pa.send(to, number)
    pa.send(starter, "all sent")


def count(starter: pa.Pid) -> None:
    for number in range(MANY):
        assert number == pa.receive(int)
    pa.send(starter, "all received, in order")


@pytest.mark.contract("S2.5", partly=True)
def test_a_flood_suspends_its_sender_and_nobody_else(node: pa.ActorSystem, tmp_path: Path) -> None:
    with Hog(1, tmp_path):
        receiver = pa.options(worker=1).spawn(count, pa.self_())
        neighbour = pa.options(worker=0).spawn(echo)
        sender = pa.options(worker=0).spawn(flood, receiver, pa.self_())
        eventually(lambda: pa.process_info(sender, "status") == "waiting", "the sender is suspended")
        pa.send(neighbour, (pa.self_(), "still here?"))
        assert pa.receive("still here?", timeout=WAIT) == "still here?"
        assert pa.receive("all sent", timeout=0, default=None) is None
    assert pa.receive("all sent", timeout=WAIT) == "all sent"
    assert pa.receive(str, timeout=WAIT) == "all received, in order"


@pytest.mark.contract("S2.5", "S2.2", partly=True)
def test_signals_pass_where_a_flood_waits(node: pa.ActorSystem, tmp_path: Path) -> None:
    with Hog(1, tmp_path):
        receiver = pa.options(worker=1).spawn(count, pa.self_())
        sender = pa.options(worker=0).spawn(flood, receiver, pa.self_())
        eventually(lambda: pa.process_info(sender, "status") == "waiting", "the sender is suspended")
        ref = pa.monitor(sender)
        pa.exit(sender, "kill")
        assert pa.receive(pa.Down, timeout=WAIT) == pa.Down(ref, sender, "killed")
        pa.exit(receiver, "kill")
    eventually(lambda: not pa.is_alive(receiver), "the receiver has had its kill")
