"""`persistent_term`: one object for all processes of a worker, and when they see another."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest

import parallel_actors as pa
from parallel_actors import persistent_term
from puppets import GUEST, WAIT, place, puppet

contract = pytest.mark.contract

# What type checkers refuse, too.
loose: Any = persistent_term


@dataclass(frozen=True)
class Config:
    retries: int
    hosts: tuple[str, ...]


class Colour(Enum):
    RED = 1


@pytest.fixture
def terms(node: pa.ActorSystem) -> Iterator[None]:
    """The node, without terms when the test is over."""
    yield
    for key in persistent_term.get_all():
        persistent_term.erase(key)


def error_of(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize(
    "value",
    [Config(3, ("a", "b")), Colour.RED, None, (1, (2.5, b"x")), frozenset({"a"}), len, 10**40, Config],
    ids=repr,
)
def test_each_worker_reads_it(terms: None, value: Any) -> None:
    persistent_term.put("k", value)
    for worker in (0, 1, GUEST):
        assert place(worker).do(persistent_term.get, "k") == value


def twice() -> tuple[bool, int]:
    return persistent_term.get("k") is persistent_term.get("k"), id(persistent_term.get("k"))


@contract("S1.2", partly=True)
def test_all_processes_of_a_worker_get_the_same_object(terms: None) -> None:
    persistent_term.put("k", Config(3, ("a",)))
    for worker in (0, 1):
        first, second = puppet(worker).do(twice), puppet(worker).do(twice)
        assert first == second == (True, first[1])


def change(key: str, value: object) -> None:
    persistent_term.put(key, value)


@pytest.mark.parametrize("writer", [0, 1, GUEST])
@pytest.mark.parametrize("reader", [0, 1, GUEST])
def test_who_reads_after_a_put_has_returned_reads_the_new_value(terms: None, writer: int, reader: int) -> None:
    """Each time, also while it is read all the time elsewhere."""
    reading, writing = place(reader), place(writer)
    others = [pa.options(worker=worker).spawn(read_on) for worker in (0, 1)]
    for n in range(20):
        writing.do(change, "k", n)
        assert reading.do(persistent_term.get, "k") == n
        writing.do(change, "other", (n,))
        assert reading.do(persistent_term.get, "k") == n
    writing.do(persistent_term.erase, "k")
    assert reading.do(persistent_term.get, "k", None) is None
    writing.do(change, "k", "again")
    assert reading.do(persistent_term.get, "k") == "again"
    for pid in others:
        pa.exit(pid, "kill")


def read_on() -> None:
    while True:
        persistent_term.get("k", None)


def ascending(to: pa.Pid, last: int) -> None:
    """What it reads never goes backwards."""
    seen = [0]
    while seen[-1] != last:
        found = persistent_term.get("k", 0)
        if found != seen[-1]:
            seen.append(found)
    pa.send(to, seen == sorted(seen))


def test_values_never_go_backwards(terms: None) -> None:
    for worker in (0, 0, 1, 1):
        pa.options(worker=worker).spawn(ascending, pa.self_(), 200)
    for n in range(1, 201):
        persistent_term.put("k", n)
    assert [pa.receive(bool, timeout=WAIT) for _ in range(4)] == [True] * 4


def test_what_was_read_is_read_again_without_the_root(actor_system: pa.ActorSystem) -> None:
    """While the root doesn't run at all."""
    persistent_term.put("k", "v")
    reader = puppet(0)
    assert reader.do(persistent_term.get, "k") == "v"
    assert reader.do(persistent_term.get, "nobody", None) is None
    os.kill(actor_system.root_pid, signal.SIGSTOP)
    try:
        assert reader.do(persistent_term.get, "k") == "v"
        assert reader.do(persistent_term.get, "nobody", None) is None
    finally:
        os.kill(actor_system.root_pid, signal.SIGCONT)


def test_put_new_erase_and_info(terms: None) -> None:
    assert persistent_term.info()["count"] == 0
    persistent_term.put_new("k", (1, 2))
    persistent_term.put_new("k", (1, 2))
    with pytest.raises(ValueError, match="a key that has no other value, got 'k'"):
        persistent_term.put_new("k", (1, 3))
    assert persistent_term.get("k") == (1, 2)
    persistent_term.put(("a", 1), "other")
    assert persistent_term.get_all() == {"k": (1, 2), ("a", 1): "other"}
    info = persistent_term.info()
    assert info["count"] == 2
    assert info["memory"] > 0
    assert persistent_term.erase("k")
    assert not persistent_term.erase("k")
    assert persistent_term.get("k", "default") == "default"
    with pytest.raises(pa.NoKey, match="nobody has put it, or it was erased"):
        persistent_term.get("k")


def test_an_equal_value_changes_nothing(terms: None) -> None:
    persistent_term.put("k", Config(3, ("a",)))
    kept = persistent_term.get("k")
    persistent_term.put("k", Config(3, ("a",)))
    assert persistent_term.get("k") is kept


def test_counters_can_be_put(terms: None) -> None:
    """What changes there is seen by all, without another put."""
    persistent_term.put("hits", pa.counters.new(1))
    for worker in (0, 1):
        puppet(worker).do(hit)
    assert pa.counters.get(persistent_term.get("hits"), 0) == 2


def hit() -> None:
    pa.counters.add(persistent_term.get("hits"), 0)


@dataclass
class Mutable:
    x: int


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        (lambda: loose.put("k", [1]), TypeError, "immutable all through (tuples, "),
        (lambda: loose.put("k", ("deep", ({"a": 1},))), TypeError, "immutable all through"),
        (lambda: loose.put("k", Mutable(1)), TypeError, "got test_persistent_term.Mutable(x=1)"),
        (lambda: loose.put([1], 1), TypeError, "a key of int, float, bool"),
        (lambda: loose.put(None, 1), TypeError, "expected a key, got None"),
        (lambda: loose.get("nobody"), pa.NoKey, "the key of a persistent term, got 'nobody'"),
        (lambda: loose.get(Mutable), TypeError, "a key of int, float, bool"),
    ],
)
def test_bad_arguments(terms: None, what: Callable[[], object], error: type[Exception], text: str) -> None:
    found = error_of(what)
    assert found[0] is error
    assert text.split(".")[-1] in found[1]
    assert persistent_term.get_all() == {}
