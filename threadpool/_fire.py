"""The event of a Deferred that gets its result from another thread.

Made on any thread; it happens on the loop's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadpool._deferred import Deferred

__all__ = ["Fire"]


class Fire:
    """The event of a Deferred that gets its result from another thread.

    Args:
        deferred: what to fire; nothing happens when it was cancelled meanwhile.
        result: a value or a Failure.
    """

    __slots__ = ("deferred", "result")

    def __init__(self, deferred: Deferred[Any], result: Any) -> None:
        self.deferred = deferred
        self.result = result

    def happen(self) -> None:
        """Fire it."""
        if not self.deferred.called:
            # Within this turn: a cancel in the one between would hide the answer.
            self.deferred._fire(self.result, directly=True)
