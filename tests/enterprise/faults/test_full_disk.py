"""SQLite on a disk that is full, and in a process that is killed."""

from __future__ import annotations

import inspect
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from tests.enterprise.faults.files import INSERT, Locker, ids, pool_on, table
from tests.enterprise.faults.watch import living_loop
from tests.enterprise.helpers import PATIENCE_SECONDS, ROOT, outcome, python

# -- a full disk -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["wal", "delete"])
async def test_full_database(tmp_path, mode):
    """A database that may not grow: the write fails and is rolled back, reads and small
    writes go on, and with room again large ones do, on the same connections.
    """
    path = table(tmp_path / "shop.db", mode=mode, rows=20)

    def limit(raw):
        raw.execute("pragma max_page_count = 10")

    def fill(txn):
        txn.execute("update item set what = 'changed'")
        for _ in range(1000):
            txn.execute("insert into item (what) values (zeroblob(4000))")

    async with living_loop(), pool_on(path, cp_max=3, cp_openfun=limit) as pool:
        for _ in range(3):
            for call in (
                pool.runInteraction(fill),
                pool.runOperation("insert into item (what) values (zeroblob(90000))"),
                pool.runScript(
                    "delete from item; insert into item values (1, zeroblob(90000))"
                ),
            ):
                error = await outcome(call)
                assert isinstance(error, sqlite3.OperationalError)
                assert error.sqlite_errorname == "SQLITE_FULL"
            sql = "select count(*) from item where what = zeroblob(400)"
            assert await pool.runQuery(sql) == [(20,)]
        await pool.runScript("pragma max_page_count = 1000000")
        await pool.runOperation("insert into item (what) values (zeroblob(90000))")
        assert await pool.runQuery("select count(*) from item") == [(21,)]
        assert pool.stats().opened <= 2


FULL_DISK = """
    import asyncio, resource, signal, sqlite3, sys
    from enterprise import ConnectionPool

    path, wal = sys.argv[1:]

    async def told(call):
        try:
            return await call
        except sqlite3.Error as error:
            return error.sqlite_errorname

    def change(txn):
        txn.execute("update item set what = zeroblob(3000)")

    async def main():
        pool = ConnectionPool("sqlite3", path, cp_wal=wal == "wal", cp_max=3)
        await pool.runScript("create table item (id integer primary key, what)")
        for n in range(60):
            await pool.runOperation("insert into item values (?, zeroblob(500))", (n,))
        resource.setrlimit(resource.RLIMIT_FSIZE, (140_000, resource.RLIM_INFINITY))
        errors = set()
        for _ in range(4):
            errors.add(await told(pool.runInteraction(change)))
            errors.add(await told(pool.runOperation(
                "insert into item (what) values (zeroblob(500000))")))
            assert await pool.runQuery(
                "select count(*) from item where what = zeroblob(500)") == [(60,)]
        # Checked above: nothing was done. Which error it is depends on the journal.
        print(all(str(error).startswith("SQLITE_") for error in errors))
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        print(await told(pool.runInteraction(change)))
        print(await pool.runQuery("select sum(length(what)) from item"))
        print(await pool.runQuery("pragma integrity_check"), pool.stats().opened <= 3)
        await pool.close()

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    asyncio.run(main())
"""


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_full_disk(tmp_path, mode):
    """On a full disk writes fail and are rolled back, each time, and reads go on;
    with room again the same pool writes.
    """
    status, out, errors = python(FULL_DISK, str(tmp_path / "shop.db"), mode)
    assert (status, errors) == (0, "")
    assert out.splitlines() == ["True", "None", "[(180000,)]", "[('ok',)] True"]


# -- SIGKILL ---------------------------------------------------------------------------

TRANSFERS = """
    import asyncio, sys
    from enterprise import ConnectionPool

    path, first = sys.argv[1], int(sys.argv[2])

    def transfer(txn, number):
        txn.execute("update account set balance = balance - 1 where id = ?",
                    (number % 7,))
        txn.execute("insert into done values (?)", (number,))
        txn.execute("update account set balance = balance + 1 where id = ?",
                    ((number + 3) % 7,))
        return number

    async def teller(pool, numbers):
        for number in numbers:
            print(await pool.runInteraction(transfer, number), flush=True)

    async def main():
        async with ConnectionPool("sqlite3", path, cp_max=3) as pool:
            await asyncio.gather(*(
                teller(pool, range(first + start, first + 100_000, 4))
                for start in range(4)))

    asyncio.run(main())
"""


def test_killed_in_mid_transfer(tmp_path):
    """A process killed in the middle of transfers, six times: what it acknowledged is
    stored, nothing is half done, and the file is whole.
    """
    path = tmp_path / "bank.db"
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("pragma journal_mode = wal")
        raw.execute("create table account (id integer primary key, balance integer)")
        raw.execute("create table done (number integer primary key)")
        raw.executemany("insert into account values (?, 100)", [(n,) for n in range(7)])
        raw.commit()
    told = set()
    for turn in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", inspect.cleandoc(TRANSFERS), path, f"{turn}00000"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        # In the middle of its work, at a moment that is another one each time.
        heard = [process.stdout.readline() for _ in range(40 + 17 * turn)]
        os.kill(process.pid, signal.SIGKILL)
        heard += process.stdout.readlines()
        process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == -signal.SIGKILL
        told |= {int(line) for line in heard if line.endswith("\n")}
        with closing(sqlite3.connect(path)) as raw:
            stored = {number for (number,) in raw.execute("select number from done")}
            assert told <= stored
            # At the most what the four tellers had on the way, each time.
            assert len(stored - told) <= 4 * (turn + 1)
            balances = dict(raw.execute("select id, balance from account"))
            assert balances == expected(stored)
            assert raw.execute("pragma integrity_check").fetchall() == [("ok",)]


def expected(stored):
    """Return the balances after the transfers of these numbers."""
    balances = dict.fromkeys(range(7), 100)
    for number in stored:
        balances[number % 7] -= 1
        balances[(number + 3) % 7] += 1
    return balances


async def test_nobody_waits_for_a_killed_writer(tmp_path):
    """A process killed inside a transaction leaves no lock behind: others write."""
    path = table(tmp_path / "shop.db", mode="delete")
    with Locker(path) as locker:
        locker.kill()
        locker.wait()
        began = time.monotonic()
        async with living_loop(), pool_on(path, timeout=60, cp_max=2) as pool:
            await pool.runOperation(INSERT)
        assert time.monotonic() - began < 5
    assert ids(path) == [7]
