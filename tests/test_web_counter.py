"""examples/web_counter.py: actors behind an ASGI server, by real requests, in both ways to serve it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from leaks import eventually
from test_death import ended_at_last, gone
from test_examples import EXAMPLES, run
from test_root import Running, started

PATIENCE = 30.0
EXAMPLE = str(EXAMPLES / "web_counter.py")

Answer = tuple[int, str]


@contextlib.contextmanager
def embedded(folder: Path, example: str = "web_counter", where: Path = EXAMPLES) -> Iterator[tuple[Running, int]]:
    """The web server that is a program of its own."""
    command = (sys.executable, "-m", "uvicorn", "--app-dir", str(where), f"{example}:app", "--port", "0")
    with started(*command, cwd=folder) as running:
        running.err.expect("(Press CTRL+C to quit)")
        found = re.search(r"http://127\.0\.0\.1:(\d+)", running.err.text)
        assert found
        yield running, int(found[1])


@contextlib.contextmanager
def on_workers(folder: Path) -> Iterator[tuple[Running, int]]:
    """A server on each of two workers."""
    with socket.socket() as reserved:  # nobody else gets the port; it doesn't listen, so it gets no connection
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        command = (sys.executable, "-m", "parallel_actors", "run", "-w", "2", "--log-level", "CRITICAL")
        with started(*command, "--env", f"port={port}", f"{EXAMPLE}:App", cwd=folder) as running:
            for worker in (0, 1):
                running.out.expect(f"worker {worker} serves")
            yield running, port


Serve = Callable[[Path], contextlib.AbstractContextManager[tuple[Running, int]]]
both = pytest.mark.parametrize("serve", [embedded, on_workers], ids=lambda serve: serve.__name__)


def ask(port: int, *requests: tuple[str, str]) -> list[Answer]:
    """The answers to requests, all made at once, each on a connection of its own as far as 50 go."""

    async def program() -> list[Answer]:
        connector = aiohttp.TCPConnector(limit=50)
        timeout = aiohttp.ClientTimeout(PATIENCE)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector, timeout=timeout) as session:

            async def one(method: str, path: str) -> Answer:
                async with session.request(method, path) as response:
                    return response.status, (await response.text()).rstrip("\n")

            return await asyncio.gather(*(one(*request) for request in requests))

    return asyncio.run(program())


def get(port: int, path: str) -> Answer:
    return ask(port, ("GET", path))[0]


def post(port: int, path: str) -> Answer:
    return ask(port, ("POST", path))[0]


@both
def test_increments_from_many_connections_add_up(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path) as (_, port):
        names = [f"/name-{number // 10}" for number in range(500)]
        answers = ask(port, *(("POST", name) for name in names))
        assert {200} == {status for status, _ in answers}
        # Each count from 1 to 10 was told just once, for each name.
        assert sorted(zip(names, (int(text) for _, text in answers), strict=True)) == sorted(
            (name, count) for name in {*names} for count in range(1, 11)
        )
        assert (200, "10") == get(port, "/name-3")
        assert (200, "0") == get(port, "/name-50")


@both
def test_a_counter_that_crashes_is_a_500_for_who_asked_alone(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path) as (_, port):
        assert (200, "7") == post(port, "/apples?by=7")
        assert (200, "3") == post(port, "/pears?by=3")
        # More often than any supervisor would restart a child.
        for _ in range(10):
            status, text = post(port, "/apples?by=-100")
            assert 500 == status
            assert re.fullmatch(r"the counter crashed: -100 more than \d is less than nothing", text)
            assert (200, "0") == get(port, "/apples")
        assert (200, "3") == get(port, "/pears")


@both
def test_bad_requests_reach_no_counter(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path) as (_, port):
        assert (200, "2") == post(port, "/apples?by=2")
        assert (400, "expected by=NUMBER, got 'many'") == post(port, "/apples?by=many")
        assert [404, 405] == [get(port, "/")[0], ask(port, ("DELETE", "/apples"))[0][0]]
        assert (200, "2") == get(port, "/apples")


def workers(running: Running) -> list[psutil.Process]:
    """The OS processes that listen."""
    return [process for process in running.family() if any(c.status == "LISTEN" for c in process.net_connections())]


def serves_without(victim: psutil.Process, running: Running, port: int) -> bool:
    """Whether both workers serve again. What the dead one had accepted is lost; who comes later gets an answer."""
    try:
        status, text = post(port, "/apples")
    except aiohttp.ClientError:
        return False
    assert status in (200, 500, 503), text
    listening = workers(running)
    return status == 200 and len(listening) == 2 and victim not in listening


def test_any_worker_may_be_killed(tmp_path: Path) -> None:
    with on_workers(tmp_path) as (running, port):
        for victim in workers(running):
            assert 200 == post(port, "/apples")[0]
            victim.kill()
            eventually(functools.partial(serves_without, victim, running, port), "both workers serve again")
        running.ctrl_c()
        assert 130 == running.end()


def test_a_counter_that_is_busy_is_a_503(tmp_path: Path) -> None:
    source = Path(EXAMPLE).read_text()
    slow = source.replace(".aio(", ".options(timeout=0.2).aio(")
    slow = slow.replace("        self.count += by\n", "        pa.receive('never')\n")
    (tmp_path / "slow.py").write_text(slow)
    with embedded(tmp_path, "slow", tmp_path) as (_, port):
        for ask_it in (post, get):
            status, text = ask_it(port, "/apples")
            assert 503 == status
            assert re.fullmatch(r"no answer from the counter: .* within 0.2 s", text)
        eventually(lambda: get(port, "/pears") == (200, "0"), "others answer")


@both
def test_a_ctrl_c_ends_it_in_order(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path) as (running, port):
        assert (200, "1") == post(port, "/apples")
        everybody = running.family()
        with ended_at_last(everybody):
            running.ctrl_c()
            assert running.end() == (0 if serve is embedded else 130)  # as uvicorn ends, as we do
            text = running.err.close()
            if serve is on_workers:
                stopped = "parallel-actors: interrupted: stopping (Ctrl-C again: stop now)\n"
                assert text == f"{stopped}parallel-actors: stopped web_counter:App\n"
            else:
                assert "Application shutdown complete." in text
            eventually(lambda: gone(everybody), "nothing is left")


def test_a_port_that_is_taken_is_said_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path, f"{EXAMPLE}:App", options=("--env", f"port={port}", "--log-level", "CRITICAL"))
    assert (1, "") == (done.returncode, done.stdout)
    assert 1 == done.stderr.count("web_counter:App did not start: [Errno 98] Address already in use")


def test_there_are_no_more_counters_than_allowed(tmp_path: Path) -> None:
    source = Path(EXAMPLE).read_text()
    (tmp_path / "few.py").write_text(source.replace("MOST = 100_000", "MOST = 2"))
    with embedded(tmp_path, "few", tmp_path) as (_, port):
        answers = [post(port, f"/name-{number}") for number in (1, 2, 3)]
        assert [200, 200, 503] == [status for status, _ in answers]
        assert answers[2][1].startswith("no answer from the counter: there are 2 children")
        assert (200, "2") == post(port, "/name-1")
