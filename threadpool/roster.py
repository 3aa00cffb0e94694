"""The roster: who is where, what waits, and who is called for it. Rules, no actions.

The private methods here run with the team's lock held, in constant time, and tell the
team what to do when the lock is free again. The waking rule stands here and nowhere
else.

Source: httpcore's pool, whose one deciding method returns what its caller shall do.
"""

from __future__ import annotations

import enum
import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar

from threadpool import ticker
from threadpool.error import PoolClosed, PoolError, PoolFull
from threadpool.job import QUEUED, Job, JobState
from threadpool.stats import TeamStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.events import PendingEvents

__all__ = ["Place", "Roster", "Worker"]

# Another worker is woken when the jobs that wait would keep those awake for longer
# than this. Waking one costs the system call, a context switch, and with a GIL a fight
# for it that slows down whoever works. Measured with SQLite look-ups of 5 us, 64 in
# flight: a second worker only pays when more than some 300 us of work is queued.
WAKE_SECONDS: Final = 0.000300

# Nobody has pulled a job for this long: then everybody awake is inside a long one,
# and the next job must not wait for them.
STALL_SECONDS: Final = 0.000300

# The shortest recent job time grows by this factor with every longer job, so that it
# follows when the work changes. The shortest, because a mean would include the waits
# for the GIL: the more workers, the longer the jobs seem, the more workers are woken.
# At 1.02 it doubled within one burst and did just that; where work really gets longer,
# the ticker wakes another worker every half millisecond meanwhile.
FORGETTING: Final = 1.002

# Everybody waits for the loop while jobs wait, for so long: then it looks like a circle
# that never ends. Workers that the loop answers soon are no news to anybody.
STARVING_SECONDS: Final = 1.0

J = TypeVar("J", bound=Job[Any])

# Reading a member off its class costs as much as calling a function.
_RUNNING = JobState.RUNNING


class Place(enum.IntEnum):
    """Where a worker is."""

    HIRED = 0  # Its thread is being started.
    PREPARING = 1  # Getting ready, which may take long: connecting, say.
    AWAKE = 2  # Running a job, or on its way to one.
    IDLE = 3  # Parked.
    LEAVING = 4  # Takes no more jobs; still has something to put away.


_HIRED = Place.HIRED
_PREPARING = Place.PREPARING
_AWAKE = Place.AWAKE


class Worker(Protocol[J]):
    """What the team asks of a worker. All but `wake` on the worker's own thread."""

    place: Place
    """Set by the team, guarded by its lock; HIRED at first."""

    ready: bool
    """Whether it can run a job right now, without `prepare`."""

    job: J | None
    """What it runs at the moment. Set by the team, guarded by its lock."""

    delivering: J | None
    """What it has run and not brought home yet. Set by the team, under its lock; taken
    away again without it."""

    begun_at: float
    """When it got its last job, in seconds of time.monotonic(). Set by the team."""

    def prepare(self) -> bool:
        """Become ready, however long that takes; False to resign."""
        ...

    def run(self, job: J) -> bool:
        """Do *job* and keep its outcome in it; never raises.

        Returns:
            False when the job was handed to another team, which then delivers it.
        """
        ...

    def park(self, seconds: float) -> bool:
        """Wait until woken, for *seconds* at the most; False when they passed first."""
        ...

    def interrupt(self) -> None:
        """Stop the job that runs, where that can be done. Any thread."""
        ...

    def wake(self) -> None:
        """End the `park` that goes on or comes next. Any thread, once for each."""
        ...


class Roster(Generic[J]):
    """The state of a team; see `Team`.

    Args:
        name: for texts.
        minimum: workers that stay although there is nothing to do.
        maximum: workers at the most.
        backlog: jobs that may wait beyond one for each worker; None for no bound.
        idle_seconds: how long a worker above the minimum waits for work.
    """

    def __init__(
        self,
        name: str,
        *,
        minimum: int,
        maximum: int,
        backlog: int | None,
        idle_seconds: float,
    ) -> None:
        self.name = name
        self._lock = threading.Lock()
        # All fields below guarded by: _lock.
        self.minimum = minimum
        self.maximum = maximum
        self.backlog = backlog
        self._limit = bound(maximum, backlog)  # Of unfinished jobs; -1: closed.
        self.idle_seconds = idle_seconds
        self._queue: deque[J] = deque()
        self._skipped = 0  # Jobs in the queue that were removed: workers skip them.
        self._idle: list[Worker[J]] = []  # The last to park is the first to be woken.
        self._crew: set[Worker[J]] = set()  # Those whose thread is here.
        self._size = 0  # Workers in all places.
        self._at = [0] * len(Place)
        # Who was woken and is not here yet (None: nobody). One at a time: each may
        # find that there is nothing left, and will see to it itself if there is more.
        self._coming: Worker[J] | Literal["hired"] | None = None
        self._unwanted = 0  # Workers that shall leave though there is room for them.
        self._blocked = 0  # Workers whose job waits for the loop.
        # When to complain that all of them do: seconds of time.monotonic(). None where
        # they do not, math.inf where it has been said.
        self._complain_at: float | None = None
        # Whether to. Set at the beginning, by who knows better what its workers do.
        self.complains = True
        self._open = False
        self._closed = False
        self._shortest = math.inf  # Seconds; see FORGETTING.
        # Nobody is hired before this time, in seconds of time.monotonic(): the last
        # ones could not get ready, and those who are here do.
        self.not_before = 0.0
        # One at a time is hired, to see whether any can get ready at all.
        self._cautious = False
        # When it was last said that no thread could be started.
        self._told = -math.inf
        self._last_pull = 0.0  # Seconds of time.monotonic().
        self._home: PendingEvents | None = None  # Where the last job came from.
        self.unfinished = 0  # Jobs waiting and running; anybody may read it.
        self._finished = self._removed = self._refused = 0
        self._most_workers = self._most_unfinished = 0
        self._wait_seconds = self._run_seconds = 0.0
        self._when_gone: list[Callable[[], None]] = []

    def _pull(self, worker: Worker[J], now: float) -> J | None:
        """Take the next job for *worker*; where there is none it becomes idle."""
        queue = self._queue
        while queue:
            job = queue.popleft()
            if job.state is QUEUED:
                job.state = _RUNNING
                worker.job = job
                worker.begun_at = now
                self._wait_seconds += now - job.queued_at
                self._last_pull = now
                return job
            self._skipped -= 1
        worker.job = None
        self._move(worker, Place.IDLE)
        self._idle.append(worker)
        return None

    def tick(self, now: float) -> bool:
        """Be looked at by the ticker; see `Staff.tick`."""
        raise NotImplementedError

    def _call(self, now: float) -> Worker[J] | Literal["hired", "starving"] | None:
        """Decide who is to come for the jobs that wait: the waking rule.

        Returns:
            A parked worker, no longer idle, that must be woken; "hired" when a new
            one must be; None when those awake will do, or there is nobody else;
            "starving" when that must be told, once.
        """
        waiting = len(self._queue) - self._skipped
        if waiting <= 0 or self._coming is not None or not self._open:
            return None
        at = self._at
        awake = at[_AWAKE]
        if (
            awake
            and waiting * self._shortest <= WAKE_SECONDS * awake
            and now - self._last_pull <= STALL_SECONDS
        ):
            if self not in ticker.watched:
                ticker.watch(self)
            return None
        if self._idle:
            self._coming = comer = self._idle.pop()
            self._move(comer, Place.AWAKE)
            return comer
        if self._size < self.maximum:
            # Each one that gets ready will take a job by itself.
            preparing = at[_PREPARING] + at[_HIRED]
            if (
                waiting > preparing
                and now >= self.not_before
                and not (self._cautious and preparing)
            ):
                self._enlist()
                self._coming = "hired"
                return "hired"
        elif self._blocked and self._starves(now):
            return "starving"
        return None

    def _starves(self, now: float) -> bool:
        """Say, once, that all workers have waited for the loop while jobs waited."""
        if self._blocked < self._size or not self.complains:
            return False
        if self._complain_at is None:
            self._complain_at = now + STARVING_SECONDS
            ticker.watch(self)
        if now < self._complain_at:
            return False
        self._complain_at = math.inf
        return True

    def _wants_help(self) -> bool:
        """Say whether jobs wait that somebody must come for, or complain about."""
        waiting = len(self._queue) - self._skipped
        if waiting <= 0:
            return False
        if self._idle or (self._complain_at or math.inf) < math.inf:
            return True
        coming = self._at[_PREPARING] + self._at[_HIRED]
        return waiting > coming and self._size < self.maximum

    def _lacks(self, now: float) -> bool:
        """Say whether one of the minimum is missing, and may be hired now."""
        if self._closed or not self._open or self._size >= self.minimum:
            return False
        preparing = self._at[_PREPARING] + self._at[_HIRED]
        return now >= self.not_before and not (self._cautious and preparing)

    def _hired_arrived(self) -> None:
        """One of the hired is here, or never will be."""
        # Nobody knows which of them was called and which belongs to the minimum: so
        # somebody is coming until all are here. A woken one is not among them.
        if self._coming == "hired" and not self._at[_HIRED]:
            self._coming = None

    def _patience(self) -> float:
        """Say how many seconds an idle worker shall wait before it leaves."""
        staying = self._size - self._at[Place.LEAVING]
        if self._closed or self._unwanted or staying > self.maximum:
            return 0.0
        return self.idle_seconds if staying > self.minimum else math.inf

    def _greet(self, home: PendingEvents | None) -> None:
        if home is not None:
            home.notify(self)  # We hear of the end of every loop we work for.
            self._home = home

    def _enlist(self) -> None:
        self._size += 1
        self._at[Place.HIRED] += 1
        self._most_workers = max(self._most_workers, self._size)

    def _leave(self, worker: Worker[J]) -> None:
        self._move(worker, Place.LEAVING)
        if self._unwanted:
            self._unwanted -= 1

    def _move(self, worker: Worker[J], place: Place) -> None:
        self._at[worker.place] -= 1
        self._at[place] += 1
        worker.place = place

    def _refusal(self) -> PoolError:
        if self._closed:
            return PoolClosed(
                f"{self.name} is closed and takes no more work. Make a new pool, start "
                "this one again where it can be, or close it after its last call."
            )
        self._refused += 1
        return PoolFull(
            f"{self.name} is full: {self.unfinished} unfinished jobs, and its bound "
            f"is {self._limit:.0f} ({self.maximum} workers and a backlog of "
            f"{self.backlog}). Work comes in faster than it gets done: submit less at "
            "a time, or allow a larger backlog.",
            unfinished=self.unfinished,
            limit=int(self._limit),
        )

    def _figures(self) -> TeamStats:
        return TeamStats(
            workers=self._size,
            busy=self.unfinished - len(self._queue) + self._skipped,
            idle=self._at[Place.IDLE],
            waiting=len(self._queue) - self._skipped,
            unfinished=self.unfinished,
            submitted=self.unfinished + self._finished + self._removed,
            finished=self._finished,
            removed=self._removed,
            refused=self._refused,
            most_workers=self._most_workers,
            most_unfinished=self._most_unfinished,
            wait_seconds=self._wait_seconds,
            run_seconds=self._run_seconds,
        )

    def _clear(self) -> None:
        """Forget every worker and every job."""
        self._queue.clear()
        self._idle.clear()
        self._crew.clear()
        self._at = [0] * len(Place)
        self._size = self._skipped = self.unfinished = 0
        self._coming = self._complain_at = None
        self._unwanted = self._blocked = 0
        self._when_gone.clear()

    def crew(self, place: Place | None = None) -> list[Worker[J]]:
        """Return the workers whose thread is here.

        Args:
            place: only those who are there; None for all.
        """
        with self._lock:
            return [w for w in self._crew if place is None or w.place is place]

    def refuse(self) -> None:
        """Count a job that was refused before it came here."""
        with self._lock:
            self._refused += 1

    def serves(self) -> bool:
        """Say whether a worker is here that takes jobs, or will in a moment."""
        with self._lock:
            return self._at[Place.AWAKE] + self._at[Place.IDLE] > 0

    def __repr__(self) -> str:
        stats = self._figures()
        state = "closed" if self._closed else "open" if self._open else "not started"
        return (
            f"<Team {self.name} {state}, {stats.busy} busy, {stats.idle} idle, "
            f"{stats.waiting} waiting>"
        )


def bound(maximum: int, backlog: int | None) -> float:
    """Return how many unfinished jobs there may be."""
    return math.inf if backlog is None else maximum + backlog
