"""Twisted under the bridge: jobs come home to its reactor, and Deferreds change sides.

The reactor's thread only; `post` alone is for any thread. Under Twisted's
asyncioreactor asyncio's loop is what runs, and what Deferreds come home to.
"""

from __future__ import annotations

import asyncio
import inspect
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet import defer
from twisted.python import failure as failures
from twisted.python.threadable import isInIOThread

from threadpool import home, loops
from threadpool._deferred import LATER, Deferred
from threadpool._future import awaiters
from threadpool.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from threadpool.events import PendingEvents

__all__ = ["asTwisted", "fromTwisted", "install"]

T = TypeVar("T")


def install() -> PendingEvents:
    """Make Twisted's reactor the loop that this thread's Deferreds come home to.

    Before `reactor.run()` or while it runs. From then on `await deferred` works in
    Twisted's coroutines. It ends with the reactor, after its "shutdown" triggers.

    Returns:
        Its pending-event queue.

    Raises:
        RuntimeError: the reactor runs in another thread, or another loop in this one.
    """
    from twisted.internet import reactor as the_reactor

    reactor: Any = the_reactor
    if reactor.running and not isInIOThread():  # type: ignore[no-untyped-call]
        raise RuntimeError(
            "Twisted's reactor runs in another thread. Call install() there, with "
            "reactor.callFromThread, or before reactor.run()."
        )
    # Twisted has no public way to ask which loop its asyncioreactor runs.
    over: asyncio.AbstractEventLoop | None = getattr(reactor, "_asyncioEventloop", None)
    loop = _Reactor(reactor)
    events = loops.install(loop) if over is None else _over_asyncio(over)
    awaiters[events.thread] = _wait

    def end() -> None:
        loop.ended = True
        events.close()
        awaiters.pop(events.thread, None)

    def farewell() -> defer.Deferred[None]:
        return asTwisted(events.farewell())

    reactor.addSystemEventTrigger("before", "shutdown", farewell)
    reactor.addSystemEventTrigger("after", "shutdown", end)
    return events


class _Reactor:
    """Twisted's reactor, as the bridge sees it."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.ended = False

    def post(self, function: Callable[[], object]) -> None:
        if self.ended:
            raise RuntimeError(
                "Twisted's reactor has stopped and calls nothing any more. Do this "
                'in a trigger "before" its "shutdown".'
            )
        self.reactor.callFromThread(function)

    def later(self, seconds: float, function: Callable[[], object]) -> _Timer:
        return _Timer(self.reactor.callLater(seconds, function))

    def __repr__(self) -> str:
        return f"<Twisted's loop {'ended' if self.ended else 'open'}>"


class _Timer:
    """A delayed call of Twisted's that may be called off at any time."""

    def __init__(self, call: Any) -> None:
        self.call = call

    def cancel(self) -> None:
        if self.call.active():
            self.call.cancel()


def _over_asyncio(loop: asyncio.AbstractEventLoop) -> PendingEvents:
    """Return the queue of the loop below Twisted's reactor, which may not run yet."""
    here = home.hereOrNone()
    if get_ident() in awaiters or (here is not None and here.loop is not loop):
        raise RuntimeError(
            f"This thread has a loop already: {here!r}. Call install() once, and close "
            "another loop's queue before, or run the reactor in a thread of its own."
        )
    if here is not None:
        return here  # It runs, and was adopted.
    return home.installEarly(loop)


def asTwisted(deferred: Deferred[T]) -> defer.Deferred[T]:
    """Return a Deferred of Twisted's that fires with the end of *deferred*'s chain.

    A CancelledError becomes Twisted's. Cancelling what is returned cancels
    *deferred*, and fires when that does: once the work has stopped, or with its value
    where it was done all the same.

    Args:
        deferred: one of ours. It keeps its result; a failure counts as handled.

    Raises:
        TypeError: *deferred* is none of ours.
    """
    if not isinstance(deferred, Deferred):
        raise _not_a("asTwisted", deferred, "one of ours")
    theirs: _Twisted[T] = _Twisted(deferred)
    if deferred.done():
        theirs.take(deferred)
    else:
        deferred._watch(theirs.take)
    return theirs


def fromTwisted(deferred: defer.Deferred[T]) -> Deferred[T]:
    """Return a Deferred of ours that fires with what *deferred* gives.

    Twisted's CancelledError becomes asyncio's. Cancelling what is returned cancels
    *deferred*.

    Args:
        deferred: one of Twisted's. Its result goes over; None stays behind.

    Raises:
        TypeError: *deferred* is none of Twisted's.
    """
    if not isinstance(deferred, defer.Deferred):
        raise _not_a("fromTwisted", deferred, "one of Twisted's")

    def cancel(_: object) -> object:
        deferred.cancel()
        return LATER

    ours: Deferred[T] = Deferred(cancel)
    deferred.addCallbacks(ours.callback, lambda failure: ours.errback(_ours(failure)))
    return ours


def _not_a(verb: str, given: object, wanted: str) -> TypeError:
    cure = f"Pass a Deferred, {wanted}."
    if inspect.iscoroutine(given):
        given.close()  # Else Python warns, beside the error, that nobody awaited it.
        cure = "Make a Deferred of it first, with the ensureDeferred of its side."
    elif isinstance(given, Deferred | defer.Deferred):
        cure = "It is on the side already where you want it: use it as it is."
    return TypeError(
        f"{verb} was given {given!r}, a {type(given).__module__}."
        f"{type(given).__qualname__}. {cure}"
    )


class _Twisted(defer.Deferred[T]):
    """Twisted's Deferred for one of ours.

    A class of its own, since a canceller of Twisted's has to answer at once, and the
    database may need a moment.
    """

    def __init__(self, ours: Deferred[T]) -> None:
        super().__init__()
        self.ours = ours

    def cancel(self) -> None:
        """Cancel ours; it passes its answer on."""
        if self.called or not self.ours.cancel():
            super().cancel()

    def take(self, ours: Deferred[T]) -> None:
        """Fire with what *ours* came to rest with."""
        if self.called:
            return
        result = ours._result
        if isinstance(result, Failure):
            ours._mark_seen()
            self.errback(_theirs(result))
        else:
            self.callback(result)


def _theirs(failure: Failure) -> failures.Failure:
    error: BaseException = failure.value
    if isinstance(error, asyncio.CancelledError):
        error = defer.CancelledError(*error.args)
        error.__cause__ = failure.value
    return failures.Failure(error, type(error), failure.tb)  # type: ignore[no-untyped-call]


def _ours(failure: failures.Failure) -> Failure:
    error = failure.value
    if isinstance(error, defer.CancelledError):
        error = asyncio.CancelledError(*error.args)
        error.__cause__ = failure.value
    return Failure(error, failure.tb)


def _wait(deferred: Deferred[Any]) -> Generator[Any, Any, None]:
    """Wait for *deferred*, in the way of whoever drives this coroutine."""
    while not deferred.done():  # Another who waits may set the chain going again.
        deferred._asyncio_future_blocking = True
        # Twisted sends back what it does not know; asyncio and we ourselves wait.
        if (yield deferred) is not deferred:
            return
        deferred._asyncio_future_blocking = False
        yield from asTwisted(deferred)
