"""Leases: a worker lent to a caller, who says on the loop what to do next.

A lease is a job. Its worker begins a transaction and then serves the lease's own queue,
call by call, until it is told to commit or to roll back. Calls are made and fire on the
loop's thread, and are done on the worker's. The caller's side is next door, in
`leasing`.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from asyncio import CancelledError
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar, cast

from enterprise.errors import DatabaseBridgeError, TransactionEnded
from enterprise.interaction import InTransaction, Terms
from enterprise.jobs import DatabaseJob
from enterprise.transaction import Transaction
from threadpool._chain import LATER
from threadpool.defer import Deferred
from threadpool.error import LoopClosed
from threadpool.failure import Failure
from threadpool.job import QUEUED, JobState, failureOf

if TYPE_CHECKING:
    from collections.abc import Callable

    from enterprise.drivers.base import Driver
    from enterprise.worker import ConnectionWorker, LaneOffice
    from threadpool.events import PendingEvents
    from threadpool.team import Team

__all__ = ["Lease", "LeaseCall", "NestedAcquire"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

# What the worker is told beside calls. None only makes it look up.
_COMMIT = object()
_ROLL_BACK = object()


class NestedAcquire(DatabaseBridgeError):
    """The call would wait for a connection that its own caller holds, for ever."""


class _Undo(Exception):  # noqa: N818 - no error: it was asked for
    """Leave the transaction by a rollback."""


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
        function: Callable[..., T],
        args: tuple[Any, ...],
        *,
        binding: bool = False,
    ) -> None:
        super().__init__(lease.home, function, args, {}, lease.team)  # type: ignore[arg-type]  # a lease has a home
        self.lease = lease
        self.binding = binding

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


class _Clerk:
    """The worker as one call of its lease sees it: what stops is this call, or nothing.

    Source: what `DatabaseJob` asks of its worker.
    """

    def __init__(self, lease: Lease, worker: ConnectionWorker) -> None:
        self.office: LaneOffice = worker.office
        self._lease = lease
        self._worker = worker

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


class _Opened:
    """The event of a transaction that has begun."""

    __slots__ = ("_lease",)

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def happen(self) -> None:
        """Let the caller into the block; a lease that is being stopped tells itself."""
        lease = self._lease
        if not lease.cancel_wanted and not lease.opened.called:
            lease.opened.callback(None)


class Lease(InTransaction[None]):
    """A worker lent to a caller, in one transaction.

    Its own Deferred always fires with None, when the worker has been given back; what
    went wrong stands in `error`.

    Args:
        home: the caller's loop.
        team: where it is going to be submitted.
        terms: how its transaction begins.

    Attributes:
        opened: fires when the transaction has begun, or could not.
        error: why the lease ended otherwise than it was told to. loop thread only
        current: the call that runs. guarded by: gate
        forsaken: nobody is left who could end it.
    """

    __slots__ = (
        "_calls",
        "_drained",
        "_failed",
        "_pending",
        "_undoing",
        "current",
        "error",
        "forsaken",
        "gate",
        "opened",
        "over",
    )

    def __init__(self, home: PendingEvents, team: Team[Any], terms: Terms) -> None:
        super().__init__(home, None, (), {}, team, terms=terms)
        self.gate = threading.Lock()
        self.current: LeaseCall[Any] | None = None
        self.forsaken = False
        # Its `put` may be called by the garbage collector, in the middle of anything.
        self._calls: SimpleQueue[Any] = SimpleQueue()
        # Loop thread only, from here on.
        self.over = False
        self.error: BaseException | None = None
        self.opened: Deferred[None] = Deferred(self._give_up)
        self.opened._loop = home.loop
        # Those that have not fired, in order.
        self._pending: dict[LeaseCall[Any], None] = {}
        self._failed: list[LeaseCall[Any]] = []
        self._drained: Deferred[None] | None = None
        self._undoing = False
        self.after()
        self.addBoth(self._end)

    # -- On the loop's thread ----------------------------------------------------------

    def call(self, call: LeaseCall[T]) -> LeaseCall[T]:
        """Have *call* done after those before it.

        Args:
            call: one of this lease's.

        Returns:
            The same.
        """
        if self.over:
            call.errback(self._why())
        else:
            self._pending[call] = None
            self._calls.put(call)
        return call

    def withdraw(self, call: LeaseCall[Any]) -> bool:
        """Take *call* back if it has not begun.

        Args:
            call: one of this lease's.

        Returns:
            False when it has.
        """
        with self.gate:
            if call.state is not QUEUED:
                return False
            call.state = JobState.REMOVED
        self._pending.pop(call, None)
        return True

    def settled(self, call: LeaseCall[Any]) -> None:
        """Note that *call* needs nothing more.

        Args:
            call: one of this lease's.
        """
        self._pending.pop(call, None)
        if self._undoing or self.over:
            call._mark_seen()  # It fails with the transaction, which tells its caller.
        elif call.unclaimed():
            self._failed = [each for each in self._failed if each.unclaimed()]
            self._failed.append(call)
        if not self._pending and self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)

    async def settle(self) -> BaseException | None:
        """Wait for all calls, and return the first error that nobody has seen."""
        while self._pending:
            if self._drained is None or self._drained.called:
                self._drained = Deferred()
                self._drained._loop = self._loop
            await self._drained
        failed, self._failed = self._failed, []
        errors = [call.exception() for call in failed if call.unclaimed()]
        return errors[0] if errors else None

    async def commit(self) -> None:
        """Commit, and wait until that is done and the worker given back.

        Raises:
            BaseException: why it was not.
        """
        self._calls.put(_COMMIT)
        await self
        if self.error is not None:
            raise self.error

    async def undo(self) -> None:
        """Stop all calls, roll back, and wait until the worker is given back."""
        error = TransactionEnded(
            "An error left the transaction's block before this was done, and "
            "everything was rolled back. Look at that error."
        )
        self._undoing = True
        for call in list(self._pending):
            call.drop(error)
        self._calls.put(_ROLL_BACK)
        await self
        if isinstance(self.error, CancelledError):
            raise self.error

    def forsake(self) -> None:
        """Have it rolled back, since nobody is left to end it. Any thread, any time.

        The garbage collector may call it: it takes no lock and logs nothing.
        """
        self.forsaken = self.cancel_wanted = True
        self._calls.put(None)

    def orphan(self) -> None:
        """Tell whoever waits that the loop ends, and have it rolled back."""
        self.halt()
        super().orphan()

    def _end(self, result: object) -> None:
        """The worker has been given back, or has been given up."""
        self.over = True
        if isinstance(result, Failure):
            self.error = result.value
        if not self.opened.called:
            self.opened.errback(self.error or self._why())
        for call in list(self._pending):
            if not call.called:
                call.errback(self._why())
            self.settled(call)

    def _why(self) -> BaseException:
        """Say why nothing more can be done here."""
        if self.error is not None and not isinstance(self.error, CancelledError):
            return self.error
        return TransactionEnded(
            "The transaction is over, and its connection given back. Do what belongs "
            "to it inside its block."
        )

    def _give_up(self, opened: Deferred[None]) -> object:
        """Whoever waits for the beginning was cancelled."""
        self.cancel(opened._cancel_message)
        return LATER

    # -- On any thread -----------------------------------------------------------------

    def halt(self) -> None:
        """Stop the statement that runs, or the waiting for the next one."""
        super().halt()
        self._calls.put(None)

    # -- On the worker's thread --------------------------------------------------------

    def do(self, driver: Driver, raw: Any) -> None:
        """Begin, serve, and commit; roll back on every error."""
        _open.add(self)
        try:
            self._transact(driver, raw)
        except _Undo:
            return
        finally:
            _open.discard(self)

    def _work(self, handle: Transaction) -> None:
        worker, home = self.worker, self.home
        if worker is None or home is None:
            raise RuntimeError(f"{self!r} is served by no worker.")
        clerk = _Clerk(self, worker)
        home.put(_Opened(self))
        while True:
            call = self._calls.get()
            if self.cancel_wanted:
                self._report()
                self.check()
            elif call is _COMMIT:
                return
            elif call is _ROLL_BACK:
                raise _Undo
            elif call is not None and self._take(call, clerk):
                self._serve(call, handle, worker)
            del call  # What it holds shall not wait for the next one.

    def _take(self, call: LeaseCall[Any], clerk: _Clerk) -> bool:
        with self.gate:
            if call.state is not QUEUED:
                return False
            call.state = JobState.RUNNING
            call.worker = cast("ConnectionWorker", clerk)
            self.current = call
        return True

    def _serve(
        self, call: LeaseCall[Any], handle: Transaction, worker: ConnectionWorker
    ) -> None:
        """Do *call* and bring its outcome home, unless the whole lease ends with it."""
        driver, raw = handle._driver, handle._raw
        broken: BaseException | None = None
        try:
            call.outcome = call.context.run(call.function, handle, *call.args)
        except BaseException as error:
            driver.redact(error)
            call.outcome = failureOf(error)
            if driver.lost(raw, error) or self.cancel_wanted:
                broken = error
        with self.gate:  # A canceller that is at it must not meet the next statement.
            self.current = None
        call.worker = None
        try:
            if call.cancel_wanted:
                call.conclude(lost=broken is not None)
                if worker._doomed:
                    broken = broken or self._doom(worker)
            elif broken is not None:
                raise broken  # What the lease fails with, the call fails with, too.
            call.clear()
            if not call.released and self.home is not None:
                self._deliver(call, self.home)
            if broken is not None:
                raise broken
        finally:
            broken = None  # It refers to this frame.

    def _deliver(self, call: LeaseCall[Any], home: PendingEvents) -> None:
        try:
            home.hold(call, time.monotonic(), dry=self._calls.empty())
        except LoopClosed:
            call.lost()
            raise

    def _doom(self, worker: ConnectionWorker) -> TransactionEnded:
        worker.discard()
        return TransactionEnded(
            "A cancel was sent and not confirmed, so the connection was closed, for "
            "that cancel might have met the next statement; nothing is committed. Do "
            "the transaction again."
        )

    def _report(self) -> None:
        if self.forsaken:
            _log.warning(
                "A transaction was never ended: its task was destroyed, or `async "
                "with` was not used. It is rolled back, and its connection given back."
            )


# Those that a worker serves at this moment. Each step on a set is atomic by itself.
_open: set[Lease] = set()


def _at_exit() -> None:
    """Wake the workers that wait for a caller: the interpreter waits for them."""
    for lease in _open.copy():
        lease.cancel_wanted = True
        lease._calls.put(None)


# After the crews' own, and so called before it.
atexit.register(_at_exit)
