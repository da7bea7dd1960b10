"""Sieve of Eratosthenes: a pipeline of actors, each of which has some primes; it grows as numbers come through."""

from __future__ import annotations

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"limit": 30_000, "primes_each": 200}
QUICK = {"limit": 200, "primes_each": 5}


class Filter(pa.Actor):
    def __init__(self, room: int, prime: int) -> None:
        self.room = room
        self.primes = [prime]
        self.following: Filter | None = None

    @pa.cast
    def number(self, number: int) -> None:
        """Drop a multiple of a prime that is known here; keep another one, or hand it on."""
        for prime in self.primes:
            if number % prime == 0:
                return
        if len(self.primes) < self.room:
            self.primes.append(number)
        elif self.following is None:
            worker = (pa.self_().worker + 1) % pa.worker_count()  # the pipeline goes through all of them, in turn
            self.following = pa.options(worker=worker).start_link(Filter, self.room, number)
        else:
            self.following.number(number)

    @pa.call
    def finish(self) -> list[int]:
        """The primes from here on; the actors that follow have ended."""
        if self.following is None:
            return self.primes
        later = self.following.finish.options(timeout=None)()
        pa.stop(self.following)
        return self.primes + later


def primes_below(limit: int) -> list[int]:
    prime = bytearray([1]) * limit
    prime[:2] = bytes(2)
    for number in range(2, int(limit**0.5) + 1):
        if prime[number]:
            prime[number * number :: number] = bytes(len(range(number * number, limit, number)))
    return [number for number in range(limit) if prime[number]]


def run(limit: int, primes_each: int) -> None:
    first = pa.options(worker=0).start_link(Filter, primes_each, 2)
    for number in range(3, limit, 2):
        first.number(number)
    found = first.finish.options(timeout=None)()
    pa.stop(first)
    expect("the primes", primes_below(limit), found)
