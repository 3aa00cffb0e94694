"""Histograms: how many times were how long."""

from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadpool.job import Job
from threadpool.pool import ThreadPool
from threadpool.stats import Histogram, Times
from threadpool.team import Team

seconds = st.floats(min_value=0, max_value=10_000)


def histogram(times):
    """Put *times* into a histogram, as a team does."""
    all_of_them = Times()
    for each in times:
        all_of_them.extend([each])
    return all_of_them.histogram()


@pytest.mark.parametrize(
    ("time", "bound"),
    [
        (0.0, 2.0**-20),
        (-1e-9, 2.0**-20),
        (2.0**-20, 2.0**-20),
        (2.0**-20 * 1.001, 2.0**-19),
        (0.5, 0.5),
        (0.6, 1.0),
        (1.0, 1.0),
        (4096.0, 4096.0),
        (4097.0, math.inf),
        (math.inf, math.inf),
    ],
)
def test_bucket(time, bound):
    """A time is counted in the bucket that ends with it, or next after it."""
    found = histogram([time])
    assert dict(zip(found.bounds, found.counts, strict=True))[bound] == 1
    assert found.count == 1


@given(st.lists(seconds, min_size=1), st.lists(seconds), st.floats(0, 1))
def test_quantile_is_never_less_and_less_than_twice(times, more, fraction):
    """A quantile is at least the true one, and below twice as much, in any batches."""
    collected = Times()
    for batch in (times, more):
        for each in batch:
            collected.extend([each])
        collected.settle()
    found = collected.histogram()
    times = sorted(times + more)
    assert found.count == len(times)
    assert math.isclose(found.total_seconds, sum(times), abs_tol=1e-9)
    assert math.isclose(found.mean_seconds, sum(times) / len(times), abs_tol=1e-9)
    true = times[max(0, math.ceil(fraction * len(times)) - 1)]
    told = found.quantile(fraction)
    assert told >= true
    assert told <= 2.0**-20 or told == math.inf or told < 2 * true or true == 0


@given(st.lists(seconds), st.lists(seconds))
def test_sum_is_the_histogram_of_both(one, other):
    """Two histograms added up are that of all times."""
    both = histogram(one) + histogram(other)
    assert both.counts == histogram(one + other).counts
    assert math.isclose(both.total_seconds, sum(one) + sum(other), abs_tol=1e-6)


def test_histogram_without_times():
    """Without times every figure is 0, and the text says so."""
    empty = Histogram()
    assert (empty.count, empty.mean_seconds, empty.quantile(0.5)) == (0, 0.0, 0.0)
    assert repr(empty) == "<Histogram of 0>"


def test_histogram_texts_and_freedom_from_change():
    """A histogram is frozen, pickles, and says in one line what it holds."""
    found = histogram([0.001] * 99 + [3.0])
    assert repr(found) == (
        "<Histogram of 100: mean 0.031 s, half within 0.00195 s, 99 % within 0.00195 s>"
    )
    with pytest.raises(FrozenInstanceError):
        found.total_seconds = 1.0
    assert pickle.loads(pickle.dumps(found)) == found
    assert repr(Times()) == "<Times, 0 counted, 0 fresh>"


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan, 99])
def test_fraction_is_checked(fraction):
    """A fraction that is none is refused with the figure."""
    with pytest.raises(ValueError, match=f"{fraction!r}"):
        Histogram().quantile(fraction)


def test_settling_lets_go_of_the_times():
    """What was counted takes no more memory, and is not counted again."""
    times = Times()
    times.extend([1.0])
    times.settle()
    assert repr(times) == "<Times, 1 counted, 0 fresh>"
    assert times.histogram().count == times.histogram().count == 1


async def test_team_tells_how_long_jobs_waited_and_ran():
    """Each job is in both histograms once, and their sums are the other figures."""
    async with ThreadPool(1, 1, "test") as pool:
        for _ in range(5):
            await pool.deferToThread(int)
        await pool.deferToThread(pool.stats)  # It is running itself.
        found = pool.stats()
    assert found.waits.count == 6
    assert found.runs.count in (5, 6)  # The last may not have been taken away yet.
    assert found.waits.total_seconds == found.wait_seconds
    assert found.runs.total_seconds == found.run_seconds
    assert found.oldest_wait_seconds == 0.0


async def test_busy_team_keeps_no_more_times_than_a_batch(monkeypatch):
    """A worker that never rests counts its jobs' times in batches."""
    monkeypatch.setattr("threadpool.stats.BATCH", 4)
    async with ThreadPool(1, 1, "test") as pool:
        for _ in range(9):
            await pool.deferToThread(int)
        team = pool._team
        assert len(team._runs._fresh) < 5
        assert len(team._waits._fresh) < 6
        assert pool.stats().waits.count == 9


def test_oldest_wait_is_that_of_the_first_who_still_waits():
    """A job taken back waits no more: the next one is the oldest."""
    team = Team(
        "test",
        lambda: None,
        minimum=0,
        maximum=1,
        backlog=None,
        idle_seconds=1,
    )
    first, second = (Job(None, int, (), {}, team) for _ in range(2))
    for job, ago in ((first, 10.0), (second, 7.0)):
        team.submit(job)
        job.queued_at -= ago
    assert 10.0 <= team.stats().oldest_wait_seconds < 40.0
    assert team.remove(first)
    assert 7.0 <= team.stats().oldest_wait_seconds < 10.0
    assert team.queued(1) == ([second], 1)
    assert team.queued(0) == ([], 1)
    assert team.atWork() == []
