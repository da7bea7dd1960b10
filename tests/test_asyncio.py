"""asyncio inside of processes: what async bodies and callbacks await, `await_`, `monitor_fd` (S1.6, S1.9, S7.2)."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import errno
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from puppets import WAIT, mail, puppet
from records import end_of_log, recorded

contract = pytest.mark.contract
both = pytest.mark.parametrize("worker", [0, 1])


@pytest.fixture(scope="module")
def shared_node() -> Iterator[pa.ActorSystem]:
    with pa.ActorSystem(workers=2, max_reports=10**6, forward_logs=True) as system:
        yield system


@pytest.fixture
def quiet(node: pa.ActorSystem) -> Iterator[None]:
    """asyncio complains of nothing, and the workers have as many descriptors afterwards as before."""
    probes = [puppet(worker) for worker in (0, 1)]
    for probe in probes:
        probe.do(spare_descriptors)
    before = [probe.do(descriptor_count) for probe in probes]
    with recorded() as records:
        yield
        eventually(
            lambda: [probe.do(descriptor_count) for probe in probes] == before, "the workers' descriptors are closed"
        )
        end_of_log(records)
        assert [record.getMessage() for record in records.of(name="asyncio")] == []


def descriptor_count() -> int:
    return len(os.listdir("/proc/self/fd"))


def spare_descriptors() -> None:
    """Whatever the worker keeps for later uses is there: the bells of threads and loops."""
    pa.await_(asyncio.to_thread(int))
    pa.run_blocking(int)


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


async def echo_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    finally:
        writer.close()


async def line_server(to: pa.Pid) -> None:
    server = await asyncio.start_server(echo_lines, "127.0.0.1", 0, backlog=1100)
    pa.send(to, ("port", server.sockets[0].getsockname()[1]))
    await pa.areceive("stop")


def serve_lines(worker: int) -> tuple[pa.Pid, int]:
    pid = pa.options(worker=worker).spawn(line_server, pa.self_())
    return pid, pa.receive(("port", pa.ANY), timeout=WAIT)[1]


class Doubler(pa.Actor):
    @pa.call
    def twice(self, n: int) -> int:
        return 2 * n

    @pa.call
    async def slowly(self, n: int) -> int:
        await asyncio.sleep(0.001 * n)
        return 2 * n


# --- what can be awaited ----------------------------------------------------------------------------------------------


@contract("S1.6", partly=True)
@both
def test_streams_between_actors(quiet: None, worker: int) -> None:
    """A server and its clients are processes; the server answers mail meanwhile, and takes its sockets along."""
    server, port = serve_lines(0)

    async def client(n: int) -> list[bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found = []
        for i in range(10):
            writer.write(b"%d %d\n" % (n, i))
            found.append(await reader.readline())
        writer.close()
        await writer.wait_closed()
        return found

    for n in range(3):
        assert run(client, n, worker=worker) == [b"%d %d\n" % (n, i) for i in range(10)]
    ref = pa.monitor(server)
    pa.send(server, "stop")
    assert pa.receive(pa.Down, timeout=WAIT) == pa.Down(ref, server, "normal")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=WAIT)


@contract("S1.6", "S7.2", partly=True)
def test_awaits_of_both_kinds_in_any_mixture(quiet: None) -> None:
    async def body() -> list[Any]:
        found: list[Any] = []
        me, loop = pa.self_(), asyncio.get_running_loop()
        lock, queue = asyncio.Lock(), asyncio.Queue[int]()
        actor = pa.start_link(Doubler)

        async def put() -> None:
            async with lock:
                await asyncio.sleep(0.001)
                queue.put_nowait(await actor.twice.aio(1))
                pa.send(me, "put")

        task = asyncio.create_task(put())
        found.append(await pa.areceive("put", timeout=WAIT))
        found.append(await queue.get())
        async with lock, asyncio.TaskGroup() as group:
            tasks = [group.create_task(actor.slowly.aio(n)) for n in range(4)]
        found.append([task.result() for task in tasks])
        found.append(await asyncio.gather(*(actor.twice.aio(n) for n in range(20)), asyncio.sleep(0, "slept")))
        future = loop.create_future()
        loop.call_later(0.001, future.set_result, "late")
        found.append(await future)
        found.append(await asyncio.wait_for(pa.areceive("x", timeout=0.001, default="none"), WAIT))
        await pa.asleep(0.001)
        found.append(task.done())
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return found

    assert run(body) == ["put", 2, [0, 2, 4, 6], [*range(0, 40, 2), "slept"], "late", "none", True]


@contract("S1.6", partly=True)
def test_time_outs(quiet: None) -> None:
    """`asyncio.timeout` around either kind; what is broken off loses no message and leaves nothing."""

    async def body() -> list[Any]:
        found: list[Any] = []

        async def forever() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(asyncio.sleep(600))

        for what in (
            lambda: pa.areceive("never"),
            lambda: pa.areceive("never", timeout=600),
            lambda: pa.asleep(600),
            lambda: asyncio.sleep(600),
            lambda: asyncio.get_running_loop().create_future(),
            lambda: asyncio.gather(pa.areceive("never"), pa.asleep(600)),
            forever,
        ):
            try:
                async with asyncio.timeout(0.005):
                    await what()
            except TimeoutError:
                found.append("timed out")
            pa.send(pa.self_(), "mail")
            assert await pa.areceive(timeout=WAIT) == "mail"
        async with asyncio.timeout(WAIT) as long:
            try:
                async with asyncio.timeout(0.005):
                    await pa.areceive()
            except TimeoutError:
                found.append("the inner")
        task = asyncio.current_task()
        assert task is not None
        return [*found, long.expired(), task.cancelling()]

    assert run(body) == ["timed out"] * 7 + ["the inner", False, 0]


@contract("S1.6", partly=True)
def test_cancellation(quiet: None) -> None:
    async def body() -> list[Any]:
        found: list[Any] = []
        task = asyncio.current_task()
        assert task is not None
        for what in (lambda: pa.areceive("never"), lambda: asyncio.sleep(600)):
            asyncio.get_running_loop().call_soon(task.cancel, "enough")
            try:
                await what()
            except asyncio.CancelledError as error:
                found.append((error.args, task.uncancel()))

        async def child() -> None:
            try:
                await pa.areceive("never")
            finally:
                found.append("cleaned up")

        one = asyncio.create_task(child())
        await asyncio.sleep(0)
        one.cancel()
        try:
            await one
        except asyncio.CancelledError:
            found.append("cancelled")
        task.cancel()  # it finds out at its next await
        try:
            await pa.areceive(timeout=600)
        except asyncio.CancelledError:
            task.uncancel()
        return [*found, await pa.areceive(timeout=0.001, default="none")]

    assert run(body) == [(("enough",), 0), (("enough",), 0), "cleaned up", "cancelled", "none"]


@contract("S1.7", partly=True)
def test_a_body_that_is_cancelled_crashes(quiet: None) -> None:
    async def body() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await pa.areceive()

    pid, ref = pa.spawn_monitor(body)
    down = pa.receive(pa.Down, timeout=WAIT)
    assert (down.ref, down.reason.type) == (ref, "asyncio.exceptions.CancelledError") or down.reason.type == (
        "CancelledError"
    ), pid


def test_several_tasks_wait_for_mail(quiet: None) -> None:
    """Each gets what it waits for; one that blocks in a receive leaves the body's own wait alone."""

    async def body() -> list[Any]:
        me = pa.self_()

        async def wait_for(n: int) -> int:
            return int((await pa.areceive(("n", n), timeout=WAIT))[1])

        async def blocks() -> str:
            await asyncio.sleep(0.002)
            pa.send_after(0.01, me, "for the child")
            return str(pa.receive("for the child", timeout=WAIT))

        tasks = [asyncio.create_task(wait_for(n)) for n in range(10)]
        await asyncio.sleep(0)
        for n in reversed(range(10)):
            pa.send(me, ("n", n))
        found: list[Any] = [await asyncio.gather(*tasks)]
        child = asyncio.create_task(blocks())
        found.append(await pa.areceive("never", timeout=0.05, default="timed out"))
        found.append(await child)
        child = asyncio.create_task(blocks())
        pa.send_after(0.02, me, "for the body")
        found.append(await pa.areceive("for the body", timeout=WAIT))
        return [*found, await child, await pa.areceive(timeout=0, default="nothing")]

    assert run(body) == [
        list(range(10)),
        "timed out",
        "for the child",
        "for the body",
        "for the child",
        "nothing",
    ]


@contract("S1.6", partly=True)
def test_each_process_has_its_own_contextvars(quiet: None) -> None:
    async def body(n: int) -> tuple[Any, ...]:
        VARIABLE.set(n)
        decimal.getcontext().prec = n
        await asyncio.sleep(0.001)
        first = VARIABLE.get()
        await pa.asleep(0.001)

        async def child() -> int:
            VARIABLE.set(VARIABLE.get() + 100)
            await asyncio.sleep(0)
            return VARIABLE.get()

        return first, await asyncio.create_task(child()), VARIABLE.get(), decimal.getcontext().prec

    async def tell(n: int, to: pa.Pid) -> None:
        pa.send(to, (n, await body(n)))

    for n in range(1, 11):
        pa.options(worker=0).spawn(tell, n, pa.self_())
    got = dict(pa.receive(timeout=WAIT) for _ in range(10))
    assert got == {n: (n, n + 100, n, n) for n in range(1, 11)}


VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=0)


def test_threads_and_asyncio(quiet: None) -> None:
    async def body() -> list[Any]:
        loop = asyncio.get_running_loop()
        came = asyncio.Event()
        VARIABLE.set(7)

        def elsewhere() -> int:
            loop.call_soon_threadsafe(came.set)
            return asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001, VARIABLE.get()), loop).result(WAIT)

        found = [await asyncio.to_thread(elsewhere)]
        await came.wait()
        return [*found, await loop.run_in_executor(None, len, "four")]

    assert run(body) == [7, 4]


def test_subprocesses_and_async_generators(quiet: None) -> None:
    async def body() -> list[Any]:
        closed = []

        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0)
                closed.append("closed")

        async for _ in numbers():
            break
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(42)", stdout=asyncio.subprocess.PIPE)
        out, _ = await child.communicate()
        return [closed, out, child.returncode]

    assert run(body) == [["closed"], b"42\n", 0]


def test_asyncio_run_in_plain_bodies(quiet: None) -> None:
    """Each has its own loop while others run: on one worker, in the middle of it, beside an async body."""

    async def main(to: pa.Pid) -> int:
        for _ in range(20):
            pa.sleep(0)  # others run, in the middle of this loop's turn
            await asyncio.sleep(0.0001)
        return id(asyncio.get_running_loop())

    def plain(to: pa.Pid) -> None:
        pa.send(to, asyncio.run(main(to)) != 0)

    async def other(to: pa.Pid) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(50):
            await pa.asleep(0)
            await asyncio.sleep(0)
            assert asyncio.get_running_loop() is loop
        pa.send(to, True)

    for body in (plain, other) * 5:
        pa.options(worker=0).spawn(body, pa.self_())
    assert [pa.receive(timeout=WAIT) for _ in range(10)] == [True] * 10


def test_what_a_loop_of_a_process_refuses(quiet: None) -> None:
    async def body() -> list[str]:
        loop = asyncio.get_running_loop()
        found = []
        for call in (
            loop.stop,
            lambda: loop.add_signal_handler(10, print),
            lambda: loop.run_until_complete(loop.create_future()),
            lambda: asyncio.run(pa_nothing()),
            lambda: pa.await_(loop.create_future()),
            loop.close,
        ):
            try:
                call()
            except (RuntimeError, NotImplementedError) as error:
                found.append(str(error))
        return found

    found = run(body)
    assert len(found) == 6
    assert "use `await` there" in found[4]


async def pa_nothing() -> None:
    pass


def test_what_is_no_awaitable_of_anybody(node: pa.ActorSystem) -> None:
    class Strange:
        def __await__(self) -> Generator[str, None, None]:
            yield "nonsense"

    async def body() -> str:
        try:
            await Strange()
        except RuntimeError as error:
            return str(error)
        return "no error"

    assert "nonsense" in run(body)


# --- its end ----------------------------------------------------------------------------------------------------------

LOG: list[str] = []


def take_log() -> list[str]:
    found = LOG[:]
    LOG.clear()
    return found


class cleaned:
    """Notes in the worker that it was left."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        LOG.append(self.what)


async def child_sleeps() -> None:
    with cleaned("child"):
        await asyncio.sleep(600)


async def child_receives() -> None:
    with cleaned("child"):
        await pa.areceive("never")


async def waits_asyncio(to: pa.Pid) -> None:
    with cleaned("body"):
        pa.send(to, "ready")
        await asyncio.sleep(600)


async def waits_in_timeout(to: pa.Pid) -> None:
    with cleaned("body"):
        async with asyncio.timeout(600):
            pa.send(to, "ready")
            await pa.areceive("never", timeout=600)


async def waits_for_child(to: pa.Pid) -> None:
    with cleaned("body"):
        child = asyncio.create_task(child_sleeps())
        await asyncio.sleep(0)
        pa.send(to, "ready")
        await child


async def waits_in_group(to: pa.Pid) -> None:
    with cleaned("body"):
        async with asyncio.TaskGroup() as group:
            group.create_task(child_receives())
            await asyncio.sleep(0)
            pa.send(to, "ready")


async def waits_with_child(to: pa.Pid) -> None:
    with cleaned("body"):
        child = asyncio.create_task(child_receives())
        await asyncio.sleep(0)
        pa.send(to, "ready")
        await pa.areceive("never")
        await child


async def blocks_with_child(to: pa.Pid) -> None:
    with cleaned("body"):
        child = asyncio.create_task(child_sleeps())
        await asyncio.sleep(0)
        pa.send(to, "ready")
        pa.receive("never")
        await child


async def reads(to: pa.Pid) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with cleaned("child"):
            pa.send(to, "ready")
            await reader.read()

    with cleaned("body"):
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * 100)
        await reader.read()


async def uses_thread(to: pa.Pid) -> None:
    with cleaned("body"):
        pa.send(to, "ready")
        await asyncio.to_thread(time.sleep, 0.05)
        await asyncio.sleep(600)


async def holds_subprocess(to: pa.Pid) -> None:
    with cleaned("body"):
        child = await asyncio.create_subprocess_exec("sleep", "600", stdin=asyncio.subprocess.PIPE)
        pa.send(to, "ready")
        await child.wait()


async def computes_in_callback(to: pa.Pid) -> None:
    def forever() -> None:
        pa.send(to, "ready")
        while True:
            pass

    with cleaned("body"):
        asyncio.get_running_loop().call_soon(forever)
        await asyncio.sleep(600)


def awaits_plainly(to: pa.Pid) -> None:
    async def body() -> None:
        with cleaned("child"):
            pa.send(to, "ready")
            await asyncio.sleep(600)

    with cleaned("body"):
        pa.await_(body())


def awaits_in_server(to: pa.Pid) -> Any:
    class Server(pa.GenServer):
        async def handle_info(self, message: Any, state: Any) -> Any:
            with cleaned("body"):
                pa.send(to, "ready")
                await asyncio.sleep(600)
            return pa.NoReply()

    pid = pa.start_link(Server)
    pa.send(pid, "go")
    return pid


def keeps_task_in_server(to: pa.Pid) -> Any:
    class Server(pa.GenServer):
        async def handle_info(self, message: Any, state: Any) -> Any:
            self.task = asyncio.create_task(child_sleeps())
            await asyncio.sleep(0)
            pa.send(to, "ready")
            return pa.NoReply()

    pid = pa.start_link(Server)
    pa.send(pid, "go")
    return pid


@contract("S1.9", "S1.6", partly=True)
@pytest.mark.parametrize("reason", ["kill", "shutdown"])
@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (waits_asyncio, ["body"]),
        (waits_in_timeout, ["body"]),
        (waits_for_child, ["body", "child"]),
        (waits_in_group, ["body", "child"]),
        (waits_with_child, ["body", "child"]),
        (blocks_with_child, ["body", "child"]),
        (reads, ["body", "child"]),
        (uses_thread, ["body"]),
        (holds_subprocess, ["body"]),
        (computes_in_callback, ["body"]),
        (awaits_plainly, ["body", "child"]),
        (awaits_in_server, ["body"]),
        (keeps_task_in_server, ["child"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_end_in_the_middle_of_every_wait(
    quiet: None, body: Callable[[pa.Pid], Any], parts: list[str], reason: str
) -> None:
    """It is dead at once; it and its tasks clean up, what they have open is closed, and nobody complains."""
    probe = puppet(0)
    probe.do(take_log)
    if "server" in body.__name__:
        pid = probe.do(body, pa.self_())
        probe.do(pa.unlink, pid)
    else:
        pid = pa.options(worker=0).spawn(body, pa.self_())
    ref = pa.monitor(pid)
    assert pa.receive("ready", timeout=WAIT)
    pa.exit(pid, reason)
    assert pa.receive(pa.Down, timeout=WAIT) == pa.Down(ref, pid, "killed" if reason == "kill" else reason)
    found: list[str] = []

    def all_there() -> bool:
        found.extend(probe.do(take_log))
        return len(found) >= len(parts)

    eventually(all_there, "all have cleaned up")
    assert sorted(found) == parts


@contract("S1.6", partly=True)
@pytest.mark.parametrize("crash", [False, True])
def test_tasks_end_with_their_process(quiet: None, crash: bool) -> None:
    """As `asyncio.run` does it: they are cancelled, and their cleaning up is waited for."""

    async def body(to: pa.Pid) -> None:
        async def child() -> None:
            try:
                await asyncio.sleep(600)
            finally:
                await asyncio.sleep(0.001)
                await pa.asleep(0.001)
                pa.send(to, "cleaned up")

        KEPT.append(asyncio.create_task(child()))
        await asyncio.sleep(0)
        if crash:
            raise ValueError("x")

    pid, ref = pa.spawn_monitor(body, pa.self_())
    assert pa.receive(timeout=WAIT) == "cleaned up"
    assert pa.receive(timeout=WAIT) == pa.Down(ref, pid, pa.Crash("ValueError", "x") if crash else "normal")


KEPT: list[Any] = []


async def sleeps_without_end() -> None:
    for _ in itertools.count():
        await asyncio.sleep(0)


async def has_many_tasks(to: pa.Pid) -> None:
    tasks = [asyncio.create_task(sleeps_without_end()) for _ in range(50)]
    pa.send(to, "ready")
    await asyncio.gather(*tasks)


@contract("S1.9", partly=True)
@pytest.mark.parametrize("ender", ["elsewhere", "here"])
def test_an_end_comes_in_user_code_not_in_the_loops(quiet: None, ender: str) -> None:
    """It was raised between a loop's taking a callback and calling it: that task never ended, and was reported."""
    here = pa.options(worker=0)
    with recorded() as records:
        for _ in range(50):
            pid, ref = here.spawn_monitor(has_many_tasks, pa.self_())
            assert pa.receive(timeout=WAIT) == "ready"
            if ender == "here":
                here.spawn(pa.exit, pid, "shutdown")  # it runs where the loop has been cut
            else:
                here.spawn(int)  # others want their turn
                pa.exit(pid, "shutdown")
            assert pa.receive(pa.Down(ref, pid, pa.ANY), timeout=WAIT).reason == "shutdown"
        end_of_log(records)
    assert [record.getMessage() for record in records.all if "swallowed" in record.getMessage()] == []


@contract("S1.9", partly=True)
def test_a_task_that_swallows_its_cancellation(node: pa.ActorSystem) -> None:
    """After a kill it has some tries; then it is reported, and closed."""

    async def body(to: pa.Pid) -> None:
        async def stubborn() -> None:
            while True:
                try:
                    await asyncio.sleep(600)
                except asyncio.CancelledError:
                    LOG.append("swallowed")

        KEPT.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0)
        pa.send(to, "ready")
        await pa.areceive()

    probe = puppet(0)
    probe.do(take_log)
    with recorded() as records:
        pid, ref = pa.options(worker=0).spawn_monitor(body, pa.self_())
        assert pa.receive("ready", timeout=WAIT)
        pa.exit(pid, "kill")
        assert pa.receive(timeout=WAIT) == pa.Down(ref, pid, "killed")
        eventually(lambda: any("doesn't end" in record.getMessage() for record in records.all), "it is reported")
    assert len(probe.do(take_log)) > 1


def test_exceptions_in_callbacks_and_tasks_are_logged(node: pa.ActorSystem) -> None:
    async def body() -> str:
        def fails() -> None:
            raise KeyError("in a callback")

        async def also() -> None:
            raise LookupError("in a task")

        asyncio.get_running_loop().call_soon(fails)
        task = asyncio.create_task(also())
        await asyncio.sleep(0.001)
        del task
        return "goes on"

    with recorded() as records:
        assert run(body) == "goes on"
        eventually(lambda: len(records.of(name="asyncio")) == 2, "both are logged")
    found = sorted(record.getMessage() for record in records.of(name="asyncio"))
    assert [text.split()[0] for text in found] == ["Exception", "Task"]


@contract("S9.5", partly=True)
def test_a_system_stops_with_open_connections(no_leaks: None) -> None:
    with pa.ActorSystem(workers=2):
        _, port = serve_lines(0)

        async def client(to: pa.Pid) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello\n")
            pa.send(to, await reader.readline())
            await reader.read()

        for _ in range(10):
            pa.options(worker=1).spawn(client, pa.self_())
        assert [pa.receive(timeout=WAIT) for _ in range(10)] == [b"hello\n"] * 10


# --- many, and beside those who compute -------------------------------------------------------------------------------


def hog() -> None:
    while True:
        pass


async def hog_in_callback() -> None:
    asyncio.get_running_loop().call_soon(hog)
    await asyncio.sleep(600)


@contract("S1.8", partly=True)
@pytest.mark.parametrize("hogs", [hog, hog_in_callback], ids=lambda f: f.__name__)
def test_io_beside_a_hog(quiet: None, hogs: Callable[[], Any]) -> None:
    """A process that computes for ever, or a callback of its loop that does, starves no other loop of its worker."""
    pid = pa.options(worker=0).spawn(hogs)
    server, port = serve_lines(0)
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as connection:
        lines = connection.makefile("rwb", buffering=0)
        for i in range(20):
            lines.write(b"%d\n" % i)
            assert lines.readline() == b"%d\n" % i
        lines.close()
    for each in (pid, server):
        pa.exit(each, "kill")


def test_a_thousand_connections(quiet: None) -> None:
    """Each by an actor of its own on either side: the server gives each accepted socket to a process."""

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=number))
        await echo_lines(reader, writer)

    async def acceptor(to: pa.Pid) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=1100) as listener:
            listener.setblocking(False)
            pa.send(to, listener.getsockname()[1])
            while True:
                accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
                pa.options(worker=0).spawn(connection, accepted.detach())

    async def client(port: int, n: int, to: pa.Pid) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"%d\n" % n)
        assert await reader.readline() == b"%d\n" % n
        pa.send(to, ("connected", n))
        await pa.areceive("again")
        writer.write(b"again %d\n" % n)
        pa.send(to, ("again", await reader.readline()))
        writer.close()
        await writer.wait_closed()

    pid = pa.options(worker=0).spawn(acceptor, pa.self_())
    port = pa.receive(int, timeout=WAIT)
    clients = [pa.options(worker=1).spawn(client, port, n, pa.self_()) for n in range(1000)]
    assert {pa.receive(("connected", pa.ANY), timeout=4 * WAIT)[1] for _ in clients} == set(range(1000))
    for each in clients:
        pa.send(each, "again")
    got = {pa.receive(("again", pa.ANY), timeout=4 * WAIT)[1] for _ in clients}
    assert got == {b"again %d\n" % n for n in range(1000)}
    pa.exit(pid, "kill")


# --- await_ and callbacks ---------------------------------------------------------------------------------------------


@contract("S1.6", "S6.1", "S7.2", partly=True)
def test_await_from_plain_code(quiet: None) -> None:
    """The process waits, its worker doesn't; in a body, in callbacks, of a server and of an actor."""
    lines, port = serve_lines(0)

    async def say(line: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(line)
        found = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return found

    class Server(pa.GenServer):
        def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
            return pa.Reply(pa.await_(say(request)))

    class Speaker(pa.Actor):
        @pa.call
        def say(self, line: bytes) -> bytes:
            return pa.await_(say(line))

        @pa.call
        async def asay(self, line: bytes) -> bytes:
            return await say(line)

    def body(to: pa.Pid) -> None:
        pa.send(to, [pa.await_(say(b"plain\n")), pa.await_(asyncio.wait_for(asyncio.sleep(0, "value"), WAIT))])

    pa.options(worker=0).spawn(body, pa.self_())
    assert pa.receive(list, timeout=WAIT) == [b"plain\n", "value"]
    assert pa.call(pa.options(worker=0).start(Server), b"server\n") == b"server\n"
    speaker = pa.options(worker=0).start(Speaker)
    assert [speaker.say(b"actor\n"), speaker.asay(b"async\n")] == [b"actor\n", b"async\n"]
    pa.exit(lines, "kill")


def test_await_of_wrong_things(quiet: None) -> None:
    def body() -> list[str]:
        found = []
        for wrong in (5, asyncio.sleep):
            try:
                pa.await_(wrong)  # type: ignore[arg-type]
            except TypeError as error:
                found.append(str(error))
        try:
            pa.await_(fails())
        except KeyError as error:
            found.append(repr(error))
        return found

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("passed on")

    found = puppet(0).do(body)
    assert found[0].startswith("expected an awaitable, got 5")
    assert found[2] == "KeyError('passed on')"


def test_await_in_the_program_itself(node: pa.ActorSystem) -> None:
    assert pa.await_(asyncio.sleep(0, "guest")) == "guest"
    actor = pa.start(Doubler)
    assert pa.await_(actor.slowly.aio(3)) == 6

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"running event loop|await"):
            pa.await_(asyncio.sleep(0))

    asyncio.run(main())


def test_tasks_of_a_server_run_between_its_messages(quiet: None) -> None:
    """And what they wait for, such as the answer of an actor, is theirs, not the server's."""

    class Server(pa.Actor):
        def __init__(self, helper: pa.Pid) -> None:
            self.helper = pa.ref(Doubler, helper)
            self.done = 0
            self.other: list[object] = []

        @pa.call
        async def begin(self) -> None:
            self.task = asyncio.create_task(self.work())

        async def work(self) -> None:
            for n in range(10):
                self.done += await self.helper.twice.aio(n)
                await asyncio.sleep(0.001)

        @pa.call
        def seen(self) -> tuple[int, list[object]]:
            return self.done, self.other

        @pa.info()
        def anything(self, message: object) -> None:
            self.other.append(message)

    server = pa.options(worker=0).start(Server, pa.options(worker=1).start(Doubler).__pid__)
    server.begin()
    eventually(lambda: server.seen()[0] == 90, "its task has done its work")
    assert server.seen() == (90, [])


class Sleeper(pa.Actor):
    """Asked for a timer and nothing else."""

    @pa.call
    async def later(self, to: pa.Pid) -> None:
        asyncio.get_running_loop().call_later(0.01, pa.send, to, "later")


@contract("S1.6", partly=True)
def test_a_timer_that_a_callback_starts_and_does_not_wait_for(quiet: None) -> None:
    """Nobody asked the loop for its timers, as long as nothing else was to be done for it."""
    actor = pa.start(Sleeper)
    actor.later(pa.self_())
    assert pa.receive(timeout=WAIT) == "later"
    pa.stop(actor)


TIMER: Any = asyncio.TimerHandle


class Nap:
    """While a process falls asleep, and asks its first timer when that is due, `event` happens, and a tick sees it."""

    def __init__(self, event: Callable[[], object]) -> None:
        self.event = event
        self.when = asyncio.TimerHandle.when

    def __enter__(self) -> None:
        def when(handle: asyncio.TimerHandle) -> float:
            TIMER.when = self.when
            self.event()
            until = time.thread_time() + 0.05
            while time.thread_time() < until:
                pass
            return handle.when()

        TIMER.when = when

    def __exit__(self, *_: object) -> None:
        TIMER.when = self.when


async def reads_in_its_nap() -> str:
    ready = asyncio.Event()
    reader, writer = os.pipe()
    asyncio.get_running_loop().add_reader(reader, ready.set)
    with Nap(lambda: os.write(writer, b"x")):
        async with asyncio.timeout(WAIT):
            await ready.wait()
    asyncio.get_running_loop().remove_reader(reader)
    os.close(reader)
    os.close(writer)
    return "woken"


async def has_mail_in_its_nap() -> str:
    me = pa.self_()
    with Nap(lambda: pa.send(me, "woken")):
        async with asyncio.timeout(WAIT):
            return str(await asyncio.ensure_future(pa.areceive()))


@contract("S1.6", "S2.1", partly=True)
@pytest.mark.parametrize("nap", [reads_in_its_nap, has_mail_in_its_nap])
@pytest.mark.parametrize("how", ["async", "plain"])
def test_what_comes_while_a_process_falls_asleep_wakes_it(
    quiet: None, how: str, nap: Callable[[], Coroutine[Any, Any, str]]
) -> None:
    """The crawler's connections slept on until some timer, now and then: 15 s, or 30."""
    assert run(nap if how == "async" else in_plain_code, *([] if how == "async" else [nap])) == "woken"


async def in_plain_code(nap: Callable[[], Coroutine[Any, Any, str]]) -> str:
    def plain(to: pa.Pid) -> None:
        pa.send(to, ("plain", pa.await_(nap())))

    pa.spawn_link(plain, pa.self_())
    return str((await pa.areceive(("plain", pa.ANY)))[1])


@contract("S9.7", partly=True)
def test_what_has_something_open_stays(quiet: None) -> None:
    class Server(pa.Actor):
        @pa.call
        async def hold(self) -> None:
            self.task = asyncio.create_task(asyncio.sleep(600))
            await asyncio.sleep(0)

        @pa.call
        async def let_go(self) -> None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            del self.task

        @pa.call
        def watch(self, fd: int) -> None:
            self.ref = pa.monitor_fd(fd)

        @pa.call
        def unwatch(self) -> bool:
            return pa.demonitor_fd(self.ref)

    server = pa.options(worker=0).start(Server)
    server.hold()
    with pytest.raises(ValueError, match="nothing open"):
        pa.migrate(server, 1, timeout=WAIT)
    server.let_go()
    reader, writer = os.pipe()
    # The worker's own numbers are what counts there: 0 is open everywhere, and /dev/null can't be waited for.
    own = puppet(0).do(os.pipe)
    server.watch(own[0])
    with pytest.raises(ValueError, match="nothing open"):
        pa.migrate(server, 1, timeout=WAIT)
    assert server.unwatch()
    for fd in (reader, writer):
        os.close(fd)
    for fd in own:
        puppet(0).do(os.close, fd)
    pa.migrate(server, 1, timeout=WAIT)
    assert pa.process_info(server, "worker") == 1
    server.hold()  # and there it has a loop anew


# --- nobody pays who doesn't use it -----------------------------------------------------------------------------------


def by_value(code: str, name: str) -> Any:
    """A function that workers get by value: no module is imported for it."""
    space: dict[str, Any] = {"pa": pa, "__name__": "__main__"}
    exec(code, space)
    return space[name]


def test_asyncio_imported_in_the_middle_of_a_step(no_leaks: None) -> None:
    """Workers start without asyncio. Whoever imports it has a task at once."""
    late = by_value(
        """
import sys
def report(to, *what):
    pa.send(to, what)
async def late(to):
    had = "asyncio" in sys.modules
    import asyncio
    task = asyncio.current_task()
    await asyncio.sleep(0.001)
    async with asyncio.timeout(5):
        await pa.asleep(0.001)
    report(to, had, task is not None and task is asyncio.current_task())
def plain(to):
    async def awaited():
        had = "asyncio" in sys.modules
        import asyncio
        return had, await asyncio.sleep(0.001, asyncio.current_task() is not None)
    report(to, *pa.await_(awaited()))
async def waits(to):
    import sys
    report(to, "waits", "asyncio" in sys.modules)
    await pa.areceive("go")
    import asyncio
    await asyncio.sleep(0)
    report(to, "went", True)
bodies = late, plain, waits
""",
        "bodies",
    )
    for body in late[:2]:
        with pa.ActorSystem(workers=1):
            waiting = pa.spawn(late[2], pa.self_())
            assert pa.receive(timeout=WAIT) == ("waits", False)
            pa.spawn(body, pa.self_())
            assert pa.receive(timeout=WAIT) == (False, True)
            pa.send(waiting, "go")
            assert pa.receive(timeout=WAIT) == ("went", True)


# --- monitor_fd -------------------------------------------------------------------------------------------------------


@both
def test_monitor_fd(quiet: None, worker: int) -> None:
    """One message each, read or write; it can be monitored anew; demonitor_fd takes it off, or out of the mailbox."""

    def body(to: pa.Pid) -> None:
        found: list[Any] = []
        reader, writer = os.pipe()
        ref = pa.monitor_fd(reader)
        found.append(pa.receive(timeout=0.001, default="none"))
        os.write(writer, b"ab")
        found.append(pa.receive(pa.FdReady, timeout=WAIT) == pa.FdReady(ref, reader, True, False))
        found.append(pa.receive(timeout=0.01, default="once"))
        again = pa.monitor_fd(reader)
        found.append(pa.receive(pa.FdReady, timeout=WAIT).ref == again)
        os.read(reader, 2)
        one, other = socket.socketpair()
        with one, other:
            ref = pa.monitor_fd(one, read=True, write=True)
            ready = pa.receive(pa.FdReady, timeout=WAIT)
            found.append((ready.readable, ready.writable))
            ref = pa.monitor_fd(one)
            other.close()
            found.append(pa.receive(pa.FdReady, timeout=WAIT).readable)
            ref = pa.monitor_fd(one)
            pa.sleep(0.01)
            found.append(pa.demonitor_fd(ref, flush=True))
            found.append(mail())
        ref = pa.monitor_fd(reader)
        found.append(pa.demonitor_fd(ref))
        found.append(pa.demonitor_fd(ref))
        # Closed without a word; the number is somebody else's, who monitors it.
        pa.monitor_fd(reader)
        os.close(reader)
        os.close(writer)
        reader2, writer2 = os.pipe()
        ref = pa.monitor_fd(reader2)
        os.write(writer2, b"x")
        found.append(pa.receive(pa.FdReady, timeout=WAIT).ref == ref)
        os.close(reader2)
        os.close(writer2)
        pa.send(to, found)

    pa.options(worker=worker).spawn(body, pa.self_())
    assert pa.receive(list, timeout=WAIT) == [
        "none", True, "once", True, (False, True), True, False, [], True, False, True
    ]  # fmt: skip


def test_monitor_fd_of_wrong_things(quiet: None) -> None:
    def body() -> list[Any]:
        found: list[Any] = []
        reader, writer = os.pipe()
        pa.monitor_fd(reader)
        with open(os.__file__) as file:
            for wrong, options in (
                (reader, {}),
                (writer, {"read": False}),
                ("0", {}),
                (True, {}),
                (12345, {}),
                (file, {}),
            ):
                try:
                    pa.monitor_fd(wrong, **options)  # type: ignore[arg-type]
                    found.append("no error")
                except (TypeError, ValueError, OSError) as error:
                    found.append(error.errno if isinstance(error, OSError) else type(error).__name__)
        os.close(reader)
        os.close(writer)
        return found

    found = puppet(0).do(body)
    assert found == ["ValueError", "ValueError", "TypeError", "TypeError", errno.EBADF, errno.EPERM]


def test_monitor_fd_ends_with_its_process(quiet: None) -> None:
    """Another one may monitor the same descriptor then; a guest may, too."""
    probe = puppet(0)
    reader, writer = probe.do(os.pipe)

    def monitors(to: pa.Pid) -> None:
        pa.monitor_fd(reader)
        pa.send(to, "ready")
        pa.receive("never")

    pid, ref = pa.options(worker=0).spawn_monitor(monitors, pa.self_())
    assert pa.receive("ready", timeout=WAIT)
    with pytest.raises(ValueError, match="another process"):
        probe.do(pa.monitor_fd, reader)
    pa.exit(pid, "kill")
    assert pa.receive(pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT)
    mine = probe.do(pa.monitor_fd, reader)
    probe.do(os.write, writer, b"x")
    eventually(lambda: probe.do(mail) == [pa.FdReady(mine, reader, True, False)], "it is told")
    for fd in (reader, writer):
        probe.do(os.close, fd)
    own, other = os.pipe()
    mine = pa.monitor_fd(own)
    threading.Timer(0.01, os.write, (other, b"x")).start()
    assert pa.receive(pa.FdReady, timeout=WAIT).ref == mine
    for fd in (own, other):
        os.close(fd)


def test_what_is_ready_and_not_read_costs_nothing(quiet: None) -> None:
    """A descriptor that stays ready while its process is busy elsewhere doesn't keep the worker from sleeping."""

    async def body() -> float:
        reader, writer = os.pipe()
        asyncio.get_running_loop().add_reader(reader, int)
        await asyncio.sleep(0)
        os.write(writer, b"x")
        before = time.process_time()
        pa.sleep(1)
        used = time.process_time() - before
        asyncio.get_running_loop().remove_reader(reader)
        os.close(reader)
        os.close(writer)
        return used

    assert run(body) < 0.1


# --- libraries --------------------------------------------------------------------------------------------------------


def test_websockets(quiet: None) -> None:
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import ServerConnection, serve

    async def answer(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def server(to: pa.Pid) -> None:
        async with serve(answer, "127.0.0.1", 0) as made:
            pa.send(to, next(iter(made.sockets)).getsockname()[1])
            await pa.areceive("stop")
        pa.send(to, "stopped")

    async def client(port: int) -> list[str | bytes]:
        async with asyncio.timeout(WAIT), connect(f"ws://127.0.0.1:{port}") as connection:
            found = []
            for i in range(5):
                await connection.send(str(i))
                found.append(await connection.recv())
            return found

    pid = pa.options(worker=0).spawn(server, pa.self_())
    port = pa.receive(int, timeout=WAIT)
    assert run(client, port, worker=1) == list("01234")
    assert run(client, port, worker=0) == list("01234")
    pa.send(pid, "stop")
    assert pa.receive("stopped", timeout=WAIT)


def test_aiohttp(quiet: None) -> None:
    """Its handlers call actors."""
    import aiohttp
    from aiohttp import web

    async def server(to: pa.Pid) -> None:
        actor = pa.start_link(Doubler)

        async def handle(request: web.Request) -> web.Response:
            return web.Response(text=str(await actor.slowly.aio(int(request.match_info["n"]))))

        app = web.Application()
        app.add_routes([web.get("/{n}", handle)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pa.send(to, runner.addresses[0][1])
        await pa.areceive("stop")
        await runner.cleanup()
        pa.send(to, "stopped")

    async def client(port: int) -> list[str]:
        async with aiohttp.ClientSession() as session:

            async def get(n: int) -> str:
                async with session.get(f"http://127.0.0.1:{port}/{n}") as response:
                    return await response.text()

            return list(await asyncio.gather(*(get(n) for n in range(5))))

    pid = pa.options(worker=0).spawn(server, pa.self_())
    port = pa.receive(int, timeout=WAIT)
    assert run(client, port, worker=1) == ["0", "2", "4", "6", "8"]
    pa.send(pid, "stop")
    assert pa.receive("stopped", timeout=WAIT)
