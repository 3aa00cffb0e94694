"""runMany: any number of rows through one statement, in constant memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import tracemalloc
from asyncio import CancelledError

import pytest

from enterprise import ConnectionPool, NestedAcquire, QueryTimeout
from tests.enterprise.helpers import balance, names, outcome
from tests.enterprise.leases import DATABASE_ERRORS


def insert(database):
    mark = "?" if database.kind == "sqlite" else "%s"
    return f"insert into item values ({mark}, {mark})"


def rows_of(count, start=10):
    return [(i, f"item {i}") for i in range(start, start + count)]


async def slowly(rows):
    for row in rows:
        await asyncio.sleep(0)
        yield row


KINDS = {
    "list": list,
    "tuple": tuple,
    "generator": lambda rows: (row for row in rows),
    "asynchronous": slowly,
}


@pytest.mark.parametrize("commit_batches", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_rows_of_all_kinds(shop, kind, commit_batches):
    """Lists and generators of both kinds are written whole, in order, and each batch is
    told of.
    """
    told = []
    async with ConnectionPool(shop.url, cp_max=2) as pool:
        done = await pool.runMany(
            insert(shop),
            KINDS[kind](rows_of(25)),
            batch=10,
            commit_batches=commit_batches,
            on_progress=told.append,
        )
    assert done == 25
    assert told == [10, 20, 25]
    assert names(shop)[2:] == [f"item {i}" for i in range(10, 35)]


@pytest.mark.parametrize("kind", KINDS)
async def test_no_rows(shop, kind):
    """Of no rows nothing is written, and no connection is wanted."""
    async with ConnectionPool(shop.url) as pool:
        assert await pool.runMany(insert(shop), KINDS[kind]([])) == 0
        assert pool.stats().submitted == 0


async def test_returning(shop):
    """With returning=True the rows come back that the statement gives, in order."""
    async with ConnectionPool(shop.url) as pool:
        rows = await pool.runMany(
            insert(shop) + " returning id", rows_of(25), batch=10, returning=True
        )
    assert rows == [(i,) for i in range(10, 35)]


@pytest.mark.parametrize("commit_batches", [False, True])
async def test_a_bad_row(shop, commit_batches):
    """A row that the database refuses undoes everything, or its own batch and those
    after it.
    """
    rows = rows_of(40)
    rows[25] = (1, "there is one")
    async with ConnectionPool(shop.url) as pool:
        with pytest.raises(DATABASE_ERRORS):
            await pool.runMany(
                insert(shop), rows, batch=10, commit_batches=commit_batches
            )
        kept = 20 if commit_batches else 0
        assert len(names(shop)) == 2 + kept
        stats = pool.stats()
        assert len(set(balance(stats))) == 1
        assert stats.busy == 0


@pytest.mark.parametrize("commit_batches", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_failing_producer(shop, asynchronous, commit_batches):
    """An error in a generator ends it all; what was committed before stays, with the
    batch that was under way.
    """
    closed = []

    def rows():
        try:
            yield from rows_of(25)
            raise LookupError("no more")
        finally:
            closed.append(1)

    given = slowly(rows()) if asynchronous else rows()
    async with ConnectionPool(shop.url) as pool:
        with pytest.raises(LookupError, match="no more"):
            await pool.runMany(
                insert(shop), given, batch=10, commit_batches=commit_batches
            )
        assert len(names(shop)) == 2 + (20 if commit_batches else 0)
        assert closed == [1]
        assert await pool.runQuery("select 1", write=True) == [(1,)]


@pytest.mark.parametrize("commit_batches", [False, True])
async def test_cancelled_while_it_waits_for_rows(shop, commit_batches):
    """A cancel while the producer is waited for ends the producer, and rolls back what
    is not committed.
    """
    never = asyncio.get_running_loop().create_future()
    ended = []

    async def rows():
        try:
            for row in rows_of(10):
                yield row
            reached.set()
            await never
        finally:
            ended.append(1)

    reached = asyncio.Event()
    async with ConnectionPool(shop.url) as pool:
        call = pool.runMany(
            insert(shop), rows(), batch=5, commit_batches=commit_batches
        )
        await reached.wait()
        call.cancel()
        assert isinstance(await outcome(call), CancelledError)
        assert ended == [1]
        assert len(names(shop)) in ((7, 12) if commit_batches else (2,))
        assert await pool.runQuery("select 1", write=True) == [(1,)]


async def test_cancelled_while_the_database_works(shop, endless):
    """A cancel while a batch is written stops the statement in the database."""
    async with endless.pool() as pool:
        if shop.kind == "sqlite":
            sql = "insert into item select ?, count(*) from (" + endless.sql + ")"
        else:
            sql = "insert into item select %s, pg_sleep(600)::text"
        call = pool.runMany(sql, [(7,), (8,)])
        await endless.started()
        call.cancel()
        assert isinstance(await outcome(call), CancelledError)
        await endless.ended()
        assert len(names(shop)) == 2


@pytest.mark.parametrize("commit_batches", [False, True])
async def test_time_limit(shop, endless, commit_batches):
    """The time limit is for all batches together."""
    async with endless.pool() as pool:
        if shop.kind == "sqlite":
            sql = "insert into item select ?, count(*) from (" + endless.sql + ")"
        else:
            sql = "insert into item select %s, pg_sleep(600)::text"
        call = pool.runMany(sql, [(7,)], timeout=0.3, commit_batches=commit_batches)
        assert isinstance(await outcome(call), QueryTimeout)
        assert len(names(shop)) == 2


async def test_progress_that_fails(shop):
    """What on_progress raises rolls everything back and arrives at the caller."""

    def stop(done):
        raise LookupError(done)

    async with ConnectionPool(shop.url) as pool:
        with pytest.raises(LookupError, match="10"):
            await pool.runMany(insert(shop), rows_of(30), batch=10, on_progress=stop)
        assert len(names(shop)) == 2


async def test_two_batches_at_the_most(shop):
    """A producer that is faster than the database is not asked for more than the batch
    that is written and the next one.
    """
    made = []
    gate, inside = threading.Event(), threading.Event()

    def rows():
        for row in rows_of(100):
            made.append(row)
            yield row

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        held = pool.runInteraction(lambda txn: inside.set() or (gate.wait(30) and None))
        await asyncio.to_thread(inside.wait)
        call = pool.runMany(insert(shop), rows(), batch=10, commit_batches=True)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(made) == 20
        gate.set()
        await held
        assert await call == 100


async def test_constant_memory(tmp_path):
    """Of a hundred thousand rows only two batches are in memory."""
    async with ConnectionPool("sqlite3", str(tmp_path / "x.db")) as pool:
        await pool.runOperation("create table item (id, what)")
        sizes = []

        def look(done):
            sizes.append(tracemalloc.get_traced_memory()[0])

        rows = ((i, "x" * 100) for i in range(100_000))
        tracemalloc.start()
        try:
            await pool.runMany("insert into item values (?, ?)", rows, on_progress=look)
        finally:
            tracemalloc.stop()
        assert len(sizes) == 100
        assert max(sizes) - sizes[2] < 1_000_000


async def test_the_loop_goes_on(tmp_path):
    """A generator that never waits is left now and then for the loop's other work."""
    turns = 0
    ended = False

    async def count():
        nonlocal turns
        while not ended:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    async with ConnectionPool("sqlite3", str(tmp_path / "x.db")) as pool:
        await pool.runOperation("create table item (id)")
        seen = []

        def rows():
            for i in range(200_000):
                if not i % 50_000:
                    seen.append(turns)
                yield (i,)

        await pool.runMany("insert into item values (?)", rows(), batch=200_000)
    ended = True
    await counting
    assert len(set(seen)) == 4, seen


async def test_inside_a_transaction_of_the_same_task(tmp_path):
    """Who holds the writer is refused, with the cure, and not left waiting for ever."""
    async with ConnectionPool("sqlite3", str(tmp_path / "x.db")) as pool:
        await pool.runOperation("create table item (id)")
        async with pool.transaction():
            with pytest.raises(NestedAcquire):
                await pool.runMany("insert into item values (?)", [(1,)])
        assert await pool.runMany("insert into item values (?)", [(1,)]) == 1


async def test_others_write_meanwhile(tmp_path):
    """The task that called it may write as well, before it awaits the result."""
    async with ConnectionPool("sqlite3", str(tmp_path / "x.db")) as pool:
        await pool.runOperation("create table item (id)")
        call = pool.runMany("insert into item values (?)", [(i,) for i in range(5000)])
        await pool.runOperation("insert into item values (0)")
        assert await call == 5000


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((7, []), TypeError),
        (("x", 7), TypeError),
        (("x", "rows"), TypeError),
        (("x", {"a": 1}), TypeError),
        (("x", [], "10"), TypeError),
        (("x", [], True), TypeError),
        (("x", [], 0), ValueError),
    ],
)
async def test_first_mistakes(arguments, error):
    """What cannot be many rows, or a batch, is refused where it is passed."""
    async with ConnectionPool("sqlite://") as pool:
        with pytest.raises(error):
            pool.runMany(*arguments)
        with pytest.raises(ValueError, match="timeout"):
            pool.runMany("x", [], timeout=0)


async def test_a_row_that_is_one_value(shop):
    """A row that is one value is refused with the cure; nothing is kept."""
    async with ConnectionPool(shop.url) as pool:
        with contextlib.suppress(TypeError):
            await pool.runMany(insert(shop), [(10, "a"), 7])
        assert len(names(shop)) == 2
        with pytest.raises(TypeError, match="comma"):
            await pool.runMany(insert(shop), [7])
