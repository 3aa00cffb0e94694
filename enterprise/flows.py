"""The verbs for what is too big to hold: streams of rows, and of bytes both ways.

Each makes one job, on the thread of the caller's loop.

Source: PEP 249's `fetchmany` and PostgreSQL's COPY, for loops that must not block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enterprise.copying import CopyIn, Fed, requireCopies
from enterprise.refusals import requireSeconds, requireStatement
from enterprise.stream import Stream
from enterprise.streaming import ChunkStream, RowStream
from enterprise.verbs import Verbs
from threadpool.home import here

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from enterprise.drivers.base import Driver

__all__ = ["Flows"]


class Flows(Verbs):
    """What can be read or written piece by piece; see `ConnectionPool`."""

    def stream(
        self,
        statement: str,
        params: Any = None,
        *,
        batch: int = 500,
        timeout: float | None = None,
    ) -> RowStream:
        """Read the rows of one statement one by one, in constant memory.

        It begins with the first row that is asked for, and is one read-only
        transaction, on a reader with SQLite. The worker is two batches ahead at the
        most, and nobody else's until all is read or the reader has left: leaving the
        `async for`, in whatever way, ends the statement.

        Args:
            statement: SQL, with placeholders in the driver's own style.
            params: a sequence or a mapping of values; None for none.
            batch: rows that travel together.
            timeout: seconds for all of it; None for `cp_query_timeout`.

        Returns:
            What `async for row in` takes, and `async with` as well. Reading fails as
            `runQuery` does, after the batches that were good.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *statement* is not a string, or *params* is one value.
            ValueError: *batch* or *timeout* makes no sense.
        """
        job = self._stream(statement, params, batch, timeout)
        return RowStream(job, self._lend, self._office.options.cp_leak)

    def streamChunks(
        self,
        statement: str,
        params: Any = None,
        *,
        batch: int = 500,
        timeout: float | None = None,
    ) -> ChunkStream:
        """Read the rows of one statement in lists, in constant memory.

        Args:
            statement: as for `stream`.
            params: as for `stream`.
            batch: rows in each list but the last, which may be shorter.
            timeout: as for `stream`.

        Returns:
            As for `stream`: what `async for rows in` takes, and `async with`.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *statement* is not a string, or *params* is one value.
            ValueError: *batch* or *timeout* makes no sense.
        """
        job = self._stream(statement, params, batch, timeout)
        return ChunkStream(job, self._lend, self._office.options.cp_leak)

    def copyOut(
        self, statement: str, params: Any = None, *, timeout: float | None = None
    ) -> ChunkStream:
        """Read what a COPY ... TO STDOUT gives, as bytes. PostgreSQL only.

        In everything else it is a stream, and one read-only transaction.

        Args:
            statement: SQL, a COPY.
            params: values for a query in it; None for none.
            timeout: as for `stream`.

        Returns:
            What `async for data in` takes, and `async with`: blocks of some 64 KB. Its
            `rowcount` says after the end how many rows they were.

        Raises:
            ConfigurationError: the database has no COPY.
            WrongThread: no event loop runs here.
            TypeError: *statement* is not a string, or *params* is one value.
            ValueError: *timeout* is not a finite number above 0.
        """
        requireCopies(self._office.driver)
        requireStatement(statement, params)
        requireSeconds(timeout)
        job = Stream(here(), self._office.reader.team, _blocks, (statement, params))
        job.timeout = timeout
        return ChunkStream(job, self._lend, self._office.options.cp_leak)

    def copyIn(
        self, statement: str, source: Any, *, timeout: float | None = None
    ) -> Coroutine[Any, Any, int]:
        """Write bytes through a COPY ... FROM STDIN, all or none. PostgreSQL only.

        Args:
            statement: SQL, a COPY.
            source: bytes; an iterable of bytes, such as a file, which is read in the
                worker's thread; or an async iterator, which is asked on the loop, and
                is two blocks ahead of the server at the most.
            timeout: seconds for all of it; None for `cp_query_timeout`. A source that
                gives nothing is not interrupted by that.

        Returns:
            A coroutine of how many rows were copied. It fails with what the source
            raises, with TypeError where it gives no bytes, and as a failed
            `runInteraction`; then nothing is copied.

        Raises:
            ConfigurationError: the database has no COPY.
            WrongThread: no event loop runs here.
            TypeError: *statement* is not a string.
            ValueError: *timeout* is not a finite number above 0.
        """
        requireCopies(self._office.driver)
        requireStatement(statement)
        requireSeconds(timeout)
        team = self._office.writer.team
        if hasattr(source, "__aiter__"):
            fed = Fed(here(), team, statement)
            fed.timeout = timeout
            return self._feed(fed, source)
        job = CopyIn(here(), team, statement, source)
        job.timeout = timeout
        return self._copy(job)

    async def _feed(self, job: Fed, source: Any) -> int:
        self._lend(job)
        return await job.feed(source)

    async def _copy(self, job: CopyIn) -> int:
        return await self._submit(job, None)

    def _stream(
        self, statement: str, params: Any, batch: int, timeout: float | None
    ) -> Stream:
        requireStatement(statement, params)
        requireSeconds(timeout)
        if batch.__class__ is not int or batch < 1:
            raise ValueError(
                f"batch is {batch!r}. It counts the rows that travel together: choose "
                "a whole number above 0."
            )
        team = self._office.reader.team
        job = Stream(here(), team, _rows, (statement, params, batch))
        job.timeout = timeout
        return job


def _rows(
    driver: Driver, raw: Any, sql: str, params: Any, batch: int
) -> Generator[list[Any], None, tuple[list[Any], int | None]]:
    return (yield from driver.rows(raw, sql, params, batch)), None


def _blocks(
    driver: Any, raw: Any, sql: str, params: Any
) -> Generator[bytes, None, tuple[bytes, int]]:
    # Its driver was asked before whether it copies.
    last: tuple[bytes, int] = yield from driver.copyOut(raw, sql, params)
    return last
