"""One pipeline, from its first statement to its last answer.

Whoever is stopped is stopped only while his statement is the oldest that has no answer.
Where that hits a neighbour all the same, the neighbour is run again, alone: what was
stopped was not done. Who is stopped behind others has the one before him interrupted,
who is then run again by himself, when all others are done. And when the server ends the
session at one statement, those behind it were not begun, and go to another connection.

Everything here runs on the worker's thread; the canceller looks at `worker.target`.

Source: PostgreSQL's documentation of cancelling requests, and of pipeline mode.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

from enterprise.drivers._durations import PATIENCE_SECONDS
from enterprise.drivers._losses import endsSession
from enterprise.drivers._wire import Entry
from enterprise.jobs import (
    AGAIN_SECONDS,
    COMMITTED,
    COMMITTING,
    Operation,
    Query,
)
from enterprise.rows import Result
from threadpool.failure import Failure
from threadpool.job import failureOf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGresult

    from enterprise.drivers._outcomes import Outcomes
    from enterprise.drivers._pipeline import Pipeliner
    from enterprise.drivers._wire import Wire
    from enterprise.jobs import DatabaseJob
    from enterprise.worker import ConnectionWorker

__all__ = ["Round"]

_log = logging.getLogger(__name__)

# Where nobody waits behind the one that runs, the worker still looks up now and then:
# a connection that was cut off wakes it, but nothing else would.
LOOK_SECONDS = 0.25

# No statement is believed to take less.
SHORTEST_SECONDS = 0.000001

_TUPLES = ExecStatus.TUPLES_OK
_FATAL = ExecStatus.FATAL_ERROR

_CANCELLED = "57014"
_NOT_PREPARED = "26000"
# "Cannot be executed within a pipeline", "cached plan must not change result type";
# "cannot run inside a transaction block".
_NOT_HERE = frozenset(["0A000", "25001", _NOT_PREPARED])


class Round:
    """One pipeline.

    Args:
        pipeliner: whose it is.
        worker: the same's.
        wire: its connection.
        outcomes: of its jobs.
    """

    def __init__(
        self,
        pipeliner: Pipeliner,
        worker: ConnectionWorker,
        wire: Wire,
        outcomes: Outcomes,
    ) -> None:
        self._outcomes = outcomes
        self._durations = pipeliner.durations
        self._driver = pipeliner.driver
        self._worker = worker
        self._wire = wire
        self._session = self._driver.sessionOf(wire.raw)
        # Those psycopg refuses by itself, or that are over before they begin.
        self._refused: list[DatabaseJob[Any]] = []
        # To be run once more, alone, and those whom nobody shall stand behind.
        self._again: list[DatabaseJob[Any]] = []
        self._last: list[DatabaseJob[Any]] = []
        # Not sent, the next one at the end.
        self._unsent: list[DatabaseJob[Any]] = []
        self._target: DatabaseJob[Any] | None = None
        # Interrupted for the sake of somebody behind it.
        self._evicted: DatabaseJob[Any] | None = None
        self._cancels = self._session.cancels
        # When the server last said something, or else was asked.
        self._heard = 0.0
        self._travels = 0.0  # Seconds of the next answer's that are the network's.
        self._suspect: Entry | None = None
        # When somebody was first seen to wait for being stopped, behind the target, and
        # when the target is interrupted for that, once more.
        self._blocked_since = math.inf
        self._evict_at = math.inf
        self._pause = AGAIN_SECONDS

    # -- The whole of it ---------------------------------------------------------------

    def run(self, jobs: list[DatabaseJob[Any]]) -> None:
        """Do *jobs*, in order; each then has its outcome, or was handed on."""
        worker, wire = self._worker, self._wire
        worker._spared = worker._done = False
        try:
            wire.enter()
            self._send(jobs)
            self._hear()
            if self._session.cancels != self._cancels:
                self._settle()
            wire.leave()
        except BaseException as error:
            self._lose(error)
        with worker.guard:
            worker._spared = True
            worker.target = None
            if worker._doomed:
                worker.ready = False
        if self._session.limited:
            worker._limited = True
        for job in self._refused:
            self._outcomes.alone(job)
        self._outcomes.apart([*self._again, *self._last])

    def _send(self, jobs: list[DatabaseJob[Any]]) -> None:
        wire = self._wire
        if wire.round_trip is math.inf:
            wire.ask()  # Its answer says how long nothing takes.
        self._unsent = jobs[::-1]
        self._heard = time.monotonic()
        self._travels = wire.round_trip
        for job in jobs:
            sql, params = job.args
            known = self._durations.of(sql)
            values: Sequence[Any] | None = None
            if params is not None:
                try:
                    values = wire.adapted(known, params)
                except Exception:  # psycopg's own way says better what is wrong.
                    self._refused.append(self._unsent.pop())
                    continue
            if job.cancel_wanted:
                self._refused.append(self._unsent.pop())
                continue
            if job.deadline is not None or self._session.limited:
                self._limit(job)
            job.phase = COMMITTING
            text = known.plain if params is None else known.numbered
            wire.say(Entry(job, known), text, values)
            self._unsent.pop()
            if self._target is None:
                self._aim([])

    def _limit(self, job: DatabaseJob[Any]) -> None:
        """Have the server's time limit changed, where the next one's is not *job*'s."""
        if not self._driver.pushes:
            return
        session = self._session
        limit: int | None = session.usual or 0
        if job.deadline is not None:
            limit = session.wanted(job.deadline - time.monotonic())
        if limit is not None:
            self._wire.ask(b"set statement_timeout = %d" % limit)
            session.limit = limit

    def _hear(self) -> None:
        wire = self._wire
        while wire.due:
            now = time.monotonic()
            self._outcomes.bringHome(now)
            usual = PATIENCE_SECONDS - (now - self._heard)
            if self._travels is not math.inf:
                usual += self._travels
            if usual <= 0:
                usual = AGAIN_SECONDS if len(wire.due) > 1 else LOOK_SECONDS
            if not wire.wait(usual):
                self._look_up()
                continue
            answered = wire.read()
            if answered:
                self._take(answered)

    def _take(self, answered: list[Entry]) -> None:
        """Give those who were answered their outcomes."""
        wire = self._wire
        now = time.monotonic()
        took, self._heard = now - self._heard, now
        travelled, self._travels = self._travels, 0.0
        own = took - travelled
        if travelled:
            wire.round_trip = min(wire.round_trip, took)
            self._durations.answered(took)
        known = answered[0].known
        if known is not None:
            slow = False
            if self._suspect is answered[0]:
                # It may also be the network that has become slower.
                wire.round_trip = math.inf
                slow = self._durations.slow(own)
            if slow:
                known.bar()
            # Those of other texts would be taken for the mean of both.
            elif all(entry.known is known for entry in answered):
                known.took(max(own, SHORTEST_SECONDS) / len(answered))
        self._suspect = None
        self._aim(answered)
        for entry in answered:
            if entry.job is not None:
                self._finish(entry)
            elif entry.failed():
                self._session.doubt()

    def _aim(self, answered: list[Entry]) -> None:
        """Let cancels meet the oldest one without an answer, and nobody else."""
        worker = self._worker
        due = self._wire.due
        target = due[0].job if due else None
        if target is None and due:
            target = next((entry.job for entry in due if entry.job is not None), None)
        changes = target is not self._target
        with worker.guard:
            for entry in answered:
                if entry.job is not None:
                    entry.job.worker = None
            worker.target = self._target = target
            if target is not None:
                target.worker = worker
        if changes and target is not None and target.cancel_wanted:
            worker.office.cancel(worker, target)

    # -- What became of each -----------------------------------------------------------

    def _finish(self, entry: Entry) -> None:
        job, bad = entry.job, entry.failed()
        if bad is None:
            job.phase = COMMITTED
            try:
                job.outcome = self._value(job, entry.results[-1])
            except Exception as trouble:  # A value that Python cannot hold, say.
                self._driver.redact(trouble)
                job.outcome = failureOf(trouble)
            self._outcomes.end(job)
            return
        error = error_from_result(bad)
        if entry.prepares and bad is entry.results[0]:
            self._wire.unprepared(entry)
        if self._innocent(entry, error):
            (self._last if job is self._evicted else self._again).append(job)
            return
        self._driver.redact(error)
        job.outcome = failureOf(self._worker.explain(job, error))
        self._outcomes.end(job)

    def _value(self, job: DatabaseJob[Any], result: PGresult) -> Any:
        if type(job) is Operation:
            return None
        rows = self._wire.rows(result) if result.status == _TUPLES else []
        if type(job) is Query:
            return rows
        columns = [result.fname(place) or b"" for place in range(result.nfields)]
        count = result.command_tuples
        if result.status == _TUPLES:
            count = result.ntuples
        return Result(
            rows,
            tuple(name.decode() for name in columns),
            -1 if count is None else count,
        )

    def _innocent(self, entry: Entry, error: psycopg.Error) -> bool:
        """Say whether *entry* failed only for what it travelled with, or the way."""
        job, state = entry.job, error.sqlstate
        if job.cancel_wanted:
            return False
        if state == _CANCELLED:
            due = job.deadline
            return self._session.cancels != self._cancels and (
                due is None or time.monotonic() < due
            )
        if state not in _NOT_HERE:
            return False
        if state == _NOT_PREPARED:
            self._wire.forgotten()
        elif entry.plan is not None and entry.plan.name:
            self._wire.unprepared(entry)
        elif entry.known is not None:
            entry.known.fit = False
        return True

    # -- Trouble -----------------------------------------------------------------------

    def _look_up(self) -> None:
        """See what has changed while the server said nothing.

        Raises:
            psycopg.OperationalError: the connection was cut off.
        """
        worker, wire = self._worker, self._wire
        now = time.monotonic()
        usual = PATIENCE_SECONDS
        if self._travels is not math.inf:
            usual += self._travels
        if now - self._heard >= usual:
            self._suspect = wire.due[0]
        if worker.upkeep.severed:
            raise psycopg.OperationalError("it was cut off")
        target = self._target
        if target is None or target.cancel_wanted:
            return  # Who wants it stopped sees to it.
        others = itertools.islice(wire.due, 1, None)
        if not any(entry.job and entry.job.cancel_wanted for entry in others):
            self._blocked_since = self._evict_at = math.inf
            return
        if self._blocked_since is math.inf:
            self._blocked_since = self._evict_at = now
            self._pause = AGAIN_SECONDS
        if now - self._blocked_since >= worker.office.grace:
            worker.office.sever(worker, target)
        elif now >= self._evict_at:
            self._evicted = target
            worker.office.cancel(worker, target)
            self._evict_at = now + self._pause
            self._pause *= 2

    def _settle(self) -> None:
        """Let no cancel be on its way any more.

        Raises:
            psycopg.OperationalError: the server does not answer.
        """
        worker, wire = self._worker, self._wire
        with worker.guard:  # The canceller has returned, and finds nobody from now on.
            worker.target = None
        self._outcomes.bringHome()
        began = time.monotonic()
        wire.ask()
        while wire.due:
            left = began + worker.office.grace - time.monotonic()
            if left <= 0:
                raise psycopg.OperationalError("it does not answer after a cancel")
            if wire.wait(left):
                wire.read()

    def _lose(self, error: BaseException) -> None:
        """Give all that have none an outcome, for the connection is lost."""
        worker, wire = self._worker, self._wire
        if not isinstance(error, psycopg.Error):
            _log.error("A pipeline broke; its connection is closed", exc_info=error)
        worker.ready = False
        worker.upkeep.bury()
        due = list(wire.due)
        wire.due.clear()
        if due and self._unsent and due[-1].job is self._unsent[-1]:
            self._unsent.pop()  # All but the end of it was sent.
        self._aim(due)
        said = next((r for r in wire.rest() if r.status == _FATAL), None)
        why = error if said is None else error_from_result(said)
        if type(why) is psycopg.DatabaseError:  # Without SQLSTATE: libpq's own.
            why = psycopg.OperationalError(*why.args)
        # If the server has said so, it has begun nothing of what came after that.
        ended = said is not None and endsSession(why)
        self._driver.redact(why)
        hit = due[:1] if ended else due
        for entry in hit:
            if entry.job is not None:
                entry.job.outcome = Failure(entry.job.lostWith(self._driver, why))
                self._outcomes.end(entry.job, lost=True)
        spared = [entry.job for entry in due[len(hit) :] if entry.job is not None]
        self._outcomes.handOn([*spared, *reversed(self._unsent)])

    def __repr__(self) -> str:
        return f"<Round, {self._wire!r}, {self._outcomes!r}>"
