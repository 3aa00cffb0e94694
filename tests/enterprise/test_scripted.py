"""What any DB-API 2.0 driver gets, and what a misbehaving one cannot break."""

from __future__ import annotations

import asyncio
import logging

import pytest

from enterprise import ConnectFailed, ConnectionPool, PoolFull
from enterprise.errors import ConnectionLost
from tests.enterprise.helpers import outcome, reached
from tests.scripted import InterfaceError, OperationalError


def verbs(script, number=0):
    """Return what was called on a connection, in order."""
    return [verb for connection, verb, _ in script.history if connection == number]


async def test_single_statement_is_committed(script):
    """A driver without known autocommit executes and commits in one hop."""
    async with ConnectionPool(script, cp_max=1) as pool:
        assert await pool.runQuery("rows 1 2", (5,)) == [(1,), (2,)]
        assert await pool.runOperation("anything") is None
        result = await pool.runResult("rows 3")
        assert (result.rows, result.columns) == ([(3,)], ("value",))
    statement = ["cursor", "execute", "fetch", "commit"]
    silent = ["cursor", "execute", "commit"]
    expected = ["connect", *statement, *silent, *statement, "close"]
    assert verbs(script) == expected
    assert script.history[2][2] == ("rows 1 2", (5,))


async def test_only_the_owner_calls(script):
    """A connection is a thread that owns it: nobody else ever calls it."""
    async with ConnectionPool(script, cp_max=4) as pool:
        work = [pool.runQuery(f"rows {n}") for n in range(200)]
        assert await asyncio.gather(*work) == [[(n,)] for n in range(200)]
    assert script.trespasses == []
    assert script.calls["connect"] == script.calls["close"] <= 4
    assert script.open == 0


@pytest.mark.parametrize("style", ["qmark", "numeric", "named", "format", "pyformat"])
async def test_paramstyle(style, script):
    """The driver's own parameter style is told, and kept."""
    script.paramstyle = style
    assert ConnectionPool(script).paramstyle == style


@pytest.mark.parametrize("verb", ["cursor", "execute", "fetch", "commit"])
async def test_failing_verb_in_a_statement(script, verb):
    """Wherever a statement fails, the driver's error arrives; it is rolled back."""
    script.will(verb, "fail no luck")
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(OperationalError, match="no luck"):
            await pool.runQuery("rows 1")
        assert script.calls["rollback"] == 1
        assert await pool.runQuery("rows 2") == [(2,)]
        assert pool.stats().opened == 1


@pytest.mark.parametrize("verb", ["cursor", "execute", "commit"])
async def test_failing_verb_in_an_interaction(script, verb):
    """Wherever an interaction fails, the driver's error arrives; it is rolled back."""
    script.will(verb, "fail no luck")
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(OperationalError, match="no luck"):
            await pool.runInteraction(lambda txn: txn.execute("rows 1").rowcount)
        assert script.calls["rollback"] == 1
        assert await pool.runQuery("rows 2") == [(2,)]
        assert pool.stats().opened == 1


@pytest.mark.parametrize("statement", [True, False], ids=["statement", "interaction"])
async def test_failing_rollback(script, caplog, statement):
    """The first error arrives although the rollback fails, too; that one is logged."""
    script.will("execute", "busy")
    script.will("rollback", "fail no rollback")
    async with ConnectionPool(script, cp_max=1) as pool:
        if statement:
            work = pool.runOperation("x")
        else:
            work = pool.runInteraction(lambda txn: txn.execute("x").rowcount)
        with pytest.raises(OperationalError, match="database is locked"):
            await work
        assert "no rollback" in caplog.text
        # What state that connection is in nobody knows: the next call gets another.
        assert await pool.runQuery("rows 2") == [(2,)]
        assert (pool.stats().opened, pool.stats().connections) == (2, 1)


@pytest.mark.parametrize("statement", [True, False], ids=["statement", "interaction"])
async def test_lost_connection(script, statement):
    """A connection that is lost fails its call, and the next gets a new one."""
    async with ConnectionPool(script, cp_max=1) as pool:
        await pool.runQuery("rows 1")
        if statement:
            work = pool.runOperation("lose")
        else:
            work = pool.runInteraction(lambda txn: txn.execute("lose"))
        with pytest.raises(ConnectionLost, match="server closed") as caught:
            await work
        assert isinstance(caught.value.__cause__, OperationalError)
        assert await pool.runQuery("rows 2") == [(2,)]
        assert verbs(script)[-1] == "close"
        assert (pool.stats().opened, pool.stats().connections) == (2, 1)


@pytest.mark.parametrize("verb", ["cursor", "execute", "fetch", "commit"])
async def test_crashing_driver(script, verb):
    """An error that is none of the driver's arrives as well, and the pool goes on."""
    script.will(verb, "crash")
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(ZeroDivisionError):
            await pool.runQuery("rows 1")
        assert await pool.runQuery("rows 2") == [(2,)]
        assert script.calls["rollback"] == 1


async def test_connect_fails(script):
    """Who waits for a connection gets ConnectFailed; the next call tries again."""
    script.will("connect", "fail no route", "fail no route")
    async with ConnectionPool(script, cp_max=1) as pool:
        for _ in range(2):
            with pytest.raises(ConnectFailed, match="no route") as caught:
                await pool.runQuery("rows 1")
            assert isinstance(caught.value.__cause__, OperationalError)
        assert await pool.runQuery("rows 1") == [(1,)]
        assert (pool.stats().failed, pool.stats().opened) == (2, 1)


async def test_connect_fails_while_others_serve(script, caplog):
    """A connect error fails nobody who is served by other connections."""
    async with ConnectionPool(script, cp_max=2) as pool:
        first = pool.runQuery("hang a; rows 1")
        await reached(script.gate("a").reached)
        script.will("connect", "hang b; fail no route")
        second = pool.runQuery("rows 2")
        await reached(script.gate("b").reached)
        script.gate("b").open()
        while pool.stats().failed == 0:
            await asyncio.sleep(0)
        script.gate("a").open()
        assert await first == [(1,)]
        assert await second == [(2,)]
    assert "goes on with fewer connections" in caplog.text


async def test_failing_openfun(script):
    """A connection whose `cp_openfun` fails is closed; its error is told."""

    def refuse(raw):
        raise LookupError("not this one")

    async with ConnectionPool(script, cp_max=1, cp_openfun=refuse) as pool:
        for _ in range(3):
            with pytest.raises(ConnectFailed, match="not this one"):
                await pool.runQuery("rows 1")
        assert pool.stats().failed == 3
    assert script.calls["connect"] == script.calls["close"] == 3


async def test_failing_close(script, caplog):
    """A connection that cannot be closed is logged; the pool closes all the same."""
    script.will("close", "fail stuck")
    async with ConnectionPool(script, cp_max=1) as pool:
        await pool.runQuery("rows 1")
    assert pool.stats().connections == 0
    assert "closed badly: stuck" in caplog.text


async def test_fast_job_before_a_blocking_one(script):
    """A fast job is answered although the next job on its worker blocks."""
    async with ConnectionPool(script, cp_max=1) as pool:
        fast = pool.runQuery("rows 1")
        # It hangs until the fast one's callback has run.
        slow = pool.runQuery("hang here; rows 2")
        fast.addCallback(lambda rows: script.gate("here").open() or rows)
        assert await fast == [(1,)]
        assert await slow == [(2,)]


async def test_answer_in_the_middle_of_a_queue(script):
    """No outcome is kept back behind a job that blocks, wherever it stands."""
    async with ConnectionPool(script, cp_max=1) as pool:
        many = [pool.runQuery(f"rows {n}") for n in range(100)]
        slow = pool.runQuery("hang here; rows 2")
        await asyncio.gather(*many)
        script.gate("here").open()
        assert await slow == [(2,)]


async def test_two_calls_overlap(script):
    """Two calls that block are in the driver at the same time."""
    async with ConnectionPool(script, cp_max=2) as pool:
        calls = [pool.runQuery(f"hang {name}; rows 1") for name in "ab"]
        await reached(script.gate("a").reached)
        await reached(script.gate("b").reached)
        script.release()
        assert await asyncio.gather(*calls) == [[(1,)], [(1,)]]


@pytest.mark.parametrize("backlog", [0, 1, 5])
async def test_pool_full(script, backlog):
    """PoolFull if and only if as many jobs are unfinished as maximum and backlog."""
    async with ConnectionPool(script, cp_max=2, cp_backlog=backlog) as pool:
        taken = [pool.runQuery("hang here; rows 1") for _ in range(2 + backlog)]
        with pytest.raises(PoolFull, match=f"bound is {2 + backlog}") as caught:
            await pool.runQuery("rows 2")
        assert (caught.value.unfinished, caught.value.limit) == (2 + backlog,) * 2
        assert pool.stats().refused == 1
        script.gate("here").open()
        assert await asyncio.gather(*taken) == [[(1,)]] * (2 + backlog)
        assert await pool.runQuery("rows 2") == [(2,)]


async def test_no_bound(script):
    """A backlog of None takes everything."""
    async with ConnectionPool(script, cp_max=1, cp_backlog=None) as pool:
        many = [pool.runOperation("x") for _ in range(20_000)]
        await asyncio.gather(*many)
        assert pool.stats().refused == 0


async def test_cancel_in_commit(script):
    """A cancel that meets a COMMIT delivers the value and comes at the next await."""
    script.will("commit", "hang commit")
    told = []

    async def work(pool):
        told.append(await pool.runInteraction(lambda txn: "committed"))
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    async with ConnectionPool(script, cp_max=1) as pool:
        task = asyncio.create_task(work(pool))
        await reached(script.gate("commit").reached)
        assert task.cancel("enough")
        script.gate("commit").open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert told == ["committed", "cancelled"]
        assert script.calls["rollback"] == 0


async def test_cancel_on_the_way_home(script):
    """A cancel that comes when the value is on its way comes at the next await."""
    told = []

    async def work(pool):
        told.append(await pool.runQuery("rows 1"))
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    async with ConnectionPool(script, cp_max=1) as pool:
        task = asyncio.create_task(work(pool))
        await asyncio.sleep(0)
        while pool.stats().unfinished:
            pass  # The loop cannot take it in meanwhile.
        task.cancel()
        assert isinstance(await outcome(task), asyncio.CancelledError)
        assert told == [[(1,)], "cancelled"]


async def test_cancel_before_commit(script):
    """A cancel that arrives while the function works rolls back, never commits."""
    async with ConnectionPool(script, cp_max=1) as pool:
        work = pool.runInteraction(lambda txn: txn.execute("hang here"))
        await reached(script.gate("here").reached)
        assert work.cancel()
        script.gate("here").open()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert (script.calls["commit"], script.calls["rollback"]) == (0, 1)
        assert pool.stats().opened == 1


async def test_cancelled_while_queued(script):
    """What is cancelled while it waits fails at once and never reaches the driver."""
    async with ConnectionPool(script, cp_max=1) as pool:
        busy = pool.runQuery("hang here; rows 1")
        await reached(script.gate("here").reached)
        waiting = [pool.runOperation(f"never {n}") for n in range(100)]
        kept = pool.runQuery("rows 2")
        assert all(deferred.cancel() for deferred in waiting)
        assert all(deferred.cancelled() for deferred in waiting)
        assert pool.stats().removed == 100
        script.gate("here").open()
        assert await busy == [(1,)]
        assert await kept == [(2,)]
    assert script.calls["execute"] == 2


async def test_transaction_knows_it_is_cancelled(script):
    """A function can ask whether anybody still waits for it."""
    seen = []

    def work(txn):
        seen.append(txn.cancelled)
        script.gate("here").wait()
        seen.append(txn.cancelled)

    async with ConnectionPool(script, cp_max=1) as pool:
        deferred = pool.runInteraction(work)
        await reached(script.gate("here").reached)
        deferred.cancel()
        script.gate("here").open()
        assert isinstance(await outcome(deferred), asyncio.CancelledError)
    assert seen == [False, True]


async def test_idle_connections_are_closed(script):
    """A connection above the minimum that had nothing to do for `cp_idle` is closed."""
    async with ConnectionPool(script, cp_min=1, cp_max=4, cp_idle=0.01) as pool:
        calls = [pool.runQuery(f"hang {n}; rows 1") for n in range(4)]
        for n in range(4):
            await reached(script.gate(str(n)).reached)
        script.release()
        await asyncio.gather(*calls)
        while pool.stats().connections > 1:
            await asyncio.sleep(0)
        assert await pool.runQuery("rows 1") == [(1,)]
        assert pool.stats().connections == 1


async def test_nothing_is_said_at_error(script, caplog):
    """What arrives at the caller is not logged as well."""
    caplog.set_level(logging.INFO)
    async with ConnectionPool(script, cp_max=1) as pool:
        await outcome(pool.runOperation("busy"))
        await outcome(pool.runInteraction(lambda txn: txn.execute("fail x")))
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_closed_connection_is_an_interface_error(script):
    """A connection that says InterfaceError is replaced."""
    async with ConnectionPool(script, cp_max=1) as pool:

        def close(txn):
            txn.connection.close()
            txn.execute("x")

        error = await outcome(pool.runInteraction(close))
        assert isinstance(error, ConnectionLost)
        assert isinstance(error.__cause__, InterfaceError)
        assert await pool.runQuery("rows 2") == [(2,)]
        assert pool.stats().opened == 2
