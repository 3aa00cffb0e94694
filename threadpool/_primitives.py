"""A lock, a semaphore and a queue whose waiting is a Deferred.

They belong to one loop and exclude nobody but each other's users there; against other
threads use `threading`. All serve first come, first served. Loop thread only.

Source: `DeferredLock`, `DeferredSemaphore` and `DeferredQueue` of Twisted. Unlike
those, nothing is lost when a task is cancelled after its turn had come and before it
heard of it, and a line of any length is served without nesting.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import itertools
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, overload

from threadpool._coroutine import fromCoroutine
from threadpool._deferred import Deferred
from threadpool._handover import HandOver
from threadpool._require import requireCount

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

__all__ = [
    "DeferredLock",
    "DeferredQueue",
    "DeferredSemaphore",
    "QueueOverflow",
    "QueueUnderflow",
]

P = ParamSpec("P")
T = TypeVar("T")


class QueueOverflow(RuntimeError):
    """A DeferredQueue has as many items as it may hold, and nobody waits for one."""


class QueueUnderflow(RuntimeError):
    """A DeferredQueue has no item, and as many waiters as it may have."""


class _Line(Generic[T]):
    """Those who wait for something, the first of them first."""

    def __init__(self) -> None:
        # Ordered, and any of them can leave at the cost of one look-up.
        self._waiters: OrderedDict[HandOver[T], None] = OrderedDict()
        self._serving = False

    @property
    def waiting(self) -> list[Deferred[T]]:
        """Those who wait, the first of them first; a copy."""
        return list(self._waiters)

    def _join(self) -> HandOver[T]:
        waiter: HandOver[T] = HandOver(self._forget)
        self._waiters[waiter] = None
        self._serve()
        return waiter

    def _forget(self, waiter: HandOver[T]) -> None:
        self._waiters.pop(waiter, None)

    def _serve(self) -> None:
        """Hand over what there is to those who wait.

        A loop and not a recursion: what is given back while one of them is being
        served goes to the next one when we are back here.
        """
        if self._serving:
            return
        self._serving = True
        try:
            while self._waiters and self._stocked():
                waiter, _ = self._waiters.popitem(last=False)
                self._give(waiter)
        finally:
            self._serving = False
            if self._waiters and self._stocked():  # Ctrl-C ended a callback, not these.
                with contextlib.suppress(RuntimeError):  # No loop: the next call does.
                    asyncio.get_running_loop().call_soon(self._serve)

    def _stocked(self) -> bool:
        raise NotImplementedError

    def _give(self, waiter: HandOver[T]) -> None:
        raise NotImplementedError


class _Tokens(_Line[Any]):
    """So many tokens, lent to whoever asks, in the order of asking.

    Args:
        limit: how many there are.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._free = limit

    def acquire(self) -> Deferred[Self]:
        """Ask for a token; `release` gives it back.

        Returns:
            A Deferred that fires with this object when it is the caller's turn.
            Cancelled before anybody has received that, it leaves the line or gives
            the token to the next one.
        """
        if self._waiters or not self._free:
            return self._join()
        waiter: HandOver[Self] = HandOver(self._forget)
        self._give(waiter)
        return waiter

    def release(self) -> None:
        """Give a token back; the one that has waited longest gets it.

        Raises:
            RuntimeError: all tokens are here already.
        """
        if self._free == self._limit:
            raise RuntimeError(
                f"release() was called on {self!r}, of which nothing is lent: the "
                "holder gave it back before, or never had it. Release once for each "
                "acquire that has fired; `async with` does that by itself."
            )
        self._free += 1
        self._serve()

    @overload
    def run(
        self,
        function: Callable[P, Awaitable[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Deferred[T]: ...
    @overload
    def run(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]: ...
    def run(
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Deferred[Any]:
        """Call *function* when it is its turn, and release when it is done.

        Args:
            function: anything to call. A Deferred, coroutine or future that it
                returns is waited for. It sees a copy of the caller's context
                variables.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Returns:
            A Deferred of its result. Cancelled while it waits, *function* is never
            called; later, what *function* waits for is cancelled.
        """
        return fromCoroutine(self._run(function, args, kwargs))

    async def _run(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        async with self:
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

    async def __aenter__(self) -> Self:
        return await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.release()

    def _stocked(self) -> bool:
        return bool(self._free)

    def _give(self, waiter: HandOver[Any]) -> None:
        self._free -= 1
        waiter.hand(self, _give_back)


def _give_back(tokens: _Tokens) -> None:
    tokens.release()


class DeferredLock(_Tokens):
    """One holder at a time. `async with lock:` acquires and releases.

    Not re-entrant: a holder that acquires it again waits for itself.

    Source: `DeferredLock` of Twisted.
    """

    def __init__(self) -> None:
        super().__init__(1)

    @property
    def locked(self) -> bool:
        """Whether whoever acquires it now would have to wait."""
        return not self._free or bool(self._waiters)

    def __repr__(self) -> str:
        state = "locked" if self.locked else "unlocked"
        return f"<DeferredLock {state}, {len(self._waiters)} waiting>"


class DeferredSemaphore(_Tokens):
    """So many holders at a time. `async with semaphore:` acquires and releases.

    Args:
        tokens: how many, at least 1.

    Raises:
        TypeError: *tokens* is no whole number.
        ValueError: *tokens* is less than 1.

    Source: `DeferredSemaphore` of Twisted.
    """

    def __init__(self, tokens: int) -> None:
        requireCount(tokens, "number of tokens")
        if tokens < 1:
            raise ValueError(
                f"A semaphore of {tokens} tokens would let nobody through, ever. "
                "Choose 1 or more."
            )
        super().__init__(tokens)

    @property
    def limit(self) -> int:
        """How many tokens there are."""
        return self._limit

    @property
    def tokens(self) -> int:
        """How many tokens could be had without waiting."""
        return max(0, self._free - len(self._waiters))

    def __repr__(self) -> str:
        return (
            f"<DeferredSemaphore {self.tokens} of {self._limit} tokens free, "
            f"{len(self._waiters)} waiting>"
        )


class DeferredQueue(_Line[T]):
    """Items that are put in now and got out now or later, in the same order.

    Args:
        size: items that may lie here while nobody waits; None for no bound.
        backlog: getters that may wait while there is no item; None for no bound.

    Raises:
        TypeError: one of the bounds is no whole number.
        ValueError: one of the bounds is negative.

    Source: `DeferredQueue` of Twisted.
    """

    def __init__(self, size: int | None = None, backlog: int | None = None) -> None:
        super().__init__()
        for what, bound in (("size", size), ("backlog", backlog)):
            if bound is not None:
                requireCount(bound, what)
            if bound is not None and bound < 0:
                raise ValueError(
                    f"The {what} of a queue is {bound}, which no number of them can "
                    "keep to. Choose 0 or more, or None for no bound."
                )
        self.size = size
        self.backlog = backlog
        self._numbers = itertools.count()
        # Each item with its number, by which one that comes back finds its place.
        self._items: deque[tuple[int, T]] = deque()

    @property
    def pending(self) -> list[T]:
        """The items that lie here, the next one first; a copy."""
        return [item for _, item in self._items]

    def put(self, item: T) -> None:
        """Put *item* in; the one that has waited longest gets it at once.

        Args:
            item: anything but a Deferred. A Failure fails the `get` that it meets.

        Raises:
            QueueOverflow: nobody waits, and there are `size` items already.
            TypeError: *item* is a Deferred.
        """
        if isinstance(item, Deferred):
            raise TypeError(
                f"put() was given {item!r}, and a Deferred cannot be the result of "
                "another one. Put its result: deferred.addCallback(queue.put)."
            )
        # While one is being served there may be items and waiters at the same time.
        if self.size is not None and len(self._items) - len(self._waiters) >= self.size:
            raise QueueOverflow(
                f"{self!r} is full, so the item was not taken. Let consumers get "
                "faster than producers put, or make the queue larger."
            )
        self._items.append((next(self._numbers), item))
        self._serve()

    def get(self) -> Deferred[T]:
        """Take the next item out.

        Returns:
            A Deferred of the item, which fires at once when there is one. Cancelled
            before anybody has received the item, it leaves the line or puts the item
            back where it was, even if the queue is full meanwhile.

        Raises:
            QueueUnderflow: there is no item, and `backlog` getters wait already.
        """
        missing = len(self._waiters) - len(self._items)
        if self.backlog is not None and missing >= self.backlog:
            raise QueueUnderflow(
                f"{self!r} has no item for one more getter, and {self.backlog} may "
                "wait. Get less often, or let more of them wait."
            )
        if self._waiters or not self._items:
            return self._join()
        waiter: HandOver[T] = HandOver(self._forget)
        self._give(waiter)
        return waiter

    def _stocked(self) -> bool:
        return bool(self._items)

    def _give(self, waiter: HandOver[T]) -> None:
        number, item = self._items.popleft()
        waiter.hand(item, functools.partial(self._put_back, number))

    def _put_back(self, number: int, item: T) -> None:
        place = 0
        while place < len(self._items) and self._items[place][0] < number:
            place += 1
        self._items.insert(place, (number, item))
        self._serve()

    def __repr__(self) -> str:
        return (
            f"<DeferredQueue {len(self._items)} pending, {len(self._waiters)} waiting>"
        )
