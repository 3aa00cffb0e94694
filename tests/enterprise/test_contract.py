"""The contract of ConnectionPool, the same for every database: statements."""

from __future__ import annotations

import asyncio
import logging
import sqlite3

import psycopg
import pytest

from enterprise import ConnectionPool, Result
from enterprise.errors import TransactionEnded, WrongThread
from tests.enterprise.helpers import backend, balance, names, outcome

ERRORS = {"sqlite": sqlite3.Error, "postgres": psycopg.Error}


async def test_query_gives_rows(shop):
    """`runQuery` gives the list of rows, each a tuple."""
    async with ConnectionPool(shop.url) as pool:
        sql = shop.sql("select id, name from item where id >= ? order by id")
        assert await pool.runQuery(sql, (1,)) == [(1, "hammer"), (2, "saw")]
        assert await pool.runQuery(sql, (3,)) == []


async def test_query_without_rows(shop):
    """`runQuery` of a statement that gives no rows is an empty list."""
    async with ConnectionPool(shop.url) as pool:
        assert await pool.runQuery("delete from item where id = 2") == []
    assert names(shop) == ["hammer"]


async def test_operation_gives_none(shop):
    """`runOperation` gives None, and its statement is committed by itself."""
    async with ConnectionPool(shop.url) as pool:
        sql = shop.sql("insert into item values (?, ?)")
        assert await pool.runOperation(sql, (3, "file")) is None
        assert names(shop) == ["hammer", "saw", "file"]
        assert await pool.runOperation("select 1") is None


async def test_result_tells_all(shop):
    """`runResult` gives rows, column names, rowcount and lastrowid."""
    async with ConnectionPool(shop.url) as pool:
        found = await pool.runResult("select id, name as what from item where id = 2")
        assert isinstance(found, Result)
        assert (found.rows, found.columns) == ([(2, "saw")], ("id", "what"))
        changed = await pool.runResult("update item set name = 'x'")
        assert (changed.rows, changed.columns, changed.rowcount) == ([], (), 2)
        added = await pool.runResult("insert into item values (7, 'y')", write=True)
        assert (added.rowcount, added.lastrowid) in [(1, 7), (1, None)]
        assert (shop.kind == "sqlite") == (added.lastrowid == 7)


async def test_script_runs_all(shop):
    """`runScript` runs all statements in a text, whatever signs are in it."""
    async with ConnectionPool(shop.url) as pool:
        text = "insert into item values (3, '100%'); delete from item where id < 3;"
        assert await pool.runScript(text) is None
    assert names(shop) == ["100%"]


async def test_script_is_all_or_nothing(shop):
    """A script whose last statement fails has done nothing."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises(ERRORS[shop.kind]):
            await pool.runScript("delete from item; insert into nowhere values (1)")
        assert names(shop) == ["hammer", "saw"]
        assert await pool.runQuery("select count(*) from item") == [(2,)]


async def test_script_with_its_own_begin(shop):
    """A script that fails in a transaction of its own leaves no transaction behind."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises(ERRORS[shop.kind]):
            await pool.runScript("begin; delete from item; select * from nowhere")
        await pool.runOperation("insert into item values (3, 'file')")
        assert names(shop) == ["hammer", "saw", "file"]


async def test_sql_error_is_the_drivers(shop):
    """An SQL error is the driver's own exception, and the connection stays in use."""
    kinds = {"sqlite": sqlite3.OperationalError, "postgres": psycopg.errors.SyntaxError}
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        before = await pool.runQuery(backend(shop))
        for run in (pool.runQuery, pool.runOperation, pool.runResult, pool.runScript):
            with pytest.raises(kinds[shop.kind]):
                await run("selekt 1")
        assert await pool.runQuery(backend(shop)) == before
        assert pool.stats().opened == pool.stats().connections == 1


async def test_constraint_error_is_the_drivers(shop):
    """A broken constraint is the driver's own IntegrityError, and nothing is left."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        before = await pool.runQuery(backend(shop))
        with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
            await pool.runOperation("insert into item values (3, 'file'), (1, 'twice')")
        assert names(shop) == ["hammer", "saw"]
        assert await pool.runQuery(backend(shop)) == before


@pytest.mark.parametrize("params", [(), (1,), (1, 2, 3)])
async def test_wrong_parameter_count(shop, params):
    """A wrong number of parameters is the driver's own error; the pool goes on."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        sql = shop.sql("select name from item where id = ? and id <> ?")
        if params == () and shop.kind == "postgres":
            expected = psycopg.ProgrammingError
        else:
            expected = (sqlite3.ProgrammingError, psycopg.ProgrammingError)
        with pytest.raises(expected):
            await pool.runQuery(sql, params)
        assert await pool.runQuery(sql, (1, 2)) == [("hammer",)]
        assert pool.stats().opened == 1


async def test_percent_sign_is_literal(shop):
    """Without parameters none are passed, so a % in the text stays what it is."""
    async with ConnectionPool(shop.url) as pool:
        text = "select '100% sure, %s, ?' as a where 'saw' like 's%'"
        assert await pool.runQuery(text) == [("100% sure, %s, ?",)]
        assert (await pool.runResult(text)).rows == [("100% sure, %s, ?",)]
        told = await pool.runInteraction(lambda txn: txn.execute(text).fetchall())
        assert told == [("100% sure, %s, ?",)]
        await pool.runOperation("delete from item where name like 's%'")
    assert names(shop) == ["hammer"]


async def test_parameters_in_the_drivers_style(shop):
    """Parameters go to the driver in its own style, mappings included."""
    async with ConnectionPool(shop.url) as pool:
        assert pool.paramstyle == {"sqlite": "qmark", "postgres": "pyformat"}[shop.kind]
        mark = {"sqlite": ":who", "postgres": "%(who)s"}[shop.kind]
        sql = f"select id from item where name = {mark}"
        assert await pool.runQuery(sql, {"who": "saw"}) == [(2,)]


async def test_statement_must_be_text(shop):
    """What is not a string is refused before anything runs."""
    async with ConnectionPool(shop.url) as pool:
        for run in (pool.runQuery, pool.runOperation, pool.runResult, pool.runScript):
            with pytest.raises(TypeError, match="bytes, not a string"):
                run(b"select 1")
        assert pool.stats().submitted == 0


async def test_custom_object_as_parameter(shop):
    """A value the driver does not know fails clearly; the connection stays in use."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        before = await pool.runQuery(backend(shop))
        unknown = type("Unknown", (), {"__reduce__": None})()
        with pytest.raises(ERRORS[shop.kind], match="Unknown"):
            await pool.runQuery(shop.sql("select ?"), (unknown,))
        assert await pool.runQuery(backend(shop)) == before


async def test_unpicklable_values_pass(shop):
    """What goes in and comes out is never pickled: it stays in the process."""
    async with ConnectionPool(shop.url) as pool:
        secret = lambda: 42  # noqa: E731
        assert await pool.runInteraction(lambda txn, value: value, secret) is secret


async def test_nul_in_text(shop):
    """Text with a NUL goes in and out of SQLite; PostgreSQL's driver refuses it."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        sql = shop.sql("insert into item values (3, ?)")
        result = await outcome(pool.runOperation(sql, ("a\0b",)))
        stored = await pool.runQuery("select name from item where id = 3")
        if shop.kind == "sqlite":
            assert (result, stored) == (None, [("a\0b",)])
        else:
            assert isinstance(result, psycopg.DataError)
            assert stored == []
        odd = await outcome(pool.runQuery("select '\0'"))
        assert isinstance(odd, (ERRORS[shop.kind], ValueError)) or odd == [("\0",)]
        assert await pool.runQuery("select 1") == [(1,)]


async def test_huge_value(database):
    """200 MB go into SQLite and out again, and 50 MB into PostgreSQL."""
    sqlite = database.kind == "sqlite"
    size = 200_000_000 if sqlite else 50_000_000
    kind = "blob" if sqlite else "bytea"
    async with ConnectionPool(database.url, cp_max=1) as pool:
        await pool.runOperation(f"create table big (data {kind})")
        value = bytes(size)
        sql = database.sql("insert into big values (?)")
        await pool.runOperation(sql, (value,))
        [(back,)] = await pool.runQuery("select data from big")
        assert len(back) == size
        assert back == value


async def test_callback_style(shop):
    """Every call is a Deferred: callbacks get the rows, errbacks the failure."""
    async with ConnectionPool(shop.url) as pool:
        seen = []
        good = pool.runQuery("select id from item order by id").addCallback(len)
        await good.addCallback(seen.append)
        await pool.runQuery("selekt").addErrback(lambda failure: seen.append(failure))
        assert seen[0] == 2
        assert seen[1].check(ERRORS[shop.kind])


async def test_gather_and_timeout(shop):
    """A Deferred is what asyncio expects: gather, wait_for and a TaskGroup take it."""
    async with ConnectionPool(shop.url) as pool:
        many = await asyncio.gather(*(pool.runQuery(f"select {n}") for n in range(50)))
        assert many == [[(n,)] for n in range(50)]
        assert await asyncio.wait_for(pool.runQuery("select 1"), 30) == [(1,)]
        async with asyncio.TaskGroup() as group:
            task = group.create_task(pool.runQuery("select 2").asCoroutine())
        assert task.result() == [(2,)]


async def test_repr_and_stats(shop):
    """`repr` is one truthful line, and the figures add up."""
    pool = ConnectionPool(shop.url, cp_name="shop", cp_max=1)
    assert repr(pool).endswith(" not started, 0 busy, 0 idle, 0 waiting>")
    assert pool.name == "shop"
    async with pool:
        await asyncio.gather(*(pool.runQuery("select 1") for _ in range(20)))
        await outcome(pool.runQuery("selekt"))
        stats = pool.stats()
        assert (stats.submitted, stats.finished, stats.removed) == (21, 21, 0)
        assert (stats.connections, stats.opened, stats.failed) == (1, 1, 0)
        assert (stats.unfinished, stats.waiting, stats.refused) == (0, 0, 0)
        assert stats.most_workers == 1
        assert 1 <= stats.most_unfinished <= 20
        assert stats.run_seconds > 0
        assert stats.wait_seconds > 0
        first, last = balance(stats)
        assert first == last
        assert " open, 0 busy, " in repr(pool)
    assert repr(pool).endswith(" closed, 0 busy, 0 idle, 0 waiting>")
    assert pool.stats().connections == 0


def test_no_loop(database):
    """Without a loop calls raise WrongThread; close, stats and repr work anywhere."""
    pool = ConnectionPool(database.url)
    for call in (
        lambda: pool.runQuery("select 1"),
        lambda: pool.runOperation("select 1"),
        lambda: pool.runResult("select 1"),
        lambda: pool.runScript("select 1"),
        lambda: pool.runInteraction(print),
        lambda: pool.runWithConnection(print),
        pool.start,
    ):
        with pytest.raises(WrongThread, match="callFromThread"):
            call()
    assert pool.stats().submitted == 0
    assert "not started" in repr(pool)
    assert pool.close().called


async def test_noisy(shop, caplog):
    """`cp_noisy` logs at INFO when connections open and close, and no parameters."""
    caplog.set_level(logging.INFO, "enterprise")
    async with ConnectionPool(shop.url, cp_max=1, cp_noisy=True) as pool:
        await pool.runQuery(shop.sql("select ?"), ("secret value",))
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert [text.split(" a connection")[0].split()[-1] for text in told] == [
        "opened",
        "closed",
    ]
    assert "secret" not in caplog.text


async def test_openfun_sees_each_new_connection(shop):
    """`cp_openfun` is called once with each raw connection, before its first job."""
    seen = []
    async with ConnectionPool(shop.url, cp_max=1, cp_openfun=seen.append) as pool:
        await pool.runQuery("select 1")
        own = await pool.runWithConnection(lambda raw: id(raw.cursor().connection))
        assert [id(raw) for raw in seen] == [own]


async def test_transaction_left_open_is_ended(database):
    """A BEGIN of one's own is undone and told; later work is not lost in it."""
    async with ConnectionPool(database.url, cp_max=1) as pool:
        await pool.runOperation("create table kept (id integer)")
        with pytest.raises(TransactionEnded, match="runInteraction"):
            await pool.runOperation("begin")
        await pool.runOperation("insert into kept values (1)")
    assert database.rows("select id from kept") == [(1,)]
