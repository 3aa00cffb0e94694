"""Deferreds under asyncio's own tools, where something goes wrong or comes late.

What each tool does on a good day is in test_future. Each test here runs with tasks
that begin on the next turn, and with eager ones where Python has them.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys

import pytest

from threadpool.defer import (
    LATER,
    CancelledError,
    Deferred,
    Failure,
    ensureDeferred,
    fail,
    inlineCallbacks,
    succeed,
)

variable = contextvars.ContextVar("variable", default="nobody")

KINDS = ["lazy", "eager"] if sys.version_info >= (3, 12) else ["lazy"]
EITHER = pytest.mark.parametrize("tasks", KINDS)


def use(tasks):
    """Have the running loop make tasks of this kind."""

    def factory(loop, coroutine, *, eager_start=None, **options):
        return asyncio.eager_task_factory(loop, coroutine, **options)

    if tasks == "eager":
        asyncio.get_running_loop().set_task_factory(factory)


class Committing(Deferred):
    """Stands for a job that is past the point where it can be stopped.

    Cancelled, it answers later, with its value, and says that it came too late.
    """

    def __init__(self):
        super().__init__(self.tooLate)
        self.asked = []

    def tooLate(self, _):
        self.asked.append(self._cancel_message)
        self._late_cancel = True
        return LATER


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def waiting(*coroutines):
    """Make a task of each and let each come to where it waits."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    await turns()
    return tasks


async def take(awaitable):
    """Await; return what was raised, too."""
    try:
        return await awaitable
    except BaseException as error:
        return error


def soon(function, *args):
    asyncio.get_running_loop().call_soon(function, *args)


# -- the Deferred itself -----------------------------------------------------------


def test_await_yields_the_deferred_itself():
    """A coroutine that awaits a Deferred hands that very object to whoever runs it."""
    deferred = Deferred()
    coroutine = take(deferred)
    assert coroutine.send(None) is deferred
    assert deferred._asyncio_future_blocking
    deferred.callback(7)
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    assert stop.value.value == 7


def test_run_until_complete_takes_a_deferred():
    """A Deferred bound to a loop may be what the loop runs for."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        async def make():
            deferred = Deferred()
            assert deferred.get_loop() is loop
            loop.call_soon(deferred.callback, 7)
            return deferred

        deferred = runner.run(make())
        assert loop.run_until_complete(deferred) == 7
        assert runner.run(deferred.asCoroutine()) == 7


@EITHER
async def test_failure_awaited_by_two(tasks):
    """Two tasks that await one failure both get it, and nobody reports it."""
    use(tasks)
    deferred = Deferred()
    both = await waiting(take(deferred), take(deferred))
    deferred.errback(KeyError("x"))
    first, second = await asyncio.gather(*both)
    assert first is second is deferred.exception()


@EITHER
async def test_awaiting_a_failed_deferred_twice(tasks):
    """A failure may be awaited again, at once, and is not reported afterwards."""
    use(tasks)
    deferred = fail(KeyError("x"))
    for _ in range(2):
        with pytest.raises(KeyError):
            await deferred
    del deferred
    gc.collect()


@EITHER
async def test_task_gets_what_the_chain_makes_of_a_failure(tasks):
    """Callbacks and an awaiting task go together: the task gets the chain's end."""
    use(tasks)
    deferred = Deferred()
    (task,) = await waiting(take(deferred))
    deferred.addErrback(lambda failure: failure.type).addCallback(lambda kind: [kind])
    deferred.errback(KeyError())
    assert await task == [KeyError]


@EITHER
async def test_deferred_without_a_turn_of_the_loop(tasks):
    """An awaited Deferred that has fired costs the task no turn of the loop."""
    use(tasks)
    seen = []

    async def work():
        seen.append([await succeed(number) for number in range(3)])

    task = asyncio.ensure_future(work())
    if tasks == "eager":
        assert task.done()  # It never had to wait at all.
    soon(seen.append, "next turn")
    await task
    assert seen[0] == [0, 1, 2]


# -- cancelling --------------------------------------------------------------------


@EITHER
async def test_cancel_between_firing_and_waking(tasks):
    """A task cancelled after the firing, before it woke, is cancelled; nothing is lost.

    As with asyncio's own futures.
    """
    use(tasks)
    deferred = Deferred()
    (task,) = await waiting(deferred.asCoroutine())
    deferred.callback(7)
    task.cancel("why")
    with pytest.raises(CancelledError, match="why"):
        await task
    assert deferred.result() == 7


@EITHER
async def test_cancel_of_a_task_that_waits_for_an_inner_deferred(tasks):
    """task.cancel() reaches the Deferred that the awaited chain waits for."""
    use(tasks)
    inner, seen = Deferred(), []
    outer = succeed(1).addCallback(lambda _: inner)
    outer.addErrback(lambda failure: seen.append(failure.type) or failure)
    (task,) = await waiting(take(outer))
    task.cancel("why")
    error = await task
    assert (type(error), error.args) == (CancelledError, ("why",))
    assert inner.called
    assert seen == [CancelledError]


@EITHER
async def test_chain_turns_a_cancel_into_a_value(tasks):
    """An errback that answers the cancel with a value answers the task, too."""
    use(tasks)
    deferred = Deferred().addErrback(lambda failure: failure.check(CancelledError))
    (task,) = await waiting(deferred.asCoroutine())
    task.cancel()
    assert await task is CancelledError
    assert not task.cancelled()


@EITHER
async def test_cancelling_one_of_two_who_shield(tasks):
    """Of two who await through `shield`, the one cancelled leaves the other alone."""
    use(tasks)
    deferred = Deferred()
    one, two = await waiting(
        take(asyncio.shield(deferred)), take(asyncio.shield(deferred))
    )
    one.cancel()
    assert isinstance(await one, CancelledError)
    deferred.callback(7)
    assert await two == 7


@EITHER
async def test_failure_behind_an_abandoned_shield(tasks, expect_errors):
    """A shielded failure that comes when nobody waits any more is reported, once.

    By us, or from Python 3.14 on by `shield` itself.
    """
    use(tasks)
    deferred = Deferred()
    (task,) = await waiting(take(asyncio.shield(deferred)))
    task.cancel()
    await task
    deferred.errback(KeyError())
    await turns()
    del deferred
    gc.collect()
    assert len(expect_errors) == 1


@EITHER
async def test_cancelling_one_of_two_gathers(tasks):
    """Members are shared: cancelling one `gather` cancels them for the other."""
    use(tasks)
    shared = Deferred()
    one, two = asyncio.gather(shared), asyncio.gather(shared, return_exceptions=True)
    await turns()
    one.cancel()
    assert isinstance(await take(one), CancelledError)
    assert [type(error) for error in await two] == [CancelledError]


# -- time --------------------------------------------------------------------------


@EITHER
async def test_timeout_waits_for_the_confirmation(tasks):
    """With a canceller that answers LATER, TimeoutError comes with its answer."""
    use(tasks)
    deferred = Deferred(lambda d: soon(soon, d.errback, CancelledError()) or LATER)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await deferred
    assert deferred.cancelled()


@EITHER
@pytest.mark.parametrize("seconds", [0.001, 0])
async def test_wait_for_waits_for_the_confirmation(tasks, seconds):
    """`wait_for` gives up when what was stopped has really stopped, and not before."""
    use(tasks)
    deferred = Deferred(lambda d: soon(soon, d.errback, CancelledError()) or LATER)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(deferred, seconds)
    assert deferred.cancelled()


@EITHER
async def test_error_while_stopping_wins_over_the_timeout(tasks):
    """An error of the canceller's own is what the timed-out `await` raises."""
    use(tasks)
    for limit in (asyncio.wait_for, timed):
        deferred = Deferred(lambda d: d.errback(KeyError("broken")))
        with pytest.raises(KeyError):
            await limit(deferred, 0.001)


async def timed(awaitable, seconds):
    async with asyncio.timeout(seconds):
        return await awaitable


@EITHER
async def test_timeout_of_zero_lets_a_result_through(tasks):
    """What is there already is no victim of a time that is over already."""
    use(tasks)
    assert await asyncio.wait_for(succeed(7), 0) == 7
    with pytest.raises(KeyError):
        await asyncio.wait_for(fail(KeyError()), 0)


@EITHER
async def test_wait_does_not_cancel(tasks):
    """`asyncio.wait` with a timeout leaves what is pending alone."""
    use(tasks)
    slow, gone = Deferred(), Deferred()
    gone.cancel()
    done, pending = await asyncio.wait([slow, gone], timeout=0.001)
    assert (done, pending) == ({gone}, {slow})
    assert not slow.called


# -- the cancel that comes too late ------------------------------------------------


@EITHER
async def test_late_cancel_delivers_the_value_and_then_cancels(tasks):
    """The committed value arrives; the cancel comes at the task's next wait."""
    use(tasks)
    job, seen = Committing(), []

    async def work():
        seen.append(await job)
        await asyncio.sleep(0)  # asyncio cancels at the first wait in a later turn.
        await asyncio.Event().wait()

    (task,) = await waiting(work())
    task.cancel("why")
    await turns()
    assert not task.done()
    soon(job.callback, "committed")
    with pytest.raises(CancelledError, match="why"):
        await task
    assert job.asked == ["why"]
    assert seen == ["committed"]


@EITHER
async def test_late_cancel_of_a_task_that_ends_with_the_value(tasks):
    """A task that returns the committed value at once is not cancelled: it is done."""
    use(tasks)
    job = Committing()
    (task,) = await waiting(job.asCoroutine())
    task.cancel()
    soon(job.callback, "committed")
    assert await task == "committed"


@EITHER
async def test_late_cancel_is_for_the_cancelled_task_alone(tasks):
    """Of two who await the job, the one that nobody cancelled goes on undisturbed."""
    use(tasks)
    job = Committing()

    async def work():
        value = await job
        await turns()
        return value

    one, two = await waiting(work(), work())
    one.cancel()
    soon(job.callback, "committed")
    assert isinstance(await take(one), CancelledError)
    assert await two == "committed"


@EITHER
async def test_late_timeout_is_a_timeout_at_the_next_wait(tasks):
    """The value arrives inside the `timeout` block; the next wait in it times out."""
    use(tasks)
    job, seen = Committing(), []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            soon(self_answering, job)
            seen.append(await job)
            await turns()
            await asyncio.Event().wait()
    assert seen == ["committed"]
    await turns()  # No cancel is left over.
    assert not asyncio.current_task().cancelling()


def self_answering(job):
    """Fire *job* as soon as it was asked to stop."""
    if job.asked:
        job.callback("committed")
    else:
        asyncio.get_running_loop().call_later(0.001, self_answering, job)


@EITHER
async def test_late_timeout_after_the_block_ended(tasks):
    """A block that ends with the committed value is left alone, and so is what follows.

    The timeout says that it expired, for who wants to know.
    """
    use(tasks)
    job = Committing()
    soon(self_answering, job)
    async with asyncio.timeout(0.001) as limit:
        value = await job
    await turns()
    assert (value, limit.expired()) == ("committed", True)
    assert not asyncio.current_task().cancelling()


@EITHER
async def test_late_cancel_in_wait_for(tasks):
    """`wait_for` returns the committed value, and nobody is cancelled afterwards."""
    use(tasks)
    job = Committing()
    soon(self_answering, job)
    assert await asyncio.wait_for(job, 0.001) == "committed"
    await turns()
    assert not asyncio.current_task().cancelling()


@EITHER
async def test_late_cancel_in_a_task_group(tasks):
    """A failing sibling cancels the group; the committed value is seen all the same."""
    use(tasks)
    job, failing, seen = Committing(), Deferred(), []

    async def work():
        seen.append(await job)
        await turns()
        seen.append("went on")

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work())
            group.create_task(failing.asCoroutine())
            soon(failing.errback, KeyError())
            soon(self_answering, job)
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert seen == ["committed"]
    assert task.cancelled()


@EITHER
async def test_late_cancel_in_a_gather(tasks):
    """A cancelled `gather` ends as cancelled when the last late member has answered."""
    use(tasks)
    jobs = [Committing(), Committing()]
    both = asyncio.gather(*jobs)
    await turns()
    both.cancel()
    for job in jobs:
        await turns()
        assert not both.done()
        job.callback("committed")
    assert isinstance(await take(both), CancelledError)
    assert [job.result() for job in jobs] == ["committed", "committed"]


# -- many at once ------------------------------------------------------------------


@EITHER
async def test_second_failure_in_a_gather_is_not_reported(tasks):
    """`gather` looks at every failure, also at those after the first."""
    use(tasks)
    first, second = Deferred(), Deferred()
    both = asyncio.gather(first, second)
    soon(first.errback, KeyError())
    soon(soon, second.errback, ValueError())
    with pytest.raises(KeyError):
        await both
    await turns()
    del first, second, both
    gc.collect()


@EITHER
async def test_as_completed_with_failures_and_a_timeout(tasks):
    """`as_completed` raises failures where they come, and TimeoutError at the end."""
    use(tasks)
    good, bad, slow = Deferred(), Deferred(), Deferred()
    soon(bad.errback, KeyError())
    soon(soon, good.callback, 7)
    found = [
        await take(each)
        for each in asyncio.as_completed([good, bad, slow], timeout=0.05)
    ]
    assert [type(each) for each in found] == [KeyError, int, TimeoutError]
    assert not slow.called


@pytest.mark.skipif(sys.version_info < (3, 13), reason="`async for` came with 3.13")
@EITHER
async def test_as_completed_gives_back_the_deferreds(tasks):
    """`async for` over `as_completed` yields the Deferreds that were passed in."""
    use(tasks)
    first, second = Deferred(), Deferred()
    soon(second.callback, 2)
    soon(soon, first.callback, 1)
    found = [each async for each in asyncio.as_completed([first, second])]
    assert found == [second, first]


@EITHER
async def test_task_group_over_deferreds(tasks):
    """`asCoroutine` puts Deferreds into a group; one's failure cancels the others."""
    use(tasks)
    asked = []
    waits, fails = Deferred(asked.append), Deferred()
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits.asCoroutine())
            group.create_task(fails.asCoroutine())
            soon(fails.errback, KeyError())
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert asked == [waits]
    assert waits.cancelled()


@EITHER
async def test_task_group_body_awaits_a_deferred(tasks):
    """A group whose body waits for a Deferred cancels it when a member fails."""
    use(tasks)
    waits, fails = Deferred(), Deferred()
    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fails.asCoroutine())
            soon(fails.errback, KeyError())
            await waits
    assert waits.cancelled()


@EITHER
async def test_wait_until_all_are_done(tasks):
    """`asyncio.wait` knows value, failure and cancel alike as done."""
    use(tasks)
    good, bad, gone = Deferred(), Deferred(), Deferred()
    soon(good.callback, 1)
    soon(bad.errback, KeyError())
    soon(gone.cancel)
    done, pending = await asyncio.wait([good, bad, gone])
    assert (done, pending) == ({good, bad, gone}, set())
    bad.exception()


# -- asyncio's things inside our coroutines ----------------------------------------


def awaiting(make):
    """Await, in a coroutine of ours, what *make* returns there."""

    async def run():
        return await take(make())

    return ensureDeferred(run())


@inlineCallbacks
def yielding(make):
    """Yield, in a generator of ours, what *make* returns there."""
    try:
        result = yield make()
    except BaseException as error:
        return error
    return result


BOTH = pytest.mark.parametrize("runs", [awaiting, yielding])


@BOTH
async def test_failed_future_inside(runs):
    """A future's exception is raised where our coroutine waits for it."""
    future = asyncio.get_running_loop().create_future()
    deferred = runs(lambda: future)
    future.set_exception(KeyError("x"))
    assert isinstance(await deferred, KeyError)


@BOTH
async def test_cancel_reaches_the_future_inside(runs):
    """Cancelling our coroutine cancels the future or task that it waits for."""
    for inside in (
        asyncio.get_running_loop().create_future(),
        asyncio.ensure_future(asyncio.Event().wait()),
    ):
        deferred = runs(lambda inside=inside: inside)
        await turns()
        deferred.cancel("why")
        error = await deferred
        assert (type(error), error.args) == (CancelledError, ("why",))
        assert inside.cancelled()


@BOTH
async def test_asyncios_tools_inside(runs):
    """`gather`, `shield`, `wait_for`'s kin and coroutines work in a coroutine of ours.

    Those that need no task of their own, that is.
    """

    async def double(deferred):
        return 2 * await deferred

    def both():
        return asyncio.gather(double(succeed(1)), succeed(2), asyncio.sleep(0, 3))

    assert await runs(both) == [2, 2, 3]
    assert await runs(lambda: asyncio.shield(succeed(4))) == 4
    assert await runs(lambda: double(succeed(5))) == 10
    event = asyncio.Event()
    soon(event.set)
    assert await runs(event.wait) is True


async def test_asyncios_timeout_inside_needs_a_task():
    """`asyncio.timeout` in a coroutine of ours says what it lacks; a task has it."""

    async def work():
        async with asyncio.timeout(30):
            return await succeed(7)

    def start():
        nonlocal deferred
        deferred = ensureDeferred(work())

    deferred = None
    soon(start)  # Not from this test's task, which would serve.
    await turns()
    with pytest.raises(RuntimeError, match="task"):
        await deferred
    assert await asyncio.create_task(work()) == 7


# -- the late cancel, through a coroutine of ours ----------------------------------


@inlineCallbacks
def generator_through(job, seen):
    seen.append((yield job))
    yield Deferred()


async def coroutine_through(job, seen):
    seen.append(await job)
    await Deferred()


@pytest.mark.parametrize("through", [coroutine_through, generator_through])
def test_late_cancel_comes_at_our_coroutines_next_wait(through):
    """In a coroutine of ours, too, the cancel comes at the wait after the value."""
    job, seen = Committing(), []
    running = through(job, seen)
    deferred = running if isinstance(running, Deferred) else ensureDeferred(running)
    assert deferred.cancel("why")
    job.callback("committed")
    assert seen == ["committed"]
    assert deferred.cancelled()
    with pytest.raises(CancelledError, match="why"):
        deferred.result()


@EITHER
@pytest.mark.parametrize("make", [awaiting, yielding])
async def test_late_cancel_passes_through_our_coroutine(tasks, make):
    """A coroutine that ends with the value hands the cancel on to the awaiting task."""
    use(tasks)
    job, seen = Committing(), []

    async def work():
        seen.append(await make(lambda: job))
        await turns()
        seen.append("went on")

    (task,) = await waiting(work())
    task.cancel("why")
    soon(job.callback, "committed")
    assert isinstance(await take(task), CancelledError)
    assert seen == ["committed"]


@EITHER
async def test_late_cancel_of_our_coroutine_leaves_the_current_task_alone(tasks):
    """The task that happens to fire the job is not cancelled instead."""
    use(tasks)
    job, seen = Committing(), []
    deferred = awaiting(lambda: job)
    deferred.cancel()

    async def clean_up():
        try:
            await asyncio.Event().wait()
        except CancelledError:
            job.callback("committed")
            await turns()
            seen.append("cleaned")
            raise

    (task,) = await waiting(clean_up())
    task.cancel()
    assert isinstance(await take(task), CancelledError)
    assert seen == ["cleaned"]
    assert deferred.result() == "committed"


# -- whose context -----------------------------------------------------------------


def test_callback_runs_in_the_firers_context():
    """A callback sees the context variables of whoever fires, as a plain call would."""
    seen = []
    deferred = Deferred()
    variable.set("adder")
    deferred.addCallback(lambda _: seen.append(variable.get()))
    contextvars.copy_context().run(fire_as, "firer", deferred)
    assert seen == ["firer"]
    assert variable.get() == "adder"
    variable.set("nobody")


def fire_as(name, deferred):
    variable.set(name)
    deferred.callback(None)


def test_callback_on_a_fired_deferred_runs_in_the_adders_context():
    """Where the result is there already, the adder is who makes the callback run."""
    seen = []
    context = contextvars.copy_context()
    context.run(variable.set, "adder")
    deferred = succeed(1)
    context.run(deferred.addCallback, lambda _: seen.append(variable.get()))
    assert seen == ["adder"]


@EITHER
@pytest.mark.parametrize("directly", [False, True])
async def test_task_resumes_in_its_own_context(tasks, directly):
    """A task sees its own variables after the wait, whoever fired, and in any way."""
    use(tasks)
    deferred = Deferred()

    async def work():
        variable.set("task")
        await deferred
        return variable.get()

    (task,) = await waiting(work())
    context = contextvars.copy_context()
    context.run(variable.set, "firer")
    asyncio.get_running_loop().call_soon(
        lambda: deferred._fire(1, directly=directly), context=context
    )
    assert await task == "task"
    assert context[variable] == "firer"


@BOTH
async def test_our_coroutine_resumes_in_its_own_context(runs):
    """Coroutine and generator keep the context of their start over every wait."""
    first = Deferred()
    future = asyncio.get_running_loop().create_future()
    token = variable.set("starter")
    seen = [runs(lambda: first), runs(lambda: future)]
    own = [each.addCallback(lambda _: variable.get()) for each in seen]

    async def work():
        before = variable.get()
        await first
        await future
        return before, variable.get()

    both = ensureDeferred(work())
    variable.reset(token)
    contextvars.copy_context().run(fire_as, "firer", first)
    future.set_result(None)
    assert await both == ("starter", "starter")
    # Their Deferreds' callbacks, though, run where the coroutine's end fired them.
    assert await own[0] == "firer"


@EITHER
async def test_gathered_coroutines_keep_their_contexts(tasks):
    """Each task in a `gather` keeps its own variables over a wait for one Deferred."""
    use(tasks)
    deferred = Deferred()

    async def work(name):
        variable.set(name)
        await deferred
        return variable.get()

    both = asyncio.gather(work("a"), work("b"))
    await turns()
    deferred.callback(None)
    assert await both == ["a", "b"]
    assert variable.get() == "nobody"


# -- nothing is left hanging -------------------------------------------------------


@EITHER
async def test_failure_that_is_awaited_late_is_not_reported(tasks):
    """A task may start to await long after the failure came."""
    use(tasks)
    deferred = Deferred()
    deferred.errback(KeyError())
    await turns()
    assert isinstance(await take(deferred), KeyError)
    del deferred
    gc.collect()


@EITHER
async def test_failure_of_an_abandoned_wait_is_reported(tasks, expect_errors):
    """`asyncio.wait` looks at nothing: a failure that nobody reads is reported."""
    use(tasks)
    deferred = fail(Failure(KeyError("lost")))
    await asyncio.wait([deferred])
    del deferred
    gc.collect()
    (record,) = expect_errors
    assert "Unhandled failure" in record.getMessage()
