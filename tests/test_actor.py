"""Typed actors: calls, casts and other messages as methods; references as values (S7.1, S7.2)."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from puppets import WAIT, mail, park, place, puppet

on_all = pytest.mark.parametrize("worker", [0, 1])


class Counter(pa.Actor):
    """Counts."""

    def __init__(self, start: int = 0, *, asker: pa.Pid | None = None) -> None:
        self.n = start
        self.asker = asker
        self.waiting: list[pa.ReplyTo[int]] = []

    @pa.call
    def value(self) -> int:
        """The number."""
        return self.n

    @pa.call
    def add(self, by: int = 1, *, times: int = 1) -> int:
        self.bump(by * times)
        return self.value()

    @pa.call
    async def slowly(self, by: int) -> int:
        await pa.asleep(0)
        self.n += by
        return self.n

    @pa.cast
    def bump(self, by: int = 1) -> None:
        self.n += by
        for to in self.waiting:
            to.reply(self.n)
        self.waiting.clear()

    @pa.cast
    async def bump_slowly(self, by: int) -> None:
        await pa.asleep(0)
        self.n += by

    @pa.call_later
    def next_value(self, to: pa.ReplyTo[int]) -> None:
        self.waiting.append(to)

    @pa.call_later
    async def through_another(self, to: pa.ReplyTo[int], plus: int) -> None:
        await pa.asleep(0)
        pa.spawn(to.reply, self.n + plus)

    @pa.call
    def fail(self) -> int:
        raise ValueError(f"at {self.n}")

    @pa.call
    def leave(self) -> int:
        raise pa.ProcessExit("normal")

    @pa.call
    def same(self, other: Counter) -> bool:
        return other == other and hash(other) == hash(other.__pid__)

    @pa.info(("add", int))
    def told(self, message: tuple[str, int]) -> None:
        self.n += message[1]

    @pa.info(pa.Down, ("async", pa.ANY))
    async def told_later(self, message: Any) -> None:
        await pa.asleep(0)
        self.n += 100

    def terminate(self, reason: Any) -> None:
        if self.asker is not None:
            pa.send(self.asker, ("terminated", self.n, reason))

    def plain(self) -> str:
        return "not for others"


class Doubler(Counter):
    @pa.call
    def value(self) -> int:
        return 2 * self.n

    bump = None  # type: ignore[assignment]


def grown(total: int, by: int = 1) -> int:
    return total + by


class Words(pa.Actor):
    """A set of words, and a number that doesn't change but is replaced."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.total = 0

    add = pa.delegate(set.add, to="seen", cast=True)
    all = pa.delegate(sorted, to="seen")
    plus = pa.delegate(grown, to="total", store=True)
    later_plus = pa.delegate(grown, to="total", cast=True, store=True)
    sum = pa.delegate(grown, to="total")
    nowhere = pa.delegate(len, to="missing")


def counter(worker: int, start: int = 0, **more: Any) -> Counter:
    made: Counter = pa.options(worker=worker).start(Counter, start, **more)
    return made


# --- calls and casts --------------------------------------------------------------------------------------------------


@contract("S7.1")
@pytest.mark.parametrize("here", [-1, 0, 1])
@on_all
def test_methods_are_calls_and_casts(node: pa.ActorSystem, here: int, worker: int) -> None:
    one = counter(worker, 10)

    def use() -> list[int]:
        one.bump()
        one.bump(2)
        one.bump(by=3)
        one.bump_slowly(4)
        return [one.value(), one.add(), one.add(2, times=5), one.slowly(by=1)]

    assert place(here).do(use) == [20, 21, 31, 32]


@contract("S7.1")
@on_all
def test_other_messages_go_to_methods_too(node: pa.ActorSystem, worker: int) -> None:
    one = counter(worker)
    pa.send(one, ("add", 5))
    assert one.value() == 5
    pa.send(one, ("async", "x"))
    assert one.value() == 105
    pa.send(one, "unknown")  # logged, and that is all
    pa.send(one, ("add", "no number"))
    assert one.value() == 105


@contract("S7.1", "S5.3", partly=True)
@on_all
def test_a_reference_is_a_value(node: pa.ActorSystem, worker: int) -> None:
    one, other = counter(worker), counter(1 - worker)
    assert one == one
    assert one != other
    assert one.same(one)
    assert one.same(other)
    assert pickle.loads(pickle.dumps(one)) == one
    pid = one.__pid__
    assert one != pid  # type: ignore[comparison-overlap]
    assert {one: 1}[pickle.loads(pickle.dumps(one))] == 1
    assert repr(one) == f"<Counter {pid!r}>"
    assert puppet(1).do(lambda: other.value()) == 0


@contract("S5.3", "S7.1", partly=True)
@on_all
def test_a_reference_is_accepted_where_a_pid_is(node: pa.ActorSystem, worker: int) -> None:
    one = counter(worker)
    assert pa.is_alive(one)
    assert pa.process_info(one, "worker") == worker
    pa.register("counter", one)
    assert pa.whereis("counter") == one.__pid__
    ref = pa.monitor(one)
    pa.link(one)
    pa.unlink(one)
    assert pa.sys_.get_state(one).n == 0
    pa.stop(one, timeout=WAIT)
    assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "normal"
    second = counter(worker)
    pa.exit(second, "kill")
    eventually(lambda: not pa.is_alive(second), "it is killed")


@contract("S7.1", "S10.1")
def test_a_reference_offers_nothing_else(node: pa.ActorSystem) -> None:
    one = counter(0)
    with pytest.raises(AttributeError, match=r"has no 'n'; its calls and casts are: value, .*lives in another process"):
        one.n  # noqa: B018
    with pytest.raises(AttributeError, match="has no 'plain'"):
        one.plain()
    with pytest.raises(AttributeError, match="has no 'vlaue'"):
        one.vlaue()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="set by the actor itself, got 'n' set on a reference to a Counter"):
        one.n = 5
    assert "value" in dir(one)
    assert "n" not in dir(one)
    assert not hasattr(one, "__len__")


@contract("S7.1", partly=True)
def test_a_subclass_changes_and_takes_away(node: pa.ActorSystem) -> None:
    one = pa.start(Doubler, 4)
    assert one.value() == 8
    with pytest.raises(AttributeError, match="has no 'bump'"):
        one.bump()  # type: ignore[misc]
    pa.send(one, ("add", 1))
    assert one.value() == 10


# --- answers ----------------------------------------------------------------------------------------------------------


@contract("S7.2")
@on_all
def test_an_answer_may_come_later(node: pa.ActorSystem, worker: int) -> None:
    one = counter(worker)
    requests = [one.next_value.request() for _ in range(3)]
    eventually(lambda: len(pa.sys_.get_state(one).waiting) == 3, "they wait")
    one.bump(7)
    assert [request.wait(WAIT) for request in requests] == [7, 7, 7]
    assert one.through_another(1) == 8
    assert mail() == []


@contract("S7.2")
def test_each_call_may_have_its_time(node: pa.ActorSystem) -> None:
    one = counter(1)
    with pytest.raises(pa.CallTimeout, match=r"timed out after 0.01 s(.|\n)*next_value"):
        one.next_value.options(timeout=0.01)()
    assert one.value.options(timeout=None)() == 0
    one.bump()
    assert one.value() == 1
    assert mail() == []


@contract("S7.2")
@on_all
def test_calls_are_awaited_by_async_bodies(node: pa.ActorSystem, worker: int) -> None:
    me, one = pa.self_(), counter(worker, 5)

    async def body() -> None:
        pa.send(me, ("sum", await one.add.aio(2) + await one.value.aio()))

    pa.options(worker=1).spawn(body)
    assert pa.receive(("sum", int), timeout=WAIT)[1] == 14


@contract("S7.2")
def test_an_awaited_call_has_its_time_too(node: pa.ActorSystem) -> None:
    me, one = pa.self_(), counter(1)

    async def body() -> None:
        try:
            await one.next_value.options(timeout=0.01).aio()
        except pa.CallTimeout as error:
            pa.send(me, ("late", error.elapsed))

    pa.spawn(body)
    assert pa.receive(("late", float), timeout=WAIT) == ("late", 0.01)


@contract("S7.2")
def test_calls_are_awaited_by_asyncio() -> None:
    async def program() -> list[int]:
        async with pa.ActorSystem(workers=2):
            one = pa.start(Counter, 5)
            return list(await asyncio.gather(*(one.add.aio(0) for _ in range(10))))

    assert asyncio.run(program()) == [5] * 10


# --- life -------------------------------------------------------------------------------------------------------------


@contract("S7.1", "S6.3", partly=True)
@on_all
def test_what_a_method_raises_ends_the_actor(node: pa.ActorSystem, worker: int) -> None:
    one = counter(worker, 3, asker=pa.self_())
    with pytest.raises(pa.RemoteError, match="at 3") as caught:
        one.fail()
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(pa.receive(("terminated", 3, pa.ANY), timeout=WAIT)[2], pa.Crash)
    with pytest.raises(pa.NoProc):
        one.value()
    one.bump()  # nobody is told
    two = counter(worker, 4, asker=pa.self_())
    with pytest.raises(pa.RemoteError, match="waited for it: normal"):
        two.leave()
    assert pa.receive(("terminated", 4, pa.ANY), timeout=WAIT)[2] == "normal"


class Broken(pa.Actor):
    def __init__(self) -> None:
        raise LookupError("no luck")


@contract("S6.2", "S7.1", partly=True)
def test_what_init_raises_is_raised_by_the_start(node: pa.ActorSystem) -> None:
    with pytest.raises(pa.StartError, match="Broken failed to start: LookupError: no luck"):
        pa.start(Broken)
    pa.trap_exit(True)
    with pytest.raises(pa.StartError, match="takes"):
        pa.start_link(Counter, 1, 2, 3)  # type: ignore[arg-type]
    pa.trap_exit(False)
    assert mail() == []


@contract("S7.1", "S8.1", partly=True)
def test_actors_are_supervised(node: pa.ActorSystem) -> None:
    pa.trap_exit(True)
    pa.Supervisor.start_link([pa.child(Counter, 7, name="seven")])
    seven, first = pa.ref(Counter, "seven"), pa.whereis("seven")
    assert seven == pa.ref(Counter, seven)
    assert seven.__pid__ == first
    with pytest.raises(pa.RemoteError, match="at 7"):
        seven.fail()
    eventually(lambda: pa.whereis("seven") not in (None, first), "it is started again")
    seven.bump()
    assert seven.value() == 8
    pa.trap_exit(False)
    nobody = pa.ref(Counter, "nobody")
    nobody.bump()
    with pytest.raises(pa.NoProc, match="called 'nobody'"):
        nobody.value()
    with pytest.raises(pa.NotRegistered, match="called 'nobody'"):
        pa.link(nobody)
    watch = pa.monitor(nobody)
    assert pa.receive(pa.Down, timeout=WAIT) == pa.Down(watch, nobody, "noproc")  # type: ignore[arg-type]
    pa.cast(nobody, "request")
    with pytest.raises(pa.NoProc, match="called 'nobody'"):
        pa.stop(nobody)
    for wrong in (lambda: pa.ref(int, "x"), lambda: pa.ref(Counter, 5)):  # type: ignore[type-var, arg-type]
        with pytest.raises(TypeError, match="expected a"):
            wrong()


@contract("S7.1", partly=True)
def test_start_monitor_gives_the_reference_and_the_monitor(node: pa.ActorSystem) -> None:
    one, ref = pa.options(worker=1).start_monitor(Counter, 2)
    assert one.value() == 2
    pa.exit(one, "kill")
    assert pa.receive(pa.Down, timeout=WAIT) == pa.Down(ref, one.__pid__, "killed")


@contract("S6.7", "S7.1", partly=True)
def test_a_call_that_is_none_of_its_own_ends_it(node: pa.ActorSystem) -> None:
    requests: list[Any] = ["value", ("bump", (), {}), ("plain", (), {})]
    for request in requests:
        with pytest.raises(pa.RemoteError, match="expected a call of Counter"):
            pa.call(counter(0), request)


@contract("S7.1", "S10.1", partly=True)
def test_what_cannot_be_decorated(node: pa.ActorSystem) -> None:
    decorators: list[Any] = [pa.call, pa.cast, pa.call_later]
    for decorate in decorators:
        with pytest.raises(TypeError, match="a method of an Actor to decorate, got"):
            decorate(5)
    with pytest.raises((TypeError, RuntimeError)) as caught:
        type("Wrong", (pa.Actor,), {"_hidden": pa.call(lambda self: 1)})
    assert "to be a public one, got '_hidden'" in str(caught.value.__cause__ or caught.value)


@contract("S6.8", "S7.1", partly=True)
def test_the_status_shows_the_attributes(node: pa.ActorSystem) -> None:
    one = counter(0, 5)
    assert pa.sys_.get_status(one)["class"] == "Counter"
    assert pa.sys_.get_status(one)["state"]["n"] == 5


@contract("S7.1", partly=True)
def test_an_actor_waits_in_a_method(node: pa.ActorSystem) -> None:
    one = pa.start(Waiting)
    other = puppet(0)
    assert one.ask(other.pid) is None
    assert park is not None


class Waiting(pa.Actor):
    @pa.call
    def ask(self, pid: pa.Pid) -> Any:
        ref = pa.monitor(pid)
        try:
            return pa.receive("never", timeout=0.01, default=None)
        finally:
            pa.demonitor(ref, flush=True)


# --- delegate ---------------------------------------------------------------------------------------------------------


@contract("S7.3", partly=True)
@on_all
def test_a_plain_data_structure_is_called_and_replaced(node: pa.ActorSystem, worker: int) -> None:
    words: Words = pa.options(worker=worker).start(Words)
    words.add("to")
    words.add("be")
    assert ["be", "to"] == words.all()
    assert ["to", "be"] == words.all(reverse=True)
    assert words.plus(2) is None
    words.later_plus(by=3)
    assert (5, 6) == (words.sum(0), words.sum())
    assert 5 == pa.sys_.get_state(words).total
    with pytest.raises(pa.RemoteError, match="missing"):
        words.nowhere()


@contract("S7.3", partly=True)
def test_what_is_delegated_travels_with_a_class_of_the_main_program() -> None:
    for name in "add", "all", "plus":
        method = vars(Words)[name]
        found = pickle.loads(pickle.dumps(method))
        assert (type(method), name) == (type(found), found.name)
        assert method.function.function is found.function.function


def test_what_cannot_be_delegated_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="expected a function of the data structure, got 3"):
        pa.delegate(3, to="x")  # type: ignore[call-overload]
    wrong: Any
    for wrong in ("not a name", 7):
        with pytest.raises(TypeError, match="the name of an attribute of the actor"):
            pa.delegate(len, to=wrong)
