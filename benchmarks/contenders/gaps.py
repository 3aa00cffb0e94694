"""How long the loop stands still while a big result is fetched at once.

A task on the loop wakes every millisecond; a gap is the time from one waking to the
next, that millisecond included. `worst` is the longest, `p99` the 99th percentile,
both in milliseconds. `to_thread` is psycopg's own `fetchall` in a thread.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import pairwise
from statistics import quantiles
from time import perf_counter

from benchmarks.contenders import stream
from benchmarks.contenders.postgres import native
from benchmarks.contenders.stream import SELECT

PAUSE_SECONDS = 0.001

stage = stream.stage


async def threadbridge_worst(load):
    return max(await threadbridge(load))


async def threadbridge_p99(load):
    return percentile99(await threadbridge(load))


async def to_thread_worst(load):
    return max(await to_thread(load))


async def to_thread_p99(load):
    return percentile99(await to_thread(load))


async def asyncpg_worst(load):
    return max(await asyncpg(load))


async def asyncpg_p99(load):
    return percentile99(await asyncpg(load))


async def threadbridge(load):
    from enterprise import ConnectionPool

    async with ConnectionPool(load.target) as pool:
        await pool.runQuery("select 1")
        return await gaps(load, lambda: pool.runQuery(SELECT, (load.rows,)))


async def to_thread(load):
    import psycopg

    with psycopg.connect(native(load.target), autocommit=True) as connection:

        def fetch():
            return connection.execute(SELECT, (load.rows,)).fetchall()

        return await gaps(load, lambda: asyncio.to_thread(fetch))


async def asyncpg(load):
    import asyncpg

    connection = await asyncpg.connect(native(load.target))
    try:
        select = SELECT.replace("%s", "$1")
        return await gaps(load, lambda: connection.fetch(select, load.rows))
    finally:
        await connection.close()


async def gaps(load, fetch):
    """The milliseconds between wakings during one fetch."""
    wakings = []

    async def watch():
        while True:
            wakings.append(perf_counter())
            await asyncio.sleep(PAUSE_SECONDS)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)  # It is awake before the fetch begins.
    rows = await fetch()
    wakings.append(perf_counter())  # Or a loop that slept to the end had no gap.
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    if len(rows) != load.rows:
        raise ValueError(f"{len(rows)} rows, not {load.rows}")
    return [(after - before) * 1e3 for before, after in pairwise(wakings)]


def percentile99(gaps):
    # One gap is its own percentile; quantiles() wants two.
    return quantiles([*gaps, gaps[-1]], n=100, method="inclusive")[98]
