"""When a worker collects garbage.

CPython's full collection looks at every object that is alive: with a million processes that takes most of a second, and
it comes in the middle of whatever runs. So here it never comes by itself. The younger generations are collected as
ever; when enough of them have been, the scheduler runs a full one between two processes, over what has come since the
last one: all that survives is frozen (`gc.freeze`), and isn't looked at again.

A cycle that was frozen while it was alive becomes garbage that nobody finds. So when the worker's resident memory has
grown by half since everything was looked at last, everything is looked at again: a leak is bounded, and who doesn't
grow never waits for it.
"""

from __future__ import annotations

import gc
import os

from parallel_actors.workers.scheduler import Scheduler

__all__ = ["install"]

# Resident memory at which everything is looked at again: this much more than last time, and these bytes.
_GROWTH = 1.5
_SLACK = 64 << 20
_NEVER = 1 << 30
_PAGE = os.sysconf("SC_PAGE_SIZE")


class _Collector:
    """What a full collection of one worker is. The scheduler says when."""

    def __init__(self) -> None:
        # Kept open: a worker without descriptors to spare still collects its garbage.
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._resident = self._resident_bytes()

    def full(self) -> None:
        """Collect what has come since the last full collection, or everything."""
        if not gc.isenabled():
            return  # user code doesn't want it now
        if self._resident_bytes() > _GROWTH * self._resident + _SLACK:
            gc.unfreeze()
            gc.collect()
            self._resident = self._resident_bytes()
        else:
            gc.collect()
        gc.freeze()

    def _resident_bytes(self) -> int:
        return int(os.pread(self._statm, 256, 0).split()[1]) * _PAGE


def install(scheduler: Scheduler) -> None:
    """Let `scheduler` collect this worker's garbage from now on."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)
    gc.freeze()
    scheduler.use_collector(_Collector())
    gc.callbacks.append(scheduler.on_gc)
