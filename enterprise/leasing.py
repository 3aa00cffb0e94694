"""What `pool.transaction()` returns: a transaction whose statements are awaited.

The caller's side of a lease. Loop thread only, and only the loop's it was made on. A
connection never crosses an await; only what it said does.

Source: asyncpg's `transaction()` and psycopg's, which hold a connection as this does.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from typing import TYPE_CHECKING, Any, Self, TypeVar

from enterprise.calls import LeaseCall, Saying
from enterprise.interaction import _refuse_awaitable
from enterprise.refusals import requirePlain, requireStatement
from threadpool.error import WrongThread
from threadpool.home import here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import CodeType, FrameType, TracebackType

    from enterprise.lease import Lease
    from enterprise.rows import Result
    from enterprise.transaction import Transaction
    from threadpool.defer import Deferred
    from threadpool.loops import Handle

__all__ = ["LeasedTransaction", "listing"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

# Of the borrower's stack, for the warning about a lease that is not given back.
FRAMES = 20


class LeasedTransaction:
    """A transaction for one `async with`; its statements are awaited one by one.

    Made by `ConnectionPool.transaction`. One connection belongs to the block from its
    beginning to its end: the commit, or the rollback where an exception leaves it.
    Calls are done in the order they were made; those not awaited are waited for at the
    end, and the first of their errors is raised there.

    Args:
        lease: the worker's side.
        submit: queues it.
        leak_seconds: after which a warning says who has not given it back; None for
            no warning.
    """

    def __init__(
        self,
        lease: Lease,
        submit: Callable[[Lease], object],
        leak_seconds: float | None,
    ) -> None:
        self._lease = lease
        self._submit: Callable[[Lease], object] | None = submit
        self._leak_seconds = leak_seconds
        self._alarm: Handle | None = None

    # -- Its block ---------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        lease, submit = self._lease, self._submit
        if submit is None:
            raise RuntimeError(
                f"{self!r} has had its block. A transaction is for one `async with`; "
                "ask the pool for a new one."
            )
        self._submit = None
        self._here()
        submit(lease)
        try:
            await lease.opened
        except GeneratorExit:
            lease.forsake()  # This task was destroyed.
            raise
        except BaseException:
            if not lease.over:  # Cancelled when it had begun: nobody else ends it.
                await lease.undo()
            raise
        self._watch()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lease = self._lease
        try:
            if isinstance(error, GeneratorExit):
                lease.forsake()  # This task was destroyed; nothing can be awaited.
            elif error is not None:
                await lease.undo()
            else:
                await self._commit(lease)
        finally:
            if self._alarm is not None:
                self._alarm.cancel()

    async def _commit(self, lease: Lease) -> None:
        try:
            await lease.settle()
        except GeneratorExit:
            lease.forsake()
            raise
        except BaseException:
            await lease.undo()
            raise
        await lease.commit()

    def __del__(self) -> None:
        if self._submit is None and not self._lease.over:
            self._lease.forsake()

    # -- Statements --------------------------------------------------------------------

    def runQuery(self, statement: str, params: Any = None) -> Deferred[list[Any]]:
        """Run one statement and return its rows.

        Args:
            statement: SQL, with placeholders in the driver's own style.
            params: a sequence or a mapping of values; None for none.

        Returns:
            A Deferred of the list of rows. It fails with the driver's own exception;
            with TransactionEnded where the transaction is over; with ConnectionLost.
            Cancelling it stops this statement only. What becomes of the transaction
            then is the database's to say: PostgreSQL's is useless until its
            savepoint is undone, SQLite's may be over.

        Raises:
            WrongThread: this is not the loop it was made on.
            TypeError: *statement* is not a string, or *params* is one value.
        """
        return self._say("query", statement, params)

    def runOperation(self, statement: str, params: Any = None) -> Deferred[None]:
        """Run one statement for its effect.

        Args:
            statement: SQL, with placeholders in the driver's own style.
            params: a sequence or a mapping of values; None for none.

        Returns:
            A Deferred of None; it fails as that of `runQuery`.

        Raises:
            WrongThread: this is not the loop it was made on.
            TypeError: *statement* is not a string, or *params* is one value.
        """
        return self._say("operate", statement, params)

    def runResult(self, statement: str, params: Any = None) -> Deferred[Result]:
        """Run one statement and return all that the driver tells about it.

        Args:
            statement: SQL, with placeholders in the driver's own style.
            params: a sequence or a mapping of values; None for none.

        Returns:
            A Deferred of a Result; it fails as that of `runQuery`.

        Raises:
            WrongThread: this is not the loop it was made on.
            TypeError: *statement* is not a string, or *params* is one value.
        """
        return self._say("result", statement, params)

    def execute(self, statement: str, params: Any = None) -> Deferred[Result]:
        """Run one statement, as `runResult`; the word that cursors have for it.

        Args:
            statement: SQL, with placeholders in the driver's own style.
            params: a sequence or a mapping of values; None for none.

        Returns:
            A Deferred of a Result; it fails as that of `runQuery`.

        Raises:
            WrongThread: this is not the loop it was made on.
            TypeError: *statement* is not a string, or *params* is one value.
        """
        return self._say("result", statement, params)

    def runInteraction(
        self, function: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> Deferred[T]:
        """Call *function* in the worker, inside a savepoint of this transaction.

        Args:
            function: a plain function, called as `function(txn, *args, **kwargs)`, with
                the cursor that `ConnectionPool.runInteraction` gives.
            args: its further positional arguments.
            kwargs: its keyword arguments.

        Returns:
            A Deferred of what it returns. What it raises undoes the savepoint.

        Raises:
            WrongThread: this is not the loop it was made on.
            TypeError: *function* is async or a generator.
        """
        requirePlain(function)
        return self.call(_interact, functools.partial(function, **kwargs), args)

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[Self]:
        """Undo what is done inside when an exception leaves it, and only that.

        Savepoints nest. Calls that were not awaited are waited for at its end, and the
        first of their errors undoes it.

        Raises:
            WrongThread: this is not the loop it was made on.
            TransactionEnded: an earlier error ended the transaction.
        """
        afterwards = self._lease.afterwards
        mark = 0 if afterwards is None else afterwards.mark()
        await self.call(_set_savepoint)
        try:
            yield self
            await self._lease.settle()
        except GeneratorExit:
            raise  # Nothing can be awaited; the whole transaction is rolled back.
        except BaseException:
            try:
                await self.call(_undo_savepoint, mark, binding=True)
            except Exception as error:  # Then nothing of the transaction is kept.
                _log.debug("A savepoint could not be undone: %r", error)
            raise
        await self.call(_release_savepoint, binding=True)

    def onCommit(self, function: Callable[..., object], *args: Any) -> None:
        """Have *function* called once all this is committed.

        Args:
            function: a plain function, called as `function(*args)` on this thread,
                before the block is left.
            args: its arguments.

        Raises:
            TypeError: it is no plain function.

        Source: `Transaction.onCommit`; the same rules hold.
        """
        self._lease.after().note(function, args, on_commit=True)

    def onRollback(self, function: Callable[..., object], *args: Any) -> None:
        """Have *function* called once this was rolled back.

        Args:
            function: a plain function, called as `function(*args)` on this thread,
                before the block is left.
            args: its arguments.

        Raises:
            TypeError: it is no plain function.

        Source: `Transaction.onRollback`; the same rules hold.
        """
        self._lease.after().note(function, args, on_commit=False)

    # -- How ---------------------------------------------------------------------------

    def _say(self, verb: str, statement: str, params: Any) -> Deferred[Any]:
        requireStatement(statement, params)
        self._require_block()
        lease = self._lease
        return lease.call(Saying(lease, None, (statement, verb, params)))

    def call(
        self, function: Callable[..., T], *args: Any, binding: bool = False
    ) -> Deferred[T]:
        """Call *function* in the worker, in the transaction itself.

        Args:
            function: called as `function(txn, *args)`.
            args: its further arguments.
            binding: it must be done although its caller was cancelled.

        Returns:
            A Deferred of what it returns.

        Raises:
            WrongThread: this is not the loop it was made on.
        """
        self._require_block()
        lease = self._lease
        return lease.call(LeaseCall(lease, function, args, binding=binding))

    def _require_block(self) -> None:
        self._here()
        if self._submit is not None:
            raise RuntimeError(
                f"{self!r} has not begun. Use it as `async with pool.transaction() as "
                "txn:`, and txn inside the block."
            )

    def _here(self) -> None:
        if here() is not self._lease.home:
            raise WrongThread(
                f"{self!r} belongs to another event loop than the one that runs here. "
                "Begin and end a transaction on one loop."
            )

    # -- Those that are not given back -------------------------------------------------

    def _watch(self) -> None:
        """See to it that a block which goes on for too long is told about."""
        home, seconds = self._lease.home, self._leak_seconds
        if home is None or not seconds:
            return
        with contextlib.suppress(NotImplementedError):  # A loop without a clock.
            warn = functools.partial(_warn, self._lease, seconds, _stack())
            self._alarm = home.later(seconds, warn)

    def __repr__(self) -> str:
        lease = self._lease
        state = "over" if lease.over else "not begun" if self._submit else "open"
        return f"<LeasedTransaction {state}>"


def _interact(txn: Transaction, function: Callable[..., T], args: tuple[Any, ...]) -> T:
    with txn.savepoint():
        value = function(txn, *args)
        _refuse_awaitable(value, function)
    return value


def _set_savepoint(txn: Transaction) -> None:
    txn.setSavepoint()


def _release_savepoint(txn: Transaction) -> None:
    txn.releaseSavepoint()


def _undo_savepoint(txn: Transaction, mark: int) -> None:
    txn.undoSavepoint(mark)


def _stack() -> list[tuple[CodeType, int]]:
    """Note where the caller of `__aenter__` stands. Its text is made when needed."""
    # Not here, not `_watch`, not `__aenter__`.
    frame: FrameType | None = sys._getframe(3)
    stack: list[tuple[CodeType, int]] = []
    while frame is not None and len(stack) < FRAMES:
        stack.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return stack


def _warn(lease: Lease, seconds: float, stack: list[tuple[CodeType, int]]) -> None:
    if lease.over:
        return
    _log.warning(
        "A transaction has held its connection for %g s (cp_leak). End its block "
        "before you wait for something else. It was begun here:\n%s",
        seconds,
        listing(stack),
    )


def listing(stack: list[tuple[CodeType, int]]) -> str:
    """Write a stack as a traceback would.

    Args:
        stack: code and line of each frame, the innermost first.
    """
    return "\n".join(
        f'  File "{code.co_filename}", line {line}, in {code.co_name}'
        for code, line in reversed(stack)
    )
