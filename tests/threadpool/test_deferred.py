"""The Deferred as a chain of callbacks."""

from __future__ import annotations

import asyncio
import gc

import pytest

from threadpool.defer import (
    LATER,
    AlreadyCalledError,
    CancelledError,
    Deferred,
    Failure,
    NoCurrentExceptionError,
    execute,
    fail,
    logError,
    maybeDeferred,
    passthru,
    succeed,
)

DEEP = 100_000


def swallow(failure):
    """Handle a failure so that nobody reports it."""


def boom(*_):
    raise ValueError("boom")


# -- the chain ---------------------------------------------------------------------


def test_results_run_down_the_chain():
    """Each callback's return value is the next one's argument."""
    seen = []
    deferred = Deferred()
    deferred.addCallback(lambda r: r + 1).addCallback(lambda r: r * 10)
    deferred.addCallback(seen.append)
    deferred.callback(1)
    assert seen == [20]


def test_adders_return_the_deferred():
    """Every method that adds returns the Deferred, so that calls string together."""
    deferred = Deferred()
    assert deferred.addCallback(passthru) is deferred
    assert deferred.addErrback(passthru) is deferred
    assert deferred.addBoth(passthru) is deferred
    assert deferred.addCallbacks(passthru, passthru) is deferred
    assert deferred.chainDeferred(Deferred()) is deferred


def test_callback_on_a_fired_deferred_runs_at_once():
    """A callback added after the result is there runs before the adder returns."""
    seen = []
    succeed(3).addCallback(seen.append)
    assert seen == [3]


def test_exception_switches_to_the_errbacks():
    """What a callback raises goes to the next errback, past the callbacks between."""
    seen = []
    deferred = succeed(1).addCallback(boom).addCallback(seen.append)
    deferred.addErrback(lambda failure: failure.type)
    deferred.addCallback(seen.append)
    assert seen == [ValueError]


def test_returned_failure_switches_to_the_errbacks():
    """A Failure that a callback returns counts as raised."""
    deferred = succeed(1).addCallback(lambda _: Failure(KeyError("x")))
    seen = []
    deferred.addErrback(seen.append)
    assert seen[0].check(KeyError)


def test_errback_returns_to_the_callbacks():
    """A value that an errback returns ends the trouble."""
    seen = []
    fail(ValueError()).addErrback(lambda _: "fine").addCallback(seen.append)
    assert seen == ["fine"]


def test_errback_that_raises_stays_on_the_errback_side():
    """An errback may fail, too: the next errback sees the new failure."""
    seen = []
    deferred = fail(KeyError()).addErrback(boom)
    deferred.addErrback(lambda failure: seen.append(failure.type))
    assert seen == [ValueError]


def test_both_sees_values_and_failures():
    """`addBoth` runs whatever comes."""
    seen = []
    succeed(1).addBoth(seen.append)
    fail(ValueError()).addBoth(lambda failure: seen.append(failure.type))
    assert seen == [1, ValueError]


def test_none_lets_the_result_through():
    """None in the place of a callback or errback passes the result on."""
    seen = []
    succeed(1).addCallbacks(None, boom).addCallback(seen.append)
    fail(KeyError()).addCallbacks(boom, None).addErrback(
        lambda failure: seen.append(failure.type)
    )
    assert seen == [1, KeyError]


def test_pair_does_not_catch_its_own_error():
    """The errback of a pair does not see what the callback beside it raises."""
    seen = []
    deferred = succeed(1).addCallbacks(boom, seen.append)
    assert seen == []
    deferred.addErrback(swallow)


def test_arguments_are_handed_on():
    """Extra arguments come after the result, for both sides."""
    seen = []

    def note(*args, **kwargs):
        seen.append((args, kwargs))

    succeed(1).addCallback(note, 2, three=3)
    succeed(1).addBoth(note, 2, three=3)
    succeed(1).addCallbacks(note, None, (2,), {"three": 3})
    assert seen == [((1, 2), {"three": 3})] * 3
    fail(KeyError()).addErrback(note, 2, three=3)
    fail(KeyError()).addCallbacks(None, note, errback_args=(2,))
    assert seen[3][0][1:] == (2,)
    assert seen[3][1] == {"three": 3}
    assert seen[4][0][1:] == (2,)


def test_argument_without_a_callback_is_harmless():
    """Arguments for a callback that is None change nothing."""
    seen = []
    succeed(1).addCallbacks(None, None, (2,), {"x": 1}, (3,), {"y": 1}).addCallback(
        seen.append
    )
    assert seen == [1]


@pytest.mark.parametrize("wrong", [3, "x", object()])
def test_what_cannot_be_called_is_refused(wrong):
    """A step that cannot be called is refused where it is added."""
    deferred = Deferred()
    for add in (deferred.addCallbacks, deferred.addCallback, deferred.addBoth):
        with pytest.raises(TypeError, match="cannot be called"):
            add(wrong)
    with pytest.raises(TypeError, match="errback is"):
        deferred.addErrback(wrong)


def test_callbacks_are_not_run_reentrantly():
    """A callback added by a running callback runs after it, in order."""
    seen = []
    deferred = Deferred()

    def first(_):
        deferred.addCallback(lambda _: seen.append("third"))
        seen.append("first")

    deferred.addCallback(first)
    deferred.addCallback(lambda _: seen.append("second"))
    deferred.callback(None)
    assert seen == ["first", "second", "third"]


def test_context_of_an_exception_is_kept_short():
    """The traceback of a callback's failure begins in the callback."""
    seen = []
    succeed(1).addCallback(boom).addErrback(seen.append)
    tb = seen[0].getTracebackObject()
    assert tb.tb_frame.f_code.co_name == "boom"
    assert tb.tb_next is None


# -- firing ------------------------------------------------------------------------


def test_firing_twice_is_refused():
    """A Deferred fires exactly once; whoever fires it again is told."""
    deferred = succeed(1)
    for again in (lambda: deferred.callback(2), lambda: deferred.errback(KeyError())):
        with pytest.raises(AlreadyCalledError, match="second time"):
            again()
    assert deferred.result() == 1


def test_firing_from_inside_a_callback_is_refused():
    """A callback that fires its own Deferred again gets AlreadyCalledError."""
    deferred = Deferred()
    deferred.addCallback(lambda _: deferred.callback(2))
    deferred.callback(1)
    seen = []
    deferred.addErrback(seen.append)
    assert seen[0].check(AlreadyCalledError)


def test_deferred_is_no_result():
    """A Deferred is refused as the result of another."""
    deferred = Deferred()
    with pytest.raises(TypeError, match="chainDeferred"):
        deferred.callback(Deferred())
    assert not deferred.called


def test_callback_with_a_failure_starts_on_the_errback_side():
    """`callback(Failure)` is `errback`."""
    seen = []
    deferred = Deferred().addErrback(seen.append)
    deferred.callback(Failure(KeyError()))
    assert seen[0].check(KeyError)


def test_errback_takes_the_current_exception():
    """`errback()` inside an except clause takes what is being handled."""
    deferred = Deferred()
    try:
        raise KeyError("x")
    except KeyError:
        deferred.errback()
    assert isinstance(deferred.exception(), KeyError)


def test_errback_without_an_exception_is_refused():
    """`errback()` where nothing is handled says so."""
    with pytest.raises(NoCurrentExceptionError, match="none is being handled"):
        Deferred().errback()


def test_called_tells_whether_it_fired():
    """`called` is about the firing, not about the chain's end."""
    deferred = Deferred()
    assert not deferred.called
    deferred.addCallback(lambda _: Deferred())
    deferred.callback(1)
    assert deferred.called
    assert not deferred.done()


# -- pause -------------------------------------------------------------------------


def test_pause_holds_the_chain():
    """A paused chain runs when it was unpaused as often as it was paused."""
    seen = []
    deferred = Deferred().addCallback(seen.append)
    deferred.pause()
    deferred.pause()
    deferred.callback(1)
    assert deferred.paused == 2
    deferred.unpause()
    assert seen == []
    assert not deferred.done()
    deferred.unpause()
    assert seen == [1]
    assert deferred.done()


def test_pause_inside_a_callback_stops_after_it():
    """A callback that pauses its chain is the last to run until `unpause`."""
    seen = []
    deferred = Deferred()
    deferred.addCallback(lambda _: deferred.pause())
    deferred.addCallback(lambda _: seen.append("on"))
    deferred.callback(1)
    assert seen == []
    deferred.unpause()
    assert seen == ["on"]


def test_pause_of_a_deferred_at_rest():
    """Pausing hides the result, unpausing gives it back."""
    deferred = succeed(1)
    deferred.pause()
    assert not deferred.done()
    deferred.unpause()
    assert deferred.result() == 1


def test_unpause_without_pause_is_refused():
    """One `unpause` too many is an error."""
    with pytest.raises(RuntimeError, match="not paused"):
        Deferred().unpause()


# -- Deferreds inside --------------------------------------------------------------


def test_returned_deferred_is_waited_for():
    """The chain goes on with the result of a Deferred that a callback returned."""
    inner, seen = Deferred(), []
    outer = succeed(1).addCallback(lambda _: inner).addCallback(seen.append)
    assert seen == []
    assert repr(outer).endswith(f"waiting on Deferred at {id(inner):#x}>")
    inner.callback(2)
    assert seen == [2]


def test_returned_deferred_that_fired_is_taken_at_once():
    """A Deferred that has its result already does not hold the chain."""
    seen = []
    succeed(1).addCallback(lambda _: succeed(2)).addCallback(seen.append)
    assert seen == [2]


def test_failure_of_the_inner_one_moves_out():
    """An inner failure is the outer chain's, and counts as handled inside."""
    inner, seen = Deferred(), []
    succeed(1).addCallback(lambda _, i=inner: i).addErrback(seen.append)
    inner.errback(KeyError())
    assert seen[0].check(KeyError)
    del inner, seen
    gc.collect()


def test_inner_one_goes_on_with_none():
    """Callbacks added to the inner Deferred later see None: the result moved on."""
    inner, seen = Deferred(), []
    outer = succeed(1).addCallback(lambda _: inner)
    inner.addCallback(seen.append)
    inner.callback(2)
    assert seen == [None]
    assert outer.result() == 2


def test_paused_inner_one_is_waited_for():
    """A Deferred that fired but is paused has no result yet."""
    inner, seen = succeed(2), []
    inner.pause()
    succeed(1).addCallback(lambda _: inner).addCallback(seen.append)
    assert seen == []
    inner.unpause()
    assert seen == [2]


def test_deferred_that_waits_for_itself_fails():
    """A callback that returns its own Deferred makes it fail, not hang."""
    deferred = Deferred()
    deferred.addCallback(lambda _: deferred)
    deferred.callback(1)
    with pytest.raises(RuntimeError, match="wait for itself"):
        deferred.result()


def test_chain_deferred_hands_the_result_over():
    """`chainDeferred` fires the other with what arrives, value or failure."""
    good, bad = Deferred(), Deferred()
    first = succeed(1).chainDeferred(good)
    fail(KeyError()).chainDeferred(bad)
    assert good.result() == 1
    assert first.result() is None
    with pytest.raises(KeyError):
        bad.result()


@pytest.mark.parametrize("failing", [False, True])
def test_deep_chain_fired_from_the_inside(failing):
    """100 000 Deferreds, each waiting for the next, resolve when the last fires."""
    chain = [Deferred() for _ in range(DEEP)]
    for outer, inner in zip(chain, chain[1:], strict=False):
        outer.addCallback(lambda _, inner=inner: inner)
    for outer in chain[:-1]:
        outer.callback(None)
    chain[-1].callback(Failure(KeyError()) if failing else "end")
    if failing:
        assert isinstance(chain[0].exception(), KeyError)
    else:
        assert chain[0].result() == "end"


def test_deep_chain_fired_from_the_outside():
    """100 000 Deferreds resolve when the innermost fired first."""
    chain = [Deferred() for _ in range(DEEP)]
    for outer, inner in zip(chain, chain[1:], strict=False):
        outer.addCallback(lambda _, inner=inner: inner)
    for deferred in reversed(chain):
        deferred.callback("end")
    assert chain[0].result() == "end"


def test_deep_chain_of_chained_deferreds():
    """100 000 Deferreds, each fired by the one before it, resolve."""
    chain = [Deferred() for _ in range(DEEP)]
    for first, second in zip(chain, chain[1:], strict=False):
        first.chainDeferred(second)
    chain[0].callback("end")
    assert chain[-1].result() == "end"


def test_long_chain_of_callbacks():
    """100 000 callbacks on one Deferred run."""
    deferred = Deferred()
    for _ in range(DEEP):
        deferred.addCallback(lambda r: r + 1)
    deferred.callback(0)
    assert deferred.result() == DEEP


# -- cancel ------------------------------------------------------------------------


def test_cancel_fails_with_cancelled_error():
    """Without a canceller, `cancel` fails the Deferred at once; `msg` is kept."""
    deferred = Deferred()
    assert deferred.cancel("enough")
    assert deferred.cancelled()
    with pytest.raises(CancelledError, match="enough"):
        deferred.result()


def test_cancelled_error_is_asyncios():
    """There is one CancelledError."""
    assert CancelledError is asyncio.CancelledError


def test_late_result_of_a_cancelled_one_is_swallowed_once():
    """Whoever would have fired it does not know of the cancel: one firing passes."""
    deferred = Deferred()
    deferred.cancel()
    deferred.callback("late")
    assert deferred.cancelled()
    with pytest.raises(AlreadyCalledError):
        deferred.callback("later")


def test_cancel_of_a_fired_one_does_nothing():
    """There is nothing to cancel any more: False, and the result stays."""
    deferred = succeed(1)
    assert not deferred.cancel()
    assert deferred.result() == 1
    assert not deferred.cancelled()


def test_canceller_is_asked():
    """The canceller gets the Deferred; if it does nothing, CancelledError comes."""
    seen = []
    deferred = Deferred(seen.append)
    assert deferred.cancel()
    assert seen == [deferred]
    assert deferred.cancelled()
    with pytest.raises(AlreadyCalledError):  # A canceller knows: nothing passes.
        deferred.callback(1)


def test_canceller_may_answer_itself():
    """A canceller may fire the Deferred with an error, or a value, of its own."""
    deferred = Deferred(lambda d: d.errback(TimeoutError("slow")))
    assert deferred.cancel()
    assert isinstance(deferred.exception(), TimeoutError)
    saved = Deferred(lambda d: d.callback("committed"))
    assert saved.cancel()
    assert saved.result() == "committed"


def test_canceller_may_answer_later():
    """LATER: the Deferred fires when what was stopped has really stopped."""
    deferred = Deferred(lambda _: LATER)
    assert deferred.cancel("stop")
    assert not deferred.called
    assert deferred.cancel()
    deferred.errback(CancelledError())
    assert deferred.cancelled()
    assert repr(LATER) == "LATER"


def test_cancel_is_forwarded_to_the_inner_one():
    """Cancelling a chain that waits cancels what it waits for."""
    asked = []
    inner = Deferred(asked.append)
    outer = succeed(1).addCallback(lambda _: inner)
    assert outer.cancel("why")
    assert asked == [inner]
    with pytest.raises(CancelledError, match="why"):
        outer.result()


def test_cancel_of_a_deep_chain():
    """Cancelling reaches the innermost of 100 000 Deferreds."""
    chain = [Deferred() for _ in range(DEEP)]
    for outer, inner in zip(chain, chain[1:], strict=False):
        outer.addCallback(lambda _, inner=inner: inner)
    for outer in chain[:-1]:
        outer.callback(None)
    assert chain[0].cancel()
    assert chain[0].cancelled()


def test_errback_may_swallow_a_cancel():
    """A chain may answer a cancel with a value, as a task may."""
    deferred = Deferred().addErrback(lambda failure: failure.check(CancelledError))
    deferred.cancel()
    assert deferred.result() is CancelledError


# -- nothing is swallowed ----------------------------------------------------------


def unhandled(records):
    return [r for r in records if "Unhandled failure" in r.getMessage()]


def test_unhandled_failure_is_logged_once(expect_errors):
    """A failure that nobody saw is logged once, when its Deferred is forgotten."""
    deferred = fail(ValueError("lost"))
    name = f"{id(deferred):#x}"
    assert not expect_errors
    del deferred
    gc.collect()
    (record,) = unhandled(expect_errors)
    assert "lost" in record.getMessage()
    assert name in record.getMessage()
    assert record.failure.check(ValueError)
    assert record.exc_info[1] is record.failure.value


def test_unhandled_failure_needs_no_collection(expect_errors):
    """It is logged when the last reference goes, unless a traceback holds one."""
    gc.disable()
    try:
        fail(ValueError("lost"))
        assert len(unhandled(expect_errors)) == 1
    finally:
        gc.enable()


def test_unhandled_failure_of_a_callback_is_logged(expect_errors):
    """What a callback raised is logged, too, with the callback in the traceback."""
    succeed(1).addCallback(boom)
    gc.collect()
    (record,) = unhandled(expect_errors)
    assert "in boom" in record.failure.getTraceback()


def test_failure_that_passes_callbacks_is_logged_once(expect_errors):
    """A failure handed down a chain nobody handles is logged once, at its end."""
    deferred = fail(ValueError("lost")).addCallback(passthru).addBoth(passthru)
    deferred.addCallback(passthru)
    del deferred
    gc.collect()
    assert len(unhandled(expect_errors)) == 1


def test_failure_moved_to_an_outer_chain_is_logged_there(expect_errors):
    """A failure that moved outward is one failure, not two."""
    inner = Deferred()
    outer = succeed(1).addCallback(lambda _, i=inner: i)
    inner.errback(ValueError("lost"))
    del inner
    gc.collect()
    assert not expect_errors
    del outer
    gc.collect()
    assert len(unhandled(expect_errors)) == 1


@pytest.mark.parametrize(
    "handle",
    [
        lambda d: d.addErrback(swallow),
        lambda d: d.addBoth(swallow),
        lambda d: d.exception(),
        lambda d: pytest.raises(ValueError, d.result),
    ],
)
def test_handled_failure_is_not_logged(handle):
    """Looking at a failure, in whatever way, handles it."""
    deferred = fail(ValueError("seen"))
    handle(deferred)
    del deferred
    gc.collect()


def test_cancelled_deferred_is_not_reported():
    """A CancelledError that nobody looks at is not reported: it was asked for."""
    Deferred().cancel()
    gc.collect()


# -- Ctrl-C ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_a_callback_propagates(kind):
    """KeyboardInterrupt and SystemExit leave `callback()`, and are the result too."""

    def interrupt(_):
        raise kind

    deferred = Deferred().addCallback(interrupt)
    with pytest.raises(kind):
        deferred.callback(1)
    assert isinstance(deferred.exception(), kind)


async def run_as_the_loop_would(function, *args):
    """Call *function* from the loop, expect Ctrl-C, and let the loop go on."""
    loop = asyncio.get_running_loop()
    caught = loop.create_future()

    def call():
        try:
            function(*args)
        except KeyboardInterrupt:
            caught.set_result(True)
        else:
            caught.set_result(False)

    loop.call_soon(call)
    assert await caught, "KeyboardInterrupt was swallowed"


def interrupt(_):
    raise KeyboardInterrupt


async def test_ctrl_c_does_not_hang_the_awaiting_task():
    """The task that awaits an interrupted chain hears of it when the loop goes on."""
    deferred = Deferred().addCallback(interrupt)
    await asyncio.sleep(0)
    task = asyncio.ensure_future(take(deferred))
    await asyncio.sleep(0)
    await run_as_the_loop_would(deferred.callback, 1)
    assert await task is KeyboardInterrupt


async def take(deferred):
    try:
        return await deferred
    except BaseException as error:
        return type(error)


async def test_ctrl_c_does_not_stop_the_rest_of_the_chain():
    """The steps behind an interrupted callback run when the loop goes on."""
    seen = []
    deferred = Deferred().addCallback(interrupt)
    deferred.addErrback(lambda failure: seen.append(failure.type))
    await run_as_the_loop_would(deferred.callback, 1)
    await asyncio.sleep(0)
    assert seen == [KeyboardInterrupt]


async def test_ctrl_c_in_an_inner_one_reaches_the_outer_one():
    """A chain that waits for an interrupted Deferred gets its failure."""
    inner = Deferred().addCallback(interrupt)
    outer = succeed(1).addCallback(lambda _: inner)
    task = asyncio.ensure_future(take(outer))
    await asyncio.sleep(0)
    await run_as_the_loop_would(inner.callback, 1)
    async with asyncio.timeout(10):
        assert await task is KeyboardInterrupt


async def test_ctrl_c_in_an_outer_one_leaves_the_inner_one_alone():
    """What waits for the inner Deferred of an interrupted chain is answered."""
    inner = Deferred()
    succeed(1).addCallback(lambda _: inner).addCallback(interrupt).addErrback(swallow)
    task = asyncio.ensure_future(take(inner))
    await asyncio.sleep(0)
    await run_as_the_loop_would(inner.callback, 1)
    async with asyncio.timeout(10):
        assert await task is None


# -- makers ------------------------------------------------------------------------


def test_succeed_and_fail():
    """`succeed` has its value, `fail` its exception, Failure, or the current one."""
    assert succeed(1).result() == 1
    assert isinstance(fail(KeyError()).exception(), KeyError)
    assert isinstance(fail(Failure(KeyError())).exception(), KeyError)
    try:
        raise KeyError
    except KeyError:
        assert isinstance(fail().exception(), KeyError)


def test_execute():
    """`execute` calls here and now; value and exception come as a Deferred."""
    assert execute(pow, 2, 3).result() == 8
    assert isinstance(execute(boom).exception(), ValueError)


@pytest.mark.parametrize("maker", [execute, maybeDeferred])
def test_makers_let_ctrl_c_through(maker):
    """Ctrl-C in the called function is no result; a CancelledError is."""

    def cancelled():
        raise CancelledError

    with pytest.raises(KeyboardInterrupt):
        maker(interrupt, None)
    assert maker(cancelled).cancelled()


def test_maybe_deferred():
    """`maybeDeferred` makes a Deferred of whatever comes of a call."""

    async def coroutine():
        return "c"

    own = Deferred()
    assert maybeDeferred(lambda: own) is own
    assert maybeDeferred(pow, 2, 3).result() == 8
    assert maybeDeferred(coroutine).result() == "c"
    assert isinstance(maybeDeferred(boom).exception(), ValueError)
    failure = Failure(KeyError())
    assert isinstance(maybeDeferred(lambda: failure).exception(), KeyError)


def test_log_error_logs_and_goes_on(expect_errors):
    """`logError` logs the failure with its traceback and hands it on."""
    deferred = fail(ValueError("seen")).addErrback(logError)
    (record,) = expect_errors
    assert record.getMessage() == "ValueError: seen"
    assert record.exc_info[1] is record.failure.value
    assert isinstance(deferred.exception(), ValueError)


# -- what it looks like ------------------------------------------------------------


def test_repr_tells_the_state():
    """The repr is one truthful line: waiting, waiting for another, or the result."""
    deferred = Deferred()
    name = f"<Deferred at {id(deferred):#x}"
    assert repr(deferred) == name + ">"
    deferred.callback("x" * 1000)
    assert repr(deferred).startswith(name + " current result: 'xxx")
    assert len(repr(deferred)) < 300


def test_repr_survives_a_result_without_one():
    """A result whose repr raises does not take the Deferred's repr along."""

    class Broken:
        def __repr__(self):
            raise KeyError("no")

    assert "unprintable Broken" in repr(succeed(Broken()))


def test_deferred_is_generic():
    """`Deferred[int]` works in annotations at run time."""
    assert Deferred[int].__origin__ is Deferred


def test_chain_lets_go_of_what_it_ran():
    """A Deferred at rest keeps no callback alive."""

    class Step:
        def __call__(self, result):
            return result

    def living():
        return [o for o in gc.get_objects() if type(o) is Step]

    deferred = Deferred(Step()).addCallback(Step()).addErrback(Step())
    deferred.callback(1)
    assert living() == []
    assert deferred.result() == 1


def test_canceller_that_fails_is_logged(expect_errors):
    """A canceller that raises is reported; the Deferred is cancelled all the same."""

    def canceller(_):
        raise KeyError

    deferred = Deferred(canceller)
    assert deferred.cancel()
    assert deferred.cancelled()
    assert len(expect_errors) == 1
