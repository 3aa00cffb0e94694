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
from typing import TYPE_CHECKING, Any, TypeVar

from enterprise import forks
from enterprise.deadline import Deadlines
from enterprise.drivers.base import Lane
from enterprise.outage import Outage
from enterprise.stats import PoolStats, addUp
from enterprise.worker import ConnectionWorker
from threadable import _switch
from threadpool.crew import Crew
from threadpool.defer import Deferred
from threadpool.error import PoolClosed, PoolFull
from threadpool.failure import Failure
from threadpool.pool import ThreadPool
from threadpool.roster import bound

if TYPE_CHECKING:
    from collections.abc import Callable

    from enterprise.drivers.base import Driver
    from enterprise.errors import ConnectFailed
    from enterprise.jobs import DatabaseJob
    from enterprise.options import Options
    from threadpool.events import PendingEvents

__all__ = ["Office"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

# After `close` has told the drivers to stop, how long it waits for them to obey
# before it leaves their threads to themselves.
ABORT_SECONDS = 2.0

# How often it tells them in that time: a statement about to begin hears nothing.
HALTS = 10

# How often `start` looks whether a connection is missing that nobody is opening: a
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
        self.open_function = options.cp_openfun
        self.name = options.cp_name or "ConnectionPool"
        self.state = "not started"  # guarded by: _lock (for writing)
        self._lock = threading.Lock()
        # guarded by: _lock
        self._opened = self._closed = self._failed = self._lost = 0
        # Goes up with each connection that is found dead. guarded by: _lock (writing)
        self.generation = 0
        self.grace = options.cp_grace
        # Who waits for the start and for the end. guarded by: _lock
        self._starters: list[tuple[PendingEvents, Deferred[None]]] = []
        self._closers: list[tuple[PendingEvents, Deferred[None]]] = []
        self._ended = threading.Event()
        # Its thread is there before the first statement: when a statement must be
        # stopped it may be too late to start one.
        # More come when a server says nothing, which takes each of them a second.
        self._canceller = ThreadPool(
            1, 4, f"{self.name}-canceller", backlog=None, idle_seconds=0.2
        )
        self.outage = Outage(self.name, driver)
        self.crews = self._make_crews()
        self._deadlines = Deadlines(self)
        self.reader = self.crews.get(Lane.READER) or self.crews[Lane.ANY]
        self.writer = self.crews.get(Lane.WRITER) or self.crews[Lane.ANY]
        # Where two lanes share the bound, no lane can keep it by itself; one can.
        self._first, self._second = self.reader.team, self.writer.team
        self._limit = (
            math.inf
            if self._first is self._second
            else bound(options.cp_max, options.cp_backlog)
        )
        forks.register(self)

    def _make_crews(self) -> dict[Lane, Crew[DatabaseJob[Any]]]:
        options = self.options
        in_memory = self.driver.lives_in_memory
        keep = 1 if in_memory else options.cp_min
        crews: dict[Lane, Crew[DatabaseJob[Any]]] = {}
        lanes = self.driver.lanes(options.cp_max)
        for lane, maximum in lanes.items():
            minimum = min(keep, maximum)
            keep -= minimum
            crews[lane] = Crew(
                self.name if lane is Lane.ANY else f"{self.name}-{lane.value}",
                functools.partial(ConnectionWorker, self, lane),
                minimum=minimum,
                maximum=maximum,
                # See `_limit` for the bound that several lanes share.
                backlog=options.cp_backlog if len(lanes) == 1 else None,
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
            job.errback(
                PoolClosed(
                    f"{self.name} is closed and takes no more work. Make a new pool, "
                    "or close this one after its last call."
                )
            )
            return job
        try:
            if self._first.unfinished + self._second.unfinished >= self._limit:
                raise self._refusal()
            job.team.submit(job)
        except RuntimeError:  # A PoolError, or no thread could be started.
            job.errback()
        else:
            self._deadlines.expect(job)
        return job

    def _refusal(self) -> PoolFull:
        unfinished = self._first.unfinished + self._second.unfinished
        self._second.refuse()
        return PoolFull(
            f"{self.name} is full: {unfinished} unfinished jobs, and its bound is "
            f"{self._limit:.0f} ({self.options.cp_max} connections and a backlog of "
            f"{self.options.cp_backlog}). Work comes in faster than it gets done: "
            "submit less at a time, or raise cp_backlog.",
            unfinished=unfinished,
            limit=int(self._limit),
        )

    def passOn(self, job: DatabaseJob[Any]) -> None:
        """Let the writer do a reader's *job*, which turned out to write."""
        job.team = self.writer.team
        self.resubmit(job)

    def resubmit(self, job: DatabaseJob[Any]) -> None:
        """Queue *job* once more, since there was no connection to do it on."""
        try:
            job.team.submit(job)
        except RuntimeError:
            job.outcome = Failure()
            _send_home(job)

    def cancel(self, worker: ConnectionWorker, job: DatabaseJob[Any]) -> None:
        """Have *worker*'s driver stop *job*, without waiting for it. Any thread."""
        if self.driver.cancels:
            self._on_canceller(worker.cancel, job)

    def sever(self, worker: ConnectionWorker, job: DatabaseJob[Any]) -> None:
        """Have *worker*'s connection cut off, without waiting for it. Any thread."""
        self._on_canceller(worker.sever, job)

    def release(self, worker: ConnectionWorker, job: DatabaseJob[Any]) -> None:
        """Have *job*'s caller told, for nothing stops it. Any thread."""
        self._on_canceller(worker.release, job)

    def _on_canceller(
        self, stop: Callable[[DatabaseJob[Any]], None], job: DatabaseJob[Any]
    ) -> None:
        with contextlib.suppress(PoolClosed):  # The pool is closed, and the job over.
            self._canceller.callInThread(stop, job)

    # -- What workers report ---------------------------------------------------------

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

    def lost(self) -> None:
        """A connection was found dead: the others are checked before their next job."""
        with self._lock:
            self._lost += 1
            self.generation += 1

    def failed(self, lane: Lane, error: ConnectFailed) -> None:
        """No connection could be opened; those who are not to wait are told."""
        with self._lock:
            self._failed += 1
            told, self._starters = self._starters, []
        jobs = self.outage.failed(self.crews[lane].team, error)
        # From here on they may call again, and are not to get this old error then.
        _tell(told, Failure(error))
        for job in jobs:
            job.outcome = Failure(error)
            _send_home(job)

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
        if not waits:
            started.callback(None)
        elif self.state != "open":
            _tell([(home, started)], Failure(self._over()))
        else:
            self._fill(home)
        return started

    def _fill(self, home: PendingEvents) -> None:
        """Hire those who are missing, while anybody waits for the start.

        Not once: a worker that could not connect may still be on its way out.
        """
        if self._starters and self.state == "open":
            for crew in self.crews.values():
                crew.team.open()
            home.later(FILL_SECONDS, functools.partial(self._fill, home))

    def _open(self) -> None:
        _switch.turn_on(f"ConnectionPool {self.name!r}")
        with self._lock:
            if self.state != "not started":
                return
            self.state = "open"
        _switch.pool_started(self, self.name)
        self._canceller.start()
        for crew in self.crews.values():
            crew.team.open()

    def close(
        self, home: PendingEvents | None, timeout: float | None
    ) -> Deferred[None]:
        """End everything; see `ConnectionPool.close`."""
        seconds = self.options.cp_close_timeout if timeout is None else timeout
        closed: Deferred[None] = Deferred() if home is None else home.deferred()
        self._begin_closing()
        if home is None:
            if not self._ended.wait(seconds):
                for _ in range(HALTS):
                    self._stop_running()
                    if self._ended.wait(ABORT_SECONDS / HALTS):
                        break
                self._abandon()
            closed.callback(None)
            return closed
        with self._lock:
            over = self._ended.is_set()
            if not over:
                self._closers.append((home, closed))
        if over:
            closed.callback(None)
        else:
            for turn in range(HALTS):
                pause = seconds + ABORT_SECONDS * turn / HALTS
                home.later(pause, self._stop_running)
            home.later(seconds + ABORT_SECONDS, self._abandon)
        return closed

    def _begin_closing(self) -> None:
        with self._lock:
            if self.state in ("closing", "closed"):
                return
            self.state = "closing"
        # The readers first: what turns out to write must find the writer at work.
        self.reader.team.close(self._readers_gone)

    def _readers_gone(self) -> None:
        if self.writer is self.reader:
            self._end()
        else:
            self.writer.team.close(self._end)

    def _end(self) -> None:
        """Everybody is gone, or given up: say so to whoever waits."""
        with self._lock:
            self.state = "closed"
            self._ended.set()
            told, self._closers = self._closers, []
            never, self._starters = self._starters, []
        self._canceller.dismiss()
        _switch.pool_stopped(self)
        if never:
            _tell(never, Failure(self._over()))
        _tell(told, None)

    def _stop_running(self) -> None:
        """The time for ending by themselves is over: refuse and stop what is left."""
        if self._ended.is_set():
            return
        for crew in self.crews.values():
            for job in crew.team.withdraw(lambda _: True):
                job.outcome = Failure(self._over())
                _send_home(job)
            for job in crew.team.running():
                job.stop_error = self._over()
                job.halt()

    def _abandon(self) -> None:
        """The drivers do not obey: leave their threads to themselves."""
        if self._ended.is_set():
            return
        stuck = [job for crew in self.crews.values() for job in crew.team.running()]
        _log.warning(
            "%s is closed, but %d statement(s) go on in their driver, which does not "
            "react. Their threads end when the driver returns, or with the process.",
            self.name,
            len(stuck),
        )
        for job in stuck:
            if job.home is not None:
                _tell([(job.home, job)], Failure(self._over()))
        self.writer.team.close(self._end)  # Where it still waited for the readers.
        self._end()

    def _over(self) -> PoolClosed:
        return PoolClosed(
            f"{self.name} was closed before this was done; what it had begun was "
            "stopped and rolled back. Await the work before closing, or close with a "
            "longer timeout."
        )

    # -- Figures ---------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """Add up the figures of all lanes."""
        lanes = [crew.team.stats() for crew in self.crews.values()]
        with self._lock:
            opened, closed = self._opened, self._closed
            failed, lost = self._failed, self._lost
        return addUp(lanes, opened=opened, closed=closed, failed=failed, lost=lost)


def _tell(whom: list[tuple[PendingEvents, Deferred[Any]]], result: object) -> None:
    """Fire Deferreds that belong to loops; those whose loop has ended are over."""
    for home, deferred in whom:
        home.fire(deferred, result)


def _send_home(job: DatabaseJob[Any]) -> None:
    """Deliver a job that no worker delivers."""
    if job.home is not None:
        job.home.fire(job, job.outcome)
