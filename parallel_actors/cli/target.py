"""What `parallel-actors run` runs: `hello.py`, `hello.py:function`, `package.module` or `package.module:function`.

    >>> parse_target("json.tool:main").function
    'main'

The command line calls `parse_target`, which finds the file and looks for the function in its text, without running any
of it. The root sends the `Target` to every worker, which calls `prepare`; the one that runs the program calls `load`.

A file is imported under its own name (`hello.py` is the module `hello`, not `__main__`), with its directory first on
`sys.path`, so that every worker imports its functions and classes by name. Hence `if __name__ == "__main__":` blocks
don't run.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, Literal

__all__ = ["Target", "UsageError", "load", "parse_target", "prepare"]

DEFAULT_FUNCTION = "main"

# What a worker has imported before it loads the program: a program of that name would never be found.
_OURS = frozenset({"parallel_actors", "cloudpickle", "dill", "greenlet", "multiprocess", "psutil", "rich", "typer"})


class UsageError(Exception):
    """Raised when the command line asks for something that can't be run: exit code 2, and the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A function that a worker can find: where it stands, and what goes on `sys.path` for it."""

    kind: Literal["file", "module"]
    module: str
    """The name that it is imported under."""
    function: str
    directory: str
    """Goes first on `sys.path`: a file's own directory, the current one for a module (as with `python -m`)."""
    path: str | None
    """The module's file, for `sys.argv[0]`; None where it has none (a built-in or zipped module)."""

    def __str__(self) -> str:
        return f"{self.path if self.kind == 'file' else self.module}:{self.function}"


def parse_target(text: str) -> Target:
    """The target that `text` names, found but not run.

    Raises UsageError when there is no such file, module or function (with the closest name that there is), and
    SyntaxError when the file isn't Python.
    """
    place, colon, function = text.rpartition(":")
    if not colon:
        place, function = text, DEFAULT_FUNCTION
    if not place or not function.isidentifier():
        raise UsageError(
            f"expected FILE.py, FILE.py:FUNCTION, MODULE or MODULE:FUNCTION, got {text!r}; "
            "a function is named without parentheses or dots"
        )
    find = _find_file if place.endswith(".py") or os.sep in place else _find_module
    target = find(place, function)
    if target.path is not None and target.path.endswith(".py"):
        _check_function(Path(target.path), function)
    return target


# --- finding ---------------------------------------------------------------------------------------------------------


def _find_file(place: str, function: str) -> Target:
    path = Path(place).absolute()
    if path.is_dir():
        raise UsageError(
            f"expected a .py file, got the directory {place!r}; name a file in it, or write package.module"
        )
    if path.suffix != ".py":
        raise UsageError(f"expected a .py file, got {place!r}; a module is written package.module")
    if not path.is_file():
        nearby = [entry.name for entry in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = _nearest(path.name, nearby)
        hint = f"did you mean {os.path.join(os.path.dirname(place), near)}?" if near else f"looked in {path.parent}"
        raise UsageError(f"expected a file that exists, got {place!r}; {hint}")
    name = path.stem
    if taken := _why_taken(name):
        raise UsageError(f"expected a file that can be imported under its own name, but {taken}; rename {place!r}")
    found = PathFinder.find_spec(name, [str(path.parent)])
    origin = found.origin if found else None
    if origin != str(path):
        raise UsageError(f"expected `import {name}` to find {place!r}, but it finds {origin}; rename one of them")
    return Target("file", name, function, str(path.parent), str(path))


def _why_taken(name: str) -> str | None:
    if "." in name:
        return f"{name!r} has a dot in it, which separates packages"
    if name in ("__main__", "__init__"):
        return f"{name!r} is Python's own name for a part of a package (try `package.module:function`)"
    if name in sys.stdlib_module_names:
        return f"{name!r} is a module of Python's standard library"
    if name in _OURS:
        return f"{name!r} is a module that every worker has imported already"
    return None


def _find_module(place: str, function: str) -> Target:
    directory = str(Path.cwd())
    if not all(part.isidentifier() for part in place.split(".")):
        hint = "is it a file? its name must end in .py" if Path(place).exists() else "write it as package.module"
        raise UsageError(f"expected a module's name, got {place!r}; {hint}")
    spec = _spec_of(place, directory)
    if spec is None:
        if Path(place).is_dir():
            hint = f"the directory {place!r} holds no Python module of that name"
        elif Path(f"{place}.py").is_file():
            hint = f"did you mean {place}.py?"
        else:
            hint = "looked in the current directory and on sys.path; is it installed in this environment?"
        raise UsageError(f"expected a module that can be imported, got {place!r}; {hint}")
    if spec.loader is None:
        raise UsageError(f"expected a module, got {place!r}, a directory without __init__.py; name a module in it")
    return Target("module", place, function, directory, spec.origin if spec.has_location else None)


def _spec_of(name: str, directory: str) -> ModuleSpec | None:
    """As `importlib.util.find_spec`, but without importing (that is, running) the packages above the module."""
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    for depth, part in enumerate(parts := name.split("."), start=1):
        if depth == 1:
            spec = BuiltinImporter.find_spec(part) or FrozenImporter.find_spec(part)
            spec = spec or PathFinder.find_spec(part, [directory, *sys.path]) or _from_other_finders(part)
        else:
            spec = PathFinder.find_spec(".".join(parts[:depth]), path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return spec


def _from_other_finders(name: str) -> ModuleSpec | None:
    """What only a finder of somebody else's knows, such as an editable install's."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is not None and (spec := find(name, None, None)) is not None:
            return spec  # type: ignore[no-any-return]
    return None


# --- looking for the function ----------------------------------------------------------------------------------------


def _check_function(path: Path, function: str) -> None:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"expected a file that can be read, got {str(path)!r}: {error.strerror}") from error
    names = set(_bound_names(ast.parse(source, str(path)).body))
    if function in names or names & {"*", "__getattr__"}:
        return
    if near := _nearest(function, names):
        hint = f"did you mean {path.name}:{near}?"
    elif function == DEFAULT_FUNCTION:
        hint = f"define `def {DEFAULT_FUNCTION}() -> None:`, or name another function as {path.name}:FUNCTION"
    else:
        hint = f"it defines {', '.join(sorted(names)) or 'nothing'}"
    raise UsageError(f"expected a function {function!r} in {str(path)!r}, which has none; {hint}")


def _bound_names(body: Sequence[ast.AST]) -> Iterator[str]:
    """The names that a module's statements bind, whichever branch is taken; `*` stands for a star import."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif not isinstance(node, ast.Lambda):
            yield from _bound_names(list(ast.iter_child_nodes(node)))


def _nearest(name: str, names: Iterable[str]) -> str | None:
    from difflib import get_close_matches  # only a mistake needs it

    return next(iter(get_close_matches(name, list(names), n=1)), None)


# --- in the worker ---------------------------------------------------------------------------------------------------


def prepare(target: Target, args: Sequence[str] = ()) -> None:
    """Make a worker ready for the program: its directory is first on `sys.path`, and `sys.argv` is `[path, *args]`.

    Every worker calls it before it runs anything of the program; calling it again changes nothing.
    """
    if sys.path[:1] != [target.directory]:
        sys.path.insert(0, target.directory)
    sys.argv[:] = [target.path or target.module, *args]


def load(target: Target, args: Sequence[str] = ()) -> Callable[[], Any]:
    """Import the program in this worker and return what to call: its function, plain or `async`; or the application.

    The function takes nothing, or one list: the arguments that stood behind the target on the command line (they are in
    `sys.argv[1:]` too). Then the list is bound, so that what is returned takes nothing in any case.

    Raises what the program raises while it is imported, ImportError when another module has its name, AttributeError
    when it has no such function after all, and TypeError when it can't be called so.
    """
    prepare(target, args)
    module = importlib.import_module(target.module)
    origin = getattr(module, "__file__", None)
    if target.kind == "file" and origin != target.path:
        raise ImportError(
            f"expected `import {target.module}` to load {target.path}, got {origin or module!r}, which this worker had "
            f"imported before; rename {os.path.basename(target.path or '')}",
            name=target.module,
            path=target.path,
        )
    from parallel_actors.application import Application  # only workers need it

    function = getattr(module, target.function)
    if not callable(function):
        raise TypeError(f"expected {target} to be a function, got {type(function).__name__}: {function!r}")
    if isinstance(function, type) and issubclass(function, Application):
        return function
    if _takes_arguments(function, target):
        return partial(function, list(args))
    return function  # type: ignore[no-any-return]


def _takes_arguments(function: Callable[..., Any], target: Target) -> bool:
    try:
        signature = inspect.signature(function)
    except ValueError:  # a built-in that doesn't tell
        return False
    try:
        signature.bind()
    except TypeError:
        try:
            signature.bind([])
        except TypeError:
            raise TypeError(
                f"expected {target} to take nothing or one list of arguments, got {target.function}{signature}"
            ) from None
        return True
    return False
