"""Concurrent Dictionary: many processes read and write through one actor. What a server costs that many wait for."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"clients": 20, "requests": 10_000, "write_percent": 10, "keys": 10_000}
QUICK = {"clients": 4, "requests": 50, "write_percent": 50, "keys": 20}


class Dictionary(pa.Actor):
    def __init__(self, keys: int) -> None:
        self.values = {key: key for key in range(keys)}

    @pa.call
    def read(self, key: int) -> int:
        return self.values[key]

    @pa.call
    def write(self, key: int, value: int) -> None:
        self.values[key] = value

    @pa.call
    def everything(self) -> dict[int, int]:
        return self.values


def plan(seed: int, requests: int, write_percent: int, keys: int) -> Iterator[tuple[int, int | None]]:
    """A client's requests: a key, and what to write there or None. What is written tells by its remainder where."""
    random = Random(seed)
    for number in range(1, requests + 1):
        write, key = random.randrange(100) < write_percent, random.randrange(keys)
        yield key, (seed * requests + number) * keys + key if write else None


def client(dictionary: Dictionary, seed: int, requests: int, write_percent: int, keys: int) -> int:
    """How many values were read."""
    read = 0
    for key, value in plan(seed, requests, write_percent, keys):
        if value is None:
            expect("the key of what was read", key, dictionary.read.options(timeout=None)(key) % keys)
            read += 1
        else:
            dictionary.write.options(timeout=None)(key, value)
    return read


def run(clients: int, requests: int, write_percent: int, keys: int) -> None:
    dictionary = pa.start_link(Dictionary, keys)
    tasks = [pa.Task.async_(client, dictionary, seed, requests, write_percent, keys) for seed in range(clients)]
    read = sum(task.await_(timeout=None) for task in tasks)
    everything = dictionary.everything()
    pa.stop(dictionary)

    # What is there for a key is the last that one of the clients has written, whichever was the last of them.
    possible: dict[int, set[int]] = {}
    writes = 0
    for seed in range(clients):
        written = [(key, value) for key, value in plan(seed, requests, write_percent, keys) if value is not None]
        writes += len(written)
        for key, value in dict(written).items():
            possible.setdefault(key, set()).add(value)
    expect("how often it was read", clients * requests - writes, read)
    expect("the keys", set(range(keys)), set(everything))
    wrong = {key: value for key, value in everything.items() if value not in possible.get(key, {key})}
    expect("values that nobody wrote last", {}, wrong)
