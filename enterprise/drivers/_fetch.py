"""Fetching: rows in pieces, so that neither memory nor the event loop suffers.

Worker's thread only.

Source: PEP 249's `fetchmany`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

    from enterprise.drivers.base import Driver

__all__ = ["piecemeal"]


def piecemeal(
    driver: Driver, raw: Any, sql: Any, params: Any, batch: int
) -> Generator[list[Any], None, list[Any]]:
    """Run one statement, and yield its rows as they are asked for.

    Args:
        driver: whose connection it is.
        raw: the connection, in a transaction.
        sql: the statement.
        params: its values; None for none.
        batch: rows in each list that is yielded.

    Returns:
        The last rows, fewer than *batch*.
    """
    cursor = raw.cursor()
    try:
        driver.execute(cursor, sql, params)
        while cursor.description:
            rows: list[Any] = list(cursor.fetchmany(batch))
            # Some drivers give less than was asked for in the middle of a result.
            while 0 < len(rows) < batch:
                more = cursor.fetchmany(batch - len(rows))
                if not more:
                    return rows
                rows += more
            if not rows:
                break
            yield rows
        return []
    finally:
        driver.closeCursor(cursor)
