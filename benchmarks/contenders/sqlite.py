"""A row by its primary key out of an SQLite file: the shortest real query.

The work itself takes about 4 µs, so this shows what each way of leaving the loop adds
to it. The file is in WAL mode, as a service would have it, and stays in the page
cache; `plain_loop` blocks its thread and is the limit for everyone.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.load import ROWS

CONNECTIONS = 8
SELECT = "select name from item where id = ?"


@contextmanager
def stage():
    with TemporaryDirectory(prefix="benchmark-") as folder:
        path = str(Path(folder, "items.db"))
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute("create table item (id integer primary key, name text)")
            connection.executemany(
                "insert into item values (?, ?)",
                ((key, f"item {key}") for key in range(1, ROWS + 1)),
            )
        yield path


def correct(answer):
    return answer == [("item 1",)]


async def threadbridge(load):
    from enterprise import ConnectionPool

    url = f"sqlite:///{load.target}"
    async with ConnectionPool(url, cp_max=CONNECTIONS) as pool:
        return await load.drive(lambda key: pool.runQuery(SELECT, (key,)))


async def aiosqlite(load):
    """On one connection, which is one thread, as its documentation has it."""
    import aiosqlite

    async with aiosqlite.connect(load.target) as connection:
        return await load.drive(lambda key: connection.execute_fetchall(SELECT, (key,)))


async def run_in_executor(load):
    local = threading.local()

    def connect():
        local.connection = sqlite3.connect(load.target)

    def select(key):
        return local.connection.execute(SELECT, (key,)).fetchall()

    submit = asyncio.get_running_loop().run_in_executor
    with ThreadPoolExecutor(CONNECTIONS, initializer=connect) as executor:
        return await load.drive(lambda key: submit(executor, select, key))


async def sqlalchemy(load):
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    statement = text(SELECT.replace("?", ":key"))

    async def select(key):
        async with engine.connect() as connection:
            return (await connection.execute(statement, {"key": key})).fetchall()

    engine = create_async_engine(
        f"sqlite+aiosqlite:///{load.target}", pool_size=CONNECTIONS, max_overflow=0
    )
    try:
        return await load.drive(select)
    finally:
        await engine.dispose()


def adbapi(load):
    from twisted.enterprise.adbapi import ConnectionPool

    # At the end it closes every connection from the reactor's thread.
    pool = ConnectionPool(
        "sqlite3", load.target, cp_max=CONNECTIONS, check_same_thread=False
    )
    return load.drive_twisted(lambda key: pool.runQuery(SELECT, (key,)))


def plain_loop(load):
    with closing(sqlite3.connect(load.target)) as connection:
        execute = connection.execute
        return load.loop(lambda key: execute(SELECT, (key,)).fetchall())
