"""Applications: order of start and stop, what an end means, the environment, `run` (OTP: application_SUITE)."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from parallel_actors.application import boot, parsed
from puppets import get, mail, puppet, take
from test_death import gone
from test_root import Running, started

THE_TEST = "the_test"


def tell(*words: object) -> None:
    pa.send(THE_TEST, (time.monotonic_ns(), words))


def told(count: int) -> list[Any]:
    """What was told, in the order of its time: what comes from two workers may come in any."""
    found = [words for _, words in sorted(take(count))]
    assert [] == mail()
    return found


class Child(pa.GenServer):
    def init(self, name: str) -> str:
        tell("up", name)
        return name

    def terminate(self, reason: Any, state: str) -> None:
        tell("down", state)


class Talking(pa.Application):
    """Says what happens to it; its tree has two children."""

    def start(self, args: Any) -> Any:
        name = type(self).__name__
        children = [pa.child(Child, f"{name}.{number}", name=f"{name}.{number}") for number in (1, 2)]
        return pa.Supervisor.start_link(children), ["state of", name]

    def prep_stop(self, state: Any) -> Any:
        tell("prep_stop", *state)
        return [*state, "prepared"]

    def stop(self, state: Any) -> None:
        tell("stop", *state)


class Base(Talking):
    env: ClassVar[Mapping[str, Any]] = {"size": 3}


class Other(Talking):
    pass


class Above(Talking):
    applications = (Base, f"{__name__}:Other")


class Failing(pa.Application):
    applications = (Base,)

    def start(self, args: Any) -> Any:
        return pa.Supervisor.start_link([pa.child(Child, "before"), pa.child(fails)])


class fails:
    def init(self) -> None:
        raise ValueError("no good")


class Phases(Talking):
    start_phases = (("one", 1), ("two", 2))

    def start(self, args: Any) -> Any:
        self.fail = args
        return super().start(args)

    def start_phase(self, phase: str, args: Any) -> None:
        tell(phase, args)
        if phase == self.fail:
            raise ValueError("bad phase")


class Circle(pa.Application):
    applications = (f"{__name__}:OtherCircle",)


class OtherCircle(pa.Application):
    applications = (Circle,)


class Single(pa.Application):
    """Its tree is one process."""

    env: ClassVar[Mapping[str, Any]] = {"port": 80, "host": "here", "ratio": 0.5, "debug": False, "extra": None}

    def start(self, args: Any) -> Any:
        return pa.options(name="single").start_link(pa.GenServer, args)


@pytest.fixture
def here(node: pa.ActorSystem) -> Any:
    """The test hears from applications; none is left running."""
    pa.register(THE_TEST, pa.self_())
    yield
    for info in reversed(pa.application.started_applications()):
        pa.application.stop(info.name)
    mail()
    pa.unregister(THE_TEST)


def ups(*names: str) -> list[Any]:
    return [("up", f"{name}.{number}") for name in names for number in (1, 2)]


def downs(name: str) -> list[Any]:
    return [
        ("prep_stop", "state of", name),
        ("down", f"{name}.2"),
        ("down", f"{name}.1"),
        ("stop", "state of", name, "prepared"),
    ]


def running() -> list[str]:
    return [info.name.rpartition(":")[2] for info in pa.application.started_applications()]


# --- start and stop ---------------------------------------------------------------------------------------------------


@contract("S8.6", partly=True)
def test_applications_start_after_what_they_need_and_stop_in_reverse(here: None) -> None:
    names = pa.application.ensure_all_started(Above)
    assert [f"{__name__}:{name}" for name in ("Base", "Other", "Above")] == names
    assert names == [info.name for info in pa.application.started_applications()]
    assert ups("Base", "Other", "Above") == told(6)
    assert [] == pa.application.ensure_all_started([Above, Base])
    for name in ("Above", "Other", "Base"):
        pa.application.stop(f"{__name__}:{name}")
        assert downs(name) == told(4)
    assert [] == running()


@contract("S8.6", partly=True)
def test_what_an_application_needs_must_run(here: None) -> None:
    with pytest.raises(pa.StartError, match=r"Above needs .*:Base, which doesn't run") as caught:
        pa.application.start(Above)
    assert caught.value.reason == ("not_started", f"{__name__}:Base")
    pa.application.start(Base)
    with pytest.raises(pa.StartError, match="expected an application that doesn't run") as caught:
        pa.application.start(Base)
    assert caught.value.reason == ("already_started", f"{__name__}:Base")
    pa.application.ensure_started(Base)
    assert ["Base"] == running()
    with pytest.raises(pa.ActorError, match="expected an application that runs") as stopped:
        pa.application.stop(Other)
    assert stopped.value.reason == ("not_started", f"{__name__}:Other")


@contract("S8.6", partly=True)
def test_a_failing_start_stops_those_that_were_started_for_it(here: None) -> None:
    pa.application.start(Other)
    take(2)
    with pytest.raises(pa.StartError, match=r"Failing did not start: .*no good") as caught:
        pa.application.ensure_all_started([Above, Failing])
    assert isinstance(caught.value.reason, pa.Shutdown)
    assert caught.value.reason.term[:2] == ("failed_to_start_child", "fails")
    expected = [*ups("Base", "Above"), ("up", "before"), ("down", "before"), *downs("Above"), *downs("Base")]
    assert expected == told(len(expected))
    assert ["Other"] == running()


@contract("S8.6", partly=True)
@pytest.mark.parametrize("bad", ["two", None])
def test_start_phases(here: None, bad: str | None) -> None:
    if bad is None:
        pa.application.start(Phases)
        assert [*ups("Phases"), ("one", 1), ("two", 2)] == told(4)
        return
    with pytest.raises(pa.StartError, match="Phases did not start: bad phase") as caught:
        pa.application.start(Phases, args=bad)
    assert caught.value.remote_traceback is not None
    assert "start_phase" in caught.value.remote_traceback
    assert isinstance(caught.value.__cause__, ValueError)
    assert [("one", 1), ("two", 2), ("down", "Phases.2"), ("down", "Phases.1")] == told(6)[2:]
    assert [] == running()


def start_base() -> str:
    try:
        pa.application.start(Base)
    except pa.StartError as error:
        return str(error.reason[0])
    return "started"


def test_of_two_that_start_one_application_both_have_it(here: None) -> None:
    tasks = [pa.Task.async_(start_base) for _ in range(4)]
    assert {"started"} <= {task.await_() for task in tasks} <= {"started", "already_started"}
    assert ups("Base") == told(2)


class Wrong(pa.Application):
    def start(self, args: Any) -> Any:
        return args


@pytest.mark.parametrize("wrong", [None, "up", (1, 2)])
def test_a_start_that_gives_no_pid(here: None, wrong: object) -> None:
    with pytest.raises(pa.StartError, match=r"expected Wrong.start to return a pid or"):
        pa.application.start(Wrong, args=wrong)


def test_bad_input(here: None) -> None:
    with pytest.raises(TypeError, match="expected a class of Application"):
        pa.application.start(Child)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='expected the name of an application, "module:Name", got'):
        pa.application.start("shop")
    with pytest.raises(ValueError, match="expected 'os:path' to be a class of Application, got <module"):
        pa.application.start("os:path")
    with pytest.raises(ValueError, match="expected type to be permanent, transient or temporary, got 'for_ever'"):
        pa.application.start(Base, "for_ever")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected no application to need itself, got .*Circle -> .*Circle -> "):
        pa.application.ensure_all_started(Circle)
    with pytest.raises(pa.StartError, match=r"expected Application to have start\(self, args\)"):
        pa.application.start(pa.Application)
    with pytest.raises(pa.NotPicklable):
        pa.application.start(Single, args=(iter([]) for _ in ()))
    assert [] == running()


def stop_single() -> None:
    pa.application.stop(Single)


def test_an_application_is_stopped_by_a_part_of_itself(here: None) -> None:
    pa.application.start(Stops)
    eventually(lambda: [] == running(), "it has stopped")


class Stops(pa.Application):
    def start(self, args: Any) -> Any:
        return pa.Supervisor.start_link([pa.child(pa.application.stop, Stops)])


def test_a_stop_that_takes_too_long_goes_on(here: None) -> None:
    pa.application.start(Slow)
    with pytest.raises(pa.CallTimeout, match=r"did not stop within 0.01 s"):
        pa.application.stop(Slow, timeout=0.01)
    pa.send(get()[1][1], "go on")
    eventually(lambda: [] == running(), "it has stopped")


class Slow(Single):
    def prep_stop(self, state: Any) -> Any:
        tell("stopping", pa.self_())
        pa.receive("go on")
        raise ValueError("reported, and the stop goes on")

    def stop(self, state: Any) -> None:
        raise ValueError("reported, too")


# --- an end that nobody has ordered -----------------------------------------------------------------------------------

FATAL = [
    ("permanent", "normal"),
    ("permanent", "shutdown"),
    ("permanent", "boom"),
    ("transient", "shutdown"),
    ("transient", "boom"),
]
REPORTED = [("transient", "normal"), ("temporary", "normal"), ("temporary", "shutdown"), ("temporary", "boom")]


@contract("S8.6", partly=True)
@pytest.mark.parametrize(("type", "reason"), FATAL)
def test_an_end_that_stops_the_node(type: Any, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pa.ActorSystem(workers=1) as system:
        pa.application.start(Single, type)
        pa.stop("single", reason)
        eventually(lambda: not system.running, "the node has stopped")
    assert f"application {__name__}:Single ended: {reason}; it is {type}: the node stops" in capfd.readouterr().err


@contract("S8.6", partly=True)
def test_an_end_that_is_only_reported(here: None) -> None:
    for type, reason in REPORTED:
        pa.application.start(Single, type)  # type: ignore[arg-type]
        pa.stop("single", reason)
        eventually(lambda: [] == running(), "it has ended")


@contract("S8.6", partly=True)
def test_an_end_by_itself_is_cleaned_up_after(here: None) -> None:
    pa.application.start(Base)
    top = pa.application.started_applications()[0].pid
    take(2)
    pa.stop(top, "shutdown")
    eventually(lambda: [] == running(), "it has ended")
    assert told(4) == [
        ("down", "Base.2"),
        ("down", "Base.1"),
        ("prep_stop", "state of", "Base"),
        ("stop", "state of", "Base", "prepared"),
    ]


# --- workers die, and leave -------------------------------------------------------------------------------------------


@contract("S8.6", "S9.2", partly=True)
def test_an_application_whose_worker_dies_is_started_again(actor_system: pa.ActorSystem) -> None:
    pa.register(THE_TEST, pa.self_())
    pa.application.ensure_all_started(Above, "permanent")
    for _ in range(2):
        before = {info.name: info.pid for info in pa.application.started_applications()}
        worker = before[f"{__name__}:Above"].worker
        os.kill(actor_system.worker_pids[worker], signal.SIGKILL)

        def healed(worker: int = worker, before: dict[str, pa.Pid] = before) -> bool:
            now = {info.name: info.pid for info in pa.application.started_applications()}
            lived = [name for name, pid in before.items() if pid.worker != worker]
            return (
                now.keys() == before.keys()
                and all(pid not in before.values() or name in lived for name, pid in now.items())
                and all(pa.whereis(f"{name}.{n}") for name in ("Base", "Other", "Above") for n in (1, 2))
            )

        eventually(healed, "all of them are up again")
    mail()
    pa.application.stop(Above)
    assert downs("Above") == told(4)


class Lingering(pa.GenServer):
    """Ends when it is told to; until then it has its name."""

    def init(self) -> None:
        pa.trap_exit(True)
        tell("up", pa.self_())

    def terminate(self, reason: Any, state: Any) -> None:
        tell("ending", pa.self_())
        pa.receive("end")


class Lingers(pa.Application):
    def start(self, args: Any) -> Any:
        here = pa.worker_index()
        assert here is not None
        return pa.Supervisor.start_link([pa.child(Lingering, name="lingering", worker=1 - here, shutdown="infinity")])


@contract("S8.6", "S9.2", partly=True)
def test_what_a_dead_worker_has_left_elsewhere_ends_before_the_tree_is_started_again(
    actor_system: pa.ActorSystem,
) -> None:
    pa.register(THE_TEST, pa.self_())
    pa.application.start(Lingers)
    ((_, former),) = told(1)
    os.kill(actor_system.worker_pids[1 - former.worker], signal.SIGKILL)
    assert [("ending", former)] == told(1)
    eventually(lambda: pa.process_info(former, "monitored_by"), "its end is waited for")
    pa.send(former, "end")
    ((_, later),) = told(1)
    assert former != later
    eventually(lambda: ["Lingers"] == running(), "it is up again")
    pa.spawn(pa.application.stop, Lingers)
    assert [("ending", later)] == told(1)
    pa.send(later, "end")
    eventually(lambda: [] == running(), "it has stopped")


class Deadly(pa.Application):
    def start(self, args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


@contract("S8.6", partly=True)
def test_an_application_that_kills_its_workers_is_given_up(actor_system: pa.ActorSystem) -> None:
    with pytest.raises(pa.StartError, match="Deadly did not start: it died with its worker more than 3 times in 5 s"):
        pa.application.start(Deadly)
    assert [] == running()


@contract("S8.6", partly=True)
def test_an_application_moves_from_a_worker_that_leaves(actor_system: pa.ActorSystem) -> None:
    pa.register(THE_TEST, pa.self_())
    pa.application.start(Base)
    (info,) = pa.application.started_applications()
    take(2)
    pa.remove_worker(info.pid.worker, timeout=None)
    assert [] == mail()
    assert [info] == pa.application.started_applications()
    assert pa.is_alive(info.pid)
    pa.application.stop(Base)
    assert downs("Base") == told(4)


# --- the environment --------------------------------------------------------------------------------------------------


@contract("S8.6", partly=True)
def test_the_environment_is_the_nodes(here: None) -> None:
    name = f"{__name__}:Single"
    assert pa.application.get_env(Single, "port") == 80
    assert pa.application.get_env(Single, "nothing", "default") == "default"
    with pytest.raises(KeyError, match="got 'prot'; there are debug, extra, host, port, ratio"):
        pa.application.fetch_env(Single, "prot")
    puppet(0).do(pa.application.put_env, Single, "port", {"a": [1]})
    for worker in (0, 1):
        assert puppet(worker).do(pa.application.fetch_env, name, "port") == {"a": [1]}
    assert pa.application.get_all_env(name) == {**Single.env, "port": {"a": [1]}}
    pa.application.delete_env(name, "port")
    pa.application.delete_env(name, "nothing")
    assert pa.application.get_all_env(Single) == Single.env
    with pytest.raises(TypeError, match="expected the key of an environment to be a str, got 5"):
        pa.application.get_env(Single, 5)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="got 'a'; there is none"):
        pa.application.fetch_env(Other, "a")


@contract("S8.6", partly=True)
def test_settings_of_the_command_line(here: None) -> None:
    boot(Single, [], ["port=8080", "host=1", "ratio=2", "debug=true", "extra=[1, 2]"])
    assert {"port": 8080, "host": "1", "ratio": 2.0, "debug": True, "extra": [1, 2]} == {
        key: pa.application.get_env(Single, key) for key in Single.env
    }
    for key in Single.env:
        pa.application.delete_env(Single, key)
    boot(Above, [], [f"{__name__}:Base.size=4"])
    assert pa.application.get_env(Base, "size") == 4
    pa.application.delete_env(Base, "size")
    assert "text = x" == parsed("text = x", None)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("port", "--env: expected KEY=VALUE or MODULE:NAME.KEY=VALUE, got 'port'"),
        ("=1", "--env: expected KEY=VALUE"),
        ("prot=1", "--env prot=1: expected a key of the env of .*:Single, got 'prot'; there are debug"),
        ("shop:App.port=1", "--env shop:App.port=1: expected one of .*:Single, got 'shop:App'"),
        ("port=x", "--env port=x: expected a whole number, got 'x'"),
        ("ratio=x", "--env ratio=x: expected a number, got 'x'"),
        ("debug=1", "--env debug=1: expected true or false, got '1'"),
    ],
)
def test_settings_that_do_not_fit(here: None, setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        boot(Single, [], [setting])
    assert [] == running()


# --- parallel-actors run ----------------------------------------------------------------------------------------------

SHOP = """
    import os
    import sys
    import parallel_actors as pa

    class Till(pa.Actor):
        def __init__(self, name):
            self.name = name
            print("up", name)
        def terminate(self, reason):
            print("down", self.name)

    def till(name):
        return pa.child(Till, name, name=name, worker=0)  # what one worker prints stays in order

    class Store(pa.Application):
        def start(self, args):
            return pa.Supervisor.start_link([till("shelf")])

    class App(pa.Application):
        applications = (Store,)
        env = {"end": "never"}
        def start(self, args):
            end = pa.application.get_env(App, "end")
            print("start", args, end)
            if end == "fails":
                raise ValueError("no good")
            if end == "exits":
                sys.exit(3)
            if end == "stopped":
                stops = [pa.child(pa.application.stop, App)]
            elif end == "crashes":
                stops = [pa.child(crash)]
            elif end == "normal":
                return pa.spawn_link(int)
            else:
                stops = []
            return pa.Supervisor.start_link([till("one"), till("two"), *stops])

    def crash():
        raise ValueError("again and again")

    def main():
        pass
"""


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "shop.py").write_text(textwrap.dedent(SHOP))

    def start(*words: str) -> Any:
        return started(sys.executable, "-m", "parallel_actors", "run", "--workers", "2", *words, cwd=tmp_path)

    return start


@contract("S8.6", "S9.4", partly=True)
@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("stopped", 0, ""),
        ("normal", 0, "application shop:App ended: normal; it is permanent: the node stops"),
        ("crashes", 1, "application shop:App ended: shutdown; it is permanent: the node stops"),
        ("fails", 1, "parallel-actors: {}: shop:App did not start: no good"),
        ("exits", 3, ""),
    ],
)
def test_the_exit_code_says_how_an_application_ended(shop: Any, tmp_path: Path, end: str, code: int, said: str) -> None:
    target = f"{tmp_path}/shop.py:App"
    with shop("--env", f"end={end}", target, "--flag", "x") as program:
        assert code == program.end()
        out = program.out.close().splitlines()
        assert {"up shelf", f"start ['--flag', 'x'] {end}"} <= set(out)
        assert "down shelf" == out[-1]  # the other has stopped, and so does what it needs
        assert said.format(target) in program.err.close()


def test_a_function_has_no_env(shop: Any) -> None:
    with shop("--env", "end=now", "shop.py") as program:
        assert 1 == program.end()
        assert "expected --env with an application, got" in program.err.close()


def test_a_target_that_is_mistyped(shop: Any) -> None:
    with shop("shop:Ap") as program:
        assert 2 == program.end()
        assert "did you mean shop.py:App?" in program.err.close()


@contract("S8.6", "S9.4", "S9.5", partly=True)
def test_ctrl_c_stops_applications_and_their_trees_in_reverse(shop: Any) -> None:
    program: Running
    with shop("shop:App") as program:
        program.out.expect("up two\n")
        everybody = program.family()
        program.ctrl_c()
        assert 130 == program.end()
        assert program.out.close().splitlines()[-3:] == ["down two", "down one", "down shelf"]
        assert program.err.close() == (
            "parallel-actors: interrupted: stopping (Ctrl-C again: stop now)\n"
            "parallel-actors: stopped shop:App, shop:Store\n"
        )
        eventually(lambda: gone(everybody), "nothing is left")
