"""Async bodies in processes, and asyncio programs outside (S1.6)."""

from __future__ import annotations

import asyncio
import contextlib
import decimal
import fractions
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from parallel_actors.workers.scheduler import current_scheduler
from puppets import WAIT, Puppet, ask, echo, mail, park, puppet

contract = pytest.mark.contract
both = pytest.mark.parametrize("worker", [0, 1])


async def aecho() -> None:
    while True:
        sender, message = await pa.areceive()
        pa.send(sender, message)


def run(body: Any, *args: Any, worker: int = 0) -> Any:
    """What an async body returns (it is sent to the test), or its crash."""

    async def telling(to: pa.Pid) -> None:
        pa.send(to, ("returned", await body(*args)))

    pid, ref = pa.options(worker=worker).spawn_monitor(telling, pa.self_())
    got = pa.receive(("returned", pa.ANY), pa.Down(ref, pid, pa.ANY), timeout=WAIT)
    if isinstance(got, pa.Down):
        raise AssertionError(str(got.reason))
    assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).reason == "normal"
    return got[1]


# --- async bodies -----------------------------------------------------------------------------------------------------


@contract("S1.6")
@both
def test_an_async_body(node: pa.ActorSystem, worker: int) -> None:
    pids = [pa.options(worker=worker).spawn(aecho) for _ in range(100)]
    for i, pid in enumerate(pids):
        assert ask(pid, i) == i


@contract("S1.6", "S3.1")
@both
def test_areceive_matches_as_receive_does(node: pa.ActorSystem, worker: int) -> None:
    async def body() -> list[object]:
        me = pa.self_()
        for message in ("a", 1, "b", ("c", 2), 3.0):
            pa.send(me, message)
        found: list[object] = [await pa.areceive(int), await pa.areceive(("c", pa.ANY), float)]
        found.append(await pa.areceive(list, timeout=0, default="none"))
        found.append(await pa.areceive(list, timeout=0.01, default="none"))
        for timeout in (0, 0.01):
            try:
                await pa.areceive(list, timeout=timeout)
            except pa.ReceiveTimeout as error:
                found.append(str(error))
        found += [await pa.areceive(), await pa.areceive(), await pa.areceive()]
        return found

    expected = [1, ("c", 2), "none", "none"]
    texts = [f"expected list within {t} s, got none; 3 other messages waiting" for t in (0, 0.01)]
    assert run(body, worker=worker) == [*expected, *texts, "a", "b", 3.0]


@contract("S1.6")
def test_mail_wakes_an_async_body_only_when_it_fits(node: pa.ActorSystem) -> None:
    async def body() -> Any:
        for i in range(20):
            pa.send_after(i * 0.001, pa.self_(), i)
        pa.send_after(0.05, pa.self_(), "go")
        return [await pa.areceive("go"), *[await pa.areceive() for _ in range(20)]]

    assert run(body) == ["go", *range(20)]


@contract("S1.6", "S1.11")
@pytest.mark.parametrize("duration", [0, 0.05, decimal.Decimal("0.05"), fractions.Fraction(1, 20)], ids=repr)
def test_asleep(node: pa.ActorSystem, duration: float) -> None:
    async def body() -> float:
        begun = time.monotonic()
        pa.send(pa.self_(), "mail doesn't wake it")
        await pa.asleep(duration)
        return time.monotonic() - begun

    assert float(duration) <= run(body) < WAIT


@contract("S1.6")
@both
def test_what_blocks_may_be_called_from_an_async_body(node: pa.ActorSystem, worker: int) -> None:
    """Also below plain functions; the process then holds a stack until that returns."""

    def below() -> Any:
        pa.sleep(0.001)
        return pa.receive(int, timeout=WAIT)

    async def body() -> Any:
        me = pa.self_()
        found = []
        for i in range(10):
            pa.send_after(0.002, me, i)
            found.append(below() if i % 2 else await pa.areceive(int))
            await pa.asleep(0)
        pa.send(me, "x")
        return [*found, pa.receive(), pa.process_info(me, "worker"), pa.receive(timeout=0, default=None)]

    assert run(body, worker=worker) == [*range(10), "x", worker, None]


@contract("S1.6")
def test_async_bodies_that_block_do_not_hold_up_others(node: pa.ActorSystem) -> None:
    async def blocking(to: pa.Pid) -> None:
        pa.send(to, pa.receive())

    pids = [pa.options(worker=0).spawn(blocking, pa.self_()) for _ in range(50)]
    assert ask(pa.options(worker=0).spawn(aecho), "others run") == "others run"
    for i, pid in enumerate(reversed(pids)):
        pa.send(pid, i)
        assert pa.receive(timeout=WAIT) == i


@contract("S1.6")
def test_a_chatty_async_body_starves_nobody(node: pa.ActorSystem) -> None:
    async def chatty() -> None:
        while True:
            pa.send(pa.self_(), 1)
            await pa.areceive()

    pid = pa.options(worker=0).spawn(chatty)
    neighbour = pa.options(worker=0).spawn(echo)
    for i in range(20):
        assert ask(neighbour, i) == i
    assert pa.is_alive(pid)


@contract("S1.7")
def test_how_async_bodies_end(node: pa.ActorSystem) -> None:
    async def wait_and_raise(error: BaseException | None) -> None:
        await pa.asleep(0)
        if error is not None:
            raise error

    for error, reason in (
        (None, "normal"),
        (pa.ProcessExit("mine"), "mine"),
        (pa.ProcessExit(), "normal"),
        (ValueError("x"), pa.Crash("ValueError", "x")),
    ):
        pid, ref = pa.spawn_monitor(wait_and_raise, error)
        assert pa.receive(timeout=WAIT) == pa.Down(ref, pid, reason)


@contract("S1.6", "S2.2")
@pytest.mark.parametrize(("reason", "seen"), [("stop", "stop"), ("kill", "killed"), ("shutdown", "shutdown")])
def test_an_exit_unwinds_an_async_body(node: pa.ActorSystem, reason: str, seen: str) -> None:
    """`finally` and `async with` run; what they call of the library raises."""

    @contextlib.asynccontextmanager
    async def guarded(log: list[str]) -> AsyncIterator[None]:
        try:
            yield
        finally:
            log.append("async with")

    async def body(to: pa.Pid, blocking: bool) -> None:
        log: list[str] = []
        try:
            async with guarded(log):
                pa.send(to, "ready")
                await pa.areceive("never") if not blocking else pa.receive("never")
        finally:
            log.append("finally")
            UNWOUND.append(log)
            await pa.asleep(0)
            UNWOUND.append(["not reached"])

    for blocking in (False, True):
        pid, ref = pa.options(worker=0).spawn_monitor(body, pa.self_(), blocking)
        assert pa.receive("ready", timeout=WAIT)
        pa.exit(pid, reason)
        assert pa.receive(timeout=WAIT) == pa.Down(ref, pid, seen)
        probe = puppet(0)
        await_unwound(probe)
        assert probe.do(take_unwound) == [["async with", "finally"]]


UNWOUND: list[list[str]] = []


def await_unwound(probe: Puppet) -> None:
    eventually(lambda: probe.do(len_unwound) == 1, "its stack has unwound")


def len_unwound() -> int:
    return len(UNWOUND)


def take_unwound() -> list[list[str]]:
    found = UNWOUND[:]
    UNWOUND.clear()
    return found


@contract("S1.6", partly=True)
def test_an_async_body_killed_before_it_ran(node: pa.ActorSystem) -> None:
    def kill_at_once() -> list[object]:
        found: list[object] = []
        for _ in range(20):
            pid, ref = pa.spawn_monitor(aecho)
            pa.exit(pid, "kill")
            found.append(pa.receive(pa.Down(ref, pid, pa.ANY), timeout=WAIT).reason)
        return found

    assert puppet(0).do(kill_at_once) == ["killed"] * 20


def swallow_forever(to: pa.Pid) -> None:
    pa.send(to, "ready")
    while True:
        with contextlib.suppress(BaseException):
            pa.receive("never")


async def aswallow_forever(to: pa.Pid) -> None:
    pa.send(to, "ready")
    while True:
        with contextlib.suppress(BaseException):
            await pa.areceive("never")


async def aswallow_blocking(to: pa.Pid) -> None:
    swallow_forever(to)


@contract("S1.9", partly=True)
@pytest.mark.parametrize("body", [swallow_forever, aswallow_forever, aswallow_blocking], ids=lambda f: f.__name__)
def test_what_swallows_its_kill_is_abandoned(actor_system: pa.ActorSystem, body: Any) -> None:
    pid, ref = pa.options(worker=0).spawn_monitor(body, pa.self_())
    assert pa.receive("ready", timeout=WAIT)
    pa.exit(pid, "kill")
    assert pa.receive(timeout=WAIT) == pa.Down(ref, pid, "killed")
    neighbour = pa.options(worker=0).spawn(echo)
    assert ask(neighbour, "unharmed") == "unharmed"


def test_areceive_in_a_plain_body_says_what_to_do(node: pa.ActorSystem) -> None:
    def body() -> str:
        try:
            pa.areceive()
        except RuntimeError as error:
            return str(error)
        return "no error"

    assert "use receive() and sleep() there" in puppet(0).do(body)


def test_an_awaitable_of_another_process_is_refused(node: pa.ActorSystem) -> None:
    """Module globals are the worker's: an awaitable can get to another process."""

    async def make(to: pa.Pid) -> None:
        KEPT.append(pa.areceive())
        pa.send(to, "made")
        await pa.areceive()

    async def use() -> str:
        try:
            await KEPT.pop()
        except RuntimeError as error:
            return str(error)
        return "no error"

    pa.options(worker=0).spawn(make, pa.self_())
    assert pa.receive("made", timeout=WAIT)
    assert run(use) == "expected to be awaited by the process that made it, got another one"


KEPT: list[Any] = []


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True], ids=repr)
def test_absurd_time_outs_of_async_bodies(node: pa.ActorSystem, timeout: Any) -> None:
    async def body() -> list[str]:
        found = []
        for call in (lambda: pa.areceive(timeout=timeout), lambda: pa.asleep(timeout)):
            try:
                await call()
            except (ValueError, TypeError) as error:
                found.append(str(error))
        return found

    assert all(text.startswith("expected ") for text in run(body))
    assert len(run(body)) == 2


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, None], ids=repr)
def test_very_long_time_outs_of_async_bodies(node: pa.ActorSystem, timeout: float | None) -> None:
    async def body() -> object:
        pa.send_after(0.02, pa.self_(), "came")
        return await pa.areceive(timeout=timeout)

    assert run(body) == "came"


def test_a_predicate_that_raises_in_areceive(node: pa.ActorSystem) -> None:
    async def body() -> list[object]:
        pa.send(pa.self_(), 0)
        found: list[object] = []
        for timeout in (0, 0.05, None):
            try:
                await pa.areceive(lambda m: 1 / m, timeout=timeout)
            except ZeroDivisionError:
                found.append("raised")
        pa.send_after(0.01, pa.self_(), 0)
        await pa.areceive()
        try:
            await pa.areceive(lambda m: 1 / m, timeout=WAIT)
        except ZeroDivisionError:
            found.append("raised")
        return [*found, await pa.areceive(timeout=0)]

    assert run(body) == ["raised"] * 4 + [0]


# --- asyncio programs outside -----------------------------------------------------------------------------------------


@contract("S1.13", partly=True)
def test_an_asyncio_program(no_leaks: None) -> None:
    async def main() -> list[object]:
        async with pa.ActorSystem(workers=2) as system:
            pid = system.spawn(echo)
            pa.send(pid, (pa.self_(), "hi"))
            found: list[object] = [await pa.areceive(timeout=WAIT)]
            down_pid, ref = pa.spawn_monitor(bool)
            found.append(await pa.areceive(pa.Down, timeout=WAIT) == pa.Down(ref, down_pid, "normal"))
            found.append(await pa.areceive(timeout=0, default="none"))
            found.append(await pa.areceive(timeout=0.01, default="none"))
            with pytest.raises(pa.ReceiveTimeout, match="within"):
                await pa.areceive(int, timeout=0.01)
            await pa.asleep(0.01)
            await pa.asleep(0)
            found.append(pa.receive(timeout=0, default="none"))
            return found

    assert asyncio.run(main()) == ["hi", True, "none", "none", "none"]


@contract("S1.13", "S3.1", partly=True)
def test_many_tasks_wait_at_once(node: pa.ActorSystem) -> None:
    """Each gets what it waits for, whatever comes first; the loop runs on meanwhile."""

    async def main() -> tuple[list[object], bool]:
        pids = [pa.options(worker=i % 2).spawn(echo) for i in range(40)]
        turned = 0

        async def turning() -> None:
            nonlocal turned
            while True:
                turned += 1
                await asyncio.sleep(0)

        async def ask(i: int) -> object:
            ref = pa.make_ref()
            pa.send(pids[i], (pa.self_(), (ref, i)))
            return (await pa.areceive((ref, pa.ANY), timeout=WAIT))[1]

        spinner = asyncio.create_task(turning())
        got = await asyncio.gather(*(ask(i) for i in reversed(range(40))))
        spinner.cancel()
        return list(got), turned > 1

    assert asyncio.run(main()) == (list(reversed(range(40))), True)


@contract("S1.13", partly=True)
def test_a_cancelled_areceive_loses_nothing(node: pa.ActorSystem) -> None:
    async def main() -> list[object]:
        me = pa.self_()
        for i in range(30):
            task = asyncio.create_task(_wait())
            await asyncio.sleep(0)
            pa.options(worker=0).spawn(pa.send, me, i)
            await asyncio.sleep(0.001 * (i % 3))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                pa.send(me, await task)  # it had it already: put it back
        got = [await pa.areceive(timeout=WAIT) for _ in range(30)]
        return sorted(got)

    async def _wait() -> object:
        return await pa.areceive()

    assert asyncio.run(main()) == list(range(30))
    assert mail() == []


@contract("S1.13", partly=True)
@pytest.mark.parametrize("timeout", [decimal.Decimal("0.01"), fractions.Fraction(1, 100), 0.01], ids=repr)
def test_time_outs_of_every_number_type(node: pa.ActorSystem, timeout: float) -> None:
    async def main() -> object:
        await pa.asleep(timeout)
        return await pa.areceive(timeout=timeout, default="late")

    assert asyncio.run(main()) == "late"


@contract("S1.13", partly=True)
@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 10**30, None], ids=repr)
def test_very_long_time_outs_outside(node: pa.ActorSystem, timeout: float | None) -> None:
    async def main() -> object:
        sleeper = asyncio.ensure_future(_sleep())
        pa.send_after(0.02, pa.self_(), "came")
        got = await pa.areceive(timeout=timeout)
        assert not sleeper.done()
        sleeper.cancel()
        return got

    async def _sleep() -> None:
        await pa.asleep(timeout)

    assert asyncio.run(main()) == "came"


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True], ids=repr)
def test_absurd_time_outs_outside(node: pa.ActorSystem, timeout: Any) -> None:
    async def main() -> None:
        with pytest.raises((ValueError, TypeError), match=r"expected .* got"):
            await pa.areceive(timeout=timeout)
        with pytest.raises((ValueError, TypeError), match=r"expected .* got"):
            await pa.asleep(timeout)

    asyncio.run(main())


@contract("S1.13", partly=True)
def test_a_task_that_still_waits_when_the_system_ends(no_leaks: None) -> None:
    async def main() -> list[str]:
        tasks = []
        async with pa.ActorSystem(workers=1):
            tasks = [asyncio.ensure_future(_wait(timeout)) for timeout in (None, 600, 0.0001)]
            await asyncio.sleep(0.01)
            tasks.append(asyncio.ensure_future(_wait(None)))
            pa.spawn(pa.send, pa.self_(), 1)
            await asyncio.sleep(0)
        return [type(result).__name__ for result in await asyncio.gather(*tasks, return_exceptions=True)]

    async def _wait(timeout: float | None) -> object:
        return await pa.areceive("never", timeout=timeout)

    got = asyncio.run(asyncio.wait_for(main(), WAIT))
    assert got == ["NotRunning", "NotRunning", "ReceiveTimeout", "NotRunning"]


@contract("S9.5", partly=True)
@pytest.mark.parametrize("waits", [False, True])
def test_an_ended_system_is_forgotten(no_leaks: None, waits: bool) -> None:
    """Systems may be repeated: nothing of the former one stays in memory."""

    async def main() -> weakref.ref[Any]:
        async with pa.ActorSystem(workers=1):
            if waits:
                await pa.areceive(timeout=0.01, default=None)
            return weakref.ref(current_scheduler())

    former = asyncio.run(main())
    gc.collect()
    assert former() is None


@contract("S1.13", partly=True)
def test_asyncio_in_a_thread_beside_the_main_thread(node: pa.ActorSystem) -> None:
    """Each thread with a loop is a guest of its own."""
    results: list[object] = []

    async def main(n: int) -> object:
        pid = pa.spawn(echo)
        pa.send(pid, (pa.self_(), n))
        return await pa.areceive(timeout=WAIT)

    threads = [threading.Thread(target=lambda n=n: results.append(asyncio.run(main(n)))) for n in range(3)]
    for thread in threads:
        thread.start()
    assert asyncio.run(main(3)) == 3
    for thread in threads:
        thread.join(WAIT)
    assert sorted(map(str, results)) == ["0", "1", "2"]


@contract("S1.13", partly=True)
def test_two_loops_after_each_other_in_one_system(node: pa.ActorSystem) -> None:
    async def main() -> object:
        pa.send(pa.spawn(echo), (pa.self_(), "hi"))
        return await pa.areceive(timeout=WAIT)

    assert [asyncio.run(main()) for _ in range(3)] == ["hi"] * 3


@contract("S1.13", "S1.7", partly=True)
def test_an_exit_reaches_a_waiting_task(no_leaks: None) -> None:
    """A guest can't be unwound from outside: its next call, or its wait, raises."""

    async def main() -> object:
        with pa.ActorSystem(workers=1):
            pid = pa.spawn_link(park)
            pa.exit(pid, "boom")
            try:
                return await pa.areceive("never", timeout=WAIT)
            except pa.ProcessExit as error:
                return error.reason

    assert asyncio.run(main()) == "boom"
