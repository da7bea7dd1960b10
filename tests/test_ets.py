"""Tables: what they hold, against a plain list, who may do what, whose they are, and how they end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import parallel_actors as pa
from leaks import eventually
from parallel_actors import ets
from puppets import GUEST, WAIT, Puppet, get, mail, place, puppet

contract = pytest.mark.contract

# What type checkers refuse, too.
loose: Any = ets

SETS = ["set", "ordered_set"]
TYPES = [*SETS, "bag", "duplicate_bag"]
HERE_AND_THERE = [0, 1]


@dataclass(frozen=True)
class Point:
    x: int
    y: int


class Box:
    """What only pickle can copy."""

    def __init__(self, content: object) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and other.content == self.content

    __hash__ = None  # type: ignore[assignment]


def error_of(function: Callable[..., Any], *args: Any) -> tuple[type, str] | Any:
    """What a call raises, or returns."""
    try:
        return function(*args)
    except Exception as error:
        return type(error), str(error)


# --- against a model --------------------------------------------------------------------------------------------------


class Model:
    """A table as a plain list of rows."""

    def __init__(self, type: str) -> None:
        self.type = type
        self.rows: list[tuple[Any, ...]] = []

    def of(self, key: Any) -> list[tuple[Any, ...]]:
        return [row for row in self.rows if row[0] == key]

    def insert(self, rows: list[tuple[Any, ...]]) -> None:
        for row in rows:
            if self.type in SETS:
                self.rows = [each for each in self.rows if each[0] != row[0]]
            if self.type != "bag" or row not in self.rows:
                self.rows.append(row)

    def remove(self, gone: Callable[[tuple[Any, ...]], bool]) -> list[tuple[Any, ...]]:
        found = [row for row in self.rows if gone(row)]
        self.rows = [row for row in self.rows if not gone(row)]
        return found

    def all(self) -> list[tuple[Any, ...]]:
        return sorted(self.rows, key=lambda row: row[0]) if self.type == "ordered_set" else self.rows


keys = st.integers(0, 6)
values = st.integers(-2, 2) | st.sampled_from(["a", ("t", 1), [1], {"k": [2]}])
rows = st.tuples(keys, values)
scripts = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.lists(rows, min_size=1, max_size=3)),
        st.tuples(st.just("insert_new"), st.lists(rows, min_size=1, max_size=2, unique_by=lambda row: row[0])),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("take"), keys),
        st.tuples(st.just("delete_object"), rows),
        st.tuples(st.just("select_delete"), values),
        st.tuples(st.just("update_element"), rows),
        st.tuples(st.just("update_counter"), st.tuples(keys, st.integers(-3, 3))),
        st.tuples(st.just("clear"), st.none()),
    ),
    max_size=15,
)


def play(table: Any, model: Model, script: list[Any]) -> None:
    """Do the same to both, and compare them after each step."""
    for op, it in script:
        match op:
            case "insert":
                ets.insert(table, it if len(it) > 1 else it[0])
                model.insert(it)
            case "insert_new":
                new = not any(model.of(row[0]) for row in it)
                assert ets.insert_new(table, it) is new
                if new:
                    model.insert(it)
            case "delete":
                ets.delete(table, it)
                model.remove(lambda row, key=it: row[0] == key)  # type: ignore[misc]
            case "take":
                assert ets.take(table, it) == model.remove(lambda row, key=it: row[0] == key)  # type: ignore[misc]
            case "delete_object":
                ets.delete_object(table, it)
                model.remove(lambda row, gone=it: row == gone)  # type: ignore[misc]
            case "select_delete":
                fitting = model.remove(lambda row, value=it: row[1] == value)  # type: ignore[misc]
                assert ets.select_delete(table, (pa.ANY, it)) == len(fitting)
            case "update_element" if model.type in SETS:
                key, value = it
                assert ets.update_element(table, key, (1, value)) is bool(model.of(key))
                if model.of(key):
                    model.insert([(key, value)])
            case "update_counter" if model.type in SETS:
                key, by = it
                old = model.of(key)[0][1] if model.of(key) else 10
                if isinstance(old, int):
                    assert ets.update_counter(table, key, by, default=("any", 10)) == old + by
                    model.insert([(key, old + by)])
                else:
                    with pytest.raises(TypeError, match="expected item 1 of the row to be an int"):
                        ets.update_counter(table, key, by)
            case "clear":
                ets.delete_all_objects(table)
                model.rows = []
        check(table, model)


def check(table: Any, model: Model) -> None:
    everything = ets.tab2list(table)
    if model.type == "ordered_set":
        assert everything == model.all()
    assert sorted(everything, key=repr) == sorted(model.all(), key=repr)
    info = ets.info(table)
    assert info is not None
    assert info["size"] == len(model.rows)
    present = {row[0] for row in model.rows}
    for key in range(7):
        assert ets.lookup(table, key) == model.of(key)
        assert ets.member(table, key) is (key in present)
        found = [row[1] for row in model.of(key)]
        expected = (found if model.type not in SETS else found[0]) if found else "none"
        assert ets.lookup_element(table, key, 1, default="none") == expected
    for start, step in ((ets.first, ets.next), (ets.last, ets.prev)):
        walked, key = [], start(table)
        while key is not None:
            walked.append(key)
            key = step(table, key)
        if model.type == "ordered_set":
            assert walked == sorted(present, reverse=step is ets.prev)
        assert sorted(walked) == sorted(present)
    assert ets.foldl(lambda row, total: total + row[0], 0, table) == sum(row[0] for row in model.rows)


@pytest.mark.parametrize("type", TYPES)
@given(script=scripts)
@settings(max_examples=25, deadline=None)
def test_a_table_is_what_its_rows_say(place_of_tables: pa.Pid, type: Any, script: list[Any]) -> None:
    """From a thread of the program, so each operation is a request."""
    table = ets.new(type=type)
    play(table, Model(type), script)
    ets.delete(table)


@pytest.fixture(scope="module")
def place_of_tables(shared_node: pa.ActorSystem) -> pa.Pid:
    return pa.self_()


SCRIPT: list[Any] = [
    ("insert", [(1, "a"), (2, [1]), (1, "a"), (3, {"k": [2]})]),
    ("insert_new", [(2, "b"), (5, "b")]),
    ("insert_new", [(6, -1), (5, "b")]),
    ("update_counter", (6, 3)),
    ("update_counter", (4, -1)),
    ("update_counter", (1, 1)),
    ("update_element", (1, ("t", 1))),
    ("insert", [(1, [1]), (1, [1])]),
    ("delete_object", (1, [1])),
    ("delete_object", (3, {"k": [2]})),
    ("select_delete", "b"),
    ("take", 2),
    ("delete", 1),
    ("insert", [(0, "x"), (0, "y")]),
    ("clear", None),
]


def play_here(type: Any, worker: int) -> None:
    play(ets.new(type=type, worker=worker), Model(type), SCRIPT)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("worker", HERE_AND_THERE)
def test_a_table_of_ones_own_worker_and_of_another(node: pa.ActorSystem, type: str, worker: int) -> None:
    puppet(0).do(play_here, type, worker)


def test_an_ordered_set_is_sorted_whatever_its_keys(node: pa.ActorSystem) -> None:
    ref = pa.make_ref()
    keys = [2, 1.5, -3, 10**30, True, "a", "B", "", b"b", b"", (1, 2), (1,), ("a", 1), (2, b""), pa.self_(), ref]
    table = ets.new(type="ordered_set")
    ets.insert(table, [(key,) for key in keys])
    numbers = sorted(key for key in keys if isinstance(key, int | float))
    order = [*numbers, ref, pa.self_(), (1,), (1, 2), (2, b""), ("a", 1), "", "B", "a", b"", b"b"]
    assert [row[0] for row in ets.tab2list(table)] == order
    assert ets.next(table, 1.7) == 2
    assert ets.prev(table, 1.7) == 1.5
    assert ets.next(table, b"b") is None
    assert ets.prev(table, -4) is None
    with pytest.raises(TypeError, match="frozensets have none"):
        ets.insert(table, (frozenset(),))


def test_a_walk_meets_each_key_that_stays(node: pa.ActorSystem) -> None:
    """While others come and go."""
    table = ets.new()
    ets.insert(table, [(key,) for key in range(100)])
    met, key = [], ets.first(table)
    while key is not None:
        met.append(key)
        ets.delete(table, key)
        ets.delete(table, key + 50)
        ets.insert(table, (key + 1000,))
        key = ets.next(table, key)
    assert met == list(range(50))
    with pytest.raises(pa.NoKey, match="a key of <table"):
        ets.next(table, "never there")


# --- rows are isolated ------------------------------------------------------------------------------------------------


def mutate(table: Any) -> list[Any]:
    """Try to change what others read, by what was put in and what comes out."""
    inner: list[Any] = [1]
    box = Box([1])
    ets.insert(table, ("k", inner, box, {"d": [1]}, Point(1, 2)))
    inner.append("changed")
    box.content = "changed"
    for row in [*ets.lookup(table, "k"), *ets.tab2list(table), *ets.select(table, ("k", list, pa.ANY, dict, pa.ANY))]:
        row[1].append("changed")
        row[2].content = "changed"
        row[3]["d"].append("changed")
    ets.lookup_element(table, "k", 1).append("changed")
    return ets.lookup(table, "k")


@pytest.mark.parametrize("worker", HERE_AND_THERE)
@contract("S1.2", partly=True)
def test_nothing_mutable_is_shared_by_a_table(node: pa.ActorSystem, worker: int) -> None:
    expected = [("k", [1], Box([1]), {"d": [1]}, Point(1, 2))]
    table = ets.new(access="public", worker=worker)
    assert mutate(table) == expected
    assert puppet(0).do(mutate, table) == expected


def same_object(table: Any) -> bool:
    row = ets.lookup(table, "k")[0]
    return row is ets.lookup(table, "k")[0] and row == ("k", ("deep", Point(1, 2)))


def test_an_immutable_row_is_read_without_a_copy(node: pa.ActorSystem) -> None:
    table = ets.new(worker=0)
    ets.insert(table, ("k", ("deep", Point(1, 2))))
    assert not puppet(1).do(same_object, table)
    ets.give_away(table, (owner := puppet(0)).pid)
    owner.do(ets.insert, table, ("k", ("deep", Point(1, 2))))
    assert puppet(0).do(same_object, table)


def test_rows_of_a_bag_are_compared_by_what_they_hold(node: pa.ActorSystem) -> None:
    table = ets.new(type="bag", access="public", worker=0)
    for worker in (0, 1, GUEST):
        place(worker).do(ets.insert, table, [("k", Box([1]), Point(1, 2)), ("k", Box([2]), Point(1, 2))])
    assert len(ets.lookup(table, "k")) == 2
    place(1).do(ets.delete_object, table, ("k", Box([1]), Point(1, 2)))
    assert ets.lookup(table, "k") == [("k", Box([2]), Point(1, 2))]


def test_a_row_that_can_not_be_sent(node: pa.ActorSystem) -> None:
    table = ets.new()
    with pytest.raises(pa.NotPicklable):
        ets.insert(table, [("a", 1), ("b", threading.Lock())])
    assert ets.tab2list(table) == []


# --- patterns ---------------------------------------------------------------------------------------------------------


def looked_for(table: Any) -> dict[str, Any]:
    least = 4
    return {
        "object": ets.match_object(table, (pa.ANY, "fruit", int)),
        "key": ets.select(table, ("leek", pa.ANY, pa.ANY)),
        "where": ets.select(table, where=lambda row: row[2] > least),
        "result": ets.select(table, (str, "fruit", pa.ANY), result=lambda row: row[0].upper()),
        "predicate": ets.select_count(table, (pa.ANY, pa.ANY, lambda n: n > least)),
        "bound": ets.match(table, (ets.BIND, "fruit", ets.BIND)),
        "nothing": ets.select(table, ("pear", "vegetable", pa.ANY)),
        "bad": error_of(ets.select, table, (list[int], pa.ANY, pa.ANY))[0],
        "raises": error_of(lambda: ets.select(table, where=lambda row: row[9])),
    }


@pytest.mark.parametrize("worker", [0, 1, GUEST])
def test_patterns_and_functions(node: pa.ActorSystem, worker: int) -> None:
    """On the table's worker, on another, in a thread: functions go to where the table is."""
    table = ets.new(type="ordered_set", worker=0)
    ets.insert(table, [("apple", "fruit", 3), ("leek", "vegetable", 5), ("pear", "fruit", 8)])
    assert place(worker).do(looked_for, table) == {
        "object": [("apple", "fruit", 3), ("pear", "fruit", 8)],
        "key": [("leek", "vegetable", 5)],
        "where": [("leek", "vegetable", 5), ("pear", "fruit", 8)],
        "result": ["APPLE", "PEAR"],
        "predicate": 2,
        "bound": [("apple", 3), ("pear", 8)],
        "nothing": [],
        "bad": TypeError,
        "raises": (IndexError, "tuple index out of range"),
    }
    assert mail() == []


def test_a_predicate_that_never_returns_holds_up_nobody_else(node: pa.ActorSystem) -> None:
    table = ets.new(access="public", worker=0)
    ets.insert(table, [(1,), (2,)])
    stuck = puppet(1)
    stuck.tell(select_forever, table)
    looking = puppet(0)
    assert looking.do(ets.lookup, table, 1) == [(1,)]
    assert ets.insert_new(table, (3,))
    pa.exit(stuck.pid, "kill")


def select_forever(table: Any) -> None:
    def turn(row: Any) -> bool:
        while True:
            pass

    ets.select(table, where=turn)


def test_counters_with_thresholds_and_many_at_once(node: pa.ActorSystem) -> None:
    table = ets.new(access="public")
    for who in (place(GUEST), puppet(0), puppet(1)):
        ets.insert(table, ("k", 5, 5, "text"))
        assert who.do(ets.update_counter, table, "k") == 6
        assert who.do(ets.update_counter, table, "k", (2, -1)) == 4
        many = [(1, 10), (1, 10, 20, 0), (2, -1, 3, 9), (2, -7, 3, 9)]
        assert who.do(loose.update_counter, table, "k", many) == [16, 0, 3, 9]
        assert ets.lookup(table, "k") == [("k", 0, 9, "text")]
        # All or nothing.
        assert who.do(error_of, ets.update_counter, table, "k", [(1, 1), (3, 1)])[0] is TypeError
        assert who.do(ets.update_element, table, "k", [(1, [1]), (3, "new")])
        assert ets.lookup(table, "k") == [("k", [1], 9, "new")]
        assert not who.do(ets.update_element, table, "other", (1, 1))


def count_up(table: Any, times: int) -> None:
    for _ in range(times):
        ets.update_counter(table, "n", default=("n", 0))


def test_none_of_many_updates_is_lost(node: pa.ActorSystem) -> None:
    """From processes of both workers, which are preempted, and from this thread."""
    table = ets.new(access="public", worker=0)
    local = [pa.options(worker=0).spawn_monitor(count_up, table, 10_000)[1] for _ in range(2)]
    far = [pa.options(worker=1).spawn_monitor(count_up, table, 300)[1] for _ in range(2)]
    count_up(table, 100)
    assert [pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason for ref in local + far] == ["normal"] * 4
    assert ets.lookup(table, "n") == [("n", 2 * 10_000 + 2 * 300 + 100)]


# --- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "reads", "writes"), [("private", False, False), ("protected", True, False), ("public", True, True)]
)
@pytest.mark.parametrize("other", [0, 1])
def test_access(node: pa.ActorSystem, access: Any, reads: bool, writes: bool, other: int) -> None:
    owner, stranger = puppet(0), puppet(other)
    table = owner.do(ets.new, access=access)
    owner.do(ets.insert, table, ("k", 1))

    def denied(function: Callable[..., Any], *args: Any) -> bool:
        found = stranger.do(error_of, function, table, *args)
        return isinstance(found, tuple) and found[0] is pa.AccessDenied

    looks: list[tuple[Any, tuple[Any, ...]]] = [
        (ets.lookup, ("k",)),
        (ets.member, ("k",)),
        (ets.first, ()),
        (ets.tab2list, ()),
        (ets.select_count, ()),
        (ets.lookup_element, ("k", 1)),
    ]
    changes: list[tuple[Any, tuple[Any, ...]]] = [
        (ets.insert, (("k", 2),)),
        (ets.delete, ("gone",)),
        (ets.update_counter, ("k",)),
        (ets.select_delete, (("gone", pa.ANY),)),
        (ets.match_delete, (("gone", pa.ANY),)),
        (ets.delete_object, (("gone", 1),)),
        (ets.rename, ("other",)),
    ]
    for function, args in looks:
        assert denied(function, *args) is not reads
    for function, args in changes:
        assert denied(function, *args) is not writes
    assert denied(ets.give_away, pa.self_())
    assert stranger.do(error_of, set_heir, table, None)[0] is pa.AccessDenied
    assert not denied(ets.info)
    assert denied(ets.delete) is not writes
    assert (owner.do(ets.info, table) is None) is writes


def set_heir(table: Any, heir: Any) -> None:
    ets.setopts(table, heir=heir)


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_named_table_is_found_on_all_workers(node: pa.ActorSystem) -> None:
    owner = puppet(0)
    table = owner.do(ets.new, "scores", named_table=True, access="public")
    for worker in (0, 1, GUEST):
        who = place(worker)
        who.do(ets.insert, "scores", ("k", worker))
        assert who.do(ets.lookup, "scores", "k") == [("k", worker)]
        assert who.do(ets.whereis, "scores") == table
    assert pa.registered() == []
    with pytest.raises(pa.NameTaken, match="'scores'"):
        ets.new("scores", named_table=True)
    assert ets.new("scores") != table
    assert ets.rename("scores", "points") == "points"
    assert (ets.whereis("scores"), ets.whereis("points")) == (None, table)
    other = ets.new("scores", named_table=True)
    with pytest.raises(pa.NameTaken, match="'points'"):
        ets.rename("scores", "points")
    ets.delete("scores")
    assert ets.info(other) is None
    watch = owner.watch()
    owner.tell(pa.exit, owner.pid, "stop")
    assert owner.reason_of(watch) == "stop"
    # Its name is free when others hear of the end.
    assert ets.whereis("points") is None
    with pytest.raises(pa.NoTable, match="no table has it"):
        ets.lookup("points", 1)


# --- owners and heirs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner_at", [0, 1])
def test_a_table_ends_with_its_owner(node: pa.ActorSystem, owner_at: int) -> None:
    owner = puppet(owner_at)
    table = owner.do(ets.new, worker=0)
    assert ets.info(table) is not None
    owner.end("boom")
    if owner_at == 0:
        assert ets.info(table) is None  # it ended before others heard of it
    eventually(lambda: ets.info(table) is None, "the table ends with its owner")
    for worker in (0, 1):
        assert puppet(worker).do(error_of, ets.lookup, table, 1)[0] is pa.NoTable
        assert puppet(worker).do(error_of, ets.tab2list, table)[0] is pa.NoTable


@pytest.mark.parametrize("owner_at", [0, 1])
@pytest.mark.parametrize("heir_at", [0, 1, GUEST])
def test_an_heir_gets_the_table(node: pa.ActorSystem, owner_at: int, heir_at: int) -> None:
    """Wherever it lives, as a message; the table stays where it is."""
    owner, heir = puppet(owner_at), place(heir_at)
    table = owner.do(ets.new, heir=(heir.pid, ["my", "data"]), worker=0)
    owner.do(ets.insert, table, ("k", [1]))
    owner.end("boom")
    assert heir.do(get) == ("ETS-TRANSFER", table, owner.pid, ["my", "data"])
    assert heir.do(ets.lookup, table, "k") == [("k", [1])]
    heir.do(ets.insert, table, ("k", [2]))
    info = ets.info(table)
    assert info is not None
    assert (info["owner"], info["worker"]) == (heir.pid, 0)
    if heir_at != GUEST:
        heir.end("normal")
        eventually(lambda: ets.info(table) is None, "the heir has ended, too")


@pytest.mark.parametrize("heir_at", [0, 1])
def test_a_dead_heir_gets_nothing(node: pa.ActorSystem, heir_at: int) -> None:
    owner, heir = puppet(0), puppet(heir_at)
    table = owner.do(ets.new, heir=heir.pid)
    heir.end("normal")
    owner.end("normal")
    eventually(lambda: ets.info(table) is None, "there was nobody to have it")


def test_the_heir_is_the_latest_one_set(node: pa.ActorSystem) -> None:
    owner, second = puppet(0), puppet(1)
    table = owner.do(ets.new, heir=pa.self_())
    owner.do(set_heir, table, (second.pid, 2))
    info = ets.info(table)
    assert info is not None
    assert info["heir"] == second.pid
    kept = owner.do(ets.new, heir=second.pid)
    owner.do(set_heir, kept, None)
    owner.end("normal")
    assert second.do(get) == ("ETS-TRANSFER", table, owner.pid, 2)
    assert ets.info(kept) is None
    assert mail() == []


@pytest.mark.parametrize("to", [0, 1, GUEST])
def test_give_away(node: pa.ActorSystem, to: int) -> None:
    owner, receiver = puppet(0), place(to)
    table = owner.do(ets.new)
    owner.do(ets.give_away, table, receiver.pid, {"gift": [1]})
    assert receiver.do(get) == ("ETS-TRANSFER", table, owner.pid, {"gift": [1]})
    owner.end("normal")
    receiver.do(ets.insert, table, ("k",))
    assert ets.lookup(table, "k") == [("k",)]
    assert receiver.do(error_of, ets.give_away, table, owner.pid)[0] is pa.NoProc
    assert receiver.do(error_of, ets.give_away, table, receiver.pid)[0] is ValueError


class Owner(pa.GenServer):
    def init(self) -> Any:
        table = ets.new(access="public")
        ets.insert(table, ("k", 1))
        return pa.Ok(table)

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        if request == "table":
            return pa.Reply(state, state)
        return pa.Reply((pa.worker_index(), ets.update_counter(state, "k")), state)


def test_an_owner_that_moves_leaves_its_table_where_it_is(node: pa.ActorSystem) -> None:
    """And it ends with it, wherever that is then."""
    server = pa.options(worker=0).start(Owner)
    table = pa.call(server, "table")
    assert pa.call(server, "count") == (0, 2)
    pa.migrate(server, 1)
    assert pa.call(server, "count") == (1, 3)
    info = ets.info(table)
    assert info is not None
    assert (info["worker"], info["owner"]) == (0, server)
    pa.stop(server)
    eventually(lambda: ets.info(table) is None, "the table ends with its owner")


def test_a_thread_of_the_program_owns_tables(actor_system: pa.ActorSystem) -> None:
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(ets.new(worker=1)))
    thread.start()
    thread.join()
    eventually(lambda: ets.info(made[0]) is None, "the table ends with the thread")


# --- dead workers -----------------------------------------------------------------------------------------------------


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_table_is_gone_with_its_worker(actor_system: pa.ActorSystem) -> None:
    """For its owner and its heir elsewhere, too; its name is free."""
    owner, reader, heir = puppet(0), puppet(0), puppet(0)
    table = owner.do(ets.new, "gone", named_table=True, worker=1, heir=heir.pid)
    owner.do(ets.insert, "gone", ("k", 1))
    kept = owner.do(ets.new, worker=0)
    _, watch = pa.options(worker=1).spawn_monitor(die)
    assert isinstance(Puppet.reason_of(watch), pa.WorkerDown)
    for who in (owner, reader, place(GUEST)):
        for function, args in ((ets.lookup, ("k",)), (ets.tab2list, ()), (ets.first, ())):
            kind, text = who.do(error_of, function, table, *args)
            assert kind is pa.NodeDown
            assert "went down with its worker" in text
    assert ets.info(table) is None
    assert ets.whereis("gone") is None
    assert owner.do(ets.info, kept) is not None
    again = owner.do(ets.new, "gone", named_table=True, worker=1)
    assert owner.do(ets.tab2list, again) == []
    assert again != table
    owner.end("normal")
    eventually(lambda: ets.info(again) is None, "it ends with its owner")
    assert heir.do(mail) == []


def test_an_owner_on_a_dead_worker_leaves_its_table_to_its_heir(actor_system: pa.ActorSystem) -> None:
    """And the table keeps its name, whichever worker that was."""
    owner = puppet(0)
    table = owner.do(ets.new, "kept", named_table=True, worker=1, heir=pa.self_())
    owner.do(ets.insert, table, ("k", 1))
    owner.tell(die)
    assert get() == ("ETS-TRANSFER", table, owner.pid, None)
    assert ets.whereis("kept") == table
    assert ets.lookup(table, "k") == [("k", 1)]


def ask_until_down(table: Any, to: pa.Pid) -> None:
    pa.send(to, "asking")
    while True:
        try:
            ets.member(table, 1)
            ets.select_count(table, (pa.ANY,))
        except pa.NodeDown as error:
            pa.send(to, type(error.reason).__name__)
            return


def test_no_operation_hangs_when_the_worker_dies(actor_system: pa.ActorSystem) -> None:
    table = ets.new(access="public", worker=1)
    for _ in range(3):
        pa.options(worker=0).spawn(ask_until_down, table, pa.self_())
        assert pa.receive("asking", timeout=WAIT) == "asking"
    pa.options(worker=1).spawn(die)
    assert [pa.receive(str, timeout=WAIT) for _ in range(3)] == ["WorkerDown"] * 3


def test_a_worker_is_not_removed_while_it_keeps_tables(actor_system: pa.ActorSystem) -> None:
    table, remover = ets.new(worker=1), puppet(0)
    watch = remover.watch()
    remover.tell(remove, 1, None)
    eventually(lambda: pa.worker_indices() == [0], "worker 1 is leaving")
    ets.insert(table, ("k", 1))
    assert ets.lookup(table, "k") == [("k", 1)]
    assert remover.alive
    ets.delete(table)
    assert remover.reason_of(watch) == "removed"


def remove(worker: int, timeout: float | None) -> None:
    pa.remove_worker(worker, timeout=timeout)
    pa.exit(pa.self_(), "removed")


def test_a_worker_that_is_removed_in_time_takes_its_tables_along(actor_system: pa.ActorSystem) -> None:
    table = ets.new(worker=1)
    pa.remove_worker(1, timeout=0)
    with pytest.raises(pa.NodeDown):
        ets.tab2list(table)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        (
            lambda t: loose.new(type="list"),
            ValueError,
            "to be one of set, ordered_set, bag, duplicate_bag, got 'list'",
        ),
        (lambda t: loose.new(access="all"), ValueError, "access to be one of private, protected, public"),
        (lambda t: loose.new(keypos=-1), ValueError, "keypos to be the number of an item, from 0, got -1"),
        (lambda t: loose.new(3), TypeError, "the name of a table to be a str, got 3"),
        (lambda t: loose.new(named_table=True), ValueError, "a named_table to have a name"),
        (lambda t: loose.new("x" * 300, named_table=True), ValueError, "1 to 200 bytes"),
        (lambda t: loose.new(heir="me"), TypeError, "heir to be None, a Pid, or (Pid, data), got 'me'"),
        (lambda t: loose.new(worker=77), ValueError, "worker"),
        (lambda t: loose.new(worker=-2), ValueError, "the number of a worker"),
        (lambda t: loose.insert(t, [1, 2]), TypeError, "a row to be a tuple, got 1"),
        (lambda t: loose.insert(t, {"a": 1}), TypeError, "a row to be a tuple"),
        (lambda t: loose.insert(t, ()), ValueError, "a row of at least 1 items"),
        (lambda t: loose.insert(t, ([1], 2)), TypeError, "a key of int, float, bool"),
        (lambda t: loose.insert(t, [("fine",), (Point(1, 2),)]), TypeError, "a key of int, float, bool"),
        (lambda t: loose.insert(t, (float("nan"),)), ValueError, "got a NaN"),
        (lambda t: loose.insert(t, (None,)), TypeError, "a key of int"),
        (lambda t: loose.lookup(t, None), TypeError, "expected a key, got None"),
        (lambda t: loose.lookup(t, {}), TypeError, "expected a key of int"),
        (lambda t: loose.lookup("nobody", 1), pa.NoTable, "the name of a table, got 'nobody'"),
        (lambda t: loose.lookup(17, 1), TypeError, "a table or the name of one, got 17"),
        (lambda t: loose.lookup_element(t, "k", 5), ValueError, "a position from 0 to 1, got 5"),
        (lambda t: loose.lookup_element(t, "k", "1"), TypeError, "the number of an item, got '1'"),
        (lambda t: loose.lookup_element(t, "none", 1), pa.NoKey, "give a default"),
        (lambda t: loose.update_counter(t, "none"), pa.NoKey, "give a default row"),
        (lambda t: loose.update_counter(t, "k", "1"), TypeError, "an increment, (pos, increment), or"),
        (lambda t: loose.update_counter(t, "k", (0, 1)), ValueError, "an item other than the key"),
        (lambda t: loose.update_counter(t, "k", (9, 1)), ValueError, "a position from 0 to 1, got 9"),
        (lambda t: loose.update_counter(t, "new", default=()), ValueError, "a default row of at least 1 items"),
        (lambda t: loose.update_element(t, "k", [1]), TypeError, "(pos, value), or a list of these"),
        (lambda t: loose.update_element(t, "k", (0, 1)), ValueError, "an item other than the key"),
        (lambda t: loose.select(t, where=3), TypeError, "where to be a function of a row, got 3"),
        (lambda t: loose.give_away(t, "me"), TypeError, "the Pid of the new owner"),
        (lambda t: type(t)(), TypeError, "made by ets.new()"),
    ],
)
@pytest.mark.parametrize("worker", HERE_AND_THERE)
def test_bad_arguments(
    node: pa.ActorSystem, worker: int, what: Callable[[Any], object], error: type[Exception], text: str
) -> None:
    """The same on the table's worker and elsewhere; nothing has changed."""
    found = puppet(0).do(tried, what, worker)
    assert found[0] is error
    assert text in found[1]


def tried(what: Callable[[Any], object], worker: int) -> Any:
    table = ets.new(worker=worker)
    ets.insert(table, ("k", 1))
    found = error_of(what, table)
    assert ets.tab2list(table) == [("k", 1)]
    return found


@pytest.mark.parametrize("type", ["bag", "duplicate_bag"])
def test_a_bag_has_no_counters(node: pa.ActorSystem, type: Any) -> None:
    table = ets.new(type=type)
    ets.insert(table, ("k", 1))
    for function, args in ((loose.update_counter, ()), (loose.update_element, ((1, 1),))):
        with pytest.raises(TypeError, match="a table of type set or ordered_set, got a"):
            function(table, "k", *args)


def test_a_key_elsewhere_in_the_row(node: pa.ActorSystem) -> None:
    table = ets.new(keypos=1)
    ets.insert(table, [("ann", 7, 0), ("bob", 8, 0)])
    assert ets.lookup(table, 7) == [("ann", 7, 0)]
    assert ets.update_counter(table, 7) == 1
    assert ets.select(table, (pa.ANY, 8, pa.ANY)) == [("bob", 8, 0)]
    with pytest.raises(ValueError, match="a row of at least 2 items"):
        ets.insert(table, ("short",))


@dataclass(frozen=True)
class Last:
    """A value that goes by reference, and whose end calls the library."""

    table: Any

    def __del__(self) -> None:
        ets.insert(self.table, ("late", ets.lookup_element(self.table, "k", 1)))


def replace_last() -> Any:
    table = ets.new()
    ets.insert(table, ("k", Last(table)))
    ets.insert(table, ("k", 2))
    return ets.tab2list(table)


def test_what_a_dropped_value_does_comes_after_the_operation(node: pa.ActorSystem) -> None:
    assert puppet(0).do(replace_last) == [("k", 2), ("late", 2)]
