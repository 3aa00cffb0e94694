"""ThreadPool, with real threads; what must not race is held by barriers."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import tracemalloc
import weakref

import pytest

import threadable
from threadpool.defer import CancelledError
from threadpool.error import PoolClosed, PoolFull, WorkerInterrupted, WrongThread
from threadpool.pool import ThreadPool

WAIT = 30.0  # Seconds until a test that hangs says so.
variable = contextvars.ContextVar("variable", default="nobody")


class Pools:
    """Makes pools, and stops them."""

    def __init__(self):
        self.made = []
        self.events = []

    def __call__(self, minimum=0, maximum=2, *, start=True, **options):
        pool = ThreadPool(minimum, maximum, "test", **options)
        self.made.append(pool)
        if start:
            pool.start()
        return pool

    def event(self):
        """Make an Event that is set at the end of the test, whatever happens."""
        event = threading.Event()
        self.events.append(event)
        return event


@pytest.fixture
def make_pool():
    pools = Pools()
    yield pools
    for event in pools.events:
        event.set()
    for pool in pools.made:
        pool.stop()


@pytest.fixture
def pool(make_pool):
    """A pool of up to two threads."""
    return make_pool()


@pytest.fixture
def lone(make_pool):
    """A pool of one thread."""
    return make_pool(0, 1)


class Thing:
    """Something that can be referred to weakly."""


def block(pool, make_pool):
    """Keep one thread of *pool* busy; return the Event that lets it go on."""
    running, end = threading.Event(), make_pool.event()

    def work():
        running.set()
        end.wait(WAIT)

    pool.callInThread(work)
    assert running.wait(WAIT)
    return end


# -- results -----------------------------------------------------------------------


async def test_result_comes_home(pool):
    """The value comes to the loop's thread; the function runs in another."""
    here = threading.get_ident()
    seen = []
    deferred = pool.deferToThread(lambda a, b: (a + b, threading.get_ident()), 1, b=2)
    deferred.addCallback(lambda r: seen.append(threading.get_ident()) or r)
    value, there = await deferred
    assert value == 3
    assert there != here
    assert seen == [here]


async def test_exception_comes_home(pool):
    """What the function raises is the Deferred's failure, its traceback included."""

    def broken():
        raise KeyError("x")

    deferred = pool.deferToThread(broken)
    with pytest.raises(KeyError):
        await deferred
    failure = deferred._result
    assert failure.getTracebackObject().tb_frame.f_code.co_name == "broken"


async def test_gathered_jobs(pool):
    """A thousand jobs of one gather, answered in order."""
    jobs = [pool.deferToThread(pow, number, 2) for number in range(1000)]
    assert await asyncio.gather(*jobs) == [number**2 for number in range(1000)]


async def test_jobs_of_one_thread_run_in_order(lone):
    """One thread runs the jobs in the order in which they were submitted."""
    seen = []
    jobs = [lone.deferToThread(seen.append, number) for number in range(1000)]
    await asyncio.gather(*jobs)
    assert seen == list(range(1000))


async def test_two_blocking_calls_run_at_once(pool):
    """Two calls that each wait for the other both end."""
    both = threading.Barrier(2)
    jobs = [pool.deferToThread(both.wait, WAIT) for _ in range(2)]
    assert sorted(await asyncio.gather(*jobs)) == [0, 1]


async def test_all_threads_are_used(make_pool):
    """As many blocking calls run at once as there may be threads."""
    pool = make_pool(0, 8)
    every = threading.Barrier(8)
    jobs = [pool.deferToThread(every.wait, WAIT) for _ in range(16)]
    assert sorted(await asyncio.gather(*jobs)) == sorted([*range(8)] * 2)
    assert pool.stats().most_workers == 8


async def test_second_job_does_not_wait_for_a_long_first(make_pool):
    """A job behind short ones that turned out to be long gets another thread.

    The first jobs are so short that one thread will do. Then one of them waits for the
    one behind it: only a second thread can help.
    """
    pool = make_pool(0, 2)
    for _ in range(100):
        await pool.deferToThread(int)
    helped = make_pool.event()
    first = pool.deferToThread(helped.wait, WAIT)
    second = pool.deferToThread(helped.set)
    assert await first
    await second


async def test_fast_job_is_answered_although_the_next_one_blocks(make_pool):
    """A finished outcome reaches the loop whatever its thread does next.

    One thread; the second job blocks until the first one's callback has run.
    """
    lone = make_pool(0, 1, start=False)
    answered = make_pool.event()
    first = lone.deferToThread(lambda: "fast").addCallback(
        lambda r: answered.set() or r
    )
    second = lone.deferToThread(answered.wait, WAIT)
    lone.start()
    assert await first == "fast"
    assert await second


async def test_chain_of_fast_and_blocking_jobs(lone, make_pool):
    """The same, again and again, with the thread warm and the loop busy."""
    for _ in range(50):
        answered = make_pool.event()
        first = lone.deferToThread(int).addCallback(lambda _, e=answered: e.set())
        second = lone.deferToThread(answered.wait, WAIT)
        await asyncio.gather(first, second)


async def test_job_submits_a_job(lone):
    """A job's callback may submit the next job, for ever."""
    count = 0

    def again(_):
        nonlocal count
        count += 1
        if count < 1000:
            return lone.deferToThread(int).addCallback(again)
        return count

    assert await lone.deferToThread(int).addCallback(again) == 1000


# -- context -----------------------------------------------------------------------


async def test_context_variables_are_carried(pool):
    """The function sees a copy of the caller's context; the caller sees no change."""

    def work():
        seen = variable.get()
        variable.set("worker")
        return seen

    variable.set("caller")
    assert await pool.deferToThread(work) == "caller"
    assert variable.get() == "caller"


async def test_callbacks_see_the_context_of_the_job(pool):
    """A callback runs in the job's context, as the function left it."""

    def work():
        variable.set("worker")

    variable.set("caller")
    deferred = pool.deferToThread(work).addCallback(lambda _: variable.get())
    assert await deferred == "worker"


async def test_context_of_a_call_is_carried(pool):
    """`callInThread` carries the context, too."""
    seen, done = [], threading.Event()

    def work():
        seen.append(variable.get())
        done.set()

    variable.set("caller")
    pool.callInThread(work)
    assert done.wait(WAIT)
    assert seen == ["caller"]


# -- nothing is kept ---------------------------------------------------------------


async def test_references_are_dropped_with_the_work(lone):
    """When the work has ended an idle thread keeps neither function nor arguments,
    nor the result.
    """

    class Function:
        def __call__(self, argument, keyword=None):
            return Thing()

    function, argument, keyword = Function(), Thing(), Thing()
    references = [weakref.ref(o) for o in (function, argument, keyword)]
    deferred = lone.deferToThread(function, argument, keyword=keyword)
    del function, argument, keyword
    result = await deferred
    references.append(weakref.ref(result))
    del deferred, result
    await dropped(*references)


async def dropped(*references):
    """Wait until nothing refers to them: a thread needs a moment to park."""
    while any(reference() is not None for reference in references):
        await asyncio.sleep(0)


async def test_result_does_not_wait_for_the_next_job(lone, make_pool):
    """The arguments are free while the Deferred still has its result."""
    argument = Thing()
    reference = weakref.ref(argument)
    deferred = lone.deferToThread(lambda _: 7, argument)
    del argument
    await deferred
    await dropped(reference)
    assert deferred.result() == 7


async def test_call_is_dropped_with_its_work(lone):
    """`callInThread` keeps nothing either."""
    argument = Thing()
    reference = weakref.ref(argument)
    lone.callInThread(lambda _: None, argument)
    del argument
    await dropped(reference)


async def test_references_are_dropped_by_a_cancel(lone, make_pool):
    """A job cancelled while it waits lets go of everything at once."""
    end = block(lone, make_pool)
    argument = Thing()
    reference = weakref.ref(argument)
    deferred = lone.deferToThread(lambda _: None, argument)
    del argument
    deferred.cancel()
    assert reference() is None
    end.set()


async def test_failed_job_is_freed_without_collection(lone):
    """A job that failed and was handled is no garbage that waits for the collector."""
    thing = Thing()
    reference = weakref.ref(thing)

    def broken(_):
        raise KeyError

    gc.collect()
    gc.disable()
    try:
        deferred = lone.deferToThread(broken, thing)
        deferred.addErrback(lambda _: None)
        del thing
        await deferred
        del deferred
        await dropped(reference)
    finally:
        gc.enable()


async def test_failure_that_nobody_saw_is_logged_once(lone, expect_errors):
    """A failed job whose Deferred was thrown away is logged once."""
    lone.deferToThread(lambda: 1 / 0)
    while not expect_errors:
        gc.collect()
        await asyncio.sleep(0)
    await lone.deferToThread(int)
    gc.collect()
    (record,) = expect_errors
    assert "Unhandled failure" in record.getMessage()
    assert record.failure.check(ZeroDivisionError)


# -- bounds ------------------------------------------------------------------------


async def test_full_pool_errbacks(make_pool):
    """PoolFull, with figures, through the Deferred: deferToThread does not raise."""
    pool = make_pool(0, 1, backlog=2)
    end = block(pool, make_pool)
    waiting = [pool.deferToThread(int) for _ in range(2)]
    with pytest.raises(PoolFull) as caught:
        await pool.deferToThread(int)
    assert (caught.value.unfinished, caught.value.limit) == (3, 3)
    for figure in ("test is full", "3 unfinished", "1 workers", "backlog of 2"):
        assert figure in str(caught.value)
    with pytest.raises(PoolFull):
        pool.callInThread(int)
    with pytest.raises(PoolFull):
        pool.callInThreadWithCallback(None, int)
    end.set()
    await asyncio.gather(*waiting)
    assert await pool.deferToThread(int) == 0
    assert pool.stats().refused == 3


async def test_backlog_of_none_is_no_bound(make_pool):
    """100 000 queued calls all run, and cost less than 1.5 KB each."""
    pool = make_pool(0, 1, backlog=None)
    end = block(pool, make_pool)
    count = 100_000
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    jobs = [pool.deferToThread(int) for _ in range(count)]
    each = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    assert pool.stats().waiting == count
    end.set()
    for job in jobs:
        await job
    stats = pool.stats()
    assert (stats.finished, stats.unfinished) == (count + 1, 0)
    assert each < 1500


@pytest.mark.parametrize(
    ("minimum", "maximum", "backlog"),
    [(-1, 2, 1), (3, 2, 1), (0, 0, 1), (0, -1, 1), (0, 1, -1)],
)
def test_impossible_bounds_are_refused(minimum, maximum, backlog):
    """Bounds that contradict each other are refused, with advice."""
    with pytest.raises(ValueError, match=r"(Choose a minimum|choose 0 or more)"):
        ThreadPool(minimum, maximum, backlog=backlog)


async def test_bounds_can_be_adjusted(make_pool):
    """`adjustPoolsize` changes either bound, and refuses the impossible."""
    pool = make_pool(0, 1)
    pool.adjustPoolsize(maxthreads=3)
    assert (pool.min, pool.max) == (0, 3)
    pool.adjustPoolsize(minthreads=2)
    assert (pool.min, pool.max) == (2, 3)
    assert pool.stats().workers == 2
    with pytest.raises(ValueError, match="not possible"):
        pool.adjustPoolsize(maxthreads=1)
    every = threading.Barrier(3)
    jobs = [pool.deferToThread(every.wait, WAIT) for _ in range(3)]
    await asyncio.gather(*jobs)


def test_minimum_is_started(make_pool):
    """`start` starts the minimum at once; before it there is no thread."""
    pool = make_pool(2, 4, start=False)
    assert pool.stats().workers == 0
    pool.start()
    pool.start()
    assert pool.stats().workers == 2
    names = sorted(thread.name for thread in pool._crew.threads())
    assert names == ["test-1", "test-2"]
    assert all(thread.daemon for thread in pool._crew.threads())


def test_idle_threads_retire(make_pool):
    """A thread above the minimum ends when it found nothing to do for so long."""
    pool = make_pool(1, 3, idle_seconds=0.01)
    every = threading.Barrier(4)
    for _ in range(3):
        pool.callInThread(every.wait, WAIT)
    every.wait(WAIT)
    threads = pool._crew.threads()
    pause = threading.Event()
    while pool.stats().workers > 1:
        pause.wait(0.001)
    while len(pool._crew.threads()) > 1:
        pause.wait(0.001)
    assert len(threads) == 3
    done = threading.Event()
    pool.callInThread(done.set)
    assert done.wait(WAIT)


# -- cancelling --------------------------------------------------------------------


async def test_cancelled_while_queued_never_runs(lone, make_pool):
    """A job cancelled while it waits fails at once and is never run."""
    end = block(lone, make_pool)
    ran = []
    deferred = lone.deferToThread(ran.append, 1)
    assert deferred.cancel("enough")
    with pytest.raises(CancelledError, match="enough"):
        await deferred
    assert lone.stats().waiting == 0
    end.set()
    await lone.deferToThread(int)
    assert ran == []
    assert lone.stats().removed == 1


async def test_cancelled_task_takes_its_queued_job_back(lone, make_pool):
    """Cancelling the awaiting task does the same."""
    end = block(lone, make_pool)
    ran = []

    async def wait():
        await lone.deferToThread(ran.append, 1)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    end.set()
    await lone.deferToThread(int)
    assert ran == []


async def test_cancelled_while_running_is_released_at_once(lone, make_pool):
    """A running function cannot be stopped: its caller goes on, its late outcome is
    put away, and the thread serves the next.
    """
    running, end = threading.Event(), make_pool.event()

    def work():
        running.set()
        end.wait(WAIT)
        raise KeyError("late")

    deferred = lone.deferToThread(work)
    while not running.is_set():
        await asyncio.sleep(0)
    assert deferred.cancel()
    with pytest.raises(CancelledError):
        await deferred
    end.set()
    assert await lone.deferToThread(lambda: "next") == "next"


async def test_cancel_after_the_end(lone):
    """There is nothing to cancel any more."""
    deferred = lone.deferToThread(int)
    assert await deferred == 0
    assert not deferred.cancel()


async def test_cancel_in_the_moment_of_the_outcome(lone, make_pool):
    """A cancel between the outcome and its delivery wins, once."""
    deferred = lone.deferToThread(int)
    while lone.stats().unfinished:
        pass  # The outcome is on its way; the loop has no turn yet.
    assert deferred.cancel()
    with pytest.raises(CancelledError):
        await deferred
    assert await lone.deferToThread(int) == 0


# -- what a job may raise ----------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        SystemExit,
        KeyboardInterrupt,
        StopIteration,
        StopAsyncIteration,
        GeneratorExit,
        asyncio.CancelledError,
    ],
)
async def test_interrupting_exception_is_wrapped(lone, kind):
    """What would stop a loop, task or generator arrives as WorkerInterrupted, with the
    original as its cause, and the thread goes on.
    """
    original = kind("why")

    def work():
        raise original

    deferred = lone.deferToThread(work)
    with pytest.raises(WorkerInterrupted, match=f"{kind.__name__}: why") as caught:
        await deferred
    assert caught.value.__cause__ is original
    assert not deferred.cancelled()
    assert await lone.deferToThread(int) == 0
    assert lone.stats().most_workers == 1


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class UnprintableExit(SystemExit):
    __str__ = Unprintable.__str__
    __repr__ = Unprintable.__str__


async def test_unprintable_exception_comes_home(lone):
    """An exception that cannot be printed is delivered like any other."""

    def work():
        raise Unprintable

    with pytest.raises(Unprintable):
        await lone.deferToThread(work)


async def test_unprintable_interrupt_comes_home(lone):
    """The wrapper's text does without the original's where there is none."""

    def work():
        raise UnprintableExit

    with pytest.raises(WorkerInterrupted, match="UnprintableExit"):
        await lone.deferToThread(work)
    assert await lone.deferToThread(int) == 0
    assert lone.stats().most_workers == 1


async def test_failing_callback_does_not_stop_the_pass(lone, expect_errors):
    """A callback that raises keeps no other outcome from its Deferred."""
    first = lone.deferToThread(int).addCallback(lambda _: 1 / 0)
    assert await lone.deferToThread(lambda: "second") == "second"
    assert isinstance(first.exception(), ZeroDivisionError)


def test_ctrl_c_in_a_callback_stops_the_loop_only(pool):
    """KeyboardInterrupt in a callback leaves the loop; nobody else is lost."""

    def interrupt(_):
        raise KeyboardInterrupt

    async def main():
        jobs.extend(pool.deferToThread(lambda n=n: n) for n in range(10))
        jobs[4].addCallback(interrupt)
        await asyncio.wait(jobs)

    jobs = []
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    loop.run_until_complete(asyncio.wait_for(task, WAIT))
    found = [job.exception() or job.result() for job in jobs]
    assert isinstance(found.pop(4), KeyboardInterrupt)
    assert found == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


# -- without a Deferred ------------------------------------------------------------


def test_call_in_thread_works_anywhere(pool):
    """`callInThread` needs no loop."""
    seen, done = [], threading.Event()

    def work(*args, **kwargs):
        seen.append((args, kwargs))
        done.set()

    pool.callInThread(work, 1, two=2)
    assert done.wait(WAIT)
    assert seen == [((1,), {"two": 2})]


@pytest.mark.parametrize("kind", [KeyError, SystemExit, Unprintable])
def test_failing_call_in_thread_is_logged(lone, expect_errors, kind):
    """What the function raises is logged, and the thread goes on."""

    def work():
        raise kind

    done = threading.Event()
    lone.callInThread(work)
    lone.callInThread(done.set)
    assert done.wait(WAIT)
    (record,) = expect_errors
    assert "work" in record.getMessage()
    assert record.exc_info[0] is kind
    assert lone.stats().most_workers == 1


def test_callback_in_the_same_thread(lone):
    """`callInThreadWithCallback` tells how it went, in the worker's thread."""
    seen, done = [], threading.Event()

    def note(succeeded, result):
        seen.append((succeeded, result, threading.get_ident()))

    lone.callInThreadWithCallback(note, lambda a, b: (a, b), 1, b=2)
    lone.callInThreadWithCallback(note, lambda: 1 / 0)
    lone.callInThreadWithCallback(None, int)
    lone.callInThreadWithCallback(None, lambda: 1 / 0)
    lone.callInThread(lambda: seen.append(threading.get_ident()) or done.set())
    assert done.wait(WAIT)
    there = seen[-1]
    assert seen[0] == (True, (1, 2), there)
    assert seen[1][0] is False
    assert seen[1][1].check(ZeroDivisionError)


def test_failing_callback_in_the_thread_is_logged(lone, expect_errors):
    """What `on_result` raises is logged."""
    done = threading.Event()

    def broken(succeeded, result):
        raise KeyError("x")

    lone.callInThreadWithCallback(broken, int)
    lone.callInThread(done.set)
    assert done.wait(WAIT)
    (record,) = expect_errors
    assert record.exc_info[0] is KeyError


def test_many_threads_submit(make_pool):
    """Nothing is lost and nothing runs twice when many threads submit at once."""
    pool = make_pool(0, 4, backlog=None)
    each, submitters = 5_000, 4
    start = threading.Barrier(submitters)
    ran = [[] for _ in range(submitters)]

    def submit(me):
        start.wait(WAIT)
        for number in range(each):
            pool.callInThread(ran[me].append, number)

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(submitters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.stop()
    assert [sorted(numbers) for numbers in ran] == [list(range(each))] * submitters
    stats = pool.stats()
    assert stats.submitted == stats.finished == each * submitters
    assert stats.most_workers <= 4


# -- where there is no loop --------------------------------------------------------


def test_defer_needs_a_loop(pool):
    """Methods that return a Deferred raise WrongThread where no loop runs."""
    for ask in (lambda: pool.deferToThread(int), pool.close):
        with pytest.raises(WrongThread, match="from another thread, use"):
            ask()
    assert pool.stats().submitted == 0


async def test_defer_from_a_worker_is_the_wrong_thread(pool):
    """The same inside a job: its thread has no loop."""
    with pytest.raises(WrongThread, match="No event loop runs"):
        await pool.deferToThread(pool.deferToThread, int)


# -- the end -----------------------------------------------------------------------


async def test_close_finishes_what_was_taken(make_pool):
    """`close` refuses new work at once, finishes the old, and then fires."""
    pool = make_pool(0, 1)
    end = block(pool, make_pool)
    waiting = [pool.deferToThread(lambda n=n: n) for n in range(5)]
    closed = pool.close()
    with pytest.raises(PoolClosed, match="test is closed"):
        await pool.deferToThread(int)
    with pytest.raises(PoolClosed):
        pool.callInThread(int)
    assert not closed.called
    end.set()
    assert await closed is None
    assert [job.result() for job in waiting] == list(range(5))
    assert pool.stats().workers == 0


async def test_closing_twice(make_pool):
    """A second `close`, also from another task, fires, too."""
    pool = make_pool(0, 1)
    end = block(pool, make_pool)

    async def close():
        await pool.close()

    first, second = asyncio.create_task(close()), asyncio.create_task(close())
    await asyncio.sleep(0)
    end.set()
    await asyncio.gather(first, second)
    await pool.close()


async def test_closing_an_idle_pool(make_pool):
    """A pool whose threads are all parked closes."""
    pool = make_pool(2, 2)
    await pool.deferToThread(int)
    await pool.close()
    assert pool.stats().workers == 0


async def test_closing_a_pool_that_was_never_used(make_pool):
    """Nothing has to end: `close` fires."""
    await make_pool().close()
    await make_pool(start=False).close()


async def test_work_before_start_runs_after_it(make_pool):
    """Work submitted before `start` waits for it."""
    pool = make_pool(start=False)
    deferred = pool.deferToThread(lambda: "ran")
    assert "not started" in repr(pool)
    assert not deferred.called
    pool.start()
    assert await deferred == "ran"


async def test_pool_closed_before_it_started(make_pool):
    """What waits in a pool that never started fails with PoolClosed at its close."""
    pool = make_pool(start=False)
    deferred = pool.deferToThread(int)
    await pool.close()
    assert deferred.called, "it would wait for ever"
    with pytest.raises(PoolClosed):
        await deferred


async def test_pool_stopped_before_it_started(make_pool):
    """The same with `stop`."""
    pool = make_pool(start=False)
    deferred = pool.deferToThread(int)
    pool.stop()
    async with asyncio.timeout(WAIT):
        with pytest.raises(PoolClosed):
            await asyncio.shield(deferred)


def test_stop_waits_for_all_work(make_pool):
    """`stop` returns when all work is done and all threads have ended."""
    pool = make_pool(0, 2)
    seen = []
    for number in range(1000):
        pool.callInThread(seen.append, number)
    pool.stop()
    assert sorted(seen) == list(range(1000))
    assert pool._crew.threads() == []
    assert repr(pool) == "<ThreadPool <Team test closed, 0 busy, 0 idle, 0 waiting>>"
    pool.stop()


def test_stop_waits_for_a_thread_that_comes_late(make_pool):
    """A thread that was hired while `stop` was looking is waited for, too."""
    pool = make_pool(0, 2)
    end = block(pool, make_pool)
    (first,) = pool._crew.threads()
    real_close = pool._team.close
    seen = []

    def late():
        first.join(WAIT)
        seen.append("late")

    def close(when_gone):
        pool.callInThread(late)  # Comes in at the last moment, hires a thread.
        end.set()
        real_close(when_gone)

    pool._team.close = close
    pool.stop()
    del pool._team.close
    assert seen == ["late"]
    assert pool._crew.threads() == []


def test_stop_from_its_own_thread_is_refused(lone):
    """A job that stops its own pool would wait for itself: it is told."""
    seen = []
    lone.callInThreadWithCallback(lambda *result: seen.append(result), lone.stop)
    lone.stop()
    ((succeeded, failure),) = seen
    assert not succeeded
    assert failure.check(WrongThread)
    assert "use close()" in failure.getErrorMessage()


async def test_thread_start_failure_errbacks(make_pool, monkeypatch):
    """No thread can be started: the Deferred says so, and the pool is usable later."""
    pool = make_pool()

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        deferred = pool.deferToThread(int)
        with pytest.raises(RuntimeError, match="can't start"):
            deferred.result()
    assert pool._crew.threads() == []
    assert await pool.deferToThread(int) == 0


async def test_forgotten_pool_is_no_error(make_pool):
    """A pool with work in flight that nobody refers to finishes that work."""
    pool = ThreadPool(0, 1, "forgotten", idle_seconds=0.01)
    pool.start()
    deferred = pool.deferToThread(lambda: "done")
    (thread,) = pool._crew.threads()
    del pool
    gc.collect()
    assert await deferred == "done"
    thread.join(WAIT)
    assert not thread.is_alive()


def test_pool_turns_threads_on(pool):
    """Starting a pool decides the switch, and a running pool is known to it."""
    assert threadable._switch.threads_on()
    assert pool in threadable._switch._pools
    pool.stop()
    assert pool not in threadable._switch._pools


def test_workers_break_loudly(make_pool, expect_errors, caplog):
    """A fault of the worker itself is logged; the pool gets a new thread."""
    pool = make_pool(0, 1)
    done = threading.Event()

    real = pool._team._pull

    def broken(worker, now):
        count = len(worker.ran)
        took = real(worker, now)
        if count:
            del pool._team._pull
            raise MemoryError("in the worker's own code")
        return took

    pool._team._pull = broken
    pool.callInThread(int)
    pause = threading.Event()
    while pool.stats().workers:
        pause.wait(0.001)
    pool.callInThread(done.set)
    assert done.wait(WAIT)
    (record,) = expect_errors
    assert record.levelno == logging.CRITICAL
    assert record.exc_info[0] is MemoryError


async def test_worker_that_breaks_delivers_what_it_has(make_pool, expect_errors):
    """A fault of the worker itself costs no outcome, and no await hangs.

    The job that was done has its value; the one it had only taken is done by another.
    """
    pool = make_pool(0, 1, start=False)
    real = pool._team._pull

    def broken(worker, now):
        count = len(worker.ran)
        took = real(worker, now)
        if count:
            del pool._team._pull
            assert worker.taken
            raise MemoryError("in the worker's own code")
        return took

    pool._team._pull = broken
    done, taken = pool.deferToThread(lambda: "done"), pool.deferToThread(int)
    pool.start()
    assert await done == "done"
    assert await taken == 0
    assert await pool.deferToThread(lambda: "next") == "next"
    assert pool.stats().unfinished == 0
    assert [record.exc_info[0] for record in expect_errors] == [MemoryError]
