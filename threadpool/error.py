"""This floor's errors. Each text says the fact, what it means, and what to do next.

Raised on whichever thread meets them. `enterprise.errors` re-exports the ones that
a database's users meet.
"""

from __future__ import annotations

from threadable._coded import Coded
from threadpool.failure import NoCurrentExceptionError

__all__ = [
    "AlreadyCalled",
    "AlreadyCalledError",
    "AlreadyCancelled",
    "LoopClosed",
    "NoCurrentExceptionError",
    "NotACoroutineError",
    "PoolClosed",
    "PoolError",
    "PoolFull",
    "ReactorAlreadyRunning",
    "ReactorNotRestartable",
    "ReactorNotRunning",
    "WorkerInterrupted",
    "WrongThread",
]


class AlreadyCalledError(RuntimeError):
    """A Deferred was fired a second time; it fires exactly once."""


class NotACoroutineError(TypeError):
    """A coroutine was asked for and something else was given."""


class AlreadyCalled(ValueError):
    """A delayed call was changed after it had run."""


class AlreadyCancelled(ValueError):
    """A delayed call was changed after it had been cancelled."""


class WrongThread(Coded, RuntimeError):
    """A call that needs the I/O thread was made elsewhere, or the other way round."""

    code = "wrong-thread"


class LoopClosed(Coded, RuntimeError):
    """The event loop ended before the answer came home to it."""

    code = "loop-closed"


class ReactorNotRunning(RuntimeError):
    """The reactor was asked to end, and there is nothing that it runs."""


class ReactorAlreadyRunning(RuntimeError):
    """The reactor was asked to run where a loop runs already."""


class ReactorNotRestartable(RuntimeError):
    """The reactor was asked to run again after it was stopped."""


class PoolError(Coded, RuntimeError):
    """The base of what a pool refuses because of the state it is in."""

    code = "pool-error"


class PoolClosed(PoolError):
    """The pool was closed, or never started; it takes no work."""

    code = "pool-closed"


class PoolFull(PoolError):
    """The pool has as many unfinished jobs as its bounds allow.

    Attributes:
        unfinished: jobs waiting and running when this one was refused.
        limit: how many there may be: workers at the most, plus the backlog.
    """

    code = "pool-full"

    def __init__(self, message: str, *, unfinished: int, limit: int) -> None:
        super().__init__(message)
        self.unfinished = unfinished
        self.limit = limit

    def __reduce__(self) -> tuple[object, ...]:
        figures = (*self.args, self.unfinished, self.limit)
        return (_make_pool_full, figures, self.__dict__)


def _make_pool_full(message: str, unfinished: int, limit: int) -> PoolFull:
    return PoolFull(message, unfinished=unfinished, limit=limit)


class WorkerInterrupted(Coded, RuntimeError):
    """A job raised something that would stop a thread, a task or a loop.

    KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration and CancelledError
    have a meaning of their own wherever they surface. Raised by a job in a worker
    they only mean that this job failed; the original is the `__cause__`.
    """

    code = "worker-interrupted"
