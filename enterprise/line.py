"""The line between a lease and its worker: calls wait in it, and words that end it.

The loop's thread puts calls in, in bursts; the worker is woken for the first of them
only. Words may come from any thread, and from the garbage collector.

Source: the pending-event queue, which goes the other way in the same manner.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enterprise.calls import LeaseCall

__all__ = ["Line"]


class Line:
    """What a lease's worker is told: first the calls, in order, then the words."""

    __slots__ = ("_calls", "_door", "_resting", "_words")

    def __init__(self) -> None:
        self._door = threading.Lock()
        # Appended to with the door held; emptied by the worker without.
        self._calls: deque[LeaseCall[Any]] = deque()
        self._resting = False  # The worker waits for a word. guarded by: _door
        # Its `put` may be called by the garbage collector, in the middle of anything.
        self._words: SimpleQueue[object] = SimpleQueue()

    def put(self, call: LeaseCall[Any]) -> None:
        """Have *call* done after those before it. Loop thread.

        Args:
            call: one of the lease's.
        """
        with self._door:
            self._calls.append(call)
            wake, self._resting = self._resting, False
        if wake:
            self._words.put(None)

    def say(self, word: object) -> None:
        """Tell the worker *word* when no call waits. Any thread, any time.

        Args:
            word: None only makes it look up.
        """
        self._words.put(word)

    def next(self) -> LeaseCall[Any] | None:
        """Return the call that waits, None where there is none. Worker's thread."""
        try:
            return self._calls.popleft()
        except IndexError:
            return None

    def rest(self) -> object:
        """Wait for a word; None where there may be a call as well. Worker's thread."""
        with self._door:
            if self._calls:
                return None
            self._resting = True
        return self._words.get()

    def __repr__(self) -> str:
        return f"<Line of {len(self._calls)} calls>"
