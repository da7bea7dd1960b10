"""A door with a code lock: a state machine (OTP's `gen_statem`).

    parallel-actors run examples/door.py

    locked --(the right code)--> open --(half a second)--> locked
       `--(three wrong codes)--> alarm --(the key)--> locked

Who asks to walk in while the door is locked waits: the call is postponed, and answered when it opens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import parallel_actors as pa

DoorState = Literal["locked", "open", "alarm"]
OPEN_FOR = 0.5  # seconds


@dataclass(frozen=True)
class Lock:
    code: str
    typed: str = ""
    wrong: int = 0


class Door(pa.GenStatem[DoorState, Lock], state_enter=True):
    def init(self, code: str) -> pa.NextState[DoorState, Lock]:
        return pa.NextState("locked", Lock(code))

    @pa.state
    def locked(self, event: pa.Event, lock: Lock) -> pa.Transition[DoorState, Lock]:
        match event:
            case pa.Enter():
                return pa.KeepState(Lock(lock.code))
            case pa.Cast(("button", str(digit))):
                typed = lock.typed + digit
                if typed == lock.code:
                    return pa.NextState("open", lock)
                if len(typed) < len(lock.code):
                    return pa.KeepState(replace(lock, typed=typed), pa.EventTimeout(5.0))
                if lock.wrong == 2:
                    return pa.NextState("alarm", lock)
                return pa.KeepState(Lock(lock.code, wrong=lock.wrong + 1))
            case pa.EventTimeout():  # somebody has stopped in the middle
                return pa.KeepState(replace(lock, typed=""))
            case _:
                return self.in_any_state(event, "locked")

    @pa.state
    def open(self, event: pa.Event, lock: Lock) -> pa.Transition[DoorState, Lock]:
        match event:
            case pa.Enter():
                return pa.KeepStateAndData(pa.StateTimeout(OPEN_FOR))
            case pa.StateTimeout():
                return pa.NextState("locked", lock)
            case pa.Call("walk in"):
                return pa.KeepStateAndData(event.reply("come in"))
            case _:
                return self.in_any_state(event, "open")

    @pa.state
    def alarm(self, event: pa.Event, lock: Lock) -> pa.Transition[DoorState, Lock]:
        match event:
            case pa.Cast("key"):
                return pa.NextState("locked", lock)
            case _:
                return self.in_any_state(event, "alarm")

    def in_any_state(self, event: pa.Event, state: DoorState) -> pa.Transition[DoorState, Lock]:
        match event:
            case pa.Call("state"):
                return pa.KeepStateAndData(event.reply(state))
            case pa.Call("walk in"):
                return pa.KeepStateAndData(pa.Postpone())
            case pa.Cast() | pa.Enter():  # a button that does nothing here
                return pa.KeepStateAndData()
            case _:
                return pa.Stop(("unexpected", event))


def press(door: pa.Pid, code: str) -> None:
    for digit in code:
        pa.cast(door, ("button", digit))


def main() -> None:
    door: pa.Pid = pa.start_link(Door, "1234")
    print(f"the door is {pa.call(door, 'state')}")

    press(door, "1111")
    print(f"a wrong code: it is {pa.call(door, 'state')}")

    visitor = pa.send_request(door, "walk in")
    press(door, "1234")
    print(f"the right one: the visitor who waited hears {visitor.wait(timeout=None)!r}")

    while pa.call(door, "state") == "open":
        pa.sleep(0.05)
    print(f"later it is {pa.call(door, 'state')} again")

    for _ in range(3):
        press(door, "9999")
    print(f"three wrong codes: {pa.call(door, 'state')}")
    pa.cast(door, "key")
    print(f"the key: it is {pa.call(door, 'state')}")
