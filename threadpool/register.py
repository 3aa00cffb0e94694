"""The register: what waits, who is here, and how often what has happened.

The private methods here run with the team's lock held. What follows from it all stands
next door, in `roster`.

Source: Go's `sql.DBStats`, for what is worth counting.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Generic

from threadpool.bound import Bound
from threadpool.error import PoolClosed
from threadpool.job import QUEUED
from threadpool.stats import TeamStats, Times
from threadpool.worker import J, Place, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Register"]


class Register(Generic[J]):
    """The state of a team; see `Team`.

    Args:
        name: for texts.
        hire: called without the lock when one more worker is wanted; see `Team`.
        minimum: workers that stay although there is nothing to do.
        maximum: workers at the most.
        backlog: jobs that may wait beyond one for each worker; None for no bound.
        idle_seconds: how long a worker above the minimum waits for work.
        bound: one that it shares with others, instead of *maximum* and *backlog*.
    """

    def __init__(
        self,
        name: str,
        hire: Callable[[], None],
        *,
        minimum: int,
        maximum: int,
        backlog: int | None,
        idle_seconds: float,
        bound: Bound | None = None,
    ) -> None:
        self.name = name
        self._hire = hire
        self._shares = bound is not None
        self._bound = bound or Bound(maximum, backlog)
        self._bound.teams.append(self)
        self._lock = self._bound.lock
        # All fields below guarded by: _lock.
        self.backlog = backlog
        self.minimum = minimum
        self.maximum = maximum
        self.idle_seconds = idle_seconds
        self._queue: deque[J] = deque()
        self._skipped = 0  # Jobs in the queue that were removed: workers skip them.
        self._idle: list[Worker[J]] = []  # The last to park is the first to be woken.
        self._crew: set[Worker[J]] = set()  # Those whose thread is here.
        self._size = 0  # Workers in all places.
        self._at = [0] * len(Place)
        self._open = False
        self._closed = False
        self._submitted = self._removed = self._refused = 0
        self._again = 0  # Jobs that could not be done, and were queued once more.
        # Of workers that are gone; the others keep count themselves.
        self._finished = 0
        self._most_workers = self._most_unfinished = 0
        # Of finished and running jobs; workers hand in what they have, many at once.
        self._waits, self._runs = Times(), Times()
        self._when_gone: list[Callable[[], None]] = []

    @property
    def unfinished(self) -> int:
        """How many jobs wait or run. The caller holds the lock."""
        finished = self._finished
        for worker in self._crew:
            finished += worker.finished
        return self._submitted - self._removed - finished

    def _waiting(self) -> int:
        """Count the jobs that nobody has begun."""
        taken = sum(len(worker.taken) for worker in self._crew)
        return len(self._queue) - self._skipped + taken

    def _recall(self, worker: Worker[J]) -> None:
        """Put back what *worker* has taken and not begun, before all that waits."""
        while True:
            try:
                job = worker.taken.pop()
            except IndexError:  # It has begun the last one.
                return
            job.state = QUEUED
            self._queue.appendleft(job)

    def _recall_all(self) -> None:
        for worker in self._crew:
            if worker.taken:
                self._recall(worker)

    def _note_depth(self) -> None:
        """See whether so much was never unfinished before."""
        self._most_unfinished = max(self._most_unfinished, self.unfinished)

    def _admit(self) -> None:
        """Let a job in where there seemed to be no room.

        Raises:
            PoolClosed: the team takes no more work.
            PoolFull: there is none.
        """
        if self._closed:
            raise PoolClosed(
                f"{self.name} is closed and takes no more work. Make a new pool, start "
                "this one again where it can be, or close it after its last call."
            )
        self._note_depth()
        error = self._bound.full(self.name)
        if error is not None:
            self._refused += 1
            raise error

    def _figures(self) -> TeamStats:
        self._note_depth()
        unfinished, waiting = self.unfinished, self._waiting()
        finished = self._submitted - self._removed - unfinished
        waits, runs = self._waits.histogram(), self._runs.histogram()
        for worker in self._crew:
            waits += Times(worker.waited).histogram()
            runs += Times(worker.ran).histogram()
        return TeamStats(
            workers=self._size,
            busy=unfinished - waiting,
            idle=self._at[Place.IDLE],
            waiting=waiting,
            unfinished=unfinished,
            submitted=self._submitted - self._again,
            finished=finished - self._again,
            removed=self._removed,
            refused=self._refused,
            most_workers=self._most_workers,
            most_unfinished=self._most_unfinished,
            oldest_wait_seconds=self._oldest_wait(),
            wait_seconds=waits.total_seconds,
            run_seconds=runs.total_seconds,
            waits=waits,
            runs=runs,
        )

    def _oldest_wait(self) -> float:
        for job in self._queue:
            if job.state is QUEUED:
                return time.monotonic() - job.queued_at
        return 0.0

    def crew(self, place: Place | None = None) -> list[Worker[J]]:
        """Return the workers whose thread is here.

        Args:
            place: only those who are there; None for all.
        """
        with self._lock:
            return [w for w in self._crew if place is None or w.place is place]

    def serves(self) -> bool:
        """Say whether a worker is here that takes jobs, or will in a moment."""
        with self._lock:
            return self._at[Place.AWAKE] + self._at[Place.IDLE] > 0

    def __repr__(self) -> str:
        # Without the lock: who looks at it in a debugger may hold that.
        busy = sum(worker.job is not None for worker in list(self._crew))
        waiting = len(self._queue) - self._skipped
        state = "closed" if self._closed else "open" if self._open else "not started"
        return (
            f"<Team {self.name} {state}, {busy} busy, "
            f"{self._at[Place.IDLE]} idle, {waiting} waiting>"
        )
