"""For tests of programs that use this floor: no waiting, and nothing left to chance.

`Clock` is time that passes when it is told to. `MemoryCrew` is a team whose workers
move one step when they are told to: each has a thread, but it only moves inside
`MemoryWorker.step`, while the caller waits. So every interleaving can be played
through by hand, and again. One thread, the test's, may enter.

Source: `Clock` and `MemoryWorker` of Twisted.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, ParamSpec, TypeVar

from threadpool.delayed import DelayedCall, requireDelay
from threadpool.job import Job, failureOf
from threadpool.team import Place, Team

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

__all__ = ["Clock", "MemoryCrew", "MemoryWorker"]

P = ParamSpec("P")
J = TypeVar("J", bound=Job[Any])

# How long a worker may take for one step before the test is told that it hangs. Far
# above what a step takes on a loaded machine.
STEP_SECONDS: Final = 30.0


class _Timer:
    """A call at a known time."""

    def __init__(self, when: float, number: int, call: Callable[[], object]) -> None:
        self.when = when
        self.number = number
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        self.call = None

    def __lt__(self, other: _Timer) -> bool:
        return (self.when, self.number) < (other.when, other.number)


class _Timeline:
    """What a DelayedCall needs of a loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = itertools.count()
        self._timers: list[_Timer] = []

    def seconds(self) -> float:
        return self.now

    def later(self, seconds: float, function: Callable[[], object]) -> _Timer:
        timer = _Timer(self.now + seconds, next(self._numbers), function)
        heapq.heappush(self._timers, timer)
        return timer

    def next_until(self, end: float) -> _Timer | None:
        """Take out the next timer that is due by *end*."""
        while self._timers and self._timers[0].when <= end:
            timer = heapq.heappop(self._timers)
            if timer.call is not None:
                return timer
        return None


class Clock:
    """A reactor's clock that stands still until `advance`.

    Has `callLater` and `seconds`, so that it can be passed wherever a reactor is
    asked for its time only.

    Source: `twisted.internet.task.Clock`.
    """

    def __init__(self) -> None:
        self._timeline = _Timeline()
        self._calls: list[DelayedCall] = []

    def seconds(self) -> float:
        """Return the time, in seconds since this clock was made."""
        return self._timeline.now

    def callLater(
        self,
        delay: float,
        function: Callable[P, object],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DelayedCall:
        """Call *function* when this clock has been advanced by *delay*.

        Args:
            delay: seconds >= 0.
            function: anything to call.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Raises:
            ValueError: *delay* is negative or not finite.
        """
        requireDelay(delay)
        call = DelayedCall(self._timeline, delay, lambda: function(*args, **kwargs))
        self._calls.append(call)
        return call

    def getDelayedCalls(self) -> list[DelayedCall]:
        """Return the calls that are still going to happen, the next one first."""
        self._calls = [call for call in self._calls if call.active()]
        return sorted(self._calls, key=DelayedCall.getTime)

    def advance(self, seconds: float) -> None:
        """Let time pass, and what becomes due meanwhile happen, in order of time.

        Args:
            seconds: >= 0.

        Raises:
            ValueError: *seconds* is negative or not finite.
            BaseException: what one of the calls raised. Time stands at that call
                then; those after it happen with the next `advance`.
        """
        requireDelay(seconds)
        end = self._timeline.now + seconds
        while (timer := self._timeline.next_until(end)) is not None:
            self._timeline.now = max(timer.when, self._timeline.now)
            if timer.call is not None:
                timer.call()
        self._timeline.now = end

    def pump(self, steps: Iterable[float]) -> None:
        """Advance several times.

        Args:
            steps: seconds for each time.
        """
        for seconds in steps:
            self.advance(seconds)

    def __repr__(self) -> str:
        return f"<Clock at {self.seconds():g} s, {len(self.getDelayedCalls())} pending>"


class _Abandoned(BaseException):
    """Ends a worker's thread at the end of a test."""


class MemoryWorker(Generic[J]):
    """A worker of a `MemoryCrew`, moved by hand.

    Args:
        team: the team it works for.

    Attributes:
        place: as the team sees it.
        ready: whether it can run a job right now; set it False to make it `prepare`.
        job: what it runs at the moment.
        delivering: what it has run, and not brought home yet.
        begun_at: when it got its last job, in seconds of time.monotonic().
        doing: "hired", "preparing", "running", "parked" or "gone": what the next
            `step` ends. A worker that is "running" has its job, not yet begun.
        patience: seconds it would wait while "parked"; math.inf for ever.
        wakes: how often it was woken and has not parked again since.
        resigns: set it True to have the next `prepare` fail.
    """

    def __init__(self, team: Team[J]) -> None:
        self.place = Place.HIRED
        self.ready = True
        self.job: J | None = None
        self.delivering: J | None = None
        self.begun_at = 0.0
        self.doing: Literal["hired", "preparing", "running", "parked", "gone"] = "hired"
        self.patience = math.inf
        self.wakes = 0
        self.resigns = False
        self._team = team
        self._timed_out = False
        self._abandoned = False
        self._error: BaseException | None = None
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._live, daemon=True)

    # -- For the test ----------------------------------------------------------------

    def step(self) -> None:
        """Let it end what it is `doing`, and go on to the next thing.

        Raises:
            RuntimeError: it is parked and nobody woke it, or it is gone.
            BaseException: what left `Team.work`, or its job, if that does not keep
                its errors to itself.
        """
        if self.doing == "gone" or (self.doing == "parked" and not self.wakes):
            raise RuntimeError(
                f"{self!r} cannot move: nobody has woken it. Submit a job, or let its "
                "patience end with timeOut()."
            )
        self._move()

    def timeOut(self) -> None:
        """Let the patience of a parked worker end, even if it was woken just now.

        Raises:
            RuntimeError: it is not parked, or would wait for ever.
        """
        if self.doing != "parked" or self.patience == math.inf:
            raise RuntimeError(
                f"{self!r} cannot run out of patience. Step it until it is parked, in "
                "a team that has more workers than its minimum."
            )
        self._timed_out = True
        self._move()

    def abandon(self) -> None:
        """End its thread wherever it is; the team is no good afterwards."""
        self._abandoned = True
        if self._thread.is_alive():
            self._go.release()
            self._thread.join(STEP_SECONDS)

    # -- For the team; on the worker's own thread --------------------------------------

    def prepare(self) -> bool:
        """Become ready, unless it `resigns`."""
        self._stop("preparing")
        self.ready = not self.resigns
        return self.ready

    def run(self, job: J) -> bool:
        """Call the job's function; override this for a job that is more than that.

        Args:
            job: what the team gave it.

        Returns:
            True: the outcome is there and may go home.
        """
        self._stop("running")
        function, args, kwargs = job.function, job.args, job.kwargs
        job.clear()
        try:
            job.outcome = job.context.run(function, *args, **kwargs)
        except BaseException as error:
            job.outcome = failureOf(error)
        return True

    def park(self, seconds: float) -> bool:
        """Wait for `wake`, or for `timeOut`.

        Args:
            seconds: becomes `patience`.
        """
        self.patience = seconds
        self._stop("parked")
        if self._timed_out:
            self._timed_out = False
            return False
        self.wakes -= 1
        return True

    def interrupt(self) -> None:
        """Do nothing: a step of this worker is over before anybody could."""

    def wake(self) -> None:
        """Let the next `step` end its parking. Any thread."""
        self.wakes += 1

    # -- The machine -----------------------------------------------------------------

    def _move(self) -> None:
        if self.doing == "hired":
            self._thread.start()
        else:
            self._go.release()
        if not self._stopped.acquire(timeout=STEP_SECONDS):
            raise RuntimeError(f"{self!r} hangs: its step takes over {STEP_SECONDS} s.")
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _stop(self, doing: Literal["preparing", "running", "parked"]) -> None:
        self.doing = doing
        self._stopped.release()
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned

    def _live(self) -> None:
        try:
            try:
                self._team.work(self)
            finally:
                if not self._abandoned:
                    self._team.gone(self)
        except _Abandoned:
            return
        except BaseException as error:
            self._error = error
        self.doing = "gone"
        self._stopped.release()

    def __repr__(self) -> str:
        return f"<MemoryWorker {self.doing}, {self.place.name}, {self.wakes} wakes>"


class MemoryCrew(Generic[J]):
    """A team of workers moved by hand. A context manager, which ends their threads.

    Args:
        minimum: as for `Team`.
        maximum: as for `Team`.
        backlog: as for `Team`.
        idle_seconds: as for `Team`.
        make_worker: called with the team for each worker that is hired.

    Attributes:
        team: open from the start.
        refusal: raised instead of hiring, where it is not None.
    """

    def __init__(
        self,
        *,
        minimum: int = 0,
        maximum: int = 1,
        backlog: int | None = None,
        idle_seconds: float = 60.0,
        make_worker: Callable[[Team[J]], MemoryWorker[J]] = MemoryWorker,
    ) -> None:
        self._make_worker = make_worker
        self._hired: list[MemoryWorker[J]] = []
        self.refusal: BaseException | None = None
        self.team: Team[J] = Team(
            "MemoryCrew",
            self._hire,
            minimum=minimum,
            maximum=maximum,
            backlog=backlog,
            idle_seconds=idle_seconds,
        )
        self.team.open()

    @property
    def workers(self) -> list[MemoryWorker[J]]:
        """All that were hired and are not gone, the oldest first."""
        return [worker for worker in self._hired if worker.doing != "gone"]

    def movable(self) -> list[MemoryWorker[J]]:
        """Return the workers that `MemoryWorker.step` would move."""
        return [w for w in self.workers if w.doing != "parked" or w.wakes]

    def run(self) -> int:
        """Step everybody in turn until all are parked or gone.

        Returns:
            How many steps that took.
        """
        steps = 0
        while movable := self.movable():
            for worker in movable:
                worker.step()
                steps += 1
        return steps

    def _hire(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        self._hired.append(self._make_worker(self.team))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        for worker in self._hired:
            worker.abandon()

    def __repr__(self) -> str:
        return f"<MemoryCrew {self.team!r}, {len(self.movable())} can move>"
