"""Ping Pong: two processes send a message to and fro. What one message costs that is waited for."""

from __future__ import annotations

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"pings": 500_000}
QUICK = {"pings": 500}


def pong() -> None:
    while True:
        sender, number = pa.receive()
        pa.send(sender, number)


def run(pings: int) -> None:
    me, other = pa.self_(), pa.spawn_link(pong)
    total = 0
    for number in range(pings):
        pa.send(other, (me, number))
        total += pa.receive(int)
    pa.unlink(other)
    pa.exit(other, "shutdown")
    expect("the sum of the pongs", pings * (pings - 1) // 2, total)
