"""The team: who works, who waits, who leaves. No threads in this room.

A Team is a queue of jobs and a crew of workers that pull from it. It decides, under
one lock and in constant time, what happens next; waking and hiring are done through
the two functions it is given, outside that lock. So a test steps it by hand, and the
same rules serve a plain thread pool and a pool of connections.

Any thread may enter; every field says who guards it. It stands on `labour`, a worker's
life in a team; on `staff`, the team's own life and what it does about its workers; on
`roster`, the rules; and on `register`, what is known.

Source: the coordinator of Twisted's `_threads.Team`, the LIFO of trio's thread cache.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from threadpool import ticker
from threadpool.job import QUEUED, TAKEN, JobState
from threadpool.labour import Labour
from threadpool.roster import STALL_SECONDS
from threadpool.worker import J, Place, Worker

# Whether threads take turns. Without, whoever is called early gets on with it.
GIL: Final = getattr(sys, "_is_gil_enabled", lambda: True)()

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.events import PendingEvents
    from threadpool.stats import TeamStats

__all__ = ["Place", "Team", "Worker"]


class Team(Labour[J]):
    """A queue of jobs and the crew that pulls from it.

    Args:
        name: for texts.
        hire: called without the lock when one more worker is wanted. It starts a
            thread that calls `work`; if it cannot, it raises, and has changed nothing.
        minimum: workers that stay although there is nothing to do.
        maximum: workers at the most.
        backlog: jobs that may wait beyond one for each worker; None for no bound.
        idle_seconds: how long a worker above the minimum waits for work.
        bound: one that it shares with others, instead of *maximum* and *backlog*.
    """

    # -- For those who bring work ----------------------------------------------------

    def submit(self, job: J) -> None:
        """Queue *job*, and see to it that somebody comes for it.

        Args:
            job: becomes the team's until it is finished or removed.

        Raises:
            PoolClosed: the team takes no more work.
            PoolFull: there are as many unfinished jobs as workers and backlog allow.
            RuntimeError: no thread could be started, and there is none.
        """
        now = time.monotonic()
        bound = self._bound
        with self._lock:
            if bound.room <= 0 or self._closed:
                self._admit()
            bound.room -= 1
            self._submitted += 1
            job.queued_at = now
            if job.home is not self._home:
                self._greet(job.home)
            queue = self._queue
            queue.append(job)
            # Where those awake will do, `_call` would only say so.
            comer = None
            if self._coming is None and (
                len(queue) > self._enough
                or now - self._last_begun > STALL_SECONDS
                or self not in ticker.watched
            ):
                home = job.home
                if home is not None and home.left and GIL:
                    self._call_later(home)
                else:
                    comer = self._call(now)
        if comer is not None:
            error = self._bring(comer)
            if error is not None and not self._size and self.remove(job):
                raise error  # Nobody would come for it for a while.

    def _call_later(self, home: PendingEvents) -> None:
        """Call somebody when *home*'s pass is over; at the latest, the ticker does."""
        if self not in home.late:
            home.late.append(self)
            if self not in ticker.watched:
                ticker.watch(self)

    def resubmit(self, job: J, origin: Team[J]) -> None:
        """Queue once more a job that its worker could not do. That worker's thread.

        It was let in before, so no bound holds for it, and its time goes on; where it
        comes from here it is the next one.

        Args:
            job: what `Worker.run` returns False for.
            origin: the team of that worker.

        Raises:
            PoolClosed: the team takes no more work.
        """
        with self._lock:
            if self._closed:
                self._admit()
            origin._again += 1  # There it was neither submitted nor finished.
            self._bound.room -= 1
            self._submitted += 1
            job.state = QUEUED
            if job.home is not self._home:
                self._greet(job.home)
            if origin is self:
                for worker in self._crew:
                    if worker.job is job:  # What it has taken comes after this.
                        self._recall(worker)
                self._queue.appendleft(job)
            else:
                self._queue.append(job)
            comer = self._call(time.monotonic())
        if comer is not None:
            self._bring(comer)

    def remove(self, job: J) -> bool:
        """Take *job* back if it still waits.

        Args:
            job: one that was submitted here.

        Returns:
            False when a worker has it already, or had it.
        """
        with self._lock:
            if job.state is TAKEN:
                self._recall_all()
            if job.state is not QUEUED:
                return False
            job.state = JobState.REMOVED
            self._removed += 1
            self._skipped += 1
            # Where no worker comes by for long, the skipped ones would pile up;
            # throwing them out whenever they are the half costs no more than adding.
            if self._skipped > 32 and self._skipped * 2 > len(self._queue):
                self._queue = deque(job for job in self._queue if job.state is QUEUED)
                self._skipped = 0
            return True

    def withdraw(self, wanted: Callable[[J], bool]) -> list[J]:
        """Take back every waiting job that *wanted* says True of, in order.

        Args:
            wanted: called under the team's lock; it must not call the team.
        """
        with self._lock:
            self._recall_all()
            found = [job for job in self._queue if job.state is QUEUED and wanted(job)]
        return [job for job in found if self.remove(job)]

    def waiting(self) -> list[J]:
        """Return the jobs that wait at this moment, in order."""
        with self._lock:
            self._recall_all()
            return [job for job in self._queue if job.state is QUEUED]

    def beCautious(self, until: float | None) -> None:
        """Hire nobody before *until*, and then one at a time; None ends that.

        Args:
            until: seconds of time.monotonic().
        """
        with self._lock:
            self._cautious = until is not None
            self.not_before = until or 0.0
        if until is not None:
            # Where nobody is awake, nobody else would think of those who wait.
            ticker.alarm(until, lambda: self.tick(time.monotonic()))

    def running(self) -> list[J]:
        """Return the jobs that workers are running at this moment."""
        with self._lock:
            alone = [w.job for w in self._crew if w.job is not None]
            return [*alone, *(job for w in self._crew for job in w.companions)]

    def runs(self) -> list[tuple[J, float]]:
        """Return the job of each worker that has one, and when it began that.

        Returns:
            A list of pairs; the second is in seconds of time.monotonic().
        """
        with self._lock:
            return [(w.job, w.begun_at) for w in self._crew if w.job is not None]

    def atWork(self) -> list[tuple[Worker[J], J, float]]:
        """Return workers that run a job at this moment, the job, and since when.

        Returns:
            A list of tuples; the last is in seconds of time.monotonic().
        """
        with self._lock:
            crew = list(self._crew)
            alone = [(w, w.job, w.begun_at) for w in crew if w.job is not None]
            return [*alone, *((w, j, w.begun_at) for w in crew for j in w.companions)]

    def queued(self, limit: int) -> tuple[list[J], int]:
        """Return the first jobs that wait at this moment, and how many there are.

        Args:
            limit: so many of them at the most.
        """
        with self._lock:
            self._recall_all()
            waiting = (job for job in self._queue if job.state is QUEUED)
            first = list(itertools.islice(waiting, limit))
            return first, len(self._queue) - self._skipped

    def _undelivered(self) -> list[J]:
        """Return the jobs that workers are running, or have run and still hold."""
        with self._lock:
            held = [w.delivering for w in self._crew if w.delivering is not None]
        return [*self.running(), *held]

    # -- For those who look --------------------------------------------------------

    def loopClosed(self, home: PendingEvents) -> None:
        """Tell everybody who waits in *home*'s loop that it ends. Loop thread.

        Args:
            home: the queue of that loop.
        """
        with self._lock:
            if self._home is home:
                self._home = None
        mine = self.withdraw(lambda job: job.home is home)
        for job in (*mine, *self._undelivered()):
            if job.home is home:
                job.orphan()

    def stats(self) -> TeamStats:
        """Return the figures of this moment."""
        with self._lock:
            return self._figures()
