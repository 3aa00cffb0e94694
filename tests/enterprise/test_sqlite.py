"""What is SQLite's own: a writer and its readers, the journal, data in memory."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from contextlib import closing

import pytest

from enterprise import ConnectionPool
from tests.enterprise.helpers import outcome, reached

ENDLESS = (
    "with recursive n(i) as (select 1 union all select i + 1 from n) "
    "select count(*) from n"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shop.db"


@pytest.fixture
def url(path):
    return f"sqlite:///{path}"


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


class Traced:
    """Writes down what each connection executes."""

    def __init__(self):
        self.statements = []
        self._lock = threading.Lock()
        self._connections = 0

    def watch(self, raw):
        with self._lock:
            number = self._connections
            self._connections += 1
        raw.set_trace_callback(lambda sql: self.statements.append((number, sql)))

    def take(self):
        """Return the statements so far, and forget them."""
        taken, self.statements = self.statements, []
        return [sql for _, sql in taken]


# -- what reaches the database ---------------------------------------------------------


@pytest.mark.parametrize("maximum", [1, 4])
async def test_warm_pool_runs_nothing_else(url, maximum):
    """A warm pool runs exactly N statements for N calls, and three an interaction."""
    traced = Traced()
    async with ConnectionPool(url, cp_max=maximum, cp_openfun=traced.watch) as pool:
        await pool.runOperation("create table item (id integer primary key)")
        await asyncio.gather(*(pool.runQuery("select 0") for _ in range(50)))
        traced.take()
        for n in range(20):
            assert await pool.runQuery(f"select {n}") == [(n,)]
        assert [s for s in traced.take() if "query_only" not in s] == [
            f"select {n}" for n in range(20)
        ]
        await pool.runOperation("insert into item values (1)")
        await pool.runInteraction(lambda txn: txn.execute("delete from item") and 1)
        assert traced.take() == [
            "insert into item values (1)",
            "begin immediate",
            "delete from item",
            "commit",
        ]


async def test_readers_cannot_write(url):
    """A query that writes is refused by its reader and rerun on the writer, once."""
    traced = Traced()
    async with ConnectionPool(url, cp_max=4, cp_openfun=traced.watch) as pool:
        await pool.runOperation("create table item (id integer primary key)")
        sql = "insert into item values (7) returning id"
        assert await pool.runQuery(sql) == [(7,)]
        assert await pool.runQuery("select * from item") == [(7,)]
        twice = [who for who, text in traced.statements if text == sql]
        assert len(set(twice)) == len(twice) <= 2
        assert (await pool.runResult("delete from item")).rowcount == 1
        assert pool.stats().opened >= 2


async def test_query_on_the_writer_at_once(url):
    """`write=True` runs a query on the writer, without trying a reader."""
    traced = Traced()
    async with ConnectionPool(url, cp_max=4, cp_openfun=traced.watch) as pool:
        await pool.runScript("create table item (id integer primary key)")
        traced.take()
        sql = "insert into item values (7) returning id"
        assert await pool.runQuery(sql, write=True) == [(7,)]
        assert traced.take() == [sql]
        assert pool.stats().opened == 1


async def test_error_of_a_rerun(url):
    """What fails on the writer fails with that error, and is not run again."""
    async with ConnectionPool(url, cp_max=4) as pool:
        await pool.runScript("create table item (id integer primary key)")
        sql = "insert into item values (7), (7)"
        with pytest.raises(sqlite3.IntegrityError):
            await pool.runQuery(sql)
        assert await pool.runQuery("select * from item") == []


async def test_read_only_file(path, url):
    """Where not even the writer may write, the driver's error arrives."""
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("create table item (id integer primary key)")
    uri = f"sqlite:///file:{path}?mode=ro&uri=true"
    async with ConnectionPool(uri, cp_max=3, cp_wal=False) as pool:
        for work in (pool.runQuery, pool.runOperation):
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                await work("insert into item values (1)")
        assert await pool.runQuery("select * from item") == []


async def test_bad_utf8(url):
    """An error that sqlite3 finds by itself, without a code, arrives like any other."""
    async with ConnectionPool(url) as pool:
        for run in (pool.runQuery, pool.runResult):
            with pytest.raises(sqlite3.OperationalError, match="UTF-8"):
                await run("select cast(x'ff' as text)")
        assert await pool.runQuery("select 1") == [(1,)]


async def test_openfun_may_write(url):
    """`cp_openfun` may make temporary tables, on readers and the writer alike."""

    def prepare(raw):
        raw.execute("create temp table mine (id integer)")
        raw.execute("insert into mine values (3)")

    async with ConnectionPool(url, cp_max=3, cp_openfun=prepare) as pool:
        assert await pool.runQuery("select * from mine") == [(3,)]
        assert await pool.runQuery("select * from mine", write=True) == [(3,)]
        with pytest.raises(sqlite3.OperationalError):
            await pool.runInteraction(
                lambda txn: txn.execute("delete from mine"), readonly=True
            )


async def test_readers_work_beside_the_writer(url):
    """A query is answered while an interaction holds the writer."""
    inside, go_on = threading.Event(), threading.Event()

    def work(txn):
        txn.execute("delete from item")
        inside.set()
        assert go_on.wait(30)

    async with ConnectionPool(url, cp_max=2) as pool:
        await pool.runScript(
            "create table item (id integer); insert into item values (1)"
        )
        writing = pool.runInteraction(work)
        await reached(inside)
        assert await pool.runQuery("select * from item") == [(1,)]
        go_on.set()
        await writing
        assert await pool.runQuery("select * from item") == []


async def test_writes_keep_their_order(url):
    """Writes happen in the order of the calls."""
    async with ConnectionPool(url, cp_max=8) as pool:
        await pool.runScript("create table item (id integer primary key, what integer)")
        sql = "insert into item (what) values (?)"
        work = [pool.runOperation(sql, (n,)) for n in range(500)]
        await asyncio.gather(*work)
        rows = await pool.runQuery("select what from item order by id")
    assert rows == [(n,) for n in range(500)]


# -- the journal -----------------------------------------------------------------------


@pytest.mark.parametrize("wal", [None, True])
async def test_new_file_gets_wal(url, wal, caplog):
    """A file that we create has the write-ahead log."""
    async with ConnectionPool(url, cp_wal=wal) as pool:
        assert await pool.runQuery("pragma journal_mode") == [("wal",)]
    assert warnings(caplog) == []


async def test_new_file_without_wal(url, caplog):
    """`cp_wal=False` leaves even a new file alone."""
    async with ConnectionPool(url, cp_wal=False) as pool:
        assert await pool.runQuery("pragma journal_mode") == [("delete",)]
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("wal", "mode", "told"),
    [(None, "delete", 1), (True, "wal", 0), (False, "delete", 0)],
)
async def test_existing_file(path, url, caplog, wal, mode, told):
    """An existing file keeps its journal mode, with one WARNING that says the cure."""
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("create table item (id integer)")
    async with ConnectionPool(url, cp_wal=wal, cp_max=4, cp_min=4) as pool:
        assert await pool.runQuery("pragma journal_mode") == [(mode,)]
    assert ["cp_wal=True" in text for text in warnings(caplog)] == [True] * told


# -- in memory -------------------------------------------------------------------------

MEMORY = [
    (("sqlite://",), {}),
    (("sqlite:///:memory:",), {}),
    (("sqlite:///file:shop?mode=memory&cache=shared&uri=true",), {}),
    ((sqlite3, ":memory:"), {}),
    ((sqlite3, ""), {}),
    ((sqlite3, "file::memory:?cache=shared"), {"uri": True}),
]


@pytest.mark.parametrize(("arguments", "keywords"), MEMORY)
async def test_memory_is_one_connection(arguments, keywords):
    """A database in memory has one connection, which is never closed for idleness."""
    pool = ConnectionPool(*arguments, **keywords, cp_max=8, cp_idle=0)
    async with pool:
        await pool.runScript("create table item (id integer)")
        work = [pool.runOperation(f"insert into item values ({n})") for n in range(50)]
        await asyncio.gather(*work)
        await outcome(pool.runQuery("selekt"))
        assert await pool.runQuery("select count(*) from item") == [(50,)]
        assert (pool.stats().opened, pool.stats().connections) == (1, 1)


async def test_memory_survives_cancels():
    """A database in memory survives cancelled statements and failed interactions."""
    seen = threading.Event()

    def prepare(raw):
        raw.create_function("seen", 0, lambda: seen.set() or 1)

    async with ConnectionPool("sqlite://", cp_openfun=prepare) as pool:
        await pool.runScript("create table item (id integer)")
        await pool.runOperation("insert into item values (1)")
        sql = ENDLESS.replace("from n)", "from n where seen())")
        for way in (pool.runQuery, pool.runOperation):
            seen.clear()
            call = way(sql)
            await reached(seen)
            call.cancel()
            assert isinstance(await outcome(call), asyncio.CancelledError)
        seen.clear()
        call = pool.runInteraction(
            lambda txn: txn.execute("delete from item").execute(sql)
        )
        await reached(seen)
        call.cancel()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        assert await pool.runQuery("select * from item") == [(1,)]
        assert (pool.stats().opened, pool.stats().connections) == (1, 1)


async def test_cancel_before_the_first_step(url):
    """A cancel that SQLite does not hear, since its statement is about to begin, is
    repeated until the statement stops.
    """
    inside, go_on = threading.Event(), threading.Event()

    def authorize(*_):
        inside.set()
        assert go_on.wait(30)
        return sqlite3.SQLITE_OK

    async with ConnectionPool(
        url, cp_max=1, cp_openfun=lambda raw: raw.set_authorizer(authorize)
    ) as pool:
        call = pool.runQuery(ENDLESS)
        await reached(inside)
        call.cancel()
        while not pool._office._canceller.stats().finished:
            await asyncio.sleep(0)
        go_on.set()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        assert await pool.runQuery("select 1") == [(1,)]


# -- limits ----------------------------------------------------------------------------


async def test_lanes_share_the_connections(url):
    """`cp_max` counts the writer."""
    async with ConnectionPool(url, cp_min=3, cp_max=3) as pool:
        assert pool.stats().connections == 3
        await asyncio.gather(
            *(pool.runQuery("select 1", write=n % 2 == 0) for n in range(100))
        )
        assert pool.stats().opened == 3


async def test_locked_by_somebody_else(path, url):
    """Where another process keeps the lock, the driver's error arrives in time."""
    async with ConnectionPool(url, cp_max=2, timeout=0) as pool:
        await pool.runScript("create table item (id integer)")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("begin immediate")
            for work in (
                pool.runOperation("insert into item values (1)"),
                pool.runInteraction(lambda txn: 1),
                pool.runScript("insert into item values (1)"),
                pool.runQuery("insert into item values (1)"),
            ):
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    await work
            other.execute("rollback")
        await pool.runOperation("insert into item values (2)")
        assert await pool.runQuery("select * from item") == [(2,)]
        assert pool.stats().opened <= 2
