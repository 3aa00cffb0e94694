"""The team: who works, who waits, who leaves. No threads in this room.

A Team is a queue of jobs and a crew of workers that pull from it. It decides, under
one lock and in constant time, what happens next; waking and hiring are done through
the two functions it is given, outside that lock. So a test steps it by hand, and the
same rules serve a plain thread pool and a pool of connections.

A worker's life is `work`: run a job, pull the next one, and park when there is none.
Any thread may enter; every field says who guards it. The team's own life, and what it
does about its workers, is next door in `staff`.

Source: the coordinator of Twisted's `_threads.Team`, the LIFO of trio's thread cache.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING

from threadpool import ticker
from threadpool.error import LoopClosed
from threadpool.job import QUEUED, JobState
from threadpool.roster import FORGETTING, WAKE_SECONDS, J, Place, Worker
from threadpool.staff import Staff

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.events import PendingEvents
    from threadpool.stats import TeamStats

__all__ = ["Place", "Team", "Worker"]


class Team(Staff[J]):
    """A queue of jobs and the crew that pulls from it.

    Args:
        name: for texts.
        hire: called without the lock when one more worker is wanted. It starts a
            thread that calls `work`; if it cannot, it raises, and has changed nothing.
        minimum: workers that stay although there is nothing to do.
        maximum: workers at the most.
        backlog: jobs that may wait beyond one for each worker; None for no bound.
        idle_seconds: how long a worker above the minimum waits for work.
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
        with self._lock:
            unfinished = self.unfinished
            if unfinished >= self._limit:
                raise self._refusal()
            self.unfinished = unfinished = unfinished + 1
            if unfinished > self._most_unfinished:
                self._most_unfinished = unfinished
            job.queued_at = now
            job.state = QUEUED  # Passed on by another team, it ran there.
            if job.home is not self._home:
                self._greet(job.home)
            self._queue.append(job)
            comer = self._call(now) if self._coming is None else None
        if comer is not None:
            error = self._bring(comer)
            if error is not None and not self._size and self.remove(job):
                raise error  # Nobody would come for it for a while.

    def remove(self, job: J) -> bool:
        """Take *job* back if it still waits.

        Args:
            job: one that was submitted here.

        Returns:
            False when a worker has it already, or had it.
        """
        with self._lock:
            if job.state is not QUEUED:
                return False
            job.state = JobState.REMOVED
            self.unfinished -= 1
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
            found = [job for job in self._queue if job.state is QUEUED and wanted(job)]
        return [job for job in found if self.remove(job)]

    def waiting(self) -> list[J]:
        """Return the jobs that wait at this moment, in order."""
        with self._lock:
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
            return [w.job for w in self._crew if w.job is not None]

    def runs(self) -> list[tuple[J, float]]:
        """Return the jobs that run, each with when it began, of time.monotonic()."""
        with self._lock:
            return [(w.job, w.begun_at) for w in self._crew if w.job is not None]

    def _undelivered(self) -> list[J]:
        """Return the jobs that workers are running, or have run and still hold."""
        with self._lock:
            held = [job for w in self._crew for job in (w.job, w.delivering)]
        return [job for job in held if job is not None]

    # -- For the workers -------------------------------------------------------------

    def work(self, worker: Worker[J]) -> None:
        """Be *worker*: pull, run and deliver until it is time to leave.

        The one loop that every worker of this project runs, in its own thread. Who
        calls it calls `gone` afterwards.

        Args:
            worker: one that was hired just now.
        """
        self._present(worker)
        while worker.ready or worker.prepare():
            job = self._arrive(worker)
            while job is not None:
                started = time.monotonic()
                finished = worker.run(job)
                now = time.monotonic()
                done, job = job, self._advance(worker, now, now - started)
                # Before the next job, which may block, and before parking.
                if finished and done.home is not None:
                    try:
                        done.home.hold(done, now, dry=job is None)
                    except LoopClosed:
                        done.lost()
                # A worker that parks, or is long in the next job, keeps nothing of its
                # last one alive.
                worker.delivering = None
                del done
            if worker.ready and not self._rest(worker):
                return
        with self._lock:
            self._leave(worker)

    def gone(self, worker: Worker[J]) -> None:
        """Note that *worker* has put everything away and its thread ends.

        Args:
            worker: one whose `work` returned.
        """
        with self._lock:
            self._crew.discard(worker)
            if worker in self._idle:  # It broke on its way to its rest.
                self._idle.remove(worker)
            if self._coming is worker:
                self._coming = None
            if worker.job is not None:  # It broke in the middle of that.
                self.unfinished -= 1
                self._finished += 1
            self._at[worker.place] -= 1
            self._size -= 1
            self._hired_arrived()
            comer = self._call(time.monotonic())
            told: list[Callable[[], None]] = []
            if self._closed and not self._size:
                told, self._when_gone = self._when_gone, told
        if comer is not None:
            self._bring(comer)
        for callback in told:
            callback()

    def _present(self, worker: Worker[J]) -> None:
        """A hired worker's thread is here; it may take long to become ready."""
        with self._lock:
            self._crew.add(worker)
            self._move(worker, Place.PREPARING)
            self._hired_arrived()
            comer = self._call(time.monotonic())
        if comer is not None:
            self._bring(comer)

    def _arrive(self, worker: Worker[J]) -> J | None:
        """Give *worker*, which became ready or was woken, a job, or let it park."""
        now = time.monotonic()
        with self._lock:
            if self._coming is worker:
                self._coming = None
            if worker.place is not Place.AWAKE:
                self._move(worker, Place.AWAKE)
            job = self._pull(worker, now)
            comer = self._call(now)
        if comer is not None:
            self._bring(comer)
        return job

    def _advance(self, worker: Worker[J], now: float, seconds: float) -> J | None:
        """Note that *worker* finished a job in *seconds*; give it the next one."""
        with self._lock:
            self.unfinished -= 1
            self._finished += 1
            self._run_seconds += seconds
            shortest = self._shortest * FORGETTING
            self._shortest = seconds if seconds < shortest else shortest
            # From here to its delivery the end of its loop must find it somewhere.
            worker.delivering = worker.job
            if not worker.ready:
                worker.job = None
                self._move(worker, Place.PREPARING)
                return None
            job = self._pull(worker, now)
            # The other reasons for a call are out of the question: this one has just
            # come by, and is awake.
            if len(self._queue) * self._shortest > WAKE_SECONDS:
                comer = self._call(now)
            else:
                comer = None
        if comer is not None:
            self._bring(comer)
        return job

    def _rest(self, worker: Worker[J]) -> bool:
        """Park until woken; False when it is time to leave instead."""
        while True:
            with self._lock:
                # Not idle: woken at the last moment, and the wake is on its way.
                idle = worker.place is Place.IDLE
                patience = self._patience() if idle else math.inf
            if worker.park(patience):
                return True
            with self._lock:
                # Others may have left meanwhile, or the bounds may have changed.
                if worker.place is Place.IDLE and self._patience() <= patience:
                    self._idle.remove(worker)
                    self._leave(worker)
                    return False

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
