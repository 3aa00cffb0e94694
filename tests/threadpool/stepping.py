"""A team to be stepped by hand, in a time that stands still."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from threadpool import labour as labour_module
from threadpool import roster as roster_module
from threadpool import staff as staff_module
from threadpool import team as team_module
from threadpool.job import Job
from threadpool.testing import Clock, MemoryCrew

# What one job costs where that matters: long enough that a second worker pays.
LONG = 0.010
SHORT = 0.000001


class Ticker:
    """Stands in for the ticker: remembers whom it was asked to watch."""

    def __init__(self, clock):
        self.clock = clock
        self.watched = {}
        self.alarms = []

    def watch(self, who):
        self.watched[who] = 0

    def alarm(self, when, function):
        self.alarms.append((when, function))

    def tick(self):
        """Look after everybody once; forget those who need it no more."""
        due = [entry for entry in self.alarms if entry[0] <= self.clock.seconds()]
        self.alarms = [entry for entry in self.alarms if entry not in due]
        for _, function in due:
            function()
        for who in list(self.watched):
            if not who.tick(self.clock.seconds()):
                del self.watched[who]


class Stage(MemoryCrew):
    """A crew with a clock and a ticker of its own, and a diary of what was run."""

    def __init__(self, clock, ticker, **options):
        super().__init__(**options)
        self.clock, self.ticker = clock, ticker
        self.diary = []

    def job(self, name, seconds=LONG):
        """Make a job that takes *seconds* and writes its name into the diary."""

        def play():
            self.clock.advance(seconds)
            self.diary.append(name)

        return Job(None, play, (), {}, self.team)

    def submit(self, *names, seconds=LONG):
        """Submit a job for each name; return the last."""
        for name in names:
            job = self.job(name, seconds)
            self.team.submit(job)
        return job

    def run_only(self, *workers):
        """Step only these, until they are parked or gone."""
        while movable := [w for w in self.movable() if w in workers]:
            movable[0].step()

    def doing(self):
        """What each worker does, the oldest first."""
        return [worker.doing for worker in self.workers]


class Stages:
    """Makes stages, and ends them."""

    def __init__(self, clock, ticker):
        self.clock, self.ticker = clock, ticker
        self._made = []

    def __call__(self, **options):
        stage = Stage(self.clock, self.ticker, **options)
        self._made.append(stage)
        return stage

    def end(self):
        for stage in self._made:
            stage.__exit__(None, None, None)


def stages(patch):
    """Let time stand still in the team's room, and return what makes stages."""
    clock = Clock()
    clock.advance(1000.0)
    ticker = Ticker(clock)
    for module in (team_module, staff_module, labour_module):
        patch.setattr(module, "time", SimpleNamespace(monotonic=clock.seconds))
    for module in (roster_module, staff_module, team_module, labour_module):
        patch.setattr(module, "ticker", ticker)
    return Stages(clock, ticker)


@pytest.fixture
def stage(monkeypatch):
    """Makes stages: `stage(maximum=3)`."""
    made = stages(monkeypatch)
    yield made
    made.end()
