"""Cancels and time limits at every step of every kind of work.

First step by step, with a driver that stops where it is told to; then at random.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading

import psycopg
import pytest

from enterprise import ConnectionLost, ConnectionPool, PoolTimeout, QueryTimeout
from tests.enterprise.faults.watch import Answers, living_loop
from tests.enterprise.helpers import balance, outcome, reached, until
from tests.scripted import OperationalError

# -- Every step, one by one ------------------------------------------------------------

VALUE = [(7,)]


def fetch(cursor):
    """Run a statement of the scripted driver's and fetch its row."""
    cursor.execute("rows 7")
    return cursor.fetchall()


def with_connection(connection):
    """Do the same through a cursor of one's own."""
    return fetch(connection.cursor())


async def leased(pool):
    """Do the same in a block."""
    async with pool.transaction() as txn:
        return await txn.runQuery("rows 7")


BEGIN = {
    "query": lambda pool: pool.runQuery("rows 7"),
    "interaction": lambda pool: pool.runInteraction(fetch),
    "connection": lambda pool: pool.runWithConnection(with_connection),
    "lease": lambda pool: asyncio.create_task(leased(pool)),
}

STEPS = ("queued", "connect", "cursor", "execute", "fetch", "commit", "rollback")


async def begin_and_stop_at(step, kind, pool, script):
    """Begin some work and return it when it has come to *step* and waits there."""
    gate = script.gate("here")
    if step == "queued":
        busy = pool.runOperation("hang here")
        await reached(gate.reached)
        work = BEGIN[kind](pool)
        await until(lambda: pool.stats().waiting == 1, "the work to be queued")
        return work, busy
    if step == "rollback":
        script.will("execute", "fail no luck")
    script.will(step, "hang here")
    work = BEGIN[kind](pool)
    await reached(gate.reached)
    return work, None


def commits(script, number=None):
    """Return how often a connection, or any, was told to commit."""
    return sum(
        verb == "commit" and number in (None, connection)
        for connection, verb, _ in script.history
    )


def expected(step):
    """Return what work may end with that was cancelled before its COMMIT."""
    if step == "rollback":  # There was an error before the cancel.
        return (asyncio.CancelledError, OperationalError)
    return asyncio.CancelledError


@pytest.mark.parametrize("kind", BEGIN)
@pytest.mark.parametrize("step", STEPS)
async def test_cancel_at_every_step(script, step, kind):
    """Whatever is reported as cancelled was not committed, whatever was committed is
    delivered, and nobody gets the connection while a thread is in it.
    """
    async with living_loop(), ConnectionPool(script, cp_max=1, cp_grace=30) as pool:
        if step not in ("queued", "connect"):
            await pool.runOperation("warm")
        before = commits(script)
        work, busy = await begin_and_stop_at(step, kind, pool, script)
        said = len(script.history)
        work.cancel("enough")
        other = pool.runQuery("rows 2")
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(script.history) == said
        assert not other.done()
        script.release()
        result = await outcome(work)
        assert await other == [(2,)]
        if busy is not None:
            await busy
        mine = commits(script) - before - 1 - (busy is not None)
        if step == "commit":
            assert (result, mine) == (VALUE, 1)
        else:
            assert isinstance(result, expected(step)), result
            assert mine == 0
        assert (pool.stats().opened, pool.stats().unfinished) == (1, 0)
    assert script.open == 0


@pytest.mark.parametrize("kind", BEGIN)
@pytest.mark.parametrize("step", STEPS[2:])
async def test_caller_leaves_at_every_step(script, step, kind):
    """Where the driver does not react the caller goes on without it: "cancelled" was
    not committed, a COMMIT's end is "unknown", and that connection serves nobody.
    """
    async with living_loop(), ConnectionPool(script, cp_max=2, cp_grace=0.01) as pool:
        await pool.runOperation("warm")
        before = commits(script, 0)
        work, _ = await begin_and_stop_at(step, kind, pool, script)
        said = [entry for entry in script.history if entry[0] == 0]
        work.cancel("enough")
        result = await outcome(work)
        for number in range(20):
            assert await pool.runQuery(f"rows {number}") == [(number,)]
        assert [entry for entry in script.history if entry[0] == 0] == said
        script.release()
        await until(lambda: script.connections[0].closed, "the connection to be closed")
        if step == "commit":
            assert isinstance(result, ConnectionLost)
            assert result.outcome == "unknown"
        else:
            assert isinstance(result, expected(step)), result
            assert commits(script, 0) == before
        mine = [entry[1:] for entry in script.history if entry[0] == 0][len(said) :]
        # Its own statement may have been on its way, and nobody else's.
        assert {what[0] for verb, what in mine if verb == "execute"} <= {"rows 7"}
        assert (pool.stats().unfinished, script.open) == (0, 1)
    assert script.open == 0


@pytest.mark.parametrize("kind", BEGIN)
async def test_cancel_after_the_end(script, kind):
    """A cancel that comes after the end changes nothing: the value was delivered."""
    async with ConnectionPool(script, cp_max=1) as pool:
        work = BEGIN[kind](pool)
        assert await work == VALUE
        assert not work.cancel("too late")
        assert not work.cancelled()
        assert work.result() == VALUE
        assert await pool.runQuery("rows 2") == [(2,)]
        assert (script.calls["commit"], script.calls["rollback"]) == (2, 0)


# -- At random -------------------------------------------------------------------------


class Saboteur:
    """Cancels work from within, at a step of its own that was chosen by chance."""

    def __init__(self, chance):
        self.target = None
        self._loop = asyncio.get_running_loop()
        self._left = chance.randrange(-1, 7)
        # Else the cancel races with whatever comes after that step.
        self._waits = chance.random() < 0.5

    def step(self):
        """Let one step pass; the worker's thread."""
        self._left -= 1
        if self._left == 0:
            done = threading.Event()
            self._loop.call_soon_threadsafe(self._cancel, done)
            if self._waits:
                done.wait(30)

    async def step_here(self):
        """Let one step pass; the loop's thread."""
        self._left -= 1
        if self._left == 0:
            self.target.cancel()
            if self._waits:
                await asyncio.sleep(0)

    def _cancel(self, done):
        self.target.cancel()
        done.set()


class Steps:
    """Work in many steps, for any database with a table `item`."""

    def __init__(self, database):
        self.insert = database.sql("insert into item values (?, 'x')")
        self.many = "select a.id from item a, (values (1), (2), (3)) b limit 60"

    def in_transaction(self, txn, number, saboteur):
        """Write, and read in pieces."""
        saboteur.step()
        txn.execute(self.insert, (number,))
        saboteur.step()
        txn.execute(self.many)
        while True:
            saboteur.step()
            if not txn.fetchmany(20):
                break
        saboteur.step()
        return number

    def on_connection(self, connection, number, saboteur):
        """Do the same through a cursor of one's own."""
        return self.in_transaction(connection.cursor(), number, saboteur)

    async def in_block(self, pool, number, saboteur):
        """Do as much step by step from here."""
        async with pool.transaction() as txn:
            await saboteur.step_here()
            await txn.runOperation(self.insert, (number,))
            await saboteur.step_here()
            rows = txn.runQuery(self.many)
            await saboteur.step_here()
            await rows
            async with txn.savepoint():
                await txn.runInteraction(lambda inner: inner.execute("select 1"))
                await saboteur.step_here()
            await saboteur.step_here()
        return number

    def begin(self, pool, number, saboteur, chance):
        """Begin one of them and tell *saboteur* what to cancel."""
        kind = chance.randrange(4)
        if kind == 0:
            work = pool.runWithConnection(self.on_connection, number, saboteur)
        elif kind == 1:
            work = asyncio.create_task(self.in_block(pool, number, saboteur))
        elif kind == 2:
            work = pool.runOperation(self.insert, (number,))
        else:
            work = pool.runInteraction(self.in_transaction, number, saboteur)
        saboteur.target = work
        return work


async def test_thousand_cancels_at_random_steps(database):
    """After 1 000 pieces of work, cancelled at a random step each: what was delivered
    is stored, what was reported as cancelled is not, and nothing was left behind.
    """
    chance, steps = random.Random(11), Steps(database)
    if database.kind == "sqlite":
        database.rows("pragma journal_mode = wal")
    database.rows("create table item (id integer, name varchar(40))")
    told = {}

    async def client(pool, numbers):
        for number in numbers:
            saboteur = Saboteur(chance)
            work = steps.begin(pool, number, saboteur, chance)
            if chance.random() < 0.2:  # From outside, wherever it is.
                for _ in range(chance.randrange(20)):
                    await asyncio.sleep(0)
                work.cancel()
            told[number] = await outcome(work)

    async with living_loop(), ConnectionPool(database.url, cp_min=4, cp_max=4) as pool:
        await asyncio.gather(*(client(pool, range(n, 1000, 8)) for n in range(8)))
        await until(lambda: pool.stats().busy == 0, "the workers to be given back")
        stats = pool.stats()
        assert (stats.unfinished, stats.connections, stats.opened) == (0, 4, 4)
        first, last = balance(stats)
        assert first == last
    stored = sorted(number for (number,) in database.rows("select id from item"))
    delivered = [number for number, got in told.items() if got in (number, None)]
    assert stored == sorted(delivered)
    errors = [got for got in told.values() if isinstance(got, BaseException)]
    assert len(errors) + len(delivered) == len(told) == 1000
    assert {type(error) for error in errors} == {asyncio.CancelledError}
    assert min(len(errors), len(delivered)) > 200


def slow(database, number):
    """Return SQL that takes a millisecond or two and gives *number*."""
    if database.kind == "postgres":
        return f"select {number} from pg_sleep(0.002)"
    return (
        "with recursive n (i) as (select 1 union all select i + 1 from n "
        f"where i < 5000) select {number} from (select max(i) from n)"
    )


async def test_64_tasks_on_2_connections(database):
    """64 tasks on 2 connections with random time limits: each gets its own rows or
    TimeoutError, never more than two are served, and both serve afterwards.
    """
    chance = random.Random(12)
    served, late = set(), set()

    async def client(pool, number):
        for turn in range(8):
            mine = 100 * number + turn
            seconds, way = chance.uniform(0.001, 0.2), chance.randrange(3)
            try:
                if way == 0:
                    call = pool.runQuery(slow(database, mine), timeout=seconds)
                    assert await call == [(mine,)]
                elif way == 1:
                    call = pool.runQuery(slow(database, mine))
                    assert await asyncio.wait_for(call, seconds) == [(mine,)]
                else:
                    async with asyncio.timeout(seconds):
                        assert await pool.runQuery(slow(database, mine)) == [(mine,)]
            except TimeoutError as error:
                late.add(type(error))
            else:
                served.add(mine)

    async with living_loop(), ConnectionPool(database.url, cp_min=2, cp_max=2) as pool:
        await asyncio.gather(*(client(pool, number) for number in range(64)))
        assert (
            {TimeoutError, PoolTimeout}
            <= late
            <= {
                TimeoutError,
                PoolTimeout,
                QueryTimeout,
            }
        )
        assert len(served) > 64
        both = [pool.runQuery(slow(database, number)) for number in range(10)]
        assert await asyncio.gather(*both) == [[(number,)] for number in range(10)]
        await until(lambda: pool.stats().busy == 0, "the workers to be given back")
        stats = pool.stats()
        assert (stats.connections, stats.most_workers, stats.unfinished) == (2, 2, 0)
        first, last = balance(stats)
        assert first == last


# For those that are no SQL, what the driver says.
KNOWN = (
    asyncio.CancelledError,
    PoolTimeout,
    QueryTimeout,
    psycopg.Error,
    sqlite3.Error,
)


def any_call(pool, database, chance):
    """Make a call of any kind, perhaps with a time limit."""
    timeout = chance.uniform(0.0005, 0.03) if chance.random() < 0.4 else None
    sql = slow(database, 1) if chance.random() < 0.5 else "select 1"
    kind = chance.randrange(6)
    if kind < 3:
        verb = (pool.runQuery, pool.runResult, pool.runOperation)[kind]
        return verb(sql, timeout=timeout)
    if kind == 3:
        return pool.runScript("select 1; select 2", timeout=timeout)
    if kind == 4:
        return pool.runQuery("selec 1", timeout=timeout)
    return pool.runInteraction(lambda txn: txn.execute(sql).fetchall(), timeout=timeout)


async def test_2000_calls_with_cancels_and_limits(database):
    """2 000 calls with random cancels and time limits: each is answered once, by its
    value or a known error; the loop sees no error of its own, and nothing leaks.
    """
    chance, answers, complaints = random.Random(13), Answers(), []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))

    async with living_loop(), ConnectionPool(database.url, cp_min=4, cp_max=4) as pool:
        for _ in range(100):
            calls = [answers.of(any_call(pool, database, chance)) for _ in range(20)]
            for call in chance.sample(calls, 8):
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                call.cancel()
            await asyncio.wait(calls[:10])
        results = await answers.all()
        assert await pool.runQuery("select 2") == [(2,)]
        stats = pool.stats()
        assert stats.connections <= stats.most_workers <= 4
        first, last = balance(stats)
        assert first == last
    errors = [got for got in results if isinstance(got, BaseException)]
    assert [error for error in errors if not isinstance(error, KNOWN)] == []
    assert {type(error) for error in errors} >= {asyncio.CancelledError, PoolTimeout}
    assert complaints == []
