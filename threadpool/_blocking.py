"""A call into the loop that a thread waits for.

Made and waited for by a thread without a loop; it happens on the loop's thread.

Source: `blockingCallFromThread` of Twisted, which waits for ever for a loop that has
ended, and for itself on the loop's own thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from threadpool._at_home import AtHome, Posted
from threadpool._coroutine import maybeDeferred, stepping
from threadpool._deferred import Deferred
from threadpool._require import requireCallable, requireDelay
from threadpool.crew import currentJob, currentTeam
from threadpool.error import LoopClosed, WrongThread
from threadpool.failure import Failure
from threadpool.home import hereOrNone

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.events import PendingEvents
    from threadpool.job import Job
    from threadpool.reactor import Reactor

__all__ = ["BlockingCall", "callingJob", "requireReactor", "waiting"]

# By the name of the room that users know.
_log = logging.getLogger("threadpool.threads")

# How often a waiting thread looks whether the loop was closed without a word, as
# loop.close() alone does it, or was never there. Everything else wakes it at once.
LOOK_SECONDS: Final = 1.0

_NO_LOOP: Final = (
    "Start one; or, where one runs already, use the reactor once on the loop's own "
    "thread before, say reactor.callWhenRunning(print) in its main coroutine."
)

# The calls that workers of pools wait for at this moment: workers that do nothing. Each
# step on a set is atomic by itself. Ask it first: mostly there are none.
waiting: Final[set[BlockingCall]] = set()

# The call that was made in this context, or in one that it was copied from.
_made_for: contextvars.ContextVar[weakref.ref[BlockingCall] | None] = (
    contextvars.ContextVar("made_for", default=None)
)


class BlockingCall:
    """One call, its answer, and the thread that waits for it.

    Args:
        reactor: whose loop it is for.
        function: what to call.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Raises:
        TypeError: *reactor* is none of ours, *function* cannot be called, or has a
            parameter that is ours.

    Attributes:
        job: what the waiting thread does as a pool's worker; None if it is none.
        since: when it began to wait, in seconds of time.monotonic().
    """

    def __init__(
        self,
        reactor: Reactor,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        requireReactor(reactor, "blockingCallFromThread")
        requireCallable(function, "blockingCallFromThread")
        self._reactor = reactor
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._context = contextvars.copy_context()
        # Weakly: the call holds its context.
        self._context.run(_made_for.set, weakref.ref(self))
        self.job: Job[Any] | None = None
        self.since = 0.0
        self._happening = False  # Its function is being called. loop thread only
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
            _require_no_timeout(self._function)
            requireDelay(timeout, "timeout")
        here = hereOrNone()
        if here is not None:
            raise WrongThread(
                f"blockingCallFromThread was called where {here!r} runs: the loop "
                f"would wait for itself. Here {self._function!r} can simply be called; "
                "await its result, or add a callback."
            )
        team = currentTeam()
        if team is not None:
            self.job, self.since = currentJob(), time.monotonic()
            waiting.add(self)
            team.blocked()
        try:
            self._reactor._post(self)
            self._wait(timeout)
        except BaseException:  # No answer in time, no loop any more, or Ctrl-C.
            self._given_up = True
            self._have_it_cancelled()
            raise
        finally:
            if team is not None:
                waiting.discard(self)
                team.unblocked()
        if isinstance(self._answer, Failure):
            self._answer.raiseException()
        return self._answer

    def _wait(self, timeout: float | None) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        told = False
        while True:
            left = LOOK_SECONDS if until is None else until - time.monotonic()
            if self._over.acquire(timeout=max(0.0, min(left, LOOK_SECONDS))):
                return
            home = self._reactor._home
            if home is not None and home.loop is not None and home.loop.is_closed():
                raise _ended(self._function)
            no_loop = (home is None or home.closed) and not self._reactor._living()
            if until is not None and time.monotonic() >= until:
                raise _too_late(self._function, timeout, no_loop=no_loop)
            if no_loop and not told:
                told = True
                _log.warning(
                    "blockingCallFromThread(%r) waits for an event loop, and this "
                    "library knows of none. %s",
                    self._function,
                    _NO_LOOP,
                )

    def _have_it_cancelled(self) -> None:
        try:
            self._reactor._post(Posted(self._give_up, (), {}))
        except Exception:  # What ended the wait is the error to be seen.
            _log.exception("A call that was given up could not be cancelled: %r", self)

    # -- On the loop's thread ----------------------------------------------------------

    def happen(self) -> None:
        """Call the function."""
        if self._given_up:
            return
        home = self._reactor._home
        self._happening = True
        try:
            result = self._context.run(
                maybeDeferred, self._function, *self._args, **self._kwargs
            )
        finally:
            self._happening = False
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

    def __repr__(self) -> str:
        return f"<BlockingCall of {self._function!r}>"


def callingJob() -> Job[Any] | None:
    """Return the job whose worker waits for what is being called here. Loop thread.

    Only the function that was given to `blockingCallFromThread` counts, and coroutines
    run in its context. A task or a callback inherits that context, but nobody can say
    whether the worker waits for it.
    """
    reference = _made_for.get()
    call = None if reference is None else reference()
    if call is None or call not in waiting or call._answered or call._given_up:
        return None
    return call.job if call._happening or stepping() else None


def requireReactor(reactor: object, verb: str) -> None:
    """Refuse what is no reactor of ours: a loop, Twisted's, or the function itself.

    Args:
        reactor: what was given.
        verb: whom it was given to.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(reactor, AtHome):
        raise TypeError(
            f"{verb} was given {reactor!r} first, which is no reactor of the bridge. "
            "Pass threadpool.reactor.reactor, also under Twisted; then the function, "
            "then its arguments."
        )


def _to_the_end(value: Any) -> Any:
    """Return *value*, or the Deferred of it where it is an asyncio future."""
    return Deferred.fromFuture(value) if isinstance(value, asyncio.Future) else value


def _too_late(
    function: object, timeout: float | None, *, no_loop: bool
) -> TimeoutError:
    if no_loop:
        return TimeoutError(
            f"{function!r} was not called within {timeout} seconds: this library "
            f"knows of no event loop. {_NO_LOOP}"
        )
    return TimeoutError(
        f"{function!r} gave no answer within {timeout} seconds, and was cancelled. "
        "Allow it more time, or find out what keeps the loop."
    )


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


if hasattr(os, "register_at_fork"):  # Those who wait have stayed behind.
    os.register_at_fork(after_in_child=waiting.clear)
