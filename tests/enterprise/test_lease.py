"""Leases: a worker lent to a caller for one transaction, statement by statement."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import psycopg
import pytest

from enterprise import ConnectionPool, PoolFull, Result, TransactionEnded
from enterprise.errors import (
    ConnectFailed,
    PoolClosed,
    WrongThread,
)
from tests.enterprise.helpers import (
    backend,
    names,
    outcome,
    reached,
)
from tests.enterprise.leases import DATABASE_ERRORS, alone, insert

# -- the ordinary way ------------------------------------------------------------------


async def test_commit(shop):
    """A block is one transaction, seen by others when it is over."""
    async with ConnectionPool(shop.url, cp_max=3) as pool:
        async with pool.transaction() as txn:
            sql = shop.sql("insert into item values (?, ?)")
            assert await txn.runOperation(sql, (3, "file")) is None
            assert await txn.runQuery("select count(*) from item") == [(3,)]
            assert names(shop) == ["hammer", "saw"]
        assert names(shop) == ["hammer", "saw", "file"]
        await alone(pool)


async def test_rollback(shop):
    """An exception that leaves the block rolls back, and goes on as it is."""
    problem = KeyError("nothing doing")
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises(KeyError) as caught:
            async with pool.transaction() as txn:
                await txn.runOperation("delete from item")
                raise problem
        assert caught.value is problem
        assert names(shop) == ["hammer", "saw"]
        await alone(pool)
        assert pool.stats().opened == 1


async def test_what_statements_give(shop):
    """Statements give what the pool's give; `execute` gives all."""
    async with ConnectionPool(shop.url, cp_max=1) as pool, pool.transaction() as txn:
        rows = await txn.runQuery(shop.sql("select name from item where id = ?"), (1,))
        assert rows == [("hammer",)]
        for run in (txn.execute, txn.runResult):
            found = await run("select id, name from item order by id")
            assert isinstance(found, Result)
            assert found.columns == ("id", "name")
            assert found.rows == [(1, "hammer"), (2, "saw")]
        assert (await txn.execute("update item set name = 'x'")).rowcount == 2
        assert repr(txn) == "<LeasedTransaction open>"
        with pytest.raises(TypeError, match="not a string"):
            txn.runQuery(b"select 1")
    assert repr(txn) == "<LeasedTransaction over>"


async def test_one_connection(shop):
    """All statements of a block run on the same connection, on one worker."""
    async with ConnectionPool(shop.url, cp_max=4) as pool, pool.transaction() as txn:
        seen = {tuple(await txn.runQuery(backend(shop))) for _ in range(10)}
        assert len(seen) == 1
        assert pool.stats().busy == 1


async def test_readonly_and_isolation(pg_url):
    """A lease begins as it is told to."""
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        leased = pool.transaction(
            readonly=True, isolation="serializable", deferrable=True
        )
        async with leased as txn:
            assert await txn.runQuery("show transaction_isolation") == [
                ("serializable",)
            ]
            assert await txn.runQuery("show transaction_read_only") == [("on",)]
        with pytest.raises(ValueError, match="There is no isolation level"):
            pool.transaction(isolation="chaos")


async def test_readers_run_beside_the_writer(shop):
    """With SQLite a read-only lease leaves the writer alone, and keeps its snapshot."""
    async with ConnectionPool(shop.url, cp_max=2) as pool:
        leased = pool.transaction(readonly=True, isolation=_SNAPSHOT[shop.kind])
        async with leased as reading:
            assert await reading.runQuery("select count(*) from item") == [(2,)]
            await pool.runOperation("delete from item where id = 1")
            assert await reading.runQuery("select count(*) from item") == [(2,)]
        with pytest.raises(DATABASE_ERRORS):
            async with pool.transaction(readonly=True) as reading:
                await reading.runOperation("delete from item")
        await alone(pool)
    assert names(shop) == ["saw"]


_SNAPSHOT = {"sqlite": "serializable", "postgres": "repeatable read"}


async def test_calls_in_order(shop):
    """Calls that are not awaited run in the order they were made, before the end."""
    async with ConnectionPool(shop.url, cp_max=2) as pool:
        async with pool.transaction() as txn:
            for number in range(3, 60):
                txn.runOperation(insert(number))
            counting = txn.runQuery("select count(*) from item")
            txn.runOperation("delete from item where id > 30")
        assert await counting == [(59,)]
        assert len(names(shop)) == 30


async def test_gather_in_a_block(shop):
    """Several tasks may use one transaction; their calls run one after the other."""
    async with ConnectionPool(shop.url, cp_max=2) as pool, pool.transaction() as txn:
        queries = (txn.runQuery(f"select {n}") for n in range(20))
        assert await asyncio.gather(*queries) == [[(n,)] for n in range(20)]


async def test_first_error_of_a_call_not_awaited(shop):
    """A call nobody awaited that fails rolls back, and the first error is raised."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises(DATABASE_ERRORS, match="nowhere_1"):
            async with pool.transaction() as txn:
                txn.runOperation("delete from item")
                txn.runOperation("delete from nowhere_1")
                txn.runOperation("delete from nowhere_2")
        assert names(shop) == ["hammer", "saw"]
        await alone(pool)


async def test_handled_error(shop):
    """After an error that was handled SQLite goes on; PostgreSQL says why it cannot."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:

        async def careless():
            async with pool.transaction() as txn:
                await txn.runOperation("delete from item where id = 1")
                with contextlib.suppress(*DATABASE_ERRORS):
                    await txn.runOperation("delete from nowhere")

        if shop.kind == "sqlite":
            await careless()
            assert names(shop) == ["saw"]
        else:
            with pytest.raises(TransactionEnded) as caught:
                await careless()
            assert isinstance(caught.value.__cause__, psycopg.errors.UndefinedTable)
            assert names(shop) == ["hammer", "saw"]
        await alone(pool)


async def test_no_statement_after_a_commit_of_ones_own(shop):
    """A COMMIT in the block does not let the next statement commit by itself."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises(TransactionEnded):
            async with pool.transaction() as txn:
                await txn.runOperation("commit")
                await txn.runOperation("delete from item")
        assert names(shop) == ["hammer", "saw"]
        await alone(pool)


async def test_savepoints(shop):
    """What leaves a savepoint by an exception undoes it, and only that; they nest."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        async with pool.transaction() as txn:
            await txn.runOperation(insert(3))
            with pytest.raises(DATABASE_ERRORS):
                async with txn.savepoint():
                    await txn.runOperation(insert(4))
                    await txn.runOperation("delete from nowhere")
            with pytest.raises(LookupError):
                async with txn.savepoint() as same:
                    assert same is txn
                    async with txn.savepoint():
                        await txn.runOperation(insert(5))
                    raise LookupError
            async with txn.savepoint():
                await txn.runOperation(insert(6))
        await alone(pool)
    assert names(shop) == ["hammer", "saw", "item 3", "item 6"]


async def test_savepoint_waits_for_its_calls(shop):
    """A call that nobody awaited fails its savepoint, which is undone."""
    async with ConnectionPool(shop.url, cp_max=1) as pool, pool.transaction() as txn:
        with pytest.raises(DATABASE_ERRORS, match="nowhere"):
            async with txn.savepoint():
                txn.runOperation(insert(3))
                txn.runOperation("delete from nowhere")
        txn.runOperation(insert(4))
    assert names(shop) == ["hammer", "saw", "item 4"]


async def test_interaction_in_a_lease(shop):
    """A function runs in the block's worker, as a savepoint of its transaction."""

    def work(txn, number, *, fail):
        txn.execute(insert(number))
        if fail:
            raise LookupError
        return threading.current_thread() is not threading.main_thread()

    async with ConnectionPool(shop.url, cp_max=1) as pool, pool.transaction() as txn:
        assert await txn.runInteraction(work, 3, fail=False)
        with pytest.raises(LookupError):
            await txn.runInteraction(work, 4, fail=True)
        with pytest.raises(TypeError, match="Pass a plain function"):
            txn.runInteraction(asyncio.sleep)
        with pytest.raises(TypeError, match="to be awaited later"):
            await txn.runInteraction(lambda txn: asyncio.sleep(0))
    assert names(shop) == ["hammer", "saw", "item 3"]


async def test_afterwards(shop):
    """What is to be called afterwards is, before the block is left, savepoints too."""
    told = []
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        async with pool.transaction() as txn:
            txn.onCommit(lambda: told.append(names(shop)))
            txn.onRollback(told.append, "never")
            with contextlib.suppress(LookupError):
                async with txn.savepoint():
                    txn.onCommit(told.append, "never")
                    txn.onRollback(told.append, "undone")
                    raise LookupError
            await txn.runInteraction(lambda txn: txn.onCommit(told.append, "inside"))
            await txn.runOperation("delete from item")
        assert told == [[], "undone", "inside"]
        told.clear()
        with contextlib.suppress(LookupError):
            async with pool.transaction() as txn:
                txn.onCommit(told.append, "never")
                txn.onRollback(told.append, "rolled back")
                raise LookupError
        assert told == ["rolled back"]


# -- how it may not be used ------------------------------------------------------------


async def test_outside_its_block(shop):
    """Before and after its block a transaction takes no calls, and has one block."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        leased = pool.transaction()
        assert repr(leased) == "<LeasedTransaction not begun>"
        with pytest.raises(RuntimeError, match="has not begun"):
            leased.runQuery("select 1")
        async with leased as txn:
            pass
        with pytest.raises(TransactionEnded, match="inside its block"):
            await txn.runQuery("select 1")
        with pytest.raises(RuntimeError, match="has had its block"):
            async with leased:
                pass


def test_no_loop(script):
    """Without a loop, and on another one, WrongThread is raised."""
    pool = ConnectionPool(script, cp_max=1)
    with pytest.raises(WrongThread):
        pool.transaction()
    leased = []

    async def make():
        leased.append(pool.transaction())

    async def enter():
        async with leased[0]:
            pass

    asyncio.run(make())
    with pytest.raises(WrongThread, match="another event loop"):
        asyncio.run(enter())
    pool.close()


async def test_no_connection(script):
    """Who cannot get a connection is told when entering the block."""
    script.will("connect", "fail no route")
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(ConnectFailed, match="no route"):
            async with pool.transaction():
                raise AssertionError
        async with pool.transaction() as txn:
            assert await txn.runQuery("rows 1") == [(1,)]


async def test_full_and_closed_pools(script):
    """A pool that takes no work says so when entering the block."""
    pool = ConnectionPool(script, cp_max=1, cp_backlog=0)
    busy = pool.runQuery("hang here; rows 1")
    await reached(script.gate("here").reached)
    assert isinstance(await outcome(pool.transaction().__aenter__()), PoolFull)
    script.gate("here").open()
    await busy
    await pool.close()
    assert isinstance(await outcome(pool.transaction().__aenter__()), PoolClosed)


async def test_failing_begin(script):
    """Who cannot begin is told when entering; the worker is given back."""
    async with ConnectionPool(script, cp_max=1) as pool:
        script.will("cursor", "fail no cursor")
        with pytest.raises(script.OperationalError, match="no cursor"):
            async with pool.transaction():
                raise AssertionError
        assert await pool.runQuery("rows 1") == [(1,)]


async def test_failing_commit(script):
    """A COMMIT that is refused is raised where the block is left."""
    script.will("commit", "fail no commit")
    told = []
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(script.OperationalError, match="no commit"):
            async with pool.transaction() as txn:
                txn.onRollback(told.append, "rolled back")
                await txn.runOperation("x")
        assert told == ["rolled back"]
        assert script.calls["rollback"] == 1
        assert await pool.runQuery("rows 1") == [(1,)]
