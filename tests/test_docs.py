"""Every code block of README.md and docs/*.md runs.

A block ```python is a program. One whose first line is a comment with a file's name (`# hello.py`) is saved under that
name beside the others of its page, so that they can import it and commands can run it. Where a command below it does
run it, that is its run. Else it runs

- by `parallel-actors run`, if it defines `main`,
- by `python`, if it makes its own `ActorSystem`, imports nothing of ours, or has a name,
- else as the body of a `main`: a few lines from the middle of a program.

`import parallel_actors as pa` needn't be repeated in each block. A page may show a file again as it grows: each block
and command sees the files as they stand above it.

A block ```console shows commands, each behind `$ `, and what they print. The commands run in a scratch copy of the
examples and the page's files. Lines below a command are its output, where `...` stands for anything; a command without
any may print what it likes. It must end with 0, or as a comment behind it says (`# exits 2`). Commands that set things
up (`pip install`, `git clone`) aren't run.

A block ```py is a program for another library, shown beside ours: it must compile, and isn't run. A block ```text,
```erlang or ```elixir, or without a language, isn't run.
"""

from __future__ import annotations

import ast
import doctest
import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

TEST_LINE = "python3 -m venv .venv && .venv/bin/pip install -q tox && .venv/bin/tox"

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\s`]*)[^\n`]*\n(?P<body>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)
_NAME = re.compile(r"#\s*(?P<name>[\w/-]+\.py)\s*$")
_SET_UP = re.compile(r"(git clone|cd |pip |python3? -m (venv|pip)|source |\. |export |ulimit |sudo )")
_EXITS = re.compile(r"#\s*exits (?P<code>\d+)\s*$")


@dataclass(frozen=True)
class Block:
    """A piece of code on a page, and where it stands."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def name(self) -> str | None:
        """The file that it is."""
        found = _NAME.match(self.text.partition("\n")[0])
        return found["name"] if found else None


def blocks_of(text: str, page: str) -> list[Block]:
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(page, line, match["language"], textwrap.dedent(match["body"])))
    return found


BLOCKS = {
    page.relative_to(ROOT).as_posix(): blocks_of(page.read_text(), page.relative_to(ROOT).as_posix())
    for page in PAGES
    if page.is_file()
}


def of_language(*languages: str) -> list[Block]:
    return [block for blocks in BLOCKS.values() for block in blocks if block.language in languages]


# --- running them -----------------------------------------------------------------------------------------------------


def prepare(folder: Path, block: Block) -> None:
    """Write the files that the page shows up to this block, and copy what its commands may name."""
    for part in ("examples", "benchmarks"):
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for each in above(block, BLOCKS[block.page]):
        if each.language == "python" and each.name is not None:
            path = folder / each.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(each.text)


def above(block: Block, blocks: list[Block]) -> list[Block]:
    return [each for each in blocks if each.line <= block.line]


def run_by_a_command(block: Block, blocks: list[Block]) -> bool:
    """Whether a command below runs this file, before the page shows it anew."""
    for each in blocks if block.name is not None else []:
        if each.line > block.line:
            if each.name == block.name:
                return False
            if each.language == "console":
                for command in commands_of(each):
                    if block.name in command.text.split() and not _SET_UP.match(command.text):
                        return True
    return False


def program(source: str, *, named: bool) -> tuple[str, bool]:
    """The program that a block stands for, and whether `parallel-actors run` runs it (else `python` does)."""
    allow_await = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(source, "<block>", "exec", allow_await, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    imports = any(
        alias.name == "parallel_actors" or getattr(node, "module", None) == "parallel_actors"
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    )
    prelude = "import parallel_actors as pa\n" if "pa" in words and not imports else ""
    if "main" in defined:
        return prelude + source, True
    if named or "ActorSystem" in source or not (prelude or imports):
        return prelude + source, False
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    asynchronous = any(isinstance(node, waits) for statement in tree.body for node in _outside_functions(statement))
    head = f"{'async ' if asynchronous else ''}def main() -> None:\n"
    # By way of the tree, not by indenting, which would change strings of several lines.
    return prelude + head + textwrap.indent(ast.unparse(tree), "    "), True


def _outside_functions(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        return []
    return [node, *(inner for child in ast.iter_child_nodes(node) for inner in _outside_functions(child))]


def execute(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of a page; `parallel-actors` and `python` are those of the tested installation."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        env={**os.environ, "PATH": path, "NO_COLOR": "1", "COLUMNS": "120"},
        check=False,
    )


@dataclass(frozen=True)
class Command:
    text: str
    output: str
    code: int


def commands_of(block: Block) -> list[Command]:
    found: list[Command] = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        # A backslash at the end of a line goes on below, as in the shell.
        line = re.match(r"(?:.*\\\n)*.*", part)
        assert line is not None
        text, output = line[0], part[line.end() :].strip("\n")
        exits = _EXITS.search(text)
        found.append(Command(text, output, int(exits["code"]) if exits else 0))
    return found


def matches(expected: str, got: str) -> bool:
    def normal(text: str) -> str:
        return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"

    return doctest.OutputChecker().check_output(normal(expected), normal(got), doctest.ELLIPSIS)


# --- the pages --------------------------------------------------------------------------------------------------------


PROGRAMS = [block for block in of_language("python") if not run_by_a_command(block, BLOCKS[block.page])]


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_a_program_on_a_page_runs(block: Block, tmp_path: Path) -> None:
    prepare(tmp_path, block)
    source, by_us = program(block.text, named=block.name is not None)
    path = tmp_path / (block.name or "block_of_the_page.py")
    path.write_text(source)
    name = path.relative_to(tmp_path).as_posix()
    done = execute(["parallel-actors", "run", name] if by_us else [sys.executable, name], tmp_path)
    assert 0 == done.returncode, done.stdout


@pytest.mark.parametrize("block", of_language("console", "bash"), ids=str)
def test_the_commands_on_a_page_run(block: Block, tmp_path: Path) -> None:
    commands = commands_of(block)
    assert commands, "expected lines that begin with `$ `; mark the block `text` if nothing in it is to be run"
    prepare(tmp_path, block)
    for command in commands:
        if _SET_UP.match(command.text):
            continue
        done = execute(["bash", "-c", command.text], tmp_path)
        assert command.code == done.returncode, f"$ {command.text}\n{done.stdout}"
        if command.output:
            assert matches(command.output, done.stdout), f"$ {command.text}\n{done.stdout}"


@pytest.mark.parametrize("block", of_language("py"), ids=str)
def test_a_program_for_another_library_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec", dont_inherit=True)


def test_no_page_has_a_language_that_nobody_runs() -> None:
    known = {"python", "py", "console", "bash", "text", "erlang", "elixir", ""}
    assert [] == [f"{block}: {block.language}" for block in of_language(*_languages() - known)]


def _languages() -> set[str]:
    return {block.language for blocks in BLOCKS.values() for block in blocks}


def test_the_readme_shows_programs_and_commands() -> None:
    assert {"python", "console"} <= {block.language for block in BLOCKS.get("README.md", [])}


def test_ci_runs_the_line_of_the_readme() -> None:
    shown = [command.text for block in of_language("console") for command in commands_of(block)]
    assert 1 == shown.count(TEST_LINE)
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert [TEST_LINE] == [line for line in lines if "bin/tox" in line]


# --- the runner itself ------------------------------------------------------------------------------------------------


def test_blocks_are_found_with_their_place_and_language() -> None:
    text = "Hi\n\n```python\n# a/b.py\nx = 1\n```\n\n- item\n\n  ```console\n  $ ls\n  a\n  ```\n\n```\nnothing\n```\n"
    assert blocks_of(text, "p.md") == [
        Block("p.md", 4, "python", "# a/b.py\nx = 1\n"),
        Block("p.md", 11, "console", "$ ls\na\n"),
        Block("p.md", 16, "", "nothing\n"),
    ]
    assert ["a/b.py", None, None] == [block.name for block in blocks_of(text, "p.md")]


def test_a_block_sees_the_files_above_it() -> None:
    blocks = [Block("p.md", line, "python", f"# a.py\nx = {line}\n") for line in (3, 9, 15)]
    assert blocks[:2] == above(blocks[1], blocks)
    assert blocks[:1] == above(Block("p.md", 7, "console", "$ python a.py\n"), blocks)


def test_a_file_that_a_command_runs_is_not_run_twice() -> None:
    blocks = [
        Block("p.md", 3, "python", "# a.py\n"),
        Block("p.md", 5, "python", "# b.py\n"),
        Block("p.md", 7, "python", "# a.py\n"),
        Block("p.md", 9, "python", "print(1)\n"),
        Block("p.md", 11, "console", "$ cd x\n$ python a.py\nb.py\n"),
    ]
    assert [False, False, True, False, False] == [run_by_a_command(block, blocks) for block in blocks]


@pytest.mark.parametrize(
    ("source", "named", "expected", "by_us"),
    [
        ("print(1)\n", False, "print(1)\n", False),
        (
            "def main():\n    pa.self_()\n",
            False,
            "import parallel_actors as pa\ndef main():\n    pa.self_()\n",
            True,
        ),
        ("import parallel_actors as pa\nx = pa.Pid\n", True, "import parallel_actors as pa\nx = pa.Pid\n", False),
        ("with pa.ActorSystem(): ...\n", False, "import parallel_actors as pa\nwith pa.ActorSystem(): ...\n", False),
        (
            "pid = pa.spawn(f)\n",
            False,
            "import parallel_actors as pa\ndef main() -> None:\n    pid = pa.spawn(f)",
            True,
        ),
        (
            "f = id\nasync def g(): await h()\npa.spawn(g)\n",
            False,
            (
                "import parallel_actors as pa\ndef main() -> None:\n"
                "    f = id\n\n    async def g():\n        await h()\n    pa.spawn(g)"
            ),
            True,
        ),
        (
            "x = await pa.areceive()\n",
            False,
            "import parallel_actors as pa\nasync def main() -> None:\n    x = await pa.areceive()",
            True,
        ),
    ],
)
def test_a_block_becomes_a_program(source: str, named: bool, expected: str, by_us: bool) -> None:
    assert (expected, by_us) == program(source, named=named)


def test_commands_and_their_output() -> None:
    block = Block("p.md", 1, "console", "$ echo a \\\n  b\na b\n\n$ false  # exits 1\n$ ls\n")
    assert commands_of(block) == [
        Command("echo a \\\n  b", "a b", 0),
        Command("false  # exits 1", "", 1),
        Command("ls", "", 0),
    ]


def test_output_is_compared_with_gaps() -> None:
    assert matches("started in ... ms\n...\ndone", "started in 12 ms\na\nb\ndone\n")
    assert not matches("done", "gone")


def test_commands_run_in_the_folder_with_the_tested_python(tmp_path: Path) -> None:
    done = execute(["bash", "-c", "pwd; command -v python"], tmp_path)
    assert f"{tmp_path}\n{Path(sys.executable).parent}/python\n" == done.stdout
