"""Agents: a state, read and changed by functions that run there (S6.11)."""
# pyright: reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

import functools
import operator
from typing import Any, assert_type

import pytest

import parallel_actors as pa
from contract import contract
from puppets import WAIT, get, place

PLACES = [0, 1]


def words() -> dict[str, int]:
    return {"one": 1}


def fail(state: object) -> Any:
    raise KeyError("no")


def one_more(number: int) -> int:
    return number + 1


@contract("S6.11")
@pytest.mark.parametrize("caller", PLACES)
@pytest.mark.parametrize("start", ["start", "start_link", "options"])
def test_functions_run_in_the_agent(node: pa.ActorSystem, caller: int, start: str) -> None:
    begin: Any = {"options": functools.partial(pa.options(worker=1).start, pa.Agent)}.get(start) or getattr(
        pa.Agent, start
    )
    agent: pa.Agent[dict[str, int]] = begin(words)
    asker = place(caller)
    assert 1 == asker.do(agent.get, len)
    assert asker.do(agent.get, lambda state: pa.self_()) == agent.__pid__
    assert asker.do(agent.update, lambda state: state | {"two": 2}) is None
    assert ["one", "two"] == asker.do(agent.get, sorted)
    assert 1 == asker.do(agent.get_and_update, lambda state: (state["one"], {}))
    assert 0 == asker.do(agent.get, len)
    assert asker.do(agent.cast, lambda state: {"three": 3}) is None
    assert {"three": 3} == asker.do(agent.get, dict)
    pa.Agent.stop(agent)
    assert not pa.is_alive(agent)


def test_what_it_gives_is_a_copy(node: pa.ActorSystem) -> None:
    agent = pa.Agent.start(list[int])
    mine = agent.get(list)
    mine.append(1)
    assert [] == agent.get(list)
    kept = [2]
    agent.update(lambda state: kept)
    kept.append(3)
    assert [2] == agent.get(list)


def test_the_first_state_is_computed_there(node: pa.ActorSystem) -> None:
    agent = pa.Agent.start_link(operator.mul, 6, 7)
    assert 42 == agent.get(int)
    assert pa.Agent.start(pa.self_).get(lambda pid: pid == pa.self_())
    with pytest.raises(pa.StartError, match="ZeroDivisionError"):
        pa.Agent.start(lambda: 1 // 0)


def test_updates_of_many_are_one_after_the_other(node: pa.ActorSystem) -> None:
    agent = pa.Agent.start(int)

    def count(to: pa.Pid) -> None:
        for _ in range(50):
            agent.update(one_more)
            agent.cast(one_more)
        pa.send(to, "done")

    for number in range(4):
        pa.options(worker=number % 2).spawn(count, pa.self_())
    assert ["done"] * 4 == [get() for _ in range(4)]
    assert 400 == agent.get(int)


@pytest.mark.parametrize("how", ["get", "update", "get_and_update", "cast"])
def test_a_function_that_fails_ends_the_agent(node: pa.ActorSystem, how: str) -> None:
    agent, watch = pa.options(worker=1).start_monitor(pa.Agent, words)
    if how == "cast":
        agent.cast(fail)
    else:
        with pytest.raises(pa.RemoteError, match="KeyError"):
            getattr(agent, how)(fail)
    down = pa.receive(pa.Down(watch, pa.ANY, pa.ANY), timeout=WAIT)
    assert "KeyError" == down.reason.type
    with pytest.raises(pa.NoProc):
        agent.get(len)


def test_a_bad_answer_of_get_and_update_ends_the_agent(node: pa.ActorSystem) -> None:
    agent = pa.Agent.start(words)
    with pytest.raises(pa.RemoteError, match=r"expected the function to return \(value, new state\), got 1"):
        agent.get_and_update(len)  # type: ignore[arg-type]


def test_time_requests_and_names(node: pa.ActorSystem) -> None:
    pa.Registry.start_link(keys="unique", name="agents")
    for name in "words", pa.via("agents", "words"):
        pa.Supervisor.start_link([pa.child(pa.Agent, words, name=name)])
        agent: pa.Agent[dict[str, int]] = pa.ref(pa.Agent, name)
        with pytest.raises(pa.CallTimeout):
            agent.get.options(timeout=0.01)(lambda state: pa.sleep(1))
        assert 1 == agent.get.request(len).wait(WAIT)
        former = agent.__pid__
        watch = pa.monitor(agent)
        agent.update(lambda state: {})
        pa.exit(agent, "kill")
        pa.receive(pa.Down(watch, pa.ANY, pa.ANY), timeout=WAIT)
        while pa.whereis(name) in (None, former):
            pa.sleep(0.001)
        assert {"one": 1} == agent.get(dict), "it begins anew"


# --- types: mypy and pyright read this --------------------------------------------------------------------------------


def what_passes() -> None:
    agent = pa.Agent.start_link(words)
    assert_type(agent, pa.Agent[dict[str, int]])
    assert_type(pa.Agent.start(lambda: [1]), pa.Agent[list[int]])
    assert_type(agent.get(lambda state: len(state)), int)
    assert_type(agent.get(len), int)
    assert_type(agent.get.options(timeout=1.0)(lambda state: state.get("a")), int | None)
    assert_type(agent.get.request(lambda state: list(state)), pa.Request[list[str]])
    assert_type(agent.get_and_update(lambda state: ("a", state)), str)
    agent.update(lambda state: state | {"two": 2})
    agent.cast(lambda state: {})
    pa.monitor(agent)
    pa.sys_.get_state(agent)
    pa.Agent.stop(agent)


async def what_is_awaited(agent: pa.Agent[dict[str, int]]) -> None:
    assert_type(await agent.get.aio(lambda state: len(state)), int)


def what_fails(agent: pa.Agent[dict[str, int]]) -> None:
    agent.update(lambda state: 1)  # type: ignore[arg-type, return-value]
    agent.cast(lambda state: None)  # type: ignore[arg-type, return-value]
    agent.get(lambda state: state.lenght)  # type: ignore[attr-defined]
    agent.get()  # type: ignore[call-arg]
    agent.get_and_update(lambda state: 1)  # type: ignore[arg-type, return-value]
    agent.put(1)  # type: ignore[attr-defined]
    pa.Agent.start_link(1)  # type: ignore[arg-type]


def test_the_types_are_those_of_the_page() -> None:
    """Nothing runs: `tox -e types` reads the functions above."""
    assert [function.__name__ for function in (what_passes, what_is_awaited, what_fails)]
