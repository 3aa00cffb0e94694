"""Calls that would wait for themselves, and those that only seem to."""

from __future__ import annotations

import asyncio
import functools
import sqlite3

import pytest

from enterprise import ConnectionPool
from enterprise.errors import NestedAcquire
from tests.enterprise.helpers import (
    names,
    outcome,
)
from tests.enterprise.leases import alone, insert
from threadpool.reactor import reactor
from threadpool.threads import blockingCallFromThread


async def test_nested_leases(shop):
    """A lease inside a lease, with one connection for both, is refused at once."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        async with pool.transaction() as txn:
            await txn.runOperation(insert(3))
            with pytest.raises(NestedAcquire, match="All 1 connection"):
                async with pool.transaction():
                    raise AssertionError
            for call in (pool.runQuery, pool.runOperation, pool.runResult):
                with pytest.raises(NestedAcquire):
                    await call("select 1")
            with pytest.raises(NestedAcquire):
                await pool.runInteraction(lambda txn: 1)
        assert len(names(shop)) == 3
        await alone(pool)


async def test_sqlites_writer_lane(tmp_path):
    """With SQLite a write inside a lease is refused, a read goes to a reader."""
    async with ConnectionPool(f"sqlite:///{tmp_path}/a.db", cp_max=3) as pool:
        await pool.runOperation("create table item (id integer)")
        async with pool.transaction() as txn:
            await txn.runOperation("insert into item values (1)")
            with pytest.raises(NestedAcquire):
                await pool.runOperation("insert into item values (2)")
            assert await pool.runQuery("select count(*) from item") == [(0,)]
            # It turns out to write, and the writer is the caller's own.
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                await pool.runQuery("insert into item values (3) returning id")
        assert await pool.runQuery("select id from item") == [(1,)]
        returned = await pool.runQuery("insert into item values (4) returning id")
        assert returned == [(4,)]


async def test_another_worker_is_left(pg_url):
    """While another worker can do it, a call inside a lease is done."""
    async with ConnectionPool(pg_url, cp_max=2) as pool, pool.transaction():
        assert await pool.runQuery("select 1") == [(1,)]
        async with pool.transaction():
            with pytest.raises(NestedAcquire, match="All 2 connection"):
                await pool.runQuery("select 1")


async def test_other_tasks_wait(shop):
    """A task that holds nothing waits for a lease to end, and is not refused."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        async with pool.transaction() as txn:
            other = asyncio.create_task(_query(pool))
            await txn.runQuery("select 1")
            await asyncio.sleep(0)
        assert await other == [(1,)]


async def _query(pool):
    return await pool.runQuery("select 1", write=True)


async def test_two_tasks_that_would_wait_for_each_other(pg_url):
    """Who closes the circle is refused, and only who does: the others go on."""
    both = asyncio.Barrier(2)

    async def work(pool):
        async with pool.transaction():
            await both.wait()
            return await pool.runQuery("select 1")

    async with ConnectionPool(pg_url, cp_max=2) as pool:
        tasks = [asyncio.create_task(work(pool)) for _ in range(2)]
        results = [await outcome(task) for task in tasks]
        refused = [r for r in results if isinstance(r, NestedAcquire)]
        assert len(refused) == 1
        assert [(1,)] in results
        await alone(pool)


async def test_blocking_call_from_an_interaction(shop):
    """An interaction that waits for a call on its own full lane is refused."""

    def work(txn):
        return blockingCallFromThread(reactor, _query, pool, timeout=20)

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises(NestedAcquire):
            await pool.runInteraction(work)
        await alone(pool)


async def test_blocking_call_while_others_work(shop):
    """An interaction may wait for a call that another worker can do."""

    def work(txn):
        txn.execute("select 1")
        ask = functools.partial(pool.runQuery, "select count(*) from item")
        return blockingCallFromThread(reactor, lambda: ask())

    async with ConnectionPool(shop.url, cp_max=2) as pool:
        assert await pool.runInteraction(work) == [(2,)]
