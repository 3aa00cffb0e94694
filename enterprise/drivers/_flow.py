"""PostgreSQL's big things: cursors of the server's own, and COPY. Worker's thread only.

Source: PostgreSQL's DECLARE and COPY, and psycopg's `Cursor.copy`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from enterprise.drivers._fetch import MANY, inPieces
from enterprise.drivers.base import Driver

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    import psycopg

__all__ = ["PostgresFlows"]

# Of a stream, in its own transaction.
_CURSOR: Final = "threadbridge_stream"

# The server sends one message for each row of a COPY. They travel to the loop together.
BLOCK_BYTES: Final = 1 << 16


class PostgresFlows(Driver):
    """What is read or written piece by piece."""

    def fetch(self, cursor: psycopg.Cursor[Any]) -> list[Any]:
        """Return all rows that *cursor* has; the server has sent them already."""
        if cursor.rowcount > MANY:
            return inPieces(cursor, [])
        return cursor.fetchall()

    def rows(
        self, raw: psycopg.Connection[Any], sql: Any, params: Any, batch: int
    ) -> Generator[list[Any], None, list[Any]]:
        """Run one statement in a transaction; yield *batch* rows at a time.

        Through a cursor of the server's, who then computes no row before it is asked
        for. Not psycopg's own, whose every fetch costs half as much again.

        Returns:
            The last rows, fewer than *batch*.
        """
        with raw.cursor() as cursor:
            said = f"declare {_CURSOR} no scroll cursor for {sql}"
            cursor.execute(said, params, prepare=False)
            fetch = f"fetch forward {batch} from {_CURSOR}".encode()
            rows: list[Any] = cursor.execute(fetch).fetchall()
            while len(rows) == batch:
                yield rows
                rows = cursor.execute(fetch).fetchall()
            return rows

    def copyOut(
        self, raw: psycopg.Connection[Any], sql: Any, params: Any
    ) -> Generator[bytes, None, tuple[bytes, int]]:
        """Run a COPY ... TO STDOUT in a transaction; yield what it gives in blocks.

        Returns:
            The last block, and how many rows there were.
        """
        with raw.cursor() as cursor:
            block: list[Any] = []
            size = 0
            with cursor.copy(sql, params) as copy:
                while data := copy.read():
                    block.append(data)
                    size += len(data)
                    if size >= BLOCK_BYTES:
                        yield b"".join(block)
                        block.clear()
                        size = 0
            return b"".join(block), cursor.rowcount

    def copyIn(
        self, raw: psycopg.Connection[Any], sql: Any, blocks: Iterable[Any]
    ) -> int:
        """Run a COPY ... FROM STDIN in a transaction, with what *blocks* gives.

        Returns:
            How many rows the server has taken.
        """
        with raw.cursor() as cursor:
            with cursor.copy(sql) as copy:
                for block in blocks:
                    copy.write(block)
            return cursor.rowcount
