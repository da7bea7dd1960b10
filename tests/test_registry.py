"""Registries and via names: who finds whom by what key, from everywhere, and nobody who is dead (S5.2, S5.3)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, assert_type

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from puppets import GUEST, WAIT, Puppet, get, mail, park, place, puppet

Registry = pa.Registry
PLACES = [0, 1, GUEST]


class Player(pa.Actor):
    """Answers by what it was started with."""

    def __init__(self, name: str = "anna") -> None:
        if name == "fails":
            raise ValueError("told to")
        self.name = name
        self.heard: list[object] = []
        self.keys = Registry.keys("players", pa.self_()) if pa.whereis("players") else []

    @pa.call
    def who(self) -> str:
        return self.name

    @pa.call
    def keys_in_init(self) -> list[Any]:
        return self.keys

    @pa.call
    def all_heard(self) -> list[object]:
        return self.heard

    @pa.cast
    def note(self, word: object) -> None:
        self.heard.append(word)

    @pa.info()
    def other(self, message: object) -> None:
        self.heard.append(message)


def players(keys: Any = "unique", **choices: Any) -> pa.Pid:
    return Registry.start_link(keys=keys, name="players", **choices)


def dead() -> pa.Pid:
    pid, ref = pa.spawn_monitor(int)
    pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT)
    return pid


# --- entries ----------------------------------------------------------------------------------------------------------


@contract("S5.2", partly=True)
@pytest.mark.parametrize("first", PLACES)
@pytest.mark.parametrize("second", [0, 1])
def test_of_one_unique_key_there_is_one(node: pa.ActorSystem, first: int, second: int) -> None:
    players()
    one, other = place(first), puppet(second)
    one.do(Registry.register, "players", ("room", 1), "mine")
    for loser in one, other:
        with pytest.raises(pa.AlreadyRegistered) as failure:
            loser.do(Registry.register, "players", ("room", 1))
        assert one.pid == failure.value.target
    for asker in one, other:
        assert [(one.pid, "mine")] == asker.do(Registry.lookup, "players", ("room", 1))
        assert ["mine"] == asker.do(Registry.values, "players", ("room", 1), one.pid)
    other.do(Registry.unregister, "players", ("room", 1))
    assert [(one.pid, "mine")] == Registry.lookup("players", ("room", 1)), "of another process"
    one.do(Registry.unregister, "players", ("room", 1))
    assert [] == Registry.lookup("players", ("room", 1))
    other.do(Registry.register, "players", ("room", 1))
    assert [(other.pid, None)] == Registry.lookup("players", ("room", 1))


@pytest.mark.parametrize("partitions", [1, 3])
def test_duplicate_keys_have_many_entries(node: pa.ActorSystem, partitions: int) -> None:
    players("duplicate", partitions=partitions)
    one, other = puppet(0), puppet(1)
    one.do(Registry.register, "players", "a", 1)
    other.do(Registry.register, "players", "a", 2)
    one.do(Registry.register, "players", "a", ("three", 3))
    one.do(Registry.register, "players", "b", 4)
    assert [(one.pid, 1), (other.pid, 2), (one.pid, ("three", 3))] == Registry.lookup("players", "a")
    assert [1, ("three", 3)] == Registry.values("players", "a", one.pid)
    assert ["a", "a", "b"] == sorted(Registry.keys("players", one.pid), key=str)
    assert 4 == Registry.count("players")
    assert [(one.pid, ("three", 3))] == Registry.match("players", "a", (str, pa.ANY))
    assert 2 == Registry.count_match("players", "a", int)
    entries = Registry.select("players")
    assert 4 == len(entries)
    assert ("a", other.pid, 2) in entries
    assert [("b", one.pid, 4)] == Registry.select("players", ("b", pa.ANY, int))
    assert 3 == Registry.count_select("players", (pa.ANY, one.pid, pa.ANY))
    one.do(Registry.unregister_match, "players", "a", int)
    assert [(other.pid, 2), (one.pid, ("three", 3))] == Registry.lookup("players", "a")
    one.do(Registry.unregister, "players", "a")
    assert [(other.pid, 2)] == Registry.lookup("players", "a")
    assert ["b"] == Registry.keys("players", one.pid)


def register_and_tell(tester: pa.Pid) -> None:
    pa.receive("go")
    try:
        Registry.register("players", "the key")
        pa.send(tester, ("won", pa.self_()))
    except pa.AlreadyRegistered as error:
        pa.send(tester, ("lost", error.target))
    park()


def test_of_many_that_register_one_key_at_once_one_wins(node: pa.ActorSystem) -> None:
    players()
    racers = [pa.options(worker=number % 2).spawn(register_and_tell, pa.self_()) for number in range(20)]
    for pid in racers:
        pa.send(pid, "go")
    told = [get() for _ in racers]
    ((_, winner),) = [each for each in told if each[0] == "won"]
    assert 19 == told.count(("lost", winner))
    assert [(winner, None)] == Registry.lookup("players", "the key")


def test_dispatch_runs_in_the_caller(node: pa.ActorSystem) -> None:
    players("duplicate")
    one, other = puppet(0), puppet(1)
    one.do(Registry.register, "players", "room", "a")
    other.do(Registry.register, "players", "room", "b")
    seen: list[Any] = []
    Registry.dispatch("players", "room", seen.append)
    assert [[(one.pid, "a"), (other.pid, "b")]] == seen
    Registry.dispatch("players", "empty", seen.append)
    assert 1 == len(seen)
    with pytest.raises(ZeroDivisionError):
        Registry.dispatch("players", "room", lambda entries: 1 // 0)
    assert 2 == Registry.count("players")


def test_a_value_is_updated_by_its_process_alone(node: pa.ActorSystem) -> None:
    players()
    one = puppet(1)
    one.do(Registry.register, "players", "a", 1)
    assert (2, 1) == one.do(Registry.update_value, "players", "a", lambda value: value + 1)
    assert Registry.update_value("players", "a", str) is None
    with pytest.raises(TypeError):
        one.do(Registry.update_value, "players", "a", len)
    assert [(one.pid, 2)] == Registry.lookup("players", "a")


def test_meta_data_outlives_a_partition(node: pa.ActorSystem) -> None:
    players(meta={"a": 1})
    Registry.put_meta("players", "b", [2])
    watch = pa.monitor("players/0")
    pa.exit("players/0", "kill")
    pa.receive(pa.Down(watch, pa.ANY, pa.ANY), timeout=WAIT)
    assert [1, [2], None, 3] == [
        *(Registry.meta("players", key) for key in ("a", "b", "c")),
        Registry.meta("players", "c", 3),
    ]
    Registry.delete_meta("players", "a")
    assert Registry.meta("players", "a") is None


def test_listeners_hear_of_each_entry_that_comes_and_goes(node: pa.ActorSystem) -> None:
    pa.register("ears", pa.self_())
    players(listeners=["ears", "nobody"])
    one = puppet(1)
    one.do(Registry.register, "players", "a", 1)
    one.do(Registry.register, "players", "b")
    one.do(Registry.unregister, "players", "a")
    one.end("done")
    assert [get() for _ in range(4)] == [
        ("register", "players", "a", one.pid, 1),
        ("register", "players", "b", one.pid, None),
        ("unregister", "players", "a", one.pid),
        ("unregister", "players", "b", one.pid),
    ]
    pa.unregister("ears")


# --- the dead ---------------------------------------------------------------------------------------------------------


@contract("S4.5", partly=True)
@pytest.mark.parametrize("worker", [0, 1])
def test_who_is_dead_is_not_found(node: pa.ActorSystem, worker: int) -> None:
    players()
    for number in range(20):
        one = puppet(worker)
        one.do(Registry.register, "players", "key", number)
        one.end("done" if number % 2 else "killed")
        assert [] == Registry.lookup("players", "key")
        assert pa.whereis(pa.via("players", "key")) is None
        assert [] == Registry.select("players")
        assert [] == Registry.keys("players", one.pid)
        other = puppet(1 - worker)
        other.do(Registry.register, "players", "key")
        other.do(Registry.unregister, "players", "key")
    eventually(lambda: Registry.count("players") == 0, "the entries are gone")


def stale(pid: pa.Pid) -> Callable[[Any], Any]:
    """Makes the state of a partition that hasn't heard of the end of `pid` yet."""

    def make(table: Any) -> Any:
        table.number += 1
        table.entries["key"] = {table.number: (pid, "old")}
        table.owned[pid] = ["key"]
        return table

    return make


@contract("S4.5", partly=True)
def test_the_dead_are_not_told_of_before_the_registry_has_heard(node: pa.ActorSystem) -> None:
    players()
    pa.sys_.replace_state("players/0", stale(dead()))
    assert [] == Registry.lookup("players", "key")
    assert [] == Registry.match("players", "key", "old")
    assert [] == Registry.select("players")
    assert pa.whereis(pa.via("players", "key")) is None
    Registry.register("players", "key", "new")
    assert [(pa.self_(), "new")] == Registry.lookup("players", "key")
    assert 1 == Registry.count("players")


@pytest.mark.parametrize("worker", [0, 1])
def test_who_moves_stays_registered(node: pa.ActorSystem, worker: int) -> None:
    players()
    name = pa.via("players", "mover")
    actor = pa.options(name=name).start(Player)
    pid = pa.whereis(name)
    assert pid is not None
    for target in worker, 1 - worker:
        pa.migrate(name, target)
        pa.migrate("players/0", 1 - target)
        assert [(pid, None)] == Registry.lookup("players", "mover")
        assert "anna" == pa.ref(Player, name).who()
    pa.stop(actor)
    assert [] == Registry.lookup("players", "mover")
    again = pa.options(name=name).start(Player)
    assert pa.whereis(name) == pa.whereis(again)


# --- the registry's end -----------------------------------------------------------------------------------------------


def test_a_partition_takes_its_processes_along_and_begins_anew(node: pa.ActorSystem) -> None:
    players("duplicate", partitions=2)
    one, trapping, other = puppet(0), puppet(1), puppet(1)
    trapping.do(pa.trap_exit)
    owner = one.do(Registry.register, "players", 0)
    assert owner == trapping.do(Registry.register, "players", 2)
    assert owner == pa.whereis("players/0")
    other.do(Registry.register, "players", 1)
    one.do(Registry.register, "players", 4)
    one.do(Registry.unregister, "players", 4)
    watch = one.watch()
    pa.exit(owner, "kill")
    assert "killed" == Puppet.reason_of(watch)
    eventually(lambda: trapping.do(mail) == [pa.Exit(owner, "killed")], "it is told of the registry's end")
    eventually(lambda: pa.whereis("players/0") not in (None, owner), "there is a new one")
    assert [] == Registry.lookup("players", 0)
    assert [(other.pid, None)] == Registry.lookup("players", 1), "of the other partition"
    trapping.do(Registry.register, "players", 0)


def test_who_asks_while_a_partition_is_restarted_waits(node: pa.ActorSystem) -> None:
    players()
    one = puppet(1)
    for number in range(3):  # as often as its supervisor restarts it
        watch = pa.monitor("players/0")
        pa.exit("players/0", "kill")
        pa.receive(pa.Down(watch, pa.ANY, pa.ANY), timeout=WAIT)
        one.do(Registry.register, "players", number)
        one.do(Registry.unregister, "players", number)


def test_who_has_unregistered_outlives_the_registry(node: pa.ActorSystem) -> None:
    registry = players()
    one, two = puppet(0), puppet(1)
    for each in one, two:
        each.do(Registry.register, "players", each.pid)
    one.do(Registry.unregister, "players", one.pid)
    watch = two.watch()
    pa.stop(registry)
    assert "shutdown" == Puppet.reason_of(watch)
    assert one.alive
    with pytest.raises(pa.NoProc, match="expected the name of a Registry"):
        one.do(Registry.register, "players", 1)


def test_the_death_of_the_registrys_worker(actor_system: pa.ActorSystem) -> None:
    registry = pa.child(Registry, keys="unique", name="players", worker=1)
    name = pa.via("players", "here")
    pa.options(worker=1).start(pa.Supervisor, [registry, pa.child(Player, name=name, worker=1)])
    partition, former = pa.whereis("players/0"), pa.whereis(name)
    assert partition is not None
    assert former is not None
    assert 0 == partition.worker, "where fewer processes live"
    watch = Puppet(former).watch()
    os.kill(actor_system.worker_pids[0], signal.SIGKILL)
    assert isinstance(Puppet.reason_of(watch), pa.WorkerDown)
    eventually(lambda: pa.whereis(name) not in (None, former), "the player is registered again")
    assert "anna" == pa.ref(Player, name).who()


# --- via names --------------------------------------------------------------------------------------------------------


def addresses(kind: str) -> Any:
    """A live player, in one of the ways to say who it is."""
    name: Any = {"name": "anna", "via": pa.via("players", ("a", 1), "value"), "named reference": "anna"}.get(kind)
    actor = pa.options(name=name, worker=1).start(Player)
    if kind == "reference to via":
        Registry.start_link(keys="unique", name="others")
        pa.stop(actor)
        name = pa.via("others", 1)
        pa.options(name=name, worker=1).start(Player)
        return pa.ref(Player, name)
    if kind == "pid":
        return actor.__pid__
    return actor if kind == "reference" else pa.ref(Player, "anna") if kind == "named reference" else name


KINDS = ["pid", "name", "via", "reference", "named reference", "reference to via"]


@contract("S5.3")
@pytest.mark.parametrize("kind", KINDS)
def test_where_a_pid_is_accepted_other_addresses_are(node: pa.ActorSystem, kind: str) -> None:
    players()
    address = addresses(kind)
    actor = pa.ref(Player, address)
    pid = actor.__pid__
    pa.send(address, 1)
    pa.cast(address, ("note", (2,), None))
    actor.note(3)
    pa.send_after(0, address, 4)
    assert "anna" == pa.call(address, ("who", (), None)) == pa.send_request(address, ("who", (), None)).wait(WAIT)
    eventually(lambda: sorted(actor.all_heard(), key=str) == [1, 2, 3, 4], "all have come")
    every = pa.send_interval(0.001, address, "tick")
    eventually(lambda: "tick" in actor.all_heard(), "it ticks")
    pa.cancel_timer(every)
    if kind != "pid":
        assert pid == pa.whereis(address)
    assert pa.is_alive(address)
    assert 1 == pa.process_info(address, "worker")
    assert "anna" == pa.sys_.get_state(address).name
    pa.migrate(address, 0)
    assert 0 == pa.process_info(address, "worker")
    if kind not in ("name", "named reference"):
        pa.register("another", address)
        assert pid == pa.whereis("another")
    pa.link(address)
    pa.unlink(address)
    watch = pa.monitor(address)
    pa.exit(address, "boom")
    assert pa.Down(watch, pid, "boom") == pa.receive(pa.Down, timeout=WAIT)


@contract("S5.3")
def test_an_alias_is_sent_to(node: pa.ActorSystem) -> None:
    alias = pa.alias()
    pa.send(alias, 1)
    pa.send_after(0, alias, 2)
    assert [1, 2] == [get(), get()]
    pa.unalias(alias)


@contract("S5.3", partly=True)
@pytest.mark.parametrize("there", [True, False], ids=["nobody has it", "no such registry"])
def test_a_via_name_that_nobody_has(node: pa.ActorSystem, there: bool) -> None:
    if there:
        players()
    name = pa.via("players", "nobody")
    asks: list[Callable[[], object]] = [
        lambda: pa.send(name, 1),
        lambda: pa.link(name),
        lambda: pa.exit(name, "boom"),
        lambda: pa.migrate(name, 0),
        lambda: pa.send_after(0, name, 1),
    ]
    for ask in asks:
        with pytest.raises(pa.NotRegistered, match="expected a name that a process has, got Via"):
            ask()
    asks = [lambda: pa.call(name, 1), lambda: pa.stop(name), lambda: pa.ref(Player, name).who()]
    for ask in asks:
        with pytest.raises(pa.NoProc, match="expected a name that a process has, got Via"):
            ask()
    pa.cast(name, 1)
    assert pa.whereis(name) is None
    assert not pa.is_alive(name)
    assert pa.process_info(name) is None
    watch = pa.monitor(name)
    assert pa.receive(pa.Down, timeout=WAIT) == pa.Down(watch, name, "noproc")  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [pa.options.__name__, "start_link", "start_monitor"])
def test_a_server_registers_itself_before_its_init(node: pa.ActorSystem, start: str) -> None:
    players()
    how = start if start != "options" else "start"
    name = pa.via("players", 7, "value")
    found = getattr(pa.options(name=name), how)(Player, "anna")
    actor = found[0] if how == "start_monitor" else found
    assert [7] == actor.keys_in_init()
    assert [(pa.whereis(name), "value")] == Registry.lookup("players", 7)
    with pytest.raises(pa.AlreadyRegistered, match="expected a key of 'players' that is free") as failure:
        getattr(pa.options(name=name, worker=0), how)(Player, "berta")
    assert pa.whereis(name) == failure.value.target
    assert "anna" == pa.ref(Player, name).who()
    pa.unlink(actor)
    pa.stop(actor)
    assert mail() == ([pa.Down(found[1], actor.__pid__, "normal")] if how == "start_monitor" else [])


def test_a_start_that_fails_leaves_no_entry(node: pa.ActorSystem) -> None:
    players()
    name = pa.via("players", 7)
    for _ in range(5):
        with pytest.raises(pa.StartError, match="told to"):
            pa.options(name=name).start(Player, "fails")
        assert [] == Registry.lookup("players", 7)
    pa.options(name=name).start(Player)
    with pytest.raises(pa.StartError, match="expected the name of a Registry, got 'nowhere'"):
        pa.options(name=pa.via("nowhere", 7)).start(Player)


def test_children_by_via_names(node: pa.ActorSystem) -> None:
    registry = pa.child(Registry, keys="unique", name="players")
    names = [pa.via("players", number) for number in range(3)]
    tree = pa.Supervisor.start_link(
        [registry, *(pa.child(Player, str(number), name=name) for number, name in enumerate(names))],
        max_restarts=100,
    )
    crowd = pa.DynamicSupervisor.start_link(name=pa.via("players", "crowd"))
    assert ["players", *names] == [info.id for info in pa.Supervisor.which_children(tree)]
    for _ in range(5):
        former = pa.whereis(names[1])
        pa.exit(names[1], "kill")
        while pa.whereis(names[1]) in (None, former):
            pa.sleep(0.001)
        assert "1" == pa.ref(Player, names[1]).who()
    with pytest.raises(pa.StartError) as failure:
        pa.DynamicSupervisor.start_child(pa.via("players", "crowd"), pa.child(Player, name=names[2]))
    assert ("already_started", pa.whereis(names[2])) == failure.value.reason
    with pytest.raises(pa.StartError, match="expected a plain name for a process that runs a function"):
        pa.DynamicSupervisor.start_child(crowd, pa.child(park, name=pa.via("players", 9)))


def test_partitions_have_via_names(node: pa.ActorSystem) -> None:
    pa.PartitionSupervisor.start_link(pa.child(Player), name="shards", partitions=2)
    name = pa.Via(pa.PartitionSupervisor, ("shards", 3))
    assert "anna" == pa.call(name, ("who", (), None))
    assert pa.whereis("shards/1") == pa.whereis(name)
    with pytest.raises(pa.StartError, match="a PartitionSupervisor starts its children itself"):
        pa.options(name=name).start(Player)
    assert pa.whereis(pa.Via(pa.PartitionSupervisor, ("none", 3))) is None


def test_via_names_are_values(node: pa.ActorSystem) -> None:
    name = pa.via("players", ("a", 1))
    assert name == pa.via("players", ("a", 1)) != pa.via("players", ("a", 2))
    assert hash(name) == hash(pa.via("players", ("a", 1)))
    assert "Via(Registry, ('players', ('a', 1)))" == repr(name)
    for worker in 0, 1:
        assert name == puppet(worker).do(lambda name: name, name)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_bad_options_are_refused_where_they_are_written(node: pa.ActorSystem) -> None:
    bad: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"keys": "some"}, ValueError, 'expected keys to be "unique" or "duplicate", got \'some\''),
        ({"name": None}, TypeError, "expected a Registry to have a plain name"),
        ({"name": pa.via("a", 1)}, TypeError, "expected a Registry to have a plain name"),
        ({"partitions": 0}, ValueError, "expected partitions to be a whole number from 1, got 0"),
        ({"listeners": [pa.self_()]}, TypeError, "expected listeners to be names"),
    ]
    for choices, error, text in bad:
        with pytest.raises(error, match=text):
            Registry.start_link(**{"keys": "unique", "name": "players", **choices})
    with pytest.raises(pa.StartError, match="expected a Registry to have a plain name"):
        pa.start(Registry, keys="unique")
    players()
    with pytest.raises(pa.NameTaken):
        players()
    assert 2 == len(pa.registered())


def test_bad_questions_are_refused_and_harm_no_registry(node: pa.ActorSystem) -> None:
    registry = players()
    Registry.start_link(keys="duplicate", name="rooms")
    unhashable: Any = []
    refused: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: Registry.register("players", unhashable), TypeError, "expected a key that can be hashed, got "),
        (lambda: Registry.lookup("players", unhashable), TypeError, "expected a key that can be hashed"),
        (lambda: Registry.register("nowhere", 1), pa.NoProc, "expected the name of a Registry, got 'nowhere'"),
        (lambda: Registry.lookup("players/0", 1), pa.NoProc, "expected a Registry, got 'players/0'"),
        (lambda: Registry.keys("players", "x"), TypeError, "expected a Pid"),  # type: ignore[arg-type]
        (lambda: Registry.update_value("rooms", 1, len), ValueError, "for a registry with unique keys, got 'rooms'"),
        (lambda: pa.send(pa.via("rooms", 1), 1), ValueError, "expected a via name for a registry with unique keys"),
        (lambda: pa.via(7, 1), TypeError, "expected the name of a registry, got 7"),  # type: ignore[arg-type]
        (lambda: pa.via("players", unhashable), TypeError, "unhashable"),
        (lambda: pa.Via(pa, 1), TypeError, "expected the module of a via name to have register_name"),  # type: ignore[arg-type]
        (lambda: pa.options(name=pa.via("players", 1)).spawn(park), TypeError, "expected a plain name for a process"),
        (lambda: pa.options(name=7), TypeError, "expected name to be a str or a via name"),  # type: ignore[arg-type]
        (lambda: Registry.register("players", 1, threading.Lock()), pa.NotPicklable, "lock"),
    ]
    for ask, error, text in refused:
        with pytest.raises(error, match=text):
            ask()
    assert "error" == pa.call("players/0", "junk")[0]
    pa.cast("players/0", "junk")
    pa.send("players/0", "junk")
    assert registry == pa.whereis("players")
    assert [] == Registry.lookup("players", 1)


# --- types: mypy and pyright read this --------------------------------------------------------------------------------


def what_passes() -> None:
    name = pa.via("players", ("a", 1))
    assert_type(name, pa.Via)
    assert_type(pa.options(name=name).start_link(Player, "anna"), Player)
    assert_type(pa.ref(Player, name).who(), str)
    assert_type(pa.whereis(name), pa.Pid | None)
    assert_type(pa.child(Player, name=name), pa.ChildSpec)
    assert_type(Registry.lookup("players", 1), list[tuple[pa.Pid, Any]])
    assert_type(pa.send_after(1, name, "late"), pa.Ref)
    pa.call(name, "request")
    pa.cast(name, "request")


def what_fails() -> None:
    pa.options(name=pa.via("players", 1)).start_link(Player, 7)  # type: ignore[arg-type]
    pa.via("players", [])  # type: ignore[arg-type]
    pa.via(7, 1)  # type: ignore[arg-type]
    Registry.start_link(keys="both", name="players")  # type: ignore[arg-type]
    Registry.start_link(keys="unique")  # type: ignore[call-arg]
    pa.whereis(7)  # type: ignore[arg-type]


def test_the_types_are_those_of_the_page() -> None:
    """Nothing runs: `tox -e types` reads the functions above."""
    assert [function.__name__ for function in (what_passes, what_fails)]
