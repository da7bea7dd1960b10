"""Workloads of messages. Each runs as a process on worker 0; "across" is worker 1. They return figures in row order."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import parallel_actors as pa
from parallel_actors.bench.figures import percentile
from parallel_actors.bench.server import TypedCounter, here, server

__all__ = [
    "BYTES",
    "FRESH",
    "SHAPES",
    "SHARED",
    "call",
    "call_typed",
    "cast",
    "cast_typed",
    "cross_call",
    "cross_call_asleep",
    "fan_in",
    "isolation",
    "payload",
    "ping_pong",
    "receive_ref",
    "receive_scan",
    "ring",
]

clock = time.perf_counter


# --- raw processes ----------------------------------------------------------------------------------------------------


def _pong() -> None:
    while True:
        _, sender = pa.receive()
        pa.send(sender, "pong")


def ping_pong(count: int) -> list[float]:
    """Round trips per second of two processes on one worker."""
    me = pa.self_()
    other = here.spawn(_pong)
    began = clock()
    for _ in range(count):
        pa.send(other, ("ping", me))
        pa.receive()
    seconds = clock() - began
    pa.exit(other, "kill")
    return [count / seconds]


def _hop(successor: pa.Pid, home: pa.Pid) -> None:
    while True:
        left = pa.receive()
        if left == 0:
            pa.send(home, "done")
        else:
            pa.send(successor, left - 1)


def _first_hop(home: pa.Pid) -> None:
    _hop(pa.receive(), home)


def ring(size: int, hops: int) -> list[float]:
    """Seconds per hop of one token round a ring of processes on one worker."""
    me = pa.self_()
    first = here.spawn(_first_hop, me)
    members = [first]
    for _ in range(size - 1):
        members.append(here.spawn(_hop, members[-1], me))
    pa.send(first, members[-1])
    pa.sleep(0)
    began = clock()
    pa.send(first, hops)
    pa.receive()
    seconds = clock() - began
    for pid in members:
        pa.exit(pid, "kill")
    return [seconds / hops]


def _take(count: int, home: pa.Pid) -> None:
    for _ in range(count):
        pa.receive()
    pa.send(home, "done")


def _give(count: int, to: pa.Pid) -> None:
    pa.receive()
    for number in range(count):
        pa.send(to, ("msg", number))


def fan_in(senders: int, each: int) -> list[float]:
    """Messages per second from several processes to one, all on one worker."""
    taker = here.spawn(_take, senders * each, pa.self_())
    givers = [here.spawn(_give, each, taker) for _ in range(senders)]
    began = clock()
    for giver in givers:
        pa.send(giver, "go")
    pa.receive()
    return [senders * each / (clock() - began)]


# --- a server ---------------------------------------------------------------------------------------------------------


def call(count: int) -> list[float]:
    """Calls per second to a server on the caller's worker."""
    to = server()
    began = clock()
    for _ in range(count):
        pa.call(to, "ping")
    seconds = clock() - began
    pa.exit(to, "kill")
    return [count / seconds]


def cast(count: int, worker: int) -> list[float]:
    """Casts per second to a server on `worker`, until a call behind them is answered."""
    to = server(worker)
    began = clock()
    for _ in range(count):
        pa.cast(to, "inc")
    arrived = pa.call(to, "get", timeout=None)
    seconds = clock() - began
    pa.exit(to, "kill")
    if arrived != count:
        raise RuntimeError(f"expected {count} casts to arrive, got {arrived}")
    return [count / seconds]


def call_typed(count: int) -> list[float]:
    """As `call`, to a typed actor."""
    to = pa.start(TypedCounter)
    began = clock()
    for _ in range(count):
        to.ping()
    seconds = clock() - began
    pa.exit(to, "kill")
    return [count / seconds]


def cast_typed(count: int, worker: int) -> list[float]:
    """As `cast`, to a typed actor."""
    to: TypedCounter = pa.options(worker=worker).start(TypedCounter)
    began = clock()
    for _ in range(count):
        to.inc()
    arrived = to.get.options(timeout=None)()
    seconds = clock() - began
    pa.exit(to, "kill")
    if arrived != count:
        raise RuntimeError(f"expected {count} casts to arrive, got {arrived}")
    return [count / seconds]


def latencies(to: pa.Pid, count: int, pause: float = 0.0) -> list[float]:
    """Seconds of each of `count` calls, with `pause` seconds of sleep before each."""
    taken = []
    for _ in range(count):
        if pause:
            pa.sleep(pause)
        began = clock()
        pa.call(to, "ping", timeout=None)
        taken.append(clock() - began)
    return taken


def cross_call(count: int) -> list[float]:
    """Calls to a server on another worker, one after the other: per second, seconds at the median and at 99 %."""
    to = server(1)
    latencies(to, count // 100)
    began = clock()
    taken = latencies(to, count)
    seconds = clock() - began
    pa.exit(to, "kill")
    return [count / seconds, percentile(taken, 0.5), percentile(taken, 0.99)]


def cross_call_asleep(count: int, pause_ms: int) -> list[float]:
    """Seconds of a call to another worker, at the median, when both have gone to sleep meanwhile."""
    to = server(1)
    taken = latencies(to, count, pause_ms / 1e3)
    pa.exit(to, "kill")
    return [percentile(taken, 0.5)]


# --- payload ----------------------------------------------------------------------------------------------------------


def _sizes() -> None:
    while True:
        data, sender = pa.receive()
        pa.send(sender, len(data))


# What `payload` sends: a view of a buffer that its sender may change later (the send copies it, as `binary:copy` does
# there), a handle on one that was copied once, or bytes made anew, which the receiver's side copies once more: its
# `bytes` are its own.
FRESH, SHARED, BYTES = range(3)


def payload(size: int, count: int, kind: int) -> list[float]:
    """Seconds for `size` bytes to another worker and its answer back."""
    me = pa.self_()
    to = pa.options(worker=1).spawn(_sizes)
    data = bytearray(b"\7") * size
    what: Any = memoryview(data) if kind == FRESH else pa.share(data)

    def exchange(times: int) -> None:
        for _ in range(times):
            pa.send(to, (bytes(data) if kind == BYTES else what, me))
            pa.receive()

    exchange(1 + count // 10)
    began = clock()
    exchange(count)
    seconds = clock() - began
    pa.exit(to, "kill")
    return [seconds / count]


# --- selective receive ------------------------------------------------------------------------------------------------


def _fill_mailbox(waiting: int) -> None:
    me = pa.self_()
    for number in range(waiting):
        pa.send(me, ("junk", number))


def _want(count: int) -> None:
    me, pattern = pa.self_(), ("want", pa.ANY)
    for number in range(count):
        pa.send(me, ("want", number))
        pa.receive(pattern)


def receive_scan(waiting: int, count: int) -> list[float]:
    """Seconds per waiting message that a receive has to look at before it finds its own, the last."""
    _fill_mailbox(waiting)
    _want(1)
    began = clock()
    _want(count)
    return [(clock() - began) / count / waiting]


def _want_reference(count: int) -> None:
    me = pa.self_()
    for number in range(count):
        ref = pa.make_ref()
        pa.send(me, (ref, number))
        pa.receive((ref, pa.ANY))


def receive_ref(waiting: int, count: int) -> list[float]:
    """Seconds of a receive for a fresh reference with that many messages waiting, which none of them can mention."""
    _fill_mailbox(waiting)
    _want_reference(1)
    began = clock()
    _want_reference(count)
    return [(clock() - began) / count]


# --- shapes -----------------------------------------------------------------------------------------------------------


@dataclass
class Order:
    """What users send: an object of their own."""

    number: int
    items: list[str]
    total: float


SHAPES: dict[str, Callable[[], object]] = {
    "int": lambda: 12345,
    "str": lambda: "x" * 100,
    "tuple": lambda: ("set", 17, 2.5, True),
    "list": lambda: list(range(1, 11)),
    "dict": lambda: {f"key_{number}": number for number in range(1, 11)},
    "nested": lambda: {"id": 7, "tags": ["a", "b"], "at": (1.5, -2.5), "more": {"x": [1, 2, 3]}},
    "object": lambda: Order(7, ["a", "b"], 12.5),
}


def _sink() -> None:
    while True:
        message: Any = pa.receive()
        if type(message) is pa.Pid:
            pa.send(message, "done")


def isolation(shape: int, count: int, worker: int) -> list[float]:
    """Seconds per message of that shape to a process on `worker` that does nothing but take them."""
    message = list(SHAPES.values())[shape]()
    to = pa.options(worker=worker).spawn(_sink)
    began = clock()
    for _ in range(count):
        pa.send(to, message)
    pa.send(to, pa.self_())
    pa.receive()
    seconds = clock() - began
    pa.exit(to, "kill")
    return [seconds / count]
