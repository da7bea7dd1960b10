"""A game server: players queue, a matchmaker pairs them every five seconds, and each match has a referee of its own.

    parallel-actors run examples/game_server.py --matches 8
    parallel-actors run --log-level CRITICAL examples/game_server.py --interval 0.01 --matches 200

    main -> one supervisor, "rest_for_one": who was started later goes down with what it relies on
      ratings      the table: who won, who lost, and what that is worth
      matchmaker   looks at its queue at each tick, pairs neighbours by rating, and starts their referee
      matches      a DynamicSupervisor, whose children are the referees: one process for one match, never restarted
      players      a supervisor of one process for each player (in a real server: one for each connection)

A player enters the queue when it starts, and after each match. Connections are bad today: now and then a player's
process crashes over its move. Its referee sees the call fail and gives the match to the other; its supervisor starts it
again, and so it queues again. Nobody else notices.

It ends after `--matches` matches, prints the table, and checks it: no match is missing or was counted twice, and no
point of rating came from nowhere.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import parallel_actors as pa

NAMES = ["ada", "alan", "barbara", "edsger", "grace", "joe", "mike", "robert"]
START = 1000
BEATS = {("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")}

Move = Literal["rock", "paper", "scissors"]
MOVES: list[Move] = ["rock", "paper", "scissors"]


class Entry(NamedTuple):
    """A player in the queue. `player` is where to reach it: the seed's "channel pid"."""

    name: str
    player: Player


# --- ratings ----------------------------------------------------------------------------------------------------------


@dataclass
class Score:
    """One line of the table."""

    rating: int = START
    won: int = 0
    lost: int = 0


class Ratings(pa.Actor):
    """Keeps the table. A match is one call, so it counts wholly or not at all."""

    def __init__(self, names: list[str]) -> None:
        self.scores = {name: Score() for name in names}

    @pa.call
    def record(self, winner: str, loser: str) -> None:
        first, second = self.scores[winner], self.scores[loser]
        expected = 1 / (1 + 10 ** ((second.rating - first.rating) / 400))  # Elo's
        points = round(32 * (1 - expected))
        first.rating += points
        second.rating -= points
        first.won += 1
        second.lost += 1

    @pa.call
    def table(self) -> dict[str, Score]:
        return self.scores


# --- a match ----------------------------------------------------------------------------------------------------------


def referee(one: Entry, other: Entry) -> None:
    """Have one match played, and its result recorded."""
    pa.receive("begin")
    winner = winner_of(one, other)
    loser = other if winner is one else one
    pa.ref(Ratings, "ratings").record(winner.name, loser.name)
    for each in (winner, loser):
        each.player.over(won=each is winner)


def winner_of(one: Entry, other: Entry) -> Entry:
    """Ask both for their moves until one beats the other; who is gone has lost."""
    while True:
        first, second = move_of(one), move_of(other)
        if first is None and second is None:
            raise pa.ProcessExit(pa.Shutdown("nobody is left"))
        if second is None or (first, second) in BEATS:
            return one
        if first is None or (second, first) in BEATS:
            return other


def move_of(entry: Entry) -> Move | None:
    """The player's move; None: its process has crashed, or its worker has."""
    try:
        return entry.player.move()
    except pa.ActorError:
        return None


class Matchmaker(pa.Actor):
    """Pairs those who wait, every `interval` seconds, until there were enough matches."""

    def __init__(self, interval: float, matches: int) -> None:
        self.left = matches  # to be started
        self.queue: dict[str, Entry] = {}  # by name: who comes back after a crash takes its own place
        self.running: dict[pa.Pid, tuple[Entry, Entry]] = {}  # by referee
        self.waiting: list[pa.ReplyTo[None]] = []
        pa.send_interval(interval, pa.self_(), "tick")

    @pa.cast
    def enter(self, entry: Entry) -> None:
        self.queue[entry.name] = entry

    @pa.call_later
    def finished(self, to: pa.ReplyTo[None]) -> None:
        """Answered when all matches have been played."""
        self.waiting.append(to)
        self._look()

    @pa.info("tick")
    def tick(self, _: str) -> None:
        table = pa.ref(Ratings, "ratings").table()
        entries = sorted(self.queue.values(), key=lambda entry: table[entry.name].rating)
        for pair in zip(entries[::2], entries[1::2], strict=False):  # who is left over waits for the next tick
            if self.left:
                self._start(pair)

    def _start(self, pair: tuple[Entry, Entry]) -> None:
        for entry in pair:
            del self.queue[entry.name]
        pid = pa.DynamicSupervisor.start_child("matches", pa.child(referee, *pair, restart="temporary"))
        assert pid is not None
        pa.monitor(pid)
        pa.send(pid, "begin")  # not before: of one that had ended by then, the monitor would only say "noproc"
        self.running[pid] = pair
        self.left -= 1

    @pa.info(pa.Down)
    def match_over(self, down: pa.Down) -> None:
        pair = self.running.pop(down.pid)
        if down.reason != "normal":  # no result: another one instead
            self.left += 1
            for entry in pair:
                self.queue.setdefault(entry.name, entry)
        self._look()

    def _look(self) -> None:
        if not self.left and not self.running:
            for to in self.waiting:
                to.reply(None)
            self.waiting.clear()


# --- players ----------------------------------------------------------------------------------------------------------


class Player(pa.Actor):
    """One player. Its connection, and with it this process, crashes at one of so many moves."""

    def __init__(self, name: str, crash_rate: float) -> None:
        self.name = name
        self.crash_rate = crash_rate
        self._enter()

    @pa.call
    def move(self) -> Move:
        if random.random() < self.crash_rate:
            raise ConnectionError(f"{self.name} has lost the connection")
        return random.choice(MOVES)

    @pa.cast
    def over(self, won: bool) -> None:
        """The match has ended: play another."""
        self._enter()

    def _enter(self) -> None:
        pa.ref(Matchmaker, "matchmaker").enter(Entry(self.name, pa.ref(Player, pa.self_())))


class Players(pa.Supervisor):
    """The players; a crash is all in a day's work here, so there may be any number of them."""

    def init(self, names: list[str], crash_rate: float) -> Any:
        return self.supervise([pa.child(Player, name, crash_rate, id=name) for name in names], max_restarts=1_000_000)


# --- the server -------------------------------------------------------------------------------------------------------


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="game_server.py", description="Players, matches, referees, ratings.")
    parser.add_argument("--matches", type=int, default=20, help="how many to play (default 20)")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds from one pairing to the next (default 5)")
    parser.add_argument("--crash-rate", type=float, default=0.05, help="crashes per move (default 0.05)")
    options = parser.parse_args(args)
    pa.Supervisor.start_link(
        [
            pa.child(Ratings, NAMES, name="ratings"),
            pa.child(Matchmaker, options.interval, options.matches, name="matchmaker"),
            pa.child(pa.DynamicSupervisor, name="matches"),
            pa.child(Players, NAMES, options.crash_rate, name="players"),
        ],
        strategy="rest_for_one",
    )
    pa.ref(Matchmaker, "matchmaker").finished.options(timeout=None)()
    scores = pa.ref(Ratings, "ratings").table()

    print(f"{options.matches} matches\n\nplayer   rating  won  lost")
    for name, score in sorted(scores.items(), key=lambda item: -item[1].rating):
        print(f"{name:8} {score.rating:6} {score.won:4} {score.lost:5}")
    won, lost = sum(score.won for score in scores.values()), sum(score.lost for score in scores.values())
    points = sum(score.rating for score in scores.values())
    if (won, lost, points) != (options.matches, options.matches, START * len(NAMES)):
        sys.exit(f"expected each match to be won and lost once, got {won} and {lost}, and {points} points in all")
    print(f"\neach match was won once and lost once; {points} points in all, as at the start")
