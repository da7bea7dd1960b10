"""The commands and their options. What a command does is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parallel_actors.cli.target import UsageError

__all__ = ["app"]

_TARGET_HELP = "FILE.py, FILE.py:NAME, MODULE or MODULE:NAME, the name of a function or an application."

app = typer.Typer(
    help="Erlang/OTP's actors on every core.",
    no_args_is_help=True,
    # Both would import rich, which takes as long as everything else that `run` needs.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version_text() -> str:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    try:
        ours = version("parallel-actors")
    except PackageNotFoundError:  # a source folder on sys.path
        ours = "(not installed)"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"parallel-actors {ours} ({python}, {platform.system()} {platform.machine()})"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(_version_text())
        raise typer.Exit


@app.callback()
def _options_of_all(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=_TARGET_HELP)],
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="Passed to the program in sys.argv."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-w", metavar="N", help="Worker processes. [default: one per usable core]"),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="Lowest log level to show: DEBUG, INFO, WARNING, ... [default: INFO]"),
    ] = None,
    prefix_output: Annotated[
        bool | None,
        typer.Option("--prefix-output/--no-prefix-output", help="Mark each printed line with its source."),
    ] = None,
    pin: Annotated[
        bool | None,
        typer.Option("--pin/--no-pin", help="Bind each worker to a core. [default: no]"),
    ] = None,
    stop_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long a stop waits for the processes to end. [default: 5]"),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Set a key of the application's env; MODULE:NAME.KEY of one it needs."),
    ] = None,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload", help="Load the program's modules anew when their files change; servers keep their state."
        ),
    ] = False,
) -> None:
    """Run a program on every core.

    Its function main (or NAME) becomes the first process. Everything behind TARGET belongs to the program, options
    too. It ends with exit code 0, with 1 when the first process failed, with 130 after Ctrl-C.

    Where NAME is a class of Application, that and all that it needs are started; the program ends when it does, with
    exit code 0 if it was stopped or ended normally, else 1.

    Each option can also be set by a variable (PARALLEL_ACTORS_WORKERS=4) or in [tool.parallel_actors] of
    pyproject.toml.
    """
    from parallel_actors.cli.run import More
    from parallel_actors.cli.run import run as run_target

    more: More = {}
    if env:
        more["env"] = tuple(env)
    if reload:
        more["reload"] = True
    settings = {
        "workers": workers,
        "log_level": log_level,
        "prefix_output": prefix_output,
        "pin": pin,
        "stop_timeout": stop_timeout,
    }
    try:
        code = run_target(target, args or [], settings, **more)
    except UsageError as error:
        typer.echo(f"Error: {error}", err=True)
        code = 2
    raise typer.Exit(code)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of {check, status, value, hint}.")] = False,
) -> None:
    """Check what this machine offers to parallel_actors.

    Says what doesn't work, or won't work well, and what to do about it, and starts a small system at the end. Ends with
    exit code 1 if anything fails; warnings don't count.
    """
    from parallel_actors.cli.doctor import doctor as examine

    raise typer.Exit(examine(as_json=as_json))


@app.command()
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="What to measure. [default: everything]"),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            dir_okay=False,
            writable=True,
            help="Write a list of {name, value, unit, min, max, runs, params} too.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One run of each, with small sizes.")] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-w", metavar="N", help="Worker processes. [default: one per usable core]"),
    ] = None,
) -> None:
    """Measure this machine, beside the BEAM where erl and erlc are installed.

    Names: memory, spawn, start_link, cast, call, ping_pong, ring, fan_in, skynet, cross_call, cross_cast, payload,
    fairness, monitors, selective_receive, scaling, steal, migrate, unbalanced_tree, restart, worker_death, startup,
    pause, idle, io, names, shared_state, isolation.
    """
    from parallel_actors.bench.runner import bench as measure

    try:
        code = measure(names or [], {"workers": workers}, quick=quick, json_file=json_file)
    except UsageError as error:
        typer.echo(f"Error: {error}", err=True)
        code = 2
    raise typer.Exit(code)


@app.command()
def version() -> None:
    """Show the version, Python's and the platform."""
    typer.echo(_version_text())
