"""A row inserted into PostgreSQL and committed, over a unix socket.

Everyone commits by itself: one trip to the server for each row. The server shares the
machine and runs without fsync, so that the way there is measured and not the disk.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.contenders.postgres import CONNECTIONS, native

INSERT = "insert into event (item) values (%s)"


@contextmanager
def stage():
    from tests.postgres import Server

    with Server.temporary() as server:
        server.psql("create table event (item integer)")
        yield server.url()


async def threadbridge(load):
    from enterprise import ConnectionPool

    before = count(load)
    async with ConnectionPool(load.target, cp_max=CONNECTIONS) as pool:
        rate = await load.drive(lambda key: pool.runOperation(INSERT, (key,)))
    return load.inserted(count(load) - before, rate)


async def run_in_executor(load):
    import psycopg

    local = threading.local()

    def connect():
        local.connection = psycopg.connect(native(load.target), autocommit=True)

    def insert(key):
        local.connection.execute(INSERT, (key,))

    before = count(load)
    submit = asyncio.get_running_loop().run_in_executor
    with ThreadPoolExecutor(CONNECTIONS, initializer=connect) as executor:
        rate = await load.drive(lambda key: submit(executor, insert, key))
    return load.inserted(count(load) - before, rate)


async def psycopg_pool(load):
    from psycopg_pool import AsyncConnectionPool

    async def insert(key):
        async with pool.connection() as connection:
            await connection.execute(INSERT, (key,))

    before = count(load)
    async with AsyncConnectionPool(
        native(load.target),
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        kwargs={"autocommit": True},
    ) as pool:
        rate = await load.drive(insert)
    return load.inserted(count(load) - before, rate)


async def asyncpg(load):
    import asyncpg

    insert = INSERT.replace("%s", "$1")
    before = count(load)
    async with asyncpg.create_pool(
        native(load.target), min_size=CONNECTIONS, max_size=CONNECTIONS
    ) as pool:
        rate = await load.drive(lambda key: pool.execute(insert, key))
    return load.inserted(count(load) - before, rate)


def count(load):
    import psycopg

    with psycopg.connect(native(load.target)) as connection:
        return connection.execute("select count(*) from event").fetchone()[0]
