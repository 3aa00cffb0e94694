"""One group of writes: a transaction of SQLite's with several owners.

A statement needs no savepoint: SQLite undoes a failing one by itself, exactly as far as
it would alone. A function gets one. Where the whole transaction ends early, each owner
begins anew, alone. On the writer's thread; cancels look in under the worker's guard.

Source: the group commit of database logs.
"""

from __future__ import annotations

import re
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Self

from enterprise.errors import TransactionEnded
from enterprise.interaction import Interaction, _require_transaction
from enterprise.jobs import COMMITTED, COMMITTING, SENT, UNDONE
from enterprise.transaction import Transaction
from threadpool.failure import Failure

if TYPE_CHECKING:
    from contextvars import Context

    from enterprise.jobs import DatabaseJob
    from enterprise.worker import ConnectionWorker

__all__ = ["Group"]

# After these SQLite may have undone more than the statement, or the cause was not the
# statement's own. The low byte of an extended code is the code.
_SPECIAL = {
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CORRUPT,
}

_MEMBER = "threadbridge_member"

# What would end the transaction, and with it other people's work.
_ENDING = re.compile(
    r"(?>(?:[\s;]+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*)"
    r"(?:begin|commit|end|rollback(?!\s+(?:transaction\s+)?to\b))\b",
    re.IGNORECASE | re.DOTALL,
)


class GroupedTransaction(Transaction):
    """What a function gets that shares its transaction with others."""

    def execute(self, sql: Any, params: Any = None) -> Self:
        """Run one statement, as `Transaction.execute`; none that ends the transaction.

        Args:
            sql: the statement, with placeholders in the driver's style.
            params: a sequence or a mapping of values; None for none.

        Returns:
            This transaction, to fetch from or to iterate over.

        Raises:
            TransactionEnded: the statement would have ended it.
        """
        if isinstance(sql, str) and _ENDING.match(sql):
            raise TransactionEnded(
                f"{sql.split()[0].upper()!r} was refused: with group=True other calls "
                "share this transaction, and would end with it. Leave beginning and "
                "ending to the pool, and use txn.savepoint() for a part of it."
            )
        return super().execute(sql, params)

    def __getattr__(self, name: str) -> Any:
        if name == "connection":
            raise AttributeError(
                "The connection cannot be had here: with group=True its transaction "
                "is shared with other calls. Leave out group=True."
            )
        return super().__getattr__(name)


class Group:
    """The transaction of several jobs, and what becomes of each.

    Args:
        worker: whose connection lives, and is in no transaction.

    Attributes:
        members: the jobs, in the order in which they were done.
    """

    def __init__(self, worker: ConnectionWorker) -> None:
        self.worker = worker
        self.members: list[DatabaseJob[Any]] = []
        self._driver = worker.driver
        self._raw: sqlite3.Connection = worker.upkeep.raw
        self._good: list[DatabaseJob[Any]] = []
        # The context variables as they were before a function was called.
        self._contexts: list[tuple[DatabaseJob[Any], Context]] = []
        self._spoilt = False  # It must be done anew.
        self._unknown = False  # Somebody has ended it, in a way not to be seen.

    def begin(self, first: DatabaseJob[Any]) -> BaseException | None:
        """Take the lock; return why that was not possible.

        Args:
            first: for whom it is waited.
        """
        self._enter(first)
        limited = first.deadline is not None
        try:
            if first.deadline is not None:
                self._driver.limit(self._raw, first.deadline - time.monotonic())
            first.check()
            self._driver.begin(self._raw, readonly=False)
        except BaseException as error:
            return error
        finally:
            if limited:
                self._driver.limit(self._raw, None)
            # From here on whoever is to be stopped stops them all.
            with self.worker.guard:
                self.worker.mates = self.members
        return None

    def do(self, job: DatabaseJob[Any]) -> bool:
        """Do *job* in the transaction and keep its outcome.

        Args:
            job: the next member.

        Returns:
            False where the transaction is over, or must be.
        """
        self._enter(job)
        self.members.append(job)
        try:
            job.check()  # Before it has begun it can go without the others.
            job.phase = SENT
            if isinstance(job, Interaction):
                job.outcome = self._interact(job)
            else:
                job.outcome = job._say(self._driver, self._raw)  # type: ignore[attr-defined]  # a single statement
        except BaseException as error:
            self._driver.redact(error)
            if self._spoils(error):
                job.outcome = Failure(error)
                self._spoilt = True
            else:
                job.outcome = self.worker._judge(job, error)
        else:
            self._good.append(job)
        return not self._spoilt

    def _enter(self, job: DatabaseJob[Any]) -> None:
        worker = self.worker
        with worker.guard:  # A cancel of the one before must not meet this one.
            worker._spared = worker._done = False
            job.worker = worker
            worker.target = job

    def _spoils(self, error: BaseException) -> bool:
        """Say whether more is lost than the statement that failed."""
        seen: list[BaseException] = []
        cause: BaseException | None = error
        while cause is not None and cause not in seen:
            # A function may have made something else of it.
            if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _SPECIAL:
                return True
            seen.append(cause)
            cause = cause.__cause__ or cause.__context__
        try:
            return self._spoilt or not self._raw.in_transaction
        except sqlite3.ProgrammingError:  # Somebody has closed it.
            return True

    def _interact(self, job: Interaction[Any]) -> Any:
        fresh = job.context
        self._contexts.append((job, fresh))
        job.context = fresh.copy()
        return job.context.run(self._in_savepoint, job)

    def _in_savepoint(self, job: Interaction[Any]) -> Any:
        raw = self._raw
        raw.execute(f"savepoint {_MEMBER}")
        handle = GroupedTransaction(job, self._driver, raw)
        try:
            try:
                value = job._work(handle)
                job.check()
                _require_transaction(handle, self._driver, raw)
            finally:
                handle.finish()
            # What is to be checked at its own COMMIT, others may mend until theirs.
            deferred = raw.execute("pragma defer_foreign_keys").fetchone()[0]
            self._spoilt = self._spoilt or bool(deferred)
            raw.execute(f"release {_MEMBER}")
        except BaseException:
            if not raw.in_transaction and handle.trouble is None:
                self._unknown = True
            self._undo(job)
            raise
        return value

    def _undo(self, job: Interaction[Any]) -> None:
        if job.afterwards is not None:
            job.afterwards.undo(0)
        if not self._raw.in_transaction:
            return
        try:
            self.worker.spare()
            self._raw.execute(f"rollback to {_MEMBER}")
            self._raw.execute(f"release {_MEMBER}")
        except sqlite3.Error:
            self._spoilt = True
        finally:
            self.worker.expose()

    # -- How it ends -------------------------------------------------------------------

    def commit(self) -> bool:
        """Commit, unless the transaction is over or somebody is to be stopped.

        Returns:
            Whether all is done. If not, `breakUp`.
        """
        worker = self.worker
        good = self._good
        with worker.guard:  # Whoever releases a caller looks at the phase.
            if self._spoilt or any(job.cancel_wanted for job in good):
                return False
            for job in good:
                job.phase = COMMITTING
        try:
            self._driver.commit(self._raw)
        except BaseException:
            with worker.guard:
                for job in good:
                    job.phase = SENT
            return False
        for job in good:
            job.phase = COMMITTED
        self._settle(self.members)
        return True

    def fail(self, first: DatabaseJob[Any], error: BaseException) -> None:
        """Keep for *first* what its BEGIN failed with.

        Args:
            first: the only member.
            error: the driver's.
        """
        self.members.append(first)
        self._driver.redact(error)
        first.outcome = self.worker._judge(first, error)
        self._settle(self.members)

    def breakUp(self) -> None:
        """Roll back what is left, and have the members done again, one by one.

        Those that were stopped are not: they have their answers.
        """
        worker, members = self.worker, self.members
        first = members[0]
        first._roll_back(self._driver, self._raw)
        self._restore()
        with worker.guard:  # Who is stopped from here on is stopped in the queue.
            worker.target, worker.mates = None, []
            over = [job for job in members if job.cancel_wanted or self._unknown]
            for job in members:
                job.worker = None
                if job not in over:
                    job.phase = UNDONE
                    job.outcome = None
        for job in over:
            if self._unknown:
                job.outcome = Failure(_unseen())
            elif not _failed(job):
                job.outcome = Failure(job.stopped())
        first.team.giveBack(worker, [job for job in members[1:] if job not in over])
        self._settle(over)
        for job in over:
            if job is not first and not job.released:
                self._leave(job)
                job.sendHome()
        if first in over:
            return
        if worker.ready:
            worker.doAlone(first)
        else:  # It could not even be rolled back.
            first.outcome = Failure(first.lostWith(self._driver, None))

    def _restore(self) -> None:
        """Make the members what they were before."""
        for job, fresh in self._contexts:
            job.context = fresh
            if isinstance(job, Interaction) and job.afterwards is not None:
                job.afterwards.undo(0)

    def _settle(self, members: list[DatabaseJob[Any]]) -> None:
        """Have *members*, whose outcomes are known, go home."""
        worker = self.worker
        with worker.guard:
            worker._spared = True
            worker.target, worker.mates = None, []
            for job in members:
                job.worker = None
        if worker._resets:
            worker.upkeep.used()
        for job in list(members):
            if job.cancel_wanted:
                worker._conclude(job)
            if _failed(job) and not job.released:
                worker.office.tally.failed(job.outcome)
            job.clear()
            if job.released:
                self._leave(job)

    def _leave(self, job: DatabaseJob[Any]) -> None:
        """Let nobody bring *job* home again."""
        worker = self.worker
        if job in worker.companions:
            worker.companions = [each for each in worker.companions if each is not job]
            worker.finished += 1


def _failed(job: DatabaseJob[Any]) -> bool:
    return isinstance(job.outcome, Failure)


def _unseen() -> TransactionEnded:
    return TransactionEnded(
        "A function that shared this transaction (group=True) has ended it by itself, "
        "so whether this was committed is not known. Look before you do it again, and "
        "leave beginning and ending to the pool."
    )
