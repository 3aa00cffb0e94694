"""SQLite through the standard library's sqlite3.

SQLite lets one connection write at a time, and makes the others wait or fail. So the
pool writes through one connection, in the order of the calls, and reads through the
others, which cannot write by accident. In-memory databases have one connection.

Other processes still hold the lock at times. SQLite's own wait for it hears no
interrupt, so it is told not to wait, and the waiting is done here. All but `cancel` on
the thread that owns the connection.
"""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import threading
import urllib.parse
from typing import TYPE_CHECKING, Any, TypeVar

from enterprise.drivers._busy import BusyWaits, takeTimeout
from enterprise.drivers._fetch import MANY, inPieces
from enterprise.drivers._files import files, hasContent
from enterprise.drivers._group import GroupCommit
from enterprise.drivers._guarded import GuardedCursor
from enterprise.drivers._hygiene import clearFrames
from enterprise.drivers.base import Driver, Lane, TransactionState
from enterprise.errors import ConfigurationError, DatabaseGone, ForkedSQLite

if TYPE_CHECKING:
    from collections.abc import Callable

    from enterprise.options import Options
    from enterprise.rows import Result

__all__ = ["SQLiteDriver"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

# Reading a member off its class costs as much as calling a function.
_OPEN, _NONE = TransactionState.OPEN, TransactionState.NONE

# Somebody else has the lock, and nothing was done. Not BUSY_SNAPSHOT: what was read
# before is out of date, and waiting makes it no younger.
_BUSY = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_BUSY_RECOVERY,
    sqlite3.SQLITE_LOCKED_SHAREDCACHE,
}

# An SQL function of ours, by which a script says that it has begun.
_BEGUN = "threadbridge_begun"


class SQLiteDriver(Driver):
    """SQLite: one writer, many readers.

    Args:
        args: for `sqlite3.connect`; the first is the database.
        kwargs: for `sqlite3.connect`. Its `timeout`, in seconds, says how long we wait
            for somebody else's lock.
        wal: True to set the write-ahead log on an existing file, False to leave even
            a new one alone, None to set it on files that we create.
    """

    autocommits = True
    cancels = True
    in_pieces = True
    connect_advice = "Check that the folder exists and that both may be written."

    def __init__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, wal: bool | None = None
    ) -> None:
        self._args, self._kwargs, seconds = takeTimeout(args, kwargs)
        self._waits = BusyWaits(seconds, self._did_nothing, _interrupted)
        self._begun: set[int] = set()  # Connections whose script has begun, by id().
        self._database = str(args[0] if args else kwargs.get("database", ""))
        self._wal = wal
        self._lock = threading.Lock()
        self._prepared = False  # guarded by: _lock
        self._settled = False  # A connection was ready for use. guarded by: _lock
        self._forks = files.forks  # When it was.
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

    def batcher(self, lane: Lane, options: Options) -> GroupCommit | None:
        """Return what commits several writes at once."""
        # In memory a COMMIT costs nothing, and is not worth the BEGIN before it.
        idle = lane is Lane.READER or self.lives_in_memory
        return GroupCommit(self) if options.cp_group_commit and not idle else None

    def _open(self) -> sqlite3.Connection:
        raw: sqlite3.Connection = sqlite3.connect(*self._args, **self._kwargs)
        # We say BEGIN ourselves; sqlite3 would guess when to.
        raw.isolation_level = None
        # Once and for all: where a cursor was left open, none can be replaced.
        raw.create_function(_BEGUN, 0, functools.partial(self._begun.add, id(raw)))
        return raw

    def connect(self, lane: Lane) -> sqlite3.Connection:
        """Open a connection; the first one sees to the journal.

        Raises:
            DatabaseGone: it was in memory, and its one connection has ended.
            ForkedSQLite: the parent had the file open when it forked.
        """
        # The others must find the journal as it is going to be.
        with files.opening(), self._lock:
            self._refuse()
            existed = self.lives_in_memory or hasContent(self._file())
            raw: sqlite3.Connection = super().connect(lane)
            try:
                if not self.lives_in_memory:
                    files.opened(raw, self._file())
                if not self._prepared:
                    self._prepare(raw, existed=existed)
            except BaseException:
                self.close(raw)
                raise
            self._prepared = True
        return raw

    def _refuse(self) -> None:
        """Raise where a new connection would not find what the last one left."""
        if self.lives_in_memory and self._settled:
            how = (
                "had to be closed"
                if self._forks == files.forks
                else "stayed with the process that this one was forked from"
            )
            raise DatabaseGone(
                f"The database in memory ended with its one connection, which {how}. "
                "Its data are lost, and a new connection would find it empty. Make a "
                "new pool and load the data again, or keep them in a file."
            )
        if not self.lives_in_memory and files.isInherited(self._file()):
            raise ForkedSQLite(
                f"{self._file()} was open when process {os.getpid()} was forked. "
                "SQLite would trust in locks that only the parent has, and committed "
                "data would vanish. Close connections, cursors and pools before "
                "forking, or start the process with multiprocessing's 'spawn' or "
                "'forkserver'."
            )

    def settle(self, raw: sqlite3.Connection, lane: Lane) -> None:
        """Take the right to write from a reader."""
        self._settled, self._forks = True, files.forks
        if lane is Lane.READER:
            raw.execute("pragma query_only = on")

    def close(self, raw: sqlite3.Connection) -> None:
        """Close the connection *raw*."""
        raw.close()
        self._waits.forget(id(raw))
        files.closed(raw)

    def afterFork(self) -> None:
        """Begin anew in a forked child; our parent's connections are parked."""
        self._lock = threading.Lock()
        self._waits = BusyWaits(self._waits.seconds, self._did_nothing, _interrupted)

    def _prepare(self, raw: sqlite3.Connection, *, existed: bool) -> None:
        if self.lives_in_memory or self._wal is False:
            return
        (mode,) = self._patiently(
            raw, lambda: raw.execute("pragma journal_mode").fetchone()
        )
        if mode == "wal":
            return
        if self._wal or not existed:
            self._patiently(raw, lambda: raw.execute("pragma journal_mode = wal"))
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

    # -- Waiting for somebody else's lock ----------------------------------------------

    def limit(
        self, raw: sqlite3.Connection, seconds: float | None, *, alone: bool = True
    ) -> None:
        """Say how long *raw* may wait for locks from now on.

        Args:
            raw: a connection.
            seconds: what is left of its job's time; None for the usual `timeout`, for
                each wait by itself.
            alone: makes no difference here.
        """
        self._waits.limit(id(raw), seconds)

    def cancel(self, raw: sqlite3.Connection) -> None:
        """Interrupt the statement that runs or waits; nothing happens without one."""
        self._waits.ring(id(raw))
        raw.interrupt()

    def _patiently(self, raw: sqlite3.Connection, attempt: Callable[[], T]) -> T:
        return self._waits.attempt(id(raw), attempt)

    def _did_nothing(self, who: int, error: BaseException) -> bool:
        code = getattr(error, "sqlite_errorcode", None)
        return code in _BUSY and who not in self._begun

    def locked(self, error: BaseException) -> bool:
        """Say whether *error* only means that somebody else has the lock."""
        return getattr(error, "sqlite_errorcode", None) in _BUSY

    def lost(self, raw: sqlite3.Connection, error: BaseException) -> bool:
        """Say whether *error* means that the connection was closed under us."""
        return isinstance(error, sqlite3.ProgrammingError) and (
            "closed database" in str(error)
        )

    def fatal(self, error: BaseException) -> bool:
        """Say whether connecting fails for a reason that waiting will not cure."""
        return isinstance(error, DatabaseGone | ForkedSQLite)

    def refusedToWrite(self, error: BaseException) -> bool:
        """Say whether a reader was asked to write."""
        # sqlite3 gives no code to what it finds wrong by itself, as bad UTF-8.
        code = getattr(error, "sqlite_errorcode", None)
        return bool(code == sqlite3.SQLITE_READONLY)

    def query(self, raw: sqlite3.Connection, sql: Any, params: Any) -> list[Any]:
        """Run one statement and return its rows; the hot path."""
        cursor = raw.cursor()
        try:
            if params is None:
                cursor.execute(sql)
            else:
                cursor.execute(sql, params)
            rows = cursor.fetchmany(MANY)
            return rows if len(rows) < MANY else inPieces(cursor, rows)
        except BaseException as error:
            cursor.close()  # See `Driver.result`.
            if not self._waits.mayWait(id(raw), error):
                raise
        return self._waits.repeat(
            id(raw), lambda: Driver.result(self, raw, sql, params)
        ).rows

    def operate(self, raw: sqlite3.Connection, sql: Any, params: Any) -> None:
        """Run one statement for its effect; what rows it gives are fetched."""
        self.query(raw, sql, params)

    def result(self, raw: sqlite3.Connection, sql: Any, params: Any) -> Result:
        """Run one statement and return all that sqlite3 tells."""
        return self._patiently(raw, lambda: Driver.result(self, raw, sql, params))

    def script(self, raw: sqlite3.Connection, text: str) -> None:
        """Run several statements in one text, in one transaction."""
        # executescript commits first and runs in autocommit: half a script would stay
        # after an error. So the text itself begins, and says when it has: what comes
        # after that is not to be done twice.
        text = f"begin immediate;\nselect {_BEGUN}();\n{text}"
        try:
            try:
                self._patiently(raw, lambda: raw.executescript(text))
            finally:
                self._begun.discard(id(raw))
            # Not part of the text, whose last comment might swallow it.
            if raw.in_transaction:
                self.commit(raw)
        except BaseException:
            self.rollback(raw)
            raise

    # -- Transactions ----------------------------------------------------------------

    def begin(
        self,
        raw: sqlite3.Connection,
        *,
        readonly: bool,
        isolation: str | None = None,
        deferrable: bool | None = None,
    ) -> None:
        """Begin a transaction; for writing, take the lock at once.

        A transaction that reads first and writes later fails with BUSY_SNAPSHOT,
        without waiting, when another process wrote in between.

        Raises:
            ConfigurationError: SQLite has no such *isolation*, or nothing to defer.
        """
        if (isolation or "serializable").lower() != "serializable" or deferrable:
            asked = f"isolation={isolation!r}" if not deferrable else "deferrable=True"
            raise ConfigurationError(
                f"SQLite was asked for {asked}, and cannot be: its transactions are "
                "always serializable, and never wait for a better moment to begin. "
                "Leave it out."
            )
        # Without a lock nobody can be in the way.
        if readonly:
            raw.execute("begin")
        else:
            self._patiently(raw, lambda: raw.execute("begin immediate"))

    def execute(self, cursor: Any, sql: Any, params: Any) -> None:
        """Run one statement on *cursor*, which may be inside a transaction."""
        try:
            super().execute(cursor, sql, params)
        except sqlite3.OperationalError as error:
            raw = cursor.connection
            if not (raw.in_transaction and self._waits.mayWait(id(raw), error)):
                raise
        else:
            return
        # A transaction for reading takes its lock with its first statement. Nothing
        # else is waited for in here: who has that lock already and wants the other
        # one may be what somebody waits for who has the other one.
        self._patiently(raw, lambda: raw.execute("pragma schema_version").fetchone())
        super().execute(cursor, sql, params)

    def cursor(
        self, raw: sqlite3.Connection, *args: Any, **kwargs: Any
    ) -> sqlite3.Cursor:
        """Return a cursor that runs nothing when the transaction is over.

        Args:
            raw: a connection in a transaction.
            args: as for its own `cursor`; with a class given, it is left alone.
            kwargs: the same.
        """
        if not args and not kwargs:
            args = (GuardedCursor,)
        cursor: sqlite3.Cursor = raw.cursor(*args, **kwargs)
        return cursor

    def commit(self, raw: sqlite3.Connection) -> None:
        """Commit the transaction; it waits for those who still read the old state."""
        self._patiently(raw, lambda: raw.execute("commit"))

    def rollback(self, raw: sqlite3.Connection) -> None:
        """Roll the transaction back, if SQLite has not done so itself."""
        if not raw.in_transaction:
            return
        try:
            raw.execute("rollback")
        except sqlite3.OperationalError as error:
            # An interrupt lasts while any statement is half read, and the frames of
            # the function that it has ended hold those.
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
                raise
            clearFrames(error)
            if raw.in_transaction:
                raw.execute("rollback")

    def dirty(self, raw: sqlite3.Connection) -> bool:
        """Say whether somebody's BEGIN was left open."""
        return raw.in_transaction

    def state(self, raw: sqlite3.Connection) -> TransactionState:
        """Say whether the transaction is still there; an interrupt ends it."""
        return _OPEN if raw.in_transaction else _NONE


def _interrupted() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("interrupted while waiting for the lock")
    error.sqlite_errorcode = sqlite3.SQLITE_INTERRUPT
    error.sqlite_errorname = "SQLITE_INTERRUPT"
    return error
