"""The Deferred as asyncio sees it: each test pins one thing that asyncio does to it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
from functools import partial

import pytest

from tests import leaks
from threadpool.defer import LATER, CancelledError, Deferred, Failure, fail, succeed

variable = contextvars.ContextVar("variable", default="nobody")

# The tests below run once on each loop. conftest's own `--uvloop` is for the whole run.
LOOPS = ["asyncio"] if sys.platform == "win32" else ["asyncio", "uvloop"]
EAGER = sys.version_info >= (3, 12)


def eager_factory(loop, coroutine, *, eager_start=None, **options):
    """Asyncio's own, which does not take in every version what uvloop passes."""
    return asyncio.eager_task_factory(loop, coroutine, **options)


def new_loop(kind):
    if kind == "asyncio":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


@pytest.fixture(scope="module", autouse=True)
def uvloop_is_warm():
    """Let uvloop open now what it keeps open for the life of the process."""
    with leaks.permanent():
        for kind in LOOPS:
            with asyncio.Runner(loop_factory=partial(new_loop, kind)) as runner:
                runner.run(asyncio.sleep(0))


@pytest.fixture(
    params=[(kind, eager) for kind in LOOPS for eager in [False, True][: 1 + EAGER]],
    ids=lambda parameter: parameter[0] + ("-eager" if parameter[1] else ""),
)
def run(request):
    """Runs a coroutine to its end on each loop, with and without eager tasks."""
    kind, eager = request.param

    def run(coroutine):
        with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
            if eager:
                runner.get_loop().set_task_factory(eager_factory)
            return runner.run(in_time(coroutine))

    return run


async def in_time(coroutine):
    async with asyncio.timeout(30):
        return await coroutine


def soon(deferred, result):
    """Fire *deferred* on a later turn of the loop."""
    asyncio.get_running_loop().call_soon(deferred.callback, result)


async def take(awaitable):
    """Await; return what was raised, too."""
    try:
        return await awaitable
    except BaseException as error:
        return error


async def start(*awaitables):
    """Start a task for each, and let each wait."""
    tasks = [asyncio.ensure_future(take(awaitable)) for awaitable in awaitables]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


# -- awaiting ----------------------------------------------------------------------


def test_task_awaits_a_deferred(run):
    """A task awaits a Deferred directly."""

    async def main():
        deferred = Deferred()
        soon(deferred, 7)
        assert await deferred == 7

    run(main())


def test_awaiting_a_failure_raises(run):
    """Awaiting a failed Deferred raises its exception, and handles it."""

    async def main():
        deferred = Deferred()
        soon(deferred, Failure(ValueError("bad")))
        with pytest.raises(ValueError, match="bad"):
            await deferred

    run(main())
    gc.collect()


def test_awaiting_does_not_consume(run):
    """The result can be awaited twice, and callbacks still see it."""

    async def main():
        deferred = Deferred()
        soon(deferred, 7)
        assert await deferred == 7
        assert await deferred == 7
        seen = []
        deferred.addCallback(seen.append)
        assert seen == [7]

    run(main())


def test_awaiting_twice_does_not_lengthen_the_traceback(run):
    """Each await of a failure raises with the traceback the failure came with."""

    async def main():
        deferred = fail(ValueError("bad"))
        lengths = []
        for _ in range(3):
            try:
                await deferred
            except ValueError as error:
                tb, length = error.__traceback__, 0
                while tb is not None:
                    tb, length = tb.tb_next, length + 1
                lengths.append(length)
        assert len(set(lengths)) == 1

    run(main())


def test_two_tasks_await_one(run):
    """Two tasks may await one Deferred; both get the result."""

    async def main():
        deferred = Deferred()
        tasks = await start(deferred, deferred)
        deferred.callback(7)
        assert await asyncio.gather(*tasks) == [7, 7]

    run(main())


def test_awaiting_what_has_fired_does_not_yield(run):
    """A Deferred with a result answers without giving up the loop's turn."""

    async def main():
        seen = []
        asyncio.get_running_loop().call_soon(seen.append, "other")
        assert await succeed(7) == 7
        assert seen == []

    run(main())


def test_chain_is_run_before_the_awaiting_task(run):
    """A task gets what the chain ends with, also when the chain has to wait."""

    async def main():
        inner = Deferred()
        deferred = Deferred().addCallback(lambda _: inner).addCallback(str)
        (task,) = await start(deferred)
        deferred.callback(1)
        assert not deferred.done()
        inner.callback(2)
        assert await task == "2"

    run(main())


def test_callback_added_between_firing_and_waking(run):
    """A callback added before the task wakes is waited for, too."""

    async def main():
        deferred, inner = Deferred(), Deferred()
        (task,) = await start(deferred)
        deferred.callback(1)  # The task is to be woken on the next turn.
        deferred.addCallback(lambda _: inner)
        assert not deferred.done()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
        inner.callback(2)
        assert await task == 2

    run(main())


def test_first_of_two_waiters_sets_the_chain_going_again(run):
    """The second task waits for the callback that the first one added."""

    async def main():
        deferred, inner = Deferred(), Deferred()

        async def first():
            await deferred
            deferred.addCallback(lambda _: inner)

        one = asyncio.ensure_future(first())
        await asyncio.sleep(0)
        (two,) = await start(deferred)
        deferred.callback(1)
        await one
        inner.callback(2)
        assert await two == 2

    run(main())


def test_first_of_two_waiters_in_a_pass_sets_the_chain_going_again(run):
    """The same where the waiters are stepped directly, in a pass over completions."""

    async def main():
        deferred, inner = Deferred(), Deferred()

        async def first():
            await deferred
            deferred.addCallback(lambda _: inner)

        one = asyncio.ensure_future(first())
        await asyncio.sleep(0)
        (two,) = await start(deferred)
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: deferred._fire(1, directly=True))
        await one
        inner.callback(2)
        assert await two == 2

    run(main())


def test_paused_deferred_is_not_done(run):
    """A task waits for `unpause`."""

    async def main():
        deferred = Deferred()
        deferred.pause()
        (task,) = await start(deferred)
        deferred.callback(7)
        assert not deferred.done()
        await asyncio.sleep(0)
        assert not task.done()
        deferred.unpause()
        assert await task == 7

    run(main())


def test_result_before_there_is_one(run):
    """`result` and `exception` of what is not done say so."""

    async def main():
        deferred = Deferred()
        for ask in (deferred.result, deferred.exception):
            with pytest.raises(asyncio.InvalidStateError, match="no result yet"):
                ask()

    run(main())


def test_exception_of_a_good_result(run):
    """`exception` is None where all went well, and raises where it was cancelled."""

    async def main():
        assert succeed(1).exception() is None
        cancelled = Deferred()
        cancelled.cancel("why")
        with pytest.raises(CancelledError, match="why"):
            cancelled.exception()

    run(main())


def test_asyncio_takes_it_for_a_future(run):
    """`isfuture` says True, `ensure_future` returns the Deferred itself."""

    async def main():
        deferred = succeed(1)
        assert asyncio.isfuture(deferred)
        assert asyncio.ensure_future(deferred) is deferred
        assert deferred.get_loop() is asyncio.get_running_loop()
        assert hasattr(Deferred, "_asyncio_future_blocking")

    run(main())


# -- done-callbacks ----------------------------------------------------------------


def test_done_callback_comes_through_the_loop(run):
    """A done-callback never runs inside the firing, nor inside the adding."""

    async def main():
        seen = []
        deferred = Deferred()
        deferred.add_done_callback(seen.append)
        deferred.callback(1)
        assert seen == []
        deferred.add_done_callback(seen.append)
        assert seen == []
        await asyncio.sleep(0)
        assert seen == [deferred, deferred]

    run(main())


def test_done_callback_sees_its_context(run):
    """A done-callback runs in the context given, or in that of its adder."""

    async def main():
        seen = []

        def note(_):
            seen.append(variable.get())

        deferred = Deferred()
        token = variable.set("adder")
        deferred.add_done_callback(note)
        variable.reset(token)
        other = contextvars.copy_context()
        other.run(variable.set, "given")
        deferred.add_done_callback(note, context=other)
        variable.set("firer")
        deferred.callback(1)
        await asyncio.sleep(0)
        assert seen == ["adder", "given"]

    run(main())


def test_done_callback_can_be_removed(run):
    """`remove_done_callback` returns how many it removed."""

    async def main():
        seen = []
        note, other = seen.append, lambda _: seen.append("other")
        deferred = Deferred()
        for callback in (note, other, note):
            deferred.add_done_callback(callback)
        assert deferred.remove_done_callback(note) == 2
        assert deferred.remove_done_callback(note) == 0
        deferred.callback(1)
        await asyncio.sleep(0)
        assert seen == ["other"]

    run(main())


def test_failing_done_callback_is_reported(run):
    """A done-callback that fails in a pass is reported; the others are called."""

    async def main():
        loop = asyncio.get_running_loop()
        reports, seen = [], []
        loop.set_exception_handler(lambda _, report: reports.append(report))
        deferred = Deferred()
        deferred.add_done_callback(lambda _: 1 / 0)
        deferred.add_done_callback(seen.append)
        loop.call_soon(lambda: deferred._fire(1, directly=True))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [type(r["exception"]) for r in reports] == [ZeroDivisionError]
        assert reports[0]["future"] is deferred
        assert seen == [deferred]

    run(main())


def test_ctrl_c_in_one_waiter_does_not_lose_the_others():
    """KeyboardInterrupt stops the loop; the other waiters hear when it goes on."""

    async def interrupted(deferred):
        await deferred
        raise KeyboardInterrupt

    loop = asyncio.new_event_loop()
    deferred = Deferred()
    first = loop.create_task(interrupted(deferred))
    second = loop.create_task(take(deferred))
    loop.call_later(0, lambda: deferred._fire(7, directly=True))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(second)
    assert loop.run_until_complete(in_time(second)) == 7
    with pytest.raises(KeyboardInterrupt):
        first.result()
    loop.close()


# -- cancelling --------------------------------------------------------------------


def test_cancelling_the_task_cancels_the_deferred(run):
    """`task.cancel(msg)` arrives as a plain call of `Deferred.cancel(msg)`."""

    async def main():
        asked = []
        deferred = Deferred(asked.append)
        (task,) = await start(deferred)
        task.cancel("enough")
        assert asked == [deferred]
        error = await task
        assert isinstance(error, CancelledError)
        assert error.args == ("enough",)
        assert deferred.cancelled()

    run(main())


def test_cancel_that_answers_later(run):
    """With LATER the task goes on when the canceller's work is done, and not before."""

    async def main():
        deferred = Deferred(lambda _: LATER)
        (task,) = await start(deferred)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        deferred.errback(CancelledError())
        assert isinstance(await task, CancelledError)

    run(main())


def test_cancel_that_comes_too_late_delivers_the_value(run):
    """A canceller that finds the work done hands over the value."""

    async def main():
        deferred = Deferred(lambda d: d.callback("committed"))
        (task,) = await start(deferred)
        task.cancel()
        assert await task == "committed"

    run(main())


def test_waiters_share_one_cancel(run):
    """Cancelling one awaiting task cancels the Deferred for all."""

    async def main():
        deferred = Deferred()
        one, two = await start(deferred, deferred)
        one.cancel()
        assert isinstance(await one, CancelledError)
        assert isinstance(await two, CancelledError)

    run(main())


def test_each_waiter_gets_a_cancelled_error_of_its_own(run):
    """A CancelledError is not shared between tasks; each adds its own traceback."""

    async def main():
        deferred = Deferred()
        one, two = await start(deferred, deferred)
        deferred.cancel("why")
        first, second = await one, await two
        assert first is not second
        assert first.args == second.args == ("why",)

    run(main())


def test_cancelled_deferred_cancels_the_awaiting_task(run):
    """A task that does not catch it ends as cancelled."""

    async def main():
        async def wait():
            await deferred

        deferred = Deferred()
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        deferred.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run(main())


# -- what asyncio offers -----------------------------------------------------------


def test_wait_for(run):
    """`wait_for` returns the result, and cancels the Deferred when time is over."""

    async def main():
        deferred = Deferred()
        soon(deferred, 7)
        assert await asyncio.wait_for(deferred, 30) == 7
        late = Deferred()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(late, 0.001)
        assert late.cancelled()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Deferred(), 0)
        assert await asyncio.wait_for(succeed(8), 0) == 8

    run(main())


def test_wait_for_a_failure(run):
    """`wait_for` raises the Deferred's own exception."""

    async def main():
        deferred = Deferred()
        soon(deferred, Failure(KeyError("x")))
        with pytest.raises(KeyError):
            await asyncio.wait_for(deferred, 30)

    run(main())


def test_timeout(run):
    """`asyncio.timeout` turns the cancel into TimeoutError."""

    async def main():
        deferred = Deferred()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await deferred
        assert deferred.cancelled()

    run(main())


def test_gather(run):
    """`gather` takes Deferreds like futures, in order, the same one twice."""

    async def main():
        first, second = Deferred(), Deferred()
        soon(second, 2)
        soon(first, 1)
        both = asyncio.gather(first, second, first, succeed(3))
        assert await both == [1, 2, 1, 3]

    run(main())


def test_gather_raises_the_first_failure(run):
    """`gather` raises what the first Deferred failed with."""

    async def main():
        first, second = Deferred(), Deferred()
        soon(second, Failure(KeyError("x")))
        with pytest.raises(KeyError):
            await asyncio.gather(first, second)
        assert not first.called

    run(main())


def test_gather_returns_exceptions(run):
    """`return_exceptions=True` gives failures and cancels as values."""

    async def main():
        good, bad, gone = Deferred(), Deferred(), Deferred()
        soon(good, 1)
        soon(bad, Failure(KeyError("x")))
        asyncio.get_running_loop().call_soon(gone.cancel, "why")
        found = await asyncio.gather(good, bad, gone, return_exceptions=True)
        assert found[0] == 1
        assert isinstance(found[1], KeyError)
        assert isinstance(found[2], CancelledError)
        assert found[2].args == ("why",)

    run(main())


def test_gather_with_a_cancelled_member(run):
    """A cancelled member's CancelledError, message included, leaves `gather`."""

    async def main():
        gone = Deferred()
        asyncio.get_running_loop().call_soon(gone.cancel, "why")
        error = await take(asyncio.gather(gone, Deferred()))
        assert isinstance(error, CancelledError)
        assert error.args == ("why",)

    run(main())


def test_cancelling_a_gather_cancels_its_members(run):
    """Cancelling the gathering future cancels every Deferred in it."""

    async def main():
        first, second = Deferred(), Deferred()
        both = asyncio.gather(first, second)
        await asyncio.sleep(0)
        assert both.cancel("all")
        error = await take(both)
        assert isinstance(error, CancelledError)
        assert first.cancelled()
        assert second.cancelled()

    run(main())


def test_what_gather_reads_is_there(run):
    """The two private names that `gather` reads of a cancelled future are there."""

    async def main():
        deferred = Deferred()
        deferred.cancel("why")
        assert deferred._cancel_message == "why"
        error = deferred._make_cancelled_error()
        assert isinstance(error, CancelledError)
        assert error.args == ("why",)
        silent = fail(CancelledError("own"))
        assert silent._cancel_message is None
        assert silent._make_cancelled_error().args == ("own",)

    run(main())


def test_task_group(run):
    """Tasks of a group await Deferreds; a failure cancels the others' Deferreds."""

    async def main():
        waiting, failing = Deferred(), Deferred()

        async def wait(deferred):
            return await deferred

        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(wait(waiting))
                group.create_task(wait(failing))
                soon(failing, Failure(KeyError("x")))
        assert [type(e) for e in caught.value.exceptions] == [KeyError]
        assert waiting.cancelled()
        fine = Deferred()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(wait(fine))
            soon(fine, 7)
        assert task.result() == 7

    run(main())


def test_as_coroutine(run):
    """`asCoroutine` makes what `create_task` accepts."""

    async def main():
        deferred = Deferred()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(deferred.asCoroutine())
            soon(deferred, 7)
        assert task.result() == 7

    run(main())


def test_wait(run):
    """`asyncio.wait` returns the Deferreds themselves, done and pending."""

    async def main():
        first, second = Deferred(), Deferred()
        soon(first, 1)
        done, pending = await asyncio.wait(
            [first, second], return_when=asyncio.FIRST_COMPLETED
        )
        assert done == {first}
        assert pending == {second}
        soon(second, Failure(KeyError("x")))
        done, pending = await asyncio.wait(
            [first, second], return_when=asyncio.FIRST_EXCEPTION
        )
        assert done == {first, second}
        assert not pending
        assert isinstance(second.exception(), KeyError)
        done, pending = await asyncio.wait([Deferred()], timeout=0.001)
        assert not done
        assert len(pending) == 1

    run(main())


def test_as_completed(run):
    """`as_completed` gives the results in the order of their coming."""

    async def main():
        first, second = Deferred(), Deferred()
        second.add_done_callback(lambda _: soon(first, 1))
        soon(second, 2)
        found = [await each for each in asyncio.as_completed([first, second])]
        assert found == [2, 1]

    run(main())


def test_shield(run):
    """A shielded Deferred survives the cancel of its waiter."""

    async def main():
        deferred = Deferred()
        (task,) = await start(asyncio.shield(deferred))
        task.cancel()
        assert isinstance(await task, CancelledError)
        assert not deferred.called
        soon(deferred, 7)
        assert await asyncio.shield(deferred) == 7
        assert await asyncio.shield(succeed(8)) == 8

    run(main())


def test_wrapped_in_a_task_in_a_gather_in_a_timeout(run):
    """The pieces fit together."""

    async def main():
        deferreds = [Deferred() for _ in range(10)]

        async def wait(deferred):
            return await asyncio.shield(deferred)

        for number, deferred in enumerate(deferreds):
            soon(deferred, number)
        async with asyncio.timeout(30):
            found = await asyncio.gather(*(wait(d) for d in deferreds))
        assert found == list(range(10))

    run(main())
