"""Figures of a connection pool: frozen, units in the names. Any thread may read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from threadpool.stats import TeamStats

__all__ = ["PoolStats", "addUp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """What a pool has done, and what it is doing at this moment.

    Attributes:
        connections: open now.
        busy: workers running a job.
        idle: workers waiting for one.
        waiting: jobs in the queue.
        unfinished: jobs waiting and running.
        submitted: jobs ever taken.
        finished: jobs ever run, well or badly.
        removed: jobs cancelled while they waited.
        refused: jobs refused because the pool was full.
        opened: connections ever opened.
        failed: attempts to connect that failed.
        lost: connections found dead.
        most_workers: high-water mark of workers, and so of connections.
        most_unfinished: high-water mark of *unfinished*, lane by lane, added up.
        wait_seconds: how long finished and running jobs waited, added up.
        run_seconds: how long finished jobs ran, added up.
    """

    connections: int
    busy: int
    idle: int
    waiting: int
    unfinished: int
    submitted: int
    finished: int
    removed: int
    refused: int
    opened: int
    failed: int
    lost: int
    most_workers: int
    most_unfinished: int
    wait_seconds: float
    run_seconds: float


_ADDED = (
    "busy",
    "idle",
    "waiting",
    "unfinished",
    "submitted",
    "finished",
    "removed",
    "refused",
    "most_workers",
    "most_unfinished",
    "wait_seconds",
    "run_seconds",
)


def addUp(
    lanes: Iterable[TeamStats], *, opened: int, closed: int, failed: int, lost: int
) -> PoolStats:
    """Make the pool's figures of its lanes' and of its connections'.

    Args:
        lanes: the figures of each lane's team.
        opened: connections ever opened.
        closed: connections ever closed.
        failed: attempts to connect that failed.
        lost: connections found dead.
    """
    lanes = list(lanes)
    return PoolStats(
        connections=opened - closed,
        opened=opened,
        failed=failed,
        lost=lost,
        **{name: sum(getattr(lane, name) for lane in lanes) for name in _ADDED},
    )
