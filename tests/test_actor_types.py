"""What type checkers say of typed actors, servers and tasks: mypy strict and pyright read this file (S7.1).

`assert_type` shows what passes. A line that must fail carries a `type: ignore`, which both refuse where nothing is
wrong (mypy: warn_unused_ignores; pyright: the comment below).
"""
# pyright: reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

import pytest

import parallel_actors as pa
from contract import contract
from test_actor import Counter, Words
from test_subject import Add, Request


class Stack(pa.GenServer):
    def init(self, items: list[int]) -> Any:
        return items


def names(count: int) -> list[str]:
    return [str(count)]


def what_passes() -> None:
    counter = pa.start_link(Counter, 0)
    assert_type(counter, Counter)
    assert_type(pa.start(Counter), Counter)
    assert_type(pa.options(worker=1).start_link(Counter, 1), Counter)
    assert_type(pa.start_monitor(Counter, 1), tuple[Counter, pa.Ref])
    assert_type(counter.value(), int)
    assert_type(counter.add(2, times=3), int)
    assert_type(counter.slowly(1), int)
    assert_type(counter.next_value(), int)
    assert_type(counter.through_another(3), int)
    assert_type(counter.value.options(timeout=0.5)(), int)
    assert_type(counter.value.request(), pa.Request[int])
    assert_type(counter.value.request().wait(1.0), int)
    counter.bump()
    counter.bump(by=2)
    pa.send(counter, "x")
    pa.monitor(counter)
    words = pa.start(Words)
    assert_type(words.sum(by=2), int)
    words.later_plus(1)
    stack = pa.start_link(Stack, [1])
    pa.cast(stack, 1)
    pa.call(stack, "pop", timeout=1.0)
    task = pa.Task.async_(names, 3)
    assert_type(task, pa.Task[list[str]])
    assert_type(task.await_(), list[str])
    assert_type(task.yield_(), pa.Done[list[str]] | pa.Failed | None)
    assert_type(pa.Task.async_stream(names, [1, 2]), Iterator[list[str]])


def typed_addresses(requests: pa.Subject[Request], add: pa.BehaviourRef[[int], int]) -> None:
    words, numbers = pa.Subject[str](), pa.Subject[int]()
    assert_type(pa.Subject[str](name="words"), pa.Subject[str])
    assert_type(words.receive(1.0), str)
    assert_type(words.receive(default=None), str | None)
    assert_type(requests.call(ask_for_one), int)
    selector = pa.Selector().select(words)
    assert_type(selector, pa.Selector[str])
    assert_type(selector.select(numbers).receive(), str | int)
    assert_type(selector.select_map(numbers, str).receive(), str)
    assert_type(selector.select_record(pa.Down).receive(), str | pa.Down)
    assert_type(selector.select_record(pa.Down, lambda down: 1).receive(default=None), str | int | None)
    assert_type(selector.select_record(("a", pa.ANY), lambda message: 1).receive(), str | int)
    assert_type(selector.merge(pa.Selector().select(numbers)).map(str).receive(), str)
    assert_type(add.call(1), int)
    assert_type(add.request(1), pa.Request[int])
    assert_type(add.exec(names, 3), list[str])
    assert_type(add.exec(ticked, 3), int)
    assert_type(add.query("result"), int | None)
    assert_type(pa.Behaviour.start(names).call(2), list[str])
    assert_type(pa.Behaviour.start_link(plus, 1).call(2), int)
    assert_type(pa.Behaviour.start(ticked).call(2), int)
    add.become(ticked)
    add.become(plus, 1)
    words.send(1)  # type: ignore[arg-type]
    requests.send("one")  # type: ignore[arg-type]
    numbers.call(ask_for_one)  # type: ignore[arg-type]
    selector.select_map(numbers, str.upper)  # type: ignore[arg-type]
    pa.send(words, "a")  # type: ignore[arg-type]
    add.call("a")  # type: ignore[arg-type]
    add.cast()  # type: ignore[call-arg]
    add.become(str)  # type: ignore[arg-type]
    add.become(plus, "a")  # type: ignore[arg-type]
    add.exec(names, "a")  # type: ignore[call-overload]
    pa.Behaviour.start(plus, "a")  # type: ignore[arg-type, misc]


def ask_for_one(to: pa.Subject[int]) -> Add:
    return Add(1, to)


def plus(a: int, /, b: int) -> int:
    return a + b


async def ticked(n: int) -> int:
    return n


async def typed_addresses_awaited(words: pa.Subject[str], requests: pa.Subject[Request]) -> None:
    assert_type(await words.areceive(), str)
    assert_type(await words.areceive(default=None), str | None)
    assert_type(await pa.Selector().select(words).areceive(), str)
    assert_type(await requests.acall(ask_for_one), int)
    assert_type(await pa.Behaviour.start(ticked).acall(1), int)


async def what_is_awaited(counter: Counter) -> None:
    assert_type(await counter.value.aio(), int)
    assert_type(await counter.add.request(1), int)


def what_fails(counter: Counter, words: Words) -> None:
    words.sum("two")  # type: ignore[arg-type]
    words.later_plus(by="two")  # type: ignore[arg-type]
    counter.bump("two")  # type: ignore[arg-type]
    counter.bump(2, 3)  # type: ignore[call-arg]
    counter.add(by="two")  # type: ignore[arg-type]
    counter.vlaue()  # type: ignore[attr-defined]
    counter.value.options(timeout="soon")  # type: ignore[arg-type]
    counter.value.request(1)  # type: ignore[call-arg]
    counter.through_another()  # type: ignore[call-arg]
    pa.start_link(Counter, "zero")  # type: ignore[arg-type]
    pa.start_link(Counter, 0, 1)  # type: ignore[arg-type]
    pa.options(worker=1).start(Counter, "zero")  # type: ignore[arg-type]
    pa.Task.async_(names, "3")  # type: ignore[call-overload]
    pa.Task.async_(names)  # type: ignore[call-overload]


@contract("S7.1", partly=True)
def test_the_types_are_those_of_the_page() -> None:
    """Nothing runs: `tox -e types` reads the functions above."""
    assert [function.__name__ for function in (what_passes, what_is_awaited, what_fails, typed_addresses)]
    with pytest.raises(pa.NotRunning):
        what_passes()
