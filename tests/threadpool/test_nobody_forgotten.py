"""Nobody is forgotten and nobody overtaken: endless times, broken workers, cancels."""

from __future__ import annotations

import asyncio
import math
import threading
import time

import pytest

from tests.enterprise.helpers import outcome, reached
from threadpool._chain import LATER
from threadpool.crew import Crew, ThreadWorker
from threadpool.home import here
from threadpool.job import Job
from threadpool.ticker import Ticker


@pytest.mark.parametrize("seconds", [math.inf, threading.TIMEOUT_MAX * 2, 1e300])
def test_alarm_that_never_rings(seconds, monkeypatch):
    """An alarm later than any wait of a thread leaves the ticker alive for others."""
    ticker = Ticker({})
    asleep, rung = threading.Event(), threading.Event()
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)

    class Bell:
        """Tells when the ticker goes to sleep for good, and how it is woken."""

        def __init__(self, lock):
            self._lock = lock
            self.release = lock.release

        def acquire(self, timeout):
            if timeout > 1:
                asleep.set()
            return self._lock.acquire(timeout=timeout)

    ticker._bell = Bell(ticker._bell)
    ticker.alarm(time.monotonic() + seconds, lambda: None)
    assert asleep.wait(30)
    ticker.alarm(time.monotonic(), rung.set)
    assert rung.wait(5) or not died
    assert rung.is_set()


def test_order_after_a_job_that_comes_back(stage):
    """A job that is queued once more by its worker runs before those taken with it, and
    those before all that came later.
    """
    crew = stage(maximum=1)
    crew.submit("warm", seconds=0.000001)
    crew.run()
    refused = []
    run = crew.workers[0].run

    def run_or_refuse(job):
        if job is first and not refused:
            refused.append(job)
            assert len(worker.taken) > 0, "it has taken nothing else"
            crew.team.resubmit(job, crew.team)
            worker.ready = False
            return False
        return run(job)

    worker = crew.workers[0]
    worker.run = run_or_refuse
    first = crew.submit("a", seconds=0.000001)
    crew.submit(*"bcdef", seconds=0.000001)
    crew.run()
    assert refused == [first]
    assert crew.diary == ["warm", *"abcdef"]


class Breaking(ThreadWorker):
    """Takes others to its second job, and breaks in the middle of them."""

    def run(self, job):
        if job.team.take(self, 10, lambda _: True):
            raise MemoryError("no room for all of them")
        job.outcome = job.function()
        return True


async def test_companions_of_a_worker_that_breaks(expect_errors):
    """Where a worker breaks, those it ran together hear of it, and none of them counts
    as unfinished any more.
    """
    crew = Crew("Breaking", Breaking, minimum=0, maximum=1, backlog=50, idle_seconds=9)
    crew.team.open()
    home, inside, go_on = here(), threading.Event(), threading.Event()

    def hold():
        inside.set()
        assert go_on.wait(30)

    def submit(function):
        job = Job(home, function, (), {}, crew.team)
        crew.team.submit(job)
        return job

    first = submit(hold)
    await reached(inside)
    others = [submit(print) for _ in range(4)]
    go_on.set()
    await first
    done, _ = await asyncio.wait(others, timeout=5)
    assert len(done) == 4
    for job in others:
        assert isinstance(await outcome(job), MemoryError)
    gone = threading.Event()
    crew.team.close(gone.set)
    await reached(gone)
    stats = crew.team.stats()
    assert (stats.unfinished, stats.submitted, stats.finished) == (0, 5, 5)
    assert crew.join(5)
    assert len(expect_errors) == 1
    expect_errors.clear()


async def test_cancel_of_what_fails_otherwise():
    """A cancel that finds its Deferred on the way to another error comes at the task's
    next await: it is never lost.
    """
    steps = []

    def stop(waited):
        waited._late_cancel = True
        return LATER

    async def user():
        try:
            await waited
        except ZeroDivisionError:
            steps.append("error")
        await asyncio.Event().wait()

    waited = here().deferred()
    waited._canceller = stop
    task = asyncio.ensure_future(user())
    await asyncio.sleep(0)
    task.cancel("enough")
    waited.errback(ZeroDivisionError())
    done, _ = await asyncio.wait([task], timeout=5)
    assert done, "the cancel was swallowed"
    assert task.cancelled()
    assert steps == ["error"]
