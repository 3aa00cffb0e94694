"""SQLite's file: locked, gone, unreadable, or broken."""

from __future__ import annotations

import asyncio
import gc
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from enterprise import ConnectFailed
from tests.enterprise.faults.files import (
    INSERT,
    WAYS,
    Locker,
    descriptors,
    ids,
    pool_on,
    table,
)
from tests.enterprise.faults.watch import Answers, living_loop
from tests.enterprise.helpers import (
    PATIENCE_SECONDS,
    outcome,
    python,
)


async def everyone_fails(pool, kinds=sqlite3.DatabaseError):
    """Check that every way into the database fails as it should, each time."""
    for _ in range(3):
        for way in WAYS.values():
            error = await outcome(way(pool))
            if isinstance(error, ConnectFailed):
                error = error.__cause__
            assert isinstance(error, kinds), error


# -- locked by another process ---------------------------------------------------------


@pytest.mark.parametrize("mode", ["wal", "delete"])
async def test_locked_by_another_process(tmp_path, mode):
    """While another process holds the lock, everybody gets the driver's error after the
    time it was given, and no lock of ours is left; after that process is killed, all
    goes on, on the same connections.
    """
    path = table(tmp_path / "shop.db", mode=mode)
    # Readers are not locked out of a write-ahead log.
    shut_out = [name for name in WAYS if name != "query" or mode == "delete"]
    async with living_loop(), pool_on(path, timeout=0.1, cp_max=3) as pool:
        assert await pool.runQuery("select * from item") == []
        with Locker(path) as locker:
            for name in shut_out:
                began = time.monotonic()
                error = await outcome(WAYS[name](pool))
                assert isinstance(error, sqlite3.OperationalError)
                assert error.sqlite_errorcode == sqlite3.SQLITE_BUSY
                assert 0.1 <= time.monotonic() - began < 2
            locker.kill()
            locker.wait()
        # Nobody else who asks for the lock finds it with us.
        with closing(sqlite3.connect(path, timeout=0)) as other:
            other.execute("begin exclusive")
        for name, way in WAYS.items():
            await way(pool)
            if name != "query":
                await pool.runOperation("delete from item")
        assert pool.stats().opened <= 3
    assert ids(path) == []


# -- gone, closed, broken --------------------------------------------------------------


async def test_deleted_under_a_warm_pool(tmp_path):
    """A file that is deleted under a warm pool: who has it open goes on or is told, no
    call is lost, and the pool closes with no descriptor left.
    """
    path = table(tmp_path / "shop.db", rows=3)
    async with living_loop():
        pool = pool_on(path, cp_max=3)
        assert await pool.runQuery("select count(*) from item") == [(3,)]
        await pool.runOperation("insert into item (id) values (100)")
        for each in tmp_path.iterdir():
            each.unlink()
        answers = Answers()
        for _ in range(5):
            for way in WAYS.values():
                answers.of(way(pool))
        for answer in await answers.all():
            # Right rows of what was there, or an error; never those of another file.
            assert answer in (None, [(4,)], [(5,)]) or isinstance(
                answer, sqlite3.DatabaseError | ConnectFailed
            )
        del answers, answer
        await pool.close()
    gc.collect()
    assert descriptors(tmp_path) == 0


@pytest.mark.parametrize("how", ["cursor", "shortcut", "open"])
async def test_cursor_kept_by_an_error(tmp_path, how):
    """A cursor that a function has left open, and that its error keeps alive, does not
    keep the file open beyond the pool's end.
    """
    path = table(tmp_path / "shop.db", rows=8)

    def work(connection):
        if how == "open":
            cursor = connection.cursor()
            for _ in cursor.execute("select * from item"):
                raise KeyError(cursor)
        at = connection if how == "shortcut" else connection.cursor()
        at.execute(INSERT)

    async with living_loop():
        pool = pool_on(path, cp_max=2)
        error = await outcome(pool.runWithConnection(work))
        assert isinstance(error, KeyError if how == "open" else sqlite3.IntegrityError)
        assert descriptors(tmp_path) > 0
        await pool.close()
    assert descriptors(tmp_path) == 0


async def test_missing_folder(tmp_path):
    """Where the folder is missing everybody is told each time; once it is there, the
    pool works.
    """
    path = tmp_path / "later" / "shop.db"
    async with living_loop(), pool_on(path, cp_max=3) as pool:
        await everyone_fails(pool)
        assert "folder exists" in str(await outcome(pool.runQuery("select 1")))
        path.parent.mkdir()
        table(path)
        # After so many failures it does not look again at once.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while await outcome(pool.runOperation(INSERT)) is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert ids(path) == [7]
        assert pool.stats().connections <= 3


async def test_folder_in_place_of_the_file(tmp_path):
    """A folder where the file should be is told each time, and nothing is left open."""
    path = tmp_path / "shop.db"
    path.mkdir()
    async with living_loop(), pool_on(path, cp_max=3) as pool:
        await everyone_fails(pool)
        assert pool.stats().connections == 0
    assert descriptors(path) == 0


def broken(path, place):
    """Damage a file; `place` says where."""
    with path.open("r+b") as file:
        if place == "header":
            file.write(b"not a database, but some other text " * 4)
        elif place == "schema":
            file.seek(100)
            file.write(b"\xff" * 400)
        elif place == "page":
            pages = path.stat().st_size // 4096
            for page in range(3, pages):
                file.seek(page * 4096)
                file.write(b"\xee" * 4096)
        else:
            file.truncate(4096 + 1000)


@pytest.mark.parametrize("place", ["header", "schema", "page", "end"])
async def test_broken_file(tmp_path, place):
    """A damaged file gives DatabaseError each time, for reading and for writing, never
    wrong rows; no descriptor is left.
    """
    path = table(tmp_path / "shop.db", mode="delete", rows=200)
    broken(path, place)
    async with living_loop():
        pool = pool_on(path, cp_max=3)
        for _ in range(3):
            for sql in (
                "select id, what from item",
                "update item set what = 'x'",
                "delete from item",
            ):
                for call in (pool.runQuery, pool.runOperation, pool.runScript):
                    error = await outcome(call(sql))
                    cause = getattr(error, "__cause__", None) or error
                    assert isinstance(cause, sqlite3.DatabaseError), error
        await pool.close()
    assert descriptors(path) == 0


async def test_broken_under_a_warm_pool(tmp_path):
    """A file that is damaged under a warm pool gives errors, and right rows again once
    a whole one is in its place.
    """
    path = table(tmp_path / "shop.db", mode="delete", rows=200)
    whole = path.read_bytes()
    async with living_loop(), pool_on(path, cp_max=2, cp_lifetime=0) as pool:
        assert len(await pool.runQuery("select id, what from item")) == 200
        broken(path, "header")
        error = await outcome(pool.runQuery("select id, what from item"))
        assert isinstance(error, sqlite3.DatabaseError)
        path.write_bytes(whole)
        assert len(await pool.runQuery("select id, what from item")) == 200


# -- no rights -------------------------------------------------------------------------

NO_RIGHTS = """
    import asyncio, os, sqlite3, sys
    from enterprise import ConnectFailed, ConnectionPool

    path, what = sys.argv[1:]
    folder = os.path.dirname(path)

    async def told(call):
        try:
            return await call
        except ConnectFailed as error:
            return type(error.__cause__).__name__
        except sqlite3.DatabaseError as error:
            return error.sqlite_errorname

    def insert(txn):
        txn.execute("insert into item values (1, 1)")

    async def main():
        pool = ConnectionPool("sqlite3", path, cp_max=3, cp_wal=False)
        for _ in range(2):
            print(await told(pool.runQuery("select id from item")))
            print(await told(pool.runOperation("insert into item values (1, 1)")))
            print(await told(pool.runInteraction(insert)))
        os.chmod(folder, 0o755)
        os.chmod(path, 0o644)
        # Connections remember what they could not do.
        await pool.close()
        pool = ConnectionPool("sqlite3", path, cp_max=3, cp_wal=False)
        print(await told(pool.runInteraction(insert)))
        await pool.close()
        print(sum(os.readlink(f"/proc/self/fd/{n}").startswith(folder)
                  for n in os.listdir("/proc/self/fd")
                  if os.path.exists(f"/proc/self/fd/{n}")))

    async def warm():  # Later Python's own files may be out of reach.
        async with ConnectionPool("sqlite3", ":memory:") as pool:
            await told(pool.runInteraction(insert))

    asyncio.run(warm())
    if os.geteuid() == 0:  # Nothing is forbidden to root.
        os.chown(path, 65534, 65534)
        os.chown(folder, 65534, 65534)
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    os.chmod(path, 0 if what == "unreadable" else 0o444)
    if what == "folder":
        os.chmod(path, 0o644)
        os.chmod(folder, 0o555)
    asyncio.run(main())
"""

RIGHTS = {
    "unreadable": ["OperationalError"] * 3,
    "read-only": ["[]", "SQLITE_READONLY", "SQLITE_READONLY"],
    "folder": ["[]", *["SQLITE_READONLY_DIRECTORY"] * 2],
}


@pytest.fixture
def open_folder():
    """A folder that another user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="bridge-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", RIGHTS)
def test_no_rights(open_folder, what):
    """Without the right to read or to write, everybody is told each time; what may be
    read is read, and with the right given all works.
    """
    path = table(open_folder / "shop.db", mode="delete")
    status, out, errors = python(NO_RIGHTS, str(path), what)
    assert (status, errors) == (0, "")
    assert out.splitlines() == RIGHTS[what] * 2 + ["None", "0"]
