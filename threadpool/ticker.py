"""The ticker: one thread for the whole process that looks after what waits too long.

Waking a sleeping thread costs more than most jobs, so workers and submitters put
it off as long as somebody awake is likely to come by. The ticker is what makes
that safe: while jobs or outcomes wait, it looks every half millisecond whether
anybody came, and wakes somebody if not. While nothing waits it sleeps, or until the
next alarm: a call at a time that no loop and no worker can be trusted to keep.
Any thread may call `watch` and `alarm`; `tick` and alarms are called on the ticker's
thread only.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

# Half of what a finished outcome may wait for its loop (1 ms).
PERIOD_SECONDS: Final = 0.0005

# Looks in vain before the ticker goes to sleep. Waking it costs about as much as
# ten looks, and load comes in waves: it stays up for 10 ms.
PATIENCE: Final = 20

THREAD_NAME: Final = "threadbridge-clock"


class Watched(Protocol):
    """Something that may be left waiting."""

    def tick(self, now: float) -> bool:
        """Help whoever waited too long; say whether anybody still waits.

        Args:
            now: seconds of time.monotonic().

        Returns:
            True to be looked at again, False when nothing waits. Whoever returns
            True for ever keeps the ticker awake.
        """
        ...


class Ticker:
    """Looks after everything it was asked to watch, until nothing there waits."""

    def __init__(self, watched: dict[Watched, int]) -> None:
        self._lock = threading.Lock()
        self._bell = threading.Lock()
        self._bell.acquire()
        # How often each was looked at in vain. guarded by: _lock (for writing)
        self._watched = watched
        self._asleep = False  # guarded by: _lock
        # When, a number that settles ties, and what. guarded by: _lock
        self._alarms: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None  # guarded by: _lock

    def watch(self, who: Watched) -> None:
        """Look after *who* from now on, until its `tick` found nothing for 10 ms.

        Args:
            who: anything with a `tick` method. Watching it twice changes nothing.
        """
        with self._lock:
            self._watched[who] = 0
            if not self._awake():
                # Whoever asked may hold a lock and cannot do without us. It asks again
                # the next time something waits.
                del self._watched[who]

    def alarm(self, when: float, function: Callable[[], object]) -> None:
        """Call *function* at that time, give or take a millisecond.

        Args:
            when: seconds of time.monotonic().
            function: anything quick.
        """
        with self._lock:
            first = not self._alarms or when < self._alarms[0][0]
            heapq.heappush(self._alarms, (when, next(self._numbers), function))
            if first or self._thread is None:  # It may not have been possible before.
                self._awake()

    def _awake(self) -> bool:  # guarded by: _lock
        if self._thread is None:
            self._start()
        elif self._asleep:
            self._asleep = False
            self._bell.release()
        return self._thread is not None

    def _start(self) -> None:
        # Daemonic: it holds nothing that must be given back at exit.
        thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            _log.warning("The ticker's thread could not be started (%s)", error)
        else:
            self._thread = thread

    def _run(self) -> None:
        while True:
            if self._bell.acquire(timeout=PERIOD_SECONDS):
                continue  # Rung out of its sleep: first wait one period.
            self._look()
            self._ring()
            with self._lock:
                self._asleep = asleep = not self._watched
                wait = threading.TIMEOUT_MAX
                if self._alarms:
                    left = self._alarms[0][0] - time.monotonic()
                    wait = min(left, threading.TIMEOUT_MAX)
            # Rung at the last moment, the bell makes the next look wait one period.
            if asleep and not self._bell.acquire(timeout=max(0.0, wait)):
                with self._lock:
                    self._asleep = False

    def _ring(self) -> None:
        """Make the calls whose time has come."""
        while True:
            with self._lock:
                if not self._alarms or self._alarms[0][0] > time.monotonic():
                    return
                _, _, function = heapq.heappop(self._alarms)
            try:
                function()
            except Exception:
                _log.exception("An alarm failed: %r", function)

    def _look(self) -> None:
        now = time.monotonic()
        with self._lock:
            rounds = list(self._watched.items())
        for who, looks in rounds:
            if _help(who, now):
                self._watched[who] = 0
            elif looks < PATIENCE:
                self._watched[who] = looks + 1
            else:
                with self._lock:
                    del self._watched[who]
                # Whoever put something there a moment ago may have seen it watched
                # and relied on that, so look once more after having let go.
                if _help(who, now):
                    self.watch(who)


def _help(who: Watched, now: float) -> bool:
    try:
        return who.tick(now)
    except Exception:
        _log.exception("The ticker could not look after %r", who)
        return False


# Whom the ticker looks after. Read it first: `if me not in watched: watch(me)` spares
# the hot path a call.
watched: Final[dict[Watched, int]] = {}

_ticker = Ticker(watched)


def watch(who: Watched) -> None:
    """Have the process's ticker look after *who*.

    Args:
        who: anything with a `tick` method. Watching it twice changes nothing.
    """
    _ticker.watch(who)


def alarm(when: float, function: Callable[[], object]) -> None:
    """Have the process's ticker call *function* at that time. Any thread.

    Args:
        when: seconds of time.monotonic().
        function: anything quick.
    """
    _ticker.alarm(when, function)


def _forget_after_fork() -> None:
    # The thread did not come along, and its lock may have been held.
    global _ticker  # noqa: PLW0603 - the child needs a fresh one
    watched.clear()
    _ticker = Ticker(watched)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
