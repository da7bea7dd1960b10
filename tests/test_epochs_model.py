"""Who may use a ring, and when: all interleavings of a small instance of docs/internals.md, "Epochs" (S2.1, S2.4).

Two endpoints, X (0) and Y (1), the pair of rings between them, and the root. Each function below is a transcription by
hand of the one that its comment names; each `yield` is one access to the shared memory, and between any two of them
anybody else may move or be killed. Slot words, epochs, tails, heads, records and dirty bits are in the memory; what an
endpoint believes, its overflow and its positions are its own and die with it.

The instance: workers (replaced at once, live before they start) and guests (whose slot is free until somebody claims
it); one or two records of room in a ring; the numbers of deaths and of puts stand at each test. A put is for the
incarnation that the producer believes in, or for a newer one that a third party told it of. `WDOWN` comes as late as it
likes, in order; an endpoint looks at a ring only where its dirty bit was set, or for `WDOWN`.

What must hold:
- a consumer reads only records of the incarnation it believes in, for its own, in the order of the puts, each once;
- nobody writes to a ring that another resets, and nobody resets one that a live endpoint uses;
- when a death acts, everything that the dead had published is read (the prefix, then the Down); a consumer that went
  live after the count never believed in the dead one, and reads nothing of it: an empty prefix;
- where nothing moves any more, all overflow is empty, and each live endpoint has read all that the live other sent it.

Left out: the order of stores and later loads on real processors, parking and hungry producers (the wake-up model in
test_segment.py has them, and a guest's going live too), fragments, spawn counters, and the rings to and from the root,
which are queues here: the root resets them before a replacement starts. The root notices every death at some time.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import pytest

contract = pytest.mark.contract

ROOT = 2
NAMES = ("X", "Y", "the root")
# What a slot's state can be. A worker's is down, a guest's claimed, between its death and its replacement.
FREE, CLAIMED, LIVE, ENDED, DOWN = range(5)

# The memory is a tuple. A ring has the number of its producer.
SLOT = (0, 1)  # (incarnation, state)
DIRTY = (2, 3)  # of the consumer: the other one has published
EPOCH = (4, 5)  # (producer's incarnation, consumer's)
TAIL = (6, 7)
HEAD = (8, 9)
RECORDS = (10, 11)
WDOWNS = (12, 13)  # under way from the root to this endpoint: the other's incarnations that died
# Not in the real memory: what was published last, (producer's incarnation, consumer's, the tail); and the budgets.
PUBLISHED = (14, 15)
PUTS, DEATHS = 16, 17
CELLS = [
    f"{name}[{who}]"
    for names, whose in (
        ("slot dirty", "XY"),
        ("epoch tail head records", ("X>Y", "Y>X")),
        ("wdowns", "XY"),
        ("published", ("X>Y", "Y>X")),
    )
    for name in names.split()
    for who in whose
]

Memory = tuple[Any, ...]
Record = tuple[int, int, int]  # producer's incarnation, consumer's, number among those


class Violation(Exception):
    """Something that must hold doesn't."""


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """One access to the memory. `writes`: the ring that it changes; `opens`: the endpoint whose slot it opens again."""

    text: str
    act: Callable[[list[Any]], Any]
    writes: int | None = None
    opens: int | None = None


Program = Generator[Step, Any, None]
Part = Generator[Step, Any, bool]


def load(cell: int) -> Step:
    return Step(f"load {CELLS[cell]}", lambda memory: memory[cell])


def store(cell: int, value: Any, ring: int | None = None) -> Step:
    def act(memory: list[Any]) -> None:
        memory[cell] = value

    return Step(f"{CELLS[cell]} := {value}", act, ring)


def swap(cell: int, value: Any) -> Step:
    def act(memory: list[Any]) -> Any:
        old, memory[cell] = memory[cell], value
        return old

    return Step(f"swap {CELLS[cell]} to {value}", act)


def record_at(ring: int, place: int, memory: list[Any]) -> Any:
    return memory[RECORDS[ring]][place]


@dataclass(slots=True)
class Endpoint:
    """What one incarnation of an endpoint knows: of Scheduler, Outbox and Inbox what matters here."""

    me: int
    incarnation: int = 0
    believed: int = 0
    out_peer: int = 0
    out_usable: bool = False
    out_tail: int = 0
    head_seen: int = 0
    overflow: tuple[tuple[int, int], ...] = ()  # (for which incarnation, number)
    sent: tuple[int, ...] = ()  # puts so far, by incarnation
    in_peer: int = 0
    in_usable: bool = False
    position: int = 0
    got: int = 0  # records read of `in_peer`
    resetting: int | None = None

    @property
    def peer(self) -> int:
        return 1 - self.me

    def believe(self, incarnation: int) -> None:
        self.believed = self.out_peer = self.in_peer = incarnation


@dataclass(slots=True)
class Root:
    resetting: int | None = None


@dataclass(eq=False, slots=True)
class Agent:
    """Where an endpoint or the root stands: idle, or before `step`. The same knowledge is the same object.

    What comes next depends on that and on what the step returns alone, so each is computed once, by running its program
    again up to there.
    """

    known: tuple[Any, ...] | None  # None: dead
    doing: tuple[Any, ...] | None = None
    results: tuple[Any, ...] = ()
    step: Step | None = None
    uses: tuple[int, ...] = ()
    resetting: int | None = None
    begun: dict[tuple[Any, ...], Agent] = field(default_factory=dict)
    after: dict[Any, Agent] = field(default_factory=dict)


State = tuple[tuple[Agent, Agent, Agent], Memory]  # X, Y, the root


class Model:
    """The rules, or with `broken` one of them changed.

    Args:
        kinds: "worker" or "guest", of X and Y.
        deaths, puts: at most so many in one run of it, of all incarnations together.
        room: of a ring, in records.
        broken: one of BROKEN; "" for none.
    """

    def __init__(self, kinds: tuple[str, str], deaths: int, puts: int, room: int, broken: str = "") -> None:
        self.kinds, self.room, self.broken = kinds, room, broken
        self.deaths, self.puts = deaths, puts
        self.idle: dict[tuple[Any, ...], Agent] = {}
        self.dead = Agent(None)

    # --- Outbox (workers/ring.pyx) ---

    def out_ready(self, my: Endpoint) -> Part:
        """Outbox._ready"""
        if my.out_usable:
            return True
        epoch = yield load(EPOCH[my.me])
        if epoch != (my.incarnation, my.out_peer) and self.broken != "no look at the epoch":
            return False
        my.out_usable = True
        my.out_tail = yield load(TAIL[my.me])
        my.head_seen = yield load(HEAD[my.me])
        return True

    def write(self, my: Endpoint, target: int, number: int) -> Part:
        """Outbox._room, Outbox._write"""
        if my.out_tail - my.head_seen >= self.room:
            my.head_seen = yield load(HEAD[my.me])
            if my.out_tail - my.head_seen >= self.room:
                return False
        place = my.out_tail % self.room
        record: Record = (my.incarnation, target, number)

        def act(memory: list[Any]) -> None:
            old = memory[RECORDS[my.me]]
            memory[RECORDS[my.me]] = (*old[:place], record, *old[place + 1 :])

        yield Step(f"write {record} at {place}", act, my.me)
        my.out_tail += 1
        return True

    def publish(self, my: Endpoint) -> Program:
        """Outbox._publish, Segment.ring_bell"""
        ring, tail, whose = my.me, my.out_tail, (my.incarnation, my.out_peer)

        def act(memory: list[Any]) -> None:
            memory[TAIL[ring]] = tail
            memory[PUBLISHED[ring]] = (*whose, tail)

        yield Step(f"{CELLS[TAIL[ring]]} := {tail}", act, ring)
        yield store(DIRTY[my.peer], 1)

    def put(self, my: Endpoint, target: int) -> Program:
        """Outbox.put, Outbox._queue"""
        number = my.sent[target]
        my.sent = (*my.sent[:target], number + 1, *my.sent[target + 1 :])
        if (yield from self.out_ready(my)) and not my.overflow and target == my.out_peer:
            wrote = yield from self.write(my, target, number)
            if wrote:
                yield from self.publish(my)
                return
        my.overflow += ((target, number),)

    def flush(self, my: Endpoint) -> Program:
        """Outbox.flush"""
        wrote = False
        if (yield from self.out_ready(my)):
            while my.overflow and my.overflow[0][0] == my.out_peer:
                if not (yield from self.write(my, *my.overflow[0])):
                    break
                my.overflow = my.overflow[1:]
                wrote = True
        if wrote:
            yield from self.publish(my)

    def out_peer_down(self, my: Endpoint, died: int) -> Program:
        """Outbox.peer_down"""
        my.out_peer = max(my.out_peer, died + 1)
        kept = () if self.broken == "overflow for the next thrown away" else my.overflow
        my.overflow = tuple(one for one in kept if one[0] >= my.out_peer)
        # What was sent to the dead doesn't matter any more.
        my.sent = tuple(n if i >= my.out_peer else 0 for i, n in enumerate(my.sent))
        epoch = yield load(EPOCH[my.me])
        if epoch != (my.incarnation, my.out_peer) or self.broken == "reset though handed over":
            my.out_usable = False
            my.out_tail = my.head_seen = 0
            yield from self.reset_ring(my, my.me, (my.incarnation, my.out_peer))

    # --- Inbox (workers/ring.pyx) ---

    def in_ready(self, my: Endpoint) -> Part:
        """Inbox._ready"""
        if my.in_usable:
            return True
        epoch = yield load(EPOCH[my.peer])
        if epoch != (my.in_peer, my.incarnation):
            return False
        my.in_usable = True
        my.position = yield load(HEAD[my.peer])
        return True

    def drain_one(self, my: Endpoint) -> Program:
        """Scheduler.drain_one, Inbox.next, Inbox.release"""
        ring = my.peer
        if not (yield from self.in_ready(my)):
            return
        while True:
            tail = yield load(TAIL[ring])
            if not 0 <= tail - my.position <= self.room:
                raise Violation(f"the tail is {tail}, but the head {my.position}")
            if tail == my.position:
                return
            while my.position != tail:
                place, expected = my.position % self.room, (my.in_peer, my.incarnation, my.got)
                record = yield Step(f"read at {place}", partial(record_at, ring, place))
                if record != expected:
                    raise Violation(f"record {record} is read, expected {expected}")
                my.position += 1
                my.got += 1
                yield store(HEAD[ring], my.position, ring)

    def in_peer_down(self, my: Endpoint, died: int) -> Program:
        """Inbox.peer_down"""
        if died >= my.in_peer:
            my.in_peer = died + 1
            my.got = 0
        epoch = yield load(EPOCH[my.peer])
        if epoch == (my.in_peer, my.incarnation) and self.broken != "reset though handed over":
            return
        my.in_usable = False
        my.position = 0
        yield from self.reset_ring(my, my.peer, (my.in_peer, my.incarnation))
        yield store(DIRTY[my.peer], 1)

    # --- Segment (workers/segment.pyx) ---

    def reset_ring(self, my: Endpoint | Root, ring: int, epoch: tuple[int, int]) -> Program:
        """Segment.reset_ring"""
        stores = [
            store(TAIL[ring], 0, ring),
            store(HEAD[ring], 0, ring),
            store(EPOCH[ring], epoch, ring),
        ]
        my.resetting = ring
        yield from reversed(stores) if self.broken == "epoch before tail and head" else stores
        my.resetting = None

    def reset_pair(self, my: Root, a: int, b: int, of_a: int, of_b: int) -> Program:
        """Segment.reset_pair"""
        yield from self.reset_ring(my, a, (of_a, of_b))
        yield from self.reset_ring(my, b, (of_b, of_a))
        yield store(DIRTY[a], 1)
        yield store(DIRTY[b], 1)

    # --- Scheduler (workers/scheduler.pyx), guest.py, root/node.py ---

    def drain(self, my: Endpoint) -> Program:
        """Scheduler.drain"""
        yield swap(DIRTY[my.me], 0)
        yield from self.drain_one(my)

    def endpoint_down(self, my: Endpoint, died: int) -> Program:
        """Scheduler.endpoint_down"""

        def take(memory: list[Any]) -> None:
            memory[WDOWNS[my.me]] = memory[WDOWNS[my.me]][1:]

        yield Step(f"take WDOWN {died}", take)
        if self.broken == "late news ignored" and died < my.believed:
            return
        if self.broken != "no drain":
            yield from self.drain_one(my)
        if died >= my.believed:
            # No access of the real protocol: the producer is dead, so it could be looked at at any time.
            *whose, published = yield load(PUBLISHED[my.peer])
            if whose == [died, my.incarnation] and published != my.got:
                raise Violation(f"{published} records were published before the death, {my.got} of them read")
        yield from self.in_peer_down(my, died)
        yield from self.out_peer_down(my, died)
        my.believed = max(my.believed, died + 1)

    def start_worker(self, my: Endpoint, incarnation: int) -> Program:
        """boot.py: the constructor of Scheduler"""
        my.incarnation = incarnation
        other = yield load(SLOT[my.peer])
        my.believe(other[0])

    def attach_guest(self, my: Endpoint) -> Program:
        """guest.py: _claim, then the constructor of Scheduler"""
        early = other = (0, 0)

        def claim(memory: list[Any]) -> None:
            incarnation, _ = memory[SLOT[my.me]]
            memory[SLOT[my.me]] = incarnation, CLAIMED

        yield Step("claim", claim)  # by compare-and-swap: `choices` offers it where the slot is free
        my.incarnation, _ = yield load(SLOT[my.me])
        if self.broken == "a guest reads before it goes live":
            early = yield load(SLOT[my.peer])
        yield store(SLOT[my.me], (my.incarnation, LIVE))
        if self.broken != "a guest reads before it goes live":
            other = yield load(SLOT[my.peer])
        my.believe(max(early, other)[0])

    def endpoint_ended(self, my: Root, e: int, incarnation: int) -> Program:
        """Root._endpoint_ended, Scheduler.announce_down, Root._start_worker"""
        other, guest = 1 - e, self.kinds[e] == "guest"
        between = CLAIMED if guest else DOWN
        if self.broken == "a guest's slot free too early" and guest:
            between = FREE
        if self.broken != "counted up after the news":
            yield store(SLOT[e], (incarnation + 1, between))
        of_other, state = yield load(SLOT[other])
        if state == LIVE:

            def tell(memory: list[Any]) -> None:
                memory[WDOWNS[other]] += (incarnation,)

            yield Step(f"send WDOWN {incarnation} to {other}", tell)
        elif self.broken != "the root leaves all rings alone":
            yield from self.reset_pair(my, e, other, incarnation + 1, of_other)
        if self.broken == "counted up after the news":
            yield store(SLOT[e], (incarnation + 1, between))
        if self.broken == "pairs reset at a start":
            of_other, _ = yield load(SLOT[other])
            yield from self.reset_pair(my, e, other, incarnation + 1, of_other)

        def reopen(memory: list[Any]) -> None:
            memory[SLOT[e]] = incarnation + 1, FREE if guest else LIVE
            memory[WDOWNS[e]] = ()  # the root's own endpoint_down: what was for the dead one

        yield Step(f"open slot {e}", reopen, opens=e)

    # --- who can do what ---

    def agent(self, my: Endpoint | Root, doing: tuple[Any, ...] | None, results: tuple[Any, ...]) -> Agent:
        """Where `my` stands, having begun to do that, and got these results. `my` is used up."""
        known = tuple(getattr(my, one.name) for one in fields(my))
        step: Step | None = None
        if doing is not None:
            program: Program = getattr(self, doing[0])(my, *doing[1:])
            try:
                step = next(program)
                for result in results:
                    step = program.send(result)
            except StopIteration:
                return self.agent(my, None, ())
        if step is None:
            known = tuple(getattr(my, one.name) for one in fields(my))
            return self.idle.setdefault(known, Agent(known, None, (), None, *self.marks(my)))
        return Agent(known, doing, results, step, *self.marks(my))

    @staticmethod
    def marks(my: Endpoint | Root) -> tuple[tuple[int, ...], int | None]:
        if isinstance(my, Root):
            return (), my.resetting
        return (my.me,) * my.out_usable + (my.peer,) * my.in_usable, my.resetting

    @staticmethod
    def mind(known: tuple[Any, ...]) -> Endpoint | Root:
        return Endpoint(*known) if len(known) > 1 else Root(*known)

    def begin(self, agent: Agent, doing: tuple[Any, ...]) -> Agent:
        if doing not in agent.begun:
            assert agent.known is not None
            agent.begun[doing] = self.agent(self.mind(agent.known), doing, ())
        return agent.begun[doing]

    def moved(self, state: State, who: int, agent: Agent, puts: int = 0) -> State:
        """`state` after the agent has taken its step, if it has one before it."""
        agents, memory = [*state[0]], [*state[1]]
        memory[PUTS] -= puts
        if (step := agent.step) is not None:
            if (ring := step.writes) is not None:
                self.check_writers(state, who, agent, ring)
            result = step.act(memory)
            if result not in agent.after:
                assert agent.known is not None
                agent.after[result] = self.agent(self.mind(agent.known), agent.doing, (*agent.results, result))
            if (e := step.opens) is not None and self.kinds[e] == "worker":
                agents[e] = self.newborn(e, ("start_worker", memory[SLOT[e]][0]))
            agent = agent.after[result]
        agents[who] = agent
        return (agents[0], agents[1], agents[2]), tuple(memory)

    def newborn(self, e: int, doing: tuple[Any, ...]) -> Agent:
        return self.begin(self.agent(Endpoint(e, sent=(0,) * (self.deaths + 1)), None, ()), doing)

    @staticmethod
    def check_writers(state: State, who: int, agent: Agent, ring: int) -> None:
        for other in range(3):
            if other == who:
                continue
            if state[0][other].resetting == ring:
                raise Violation(f"{NAMES[who]} writes to ring {ring} while {NAMES[other]} resets it")
            if agent.resetting == ring and ring in state[0][other].uses:
                raise Violation(f"{NAMES[who]} resets ring {ring} while {NAMES[other]} uses it")

    def moves(self, state: State) -> Iterator[tuple[str, bool, Callable[[], State]]]:
        """What can happen next: its name, whether it happens for sure if nothing else does, and what it leads to."""
        agents, memory = state
        root = agents[ROOT]
        for e in (0, 1):
            agent, (incarnation, slot) = agents[e], memory[SLOT[e]]
            if agent is self.dead:
                if slot == FREE:
                    claimed = self.newborn(e, ("attach_guest",))
                    yield f"{NAMES[e]} attaches", False, partial(self.moved, state, e, claimed)
                elif slot != DOWN and root.step is None:
                    ended = self.begin(root, ("endpoint_ended", e, incarnation))
                    yield f"the root sees {NAMES[e]} dead", True, partial(self.moved, state, ROOT, ended)
                continue
            if memory[DEATHS]:
                yield f"{NAMES[e]} is killed", False, partial(self.killed, state, e)
            if agent.step is not None:
                yield f"{NAMES[e]}: {agent.step.text}", True, partial(self.moved, state, e, agent)
                continue
            if memory[DEATHS] and self.kinds[e] == "guest":
                # guest.py: detach
                yield f"{NAMES[e]} leaves", False, partial(self.killed, state, e, ENDED)
            for doing, sure in self.choices(agent, memory):
                begun = self.begin(agent, doing)
                puts = int(doing[0] == "put")
                yield f"{NAMES[e]} begins {doing[0]}", sure, partial(self.moved, state, e, begun, puts)
        if root.step is not None:
            yield f"the root: {root.step.text}", True, partial(self.moved, state, ROOT, root)

    @staticmethod
    def choices(agent: Agent, memory: Memory) -> Iterator[tuple[tuple[Any, ...], bool]]:
        assert agent.known is not None
        my = Endpoint(*agent.known)
        incarnation, slot = memory[SLOT[my.peer]]
        if memory[PUTS] and (incarnation > my.out_peer or slot in (LIVE, ENDED)):
            yield ("put", my.out_peer), False
        if memory[PUTS] and incarnation > my.out_peer and slot in (LIVE, ENDED):
            yield ("put", incarnation), False  # a third party knows it already
        if my.overflow:
            yield ("flush",), True
        if memory[DIRTY[my.me]]:
            yield ("drain",), True
        if memory[WDOWNS[my.me]]:
            yield ("endpoint_down", memory[WDOWNS[my.me]][0]), True

    def killed(self, state: State, e: int, slot: int | None = None) -> State:
        agents, memory = [*state[0]], [*state[1]]
        agents[e] = self.dead
        memory[DEATHS] -= 1
        if slot is not None:
            memory[SLOT[e]] = memory[SLOT[e]][0], slot
        return (agents[0], agents[1], agents[2]), tuple(memory)

    def check_end(self, state: State) -> None:
        """Nothing moves any more."""
        minds = [Endpoint(*known) if (known := agent.known) is not None else None for agent in state[0][:2]]
        for my, other in (minds, reversed(minds)):
            if my is None:
                continue
            if my.overflow:
                raise Violation(f"{NAMES[my.me]} waits for ever with {my.overflow}")
            if other is not None and my.sent[other.incarnation] != other.got:
                raise Violation(f"{NAMES[other.me]} has read {other.got} of {my.sent[other.incarnation]} records")

    def explore(self) -> int:
        """How many states there are. Raises Violation, with the shortest way there."""
        free, live = (0, FREE), (0, LIVE)
        ring: tuple[Record | None, ...] = (None,) * self.room
        x, y = (self.newborn(e, ("start_worker", 0)) if self.kinds[e] == "worker" else self.dead for e in (0, 1))
        memory: dict[int, Any] = {
            **{SLOT[e]: live if self.kinds[e] == "worker" else free for e in (0, 1)},
            **dict.fromkeys((*DIRTY, *TAIL, *HEAD), 0),
            **dict.fromkeys(EPOCH, (0, 0)),
            **dict.fromkeys(RECORDS, ring),
            **dict.fromkeys(WDOWNS, ()),
            **dict.fromkeys(PUBLISHED, (0, 0, 0)),
            PUTS: self.puts,
            DEATHS: self.deaths,
        }
        start: State = (x, y, self.agent(Root(), None, ())), tuple(memory[cell] for cell in sorted(memory))
        came: dict[State, State | None] = {start: None}
        todo = deque([start])
        while todo:
            state = todo.popleft()
            at_rest, name = True, ""
            try:
                for name, sure, move in self.moves(state):  # noqa: B007
                    after = move()
                    if sure and after != state:
                        at_rest = False
                    if after not in came:
                        came[after] = state
                        todo.append(after)
                if at_rest:
                    name = "nothing moves"
                    self.check_end(state)
            except Violation as violation:
                raise Violation("\n    ".join([str(violation), *self.way(came, state), name])) from None
        return len(came)

    def way(self, came: dict[State, State | None], state: State) -> list[str]:
        """How it came to this state, in lines."""
        before = came[state]
        if before is None:
            return []
        names = [name for name, _, move in self.moves(before) if move() == state]
        return [*self.way(came, before), names[0]]


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Of a million tuples none is in a cycle; to look for some takes a third of the time."""
    gc.disable()
    yield
    gc.enable()


@contract("S2.1", "S2.4", partly=True)
@pytest.mark.parametrize(
    ("x", "y", "deaths", "puts", "room"),
    [
        pytest.param("worker", "worker", 2, 2, 1),
        pytest.param("worker", "worker", 3, 1, 1),
        pytest.param("worker", "worker", 1, 3, 2),
        pytest.param("worker", "guest", 2, 2, 1),
        pytest.param("worker", "guest", 3, 1, 1),
        pytest.param("guest", "guest", 2, 2, 1),
    ],
)
def test_model_the_epochs_hold(x: str, y: str, deaths: int, puts: int, room: int) -> None:
    assert Model((x, y), deaths, puts, room).explore() > 50_000


# What is changed in the rules, between which two, and what comes of it.
BROKEN = [
    ("pairs reset at a start", "worker", "worker", "root resets ring . while . uses it"),
    ("pairs reset at a start", "worker", "guest", "root resets ring . while . uses it"),
    ("late news ignored", "worker", "worker", "waits for ever"),
    ("late news ignored", "worker", "guest", "waits for ever"),
    ("overflow for the next thrown away", "worker", "worker", "has read 0 of 1 records"),
    ("no drain", "worker", "worker", "1 records were published before the death, 0 of them read"),
    ("a guest reads before it goes live", "worker", "guest", "the root resets ring 1 while Y uses it"),
    (
        "a guest's slot free too early",
        "worker",
        "guest",
        "the root resets ring . while Y uses it",
    ),
    ("counted up after the news", "worker", "guest", "the root resets ring 1 while Y uses it"),
    ("the root leaves all rings alone", "worker", "guest", "waits for ever"),
    ("reset though handed over", "worker", "worker", "Y resets ring 0 while X uses it"),
    ("epoch before tail and head", "worker", "worker", "Y resets ring 0 while X uses it"),
    ("no look at the epoch", "worker", "worker", "Y resets ring 0 while X uses it"),
]


@pytest.mark.parametrize(("broken", "x", "y", "what"), BROKEN)
def test_model_catches_what_would_break_the_epochs(broken: str, x: str, y: str, what: str) -> None:
    with pytest.raises(Violation, match=what):
        Model((x, y), 2, 1, 1, broken).explore()
