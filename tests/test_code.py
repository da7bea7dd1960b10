"""New code in a running system: `sys_.change_code`, `reload`, `run --reload` (OTP: release_handler_SUITE)."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from puppets import GUEST, WAIT, place, puppet
from test_root import started


class First(pa.Actor):
    __slots__ = ("__hidden", "slot")

    def __init__(self, *n: int) -> None:
        self.n = list(n)
        self.slot, self.__hidden = "kept", "too"
        self.lock = threading.Lock()  # it stays, though it can't travel

    @pa.call
    def value(self) -> Any:
        return "first", self.n

    def hidden(self) -> str:
        return self.__hidden


class Second(First):
    def code_change(self, version: Any, extra: Any) -> None:
        self.doubled = [2 * each for each in self.n]
        if extra == "fail":
            raise ValueError("can't")

    @pa.call
    def value(self) -> Any:
        return "second", self.n, self.doubled, self.slot, self.hidden(), self.lock.locked()


@contract("S6.1", "S7.1", partly=True)
@pytest.mark.parametrize("worker", [0, 1])
def test_the_code_of_a_typed_actor_is_changed(node: pa.ActorSystem, worker: int) -> None:
    actor = pa.options(worker=worker).start(First, 1, 2)
    with pytest.raises(pa.ActorError, match="expected a suspended server"):
        pa.sys_.change_code(actor, Second)
    pa.sys_.suspend(actor)
    with pytest.raises(TypeError, match="expected a class like First to change to"):
        pa.sys_.change_code(actor, pa.GenServer)
    with pytest.raises(ValueError, match="can't"):
        pa.sys_.change_code(actor, Second, extra="fail")
    pa.sys_.resume(actor)
    assert actor.value() == ("first", [1, 2])
    pa.sys_.suspend(actor)
    pa.sys_.change_code(actor, Second)
    pa.sys_.resume(actor)
    assert actor.value() == ("second", [1, 2], [2, 4], "kept", "too", False)


# --- reload -----------------------------------------------------------------------------------------------------------

SHOP = """
    import dataclasses
    import parallel_actors as pa
    import {base}

    @dataclasses.dataclass
    class State:
        n: object

    class Server(pa.GenServer):
        vsn = {vsn!r}
        def init(self, n):
            return State(n)
        def handle_call(self, request, from_, state):
            if request == "wait":
                pa.send(from_[0], "waiting")
                pa.receive("go on")
            return pa.Reply((Server.vsn, state.n, isinstance(state, State), {base}.word()))
        def code_change(self, version, state, extra):
            if state.n == "bad":
                raise ValueError("can't")
            return State((version, state.n))

    class Actor(pa.Actor):
        def __init__(self, n):
            self.state = State(n)
        @pa.call
        def value(self):
            return Server.vsn, self.state.n, isinstance(self.state, State)
        @pa.call
        def {extra}(self):
            return "there"

    class Heir({base}.Base):
        pass

    def loop():
        while True:
            asker = pa.receive()
            pa.send(asker, (Server.vsn, {base}.word()))
"""

BASE = """
    import parallel_actors as pa

    class Base(pa.GenServer):
        def handle_call(self, request, from_, state):
            return pa.Reply({word!r})

    def word():
        return {word!r}
"""


class Program:
    """Two modules of a program, whose text changes; no other test has modules of these names."""

    count = 0

    def __init__(self, folder: Path) -> None:
        Program.count += 1
        self.folder = folder
        self.shop_name = f"shop_{os.getpid()}_{Program.count}"
        self.base_name = f"base_{os.getpid()}_{Program.count}"
        self.write(vsn=1, extra="former", word="a")

    def write(self, *, vsn: int | None = None, extra: str = "later", word: str | None = None) -> None:
        if word is not None:
            (self.folder / f"{self.base_name}.py").write_text(textwrap.dedent(BASE).format(word=word))
        if vsn is not None:
            text = textwrap.dedent(SHOP).format(vsn=vsn, base=self.base_name, extra=extra)
            (self.folder / f"{self.shop_name}.py").write_text(text)

    def spoil(self, text: str) -> None:
        (self.folder / f"{self.shop_name}.py").write_text(text)


def add_path(folder: str) -> None:
    sys.path.insert(0, folder)


def remove_path(folder: str) -> None:
    sys.path.remove(folder)


def have_imported(module: str) -> None:
    importlib.import_module(module)


@pytest.fixture
def program(node: pa.ActorSystem, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path)
    workers = [puppet(worker) for worker in (0, 1)]
    for worker in workers:
        worker.do(add_path, str(tmp_path))
    add_path(str(tmp_path))
    yield made
    sys.path.remove(str(tmp_path))
    for worker in workers:
        worker.do(remove_path, str(tmp_path))
    sys.modules.pop(made.shop_name, None)
    sys.modules.pop(made.base_name, None)


@pytest.fixture
def the_shop(program: Program) -> Any:
    importlib.invalidate_caches()
    return importlib.import_module(program.shop_name)


@contract("S6.1")
def test_a_hundred_servers_on_both_workers_go_on_with_new_code(program: Program, the_shop: Any) -> None:
    servers = [pa.options(worker=number % 2).start(the_shop.Server, number) for number in range(50)]
    actors = [pa.options(worker=number % 2).start(the_shop.Actor, number) for number in range(50)]
    assert (1, 7, True, "a") == pa.call(servers[7], "state")
    program.write(vsn=2)
    done = pa.reload(program.shop_name)
    assert [program.shop_name] == done.modules
    assert {*servers, *(actor.__pid__ for actor in actors)} == set(done.changed)
    assert ({}, []) == (done.failed, done.busy)
    assert [(2, (1, n), True, "a") for n in range(50)] == [pa.call(server, "state") for server in servers]
    # An actor without code_change keeps its attributes; who has an old reference finds the new calls.
    assert [(2, n, True) for n in range(50)] == [actor.value() for actor in actors]
    assert "there" == actors[0].later()
    with pytest.raises(AttributeError, match="its calls and casts are: value, later"):
        actors[0].former()


@contract("S6.1", partly=True)
def test_a_server_that_cannot_be_changed_keeps_its_old_code(program: Program, the_shop: Any) -> None:
    bad, good = pa.start(the_shop.Server, "bad"), pa.start(the_shop.Server, "good")
    program.write(vsn=2, word="b")
    done = pa.reload(program.shop_name, program.base_name)
    assert {bad: "ValueError: can't"} == done.failed
    assert [good] == done.changed
    assert f"{bad!r} goes on with its old code: ValueError: can't" in str(done)
    assert (1, "bad", True, "a") == pa.call(bad, "state")  # all of it: what it calls in other modules, too
    assert (2, (1, "good"), True, "b") == pa.call(good, "state")


@contract("S6.1", partly=True)
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("def broken(:", SyntaxError),
        ("import sys\n1 / 0", ZeroDivisionError),
        ("import no_such_module_anywhere", ModuleNotFoundError),
    ],
)
@pytest.mark.parametrize("caller", ["guest", "worker"])
def test_code_that_cannot_be_loaded_changes_nothing(
    program: Program, the_shop: Any, text: str, error: type[Exception], caller: str
) -> None:
    servers = [pa.options(worker=worker).start(the_shop.Server, worker) for worker in (0, 1)]
    program.spoil(text)
    with pytest.raises(pa.ActorError, match=f"can't be loaded, and the old one goes on: {error.__name__}") as caught:
        place(GUEST if caller == "guest" else 1).do(pa.reload, program.shop_name)
    assert isinstance(caught.value.__cause__, error) or caller == "worker"
    assert [(1, 0, True, "a"), (1, 1, True, "a")] == [pa.call(server, "state") for server in servers]
    assert sys.modules[program.shop_name] is the_shop
    assert (1, 2, True, "a") == pa.call(pa.start(the_shop.Server, 2), "state")


@contract("S6.1", partly=True)
def test_what_is_started_later_has_the_new_code(program: Program, the_shop: Any) -> None:
    pa.trap_exit(True)
    supervisor = pa.Supervisor.start_link(
        [
            pa.child(the_shop.Server, 1, name="kept", worker=0),
            pa.child(the_shop.Actor, 2, name="actor", worker=1),
            pa.child(the_shop.loop, id="loop", name="loop"),
        ]
    )
    former = the_shop.Server
    heir = pa.start(the_shop.Heir)
    program.write(vsn=2, word="b")
    done = pa.reload(program.base_name)
    # What derives from it is loaded with it.
    assert [program.base_name, program.shop_name] == done.modules
    assert "b" == pa.call(heir, "word")
    pa.send("loop", pa.self_())
    assert (1, "a") == pa.receive(timeout=WAIT)  # a function that runs keeps its code
    for name, message in (("kept", "state"), ("actor", ("value", (), None)), ("loop", None)):
        before = pa.whereis(name)
        pa.exit(name, "kill")
        eventually(lambda name=name, before=before: pa.whereis(name) not in (None, before), "it is started again")  # type: ignore[misc]
        if message is not None:
            assert 2 == pa.call(name, message)[0]
    pa.send("loop", pa.self_())
    assert (2, "b") == pa.receive(timeout=WAIT)
    assert (2, 5, True, "b") == pa.call(pa.start(former, 5), "state")
    pa.stop(supervisor, "shutdown")


def test_a_busy_server_changes_when_it_has_time(program: Program, the_shop: Any) -> None:
    server = pa.start(the_shop.Server, 1)
    request = pa.send_request(server, "wait")
    pa.receive("waiting", timeout=WAIT)
    program.write(vsn=2)
    done = pa.reload(program.shop_name, timeout=0.01)
    assert ([server], []) == (done.busy, done.changed)
    assert "busy still" in str(done)
    pa.send(server, "go on")
    assert (1, 1, True, "a") == request.wait(WAIT)
    assert (2, (1, 1), True, "a") == pa.call(server, "state", timeout=WAIT)


def test_a_module_of_functions_goes_on_with_the_new_one(program: Program, tmp_path: Path) -> None:
    name = f"functions_{program.shop_name}"
    text = "import parallel_actors as pa\nvsn = {0}\ndef init(n): return n\ndef handle_call(*a): return pa.Reply(vsn)\n"
    (tmp_path / f"{name}.py").write_text(text.format(1))
    importlib.invalidate_caches()
    module = importlib.import_module(name)
    try:
        server = pa.options(worker=1).start(module, 3)
        assert 1 == pa.call(server, "vsn")
        (tmp_path / f"{name}.py").write_text(
            text.format(2) + "def code_change(version, state, extra): return (version, state, extra)\n"
        )
        assert [server] == pa.reload(module).changed
        assert 2 == pa.call(server, "vsn")
        assert (1, 3, None) == pa.sys_.get_state(server)
    finally:
        del sys.modules[name]


def test_servers_move_again_when_the_code_is_loaded(program: Program, the_shop: Any) -> None:
    server = pa.options(worker=0).start(the_shop.Server, 1)
    actor = pa.options(worker=0).start(the_shop.Actor, 1)
    bad = pa.options(worker=0).start(the_shop.Server, "bad")
    program.write(vsn=2)
    pa.reload(program.shop_name)
    for each in (server, actor.__pid__):
        pa.migrate(each, 1)
        assert pa.process_info(each, "worker") == 1
    assert (2, (1, 1), True, "a") == pa.call(server, "state")
    assert (2, 1, True) == actor.value()
    assert (1, "bad", True, "a") == pa.call(bad, "state")


def test_bad_input(node: pa.ActorSystem) -> None:
    with pytest.raises(TypeError, match="expected a module or the name of one, got 5"):
        pa.reload(5)  # type: ignore[arg-type]
    for name in ("no_such_module", "sys", "__main__"):
        with pytest.raises(ValueError, match=r"expected the name of a module with a \.py file, got"):
            pa.reload(name)
    with pytest.raises(ValueError, match="the library itself can't be loaded anew"):
        pa.reload(pa.sys_)


def test_a_worker_that_dies_meanwhile(actor_system: pa.ActorSystem, tmp_path: Path) -> None:
    """The other one goes on; the new one imports what is new anyway."""
    program = Program(tmp_path)
    mark = tmp_path / "mark"
    for worker in (0, 1):
        puppet(worker).do(add_path, str(tmp_path))
        puppet(worker).do(have_imported, program.shop_name)
    server = puppet(0).do(start_server, program.shop_name)
    program.write(vsn=2)
    with (tmp_path / f"{program.shop_name}.py").open("a") as file:
        file.write(
            "\nimport os, signal\n"
            f"if pa.worker_index() == 1 and not os.path.exists({str(mark)!r}):\n"
            f"    open({str(mark)!r}, 'w').close()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
    done = puppet(0).do(pa.reload, program.shop_name)
    assert mark.exists()
    assert [server] == done.changed
    assert (2, (1, 1), True, "a") == pa.call(server, "state")


def start_server(module: str) -> Any:
    return pa.start(sys.modules[module].Server, 1)


# --- parallel-actors run --reload -------------------------------------------------------------------------------------

RELOADED = """
    import parallel_actors as pa
    import words

    class Talker(pa.GenServer):
        def init(self):
            return pa.Ok(0, timeout=0.02)
        def handle_info(self, message, n):
            print({mark!r}, words.word(), n)
            return pa.NoReply(n + 1, timeout=0.02)

    class App(pa.Application):
        def start(self, args):
            return pa.Supervisor.start_link([pa.child(Talker, id=n, worker=n) for n in range(2)])
"""


@contract("S6.1", "S9.4", partly=True)
def test_run_reload_loads_what_is_edited(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    program, words = tmp_path / "program.py", tmp_path / "words.py"
    program.write_text(textwrap.dedent(RELOADED).format(mark="old"))
    words.write_text("def word(): return 'a'\n")
    command = (sys.executable, "-m", "parallel_actors", "run", "--workers", "2", "--reload", "program.py:App")
    with started(*command, cwd=tmp_path) as running:
        running.out.expect("old a 1\n")
        program.write_text("def broken(:\n")
        running.err.expect("SyntaxError")
        before = running.out.text.count("old a")
        eventually(lambda: running.out.text.count("old a") > before, "the old code goes on")
        program.write_text(textwrap.dedent(RELOADED).format(mark="new"))
        running.err.expect("loaded program; servers changed: 2")
        running.out.expect("new a")
        words.write_text("def word(): return 'b'\n")
        running.err.expect("loaded words; servers changed: 0")
        running.out.expect("new b")
        running.ctrl_c()
        assert 130 == running.end()
        counts = [int(line.split()[2]) for line in running.out.close().splitlines()]
        assert 2 == counts.count(0)  # both kept their state
