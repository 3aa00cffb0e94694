"""Interactions in detail: isolation, what is called afterwards, time limits, phases."""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
import threading

import psycopg
import pytest

from enterprise import ConnectionPool, TransactionEnded
from enterprise.errors import (
    ConfigurationError,
    ConnectionLost,
    PoolClosed,
    PoolTimeout,
    QueryTimeout,
)
from tests.enterprise.helpers import names, outcome, reached, until

# -- how a transaction begins ----------------------------------------------------------


@pytest.mark.parametrize(
    "level", ["read committed", "repeatable read", "serializable", None]
)
async def test_isolation(pg_url, level):
    """An isolation level holds for this transaction, and for no other."""

    def ask(txn):
        return txn.execute("show transaction_isolation").fetchone()

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        told = await pool.runInteraction(ask, isolation=level)
        assert told == (level or "read committed",)
        assert await pool.runInteraction(ask) == ("read committed",)


async def test_deferrable(pg_url):
    """A transaction can be deferrable and read-only."""

    def ask(txn):
        return [
            txn.execute(f"show transaction_{what}").fetchone()[0]
            for what in ("isolation", "deferrable", "read_only")
        ]

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        told = await pool.runInteraction(
            ask, isolation="serializable", readonly=True, deferrable=True
        )
        assert told == ["serializable", "on", "on"]


async def test_isolation_in_sqlite(tmp_path):
    """SQLite is always serializable, and says so when asked for less."""
    async with ConnectionPool(f"sqlite:///{tmp_path}/a.db", cp_max=1) as pool:
        ask = functools.partial(pool.runInteraction, lambda txn: 1)
        assert await ask(isolation="serializable") == 1
        with pytest.raises(ConfigurationError, match="always serializable"):
            await ask(isolation="read committed")
        assert await pool.runQuery("select 1") == [(1,)]
        assert pool.stats().opened == 1


async def test_isolation_where_there_is_none(script):
    """A driver that cannot be told an isolation level says so; nothing runs."""
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(ConfigurationError, match="PEP 249 has no word"):
            await pool.runInteraction(lambda txn: 1, isolation="serializable")
    assert script.calls["execute"] == 0


async def test_unknown_isolation(script):
    """An isolation level that does not exist is refused at once."""
    pool = ConnectionPool(script)
    with pytest.raises(ValueError, match="There is no isolation level 'chaos'"):
        pool.runInteraction(print, isolation="chaos")
    assert pool.stats().submitted == 0


@pytest.mark.parametrize(
    "word", ["isolation", "readonly", "deferrable", "retry", "timeout"]
)
async def test_our_words(script, word):
    """A function with a parameter named as one of ours is refused, with the cure."""
    scope = {}
    exec(f"def mine(txn, {word}): return {word}", scope)
    mine = scope["mine"]
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(TypeError, match=rf"functools.partial\(function, {word}="):
            pool.runInteraction(mine, **{word: None})
        bound = functools.partial(mine, **{word: 7})
        assert await pool.runInteraction(bound) == 7
        if word == "timeout":
            with pytest.raises(TypeError, match="runWithConnection takes that word"):
                pool.runWithConnection(mine)


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan"), "5", True])
async def test_senseless_timeouts(script, wrong):
    """A time limit is a finite number above 0, for every kind of call."""
    pool = ConnectionPool(script)
    for call in (
        functools.partial(pool.runQuery, "x"),
        functools.partial(pool.runOperation, "x"),
        functools.partial(pool.runResult, "x"),
        functools.partial(pool.runScript, "x"),
        functools.partial(pool.runInteraction, print),
        functools.partial(pool.runWithConnection, print),
        pool.transaction,
    ):
        with pytest.raises(ValueError, match="choose a finite number above 0"):
            call(timeout=wrong)
    assert pool.stats().submitted == 0


# -- time limits -----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["runInteraction", "runWithConnection"])
async def test_timeout(endless, way):
    """What takes too long is stopped and rolled back; the connection stays in use."""
    database = endless.database
    database.rows("create table item (id integer primary key, name varchar(40))")

    def work(handle):
        handle.execute("insert into item values (1, 'hammer')")
        handle.execute(endless.sql)

    async with endless.pool(cp_max=1) as pool:
        with pytest.raises(QueryTimeout, match=r"more than its 0.2 s"):
            await getattr(pool, way)(work, timeout=0.2)
        assert names(database) == []
        assert await pool.runQuery("select 1") == [(1,)]
        assert pool.stats().opened == 1


async def test_timeout_while_waiting(script):
    """A call whose time is over before it had a connection was never begun."""
    async with ConnectionPool(script, cp_max=1) as pool:
        busy = pool.runQuery("hang here; rows 1")
        await reached(script.gate("here").reached)
        for call in (
            pool.runQuery("never", timeout=0.05),
            pool.runOperation("never", timeout=0.05),
            pool.runResult("never", timeout=0.05),
            pool.runScript("never", timeout=0.05),
            pool.runInteraction(lambda txn: txn.execute("never"), timeout=0.05),
        ):
            assert isinstance(await outcome(call), PoolTimeout)
        script.gate("here").open()
        assert await busy == [(1,)]
    assert script.calls["execute"] == 1


# -- what is known when the connection is lost -----------------------------------------


@pytest.mark.parametrize(
    ("verb", "line", "fate"),
    [("execute", "lose", "rolled_back"), ("commit", "lose", "unknown")],
)
async def test_lost_connection_tells_the_outcome(script, verb, line, fate):
    """A lost connection says what is known: rolled back, or unknown at COMMIT."""
    script.will(verb, line)
    script.will("rollback", "crash")
    script.InterfaceError = script.Error  # So that the driver sees what "lose" means.
    async with ConnectionPool(script, cp_max=1) as pool:
        told = []

        def work(txn):
            txn.onCommit(told.append, "committed")
            txn.onRollback(told.append, "rolled_back")
            txn.execute("rows 1")

        with pytest.raises(ConnectionLost) as caught:
            await pool.runInteraction(work)
        assert caught.value.outcome == fate
        assert told == ([] if fate == "unknown" else [fate])
        assert await pool.runQuery("rows 2") == [(2,)]


# -- afterwards ------------------------------------------------------------------------


async def test_on_commit(shop):
    """After the commit, on the loop's thread and before the callbacks, in order."""
    told = []

    def tell(what):
        told.append((what, threading.current_thread(), tuple(names(shop))))

    def work(txn):
        txn.execute("delete from item where id = 2")
        txn.onCommit(tell, "first")
        txn.onRollback(tell, "never")
        txn.onCommit(tell, "second")
        return "value"

    async with ConnectionPool(shop.url, cp_max=2) as pool:
        call = pool.runInteraction(work).addCallback(tell)
        await call
    here = threading.current_thread()
    assert told == [(what, here, ("hammer",)) for what in ("first", "second", "value")]


async def test_on_rollback(shop):
    """After the rollback, on the loop's thread and before the errbacks, in order."""
    told = []

    def work(txn):
        txn.execute("delete from item")
        txn.onRollback(told.append, 1)
        txn.onCommit(told.append, "never")
        txn.onRollback(lambda: told.append(names(shop)))
        raise LookupError

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        await pool.runInteraction(work).addErrback(lambda f: told.append(f.type))
    assert told == [1, ["hammer", "saw"], LookupError]


async def test_afterwards_in_savepoints(shop):
    """What was said in a savepoint that is undone runs as rolled back."""
    told = []

    def work(txn):
        txn.onCommit(told.append, "outer")
        with txn.savepoint():
            txn.onCommit(told.append, "kept")
            txn.onRollback(told.append, "never")
        try:
            with txn.savepoint():
                txn.onCommit(told.append, "never")
                with txn.savepoint():
                    txn.onRollback(told.append, "inner undone")
                txn.onRollback(told.append, "undone")
                raise LookupError
        except LookupError:
            pass
        txn.onCommit(told.append, "last")

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        await pool.runInteraction(work)
    assert told == ["outer", "kept", "inner undone", "undone", "last"]


async def test_afterwards_of_repeated_attempts(script):
    """What is repeated was rolled back; only the last attempt's commit counts."""
    from enterprise.retry import RetryPolicy

    told = []

    def work(txn):
        txn.onCommit(told.append, "committed")
        txn.onRollback(told.append, "undone")
        if len(tries := told_tries) < 2:
            tries.append(1)
            raise KeyError

    told_tries = []
    async with ConnectionPool(script, cp_max=1) as pool:
        policy = RetryPolicy(5, 0, on=(KeyError,))
        await pool.runInteraction(work, retry=policy)
    assert told == ["undone", "undone", "committed"]


async def test_afterwards_that_fail(script, expect_errors):
    """One that raises is logged; the others are called, and the value arrives."""
    told = []

    def fail():
        raise LookupError("not this one")

    def work(txn):
        txn.onCommit(told.append, 1)
        txn.onCommit(fail)
        txn.onCommit(told.append, 2)
        return "value"

    async with ConnectionPool(script, cp_max=1) as pool:
        assert await pool.runInteraction(work) == "value"
    assert told == [1, 2]
    (record,) = expect_errors
    assert "after the commit of its transaction, failed" in record.getMessage()


async def test_afterwards_must_be_functions(script):
    """What nobody would await is refused where it is said; the rollback follows."""

    async def later():
        raise AssertionError

    for what in (later, "no function"):
        async with ConnectionPool(script, cp_max=1) as pool:
            with pytest.raises(TypeError, match="no plain function"):
                await pool.runInteraction(lambda txn, what=what: txn.onCommit(what))
            with pytest.raises(TypeError, match="no plain function"):
                await pool.runInteraction(lambda txn, what=what: txn.onRollback(what))


async def test_afterwards_of_a_cancelled_interaction(script):
    """A cancelled interaction was rolled back; one that met its COMMIT was not."""
    told = []

    def work(txn):
        txn.onCommit(told.append, "committed")
        txn.onRollback(told.append, "undone")
        txn.execute("hang here")

    async with ConnectionPool(script, cp_max=1) as pool:
        call = pool.runInteraction(work)
        await reached(script.gate("here").reached)
        call.cancel()
        script.gate("here").open()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        assert told == ["undone"]
        script.will("commit", "hang commit")
        call = pool.runInteraction(work)
        await reached(script.gate("commit").reached)
        call.cancel()
        script.gate("commit").open()
        assert await call is None
        assert told == ["undone", "committed"]


async def test_afterwards_when_the_pool_is_abandoned(script):
    """A driver that does not react is left behind: what it did is rolled back."""
    told = []

    def work(txn):
        txn.onRollback(told.append, "undone")
        txn.execute("hang here")

    pool = ConnectionPool(script, cp_max=1, cp_grace=0.01)
    call = pool.runInteraction(work)
    await reached(script.gate("here").reached)
    await pool.close(timeout=0)
    assert isinstance(await outcome(call), PoolClosed)
    assert told == ["undone"]
    script.gate("here").open()
    await until(lambda: script.open == 0, "the connection to be closed")
    assert script.calls["commit"] == 0


def test_afterwards_when_the_loop_ends(script, caplog):
    """When the loop ends first, one warning says that nothing was called."""
    told = []

    def work(txn):
        txn.onCommit(told.append, "committed")
        txn.execute("hang here")

    async def main():
        pool.runInteraction(work).addErrback(lambda failure: told.append(failure.type))
        await reached(script.gate("here").reached)

    pool = ConnectionPool(script, cp_max=1)
    asyncio.run(main())
    script.gate("here").open()
    pool.close()
    assert [kind.__name__ for kind in told] == ["LoopClosed"]
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any("The event loop ended before a transaction" in text for text in warned)


# -- what may not happen by accident ---------------------------------------------------


@pytest.mark.parametrize("statement", ["commit", "rollback"])
async def test_no_statement_after_the_end(shop, statement):
    """A statement after a COMMIT of one's own is not committed by itself."""

    def meddle(txn):
        txn.execute(statement)
        txn.execute("delete from item")

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises(TransactionEnded, match="leave COMMIT"):
            await pool.runInteraction(meddle)
        assert names(shop) == ["hammer", "saw"]


async def test_what_spoiled_the_transaction_is_told(pg_url):
    """TransactionEnded is raised from the error that nobody let pass."""

    def careless(txn):
        try:
            txn.execute("select * from nowhere")
        except psycopg.Error:
            return

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        with pytest.raises(TransactionEnded) as caught:
            await pool.runInteraction(careless)
        assert isinstance(caught.value.__cause__, psycopg.errors.UndefinedTable)


async def test_savepoint_that_cannot_be_undone(script):
    """Where undoing a savepoint fails, nothing of the transaction is committed."""

    def work(txn):
        try:
            with txn.savepoint():
                script.will("execute", "fail no such thing")
                raise LookupError
        except script.OperationalError:
            return

    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(TransactionEnded):
            await pool.runInteraction(work)
        assert (script.calls["commit"], script.calls["rollback"]) == (0, 1)


async def test_failed_commit_of_ones_own(shop):
    """After a `commit` of its own that fails, a connection can roll back and go on."""
    told = []

    def work(connection):
        try:
            connection.execute("insert into item values (1, 'twice')")
        except (sqlite3.Error, psycopg.Error):
            told.append("refused")
        connection.rollback()
        connection.execute("insert into item values (3, 'file')")
        connection.commit()

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        await pool.runWithConnection(work)
    assert names(shop) == ["hammer", "saw", "file"]
    assert told == ["refused"]
