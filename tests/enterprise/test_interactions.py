"""The contract of ConnectionPool, the same for every database: transactions."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sqlite3
import threading

import psycopg
import pytest

from enterprise import ConnectionPool, TransactionEnded
from enterprise.errors import ConnectionLost, WorkerInterrupted
from tests.enterprise.helpers import backend, names, outcome, reached

DATABASE_ERRORS = (sqlite3.Error, psycopg.Error)

# -- commit and rollback ---------------------------------------------------------------


async def test_commit(shop):
    """An interaction is committed when it returns, and its value arrives."""

    def rename(txn, name, *, number):
        txn.execute(shop.sql("update item set name = ? where id = ?"), (name, number))
        assert "adze" not in names(shop)
        return txn.rowcount

    async with ConnectionPool(shop.url) as pool:
        assert await pool.runInteraction(rename, "adze", number=2) == 1
    assert names(shop) == ["hammer", "adze"]


async def test_rollback(shop):
    """What the function raises arrives itself, and nothing is seen from outside."""
    problem = KeyError("nothing doing")

    def fail(txn):
        txn.execute("delete from item")
        raise problem

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        assert await outcome(pool.runInteraction(fail)) is problem
        assert names(shop) == ["hammer", "saw"]
        assert await pool.runQuery("select count(*) from item") == [(2,)]


async def test_one_transaction(shop):
    """All that a function does is one transaction, seen by others when it is over."""
    inside = threading.Event()
    go_on = threading.Event()

    def replace(txn):
        txn.execute("delete from item where id = 1")
        inside.set()
        assert go_on.wait(30)
        txn.execute("insert into item values (3, 'file')")

    async with ConnectionPool(shop.url) as pool:
        working = pool.runInteraction(replace)
        await reached(inside)
        assert await pool.runQuery("select count(*) from item where id = 1") == [(1,)]
        assert names(shop) == ["hammer", "saw"]
        go_on.set()
        await working
    assert names(shop) == ["saw", "file"]


@pytest.mark.parametrize(
    "error", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration]
)
@pytest.mark.parametrize("way", ["runInteraction", "runWithConnection"])
async def test_interrupting_exceptions(shop, error, way):
    """SystemExit and its like arrive as WorkerInterrupted; the worker lives."""

    def leave(handle):
        handle.execute("delete from item")
        raise error("enough")

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        before = await pool.runQuery(backend(shop))
        with pytest.raises(WorkerInterrupted, match="enough") as caught:
            await getattr(pool, way)(leave)
        assert type(caught.value.__cause__) is error
        assert names(shop) == ["hammer", "saw"]
        assert await pool.runQuery(backend(shop)) == before
        assert pool.stats().opened == 1


async def test_with_connection(shop):
    """`runWithConnection` is one transaction, too; closing in it does nothing."""

    def work(connection, name):
        with connection as same:
            cursor = same.cursor()
            cursor.execute(shop.sql("update item set name = ?"), (name,))
            connection.close()
            cursor.close()
        assert "adze" not in names(shop)
        return repr(connection)

    def fail(connection):
        connection.execute("delete from item")
        raise LookupError

    async with ConnectionPool(shop.url) as pool:
        assert "Connection to" in await pool.runWithConnection(work, "adze")
        assert names(shop) == ["adze", "adze"]
        with pytest.raises(LookupError):
            await pool.runWithConnection(fail)
    assert names(shop) == ["adze", "adze"]


async def test_connection_commits_in_between(shop):
    """A connection's commit and rollback end the transaction and begin the next."""

    def work(connection):
        connection.execute("insert into item values (3, 'kept')")
        connection.commit()
        connection.execute("insert into item values (4, 'undone')")
        connection.rollback()
        connection.execute("insert into item values (5, 'lost')")
        raise LookupError

    async with ConnectionPool(shop.url) as pool:
        with pytest.raises(LookupError):
            await pool.runWithConnection(work)
    assert names(shop) == ["hammer", "saw", "kept"]


async def test_context_variables(shop):
    """The function sees the context variables of whoever called."""
    who = contextvars.ContextVar("who")
    who.set("Ada")
    async with ConnectionPool(shop.url) as pool:
        assert await pool.runInteraction(lambda txn: who.get()) == "Ada"


async def test_readonly(shop):
    """A read-only interaction cannot write, and the connection stays in use."""
    async with ConnectionPool(shop.url, cp_max=3) as pool:
        count = functools.partial(_fetch, "select count(*) from item")
        assert await pool.runInteraction(count, readonly=True) == [(2,)]
        with pytest.raises(DATABASE_ERRORS):
            await pool.runInteraction(
                lambda txn: txn.execute("delete from item"), readonly=True
            )
        assert await pool.runInteraction(count, readonly=True) == [(2,)]
    assert names(shop) == ["hammer", "saw"]


def _fetch(sql, txn):
    return txn.execute(sql).fetchall()


# -- errors inside ---------------------------------------------------------------------


async def test_swallowed_error(shop):
    """A swallowed SQL error never makes a silent rollback of what was done before."""

    def careless(txn):
        txn.execute("delete from item where id = 1")
        try:
            txn.execute("select * from nowhere")
        except DATABASE_ERRORS:
            pass
        return "done"

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        result = await outcome(pool.runInteraction(careless))
        if shop.kind == "postgres":
            assert isinstance(result, TransactionEnded)
            assert names(shop) == ["hammer", "saw"]
        else:  # SQLite's transaction goes on after such an error.
            assert result == "done"
            assert names(shop) == ["saw"]
        assert await pool.runQuery("select 1") == [(1,)]


@pytest.mark.parametrize("statement", ["commit", "rollback"])
async def test_transaction_ended_by_hand(shop, statement):
    """A function that ends the transaction itself is told so."""

    def meddle(txn):
        txn.execute("delete from item where id = 1")
        txn.execute(statement)

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises(TransactionEnded, match="leave beginning and ending"):
            await pool.runInteraction(meddle)
        assert await pool.runQuery("select 1") == [(1,)]


async def test_savepoints_nest(shop):
    """What leaves a savepoint by an exception undoes that savepoint, and only that."""

    def work(txn):
        txn.execute("update item set name = 'a' where id = 1")
        try:
            with txn.savepoint():
                txn.execute("update item set name = 'b' where id = 2")
                with txn.savepoint() as inner:
                    inner.execute("insert into item values (3, 'c')")
                try:
                    with txn.savepoint():
                        txn.execute("insert into item values (1, 'twice')")
                except DATABASE_ERRORS:
                    txn.execute("insert into item values (4, 'd')")
                raise LookupError
        except LookupError:
            pass
        with txn.savepoint():
            txn.execute("insert into item values (5, 'e')")

    async with ConnectionPool(shop.url) as pool:
        await pool.runInteraction(work)
    assert names(shop) == ["a", "saw", "e"]


async def test_transaction_is_a_cursor(shop):
    """A transaction iterates, and passes the cursor's attributes, in and out."""

    def work(txn):
        txn.arraysize = 2
        insert = shop.sql("insert into item values (?, ?)")
        txn.executemany(insert, [(n, str(n)) for n in range(3, 8)])
        assert txn.rowcount == 5
        with txn as same:
            rows = list(same.execute("select id from item order by id"))
        assert [column[0] for column in txn.description] == ["id"]
        txn.execute("select id from item order by id")
        assert len(txn.fetchmany()) == txn.arraysize == 2
        txn.reopen()
        assert txn.execute("select 1").fetchone() == (1,)
        txn.close()
        with pytest.raises(AttributeError):
            txn.nothing_like_it  # noqa: B018
        return rows, repr(txn)

    async with ConnectionPool(shop.url) as pool:
        rows, shown = await pool.runInteraction(work)
    assert rows == [(n,) for n in range(1, 8)]
    assert shown.startswith("<Transaction on ")


async def test_cursors_are_closed(shop):
    """A cursor is closed with its function, even when a traceback keeps it alive."""
    kept = []

    def fail(txn):
        txn.execute("select id from item")
        txn.fetchone()
        kept.append(txn)
        raise LookupError

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        error = await outcome(pool.runInteraction(fail))
        assert error.__traceback__ is not None
        with pytest.raises(TransactionEnded):
            kept[0].fetchone()
        with pytest.raises(TransactionEnded):
            kept[0].execute("delete from item")
        # An open cursor would hold SQLite's lock, and DROP would fail.
        await pool.runOperation("drop table item")


# -- connections that die --------------------------------------------------------------


def _terminate(handle):
    handle.execute("select pg_terminate_backend(pg_backend_pid())")


def _terminate_in_savepoint(txn):
    with txn.savepoint():
        _terminate(txn)


def _terminate_and_swallow(txn):
    try:
        _terminate(txn)
    except psycopg.Error:
        return


def _close(txn):
    txn.execute("delete from item")
    txn.connection.close()


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (_terminate, psycopg.OperationalError),
        (_terminate_in_savepoint, psycopg.errors.AdminShutdown),
        (_terminate_and_swallow, TransactionEnded),
        (_close, (*DATABASE_ERRORS, TransactionEnded)),
    ],
)
async def test_interaction_kills_its_connection(shop, function, cause):
    """Who kills the connection is told so; the next call gets a new connection."""
    if shop.kind == "sqlite" and function is not _close:
        return  # There is no server that could end it.
    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises(ConnectionLost) as caught:
            await pool.runInteraction(function)
        assert caught.value.outcome == "rolled_back"
        assert isinstance(caught.value.__cause__, cause)
        assert names(shop) == ["hammer", "saw"]
        assert await pool.runQuery("select count(*) from item") == [(2,)]
        assert (pool.stats().opened, pool.stats().connections) == (2, 1)


# -- under load ------------------------------------------------------------------------


async def test_bank(database):
    """8 writers move money about, and the total never changes."""
    database.rows("create table account (id integer primary key, money integer)")
    for number in range(8):
        database.rows("insert into account values (?, 100)", (number,))

    def transfer(txn, source, target, amount):
        # In one order, so that no two of them wait for each other.
        for account in sorted([source, target]):
            change = -amount if account == source else amount
            txn.execute(
                database.sql("update account set money = money + ? where id = ?"),
                (change, account),
            )
        txn.execute(database.sql("select money from account where id = ?"), (source,))
        if txn.fetchone()[0] < 0:
            raise LookupError("not enough money")

    async def write(pool, number):
        failed = 0
        for turn in range(40):
            target = (number + turn % 7 + 1) % 8
            work = pool.runInteraction(
                transfer, number, target, 1 + turn * 3 % 40 if turn % 8 else 1000
            )
            result = await outcome(work)
            assert result is None or isinstance(result, LookupError), result
            failed += result is not None
            if turn % 10 == 0:
                total = await pool.runQuery("select sum(money) from account")
                assert total == [(800,)]
        return failed

    async with ConnectionPool(database.url, cp_max=8) as pool:
        failed = await asyncio.gather(*(write(pool, number) for number in range(8)))
        assert await pool.runQuery("select min(money) >= 0 from account")
    assert database.rows("select sum(money) from account") == [(800,)]
    assert 8 * 5 <= sum(failed) < 320
