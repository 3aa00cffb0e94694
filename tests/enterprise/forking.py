"""What the tests about forks share: the scripts that fork, and how they are run."""

from __future__ import annotations

import inspect
import os
import sqlite3
from contextlib import closing

import pytest

from tests.enterprise.helpers import python

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

both_ways = pytest.mark.parametrize("leave", ["exit", "_exit"])

# What every script of this file begins with.
PRELUDE = """
    import asyncio, os, sqlite3, sys, threading, traceback, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # Of forking with threads.
    from enterprise import ConnectFailed, ConnectionPool, PoolClosed, forks
    from enterprise.errors import DatabaseGone, ForkedSQLite

    path = sys.argv[1]
    leave = sys.argv[2] if len(sys.argv) > 2 else "_exit"

    def pool_on(source, *arguments, **options):
        pool = ConnectionPool(source, *arguments, **options)
        return pool

    def fork(*work):
        "Do all the work in a child, and end it in the way that was asked for."
        pid = os.fork()
        if not pid:
            try:
                for part in work:
                    part() if callable(part) else asyncio.run(part)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            sys.stdout.flush()
            if leave == "exit":
                sys.exit(0)
            os._exit(0)
        for part in work:
            callable(part) or part.close()
        return pid

    def wait(pid):
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == 0, status

    async def told(pool, sql):
        "Say what comes of it."
        try:
            print(await pool.runQuery(sql))
        except ConnectFailed as error:
            known = isinstance(error, (ForkedSQLite, DatabaseGone))
            print(type(error if known else error.__cause__).__name__)

    async def one(pool, *arguments):
        return await pool.runQuery(*arguments)

    def insert(pool, *numbers):
        async def all():
            for n in numbers:
                await pool.runOperation("insert into item values (?)", (n,))
        return all()
"""


def run(code, *arguments):
    """Run the prelude and *code*; return the lines that parent and child print."""
    code = inspect.cleandoc(PRELUDE) + "\n" + inspect.cleandoc(code)
    status, out, errors = python(code, *map(str, arguments))
    assert (status, errors) == (0, "")
    return out.splitlines()


def rows(path):
    with closing(sqlite3.connect(path)) as raw:
        return [row[0] for row in raw.execute("select id from item order by id")]


def table(path, mode):
    """Make a database with an empty table, in the given journal mode."""
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(f"pragma journal_mode = {mode}")
        raw.execute("create table item (id integer)")
    return path
