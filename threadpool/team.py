"""The team: who works, who waits, who leaves. No threads in this room.

A Team is a queue of jobs and a crew of workers that pull from it. It decides, under
one lock and in constant time, what happens next; waking and hiring are done through
the two functions it is given, outside that lock. So a test steps it by hand, and the
same rules serve a plain thread pool and a pool of connections.

A worker's life is `work`: run a job, pull the next one, and park when there is none.
Any thread may enter; every field says who guards it.

Source: the coordinator of Twisted's `_threads.Team`, the LIFO of trio's thread cache;
the queue at the workers is this project's own idea, see docs/architecture.md.
"""

from __future__ import annotations

import enum
import logging
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar

from threadpool import ticker
from threadpool.error import LoopClosed, PoolClosed, PoolError, PoolFull
from threadpool.job import Job, JobState
from threadpool.stats import TeamStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.events import PendingEvents

__all__ = ["Place", "Team", "Worker"]

_log = logging.getLogger(__name__)

# Another worker is woken when the jobs that wait would keep those awake for longer
# than this: about what it costs to wake one and have it fight for the GIL. Measured
# with SQLite look-ups of 8 us: at 50 us the workers wake each other all the time and
# halve the throughput, at 1 ms jobs of 2 ms do not spread over 8 workers fast enough.
WAKE_SECONDS: Final = 0.000150

# Nobody has pulled a job for this long: then everybody awake is inside a long one,
# and the next job must not wait for them.
STALL_SECONDS: Final = 0.000300

# The shortest recent job time grows by this factor with every longer job, so that it
# follows when the work changes. The shortest, because a mean would include the waits
# for the GIL: the more workers, the longer the jobs seem, the more workers are woken.
FORGETTING: Final = 1.02


J = TypeVar("J", bound=Job[Any])

# Reading a member off its class costs as much as calling a function.
_QUEUED = JobState.QUEUED
_RUNNING = JobState.RUNNING


class Place(enum.IntEnum):
    """Where a worker is."""

    HIRED = 0  # Its thread is being started.
    PREPARING = 1  # Getting ready, which may take long: connecting, say.
    AWAKE = 2  # Running a job, or on its way to one.
    IDLE = 3  # Parked.
    LEAVING = 4  # Takes no more jobs; still has something to put away.


_PREPARING = Place.PREPARING
_AWAKE = Place.AWAKE


class Worker(Protocol[J]):
    """What the team asks of a worker. All but `wake` on the worker's own thread."""

    place: Place
    """Set by the team, guarded by its lock; HIRED at first."""

    ready: bool
    """Whether it can run a job right now, without `prepare`."""

    job: J | None
    """What it runs at the moment."""

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

    def wake(self) -> None:
        """End the `park` that goes on or comes next. Any thread, once for each."""
        ...


class Team(Generic[J]):
    """A queue of jobs and the crew that pulls from it.

    Args:
        name: for texts.
        hire: called without the lock when one more worker is wanted. It starts a
            thread that calls `work`; if it cannot, it raises, and has changed nothing.
        minimum: workers that stay although there is nothing to do.
        maximum: workers at the most.
        backlog: jobs that may wait beyond one for each worker; None for no bound.
        idle_seconds: how long a worker above the minimum waits for work.
    """

    def __init__(
        self,
        name: str,
        hire: Callable[[], None],
        *,
        minimum: int,
        maximum: int,
        backlog: int | None,
        idle_seconds: float,
    ) -> None:
        self.name = name
        self._hire = hire
        self._lock = threading.Lock()
        # All fields below guarded by: _lock.
        self.minimum = minimum
        self.maximum = maximum
        self.backlog = backlog
        self._limit = _limit(maximum, backlog)  # Of unfinished jobs; -1: closed.
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
        self._open = False
        self._closed = False
        self._shortest = math.inf  # Seconds; see FORGETTING.
        self._last_pull = 0.0  # Seconds of time.monotonic().
        self._home: PendingEvents | None = None  # Where the last job came from.
        self._unfinished = 0
        self._finished = self._removed = self._refused = 0
        self._most_workers = self._most_unfinished = 0
        self._wait_seconds = self._run_seconds = 0.0
        self._when_gone: list[Callable[[], None]] = []

    # -- For those who bring work ----------------------------------------------------

    def submit(self, job: J) -> None:
        """Queue *job*, and see to it that somebody comes for it.

        Args:
            job: becomes the team's until it is finished or removed.

        Raises:
            PoolClosed: the team takes no more work.
            PoolFull: there are as many unfinished jobs as workers and backlog allow.
        """
        now = time.monotonic()
        with self._lock:
            unfinished = self._unfinished
            if unfinished >= self._limit:
                raise self._refusal()
            self._unfinished = unfinished = unfinished + 1
            if unfinished > self._most_unfinished:
                self._most_unfinished = unfinished
            job.queued_at = now
            if job.home is not self._home:
                self._greet(job.home)
            self._queue.append(job)
            comer = self._call(now) if self._coming is None else None
        if comer is not None:
            try:
                self._bring(comer)
            except RuntimeError:
                if self.remove(job):  # Else somebody has come for it all the same.
                    raise

    def remove(self, job: J) -> bool:
        """Take *job* back if it still waits.

        Args:
            job: one that was submitted here.

        Returns:
            False when a worker has it already, or had it.
        """
        with self._lock:
            if job.state is not _QUEUED:
                return False
            job.state = JobState.REMOVED
            self._unfinished -= 1
            self._removed += 1
            self._skipped += 1
            # Where no worker comes by for long, the skipped ones would pile up;
            # throwing them out whenever they are the half costs no more than adding.
            if self._skipped > 32 and self._skipped * 2 > len(self._queue):
                self._queue = deque(job for job in self._queue if job.state is _QUEUED)
                self._skipped = 0
            return True

    def withdraw(self, wanted: Callable[[J], bool]) -> list[J]:
        """Take back every waiting job that *wanted* says True of, in order.

        Args:
            wanted: called under the team's lock; it must not call the team.
        """
        with self._lock:
            found = [job for job in self._queue if job.state is _QUEUED and wanted(job)]
        return [job for job in found if self.remove(job)]

    @property
    def unfinished(self) -> int:
        """Jobs waiting and running, at this moment."""
        return self._unfinished

    def refuse(self) -> None:
        """Count a job that was refused before it came here."""
        with self._lock:
            self._refused += 1

    def serves(self) -> bool:
        """Say whether a worker is here that takes jobs, or will in a moment."""
        with self._lock:
            return self._at[Place.AWAKE] + self._at[Place.IDLE] > 0

    def running(self) -> list[J]:
        """Return the jobs that workers are running at this moment."""
        with self._lock:
            return [w.job for w in self._crew if w.job is not None]

    # -- For the workers -------------------------------------------------------------

    def work(self, worker: Worker[J]) -> None:
        """Be *worker*: pull, run and deliver until it is time to leave.

        The one loop that every worker of this project runs, in its own thread. Who
        calls it calls `gone` afterwards.

        Args:
            worker: one that was hired just now.
        """
        self._present(worker)
        while worker.ready or worker.prepare():
            job = self._arrive(worker)
            while job is not None:
                started = time.monotonic()
                finished = worker.run(job)
                now = time.monotonic()
                done, job = job, self._advance(worker, now, now - started)
                # Before the next job, which may block, and before parking.
                if finished and done.home is not None:
                    try:
                        done.home.hold(done, now, dry=job is None)
                    except LoopClosed:
                        done.lost()
                del done  # A parked worker keeps nothing of its last job alive.
            if worker.ready and not self._rest(worker):
                return
        with self._lock:
            self._move(worker, Place.LEAVING)

    def gone(self, worker: Worker[J]) -> None:
        """Note that *worker* has put everything away and its thread ends.

        Args:
            worker: one whose `work` returned.
        """
        with self._lock:
            self._crew.discard(worker)
            self._at[worker.place] -= 1
            self._size -= 1
            comer = self._call(time.monotonic())
            told: list[Callable[[], None]] = []
            if self._closed and not self._size:
                told, self._when_gone = self._when_gone, told
        if comer is not None:
            self._bring(comer)
        for callback in told:
            callback()

    def _present(self, worker: Worker[J]) -> None:
        """A hired worker's thread is here; it may take long to become ready."""
        with self._lock:
            self._coming = None
            self._crew.add(worker)
            self._move(worker, Place.PREPARING)
            comer = self._call(time.monotonic())
        if comer is not None:
            self._bring(comer)

    def _arrive(self, worker: Worker[J]) -> J | None:
        """Give *worker*, which became ready or was woken, a job, or let it park."""
        now = time.monotonic()
        with self._lock:
            if self._coming is worker:
                self._coming = None
            if worker.place is not Place.AWAKE:
                self._move(worker, Place.AWAKE)
            job = self._pull(worker, now)
            comer = self._call(now)
        if comer is not None:
            self._bring(comer)
        return job

    def _advance(self, worker: Worker[J], now: float, seconds: float) -> J | None:
        """Note that *worker* finished a job in *seconds*; give it the next one."""
        with self._lock:
            self._unfinished -= 1
            self._finished += 1
            self._run_seconds += seconds
            shortest = self._shortest * FORGETTING
            self._shortest = seconds if seconds < shortest else shortest
            if not worker.ready:
                self._move(worker, Place.PREPARING)
                return None
            job = self._pull(worker, now)
            # The other reasons for a call are out of the question: this one has just
            # come by, and is awake.
            if len(self._queue) * self._shortest > WAKE_SECONDS:
                comer = self._call(now)
            else:
                comer = None
        if comer is not None:
            self._bring(comer)
        return job

    def _rest(self, worker: Worker[J]) -> bool:
        """Park until woken; False when it is time to leave instead."""
        while not worker.park(self._patience(worker)):
            with self._lock:
                if worker.place is not Place.IDLE:
                    continue  # Woken at the last moment: the wake is on its way.
                if self._size > self.minimum or self._closed:
                    self._idle.remove(worker)
                    self._move(worker, Place.LEAVING)
                    return False
        return True

    def _patience(self, worker: Worker[J]) -> float:
        with self._lock:
            if worker.place is not Place.IDLE:
                return math.inf
            if self._closed or self._size > self.maximum:
                return 0.0
            return self.idle_seconds if self._size > self.minimum else math.inf

    def loopClosed(self, home: PendingEvents) -> None:
        """Tell everybody who waits in *home*'s loop that it ends. Loop thread.

        Args:
            home: the queue of that loop.
        """
        with self._lock:
            if self._home is home:
                self._home = None
        mine = self.withdraw(lambda job: job.home is home)
        for job in (*mine, *self.running()):
            if job.home is home:
                job.orphan()

    # -- The rules; the lock is held -------------------------------------------------

    def _pull(self, worker: Worker[J], now: float) -> J | None:
        """Take the next job for *worker*; where there is none it becomes idle."""
        queue = self._queue
        while queue:
            job = queue.popleft()
            if job.state is _QUEUED:
                job.state = _RUNNING
                self._wait_seconds += now - job.queued_at
                self._last_pull = now
                return job
            self._skipped -= 1
        self._move(worker, Place.IDLE)
        self._idle.append(worker)
        return None

    def _call(self, now: float) -> Worker[J] | Literal["hired"] | None:
        """Decide who is to come for the jobs that wait: the waking rule.

        Returns:
            A parked worker, no longer idle, that must be woken; "hired" when a new
            one must be; None when those awake will do, or there is nobody else.
        """
        if self._coming is not None or not self._open:
            return None
        at = self._at
        waiting = len(self._queue) - self._skipped
        if waiting <= 0:
            return None
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
        # Each one that gets ready will take a job by itself.
        if waiting > at[_PREPARING] and self._size < self.maximum:
            self._enlist()
            self._coming = "hired"
            return "hired"
        return None

    def _greet(self, home: PendingEvents | None) -> None:
        if home is not None:
            home.closers.add(self)  # We hear of the end of every loop we work for.
            self._home = home

    def _enlist(self) -> None:
        self._size += 1
        self._at[Place.HIRED] += 1
        self._most_workers = max(self._most_workers, self._size)

    def _move(self, worker: Worker[J], place: Place) -> None:
        self._at[worker.place] -= 1
        self._at[place] += 1
        worker.place = place

    def _refusal(self) -> PoolError:
        if self._closed:
            return PoolClosed(
                f"{self.name} is closed and takes no more work. Make a new pool, or "
                "close this one after its last call."
            )
        self._refused += 1
        return PoolFull(
            f"{self.name} is full: {self._unfinished} unfinished jobs, and its bound "
            f"is {self._limit:.0f} ({self.maximum} workers and a backlog of "
            f"{self.backlog}). Work comes in faster than it gets done: submit less at "
            "a time, or allow a larger backlog.",
            unfinished=self._unfinished,
            limit=int(self._limit),
        )

    # -- Outside the lock ------------------------------------------------------------

    def _bring(self, comer: Worker[J] | Literal["hired"]) -> None:
        """Carry out what `_call` decided."""
        if comer != "hired":
            comer.wake()
            return
        try:
            self._hire()
        except RuntimeError as error:
            with self._lock:
                self._coming = None
                self._size -= 1
                self._at[Place.HIRED] -= 1
                alone = not self._size
            if alone:
                raise  # Nobody would ever come for the job.
            _log.warning(
                "%s could not start one more thread (%s) and goes on with %d.",
                self.name,
                error,
                self._size,
            )

    def tick(self, now: float) -> bool:
        """Wake another worker when nobody comes for the jobs that wait.

        Called by the ticker.

        Args:
            now: seconds of time.monotonic().

        Returns:
            Whether jobs wait that somebody else could come for.
        """
        with self._lock:
            comer = self._call(now)
            waiting = len(self._queue) - self._skipped
            waits = waiting > 0 and (
                bool(self._idle)
                or (waiting > self._at[_PREPARING] and self._size < self.maximum)
            )
        if comer is not None:
            self._bring(comer)
        return waits

    # -- Its life --------------------------------------------------------------------

    def open(self) -> None:
        """Let workers come: the minimum, and whoever the jobs that wait need."""
        with self._lock:
            self._open = True
        self._fill()

    def resize(self, minimum: int, maximum: int) -> None:
        """Change the bounds; running jobs are never disturbed.

        Args:
            minimum: workers that stay although there is nothing to do.
            maximum: workers at the most.
        """
        with self._lock:
            self.minimum, self.maximum = minimum, maximum
            if not self._closed:
                self._limit = _limit(maximum, self.backlog)
        self._rouse()  # Those above the maximum leave when they find nothing.
        self._fill()

    def close(self, when_gone: Callable[[], None]) -> None:
        """Take no more work; workers leave once nothing waits.

        What waits in a team that was never opened stays there; see `withdraw`.

        Args:
            when_gone: called once when the last worker is gone, on that worker's
                thread; at once, on this one, where there is none.
        """
        with self._lock:
            self._closed = True
            self._limit = -1
            if self._size:
                self._when_gone.append(when_gone)
                when_gone = _nothing
        when_gone()
        self._rouse()

    def afterFork(self) -> None:
        """Begin anew in a forked child, which has none of the workers and no loop."""
        self._lock = threading.Lock()
        self._queue.clear()
        self._idle.clear()
        self._crew.clear()
        self._at = [0] * len(Place)
        self._size = self._skipped = self._unfinished = 0
        self._coming = None
        self._when_gone.clear()

    def stats(self) -> TeamStats:
        """Return the figures of this moment."""
        with self._lock:
            return TeamStats(
                workers=self._size,
                busy=self._unfinished - len(self._queue) + self._skipped,
                idle=self._at[Place.IDLE],
                waiting=len(self._queue) - self._skipped,
                unfinished=self._unfinished,
                submitted=self._unfinished + self._finished + self._removed,
                finished=self._finished,
                removed=self._removed,
                refused=self._refused,
                most_workers=self._most_workers,
                most_unfinished=self._most_unfinished,
                wait_seconds=self._wait_seconds,
                run_seconds=self._run_seconds,
            )

    def _fill(self) -> None:
        """Hire up to the minimum, and for the jobs that wait."""
        while True:
            with self._lock:
                comer = self._call(time.monotonic())
                wanted = self._open and not self._closed
                if comer is None and wanted and self._size < self.minimum:
                    self._enlist()
                    comer = "hired"
            if comer is None:
                return
            self._bring(comer)

    def _rouse(self) -> None:
        """Wake everybody, so that each looks again whether to stay."""
        with self._lock:
            roused, self._idle = self._idle, []
            for worker in roused:
                self._move(worker, Place.AWAKE)
        for worker in roused:
            worker.wake()

    def __repr__(self) -> str:
        stats = self.stats()
        state = "closed" if self._closed else "open" if self._open else "not started"
        return (
            f"<Team {self.name} {state}, {stats.busy} busy, {stats.idle} idle, "
            f"{stats.waiting} waiting>"
        )


def _limit(maximum: int, backlog: int | None) -> float:
    return math.inf if backlog is None else maximum + backlog


def _nothing() -> None:
    """Be called instead of somebody who need not be."""
