"""ZeroMQ by pyzmq, over `ipc`: PAIR for calls and payload, which isn't copied where it needn't be; PUSH for casts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import zmq

from benchmarks.peers import calls_asleep, cross_calls, exchanges, expect

__all__ = ["TESTS", "version"]

UNBOUNDED = 0  # a high-water mark: casts wait for nobody


def version() -> str:
    return f"{zmq.__version__}, libzmq {zmq.zmq_version()}"


@contextmanager
def child() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """Our sockets of a process that answers: a PAIR and a PUSH. An empty message by the PAIR ends it."""
    with tempfile.TemporaryDirectory() as folder, zmq.Context() as context:
        pair, push = context.socket(zmq.PAIR), context.socket(zmq.PUSH)
        with pair, push:
            push.set_hwm(UNBOUNDED)
            pair.bind(f"ipc://{folder}/pair")
            push.bind(f"ipc://{folder}/push")
            process = get_context("spawn").Process(target=answer, args=(folder,))
            process.start()
            try:
                expect("the first word", b"ready", pair.recv())
                yield pair, push
            finally:
                pair.send(b"")
                process.join()


def answer(folder: str) -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as pair, context.socket(zmq.PULL) as pull:
        pull.set_hwm(UNBOUNDED)
        pair.connect(f"ipc://{Path(folder)}/pair")
        pull.connect(f"ipc://{Path(folder)}/push")
        pair.send(b"ready")
        while data := pair.recv(copy=False).buffer:
            if data == b"ping":
                pair.send(b"pong")
            elif data == b"count":
                arrived = 0
                while pull.recv() != b"get":
                    arrived += 1
                pair.send(b"%d" % arrived)
            else:
                pair.send(b"%d" % len(data))


def cross_call(count: int) -> list[float]:
    with child() as (pair, _):

        def call() -> None:
            pair.send(b"ping")
            pair.recv()

        return cross_calls(call, count)


def cross_call_asleep(count: int, pause_ms: int) -> list[float]:
    with child() as (pair, _):

        def call() -> None:
            pair.send(b"ping")
            pair.recv()

        return calls_asleep(call, count, pause_ms)


def cross_cast(count: int) -> list[float]:
    with child() as (pair, push):
        pair.send(b"count")
        began = time.perf_counter()
        for _ in range(count):
            push.send(b"inc")
        push.send(b"get")
        arrived = int(pair.recv())
        seconds = time.perf_counter() - began
    expect("the casts that arrived", count, arrived)
    return [count / seconds]


def payload(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    with child() as (pair, _):

        def exchange() -> int:
            pair.send(data, copy=True)  # it may change later
            return int(pair.recv())

        return exchanges(exchange, size, count)


def payload_bytes(size: int, count: int) -> list[float]:
    data = bytearray(b"\7") * size
    with child() as (pair, _):

        def exchange() -> int:
            pair.send(bytes(data), copy=False)
            return int(pair.recv())

        return exchanges(exchange, size, count)


def payload_shared(size: int, count: int) -> list[float]:
    data = b"\7" * size
    with child() as (pair, _):

        def exchange() -> int:
            pair.send(data, copy=False)
            return int(pair.recv())

        return exchanges(exchange, size, count)


TESTS = {
    "cross_call": cross_call,
    "cross_call_asleep": cross_call_asleep,
    "cross_cast": cross_cast,
    "payload": payload,
    "payload_bytes": payload_bytes,
    "payload_shared": payload_shared,
}
