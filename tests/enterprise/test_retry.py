"""RetryPolicy: what is repeated, how often, and how soon."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sqlite3
import threading

import psycopg
import pytest

from enterprise import ConnectionPool, TransactionEnded
from enterprise.retry import RetryPolicy
from tests.enterprise.helpers import names, outcome
from tests.scripted import OperationalError

AT_ONCE = RetryPolicy(attempts=5, backoff=0)


def busy(code=sqlite3.SQLITE_BUSY):
    """Return what SQLite raises where somebody else has the lock."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = code
    return error


# -- the policy itself -----------------------------------------------------------------


def test_pauses_grow_and_end():
    """A pause is a random part of the backoff, which doubles up to the longest."""
    policy = RetryPolicy(attempts=200, backoff=0.1, longest=0.5)
    pauses = list(policy.pauses())
    assert len(pauses) == 199
    bounds = [0.1, 0.2, 0.4, *[0.5] * 196]
    for pause, bound in zip(pauses, bounds, strict=True):
        assert 0 <= pause <= bound
    assert max(pauses) > 0.4
    assert len(set(pauses)) > 100
    assert list(RetryPolicy(1).pauses()) == []


def test_what_is_covered():
    """Serialization failures, deadlocks and BUSY are covered, as causes, too."""
    policy = RetryPolicy()
    assert policy.covers(psycopg.errors.SerializationFailure())
    assert policy.covers(psycopg.errors.DeadlockDetected())
    assert policy.covers(busy())
    assert policy.covers(busy(sqlite3.SQLITE_BUSY_SNAPSHOT))
    wrapped = LookupError()
    wrapped.__cause__ = busy()
    assert policy.covers(wrapped)
    assert not policy.covers(psycopg.errors.UniqueViolation())
    assert not policy.covers(busy(sqlite3.SQLITE_CONSTRAINT))
    assert not policy.covers(sqlite3.OperationalError("no code at all"))
    assert not policy.covers(LookupError())


def test_what_is_covered_can_be_said():
    """`on` names what is repeated for, words and exception classes."""
    policy = RetryPolicy(on=("deadlock", KeyError))
    assert policy.covers(psycopg.errors.DeadlockDetected())
    assert policy.covers(KeyError())
    assert not policy.covers(psycopg.errors.SerializationFailure())
    assert not policy.covers(busy())


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"attempts": 0}, ValueError),
        ({"backoff": -1}, ValueError),
        ({"backoff": float("nan")}, ValueError),
        ({"longest": float("inf")}, ValueError),
        ({"on": ("dead lock",)}, ValueError),
        ({"on": (KeyboardInterrupt,)}, TypeError),
        ({"on": (40001,)}, TypeError),
    ],
)
def test_senseless_policies_are_refused(wrong, error):
    """A policy that makes no sense is refused where it is made."""
    with pytest.raises(error, match=r"hoose|There are"):
        RetryPolicy(**wrong)


# -- interactions that are repeated ----------------------------------------------------


async def test_repeated_on_the_same_connection(shop):
    """A failed attempt is rolled back, and the next one runs on the same worker."""
    threads = []

    def work(txn):
        threads.append(threading.get_ident())
        txn.execute(shop.sql("insert into item values (?, 'x')"), (7 + len(threads),))
        if len(threads) < 3:
            raise busy()
        return txn.execute("select count(*) from item").fetchone()

    async with ConnectionPool(shop.url, cp_max=3) as pool:
        assert await pool.runInteraction(work, retry=AT_ONCE) == (3,)
        assert len(threads) == 3
        assert len(set(threads)) == 1
        assert pool.stats().finished == 1
    assert names(shop) == ["hammer", "saw", "x"]


async def test_attempts_are_bounded(shop):
    """After the last attempt the error arrives, and nothing is left."""
    tries = []

    def work(txn):
        txn.execute("delete from item")
        tries.append(1)
        raise busy()

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await pool.runInteraction(work, retry=RetryPolicy(4, 0))
        assert len(tries) == 4
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await pool.runInteraction(work)
        assert len(tries) == 5  # Without a policy there is no repetition.
        assert await pool.runQuery("select count(*) from item") == [(2,)]


async def test_other_errors_are_not_repeated(shop):
    """What no repetition can cure arrives at once."""
    tries = []

    def work(txn):
        tries.append(1)
        txn.execute("selekt")

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises((sqlite3.Error, psycopg.Error)):
            await pool.runInteraction(work, retry=AT_ONCE)
    assert len(tries) == 1


async def test_a_swallowed_failure_is_repeated(pg_url):
    """A function that goes on after a serialization failure is repeated, too."""
    tries = []

    def work(txn):
        tries.append(1)
        if len(tries) == 1:
            try:
                txn.execute("do $$ begin raise sqlstate '40001'; end $$")
            except psycopg.Error:
                return "useless"
        return "good"

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        assert await pool.runInteraction(work, retry=AT_ONCE) == "good"
        tries.clear()
        with pytest.raises(TransactionEnded) as caught:
            await pool.runInteraction(work)
        assert isinstance(caught.value.__cause__, psycopg.errors.SerializationFailure)


async def test_serialization_failure(pg_url):
    """Two serializable transactions that meet are both done, with a retry."""
    met = threading.Barrier(2, timeout=30)

    def work(txn, mine, first):
        (total,) = txn.execute("select sum(n) from counter").fetchone()
        if first.pop():
            met.wait()
        txn.execute("insert into counter values (%s, %s)", (mine, total + 1))

    async with ConnectionPool(pg_url, cp_max=2) as pool:
        await pool.runOperation("create table counter (who integer, n integer)")
        await pool.runOperation("insert into counter values (0, 1)")
        run = functools.partial(
            pool.runInteraction, work, isolation="serializable", retry=RetryPolicy(9)
        )
        await asyncio.gather(*(run(n, [False] * 9 + [True]) for n in (1, 2)))
        rows = await pool.runQuery("select n from counter order by n")
    assert rows == [(1,), (2,), (4,)]  # One after the other, in some order.


async def test_deadlock(pg_url):
    """Two transactions that lock each other out are both done, with a retry."""
    met = threading.Barrier(2, timeout=30)

    def work(txn, order, first):
        for number in order:
            txn.execute("update item set n = n + 1 where id = %s", (number,))
            if first and first.pop():
                met.wait()

    async with ConnectionPool(pg_url, cp_max=2) as pool:
        await pool.runScript(
            "create table item (id integer, n integer);"
            "insert into item values (1, 0), (2, 0);"
        )
        run = functools.partial(pool.runInteraction, work, retry=RetryPolicy(9))
        await asyncio.gather(run((1, 2), [True]), run((2, 1), [True]))
        assert await pool.runQuery("select n from item") == [(2,), (2,)]


async def test_no_repetition_after_a_lost_commit(script):
    """What was lost during its COMMIT may have been done: it is not repeated."""
    tries = []
    script.will("commit", "lose")
    anything = RetryPolicy(5, 0, on=(Exception,))
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises((OperationalError, ConnectionError)):
            await pool.runInteraction(lambda txn: tries.append(1), retry=anything)
        assert len(tries) == 1


async def test_refused_commit_is_repeated(script):
    """A COMMIT that the database refuses is repeated as any other failure."""
    tries = []
    script.will("commit", "busy", "busy")
    anything = RetryPolicy(5, 0, on=(OperationalError,))
    async with ConnectionPool(script, cp_max=1) as pool:
        await pool.runInteraction(lambda txn: tries.append(1), retry=anything)
        assert len(tries) == 3
        assert (script.calls["commit"], script.calls["rollback"]) == (3, 2)


async def test_no_repetition_without_a_rollback(script):
    """Where the rollback fails, the connection is closed and nothing repeated."""
    tries = []
    script.will("rollback", "fail no rollback")

    def work(txn):
        tries.append(1)
        raise busy()

    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(sqlite3.OperationalError):
            await pool.runInteraction(work, retry=AT_ONCE)
        assert len(tries) == 1


async def test_cancel_ends_a_pause(script):
    """A cancel ends the pause between two attempts at once."""
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(txn):
        loop.call_soon_threadsafe(failed.set)
        raise busy()

    long = RetryPolicy(2, 3600, 3600)
    async with ConnectionPool(script, cp_max=1) as pool:
        call = pool.runInteraction(work, retry=long)
        await failed.wait()
        call.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await call
        assert await pool.runQuery("rows 1") == [(1,)]
        assert pool.stats().opened == 1


async def test_the_time_budget_holds_for_pauses(script):
    """No pause is begun that the call's time would not suffice for."""

    class Hourly(RetryPolicy):
        def pauses(self):
            yield 3600

    def work(txn):
        raise busy()

    async with ConnectionPool(script, cp_max=1, cp_query_timeout=40) as pool:
        for timeout in (40, None):
            call = pool.runInteraction(work, retry=Hourly(), timeout=timeout)
            assert isinstance(await outcome(call), sqlite3.OperationalError)


async def test_second_attempt_can_be_cancelled(endless):
    """A cancel stops the statement of a later attempt as that of the first."""
    tries = []

    def work(txn):
        tries.append(1)
        if len(tries) == 1:
            raise busy()
        txn.execute(endless.sql)

    async with endless.pool(cp_max=1) as pool:
        call = pool.runInteraction(work, retry=AT_ONCE)
        await endless.started()
        call.cancel()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        await endless.ended()
        assert await pool.runQuery("select 1") == [(1,)]
        assert pool.stats().opened == 1


async def test_attempts_do_not_see_each_other(script):
    """Each attempt begins with the caller's context variables."""
    seen = []
    variable = contextvars.ContextVar("variable", default="clean")

    def work(txn):
        seen.append(variable.get())
        variable.set("dirty")
        if len(seen) < 3:
            raise busy()

    async with ConnectionPool(script, cp_max=1) as pool:
        call = pool.runInteraction(work, retry=AT_ONCE)
        left = []
        await call.addCallback(lambda _: left.append(variable.get()))
    assert seen == ["clean"] * 3
    assert left == ["dirty"]  # As the last one left it.


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((iter([1]),), {}),
        ((), {"rows": (n for n in range(3))}),
        ((map(str, [1]),), {}),
    ],
)
async def test_iterators_are_refused(script, args, kwargs):
    """What the first attempt would use up cannot be passed along with a retry."""
    pool = ConnectionPool(script)
    with pytest.raises(TypeError, match="Pass a list"):
        pool.runInteraction(print, *args, retry=AT_ONCE, **kwargs)
    with pytest.raises(TypeError, match="Pass a list"):
        bound = functools.partial(print, *args, **kwargs)
        pool.runInteraction(bound, retry=AT_ONCE)
    assert pool.stats().submitted == 0
