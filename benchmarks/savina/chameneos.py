"""Chameneos: creatures meet in a mall, two at a time, and change their colours. What many senders to one actor cost."""

from __future__ import annotations

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"creatures": 100, "meetings": 200_000}
QUICK = {"creatures": 7, "meetings": 200}

COLOURS = 3


def colour_after(one: int, other: int) -> int:
    """Two of the same colour keep it, two of different colours take the third."""
    return -(one + other) % COLOURS


class Mall(pa.Actor):
    def __init__(self, meetings: int) -> None:
        self.meetings = meetings
        self.waiting: Creature | None = None

    @pa.cast
    def enter(self, creature: Creature, colour: int) -> None:
        if self.meetings == 0:
            creature.leave()
        elif self.waiting is None:
            self.waiting = creature
        else:
            self.meetings -= 1
            self.waiting.meet(creature, colour)
            self.waiting = None


class Creature(pa.Actor):
    def __init__(self, mall: Mall, colour: int, home: pa.Pid) -> None:
        self.mall = mall
        self.colour = colour
        self.home = home
        self.me = pa.ref(Creature, pa.self_())
        self.meetings = 0
        mall.enter(self.me, colour)

    @pa.cast
    def meet(self, other: Creature, colour: int) -> None:
        colour = colour_after(self.colour, colour)
        other.change(colour)
        self._change(colour)

    @pa.cast
    def change(self, colour: int) -> None:
        self._change(colour)

    @pa.cast
    def leave(self) -> None:
        pa.send(self.home, (self.meetings, self.colour))
        raise pa.ProcessExit("normal")

    def _change(self, colour: int) -> None:
        self.colour = colour
        self.meetings += 1
        self.mall.enter(self.me, colour)


def run(creatures: int, meetings: int) -> None:
    mall = pa.start_link(Mall, meetings)
    colours = [number % COLOURS for number in range(1, creatures + 1)]
    for number, colour in enumerate(colours):
        pa.options(worker=number % pa.worker_count()).start_link(Creature, mall, colour, pa.self_())
    left = [pa.receive((int, int)) for _ in colours]
    expect("how often one met another", 2 * meetings, sum(met for met, _ in left))
    # No meeting changes this: both of (a, b) become -(a + b), and -2 is 1 modulo 3.
    expect("the colours' sum modulo 3", sum(colours) % COLOURS, sum(colour for _, colour in left) % COLOURS)
    pa.stop(mall)
