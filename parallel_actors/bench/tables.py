"""Workloads of shared state: tables, counters and persistent terms, beside a server that holds a dict."""

from __future__ import annotations

import time
from typing import Any

import parallel_actors as pa

__all__ = [
    "SIZE",
    "counters_add",
    "counters_add_contended",
    "ets_insert",
    "ets_lookup",
    "persistent_term_get",
    "server_dict",
]

# Rows of a table, items of the dict.
SIZE = 1000

clock = time.perf_counter


class Holder(pa.GenServer):
    """Holds a dict."""

    def init(self) -> dict[int, tuple[int, int]]:
        return {key: (key, 0) for key in range(SIZE)}

    def handle_call(self, request: tuple[Any, ...], from_: object, state: dict[int, tuple[int, int]]) -> Any:
        if len(request) == 1:
            return pa.Reply(state[request[0]])
        state[request[0]] = request
        return pa.Reply(None)


def ets_lookup(count: int, worker: int) -> list[float]:
    """Seconds for a lookup in a table that `worker` keeps."""
    table = _table(worker)
    began = clock()
    for number in range(count):
        pa.ets.lookup(table, number % SIZE)
    seconds = clock() - began
    pa.ets.delete(table)
    return [seconds / count]


def ets_insert(count: int, worker: int) -> list[float]:
    """Seconds for an insert that replaces a row."""
    table = _table(worker)
    began = clock()
    for number in range(count):
        pa.ets.insert(table, (number % SIZE, number))
    seconds = clock() - began
    pa.ets.delete(table)
    return [seconds / count]


def _table(worker: int) -> Any:
    table = pa.ets.new(worker=worker)
    pa.ets.insert(table, [(key, 0) for key in range(SIZE)])
    return table


def server_dict(count: int, worker: int) -> list[float]:
    """Seconds for a call that reads, and for one that writes, an item of a dict that a server on `worker` holds."""
    server = pa.options(worker=worker).start(Holder)
    times = [clock()]
    for number in range(count):
        pa.call(server, (number % SIZE,))
    times.append(clock())
    for number in range(count):
        pa.call(server, (number % SIZE, number))
    times.append(clock())
    pa.exit(server, "kill")
    return [(times[1] - times[0]) / count, (times[2] - times[1]) / count]


def counters_add(count: int) -> list[float]:
    """Seconds for an add to a counter of which one core has the memory."""
    counter = pa.counters.new(1)
    began = clock()
    for _ in range(count):
        pa.counters.add(counter, 0)
    return [(clock() - began) / count]


def _adder(counter: Any, count: int, to: pa.Pid) -> None:
    pa.send(to, "ready")
    pa.receive("go")
    began = clock()
    for _ in range(count):
        pa.counters.add(counter, 0)
    pa.send(to, clock() - began)


def counters_add_contended(count: int, many: int) -> list[float]:
    """Seconds for an add while another worker adds to the same counter. many: with write_concurrency."""
    counter = pa.counters.new(1, write_concurrency=bool(many))
    adders = [pa.options(worker=worker).spawn(_adder, counter, count, pa.self_()) for worker in (0, 1)]
    for _ in adders:
        pa.receive("ready")
    for pid in adders:
        pa.send(pid, "go")
    seconds = sum(pa.receive(float) for _ in adders) / len(adders)
    if pa.counters.get(counter, 0) != 2 * count:
        raise RuntimeError(f"expected {2 * count} adds, got {pa.counters.get(counter, 0)}")
    return [seconds / count]


def persistent_term_get(count: int) -> list[float]:
    """Seconds to read a term."""
    pa.persistent_term.put("bench", ("a", 1))
    began = clock()
    for _ in range(count):
        pa.persistent_term.get("bench")
    seconds = clock() - began
    pa.persistent_term.erase("bench")
    return [seconds / count]
