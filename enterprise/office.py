"""The pool's back office: its lanes and their crews, its figures, its start and end.

The front door (`adbapi`) brings jobs in; workers report here what became of their
connections. Any thread may enter.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from enterprise import forks
from enterprise.abandoned import Abandoned
from enterprise.deadline import Deadlines
from enterprise.drivers.base import Lane
from enterprise.ending import Ending
from enterprise.outage import Outage, another
from enterprise.stats import ErrorCounts, PoolStats, addUp
from enterprise.tally import Tally
from enterprise.worker import ConnectionWorker
from threadable import _switch
from threadpool import ticker
from threadpool.bound import Bound
from threadpool.crew import Crew
from threadpool.error import PoolClosed
from threadpool.failure import Failure
from threadpool.pool import ThreadPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from enterprise.drivers.base import Driver
    from enterprise.errors import ConnectFailed
    from enterprise.jobs import DatabaseJob
    from enterprise.options import Options
    from threadpool.defer import Deferred
    from threadpool.events import PendingEvents
    from threadpool.team import Team

__all__ = ["Office"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

# How soon a connection of the minimum that has ended is replaced, at the least: a
# worker that failed is gone after some microseconds, a human does not notice this.
FILL_SECONDS = 0.05


class Office:
    """Everything about a pool but its public methods.

    Args:
        driver: how to reach the database.
        options: how to behave.
    """

    def __init__(self, driver: Driver, options: Options) -> None:
        self.driver = driver
        self.options = options
        self.name = options.cp_name or "ConnectionPool"
        self.state = "not started"  # guarded by: _lock (for writing)
        self._lock = threading.Lock()
        # guarded by: _lock
        self._opened = self._closed = self._failed = self._lost = 0
        # Goes up with each connection that is found dead. guarded by: _lock (writing)
        self.generation = 0
        self.silent = False  # Whether a cancel was not confirmed at exit.
        self.grace = options.cp_grace
        self.tally = Tally()
        # Who waits for the start. guarded by: _lock
        self._starters: list[tuple[PendingEvents, Deferred[None]]] = []
        self._refilling = False  # guarded by: _lock
        self.ending = Ending(self)
        # Its thread is there before the first statement: when a statement must be
        # stopped it may be too late to start one.
        # More come when a server says nothing, which takes each of them a second.
        self._canceller = ThreadPool(
            1,
            max(4, options.cp_max),
            f"{self.name}-canceller",
            backlog=None,
            idle_seconds=0.2,
        )
        self.outage = Outage(self.name, driver)
        self.crews = self._make_crews()
        self._deadlines = Deadlines(self)
        self._abandoned = Abandoned(self)
        self.reader = self.crews.get(Lane.READER) or self.crews[Lane.ANY]
        self.writer = self.crews.get(Lane.WRITER) or self.crews[Lane.ANY]
        for crew in self.crews.values():
            crew.team.complains = False  # We know who it is, see `starving`.
        forks.register(self)

    def _make_crews(self) -> dict[Lane, Crew[DatabaseJob[Any]]]:
        options = self.options
        in_memory = self.driver.lives_in_memory
        keep = 1 if in_memory else options.cp_min
        crews: dict[Lane, Crew[DatabaseJob[Any]]] = {}
        lanes = self.driver.lanes(options.cp_max)
        bound = Bound(sum(lanes.values()), options.cp_backlog)
        for lane, maximum in lanes.items():
            minimum = min(keep, maximum)
            keep -= minimum
            crews[lane] = Crew(
                self.name if lane is Lane.ANY else f"{self.name}-{lane.value}",
                functools.partial(ConnectionWorker, self, lane),
                minimum=minimum,
                maximum=maximum,
                backlog=options.cp_backlog,
                bound=bound,  # One for all lanes.
                idle_seconds=math.inf if in_memory else options.cp_idle,
            )
        return crews

    # -- Work ------------------------------------------------------------------------

    def submit(self, job: DatabaseJob[T]) -> Deferred[T]:
        """Queue *job*; its Deferred fails when the pool takes no work. Loop thread.

        Raises:
            threadable.ThreadsDisabled: the program has forbidden threads.
        """
        if self.state == "not started":
            self._open()
        elif self.state != "open":
            return self.refuse(job, self._closed_error())
        if self.outage.barred:
            refusal = self.outage.refusal()
            if refusal is not None:
                return self.refuse(job, refusal)
        try:
            job.team.submit(job)
        except RuntimeError as error:  # A PoolError, or no thread could be started.
            return self.refuse(job, error)
        self._deadlines.expect(job)
        return job

    def refuse(self, job: DatabaseJob[T], error: Exception) -> Deferred[T]:
        """Fail *job*, which was not queued, with *error*. Loop thread."""
        self.tally.failed(error)
        job.errback(error)
        return job

    def tell(self, job: DatabaseJob[Any], error: Exception) -> None:
        """Fail *job*, which no worker has any more, with *error*. Any thread."""
        self.tally.failed(error)
        if job.home is not None:
            job.home.fire(job, Failure(error))

    def _closed_error(self) -> PoolClosed:
        return PoolClosed(
            f"{self.name} is closed and takes no more work. Make a new pool, or close "
            "this one after its last call."
        )

    def passOn(self, job: DatabaseJob[Any]) -> None:
        """Let the writer do a reader's *job*, which turned out to write."""
        self.tally.passOn()
        origin, job.team = job.team, self.writer.team
        self.resubmit(job, origin)

    def resubmit(
        self, job: DatabaseJob[Any], origin: Team[DatabaseJob[Any]] | None = None
    ) -> None:
        """Queue *job* once more, since there was no connection to do it on."""
        if job.cancel_wanted:  # It was stopped before anything was sent.
            job.outcome = Failure(job.stopped())
            job.sendHome()
            return
        try:
            job.team.resubmit(job, origin or job.team)
        except RuntimeError as error:
            self.tell(job, error)
        else:
            self._deadlines.again(job)

    def cancel(self, worker: ConnectionWorker, job: DatabaseJob[Any]) -> None:
        """Have *worker*'s driver stop *job*, without waiting for it. Any thread."""
        if self.driver.cancels:
            self._on_canceller(worker.cancel, job)

    def sever(self, worker: ConnectionWorker, job: DatabaseJob[Any]) -> None:
        """Have *worker*'s connection cut off, without waiting for it. Any thread."""
        self._on_canceller(worker.sever, job)

    def release(self, worker: ConnectionWorker, job: DatabaseJob[Any]) -> None:
        """Have *job*'s caller told, for nothing stops it. Any thread."""

        def give_up(given_up: DatabaseJob[Any]) -> None:
            worker.release(given_up)
            self._abandoned.look()

        self._on_canceller(give_up, job)

    def _on_canceller(
        self, stop: Callable[[DatabaseJob[Any]], None], job: DatabaseJob[Any]
    ) -> None:
        with contextlib.suppress(PoolClosed):  # The pool is closed, and the job over.
            self._canceller.callInThread(stop, job)

    # -- What workers report ---------------------------------------------------------

    def connecting(self) -> None:
        """An attempt to open a connection begins; `opened` or `failed` ends it."""
        self.outage.begun()

    def opened(self) -> None:
        """A connection was opened."""
        self._log_connection("opened")
        if self.outage.over():
            for crew in self.crews.values():
                crew.team.beCautious(None)
        with self._lock:
            self._opened += 1
            told: list[tuple[PendingEvents, Deferred[None]]] = []
            if self._opened - self._closed >= self.options.cp_min:
                told, self._starters = self._starters, told
        _tell(told, None)

    def closed(self) -> None:
        """A connection was closed."""
        self._log_connection("closed")
        with self._lock:
            self._closed += 1
        self._refill_soon()

    def lost(self) -> None:
        """A connection was found dead: the others are checked before their next job."""
        with self._lock:
            self._lost += 1
            self.generation += 1

    def failed(self, lane: Lane, error: ConnectFailed, began: float) -> None:
        """No connection could be opened; those who are not to wait are told."""
        with self._lock:
            self._failed += 1
            told, self._starters = self._starters, []
        jobs = self.outage.failed(self.crews[lane].team, error, began)
        # From here on they may call again, and are not to get this old error then.
        _tell(told, Failure(error))
        for job in jobs:
            self.tell(job, another(error))
        self._refill_soon()

    @property
    def setback(self) -> ConnectFailed | None:
        """Why connections cannot be opened at the moment; None if they can."""
        return self.outage.setback

    def _log_connection(self, what: str) -> None:
        level = logging.INFO if self.options.cp_noisy else logging.DEBUG
        _log.log(level, "%s %s a connection to %s", self.name, what, self.driver.name)

    # -- Start and end ---------------------------------------------------------------

    def start(self, home: PendingEvents) -> Deferred[None]:
        """Open the connections that shall always be open."""
        started: Deferred[None] = home.deferred()
        with self._lock:
            waits = self._opened - self._closed < self.options.cp_min
            if waits:
                self._starters.append((home, started))
        if self.state == "not started":
            self._open()
        if self.state != "open":
            _tell(self._take_starters(), Failure(self._closed_error()))
            if not waits:
                started.errback(self._closed_error())
        elif not waits:
            started.callback(None)
        else:
            self._refill()
        return started

    def _take_starters(self) -> list[tuple[PendingEvents, Deferred[None]]]:
        with self._lock:
            taken, self._starters = self._starters, []
        return taken

    def _refill_soon(self) -> None:
        """See to it that connections of the minimum that have ended are replaced."""
        with self._lock:
            lacks = self._opened - self._closed < self.options.cp_min
            if not lacks or self._refilling or self.state != "open":
                return
            self._refilling = True
        pause = max(FILL_SECONDS, self.outage.pause)
        ticker.alarm(time.monotonic() + pause, self._refill)

    def _refill(self) -> None:
        """Hire those who are missing. Any thread; the ticker's as a rule."""
        with self._lock:
            self._refilling = False
        if self.state != "open":
            return
        try:
            for crew in self.crews.values():
                crew.team.open()
        except RuntimeError as error:  # No thread could be started.
            _log.debug("%s could not be filled: %s", self.name, error)
        # Also where all were hired: each may fail, and be on its way out by then.
        self._refill_soon()

    def _open(self) -> None:
        _switch.turn_on(f"ConnectionPool {self.name!r}")
        with self._lock:
            if self.state != "not started":
                return
            self.state = "open"
        _switch.pool_started(self, self.name)
        # Where no thread can be had, each team has said so and asks again; a job that
        # nobody comes for is told when it is submitted.
        with contextlib.suppress(RuntimeError):
            self._canceller.start()
        for crew in self.crews.values():
            with contextlib.suppress(RuntimeError):
                crew.team.open()

    def beginClosing(self) -> bool:
        """Take no more work; say whether that is new."""
        with self._lock:
            if self.state in ("closing", "closed"):
                return False
            self.state = "closing"
        return True

    def ended(self) -> None:
        """Note that everybody is gone, or given up."""
        with self._lock:
            self.state = "closed"
        self._canceller.dismiss()
        _switch.pool_stopped(self)
        _tell(self._take_starters(), Failure(self._closed_error()))

    # -- Figures ---------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """Add up the figures of all lanes."""
        lanes = [crew.team.stats() for crew in self.crews.values()]
        with self._lock:
            opened, closed = self._opened, self._closed
            failed, lost = self._failed, self._lost
        tally = self.tally
        running = [job for crew in self.crews.values() for job in crew.team.running()]
        return addUp(
            lanes,
            connections=opened - closed,
            opened=opened,
            failed=failed,
            lost=lost,
            connects=tally.connects(),
            errors=ErrorCounts(tally.errors()),
            **tally.figures(),
            cancels_asked=tally.stopped + sum(job.stopping() for job in running),
            abandoned_now=sum(job.released for job in running),
        )


def _tell(whom: list[tuple[PendingEvents, Deferred[Any]]], result: object) -> None:
    """Fire Deferreds that belong to loops; those whose loop has ended are over."""
    for home, deferred in whom:
        home.fire(deferred, result)
