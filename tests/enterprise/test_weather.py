"""Cancelling, limits and overlap on real databases; nothing lost, nothing hung."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading

import psycopg
import pytest

from enterprise import ConnectionPool, PoolFull
from tests.enterprise.helpers import backend, balance, names, outcome, until
from tests.leaks import Baseline
from threadpool.job import JobState

# -- overlap ---------------------------------------------------------------------------


async def test_two_calls_overlap(endless):
    """Two calls that block are at work at the same time, in two connections."""
    async with endless.pool(cp_max=3) as pool:
        calls = [pool.runQuery(endless.sql) for _ in range(2)]
        await endless.started(2)
        assert pool.stats().busy == 2
        # And the third connection serves somebody else meanwhile.
        if endless.database.kind == "postgres":
            assert await pool.runQuery("select 1") == [(1,)]
        for call in calls:
            call.cancel()
            assert isinstance(await outcome(call), asyncio.CancelledError)


# -- cancel ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["runQuery", "runResult", "runOperation"])
async def test_cancel_while_running(endless, way):
    """A cancel stops the server's work, and the connection stays in use."""
    async with endless.pool(cp_max=1) as pool:
        before = await pool.runQuery(backend(endless.database))
        call = getattr(pool, way)(endless.sql)
        await endless.started()
        assert call.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await call
        await endless.ended()
        assert await pool.runQuery(backend(endless.database)) == before
        assert pool.stats().opened == 1


async def test_cancel_an_interaction(endless):
    """A cancelled interaction is rolled back; its connection stays in use."""
    database = endless.database
    database.rows("create table item (id integer primary key, name varchar(40))")

    def work(txn):
        txn.execute("insert into item values (1, 'hammer')")
        txn.execute(endless.sql)

    async with endless.pool(cp_max=1) as pool:
        before = await pool.runQuery(backend(database))
        call = pool.runInteraction(work)
        await endless.started()
        call.cancel()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        assert names(database) == []
        assert await pool.runQuery(backend(database)) == before
        await pool.runOperation("insert into item values (2, 'saw')")
    assert names(database) == ["saw"]


async def test_cancelled_function_cannot_go_on(endless):
    """A function that swallows its cancel runs no further statement, least of all
    one that would be committed by itself.
    """
    database = endless.database
    database.rows("create table item (id integer primary key, name varchar(40))")
    seen = []

    def stubborn(txn):
        txn.execute("insert into item values (1, 'hammer')")
        for sql in (endless.sql, "insert into item values (2, 'saw')"):
            try:
                txn.execute(sql)
            except BaseException as error:
                seen.append(error)
        return "done"

    async with endless.pool(cp_max=1) as pool:
        call = pool.runInteraction(stubborn)
        await endless.started()
        call.cancel()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        assert len(seen) == 2
        assert isinstance(seen[1], asyncio.CancelledError)
        assert names(database) == []


async def test_cancel_through_the_task(endless):
    """`task.cancel()` and `wait_for` reach the statement, and it is really stopped."""
    async with endless.pool(cp_max=1) as pool:

        async def ask():
            return await pool.runQuery(endless.sql)

        task = asyncio.create_task(ask())
        await endless.started()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await endless.ended()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.runQuery(endless.sql), 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pool.runQuery(endless.sql)
        await endless.ended()
        assert await pool.runQuery("select 1") == [(1,)]
        assert pool.stats().opened == 1


async def test_cancel_while_queued(endless):
    """What is cancelled while it waits fails at once and is never run."""
    database = endless.database
    database.rows("create table item (id integer primary key, name varchar(40))")
    async with endless.pool(cp_max=1) as pool:
        busy = pool.runQuery(endless.sql)
        await endless.started()
        waiting = pool.runOperation("insert into item values (1, 'hammer')")
        assert waiting.cancel()
        assert waiting.done()
        busy.cancel()
        assert isinstance(await outcome(busy), asyncio.CancelledError)
        assert isinstance(await outcome(waiting), asyncio.CancelledError)
        assert await pool.runQuery("select count(*) from item") == [(0,)]
        assert pool.stats().removed == 1


async def test_cancel_hits_nobody_else(database):
    """A cancel that comes too late for its statement never stops the next one."""
    async with ConnectionPool(database.url, cp_max=1) as pool:
        for _ in range(150):
            first = pool.runQuery("select 1")
            second = pool.runQuery("select 2")
            first.addBoth(lambda _: None)
            while pool.stats().waiting == 2 or not pool.stats().connections:
                await asyncio.sleep(0)
            first.cancel()
            assert await second == [(2,)]


def cancellers():
    return [t for t in threading.enumerate() if "-canceller-" in t.name]


async def test_thousand_cancels(endless):
    """After 1 000 random cancels there are as many connections, threads and files as
    before, each Deferred has fired exactly once, and the pool works.
    """
    chance = random.Random(7)
    fired = []
    database = endless.database
    database.rows("create table item (id integer primary key, name varchar(40))")

    def note(number, result):
        fired.append(number)

    def insert(txn, number):
        txn.execute(database.sql("insert into item values (?, 'x')"), (number,))
        txn.execute("select 1")
        return number

    def call(pool, number):
        kind = chance.randrange(4)
        if kind == 0:
            return pool.runQuery(endless.sql)
        if kind == 1:
            return pool.runInteraction(insert, number)
        if kind == 2:
            return pool.runResult("select 1")
        return pool.runOperation("update item set name = 'y' where id = 0")

    async def client(pool, numbers):
        for number in numbers:
            deferred = call(pool, number)
            deferred.addBoth(lambda result, n=number: note(n, result) or result)
            if number % 3:  # These are cancelled when a worker has them already.
                while deferred.state in (JobState.QUEUED, JobState.TAKEN):
                    await asyncio.sleep(0)
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
            deferred.cancel()
            result = await outcome(deferred)
            if result == number:
                committed.add(number)
            else:
                assert not isinstance(result, (psycopg.Error, RuntimeError)), result

    committed = set()
    async with endless.pool(cp_min=4, cp_max=4) as pool:
        await asyncio.gather(
            *(pool.runQuery(f"select {n}") for n in range(4)), asyncio.to_thread(int)
        )
        before, opened = Baseline(), pool.stats().opened
        await asyncio.gather(*(client(pool, range(n, 1000, 8)) for n in range(8)))
        assert sorted(fired) == list(range(1000))
        # Of those that cancel there is one, whichever it is, once they have rested.
        await until(lambda: len(cancellers()) == 1, "the cancellers to go")
        assert [leak for leak in before.leaks() if "-canceller-" not in leak] == []
        assert pool.stats().connections == opened == pool.stats().opened
        assert pool.stats().unfinished == 0
        assert pool.stats().finished > 600
        assert pool.stats().removed > 30
        first, last = balance(pool.stats())
        assert first == last
        found = await pool.runQuery("select id from item")
        assert {number for (number,) in found} == committed
        await endless.ended()


# -- limits ----------------------------------------------------------------------------


@pytest.mark.parametrize(("maximum", "backlog"), [(1, 0), (1, 3), (4, 0), (4, 3)])
async def test_pool_full(endless, maximum, backlog):
    """PoolFull if and only if as many jobs are unfinished as `cp_max` and `cp_backlog`
    allow, reads and writes together; it carries the figures.
    """
    limit = maximum + backlog
    async with endless.pool(cp_max=maximum, cp_backlog=backlog) as pool:
        ways = itertools.cycle([pool.runOperation, pool.runQuery, pool.runResult])
        taken = [next(ways)(endless.sql) for _ in range(limit)]
        for call in (pool.runQuery, pool.runOperation, pool.runResult):
            error = await outcome(call("select 1"))
            assert isinstance(error, PoolFull)
            assert (error.unfinished, error.limit) == (limit, limit)
            assert f"{limit} unfinished jobs" in str(error)
        assert pool.stats().refused == 3
        for call in taken:
            call.cancel()
        for call in taken:
            await outcome(call)
        assert await pool.runQuery("select 1") == [(1,)]


async def test_room_again(endless):
    """A cancelled job makes room at once."""
    async with endless.pool(cp_max=1, cp_backlog=1) as pool:
        busy = pool.runQuery(endless.sql)
        await endless.started()
        waiting = pool.runQuery("select 1")
        assert isinstance(await outcome(pool.runQuery("select 2")), PoolFull)
        waiting.cancel()
        third = pool.runQuery("select 3")
        busy.cancel()
        assert await third == [(3,)]
        assert isinstance(await outcome(busy), asyncio.CancelledError)


async def test_hundred_thousand_queued(database):
    """A backlog of 100 000 is served, in whatever order it was queued."""
    async with ConnectionPool(database.url, cp_max=2, cp_backlog=None) as pool:
        count = 100_000 if database.kind == "sqlite" else 5_000
        work = [pool.runQuery("select 1") for _ in range(count)]
        assert await asyncio.gather(*work) == [[(1,)]] * count
        assert pool.stats().finished == count
