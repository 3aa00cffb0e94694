"""Cancelling, and closing the pool, where the network answers nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

from enterprise.errors import PoolClosed
from tests.enterprise.faults.watch import Answers, every_slot, pool_through
from tests.enterprise.helpers import outcome, until

GRACE = 0.25

QUICK = {"cp_grace": GRACE, "cp_connect_timeout": 2, "cp_close_timeout": 0.2}

# A second for the server to confirm a cancel, the grace, and as long again.
STOP_SECONDS = 2 * GRACE + 1

# After `cp_close_timeout` a pool gives its drivers two seconds to obey; the loop and
# the machine get one.
CLOSE_SECONDS = 0.2 + 2 + 1

PID = "select pg_backend_pid()"


@pytest.fixture
def opens(postgres, pg_name, pg_proxy, pg_proxy_url):
    """A function that makes a pool behind the proxy, under the rule of this folder."""

    def make(**options):
        return pool_through(
            pg_proxy, pg_proxy_url, postgres, pg_name, **(QUICK | options)
        )

    return make


async def query(pool, statement):
    """Say *statement* by itself."""
    return await pool.runQuery(statement)


async def interaction(pool, statement):
    """Say *statement* in an interaction."""
    return await pool.runInteraction(lambda txn: txn.execute(statement).fetchall())


async def lease(pool, statement):
    """Say *statement* in a lease."""
    async with pool.transaction() as txn:
        return await txn.runQuery(statement)


WAYS = [query, interaction, lease]


# -- cancelled ---------------------------------------------------------------------


@pytest.mark.parametrize("weather", ["freeze", "natloss"])
async def test_timeout_over_a_silent_network(
    postgres, pg_name, opens, pg_proxy, weather
):
    """`asyncio.timeout` over a network that stands still, or has lost the connection,
    ends in twice `cp_grace` and a second; that connection never comes back.
    """

    async def give_up(way):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await way(pool, PID)
        assert time.monotonic() - began <= 0.05 + STOP_SECONDS

    async with opens(cp_max=3) as pool:
        await every_slot(pool)
        before = set(await asyncio.to_thread(postgres.backends, pg_name))
        assert len(before) == 3
        getattr(pg_proxy, weather)()
        await asyncio.gather(*map(give_up, WAYS))
        pg_proxy.heal()
        await every_slot(pool)
        assert pool.stats().opened == 6
        for way in WAYS:
            [(pid,)] = await way(pool, PID)
            assert pid not in before


async def test_tasks_cancelled_over_a_silent_network(opens, pg_proxy):
    """A task cancelled there ends with CancelledError and its own message, while
    other calls wait for the same connection, and are served by the next.
    """
    async with opens(cp_max=3) as pool:
        await every_slot(pool)
        pg_proxy.freeze()
        tasks = [asyncio.create_task(way(pool, PID)) for way in WAYS]
        await until(lambda: pool.stats().busy == 3, "the calls to run")
        calls = Answers()
        for number in range(9):
            calls.of(pool.runQuery("select %s::int", (number,)))
        began = time.monotonic()
        for task in tasks:
            assert task.cancel("enough")
        for task in tasks:
            with pytest.raises(asyncio.CancelledError, match="enough"):
                await task
        assert time.monotonic() - began <= STOP_SECONDS
        pg_proxy.heal()
        assert await calls.all() == [[(number,)] for number in range(9)]
        await every_slot(pool)


async def test_many_cancels_over_a_silent_network(opens, pg_proxy):
    """As many as a pool has connections are stopped in the same time as one."""
    async with opens(cp_max=10) as pool:
        await every_slot(pool)
        pg_proxy.freeze()
        calls = Answers()
        for _ in range(10):
            calls.of(pool.runQuery("select 1"))
        await until(lambda: pool.stats().busy == 10, "all to run")
        began = time.monotonic()
        for call in calls.calls:
            call.cancel()
        for error in await calls.all():
            assert isinstance(error, asyncio.CancelledError)
        assert time.monotonic() - began <= STOP_SECONDS
        pg_proxy.heal()
        await every_slot(pool)


async def test_cancel_that_finds_no_way(postgres, pg_name, opens, pg_proxy):
    """Where the server cannot be reached for the cancel the connection is cut off,
    and the caller told in the same time.
    """
    async with opens(cp_max=1) as pool:
        before = await query(pool, PID)
        task = asyncio.create_task(interaction(pool, "select pg_sleep(600)"))
        await until(
            lambda: (
                postgres.psql(
                    "select count(*) from pg_stat_activity where state = 'active' "
                    f"and datname = '{pg_name}' and query like '%pg_sleep(600)%'"
                )
                == "1"
            ),
            "the statement to run",
        )
        pg_proxy.refuse()
        began = time.monotonic()
        task.cancel()
        assert isinstance(await outcome(task), asyncio.CancelledError)
        assert time.monotonic() - began <= STOP_SECONDS
        pg_proxy.heal()
        await every_slot(pool)
        assert await query(pool, PID) != before
        # It has nobody to tell, and finds out only when it has slept.
        end = f"select pg_terminate_backend({before[0][0]})"
        await asyncio.to_thread(postgres.psql, end)


# -- closed ------------------------------------------------------------------------


@pytest.mark.parametrize("weather", ["freeze", "natloss"])
async def test_close_over_a_silent_network(opens, pg_proxy, weather):
    """Closing a pool all of whose calls are stuck in the network ends in time, with
    an answer for everybody, the loop alive, and no thread or socket left.
    """
    async with opens(cp_max=4) as pool:
        await every_slot(pool)
        getattr(pg_proxy, weather)()
        calls = Answers()
        for _ in range(2):
            calls.of(pool.runQuery("select 1"))
            calls.of(pool.runInteraction(lambda txn: txn.execute(PID).fetchall()))
        in_lease = asyncio.create_task(lease(pool, "select 1"))
        await until(lambda: pool.stats().busy == 4, "all to run")
        began = time.monotonic()
        await pool.close()
        assert time.monotonic() - began <= CLOSE_SECONDS
        for error in [*await calls.all(), await outcome(in_lease)]:
            assert isinstance(error, PoolClosed)


async def test_close_between_the_statements_of_a_lease(opens, pg_proxy):
    """A lease whose connection the network has lost does not hold up the closing."""
    async with opens(cp_max=1) as pool:
        with pytest.raises(PoolClosed):
            async with pool.transaction() as txn:
                await txn.runQuery("select 1")
                pg_proxy.natloss()
                began = time.monotonic()
                closing = pool.close()
                stuck = txn.runQuery("select 1")
                await closing
                assert time.monotonic() - began <= CLOSE_SECONDS
                assert isinstance(await outcome(stuck), PoolClosed)


@pytest.mark.parametrize("weather", ["freeze", "natloss"])
async def test_close_while_connecting(opens, pg_proxy, weather):
    """A pool that is opening its first connection over such a network closes in time,
    and the connection is gone when connecting ends.
    """
    async with opens(cp_max=2) as pool:
        getattr(pg_proxy, weather)()
        calls = Answers()
        calls.of(pool.runQuery("select 1"))
        calls.of(pool.runQuery("select 2"))
        await until(lambda: pg_proxy.accepted >= 1, "a connection")
        began = time.monotonic()
        await pool.close()
        assert time.monotonic() - began <= CLOSE_SECONDS
        for error in await calls.all():
            assert isinstance(error, PoolClosed | ConnectionError)
