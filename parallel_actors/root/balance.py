"""When a worker has more to do than another: which hands how much to which.

The root asks `Balance.decide` ten times a second, with what the workers' slots say, and gives the order (SHED) to the
worker that has too much. That one knows which of its processes compute (`Scheduler.hottest`) and moves some of them, as
`migrate` does. Stealing is another matter: it takes what hasn't begun, and needs no order.

So that nothing moves for ever: only a worker that others wait for, over several looks, hands over; at most half of the
difference, so that it can't be the other way round afterwards; and both are left alone until the next looks show what
came of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Balance", "Load", "Order"]

# Looks in a row, one each tenth of a second.
_LOOKS = 5
# The part of the time that a worker has something to do from which on it is full, and the most of one that takes more.
_FULL = 0.9
_SPARE = 0.7
# Looks after an order during which its two workers are left alone: the busy part is that of a whole second.
_REST = 12


@dataclass(frozen=True, slots=True)
class Load:
    """What one look says of a worker.

    Fields:
        queue: processes that wait for their turn.
        busy: the part of the last second that it was awake, 0 to 1.
        open: whether it takes more: it isn't leaving.
    """

    queue: int
    busy: float
    open: bool = True


@dataclass(frozen=True, slots=True)
class Order:
    """That worker `giver` shall move processes which use together up to `share` of a core to `taker`."""

    giver: int
    taker: int
    share: float


@dataclass(slots=True)
class Balance:
    """Looks at the loads, and remembers as much as it needs to be patient.

    >>> balance = Balance()
    >>> loads = {0: Load(queue=9, busy=1.0), 1: Load(queue=0, busy=0.2)}
    >>> [balance.decide(loads) for _ in range(5)][-1]
    [Order(giver=0, taker=1, share=0.4)]
    """

    _full: dict[int, int] = field(default_factory=dict)  # worker -> looks in a row at which it was
    _rest: dict[int, int] = field(default_factory=dict)  # worker -> looks that it is left alone for

    def decide(self, loads: dict[int, Load]) -> list[Order]:
        """The orders to give now, by one more look at all workers that are up."""
        self._rest = {worker: left - 1 for worker, left in self._rest.items() if left > 1 and worker in loads}
        full = {w: self._full.get(w, 0) + 1 for w, load in loads.items() if load.busy >= _FULL and load.queue > 0}
        self._full = full
        givers = sorted(
            (worker for worker, looks in full.items() if looks >= _LOOKS and worker not in self._rest),
            key=lambda worker: -loads[worker].queue,
        )
        takers = sorted(
            (
                w
                for w, load in loads.items()
                if load.open and load.busy <= _SPARE and w not in self._rest and w not in full
            ),
            key=lambda worker: loads[worker].busy,
        )
        orders = [
            Order(giver, taker, round((loads[giver].busy - loads[taker].busy) / 2, 3))
            for giver, taker in zip(givers, takers, strict=False)
        ]
        for order in orders:
            self._rest[order.giver] = self._rest[order.taker] = _REST
            self._full.pop(order.giver, None)
        return orders
