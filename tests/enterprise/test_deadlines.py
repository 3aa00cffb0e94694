"""Calls that wait too long, run too long, or cannot be stopped."""

from __future__ import annotations

import asyncio
import threading

import pytest

from enterprise import ConnectionPool
from enterprise.errors import ConnectionLost, PoolTimeout, QueryTimeout
from tests.enterprise.helpers import outcome, until

FOREVER = (
    "with recursive n (i) as (select 1 union all select i + 1 from n) "
    "select count(*) from n"
)
SLEEP = "select pg_sleep(60)"


def endless(database):
    """A statement that does not end by itself."""
    return FOREVER if database.kind == "sqlite" else SLEEP


# -- waiting -----------------------------------------------------------------------


async def test_waited_too_long(script):
    """Who waits longer than cp_timeout gets PoolTimeout, with the pool's figures."""
    async with ConnectionPool(script, cp_max=1, cp_timeout=0.05) as pool:
        held = pool.runQuery("hang here; rows 1")
        error = await outcome(pool.runQuery("rows 2"))
        assert isinstance(error, PoolTimeout)
        assert isinstance(error, TimeoutError)
        assert "1 open, 1 busy" in str(error)
        assert "raise cp_max" in str(error)
        assert error.stats.busy == 1
        script.gate("here").open()
        assert await held == [(1,)]
        assert await pool.runQuery("rows 3") == [(3,)]


async def test_running_is_not_waiting(script):
    """cp_timeout bounds the wait only: a call that has its connection may take long."""
    async with ConnectionPool(script, cp_max=1, cp_timeout=0.02) as pool:
        held = pool.runQuery("hang here; rows 1")
        assert isinstance(await outcome(pool.runQuery("rows 2")), PoolTimeout)
        script.gate("here").open()
        assert await held == [(1,)]


async def test_timeout_covers_the_wait(script):
    """A call's own time limit holds while it waits, too, and is PoolTimeout then."""
    async with ConnectionPool(script, cp_max=1) as pool:
        held = pool.runQuery("hang here; rows 1")
        error = await outcome(pool.runQuery("rows 2", timeout=0.03))
        assert isinstance(error, PoolTimeout)
        script.gate("here").open()
        await held


async def test_many_wait_and_one_alarm_rings(script):
    """Every one of many calls that wait is told, in time, whatever it was given."""
    async with ConnectionPool(script, cp_max=1, cp_timeout=0.2) as pool:
        held = pool.runQuery("hang here; rows 1")
        calls = [
            pool.runQuery("rows 2", timeout=seconds)
            for seconds in (0.1, 0.02, None, 0.05, None)
        ]
        order = []
        for number, call in enumerate(calls):
            call.addErrback(lambda failure, number=number: order.append(number))
        await asyncio.gather(*calls)
        assert order[:3] == [1, 3, 0]
        assert sorted(order) == [0, 1, 2, 3, 4]
        script.gate("here").open()
        await held


async def test_blocked_loop_does_not_stop_the_clock(database):
    """A statement is stopped in time although the loop is blocked meanwhile."""
    async with ConnectionPool(database.url, cp_max=2) as pool:
        await pool.runQuery("select 1")
        call = pool.runQuery(endless(database), timeout=0.05)
        stopped = threading.Event()

        def watch():
            while pool.stats().busy:
                stopped.wait(0.005)
            stopped.set()

        watcher = threading.Thread(target=watch)
        await until(lambda: pool.stats().busy == 1, "the statement to run")
        watcher.start()
        assert stopped.wait(20)  # The loop stands still here.
        watcher.join()
        assert isinstance(await outcome(call), QueryTimeout)


# -- running -----------------------------------------------------------------------


async def test_ran_too_long(database):
    """Who runs longer than the limit gets QueryTimeout; the connection stays in use."""
    async with ConnectionPool(database.url, cp_max=1) as pool:
        error = await outcome(pool.runQuery(endless(database), timeout=0.05))
        assert isinstance(error, QueryTimeout)
        assert isinstance(error, TimeoutError)
        assert "more than its 0.05 s" in str(error)
        assert await pool.runQuery("select 1") == [(1,)]
        assert pool.stats().opened == 1


async def test_pools_own_limit(database):
    """cp_query_timeout holds for every call that says nothing else."""
    async with ConnectionPool(database.url, cp_max=1, cp_query_timeout=0.05) as pool:
        assert isinstance(await outcome(pool.runQuery(endless(database))), QueryTimeout)
        assert isinstance(
            await outcome(
                pool.runInteraction(lambda txn: txn.execute(endless(database)))
            ),
            QueryTimeout,
        )
        assert await pool.runQuery("select 1", timeout=30) == [(1,)]


async def test_time_is_over_after_the_commit(script):
    """What was committed when the time ran out is no timeout: it is delivered."""
    script.will("commit", "hang commit")
    async with ConnectionPool(script, cp_max=1, cp_grace=30) as pool:
        call = pool.runOperation("rows", timeout=0.02)
        gate = script.gate("commit")
        await until(gate.reached.is_set, "the commit")
        await asyncio.sleep(0.05)
        gate.open()
        assert await call is None


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "1", True])
async def test_impossible_limits(script, wrong):
    """A time limit is a finite number of seconds above 0."""
    async with ConnectionPool(script) as pool:
        with pytest.raises((ValueError, TypeError)):
            pool.runQuery("rows 1", timeout=wrong)


# -- drivers that do not react -----------------------------------------------------


async def test_driver_without_cancel(script):
    """Its caller is released after cp_grace; the connection ends when it returns."""
    async with ConnectionPool(script, cp_max=2, cp_grace=0.02) as pool:
        call = pool.runOperation("hang here")
        await until(script.gate("here").reached.is_set, "the statement")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await pool.runQuery("rows 2") == [(2,)]
        assert pool.stats().connections == 2
        script.gate("here").open()
        await until(lambda: pool.stats().connections == 1, "the connection to close")
        # Cancelled means not committed.
        assert "commit" not in [
            verb for number, verb, _ in script.history if not number
        ]


async def test_released_in_the_middle_of_commit(script):
    """Nobody says "cancelled" of a COMMIT whose end is not known."""
    script.will("commit", "hang commit")
    async with ConnectionPool(script, cp_max=1, cp_grace=0.02) as pool:
        call = pool.runOperation("rows 1")
        await until(script.gate("commit").reached.is_set, "the commit")
        call.cancel()
        error = await outcome(call)
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        script.gate("commit").open()


async def test_frozen_server(postgres, pg_proxy, pg_proxy_url):
    """A server that says nothing: the caller is told, and the slot comes back."""
    async with ConnectionPool(pg_proxy_url, cp_max=1, cp_grace=0.2) as pool:
        assert await pool.runQuery("select 1") == [(1,)]
        pg_proxy.freeze()
        loop = asyncio.get_running_loop()
        began = loop.time()
        error = await outcome(pool.runQuery("select 2", timeout=0.3))
        assert isinstance(error, QueryTimeout)
        assert loop.time() - began < 5
        pg_proxy.heal()
        assert await pool.runQuery("select 3") == [(3,)]
        assert pool.stats().connections == 1


async def test_memory_outlives_a_caller_that_left():
    """An in-memory database is not given up for an interaction that does not react."""
    goes_on = threading.Event()
    async with ConnectionPool("sqlite://", cp_grace=0.02) as pool:
        await pool.runOperation("create table a (id int)")

        def stubborn(txn):
            goes_on.wait(30)

        call = pool.runInteraction(stubborn)
        await until(lambda: pool.stats().busy == 1, "the interaction")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        goes_on.set()
        assert await pool.runQuery("select count(*) from a") == [(0,)]
        assert pool.stats().opened == 1
