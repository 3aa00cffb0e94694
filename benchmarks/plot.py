"""One picture per group: bars of the medians, whiskers from worst to best round.

Each load, and each unit of the costs, has its own axis, since they differ by powers of
ten. Ours is the coloured one.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from benchmarks.groups import OURS
from benchmarks.report import Line, figure

if TYPE_CHECKING:
    from pathlib import Path

OURS_COLOUR, OTHERS_COLOUR = "#d1495b", "#8d99ae"


def plot(title: str, rows: list[Line], file: Path) -> None:
    """Draw the rows that have a figure into an SVG file."""
    import matplotlib as mpl

    # No window system; and the same figures give the same file.
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "benchmarks", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    measured = [row for row in rows if row.median is not None]
    panels = [
        list(panel) for _, panel in groupby(measured, lambda row: (row.load, row.unit))
    ]
    heights = [len(panel) + 1 for panel in panels]
    picture, axes = plt.subplots(
        len(panels),
        squeeze=False,
        figsize=(7, 0.32 * sum(heights) + 0.8),
        height_ratios=heights,
        layout="constrained",
    )
    picture.suptitle(title)
    for axis, panel in zip(axes.flat, panels, strict=True):
        draw(axis, panel)
    picture.savefig(file, metadata={"Date": None})
    plt.close(picture)


def draw(axis, panel: list[Line]) -> None:
    medians = [row.median for row in panel]
    below = [row.median - min(row.samples) for row in panel]
    above = [max(row.samples) - row.median for row in panel]
    bars = axis.barh(
        [row.contender for row in panel],
        medians,
        xerr=(below, above),
        color=[OURS_COLOUR if is_ours(row) else OTHERS_COLOUR for row in panel],
        error_kw={"ecolor": "#333333", "elinewidth": 0.8, "capsize": 2},
    )
    axis.bar_label(bars, map(figure, medians), padding=4)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.spines[["top", "right"]].set_visible(False)
    load_and_unit = ", ".join(filter(None, (panel[0].load, panel[0].unit)))
    axis.set_title(load_and_unit, loc="left", fontsize=9)


def is_ours(row: Line) -> bool:
    """Of the costs, those with a limit are what we answer for."""
    return row.contender == OURS or row.required.startswith("≤")
