"""What is PostgreSQL's own: what goes over the wire, and servers that go away."""

from __future__ import annotations

import asyncio
import logging

import psycopg
import pytest

from enterprise import ConnectFailed, ConnectionPool
from enterprise.errors import ConnectionLost, PoolTimeout
from tests.enterprise.helpers import outcome, until

SLEEP = "select pg_sleep(600)"


async def test_warm_pool_sends_nothing_else(pg_proxy, pg_proxy_url):
    """A warm pool puts exactly N statements on the wire for N calls."""
    async with ConnectionPool(pg_proxy_url, cp_max=4) as pool:
        await asyncio.gather(*(pool.runQuery("select 0") for _ in range(50)))
        before = pg_proxy.statements
        sent = 0
        for run in (pool.runQuery, pool.runOperation, pool.runResult):
            for n in range(20):
                await run("select %s::int", (n,))
            sent += 20
            assert pg_proxy.statements - before == sent
        await asyncio.gather(*(pool.runQuery("select 1") for _ in range(200)))
        assert pg_proxy.statements - before == sent + 200


async def test_interaction_sends_three(pg_proxy, pg_proxy_url):
    """An interaction is BEGIN, its statements and COMMIT; an error costs nothing more
    than the ROLLBACK.
    """
    async with ConnectionPool(pg_proxy_url, cp_max=1) as pool:
        await pool.runQuery("select 0")
        before = pg_proxy.statements
        await pool.runInteraction(lambda txn: txn.execute("select 1").fetchall())
        assert pg_proxy.statements - before == 3
        await outcome(pool.runQuery("selekt"))
        assert pg_proxy.statements - before == 4
        await outcome(pool.runInteraction(lambda txn: txn.execute("selekt")))
        assert pg_proxy.statements - before == 7


async def test_connect_sends_nothing(pg_proxy, pg_proxy_url):
    """Opening connections costs no statement."""
    async with ConnectionPool(pg_proxy_url, cp_min=3):
        assert pg_proxy.statements == 0
        assert pg_proxy.open == 3


async def test_session_is_kept(pg_url):
    """A connection is never reset behind the back of whoever prepared it."""

    def prepare(raw):
        raw.execute("set application_name = 'shop'")

    async with ConnectionPool(pg_url, cp_max=1, cp_openfun=prepare) as pool:
        for _ in range(3):
            shown = await pool.runQuery("show application_name")
            assert shown == [("shop",)]


@pytest.mark.parametrize("fault", ["cut", "reset"])
async def test_connection_dies_while_idle(pg_proxy, pg_proxy_url, fault):
    """A connection that died is replaced: at most one call for each sees the error."""
    async with ConnectionPool(pg_proxy_url, cp_min=2, cp_max=2) as pool:
        await pool.runQuery("select 1")
        getattr(pg_proxy, fault)()
        failed = 0
        while (result := await outcome(pool.runQuery("select 1"))) != [(1,)]:
            assert isinstance(result, ConnectionLost)
            failed += 1
        assert failed <= 2
        assert await pool.runQuery("select 1") == [(1,)]


@pytest.mark.parametrize("fault", ["cut", "reset"])
async def test_connection_dies_at_work(
    postgres, pg_name, pg_proxy, pg_proxy_url, fault
):
    """Who waits for a statement whose connection dies is told, with the cause."""
    async with ConnectionPool(pg_proxy_url, cp_max=1) as pool:
        call = pool.runQuery(SLEEP)
        active = (
            "select count(*) from pg_stat_activity where state = 'active' "
            f"and datname = '{pg_name}' and pid <> pg_backend_pid()"
        )
        await until(lambda: postgres.psql(active) == "1", "the statement to run")
        getattr(pg_proxy, fault)()
        error = await outcome(call)
        assert isinstance(error, ConnectionLost)
        assert isinstance(error.__cause__, psycopg.OperationalError)
        assert await pool.runQuery("select 1") == [(1,)]
        assert (pool.stats().opened, pool.stats().connections) == (2, 1)
        for pid in postgres.backends(pg_name):  # It sleeps on, with nobody listening.
            postgres.psql(
                f"select pg_terminate_backend({pid}) from pg_stat_activity "
                f"where pid = {pid} and query like '%pg_sleep%'"
            )


async def test_all_connections_are_terminated(postgres, pg_name, pg_url):
    """Sessions that an administrator ends are replaced by new ones."""
    async with ConnectionPool(pg_url, cp_min=3, cp_max=3) as pool:
        old = set(postgres.backends(pg_name))
        assert len(old) == 3
        for pid in old:
            postgres.psql(f"select pg_terminate_backend({pid})")
        await until(lambda: not postgres.backends(pg_name), "the sessions to end")
        results = [await outcome(pool.runQuery("select 1")) for _ in range(10)]
        errors = [result for result in results if result != [(1,)]]
        # The first that is found dead has the others looked at, before their next call.
        assert len(errors) <= 1
        assert all(isinstance(error, ConnectionLost) for error in errors)
        assert not old & set(postgres.backends(pg_name))


async def test_server_restarts(postgres, pg_url):
    """A pool outlives its server: calls wait while it is away, for so long."""
    async with ConnectionPool(pg_url, cp_max=1, cp_timeout=0.3) as pool:
        assert await pool.runQuery("select 1") == [(1,)]
        postgres.stop()
        first = await outcome(pool.runQuery("select 1"))
        assert isinstance(first, ConnectionLost)
        error = await outcome(pool.runQuery("select 1"))
        assert isinstance(error, PoolTimeout)
        assert isinstance(error.__cause__, ConnectFailed)
        assert "The last attempt to connect failed" in str(error)
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        assert isinstance(await outcome(pool.runQuery("select 1")), ConnectFailed)
        postgres.start()
        assert await pool.runQuery("select 1") == [(1,)]
        postgres.stop()
        assert isinstance(await outcome(pool.runQuery("select 1")), ConnectionLost)
        waits = pool.runQuery("select 1")
        await until(lambda: pool.stats().failed > 1, "an attempt to fail")
        postgres.start()
        assert await waits == [(1,)]


async def test_cancel_is_not_logged_as_an_error(pg_url, caplog):
    """A cancel that the server confirms leaves no trace in the log."""
    caplog.set_level(logging.INFO)
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.runQuery(SLEEP), 0.01)
        assert await pool.runQuery("select 1") == [(1,)]
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_deferred_constraint(pg_url):
    """What fails only at COMMIT fails the interaction, and nothing is committed."""
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        await pool.runScript(
            "create table a (id int primary key);"
            "create table b (id int references a deferrable initially deferred)"
        )
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            await pool.runInteraction(
                lambda txn: txn.execute("insert into b values (1)").rowcount
            )
        assert await pool.runQuery("select count(*) from b") == [(0,)]
        assert pool.stats().opened == 1


async def test_copy_is_refused_cleanly(pg_url):
    """COPY through a plain call is the driver's error; the connection stays usable."""
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        await pool.runOperation("create table a (id int)")
        for sql in ("copy a to stdout", "copy a from stdin"):
            assert isinstance(await outcome(pool.runQuery(sql)), psycopg.Error)
            assert await pool.runQuery("select 1") == [(1,)]

        def copy(txn):
            with txn.copy("copy a from stdin") as into:
                for n in range(1000):
                    into.write_row((n,))

        await pool.runInteraction(copy)
        assert await pool.runQuery("select count(*) from a") == [(1000,)]
