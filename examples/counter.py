"""A counter, twice: as a GenServer, whose messages one writes, and as a typed actor, whose methods they are.

parallel-actors run examples/counter.py
"""

from __future__ import annotations

from typing import Any

import parallel_actors as pa


class CounterServer(pa.GenServer):
    """Answers the call "value"; counts the casts ("bump", by)."""

    def init(self, start: int) -> int:
        return start

    def handle_call(self, request: object, from_: object, state: int) -> Any:
        match request:
            case "value":
                return pa.Reply(state)

    def handle_cast(self, request: object, state: int) -> Any:
        match request:
            case ("bump", int(by)):
                return pa.NoReply(state + by)


class Counter(pa.Actor):
    """The same, checked by mypy and pyright from end to end."""

    def __init__(self, start: int = 0) -> None:
        self.n = start

    @pa.call
    def value(self) -> int:
        return self.n

    @pa.cast
    def bump(self, by: int = 1) -> None:
        self.n += by


def main() -> None:
    server = pa.start_link(CounterServer, 40)
    pa.cast(server, ("bump", 2))
    print(f"GenServer: {pa.call(server, 'value')}")

    counter = pa.start_link(Counter, 40)
    counter.bump(by=2)
    print(f"typed actor: {counter.value()}")
    later = counter.value.request()
    print(f"asked, and waited later: {later.wait(timeout=5.0)}")
    try:
        counter.n  # noqa: B018
    except AttributeError as error:
        print(f"not for others: {error}")
