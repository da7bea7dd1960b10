"""Producer-Consumer: processes that make items, processes that take them, and a small buffer in between.

Both sides compute a little for each item. What it costs to wait for each other.
"""

from __future__ import annotations

import math
from collections import deque
from random import Random

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"room": 10, "producers": 40, "consumers": 40, "items": 1_000, "steps": 25}
QUICK = {"room": 4, "producers": 3, "consumers": 2, "items": 20, "steps": 2}

Item = tuple[int, int, int]  # whose, the how many-eth of it, a number that was computed


class Buffer(pa.Actor):
    def __init__(self, room: int) -> None:
        self.room = room
        self.items: deque[Item] = deque()
        self.most = 0
        self.producers: deque[tuple[pa.ReplyTo[None], Item]] = deque()  # wait for room
        self.consumers: deque[pa.ReplyTo[Item | None]] = deque()  # wait for an item
        self.closed = False

    @pa.call_later
    def put(self, to: pa.ReplyTo[None], item: Item) -> None:
        """Answered when the item is in the buffer."""
        self.producers.append((to, item))
        self._go_on()

    @pa.call_later
    def get(self, to: pa.ReplyTo[Item | None]) -> None:
        """An item, as soon as there is one. None: there will be none."""
        self.consumers.append(to)
        self._go_on()

    @pa.call
    def close(self) -> int:
        """No item comes any more. How many there were at most."""
        self.closed = True
        self._go_on()
        return self.most

    def _go_on(self) -> None:
        while True:
            if self.producers and len(self.items) < self.room:
                producer, item = self.producers.popleft()
                self.items.append(item)
                self.most = max(self.most, len(self.items))
                producer.reply(None)
            elif self.consumers and self.items:
                self.consumers.popleft().reply(self.items.popleft())
            elif self.consumers and self.closed:
                self.consumers.popleft().reply(None)
            else:
                return


def compute(random: Random, steps: int) -> int:
    return int(sum(-math.log(random.random() + 0.01) for _ in range(steps)) * 1_000)


def produce(buffer: Buffer, place: int, items: int, steps: int) -> int:
    """The sum of the numbers that it has computed."""
    random = Random(place)
    total = 0
    for number in range(items):
        computed = compute(random, steps)
        total += computed
        buffer.put.options(timeout=None)((place, number, computed))
    return total


def consume(buffer: Buffer, place: int, steps: int) -> list[Item]:
    """What it has got."""
    random = Random(-place)
    got: list[Item] = []
    while (item := buffer.get.options(timeout=None)()) is not None:
        compute(random, steps)
        got.append(item)
    return got


def run(room: int, producers: int, consumers: int, items: int, steps: int) -> None:
    buffer = pa.start_link(Buffer, room)
    takers = [pa.Task.async_(consume, buffer, place, steps) for place in range(consumers)]
    makers = [pa.Task.async_(produce, buffer, place, items, steps) for place in range(producers)]
    total = sum(maker.await_(timeout=None) for maker in makers)
    expect("that there was no more than room for", True, 0 < buffer.close() <= room)
    got = [taker.await_(timeout=None) for taker in takers]
    pa.stop(buffer)

    expect("the sum of the numbers", total, sum(number for taken in got for _, _, number in taken))
    each_once = [(place, number) for place in range(producers) for number in range(items)]
    expect("the items", each_once, sorted((place, number) for taken in got for place, number, _ in taken))
    for taken in got:
        last = [-1] * producers
        for place, number, _ in taken:
            expect("that those of one producer come in order", True, number > last[place])
            last[place] = number
