"""What every worker has imported before it is forked: the memory is shared, and no process waits for an import.

The forkserver imports this module and nothing else.
"""

from __future__ import annotations

import parallel_actors
from parallel_actors.cli import target  # noqa: F401
from parallel_actors.workers import boot  # noqa: F401

for _name in parallel_actors._MODULE_OF:
    getattr(parallel_actors, _name)

# All is there. CPython looks attributes up by their place in modules that have no `__getattr__`: in loops that call
# `pa.send` that is 20 ns less for each.
parallel_actors.__dict__.pop("__getattr__", None)
