"""What `import parallel_actors` imports, and what it leaves for later; every name is there all the same."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import parallel_actors as pa
from puppets import puppet


def fresh(code: str) -> list[str]:
    """What a fresh interpreter prints for `code`, in words."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.split()


def imports_for_type_checkers() -> dict[str, str]:
    """The names that `parallel_actors/__init__.py` imports under `if TYPE_CHECKING`, and their modules."""
    (block,) = [
        node
        for node in ast.parse(Path(pa.__file__).read_text()).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


LATER = imports_for_type_checkers()


def test_the_import_brings_little() -> None:
    imported = set(fresh("import sys, parallel_actors; print(*sys.modules)"))
    unwanted = {
        *("asyncio", "concurrent.futures", "difflib", "json", "multiprocess", "multiprocessing", "numpy", "pydantic"),
        *("dill", "random", "rich", "selectors", "socket", "subprocess", "typer", "decimal", "fractions", "zoneinfo"),
        *(module for module in LATER.values() if module != "parallel_actors"),
    }
    assert "parallel_actors.workers.scheduler" in imported
    assert set() == unwanted & imported


def test_every_public_name_is_there_from_the_start() -> None:
    code = (
        "import parallel_actors as pa\nnames = set(dir(pa))\nprint(*names)\n"
        "from parallel_actors import *\nassert all(globals()[name] is getattr(pa, name) for name in pa.__all__)"
    )
    assert set(pa.__all__) <= set(fresh(code))


def test_a_module_is_there_without_an_import_of_its_own() -> None:
    assert ["Settings", "Supervisor"] == fresh(
        "import parallel_actors as pa; print(pa.config.Settings.__name__, pa.supervisor.Supervisor.__name__)"
    )


@pytest.mark.parametrize("name", sorted(LATER))
def test_what_comes_later_is_what_type_checkers_see(name: str) -> None:
    place = LATER[name]
    is_module = place == "parallel_actors"
    module = importlib.import_module(f"{place}.{name}" if is_module else place)
    assert getattr(pa, name) is (module if is_module else vars(module)[name])


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="module 'parallel_actors' has no attribute 'Supervisors'"):
        pa.Supervisors  # type: ignore[attr-defined]  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ImportError, match="cannot import name 'Supervisors' from 'parallel_actors'"):
        exec("from parallel_actors import Supervisors")


def public_names_here() -> tuple[set[str], set[str]]:
    """The public names that have their values in this OS process already, and the modules that are imported."""
    return set(pa.__all__) & set(vars(pa)), set(sys.modules)


def test_a_worker_has_imported_everything_before_it_is_forked(node: pa.ActorSystem) -> None:
    names, modules = puppet(1).do(public_names_here)
    assert set(pa.__all__) == names
    assert {*LATER.values()} <= modules
    assert "parallel_actors.cli.target" in modules
    assert not puppet(1).do(hasattr, pa, "__getattr__"), "each `pa.send` would cost 20 ns more"
