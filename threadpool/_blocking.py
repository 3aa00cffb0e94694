"""A call into the loop that a thread waits for.

Made and waited for by a thread without a loop; it happens on the loop's thread.

Source: `blockingCallFromThread` of Twisted, which waits for ever for a loop that has
ended, and for itself on the loop's own thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from threadpool._coroutine import maybeDeferred
from threadpool._deferred import Deferred
from threadpool.crew import currentTeam
from threadpool.delayed import requireDelay
from threadpool.error import LoopClosed, WrongThread
from threadpool.failure import Failure
from threadpool.home import hereOrNone

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.events import PendingEvents
    from threadpool.reactor import Reactor

__all__ = ["BlockingCall"]

# How often a waiting thread looks whether the loop was closed without a word, as
# loop.close() alone does it. Everything else wakes it at once.
LOOK_SECONDS: Final = 1.0


class BlockingCall:
    """One call, its answer, and the thread that waits for it.

    Args:
        reactor: whose loop it is for.
        function: what to call.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Raises:
        TypeError: *function* has a parameter that is ours.
    """

    def __init__(
        self,
        reactor: Reactor,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        _require_no_timeout(function)
        self._reactor = reactor
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._context = contextvars.copy_context()
        self._deferred: Deferred[Any] | None = None  # loop thread only
        # Set by the thread that waits; where the loop's does not see it in time, the
        # event that follows cancels.
        self._given_up = False
        # Written before `_over` is released, read after it was acquired.
        self._answer: Any = None
        self._answered = False  # loop thread only
        self._over = threading.Lock()
        self._over.acquire()

    # -- On the thread that waits ------------------------------------------------------

    def wait(self, timeout: float | None) -> Any:
        """Have it called, and wait; see `threads.blockingCallFromThread`."""
        if timeout is not None:
            requireDelay(timeout)
        here = hereOrNone()
        if here is not None:
            raise WrongThread(
                f"blockingCallFromThread was called where {here!r} runs: the loop "
                f"would wait for itself. Here {self._function!r} can simply be called; "
                "await its result, or add a callback."
            )
        team = currentTeam()
        if team is not None:
            team.blocked()
        in_time = False
        try:
            self._reactor._post(self)
            in_time = self._wait(timeout)
        finally:
            if team is not None:
                team.unblocked()
            if not in_time:  # Or Ctrl-C ended the wait.
                self._given_up = True
                self._reactor.callFromThread(self._give_up)
        if not in_time:
            raise TimeoutError(
                f"{self._function!r} gave no answer within {timeout} seconds, and was "
                "cancelled. Allow it more time, or find out what keeps the loop."
            )
        if isinstance(self._answer, Failure):
            self._answer.raiseException()
        return self._answer

    def _wait(self, timeout: float | None) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = LOOK_SECONDS if until is None else until - time.monotonic()
            if self._over.acquire(timeout=max(0.0, min(left, LOOK_SECONDS))):
                return True
            if until is not None and time.monotonic() >= until:
                return False
            home = self._reactor._home
            if home is not None and home.loop is not None and home.loop.is_closed():
                self._answer = Failure(_ended(self._function))
                return True

    # -- On the loop's thread ----------------------------------------------------------

    def happen(self) -> None:
        """Call the function."""
        if self._given_up:
            return
        home = self._reactor._home
        result = self._context.run(
            maybeDeferred, self._function, *self._args, **self._kwargs
        )
        self._deferred = deferred = result.addCallback(_to_the_end)
        if deferred.done():
            self._take(deferred)
            return
        deferred._watch(self._take)
        if home is not None:
            home.notify(self)
            if home.closed:  # This is its very last pass.
                self.loopClosed(home)

    def loopClosed(self, _: PendingEvents) -> None:
        """Wake the waiting thread: there will be no answer."""
        self._give(Failure(_ended(self._function)))

    def _take(self, deferred: Deferred[Any]) -> None:
        deferred._mark_seen()  # The waiting thread will raise it.
        self._give(deferred._result)

    def _give(self, answer: Any) -> None:
        if not self._answered:
            self._answered = True
            self._answer = answer
            self._over.release()

    def _give_up(self) -> None:
        if self._deferred is not None:
            self._deferred.cancel()


def _to_the_end(value: Any) -> Any:
    """Return *value*, or the Deferred of it where it is an asyncio future."""
    return Deferred.fromFuture(value) if isinstance(value, asyncio.Future) else value


def _ended(function: object) -> LoopClosed:
    return LoopClosed(
        f"The event loop ended before {function!r} gave an answer. Let threads finish "
        "before the loop does, or expect this error at its end."
    )


def _require_no_timeout(function: object) -> None:
    try:
        parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return  # Written in C, without a signature: it takes what it is given.
    if "timeout" in parameters:
        raise TypeError(
            f"{function!r} has a parameter `timeout`, and blockingCallFromThread has "
            "one, which it keeps. Wrap the function: functools.partial(function, "
            "timeout=…)."
        )
