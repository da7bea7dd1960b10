"""What stands for a GenServer: a callback process that counts, and the best client that the process API allows.

A call monitors the server with an alias, so that the answer of a server that is too late, or dead, never reaches the
caller's mailbox (as `gen_server:call` does).
"""

from __future__ import annotations

from typing import Any

import parallel_actors as pa
from parallel_actors.workers.scheduler import Loop

__all__ = ["call", "cast", "server"]


class _Counter:
    """Counts the casts `inc`; answers the calls `ping` and `get`."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def handle(self, message: Any) -> None:
        if len(message) == 2:  # ("cast", request)
            self.count += 1
        else:
            ref, _, request = message
            pa.send(ref, (ref, self.count if request == "get" else "pong"))


def server() -> Loop:
    """The body of the server."""
    return Loop(_Counter().handle)


def call(to: pa.Pid, me: pa.Pid, request: str) -> Any:
    """The server's answer. `me` is the caller's own pid."""
    ref = pa.monitor(to, alias=True)
    pa.send(to, (ref, me, request))
    answer = pa.receive((ref, pa.ANY), pa.Down(ref, pa.ANY, pa.ANY))
    if isinstance(answer, pa.Down):
        raise RuntimeError(f"the server of the benchmark ended: {answer.reason}")
    pa.demonitor(ref)
    return answer[1]


def cast(to: pa.Pid) -> None:
    """Let the server count one up."""
    pa.send(to, ("cast", "inc"))
