"""Calls that wait: what each costs in memory, and if a long queue makes it slower.

`traced` is what Python allocated, `resident` what the process grew by (Linux), both
while one held worker keeps everything else in the queue. `queries` wait for a
connection, each with a parameter of its own, the other calls for a thread. `time` is
a burst from the first submission to the last answer.
"""

from __future__ import annotations

import threading
import tracemalloc
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from resource import getpagesize
from time import perf_counter

FEW, MANY = 1_000, 100_000


def stage():
    return nullcontext("")


def noop():
    pass


@asynccontextmanager
async def pool_of(threads):
    from threadpool.pool import ThreadPool

    # More calls wait here than a pool takes by default.
    pool = ThreadPool(threads, threads, backlog=None)
    pool.start()
    yield pool
    await pool.close()


async def traced_1000(_load):
    return await grown(FEW, traced)


async def traced_100000(_load):
    return await grown(MANY, traced)


async def resident_100000(_load):
    return await grown(MANY, resident)


def traced():
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    return tracemalloc.get_traced_memory()[0]


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * getpagesize()


async def grown(count, size):
    """Kilobytes per call by which `size` grows when `count` calls are queued."""
    async with pool_of(threads=1) as pool:
        await pool.deferToThread(noop)
        opened = threading.Event()
        held = pool.deferToThread(opened.wait)
        before = size()
        waiting = [pool.deferToThread(noop) for _ in range(count)]
        after = size()
        tracemalloc.stop()  # What follows is not measured, and slow if it is traced.
        opened.set()
        for call in (held, *waiting):
            await call
    return (after - before) / count / 1000


async def traced_100000_queries(_load):
    return await grown_by_queries(MANY, traced)


async def resident_100000_queries(_load):
    return await grown_by_queries(MANY, resident)


async def grown_by_queries(count, size):
    """As `grown`, of queries that wait for the only connection."""
    from enterprise import ConnectionPool

    async with ConnectionPool("sqlite://", cp_max=1, cp_backlog=None) as pool:
        await pool.runQuery("select ?", (0,))
        opened = threading.Event()
        held = pool.runInteraction(lambda _: opened.wait())
        before = size()
        waiting = [pool.runQuery("select ?", (key,)) for key in range(count)]
        after = size()
        tracemalloc.stop()  # What follows is not measured, and slow if it is traced.
        opened.set()
        await held
        for key, call in enumerate(waiting):
            if await call != [(key,)]:
                raise ValueError(f"wrong answer for {key}")
    return (after - before) / count / 1000


async def time_1000(load):
    async with pool_of(threads=8) as pool:
        return await micros(pool, FEW, load.seconds)


async def time_100000(load):
    async with pool_of(threads=8) as pool:
        return await micros(pool, MANY, load.seconds)


async def time_100000_over_1000(load):
    """Few before and after many in one process: finer than the machine's noise."""
    async with pool_of(threads=8) as pool:
        few = await micros(pool, FEW, load.seconds / 2)
        many = await micros(pool, MANY, load.seconds)
        few += await micros(pool, FEW, load.seconds / 2)
    return many / (few / 2)


async def micros(pool, count, seconds):
    """Microseconds per call in bursts of `count`, for `seconds` or one burst."""
    await burst(pool, FEW)
    spent, bursts = 0.0, 0
    while spent < seconds:
        spent += await burst(pool, count)
        bursts += 1
    return spent / bursts / count * 1e6


async def burst(pool, count):
    start = perf_counter()
    for call in [pool.deferToThread(noop) for _ in range(count)]:
        await call
    return perf_counter() - start
