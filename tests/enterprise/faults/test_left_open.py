"""PostgreSQL: what functions leave half done, and a network that says nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading

import psycopg

from enterprise import ConnectionLost, ConnectionPool
from tests.enterprise.faults.servers import running
from tests.enterprise.faults.watch import living_loop
from tests.enterprise.helpers import outcome, until


async def test_stream_left_half_read(pg_url, caplog):
    """A function that fails with a stream half read and a named cursor open ends at
    once with its own error, and the next call gets another connection.
    """
    caplog.set_level(logging.CRITICAL)
    kept = []

    def leave(connection):
        named = connection.cursor(name="n")
        named.execute("select generate_series(1, 1000)")
        named.fetchone()
        cursor = connection.cursor()
        stream = cursor.stream("select generate_series(1, 100000)")
        next(stream)
        kept.extend([stream, named, cursor])
        raise ValueError("enough")

    async with ConnectionPool(pg_url, cp_max=1, cp_grace=0.1) as pool:
        await pool.runQuery("select 1")
        call = pool.runWithConnection(leave)
        done, _ = await asyncio.wait([call], timeout=5)
        if not done:
            call.cancel()
        error = await outcome(call)
        assert done, "it waited for the stream's lock"
        assert isinstance(error, ValueError)
        assert await pool.runQuery("select 2") == [(2,)]
        assert pool.stats().connections == 1
        for each in kept:  # In this order: the first has the lock of the others.
            with contextlib.suppress(psycopg.Error):
                each.close()


async def test_endless_query_timeout(pg_url):
    """A cp_query_timeout of math.inf is no limit: the server is told of none."""
    async with ConnectionPool(pg_url, cp_max=1, cp_query_timeout=math.inf) as pool:
        rows = await pool.runQuery("select current_setting('statement_timeout')")
        assert rows == [("0",)]


async def test_script_that_commits_a_part(pg_url):
    """A script that begins with a SELECT and commits before its connection is lost has
    an unknown outcome, and what it has committed stays.
    """
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        await pool.runOperation("create table t (a integer)")
        script = (
            "select 1; begin; insert into t values (1); commit; "
            "select pg_terminate_backend(pg_backend_pid())"
        )
        error = await outcome(pool.runScript(script))
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        assert await pool.runQuery("select a from t") == [(1,)]


async def test_loop_lives_while_a_frozen_network_is_asked(
    postgres, pg_proxy, pg_proxy_url, caplog
):
    """Leaving a transaction's block while a call in it is being cancelled through a
    network that says nothing does not keep the loop.
    """
    caplog.set_level(logging.CRITICAL)
    pool = ConnectionPool(pg_proxy_url, cp_max=1, cp_grace=0.1)
    asked = threading.Event()
    cancel = pool.driver.cancel

    def ask(raw):
        asked.set()
        cancel(raw)

    async def work():
        async with pool.transaction() as txn:
            sleeping = txn.execute("select pg_sleep(30)")
            others = [txn.execute("select 1") for _ in range(3)]
            await running(postgres, "pg_sleep")
            pg_proxy.freeze()
            pool.driver.cancel = ask
            sleeping.cancel()
            await until(asked.is_set, "the canceller to ask")
            raise ValueError(others)

    await pool.runQuery("select 1")
    async with living_loop():
        assert isinstance(await outcome(work()), ValueError)
    pg_proxy.heal()
    await pool.close(0)
