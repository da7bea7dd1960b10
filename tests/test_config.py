"""Settings: where they come from, which wins, and what a wrong one is answered with."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from contract import contract
from parallel_actors.config import Options, cpu_quota, resolve, unknown_variables, usable_cores


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project as the current directory, and no variables."""
    for variable in [name for name in os.environ if name.startswith("PARALLEL_ACTORS_")]:
        monkeypatch.delenv(variable)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'sample'\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configure(project: Path, table: str) -> None:
    (project / "pyproject.toml").write_text(f"[tool.parallel_actors]\n{table}\n")


# --- sources ----------------------------------------------------------------------------------------------------------


@contract("S9.1", partly=True)
def test_the_default_is_one_worker_per_usable_core() -> None:
    expected = Options(
        workers=usable_cores(),
        guests=8,
        stop_timeout=5.0,
        log_level="INFO",
        prefix_output=False,
        pin=None,
        name="parallel_actors",
    )
    assert expected == resolve()


def test_a_keyword_wins_over_a_variable_over_the_file_over_the_default(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(project, "workers = 3\nguests = 3\nstop_timeout = 3")
    monkeypatch.setenv("PARALLEL_ACTORS_WORKERS", "2")
    monkeypatch.setenv("PARALLEL_ACTORS_GUESTS", "2")
    options = resolve(workers=1)
    assert (1, 2, 3.0, "INFO") == (options.workers, options.guests, options.stop_timeout, options.log_level)


def test_none_and_an_empty_variable_count_as_not_given(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(project, "workers = 3")
    monkeypatch.setenv("PARALLEL_ACTORS_WORKERS", " ")
    assert 3 == resolve(workers=None).workers


def test_the_nearest_pyproject_upward_counts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(project, "workers = 3")
    inner = project / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert 3 == resolve().workers
    (project / "a" / "pyproject.toml").write_text("")
    assert usable_cores() == resolve().workers


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("workers", "12", 12),
        ("guests", " 1 ", 1),
        ("stop_timeout", "0.25", 0.25),
        ("stop_timeout", "0", 0.0),
        ("log_level", "debug", "DEBUG"),
        ("prefix_output", "1", True),
        ("prefix_output", "No", False),
        ("max_reports", "0", 0),
        ("max_reports", "7", 7),
        ("max_mailbox", "1000", 1000),
        ("max_mailbox_bytes", "1", 1),
        ("mailbox_policy", "Drop_Oldest", "drop_oldest"),
        ("forward_logs", "yes", True),
        ("pin", "on", True),
        ("pin", "off", False),
        ("pin", "auto", None),
        ("name", "shop", "shop"),
    ],
)
def test_a_variable_is_read_as_its_settings_type(
    name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PARALLEL_ACTORS_{name.upper()}", text)
    got = getattr(resolve(), name)
    assert (value, type(value)) == (got, type(got))


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve().workers = 3  # type: ignore[misc]


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"workers": 0}, "keyword argument workers: expected a whole number from 1 to 1022, got 0"),
        ({"workers": 1.5}, "keyword argument workers: expected a whole number from 1 to 1022, got 1.5"),
        ({"workers": True}, "keyword argument workers: expected a whole number from 1 to 1022, got True"),
        ({"stop_timeout": -1}, "keyword argument stop_timeout: expected a number of seconds, 0 or more, got -1"),
        (
            {"stop_timeout": float("nan")},
            "keyword argument stop_timeout: expected a number of seconds, 0 or more, got nan",
        ),
        (
            {"log_level": "loud"},
            "keyword argument log_level: expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL, got 'loud'",
        ),
        ({"max_reports": -1}, "keyword argument max_reports: expected a whole number from 0 to 1000000, got -1"),
        (
            {"max_mailbox": 0},
            f"keyword argument max_mailbox: expected a whole number from 1 to {2**62 - 1}, got 0",
        ),
        (
            {"mailbox_policy": "block"},
            "keyword argument mailbox_policy: expected one of suspend, fail, drop_newest, drop_oldest, got 'block'",
        ),
        ({"spare_workers": -1}, "keyword argument spare_workers: expected a whole number from 0 to 1022, got -1"),
        (
            {"preload": "numpy, no-module"},
            "keyword argument preload: expected names of modules, such as numpy, shop.orders, got 'numpy, no-module'",
        ),
        ({"pin": 1}, 'keyword argument pin: expected true, false or "auto", got 1'),
        ({"name": ""}, "keyword argument name: expected 1 to 64 printable characters, got ''"),
        (
            {"workers": 1000, "guests": 100},
            "expected workers + guests to be at most 1023, got 1000 workers and 100 guests; lower one of them",
        ),
    ],
)
def test_a_wrong_keyword_argument(keywords: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        resolve(**keywords)  # type: ignore[arg-type]
    assert message == str(caught.value)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLEL_ACTORS_WORKERS", "two")
    with pytest.raises(ValueError) as caught:
        resolve()
    expected = "environment variable PARALLEL_ACTORS_WORKERS: expected a whole number from 1 to 1022, got 'two'"
    assert expected == str(caught.value)


def test_a_wrong_value_is_an_error_even_where_a_keyword_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLEL_ACTORS_WORKERS", "two")
    with pytest.raises(ValueError, match="PARALLEL_ACTORS_WORKERS"):
        resolve(workers=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[tool.parallel_actors]\nworkers = 'two'",
            "{file}, [tool.parallel_actors] workers: expected a whole number from 1 to 1022, got 'two'",
        ),
        (
            "[tool.parallel_actors]\nstop-timeout = 1",
            (
                "{file}, [tool.parallel_actors] stop-timeout: expected the name of a setting, got 'stop-timeout'; "
                "did you mean stop_timeout?"
            ),
        ),
        (
            "[tool.parallel-actors]\nworkers = 1",
            "{file}: expected the table [tool.parallel_actors], got [tool.parallel-actors]; rename it",
        ),
        ("[tool]\nparallel_actors = 4", "{file}: expected tool.parallel_actors to be a table, got 4"),
    ],
)
def test_a_wrong_file_is_named(project: Path, text: str, message: str) -> None:
    (project / "pyproject.toml").write_text(text)
    with pytest.raises(ValueError) as caught:
        resolve()
    assert message.format(file=project / "pyproject.toml") == str(caught.value)


def test_a_file_that_is_no_toml_is_an_error_only_where_it_concerns_us(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.other\n")
    resolve()
    (project / "pyproject.toml").write_text("[tool.parallel_actors\n")
    with pytest.raises(ValueError, match=r"pyproject\.toml: expected valid TOML: "):
        resolve()


def test_an_unknown_keyword_names_the_closest() -> None:
    with pytest.raises(TypeError) as caught:
        resolve(wrokers=4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert str(caught.value) == ("expected the name of a setting, got keyword argument wrokers; did you mean workers?")
    with pytest.raises(TypeError, match="; known are workers, guests, "):
        resolve(colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_unknown_variables_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {} == unknown_variables()
    monkeypatch.setenv("PARALLEL_ACTORS_WORKERS", "2")
    monkeypatch.setenv("PARALLEL_ACTORS_WORKRES", "2")
    expected = {"PARALLEL_ACTORS_WORKRES": "no setting of that name; did you mean PARALLEL_ACTORS_WORKERS?"}
    assert expected == unknown_variables()


# --- cores ------------------------------------------------------------------------------------------------------------

V2 = "31 23 0:27 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 32 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:11 - cgroup cgroup rw,cpu,cpuacct\n"
V1_MEMORY = "34 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def machine(root: Path, cgroup: str, mounts: str, files: dict[str, str]) -> Path:
    """A tree with `/proc/self/cgroup`, `/proc/self/mountinfo` and files below `/sys/fs/cgroup`."""
    everything = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts}
    everything |= {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in everything.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "quota"),
    [
        pytest.param("0::/\n", V2.format(root="/"), {}, None, id="v2 without a limit"),
        pytest.param("0::/\n", V2.format(root="/"), {"cpu.max": "max 100000\n"}, None, id="v2 max"),
        pytest.param("0::/\n", V2.format(root="/"), {"cpu.max": "150000 100000\n"}, 1.5, id="v2 in a namespace"),
        pytest.param(
            "0::/user/app\n",
            V2.format(root="/"),
            {"user/cpu.max": "200000 100000\n", "user/app/cpu.max": "max 100000\n"},
            2.0,
            id="v2 a parent's limit binds",
        ),
        pytest.param(
            "0::/user/app\n",
            V2.format(root="/"),
            {"user/cpu.max": "200000 100000\n", "user/app/cpu.max": "50000 100000\n"},
            0.5,
            id="v2 the tightest counts",
        ),
        pytest.param(
            "0::/docker/abc\n",
            V2.format(root="/docker/abc"),
            {"cpu.max": "300000 100000\n"},
            3.0,
            id="v2 mounted from our group down",
        ),
        pytest.param(
            "0::/../other\n", V2.format(root="/"), {"cpu.max": "300000 100000\n"}, 3.0, id="v2 outside the namespace"
        ),
        pytest.param(
            "4:memory:/\n3:cpu,cpuacct:/app\n1:name=systemd:/\n",
            V1_MEMORY + V1.format(root="/"),
            {"cpu,cpuacct/app/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/app/cpu.cfs_period_us": "100000\n"},
            2.5,
            id="v1",
        ),
        pytest.param(
            "3:cpu,cpuacct:/\n",
            V1.format(root="/"),
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            None,
            id="v1 without a limit",
        ),
        pytest.param(
            "3:cpu,cpuacct:/docker/abc\n0::/docker/abc\n",
            V1.format(root="/docker/abc")
            + V2.format(root="/docker/abc").replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "),
            {"cpu,cpuacct/cpu.cfs_quota_us": "100000\n", "cpu,cpuacct/cpu.cfs_period_us": "50000\n"},
            2.0,
            id="v1 and v2 side by side",
        ),
        pytest.param(
            "0::/\n", V2.format(root="/"), {"cpu.max": "garbage\n"}, None, id="what can't be read limits nothing"
        ),
        pytest.param("\n", "nonsense\n", {"cpu.max": "100000 100000\n"}, None, id="no cgroups"),
    ],
)
def test_the_cgroup_quota(tmp_path: Path, cgroup: str, mounts: str, files: dict[str, str], quota: float | None) -> None:
    assert quota == cpu_quota(root=machine(tmp_path / "root", cgroup, mounts, files))


@contract("S9.1", partly=True)
@pytest.mark.parametrize(
    ("limit", "affinity", "expected"),
    [("max", 6, 6), ("150000", 6, 2), ("400000", 6, 4), ("900000", 6, 6), ("20000", 6, 1), ("max", 1, 1)],
)
def test_usable_cores_are_the_smaller_of_affinity_and_quota_rounded_up(
    tmp_path: Path, limit: str, affinity: int, expected: int
) -> None:
    root = machine(tmp_path / "root", "0::/\n", V2.format(root="/"), {"cpu.max": f"{limit} 100000\n"})
    assert expected == usable_cores(root=root, affinity=affinity)


def test_a_machine_without_proc_has_its_affinity(tmp_path: Path) -> None:
    assert 3 == usable_cores(root=tmp_path, affinity=3)


def test_this_machine() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
