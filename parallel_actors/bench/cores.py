"""Whether the cores were free: what others used of them just before a benchmark."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil

__all__ = ["Cores", "look"]

# Others may use this much of all cores together before a figure counts as disturbed.
_FREE = 0.1
_WINDOW = 0.2  # s


@dataclass(frozen=True, slots=True)
class Cores:
    """What the machine did while we did nothing.

    Fields:
        used: cores that others kept busy, out of `count`.
        stolen: cores that the hypervisor gave to others meanwhile.
        load: the load average of the last minute. It holds our own earlier work too.
    """

    count: int
    used: float
    stolen: float
    load: float

    @property
    def free(self) -> bool:
        """Whether a figure measured now can be trusted."""
        return self.used + self.stolen <= _FREE * self.count


def look() -> Cores:
    """Look for a fifth of a second."""
    count = os.cpu_count() or 1
    before = psutil.cpu_times()
    time.sleep(_WINDOW)
    after = psutil.cpu_times()
    spent = [late - early for early, late in zip(before, after, strict=True)]
    total = sum(spent) or 1.0
    share = dict(zip(before._fields, spent, strict=True))
    stolen = share.get("steal", 0.0) / total
    idle = (share["idle"] + share.get("iowait", 0.0)) / total
    return Cores(count, max(0.0, 1.0 - idle - stolen) * count, stolen * count, os.getloadavg()[0])
