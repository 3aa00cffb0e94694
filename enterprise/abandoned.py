"""Abandoned: connections whose driver did not react to a cancel, and their warnings.

The caller was told without it; the thread goes on, and counts against `cp_max` until
the driver returns. Each takes a connection away from the others, so it is told when
half are gone, and when all are. The canceller's threads only.

Source: the thread pools of others, which shrink without a word.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from enterprise.holders import Holder, holdersOf, listed

if TYPE_CHECKING:
    from enterprise.jobs import DatabaseJob
    from enterprise.office import Office

__all__ = ["Abandoned"]

_log = logging.getLogger(__name__)


class Abandoned:
    """Those that one pool has given up.

    Args:
        office: the pool's.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        self._lock = threading.Lock()
        # How much was said, and of whom: nothing, half, all. guarded by: _lock
        self._told = 0
        self._of: weakref.WeakSet[DatabaseJob[Any]] = weakref.WeakSet()

    def look(self) -> None:
        """Tell of those abandoned where they have become too many."""
        office = self._office
        maximum = office.options.cp_max
        teams = [crew.team for crew in office.crews.values()]
        with self._lock:
            lost = {job for team in teams for job in team.running() if job.released}
            if not lost.intersection(self._of):
                self._told = 0  # Those it was said of have come back.
            share = 2 if len(lost) >= maximum else 1 if 2 * len(lost) >= maximum else 0
            tell = share > self._told
            if tell:
                self._told, self._of = share, weakref.WeakSet(lost)
        if tell:
            holders = holdersOf(teams, time.monotonic())
            self._tell([holder for holder in holders if holder.state == "abandoned"])

    def _tell(self, holders: list[Holder]) -> None:
        office = self._office
        left = office.options.cp_max - len(holders)
        _log.warning(
            "%s: %d of its %d connections belong to drivers that did not react to a "
            "cancel: %s. %s, until a driver returns. Give such statements a time limit "
            "that their server keeps, use a driver that can cancel, or raise cp_max.",
            office.name,
            len(holders),
            office.options.cp_max,
            listed(holders),
            f"The others do the work with {left}" if left > 0 else "All calls wait",
        )

    def __repr__(self) -> str:
        return f"<Abandoned of {self._office.name}, {len(self._of)} told of>"
