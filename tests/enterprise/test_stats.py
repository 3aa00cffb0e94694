"""A pool's figures: each counts what its name says, once."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import FrozenInstanceError

import pytest

from enterprise import (
    ConnectFailed,
    ConnectionLost,
    ConnectionPool,
    NestedAcquire,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    QueryTimeout,
    RetryPolicy,
)
from enterprise.stats import ErrorCounts
from enterprise.tally import KINDS, Tally
from tests.enterprise.helpers import outcome, reached, until


def cancels(pool):
    """Return cancels asked, confirmed and abandoned, and those abandoned now."""
    stats = pool.stats()
    return (
        stats.cancels_asked,
        stats.cancels_confirmed,
        stats.cancels_abandoned,
        stats.abandoned_now,
    )


async def test_times_are_in_the_histograms(shop):
    """Every call that ran is in the histograms of waits and runs, in any lane."""
    async with ConnectionPool(shop.url, cp_max=2) as pool:
        for _ in range(3):
            await pool.runQuery("select 1")
            await pool.runOperation("update item set name = 'x' where id = 1")
        await until(lambda: pool.stats().busy == 0, "the workers to rest")
        stats = pool.stats()
        assert stats.waits.count == stats.runs.count == stats.finished == 6
        assert stats.connects.count == stats.opened
        assert 0 < stats.connects.mean_seconds < 30
        assert stats.waits.total_seconds == pytest.approx(stats.wait_seconds)
        assert stats.runs.total_seconds == pytest.approx(stats.run_seconds)
        assert stats.errors == {}
        assert cancels(pool) == (0, 0, 0, 0)


async def test_figures_are_frozen_and_pickle(shop):
    """Nobody can change figures that were given out, and they survive pickling."""
    async with ConnectionPool(shop.url) as pool:
        await outcome(pool.runQuery("selekt"))
        await until(lambda: pool.stats().errors, "the error to be counted")
        stats = pool.stats()
    with pytest.raises(FrozenInstanceError):
        stats.busy = 3
    with pytest.raises(TypeError):
        stats.errors["OperationalError"] = 3
    copy = pickle.loads(pickle.dumps(stats))
    assert copy == stats
    assert hash(copy) == hash(stats)
    assert repr(copy.errors) == f"ErrorCounts({dict(stats.errors)})"


async def test_errors_by_kind(script):
    """Each call that failed is counted once, under its exception's class."""
    pool = ConnectionPool(script, cp_max=1, cp_backlog=1)
    for statement in ("fail a", "crash", "fail b", "rows 1"):
        await outcome(pool.runQuery(statement))
    held = pool.runQuery("hang here")
    waits = pool.runQuery("rows 1")
    with pytest.raises(PoolFull):
        await pool.runQuery("rows 1")
    await reached(script.gate("here").reached)
    waits.cancel()
    script.gate("here").open()
    await outcome(held)
    await pool.close()
    with pytest.raises(PoolClosed):
        await pool.runQuery("rows 1")
    errors = dict(pool.stats().errors)
    assert errors.pop("OperationalError") == 2
    assert errors.pop("PoolFull") == errors.pop("PoolClosed") == 1
    assert list(errors.values()) == [1]  # The crash; a cancelled call is no error.


async def test_errors_of_connecting(script):
    """A call that failed since nothing could be opened counts as ConnectFailed."""
    script.will("connect", "fail no")
    pool = ConnectionPool(script)
    with pytest.raises(ConnectFailed):
        await pool.runQuery("rows 1")
    assert pool.stats().errors == {"ConnectFailed": 1}
    assert pool.stats().failed == 1
    assert pool.stats().connects.count == 0
    await pool.close()


async def test_refused_circle_is_counted(script):
    """A call refused with NestedAcquire is counted; the lease goes on."""
    async with ConnectionPool(script, cp_max=1) as pool:
        async with pool.transaction():
            with pytest.raises(NestedAcquire):
                await pool.runQuery("rows 1")
        assert pool.stats().errors == {"NestedAcquire": 1}


async def test_timeouts_are_told_apart(database, endless):
    """Who waited too long and who ran too long have a figure each."""
    async with endless.pool(cp_max=1) as pool:
        with pytest.raises(QueryTimeout):
            await pool.runQuery(endless.sql, timeout=0.1)
        await until(lambda: pool.stats().busy == 0, "the worker to rest")
        running = pool.runQuery(endless.sql)
        await until(lambda: pool.stats().busy == 1, "the statement to run")
        with pytest.raises(PoolTimeout):
            await pool.runQuery("select 1", timeout=0.05)
        running.cancel()
        await outcome(running)
        await until(lambda: pool.stats().busy == 0, "the worker to rest")
        stats = pool.stats()
        assert (stats.pool_timeouts, stats.query_timeouts) == (1, 1)
        assert stats.errors == {"PoolTimeout": 1, "QueryTimeout": 1}
        assert cancels(pool) == (2, 2, 0, 0)


async def test_cancel_is_asked_then_confirmed(script):
    """A cancel counts as asked at once, and as confirmed with the worker's answer."""
    async with ConnectionPool(script, cp_max=1, cp_grace=30) as pool:
        call = pool.runQuery("hang here")
        await reached(script.gate("here").reached)
        call.cancel()
        assert cancels(pool) == (1, 0, 0, 0)
        script.gate("here").open()
        await outcome(call)
        await until(lambda: pool.stats().busy == 0, "the worker to rest")
        assert cancels(pool) == (1, 1, 0, 0)
        assert pool.stats().errors == {}


async def test_cancel_is_abandoned(script):
    """One that the driver ignores is abandoned, now until it returns, and for ever."""
    async with ConnectionPool(script, cp_max=2, cp_grace=0.02) as pool:
        call = pool.runQuery("hang here")
        await reached(script.gate("here").reached)
        call.cancel()
        await outcome(call)
        assert cancels(pool) == (1, 0, 1, 1)
        assert pool.stats().severed == 1
        script.gate("here").open()
        await until(lambda: pool.stats().busy == 0, "the worker to end")
        assert cancels(pool) == (1, 0, 1, 0)
        assert pool.stats().errors == {}


async def test_time_limit_that_is_abandoned_is_one_error(script):
    """A caller released by its time limit is one QueryTimeout, and nothing later."""
    async with ConnectionPool(script, cp_max=2, cp_grace=0.02) as pool:
        with pytest.raises(QueryTimeout):
            await pool.runQuery("hang here; fail late", timeout=0.02)
        assert pool.stats().errors == {"QueryTimeout": 1}
        script.gate("here").open()
        await until(lambda: pool.stats().busy == 0, "the worker to end")
        assert pool.stats().errors == {"QueryTimeout": 1}
        assert cancels(pool) == (1, 0, 1, 0)


async def test_cancel_in_a_block_is_one_cancel(endless):
    """A statement of a block that is cancelled is one cancel, and no error."""
    async with endless.pool(cp_max=1) as pool:
        with pytest.raises(KeyError):
            await _cancel_in_a_block(pool, endless)
        assert cancels(pool) == (1, 1, 0, 0)
        assert sum(pool.stats().errors.values()) == 1


async def _cancel_in_a_block(pool, endless):
    async with pool.transaction() as txn:
        call = txn.runQuery(endless.sql)
        await endless.started()
        call.cancel()
        assert pool.stats().cancels_asked == 1
        await outcome(call)
        assert cancels(pool) == (1, 1, 0, 0)
        error = await outcome(txn.runQuery("selekt"))
        assert pool.stats().errors == {type(error).__name__: 1}
        raise KeyError


async def test_retries_are_counted(script):
    """Each attempt beyond the first is a retry, and the call is one call."""
    policy = RetryPolicy(attempts=3, backoff=0.001, on=(script.Error,))
    async with ConnectionPool(script, cp_max=1) as pool:
        script.will("commit", "fail a", "fail b")

        def work(txn):
            txn.execute("rows 1")

        await outcome(pool.runInteraction(work, retry=policy))
        found = pool.stats()
        assert found.retries == script.calls["commit"] - 1
        assert found.submitted == 1


async def test_jobs_passed_on_are_counted(tmp_path):
    """A query that turns out to write goes from the reader to the writer, once."""
    url = f"sqlite:///{tmp_path}/shop.db"
    async with ConnectionPool(url, cp_max=2) as pool:
        await pool.runOperation("create table t (a int)")
        await pool.runQuery("insert into t values (1) returning a")
        await pool.runQuery("insert into t values (1) returning a", write=True)
        stats = pool.stats()
        assert stats.passed_on == 1
        assert stats.errors == {}


async def test_oldest_wait(script):
    """The call at the head of the queue says for how long nobody has come for it."""
    async with ConnectionPool(script, cp_max=1) as pool:
        held = pool.runQuery("hang here")
        await reached(script.gate("here").reached)
        waits = pool.runQuery("rows 1")
        before = pool.stats().oldest_wait_seconds
        await until(
            lambda: pool.stats().oldest_wait_seconds > before + 0.001,
            "the time to pass",
        )
        script.gate("here").open()
        await asyncio.gather(held, waits)
        assert pool.stats().oldest_wait_seconds == 0


async def test_lost_connection_is_one_error(script):
    """A lost connection counts under ConnectionLost, not under what the driver said."""
    async with ConnectionPool(script, cp_max=1) as pool:
        script.InterfaceError = script.OperationalError
        with pytest.raises(ConnectionLost):
            await pool.runQuery("lose")
        del script.InterfaceError
        await until(lambda: pool.stats().busy == 0, "the worker to end")
        assert pool.stats().errors == {"ConnectionLost": 1}
        assert pool.stats().lost == 1


def test_kinds_are_bounded():
    """Classes made while the program runs cannot fill the memory with their names."""
    tally = Tally()
    for number in range(KINDS + 5):
        tally.failed(type(f"E{number}", (Exception,), {})())
    tally.failed(type("E3", (Exception,), {})())
    errors = tally.errors()
    assert len(errors) == KINDS + 1
    assert (errors["other"], errors["E3"]) == (5, 2)
    assert repr(tally) == f"<Tally: {KINDS + 6} errors, 0 jobs stopped>"


def test_counts_are_read_only():
    """Counts are a mapping of their own, which the source cannot change either."""
    source = {"A": 1}
    counts = ErrorCounts(source)
    source["A"] = 2
    assert dict(counts) == {"A": 1}
    assert counts == {"A": 1}
    assert counts.get("B") is None
    assert not hasattr(counts, "__dict__")
