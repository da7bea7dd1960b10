"""A chat server: clients by TCP (a line is a message) and by WebSocket, in the same rooms.

    parallel-actors run examples/chat_server.py                        on 127.0.0.1, TCP 4000 and WebSocket 4001
    parallel-actors run examples/chat_server.py --tcp 0 --websocket 0  on free ports, which it prints
    parallel-actors run examples/chat_server.py --clients 1000 --hogs --seconds 30
    python examples/chat_server.py --url ws://127.0.0.1:4001           the clients alone, for a server that runs

    nc 127.0.0.1 4000                              a client;   /nick anna   /join garden   /quit   or what is to be said

    main -> a supervisor of acceptors: on each worker one for TCP and one for WebSocket, on the same two ports
      an acceptor starts a process for each connection, on its own worker (sockets don't travel)
      a connection has two tasks: one reads the socket, the other writes what comes to the mailbox

Rooms are topics of `pubsub`, nicks are groups of `pg`: nothing that could die with one worker. A connection that
crashes takes nobody along, and when a worker is killed (but main's own, 0) its clients are disconnected, the others go
on, and its acceptors come back.

A client that doesn't read slows nobody. What it hasn't taken fills the buffers of its socket, then the mailbox of its
process, which is limited: the rest is dropped, and it hears how much when it reads on. If it takes nothing at all for
`--patience` seconds, it is disconnected. Nor does its own talking fill anything: answers wait in its reading task.

`--clients` starts so many WebSocket clients in an OS process of their own, which talk in rooms of 20. In the first room
are two more: one that says much, and one that doesn't read. `--hogs` has an endless loop compete on each worker. Each
client must get each line of the others in its room, in the order of its sender, or the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import gc
import itertools
import logging
import random
import re
import resource
import socket
import sys
import time
from collections import Counter, deque
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import DATA_OPCODES, CloseCode, Frame
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

import parallel_actors as pa

MAX_LINE = 4096  # bytes that a client may say at once
# What may wait for a client that is slow: in its socket, in its transport, and messages in its mailbox.
SEND_BUFFER = 2**15
WRITE_BUFFER = 2**14
MAILBOX = 64
HANDSHAKE = 10.0  # seconds that a WebSocket client has to ask for one
RETRY = 0.1  # seconds until an acceptor that has no descriptor left looks again
NAME = re.compile(r"[\w-]{1,32}")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # they would forge lines, and paint in terminals
USAGE = "expected /nick NAME, /join ROOM, /quit, or a text without a slash"

_LOG = logging.getLogger("chat")


class Said(NamedTuple):
    """What goes to everybody in a room."""

    room: str
    who: str
    text: str

    def __str__(self) -> str:
        return f"[{self.room}] {self.who}: {self.text}"


class Notice(NamedTuple):
    """Who comes and goes."""

    room: str
    text: str

    def __str__(self) -> str:
        return f"[{self.room}] * {self.text}"


class BadInput(Exception):
    """The client is told, and goes on."""


# --- the two kinds of clients -----------------------------------------------------------------------------------------


class Client:
    """One connection: `read` what it says, `write` to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float) -> None:
        self.reader = reader
        self.writer = writer
        self.patience = patience
        writer.transport.set_write_buffer_limits(high=WRITE_BUFFER)

    async def open(self) -> bool:
        return True

    async def read(self) -> bytes | None:
        """What it says next; None: it has gone. Raises BadInput."""
        raise NotImplementedError

    def frame(self, text: str) -> bytes:
        raise NotImplementedError

    async def write(self, text: str) -> bool:
        """Whether the client is behind: its socket didn't take all. Returns when there is room for more."""
        self.writer.write(self.frame(text))
        return await self.drain()

    async def drain(self) -> bool:
        if self.writer.is_closing():
            raise ConnectionResetError("expected a client, which has gone")
        behind = self.writer.transport.get_write_buffer_size() > 0
        if behind:
            async with asyncio.timeout(self.patience):
                await self.writer.drain()
        return behind

    def close(self, why: str) -> None:
        """Say goodbye, as far as there is room for it."""
        self.writer.write(self.frame(f"* {why}"))
        self.writer.close()


class LineClient(Client):
    """TCP: each line is a message."""

    async def read(self) -> bytes | None:
        too_long = False
        while True:
            try:
                line = await self.reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                return error.partial or None
            except asyncio.LimitOverrunError as error:  # skip it
                await self.reader.readexactly(error.consumed)
                too_long = True
                continue
            if too_long:
                raise BadInput(f"expected a line of at most {MAX_LINE} bytes")
            return line

    def frame(self, text: str) -> bytes:
        return text.encode() + b"\n"


class WebSocketClient(Client):
    """WebSocket, by the part of `websockets` that does no I/O: it takes bytes, and says what is to be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float) -> None:
        super().__init__(reader, writer, patience)
        self.protocol = ServerProtocol(max_size=MAX_LINE)
        self.parts: list[bytes] = []  # of a message that isn't complete
        self.messages: deque[bytes] = deque()
        self.ended = False

    async def open(self) -> bool:
        async with asyncio.timeout(HANDSHAKE):
            while self.protocol.state is State.CONNECTING and not self.ended:
                await self.receive()
        return not self.ended

    async def read(self) -> bytes | None:
        while not self.messages and not self.ended:
            await self.receive()
        return self.messages.popleft() if self.messages else None

    async def receive(self) -> None:
        data = await self.reader.read(2**16)
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        for event in self.protocol.events_received():
            if isinstance(event, Request):
                self.protocol.send_response(self.protocol.accept(event))
            elif isinstance(event, Frame) and event.opcode in DATA_OPCODES:  # the others are answered already
                self.parts.append(bytes(event.data))
                if event.fin:
                    self.messages.append(b"".join(self.parts))
                    self.parts.clear()
        answers = self.protocol.data_to_send()
        self.writer.write(b"".join(answers))
        await self.drain()
        self.ended = not data or b"" in answers  # which says that this side has no more to send

    def frame(self, text: str) -> bytes:
        if self.protocol.state is not State.OPEN:
            return b""
        self.protocol.send_text(text.encode())
        return b"".join(self.protocol.data_to_send())

    def close(self, why: str) -> None:
        if self.protocol.state is State.OPEN:
            self.protocol.send_close(CloseCode.GOING_AWAY, why)
            self.writer.write(b"".join(self.protocol.data_to_send()))
        self.writer.close()


CLIENTS: dict[str, type[Client]] = {"tcp": LineClient, "websocket": WebSocketClient}


# --- a connection -----------------------------------------------------------------------------------------------------


class Session:
    """Who the client is, and where."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.nick = ""
        self.room = ""

    async def listen(self) -> None:
        """Do what the client says, until it has gone. One that doesn't take its answers isn't heard."""
        while not self.nick:
            with contextlib.suppress(BadInput):
                self.take_nick(f"guest-{random.randrange(10**6)}")
        self.enter("lobby")
        await self.client.write(f"* you are {self.nick} in {self.room}")
        while True:
            try:
                said = await self.client.read()
                if said is None or (answer := self.hear(text_of(said))) is None:
                    return
            except BadInput as error:
                answer = f"! {error}"
            if answer:
                await self.client.write(answer)

    def hear(self, text: str) -> str | None:
        """The answer; None: it wants to go."""
        if not text:
            return ""
        if not text.startswith("/"):
            self.tell(Said(self.room, self.nick, text))
            return ""
        match text.split():
            case ["/nick", nick] if NAME.fullmatch(nick):
                former = self.nick
                self.take_nick(nick)
                self.tell(Notice(self.room, f"{former} is now {nick}"))
            case ["/join", room] if NAME.fullmatch(room):
                self.leave("has left")
                self.enter(room)
            case ["/quit"]:
                return None
            case _:
                raise BadInput(USAGE)
        return f"* you are {self.nick} in {self.room}"

    def take_nick(self, nick: str) -> None:
        """A nick is a group of one. Of two that join it at the same time, at least one sees the other."""
        pa.pg.join(nick, scope="nicks")
        if len(pa.pg.get_members(nick, scope="nicks")) > 1:
            pa.pg.leave(nick, scope="nicks")
            raise BadInput(f"expected a nick that is free, got {nick}")
        if self.nick:
            pa.pg.leave(self.nick, scope="nicks")
        self.nick = nick

    def enter(self, room: str) -> None:
        pa.pubsub.subscribe(room)
        self.room = room
        self.tell(Notice(room, f"{self.nick} is here"))

    def leave(self, how: str) -> None:
        pa.pubsub.unsubscribe(self.room)
        self.tell(Notice(self.room, f"{self.nick} {how}"))

    def tell(self, message: Said | Notice) -> None:
        """All others in the room. What this one said it knows, and would find no limit in its own mailbox."""
        pa.pubsub.broadcast_from(self.room, message)

    async def deliver(self) -> None:
        """Write what comes to the mailbox; when the client is slow, that fills up, and drops what is more."""
        limit: int = pa.process_info(pa.self_(), "mailbox")["max_mailbox"]
        missed = 0
        for number in itertools.count(1):
            behind = await self.client.write(str(await pa.areceive(Said, Notice)))
            if behind or number % limit == 0:  # what was dropped, was behind so many
                dropped: int = pa.process_info(pa.self_(), "mailbox")["dropped"]
                if dropped > missed:
                    await self.client.write(f"* you have missed {dropped - missed} messages")
                    missed = dropped


def text_of(said: bytes) -> str:
    try:
        text = said.decode().strip()
    except UnicodeDecodeError:
        raise BadInput("expected UTF-8") from None
    if CONTROL.search(text):
        raise BadInput("expected one line without control characters")
    return text


async def connection(kind: str, number: int, patience: float) -> None:
    """Hold one client, whose socket came by number, until it has gone."""
    client = CLIENTS[kind](*await asyncio.open_connection(sock=socket.socket(fileno=number), limit=MAX_LINE), patience)
    session = Session(client)
    why = "the server ends"
    try:
        if await client.open():
            tasks = [asyncio.create_task(session.listen()), asyncio.create_task(session.deliver())]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        why = "goodbye"
    except ConnectionError:
        why = "your connection is gone"  # nobody will read that
    except TimeoutError:  # it has taken nothing for too long, or has not asked for a WebSocket
        client.writer.transport.abort()
    finally:
        client.close(why)
    if session.room:
        session.leave("has gone")


# --- acceptors --------------------------------------------------------------------------------------------------------


async def acceptor(kind: str, host: str, port: int, mailbox: int, patience: float, to: pa.Pid) -> None:
    """Accept on this worker; the kernel deals the connections out among all that listen on the port."""
    raise_descriptor_limit()
    logging.getLogger("websockets").setLevel(logging.WARNING)  # else it tells of each connection
    here = pa.options(
        worker=pa.worker_index(), label=f"{kind} client", max_mailbox=mailbox, mailbox_policy="drop_newest"
    )
    with socket.create_server((host, port), reuse_port=True, backlog=1024) as listener:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        pa.send(to, ("listening", kind))
        full = False
        while True:
            try:
                accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            except ConnectionError:  # it has gone already
                continue
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                if not full:
                    _LOG.warning("%s: new clients wait until others have gone; limit: %s", error, descriptor_limit())
                full = True
                await asyncio.sleep(RETRY)
                continue
            full = False
            here.spawn(connection, kind, accepted.detach(), patience)


class Acceptors(pa.Supervisor):
    """Two on each worker. Each waits until its worker has been replaced."""

    def init(self, host: str, ports: dict[str, int], mailbox: int, patience: float, main: pa.Pid) -> Any:
        return self.supervise(
            [
                pa.child(acceptor, kind, host, port, mailbox, patience, main, id=(kind, worker), worker=worker)
                for kind, port in ports.items()
                for worker in range(pa.worker_count())
            ],
            max_restarts=100,
        )


def descriptor_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_descriptor_limit() -> None:
    """A connection is a descriptor, of which an OS process may have 1,024 by default, and more if it asks."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reserve(host: str, port: int) -> socket.socket:
    """The port is ours from now on, also while nobody listens: this socket doesn't."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        reserved.bind((host, port))
    except OSError as error:
        sys.exit(f"expected a free port, got {port}: {error}")
    return reserved


# --- clients, in an OS process of their own ---------------------------------------------------------------------------

ROOM = 20  # clients
LINE_EVERY = 10.0  # seconds; the one that says much:
MUCH_EVERY = 0.1
MUCH = 4000  # bytes
GRACE = 60.0  # seconds for what is under way at the end
SETTLE = 1.0  # for the news of who is there
AT_ONCE = 50  # connections that are being made
SLOW = "slow"


class Crowd:
    """All clients, what they said, and what came of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.making = asyncio.Semaphore(AT_ONCE)
        self.rooms: dict[str, str] = {}  # of each client
        self.sent: Counter[str] = Counter()  # lines, by sender
        self.got: dict[str, Counter[str]] = {}  # by receiver and sender, the number of the last line
        self.latencies: dict[str, list[float]] = {}  # by room
        self.wrong: list[str] = []
        self.stop = asyncio.Event()  # nothing more is to be said

    async def enter(self, nick: str, room: str) -> ClientConnection:
        """A connection that stands in the room under this nick."""
        url = urlsplit(self.url)
        made = socket.socket()
        if nick == SLOW:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.setblocking(False)
        async with self.making:
            await asyncio.get_running_loop().sock_connect(made, (url.hostname, url.port or 80))
            ws = await connect(
                self.url,
                sock=made,
                compression=None,
                ping_interval=None,
                max_queue=1 if nick == SLOW else 16,  # messages that are read before they are asked for
                open_timeout=GRACE,
            )
            for command in f"/nick {nick}", f"/join {room}":
                await ws.send(command)
            while await ws.recv() != f"* you are {nick} in {room}":
                pass
        self.rooms[nick] = room
        self.got[nick] = Counter()
        self.latencies.setdefault(room, [])
        return ws

    async def listen(self, ws: ClientConnection, nick: str) -> None:
        """Look at each line that comes."""
        got = self.got[nick]
        with contextlib.suppress(ConnectionClosed):
            async for line in ws:
                assert isinstance(line, str)
                if line.startswith("* you have missed "):
                    got["dropped"] += int(line.split()[4])
                    continue
                room, who, text = line.split(" ", 2)
                if who == "*":
                    continue
                number, said, _ = text.split(" ", 2)
                sender = who.removesuffix(":")
                if int(number) != got[sender] + 1 and nick != SLOW:
                    self.wrong.append(f"{nick}: expected line {got[sender] + 1} of {sender}, got {number}")
                got[sender] = int(number)
                got["lines"] += 1
                if nick != SLOW:
                    self.latencies[room[1:-1]].append(time.monotonic() - float(said))

    async def talk(self, ws: ClientConnection, nick: str, every: float, length: int) -> None:
        """Say a line now and then, each with its number and when it was said."""
        due = time.monotonic() + random.uniform(0, every)
        while not self.stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), due - time.monotonic())
                return
            due += every
            self.sent[nick] += 1
            await ws.send(f"{self.sent[nick]} {time.monotonic()} ".ljust(length, "."))

    def missing(self, nicks: list[str]) -> int:
        """How many lines of others in their rooms have not come to them."""
        said: Counter[str] = Counter()
        for nick, lines in self.sent.items():
            said[self.rooms[nick]] += lines
        due = sum(said[self.rooms[nick]] - self.sent[nick] for nick in nicks)
        return due - sum(self.got[nick]["lines"] for nick in nicks)


async def lateness(found: list[float]) -> None:
    """How late this OS process itself is, which all latencies contain."""
    while True:
        due = time.monotonic() + 0.01
        await asyncio.sleep(0.01)
        found.append(time.monotonic() - due)


def figures(values: list[float]) -> str:
    values = sorted(values) or [0.0]
    p50, p99 = (values[int(part * (len(values) - 1))] for part in (0.5, 0.99))
    return f"p50 {1000 * p50:7.1f}   p99 {1000 * p99:7.1f}   max {1000 * values[-1]:7.1f} ms"


async def clients(url: str, count: int, seconds: float) -> int:
    """Have them talk, and show what came of it; the exit code."""
    raise_descriptor_limit()
    if descriptor_limit() < count + 64:
        sys.exit(f"expected a limit of {count + 64} descriptors, got {descriptor_limit()}: ulimit -n")
    crowd = Crowd(url)
    began = time.monotonic()
    fast = [(f"c{number}", f"room{number // ROOM}", LINE_EVERY, 80) for number in range(count)]
    fast.append(("talker", "room0", MUCH_EVERY, MUCH))
    made = await asyncio.gather(*(crowd.enter(nick, room) for nick, room, *_ in fast))
    slow = await crowd.enter(SLOW, "room0")
    print(f"{len(made) + 1} clients are connected, after {time.monotonic() - began:.1f} s", flush=True)

    listening = [asyncio.create_task(crowd.listen(ws, nick)) for ws, (nick, *_) in zip(made, fast, strict=True)]
    late: list[float] = []
    await asyncio.sleep(SETTLE)
    gc.collect()
    gc.freeze()  # else its collections are the longest latencies
    listening.append(asyncio.create_task(lateness(late)))
    used, began = time.process_time(), time.monotonic()
    talking = [
        asyncio.create_task(crowd.talk(ws, nick, every, length))
        for ws, (nick, _, every, length) in zip(made, fast, strict=True)
    ]
    await asyncio.sleep(seconds)
    crowd.stop.set()
    await asyncio.gather(*talking)
    took, used = time.monotonic() - began, time.process_time() - used
    reading = asyncio.create_task(crowd.listen(slow, SLOW))  # at last
    nicks = [nick for nick, *_ in fast]
    until = time.monotonic() + GRACE
    while time.monotonic() < until and (  # noqa: ASYNC110
        crowd.missing(nicks) or (crowd.missing([SLOW]) > crowd.got[SLOW]["dropped"] and not reading.done())
    ):
        await asyncio.sleep(0.05)

    lines, delivered = crowd.sent.total(), sum(crowd.got[nick]["lines"] for nick in nicks)
    lost = crowd.missing(nicks)
    others = itertools.chain.from_iterable(found for room, found in crowd.latencies.items() if room != "room0")
    print(f"lines said        {lines} ({lines / took:.0f} a second)")
    print(f"lines delivered   {delivered} ({delivered / took:.0f} a second)")
    print(f"latency           {figures(list(others))}")
    print(f"  beside slow     {figures(crowd.latencies['room0'])}")
    print(f"  clients' own    {figures(late)}, {100 * used / took:.0f} % of a core")
    print(f"lost              {lost}")
    print(f"out of order      {len(crowd.wrong)}")
    for wrong in crowd.wrong[:10]:
        print(f"                  {wrong}")
    unread = "was disconnected" if reading.done() else f"read {crowd.got[SLOW]['lines']} in the end"
    print(f"the slow client   {unread}, {crowd.got[SLOW]['dropped']} were dropped", flush=True)
    for task in [*listening, reading]:
        task.cancel()
    return 1 if lost or crowd.wrong else 0


# --- the command line -----------------------------------------------------------------------------------------------


def arguments(args: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chat_server.py", description="Chat by TCP and WebSocket.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--tcp", type=int, default=4000, help="port (default 4000; 0: any)")
    parser.add_argument("--websocket", type=int, default=4001, help="port (default 4001; 0: any)")
    parser.add_argument("--mailbox", type=int, default=MAILBOX, help="messages that may wait (default %(default)s)")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for a client (default 60)")
    parser.add_argument("--clients", type=int, default=0, help="have so many talk, and end (default 0: serve)")
    parser.add_argument("--hogs", action="store_true", help="with an endless loop on each worker")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long they talk (default 30)")
    parser.add_argument("--url", help="of a server that runs, for its clients alone")
    return parser.parse_args(args)


def hog() -> None:
    while True:
        pass


async def main(args: list[str]) -> None:
    options = arguments(args)
    reserved = {
        "tcp": reserve(options.host, options.tcp),
        "websocket": reserve(options.host, options.websocket),
    }
    ports = {kind: each.getsockname()[1] for kind, each in reserved.items()}
    # Beside main: when its worker dies, the program has ended anyway.
    beside = pa.options(worker=pa.worker_index())
    beside.start_link(Acceptors, options.host, ports, options.mailbox, options.patience, pa.self_())
    for kind, port in ports.items():
        for _ in range(pa.worker_count()):
            await pa.areceive(("listening", kind), timeout=60)
        print(f"{kind} on {options.host}:{port}", flush=True)
    if not options.clients:
        await pa.areceive("never")
    if options.hogs:
        for worker in range(pa.worker_count()):
            pa.options(worker=worker).spawn(hog)
    # They end with main, however it ends: their connections do, and the process's children.
    crowd = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--url", f"ws://{options.host}:{ports['websocket']}"),
        *("--clients", str(options.clients), "--seconds", str(options.seconds)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert crowd.stdout is not None
    async for line in crowd.stdout:
        print(line.decode(), end="", flush=True)
    if await crowd.wait():
        sys.exit(1)


if __name__ == "__main__":
    chosen = arguments(sys.argv[1:])
    if chosen.url is None:
        sys.exit("expected --url, for clients alone; the server: parallel-actors run examples/chat_server.py")
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(clients(chosen.url, chosen.clients or 1000, chosen.seconds)))
    sys.exit(130)
