"""A crawler: connections that wait for the network, tasks that read the pages on every core, and back-pressure.

    parallel-actors run examples/crawler.py
    parallel-actors run examples/crawler.py --pages 2000 --connections 50

    main -> a supervisor
      site         what is crawled: a web server in a process of its own, on loopback
      frontier     which pages are known, and which are still to be fetched
      jobs         a TaskSupervisor: each page is read by a task, on whatever core has time
      connections  a supervisor of the crawler's connections

Nothing here can pile up. A connection asks the frontier for an address when it has time for it, and for the next one
when its page has been read. So pages in memory are never more than connections, however fast the network is; what
waits is addresses. With `--delay` the pages take their time, and more connections help; without, it's the cores.

The site is as sites are: some pages fail at first (they are asked for again), some are missing, and over one the
reading crashes, which costs that page only. A connection that dies gives its page back: the frontier watches who has
one. In the end it checks what was found against what the site has.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from html.parser import HTMLParser

import aiohttp
from aiohttp import web

import parallel_actors as pa

WORDS = ["actor", "link", "mailbox", "monitor", "node", "process", "queue", "scheduler", "supervisor", "timer"]
PAGE_WORDS = 400
TRIES = 3
MISSING = "/missing"
MALFORMED = "/page/5"


# --- the site ---------------------------------------------------------------------------------------------------------


def links_of(number: int, pages: int) -> list[str]:
    """What page `number` links to: two that only it leads to, one by chance, and sometimes one that isn't there."""
    found = [n for n in (2 * number + 1, 2 * number + 2) if n < pages]
    found.append(random.Random(number).randrange(pages))
    return [f"/page/{n}" for n in found] + [MISSING] * (number % 7 == 0)


def words_of(number: int) -> list[str]:
    return random.Random(-number).choices(WORDS, k=PAGE_WORDS)


class Site(pa.Actor):
    """A web server on loopback; its address is `url`."""

    def __init__(self, pages: int, delay: float) -> None:
        self.pages = pages
        self.delay = delay
        self.failed_once: set[int] = set()
        self.runner: web.AppRunner | None = None
        self.address = ""

    @pa.call
    async def url(self) -> str:
        if self.runner is None:
            app = web.Application()
            app.router.add_get("/page/{number:[0-9]+}", self.page)
            self.runner = web.AppRunner(app, access_log=None)
            await self.runner.setup()
            await web.TCPSite(self.runner, "127.0.0.1", 0).start()
            host, port = self.runner.addresses[0]
            self.address = f"http://{host}:{port}"
        return self.address

    async def page(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        await asyncio.sleep(self.delay)
        if number >= self.pages:
            raise web.HTTPNotFound
        if number % 11 == 10 and number not in self.failed_once:
            self.failed_once.add(number)
            raise web.HTTPServiceUnavailable
        if f"/page/{number}" == MALFORMED:
            return web.Response(text="no page at all")
        links = "".join(f'<a href="{link}">more</a>\n' for link in links_of(number, self.pages))
        text = f"<html><title>{number}</title>{links}<p>{' '.join(words_of(number))}</p></html>"
        return web.Response(text=text, content_type="text/html")


# --- the frontier -----------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """What the crawl has come to."""

    pages: int = 0
    words: Counter[str] = field(default_factory=Counter[str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    longest: int = 0  # most addresses that waited at one time


class Frontier(pa.Actor):
    """Deals out addresses, each once, to the connections that ask; knows when there is nothing left to do."""

    def __init__(self, first: str) -> None:
        self.found = Found()
        self.tries = Counter([first])
        self.waiting = deque([first])
        self.asking: deque[tuple[pa.Pid, pa.ReplyTo[str]]] = deque()
        self.out: dict[pa.Pid, tuple[str, pa.Ref]] = {}  # who has which address
        self.done: list[pa.ReplyTo[Found]] = []

    @pa.call_later
    def next(self, to: pa.ReplyTo[str], connection: pa.Pid) -> None:
        """An address to fetch, as soon as there is one."""
        self.asking.append((connection, to))
        self.deal()

    @pa.call
    def read(self, connection: pa.Pid, links: list[str], words: Counter[str]) -> None:
        """The connection's page has been read."""
        self.give_back(connection)
        self.found.pages += 1
        self.found.words += words
        for link in links:
            if link not in self.tries:
                self.tries[link] = 1
                self.waiting.append(link)
        self.deal()

    @pa.call
    def failed(self, connection: pa.Pid, why: str, again: bool) -> None:
        """The connection's page could not be fetched, or not be read."""
        self.retry(self.give_back(connection), why, again)

    @pa.info(pa.Down)
    def connection_died(self, down: pa.Down) -> None:
        address, _ = self.out.pop(down.pid)
        self.retry(address, f"the connection died: {down.reason}", True)

    @pa.call_later
    def everything(self, to: pa.ReplyTo[Found]) -> None:
        """What was found, once there is nothing left to fetch."""
        self.done.append(to)
        self.deal()

    def give_back(self, connection: pa.Pid) -> str:
        address, watch = self.out.pop(connection)
        pa.demonitor(watch, flush=True)
        return address

    def retry(self, address: str, why: str, again: bool) -> None:
        if again and self.tries[address] < TRIES:
            self.tries[address] += 1
            self.waiting.append(address)
        else:
            self.found.failed[address] = why
        self.deal()

    def deal(self) -> None:
        self.found.longest = max(self.found.longest, len(self.waiting))
        while self.waiting and self.asking:
            connection, to = self.asking.popleft()
            address = self.waiting.popleft()
            self.out[connection] = address, pa.monitor(connection)
            to.reply(address)
        if not self.waiting and not self.out:
            for each in self.done:
                each.reply(self.found)
            self.done.clear()


# --- the connections --------------------------------------------------------------------------------------------------


async def connection() -> None:
    """Fetches one page after the other, for as long as it lives."""
    frontier = pa.ref(Frontier, "frontier")
    site = await pa.ref(Site, "site").url.aio()
    me = pa.self_()
    async with aiohttp.ClientSession(site, timeout=aiohttp.ClientTimeout(total=30)) as session:
        while True:
            address = await frontier.next.options(timeout=None).aio(me)
            try:
                async with session.get(address, raise_for_status=True) as response:
                    page = await response.text()
                links, words = await pa.TaskSupervisor.async_nolink("jobs", read, page)
            except aiohttp.ClientResponseError as error:
                await frontier.failed.aio(me, f"status {error.status}", again=error.status >= 500)
            except (aiohttp.ClientError, TimeoutError) as error:
                await frontier.failed.aio(me, repr(error), again=True)
            except pa.RemoteError as error:
                await frontier.failed.aio(me, f"can't be read: {error.reason.text}", again=False)
            except pa.NodeDown as error:
                await frontier.failed.aio(me, f"can't be read: {error}", again=True)
            else:
                await frontier.read.aio(me, links, words)


class Reader(HTMLParser):
    """Links and words of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.words: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]

    def handle_data(self, data: str) -> None:
        self.words.update(re.findall(r"\w+", data.lower()))


def read(page: str) -> tuple[list[str], Counter[str]]:
    """Runs as a task: this is what keeps the cores busy."""
    if "<html" not in page:
        raise ValueError(f"expected a page of HTML, got {page[:20]!r}")
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader.links, reader.words


# --- the program ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="crawler.py")
    parser.add_argument("--pages", type=int, default=500, help="of the site [500]")
    parser.add_argument("--connections", type=int, default=16, help="pages under way at once [16]")
    parser.add_argument("--delay", type=float, default=0.0, help="of each page of the site, seconds [0]")
    options = parser.parse_args()
    if options.pages < 1 or options.connections < 1 or options.delay < 0:
        parser.error("expected at least one page, one connection and no negative delay")

    connections = [pa.child(connection, id=i) for i in range(options.connections)]
    pa.Supervisor.start_link(
        [
            pa.child(Site, options.pages, options.delay, name="site"),
            pa.child(Frontier, "/page/0", name="frontier"),
            pa.child(pa.TaskSupervisor, name="jobs"),
            pa.child(pa.Supervisor, connections, max_restarts=options.connections, id="connections"),
        ],
        strategy="rest_for_one",
    )
    began = time.monotonic()
    found = pa.ref(Frontier, "frontier").everything.options(timeout=None)()
    took = time.monotonic() - began

    for address, why in sorted(found.failed.items()):
        print(f"{address}: {why}")
    print(f"{found.pages} pages in {took:.2f} s, {found.pages / took:.0f} a second; ", end="")
    print(f"at most {options.connections} under way and {found.longest} addresses waiting")
    print("most frequent:", ", ".join(f"{word} ({count})" for word, count in found.words.most_common(3)))
    check(found, options.pages)


def check(found: Found, pages: int) -> None:
    """Leave with 1 if what was found isn't what the site has."""
    readable = reachable(pages) - {int(MALFORMED.removeprefix("/page/"))}
    expected = Counter(word for number in readable for word in words_of(number))
    if found.pages != len(readable) or any(found.words[word] != count for word, count in expected.items()):
        sys.exit(f"expected {len(readable)} pages with {expected.total()} words: not all was found")


def reachable(pages: int) -> set[int]:
    """The pages that a crawl can know of: those behind the malformed one only by other links."""
    known, queue = {0}, deque([0])
    while queue:
        number = queue.popleft()
        if f"/page/{number}" == MALFORMED:
            continue
        for link in links_of(number, pages):
            if link != MISSING and (other := int(link.removeprefix("/page/"))) not in known:
                known.add(other)
                queue.append(other)
    return known
