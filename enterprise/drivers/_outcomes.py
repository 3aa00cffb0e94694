"""The way home of those that travelled together: to their callers, or to other workers.

On the worker's thread.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from enterprise.jobs import NOT_SENT
from threadpool.failure import Failure
from threadpool.labour import holdAll

if TYPE_CHECKING:
    from enterprise.jobs import DatabaseJob
    from enterprise.worker import ConnectionWorker

__all__ = ["Outcomes"]


class Outcomes:
    """What becomes of the jobs that one worker does together.

    Args:
        worker: theirs.
        first: the worker's own job; the others are its companions.
    """

    def __init__(self, worker: ConnectionWorker, first: DatabaseJob[Any]) -> None:
        self._worker = worker
        self._first = first
        # Finished, and not on their way home.
        self._held: list[DatabaseJob[Any]] = []

    def end(self, job: DatabaseJob[Any], *, lost: bool = False) -> None:
        """Note that *job* has its outcome.

        Args:
            job: one whose statement no cancel can meet any more.
            lost: the connection has ended with it.
        """
        office = self._worker.office
        if job.cancel_wanted:
            with self._worker.guard:
                job.conclude(lost=lost)
            office.tally.ended(job)
        if job.released:
            job.home = None  # Its caller was told.
        else:
            if isinstance(job.outcome, Failure):
                office.tally.failed(job.outcome)
            self._held.append(job)
        job.clear()

    def bringHome(self, now: float | None = None) -> None:
        """Send home who is finished, before somebody else takes long.

        Args:
            now: seconds of time.monotonic(), where the caller has looked just now.
        """
        if not self._held:
            return
        held, self._held = self._held, []
        if now is None:
            now = time.monotonic()
        homes = holdAll(held, now)
        for job in held:
            job.home = None  # Nobody else is to bring it.
        for home in homes:
            home.release(now, dry=False)

    def alone(self, job: DatabaseJob[Any]) -> None:
        """Do *job* by itself, the plain way; or elsewhere, where that cannot be done.

        Args:
            job: one that nothing has become of.
        """
        self.bringHome()
        job.phase = NOT_SENT
        if not self._worker.ready:
            self.handOn([job])
        elif self._worker.doAlone(job):
            self._held.append(job)
        elif job.released:
            job.home = None
        else:
            self._gone(job)

    def apart(self, jobs: list[DatabaseJob[Any]]) -> None:
        """Do the first of *jobs* by itself; nobody has to wait for it.

        Args:
            jobs: none of which anything has become of.
        """
        if not jobs:
            return
        first, others = jobs[0], jobs[1:]
        if not first.team._closed:
            self.handOn(others)
            others = []
        for job in (first, *others):
            self.alone(job)

    def handOn(self, jobs: list[DatabaseJob[Any]]) -> None:
        """Queue *jobs* once more, in their order, before all that waits.

        Args:
            jobs: of which nothing was done here.
        """
        for job in reversed(jobs):
            job.phase = NOT_SENT
            self._worker.office.resubmit(job)
            self._gone(job)

    def _gone(self, job: DatabaseJob[Any]) -> None:
        worker = self._worker
        if job is self._first:
            worker.handed_on = True
        else:
            worker.companions.remove(job)
            worker.finished += 1  # As far as this worker is concerned.

    def __repr__(self) -> str:
        return f"<Outcomes, {len(self._held)} held>"
