"""Cursors for the inside of a transaction that SQLite may have ended by itself.

Used on the thread that owns the connection.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Self

from enterprise.errors import TransactionEnded

__all__ = ["GuardedCursor"]


class GuardedCursor(sqlite3.Cursor):
    """A cursor for the inside of a transaction, given to functions of others.

    Where SQLite itself has rolled the transaction back, after an interrupt or with the
    disk full, the next statement would be committed by itself.
    """

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        self._check(sql)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, rows: Any, /) -> Self:
        self._check(sql)
        return super().executemany(sql, rows)

    def executescript(self, text: str, /) -> Self:
        raise AttributeError(
            "executescript() would first commit what this transaction has done, so it "
            "cannot be had here. Execute the statements one by one, or use runScript."
        )

    def _check(self, sql: str) -> None:
        if self.connection.in_transaction:
            return
        if str(sql).lstrip().lower().startswith("begin"):
            return
        raise TransactionEnded(
            "The transaction is over, and a statement now would be committed by "
            "itself. Let the error that ended it leave the function, or call the "
            "connection's own commit() or rollback(), which begin the next one."
        )
