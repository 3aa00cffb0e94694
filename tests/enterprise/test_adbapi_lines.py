"""ConnectionPool, line by line of the old API's behaviours: AD1 to AD11.

What other tests show already is not shown again: see `test_adbapi_lines_more`, which
has AD12 to AD21 and says for each line where else to look.
"""

from __future__ import annotations

import copy
import functools
import logging
import pickle
import sqlite3
import sys
import threading
from contextlib import closing

import psycopg
import pytest

from enterprise import ConnectionPool
from enterprise.errors import ConfigurationError, ConnectionLost
from tests.enterprise.helpers import names, outcome, python, reached
from tests.scripted import Scripted

SECRET = "Joshua5"


def by_module(database, **options):
    """Make a pool as programs for adbapi do: a module's name, and what it needs."""
    if database.kind == "sqlite":
        return ConnectionPool("sqlite3", str(database.path), **options)
    return ConnectionPool("psycopg", database.dsn, **options)


# -- AD1, AD2: any module by its name, and the options -------------------------------


async def test_any_module_by_its_name(script, monkeypatch):
    """The name of any DB-API 2.0 module will do; the rest goes to its connect()."""
    monkeypatch.setitem(sys.modules, "legacydb", script)
    pool = ConnectionPool("legacydb", "db.example", 5, user="ada", cp_name="shop")
    async with pool:
        assert await pool.runQuery("rows 1 2") == [(1,), (2,)]
    (connect,) = [entry for entry in script.history if entry[1] == "connect"]
    assert connect[2] == (("db.example", 5), {"user": "ada"})


async def test_old_options_are_taken(script):
    """All options of adbapi but the reactor are there, and can be read."""
    pool = ConnectionPool(
        script,
        cp_min=3,
        cp_max=5,
        cp_name="shop",
        cp_noisy=True,
        cp_openfun=print,
        cp_reconnect=True,
        cp_good_sql="rows 9",
    )
    options = pool.options
    assert (options.cp_min, options.cp_max, options.cp_name) == (3, 5, "shop")
    assert options.cp_noisy is options.cp_reconnect is True
    assert (options.cp_openfun, options.cp_good_sql) == (print, "rows 9")
    await pool.close()


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"cp_reactor": object()}, "answers go home to the loop they were asked from"),
        ({"cp_reconnect": False}, "leave the option out"),
        ({"cp_min": 7, "cp_max": 5}, "a cp_max of 1 or more that is not below it"),
    ],
)
def test_old_options_that_are_refused(script, options, cure):
    """What cannot be kept is refused when the pool is made, with the cure: no minimum
    is lowered in silence, no lost connection kept.
    """
    with pytest.raises(ConfigurationError, match=cure):
        ConnectionPool(script, **options)


# -- AD3: four verbs ------------------------------------------------------------------


async def test_four_verbs_with_callbacks(shop):
    """Query gives rows, operation None, the other two what their function returns."""

    def look(handle, number, *, column):
        assert column == "name"
        sql = shop.sql("select name from item where id = ?")
        return handle.execute(sql, (number,)).fetchone()

    seen = []
    async with by_module(shop) as pool:
        insert = shop.sql("insert into item values (?, ?)")
        await pool.runOperation(insert, (3, "file")).addCallback(seen.append)
        select = shop.sql("select name from item where id = ?")
        await pool.runQuery(select, (3,)).addCallback(seen.append)
        for run in (pool.runInteraction, pool.runWithConnection):
            await run(look, 3, column="name").addCallback(seen.append)
    assert seen == [None, [("file",)], ("file",), ("file",)]


# -- AD4: one call is one transaction -------------------------------------------------


async def test_transaction_is_in_a_pool_thread(shop):
    """Begin, the function and commit are in one thread, which is not the loop's."""
    threads = []

    def work(handle, *values):
        threads.append(threading.get_ident())
        handle.execute(shop.sql("insert into item values (?, ?)"), values)
        assert names(shop)[-1] != values[-1]  # Not from outside, not yet.

    async with by_module(shop, cp_max=1) as pool:
        await pool.runInteraction(work, 3, "file")
        await pool.runWithConnection(work, 4, "adze")
    assert threads[0] == threads[1] != threading.get_ident()
    assert names(shop) == ["hammer", "saw", "file", "adze"]


@pytest.mark.parametrize("way", ["runInteraction", "runWithConnection"])
async def test_original_exception_where_the_rollback_fails(script, caplog, way):
    """The function's own exception arrives although the rollback fails, which is
    logged as what it is: a WARNING, not an error nobody can do anything about.
    """
    problem = LookupError("only 3 left")

    def fail(handle):
        raise problem

    script.will("rollback", "fail no rollback")
    async with ConnectionPool(script, cp_max=1) as pool:
        assert await outcome(getattr(pool, way)(fail)) is problem
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.levelno == logging.WARNING
    assert "no rollback" in record.getMessage()


async def test_original_exception_where_the_connection_is_lost(pg_url, postgres):
    """Where the rollback fails since the connection has ended, ConnectionLost arrives,
    whose cause is the function's own exception.
    """
    problem = LookupError("only 3 left")

    def fail(txn, connect):
        with closing(connect()) as other:
            sql = "select pg_terminate_backend(%s, 30000)"
            other.execute(sql, (txn.connection.info.backend_pid,))
        raise problem

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        connect = functools.partial(
            psycopg.connect, postgres.dsn("postgres"), autocommit=True
        )
        error = await outcome(pool.runInteraction(fail, connect))
        assert isinstance(error, ConnectionLost)
        assert (error.outcome, error.__cause__) == ("rolled_back", problem)
        assert await pool.runQuery("select 1") == [(1,)]


# -- AD5: a connection for each thread ------------------------------------------------


async def test_each_thread_has_one_connection(shop):
    """A connection belongs to one thread, and a thread has the same one for life."""
    every = threading.Barrier(3)

    def who(connection, *, meet):
        if meet:
            every.wait(30)
        return threading.get_ident(), id(connection.cursor().connection)

    raws = []
    options = {"cp_openfun": raws.append, "cp_max": 3}
    if shop.kind == "sqlite":  # Whose second and third connection only read.
        options["cp_max"], every = 1, threading.Barrier(1)
    async with by_module(shop, **options) as pool:
        several = [
            pool.runWithConnection(who, meet=True) for _ in range(options["cp_max"])
        ]
        pairs = {await each for each in several}
        pairs |= {await pool.runWithConnection(who, meet=False) for _ in range(30)}
    assert len(pairs) == len(raws) == options["cp_max"]
    assert {raw for _, raw in pairs} == {id(raw) for raw in raws}
    assert len({thread for thread, _ in pairs}) == options["cp_max"]


# -- AD6: hooks and wrappers -----------------------------------------------------------


async def test_openfun_sees_connections_that_replace_others(script):
    """`cp_openfun` gets each raw connection, also one that takes a lost one's place."""
    seen = []
    async with ConnectionPool(script, cp_max=1, cp_openfun=seen.append) as pool:
        await outcome(pool.runOperation("lose"))
        assert await pool.runQuery("rows 1") == [(1,)]
    assert seen == script.connections
    assert len(seen) == 2


async def test_wrappers_have_all_attributes(shop):
    """What the driver's cursor and connection can do, the wrappers can."""

    def look(txn):
        txn.execute("select id, name from item order by id")
        first, rest = txn.fetchone(), txn.fetchmany(5)
        columns = [column[0] for column in txn.description]
        return first, rest, columns, txn.rowcount, txn.connection is not None

    def ask(connection):
        if shop.kind == "sqlite":
            connection.row_factory = sqlite3.Row  # Set on it, and not on a wrapper.
            return connection.execute("select 1 as one").fetchone()["one"]
        connection.row_factory = psycopg.rows.dict_row
        return connection.execute("select 1 as one").fetchone()["one"]

    async with by_module(shop, cp_max=1) as pool:
        *most, rowcount, connected = await pool.runInteraction(look)
        assert most == [(1, "hammer"), [(2, "saw")], ["id", "name"]]
        assert rowcount == {"sqlite": -1, "postgres": 2}[shop.kind]
        assert connected
        assert await pool.runWithConnection(ask) == 1


# -- AD7: lost connections are found and replaced --------------------------------------


@pytest.mark.parametrize("way", ["runQuery", "runInteraction"])
async def test_cursor_that_cannot_be_made(script, way):
    """Where not even a cursor can be had, the connection is replaced; the call fails
    with what is known of it, and is repeated by nobody but its caller.
    """
    work = {"runQuery": "rows 1", "runInteraction": lambda txn: txn.rowcount}[way]
    async with ConnectionPool(script, cp_max=1, cp_check=60) as pool:
        await pool.runQuery("rows 1")
        script.connections[0].lost = True
        error = await outcome(getattr(pool, way)(work))
        assert isinstance(error, ConnectionLost)
        assert error.outcome in ("not_sent", "rolled_back")
        assert isinstance(await outcome(getattr(pool, way)(work)), (list, int))
    assert script.calls["connect"] == script.calls["close"] == 2


# -- AD8: its life ---------------------------------------------------------------------


def test_pool_under_the_reactor(tmp_path):
    """A pool made before the reactor runs works when it does, and a trigger closes it
    before the shutdown.
    """
    code = """
        import sys
        from enterprise import ConnectionPool
        from threadpool.reactor import reactor

        pool = ConnectionPool("sqlite3", sys.argv[1], cp_min=1)
        reactor.callWhenRunning(
            lambda: pool.runQuery("select 7").addCallback(
                lambda rows: (print(rows, pool.stats().connections), reactor.stop())
            )
        )
        reactor.addSystemEventTrigger("before", "shutdown", pool.close)
        reactor.run()
        print(pool)
    """
    status, said, complaints = python(code, str(tmp_path / "shop.db"))
    assert (status, complaints) == (0, "")
    first, last = said.splitlines()
    assert first.startswith("[(7,)]")
    assert " closed, 0 busy, 0 idle, 0 waiting>" in last


# -- AD9: modules that are no good, and what is logged ---------------------------------


async def test_noise_has_no_arguments(script, caplog):
    """`cp_noisy` tells of connections, and never what they were opened with."""
    caplog.set_level(logging.DEBUG)
    options = {"cp_noisy": True, "cp_name": "shop", "password": SECRET}
    async with ConnectionPool(script, f"password={SECRET}", **options) as pool:
        await pool.runQuery("rows 1")
        assert SECRET not in repr(pool)
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert told == [
        "shop opened a connection to scripted",
        "shop closed a connection to scripted",
    ]
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("apilevel", "threadsafety", "told"),
    [("2.0", 1, []), ("2.0", 3, []), ("1.0", 1, ["apilevel"]), ("2.0", 0, ["thread"])],
)
async def test_module_of_another_kind(caplog, apilevel, threadsafety, told):
    """A module that is no DB-API 2.0 or cannot bear threads is warned about, once."""
    script = Scripted(threadsafety=threadsafety)
    script.apilevel = apilevel
    async with ConnectionPool(script) as pool:
        for _ in range(2):
            assert await pool.runQuery("rows 1") == [(1,)]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == len(told)
    assert all(word in text for word, text in zip(told, warnings, strict=True))


# -- AD10, AD11: pickles and names -----------------------------------------------------


@pytest.mark.parametrize("again", [pickle.dumps, copy.copy, copy.deepcopy])
def test_pool_is_not_pickled(script, again):
    """A pool cannot be pickled or copied, and says why: half of its settings would be
    lost on the way, and its password would not.
    """
    pool = ConnectionPool(script, password=SECRET, cp_name="shop")
    with pytest.raises(
        TypeError, match=r"'shop' cannot be pickled.*Make one"
    ) as caught:
        again(pool)
    assert SECRET not in str(caught.value)


async def test_threads_have_the_pools_name(script):
    """`cp_name` is in the name of each of the pool's threads."""
    async with ConnectionPool(script, cp_name="shop", cp_max=2) as pool:
        calls = [pool.runQuery(f"hang {name}; rows 1") for name in "ab"]
        for name in "ab":
            await reached(script.gate(name).reached)
        mine = {c.thread for c in script.connections}
        told = {t.name for t in threading.enumerate() if t.ident in mine}
        script.release()
        for call in calls:
            await call
    assert told == {"shop-1", "shop-2"}
