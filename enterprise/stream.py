"""A stream: what a statement gives, sent home in chunks as fast as they are taken.

A stream is a job that keeps its worker, as a lease does. The worker may be two chunks
ahead of whoever reads; then it waits. All of it is one read-only transaction. The
reader's side is next door, in `streaming`.

Source: the credit of Reactive Streams, and of flow control in HTTP/2.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import time
from asyncio import CancelledError
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from enterprise.interaction import InTransaction, Terms
from enterprise.jobs import AGAIN_SECONDS
from enterprise.labels import shown
from threadpool import crew as _crew  # noqa: F401 - its exit hook is to be there first
from threadpool import ticker
from threadpool._chain import LATER, cancelledError
from threadpool.defer import Deferred
from threadpool.error import LoopClosed
from threadpool.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from enterprise.drivers.base import Driver
    from enterprise.transaction import Transaction
    from threadpool.events import PendingEvents
    from threadpool.loops import Handle
    from threadpool.team import Team

__all__ = ["READ_AHEAD", "Stream"]

_log = logging.getLogger(__name__)

# Chunks that the worker may have sent beyond what was taken. One travels while the
# other is fetched; more would only be memory.
READ_AHEAD = 2

# What the worker finds in its queue: leave to fetch one more. None only wakes it.
_CREDIT = object()


class Stream(InTransaction[None]):
    """A worker that reads for a caller, chunk by chunk.

    Args:
        home: the caller's loop.
        team: where it is going to be submitted.
        source: called in the worker as `source(driver, raw, *args)`; a generator that
            yields chunks, and returns the last one, which may be empty, and a count.
        args: its further arguments; the first is the statement.

    Attributes:
        chunks: what has arrived and was not taken. loop thread only
        begun: a worker has it. loop thread only
        over: the worker has been given back. loop thread only
        error: why it ended before its end; None where nobody needs to know. loop
            thread only
        alarm: rings when the worker may have waited for too long. loop thread only
        count: how many rows the database says it gave; None where it does not.
    """

    __slots__ = (
        "_arrival",
        "_credit",
        "_given_up",
        "_process",
        "_pursued",
        "_rests_since",
        "_tail",
        "alarm",
        "begun",
        "chunks",
        "count",
        "error",
        "over",
    )

    lingers = True

    def __init__(
        self,
        home: PendingEvents,
        team: Team[Any],
        source: Callable[..., Generator[Any, None, tuple[Any, int | None]]],
        args: tuple[Any, ...],
    ) -> None:
        super().__init__(home, source, args, {}, team, terms=Terms(readonly=True))
        # Its `put` may be called by the garbage collector, in the middle of anything.
        self._credit: SimpleQueue[Any] = SimpleQueue()
        for _ in range(READ_AHEAD):
            self._credit.put(_CREDIT)
        # When its worker began to wait, in seconds of time.monotonic(). Written by it.
        self._rests_since = math.inf
        self._process = os.getpid()
        self._tail: Any = None  # Written by the worker, before the end.
        self.count: int | None = None
        # Loop thread only, from here on.
        self.chunks: deque[Any] = deque()
        self.begun = self.over = False
        self.error: BaseException | None = None
        self.alarm: Handle | None = None
        self._arrival: Deferred[None] | None = None
        self._given_up = self._pursued = False
        self.addBoth(self._end)

    # -- On the loop's thread ----------------------------------------------------------

    def arrival(self) -> Deferred[None]:
        """Return what fires when a chunk has arrived, or the end has."""
        if self._arrival is None:
            self._arrival = Deferred(self._give_up)
            self._arrival._loop = self._loop
        return self._arrival

    def answer(self) -> Deferred[Any]:
        """Return what its reader waits for."""
        return self if self._arrival is None else self._arrival

    def take(self) -> Any:
        """Return the next chunk, of which there must be one; the worker may go on."""
        chunk = self.chunks.popleft()
        self._credit.put(_CREDIT)
        return chunk

    def arrive(self, chunk: Any) -> None:
        """Let the reader have *chunk*, unless he has left.

        Args:
            chunk: rows, or bytes.
        """
        if not self._left():
            self.chunks.append(chunk)
            self._announce()

    def begin(self) -> None:
        """Let the reader into his block."""
        self.begun = True
        self._announce()

    def _announce(self) -> None:
        """Wake the reader if he waits."""
        if self._given_up and not self.over:
            return  # He is told when the worker was given back.
        arrival, self._arrival = self._arrival, None
        if arrival is None:
            return
        if self._given_up:
            arrival.errback(cancelledError(arrival._cancel_message))
        else:
            arrival._fire(None, directly=True)

    def _left(self) -> bool:
        return self.cancel_wanted and self.stop_error is None

    def leave(self) -> None:
        """Read no further: have the worker given back, which the end tells of."""
        self.chunks.clear()
        if not self.called:
            self.cancel()

    def stopRunning(self) -> object:
        """Have the worker turn back, wherever it is.

        A worker that waits, as most do, hears at once, and the server is spared a
        cancel, which costs it a session. So the statement is stopped a moment later.
        """
        self._turn_back()
        if not self._pursued:
            self._pursued = True
            ticker.alarm(time.monotonic() + AGAIN_SECONDS, self.pursue)
        return LATER

    def orphan(self) -> None:
        """Tell whoever waits that the loop ends, and have the worker given back."""
        self.halt()
        super().orphan()

    def _end(self, result: object) -> None:
        """The worker has been given back, or has been given up."""
        self.over = True
        tail, self._tail = self._tail, None
        if isinstance(result, Failure):
            if not isinstance(result.value, CancelledError):  # He knows that himself.
                self.error = result.value
        elif tail and not self._left():
            self.chunks.append(tail)
        if self.alarm is not None:
            self.alarm.cancel()
        self._announce()

    def _give_up(self, arrival: Deferred[None]) -> object:
        """Whoever waits for the next chunk was cancelled."""
        self._given_up = True
        self.leave()
        return LATER

    # -- On any thread -----------------------------------------------------------------

    def label(self) -> str:
        """Say what it does at this moment."""
        args = self.args  # Taken away by the worker when it is done.
        return f"a stream: {shown(args[0])}" if args else "a stream"

    def idleSince(self) -> float:
        """Return since when its worker has waited for the reader."""
        return self._rests_since

    def _turn_back(self) -> None:
        """Have the worker turn back, where it looks next. It takes no lock."""
        self.cancel_wanted = True
        self._credit.put(None)

    def forsake(self) -> None:
        """Have it ended, since nobody reads any more. Any time.

        The garbage collector may call it: it takes no lock and logs nothing.
        """
        home = self.home
        if self.cancel_wanted or self._process != os.getpid():
            return  # In a forked child the worker is not here, and the loop not ours.
        self._turn_back()
        if home is not None and not home.over():
            with contextlib.suppress(LoopClosed):
                home.put(_Forsaken(self))

    def strand(self) -> None:
        """Have it ended: its loop was closed, and nobody reads any more."""
        self.released = True  # There is no way to tell anybody.
        _log.warning(
            "An event loop was closed in the middle of %s. It is ended, and its "
            "connection given back. Use asyncio.run, or call "
            "loop.shutdown_asyncgens() before loop.close().",
            self.label(),
        )
        self.halt()

    def halt(self) -> None:
        """Stop the statement that runs, or the waiting for the reader."""
        super().halt()
        self._credit.put(None)

    # -- On the worker's thread --------------------------------------------------------

    def do(self, driver: Driver, raw: Any) -> None:
        """Begin, read, and end; roll back on every error."""
        _open.add(self)
        try:
            self._transact(driver, raw)
        except Exception as error:
            if driver.refusedToWrite(error):
                error.add_note(
                    "A stream is a read-only transaction. Use runQuery for a statement "
                    "that writes, and runInteraction for much of that."
                )
            raise
        finally:
            _open.discard(self)

    def _work(self, handle: Transaction) -> None:
        home = self.home
        if home is None:
            raise RuntimeError(f"{self!r} has no reader.")
        home.put(_Begun(self))
        with contextlib.closing(
            self.function(handle._driver, handle._raw, *self.args)
        ) as source:
            while True:
                self._wait()
                try:
                    chunk = next(source)
                except StopIteration as end:
                    # It travels with the end: who has the last row need not wait for
                    # the worker.
                    self._tail, self.count = end.value
                    return
                home.put(_Chunk(self, chunk))
                del chunk  # It is the reader's, while the next one is waited for.

    def _wait(self) -> None:
        """Wait until the reader has taken enough."""
        credit = self._credit
        if not credit.qsize():
            self._rests_since = time.monotonic()
        while credit.get() is not _CREDIT:
            self.check()
        self._rests_since = math.inf
        self.check()


class _Begun:
    """The event of a stream that has a worker."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def happen(self) -> None:
        """Let the reader know."""
        self._stream.begin()


class _Chunk:
    """The event of a chunk that has come."""

    __slots__ = ("_chunk", "_stream")

    def __init__(self, stream: Stream, chunk: Any) -> None:
        self._stream = stream
        self._chunk = chunk

    def happen(self) -> None:
        """Let the reader have it."""
        self._stream.arrive(self._chunk)


class _Forsaken:
    """The event of a stream that nobody reads any more."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def happen(self) -> None:
        """Have its worker given back."""
        self._stream.leave()


# Those that a worker serves at this moment. Each step on a set is atomic by itself.
_open: set[Stream] = set()


def _at_exit() -> None:
    """Wake the workers that wait for a reader: the interpreter waits for them."""
    for stream in _open.copy():
        stream._turn_back()


# After the crews' own hook, which waits for workers, and so called before it.
atexit.register(_at_exit)
