"""The end of a pool: what was taken goes on for a while, then it is stopped.

First the readers leave, then the writer, since what turns out to write must find it at
work. After the deadline drivers are told to stop, again and again for a moment; what
does not obey is left to itself. Any thread may enter.

Source: HikariCP's soft eviction and abort; psycopg_pool's `close(timeout)`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from enterprise.jobs import COMMITTED
from threadpool._fire import Fire
from threadpool.crew import currentTeam
from threadpool.defer import Deferred
from threadpool.error import LoopClosed, PoolClosed, WrongThread

if TYPE_CHECKING:
    from enterprise.jobs import DatabaseJob
    from enterprise.office import Office
    from threadpool.events import PendingEvents
    from threadpool.loops import Handle

__all__ = ["Ending"]

_log = logging.getLogger(__name__)

# After `close` has told the drivers to stop, how long it waits for them to obey
# before it leaves their threads to themselves.
ABORT_SECONDS = 2.0

# How often it tells them in that time: a statement about to begin hears nothing.
HALTS = 10

# Of what was stopped, how much is named in the log.
NAMED = 3


class _Closer:
    """A loop that waits for the end. Its thread only.

    It is the event of that end, too, for its timer must go then: one that stays keeps
    all of the pool until its time has come, which may be an hour.

    Args:
        ending: of the pool.
        home: the queue of the loop.
        closed: what to fire.
    """

    def __init__(
        self, ending: Ending, home: PendingEvents, closed: Deferred[tuple[str, ...]]
    ) -> None:
        self._ending = ending
        self.home = home
        self._closed = closed
        self._halts = 0
        self._timer: Handle | None = None
        self.report: tuple[str, ...] = ()

    def wait(self, seconds: float) -> None:
        self._timer = self.home.later(seconds, self._ring)

    def _ring(self) -> None:
        self._timer = None  # Some loops refuse to call off what has been called.
        if self._halts == HALTS:
            self._ending._abandon()
            return
        self._halts += 1
        self.wait(ABORT_SECONDS / HALTS)
        self._ending._stop_running()

    def happen(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        Fire(self._closed, self.report).happen()

    def __repr__(self) -> str:
        timer = "no timer" if self._timer is None else "a timer"
        return f"<Closer of {self._ending!r}, {self._halts} halts, {timer}>"


class Ending:
    """How one pool ends.

    Args:
        office: the pool's.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        self._lock = threading.Lock()
        self.over = threading.Event()
        # guarded by: _lock
        self._closers: list[_Closer] = []
        self._stopped: dict[DatabaseJob[Any], str] = {}

    def begin(
        self, home: PendingEvents | None, seconds: float
    ) -> Deferred[tuple[str, ...]]:
        """End everything; see `ConnectionPool.close`.

        Args:
            home: of the loop that waits; None where this thread does.
            seconds: for which work may go on.

        Returns:
            A Deferred of what was stopped; it has fired where this thread waited.

        Raises:
            WrongThread: this thread is one of the pool's own workers.
        """
        self._require_outside()
        closed: Deferred[tuple[str, ...]]
        closed = Deferred() if home is None else home.deferred()
        if self._office.beginClosing():
            self._office.reader.team.close(self._readers_gone)
        if home is None:
            if not self.over.wait(seconds):
                for _ in range(HALTS):
                    self._stop_running()
                    if self.over.wait(ABORT_SECONDS / HALTS):
                        break
                self._abandon()
            closed.callback(self._report())
            return closed
        closer = _Closer(self, home, closed)
        with self._lock:
            over = self.over.is_set()
            if not over:
                self._closers.append(closer)
        if over:
            closed.callback(self._report())
        else:
            closer.wait(seconds)
        return closed

    def _require_outside(self) -> None:
        team = currentTeam()
        if any(crew.team is team for crew in self._office.crews.values()):
            raise WrongThread(
                f"close() of {self._office.name} was called in one of its own "
                "workers, which would wait for its own end. Close the pool where its "
                "loop is: await pool.close() after the call, or reactor."
                "callFromThread(pool.close)."
            )

    def _readers_gone(self) -> None:
        office = self._office
        if office.writer is office.reader:
            self._end()
        else:
            office.writer.team.close(self._end)

    def _end(self) -> None:
        """Everybody is gone, or given up: say so to whoever waits."""
        with self._lock:
            first = not self.over.is_set()
            self.over.set()
            told, self._closers = self._closers, []
        if first:
            self._office.ended()
        report = self._report()
        if first and report:
            _log.warning(
                "%s was closed before %d of its jobs were done, which were stopped: "
                "%s%s.",
                self._office.name,
                len(report),
                "; ".join(report[:NAMED]),
                "; ..." if len(report) > NAMED else "",
            )
        for closer in told:
            closer.report = report
            with contextlib.suppress(LoopClosed):  # Nobody can be told there any more.
                closer.home.put(closer)

    def _report(self) -> tuple[str, ...]:
        # What was told to stop may have been done all the same.
        with self._lock:
            stopped = list(self._stopped.items())
        return tuple(label for job, label in stopped if job.phase is not COMMITTED)

    def _stop_running(self) -> None:
        """The time for ending by themselves is over: refuse and stop what is left."""
        if self.over.is_set():
            return
        for crew in self._office.crews.values():
            for job in crew.team.withdraw(lambda _: True):
                self._note(job)
                self._office.tell(job, self.error())
            for job in crew.team.running():
                job.stop_error = self.error()
                if self._note(job):
                    job.pursue()  # As far as cutting its connection off.
                else:
                    job.halt()

    def _note(self, job: DatabaseJob[Any]) -> bool:
        """Note that *job* is stopped; say whether that is new."""
        with self._lock:
            if job in self._stopped:
                return False
            self._stopped[job] = job.label()
        return True

    def _abandon(self) -> None:
        """The drivers do not obey: leave their threads to themselves."""
        if self.over.is_set():
            return
        office = self._office
        stuck = [job for crew in office.crews.values() for job in crew.team.running()]
        _log.warning(
            "%s is closed, but %d statement(s) go on in their driver, which does not "
            "react. Their threads end when the driver returns, or with the process.",
            office.name,
            len(stuck),
        )
        for job in stuck:
            if job.worker is not None:
                office.sever(job.worker, job)
            # A COMMIT that was sent may still be done.
            unknown = job.fate() == "unknown"
            lost = job.lostWith(office.driver, None) if unknown else None
            office.tell(job, lost or self.error())
        office.writer.team.close(self._end)  # Where it still waited for the readers.
        self._end()

    def error(self) -> PoolClosed:
        """Make what those get whose work the end has stopped."""
        return PoolClosed(
            f"{self._office.name} was closed before this was done; what it had begun "
            "was stopped and rolled back. Await the work before closing, or close with "
            "a longer timeout."
        )

    def __repr__(self) -> str:
        state = "over" if self.over.is_set() else "not over"
        return f"<Ending of {self._office.name}, {state}>"
