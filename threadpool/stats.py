"""Figures of a team: frozen, units in the names. Any thread may read them."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Histogram", "TeamStats", "Times"]

# From a microsecond, a binary one, to an hour and eight minutes.
_BOUNDS: Final = (*(2.0**exponent for exponent in range(-20, 13)), math.inf)

# After so many times they are counted: that takes some 20 us.
BATCH: Final = 256


@dataclass(frozen=True, slots=True, repr=False)
class Histogram:
    """How many times were how long.

    The first bucket is for times up to a microsecond, and each that follows for times
    up to twice as long; the last one has no end.

    Args:
        counts: how many times fell in each bucket.
        total_seconds: all those times, added up.

    Attributes:
        bounds: where each bucket ends, in seconds; the last is math.inf.

    Source: the exponential histograms of Prometheus and OpenTelemetry, at scale 0.
    """

    counts: tuple[int, ...] = (0,) * len(_BOUNDS)
    total_seconds: float = 0.0

    bounds: ClassVar[tuple[float, ...]] = _BOUNDS

    @property
    def count(self) -> int:
        """How many times there are."""
        return sum(self.counts)

    @property
    def mean_seconds(self) -> float:
        """The arithmetic mean; 0 where there are no times."""
        return self.total_seconds / self.count if self.count else 0.0

    def quantile(self, fraction: float) -> float:
        """Return the time that *fraction* of all did not exceed.

        Args:
            fraction: from 0 to 1; 0.5 for the median.

        Returns:
            Seconds; never less than the true figure, and less than twice as much. 0
            where there are no times, math.inf beyond an hour and eight minutes.

        Raises:
            ValueError: *fraction* is not between 0 and 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(
                f"The fraction is {fraction!r}. It says how many of all times shall "
                "not be longer: choose 0 to 1, say 0.99."
            )
        wanted = fraction * self.count
        seen = 0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            seen += count
            if count and seen >= wanted:
                return bound
        return 0.0

    def __add__(self, other: Histogram) -> Histogram:
        """Return the times of both."""
        pairs = zip(self.counts, other.counts, strict=True)
        total = self.total_seconds + other.total_seconds
        return Histogram(tuple(mine + its for mine, its in pairs), total)

    def __repr__(self) -> str:
        if not self.count:
            return "<Histogram of 0>"
        return (
            f"<Histogram of {self.count}: mean {self.mean_seconds:.3g} s, "
            f"half within {self.quantile(0.5):.3g} s, "
            f"99 % within {self.quantile(0.99):.3g} s>"
        )


class Times:
    """Times as they come, put into a histogram many at once.

    Whoever has it guards it by a lock. Sorted, a batch is counted in a third of the
    time that it takes to find each one's bucket.

    Args:
        times: the first, in seconds.
    """

    __slots__ = ("_counts", "_fresh", "_total_seconds")

    def __init__(self, times: Iterable[float] = ()) -> None:
        self._fresh: list[float] = list(times)
        self._counts = [0] * len(_BOUNDS)
        self._total_seconds = 0.0

    def extend(self, times: list[float]) -> None:
        """Take in some more.

        Args:
            times: in seconds.
        """
        self._fresh += times
        if len(self._fresh) >= BATCH:
            self.settle()

    def settle(self) -> None:
        """Count those that have come since the last time, and let go of them."""
        fresh, counts = self._fresh, self._counts
        self._total_seconds += sum(fresh)
        fresh.sort()
        position = 0
        while position < len(fresh):
            bucket = bisect_left(_BOUNDS, fresh[position])
            beyond = bisect_right(fresh, _BOUNDS[bucket], position)
            counts[bucket] += beyond - position
            position = beyond
        fresh.clear()

    def histogram(self) -> Histogram:
        """Return all of them so far."""
        self.settle()
        return Histogram(tuple(self._counts), self._total_seconds)

    def __repr__(self) -> str:
        return f"<Times, {sum(self._counts)} counted, {len(self._fresh)} fresh>"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamStats:
    """What a team has done, and what it is doing at this moment.

    All figures are exact, and belong to one and the same moment.

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
        oldest_wait_seconds: for how long the first job in the queue has waited.
        wait_seconds: how long finished and running jobs waited, added up.
        run_seconds: how long finished jobs ran, added up.
        waits: how long finished and running jobs waited.
        runs: how long finished jobs ran.
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
    oldest_wait_seconds: float
    wait_seconds: float
    run_seconds: float
    waits: Histogram
    runs: Histogram
