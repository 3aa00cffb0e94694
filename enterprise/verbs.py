"""The verbs of a pool: what is asked of a database, made into jobs.

Each method makes one job, on the thread of the caller's loop, and submits it.

Source: `adbapi.ConnectionPool` of the 2002 paper and of Twisted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from enterprise import jobs
from enterprise.interaction import (
    BareConnection,
    Interaction,
    Terms,
    WithConnection,
)
from enterprise.lease import Lease
from enterprise.leasing import LeasedTransaction
from enterprise.ledger import book
from enterprise.many import Many
from enterprise.refusals import (
    requireOwnNames,
    requirePlain,
    requireSeconds,
    requireStatement,
)
from enterprise.retry import requireRepeatable
from threadpool._blocking import waiting
from threadpool._coroutine import fromCoroutine
from threadpool.home import here

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable

    from enterprise.jobs import DatabaseJob
    from enterprise.ledger import Ledger
    from enterprise.office import Office
    from enterprise.retry import RetryPolicy
    from enterprise.rows import Result
    from threadpool.defer import Deferred

__all__ = ["Verbs"]

T = TypeVar("T")

# The words that runInteraction keeps for itself.
_OURS = ("isolation", "readonly", "deferrable", "retry", "group", "timeout")


class Verbs:
    """What can be asked of a database; see `ConnectionPool`.

    Args:
        office: the pool's.
        ledger: the pool's.
    """

    def __init__(self, office: Office, ledger: Ledger) -> None:
        self._office = office
        self._ledger = ledger

    # -- Statements ---------------------------------------------------------------

    def runQuery(
        self,
        statement: str,
        params: Any = None,
        *,
        write: bool = False,
        timeout: float | None = None,
    ) -> Deferred[list[Any]]:
        """Run one statement and return its rows.

        Args:
            statement: SQL, with placeholders in the driver's own style.
            params: a sequence or a mapping of values; None for none.
            write: with SQLite, run it on the writer at once. A statement that turns
                out to write gets there anyway, a little later.
            timeout: seconds for everything, from this call to the answer; None for
                `cp_query_timeout`.

        Returns:
            A Deferred of the list of rows, each a tuple; empty for a statement that
            gives no rows. It fails with the driver's own exception for what is wrong
            with the statement, with ConnectFailed, ConnectionLost, PoolTimeout,
            QueryTimeout, NestedAcquire, PoolFull or PoolClosed.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *statement* is not a string, or *params* is one value.
            ValueError: *timeout* is not a finite number above 0.
        """
        requireStatement(statement, params)
        team = (self._office.writer if write else self._office.reader).team
        job = jobs.Query(here(), None, (statement, params), None, team)
        return self._submit(job, timeout)

    def runOperation(
        self, statement: str, params: Any = None, *, timeout: float | None = None
    ) -> Deferred[None]:
        """Run one statement for its effect; it is committed by itself.

        Args:
            statement: SQL, with placeholders in the driver's own style.
            params: a sequence or a mapping of values; None for none.
            timeout: as for `runQuery`.

        Returns:
            A Deferred of None; it fails as that of `runQuery`.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *statement* is not a string, or *params* is one value.
            ValueError: *timeout* is not a finite number above 0.
        """
        requireStatement(statement, params)
        team = self._office.writer.team
        job = jobs.Operation(here(), None, (statement, params), None, team)
        return self._submit(job, timeout)

    def runResult(
        self,
        statement: str,
        params: Any = None,
        *,
        write: bool = False,
        timeout: float | None = None,
    ) -> Deferred[Result]:
        """Run one statement and return all that the driver tells about it.

        Args:
            statement: SQL, with placeholders in the driver's own style.
            params: a sequence or a mapping of values; None for none.
            write: as for `runQuery`.
            timeout: as for `runQuery`.

        Returns:
            A Deferred of a Result: rows, column names, rowcount, lastrowid.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *statement* is not a string, or *params* is one value.
            ValueError: *timeout* is not a finite number above 0.
        """
        requireStatement(statement, params)
        team = (self._office.writer if write else self._office.reader).team
        job = jobs.WholeResult(here(), None, (statement, params), None, team)
        return self._submit(job, timeout)

    def runScript(self, text: str, *, timeout: float | None = None) -> Deferred[None]:
        """Run several statements in one text, all or none.

        Args:
            text: statements separated by semicolons, without parameters.
            timeout: as for `runQuery`.

        Returns:
            A Deferred of None.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *text* is not a string.
            ValueError: *timeout* is not a finite number above 0.
        """
        requireStatement(text)
        job = jobs.Script(here(), None, (text,), None, self._office.writer.team)
        return self._submit(job, timeout)

    def runMany(
        self,
        statement: str,
        rows: Iterable[Any] | AsyncIterable[Any],
        batch: int = 1000,
        *,
        commit_batches: bool = False,
        on_progress: Callable[[int], object] | None = None,
        returning: bool = False,
        timeout: float | None = None,
    ) -> Deferred[Any]:
        """Run one statement for each of *rows*, however many there are.

        No more than two batches are in memory: while one is written the next one is
        filled, on this thread, which in between goes on with its other work.

        Args:
            statement: SQL, with placeholders in the driver's own style.
            rows: a list, a generator, an asynchronous generator; of sequences or
                mappings of values. An error in it rolls everything back.
            batch: how many rows are written at once.
            commit_batches: commit each batch by itself. What was committed stays when
                a later one fails; left out, everything is one transaction.
            on_progress: called on this thread with the number of rows done so far,
                after each batch. What it raises ends everything.
            returning: collect the rows that the statement gives, as with RETURNING.
            timeout: seconds for everything, from the first batch on; None for
                `cp_query_timeout`.

        Returns:
            A Deferred of the number of rows done; with *returning*, of the list of rows
            that came back. It fails as that of `runQuery`, or with the error of *rows*.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *statement* is not a string, *rows* is nothing to iterate over,
                or *batch* is no int.
            ValueError: *batch* or *timeout* makes no sense.

        Source: PEP 249's `executemany`.
        """
        requireStatement(statement)
        requireSeconds(timeout)
        home = here()
        many = Many(
            self._office,
            self._ledger,
            home,
            statement,
            rows,
            batch,
            commit_batches=commit_batches,
            on_progress=on_progress,
            returning=returning,
            timeout=timeout,
        )
        refusal = many.refusal()
        if refusal is not None:
            refused = home.deferred()
            self._office.tally.failed(refusal)
            refused.errback(refusal)
            return refused
        return fromCoroutine(many.run())

    # -- Transactions ------------------------------------------------------------------

    def runInteraction(
        self,
        function: Callable[..., T],
        /,
        *args: Any,
        isolation: str | None = None,
        readonly: bool = False,
        deferrable: bool | None = None,
        retry: RetryPolicy | None = None,
        group: bool = False,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Deferred[T]:
        """Call *function* in a worker, inside one transaction.

        Begin, the whole function and commit are one hop to a thread and back. What
        the function raises rolls everything back and arrives here.

        Args:
            function: a plain function, called as `function(txn, *args, **kwargs)`;
                see `enterprise.transaction.Transaction`.
            args: its further positional arguments.
            isolation: "read committed", "repeatable read" or "serializable"; None for
                the database's default.
            readonly: begin a transaction that cannot write; with SQLite it then runs
                beside others, on a reader.
            deferrable: with PostgreSQL, let a read-only serializable transaction
                rather wait than fail.
            retry: call the function again after a failure that is nobody's fault; None
                for never.
            group: with SQLite, let it share a COMMIT with other writes that wait. It
                should be short, since they wait for it, and may be called twice.
            timeout: seconds for everything, repetitions included; None for
                `cp_query_timeout`.
            kwargs: the function's keyword arguments.

        Returns:
            A Deferred of what the function returns. It fails with TypeError, and all is
            rolled back, where that is the transaction itself or a cursor.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *function* is async or a generator: its transaction would end
                before it began. Also when it has a parameter named as one of ours, or
                gets an iterator and might be called twice.
            ValueError: an isolation level or a timeout makes no sense.
        """
        requirePlain(function)
        requireOwnNames(function, "runInteraction", _OURS)
        if retry is not None or group:
            requireRepeatable(function, args, kwargs)
        terms = Terms(readonly, isolation, deferrable)
        crew = self._office.reader if readonly else self._office.writer
        job: Interaction[T] = Interaction(
            here(),
            function,
            args,
            kwargs,
            crew.team,
            terms=terms,
            retry=retry,
            group=group,
        )
        return self._submit(job, timeout)

    def runWithConnection(
        self,
        function: Callable[..., T],
        /,
        *args: Any,
        autocommit: bool = False,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Deferred[T]:
        """Call *function* with a connection, inside one transaction.

        Args:
            function: a plain function, called as `function(connection, *args,
                **kwargs)`; see `enterprise.transaction.Connection`.
            args: its further positional arguments.
            autocommit: give it the driver's own connection and no transaction: each
                statement is committed by itself, as VACUUM and CREATE DATABASE need.
            timeout: as for `runInteraction`.
            kwargs: its keyword arguments.

        Returns:
            A Deferred of what the function returns.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *function* is async or a generator, or has a parameter that is
                ours.
            ValueError: *timeout* is not a finite number above 0.
        """
        requirePlain(function)
        requireOwnNames(function, "runWithConnection", ("autocommit", "timeout"))
        team = self._office.writer.team
        job: DatabaseJob[T]
        if autocommit:
            job = BareConnection(here(), function, args, kwargs, team)
        else:
            job = WithConnection(here(), function, args, kwargs, team, terms=Terms())
        return self._submit(job, timeout)

    def transaction(
        self,
        *,
        isolation: str | None = None,
        readonly: bool = False,
        deferrable: bool | None = None,
        timeout: float | None = None,
    ) -> LeasedTransaction:
        """Borrow a worker for an `async with` block, which is one transaction.

        Each statement is a hop to the worker and back, and the worker is nobody
        else's until the block ends: `runInteraction` is faster and holds it shorter.

        Args:
            isolation: as for `runInteraction`.
            readonly: as for `runInteraction`.
            deferrable: as for `runInteraction`.
            timeout: seconds for the whole block, from its beginning on; None for
                `cp_query_timeout`.

        Returns:
            What `async with` takes; it gives a LeasedTransaction.

        Raises:
            WrongThread: no event loop runs here.
            ValueError: an isolation level or a timeout makes no sense.
        """
        requireSeconds(timeout)
        crew = self._office.reader if readonly else self._office.writer
        lease = Lease(here(), crew.team, Terms(readonly, isolation, deferrable))
        lease.timeout = timeout
        return LeasedTransaction(lease, self._lend, self._office.options.cp_leak)

    def _submit(self, job: DatabaseJob[T], timeout: float | None) -> Deferred[T]:
        if timeout is not None:
            requireSeconds(timeout)
            job.timeout = timeout
        if book.lent or waiting:  # Somebody keeps a worker, in whatever pool.
            ledger = self._ledger
            refusal = ledger.refusal(job)
            if refusal is not None:
                return self._office.refuse(job, refusal)
            if job.movable and ledger.closes(self._office.writer.team):
                job.movable = False  # The writer would never come to it.
        return self._office.submit(job)

    def _lend(self, lease: DatabaseJob[Any]) -> None:
        ledger = self._ledger
        refusal = ledger.refusal(lease)
        if refusal is not None:
            self._office.refuse(lease, refusal)
            return
        self._office.submit(lease)
        ledger.lend(lease)
