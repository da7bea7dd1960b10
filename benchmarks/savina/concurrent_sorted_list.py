"""Concurrent Sorted List: many processes add to and look into one sorted linked list, which an actor holds.

As Concurrent Dictionary, but here the server has something to do: it walks along its list.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"clients": 20, "requests": 4_000, "write_percent": 2, "size_percent": 1, "values": 5_000}
QUICK = {"clients": 4, "requests": 50, "write_percent": 30, "size_percent": 10, "values": 50}


class Node:
    """An item of a linked list, and what comes after it."""

    __slots__ = ("next", "value")

    def __init__(self, value: int, next_one: Node | None) -> None:
        self.value = value
        self.next = next_one


class SortedList(pa.Actor):
    def __init__(self) -> None:
        self.head = Node(-1, None)  # before all others

    @pa.call
    def add(self, value: int) -> None:
        before = self._last_below(value)
        before.next = Node(value, before.next)

    @pa.call
    def contains(self, value: int) -> bool:
        found = self._last_below(value).next
        return found is not None and found.value == value

    @pa.call
    def size(self) -> int:
        return len(self._values())

    @pa.call
    def everything(self) -> list[int]:
        return self._values()

    def _last_below(self, value: int) -> Node:
        node = self.head
        while (after := node.next) is not None and after.value < value:
            node = after
        return node

    def _values(self) -> list[int]:
        values = []
        node = self.head.next
        while node is not None:
            values.append(node.value)
            node = node.next
        return values


def plan(seed: int, requests: int, write_percent: int, size_percent: int, values: int) -> Iterator[tuple[str, int]]:
    """What a client asks for."""
    random = Random(seed)
    for _ in range(requests):
        percent, value = random.randrange(100), random.randrange(values)
        if percent < write_percent:
            yield "add", value
        elif percent < write_percent + size_percent:
            yield "size", value
        else:
            yield "contains", value


def client(items: SortedList, seed: int, requests: int, write_percent: int, size_percent: int, values: int) -> set[int]:
    """The values that were there when it asked."""
    found: set[int] = set()
    added: list[int] = []
    for what, value in plan(seed, requests, write_percent, size_percent, values):
        if what == "add":
            items.add.options(timeout=None)(value)
            added.append(value)
        elif what == "size":
            expect("that its own are counted", True, items.size.options(timeout=None)() >= len(added))
        elif items.contains.options(timeout=None)(value):
            found.add(value)
        else:
            expect("that it isn't its own", False, value in added)
    return found


def run(clients: int, requests: int, write_percent: int, size_percent: int, values: int) -> None:
    items = pa.start_link(SortedList)
    tasks = [
        pa.Task.async_(client, items, seed, requests, write_percent, size_percent, values) for seed in range(clients)
    ]
    found = set().union(*(task.await_(timeout=None) for task in tasks))
    everything = items.everything()
    pa.stop(items)
    plans = [plan(seed, requests, write_percent, size_percent, values) for seed in range(clients)]
    added = sorted(value for requested in plans for what, value in requested if what == "add")
    expect("the list", added, everything)
    expect("values that nobody added", set(), found - set(added))
