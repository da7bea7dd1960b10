"""N-Queens, the first N solutions: workers place a queen and hand the boards back, until a few rows are filled, then
search the rest alone. The master hands out boards and counts."""

from __future__ import annotations

from collections.abc import Iterator

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"size": 10, "threshold": 4, "actors": 20}
QUICK = {"size": 6, "threshold": 2, "actors": 4}

SOLUTIONS = (1, 1, 0, 0, 2, 10, 4, 40, 92, 352, 724, 2680, 14200, 73712)

Board = tuple[int, ...]  # the columns of the queens, row by row


def with_one_more(board: Board, size: int) -> Iterator[Board]:
    """The boards with a queen in the next row that no other one threatens."""
    row = len(board)
    for column in range(size):
        if all(other != column and abs(other - column) != row - at for at, other in enumerate(board)):
            yield (*board, column)


class Worker(pa.Actor):
    def __init__(self, master: pa.Pid, size: int, threshold: int) -> None:
        self.master = master
        self.size = size
        self.threshold = threshold

    @pa.cast
    def search(self, board: Board) -> None:
        if len(board) < self.threshold:
            for larger in with_one_more(board, self.size):
                pa.send(self.master, ("work", larger))
        else:
            self.search_alone(board)
        pa.send(self.master, "done")

    def search_alone(self, board: Board) -> None:
        if len(board) == self.size:
            pa.send(self.master, "solution")
            return
        for larger in with_one_more(board, self.size):
            self.search_alone(larger)


def run(size: int, threshold: int, actors: int) -> None:
    indices = pa.worker_indices()
    workers = [
        pa.options(worker=indices[actor % len(indices)]).start_link(Worker, pa.self_(), size, threshold)
        for actor in range(actors)
    ]
    workers[0].search(())
    sent, done, solutions = 1, 0, 0
    while done < sent:
        match pa.receive():
            case ("work", board):
                workers[sent % actors].search(board)
                sent += 1
            case "solution":
                solutions += 1
            case "done":
                done += 1
    for worker in workers:
        pa.stop(worker)
    expect("the number of solutions", SOLUTIONS[size], solutions)
