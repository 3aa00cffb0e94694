"""A row inserted into an SQLite file for good, each in a commit of its own.

The file is in WAL mode, and `synchronous` is FULL, SQLite's default: nobody is told
"done" before the disk has said so. What the disk takes for that is the bulk of it,
unless several waiting inserts share one commit. It is the disk below the folder for
temporary files (TMPDIR): in memory this measures nothing. `plain_loop` blocks.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

INSERT = "insert into event (item) values (?)"
SYNCHRONOUS = "pragma synchronous"
FULL = [(2,)]


@contextmanager
def stage():
    with TemporaryDirectory(prefix="benchmark-") as folder:
        path = str(Path(folder, "events.db"))
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute("create table event (item integer)")
        yield path


async def threadbridge(load):
    from enterprise import ConnectionPool

    before = count(load.target)
    async with ConnectionPool(f"sqlite:///{load.target}") as pool:
        durable(await pool.runQuery(SYNCHRONOUS, write=True))
        rate = await load.drive(lambda key: pool.runOperation(INSERT, (key,)))
    return load.inserted(count(load.target) - before, rate)


async def aiosqlite(load):
    """In autocommit: an insert and its commit are one trip to its thread, not two."""
    import aiosqlite

    before = count(load.target)
    async with aiosqlite.connect(load.target, isolation_level=None) as connection:
        durable(await connection.execute_fetchall(SYNCHRONOUS))
        rate = await load.drive(lambda key: connection.execute_insert(INSERT, (key,)))
    return load.inserted(count(load.target) - before, rate)


def plain_loop(load):
    before = count(load.target)
    with closing(sqlite3.connect(load.target, isolation_level=None)) as connection:
        durable(connection.execute(SYNCHRONOUS).fetchall())
        rate = load.loop(lambda key: connection.execute(INSERT, (key,)))
    return load.inserted(count(load.target) - before, rate)


def durable(answer):
    if answer != FULL:
        raise ValueError(f"synchronous is {answer}, not FULL: a faster, weaker promise")


def count(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("select count(*) from event").fetchone()[0]
