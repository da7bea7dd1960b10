"""Recursive Matrix Multiplication: a product is split in eight, again and again, until its blocks are small.

The two matrices lie in memory that all workers share; a block of the product comes as a message.
"""

from __future__ import annotations

from array import array
from operator import mul
from typing import NamedTuple

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"size": 256, "block": 32, "actors": 20}
QUICK = {"size": 32, "block": 8, "actors": 4}


class Work(NamedTuple):
    """A square of the product, at row and column, but for the sum over a part of the inner index alone."""

    row: int
    column: int
    inner: int
    size: int


class Block(NamedTuple):
    row: int
    column: int
    rows: list[list[int]]


class Worker(pa.Actor):
    def __init__(self, master: pa.Pid, left: pa.Shared, right: pa.Shared, size: int, block: int) -> None:
        self.master = master
        self.left = memoryview(left).cast("B").cast("q")
        self.right = memoryview(right).cast("B").cast("q")
        self.size = size
        self.block = block

    @pa.cast
    def multiply(self, work: Work) -> None:
        if work.size > self.block:
            pa.send(self.master, self.parts(work))
        else:
            pa.send(self.master, Block(work.row, work.column, self.product(work)))

    def parts(self, work: Work) -> list[Work]:
        half = work.size // 2
        return [
            Work(work.row + row, work.column + column, work.inner + inner, half)
            for inner in (0, half)
            for row in (0, half)
            for column in (0, half)
        ]

    def product(self, work: Work) -> list[list[int]]:
        row, column, inner, size = work
        n = self.size
        rows = [self.left[n * i + inner : n * i + inner + size].tolist() for i in range(row, row + size)]
        # A column is each n-th number, from the first of its rows on.
        columns = [self.right[n * inner + j : n * (inner + size) : n].tolist() for j in range(column, column + size)]
        return [[sum(map(mul, left, right)) for right in columns] for left in rows]


def run(size: int, block: int, actors: int) -> None:
    left = pa.share(array("q", [i + k for i in range(size) for k in range(size)]))
    right = pa.share(array("q", [j - k for k in range(size) for j in range(size)]))
    indices = pa.worker_indices()
    workers = [
        pa.options(worker=indices[actor % len(indices)]).start_link(Worker, pa.self_(), left, right, size, block)
        for actor in range(actors)
    ]
    product = [[0] * size for _ in range(size)]
    workers[0].multiply(Work(0, 0, 0, size))
    sent, under_way = 1, 1
    while under_way:
        match pa.receive(list, Block):
            case Block(row, column, rows):
                for i, part in enumerate(rows, start=row):
                    for j, value in enumerate(part, start=column):
                        product[i][j] += value
                under_way -= 1
            case parts:
                for work in parts:
                    workers[sent % actors].multiply(work)
                    sent += 1
                under_way += len(parts) - 1
    for worker in workers:
        pa.stop(worker)

    # The sum of (i + k) * (j - k) over k.
    linear, square = size * (size - 1) // 2, (size - 1) * size * (2 * size - 1) // 6
    expected = [[size * i * j + (j - i) * linear - square for j in range(size)] for i in range(size)]
    expect("rows that are wrong", [], [i for i in range(size) if product[i] != expected[i]])
