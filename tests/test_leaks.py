"""The check that nothing is left behind sees what it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from leaks import Footprint, children, eventually


def test_an_orphan_is_found() -> None:
    """A stopped worker of a dead root, nobody's child, was left by a test of floods, and nothing said so."""
    before = Footprint()
    start = "subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0, stdout=subprocess.DEVNULL)"
    program = [sys.executable, "-c", f"import subprocess, sys; print({start}.pid)"]
    reader, writer = os.pipe()
    done = subprocess.run(program, stdin=reader, stdout=subprocess.PIPE, text=True, check=True)
    os.close(reader)
    orphan = int(done.stdout)
    try:
        assert orphan in children()
        assert [f"OS process {orphan}: {sys.executable} -c input()"] == [
            line for line in before.grown(Footprint()) if line.startswith("OS process")
        ]
    finally:
        os.kill(orphan, signal.SIGKILL)
        os.close(writer)
    eventually(lambda: orphan not in children(), "it is gone")
