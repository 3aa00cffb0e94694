"""What the tests of this floor share: waiting, and statements that go on for ever."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from pathlib import Path

from enterprise import ConnectionPool
from tests.postgres import wait_until

ROOT = Path(__file__).parent.parent.parent

# A bound for what is going to happen at once, or not at all.
PATIENCE_SECONDS = 30.0

BIG_BACKLOG = 100_000


def item_table(database):
    """Make the table that most tests use, with two rows, past the pool."""
    if database.kind == "sqlite":
        database.rows("pragma journal_mode = wal")
    database.rows("create table item (id integer primary key, name varchar(40))")
    database.rows("insert into item values (1, 'hammer'), (2, 'saw')")


def names(database):
    """Return all names in the table, as seen from outside."""
    return [name for (name,) in database.rows("select name from item order by id")]


def balance(stats):
    """Return the figures that must agree, whatever has happened."""
    return stats.submitted, stats.finished + stats.removed + stats.unfinished


async def reached(event):
    """Wait for a threading.Event without blocking the loop."""
    arrived = await asyncio.to_thread(event.wait, PATIENCE_SECONDS)
    assert arrived, "what the test waited for did not happen"


async def until(condition, what):
    """Look every 5 ms, from outside, until *condition* holds."""
    await asyncio.to_thread(wait_until, condition, what)


async def outcome(awaitable):
    """Return what *awaitable* gives or raises."""
    try:
        return await awaitable
    except BaseException as error:
        return error


def python(code, *arguments):
    """Run *code* in a Python of its own; return status, output and error text."""
    done = subprocess.run(
        [sys.executable, "-c", inspect.cleandoc(code), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


class Endless:
    """A statement that ends only when it is stopped, on a database of either kind."""

    def __init__(self, database):
        self.database = database
        # SQLite's statements call home, each on its own thread.
        self._seen = set()
        self._watcher = None
        if database.kind == "sqlite":
            self.sql = (
                "with recursive n(i) as (select 1 union all select i + 1 from n "
                "where i > 1 or seen()) select count(*) from n"
            )
        else:
            self.sql = "select pg_sleep(600)"
            self._watcher = database.connect()

    def pool(self, **options):
        """Make a pool whose connections can run it."""
        return ConnectionPool(self.database.url, cp_openfun=self._prepare, **options)

    def _prepare(self, raw):
        if self.database.kind == "sqlite":
            raw.create_function("seen", 0, self._see)

    def _see(self):
        self._seen.add(threading.get_ident())
        return 1

    def running(self):
        """Count the statements that have begun and, with PostgreSQL, not ended."""
        if self._watcher is None:
            return len(self._seen)
        (count,) = self._watcher.execute(
            "select count(*) from pg_stat_activity where datname = current_database() "
            "and state = 'active' and pid <> pg_backend_pid() "
            "and (query like '%pg_sleep(600)%' or wait_event = 'PgSleep')"
        ).fetchone()
        return count

    async def started(self, count=1):
        """Wait until so many run at the same time."""
        await until(lambda: self.running() >= count, f"{count} statements to run")

    async def ended(self):
        """Wait until the server says that nothing runs any more."""
        if self._watcher is not None:
            await until(lambda: self.running() == 0, "the server to stop the statement")


def backend(database):
    """Return the SQL that tells connections apart; SQLite has nothing like it."""
    return "select 1" if database.kind == "sqlite" else "select pg_backend_pid()"
