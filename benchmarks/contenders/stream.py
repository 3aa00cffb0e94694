"""A long result, read row by row from a cursor in the server, 500 rows a trip.

Nobody ever holds more than a few trips' worth. `plain_loop` blocks its thread and is
the limit for everyone; the rows are counted, and nothing else is done with them.
"""

from __future__ import annotations

from contextlib import contextmanager
from time import perf_counter

from benchmarks.contenders.postgres import native

SELECT = "select id, name from item limit %s"
MOST = 1_000_000
BATCH = 500


@contextmanager
def stage():
    from tests.postgres import Server

    with Server.temporary() as server:
        server.psql(
            "create table item as select key id, 'item ' || key as name"
            f" from generate_series(1, {MOST}) key"
        )
        server.psql("vacuum analyze item")  # Or the first to read would do its work.
        yield server.url()


async def threadbridge(load):
    from enterprise import ConnectionPool

    async with ConnectionPool(load.target) as pool:
        await pool.runQuery("select 1")
        rows, start = 0, perf_counter()
        async for _ in pool.stream(SELECT, (load.rows,), batch=BATCH):
            rows += 1
        return load.finished(rows, start)


async def psycopg_async(load):
    import psycopg

    async with await psycopg.AsyncConnection.connect(native(load.target)) as connection:
        rows, start = 0, perf_counter()
        async with connection.cursor("stream") as cursor:
            cursor.itersize = BATCH
            await cursor.execute(SELECT, (load.rows,))
            async for _ in cursor:
                rows += 1
        return load.finished(rows, start)


async def asyncpg(load):
    import asyncpg

    connection = await asyncpg.connect(native(load.target))
    try:
        rows, start = 0, perf_counter()
        select = SELECT.replace("%s", "$1")
        async with connection.transaction():
            async for _ in connection.cursor(select, load.rows, prefetch=BATCH):
                rows += 1
        return load.finished(rows, start)
    finally:
        await connection.close()


def plain_loop(load):
    import psycopg

    with psycopg.connect(native(load.target)) as connection:
        rows, start = 0, perf_counter()
        with connection.cursor("stream") as cursor:
            cursor.itersize = BATCH
            cursor.execute(SELECT, (load.rows,))
            for _ in cursor:
                rows += 1
        return load.finished(rows, start)
