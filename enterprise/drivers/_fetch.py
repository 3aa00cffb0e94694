"""Fetching: rows in pieces, so that neither memory nor the event loop suffers.

A driver that makes a million rows in one call keeps the interpreter for as long, and
the event loop stands still: 0.7 s with psycopg. Worker's thread only.

Source: PEP 249's `fetchmany`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator

    from enterprise.drivers.base import Driver

__all__ = ["MANY", "inPieces", "piecemeal"]

# Rows that are fetched in one go. Of twenty columns they take a millisecond.
MANY: Final = 250

# How long a piece of more than that takes, on the processor. The loop waits for one
# piece at the most, and a shorter one would not hide the pause after it.
PIECE_SECONDS: Final = 0.001

# Between pieces, so that who waits for the interpreter gets it: long enough to wake.
# Without a pause the one who lets go has it back before the other one is there.
NAP_SECONDS: Final = 0.00005

# Whoever tries to get it lets the others run for so long.
_never: Final = threading.Lock()
_never.acquire()

# Rows in a piece, whatever their time: clocks may be coarse.
LEAST: Final = 50
MOST: Final = 5000


def inPieces(cursor: Any, rows: list[Any]) -> list[Any]:
    """Fetch all rows that *cursor* has, and let the other threads run in between.

    Args:
        cursor: one of a driver that gives fewer rows than asked for at the end only.
        rows: what was fetched before.

    Returns:
        The same list, with all rows.
    """
    count, since = MANY, 0
    began = time.thread_time()
    while True:
        piece = cursor.fetchmany(count)
        rows += piece
        if len(piece) < count:
            return rows
        del piece
        since += count
        spent = time.thread_time() - began
        count = max(LEAST, min(int(since * PIECE_SECONDS / (spent or 1e-9)), MOST))
        if spent >= PIECE_SECONDS / 2 or since >= MOST:
            _never.acquire(timeout=NAP_SECONDS)
            since, began = 0, time.thread_time()


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
