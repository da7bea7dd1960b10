"""Sleeping Barber: customers come to a waiting room, and come again when it is full. Many processes, few with work."""

from __future__ import annotations

import random
from collections import Counter, deque

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"customers": 1_500, "chairs": 750, "pause": 400, "haircut": 400}
QUICK = {"customers": 30, "chairs": 5, "pause": 20, "haircut": 20}

LEAST = 10  # strokes of a haircut
SEED = 1


def busy(numbers: random.Random, most: int) -> int:
    """Draw numbers, as many as one says."""
    rounds = LEAST + numbers.randrange(most)
    for _ in range(rounds):
        numbers.random()
    return rounds


def customer(room: WaitingRoom, shop: Shop) -> None:
    while True:
        match pa.receive():
            case "full":
                shop.returned(pa.self_())
            case "done":
                shop.served()
                return
            case "wait" | "start":
                pass


class WaitingRoom(pa.Actor):
    def __init__(self, chairs: int, barber: Barber) -> None:
        self.chairs = chairs
        self.barber = barber
        self.waiting: deque[pa.Pid] = deque()
        self.most = 0
        self.barber_asleep = True
        self.turned_away = 0

    @pa.cast
    def enter(self, customer: pa.Pid) -> None:
        if len(self.waiting) == self.chairs:
            self.turned_away += 1
            pa.send(customer, "full")
            return
        self.waiting.append(customer)
        self.most = max(self.most, len(self.waiting))
        if self.barber_asleep:
            self.barber_asleep = False
            self.next()
        else:
            pa.send(customer, "wait")

    @pa.cast
    def next(self) -> None:
        if self.waiting:
            self.barber.cut(self.waiting.popleft(), pa.ref(WaitingRoom, self.__pid__))
        else:
            self.barber_asleep = True

    @pa.call
    def counts(self) -> tuple[int, int]:
        """How many were turned away, and how many waited at most."""
        return self.turned_away, self.most


class Barber(pa.Actor):
    def __init__(self, haircut: int) -> None:
        self.haircut = haircut
        self.numbers = random.Random(SEED)
        self.served: list[pa.Pid] = []
        self.strokes = 0

    @pa.cast
    def cut(self, customer: pa.Pid, room: WaitingRoom) -> None:
        pa.send(customer, "start")
        self.strokes += busy(self.numbers, self.haircut)
        self.served.append(customer)
        pa.send(customer, "done")
        room.next()

    @pa.call
    def work(self) -> tuple[list[pa.Pid], int]:
        return self.served, self.strokes


class Shop(pa.Actor):
    """Where the customers come from."""

    def __init__(self, room: WaitingRoom) -> None:
        self.room = room
        self.customers: list[pa.Pid] = []
        self.away = 0
        self.left = 0
        self.asker: pa.ReplyTo[tuple[list[pa.Pid], int]] | None = None

    @pa.call_later
    def open(self, to: pa.ReplyTo[tuple[list[pa.Pid], int]], customers: int, pause: int) -> None:
        """Send so many. The answer, when all are served: who they were, and how often one came back."""
        self.asker, self.left = to, customers
        numbers = random.Random(SEED)
        for _ in range(customers):
            self.customers.append(pa.spawn_link(customer, self.room, pa.ref(Shop, self.__pid__)))
            self.room.enter(self.customers[-1])
            busy(numbers, pause)

    @pa.cast
    def returned(self, customer: pa.Pid) -> None:
        self.away += 1
        self.room.enter(customer)

    @pa.cast
    def served(self) -> None:
        self.left -= 1
        if not self.left and self.asker is not None:
            self.asker.reply((self.customers, self.away))


def run(customers: int, chairs: int, pause: int, haircut: int) -> None:
    barber = pa.options(worker=pa.worker_count() - 1).start_link(Barber, haircut)
    room = pa.start_link(WaitingRoom, chairs, barber)
    shop = pa.start_link(Shop, room)
    came, away = shop.open.options(timeout=None)(customers, pause)
    served, strokes = barber.work()
    turned_away, most = room.counts()
    for actor in (shop, room, barber):
        pa.stop(actor)

    numbers = random.Random(SEED)
    expect("the customers", customers, len(set(came)))
    expect("how often each was served", Counter(came), Counter(served))
    expect("the strokes", sum(busy(numbers, haircut) for _ in range(customers)), strokes)
    expect("how often one came back", turned_away, away)
    expect("more waited than there are chairs", False, most > chairs)
