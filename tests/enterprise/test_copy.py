"""COPY: bytes out of PostgreSQL and into it, with backpressure both ways."""

from __future__ import annotations

import asyncio
import threading

import psycopg
import pytest

from enterprise import ConnectionPool
from enterprise.errors import ConfigurationError, ConnectionLost, NestedAcquire
from tests.enterprise.helpers import outcome, until
from tests.enterprise.leases import alone
from tests.postgres import wait_until

OUT = "copy (select i, 'text ' || i from generate_series(1, 20000) i) to stdout"
IN = "copy item from stdin"
LINES = b"".join(b"%d\ttext %d\n" % (i, i) for i in range(1, 20_001))


@pytest.fixture
def item(pg_url, pg_name, postgres):
    """A database with an empty table; returns what counts its rows from outside."""
    with psycopg.connect(postgres.dsn(pg_name), autocommit=True) as connection:
        connection.execute("create table item (id integer primary key, name text)")
        yield lambda: connection.execute("select count(*) from item").fetchone()[0]


async def blocks(size=5000):
    """Give the lines in pieces, and let the loop run in between."""
    for at in range(0, len(LINES), size):
        await asyncio.sleep(0)
        yield LINES[at : at + size]


# -- out -------------------------------------------------------------------------------


async def test_out(pg_url):
    """COPY TO gives all bytes in blocks, and then says how many rows they were."""
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        stream = pool.copyOut(OUT)
        got = [block async for block in stream]
        assert b"".join(got) == LINES
        assert 3 < len(got) < 20
        assert stream.rowcount == 20_000
        sql = "copy (select i from generate_series(1, %s) i) to stdout"
        assert [block async for block in pool.copyOut(sql, (2,))] == [b"1\n2\n"]
        await alone(pool)


async def test_out_left_early(pg_url):
    """A reader who leaves ends the COPY in the server, and the connection stays."""
    endless = "copy (select i from generate_series(1, 100000000) i) to stdout"
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        async for _ in pool.copyOut(endless):
            break
        await until(lambda: pool.stats().busy == 0, "the worker to be given back")
        async with pool.copyOut(endless) as stream:
            assert await anext(aiter(stream))
        await alone(pool)
        assert pool.stats().opened == 1


async def test_out_fails(pg_url):
    """What the server refuses, and what is no COPY, fails and costs no connection."""
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        for sql in ("copy nowhere to stdout", "select 1", IN.replace("item", "pg_am")):
            with pytest.raises(psycopg.Error):
                async for _ in pool.copyOut(sql):
                    raise AssertionError
        await alone(pool)


# -- in --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "view", "list", "generator", "async"])
async def test_in(pg_url, item, kind):
    """COPY FROM takes bytes, iterables and async iterators, and counts the rows."""
    source = {
        "bytes": LINES,
        "view": memoryview(LINES),
        "list": [LINES[:7], LINES[7:]],
        "generator": (LINES[at : at + 999] for at in range(0, len(LINES), 999)),
        "async": blocks(),
    }[kind]
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        assert await pool.copyIn(IN, source) == 20_000
        assert item() == 20_000
        await alone(pool)


async def test_in_reads_in_the_worker(pg_url, item):
    """A plain iterable, which may block, is read in the worker's thread."""
    seen = set()

    def lines():
        seen.add(threading.current_thread())
        yield b"1\tone\n"

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        assert await pool.copyIn(IN, lines()) == 1
    assert threading.main_thread() not in seen
    assert len(seen) == 1


async def test_in_is_fed_slowly(pg_url, item):
    """The source is two blocks ahead of the server, and is not asked for more."""
    asked, taken, gate = [], [], threading.Semaphore(0)

    async def endless():
        while True:
            asked.append(len(asked))
            yield b"%d\tone\n" % len(asked)

    def slowly(raw, sql, blocks):
        for block in blocks:
            taken.append(block)
            gate.acquire()

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        pool.driver.copyIn = slowly
        task = asyncio.create_task(pool.copyIn(IN, endless()))
        for count in range(1, 6):
            # Two lie with the worker, and one waits to be let in.
            await until(lambda n=count: len(asked) == n + 3, "the next block")
            for _ in range(100):
                await asyncio.sleep(0)
            assert (len(asked), len(taken)) == (count + 3, count)
            gate.release()
        task.cancel()
        for _ in range(10):
            gate.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        await alone(pool)
    assert item() == 0


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_source_that_fails(pg_url, item, asynchronous):
    """What the source raises arrives as it is, and nothing is copied."""

    def lines():
        yield LINES
        raise KeyError("mine")

    async def later():
        for block in lines():
            yield block

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        with pytest.raises(KeyError, match="mine"):
            await pool.copyIn(IN, later() if asynchronous else lines())
        assert item() == 0
        assert pool.stats().busy == 0
        await alone(pool)
        assert pool.stats().opened == 1


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_bad_lines(pg_url, item, asynchronous):
    """What the server refuses arrives as its error, and nothing is copied."""

    def lines():
        yield b"1\tone\n"
        yield b"no number\tx\n"

    async def later():
        for block in lines():
            yield block

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            await pool.copyIn(IN, later() if asynchronous else lines())
        assert item() == 0
        await alone(pool)


async def test_no_bytes(pg_url, item):
    """A source that gives text is refused with what to do, and nothing is copied."""

    async def later():
        yield "1\tone\n"

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        for source in (["1\tone\n"], later()):
            with pytest.raises(TypeError, match="gave str, not bytes"):
                await pool.copyIn(IN, source)
        assert item() == 0
        await alone(pool)


async def test_cancelled_while_the_source_rests(pg_url, item):
    """Cancelled while the source has nothing, the COPY is rolled back."""
    started = asyncio.Event()

    async def resting():
        yield b"1\tone\n"
        started.set()
        await asyncio.Event().wait()

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        task = asyncio.create_task(pool.copyIn(IN, resting()))
        await started.wait()
        (running,) = pool.snapshot().running
        assert (running.kind, running.label) == ("copy", IN)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.stats().busy == 0
        assert item() == 0
        assert pool.stats().opened == 1
        await alone(pool)


async def test_lost_connection(pg_url, item, postgres):
    """A connection lost in the middle is ConnectionLost, and nothing is copied."""

    async def cutting(pool):
        yield b"1\tone\n"
        await until(lambda: pool.stats().busy == 1, "the COPY")
        postgres.psql(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where query like 'copy item%' and pid <> pg_backend_pid()"
        )
        while True:
            yield b"2\ttwo\n" * 10_000

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        assert isinstance(await outcome(pool.copyIn(IN, cutting(pool))), ConnectionLost)
        assert item() == 0
        await alone(pool)


async def test_nested(pg_url, item):
    """A source that needs the very connection it feeds is refused, not hung."""

    async def asking(pool):
        await pool.runQuery("select 1")
        yield b"1\tone\n"

    async with ConnectionPool(pg_url, cp_max=1) as pool:
        with pytest.raises(NestedAcquire):
            await pool.copyIn(IN, asking(pool))
        assert item() == 0
        await alone(pool)


async def test_other_databases(script):
    """A database without COPY says so at once, and what to do instead."""
    async with ConnectionPool(script, cp_max=1) as pool:
        with pytest.raises(ConfigurationError, match=r"no COPY.*Read with stream"):
            pool.copyOut("copy x to stdout")
        with pytest.raises(ConfigurationError, match="executemany"):
            await pool.copyIn("copy x from stdin", b"")
    assert script.history == []


def test_end_of_the_loop(pg_url, item):
    """A loop that ends in the middle of a COPY leaves nothing of it."""
    pool = ConnectionPool(pg_url, cp_max=1)

    async def resting():
        yield b"1\tone\n"
        await asyncio.Event().wait()

    async def main():
        task = asyncio.create_task(pool.copyIn(IN, resting()))
        while not pool.stats().busy:
            await asyncio.sleep(0.001)
        return task

    asyncio.run(main())
    wait_until(lambda: pool.stats().busy == 0, "the worker to be given back")
    assert item() == 0
    pool.close()
