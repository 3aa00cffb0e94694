"""Sessions that the server ends: idle, in a statement, in a transaction, at COMMIT."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import psycopg
import pytest

from enterprise import ConnectionPool
from enterprise.errors import ConnectionLost
from enterprise.retry import RetryPolicy
from tests.enterprise.faults.servers import (
    end,
    rested,
    running,
    sessions_end,
    slots_are_back,
)
from tests.enterprise.faults.watch import Answers, living_loop
from tests.enterprise.helpers import PATIENCE_SECONDS, outcome, until

SLEEP = "select pg_sleep(600)"

# Repeats whatever it is allowed to.
STUBBORN = RetryPolicy(attempts=5, backoff=0, on=(Exception,))


@pytest.fixture(autouse=True)
def nobody_stays(postgres, pg_name):
    """After each test its database has no sessions."""
    yield
    sessions_end(postgres, pg_name)


@pytest.fixture
def item(postgres, pg_name):
    """A table for what is stored."""
    postgres.psql("create table item (id integer primary key)", pg_name)


def stored(server, name):
    """Return what is in the table, as seen from outside."""
    found = server.psql("select id from item order by id", name)
    return [int(number) for number in found.split()]


# -- idle --------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [1, 3])
@pytest.mark.parametrize(("check", "each"), [(60, 1), (0, 0)])
async def test_ended_while_idle(postgres, pg_name, pg_url, killed, check, each):
    """An idle session that was ended costs at most one call, and none where the
    connection had rested for cp_check seconds; it is never handed out again.
    """
    answers = Answers()
    pool = ConnectionPool(pg_url, cp_min=3, cp_max=3, cp_check=check)
    async with pool, living_loop():
        await rested(pool, 3)
        dead = (await asyncio.to_thread(postgres.backends, pg_name))[:killed]
        await asyncio.to_thread(end, postgres, *dead)
        for _ in range(60):
            answers.of(pool.runQuery("select pg_backend_pid()"))
        results = await answers.all()
        errors = [result for result in results if not isinstance(result, list)]
        assert len(errors) <= each * killed
        for error in errors:
            assert isinstance(error, ConnectionLost)
            assert isinstance(error.__cause__, psycopg.OperationalError)
        served = {rows[0][0] for rows in results if isinstance(rows, list)}
        assert not served & set(dead)
        await slots_are_back(pool, 3)
        stats = pool.stats()
        assert (stats.lost, stats.opened) == (killed, 3 + killed)
        assert stats.most_workers <= 3


async def test_ended_again_and_again(postgres, pg_name, pg_url):
    """However often all idle sessions are ended, the losses are counted one by one,
    and the pool is whole again after each.
    """
    async with ConnectionPool(pg_url, cp_max=2, cp_check=0) as pool, living_loop():
        for turn in range(5):
            await rested(pool, 2)
            pids = await asyncio.to_thread(postgres.backends, pg_name)
            assert len(pids) == 2
            await asyncio.to_thread(end, postgres, *pids)
            assert await pool.runQuery("select %s::int", (turn,)) == [(turn,)]
        await slots_are_back(pool, 2)
        assert pool.stats().lost == 10


async def test_warm_again_after_a_loss(postgres, pg_proxy, pg_proxy_url):
    """After a loss each other connection is asked once whether it lives; then a warm
    pool puts exactly N statements on the wire for N calls, as before.
    """

    async def say(count):
        before = pg_proxy.statements
        await asyncio.gather(*(pool.runQuery("select 1") for _ in range(count)))
        return pg_proxy.statements - before

    answers = Answers()
    async with ConnectionPool(pg_proxy_url, cp_min=3, cp_max=3, cp_check=60) as pool:
        await rested(pool, 3)
        assert await say(100) == 100
        [(pid,)] = await pool.runQuery("select pg_backend_pid()")
        await asyncio.to_thread(end, postgres, pid)
        before = pg_proxy.statements
        # The one that rested last is the next to work.
        answers.of(pool.runQuery("select 1"))
        (lost,) = await answers.all()
        assert isinstance(lost, ConnectionLost)
        await rested(pool, 3)
        # Each call; BEGIN, SELECT and COMMIT of each that met; and the checks.
        checks = pg_proxy.statements - before - len(answers.calls) - 3 * 3
        assert 1 <= checks <= 2
        assert await say(100) == 100
        assert pool.stats().opened == 4


# -- at work -----------------------------------------------------------------------


async def test_ended_in_a_statement(postgres, pg_name, pg_url, item):
    """Who waits for the statement of an ended session is told at once, with 57P01 as
    the cause; nothing is stored or repeated, and the neighbours notice nothing.
    """
    goes_on = threading.Event()

    def neighbour(txn, number):
        txn.execute("insert into item values (%s)", (number,))
        assert goes_on.wait(PATIENCE_SECONDS)
        return txn.execute("select pg_backend_pid()").fetchone()[0]

    answers = Answers()
    async with ConnectionPool(pg_url, cp_max=3) as pool, living_loop():
        answers.of(
            pool.runOperation("insert into item select 1 from pg_sleep(600) victim")
        )
        for number in (2, 3):
            answers.of(pool.runInteraction(neighbour, number))
        await until(lambda: pool.stats().busy == 3, "all to be at work")
        (pid,) = await running(postgres, "victim")
        await asyncio.to_thread(end, postgres, pid)
        lost = await outcome(answers.calls[0])
        goes_on.set()
        results = await answers.all()
        assert results[0] is lost
        assert isinstance(lost, ConnectionLost)
        assert lost.outcome == "unknown"
        assert isinstance(lost.__cause__, psycopg.errors.AdminShutdown)
        assert pid not in results[1:]
        assert stored(postgres, pg_name) == [2, 3]
        await slots_are_back(pool, 3)
        assert (pool.stats().lost, pool.stats().opened) == (1, 4)


@pytest.mark.parametrize("retry", [None, STUBBORN])
@pytest.mark.parametrize(
    ("last", "fate"), [("insert into item values (2)", "rolled_back"), ("", "unknown")]
)
async def test_ended_in_an_interaction(
    postgres, pg_name, pg_url, item, last, fate, retry
):
    """A session ended between two statements of an interaction, or before its COMMIT:
    the caller is told what is known, nothing is stored, and nothing is repeated.
    """
    pids = []

    def work(txn):
        txn.execute("insert into item values (1)")
        pids.append(txn.execute("select pg_backend_pid()").fetchone()[0])
        end(postgres, pids[-1])
        if last:
            txn.execute(last)

    async with ConnectionPool(pg_url, cp_max=1) as pool, living_loop():
        call = Answers()
        call.of(pool.runInteraction(work, retry=retry))
        (error,) = await call.all()
        assert isinstance(error, ConnectionLost)
        assert error.outcome == fate
        assert isinstance(error.__cause__, psycopg.OperationalError)
        assert len(pids) == 1
        assert stored(postgres, pg_name) == []
        assert [(pids[0],)] != await pool.runQuery("select pg_backend_pid()")
        assert pool.stats().connections == 1


async def test_ended_and_swallowed(postgres, pg_name, pg_url, item):
    """A function that swallows the loss of its session is not reported as a success."""

    def work(connection):
        connection.execute("insert into item values (1)")
        (pid,) = connection.execute("select pg_backend_pid()").fetchone()
        end(postgres, pid)
        with contextlib.suppress(psycopg.Error):
            connection.execute("insert into item values (2)")
        return "done"

    async with ConnectionPool(pg_url, cp_max=1) as pool, living_loop():
        for run in (pool.runInteraction, pool.runWithConnection):
            error = await outcome(run(work))
            assert isinstance(error, ConnectionLost)
            assert error.outcome == "rolled_back"
            assert stored(postgres, pg_name) == []
        assert await pool.runQuery("select 1") == [(1,)]


@pytest.mark.parametrize(
    ("last", "fate"), [("insert into item values (2)", "rolled_back"), ("", "unknown")]
)
async def test_ended_in_a_lease(postgres, pg_name, pg_url, item, last, fate):
    """A session ended between two statements of a lease, or before its COMMIT: the
    block fails with what is known, and nothing is stored.
    """
    async with ConnectionPool(pg_url, cp_max=1) as pool, living_loop():
        with pytest.raises(ConnectionLost) as caught:
            async with pool.transaction() as txn:
                await txn.runOperation("insert into item values (1)")
                [(pid,)] = await txn.runQuery("select pg_backend_pid()")
                await asyncio.to_thread(end, postgres, pid)
                if last:
                    await txn.runOperation(last)
        assert caught.value.outcome == fate
        assert isinstance(caught.value.__cause__, psycopg.OperationalError)
        assert await pool.runQuery("select count(*) from item") == [(0,)]
        assert pool.stats().connections == 1


async def test_ended_in_a_statement_of_a_lease(postgres, pg_url, item):
    """A statement whose session is ended under it fails, and so does all that was
    asked for after it, and the block; what came before is not stored.
    """
    async with ConnectionPool(pg_url, cp_max=1) as pool, living_loop():
        answers = Answers()
        with pytest.raises(ConnectionLost):
            async with pool.transaction() as txn:
                answers.of(txn.runOperation("insert into item values (1)"))
                answers.of(txn.runQuery(SLEEP))
                answers.of(txn.runOperation("insert into item values (2)"))
                (pid,) = await running(postgres, "pg_sleep(600)")
                await asyncio.to_thread(end, postgres, pid)
                await answers.calls[1]
        first, *others = await answers.all()
        assert first is None
        for error in others:
            assert isinstance(error, ConnectionLost)
            assert error.outcome == "rolled_back"
        assert await pool.runQuery("select count(*) from item") == [(0,)]


async def test_all_sessions_are_ended(postgres, pg_name, pg_url, item):
    """All sessions of a pool ended at once, whatever they do: each call is answered
    once, what was open is not stored, and all slots are back.
    """
    ended = threading.Event()

    def work(txn):
        txn.execute("insert into item values (1)")
        assert ended.wait(PATIENCE_SECONDS)
        txn.execute("select 1")

    answers = Answers()
    async with ConnectionPool(pg_url, cp_min=5, cp_max=5) as pool, living_loop():
        await rested(pool, 5)
        answers.of(pool.runQuery(SLEEP))
        answers.of(pool.runOperation("insert into item select 2 from pg_sleep(600)"))
        answers.of(pool.runInteraction(work))
        with pytest.raises(ConnectionLost):
            async with pool.transaction() as txn:
                await txn.runOperation("insert into item values (3)")
                await running(postgres, "pg_sleep(600)", 2)
                pids = await asyncio.to_thread(postgres.backends, pg_name)
                assert len(pids) == 5
                await asyncio.to_thread(end, postgres, *pids)
                ended.set()
        errors = await answers.all()
        assert [type(error) for error in errors] == [ConnectionLost] * 3
        fates = [error.outcome for error in errors]
        assert fates == ["rolled_back", "unknown", "rolled_back"]
        assert stored(postgres, pg_name) == []
        await slots_are_back(pool, 5)
        assert not set(pids) & set(await asyncio.to_thread(postgres.backends, pg_name))
