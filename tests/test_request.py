"""Requests whose answers are waited for later, and collections of them (S6.4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from puppets import PLACES, WAIT, mail, place, puppet

np: Any = pytest.importorskip("numpy")


class Desk(pa.GenServer):
    """Answers at once, when told to, by another process, or never."""

    def init(self) -> Any:
        return []

    def handle_call(self, request: Any, from_: Any, state: list[Any]) -> Any:
        match request:
            case ("echo", value):
                return pa.Reply(value)
            case "later":
                return pa.NoReply([*state, from_])
            case "other":
                pa.spawn(pa.reply, from_, "by another")
                return pa.NoReply()
            case "waiting":
                return pa.Reply(len(state))
            case "fail":
                raise ValueError("failed at it")
            case "stop":
                return pa.Stop("normal", reply="bye")
            case "hard":
                import threading

                return pa.Reply(threading.Lock())

    def handle_cast(self, request: Any, state: list[Any]) -> Any:
        for from_ in state:
            pa.reply(from_, request)
            pa.reply(from_, "twice")
        return pa.NoReply([])


def desk(worker: int) -> pa.Pid:
    pid = pa.options(worker=worker).start(Desk)
    assert pid is not None
    return pid


everywhere = pytest.mark.parametrize(("here", "there"), [(h, t) for h, t in PLACES if t >= 0], ids=str)


@contract("S6.4")
@everywhere
def test_an_answer_is_waited_for_later(node: pa.ActorSystem, here: int, there: int) -> None:
    server = desk(there)

    def ask() -> list[Any]:
        requests = [pa.send_request(server, ("echo", [n])) for n in range(5)]
        other = pa.send_request(server, "other")
        found: list[Any] = [request.wait(WAIT) for request in reversed(requests)]
        return [*found, other.wait(WAIT), pa.send_request(server, "stop").receive(WAIT)]

    one = place(here)
    assert one.do(ask) == [[4], [3], [2], [1], [0], "by another", "bye"]
    assert one.do(mail) == []


@contract("S6.4", "S6.3", partly=True)
@everywhere
def test_too_early_it_stands_and_abandoned_it_is_dropped(node: pa.ActorSystem, here: int, there: int) -> None:
    server = desk(there)

    def ask() -> str:
        first, second, third = (pa.send_request(server, "later") for _ in range(3))
        for early in (first.wait, second.receive):
            with pytest.raises(pa.CallTimeout):
                early(0)
        third.abandon()
        while pa.call(server, "waiting") < 3:
            pa.sleep(0)
        pa.cast(server, "now")
        answer: str = first.wait(WAIT)
        assert pa.call(server, "waiting") == 0
        return answer

    one = place(here)
    assert one.do(ask) == "now"
    assert one.do(mail) == []


class Unreadable:
    """Pickles, and can't be unpickled."""

    def __reduce__(self) -> Any:
        return unreadable, ()


def unreadable() -> None:
    raise RuntimeError("unreadable")


@contract("S6.4", "S2.7", partly=True)
@everywhere
def test_a_request_that_cannot_be_unpickled_has_no_answer(node: pa.ActorSystem, here: int, there: int) -> None:
    def ask(what: Any) -> Any:
        return pa.send_request(server, what).wait(WAIT)

    one = place(here)
    server = desk(there)
    with pytest.raises(pa.RemoteError, match="unreadable"):
        one.do(lambda: ask(Unreadable()))
    assert "fine" == one.do(ask, ("echo", "fine"))
    assert one.do(mail) == []


@contract("S6.4", "S6.3", partly=True)
@everywhere
def test_there_will_be_no_answer(node: pa.ActorSystem, here: int, there: int) -> None:
    def ask(server: pa.Pid, what: Any) -> Any:
        return pa.send_request(server, what).wait(WAIT)

    one = place(here)
    server = desk(there)
    with pytest.raises(pa.RemoteError, match="failed at it"):
        one.do(ask, server, "fail")
    with pytest.raises(pa.RemoteError, match="noproc"):
        one.do(ask, server, "fail")  # it is dead now
    with pytest.raises(pa.RemoteError, match="lock"):
        one.do(ask, desk(there), "hard")
    with pytest.raises(pa.NoProc):
        pa.send_request("nobody", 1)
    assert one.do(mail) == []


@contract("S6.4", "S7.2", partly=True)
def test_requests_are_awaited(node: pa.ActorSystem) -> None:
    me, server = pa.self_(), desk(0)

    async def body() -> None:
        requests = [pa.send_request(server, ("echo", n)) for n in range(3)]
        pa.send(me, ("awaited", [await request for request in requests]))

    pa.spawn(body)
    assert pa.receive(("awaited", list), timeout=WAIT)[1] == [0, 1, 2]


@contract("S6.3", "S7.2", partly=True)
def test_a_cancelled_await_leaves_nothing_behind() -> None:
    """Found: the answer came to the mailbox."""

    async def program() -> list[Any]:
        async with pa.ActorSystem(workers=1):
            server = desk(0)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(pa.send_request(server, "later"), 0.01)
            assert pa.call(server, "waiting") == 3
            pa.cast(server, "now")
            assert pa.call(server, "waiting") == 0
            return mail()

    assert asyncio.run(program()) == []


@contract("S6.4")
@everywhere
def test_a_collection_gives_answers_as_they_come(node: pa.ActorSystem, here: int, there: int) -> None:
    servers = [desk(there) for _ in range(3)]

    def ask() -> Any:
        requests = pa.Requests()
        requests.send(servers[0], "later", label="later")
        requests.send(servers[1], ("echo", 1), label="echo")
        requests.add(pa.send_request(servers[2], "fail"), label="fail")
        assert len(requests) == 3
        found = dict(requests.wait(WAIT) for _ in range(2))
        with pytest.raises(pa.CallTimeout):
            requests.wait(0)
        rest = list(requests.answers(timeout=0.01))
        with pytest.raises(LookupError, match="empty collection"):
            requests.wait(0)
        failed = found["fail"]
        assert isinstance(failed, pa.Failed)
        return found["echo"], failed.reason.text, rest

    one = place(here)
    assert one.do(ask) == (pa.Done(1), "failed at it", [("later", pa.Failed("timeout"))])
    pa.cast(servers[0], "now")
    assert pa.call(servers[0], "waiting") == 0
    assert one.do(mail) == []


@contract("S6.4", partly=True)
def test_a_message_is_checked_by_hand(node: pa.ActorSystem) -> None:
    request = pa.send_request(desk(1), ("echo", "x"))
    pa.send(pa.self_(), "something else")
    assert request.check((np.array([1, 2]), 1)) is None  # which isn't equal to anything
    found: list[Any] = []
    while not found or found[-1] is None:
        found.append(request.check(pa.receive(timeout=WAIT)))
    assert found[-1] == pa.Done("x")
    assert mail() in ([], ["something else"])


@contract("S6.4", "S10.1", partly=True)
def test_only_who_asked_may_wait(node: pa.ActorSystem) -> None:
    request = pa.send_request(desk(0), "later")
    with pytest.raises(pa.ActorError, match="who asked, to wait for the answer"):
        puppet(1).do(request.wait)
    request.abandon()
    eventually(lambda: mail() == [], "nothing comes")
