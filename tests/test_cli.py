"""The command line: what it takes, what it refuses and how it leaves. Nothing here starts a system but `doctor`."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from parallel_actors.cli import main, plain
from parallel_actors.cli.app import app
from parallel_actors.cli.doctor import CHECKS
from parallel_actors.cli.target import Target, UsageError, load, parse_target, prepare
from parallel_actors.config import Options, usable_cores


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and no variables of ours."""
    for variable in [name for name in os.environ if name.startswith("PARALLEL_ACTORS_")]:
        monkeypatch.delenv(variable)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cli(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the command in the current directory, as a shell would."""
    return subprocess.run(
        [sys.executable, "-m", "parallel_actors", *args],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        check=False,
    )


# --- run: what reaches the root ---------------------------------------------------------------------------------------


Call = tuple[Target, list[str], Options]


def replace_root(monkeypatch: pytest.MonkeyPatch, run_program: Callable[[Target, list[str], Options], int]) -> None:
    root = ModuleType("parallel_actors.root")
    root.__dict__["run_program"] = run_program
    monkeypatch.setitem(sys.modules, "parallel_actors.root", root)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What `run` asked the root for. Nothing is started; the exit code is 7."""
    made: list[Call] = []

    def run_program(target: Target, args: list[str], options: Options) -> int:
        made.append((target, args, options))
        return 7

    replace_root(monkeypatch, run_program)
    return made


def leave(*args: str) -> object:
    """Run the command in this process; its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(args)
    return caught.value.code


def test_run_hands_the_target_to_the_root_and_leaves_with_its_code(folder: Path, calls: list[Call]) -> None:
    (folder / "hello.py").write_text("def main(): ...")
    assert 7 == leave("run", "hello.py")
    target = Target("file", "hello", "main", str(folder), str(folder / "hello.py"))
    assert [(target, [], Options())] == calls


def test_run_passes_its_options(folder: Path, calls: list[Call]) -> None:
    (folder / "hello.py").write_text("def main(): ...")
    leave("run", "-w", "3", "--log-level", "debug", "--prefix-output", "--no-pin", "--stop-timeout", "1.5", "hello.py")
    expected = Options(workers=3, log_level="DEBUG", prefix_output=True, pin=False, stop_timeout=1.5)
    assert expected == calls[0][2]


def test_an_option_wins_over_a_variable(folder: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "hello.py").write_text("def main(): ...")
    monkeypatch.setenv("PARALLEL_ACTORS_WORKERS", "5")
    leave("run", "hello.py")
    leave("run", "--workers", "2", "hello.py")
    assert [5, 2] == [options.workers for _, _, options in calls]


@pytest.mark.parametrize(
    "args",
    [
        ["--compare"],
        ["-w", "9", "--log-level", "x"],
        ["-h"],
        ["--help"],
        ["--version"],
        ["--", "x"],
        ["x", "--y=z", "--", "-w"],
        [""],
    ],
)
def test_what_stands_behind_the_target_belongs_to_the_program(folder: Path, calls: list[Call], args: list[str]) -> None:
    (folder / "hello.py").write_text("def main(): ...")
    leave("run", "-w", "2", "hello.py", *args)
    assert [(args, 2)] == [(passed, options.workers) for _, passed, options in calls]


@pytest.mark.parametrize(
    "words",
    [
        ["hello.py"],
        ["hello.py", "-w", "x", "--", "--help"],
        ["-w", "2", "hello.py"],
        ["--workers=2", "hello.py", ""],
        ["--workers", "02", "--prefix-output", "--pin", "hello.py"],
        ["--no-prefix-output", "--no-pin", "--log-level", "debug", "hello.py"],
        ["--log-level=Info", "--stop-timeout=0.25", "hello.py"],
        ["--stop-timeout", "3", "hello.py"],
    ],
)
def test_plain_words_say_the_same_with_and_without_typer(folder: Path, calls: list[Call], words: list[str]) -> None:
    (folder / "hello.py").write_text("def main(): ...")
    assert plain.read(["run", *words]) is not None
    assert 7 == leave("run", *words)
    with pytest.raises(SystemExit) as caught:
        app(args=["run", *words], prog_name="parallel-actors")
    assert 7 == caught.value.code
    assert 2 == len(calls)
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    "words",
    [
        *([], ["bench"], ["-h"], ["run"], ["run", ""], ["run", "--help"], ["run", "-h", "hello.py"], ["run", "-w"]),
        *(["run", "-w2", "hello.py"], ["run", "-w=2", "hello.py"], ["run", "--", "hello.py"], ["run", "-"]),
        *(["run", "-w", "two", "hello.py"], ["run", "-w", "-1", "hello.py"], ["run", "-w", "\u0663", "hello.py"]),
        *(["run", "-w", "2"], ["run", "-w", "2", "-w", "3", "hello.py"], ["run", "--work", "2", "hello.py"]),
        *(
            ["run", "--pin=1", "hello.py"],
            ["run", "--pin", "--no-pin", "hello.py"],
            ["run", "--log-level=", "hello.py"],
        ),
        *(["run", "--stop-timeout", "inf", "hello.py"], ["run", "--stop-timeout", "1e3", "hello.py"]),
    ],
)
def test_whatever_is_not_plain_is_left_to_typer(words: list[str]) -> None:
    assert plain.read(words) is None


def test_completion_is_left_to_typer(folder: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "hello.py").write_text("def main(): ...")
    monkeypatch.setenv("_PARALLEL_ACTORS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "parallel-actors run")
    monkeypatch.setenv("COMP_CWORD", "1")
    leave("run", "hello.py")
    assert [] == calls


def test_a_program_in_a_module(folder: Path, calls: list[Call]) -> None:
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").write_text("raise SystemExit('a target is found, not run')")
    (folder / "shop" / "app.py").write_text("async def serve(): ...")
    assert 7 == leave("run", "shop.app:serve", "x")
    target = Target("module", "shop.app", "serve", str(folder), str(folder / "shop" / "app.py"))
    assert [(target, ["x"], Options())] == calls


def test_ctrl_c_leaves_with_130(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_program(*_: object) -> int:
        raise KeyboardInterrupt

    replace_root(monkeypatch, run_program)
    (folder / "hello.py").write_text("def main(): ...")
    assert 130 == leave("run", "hello.py")


# --- run: what is refused ---------------------------------------------------------------------------------------------


def refused(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_target(text)
    return str(caught.value)


@pytest.mark.parametrize("text", ["", ":", "hello.py:", ":main", "hello.py:a.b", "hello.py:main()", "a:b:"])
def test_a_target_has_a_form(text: str) -> None:
    assert refused(text) == (
        f"expected FILE.py, FILE.py:FUNCTION, MODULE or MODULE:FUNCTION, got {text!r}; "
        "a function is named without parentheses or dots"
    )


def test_a_missing_file_names_the_closest(folder: Path) -> None:
    assert f"expected a file that exists, got 'helo.py'; looked in {folder}" == refused("helo.py")
    (folder / "hello.py").touch()
    assert "expected a file that exists, got 'helo.py'; did you mean hello.py?" == refused("helo.py")
    expected = "expected a file that exists, got './helo.py'; did you mean ./hello.py?"
    assert expected == refused("./helo.py")


def test_a_file_that_is_not_python(folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "src" / "hello.txt").touch()
    assert "expected a .py file, got 'src/hello.txt'; a module is written package.module" == refused("src/hello.txt")
    assert "expected a .py file, got the directory 'src/'; name a file in it, or write package.module" == refused(
        "src/"
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("random.py", "'random' is a module of Python's standard library"),
        ("parallel_actors.py", "'parallel_actors' is a module that every worker has imported already"),
        ("a.b.py", "'a.b' has a dot in it, which separates packages"),
        (
            "__main__.py",
            "'__main__' is Python's own name for a part of a package (try `package.module:function`)",
        ),
    ],
)
def test_a_file_that_could_not_be_imported_under_its_name(folder: Path, name: str, why: str) -> None:
    (folder / name).write_text("def main(): ...")
    expected = f"expected a file that can be imported under its own name, but {why}; rename {name!r}"
    assert expected == refused(name)


def test_a_file_beside_a_package_of_its_name(folder: Path) -> None:
    (folder / "shop.py").write_text("def main(): ...")
    (folder / "shop").mkdir()
    parse_target("shop.py")
    package = folder / "shop" / "__init__.py"
    package.touch()
    assert f"expected `import shop` to find 'shop.py', but it finds {package}; rename one of them" == refused("shop.py")


@pytest.mark.parametrize(
    ("source", "function", "hint"),
    [
        ("def mian(): ...", "main", "did you mean hello.py:mian?"),
        ("x = 1", "main", "define `def main() -> None:`, or name another function as hello.py:FUNCTION"),
        ("def b(): ...\nclass A: ...", "serve", "it defines A, b"),
        ("", "serve", "it defines nothing"),
        ("def outer():\n    def serve(): ...", "serve", "it defines outer"),
    ],
)
def test_a_function_that_is_not_there(folder: Path, source: str, function: str, hint: str) -> None:
    (folder / "hello.py").write_text(source)
    expected = f"expected a function {function!r} in {str(folder / 'hello.py')!r}, which has none; {hint}"
    assert expected == refused(f"hello.py:{function}")


@pytest.mark.parametrize(
    "source",
    [
        "def main(): ...",
        "async def main(): ...",
        "class main: ...",
        "main = print",
        "main: object = print",
        "a, (main, *b) = [], [print]",
        "from os import getpid as main",
        "import main",
        "from os.path import *",
        "def __getattr__(name): ...",
        "if True:\n    def main(): ...",
        "try:\n    from fast import main\nexcept ImportError:\n    def main(): ...",
        "with open('x') as main: ...",
        "for main in []: ...",
        "print(main := 1)",
    ],
)
def test_a_function_may_come_about_in_any_way(folder: Path, source: str) -> None:
    (folder / "hello.py").write_text(source)
    assert "main" == parse_target("hello.py").function


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("nowhere", "looked in the current directory and on sys.path; is it installed in this environment?"),
        ("shop.nowhere", "looked in the current directory and on sys.path; is it installed in this environment?"),
        ("hello", None),
        ("empty", None),
    ],
)
def test_a_module_that_is_not_there(folder: Path, text: str, hint: str | None) -> None:
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").touch()
    (folder / "empty").mkdir()
    (folder / "hello.py").write_text("def main(): ...")
    if hint is not None:
        assert f"expected a module that can be imported, got {text!r}; {hint}" == refused(text)
    elif text == "empty":
        assert refused(text) == "expected a module, got 'empty', a directory without __init__.py; name a module in it"
    else:
        assert ("module", str(folder / "hello.py")) == (parse_target(text).kind, parse_target(text).path)


def test_a_file_without_its_suffix(folder: Path) -> None:
    (folder / "hello.txt").touch()
    (folder / "my-hello.py").touch()
    assert "expected a module that can be imported, got 'hello.txt'; " in refused("hello.txt")
    assert "expected a module's name, got 'my-hello'; write it as package.module" == refused("my-hello")
    (folder / "my-hello").touch()
    assert "expected a module's name, got 'my-hello'; is it a file? its name must end in .py" == refused("my-hello")


# --- load, as a worker does -------------------------------------------------------------------------------------------


@pytest.fixture
def imports() -> Iterator[None]:
    """What a program changes in the interpreter that loads it is put back."""
    path, argv, modules = sys.path[:], sys.argv[:], set(sys.modules)
    yield
    sys.path[:], sys.argv[:] = path, argv
    for name in sys.modules.keys() - modules:
        del sys.modules[name]


@pytest.mark.usefixtures("imports")
def test_a_file_is_loaded_under_its_own_name(folder: Path) -> None:
    (folder / "helper_beside.py").write_text("word = 'hi'")
    (folder / "hello.py").write_text(
        "import sys, helper_beside\ndef main(): return __name__, helper_beside.word, sys.argv"
    )
    function: Any = load(parse_target("hello.py"), ["--x", "1"])
    assert ("hello", "hi", [str(folder / "hello.py"), "--x", "1"]) == function()
    assert sys.modules["hello"].main is function
    assert str(folder) == sys.path[0]


@pytest.mark.usefixtures("imports")
def test_a_file_whose_name_is_no_identifier_is_loaded_too(folder: Path) -> None:
    (folder / "01-hello.py").write_text("def main(): return __name__")
    assert "01-hello" == load(parse_target("01-hello.py"))()


@pytest.mark.usefixtures("imports")
def test_the_main_guard_does_not_run(folder: Path) -> None:
    (folder / "hello.py").write_text("def main(): ...\nif __name__ == '__main__':\n    raise SystemExit(3)")
    load(parse_target("hello.py"))


@pytest.mark.usefixtures("imports")
def test_preparing_twice_changes_nothing(folder: Path) -> None:
    (folder / "hello.py").write_text("def main(): ...")
    target = parse_target("hello.py")
    prepare(target, ["a"])
    before = sys.path[:], sys.argv[:]
    prepare(target, ["a"])
    assert before == (sys.path, sys.argv)


@pytest.mark.usefixtures("imports")
def test_a_function_that_takes_the_arguments(folder: Path) -> None:
    (folder / "hello.py").write_text("def main(args, *, loud=False): return args\ndef both(args=()): return args")
    assert ["a", "b"] == load(parse_target("hello.py"), ["a", "b"])()
    assert () == load(parse_target("hello.py:both"), ["a", "b"])(), "what can be called with nothing is"


@pytest.mark.usefixtures("imports")
def test_an_async_function_stays_one(folder: Path) -> None:
    (folder / "hello.py").write_text("async def main(): return 1\nasync def other(args): return args")
    assert asyncio.iscoroutinefunction(load(parse_target("hello.py")))
    bound = load(parse_target("hello.py:other"), ["a"])
    assert isinstance(bound, functools.partial)
    assert asyncio.iscoroutinefunction(bound.func)


@pytest.mark.usefixtures("imports")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("main = 5", r"^expected .*hello\.py:main to be a function, got int: 5$"),
        (
            "def main(a, b): ...",
            r"^expected .*hello\.py:main to take nothing or one list of arguments, got main\(a, b\)$",
        ),
    ],
)
def test_what_cannot_be_called(folder: Path, source: str, message: str) -> None:
    (folder / "hello.py").write_text(source)
    with pytest.raises(TypeError, match=message):
        load(parse_target("hello.py"))


@pytest.mark.usefixtures("imports")
def test_another_module_of_that_name_was_first(folder: Path) -> None:
    (folder / "contract.py").write_text("def main(): ...")
    import contract

    with pytest.raises(
        ImportError, match=r"got .*contract\.py', which this worker had imported before; rename contract"
    ) as caught:
        load(parse_target("contract.py"))
    assert "contract" == caught.value.name
    assert contract is sys.modules["contract"]


# --- the command as a whole -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", [[], ["run"], ["doctor"], ["version"]])
def test_help_is_everywhere(command: list[str], flag: str) -> None:
    done = cli(*command, flag)
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith(f"Usage: {' '.join(['parallel-actors', *command])} [OPTIONS]")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run"], "Missing argument 'TARGET'"),
        (["run", "--wrokers", "2", "hello.py"], "--workers"),
        (["run", "-w", "two", "hello.py"], "Invalid value for '--workers' / '-w'"),
        (["run", "-w", "0", "hello.py"], "Error: option --workers: expected a whole number from 1 to 1022, got 0"),
        (["run", "--log-level", "loud", "hello.py"], "Error: option --log-level: expected one of DEBUG, INFO, "),
        (["run", "helo.py"], "Error: expected a file that exists, got 'helo.py'; did you mean hello.py?"),
        (["run", "hello.py:mian"], "; did you mean hello.py:main?"),
        (["run", "nowhere.at_all"], "Error: expected a module that can be imported, got 'nowhere.at_all'; "),
        (["rnu"], "No such command 'rnu'"),
        (["--no-such-option"], "No such option: --no-such-option"),
    ],
)
def test_wrong_usage_leaves_with_2_and_says_why(folder: Path, args: list[str], message: str) -> None:
    (folder / "hello.py").write_text("def main(): ...")
    done = cli(*args)
    assert (2, "") == (done.returncode, done.stdout)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_elsewhere_is_wrong_usage_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLEL_ACTORS_GUESTS", "many")
    done = cli("run", "hello.py")
    expected = (
        "Error: environment variable PARALLEL_ACTORS_GUESTS: expected a whole number from 1 to 1022, got 'many'\n"
    )
    assert (2, expected) == (done.returncode, done.stderr)


def test_a_program_that_is_not_python_fails_as_with_python(folder: Path) -> None:
    (folder / "hello.py").write_text("def main(:\n")
    done = cli("run", "hello.py")
    assert (1, "") == (done.returncode, done.stdout)
    assert f'  File "{folder / "hello.py"}", line 1\n' in done.stderr
    assert done.stderr.endswith("SyntaxError: invalid syntax\n")
    assert "Traceback" not in done.stderr


def test_without_a_command_there_is_help() -> None:
    done = cli()
    assert "Usage: parallel-actors [OPTIONS] COMMAND [ARGS]..." in done.stdout + done.stderr
    assert 2 == done.returncode


def test_version() -> None:
    done = cli("version")
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith("parallel-actors ")
    assert f"CPython {sys.version_info.major}.{sys.version_info.minor}." in done.stdout
    assert done.stdout == cli("--version").stdout


def modules_after(code: str) -> set[str]:
    """What a fresh interpreter has imported after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


def test_run_imports_no_more_than_it_needs(folder: Path) -> None:
    (folder / "hello.py").write_text("def main(): ...")
    code = (
        "import types, parallel_actors\n"
        "root = sys.modules['parallel_actors.root'] = types.ModuleType('root')\n"
        "root.run_program = lambda *_: 0\n"
        "before = set(sys.modules)\n"
        "from parallel_actors.cli import main\n"
        "try:\n    main(['run', 'hello.py'])\n"
        "except SystemExit as left:\n    assert left.code == 0\n"
        "for name in before: del sys.modules[name]"
    )
    unwanted = {"rich", "typer", "pydantic", "tomllib", "difflib", "subprocess", "parallel_actors.cli.doctor"}
    assert set() == unwanted & modules_after(code)


def test_a_worker_does_not_load_the_command_line(folder: Path) -> None:
    assert set() == {"typer", "click", "rich"} & modules_after("import parallel_actors.cli.target")


# --- doctor -----------------------------------------------------------------------------------------------------------


def test_doctor_as_json_and_its_exit_code() -> None:
    done = cli("doctor", "--json")
    results = json.loads(done.stdout)
    assert [["check", "status", "value", "hint"]] * len(CHECKS) == [list(result) for result in results]
    assert {"ok", "warn", "fail"} >= {result["status"] for result in results}
    failed = [result for result in results if result["status"] == "fail"]
    assert (1 if failed else 0) == done.returncode
    named = {result["check"]: result for result in results}
    assert f"{usable_cores()} usable" in named["cores"]["value"]
    assert {"ok"} == {named[name]["status"] for name in ("platform", "python", "kernel calls", "libraries")}


def test_doctor_as_a_table() -> None:
    done = cli("doctor")
    assert done.returncode in (0, 1)
    lines = done.stdout.splitlines()
    for check in ("platform", "python", "kernel calls", "libraries", "engine", "cores", "settings", "start"):
        assert any(line.startswith(check) for line in lines), check
    assert " failed" in lines[-1]


def test_doctor_shows_wrong_settings_and_unknown_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLEL_ACTORS_WORKRES", "2")
    named = {result["check"]: result for result in json.loads(cli("doctor", "--json").stdout)}
    expected = "PARALLEL_ACTORS_WORKRES: no setting of that name; did you mean PARALLEL_ACTORS_WORKERS?"
    assert ("warn", expected) == (named["settings"]["status"], named["settings"]["hint"])
    monkeypatch.setenv("PARALLEL_ACTORS_WORKERS", "two")
    done = cli("doctor", "--json")
    named = {result["check"]: result for result in json.loads(done.stdout)}
    assert (1, "fail") == (done.returncode, named["settings"]["status"])
    assert "PARALLEL_ACTORS_WORKERS" in named["settings"]["value"]
