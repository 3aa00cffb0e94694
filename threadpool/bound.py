"""Bounds: how many unfinished jobs there may be, exactly, at no cost worth naming.

To count what is unfinished means to ask every worker. So nobody counts while there is
certainly room: as many jobs may be submitted as there was room at the last count.

Source: the bounded queue of the 2002 paper.
"""

from __future__ import annotations

import math
import threading
from typing import Protocol

from threadpool.error import PoolFull

__all__ = ["Bound"]


class _Bounded(Protocol):
    """A team."""

    _lock: threading.Lock

    @property
    def unfinished(self) -> int: ...


class Bound:
    """A bound that one team has, or several share; its lock is theirs.

    Args:
        maximum: workers at the most.
        backlog: jobs that may wait beyond one for each worker; None for no bound.

    Attributes:
        lock: guards everything the teams have.
        room: how many jobs may be submitted before the next count. guarded by: lock
    """

    def __init__(self, maximum: int, backlog: int | None) -> None:
        # Not reentrant: it would let a finalizer, which the garbage collector calls at
        # any line, change a queue in the middle of a walk through it.
        self.lock = threading.Lock()
        self.teams: list[_Bounded] = []
        self.backlog = backlog
        self.limit: float = 0
        self.room: float = 0
        self.resize(maximum)

    def resize(self, maximum: int) -> None:
        """Change how many workers there may be. The caller holds the lock.

        Args:
            maximum: workers at the most.
        """
        self.limit = math.inf if self.backlog is None else maximum + self.backlog
        self.count()

    def count(self) -> int:
        """Count what is unfinished, and so the room. The caller holds the lock."""
        unfinished = sum(team.unfinished for team in self.teams)
        self.room = self.limit - unfinished
        return unfinished

    def full(self, name: str) -> PoolFull | None:
        """Count; say that there is no room, where there is none. The lock is held.

        Args:
            name: of the team that asks.
        """
        unfinished = self.count()
        if self.room > 0:
            return None
        workers = self.limit - (self.backlog or 0)
        return PoolFull(
            f"{name} is full: {unfinished} unfinished jobs, and its bound is "
            f"{self.limit:.0f} ({workers:.0f} workers and a backlog of "
            f"{self.backlog}). Work comes in faster than it gets done: submit less at "
            "a time, or allow a larger backlog.",
            unfinished=unfinished,
            limit=int(self.limit),
        )

    def afterFork(self) -> None:
        """Begin anew in a forked child: the lock may be held by nobody here."""
        self.lock = threading.Lock()
        for team in self.teams:
            team._lock = self.lock

    def __repr__(self) -> str:
        return f"<Bound of {self.limit} unfinished jobs>"
