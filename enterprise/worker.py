"""One connection's whole life: open, run, close. The thread that owns it lives here.

Nobody else touches the connection, with one exception: the canceller, which may ask
the driver to stop what it is doing, and only while it does it.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Protocol

from enterprise.drivers.base import Lane
from enterprise.errors import ConnectFailed, TransactionEnded
from threadpool.crew import ThreadWorker
from threadpool.job import failureOf

if TYPE_CHECKING:
    from collections.abc import Callable

    from enterprise.drivers.base import Driver
    from enterprise.jobs import DatabaseJob
    from threadpool.failure import Failure

__all__ = ["ConnectionWorker", "LaneOffice"]

_log = logging.getLogger(__name__)


class LaneOffice(Protocol):
    """What a worker asks of the pool it works for. Any thread."""

    driver: Driver
    open_function: Callable[[Any], object] | None

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
        raw = self.driver.connect(self.lane)
        try:
            if self.office.open_function is not None:
                self.office.open_function(raw)
            self.driver.settle(raw, self.lane)
        except BaseException:
            self.driver.close(raw)
            raise
        return raw

    def _explain(self, error: BaseException) -> ConnectFailed:
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
        self._spared = False
        job.worker = self
        finished = True
        try:
            if job.cancel_wanted:
                job.check()
            job.outcome = job.do(self.driver, self._raw)
            if self.driver.dirty(self._raw):
                self._clean()
        except BaseException as error:
            if self._may_pass_on(job, error):
                finished = False
            else:
                self.driver.redact(error)
                job.outcome = self._judge(error)
        self._spared = True  # It is over, though the team takes it away only later.
        if job.cancel_wanted:
            # The canceller may be at it this very moment; it must not meet the next
            # job's statement.
            with self.guard:
                if self._doomed:
                    self.ready = False
                job.conclude()
        job.worker = None
        if finished:
            job.clear()
        else:
            self.office.passOn(job)
        return finished

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
            if self.job is job and not self._spared:
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
                        error,
                    )

    def spare(self) -> None:
        """Let no cancel meet what this job does from here on."""
        with self.guard:
            self._spared = True

    def _judge(self, error: BaseException) -> Failure:
        if self.driver.lost(self._raw, error):
            self.ready = False
        return failureOf(error)

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
        raw, self._raw = self._raw, None
        if raw is None:
            return
        try:
            self.driver.close(raw)
        finally:
            self.office.closed()
