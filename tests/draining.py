"""Servers that must not notice that their worker leaves; no imports of test modules: others load them in no time."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import parallel_actors as pa

__all__ = ["Counter", "Stubborn", "hoard", "keep_calling", "never_end"]

_HOARD: list[bytes] = []


class Counter(pa.GenServer):
    """Counts what it is sent, per sender: each sender's numbers come in order, without a gap."""

    def init(self) -> Any:
        return pa.Ok({"next": {}, "faults": [], "notes": []})

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        match request:
            case ("count", number):
                return pa.Reply(self._count(from_[0], number, state), state)
            case "faults":
                return pa.Reply(state["faults"], state)
            case "notes":
                return pa.Reply(state["notes"], state)
            case "where":
                return pa.Reply((pa.worker_index(), os.getpid()), state)
            case ("run", function, args):
                return pa.Reply(function(*args), state)
        return super().handle_call(request, from_, state)

    def handle_cast(self, request: Any, state: Any) -> Any:
        match request:
            case ("count", sender, number):
                self._count(sender, number, state)
            case ("leave", reason):
                return pa.Stop(reason, state)
        return pa.NoReply(state)

    def handle_info(self, message: Any, state: Any) -> Any:
        state["notes"].append(message)
        return pa.NoReply(state)

    def _count(self, sender: pa.Pid, number: int, state: Any) -> int:
        expected = state["next"].get(sender, 0)
        if number != expected:
            state["faults"].append((sender, number, expected))
        state["next"][sender] = number + 1
        return number


class Stubborn(pa.GenServer):
    """Its state can't be pickled."""

    def init(self) -> Any:
        return pa.Ok(threading.Lock())

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return pa.Reply(pa.worker_index(), state)


def keep_calling(asker: pa.Pid, servers: list[pa.Pid]) -> None:
    """Call and cast to each in turn until told to stop; tells how many calls were answered, and what went wrong."""
    faults: list[str] = []
    number = 0
    me = pa.self_()
    while pa.receive("stop", timeout=0, default=None) is None:
        for server in servers:
            try:
                answer = pa.call(server, ("count", number), timeout=60)
                if answer != number:
                    faults.append(f"{server}: {answer} for {number}")
            except Exception as error:
                faults.append(f"{server}: {error!r}")
            pa.cast(server, ("count", me, number + 1))
        number += 2
    pa.send(asker, ("called", number, faults))


def hoard(size: int) -> int:
    """Leak memory of this OS process. How much it is by now."""
    _HOARD.append(os.urandom(size))
    return sum(map(len, _HOARD))


def never_end() -> None:
    while True:
        time.sleep(0.001)
