"""A mailbox with selective receive, marks and aliases, against a list (S3.1, S3.2, S4.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import parallel_actors as pa
from puppets import GUEST, Puppet, is_mail, place

SUPPRESSED = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

# What can be asked for, and what the model takes for it.
PATTERNS: list[tuple[object, Callable[[Any], bool]]] = [
    (int, lambda m: type(m) is int),
    (str, lambda m: type(m) is str),
    (("a", pa.ANY), lambda m: type(m) is tuple and m[0] == "a"),
    ((pa.ANY, 1), lambda m: type(m) is tuple and m[1] == 1),
    (2, lambda m: m == 2),
    ([int, int], lambda m: type(m) is list and [type(item) for item in m] == [int, int]),
    (is_mail, lambda m: True),
]

messages = st.one_of(
    st.integers(0, 3),
    st.sampled_from(["x", "y"]),
    st.tuples(st.sampled_from("ab"), st.integers(0, 2)),
    st.lists(st.integers(0, 3), max_size=3),
)
steps = st.one_of(
    st.tuples(st.just("send"), messages),
    st.tuples(st.just("send"), messages),
    st.tuples(st.just("take"), st.sets(st.integers(0, len(PATTERNS) - 1), min_size=1, max_size=3)),
    st.tuples(st.just("ref"), st.none()),
    st.tuples(st.just("answer"), st.integers(0, 3)),
    st.tuples(st.just("await"), st.integers(0, 3)),
    st.tuples(st.just("alias"), st.none()),
    st.tuples(st.just("by alias"), st.integers(0, 3)),
    st.tuples(st.just("unalias"), st.integers(0, 3)),
)


class Mailbox:
    """The process under test, and the list that it should be."""

    def __init__(self, actor: Puppet) -> None:
        self.actor = actor
        self.model: list[Any] = []
        self.refs: list[pa.Ref] = []
        self.aliases: list[tuple[pa.Ref, bool]] = []

    def take(self, patterns: list[object], fits: Callable[[Any], bool]) -> None:
        index = next((i for i, message in enumerate(self.model) if fits(message)), None)
        expected = "nothing" if index is None else self.model.pop(index)
        got = self.actor.do(pa.receive, *patterns, timeout=0, default="nothing")
        assert got == expected
        assert type(got) is type(expected)

    def step(self, what: str, value: Any) -> None:
        match what:
            case "send":
                pa.send(self.actor.pid, value)
                self.model.append(value)
            case "take":
                chosen = [PATTERNS[i] for i in sorted(value)]
                self.take([pattern for pattern, _ in chosen], lambda m: any(fits(m) for _, fits in chosen))
            case "ref":
                self.refs.append(self.actor.do(pa.make_ref))
            case "answer" if value < len(self.refs):
                pa.send(self.actor.pid, (self.refs[value], value))
                self.model.append((self.refs[value], value))
            case "await" if value < len(self.refs):
                ref = self.refs[value]
                self.take([(ref, pa.ANY)], lambda m: type(m) is tuple and m[0] == ref)
            case "alias":
                self.aliases.append((self.actor.do(pa.alias), True))
            case "by alias" if value < len(self.aliases):
                ref, on = self.aliases[value]
                pa.send(ref, value)
                if on:
                    self.model.append(value)
            case "unalias" if value < len(self.aliases):
                ref, on = self.aliases[value]
                assert self.actor.do(pa.unalias, ref) == on
                self.aliases[value] = ref, False

    def check(self) -> None:
        while self.model:
            self.take([is_mail], lambda m: True)
        self.take([is_mail], lambda m: True)
        for ref, on in self.aliases:
            assert self.actor.do(pa.unalias, ref) == on


@pytest.mark.contract("S3.1", "S3.2", "S4.4", partly=True)
@pytest.mark.parametrize("where", [0, GUEST])
def test_a_mailbox_is_the_list_of_the_model(node: pa.ActorSystem, where: int) -> None:
    actor = place(where)

    @settings(max_examples=120, deadline=None, suppress_health_check=SUPPRESSED, derandomize=True)
    @given(st.lists(steps, max_size=40))
    def check(script: list[tuple[str, Any]]) -> None:
        mailbox = Mailbox(actor)
        for what, value in script:
            mailbox.step(what, value)
        mailbox.check()

    check()
