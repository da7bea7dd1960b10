"""The name table of a node against a dict (S5.1).

Any process on any worker registers, unregisters, looks up, is born with a name, and dies, by itself or with its worker.
Each step has had its effect everywhere before the next begins.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

import parallel_actors as pa
from leaks import eventually
from puppets import GUEST, WAIT, Puppet, obey, place, puppet

WORKERS = 2
NAMES = st.sampled_from(["red", "green", "blue", "a name that is longer than the others, and not ASCII: \N{SNOWMAN}"])
PLACES = st.sampled_from([0, 1, GUEST])  # who asks
HOMES = st.integers(0, WORKERS - 1)

running: list[pa.ActorSystem] = []


class Names(RuleBasedStateMachine):
    """The model: which process has which name."""

    processes: Bundle[Puppet] = Bundle("processes")

    def __init__(self) -> None:
        super().__init__()
        self.owners: dict[str, Puppet] = {}
        self.alive: dict[Puppet, pa.Ref] = {}
        self.homes: dict[Puppet, int] = {}
        self.killed = False
        self.new_askers()

    def new_askers(self) -> None:
        self.askers = {where: place(where) for where in (0, 1, GUEST)}

    def name_of(self, process: Puppet) -> str | None:
        return next((name for name, owner in self.owners.items() if owner == process), None)

    def born(self, process: Puppet, home: int) -> Puppet:
        self.alive[process] = pa.monitor(process.pid)
        self.homes[process] = home
        return process

    def died(self, process: Puppet, reason: object) -> None:
        """It is dead when its Down has come, and its name is free then (S4.5)."""
        down = pa.receive(pa.Down(self.alive.pop(process), pa.ANY, pa.ANY), timeout=WAIT)
        assert down.reason == reason
        name = self.name_of(process)
        if name is not None:
            del self.owners[name]
            assert pa.whereis(name) is None

    @rule(target=processes, home=HOMES)
    def spawn(self, home: int) -> Puppet:
        return self.born(puppet(home), home)

    @rule(target=processes, asker=PLACES, home=HOMES, name=NAMES)
    def spawn_named(self, asker: int, home: int, name: str) -> Any:
        choices = pa.options(worker=home, name=name)
        if name in self.owners:
            with pytest.raises(pa.NameTaken):
                self.askers[asker].do(choices.spawn, obey)
            return multiple()
        process = self.born(Puppet(self.askers[asker].do(choices.spawn, obey)), home)
        self.owners[name] = process
        return process

    @rule(asker=PLACES, process=processes, name=NAMES)
    def register(self, asker: int, process: Puppet, name: str) -> None:
        expected: type[Exception] | None = None
        if process not in self.alive:
            expected = pa.NoProc
        elif name in self.owners or self.name_of(process) is not None:
            expected = pa.NameTaken
        if expected is None:
            self.askers[asker].do(pa.register, name, process.pid)
            self.owners[name] = process
        else:
            with pytest.raises(expected):
                self.askers[asker].do(pa.register, name, process.pid)

    @rule(asker=PLACES, name=NAMES)
    def unregister(self, asker: int, name: str) -> None:
        if name in self.owners:
            self.askers[asker].do(pa.unregister, name)
            del self.owners[name]
        else:
            with pytest.raises(pa.NotRegistered):
                self.askers[asker].do(pa.unregister, name)

    @rule(asker=PLACES, name=NAMES)
    def send(self, asker: int, name: str) -> None:
        owner = self.owners.get(name)
        if owner is None:
            with pytest.raises(pa.NotRegistered):
                self.askers[asker].do(pa.send, name, "nobody")
        else:
            self.askers[asker].do(pa.send, name, ("do", pa.self_(), 1, pa.self_, (), {}))
            assert pa.receive(("done", 1, True, pa.ANY), timeout=WAIT)[3] == owner.pid

    @rule(process=processes, reason=st.sampled_from(["normal", "boom", "kill"]))
    def end(self, process: Puppet, reason: str) -> None:
        if process not in self.alive:
            return
        if reason == "kill":
            pa.exit(process.pid, "kill")
        else:
            process.tell(leave, reason)
        self.died(process, "killed" if reason == "kill" else reason)

    @precondition(lambda self: not self.killed)
    @rule(worker=HOMES)
    def kill_worker(self, worker: int) -> None:
        """Once per run: it takes half a second."""
        self.killed = True
        former = running[0].worker_pids[worker]
        asker = self.askers[worker].watch()
        os.kill(former, signal.SIGKILL)
        for process in [process for process, home in self.homes.items() if home == worker and process in self.alive]:
            self.died(process, pa.WorkerDown(worker, signal.SIGKILL))
        assert Puppet.reason_of(asker) == pa.WorkerDown(worker, signal.SIGKILL)
        # A spawn goes to the next incarnation, which may not be there yet.
        self.askers[worker] = puppet(worker)

    @invariant()
    def everybody_sees_the_same(self) -> None:
        expected = {name: owner.pid for name, owner in self.owners.items()}
        for asker in self.askers.values():
            assert asker.do(table) == expected

    @invariant()
    def processes_know_their_names(self) -> None:
        for process in self.alive:
            assert pa.process_info(process.pid, "registered_name") == self.name_of(process)

    def teardown(self) -> None:
        me = pa.self_()
        for pid in pa.processes():
            if pid != me:
                pa.exit(pid, "kill")
        eventually(lambda: pa.processes() == [me], "all processes of this run are gone")
        assert pa.registered() == []
        while pa.receive(timeout=0, default=None) is not None:
            pass


def leave(reason: str) -> None:
    raise pa.ProcessExit(reason)


def table() -> dict[str, pa.Pid | None]:
    return {name: pa.whereis(name) for name in pa.registered()}


@pytest.mark.contract("S5.1", "S4.5", "S2.3")
def test_names_are_as_the_model_says(actor_system: pa.ActorSystem) -> None:
    running[:] = [actor_system]
    run_state_machine_as_test(
        Names,
        settings=settings(
            max_examples=20,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
