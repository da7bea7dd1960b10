"""`python -m benchmarks.savina`: every program's result is as it has to be, and one that isn't is an error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From another folder: in this one the package's sources would hide the one that is installed.
START = (
    "import runpy, sys; sys.path.append({root!r}); "
    "runpy.run_module('benchmarks.savina', run_name='__main__', alter_sys=True)"
)


def savina(folder: Path, *words: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", START.format(root=str(root)), "--quick", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_program_has_the_right_result(no_leaks: None, tmp_path: Path, workers: str) -> None:
    done = savina(tmp_path, "--workers", workers, "--json", str(tmp_path / "figures.json"))
    assert (0, "") == (done.returncode, done.stderr)
    assert "30 programs, each result as it has to be" in done.stdout
    assert (tmp_path / "figures.json").stat().st_size > 0


def test_a_wrong_result_is_an_error(no_leaks: None, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    broken = tmp_path / "benchmarks" / "savina" / "counting.py"
    broken.write_text(broken.read_text().replace("self.count += 1", "self.count += 2"))
    done = savina(tmp_path, "--workers", "1", "counting", root=tmp_path)
    assert done.returncode == 1
    assert "Wrong: the count: expected 1000, got 2000" in done.stderr


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    done = savina(tmp_path, "ping-pong")
    assert done.returncode == 2
    assert "expected the name of a program, got 'ping-pong'; known are ping_pong, counting," in done.stderr
