"""Guests: the main thread, other threads, several systems in one program, none at all (S1.1, S1.13).

No test here uses `node`: it would be the outer system of those that start their own, or want none.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import parallel_actors as pa
from leaks import eventually
from parallel_actors.workers.scheduler import current_scheduler
from puppets import WAIT, ask, echo, park, puppet

contract = pytest.mark.contract


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a thread of its own, to its end."""
    results: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((True, function(*args)))
        except BaseException as error:
            results.put((False, error))

    thread = threading.Thread(target=run)
    thread.start()
    ok, value = results.get(timeout=WAIT)
    thread.join(WAIT)
    assert not thread.is_alive()
    if not ok:
        raise value
    return value


# --- no system --------------------------------------------------------------------------------------------------------

CALLS: list[Callable[[], object]] = [
    pa.self_,
    pa.receive,
    lambda: pa.receive(timeout=0),
    pa.make_ref,
    pa.processes,
    pa.registered,
    pa.alias,
    pa.ancestors,
    pa.process_dict,
    pa.worker_index,
    lambda: pa.spawn(print),
    lambda: pa.sleep(0),
    lambda: pa.whereis("x"),
    lambda: pa.send("x", 1),
    lambda: pa.areceive(),
]


@contract("S1.13", partly=True)
def test_without_a_system_the_text_says_how_to_get_one(no_leaks: None) -> None:
    for call in CALLS:
        with pytest.raises(pa.NotRunning, match="use `with ActorSystem"):
            call()
        with pytest.raises(pa.NotRunning, match="use `with ActorSystem"):
            in_thread(call)


@contract("S1.13", "S9.5", partly=True)
def test_after_a_system_has_ended_it_is_as_before(no_leaks: None) -> None:
    system = pa.ActorSystem(workers=1)
    for use in (system.stop, lambda: None):
        use()
        with pytest.raises(pa.NotRunning, match="expected a running system"):
            system.spawn(print)
        assert not system.running
    with system:
        assert system.running
        with pytest.raises(pa.ActorError, match="make another ActorSystem"):
            system.start()
        assert ask(system.spawn(echo), 1) == 1
    for call in CALLS:
        with pytest.raises(pa.NotRunning):
            call()
    with system:  # the object itself may start again
        assert ask(system.spawn(echo), 2) == 2
    system.stop()


# --- the main thread --------------------------------------------------------------------------------------------------


@contract("S1.1", "S1.7", partly=True)
def test_an_exit_signal_is_raised_in_the_main_thread_at_its_next_call(actor_system: pa.ActorSystem) -> None:
    pid = pa.spawn_link(park)
    pa.exit(pid, "boom")
    with pytest.raises(pa.ProcessExit) as caught:
        pa.receive("never", timeout=WAIT)
    assert caught.value.reason == "boom"
    assert pa.is_alive(pa.self_()), "a thread can't be unwound from outside: it may catch it and go on"
    assert ask(pa.spawn(echo), "goes on") == "goes on"


@contract("S1.1", "S1.9", partly=True)
def test_a_killed_guest_is_dead_and_every_further_call_says_so(no_leaks: None) -> None:
    with pa.ActorSystem(workers=2) as system:
        me = pa.self_()
        watcher = puppet(0)
        ref = watcher.do(pa.monitor, me)
        pa.send(watcher.pid, ("do", me, pa.make_ref(), pa.exit, (me, "kill"), {}))
        for _ in range(3):
            with pytest.raises((pa.ProcessExit, pa.NotRunning)):
                pa.receive("never", timeout=WAIT)
        for call in (lambda: pa.send(watcher.pid, 1), lambda: pa.sleep(0), lambda: pa.spawn(park)):
            with pytest.raises((pa.ProcessExit, pa.NotRunning)):
                call()

        def look() -> Any:
            down = pa.receive(pa.Down, timeout=WAIT)
            return down == pa.Down(ref, me, "killed"), pa.is_alive(me)

        assert system.running
        assert in_thread(watcher.do, look) == (True, False)
    with pa.ActorSystem(workers=1):
        assert ask(pa.spawn(echo), "another one works") == "another one works"


def test_ctrl_c_interrupts_a_waiting_main_thread(actor_system: pa.ActorSystem) -> None:
    pid = pa.spawn(echo)

    def interrupt() -> None:
        eventually(lambda: pa.process_info(actor_system.pid, "status") == "waiting", "the main thread waits")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    for wait in (lambda: pa.receive("never", timeout=WAIT), lambda: pa.sleep(WAIT)):
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            wait()
        thread.join(WAIT)
    assert ask(pid, "the mailbox works on") == "the mailbox works on"


# --- threads ----------------------------------------------------------------------------------------------------------


@contract("S1.13")
def test_a_thread_becomes_a_process_at_its_first_call(actor_system: pa.ActorSystem) -> None:
    main = pa.self_()

    def run() -> tuple[Any, ...]:
        me = pa.self_()
        pid = pa.spawn(echo)
        pa.send(main, "from the thread")
        kind = pa.process_info(me, "kind")
        return me, me == pa.self_(), me in pa.processes(), kind, ask(pid, [1]), pa.ancestors(), pa.worker_index()

    me, same, listed, *rest = in_thread(run)
    assert me != main
    assert same
    assert listed
    assert rest == ["guest", [1], (), None]
    assert pa.receive(timeout=WAIT) == "from the thread"
    assert not pa.is_alive(me)


@contract("S1.13", partly=True)
def test_threads_and_processes_talk(actor_system: pa.ActorSystem) -> None:
    """Each thread has a mailbox of its own; large messages too."""
    sizes = [0, 10, 100_000, 1, 3_000_000, 5]

    def run(n: int) -> list[int]:
        pid = pa.options(worker=n % 2).spawn(echo)
        for size in sizes:
            pa.send(pid, (pa.self_(), bytes([n]) * size))
        return [message.count(n) for message in (pa.receive(bytes, timeout=WAIT) for _ in sizes)]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(run, range(1, 7))) == [sizes] * 6


@contract("S1.13")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("after", ["nothing", "messages", "an exception"])
def test_a_threads_end_is_a_normal_end(actor_system: pa.ActorSystem, after: str) -> None:
    started: queue.SimpleQueue[pa.Pid] = queue.SimpleQueue()
    main = pa.self_()

    def run() -> None:
        started.put(pa.self_())
        pa.receive("go", timeout=WAIT)
        if after == "messages":
            for i in range(1000):
                pa.send(main, (i, bytes(1000)))
        if after == "an exception":
            raise SystemExit

    thread = threading.Thread(target=run)
    thread.start()
    pid = started.get(timeout=WAIT)
    ref = pa.monitor(pid)
    pa.send(pid, "go")
    if after == "messages":
        assert [pa.receive(tuple, timeout=WAIT)[0] for _ in range(1000)] == list(range(1000))
    assert pa.receive(timeout=WAIT) == pa.Down(ref, pid, "normal")
    thread.join(WAIT)
    assert not pa.is_alive(pid)
    pa.send(pid, "nobody there")
    assert pa.process_info(pid) is None
    again = pa.monitor(pid)
    assert pa.receive(timeout=WAIT) == pa.Down(again, pid, "noproc")


@contract("S1.13", "S4.1", partly=True)
def test_what_a_thread_was_linked_to_sees_a_normal_exit(actor_system: pa.ActorSystem) -> None:
    trapping, plain = puppet(0), puppet(1)
    trapping.do(pa.trap_exit)

    def run() -> pa.Pid:
        pa.link(trapping.pid)
        pa.link(plain.pid)
        return pa.self_()

    pid = in_thread(run)
    assert trapping.do(pa.receive, pa.Exit) == pa.Exit(pid, "normal")
    trapping.do(pa.trap_exit, False)
    assert plain.alive


@contract("S1.13")
def test_a_threads_slot_is_free_after_its_end(no_leaks: None) -> None:
    """Many more threads than slots, one after the other, in a hurry: each is a new process."""
    with pa.ActorSystem(workers=2, guests=3):
        pid = pa.spawn(echo)
        pids = [in_thread(lambda i=i: (ask(pid, i) == i, pa.self_())) for i in range(12)]
        assert all(right for right, _ in pids)
        assert len({pid for _, pid in pids}) == 12
        assert ask(pid, "still there") == "still there"


@contract("S1.13", partly=True)
def test_one_thread_too_many_says_what_to_change(no_leaks: None) -> None:
    leave = threading.Event()
    with pa.ActorSystem(workers=1, guests=2):
        joined: queue.SimpleQueue[pa.Pid] = queue.SimpleQueue()

        def run() -> None:
            joined.put(pa.self_())
            leave.wait(WAIT)

        thread = threading.Thread(target=run)
        thread.start()
        joined.get(timeout=WAIT)
        with pytest.raises(pa.NotRunning, match=r"at most 2 threads .* ActorSystem\(guests=\.\.\.\)"):
            in_thread(pa.self_)
        assert ask(pa.spawn(echo), "harmless") == "harmless"
        leave.set()
        thread.join(WAIT)
        assert isinstance(in_thread(pa.self_), pa.Pid)


@contract("S1.13", partly=True)
def test_threads_that_user_code_starts_in_a_worker(actor_system: pa.ActorSystem) -> None:
    def body(to: pa.Pid) -> None:
        def run() -> None:
            pid = pa.spawn(echo)
            pa.send(to, ("thread", pa.process_info(pa.self_(), "kind"), ask(pid, 1)))

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            pa.sleep(0.001)
        pa.send(to, ("done", pa.worker_index()))

    pa.options(worker=1).spawn(body, pa.self_())
    got = [pa.receive(timeout=WAIT) for _ in range(3)]  # from three processes: in any order
    assert sorted(got) == [("done", 1), ("thread", "guest", 1), ("thread", "guest", 1)]


@contract("S1.13", partly=True)
def test_a_thread_that_waits_when_the_system_ends(no_leaks: None) -> None:
    results: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run() -> None:
        for _ in range(3):
            try:
                pa.receive("never")
            except pa.NotRunning as error:
                results.put(str(error))

    with pa.ActorSystem(workers=1) as system:
        thread = threading.Thread(target=run)
        thread.start()
        eventually(lambda: len(pa.processes()) == 2, "the thread is a guest")
        assert system.running
    assert "ended" in results.get(timeout=WAIT)
    assert [type(results.get(timeout=WAIT)) for _ in range(2)] == [str, str], "so does whatever it calls later"
    thread.join(WAIT)


@contract("S1.13")
def test_a_pool_of_threads_outlives_systems(no_leaks: None) -> None:
    """As that of a web framework does: each thread is a guest of the system that is current when it calls."""
    with ThreadPoolExecutor(1) as pool:
        pids = set()
        for i in range(3):
            with pa.ActorSystem(workers=1):
                pid = pa.spawn(echo)
                assert pool.submit(ask, pid, i).result(WAIT) == i
                thread_pid = pool.submit(pa.self_).result(WAIT)
                assert pa.is_alive(thread_pid)
                pids.add(thread_pid)
            with pytest.raises(pa.NotRunning):
                pool.submit(pa.self_).result(WAIT)
        assert len(pids) == 3


@contract("S1.13")
@pytest.mark.parametrize("how", ["monitor", "alias"])
def test_a_thread_between_a_request_and_its_answer_is_told_that_the_system_has_ended(how: str, no_leaks: None) -> None:
    """It became a guest of the other system and waited there: remove_worker() hung while its system stopped."""
    with ThreadPoolExecutor(1) as pool, pa.ActorSystem(workers=1):
        with pa.ActorSystem(workers=1):
            pid = pa.spawn(echo)
            promise = pa.alias if how == "alias" else partial(pa.monitor, pid)
            ref = pool.submit(promise).result(WAIT)
        with pytest.raises(pa.NotRunning):
            pool.submit(pa.receive, (ref, pa.ANY), pa.Down(ref, pa.ANY, pa.ANY), timeout=WAIT).result(2 * WAIT)
        assert pool.submit(pa.self_).result(WAIT) in pa.processes()


@contract("S9.5", partly=True)
def test_a_thread_that_outlives_its_system_keeps_nothing_of_it_in_the_end(no_leaks: None) -> None:
    """What it held goes when it ends, or becomes a guest of the next system: the fixture looks for what is left."""
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            with pa.ActorSystem(workers=1):
                for _ in range(4):
                    pool.submit(pa.self_).result(WAIT)


# --- several systems --------------------------------------------------------------------------------------------------


@contract("S1.13", "S9.5", partly=True)
def test_systems_one_after_the_other(no_leaks: None) -> None:
    former: list[weakref.ref[Any]] = []
    for i in range(3):
        with pa.ActorSystem(workers=1 + i % 2):
            assert ask(pa.spawn(echo), i) == i
            former.append(weakref.ref(current_scheduler()))
    gc.collect()
    assert [ref() for ref in former] == [None] * 3, "nothing of them stays in memory"


@contract("S1.13", "S2.3")
def test_nested_systems(no_leaks: None) -> None:
    """The innermost is current; those outside live on, and their pids mean nothing inside."""
    with pa.ActorSystem(workers=1) as outer:
        outer_me, outer_pid = pa.self_(), pa.spawn(echo)
        pa.send(outer_me, "kept for later")
        with pa.ActorSystem(workers=2) as inner:
            assert pa.self_() == inner.pid != outer_me
            assert pa.worker_count() == 2
            assert ask(inner.spawn(echo), 1) == 1
            assert in_thread(lambda: pa.worker_count()) == 2
            assert not pa.is_alive(outer_pid)
            assert pa.process_info(outer_me) is None
            pa.send(outer_pid, (pa.self_(), "to another world"))
            assert pa.receive(timeout=0, default=None) is None
            with pytest.raises(pa.NotRunning, match="expected the innermost system"):
                outer.spawn(echo)
            with pa.ActorSystem(workers=1) as third:
                assert pa.self_() == third.pid
            assert pa.self_() == inner.pid
        assert pa.self_() == outer_me
        assert pa.receive(timeout=0) == "kept for later"
        assert ask(outer_pid, 2) == 2
        assert in_thread(lambda: pa.worker_count()) == 1


@contract("S1.13", partly=True)
def test_a_thread_that_was_a_guest_of_the_inner_system_becomes_one_of_the_outer(no_leaks: None) -> None:
    with ThreadPoolExecutor(1) as pool, pa.ActorSystem(workers=1):
        outer_pid = pa.spawn(echo)
        with pa.ActorSystem(workers=2):
            assert pool.submit(pa.worker_count).result(WAIT) == 2
        assert pool.submit(pa.worker_count).result(WAIT) == 1
        assert pool.submit(ask, outer_pid, "hi").result(WAIT) == "hi"


@contract("S1.13", partly=True)
def test_systems_that_end_in_another_order(no_leaks: None) -> None:
    first, second = pa.ActorSystem(workers=1), pa.ActorSystem(workers=1)
    first.start()
    second.start()
    first.stop()
    assert pa.self_() == second.pid
    assert ask(pa.spawn(echo), 1) == 1
    assert ask(second.spawn(echo), 2) == 2
    assert in_thread(lambda: ask(pa.spawn(echo), 3)) == 3
    second.stop()
    with pytest.raises(pa.NotRunning):
        pa.self_()
    with pytest.raises(pa.NotRunning):
        in_thread(pa.self_)


@contract("S1.13")
def test_a_system_started_in_a_thread(no_leaks: None) -> None:
    def run() -> tuple[Any, ...]:
        with pa.ActorSystem(workers=1) as system:
            return ask(pa.spawn(echo), "in a thread"), pa.self_() == system.pid

    assert in_thread(run) == ("in a thread", True)
    with pytest.raises(pa.NotRunning):
        pa.self_()


@contract("S1.13", partly=True)
def test_systems_of_several_threads_at_once(no_leaks: None) -> None:
    """They overlap in any order; each thread that started one is in its own."""
    gate = threading.Barrier(3)

    def run(n: int) -> list[Any]:
        with pa.ActorSystem(workers=1) as system:
            gate.wait(WAIT)
            found = [ask(pa.spawn(echo), n) == n, pa.self_() == system.pid]
            gate.wait(WAIT)
            return found

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(run, n) for n in range(2)]
        gate.wait(WAIT)
        assert isinstance(pa.self_(), pa.Pid), "this thread is a guest of the one that started last"
        gate.wait(WAIT)
        assert [future.result(WAIT) for future in futures] == [[True, True]] * 2
    with pytest.raises(pa.NotRunning):
        pa.self_()


@contract("S1.13", partly=True)
def test_only_the_thread_that_started_it_stops_it(no_leaks: None) -> None:
    with pa.ActorSystem(workers=1) as system:
        with pytest.raises(pa.ActorError, match="by the thread that started the system"):
            in_thread(system.stop)
        assert ask(pa.spawn(echo), 1) == 1


def start_inside() -> str:
    try:
        with pa.ActorSystem(workers=1):
            return "started"
    except pa.ActorError as error:
        return str(error)


def start_in_a_thread_inside() -> str:
    """Not a guest yet, and after it became one."""
    found: list[str] = []

    def run() -> None:
        found.append(start_inside())
        pa.self_()
        found.append(start_inside())

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        pa.sleep(0.001)
    assert found[0] == found[1]
    return found[0]


@contract("S1.13")
@pytest.mark.parametrize("start", [start_inside, start_in_a_thread_inside], ids=lambda f: f.__name__)
def test_a_system_inside_a_worker_is_an_error_that_says_so(
    actor_system: pa.ActorSystem, start: Callable[[], str]
) -> None:
    worker = puppet(1)
    assert "inside a worker" in worker.do(start)
    assert worker.do(pa.worker_index) == 1, "nothing has changed"


@contract("S9.3", partly=True)
def test_the_root_dies_under_its_guests(no_leaks: None) -> None:
    """Whatever they do next says that the system is gone, and the block can still be left."""
    with ThreadPoolExecutor(1) as pool:
        with pa.ActorSystem(workers=1) as system:
            pool.submit(pa.self_).result(WAIT)
            waiting = pool.submit(pa.receive, "never")
            os.kill(system.root_pid, signal.SIGKILL)
            with pytest.raises(pa.NotRunning, match="ended"):
                pa.receive("never", timeout=WAIT)
            with pytest.raises(pa.NotRunning, match="ended"):
                waiting.result(WAIT)
            for call in (pa.make_ref, lambda: pa.sleep(0), lambda: pa.spawn(park), lambda: pa.send(pa.self_(), 1)):
                with pytest.raises(pa.NotRunning, match="ended"):
                    call()
                with pytest.raises(pa.NotRunning, match="ended"):
                    pool.submit(call).result(WAIT)
            eventually(lambda: not system.running, "it says so itself")
        with pa.ActorSystem(workers=1):
            assert ask(pa.spawn(echo), "another") == "another"
            assert pool.submit(ask, pa.spawn(echo), "one").result(WAIT) == "one"


# --- one answer at a time ---------------------------------------------------------------------------------------------


class Slow(pa.GenServer):
    """Interrupts who calls it, and answers only when it is told to."""

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        if request == "quick":
            return pa.Reply("quickly")
        os.kill(request, signal.SIGUSR1)
        return pa.NoReply(from_)

    def handle_cast(self, request: Any, state: Any) -> Any:
        pa.reply(state, "slowly")
        return pa.NoReply()


@contract("S6.3", "S1.13", partly=True)
def test_a_call_in_the_middle_of_a_call_is_refused_and_harms_nobody(actor_system: pa.ActorSystem) -> None:
    """Found: a signal's handler that called took the place of the call it interrupted, whose answer was dropped."""
    server = pa.start(Slow)
    assert server is not None
    refused: list[str] = []

    def handler(*_: Any) -> None:
        waits: list[Callable[[], object]] = [
            lambda: pa.call(server, "quick"),
            lambda: pa.start(Slow),
            lambda: pa.process_info(server),
        ]
        for wait in waits:
            with pytest.raises(RuntimeError, match="one answer at a time") as caught:
                wait()
            refused.append(str(caught.value))
        pa.cast(server, "now")

    former = signal.signal(signal.SIGUSR1, handler)
    try:
        assert pa.call(server, os.getpid(), timeout=WAIT) == "slowly"
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert len(refused) == 3
    assert pa.call(server, "quick", timeout=WAIT) == "quickly"
