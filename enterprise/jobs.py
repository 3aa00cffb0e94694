"""The kinds of work a connection's worker does, each as one job.

Made on the loop's thread, done on the worker's. What a job says to the database, it
says through the driver it is handed.
"""

from __future__ import annotations

import functools
import logging
import math
import re
import time
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar

from enterprise.errors import ConnectionLost
from enterprise.labels import shown
from enterprise.rows import Result
from threadpool import ticker
from threadpool._chain import LATER, cancelledError
from threadpool.failure import Failure
from threadpool.job import Job

if TYPE_CHECKING:
    from enterprise.drivers.base import Driver
    from enterprise.errors import Outcome
    from enterprise.worker import ConnectionWorker
    from threadpool.defer import Deferred
    from threadpool.events import PendingEvents
    from threadpool.team import Team

__all__ = [
    "COMMITTED",
    "COMMITTING",
    "NOT_SENT",
    "SENT",
    "UNDONE",
    "DatabaseJob",
    "Operation",
    "Query",
    "Script",
    "WholeResult",
]

_log = logging.getLogger(__name__)

T = TypeVar("T")

# A cancel that reaches the database between two statements, or just before the first,
# stops nothing. It is sent again after this time, then after twice as long, and so on.
AGAIN_SECONDS = 0.02

_FATES = {
    "not_sent": "Nothing was sent; try again.",
    "rolled_back": "Its transaction was not committed; try again if you want it done.",
    "committed": "The work was committed before.",
    "unknown": (
        "Whether the work was committed is not known; look before you do it again."
    ),
}

# Statements that change nothing; a function that writes may hide in a SELECT, which is
# then the caller's to know.
_READING = {"select", "values", "show", "table", "explain"}

# Except these: EXPLAIN ANALYZE does it, and SELECT INTO makes a table.
_WRITING = re.compile(r"\banaly[sz]e\b|\binto\b")

# How far a job has come, which decides what a lost connection means for it.
NOT_SENT = "not sent"
SENT = "sent"
COMMITTING = "committing"
COMMITTED = "committed"
UNDONE = "undone"  # It was done with others, rolled back, and is to be done alone.


class DatabaseJob(Job[T]):
    """A job that needs a connection.

    Attributes:
        timeout: seconds it may take from submission to the end; None for no limit.
        deadline: when they are over, in seconds of time.monotonic().
        phase: how far it has come. Written by the worker.
    """

    __slots__ = (
        "cancel_wanted",
        "deadline",
        "phase",
        "released",
        "stop_error",
        "timeout",
        "worker",
    )

    # Whether the writer may do it where a reader was refused.
    movable = False
    # Whether it keeps its worker for its caller, who then says what to do.
    lingers = False

    # Whether it does without `Driver.begin`.
    alone = True
    # What it is called when what it was made of has been taken away.
    nameless = "a call"

    def __init__(
        self,
        home: PendingEvents,
        function: Any,
        args: Any,
        kwargs: Any,
        team: Team[Any],
    ) -> None:
        Job.__init__(self, home, function, args, kwargs, team)
        # Set once, by whoever wants it stopped; read by the worker between its steps.
        self.cancel_wanted = False
        self.timeout: float | None = None
        self.deadline: float | None = None
        self.phase = NOT_SENT
        self.worker: ConnectionWorker | None = None
        # What to fail with when stopped; None for CancelledError.
        self.stop_error: Exception | None = None
        self.released = False  # Its caller was told; guarded by: the worker's guard

    def do(self, driver: Driver, raw: Any) -> T:
        """Do the work and return its value. Worker's thread."""
        raise NotImplementedError

    def label(self) -> str:
        """Say what it is: SQL without values, or a function's name. Any thread."""
        args = self.args  # Taken away by the worker when it is done.
        return shown(args[0]) if args else self.nameless

    def sendHome(self) -> None:
        """Deliver the outcome where no worker does. Any thread."""
        if self.home is not None:
            self.home.fire(self, self.outcome)

    def check(self) -> None:
        """Raise CancelledError where the job was cancelled meanwhile."""
        if self.cancel_wanted:
            raise CancelledError

    def enterCommit(self) -> None:
        """Go over the line behind which a cancel comes too late. Worker's thread.

        Raises:
            CancelledError: somebody wants it stopped. Roll back.
        """
        worker = self.worker
        if worker is None:
            self.check()
            self.phase = COMMITTING
            return
        with worker.guard:  # Whoever releases the caller looks at the phase.
            self.check()
            self.phase = COMMITTING

    def _roll_back(self, driver: Driver, raw: Any) -> None:
        """Leave no transaction behind for the next job, after an error."""
        if self.worker is not None:
            self.worker.spare()  # A rollback that is cancelled costs the connection.
        try:
            driver.rollback(raw)
        except BaseException as error:  # The first error is the one to be told.
            gone = driver.lost(raw, error)
            if self.worker is not None:
                self.worker.discard()
                # No function of the user's is to find it as it is.
                self.worker.upkeep.dead, self.worker.upkeep.gone = True, gone
            # Where the connection is gone, so is the transaction, and somebody is told.
            level = logging.DEBUG if gone else logging.WARNING
            _log.log(
                level,
                "A rollback failed (%s); the connection is closed.",
                str(Failure(error)),
            )

    def idleSince(self) -> float:
        """Return since when its worker has waited for the caller. Any thread.

        Returns:
            Seconds of time.monotonic(); math.inf where it does not.
        """
        return math.inf

    def answer(self) -> Deferred[Any]:
        """Return what its caller waits for while it is queued. Loop thread."""
        return self

    def strand(self) -> None:
        """Have it ended, for its loop was closed without a word. Any thread."""

    # -- Stopping it -----------------------------------------------------------------

    def stopRunning(self) -> object:
        """Have the statement stopped where it runs; the worker then confirms it."""
        # Where it ends otherwise than by CancelledError the cancel goes on to the task.
        self._late_cancel = True
        if not self.cancel_wanted:
            self.pursue()
        return LATER

    def stopping(self) -> bool:
        """Say whether it was told to stop, or what it does just now. Any thread."""
        return self.cancel_wanted

    def halt(self) -> None:
        """Stop the statement that runs at this moment, if there is one. Any thread."""
        self.cancel_wanted = True
        worker = self.worker
        if worker is not None:  # Else it will check before it begins.
            worker.office.cancel(worker, self)

    def pursue(self) -> None:
        """Halt it until there is an answer, and do without one in the end. Any thread.

        Again, since a statement about to begin hears nothing. After `cp_grace` the
        connection is cut off; after as long again its caller is told without it.
        """
        self._pursue(time.monotonic(), AGAIN_SECONDS, 0)

    def _pursue(self, since: float, pause: float, measures: int) -> None:
        if self.called or self.released:
            return
        self.halt()
        worker = self.worker
        now = time.monotonic()
        if worker is not None:
            grace = worker.office.grace
            if not measures and now - since >= grace:
                measures = 1
                worker.office.sever(worker, self)
            elif measures and now - worker.severed_at >= grace:
                worker.office.release(worker, self)
                return
        again = functools.partial(self._pursue, since, min(pause * 2, 0.5), measures)
        ticker.alarm(now + pause, again)

    def conclude(self, *, lost: bool) -> None:
        """Say what the outcome of a stopped job is. Worker's thread.

        "Cancelled" means "not committed": where the work was done all the same, its
        value is the answer, and the cancellation goes on to the awaiting task.

        Args:
            lost: the connection has ended with it.
        """
        if self.phase is COMMITTED or not isinstance(self.outcome, Failure):
            return
        if not (lost and self.fate() == "unknown"):
            self.outcome = Failure(self.stopped())

    def stopped(self) -> BaseException:
        """Make what a caller gets whose job was stopped."""
        return self.stop_error or cancelledError(self._cancel_message)

    def learnFate(self, worker: ConnectionWorker) -> tuple[T] | None:
        """Find out what became of a COMMIT whose answer was lost. Worker's thread.

        Args:
            worker: whose connection was lost.

        Returns:
            The value, alone in a tuple, where all is done; else None, and `fate` says
            what is known.
        """
        return None

    def lostWith(self, driver: Driver, error: BaseException | None) -> ConnectionLost:
        """Make what a caller gets whose connection was lost.

        Args:
            driver: for its name.
            error: what the driver said; None where it said nothing.
        """
        fate = self.fate()
        said = "it does not answer" if error is None else str(error).rstrip(".?! \n")
        lost = ConnectionLost(
            f"The connection to {driver.name} was lost: {said}. {_FATES[fate]} "
            "The pool replaces it by itself.",
            fate,
        )
        lost.__cause__ = error
        return lost

    def fate(self) -> Outcome:
        """Say what is known of this job's work when its connection ends now."""
        if self.phase is NOT_SENT:
            return "not_sent"
        if self.phase is COMMITTED:
            return "committed"
        if self.phase is COMMITTING and not self.reads():
            return "unknown"
        return "rolled_back"

    def reads(self) -> bool:
        """Say whether it can have changed nothing, whatever became of it."""
        return False


class _Single(DatabaseJob[T]):
    """What goes to the driver in one piece, and is committed by itself."""

    __slots__ = ()

    def do(self, driver: Driver, raw: Any) -> T:
        """Say it to the driver; leave nothing behind where that fails."""
        try:
            if driver.autocommits:
                self.phase = COMMITTING
                value = self._say(driver, raw)
            else:
                self.phase = SENT
                value = self._say(driver, raw)
                self.enterCommit()
                driver.commit(raw)
        except BaseException:
            self._roll_back(driver, raw)
            raise
        self.phase = COMMITTED
        return value

    def _say(self, driver: Driver, raw: Any) -> T:
        raise NotImplementedError

    def reads(self) -> bool:
        """Say whether the statement reads, by its first word."""
        words = (
            str(self.args[0]).replace("(", " ").split(maxsplit=1) if self.args else []
        )
        if not words or words[0].lower() not in _READING:
            return False
        text = str(self.args[0]).rstrip("; \n").lower()
        return ";" not in text and not _WRITING.search(text)


class Query(_Single["list[Any]"]):
    """One statement, for its rows."""

    __slots__ = ()
    movable = True

    def _say(self, driver: Driver, raw: Any) -> list[Any]:
        sql, params = self.args
        return driver.query(raw, sql, params)


class Operation(_Single[None]):
    """One statement, for its effect."""

    __slots__ = ()

    def _say(self, driver: Driver, raw: Any) -> None:
        sql, params = self.args
        driver.operate(raw, sql, params)


class WholeResult(_Single[Result]):
    """One statement, for all that the driver tells."""

    __slots__ = ()
    movable = True

    def _say(self, driver: Driver, raw: Any) -> Result:
        sql, params = self.args
        return driver.result(raw, sql, params)


class Script(_Single[None]):
    """Several statements in one text."""

    __slots__ = ()

    def _say(self, driver: Driver, raw: Any) -> None:
        (text,) = self.args
        driver.script(raw, text)
