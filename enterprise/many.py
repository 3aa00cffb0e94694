"""Many rows through one statement: batch by batch, in constant memory.

The rows are taken on the loop's thread, where a generator's code belongs; the batches
are written on a worker's. While one batch is written the next one is filled, and never
more than that: who is faster waits.

Source: PEP 249's `executemany`; the two buffers are those of every copying program.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from enterprise.deadline import ranTooLong
from enterprise.interaction import Interaction, Terms
from enterprise.lease import Lease
from enterprise.leasing import LeasedTransaction
from enterprise.refusals import requireStatement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from enterprise.ledger import Ledger
    from enterprise.office import Office
    from enterprise.transaction import Transaction
    from threadpool.defer import Deferred
    from threadpool.events import PendingEvents

__all__ = ["Many"]

# For how long rows are taken before the loop gets its turn, in seconds: what the loop
# is to be kept waiting for at the most.
SLICE_SECONDS: Final = 0.005


class Many:
    """One call of `runMany`. Loop thread only.

    Args:
        office: the pool's.
        ledger: the pool's.
        home: of the loop that runs here.
        statement: SQL for each row.
        rows: an iterable or an asynchronous iterable of sequences or mappings.
        batch: how many rows are written at once.
        commit_batches: commit each batch, not only the last one.
        on_progress: called with the number of rows done so far; None for nothing.
        returning: collect the rows that the statement gives.
        timeout: seconds; None for no limit but the pool's.

    Raises:
        TypeError: *rows* is nothing to iterate over, or *batch* no int.
        ValueError: *batch* is below 1.
    """

    def __init__(
        self,
        office: Office,
        ledger: Ledger,
        home: PendingEvents,
        statement: str,
        rows: Any,
        batch: int,
        *,
        commit_batches: bool,
        on_progress: Callable[[int], object] | None,
        returning: bool,
        timeout: float | None,
    ) -> None:
        _require_rows(rows)
        _require_batch(batch)
        self._office = office
        self._ledger = ledger
        self._home = home
        self._statement = statement
        self._given = rows
        self._asynchronous = isinstance(rows, AsyncIterable)
        self._rows: Any = aiter(rows) if self._asynchronous else iter(rows)
        self._batch = batch
        self._commits = commit_batches
        self._on_progress = on_progress
        self._returning = returning
        self._timeout = timeout
        self._until = math.inf  # When the time for it all is over.
        self._ended = False  # There are no more rows.
        self._done = 0
        self._returned: list[Any] = []
        self._lease = Lease(home, office.writer.team, Terms())
        self._lease.timeout = timeout

    def refusal(self) -> Exception | None:
        """Return why it would wait for its own caller for ever; None where not."""
        if not self._ledger.closes(self._lease.team):
            return None  # And nothing is noted, for it may never be submitted.
        return self._ledger.refusal(self._lease)

    async def run(self) -> Any:
        """Do it.

        Returns:
            How many rows were done; with *returning*, the rows that came back.
        """
        if self._timeout is not None:
            self._until = time.monotonic() + self._timeout
        try:
            first = await self._fill(None)
            if first:
                await (self._bit_by_bit(first) if self._commits else self._whole(first))
        finally:
            await self._put_away()
        return self._returned if self._returning else self._done

    async def _whole(self, first: list[Any]) -> None:
        """Write it all in one transaction."""
        office = self._office
        block = LeasedTransaction(self._lease, office.submit, office.options.cp_leak)
        async with block as txn:
            await self._pump(first, lambda rows: txn.call(_write, *self._work(rows)))

    async def _bit_by_bit(self, first: list[Any]) -> None:
        """Write each batch in a transaction of its own."""
        await self._pump(first, self._submit)

    def _submit(self, rows: list[Any]) -> Deferred[list[Any]]:
        office = self._office
        job: Interaction[list[Any]] = Interaction(
            self._home,
            _write,
            self._work(rows),
            {},
            office.writer.team,
            terms=Terms(),
            group=True,
        )
        if self._timeout is not None:
            job.timeout = self._until - time.monotonic()
            if job.timeout <= 0:
                return office.refuse(job, ranTooLong(self._timeout))
        return office.submit(job)

    def _work(self, rows: list[Any]) -> tuple[Any, ...]:
        return (self._statement, rows, self._returning)

    async def _pump(
        self, rows: list[Any], write: Callable[[list[Any]], Deferred[list[Any]]]
    ) -> None:
        """Write batch after batch, and fill the next one meanwhile."""
        while rows:
            call, count = write(rows), len(rows)
            try:
                rows = [] if self._ended else await self._fill(call)
            except BaseException:
                if self._commits:
                    await self._drain(call)
                raise
            returned = await call
            if self._returning:
                self._returned += returned
            self._done += count
            if self._on_progress is not None:
                self._on_progress(self._done)

    async def _drain(self, call: Deferred[Any]) -> None:
        """Let a batch that is under way end before its producer's error goes on."""
        try:
            await call
        except Exception as error:
            # What ended the producer came first; this one may be a consequence.
            self._office.tally.failed(error)

    # -- Where the rows come from ------------------------------------------------------

    async def _fill(self, call: Deferred[Any] | None) -> list[Any]:
        """Return the next batch, empty at the end; less of it once *call* has failed.

        Args:
            call: what is written meanwhile.
        """
        rows: list[Any] = []
        statement, asynchronous = self._statement, self._asynchronous
        until = time.monotonic() + SLICE_SECONDS
        while len(rows) < self._batch:
            try:
                row = await anext(self._rows) if asynchronous else next(self._rows)
            except (StopIteration, StopAsyncIteration):
                self._ended = True
                break
            requireStatement(statement, row)
            rows.append(row)
            if call is not None and call.done() and call.exception() is not None:
                break
            if time.monotonic() > until:
                await self._turn()
                until = time.monotonic() + SLICE_SECONDS
        return rows

    def _turn(self) -> Awaitable[None]:
        """Let the loop do what else it has to do."""
        turn = self._home.deferred()
        self._home.fire(turn, None)
        return turn

    async def _put_away(self) -> None:
        """Close a generator that was not used up, as leaving a `for` does not."""
        if self._rows is self._given:
            if self._asynchronous and hasattr(self._rows, "aclose"):
                await self._rows.aclose()
            elif hasattr(self._rows, "close") and not self._asynchronous:
                self._rows.close()

    def __repr__(self) -> str:
        return f"<Many {self._done} rows done>"


def _write(
    txn: Transaction, statement: str, rows: list[Any], returning: bool
) -> list[Any]:
    """Write one batch. Worker's thread."""
    if not returning:
        txn.executemany(statement, rows)
        return []
    # Not every driver's executemany gives rows.
    each = (txn.execute(statement, row).fetchall() for row in rows)
    return list(itertools.chain.from_iterable(each))


def _require_rows(rows: object) -> None:
    fits = isinstance(rows, Iterable | AsyncIterable)
    if not fits or isinstance(rows, str | bytes | bytearray | Mapping):
        raise TypeError(
            f"The rows are {type(rows).__name__}, not an iterable of rows. Pass a "
            "list, a generator or an asynchronous generator of tuples or dicts."
        )


def _require_batch(batch: object) -> None:
    if not isinstance(batch, int) or isinstance(batch, bool):
        raise TypeError(
            f"batch is {batch!r}, of type {type(batch).__name__}. It counts the rows "
            "that are written at once: pass an int."
        )
    if batch < 1:
        raise ValueError(
            f"batch is {batch}. It counts the rows that are written at once: choose 1 "
            "or more."
        )
