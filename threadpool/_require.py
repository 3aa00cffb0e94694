"""What an argument must be, told at the call that gave it. Any thread.

A thing that cannot be called, or a time that is no number, would otherwise show itself
later: in another thread, in a timer, in a log that nobody reads, or never.
"""

from __future__ import annotations

import inspect
import math
import operator
from typing import Any

__all__ = [
    "requireCallable",
    "requireClock",
    "requireCount",
    "requireDelay",
    "requirePlain",
]


def requireCallable(function: object, verb: str) -> None:
    """Refuse what cannot be called.

    Args:
        function: what was given; a coroutine among it is closed.
        verb: whom it was given to.

    Raises:
        TypeError: it cannot be called.
    """
    if callable(function):
        return
    if inspect.iscoroutine(function):
        function.close()  # Else Python warns, beside the error, that nobody awaited it.
        raise TypeError(
            f"{verb} was given {function!r}, which is a coroutine and nothing to call. "
            "Pass the async function itself, and then its arguments."
        )
    raise TypeError(
        f"{verb} was given {function!r}, which cannot be called. Pass a function and "
        "then its arguments, not what calling it returned."
    )


def requirePlain(function: object, verb: str) -> None:
    """Refuse what no thread can run: what cannot be called, and coroutine functions.

    Args:
        function: what was given.
        verb: whom it was given to.

    Raises:
        TypeError: it is one of these.
    """
    requireCallable(function, verb)
    if inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{verb} was given the coroutine function {function!r}: a thread of the "
            "pool has no event loop that could run it. Run it on the loop, with "
            "ensureDeferred(function()), or pass a plain function."
        )


def requireDelay(seconds: float, what: str = "delay", *, signed: bool = False) -> None:
    """Refuse a time that no clock can keep.

    Args:
        seconds: what was asked for.
        what: what it is called there.
        signed: it may be negative.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative or not finite.
    """
    try:
        size = -seconds if signed and seconds < 0 else seconds
        fine = 0 <= size < math.inf
    except TypeError:
        raise _no_number(seconds, what, "a number of seconds, 0 or more") from None
    if not fine:
        raise ValueError(
            f"The {what} is {seconds} seconds. Time goes one way: give a finite number "
            "that is 0 or more."
        )


def requireCount(count: object, what: str) -> None:
    """Refuse what does not count whole things. How many is the caller's to judge.

    Args:
        count: what was given.
        what: what it is called there.

    Raises:
        TypeError: it is no whole number.
    """
    try:
        operator.index(count)  # type: ignore[arg-type]  # it is the question
    except TypeError:
        raise _no_number(count, what, "a whole number") from None


def requireClock(clock: Any, how: str) -> None:
    """Refuse what cannot call later.

    Args:
        clock: what was given.
        how: a sentence on how the call is to look.

    Raises:
        TypeError: it has no `callLater`.
    """
    if not callable(getattr(clock, "callLater", None)):
        raise TypeError(
            f"The clock is {clock!r}, which has no callLater and so cannot measure "
            f"time. Pass threadpool.reactor.reactor, or a testing.Clock. {how}"
        )


def _no_number(value: object, what: str, wanted: str) -> TypeError:
    return TypeError(
        f"The {what} is {value!r}, of type {type(value).__name__}. Pass {wanted}."
    )
