"""One connection's whole life: open, run, close. The thread that owns it lives here.

Nobody else touches the connection, with one exception: the canceller, which may ask
the driver to stop what it is doing, and only while it does it.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from enterprise.drivers.base import Lane
from enterprise.errors import ConnectFailed, ConnectionLost, TransactionEnded
from threadpool.crew import ThreadWorker
from threadpool.failure import Failure
from threadpool.job import failureOf

if TYPE_CHECKING:
    from collections.abc import Callable

    from enterprise.drivers.base import Driver
    from enterprise.jobs import DatabaseJob
    from enterprise.options import Options

__all__ = ["ConnectionWorker", "LaneOffice"]

_log = logging.getLogger(__name__)


class LaneOffice(Protocol):
    """What a worker asks of the pool it works for. Any thread."""

    driver: Driver
    options: Options
    open_function: Callable[[Any], object] | None
    grace: float
    generation: int

    def opened(self) -> None:
        """A connection was opened."""
        ...

    def closed(self) -> None:
        """A connection was closed."""
        ...

    def failed(self, lane: Lane, error: ConnectFailed) -> None:
        """No connection could be opened; whoever waits for it must be told."""
        ...

    def cancel(self, worker: ConnectionWorker, job: DatabaseJob[Any]) -> None:
        """Have the driver stop *job* on *worker*'s connection."""
        ...

    def sever(self, worker: ConnectionWorker, job: DatabaseJob[Any]) -> None:
        """Have *worker*'s connection cut off, for it does not confirm a cancel."""
        ...

    def release(self, worker: ConnectionWorker, job: DatabaseJob[Any]) -> None:
        """Have the caller of *job* told, for nothing stops it."""
        ...

    def lost(self) -> None:
        """A connection was found dead; the others may be, too."""
        ...

    def resubmit(self, job: DatabaseJob[Any]) -> None:
        """Queue *job* once more: there was no connection to do it on."""
        ...

    def passOn(self, job: DatabaseJob[Any]) -> None:
        """Let the writer do *job*, which turned out to write."""
        ...


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
        self._raw: Any = None
        self._spared = False  # guarded by: guard (for setting it)
        self._tried = False
        self._doomed = False  # guarded by: guard
        self._dead = False
        # When it was cut off, in seconds of time.monotonic(). Written by the canceller.
        self.severed_at = math.inf
        self._severed = False  # By us, which says nothing about other connections.
        self._generation = 0  # Of the pool's, when the connection was known to live.
        self._expires = math.inf  # Seconds of time.monotonic().
        self._rested = False  # So long that the connection must be looked at.
        self._jobs = 0

    def prepare(self) -> bool:
        """Open the connection; without one, or with a lost one, resign.

        A worker lives as long as its connection. The next job that waits hires a new
        one, with a new connection.
        """
        if self._tried:
            return False
        self._tried = True
        try:
            self._raw = self._connect()
        except BaseException as error:
            self.office.failed(self.lane, self._explain(error))
            return False
        self.ready = True
        self.office.opened()
        return True

    def _connect(self) -> Any:
        self._generation = self.office.generation
        raw = self.driver.connect(self.lane)
        try:
            if self.office.open_function is not None:
                self.office.open_function(raw)
            self.driver.settle(raw, self.lane)
        except BaseException:
            self.driver.close(raw)
            raise
        if not self.driver.lives_in_memory:
            # Less up to a twentieth: those opened together shall not end together.
            span = self.office.options.cp_lifetime * random.uniform(0.95, 1)  # noqa: S311
            self._expires = time.monotonic() + span
        return raw

    # -- Whether it still lives ------------------------------------------------------

    def park(self, seconds: float) -> bool:
        """Wait for work; look after the connection meanwhile."""
        options = self.office.options
        began = time.monotonic()
        left = seconds
        while True:
            part = min(left, options.cp_keepalive or math.inf)
            if super().park(part):
                self._rested = time.monotonic() - began > options.cp_check
                return True
            left = seconds - (time.monotonic() - began)
            if left <= 0:
                return False
            if not self.driver.lives_in_memory and not self._alive():
                # The next job, or the end of this worker's patience, sees to it.
                self._expires = 0.0

    def _alive(self) -> bool:
        try:
            self.driver.check(self._raw, self.office.options.cp_good_sql)
        except Exception as error:
            _log.debug("An idle connection to %s is dead: %s", self.driver.name, error)
            self._dead = True
            if not self._severed:
                self.office.lost()
            return False
        self._generation = self.office.generation
        return True

    def _renewed(self) -> bool:
        """Make sure that the connection lives before it gets a job.

        Returns:
            False where it was dead, and no other could be opened.
        """
        self._rested = False
        if self.driver.lives_in_memory:
            return True
        expired = time.monotonic() >= self._expires
        if not expired and self._alive():
            return True
        self._put_away_quietly()
        try:
            self._raw = self._connect()
        except BaseException as error:
            self.ready = False
            self.office.failed(self.lane, self._explain(error))
            return False
        self._dead = False
        self.office.opened()
        return True

    def _explain(self, error: BaseException) -> ConnectFailed:
        if isinstance(error, ConnectFailed):
            return error  # The driver explains it better than we could.
        said = f"{type(error).__name__}: {error}".rstrip(".?! \n")
        explained = ConnectFailed(
            f"No connection to {self.driver.name} could be opened: {said}. Nothing "
            f"was done. {self._advice(error)} The driver's error is the cause."
        )
        explained.__cause__ = error
        return explained

    def _advice(self, error: BaseException) -> str:
        if isinstance(error, TypeError):
            return (
                "Check the arguments: the driver's connect() got all that do not "
                "start with cp_."
            )
        return self.driver.connect_advice

    def run(self, job: DatabaseJob[Any]) -> bool:
        """Do *job* on the connection, and see whether the connection has survived."""
        self._jobs += 1
        if (
            self._rested
            or self._generation != self.office.generation
            # A worker that never rests reads the clock now and then.
            or (not self._jobs & 255 and time.monotonic() >= self._expires)
        ) and not self._renewed():
            self.office.resubmit(job)
            return False
        self._spared = False
        job.worker = self
        moved = False
        try:
            if job.cancel_wanted:
                job.check()
            if job.deadline is not None:
                left = job.deadline - time.monotonic()
                self.driver.limit(self._raw, left)
            job.outcome = job.do(self.driver, self._raw)
            if self.driver.dirty(self._raw):
                self._clean()
        except BaseException as error:
            if self._may_pass_on(job, error):
                moved = True
            else:
                self.driver.redact(error)
                job.outcome = self._judge(job, error)
        if job.deadline is not None:
            self.driver.limit(self._raw, None)
        self._spared = True  # It is over, though the team takes it away only later.
        if job.cancel_wanted:
            # The canceller may be at it this very moment; it must not meet the next
            # job's statement.
            with self.guard:
                lost = not self.ready
                if self._doomed:
                    self.ready = False
                job.conclude(lost=lost)
        job.worker = None
        if moved:
            self.office.passOn(job)
            return False
        job.clear()
        return not job.released

    def _clean(self) -> None:
        """End a transaction that a job has left open: the next one's work is not in it.

        Raises:
            TransactionEnded: always.
        """
        self.driver.rollback(self._raw)
        raise TransactionEnded(
            "A statement began a transaction and nobody ended it, so it was rolled "
            "back: the next statement may run on any connection. Use runInteraction "
            "for what belongs together; it begins and ends the transaction."
        )

    def _may_pass_on(self, job: DatabaseJob[Any], error: BaseException) -> bool:
        return (
            self.lane is Lane.READER
            and job.movable
            and self.driver.refusedToWrite(error)
        )

    def cancel(self, job: DatabaseJob[Any]) -> None:
        """Stop *job* if it is still running here. The canceller's thread."""
        with self.guard:
            # One that was not confirmed is not sent again: the next would keep this
            # thread as long, and whoever else is to be stopped would wait for it.
            if self.job is job and not self._spared and not self._doomed:
                try:
                    self.driver.cancel(self._raw)
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
            if self.job is not job or job.worker is not self:
                return
            self.severed_at = time.monotonic()
            if self.driver.lives_in_memory:
                return  # The data would go with it.
            self._doomed = self._severed = True
            try:
                self.driver.sever(self._raw)
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
            if self.job is not job or job.worker is not self or job.home is None:
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
        job.home.fire(job, outcome)

    def spare(self) -> None:
        """Let no cancel meet what this job does from here on."""
        with self.guard:
            self._spared = True

    def _judge(self, job: DatabaseJob[Any], error: BaseException) -> Failure:
        if not self.driver.lost(self._raw, error):
            return failureOf(error)
        self.ready, self._dead = False, True
        if not self._severed:
            self.office.lost()
        if isinstance(error, ConnectionLost):
            return failureOf(error)
        return Failure(job.lostWith(self.driver, error))

    def interrupt(self) -> None:
        """Stop whatever runs, for the process is about to end."""
        job = self.job
        if job is not None and self.driver.cancels:
            self.cancel(job)

    def discard(self) -> None:
        """Let no further job run on this connection."""
        self.ready = False

    def close(self) -> None:
        """Close the connection; the worker's thread ends afterwards."""
        if self._raw is not None:
            self._put_away()

    def _put_away_quietly(self) -> None:
        try:
            self._put_away()
        except Exception as error:
            _log.warning(
                "An old connection to %s closed badly: %s", self.driver.name, error
            )

    def _put_away(self) -> None:
        raw, self._raw = self._raw, None
        try:
            self.driver.close(raw)
        except Exception as error:
            if not self._dead:
                raise
            # One that is dead already cannot say goodbye.
            _log.debug("A connection to %s closed badly: %s", self.driver.name, error)
        finally:
            self.office.closed()
