"""ConnectionPool, line by line of the old API's behaviours: AD12 to AD21.

Most of these are weaknesses that were mended. At the end is where else each line of
AD1 to AD21 is shown.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sqlite3
import threading
from contextlib import closing

import psycopg
import pytest

from enterprise import ConnectionPool
from enterprise.errors import ConnectionLost, TransactionEnded
from tests.enterprise.helpers import names, outcome, until
from tests.enterprise.test_adbapi_lines import by_module
from tests.scripted import OperationalError

LINES = [f"AD{number}" for number in range(1, 22)]


# -- AD12, AD13: what becomes of lost connections --------------------------------------


@pytest.mark.parametrize("options", [{}, {"cp_reconnect": True}])
async def test_loss_reaches_the_errback(postgres, pg_name, options):
    """ConnectionLost reaches whoever called, with the driver's error as its cause,
    whether or not anybody asked for reconnecting.
    """
    async with ConnectionPool("psycopg", postgres.dsn(pg_name), **options) as pool:
        seen = []
        sql = "select pg_terminate_backend(pg_backend_pid())"
        lost = pool.runInteraction(lambda txn: txn.execute(sql).fetchall())
        await lost.addErrback(lambda failure: seen.append(failure))
        assert seen[0].check(ConnectionLost)
        assert isinstance(seen[0].value.__cause__, psycopg.errors.AdminShutdown)
        assert await pool.runQuery("select 1") == [(1,)]


@pytest.mark.parametrize("way", ["runOperation", "runInteraction"])
async def test_loss_that_only_the_rollback_tells(script, way):
    """A driver's error that does not say so is a loss all the same where the rollback
    after it finds the connection closed; the others are checked before they are used.
    """
    work = {"runOperation": "lose", "runInteraction": lambda txn: txn.execute("lose")}
    async with ConnectionPool(script, cp_max=1) as pool:
        await pool.runQuery("rows 1")
        error = await outcome(getattr(pool, way)(work[way]))
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "rolled_back"
        assert isinstance(error.__cause__, OperationalError)
        assert pool.stats().lost == 1
        assert await pool.runQuery("rows 2") == [(2,)]


async def test_dead_connection_fails_one_call_at_most(script):
    """Without `cp_reconnect`, too, of three calls at most the first sees the loss."""
    async with ConnectionPool(script, cp_max=1, cp_check=60) as pool:
        await pool.runQuery("rows 1")
        script.connections[0].lost = True
        results = [await outcome(pool.runQuery("rows 2")) for _ in range(3)]
        assert isinstance(results[0], ConnectionLost)
        assert results[1:] == [[(2,)], [(2,)]]


async def test_dead_connection_fails_no_call_after_a_rest(script):
    """After a rest a connection is checked, and not even the first call fails."""
    async with ConnectionPool(script, cp_max=1, cp_check=0) as pool:
        await pool.runQuery("select 1")
        await until(lambda: pool.stats().idle == 1, "the worker to rest")
        script.connections[0].lost = True
        for _ in range(3):
            assert await pool.runQuery("rows 2") == [(2,)]
        assert pool.stats().opened == 2


# -- AD14: what a function must not do to its connection -------------------------------


@pytest.mark.parametrize("way", ["runInteraction", "runWithConnection"])
async def test_reconnect_is_refused(shop, way):
    """`reconnect()` in a function is refused with the cure, and all is rolled back."""

    def work(handle):
        handle.execute("delete from item")
        handle.reconnect()

    async with by_module(shop, cp_max=1) as pool:
        with pytest.raises(AttributeError, match="replaces connections that are lost"):
            await getattr(pool, way)(work)
        assert pool.stats().opened == 1
    assert names(shop) == ["hammer", "saw"]


@pytest.mark.parametrize("mode", ["autocommit", "isolation_level"])
async def test_mode_of_the_connection_is_refused(shop, mode):
    """A connection's mode is not changed inside a transaction: nothing is committed by
    it, and nothing is different for the next caller.
    """

    def work(connection):
        connection.execute("delete from item")
        setattr(connection, mode, {"autocommit": True}.get(mode))

    async with by_module(shop, cp_max=1) as pool:
        with pytest.raises(AttributeError, match=f"Setting {mode}.*autocommit=True"):
            await pool.runWithConnection(work)
        assert names(shop) == ["hammer", "saw"]
        await pool.runOperation("delete from item where id = 1")
        assert names(shop) == ["saw"]


async def test_mode_that_is_a_verb_is_refused(script):
    """So it is with drivers whose connections have a method for it."""
    said = []
    async with ConnectionPool(script, cp_max=1) as pool:
        await pool.runQuery("rows 1")
        script.connections[0].autocommit = said.append
        with pytest.raises(AttributeError, match="Setting autocommit"):
            await pool.runWithConnection(lambda c: c.autocommit(True))
    assert said == []


# -- AD15: where connections are closed ------------------------------------------------


async def test_connections_are_closed_by_their_own_threads(tmp_path, caplog):
    """SQLite's connections may be for their own threads only: nothing is complained of
    when the pool is closed, and nothing has to be switched off for it.
    """
    opened, closed = [], []

    class Watched(sqlite3.Connection):
        def close(self):
            super().close()
            closed.append(threading.get_ident())

    def note(raw):
        opened.append(threading.get_ident())
        with pytest.raises(sqlite3.ProgrammingError, match="same thread"):
            asyncio.run(asyncio.to_thread(raw.execute, "select 1"))

    path = str(tmp_path / "shop.db")
    options = {"factory": Watched, "cp_min": 3, "cp_max": 3, "cp_openfun": note}
    async with ConnectionPool("sqlite3", path, **options) as pool:
        await pool.runQuery("select 1")
    assert len(opened) == 3
    assert sorted(opened) == sorted(closed)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


# -- AD16, AD17, AD18: hooks that fail, wrappers, coroutines ---------------------------


async def test_failed_interaction_leaves_no_cursor_open(shop):
    """Cursors are closed with their function, those of a connection's, too."""
    kept = []

    def fail(handle):
        own = handle if hasattr(handle, "fetchone") else handle.cursor()
        own.execute("select id from item")
        own.fetchone()
        kept.append(own)
        raise LookupError

    async with by_module(shop, cp_max=1) as pool:
        for run in (pool.runInteraction, pool.runWithConnection):
            error = await outcome(run(fail))
            assert isinstance(error, LookupError)
            errors = (sqlite3.Error, psycopg.Error, TransactionEnded)
            with pytest.raises(errors):
                kept.pop().fetchone()
        await pool.runOperation(
            "drop table item"
        )  # An open cursor would be in the way.


async def test_failed_hook_leaves_no_connection_open(tmp_path):
    """Whatever `cp_openfun` does not like is closed, as often as it is tried."""
    opened = []

    def refuse(raw):
        opened.append(raw)
        raise LookupError("not this one")

    pool = ConnectionPool("sqlite3", str(tmp_path / "shop.db"), cp_openfun=refuse)
    async with pool:
        for _ in range(3):
            assert "not this one" in str(await outcome(pool.runQuery("select 1")))
        assert pool.stats().connections == 0
    assert len(opened) >= 3
    for raw in opened:
        with pytest.raises(sqlite3.ProgrammingError):
            raw.total_changes  # noqa: B018


async def test_interaction_that_is_async_runs_nothing(script):
    """An `async def` is refused before anything is begun, let alone committed."""

    async def work(txn):
        txn.execute("rows 1")

    async with ConnectionPool(script) as pool:
        for run in (pool.runInteraction, pool.runWithConnection):
            with pytest.raises(TypeError, match="is a coroutine function"):
                run(work)
    assert script.history == []


# -- AD19: fewer round trips, rows as one likes ----------------------------------------


async def test_rows_as_the_driver_makes_them(shop):
    """Rows can be mappings, where the driver is told so when it connects."""

    def with_names(raw):
        raw.row_factory = sqlite3.Row

    options = {"row_factory": psycopg.rows.dict_row}
    if shop.kind == "sqlite":
        options = {"cp_openfun": with_names}
    sql = "select name as what from item where id = 1"
    async with by_module(shop, **options) as pool:
        (row,) = await pool.runQuery(sql)
        assert row["what"] == "hammer"
        told = pool.runInteraction(lambda txn: txn.execute(sql).fetchone()["what"])
        assert await told == "hammer"


# -- AD20: SQLite does not lock --------------------------------------------------------


async def test_many_writers_with_nothing_set(tmp_path):
    """Of 300 writes at once with all settings as they come, none finds the database
    locked, and what was written is seen by the next query.
    """

    def add(txn, number):
        txn.execute("select count(*) from item")
        txn.execute("insert into item values (?)", (number,))

    path = tmp_path / "shop.db"
    async with ConnectionPool("sqlite3", str(path)) as pool:
        await pool.runOperation("create table item (id integer)")
        work = [pool.runInteraction(add, number) for number in range(200)]
        sql = "insert into item values (?)"
        work += [pool.runOperation(sql, (number,)) for number in range(100)]
        for each in work:
            await each
        for number in range(50):
            await pool.runOperation(sql, (1000 + number,))
            last = await pool.runQuery("select max(id) from item")
            assert last == [(1000 + number,)]
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("select count(*) from item").fetchone() == (350,)


async def test_several_calls_on_one_connection(shop):
    """Who needs the same connection for several calls holds a transaction."""
    async with by_module(shop) as pool, pool.transaction() as txn:
        await txn.runOperation("create temporary table mine (id integer)")
        await txn.runOperation("insert into mine values (1)")
        assert await txn.runQuery("select id from mine") == [(1,)]


# -- Where else each line is shown -----------------------------------------------------

# Below `tests/enterprise`.
ELSEWHERE = {
    "AD1": """
        test_sources.test_sources
        test_sources.test_keywords_reach_the_driver
    """,
    "AD2": """
        test_sources.test_wrong_options
        test_errors.test_option_from_elsewhere
    """,
    "AD3": """
        test_contract.test_query_gives_rows
        test_contract.test_callback_style
        test_contract.test_operation_gives_none
        test_contract.test_no_loop
        test_interactions.test_with_connection
    """,
    "AD4": """
        test_interactions.test_commit
        test_interactions.test_rollback
        test_interactions.test_one_transaction
        test_scripted.test_failing_rollback
    """,
    "AD5": """
        test_scripted.test_only_the_owner_calls
        faults.test_sessions.test_closed_by_its_user
    """,
    "AD6": """
        test_contract.test_openfun_sees_each_new_connection
        test_interactions.test_transaction_is_a_cursor
        test_interactions.test_connection_commits_in_between
    """,
    "AD7": """
        test_life.test_idle_connection_is_checked
        test_scripted.test_lost_connection
        faults.test_races.test_check_leaves_no_transaction
    """,
    "AD8": """
        test_sources.test_in_any_order
        test_lifecycle.test_start
        test_lifecycle.test_close_unused
        test_lifecycle.test_two_successive_loops
        test_scripted.test_failing_close
        test_upkeep.test_start_after_close
    """,
    "AD9": """
        test_contract.test_noisy
    """,
    "AD10": "",
    "AD11": """
        test_snapshot.test_lease_names_its_borrower
    """,
    "AD12": """
        test_life.test_loss_in_a_statement
        test_life.test_loss_in_an_interaction
        test_interaction.test_lost_connection_tells_the_outcome
    """,
    "AD13": """
        test_life.test_dead_idle_connection_costs_no_call
        test_postgres.test_connection_dies_while_idle
        faults.test_server.test_ended_while_idle
    """,
    "AD14": """
        test_upkeep.test_bare_connection
    """,
    "AD15": """
        test_lifecycle.test_close_without_a_loop
        test_upkeep.test_close_hook
    """,
    "AD16": """
        test_scripted.test_failing_openfun
        test_interactions.test_cursors_are_closed
    """,
    "AD17": """
        test_interactions.test_transaction_is_a_cursor
        test_interactions.test_with_connection
    """,
    "AD18": """
        test_refusals.test_async_functions_are_refused
        test_refusals.test_returning_an_awaitable
    """,
    "AD19": """
        test_postgres.test_warm_pool_sends_nothing_else
        test_sqlite.test_warm_pool_runs_nothing_else
        test_interactions.test_readonly
        test_upkeep.test_bare_connection
        test_interactions.test_transaction_is_a_cursor
    """,
    "AD20": """
        test_sqlite.test_writes_keep_their_order
        test_lease.test_one_connection
        test_sqlite_busy.test_eight_processes_write_at_once
    """,
    "AD21": """
        test_life.test_lifetime
        test_scripted.test_idle_connections_are_closed
        test_life.test_keepalive
        test_life.test_idle_connection_is_checked
        test_deadlines.test_ran_too_long
        test_deadlines.test_waited_too_long
        test_weather.test_cancel_while_running
    """,
}


@pytest.mark.parametrize("line", LINES)
def test_every_line_has_its_tests(line):
    """Each line of the old API's behaviours has tests, which are where it says."""
    for place in ELSEWHERE[line].split():
        room, _, name = place.rpartition(".")
        module = importlib.import_module(f"tests.enterprise.{room}")
        assert callable(getattr(module, name, None)), place
