"""`counters`: arrays of counters that all workers add to (OTP's module of that name).

    hits = counters.new(1, write_concurrency=True)
    counters.add(hits, 0)

As `atomics`, with fewer promises, and with `write_concurrency` each worker adds in memory of its own.
docs/shared-state.md has more.

The work is done by `parallel_actors.workers.cells`.
"""

from parallel_actors.workers.cells import CountersRef
from parallel_actors.workers.cells import counters_add as add
from parallel_actors.workers.cells import counters_get as get
from parallel_actors.workers.cells import counters_info as info
from parallel_actors.workers.cells import counters_new as new
from parallel_actors.workers.cells import counters_put as put
from parallel_actors.workers.cells import counters_sub as sub

__all__ = [
    "CountersRef",
    "add",
    "get",
    "info",
    "new",
    "put",
    "sub",
]
