"""How a worker serves a lease: call by call, as told, until it is to commit or not.

Everything here runs on the worker's thread. What it costs per call is what a statement
in a transaction costs, so it takes two locks for each, and wakes the loop seldom.

Source: the worker's own loop, in `threadpool.labour`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from enterprise.calls import Clerk
from enterprise.errors import TransactionEnded
from threadpool.error import LoopClosed
from threadpool.events import HOLD_SECONDS
from threadpool.failure import Failure
from threadpool.job import QUEUED, RUNNING, failureOf

if TYPE_CHECKING:
    from enterprise.calls import LeaseCall
    from enterprise.lease import Lease
    from enterprise.transaction import Transaction
    from enterprise.worker import ConnectionWorker
    from threadpool.events import PendingEvents

__all__ = ["COMMIT", "ROLL_BACK", "Service", "Undone"]

# What the worker is told beside calls. None only makes it look up.
COMMIT = object()
ROLL_BACK = object()


class Undone(Exception):
    """Leave the transaction by a rollback."""


class _Done(Exception):
    """Leave the transaction by its COMMIT."""


class Service:
    """One worker at the service of one lease.

    Args:
        lease: whose calls it does.
        handle: the cursor in the lease's transaction.
        worker: whose thread this is.
    """

    def __init__(
        self, lease: Lease, handle: Transaction, worker: ConnectionWorker
    ) -> None:
        self._lease = lease
        self._handle = handle
        self._worker = worker
        self._clerk = cast("ConnectionWorker", Clerk(lease, worker))

    def run(self, home: PendingEvents) -> None:
        """Do what is called for until told to end, and bring outcomes home in bursts.

        Args:
            home: of the loop that the lease belongs to.

        Raises:
            Undone: the transaction shall be rolled back.
            BaseException: what the lease ends with.
        """
        lease, clerk = self._lease, self._clerk
        line, gate, door = lease.line, lease.gate, lease.door
        done: LeaseCall[Any] | None = None
        broken: BaseException | None = None
        wake_at = 0.0  # When the loop is to be woken for what is held.
        try:
            while True:
                call = line.next()
                # A canceller that is at the one before
                # must not meet this one's statement.
                with gate:
                    lease.current = None
                    with door:  # The loop takes this one, and must not wait.
                        begins = call is not None and call.state is QUEUED
                        if call is not None and begins:
                            call.state = RUNNING
                    if call is not None and begins:
                        call.worker = clerk
                        lease.current = call
                if done is not None:
                    now = time.monotonic()
                    if (
                        broken is None
                        and not done.cancel_wanted
                        and done.outcome.__class__ is not Failure
                    ):  # What `_carry` would do, without its questions: the hot path.
                        done.worker = done.function = done.args = None
                        home.hold(done, now, more=True)
                    else:
                        self._carry(done, broken, home, now)
                    done = None
                    if now > wake_at:
                        home.release(now, dry=True)
                        wake_at = now + HOLD_SECONDS
                if lease.cancel_wanted:
                    lease.report()
                    lease.check()
                if call is None:
                    lease.rests_since = now = time.monotonic()
                    home.release(now, dry=True)
                    self._heed(line.rest())
                    wake_at = time.monotonic() + HOLD_SECONDS
                elif lease.current is call:
                    broken = self._do(call)
                    done = call
        except _Done:
            return
        finally:
            broken = None  # It refers to this frame.

    def _heed(self, word: object) -> None:
        if self._lease.cancel_wanted:
            return
        if word is COMMIT:
            raise _Done
        if word is ROLL_BACK:
            raise Undone

    def _do(self, call: LeaseCall[Any]) -> BaseException | None:
        """Do *call* and keep its outcome; return what the whole lease ends with."""
        try:
            call.outcome = call.perform(self._handle)
        except BaseException as error:
            lease, driver = self._lease, self._handle._driver
            driver.redact(error)
            call.outcome = failureOf(self._worker.explain(lease, error))
            if driver.lost(self._handle._raw, error) or lease.cancel_wanted:
                return error
        return None

    def _carry(
        self,
        call: LeaseCall[Any],
        broken: BaseException | None,
        home: PendingEvents,
        now: float,
    ) -> None:
        """Bring the outcome of *call* home, unless the whole lease ends with it."""
        worker = self._worker
        call.worker = None
        try:
            if call.cancel_wanted:
                call.conclude(lost=broken is not None)
                # Else it counts as one.
                if not (self._lease.cancel_wanted or call.released):
                    worker.office.tally.ended(call)
                if worker._doomed:
                    broken = broken or self._doom()
            elif broken is not None:
                raise broken  # What the lease fails with, the call fails with, too.
            call.clear()
            if call.outcome.__class__ is Failure:
                worker.office.tally.failed(call.outcome)
            if not call.released:
                try:
                    home.hold(call, now, more=True)
                except LoopClosed:
                    call.lost()
                    raise
            if broken is not None:
                raise broken
        finally:
            broken = None  # It refers to this frame.

    def _doom(self) -> TransactionEnded:
        self._worker.discard()
        return TransactionEnded(
            "A cancel was sent and not confirmed, so the connection was closed, for "
            "that cancel might have met the next statement; nothing is committed. Do "
            "the transaction again."
        )

    def __repr__(self) -> str:
        return f"<Service of {self._lease.label()}>"
