"""Rows, aims and figures: what a benchmark says, and how."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["Aim", "Figure", "Row", "Unit", "above", "at_least", "at_most", "below", "percentile", "shown"]

Unit = Literal["s", "B", "1/s", "1"]


@dataclass(frozen=True, slots=True)
class Aim:
    """What a row is to reach: a ratio to the BEAM's figure, or a value in the row's own unit."""

    limit: float
    ratio: bool
    lower_is_better: bool

    def reached(self, value: float) -> bool:
        """Whether `value`, a ratio or a figure, is within the limit."""
        return value <= self.limit if self.lower_is_better else value >= self.limit

    def text(self, unit: Unit) -> str:
        """As in `at most 0.3x` or `at most 50 ms`."""
        limit = f"{self.limit:g}x" if self.ratio else shown(self.limit, unit)
        return f"{'at most' if self.lower_is_better else 'at least'} {limit}"


def at_most(ratio: float) -> Aim:
    """At most `ratio` times the BEAM's figure."""
    return Aim(ratio, True, True)


def at_least(ratio: float) -> Aim:
    """At least `ratio` times the BEAM's figure."""
    return Aim(ratio, True, False)


def below(value: float) -> Aim:
    """At most `value`, in the row's unit."""
    return Aim(value, False, True)


def above(value: float) -> Aim:
    """At least `value`, in the row's unit."""
    return Aim(value, False, False)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of a benchmark: its name in the table and in the JSON."""

    name: str
    unit: Unit
    aim: Aim | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured row: the median of `runs` runs, the least and the greatest."""

    name: str
    value: float
    unit: Unit
    min: float
    max: float
    runs: int
    params: Mapping[str, object]

    @classmethod
    def of(cls, name: str, unit: Unit, values: Sequence[float], params: Mapping[str, object]) -> Figure:
        """The figure of these runs."""
        return cls(name, statistics.median(values), unit, min(values), max(values), len(values), params)

    def as_json(self) -> dict[str, object]:
        """One object of the list that `--json` writes."""
        return asdict(self)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of `values` do not exceed, as in OTP's benchmarks."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1e6 * len(ordered)) // 1_000_000) - 1)]


_SCALES: dict[Unit, tuple[tuple[float, str], ...]] = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1.0, "B")),
    "1/s": ((1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")),
    "1": ((1.0, ""),),
}


def shown(value: float, unit: Unit) -> str:
    """A figure with three digits, in a unit that fits: `1.07 us`, `9.07 M/s`, `2950 B`."""
    scales = _SCALES[unit]
    factor, name = next((scale for scale in scales if abs(value) >= scale[0]), scales[-1])
    number = value / factor
    text = f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"
    return f"{text} {name}".rstrip()
