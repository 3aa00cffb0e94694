"""The table: medians, ratios, and whether they are what we asked for."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.groups import OURS, Case, Cost, Group, Race
from benchmarks.schedule import FAILED, Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Results = dict[Case, Samples]

OK, SHORT = "ok", "SHORT"

HEADINGS = ("load", "contender", "median", "±", "ours / it", "required", "verdict")
NUMBERS = {"median", "±", "ours / it", "required"}


@dataclass(frozen=True)
class Line:
    """One line of the table, as it is shown and stored."""

    load: str
    contender: str
    unit: str
    samples: list[float]
    median: float | None
    ratio: float | None = None
    required: str = ""
    # ok, SHORT, or why there is no figure; empty where nothing is required.
    verdict: str = ""
    wished: float | None = None

    @property
    def failed(self) -> bool:
        return self.verdict == FAILED

    @property
    def spread(self) -> float:
        """How far the rounds lie apart: half their range, as a part of the median."""
        return (max(self.samples) - min(self.samples)) / 2 / self.median

    def cells(self) -> tuple[str, ...]:
        median = (
            "" if self.median is None else f"{figure(self.median)} {self.unit}".rstrip()
        )
        spread = f"{self.spread:.0%}" if len(self.samples) > 1 else ""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        wished = "" if self.wished is None else f" ({self.wished})"
        return (
            *(self.load, self.contender, median, spread),
            *(ratio, self.required + wished, self.verdict),
        )

    @property
    def shortfall(self) -> str:
        """Say what is lacking here; nothing if all is as required."""
        lacking = self.verdict != OK if self.required else self.failed
        if not lacking:
            return ""
        is_ratio = self.required.startswith("≥")
        what = f"beside {self.contender}" if is_ratio else self.contender
        what += f", {self.load}" if self.load else ""
        if self.verdict != SHORT:
            why = f" ({self.verdict})" if self.verdict else ""
            return f"{what}: no figure{why}"
        got = f"{self.ratio:.2f}" if is_ratio else f"{figure(self.median)} {self.unit}"
        return f"{what}: {got}, not {self.required}"


def lines(group: Group, results: Results) -> Iterator[Line]:
    """Lay the figures of one group beside what it requires."""
    for race in group.races:
        yield from race_lines(race, results)
    for cost in group.costs:
        yield cost_line(cost, results)


def race_lines(race: Race, results: Results) -> Iterator[Line]:
    ours = results[Case(OURS, race.in_flight)]
    for contender in (OURS, *race.others):
        it = results[Case(contender, race.in_flight)]
        least = race.others.get(contender)
        ratio = None
        if it is not ours and not (it.absent or ours.absent):
            # Round by round, since a machine's slow minutes hit whole rounds.
            ratio = median(map(operator.truediv, ours.values, it.values))
        yield Line(
            load=race.load or f"{race.in_flight} in flight",
            contender=contender,
            unit=race.unit,
            samples=it.values,
            median=it.median,
            ratio=ratio,
            required="" if least is None else f"≥ {least}",
            verdict=it.absent or judge(ratio, operator.ge, least),
            wished=race.wished.get(contender),
        )


def cost_line(cost: Cost, results: Results) -> Line:
    it = results[Case(cost.contender)]
    most = cost.at_most
    return Line(
        load="",
        contender=cost.contender,
        unit=cost.unit,
        samples=it.values,
        median=it.median,
        required="" if most is None else f"≤ {most} {cost.unit}",
        verdict=it.absent or judge(it.median, operator.le, most),
    )


def verdict(groups: Mapping[str, Iterable[Line]]) -> str:
    """Say how many figures are as the groups require, and what is lacking."""
    every = [(name, row) for name, rows in groups.items() for row in rows]
    required = [row for _, row in every if row.required]
    reached = sum(row.verdict == OK for row in required)
    told = [f"{reached} of {len(required)} required figures are reached."]
    lacking = [f"- {name} {row.shortfall}" for name, row in every if row.shortfall]
    return "\n".join([*told, "", *lacking] if lacking else told)


def judge(
    got: float | None, holds: Callable[[float, float], bool], wanted: float | None
) -> str:
    if got is None or wanted is None:
        return ""
    return OK if holds(got, wanted) else SHORT


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Iterable[Line]) -> str:
    """Give a Markdown table that is aligned, so that a terminal can show it as well."""
    body = [row.cells() for row in rows]
    # At least 3, or the rule below would not be Markdown.
    columns = zip(HEADINGS, *body, strict=True)
    widths = [max(3, *map(len, column)) for column in columns]
    rule = [
        "-" * (width - 1) + (":" if heading in NUMBERS else "-")
        for heading, width in zip(HEADINGS, widths, strict=True)
    ]
    return "\n".join(
        "| " + " | ".join(map(aligned, HEADINGS, cells, widths)) + " |"
        for cells in (HEADINGS, rule, *body)
    )


def aligned(heading: str, cell: str, width: int) -> str:
    return cell.rjust(width) if heading in NUMBERS else cell.ljust(width)
