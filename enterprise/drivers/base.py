"""Any DB-API 2.0 module: what a worker asks of a driver, done the plain way.

A Driver knows how to open a connection and what to say to it; it holds none itself.
All methods but `cancel` are called on the thread that owns the connection.

Source: PEP 249.
"""

from __future__ import annotations

import contextlib
import enum
import logging
from typing import TYPE_CHECKING, Any

from enterprise.drivers._fetch import inPieces, piecemeal
from enterprise.drivers._hygiene import clearFrames, redacted
from enterprise.drivers._losses import endsSession
from enterprise.errors import ConfigurationError
from enterprise.rows import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from enterprise.batch import Batcher
    from enterprise.options import Options

__all__ = ["Driver", "Lane", "TransactionState"]

_log = logging.getLogger(__name__)


class Lane(enum.Enum):
    """A kind of worker. Most databases have one kind."""

    ANY = "any"
    WRITER = "writer"
    READER = "reader"


class TransactionState(enum.Enum):
    """What has become of a connection's transaction."""

    NONE = "none"
    OPEN = "open"
    FAILED = "failed"  # Only a rollback is possible.
    BUSY = "busy"  # In the middle of a result, or of a COPY; nothing is possible.


class Driver:
    """A DB-API 2.0 module and how to connect through it.

    Args:
        name: for texts; holds no secret.
        connect: opens a connection, called without arguments.
        module: the DB-API module; None where only a callable was given.
        secrets: strings that must never be shown.
        dialect: SQLAlchemy's, which knows how this driver says that a connection is
            lost; None where no URL was given.
    """

    # Whether statements are committed by themselves outside `begin`.
    autocommits = False

    # What to look at when connecting fails.
    connect_advice = "Check that the server runs, the address, user and password."

    # Whether `cancel` stops what a connection is doing.
    cancels = False

    # Whether `closed` is worth asking before each job.
    notices = False

    # Whether a big result is better fetched in pieces.
    in_pieces = False

    # Whether `ticket` and `verdict` tell what became of a COMMIT that got no answer.
    resolves = False

    def __init__(
        self,
        name: str,
        connect: Callable[[], Any],
        module: Any = None,
        secrets: tuple[str, ...] = (),
        dialect: Any = None,
    ) -> None:
        self.name = name
        self.module = module
        self._connect = connect
        self._dialect = dialect
        self._secrets = tuple(secret for secret in secrets if secret)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Strings that must never be shown; longer ones first."""
        given = getattr(self._connect, "secrets", ())
        return tuple(sorted({*self._secrets, *given}, key=len, reverse=True))

    @property
    def paramstyle(self) -> str:
        """How parameters are written: one of PEP 249's five names."""
        return getattr(self.module, "paramstyle", "unknown")

    def lanes(self, maximum: int) -> dict[Lane, int]:
        """Divide connections into lanes.

        Args:
            maximum: connections in all.

        Returns:
            How many workers each lane may have.
        """
        return {Lane.ANY: maximum}

    def batcher(self, lane: Lane, options: Options) -> Batcher | None:
        """Return what does several jobs of a worker of *lane* at once; None for nobody.

        Args:
            lane: the worker's.
            options: the pool's.
        """
        return None

    @property
    def lives_in_memory(self) -> bool:
        """Whether the data end with the connection, which then must live on."""
        return False

    # -- A connection's life ------------------------------------------------------

    def connect(self, lane: Lane) -> Any:
        """Open a connection.

        Args:
            lane: what it will be used for.

        Raises:
            Exception: whatever the driver raises, without our secrets in its text.
        """
        try:
            return self._connect()
        except Exception as error:
            self.redact(error)
            clearFrames(error)
            raise

    def closed(self, raw: Any) -> bool:
        """Say whether the driver knows by itself that *raw* has ended."""
        return False

    def settle(self, raw: Any, lane: Lane) -> None:
        """Make *raw* what its lane is for, after the user's own function saw it."""

    def close(self, raw: Any) -> None:
        """Close the connection *raw*."""
        raw.close()

    def cancel(self, raw: Any) -> None:
        """Stop what *raw* is doing. Any thread but its own; may block for a second."""

    def sever(self, raw: Any) -> None:
        """Cut *raw* off, so that whoever waits in it gets an error. Any thread."""

    def check(self, raw: Any, statement: str | None) -> None:
        """Raise if the connection *raw* is not alive.

        Args:
            raw: one that has nothing to do.
            statement: what to ask it; None for "select 1".
        """
        cursor = raw.cursor()
        try:
            cursor.execute(statement or "select 1")
            cursor.fetchall()
        finally:
            self.closeCursor(cursor)
            if not self.autocommits:
                raw.rollback()

    def fatal(self, error: BaseException) -> bool:
        """Say whether connecting fails for a reason that waiting will not cure."""
        return False

    def lost(self, raw: Any, error: BaseException) -> bool:
        """Say whether *error* means that the connection *raw* cannot be used again."""
        interface_error = getattr(self.module, "InterfaceError", None)
        if interface_error is not None and isinstance(error, interface_error):
            return True
        # psycopg2 counts (0 is open), others say True; with some it is a method.
        closed = getattr(raw, "closed", False)
        if isinstance(closed, int) and closed:
            return True
        return endsSession(error) or self._disconnected(raw, error)

    def _disconnected(self, raw: Any, error: BaseException) -> bool:
        if self._dialect is None:
            return False
        try:
            return bool(self._dialect.is_disconnect(error, raw, None))
        except Exception as trouble:  # Of some other version's errors, say.
            _log.debug("SQLAlchemy could not judge %r: %r", error, trouble)
            return False

    def timedOut(self, error: BaseException) -> bool:
        """Say whether *error* may mean that the database has kept a time limit."""
        return False

    def refusedToWrite(self, error: BaseException) -> bool:
        """Say whether *error* only means that this lane does not write."""
        return False

    def redact(self, error: BaseException) -> None:
        """Take our secrets out of the driver's *error*, in place."""
        secrets = self.secrets
        if not secrets:
            return
        seen: set[int] = set()
        todo: BaseException | None = error
        while todo is not None and id(todo) not in seen:
            seen.add(id(todo))
            args = tuple(redacted(value, secrets) for value in todo.args)
            if args != todo.args:  # A user's own exception may refuse to be changed.
                todo.args = args
            todo = todo.__cause__ or todo.__context__

    # -- Single statements; where the driver does not, the caller commits --------------

    def query(self, raw: Any, sql: Any, params: Any) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        return self.result(raw, sql, params).rows

    def operate(self, raw: Any, sql: Any, params: Any) -> None:
        """Run one statement for its effect."""
        self.result(raw, sql, params)

    def result(self, raw: Any, sql: Any, params: Any) -> Result:
        """Run one statement and return all that the driver tells."""
        cursor = raw.cursor()
        try:
            self.execute(cursor, sql, params)
            description = cursor.description
            result = Result(
                self.fetch(cursor) if description else [],
                tuple(column[0] for column in description or ()),
                cursor.rowcount,
                getattr(cursor, "lastrowid", None),
            )
        except BaseException:
            # The traceback keeps the cursor alive, and an open cursor may keep a lock
            # or a file beyond its connection's end.
            self.closeCursor(cursor)
            raise
        self.closeCursor(cursor)
        return result

    def fetch(self, cursor: Any) -> list[Any]:
        """Return all rows that *cursor* has."""
        rows: list[Any] = inPieces(cursor, []) if self.in_pieces else cursor.fetchall()
        return rows

    def closeCursor(self, cursor: Any) -> None:
        """Close *cursor*; what became of its statement is known already."""
        try:
            cursor.close()
        except Exception as error:  # One whose connection has ended cannot be closed.
            _log.debug("A cursor of %s could not be closed: %r", self.name, error)

    def execute(self, cursor: Any, sql: Any, params: Any) -> None:
        """Run one statement on *cursor*; without parameters, none are passed at all."""
        if params is None:
            cursor.execute(sql)  # Else a % in the text would have to be doubled.
        else:
            cursor.execute(sql, params)

    def script(self, raw: Any, text: str) -> None:
        """Run several statements in one text."""
        self.operate(raw, text, None)

    def rows(
        self, raw: Any, sql: Any, params: Any, batch: int
    ) -> Generator[list[Any], None, list[Any]]:
        """Run one statement in a transaction; yield *batch* rows at a time.

        Returns:
            The last rows, fewer than *batch*.
        """
        return piecemeal(self, raw, sql, params, batch)

    # -- Transactions ----------------------------------------------------------------

    def begin(
        self,
        raw: Any,
        *,
        readonly: bool,
        isolation: str | None = None,
        deferrable: bool | None = None,
    ) -> None:
        """Begin a transaction. PEP 249 has no word for it: the first statement does.

        Raises:
            ConfigurationError: this driver cannot be told *isolation* or *deferrable*.
        """
        if isolation is not None or deferrable is not None:
            raise ConfigurationError(
                f"{self.name} cannot be told an isolation level: PEP 249 has no word "
                "for it. Set it on each connection, in cp_openfun."
            )

    def limit(self, raw: Any, seconds: float | None, *, alone: bool = True) -> None:
        """Say how long *raw* may wait or work; None for as long as usual.

        Args:
            raw: a connection, about to be given a job or just done with one.
            seconds: what is left of the job's time.
            alone: the job does not begin with `begin`.
        """

    def unlimit(self, raw: Any, *, alone: bool = True) -> bool:
        """Take back what `limit` may have left in the session.

        Args:
            raw: a connection that had a limit, about to be given a job without.
            alone: as for `limit`.

        Returns:
            Whether something is still left there.
        """
        return False

    def forget(self, raw: Any) -> None:
        """Take nothing for granted that was set in the session: the user was there."""

    def ticket(self, raw: Any) -> Any:
        """Return by what the open transaction is found again; None where it is not."""
        return None

    def verdict(self, raw: Any, ticket: Any) -> str | None:
        """Say what became of the transaction that has *ticket*.

        Args:
            raw: another connection than the transaction's.
            ticket: what `ticket` returned.

        Returns:
            "committed", "aborted", "in progress", or None for not known.
        """
        return None

    def cursor(self, raw: Any, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor for a function that was given a connection.

        Args:
            raw: a connection in a transaction.
            args: as for its own `cursor`.
            kwargs: the same.
        """
        return raw.cursor(*args, **kwargs)

    def commit(self, raw: Any) -> None:
        """Commit the transaction."""
        raw.commit()

    def rollback(self, raw: Any) -> None:
        """Roll the transaction back; harmless where there is none."""
        raw.rollback()

    @contextlib.contextmanager
    def bare(self, raw: Any) -> Iterator[None]:
        """Have *raw* commit each statement by itself inside this.

        Raises:
            ConfigurationError: the driver has no such mode that we know of.
        """
        if self.autocommits:
            yield
            return
        try:
            before, raw.autocommit = raw.autocommit, True
        except AttributeError:
            raise ConfigurationError(
                f"{self.name} has no autocommit that could be switched on: its "
                "connections lack the attribute. Leave autocommit=True out; what the "
                "function does is then one transaction."
            ) from None
        try:
            yield
        finally:
            raw.autocommit = before

    def dirty(self, raw: Any) -> bool:
        """Say whether a transaction is open between jobs, where none should be."""
        return False

    def state(self, raw: Any) -> TransactionState:
        """Say what has become of the transaction; OPEN where the driver cannot tell."""
        return TransactionState.OPEN
