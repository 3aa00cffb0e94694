"""The team under everything that can happen to it, in any order."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.threadpool.stepping import LONG, SHORT, Stage, stages
from threadpool.error import PoolClosed, PoolFull
from threadpool.job import JobState
from threadpool.testing import MemoryWorker

CHOICE = st.integers(min_value=0, max_value=1000)


class Recorder(MemoryWorker):
    """A worker that writes down which job it begins."""

    begun: list[object]  # Set by the machine.

    def run(self, job):
        self.begun.append(job)
        return super().run(job)


class TeamMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        made = stages(self.patch)
        self.clock, self.ticker = made.clock, made.ticker
        self.submitted, self.removed, self.begun = [], [], []
        self.taken, self.recalled = [], set()
        self.refused = self.refused_closed = 0
        self.closings, self.told = 0, []
        self.size_before = self.blocked = 0
        self.numbers = itertools.count()

    @initialize(
        minimum=st.integers(0, 2), more=st.integers(0, 3), backlog=st.integers(0, 4)
    )
    def start(self, minimum, more, backlog):
        def make_worker(team):
            worker = Recorder(team)
            worker.begun = self.begun
            return worker

        self.crew = Stage(
            self.clock,
            self.ticker,
            minimum=minimum,
            maximum=max(1, minimum + more),
            backlog=backlog,
            idle_seconds=5.0,
            make_worker=make_worker,
        )
        self.team = self.crew.team
        take, recall = self.team._take, self.team._recall

        def note_taken(worker, now):
            took = take(worker, now)
            self.taken.extend(worker.taken)  # It had nothing left.
            return took

        def note_recalled(worker):
            self.recalled.update(worker.taken)
            recall(worker)

        self.team._take, self.team._recall = note_taken, note_recalled

    # -- What may happen -------------------------------------------------------------

    @rule(seconds=st.sampled_from([SHORT, LONG]))
    def submit(self, seconds):
        unfinished = self.team.stats().unfinished
        limit = self.team.maximum + self.team.backlog
        job = self.crew.job(next(self.numbers), seconds)
        try:
            self.team.submit(job)
        except PoolFull as error:
            assert not self.closings
            assert unfinished >= limit
            assert (error.unfinished, error.limit) == (unfinished, limit)
            self.refused += 1
        except PoolClosed:
            assert self.closings
            self.refused_closed += 1
        else:
            assert not self.closings
            assert unfinished < limit
            self.submitted.append(job)

    @precondition(lambda self: self.crew.movable())
    @rule(choices=st.lists(CHOICE, min_size=1, max_size=4))
    def step(self, choices):
        for choice in choices:
            if movable := self.crew.movable():
                movable[choice % len(movable)].step()

    @rule(choice=CHOICE)
    def step_one_until_it_runs_something(self, choice):
        if not (movable := self.crew.movable()):
            return
        worker = movable[choice % len(movable)]
        while worker in self.crew.movable() and worker.doing != "running":
            worker.step()

    @rule()
    def settle(self):
        self.crew.run()

    @precondition(lambda self: self.impatient())
    @rule(choice=CHOICE)
    def run_out_of_patience(self, choice):
        impatient = self.impatient()
        impatient[choice % len(impatient)].timeOut()

    @precondition(lambda self: self.submitted)
    @rule(choice=CHOICE)
    def remove(self, choice):
        job = self.submitted[choice % len(self.submitted)]
        waits = job.state in (JobState.QUEUED, JobState.TAKEN)
        assert self.team.remove(job) == waits
        if waits:
            self.removed.append(job)

    @rule(choice=CHOICE, resigns=st.booleans())
    def break_down(self, choice, resigns):
        running = [w for w in self.crew.workers if w.doing == "running"]
        if not running:
            return
        worker = running[choice % len(running)]
        worker.ready, worker.resigns = False, resigns
        worker.step()

    @rule(seconds=st.sampled_from([SHORT, LONG]))
    def submit_and_wait(self, seconds):
        self.submit(seconds)
        self.time_without_anybody()

    @precondition(lambda self: len(self.crew.workers) > 1)
    @rule(resigns=st.booleans())
    def break_down_beside_an_idle_one(self, resigns):
        self.settle()
        self.submit(LONG)
        self.step_one_until_it_runs_something(0)
        self.break_down(0, resigns)
        self.submit(SHORT)
        self.time_without_anybody()

    @rule(minimum=st.integers(0, 2), more=st.integers(0, 3))
    def resize(self, minimum, more):
        self.team.resize(minimum, max(1, minimum + more))

    @rule()
    def grow(self):
        self.team.grow()

    @rule()
    def shrink(self):
        self.team.shrink()

    @rule()
    def block(self):
        """One more of the running jobs begins to wait for the loop."""
        if self.blocked < self.crew.doing().count("running"):
            self.blocked += 1
            self.team.blocked()

    @rule()
    def unblock(self):
        if self.blocked:
            self.blocked -= 1
            self.team.unblocked()

    @rule(seconds=st.sampled_from([SHORT, 0.0002, 1.0]))
    def tick(self, seconds):
        self.clock.advance(seconds)
        self.ticker.tick()

    @rule()
    def time_without_anybody(self):
        """Everybody is inside something long, for ever: who could come is coming."""
        self.clock.advance(1.0)
        self.ticker.tick()
        stats = self.team.stats()
        doing = self.crew.doing()
        coming = doing.count("hired") + sum(w.wakes for w in self.crew.workers)
        if stats.waiting and not coming:
            assert not stats.idle, "a job waits beside an idle worker"
            preparing = doing.count("preparing")
            if preparing < stats.waiting:
                assert stats.workers >= self.team.maximum, "a job is stranded"

    @precondition(lambda self: self.closings < 2)
    @rule(chance=st.integers(0, 15))
    def close(self, chance):
        if chance == 0:
            self.closings += 1
            self.team.close(lambda: self.told.append(self.team.stats().workers))

    # -- What must always be true ------------------------------------------------------

    def impatient(self):
        return [
            worker
            for worker in self.crew.workers
            if worker.doing == "parked" and worker.patience != math.inf
        ]

    @invariant()
    def figures_add_up(self):
        stats = self.team.stats()
        workers = self.crew.workers
        running = [w for w in workers if w.doing == "running"]
        assert stats.submitted == len(self.submitted)
        assert stats.submitted == stats.finished + stats.removed + stats.unfinished
        assert stats.finished == len(self.crew.diary)
        assert stats.removed == len(self.removed)
        assert stats.refused == self.refused
        assert stats.busy == len(running)
        assert stats.unfinished == stats.waiting + stats.busy
        assert stats.workers == len(workers)
        assert stats.idle == sum(w.place.name == "IDLE" for w in workers)
        assert set(self.team.running()) == {w.job for w in running}

    @invariant()
    def size_is_bounded(self):
        size = self.team.stats().workers
        # Above a maximum that was lowered it only shrinks.
        assert size <= max(self.team.maximum, self.size_before)
        self.size_before = size

    @invariant()
    def jobs_are_taken_in_order(self):
        order = {job: number for number, job in enumerate(self.submitted)}
        assert len(set(self.begun)) == len(self.begun)
        # What a stuck worker had to give back comes after what others took meanwhile.
        numbers = [order[job] for job in self.taken if job not in self.recalled]
        assert numbers == sorted(set(numbers))
        assert not set(self.begun) & set(self.removed)

    @invariant()
    def idle_workers_are_not_woken(self):
        for worker in self.crew.workers:
            assert worker.wakes in (0, 1)
            if worker.place.name == "IDLE":
                assert worker.wakes == 0

    @invariant()
    def the_end_is_told_once(self):
        assert self.told in ([], [0] * self.closings)

    # -- The end -----------------------------------------------------------------------

    def teardown(self):
        try:
            if hasattr(self, "crew"):
                self.drain()
        finally:
            if hasattr(self, "crew"):
                self.crew.__exit__(None, None, None)
            self.patch.undo()

    def drain(self):
        while self.blocked:
            self.unblock()
        while self.crew.movable():
            self.crew.run()
            self.clock.advance(1.0)
            self.ticker.tick()
        stats = self.team.stats()
        assert (stats.waiting, stats.busy, stats.unfinished) == (0, 0, 0)
        asked = len(self.submitted) + self.refused + self.refused_closed
        done = len(self.crew.diary) + len(self.removed)
        assert done + self.refused + self.refused_closed == asked
        self.closings += 1
        self.team.close(lambda: self.told.append(self.team.stats().workers))
        self.crew.run()
        while impatient := self.impatient():
            impatient[0].timeOut()
        assert self.crew.workers == []
        assert self.told == [0] * self.closings


TestTeam = TeamMachine.TestCase
TestTeam.settings = settings(
    max_examples=120,
    stateful_step_count=60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,  # A run tells about the code, not about the dice.
    database=None,
)
