"""Leases: a worker lent to a caller, who says on the loop what to do next.

A lease is a job. Its worker begins a transaction and then serves the lease's own queue,
call by call, until it is told to commit or to roll back. Calls are made and fire on the
loop's thread, and are done on the worker's. The caller's side is next door, in
`leasing`.
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar

from enterprise.calls import Opened
from enterprise.errors import TransactionEnded
from enterprise.interaction import InTransaction
from enterprise.line import Line
from enterprise.serving import COMMIT, ROLL_BACK, Service, Undone
from threadpool import crew as _crew  # noqa: F401 - its exit hook is to be there first
from threadpool._chain import LATER
from threadpool.defer import Deferred
from threadpool.failure import Failure
from threadpool.job import QUEUED, JobState

if TYPE_CHECKING:
    from enterprise.calls import LeaseCall
    from enterprise.drivers.base import Driver
    from enterprise.interaction import Terms
    from enterprise.transaction import Transaction
    from threadpool.events import PendingEvents
    from threadpool.team import Team

__all__ = ["Lease"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Lease(InTransaction[None]):
    """A worker lent to a caller, in one transaction.

    Its own Deferred fires with None when the worker has been given back; what went
    wrong stands in `error`. It only fails where it was itself cancelled.

    Args:
        home: the caller's loop.
        team: where it is going to be submitted.
        terms: how its transaction begins.

    Attributes:
        opened: fires when the transaction has begun, or could not.
        error: why the lease ended otherwise than it was told to. loop thread only
        current: the call that runs. guarded by: gate
        forsaken: nobody is left who could end it.
        line: the way to its worker.
        rests_since: when its worker began to wait, in seconds of time.monotonic().
            Written by it.
    """

    __slots__ = (
        "_drained",
        "_failed",
        "_pending",
        "_stranded",
        "_undoing",
        "current",
        "door",
        "error",
        "forsaken",
        "gate",
        "line",
        "opened",
        "over",
        "rests_since",
    )

    lingers = True

    def __init__(self, home: PendingEvents, team: Team[Any], terms: Terms) -> None:
        super().__init__(home, None, (), {}, team, terms=terms)
        self.gate = threading.Lock()
        # For the states of calls. Never held for long: the loop takes it.
        self.door = threading.Lock()
        self.current: LeaseCall[Any] | None = None
        self.forsaken = self._stranded = False
        self.rests_since = math.inf
        self.line = Line()
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
            self.line.put(call)
        return call

    def withdraw(self, call: LeaseCall[Any]) -> bool:
        """Take *call* back if it has not begun.

        Args:
            call: one of this lease's.

        Returns:
            False when it has.
        """
        with self.door:
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
        if call._guard is not None:  # It has failed.
            if self._undoing or self.over:
                call._mark_seen()  # With the transaction, which tells its caller.
            elif call.unclaimed():
                self._failed = [each for each in self._failed if each.unclaimed()]
                self._failed.append(call)
        if self._drained is not None and not self._pending:
            drained, self._drained = self._drained, None
            drained.callback(None)

    async def settle(self) -> None:
        """Wait for all calls.

        Raises:
            BaseException: the first error that nobody has seen.
        """
        while self._pending:
            if self._drained is None or self._drained.called:
                self._drained = Deferred()
                self._drained._loop = self._loop
            await self._drained
        failed, self._failed = self._failed, []
        errors = [call.exception() for call in failed if call.unclaimed()]
        for error in errors:
            if error is not None:
                raise error

    async def commit(self) -> None:
        """Commit, and wait until that is done and the worker given back.

        Raises:
            BaseException: why it was not.
        """
        self.line.say(COMMIT)
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
        self.line.say(ROLL_BACK)
        await self

    def forsake(self) -> None:
        """Have it rolled back, since nobody is left to end it. Any thread, any time.

        The garbage collector may call it: it takes no lock and logs nothing.
        """
        self.forsaken = self.cancel_wanted = True
        self.line.say(None)

    def answer(self) -> Deferred[None]:
        """Return what the block's beginning waits for."""
        return self.opened

    def orphan(self) -> None:
        """Tell whoever waits that the loop ends, and have it rolled back."""
        self.halt()
        super().orphan()

    def _end(self, result: object) -> object:
        """The worker has been given back, or has been given up."""
        self.over = True
        cancelled = False
        if isinstance(result, Failure):
            self.error = result.value
            cancelled = isinstance(self.error, CancelledError)
        if cancelled and self._undoing:
            # It was rolled back, as it should. The cancel comes at the next await.
            self._late_cancel, cancelled = True, False
        if not self.opened.called:
            self.opened.errback(self.error or self._why())
        for call in list(self._pending):
            if not call.called:
                call.errback(self._why())
            self.settled(call)
        # Every loop has its own way to raise a cancellation; the rest is in `error`.
        return result if cancelled else None

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

    def label(self) -> str:
        """Say what it does at this moment. Any thread."""
        current = self.current
        doing = "nothing at the moment" if current is None else current.label()
        return f"a transaction: {doing}"

    def idleSince(self) -> float:
        """Return since when its worker has waited for the next call."""
        return self.rests_since if self.current is None else math.inf

    def strand(self) -> None:
        """Have it rolled back: its loop was closed, and nobody comes any more."""
        self._stranded = self.cancel_wanted = True
        self.line.say(None)

    def stopping(self) -> bool:
        """Say whether it was told to stop, or the call that it serves."""
        current = self.current
        return self.cancel_wanted or (current is not None and current.cancel_wanted)

    def halt(self) -> None:
        """Stop the statement that runs, or the waiting for the next one."""
        super().halt()
        self.line.say(None)

    # -- On the worker's thread --------------------------------------------------------

    def do(self, driver: Driver, raw: Any) -> None:
        """Begin, serve, and commit; roll back on every error."""
        _open.add(self)
        try:
            self._transact(driver, raw)
        except Undone:
            return
        finally:
            _open.discard(self)

    def _work(self, handle: Transaction) -> None:
        worker, home = self.worker, self.home
        if worker is None or home is None:
            raise RuntimeError(f"{self!r} is served by no worker.")
        self.rests_since = time.monotonic()
        home.put(Opened(self))
        try:
            Service(self, handle, worker).run(home)
        finally:
            with self.gate:
                self.current = None

    def report(self) -> None:
        """Say in the log why it is stopped, where nobody else would. Its worker."""
        if self._stranded:
            self.released = True  # There is no way to tell anybody.
            _log.warning(
                "An event loop was closed in the middle of a transaction (%s). It is "
                "rolled back, and its connection given back. Use asyncio.run, or "
                "call loop.shutdown_asyncgens() before loop.close().",
                self.label(),
            )
        elif self.forsaken:
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
        lease.line.say(None)


# After the crews' own hook, which waits for workers, and so called before it.
atexit.register(_at_exit)
