"""What is said of work whose COMMIT, or whose answer, the network has lost."""

from __future__ import annotations

import asyncio
from contextlib import closing

import psycopg
import pytest

from enterprise.errors import ConnectFailed, ConnectionLost, PoolTimeout
from tests.enterprise.faults.watch import Answers, every_slot, pool_through
from tests.enterprise.helpers import outcome, until

QUICK = {"cp_max": 1, "cp_grace": 0.25, "cp_connect_timeout": 2}

INSERT = "insert into a values (1)"


@pytest.fixture
def opens(postgres, pg_name, pg_proxy, pg_proxy_url):
    """A function that makes a pool behind the proxy, with a table to write to."""
    postgres.psql("create table a (id int)", pg_name)

    def make(**options):
        return pool_through(
            pg_proxy, pg_proxy_url, postgres, pg_name, **(QUICK | options)
        )

    return make


@pytest.fixture
def stored(postgres, pg_name):
    """A function that says how many rows are there, past the pool and the proxy."""

    async def count():
        sql = "select count(*) from a"
        return int(await asyncio.to_thread(postgres.psql, sql, pg_name))

    return count


@pytest.fixture
def gate(postgres, pg_name):
    """A connection past the pool, to hold locks."""
    with closing(psycopg.connect(postgres.dsn(pg_name))) as connection:
        yield connection


async def waits(postgres, count=1):
    """Wait until so many statements wait for a lock."""
    waiting = "select count(*) from pg_locks where not granted"
    await until(lambda: postgres.psql(waiting) == str(count), "the lock to be met")


def insert(handle):
    """Write, with a cursor or a connection."""
    handle.execute(INSERT)


async def interaction(pool):
    """Write in an interaction."""
    await pool.runInteraction(insert)


async def with_connection(pool):
    """Write with a connection."""
    await pool.runWithConnection(insert)


async def lease(pool):
    """Write in a lease."""
    async with pool.transaction() as txn:
        await txn.runOperation(INSERT)


TRANSACTIONS = [interaction, with_connection, lease]


# -- COMMIT ------------------------------------------------------------------------


@pytest.mark.parametrize(("lost", "count"), [("request", 0), ("reply", 1)])
@pytest.mark.parametrize("work", TRANSACTIONS)
async def test_commit_lost(opens, stored, pg_proxy, work, lost, count):
    """A COMMIT that never arrived, or whose answer never did: the outcome is unknown,
    and nothing is done a second time.
    """
    async with opens() as pool:
        await every_slot(pool)
        happened = getattr(pg_proxy, f"commit_lost_{lost}")()
        error = await outcome(work(pool))
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        assert isinstance(error.__cause__, psycopg.OperationalError)
        assert "look before you do it again" in str(error)
        assert happened.is_set()
        await every_slot(pool)
        assert await stored() == count
        await work(pool)
        assert await stored() == count + 1


@pytest.mark.parametrize("work", TRANSACTIONS)
async def test_lost_before_commit(opens, stored, pg_proxy, work):
    """What is lost before its COMMIT was sent is rolled back, and said to be."""
    async with opens() as pool:
        await every_slot(pool)
        pg_proxy.freeze()
        call = asyncio.create_task(work(pool))
        await until(lambda: pool.stats().busy == 1, "the work to begin")
        pg_proxy.reset()
        error = await outcome(call)
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "rolled_back"
        pg_proxy.heal()
        await every_slot(pool)
        assert await stored() == 0


async def test_cancel_while_commit_is_swallowed(
    postgres, pg_name, opens, stored, pg_proxy
):
    """Nobody says "cancelled" of a COMMIT that was sent and is not answered: that is
    unknown, in bounded time. Here the server could not do it.
    """
    # The trigger waits inside COMMIT, so that the network can be lost in the middle.
    postgres.psql(
        "create function wait() returns trigger language plpgsql as $$ begin "
        "perform pg_advisory_xact_lock_shared(7); return null; end $$; "
        "create constraint trigger late after insert on a deferrable initially "
        "deferred for each row execute function wait()",
        pg_name,
    )
    with closing(psycopg.connect(postgres.dsn(pg_name), autocommit=True)) as gate:
        gate.execute("select pg_advisory_lock(7)")
        async with opens(cp_max=3) as pool:
            await every_slot(pool)
            tasks = [asyncio.create_task(work(pool)) for work in TRANSACTIONS]
            await waits(postgres, 3)
            pids = set(await asyncio.to_thread(postgres.backends, pg_name))
            pids.remove(gate.info.backend_pid)
            pg_proxy.natloss()
            for task in tasks:
                task.cancel()
            for task in tasks:
                error = await outcome(task)
                assert isinstance(error, ConnectionLost)
                assert error.outcome == "unknown"
            for pid in pids:
                end = f"select pg_terminate_backend({pid}, 5000)"
                await asyncio.to_thread(postgres.psql, end)
            pg_proxy.heal()
            await every_slot(pool)
            assert await stored() == 0
            gate.close()


# -- single statements ---------------------------------------------------------------


async def test_answer_to_a_write_lost(opens, postgres, stored, gate, pg_proxy):
    """A write by itself whose answer was lost is unknown; here it was stored, once."""
    async with opens() as pool:
        await every_slot(pool)
        gate.execute("lock table a")
        call = pool.runOperation(INSERT)
        await waits(postgres)
        pg_proxy.tear(0)
        gate.close()
        error = await outcome(call)
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        pg_proxy.heal()
        await every_slot(pool)
        assert await stored() == 1


@pytest.mark.parametrize("end", ["reset", "timeout", "cancel"])
async def test_write_lost_on_its_way(opens, stored, pg_proxy, end):
    """A write by itself that was lost on its way is unknown, whether the network ends
    the connection, or the pool does for a deadline or a cancel.
    """
    # Else it would be the server's own limit, sent ahead of it, that is lost.
    async with opens(cp_push_timeout=False) as pool:
        await every_slot(pool)
        (pg_proxy.freeze if end == "reset" else pg_proxy.natloss)()
        seconds = 0.2 if end == "timeout" else None
        call = pool.runOperation(INSERT, timeout=seconds)
        await until(lambda: pool.stats().busy == 1, "the write to be sent")
        if end == "reset":
            pg_proxy.reset()
        elif end == "cancel":
            call.cancel()
        error = await outcome(call)
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        pg_proxy.heal()
        await every_slot(pool)
        assert await stored() == 0


async def test_read_lost(opens, postgres, gate, pg_proxy):
    """A read that was lost has changed nothing, and that is said."""
    async with opens(cp_max=3) as pool:
        await every_slot(pool)
        gate.execute("lock table a")
        calls = Answers()
        calls.of(pool.runQuery("select count(*) from a"))
        calls.of(pool.runResult("(select id from a)"))
        calls.of(
            pool.runInteraction(
                lambda txn: txn.execute("select id from a").fetchall(), readonly=True
            )
        )
        await waits(postgres, 3)
        pg_proxy.reset()
        for error in await calls.all():
            assert isinstance(error, ConnectionLost)
            assert error.outcome == "rolled_back"
        gate.close()
        await every_slot(pool)


async def test_readonly_commit_lost(opens, pg_proxy):
    """A transaction that could not write has nothing that could be unknown."""
    async with opens() as pool:
        await every_slot(pool)
        pg_proxy.commit_lost_reply()
        error = await outcome(
            pool.runInteraction(
                lambda txn: txn.execute("select id from a").fetchall(), readonly=True
            )
        )
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "rolled_back"


# -- not sent ------------------------------------------------------------------------


async def test_calls_in_the_queue(opens, stored, pg_proxy):
    """What waited in the queue while the connection was lost was not sent: it is done
    by the next one, or fails with an error that says so; nothing is done twice.
    """
    async with opens(cp_timeout=1) as pool:
        await every_slot(pool)
        pg_proxy.freeze()
        running = pool.runQuery("select 1")
        await until(lambda: pool.stats().busy == 1, "the first to run")
        calls = Answers()
        for _ in range(5):
            calls.of(pool.runOperation(INSERT))
        pg_proxy.reset()
        pg_proxy.heal()
        assert isinstance(await outcome(running), ConnectionLost)
        assert await calls.all() == [None] * 5
        assert await stored() == 5
        pg_proxy.refuse()
        pg_proxy.reset()
        await outcome(pool.runQuery("select 1"))
        calls = Answers()
        for _ in range(5):
            calls.of(pool.runOperation(INSERT))
        for error in await calls.all():
            assert isinstance(error, PoolTimeout)
            assert "Nothing was sent" in str(error)
            assert isinstance(error.__cause__, ConnectFailed)
        pg_proxy.heal()
        await every_slot(pool)
        assert await stored() == 5


async def test_call_in_a_lease_that_is_lost(opens, stored, pg_proxy):
    """In a lease the calls after the lost one are not sent, and fail as it did."""
    async with opens() as pool:
        await every_slot(pool)
        with pytest.raises(ConnectionLost) as caught:
            async with pool.transaction() as txn:
                await txn.runOperation(INSERT)
                pg_proxy.freeze()
                lost, behind = txn.runOperation(INSERT), txn.runOperation(INSERT)
                pg_proxy.reset()
                pg_proxy.heal()
                errors = [await outcome(lost), await outcome(behind)]
                assert [error.outcome for error in errors] == ["rolled_back"] * 2
                await txn.runOperation(INSERT)
        assert caught.value.outcome == "rolled_back"
        await every_slot(pool)
        assert await stored() == 0


async def test_write_over_a_connection_known_to_be_closed(opens, stored):
    """A call whose connection turns out to be closed before anything could be sent
    was not sent, and its error says so, or the next connection does it.
    """
    opened = []
    async with opens(cp_openfun=opened.append, cp_check=60) as pool:
        await every_slot(pool)
        await until(lambda: pool.stats().idle == 1, "the worker to rest")
        opened.pop().close()
        error = await outcome(pool.runOperation(INSERT))
        if error is not None:
            assert isinstance(error, ConnectionLost)
            assert error.outcome == "not_sent"
            assert "Nothing was sent" in str(error)
        assert await stored() == (error is None)
        await every_slot(pool)
