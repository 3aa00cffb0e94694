"""Many Deferreds as one: all of them, the first of them, or the first that succeeds.

Where a Deferred is asked for, a coroutine or a future will do, too: coroutines are
started here, in their order. Loop thread only.

Source: `DeferredList`, `gatherResults` and `race` of Twisted. Unlike theirs, a Deferred
made here that is cancelled fails with CancelledError, so that `asyncio.timeout` and
task groups know their own cancellation when they see it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from threadpool._chain import LATER, cancelledError
from threadpool._coroutine import fromCoroutine
from threadpool._deferred import Deferred
from threadpool._future import UNFIRED
from threadpool._handover import Receipt
from threadpool._together import FailureGroup, FirstError
from threadpool.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from threadpool._chain import _Guard

__all__ = ["DeferredList", "gatherResults", "race"]

_log = logging.getLogger("threadpool.combine")

T = TypeVar("T")


class _Members(Deferred[T]):
    """A Deferred whose result comes from others.

    Args:
        given: Deferreds, coroutines and futures.
    """

    def __init__(self, given: Iterable[Awaitable[Any]]) -> None:
        super().__init__()
        self._stopping = False
        self._stopped = False  # One of them took our cancel for its end.
        self._members, self._own = _deferreds_of(given)

    def _follow(self, *, consume_errors: bool) -> None:
        """Have `_note` see the result of each, in any order."""
        members, own = self._members, self._own
        for index, member in enumerate(members):
            member.addBoth(self._see, index)
        # Not before all have seen it: a Deferred may be a member twice.
        for member in members:
            if consume_errors or member in own:
                member.addErrback(_consume)

    def _see(self, result: Any, index: int) -> Any:
        if isinstance(result, Failure):
            if self._stopping:
                self._stopped |= isinstance(result.value, asyncio.CancelledError)
            if self._members:
                # Already now, since it may be handed on in a moment.
                self._members[index]._arm(result)
        self._note(result, index)
        return result

    def _note(self, result: Any, index: int) -> None:
        """Take *result*, which member *index* got."""
        raise NotImplementedError

    def _answer(self, result: Any) -> None:
        """Fire, and let go of the members."""
        self._members, self._own = [], set()
        # A value although we were cancelled: it came too late to stop anything, and
        # the task that awaits this one is cancelled at its next await.
        self._late_cancel = self._stopping and not isinstance(result, Failure)
        self.callback(result)

    def _stopped_failure(self) -> Failure:
        return Failure(cancelledError(self._cancel_message))

    def _cancel_members(self) -> None:
        for member in list(self._members):
            member.cancel(self._cancel_message)

    def _stop(self) -> object:
        self._stopping = True
        self._cancel_members()
        return LATER


class DeferredList(_Members[T], Receipt[T]):
    """A Deferred of the results of several, successes and failures alike.

    It fires when all have fired, with a list of `(True, value)` and `(False, failure)`
    in the order of the Deferreds; of none, with an empty list, at once. Each of them
    keeps its own result, for its other callbacks; a failure that was handed on, in the
    list or in a FirstError, is not reported as unhandled once more.

    Cancelling it cancels all that have not fired. When they have answered it fails
    with CancelledError; if it was too late to stop any, it fires as usual.

    Args:
        deferreds: Deferreds, coroutines and futures.
        fire_on_one_callback: fire with `(value, index)` as soon as one succeeds. If
            none does, with the list.
        fire_on_one_errback: fail with FirstError as soon as one fails.
        consume_errors: leave None in the place of each failure, so that those that
            come too late are not reported either. Always done for coroutines and
            futures, whose Deferred nobody else has.

    Raises:
        TypeError: one of the *deferreds* cannot be awaited.

    Source: `DeferredList` of Twisted.
    """

    @overload
    def __init__(
        self: DeferredList[list[tuple[bool, Any]]],
        deferreds: Iterable[Awaitable[Any]],
        fire_on_one_callback: Literal[False] = False,
        fire_on_one_errback: bool = False,
        consume_errors: bool = False,
    ) -> None: ...
    @overload
    def __init__(
        self: DeferredList[Any],
        deferreds: Iterable[Awaitable[Any]],
        fire_on_one_callback: bool = False,
        fire_on_one_errback: bool = False,
        consume_errors: bool = False,
    ) -> None: ...
    def __init__(
        self,
        deferreds: Iterable[Awaitable[Any]],
        fire_on_one_callback: bool = False,
        fire_on_one_errback: bool = False,
        consume_errors: bool = False,
    ) -> None:
        super().__init__(deferreds)
        self._on_callback = fire_on_one_callback
        self._on_errback = fire_on_one_errback
        self._missing = len(self._members)
        self._outcomes: list[tuple[bool, Any]] = [(False, None)] * self._missing
        # The members' failures in our result, kept until somebody has received that.
        self._unseen: list[_Guard] = []
        self._first: tuple[Failure, int] | None = None
        if self._missing:
            self._follow(consume_errors=consume_errors)
        else:
            self.callback(cast("T", []))

    def _note(self, result: Any, index: int) -> None:
        failed = isinstance(result, Failure)
        self._missing -= 1
        if self._result is not UNFIRED:
            return
        self._outcomes[index] = (not failed, result)
        if failed and self._first is None:
            self._first = (result, index)
        if self._on_callback and not failed:
            self._answer((result, index))
        elif not self._missing or (
            self._on_errback and self._first is not None and not self._stopping
        ):
            self._answer(self._verdict())

    def _verdict(self) -> Any:
        """Return what to fire with, now that all have answered, or one was enough."""
        if self._stopped:
            return self._stopped_failure()
        if self._on_errback and self._first is not None:
            self._hand_on(*self._first)
            self._receive()  # Else this very Deferred reports it.
            return Failure(FirstError(*self._first))
        for index, (succeeded, result) in enumerate(self._outcomes):
            if not succeeded:
                self._hand_on(result, index)
        return self._outcomes

    def _hand_on(self, failure: Failure, index: int) -> None:
        guard = self._members[index]._guard
        if guard is not None and guard.failure is failure:
            self._unseen.append(guard)

    def _receive(self) -> None:
        """Somebody has our result, and with it the failures that were handed on."""
        for guard in self._unseen:
            guard.seen = True
        self._unseen.clear()

    def _run(self, *, directly: bool = False) -> None:
        self._receive()  # There are callbacks.
        super()._run(directly=directly)

    def _mark_handled(self) -> None:
        self._receive()  # Another chain takes it over.
        super()._mark_handled()


def gatherResults(
    deferreds: Iterable[Awaitable[T]], consume_errors: bool = False
) -> Deferred[list[T]]:
    """Wait for all *deferreds* to succeed, or for one to fail.

    Args:
        deferreds: Deferreds, coroutines and futures.
        consume_errors: as for `DeferredList`.

    Returns:
        A Deferred of the list of their values, in their order. It fails with
        FirstError as soon as one fails; the others go on. Cancelling it cancels all
        of them; when all have answered it fails with CancelledError.

    Raises:
        TypeError: one of the *deferreds* cannot be awaited.

    Source: `gatherResults` of Twisted.
    """
    everything = DeferredList(
        deferreds, fire_on_one_errback=True, consume_errors=consume_errors
    )
    return everything.addCallback(_values)


def _values(outcomes: list[tuple[bool, Any]]) -> list[Any]:
    return [value for _, value in outcomes]


class _Race(_Members[T]):
    """See `race`."""

    def __init__(self, deferreds: Iterable[Awaitable[Any]]) -> None:
        super().__init__(deferreds)
        if not self._members:
            raise ValueError(
                "A race of nobody has no winner, and would wait for one for ever. "
                "Pass at least one Deferred."
            )
        self._won = False
        self._failures: dict[int, Failure] = {}
        self._count = len(self._members)
        self._follow(consume_errors=True)

    def _note(self, result: Any, index: int) -> None:
        if self._won:
            if isinstance(result, Failure):
                _log.debug("Deferred %d, which had lost a race: %s", index, result)
        elif not isinstance(result, Failure):
            self._won = True  # First: whom we stop now may answer at once.
            self._cancel_members()
            self._answer((index, result))
        else:
            self._failures[index] = result
            if len(self._failures) < self._count:
                return
            if self._stopped:
                self._answer(self._stopped_failure())
            else:
                every = [self._failures[place] for place in range(self._count)]
                self._answer(Failure(FailureGroup(every)))


def race(deferreds: Iterable[Awaitable[T]]) -> Deferred[tuple[int, T]]:
    """Take the first of the *deferreds* that succeeds, and cancel the others.

    Args:
        deferreds: Deferreds, coroutines and futures, at least one. Those that fail
            are left with None, those that succeed too late with their value.

    Returns:
        A Deferred of `(index, value)`. It fails with FailureGroup when none succeeds.
        Cancelling it cancels all of them; when all have answered it fails with
        CancelledError.

    Raises:
        TypeError: one of the *deferreds* cannot be awaited.
        ValueError: there is none.

    Source: `race` of Twisted.
    """
    return _Race(deferreds)


def _consume(_: Failure) -> None:
    """Handle a failure that was reported as part of the whole."""


def _deferreds_of(
    given: Iterable[Awaitable[Any]],
) -> tuple[list[Deferred[Any]], set[Deferred[Any]]]:
    """Make Deferreds of what was *given*.

    Returns:
        All of them, and the set of those that were made here.
    """
    if inspect.isawaitable(given):
        raise TypeError(
            f"{given!r} was given alone, where many are waited for. Put it in a list."
        )
    given = list(given)
    for index, one in enumerate(given):
        if not inspect.isawaitable(one):
            _close_coroutines(given)
            raise TypeError(
                f"{one!r} at place {index} cannot be waited for. Pass Deferreds, "
                "coroutines or futures; `succeed(value)` makes a Deferred of a value "
                "that is there."
            )
    own: dict[int, Deferred[Any]] = {}
    deferreds = []
    for one in given:
        if isinstance(one, Deferred):
            deferreds.append(one)
            continue
        if id(one) not in own:
            own[id(one)] = fromCoroutine(
                one if inspect.iscoroutine(one) else _wait_for(one)
            )
        deferreds.append(own[id(one)])
    return deferreds, set(own.values())


async def _wait_for(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _close_coroutines(given: Iterable[object]) -> None:
    # Else Python warns, beside the error, that they were never awaited.
    for one in given:
        if inspect.iscoroutine(one):
            one.close()
