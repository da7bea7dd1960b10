"""Work that hasn't begun is taken by an idle worker, also from one that sits in a native call (S9.7).

The owner of the work is always worker 0; it spawns, and then sits in a call that ends when the test says so. Who has
taken a process is asked of the process itself.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from parallel_actors.gen_server import boot
from parallel_actors.workers.preempt import TICK_SIGNAL
from parallel_actors.workers.scheduler import current_scheduler
from puppets import GUEST, WAIT, Puppet, get, mail, obey, place, puppet, take

WORKERS = 3
gils = pytest.mark.parametrize("gil", [True, False], ids=["with the GIL", "without the GIL"])
others = pytest.mark.parametrize("other", [GUEST, 0, 1, 2])


@pytest.fixture(scope="module")
def shared_node() -> Iterator[pa.ActorSystem]:
    """The system behind `node`, of three workers: home, thief, and somebody else."""
    with pa.ActorSystem(workers=WORKERS, max_reports=10**6) as system:
        yield system


class Owner:
    """A process of worker 0 that spawns something, and then sits in a native call until it is let go.

    with Owner(tmp_path, spawn, *args) as owner:
        ...                     # it sits
    owner.spawned               # what `spawn(*args)` has returned
    """

    def __init__(self, folder: Path, spawn: Callable[..., Any], *args: Any, gil: bool = False) -> None:
        self.fifo = folder / f"owner-{len(list(folder.iterdir()))}"
        os.mkfifo(self.fifo)
        self.puppet = puppet(0)
        self.puppet.tell(self.run, pa.self_(), str(self.fifo), gil, spawn, args)
        self.spawned: Any = None

    @staticmethod
    def run(test: pa.Pid, fifo: str, gil: bool, spawn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        # Neither end of it blocks: the reader has it open for writing, too.
        fd = os.open(fifo, os.O_RDWR)
        # As in a call that handles signals by itself: a tick would interrupt this one, or cut it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [TICK_SIGNAL])
        try:
            pa.send(test, ("sits", spawn(*args)))
            library = ctypes.PyDLL(None) if gil else ctypes.CDLL(None)
            assert library.read(fd, ctypes.create_string_buffer(1), 1) == 1
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(fd)
        pa.send(test, "let go")

    def __enter__(self) -> Owner:
        self.spawned = pa.receive(("sits", pa.ANY), timeout=WAIT)[1]
        return self

    def __exit__(self, *_: object) -> None:
        fd = os.open(self.fifo, os.O_RDWR)
        os.write(fd, b"x")
        assert pa.receive("let go", timeout=WAIT) == "let go"
        os.close(fd)


def here(test: pa.Pid, word: Any = None) -> None:
    """What is stolen: it says where it runs."""
    pa.send(test, ("ran", word, pa.worker_index(), pa.self_()))


def ran(count: int) -> list[tuple[Any, int, pa.Pid]]:
    """What `count` of them have said, in the order of their words."""
    found = [pa.receive(("ran", pa.ANY, pa.ANY, pa.ANY), timeout=WAIT)[1:] for _ in range(count)]
    return sorted(found, key=repr)


def nobody_ran() -> bool:
    return pa.receive(("ran", pa.ANY, pa.ANY, pa.ANY), timeout=0, default=None) is None


# --- what is taken ----------------------------------------------------------------------------------------------------


def spawn_all(function: Callable[..., Any], *args: Any) -> list[pa.Pid]:
    return [
        pa.spawn(function, *args),
        pa.spawn_link(function, *args),
        pa.spawn_monitor(function, *args)[0],
        pa.options(name="named", label="labelled", priority="low").spawn(function, *args),
    ]


@contract("S9.7", partly=True)
@gils
def test_what_has_not_begun_is_taken(node: pa.ActorSystem, tmp_path: Path, gil: bool) -> None:
    with Owner(tmp_path, spawn_all, here, pa.self_(), gil=gil) as owner:
        found = ran(4)  # while it sits
    assert {worker for _, worker, _ in found} <= {1, 2}
    assert {pid for _, _, pid in found} == set(owner.spawned)
    eventually(lambda: not any(map(pa.is_alive, owner.spawned)), "they have ended")
    assert nobody_ran()


def spawn_tasks(test: pa.Pid) -> list[pa.Pid]:
    return [pa.Task.async_(tell_and_give, test, number).pid for number in range(3)]


def tell_and_give(test: pa.Pid, number: int) -> int:
    here(test, (number, list(pa.callers())))
    return number * number


@contract("S8.5", "S9.7", partly=True)
@gils
def test_tasks_are_taken(node: pa.ActorSystem, tmp_path: Path, gil: bool) -> None:
    with Owner(tmp_path, spawn_tasks, pa.self_(), gil=gil) as owner:
        found = ran(3)
    assert [word for word, _, _ in found] == [(number, [owner.puppet.pid]) for number in range(3)]
    assert {worker for _, worker, _ in found} <= {1, 2}


def await_tasks(test: pa.Pid, fifo: str) -> list[Any]:
    items = [(test, fifo, number) for number in range(WORKERS)]
    return list(pa.Task.async_stream(sit_as_item, items, max_concurrency=WORKERS, timeout=None))


def sit_as_item(item: tuple[pa.Pid, str, int]) -> int:
    test, fifo, number = item
    fd = os.open(fifo, os.O_RDWR)  # before it says so: what is written to a pipe that nobody has open is lost
    here(test, number)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [TICK_SIGNAL])
    try:
        os.read(fd, 1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(fd)
    return number * number


@contract("S8.5", "S9.7", partly=True)
def test_items_of_a_stream_are_taken(node: pa.ActorSystem, tmp_path: Path) -> None:
    # Each holds its worker: without thieves the second would not begin. But on a busy machine a tick may come before an
    # item sits, and its worker goes on with the next one: then it isn't told whether a thief was at hand.
    fifo = tmp_path / "items"
    os.mkfifo(fifo)
    owner = puppet(0)
    for _ in range(20):
        fd = os.open(fifo, os.O_RDWR)
        result = pa.options(worker=1).spawn_monitor(tell, pa.self_(), owner, str(fifo))
        workers = {worker for _, worker, _ in ran(2)}
        os.write(fd, b"x" * WORKERS)
        ran(WORKERS - 2)
        values = get()
        os.close(fd)
        assert [getattr(value, "value", value) for value in values] == [n * n for n in range(WORKERS)]
        assert Puppet.reason_of(result[1]) == "normal"
        if len(workers) == 2:
            return
    pytest.fail("no item was taken in 20 streams")


def tell(test: pa.Pid, owner: Puppet, fifo: str) -> None:
    pa.send(test, owner.do(await_tasks, test, fifo))


def spawn_kinds(test: pa.Pid) -> list[pa.Pid]:
    held = {"a": [1]}

    def closure() -> None:
        here(test, ("closure", held))

    async def coroutine() -> None:
        await pa.asleep(0)
        here(test, ("async", held))

    return [
        pa.spawn(closure),
        pa.spawn(lambda: here(test, ("lambda", held))),
        pa.spawn(functools.partial(here, test), word=("partial", held)),
        pa.spawn(coroutine),
    ]


@contract("S1.5", "S1.6", "S9.7", partly=True)
def test_closures_and_coroutines_are_taken(node: pa.ActorSystem, tmp_path: Path) -> None:
    with Owner(tmp_path, spawn_kinds, pa.self_()):
        found = ran(4)
    assert [word for word, _, _ in found] == [(kind, {"a": [1]}) for kind in ("async", "closure", "lambda", "partial")]
    assert {worker for _, worker, _ in found} <= {1, 2}


@contract("S1.5", "S9.7", partly=True)
def test_functions_of_main_are_taken(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        textwrap.dedent("""
        import ctypes, os, signal
        import parallel_actors as pa
        from parallel_actors.workers.preempt import TICK_SIGNAL

        FACTOR = 7

        def work(to, number):
            pa.send(to, (number * FACTOR, pa.worker_index()))

        def own(to, fd):
            for number in range(3):
                pa.spawn(work, to, number)
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [TICK_SIGNAL])
            ctypes.PyDLL(None).read(fd, ctypes.create_string_buffer(1), 1)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            pa.send(to, "over")

        def own_by_name(to, name):
            own(to, os.open(name, os.O_RDWR))

        with pa.ActorSystem(workers=2):
            os.mkfifo("gate")
            pa.options(worker=0).spawn(own_by_name, pa.self_(), os.path.abspath("gate"))
            print(sorted(pa.receive(timeout=20) for _ in range(3)))
            fd = os.open("gate", os.O_RDWR)
            os.write(fd, b"x")
            print(pa.receive(timeout=20))
        """)
    )
    done = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines() == ["[(0, 1), (7, 1), (14, 1)]", "over"], done.stderr


# --- what stays -------------------------------------------------------------------------------------------------------


def spawn_those_that_stay(test: pa.Pid) -> list[pa.Pid]:
    return [
        pa.options(worker=0).spawn(here, test, "worker="),
        pa.spawn(here, test, "x" * 70_000),
        pa.options(label=("no", "text")).spawn(here, test, "label"),  # type: ignore[arg-type]
        pa.spawn(here, test, "taken"),
    ]


@contract("S9.7", partly=True)
@gils
def test_what_has_a_place_or_is_large_stays(node: pa.ActorSystem, tmp_path: Path, gil: bool) -> None:
    with Owner(tmp_path, spawn_those_that_stay, pa.self_(), gil=gil):
        ((word, worker, _),) = ran(1)
        assert word == "taken"
        assert worker in (1, 2)
        assert nobody_ran()
    assert [(word[:6], worker) for word, worker, _ in ran(3)] == [("label", 0), ("worker", 0), ("xxxxxx", 0)]


@contract("S9.7", partly=True)
def test_what_has_begun_is_never_taken(node: pa.ActorSystem, tmp_path: Path) -> None:
    begun = puppet(0)
    hands = [Puppet(pid) for pid in begun.do(spawn_puppets, 20)]
    for hand in hands:
        hand.do(pa.self_)
    places = [hand.do(pa.worker_index) for hand in hands]
    with Owner(tmp_path, spawn_all, here, pa.self_()):
        ran(4)
    assert [hand.do(pa.worker_index) for hand in hands] == places


def spawn_puppets(count: int) -> list[pa.Pid]:
    return [pa.spawn(obey) for _ in range(count)]


READY, CLAIMED, BEGUN = 1, 2, 3


def take_by_hand(thief: int, stage: int) -> None:
    """Do what a thief does to the one slot in which worker 0 offers something, up to a stage, and no further."""
    scheduler = current_scheduler()
    assert scheduler is not None
    incarnation, _ = scheduler.segment.slot(thief)
    with mmap.mmap(scheduler.segment.fd, 0) as memory:
        slots, steals = (struct.unpack_from("=Q", memory, at)[0] for at in (32, 72))
        ((at, word),) = [
            (at, word)
            for at in range(steals, steals + 64 * 65536, 65536)
            if (word := struct.unpack_from("=Q", memory, at)[0]) & 0xFF == READY
        ]
        struct.pack_into("=Q", memory, at, word >> 40 << 40 | incarnation << 24 | thief << 8 | stage)
        struct.pack_into("=Q", memory, slots + 768, 0)


@contract("S9.7", partly=True)
@pytest.mark.parametrize("stage", [CLAIMED, BEGUN], ids=["before it begins", "before anybody knows that it began"])
def test_a_thief_dies_with_work_in_its_hands(actor_system: pa.ActorSystem, tmp_path: Path, stage: int) -> None:
    """What had not begun runs, once; what had begun is dead, and isn't run again."""
    thief = psutil.Process(actor_system.worker_pids[1])
    thief.suspend()
    with Owner(tmp_path, pa.spawn_monitor, here, pa.self_()) as owner:
        take_by_hand(1, stage)
        thief.kill()
        eventually(lambda: actor_system.worker_pids[1] not in (0, thief.pid), "the thief is replaced")
    pid, watch = owner.spawned
    if stage == CLAIMED:
        assert owner.puppet.do(next_down) == pa.Down(watch, pid, "normal")
        assert [who for _, _, who in ran(1)] == [pid]
    else:
        assert owner.puppet.do(next_down) == pa.Down(watch, pid, pa.WorkerDown(1, signal.SIGKILL))
    assert nobody_ran()


def next_down() -> pa.Down:
    return pa.receive(pa.Down, timeout=WAIT)


# --- a process that was taken -----------------------------------------------------------------------------------------


def hello(test: pa.Pid) -> None:
    here(test)
    obey()


def spawn_hello(test: pa.Pid, how: str) -> Any:
    match how:
        case "link":
            pa.trap_exit()
            return pa.spawn_link(hello, test), None
        case "monitor":
            return pa.spawn_monitor(hello, test)
        case "named":
            return pa.options(name="taken", label="a label", priority="high").spawn(hello, test), None
        case _:
            return pa.spawn(hello, test), None


def stolen(folder: Path, how: str = "plain") -> tuple[Puppet, Owner]:
    """A puppet of worker 0's that runs elsewhere, and who has spawned it."""
    with Owner(folder, spawn_hello, pa.self_(), how) as owner:
        ((_, worker, pid),) = ran(1)
    assert worker != 0
    assert pid == owner.spawned[0]
    assert pid.worker == 0
    return Puppet(pid), owner


@contract("S1.12", "S9.7", partly=True)
@others
def test_what_is_told_of_a_stolen_process(node: pa.ActorSystem, tmp_path: Path, other: int) -> None:
    taken, owner = stolen(tmp_path, "named")
    hand = place(other)
    there = taken.do(pa.worker_index)
    info = hand.do(pa.process_info, taken.pid)
    assert info["worker"] == there
    assert info["registered_name"] == "taken"
    assert info["label"] == "a label"
    assert info["priority"] == "high"
    assert info["parent"] == owner.puppet.pid
    assert info["ancestors"][0] == owner.puppet.pid
    assert hand.do(pa.whereis, "taken") == taken.pid
    assert hand.do(pa.is_alive, taken.pid)
    assert taken.pid in hand.do(pa.processes)
    assert hand.do(pa.processes).count(taken.pid) == 1
    taken.do(pa.set_label, "another")
    taken.do(put, "key", 1)
    taken.do(pa.trap_exit)
    info = hand.do(pa.process_info, taken.pid)
    assert info["label"] == "another"
    assert info["dictionary"]["key"] == 1
    assert info["trap_exit"]
    assert taken.end("over") == "over"
    assert not hand.do(pa.is_alive, taken.pid)
    assert hand.do(pa.whereis, "taken") is None
    assert taken.pid not in hand.do(pa.processes)


def put(key: str, value: Any) -> None:
    pa.process_dict()[key] = value


@contract("S4.1", "S9.7", partly=True)
@others
@pytest.mark.parametrize("linker", ["taken", "other"])
def test_links_of_a_stolen_process(node: pa.ActorSystem, tmp_path: Path, other: int, linker: str) -> None:
    taken, _ = stolen(tmp_path)
    hand = place(other)
    hand.do(pa.trap_exit)
    for _ in range(3):
        if linker == "taken":
            taken.do(pa.link, hand.pid)
        else:
            hand.do(pa.link, taken.pid)
        assert taken.do(links_of) == [hand.pid]
        if linker == "taken":
            hand.do(pa.unlink, taken.pid)
        else:
            taken.do(pa.unlink, hand.pid)
        assert taken.do(links_of) == hand.do(links_of) == []
    taken.do(pa.link, hand.pid)
    taken.tell(pa.exit, taken.pid, "fell")
    assert hand.do(get) == pa.Exit(taken.pid, "fell")
    hand.do(pa.link, taken.pid)
    assert hand.do(get) == pa.Exit(taken.pid, "noproc")
    pa.trap_exit(False)
    assert hand.do(mail) == []


def links_of() -> list[pa.Pid]:
    found: list[pa.Pid] = pa.process_info(pa.self_(), "links")
    return found


@contract("S4.1", "S4.3", "S9.7", partly=True)
@pytest.mark.parametrize("how", ["link", "monitor"])
@pytest.mark.parametrize("reason", ["normal", "fell", "kill"])
def test_the_link_and_the_monitor_of_its_spawn(node: pa.ActorSystem, tmp_path: Path, how: str, reason: str) -> None:
    taken, owner = stolen(tmp_path, how)
    if reason == "kill":
        pa.exit(taken.pid, "kill")
        reason = "killed"
    else:
        taken.end(reason)
    if how == "link":
        assert owner.puppet.do(get) == pa.Exit(taken.pid, reason)
    else:
        assert owner.puppet.do(get) == pa.Down(owner.spawned[1], taken.pid, reason)
    assert owner.puppet.do(mail) == []


@contract("S4.3", "S9.7", partly=True)
@others
def test_monitors_of_a_stolen_process(node: pa.ActorSystem, tmp_path: Path, other: int) -> None:
    taken, _ = stolen(tmp_path)
    hand, target = place(other), puppet((other + 1) % 2)
    refs = [hand.do(pa.monitor, taken.pid) for _ in range(3)]
    own = [taken.do(pa.monitor, target.pid) for _ in range(3)]
    hand.do(pa.demonitor, refs[1])
    taken.do(pa.demonitor, own[1])
    target.end("gone")
    assert taken.do(take, 2) == [pa.Down(ref, target.pid, "gone") for ref in (own[0], own[2])]
    late = taken.do(pa.monitor, target.pid)
    assert taken.do(get) == pa.Down(late, target.pid, "noproc")
    taken.tell(pa.exit, taken.pid, "over")
    assert hand.do(take, 2) == [pa.Down(ref, taken.pid, "over") for ref in (refs[0], refs[2])]
    assert hand.do(mail) == []


@contract("S4.1", "S4.3", "S6.2", "S9.7", partly=True)
def test_what_a_stolen_process_spawns_and_calls(node: pa.ActorSystem, tmp_path: Path) -> None:
    taken, _ = stolen(tmp_path)
    there = taken.do(pa.worker_index)
    taken.do(pa.trap_exit)
    for target in (None, 0, 1, 2):
        linked = Puppet(taken.do(spawn_here, "spawn_link", target))
        watched, ref = taken.do(spawn_here, "spawn_monitor", target)
        assert linked.do(pa.ancestors)[0] == taken.pid
        if target is not None:
            assert linked.do(pa.worker_index) == target
        linked.end("one")
        assert taken.do(get) == pa.Exit(linked.pid, "one")
        Puppet(watched).end("two")
        assert taken.do(get) == pa.Down(ref, watched, "two")
        server = taken.do(start_here, target)
        assert taken.do(pa.call, server, "where", timeout=WAIT) == (there if target is None else target)
        pa.call(server, "where", timeout=WAIT)
        answer, error = taken.do(pa.call, server, "an object", timeout=WAIT)
        assert (answer, str(error)) == ("answer", "pickled")
        taken.do(pa.stop, server)
        assert taken.do(get) == pa.Exit(server, "normal")
    child = Puppet(taken.do(spawn_here, "spawn_link", 1))
    watch = child.watch()
    taken.end("with its child")
    assert Puppet.reason_of(watch) == "with its child"


def spawn_here(how: str, target: int | None) -> Any:
    return getattr(pa.options(worker=target), how)(obey)


class Where(pa.GenServer):
    def init(self) -> Any:
        return pa.Ok(None)

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        if request == "an object":
            return pa.Reply(("answer", ValueError("pickled")), state)
        return pa.Reply(pa.worker_index(), state)


def start_here(target: int | None) -> Any:
    return pa.options(worker=target).start_link(Where)


@contract("S1.11", "S4.4", "S5.1", "S9.7", partly=True)
@others
def test_timers_aliases_and_names_of_a_stolen_process(node: pa.ActorSystem, tmp_path: Path, other: int) -> None:
    taken, _ = stolen(tmp_path)
    hand = place(other)
    taken.do(pa.send_after, 0.01, taken.pid, "by itself")
    assert taken.do(get) == "by itself"
    hand.do(pa.send_after, 0.01, taken.pid, "by another")
    assert taken.do(get) == "by another"
    for one, to in ((taken, taken), (taken, hand), (hand, taken)):
        far = one.do(pa.send_after, 1000, to.pid, "never")
        left = taken.do(pa.cancel_timer, far)
        assert left is not None
        assert 900 < left <= 1000
    alias = taken.do(pa.alias)
    hand.do(pa.send, alias, "by alias")
    assert taken.do(get) == "by alias"
    taken.do(pa.unalias, alias)
    hand.do(pa.send, alias, "late")
    hand.do(pa.send, taken.pid, "after it")
    assert taken.do(get) == "after it"
    taken.do(pa.register, "mine", taken.pid)
    hand.do(pa.send, "mine", "by name")
    assert taken.do(get) == "by name"
    hand.do(pa.unregister, "mine")
    hand.do(pa.register, "yours", taken.pid)
    assert taken.do(pa.whereis, "yours") == taken.pid
    with pytest.raises(pa.NameTaken):
        hand.do(pa.register, "third", taken.pid)
    taken.end("over")
    assert hand.do(pa.whereis, "yours") is None
    with pytest.raises(pa.NoProc):
        hand.do(pa.register, "late", taken.pid)


# --- before it knows --------------------------------------------------------------------------------------------------


def spawn_and_send(test: pa.Pid, count: int) -> pa.Pid:
    pid = pa.spawn(collect, test, count)
    for number in range(count // 2):
        pa.send(pid, number)
    return pid


def collect(test: pa.Pid, count: int) -> None:
    here(test)
    pa.send(test, ("collected", [pa.receive(timeout=WAIT) for _ in range(count)]))


@contract("S1.4", "S2.1", "S9.7", partly=True)
def test_mail_from_before_it_began(node: pa.ActorSystem, tmp_path: Path) -> None:
    with Owner(tmp_path, spawn_and_send, pa.self_(), 200) as owner:
        ran(1)
        for number in range(50):  # its owner doesn't know yet that it is gone
            pa.send(owner.spawned, ("guest", number))
        for number in range(50):
            pa.send(owner.spawned, ("guest", 50 + number))
    _, got = pa.receive(("collected", pa.ANY), timeout=WAIT)
    assert [each for each in got if isinstance(each, int)] == list(range(100))
    assert [each[1] for each in got if not isinstance(each, int)] == list(range(100))


def spawn_tied(test: pa.Pid, count: int) -> list[Any]:
    pa.trap_exit()
    found: list[Any] = []
    for _ in range(count):
        pid = pa.spawn(hello, test)
        pa.link(pid)
        found.append((pid, pa.monitor(pid)))
    return found


@contract("S4.1", "S4.3", "S9.7", partly=True)
def test_links_and_monitors_made_before_it_began(node: pa.ActorSystem, tmp_path: Path) -> None:
    # A link or a monitor takes it back before it begins; what was taken already is tied by its owner's news.
    with Owner(tmp_path, spawn_tied, pa.self_(), 6) as owner:
        hand = puppet(1)
        pids = [pid for pid, _ in owner.spawned]
        hand.tell(pa.trap_exit)
        for pid in pids:  # under way while the owner sits
            hand.tell(pa.link, pid)
            hand.tell(pa.monitor, pid)
    ran(6)
    for number, (pid, ref) in enumerate(owner.spawned):
        one = Puppet(pid)
        eventually(lambda: set(one.do(links_of)) == {owner.puppet.pid, hand.pid}, "both are linked to it")  # noqa: B023
        Puppet(pid).end(number)
        got = owner.puppet.do(take, 2)
        assert pa.Exit(pid, number) in got
        assert pa.Down(ref, pid, number) in got
        theirs = hand.do(take, 2)
        assert pa.Exit(pid, number) in theirs
        assert any(isinstance(each, pa.Down) and (each.pid, each.reason) == (pid, number) for each in theirs)
    assert owner.puppet.do(mail) == hand.do(mail) == []


@contract("S1.9", "S4.3", "S9.7", partly=True)
@others
@pytest.mark.parametrize("reason", ["kill", "fell", "normal"])
def test_an_exit_of_a_stolen_process(node: pa.ActorSystem, tmp_path: Path, other: int, reason: str) -> None:
    taken, _ = stolen(tmp_path)
    hand = place(other)
    watch = taken.watch()
    if reason == "normal":
        hand.do(pa.exit, taken.pid, reason)
        assert taken.do(pa.self_) == taken.pid  # does nothing
        taken.do(pa.trap_exit)
        hand.do(pa.exit, taken.pid, reason)
        assert taken.do(get) == pa.Exit(hand.pid, "normal")
        return
    hand.do(pa.exit, taken.pid, reason)
    assert Puppet.reason_of(watch) == ("killed" if reason == "kill" else reason)
    assert not hand.do(pa.is_alive, taken.pid)


@contract("S1.9", "S9.7", partly=True)
def test_a_kill_under_way_while_its_home_sits(node: pa.ActorSystem, tmp_path: Path) -> None:
    with Owner(tmp_path, spawn_hello, pa.self_(), "plain") as owner:
        ran(1)
        pid = owner.spawned[0]
        watch = pa.monitor(pid)
        pa.exit(pid, "kill")
    assert Puppet.reason_of(watch) == "killed"
    assert not pa.is_alive(pid)


# --- what was taken, and moves ----------------------------------------------------------------------------------------


class Server(pa.GenServer):
    """Counts its calls."""

    def init(self, test: pa.Pid) -> Any:
        here(test)
        return pa.Ok(0)

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return pa.Reply((state, pa.worker_index()), state + 1)


def start_unheard(test: pa.Pid) -> pa.Pid:
    """Start a server as `pa.start` does, without the wait."""
    return pa.spawn(boot, Server, (test,), {}, pa.make_ref())


@contract("S9.7", partly=True)
def test_a_server_that_was_taken_moves(node: pa.ActorSystem, tmp_path: Path) -> None:
    """Its home took it for what it was when it was spawned, a function, and refused."""
    with Owner(tmp_path, start_unheard, pa.self_()) as owner:
        ((_, host, taken),) = ran(1)
        assert host != 0
    assert taken == owner.spawned
    assert pa.call(taken, "who") == (0, host)  # its init is over: until then it has a stack
    for number, worker in enumerate((3 - host, host, 0, host), start=1):
        pa.migrate(taken, worker)
        assert pa.call(taken, "who") == (number, worker)


@contract("S9.7", partly=True)
def test_a_function_that_was_taken_stays(node: pa.ActorSystem, tmp_path: Path) -> None:
    with Owner(tmp_path, pa.spawn, obey_from, pa.self_()) as owner:
        ((_, host, pid),) = ran(1)
        assert host != 0
    taken = Puppet(pid)
    for worker in (0, 3 - host):
        with pytest.raises(ValueError, match="one whose body is a function holds a stack"):
            pa.migrate(pid, worker)
    assert taken.do(pa.worker_index) == host
    assert pid == owner.spawned


def obey_from(test: pa.Pid) -> None:
    here(test)
    obey()


@contract("S9.7", partly=True)
@pytest.mark.parametrize("how", ["spawn", "spawn_link", "spawn_monitor"])
def test_a_function_that_was_taken_spawns_many_at_home(node: pa.ActorSystem, tmp_path: Path, how: str) -> None:
    """It waited for ever, for a ring that was full and that nobody looked at again."""
    with Owner(tmp_path, pa.spawn, spawn_at_home, pa.self_(), how):
        ((_, host, _),) = ran(1)
        assert host != 0
    assert pa.receive("built", timeout=WAIT) == "built"


def spawn_at_home(test: pa.Pid, how: str) -> None:
    here(test)
    for _ in range(3000):
        getattr(pa.options(worker=0), how)(int)
    pa.send(test, "built")


@contract("S9.7", partly=True)
def test_a_worker_leaves_that_has_taken_a_server(no_leaks: None, tmp_path: Path) -> None:
    """It waited for the server without end: an application's master, now and then."""
    with pa.ActorSystem(workers=2):
        with Owner(tmp_path, start_unheard, pa.self_()) as owner:
            assert [1] == [host for _, host, _ in ran(1)]
        pa.remove_worker(1, timeout=WAIT)
        assert pa.call(owner.spawned, "who") == (0, 0)
