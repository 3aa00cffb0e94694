"""SQLite through the standard library's sqlite3.

SQLite lets one connection write at a time, and makes the others wait or fail. So the
pool writes through one connection, in the order of the calls, and reads through the
others, which cannot write by accident. In-memory databases have one connection.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import urllib.parse
from pathlib import Path
from typing import Any

from enterprise.drivers.base import Driver, Lane, TransactionState

__all__ = ["SQLiteDriver"]

_log = logging.getLogger(__name__)


class SQLiteDriver(Driver):
    """SQLite: one writer, many readers.

    Args:
        args: for `sqlite3.connect`; the first is the database.
        kwargs: for `sqlite3.connect`.
        wal: True to set the write-ahead log on an existing file, False to leave even
            a new one alone, None to set it on files that we create.
    """

    autocommits = True
    cancels = True
    connect_advice = "Check that the folder exists and that both may be written."

    def __init__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, wal: bool | None = None
    ) -> None:
        self._args = args
        self._kwargs = kwargs
        self._database = str(args[0] if args else kwargs.get("database", ""))
        self._wal = wal
        self._lock = threading.Lock()
        self._prepared = False  # guarded by: _lock
        name = "sqlite:///" + ("" if self.lives_in_memory else self._database)
        super().__init__(name, self._open, sqlite3)

    @property
    def lives_in_memory(self) -> bool:
        """Whether the database has no file."""
        path, _, query = self._database.partition("?")
        if not self._kwargs.get("uri"):
            return self._database in ("", ":memory:")
        options = urllib.parse.parse_qs(query)
        return path in ("file:", "file::memory:", ":memory:", "") or options.get(
            "mode"
        ) == ["memory"]

    def lanes(self, maximum: int) -> dict[Lane, int]:
        """Divide into one writer and its readers; one for both where it must be."""
        if maximum == 1 or self.lives_in_memory:
            return {Lane.ANY: 1}
        return {Lane.WRITER: 1, Lane.READER: maximum - 1}

    def _open(self) -> sqlite3.Connection:
        raw: sqlite3.Connection = sqlite3.connect(*self._args, **self._kwargs)
        # We say BEGIN ourselves; sqlite3 would guess when to.
        raw.isolation_level = None
        return raw

    def connect(self, lane: Lane) -> sqlite3.Connection:
        """Open a connection; the first one sees to the journal."""
        with self._lock:  # The others must find the journal as it is going to be.
            existed = self.lives_in_memory or Path(self._file()).exists()
            raw: sqlite3.Connection = super().connect(lane)
            try:
                if not self._prepared:
                    self._prepare(raw, existed=existed)
            except BaseException:
                raw.close()
                raise
            self._prepared = True
        return raw

    def settle(self, raw: sqlite3.Connection, lane: Lane) -> None:
        """Take the right to write from a reader."""
        if lane is Lane.READER:
            raw.execute("pragma query_only = on")

    def _prepare(self, raw: sqlite3.Connection, *, existed: bool) -> None:
        if self.lives_in_memory or self._wal is False:
            return
        (mode,) = raw.execute("pragma journal_mode").fetchone()
        if mode == "wal":
            return
        if self._wal or not existed:
            raw.execute("pragma journal_mode = wal")
        else:
            _log.warning(
                "%s keeps its journal mode %r, in which readers and the writer wait "
                "for each other. Pass cp_wal=True to change the file to WAL, or "
                "cp_wal=False to silence this.",
                self.name,
                mode,
            )

    def _file(self) -> str:
        if self._kwargs.get("uri"):
            path = urllib.parse.urlsplit(self._database).path
            return urllib.parse.unquote(path)
        return self._database

    def cancel(self, raw: sqlite3.Connection) -> None:
        """Interrupt the statement that runs; nothing happens where none does."""
        raw.interrupt()

    def lost(self, raw: sqlite3.Connection, error: BaseException) -> bool:
        """Say whether *error* means that the connection was closed under us."""
        return isinstance(error, sqlite3.ProgrammingError) and (
            "closed database" in str(error)
        )

    def refusedToWrite(self, error: BaseException) -> bool:
        """Say whether a reader was asked to write."""
        return (
            isinstance(error, sqlite3.OperationalError)
            # sqlite3 gives no code to what it finds wrong by itself, as bad UTF-8.
            and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY
        )

    def query(self, raw: sqlite3.Connection, sql: Any, params: Any) -> list[Any]:
        """Run one statement and return its rows; the hot path."""
        cursor = raw.cursor()
        try:
            if params is None:
                cursor.execute(sql)
            else:
                cursor.execute(sql, params)
            return cursor.fetchall()
        except BaseException:
            cursor.close()  # See `Driver.result`.
            raise

    def script(self, raw: sqlite3.Connection, text: str) -> None:
        """Run several statements in one text, in one transaction."""
        try:
            # executescript commits first and runs in autocommit: half a script would
            # stay after an error.
            raw.executescript(f"begin immediate;\n{text}")
            # Not part of the text, whose last comment might swallow it.
            if raw.in_transaction:
                raw.execute("commit")
        except BaseException:
            self.rollback(raw)
            raise

    def begin(self, raw: sqlite3.Connection, *, readonly: bool) -> None:
        """Begin a transaction; for writing, take the lock at once.

        A transaction that reads first and writes later fails with BUSY_SNAPSHOT,
        without waiting, when another process wrote in between.
        """
        raw.execute("begin" if readonly else "begin immediate")

    def commit(self, raw: sqlite3.Connection) -> None:
        """Commit the transaction."""
        raw.execute("commit")

    def rollback(self, raw: sqlite3.Connection) -> None:
        """Roll the transaction back, if SQLite has not done so itself."""
        if raw.in_transaction:
            raw.execute("rollback")

    def dirty(self, raw: sqlite3.Connection) -> bool:
        """Say whether somebody's BEGIN was left open."""
        return raw.in_transaction

    def state(self, raw: sqlite3.Connection) -> TransactionState:
        """Say whether the transaction is still there; an interrupt ends it."""
        return TransactionState.OPEN if raw.in_transaction else TransactionState.NONE
