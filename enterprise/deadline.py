"""Deadlines: who waits too long, and who runs too long.

There is no timer per call. One alarm per pool rings when the earliest deadline that was
known has come; then all unfinished calls are looked at, and the next earliest is taken.
A busy pool is looked through once per second, an idle one never.

`expect` is called on loops' threads, the rest on the ticker's.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from enterprise.errors import PoolTimeout, QueryTimeout
from enterprise.holders import Holder, holdersOf, listed
from enterprise.starving import Starving
from threadpool import ticker
from threadpool.roster import STARVING_SECONDS

if TYPE_CHECKING:
    from enterprise.jobs import DatabaseJob
    from enterprise.office import Office

__all__ = ["Deadlines", "ranTooLong"]

# How soon a deadline may be looked for again, at the least.
SOON_SECONDS = 0.001


class Deadlines:
    """The deadlines of one pool's calls.

    Args:
        office: the pool's.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        self._wait = office.options.cp_timeout
        # Who waits so long is looked at: has it come to his turn?
        self._first_look = min(self._wait, STARVING_SECONDS)
        self._starving = Starving(office)
        self._limit = office.options.cp_query_timeout
        self._lock = threading.Lock()
        # When the alarm rings, in seconds of time.monotonic(). Written with the lock
        # held; who reads it without sees at worst one that has just rung, and its look
        # comes after the job was queued.
        self._next = math.inf

    def expect(self, job: DatabaseJob[Any]) -> None:
        """See to it that *job*, queued just now, is not forgotten."""
        when = job.queued_at + self._first_look
        timeout = self._limit if job.timeout is None else job.timeout
        if timeout is not None:
            job.deadline = job.queued_at + timeout
            when = min(when, job.deadline)
        if when < self._next:
            self._set(when)

    def again(self, job: DatabaseJob[Any]) -> None:
        """See to *job*, which was queued once more: its time goes on.

        Args:
            job: one that was expected before. Any thread.
        """
        when = self._patience(job)
        if when < self._next:
            self._set(when)

    def _patience(self, job: DatabaseJob[Any]) -> float:
        """Return when a job that waits is overdue, in seconds of time.monotonic()."""
        due = job.queued_at + self._wait
        return due if job.deadline is None else min(due, job.deadline)

    def _set(self, when: float) -> None:
        with self._lock:
            if when >= self._next:
                return
            self._next = when
        ring = weakref.WeakMethod(self._ring)  # A pool that is forgotten may go.
        ticker.alarm(when, lambda: (call := ring()) and call())

    def _ring(self) -> None:
        now = time.monotonic()
        with self._lock:
            if now < self._next:
                return  # An earlier alarm has taken this one's place.
            self._next = math.inf
        following = self._look(now)
        if following < math.inf:
            self._set(max(following, now + SOON_SECONDS))

    def _look(self, now: float) -> float:
        """End what is overdue; say when to look again."""
        following = self._starving.look(now)
        for crew in self._office.crews.values():
            team = crew.team
            # Once: a job that waits now may run a moment later, and is looked at there.
            for job in team.waiting():
                due = self._patience(job)
                if due > now:
                    following = min(following, due)
                elif team.remove(job):
                    self._end_waiting(job, now)
            for job in team.running():
                due = math.inf if job.deadline is None else job.deadline
                if due > now:
                    following = min(following, due)
                elif not job.cancel_wanted:
                    self._end_running(job)
        return following

    def _end_waiting(self, job: DatabaseJob[Any], now: float) -> None:
        office = self._office
        stats = office.stats()
        setback = office.setback
        holders = holdersOf([job.team], now)
        said = (
            f"The last attempt to connect failed: {setback.args[0]}"
            if setback is not None
            else _advice(holders)
        )
        held = f" They are held by: {listed(holders)}." if holders else ""
        error = PoolTimeout(
            f"The call waited {now - job.queued_at:.1f} s for a connection of "
            f"{office.name} ({stats.connections} open, {stats.busy} busy, "
            f"{stats.waiting} calls waiting).{held} Nothing was sent. {said}",
            stats,
            holders,
        )
        error.__cause__ = setback
        office.tell(job, error)

    def _end_running(self, job: DatabaseJob[Any]) -> None:
        limit = self._limit if job.timeout is None else job.timeout
        job.stop_error = ranTooLong(limit)
        job.pursue()

    def __repr__(self) -> str:
        left = self._next - time.monotonic()
        return f"<Deadlines of {self._office.name}, next look in {left:.3f} s>"


def _advice(holders: tuple[Holder, ...]) -> str:
    states = {holder.state for holder in holders}
    if "abandoned" in states:
        return (
            "Those abandoned come back when their driver returns: give it a time "
            "limit of its own, or raise cp_max."
        )
    if states and "working" not in states:
        return (
            "Those who have the connections do nothing with them: end transactions "
            "before waiting for something else, or raise cp_max."
        )
    return (
        "Work comes in faster than it gets done: raise cp_max, submit less at a time, "
        "or find the statement that takes so long."
    )


def ranTooLong(seconds: float | None) -> QueryTimeout:
    """Make what a call gets that had its connection and took too long.

    Args:
        seconds: its limit.
    """
    return QueryTimeout(
        f"The call took more than its {seconds} s and was stopped; what it had begun "
        "was rolled back. Give it more time (timeout=, cp_query_timeout), or make "
        "the statement faster."
    )
