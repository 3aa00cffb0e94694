"""The life of a connection: checked, replaced, kept warm, lost and found."""

from __future__ import annotations

import asyncio
import logging

import pytest

from enterprise import ConnectFailed, ConnectionPool
from enterprise.errors import ConnectionLost
from tests.enterprise.helpers import outcome, until


def spoken(script, word):
    """Return how often a statement with *word* reached the driver."""
    return sum(
        verb == "execute" and word in str(what[0]) for _, verb, what in script.history
    )


# -- replaced in time --------------------------------------------------------------


async def test_warm_pool_says_what_it_was_asked_and_no_more(script):
    """N calls in a row put exactly N statements on the wire."""
    async with ConnectionPool(script, cp_max=1) as pool:
        for _ in range(20):
            await pool.runQuery("rows 1")
        assert script.calls["execute"] == 20


async def test_idle_connection_is_checked(script):
    """After cp_check seconds without work a connection is asked whether it lives."""
    async with ConnectionPool(
        script, cp_max=1, cp_check=0, cp_good_sql="rows 99"
    ) as pool:
        await pool.runQuery("rows 1")
        await until(lambda: pool.stats().idle == 1, "the worker to rest")
        await pool.runQuery("rows 2")
        assert spoken(script, "99") == 1
        assert pool.stats().opened == 1


async def test_dead_idle_connection_costs_no_call(script):
    """A connection found dead by the check is replaced; the call does not notice."""
    async with ConnectionPool(
        script, cp_max=1, cp_check=0, cp_good_sql="rows 99"
    ) as pool:
        await pool.runQuery("rows 1")
        await until(lambda: pool.stats().idle == 1, "the worker to rest")
        script.connections[0].lost = True
        assert await pool.runQuery("rows 2") == [(2,)]
        stats = pool.stats()
        assert (stats.opened, stats.connections, stats.lost) == (2, 1, 1)


async def test_one_dead_connection_has_the_others_checked(script):
    """One loss makes every other connection be looked at before its next job, once."""
    async with ConnectionPool(
        script, cp_min=3, cp_max=3, cp_check=60, cp_good_sql="rows 99"
    ) as pool:
        for connection in script.connections:
            connection.lost = True
        errors = [await outcome(pool.runQuery("rows 1")) for _ in range(9)]
        lost = [error for error in errors if isinstance(error, ConnectionLost)]
        assert len(lost) == 1
        assert [error for error in errors if error not in lost] == [[(1,)]] * 8


async def test_lifetime(script):
    """A connection past its lifetime is closed; the next job gets another one."""
    async with ConnectionPool(script, cp_max=1, cp_lifetime=0, cp_check=0) as pool:
        for number in range(3):
            assert await pool.runQuery(f"rows {number}") == [(number,)]
            await until(lambda: pool.stats().connections == 0, "it to be closed")
        assert pool.stats().opened == 3
        assert pool.stats().lost == 0


async def test_busy_connection_grows_old_too(script):
    """A worker that never rests replaces its connection all the same."""
    async with ConnectionPool(script, cp_max=1, cp_lifetime=0, cp_check=60) as pool:
        held = pool.runQuery("hang here; rows 1")
        calls = [pool.runQuery("rows 2") for _ in range(600)]
        script.gate("here").open()
        await held
        await asyncio.gather(*calls)
        assert 2 <= pool.stats().opened <= 4


async def test_keepalive(script):
    """An idle connection is spoken to now and then."""
    async with ConnectionPool(
        script, cp_max=1, cp_keepalive=0.005, cp_good_sql="rows 99"
    ) as pool:
        await pool.runQuery("rows 1")
        await until(lambda: spoken(script, "99") > 2, "three checks")
        assert pool.stats().opened == 1


async def test_keepalive_finds_the_dead(script):
    """A connection that died while idle is found, and replaced at its next job."""
    async with ConnectionPool(
        script, cp_max=1, cp_keepalive=0.005, cp_check=60, cp_good_sql="rows 99"
    ) as pool:
        await pool.runQuery("rows 1")
        script.connections[0].lost = True
        await until(lambda: pool.stats().lost == 1, "the loss to be found")
        assert await pool.runQuery("rows 2") == [(2,)]
        assert pool.stats().lost == 1


# -- what a loss means -------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "fate"),
    [("execute", "rolled_back"), ("commit", "unknown")],
)
async def test_loss_in_a_statement(script, verb, fate):
    """The error of a lost connection says what is known of the work."""
    script.will(verb, "fail gone")
    async with ConnectionPool(script, cp_max=1) as pool:
        script.InterfaceError = script.OperationalError  # Any error is a loss here.
        error = await outcome(pool.runOperation("rows 1"))
        assert isinstance(error, ConnectionLost)
        assert error.outcome == fate
        assert isinstance(error.__cause__, script.OperationalError)
        del script.InterfaceError


@pytest.mark.parametrize(
    ("verb", "fate"), [("execute", "rolled_back"), ("commit", "unknown")]
)
async def test_loss_in_an_interaction(script, verb, fate):
    """In an interaction everything before COMMIT is known to be undone."""
    async with ConnectionPool(script, cp_max=1) as pool:
        script.InterfaceError = script.OperationalError
        script.will(verb, "fail gone")
        error = await outcome(
            pool.runInteraction(lambda txn: txn.execute("rows 1").rowcount)
        )
        assert isinstance(error, ConnectionLost)
        assert error.outcome == fate
        del script.InterfaceError


async def test_loss_in_autocommit(postgres, pg_name, pg_url):
    """A write sent by itself may have been committed; a SELECT has changed nothing."""
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        await pool.runOperation("create table a (id int)")
        for statement, fate in (
            ("select pg_sleep(60)", "rolled_back"),
            ("insert into a select 1 from pg_sleep(60)", "unknown"),
        ):
            await until(lambda: pool.stats().busy == 0, "the pool to rest")
            call = pool.runOperation(statement)
            await until(lambda: pool.stats().busy == 1, "the statement to run")
            await until(
                lambda: (
                    postgres.psql(
                        "select count(*) from pg_stat_activity where state = 'active' "
                        f"and datname = '{pg_name}' and query like '%pg_sleep%'"
                    )
                    == "1"
                ),
                "the server to run it",
            )
            for pid in postgres.backends(pg_name):
                postgres.psql(f"select pg_terminate_backend({pid})")
            error = await outcome(call)
            assert isinstance(error, ConnectionLost)
            assert error.outcome == fate
            assert await pool.runQuery("select count(*) from a") == [(0,)]


async def test_commit_whose_reply_is_lost(pg_proxy, pg_proxy_url):
    """COMMIT that reached the server and whose answer did not come back is unknown."""
    async with ConnectionPool(pg_proxy_url, cp_max=1) as pool:
        await pool.runOperation("create table a (id int)")
        pg_proxy.commit_lost_reply()
        error = await outcome(
            pool.runInteraction(
                lambda txn: txn.execute("insert into a values (1)").rowcount
            )
        )
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        pg_proxy.heal()
        assert await pool.runQuery("select count(*) from a") == [(1,)]


# -- outages -----------------------------------------------------------------------


async def test_calls_wait_through_an_outage(script, caplog):
    """Once connected, calls wait while it is away; there is one warning."""
    async with ConnectionPool(script, cp_max=4) as pool:
        await pool.runQuery("rows 1")
        script.connections[0].lost = True
        script.will("connect", *["fail away"] * 5)
        assert isinstance(await outcome(pool.runQuery("rows 2")), ConnectionLost)
        calls = [pool.runQuery("rows 3") for _ in range(20)]
        assert await asyncio.gather(*calls) == [[(3,)]] * 20
        assert pool.stats().failed == 5
    told = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 1
    assert "goes on with none until one can be opened" in told[0].getMessage()


async def test_never_connected_fails_at_once(script):
    """Before there ever was a connection nobody waits: the error comes at once."""
    script.will("connect", "fail no route", "fail no route")
    async with ConnectionPool(script, cp_max=1) as pool:
        for _ in range(2):
            error = await outcome(pool.runQuery("rows 1"))
            assert isinstance(error, ConnectFailed)
        assert await pool.runQuery("rows 1") == [(1,)]
