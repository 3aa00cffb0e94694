"""The Deferred itself: a result that is not here yet, and what to do with it.

It is two things in one. A callback chain: each callback's return value is the next
one's argument, an exception switches to the errbacks. And a future: a coroutine
can `await` it, and cancelling the awaiting task cancels it. A Deferred belongs to
the thread of its loop; no other thread may touch it.

Source: the Deferred of Twisted (and, before it, the promises of E). Unlike those,
awaiting does not consume the result, and asyncio takes it for one of its own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar, overload

from threadpool._chain import FIRES, LATER, PLAIN, Chain, cancelledError
from threadpool._future import UNFIRED
from threadpool.failure import Failure

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from threadpool._timeout import Clock

__all__ = ["LATER", "Deferred"]

_log = logging.getLogger("threadpool.defer")

T = TypeVar("T")
U = TypeVar("U")


class Deferred(Chain[T]):
    """A result that will be there later, exactly once.

    Args:
        canceller: called with this Deferred by `cancel` while there is no result.
            It may fire the Deferred with an error of its own, do nothing (the
            Deferred then fails with CancelledError at once), or return `LATER` and
            fire it when whatever it stopped has really stopped.

    Raises:
        TypeError: *canceller* is neither callable nor None.

    Source: `Deferred` of Twisted, and `asyncio.Future`.
    """

    # -- Building the chain ----------------------------------------------------

    def addCallbacks(
        self,
        callback: Callable[..., Any] | None,
        errback: Callable[..., Any] | None = None,
        callback_args: tuple[Any, ...] = (),
        callback_kwargs: dict[str, Any] | None = None,
        errback_args: tuple[Any, ...] = (),
        errback_kwargs: dict[str, Any] | None = None,
    ) -> Deferred[Any]:
        """Add one step to the chain: *callback* for a value, *errback* for a failure.

        Args:
            callback: called with the value; None passes it on.
            errback: called with the Failure; None passes it on.
            callback_args: more positional arguments for *callback*.
            callback_kwargs: keyword arguments for *callback*.
            errback_args: more positional arguments for *errback*.
            errback_kwargs: keyword arguments for *errback*.

        Returns:
            This Deferred, so that calls can be strung together.

        Raises:
            TypeError: one of the two is neither callable nor None.
        """
        _require_callable(callback, "callback")
        _require_callable(errback, "errback")
        if callback_args or callback_kwargs:
            callback = _with_arguments(callback, callback_args, callback_kwargs or {})
        if errback_args or errback_kwargs:
            errback = _with_arguments(errback, errback_args, errback_kwargs or {})
        if self._callbacks is None:
            self._callbacks = [(callback, errback)]
        else:
            self._callbacks.append((callback, errback))
        if self._result is not UNFIRED:
            self._at_rest = False
            self._run()
        return self

    @overload
    def addCallback(
        self, callback: Callable[..., Deferred[U]], /, *args: Any, **kwargs: Any
    ) -> Deferred[U]: ...
    @overload
    def addCallback(
        self, callback: Callable[..., U], /, *args: Any, **kwargs: Any
    ) -> Deferred[U]: ...
    def addCallback(
        self, callback: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Deferred[Any]:
        """Add a step for values only.

        Args:
            callback: called as `callback(value, *args, **kwargs)`. What it returns
                is the next value; a Deferred it returns is waited for; what it
                raises is the next failure.
            args: more positional arguments for *callback*.
            kwargs: keyword arguments for *callback*.

        Returns:
            This Deferred.

        Raises:
            TypeError: *callback* is not callable.
        """
        if args or kwargs:
            return self.addCallbacks(callback, None, args, kwargs)
        # What addCallbacks would do, without its questions: most steps are this one.
        if not callable(callback):
            _require_callable(callback, "callback")
        if self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)
        if self._result is not UNFIRED:
            self._at_rest = False
            self._run()
        return self

    @overload
    def addErrback(
        self, errback: Callable[..., Deferred[U]], /, *args: Any, **kwargs: Any
    ) -> Deferred[T | U]: ...
    @overload
    def addErrback(
        self, errback: Callable[..., U], /, *args: Any, **kwargs: Any
    ) -> Deferred[T | U]: ...
    def addErrback(
        self, errback: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Deferred[Any]:
        """Add a step for failures only.

        Args:
            errback: called as `errback(failure, *args, **kwargs)`. Returning a
                value ends the trouble; returning the failure, or raising, goes on
                with it.
            args: more positional arguments for *errback*.
            kwargs: keyword arguments for *errback*.

        Returns:
            This Deferred.

        Raises:
            TypeError: *errback* is not callable.
        """
        return self.addCallbacks(
            None, errback, errback_args=args, errback_kwargs=kwargs
        )

    @overload
    def addBoth(
        self, callback: Callable[..., Deferred[U]], /, *args: Any, **kwargs: Any
    ) -> Deferred[U]: ...
    @overload
    def addBoth(
        self, callback: Callable[..., U], /, *args: Any, **kwargs: Any
    ) -> Deferred[U]: ...
    def addBoth(
        self, callback: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Deferred[Any]:
        """Add a step for values and failures alike, as a `finally` would be.

        Args:
            callback: called with the value or the Failure.
            args: more positional arguments for *callback*.
            kwargs: keyword arguments for *callback*.

        Returns:
            This Deferred.

        Raises:
            TypeError: *callback* is not callable.
        """
        return self.addCallbacks(callback, callback, args, kwargs, args, kwargs)

    def chainDeferred(self, other: Deferred[Any]) -> Deferred[Any]:
        """Fire *other* with whatever arrives here, and go on with None.

        Args:
            other: a Deferred that nobody else fires.

        Returns:
            This Deferred.

        Raises:
            TypeError: *other* is no Deferred.
        """
        if not isinstance(other, Deferred):
            raise TypeError(
                f"chainDeferred was given {other!r}, which is no Deferred to be fired. "
                "Pass one; a function is added with addCallback."
            )
        # Not addCallbacks(other.callback, …): that would nest, and end at some depth.
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append((FIRES, other))
        if self._result is not UNFIRED:
            self._at_rest = False
            self._run()
        return self

    def addTimeout(
        self,
        seconds: float,
        clock: Clock | None = None,
        on_timeout_cancel: Callable[[Any, float], Any] | None = None,
    ) -> Deferred[Any]:
        """Cancel this Deferred when it has no result in time.

        Args:
            seconds: how long it may take from now, >= 0.
            clock: whose `callLater` counts them; left out, the reactor's.
            on_timeout_cancel: called as `on_timeout_cancel(result, seconds)` with what
                came of cancelling; what it returns or raises is the result. Left out,
                a CancelledError becomes a TimeoutError, anything else stays.

        Returns:
            This Deferred.

        Raises:
            TypeError: *seconds* is no number, or *clock* has no `callLater`.
            ValueError: *seconds* is negative or not finite.
        """
        from threadpool._timeout import limit  # It is built upon this room.

        limit(self, seconds, clock, on_timeout_cancel)
        return self

    # -- As a coroutine's result, and as asyncio's future ----------------------

    @staticmethod
    def fromCoroutine(coroutine: Coroutine[Any, Any, U]) -> Deferred[U]:
        """Run *coroutine* now, up to its first wait, and return its result to come.

        Args:
            coroutine: what calling an `async def` function returned. It sees a copy of
                the current context variables.

        Returns:
            A Deferred; cancelling it raises CancelledError where the coroutine waits.

        Raises:
            NotACoroutineError: *coroutine* is something else.
        """
        from threadpool._coroutine import fromCoroutine  # It is built upon this room.

        return fromCoroutine(coroutine)

    @staticmethod
    def fromFuture(future: asyncio.Future[U]) -> Deferred[U]:
        """Return a Deferred of what *future* comes to.

        Args:
            future: an asyncio future or task of the loop of this thread.

        Returns:
            A Deferred; cancelling it cancels *future*, whose answer it then waits for.

        Raises:
            TypeError: *future* is something else.
        """
        from threadpool._convert import watchFuture

        return watchFuture(future)

    def asFuture(
        self, loop: asyncio.AbstractEventLoop | None = None
    ) -> asyncio.Future[T]:
        """Return an `asyncio.Future` of the result, for what insists on that class.

        asyncio itself takes a Deferred for a future; most callers need nothing else.

        Args:
            loop: left out, the loop of this Deferred, or the running one.

        Returns:
            A future. Cancelling it cancels this Deferred, whose answer it waits for.
        """
        from threadpool._convert import futureOf

        return futureOf(self, loop)

    # -- Firing it ------------------------------------------------------------

    def callback(self, result: T | Failure) -> None:
        """Give the result, and run the chain.

        Args:
            result: the value; a Failure starts the chain on the errback side.

        Raises:
            AlreadyCalledError: this Deferred was fired before.
            TypeError: *result* is a Deferred. Return it from a callback instead.
        """
        if result.__class__ not in PLAIN and isinstance(result, Deferred):
            raise TypeError(
                f"callback() was given {result!r}. A Deferred cannot be the result "
                "of another one: use chainDeferred, or return it from a callback."
            )
        self._fire(result, directly=False)

    def errback(self, failure: Failure | BaseException | None = None) -> None:
        """Give a failure, and run the chain.

        Args:
            failure: a Failure or an exception; left out, the exception that is
                being handled right now.

        Raises:
            AlreadyCalledError: this Deferred was fired before.
            NoCurrentExceptionError: nothing was given and no exception is handled.
        """
        if not isinstance(failure, Failure):
            failure = Failure(failure)
        self._fire(failure, directly=False)

    def cancel(self, msg: object = None) -> bool:
        """Ask for the work behind this Deferred to be stopped.

        Args:
            msg: the argument of the CancelledError, as in `asyncio.Task.cancel`.

        Returns:
            True when the request was taken (the CancelledError may come later),
            False when there is a result already.
        """
        if self._result is UNFIRED:
            self._cancel_message = msg
            if self._stop() is not LATER and self._result is UNFIRED:
                self._fire(Failure(cancelledError(msg)), directly=False)
            return True
        innermost: Any = self._innermost()
        if innermost is None:  # They wait for each other, in a ring.
            self._break_off(Failure(cancelledError(msg)))
            return True
        return innermost is not self and bool(innermost.cancel(msg))

    def _stop(self) -> object:
        """Stop the work behind this Deferred, as the constructor says of cancellers."""
        if self._canceller is None:
            # Whoever would have fired it does not know: let that once pass.
            self._swallow = True
            return None
        try:
            return self._canceller(self)
        except Exception:
            _log.exception("The canceller of %r failed; it counts as cancelled", self)
            return None

    def __repr__(self) -> str:
        name = f"{type(self).__name__} at {id(self):#x}"
        if self._result is UNFIRED:
            return f"<{name}>"
        if self._inner is not None:
            return f"<{name} waiting on Deferred at {id(self._inner):#x}>"
        try:
            result = repr(self._result)
        except Exception as error:
            result = f"<unprintable {type(self._result).__name__}: {error!r}>"
        return f"<{name} current result: {result[:200]}>"


def _require_callable(step: object, what: str) -> None:
    if step is not None and not callable(step):
        raise TypeError(
            f"The {what} is {step!r}, which cannot be called. A chain is made of "
            "functions: pass one, or None to let the result through."
        )


def _with_arguments(
    step: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[..., Any] | None:
    if step is None:
        return None
    return lambda result: step(result, *args, **kwargs)
