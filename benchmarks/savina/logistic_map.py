"""Logistic Map Series: each series asks a computer of its own for its next term. What a call in a handler costs."""

from __future__ import annotations

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"terms": 25_000, "series": 10}
QUICK = {"terms": 20, "series": 3}

RATE = 3.46
INCREMENT = 0.0025


class Computer(pa.Actor):
    def __init__(self, rate: float) -> None:
        self.rate = rate

    @pa.call
    def next_of(self, term: float) -> float:
        return self.rate * term * (1 - term)


class Series(pa.Actor):
    def __init__(self, computer: Computer, term: float) -> None:
        self.computer = computer
        self.value = term

    @pa.cast
    def next_term(self) -> None:
        self.value = self.computer.next_of(self.value)

    @pa.call
    def term(self) -> float:
        return self.value


def run(terms: int, series: int) -> None:
    rates = [RATE + number * INCREMENT for number in range(series)]
    on_workers = [pa.options(worker=number % pa.worker_count()) for number in range(series)]
    computers = [on.start_link(Computer, rate) for on, rate in zip(on_workers, rates, strict=True)]
    all_series = [
        on.start_link(Series, computer, number * INCREMENT)
        for number, (on, computer) in enumerate(zip(on_workers, computers, strict=True))
    ]
    for _ in range(terms):
        for one in all_series:
            one.next_term()
    got = [one.term.options(timeout=None)() for one in all_series]
    for actor in (*all_series, *computers):
        pa.stop(actor)

    expected = []
    for number, rate in enumerate(rates):
        term = number * INCREMENT
        for _ in range(terms):
            term = rate * term * (1 - term)
        expected.append(term)
    expect("the last terms", expected, got)
