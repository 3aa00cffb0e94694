"""What SQLite takes away by itself: transactions after errors, databases in memory."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing

import pytest

from enterprise import ConnectFailed, ConnectionPool, TransactionEnded
from enterprise.drivers.base import Lane, TransactionState
from enterprise.drivers.sqlite import SQLiteDriver
from enterprise.errors import DatabaseGone
from tests.enterprise.helpers import outcome, python, reached, until

ENDLESS = (
    "with recursive n(i) as (select 1 union all select i + 1 from n where seen()) "
    "insert into item (id) select count(*) from n"
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("create table item (id integer, name text)")
        raw.execute("create unique index one_each on item (id)")
    return path


@pytest.fixture
def pool_on(path):
    """Make pools on that file, with a function that says that a statement runs."""
    seen = threading.Event()

    def make(**keywords):
        def prepare(raw):
            raw.create_function("seen", 0, lambda: seen.set() or 1)
            raw.execute("pragma max_page_count = 20")

        pool = ConnectionPool(
            "sqlite3", str(path), cp_wal=False, cp_openfun=prepare, **keywords
        )
        pool.seen = seen
        return pool

    return make


# -- transactions that are over --------------------------------------------------------

# Each ends the transaction it happens in, by SQLite's own decision.
TOO_MUCH = "insert into item values (5, zeroblob(1000000))"
CONFLICT = "insert or rollback into item values (1, 'again')"


@pytest.mark.parametrize("sql", [TOO_MUCH, CONFLICT])
@pytest.mark.parametrize("form", ["execute", "executemany"])
async def test_nothing_after_a_rollback_of_sqlites(path, pool_on, sql, form):
    """After an error with which SQLite has rolled back, further statements are refused:
    they would be committed by themselves.
    """
    errors = []

    def work(txn):
        txn.execute("insert into item values (1, 'saw')")
        for statement in (sql, "insert into item values (2, 'nail')"):
            try:
                if form == "execute":
                    txn.execute(statement)
                else:
                    txn.executemany(statement, [()])
            except Exception as error:
                errors.append(error)

    async with pool_on() as pool:
        with pytest.raises(TransactionEnded):
            await pool.runInteraction(work)
        assert isinstance(errors[0], sqlite3.DatabaseError)
        assert isinstance(errors[1], TransactionEnded)
        assert await pool.runQuery("select * from item") == []
        await pool.runOperation("insert into item values (3, 'screw')")
        assert pool.stats().opened <= 2


async def test_an_ordinary_error_ends_nothing(pool_on):
    """After an error that leaves the transaction alone, the function may go on."""

    def work(txn):
        txn.execute("insert into item values (1, 'saw')")
        with pytest.raises(sqlite3.IntegrityError):
            txn.execute("insert into item values (1, 'again')")
        txn.execute("insert into item values (2, 'nail')")

    async with pool_on() as pool:
        await pool.runInteraction(work)
        assert await pool.runQuery("select id from item") == [(1,), (2,)]


async def test_nothing_after_an_interrupt(pool_on):
    """An interrupt inside a transaction ends it; nothing of it is committed."""
    errors = []

    def work(txn):
        txn.execute("insert into item values (1, 'saw')")
        for sql in (ENDLESS, "delete from item"):
            try:
                txn.execute(sql)
            except BaseException as error:
                errors.append(error)

    async with pool_on() as pool:
        call = pool.runInteraction(work)
        await reached(pool.seen)
        call.cancel()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        assert isinstance(errors[0], sqlite3.OperationalError)
        assert isinstance(errors[1], asyncio.CancelledError)
        assert await pool.runQuery("select * from item") == []


BROKEN_DISK = """
    import asyncio, resource, signal, sqlite3, sys
    from enterprise import ConnectionPool, TransactionEnded

    def work(txn):
        txn.execute("insert into item values (1)")
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        seen = []
        for sql in (
            "insert into item values (zeroblob(1000000))",
            "insert into item values (2)",
        ):
            try:
                txn.execute(sql)
            except Exception as error:
                seen.append(getattr(error, "sqlite_errorname", type(error).__name__))
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        print(*seen)

    async def main(path):
        prepare = lambda raw: raw.execute("pragma cache_size = 1")
        async with ConnectionPool(
            "sqlite3", path, cp_wal=False, cp_openfun=prepare, cp_max=1
        ) as pool:
            await pool.runOperation("create table item (what)")
            try:
                await pool.runInteraction(work)
            except TransactionEnded:
                print("ended")
            print(await pool.runQuery("select * from item"))
            await pool.runOperation("insert into item values (3)")
            print(await pool.runQuery("select * from item"), pool.stats().opened)

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    asyncio.run(main(sys.argv[1]))
"""


def test_nothing_after_a_broken_disk(tmp_path):
    """A disk that takes no more bytes ends the transaction; later it works again."""
    status, out, errors = python(BROKEN_DISK, str(tmp_path / "new.db"))
    assert (status, errors) == (0, "")
    assert out.splitlines() == [
        "SQLITE_IOERR_WRITE TransactionEnded",
        "ended",
        "[]",
        "[(3,)] 1",
    ]


def test_a_cursor_that_ends_with_its_transaction(path):
    """The cursor for functions of others refuses what would be committed by itself."""
    driver = SQLiteDriver((str(path),), {}, wal=False)
    raw = driver.connect(Lane.ANY)
    raw.row_factory = sqlite3.Row
    driver.begin(raw, readonly=False)
    cursor = driver.cursor(raw)
    assert isinstance(cursor, sqlite3.Cursor)
    assert cursor.execute("insert into item values (?, ?)", (1, "saw")) is cursor
    assert cursor.executemany("insert into item values (?, 'x')", [(7,)]) is cursor
    assert cursor.execute("select id from item").fetchone()["id"] == 1
    with pytest.raises(AttributeError, match="runScript"):
        cursor.executescript("delete from item")
    with pytest.raises(sqlite3.IntegrityError):
        cursor.execute(CONFLICT)
    assert driver.state(raw) is TransactionState.NONE
    for run in (
        lambda: cursor.execute("insert into item values (2, 'x')"),
        lambda: cursor.executemany("insert into item values (?, 'x')", [(2,)]),
        lambda: driver.cursor(raw).execute("select 1"),
    ):
        with pytest.raises(TransactionEnded, match="committed by itself"):
            run()
    cursor.execute(" BEGIN immediate")  # Who begins one again may go on in it.
    cursor.execute("insert into item values (3, 'x')")
    driver.commit(raw)
    assert raw.execute("select id from item").fetchall()[0]["id"] == 3
    driver.close(raw)


# -- databases in memory ---------------------------------------------------------------

MEMORY = [
    (("sqlite://",), {}),
    ((sqlite3, ":memory:"), {}),
    ((sqlite3, ""), {}),
    ((sqlite3, "file:mine?mode=memory&cache=shared"), {"uri": True}),
]
memories = pytest.mark.parametrize(("arguments", "keywords"), MEMORY)


@memories
async def test_memory_outlives_everything(arguments, keywords):
    """A database in memory outlives idleness, lifetime, checks, errors and cancels."""
    pool = ConnectionPool(
        *arguments,
        **keywords,
        cp_max=4,
        cp_idle=0,
        cp_lifetime=0,
        cp_check=0,
        cp_keepalive=0.001,
    )
    async with pool:
        await pool.runScript("create table item (id integer)")
        await pool.runOperation("insert into item values (1)")
        for n in range(20):
            await until(lambda: pool.stats().idle, "the worker to rest")
            if n % 2:
                await outcome(pool.runQuery("selekt"))
            else:
                call = pool.runInteraction(
                    lambda txn: txn.execute("delete from item") and None
                )
                call.cancel()
                await outcome(call)
            assert await pool.runQuery("select count(*) from item") in ([(1,)], [(0,)])
        assert (pool.stats().opened, pool.stats().connections) == (1, 1)


def reason(error):
    """Return why nothing could be opened."""
    return error if isinstance(error, DatabaseGone) else error.__cause__


@memories
async def test_memory_that_is_gone(arguments, keywords):
    """Where the one connection has to go, calls fail with DatabaseGone, at once and
    from then on; none finds an empty database in its place.
    """
    opened = []
    pool = ConnectionPool(*arguments, **keywords, cp_openfun=opened.append)
    async with pool:
        await pool.runScript("create table item (id integer)")
        with pytest.raises((sqlite3.ProgrammingError, ConnectionError)):
            await pool.runInteraction(lambda txn: opened[0].close())
        for _ in range(2):
            error = await outcome(pool.runQuery("select * from item"))
            assert isinstance(error, ConnectFailed)
            assert isinstance(reason(error), DatabaseGone)
            assert "data are lost" in str(error)


async def test_memory_that_never_was():
    """A connection that could not be prepared has lost nothing: the next one may."""
    failures = [ZeroDivisionError()]

    def prepare(raw):
        if failures:
            raise failures.pop()

    async with ConnectionPool("sqlite://", cp_openfun=prepare) as pool:
        await until(lambda: pool.stats().failed, "the failure")
        await outcome(pool.runQuery("select 1"))  # It may be the one that is told.
        assert await pool.runQuery("select 1") == [(1,)]
        assert pool.stats().failed == 1


@pytest.mark.parametrize("sql", [TOO_MUCH, CONFLICT])
@pytest.mark.parametrize("form", ["connection", "cursor"])
async def test_nothing_on_a_raw_cursor_either(pool_on, sql, form):
    """A function that has a connection cannot go on after SQLite's rollback, either."""
    errors = []

    def work(connection):
        at = connection if form == "connection" else connection.cursor()
        at.execute("insert into item values (1, 'saw')")
        for statement in (sql, "insert into item values (2, 'nail')"):
            try:
                at.execute(statement)
            except Exception as error:
                errors.append(error)

    async with pool_on() as pool:
        with pytest.raises(TransactionEnded):
            await pool.runWithConnection(work)
        assert isinstance(errors[0], sqlite3.DatabaseError)
        assert isinstance(errors[1], TransactionEnded)
        assert await pool.runQuery("select * from item") == []
