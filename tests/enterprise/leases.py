"""What the tests of leases share."""

from __future__ import annotations

import sqlite3

import psycopg

from tests.enterprise.helpers import until

DATABASE_ERRORS = (sqlite3.Error, psycopg.Error)


def insert(number):
    """Return the statement that adds an item."""
    return f"insert into item values ({number}, 'item {number}')"


async def alone(pool):
    """Check that every worker was given back: the pool serves one after the other."""
    for _ in range(3):
        assert await pool.runQuery("select 1", write=True) == [(1,)]
    await until(lambda: pool.stats().busy == 0, "all workers to be given back")
