"""`atomics`: arrays of 64-bit integers that all workers read and change in place (OTP's module of that name).

    tickets = atomics.new(1)
    atomics.add_get(tickets, 0, 1)      # no message, no process: one instruction on shared memory

A handle travels in messages, and may be a global. Each operation is atomic, and all see all operations in one order.
Indices begin at 0. The memory comes back when the last handle is gone, or those who had it are dead.
docs/shared-state.md has more.

The work is done by `parallel_actors.workers.cells`.
"""

from parallel_actors.workers.cells import AtomicsRef
from parallel_actors.workers.cells import atomics_add as add
from parallel_actors.workers.cells import atomics_add_get as add_get
from parallel_actors.workers.cells import atomics_compare_exchange as compare_exchange
from parallel_actors.workers.cells import atomics_exchange as exchange
from parallel_actors.workers.cells import atomics_get as get
from parallel_actors.workers.cells import atomics_info as info
from parallel_actors.workers.cells import atomics_new as new
from parallel_actors.workers.cells import atomics_put as put
from parallel_actors.workers.cells import atomics_sub as sub
from parallel_actors.workers.cells import atomics_sub_get as sub_get

__all__ = [
    "AtomicsRef",
    "add",
    "add_get",
    "compare_exchange",
    "exchange",
    "get",
    "info",
    "new",
    "put",
    "sub",
    "sub_get",
]
