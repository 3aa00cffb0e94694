"""The chain inside a Deferred: its state, and the engine that runs its callbacks.

Loop thread only. A chain is at rest when it has a result and nothing left to do; then
whoever awaits it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from threadpool._frames import usersFrames
from threadpool._future import UNFIRED, FutureFace
from threadpool._history import historyOf
from threadpool._require import requireCallable
from threadpool.error import AlreadyCalledError
from threadpool.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FIRES", "LATER", "Chain", "cancelledError", "flushUnhandled"]

T = TypeVar("T")

_log = logging.getLogger("threadpool.defer")


class _Later:
    """What a canceller returns when the answer comes later."""

    def __repr__(self) -> str:
        return "LATER"


LATER: Final = _Later()


FIRES: Final = object()

# What steps return most. Asking twice whether it is something special, a Failure or a
# Deferred, costs three times as much as looking here first.
PLAIN: Final = frozenset({type(None), bool, bytes, dict, float, int, list, str, tuple})


class _Guard:
    """Reports a failure that nobody looked at, when its Deferred is forgotten.

    A separate object, because only a Deferred that failed pays for it; a `__del__`
    on Deferred itself would be paid for by every one.
    """

    __slots__ = ("__weakref__", "described", "failure", "history", "seen")

    def __init__(self, failure: Failure, described: str, history: str) -> None:
        self.failure: Failure | None = failure
        self.described = described
        self.history = history
        self.seen = False  # Somebody looked, and left the failure where it was.

    def __del__(self) -> None:
        _guards.pop(id(self), None)
        self.report()

    def report(self) -> Failure | None:
        """Log the failure, unless somebody has seen it; return it then."""
        failure = None if self.seen else self.failure
        if failure is None:
            return None
        self.seen = True
        tb = usersFrames(failure.tb)
        where = self.history
        if tb is None and not where:
            where = " defer.setDebugging(True) lets this say where it was made."
        _log.error(
            "Unhandled failure in %s: %s. Nobody awaited it and no errback saw it; "
            "add one, or await it.%s",
            self.described,
            str(failure).rstrip("."),
            where,
            exc_info=(failure.type, failure.value, tb),
            extra={"failure": failure},
        )
        return failure


# The failures that nobody has looked at so far. Each step on it is atomic by itself:
# with a lock, a finalizer that fires a Deferred could wait for its own thread.
_guards: Final[dict[int, weakref.ref[_Guard]]] = {}


def flushUnhandled() -> list[Failure]:
    """Log now every failure that no errback and no coroutine has seen yet.

    Without it, each is logged when its Deferred is forgotten, and where a traceback
    refers to the Deferred that is when the garbage collector comes by. For tests, and
    for the end of a program. Any thread, while the loops rest.

    Returns:
        Those failures. None of them is logged again.
    """
    guards = [guard() for guard in _guards.copy().values()]
    reported = [guard.report() for guard in guards if guard is not None]
    return [failure for failure in reported if failure is not None]


def _caught(error: BaseException) -> Failure:
    # Without our own frame: the traceback begins at the callback.
    tb = error.__traceback__
    return Failure(error.with_traceback(tb.tb_next if tb else None))


def cancelledError(msg: object) -> asyncio.CancelledError:
    """Make the CancelledError that `cancel(msg)` asks for."""
    return asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)


class Chain(FutureFace[T]):
    """A result, the callbacks that wait for it, and whoever awaits the last of them.

    Args:
        canceller: see `Deferred`.
    """

    __slots__ = ("__weakref__", "_canceller", "_guard", "_swallow")

    def __init__(self, canceller: Callable[[Any], object] | None = None) -> None:
        self._result: Any = UNFIRED
        self._at_rest = False
        self._late_cancel = False
        # The steps. A function for values alone stands for itself, since most are that;
        # else a pair: (callback, errback); or (None, outer) for a Deferred `outer`
        # whose chain waits for this one; or (FIRES, other) for one that this one fires.
        self._callbacks: list[Any] | None = None
        if canceller is not None and not callable(canceller):
            requireCallable(canceller, "The canceller of a Deferred")
        self._canceller = canceller
        self._inner: Chain[Any] | None = None
        self._paused = 0
        self._running = False
        self._swallow = False
        self._waiters = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cancel_message: object = None
        self._guard: _Guard | None = None
        self._asyncio_future_blocking = False

    def pause(self) -> None:
        """Stop the chain after the callback that runs now, until `unpause`; nests."""
        self._paused += 1
        self._at_rest = False

    def unpause(self) -> None:
        """Take back one `pause`; after the last one the chain goes on.

        Raises:
            RuntimeError: it is not paused.
        """
        if not self._paused:
            raise RuntimeError(
                f"{self!r} is not paused. Call unpause once for each pause."
            )
        self._paused -= 1
        if not self._paused and self._result is not UNFIRED:
            self._run()

    @property
    def called(self) -> bool:
        """Whether it was fired; its chain may still wait for another Deferred."""
        return self._result is not UNFIRED

    @property
    def paused(self) -> int:
        """How many times `pause` was called without `unpause`."""
        return self._paused

    def _fire(self, result: Any, *, directly: bool) -> None:
        if self._result is not UNFIRED:
            if self._swallow:
                self._swallow = False
                return
            raise AlreadyCalledError(
                f"{self!r} was fired a second time, with {result!r}. It keeps its "
                "first result; find who fires it twice. (defer.setDebugging(True) "
                f"shows where it was made and fired first.){historyOf(self)}"
            )
        self._result = result
        self._canceller = None  # It may hold whatever the work held.
        if self._callbacks or self._paused:
            self._run(directly=directly)
        elif result.__class__ in PLAIN:  # As `_settle`, without its question.
            self._at_rest = True
            if self._waiters is not None:
                self._notify(directly=directly)
        else:
            self._settle(directly=directly)

    def _settle(self, *, directly: bool) -> None:
        """The chain has come to rest: tell whoever waits."""
        self._at_rest = True
        result = self._result
        if result.__class__ not in PLAIN and isinstance(result, Failure):
            self._arm(result)
        if self._waiters is not None:
            self._notify(directly=directly)

    def _run(self, *, directly: bool = False) -> None:
        """Run this chain as far as it goes, then those that waited for it.

        A loop and not a recursion, so that chains of any length resolve.
        """
        if self._running:
            return  # A callback added a callback: the run below us will see it.
        current: Chain[Any] = self
        # Those that go on when `current` rests; mostly there are none.
        going: list[Chain[Any]] | None = None
        try:
            while True:
                outer = current._advance()
                if outer is not None:
                    if going is None:
                        going = []
                    going.append(current)
                    current = outer
                    continue
                if not (current._paused or current._inner or current._callbacks):
                    current._settle(directly=directly)
                if not going:
                    return
                current = going.pop()
        except BaseException:
            # Ctrl-C in a callback stops the loop, not these chains: whoever waits
            # for them must hear of it if the loop ever goes on.
            for stopped in (*(going or ()), current):
                if stopped._callbacks or stopped._waiters is not None:
                    with contextlib.suppress(RuntimeError):  # There is no loop here.
                        stopped.get_loop().call_soon(stopped._run)
                elif not stopped._paused:
                    stopped._at_rest = True
            raise

    def _advance(self) -> Chain[Any] | None:
        """Run callbacks until the chain rests, waits, or sets another one going.

        Returns:
            A Deferred that waited for this one and has its result now.
        """
        steps: Any = self._callbacks
        if not steps or self._paused or self._inner is not None:
            return None
        self._running = True
        result = self._result
        failed = result.__class__ not in PLAIN and isinstance(result, Failure)
        # Steps may add steps: a list's iterator looks for its end each time.
        left: Any = iter(steps)
        try:
            for entry in left:
                if entry.__class__ is tuple:
                    step = self._choose(entry, failed)
                    if isinstance(step, Chain):
                        step._take(result)
                        result = None
                        return step
                else:
                    step = None if failed else entry
                if step is None:
                    continue
                try:
                    result = step(result)
                except (KeyboardInterrupt, SystemExit) as error:
                    result = Failure(error)
                    raise
                except BaseException as error:
                    result = _caught(error)
                failed = False
                if result.__class__ not in PLAIN:
                    if isinstance(result, Chain):
                        result = self._wait_for(result)
                        if self._inner is not None:
                            return None
                    failed = isinstance(result, Failure)
                if self._paused:
                    return None
            left = ()
        finally:
            self._running = False
            self._result = result
            # Not a copy of what is left: a long chain may stop at each step.
            del steps[: len(steps) - length_hint(left)]
        return None

    def _choose(self, pair: tuple[Any, Any], failed: bool) -> Any:
        """Say which of the two it is: a function, None, or a Chain to hand over to."""
        callback, errback = pair
        if not isinstance(errback, Chain):
            step = errback if failed else callback
        elif callback is None or errback._result is UNFIRED:
            step = errback
        else:
            step = cast("Any", errback).callback  # It objects.
        if failed and step is not None:
            self._mark_handled()
        return step

    def _wait_for(self, inner: Chain[Any]) -> Any:
        """Take *inner*'s result if it is there; else wait for it."""
        if inner is self:
            return Failure(
                RuntimeError(
                    f"A callback of {self!r} returned this very Deferred, which "
                    "would wait for itself for ever. Return the value instead."
                )
            )
        if inner._at_rest:
            result, inner._result = inner._result, None
            inner._mark_handled()
            return result
        self._inner = inner
        if inner._callbacks is None:
            inner._callbacks = [(None, self)]
        else:
            inner._callbacks.append((None, self))
        return inner

    def _innermost(self) -> Chain[Any] | None:
        """Follow those that wait for each other to the last; None: they form a ring."""
        innermost: Chain[Any] = self  # Not a recursion: chains may be of any length.
        seen: set[Chain[Any]] = set()
        while innermost._inner is not None:
            if innermost in seen:
                return None
            seen.add(innermost)
            innermost = innermost._inner
        return innermost

    def _break_off(self, result: Any) -> None:
        """Wait no longer for the other Deferred; go on with *result*."""
        if self._inner is not None and self._inner._callbacks is not None:
            self._inner._callbacks.remove((None, self))
        self._take(result)
        self._run()

    def _take(self, result: Any) -> None:
        """Receive the result of the Deferred this chain waits for, or is fired by."""
        self._canceller = self._inner = None
        self._result = result

    def _arm(self, failure: Failure) -> None:
        guard = self._guard
        if guard is not None:
            if guard.failure is failure:
                return  # As before: seen or not.
            guard.failure = None
        if not isinstance(failure.value, asyncio.CancelledError):
            described = f"Deferred at {id(self):#x}"
            self._guard = guard = _Guard(failure, described, historyOf(self))
            _guards[id(guard)] = weakref.ref(guard)

    def _mark_handled(self) -> None:
        """The failure goes on to somebody who deals with it."""
        guard = self._guard
        if guard is not None:
            guard.failure = None

    def _mark_seen(self) -> None:
        """Somebody looked at the failure, which stays the result."""
        guard = self._guard
        if guard is not None:
            guard.seen = True
