"""A job: work for a worker, and the way of its outcome to whoever waits for it.

A job is made on the loop's thread, run on a worker's, and fired on the loop's again.
The worker reads what the job was made of and writes `outcome`; everything that makes it
a Deferred belongs to the loop's thread, as ever. `state` decides who has it.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from threadpool._deferred import Deferred
from threadpool._future import UNFIRED
from threadpool.error import LoopClosed, WorkerInterrupted
from threadpool.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.events import PendingEvents
    from threadpool.team import Team

__all__ = ["QUEUED", "RUNNING", "TAKEN", "Job", "JobState", "failureOf"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

# Raised by a job, these would stop whatever loop, task or generator they surface in.
_INTERRUPTING = (
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    asyncio.CancelledError,
)


class JobState(enum.Enum):
    """Where a job is on its way."""

    QUEUED = "queued"
    TAKEN = "taken"  # By a worker that has not begun it, and may lose it again.
    RUNNING = "running"
    REMOVED = "removed"


# Reading a member off its class costs as much as calling a function.
QUEUED = JobState.QUEUED
TAKEN = JobState.TAKEN
RUNNING = JobState.RUNNING


class Job(Deferred[T]):
    """Work for a worker: a function to call, and the Deferred of what comes of it.

    One object for both, since most jobs are small: a second one, and the two
    references that tie them together, would cost as much as running it.

    Args:
        home: where the outcome goes; None when nobody waits for it.
        function: what to call, in a copy of the caller's context variables.
        args: its positional arguments.
        kwargs: its keyword arguments.
        team: where it is going to be submitted.

    Attributes:
        state: guarded by the team's lock.
        queued_at: when it was submitted, in seconds of time.monotonic().
    """

    __slots__ = (
        "args",
        "context",
        "function",
        "home",
        "kwargs",
        "outcome",
        "queued_at",
        "state",
        "team",
    )

    def __init__(
        self,
        home: PendingEvents | None,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        team: Team[Any],
    ) -> None:
        Deferred.__init__(self)
        self.home = home
        if home is not None:
            self._loop = home.loop
        self.state = QUEUED
        self.function: Any = function
        self.args: Any = args
        self.kwargs: Any = kwargs
        self.context: Any = copy_context()
        self.outcome: Any = None
        self.queued_at = 0.0
        self.team = team

    def clear(self) -> None:
        """Let go of what the job was made of; its outcome stays."""
        self.function = self.args = self.kwargs = None

    def happen(self) -> None:
        """Fire, with the context variables as the function left them. Loop thread."""
        context, self.context = self.context, None
        if self._result is not UNFIRED:
            self.lost()
            return
        outcome, self.outcome = self.outcome, None  # A handled failure must be freed.
        if self._callbacks and context is not None:
            context.run(self._fire, outcome, directly=True)
        elif self._paused or isinstance(outcome, Failure):
            self._fire(outcome, directly=True)
        else:  # What `_fire` would do, without its questions: the hot path.
            self._result = outcome
            self._at_rest = True
            if self._waiters is not None:
                self._notify(directly=True)

    def lost(self) -> None:
        """Say at DEBUG what came too late, for nobody waits for it. Any thread."""
        if isinstance(self.outcome, Failure):
            _log.debug("A job that nobody waits for any more failed: %s", self.outcome)
        self.outcome = None

    def orphan(self) -> None:
        """Tell whoever waits that the loop ends before the answer. Loop thread."""
        if self._result is UNFIRED:
            self.errback(
                LoopClosed(
                    "The event loop ended before this job was done. Await the job "
                    "before the main coroutine returns, or close the pool there."
                )
            )

    def stopRunning(self) -> object:
        """Do what can be done about a job that a worker has. Loop thread.

        Returns:
            LATER when the outcome still comes; None to fail with CancelledError at
            once. A plain function in a thread cannot be stopped: its late outcome is
            put away.
        """
        return None

    def _stop(self) -> object:
        if self.team.remove(self):
            self.clear()
            self.context = None
            return None
        return self.stopRunning()


def failureOf(error: BaseException) -> Failure:
    """Make the Failure that a job's exception becomes.

    Args:
        error: what the job raised, while it is being handled.

    Returns:
        A Failure of it; of WorkerInterrupted, caused by it, where the exception
        itself would stop a loop, a task or a generator.
    """
    # Without our own frame: the traceback begins in the caller's function.
    tb = error.__traceback__
    error = error.with_traceback(tb.tb_next if tb else None)
    failure = Failure(error)
    if isinstance(error, _INTERRUPTING):
        wrapper = WorkerInterrupted(
            f"The job raised {failure}. In a worker that ends "
            "neither the thread nor the program, only this job; raise an ordinary "
            "exception to say what went wrong."
        )
        wrapper.__cause__ = error
        return Failure(wrapper)
    return failure
