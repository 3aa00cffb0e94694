"""A Deferred that is cancelled when it takes too long. Loop thread only.

Source: `Deferred.addTimeout` of Twisted.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from threadpool._require import requireClock
from threadpool.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool._deferred import Deferred

__all__ = ["Clock", "limit"]


class _Call(Protocol):
    def active(self) -> bool: ...
    def cancel(self) -> object: ...


class Clock(Protocol):
    """Whoever can call a function later: the reactor, or a clock for tests."""

    def callLater(self, delay: float, function: Callable[[], object], /) -> _Call:
        """Call *function* in *delay* seconds."""
        ...


def limit(
    deferred: Deferred[Any],
    seconds: float,
    clock: Clock | None,
    on_timeout_cancel: Callable[[Any, float], Any] | None,
) -> None:
    """See `Deferred.addTimeout`."""
    if clock is None:
        from threadpool.reactor import reactor  # That room is built upon this floor.

        clock = reactor
    else:
        requireClock(clock, "Left out, it is the reactor: addTimeout(seconds).")
    timed_out = False

    def end() -> None:
        nonlocal timed_out
        timed_out = True
        deferred.cancel()

    call = clock.callLater(seconds, end)

    def judge(result: Any) -> Any:
        if call.active():
            call.cancel()
        if not timed_out:
            return result
        if on_timeout_cancel is not None:
            return on_timeout_cancel(result, seconds)
        if isinstance(result, Failure) and result.check(asyncio.CancelledError):
            return Failure(
                TimeoutError(
                    f"The Deferred had no result after {seconds} seconds and was "
                    "cancelled. Allow it more time, or find what it waits for."
                )
            )
        return result  # It was done all the same, or failed in a way of its own.

    deferred.addBoth(judge)
