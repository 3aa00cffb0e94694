"""Coroutines and generators that wait for Deferreds, without a task around them."""

from __future__ import annotations

import asyncio
import contextvars
import gc

import pytest

from threadpool.defer import (
    LATER,
    CancelledError,
    Deferred,
    Failure,
    NotACoroutineError,
    ensureDeferred,
    fail,
    inlineCallbacks,
    maybeDeferred,
    succeed,
)

DEEP = 100_000
variable = contextvars.ContextVar("variable", default="nobody")


async def take(awaitable):
    """Await; return what was raised, too."""
    try:
        return await awaitable
    except BaseException as error:
        return error


@inlineCallbacks
def yielding(awaitable):
    """Yield; return what was raised, too."""
    try:
        result = yield awaitable
    except BaseException as error:
        return error
    return result


def awaiting(awaitable):
    return ensureDeferred(take(awaitable))


BOTH = pytest.mark.parametrize("runs", [awaiting, yielding])


# -- results -----------------------------------------------------------------------


@BOTH
def test_result_of_a_fired_deferred(runs):
    """A Deferred that has its result is answered at once, without any loop."""
    assert runs(succeed(7)).result() == 7


@BOTH
def test_resumes_the_moment_the_deferred_fires(runs):
    """The coroutine goes on inside `callback`, as an old-style callback would."""
    inner = Deferred()
    outer = runs(inner)
    assert not outer.called
    inner.callback(7)
    assert outer.result() == 7


@BOTH
def test_failure_is_raised_where_it_waits(runs):
    """A failure is raised at the `await` or `yield`, and counts as handled."""
    inner = Deferred()
    outer = runs(inner)
    inner.errback(KeyError("x"))
    assert isinstance(outer.result(), KeyError)
    del inner, outer
    gc.collect()


@BOTH
def test_awaiting_does_not_consume(runs):
    """What a coroutine waited for keeps its result."""
    inner = Deferred()
    runs(inner)
    inner.callback(7)
    assert inner.result() == 7


def test_uncaught_exception_is_the_failure():
    """What leaves the coroutine is its Deferred's failure, traceback included."""

    async def broken():
        await succeed(1)
        raise KeyError("x")

    deferred = ensureDeferred(broken())
    with pytest.raises(KeyError):
        deferred.result()
    assert deferred._result.getTracebackObject().tb_frame.f_code.co_name == "broken"


def test_generator_gets_plain_values_back():
    """inlineCallbacks: what is neither Deferred nor awaitable comes straight back."""

    @inlineCallbacks
    def plain():
        first = yield 1
        second = yield None
        return [first, second]

    assert plain().result() == [1, None]


def test_generator_gets_a_failure_raised():
    """inlineCallbacks: a Failure that is yielded is raised in the generator."""
    assert isinstance(yielding(Failure(KeyError())).result(), KeyError)


def test_generator_may_yield_a_coroutine():
    """inlineCallbacks: a coroutine that is yielded is run, in the same context."""

    async def inner():
        return variable.get()

    @inlineCallbacks
    def outer():
        variable.set("outer")
        return (yield inner())

    assert outer().result() == "outer"
    assert variable.get() == "nobody"


def test_function_without_yield_is_refused():
    """InlineCallbacks on a function that makes no generator: TypeError at the call."""
    with pytest.raises(TypeError, match="must contain `yield`"):
        inlineCallbacks(lambda: 7)()


@pytest.mark.parametrize("wrong", [7, None, lambda: None])
def test_only_coroutines_are_run(wrong):
    """`Deferred.fromCoroutine` and `ensureDeferred` refuse anything else."""
    for maker in (Deferred.fromCoroutine, ensureDeferred):
        with pytest.raises(NotACoroutineError, match="not a coroutine"):
            maker(wrong)


def test_coroutine_function_is_refused_with_advice():
    """A coroutine function that was not called is a frequent mistake."""
    with pytest.raises(NotACoroutineError, match="Call the async function first"):
        ensureDeferred(take)


def test_ensure_deferred_of_a_deferred():
    """A Deferred is itself."""
    deferred = Deferred()
    assert ensureDeferred(deferred) is deferred


def test_returned_deferred_is_waited_for():
    """A coroutine that returns a Deferred instead of awaiting it: the same result."""
    inner = Deferred()

    async def returning():
        return inner

    @inlineCallbacks
    def returning_generator():
        yield 1
        return inner

    first, second = ensureDeferred(returning()), returning_generator()
    assert not first.called
    assert not second.called
    inner.callback(7)
    assert first.result() == 7
    assert second.result() == 7


def test_cancel_reaches_a_returned_deferred():
    """Cancelling a coroutine that returned a Deferred cancels that Deferred."""
    inner = Deferred()

    async def returning():
        return inner

    outer = ensureDeferred(returning())
    assert outer.cancel()
    assert inner.called
    assert outer.cancelled()


# -- the order of things -----------------------------------------------------------


def test_coroutine_runs_up_to_its_first_wait_at_once():
    """`ensureDeferred` runs the coroutine now, also inside another coroutine."""
    seen = []

    async def inner(name):
        seen.append(name)
        await Deferred()

    async def outer():
        ensureDeferred(inner("nested"))
        seen.append("after")
        await Deferred()

    ensureDeferred(inner("first"))
    assert seen == ["first"]
    ensureDeferred(outer())
    assert seen == ["first", "nested", "after"]


def test_two_coroutines_await_one_deferred():
    """Both get the result, in the order in which they came."""
    seen = []
    inner = Deferred()

    async def wait(name):
        seen.append((name, await inner))

    ensureDeferred(wait("a"))
    ensureDeferred(wait("b"))
    inner.callback(7)
    assert seen == [("a", 7), ("b", 7)]


def test_first_of_two_waiters_sets_the_chain_going_again():
    """The second waits for the callback that the first one added."""
    deferred, inner = Deferred(), Deferred()

    async def first():
        await deferred
        deferred.addCallback(lambda _: inner)

    ensureDeferred(first())
    second = awaiting(deferred)
    deferred.callback(1)
    assert not second.called
    inner.callback(2)
    assert second.result() == 2


def test_deep_chain_of_coroutines_from_the_inside():
    """100 000 coroutines, each waiting for the next, resume without a deep stack."""
    innermost = Deferred()

    async def wait(deferred):
        return await deferred

    deferred = innermost
    for _ in range(DEEP):
        deferred = ensureDeferred(wait(deferred))
    innermost.callback(7)
    assert deferred.result() == 7


def test_coroutines_that_start_each_other_deeply():
    """10 000 coroutines, each starting the next, do not end in a RecursionError."""

    async def nest(depth):
        return await ensureDeferred(nest(depth - 1)) + 1 if depth else 0

    assert ensureDeferred(nest(10_000)).result() == 10_000


def test_generators_that_start_each_other_deeply():
    """The same with inlineCallbacks."""

    @inlineCallbacks
    def nest(depth):
        if depth:
            return (yield nest(depth - 1)) + 1
        return 0

    assert nest(10_000).result() == 10_000


def test_long_loop_over_fired_deferreds():
    """100 000 awaits of what is there already need neither stack nor loop."""

    async def count():
        total = 0
        for _ in range(DEEP):
            total += await succeed(1)
        return total

    assert ensureDeferred(count()).result() == DEEP


def test_context_is_the_coroutines_own():
    """A coroutine keeps its context variables over its waits, and leaks none."""
    inner = Deferred()

    async def wait():
        before = variable.get()
        variable.set("mine")
        await inner
        return before, variable.get()

    token = variable.set("starter")
    outer = ensureDeferred(wait())
    variable.set("firer")
    inner.callback(None)
    assert outer.result() == ("starter", "mine")
    assert variable.get() == "firer"
    variable.reset(token)


# -- beside asyncio ----------------------------------------------------------------


@BOTH
async def test_asyncio_sleep_and_futures(runs):
    """Asyncio's own futures may be awaited, `sleep` included."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(future.set_result, 7)
    assert await runs(future) == 7
    failing = loop.create_future()
    loop.call_soon(failing.set_exception, KeyError("x"))
    assert isinstance(await runs(failing), KeyError)


async def test_asyncio_sleep():
    """`asyncio.sleep`, with and without time, works inside a coroutine of ours."""

    async def nap():
        await asyncio.sleep(0)
        await asyncio.sleep(0.0001)
        return await asyncio.sleep(0, "rested")

    assert await ensureDeferred(nap()) == "rested"


async def test_coroutine_awaits_a_task():
    """A task may be awaited, and its cancel is the coroutine's CancelledError."""

    async def work():
        await asyncio.sleep(3600)

    task = asyncio.ensure_future(work())
    outer = awaiting(task)
    await asyncio.sleep(0)
    task.cancel("why")
    assert isinstance(await outer, CancelledError)


async def test_maybe_deferred_of_a_coroutine_function():
    """`maybeDeferred` runs what an async function returns."""
    assert await maybeDeferred(asyncio.sleep, 0, "rested") == "rested"


def test_foreign_awaitable_is_refused():
    """Something that another framework would have to run is an error, not a hang."""

    class Foreign:
        def __await__(self):
            yield "token of another framework"

    error = awaiting(Foreign()).result()
    assert isinstance(error, RuntimeError)
    assert "neither a Deferred of ours nor a future" in str(error)


# -- cancelling --------------------------------------------------------------------


@BOTH
def test_cancel_reaches_the_awaited_deferred(runs):
    """Cancelling the coroutine's Deferred cancels what it waits for."""
    asked = []
    inner = Deferred(asked.append)
    outer = runs(inner)
    assert outer.cancel("why")
    assert asked == [inner]
    error = outer.result()
    assert isinstance(error, CancelledError)
    assert error.args == ("why",)


def test_coroutine_may_refuse_a_cancel():
    """A coroutine that catches CancelledError goes on, and may return a value."""
    second = Deferred()

    async def stubborn():
        try:
            await Deferred()
        except CancelledError:
            return await second

    outer = ensureDeferred(stubborn())
    outer.cancel()
    assert not outer.called
    second.callback("saved")
    assert outer.result() == "saved"


def test_uncaught_cancel_cancels_the_deferred():
    """A coroutine that lets CancelledError pass ends as cancelled."""

    async def wait():
        await Deferred()

    outer = ensureDeferred(wait())
    outer.cancel()
    assert outer.cancelled()


def test_cancel_that_answers_later():
    """The coroutine goes on when what it waits for has really stopped."""
    inner = Deferred(lambda _: LATER)
    outer = awaiting(inner)
    assert outer.cancel()
    assert not outer.called
    inner.errback(CancelledError())
    assert isinstance(outer.result(), CancelledError)


async def test_cancel_while_it_waits_for_the_next_turn():
    """A coroutine in `asyncio.sleep(0)` learns of its cancel when it goes on."""

    async def nap():
        await asyncio.sleep(0)

    outer = ensureDeferred(nap())
    assert outer.cancel("why")
    with pytest.raises(CancelledError, match="why"):
        await outer


def test_coroutine_that_cancels_itself():
    """A coroutine cancelled while it runs learns of it at its next wait."""
    outer = None
    inner = Deferred()
    start = Deferred()

    async def suicidal():
        await start
        outer.cancel("enough")
        await inner

    outer = ensureDeferred(suicidal())
    start.callback(None)
    assert outer.called, "it would wait for ever"
    assert outer.cancelled()
    assert inner.called


async def test_cancelling_a_task_that_awaits_a_coroutine_of_ours():
    """task.cancel() goes all the way down."""
    inner = Deferred()
    outer = awaiting(awaiting(inner))
    task = asyncio.ensure_future(take(outer))
    await asyncio.sleep(0)
    task.cancel("why")
    await task
    assert inner.called


def test_cancel_of_a_finished_coroutine():
    """There is nothing to cancel any more."""
    assert not awaiting(succeed(1)).cancel()


# -- Ctrl-C ------------------------------------------------------------------------


@BOTH
def test_ctrl_c_in_a_coroutine_propagates(runs):
    """KeyboardInterrupt leaves `callback()`, and the coroutine's Deferred has it."""
    inner = Deferred()

    async def interrupted():
        await inner
        raise KeyboardInterrupt

    @inlineCallbacks
    def interrupted_generator():
        yield inner
        raise KeyboardInterrupt

    outer = (
        ensureDeferred(interrupted()) if runs is awaiting else interrupted_generator()
    )
    with pytest.raises(KeyboardInterrupt):
        inner.callback(1)
    assert isinstance(outer.exception(), KeyboardInterrupt)


async def interrupt_first(inner):
    """Have two coroutines wait, interrupt the first; return the second's Deferred."""

    async def interrupted():
        await inner
        raise KeyboardInterrupt

    first = ensureDeferred(interrupted())
    second = awaiting(inner)
    with pytest.raises(KeyboardInterrupt):
        inner.callback(7)
    first.exception()
    return second


async def test_ctrl_c_in_one_coroutine_does_not_hang_the_others():
    """Others that wait for the same Deferred go on when the loop goes on."""
    second = await interrupt_first(Deferred())
    async with asyncio.timeout(10):
        assert await second == 7


async def test_ctrl_c_does_not_empty_the_agenda():
    """Coroutines that were about to be stepped are, when the loop goes on."""
    start, inner = Deferred(), Deferred()

    async def fires_and_dies():
        await start
        inner.callback(7)  # The others go on after this step.
        raise KeyboardInterrupt

    first = ensureDeferred(fires_and_dies())
    others = [awaiting(inner) for _ in range(3)]
    with pytest.raises(KeyboardInterrupt):
        start.callback(None)
    first.exception()
    async with asyncio.timeout(10):
        assert [await other for other in others] == [7, 7, 7]


# -- nothing stays -----------------------------------------------------------------


def test_unhandled_failure_of_a_coroutine_is_logged_once(expect_errors):
    """A coroutine's failure that nobody saw is logged once."""

    async def broken():
        raise KeyError("lost")

    ensureDeferred(broken())
    gc.collect()
    (record,) = expect_errors
    assert "Unhandled failure" in record.getMessage()
    assert record.failure.check(KeyError)


def test_finished_coroutine_leaves_no_cycle():
    """A coroutine that ended well is freed without the garbage collector."""

    class Local:
        pass

    async def work(inner):
        local = Local()
        await inner
        return type(local)

    def living():
        return [o for o in gc.get_objects() if type(o) is Local]

    inner = Deferred()
    outer = ensureDeferred(work(inner))
    assert len(living()) == 1
    gc.disable()
    try:
        inner.callback(1)
        assert outer.result() is Local
        assert living() == []
    finally:
        gc.enable()


def test_failing_yielded_deferred_is_handled():
    """A failure that was raised in the generator is not reported."""

    @inlineCallbacks
    def careful():
        try:
            yield fail(KeyError())
        except KeyError:
            return "caught"

    assert careful().result() == "caught"
    gc.collect()
