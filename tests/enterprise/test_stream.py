"""Streams: rows as they are asked for, and how far the worker may be ahead."""

from __future__ import annotations

import asyncio
import contextvars
import math

import psycopg
import pytest
import trio

from enterprise import ConnectionPool
from enterprise.errors import (
    ConnectionLost,
    NestedAcquire,
    PoolClosed,
    PoolFull,
    QueryTimeout,
    WrongThread,
)
from tests.enterprise.helpers import outcome, reached, until
from tests.enterprise.leases import DATABASE_ERRORS, alone
from threadpool.loops import trio as adapter

MANY = (
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2500) "
    "select i from n"
)

TEN = "rows 1 2 3 4 5 6 7 8 9 10"


def resting(stream):
    """Return what says whether the worker waits for the reader."""
    return lambda: stream._job.idleSince() < math.inf


# -- rows and chunks -------------------------------------------------------------------


async def test_rows(shop):
    """A stream gives all rows of a statement, in order, one by one."""
    async with ConnectionPool(shop.url, cp_max=3) as pool:
        rows = [row async for row in pool.stream(MANY)]
        assert rows == [(number + 1,) for number in range(2500)]
        sql = shop.sql("select name from item where id = ?")
        assert [row async for row in pool.stream(sql, (2,))] == [("saw",)]
        assert [row async for row in pool.stream(sql, (9,))] == []
        await alone(pool)


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [(1000, [1000, 1000, 500]), (1250, [1250, 1250]), (2500, [2500]), (9000, [2500])],
)
async def test_chunks(database, batch, sizes):
    """Chunks have `batch` rows each, but for the last; none is empty."""
    async with ConnectionPool(database.url, cp_max=3) as pool:
        chunks = [rows async for rows in pool.streamChunks(MANY, batch=batch)]
        assert [len(rows) for rows in chunks] == sizes
        assert [row for rows in chunks for row in rows][-1] == (2500,)
        await alone(pool)


async def test_any_driver(script):
    """Any DB-API driver streams by fetchmany; its transaction is ended."""
    async with ConnectionPool(script, cp_max=1) as pool:
        assert [row async for row in pool.stream(TEN, batch=3)] == [
            (number,) for number in range(1, 11)
        ]
        assert [row async for row in pool.stream("x")] == []  # It gives no rows at all.
        assert script.calls["commit"] == 2
        assert pool.stats().busy == 0


async def test_one_snapshot(shop):
    """What others write while a stream is read is not seen by it."""
    async with ConnectionPool(shop.url, cp_max=3) as pool:
        seen = []
        async for (name,) in pool.stream("select name from item order by id", batch=1):
            seen.append(name)
            await pool.runOperation("update item set name = 'other'")
        assert seen == ["hammer", "saw"]


async def test_refuses_to_write(pg_url, tmp_path):
    """A stream cannot write, and says what can."""
    async with ConnectionPool(f"sqlite:///{tmp_path}/a.db", cp_max=2) as pool:
        await pool.runOperation("create table item (id integer)")
        error = await outcome(anext(aiter(pool.stream("insert into item values (1)"))))
        assert "readonly" in str(error)
        assert "read-only transaction" in error.__notes__[0]
        assert await pool.runQuery("select count(*) from item") == [(0,)]
    async with ConnectionPool(pg_url) as pool:
        await pool.runOperation("create table item (id integer)")
        await pool.runScript(
            "create function add() returns integer language sql as "
            "'insert into item values (1) returning id'"
        )
        error = await outcome(anext(aiter(pool.stream("select add()"))))
        assert isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
        assert "read-only transaction" in error.__notes__[0]
        await alone(pool)


async def test_block_goes_on(database):
    """Inside `async with`, a loop that was left can be gone on with, row by row."""
    async with ConnectionPool(database.url, cp_max=2) as pool:
        async with pool.stream(MANY, batch=100) as stream:
            async for row in stream:
                if row == (150,):
                    break
            assert await anext(aiter(stream)) == (151,)
            assert len([row async for row in stream]) == 2349
            assert [row async for row in stream] == []
        await alone(pool)


async def test_one_loop(script):
    """Without a block a stream is for one loop, and says so."""
    async with ConnectionPool(script, cp_max=1) as pool:
        stream = pool.stream(TEN)
        assert len([row async for row in stream]) == 10
        with pytest.raises(RuntimeError, match="has had its `async for`"):
            aiter(stream)
        with pytest.raises(RuntimeError, match="has had its `async for`"):
            async with stream:
                raise AssertionError


async def test_senseless_arguments(script):
    """What makes no sense is refused where it is passed."""
    async with ConnectionPool(script, cp_max=1) as pool:
        for batch in (0, -1, True, 2.5, "5"):
            with pytest.raises(ValueError, match="batch is"):
                pool.stream("x", batch=batch)
        with pytest.raises(ValueError, match="timeout is"):
            pool.streamChunks("x", timeout=0)
        with pytest.raises(TypeError, match="not a string"):
            pool.stream(7)
        with pytest.raises(TypeError, match="one int"):
            pool.stream("x", 7)


async def test_repr(script):
    """A stream shows whether it has begun, is open, or over."""
    async with ConnectionPool(script, cp_max=1) as pool:
        stream = pool.stream(TEN, batch=1)
        assert repr(stream) == "<RowStream not begun, 0 chunk(s) here>"
        async with stream:
            await until(lambda: len(stream._job.chunks) == 2, "two rows")
            assert repr(stream) == "<RowStream open, 2 chunk(s) here>"
        assert repr(stream) == "<RowStream over, 0 chunk(s) here>"
        assert (
            repr(pool.streamChunks("x")) == "<ChunkStream not begun, 0 chunk(s) here>"
        )


# -- credit ----------------------------------------------------------------------------


async def test_credit(script):
    """The worker is two chunks ahead of the reader, never more, and then rests."""
    async with ConnectionPool(script, cp_max=1) as pool:
        stream = pool.streamChunks(TEN, batch=1)
        async with stream:
            chunks = aiter(stream)
            for taken in range(1, 8):
                await anext(chunks)
                ahead = taken + 2
                await until(lambda n=ahead: script.calls["fetch"] >= n, "the chunk")
                await until(resting(stream), "the worker to rest")
                assert script.calls["fetch"] == ahead
        assert pool.stats().busy == 0


async def test_short_streams_hold_nobody(script):
    """With the last row the connection has come back: the reader may use it at once."""
    async with ConnectionPool(script, cp_max=1) as pool:
        async for row in pool.stream("rows 1 2 3"):
            assert await pool.runQuery("rows 7") == [(7,)], row


async def test_snapshot_of_the_pool(script):
    """A stream is shown with its statement, and as its reader's."""
    pool = ConnectionPool(script, cp_max=1)
    async with pool, pool.stream(TEN, batch=1) as stream:
        await until(resting(stream), "the worker to rest")
        (running,) = pool.snapshot().running
        assert (running.kind, running.label) == ("stream", f"a stream: {TEN}")
        assert running.borrower == asyncio.current_task().get_name()


async def test_queue(script):
    """A stream waits its turn as any call, and fails where the pool is full."""
    async with ConnectionPool(script, cp_max=1, cp_backlog=0) as pool:
        call = pool.runQuery("hang here")
        await reached(script.gate("here").reached)
        assert isinstance(await outcome(anext(aiter(pool.stream("x")))), PoolFull)
        assert isinstance(await outcome(pool.stream("x").__aenter__()), PoolFull)
        script.gate("here").open()
        await call


# -- nested use ------------------------------------------------------------------------


async def test_nested(script):
    """A call inside the loop that needs the stream's own connection is refused."""
    async with ConnectionPool(script, cp_max=1) as pool:
        stream = pool.stream(TEN, batch=1)
        async for row in stream:
            assert row == (1,)
            with pytest.raises(NestedAcquire, match="All 1 connection"):
                await pool.runQuery("rows 1")
            break
        # Left, the stream is in nobody's way any more.
        assert await pool.runQuery("rows 2") == [(2,)]


async def test_nested_in_a_block(script):
    """A block that has begun has its worker: nobody waits behind it by mistake."""
    async with ConnectionPool(script, cp_max=1) as pool, pool.stream(TEN, batch=1):
        with pytest.raises(NestedAcquire):
            await pool.runQuery("rows 1")


async def test_nested_streams(database):
    """Streams nest while there are connections; the one too many is refused."""
    async with ConnectionPool(database.url, cp_max=3) as pool:
        room = 2 if database.kind == "sqlite" else 3

        async def descend(depth):
            async for _ in pool.stream(MANY, batch=1):
                await descend(depth + 1)

        error = await outcome(descend(0))
        assert isinstance(error, NestedAcquire)
        assert f"All {room} connection" in str(error)
        await alone(pool)


# -- errors ----------------------------------------------------------------------------


async def test_error_at_its_batch(shop):
    """An error in the middle arrives after the batches before it; then all is over."""
    sql = (
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 99) "
        "select case when i = 80 then bad(i) else i end from n"
    )

    def prepare(raw):
        if shop.kind == "sqlite":
            raw.create_function("bad", 1, lambda i: 1 / 0)

    if shop.kind == "postgres":
        shop.rows(
            "create function bad(i int) returns int language sql as 'select 1/(i-i)'"
        )
    async with ConnectionPool(shop.url, cp_max=2, cp_openfun=prepare) as pool:
        stream = pool.stream(sql, batch=19)
        seen = []
        with pytest.raises(DATABASE_ERRORS):
            async for (number,) in stream:
                seen.append(number)
        assert seen == list(range(1, 77))
        await alone(pool)


async def test_wrong_statement(database):
    """A statement that the database refuses fails with the driver's own error."""
    async with ConnectionPool(database.url, cp_max=2) as pool:
        with pytest.raises(DATABASE_ERRORS):
            async for _ in pool.stream("select nonsense from nowhere"):
                raise AssertionError
        await alone(pool)


async def test_lost_connection(script):
    """A connection lost in the middle is ConnectionLost, after the rows before."""
    script.InterfaceError = script.Error
    script.will("fetch", "", "", "lose")
    async with ConnectionPool(script, cp_max=1) as pool:
        seen = []
        with pytest.raises(ConnectionLost) as caught:
            async for rows in pool.streamChunks(TEN, batch=2):
                seen += rows
        assert seen == [(1,), (2,), (3,), (4,)]
        assert caught.value.outcome == "rolled_back"
        assert [row async for row in pool.stream("rows 1")] == [(1,)]


async def test_terminated_backend(pg_url):
    """A server that ends the session while the worker rests is ConnectionLost."""
    async with ConnectionPool(pg_url, cp_max=2) as pool:
        sql = "select pg_backend_pid() from generate_series(1, 100000)"
        with pytest.raises(ConnectionLost):
            first = True
            async for (pid,) in pool.stream(sql, batch=10):
                if first:
                    await pool.runQuery("select pg_terminate_backend(%s, 5000)", (pid,))
                    first = False
        await alone(pool)


async def test_timeout_of_the_whole(script):
    """The time limit is for the whole stream, the reader's own time included."""
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(QueryTimeout):
            async for _ in pool.stream(TEN, batch=1, timeout=0.05):
                await until(lambda: pool.stats().busy == 0, "the time to be over")
        assert [row async for row in pool.stream("rows 1")] == [(1,)]


async def test_timeout_of_a_statement(endless):
    """A statement that takes too long is stopped in the server."""
    async with endless.pool(cp_max=2) as pool:
        with pytest.raises(QueryTimeout):
            async for _ in pool.stream(endless.sql, timeout=0.1):
                raise AssertionError
        await endless.ended()
        await alone(pool)


async def test_closed_pool(script):
    """Closing lets a stream go on for a while, then ends it with PoolClosed."""
    pool = ConnectionPool(script, cp_max=1)
    stream = aiter(pool.stream(TEN, batch=1))
    assert await anext(stream) == (1,)
    (stopped,) = await pool.close(0)
    assert stopped == f"a stream: {TEN}"
    with pytest.raises(PoolClosed):
        async for _ in stream:
            pass
    with pytest.raises(PoolClosed):
        await anext(aiter(pool.stream("x")))


async def test_close_waits(script):
    """A stream that is read to its end is not disturbed by close."""
    pool = ConnectionPool(script, cp_max=1)
    stream = aiter(pool.stream(TEN, batch=1))
    await anext(stream)
    closing = pool.close()
    assert len([row async for row in stream]) == 9
    assert await closing == ()


# -- loops and contexts ----------------------------------------------------------------


def test_another_loop(script):
    """A stream belongs to its loop, and says so on another one."""
    pool = ConnectionPool(script, cp_max=1)

    async def make():
        return pool.stream("rows 1")

    async def read(stream):
        return await outcome(anext(aiter(stream)))

    stream = asyncio.run(make())
    assert isinstance(asyncio.run(read(stream)), WrongThread)
    pool.close()


async def test_needs_a_loop(script):
    """Without a loop there is nowhere for rows to come home to."""
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(WrongThread):
            await asyncio.to_thread(pool.stream, "x")


def test_trio(tmp_path):
    """Streams work under trio, and are left when trio cancels."""

    async def main():
        adapter.install()
        async with ConnectionPool(f"sqlite:///{tmp_path}/a.db", cp_max=2) as pool:
            assert len([row async for row in pool.stream(MANY)]) == 2500
            with trio.CancelScope() as scope:
                async for row in pool.stream(MANY, batch=10):
                    if row == (15,):
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
            assert scope.cancelled_caught
            async with pool.stream(MANY, batch=10) as stream:
                assert await anext(aiter(stream)) == (1,)
            while pool.stats().busy:
                await trio.sleep(0.001)
            assert pool.stats().opened <= 2

    trio.run(main)


async def test_context(script):
    """Nothing of a stream changes the context variables of its reader."""
    variable = contextvars.ContextVar("variable", default="outside")
    async with ConnectionPool(script, cp_max=1) as pool:
        async for _ in pool.stream(TEN, batch=2):
            variable.set("inside")
        assert variable.get() == "inside"
