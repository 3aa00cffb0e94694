"""The crew: a team with real threads, their start, and their end.

Any thread may enter. At the interpreter's exit, and in a forked child, the crews of
the process are seen to here.
"""

from __future__ import annotations

import _thread
import atexit
import itertools
import logging
import math
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from threadpool.job import Job, failureOf
from threadpool.team import Team
from threadpool.worker import Place, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.bound import Bound

__all__ = ["Crew", "ThreadWorker", "currentJob", "currentTeam"]

_log = logging.getLogger(__name__)

J = TypeVar("J", bound=Job[Any])

# How long the interpreter's exit waits for running jobs, all pools together.
EXIT_SECONDS = 5.0


class _Here(threading.local):
    """What a thread knows about itself."""

    team: Team[Any] | None = None
    worker: Worker[Any] | None = None


_here = _Here()


def currentTeam() -> Team[Any] | None:
    """Return the team whose worker this thread is; None in every other thread.

    A job that is going to wait for a loop tells its team so by `Team.blocked`.
    """
    return _here.team


def currentJob() -> Job[Any] | None:
    """Return the job that this thread does as a worker; None in every other thread."""
    worker = _here.worker
    return None if worker is None else worker.job


class ThreadWorker(Worker[J]):
    """A worker that is a thread: it parks on a lock of its own.

    Subclasses give `run` and, where getting ready takes more than a thread,
    `prepare` and `close`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bell = threading.Lock()
        self._bell.acquire()

    def close(self) -> None:
        """Put away what `prepare` opened; the thread ends afterwards."""

    def park(self, seconds: float) -> bool:
        """Wait for `wake`, for *seconds* at the most."""
        return self._bell.acquire(timeout=-1 if seconds == math.inf else seconds)

    def wake(self) -> None:
        """End the `park` that goes on or comes next."""
        self._bell.release()


class Crew(Generic[J]):
    """A team with its threads: hires them, counts them, and sees them off.

    Args:
        name: for thread names and texts.
        make_worker: called for each new thread, on the thread that hires.
        minimum: as for `Team`.
        maximum: as for `Team`.
        backlog: as for `Team`.
        idle_seconds: as for `Team`.
        bound: as for `Team`.
    """

    def __init__(
        self,
        name: str,
        make_worker: Callable[[], ThreadWorker[J]],
        *,
        minimum: int,
        maximum: int,
        backlog: int | None,
        idle_seconds: float,
        bound: Bound | None = None,
    ) -> None:
        self.name = name
        self._make_worker = make_worker
        # Each step on a dict is atomic by itself, with and without a GIL.
        self._threads: dict[Worker[J], threading.Thread] = {}
        self._numbers = itertools.count(1)
        self.team: Team[J] = Team(
            name,
            self._hire,
            minimum=minimum,
            maximum=maximum,
            backlog=backlog,
            idle_seconds=idle_seconds,
            bound=bound,
        )
        _crews.add(self)

    def threads(self) -> list[threading.Thread]:
        """Return the threads that are alive, or about to start or to end."""
        return list(self._threads.copy().values())

    def threadsByWorker(self) -> dict[Worker[J], threading.Thread]:
        """Return the threads that are alive, by the worker that lives in each."""
        return self._threads.copy()

    def idle(self) -> list[threading.Thread]:
        """Return the threads that are parked."""
        return self._threads_of(self.team.crew(Place.IDLE))

    def busy(self) -> list[threading.Thread]:
        """Return the threads that have a job."""
        return self._threads_of([w for w in self.team.crew() if w.job is not None])

    def _threads_of(self, workers: list[Worker[J]]) -> list[threading.Thread]:
        threads = self._threads.copy()
        # One that we were told of may be gone by now.
        return [threads[worker] for worker in workers if worker in threads]

    def join(self, seconds: float) -> bool:
        """Wait for all threads to end, for *seconds* at the most.

        Returns:
            Whether they have.
        """
        until = time.monotonic() + seconds
        for thread in self.threads():
            # One without an ident is being started at this very moment.
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self.threads())

    def _hire(self) -> None:
        worker = self._make_worker()
        thread = threading.Thread(
            target=self._live,
            args=(worker,),
            name=f"{self.name}-{next(self._numbers)}",
            # Daemonic, so that a forgotten pool cannot keep the process alive; the
            # exit hook below gives running jobs their chance.
            daemon=True,
        )
        self._threads[worker] = thread
        try:
            thread.start()
        except BaseException:
            if thread.ident is None:
                del self._threads[worker]
                raise
            # Ctrl-C came when the thread had started, which cannot be undone: let it
            # come again a little later.
            _thread.interrupt_main()

    def _live(self, worker: ThreadWorker[J]) -> None:
        _here.team, _here.worker = self.team, worker
        try:
            self.team.work(worker)
        except BaseException as error:
            _log.critical("A worker of %s broke", self.name, exc_info=True)
            # No await hangs.
            done, job = worker.delivering, worker.job
            if done is not None and done.home is not None:
                done.home.fire(done, done.outcome)
            if job is not None and job.home is not None:
                job.home.fire(job, failureOf(error))
            if job is not None:
                for mate in worker.companions:
                    if mate.home is not None:
                        mate.home.fire(mate, failureOf(error))
        try:
            worker.close()
        except BaseException:  # Else its place in the team would be lost for good.
            _log.exception("A worker of %s could not put its things away", self.name)
        self.team.gone(worker)
        self._threads.pop(worker, None)  # A forked child has cleared it.

    def __repr__(self) -> str:
        return f"<Crew {self.team!r}>"


_crews: weakref.WeakSet[Crew[Any]] = weakref.WeakSet()


def _at_exit() -> None:
    """Stop what runs, and give it a moment to end; what waits is never begun."""
    until = time.monotonic() + EXIT_SECONDS
    crews = list(_crews)
    for crew in crews:
        crew.team.withdraw(lambda _: True)
        crew.team.close(lambda: None)
    for crew in crews:
        for worker in crew.team.crew():
            if time.monotonic() >= until:  # Each may take a second over a dead network.
                break
            try:
                worker.interrupt()
            except Exception as error:
                _log.debug("%r could not be stopped at exit: %s", worker, error)
    for crew in crews:
        crew.join(until - time.monotonic())


def _after_fork_in_child() -> None:
    """Start the child with empty crews: threads do not come along."""
    for crew in list(_crews):
        crew._threads.clear()
        crew.team.afterFork()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
