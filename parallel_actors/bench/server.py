"""The server of the benchmarks: a GenServer that counts. `beam/bench.erl` has the same one."""

from __future__ import annotations

from typing import Any

import parallel_actors as pa

__all__ = ["Counter", "server"]


class Counter(pa.GenServer):
    """Counts the casts `inc`; answers the calls `ping` and `get`."""

    def init(self) -> int:
        return 0

    def handle_call(self, request: str, from_: object, state: int) -> Any:
        return pa.Reply(state if request == "get" else "pong")

    def handle_cast(self, request: str, state: int) -> Any:
        return pa.NoReply(state + 1)


def server(worker: int = 0) -> pa.Pid:
    """A new one, on that worker."""
    pid = pa.options(worker=worker).start(Counter)
    assert pid is not None  # it doesn't return IGNORE
    return pid
