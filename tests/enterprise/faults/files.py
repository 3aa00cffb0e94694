"""What the tests about SQLite's file share: a file, ways into it, somebody's lock."""

from __future__ import annotations

import inspect
import sqlite3
import subprocess
import sys
from contextlib import closing

from enterprise import ConnectionPool
from tests.leaks import files


def table(path, *, mode="wal", rows=0):
    """Make a file with a table."""
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(f"pragma journal_mode = {mode}")
        raw.execute("create table item (id integer primary key, what)")
        raw.executemany(
            "insert into item values (?, zeroblob(400))", [(n,) for n in range(rows)]
        )
        raw.commit()
    return path


def ids(path):
    with closing(sqlite3.connect(path)) as raw:
        return [row[0] for row in raw.execute("select id from item order by id")]


def pool_on(path, **keywords):
    keywords.setdefault("cp_wal", False)
    return ConnectionPool("sqlite3", str(path), **keywords)


def descriptors(path):
    """Count this process's descriptors of a database and what belongs to it."""
    return sum(target.startswith(str(path)) for _, target in files())


INSERT = "insert into item (id) values (7)"

WAYS = {
    "query": lambda pool: pool.runQuery("select count(*) from item"),
    "operation": lambda pool: pool.runOperation(INSERT),
    "script": lambda pool: pool.runScript(INSERT),
    "interaction": lambda pool: pool.runInteraction(
        lambda txn: txn.execute(INSERT) and None
    ),
    "connection": lambda pool: pool.runWithConnection(
        lambda connection: connection.execute(INSERT) and None
    ),
}


LOCKER = """
    import sqlite3, sys
    raw = sqlite3.connect(sys.argv[1], isolation_level=None)
    raw.execute("begin exclusive")
    print("locked", flush=True)
    sys.stdin.readline()
"""


class Locker:
    """Another process that holds the file's lock."""

    def __init__(self, path):
        self.process = subprocess.Popen(
            [sys.executable, "-c", inspect.cleandoc(LOCKER), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        assert self.process.stdout.readline() == "locked\n"
        return self.process

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
