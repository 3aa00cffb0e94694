"""ThreadPool, line by line of the old API's behaviours (TP1 to TP14).

What `test_pool` shows already is not shown again.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import subprocess
import sys
import threading
import weakref

import pytest

from tests.threadpool.test_pool import WAIT, Thing, block, dropped, make_pool
from threadable import _switch
from threadpool import roster
from threadpool.crew import currentTeam
from threadpool.error import PoolClosed, PoolFull
from threadpool.pool import ThreadPool

__all__ = ["make_pool"]


def until(condition):
    """Wait for what another thread is about to do."""
    pause = threading.Event()
    for _ in range(int(WAIT / 0.001)):
        if condition():
            return
        pause.wait(0.001)
    pytest.fail(f"It did not happen within {WAIT} s")


def call(pool, function, *args):
    """Call *function* in a thread of *pool* and wait for what it returns."""
    outcome, done = [], threading.Event()

    def note(succeeded, result):
        outcome.append(result)
        done.set()

    pool.callInThreadWithCallback(note, function, *args)
    assert done.wait(WAIT)
    return outcome[0]


# -- TP1, TP2, TP3: threads, bounds, start -------------------------------------------


def test_threads_are_reused(make_pool):
    """Work goes to the thread that rests, and no second one is made for it."""
    pool = make_pool(0, 5)
    idents = set()
    for _ in range(100):
        idents.add(call(pool, threading.get_ident))
        until(lambda: pool.stats().idle)
    assert len(idents) == pool.stats().most_workers == 1


def test_new_pool_has_the_old_figures():
    """Five to twenty threads, a name, and nothing started, unless one says so."""
    pool = ThreadPool()
    assert (pool.min, pool.max, pool.name) == (5, 20, "ThreadPool")
    assert (pool.started, pool.joined) == (False, False)
    assert (pool.threads, pool.waiters, pool.working, pool.workers) == ([], [], [], 0)


def test_started_and_joined_tell_its_state(make_pool):
    """`started` from start to stop, `joined` from the last thread's end to start."""
    pool = make_pool(1, 2)
    assert (pool.started, pool.joined) == (True, False)
    end = block(pool, make_pool)
    pool.dismiss()
    assert (pool.started, pool.joined) == (False, False)
    end.set()
    pool.stop()
    assert (pool.started, pool.joined) == (False, True)
    pool.start()
    assert (pool.started, pool.joined) == (True, False)


def test_each_job_that_waits_for_the_start_gets_a_thread(make_pool):
    """As many threads as jobs wait come with the start, the maximum allowing."""
    pool = make_pool(1, 4, start=False)
    every = threading.Barrier(5)
    for _ in range(4):
        pool.callInThread(every.wait, WAIT)
    assert pool.threads == []
    pool.start()
    every.wait(WAIT)
    assert pool.stats().most_workers == 4


def test_minimum_is_enough_for_as_many_jobs(make_pool):
    """Jobs that come while the minimum's threads are starting make no more of them."""
    pool = make_pool(3, 10, start=False)
    for _ in range(3):
        pool.callInThread(int)
    pool.start()
    assert pool.stats().most_workers == 3


# -- TP4, TP6: nothing is kept -------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_arguments_are_free_before_the_callback(make_pool, fails):
    """While `on_result` runs, neither the function nor its arguments are kept."""

    class Function:
        def __call__(self, argument, keyword):
            mine.wait(WAIT)
            if fails:
                raise KeyError

    function, argument, keyword = Function(), Thing(), Thing()
    references = [weakref.ref(o) for o in (function, argument, keyword)]
    alive, mine, done = [], threading.Event(), threading.Event()

    def note(succeeded, result):
        if not succeeded:
            result.cleanFailure()  # Its traceback shows them to whoever asks.
        alive.extend(reference() for reference in references)
        done.set()

    pool = make_pool(0, 1)
    gc.collect()
    gc.disable()
    try:
        pool.callInThreadWithCallback(note, function, argument, keyword=keyword)
        del function, argument, keyword
        mine.set()  # Nobody has them now but the pool.
        assert done.wait(WAIT)
    finally:
        gc.enable()
    assert alive == [None, None, None]


async def test_result_is_not_kept_by_the_next_job(make_pool):
    """A thread that is long in its next job keeps nothing of the one before."""
    pool = make_pool(0, 1, start=False)
    end = make_pool.event()
    argument = Thing()
    first = pool.deferToThread(lambda _: Thing(), argument)
    pool.callInThread(end.wait, WAIT)
    references = [weakref.ref(argument)]
    del argument
    pool.start()
    references.append(weakref.ref(await first))
    del first
    await dropped(*references)
    assert not end.is_set()


# -- TP5: a queued job always gets a thread ------------------------------------------


def test_jobs_find_threads_that_are_leaving_all_the_time(make_pool):
    """Threads that end the moment they rest leave no job behind.

    Each pair of jobs needs two threads at once, while those before are on their way
    out.
    """
    pool = make_pool(0, 2, idle_seconds=0.0)
    for _ in range(300):
        both = threading.Barrier(3)
        pool.callInThread(both.wait, WAIT)
        pool.callInThread(both.wait, WAIT)
        both.wait(WAIT)
    pool.stop()
    assert pool.stats().finished == 600


def test_job_that_comes_while_a_thread_starts_gets_its_own(make_pool, monkeypatch):
    """A job submitted in the moment of another thread's start is not forgotten."""
    pool = make_pool(0, 3)
    start = threading.Thread.start
    every = threading.Barrier(4)
    submitted = []

    def start_with_company(thread):
        if not submitted:
            submitted.extend(pool.callInThread(every.wait, WAIT) for _ in range(2))
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_with_company)
    pool.callInThread(every.wait, WAIT)
    every.wait(WAIT)
    assert pool.stats().most_workers == 3


# -- TP7, TP13: stop and start again -------------------------------------------------


def test_stopped_pool_starts_again(make_pool):
    """After `stop` comes `start`, and all is as it was, as often as one likes."""
    pool = make_pool(2, 3)
    for _ in range(3):
        pool.start()
        assert pool.workers == 2
        assert pool in _switch._pools
        assert call(pool, pow, 2, 3) == 8
        pool.stop()
        assert (pool.workers, pool.threads) == (0, [])
        assert pool not in _switch._pools
    assert pool.stats().finished == 3


async def test_closed_pool_starts_again(make_pool):
    """The same after a `close` that has fired."""
    pool = make_pool(0, 1)
    for number in range(3):
        pool.start()
        assert await pool.deferToThread(pow, number, 2) == number**2
        await pool.close()
        assert pool.joined


async def test_pool_stopped_before_its_start_starts_later(make_pool):
    """A pool that was stopped before it ever started is none the worse for it."""
    pool = make_pool(1, 1, start=False)
    pool.stop()
    pool.start()
    assert await pool.deferToThread(pow, 2, 3) == 8


async def test_later_stops_are_ignored(make_pool):
    """`stop` and `close` of a stopped pool do nothing, and return at once."""
    pool = make_pool(1, 1)
    for _ in range(3):
        pool.stop()
        pool.dismiss()
        await pool.close()
    assert pool.stats().most_workers == 1


async def test_start_during_a_close_is_refused(make_pool):
    """While old work is being finished the pool does not start; it says what to do."""
    pool = make_pool(0, 1)
    end = block(pool, make_pool)
    closed = pool.close()
    with pytest.raises(PoolClosed) as caught:
        pool.start()
    for part in ("test is still closing", "1 of its jobs", "after stop() has returned"):
        assert part in str(caught.value)
    assert pool not in _switch._pools
    end.set()
    await closed
    pool.start()
    assert await pool.deferToThread(pow, 2, 3) == 8


async def test_work_between_stop_and_start_is_refused(make_pool):
    """A stopped pool drops nothing: Deferreds fail at once, the others raise."""
    pool = make_pool(0, 1)
    pool.stop()
    deferred = pool.deferToThread(int)
    assert deferred.called
    with pytest.raises(PoolClosed, match=r"test is closed.*start this one again"):
        await deferred
    for ask in (
        lambda: pool.callInThread(int),
        lambda: pool.callInThreadWithCallback(None, int),
    ):
        with pytest.raises(PoolClosed):
            ask()
    pool.start()
    await pool.deferToThread(int)
    assert pool.stats().submitted == 1


async def test_second_close_does_not_drop_what_the_first_one_finishes(make_pool):
    """Closing again while work is being finished takes none of it back."""
    pool = make_pool(0, 1)
    end = block(pool, make_pool)
    waiting = pool.deferToThread(lambda: "finished")
    both = [pool.close(), pool.close()]
    end.set()
    assert await waiting == "finished"
    await asyncio.gather(*both)


async def test_bounds_hold_after_a_restart(make_pool):
    """The bound on unfinished jobs is there again."""
    pool = make_pool(0, 1, backlog=1)
    pool.stop()
    pool.start()
    end = block(pool, make_pool)
    waiting = pool.deferToThread(int)
    with pytest.raises(PoolFull):
        await pool.deferToThread(int)
    end.set()
    await waiting


def test_stop_does_not_wait_for_a_restarted_pool(make_pool):
    """`stop` returns when the old threads have ended, whoever starts new ones."""
    pool = make_pool(1, 1)
    end = make_pool.event()
    close = pool._team.close

    def close_and_restart(when_gone):
        def restart():
            when_gone()
            del pool._team.close
            pool.start()
            pool.callInThread(end.wait, WAIT)

        close(restart)

    pool._team.close = close_and_restart
    pool.stop()
    assert not end.is_set()
    assert pool.started
    end.set()


def test_restart_in_the_next_loop(make_pool):
    """A pool closed in one event loop serves the next one after a start."""
    pool = make_pool(0, 2, start=False)

    async def main(number):
        pool.start()
        value = await pool.deferToThread(pow, number, 2)
        await pool.close()
        return value

    assert [asyncio.run(main(number)) for number in range(3)] == [0, 1, 4]


# -- TP8, TP12: how many threads -----------------------------------------------------


def test_bounds_of_a_stopped_pool_have_no_effect_on_threads(make_pool):
    """`adjustPoolsize` makes no thread before the start nor after the stop."""
    pool = make_pool(0, 1, start=False)
    pool.adjustPoolsize(2, 4)
    pool.startAWorker()
    assert pool.workers == 0
    pool.start()
    assert pool.workers == 2
    pool.stop()
    pool.adjustPoolsize(3, 4)
    pool.startAWorker()
    pool.stopAWorker()
    assert (pool.workers, pool.min, pool.max) == (0, 3, 4)
    pool.start()
    assert pool.workers == 3


def test_shrunk_threads_are_gone(make_pool):
    """Threads above a lowered maximum end, and are listed no longer."""
    pool = make_pool(0, 8)
    every = threading.Barrier(9)
    for _ in range(8):
        pool.callInThread(every.wait, WAIT)
    every.wait(WAIT)
    before = pool.threads
    assert len(before) == 8
    pool.adjustPoolsize(maxthreads=1)
    until(lambda: len(pool.threads) == 1)
    (survivor,) = pool.threads
    for thread in before:
        if thread is not survivor:
            thread.join(WAIT)
    assert [thread.is_alive() for thread in before].count(True) == 1
    assert call(pool, threading.current_thread) is survivor


def test_a_worker_can_be_started_by_hand(make_pool):
    """`startAWorker` makes one more thread, up to the maximum."""
    pool = make_pool(0, 2)
    for count in (1, 2, 2):
        pool.startAWorker()
        assert pool.workers == count
    until(lambda: len(pool.waiters) == 2)


def test_an_idle_worker_can_be_stopped_by_hand(make_pool):
    """`stopAWorker` ends one thread that rests, also below the minimum."""
    pool = make_pool(2, 2)
    until(lambda: len(pool.waiters) == 2)
    pool.stopAWorker()
    until(lambda: len(pool.threads) == 1)
    assert pool.workers == 1
    pool.adjustPoolsize(minthreads=2)
    assert pool.workers == 2


def test_a_busy_worker_is_stopped_when_it_has_nothing_to_do(make_pool):
    """Where all are busy, the next thread that finds nothing to do ends."""
    pool = make_pool(1, 1)
    end = block(pool, make_pool)
    (thread,) = pool.threads
    pool.stopAWorker()
    ran = threading.Event()
    pool.callInThread(ran.set)
    end.set()
    assert ran.wait(WAIT)
    thread.join(WAIT)
    assert not thread.is_alive()
    assert call(pool, pow, 2, 3) == 8


# -- TP9: figures and pickles --------------------------------------------------------


def test_threads_are_listed_by_what_they_do(make_pool):
    """`threads` are all, `waiters` those that rest, `working` those that work."""
    pool = make_pool(2, 2)
    end = block(pool, make_pool)
    until(lambda: len(pool.waiters) == 1)
    (working,), (waiter,) = pool.working, pool.waiters
    assert {working, waiter} == set(pool.threads)
    assert working is not waiter
    assert pool.workers == 2
    assert all(thread.is_alive() for thread in pool.threads)
    end.set()
    until(lambda: len(pool.waiters) == 2)
    assert pool.working == []


def test_dumped_figures_are_logged(make_pool, caplog):
    """`dumpStats` logs all figures, with the pool's name, at INFO."""
    pool = make_pool(0, 2)
    call(pool, int)
    until(lambda: pool.stats().idle)
    with caplog.at_level(logging.INFO, "threadpool.pool"):
        pool.dumpStats()
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.name == "threadpool.pool"
    assert record.getMessage().startswith("test: TeamStats(workers=1, busy=0, idle=1")


class Special(ThreadPool):
    """Somebody's own kind of pool."""


@pytest.mark.parametrize("kind", [ThreadPool, Special])
@pytest.mark.parametrize("again", [lambda p: pickle.loads(pickle.dumps(p)), copy.copy])
def test_pool_pickles_as_its_settings(kind, again):
    """Bounds, name, backlog and patience come back, in a pool that is not started."""
    pool = kind(1, 3, "mine", backlog=7, idle_seconds=9.0)
    pool.start()
    pool.adjustPoolsize(2, 4)
    try:
        twin = again(pool)
    finally:
        pool.stop()
    assert type(twin) is kind
    assert (twin.min, twin.max, twin.name) == (2, 4, "mine")
    assert (twin._team.backlog, twin._team.idle_seconds) == (7, 9.0)
    assert (twin.started, twin.joined, twin.threads) == (False, False, [])
    twin.start()
    assert call(twin, pow, 2, 3) == 8
    twin.stop()


# -- TP11: the end of the process ----------------------------------------------------


def test_forgotten_stop_does_not_keep_the_process_alive():
    """A program that never stops its pool ends all the same, after what runs."""
    code = (
        "import threading\n"
        "from threadpool.pool import ThreadPool\n"
        "pool, begun = ThreadPool(2, 4), threading.Event()\n"
        "pool.start()\n"
        "def work():\n"
        "    begun.set()\n"
        "    threading.Event().wait(0.05)\n"
        "    print('finished')\n"
        "pool.callInThread(work)\n"
        "begun.wait()\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "finished\n", "")


# -- starvation ----------------------------------------------------------------------


def test_a_thread_knows_its_team(make_pool):
    """`currentTeam` is the team of a worker's thread, and None elsewhere."""
    pool = make_pool(0, 1)
    assert currentTeam() is None
    assert call(pool, currentTeam) is pool._team
    assert currentTeam() is None


def test_starving_pool_is_told_of(make_pool, monkeypatch, caplog):
    """A job that waits for another one of its full pool is named in a WARNING."""
    monkeypatch.setattr(roster, "STARVING_SECONDS", 0.01)
    pool = make_pool(0, 1)
    begun, answered = threading.Event(), make_pool.event()

    def work():
        team = currentTeam()
        team.blocked()
        begun.set()
        try:
            answered.wait(WAIT)
        finally:
            team.unblocked()

    pool.callInThread(work)
    assert begun.wait(WAIT)
    ran = threading.Event()
    pool.callInThread(ran.set)
    until(lambda: caplog.records)
    answered.set()
    assert ran.wait(WAIT)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "test starves: all its 1 workers" in record.getMessage()
    assert "1 job(s) wait" in record.getMessage()


# -- as a context --------------------------------------------------------------------


async def test_pool_is_open_in_a_with_block():
    """`async with` starts a pool, finishes what it was given, and closes it."""
    seen = []
    async with ThreadPool(0, 1, "mine") as pool:
        assert pool.started
        pool.callInThread(seen.append, 1)
    assert seen == [1]
    assert pool.joined
    with pytest.raises(KeyError):
        async with pool:  # And opens it once more.
            assert await pool.deferToThread(int, "7") == 7
            raise KeyError
    assert pool.joined
