"""What `pool.stream()` and its like return: something to read with `async for`.

The reader's side of a stream. Loop thread only, and only the loop's it was made on.

Source: asyncpg's cursors and psycopg's `stream`, which need a transaction, or a
connection, of one's own.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from typing import TYPE_CHECKING, Any, Self

from enterprise.leasing import _stack, listing
from threadpool.error import WrongThread
from threadpool.home import here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

    from enterprise.stream import Stream

__all__ = ["ChunkStream", "RowStream"]

_log = logging.getLogger(__name__)


class ChunkStream:
    """What a statement gives, chunk by chunk.

    For one `async for`, which may be left at any time: that ends the statement, and
    gives the connection back. Inside `async with` it may be left and gone on with, and
    the end of that block ends it.

    Args:
        job: the worker's side.
        submit: queues it.
        leak_seconds: a warning says who has not read for so long; None for no warning.
    """

    def __init__(
        self,
        job: Stream,
        submit: Callable[[Stream], object],
        leak_seconds: float | None,
    ) -> None:
        self._job = job
        self._submit: Callable[[Stream], object] | None = submit
        self._entered = self._read = False
        self._leak_seconds = leak_seconds
        self._begun_at = _stack() if leak_seconds else []

    @property
    def rowcount(self) -> int | None:
        """How many rows the database says it gave: after the end, of COPY only."""
        return self._job.count

    # -- Reading -----------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Any]:
        self._require_first()
        return _Chunks(self)

    def _require_first(self) -> None:
        """Refuse a second loop, where the first one has ended the statement."""
        if self._read and not self._entered:
            raise RuntimeError(
                f"{self!r} has had its `async for`, whose end is its end. Ask the pool "
                "for a new one; to leave a loop and go on later, read it inside `async "
                "with pool.stream(...) as stream:`."
            )
        self._read = True

    async def _next(self) -> Any:
        """Return the next chunk.

        Returns:
            A list of rows; of `copyOut`, bytes. Never empty.

        Raises:
            StopAsyncIteration: there is nothing more.
            WrongThread: this is not the loop it was made on.
            Exception: as a failed `runQuery`; what was read before was good.
        """
        job = self._job
        self._here()
        self._begin()
        while not job.chunks:
            if job.over:
                error, job.error = job.error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            await job.arrival()
        return job.take()

    def _begin(self) -> None:
        submit, self._submit = self._submit, None
        if submit is None:
            return
        try:
            submit(self._job)
        except BaseException:
            self._job.over = True  # It never begins.
            raise
        self._watch()

    def _here(self) -> None:
        if here() is not self._job.home:
            raise WrongThread(
                f"{self!r} belongs to another event loop than the one that runs here. "
                "Read a stream on the loop it was made on."
            )

    # -- Leaving -----------------------------------------------------------------------

    async def aclose(self) -> None:
        """Read no further, and wait until the connection was given back.

        May be called again, and at any time.
        """
        job = self._job
        self._here()
        if self._submit is not None:
            self._submit, job.over = None, True  # It never begins.
        if not job.over:
            job.leave()
        while not job.over:
            await job.arrival()

    async def __aenter__(self) -> Self:
        self._here()
        if self._read:
            self._require_first()
        self._entered = True
        self._begin()
        job = self._job
        while not (job.begun or job.over):
            await job.arrival()
        if job.error is not None:
            raise job.error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, GeneratorExit):
            self._forsake()  # This task was destroyed; nothing can be awaited.
        else:
            await self.aclose()

    def _forsake(self) -> None:
        """End it without waiting. The garbage collector may be who calls."""
        if self._submit is None and not self._job.over:
            self._job.forsake()

    def __del__(self) -> None:
        self._forsake()

    # -- Those that nobody reads -------------------------------------------------------

    def _watch(self) -> None:
        """See to it that a worker which waits for too long is told about."""
        job, seconds = self._job, self._leak_seconds
        if job.home is not None and seconds and not job.over:
            with contextlib.suppress(NotImplementedError):  # A loop without a clock.
                look = functools.partial(_look, job, seconds, self._begun_at)
                job.alarm = job.home.later(seconds, look)

    def __repr__(self) -> str:
        job = self._job
        state = "over" if job.over else "not begun" if self._submit else "open"
        return f"<{type(self).__name__} {state}, {len(job.chunks)} chunk(s) here>"


class RowStream(ChunkStream):
    """What a statement gives, row by row; the chunks are only how they travel.

    As `ChunkStream` in everything else.
    """

    # What is left of the chunk that was taken last.
    _rest: Iterator[Any] = iter(())

    def __aiter__(self) -> AsyncIterator[Any]:
        self._require_first()
        return _Rows(self)


class _Chunks:
    """One `async for` over a stream's chunks. Its end is the stream's end, too."""

    __slots__ = ("_stream",)

    def __init__(self, stream: ChunkStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await self._stream._next()

    def __del__(self) -> None:
        if not self._stream._entered:
            self._stream._forsake()


class _Rows:
    """One `async for` over a stream's rows."""

    __slots__ = ("_rows", "_stream")

    def __init__(self, stream: RowStream) -> None:
        self._stream = stream
        self._rows = stream._rest

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        for row in self._rows:
            return row
        stream = self._stream
        while True:
            self._rows = stream._rest  # Another loop may have come to it first.
            for row in self._rows:
                return row
            stream._rest = iter(await stream._next())

    def __del__(self) -> None:
        if not self._stream._entered:
            self._stream._forsake()


def _look(job: Stream, seconds: float, begun_at: Any) -> None:
    """Warn where a stream's worker has waited for its reader for too long."""
    if job.over or job.home is None:
        return
    since = job.idleSince()
    waited = 0.0 if since == math.inf else time.monotonic() - since
    if waited < seconds:
        again = functools.partial(_look, job, seconds, begun_at)
        job.alarm = job.home.later(seconds - waited, again)
        return
    _log.warning(
        "Nobody has read %s for %g s (cp_leak), and it keeps its connection. Read it "
        "to its end, or leave its `async for` or its block. It was made here:\n%s",
        job.label(),
        seconds,
        listing(begun_at),
    )
