"""A process that runs out of something, a loop that is late, a close at any moment."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import traceback

import pytest

from enterprise import ConnectionPool
from tests.enterprise.faults.watch import Answers, living_loop
from tests.enterprise.helpers import (
    PATIENCE_SECONDS,
    python,
)

# -- descriptors -----------------------------------------------------------------------

NO_DESCRIPTORS = """
    import asyncio, logging, os, resource, sys
    from enterprise import ConnectFailed, ConnectionPool

    url, = sys.argv[1:]
    logging.getLogger().addHandler(logging.NullHandler())  # It may be told of outages.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def count():
        return len(os.listdir("/proc/self/fd"))

    def hoard():
        held = []
        while True:
            try:
                held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError as error:
                assert error.errno == 24, error
                return held

    async def told(call):
        try:
            return await call
        except Exception as error:
            return error.with_traceback(None)

    async def main():
        baseline = count()
        warm = ConnectionPool(url, cp_max=4)
        fresh = ConnectionPool(url, cp_max=2)
        await warm.runScript("create table item (id integer primary key)")
        await warm.runQuery("select 1")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count() + 8, hard))
        held = hoard()
        calls = [warm.runQuery("select 5") for _ in range(20)]
        calls += [warm.runOperation(f"insert into item values ({n})") for n in range(9)]
        found = [await told(call) for call in calls]
        print(set(map(str, found[:20])), set(map(str, found[20:])))
        for _ in range(5):
            error = await told(fresh.runQuery("select 1"))
            assert isinstance(error, ConnectFailed), error
            print(type(error.__cause__).__name__)
        for descriptor in held:
            os.close(descriptor)
        print(await fresh.runQuery("select count(*) from item"))
        calls = [warm.runInteraction(busy) for _ in range(4)]
        print(await asyncio.gather(*calls), warm.stats().connections <= 4)
        del error, found
        await warm.close()
        await fresh.close()
        print(count() - baseline)

    def busy(txn):
        return txn.execute("select count(*) from item").fetchone()

    asyncio.run(main())
"""


def test_no_descriptors_left(database):
    """Without a free descriptor warm connections serve on and new ones fail with
    ConnectFailed; as soon as there are some, everything works, and none was lost.
    """
    status, out, errors = python(NO_DESCRIPTORS, database.url)
    assert (status, errors) == (0, "")
    assert out.splitlines() == [
        "{'[(5,)]'} {'None'}",
        *["OperationalError"] * 5,
        "[(9,)]",
        f"{[(9,)] * 4} True",
        "0",
    ]


NO_JOURNAL = """
    import asyncio, os, resource, sqlite3, sys
    from enterprise import ConnectionPool

    path, = sys.argv[1:]

    async def main():
        pool = ConnectionPool("sqlite3", path, cp_wal=False, cp_max=2)
        await pool.runScript("create table item (id integer primary key)")
        await pool.runQuery("select 1")
        count = len(os.listdir("/proc/self/fd"))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
        held = []
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        for call in (
            lambda: pool.runOperation("insert into item values (1)"),
            lambda: pool.runInteraction(
                lambda txn: txn.execute("insert into item values (2)") and None),
            lambda: pool.runScript("insert into item values (3)"),
        ):
            try:
                await call()
            except sqlite3.OperationalError as error:
                print(error.sqlite_errorname)
        print(await pool.runQuery("select * from item"))
        for descriptor in held:
            os.close(descriptor)
        await pool.runOperation("insert into item values (4)")
        print(await pool.runQuery("select * from item"), pool.stats().opened)
        await pool.close()

    asyncio.run(main())
"""


def test_no_descriptor_for_the_journal(tmp_path):
    """Where SQLite cannot open its journal the write fails and is rolled back, reads go
    on, and the same connections write again later.
    """
    status, out, errors = python(NO_JOURNAL, str(tmp_path / "shop.db"))
    assert (status, errors) == (0, "")
    assert out.splitlines() == ["SQLITE_CANTOPEN"] * 3 + ["[]", "[(4,)] 2"]


# -- threads ---------------------------------------------------------------------------


@pytest.fixture
def few_threads(monkeypatch):
    """Say which of the next starts of threads shall fail, as with a system's limit."""
    real = threading.Thread.start
    starts = []

    def start(thread):
        starts.append(thread.name)
        if plan and plan.pop(0):
            raise RuntimeError("can't start new thread")
        real(thread)

    plan = []
    monkeypatch.setattr(threading.Thread, "start", start)
    return plan


@pytest.mark.parametrize("failures", range(1, 8))
@pytest.mark.parametrize("lucky", range(4))
async def test_threads_that_do_not_start(database, few_threads, lucky, failures):
    """Where threads cannot be started for a while no call is lost: each is done, or
    fails; later all slots are there, and the pool closes.
    """
    answers = Answers()
    async with living_loop():
        few_threads[:] = [False] * lucky + [True] * failures
        pool = ConnectionPool(database.url, cp_max=4, cp_timeout=3)
        for number in range(10):
            try:
                answers.of(pool.runQuery(f"select {number}"))
            except RuntimeError as error:  # There was no pool to speak of yet.
                assert "start new thread" in str(error)
        for answer in await answers.all():
            assert isinstance(answer, list) or "start new thread" in str(answer)
        few_threads.clear()
        meeting = threading.Barrier(3)

        def work(txn):
            meeting.wait(PATIENCE_SECONDS)
            return txn.execute("select 7").fetchone()

        calls = [pool.runInteraction(work, readonly=True) for _ in range(3)]
        assert await asyncio.gather(*calls) == [(7,)] * 3
        assert pool.stats().connections <= 4
        await pool.close()


NO_TICKER = """
    import asyncio, sys, threading
    from enterprise import ConnectionPool, PoolTimeout

    real, left = threading.Thread.start, int(sys.argv[1])

    def start(thread):
        global left
        if left:
            left -= 1
            raise RuntimeError("can't start new thread")
        real(thread)

    async def told(make):
        try:
            return await make()
        except (PoolTimeout, RuntimeError) as error:
            return error

    async def main():
        pool = ConnectionPool("sqlite://", cp_timeout=0.2)
        held, done = threading.Event(), threading.Event()
        threading.Thread.start = start
        while not isinstance(await told(lambda: pool.runQuery("select 1")), list):
            pass
        long = pool.runInteraction(lambda txn: held.set() or done.wait(20))
        while not held.is_set():
            await asyncio.sleep(0.001)
        print(type(await told(lambda: pool.runQuery("select 2"))).__name__)
        done.set()
        print(await long)
        await pool.close()

    asyncio.run(asyncio.wait_for(main(), 5))
"""


@pytest.mark.parametrize("failures", [1, 2, 3, 4])
def test_deadlines_after_threads_that_did_not_start(failures):
    """Deadlines are kept although the thread that watches them was late to start."""
    status, out, errors = python(NO_TICKER, str(failures))
    assert "Traceback" not in errors
    assert (status, out) == (0, "PoolTimeout\nTrue\n")


# -- the loop --------------------------------------------------------------------------


async def test_blocked_loop(shop):
    """2 000 results that queue up while the loop stands still for a second are all
    delivered, once and in order.
    """
    async with ConnectionPool(shop.url, cp_max=4) as pool:
        answers, order = Answers(), []
        sql = shop.sql("select ? + 0")
        began = time.monotonic()
        for number in range(2000):
            call = answers.of(pool.runQuery(sql, (number,)))
            call.addCallback(lambda rows: order.append(rows[0][0]) or rows)
        pause = threading.Event()  # The loop stands still from here to the last one.
        while pool.stats().finished < 2000 or time.monotonic() - began < 1:
            assert time.monotonic() - began < PATIENCE_SECONDS
            pause.wait(0.01)
        assert order == []
        async with living_loop():
            assert await answers.all() == [[(number,)] for number in range(2000)]
        assert sorted(order) == list(range(2000))
        assert pool.stats().connections <= 4


async def test_callbacks_that_raise(shop, expect_errors):
    """What a callback raises is logged once; other callbacks and calls hear nothing."""
    async with living_loop(), ConnectionPool(shop.url, cp_max=2) as pool:
        answers = Answers()
        for number in range(50):
            call = pool.runQuery("select 1")
            if number % 10 == 0:
                call.addCallback(lambda rows: 1 / 0)
                del call  # Nobody will ever look at it.
            else:
                answers.of(call)
        assert await answers.all() == [[(1,)]] * 45
        assert await pool.runQuery("select 2") == [(2,)]
    gc.collect()  # A traceback holds on to what it is about.
    assert all("ZeroDivisionError" in r.getMessage() for r in expect_errors)
    assert len(expect_errors) == 5


@pytest.mark.parametrize("way", ["returned", "loose"])
async def test_three_hundred_calls_deep(shop, way):
    """A callback may call the pool, whose callback calls it, 300 deep: the stack does
    not grow, and neither do the connections.
    """
    depths, over = [], asyncio.get_running_loop().create_future()

    def again(rows):
        ((number,),) = rows
        depths.append(sum(1 for _ in traceback.walk_stack(None)))
        if number == 300:
            over.set_result(None)
            return "end"
        inner = pool.runQuery(sql, (number + 1,)).addCallback(again)
        return inner if way == "returned" else number

    sql = shop.sql("select ? + 0")
    async with living_loop(1), ConnectionPool(shop.url, cp_max=2) as pool:
        first = pool.runQuery(sql, (1,)).addCallback(again)
        await over
        assert await first == ("end" if way == "returned" else 1)
        assert len(depths) == 300
        assert max(depths) - min(depths) < 20
        assert pool.stats().connections <= 2
