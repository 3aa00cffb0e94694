"""Figures of a connection pool: frozen, units in the names. Any thread may read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from threadpool.stats import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable

    from threadpool.stats import TeamStats

__all__ = ["ErrorCounts", "PoolStats", "addUp"]


class ErrorCounts(Mapping[str, int]):
    """How often calls failed, by the name of the exception's class. Read-only.

    Asked for a name that is not there, `get` says None and `[]` raises KeyError; names
    beyond the first hundred are counted together as "other".

    Args:
        counts: copied.
    """

    __slots__ = ("_counts",)

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = dict(counts)

    def __getitem__(self, kind: str) -> int:
        return self._counts[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __hash__(self) -> int:
        return hash(frozenset(self._counts.items()))

    def __reduce__(self) -> tuple[object, ...]:
        # A read-only view of a dict would do for all this, but cannot be pickled.
        return (ErrorCounts, (self._counts,))

    def __repr__(self) -> str:
        return f"ErrorCounts({self._counts})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """What a pool has done, and what it is doing at this moment.

    Within a lane all figures from *busy* to *runs* are exact and of one moment.
    SQLite's two lanes are read one after the other and added up, so where both are at
    work the sums are of two moments, microseconds apart; the high-water marks of two
    lanes need not have been reached together, so their sum may never have been. The
    figures of connections, errors and cancels are exact, and read a little later still.

    Attributes:
        connections: open now.
        busy: workers running a job.
        idle: workers waiting for one.
        waiting: jobs in the queue.
        unfinished: jobs waiting and running.
        submitted: jobs ever taken; one that moved from a reader to the writer counts
            in both.
        finished: jobs ever run, well or badly.
        removed: jobs cancelled while they waited.
        refused: jobs refused because the pool was full.
        most_workers: high-water mark of workers, and so of connections.
        most_unfinished: high-water mark of *unfinished*.
        oldest_wait_seconds: for how long the first call in the queue has waited since
            it was queued.
        wait_seconds: how long finished and running jobs waited, added up.
        run_seconds: how long finished jobs ran, added up.
        waits: how long finished and running jobs waited.
        runs: how long finished jobs ran; a lease's is the whole block.
        opened: connections ever opened.
        failed: attempts to connect that failed.
        lost: connections found dead.
        severed: connections cut off, since they did not confirm a cancel.
        connects: how long it took to open connections, `cp_openfun` included.
        errors: how often calls failed, by exception class; the calls in a transaction's
            block count, and so does the block. Cancelled calls do not.
        cancels_asked: running calls that were told to stop: by a cancel, by a time
            limit, or by the end of the pool.
        cancels_confirmed: those that have ended since, with an answer.
        cancels_abandoned: those whose caller went on without one.
        abandoned_now: of the latter, those whose thread is still in the driver.
        retries: repetitions of interactions, as their RetryPolicy wanted.
        passed_on: statements that a reader had to give to the writer.
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
    most_workers: int
    most_unfinished: int
    oldest_wait_seconds: float
    wait_seconds: float
    run_seconds: float
    waits: Histogram
    runs: Histogram
    opened: int
    failed: int
    lost: int
    severed: int
    connects: Histogram
    errors: ErrorCounts
    cancels_asked: int
    cancels_confirmed: int
    cancels_abandoned: int
    abandoned_now: int
    retries: int
    passed_on: int

    @property
    def pool_timeouts(self) -> int:
        """How many calls waited too long for a connection."""
        return self.errors.get("PoolTimeout", 0)

    @property
    def query_timeouts(self) -> int:
        """How many calls ran too long."""
        return self.errors.get("QueryTimeout", 0)


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


def addUp(lanes: Iterable[TeamStats], **others: Any) -> PoolStats:
    """Make the pool's figures of its lanes' and of all others.

    Args:
        lanes: the figures of each lane's team.
        others: what no team counts, by the names in `PoolStats`.
    """
    lanes = list(lanes)
    return PoolStats(
        oldest_wait_seconds=max(lane.oldest_wait_seconds for lane in lanes),
        waits=sum((lane.waits for lane in lanes), Histogram()),
        runs=sum((lane.runs for lane in lanes), Histogram()),
        **{name: sum(getattr(lane, name) for lane in lanes) for name in _ADDED},
        **others,
    )
