"""`python -m benchmarks.savina`: every program's result is as it has to be, and one that isn't is an error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
START = "import runpy; runpy.run_module('benchmarks.savina', run_name='__main__', alter_sys=True)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the benchmarks alone: beside them the package's sources would hide the one that is installed."""
    shutil.copytree(BENCHMARKS, tmp_path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def savina(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START, "--quick", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_program_has_the_right_result(no_leaks: None, folder: Path, workers: str) -> None:
    done = savina(folder, "--workers", workers, "--json", str(folder / "figures.json"))
    assert (0, "") == (done.returncode, done.stderr)
    assert "30 programs, each result as it has to be" in done.stdout
    assert (folder / "figures.json").stat().st_size > 0


def test_a_wrong_result_is_an_error(no_leaks: None, folder: Path) -> None:
    broken = folder / "benchmarks" / "savina" / "counting.py"
    broken.write_text(broken.read_text().replace("self.count += 1", "self.count += 2"))
    done = savina(folder, "--workers", "1", "counting")
    assert done.returncode == 1
    assert "Wrong: the count: expected 1000, got 2000" in done.stderr


def test_a_program_that_is_not_there(folder: Path) -> None:
    done = savina(folder, "ping-pong")
    assert done.returncode == 2
    assert "expected the name of a program, got 'ping-pong'; known are ping_pong, counting," in done.stderr
