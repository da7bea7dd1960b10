"""Which package is under test: the one that tox installed, not the folder of sources beside the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import parallel_actors

SOURCES = Path(__file__).parent.parent

# Set by tox. Without it (an editable install, `build_ext --inplace`) the package is the folder, and rightly so.
installed_only = pytest.mark.skipif(
    "TEST_INSTALLED_PACKAGE" not in os.environ, reason="only tox installs the package apart from its sources"
)


@installed_only
def test_the_installed_package_is_tested() -> None:
    package = Path(parallel_actors.__file__).resolve()
    assert package.is_relative_to(Path(sys.prefix).resolve())
    assert not (package.is_relative_to(SOURCES) and package.parent.parent == SOURCES)


@installed_only
@pytest.mark.parametrize("how", [["-c", "{code}"], ["-m", "runpy_of_test"]])
def test_other_interpreters_import_the_same_package(how: list[str], tmp_path: Path) -> None:
    code = "import parallel_actors; print(parallel_actors.__file__)"
    (tmp_path / "runpy_of_test.py").write_text(code)
    done = subprocess.run(
        [sys.executable, *(word.format(code=code) for word in how)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert f"{parallel_actors.__file__}\n" == done.stdout


def test_the_engine_has_one_name() -> None:
    # In an interpreter of its own: all modules are imported, whatever the other tests did.
    code = (
        "import importlib, pkgutil, sys, parallel_actors\n"
        "for module in pkgutil.walk_packages(parallel_actors.__path__, 'parallel_actors.'):\n"
        "    if not module.name.endswith('.__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    modules = done.stdout.split()
    assert "parallel_actors.workers.scheduler" in modules
    assert [] == [name for name in modules if name.partition(".")[0] == "workers"]
    assert "workers" not in sys.modules


@pytest.mark.skipif(
    not (SOURCES / ".git").is_dir() or shutil.which("git") is None, reason="only a clone says what the repository holds"
)
def test_the_repository_holds_nothing_large() -> None:
    """It held a core dump once."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=SOURCES, capture_output=True, check=True, text=True)
    files = [SOURCES / name for name in listed.stdout.split("\0") if name]
    assert [file for file in files if file.is_file() and file.stat().st_size > 1 << 20] == []
