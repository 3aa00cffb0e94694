"""Which loop runs here, and what happens when it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import threadable
from threadpool import home, loops
from threadpool.error import LoopClosed, WrongThread
from threadpool.pool import ThreadPool


@pytest.fixture
def pool():
    pool = ThreadPool(0, 2, "test")
    pool.start()
    yield pool
    pool.stop()


def records(caplog):
    return [r for r in caplog.records if r.levelno >= logging.WARNING]


# -- here --------------------------------------------------------------------------


def test_no_loop_is_the_wrong_thread():
    """Where no loop runs, the error names the way from another thread."""
    with pytest.raises(WrongThread, match="from another thread, use"):
        home.here()
    assert home.hereOrNone() is None


async def test_same_loop_same_queue():
    """One loop has one queue, and its thread is an I/O thread."""
    queue = home.here()
    assert home.here() is queue
    assert queue.loop is asyncio.get_running_loop()
    assert threadable.isInIOThread()


def test_queue_closes_with_its_loop():
    """asyncio.run closes the queue when everything else is over."""

    async def main():
        return home.here()

    queue = asyncio.run(main())
    assert queue.closed
    assert not threadable._switch._here.loops
    assert asyncio.run(main()) is not queue


def test_two_threads_two_queues():
    """Two loops in two threads at once have a queue each."""
    both = threading.Barrier(2)

    async def main():
        first = home.here()
        both.wait(timeout=30)
        assert home.here() is first
        both.wait(timeout=30)
        return first

    with ThreadPoolExecutor(2) as executor:
        jobs = [executor.submit(asyncio.run, main()) for _ in range(2)]
        first, second = [job.result() for job in jobs]
    assert first is not second


class HandTurned:
    """A loop that goes round when it is told to."""

    def __init__(self):
        self.posted = []

    def post(self, function):
        self.posted.append(function)

    def later(self, seconds, function):
        raise NotImplementedError

    def turn(self):
        while self.posted:
            self.posted.pop(0)()


def test_foreign_loop_is_installed():
    """A loop that is not asyncio's is installed, and gone when its queue is closed."""
    queue = loops.install(HandTurned())
    try:
        assert home.here() is queue
        assert threadable.isInIOThread()
    finally:
        queue.close()
    with pytest.raises(WrongThread, match=r"threadpool\.loops"):
        home.here()


def test_one_foreign_loop_in_a_thread():
    """A second loop in one thread is refused until the first has ended."""
    queue = loops.install(HandTurned())
    try:
        with pytest.raises(RuntimeError, match="close that queue first"):
            loops.install(HandTurned())
    finally:
        queue.close()
    loops.install(HandTurned()).close()


def test_asyncio_within_a_foreign_loop():
    """While an asyncio loop runs inside a callback of another loop, it is home."""
    queue = loops.install(HandTurned())
    try:

        async def main():
            return home.here()

        inner = asyncio.run(main())
        assert inner is not queue
        assert inner.closed
        assert home.here() is queue
    finally:
        queue.close()


def test_thread_is_io_thread_once_per_loop():
    """After every loop of a thread has ended, it is no I/O thread any more."""
    threadable.init()
    queue = loops.install(HandTurned())

    async def main():
        home.here()

    asyncio.run(main())
    assert threadable.isInIOThread()
    queue.close()
    assert not threadable.isInIOThread()


def test_loop_that_runs_twice_keeps_its_queue():
    """`run_until_complete` twice on one loop: one queue, closed at the end only."""

    async def main():
        return home.here()

    loop = asyncio.new_event_loop()
    queue = loop.run_until_complete(main())
    assert not queue.closed
    assert loop.run_until_complete(main()) is queue
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert queue.closed
    loop.close()


# -- successive and concurrent loops -----------------------------------------------


def test_successive_loops(pool):
    """One pool serves one asyncio.run after the other."""

    async def main(number):
        return await pool.deferToThread(pow, number, 2)

    assert [asyncio.run(main(number)) for number in range(5)] == [0, 1, 4, 9, 16]


def test_two_threads_with_a_loop_each(pool):
    """One pool serves two loops at once; every outcome goes to its own."""
    both = threading.Barrier(2)

    async def main():
        me = threading.get_ident()
        both.wait(timeout=30)
        for number in range(200):
            deferred = pool.deferToThread(lambda n=number: n)
            deferred.addCallback(lambda n: (n, threading.get_ident()))
            assert await deferred == (number, me)

    with ThreadPoolExecutor(2) as executor:
        for job in [executor.submit(asyncio.run, main()) for _ in range(2)]:
            job.result()


# -- the end with work in flight ---------------------------------------------------


def test_loop_that_ends_errbacks_what_is_pending(pool):
    """At the end of asyncio.run the running and the waiting fail with LoopClosed."""
    running, end = threading.Event(), threading.Event()
    outcomes = []

    def work():
        running.set()
        end.wait(timeout=30)
        return "late"

    async def main():
        for _ in range(5):
            pool.deferToThread(work).addBoth(outcomes.append)
        while not running.is_set():
            await asyncio.sleep(0)

    asyncio.run(main())
    assert [outcome.type for outcome in outcomes] == [LoopClosed] * 5
    assert "Await the job" in outcomes[0].getErrorMessage()
    end.set()


def test_waiting_jobs_of_an_ended_loop_are_never_begun(pool):
    """Nobody waits for them: they are taken back."""
    pool.adjustPoolsize(maxthreads=1)
    running, end, ran = threading.Event(), threading.Event(), []

    def work():
        running.set()
        end.wait(timeout=30)

    async def main():
        pool.deferToThread(work).addErrback(lambda _: None)
        pool.deferToThread(ran.append, 1).addErrback(lambda _: None)
        while not running.is_set():
            await asyncio.sleep(0)

    asyncio.run(main())
    end.set()
    pool.stop()
    assert ran == []
    assert pool.stats().removed == 1


def test_jobs_of_other_loops_go_on(pool):
    """The end of one loop does not touch the jobs of another."""
    pool.adjustPoolsize(maxthreads=1)
    block, other_waits = threading.Event(), threading.Event()

    async def short():
        pool.deferToThread(block.wait, 30).addErrback(lambda _: None)
        while not other_waits.is_set():
            await asyncio.sleep(0)

    async def other():
        deferred = pool.deferToThread(lambda: "answer")
        other_waits.set()
        return await deferred

    with ThreadPoolExecutor(1) as executor:

        async def main():
            job.append(executor.submit(asyncio.run, other()))
            await short()

        job = []
        asyncio.run(main())
        block.set()
        assert job[0].result(timeout=30) == "answer"


def test_loop_closed_without_a_word(pool, caplog):
    """A bare loop.close() with work in flight: one WARNING, and the pool goes on."""
    running, end = threading.Event(), threading.Event()

    def work():
        running.set()
        end.wait(timeout=30)

    async def main():
        for _ in range(2):
            pool.deferToThread(work)
        while not running.is_set():
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    end.set()

    async def after():
        return await pool.deferToThread(lambda: "answer")

    assert asyncio.run(after()) == "answer"
    pool.stop()
    (record,) = records(caplog)
    assert record.levelno == logging.WARNING
    assert re.search(r"[12] finished outcome\(s\)", record.getMessage())
    assert "asyncio.run" in record.getMessage()


def test_loop_closed_without_a_word_and_without_work(pool, caplog):
    """Nothing was in flight: nothing is said."""

    async def main():
        return await pool.deferToThread(lambda: "answer")

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(main()) == "answer"
    loop.close()
    del loop
    gc.collect()
    assert asyncio.run(main()) == "answer"
    assert records(caplog) == []


def test_await_at_the_end_of_the_loop_does_not_hang(pool):
    """A job submitted while the loop shuts down is answered or fails, never hangs."""
    outcomes = []

    async def last_words():
        try:
            yield
        finally:
            try:
                outcomes.append(await pool.deferToThread(lambda: "answer"))
            except LoopClosed:
                outcomes.append("closed")

    async def main():
        await pool.deferToThread(int)
        generator = last_words()
        await anext(generator)
        return generator

    asyncio.run(main())
    assert outcomes in (["answer"], ["closed"])
