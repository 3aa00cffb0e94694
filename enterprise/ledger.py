"""The ledger: who has borrowed a worker, and whether a call would wait for itself.

A call waits for a worker. Where every worker that could do it is held by somebody who
waits for one in turn, and one of them is the caller, nobody would ever go on: such a
call closes the circle and is refused. Loops' threads only.

A caller is an asyncio task, or an interaction whose thread waits in
`blockingCallFromThread`. A task's own context does not count: others inherit it. Under
loops that know no tasks of asyncio's, nobody is recognised and nothing refused.

Source: the deadlocks that users of other pools report as "pool exhausted".
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from enterprise.errors import NestedAcquire
from enterprise.interaction import Interaction, inside
from enterprise.lease import Lease
from threadpool.job import QUEUED, JobState

if TYPE_CHECKING:
    from enterprise.jobs import DatabaseJob
    from threadpool.team import Team

__all__ = ["Ledger", "caller"]

T = TypeVar("T")


def caller() -> object | None:
    """Return who calls: a task, an interaction that waits for this call, or None."""
    if asyncio._get_running_loop() is None:
        return None
    task = asyncio.current_task()
    if task is not None:
        return task
    reference = inside.get()
    job = None if reference is None else reference()
    if job is not None and job.state is JobState.RUNNING and job.team._blocked:
        return job
    return None


class Ledger:
    """The leases of one pool, and the calls that their holders wait for.

    Args:
        name: the pool's, for texts.

    Attributes:
        lent: how many leases have been asked for and not ended; anybody may read it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self.lent = 0  # guarded by: _lock (for writing)
        # By lease. guarded by: _lock
        self._owners: weakref.WeakKeyDictionary[Lease, weakref.ref[Any]] = (
            weakref.WeakKeyDictionary()
        )
        # What a holder has asked for besides. guarded by: _lock
        self._wishes: weakref.WeakKeyDictionary[Any, list[DatabaseJob[Any]]] = (
            weakref.WeakKeyDictionary()
        )

    def lend(self, lease: Lease) -> None:
        """Note that whoever calls is going to hold *lease*.

        Args:
            lease: one that was not submitted yet.
        """
        owner = caller()
        with self._lock:
            self.lent += 1
            if owner is not None:
                self._owners[lease] = weakref.ref(owner)

    def returned(self, result: T, lease: Lease) -> T:
        """Note that *lease* is over.

        Args:
            result: what came of it.
            lease: one that was lent.

        Returns:
            The result.
        """
        with self._lock:
            self.lent -= 1
            self._owners.pop(lease, None)
        return result

    def borrower(self, lease: Lease) -> str | None:
        """Return the name of the task that holds *lease*; None where no task does.

        Args:
            lease: one that was lent. Any thread may ask.
        """
        with self._lock:
            reference = self._owners.get(lease)
        owner = None if reference is None else reference()
        return owner.get_name() if isinstance(owner, asyncio.Task) else None

    def refusal(self, job: DatabaseJob[Any]) -> NestedAcquire | None:
        """Say why *job*, which is about to be submitted, must not be.

        Args:
            job: a call that the current caller makes.

        Returns:
            None where it may. Then the ledger remembers that the caller waits for it.
        """
        asking = caller()
        if asking is None:
            return None
        holding = job.team.running()
        with self._lock:
            if not any(self._owner(held) is asking for held in holding):
                return None
            if not self._circle(job.team, holding, asking):
                wishes = self._wishes.setdefault(asking, [])
                wishes[:] = [wish for wish in wishes if wish.state is QUEUED]
                wishes.append(job)
                return None
        return NestedAcquire(
            f"All {job.team.maximum} connection(s) of {self._name} that could do this "
            "are held by transactions that wait for one themselves, and the caller "
            "holds one of them: the call would wait for ever. Use the transaction "
            "that the caller holds, make the call after it, or raise cp_max."
        )

    def closes(self, team: Team[Any]) -> bool:
        """Say whether a call of the current caller to *team* would close a circle.

        Args:
            team: a lane's.
        """
        asking = caller()
        if asking is None:
            return False
        holding = team.running()
        with self._lock:
            return self._circle(team, holding, asking)

    def _circle(
        self, team: Team[Any], holding: list[DatabaseJob[Any]], asking: object
    ) -> bool:
        if len(holding) < team.maximum:
            return False  # There is another worker, or will be.
        return all(self._stuck(held, team, asking) for held in holding)

    def _stuck(self, held: DatabaseJob[Any], team: Team[Any], asking: object) -> bool:
        """Say whether *held*'s worker comes free only after one of *team* does."""
        owner = self._owner(held)
        if owner is None or owner is asking:
            return owner is asking
        wishes = self._wishes.get(owner, ())
        return any(wish.team is team and wish.state is QUEUED for wish in wishes)

    def _owner(self, held: DatabaseJob[Any]) -> object | None:
        """Return who must go on so that *held*'s worker comes free; None for nobody."""
        if held.cancel_wanted:
            return None  # It is being stopped, whatever its owner does.
        if isinstance(held, Interaction):
            return held
        if isinstance(held, Lease):
            reference = self._owners.get(held)
            return None if reference is None else reference()
        return None

    def __repr__(self) -> str:
        return f"<Ledger of {self._name}, {self.lent} lent>"
