"""COPY: bytes between a caller and the server, in both directions.

What goes out is a stream like any other. What comes in is one job, whose worker is fed:
by bytes and by plain iterables in its own thread, by async iterators from the loop, a
few blocks ahead.

Source: PostgreSQL's COPY; asyncpg's `copy_to_table`, which takes the same three.
"""

from __future__ import annotations

import math
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, runtime_checkable

from enterprise.errors import ConfigurationError
from enterprise.interaction import InTransaction, Terms
from enterprise.jobs import AGAIN_SECONDS
from threadpool import ticker
from threadpool._chain import LATER
from threadpool.defer import Deferred

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Generator, Iterable, Iterator

    from enterprise.drivers.base import Driver
    from enterprise.transaction import Transaction
    from threadpool.events import PendingEvents
    from threadpool.team import Team

__all__ = ["Copies", "CopyIn", "Fed", "requireCopies"]

T = TypeVar("T")

# So much is handed to the driver at once; between two of them a cancel is heard.
SLICE_BYTES: Final = 1 << 16

# Blocks that may lie with the worker before the source is asked for more.
AHEAD: Final = 2

# What the source's end is told by.
_END: Final = object()


@runtime_checkable
class Copies(Protocol):
    """A driver that knows COPY."""

    def copyOut(
        self, raw: Any, sql: Any, params: Any
    ) -> Generator[bytes, None, tuple[bytes, int]]:
        """Run a COPY ... TO STDOUT in a transaction; yield what it gives."""
        ...

    def copyIn(self, raw: Any, sql: Any, blocks: Iterable[Any]) -> int:
        """Run a COPY ... FROM STDIN in a transaction, with *blocks*."""
        ...


def requireCopies(driver: Driver) -> None:
    """Refuse a database that has no COPY, before anything is sent.

    Args:
        driver: the pool's.

    Raises:
        ConfigurationError: it has none.
    """
    if not isinstance(driver, Copies):
        raise ConfigurationError(
            f"{driver.name} has no COPY: that is PostgreSQL's own, and done through "
            "psycopg. Read with stream(), and write with executemany in "
            "runInteraction."
        )


def require_bytes(block: object) -> Any:
    """Refuse what is no piece of bytes."""
    if not isinstance(block, bytes | bytearray | memoryview):
        raise TypeError(
            f"The source of a COPY gave {type(block).__name__}, not bytes. Encode text "
            "as the server expects it, in UTF-8 as a rule."
        )
    return block


class CopyIn(InTransaction[int]):
    """A COPY ... FROM STDIN, from what can be had in the worker's thread.

    Args:
        home: the caller's loop.
        team: where it is going to be submitted.
        sql: the statement.
        source: bytes, or an iterable of them.
    """

    __slots__ = ()

    nameless = "a COPY"

    def __init__(
        self, home: PendingEvents, team: Team[Any], sql: str, source: Any
    ) -> None:
        super().__init__(home, None, (sql, source), {}, team, terms=Terms())

    def do(self, driver: Driver, raw: Any) -> int:
        """Begin, copy, and commit; roll back on every error."""
        value: int = self.context.run(self._transact, driver, raw)
        return value

    def _work(self, handle: Transaction) -> int:
        sql, source = self.args
        driver: Any = handle._driver
        count: int = driver.copyIn(handle._raw, sql, self._blocks(source))
        return count

    def _blocks(self, source: Any) -> Iterator[Any]:
        if isinstance(source, bytes | bytearray | memoryview):
            view = memoryview(source).cast("B")
            source = (
                view[at : at + SLICE_BYTES] for at in range(0, len(view), SLICE_BYTES)
            )
        for block in source:
            self.check()
            yield require_bytes(block)
        self.check()


class Fed(CopyIn):
    """A COPY ... FROM STDIN, from what comes by and by from the loop.

    It keeps its worker for its caller, as a lease does.

    Attributes:
        over: nothing more is needed. loop thread only
    """

    __slots__ = ("_blocks_left", "_queue", "_rests_since", "_room", "over")

    lingers = True

    def __init__(self, home: PendingEvents, team: Team[Any], sql: str) -> None:
        super().__init__(home, team, sql, None)
        self._queue: SimpleQueue[Any] = SimpleQueue()
        # When its worker began to wait, in seconds of time.monotonic(). Written by it.
        self._rests_since = math.inf
        # Loop thread only, from here on.
        self._room: Deferred[None] | None = None
        self._blocks_left = 0  # Until its worker is there.
        self.over = False
        self.addBoth(self._end)

    # -- On the loop's thread ----------------------------------------------------------

    async def feed(self, source: AsyncIterable[Any]) -> int:
        """Give it all that *source* gives, and wait until that is committed.

        Args:
            source: of bytes.

        Returns:
            How many rows the server has taken.

        Raises:
            BaseException: what the source raised, or why the copying failed; nothing
                is copied then.
        """
        try:
            await self._has_room()  # What the source asks of the pool comes after us.
            async for block in source:
                await self._give(require_bytes(block))
                if self.over:
                    break
            self._queue.put(_END)
        except GeneratorExit:
            self._turn_back()  # This task was destroyed; nothing can be awaited.
            raise
        except BaseException:
            await self._call_off()
            raise
        finally:
            close = getattr(source, "aclose", None)
            if self.over and close is not None:
                await close()
        return await self

    async def _has_room(self) -> None:
        while not self._blocks_left and not self.over:
            if self._room is None:
                self._room = Deferred()
                self._room._loop = self._loop
            await self._room

    async def _give(self, block: Any) -> None:
        await self._has_room()
        self._blocks_left -= 1
        # It may be written to again before the worker comes to it.
        self._queue.put(block if type(block) is bytes else bytes(block))

    async def _call_off(self) -> None:
        """Stop it, and wait until the worker has been given back."""
        if not self.over:
            self.cancel()
            ended: Deferred[None] = Deferred()
            ended._loop = self._loop
            self.addBoth(lambda _: ended.callback(None))
            await ended

    def stopRunning(self) -> object:
        """Have the worker turn back, wherever it is; see `Stream.stopRunning`."""
        if not self.cancel_wanted:
            self._turn_back()
            ticker.alarm(time.monotonic() + AGAIN_SECONDS, self.pursue)
        return LATER

    def taken(self) -> None:
        """Note that there is room for one more block."""
        self._blocks_left += 1
        self._announce()

    def _announce(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.called:
            room.callback(None)

    def _end(self, result: T) -> T:
        self.over = True
        self._announce()
        return result

    def orphan(self) -> None:
        """Tell whoever waits that the loop ends, and have it rolled back."""
        self.halt()
        super().orphan()

    # -- On any thread -----------------------------------------------------------------

    def idleSince(self) -> float:
        """Return since when its worker has waited for the source."""
        return self._rests_since

    def _turn_back(self) -> None:
        self.cancel_wanted = True
        self._queue.put(None)

    def strand(self) -> None:
        """Have it rolled back: its loop was closed, and nobody comes any more."""
        self._turn_back()

    def halt(self) -> None:
        """Stop the statement, or the waiting for the source."""
        super().halt()
        self._queue.put(None)

    # -- On the worker's thread --------------------------------------------------------

    def _blocks(self, source: Any) -> Iterator[Any]:
        home = self.home
        if home is None:
            raise RuntimeError(f"{self!r} has nobody to feed it.")
        for _ in range(AHEAD):
            home.put(_Taken(self))
        while True:
            self._rests_since = time.monotonic()
            block = self._queue.get()
            self._rests_since = math.inf
            self.check()
            if block is _END:
                return
            if block is not None:
                home.put(_Taken(self))
                yield block


class _Taken:
    """The event of a block that the worker has taken, or may."""

    __slots__ = ("_job",)

    def __init__(self, job: Fed) -> None:
        self._job = job

    def happen(self) -> None:
        """Let the source be asked for more."""
        self._job.taken()
