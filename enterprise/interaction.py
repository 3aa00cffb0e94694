"""Interactions: a user's function, in a worker's thread, in one transaction.

Made on the loop's thread, done on the worker's. Begin, the whole function and commit
are one job: nothing goes to the loop in between.

Source: `adbapi.ConnectionPool.runInteraction` and `runWithConnection`.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from enterprise.afterwards import Afterwards
from enterprise.connection import Connection
from enterprise.drivers.base import TransactionState
from enterprise.errors import TransactionEnded
from enterprise.inquiry import Inquiry
from enterprise.jobs import COMMITTED, COMMITTING, SENT, DatabaseJob
from enterprise.labels import Calling
from enterprise.transaction import Transaction

if TYPE_CHECKING:
    from enterprise.drivers.base import Driver
    from enterprise.errors import Outcome
    from enterprise.retry import RetryPolicy
    from enterprise.worker import ConnectionWorker

__all__ = [
    "ISOLATIONS",
    "BareConnection",
    "InTransaction",
    "Interaction",
    "Terms",
    "WithConnection",
]

_log = logging.getLogger(__name__)

T = TypeVar("T")

ISOLATIONS = ("read committed", "repeatable read", "serializable")


@dataclass(frozen=True, slots=True)
class Terms:
    """How a transaction begins.

    Args:
        readonly: it cannot write.
        isolation: one of ISOLATIONS; None for the database's default.
        deferrable: PostgreSQL's word for a read-only serializable transaction that
            rather waits than fails; None to say nothing about it.

    Raises:
        ValueError: there is no such isolation level.
    """

    readonly: bool = False
    isolation: str | None = None
    deferrable: bool | None = None

    def __post_init__(self) -> None:
        if self.isolation is not None and self.isolation not in ISOLATIONS:
            raise ValueError(
                f"There is no isolation level {self.isolation!r} here. Choose one of "
                f"{ISOLATIONS}, or None for the database's default."
            )

    def begin(self, driver: Driver, raw: Any) -> None:
        """Begin a transaction like this. Worker's thread."""
        driver.begin(
            raw,
            readonly=self.readonly,
            isolation=self.isolation,
            deferrable=self.deferrable,
        )


_PLAIN = Terms()


class InTransaction(DatabaseJob[T]):
    """A job that is one transaction, from BEGIN to COMMIT.

    Attributes:
        afterwards: what is to be called when its outcome is known; None for nothing.
    """

    __slots__ = ("afterwards", "partly", "terms", "ticket", "value")

    alone = False

    def __init__(self, *arguments: Any, terms: Terms) -> None:
        super().__init__(*arguments)
        self.terms = terms
        self.partly = False  # The function has committed a part of it by itself.
        self.afterwards: Afterwards | None = None
        # By which its COMMIT is found again, and what it then is worth; both only where
        # the driver resolves.
        self.ticket: Any = None
        self.value: tuple[T] | None = None

    def fate(self) -> Outcome:
        """Say what is known of all its work when its connection ends now."""
        fate = super().fate()
        return "unknown" if self.partly and fate == "rolled_back" else fate

    def reads(self) -> bool:
        """Say whether it can have changed nothing."""
        return self.terms.readonly

    def after(self) -> Afterwards:
        """Return the list of what is to be called afterwards."""
        if self.afterwards is None:
            self.afterwards = Afterwards()
        return self.afterwards

    def happen(self) -> None:
        """Call what waited for the outcome, then fire. Loop thread."""
        try:
            if self.afterwards is not None:
                self._call_afterwards(self.fate())
        finally:  # Also when Ctrl-C came in between.
            super().happen()

    def _fire(self, result: Any, *, directly: bool) -> None:
        # Somebody else than its worker tells of its end. Where it was stopped, it will
        # not begin a COMMIT any more; else its outcome is still open.
        if self.afterwards is not None and self.cancel_wanted:
            worker = self.worker
            with worker.guard if worker is not None else contextlib.nullcontext():
                fate = self.fate()
            self._call_afterwards(fate)
        super()._fire(result, directly=directly)

    def _call_afterwards(self, fate: Outcome) -> None:
        afterwards, self.afterwards = self.afterwards, None
        if afterwards is not None:
            afterwards.happen(fate)

    def lost(self) -> None:
        """Say what came too late. Any thread."""
        if self.afterwards is not None:
            _log.warning(
                "The event loop ended before a transaction (%s), so what was given to "
                "onCommit and onRollback was not called. Await the transaction before "
                "the main coroutine returns.",
                self.fate(),
            )
            self.afterwards = None
        super().lost()

    def _transact(self, driver: Driver, raw: Any) -> T:
        self.phase = SENT
        try:
            self.terms.begin(driver, raw)
            handle = self._handle(driver, raw)
            try:
                value = self._work(handle)
                self.check()
                _require_transaction(handle, driver, raw)
            finally:
                handle.finish()
            self.sendCommit(driver, raw, (value,))
        except BaseException as error:
            self._undo(driver, raw, error)
            raise
        self.phase = COMMITTED
        return value

    def sendCommit(
        self, driver: Driver, raw: Any, value: tuple[T] | None = None
    ) -> None:
        """Commit, unless somebody wants it stopped. Worker's thread.

        Args:
            driver: of the connection.
            raw: the connection, in a transaction.
            value: what the job is worth when it is done with this; None where it is
                not.
        """
        if driver.resolves:
            self.ticket, self.value = driver.ticket(raw), value
        self.enterCommit()
        driver.commit(raw)
        self.value = None

    def learnFate(self, worker: ConnectionWorker) -> tuple[T] | None:
        """Ask the database what became of the COMMIT. Worker's thread.

        Args:
            worker: whose connection was lost.

        Returns:
            The value, alone in a tuple, where all is done; else None.
        """
        if self.ticket is None:
            return None
        fate = Inquiry.about(self.ticket, worker, self)
        with worker.guard:  # Whoever releases the caller looks at the phase.
            if fate == "committed":
                self.phase = COMMITTED
            elif fate == "rolled_back":
                self.phase = SENT
        return self.value if fate == "committed" else None

    def _undo(self, driver: Driver, raw: Any, error: BaseException) -> None:
        worker = self.worker
        self._roll_back(driver, raw)
        if (
            self.phase is COMMITTING
            and not driver.lost(raw, error)
            and (worker is None or worker.ready)
        ):
            self.phase = SENT  # The database has refused, and is here to confirm it.
        if self.afterwards is not None and self.phase is SENT:
            self.afterwards.undo(0)

    def _handle(self, driver: Driver, raw: Any) -> Any:
        return Transaction(self, driver, raw)

    def _work(self, handle: Any) -> T:
        raise NotImplementedError


class Interaction(Calling, InTransaction[T]):
    """A function that talks to the database, in one transaction and one hop."""

    __slots__ = ("_stopped", "group", "retry")

    def __init__(
        self,
        *arguments: Any,
        terms: Terms,
        retry: RetryPolicy | None = None,
        group: bool = False,
    ) -> None:
        super().__init__(*arguments, terms=terms)
        self.retry = retry
        # Whether it may share a transaction. What asks for one of a kind may not, and
        # what is repeated by itself.
        self.group = group and retry is None and terms == _PLAIN
        # Ends the pause between two attempts.
        self._stopped = None if retry is None else threading.Event()

    def do(self, driver: Driver, raw: Any) -> T:
        """Begin, call, and commit; roll back on every exception."""
        if self.retry is not None:
            return self._persist(self.retry, driver, raw)
        value: T = self.context.run(self._transact, driver, raw)
        return value

    def _persist(self, policy: RetryPolicy, driver: Driver, raw: Any) -> T:
        """Repeat it on the same connection, as far as *policy* goes."""
        fresh = self.context
        pauses = policy.pauses()
        while True:
            # No attempt sees what another one has set.
            self.context = fresh.copy()
            try:
                value: T = self.context.run(self._transact, driver, raw)
            except Exception as error:
                pause = next(pauses, None)
                if pause is None or not self._may_repeat(policy, driver, raw, error):
                    raise
                if time.monotonic() + pause >= self._latest():
                    raise
                _log.debug("An interaction is repeated in %.3f s: %r", pause, error)
            else:
                return value
            self._pause(pause)

    def _may_repeat(
        self, policy: RetryPolicy, driver: Driver, raw: Any, error: Exception
    ) -> bool:
        # After a COMMIT that was sent and lost it may have been done; and where the
        # connection is gone there is nothing here to repeat it on.
        worker = self.worker
        return (
            self.phase is SENT
            and not self.cancel_wanted
            and not driver.lost(raw, error)
            and (worker is None or worker.ready)
            and policy.covers(error)
        )

    def _latest(self) -> float:
        """Return when its time is over; `deadline` may not have been set yet."""
        limit, worker = self.timeout, self.worker
        if limit is None and worker is not None:
            limit = worker.office.options.cp_query_timeout
        return math.inf if limit is None else self.queued_at + limit

    def _pause(self, seconds: float) -> None:
        if self._stopped is not None:
            self._stopped.wait(seconds)
        worker = self.worker
        if worker is not None:
            worker.expose()  # The rollback was spared; the next attempt is not.
        self.check()
        if worker is not None:
            worker.office.tally.repeat()

    def halt(self) -> None:
        """Stop the statement that runs, or the pause between two attempts."""
        super().halt()
        if self._stopped is not None:
            self._stopped.set()

    def _work(self, handle: Any) -> T:
        value: T = self.function(handle, *self.args, **self.kwargs)
        _refuse_awaitable(value, self.function)
        return value


class WithConnection(Interaction[T]):
    """As `Interaction`, for functions that want a connection and not a cursor."""

    __slots__ = ()

    def _handle(self, driver: Driver, raw: Any) -> Connection:
        return Connection(self, driver, raw)


class BareConnection(Calling, DatabaseJob[T]):
    """A function that gets the driver's own connection, and no transaction."""

    __slots__ = ()

    def do(self, driver: Driver, raw: Any) -> T:
        """Call it; what it leaves open is rolled back."""
        self.phase = COMMITTING  # It may commit whenever it likes.
        try:
            value: T = self.context.run(self._call, driver, raw)
        except BaseException:
            self._roll_back(driver, raw)
            raise
        self.phase = COMMITTED
        return value

    def _call(self, driver: Driver, raw: Any) -> T:
        with driver.bare(raw):
            value: T = self.function(raw, *self.args, **self.kwargs)
        _refuse_awaitable(value, self.function)
        return value


def _require_transaction(
    handle: Transaction | Connection, driver: Driver, raw: Any
) -> None:
    state = driver.state(raw)
    if state is TransactionState.BUSY:
        raise TransactionEnded(
            "The function returned in the middle of a result or a COPY, so nothing "
            "could be committed, and the connection is closed. Read it to its end, or "
            "close it, before returning."
        )
    if state is TransactionState.FAILED:
        raise TransactionEnded(
            "An earlier error made the transaction useless, and the function went "
            "on as if nothing had happened; everything was rolled back. Let the "
            "error pass, or wrap what may fail in txn.savepoint()."
        ) from handle.trouble
    if state is TransactionState.NONE or handle._ended:
        raise TransactionEnded(
            "The transaction was over before the function returned, so there was "
            "nothing to commit. An error or a COMMIT of its own ended it; leave "
            "beginning and ending to the pool."
        ) from handle.trouble


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
