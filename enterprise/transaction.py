"""What an interaction receives: a cursor in a transaction.

Both live in a worker's thread and end with the function they were made for. A lease
serves its calls through the same cursor.

Source: adbapi's Transaction and Connection. Unlike those, they iterate, pass on
attributes that are set, and are closed whatever happens.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Self

from enterprise.drivers.base import TransactionState
from enterprise.errors import NestedAcquire, TransactionEnded
from enterprise.refusals import noteReadOnly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enterprise.drivers.base import Driver
    from enterprise.interaction import InTransaction

__all__ = ["REFUSED", "Transaction"]


_log = logging.getLogger(__name__)


# Reading a member off its class costs as much as calling a function.
_OPEN = TransactionState.OPEN


# What would end the transaction behind our back, and what to do instead.
REFUSED = {
    "executescript": "executescript() would first commit what this transaction has "
    "done, so it cannot be had here. Execute the statements one by one, or use "
    "runScript.",
    "reconnect": "reconnect() would leave this transaction behind. Let the error leave "
    "the function and call again: the pool replaces connections that are lost.",
}


class Transaction:
    """A cursor inside a transaction; every attribute of the driver's cursor is here.

    The pool begins the transaction and ends it: it commits when the function returns
    and rolls back when it raises.

    Attributes:
        trouble: the error that spoiled the transaction, or ended it; None so far.
    """

    _own = frozenset(
        {"_job", "_driver", "_raw", "_cursor", "_ended", "_depth", "trouble"}
    )

    def __init__(self, job: InTransaction[Any], driver: Driver, raw: Any) -> None:
        self._job = job
        self._driver = driver
        self._raw = raw
        self._ended = False
        self._depth = 0
        self.trouble: BaseException | None = None
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
            NestedAcquire: a result or a COPY has the connection.
            TransactionEnded: an earlier error ended the transaction.
        """
        self._check()
        try:
            self._driver.execute(self._cursor, sql, params)
        except BaseException as error:
            self._look(error)
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
        except BaseException as error:
            self._look(error)
            raise
        return self

    def say(self, verb: str, sql: Any, params: Any) -> Any:
        """Run one statement beside the cursor, for a lease.

        Args:
            verb: the driver's method for it: "query", "operate" or "result".
            sql: the statement, with placeholders in the driver's style.
            params: a sequence or a mapping of values; None for none.

        Returns:
            What that method returns.

        Raises:
            asyncio.CancelledError: the lease was cancelled.
            TransactionEnded: an earlier error ended the transaction.
        """
        self._check()
        try:
            return getattr(self._driver, verb)(self._raw, sql, params)
        except BaseException as error:
            self._look(error)
            raise

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[Self]:
        """Undo what is done inside when an exception leaves it, and only that.

        Savepoints nest. In `with txn.savepoint():` a failing statement does not spoil
        the transaction around it.

        Raises:
            TransactionEnded: an earlier error ended the transaction.
        """
        mark = self.setSavepoint()
        try:
            yield self
        except BaseException:
            self.undoSavepoint(mark)
            raise
        else:
            self.releaseSavepoint()

    def setSavepoint(self) -> int:
        """Begin a savepoint; `savepoint` is the safe way to do it.

        Returns:
            What `undoSavepoint` wants.

        Raises:
            TransactionEnded: an earlier error ended the transaction.
        """
        afterwards = self._job.afterwards
        self.execute(f"savepoint threadbridge_{self._depth + 1}")
        self._depth += 1
        return 0 if afterwards is None else afterwards.mark()

    def releaseSavepoint(self) -> None:
        """End the innermost savepoint and keep what was done since it began."""
        name = f"threadbridge_{self._depth}"
        self._depth -= 1
        self.execute(f"release savepoint {name}")

    def undoSavepoint(self, mark: int) -> None:
        """Undo what was done since the innermost savepoint began, and end it.

        Args:
            mark: what `setSavepoint` returned.
        """
        name = f"threadbridge_{self._depth}"
        self._depth -= 1
        if self._job.afterwards is not None:
            self._job.afterwards.undo(mark)
        if self._driver.state(self._raw) is TransactionState.BUSY:
            self._ended = True  # Nothing can be undone, and nothing be committed.
        if self._ended:
            return
        try:
            # Not `self.execute`: a cancel stops what happens inside, not the way out.
            self._driver.execute(self._cursor, f"rollback to savepoint {name}", None)
            self._driver.execute(self._cursor, f"release savepoint {name}", None)
        except BaseException as error:
            self._ended, self.trouble = True, error  # It must not be committed.
            raise
        self.trouble = None

    def onCommit(self, function: Callable[..., object], *args: Any) -> None:
        """Have *function* called on the loop's thread once all this is committed.

        It is called before the callbacks of the interaction's Deferred, in the order
        of these calls. What it raises is logged. It is never called where the commit
        fails, or where the savepoint is undone in which this was said.

        Args:
            function: a plain function, called as `function(*args)`.
            args: its arguments.

        Raises:
            TypeError: it is no plain function.

        Source: Django's `transaction.on_commit`.
        """
        self._job.after().note(function, args, on_commit=True)

    def onRollback(self, function: Callable[..., object], *args: Any) -> None:
        """Have *function* called on the loop's thread once this was rolled back.

        As `onCommit`. It is also called, at the end, where only the savepoint was
        undone in which this was said, and for each attempt that is repeated.

        Args:
            function: a plain function, called as `function(*args)`.
            args: its arguments.

        Raises:
            TypeError: it is no plain function.
        """
        self._job.after().note(function, args, on_commit=False)

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
        self._driver.closeCursor(self._cursor)

    def _check(self) -> None:
        if self._job.cancel_wanted:
            self._job.check()
        state = self._driver.state(self._raw)
        if state is _OPEN and not self._ended:
            return
        if state is TransactionState.BUSY:
            raise NestedAcquire(
                "The connection is in the middle of a result or a COPY and takes no "
                "statement until that is over; this one would wait for ever. Read it "
                "to its end first, or close it."
            )
        if self._ended or state is TransactionState.NONE:
            raise TransactionEnded(
                "The transaction is over, and a statement now would be committed by "
                "itself. Let the error that ended it leave the function; leave COMMIT "
                "and ROLLBACK to the pool."
            ) from self.trouble

    def _look(self, error: BaseException) -> None:
        """After an error: SQLite may have rolled the whole transaction back."""
        state = self._driver.state(self._raw)
        if state is TransactionState.NONE:
            self._ended = True
        if state is not TransactionState.OPEN and self.trouble is None:
            self.trouble = error
        if self._job.terms.readonly and self._driver.refusedToWrite(error):
            noteReadOnly(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the pool ends the transaction."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)

    def __getattr__(self, name: str) -> Any:
        if name in REFUSED:
            raise AttributeError(REFUSED[name])
        if self._ended and name.startswith("fetch"):
            raise TransactionEnded(
                "The transaction is over and its cursor closed: no rows can be fetched "
                "any more. Fetch them inside the function, and return those."
            ) from self.trouble
        return getattr(self._cursor, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._own:
            object.__setattr__(self, name, value)
        else:
            setattr(self._cursor, name, value)

    def __repr__(self) -> str:
        return f"<Transaction on {self._driver.name}>"
