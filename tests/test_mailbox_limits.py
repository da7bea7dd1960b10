"""Limited mailboxes (S9.8): what becomes of a message that there is no room for, here and across workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from parallel_actors.process import MailboxPolicy
from parallel_actors.workers.scheduler import current_scheduler
from puppets import GUEST, WAIT, mail, place, puppet

# More than is ever under way between two workers before the sender knows that the receiver is full: a ring, and the
# overflow at which it is suspended for that.
PLENTY = 40_000
PLACES = [pytest.param(0, 0, id="local"), pytest.param(0, 1, id="across"), pytest.param(GUEST, 1, id="guest")]
ACROSS = PLACES[1:]


class Keeper:
    """A process with a limited mailbox that takes its mail when it is told to, by an alias: that is never counted."""

    def __init__(self, worker: int, **limits: Any) -> None:
        self.pid = pa.options(worker=worker, **limits).spawn(keep, pa.self_())
        self.alias: pa.Ref = pa.receive(("keeper", self.pid, pa.ANY), timeout=WAIT)[2]

    def take(self, count: int) -> list[Any]:
        """The next `count` messages of its mailbox; what doesn't come is "nothing"."""
        pa.send(self.alias, ("take", count))
        return list(pa.receive(("taken", self.pid, pa.ANY), timeout=WAIT)[2])

    def all(self) -> list[Any]:
        """What it has."""
        pa.send(self.alias, ("all", 0))
        return list(pa.receive(("taken", self.pid, pa.ANY), timeout=WAIT)[2])

    def until_empty(self) -> None:
        eventually(lambda: self.all() == [] and self.info("count") == 0, "nothing is left, nor under way")

    def info(self, item: str) -> Any:
        return pa.process_info(self.pid, "mailbox")[item]

    def counters(self) -> tuple[int, int, int]:
        found = pa.process_info(self.pid, "mailbox")
        return found["dropped"], found["refused"], found["suspended"]


def is_order(message: object) -> bool:
    return type(message) is tuple and message[0] in ("take", "all")


def is_mail(message: object) -> bool:
    return not is_order(message)


def keep(starter: pa.Pid) -> None:
    pa.trap_exit(True)
    pa.send(starter, ("keeper", pa.self_(), pa.alias()))
    while True:
        what, count = pa.receive(is_order)
        taken: list[Any] = []
        if what == "all":
            while (message := pa.receive(is_mail, timeout=0, default=None)) is not None:
                taken.append(message)
        else:
            taken += [pa.receive(is_mail, timeout=WAIT, default="nothing") for _ in range(count)]
        pa.send(starter, ("taken", pa.self_(), taken))


def numbers(to: pa.Pid, count: int, starter: pa.Pid, begin: int = 0) -> None:
    """Send so many, and tell."""
    for number in range(begin, begin + count):
        pa.send(to, number)
    pa.send(starter, ("sent", pa.self_()))


def is_held(pid: pa.Pid) -> bool:
    return bool(pa.process_info(pid, "status") == "waiting")


def send_until_full(to: pa.Pid) -> int:
    """Send numbers until one is refused: how many were taken."""
    for number in range(PLENTY):
        if outcome(pa.send, to, number) is pa.MailboxFull:
            return number
    raise AssertionError("it is never full")


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What it returns, or the kind of error that it raises."""
    try:
        return function(*args, **kwargs)
    except pa.ActorError as error:
        return type(error)


# --- suspend ----------------------------------------------------------------------------------------------------------


@contract("S9.8", partly=True)
def test_a_sender_of_the_same_worker_waits_until_half_is_free(node: pa.ActorSystem) -> None:
    keeper = Keeper(0, max_mailbox=4)
    sender = pa.options(worker=0).spawn(numbers, keeper.pid, 6, pa.self_())
    eventually(lambda: keeper.counters() == (0, 0, 1), "the sender is suspended")
    assert is_held(sender)
    assert 5 == keeper.info("count")  # the one that found no room is in, and its sender waits
    assert keeper.take(2) == [0, 1]
    assert pa.receive(("sent", sender), timeout=0, default=None) is None
    assert is_held(sender)
    assert keeper.take(1) == [2]  # two are left
    pa.receive(("sent", sender), timeout=WAIT)
    assert keeper.take(3) == [3, 4, 5]


@contract("S9.8")
@contract("S2.1", "S2.4", partly=True)
@pytest.mark.parametrize(("at", "to"), PLACES)
def test_suspended_senders_lose_nothing_and_order_holds(at: int, to: int, node: pa.ActorSystem) -> None:
    keeper = Keeper(to, max_mailbox=10)
    count = PLENTY
    if at == GUEST:
        # The test's own thread is the one that waits: somebody else has to take.
        drain = pa.options(worker=0).spawn(drainer, keeper.alias, keeper.pid, count, pa.self_())
        numbers(keeper.pid, count, pa.self_())
        assert pa.receive(("drained", drain), timeout=WAIT)
        assert pa.receive(("taken", keeper.pid, pa.ANY), timeout=WAIT)[2] == list(range(count))
        return
    sender = pa.options(worker=at).spawn(numbers, keeper.pid, count, pa.self_())
    eventually(lambda: keeper.info("suspended") > 0, "the sender is suspended")
    assert is_held(sender)
    assert pa.receive(("sent", sender), timeout=0, default=None) is None
    assert keeper.take(count) == list(range(count))
    pa.receive(("sent", sender), timeout=WAIT)
    assert keeper.all() == []
    assert 0 == keeper.info("dropped") == keeper.info("refused")


def drainer(alias: pa.Ref, keeper: pa.Pid, count: int, starter: pa.Pid) -> None:
    """Has `keeper` take once a sender of it is suspended."""
    while not pa.process_info(keeper, "mailbox")["suspended"]:
        pa.sleep(0)
    pa.send(alias, ("take", count))
    pa.send(starter, ("drained", pa.self_()))


@contract("S9.8", "S2.5", partly=True)
def test_what_is_under_way_between_workers_is_bounded(node: pa.ActorSystem) -> None:
    keeper = Keeper(1, max_mailbox=10)
    sender = pa.options(worker=0).spawn(numbers, keeper.pid, PLENTY, pa.self_())
    eventually(lambda: keeper.info("suspended") > 0, "the sender is suspended")
    assert is_held(sender)
    assert keeper.info("count") < PLENTY
    pa.exit(sender, "kill")
    pa.exit(keeper.pid, "kill")


@contract("S9.8", "S4.3", partly=True)
@pytest.mark.parametrize("at", [0, 1])
def test_the_end_of_a_full_process_frees_its_senders(at: int, node: pa.ActorSystem) -> None:
    keeper = Keeper(1, max_mailbox=1)
    senders = [pa.options(worker=at).spawn(numbers, keeper.pid, PLENTY, pa.self_()) for _ in range(3)]
    eventually(lambda: keeper.info("suspended") >= 3, "all are suspended")
    pa.exit(keeper.pid, "kill")
    for sender in senders:
        pa.receive(("sent", sender), timeout=WAIT)


@contract("S9.8", "S9.2", partly=True)
def test_the_death_of_its_worker_frees_the_senders_to_a_full_process(actor_system: pa.ActorSystem) -> None:
    keeper = Keeper(1, max_mailbox=1)
    sender = pa.options(worker=0).spawn(numbers, keeper.pid, PLENTY, pa.self_())
    eventually(lambda: keeper.info("suspended") == 1, "the sender is suspended")
    os.kill(actor_system.worker_pids[1], signal.SIGKILL)
    pa.receive(("sent", sender), timeout=WAIT)


@contract("S9.8", partly=True)
def test_the_next_life_of_a_sending_worker_is_told_too(actor_system: pa.ActorSystem) -> None:
    keeper = Keeper(0, max_mailbox=2)
    first = pa.options(worker=1).spawn(numbers, keeper.pid, PLENTY, pa.self_())
    eventually(lambda: keeper.info("suspended") == 1, "the sender is suspended")
    former = actor_system.worker_pids[1]
    os.kill(former, signal.SIGKILL)
    eventually(lambda: actor_system.worker_pids[1] not in (0, former), "the worker is replaced")
    second = pa.options(worker=1).spawn(numbers, keeper.pid, PLENTY, pa.self_())
    assert first != second
    eventually(lambda: keeper.info("suspended") == 2, "the next one is suspended")
    pa.exit(keeper.pid, "kill")
    pa.receive(("sent", second), timeout=WAIT)


@contract("S9.8", "S1.9", partly=True)
@pytest.mark.parametrize("at", [0, 1])
def test_a_suspended_sender_can_be_killed(at: int, node: pa.ActorSystem) -> None:
    keeper = Keeper(1, max_mailbox=1)
    sender, ref = pa.options(worker=at).spawn_monitor(numbers, keeper.pid, PLENTY, pa.self_())
    eventually(lambda: keeper.info("suspended") == 1, "the sender is suspended")
    pa.exit(sender, "kill")
    assert pa.receive(pa.Down, timeout=WAIT) == pa.Down(ref, sender, "killed")
    # What it had sent is there, in order; and others can send again.
    taken = keeper.all()
    assert taken == list(range(len(taken)))
    other = pa.options(worker=at).spawn(numbers, keeper.pid, 1, pa.self_())
    pa.receive(("sent", other), timeout=WAIT)
    assert keeper.take(1) == [0]


def send_to_oneself(starter: pa.Pid) -> None:
    for number in range(50):
        pa.send(pa.self_(), number)
    pa.send(starter, [pa.receive() for _ in range(50)])
    pa.send(starter, pa.process_info(pa.self_(), "mailbox"))


@contract("S9.8", partly=True)
@pytest.mark.parametrize("policy", ["suspend", "fail", "drop_newest", "drop_oldest"])
def test_a_process_may_send_to_itself(policy: MailboxPolicy, node: pa.ActorSystem) -> None:
    pa.options(max_mailbox=3, mailbox_policy=policy).spawn(send_to_oneself, pa.self_())
    assert pa.receive(list, timeout=WAIT) == list(range(50))
    found = pa.receive(dict, timeout=WAIT)
    assert (0, 0, 0, 0) == (found["count"], found["dropped"], found["refused"], found["suspended"])


async def numbers_async(to: pa.Pid, count: int, starter: pa.Pid) -> None:
    numbers(to, count, starter)


class Sender(pa.GenServer):
    """Sends in a callback."""

    def handle_cast(self, request: Any, state: Any) -> Any:
        numbers(*request)
        return pa.NoReply()


@contract("S9.8", partly=True)
@pytest.mark.parametrize("to", [0, 1])
def test_async_bodies_and_servers_are_suspended_too(to: int, node: pa.ActorSystem) -> None:
    keeper = Keeper(to, max_mailbox=2)
    one = pa.options(worker=0).spawn(numbers_async, keeper.pid, PLENTY, pa.self_())
    eventually(lambda: keeper.info("suspended") > 0, "the coroutine is suspended")
    assert keeper.take(PLENTY) == list(range(PLENTY))
    pa.receive(("sent", one), timeout=WAIT)
    before = keeper.info("suspended")
    two = pa.options(worker=0).start(Sender)
    pa.cast(two, (keeper.pid, PLENTY, pa.self_()))
    eventually(lambda: keeper.info("suspended") > before, "the server is suspended")
    assert keeper.take(PLENTY) == list(range(PLENTY))
    pa.receive(("sent", two), timeout=WAIT)


# --- fail -------------------------------------------------------------------------------------------------------------


@contract("S9.8", "S10.1", partly=True)
def test_a_send_of_the_same_worker_fails_at_the_limit(node: pa.ActorSystem) -> None:
    keeper = Keeper(0, max_mailbox=3, mailbox_policy="fail")
    sender = puppet(0)
    assert 3 == sender.do(send_until_full, keeper.pid)
    with pytest.raises(pa.MailboxFull, match=r"expected room in the mailbox of .*, and it is full") as caught:
        sender.do(pa.cast, keeper.pid, "x")
    assert keeper.pid == caught.value.target
    with pytest.raises(pa.MailboxFull, match=r"(?s)its mailbox is full.*request: 'x'") as caught:
        sender.do(pa.call, keeper.pid, "x")
    assert keeper.pid == caught.value.target
    assert pa.MailboxFull is sender.do(outcome, pa.send_request, keeper.pid, "x")
    assert (0, 4, 0) == keeper.counters()
    assert [] == sender.do(mail)
    assert keeper.take(1) == [0]
    assert 1 == sender.do(send_until_full, keeper.pid)
    assert keeper.all() == [1, 2, 0]


@contract("S9.8", "S2.4", partly=True)
@pytest.mark.parametrize(("at", "to"), ACROSS)
def test_sends_across_workers_fail_once_it_is_known(at: int, to: int, node: pa.ActorSystem) -> None:
    keeper = Keeper(to, max_mailbox=3, mailbox_policy="fail")
    sender = place(at)
    accepted = sender.do(send_until_full, keeper.pid)
    assert pa.MailboxFull is sender.do(outcome, pa.cast, keeper.pid, "x")
    assert pa.MailboxFull is sender.do(outcome, pa.call, keeper.pid, "x")
    assert pa.MailboxFull is sender.do(outcome, pa.send_request, keeper.pid, "x")
    # What `send` took is delivered, each once and in order.
    assert keeper.take(accepted) == list(range(accepted))
    eventually(lambda: sender.do(outcome, pa.send, keeper.pid, "again") is None, "it takes messages again")
    assert keeper.take(1) == ["again"]
    eventually(lambda: keeper.info("refused") >= 4, "what was refused is told")
    assert 0 == keeper.info("dropped") == keeper.info("suspended")


@contract("S9.8", "S6.3", partly=True)
def test_a_call_that_meets_a_full_mailbox_fails_at_once_also_across(node: pa.ActorSystem) -> None:
    keeper = Keeper(1, max_mailbox=3, mailbox_policy="fail")
    assert 3 == puppet(1).do(send_until_full, keeper.pid)
    # Nobody on worker 0 has sent to it yet, so nothing is known there.
    caller = puppet(0)
    assert pa.MailboxFull is caller.do(outcome, wait_for_call, keeper.pid)
    assert pa.MailboxFull is caller.do(outcome, wait_for_request, keeper.pid)
    assert (0, 3, 0) == keeper.counters()
    assert [] == caller.do(mail)


def wait_for_call(server: pa.Pid) -> Any:
    return pa.call(server, "request", timeout=WAIT)  # not for ever: it would hang, and not fail


def wait_for_request(server: pa.Pid) -> Any:
    return pa.send_request(server, "request").wait(WAIT)


# --- drop -------------------------------------------------------------------------------------------------------------


@contract("S9.8")
@pytest.mark.parametrize(("at", "to"), PLACES)
@pytest.mark.parametrize(("policy", "kept"), [("drop_newest", [0, 1, 2]), ("drop_oldest", [7, 8, 9])])
def test_messages_are_dropped(at: int, to: int, policy: MailboxPolicy, kept: list[int], node: pa.ActorSystem) -> None:
    keeper = Keeper(to, max_mailbox=3, mailbox_policy=policy)
    sender = place(at)
    sender.do(numbers, keeper.pid, 10, pa.self_())
    pa.receive(("sent", sender.pid), timeout=WAIT)
    eventually(lambda: keeper.counters() == (7, 0, 0), "seven are dropped")
    assert 3 == keeper.info("count")
    assert keeper.all() == kept
    sender.do(pa.send, keeper.pid, "room")
    assert keeper.take(1) == ["room"]


@contract("S9.8", "S6.3", partly=True)
@pytest.mark.parametrize(("at", "to"), PLACES)
@pytest.mark.parametrize("call", [wait_for_call, wait_for_request])
def test_a_call_that_is_dropped_ends(at: int, to: int, call: Callable[..., Any], node: pa.ActorSystem) -> None:
    caller = place(at)
    newest = Keeper(to, max_mailbox=1, mailbox_policy="drop_newest")
    caller.do(pa.send, newest.pid, "first")
    assert pa.MailboxFull is caller.do(outcome, call, newest.pid)
    assert (1, 0, 0) == newest.counters()
    assert newest.all() == ["first"]
    # One that is in already, and has to give way.
    oldest = Keeper(to, max_mailbox=1, mailbox_policy="drop_oldest")
    waiting = pa.options(worker=max(at, 0)).spawn(tell_outcome, call, oldest.pid, pa.self_())
    eventually(lambda: oldest.info("count") == 1, "the request waits")
    caller.do(pa.send, oldest.pid, "later")
    assert pa.receive(("outcome", waiting, pa.ANY), timeout=WAIT)[2] is pa.MailboxFull
    assert (1, 0, 0) == oldest.counters()
    assert oldest.all() == ["later"]
    assert [] == caller.do(mail)


def tell_outcome(call: Callable[..., Any], server: pa.Pid, starter: pa.Pid) -> None:
    pa.send(starter, ("outcome", pa.self_(), outcome(call, server)))


class Busy(pa.GenServer):
    """Sits in one cast until it is let go."""

    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return pa.Reply(request)

    def handle_cast(self, request: Any, state: Any) -> Any:
        ref = pa.alias()
        pa.send(request, ("at it", ref))
        pa.receive("go on")
        return pa.NoReply()


@contract("S9.8", "S6.3", partly=True)
@pytest.mark.parametrize("to", [0, 1])
def test_a_call_to_a_full_server_waits_for_its_answer_or_its_timeout(to: int, node: pa.ActorSystem) -> None:
    server = pa.options(worker=to, max_mailbox=1).start(Busy)
    pa.cast(server, pa.self_())
    _, ref = pa.receive(("at it", pa.ANY), timeout=WAIT)
    callers = [pa.options(worker=0).spawn(tell_call, server, number, pa.self_()) for number in range(5)]
    eventually(lambda: pa.process_info(server, "message_queue_len") == 5, "all of them wait")
    assert pa.CallTimeout is outcome(pa.call, server, "late", timeout=0.01)
    pa.send(ref, "go on")
    assert {0, 1, 2, 3, 4} == {pa.receive(("answer", caller, pa.ANY), timeout=WAIT)[2] for caller in callers}
    pa.stop(server, timeout=WAIT)


def tell_call(server: pa.Pid, request: Any, starter: pa.Pid) -> None:
    pa.send(starter, ("answer", pa.self_(), pa.call(server, request, timeout=None)))


# --- what is never counted --------------------------------------------------------------------------------------------


@contract("S9.8", "S2.2", partly=True)
@pytest.mark.parametrize("to", [0, 1])
@pytest.mark.parametrize("policy", ["suspend", "fail", "drop_newest", "drop_oldest"])
def test_signals_aliases_and_timers_pass(to: int, policy: MailboxPolicy, node: pa.ActorSystem) -> None:
    keeper = Keeper(to, max_mailbox=1, mailbox_policy=policy)
    sender = puppet(0)
    sender.do(pa.send, keeper.pid, "counted")
    eventually(lambda: keeper.info("count") == 1, "it is full")
    sender.do(pa.exit, keeper.pid, "a reason")  # trapped: it becomes a message
    sender.do(pa.send, keeper.alias, "by alias")
    sender.do(pa.send_after, 0, keeper.pid, "by timer")
    eventually(lambda: pa.process_info(keeper.pid, "message_queue_len") == 4, "all of them are in")
    assert 1 == keeper.info("count")
    assert (0, 0, 0) == keeper.counters()
    assert ["counted", pa.Exit(sender.pid, "a reason"), "by alias", "by timer"] == keeper.all()
    watch = pa.monitor(keeper.pid)
    pa.exit(keeper.pid, "kill")
    assert pa.receive(pa.Down, timeout=WAIT) == pa.Down(watch, keeper.pid, "killed")


class Caller(pa.GenServer):
    """Calls another, while its own mailbox is full."""

    def handle_cast(self, request: Any, state: Any) -> Any:
        starter, other = request
        pa.send(starter, ("at it", pa.alias()))
        pa.receive("go on")
        pa.send(starter, ("answer", pa.call(other, "question", timeout=WAIT), wait_for_request(other)))
        return pa.NoReply()


class Echo(pa.GenServer):
    def handle_call(self, request: Any, from_: Any, state: Any) -> Any:
        return pa.Reply(request)


@contract("S9.8", "S2.2", partly=True)
@pytest.mark.parametrize("to", [0, 1])
def test_answers_reach_a_process_whose_mailbox_is_full(to: int, node: pa.ActorSystem) -> None:
    limits: Any = {"max_mailbox": 1, "mailbox_policy": "drop_newest"}
    server = pa.options(worker=0, **limits).start(Caller)
    pa.cast(server, (pa.self_(), pa.options(worker=to).start(Echo)))
    _, ref = pa.receive(("at it", pa.ANY), timeout=WAIT)
    sender = puppet(0)
    sender.do(pa.send, server, "fills it")
    sender.do(pa.send, server, "is dropped")
    assert pa.process_info(server, "mailbox")["dropped"] == 1
    pa.send(ref, "go on")
    assert pa.receive(("answer", pa.ANY, pa.ANY), timeout=WAIT)[1:] == ("question", "request")


@contract("S9.8", partly=True)
@pytest.mark.parametrize("to", [0, 1])
@pytest.mark.parametrize("policy", ["fail", "drop_newest", "drop_oldest"])
def test_a_full_server_can_be_looked_at_and_stopped(to: int, policy: MailboxPolicy, node: pa.ActorSystem) -> None:
    server = pa.options(worker=to, max_mailbox=2, mailbox_policy=policy).start(Echo)
    pa.sys_.suspend(server)
    sender = puppet(to)
    for _ in range(2):
        sender.do(pa.cast, server, "x")
    assert pa.process_info(server, "mailbox")["count"] == 2
    assert "suspended" == pa.sys_.get_status(server)["status"]
    pa.stop(server, timeout=WAIT)


@contract("S9.8", partly=True)
def test_dropping_the_oldest_minds_where_the_receiver_looks(node: pa.ActorSystem) -> None:
    # It waits for what isn't there, and has looked at all that is: which is then dropped at one go.
    receiver = pa.options(worker=0, max_mailbox=3, mailbox_policy="drop_oldest").spawn(wait_for_the_end, pa.self_())
    sender = puppet(0)
    sender.do(numbers, receiver, 3, pa.self_())
    eventually(lambda: pa.process_info(receiver, "status") == "waiting", "it has looked at them")
    sender.do(burst, receiver)
    assert pa.receive(list, timeout=WAIT) == [18, 19]


def burst(to: pa.Pid) -> None:
    for number in range(3, 20):
        pa.send(to, number)
    pa.send(to, "the end")


def wait_for_the_end(starter: pa.Pid) -> None:
    pa.receive("the end")
    pa.send(starter, [pa.receive(timeout=0), pa.receive(timeout=0)])


# --- bytes ------------------------------------------------------------------------------------------------------------


class Parcel:
    """Goes by pickle."""

    def __init__(self, size: int) -> None:
        self.content = b"x" * size


def send_parcels(to: pa.Pid, make: Callable[[int], object], size: int, count: int) -> None:
    for _ in range(count):
        pa.send(to, make(size))


@contract("S9.8", partly=True)
@pytest.mark.parametrize("to", [0, 1])
@pytest.mark.parametrize(
    "make", [bytes, Parcel, lambda size: [{"key": (1, "x" * size)}]], ids=["plain", "pickled", "nested"]
)
def test_bytes_are_limited(make: Callable[[int], object], to: int, node: pa.ActorSystem) -> None:
    keeper = Keeper(to, max_mailbox_bytes=100_000, mailbox_policy="drop_newest")
    sender = puppet(0)
    sender.do(send_parcels, keeper.pid, make, 30_000, 10)
    eventually(lambda: keeper.counters() == (7, 0, 0), "seven are dropped")
    assert 90_000 <= keeper.info("bytes") <= 100_000
    assert 3 == len(keeper.all())
    assert 0 == keeper.info("bytes")


@contract("S9.8", partly=True)
@pytest.mark.parametrize("policy", ["suspend", "fail", "drop_newest", "drop_oldest"])
def test_one_that_is_larger_than_the_limit_comes_in_alone(policy: MailboxPolicy, node: pa.ActorSystem) -> None:
    keeper = Keeper(0, max_mailbox_bytes=1_000, mailbox_policy=policy)
    puppet(0).do(send_parcels, keeper.pid, bytes, 5_000, 1)
    assert keeper.take(1) == [bytes(5_000)]
    assert (0, 0, 0) == keeper.counters()


# --- every kind of start ----------------------------------------------------------------------------------------------


class Typed(pa.Actor):
    @pa.cast
    def put(self, value: int) -> None:
        pass


LIMITS: Any = {"max_mailbox": 7, "max_mailbox_bytes": 1_000, "mailbox_policy": "fail"}


def limits_of(pid: Any) -> Any:
    found = pa.process_info(getattr(pid, "__pid__", pid), "mailbox")
    return found and {key: found[key] for key in LIMITS}


@contract("S9.8", partly=True)
@pytest.mark.parametrize("worker", [0, 1])
def test_every_kind_of_start_takes_limits(worker: int, node: pa.ActorSystem) -> None:
    def starts() -> list[Any]:
        chosen = pa.options(worker=worker, **LIMITS)
        return [
            chosen.spawn(pa.receive),
            chosen.spawn_link(pa.receive),
            chosen.spawn_monitor(pa.receive)[0],
            chosen.start(Echo),
            chosen.start_link(Echo),
            chosen.start_monitor(Echo)[0],
            chosen.start_link(Typed).__pid__,
        ]

    for started in puppet(0).do(starts):
        assert LIMITS == limits_of(started)
    assert limits_of(pa.options(worker=worker, name="with a name", **LIMITS).spawn(pa.receive)) == LIMITS
    assert pa.whereis("with a name")
    assert limits_of(pa.options(worker=worker, max_mailbox=None).spawn(pa.receive)) is None
    assert limits_of(puppet(worker).pid) is None


def life_of(supervisor: pa.Pid, number: int) -> object:
    return next(info.pid for info in pa.Supervisor.which_children(supervisor) if info.id == number)


@contract("S9.8", "S8.1", partly=True)
def test_children_take_limits(node: pa.ActorSystem) -> None:
    children = [pa.child(Echo, id=number, worker=number, **LIMITS) for number in range(2)]
    supervisor = pa.Supervisor.start_link([*children, pa.child(Echo, id="free")])
    found = {info.id: limits_of(info.pid) for info in pa.Supervisor.which_children(supervisor)}
    assert {0: LIMITS, 1: LIMITS, "free": None} == found
    (first,) = [info.pid for info in pa.Supervisor.which_children(supervisor) if info.id == 0]
    assert isinstance(first, pa.Pid)
    pa.exit(first, "kill")
    eventually(lambda: life_of(supervisor, 0) not in (None, first), "it is started again")
    assert LIMITS == limits_of(life_of(supervisor, 0))
    pa.stop(supervisor, timeout=WAIT)


def spawn_at(worker: int) -> pa.Pid:
    return pa.options(worker=worker).spawn(pa.receive)


@contract("S9.8", partly=True)
def test_a_limit_for_all() -> None:
    with pa.ActorSystem(workers=2, max_mailbox=5, mailbox_policy="drop_newest"):
        expected = {"max_mailbox": 5, "max_mailbox_bytes": None, "mailbox_policy": "drop_newest"}
        for worker in (0, 1):
            assert limits_of(puppet(worker).pid) == expected
            assert limits_of(puppet(0).do(spawn_at, worker)) == expected
            assert limits_of(pa.options(worker=worker, **LIMITS).spawn(pa.receive)) == LIMITS
            assert limits_of(pa.options(worker=worker, max_mailbox=None).spawn(pa.receive)) is None
        assert pa.process_info(pa.self_(), "mailbox") is None  # a thread of the program


@contract("S9.8", partly=True)
@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ({"max_mailbox": 0}, "expected max_mailbox to be a whole number, 1 or more, or None (no limit), got 0"),
        ({"max_mailbox": True}, "1 or more, or None (no limit), got True"),
        ({"max_mailbox": 2.0}, "1 or more, or None (no limit), got 2.0"),
        ({"max_mailbox": 2**62}, "1 or more, or None (no limit), got 4611686018427387904"),
        (
            {"max_mailbox_bytes": -1},
            "expected max_mailbox_bytes to be a whole number, 1 or more, or None (no limit), got -1",
        ),
        (
            {"max_mailbox": 1, "mailbox_policy": "block"},
            "expected mailbox_policy to be one of suspend, fail, drop_newest, drop_oldest, got 'block'",
        ),
        ({"max_mailbox": 1, "mailbox_policy": []}, "drop_oldest, got []"),
        (
            {"mailbox_policy": "fail"},
            "expected mailbox_policy together with max_mailbox or max_mailbox_bytes, got it alone",
        ),
    ],
)
def test_bad_limits_are_refused(choices: Any, text: str) -> None:
    for make in (pa.options, lambda **given: pa.child(Echo, **given)):
        with pytest.raises(ValueError) as caught:
            make(**choices)
        assert text in str(caught.value)


@contract("S9.8", partly=True)
def test_the_books_are_right(node: pa.ActorSystem) -> None:
    # Senders and receivers of all kinds at once; then the schedulers look at themselves.
    for policy in ("suspend", "fail", "drop_newest", "drop_oldest"):
        keepers = [Keeper(worker, max_mailbox=5, max_mailbox_bytes=500, mailbox_policy=policy) for worker in (0, 1)]
        senders = [
            pa.options(worker=worker).spawn(numbers_or_full, keeper.pid, 300, pa.self_())
            for worker in (0, 1)
            for keeper in keepers
        ]
        waiting = set(senders)
        while waiting:
            for keeper in keepers:
                keeper.all()
            while (message := pa.receive(("sent", pa.ANY), timeout=0, default=None)) is not None:
                waiting.discard(message[1])
        for worker, keeper in enumerate(keepers):
            puppet(worker).do(check_invariants)
            keeper.all()
            keeper.until_empty()
            assert 0 == keeper.info("bytes")
            puppet(worker).do(check_invariants)


def check_invariants() -> None:
    scheduler: Any = current_scheduler()
    scheduler.check_invariants()


def numbers_or_full(to: pa.Pid, count: int, starter: pa.Pid) -> None:
    for number in range(count):
        outcome(pa.send, to, ("number", number))
    pa.send(starter, ("sent", pa.self_()))
