"""`parallel-actors bench`: what it measures, prints, writes and refuses. Nothing here asks how fast anything is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from parallel_actors.bench import beam, machine, report, runner
from parallel_actors.bench.catalog import NAMES, PARTS, Part
from parallel_actors.bench.cores import Cores, look
from parallel_actors.bench.counterparts import CounterpartError
from parallel_actors.bench.figures import Aim, Figure, Row, above, at_least, at_most, below, percentile, shown
from parallel_actors.bench.report import Measured
from parallel_actors.cli import main
from parallel_actors.cli.target import UsageError

WITH_ERLANG = shutil.which("erl") is not None and shutil.which("erlc") is not None
needs_erlang = pytest.mark.skipif(not WITH_ERLANG, reason="erl and erlc are not on PATH")

# Sizes at which a part shows that it works, and no more.
TINY = {
    "count": 60,
    "hops": 600,
    "each": 50,
    "size": 100,
    "waiting": 50,
    "roots": 20,
    "piece": 10,
    "actors": 100,
    "milliseconds": 50,
    "kills": 1,
    "tasks": 4,
    "n": 10,
    "times": 1,
    "pause_ms": 1,
}


def tiny(part: Part) -> dict[str, int]:
    sizes = {**part.params, **{name: value for name, value in TINY.items() if name in part.params}}
    if part.name == "names":
        sizes["count"] = 1000
    return sizes


def cli(*args: object, path: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "parallel_actors", "bench", *map(str, args)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=100,
        env={**os.environ, "NO_COLOR": "1", **({} if path is None else {"PATH": path})},
        check=False,
    )


# --- the command ------------------------------------------------------------------------------------------------------


def check_json(path: Path, rows: set[str], *, runs: int) -> list[dict[str, Any]]:
    written = json.loads(path.read_text())
    assert rows == {figure["name"] for figure in written}
    for figure in written:
        assert ["name", "value", "unit", "min", "max", "runs", "params"] == list(figure)
        assert figure["unit"] in ("s", "B", "1/s", "B/s", "1")
        assert 0 <= figure["min"] <= figure["value"] <= figure["max"]
        assert runs == figure["runs"]
        assert 2 == figure["params"]["workers"]
    return written  # type: ignore[no-any-return]


def test_a_quick_run_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    done = cli("--quick", "-w", 2, "ring", "cross_call", "idle", "--json", tmp_path / "b.json", path="/nowhere")
    assert (0, "") == (done.returncode, done.stderr)
    rows = ["ring", "cross_call_rate", "cross_call_p50", "cross_call_p99", "cross_call_asleep_p50", "idle_cpu"]
    for row in rows:
        assert 1 == len(re.findall(rf"^{row}\*? +[\d.]", done.stdout, re.MULTILINE)), row
    assert "without the BEAM: erl and erlc are not on PATH" in done.stdout
    assert re.search(r"^\*? ?The cores were (not )?free", done.stdout, re.MULTILINE)
    written = check_json(tmp_path / "b.json", set(rows), runs=1)
    assert (503, 100_000, True) == tuple(written[0]["params"][name] for name in ("size", "hops", "quick"))


@needs_erlang
def test_the_beams_figures_stand_beside_ours(tmp_path: Path) -> None:
    done = cli("--quick", "--workers", 2, "names", "memory", "--json", tmp_path / "b.json")
    assert (0, "") == (done.returncode, done.stderr)
    rows = {"register", "whereis", "memory_def", "memory_async", "memory_callback", "memory_actor"}
    written = check_json(tmp_path / "b.json", rows | {f"beam_{row}" for row in rows}, runs=1)
    assert all(figure["params"]["otp"] for figure in written if figure["name"].startswith("beam_"))
    for row in rows:
        assert re.search(rf"^{row}\*? .* [\d.,]+x ", done.stdout, re.MULTILINE), row


def test_a_killed_worker_is_no_news_here() -> None:
    done = cli("--quick", "-w", 2, "worker_death")
    assert (0, "") == (done.returncode, done.stderr)
    assert "worker_death_p50" in done.stdout


def leave(*args: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *args])
    return caught.value.code


def test_an_unknown_name_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == leave("pingpong")
    said = capsys.readouterr().err
    assert said.startswith("Error: expected the name of a benchmark, got 'pingpong'; did you mean ping_pong?")
    assert said.endswith(f"known are {', '.join(NAMES)}\n")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-w", "0"], "option --workers: expected a whole number from 1"),
        (["-w", "1", "cross_call"], "cross_call needs two workers at least, got 1: use --workers 2"),
        (["ring", "--json", "/no/such/folder/b.json"], "expected --json to be a file that can be written"),
    ],
)
def test_wrong_usage(args: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == leave(*args)
    assert expected in capsys.readouterr().err


def test_the_help_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == leave("--help")
    words = set(re.findall(r"\w+", capsys.readouterr().out))
    assert set(NAMES) <= words


# --- the catalogue ----------------------------------------------------------------------------------------------------


def test_one_worker_leaves_out_what_needs_two() -> None:
    parts, left_out = runner.chosen([], 1)
    assert [part for part in PARTS if part.workers == 1] == parts
    assert {"cross_call_p50", "cross_cast", "payload_1MB", "worker_death_p50"} < set(left_out)
    assert (list(PARTS), []) == runner.chosen([], 2)


def test_every_row_has_a_name_of_its_own() -> None:
    rows = [row.name for part in PARTS for row in part.rows]
    assert len(rows) == len(set(rows))
    for part in PARTS:
        assert set(part.quick) <= set(part.params)
        assert set(part.beam[1:]) <= set(part.params)


def label(part: Part) -> str:
    return part.rows[0].name


ON_WORKERS = [part for part in PARTS if part.place == "worker" and not part.kills]


@pytest.mark.parametrize("part", ON_WORKERS, ids=label)
def test_a_workload_gives_a_figure_per_row(part: Part, node: pa.ActorSystem) -> None:
    _, ref = pa.options(worker=0).spawn_monitor(runner._workload, pa.self_(), part.ours, tiny(part))
    _, figures = pa.receive(("figures", list), timeout=60)
    assert "normal" == pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=60).reason
    assert len(part.rows) == len(figures)
    assert all(isinstance(figure, float) and figure >= 0 for figure in figures)
    if not part.fresh:
        eventually(lambda: pa.processes() == [pa.self_()], "the workload leaves nothing behind")


@pytest.mark.parametrize("part", [part for part in PARTS if part.place == "system" or part.kills], ids=label)
def test_a_workload_beside_a_system(part: Part, actor_system: pa.ActorSystem) -> None:
    if part.place == "system":
        figures = part.ours(actor_system, **tiny(part))
    else:
        pa.options(worker=0).spawn(runner._workload, actor_system.pid, part.ours, tiny(part))
        _, figures = pa.receive(("figures", list), timeout=60)
    assert len(part.rows) == len(figures)
    assert all(figure >= 0 for figure in figures)


@pytest.mark.parametrize("part", [part for part in PARTS if part.place == "command"], ids=label)
def test_a_workload_of_the_command_alone(part: Part) -> None:
    assert len(part.rows) == len(part.ours(**tiny(part)))


@needs_erlang
def test_every_test_of_the_beam_gives_a_figure_per_row() -> None:
    with beam.compiled() as theirs:
        assert theirs is not None
        assert machine.beam_startup(theirs.erl) > 0
        for part in {part.beam[0]: part for part in PARTS if part.beam and part.place != "command"}.values():
            sizes = tiny(part)
            test = [part.beam[0], *(str(sizes[name]) for name in part.beam[1:])]
            with theirs.machine(2, test) as erl:
                for _ in range(1 if part.fresh else 2):
                    figures = erl.run()
                    assert len(part.rows) == len(figures), part
                    assert all(figure > 0 for figure in figures if not part.fresh), part


@needs_erlang
def test_a_test_that_the_beam_does_not_know(capfd: pytest.CaptureFixture[str]) -> None:
    with beam.compiled() as theirs:
        assert theirs is not None
        with (
            theirs.machine(1, ["no_such_test"]) as erl,
            pytest.raises(CounterpartError, match="erl ended with exit code 1"),
        ):
            erl.run()
    assert "thetestfailed:{undef,[{bench,no_such_test," in "".join(capfd.readouterr().err.split())


# --- what fails -------------------------------------------------------------------------------------------------------


def test_a_workload_that_fails_ends_the_command_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> list[float]:
        raise RuntimeError("no luck today")

    monkeypatch.setattr(runner, "PARTS", (Part("ring", (Row("ring", "s"),), fails, {}, place="command"),))
    assert 1 == runner.bench(["ring"], {}, quick=True, json_file=None)
    assert "Error: ring: no luck today\n" == capsys.readouterr().err


def test_a_workload_that_crashes_on_its_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = Part("ring", (Row("ring", "s"),), PARTS[0].ours, {"unknown": 1})
    monkeypatch.setattr(runner, "PARTS", (part,))
    assert 1 == runner.bench(["ring"], {"workers": 1}, quick=True, json_file=None)
    said = capsys.readouterr().err
    assert "Error: ring: its workload ended: TypeError: " in said
    assert "'unknown'" in said


def test_lines_other_than_obituaries_are_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with machine.without_obituaries():
        os.write(2, b"parallel-actors: worker 1 was killed by SIGKILL; it is replaced\nsomething else\n")
    assert "something else\n" == capfd.readouterr().err


# --- figures and the table --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1.07e-6, "s", "1.07 us"),
        (2.6e-9, "s", "2.6 ns"),
        (0.093, "s", "93 ms"),
        (3.75, "s", "3.75 s"),
        (0.0, "s", "0 ns"),
        (2950.0, "B", "2950 B"),
        (2.7e9, "B", "2.7 GB"),
        (9_067_426.0, "1/s", "9.07 M/s"),
        (933_967.0, "1/s", "934 k/s"),
        (0.97, "1", "0.97"),
        (0.00109, "1", "0.00109"),
    ],
)
def test_a_figure_in_three_digits(value: float, unit: Any, expected: str) -> None:
    assert expected == shown(value, unit)


@pytest.mark.parametrize(
    ("aim", "good", "bad", "text"),
    [
        (at_most(0.3), 0.3, 0.31, "at most 0.3x"),
        (at_least(0.7), 0.7, 0.69, "at least 0.7x"),
        (below(0.05), 0.05, 0.051, "at most 50 ms"),
        (above(0.97), 0.98, 0.96, "at least 970 ms"),
    ],
)
def test_an_aim(aim: Aim, good: float, bad: float, text: str) -> None:
    assert aim.reached(good)
    assert not aim.reached(bad)
    assert text == aim.text("s")


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1000, 0, -1)]
    assert [500.0, 990.0, 999.0, 1000.0] == [percentile(values, share) for share in (0.5, 0.99, 0.999, 1.0)]
    assert 7.0 == percentile([7.0], 0.5)


def test_a_figure_is_the_median_with_its_extremes() -> None:
    figure = Figure.of("ring", "s", [3.0, 1.0, 2.0, 9.0, 2.5], {"hops": 10})
    expected = {"name": "ring", "value": 2.5, "unit": "s", "min": 1.0, "max": 9.0, "runs": 5, "params": {"hops": 10}}
    assert expected == figure.as_json()


def measured(row: Row, ours: float, theirs: float | None, *looks: Cores) -> Measured:
    other = None if theirs is None else Figure.of(f"beam_{row.name}", row.unit, [theirs], {})
    return Measured(row, Figure.of(row.name, row.unit, [ours], {}), other, looks)


FREE, BUSY = Cores(2, 0.0, 0.0, 0.1), Cores(2, 1.5, 0.25, 3.0)


def test_the_table_says_what_was_reached(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        measured(Row("spawn", "s", at_most(1)), 3e-6, 1.5e-6, FREE, FREE),
        measured(Row("cast", "1/s", at_least(0.7)), 8e6, 8e6, FREE, FREE),
        measured(Row("idle_cpu", "1", below(0.005)), 0.001, None, FREE, FREE),
        measured(Row("ring", "s", at_most(1)), 1e-6, None, FREE, FREE),
    ]
    assert [False, True, True, None] == [one.reached for one in rows]
    report.show(rows, ["a note"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["spawn", "3", "us", "1.5", "us", "2x", "at", "most", "1x", "missed"] == lines[1]
    assert ["cast", "8", "M/s", "8", "M/s", "1x", "at", "least", "0.7x", "reached"] == lines[2]
    assert ["idle_cpu", "0.001", "at", "most", "0.005", "reached"] == lines[3]
    assert ["ring", "1", "us", "at", "most", "1x"] == lines[4]
    assert ["The", "cores", "were", "free."] == lines[6]
    assert ["a", "note"] == lines[7]


def test_the_table_says_when_others_kept_the_cores_busy(capsys: pytest.CaptureFixture[str]) -> None:
    report.show([measured(Row("spawn", "s"), 3e-6, None, FREE, BUSY)], [])
    said = " ".join(capsys.readouterr().out.split())
    assert "spawn* 3 us" in said
    assert "others used up to 1.5 of 2 cores, the hypervisor took up to 0.2 (load average up to 3.0)" in said


def test_a_look_at_the_cores() -> None:
    seen = look()
    assert os.cpu_count() == seen.count
    assert 0 <= seen.used + seen.stolen <= seen.count + 0.01
    assert seen.load >= 0


def test_settings_that_do_not_fit_are_wrong_usage() -> None:
    with pytest.raises(UsageError, match="option --workers"):
        runner.bench(["ring"], {"workers": 0}, quick=True, json_file=None)
