"""What users get to test without waiting."""

from __future__ import annotations

import math

import pytest

from threadpool.error import AlreadyCalled, AlreadyCancelled
from threadpool.job import Job
from threadpool.testing import Clock, MemoryCrew

# -- Clock -------------------------------------------------------------------------


def test_clock_stands_still():
    """Time passes only when it is told to."""
    clock = Clock()
    assert clock.seconds() == 0.0
    clock.advance(1.5)
    assert clock.seconds() == 1.5
    assert repr(clock) == "<Clock at 1.5 s, 0 pending>"


def test_call_happens_when_it_is_due():
    """A call happens when the clock gets there, with its arguments, once."""
    clock, seen = Clock(), []
    clock.callLater(2, lambda *a, **k: seen.append((a, k)), 1, two=2)
    clock.advance(1.9)
    assert seen == []
    clock.advance(0.2)
    assert seen == [((1,), {"two": 2})]
    clock.advance(100)
    assert len(seen) == 1


def test_calls_happen_in_order_of_time():
    """In order of time, and first come first served where times are equal."""
    clock, seen = Clock(), []
    for delay, name in [(3, "d"), (1, "a"), (2, "b"), (2, "c")]:
        clock.callLater(delay, seen.append, name)
    clock.advance(10)
    assert seen == list("abcd")


def test_call_sees_its_own_time():
    """While a call happens the clock shows the time it was due, not the end."""
    clock, seen = Clock(), []
    clock.callLater(1, lambda: seen.append(clock.seconds()))
    clock.advance(10)
    assert seen == [1.0]
    assert clock.seconds() == 10.0


def test_calls_made_by_calls():
    """What a call asks for happens in the same advance when it is due by then."""
    clock, seen = Clock(), []

    def again():
        seen.append(clock.seconds())
        clock.callLater(1, again)

    clock.callLater(1, again)
    clock.pump([1, 2])
    assert seen == [1.0, 2.0, 3.0]


def test_failing_call_stops_the_clock_there():
    """What a call raises leaves `advance`; the next one goes on from there."""
    clock, seen = Clock(), []
    clock.callLater(1, lambda: 1 / 0)
    clock.callLater(2, seen.append, "on")
    with pytest.raises(ZeroDivisionError):
        clock.advance(5)
    assert clock.seconds() == 1.0
    clock.advance(1)
    assert seen == ["on"]


def test_delayed_call_can_be_moved_and_called_off():
    """The call that `callLater` returns can be reset, delayed and cancelled."""
    clock, seen = Clock(), []
    call = clock.callLater(1, seen.append, "a")
    assert call.active()
    assert call.getTime() == 1.0
    call.reset(5)
    call.delay(1)
    assert call.getTime() == 6.0
    clock.advance(5.5)
    assert seen == []
    clock.advance(0.5)
    assert seen == ["a"]
    for change in (call.cancel, lambda: call.reset(1), lambda: call.delay(1)):
        with pytest.raises(AlreadyCalled, match="has happened"):
            change()
    off = clock.callLater(1, seen.append, "never")
    off.cancel()
    assert not off.active()
    with pytest.raises(AlreadyCancelled, match="called off"):
        off.cancel()
    clock.advance(10)
    assert seen == ["a"]


def test_pending_calls_are_listed():
    """`getDelayedCalls` lists what is still going to happen, the next one first."""
    clock = Clock()
    late, early = clock.callLater(2, int), clock.callLater(1, int)
    clock.callLater(3, int).cancel()
    assert clock.getDelayedCalls() == [early, late]
    clock.advance(1)
    assert clock.getDelayedCalls() == [late]


@pytest.mark.parametrize("wrong", [-1, math.inf, math.nan])
def test_impossible_times_are_refused(wrong):
    """Time goes one way, and is finite."""
    clock = Clock()
    for ask in (clock.advance, lambda s: clock.callLater(s, int)):
        with pytest.raises(ValueError, match="0 or more"):
            ask(wrong)


# -- MemoryCrew --------------------------------------------------------------------


def test_crew_is_moved_by_hand():
    """Nothing happens until a worker is told to step."""
    seen = []
    with MemoryCrew(maximum=1) as crew:
        crew.team.submit(Job(None, seen.append, (1,), {}, crew.team))
        (worker,) = crew.workers
        assert worker.doing == "hired"
        assert crew.movable() == [worker]
        worker.step()
        assert worker.doing == "running"
        assert repr(worker) == "<MemoryWorker running, AWAKE, 0 wakes>"
        assert seen == []
        worker.step()
        assert seen == [1]
        assert worker.doing == "parked"
        assert repr(crew).endswith("0 can move>")


def test_crew_runs_until_everybody_rests():
    """`run` steps everybody until all are parked, and counts the steps."""
    seen = []
    with MemoryCrew(maximum=2) as crew:
        for number in range(5):
            crew.team.submit(Job(None, seen.append, (number,), {}, crew.team))
        assert crew.run() >= 6
        assert sorted(seen) == list(range(5))
        assert crew.run() == 0


def test_parked_worker_cannot_step():
    """A step that nobody asked for is an error in the test, and is told."""
    with MemoryCrew(minimum=1, maximum=1) as crew:
        crew.run()
        (worker,) = crew.workers
        with pytest.raises(RuntimeError, match="nobody has woken it"):
            worker.step()
        with pytest.raises(RuntimeError, match="cannot run out of patience"):
            worker.timeOut()


def test_failing_job_keeps_its_failure():
    """What a job raises becomes its outcome, as in a real worker."""
    with MemoryCrew() as crew:
        job = Job(None, lambda: 1 / 0, (), {}, crew.team)
        crew.team.submit(job)
        crew.run()
        assert job.outcome.check(ZeroDivisionError)


def test_end_of_the_test_ends_the_workers():
    """Leaving the `with` block ends every worker, wherever it stands."""
    with MemoryCrew(minimum=2, maximum=2) as crew:
        crew.team.submit(Job(None, int, (), {}, crew.team))
        for worker in crew.workers:
            worker.step()
    assert not any(worker._thread.is_alive() for worker in crew._hired)
