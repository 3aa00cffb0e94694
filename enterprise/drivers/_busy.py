"""Waiting for a lock that somebody else holds, in pauses that a cancel can end.

A database that waits by itself cannot be told to stop waiting, as SQLite cannot: an
interrupt does not reach its own pauses. So it is told not to wait at all, and what it
refuses is tried again here. All but `ring` on the thread that owns the connection.

Source: SQLite's own busy handler, for the lengths of the pauses.
"""

from __future__ import annotations

import math
import random
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from enterprise.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BusyWaits", "takeTimeout"]

T = TypeVar("T")

# From the first pause to the longest, in seconds, doubling: most locks are held for a
# millisecond or two, and 50 ms are nothing to somebody who waits for a long one.
SHORTEST_SECONDS = 0.001
LONGEST_SECONDS = 0.05

# How long sqlite3 waits where nobody says how long.
BUSY_SECONDS = 5.0


class BusyWaits:
    """Who waits for a lock, and for how long; connections are known by their id().

    Args:
        seconds: how long each waits where nothing else was said.
        harmless: called with an id() and an error; says whether it only means that
            somebody else has the lock, and that nothing was done.
        interrupted: makes the error of a wait that somebody ended.
    """

    def __init__(
        self,
        seconds: float,
        harmless: Callable[[int, BaseException], bool],
        interrupted: Callable[[], Exception],
    ) -> None:
        self.seconds = seconds
        self._harmless = harmless
        self._interrupted = interrupted
        # Each step on a dict is atomic by itself, with and without a GIL.
        self._limits: dict[int, float] = {}  # Seconds of time.monotonic().
        self._bells: dict[int, threading.Event] = {}

    def limit(self, who: int, seconds: float | None) -> None:
        """Say how long *who* may wait from now on, all its waits together.

        Args:
            who: the id() of a connection.
            seconds: the limit; None for the usual one, for each wait by itself.
        """
        if seconds is None:
            self._limits.pop(who, None)
        else:
            self._limits[who] = time.monotonic() + seconds

    def patience(self, who: int) -> float:
        """Return for how many seconds *who* would wait if it had to begin now.

        Args:
            who: the id() of a connection.
        """
        limit = self._limits.get(who)
        return self.seconds if limit is None else limit - time.monotonic()

    def attempt(self, who: int, attempt: Callable[[], T]) -> T:
        """Do what does nothing while somebody else has the lock, until it is done.

        Args:
            who: the id() of a connection.
            attempt: does it, or raises.
        """
        try:
            return attempt()
        except Exception as error:
            if not self.mayWait(who, error):
                raise
        return self.repeat(who, attempt)

    def mayWait(self, who: int, error: BaseException) -> bool:
        """Say whether what failed with *error* shall be tried again.

        Args:
            who: the id() of a connection.
            error: what the first try raised.
        """
        return self._harmless(who, error) and self.patience(who) > 0

    def repeat(self, who: int, attempt: Callable[[], T]) -> T:
        """Do, with pauses, what has failed once.

        Args:
            who: the id() of a connection.
            attempt: does it, or raises; the last error goes on to the caller.
        """
        # Before the first pause and until the last try: who rings in between, during a
        # try, must be heard after it.
        bell = self._bells[who] = threading.Event()
        try:
            until = time.monotonic() + self.patience(who)
            pause = SHORTEST_SECONDS
            while True:
                # Jitter, or those who were refused together come back together.
                span = pause * random.uniform(0.5, 1)  # noqa: S311 - no secret
                left = until - time.monotonic()
                if bell.wait(max(0.0, min(span, left))):
                    raise self._interrupted()
                try:
                    return attempt()
                except Exception as error:
                    if left <= span or not self._harmless(who, error):
                        raise
                pause = min(pause * 2, LONGEST_SECONDS)
        finally:
            self._bells.pop(who, None)

    def ring(self, who: int) -> None:
        """End the wait of *who*; nothing happens where it does not wait. Any thread.

        Args:
            who: the id() of a connection.
        """
        bell = self._bells.get(who)
        if bell is not None:
            bell.set()

    def forget(self, who: int) -> None:
        """Note that the connection is closed, and its id() may become another's.

        Args:
            who: the id() of a connection.
        """
        self._limits.pop(who, None)

    def __repr__(self) -> str:
        return f"<BusyWaits of {self.seconds} s, {len(self._bells)} waiting>"


def takeTimeout(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], float]:
    """Take sqlite3's own `timeout` out of its arguments: SQLite is not to wait.

    Args:
        args: for `sqlite3.connect`.
        kwargs: for `sqlite3.connect`.

    Returns:
        Both, with a `timeout` of 0, and the seconds that it was.

    Raises:
        ConfigurationError: it is no number.
    """
    place = args[1:2]
    if place and (len(args) > 2 or "timeout" in kwargs):
        value = place[0]
        args = (args[0], 0, *args[2:])
    else:  # By its name: since Python 3.13 its place is deprecated.
        value = place[0] if place else kwargs.get("timeout", BUSY_SECONDS)
        args, kwargs = args[:1], {**kwargs, "timeout": 0}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or math.isnan(value):
        raise ConfigurationError(
            f"timeout is {value!r}. It is sqlite3's word for the seconds to wait while "
            "somebody else writes to the file: pass a number."
        )
    return args, kwargs, value
