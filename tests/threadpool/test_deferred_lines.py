"""What the old API promises of a Deferred, where no other test says it."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import threading
import traceback
import weakref
from pathlib import Path

import pytest

import threadpool
from threadpool import defer
from threadpool.defer import (
    LATER,
    AlreadyCalledError,
    CancelledError,
    Deferred,
    Failure,
    ensureDeferred,
    fail,
    inlineCallbacks,
    passthru,
    succeed,
)

DEEP = 100_000
OURS = Path(threadpool.__file__).parent


def swallow(failure):
    """Handle a failure so that nobody reports it."""


async def wait_for(deferred):
    return await deferred


@inlineCallbacks
def yield_for(deferred):
    return (yield deferred)


# -- chains of any length ----------------------------------------------------------


def test_deep_chain_of_chained_deferreds_that_fails():
    """A failure runs through 100 000 chained Deferreds, and is reported by none."""
    chain = [Deferred() for _ in range(DEEP)]
    for first, second in zip(chain, chain[1:], strict=False):
        first.chainDeferred(second)
    chain[0].errback(KeyError("x"))
    assert isinstance(chain[-1].exception(), KeyError)
    assert chain[0].result() is None


def test_deep_chain_of_chained_deferreds_that_are_fired_already():
    """Chaining 100 000 Deferreds one by one to what has fired resolves each at once."""
    deferred = succeed("end")
    for _ in range(DEEP):
        following = Deferred()
        deferred.chainDeferred(following)
        deferred = following
    assert deferred.result() == "end"


def test_long_chain_of_callbacks_that_return_deferreds():
    """100 000 callbacks, each of which returns a Deferred, run in one chain."""
    waits = [Deferred() for _ in range(DEEP)]
    outer = succeed(None)
    for number, wait in enumerate(waits):
        if number % 2:  # Every second one has fired when its turn comes.
            wait.callback("fired")
        outer.addCallback(lambda _, inner=wait: inner)
    for wait in waits[::2]:
        wait.callback("inner")
    assert outer.result() == "fired"


def test_deep_chain_through_a_coroutine_at_each_level():
    """Coroutines and returned Deferreds may alternate 20 000 levels deep."""
    innermost = deferred = Deferred()
    for number in range(20_000):
        waiting = ensureDeferred(wait_for(deferred))
        if number % 2:
            waiting = yield_for(waiting)
        deferred = Deferred().addCallback(lambda _, inner=waiting: inner)
        deferred.callback(None)
    innermost.callback("end")
    assert deferred.result() == "end"


def test_failure_leaves_a_deep_chain_of_coroutines():
    """A failure rises through 20 000 coroutines, one level of frames for each."""
    innermost = deferred = Deferred()
    for _ in range(20_000):
        deferred = ensureDeferred(wait_for(deferred))
    innermost.errback(KeyError("x"))
    assert isinstance(deferred.exception(), KeyError)


def test_cancel_of_a_deep_chain_of_coroutines():
    """A cancel reaches what the innermost of 200 coroutines waits for."""
    asked = []
    deferred = Deferred(asked.append)
    for _ in range(200):
        deferred = ensureDeferred(wait_for(deferred))
    assert deferred.cancel("why")
    assert len(asked) == 1
    with pytest.raises(CancelledError, match="why"):
        deferred.result()


@pytest.fixture
def interruption():
    """Ends an endless loop by SIGINT: hung, the test would hang the whole run."""
    alarm = threading.Timer(5, signal.raise_signal, [signal.SIGINT])
    alarm.start()
    yield
    alarm.cancel()
    alarm.join()


def ring():
    """Two chains that wait for each other, for ever."""
    first, second = Deferred(), Deferred()
    first.addCallback(lambda _: second)
    second.addCallback(lambda _: first)
    first.callback(1)
    second.callback(2)
    return first, second


@pytest.mark.parametrize("through", [passthru, wait_for, yield_for])
def test_cancel_of_two_that_wait_for_each_other(interruption, through):
    """Chains that wait for each other can be cancelled, also by who waits for them."""
    first, second = ring()
    waiting = through(first)
    if not isinstance(waiting, Deferred):
        waiting = ensureDeferred(waiting)
    try:
        assert waiting.cancel()
    except KeyboardInterrupt:
        pytest.fail("The cancel went round in the ring.")
    assert first.done()
    assert second.done()
    assert first.cancelled() or second.cancelled()
    assert waiting.done()


# -- firing and cancelling ---------------------------------------------------------


@pytest.mark.parametrize("late", [7, KeyError("late")])
def test_late_result_through_a_chain_is_swallowed_once(late):
    """What comes too late for a cancelled Deferred may also come through a chain."""
    deferred = Deferred()
    deferred.cancel()
    source, again = Deferred(), Deferred()
    source.chainDeferred(deferred)
    again.chainDeferred(deferred)
    source.errback(late) if isinstance(late, KeyError) else source.callback(late)
    assert source.result() is None
    assert deferred.cancelled()
    again.callback(2)
    assert isinstance(again.exception(), AlreadyCalledError)


def test_late_error_of_a_cancelled_one_is_swallowed_once():
    """The one firing that passes may be an `errback`; nobody reports it."""
    deferred = Deferred()
    deferred.cancel()
    deferred.errback(KeyError("late"))
    with pytest.raises(AlreadyCalledError):
        deferred.errback(KeyError("later"))
    gc.collect()


def test_cancel_of_an_inner_one_that_answers_later():
    """A forwarded cancel says True, and the chain waits for the inner one's answer."""
    inner = Deferred(lambda _: LATER)
    outer = succeed(1).addCallback(lambda _: inner)
    assert outer.cancel("why")
    assert not outer.done()
    inner.callback("committed")
    assert outer.result() == "committed"


def test_cancel_names_its_own_reason():
    """A CancelledError says what its own cancel said, not what an earlier one did."""
    inner = Deferred()
    outer = Deferred().addErrback(lambda _: inner)
    outer.cancel("first")
    outer.cancel("second")
    with pytest.raises(CancelledError, match="second"):
        outer.result()


@pytest.mark.parametrize("how", ["callback", "chain", "cancel"])
def test_canceller_is_let_go_of(how):
    """A Deferred that has fired, in whatever way, keeps its canceller no longer."""

    class Canceller:
        def __call__(self, deferred):
            deferred.callback(1)

    canceller = Canceller()
    reference = weakref.ref(canceller)
    deferred = Deferred(canceller)
    del canceller
    assert reference() is not None
    if how == "callback":
        deferred.callback(1)
    elif how == "chain":
        succeed(1).chainDeferred(deferred)
    else:
        deferred.cancel()
    gc.collect()
    assert reference() is None
    assert deferred.result() == 1


# -- pausing -----------------------------------------------------------------------


def test_pause_and_unpause_in_one_callback():
    """A callback that pauses and unpauses its chain changes nothing."""
    seen = []
    deferred = Deferred()

    def hesitate(result):
        deferred.pause()
        deferred.unpause()
        seen.append("first")
        return result

    deferred.addCallback(hesitate).addCallback(seen.append)
    deferred.callback("second")
    assert seen == ["first", "second"]


def test_pause_while_it_waits_for_an_inner_one():
    """The inner result waits for `unpause` when it comes to a paused chain."""
    inner, seen = Deferred(), []
    outer = succeed(1).addCallback(lambda _: inner).addCallback(seen.append)
    outer.pause()
    inner.callback(2)
    assert seen == []
    outer.unpause()
    assert seen == [2]


# -- failures on their way ---------------------------------------------------------


def test_trap_in_an_errback_lets_other_kinds_pass():
    """An errback that traps another kind hands the failure on, unchanged."""
    seen = []
    error = KeyError("x")
    deferred = fail(error).addErrback(lambda failure: failure.trap(ValueError))
    deferred.addErrback(lambda failure: seen.append(failure.value))
    assert seen == [error]
    assert fail(error).addErrback(Failure.trap, LookupError).result() is LookupError


def test_failure_that_was_looked_at_may_go_on():
    """A failure that was awaited is not reported when callbacks pass it by later."""
    deferred = fail(KeyError("seen"))
    with pytest.raises(KeyError):
        deferred.result()
    deferred.addCallback(passthru)
    deferred.pause()
    deferred.unpause()
    del deferred
    gc.collect()


def test_failure_that_is_handed_back_is_news(expect_errors):
    """An errback that returns the failure leaves it unhandled, looked at or not."""
    deferred = fail(KeyError("seen"))
    deferred.exception()
    deferred.addErrback(passthru)
    del deferred
    gc.collect()
    assert len(expect_errors) == 1


def test_chain_that_rests_inside_its_own_handing_on():
    """A failure seen before the chain's run has ended is not reported after it."""
    inner = Deferred()

    def break_inner(_):
        inner.addCallback(raise_deep_down)
        assert isinstance(inner.exception(), KeyError)

    succeed(1).addCallback(lambda _: inner).addCallback(break_inner)
    inner.callback(2)
    assert inner.done()
    gc.collect()


@pytest.mark.parametrize("run", [wait_for, yield_for])
def test_coroutine_that_failed_leaves_no_cycle(run):
    """What ended with a failure is freed when the failure is, without the collector."""

    class Local:
        pass

    def living():
        return [o for o in gc.get_objects() if type(o) is Local]

    def holding(inner):
        local = Local()
        return inner.addCallback(lambda _: type(local)).addCallback(passthru)

    gc.collect()
    gc.disable()
    try:
        inner = Deferred()
        outer = ensureDeferred(run(holding(inner)))
        inner.errback(KeyError("x"))
        outer.addErrback(swallow)
        del inner, outer
        assert living() == []
    finally:
        gc.enable()


# -- tracebacks --------------------------------------------------------------------


def frames(failure):
    """The traceback as (whose, function) pairs: "user" or the name of our module."""
    return [
        (Path(f.filename).stem if Path(f.filename).parent == OURS else "user", f.name)
        for f in traceback.extract_tb(failure.getTracebackObject())
    ]


def raise_deep_down(_=None):
    raise KeyError("here")


def line_of(function):
    return function.__code__.co_firstlineno + 1


def test_traceback_through_callbacks():
    """Through any number of callbacks and chains: the user's lines and no other."""
    seen = []

    def helper(_):
        return raise_deep_down()

    inner = Deferred().addCallback(passthru).addCallback(helper).addCallback(passthru)
    outer = succeed(1).addCallback(lambda _: inner)
    last = Deferred()
    outer.chainDeferred(last)
    last.addErrback(seen.append)
    inner.callback(2)
    assert frames(seen[0]) == [("user", "helper"), ("user", "raise_deep_down")]
    innermost = traceback.extract_tb(seen[0].getTracebackObject())[-1]
    assert innermost.filename == __file__
    assert innermost.lineno == line_of(raise_deep_down)


@pytest.mark.parametrize("fired", [False, True])
def test_traceback_through_awaits(fired):
    """Each await shows the line that waits; of ours at most two frames for each."""

    async def innermost():
        await source
        raise_deep_down()

    async def middle():
        return await ensureDeferred(innermost())

    async def outermost():
        return await ensureDeferred(middle())

    source = Deferred()
    if fired:
        source.callback(None)
    deferred = ensureDeferred(outermost())
    if not fired:
        source.callback(None)
    found = frames(deferred.addErrback(passthru)._result)
    deferred.exception()
    users = [name for whose, name in found if whose == "user"]
    assert users == ["outermost", "middle", "innermost", "raise_deep_down"]
    assert found[0] == ("user", "outermost")
    assert found[-1] == ("user", "raise_deep_down")
    ours = [pair for pair in found if pair[0] != "user"]
    assert len(ours) <= 2 * 2, ours


def test_traceback_through_generators():
    """Each `yield` shows the line that waits, and nothing of ours in between."""

    @inlineCallbacks
    def inner():
        yield succeed(1)
        raise_deep_down()

    @inlineCallbacks
    def outer():
        yield inner()

    deferred = outer()
    deferred.exception()
    found = frames(deferred._result)
    users = [name for whose, name in found if whose == "user"]
    assert users == ["outer", "inner", "raise_deep_down"]
    assert found[0] == ("user", "outer")
    assert len(found) - len(users) <= 2, found


async def test_traceback_in_a_task():
    """A task that awaits a chain sees its own line, and the callback's that raised."""

    async def query():
        return await deferred

    deferred = Deferred().addCallback(passthru).addCallback(raise_deep_down)
    asyncio.get_running_loop().call_soon(deferred.callback, 1)
    with pytest.raises(KeyError) as caught:
        await asyncio.create_task(query())
    found = frames(Failure(caught.value))
    users = [name for whose, name in found if whose == "user"]
    assert users == ["test_traceback_in_a_task", "query", "raise_deep_down"]
    assert len(found) - len(users) <= 2, found


def test_traceback_does_not_grow_with_the_callbacks_it_passes():
    """A failure that passes a thousand steps, or is handed back, stays as it was."""
    deferred = succeed(1).addCallback(raise_deep_down)
    before = frames(deferred._result)
    for _ in range(1000):
        deferred.addCallback(passthru).addErrback(passthru)
    assert frames(deferred._result) == before == [("user", "raise_deep_down")]
    deferred.exception()


# -- what is gone, and what it looks like ------------------------------------------


def test_arming_is_gone():
    """The `arm` of 2002 is no more: a Deferred is ready when it is made."""
    for name in ("arm", "armAndCallback", "armAndErrback", "armAndChain"):
        assert not hasattr(Deferred, name)
    assert not hasattr(defer, "AlreadyArmedError")


def test_repr_while_it_waits_while_paused():
    """Waiting for another is what the repr tells, paused or not."""
    inner = Deferred()
    outer = succeed(1).addCallback(lambda _: inner)
    outer.pause()
    pattern = r"<Deferred at 0x[0-9a-f]+ waiting on Deferred at 0x[0-9a-f]+>"
    assert re.fullmatch(pattern, repr(outer))


def test_subclass_names_itself():
    """The repr of a user's subclass says its name."""

    class Answer(Deferred[int]):
        pass

    assert repr(Answer()).startswith("<Answer at 0x")
