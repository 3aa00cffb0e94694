"""Calls at a later time and calls again and again, in a time that stands still."""

from __future__ import annotations

import asyncio
import gc
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadpool.defer import (
    CancelledError,
    Deferred,
    ensureDeferred,
    fail,
    flushUnhandled,
    succeed,
)
from threadpool.error import LoopClosed
from threadpool.home import here
from threadpool.reactor import reactor
from threadpool.task import LoopingCall, deferLater
from threadpool.testing import Clock


class Diary:
    """A function that notes when it was called, and does what it is told."""

    def __init__(self, clock):
        self.clock = clock
        self.times = []
        self.answers = []

    def __call__(self, *args, **kwargs):
        self.times.append(self.clock.seconds())
        self.arguments = args, kwargs
        return self.answers.pop(0) if self.answers else None


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def diary(clock):
    return Diary(clock)


@pytest.fixture
def loop(clock, diary):
    """A LoopingCall of the diary, by the clock."""
    call = LoopingCall(diary, 1, two=2)
    call.clock = clock
    return call


def outcome(deferred):
    """What became of a Deferred; its failure counts as seen."""
    found = []
    deferred.addBoth(found.append)
    return found[0] if found else None


# -- the times ---------------------------------------------------------------------


def test_calls_at_once_and_at_every_interval(clock, diary, loop):
    """The first call is made by `start`, the others one interval after the other."""
    loop.start(0.5)
    clock.advance(1.6)
    assert diary.times == [0.0, 0.5, 1.0, 1.5]
    assert diary.arguments == ((1,), {"two": 2})


def test_first_call_after_an_interval(clock, diary, loop):
    """With `now=False` the first call waits for one interval."""
    loop.start(0.5, now=False)
    assert diary.times == []
    clock.advance(1.0)
    assert diary.times == [0.5, 1.0]


def test_slow_answer_skips_and_does_not_shift(clock, diary, loop):
    """While an answer is waited for, times pass and are skipped; the grid stays."""
    answer = Deferred()
    diary.answers.append(answer)
    loop.start(1.0)
    clock.advance(2.25)
    assert diary.times == [0.0]
    answer.callback(None)
    clock.advance(2.0)
    assert diary.times == [0.0, 3.0, 4.0]


def test_answer_at_the_very_time_of_a_call_skips_it(clock, diary, loop):
    """An answer that takes exactly two intervals counts as having missed both."""
    answer = Deferred()
    diary.answers.append(answer)
    loop.start(1.0)
    clock.advance(2.0)
    answer.callback(None)
    clock.advance(1.0)
    assert diary.times == [0.0, 3.0]


def test_slow_function_skips_and_does_not_shift(clock, loop):
    """A function that blocks for longer than the interval does not make calls lag."""
    times = []

    def work():
        times.append(clock.seconds())
        clock._timeline.now += 0.7  # As time passes in a function that blocks.

    call = LoopingCall(work)
    call.clock = clock
    call.start(0.5)
    clock.advance(3.0)
    assert times == [0.0, 1.0, 2.0, 3.0]


def test_coroutine_is_waited_for(clock, loop):
    """A coroutine that the function returns is run, and waited for."""
    steps, times = [Deferred(), Deferred()], []

    async def work():
        times.append(clock.seconds())
        await steps[len(times) - 1]

    call = LoopingCall(work)
    call.clock = clock
    call.start(1.0)
    clock.advance(1.5)
    steps[0].callback(None)
    clock.advance(1.0)
    assert times == [0.0, 2.0]


def test_count_tells_what_was_skipped(clock):
    """`withCount` tells how many times were due since the last call."""
    answer, counts = Deferred(), []

    def work(count):
        counts.append((clock.seconds(), count))
        return answer if len(counts) == 2 else None

    call = LoopingCall.withCount(work)
    call.clock = clock
    call.start(1.0)
    clock.advance(4.5)
    answer.callback(None)
    clock.advance(2.0)
    assert counts == [(0.0, 1), (1.0, 1), (5.0, 4), (6.0, 1)]


def test_count_of_a_late_timer(clock):
    """A timer that rings late makes one call, which counts for all that were due."""
    counts = []
    call = LoopingCall.withCount(counts.append)
    call.clock = clock
    call.start(1.0, now=False)
    clock._timeline.now = 3.5  # The loop was busy with something else.
    clock.advance(0)
    assert counts == [3]
    clock.advance(0.5)
    assert counts == [3, 1]


def test_interval_of_zero_yields_between_calls(clock, diary, loop):
    """With an interval of 0 there is a turn of the loop between two calls."""
    between = []

    def work():
        diary()
        if len(diary.times) == 4:
            call.stop()
        clock.callLater(0, lambda: between.append(len(diary.times)))

    call = LoopingCall(work)
    call.clock = clock
    call.start(0)
    assert len(diary.times) == 1
    clock.advance(0)
    assert between == [1, 2, 3, 4]


def test_interval_of_zero_counts_one_by_one(clock):
    """With an interval of 0 nothing is ever skipped."""
    counts = []

    def work(count):
        counts.append(count)
        if len(counts) == 3:
            call.stop()

    call = LoopingCall.withCount(work)
    call.clock = clock
    call.start(0, now=False)
    clock.advance(5)
    assert counts == [1, 1, 1]


class Early(Clock):
    """A clock whose timers ring up to half a millisecond early, as uvloop's do."""

    def callLater(self, delay, function, *args, **kwargs):
        return super().callLater(max(0.0, delay - 0.0005), function, *args, **kwargs)


def test_early_timer_is_set_again():
    """A timer that rings before its time makes no call before its time."""
    clock = Early()
    clock.advance(0.1)
    diary = Diary(clock)
    call = LoopingCall(diary)
    call.clock = clock
    rings = []
    call._ring = lambda ring=call._ring: rings.append(1) or ring()
    call.start(0.0015, now=False)
    for _ in range(100):
        clock._timeline.now += 0.0001
        for _ in range(3):  # Not for ever: it rings again and again meanwhile.
            timer = clock._timeline.next_until(clock.seconds())
            if timer is not None and timer.call is not None:
                timer.call()
    assert len(diary.times) == 6
    assert len(rings) > 6
    for number, time in enumerate(diary.times, 1):
        assert time >= 0.1 + number * 0.0015


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    begin=st.floats(0, 1e9),
    interval=st.floats(1e-6, 1e6),
    steps=st.lists(st.floats(0, 3), min_size=1, max_size=40),
    lags=st.lists(st.floats(0, 2.5), min_size=1, max_size=10),
    now=st.booleans(),
)
def test_calls_are_made_on_the_grid(begin, interval, steps, lags, now):
    """Calls happen at start + n * interval or later, never early, never twice for one
    n, and the counts add up to the intervals that have passed, whatever floats do.
    """
    clock, calls, moment = Clock(), [], iter(lags * 40)
    clock.advance(begin)

    def work(count):
        calls.append((clock.seconds(), count))
        # Lost in the function; mostly nothing, so that exact hits are tried, too.
        clock._timeline.now += math.floor(next(moment)) * interval / 3

    call = LoopingCall.withCount(work)
    call.clock = clock
    call.start(interval, now=now)
    for step in steps:
        clock.advance(step * interval)
        if len(calls) > 300:
            break
    call.stop()
    passed = -1 if now else 0
    for time, count in calls:
        assert count >= 1
        passed += count
        assert time >= begin + passed * interval, "early, or counted twice"
        assert time < begin + (passed + 1) * interval, "an interval was not counted"


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(
    begin=st.floats(0, 1e6),
    interval=st.floats(1e-4, 1e4),
    number=st.integers(2, 10_000),
    early=st.booleans(),
)
def test_edges_of_an_interval(begin, interval, number, early):
    """The smallest float before the time of a call belongs to the interval before."""
    clock, counts = Clock(), []
    clock.advance(begin)
    call = LoopingCall.withCount(counts.append)
    call.clock = clock
    call.start(interval, now=False)
    due = begin + number * interval
    clock._timeline.now = math.nextafter(due, 0) if early else due
    clock.advance(0)
    call.stop()
    assert counts == [number - early]


def test_interval_below_the_clock_resolution(clock):
    """An interval that no float can tell from 0 does no harm: calls go on."""
    counts = []
    clock.advance(1e9)

    def work(count):
        counts.append(count)
        if len(counts) == 5:
            clock._timeline.now += 1.0
        if len(counts) == 10:
            call.stop()

    call = LoopingCall.withCount(work)
    call.clock = clock
    call.start(5e-324)
    clock.advance(1)
    assert len(counts) == 10
    assert min(counts) == 1


# -- its life ----------------------------------------------------------------------


def test_stop_fires_with_the_looping_call(clock, diary, loop):
    """The Deferred of `start` fires with the LoopingCall when it was stopped."""
    ended = loop.start(1.0)
    assert loop.running
    clock.advance(1.0)
    assert not ended.called
    loop.stop()
    assert outcome(ended) is loop
    assert not loop.running
    assert clock.getDelayedCalls() == []


def test_stop_inside_the_function(clock, loop):
    """The function may stop its own loop."""
    call = LoopingCall(lambda: call.stop())
    call.clock = clock
    ended = call.start(1.0)
    assert outcome(ended) is call
    assert clock.getDelayedCalls() == []


def test_stop_while_an_answer_is_waited_for(clock, diary, loop):
    """A stopped loop fires when its last call has ended."""
    answer = Deferred()
    diary.answers.append(answer)
    ended = loop.start(1.0)
    loop.stop()
    assert not ended.called
    assert "stopping" in repr(loop)
    answer.callback(None)
    assert outcome(ended) is loop
    assert clock.getDelayedCalls() == []


def test_function_that_raises_ends_the_loop(clock, diary, loop):
    """What the function raises, or its Deferred fails with, is the loop's failure."""

    def broken():
        raise KeyError("x")

    call = LoopingCall(broken)
    call.clock = clock
    assert outcome(call.start(1.0)).check(KeyError)
    assert not call.running
    diary.answers += [None, fail(ValueError("y"))]
    ended = loop.start(1.0)
    clock.advance(1.0)
    assert outcome(ended).check(ValueError)
    assert not loop.running
    assert clock.getDelayedCalls() == []


def test_failure_nobody_looks_at_is_logged(clock, loop, expect_errors):
    """A loop that fails unseen is logged: it does not end in silence."""
    call = LoopingCall(lambda: 1 / 0)
    call.clock = clock
    call.start(1.0)
    gc.collect()
    (record,) = expect_errors
    assert record.failure.check(ZeroDivisionError)


def test_ctrl_c_in_the_function_leaves_the_loop(clock, loop):
    """KeyboardInterrupt goes through, and the loop has ended."""

    def interrupted():
        if clock.seconds():
            raise KeyboardInterrupt

    call = LoopingCall(interrupted)
    call.clock = clock
    ended = call.start(1.0)
    with pytest.raises(KeyboardInterrupt):
        clock.advance(1.0)
    assert not call.running
    assert outcome(ended).check(KeyboardInterrupt)


def test_clock_that_fails_ends_the_loop(clock, diary, loop):
    """Where no timer can be set, the Deferred says so."""

    def broken(*args):
        raise OSError("no more timers")

    clock.callLater = broken
    assert outcome(loop.start(1.0)).check(OSError)
    assert not loop.running


def test_starts_again_after_its_end(clock, diary, loop):
    """A loop that has ended may be started again, with another interval."""
    loop.start(1.0)
    clock.advance(1.0)
    loop.stop()
    clock.advance(0.5)
    loop.start(2.0)
    clock.advance(2.0)
    assert diary.times == [0.0, 1.0, 1.5, 3.5]


def test_starting_twice(clock, diary, loop):
    """A loop that runs, or is about to end, is not started again."""
    answer = Deferred()
    diary.answers.append(answer)
    loop.start(1.0)
    with pytest.raises(RuntimeError, match="started already"):
        loop.start(1.0)
    loop.stop()
    with pytest.raises(RuntimeError, match="started already"):
        loop.start(1.0)
    answer.callback(None)
    loop.start(1.0)


@pytest.mark.parametrize("verb", ["stop", "reset"])
def test_what_does_not_run_cannot_be_changed(loop, verb):
    """`stop` and `reset` of a loop that does not run are refused."""
    with pytest.raises(RuntimeError, match=f"cannot {verb}: it does not run"):
        getattr(loop, verb)()


@pytest.mark.parametrize("wrong", [-1, math.inf, math.nan])
def test_impossible_intervals_are_refused(loop, wrong):
    """Time goes one way, and is finite."""
    with pytest.raises(ValueError, match="0 or more"):
        loop.start(wrong)
    assert not loop.running


def test_reset_begins_the_grid_anew(clock, diary, loop):
    """After `reset` the next call comes one interval later, and so on."""
    loop.start(1.0)
    clock.advance(1.75)
    loop.reset()
    clock.advance(2.0)
    assert diary.times == [0.0, 1.0, 2.75, 3.75]
    assert len(clock.getDelayedCalls()) == 1


def test_reset_begins_to_count_anew(clock):
    """After `reset` the count is of the intervals since then."""
    counts = []
    call = LoopingCall.withCount(counts.append)
    call.clock = clock
    call.start(1.0)
    clock.advance(2.5)
    call.reset()
    clock.advance(1.0)
    assert counts == [1, 1, 1, 1]


def test_reset_while_an_answer_is_waited_for(clock, diary, loop):
    """Also when the function has not answered yet."""
    answer = Deferred()
    diary.answers.append(answer)
    loop.start(1.0)
    clock.advance(0.25)
    loop.reset()
    answer.callback(None)
    clock.advance(1.0)
    assert diary.times == [0.0, 1.25]


def test_cancel_stops_the_loop(clock, diary, loop):
    """Cancelling the Deferred of `start` is one more way to stop."""
    ended = loop.start(1.0)
    assert ended.cancel("enough")
    failure = outcome(ended)
    assert failure.check(CancelledError)
    assert failure.value.args == ("enough",)
    assert not loop.running
    assert clock.getDelayedCalls() == []
    loop.start(1.0)


def test_cancel_reaches_what_the_function_waits_for(clock, diary, loop):
    """A cancel goes on to the Deferred that the function has returned."""
    answer = Deferred()
    diary.answers.append(answer)
    ended = loop.start(1.0)
    ended.cancel()
    assert answer.called
    assert outcome(ended).check(CancelledError)
    assert not loop.running


def test_cancel_waits_for_the_function_to_end(clock, loop):
    """Cancelled inside the function, or by one that cleans up, it ends afterwards."""
    cleaned = Deferred()

    async def work():
        try:
            await Deferred()
        except CancelledError:
            await cleaned

    call = LoopingCall(work)
    call.clock = clock
    ended = call.start(1.0)
    ended.cancel()
    assert not ended.called
    cleaned.callback(None)
    assert outcome(ended).check(CancelledError)

    def inside():
        if clock.seconds():
            ended.cancel()

    call = LoopingCall(inside)
    call.clock = clock
    ended = call.start(1.0)
    clock.advance(1.0)
    assert outcome(ended).check(CancelledError)


def test_repr_is_truthful(clock, loop):
    """The repr says what is repeated, how often, and whether it is."""
    call = LoopingCall(outcome)
    call.clock = clock
    call._function = lambda: None
    call._function.__qualname__ = "work"
    assert repr(call) == "<LoopingCall of work, not running>"
    call.start(0.25)
    assert repr(call) == "<LoopingCall of work every 0.25 s, running>"
    call.stop()
    assert repr(call) == "<LoopingCall of work, not running>"


# -- with a real loop --------------------------------------------------------------


async def test_with_a_real_loop():
    """By the reactor's clock calls come on the grid, and none comes early."""
    begin, times = None, []

    async def work():
        times.append(reactor.seconds())
        await asyncio.sleep(0)
        if len(times) == 5:
            call.stop()

    call = LoopingCall(work)
    begin = reactor.seconds()
    assert await call.start(0.003) is call
    assert len(times) == 5
    for number, time in enumerate(times):
        assert time >= begin + number * 0.003


async def test_cancelled_task_stops_its_loop():
    """Cancelling the task that awaits a loop stops it."""
    call = LoopingCall(int)
    task = asyncio.create_task(call.start(0.001).asCoroutine())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert not call.running


def test_loop_that_ends_stops_it(clock, diary, loop):
    """A LoopingCall ends with its event loop, and runs again in the next one; what its
    last call there still waits for is of no importance then.
    """
    ended, late = [], Deferred()
    diary.answers += [None, late]

    async def main():
        loop.start(1.0).addBoth(ended.append)

    for _ in range(2):
        asyncio.run(main())
        assert ended.pop() is loop
        assert not loop.running
        assert clock.getDelayedCalls() == []
    loop.start(1.0)
    late.callback(None)
    assert loop.running
    assert len(clock.getDelayedCalls()) == 1


def test_late_failure_of_an_ended_loop_is_logged(clock, diary, loop, expect_errors):
    """What fails after its event loop has ended is logged, for nobody waits for it."""
    late = Deferred()
    diary.answers.append(late)

    async def main():
        loop.start(1.0)

    asyncio.run(main())
    late.errback(KeyError("late"))
    del late
    gc.collect()
    (record,) = expect_errors
    assert record.failure.check(KeyError)


def test_loop_that_ended_before_does_not_stop_it(loop):
    """Stopped in one event loop and started in another, it belongs to the other."""

    async def first():
        loop.start(30.0)
        loop.stop()
        return here()

    async def second():
        loop.start(30.0)
        queue.close()
        return loop.running

    other = asyncio.new_event_loop()
    queue = other.run_until_complete(first())
    assert asyncio.run(second())
    other.run_until_complete(other.shutdown_asyncgens())
    other.close()


# -- deferLater --------------------------------------------------------------------


def test_deferred_call(clock, diary):
    """`deferLater` fires with what the function returned, when the time has come."""
    diary.answers.append("value")
    deferred = deferLater(clock, 2.0, diary, 1, two=2)
    clock.advance(1.9)
    assert not deferred.called
    clock.advance(0.2)
    assert outcome(deferred) == "value"
    assert diary.arguments == ((1,), {"two": 2})
    assert diary.times == [2.0]


def test_deferred_call_waits_for_what_it_is_given(clock):
    """A Deferred or a coroutine that the function returns is waited for."""

    async def work():
        return await succeed("deep")

    plain = deferLater(clock, 1.0, lambda: succeed("deferred"))
    deep = deferLater(clock, 1.0, work)
    clock.advance(1.0)
    assert outcome(plain) == "deferred"
    assert outcome(deep) == "deep"


def test_deferred_call_that_fails(clock):
    """What the function raises is the Deferred's failure."""
    deferred = deferLater(clock, 1.0, lambda: 1 / 0)
    clock.advance(1.0)
    assert outcome(deferred).check(ZeroDivisionError)


def test_only_time_passes(clock):
    """Without a function the Deferred fires with None."""
    found = []
    deferLater(clock, 1.0).addCallback(found.append)
    clock.advance(1.0)
    assert found == [None]


def test_cancelled_deferred_call_is_never_made(clock, diary):
    """A cancel takes the timer away."""
    deferred = deferLater(clock, 1.0, diary)
    deferred.cancel()
    assert clock.getDelayedCalls() == []
    clock.advance(2.0)
    assert diary.times == []
    assert outcome(deferred).check(CancelledError)


async def test_deferred_call_in_a_real_loop():
    """By the reactor's clock, and awaited."""
    before = reactor.seconds()
    assert await deferLater(reactor, 0.002, pow, 2, 3) == 8
    assert reactor.seconds() >= before


@pytest.mark.parametrize("function", [None, int])
def test_deferred_call_in_a_loop_that_ends(clock, function):
    """When the loop ends whoever waits gets LoopClosed, and the call is never made."""
    told = []

    async def wait():
        try:
            await deferLater(clock, 1.0, function)
        except LoopClosed:
            told.append("coroutine")

    async def main():
        ensureDeferred(wait())
        deferLater(clock, 1.0, function).addErrback(told.append)

    asyncio.run(main())
    assert told.count("coroutine") == 1
    told.remove("coroutine")
    assert told[0].check(LoopClosed)
    assert clock.getDelayedCalls() == []


def test_deferred_call_that_nobody_waits_for_just_ends(clock):
    """A deferLater that nobody waits for is no failure when the loop ends."""

    async def main():
        return deferLater(clock, 1.0), deferLater(clock, 1.0, int)

    timers = asyncio.run(main())
    assert clock.getDelayedCalls() == []
    del timers
    gc.collect()
    assert flushUnhandled() == []


def test_deferred_call_whose_loop_goes_on(clock):
    """One that was answered is left alone at the loop's end."""
    answers = []

    async def main():
        deferLater(clock, 1.0, int, "7").addCallback(answers.append)
        clock.advance(1.0)

    asyncio.run(main())
    assert answers == [7]
