"""Deferreds as asyncio's futures, and the other way round. Loop thread only.

Source: `asFuture` and `fromFuture` of Twisted.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from threadpool._chain import LATER
from threadpool._deferred import Deferred

if TYPE_CHECKING:
    from threadpool._future import FutureFace

__all__ = ["futureOf", "watchFuture"]

T = TypeVar("T")


class _Mirror(asyncio.Future[T]):
    """A real asyncio.Future that shows what a Deferred comes to.

    Cancelling it asks the Deferred, whose answer may come later, and may be that the
    work was done all the same. So it does not call itself cancelled before that.
    """

    source: FutureFace[T]

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the Deferred.

        Args:
            msg: the argument of the CancelledError.

        Returns:
            Whether the request was taken.
        """
        if self.done():
            return False
        if self.source.cancel(msg):  # type: ignore[attr-defined]  # of Deferred
            return True
        # Fired, but waiting for nothing that could be cancelled: paused, say.
        return super().cancel(msg)

    def show(self, source: FutureFace[T]) -> None:
        """Take over the result; the Deferred keeps it."""
        if self.done():
            return
        if source.cancelled():
            super().cancel(source._cancel_message)
            return
        error = source.exception()
        if error is None:
            self.set_result(source.result())
        elif isinstance(error, StopIteration):
            # A future refuses this one, since it would end whoever awaits.
            wrapper = RuntimeError("The Deferred failed with StopIteration.")
            wrapper.__cause__ = error
            self.set_exception(wrapper)
        else:
            self.set_exception(error)


def futureOf(
    deferred: Deferred[T], loop: asyncio.AbstractEventLoop | None
) -> asyncio.Future[T]:
    """See `Deferred.asFuture`."""
    mirror: _Mirror[T] = _Mirror(loop=loop or deferred.get_loop())
    mirror.source = deferred
    if deferred.done():
        mirror.show(deferred)
    else:
        deferred._watch(mirror.show)
    return mirror


def watchFuture(future: asyncio.Future[T]) -> Deferred[T]:
    """See `Deferred.fromFuture`."""
    if inspect.iscoroutine(future):
        future.close()  # Else Python warns, beside the error, that nobody awaited it.
        raise TypeError(
            f"fromFuture was given {future!r}, which is a coroutine. Use "
            "ensureDeferred(coroutine), or Deferred.fromCoroutine."
        )
    if not asyncio.isfuture(future):
        raise TypeError(
            f"fromFuture was given {future!r}, which is no future of asyncio's. Pass a "
            "future or a task; defer.succeed makes a Deferred of a value."
        )

    def cancel(deferred: Deferred[T]) -> object:
        # What a task answers comes when it has ended; it may even be a value.
        return LATER if future.cancel(deferred._cancel_message) else None

    def fire(_: object) -> None:
        if deferred.called:
            return
        try:
            deferred.callback(future.result())
        except BaseException:
            deferred.errback()

    deferred: Deferred[T] = Deferred(cancel)
    deferred._loop = future.get_loop()
    if future.done():
        fire(future)
    else:
        future.add_done_callback(fire)
    return deferred
