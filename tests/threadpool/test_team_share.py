"""Workers take several small jobs at once, and nobody is left behind for it."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import pytest

from tests.threadpool.stepping import LONG, SHORT
from threadpool.bound import Bound
from threadpool.error import PoolFull
from threadpool.events import PendingEvents
from threadpool.job import QUEUED, TAKEN, Job, JobState
from threadpool.roster import SHARE
from threadpool.team import GIL
from threadpool.testing import MemoryWorker


def quick(crew, count=1):
    """Let a worker learn that jobs are short, and park."""
    crew.submit(*range(count), seconds=SHORT)
    crew.run()
    crew.diary.clear()


def test_worker_takes_its_share_of_small_jobs(stage):
    """One worker that is awake takes many small jobs at once, in their order."""
    crew = stage(maximum=1)
    quick(crew)
    crew.submit(*range(100), seconds=SHORT)
    (worker,) = crew.workers
    worker.step()
    assert len(worker.taken) == SHARE - 1  # And one that it is about to run.
    crew.run()
    assert crew.diary == list(range(100))


def test_long_jobs_are_taken_one_by_one(stage):
    """What takes long is not taken before it is begun."""
    crew = stage(maximum=1)
    crew.submit("first", seconds=LONG)
    crew.run()
    crew.submit("a", "b", "c", seconds=LONG)
    (worker,) = crew.workers
    worker.step()
    assert not worker.taken


def test_stuck_worker_loses_what_it_has_taken(stage):
    """Behind a job that turns out long nothing is stranded: others do it, in order."""
    crew = stage(maximum=2)
    quick(crew)
    crew.submit("long", seconds=LONG)
    crew.submit("a", "b", "c", seconds=SHORT)
    (worker,) = crew.workers
    worker.step()
    assert [job.state for job in worker.taken] == [TAKEN] * 3
    crew.clock.advance(LONG)
    crew.ticker.tick()
    assert not worker.taken
    (other,) = [each for each in crew.workers if each is not worker]
    crew.run_only(other)
    assert crew.diary == ["a", "b", "c"]
    crew.run()
    assert crew.diary == ["a", "b", "c", "long"]


def test_worker_at_work_keeps_what_it_has_taken(stage):
    """One that gets on with it is left alone."""
    crew = stage(maximum=2)
    quick(crew)
    crew.submit("a", "b", "c", seconds=SHORT)
    (worker,) = crew.workers
    worker.step()
    crew.ticker.tick()
    assert len(worker.taken) == 2
    assert crew.workers == [worker]


def test_taken_job_can_be_removed(stage):
    """A job that was taken and not begun still counts as waiting."""
    crew = stage(maximum=1)
    quick(crew)
    crew.submit("a", seconds=SHORT)
    removed = crew.submit("b", seconds=SHORT)
    crew.submit("c", seconds=SHORT)
    (worker,) = crew.workers
    worker.step()
    stats = crew.team.stats()
    assert (stats.waiting, stats.busy, stats.unfinished) == (2, 1, 3)
    assert crew.team.remove(removed)
    assert removed.state is JobState.REMOVED
    crew.run()
    assert crew.diary == ["a", "c"]


def test_taken_jobs_are_among_those_that_wait(stage):
    """Whoever asks for what waits gets what was taken, too, in order."""
    crew = stage(maximum=1)
    quick(crew)
    crew.submit("a", seconds=SHORT)
    waiting = [crew.submit(name, seconds=SHORT) for name in "bcd"]
    crew.workers[0].step()
    assert crew.team.waiting() == waiting
    assert crew.team.withdraw(lambda job: job is not waiting[1]) == waiting[::2]
    crew.run()
    assert crew.diary == ["a", "c"]


def test_job_that_has_begun_is_not_called_back(stage):
    """Only what waits can be taken back from a worker."""
    crew = stage(maximum=1)
    quick(crew)
    begun = crew.submit("a", seconds=SHORT)
    crew.workers[0].step()
    assert not crew.team.remove(begun)
    crew.run()
    assert crew.diary == ["a"]


def test_worker_that_is_not_ready_gives_back_what_it_has_taken(stage):
    """What a worker cannot do any more goes to the others, before all that waits."""
    crew = stage(maximum=2)
    quick(crew)
    crew.submit("a", "b", seconds=SHORT)
    (worker,) = crew.workers
    worker.step()
    worker.ready, worker.resigns = False, True
    (following,) = worker.taken
    worker.step()
    assert following.state is QUEUED
    crew.run()
    assert crew.diary == ["a", "b"]
    assert worker not in crew.workers


def test_worker_that_breaks_gives_back_what_it_has_taken(stage):
    """A fault of the worker costs the job it was at, and no other."""
    crew = stage(maximum=1)
    quick(crew)
    crew.submit("a", "b", "c", seconds=SHORT)
    (worker,) = crew.workers
    worker.step()
    worker.run = None
    with pytest.raises(TypeError):
        worker.step()
    crew.run()
    assert crew.diary == ["a", "c"]
    assert crew.team.stats().unfinished == 0


class Contested(deque):
    """What a worker has taken, which is called back as it reaches for it."""

    team = None

    def popleft(self):
        team, self.team = self.team, None
        if team is not None:
            team.waiting()  # Between the look and the grip.
        return super().popleft()


def contested_worker(team):
    worker = MemoryWorker(team)
    worker.taken = Contested()
    return worker


def test_one_that_asks_at_the_moment_of_the_recall(stage):
    """A worker whose last job is called back as it reaches for it finds nothing."""
    crew = stage(maximum=1, make_worker=contested_worker)
    quick(crew)
    crew.submit("a", "b", seconds=SHORT)
    (worker,) = crew.workers
    worker.step()
    worker.taken.team = crew.team
    crew.run()
    assert crew.diary == ["a", "b"]
    assert worker.job is None
    assert crew.team.stats().unfinished == 0


def test_shared_bound_is_exact(stage):
    """Teams that share a bound are full together, neither before nor after."""
    bound = Bound(2, 3)
    crews = [stage(maximum=1, bound=bound) for _ in range(2)]
    for turn in range(5):
        crews[turn % 2].submit(turn)
    for crew in crews:
        with pytest.raises(PoolFull) as caught:
            crew.submit("one too many")
        assert (caught.value.unfinished, caught.value.limit) == (5, 5)
    crews[0].run_only(*crews[0].workers)
    for turn in range(3):
        crews[1].submit(turn)
    with pytest.raises(PoolFull):
        crews[0].submit("one too many")


def test_high_water_marks(stage):
    """The most that was ever unfinished is known, whoever had taken it."""
    crew = stage(maximum=2)
    crew.submit("a", seconds=LONG)
    crew.run()
    crew.submit(*range(7), seconds=SHORT)
    crew.run()
    crew.submit(*range(3), seconds=SHORT)
    crew.run()
    assert crew.team.stats().most_unfinished == 7


class Pass:
    """A pass of a loop over events, each of which submits a job to a team."""

    def __init__(self, stage):
        self.crew = stage(maximum=1)
        quick(self.crew)
        (self.worker,) = self.crew.workers
        self._passes = []
        self.home = PendingEvents(self._passes.append)

    def submits(self, then=lambda: None):
        """Put an event that submits, and then calls *then*."""
        self.home.put(SimpleNamespace(happen=lambda: (self._submit(), then())))

    def _submit(self):
        self.crew.team.submit(Job(self.home, int, (), {}, self.crew.team))

    def run(self):
        self._passes.pop()()


def test_nobody_is_called_in_the_middle_of_a_pass(stage):
    """Where threads take turns a worker is called when the loop's pass is over."""
    one, called = Pass(stage), []
    for _ in range(3):
        one.submits(then=lambda: called.append(one.worker.wakes))
    one.run()
    # The last one need not wait for the end.
    assert called == ([0, 0, 1] if GIL else [1, 1, 1])
    one.crew.run()


def test_pass_that_ends_otherwise_calls_all_the_same(stage):
    """Whoever got a job in a pass calls somebody at its end, whatever came last."""

    class Breaks:
        def happen(self):
            raise KeyboardInterrupt

    one = Pass(stage)
    one.submits()
    one.home.put(Breaks())
    with pytest.raises(KeyboardInterrupt):
        one.run()
    assert one.worker.wakes == 1
    one.crew.run()


def test_pass_that_blocks_calls_through_the_ticker(stage):
    """A callback that submits and then blocks does not keep the worker waiting."""
    one, seen = Pass(stage), []

    def block():
        one.crew.ticker.tick()
        seen.append(one.worker.wakes)

    one.submits(then=block)
    one.submits(then=block)
    one.run()
    assert seen == [1, 1]
    one.crew.run()


def test_a_worker_runs_one_job_however_many_go_with_it(stage):
    """`runs` counts workers that have one; `running` has what goes with it, too."""
    crew = stage(maximum=1)
    quick(crew)
    crew.submit(*range(3), seconds=SHORT)
    (worker,) = crew.workers
    worker.step()
    assert len(crew.team.take(worker, 2, lambda _: True)) == 2
    assert [job for job, _ in crew.team.runs()] == [worker.job]
    assert set(crew.team.running()) == {worker.job, *worker.companions}
    crew.team.giveBack(worker, worker.companions)
    crew.run()
    assert crew.diary == [0, 1, 2]
