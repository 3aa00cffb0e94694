"""Calls at a later time, and calls again and again. Loop thread only.

`deferLater` makes a Deferred of one delayed call. `LoopingCall` repeats a function at
fixed times, on a grid that does not drift: a slow call makes it skip, never lag.

Source: the repeating events of the 2002 paper, and `twisted.internet.task`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from threadpool._chain import LATER, cancelledError
from threadpool._coroutine import maybeDeferred
from threadpool._deferred import Deferred
from threadpool._future import UNFIRED
from threadpool._require import requireCallable, requireClock, requireDelay
from threadpool.error import LoopClosed
from threadpool.failure import Failure
from threadpool.home import hereOrNone
from threadpool.reactor import reactor

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from threadpool.events import PendingEvents

__all__ = ["LoopingCall", "TimeSource", "deferLater"]

# From here on a quotient of floats says nothing any more about single units.
_COUNTABLE = 2.0**53


class Cancellable(Protocol):
    """A delayed call that can be called off."""

    def cancel(self) -> None:
        """Call it off."""


class TimeSource(Protocol):
    """What tells the time and calls later: a reactor, or `testing.Clock`."""

    def seconds(self) -> float:
        """Return the time in seconds; only differences mean anything."""
        ...

    def callLater(
        self, delay: float, function: Callable[..., object], /, *args: Any
    ) -> Cancellable:
        """Call *function* with *args*, *delay* seconds from now."""
        ...


class LoopingCall:
    """Calls a function at fixed times: the start, and every interval after it.

    What the function returns is waited for, if it is a Deferred or a coroutine; times
    that pass meanwhile are skipped, and the next call comes at the next time on the
    grid. It ends with `stop`, with an exception of the function, with a cancel of the
    Deferred that `start` returned, or with the loop it was started in.

    Args:
        function: anything quick, or something that returns a Deferred or a coroutine.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Attributes:
        clock: whose time it is: anything with `seconds` and `callLater`; the reactor
            if left alone. Change it before `start` only.
        interval: seconds between two calls; None before the first `start`.
        running: whether it is going to call again.

    Raises:
        TypeError: *function* cannot be called.

    Source: `twisted.internet.task.LoopingCall`.
    """

    def __init__(
        self, function: Callable[..., object], *args: Any, **kwargs: Any
    ) -> None:
        requireCallable(function, "LoopingCall")
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._counts = False
        self.clock: TimeSource = reactor
        self.interval: float | None = None
        self.running = False
        self._zero = 0.0  # Seconds of the clock; call number n is due n intervals on.
        self._last = 0  # The number of the last call.
        self._next = 0  # The number of the call that the timer is for.
        self._timer: Cancellable | None = None
        self._busy = False  # The function was called and has not answered yet.
        self._answer: Deferred[Any] | None = None  # What it has returned meanwhile.
        self._ended: Deferred[Any] | None = None  # What `start` has returned.
        self._cancelled: Failure | None = None  # What to end with, instead of well.
        self._home: PendingEvents | None = None  # The loop that it ends with.

    @classmethod
    def withCount(cls, function: Callable[[int], object]) -> Self:
        """Return one whose function is told how many intervals have passed.

        Args:
            function: called with the number of times that were due since the last
                call, this one included: 1, or more where some were skipped.
        """
        self = cls(function)
        self._counts = True
        return self

    def start(self, interval: float, now: bool = True) -> Deferred[Any]:
        """Begin to call.

        Args:
            interval: seconds between two calls. 0 for as soon as the loop has had a
                turn for its other work.
            now: whether the first call is made at once; else after one interval.

        Returns:
            A Deferred that fires with this object when it was stopped, or fails with
            what the function raised. Cancelling it stops, and cancels what the
            function waits for.

        Raises:
            RuntimeError: it runs already, or its last call has not ended yet.
            TypeError: *interval* is no number, or the clock cannot measure time.
            ValueError: *interval* is negative or not finite.
            WrongThread: the clock is a reactor, and no loop runs here.
        """
        if self._ended is not None:
            raise RuntimeError(
                f"{self!r} was started already, and what start() returned has not "
                "fired yet. Stop it and wait for that, or make another one."
            )
        requireDelay(interval, "interval")
        requireClock(self.clock, "It is the attribute `clock`, set before start().")
        self._zero = self.clock.seconds()
        self._home = hereOrNone()
        if self._home is not None:
            self._home.notify(self)
        self.interval = interval
        self.running = True
        ended: Deferred[Any] = Deferred(self._cancel)
        self._ended = ended
        if now:
            self._last = -1
            self._call(0)
        else:
            self._last = 0
            self._wait(1)
        return ended

    def stop(self) -> None:
        """Call no more; a call that waits for something is left to end by itself.

        Raises:
            RuntimeError: it does not run.
        """
        self._require_running("stop")
        self._halt()
        if not self._busy:
            self._finish(self)

    def reset(self) -> None:
        """Begin the grid anew: the next call comes one interval from now.

        Raises:
            RuntimeError: it does not run.
        """
        self._require_running("reset")
        self._zero = self.clock.seconds()
        self._last = 0
        if self._timer is not None:
            self._timer.cancel()
            self._wait(1)

    def loopClosed(self, home: PendingEvents) -> None:
        """Stop, for the loop ends and no timer goes off any more. Loop thread.

        Args:
            home: the queue of that loop.
        """
        if home is self._home:
            self._halt()
            self._finish(self)

    def _call(self, number: int) -> None:
        """Make the call that was due as *number*, and see to what follows."""
        count, self._last = number - self._last, number
        ended, self._busy = self._ended, True
        try:
            if self._counts:
                answer = maybeDeferred(self._function, count)
            else:
                answer = maybeDeferred(self._function, *self._args, **self._kwargs)
        except BaseException:  # Ctrl-C ends the program, and this call for sure.
            self._fail(Failure(), ended)
            raise
        self._answer = answer
        answer.addCallbacks(
            self._go_on, self._fail, callback_args=(ended,), errback_args=(ended,)
        )

    def _go_on(self, _: object, ended: Deferred[Any] | None) -> None:
        """The function has answered."""
        if ended is not self._ended:
            return  # The loop in which it was called is over.
        self._busy, self._answer = False, None
        if self.running:
            self._wait(max(self._last, self._number_at(self.clock.seconds())) + 1)
        else:
            self._finish(self._cancelled or self)

    def _fail(self, failure: Failure, ended: Deferred[Any] | None) -> Failure | None:
        """The function has failed."""
        if ended is not self._ended:
            return failure  # Nobody is left to be told: it is logged.
        self._halt()
        self._finish(failure)
        return None

    def _wait(self, number: int) -> None:
        """Set the timer for the call of that *number*."""
        self._next = number
        try:
            delay = max(0.0, self._due(number) - self.clock.seconds())
            self._timer = self.clock.callLater(delay, self._ring)
        except Exception:  # Nobody else would ever hear of it.
            self._halt()
            self._finish(Failure())

    def _ring(self) -> None:
        self._timer = None
        now = self.clock.seconds()
        if now < self._due(self._next):
            # Adding up floats may come out a little short, and uvloop's timers go by
            # whole milliseconds. A call made early would count for the time before.
            self._wait(self._next)
        else:
            self._call(max(self._next, self._number_at(now)))

    def _due(self, number: int) -> float:
        # Not by adding interval after interval: that would drift.
        return self._zero + number * (self.interval or 0.0)

    def _number_at(self, now: float) -> int:
        """Return the number of the last call that was due by *now*."""
        if not self.interval:
            return self._last
        passed = max(0.0, now - self._zero)
        number = int(min(passed / self.interval, _COUNTABLE))
        while self._due(number) > now:
            number -= 1
        return number + 1 if self._due(number + 1) <= now else number

    def _halt(self) -> None:
        self.running = False
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _finish(self, result: object) -> None:
        """Fire what `start` has returned, unless that was done."""
        ended, self._ended = self._ended, None
        self._busy = False
        self._answer = self._cancelled = self._home = None
        if ended is not None:
            ended.callback(result)

    def _cancel(self, ended: Deferred[Any]) -> object:
        """Stop, and end with CancelledError; the canceller of what `start` returned."""
        self._halt()
        message = ended._cancel_message
        self._cancelled = Failure(cancelledError(message))
        if not self._busy:
            self._finish(self._cancelled)
        elif self._answer is not None:
            self._answer.cancel(message)
        return LATER

    def _require_running(self, verb: str) -> None:
        if not self.running:
            raise RuntimeError(
                f"{self!r} cannot {verb}: it does not run. It was not started, or was "
                "stopped, or its function raised; look at `running` first."
            )

    def __repr__(self) -> str:
        name = getattr(self._function, "__qualname__", repr(self._function))
        if self.running:
            return f"<LoopingCall of {name} every {self.interval:g} s, running>"
        state = "not running" if self._ended is None else "stopping"
        return f"<LoopingCall of {name}, {state}>"


class _Later(Deferred[Any]):
    """What `deferLater` returns: it hears of the end of the loop that it waits in."""

    def __init__(self) -> None:
        super().__init__(lambda _: self.timer.cancel())
        self.timer: Cancellable
        self.steps = 0  # Of our own; what is there beyond them is somebody who waits.

    def loopClosed(self, _: PendingEvents) -> None:
        """Fail, for no timer goes off any more. Loop thread."""
        if self._result is not UNFIRED:
            return
        self.timer.cancel()
        steps = len(self._callbacks or ())
        awaited = self._waiters is not None or steps > self.steps
        self.errback(
            LoopClosed(
                "The event loop ended before the time of this delayed call had come. "
                "Await it before the main coroutine returns, or cancel it there."
            )
        )
        if not awaited:
            self._mark_handled()  # A timer that nobody waits for just ends.


def deferLater(
    clock: TimeSource,
    delay: float,
    function: Callable[..., object] | None = None,
    *args: Any,
    **kwargs: Any,
) -> Deferred[Any]:
    """Call *function* later, and return what comes of it as a Deferred.

    Args:
        clock: a reactor, or anything else with `callLater`. It comes first.
        delay: seconds >= 0.
        function: anything quick, or something that returns a Deferred or a coroutine;
            None to let only time pass.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        A Deferred of what it returns or raises; of None without a function. Cancelled
        before the time has come, the call is never made. When the loop ends before
        that, it fails with LoopClosed.

    Raises:
        TypeError: one of the arguments is of another kind.
        ValueError: *delay* is negative or not finite.
        WrongThread: the clock is a reactor, and no loop runs here.

    Source: `twisted.internet.task.deferLater`.
    """
    requireClock(
        clock, "The clock comes first: deferLater(reactor, seconds, function)."
    )
    if function is not None:
        requireCallable(function, "deferLater")
    deferred = _Later()
    deferred.timer = clock.callLater(delay, deferred.callback, None)
    home = hereOrNone()
    if home is not None:
        home.notify(deferred)
    if function is not None:
        deferred.addCallback(lambda _: maybeDeferred(function, *args, **kwargs))
        deferred.steps = 1
    return deferred
