"""What every worker has imported before it is forked: the memory is shared, and no process waits for an import.

The forkserver imports this module and nothing else. `ActorSystem` is left out: it is the launching program's.
"""

from __future__ import annotations

import parallel_actors
from parallel_actors.cli import target  # noqa: F401
from parallel_actors.workers import boot  # noqa: F401

for _name in parallel_actors.__all__:
    if _name != "ActorSystem":
        getattr(parallel_actors, _name)
