"""examples/live_page.py: what it sends, by the protocol and in a browser; crashes, kills, bad visitors."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import importlib
import json
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

import parallel_actors as pa
from leaks import eventually
from test_death import ended_at_last, gone
from test_examples import EXAMPLES
from test_root import started

PATIENCE = 30.0
ATTACK = "<img src=x onerror=\"document.title='broken into'\">"
SHOWN_ATTACK = "&lt;img src=x onerror=&quot;document.title=&#x27;broken into&#x27;&quot;&gt;"


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port that nobody else gets. Who reserves it doesn't listen, and gets no connection."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture
def live_page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example as a module, as workers import it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module("live_page")
    del sys.modules["live_page"]


@pytest.fixture
def port(live_page: Any, no_leaks: None) -> Iterator[int]:
    """Where it serves, in a system of ours."""
    with reserved_port() as number, pa.ActorSystem(workers=2, log_level="CRITICAL"):
        pa.application.put_env(live_page.App, "port", number)
        pa.application.start(live_page.App)
        eventually(lambda: get(number)[0] == 200, "it serves")
        yield number
        pa.application.stop(live_page.App)


def get(port: int, path: str = "/") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(), dict(response.headers)
    except ConnectionRefusedError:
        return 0, "", {}
    finally:
        connection.close()


def views() -> list[pa.Pid]:
    return pa.pg.get_members("views")


class Visitor:
    """What the script in the page does, but for the patching of the page."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.tree: Any = None
        self.changes: list[Any] = []

    async def send(self, name: str, value: str = "") -> None:
        await self.connection.send(json.dumps([name, value]))

    async def until(self, condition: Callable[[str], bool]) -> list[Any]:
        """The changes that come until the page is so."""
        found = []
        while self.tree is None or not condition(self.html):
            change = json.loads(await self.connection.recv())
            self.tree = merge(self.tree, change)
            found.append(change)
        return found

    async def shows(self, *texts: str) -> list[Any]:
        return await self.until(lambda html: all(text in html for text in texts))

    @property
    def html(self) -> str:
        return joined(self.tree)


def merge(old: Any, change: Any) -> Any:
    if not old or isinstance(old, str) or isinstance(change, str) or "s" in change:
        return change
    merged = old | {key: part if key == "k" else merge(old.get(key), part) for key, part in change.items()}
    return {key: part for key, part in merged.items() if "k" not in change or key in ("k", *change["k"])}


def joined(tree: Any) -> str:
    if isinstance(tree, str):
        return tree
    if "k" in tree:
        return "".join(joined(tree[key]) for key in tree["k"])
    parts = [joined(tree[str(index)]) for index in range(len(tree["s"]) - 1)]
    return "".join(text for pair in zip(tree["s"], [*parts, ""], strict=True) for text in pair)


@asynccontextmanager
async def visitor(port: int) -> AsyncIterator[Visitor]:
    url = f"ws://127.0.0.1:{port}/live"
    async with asyncio.timeout(PATIENCE), connect(url, origin=f"http://127.0.0.1:{port}") as connection:  # type: ignore[arg-type]
        yield Visitor(connection)


def run(program: Callable[[int], Coroutine[Any, Any, None]], port: int) -> None:
    asyncio.run(program(port))


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_differences_of_html(live_page: Any) -> None:
    html, diff, whole = live_page.Html, live_page.diff, live_page.whole
    one = html("<p>{}, {}</p>", "a", 1)
    assert "<p>a, 1</p>" == str(one)
    assert {"s": ["<p>", ", ", "</p>"], "0": "a", "1": "1"} == whole(one) == diff(None, one)
    assert {} == diff(one, html("<p>{}, {}</p>", "a", 1))
    assert {"1": ""} == diff(one, html("<p>{}, {}</p>", "a", ""))
    # Another template in the same place.
    assert {"s": ["<b>", "</b>"], "0": "a"} == diff(one, html("<b>{}</b>", "a"))

    def listed(**texts: str) -> Any:
        return html("<ul>{}</ul>", {key: html("<li>{}</li>", text) for key, text in texts.items()})

    new = {"s": ["<li>", "</li>"], "0": "z"}
    assert "<ul><li>x</li><li>y</li></ul>" == str(listed(a="x", b="y"))
    assert {"0": {"b": {"0": "z"}}} == diff(listed(a="x", b="y"), listed(a="x", b="z"))
    assert {"0": {"k": ["a", "c"], "c": new}} == diff(listed(a="x", b="y"), listed(a="x", c="z"))
    assert {"0": {"k": ["b", "a"]}} == diff(listed(a="x", b="y"), listed(b="y", a="x"))
    assert {"0": {"k": []}} == diff(listed(a="x"), listed())
    # What the script makes of it is what the server has.
    pages = [listed(), listed(a="x"), listed(c="z", a="y"), listed(c="<"), listed(a="x", c="<")]
    tree = None
    for former, page in zip([None, *pages], pages, strict=False):
        tree = merge(tree, json.loads(json.dumps(diff(former, page))))
        assert str(page) == joined(tree)


def test_everything_is_escaped(live_page: Any) -> None:
    assert f'<a title="{SHOWN_ATTACK}">{SHOWN_ATTACK}</a>' == str(
        live_page.Html('<a title="{}">{}</a>', ATTACK, ATTACK)
    )


def test_the_first_page_is_what_the_websocket_sends_then(port: int) -> None:
    pa.ref(importlib.import_module("live_page").Board, "board").add(ATTACK)
    status, text, headers = get(port)
    assert 200 == status
    assert "text/html; charset=utf-8" == headers["Content-Type"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert ATTACK not in text
    assert SHOWN_ATTACK in text

    async def program(port: int) -> None:
        async with visitor(port) as one:
            await one.shows("1 here")
            assert one.html.replace("1 here", "0 here") == text.partition("<main>")[2].partition("</main>")[0]

    run(program, port)
    assert 404 == get(port, "/other")[0]
    assert 426 == get(port, "/live")[0]


def test_a_click_sends_what_has_changed_and_nothing_else(port: int) -> None:
    async def program(port: int) -> None:
        async with visitor(port) as one, visitor(port) as other:
            for each in one, other:
                await each.shows("0 open, 2 here")
            await one.send("add", "milk")
            added = await other.shows("1 open", "milk")
            row = {"s": added[0]["4"]["1"]["s"], "0": "open", "1": "1", "2": "finish", "3": "milk", "4": "1"}
            assert [{"0": "1", "4": {"k": ["1"], "1": row}}] == added
            assert added == await one.shows("milk")
            await other.send("toggle", "1")
            for each in one, other:
                assert [{"0": "0", "4": {"1": {"0": "done", "2": "reopen"}}}] == await each.shows("0 open")
            # What is private goes to nobody else.
            await one.send("typed", "bread")
            assert [{"2": "75 characters left"}] == await one.shows("75 characters left")
            await one.send("show", "open")
            await one.until(lambda html: "milk" not in html)
            await other.send("delete", "1")
            assert [{"4": {"k": []}}] == await other.until(lambda html: "milk" not in html)
            assert "75 characters left" in one.html
            assert "characters left" not in other.html

    run(program, port)
    eventually(lambda: views() == [], "the views have ended with their visitors")


@pytest.mark.parametrize("end", ["crash", "kill"])
def test_a_view_that_dies_takes_nobody_along(port: int, end: str) -> None:
    async def program(port: int) -> None:
        async with visitor(port) as other:
            await other.shows("1 here")
            (its,) = views()
            async with visitor(port) as one:
                await one.send("add", "milk")
                await one.shows("2 here", "milk")
                await one.send("show", "done")
                await one.until(lambda html: "milk" not in html)
                if end == "crash":
                    await one.send("crash")
                else:
                    (view,) = set(views()) - {its}
                    pa.exit(view, "kill")
                with pytest.raises(ConnectionClosedError) as caught:
                    await one.shows("never")
                assert caught.value.rcvd is not None
                assert 1011 == caught.value.rcvd.code
            eventually(lambda: views() == [its], "one is left")
            await other.shows("1 here", "milk")
            async with visitor(port) as one:
                await one.shows("2 here", "milk")  # all are shown, as at first

    run(program, port)


def test_the_board_comes_back_with_its_list(port: int) -> None:
    async def program(port: int) -> None:
        async with visitor(port) as one:
            await one.send("add", "milk")
            await one.shows("milk")
            board = pa.whereis("board")
            pa.exit("board", "kill")
            eventually(lambda: pa.whereis("board") not in (None, board), "the board is there again")
            await one.send("add", "bread")
            await one.shows("milk", "bread")

    run(program, port)


def test_bad_visitors_are_sent_away(port: int) -> None:
    async def program(port: int) -> None:
        for text, code in (("{", 1008), ('["toggle", 1]', 1008), ("x" * 5000, 1009)):
            async with visitor(port) as one:
                await one.connection.send(text)
                with pytest.raises(ConnectionClosedError) as caught:
                    await one.shows("never")
                assert caught.value.rcvd is not None
                assert code == caught.value.rcvd.code
        async with visitor(port) as one:
            # Events that mean nothing, or nothing any more.
            for event in (("nothing", ""), ("show", "everything"), ("toggle", "7"), ("add", "  ")):
                await one.send(*event)
            await one.send("typed", "x" * 200)
            assert {"2": "0 characters left"} == (await one.shows("0 characters left"))[-1]
        for origin in ("http://elsewhere.example", f"https://127.0.0.1:{port}", None):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://127.0.0.1:{port}/live", origin=origin)  # type: ignore[arg-type]
            assert 403 == refused.value.response.status_code

    run(program, port)
    eventually(lambda: views() == [], "nothing is left of them")


def test_a_ctrl_c_says_goodbye_and_the_list_is_kept(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "parallel_actors", "run", "-w", "2", "--log-level", "CRITICAL")
    example = str(EXAMPLES / "live_page.py") + ":App"
    for run_number in (1, 2):
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(reserved_port())
            settings = ("--env", f"port={port}", "--env", "state=todo.db")
            running = stack.enter_context(started(*command, *settings, example, cwd=tmp_path))
            for worker in (0, 1):
                running.out.expect(f"worker {worker} serves")
            everybody = running.family()

            async def program(port: int, running: Any = running, run_number: int = run_number) -> None:
                async with visitor(port) as one:
                    if run_number == 1:
                        await one.send("add", "milk")
                    await one.shows("milk")
                    running.ctrl_c()
                    await one.connection.wait_closed()
                    assert 1001 == one.connection.close_code

            with ended_at_last(everybody):
                run(program, port)
                assert 130 == running.end()
                eventually(functools.partial(gone, everybody), "nothing is left")
                stopping = "parallel-actors: interrupted: stopping (Ctrl-C again: stop now)\n"
                assert f"{stopping}parallel-actors: stopped live_page:App\n" == running.err.close()


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path, no_leaks: None) -> Iterator[Any]:
    """A Chromium without a window, driven by Playwright."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield started
        finally:
            started.close()


class Window:
    """A visitor's window, and what its WebSockets got."""

    def __init__(self, browser: Any, port: int) -> None:
        self.received: list[Any] = []
        self.page = browser.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.on("websocket", lambda opened: opened.on("framereceived", self._received))
        self.page.goto(f"http://127.0.0.1:{port}/")
        self.page.wait_for_selector("main.live")  # before that, what is entered stays where it is

    def _received(self, text: str) -> None:
        self.received.append(json.loads(text))

    def add(self, text: str) -> None:
        self.page.fill("[name=text]", text)
        self.page.press("[name=text]", "Enter")

    def press(self, button: str) -> None:
        self.page.click(f"button:text-is('{button}')")

    def shows(self, *texts: str, what: str = "#state, li span") -> None:
        """Wait until the page is live, and the elements of this kind, by default the count and the items, show that."""
        # From here: the page's policy lets nothing wait inside of it.
        found = (
            f"document.querySelector('main.live') && [...document.querySelectorAll('{what}')].map((e) => e.innerText)"
        )
        eventually(lambda: self.page.evaluate(found) == list(texts), f"{texts} in the page")


def test_two_windows_see_each_other(browser: Any, port: int) -> None:
    one, other = Window(browser, port), Window(browser, port)
    one.add("milk")
    for window in one, other:
        window.shows("1 open, 2 here", "milk")
    # Who types goes on typing, whatever others do.
    one.page.type("[name=text]", "bre")
    one.shows("77 characters left", what="#left")
    other.received.clear()
    other.press("finish")
    one.shows("0 open, 2 here", "milk")
    one.page.type("[name=text]", "ad")
    one.page.press("[name=text]", "Enter")
    for window in one, other:
        window.shows("1 open, 2 here", "milk", "bread")
    assert {"0": "0", "4": {"1": {"0": "done", "2": "reopen"}}} == other.received[0]
    assert "" == one.page.input_value("[name=text]")
    # What one chooses to see is private.
    one.press("open")
    one.shows("1 open, 2 here", "bread")
    other.shows("1 open, 2 here", "milk", "bread")
    other.page.close()
    one.shows("1 open, 1 here", "bread")
    one.page.close()


def test_an_attack_is_shown_as_text(browser: Any, port: int) -> None:
    one = Window(browser, port)
    one.add(ATTACK)
    one.shows("1 open, 1 here", ATTACK)
    again = Window(browser, port)  # the same in the plain page
    again.shows("1 open, 2 here", ATTACK)
    for window in one, again:
        assert "To do" == window.page.title()
        assert 0 == window.page.locator("img").count()
    # Were it HTML, the policy would keep its script from running.
    again.page.evaluate("text => document.body.insertAdjacentHTML('beforeend', text)", ATTACK)
    eventually(lambda: again.page.evaluate("document.querySelector('img').complete"), "the image has failed to load")
    assert "To do" == again.page.title()


def test_a_page_recovers(browser: Any, port: int) -> None:
    one = Window(browser, port)
    one.add("milk")
    for end in ("crash", "kill"):
        one.press("open")
        one.press("finish")
        one.shows("0 open, 1 here")
        (view,) = views()
        one.page.fill("[name=text]", "bread")
        one.shows("75 characters left", what="#left")
        if end == "crash":
            one.press("crash")
        else:
            pa.exit(view, "kill")
        # The list is there, the filter as at first, and what was being typed still stands there.
        one.shows("0 open, 1 here", "milk")
        assert view not in views()
        assert "bread" == one.page.input_value("[name=text]")
        one.press("reopen")
        one.shows("1 open, 1 here", "milk")
