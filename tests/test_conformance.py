"""The page of OTP's rules: each row names a test that there is, or a difference that is documented."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PAGE = DOCS / "otp-conformance.md"

HEAD = ["Rule", "Erlang", "Elixir", "ExActor", "Actors.jl", "gleam_otp", "Shown by"]
_TEST = re.compile(r"(?P<file>test_\w+\.py)::(?P<name>test_\w+)")
_LINK = re.compile(r"\[[^\]]+\]\((?P<page>[\w.-]+\.md)#(?P<anchor>[\w-]+)\)")
_HAS = re.compile(r"yes|no|\?|yes: .+|differs: .+")


@dataclass(frozen=True)
class Row:
    line: int
    cells: list[str]


def rows_of(text: str) -> Iterator[Row]:
    """The rows of its tables, heads and rules of dashes left out. A `\\|` in a cell isn't its end."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))]
            if cells != HEAD:
                yield Row(number, cells)


@functools.cache
def collected_in(directory: Path) -> set[str]:
    """`file::name` of every test that pytest collects there: functions of modules and of Test classes."""
    found: set[str] = set()
    for path in directory.glob("test_*.py"):
        module = ast.parse(path.read_bytes(), str(path))
        classes = [node for node in module.body if isinstance(node, ast.ClassDef) and node.name.startswith("Test")]
        for body in [module.body, *(each.body for each in classes)]:
            functions = (node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{path.name}::{node.name}" for node in functions if node.name.startswith("test_")}
    return found


def anchors_of(text: str) -> set[str]:
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def faults_of(row: Row, tests: set[str], anchors: dict[str, set[str]]) -> list[str]:
    """What is wrong with it, in words."""
    if len(row.cells) != len(HEAD):
        return [f"expected {len(HEAD)} cells, got {len(row.cells)}"]
    rule, *others, shown = row.cells
    faults = [
        f"{name}: expected yes, no, differs (and how) or ?, got {cell!r}"
        for name, cell in zip(HEAD[1:-1], others, strict=True)
        if not _HAS.fullmatch(cell)
    ]
    if not rule:
        faults.append("expected a rule")
    named = [match.group() for match in _TEST.finditer(shown)]
    linked = [(match["page"], match["anchor"]) for match in _LINK.finditer(shown)]
    faults += [f"there is no test {name}" for name in named if name not in tests]
    faults += [
        f"there is no heading {page}#{anchor}" for page, anchor in linked if anchor not in anchors.get(page, set())
    ]
    rest = re.sub(r"[,\s]", "", _LINK.sub("", _TEST.sub("", shown)))
    if rest or not (named or linked):
        faults.append(f"expected tests or links to a difference, got {shown!r}")
    return faults


def faults_in(text: str) -> list[str]:
    tests, anchors = collected_in(HERE), {"differences.md": anchors_of((DOCS / "differences.md").read_text())}
    return [f"line {row.line}: {fault}" for row in rows_of(text) for fault in faults_of(row, tests, anchors)]


def test_each_rule_names_a_test_or_a_difference() -> None:
    assert [] == faults_in(PAGE.read_text())


def test_no_rule_stands_there_twice() -> None:
    rules: list[str] = []
    for section in PAGE.read_text().split("\n## ")[1:]:
        rules += [f"{section.partition(chr(10))[0]}: {row.cells[0]}" for row in rows_of(section)]
    assert len(rules) > 150
    assert sorted(set(rules)) == sorted(rules)


# --- the check itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("| r | yes | yes | no | no | no | test_conformance.py::test_gone |", "there is no test"),
        ("| r | yes | yes | no | no | no | test_gone.py::test_no_rule_stands_there_twice |", "there is no test"),
        ("| r | yes | yes | no | no | no | |", "expected tests or links"),
        ("| r | yes | yes | no | no | no | soon |", "expected tests or links"),
        ("| r | yes | yes | no | no | no | [x](differences.md#nowhere) |", "there is no heading"),
        ("| r | yes | yes | no | no | no | [x](guarantees.md#servers) |", "there is no heading"),
        (
            "| r | yes | yes | no | no | no | test_conformance.py::test_each_rule_names_a_test_or_a_difference soon |",
            "expected tests",
        ),
        ("| r | perhaps | yes | no | no | no | [x](differences.md#servers) |", "Erlang: expected yes, no, differs"),
        (
            "| r | yes | yes | no | no | differs | [x](differences.md#servers) |",
            "gleam_otp: expected yes, no, differs",
        ),
        ("| r | yes | yes | no | no | [x](differences.md#servers) |", "expected 7 cells, got 6"),
        ("| | yes | yes | no | no | no | [x](differences.md#servers) |", "expected a rule"),
    ],
)
def test_a_row_that_shows_nothing_is_a_fault(row: str, fault: str) -> None:
    (found,) = faults_in(f"| {' | '.join(HEAD)} |\n|---|---|---|---|---|---|---|\n{row}\n")
    assert found.startswith(f"line 3: {fault}")


def test_a_row_that_shows_something_is_none() -> None:
    good = "test_conformance.py::test_no_rule_stands_there_twice, [Servers](differences.md#servers)"
    assert [] == faults_in(f"| a \\| b | yes: x/1 | no | differs: y | no | yes | {good} |\n")
