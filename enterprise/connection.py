"""What `runWithConnection` hands to its function: a connection in a transaction.

It lives in a worker's thread and ends with the function it was made for.

Source: adbapi's Connection. Unlike that, it passes on attributes that are set.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any, Self

from enterprise.drivers.base import TransactionState
from enterprise.errors import TransactionEnded
from enterprise.jobs import SENT
from enterprise.transaction import REFUSED

if TYPE_CHECKING:
    from enterprise.drivers.base import Driver
    from enterprise.interaction import InTransaction

__all__ = ["Connection"]

_MODE = (
    "Setting {} could commit what this transaction has done, and stays for the next "
    "caller. Say runWithConnection(f, autocommit=True), runInteraction(f, isolation=)."
)

# Verbs of a cursor that some drivers' connections have as well.
_SHORTCUTS = frozenset({"execute", "executemany"})


class Connection:
    """A connection inside a transaction; the driver's own attributes are here too.

    `commit` and `rollback` end the transaction and begin the next one; `close` does
    nothing, since the connection is the worker's.
    """

    # What the driver's own cursors do is not seen here.
    trouble: BaseException | None = None
    _ended = False

    _own = frozenset({"_cursors", "_job", "_driver", "_raw"})

    def __init__(self, job: InTransaction[Any], driver: Driver, raw: Any) -> None:
        # An error's traceback may keep one alive, and that one the file or a lock.
        self._cursors: weakref.WeakSet[Any] = weakref.WeakSet()
        self._job = job
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
        self._job.sendCommit(self._driver, self._raw)
        self._job.phase = SENT
        self._job.partly = True
        self._job.terms.begin(self._driver, self._raw)

    def rollback(self) -> None:
        """Undo what was done so far, and begin the next transaction."""
        self._driver.rollback(self._raw)
        self._job.phase = SENT  # Perhaps after a commit that failed.
        self._job.terms.begin(self._driver, self._raw)

    def close(self) -> None:
        """Do nothing: the connection lives on after this function."""

    def finish(self) -> None:
        """Close the cursors that the function has left open."""
        if self._driver.state(self._raw) is TransactionState.BUSY:
            return  # psycopg would wait for its own lock; the connection is closed.
        for cursor in list(self._cursors):
            self._driver.closeCursor(cursor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the pool ends the transaction."""

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor of the driver's, in this transaction.

        Args:
            args: as for the driver's own `cursor`.
            kwargs: the same.
        """
        cursor = self._driver.cursor(self._raw, *args, **kwargs)
        with contextlib.suppress(TypeError):  # Not every driver's can be referred to.
            self._cursors.add(cursor)
        return cursor

    def __getattr__(self, name: str) -> Any:
        if name in REFUSED:
            raise AttributeError(REFUSED[name])
        found = getattr(self._raw, name)
        if name == "autocommit" and callable(found):  # With some it is a verb.
            raise AttributeError(_MODE.format(name))
        # A driver's short cut makes a cursor of its own, past the one above.
        return getattr(self.cursor(), name) if name in _SHORTCUTS else found

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._own:
            object.__setattr__(self, name, value)
        elif name in ("autocommit", "isolation_level"):
            raise AttributeError(_MODE.format(name))
        else:
            setattr(self._raw, name, value)

    def __repr__(self) -> str:
        return f"<Connection to {self._driver.name}>"
