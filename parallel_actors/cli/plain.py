"""`parallel-actors run` as it is mostly written, read without typer: that takes longer to import than the root does.

`read` knows the options of `run` (app.py) in their plain forms. Whatever else stands there, a mistake above all, it
leaves to typer: help and errors are typer's alone.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence

from parallel_actors.cli.run import run
from parallel_actors.cli.target import UsageError

__all__ = ["read", "run_plainly"]

_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)
_WORD = re.compile(r"[A-Za-z]+", re.ASCII)
_VALUES: dict[str, tuple[str, re.Pattern[str], Callable[[str], object]]] = {
    "-w": ("workers", _COUNT, int),
    "--workers": ("workers", _COUNT, int),
    "--log-level": ("log_level", _WORD, str),
    "--stop-timeout": ("stop_timeout", _SECONDS, float),
}
_FLAGS = {
    "--prefix-output": ("prefix_output", True),
    "--no-prefix-output": ("prefix_output", False),
    "--pin": ("pin", True),
    "--no-pin": ("pin", False),
}
# Set by the shell where it wants completions.
_COMPLETION = "_PARALLEL_ACTORS_COMPLETE"


def read(words: Sequence[str]) -> tuple[str, list[str], dict[str, object]] | None:
    """Target, arguments and settings of `run [OPTIONS] TARGET [ARGS]`; None if that isn't plainly what is written.

    >>> read(["run", "-w", "2", "hello.py", "-v"])
    ('hello.py', ['-v'], {'workers': 2})
    """
    if words[:1] != ["run"]:
        return None
    settings: dict[str, object] = {}
    rest = iter(words[1:])
    value: object
    for word in rest:
        if not word.startswith("-"):
            return (word, list(rest), settings) if word else None
        if word in _FLAGS:
            name, value = _FLAGS[word]
        else:
            option, equals, text = word.partition("=")
            if option not in _VALUES or (equals and not option.startswith("--")):
                return None
            name, form, convert = _VALUES[option]
            if not equals:
                text = next(rest, "")
            if not form.fullmatch(text):
                return None
            value = convert(text)
        if name in settings:
            return None
        settings[name] = value
    return None


def run_plainly(words: Sequence[str]) -> int | None:
    """Run the program, if `words` are plain, and return the exit code of the command; else None."""
    plain = None if _COMPLETION in os.environ else read(list(words))
    if plain is None:
        return None
    try:
        return run(*plain)
    except UsageError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        return 1
