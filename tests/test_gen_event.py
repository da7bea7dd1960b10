"""GenEvent: managers and handlers (S6.10), as OTP's suite groups them.

The handlers here are dolls: an event, a request or a message is a function, called as the callback that gets it.

    pa.GenEvent.notify(events, lambda state: pa.NoReply(state + 1))
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

import parallel_actors as pa
from contract import contract
from leaks import eventually
from parallel_actors import GenEvent
from puppets import WAIT, Puppet, get, mail, puppet

workers = pytest.mark.parametrize("worker", [0, 1])


class Doll(pa.EventHandler):
    """Its state is a list, of what came but functions; its end is told to the first item, where that is a pid."""

    def init(self, *state: Any) -> Any:
        return state[0]() if state and callable(state[0]) else list(state)

    def handle_event(self, event: Any, state: Any) -> Any:
        return event(state) if callable(event) else pa.NoReply([*state, event])

    def handle_call(self, request: Any, state: Any) -> Any:
        return request(state) if callable(request) else pa.Reply(state)

    def handle_info(self, message: Any, state: Any) -> Any:
        return message(state) if callable(message) else pa.NoReply([*state, ("info", message)])

    def terminate(self, args: Any, state: Any) -> Any:
        if state and isinstance(state[0], pa.Pid):
            pa.send(state[0], ("terminate", type(self).__name__, args))
        if args == "fail":
            raise ValueError("in terminate")
        return ("term", args)


class Other(Doll):
    """Another one."""

    def format_status(self, status: dict[str, Any]) -> dict[str, Any]:
        return {**status, "state": "<hidden>"}

    def code_change(self, version: Any, state: Any, extra: Any) -> Any:
        return [*state, (version, extra)]


class Later(Doll):
    """The same in `async def`."""

    async def init(self, *state: Any) -> Any:
        await pa.asleep(0)
        return Doll.init(self, *state)

    async def handle_event(self, event: Any, state: Any) -> Any:
        await pa.asleep(0)
        return Doll.handle_event(self, event, state)

    async def handle_call(self, request: Any, state: Any) -> Any:
        await pa.asleep(0)
        return Doll.handle_call(self, request, state)

    async def terminate(self, args: Any, state: Any) -> Any:
        await pa.asleep(0)
        return Doll.terminate(self, args, state)


kinds = pytest.mark.parametrize("kind", [Doll, Later], ids=["def", "async"])


@pytest.fixture(params=[0, 1])
def events(node: pa.ActorSystem, request: pytest.FixtureRequest) -> pa.Pid:
    """A manager, on each worker."""
    pid: pa.Pid = pa.options(worker=request.param).start(GenEvent)
    return pid


def states(events: pa.Pid) -> list[Any]:
    return [each.state for each in pa.sys_.get_state(events, WAIT)]


def removals(worker: int) -> list[str]:
    """The handlers that were reported on that worker since the last look. For tests with `logged`."""
    puppet(worker).do(logging.getLogger("parallel_actors.mark").error, "mark")
    found: list[str] = []
    while True:
        _, logger, text = pa.receive(("logged", pa.ANY, pa.ANY), timeout=WAIT)
        if logger == "parallel_actors.mark":
            return found
        if logger == "parallel_actors.gen_event":
            found.append(text)


def fail(*_: Any) -> Any:
    raise ValueError("broken")


# --- start and stop ---------------------------------------------------------------------------------------------------


@contract("S6.10", partly=True)
def test_starts_and_stops(node: pa.ActorSystem) -> None:
    me = pa.self_()
    pid = GenEvent.start_link(name="events")
    assert pa.process_info(pid, "links") == [me]
    GenEvent.add_handler("events", Doll, me)
    GenEvent.add_handler("events", (Doll, 2), me)
    pa.unlink(pid)
    pa.stop("events")
    assert [get(), get()] == [("terminate", "Doll", "stop")] * 2
    pid, ref = pa.start_monitor(GenEvent)
    pa.stop(pid, "why")
    assert get() == pa.Down(ref, pid, "why")
    with pytest.raises(pa.NoProc):
        GenEvent.which_handlers(pid)
    GenEvent.notify(pid, "nobody hears it")
    GenEvent.notify("nobody", "nobody hears it")


@contract("S6.10", partly=True)
def test_a_manager_under_a_supervisor(node: pa.ActorSystem) -> None:
    """Its handlers are told of the shutdown. One that is started again has none."""
    me = pa.self_()
    supervisor = pa.Supervisor.start_link([pa.child(GenEvent, name="events")])
    GenEvent.add_handler("events", Doll, me)
    first = pa.whereis("events")
    assert first is not None
    pa.exit(first, "kill")
    eventually(lambda: pa.whereis("events") not in (None, first), "it is started again")
    assert GenEvent.which_handlers("events") == []
    GenEvent.add_handler("events", Doll, me)
    pa.stop(supervisor)
    assert get() == ("terminate", "Doll", "stop")
    assert mail() == []


# --- handlers come and go ---------------------------------------------------------------------------------------------


@contract("S6.10", partly=True)
@kinds
def test_handlers_are_added_and_deleted(events: pa.Pid, kind: type[Doll]) -> None:
    me = pa.self_()
    GenEvent.add_handler(events, kind, me, 1)
    GenEvent.add_handler(events, (kind, "id"), me, 2)
    GenEvent.add_handler(events, (kind, 3), lambda: pa.Ok([me, 3]))
    assert GenEvent.which_handlers(events) == [kind, (kind, "id"), (kind, 3)]
    assert states(events) == [[me, 1], [me, 2], [me, 3]]
    assert GenEvent.delete_handler(events, (kind, "id"), "args") == ("term", "args")
    assert get() == ("terminate", kind.__name__, "args")
    assert GenEvent.which_handlers(events) == [kind, (kind, 3)]
    for handler in ((kind, "id"), Other):
        with pytest.raises(pa.HandlerError, match="expected a handler of ") as caught:
            GenEvent.delete_handler(events, handler)
        assert caught.value.request == handler
    with pytest.raises(pa.RemoteError, match="ValueError: in terminate"):
        GenEvent.delete_handler(events, kind, "fail")
    assert GenEvent.which_handlers(events) == [(kind, 3)]


@contract("S6.10", partly=True)
@kinds
def test_a_handler_whose_init_fails_is_not_added(events: pa.Pid, kind: type[Doll]) -> None:
    failures: list[tuple[Callable[[], Any], Any]] = [
        (lambda: pa.Stop("why"), "why"),
        (lambda: pa.NoReply(), ("bad_return_value", "NoReply(...)")),
        (lambda: pa.Ok(1, timeout=1.0), ("bad_return_value", "Ok(1)")),
    ]
    for how in (GenEvent.add_handler, GenEvent.add_sup_handler):
        for make, reason in failures:
            with pytest.raises(pa.StartError, match="was not added") as caught:
                how(events, kind, make)
            assert caught.value.reason == reason
        with pytest.raises(pa.StartError, match="ValueError: broken") as caught:
            how(events, kind, fail)
        assert isinstance(caught.value.__cause__, ValueError)
        assert "in fail" in (caught.value.remote_traceback or "")
    assert GenEvent.which_handlers(events) == []
    assert pa.process_info(events, "links") == []


@contract("S6.10", partly=True)
def test_bad_handlers_are_refused(node: pa.ActorSystem) -> None:
    handlers: list[Any] = [pa.GenServer, "Doll", (Doll,), (Doll, 1, 2), (pa.GenServer, 1), None, Doll(), (Doll, None)]
    for handler in handlers:
        for ask in (GenEvent.add_handler, GenEvent.add_sup_handler, GenEvent.delete_handler):
            with pytest.raises(TypeError, match=r"expected (the id of )?a handler to be"):
                ask("nobody", handler)
        with pytest.raises(TypeError, match=r"expected (the id of )?a handler to be"):
            GenEvent.call("nobody", handler, 1)
        with pytest.raises(TypeError, match=r"expected (the id of )?a handler to be"):
            GenEvent.swap_handler("nobody", Doll, None, handler, None)
        with pytest.raises(TypeError, match=r"expected (the id of )?a handler to be"):
            pa.SwapHandler(None, None, handler)


# --- events -----------------------------------------------------------------------------------------------------------


@contract("S6.10", partly=True)
@kinds
def test_events_come_to_all_handlers_in_turn(events: pa.Pid, kind: type[Doll]) -> None:
    me = pa.self_()
    GenEvent.add_handler(events, kind)
    GenEvent.add_handler(events, (kind, 2))
    GenEvent.notify(events, 1)
    pa.send(events, "message")
    pa.cast(events, "a cast that isn't one of ours")
    GenEvent.sync_notify(events, 2)
    expected = [1, ("info", "message"), ("info", "a cast that isn't one of ours"), 2]
    assert states(events) == [expected, expected]

    def turn(state: Any) -> Any:
        pa.send(me, len(state))
        return pa.NoReply()

    GenEvent.call(events, (kind, 2), lambda state: pa.Reply(None, []))
    GenEvent.sync_notify(events, turn)
    assert [get(), get()] == [4, 0]


@contract("S6.10", partly=True)
@kinds
def test_one_handler_is_called(events: pa.Pid, kind: type[Doll]) -> None:
    GenEvent.add_handler(events, kind, 1)
    GenEvent.add_handler(events, (kind, 2), 2)
    assert GenEvent.call(events, kind, "state") == [1]
    assert GenEvent.call(events, (kind, 2), lambda state: pa.Reply("was", [*state, "new"]), timeout=WAIT) == "was"
    assert states(events) == [[1], [2, "new"]]
    request = GenEvent.send_request(events, (kind, 2), "state")
    requests = pa.Requests()
    requests.add(GenEvent.send_request(events, kind, "state"), "first")
    assert request.wait(WAIT) == [2, "new"]
    assert list(requests.answers(timeout=WAIT)) == [("first", pa.Done([1]))]
    for handler in (Other, (kind, 3)):
        with pytest.raises(pa.HandlerError):
            GenEvent.call(events, handler, "state")
        with pytest.raises(pa.HandlerError):
            GenEvent.send_request(events, handler, "state").wait(WAIT)
    with pytest.raises(pa.RemoteError, match="ValueError: broken"):
        GenEvent.send_request(events, kind, fail).wait(WAIT)
    assert GenEvent.which_handlers(events) == [(kind, 2)]


@contract("S6.10", partly=True)
@kinds
def test_a_handler_removes_itself(events: pa.Pid, kind: type[Doll]) -> None:
    me = pa.self_()
    for _ in range(2):
        GenEvent.add_handler(events, kind, me)
        GenEvent.notify(events, lambda _: pa.RemoveHandler())
        assert get() == ("terminate", kind.__name__, "remove_handler")
        GenEvent.add_handler(events, kind, me)
        assert GenEvent.call(events, kind, lambda _: pa.RemoveHandler(reply="bye")) == "bye"
        assert get() == ("terminate", kind.__name__, "remove_handler")
    GenEvent.add_sup_handler(events, kind)
    pa.send(events, lambda _: pa.RemoveHandler())
    assert get() == pa.GenEventExit(events, kind, "normal")
    assert GenEvent.which_handlers(events) == []


# --- a handler that fails ---------------------------------------------------------------------------------------------


@contract("S6.10")
@kinds
@pytest.mark.parametrize("worker", [0, 1])
def test_a_handler_that_fails_is_removed_and_the_others_live_on(
    node: pa.ActorSystem, logged: None, worker: int, kind: type[Doll]
) -> None:
    """By an exception or a bad return, in an event, a call or a message: terminate() is told, and it is reported."""
    me = pa.self_()
    events = pa.options(worker=worker).start(GenEvent)
    GenEvent.add_handler(events, Other, "lives on")

    def only(state: Any) -> bool:
        return bool(state) and state[0] == me

    def raises(state: Any) -> Any:
        return fail() if only(state) else pa.NoReply()

    def ends(state: Any) -> Any:
        if only(state):
            raise pa.ProcessExit("why")
        return pa.NoReply()

    def returns(state: Any) -> Any:
        return "nonsense" if only(state) else pa.NoReply()

    for send in (GenEvent.notify, pa.send):
        for event, shown in [(raises, "ValueError"), (ends, "why"), (returns, "bad_return_value")]:
            GenEvent.add_handler(events, kind, me)
            send(events, event)
            _, _, (word, reason) = get()
            assert (word, shown in str(reason)) == ("error", True)
            assert GenEvent.which_handlers(events) == [Other]
            (report,) = removals(worker)
            assert f"event handler {kind.__name__} of {events!r} was removed" in report
            assert f"state: [{me!r}]" in report
            assert shown in report
    for request in (fail, lambda _: pa.NoReply(), lambda _: pa.RemoveHandler(), lambda _: pa.Reply(1, timeout=1.0)):
        GenEvent.add_handler(events, kind, me)
        with pytest.raises(pa.RemoteError, match=r"ValueError: broken|bad_return_value"):
            GenEvent.call(events, kind, request)
        assert get()[:2] == ("terminate", kind.__name__)
        assert len(removals(worker)) == 1
    assert states(events) == [["lives on"]]


@contract("S6.10", partly=True)
def test_a_report_hides_what_format_status_hides(node: pa.ActorSystem, logged: None) -> None:
    events = pa.options(worker=0).start(GenEvent)
    GenEvent.add_handler(events, Other, "secret")
    status = pa.sys_.get_status(events)
    assert [each.state for each in status["state"]] == ["<hidden>"]
    GenEvent.sync_notify(events, fail)
    (report,) = removals(0)
    assert "secret" not in report
    assert "<hidden>" in report


@contract("S6.10", partly=True)
def test_a_manager_that_is_killed_in_a_handler_ends(events: pa.Pid) -> None:
    """It isn't taken for a failure of the handler."""
    me = pa.self_()

    def wait(_: Any) -> Any:
        pa.send(me, "waits")
        pa.receive("never")

    GenEvent.add_handler(events, Doll, me)
    watch = Puppet(events).watch()
    GenEvent.notify(events, wait)
    assert get() == "waits"
    pa.exit(events, "kill")
    assert Puppet.reason_of(watch) == "killed"
    assert mail() == []


@contract("S6.10", partly=True)
def test_what_cannot_travel_does_not_end_the_manager(events: pa.Pid) -> None:
    """Answers, results of terminate(), reasons."""
    lock = lambda state: pa.Reply(threading.Lock())  # noqa: E731

    class Locked(Doll):
        def terminate(self, args: Any, state: Any) -> Any:
            return threading.Lock()

    def ends(state: Any) -> Any:
        raise pa.ProcessExit(threading.Lock())

    GenEvent.add_sup_handler(events, Locked)
    with pytest.raises(pa.RemoteError, match="NotPicklable"):
        GenEvent.call(events, Locked, lock)
    with pytest.raises(pa.RemoteError, match="NotPicklable"):
        GenEvent.delete_handler(events, Locked)
    assert get().reason == "normal"
    GenEvent.add_sup_handler(events, Locked)
    GenEvent.notify(events, ends)
    assert "lock" in get().reason
    assert pa.call(events, "no request of ours")[0] == "failed"
    assert GenEvent.which_handlers(events) == []


@contract("S6.10", partly=True)
def test_messages_that_a_handler_does_not_know_are_logged(node: pa.ActorSystem, logged: None) -> None:
    class Quiet(pa.EventHandler):
        def handle_event(self, event: Any, state: Any) -> Any:
            return pa.NoReply()

    class Empty(pa.EventHandler):
        pass

    events = pa.options(worker=0).start(GenEvent)
    GenEvent.add_handler(events, Quiet, "state")
    GenEvent.add_handler(events, Empty)
    pa.send(events, "unknown")
    assert len(GenEvent.which_handlers(events)) == 2
    assert ["Quiet" in text and "'unknown'" in text for text in removals(0)] == [True, False]
    GenEvent.sync_notify(events, 1)
    with pytest.raises(pa.RemoteError, match="Quiet has no handle_call: got the call 2"):
        GenEvent.call(events, Quiet, 2)
    assert GenEvent.which_handlers(events) == []


# --- swaps ------------------------------------------------------------------------------------------------------------


class Successor(Doll):
    """Tells what it got."""

    def init(self, *args: Any) -> Any:
        if args and args[0][0] == "fail":
            return fail()
        return list(args)


@contract("S6.10", partly=True)
@kinds
def test_handlers_are_swapped(events: pa.Pid, kind: type[Doll]) -> None:
    """The new one stands where the old one stood, and has what that left it."""
    me = pa.self_()
    GenEvent.add_handler(events, kind, me)
    GenEvent.add_handler(events, Other, "second")
    GenEvent.swap_handler(events, kind, "out", (Successor, 1), "in")
    assert get() == ("terminate", kind.__name__, "out")
    assert GenEvent.which_handlers(events) == [(Successor, 1), Other]
    assert states(events)[0] == [("in", ("term", "out"))]
    GenEvent.swap_handler(events, kind, "out", Successor, "new")  # there is no such one any more
    assert states(events)[2] == [("new", "error")]
    with pytest.raises(pa.StartError, match="ValueError: broken"):
        GenEvent.swap_handler(events, Other, "out", (Successor, 2), "fail")
    assert GenEvent.which_handlers(events) == [(Successor, 1), Successor]
    GenEvent.delete_handler(events, Successor)

    GenEvent.add_handler(events, kind, me)
    GenEvent.notify(events, lambda s: pa.SwapHandler("a", s, (Successor, 3), "b") if s[0] == me else pa.NoReply())
    assert get() == ("terminate", kind.__name__, "a")
    assert states(events)[1:] == [[("b", ("term", "a"))]]
    GenEvent.add_handler(events, kind, me)
    swap = lambda state: pa.SwapHandler("c", [*state, "last"], Successor, "d", reply="swapped")  # noqa: E731
    assert GenEvent.call(events, kind, swap) == "swapped"
    assert GenEvent.which_handlers(events) == [(Successor, 1), (Successor, 3), Successor]


@contract("S6.10", partly=True)
def test_a_swap_that_fails_leaves_neither(node: pa.ActorSystem, logged: None) -> None:
    events = pa.options(worker=1).start(GenEvent)
    GenEvent.add_sup_handler(events, Doll, 1)
    GenEvent.sync_notify(events, lambda state: pa.SwapHandler("a", state, Successor, "fail"))
    first, found = (pa.receive(pa.GenEventExit, timeout=WAIT) for _ in range(2))
    assert first == pa.GenEventExit(events, Doll, ("swapped", Successor, pa.self_()))
    assert (found.handler, found.reason.type) == (Successor, "ValueError")
    (report,) = removals(1)
    assert "event handler Successor of" in report
    assert GenEvent.which_handlers(events) == []


# --- supervised handlers ----------------------------------------------------------------------------------------------


@contract("S6.10", partly=True)
def test_who_supervises_a_handler_hears_of_its_end(events: pa.Pid, logged: None) -> None:
    me = pa.self_()
    GenEvent.add_sup_handler(events, Doll, 0)
    assert events in pa.process_info(me, "links")
    GenEvent.delete_handler(events, Doll)
    assert get() == pa.GenEventExit(events, Doll, "normal")
    GenEvent.add_sup_handler(events, (Doll, 1), 0)
    GenEvent.notify(events, fail)
    found = pa.receive(pa.GenEventExit, timeout=WAIT)
    assert (found.handler, found.reason.type) == ((Doll, 1), "ValueError")
    GenEvent.add_sup_handler(events, Doll, 0)
    GenEvent.swap_handler(events, Doll, "out", Other, "in")
    assert pa.receive(pa.GenEventExit, timeout=WAIT).reason == ("swapped", Other, me)
    assert [each.supervised for each in pa.sys_.get_state(events)] == [me]
    pa.stop(events, "why")  # the link is undone: it doesn't end us
    assert pa.receive(pa.GenEventExit, timeout=WAIT) == pa.GenEventExit(events, Other, "shutdown")


@contract("S6.10", partly=True)
def test_the_end_of_who_supervises_a_handler_removes_it(events: pa.Pid) -> None:
    """Its terminate() is told; the other handlers get the Exit, as any message."""
    me = pa.self_()
    owner = puppet(0)
    owner.do(GenEvent.add_sup_handler, events, Doll, me)
    owner.do(GenEvent.add_sup_handler, events, (Doll, 2), me)
    GenEvent.add_handler(events, Other)
    GenEvent.swap_sup_handler(events, (Doll, 2), "out", (Doll, 3), "in")  # this one is ours from now on
    assert get() == ("terminate", "Doll", "out")
    pa.exit(owner.pid, "gone")
    assert get() == ("terminate", "Doll", ("stop", "gone"))
    assert GenEvent.which_handlers(events) == [(Doll, 3), Other]
    assert states(events)[1] == [("info", pa.Exit(owner.pid, "gone"))]


@contract("S6.10", partly=True)
def test_a_manager_that_dies_ends_who_supervises_its_handlers(events: pa.Pid) -> None:
    owner = puppet(1)
    watch = owner.watch()
    owner.do(GenEvent.add_sup_handler, events, Doll)
    pa.exit(events, "kill")
    assert Puppet.reason_of(watch) == "killed"


# --- sys_, moving -----------------------------------------------------------------------------------------------------


@contract("S6.10", partly=True)
def test_sys(events: pa.Pid) -> None:
    GenEvent.add_handler(events, (Doll, 1), "a")
    GenEvent.add_handler(events, Other, "b")
    handlers = pa.sys_.get_state(events)
    assert [(each.module, each.id, each.state) for each in handlers] == [(Doll, 1, ["a"]), (Other, None, ["b"])]

    def change(found: Any) -> Any:
        for each in found:
            each.state.append("more")
        return found

    pa.sys_.replace_state(events, change)
    assert states(events) == [["a", "more"], ["b", "more"]]
    pa.sys_.suspend(events)
    GenEvent.notify(events, "event")
    with pytest.raises(TypeError, match="expected the class of a handler to change"):
        pa.sys_.change_code(events, pa.GenServer)
    pa.sys_.change_code(events, Other, 1, "extra")
    pa.sys_.change_code(events, None, 2, None)
    assert states(events) == [["a", "more"], ["b", "more", (1, "extra"), (2, None)]]
    pa.sys_.resume(events)
    assert [state[-1] for state in states(events)] == ["event", "event"]


@contract("S6.10", "S9.7", partly=True)
def test_a_manager_moves_with_its_handlers(node: pa.ActorSystem) -> None:
    me = pa.self_()
    events = pa.options(worker=0).start(GenEvent)
    GenEvent.add_sup_handler(events, (Doll, 1), me)
    pa.migrate(events, 1, WAIT)
    GenEvent.sync_notify(events, "event")
    assert states(events) == [[me, "event"]]
    assert GenEvent.call(events, (Doll, 1), lambda _: pa.Reply(pa.worker_index())) == 1
    assert GenEvent.delete_handler(events, (Doll, 1), "out") == ("term", "out")
    assert [get(), get()] == [("terminate", "Doll", "out"), pa.GenEventExit(events, (Doll, 1), "normal")]
