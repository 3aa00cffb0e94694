"""COMMITs that got no answer, and what the server says became of them."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import psycopg
import pytest

from enterprise import ConnectionPool
from enterprise.drivers.postgres import PostgresDriver
from enterprise.errors import ConnectionLost, PoolClosed, QueryTimeout
from tests.enterprise.helpers import outcome, reached, until


def resolving(url, **options):
    return ConnectionPool(url, cp_max=1, cp_resolve_commit=True, **options)


def insert(txn, told=None):
    txn.execute("insert into a values (1)")
    if told is not None:
        txn.onCommit(told.append, "committed")
        txn.onRollback(told.append, "rolled back")
    return "value"


async def lease(pool, told):
    async with pool.transaction() as txn:
        await txn.runOperation("insert into a values (1)")
        txn.onCommit(told.append, "committed")
        txn.onRollback(told.append, "rolled back")
    return "value"


async def table(pool):
    await pool.runOperation("create table a (id int)")


async def rows(pool):
    ((count,),) = await pool.runQuery("select count(*) from a")
    return count


class Gate:
    """Holds a driver's `verdict` back until the test has done what it wants to."""

    def __init__(self, driver, monkeypatch):
        self.asked = threading.Event()
        self.go = threading.Event()
        self.answers = []
        verdict = driver.verdict

        def hold(raw, ticket):
            self.asked.set()
            assert self.go.wait(30)
            self.answers.append(verdict(raw, ticket))
            return self.answers[-1]

        monkeypatch.setattr(driver, "verdict", hold)


@pytest.mark.parametrize("isolation", [None, "serializable"])
@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_lost_commit_is_found(pg_proxy, pg_proxy_url, isolation, lost):
    """Where the COMMIT was done, its value arrives; where not, "rolled_back"; and the
    functions for after the commit or the rollback are called accordingly.
    """
    async with resolving(pg_proxy_url) as pool:
        await table(pool)
        getattr(pg_proxy, f"commit_lost_{lost}")()
        told = []
        result = await outcome(pool.runInteraction(insert, told, isolation=isolation))
        if lost == "reply":
            assert (result, told) == ("value", ["committed"])
        else:
            assert isinstance(result, ConnectionLost)
            assert (result.outcome, told) == ("rolled_back", ["rolled back"])
            assert "was not committed" in str(result)
        assert await rows(pool) == (lost == "reply")
        stats = pool.stats()
        # The lost one, the one that was asked on, and the one in use.
        assert (stats.opened, stats.connections, stats.lost) == (3, 1, 1)


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_lost_commit_of_a_lease(pg_proxy, pg_proxy_url, lost):
    """A lease's COMMIT is found as an interaction's is."""
    async with resolving(pg_proxy_url) as pool:
        await table(pool)
        getattr(pg_proxy, f"commit_lost_{lost}")()
        told = []
        result = await outcome(lease(pool, told))
        if lost == "reply":
            assert (result, told) == ("value", ["committed"])
        else:
            assert isinstance(result, ConnectionLost)
            assert (result.outcome, told) == ("rolled_back", ["rolled back"])
        assert await rows(pool) == (lost == "reply")


async def test_nothing_was_written(pg_proxy, pg_proxy_url):
    """A transaction that wrote nothing is lost without a question: nothing was done."""
    async with resolving(pg_proxy_url) as pool:
        await table(pool)
        for kind in ({"readonly": True}, {"isolation": "repeatable read"}):
            pg_proxy.commit_lost_reply()
            read = pool.runInteraction(lambda txn: txn.execute("select 1"), **kind)
            error = await outcome(read)
            assert isinstance(error, ConnectionLost)
            assert error.outcome == "rolled_back"
        assert pool.stats().opened == 2


async def test_commit_in_the_middle(pg_proxy, pg_proxy_url):
    """Of a function that commits itself, only what it committed was done: no value."""
    async with resolving(pg_proxy_url) as pool:
        await table(pool)
        pg_proxy.commit_lost_reply()

        def twice(connection):
            connection.execute("insert into a values (1)")
            connection.commit()
            connection.execute("insert into a values (2)")

        error = await outcome(pool.runWithConnection(twice))
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "committed"
        assert await rows(pool) == 1


async def test_single_statements_stay_unknown(postgres, pg_name, pg_url):
    """A statement that commits itself has no COMMIT to ask about: "unknown"."""
    async with resolving(pg_url) as pool:
        (pid,) = (await pool.runQuery("select pg_backend_pid()"))[0]
        error = await outcome(pool.runQuery(f"/**/select pg_terminate_backend({pid})"))
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        assert pool.stats().opened == 1


async def test_server_restarts_meanwhile(postgres, pg_proxy, pg_proxy_url, monkeypatch):
    """A server that was stopped properly and started again still knows."""
    async with resolving(pg_proxy_url) as pool:
        await table(pool)
        connect, tried = pool.driver.connect, threading.Event()

        def watched(lane):
            tried.set()
            return connect(lane)

        done = pg_proxy.commit_lost_reply()
        pg_proxy.refuse()
        call = pool.runInteraction(insert)
        await reached(done)
        monkeypatch.setattr(pool.driver, "connect", watched)
        await reached(tried)  # In vain: the question waits until somebody is there.
        await asyncio.to_thread(postgres.restart)
        pg_proxy.heal()
        assert await call == "value"
        assert await rows(pool) == 1


async def test_server_crashed_meanwhile(postgres, pg_proxy, pg_proxy_url, monkeypatch):
    """After a crash numbers are given twice, so what one says then proves nothing."""
    numbers = []
    for _ in range(2):
        with contextlib.closing(psycopg.connect(postgres.dsn())) as raw:
            row = raw.execute("select pg_current_xact_id()::text").fetchone()
            numbers.append(int(row[0]))
            postgres.restart("immediate")
    assert numbers[1] <= numbers[0]
    async with resolving(pg_proxy_url) as pool:
        await table(pool)
        gate = Gate(pool.driver, monkeypatch)
        pg_proxy.commit_lost_reply()
        call = pool.runInteraction(insert)
        await reached(gate.asked)
        await asyncio.to_thread(postgres.restart, "immediate")
        gate.go.set()
        error = await outcome(call)
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        assert gate.answers == [None]  # The first attempt was cut off by the crash.
        assert await rows(pool) == 1


async def test_in_progress_is_asked_again(pg_proxy, pg_proxy_url, pg_url, monkeypatch):
    """While the server has not noticed that we are gone, it is asked again."""
    async with resolving(pg_proxy_url) as pool:
        await table(pool)
        answers = ["in progress", "in progress"]
        verdict = PostgresDriver.verdict

        def slow(self, raw, ticket):
            return answers.pop() if answers else verdict(self, raw, ticket)

        monkeypatch.setattr(PostgresDriver, "verdict", slow)
        pg_proxy.commit_lost_reply()
        assert await pool.runInteraction(insert) == "value"
        assert answers == []
        assert pool.stats().opened == 2


@pytest.mark.parametrize("limit", [{"cp_timeout": 0.2}, {"cp_query_timeout": 0.2}])
async def test_asking_is_bounded(pg_proxy, pg_proxy_url, monkeypatch, limit):
    """Nobody is asked for longer than the call's time, or than anybody would wait."""
    async with resolving(pg_proxy_url, **limit) as pool:
        await table(pool)
        monkeypatch.setattr(pool.driver, "verdict", lambda raw, ticket: "in progress")
        pg_proxy.commit_lost_reply()
        error = await outcome(pool.runInteraction(insert))
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        stats = pool.stats()
        assert (stats.opened, stats.connections) == (2, 0)


async def test_silent_server_is_cut_off(pg_proxy, pg_proxy_url, monkeypatch):
    """A server that takes the question and says nothing keeps nobody for ever."""
    async with resolving(pg_proxy_url, cp_timeout=0.3) as pool:
        await table(pool)
        verdict = pool.driver.verdict

        def freeze(raw, ticket):
            pg_proxy.freeze()
            return verdict(raw, ticket)

        monkeypatch.setattr(pool.driver, "verdict", freeze)
        pg_proxy.commit_lost_reply()
        loop = asyncio.get_running_loop()
        began = loop.time()
        error = await outcome(pool.runInteraction(insert))
        assert loop.time() - began < 15
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        pg_proxy.heal()
        assert await rows(pool) == 1


async def test_pool_closes_meanwhile(pg_proxy, pg_proxy_url, monkeypatch):
    """A pool that is closed asks no further."""
    pool = resolving(pg_proxy_url)
    await pool.start()
    await table(pool)
    asked = threading.Event()

    def never(raw, ticket):
        asked.set()
        return "in progress"

    monkeypatch.setattr(pool.driver, "verdict", never)
    pg_proxy.commit_lost_reply()
    call = pool.runInteraction(insert)
    await reached(asked)
    await pool.close(timeout=0)
    error = await outcome(call)
    assert isinstance(error, ConnectionLost | PoolClosed)
    if isinstance(error, ConnectionLost):
        assert error.outcome == "unknown"
    assert pool.stats().connections == 0


async def test_cancel_meanwhile(pg_proxy, pg_proxy_url, monkeypatch):
    """A cancel that comes while the question is out does not hide its answer."""
    async with resolving(pg_proxy_url, cp_grace=30) as pool:
        await table(pool)
        gate = Gate(pool.driver, monkeypatch)
        pg_proxy.commit_lost_reply()
        call = pool.runInteraction(insert)
        await reached(gate.asked)
        assert call.cancel()
        gate.go.set()
        assert await call == "value"


async def test_caller_leaves_meanwhile(pg_proxy, pg_proxy_url, monkeypatch, caplog):
    """Whoever has waited long enough for the answer is told that it is not known."""
    async with resolving(pg_proxy_url, cp_grace=0.02) as pool:
        await table(pool)
        gate = Gate(pool.driver, monkeypatch)
        pg_proxy.commit_lost_reply()
        call = pool.runInteraction(insert, timeout=0.3)
        await reached(gate.asked)
        error = await outcome(call)
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        gate.go.set()
        await until(lambda: not pool.stats().busy, "the worker to be through")
        assert await rows(pool) == 1
    assert "could not be cut off" not in caplog.text


async def test_costs_nothing_else(pg_proxy, pg_proxy_url):
    """It costs one statement for each connection, and none for an interaction; at
    levels that see one state from their beginning, one more before the COMMIT.
    """
    async with resolving(pg_proxy_url) as pool:
        await table(pool)
        assert pg_proxy.statements == 2
        for isolation, cost in ((None, 3), ("read committed", 3), ("serializable", 4)):
            before = pg_proxy.statements
            await pool.runInteraction(insert, isolation=isolation)
            assert pg_proxy.statements - before == cost
        before = pg_proxy.statements
        await pool.runInteraction(lambda txn: txn.execute("select 1"), readonly=True)
        assert pg_proxy.statements - before == 4


async def test_level_of_the_session(pg_proxy, pg_proxy_url):
    """Where transactions see one state from their beginning by default, they still
    begin to see with their first own statement.
    """

    def prepare(raw):
        raw.execute("set default_transaction_isolation = 'repeatable read'")

    async with resolving(pg_proxy_url, cp_openfun=prepare) as pool:
        await table(pool)

        def late(txn):
            with psycopg.connect(dsn) as other:
                other.execute("insert into a values (1)")
            return txn.execute("select count(*) from a").fetchone()

        dsn = pg_proxy_url.replace("+psycopg", "")
        assert await pool.runInteraction(late) == (1,)
        pg_proxy.commit_lost_reply()
        assert await pool.runInteraction(insert) == "value"


async def test_rows_as_the_user_wants_them(pg_proxy, pg_proxy_url):
    """What rows look like is the user's choice, and none of the pool's questions."""
    factory = psycopg.rows.dict_row
    async with resolving(pg_proxy_url, row_factory=factory) as pool:
        await table(pool)
        assert await pool.runQuery("select 1 as x", timeout=9) == [{"x": 1}]
        pg_proxy.commit_lost_reply()
        assert await pool.runInteraction(insert, timeout=9) == "value"


async def test_time_is_over_meanwhile(pg_proxy, pg_proxy_url, monkeypatch):
    """Time that runs out while the question is out is no excuse for a wrong answer."""
    async with resolving(pg_proxy_url, cp_grace=30) as pool:
        await table(pool)
        gate = Gate(pool.driver, monkeypatch)
        pg_proxy.commit_lost_request()
        call = pool.runInteraction(insert, timeout=0.2)
        await reached(gate.asked)
        await until(lambda: call.cancel_wanted, "the time to be over")
        gate.go.set()
        error = await outcome(call)
        if isinstance(error, ConnectionLost):  # It was cut off before it could answer.
            assert error.outcome == "unknown"
        else:
            assert isinstance(error, QueryTimeout)
        assert await rows(pool) == 0
