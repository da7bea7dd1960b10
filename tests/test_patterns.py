"""What `receive` matches (S3.1)."""

from __future__ import annotations

import abc
import copy
import dataclasses
import enum
import functools
import pickle
import typing
from collections import OrderedDict
from typing import Any

import pytest

from parallel_actors.workers import ident
from parallel_actors.workers.codec import Codec, isolated
from parallel_actors.workers.patterns import ANY, matches, mentions
from parallel_actors.workers.reasons import Crash, Down

contract = pytest.mark.contract

T = typing.TypeVar("T")
makers: Any = ident  # its stub leaves the makers out: users have none
PID = makers._pid(1, 7)
REF = makers._ref(1, 9)


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass
class Point3(Point):
    z: Any = 0


@dataclasses.dataclass
class Tagged:
    name: str
    note: Any = dataclasses.field(default="", compare=False)


class Shape(abc.ABC):  # noqa: B024
    pass


class Circle(Shape):
    pass


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Text(str):
    pass


class Pair(typing.NamedTuple):
    a: Any
    b: Any


class OtherPair(typing.NamedTuple):
    a: Any
    b: Any


class Callable_:
    def __call__(self, message: object) -> bool:
        return message == "called"


class Equal:
    """Equal to everything: a reflected `__eq__` mustn't make bools of ints."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


@typing.runtime_checkable
class Sized(typing.Protocol):
    def __len__(self) -> int: ...


# What annotations of older style give at run time.
OPTIONAL: Any = typing.Optional[int]  # noqa: UP045
UNION: Any = typing.Union[int, str]  # noqa: UP007

FITS: list[tuple[object, object]] = [
    (ANY, None),
    (ANY, [1]),
    (typing.Any, 1),
    (object, 1),
    (int, 1),
    (int, True),
    (str, "a"),
    (str, Text("a")),
    (Exception, ValueError()),
    (Shape, Circle()),
    (Sized, [1]),
    (int | str, "a"),
    (OPTIONAL, None),
    (UNION, 1),
    (typing.Sequence, [1]),
    (type(None), None),
    (type, int),
    ("a", "a"),
    ("a", Text("a")),
    (1, 1),
    (1, 1.0),
    (1.5, 1.5),
    (b"a", b"a"),
    (None, None),
    (True, True),
    (..., ...),
    (Colour.RED, Colour.RED),
    (Colour, Colour.RED),
    (PID, makers._pid(1, 7)),
    (REF, makers._ref(1, 9)),
    ((), ()),
    (("inc", int), ("inc", 1)),
    ((str, ANY, (PID, [int])), ("x", None, (PID, [1]))),
    (("a", 1), Pair("a", 1)),
    (Pair("a", int), Pair("a", 1)),
    ([], []),
    ([int, "a"], [1, "a"]),
    ({}, {"a": 1}),
    ({"a": int}, {"a": 1, "b": 2}),
    ({"a": {"b": ANY}, PID: str}, {"a": {"b": 1}, PID: "x"}),
    ({"a": 1}, OrderedDict(a=1)),
    (OrderedDict(a=int), {"a": 1}),
    (Point(1, 2), Point(1, 2)),
    (Point(ANY, int), Point("x", 2)),
    (Point(Point(int), ANY), Point(Point(1), 2)),
    (Tagged("a"), Tagged("a", note=[1])),
    (Down(REF, PID, ANY), Down(REF, PID, "normal")),
    (Down(ANY, ANY, Crash("ValueError", ANY)), Down(REF, PID, Crash("ValueError", "x", "traceback", b"p"))),
    (lambda m: m > 3, 4),
    (lambda m: [0], "x"),
    (("add", lambda n: n % 2), ("add", 3)),
    (Callable_(), "called"),
    (functools.partial(lambda k, m: k == m, 3), 3),
    ({1, 2}, {1, 2}),
    (frozenset({1}), {1}),
    (range(3), range(3)),
    ("x", Equal()),
]

DOESN_T: list[tuple[object, object]] = [
    (int, "a"),
    (bool, 1),
    (Shape, 1),
    (int | str, 1.5),
    (UNION, None),
    ("a", "b"),
    ("a", b"a"),
    (1, True),
    (0, False),
    (1.0, True),
    (True, 1),
    (False, 0),
    (None, 0),
    (None, False),
    (None, Equal()),
    (True, Equal()),
    (..., None),
    ("", None),
    (Colour.RED, Colour.BLUE),
    (Colour.RED, 1),
    (PID, makers._pid(1, 8)),
    (PID, (1, 7)),
    (REF, makers._ref(2, 9)),
    (REF, makers._pid(1, 9)),
    (PID, Equal()),
    ((), ("a",)),
    (("inc", int), ("inc", 1, 2)),
    (("inc", int), ["inc", 1]),
    (("inc", int), "in"),
    (("a", (1, 2)), ("a", (1, 3))),
    (Pair("a", int), ("a", 1)),
    (Pair(1, 2), OtherPair(1, 2)),
    ([int], (1,)),
    ([int], [1, 2]),
    ({"a": int}, {"b": 1}),
    ({"a": int}, {"a": "x"}),
    ({"a": 1}, [("a", 1)]),
    (Point(1, 2), Point(1, 3)),
    (Point(1, 0), Point3(1, 0)),
    (Point3(1, 0), Point(1, 0)),
    (Point(True), Point(1)),
    (Point(1), (1, 0)),
    (Tagged("a"), Tagged("b")),
    (Down(ANY, ANY, "normal"), Down(REF, PID, "shutdown")),
    (lambda m: m == 3, 4),
    (lambda m: [], "x"),
    ({1, 2}, {1}),
]


@pytest.mark.parametrize(("pattern", "message"), FITS, ids=lambda it: type(it).__name__)
@contract("S3.1", partly=True)
def test_fits(pattern: object, message: object) -> None:
    assert matches(pattern, message) is True


@pytest.mark.parametrize(("pattern", "message"), DOESN_T, ids=lambda it: type(it).__name__)
@contract("S3.1", partly=True)
def test_doesn_t_fit(pattern: object, message: object) -> None:
    assert matches(pattern, message) is False


@pytest.mark.parametrize(
    "pattern",
    [list[int], typing.Sequence[int], int | list[int], typing.Literal["a"], typing.Callable[[int], str], T],
    ids=str,
)
def test_types_with_parameters_are_refused_with_what_to_do(pattern: object) -> None:
    with pytest.raises(TypeError, match=r"expected a pattern .* got .* use the bare type, or a predicate"):
        matches(pattern, "x")


def test_an_async_predicate_is_refused() -> None:
    async def predicate(message: object) -> bool:
        return True

    with pytest.raises(TypeError, match="expected a plain function as a predicate"):
        matches(predicate, 1)


class Broken:
    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = None  # type: ignore[assignment]


class BrokenBool:
    def __bool__(self) -> bool:
        raise ZeroDivisionError


class BrokenMeta(type):
    def __instancecheck__(cls, it: object) -> bool:
        raise ZeroDivisionError


class BrokenType(metaclass=BrokenMeta):
    pass


def divide(message: object) -> bool:
    return bool(1 // 0)


@pytest.mark.parametrize("wrap", [lambda it: it, lambda it: (it,), lambda it: [it], lambda it: {"k": it}, Point])
@pytest.mark.parametrize(
    ("pattern", "message"), [(Broken(), 1), ("a", Broken()), (divide, 1), (lambda m: BrokenBool(), 1), (BrokenType, 1)]
)
@contract("S3.1", partly=True)
def test_what_user_code_raises_comes_through(wrap: Any, pattern: object, message: object) -> None:
    with pytest.raises(ZeroDivisionError):
        matches(wrap(pattern), wrap(message))


def test_a_pattern_that_holds_itself_is_an_error() -> None:
    pattern: list[Any] = []
    pattern.append(pattern)
    message: list[Any] = []
    message.append(message)
    with pytest.raises(RecursionError, match="holds itself"):
        matches(pattern, message)


def test_a_predicate_may_change_what_is_being_matched() -> None:
    message: list[Any] = [[1], [2], [3]]

    def clear(it: object) -> bool:
        message.clear()
        pattern.clear()
        return True

    pattern: list[Any] = [clear, ANY, ANY]
    assert matches(pattern, message) is True  # what is left of both is equally long
    shared: dict[str, Any] = {"a": 1, "b": 2}

    def drop(it: object) -> bool:
        del shape["b"]
        shared.clear()
        return True

    shape: dict[str, Any] = {"a": drop, "b": 2}
    with pytest.raises(RuntimeError, match="changed size"):
        matches(shape, shared)


def test_any_is_one_wherever_it_goes() -> None:
    assert repr(ANY) == "ANY"
    assert pickle.loads(pickle.dumps(ANY)) is ANY
    assert copy.deepcopy([ANY])[0] is ANY
    assert isolated(Codec(), {"a": ANY})["a"] is ANY


OTHER = makers._ref(1, 10)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ((REF, ANY), True),
        (("reply", REF), True),
        (("reply", (REF, ANY)), True),
        (REF, True),
        ((OTHER, ANY), False),
        ((ANY, PID), False),
        (ANY, False),
        ([REF], False),
        ({"a": REF}, False),
        (lambda m: REF, False),
        ((Broken(),), False),
    ],
)
@contract("S3.2", partly=True)
def test_mentions(pattern: object, expected: bool) -> None:
    assert mentions(pattern, REF) is expected
