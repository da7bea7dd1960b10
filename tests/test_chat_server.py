"""examples/chat_server.py: its clients, fast, slow and gone, and its crowd of clients beside hogs."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from leaks import eventually
from test_examples import EXAMPLES, run
from test_root import PATIENCE, Running, started

COMMAND = (sys.executable, "-m", "parallel_actors", "run", "-w", "2")
ANY_PORTS = ("--tcp", "0", "--websocket", "0")


class Server:
    """The example as it runs; its clients are disconnected when `clients` ends."""

    def __init__(self, running: Running, clients: contextlib.ExitStack) -> None:
        self.running = running
        self.clients = clients
        self.ports: dict[str, int] = {}
        for kind in "tcp", "websocket":
            running.out.expect(f"{kind} on ")
        for kind, port in re.findall(r"^(\w+) on 127.0.0.1:(\d+)$", running.out.text, re.MULTILINE):
            self.ports[kind] = int(port)

    def tcp(self, kind: str = "tcp", receive_buffer: int | None = None) -> Tcp:
        client = Tcp(self.ports[kind], receive_buffer)
        self.clients.callback(client.close)
        return client

    def websocket(self) -> WebSocket:
        url = f"ws://127.0.0.1:{self.ports['websocket']}"
        return WebSocket(self.clients.enter_context(connect(url, open_timeout=PATIENCE, compression=None)))

    def worker(self, number: int) -> psutil.Process:
        """The OS process of a worker, which may be about to start."""
        found: list[psutil.Process] = []

        def there() -> bool:
            with contextlib.suppress(psutil.Error):
                found.extend(each for each in self.running.family() if each.name().endswith(f":w{number}"))
            return bool(found)

        eventually(there, f"worker {number} is there")
        return found[0]


class Tcp:
    """A client by TCP."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")

    def say(self, text: str) -> None:
        self.send(text.encode() + b"\n")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def hear(self) -> str:
        """The next line; "": the server has closed the connection."""
        try:
            return self.file.readline().decode().removesuffix("\n")
        except ConnectionError:
            return ""

    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port

    def vanish(self) -> None:
        """With an RST instead of a FIN, as when it crashes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class WebSocket:
    """A client by WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def say(self, text: str) -> None:
        self.connection.send(text)

    def send(self, data: bytes) -> None:
        self.connection.send(data, text=True)

    def hear(self) -> str:
        try:
            return str(self.connection.recv(PATIENCE))
        except ConnectionClosed:
            return ""

    def close(self) -> None:
        self.connection.close()


Client = Tcp | WebSocket


def enter(client: Client, nick: str, room: str) -> None:
    """Be there under this nick."""
    for command, now_in in (f"/nick {nick}", "lobby"), (f"/join {room}", room):
        client.say(command)
        wait_for(client, f"* you are {nick} in {now_in}")


def wait_for(client: Client, text: str) -> None:
    """It hears this at last."""
    heard: list[str] = []
    while (line := client.hear()) != text:
        assert line, f"expected {text!r}, and it was disconnected after {heard}"
        heard.append(line)


def hears(client: Client, *texts: str) -> None:
    """It hears these next."""
    assert [client.hear() for _ in texts] == list(texts)


EXAMPLE = (*COMMAND, str(EXAMPLES / "chat_server.py"))


@contextlib.contextmanager
def serving(folder: Path, *args: str, command: tuple[str, ...] = EXAMPLE) -> Iterator[Server]:
    with started(*command, *ANY_PORTS, *args, cwd=folder) as running:
        with contextlib.ExitStack() as clients:
            yield Server(running, clients)
        running.ctrl_c()
        assert running.end() == 130
        assert running.out.text.count("\n") == 2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """It has nothing to complain of."""
    with serving(tmp_path) as server:
        yield server
    assert "Traceback" not in server.running.err.text
    complaints = re.findall(r" (?:ERROR|WARNING) .*", server.running.err.text)
    assert [each for each in complaints if "parallel_actors.schedule" not in each] == []  # a busy machine


def test_clients_of_both_kinds_chat(server: Server) -> None:
    anna, berta, clara = server.tcp(), server.websocket(), server.tcp()
    enter(anna, "anna", "garden")
    enter(berta, "berta", "garden")
    wait_for(anna, "[garden] * berta is here")
    enter(clara, "clara", "kitchen")
    berta.say("hello, anna")
    hears(anna, "[garden] berta: hello, anna")
    anna.say("hällo 🌻")
    hears(berta, "[garden] anna: hällo 🌻")
    clara.say("/join garden")
    for each in anna, berta:
        hears(each, "[garden] * clara is here")
    clara.say("/nick carla")
    for each in anna, berta:
        hears(each, "[garden] * clara is now carla")
    wait_for(clara, "* you are carla in garden")
    anna.say("/quit")
    wait_for(anna, "* goodbye")
    hears(anna, "")
    for each in berta, clara:
        hears(each, "[garden] * anna has gone")
    berta.close()
    hears(clara, "[garden] * berta has gone")


def test_a_sender_is_heard_in_order(server: Server) -> None:
    clients: list[Client] = [server.tcp(), server.websocket(), server.tcp(), server.websocket()]
    talker, *others = clients
    for number, client in enumerate(clients):
        enter(client, f"c{number}", "room")
    wait_for(talker, "[room] * c3 is here")
    for _ in range(10):
        for number in range(10):
            talker.say(f"line {number}")
        for client in others:
            wait_for(client, "[room] c0: line 0")
            hears(client, *(f"[room] c0: line {number}" for number in range(1, 10)))


@pytest.mark.parametrize("kind", ["tcp", "websocket"])
def test_bad_input_is_answered(server: Server, kind: str) -> None:
    other = server.tcp()
    enter(other, "other", "kitchen")
    client = server.tcp() if kind == "tcp" else server.websocket()
    enter(client, "anna", "room")
    usage = "! expected /nick NAME, /join ROOM, /quit, or a text without a slash"
    for data, answer in [
        (b"/dance", usage),
        (b"/nick", usage),
        (b"/nick two words", usage),
        (b"/join " + 33 * b"x", usage),
        (b"/", usage),
        (b"\xff\xfe", "! expected UTF-8"),
        (b"a \x1b[2J", "! expected one line without control characters"),
        (b"/nick other", "! expected a nick that is free, got other"),
        (b"/nick anna", "! expected a nick that is free, got anna"),
    ]:
        client.send(data + b"\n" if kind == "tcp" else data)
        hears(client, answer)
    if isinstance(client, WebSocket):
        client.say("[room] other: this isn't said\n[room] other: by other")
        hears(client, "! expected one line without control characters")
    client.say("")
    client.say("/join kitchen")
    hears(client, "* you are anna in kitchen")
    wait_for(other, "[kitchen] * anna is here")


def test_too_long_a_line_is_skipped(server: Server) -> None:
    client, other = server.tcp(), server.websocket()
    enter(client, "anna", "room")
    enter(other, "berta", "room")
    wait_for(client, "[room] * berta is here")
    for length in 4097, 8192, 100_000:
        client.say(length * "x")
        hears(client, "! expected a line of at most 4096 bytes")
    client.say(4096 * "y")
    hears(other, f"[room] anna: {4096 * 'y'}")
    other.say(4097 * "x")  # that ends a WebSocket, says its RFC
    hears(other, "")
    assert isinstance(other, WebSocket)
    assert other.connection.close_code == 1009
    hears(client, "[room] * berta has gone")


def test_what_is_no_websocket_is_refused(server: Server) -> None:
    for request, answer in [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 426 "),
        (b"\x16\x03\x01 no HTTP\r\n\r\n", b""),
    ]:
        client = server.tcp("websocket")
        client.send(request)
        assert client.file.read().startswith(answer)


def test_a_client_that_vanishes(server: Server) -> None:
    anna, berta, clara = server.tcp(), server.tcp(), server.websocket()
    for client, nick in (anna, "anna"), (berta, "berta"), (clara, "clara"):
        enter(client, nick, "room")
    wait_for(anna, "[room] * clara is here")
    berta.vanish()
    hears(anna, "[room] * berta has gone")
    clara.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    clara.connection.close_socket()
    hears(anna, "[room] * clara has gone")
    again = server.websocket()
    enter(again, "clara", "room")  # the nick is free
    hears(anna, "[room] * clara is here")


def test_a_slow_client_slows_nobody(tmp_path: Path) -> None:
    """It misses what it has no room for, is told how much, and hears the rest in order."""
    with serving(tmp_path, "--mailbox", "20") as server:
        talker, fast, slow = server.tcp(), server.websocket(), server.tcp(receive_buffer=4096)
        for client, nick in (talker, "talker"), (fast, "fast"), (slow, "slow"):
            enter(client, nick, "room")
        lines = [f"[room] talker: {number} ".ljust(4000, ".") for number in range(200)]
        for line in lines:
            talker.say(line.removeprefix("[room] talker: "))
            wait_for(fast, line)  # so `fast` has never more than one to come
        missed = 0
        read: list[str] = []
        while missed + len(read) < len(lines):
            line = slow.hear()
            if found := re.fullmatch(r"\* you have missed (\d+) messages", line):
                missed += int(found[1])
            elif line != "[room] * fast is here":
                read.append(line)
        assert missed > 100
        assert read == sorted(read, key=lines.index)
        talker.say("are you there?")
        hears(slow, "[room] talker: are you there?")


def test_a_client_that_takes_nothing_is_disconnected(tmp_path: Path) -> None:
    with serving(tmp_path, "--mailbox", "20", "--patience", "0.5") as server:
        talker, stuck = server.tcp(), server.tcp(receive_buffer=4096)
        enter(stuck, "stuck", "room")
        enter(talker, "talker", "room")
        for _ in range(200):
            talker.say(4000 * "x")
        hears(talker, "[room] * stuck has gone")


def test_a_connection_that_crashes_takes_only_itself(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import chat_server
        import parallel_actors as pa

        def main(args):
            pa.options(worker=pa.worker_index()).spawn_link(chat_server.main, args)
            while not (found := pa.pg.get_members("victim", scope="nicks")):
                pa.sleep(0.001)
            pa.exit(found[0], "boom")
            pa.receive("never")
        """)
    )
    with serving(tmp_path, command=("env", f"PYTHONPATH={EXAMPLES}", *COMMAND, str(program))) as server:
        anna, berta, victim = server.tcp(), server.websocket(), server.tcp()
        enter(anna, "anna", "room")
        enter(berta, "berta", "room")
        victim.say("/nick victim")
        wait_for(victim, "* the server ends")
        hears(victim, "")
        berta.say("still there?")
        wait_for(anna, "[room] berta: still there?")


def test_a_worker_is_killed(tmp_path: Path) -> None:
    """Its clients are disconnected, the others go on, and its acceptors come back."""
    with serving(tmp_path) as server:
        one, other = server.worker(0), server.worker(1)
        clients: list[Tcp] = []

        def of(worker: psutil.Process) -> list[Tcp]:
            ports = {
                each.raddr.port for each in worker.net_connections("tcp") if each.status == psutil.CONN_ESTABLISHED
            }
            return [client for client in clients if client.port() in ports]

        while not (len(of(one)) >= 2 and len(of(other)) >= 2):  # the kernel deals them out
            clients.append(server.tcp())
            enter(clients[-1], f"c{len(clients)}", "room")
        gone, left = of(other), of(one)
        assert len(gone) + len(left) == len(clients)
        os.kill(other.pid, signal.SIGKILL)
        for client in gone:
            while client.hear():
                pass
        left[0].say("still there?")
        wait_for(left[1], f"[room] c{1 + clients.index(left[0])}: still there?")

        def listens() -> bool:
            worker = server.worker(1)
            with contextlib.suppress(psutil.Error):
                ports = {each.laddr.port for each in worker.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
                return worker.pid != other.pid and ports == set(server.ports.values())
            return False

        eventually(listens, "the acceptors are back")
        other = server.worker(1)
        while not of(other):
            clients.append(server.tcp())
            enter(clients[-1], f"c{len(clients)}", "room")
        clients[-1].say("here again")
        wait_for(left[0], f"[room] c{len(clients)}: here again")


def test_out_of_descriptors(tmp_path: Path) -> None:
    """Who gets none waits; the others go on."""
    limited = (
        sys.executable,
        "-c",
        textwrap.dedent("""
        import os, resource, sys
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        os.execv(sys.argv[1], sys.argv[1:])
    """),
    )
    with serving(tmp_path, command=(*limited, *EXAMPLE)) as server:
        clients = [server.tcp() for _ in range(100)]
        server.running.err.expect("new clients wait until others have gone; limit: 64")
        first, second, *others = clients
        enter(first, "first", "room")
        enter(second, "second", "room")
        second.say("hello")
        wait_for(first, "[room] second: hello")
        for client in others[:80]:
            client.close()
        for client in others[80:]:
            assert client.hear().startswith("* you are guest-")
            client.close()


def test_ctrl_c_says_goodbye(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        anna, berta = server.tcp(), server.websocket()
        enter(anna, "anna", "room")
        enter(berta, "berta", "kitchen")
        enter(server.tcp(), "clara", "garden")  # meanwhile nothing is on its way to the others
        server.running.ctrl_c()
        wait_for(anna, "* the server ends")
        hears(anna, "")
        hears(berta, "")
        assert (berta.connection.close_code, berta.connection.close_reason) == (1001, "the server ends")


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(tmp_path, "chat_server.py", "--tcp", str(taken.getsockname()[1]), "--websocket", "0")
    assert done.returncode == 1
    assert re.match(r"expected a free port, got \d+: ", done.stderr)


# --- the crowd --------------------------------------------------------------------------------------------------------


def check_crowd(done: subprocess.CompletedProcess[str], clients: int) -> dict[str, int]:
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert f"\n{clients + 2} clients are connected, after " in done.stdout
    shown = {
        name.strip(): int(number) for name, number in re.findall(r"^(\w[\w ]+)  +(\d+)\b", done.stdout, re.MULTILINE)
    }
    assert (0, 0) == (shown["lost"], shown["out of order"])
    assert shown["lines delivered"] > shown["lines said"] > clients / 10
    for name in "latency", "beside slow", "clients' own":
        assert re.search(rf"^ *{name} +p50 +[\d.]+ +p99 +[\d.]+ +max +[\d.]+ ms", done.stdout, re.MULTILINE)
    return shown


def test_a_crowd_beside_hogs(tmp_path: Path) -> None:
    done = run(tmp_path, "chat_server.py", *ANY_PORTS, "--clients", "50", "--hogs", "--seconds", "3")
    check_crowd(done, 50)
    assert re.search(r"^the slow client   read \d+ in the end, \d+ were dropped$", done.stdout, re.MULTILINE)


def test_a_crowd_needs_descriptors(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    done = run(tmp_path, "chat_server.py", *ANY_PORTS, "--clients", str(hard))
    assert 1 == done.returncode
    assert f"expected a limit of {hard + 64} descriptors, got {hard}: ulimit -n" in done.stderr


@pytest.mark.stress
def test_a_thousand_clients_beside_hogs(tmp_path: Path) -> None:
    done = run(tmp_path, "chat_server.py", *ANY_PORTS, "--clients", "1000", "--hogs", "--seconds", "30")
    print(done.stdout)
    check_crowd(done, 1000)
