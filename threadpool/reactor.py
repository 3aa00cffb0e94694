"""The reactor: asyncio's loop under the old names.

`reactor` is the process's default one. It has no loop of its own yet: it adopts the
one that runs where it is first used, and the next one after that has ended.
`callFromThread` may be called by any thread; all else belongs to the loop's.

Source: `IReactorThreads` and `IReactorTime` of Twisted.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol

from threadpool.error import AlreadyCalled, AlreadyCancelled, LoopClosed
from threadpool.home import here
from threadpool.pool import ThreadPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.events import PendingEvents

__all__ = ["DelayedCall", "Reactor", "reactor"]

_log = logging.getLogger(__name__)

P = ParamSpec("P")

# As many as Twisted's reactor has, and for its reason: enough that a few slow calls
# do not hold up the rest, few enough that nobody notices them.
THREADS = 10


class _Posted:
    """The event of a function that another thread wants called in the loop's."""

    __slots__ = ("_args", "_context", "_function", "_kwargs")

    def __init__(
        self,
        function: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._context = contextvars.copy_context()

    def happen(self) -> None:
        """Call it; what it raises is logged by the pass."""
        self._context.run(self._function, *self._args, **self._kwargs)


class Handle(Protocol):
    """A call that a loop was asked for."""

    def cancel(self) -> None:
        """Call it off."""


class Timers(Protocol):
    """What a delayed call needs of a loop: the time, and a call at a later one."""

    def time(self) -> float:
        """Return the loop's time in seconds."""
        ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Handle:
        """Call *callback* at the time *when*."""
        ...


class DelayedCall:
    """A call that will happen at a known time; `Reactor.callLater` makes it.

    Source: `IDelayedCall` of Twisted.
    """

    def __init__(self, loop: Timers, delay: float, call: Callable[[], object]) -> None:
        self._loop = loop
        self._call: Callable[[], object] | None = call
        self._cancelled = False
        self._time = loop.time() + delay
        self._handle = loop.call_at(self._time, self._run)

    def getTime(self) -> float:
        """Return when it happens, in seconds of `Reactor.seconds`."""
        return self._time

    def active(self) -> bool:
        """Say whether it is still going to happen."""
        return self._call is not None

    def cancel(self) -> None:
        """Call it off.

        Raises:
            AlreadyCalled: it has happened.
            AlreadyCancelled: it was called off before.
        """
        self._require_active()
        self._cancelled, self._call = True, None
        self._handle.cancel()

    def reset(self, seconds: float) -> None:
        """Let it happen *seconds* from now instead.

        Args:
            seconds: >= 0.

        Raises:
            AlreadyCalled: it has happened.
            AlreadyCancelled: it was called off before.
            ValueError: *seconds* is negative or not finite.
        """
        self._require_active()
        require_delay(seconds)
        self._move(self._loop.time() + seconds)

    def delay(self, seconds: float) -> None:
        """Let it happen *seconds* later than it would have.

        Args:
            seconds: less than 0 for earlier.

        Raises:
            AlreadyCalled: it has happened.
            AlreadyCancelled: it was called off before.
        """
        self._require_active()
        self._move(self._time + seconds)

    def _move(self, time: float) -> None:
        self._handle.cancel()
        self._time = time
        self._handle = self._loop.call_at(time, self._run)

    def _run(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()

    def _require_active(self) -> None:
        if self._cancelled:
            raise AlreadyCancelled(
                "This delayed call was called off before. Check active() first."
            )
        if self._call is None:
            raise AlreadyCalled(
                "This delayed call has happened. Check active() first, or make a new "
                "one with callLater."
            )


class Reactor:
    """A loop under the old names.

    Source: `reactor` of Twisted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._home: PendingEvents | None = None  # guarded by: _lock
        # What other threads posted while there was no loop. guarded by: _lock
        self._early: deque[_Posted] = deque()
        self._threads = THREADS
        self._pool: ThreadPool | None = None  # guarded by: _lock

    def callFromThread(
        self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call *function* soon on the loop's thread, in the order of these calls.

        Any thread may ask. What *function* raises is logged. While no loop runs, it
        waits for the next one.

        Args:
            function: anything quick. It sees a copy of the caller's context variables.
            args: its positional arguments.
            kwargs: its keyword arguments.
        """
        event = _Posted(function, args, kwargs)
        home = self._home or self._adopt_if_running()
        while home is not None:
            try:
                home.put(event)
            except LoopClosed:
                home = self._adopt_if_running()
            else:
                return
        with self._lock:
            home = self._home
            if home is None or home.closed:
                self._early.append(event)
            else:  # Adopted by another thread in this very moment.
                home.put(event)

    def callLater(
        self,
        delay: float,
        function: Callable[P, object],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DelayedCall:
        """Call *function* once, *delay* seconds from now.

        Args:
            delay: seconds >= 0, measured by `seconds`.
            function: anything quick.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Raises:
            ValueError: *delay* is negative or not finite.
            WrongThread: no loop runs here.
        """
        require_delay(delay)
        home = self._adopt()
        if home.loop is None:
            raise NotImplementedError
        return DelayedCall(home.loop, delay, lambda: function(*args, **kwargs))

    def seconds(self) -> float:
        """Return the loop's clock, in seconds; only differences mean anything."""
        home = self._adopt()
        return home.loop.time() if home.loop is not None else 0.0

    def callInThread(
        self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call *function* in a thread of the pool, and forget about it. Any thread.

        Args:
            function: anything that may block. What it raises is logged.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Raises:
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
            self._adopt_if_running()
        pool = self._pool
        if pool is None:
            with self._lock:
                if self._pool is None:
                    self._pool = ThreadPool(0, self._threads, "reactor")
                    self._pool.start()
                pool = self._pool
        return pool

    def suggestThreadPoolSize(self, size: int) -> None:
        """Set how many threads the pool may have, now or when it is made.

        Args:
            size: threads at the most, at least 1.

        Raises:
            ValueError: *size* is less than 1.
        """
        if size < 1:
            raise ValueError(
                f"A pool of {size} threads would never do anything. Choose 1 or more."
            )
        with self._lock:
            self._threads = size
            pool = self._pool
        if pool is not None:
            pool.adjustPoolsize(maxthreads=size)

    def _adopt(self) -> PendingEvents:
        """Return the queue of the loop that runs here, and make it ours if we may."""
        home = here()
        if home is not self._home:
            with self._lock:
                if self._home is None or self._home.closed:
                    # Under the lock: nobody shall overtake what came before.
                    while self._early:
                        home.put(self._early.popleft())
                    self._home = home
        return home

    def _adopt_if_running(self) -> PendingEvents | None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return None
        return self._adopt()


def require_delay(seconds: float) -> None:
    """Refuse a delay that no clock can keep.

    Args:
        seconds: what was asked for.

    Raises:
        ValueError: it is negative or not finite.
    """
    if not 0 <= seconds < math.inf:
        raise ValueError(
            f"The delay is {seconds} seconds. Time goes one way: give a finite number "
            "that is 0 or more."
        )


reactor = Reactor()


def _after_fork_in_child() -> None:
    """Start the child with a free lock and without the parent's loop."""
    reactor._lock = threading.Lock()
    reactor._home = None
    reactor._early.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
