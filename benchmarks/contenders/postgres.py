"""A row by its primary key out of PostgreSQL, over a unix socket.

The server shares the machine, so its own work for a statement is in every figure.
Everyone has eight connections and commits by itself (no BEGIN around the statement),
except adbapi, which knows transactions only. `plain_loop` blocks on one connection.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.load import ROWS

CONNECTIONS = 8
SELECT = "select name from item where id = %s"


@contextmanager
def stage():
    with served() as server:
        yield server.url()


@contextmanager
def served():
    """A server that has the rows."""
    from tests.postgres import Server

    with Server.temporary() as server:
        server.psql(
            "create table item (id integer primary key, name text);"
            "insert into item select key, 'item ' || key"
            f" from generate_series(1, {ROWS}) key; analyze item"
        )
        yield server


def correct(answer):
    return [tuple(row) for row in answer] == [("item 1",)]


def native(url):
    """The URL as the drivers themselves spell it."""
    return url.replace("+psycopg", "")


async def threadbridge(load):
    from enterprise import ConnectionPool

    async with ConnectionPool(load.target, cp_max=CONNECTIONS) as pool:
        return await load.drive(lambda key: pool.runQuery(SELECT, (key,)))


async def run_in_executor(load):
    import psycopg

    local = threading.local()

    def connect():
        local.connection = psycopg.connect(native(load.target), autocommit=True)

    def select(key):
        return local.connection.execute(SELECT, (key,)).fetchall()

    submit = asyncio.get_running_loop().run_in_executor
    with ThreadPoolExecutor(CONNECTIONS, initializer=connect) as executor:
        return await load.drive(lambda key: submit(executor, select, key))


async def psycopg_pool(load):
    from psycopg_pool import AsyncConnectionPool

    async def select(key):
        async with pool.connection() as connection:
            cursor = await connection.execute(SELECT, (key,))
            return await cursor.fetchall()

    async with AsyncConnectionPool(
        native(load.target),
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        kwargs={"autocommit": True},
    ) as pool:
        return await load.drive(select)


async def asyncpg(load):
    import asyncpg

    select = SELECT.replace("%s", "$1")
    async with asyncpg.create_pool(
        native(load.target), min_size=CONNECTIONS, max_size=CONNECTIONS
    ) as pool:
        return await load.drive(lambda key: pool.fetch(select, key))


def adbapi(load):
    from twisted.enterprise.adbapi import ConnectionPool

    pool = ConnectionPool("psycopg", native(load.target), cp_max=CONNECTIONS)
    return load.drive_twisted(lambda key: pool.runQuery(SELECT, (key,)))


def plain_loop(load):
    import psycopg

    with psycopg.connect(native(load.target), autocommit=True) as connection:
        execute = connection.execute
        return load.loop(lambda key: execute(SELECT, (key,)).fetchall())
