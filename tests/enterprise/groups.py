"""A stage for group commits: a held writer, a log of its statements, forced pauses."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

from enterprise import ConnectionPool
from tests.enterprise.helpers import PATIENCE_SECONDS, reached

# An insert that ends only when it is interrupted.
ENDLESS = (
    "insert into item select 0, count(*) from (with recursive n(i) as "
    "(select 1 union all select i + 1 from n where i > 1 or seen()) select * from n)"
)

INSERT = "insert into item (id, what) values (?, ?)"


class Stage:
    """A pool on a file, whose writer can be held while calls pile up behind it."""

    def __init__(self, folder, schema="", *, mode="wal", setup=(), **options):
        self.path = str(folder / "shop.db")
        self.log = []
        self.seen = threading.Event()
        self.setup = setup
        with closing(sqlite3.connect(self.path)) as raw:
            raw.execute(f"pragma journal_mode = {mode}")
            raw.executescript(
                schema or "create table item (id integer primary key, what unique)"
            )
        options = {"cp_max": 2, "cp_wal": False} | options
        self.pool = ConnectionPool(
            "sqlite3", self.path, cp_openfun=self._open, **options
        )
        self._gate = threading.Event()
        self._held = None

    def _open(self, raw):
        raw.create_function("seen", 0, self._see)
        for statement in self.setup:
            raw.execute(statement)
        raw.set_trace_callback(self.log.append)

    def _see(self):
        self.seen.set()
        return 1

    async def hold(self):
        """Keep the writer busy, and forget what it has said so far."""
        inside = threading.Event()
        self._gate.clear()

        def wait(txn):
            inside.set()
            assert self._gate.wait(PATIENCE_SECONDS)

        self._held = self.pool.runInteraction(wait)
        await reached(inside)

    async def release(self):
        """Let the writer go on to what has piled up."""
        self.log.clear()
        self._gate.set()
        await self._held

    def said(self):
        """Return the first words of what the connections have said, in capitals."""
        return [text.split()[0].upper() for text in self.log]

    def count(self, word):
        """Count the statements that begin with *word*, but for the one that held."""
        return self.said().count(word) - (word == "COMMIT")

    def rows(self, sql="select id, what from item order by id"):
        """Read past the pool."""
        with closing(sqlite3.connect(self.path)) as raw:
            return raw.execute(sql).fetchall()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self._gate.set()
        await self.pool.close()
