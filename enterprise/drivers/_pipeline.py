"""PostgreSQL pipelines: which statements go out together, and what is known of each.

Every statement has its own sync point, so each is its own transaction and has its own
error. Nobody is harmed by company: what may be slow, what only psycopg itself can read,
and what is not known to run in a pipeline, does not join.

`joins` is called with the team's lock held, on the worker's thread like all else here.

Source: PostgreSQL's documentation of pipeline mode.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

from enterprise.drivers._durations import PATIENCE_SECONDS
from enterprise.drivers._outcomes import Outcomes
from enterprise.drivers._round import Round
from enterprise.drivers._wire import Wire
from enterprise.jobs import Operation, Query, WholeResult
from threadpool.job import RUNNING

if TYPE_CHECKING:
    from enterprise.drivers.postgres import PostgresDriver
    from enterprise.jobs import DatabaseJob
    from enterprise.options import Options
    from enterprise.worker import ConnectionWorker

__all__ = ["MOST", "Pipeliner", "pipelinerFor"]

# So many statements in one pipeline, at the most. By then a round trip is shared by so
# many that it costs next to nothing.
MOST = 32

_KINDS = frozenset([Query, Operation, WholeResult])


def pipelinerFor(driver: PostgresDriver, options: Options) -> Pipeliner | None:
    """Return what does pipelines for one worker, where nothing speaks against them.

    PgBouncer hands sessions around, between two syncs, too; a function that clears the
    session wants to see each job.

    Args:
        driver: the pool's.
        options: the same's.
    """
    if (
        not options.cp_pipeline
        or options.cp_pgbouncer
        or options.cp_resetfun is not None
        or not hasattr(select, "poll")  # On Windows.
    ):
        return None
    return Pipeliner(driver)


class Pipeliner:
    """Does the statements of one worker, several at once.

    Args:
        driver: the pool's.

    Attributes:
        most: how many may join one, at the most.
        takes_one: it does one by itself, too, and learns how long that takes.
    """

    most = MOST - 1
    takes_one = True

    def __init__(self, driver: PostgresDriver) -> None:
        self.driver = driver
        self.durations = driver.durations
        self._wire: Wire | None = None
        # Its connections are not as psycopg makes them by itself.
        self._unfit = False
        self._ahead = 0.0  # Seconds that whoever joins next would have to wait.

    def joins(self, job: DatabaseJob[Any]) -> bool:
        """Say whether *job* may be the first of several, or one more of them.

        Args:
            job: the worker's own, or the next that waits.
        """
        if type(job) not in _KINDS or self._unfit:
            return False
        sql, params = job.args
        if type(sql) is not str:
            return False
        known = self.durations.of(sql)
        if not known.fit or (params is not None and not known.takes(params)):
            return False
        expected = known.expected()
        if job.state is RUNNING:  # The first one.
            # What is slow, or not known, shows by itself how long it takes.
            self._ahead = expected
            return True
        if self._ahead > PATIENCE_SECONDS or expected > PATIENCE_SECONDS:
            return False
        self._ahead += expected
        return True

    def run(self, worker: ConnectionWorker, jobs: list[DatabaseJob[Any]]) -> None:
        """Do *jobs* in one pipeline.

        Args:
            worker: whose connection lives.
            jobs: those that `joins` said yes to, in order.
        """
        raw = worker.upkeep.raw
        wire = self._wire
        if wire is None or wire.raw is not raw:
            wire = self._wire = Wire(raw)
        outcomes = Outcomes(worker, jobs[0])
        if not wire.fits():
            self._unfit = True
            outcomes.apart(jobs)
            return
        session = self.driver.sessionOf(raw)
        if session.usual is None and self.driver.pushes:
            for place, job in enumerate(jobs):
                if job.deadline is not None:
                    # Once in a session: by itself it asks what limit there is.
                    if not place:
                        outcomes.apart(jobs)
                        return
                    outcomes.handOn(jobs[place:])
                    jobs = jobs[:place]
                    break
        Round(self, worker, wire, outcomes).run(jobs)

    def __repr__(self) -> str:
        return f"<Pipeliner, {self.durations!r}, {self._wire!r}>"
