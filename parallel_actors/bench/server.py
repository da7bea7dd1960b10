"""The servers of the benchmarks: one that counts, as a GenServer and as a typed actor; `beam/bench.erl` has it too."""

from __future__ import annotations

from typing import Any

import parallel_actors as pa

__all__ = ["Counter", "TypedCounter", "here", "server"]

# How a workload spawns what is to stay on its worker, where it measures: an idle one would take some of it.
here = pa.options(stealable=False)


class Counter(pa.GenServer):
    """Counts the casts `inc`; answers the calls `ping` and `get`."""

    def init(self) -> int:
        return 0

    def handle_call(self, request: str, from_: object, state: int) -> Any:
        return pa.Reply(state if request == "get" else "pong")

    def handle_cast(self, request: str, state: int) -> Any:
        return pa.NoReply(state + 1)


class TypedCounter(pa.Actor):
    """The same as a typed actor."""

    def __init__(self) -> None:
        self.n = 0

    @pa.call
    def ping(self) -> str:
        return "pong"

    @pa.call
    def get(self) -> int:
        return self.n

    @pa.cast
    def inc(self) -> None:
        self.n += 1


def server(worker: int = 0) -> pa.Pid:
    """A new one, on that worker."""
    pid = pa.options(worker=worker).start(Counter)
    assert pid is not None  # it doesn't return IGNORE
    return pid
