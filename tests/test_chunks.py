"""The memory of processes that wait on a stack: one range, used again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import parallel_actors as pa
from contract import contract
from leaks import eventually
from parallel_actors.workers import chunks
from puppets import WAIT, park, puppet


def mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def dance(count: int) -> tuple[int, int, int, int]:
    """Start `count` processes that wait on stacks, end them in no order, twice: how mappings and chunks have grown."""
    most, grown, mapped, in_use = 0, 0, mappings(), chunks.in_use()
    for seed in range(2):
        watched = [pa.options(stealable=False).spawn_monitor(park) for _ in range(count)]
        pa.sleep(0)
        while pa.process_info(watched[-1][0], "status") != "waiting":
            pa.sleep(0)
        most = max(most, chunks.in_use() - in_use)
        random.Random(seed).shuffle(watched)
        for pid, _ in watched[: count // 2]:
            pa.exit(pid, "kill")
        grown = mappings() - mapped
        for pid, _ in watched[count // 2 :]:
            pa.exit(pid, "kill")
        for pid, ref in watched:
            pa.receive(pa.Down(ref, pid, pa.ANY), timeout=WAIT)
    return most, grown, mappings() - mapped, chunks.in_use() - in_use


@contract("S1.6", partly=True)
def test_stacks_that_come_and_go_in_no_order_take_no_mapping_each(actor_system: pa.ActorSystem) -> None:
    """Each was a mapping of its own: the kernel allows 65,530 of them."""
    count = 4000
    most, half, after, left = puppet(0).do(dance, count)
    assert most >= count
    assert half < 500
    assert after < 500
    # Idle carriers are kept, but not without end.
    assert left <= 2100


def test_chunks_that_nobody_needs_give_their_pages_back(actor_system: pa.ActorSystem) -> None:
    one = puppet(0)
    one.do(dance, 10)
    before = one.do(resident)
    one.do(dance, 40_000)
    # At the height it was 300 MB. What is left lies in the allocator's free lists, and in 2,048 idle carriers.
    eventually(lambda: one.do(resident) - before < 180 << 20, "the worker has given memory back")


def test_where_addresses_are_limited_everything_stays_as_it_was() -> None:
    program = (
        "import resource, threading\n"
        "from parallel_actors.workers import chunks\n"
        "hard = resource.getrlimit(resource.RLIMIT_AS)[1]\n"
        "resource.setrlimit(resource.RLIMIT_AS, (200 << 20, hard))\n"
        "assert chunks.install() == 0, 'there is no room for a range'\n"
        "resource.setrlimit(resource.RLIMIT_AS, (hard, hard))\n"
        "thread = threading.Thread(target=sum, args=([1],))\nthread.start()\nthread.join()\n"
        "assert chunks.in_use() == 0\n"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True, timeout=120)


def test_a_small_range_is_used_up_and_then_passed_over() -> None:
    program = (
        "import greenlet\nfrom parallel_actors.workers import chunks\n"
        "room = chunks.install(1 << 28)\nassert room == 1 << 28\nassert chunks.install() == 0, 'once'\n"
        "hub = greenlet.getcurrent()\n"
        "def body(): hub.switch()\n"
        "some = [greenlet.greenlet(body) for _ in range(room // 16384 + 100)]\n"
        "for it in some: it.switch()\n"
        "assert chunks.in_use() == room // 16384, chunks.in_use()\n"
        "for it in some: it.switch()\n"
        "assert chunks.in_use() == 0, chunks.in_use()\n"
        "again = [greenlet.greenlet(body) for _ in range(1000)]\n"
        "for it in again: it.switch()\n"
        "assert chunks.in_use() == 1000, chunks.in_use()\n"
        "for it in again: it.switch()\n"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True, timeout=120)
