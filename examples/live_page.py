"""A page that lives on the server, as with Phoenix LiveView: a to-do list that all who look at it share.

    parallel-actors run examples/live_page.py:App
    parallel-actors run --env port=8001 --env state=todo.db examples/live_page.py:App

Open http://localhost:8000/ in two windows. There is no code for the browser but a small script that is the same for
every page: it sends what is clicked and typed, and puts in place what comes back.

    GET /          the page as plain HTML: it can be read before the script runs
    WebSocket      a `View` for each visitor: an actor with what this one sees and has typed. It gets the events and
                   renders again, and what has changed is sent: the texts between the changing parts travel once, then
                   {index: new value} for each part that is another one
    Board          the list itself, one for all; it tells the views of changes by `pubsub`, and saves them

A view that crashes takes nobody along: its page connects again and gets a new view, with the list as it is, and what
was private (the filter, the preview) as at first. Press "crash" to see it. The board is saved at each change, and comes
back with what it had, as long as the process lives that keeps it; with `state=FILE` whatever dies, and in the next run.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Origin

import parallel_actors as pa

HOST = "127.0.0.1"
LONGEST = 80  # characters of an item
MOST = 200  # items


# --- HTML whose changes are small -------------------------------------------------------------------------------------


class Html:
    """A template, and what stands in its places {}: texts, which are escaped; other Html; rows, a dict of Html."""

    def __init__(self, template: str, *parts: object) -> None:
        self.statics = template.split("{}")
        self.parts: list[Any] = [part if isinstance(part, (Html, dict)) else html.escape(str(part)) for part in parts]

    def __str__(self) -> str:
        texts = ["".join(map(str, part.values())) if isinstance(part, dict) else str(part) for part in self.parts]
        return "".join(text for pair in zip(self.statics, [*texts, ""], strict=True) for text in pair)


def whole(part: Any) -> Any:
    """All of it, for the script: the static texts are "s", each part has its index, and rows have the order "k"."""
    if isinstance(part, dict):
        return {"k": list(part)} | {key: whole(row) for key, row in part.items()}
    if isinstance(part, Html):
        return {"s": part.statics} | {str(index): whole(each) for index, each in enumerate(part.parts)}
    return part


def diff(old: Any, new: Any) -> Any:
    """What turns one into the other, for the script that has the old one; {}: nothing."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = {key: (old.get(key), row) for key, row in new.items()}
        found = {} if list(old) == list(new) else {"k": list(new)}
    elif isinstance(old, Html) and isinstance(new, Html) and old.statics == new.statics:
        pairs = {str(index): pair for index, pair in enumerate(zip(old.parts, new.parts, strict=True))}
        found = {}
    else:
        return {} if old == new else whole(new)
    for key, pair in pairs.items():
        if (change := diff(*pair)) != {}:
            found[key] = change
    return found


# --- the page ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    text: str
    done: bool = False


@dataclass(frozen=True)
class Private:
    """What one visitor sees and has typed."""

    show: str = "all"
    typed: str = ""


SHOWN: dict[str, Callable[[Item], bool]] = {
    "all": lambda item: True,
    "open": lambda item: not item.done,
    "done": lambda item: item.done,
}


def page(items: dict[str, Item], visitors: int, private: Private) -> Html:
    """What one visitor sees."""
    shown = {key: item for key, item in items.items() if SHOWN[private.show](item)}
    return Html(
        """
<h1>To do</h1>
<p id="state">{} open, {} here</p>
<form data-submit="add">
  <input name="text" data-input="typed" maxlength="80" placeholder="What is to be done?" autocomplete="off" autofocus>
  <button>add</button> <small id="left">{}</small>
</form>
<p>{}</p>
<ul>{}</ul>
<p><button data-click="crash">crash</button></p>
""",
        sum(not item.done for item in items.values()),
        visitors,
        f"{LONGEST - len(private.typed)} characters left" if private.typed else "",
        {show: choice(show, show == private.show) for show in SHOWN},
        {key: row(key, item) for key, item in shown.items()},
    )


def choice(show: str, chosen: bool) -> Html:
    template = '<button data-click="show" data-value="{}" class="{}">{}</button> '
    return Html(template, show, "chosen" if chosen else "", show)


def row(key: str, item: Item) -> Html:
    return Html(
        '<li class="{}"><button data-click="toggle" data-value="{}">{}</button> <span>{}</span> '
        '<button data-click="delete" data-value="{}">delete</button></li>',
        "done" if item.done else "open",
        key,
        "reopen" if item.done else "finish",
        item.text,
        key,
    )


SCRIPT = """
const live = document.querySelector("main");
let socket, tree, pause = 50;

// The tree as HTML; and what has changed, put into it.
const join = (part) => typeof part === "string" ? part
  : part.k ? part.k.map((key) => join(part[key])).join("")
  : part.s.reduce((text, next, index) => text + join(part[index - 1]) + next);

function merge(old, change) {
  if (!old || typeof old === "string" || typeof change === "string" || change.s) return change;
  for (const key in change) old[key] = key === "k" ? change.k : merge(old[key], change[key]);
  if (change.k) for (const key in old) if (key !== "k" && !change.k.includes(key)) delete old[key];
  return old;
}

// Only what differs is touched: where one types, one goes on typing.
function patch(now, then) {
  for (const {name, value} of then.attributes) if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  for (const {name} of [...now.attributes]) if (!then.hasAttribute(name)) now.removeAttribute(name);
  const former = [...now.childNodes], next = [...then.childNodes];
  next.forEach((node, index) => {
    const old = former[index];
    if (!old) now.append(node);
    else if (old.nodeName !== node.nodeName) old.replaceWith(node);
    else if (node.nodeType === Node.ELEMENT_NODE) patch(old, node);
    else if (old.data !== node.data) old.data = node.data;
  });
  former.slice(next.length).forEach((node) => node.remove());
}

function connect() {
  socket = new WebSocket(location.origin.replace("http", "ws") + "/live");
  socket.onmessage = ({data}) => {
    pause = 50;
    tree = merge(tree, JSON.parse(data));
    const then = document.createElement("main");
    then.innerHTML = join(tree);
    then.className = "live";
    patch(live, then);
  };
  socket.onclose = () => {
    live.className = "";
    setTimeout(connect, pause * (1 + Math.random()));
    pause = Math.min(2 * pause, 5000);
  };
}

function send(name, value) {
  if (socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify([name, value]));
  return true;
}

document.addEventListener("click", ({target}) => {
  const button = target.closest("[data-click]");
  if (button) send(button.dataset.click, button.dataset.value ?? "");
});
document.addEventListener("input", ({target}) => {
  if (target.dataset.input) send(target.dataset.input, target.value);
});
document.addEventListener("submit", (event) => {
  event.preventDefault();
  if (send(event.target.dataset.submit, event.target.elements.text.value)) event.target.reset();
});
connect();
"""

STYLE = """
body { font: 16px sans-serif; max-width: 40em; margin: 2em auto }
main:not(.live) { opacity: 0.5 }
.chosen { font-weight: bold }
.done span { text-decoration: line-through }
"""


def digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


# Whatever gets into the page: no other script runs.
POLICY = f"default-src 'none'; connect-src 'self'; script-src {digest(SCRIPT)}; style-src {digest(STYLE)}"


def document(content: Html) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>To do</title><style>{STYLE}</style></head>'
        f"<body><main>{content}</main><script>{SCRIPT}</script></body></html>"
    )


# --- the actors -------------------------------------------------------------------------------------------------------


class Board(pa.Actor):
    """The list that all see."""

    def __init__(self) -> None:
        self.list: dict[str, Item] = pa.Checkpoints.restore("saved", "items", {})
        pa.pubsub.broadcast("board", ("board", self.list))  # for views from before a crash

    @pa.call
    def items(self) -> dict[str, Item]:
        return self.list

    @pa.call
    def add(self, text: str) -> None:
        text = text.strip()[:LONGEST]
        if text and len(self.list) < MOST:
            self._change({**self.list, str(max(map(int, self.list), default=0) + 1): Item(text)})

    @pa.call
    def toggle(self, key: str) -> None:
        if item := self.list.get(key):  # else somebody else has just deleted it
            self._change({**self.list, key: replace(item, done=not item.done)})

    @pa.call
    def delete(self, key: str) -> None:
        self._change({other: item for other, item in self.list.items() if other != key})

    def _change(self, items: dict[str, Item]) -> None:
        pa.Checkpoints.save("saved", "items", items)
        self.list = items
        pa.pubsub.broadcast("board", ("board", items))


class View(pa.Actor):
    """What one visitor sees. It lives as long as the WebSocket, which `server` has."""

    def __init__(self, server: pa.Pid) -> None:
        pa.monitor(server)
        self.private = Private()
        self.shown: Html | None = None
        self.waiting: pa.ReplyTo[str] | None = None
        pa.pubsub.subscribe("board")
        self.items = pa.ref(Board, "board").items()
        pa.pg.join("views")
        _, views = pa.pg.monitor("views")
        self.visitors = len(views)

    @pa.call_later
    def changes(self, to: pa.ReplyTo[str]) -> None:
        """What is to be sent: answered when the page isn't any more what it was at the last answer.

        A slow browser asks seldom, and gets all that has happened in one.
        """
        self.waiting = to
        self._render()

    @pa.call
    def event(self, name: str, value: str) -> None:
        """Something was clicked or typed."""
        board = pa.ref(Board, "board")
        match name:
            case "add":
                board.add(value)
                self.private = replace(self.private, typed="")
            case "toggle":
                board.toggle(value)
            case "delete":
                board.delete(value)
            case "typed":
                self.private = replace(self.private, typed=value[:LONGEST])
            case "show" if value in SHOWN:
                self.private = replace(self.private, show=value)
            case "crash":
                raise RuntimeError("somebody has pressed the button")
        self._render()

    @pa.info(("board", dict))
    def board_changed(self, message: tuple[str, dict[str, Item]]) -> None:
        self.items = message[1]
        self._render()

    @pa.info((pa.Ref, str, "views", list))
    def visitors_changed(self, message: tuple[pa.Ref, str, str, list[pa.Pid]]) -> None:
        _, what, _, pids = message
        self.visitors += len(pids) if what == "join" else -len(pids)
        self._render()

    @pa.info(pa.Down)
    def server_ended(self, down: pa.Down) -> None:
        raise pa.ProcessExit("shutdown")

    def _render(self) -> None:
        if self.waiting is None:
            return
        now = page(self.items, self.visitors, self.private)
        change = diff(self.shown, now)
        if change:
            self.waiting.reply(json.dumps(change))
            self.waiting, self.shown = None, now


# --- the server -------------------------------------------------------------------------------------------------------


async def first_page(connection: ServerConnection, request: Request) -> Response | None:
    """The answer to a GET; None: this is the WebSocket."""
    if request.path == "/live":
        return None
    if request.path != "/":
        return connection.respond(HTTPStatus.NOT_FOUND, "there is one page, /\n")
    try:
        items = await pa.ref(Board, "board").items.aio()
    except pa.ActorError as error:
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"try again: {error}\n")
    content = page(items, len(pa.pg.get_members("views")), Private())
    response = connection.respond(HTTPStatus.OK, document(content))
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Cache-Control"] = "no-store"
    return response


async def talk(browser: ServerConnection) -> None:
    """One visitor: events to the view, changes to the browser."""
    view = pa.options(worker=pa.worker_index()).start(View, pa.self_())
    try:
        async with asyncio.TaskGroup() as group:
            sender = group.create_task(send_changes(browser, view))
            async for text in browser:
                match json.loads(text):
                    case [str(name), str(value)]:
                        await view.event.aio(name, value)
                    case other:
                        raise ValueError(f"expected [event, value], got {other!r}")
            sender.cancel()
    except* ConnectionClosed:
        pass  # the visitor has gone, or the network
    except* pa.ActorError:
        await browser.close(1011, "the view has crashed")  # the script connects again
    except* ValueError:
        await browser.close(1008, "expected [event, value]")
    finally:
        pa.exit(view.__pid__, "shutdown")


async def send_changes(browser: ServerConnection, view: View) -> None:
    while True:
        await browser.send(await view.changes.options(timeout=None).aio())


async def server(port: int, origins: list[str]) -> None:
    """One server. Told to stop, it says goodbye to its visitors."""
    pa.trap_exit()
    # Pages of other sites may open a WebSocket to here, too: the browser says where they are from.
    allowed = [Origin(origin) for origin in origins if origin]
    async with serve(talk, HOST, port, reuse_port=True, process_request=first_page, origins=allowed, max_size=4096):
        print(f"http://{HOST}:{port}/: worker {pa.worker_index()} serves")
        told = await pa.areceive(pa.Exit)
    raise pa.ProcessExit(told.reason)


class State(pa.Supervisor):
    """The board, and what outlives it."""

    def init(self, path: str) -> object:
        store = pa.SQLiteStore(path) if path else pa.MemoryStore()
        children = [pa.child(pa.Checkpoints, store, name="saved"), pa.child(Board, name="board")]
        return self.supervise(children, strategy="rest_for_one")


class App(pa.Application):
    # state: the file to keep the list in; origin: where else the page is served from, such as https://todo.example
    env = {"port": 8000, "state": "", "origin": ""}  # noqa: RUF012 (declared by the base class)

    def start(self, args: list[str]) -> pa.Pid:
        env = pa.application.get_all_env(App)
        port = env["port"]
        socket.create_server((HOST, port), reuse_port=True).close()  # if somebody else has it, it is said once
        origins = [f"http://{HOST}:{port}", f"http://localhost:{port}", env["origin"]]
        # One server on each worker, all on one port: the kernel deals the connections out.
        servers = [pa.child(server, port, origins, id=worker, worker=worker) for worker in pa.worker_indices()]
        return pa.Supervisor.start_link([pa.child(State, env["state"]), *servers], max_restarts=10)
