"""A table of text: aligned columns that a terminal, a file and a mail can show."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["table"]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out cells below their headings.

    Args:
        headings: of the columns; the first column is text and stands left, all others
            are figures and stand right.
        rows: as many cells each.

    Returns:
        lines, the last one without its end.
    """
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(_line(cells, widths) for cells in (headings, rule, *rows))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    figures = zip(cells[1:], widths[1:], strict=True)
    return "  ".join(
        [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in figures)]
    )
