"""A Deferred that hands over what must not get lost: a lock's token, a queue's item.

Between its firing and the next step of whoever awaits it there is a moment in which
the awaiting task may be cancelled. An ordinary result would be dropped then; this one
goes back to where it came from. Loop thread only.

Source: `asyncio.Lock`, which passes on a wake-up that met a cancelled waiter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from threadpool._chain import cancelledError
from threadpool._deferred import Deferred
from threadpool._future import UNFIRED
from threadpool.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")


class Receipt(Deferred[T]):
    """A Deferred that takes note when somebody receives its result by looking at it."""

    __slots__ = ()

    def result(self) -> T:
        """Return the result, which thereby is received.

        Raises:
            asyncio.InvalidStateError: there is no result yet.
            BaseException: the failure's exception, where the result is a failure.
        """
        result = super().result()
        self._receive()
        return result

    def __await__(self) -> Generator[Any, Any, T]:
        result = yield from super().__await__()
        self._receive()
        return result

    __iter__ = __await__

    def _receive(self) -> None:
        """Take note."""
        raise NotImplementedError


class HandOver(Receipt[T]):
    """A Deferred whose `cancel` takes back what it has, until somebody received it.

    Received means: awaited to the end, read with `result()`, or seen by a callback.

    Args:
        forget: called with this Deferred when it is cancelled while it still waits.
    """

    def __init__(self, forget: Callable[[HandOver[T]], None]) -> None:
        super().__init__(forget)
        self._handed: Any = UNFIRED
        self._take_back: Callable[[Any], object] | None = None

    def hand(self, value: T, take_back: Callable[[T], object]) -> None:
        """Fire with *value*.

        Args:
            value: what goes over to whoever waits.
            take_back: called with *value* if this is cancelled before anybody
                received it.
        """
        if self._callbacks is None:
            self._handed, self._take_back = value, take_back
        self.callback(value)

    def cancel(self, msg: object = None) -> bool:
        """Leave the line; or give back what nobody has received yet.

        Args:
            msg: the argument of the CancelledError.

        Returns:
            True when this Deferred fails with CancelledError now, False when what it
            was waiting for has been received.
        """
        if super().cancel(msg):
            return True
        take_back, self._take_back = self._take_back, None
        # A callback that was added since, or a chain that waited for this one, has it.
        if take_back is None or self._callbacks is not None:
            return False
        value, self._handed = self._handed, UNFIRED
        if self._result is not value:
            return False
        # Before anybody hears of the value: a task that is about to be stepped with
        # it must find itself cancelled.
        self._cancel_message = msg
        self._result = Failure(cancelledError(msg))
        take_back(value)
        return True

    def _receive(self) -> None:
        self._take_back, self._handed = None, UNFIRED
