"""One call in a lease, and how it alone is stopped.

A call is made and fires on the loop's thread; the lease's worker does it. Stopping it
goes through the canceller's thread, which must not meet the statement after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from enterprise.errors import TransactionEnded
from enterprise.jobs import DatabaseJob
from threadpool._chain import LATER
from threadpool.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from enterprise.laneoffice import LaneOffice
    from enterprise.lease import Lease
    from enterprise.transaction import Transaction
    from enterprise.worker import ConnectionWorker

__all__ = ["Clerk", "LeaseCall", "Opened", "Saying"]

T = TypeVar("T")


class Opened:
    """The event of a lease whose transaction has begun.

    Args:
        lease: which.
    """

    __slots__ = ("_lease",)

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def happen(self) -> None:
        """Let the caller into the block; a lease that is being stopped tells itself."""
        lease = self._lease
        if not lease.cancel_wanted and not lease.opened.called:
            lease.opened._fire(None, directly=True)


class LeaseCall(DatabaseJob[T]):
    """One thing to do in a lease.

    Args:
        lease: where.
        function: called on the worker's thread as `function(txn, *args)`, with the
            cursor that an interaction would get.
        args: its further arguments.
        binding: it must be done although its caller was cancelled.
    """

    __slots__ = ("binding", "lease")

    def __init__(
        self,
        lease: Lease,
        function: Callable[..., T] | None,
        args: tuple[Any, ...],
        *,
        binding: bool = False,
    ) -> None:
        super().__init__(lease.home, function, args, {}, lease.team)  # type: ignore[arg-type]  # a lease has a home
        self.lease = lease
        self.binding = binding

    def perform(self, txn: Transaction) -> T:
        """Do it. Worker's thread.

        Args:
            txn: the lease's cursor.
        """
        value: T = self.context.run(self.function, txn, *self.args)
        return value

    def happen(self) -> None:
        """Fire, and let the lease know. Loop thread."""
        try:
            super().happen()
        finally:
            self.lease.settled(self)

    def unclaimed(self) -> bool:
        """Say whether it failed, and nobody has looked. Loop thread."""
        guard = self._guard
        return guard is not None and not guard.seen and guard.failure is not None

    def drop(self, error: Exception) -> None:
        """Fail with *error* instead of being done, or of going on. Loop thread."""
        if self.called:
            return
        if self.lease.withdraw(self):
            self.errback(error)
            self.lease.settled(self)
        else:
            self.stop_error = error
            self.pursue()

    def _stop(self) -> object:
        if self.binding:
            self._late_cancel = True
            return LATER
        if self.lease.withdraw(self):
            self.clear()
            self.context = None
            self.lease.settled(self)
            return None
        return self.stopRunning()


class Saying(LeaseCall[T]):
    """A statement in a lease; its arguments are the statement, a verb and values."""

    __slots__ = ()

    def perform(self, txn: Transaction) -> T:
        """Say it. Worker's thread.

        Args:
            txn: the lease's cursor.
        """
        statement, verb, params = self.args
        value: T = txn.say(verb, statement, params)
        return value


class Clerk:
    """The worker as one call of its lease sees it: what stops is this call, or nothing.

    Source: what `DatabaseJob` asks of its worker.
    """

    def __init__(self, lease: Lease, worker: ConnectionWorker) -> None:
        self.office: LaneOffice = worker.office
        self._lease = lease
        self._worker = worker

    @property
    def severed_at(self) -> float:
        """When the connection was cut off, in seconds of time.monotonic()."""
        return self._worker.severed_at

    def cancel(self, call: LeaseCall[Any]) -> None:
        """Stop *call* if it still runs. The canceller's thread."""
        with self._lease.gate:  # The worker waits here before it goes on.
            if self._lease.current is call:
                self._worker.cancel(self._lease)

    def sever(self, call: LeaseCall[Any]) -> None:
        """Cut the connection off if *call* still runs. The canceller's thread."""
        with self._lease.gate:
            if self._lease.current is call:
                self._worker.sever(self._lease)

    def release(self, call: LeaseCall[Any]) -> None:
        """Tell everybody who waits for this lease that *call* cannot be stopped."""
        lease = self._lease
        with lease.gate:
            if lease.current is not call or call.home is None:
                return
            call.released = True
        call.home.fire(call, Failure(call.stopped()))
        lease.stop_error = TransactionEnded(
            "A statement of this transaction could not be stopped, so its connection "
            "was given up; nothing of it is committed. Do it all again."
        )
        lease.cancel_wanted = True
        self._worker.release(lease)
