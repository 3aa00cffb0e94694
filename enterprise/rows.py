"""What a statement gives back: rows, and what the driver says about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """The whole outcome of one statement.

    Attributes:
        rows: the rows, as tuples; empty for a statement that gives none.
        columns: the columns' names; empty for a statement that gives no rows.
        rowcount: how many rows it changed or gave, as the driver counts; -1 where
            the driver does not know.
        lastrowid: the identity of the last row it inserted, where the driver tells.
    """

    rows: list[tuple[Any, ...]]
    columns: tuple[str, ...]
    rowcount: int
    lastrowid: Any = None
