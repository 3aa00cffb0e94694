"""Many inserts in one transaction, each of them a call of its own.

As an import does that reads line by line. We make a call for each row and await every
1,000th, in order; aiosqlite is awaited each time, as its documentation has it;
`plain_loop` blocks and is the limit for everyone. All include the commit.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

INSERT = "insert into item values (?, ?)"
WINDOW = 1_000


def stage():
    """The folder for the files: each contender fills one of its own."""
    return TemporaryDirectory(prefix="benchmark-")


async def threadbridge(load):
    from enterprise import ConnectionPool

    with fresh(load) as path:
        async with ConnectionPool(f"sqlite:///{path}") as pool:
            await pool.start()
            start = perf_counter()
            async with pool.transaction() as txn:
                for key in range(1, load.rows + 1):
                    call = txn.runOperation(INSERT, (key, "an item"))
                    if key % WINDOW == 0:
                        await call
            return load.finished(count(path), start)


async def aiosqlite(load):
    import aiosqlite

    with fresh(load) as path:
        async with aiosqlite.connect(path) as connection:
            start = perf_counter()
            for key in range(1, load.rows + 1):
                await connection.execute(INSERT, (key, "an item"))
            await connection.commit()
            return load.finished(count(path), start)


def plain_loop(load):
    with fresh(load) as path, closing(sqlite3.connect(path)) as connection:
        start = perf_counter()
        for key in range(1, load.rows + 1):
            connection.execute(INSERT, (key, "an item"))
        connection.commit()
        return load.finished(count(path), start)


@contextmanager
def fresh(load):
    """An empty table in a file of its own."""
    with TemporaryDirectory(dir=load.target) as folder:
        path = str(Path(folder, "items.db"))
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute("create table item (id integer primary key, name text)")
        yield path


def count(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("select count(*) from item").fetchone()[0]
