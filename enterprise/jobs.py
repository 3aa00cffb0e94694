"""The kinds of work a connection's worker does, each as one job.

Made on the loop's thread, done on the worker's. What a job says to the database, it
says through the driver it is handed.
"""

from __future__ import annotations

import functools
import inspect
import logging
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar

from enterprise.drivers.base import TransactionState
from enterprise.errors import TransactionEnded
from enterprise.rows import Result
from enterprise.transaction import Connection, Transaction
from threadpool._chain import LATER, cancelledError
from threadpool.failure import Failure
from threadpool.job import Job

if TYPE_CHECKING:
    from enterprise.drivers.base import Driver
    from enterprise.worker import ConnectionWorker
    from threadpool.events import PendingEvents
    from threadpool.team import Team

__all__ = [
    "DatabaseJob",
    "Interaction",
    "Operation",
    "Query",
    "Script",
    "WholeResult",
    "WithConnection",
]

_log = logging.getLogger(__name__)

T = TypeVar("T")

# A cancel that reaches the database between two statements, or just before the first,
# stops nothing. It is sent again after this time, then after twice as long, and so on.
AGAIN_SECONDS = 0.02


class DatabaseJob(Job[T]):
    """A job that needs a connection."""

    __slots__ = ("cancel_wanted", "committed", "stop_error", "worker")

    # Whether the writer may do it where a reader was refused.
    movable = False

    def __init__(
        self,
        home: PendingEvents,
        function: Any,
        args: Any,
        kwargs: Any,
        team: Team[Any],
    ) -> None:
        Job.__init__(self, home, function, args, kwargs, team)
        # Set on the loop's thread, once; read by the worker between its steps.
        self.cancel_wanted = False
        self.committed = False
        self.worker: ConnectionWorker | None = None
        # What to fail with when stopped; None for CancelledError.
        self.stop_error: Exception | None = None

    def do(self, driver: Driver, raw: Any) -> T:
        """Do the work and return its value. Worker's thread."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise CancelledError where the job was cancelled meanwhile."""
        if self.cancel_wanted:
            raise CancelledError

    def _roll_back(self, driver: Driver, raw: Any) -> None:
        """Leave no transaction behind for the next job, after an error."""
        if self.worker is not None:
            self.worker.spare()  # A rollback that is cancelled costs the connection.
        try:
            driver.rollback(raw)
        except Exception as error:
            if self.worker is not None:
                self.worker.discard()
            _log.warning(
                "A rollback failed (%s: %s); the connection is closed.",
                type(error).__name__,
                error,
            )

    def stopRunning(self) -> object:
        """Have the statement stopped where it runs; the worker then confirms it."""
        if not self.cancel_wanted:
            # Where the outcome is on its way home already, nobody will `conclude`.
            self._late_cancel = True
            self._keep_halting(AGAIN_SECONDS)
        return LATER

    def halt(self) -> None:
        """Stop the statement that runs at this moment, if there is one. Any thread."""
        self.cancel_wanted = True
        worker = self.worker
        if worker is not None:  # Else it will check before it begins.
            worker.office.cancel(worker, self)

    def _keep_halting(self, pause: float) -> None:
        """Halt until there is an answer: a statement about to begin hears nothing."""
        if not self.called and self.home is not None:
            self.halt()
            again = functools.partial(self._keep_halting, min(pause * 2, 1.0))
            self.home.later(pause, again)

    def conclude(self) -> None:
        """Say what the outcome of a cancelled job is. Worker's thread.

        "Cancelled" means "not committed": where the work was done all the same, its
        value is the answer, and the cancellation goes on to the awaiting task.
        """
        if self.committed or not isinstance(self.outcome, Failure):
            self._late_cancel = self.stop_error is None
        else:
            self._late_cancel = False
            self.outcome = Failure(
                self.stop_error or cancelledError(self._cancel_message)
            )


class _Single(DatabaseJob[T]):
    """What goes to the driver in one piece, and is committed by itself."""

    __slots__ = ()

    def do(self, driver: Driver, raw: Any) -> T:
        """Say it to the driver; leave nothing behind where that fails."""
        try:
            return self._say(driver, raw)
        except BaseException:
            self._roll_back(driver, raw)
            raise

    def _say(self, driver: Driver, raw: Any) -> T:
        raise NotImplementedError


class Query(_Single["list[Any]"]):
    """One statement, for its rows."""

    __slots__ = ()
    movable = True

    def _say(self, driver: Driver, raw: Any) -> list[Any]:
        sql, params = self.args
        return driver.query(raw, sql, params)


class Operation(_Single[None]):
    """One statement, for its effect."""

    __slots__ = ()

    def _say(self, driver: Driver, raw: Any) -> None:
        sql, params = self.args
        driver.operate(raw, sql, params)


class WholeResult(_Single[Result]):
    """One statement, for all that the driver tells."""

    __slots__ = ()
    movable = True

    def _say(self, driver: Driver, raw: Any) -> Result:
        sql, params = self.args
        return driver.result(raw, sql, params)


class Script(_Single[None]):
    """Several statements in one text."""

    __slots__ = ()

    def _say(self, driver: Driver, raw: Any) -> None:
        (text,) = self.args
        driver.script(raw, text)


class Interaction(DatabaseJob[T]):
    """A function that talks to the database, in one transaction and one hop."""

    __slots__ = ("readonly",)

    def __init__(self, *arguments: Any, readonly: bool = False) -> None:
        super().__init__(*arguments)
        self.readonly = readonly

    def do(self, driver: Driver, raw: Any) -> T:
        """Begin, call, and commit; roll back on every exception."""
        value: T = self.context.run(self._transact, driver, raw)
        return value

    def _transact(self, driver: Driver, raw: Any) -> T:
        driver.begin(raw, readonly=self.readonly)
        try:
            handle = self._handle(driver, raw)
            try:
                value: T = self.function(handle, *self.args, **self.kwargs)
                _refuse_awaitable(value, self.function)
                self.check()
                self._require_transaction(driver, raw)
            finally:
                handle.finish()
            driver.commit(raw)
        except BaseException:
            self._roll_back(driver, raw)
            raise
        self.committed = True
        return value

    def _handle(self, driver: Driver, raw: Any) -> Transaction | Connection:
        return Transaction(self, driver, raw)

    def _require_transaction(self, driver: Driver, raw: Any) -> None:
        state = driver.state(raw)
        if state is TransactionState.FAILED:
            raise TransactionEnded(
                "An earlier error made the transaction useless, and the function went "
                "on as if nothing had happened; everything was rolled back. Let the "
                "error pass, or wrap what may fail in txn.savepoint()."
            )
        if state is TransactionState.NONE:
            raise TransactionEnded(
                "The transaction was over before the function returned, so there was "
                "nothing to commit. An error or a COMMIT of its own ended it; leave "
                "beginning and ending to the pool."
            )


class WithConnection(Interaction[T]):
    """As `Interaction`, for functions that want a connection and not a cursor."""

    __slots__ = ()

    def _handle(self, driver: Driver, raw: Any) -> Connection:
        return Connection(driver, raw)


def _refuse_awaitable(value: object, function: object) -> None:
    """Refuse what would be awaited outside the transaction, and never is."""
    if not inspect.isawaitable(value) and not inspect.isasyncgen(value):
        return
    if inspect.iscoroutine(value):
        value.close()  # Else Python warns that it was never awaited.
    raise TypeError(
        f"{function!r} returned {type(value).__name__}, to be awaited later, but its "
        "transaction ends when it returns; it was rolled back. Pass a plain function "
        "that does its work and returns the value."
    )
