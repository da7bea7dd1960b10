"""Online Facility Location: customers come, and where they are many and far from any facility, one opens.

Actors are the quadrants of a tree: one that opens has four children. Irregular, and only the top knows who comes next.
"""

from __future__ import annotations

import math
import random
from collections.abc import Container
from typing import NamedTuple

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"customers": 30_000}
QUICK = {"customers": 400}

SIDE = 500.0
THRESHOLD = 2 * math.sqrt(2) * SIDE  # what the customers of a quadrant may cost until it opens
SEED = 123_456

Point = tuple[float, float]


class Box(NamedTuple):
    x1: float
    y1: float
    x2: float
    y2: float

    def middle(self) -> Point:
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2

    def contains(self, point: Point) -> bool:
        return self.x1 <= point[0] < self.x2 and self.y1 <= point[1] < self.y2

    def quarters(self) -> list[Box]:
        """At the top left and right, and at the bottom: the one opposite to a place is at 3 - place."""
        x, y = self.middle()
        return [
            Box(self.x1, y, x, self.y2),
            Box(x, y, self.x2, self.y2),
            Box(self.x1, self.y1, x, y),
            Box(x, self.y1, self.x2, y),
        ]


class Quadrant(pa.Actor):
    def __init__(
        self, parent: Quadrant | None, place: int, box: Box, facilities: list[Point], customers: list[Point]
    ) -> None:
        self.parent = parent
        self.place = place
        self.box = box
        self.facilities = [*facilities, box.middle()]  # those that are known here, and its own if it opens
        self.customers: list[Point] = []
        self.cost = 0.0
        self.quarters: list[tuple[Box, Quadrant]] = []
        for point in customers:
            if box.contains(point):
                self.add(point)

    def add(self, point: Point) -> None:
        self.customers.append(point)
        self.cost += min(math.dist(point, facility) for facility in self.facilities)

    @pa.call
    def enter(self, point: Point) -> None:
        self.customer(point)

    @pa.cast
    def customer(self, point: Point) -> None:
        for box, quarter in self.quarters:
            if box.contains(point):
                quarter.customer(point)
                return
        self.add(point)
        if self.cost > THRESHOLD:
            self.open()

    def open(self) -> None:
        me = pa.ref(Quadrant, self.__pid__)
        if self.parent is not None:
            self.parent.opened_below(self.place, self.box.middle())
        for place, box in enumerate(self.box.quarters()):
            on = pa.options(worker=place % pa.worker_count())
            self.quarters.append((box, on.start_link(Quadrant, me, place, box, self.facilities, self.customers)))
        self.customers = []

    @pa.cast
    def opened_below(self, place: int, facility: Point) -> None:
        """The quarter at `place` knows it: those above are told, and the quarter that is opposite."""
        self.facilities.append(facility)
        if self.parent is not None:
            self.parent.opened_below(self.place, facility)
        self.quarters[3 - place][1].opened_elsewhere(facility)

    @pa.cast
    def opened_elsewhere(self, facility: Point) -> None:
        self.facilities.append(facility)
        for _, quarter in self.quarters:
            quarter.opened_elsewhere(facility)

    @pa.call
    def known(self) -> list[Point]:
        return self.facilities

    @pa.call
    def finish(self) -> tuple[int, list[tuple[Box, int]]]:
        """How many facilities are open in here, and the customers of each quadrant that isn't. The quarters end."""
        if not self.quarters:
            return 0, [(self.box, len(self.customers))]
        opened, closed = 1, []
        for request in [quarter.finish.request() for _, quarter in self.quarters]:
            more, boxes = request.wait(None)
            opened += more
            closed += boxes
        for _, quarter in self.quarters:
            pa.stop(quarter)
        return opened, closed


def run(customers: int) -> None:
    numbers = random.Random(SEED)
    points = [(numbers.random() * SIDE, numbers.random() * SIDE) for _ in range(customers)]
    top = pa.options(worker=0).start_link(Quadrant, None, 0, Box(0.0, 0.0, SIDE, SIDE), [], [])
    for point in points:
        top.enter(point)
    opened, closed = top.finish.options(timeout=None)()
    known = top.known()  # what was told upwards has come by now
    pa.stop(top)

    # Each facility has made four quadrants of one; they cover all without overlapping, and have each customer once.
    expect("the facilities that are known at the top", opened, len(set(known)))
    expect("the quadrants without a facility", 1 + 3 * opened, len(closed))
    expect("their area", SIDE * SIDE, sum((box.x2 - box.x1) * (box.y2 - box.y1) for box, _ in closed))
    expect("their customers", counted(Box(0.0, 0.0, SIDE, SIDE), points, dict(closed)), dict(closed))


def counted(box: Box, points: list[Point], among: Container[Box]) -> dict[Box, int]:
    """How many of the points are in each of the boxes `among` which `box` is divided."""
    if box in among:
        return {box: len(points)}
    counts: dict[Box, int] = {}
    for quarter in box.quarters():
        counts |= counted(quarter, [point for point in points if quarter.contains(point)], among)
    return counts
