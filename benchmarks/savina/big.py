"""Big: every actor pings any other, and again when it has the pong. What messages cost that go many to many."""

from __future__ import annotations

from collections import Counter
from random import Random

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"actors": 120, "pings": 3_000}
QUICK = {"actors": 8, "pings": 50}


class Player(pa.Actor):
    def __init__(self, seed: int, pings: int, home: pa.Pid) -> None:
        self.random = Random(seed)
        self.left = pings
        self.home = home
        self.me = pa.ref(Player, pa.self_())
        self.pinged = 0
        self.players: list[Player] = []

    @pa.cast
    def begin(self, players: list[Player]) -> None:
        self.players = players
        self._go_on()

    @pa.cast
    def ping(self, sender: Player) -> None:
        self.pinged += 1
        sender.pong(self.me)

    @pa.cast
    def pong(self, sender: Player) -> None:
        expect("who answers", self.asked, sender)
        self._go_on()

    def _go_on(self) -> None:
        if self.left == 0:
            pa.send(self.home, "done")
            return
        self.left -= 1
        self.asked = self.random.choice(self.players)
        self.asked.ping(self.me)

    @pa.call
    def times_pinged(self) -> int:
        return self.pinged


def run(actors: int, pings: int) -> None:
    players = [
        pa.options(worker=seed % pa.worker_count()).start_link(Player, seed, pings, pa.self_())
        for seed in range(actors)
    ]
    for player in players:
        player.begin(players)
    for _ in players:
        pa.receive("done")
    randoms = [Random(seed) for seed in range(actors)]
    chosen = Counter(random.choice(range(actors)) for random in randoms for _ in range(pings))
    expect("pings of each", [chosen[number] for number in range(actors)], [player.times_pinged() for player in players])
    for player in players:
        pa.stop(player)
