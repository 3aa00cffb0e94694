"""Starving: calls wait, and all who have a connection do nothing with it.

Where the callers are tasks, `ledger` refuses the call that would close a circle. Where
they are not, nobody can know who waits for whom; but when all workers of a lane rest
while calls wait, that can be seen, and is told before the calls' time is over. Here,
too, transactions are found whose event loop was closed without a word.

The ticker's thread only.

Source: the starving team of `threadpool.roster`, which sees blocked threads only.
"""

from __future__ import annotations

import logging
import math
import weakref
from typing import TYPE_CHECKING, Any

from enterprise.holders import holdersOf, listed, restsSince
from threadpool.roster import STARVING_SECONDS

if TYPE_CHECKING:
    from enterprise.drivers.base import Lane
    from enterprise.jobs import DatabaseJob
    from enterprise.office import Office
    from threadpool.team import Team

__all__ = ["Starving"]

_log = logging.getLogger(__name__)

# How often transactions are looked at, whether their loop is still there.
LOOK_SECONDS = 1.0


class Starving:
    """Who rests while others wait, in one pool.

    Args:
        office: the pool's.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        # By lane, who had its workers when it was last said.
        self._told: dict[Lane, list[weakref.ref[DatabaseJob[Any]]]] = {}

    def look(self, now: float) -> float:
        """Tell of lanes that starve, and end transactions whose loop is gone.

        Args:
            now: seconds of time.monotonic().

        Returns:
            When to look again, in the same seconds; math.inf if there is no need.
        """
        following = math.inf
        for lane, crew in self._office.crews.items():
            following = min(
                following,
                _strand(crew.team, now),
                self._look_at(lane, crew.team, now),
            )
        return following

    def _look_at(self, lane: Lane, team: Team[Any], now: float) -> float:
        queue = team.waiting()
        if not queue:
            self._told.pop(lane, None)
            return math.inf
        running = [job for job, _ in team.runs()]  # One for each worker that has one.
        resting = [restsSince(job) for job in running]
        if len(running) < team.maximum or math.inf in resting:
            self._told.pop(lane, None)  # Somebody works, or comes to.
            return now + STARVING_SECONDS
        due: float = max(queue[0].queued_at, *resting) + STARVING_SECONDS
        if due > now:
            return due
        situation = [weakref.ref(job) for job in running]
        if self._told.get(lane) != situation:
            self._told[lane] = situation
            self._tell(team, queue, now)
        return now + STARVING_SECONDS

    def _tell(self, team: Team[Any], queue: list[DatabaseJob[Any]], now: float) -> None:
        _log.warning(
            "%s starves: %d call(s) wait (%s), and those who have the %d connection(s) "
            "that could do them do nothing with them: %s. If it is one of these calls "
            "that they wait for, none of them ever goes on, and the calls fail with "
            "PoolTimeout. End a transaction before you wait for something else, do "
            "what belongs to it through the transaction itself, or raise cp_max.",
            self._office.name,
            len(queue),
            listed([job.label() for job in queue]),
            team.maximum,
            listed(holdersOf([team], now)),
        )

    def __repr__(self) -> str:
        return f"<Starving, {len(self._told)} lane(s) of {self._office.name} told of>"


def _strand(team: Team[Any], now: float) -> float:
    """End the leases of *team* whose loop is gone; say when to look again."""
    following = math.inf
    for job in team.running():
        if job.lingers and not job.cancel_wanted:
            if job.home.over():
                job.strand()
            else:
                following = now + LOOK_SECONDS
    return following
