"""Leases that are cancelled, at every step."""

from __future__ import annotations

import asyncio
import random
import threading

import psycopg
import pytest

from enterprise import ConnectionPool, TransactionEnded
from tests.enterprise.helpers import (
    balance,
    names,
    outcome,
    reached,
)
from tests.enterprise.leases import alone


async def test_cancel_while_waiting_for_a_worker(script):
    """A block that is cancelled while it waits for a worker never begins."""
    async with ConnectionPool(script, cp_max=1) as pool:
        busy = pool.runQuery("hang here; rows 1")
        await reached(script.gate("here").reached)
        entering = asyncio.create_task(pool.transaction().__aenter__())
        await asyncio.sleep(0)
        entering.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert pool.stats().removed == 1
        script.gate("here").open()
        assert await busy == [(1,)]


async def test_cancel_while_beginning(script):
    """A block cancelled while its transaction begins gives its worker back."""
    script.will("cursor", "hang begin")
    async with ConnectionPool(script, cp_max=1) as pool:
        entering = asyncio.create_task(pool.transaction().__aenter__())
        await reached(script.gate("begin").reached)
        entering.cancel()
        script.gate("begin").open()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert script.calls["rollback"] == 1
        assert await pool.runQuery("rows 1") == [(1,)]


async def test_cancel_when_begun_but_not_told(script):
    """A cancel that meets the news of the beginning wins: the block never begins."""
    async with ConnectionPool(script, cp_max=1) as pool:
        entering = asyncio.create_task(pool.transaction().__aenter__())
        await asyncio.sleep(0)
        while not script.calls["cursor"]:
            pass  # The loop cannot take the news in meanwhile.
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert script.calls["rollback"] == 1
        assert await pool.runQuery("rows 1") == [(1,)]


async def test_cancel_a_block_between_statements(shop):
    """A task cancelled anywhere in its block rolls back and gives the worker back."""
    inside = asyncio.Event()

    async def work(pool):
        async with pool.transaction() as txn:
            await txn.runOperation("delete from item")
            inside.set()
            await asyncio.sleep(600)

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        task = asyncio.create_task(work(pool))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert names(shop) == ["hammer", "saw"]
        await alone(pool)
        assert pool.stats().opened == 1


async def test_cancel_a_block_in_a_statement(endless):
    """A task cancelled while its statement runs: stopped, rolled back, given back."""
    database = endless.database
    database.rows("create table item (id integer primary key, name varchar(40))")

    async def work(pool):
        async with pool.transaction() as txn:
            await txn.runOperation("insert into item values (1, 'hammer')")
            await txn.runQuery(endless.sql)

    async with endless.pool(cp_max=1) as pool:
        task = asyncio.create_task(work(pool))
        await endless.started()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await endless.ended()
        assert names(database) == []
        await alone(pool)
        assert pool.stats().opened == 1


async def test_timeout_around_one_statement(endless):
    """Cancelling one call stops that statement; the database says what comes then."""
    database = endless.database
    database.rows("create table item (id integer primary key, name varchar(40))")
    async with endless.pool(cp_max=1) as pool:

        async def work():
            async with pool.transaction() as txn:
                await txn.runOperation("insert into item values (1, 'hammer')")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await txn.runQuery(endless.sql)
                await endless.ended()
                await txn.runOperation("insert into item values (2, 'saw')")

        if database.kind == "sqlite":  # A query that is interrupted spoils nothing.
            await work()
            assert names(database) == ["hammer", "saw"]
        else:
            with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                await work()
            assert names(database) == []
        await alone(pool)
        assert pool.stats().opened == 1


async def test_timeout_in_a_savepoint(endless):
    """A statement cancelled in a savepoint leaves the transaction around it whole."""
    database = endless.database
    database.rows("create table item (id integer primary key, name varchar(40))")
    async with endless.pool(cp_max=1) as pool:
        async with pool.transaction() as txn:
            await txn.runOperation("insert into item values (1, 'hammer')")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2), txn.savepoint():
                    await txn.runOperation("insert into item values (2, 'saw')")
                    await txn.runQuery(endless.sql)
            await txn.runOperation("insert into item values (3, 'file')")
        await alone(pool)
    assert names(database) == ["hammer", "file"]


async def test_interrupted_write_ends_sqlites_transaction(tmp_path):
    """Where SQLite rolls back on an interrupt, later calls say so and do nothing."""
    running = threading.Event()
    go_on = threading.Event()

    def slow():
        running.set()
        go_on.wait(30)
        return 1

    def prepare(raw):
        raw.create_function("slow", 0, slow)

    url = f"sqlite:///{tmp_path}/a.db"
    async with ConnectionPool(url, cp_max=1, cp_openfun=prepare) as pool:
        await pool.runOperation("create table item (id integer)")
        with pytest.raises(TransactionEnded, match="transaction is over"):
            async with pool.transaction() as txn:
                await txn.runOperation("insert into item values (1)")
                writing = txn.runOperation(
                    "with recursive n(i) as (select slow() union all select i + 1 "
                    "from n where i < 100000000) insert into item select i from n"
                )
                await reached(running)
                writing.cancel()
                go_on.set()
                with pytest.raises(asyncio.CancelledError):
                    await writing
                await txn.runOperation("insert into item values (2)")
        assert await pool.runQuery("select count(*) from item") == [(0,)]
        await alone(pool)


async def test_cancel_a_queued_call(script):
    """A call cancelled before its turn is never made; the others are not touched."""
    async with ConnectionPool(script, cp_max=1) as pool:
        async with pool.transaction() as txn:
            first = txn.runQuery("hang here; rows 1")
            await reached(script.gate("here").reached)
            never = txn.runQuery("never")
            last = txn.runQuery("rows 3")
            assert never.cancel()
            assert never.cancelled()
            script.gate("here").open()
            assert await first == [(1,)]
            assert await last == [(3,)]
        assert script.calls["commit"] == 1
    assert "never" not in str(script.history)


async def test_late_cancel_does_not_hit_the_next_statement(tmp_path):
    """A cancel that reaches the database after its statement's end stops nothing."""
    gates = [threading.Event(), threading.Event()]
    reached_gates = [threading.Event(), threading.Event()]

    def gate(number):
        reached_gates[number].set()
        gates[number].wait(30)
        return number

    def prepare(raw):
        raw.create_function("gate", 1, gate)

    url = f"sqlite:///{tmp_path}/a.db"
    async with ConnectionPool(url, cp_max=1, cp_openfun=prepare) as pool:
        held = []
        canceller = pool._office._canceller
        canceller.callInThread = lambda *stop: held.append(stop)
        async with pool.transaction() as txn:
            first = txn.runQuery("select gate(0)")
            await reached(reached_gates[0])
            first.cancel()
            gates[0].set()
            assert await first == [(0,)]
            second = txn.runQuery("select gate(1) union all select gate(1)")
            await reached(reached_gates[1])
            assert held
            for function, *args in held:  # Only now they arrive.
                function(*args)
            gates[1].set()
            assert await second == [(1,), (1,)]
        del canceller.callInThread


async def test_cancel_a_call_that_cannot_be_stopped(script):
    """Without a driver's cancel the statement is done, and the task cancelled later."""
    told = []

    async def work(pool):
        async with pool.transaction() as txn:
            told.append(await txn.runQuery("hang here; rows 1"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            told.append("never")

    async with ConnectionPool(script, cp_max=1, cp_grace=30) as pool:
        task = asyncio.create_task(work(pool))
        await reached(script.gate("here").reached)
        task.cancel()
        script.gate("here").open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert told == [[(1,)]]
        assert (script.calls["commit"], script.calls["rollback"]) == (0, 1)
        assert pool.stats().opened == 1


async def test_cancel_at_the_commit(script):
    """A cancel that meets the COMMIT comes at the next await, and is not lost."""
    script.will("commit", "hang commit")
    told = []

    async def work(pool):
        async with pool.transaction() as txn:
            await txn.runOperation("x")
        told.append("committed")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        told.append("never")

    async with ConnectionPool(script, cp_max=1, cp_grace=30) as pool:
        task = asyncio.create_task(work(pool))
        await reached(script.gate("commit").reached)
        task.cancel()
        script.gate("commit").open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert told == ["committed"]
        assert (script.calls["commit"], script.calls["rollback"]) == (1, 0)


async def test_cancel_at_the_rollback(script):
    """A cancel that meets the ROLLBACK is not lost, and the worker is given back."""
    script.will("rollback", "hang rollback")

    async def work(pool):
        try:
            async with pool.transaction():
                raise LookupError
        except LookupError:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return "not cancelled"

    async with ConnectionPool(script, cp_max=1, cp_grace=30) as pool:
        task = asyncio.create_task(work(pool))
        await reached(script.gate("rollback").reached)
        task.cancel()
        script.gate("rollback").open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await pool.runQuery("rows 1") == [(1,)]
        assert pool.stats().opened == 1


async def test_cancel_on_the_way_out_by_an_error(script):
    """The error that leaves the block goes on; the cancel comes at the next await."""
    told = []

    async def work(pool):
        try:
            async with pool.transaction() as txn:
                txn.runQuery("hang here")
                await reached(script.gate("here").reached)
                raise LookupError
        except LookupError:
            told.append("error")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            told.append("never")

    async with ConnectionPool(script, cp_max=1, cp_grace=30) as pool:
        task = asyncio.create_task(work(pool))
        await reached(script.gate("here").reached)
        while not pool._office.writer.team.running()[0]._undoing:
            await asyncio.sleep(0)
        task.cancel()
        script.gate("here").open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert told == ["error"]
        assert script.calls["rollback"] == 1


async def test_cancel_while_the_block_waits_for_its_calls(script):
    """A block cancelled while it waits for its calls rolls back."""

    async def work(pool):
        async with pool.transaction() as txn:
            txn.runQuery("hang here; rows 1")
            txn.runQuery("never")

    async with ConnectionPool(script, cp_max=1, cp_grace=30) as pool:
        task = asyncio.create_task(work(pool))
        await reached(script.gate("here").reached)
        task.cancel()
        await asyncio.sleep(0)
        script.gate("here").open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (script.calls["commit"], script.calls["rollback"]) == (0, 1)
    assert "never" not in str(script.history)


async def test_error_while_other_calls_wait(script):
    """When the block fails, calls that wait fail with TransactionEnded, never run."""
    async with ConnectionPool(script, cp_max=1, cp_grace=30) as pool:
        with pytest.raises(LookupError):
            async with pool.transaction() as txn:
                running = txn.runQuery("hang here; rows 1")
                waiting = txn.runQuery("never")
                await reached(script.gate("here").reached)
                waiting.addBoth(lambda _: script.gate("here").open() or _)
                raise LookupError
        assert isinstance(await outcome(waiting), TransactionEnded)
        assert await outcome(running) == [(1,)]  # It could not be stopped.
        assert script.calls["rollback"] == 1
    assert "never" not in str(script.history)


async def test_savepoint_is_undone_although_cancelled(script):
    """The way out of a savepoint is gone to its end, whoever cancels meanwhile."""

    async def work(pool):
        async with pool.transaction() as txn:
            slow = txn.runQuery("rows 1")
            try:
                async with txn.savepoint():
                    await slow
                    txn.runQuery("hang here; rows 2")
                    raise LookupError
            except (LookupError, asyncio.CancelledError):
                await txn.runQuery("after")

    async with ConnectionPool(script, cp_max=1, cp_grace=30) as pool:
        task = asyncio.create_task(work(pool))
        await reached(script.gate("here").reached)
        await asyncio.sleep(0)
        task.cancel()  # It waits for the savepoint to be undone, behind that call.
        script.gate("here").open()
        await asyncio.wait([task])
        said = [what[0] for _, verb, what in script.history if verb == "execute"]
        assert "rollback to savepoint threadbridge_1" in said
        assert "release savepoint threadbridge_1" in said


async def test_storm(database):
    """Whenever tasks are cancelled, each transaction is done wholly or not at all."""
    database.rows("create table account (id integer primary key, money integer)")
    for number in range(4):
        database.rows("insert into account values (?, 100)", (number,))
    change = database.sql("update account set money = money + ? where id = ?")
    chance = random.Random(7)
    began, done = [], []

    async def transfer(pool, source, target):
        async with pool.transaction() as txn:
            began.append(1)
            txn.onCommit(done.append, 1)
            # In one order, so that no two of them wait for each other.
            await txn.runOperation(change, (-1, min(source, target)))
            async with txn.savepoint():
                txn.runOperation(change, (1, max(source, target)))
                await txn.runQuery("select 1")

    async def disturbed(pool):
        source, target = chance.sample(range(4), 2)
        task = asyncio.create_task(transfer(pool, source, target))
        for _ in range(chance.randrange(60)):
            await asyncio.sleep(chance.choice([0, 0, 0, 0.0005]))
        task.cancel()
        result = await outcome(task)
        assert result is None or isinstance(result, asyncio.CancelledError), result

    async with ConnectionPool(database.url, cp_max=3) as pool:
        for _ in range(12):
            await asyncio.gather(*(disturbed(pool) for _ in range(20)))
        await alone(pool)
        assert database.rows("select sum(money) from account") == [(400,)]
        first, last = balance(pool.stats())
        assert first == last
        assert pool.stats().opened == pool.stats().connections
        assert began
        async with pool.transaction() as txn:
            await txn.runOperation("delete from account")
    assert len(began) > len(done) > 0
