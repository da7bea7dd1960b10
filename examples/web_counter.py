"""A web server whose handlers call actors: counters with names, for any ASGI server.

    parallel-actors run examples/web_counter.py:App
    parallel-actors run --env port=8001 examples/web_counter.py:App
    uvicorn --app-dir examples web_counter:app

    curl -X POST "localhost:8000/apples?by=2"
    curl localhost:8000/apples

Each name is an actor of its own: found by a registry, started when it is first asked for. The first two commands
are a program of actors: a server on each worker, all on one port, and the kernel deals the connections out; it outlives
the death of any worker. The last one is a web server as you have it today, one event loop in one OS process, that
awaits actors on all cores.

A counter that would fall below nought crashes: who asked gets a 500, everybody else goes on, and whoever asks next gets
a new counter, at nought.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import parallel_actors as pa

HOST = "127.0.0.1"
MOST = 100_000  # counters


# --- the counters -----------------------------------------------------------------------------------------------------


class Counter(pa.Actor):
    def __init__(self) -> None:
        self.count = 0

    @pa.call
    def add(self, by: int) -> int:
        if self.count + by < 0:
            raise ValueError(f"{by} more than {self.count} is less than nothing")
        self.count += by
        return self.count

    @pa.call
    def value(self) -> int:
        return self.count


class Counters(pa.Supervisor):
    """The registry, and a supervisor of the counters that are there."""

    def init(self) -> object:
        children = [
            pa.child(pa.Registry, keys="unique", name="names"),
            pa.child(pa.DynamicSupervisor, max_children=MOST, name="counters"),
        ]
        return self.supervise(children, strategy="rest_for_one")


def counter(name: str) -> Counter:
    """The counter of this name, which is started if there is none."""
    via = pa.via("names", name)
    if pa.whereis(via) is None:
        try:
            # Temporary: one that has crashed is started when it is next asked for, however often that is.
            pa.DynamicSupervisor.start_child("counters", pa.child(Counter, name=via, restart="temporary"))
        except pa.StartError:
            if pa.whereis(via) is None:  # else a request to another server was faster
                raise
    return pa.ref(Counter, via)


# --- the web ----------------------------------------------------------------------------------------------------------


async def show(request: Request) -> Response:
    return PlainTextResponse(f"{await counter(request.path_params['name']).value.aio()}\n")


async def add(request: Request) -> Response:
    by = request.query_params.get("by", "1")
    try:
        number = int(by)
    except ValueError:
        raise HTTPException(400, f"expected by=NUMBER, got {by!r}\n") from None
    return PlainTextResponse(f"{await counter(request.path_params['name']).add.aio(number)}\n")


async def crashed(request: Request, error: Exception) -> Response:
    """Our request was too much for it: the same one would crash the next."""
    return PlainTextResponse(f"the counter crashed: {error.__cause__ or error}\n", 500)


async def unavailable(request: Request, error: Exception) -> Response:
    """It was busy for too long, or went down with its worker or its registry: try again."""
    return PlainTextResponse(f"no answer from the counter: {error}\n", 503, {"Retry-After": "1"})


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """The actors of a web server that is a program of its own."""
    async with pa.ActorSystem():
        pa.Supervisor.start_link([pa.child(Counters)])
        yield


app = Starlette(
    routes=[Route("/{name}", show, methods=["GET"]), Route("/{name}", add, methods=["POST"])],
    exception_handlers={pa.RemoteError: crashed, pa.ActorError: unavailable},
    lifespan=lifespan,
)


# --- a server on each worker ------------------------------------------------------------------------------------------


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are for the program: Ctrl-C stops the tree, whose supervisor tells us."""
        yield


def listen(port: int) -> socket.socket:
    listener = socket.create_server((HOST, port), reuse_port=True, backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so for sockets that it makes itself
    return listener


async def serve(port: int) -> None:
    """One server. Told to stop, it takes no more connections, and answers what it has begun."""
    pa.trap_exit()
    # The system runs already (lifespan="off"), and what is logged goes where all reports go (log_config=None).
    server = Server(
        uvicorn.Config(app, lifespan="off", log_config=None, log_level="warning", timeout_graceful_shutdown=3)
    )
    with listen(port) as listener:
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[listener]))
            print(f"http://{HOST}:{port}: worker {pa.worker_index()} serves")
            told = await pa.areceive(pa.Exit)
            server.should_exit = True
    raise pa.ProcessExit(told.reason)


class App(pa.Application):
    env = {"port": 8000}  # noqa: RUF012 (declared by the base class)

    def start(self, args: list[str]) -> pa.Pid:
        port = pa.application.get_env(App, "port")
        listen(port).close()  # if somebody else has it, this is where it is said, once
        servers = [pa.child(serve, port, id=worker, worker=worker) for worker in pa.worker_indices()]
        return pa.Supervisor.start_link([pa.child(Counters), *servers], max_restarts=10)
