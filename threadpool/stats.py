"""Figures of a team: frozen, units in the names. Any thread may read them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TeamStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamStats:
    """What a team has done, and what it is doing at this moment.

    Attributes:
        workers: hired and not gone.
        busy: workers running a job.
        idle: workers parked.
        waiting: jobs in the queue.
        unfinished: jobs waiting and running.
        submitted: jobs ever taken.
        finished: jobs ever run, well or badly.
        removed: jobs cancelled while they waited.
        refused: jobs refused because the team was full.
        most_workers: high-water mark of *workers*.
        most_unfinished: high-water mark of *unfinished*.
        wait_seconds: how long finished and running jobs waited, added up.
        run_seconds: how long finished jobs ran, added up.
    """

    workers: int
    busy: int
    idle: int
    waiting: int
    unfinished: int
    submitted: int
    finished: int
    removed: int
    refused: int
    most_workers: int
    most_unfinished: int
    wait_seconds: float
    run_seconds: float
