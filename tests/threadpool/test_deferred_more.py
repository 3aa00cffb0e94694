"""Deferreds with a time limit, as futures, under debugging, and unhandled ones."""

from __future__ import annotations

import asyncio
import gc

import pytest

from threadpool import defer
from threadpool.defer import (
    LATER,
    AlreadyCalledError,
    CancelledError,
    Deferred,
    Failure,
    fail,
    flushUnhandled,
    inlineCallbacks,
    returnValue,
    setDebugging,
)
from threadpool.reactor import reactor
from threadpool.testing import Clock

# -- addTimeout ----------------------------------------------------------------------


def outcome(deferred):
    """Return what a fired Deferred has, a failure's exception for a failure."""
    seen = []
    deferred.addBoth(seen.append)
    return seen[0].value if isinstance(seen[0], Failure) else seen[0]


def test_timeout_becomes_a_timeout_error():
    """A Deferred without a result in time is cancelled and fails with TimeoutError."""
    clock, cancelled = Clock(), []
    slow = Deferred(cancelled.append).addTimeout(2, clock)
    clock.advance(1.9)
    assert cancelled == []
    clock.advance(0.1)
    assert cancelled == [slow]
    error = outcome(slow)
    assert isinstance(error, TimeoutError)
    assert "after 2 seconds" in str(error)


def test_result_in_time_takes_the_timer_away():
    """A result in time passes, and nothing waits any more; errors likewise."""
    clock = Clock()
    quick, broken = Deferred().addTimeout(2, clock), Deferred().addTimeout(2, clock)
    quick.callback(7)
    broken.errback(ValueError("own"))
    assert clock.getDelayedCalls() == []
    assert outcome(quick) == 7
    assert isinstance(outcome(broken), ValueError)


def test_cancelled_by_hand_is_no_timeout():
    """Cancelled before the time is over it fails with CancelledError."""
    clock = Clock()
    slow = Deferred().addTimeout(2, clock)
    slow.cancel()
    assert clock.getDelayedCalls() == []
    assert isinstance(outcome(slow), CancelledError)


def test_timeout_of_an_inner_deferred():
    """The time limit reaches the Deferred that the chain waits for."""
    clock, inner = Clock(), Deferred()
    outer = Deferred().addCallback(lambda _: inner).addTimeout(1, clock)
    outer.callback(None)
    clock.advance(1)
    assert isinstance(outcome(outer), TimeoutError)


def test_done_all_the_same():
    """Where cancelling came too late, the value is the result, not a TimeoutError."""
    clock = Clock()
    slow = Deferred(lambda _: LATER).addTimeout(1, clock)
    clock.advance(1)
    slow.callback("committed")
    assert outcome(slow) == "committed"


def test_on_timeout_cancel_decides():
    """`on_timeout_cancel` gets what came of cancelling, and decides on the result."""
    clock = Clock()

    def decide(result, seconds):
        assert result.check(CancelledError)
        return f"gave up after {seconds}"

    slow = Deferred().addTimeout(3, clock, decide)
    quick = Deferred().addTimeout(3, clock, decide)
    quick.callback("in time")
    clock.advance(3)
    assert outcome(slow) == "gave up after 3"
    assert outcome(quick) == "in time"


def test_steps_after_the_timeout_see_it():
    """Callbacks added after `addTimeout` see the TimeoutError, those before do not."""
    clock, before, after = Clock(), [], []
    slow = Deferred()
    slow.addErrback(lambda f: (before.append(f.type), f)[1])
    slow.addTimeout(1, clock).addErrback(lambda f: after.append(f.type))
    clock.advance(1)
    assert before == [CancelledError]
    assert after == [TimeoutError]


async def test_the_reactors_clock_is_the_default():
    """Without a clock the reactor counts; the timer goes with the result."""
    with pytest.raises(TimeoutError):
        await Deferred().addTimeout(0.001)
    quick = Deferred().addTimeout(60)
    quick.callback(1)
    assert reactor.getDelayedCalls() == []
    with pytest.raises(ValueError, match="0 or more"):
        Deferred().addTimeout(-1)


# -- asFuture, fromFuture ------------------------------------------------------------


async def test_as_future_shows_the_result():
    """The future is a real one, gets value or error, and the Deferred keeps its own."""
    for source in (Deferred(), Deferred()):
        future = source.asFuture()
        assert isinstance(future, asyncio.Future)
        assert future.get_loop() is asyncio.get_running_loop()
        source.callback(7)
        assert await future == 7
        assert await source == 7
    assert await defer.succeed(8).asFuture(asyncio.get_running_loop()) == 8
    with pytest.raises(ValueError, match="own"):
        await fail(ValueError("own")).asFuture()


async def test_as_future_of_a_stop_iteration():
    """StopIteration, which no future takes, arrives as a RuntimeError's cause."""
    future = fail(StopIteration("end")).asFuture()
    with pytest.raises(RuntimeError) as caught:
        await future
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_cancelling_the_future_cancels_the_deferred():
    """A cancel of the future reaches the canceller, and its message comes back."""
    seen = []
    source = Deferred(seen.append)
    future = source.asFuture()
    assert future.cancel("enough")
    assert seen == [source]
    assert source.cancelled()
    assert future.cancelled()
    with pytest.raises(CancelledError, match="enough"):
        await future
    assert not future.cancel()


async def test_future_waits_for_the_answer_to_its_cancel():
    """Where the canceller answers later, the future does too; a value is delivered."""
    source = Deferred(lambda _: LATER)
    future = source.asFuture()
    assert future.cancel()
    assert not future.done()
    source.callback("committed")
    assert await future == "committed"


async def test_future_of_a_cancelled_deferred():
    """A Deferred that is cancelled cancels the future."""
    source = Deferred()
    future = source.asFuture()
    source.cancel()
    assert future.cancelled()


async def test_from_future():
    """A Deferred takes the future's value, error or cancellation, now or later."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    deferred = Deferred.fromFuture(future)
    loop.call_soon(future.set_result, 7)
    assert await deferred == 7
    assert await Deferred.fromFuture(future) == 7
    failed = loop.create_future()
    failed.set_exception(ValueError("own"))
    with pytest.raises(ValueError, match="own"):
        await Deferred.fromFuture(failed)
    cancelled = loop.create_future()
    deferred = Deferred.fromFuture(cancelled)
    loop.call_soon(cancelled.cancel)
    with pytest.raises(CancelledError):
        await deferred


async def test_cancelling_the_deferred_cancels_the_task():
    """A cancel goes to the task, and what the task makes of it is the answer."""

    async def stubborn():
        try:
            await asyncio.Event().wait()
        except CancelledError as error:
            return f"tidied up after {error}"

    async def plain():
        await asyncio.Event().wait()

    for coroutine, expected in (
        (stubborn(), "tidied up after enough"),
        (plain(), None),
    ):
        task = asyncio.create_task(coroutine)
        deferred = Deferred.fromFuture(task)
        await asyncio.sleep(0)
        assert deferred.cancel("enough")
        assert not deferred.called
        if expected:
            assert await deferred == expected
        else:
            with pytest.raises(CancelledError, match="enough"):
                await deferred


# -- debugging -----------------------------------------------------------------------


@pytest.fixture
def debugging():
    """Debugging is on during the test."""
    setDebugging(True)
    yield
    setDebugging(False)


def make_here():
    return Deferred()


def fire_here(deferred):
    deferred.callback(1)


def test_fired_twice_tells_where(debugging):
    """Under debugging, AlreadyCalledError shows the maker (C:) and the firer (I:)."""
    assert defer.getDebugging()
    deferred = make_here()
    fire_here(deferred)
    with pytest.raises(AlreadyCalledError) as caught:
        deferred.callback(2)
    lines = str(caught.value).splitlines()
    assert any(line.startswith(" C:") and "make_here" in line for line in lines)
    assert any(line.startswith(" I:") and "fire_here" in line for line in lines)
    ours = [line for line in lines if "/threadpool/" in line and "/tests/" not in line]
    assert ours == []


def test_unhandled_failure_tells_where(debugging, expect_errors):
    """Under debugging, the report of an unhandled failure shows both, too."""
    deferred = make_here()
    deferred.errback(ValueError("own"))
    del deferred
    text = expect_errors[0].getMessage()
    assert " C:" in text
    assert "make_here" in text
    assert " I:" in text
    headline = text.splitlines()[0]
    assert headline.endswith(
        ": ValueError: own. Nobody awaited it and no errback saw "
        "it; add one, or await it."
    )


def test_stacks_without_the_loop(debugging):
    """The stacks under debugging leave out what asyncio does to turn its loop."""

    async def main():
        deferred = make_here()
        fire_here(deferred)
        deferred.callback(2)

    with pytest.raises(AlreadyCalledError) as caught:
        asyncio.run(main())
    lines = str(caught.value).splitlines()
    assert any(" C:" in line and "in main" in line for line in lines)
    assert not any("/asyncio/" in line for line in lines)


def test_headline_has_one_full_stop(expect_errors):
    """An error's text that is a sentence ends once in the report."""
    fail(ValueError("A whole sentence."))
    assert "A whole sentence. Nobody awaited" in expect_errors[0].getMessage()


def test_debugging_costs_nothing_while_off():
    """Switched off, the classes hold the very functions their authors wrote."""
    from threadpool._chain import Chain

    before = (Chain.__dict__["__init__"], Chain.__dict__["_fire"])
    setDebugging(True)
    setDebugging(True)
    assert Chain.__dict__["__init__"] is not before[0]
    setDebugging(False)
    setDebugging(False)
    assert (Chain.__dict__["__init__"], Chain.__dict__["_fire"]) == before
    assert not defer.getDebugging()
    deferred = Deferred()
    deferred.callback(1)
    with pytest.raises(AlreadyCalledError) as caught:
        deferred.callback(2)
    assert "setDebugging(True)" in str(caught.value)
    assert " C:" not in str(caught.value)


# -- unhandled failures --------------------------------------------------------------


def test_flush_reports_what_the_collector_has_not(expect_errors):
    """`flushUnhandled` logs and returns what nobody has seen, once, without waiting."""
    gc.disable()
    try:

        def cycle():
            deferred = Deferred()
            try:
                raise ValueError("in a cycle")
            except ValueError:
                deferred.errback()  # The traceback's frame refers to `deferred`.

        cycle()
        assert expect_errors == []
        failures = flushUnhandled()
        assert [str(f) for f in failures] == ["ValueError: in a cycle"]
        assert expect_errors[0].failure is failures[0]
        assert expect_errors[0].exc_info[1] is failures[0].value
        assert flushUnhandled() == []
    finally:
        gc.enable()
        gc.collect()
    assert len(expect_errors) == 1


async def test_flush_leaves_handled_ones_alone():
    """A failure that was awaited, trapped or passed on is not reported."""
    awaited, trapped = fail(ValueError("awaited")), fail(ValueError("trapped"))
    with pytest.raises(ValueError, match="awaited"):
        await awaited
    trapped.addErrback(lambda _: None)
    outer = Deferred().addCallback(lambda _: fail(ValueError("passed on")))
    outer.callback(None)
    outer.addErrback(lambda _: None)
    assert flushUnhandled() == []


async def test_seen_once_is_seen():
    """A pause after somebody has looked at the failure does not make it unseen."""
    deferred = fail(ValueError("seen"))
    assert isinstance(deferred.exception(), ValueError)
    deferred.pause()
    deferred.unpause()
    assert flushUnhandled() == []


def test_failure_that_comes_anew_is_unseen(expect_errors):
    """A failure raised by a later step is another one, and must be looked at itself."""
    deferred = fail(ValueError("first"))
    deferred.exception()

    def again(_):
        raise KeyError("second")

    deferred.addErrback(again)
    assert [f.type for f in flushUnhandled()] == [KeyError]
    assert len(expect_errors) == 1


# -- returnValue ---------------------------------------------------------------------


def test_return_value_ends_a_generator():
    """`returnValue` in a generator of old is its result, and no handler stops it."""

    @inlineCallbacks
    def old():
        value = yield defer.succeed(7)
        try:
            returnValue(value + 1)
        except Exception:
            returnValue("stopped")

    assert outcome(old()) == 8


# -- rings ---------------------------------------------------------------------------


def test_cancel_of_two_coroutines_that_wait_for_each_other():
    """Coroutines that wait for each other can be cancelled, by either end."""
    started = []

    async def wait_for_the_other(number):
        await gate
        await started[1 - number]

    gate = Deferred()
    started += [defer.ensureDeferred(wait_for_the_other(n)) for n in (0, 1)]
    gate.callback(None)
    assert not any(one.called for one in started)
    assert started[0].cancel("enough")
    assert started[0].cancelled()
    assert started[1].cancelled()
