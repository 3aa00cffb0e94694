"""Leases whose connection dies, whose pool closes, whose loop ends, and lost ones."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest
import trio

from enterprise import ConnectionPool, TransactionEnded
from enterprise.errors import (
    ConnectionLost,
    LoopClosed,
    PoolClosed,
    PoolTimeout,
    QueryTimeout,
)
from tests.enterprise.helpers import (
    names,
    outcome,
    python,
    reached,
    until,
)
from tests.enterprise.leases import alone, insert
from tests.postgres import wait_until
from threadpool.loops import trio as adapter


async def test_lost_connection(script):
    """A lost connection fails the call and those after it; the next lease is served."""
    script.InterfaceError = script.Error  # So that the driver sees what "lose" means.
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(ConnectionLost) as caught:
            async with pool.transaction() as txn:
                first = txn.runQuery("lose")
                second = txn.runQuery("never")
                await first
        assert caught.value.outcome == "rolled_back"
        assert isinstance(await outcome(second), ConnectionLost)
        async with pool.transaction() as txn:
            assert await txn.runQuery("rows 1") == [(1,)]
        assert pool.stats().opened == 2


async def test_terminated_backend(pg_url):
    """A connection that the server ends between two statements: ConnectionLost."""
    async with ConnectionPool(pg_url, cp_max=2) as pool:
        with pytest.raises(ConnectionLost):
            async with pool.transaction() as txn:
                [(pid,)] = await txn.runQuery("select pg_backend_pid()")
                await pool.runQuery("select pg_terminate_backend(%s, 5000)", (pid,))
                await txn.runQuery("select 1")
        async with pool.transaction() as txn:
            assert await txn.runQuery("select 1") == [(1,)]


async def test_lost_at_commit(script):
    """A connection lost during COMMIT: the outcome is unknown, and that is said."""
    script.InterfaceError = script.Error
    script.will("commit", "lose")
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(ConnectionLost) as caught:
            async with pool.transaction() as txn:
                await txn.runQuery("rows 1")
        assert caught.value.outcome == "unknown"


async def test_close_lets_a_block_end(shop):
    """Closing waits for a block; its further statements are still done."""
    pool = ConnectionPool(shop.url, cp_max=1)
    async with pool.transaction() as txn:
        closing = pool.close()
        await txn.runOperation(insert(3))
    await closing
    assert names(shop) == ["hammer", "saw", "item 3"]


async def test_close_stops_a_block(shop):
    """A block that does not end in time is rolled back with PoolClosed."""
    pool = ConnectionPool(shop.url, cp_max=1)
    with pytest.raises(PoolClosed):
        async with pool.transaction() as txn:
            await txn.runOperation("delete from item")
            await pool.close(timeout=0)
            await txn.runQuery("select 1")
    with pytest.raises(PoolClosed):
        async with pool.transaction():
            raise AssertionError
    assert names(shop) == ["hammer", "saw"]


async def test_close_over_a_driver_that_hangs(script):
    """Where the driver does not react, every call is answered all the same."""
    pool = ConnectionPool(script, cp_max=1, cp_grace=0.01)
    with pytest.raises(PoolClosed):
        async with pool.transaction() as txn:
            hanging = txn.runQuery("hang here")
            waiting = txn.runQuery("never")
            await reached(script.gate("here").reached)
            await pool.close(timeout=0)
            assert isinstance(await outcome(waiting), PoolClosed)
            await hanging
    script.gate("here").open()
    await until(lambda: script.open == 0, "the connection to be closed")
    assert script.calls["commit"] == 0


async def test_call_that_cannot_be_stopped_for_long(script):
    """After twice the grace a caller goes on without an answer; nothing is kept."""
    async with ConnectionPool(script, cp_max=1, cp_grace=0.05) as pool:
        with pytest.raises(TransactionEnded, match="could not be stopped"):
            async with pool.transaction() as txn:
                hanging = txn.runQuery("hang here")
                waiting = txn.runQuery("never")
                await reached(script.gate("here").reached)
                hanging.cancel()
                assert isinstance(await outcome(hanging), asyncio.CancelledError)
                await waiting
        script.gate("here").open()
        assert await pool.runQuery("rows 1") == [(1,)]
        assert pool.stats().opened == 2
    assert script.calls["commit"] == 1  # Of the query at the end.


async def test_timeout_of_a_block(shop):
    """A block that takes too long is rolled back, wherever its task is."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises(QueryTimeout):
            async with pool.transaction(timeout=0.2) as txn:
                await txn.runOperation("delete from item")
                # The worker is given back in the middle of the block.
                await asyncio.create_task(alone(pool))
                await txn.runQuery("select 1")
        with pytest.raises(QueryTimeout):
            async with pool.transaction(timeout=0.2) as txn:
                await txn.runOperation("delete from item")
                await asyncio.create_task(alone(pool))
        assert names(shop) == ["hammer", "saw"]


async def test_timeout_while_waiting_for_a_worker(script):
    """A block whose time is over before it had a worker never begins."""
    async with ConnectionPool(script, cp_max=1) as pool:
        busy = pool.runQuery("hang here; rows 1")
        await reached(script.gate("here").reached)
        with pytest.raises(PoolTimeout):
            async with pool.transaction(timeout=0.05):
                raise AssertionError
        script.gate("here").open()
        await busy


def test_loop_end(script):
    """When the loop ends every call fails with LoopClosed; the worker is given back."""
    told = []

    async def main():
        txn = await pool.transaction().__aenter__()
        kept.append(txn)
        for sql in ("hang here", "never"):
            txn.runQuery(sql).addErrback(lambda failure: told.append(failure.type))
        await reached(script.gate("here").reached)

    kept = []
    pool = ConnectionPool(script, cp_max=1)
    asyncio.run(main())
    assert told == [LoopClosed, LoopClosed]
    script.gate("here").open()
    pool.close()
    assert script.calls["rollback"] == 1
    assert script.open == 0


def test_loop_end_between_two_statements(script):
    """A lease that waits for its caller is rolled back when the loop ends."""

    async def main():
        txn = await pool.transaction().__aenter__()
        kept.append(txn)
        await txn.runQuery("rows 1")

    kept = []
    pool = ConnectionPool(script, cp_max=1)
    asyncio.run(main())
    wait_until(lambda: script.calls["rollback"] == 1, "the rollback")
    pool.close()
    assert script.open == 0


def test_task_left_at_the_end_of_its_loop(shop):
    """`asyncio.run` cancels a task inside its block: rolled back and given back."""

    async def hold(pool, inside):
        async with pool.transaction() as txn:
            await txn.runOperation("delete from item")
            inside.set()
            await asyncio.sleep(600)

    async def main(pool):
        inside = asyncio.Event()
        task = asyncio.create_task(hold(pool, inside))
        await inside.wait()
        return task

    pool = ConnectionPool(shop.url, cp_max=1)
    assert asyncio.run(main(pool)).cancelled()
    pool.close()
    assert names(shop) == ["hammer", "saw"]


def test_under_trio(tmp_path):
    """Under trio a block is left by trio's own cancellations, rolled back."""

    async def main():
        adapter.install()
        url = f"sqlite:///{tmp_path}/a.db"
        endless = "with recursive n(i) as (select 1 union all select i + 1 from n) "
        async with ConnectionPool(url, cp_max=1) as pool:
            await pool.runOperation("create table item (id integer)")
            async with pool.transaction() as txn:
                await txn.runOperation("insert into item values (1)")
                async with txn.savepoint():
                    await txn.runOperation("insert into item values (2)")
            with trio.move_on_after(0.1) as scope:
                async with pool.transaction() as txn, txn.savepoint():
                    await txn.runOperation("insert into item values (3)")
                    await trio.sleep(600)
            assert scope.cancelled_caught
            with trio.move_on_after(0.1) as scope:
                async with pool.transaction() as txn, txn.savepoint():
                    await txn.runOperation("insert into item values (3)")
                    await txn.runQuery(endless + "select count(*) from n")
            assert scope.cancelled_caught
            assert await pool.runQuery("select id from item") == [(1,), (2,)]
            with trio.CancelScope() as scope:
                async with pool.transaction() as txn:
                    txn.runOperation("insert into item values (3)")
                    scope.cancel()
            assert scope.cancelled_caught
            assert await pool.runQuery("select id from item") == [(1,), (2,)]
            assert pool.stats().opened == 1

    trio.run(main)


async def test_forgotten_transaction(script, caplog):
    """A transaction nobody can end any more is rolled back, with a warning."""
    async with ConnectionPool(script, cp_max=1) as pool:
        txn = await pool.transaction().__aenter__()
        await txn.runOperation("x")
        del txn
        gc.collect()
        assert await pool.runQuery("rows 1") == [(1,)]
        assert script.calls["rollback"] == 1
    assert "A transaction was never ended" in caplog.text


def test_destroyed_task(script, caplog, expect_errors):
    """A task destroyed inside its block does not keep its worker."""
    kept = []

    async def hold(pool):
        async with pool.transaction() as txn:
            kept.append(txn)  # So it is the task's end that counts.
            await txn.runOperation("x")
            await asyncio.get_running_loop().create_future()

    pool = ConnectionPool(script, cp_max=1)
    loop = asyncio.new_event_loop()
    task = loop.create_task(hold(pool))

    async def until_inside():
        while script.calls["execute"] < 1 or pool.stats().busy < 1:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0.001)

    loop.run_until_complete(until_inside())
    loop.close()
    del task, loop
    gc.collect()
    wait_until(lambda: script.calls["rollback"] == 1, "the rollback")
    pool.close()
    assert script.calls["rollback"] == 1
    assert "A transaction was never ended" in caplog.text
    assert all("destroyed" in r.getMessage() for r in expect_errors)


async def test_leak_is_told(script, caplog):
    """A lease that is held for long is told of, with the borrower's stack."""
    async with ConnectionPool(script, cp_max=1) as pool:
        leased = pool.transaction()
        leased._leak_seconds = 0.01

        async def borrow_for_long():
            async with leased:
                while "held its connection" not in caplog.text:
                    await asyncio.sleep(0.001)

        await borrow_for_long()
        caplog.clear()
        async with pool.transaction() as txn:
            await txn.runQuery("rows 1")
    assert "held its connection" not in caplog.text


async def test_leak_names_the_borrower(script, caplog):
    """The warning shows where the block was begun, innermost line last."""
    async with ConnectionPool(script, cp_max=1) as pool:
        leased = pool.transaction()
        leased._leak_seconds = 0.01
        async with leased:
            while not caplog.records:
                await asyncio.sleep(0.001)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    last = record.getMessage().splitlines()[-1]
    assert __file__ in last
    assert last.endswith("in test_leak_names_the_borrower")


def test_exit_with_an_open_lease():
    """A program that ends inside a block does not wait for it."""
    status, printed, errors = python(
        """
        import asyncio, time
        from enterprise import ConnectionPool

        pool = ConnectionPool("sqlite://")
        loop = asyncio.new_event_loop()

        async def main():
            global txn
            txn = await pool.transaction().__aenter__()

        loop.run_until_complete(main())
        loop.close()
        import atexit
        began = time.monotonic()
        atexit._run_exitfuncs()
        print(time.monotonic() - began < 3)
        """
    )
    assert (status, printed) == (0, "True\n"), errors
