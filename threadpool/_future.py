"""What asyncio sees of a Deferred: the future protocol, with no Future in between.

A task that awaits a Deferred receives the Deferred itself and is stepped by it.
That makes awaiting cheap, and lets `task.cancel()` arrive as a plain call of
`Deferred.cancel()`. Loop thread only.

Source: the checks that `asyncio.isfuture`, `Task`, `gather`, `wait` and
`wait_for` make of a future-like object; the tests pin each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from threadpool.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")


class _Unfired:
    """The result of a Deferred that has none yet."""

    def __repr__(self) -> str:
        return "UNFIRED"


UNFIRED: Final = _Unfired()

# What a coroutine driver of ours sends to a Deferred that was waited for. It sees to a
# late cancel itself; the current task, if there is one, has nothing to do with it.
OURS: Final = object()

# By thread: how to wait for a Deferred under a loop that knows nothing of futures. A
# generator function; it yields what the coroutine's driver there understands, and ends
# when the Deferred is at rest. Empty where asyncio is the only loop.
awaiters: Final[dict[int, Callable[[Any], Generator[Any, Any, object]]]] = {}


class FutureFace(Generic[T]):
    """The half of a Deferred that asyncio talks to. A mixin; Deferred has the state."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_at_rest",
        "_callbacks",
        "_cancel_message",
        "_inner",
        "_late_cancel",
        "_loop",
        "_paused",
        "_result",
        "_running",
        "_waiters",
    )

    _asyncio_future_blocking: bool
    # True while the result can be read: fired, not paused, no callback left to run, no
    # other Deferred waited for. Kept rather than computed, for it is asked four times
    # on the way of each awaited job.
    _at_rest: bool
    _callbacks: list[Any] | None
    _cancel_message: object
    _inner: object
    # True when a cancel came too late: the work was done and its value is the result.
    # The task that awaits it is then cancelled at its next await, for somebody asked.
    _late_cancel: bool
    _loop: asyncio.AbstractEventLoop | None
    _paused: int
    _result: Any
    _running: bool
    _waiters: list[tuple[Callable[[Any], object], contextvars.Context | None]] | None

    def done(self) -> bool:
        """Say whether the result can be read: fired, not paused, chain at rest."""
        return self._at_rest

    def cancelled(self) -> bool:
        """Say whether the chain came to rest with a CancelledError."""
        return (
            self._at_rest
            and isinstance(self._result, Failure)
            and isinstance(self._result.value, asyncio.CancelledError)
        )

    def result(self) -> T:
        """Return the result without consuming it; a failure counts as handled.

        Raises:
            asyncio.InvalidStateError: there is no result yet.
            BaseException: the failure's exception, where the result is a failure.
        """
        result: Any = self._result
        if self._at_rest and not isinstance(result, Failure):
            return result  # type: ignore[no-any-return]  # cast() costs a call
        self._require_rest()
        self._mark_seen()
        if isinstance(result.value, asyncio.CancelledError):
            raise self._make_cancelled_error()
        raise result.value.with_traceback(result.tb)  # As Failure.raiseException does.

    def exception(self) -> BaseException | None:
        """Return the exception of a failed Deferred, None for a good result.

        Raises:
            asyncio.InvalidStateError: there is no result yet.
            asyncio.CancelledError: it was cancelled.
        """
        self._require_rest()
        if not isinstance(self._result, Failure):
            return None
        self._mark_seen()
        if isinstance(self._result.value, asyncio.CancelledError):
            raise self._make_cancelled_error()
        return self._result.value

    def _require_rest(self) -> None:
        if not self._at_rest:
            raise asyncio.InvalidStateError(
                f"{self!r} has no result yet. Await it, or add a callback."
            )

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the asyncio loop this Deferred fires on.

        Raises:
            RuntimeError: it is bound to none yet, and none is running here.
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        return loop

    def add_done_callback(
        self,
        callback: Callable[[Self], object],
        *,
        context: contextvars.Context | None = None,
    ) -> None:
        """Call *callback(self)* through the loop once `done()`; asyncio's spelling.

        Unlike `addCallback` it changes nothing about the result.

        Args:
            callback: called with this Deferred, on a later turn of the loop.
            context: where it runs; left out, a copy of the current one.
        """
        if context is None:
            context = contextvars.copy_context()
        if self._at_rest:
            self._schedule(callback, context)
        elif self._waiters is None:
            self._waiters = [(callback, context)]
        else:
            self._waiters.append((callback, context))

    def remove_done_callback(self, callback: Callable[[Self], object]) -> int:
        """Forget *callback*.

        Returns:
            How many times it had been added.
        """
        before = self._waiters or []
        after = [waiter for waiter in before if waiter[0] != callback]
        self._waiters = after or None
        return len(before) - len(after)

    def __await__(self) -> Generator[Any, Any, T]:
        if not self._at_rest:
            awaiter = awaiters.get(get_ident()) if awaiters else None
            if awaiter is None:
                self._asyncio_future_blocking = True
                try:
                    driver = yield self
                except asyncio.CancelledError:
                    raise
                except BaseException:
                    if self._late_cancel:
                        _rearm(self._cancel_message)
                    raise
            else:
                driver = yield from awaiter(self)
            if self._late_cancel and driver is not OURS:
                _rearm(self._cancel_message)
        result: Any = self._result
        if self._at_rest and not isinstance(result, Failure):
            return result  # type: ignore[no-any-return]
        return self.result()

    # asyncio allows `yield from` in its own coroutines, and so do inlineCallbacks.
    __iter__ = __await__

    async def asCoroutine(self) -> T:
        """Return the result; for `asyncio.create_task`, which takes coroutines only.

        Cancelling the task cancels this Deferred.
        """
        return await self

    def _make_cancelled_error(self) -> asyncio.CancelledError:
        # gather() asks for this by name, to tell its own cancellation from ours.
        # A new one for each waiter: a task adds its own traceback to it.
        cause = self._result.value if isinstance(self._result, Failure) else None
        if cause is not None and cause.args:
            error = asyncio.CancelledError(*cause.args)
        elif self._cancel_message is not None:
            error = asyncio.CancelledError(self._cancel_message)
        else:
            error = asyncio.CancelledError()
        error.__context__ = cause
        return error

    def _watch(self, callback: Callable[[Any], object]) -> None:
        """Call *callback(self)* the moment the chain rests, without a loop's turn.

        For our own coroutines, which run where there may be no asyncio loop at all.
        """
        if self._waiters is None:
            self._waiters = [(callback, None)]
        else:
            self._waiters.append((callback, None))

    def _mark_seen(self) -> None:
        raise NotImplementedError

    def _schedule(
        self, callback: Callable[[Any], object], context: contextvars.Context
    ) -> None:
        loop = self._loop or self.get_loop()
        loop.call_soon(self._deliver, callback, context, context=context)

    def _deliver(
        self, callback: Callable[[Any], object], context: contextvars.Context
    ) -> None:
        # Between the firing and this turn of the loop somebody may have added a
        # callback that waits for another Deferred: then the result is away again,
        # and a task woken now would find InvalidStateError.
        if self._at_rest:
            callback(self)
        else:
            self.add_done_callback(callback, context=context)

    def _notify(self, *, directly: bool) -> None:
        """Tell the waiters that the chain is at rest.

        *directly* only in the reactor's pass over completions, where no task is
        current: it steps the waiting task at once and spares the loop a turn,
        which is a third of the cost of an awaited job.
        """
        waiters, self._waiters = self._waiters, None
        if waiters is None:
            return
        if not directly and len(waiters) == 1:  # The common one, without the loop.
            callback, context = waiters[0]
            if context is not None:
                self._schedule(callback, context)
                return
        for position, (callback, context) in enumerate(waiters):
            # A waiter stepped before this one may have set the chain going again.
            if context is None and position and not self._at_rest:
                self._watch(callback)
                continue
            if context is not None and (
                not directly or (position and not self._at_rest)
            ):
                self._schedule(callback, context)
                continue
            try:
                if context is None:
                    callback(self)
                else:
                    context.run(callback, self)
            except Exception as error:
                self.get_loop().call_exception_handler(
                    {
                        "message": f"Exception in done-callback of {self!r}",
                        "exception": error,
                        "future": self,
                    }
                )
            except BaseException:
                # Ctrl-C stops the loop, not the other waiters.
                with contextlib.suppress(RuntimeError):  # There is no loop here.
                    for later, its_context in waiters[position + 1 :]:
                        self._schedule(later, its_context or contextvars.Context())
                raise


def _rearm(message: object) -> None:
    """Cancel the current task at its next await, as its canceller meant it.

    On a later turn of the loop: cancelled at once, the task would be hit again by a
    timeout or a TaskGroup that is still unwinding.
    """
    if asyncio._get_running_loop() is None:
        return  # Another loop's tasks keep their cancellations themselves.
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return

    def cancel() -> None:
        if not task.done() and task.cancelling():
            task.uncancel()
            task.cancel(message)

    task.get_loop().call_soon(cancel)
