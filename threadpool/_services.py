"""What a loop offers beside time: threads, and an eye on descriptors.

Any thread may call `callInThread` and `getThreadPool`; all else belongs to the loop's.

Source: `IReactorThreads` and `IReactorFDSet` of Twisted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, ParamSpec

from threadpool._at_home import AtHome
from threadpool._require import requireCount
from threadpool.descriptors import Descriptors
from threadpool.events import PendingEvents
from threadpool.pool import ThreadPool

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from threadpool.descriptors import Selectable

__all__ = ["Services"]

P = ParamSpec("P")

# As many as Twisted's reactor has, and for its reason: enough that a few slow calls
# do not hold up the rest, few enough that nobody notices them.
THREADS: Final = 10


class Services(AtHome):
    """The half of a reactor that watches descriptors and lends threads."""

    def __init__(self) -> None:
        super().__init__()
        self._threads = THREADS
        self._pool: ThreadPool | None = None  # guarded by: _lock
        self._descriptors = Descriptors()

    def _moving_in(self, home: PendingEvents) -> None:
        if home.loop is not None:
            self._descriptors.watch(home.loop)

    # -- Descriptors -------------------------------------------------------------------

    def addReader(self, reader: Selectable) -> None:
        """Call `reader.doRead()` whenever its descriptor has something to read.

        Args:
            reader: an object with `fileno`, `doRead` and `connectionLost`; see
                `descriptors.Selectable`. Adding it twice changes nothing.

        Raises:
            NotImplementedError: the loop here is not asyncio's, or cannot do it.
            ValueError: its descriptor is closed, or watched for another object.
            WrongThread: this reactor's loop runs in another thread.
        """
        self._descriptors.addReader(self._watcher("addReader"), reader)

    def addWriter(self, writer: Selectable) -> None:
        """Call `writer.doWrite()` whenever its descriptor has room.

        Args:
            writer: an object with `fileno`, `doWrite` and `connectionLost`; see
                `descriptors.Selectable`. Adding it twice changes nothing.

        Raises:
            NotImplementedError: the loop here is not asyncio's, or cannot do it.
            ValueError: its descriptor is closed, or watched for another object.
            WrongThread: this reactor's loop runs in another thread.
        """
        self._descriptors.addWriter(self._watcher("addWriter"), writer)

    def removeReader(self, reader: Selectable) -> None:
        """Stop reading for *reader*; one that was not added is no error.

        Args:
            reader: what `addReader` was given.
        """
        self._descriptors.removeReader(reader)

    def removeWriter(self, writer: Selectable) -> None:
        """Stop writing for *writer*; one that was not added is no error.

        Args:
            writer: what `addWriter` was given.
        """
        self._descriptors.removeWriter(writer)

    def removeAll(self) -> list[Selectable]:
        """Stop reading and writing for everybody.

        Returns:
            Who was watched.
        """
        return self._descriptors.removeAll()

    def getReaders(self) -> list[Selectable]:
        """Return those watched for something to read."""
        return self._descriptors.readers

    def getWriters(self) -> list[Selectable]:
        """Return those watched for room to write."""
        return self._descriptors.writers

    def _watcher(self, verb: str) -> asyncio.AbstractEventLoop | None:
        home = self._adopt_if_here()
        if home is None:
            place = self._before_the_loop(verb)
            return place.loop if isinstance(place, PendingEvents) else None
        if home.loop is None:
            raise NotImplementedError(
                f"{home!r} is not asyncio's loop, and the bridge asks no more of a "
                "loop than to call functions. Let it watch the descriptor its own way."
            )
        return home.loop

    # -- Threads -----------------------------------------------------------------------

    def callInThread(
        self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call *function* in a thread of the pool, and forget about it. Any thread.

        Args:
            function: anything that may block. What it raises is logged.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Raises:
            TypeError: *function* cannot be called, or is a coroutine function.
            PoolFull: the pool's bounds are reached.
        """
        self.getThreadPool().callInThread(function, *args, **kwargs)

    def getThreadPool(self) -> ThreadPool:
        """Return the pool that `callInThread` and `deferToThread` use, started.

        Raises:
            threadable.ThreadsDisabled: the program has forbidden threads.
        """
        home = self._home
        if home is None or home.closed:
            # So that a job can post to the loop that it was submitted from.
            self._adopt_if_here()
        pool = self._pool
        if pool is None:
            with self._lock:
                if self._pool is None:
                    pool = ThreadPool(0, self._threads, "reactor")
                    pool.start()  # Where that is forbidden there is no pool.
                    self._pool = pool
                pool = self._pool
        return pool

    def suggestThreadPoolSize(self, size: int) -> None:
        """Set how many threads the pool may have, now or when it is made.

        Args:
            size: threads at the most, at least 1.

        Raises:
            TypeError: *size* is no whole number.
            ValueError: *size* is less than 1.
        """
        requireCount(size, "size")
        if size < 1:
            raise ValueError(
                f"A pool of {size} threads would never do anything. Choose 1 or more."
            )
        with self._lock:
            self._threads = size
            pool = self._pool
        if pool is not None:
            pool.adjustPoolsize(maxthreads=size)
