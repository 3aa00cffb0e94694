"""SQLite's lock in somebody else's hands: waiting for it, and not waiting any more."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from enterprise import ConfigurationError, ConnectionPool
from enterprise.drivers._busy import BusyWaits
from enterprise.drivers.base import Lane
from enterprise.drivers.sqlite import SQLiteDriver
from tests.enterprise.helpers import PATIENCE_SECONDS, ROOT, outcome, reached, until

LONG = 600  # Seconds: who waits so long has not been told to stop.

INSERT = "insert into item values (1)"


@pytest.fixture(params=["wal", "delete"])
def path(request, tmp_path):
    """A database with an empty table, in each of the two journal modes."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(f"pragma journal_mode = {request.param}")
        raw.execute("create table item (id integer)")
    return path


@pytest.fixture
def other(path):
    """Somebody else's connection to it."""
    with closing(
        sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    ) as raw:
        yield raw


def pool_on(path, **keywords):
    keywords.setdefault("cp_wal", False)
    return ConnectionPool("sqlite3", str(path), **keywords)


def rows(path):
    with closing(sqlite3.connect(path)) as raw:
        return [row[0] for row in raw.execute("select id from item order by id")]


async def waiting(pool, count=1):
    """Wait until so many connections wait for the lock."""
    waits = pool.driver._waits
    await until(lambda: len(waits._bells) == count, "the wait for the lock")


WAYS = {
    "operation": lambda pool: pool.runOperation(INSERT),
    "query": lambda pool: pool.runQuery(INSERT, write=True),
    "rerun": lambda pool: pool.runQuery(INSERT),
    "result": lambda pool: pool.runResult(INSERT, write=True),
    "script": lambda pool: pool.runScript(INSERT),
    "interaction": lambda pool: pool.runInteraction(
        lambda txn: txn.execute(INSERT) and None
    ),
    "connection": lambda pool: pool.runWithConnection(
        lambda connection: connection.execute(INSERT) and None
    ),
}
ways = pytest.mark.parametrize("way", WAYS)

# -- waiting ---------------------------------------------------------------------------


@ways
async def test_waits_for_the_lock(path, other, way):
    """Who wants to write waits while somebody else does, and then writes once."""
    async with pool_on(path, timeout=LONG, cp_max=2) as pool:
        other.execute("begin immediate")
        work = WAYS[way](pool)
        await waiting(pool)
        assert rows(path) == []
        other.execute("rollback")
        await work
    assert rows(path) == [1]


@ways
async def test_cancel_while_waiting(path, other, way):
    """A cancel ends the wait for the lock within 50 ms; nothing is written."""
    async with pool_on(path, timeout=LONG, cp_max=2) as pool:
        other.execute("begin immediate")
        taken = []
        for _ in range(5):
            work = WAYS[way](pool)
            await waiting(pool)
            began = time.monotonic()
            work.cancel()
            assert isinstance(await outcome(work), asyncio.CancelledError)
            taken.append(time.monotonic() - began)
        assert min(taken) < 0.05  # The others had a busy machine.
        other.execute("rollback")
        await pool.runOperation("insert into item values (2)")
        assert pool.stats().opened <= 2
    assert rows(path) == [2]


@ways
async def test_the_timeout_keyword_bounds_the_wait(path, other, way):
    """Who has waited for sqlite3's `timeout` gets SQLite's own error."""
    async with pool_on(path, timeout=0.05, cp_max=2) as pool:
        other.execute("begin immediate")
        began = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await WAYS[way](pool)
        assert time.monotonic() - began >= 0.05
        other.execute("rollback")
        await WAYS[way](pool)
    assert rows(path) == [1]


WRITER = """
    import asyncio, sys
    from enterprise import ConnectionPool

    def add(txn):
        (count,) = txn.execute("select max(id) from item").fetchone()
        txn.execute("insert into item values (?)", (count + 1,))

    async def main(path):
        async with ConnectionPool("sqlite3", path, cp_wal=False, timeout=60) as pool:
            await pool.start()
            print("ready", flush=True)
            sys.stdin.readline()
            for n in range(25):
                if n % 2:
                    await pool.runInteraction(add)
                else:
                    await pool.runOperation(
                        "insert into item select max(id) + 1 from item"
                    )
                await pool.runQuery("select count(*) from item")

    asyncio.run(main(sys.argv[1]))
"""


def test_eight_processes_write_at_once(path):
    """Eight processes that write at once all get through; nothing is lost."""
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("insert into item values (0)")
        raw.commit()
    command = [sys.executable, "-c", inspect.cleandoc(WRITER), str(path)]
    pipe = subprocess.PIPE
    writers = [
        subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT
        )
        for _ in range(8)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate(timeout=2 * PATIENCE_SECONDS) == ("", "")
    assert rows(path) == list(range(201))


async def test_opening_waits_too(path, other):
    """Who opens the file waits where its journal cannot be changed yet."""
    if other.execute("pragma journal_mode").fetchone() == ("wal",):
        other.execute("pragma journal_mode = delete")
    other.execute("begin")
    other.execute("select * from item").fetchall()
    async with pool_on(path, timeout=LONG, cp_wal=True) as pool:
        work = pool.runQuery("pragma journal_mode")
        await waiting(pool)
        other.execute("rollback")
        assert await work == [("wal",)]


# -- inside a transaction --------------------------------------------------------------


@pytest.fixture
def journal(tmp_path):
    """A database whose readers and writer wait for each other."""
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("create table item (id integer)")
    return path


@pytest.mark.parametrize("answer", ["value", "cancel"])
async def test_commit_waits_for_readers(journal, answer):
    """A COMMIT waits for those who still read; until it is done it can be cancelled."""
    async with pool_on(journal, timeout=LONG, cp_max=1) as pool:
        with closing(sqlite3.connect(journal, isolation_level=None)) as reader:
            reader.execute("begin")
            reader.execute("select * from item").fetchall()
            work = WAYS["interaction"](pool)
            await waiting(pool)
            if answer == "cancel":
                work.cancel()
                assert isinstance(await outcome(work), asyncio.CancelledError)
            reader.execute("rollback")
        if answer == "value":
            await work
        assert rows(journal) == ([1] if answer == "value" else [])
        await pool.runOperation("insert into item values (2)")


async def test_script_waits_to_commit(journal):
    """A script's own COMMIT waits for readers, too."""
    async with pool_on(journal, timeout=LONG, cp_max=1) as pool:
        with closing(sqlite3.connect(journal, isolation_level=None)) as reader:
            reader.execute("begin")
            reader.execute("select * from item").fetchall()
            work = pool.runScript(f"{INSERT}; {INSERT} -- twice")
            await waiting(pool)
            reader.execute("rollback")
        await work
    assert rows(journal) == [1, 1]


@pytest.mark.parametrize("maximum", [1, 2])
async def test_first_statement_of_a_reader_waits(journal, maximum):
    """A read-only transaction waits with its first statement, which takes the lock."""
    async with pool_on(journal, timeout=LONG, cp_max=maximum) as pool:
        with closing(sqlite3.connect(journal, isolation_level=None)) as writer:
            writer.execute("begin exclusive")
            writer.execute(INSERT)
            work = pool.runInteraction(
                lambda txn: txn.execute("select id from item").fetchall(), readonly=True
            )
            await waiting(pool)
            writer.execute("commit")
        assert await work == [(1,)]


async def test_whoever_reads_does_not_wait_to_write(path, other):
    """Nobody waits for the writer's lock who keeps the writer waiting, or whose reading
    is out of date: SQLite's error comes at once.
    """

    def work(txn):
        txn.execute("select * from item").fetchall()
        other.execute("begin immediate")
        other.execute("insert into item values (5)")
        if other.execute("pragma journal_mode").fetchone() == ("wal",):
            other.execute("commit")
        txn.execute(INSERT)

    async with pool_on(path, timeout=LONG, cp_max=1) as pool:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await pool.runInteraction(work, readonly=True)
    other.close()
    assert 1 not in rows(path)


async def test_a_script_is_not_done_twice(path):
    """A script that has committed a part of itself is not begun again."""
    at_it, go_on = threading.Event(), threading.Event()

    def pause():
        at_it.set()
        assert go_on.wait(PATIENCE_SECONDS)

    async with pool_on(
        path,
        timeout=LONG,
        cp_max=1,
        cp_openfun=lambda raw: raw.create_function("pause", 0, pause),
    ) as pool:
        work = pool.runScript(f"{INSERT}; commit; select pause(); {INSERT};")
        await reached(at_it)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("begin immediate")
            go_on.set()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                await work
        await pool.runScript(INSERT)
    assert rows(path) == [1, 1]


# -- the driver's own ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs"), [((5,), {}), ((), {"timeout": 5}), ((), {})]
)
def test_sqlite_itself_never_waits(path, args, kwargs):
    """sqlite3's `timeout` is taken and not handed on; left out, it is 5 s as ever."""
    driver = SQLiteDriver((str(path), *args), kwargs, wal=False)
    raw = driver.connect(Lane.ANY)
    assert raw.execute("pragma busy_timeout").fetchone() == (0,)
    assert driver._waits.seconds == 5
    driver.close(raw)


@pytest.mark.parametrize("timeout", ["soon", None, True, float("nan")])
def test_timeout_is_a_number(timeout):
    """A `timeout` that counts no seconds is refused when the pool is made."""
    with pytest.raises(ConfigurationError, match="timeout is"):
        ConnectionPool("sqlite3", "shop.db", timeout=timeout)


def test_a_limit_takes_the_place_of_the_timeout(path, other):
    """A job's own limit bounds the wait, be it shorter or longer than `timeout`."""
    other.execute("begin immediate")
    for timeout, limit in ((LONG, 0.02), (0, 0.02), (0, None), (LONG, -1)):
        driver = SQLiteDriver((str(path),), {"timeout": timeout}, wal=False)
        raw = driver.connect(Lane.ANY)
        driver.limit(raw, limit)
        began = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            driver.begin(raw, readonly=False)
        assert time.monotonic() - began >= max(0, limit or 0)
        driver.limit(raw, None)
        assert driver._waits.patience(id(raw)) == timeout
        driver.close(raw)


def test_a_cancel_between_two_tries():
    """A cancel that comes while the lock is being tried ends the wait after it."""
    tries = []

    def attempt():
        tries.append(waits.patience(1))
        if len(tries) == 3:
            waits.ring(1)
        raise BlockingIOError

    waits = BusyWaits(30, lambda _, error: True, InterruptedError)
    waits.ring(1)  # Nobody waits yet: no harm to the next one.
    with pytest.raises(InterruptedError):
        waits.attempt(1, attempt)
    assert len(tries) == 3
    assert repr(waits) == "<BusyWaits of 30 s, 0 waiting>"


def test_only_refusals_are_repeated():
    """What fails for another reason is not tried again, first or later."""
    for errors in ([KeyError], [BlockingIOError, KeyError]):
        todo = list(errors)

        def attempt(todo=todo):
            raise todo.pop(0)

        waits = BusyWaits(LONG, lambda _, e: isinstance(e, OSError), InterruptedError)
        with pytest.raises(KeyError):
            waits.attempt(1, attempt)
        assert todo == []


@pytest.mark.parametrize(
    "asked", [{"isolation": "read committed"}, {"deferrable": True}]
)
def test_sqlite_is_always_serializable(path, asked):
    """Any other isolation is refused; "serializable" is what there is."""
    driver = SQLiteDriver((str(path),), {}, wal=False)
    raw = driver.connect(Lane.ANY)
    with pytest.raises(ConfigurationError, match="always serializable"):
        driver.begin(raw, readonly=False, **asked)
    assert not raw.in_transaction
    driver.begin(raw, readonly=False, isolation="SERIALIZABLE", deferrable=False)
    assert raw.in_transaction
    driver.rollback(raw)
    driver.close(raw)
