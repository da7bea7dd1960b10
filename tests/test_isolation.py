"""Local messages: what passes by reference can't change, what can change is a copy of the receiver's own."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import gc
import pathlib
import re
import sys
import threading
import types
import typing
import uuid
import weakref
import zoneinfo
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import parallel_actors as pa
from parallel_actors.workers import ident, reasons
from parallel_actors.workers.codec import Codec, Encoded, isolate_raw, isolated
from parallel_actors.workers.errors import NotPicklable

contract = pytest.mark.contract

makers: Any = ident  # its stub leaves the makers out: users have none
PARAMS = "__dataclass_params__"
PID = makers._pid(0x1234567800010002, 7)
REF = makers._ref(0x1234567800010002, 9)


@pytest.fixture
def codec() -> Codec:
    return Codec()


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: object
    y: object = 0


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlots:
    x: object


@dataclasses.dataclass(frozen=True)
class FrozenChild(Frozen):
    z: object = 0


@dataclasses.dataclass(frozen=True)
class FrozenGeneric(typing.Generic[typing.TypeVar("T")]):  # type: ignore[misc]
    x: object


class Named(typing.NamedTuple):
    a: object
    b: object = None


def top_level(x: list[int] = []) -> list[int]:  # noqa: B006
    return x


class Shop(pa.Actor):
    @pa.cast
    def open(self) -> None: ...


IMMUTABLE: list[object] = [
    None,
    True,
    1,
    2**100,
    1.5,
    1j,
    "text",
    b"bytes",
    ...,
    (),
    ("inc", 1),
    ("a", ("b", (2, frozenset({1, (2, 3)})))),
    frozenset({"a"}),
    range(3),
    PID,
    REF,
    (PID, REF, "x"),
    Colour.RED,
    Number.ONE,
    Frozen(1, "a"),
    Frozen(Frozen((1, 2)), Colour.RED),
    FrozenSlots((1, PID)),
    FrozenChild(1, 2, 3),
    FrozenGeneric(1),
    Named(1, (2,)),
    reasons.Down(REF, PID, reasons.Crash("ValueError", "x", "tb", b"p")),
    reasons.WorkerDown(1, 9),
    datetime.date.today(),
    datetime.datetime.now(),
    datetime.datetime.now(datetime.UTC),
    datetime.datetime.now(zoneinfo.ZoneInfo("UTC")),
    datetime.timedelta(1),
    datetime.UTC,
    decimal.Decimal("1.5"),
    fractions.Fraction(1, 3),
    uuid.uuid4(),
    pathlib.PurePosixPath("/a"),
    pathlib.Path("/a"),
    re.compile("a"),
    Frozen,
    int,
    Colour,
    typing.Protocol,
    len,
    dict.fromkeys,
    top_level,
    functools.reduce,
    weakref.finalize,
    lambda x: x,
    lambda x=(1, 2), *, y="s": x,
    Frozen(len, top_level),
    {1: 1}.__class__,
    pa.ref(Shop, PID),
    pa.ReplyTo((PID, REF)),
]


@pytest.mark.parametrize("value", IMMUTABLE, ids=lambda value: type(value).__name__)
@contract("S1.2", partly=True)
def test_what_is_deeply_immutable_passes_by_reference(codec: Codec, value: object) -> None:
    assert isolate_raw(codec, value) is value
    packed = isolate_raw(codec, ("tag", value))
    assert packed[1] is value
    (passed,) = isolate_raw(codec, [value])
    assert passed is value
    if type(value) not in (types.FunctionType, Frozen):
        assert isolate_raw(codec, {"k": value})["k"] is value


class Mutable:
    def __init__(self) -> None:
        self.items: list[int] = [1]


class Extra(Frozen):
    """Not a dataclass itself: instances have more than the fields."""


@dataclasses.dataclass(frozen=True)
class Cached:
    x: int

    @functools.cached_property
    def squares(self) -> list[int]:
        return [self.x**2]


class Mixin:
    def remember(self, what: object) -> None:
        object.__setattr__(self, "memory", what)


@dataclasses.dataclass(frozen=True)
class WithMixin(Mixin):
    x: int


class SlottedMixin:
    __slots__ = ("hidden",)


@dataclasses.dataclass(frozen=True, slots=True)
class WithSlottedMixin(SlottedMixin):
    x: int


@dataclasses.dataclass(frozen=True)
class FrozenList(list):  # type: ignore[type-arg]
    x: int = 0


@dataclasses.dataclass
class Thawed:
    x: int


class Meta(type):
    asked = 0

    def __hash__(cls) -> int:
        Meta.asked += 1
        return 1

    def __eq__(cls, other: object) -> bool:
        Meta.asked += 1
        return cls is other


@dataclasses.dataclass(frozen=True)
class WeirdMeta(metaclass=Meta):
    x: int


class Str(str):
    pass


class NamedWithDict(collections.namedtuple("Base", "a")):
    pass


def cached() -> Cached:
    made = Cached(3)
    assert made.squares == [9]
    return made


def extra() -> Extra:
    made = Extra(1)
    made.__dict__["more"] = [1]
    return made


def rebindable() -> Frozen:
    made = Frozen(1)
    made.__dict__["note"] = "x"  # immutable itself, but nothing keeps it from being replaced
    return made


def mixed() -> WithMixin:
    made = WithMixin(1)
    made.remember([1])
    return made


def slot_mixed() -> WithSlottedMixin:
    made = WithSlottedMixin(1)
    object.__setattr__(made, "hidden", [1])
    return made


def named() -> object:
    made: Any = NamedWithDict(1)
    made.more = [1]
    return made


def stringy() -> Str:
    made = Str("a")
    made.more = [1]  # type: ignore[attr-defined]
    return made


MUTABLE: list[Callable[[], object]] = [
    lambda: [1],
    lambda: {"a": 1},
    lambda: {1},
    lambda: bytearray(b"a"),
    lambda: ([1],),
    lambda: Frozen([1]),
    lambda: Frozen((1, {2: [3]})),
    lambda: FrozenSlots({1: 2}),
    lambda: Named([1]),
    lambda: Mutable(),
    lambda: Thawed(1),
    lambda: (1, Mutable()),
    lambda: {"a": Mutable()},
    cached,
    extra,
    rebindable,
    mixed,
    slot_mixed,
    named,
    stringy,
    lambda: FrozenList(1),
    lambda: collections.OrderedDict(a=1),
    lambda: collections.defaultdict(list, a=[1]),
    lambda: collections.deque([1]),
    lambda: types.SimpleNamespace(a=1),
    lambda: [1].append,
    lambda: Mutable().__init__,  # type: ignore[misc]
    lambda: lambda x=[1]: x,
    lambda: lambda *, x={"a": 1}: x,
    lambda: functools.partial(print, [1]),
    lambda: ValueError([1]),
    lambda: frozenset({Frozen(Mutable())}),
]


def parts(o: object, seen: dict[int, object] | None = None) -> dict[int, object]:
    """Everything reachable that can change, by id. What belongs to the worker (modules, classes) doesn't count."""
    seen = {} if seen is None else seen
    todo = [o]
    known = set()
    while todo:
        it = todo.pop()
        if id(it) in known or isinstance(it, (type, types.ModuleType, str, int, bytes, float, ident.Pid, enum.Enum)):
            continue
        known.add(id(it))
        if isinstance(it, types.FunctionType):
            todo += [it.__defaults__, it.__kwdefaults__, it.__closure__]
            continue
        if isinstance(it, types.CellType) or not isinstance(it, (tuple, frozenset, type(None))):
            seen[id(it)] = it
        if isinstance(it, (types.BuiltinFunctionType, types.MethodType)):
            if isinstance(it.__self__, types.ModuleType):
                del seen[id(it)]
            todo.append(it.__self__)
        elif dataclasses.is_dataclass(it) and getattr(type(it), PARAMS).frozen:
            if not getattr(it, "__dict__", {}).keys() - {f.name for f in dataclasses.fields(it)}:
                del seen[id(it)]  # itself it can't change; its fields are looked at
            todo += [getattr(it, f.name) for f in dataclasses.fields(it)]
            todo += getattr(it, "__dict__", {}).values()
        else:
            todo += gc.get_referents(it)
    return seen


@pytest.mark.parametrize("make", MUTABLE)
@contract("S1.2", partly=True)
def test_nothing_mutable_is_shared(codec: Codec, make: Callable[[], object]) -> None:
    message = make()
    got = isolated(codec, message)
    assert type(got) is type(message)
    assert got is not message
    shared = parts(message).keys() & parts(got).keys()
    assert [it for id, it in parts(message).items() if id in shared] == []


plain = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=3), st.just(PID), st.just(Colour.RED), st.just(Frozen(1))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=2) | st.tuples(st.integers(0, 3), st.text(max_size=2)), inner, max_size=4),
        st.sets(st.integers(), max_size=3),
        st.binary(max_size=3).map(bytearray),
        inner.map(Frozen),
        inner.map(lambda x: (x, x, [x])),
    ),
    max_leaves=20,
)


def shape(o: object) -> object:
    """What can be told apart about a value: types, content, and which mutable parts are the same object."""
    numbers: dict[int, int] = {}

    def of(it: object) -> object:
        if isinstance(it, (list, dict, set, bytearray)):
            if id(it) in numbers:
                return ("again", numbers[id(it)])
            numbers[id(it)] = len(numbers)
        if isinstance(it, (list, tuple)):
            return (type(it), [of(x) for x in it])
        if isinstance(it, dict):
            return (dict, [(of(k), of(v)) for k, v in it.items()])
        if isinstance(it, Frozen):
            return (Frozen, of(it.x), of(it.y))
        return (type(it), it if not isinstance(it, (set, bytearray)) else sorted(it))

    return of(o)


@given(plain)
def test_isolation_keeps_value_types_and_sharing_and_shares_nothing(message: object) -> None:
    before = shape(message)
    got = isolated(Codec(), message)
    assert shape(got) == before == shape(message)
    assert not parts(message).keys() & parts(got).keys()


@given(plain)
def test_isolation_releases_what_it_touches(message: object) -> None:
    probe = [message]
    codec = Codec()
    isolated(codec, probe)
    count = sys.getrefcount(message)
    for _ in range(3):
        isolated(codec, probe)
        isolate_raw(codec, message)
    if type(message) not in (int, type(None), str):
        assert sys.getrefcount(message) == count


@contract("S1.2", partly=True)
def test_a_change_after_the_send_is_not_seen(codec: Codec) -> None:
    inner = [1]
    message: dict[str, Any] = {"a": inner, "b": (inner, {2}), "c": bytearray(b"x")}
    got = isolated(codec, message)
    inner.append(2)
    message["b"][1].add(3)
    message["c"] += b"y"
    assert got == {"a": [1], "b": ([1], {2}), "c": bytearray(b"x")}
    assert got["a"] is got["b"][0]


def test_sharing_is_kept(codec: Codec) -> None:
    one: list[int] = []
    for message in ([one, one], (one, (one,)), {"a": one, "b": [one]}, [(one,), (one,)]):
        got = isolated(codec, message)
        assert got == message
        first, second = [it for it in parts(got).values() if it == []] * 2
        assert first is second
    pair = (one, 1)
    a, b = isolated(codec, [pair, pair])
    assert a[0] is b[0]
    nested = ([one, one],)
    del one
    got = isolated(codec, nested)
    assert got[0][0] is got[0][1]
    many = [[i] for i in range(100)]
    got = isolated(codec, many + many)
    assert all(got[i] is got[i + 100] for i in range(100))
    assert got == many + many


def test_sharing_is_kept_when_nothing_else_holds_the_shared_part(codec: Codec) -> None:
    def twice(message: Any) -> Any:
        message["b"] = message["a"]
        return message

    got = isolated(codec, twice({"a": [1]}))
    assert got["a"] is got["b"]
    got = isolated(codec, [[1]] * 2)
    assert got[0] is got[1]
    got = isolated(codec, ([1],) * 2)
    assert got[0] is got[1]
    got = isolated(codec, [([1],)] * 2)
    assert got[0][0] is got[1][0]
    got = isolated(codec, twice({"a": ({2: bytearray(b"x")},)}))
    assert got["a"][0] is got["b"][0]


def test_cycles(codec: Codec) -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    got = isolated(codec, ring)
    assert got[1] is got
    assert got is not ring
    knot: tuple[Any, ...] = ([],)
    knot[0].append(knot)
    got = isolated(codec, knot)
    assert got[0][0] is got
    record: dict[str, Any] = {}
    record["me"] = {"up": (record,)}
    got = isolated(codec, record)
    assert got["me"]["up"][0] is got
    node = Mutable()
    node.items = [node]  # type: ignore[list-item]
    got = isolated(codec, [node])
    assert got[0].items[0] is got[0]


def test_a_nest_of_shared_tuples_costs_no_more_than_its_objects(codec: Codec) -> None:
    nest: tuple[object, ...] = ([1],)
    immutable: tuple[object, ...] = (1, "a")
    for _ in range(12):
        nest = (nest,) * 12
        immutable = (immutable,) * 12
    got = isolated(codec, nest)
    assert got[3] is got[7]
    assert isolate_raw(codec, immutable) is immutable
    assert isolated(codec, Frozen(immutable[0])).x[5] is not None


@pytest.mark.parametrize("depth", [10, 31, 32, 33, 100, 400])
def test_depth(codec: Codec, depth: int) -> None:
    deep: list[Any] = []
    for _ in range(depth):
        deep = [deep, ({"k": 1},)]
    got = isolated(codec, deep)
    assert got == deep
    assert not parts(got).keys() & parts(deep).keys()


@contract("S1.2", "S1.3", partly=True)
def test_what_can_t_be_pickled_is_refused_here_too(codec: Codec) -> None:
    lock = threading.Lock()
    for message in (lock, [lock], {"a": (i for i in [1])}, lambda: lock):
        with pytest.raises(NotPicklable):
            isolate_raw(codec, message)
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(NotPicklable, match="nests less deeply"):
        isolate_raw(codec, deep)
    while deep:
        deep = deep.pop()


# --- functions


def counter() -> Callable[[], int]:
    n = 0

    def count() -> int:
        nonlocal n
        n += 1
        return n

    return count


@contract("S1.2", partly=True)
def test_closures_are_isolated_even_when_what_they_hold_is_immutable(codec: Codec) -> None:
    count = counter()
    copy = isolated(codec, count)
    assert (copy(), copy(), count()) == (1, 2, 1)
    functions = []
    for i in range(3):
        functions.append(isolated(codec, lambda: i))  # noqa: B023, PERF401
    assert [f() for f in functions] == [0, 1, 2]


@contract("S1.2", partly=True)
def test_a_copied_function_is_the_same_function_otherwise(codec: Codec) -> None:
    k = 3

    def f(a: int, b: int = 2, *, c: int = 4) -> tuple[int, ...]:
        """Doc."""
        return a, b, c, k

    copy = isolated(codec, f)
    assert copy is not f
    assert copy(1) == (1, 2, 4, 3)
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__", "__code__"):
        assert getattr(copy, name) == getattr(f, name)
    assert copy.__globals__ is f.__globals__

    def recursive(n: int) -> int:
        return 1 if n < 2 else n * recursive(n - 1)

    copy = isolated(codec, recursive)
    assert copy(5) == 120
    assert copy.__closure__[0].cell_contents is copy


@contract("S1.2", partly=True)
def test_a_closure_over_something_mutable_is_copied(codec: Codec) -> None:
    items: list[int] = []

    def append() -> list[int]:
        items.append(1)
        return items

    assert isolated(codec, append)() == [1]
    assert items == []
    inner = [0]

    def f() -> list[int]:
        return g()

    def g() -> list[int]:
        inner[0] += 1
        return inner

    assert isolated(codec, f)() == [1]
    assert inner == [0]


def test_a_function_with_attributes_of_its_own(codec: Codec) -> None:
    f = lambda: 1  # noqa: E731
    f.seen = []  # type: ignore[attr-defined]
    copy = isolated(codec, f)
    copy.seen.append(1)
    assert f.seen == []  # type: ignore[attr-defined]


# --- no user code in the copier


class Watched:
    """A key whose hash is counted, and breaks after the dict is made."""

    hashes = 0

    def __hash__(self) -> int:
        Watched.hashes += 1
        return 1


@dataclasses.dataclass(frozen=True)
class Key:
    x: int

    def __hash__(self) -> int:
        Watched.hashes += 1
        return 1


def test_the_copier_runs_no_user_code(codec: Codec) -> None:
    message = {Key(1): 1}
    before = Watched.hashes
    got = isolate_raw(codec, message)
    assert type(got) is dict
    assert Watched.hashes == before
    assert type(isolate_raw(codec, {Key(1): [1]})) is Encoded
    asked = Meta.asked
    assert isolate_raw(codec, [WeirdMeta])[0] is WeirdMeta
    assert Meta.asked == asked
    assert type(isolate_raw(codec, [WeirdMeta(1)])) is Encoded


def test_a_dict_keeps_its_order_and_a_set_its_elements(codec: Codec) -> None:
    message: dict[Any, Any] = {i: [i] for i in range(50)}
    for i in range(0, 50, 3):
        del message[i]
    message["late"] = {"x"}
    got = isolated(codec, message)
    assert list(got.items()) == list(message.items())
    assert isolated(codec, {1, "a", (2, Colour.RED)}) == {1, "a", (2, Colour.RED)}
    mixed_set: set[Any] = {Frozen(1), Mutable}
    assert isolated(codec, mixed_set) == mixed_set


def test_classes_made_on_the_fly_don_t_pile_up(codec: Codec) -> None:
    kept = []
    cls: Any = None
    made: Any = None
    for _ in range(5000):
        cls = type("Made", (tuple,), {"__slots__": ()})
        made = cls()
        assert isolate_raw(codec, made) is made
        kept.append(weakref.ref(cls))
    del cls, made
    gc.collect()
    assert sum(ref() is not None for ref in kept) < 4500


# --- numpy


def test_arrays_are_copied_by_numpy_itself(codec: Codec) -> None:
    np = pytest.importorskip("numpy")
    array = np.arange(12.0).reshape(3, 4).T
    got = isolate_raw(codec, {"a": array, "b": [array]})
    assert type(got) is dict
    assert got["a"] is got["b"][0]
    assert got["a"] is not array
    assert not np.shares_memory(got["a"], array)
    assert (got["a"] == array).all()
    assert got["a"].flags.f_contiguous == array.flags.f_contiguous
    objects = np.array([[1], None], dtype=object)
    copy = isolated(codec, objects)
    assert copy[0] == [1]
    assert copy[0] is not objects[0]
    number = np.float64(1.5)
    assert isolate_raw(codec, number) is number
    record = np.zeros(1, dtype=[("a", "i4")])[0]
    assert isolated(codec, record) is not record
    sub = np.ma.masked_array([1, 2], mask=[0, 1])
    assert type(isolated(codec, sub)) is type(sub)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()
