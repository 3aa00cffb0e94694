"""What one call leaves in its session, and what the next one finds there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading

import psycopg
import pytest

from enterprise import ConnectionPool, TransactionEnded
from enterprise.errors import ConnectionLost
from enterprise.retry import RetryPolicy
from tests.enterprise.faults.servers import sessions_end
from tests.enterprise.faults.watch import Answers, living_loop
from tests.enterprise.helpers import outcome

WRITERS = 10


@pytest.fixture(autouse=True)
def nobody_stays(postgres, pg_name):
    """After each test its database has no sessions."""
    yield
    sessions_end(postgres, pg_name)


@pytest.fixture
def item(postgres, pg_name):
    """A table for what is stored."""
    postgres.psql("create table item (id integer primary key, n integer)", pg_name)
    postgres.psql("insert into item select i, 0 from generate_series(1, 10) i", pg_name)


def assert_clean(server, name):
    """Fail if a session of the pool is in a transaction, or holds a lock."""
    sessions = server.psql(
        "select state from pg_stat_activity where backend_type = 'client backend' "
        f"and datname = '{name}'"
    )
    assert set(sessions.split("\n")) <= {"idle", ""}
    locks = server.psql(
        "select locktype, mode from pg_locks where pid <> pg_backend_pid() "
        f"and pid in (select pid from pg_stat_activity where datname = '{name}')"
    )
    assert locks == ""


# -- bad manners -----------------------------------------------------------------------


def swallows(handle):
    """Swallows an error, which leaves a transaction that can only be rolled back."""
    handle.execute("insert into item values (11)")
    with contextlib.suppress(psycopg.Error):
        handle.execute("insert into item values (11)")


def commits(handle):
    """Ends the transaction, and begins another one."""
    handle.execute("commit")
    handle.execute("begin")


def rolls_back(handle):
    """Ends the transaction."""
    handle.execute("rollback")


def begins(handle):
    """Begins inside, and means it."""
    handle.execute("begin")
    handle.execute("insert into item values (11)")
    raise LookupError


def locks(handle):
    """Locks a table."""
    handle.execute("lock table item in access exclusive mode")
    handle.execute("select pg_advisory_xact_lock(7)")


def does_not_read(handle):
    """Leaves rows unread."""
    handle.execute("select * from generate_series(1, 10000)")
    handle.fetchone() if hasattr(handle, "fetchone") else None


def runs_out_of_time(handle):
    """Has the server stop a statement that takes too long."""
    handle.execute("set local statement_timeout = '10ms'")
    handle.execute("select pg_sleep(600)")


def declares(handle):
    """Leaves a cursor of the server's, and a savepoint, open."""
    handle.execute("declare c cursor for select * from generate_series(1, 10000)")
    handle.execute("fetch 10 from c")
    handle.execute("savepoint mine")


@pytest.mark.parametrize("way", ["runInteraction", "runWithConnection"])
@pytest.mark.parametrize(
    ("function", "said"),
    [
        (swallows, TransactionEnded),
        (commits, TransactionEnded),
        (rolls_back, TransactionEnded),
        (begins, LookupError),
        (locks, None),
        (does_not_read, None),
        (runs_out_of_time, psycopg.errors.QueryCanceled),
        (declares, None),
    ],
)
async def test_bad_manners(postgres, pg_name, pg_url, item, function, said, way):
    """Whatever a function does to its transaction, the next caller finds a session
    that is in none and holds no lock, and nothing half done is stored.
    """
    async with ConnectionPool(pg_url, cp_max=1) as pool, living_loop():
        answers = Answers()
        answers.of(getattr(pool, way)(function))
        (result,) = await answers.all()
        if not (way == "runWithConnection" and function is commits):
            assert result is None if said is None else isinstance(result, said)
        await asyncio.to_thread(assert_clean, postgres, pg_name)
        assert await pool.runQuery("select count(*) from item") == [(10,)]
        insert = "insert into item values (12) returning id"
        assert await pool.runInteraction(
            lambda txn: txn.execute(insert).fetchall()
        ) == [(12,)]
        assert (pool.stats().opened, pool.stats().lost) == (1, 0)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("begin", TransactionEnded),
        ("begin; insert into item values (11)", TransactionEnded),
        ("begin; lock table item; selekt", psycopg.Error),
        ("lock table item", psycopg.Error),
        ("commit", None),
        ("rollback", None),
        ("select pg_advisory_xact_lock(7)", None),
    ],
)
@pytest.mark.parametrize("way", ["runQuery", "runOperation", "runResult", "runScript"])
async def test_statement_with_bad_manners(
    postgres, pg_name, pg_url, item, statement, said, way
):
    """A statement by itself that begins or ends a transaction, or locks, leaves no
    transaction and no lock behind either.
    """
    async with ConnectionPool(pg_url, cp_max=1) as pool, living_loop():
        answers = Answers()
        answers.of(getattr(pool, way)(statement))
        (result,) = await answers.all()
        if said is not None:
            assert isinstance(result, said)
        else:
            assert not isinstance(result, BaseException)
        await asyncio.to_thread(assert_clean, postgres, pg_name)
        assert await pool.runQuery("select count(*) from item") == [(10,)]
        assert (pool.stats().opened, pool.stats().lost) == (1, 0)


async def test_closed_by_its_user(postgres, pg_name, pg_url, item):
    """A function that closes the driver's connection itself fails with
    ConnectionLost, nothing is stored, and the next caller has another connection.
    """

    def close(connection):
        connection.execute("insert into item values (11)")
        connection.close()  # Does nothing: it is ours.
        connection.cursor().connection.close()

    async with ConnectionPool(pg_url, cp_max=1) as pool, living_loop():
        assert isinstance(await outcome(pool.runWithConnection(close)), ConnectionLost)
        assert await pool.runQuery("select count(*) from item") == [(10,)]
        assert (pool.stats().opened, pool.stats().connections) == (2, 1)
        await asyncio.to_thread(assert_clean, postgres, pg_name)


async def test_bad_manners_in_a_lease(postgres, pg_name, pg_url, item):
    """A block that ends its transaction itself, or swallows an error, fails; the next
    one finds a clean session.
    """
    async with ConnectionPool(pg_url, cp_max=1) as pool, living_loop():
        for statement in ("commit", "rollback", "selekt"):
            with pytest.raises(TransactionEnded):
                async with pool.transaction() as txn:
                    await txn.runOperation("lock table item")
                    await outcome(txn.runOperation(statement))
            await asyncio.to_thread(assert_clean, postgres, pg_name)
        async with pool.transaction() as txn:
            await txn.runOperation("insert into item values (11)")
        assert await pool.runQuery("select count(*) from item") == [(11,)]
        assert pool.stats().opened == 1


# -- what stays ------------------------------------------------------------------------

# What leaves something in a session, what shows it, and what shows when it is there.
STATES = {
    "set": ("set statement_timeout = '77s'", "show statement_timeout", "77s"),
    "role": ("set role pg_monitor", "select current_user::text", "pg_monitor"),
    "table": (
        "create temp table own (id int)",
        "select count(*)::text from pg_class where relname = 'own'",
        "1",
    ),
    "advisory lock": (
        "select pg_advisory_lock(7)",
        "select count(*)::text from pg_locks where locktype = 'advisory'",
        "1",
    ),
    "channel": (
        "listen news",
        "select string_agg(c, '') from pg_listening_channels() c",
        "news",
    ),
    "prepared": (
        "prepare p as select 1",
        "select string_agg(name, '') from pg_prepared_statements",
        "p",
    ),
}


@pytest.mark.parametrize("state", STATES)
async def test_session_state_is_kept(postgres, pg_name, pg_url, state):
    """What a committed call sets in its session is there for the next one on the same
    connection; a rolled back transaction takes it along; closing ends it.
    """
    leave, look, there = STATES[state]
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        before = await pool.runQuery(look)
        assert before != [(there,)]
        if state not in ("advisory lock", "prepared"):  # These know no transaction.

            def undone(txn):
                txn.execute(leave)
                raise LookupError

            assert isinstance(await outcome(pool.runInteraction(undone)), LookupError)
            assert await pool.runQuery(look) == before
        await pool.runOperation(leave)
        assert await pool.runQuery(look) == [(there,)]
        assert await pool.runInteraction(lambda txn: txn.execute(look).fetchall()) == [
            (there,)
        ]
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        assert await pool.runQuery(look) == before


@pytest.mark.parametrize("state", STATES)
async def test_session_state_is_reset(pg_url, state):
    """With a `cp_resetfun` that discards all, nothing goes from one call to the next,
    on the same connection.
    """
    leave, look, there = STATES[state]

    def reset(raw):
        raw.execute("discard all", prepare=False)

    async with ConnectionPool(pg_url, cp_max=1, cp_resetfun=reset) as pool:
        [(pid,)] = await pool.runQuery("select pg_backend_pid()")
        before = await pool.runQuery(look)
        await pool.runOperation(leave)
        assert await pool.runQuery(look) == before != [(there,)]
        await pool.runInteraction(lambda txn: txn.execute(leave))
        assert await pool.runQuery(look) == before
        assert await pool.runQuery("select pg_backend_pid()") == [(pid,)]


async def test_reset_and_prepared_statements(pg_url):
    """A `cp_resetfun` that discards all goes together with a statement that is run so
    often that the driver prepares it.
    """

    def discard(raw):
        raw.execute("discard all")

    async with ConnectionPool(pg_url, cp_max=1, cp_resetfun=discard) as pool:
        for number in range(20):
            assert await pool.runQuery("select %s::int", (number,)) == [(number,)]
        assert pool.stats().opened == 1


# -- writers that meet -----------------------------------------------------------------


def gather(calls):
    """Wait for *calls*; return their values and their errors."""
    answers = Answers()
    for call in calls:
        answers.of(call)
    return answers.all()


async def test_serialization_failures(pg_url, item):
    """Of ten serializable transactions that read and write one row at the same time
    one is done; the others fail with 40001, and nothing of theirs is stored.
    """
    all_have_read = threading.Barrier(WRITERS)

    def add(txn):
        (n,) = txn.execute("select n from item where id = 1").fetchone()
        all_have_read.wait(10)
        txn.execute("update item set n = %s where id = 1", (n + 1,))
        return n

    async with ConnectionPool(pg_url, cp_max=WRITERS) as pool, living_loop():
        results = await gather(
            pool.runInteraction(add, isolation="serializable") for _ in range(WRITERS)
        )
        assert results.count(0) == 1
        errors = [result for result in results if result != 0]
        for error in errors:
            assert isinstance(error, psycopg.errors.SerializationFailure)
        assert len(errors) == WRITERS - 1
        assert await pool.runQuery("select n from item where id = 1") == [(1,)]
        assert pool.stats().lost == 0


async def test_serializable_history(postgres, pg_name, pg_url, item):
    """With a policy ten writers, each of five transactions, are all done, and there is
    an order in which they could have been done one after the other.
    """
    first = threading.Barrier(WRITERS)
    policy = RetryPolicy(attempts=500, backoff=0.01, longest=0.05)
    calls = itertools.count()

    def add(txn):
        (n,) = txn.execute("select n from item where id = 1").fetchone()
        if next(calls) < WRITERS:
            first.wait(10)  # At least these meet.
        txn.execute("update item set n = %s where id = 1", (n + 1,))
        return n

    async with ConnectionPool(pg_url, cp_max=WRITERS) as pool, living_loop():
        seen = await gather(
            pool.runInteraction(add, isolation="serializable", retry=policy)
            for _ in range(5 * WRITERS)
        )
        # Each has read what another one, and only that one, has written.
        assert sorted(seen) == list(range(5 * WRITERS))
        assert next(calls) >= 6 * WRITERS - 1
        assert await pool.runQuery("select n from item where id = 1") == [(50,)]
        await asyncio.to_thread(assert_clean, postgres, pg_name)


@pytest.mark.parametrize("retry", [None, RetryPolicy(attempts=50, backoff=0.01)])
async def test_deadlock_ring(postgres, pg_name, pg_url, item, retry):
    """Ten transactions that lock each other out in a ring: those the server chooses
    fail with 40P01, or are done once more; the others are done; the total is right.
    """
    all_hold_one = threading.Barrier(WRITERS)
    calls = itertools.count()

    def lock_two(txn, number):
        txn.execute("set local deadlock_timeout = '20ms'")
        met = next(calls) < WRITERS
        for row in (number, number % WRITERS + 1):
            txn.execute("update item set n = n + 1 where id = %s", (row,))
            if met and row == number:
                all_hold_one.wait(10)
        return number

    async with ConnectionPool(pg_url, cp_max=WRITERS) as pool, living_loop():
        results = await gather(
            pool.runInteraction(lock_two, number, retry=retry)
            for number in range(1, WRITERS + 1)
        )
        errors = [result for result in results if not isinstance(result, int)]
        for error in errors:
            assert isinstance(error, psycopg.errors.DeadlockDetected)
        assert (len(errors) >= 1) == (retry is None)
        done = WRITERS - len(errors)
        assert done >= 1
        assert await pool.runQuery("select sum(n) from item") == [(2 * done,)]
        await asyncio.to_thread(assert_clean, postgres, pg_name)
