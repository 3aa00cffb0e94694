"""Labour: a worker's life in a team. No threads in this room.

A worker takes jobs, runs them, brings them home, takes the next ones, and parks when
there are none. All this happens on its own thread.

Source: the worker loop of Twisted's `_threads`, and trio's thread cache.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from threadpool import ticker
from threadpool.error import LoopClosed
from threadpool.job import QUEUED, RUNNING
from threadpool.staff import Staff
from threadpool.worker import J, Place, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from threadpool.events import PendingEvents
    from threadpool.job import Job

__all__ = ["Labour", "holdAll"]


class Labour(Staff[J]):
    """What a team's workers do in it; see `Team`."""

    def work(self, worker: Worker[J]) -> None:
        """Be *worker*: pull, run and deliver until it is time to leave.

        The one loop that every worker of this project runs, in its own thread. Who
        calls it calls `gone` afterwards.

        Args:
            worker: one that was hired just now.
        """
        self._present(worker)
        while worker.ready or worker.prepare():
            more = self._pull(worker, time.monotonic())
            while more:
                more = self._run(worker)
            if worker.ready and not self._rest(worker):
                return
        with self._lock:
            self._leave(worker)

    def _run(self, worker: Worker[J]) -> bool:
        """Run what *worker* has taken, bring it home, and take more.

        Returns:
            False where there is nothing more, or the worker is not ready for it.
        """
        taken = worker.taken
        home = None
        started = time.monotonic()
        while taken:
            try:
                # In this order: what is about to be run must be seen somewhere.
                worker.job = job = taken[0]
                taken.popleft()
            except IndexError:  # It was called back at this very moment.
                worker.job = None
                break
            job.state = RUNNING
            self._last_begun = worker.begun_at = started
            worker.waited.append(started - job.queued_at)
            comes_home = worker.run(job)
            now = time.monotonic()
            worker.delivering, worker.job = job, None
            worker.finished += 1
            worker.ran.append(now - started)
            started = now
            if comes_home and job.home is not None:
                if home is not job.home:
                    if home is not None:
                        home.release(now, dry=False)
                    home = job.home
                try:
                    home.hold(job, now, more=bool(taken))
                except LoopClosed:
                    job.lost()
            if worker.companions:
                self._bring_home(worker, now)
            # A worker that parks, or is long in the next job, keeps nothing of its
            # last one alive.
            worker.delivering = None
            del job
            if not worker.ready:
                break
        more = self._pull(worker, started)
        if home is not None:
            home.release(started, dry=not more)
        return more

    def anyWaiting(self, worker: Worker[J]) -> bool:
        """Say whether `take` might find anything; without the lock, a guess.

        Args:
            worker: one of this team's.
        """
        return bool(worker.taken or self._queue)

    def take(
        self, worker: Worker[J], most: int, wanted: Callable[[J], bool]
    ) -> list[J]:
        """Give *worker* more jobs to run together with its own. That worker's thread.

        They are the next ones that wait, its fair share of them, up to the first that
        is not *wanted*. They stand in `Worker.companions`, go home with its job, and
        whoever is not to go home is taken out there.

        Args:
            worker: one that runs a job of this team.
            most: how many at the most.
            wanted: called under the team's lock; it must not call the team.

        Returns:
            The jobs, which have begun; often none.
        """
        now = time.monotonic()
        found: list[J] = []
        with self._lock:
            self._recall(worker)
            queue = self._queue
            # Rounded up: this one may be the last to come by.
            most = min(most, -(-(len(queue) - self._skipped) // self.maximum))
            while queue and len(found) < most:
                job = queue[0]
                if job.state is QUEUED:
                    if not wanted(job):
                        break
                    job.state = RUNNING
                    worker.waited.append(now - job.queued_at)
                    found.append(job)
                else:
                    self._skipped -= 1
                queue.popleft()
            worker.companions += found
        return found

    def giveBack(self, worker: Worker[J], jobs: list[J]) -> None:
        """Queue again, before all that waits, what `take` gave. That worker's thread.

        Args:
            worker: one that runs a job of this team.
            jobs: some of its companions, in order; their outcomes are open.
        """
        with self._lock:
            for job in reversed(jobs):
                job.state = QUEUED
                self._queue.appendleft(job)
            worker.companions = [job for job in worker.companions if job not in jobs]
            # They will have waited for longer.
            del worker.waited[len(worker.waited) - len(jobs) :]

    def _bring_home(self, worker: Worker[J], now: float) -> None:
        """Bring home what *worker* has run together with its job."""
        companions = worker.companions
        # None of them took as long as all of them.
        seconds = worker.ran.pop() / (len(companions) + 1)
        worker.ran += [seconds] * (len(companions) + 1)
        worker.finished += len(companions)
        homes = holdAll(companions, now)
        # Until here, so that the end of a loop finds them somewhere.
        worker.companions = []
        for home in homes:
            home.release(now, dry=False)

    def gone(self, worker: Worker[J]) -> None:
        """Note that *worker* has put everything away and its thread ends.

        Args:
            worker: one whose `work` returned.
        """
        with self._lock:
            self._recall(worker)
            self._crew.discard(worker)
            if worker in self._idle:  # It broke on its way to its rest.
                self._idle.remove(worker)
            if self._coming is worker:
                self._coming = None
            # It may have broken in the middle of a job.
            self._finished += worker.finished
            if worker.job is not None:
                self._finished += 1 + len(worker.companions)
            self._waits.extend(worker.waited)
            self._runs.extend(worker.ran)
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

    def _pull(self, worker: Worker[J], now: float) -> bool:
        """Let *worker* take what it shall run next; where there is nothing it parks.

        Args:
            worker: one that is here, and hands in the times of what it has run.
            now: seconds of time.monotonic().

        Returns:
            Whether it has taken anything.
        """
        with self._lock:
            ran = len(worker.ran)
            if ran:
                self._learn(worker)
            elif self._coming is worker:
                self._coming = None
            if not worker.ready:
                self._recall(worker)
                self._move(worker, Place.PREPARING)
                return False
            if worker.place is not Place.AWAKE:
                self._move(worker, Place.AWAKE)
            self._appraise()
            took = self._take(worker, now)
            comer = None
            if not ran or len(self._queue) > self._enough:
                comer = self._call(now)
            if len(worker.taken) > 1 and self not in ticker.watched:
                ticker.watch(self)
        if comer is not None:
            self._bring(comer)
        return took

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


def holdAll(jobs: Iterable[Job[Any]], now: float) -> list[PendingEvents]:
    """Queue the outcomes of *jobs*, each for its own loop.

    Args:
        jobs: those that have been run; nobody waits for one without a `home`.
        now: seconds of time.monotonic().

    Returns:
        The queues, each once: `release` is to follow.
    """
    homes: list[PendingEvents] = []
    for job in jobs:
        home = job.home
        if home is not None:
            try:
                home.hold(job, now, more=True)
            except LoopClosed:
                job.lost()
            if home not in homes:
                homes.append(home)
    return homes
