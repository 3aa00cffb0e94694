"""A call at a known time, that can be moved and called off. Loop thread only.

Source: `IDelayedCall` of Twisted.
"""

from __future__ import annotations

import contextvars
from types import CoroutineType
from typing import TYPE_CHECKING, Protocol

from threadpool._coroutine import fromCoroutine
from threadpool._require import requireDelay
from threadpool.error import AlreadyCalled, AlreadyCancelled

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.loops import Handle

__all__ = ["DelayedCall", "Timeline", "requireDelay"]


class Timeline(Protocol):
    """What a delayed call needs of its surroundings."""

    def seconds(self) -> float:
        """Return the time, in seconds; only differences mean anything."""
        ...

    def later(self, seconds: float, function: Callable[[], object], /) -> Handle:
        """Call *function* when *seconds* have passed."""
        ...


class DelayedCall:
    """A call that will happen at a known time; `Reactor.callLater` makes it.

    Args:
        timeline: whose time it is.
        delay: seconds >= 0 from now.
        function: called without arguments, in a copy of the current context variables.
            A coroutine that it returns is run.
        forget: called with this object once it will not happen any more.
    """

    def __init__(
        self,
        timeline: Timeline,
        delay: float,
        function: Callable[[], object],
        forget: Callable[[DelayedCall], object] | None = None,
    ) -> None:
        self._timeline = timeline
        self._function: Callable[[], object] | None = function
        self._context = contextvars.copy_context()
        self._forget = forget
        self._cancelled = False
        self._time = timeline.seconds() + delay
        self._handle = timeline.later(delay, self._run)

    def getTime(self) -> float:
        """Return when it happens, in seconds of `Reactor.seconds`."""
        return self._time

    def active(self) -> bool:
        """Say whether it is still going to happen."""
        return self._function is not None

    def cancel(self) -> None:
        """Call it off.

        Raises:
            AlreadyCalled: it has happened.
            AlreadyCancelled: it was called off before.
        """
        self._require_active()
        self._cancelled = True
        self._handle.cancel()
        self._end()

    def reset(self, seconds: float) -> None:
        """Let it happen *seconds* from now instead.

        Args:
            seconds: >= 0.

        Raises:
            AlreadyCalled: it has happened.
            AlreadyCancelled: it was called off before.
            TypeError: *seconds* is no number.
            ValueError: *seconds* is negative or not finite.
        """
        self._require_active()
        requireDelay(seconds)
        self._move(self._timeline.seconds() + seconds)

    def delay(self, seconds: float) -> None:
        """Let it happen *seconds* later than it would have.

        Args:
            seconds: less than 0 for earlier.

        Raises:
            AlreadyCalled: it has happened.
            AlreadyCancelled: it was called off before.
            TypeError: *seconds* is no number.
            ValueError: *seconds* is not finite.
        """
        self._require_active()
        requireDelay(seconds, signed=True)
        self._move(self._time + seconds)

    def _move(self, time: float) -> None:
        self._handle.cancel()
        self._time = time
        wait = max(0.0, time - self._timeline.seconds())
        self._handle = self._timeline.later(wait, self._run)

    def _run(self) -> None:
        function = self._end()
        if function is not None:
            result = self._context.run(function)
            if result.__class__ is CoroutineType:
                self._context.run(fromCoroutine, result)

    def _end(self) -> Callable[[], object] | None:
        function, self._function = self._function, None
        forget, self._forget = self._forget, None
        if forget is not None:
            forget(self)
        return function

    def _require_active(self) -> None:
        if self._cancelled:
            raise AlreadyCancelled(
                "This delayed call was called off before. Check active() first."
            )
        if self._function is None:
            raise AlreadyCalled(
                "This delayed call has happened. Check active() first, or make a new "
                "one with callLater."
            )

    def __repr__(self) -> str:
        if self._cancelled:
            return "<DelayedCall cancelled>"
        if self._function is None:
            return "<DelayedCall called>"
        wait = self._time - self._timeline.seconds()
        return f"<DelayedCall of {self._function!r} in {wait:.3f} s>"
