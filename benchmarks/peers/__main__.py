"""The OS process of a peer: `python -m benchmarks.peers NAME [TEST NUMBER ...]`.

It speaks as `bench.erl` does: first its version; then each line of its input runs the test once, and is answered by a
line of figures. Without a test the second line names those that it has. What goes wrong is a line that begins with
`failed: `, and the end.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from contextlib import nullcontext

from benchmarks.peers import FAILED


def main() -> int:
    name, *words = sys.argv[1:]
    # Others print, too, and so do the OS processes that they start: all of it goes to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        peer = importlib.import_module(f"benchmarks.peers.{name.replace('-', '_')}")
        print(peer.version(), file=answers)
        if not words:
            print(*peer.TESTS, file=answers)
            return 0
        test, numbers = peer.TESTS[words[0]], [int(word) for word in words[1:]]
        with getattr(peer, "started", nullcontext)():
            for _ in sys.stdin:
                print(*test(*numbers), file=answers)
    except Exception as error:
        traceback.print_exc()
        print(f"{FAILED}{type(error).__name__}: {' '.join(str(error).split())}", file=answers)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
