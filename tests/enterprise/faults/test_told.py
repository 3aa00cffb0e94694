"""Callers are told what became of their work, and their cancels are never swallowed."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest

from enterprise import ConnectionLost, ConnectionPool, QueryTimeout, TransactionEnded
from enterprise.jobs import Operation
from tests.enterprise.helpers import PATIENCE_SECONDS, outcome, reached

ENDLESS = (
    "with recursive n(i) as (select 1 union all select i + 1 from n "
    "where i > 1 or seen()) select count(*) from n"
)


class Watched:
    """A pool on SQLite whose endless statement tells that it runs."""

    def __init__(self, url, **options):
        self.running = threading.Event()
        self.pool = ConnectionPool(url, cp_openfun=self._open, **options)

    def _open(self, raw):
        raw.create_function("seen", 0, self._see)

    def _see(self):
        self.running.set()
        return 1


# -- Outcomes ----------------------------------------------------------------------


async def test_loss_after_a_commit_in_the_middle(script):
    """A connection lost after the function has committed a part by itself leaves the
    outcome unknown: nobody is told that all was rolled back.
    """

    def work(connection):
        connection.cursor().execute("insert 1")
        connection.commit()
        connection.cursor().execute("lose")

    async with ConnectionPool(script, cp_max=1) as pool:
        pool.driver.lost = lambda raw, error: raw.lost
        error = await outcome(pool.runWithConnection(work))
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        assert script.calls["commit"] == 1


@pytest.mark.parametrize("kind", ["operation", "interaction"])
async def test_commit_whose_connection_is_found_dead_by_the_rollback(script, kind):
    """Where COMMIT fails, and so does the rollback after it, the connection is lost and
    the outcome unknown, although the driver itself cannot tell losses.
    """
    script.will("commit", "lose")
    async with ConnectionPool(script, cp_max=1) as pool:
        if kind == "operation":
            error = await outcome(pool.runOperation("write"))
        else:
            error = await outcome(
                pool.runInteraction(lambda t: t.execute("write") and 1)
            )
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
        assert pool.stats().lost == 1


async def test_worker_discarded_while_its_job_is_cancelled(tmp_path):
    """A worker that is to leave, as before a fork, has not lost its connection: the
    write that is cancelled on it ends as cancelled.
    """
    watched = Watched(f"sqlite:///{tmp_path}/shop.db", cp_max=2)
    async with watched.pool as pool:
        await pool.runOperation("create table t (a)")
        call = pool.runOperation(f"insert into t {ENDLESS}")
        await reached(watched.running)
        (worker,) = (w for w in pool._office.writer.team.crew() if w.job is call)
        worker.discard()
        call.cancel()
        assert isinstance(await outcome(call), asyncio.CancelledError)


async def test_release_after_the_commit(script):
    """A caller whose work is committed gets its answer, although the cancel came before
    it and the worker is slow after the COMMIT.
    """
    committed, go_on = threading.Event(), threading.Event()

    def dirty(raw):
        if script.calls["commit"]:
            committed.set()
            assert go_on.wait(PATIENCE_SECONDS)
        return False

    pool = ConnectionPool(script, cp_max=1, cp_grace=30)
    async with pool:
        pool.driver.dirty = dirty
        call = pool.runOperation("write")
        await reached(committed)
        await asyncio.to_thread(call.worker.release, call)
        told = call.released
        go_on.set()
        assert await outcome(call) is None
        assert not told


@pytest.mark.parametrize(
    ("statement", "reads"),
    [
        ("select a from t", True),
        ("  (select 1) ; \n", True),
        ("explain select a from t", True),
        ("select 1; delete from t", False),
        ("select 1; begin; insert into t values (1); commit", False),
        ("explain analyze delete from t", False),
        ("EXPLAIN (ANALYSE, BUFFERS) delete from t", False),
        ("select * into copy from t", False),
        ("delete from t", False),
    ],
)
def test_statements_that_only_read(statement, reads):
    """A statement counts as one that changes nothing by all of its words, not by the
    first one.
    """
    assert Operation(None, None, (statement, None), None, None).reads() is reads


# -- SQLite ------------------------------------------------------------------------


async def test_savepoint_after_the_end(tmp_path):
    """Once SQLite has ended a transaction by itself, a SAVEPOINT begins no other one,
    whose RELEASE would commit what the function then fails to finish.
    """

    def work(connection):
        cursor = connection.cursor()
        cursor.execute("insert into t values (1)")
        with pytest.raises(sqlite3.IntegrityError):
            cursor.execute("insert or rollback into t values (1)")
        cursor.execute("savepoint one")

    async with ConnectionPool(f"sqlite:///{tmp_path}/shop.db", cp_max=2) as pool:
        await pool.runOperation("create table t (a unique)")
        assert isinstance(await outcome(pool.runWithConnection(work)), TransactionEnded)
        assert await pool.runQuery("select a from t") == []


@pytest.mark.parametrize("through", ["transaction", "connection", "savepoint"])
async def test_interrupt_while_another_statement_is_half_read(through):
    """A cancel while two statements of a transaction are under way rolls back all of
    it, and a database in memory outlives that.
    """
    watched = Watched("sqlite://", cp_max=2)

    def nested(raw, cursor):
        cursor.execute("insert into t values (4)")
        outer = raw.cursor()
        outer.execute("select a from t")
        for _ in outer:
            cursor.execute(ENDLESS)

    def plain(txn):
        nested(txn.connection, txn)

    def under_a_savepoint(txn):
        with txn.savepoint():
            nested(txn.connection, txn)

    def whole(connection):
        nested(connection, connection.cursor())

    async with watched.pool as pool:
        await pool.runScript("create table t (a); insert into t values (1), (2), (3)")
        if through == "connection":
            call = pool.runWithConnection(whole)
        else:
            call = pool.runInteraction(
                plain if through == "transaction" else under_a_savepoint
            )
        await reached(watched.running)
        call.cancel()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        assert await pool.runQuery("select count(*) from t") == [(3,)]
        assert pool.stats().opened == 1


async def test_interrupt_of_a_bare_connection_in_memory():
    """The same holds for a function that has the bare connection and begins itself."""
    watched = Watched("sqlite://", cp_max=2)

    def work(raw):
        raw.execute("begin")
        raw.execute("insert into t values (4)")
        outer = raw.cursor()
        outer.execute("select a from t")
        for _ in outer:
            raw.execute(ENDLESS)

    async with watched.pool as pool:
        await pool.runScript("create table t (a); insert into t values (1), (2), (3)")
        call = pool.runWithConnection(work, autocommit=True)
        await reached(watched.running)
        call.cancel()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        assert await pool.runQuery("select count(*) from t") == [(3,)]


# -- Cancels -----------------------------------------------------------------------


async def cancelled_while(call, error_kind, ready, go_on):
    """Cancel a task that awaits *call* once it is *ready*; return the error it saw."""
    seen = []

    async def user():
        try:
            await call()
        except error_kind as error:
            seen.append(error)
        await asyncio.Event().wait()

    task = asyncio.create_task(user())
    await ready()
    task.cancel()
    go_on()
    done, _ = await asyncio.wait([task], timeout=5)
    swallowed = not done
    task.cancel()
    await asyncio.wait([task])
    assert not swallowed, "the cancel was swallowed"
    return seen


async def test_cancel_after_the_deadline_has_struck(script):
    """A task cancelled while its call is already being stopped for its time limit sees
    the QueryTimeout, and is cancelled at its next await.
    """
    stopped = threading.Event()

    def cancel(raw):
        stopped.set()

    async with ConnectionPool(script, cp_max=2, cp_grace=30) as pool:
        pool.driver.cancels, pool.driver.cancel = True, cancel
        seen = await cancelled_while(
            lambda: pool.runQuery("hang a; fail stopped", timeout=0.02),
            QueryTimeout,
            lambda: reached(stopped),
            script.release,
        )
        assert len(seen) == 1


async def test_cancel_of_a_commit_that_is_then_lost(script):
    """A task cancelled during a COMMIT whose connection is then lost sees the
    ConnectionLost, and is cancelled at its next await.
    """
    script.will("commit", "hang a; fail x")
    async with ConnectionPool(script, cp_max=2, cp_grace=30) as pool:
        pool.driver.lost = lambda raw, error: "x" in str(error)
        (error,) = await cancelled_while(
            lambda: pool.runOperation("write"),
            ConnectionLost,
            lambda: reached(script.gate("a").reached),
            script.release,
        )
        assert error.outcome == "unknown"
