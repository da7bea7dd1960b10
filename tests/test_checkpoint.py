"""Checkpoints and what children carry from one life into the next (S7.4)."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from puppets import WAIT, puppet


def store_of(kind: str, folder: Path) -> pa.MemoryStore | pa.SQLiteStore:
    return pa.MemoryStore() if kind == "memory" else pa.SQLiteStore(folder / "checkpoints.db")


# --- saving and restoring ---------------------------------------------------------------------------------------------


@contract("S7.4", partly=True)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_what_was_saved_is_restored(node: pa.ActorSystem, tmp_path: Path, kind: str) -> None:
    server = pa.start(pa.Checkpoints, store_of(kind, tmp_path))
    value: Any = {"a": [1, 2], "big": bytes(1_000_000)}
    pa.Checkpoints.save(server, "one", value)
    puppet(1).do(pa.Checkpoints.save, server, "two", lambda: 7)
    value["a"] = "changed later"
    assert {"a": [1, 2], "big": bytes(1_000_000)} == puppet(0).do(pa.Checkpoints.restore, server, "one")
    assert 7 == pa.Checkpoints.restore(server, "two")()
    pa.Checkpoints.save(server, "one", None)
    assert pa.Checkpoints.restore(server, "one", "default") is None
    assert "default" == pa.Checkpoints.restore(server, "three", "default")
    assert ["one", "two"] == pa.Checkpoints.keys(server)
    pa.Checkpoints.delete(server, "one")
    pa.Checkpoints.delete(server, "three")
    assert "default" == asyncio.run(pa.Checkpoints.arestore(server, "one", "default"))
    asyncio.run(pa.Checkpoints.asave(server, "one", 1))
    assert 1 == pa.Checkpoints.restore(server, "one")
    pa.migrate(server, 1 - pa.process_info(server, "worker"), WAIT)
    pa.Checkpoints.save(server, "three", 3)
    assert [1, 3] == [pa.Checkpoints.restore(server, key) for key in ("one", "three")]


@contract("S7.4", partly=True)
def test_a_file_outlives_its_server(node: pa.ActorSystem, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.db"
    for n in range(3):
        server = pa.start(pa.Checkpoints, pa.SQLiteStore(path))
        assert n == pa.Checkpoints.restore(server, "n", 0)
        pa.Checkpoints.save(server, "n", n + 1)
        ref = pa.monitor(server)
        if n == 0:
            pa.stop(server)
            assert [path] == list(tmp_path.iterdir()), "it is closed"
        else:
            pa.exit(server, "kill")
        pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT)


def test_a_save_is_all_or_nothing(tmp_path: Path) -> None:
    store = pa.SQLiteStore(tmp_path / "checkpoints.db")
    store.save({"a": b"1", "b": b"2"})
    with pytest.raises(sqlite3.Error):
        store.save({"a": None, "c": b"3", "d": object()})  # type: ignore[dict-item]
    store.save({})
    assert ["a", "b"] == store.keys()
    store.close()


_PROGRAM = """
import sys
import parallel_actors as pa

def save_for_ever(path):
    server = pa.options(worker=1).start(pa.Checkpoints, pa.SQLiteStore(path))
    for n in range(1, 10**9):
        pa.Checkpoints.save(server, "a", n)
        print(n, flush=True)
        pa.Checkpoints.save(server, "b", n)

if __name__ == "__main__":
    with pa.ActorSystem(workers=2):
        print(pa.process_info(pa.self_(), "status"), flush=True)
        save_for_ever(sys.argv[1])
"""


@contract("S7.4", partly=True)
def test_what_is_committed_survives_the_death_of_everything(tmp_path: Path) -> None:
    """Of a program that is killed with its root and its workers in the middle of a save, what it was told is there."""
    path = tmp_path / "checkpoints.db"
    (tmp_path / "program.py").write_text(_PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(path)], stdout=subprocess.PIPE, text=True, process_group=0
    ) as program:
        assert program.stdout is not None
        said = [program.stdout.readline() for _ in range(20)]
        os.killpg(program.pid, signal.SIGKILL)
        said += program.stdout.readlines()
    last = int([line for line in said if line.endswith("\n")][-1])
    with pa.ActorSystem(workers=1):
        server = pa.start(pa.Checkpoints, pa.SQLiteStore(path))
        found = pa.Checkpoints.restore(server, "a"), pa.Checkpoints.restore(server, "b")
        assert last <= found[0] <= last + 1
        assert found[0] - 1 <= found[1] <= found[0]


def test_a_worker_is_not_held_up_by_a_file(node: pa.ActorSystem, tmp_path: Path) -> None:
    """While another program has the file locked, a save waits, and its worker goes on."""
    path = tmp_path / "checkpoints.db"
    server = pa.options(worker=1).start(pa.Checkpoints, pa.SQLiteStore(path))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    request = pa.send_request(server, ("save", {"a": b"1"}, False))
    assert 1 == puppet(1).do(pa.worker_index)
    with pytest.raises(pa.CallTimeout):
        request.wait(0)
    other.execute("COMMIT")
    assert (True, None) == request.wait(WAIT)
    other.close()


class BadStore(pa.MemoryStore):
    """Refuses what begins with an x."""

    def save(self, items: Any) -> None:
        if any(key.startswith("x") for key in items):
            raise OSError(28, "No space left on device")
        super().save(items)


def test_what_a_store_raises_is_raised_in_who_asked(node: pa.ActorSystem) -> None:
    server = pa.start(pa.Checkpoints, BadStore())
    with pytest.raises(OSError, match="No space left"):
        pa.Checkpoints.save(server, "x", 1)
    pa.Checkpoints.save(server, "y", 1)
    assert ["y"] == pa.Checkpoints.keys(server)


def test_bad_input_is_refused(node: pa.ActorSystem, tmp_path: Path) -> None:
    server = pa.start(pa.Checkpoints, pa.MemoryStore())
    with pytest.raises(TypeError, match="expected the key of a checkpoint to be a str, got 3"):
        pa.Checkpoints.save(server, 3, 1)  # type: ignore[arg-type]
    with pytest.raises(pa.NotPicklable, match="lock"):
        pa.Checkpoints.save(server, "a", {"lock": threading.Lock()})
    with pytest.raises(pa.NoProc):
        pa.Checkpoints.restore("nobody", "a")
    with pytest.raises(pa.StartError, match="expected a store"):
        pa.start(pa.Checkpoints, tmp_path)
    with pytest.raises(pa.StartError, match="unable to open"):
        pa.start(pa.Checkpoints, pa.SQLiteStore(tmp_path / "no folder" / "x.db"))
    (tmp_path / "text").write_text("This is no database. " * 100)
    with pytest.raises(pa.StartError, match="not a database"):
        pa.start(pa.Checkpoints, pa.SQLiteStore(tmp_path / "text"))
    with pytest.raises(TypeError):
        pa.SQLiteStore(3)  # type: ignore[arg-type]
    with pytest.raises(pa.StartError, match="interval"):
        pa.start(pa.Checkpoints, pa.MemoryStore(), above=server, every=0)


@contract("S7.4", partly=True)
def test_levels(node: pa.ActorSystem, tmp_path: Path) -> None:
    """What is saved below comes to the level above now and then, at an end, or at once; and is found there."""
    above = pa.start(pa.Checkpoints, pa.SQLiteStore(tmp_path / "above.db"))
    save, restore, delete = pa.Checkpoints.save, pa.Checkpoints.restore, pa.Checkpoints.delete
    save(above, "old", 0)
    below = pa.start(pa.Checkpoints, pa.MemoryStore(), above=above, every=1000)
    save(below, "a", 1)
    assert (1, None) == (restore(below, "a"), restore(above, "a"))
    save(below, "b", 2, through=True)
    assert (1, 2) == (restore(above, "a"), restore(above, "b"))
    assert 0 == restore(below, "old")
    delete(above, "a")
    save(below, "c", 3, through=True)
    assert restore(above, "a") is None, "nothing goes up twice"
    save(below, "a", 1, through=True)
    delete(below, "old")
    assert (None, 0) == (restore(below, "old"), restore(above, "old"))
    pa.stop(below)
    assert restore(above, "old") is None
    again = pa.start(pa.Checkpoints, pa.MemoryStore(), above=above, every=0.01)
    assert [] == pa.Checkpoints.keys(again)
    assert (1, 2) == (restore(again, "a"), restore(again, "b"))
    save(again, "d", 4)
    eventually(lambda: restore(above, "d") == 4, "it comes by itself")


def test_a_level_that_is_down_gets_it_later(node: pa.ActorSystem) -> None:
    below = pa.start(pa.Checkpoints, pa.MemoryStore(), above="above", every=0.01)
    pa.Checkpoints.save(below, "a", 1)
    with pytest.raises(pa.NoProc):
        pa.Checkpoints.save(below, "b", 1, through=True)
    pa.options(name="above").start(pa.Checkpoints, pa.MemoryStore())
    eventually(lambda: pa.Checkpoints.keys("above") == ["a", "b"], "what was saved meanwhile comes")


# --- carry_state ------------------------------------------------------------------------------------------------------


class Counter(pa.Actor):
    def __init__(self, start: int = 0, asker: pa.Pid | None = None) -> None:
        self.n = start
        self.asker = asker
        self.origin = "init"

    @pa.call
    def add(self, by: int) -> int:
        self.n += by
        return self.n

    @pa.call
    def facts(self) -> tuple[int, str]:
        return self.n, self.origin

    @pa.cast
    def crash(self, at: int) -> None:
        self.n = at
        raise ValueError("told to")

    @pa.cast
    def end(self, reason: str) -> None:
        raise pa.ProcessExit(reason)

    def carried(self) -> None:
        if self.n < 0:
            raise ValueError("less than nothing")
        self.origin = "carried"
        if self.asker is not None:
            pa.send(self.asker, ("carried", pa.self_()))


class Server(pa.GenServer):
    def init(self, start: int) -> Any:
        return {"n": start}

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        if request == "stop":
            return pa.Stop("because", {"n": state["n"] + 1})
        if request == "raise":
            raise ValueError
        return pa.Reply(state, {"n": state["n"] + 1})

    async def carried(self, state: Any) -> Any:
        return pa.Ok({**state, "carried": True})


class Plain(pa.GenServer):
    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return pa.Reply(state, [*state, request])

    def handle_cast(self, request: Any, state: Any) -> Any:
        raise ValueError(request)


def counter() -> Counter:
    return pa.ref(Counter, "counter")


def again(name: str, before: pa.Pid | None) -> None:
    eventually(lambda: pa.whereis(name) not in (None, before), f"{name} is started again")


@contract("S7.4", partly=True)
@pytest.mark.parametrize("kind", [pa.Supervisor, pa.DynamicSupervisor])
def test_the_state_of_a_crash_is_carried(node: pa.ActorSystem, kind: Any) -> None:
    spec = pa.child(Counter, 40, name="counter", carry_state=True)
    if kind is pa.Supervisor:
        pa.Supervisor.start_link([spec], max_restarts=9)
    else:
        kind.start_child(pa.DynamicSupervisor.start_link(max_restarts=9), spec)
    assert (40, "init") == counter().facts()
    for n in (50, 60):
        before = pa.whereis("counter")
        counter().crash(n)
        again("counter", before)
        assert (n, "carried") == counter().facts()
    # It is killed: nobody knows its state, and that of the crash before isn't it.
    counter().add(2)
    before = pa.whereis("counter")
    pa.exit("counter", "kill")
    again("counter", before)
    assert (40, "init") == counter().facts()
    # What can't be taken is not.
    before = pa.whereis("counter")
    counter().crash(-1)
    again("counter", before)
    assert (40, "init") == counter().facts()


def test_the_default_is_to_carry_nothing(node: pa.ActorSystem) -> None:
    pa.Supervisor.start_link([pa.child(Counter, 40, name="counter")])
    before = pa.whereis("counter")
    counter().crash(50)
    again("counter", before)
    assert (40, "init") == counter().facts()


@pytest.mark.parametrize("how", ["stop", "raise"])
def test_servers_carry_their_states(node: pa.ActorSystem, how: str) -> None:
    """An abnormal Stop's state is the last; after an exception it is that before the message."""
    pa.Supervisor.start_link([pa.child(Server, 1, name="server", carry_state=True)])
    assert {"n": 1} == pa.call("server", "look")
    before = pa.whereis("server")
    with pytest.raises(pa.RemoteError):
        pa.call("server", how)
    again("server", before)
    assert {"n": 3 if how == "stop" else 2, "carried": True} == pa.call("server", "look")


@pytest.mark.parametrize("kind", [pa.Supervisor, pa.DynamicSupervisor])
def test_backoff_keeps_the_state(node: pa.ActorSystem, kind: Any) -> None:
    backoff = pa.Backoff(first=0.01)
    sup = kind.start_link([], backoff=backoff) if kind is pa.Supervisor else kind.start_link(backoff=backoff)
    kind.start_child(sup, pa.child(Plain, [], name="plain", carry_state=True))
    pa.call("plain", 1)
    before = pa.whereis("plain")
    pa.cast("plain", "crash")
    again("plain", before)
    assert [1] == pa.call("plain", 2)


def test_siblings_begin_afresh(node: pa.ActorSystem) -> None:
    specs = [pa.child(Plain, [], name=name, carry_state=True) for name in ("one", "two")]
    pa.Supervisor.start_link(specs, strategy="one_for_all")
    before = {name: pa.whereis(name) for name in ("one", "two")}
    for name in before:
        pa.call(name, 1)
    pa.cast("two", "crash")
    for name, pid in before.items():
        again(name, pid)
    assert [[], [1]] == [pa.call(name, 2) for name in ("one", "two")]


def test_a_poisoned_state_ends_with_the_supervisor(node: pa.ActorSystem) -> None:
    """Restarts with it count as all do; the supervisor's next life begins with nothing."""
    pa.Supervisor.start_link(
        [pa.child(Tree, [pa.child(Poisoned, pa.self_(), name="poisoned", carry_state=True)], id="tree")]
    )
    assert "clean" == pa.receive(("up", pa.ANY, pa.ANY), timeout=WAIT)[2]
    pa.cast("poisoned", "poison")
    ups = [pa.receive(("up", pa.ANY, pa.ANY), timeout=WAIT)[2] for _ in range(4)]
    assert ["poison"] * 3 + ["clean"] == ups


class Tree(pa.Supervisor):
    def init(self, children: Any) -> Any:
        return self.supervise(children)


class Poisoned(pa.GenServer):
    def init(self, asker: pa.Pid) -> Any:
        pa.send(asker, ("up", pa.self_(), "clean"))
        return asker, "clean"

    def handle_cast(self, request: Any, state: Any) -> Any:
        return pa.NoReply((state[0], request), continue_="look")

    def handle_continue(self, term: Any, state: Any) -> Any:
        raise ValueError("poisoned")

    def carried(self, state: Any) -> Any:
        pa.send(state[0], ("up", pa.self_(), state[1]))
        return pa.Ok(state, continue_="look")


@contract("S7.4", partly=True)
def test_the_last_checkpoint_is_carried(node: pa.ActorSystem, tmp_path: Path) -> None:
    """After a kill, and into another tree; a crash's own state is newer, and never in the store."""
    path = tmp_path / "checkpoints.db"
    tree = [
        pa.child(pa.Checkpoints, pa.SQLiteStore(path), name="checkpoints"),
        pa.child(Counter, 40, name="counter", carry_state=pa.Carry("checkpoints", every=0.01)),
    ]
    sup = pa.Supervisor.start_link(tree, max_restarts=9)
    counter().add(1)
    eventually(lambda: getattr(pa.Checkpoints.restore("checkpoints", "counter"), "n", None) == 41, "it is saved")
    before = pa.whereis("counter")
    pa.exit("counter", "kill")
    again("counter", before)
    assert (41, "carried") == counter().facts()
    before = pa.whereis("counter")
    counter().crash(50)
    again("counter", before)
    assert (50, "carried") == counter().facts()
    counter().add(1)
    pa.stop(sup)  # each is told to end, the counter before the store
    pa.Supervisor.start_link(tree)
    assert (51, "carried") == counter().facts()


def test_a_crash_is_not_saved(node: pa.ActorSystem) -> None:
    carry = pa.Carry("checkpoints", "the key", every=None)
    pa.Supervisor.start_link(
        [
            pa.child(pa.Checkpoints, pa.MemoryStore(), name="checkpoints"),
            pa.child(Counter, 40, name="counter", restart="transient", carry_state=carry),
        ]
    )
    before = pa.whereis("counter")
    counter().crash(-1)
    again("counter", before)
    assert (40, "init") == counter().facts()
    assert [] == pa.Checkpoints.keys("checkpoints")
    counter().add(2)
    counter().end("normal")
    eventually(lambda: pa.Checkpoints.keys("checkpoints") == ["the key"], "its end in order is")
    assert 42 == pa.Checkpoints.restore("checkpoints", "the key").n


def test_a_store_that_was_started_again_gets_everything_again(node: pa.ActorSystem) -> None:
    pa.Supervisor.start_link(
        [
            pa.child(pa.Checkpoints, pa.MemoryStore(), name="checkpoints"),
            pa.child(Plain, [1], name="plain", carry_state=pa.Carry("checkpoints", every=0.01)),
        ]
    )
    for _ in range(2):
        eventually(lambda: restored("plain") == [1], "it is saved")
        before = pa.whereis("checkpoints")
        pa.exit("checkpoints", "kill")
        again("checkpoints", before)


def restored(key: str) -> Any:
    try:
        return pa.Checkpoints.restore("checkpoints", key)
    except pa.ActorError:
        return None


def test_a_start_without_its_store_fails(node: pa.ActorSystem) -> None:
    """Else it would begin with nothing, and save that."""
    pa.trap_exit(True)
    with pytest.raises(pa.StartError, match="checkpoints"):
        pa.Supervisor.start_link([pa.child(Plain, [], name="plain", carry_state=pa.Carry("checkpoints"))])


def test_one_that_moves_goes_on_saving(node: pa.ActorSystem) -> None:
    pa.Supervisor.start_link(
        [
            pa.child(pa.Checkpoints, pa.MemoryStore(), name="checkpoints", worker=0),
            pa.child(Counter, 40, name="counter", worker=0, carry_state=pa.Carry("checkpoints", every=0.01)),
        ]
    )
    before = pa.whereis("counter")
    assert before is not None
    pa.migrate(before, 1, WAIT)
    counter().add(2)
    eventually(lambda: getattr(restored("counter"), "n", None) == 42, "it is saved")
    counter().crash(50)
    again("counter", before)
    assert (50, "carried") == counter().facts()


_VISITS = """
import sys
import parallel_actors as pa

class Visits(pa.Actor):
    def __init__(self):
        self.n = 0

    @pa.call
    def visit(self):
        self.n += 1
        return self.n

    def carried(self):
        assert type(self) is Visits

if __name__ == "__main__":
    with pa.ActorSystem(workers=1):
        supervisor = pa.Supervisor.start_link([
            pa.child(pa.Checkpoints, pa.SQLiteStore(sys.argv[1]), name="checkpoints"),
            pa.child(Visits, name="visits", carry_state=pa.Carry("checkpoints")),
        ])
        print(pa.ref(Visits, "visits").visit())
        pa.stop(supervisor)
"""


def test_an_actor_of_a_script_goes_on_in_the_next_run(tmp_path: Path) -> None:
    """Its class is another one then, of the same name; its last state is that of an orderly stop."""
    (tmp_path / "visits.py").write_text(_VISITS)
    command = [sys.executable, str(tmp_path / "visits.py"), str(tmp_path / "checkpoints.db")]
    said = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert ["1\n", "2\n"] == said


def test_a_worker_that_is_killed(actor_system: pa.ActorSystem) -> None:
    supervisor = pa.options(worker=0).start(
        pa.Supervisor,
        [
            pa.child(pa.Checkpoints, pa.MemoryStore(), name="checkpoints", worker=0),
            pa.child(
                Counter, 40, pa.self_(), name="counter", worker=1, carry_state=pa.Carry("checkpoints", every=0.01)
            ),
        ],
    )
    counter().add(2)
    eventually(lambda: getattr(restored("counter"), "n", None) == 42, "it is saved")
    os.kill(puppet(1).do(os.getpid), signal.SIGKILL)
    pa.receive(("carried", pa.ANY), timeout=WAIT)
    assert (42, "carried") == counter().facts()
    pa.stop(supervisor)


def test_partitions_carry_each_its_own(node: pa.ActorSystem) -> None:
    server = pa.options(name="checkpoints").start(pa.Checkpoints, pa.MemoryStore())
    spec = pa.child(Plain, [], carry_state=pa.Carry("checkpoints", "shard", every=None))
    for number in range(2):
        sup = pa.PartitionSupervisor.start_link(spec, name="shards", partitions=2)
        before = [pa.call(f"shards/{i}", i) for i in range(2)]
        pa.stop(sup)
        assert ([[], []] if number == 0 else [[0], [1]]) == before
    assert ["shard/0", "shard/1"] == pa.Checkpoints.keys(server)


def test_bad_specs_are_refused() -> None:
    with pytest.raises(TypeError, match="expected carry_state to be True, False or a Carry, got 'yes'"):
        pa.child(Plain, carry_state="yes")  # type: ignore[arg-type]
    for target in (test_bad_specs_are_refused, pa.Supervisor):
        with pytest.raises(ValueError, match="expected a server to carry its state"):
            pa.child(target, carry_state=True)
    with pytest.raises(ValueError, match="to have a name, or Carry"):
        pa.child(Plain, carry_state=pa.Carry("checkpoints"))
    assert pa.child(Plain, carry_state=pa.Carry("checkpoints", "key")).carry_state is not None
    for every in (0, -1, "soon", True, float("nan")):
        with pytest.raises(ValueError, match="expected every to be a number of seconds above 0"):
            pa.Carry("checkpoints", every=every)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected the key"):
        pa.Carry("checkpoints", 3)  # type: ignore[arg-type]
