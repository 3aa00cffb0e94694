"""Inquiries: what became of a COMMIT whose connection was lost before it answered.

The worker whose connection it was asks on a fresh one, on its own thread; the ticker's
thread cuts that one off when time is over. Only a server that can say for certain is
believed; everything else leaves the outcome unknown.

Source: PostgreSQL's `pg_xact_status`, which was made for this.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from threadpool import ticker
from threadpool.error import PoolClosed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enterprise.errors import Outcome
    from enterprise.jobs import DatabaseJob
    from enterprise.worker import ConnectionWorker

__all__ = ["Inquiry"]

_log = logging.getLogger(__name__)

# Between two questions, in seconds: from the first figure to the second, doubling. A
# backend notices soon that its client is gone, and a server takes a while to restart.
PAUSE_SECONDS = 0.01
PAUSE_LONGEST = 0.25

# How often the ticker looks whether an inquiry must end.
LOOK_SECONDS = 0.1

_OUTCOMES: dict[str | None, Outcome] = {
    "committed": "committed",
    "aborted": "rolled_back",
}


class Inquiry:
    """Asks what became of one transaction.

    Args:
        worker: whose connection was lost; it is closed already.
        job: whose transaction it was.
        ticket: what the driver made of that, before the COMMIT.
    """

    def __init__(
        self, worker: ConnectionWorker, job: DatabaseJob[Any], ticket: Any
    ) -> None:
        self._office = worker.office
        self._driver = worker.driver
        self._lane = worker.lane
        self._job = job
        self._ticket = ticket
        self._until = time.monotonic() + self._office.options.cp_timeout
        if job.deadline is not None:
            self._until = min(self._until, job.deadline)
        self._lock = threading.Lock()
        self._raw: Any = None  # guarded by: _lock (for cutting it off)
        self._done = False  # guarded by: _lock
        self._ended = threading.Event()  # Ends a pause.
        self._pause = PAUSE_SECONDS

    @classmethod
    def about(
        cls, ticket: Any, worker: ConnectionWorker, job: DatabaseJob[Any]
    ) -> Outcome:
        """Close what is left of *worker*'s connection, and ask. The worker's thread.

        Args:
            ticket: as for the class; one without a number changed nothing.
            worker: as for the class.
            job: as for the class.

        Returns:
            "committed", "rolled_back" or "unknown".
        """
        if ticket.xid is None:
            return "rolled_back"
        with worker.guard:  # The canceller may be about to cut it off.
            worker.upkeep.close()
        return cls(worker, job, ticket).outcome()

    def outcome(self) -> Outcome:
        """Ask until it is known, or time is over. The worker's thread.

        Returns:
            "committed", "rolled_back" or "unknown".
        """
        self._look()
        try:
            while not self._over():
                try:
                    status = self._ask()
                except Exception as error:
                    self._driver.redact(error)
                    _log.debug("Nobody could be asked about a COMMIT: %s", error)
                    if self._driver.fatal(error):
                        break
                else:
                    return _OUTCOMES.get(status, "unknown")
                self._wait()
        finally:
            with self._lock:
                self._done = True
        return "unknown"

    def _ask(self) -> str | None:
        with self._connection() as raw:
            while True:
                status = self._driver.verdict(raw, self._ticket)
                # It goes on where the server has not noticed yet that we are gone.
                if status != "in progress" or self._over():
                    return status
                self._wait()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        # No hook of the user's is called: nothing of his happens on it.
        raw = self._driver.connect(self._lane)
        self._office.opened()
        try:
            with self._lock:
                self._raw = raw
            yield raw
        finally:
            with self._lock:
                self._raw = None
            try:
                self._driver.close(raw)
            except Exception as error:
                _log.debug("A connection to ask on closed badly: %s", error)
            self._office.closed()

    def _wait(self) -> None:
        self._ended.wait(max(0.0, min(self._pause, self._until - time.monotonic())))
        self._pause = min(self._pause * 2, PAUSE_LONGEST)

    def _over(self) -> bool:
        job = self._job
        return (
            time.monotonic() >= self._until
            # Nobody waits for the answer any more.
            or job.released
            or job.called
            or isinstance(job.stop_error, PoolClosed)
        )

    def _look(self) -> None:
        """See to it that no silent server keeps the worker. The ticker's thread."""
        with self._lock:
            if self._done:
                return
            if self._over():
                self._ended.set()
                self._cut_off()
        when = time.monotonic() + LOOK_SECONDS
        ticker.alarm(when, self._look)

    def _cut_off(self) -> None:
        if self._raw is not None:
            try:
                self._driver.sever(self._raw)
            except Exception as error:
                _log.debug("An inquiry could not be cut off: %s", error)

    def __repr__(self) -> str:
        left = self._until - time.monotonic()
        return f"<Inquiry about {self._ticket}, {left:.1f} s left>"
