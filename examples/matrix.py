"""A product of two matrices, block by block, by tasks on every core (needs NumPy).

    parallel-actors run examples/matrix.py                          512 x 512, in blocks of 128
    parallel-actors run examples/matrix.py -n 4096 --block 1024
    parallel-actors run -w 1 examples/matrix.py -n 4096             one worker, to compare

A block of the product needs a strip of each matrix, and nothing else: that is what its task is sent. What a task gets
and gives is copied, so blocks pay where the work in one (n * block * block) outweighs the strips (2 * n * block); each
worker's own BLAS has one thread. At the end NumPy multiplies the same matrices in one go, in the same process, and the
results are compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import parallel_actors as pa

Matrix = npt.NDArray[np.float64]


class Piece(NamedTuple):
    """One block of the product: where it is, and what it is made of."""

    row: int
    column: int
    left: Matrix
    right: Matrix


def pieces(a: Matrix, b: Matrix, block: int) -> Iterator[Piece]:
    """The blocks of `a @ b`. Each is cut out when it is asked for, so only those under way take memory."""
    for row in range(0, a.shape[0], block):
        for column in range(0, b.shape[1], block):
            yield Piece(row, column, a[row : row + block], b[:, column : column + block])


def multiplied(piece: Piece) -> tuple[int, int, Matrix]:
    """The task: one block."""
    return piece.row, piece.column, piece.left @ piece.right


def product(a: Matrix, b: Matrix, block: int) -> Matrix:
    """`a @ b`, on every core."""
    result = np.empty((a.shape[0], b.shape[1]))
    # In the order in which they come; the place of each is known.
    for row, column, part in pa.Task.async_stream(multiplied, pieces(a, b, block), ordered=False, timeout=None):
        result[row : row + part.shape[0], column : column + part.shape[1]] = part
    return result


def number(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="matrix.py", description="Multiply two matrices, block by block.")
    parser.add_argument("-n", "--size", metavar="N", type=number, default=512, help="rows and columns (default 512)")
    parser.add_argument("--block", metavar="N", type=number, default=128, help="of the blocks (default 128)")
    options = parser.parse_args(args)
    size, block = options.size, options.block
    generator = np.random.default_rng(1)
    a, b = generator.random((size, size)), generator.random((size, size))

    began = time.perf_counter()
    result = product(a, b, block)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    expected = a @ b
    plain = time.perf_counter() - began
    blocks = (-(-size // block)) ** 2
    print(f"{size} x {size} in {blocks} blocks, {pa.worker_count()} workers: {seconds:.3f} s")
    print(f"NumPy alone, one thread: {plain:.3f} s")
    if not np.allclose(result, expected, rtol=1e-12, atol=0.0):
        sys.exit(f"the products differ, by up to {np.abs(result - expected).max()}")
    print("the products are equal")
