"""The roster: who is where, what waits, and who is called for it. Rules, no actions.

The private methods here run with the team's lock held, in constant time, and tell the
team what to do when the lock is free again. The waking rule stands here and nowhere
else.

Source: httpcore's pool, whose one deciding method returns what its caller shall do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

from threadpool import ticker
from threadpool.job import QUEUED, TAKEN
from threadpool.register import Register
from threadpool.worker import J, Place, Worker

if TYPE_CHECKING:
    from threadpool.events import PendingEvents

__all__ = ["Roster"]

# Another worker is woken when the jobs that wait would keep those awake for longer
# than this. Waking one costs the system call, a context switch, and with a GIL a fight
# for it that slows down whoever works. Measured with SQLite look-ups of 5 us, 64 in
# flight: a second worker only pays when more than some 300 us of work is queued.
WAKE_SECONDS: Final = 0.000300

# Nobody has pulled a job for this long: then everybody awake is inside a long one,
# and the next job must not wait for them.
STALL_SECONDS: Final = 0.000300

# The shortest recent job time grows by this part of it with every longer job, so that
# it follows when the work changes. The shortest, because a mean would include the waits
# for the GIL: the more workers, the longer the jobs seem, the more workers are woken.
# At 0.02 it doubled within one burst and did just that; where work really gets longer,
# the ticker wakes another worker every half millisecond meanwhile.
FORGETTING: Final = 0.002

# Everybody waits for the loop while jobs wait, for so long: then it looks like a circle
# that never ends. Workers that the loop answers soon are no news to anybody.
STARVING_SECONDS: Final = 1.0

# How many jobs a worker takes at once, at the most. It takes its share of what waits,
# and no more than WAKE_SECONDS of work: taking one costs as much as running a small
# one, and what it has taken nobody else comes for unless it gets stuck.
SHARE: Final = 32

# Reading a member off its class costs as much as calling a function.
_HIRED = Place.HIRED
_PREPARING = Place.PREPARING
_AWAKE = Place.AWAKE


class Roster(Register[J]):
    """The rules of a team; see `Team`. What they go by at first stands here."""

    # All guarded by: _lock.
    # Who was woken and is not here yet (None: nobody). One at a time: each may find
    # that there is nothing left, and will see to it itself if there is more.
    _coming: Worker[J] | Literal["hired"] | None = None
    _unwanted = 0  # Workers that shall leave though there is room for them.
    _blocked = 0  # Workers whose job waits for the loop.
    # When to complain that all of them do: seconds of time.monotonic(). None where they
    # do not, math.inf where it has been said.
    _complain_at: float | None = None
    # Whether to. Set at the beginning, by who knows better what its workers do.
    complains = True
    _shortest = math.inf  # Seconds; see FORGETTING.
    # Nobody is hired before this time, in seconds of time.monotonic(): the last ones
    # could not get ready, and those who are here do.
    not_before = 0.0
    # One at a time is hired, to see whether any can get ready at all.
    _cautious = False
    # When it was last said that no thread could be started.
    _told = -math.inf
    # Up to so many waiting jobs nobody is called; kept for the hot path.
    _enough = -1.0
    # When anybody last began a job, in seconds of time.monotonic(). Written by workers
    # without the lock: any of the latest will do.
    _last_begun = 0.0
    _home: PendingEvents | None = None  # Where the last job came from.

    def _take(self, worker: Worker[J], now: float) -> bool:
        """Give *worker* its share of what waits; where there is nothing it is idle."""
        queue, taken = self._queue, worker.taken
        if len(queue) + self._at[_AWAKE] > self._most_unfinished:
            self._note_depth()
        worker.begun_at = self._last_begun = now  # Or in a moment.
        share = 1
        if len(queue) > 1:
            fair = min(SHARE, len(queue) // self._at[_AWAKE])
            share = min(fair, int(WAKE_SECONDS / self._shortest))
        while queue:
            job = queue.popleft()
            if job.state is not QUEUED:
                self._skipped -= 1
                continue
            job.state = TAKEN
            taken.append(job)
            share -= 1
            if share <= 0:
                return True
        if taken:
            return True
        self._move(worker, Place.IDLE)
        self._idle.append(worker)
        return False

    def _learn(self, worker: Worker[J]) -> None:
        """Take in the times of what *worker* has run."""
        ran, waited = worker.ran, worker.waited
        best = max(min(ran), 1e-9)
        shortest = self._shortest * (1 + len(ran) * FORGETTING)
        self._shortest = best if best < shortest else shortest
        self._runs.extend(ran)
        self._waits.extend(waited)
        ran.clear()
        waited.clear()

    def _unstick(self, now: float) -> bool:
        """Put back what those have taken who are inside a long job.

        Returns:
            Whether anybody has still taken more than it has begun.
        """
        left = False
        for worker in self._crew:
            if worker.taken:
                if now - worker.begun_at > STALL_SECONDS:
                    self._recall(worker)
                else:
                    left = True
        return left

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
            and now - self._last_begun <= STALL_SECONDS
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
        self._appraise()

    def _appraise(self) -> None:
        """Work out how much may wait without anybody being called for it."""
        awake = self._at[_AWAKE]
        self._enough = WAKE_SECONDS * awake / self._shortest if awake else -1.0

    def _clear(self) -> None:
        """Forget every worker and every job."""
        self._finished += self.unfinished  # As good as, here.
        self._finished += sum(worker.finished for worker in self._crew)
        for worker in self._crew:
            self._waits.extend(worker.waited)
            self._runs.extend(worker.ran)
        self._queue.clear()
        self._idle.clear()
        self._crew.clear()
        self._at = [0] * len(Place)
        self._size = self._skipped = 0
        self._coming = self._complain_at = None
        self._unwanted = self._blocked = 0
        self._when_gone.clear()
