"""`parallel-actors run`: the target is found and checked here, then the root takes over.

This is the path that every start of a program takes: nothing is imported here that it doesn't need.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

from parallel_actors.cli.target import UsageError, parse_target
from parallel_actors.config import resolve_from

__all__ = ["run"]


class More(TypedDict, total=False):
    """What else the command can be told; see `run_program`."""

    env: tuple[str, ...]
    reload: bool


def run(text: str, args: Sequence[str], settings: Mapping[str, object], **more: Unpack[More]) -> int:
    """Run the program `text` and return the exit code of the command.

    Raises UsageError for what can't be run, and for settings that don't fit.
    """
    try:
        options = resolve_from(settings, _option)
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        target = parse_target(text)
    except SyntaxError as error:
        # As Python shows it, and as Python leaves: the command was right, the program isn't.
        traceback.print_exception(error.with_traceback(None), limit=0, chain=False)
        return 1
    from parallel_actors.root import run_program

    return run_program(target, list(args), options, **more)


def _option(name: str) -> str:
    return f"option --{name.replace('_', '-')}"
