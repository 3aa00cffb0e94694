"""trio under the bridge."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial

import pytest
import trio
import trio.testing

from enterprise import ConnectionPool
from tests.threadpool.loops.helpers import ENDLESS, Told, loops_made, make_table
from threadpool import _future, home
from threadpool.defer import LATER, Deferred, ensureDeferred, inlineCallbacks
from threadpool.error import LoopClosed, WrongThread
from threadpool.failure import Failure
from threadpool.loops import trio as adapter
from threadpool.pool import ThreadPool


def run(main):
    """Run *main* under trio, with the adapter installed; return what it returns."""

    async def installed():
        adapter.install()
        return await main()

    return trio.run(installed)


def teller(event):
    """Return a `cp_openfun` by which SQL sets a trio event."""
    token = trio.lowlevel.current_trio_token()
    return Told(lambda: token.run_sync_soon(event.set))


class Awaiting:
    """A task that awaits *deferred* inside a cancel scope, and what came of it."""

    def __init__(self, deferred):
        self.deferred = deferred
        self.scope = trio.CancelScope()
        self.got = []
        self.seen = trio.Event()

    async def run(self):
        with self.scope:
            try:
                self.got.append(await self.deferred)
            except BaseException as error:
                self.got.append(type(error))
                raise
            finally:
                self.seen.set()
            await trio.lowlevel.checkpoint()
            self.got.append("went on")


async def cancelled(nursery, deferred):
    """Return a task that awaits *deferred*, after its scope was cancelled."""
    task = Awaiting(deferred)
    nursery.start_soon(task.run)
    await trio.testing.wait_all_tasks_blocked()
    task.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    return task


# -- a pool ------------------------------------------------------------------------


def test_pool_needs_no_asyncio(url, no_asyncio):
    """Queries, an interaction, a cancel and the end of a pool need no asyncio loop."""

    async def main():
        started = trio.Event()
        async with ConnectionPool(url, cp_max=2, cp_openfun=teller(started)) as pool:
            assert await pool.runInteraction(make_table) == 3
            assert await pool.runQuery("select name from item where id = ?", (2,)) == [
                ("saw",)
            ]
            endless = pool.runQuery(ENDLESS)
            await started.wait()
            endless.cancel()
            with pytest.raises(asyncio.CancelledError):
                await endless
        assert pool.stats().connections == 0

    run(main)


def test_timeout_stops_the_statement(url, no_asyncio):
    """`trio.move_on_after` stops a statement where it runs; its connection goes on."""

    async def main():
        started = trio.Event()
        pool = ConnectionPool(url, cp_max=1, cp_openfun=teller(started))

        async def when_started(scope):
            await started.wait()
            scope.deadline = trio.current_time()

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(1000) as scope:
                nursery.start_soon(when_started, scope)
                await pool.runQuery(ENDLESS)
        assert scope.cancelled_caught
        assert await pool.runQuery("select 1") == [(1,)]
        assert pool.stats().opened == 1
        await pool.close()

    run(main)


def test_commit_that_met_a_timeout_is_told(url):
    """An interaction that a cancel meets too late gives its value, then the cancel."""

    async def main():
        async with ConnectionPool(url, cp_max=1) as pool:
            await pool.runInteraction(make_table)
            token = trio.lowlevel.current_trio_token()
            scope = trio.CancelScope()
            answers = []

            def work(txn):
                txn.execute("delete from item")
                # The cancel comes while Python code runs, after the last statement.
                trio.from_thread.run_sync(scope.cancel, trio_token=token)
                return "deleted"

            with scope:
                answers.append(await pool.runInteraction(work))
                await trio.lowlevel.checkpoint()
                answers.append("went on")
            rows = await pool.runQuery("select count(*) from item")
            return answers, rows, scope.cancelled_caught

    # Either it was committed and told, or neither; never one of the two.
    answers, rows, caught = run(main)
    assert caught
    assert (answers, rows) in [(["deleted"], [(0,)]), ([], [(3,)])]


def test_ctrl_c_stops_the_statement(url):
    """Ctrl-C in the main task stops the statement it awaits, and surfaces there."""

    async def main():
        adapter.install()
        told = Told(lambda: os.kill(os.getpid(), signal.SIGINT))
        pool = ConnectionPool(url, cp_max=1, cp_openfun=told)
        try:
            await pool.runQuery(ENDLESS)
        finally:
            with trio.CancelScope(shield=True):
                assert await pool.runQuery("select 1") == [(1,)]
                await pool.close()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


# -- await -------------------------------------------------------------------------


def test_await_gives_what_it_gives():
    """A task awaits a Deferred's value, its failure, and one that fired before."""

    async def main():
        home_ = home.here()
        late = Deferred()
        home_.later(0, partial(late.callback, "late"))
        assert await late == "late"
        assert await late == "late"
        wrong = Deferred()
        home_.later(0, partial(wrong.errback, ValueError("wrong")))
        with pytest.raises(ValueError, match="wrong"):
            await wrong

    run(main)


def test_two_tasks_await_one():
    """Two tasks that await one Deferred both get its value."""

    async def main():
        one = Deferred()
        tasks = [Awaiting(one), Awaiting(one)]
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task.run)
            await trio.testing.wait_all_tasks_blocked()
            one.callback(7)
        assert [task.got for task in tasks] == [[7, "went on"]] * 2

    run(main)


def test_waiter_that_finds_the_chain_going_again_waits_on():
    """A task woken after another has set the chain going again waits for its end."""

    async def main():
        one, inner = Deferred(), Deferred()
        task = Awaiting(one)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task.run)
            await trio.testing.wait_all_tasks_blocked()
            one.callback("first")
            one.addCallback(lambda _: inner)
            await trio.testing.wait_all_tasks_blocked()
            assert task.got == []
            inner.callback("second")
        assert task.got == ["second", "went on"]

    run(main)


def test_cancel_answered_at_once():
    """A Deferred that is cancelled at once ends the await with trio's Cancelled."""

    async def main():
        one = Deferred()
        async with trio.open_nursery() as nursery:
            task = await cancelled(nursery, one)
        assert task.got == [trio.Cancelled]
        assert task.scope.cancelled_caught
        assert one.cancelled()

    run(main)


def test_cancel_answered_later():
    """Until what was stopped has confirmed, the task waits; then it is cancelled."""

    async def main():
        one = Deferred(lambda _: LATER)
        async with trio.open_nursery() as nursery:
            task = await cancelled(nursery, one)
            assert task.got == []
            one.errback(asyncio.CancelledError())
        assert task.got == [trio.Cancelled]
        assert task.scope.cancelled_caught

    run(main)


def test_late_value_is_delivered():
    """Work that was done all the same is told; trio cancels at the next checkpoint."""

    async def main():
        one = Deferred(lambda _: LATER)
        async with trio.open_nursery() as nursery:
            task = await cancelled(nursery, one)
            one.callback("committed")
        assert task.got == ["committed"]
        assert task.scope.cancelled_caught

    run(main)


def test_saved_value_is_delivered():
    """What a canceller, or an errback, saved at once is not lost."""

    async def main():
        async with trio.open_nursery() as nursery:
            one = await cancelled(nursery, Deferred(lambda d: d.callback("saved")))
            rescued = Deferred().addErrback(lambda _: "rescued")
            two = await cancelled(nursery, rescued)
        assert (one.got, two.got) == (["saved"], ["rescued"])
        assert one.scope.cancelled_caught

    run(main)


def test_cleaning_up_is_waited_for():
    """An errback that cleans up with another Deferred is waited for."""

    async def main():
        cleaned = Deferred()
        one = Deferred().addErrback(
            lambda failure: cleaned.addCallback(lambda _: failure)
        )
        async with trio.open_nursery() as nursery:
            task = await cancelled(nursery, one)
            assert task.got == []
            cleaned.callback(None)
        assert task.got == [trio.Cancelled]

    run(main)


def test_paused_chain_does_not_hold_a_scope():
    """Where nobody can take the cancel, the task leaves and is not woken later."""

    async def main():
        one = Deferred()
        one.pause()
        one.callback(1)
        async with trio.open_nursery() as nursery:
            task = await cancelled(nursery, one)
            one.unpause()
        assert task.got == [trio.Cancelled]
        assert one.result() == 1

    run(main)


def test_cancelled_by_somebody_else():
    """A Deferred that others cancelled raises what errbacks get: asyncio's error."""

    async def main():
        one = Deferred()
        home.here().later(0, one.cancel)
        with pytest.raises(asyncio.CancelledError):
            await one

    run(main)


def test_our_own_coroutines():
    """`ensureDeferred` and `inlineCallbacks` work inside a task; so does a cancel."""

    async def main():
        first, second, third = Deferred(), Deferred(), Deferred()

        async def coroutine():
            return await first + await second

        @inlineCallbacks
        def generator():
            got = yield first
            more = yield from second
            return got * more

        waiting = ensureDeferred(coroutine()), generator()

        async def stopped():
            await third

        with trio.CancelScope() as scope:
            home.here().later(0, partial(first.callback, 3))
            home.here().later(0.001, partial(second.callback, 4))
            assert [await each for each in waiting] == [7, 12]
            home.here().later(0, scope.cancel)
            await ensureDeferred(stopped())
        assert scope.cancelled_caught
        assert third.cancelled()

    run(main)


def test_asyncio_inside_a_task():
    """While asyncio runs inside a trio task, its tasks await Deferreds as ever."""
    pool = ThreadPool(0, 1, "test")
    pool.start()

    async def inner():
        return await pool.deferToThread(pow, 2, 10)

    async def main():
        with loops_made() as made:
            assert asyncio.run(inner()) == 1024
        assert made
        return await pool.deferToThread(pow, 2, 3)

    assert run(main) == 8
    pool.stop()


# -- timers ------------------------------------------------------------------------


def test_timers_in_order():
    """`later` calls in the order of time, and what was called off never."""

    async def main():
        seen, over = [], trio.Event()
        later = home.here().later
        later(0.02, partial(seen.append, "second"))
        later(0.01, partial(seen.append, "first"))
        later(0.03, over.set)
        later(0, partial(seen.append, "never")).cancel()
        await over.wait()
        return seen

    assert run(main) == ["first", "second"]


def test_timer_that_is_due_can_be_called_off():
    """A call that is due and not made yet is not made once it was called off."""

    async def main():
        seen = []
        later = home.here().later
        timers = []

        def first():
            seen.append("one")
            for timer in timers:
                timer.cancel()

        # Both are due in the same turn; which one comes first is trio's choice.
        timers += [later(0, first), later(0, first)]
        await trio.sleep(0.02)
        await trio.testing.wait_all_tasks_blocked()
        return seen

    assert run(main) == ["one"]


def test_timer_that_fails_is_logged(expect_errors):
    """What a delayed call raises is logged, and trio goes on."""

    async def main():
        over = trio.Event()
        home.here().later(0, lambda: 1 / 0)
        home.here().later(0.001, over.set)
        await over.wait()

    run(main)
    (record,) = expect_errors
    assert record.exc_info[0] is ZeroDivisionError


# -- the end -----------------------------------------------------------------------


def test_end_waits_for_farewells():
    """A farewell may use timers and await; the run ends after it, and not before."""
    seen = []

    async def main():
        events = home.here()

        async def farewell():
            pause = Deferred()
            events.later(0.01, partial(pause.callback, None))
            await pause
            seen.append(events.closed)

        events.farewells.append(lambda: ensureDeferred(farewell()))
        return events

    events = run(main)
    assert seen == [False]
    assert events.closed


def test_nothing_is_left_behind():
    """After the run its thread is free, and what is put or posted there refused."""

    async def main():
        return home.here(), trio.lowlevel.current_trio_token()

    events, _ = run(main)
    assert events.thread not in _future.awaiters
    with pytest.raises(WrongThread):
        home.here()
    with pytest.raises(LoopClosed):
        events.put(object())
    with pytest.raises(RuntimeError):
        events._post(print)
    run(main)


def test_pending_jobs_learn_of_the_end():
    """What is pending when the main task ends fails with LoopClosed."""
    failures = []

    async def main():
        pool = ThreadPool(0, 1, "test")  # Not started: its jobs wait.
        pool.deferToThread(print).addErrback(failures.append)
        return pool

    pool = run(main)
    assert [failure.check(LoopClosed) for failure in failures] == [LoopClosed]
    pool.dismiss()


def test_timers_do_not_hold_the_end():
    """A delayed call that lies far ahead does not keep trio from ending."""

    async def main():
        home.here().later(1000, print)

    run(main)


def test_end_of_a_failed_run():
    """A main task that fails ends the queue, too."""
    queues = []

    async def main():
        queues.append(home.here())
        raise ValueError

    with pytest.raises(ValueError):
        run(main)
    assert queues[0].closed
    assert not _future.awaiters


def test_install_needs_trio():
    """Outside `trio.run`, and a second time in it, install says what is wrong."""

    async def main():
        with pytest.raises(RuntimeError, match="close that queue first"):
            adapter.install()

    run(main)
    with pytest.raises(RuntimeError, match="top of trio's main task"):
        adapter.install()


def test_loop_says_what_it_is():
    """The adapter's repr is one truthful line."""

    async def main():
        loop = adapter._Trio()
        handle = loop.later(1000, print)
        text = repr(loop)
        handle.cancel()
        await trio.testing.wait_all_tasks_blocked()
        return text, repr(loop)

    busy, free = run(main)
    assert busy.endswith("1 timers>")
    assert free.endswith("0 timers>")


def test_failure_keeps_its_traceback():
    """A failure raised in a task shows where it was raised first."""

    def broken():
        raise KeyError("here")

    async def main():
        one = Deferred()

        def fire():
            try:
                broken()
            except KeyError:
                one.errback(Failure())

        home.here().later(0, fire)
        try:
            await one
        except KeyError as error:
            return Failure(error).getTraceback()

    assert "in broken" in run(main)
