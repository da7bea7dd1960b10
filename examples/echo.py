"""A process that answers what it gets: the receive loop that all others are built on.

    parallel-actors run examples/echo.py
    parallel-actors run examples/echo.py hi there

It shows `spawn`, `send`, `receive` with `match`, and a reply that is waited for among other mail.
"""

from __future__ import annotations

import argparse

import parallel_actors as pa


def echo() -> None:
    """Answer (sender, text) until told to stop."""
    while True:
        match pa.receive():
            case (sender, text):
                pa.send(sender, (pa.self_(), f"you said: {text}"))
            case "stop":
                return


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="echo.py", description="Say something to a process that answers.")
    parser.add_argument("words", metavar="WORD", nargs="*", default=["hi"], help="what to say (default: hi)")
    words = parser.parse_args(args).words

    pid, ref = pa.spawn_monitor(echo)  # returns at once; runs on the least loaded core
    for word in words:
        pa.send(pid, (pa.self_(), word))
        _, answer = pa.receive((pid, str), timeout=10)  # the first message of this shape; other mail waits
        print(answer)
    pa.send(pid, "stop")
    down = pa.receive(pa.Down, timeout=10)
    assert down.ref == ref
    print(f"it ended: {down.reason}")
