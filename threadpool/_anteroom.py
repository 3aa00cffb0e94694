"""The anteroom: what was asked of a reactor before there was a loop to ask.

Guarded by the reactor's lock.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.events import Event, PendingEvents
    from threadpool.loops import Handle

__all__ = ["Anteroom"]


class _EarlyTimer:
    """A call at a time of a loop that is not there yet."""

    def __init__(self, due: float, function: Callable[[], object]) -> None:
        self.due = due
        self.function = function
        self.cancelled = False
        self.handle: Handle | None = None  # Once it has gone to the loop.

    def cancel(self) -> None:
        self.cancelled = True
        if self.handle is not None:
            self.handle.cancel()


class Anteroom:
    """Events and timers that wait for a loop; a `Timeline` for delayed calls."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._timers: list[_EarlyTimer] = []
        self._home: PendingEvents | None = None  # Where those went who were here last.

    def put(self, event: Event) -> None:
        """Keep *event* for the loop that comes."""
        self._events.append(event)

    def seconds(self) -> float:
        """Return the time, in seconds."""
        return time.monotonic() if self._home is None else self._home.seconds()

    def later(self, seconds: float, function: Callable[[], object]) -> Handle:
        """Call *function* on the loop, *seconds* from now or when it has started."""
        home = self._home
        if home is not None:
            return home.later(seconds, function)
        timer = _EarlyTimer(time.monotonic() + seconds, function)
        self._timers.append(timer)
        return timer

    def admit(self, home: PendingEvents) -> None:
        """Send everybody on to *home*, on its thread."""
        self._home = home
        while self._events:
            home.put(self._events.popleft())
        timers, self._timers = self._timers, []
        now = time.monotonic()
        for timer in timers:
            if not timer.cancelled:
                timer.handle = home.later(max(0.0, timer.due - now), timer.function)

    def successor(self) -> Anteroom:
        """Make a new one, with the events that wait; the timers are the old loop's."""
        fresh = Anteroom()
        fresh._events = self._events
        return fresh

    def __bool__(self) -> bool:
        return bool(self._events or self._timers)
