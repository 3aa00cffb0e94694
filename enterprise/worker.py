"""One connection's whole life: open, run, close. The thread that owns it lives here.

Nobody else touches the connection but the canceller, and only to stop what it does.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any

from enterprise.deadline import ranTooLong
from enterprise.drivers.base import Lane, TransactionState
from enterprise.errors import ConnectFailed, ConnectionLost, TransactionEnded
from enterprise.jobs import COMMITTED
from enterprise.refusals import noteNotMoved
from enterprise.upkeep import Upkeep
from threadpool.crew import ThreadWorker
from threadpool.failure import Failure
from threadpool.job import failureOf
from threadpool.worker import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from enterprise.jobs import DatabaseJob
    from enterprise.laneoffice import LaneOffice

__all__ = ["ConnectionWorker"]

_log = logging.getLogger(__name__)


class ConnectionWorker(ThreadWorker["DatabaseJob[Any]"]):
    """A thread that owns a connection.

    Args:
        office: the pool.
        lane: what kind of worker this is.
    """

    def __init__(self, office: LaneOffice, lane: Lane) -> None:
        super().__init__()
        self.ready = False
        self.office = office
        self.driver = office.driver
        self.lane = lane
        # Held while the canceller speaks to the connection.
        self.guard = threading.Lock()
        self.upkeep = Upkeep(office, lane)
        self._spared = False  # guarded by: guard (for setting it)
        self._done = False  # Its job is over and only to be concluded.
        self._tried = False
        self._doomed = False  # guarded by: guard
        # When it was cut off, in seconds of time.monotonic(). Written by the canceller.
        self.severed_at = math.inf
        self._limited = False  # A job's time limit may still be in the session.
        self._resets = office.options.cp_resetfun is not None
        self._asks = office.driver.notices
        self._batcher = office.driver.batcher(lane, office.options)
        # The job whose statement a cancel would hit. guarded by: guard, in a batch
        self.target: DatabaseJob[Any] | None = None
        # Those whose cancel hits it, too: they end together. guarded by: guard
        self.mates: list[DatabaseJob[Any]] = []
        self.handed_on = False  # A batcher has given the worker's job to another one.
        self._jobs = 0

    def prepare(self) -> bool:
        """Open the connection; without one, or with a lost one, resign.

        A worker lives as long as its connection. The next job that waits hires a new
        one, with a new connection.
        """
        if self._tried:
            return False
        self._tried = True
        self.ready = self._attempt(self.upkeep.open)
        return self.ready

    def _attempt(self, connect: Callable[[], None]) -> bool:
        try:
            connect()
        except ConnectFailed as error:
            began = self.upkeep.began
            self.office.failed(self.lane, error.with_traceback(None), began)
            return False
        return True

    def park(self, seconds: float) -> bool:
        """Wait for work; look after the connection meanwhile.

        Returns:
            False when there was none for so long, or when the connection has ended:
            whoever comes for the next job brings another one.
        """
        upkeep = self.upkeep
        keepalive = self.office.options.cp_keepalive or math.inf
        began = time.monotonic()
        left = seconds
        while upkeep.reset() and not upkeep.expired():
            part = max(0.0, min(left, keepalive, upkeep.remaining()))
            if super().park(part):
                upkeep.rested(time.monotonic() - began)
                return True
            left = seconds - (time.monotonic() - began)
            if left <= 0:
                return False
            if part == keepalive and not self.driver.lives_in_memory:
                upkeep.alive()
        # Woken at the last moment, it is waited for.
        return super().park(math.inf) if self.place is not Place.IDLE else False

    def run(self, job: DatabaseJob[Any]) -> bool:
        """Do *job* on the connection, and see whether the connection has survived."""
        self._jobs += 1
        upkeep = self.upkeep
        if (
            upkeep.attention
            or upkeep.generation != self.office.generation
            # A worker that never rests reads the clock now and then.
            or (not self._jobs & 255 and upkeep.expired())
            or (self._asks and self.driver.closed(upkeep.raw))
        ) and not self._renew(job):
            return False
        batcher = self._batcher
        if batcher is not None and batcher.joins(job):
            others: list[DatabaseJob[Any]] = []
            if job.team.anyWaiting(self):
                others = job.team.take(self, batcher.most, batcher.joins)
            if others or batcher.takes_one:
                self.handed_on = False
                batcher.run(self, [job, *others])
                return not (job.released or self.handed_on)
        return self.doAlone(job)

    def doAlone(self, job: DatabaseJob[Any]) -> bool:
        """Do *job* by itself, on the connection that lives.

        Args:
            job: this worker's, or one of those that it does together with that.

        Returns:
            Whether its outcome shall be brought home.
        """
        upkeep = self.upkeep
        raw = upkeep.raw
        self._spared = self._done = False
        job.worker = self
        self.target = job
        moved = failed = False
        try:
            if job.cancel_wanted:
                job.check()
            if job.deadline is not None or self._limited:
                self._limit(job, raw)
            job.outcome = job.do(self.driver, raw)
            if self.driver.dirty(raw):
                self._clean(job)
        except BaseException as error:
            if self._may_pass_on(job, error):
                moved = True
            else:
                failed = True
                self.driver.redact(error)
                job.outcome = self._judge(job, error)
        if job.deadline is not None:
            self.driver.limit(raw, None)
        if self._resets:
            upkeep.used()
        # It is over, though the team takes it away only later.
        self._spared = self._done = True
        if job.cancel_wanted:
            self._conclude(job)
        if failed and not job.released:
            self.office.tally.failed(job.outcome)
        job.worker = self.target = None
        if moved:
            self.office.passOn(job)
            return False
        job.clear()
        return not job.released

    def _renew(self, job: DatabaseJob[Any]) -> bool:
        """Make sure that there is a connection for *job*; False where it is not run."""
        # A server that says nothing keeps us here: whoever stops the job has the
        # connection cut off, and then goes on without us.
        self._spared = True  # There is no statement of the job's to be stopped.
        self._done = False
        job.worker = self
        renewed = self._attempt(self.upkeep.renew)
        with self.guard:
            job.worker = None
            cut = self.upkeep.severed
            self._doomed = self.upkeep.severed = False
            released = job.released
        if cut:  # Perhaps the new one.
            self.upkeep.dead = True
        if not renewed or cut:
            self.ready = False
        if released:
            job.clear()
        elif renewed and not cut:
            return True
        else:
            self.office.resubmit(job)
        return False

    def _conclude(self, job: DatabaseJob[Any]) -> None:
        # The canceller may be at it this very moment; it must not meet the next job's
        # statement.
        with self.guard:
            lost = self.upkeep.dead  # Not: discarded, as before a fork.
            if self._doomed:
                self.ready = False
            job.conclude(lost=lost)
        self.office.tally.ended(job)

    def _limit(self, job: DatabaseJob[Any], raw: Any) -> None:
        """Tell the driver how long *job* may take; one before may have been limited."""
        if job.deadline is None:
            self._limited = self.driver.unlimit(raw, alone=job.alone)
        else:
            left = job.deadline - time.monotonic()
            self._limited = True
            self.driver.limit(raw, left, alone=job.alone)

    def _clean(self, job: DatabaseJob[Any]) -> None:
        """End what a job has left open, and raise TransactionEnded for it."""
        if self.driver.state(self.upkeep.raw) is TransactionState.NONE:
            self.ready = False  # The connection has ended, after the job's answer.
            self.upkeep.bury()
            return
        raw = self.upkeep.raw
        job._roll_back(self.driver, raw)
        off = getattr(raw, "autocommit", True) is False  # And so for all who come.
        off = off or getattr(raw, "isolation_level", None) is not None
        if off and not self.driver.lives_in_memory:
            self.discard()
        raise TransactionEnded(
            "A statement began a transaction and nobody ended it, so it was rolled "
            "back: the next statement may run on any connection. Use runInteraction "
            "for what belongs together; it begins and ends the transaction."
        )

    def _may_pass_on(self, job: DatabaseJob[Any], error: BaseException) -> bool:
        if self.lane is not Lane.READER or not self.driver.refusedToWrite(error):
            return False
        if not job.movable and type(job).movable:
            noteNotMoved(error)
        return job.movable

    def cancel(self, job: DatabaseJob[Any]) -> None:
        """Stop *job* if it is still running here. The canceller's thread."""
        with self.guard:
            # One that was not confirmed is not sent again: the next would keep this
            # thread as long, and whoever else is to be stopped would wait for it.
            hit = self.target is job or job in self.mates
            if hit and not self._spared and not self._doomed:
                try:
                    self.driver.cancel(self.upkeep.raw)
                except Exception as error:
                    # It may still arrive, and must not hit the next one's statement.
                    self._doomed = True
                    _log.warning(
                        "%s did not confirm a cancel (%s: %s); the connection is "
                        "closed after this job.",
                        self.driver.name,
                        type(error).__name__,
                        str(error),  # Not itself: a log that keeps it keeps a socket.
                    )

    def sever(self, job: DatabaseJob[Any]) -> None:
        """Cut the connection off if *job* still runs here. The canceller's thread.

        The one way to wake a thread that waits on a dead network.
        """
        with self.guard:
            if job.worker is not self or self._done:
                return
            self.severed_at = time.monotonic()
            if self.driver.lives_in_memory:
                return  # The data would go with it.
            self._doomed = self.upkeep.severed = True
            self.office.tally.sever()
            if self.upkeep.raw is None:
                return  # It is being opened, and belongs to the driver alone.
            try:
                self.driver.sever(self.upkeep.raw)
            except Exception as error:
                _log.warning(
                    "%s could not be cut off (%s: %s).",
                    self.driver.name,
                    type(error).__name__,
                    error,
                )

    def release(self, job: DatabaseJob[Any]) -> None:
        """Tell the caller of a job that cannot be stopped; it goes on by itself.

        The worker stays busy with it, and closes the connection afterwards. The
        canceller's thread.
        """
        with self.guard:
            if job.worker is not self or self._done or job.home is None:
                return
            if job.phase is COMMITTED:  # The answer is on its way.
                return
            self._doomed = not self.driver.lives_in_memory
            job.released = True
            if job.fate() == "unknown":
                outcome = Failure(job.lostWith(self.driver, None))
            else:
                outcome = Failure(job.stopped())
        _log.warning(
            "%s does not react to a cancel. The caller goes on; the connection is "
            "closed when the driver returns.",
            self.driver.name,
        )
        self.office.tally.abandon()
        self.office.tally.failed(outcome)
        job.home.fire(job, outcome)

    def spare(self) -> None:
        """Let no cancel meet what this job does from here on."""
        with self.guard:
            self._spared = True

    def expose(self) -> None:
        """Let cancels meet again what this job does from here on."""
        with self.guard:
            self._spared = False

    def _judge(self, job: DatabaseJob[Any], error: BaseException) -> Any:
        upkeep = self.upkeep
        if not upkeep.gone and not self.driver.lost(upkeep.raw, error):
            return failureOf(self.explain(job, error))
        self.ready = False
        upkeep.bury()
        if isinstance(error, ConnectionLost):
            return failureOf(error)
        if self.driver.resolves and job.fate() == "unknown":
            value = job.learnFate(self)
            if value is not None:
                return value[0]
        return Failure(job.lostWith(self.driver, error))

    def explain(self, job: DatabaseJob[Any], error: BaseException) -> BaseException:
        """Return what *error* is to whoever waits for *job*.

        Args:
            job: one that has failed here, or a lease in which a call has.
            error: the driver's.

        Returns:
            QueryTimeout where the server was the one to keep the job's time limit.
        """
        due = job.deadline
        if due is None or job.cancel_wanted or time.monotonic() < due:
            return error
        if not self.driver.timedOut(error):
            return error
        limit = job.timeout
        if limit is None:
            limit = self.office.options.cp_query_timeout
        late = ranTooLong(limit)
        late.__cause__ = error
        return late

    def interrupt(self) -> None:
        """Stop whatever runs, for the process is about to end."""
        job = self.job
        if job is None or not self.driver.cancels:
            return
        office = self.office
        with self.guard:
            if self.target is None or self._spared or self._doomed:
                return
            try:
                if not office.silent:
                    self.driver.cancel(self.upkeep.raw)
                    return
            except Exception as error:
                # Nor will it answer the next one, and there is no time to ask each.
                office.silent = True
                _log.debug("%s did not confirm a cancel: %s", self.driver.name, error)
            self._doomed = True
            self.driver.sever(self.upkeep.raw)

    def discard(self) -> None:
        """Let no further job run on this connection."""
        self.ready = False

    def close(self) -> None:
        """Close the connection; the thread ends afterwards."""
        self.upkeep.close()
