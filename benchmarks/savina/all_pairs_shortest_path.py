"""All-Pairs Shortest Path: Floyd and Warshall's algorithm, each block of the matrix an actor.

At each step it needs a row and a column from others.
"""

from __future__ import annotations

from random import Random

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"nodes": 200, "block": 40}
QUICK = {"nodes": 20, "block": 5}

MOST = 100  # the weight of an edge


class Block(pa.Actor):
    """The distances from some nodes to some others."""

    def __init__(self, master: pa.Pid, row: int, column: int, rows: list[list[int]], nodes: int) -> None:
        self.master = master
        self.row, self.column = row, column
        self.rows = rows
        self.nodes = nodes
        self.begun = False
        self.step = 0
        self.from_step: dict[int, list[int]] = {}  # what others sent: distances from the node of a step
        self.to_step: dict[int, list[int]] = {}  # and to it

    @pa.cast
    def begin(self, same_row: list[Block], same_column: list[Block]) -> None:
        self.same_row, self.same_column = same_row, same_column
        self.begun = True
        self.advance()

    @pa.cast
    def distances_from(self, node: int, distances: list[int]) -> None:
        self.from_step[node] = distances
        self.advance()

    @pa.cast
    def distances_to(self, node: int, distances: list[int]) -> None:
        self.to_step[node] = distances
        self.advance()

    def advance(self) -> None:
        """Take as many steps as what is known allows."""
        if not self.begun:  # others were told before
            return
        size = len(self.rows)
        while self.step < self.nodes:
            step = self.step
            block, place = divmod(step, size)
            if block == self.row and step not in self.from_step:
                self.from_step[step] = self.rows[place]
                for other in self.same_column:
                    other.distances_from(step, self.rows[place])
            if block == self.column and step not in self.to_step:
                self.to_step[step] = [row[place] for row in self.rows]
                for other in self.same_row:
                    other.distances_to(step, self.to_step[step])
            if step not in self.from_step or step not in self.to_step:
                return
            onward = self.from_step.pop(step)
            self.rows = [
                [old if old < (new := there + on) else new for old, on in zip(row, onward, strict=True)]
                for row, there in zip(self.rows, self.to_step.pop(step), strict=True)
            ]
            self.step += 1
        pa.send(self.master, (self.row, self.column, self.rows))


def dijkstra(weights: list[list[int]], source: int) -> list[int]:
    distances = list(weights[source])
    left = set(range(len(weights))) - {source}
    while left:
        nearest = min(left, key=distances.__getitem__)
        left.remove(nearest)
        distances = [min(old, distances[nearest] + on) for old, on in zip(distances, weights[nearest], strict=True)]
    return distances


def run(nodes: int, block: int) -> None:
    random = Random(7)
    weights = [[0] * nodes for _ in range(nodes)]
    for i in range(nodes):
        for j in range(i):
            weights[i][j] = weights[j][i] = random.randint(1, MOST)
    indices, across = pa.worker_indices(), range(nodes // block)
    blocks = [
        [
            pa.options(worker=indices[(row + column) % len(indices)]).start_link(
                Block,
                pa.self_(),
                row,
                column,
                [weights[i][column * block : (column + 1) * block] for i in range(row * block, (row + 1) * block)],
                nodes,
            )
            for column in across
        ]
        for row in across
    ]
    for row in across:
        for column in across:
            blocks[row][column].begin(
                [blocks[row][other] for other in across if other != column],
                [blocks[other][column] for other in across if other != row],
            )
    distances = [[0] * nodes for _ in range(nodes)]
    for _ in range(len(across) ** 2):
        row, column, rows = pa.receive((int, int, list))
        for i, part in enumerate(rows, start=row * block):
            distances[i][column * block : (column + 1) * block] = part
    for row in across:
        for column in across:
            pa.stop(blocks[row][column])
    for source in range(0, nodes, block):
        expect(f"the distances from node {source}", dijkstra(weights, source), distances[source])
    expect("whether it is as far back", True, distances == [list(column) for column in zip(*distances, strict=True)])
