"""Pools that grow, shrink, fill and fill up again: races that others have had.

The table of what cannot happen here is in test_races. Numbers are psycopg_pool's
tickets.
"""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from enterprise import (
    ConnectFailed,
    ConnectionLost,
    ConnectionPool,
    PoolClosed,
    PoolTimeout,
)
from tests.enterprise.faults.watch import living_loop
from tests.enterprise.helpers import outcome, reached, until


async def test_growing(script):
    """Fifty calls at once open as many connections as may be, never one more."""
    script.will("connect", *["hang connect"] * 50)
    async with living_loop(), ConnectionPool(script, cp_max=3) as pool:
        calls = [pool.runQuery(f"rows {number}") for number in range(50)]
        await until(lambda: script.calls["connect"] == 3, "three to connect")
        calls += [pool.runQuery(f"rows {number}") for number in range(50, 100)]
        script.release()
        assert await asyncio.gather(*calls) == [[(number,)] for number in range(100)]
        assert script.calls["connect"] == pool.stats().most_workers == 3


async def test_connections_that_die_and_close_badly(script, caplog):
    """#1176: when all connections die at once, close badly, and cannot be replaced at
    first, no more are asked for than are missing, and the pool is whole afterwards.
    """
    script.InterfaceError = script.Error  # So that the driver sees what "lose" means.
    async with living_loop(), ConnectionPool(script, cp_max=3) as pool:
        calls = [pool.runQuery(f"hang die; rows {number}; lose") for number in range(3)]
        await until(lambda: pool.stats().busy == 3, "three to run")
        script.will("close", *["fail stuck"] * 3)
        script.will("connect", *["fail away"] * 4)
        script.gate("die").open()
        for call in calls:
            assert isinstance(await outcome(call), ConnectionLost)
        later = [pool.runQuery(f"rows {number}") for number in range(30)]
        assert await asyncio.gather(*later) == [[(number,)] for number in range(30)]
        stats = pool.stats()
        assert stats.most_workers == 3
        assert stats.connections <= 3
        assert stats.failed == 4
        assert script.calls["connect"] <= 3 + 4 + 3


async def test_no_storm(script):
    """#709, #1315: while nothing can be reached, those who wait are told in time, and
    the attempts keep their distance; afterwards the pool connects at once.
    """
    script.InterfaceError = script.Error
    async with living_loop(), ConnectionPool(script, cp_max=8) as pool:
        assert isinstance(await outcome(pool.runQuery("lose")), ConnectionLost)
        script.will("connect", *["fail away"] * 1000)
        calls = [pool.runQuery("rows 1", timeout=0.4) for _ in range(40)]
        for call in calls:
            error = await outcome(call)
            assert isinstance(error, PoolTimeout)
            assert isinstance(error.__cause__, ConnectFailed)
        # Not more often than every 50 ms, and the first one at once.
        assert 1 <= pool.stats().failed <= 10
        script._lines["connect"].clear()
        async with asyncio.timeout(8):
            assert await pool.runQuery("rows 2") == [(2,)]


async def test_minimum_is_restored(script):
    """#370, #395, asyncpg #1268: connections that died are replaced up to the minimum,
    whether anybody calls or not.
    """
    script.InterfaceError = script.Error
    async with ConnectionPool(script, cp_min=3, cp_max=3) as pool:
        calls = [pool.runQuery(f"hang die; lose {number}") for number in range(3)]
        await until(lambda: pool.stats().busy == 3, "three to run")
        script.gate("die").open()
        for call in calls:
            assert isinstance(await outcome(call), ConnectionLost)
        deadline = time.monotonic() + 3
        while pool.stats().opened < 6 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        assert (pool.stats().opened, pool.stats().connections) == (6, 3)


async def test_filling_while_others_fill(script):
    """#230: two who start a pool at the same time, its first connection being slow,
    both wait until it is full, and it is filled once.
    """
    script.will("connect", "hang slow")
    async with living_loop():
        pool = ConnectionPool(script, cp_min=3, cp_max=5)
        starts = [pool.start(), pool.start()]
        await reached(script.gate("slow").reached)
        await until(lambda: pool.stats().connections == 2, "the others to connect")
        assert [start.done() for start in starts] == [False, False]
        script.release()
        assert await asyncio.gather(*starts) == [None, None]
        assert (pool.stats().connections, script.calls["connect"]) == (3, 3)
        await pool.close()


async def test_closing_while_filling(script):
    """#784, 3.0.3: who waits for the start of a pool that is closed meanwhile is told,
    and the connection that arrives too late is closed.
    """
    script.will("connect", "hang slow")
    pool = ConnectionPool(script, cp_min=1)
    start = pool.start()
    await reached(script.gate("slow").reached)
    closing = pool.close()
    script.release()
    error = await outcome(start)
    await closing
    assert error is None or isinstance(error, PoolClosed)
    assert script.calls["connect"] == script.calls["close"] == 1
    assert isinstance(await outcome(pool.start()), PoolClosed)


async def test_shrinking_is_silent(script, caplog):
    """#1001: connections that leave because there is nothing to do are no news."""
    caplog.set_level(logging.INFO)
    async with ConnectionPool(script, cp_max=4, cp_idle=0.01) as pool:
        calls = [pool.runQuery(f"hang {number}; rows 1") for number in range(4)]
        for number in range(4):
            await reached(script.gate(str(number)).reached)
        script.release()
        await asyncio.gather(*calls)
        await until(lambda: pool.stats().connections == 0, "all to leave")
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, MemoryError])
async def test_worker_that_breaks_while_it_connects(script, kind):
    """A worker that meets the worst while it connects tells whoever waits, and the
    next one takes its place.
    """
    errors = [kind("while connecting"), kind("again")]

    def prepare(raw):
        if errors:
            raise errors.pop()

    async with ConnectionPool(script, cp_max=1, cp_openfun=prepare) as pool:
        for _ in range(2):
            error = await outcome(pool.runQuery("rows 1"))
            assert isinstance(error, ConnectFailed)
            assert isinstance(error.__cause__, kind)
        assert await pool.runQuery("rows 2") == [(2,)]
        assert pool.stats().connections == script.open == 1


def test_pool_made_before_its_loop(script):
    """#219: a pool made where no loop is serves a hundred calls, with two workers."""
    pool = ConnectionPool(script, cp_max=2)

    async def main():
        calls = [pool.runQuery(f"rows {number}") for number in range(100)]
        assert await asyncio.gather(*calls) == [[(number,)] for number in range(100)]
        assert pool.stats().most_workers <= 2
        await pool.close()

    asyncio.run(main())
    assert script.calls["connect"] == script.calls["close"] <= 2
