"""What a thread of a ThreadPool does with a function: call it, and keep what comes.

Everything here runs on the pool's threads.
"""

from __future__ import annotations

import logging
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from threadpool.crew import ThreadWorker
from threadpool.failure import Failure
from threadpool.job import Job, failureOf

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CallWorker", "logErrors", "tell"]

# The pool's name: whoever configures logging knows nothing of this room.
_log = logging.getLogger("threadpool.pool")


class CallWorker(ThreadWorker[Job[Any]]):
    """A worker that has nothing but its thread."""

    def run(self, job: Job[Any]) -> bool:
        """Call the job's function and keep its value or its failure.

        Args:
            job: what the team gave it.

        Returns:
            True: the outcome is there and may go home.
        """
        function, args, kwargs = job.function, job.args, job.kwargs
        job.function = job.args = job.kwargs = None
        try:
            if kwargs:
                job.outcome = job.context.run(function, *args, **kwargs)
            else:
                job.outcome = job.context.run(function, *args)
            if job.outcome.__class__ is CoroutineType:
                _refuse_coroutine(job.outcome, function)
        except BaseException as error:
            job.outcome = failureOf(error)
            # The error's traceback keeps this frame: it must not keep the work.
            del function, args, kwargs
        del job
        return True


def _refuse_coroutine(
    coroutine: CoroutineType[Any, Any, Any], function: object
) -> None:
    coroutine.close()  # Else Python warns that it was never awaited.
    raise TypeError(
        f"{function!r} returned a coroutine, of which nothing has run: a thread of the "
        "pool has no event loop. Await it where it was made, or pass a plain function."
    )


def logErrors(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Call *function*; log what it raises.

    Args:
        function: anything that may block.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    try:
        result = function(*args, **kwargs)
        if isinstance(result, CoroutineType):
            _refuse_coroutine(result, function)
    except BaseException:
        _log.exception("A function called in a thread failed: %r", function)


def tell(
    on_result: Callable[[bool, Any], object] | None,
    work: list[Any],
) -> None:
    """Call a function, and then *on_result* with how that went.

    Args:
        on_result: see `ThreadPool.callInThreadWithCallback`.
        work: the function, its positional and its keyword arguments; emptied, so that
            nobody up the stack keeps them alive while *on_result* runs.
    """
    function, args, kwargs = work
    work.clear()
    succeeded, result = True, None
    try:
        result = function(*args, **kwargs)
        if isinstance(result, CoroutineType):
            _refuse_coroutine(result, function)
    except BaseException:
        succeeded, result = False, Failure()
    del function, args, kwargs
    if on_result is None:
        return
    try:
        on_result(succeeded, result)
    except BaseException:
        _log.exception("A callback for a thread's result failed: %r", on_result)
