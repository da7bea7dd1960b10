"""The Savina actor benchmarks, each as a user of this library would write it (Imam and Sarkar, "Savina", AGERE! 2014).

    python -m benchmarks.savina                       all of them, on one worker and on two, beside the BEAM
    python -m benchmarks.savina ping_pong big         some of them
    python -m benchmarks.savina --quick --workers 2   small sizes, on two workers alone

A program is a module here, of the name in `PROGRAMS`:

    PARAMETERS   its sizes: keywords of `run`, for some seconds on one worker
    QUICK        small ones, for tests
    run          the program; it is called in a process, and raises `Wrong` if its result is wrong

`benchmarks/beam/savina_NAME.erl`, where it is there, is the same program on the BEAM: its `run` gets the values of
PARAMETERS in that order.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["PROGRAMS", "Timed", "Wrong", "expect"]

PROGRAMS = (
    "ping_pong",
    "counting",
    "fork_join_throughput",
    "fork_join_create",
    "thread_ring",
    "chameneos",
    "big",
    "concurrent_dictionary",
    "concurrent_sorted_list",
    "producer_consumer",
    "dining_philosophers",
    "sleeping_barber",
    "cigarette_smokers",
    "logistic_map",
    "bank_transaction",
    "radix_sort",
    "filter_bank",
    "sieve",
    "unbalanced_cobwebbed_tree",
    "online_facility_location",
    "trapezoid",
    "pi_precision",
    "recursive_matrix_multiplication",
    "quicksort",
    "all_pairs_shortest_path",
    "successive_over_relaxation",
    "a_star",
    "n_queens",
    "bitonic_sort",
    "fibonacci",
)


class Wrong(Exception):
    """Raised by a program whose result isn't what it has to be."""


def expect(what: str, expected: object, got: object) -> None:
    """Raise Wrong unless a result is as it has to be."""
    if expected != got:
        raise Wrong(f"{what}: expected {expected!r}, got {got!r}")


class Timed:
    """A program's `run`, timed: a benchmark's workload."""

    def __init__(self, run: Callable[..., None]) -> None:
        self.run = run

    def __call__(self, **sizes: int) -> list[float]:
        began = time.perf_counter()
        self.run(**sizes)
        return [time.perf_counter() - began]
