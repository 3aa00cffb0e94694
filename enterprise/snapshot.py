"""The snapshot: who runs what, for how long, and who waits. Any thread may look.

Records hold no values: SQL is shown as it was written, without its parameters, and
functions by their name.

Source: PostgreSQL's pg_stat_activity, seen from the client's side.
"""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enterprise import jobs
from enterprise.copying import CopyIn
from enterprise.interaction import BareConnection, Interaction, WithConnection
from enterprise.lease import Lease
from enterprise.ledger import book
from enterprise.stream import Stream

if TYPE_CHECKING:
    from enterprise.drivers.base import Lane
    from enterprise.jobs import DatabaseJob
    from enterprise.office import Office

__all__ = ["RunningJob", "Snapshot", "WaitingJob", "look"]

# Of the jobs that wait, how many are shown.
WAITING_SHOWN = 100

# From the special to the general.
_KINDS: tuple[tuple[type, str], ...] = (
    (jobs.Query, "query"),
    (jobs.Operation, "operation"),
    (jobs.WholeResult, "result"),
    (jobs.Script, "script"),
    (WithConnection, "connection"),
    (Interaction, "interaction"),
    (BareConnection, "bare connection"),
    (Lease, "lease"),
    (Stream, "stream"),
    (CopyIn, "copy"),
)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunningJob:
    """One job that a worker runs.

    Attributes:
        label: SQL without values, or a function's name.
        kind: "query", "operation", "result", "script", "interaction", "connection",
            "bare connection", "lease", "stream" or "copy"; the method that was called.
        lane: "any", "reader" or "writer".
        thread_name: the worker's.
        running_seconds: since the worker took it.
        waited_seconds: in the queue, before that.
        phase: "not sent", "sent", "committing" or "committed".
        cancel_wanted: it was told to stop, or the statement of a lease was.
        abandoned: its caller was told so, for it does not stop.
        borrower: of a lease, the name of the task that holds it; None where no task of
            asyncio's does, and for all others.
        stack: where the worker's thread is in Python, as lines of text, outermost call
            first; empty where it was not asked for.
    """

    label: str
    kind: str
    lane: str
    thread_name: str
    running_seconds: float
    waited_seconds: float
    phase: str
    cancel_wanted: bool
    abandoned: bool
    borrower: str | None = None
    stack: tuple[str, ...] = ()

    def __repr__(self) -> str:
        borrower = f", held by {self.borrower}" if self.borrower else ""
        state = (
            ", abandoned"
            if self.abandoned
            else ", being stopped"
            if self.cancel_wanted
            else ""
        )
        return (
            f"<{self.kind} on {self.thread_name} for {self.running_seconds:.3g} s, "
            f"{self.phase}{state}{borrower}: {self.label}>"
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WaitingJob:
    """One job in the queue.

    Attributes:
        label: SQL without values, or a function's name.
        kind: as for `RunningJob`.
        lane: as for `RunningJob`.
        waited_seconds: since it was queued.
    """

    label: str
    kind: str
    lane: str
    waited_seconds: float

    def __repr__(self) -> str:
        return f"<{self.kind} waiting for {self.waited_seconds:.3g} s: {self.label}>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Snapshot:
    """What a pool's workers run at one moment, and what waits for them.

    Attributes:
        running: the one that runs longest first.
        waiting: the one that waits longest first; a hundred of them at the most.
        waiting_count: how many wait in all.
    """

    running: tuple[RunningJob, ...]
    waiting: tuple[WaitingJob, ...]
    waiting_count: int

    def __repr__(self) -> str:
        return f"<Snapshot: {len(self.running)} running, {self.waiting_count} waiting>"


def look(office: Office, *, stacks: bool) -> Snapshot:
    """Take a snapshot of a pool; see `ConnectionPool.snapshot`.

    Args:
        office: the pool's.
        stacks: whether to tell where each worker's thread is.
    """
    running: list[RunningJob] = []
    waiting: list[WaitingJob] = []
    count = 0
    for lane, crew in office.crews.items():
        threads = crew.threadsByWorker()
        at_work = crew.team.atWork()
        frames = sys._current_frames() if stacks and at_work else {}
        now = time.monotonic()
        for worker, job, began in at_work:
            thread = threads.get(worker)
            if thread is None:
                continue  # It is gone by now.
            frame = frames.get(thread.ident or 0)
            # It may have gone on to the next job meanwhile.
            stack = traceback.format_stack(frame) if worker.job is job else []
            lines = "".join(stack if frame is not None else ()).splitlines()
            running.append(_running(job, lane, thread.name, now - began, began, lines))
        first, all_of_them = crew.team.queued(WAITING_SHOWN)
        count += all_of_them
        waiting += [_waiting(job, lane, now) for job in first]
    running.sort(key=lambda record: -record.running_seconds)
    waiting.sort(key=lambda record: -record.waited_seconds)
    return Snapshot(
        running=tuple(running),
        waiting=tuple(waiting[:WAITING_SHOWN]),
        waiting_count=count,
    )


def _running(
    job: DatabaseJob[Any],
    lane: Lane,
    thread_name: str,
    seconds: float,
    began: float,
    stack: list[str],
) -> RunningJob:
    return RunningJob(
        label=job.label(),
        kind=_kind(job),
        lane=lane.value,
        thread_name=thread_name,
        running_seconds=seconds,
        waited_seconds=began - job.queued_at,
        phase=job.phase,
        cancel_wanted=job.stopping(),
        abandoned=job.released,
        borrower=book.borrower(job),
        stack=tuple(stack),
    )


def _waiting(job: DatabaseJob[Any], lane: Lane, now: float) -> WaitingJob:
    return WaitingJob(
        label=job.label(),
        kind=_kind(job),
        lane=lane.value,
        waited_seconds=max(0.0, now - job.queued_at),
    )


def _kind(job: DatabaseJob[Any]) -> str:
    for cls, kind in _KINDS:
        if isinstance(job, cls):
            return kind
    return type(job).__name__.lower()
