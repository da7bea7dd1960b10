"""Unbalanced Cobwebbed Tree: nodes ask the root whether they may have children, then all are visited. Many processes.

The visit begins when every node has asked, so that it meets all of them.
"""

from __future__ import annotations

import random

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"nodes": 20_000, "children": 10, "work": 500, "deviation": 100}
QUICK = {"nodes": 100, "children": 4, "work": 20, "deviation": 5}

ASKING = 100  # what a node does before it asks
URGENT = 50  # percent of those with children
SEED = 2


def busy(rounds: int) -> int:
    done = 0
    for _ in range(rounds):
        done += 1
    return done


def node(number: int, work: int, root: pa.Pid) -> None:
    busy(ASKING)
    pa.send(root, ("may I?", pa.self_()))
    children: list[pa.Pid] = []
    while True:
        match pa.receive():
            case ("grow", first, count, their_work, urgent):
                children = [pa.spawn_link(node, first + place, their_work, root) for place in range(count)]
                if urgent is not None:
                    children.insert(0, children.pop(urgent))  # visited before its siblings
            case "visit":
                done = busy(work)
                for child in children:
                    pa.send(child, "visit")
                pa.send(root, ("visited", number, done))
            case "end":
                for child in children:
                    pa.send(child, "end")
                pa.send(root, "ended")
                return


def work_of(numbers: random.Random, mean: int, deviation: int) -> int:
    while (work := round(numbers.gauss(mean, deviation))) < 1:
        pass
    return work


def run(nodes: int, children: int, work: int, deviation: int) -> None:
    me = pa.self_()
    numbers = random.Random(SEED)
    their_work = work_of(numbers, work, deviation)
    top = [pa.spawn_link(node, 1 + place, their_work, me) for place in range(children)]
    size = 1 + children
    all_work = children * their_work
    asked = 1  # the root doesn't
    while asked < size:
        _, asker = pa.receive(("may I?", pa.Pid))
        asked += 1
        if size + children <= nodes and numbers.random() < 0.5:
            their_work = work_of(numbers, work, deviation)
            urgent = numbers.randrange(children) if numbers.randrange(100) < URGENT else None
            pa.send(asker, ("grow", size, children, their_work, urgent))
            size += children
            all_work += children * their_work

    for child in top:
        pa.send(child, "visit")
    visits = [pa.receive(("visited", int, int)) for _ in range(size - 1)]
    for child in top:
        pa.send(child, "end")
    for _ in visits:
        pa.receive("ended")
    expect("the size of the tree", 1 + (nodes - 1) // children * children, size)
    expect("who was visited", list(range(1, size)), sorted(number for _, number, _ in visits))
    expect("the work", all_work, sum(done for _, _, done in visits))
