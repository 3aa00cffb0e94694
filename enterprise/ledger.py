"""The ledger: who keeps a worker for himself, and whether a call would wait for itself.

A call waits for a worker. Where every worker that could do it is kept by somebody who
waits for one in turn, in whatever lane or pool, and it all comes back to the caller,
nobody would ever go on: such a call closes the circle and is refused. There is one book
for all pools of the process, since circles go from pool to pool. Loops' threads only.

A caller is an asyncio task, or a worker that waits in `blockingCallFromThread`.
A task's own context does not count: others inherit it. Under loops that know no tasks
of asyncio's, nobody is recognised and nothing refused; `starving` tells of those.

Source: the deadlocks that users of other pools report as "pool exhausted", and the way
databases find theirs: whoever can go on is struck out, until nobody is left who can.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from enterprise.errors import NestedAcquire
from threadpool._blocking import callingJob, waiting
from threadpool.job import QUEUED, TAKEN, Job

if TYPE_CHECKING:
    from enterprise.jobs import DatabaseJob
    from threadpool.team import Team

__all__ = ["Book", "Ledger", "book", "caller"]

T = TypeVar("T")

# What keeps one worker: the job it does, and the calls, each with its team, without
# which that does not end; None for the calls where the caller itself keeps it.
Wish: TypeAlias = "tuple[DatabaseJob[Any], Team[Any]]"
Kept: TypeAlias = "tuple[DatabaseJob[Any], list[Wish] | None]"

# By team, what keeps its workers; None where one is free, or will be hired.
Survey: TypeAlias = "dict[Team[Any], list[Kept] | None]"


def caller() -> object | None:
    """Return who calls: a task, a job whose worker waits for this call, or None."""
    if asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return task
    return callingJob() if waiting else None


class Book:
    """What all pools of the process have lent, and what their borrowers wait for.

    Attributes:
        lent: the jobs that keep a worker for a caller. Empty as a rule, so ask it
            first. Each step on it is atomic by itself.
    """

    def __init__(self) -> None:
        self.lent: set[weakref.ref[DatabaseJob[Any]]] = set()
        self._lock = threading.Lock()
        # Who must end the job that was lent to him. guarded by: _lock
        self._owners: weakref.WeakKeyDictionary[DatabaseJob[Any], weakref.ref[Any]] = (
            weakref.WeakKeyDictionary()
        )
        # For how many jobs. guarded by: _lock
        self._borrowers: weakref.WeakKeyDictionary[Any, int] = (
            weakref.WeakKeyDictionary()
        )
        # What who keeps a worker has asked for besides. guarded by: _lock
        self._wishes: weakref.WeakKeyDictionary[Any, list[DatabaseJob[Any]]] = (
            weakref.WeakKeyDictionary()
        )

    def lend(self, job: DatabaseJob[Any]) -> None:
        """Note that *job* is going to keep a worker until the current caller ends it.

        Args:
            job: a lease, or whatever else serves its caller call by call.
        """
        owner = caller()
        # One that is never heard of again goes by itself.
        self.lent.add(weakref.ref(job, self.lent.discard))
        if owner is not None:
            with self._lock:
                self._owners[job] = weakref.ref(owner)
                self._borrowers[owner] = self._borrowers.get(owner, 0) + 1

    def takeBack(self, job: DatabaseJob[Any]) -> None:
        """Note that *job* is over.

        Args:
            job: one that was lent.
        """
        self.lent.discard(weakref.ref(job))
        with self._lock:
            owner = self._owners.pop(job, _nobody)()
            if owner is not None:
                self._borrowers[owner] -= 1
                if not self._borrowers[owner]:
                    del self._borrowers[owner]

    def borrower(self, job: DatabaseJob[Any]) -> str | None:
        """Return the name of the task that holds *job*; None where no task does.

        Args:
            job: one that was lent. Any thread may ask.
        """
        with self._lock:
            reference = self._owners.get(job)
        owner = None if reference is None else reference()
        return owner.get_name() if isinstance(owner, asyncio.Task) else None

    def wish(self, job: DatabaseJob[Any]) -> bool:
        """Remember that the current caller waits for *job*, unless it would for ever.

        Args:
            job: about to be submitted.

        Returns:
            False where it would: it must not be submitted.
        """
        asking = caller()
        if asking is None:
            return True
        with self._lock:
            if not self._keeps(asking):
                return True
            if self._circle(job.team, asking):
                return False
            wishes = self._wishes.setdefault(asking, [])
            wishes[:] = [wish for wish in wishes if not wish.called]
            wishes.append(job)
            return True

    def closes(self, team: Team[Any]) -> bool:
        """Say whether a call of the current caller to *team* would close a circle.

        Args:
            team: a lane's.
        """
        asking = caller()
        if asking is None:
            return False
        with self._lock:
            return self._keeps(asking) and self._circle(team, asking)

    # -- The circle; guarded by: _lock -------------------------------------------------

    def _keeps(self, asking: object) -> bool:
        """Say whether *asking* keeps a worker, or is going to."""
        # A job's worker waits for this very call.
        return isinstance(asking, Job) or asking in self._borrowers

    def _circle(self, team: Team[Any], asking: object) -> bool:
        survey = self._survey(team, asking)
        if not _stuck(survey, team):
            return False
        # Workers went on while we looked from lane to lane. What is the same at a
        # second look was so at the moment between the two: all of it at once.
        return self._survey(team, asking) == survey

    def _survey(self, team: Team[Any], asking: object) -> Survey:
        """Look who keeps the workers of *team*, and of those it comes back to."""
        survey: Survey = {}
        blocked = {call.job for call in waiting.copy()}
        todo = [team]
        while todo:
            lane = todo.pop()
            if lane in survey:
                continue
            running = lane.runs()  # One for each worker that has one.
            if len(running) < lane.maximum:
                survey[lane] = None
                continue
            kept: list[Kept] = []
            survey[lane] = kept
            for job, _ in running:
                owner = self._owners.get(job, _nobody)()
                if job.cancel_wanted:  # It is being stopped, whatever others do.
                    kept.append((job, []))
                elif asking in (job, owner):
                    kept.append((job, None))
                else:
                    wishes = self._awaited(owner)
                    if job in blocked:
                        wishes += self._awaited(job)
                    kept.append((job, wishes))
                    todo += [lane for _, lane in wishes]
        return survey

    def _awaited(self, who: object) -> list[Wish]:
        """Return the calls that *who* waits for, and where they wait."""
        wishes = self._wishes.get(who, ()) if who is not None else ()
        return [
            (wish, wish.team)
            for wish in wishes
            if wish.state in (QUEUED, TAKEN) and _is_awaited(wish.answer())
        ]

    def __repr__(self) -> str:
        return f"<Book, {len(self.lent)} lent>"


def _nobody() -> None:
    return None


def _is_awaited(answer: Any) -> bool:
    """Say whether somebody waits for *answer*, or for a Deferred that waits for it."""
    seen = set()
    todo = [answer]
    while todo:
        deferred = todo.pop()
        if deferred._waiters is not None:
            return True
        seen.add(deferred)
        pairs = [step for step in deferred._callbacks or () if step.__class__ is tuple]
        # (None, outer): its chain waits for this one.
        todo += [outer for own, outer in pairs if own is None and outer not in seen]
    return False


def _stuck(survey: Survey, team: Team[Any]) -> bool:
    """Say whether no worker of *team* ever comes free.

    The lanes that may go on are taken away, then those that only waited for these,
    until nothing changes. What is left waits for itself, or for the caller.
    """
    stuck = {lane: kept for lane, kept in survey.items() if kept is not None}
    while team in stuck:
        free = [
            lane
            for lane, kept in stuck.items()
            if not all(
                wishes is None or any(where in stuck for _, where in wishes)
                for _, wishes in kept
            )
        ]
        if not free:
            return True
        for lane in free:
            del stuck[lane]
    return False


# The book of this process.
book: Final = Book()


class Ledger:
    """One pool's hand in the book.

    Args:
        name: the pool's, for texts.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def lend(self, job: DatabaseJob[Any]) -> None:
        """Note that the caller keeps the worker that is going to do *job*.

        Args:
            job: a lease, or whatever else serves its caller call by call.
        """
        book.lend(job)
        job.addBoth(self._returned, job)

    @staticmethod
    def _returned(result: T, job: DatabaseJob[Any]) -> T:
        book.takeBack(job)
        return result

    def refusal(self, job: DatabaseJob[Any]) -> NestedAcquire | None:
        """Say why *job*, which is about to be submitted, must not be.

        Args:
            job: a call that the current caller makes.

        Returns:
            None where it may. Then the book remembers that the caller waits for it.
        """
        if book.wish(job):
            return None
        return NestedAcquire(
            f"All {job.team.maximum} connection(s) of {self._name} that could do this "
            "are held by the caller, or by transactions that wait for one that the "
            "caller holds: the call would wait for ever. Use the transaction that the "
            "caller holds, make the call after it, take connections in the same order "
            "everywhere, or raise cp_max."
        )

    def closes(self, team: Team[Any]) -> bool:
        """Say whether a call of the current caller to *team* would close a circle.

        Args:
            team: a lane's.
        """
        return book.closes(team)

    def __repr__(self) -> str:
        return f"<Ledger of {self._name}, {len(book.lent)} lent in all>"


if hasattr(os, "register_at_fork"):  # Those who borrowed have stayed behind.
    os.register_at_fork(after_in_child=book.__init__)  # type: ignore[misc]
