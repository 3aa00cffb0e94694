"""The verbs for what is too big to hold: streams of rows, and of bytes both ways.

Each makes one job, on the thread of the caller's loop.

Source: PEP 249's `fetchmany` and PostgreSQL's COPY, for loops that must not block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enterprise.refusals import requireSeconds, requireStatement
from enterprise.stream import Stream
from enterprise.streaming import ChunkStream, RowStream
from enterprise.verbs import Verbs
from threadpool.home import here

if TYPE_CHECKING:
    from collections.abc import Generator

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
