"""Batches: several jobs that a worker does at once, where that is cheaper.

A worker that has a job asks its team for those that wait behind it, and has the
batcher of its driver do them together. Each still has its own outcome, as if it had
been alone. Everything here runs on the worker's thread.

Source: PostgreSQL's pipeline mode, and the group commit of database logs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from enterprise.jobs import DatabaseJob
    from enterprise.worker import ConnectionWorker

__all__ = ["Batcher"]


class Batcher(Protocol):
    """Does several jobs at once on one connection."""

    most: int
    """How many may join a job at the most."""

    takes_one: bool
    """Whether it does a job also where none joins it."""

    def joins(self, job: DatabaseJob[Any]) -> bool:
        """Say whether *job* may be one of several. Quick: a lock may be held."""
        ...

    def run(self, worker: ConnectionWorker, jobs: list[DatabaseJob[Any]]) -> None:
        """Do *jobs* and give each its outcome, as `job.do` would.

        Who is not to be brought home has no `home` any more. Who was handed to somebody
        else is no longer among `worker.companions` and counted in `worker.finished`;
        where it is the first one, `worker.handed_on` says so.

        Args:
            worker: whose connection lives.
            jobs: those that `joins` said yes to, in order; two at the least, unless
                `takes_one`.
        """
        ...
