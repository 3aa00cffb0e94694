"""What a team knows about a worker: where it is, and what it has to do.

A worker lives in a thread of its own; the team it works for looks at it from others.
Each field says who writes it.

Source: the workers of Twisted's `_threads`, and trio's thread cache.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import Any, Generic, TypeVar

from threadpool.job import Job

__all__ = ["Place", "Worker"]

J = TypeVar("J", bound=Job[Any])


class Place(enum.IntEnum):
    """Where a worker is."""

    HIRED = 0  # Its thread is being started.
    PREPARING = 1  # Getting ready, which may take long: connecting, say.
    AWAKE = 2  # Running a job, or on its way to one.
    IDLE = 3  # Parked.
    LEAVING = 4  # Takes no more jobs; still has something to put away.


class Worker(Generic[J]):
    """Somebody who runs jobs. All but `wake` and `interrupt` on its own thread.

    Attributes:
        place: where it is. Written by the team, under its lock.
        ready: it can run a job right now, without `prepare`.
        taken: jobs it has taken at once and not begun, in order. Filled under the
            team's lock; it takes its next one from the left, without any; the team
            takes them back from the right, under its lock. deque's `popleft` and `pop`
            are atomic by its documentation, with and without a GIL, so each job has
            one taker.
        job: what it runs. Written by its own thread.
        companions: what it runs together with that. Written by its own thread.
        delivering: what it has run and not brought home yet. The same.
        begun_at: when it began that job, in seconds of time.monotonic(). The same.
        finished: how many jobs it has run, well or badly. The same.
        waited: for how long those that it ran lately had waited, in seconds. The same;
            the team takes them over now and then.
        ran: how long they ran, in seconds. The same.
    """

    def __init__(self) -> None:
        self.place = Place.HIRED
        self.ready = True
        self.taken: deque[J] = deque()
        self.job: J | None = None
        self.companions: list[J] = []
        self.delivering: J | None = None
        self.begun_at = math.inf
        self.finished = 0
        self.waited: list[float] = []
        self.ran: list[float] = []

    def prepare(self) -> bool:
        """Become ready, however long that takes; False to resign."""
        return True

    def run(self, job: J) -> bool:
        """Do *job* and keep its outcome in it; never raises.

        Args:
            job: what the team gave it.

        Returns:
            False when nobody shall bring the outcome home: the job was handed to
            another team, or its caller has been told.
        """
        raise NotImplementedError

    def park(self, seconds: float) -> bool:
        """Wait until woken, for *seconds* at the most; False when they passed first.

        Args:
            seconds: math.inf for ever.
        """
        raise NotImplementedError

    def interrupt(self) -> None:
        """Stop the job that runs, where that can be done. Any thread."""

    def wake(self) -> None:
        """End the `park` that goes on or comes next. Any thread, once for each."""
        raise NotImplementedError
