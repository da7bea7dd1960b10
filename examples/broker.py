"""A message broker: queues, publishers, consumers that acknowledge; what a crashed one held is given to others.

    parallel-actors run examples/broker.py
    parallel-actors run --log-level CRITICAL examples/broker.py --messages 10000 --consumers 8

    main -> one supervisor, "rest_for_one"
      ledger            writes down what was done, for the check at the end
      queue/<name>      one process for each queue: what is ready, and who holds what
      consumers         a supervisor of the consumers: each crash of one is a restart

A queue gives a consumer at most `PREFETCH` messages that it hasn't acknowledged, and takes no more than `ROOM` from
publishers: whoever publishes to a full queue waits for its answer. It monitors its consumers. When one dies, the
messages that it had not acknowledged go back to the front of the queue, in order, marked as redelivered.

So each message is done at least once. Not exactly once: a consumer that dies between the work and the acknowledgement
has done it, and the next one does it again. Here each tenth message is such a one, at its first delivery.
A queue holds its messages in memory: they are lost with its process (of a disk, see key_value.py).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import parallel_actors as pa

PREFETCH = 4
ROOM = 100


class Delivery(NamedTuple):
    """A message on its way to a consumer. `number` is its place in the queue: what is acknowledged."""

    number: int
    body: str
    redelivered: bool = False


# --- queues -----------------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What has happened in a queue."""

    published: int = 0
    delivered: int = 0
    redelivered: int = 0
    acknowledged: int = 0
    consumers_lost: int = 0


class Queue(pa.Actor):
    """One queue. A message is in `ready` or held by one consumer, until it is acknowledged."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.ready: deque[Delivery] = deque()
        self.held: dict[pa.Pid, dict[int, Delivery]] = {}  # by consumer; in the order of delivery
        self.blocked: deque[tuple[pa.ReplyTo[None], str]] = deque()  # publishers that wait for room
        self.drained: list[pa.ReplyTo[Counts]] = []

    @pa.call_later
    def publish(self, to: pa.ReplyTo[None], body: str) -> None:
        """Answered when the queue has the message."""
        self.blocked.append((to, body))
        self._go_on()

    @pa.cast
    def subscribe(self, consumer: pa.Pid) -> None:
        pa.monitor(consumer)
        self.held[consumer] = {}
        self._go_on()

    @pa.cast
    def acknowledge(self, consumer: pa.Pid, number: int) -> None:
        del self.held[consumer][number]
        self.counts.acknowledged += 1
        self._go_on()

    @pa.call_later
    def drain(self, to: pa.ReplyTo[Counts]) -> None:
        """Answered when everything that was published has been acknowledged."""
        self.drained.append(to)
        self._go_on()

    @pa.info(pa.Down)
    def consumer_died(self, down: pa.Down) -> None:
        """What it acknowledged has come before this: the rest was not done, or nobody knows."""
        lost = self.held.pop(down.pid)
        self.ready.extendleft(message._replace(redelivered=True) for message in reversed(lost.values()))
        self.counts.consumers_lost += 1
        self._go_on()

    def _go_on(self) -> None:
        """Hand out what is ready, let waiting publishers in, answer those who wait for the end."""
        while self.ready and (consumer := self._idlest()) is not None:
            message = self.ready.popleft()
            self.held[consumer][message.number] = message
            self.counts.delivered += 1
            self.counts.redelivered += message.redelivered
            pa.send(consumer, message)
            self._let_in()
        self._let_in()
        if self.counts.acknowledged == self.counts.published:
            for waiting in self.drained:
                waiting.reply(self.counts)
            self.drained.clear()

    def _let_in(self) -> None:
        while self.blocked and len(self.ready) < ROOM:
            to, body = self.blocked.popleft()
            self.counts.published += 1
            self.ready.append(Delivery(self.counts.published, body))
            to.reply(None)

    def _idlest(self) -> pa.Pid | None:
        """The consumer that holds least; None: all have their hands full."""
        found = min(self.held, key=lambda consumer: len(self.held[consumer]), default=None)
        return found if found is not None and len(self.held[found]) < PREFETCH else None


def queue(name: str) -> Queue:
    return pa.ref(Queue, f"queue/{name}")


# --- consumers and publishers -----------------------------------------------------------------------------------------


class Ledger(pa.Actor):
    """How often each message was done."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()

    @pa.call
    def done(self, body: str) -> None:
        self.times[body] += 1

    @pa.call
    def all(self) -> Counter[str]:
        return self.times


def consumer(name: str) -> None:
    """Do what the queue sends, and acknowledge it."""
    source, ledger, me = queue(name), pa.ref(Ledger, "ledger"), pa.self_()
    source.subscribe(me)
    while True:
        message = pa.receive(Delivery)
        ledger.done(message.body)
        if message.number % 10 == 0 and not message.redelivered:
            raise RuntimeError(f"crashed over {message.body}, after the work and before the acknowledgement")
        source.acknowledge(me, message.number)


class Consumers(pa.Supervisor):
    """The consumers of all queues. They may crash as often as they like."""

    def init(self, queues: list[str], each: int) -> Any:
        return self.supervise(
            [pa.child(consumer, name, id=(name, number)) for name in queues for number in range(each)],
            max_restarts=1_000_000,
        )


def publisher(name: str, source: int, messages: int) -> None:
    for number in range(messages):
        queue(name).publish.options(timeout=None)(f"{name} {source}/{number}")


# --- the program ------------------------------------------------------------------------------------------------------


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="broker.py", description="Queues, publishers, consumers that acknowledge.")
    parser.add_argument("--messages", type=int, default=200, help="per publisher (default 200)")
    parser.add_argument("--publishers", type=int, default=2, help="per queue (default 2)")
    parser.add_argument("--consumers", type=int, default=3, help="per queue (default 3)")
    options = parser.parse_args(args)
    names = ["mail", "thumbnails"]
    pa.Supervisor.start_link(
        [
            pa.child(Ledger, name="ledger"),
            *(pa.child(Queue, name=f"queue/{name}") for name in names),
            pa.child(Consumers, names, options.consumers),
        ],
        strategy="rest_for_one",
    )
    sources = [(name, source) for name in names for source in range(options.publishers)]
    publishers = [pa.Task.async_(publisher, name, source, options.messages) for name, source in sources]
    pa.Task.await_many(publishers, timeout=None)

    print("queue       published  delivered  redelivered  acknowledged  consumers lost")
    for name in names:
        it = queue(name).drain.options(timeout=None)()
        print(
            f"{name:10} {it.published:10} {it.delivered:10} {it.redelivered:12} {it.acknowledged:13}"
            f" {it.consumers_lost:15}"
        )
    times = pa.ref(Ledger, "ledger").all()
    expected = {f"{name} {source}/{number}" for name, source in sources for number in range(options.messages)}
    if set(times) != expected:
        sys.exit(f"expected {len(expected)} messages to be done, got {len(times)}; missing: {expected - set(times)}")
    again = sum(count > 1 for count in times.values())
    print(f"{len(times)} messages were done and acknowledged, {again} of them more than once")
