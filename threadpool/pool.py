"""ThreadPool: plain functions in a bounded number of threads.

The pool belongs to no loop: each job's outcome goes home to the loop it was submitted
from. Any thread may enter; methods that return a Deferred need a loop.

Source: `ThreadPool` of the 2002 paper and of Twisted; unlike theirs its queue is
bounded, idle threads retire, and a job that still waits can be cancelled.
"""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar

from threadable import _switch
from threadpool._calls import CallWorker, logErrors, tell
from threadpool._require import (
    requireCallable,
    requireCount,
    requireDelay,
    requirePlain,
)
from threadpool.crew import Crew
from threadpool.error import PoolClosed, WrongThread
from threadpool.failure import Failure
from threadpool.home import here
from threadpool.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from threadpool._deferred import Deferred
    from threadpool.stats import TeamStats

__all__ = ["ThreadPool"]

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# A thread above the minimum that found nothing to do for so long ends. Bursts in a
# service come closer together; keeping a thread through one costs some 20 KB.
IDLE_SECONDS: Final = 60.0

BACKLOG: Final = 10_000


class ThreadPool:
    """A bounded pool of threads for functions that block.

    Threads start on demand, the one that rested last is used first, and one that
    rested for a minute ends.

    Work submitted before the first `start` waits for it. From `stop` or `close` to the
    next `start` all work is refused with PoolClosed, for nobody may ever start it
    again. `async with pool:` starts it, and closes it at the end. A pickled pool comes
    back with its bounds and its name, not started.

    Args:
        minthreads: threads that stay although there is nothing to do.
        maxthreads: threads at the most, at least 1.
        name: for thread names and texts; left out, "ThreadPool".
        backlog: jobs that may wait beyond one for each thread. 0 is the strictness of
            the 2002 paper, None lifts the bound.
        idle_seconds: how long a thread above the minimum waits for work.

    Raises:
        TypeError: one of them is of another kind.
        ValueError: the bounds contradict each other.

    Source: `ThreadPool` of the 2002 paper; 5 and 20 are Twisted's figures.
    """

    def __init__(
        self,
        minthreads: int = 5,
        maxthreads: int = 20,
        name: str | None = None,
        *,
        backlog: int | None = BACKLOG,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        _check_bounds(minthreads, maxthreads, backlog)
        if idle_seconds != math.inf:
            requireDelay(idle_seconds, "idle_seconds")
        if name is not None and not isinstance(name, str):
            raise TypeError(
                f"The name is {name!r}, of type {type(name).__name__}. Pass a string; "
                "backlog= and idle_seconds= are keywords."
            )
        self.name = name or "ThreadPool"
        self._crew: Crew[Job[Any]] = Crew(
            self.name,
            CallWorker,
            minimum=minthreads,
            maximum=maxthreads,
            backlog=backlog,
            idle_seconds=idle_seconds,
        )
        self._team = self._crew.team

    def __getstate__(self) -> dict[str, Any]:
        team = self._team
        return {
            "minthreads": team.minimum,
            "maxthreads": team.maximum,
            "name": self.name,
            "backlog": team.backlog,
            "idle_seconds": team.idle_seconds,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        ThreadPool.__init__(self, **state)

    # -- What it is like ---------------------------------------------------------------

    @property
    def min(self) -> int:
        """Threads that stay although there is nothing to do."""
        return self._team.minimum

    @property
    def max(self) -> int:
        """Threads at the most."""
        return self._team.maximum

    @property
    def started(self) -> bool:
        """Whether work that is submitted now is begun."""
        return self._team._open and not self._team._closed

    @property
    def joined(self) -> bool:
        """Whether it was stopped or closed, and its last thread is gone."""
        return self._team._closed and not self._team._size

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads that are alive, or about to start or to end."""
        return self._crew.threads()

    @property
    def waiters(self) -> list[threading.Thread]:
        """The threads that have nothing to do."""
        return self._crew.idle()

    @property
    def working(self) -> list[threading.Thread]:
        """The threads that have something to do."""
        return self._crew.busy()

    @property
    def workers(self) -> int:
        """How many threads there are; one that is about to end has ceased to count."""
        return self._team._size

    def stats(self) -> TeamStats:
        """Return the figures of this moment. Any thread."""
        return self._team.stats()

    def dumpStats(self) -> None:
        """Log the figures of this moment at INFO. Any thread."""
        _log.info("%s: %s", self.name, self.stats())

    # -- Its life ----------------------------------------------------------------------

    def start(self) -> None:
        """Let threads come; what was submitted already is begun. Idempotent.

        A pool that was stopped or closed takes work again.

        Raises:
            threadable.ThreadsDisabled: the program has forbidden threads.
            PoolClosed: it is still being stopped or closed.
            RuntimeError: the system has no thread for it.
        """
        _switch.turn_on(f"{type(self).__name__} {self.name!r}")
        self._team.reopen()
        _switch.pool_started(self, self.name)
        self._team.open()

    def stop(self) -> None:
        """Finish all work, end all threads, and wait for that. For scripts and tests.

        Does nothing where that has been done. In a program with an event loop use
        `close`, which does not block it.

        Raises:
            WrongThread: called from one of the pool's own threads.
        """
        if threading.current_thread() in self._crew.threads():
            raise WrongThread(
                f"stop() was called on a thread of {self.name} itself and would wait "
                "for its own end. Call it elsewhere, or use close()."
            )
        gone = threading.Event()
        ending: list[threading.Thread] = []

        def note() -> None:
            # Now, and not when we have been woken: somebody may start it again.
            ending.extend(self._crew.threads())
            gone.set()

        self._end(note)
        gone.wait()
        for thread in ending:
            thread.join()  # Its work is over; it only has to end.

    def close(self) -> Deferred[None]:
        """Take no more work, finish what was taken, and end all threads.

        Returns:
            A Deferred that fires with None when the last thread is gone.

        Raises:
            WrongThread: no event loop runs here.
        """
        home = here()
        closed: Deferred[None] = home.deferred()
        self._end(lambda: home.fire(closed, None))
        return closed

    def dismiss(self) -> None:
        """Take no more work; threads end when what was taken is done. Any thread."""
        self._end(lambda: None)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.close()

    def _end(self, when_gone: Callable[[], None]) -> None:
        opened = self._team._open
        self._team.close(when_gone if opened else lambda: None)
        _switch.pool_stopped(self)
        if opened:  # It finishes what it has.
            return
        for job in self._team.withdraw(lambda _: True):
            if job.home is not None:
                error = PoolClosed(
                    f"{self.name} was closed before it was started, so this job was "
                    "never begun. Start the pool first."
                )
                job.home.fire(job, Failure(error))
        when_gone()  # Nobody was here, and those who waited have been told first.

    def adjustPoolsize(
        self, minthreads: int | None = None, maxthreads: int | None = None
    ) -> None:
        """Change the bounds; a pool that runs changes its threads at once.

        Args:
            minthreads: as in the constructor; left out, as it is.
            maxthreads: as in the constructor; left out, as it is. Threads above it end
                as soon as they have finished their job.

        Raises:
            TypeError: one of them is no whole number.
            ValueError: the bounds contradict each other.
        """
        minimum = self.min if minthreads is None else minthreads
        maximum = self.max if maxthreads is None else maxthreads
        _check_bounds(minimum, maximum, self._team.backlog)
        self._team.resize(minimum, maximum)

    def startAWorker(self) -> None:
        """Start one more thread now, if the pool runs and its maximum allows it."""
        self._team.grow()

    def stopAWorker(self) -> None:
        """End one thread: one that rests now, else the next that finds nothing to do.

        Also below the minimum, which is kept again from the next change of the bounds.
        """
        self._team.shrink()

    # -- Work --------------------------------------------------------------------------

    def deferToThread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """Call *function* in a thread of this pool.

        Args:
            function: anything that may block. It sees a copy of the caller's context
                variables.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Returns:
            A Deferred of what it returns or raises. Cancelled while it waits, the
            function is never called; later, its outcome is put away. It fails with
            PoolFull or PoolClosed when the pool takes no work.

        Raises:
            TypeError: *function* cannot be called.
            WrongThread: no event loop runs here.

        Source: `threads.deferToThreadPool` of Twisted.
        """
        return self._defer(function, args, kwargs)

    def _defer(
        self,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Deferred[T]:
        if not callable(function):  # Asked here: a call costs more than the question.
            requireCallable(function, "deferToThread")
        team = self._team
        job = Job(here(), function, args, kwargs, team)
        try:
            team.submit(job)
        except RuntimeError:  # A PoolError, or no thread could be started.
            job.errback()
        return job

    def callInThread(
        self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call *function* in a thread of this pool, and forget about it. Any thread.

        Args:
            function: anything that may block. What it raises is logged.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Raises:
            TypeError: *function* cannot be called, or is a coroutine function.
            PoolFull: as many jobs are unfinished as the bounds allow.
            PoolClosed: the pool was stopped or closed.
        """
        requirePlain(function, "callInThread")
        self._submit(logErrors, function, args, kwargs)

    def callInThreadWithCallback(
        self,
        on_result: Callable[[bool, Any], object] | None,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Call *function* in a thread, and *on_result* after it in the same thread.

        Args:
            on_result: called as `on_result(True, value)` or `on_result(False,
                failure)`; what it raises is logged. None for nothing.
            function: anything that may block.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Raises:
            TypeError: *function* cannot be called, or is a coroutine function.
            PoolFull: as many jobs are unfinished as the bounds allow.
            PoolClosed: the pool was stopped or closed.
        """
        requirePlain(function, "callInThreadWithCallback")
        if on_result is not None:
            requireCallable(on_result, "callInThreadWithCallback")
        self._submit(tell, on_result, [function, args, kwargs])

    def _submit(self, function: Callable[..., object], *args: object) -> None:
        self._team.submit(Job(None, function, args, {}, self._team))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._team!r}>"


def _check_bounds(minimum: int, maximum: int, backlog: int | None) -> None:
    requireCount(minimum, "minimum")
    requireCount(maximum, "maximum")
    if not 0 <= minimum <= maximum or maximum < 1:
        raise ValueError(
            f"A pool of {minimum} to {maximum} threads is not possible. Choose a "
            "minimum of 0 or more, and a maximum of 1 or more that is not below it."
        )
    if backlog is None:
        return
    requireCount(backlog, "backlog")
    if backlog < 0:
        raise ValueError(
            f"The backlog is {backlog}. It counts jobs that may wait: choose 0 or "
            "more, or None for no bound."
        )
