"""The table: ours, the BEAM's, the ratio, and the aim; with peers a column for each."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parallel_actors.bench.cores import Cores
from parallel_actors.bench.counterparts import Counterpart
from parallel_actors.bench.figures import Figure, Row, shown

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["Beside", "Measured", "show"]


@dataclass(frozen=True, slots=True)
class Beside:
    """A counterpart's figure of a row, and ours over it, pair by pair (None if it was nothing)."""

    name: str
    title: str
    figure: Figure
    ratio: Figure | None

    @classmethod
    def of(
        cls,
        other: Counterpart,
        row: Row,
        ours: Sequence[float],
        theirs: Sequence[float],
        params: Mapping[str, object],
    ) -> Beside:
        """What these runs say: each of ours stands beside one of theirs."""
        name = f"{other.name}_{row.name}"
        ratio = None
        if all(theirs):
            pairs = [own / value for own, value in zip(ours, theirs, strict=True)]
            ratio = Figure.of(f"ratio_{name}", "1", pairs, params)
        return cls(other.name, other.title, Figure.of(name, row.unit, theirs, params), ratio)


@dataclass(frozen=True, slots=True)
class Measured:
    """A row with its figures, and what others did on the cores just before and after."""

    row: Row
    ours: Figure
    beam: Figure | None
    cores: Sequence[Cores] = ()
    others: Sequence[Beside] = ()

    @property
    def ratio(self) -> float | None:
        """Ours over the BEAM's."""
        return None if self.beam is None or self.beam.value == 0 else self.ours.value / self.beam.value

    @property
    def reached(self) -> bool | None:
        """Whether the aim is reached; None where there is no aim, or nothing to compare with."""
        aim = self.row.aim
        if aim is None:
            return None
        value = self.ratio if aim.ratio else self.ours.value
        return None if value is None else aim.reached(value)

    @property
    def disturbed(self) -> bool:
        """Whether others kept cores busy."""
        return not all(cores.free for cores in self.cores)

    @property
    def peers(self) -> list[Beside]:
        """The others without the BEAM, which has columns of its own."""
        return [one for one in self.others if one.figure is not self.beam]

    def figures(self, *, ratios: bool = False) -> list[Figure]:
        """For the JSON: ours, then the BEAM's and those of the peers; with `ratios` ours over each of them."""
        figures = [self.ours, *(one.figure for one in self.others)]
        return figures + [one.ratio for one in self.others if ratios and one.ratio is not None]


_VERDICTS = {True: ("reached", "green"), False: ("missed", "yellow"), None: ("", "")}


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def _range(figure: Figure) -> str:
    if figure.runs == 1:
        return ""
    return f"{shown(figure.min, figure.unit)} .. {shown(figure.max, figure.unit)}"


def _pairs(ratio: Figure | None) -> str:
    if ratio is None:
        return ""
    return _times(ratio.value) + ("" if ratio.runs == 1 else f" ({_times(ratio.min)} .. {_times(ratio.max)})")


def show(measured: Sequence[Measured], notes: Sequence[str]) -> None:
    """Print the table, what to know of the cores, and `notes`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("row", "ours", "min .. max", "BEAM", "min .. max", "ratio", "aim", ""):
        left = title in ("row", "aim", "")
        table.add_column(title, justify="left" if left else "right", no_wrap=title == "row", overflow="fold")
    peers = sorted({peer.title for one in measured for peer in one.peers})
    for title in peers:
        table.add_column(f"{title}, ratio", justify="right", overflow="fold")
    for one in measured:
        unit, beam = one.row.unit, one.beam
        verdict, colour = _VERDICTS[one.reached]
        theirs = {peer.title: peer for peer in one.peers}
        table.add_row(
            one.row.name + ("*" if one.disturbed else ""),
            Text(shown(one.ours.value, unit), style="bold"),
            Text(_range(one.ours), style="dim"),
            "" if beam is None else shown(beam.value, unit),
            Text("" if beam is None else _range(beam), style="dim"),
            "" if one.ratio is None else _times(one.ratio),
            "" if one.row.aim is None else one.row.aim.text(unit),
            Text(verdict, style=colour),
            *(_cell(theirs[title]) if title in theirs else "" for title in peers),
        )
    # Into a file or a pipe whole lines; a terminal has the width that it has.
    console = Console(width=None if sys.stdout.isatty() else 140 + 28 * len(peers))
    console.print(table)
    console.print()
    console.print(_about_cores(measured), highlight=False)
    for note in notes:
        console.print(note, highlight=False)


def _cell(peer: Beside) -> Text:
    """A peer's median, its extremes, and the ratio of the pairs, in a line each."""
    from rich.text import Text

    return Text("\n").join(
        [
            Text(shown(peer.figure.value, peer.figure.unit)),
            *([Text(_range(peer.figure), style="dim")] if peer.figure.runs > 1 else []),
            Text(_pairs(peer.ratio)),
        ]
    )


def _about_cores(measured: Sequence[Measured]) -> str:
    looks = [cores for one in measured for cores in one.cores]
    busy = [cores for cores in looks if not cores.free]
    if not busy:
        return "The cores were free."
    used, stolen = max(cores.used for cores in busy), max(cores.stolen for cores in busy)
    load = max(cores.load for cores in busy)
    return (
        f"* The cores were not free: beside these measurements others used up to {used:.1f} of {busy[0].count} cores, "
        f"the hypervisor took up to {stolen:.1f} (load average up to {load:.1f}). Trust ratios more than figures, and "
        "measure again when the machine is idle."
    )
