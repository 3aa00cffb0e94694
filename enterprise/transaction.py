"""What an interaction receives: a cursor in a transaction, or a connection in one.

Both live in a worker's thread and end with the function they were made for.

Source: adbapi's Transaction and Connection. Unlike those, they iterate, pass on
attributes that are set, and are closed whatever happens.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Self

from enterprise.drivers.base import TransactionState
from enterprise.errors import TransactionEnded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enterprise.drivers.base import Driver
    from enterprise.jobs import DatabaseJob

__all__ = ["Connection", "Transaction"]


_log = logging.getLogger(__name__)


class Transaction:
    """A cursor inside a transaction; every attribute of the driver's cursor is here.

    The pool begins the transaction and ends it: it commits when the function returns
    and rolls back when it raises.
    """

    _own = frozenset({"_job", "_driver", "_raw", "_cursor", "_ended", "_depth"})

    def __init__(self, job: DatabaseJob[Any], driver: Driver, raw: Any) -> None:
        self._job = job
        self._driver = driver
        self._raw = raw
        self._ended = False
        self._depth = 0
        self._cursor = raw.cursor()

    @property
    def cancelled(self) -> bool:
        """Whether whoever waits for this interaction has given up."""
        return self._job.cancel_wanted

    def execute(self, sql: Any, params: Any = None) -> Self:
        """Run one statement.

        Args:
            sql: the statement, with placeholders in the driver's style.
            params: a sequence or a mapping of values; None for none.

        Returns:
            This transaction, to fetch from or to iterate over.

        Raises:
            asyncio.CancelledError: the interaction was cancelled.
            TransactionEnded: an earlier error ended the transaction.
        """
        self._check()
        try:
            self._driver.execute(self._cursor, sql, params)
        except BaseException:
            self._look()
            raise
        return self

    def executemany(self, sql: Any, rows: Any) -> Self:
        """Run one statement for each of *rows*.

        Args:
            sql: the statement, with placeholders in the driver's style.
            rows: an iterable of sequences or mappings of values.

        Returns:
            This transaction.

        Raises:
            asyncio.CancelledError: the interaction was cancelled.
            TransactionEnded: an earlier error ended the transaction.
        """
        self._check()
        try:
            self._cursor.executemany(sql, rows)
        except BaseException:
            self._look()
            raise
        return self

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[Self]:
        """Undo what is done inside when an exception leaves it, and only that.

        Savepoints nest. In `with txn.savepoint():` a failing statement does not spoil
        the transaction around it.

        Raises:
            TransactionEnded: an earlier error ended the transaction.
        """
        self._depth += 1
        name = f"threadbridge_{self._depth}"
        self.execute(f"savepoint {name}")
        try:
            yield self
        except BaseException:
            if not self._ended:
                self._driver.execute(
                    self._cursor, f"rollback to savepoint {name}", None
                )
                self._driver.execute(self._cursor, f"release savepoint {name}", None)
            raise
        else:
            self.execute(f"release savepoint {name}")
        finally:
            self._depth -= 1

    def close(self) -> None:
        """Close the cursor; `reopen` makes a new one."""
        self._cursor.close()

    def reopen(self) -> None:
        """Close the cursor and make a new one, in the same transaction."""
        self._cursor.close()
        self._cursor = self._raw.cursor()

    def finish(self) -> None:
        """Close the cursor for good: the function is over."""
        self._ended = True
        try:
            self._cursor.close()
        except Exception as error:
            # A broken cursor cannot be closed; the error it broke with is on its way.
            _log.debug("A cursor could not be closed: %s", error)

    def _check(self) -> None:
        self._job.check()
        if self._ended:
            raise TransactionEnded(
                "The transaction is over, and a statement now would be committed by "
                "itself. Let the error that ended it leave the function."
            )

    def _look(self) -> None:
        """After an error: SQLite may have rolled the whole transaction back."""
        if self._driver.state(self._raw) is TransactionState.NONE:
            self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the pool ends the transaction."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)

    def __getattr__(self, name: str) -> Any:
        if name == "executescript":
            raise _no_scripts()
        return getattr(self._cursor, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._own:
            object.__setattr__(self, name, value)
        else:
            setattr(self._cursor, name, value)

    def __repr__(self) -> str:
        return f"<Transaction on {self._driver.name}>"


class Connection:
    """A connection inside a transaction; the driver's own attributes are here too.

    `commit` and `rollback` end the transaction and begin the next one; `close` does
    nothing, since the connection is the worker's.
    """

    _own = frozenset({"_driver", "_raw"})

    def __init__(self, driver: Driver, raw: Any) -> None:
        self._driver = driver
        self._raw = raw

    def commit(self) -> None:
        """Commit what was done so far, and begin the next transaction.

        Raises:
            TransactionEnded: an earlier error left nothing to commit.
        """
        if self._driver.state(self._raw) is not TransactionState.OPEN:
            raise TransactionEnded(
                "An earlier error ended the transaction, so there is nothing to "
                "commit. Let that error leave the function, or call rollback() first."
            )
        self._driver.commit(self._raw)
        self._driver.begin(self._raw, readonly=False)

    def rollback(self) -> None:
        """Undo what was done so far, and begin the next transaction."""
        self._driver.rollback(self._raw)
        self._driver.begin(self._raw, readonly=False)

    def close(self) -> None:
        """Do nothing: the connection lives on after this function."""

    def finish(self) -> None:
        """Do nothing: there is no cursor of ours to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the pool ends the transaction."""

    def __getattr__(self, name: str) -> Any:
        if name == "executescript":
            raise _no_scripts()
        return getattr(self._raw, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._own:
            object.__setattr__(self, name, value)
        else:
            setattr(self._raw, name, value)

    def __repr__(self) -> str:
        return f"<Connection to {self._driver.name}>"


def _no_scripts() -> AttributeError:
    return AttributeError(
        "executescript() would first commit what this transaction has done, so it "
        "cannot be had here. Execute the statements one by one, or use runScript."
    )
