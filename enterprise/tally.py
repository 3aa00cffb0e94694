"""The tally: what happened in a pool that its teams do not count. Any thread may enter.

Nothing here is on the way of a call that goes well.

Source: the counters of Go's `sql.DBStats` and of HikariCP's metrics.
"""

from __future__ import annotations

import threading
from asyncio import CancelledError
from collections import Counter
from typing import TYPE_CHECKING, Any

from threadpool.failure import Failure
from threadpool.stats import Times

if TYPE_CHECKING:
    from enterprise.jobs import DatabaseJob
    from threadpool.stats import Histogram

__all__ = ["Tally"]

# Classes of exceptions may be made while a program runs; after so many, all others are
# counted as one.
KINDS = 100
OTHER = "other"


class Tally:
    """One pool's counts; each only grows.

    Attributes:
        stopped: jobs that ended after they had been told to stop while they ran.
        confirmed: those of them whose own worker brought the answer.
        abandoned: callers told without an answer, while the driver went on.
        severed: connections cut off, since they did not confirm a cancel.
        repeated: attempts of interactions beyond their first.
        passed_on: jobs that a reader had to give to the writer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # All guarded by: _lock, for writing.
        self._errors: Counter[str] = Counter()
        self._connects = Times()
        self.stopped = self.confirmed = self.abandoned = 0
        self.severed = self.repeated = self.passed_on = 0

    def connected(self, seconds: float) -> None:
        """Note that a connection was opened.

        Args:
            seconds: how long that took.
        """
        with self._lock:
            self._connects.extend([seconds])
            self._connects.settle()

    def failed(self, outcome: object) -> None:
        """Note what a call failed with; cancelled is not failed.

        Args:
            outcome: a Failure, an exception, or something else, which is ignored.
        """
        error = outcome.value if isinstance(outcome, Failure) else outcome
        if not isinstance(error, BaseException) or isinstance(error, CancelledError):
            return
        kind = type(error).__name__
        with self._lock:
            if len(self._errors) >= KINDS and kind not in self._errors:
                kind = OTHER
            self._errors[kind] += 1

    def ended(self, job: DatabaseJob[Any]) -> None:
        """Note the end of *job*, told to stop meanwhile, on the thread that ran it."""
        with self._lock:
            self.stopped += 1
            self.confirmed += not job.released

    def abandon(self) -> None:
        """Note that a caller goes on while its driver does, too."""
        with self._lock:
            self.abandoned += 1

    def sever(self) -> None:
        """Note that a connection is cut off."""
        with self._lock:
            self.severed += 1

    def repeat(self) -> None:
        """Note that an interaction is called once more."""
        with self._lock:
            self.repeated += 1

    def passOn(self) -> None:
        """Note that a reader's job goes to the writer."""
        with self._lock:
            self.passed_on += 1

    def figures(self) -> dict[str, int]:
        """Return the counts under their names in `PoolStats`."""
        with self._lock:
            return {
                "cancels_confirmed": self.confirmed,
                "cancels_abandoned": self.abandoned,
                "severed": self.severed,
                "retries": self.repeated,
                "passed_on": self.passed_on,
            }

    def errors(self) -> dict[str, int]:
        """Return how often calls failed, by the name of the exception's class."""
        with self._lock:
            return dict(self._errors)

    def connects(self) -> Histogram:
        """Return how long it took to open connections."""
        with self._lock:
            return self._connects.histogram()

    def __repr__(self) -> str:
        return f"<Tally: {self._errors.total()} errors, {self.stopped} jobs stopped>"
