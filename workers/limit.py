"""Bounds what the library reports: crashes, supervisors' reports, dead letters (OTP: `logger`'s overload protection).

    Scheduler.admits(kind) -> ReportLimit.admits: counts, before anything is formatted
    the second is over     -> ReportLimit.settle: one report "left_out" per kind that had more

Each endpoint counts for itself, and each kind of report by itself: so dead letters don't crowd crashes out. What user
code logs or prints is never counted here.

Invariant: reports made + the counts of all "left_out" = reports asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["ReportLimit"]

# Length of a window. It begins with the first report after the end of the last one, as OTP's burst limit.
_SECONDS = 1.0


class ReportLimit:
    """At most so many reports of each kind in a second.

    Args:
        most: of each kind, in a second.
        left_out: called with (kind, count) for what was too much, when the second is over.
        remind: called with the seconds after which `settle` shall be called, once something was left out. None: nobody
            can; it is told with the next report, or by `close`.
        now: the clock, for tests.
    """

    def __init__(
        self,
        most: int,
        left_out: Callable[[str, int], object],
        remind: Callable[[float], object] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._left_out = left_out
        self._remind = remind
        self._now = now
        self._until = 0.0
        self._asked: dict[str, int] = {}  # since the window began
        self._reminded = False

    def admits(self, kind: str) -> bool:
        """Count one report; whether it may be made."""
        now = self._now()
        if now >= self._until:
            self.close()
            self._until = now + _SECONDS
        count = self._asked[kind] = self._asked.get(kind, 0) + 1
        if count <= self._most:
            return True
        if not self._reminded and self._remind is not None:
            self._reminded = True
            self._remind(self._until - now)
        return False

    def settle(self) -> None:
        """Tell what was left out if the second is over, else ask to be called again."""
        self._reminded = False
        left = self._until - self._now()
        if left <= 0:
            self.close()
        elif self._remind is not None and any(count > self._most for count in self._asked.values()):
            self._reminded = True
            self._remind(left)

    def close(self) -> None:
        """Tell what was left out, now."""
        # First forgotten, then told: a log handler of the user's may have us report something itself.
        asked, self._asked = self._asked, {}
        for kind, count in asked.items():
            if count > self._most:
                self._left_out(kind, count - self._most)
