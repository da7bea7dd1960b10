"""The command `parallel-actors`, also `python -m parallel_actors`.

`main` is all that is here: workers import `parallel_actors.cli.target`, and must not pay for the command line's own
libraries.

    app.py      the commands and their options (typer)
    plain.py    `run` as it is mostly written, without typer
    run.py      `run`: from its options to the root
    target.py   what `run` runs: read and checked here, loaded in a worker
    doctor.py   `doctor`

`bench` is a package of its own, `parallel_actors.bench`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code: 0, 1 (failed), 2 (wrong usage) or 130 (Ctrl-C).

    `args` replaces `sys.argv[1:]`. It ends in SystemExit in every case.
    """
    if args is None:  # this OS process is the command, and ends with it
        _command(sys.argv[1:])
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        _command(args)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _command(args: Sequence[str]) -> NoReturn:
    from parallel_actors.cli.plain import run_plainly

    code = run_plainly(args)
    if code is not None:
        sys.exit(code)
    from parallel_actors.cli.app import app

    app(args=args, prog_name="parallel-actors")
    raise AssertionError("the command line returned instead of leaving with an exit code")
