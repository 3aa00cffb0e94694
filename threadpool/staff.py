"""The staff: who is brought in, who is sent home, and when. No threads in this room.

Here stands what a team does about its workers: hiring and waking them, its bounds, its
start and its end. `roster` decides, under the lock; what it decided is carried out
here, outside of it. Any thread may enter.

Source: the coordinator of Twisted's `_threads.Team`, which grows, shrinks and quits.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Literal

from threadpool import ticker
from threadpool.error import PoolClosed
from threadpool.roster import Roster
from threadpool.worker import J, Place, Worker

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["Staff"]

_log = logging.getLogger("threadpool.team")

# How long to wait before another thread is asked for, where the system had none.
AGAIN_SECONDS = 0.05


class Staff(Roster[J]):
    """A team's dealings with its workers; see `Team`."""

    # -- What the roster decided -------------------------------------------------------

    def _bring(
        self, comer: Worker[J] | Literal["hired", "starving"]
    ) -> RuntimeError | None:
        """Carry out what `_call` decided; return why that was not possible."""
        if comer == "starving":
            self._complain()
            return None
        if comer != "hired":
            comer.wake()
            return None
        try:
            self._hire()
        except BaseException as error:
            self._not_hired(error)
            if not isinstance(error, RuntimeError):  # Ctrl-C, in the middle of it.
                raise
            return error  # The system has no thread for us.
        return None

    def _not_hired(self, error: BaseException) -> None:
        now = time.monotonic()
        with self._lock:
            self._size -= 1
            self._at[Place.HIRED] -= 1
            self._hired_arrived()
            if self._size:
                self.not_before = now + AGAIN_SECONDS
            tell = now - self._told > 1
            if tell:
                self._told = now
        # It tries again while jobs wait; not with each look of the ticker, though.
        ticker.alarm(now + AGAIN_SECONDS, lambda: self.tick(time.monotonic()))
        if tell:
            _log.warning(
                "%s could not start one more thread (%s) and goes on with %d.",
                self.name,
                error,
                self._size,
            )

    def tick(self, now: float) -> bool:
        """Wake another worker when nobody comes for the jobs that wait.

        Called by the ticker.

        Args:
            now: seconds of time.monotonic().

        Returns:
            Whether jobs wait that somebody else could come for, or that must be
            complained about soon.
        """
        with self._lock:
            stuck = self._unstick(now)
            comer = self._call(now)
            waits = self._wants_help() or stuck
        if comer is not None:
            self._bring(comer)
        return waits

    # -- Workers whose job waits for the loop ------------------------------------------

    def blocked(self) -> None:
        """Note that the job of a worker begins to wait for the loop. Its thread."""
        now = time.monotonic()
        with self._lock:
            self._blocked += 1
            comer = self._call(now)
        if comer is not None:
            self._bring(comer)

    def unblocked(self) -> None:
        """Note that this wait is over. The thread that called `blocked`."""
        with self._lock:
            self._blocked -= 1
            self._complain_at = None

    def _complain(self) -> None:
        with self._lock:
            stats = self._figures()
        _log.warning(
            "%s starves: all its %d workers wait in blockingCallFromThread, and %d "
            "job(s) wait for a worker. If it is one of these jobs that they wait for, "
            "none of them ever goes on. Allow more than %d workers, or give such work "
            "a pool of its own.",
            self.name,
            stats.workers,
            stats.waiting,
            self.maximum,
        )

    # -- Its life ----------------------------------------------------------------------

    def open(self) -> None:
        """Let workers come: the minimum, and whoever the jobs that wait need.

        Raises:
            RuntimeError: no thread could be started, and there is none.
        """
        with self._lock:
            self._open = True
        self._fill()

    def close(self, when_gone: Callable[[], None]) -> None:
        """Take no more work; workers leave once nothing waits.

        What waits in a team that was never opened stays there; see `Team.withdraw`.

        Args:
            when_gone: called once when the last worker is gone, on that worker's
                thread; at once, on this one, where there is none.
        """
        with self._lock:
            self._closed = True
            if self._size:
                self._when_gone.append(when_gone)
                when_gone = _nothing
        when_gone()
        self._rouse()

    def reopen(self) -> None:
        """Take work again after the end, when the last worker is gone.

        A team that was not closed stays as it is.

        Raises:
            PoolClosed: some of its workers are still here.
        """
        with self._lock:
            if not self._closed:
                return
            if self._size:
                raise PoolClosed(
                    f"{self.name} is still closing: {self.unfinished} of its jobs are "
                    f"unfinished and {self._size} of its workers still here. Start it "
                    "again after stop() has returned, or close() has fired."
                )
            self._closed = False

    def resize(self, minimum: int, maximum: int) -> None:
        """Change the bounds; running jobs are never disturbed.

        Args:
            minimum: workers that stay although there is nothing to do.
            maximum: workers at the most.
        """
        with self._lock:
            self.minimum, self.maximum = minimum, maximum
            self._complain_at = None
            if not self._shares:
                self._bound.resize(maximum)
        self._rouse()  # Those above the maximum leave when they find nothing.
        self._fill()

    def grow(self) -> None:
        """Hire one more worker, if the maximum allows; none while nobody may work."""
        with self._lock:
            wanted = self._open and not self._closed and self._size < self.maximum
            if wanted:
                self._enlist()
        if wanted:
            self._bring("hired")

    def shrink(self) -> None:
        """Let one worker leave: an idle one now, else the next that finds nothing."""
        with self._lock:
            staying = self._size - self._at[Place.LEAVING]
            if self._closed or self._unwanted >= staying:
                return
            self._unwanted += 1
            # The one that has rested longest: the others' memory is still warm.
            roused, self._idle = self._idle[:1], self._idle[1:]
            for worker in roused:
                self._move(worker, Place.AWAKE)
        for worker in roused:
            worker.wake()

    def afterFork(self) -> None:
        """Begin anew in a forked child, which has none of the workers and no loop."""
        self._bound.afterFork()
        self._lock = self._bound.lock
        self._clear()

    def _fill(self) -> None:
        """Hire up to the minimum, and for the jobs that wait."""
        # Each place once: workers that fail to get ready may be gone again by then.
        for _ in range(self.minimum + 1):
            with self._lock:
                now = time.monotonic()
                comer = self._call(now)
                if comer is None and self._lacks(now):
                    self._enlist()
                    comer = "hired"
            if comer is None:
                return
            error = self._bring(comer)
            if error is not None and not self._size:
                raise error

    def _rouse(self) -> None:
        """Wake everybody, so that each looks again whether to stay."""
        with self._lock:
            roused, self._idle = self._idle, []
            for worker in roused:
                self._move(worker, Place.AWAKE)
        for worker in roused:
            worker.wake()


def _nothing() -> None:
    pass
