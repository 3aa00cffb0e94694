"""Leaving a stream early, in every way there is: the worker comes back at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

from enterprise import ConnectionPool
from enterprise.errors import LoopClosed
from tests.enterprise.forking import PRELUDE, forking
from tests.enterprise.helpers import outcome, python, reached, until
from tests.enterprise.leases import alone
from tests.postgres import wait_until
from threadpool.defer import Deferred

MANY = (
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000) "
    "select i from n"
)
TEN = "rows 1 2 3 4 5 6 7 8 9 10"


async def back(pool):
    """Wait until every worker was given back, on the connection it had."""
    await until(lambda: pool.stats().busy == 0, "the worker to be given back")


@pytest.mark.parametrize("held", [True, False])
async def test_break(database, held):
    """A loop that is left by `break` gives its connection back, and keeps it good."""
    async with ConnectionPool(database.url, cp_max=2) as pool:
        stream = pool.stream(MANY, batch=10)
        kept = stream if held else None
        rows, stream = stream, None
        async for _ in rows:
            rows = None
            break
        await back(pool)
        await alone(pool)
        assert pool.stats().failed == pool.stats().lost == 0
        del kept


async def test_exception(database):
    """An exception in the loop ends the stream, although its traceback is kept."""
    async with ConnectionPool(database.url, cp_max=2) as pool:

        async def stumble():
            async for _ in pool.stream(MANY, batch=10):
                raise KeyError

        error = await outcome(stumble())
        assert isinstance(error, KeyError)
        await back(pool)
        await alone(pool)


async def test_aclose(script):
    """When `aclose` returns the connection has been given back; twice is once."""
    async with ConnectionPool(script, cp_max=1) as pool:
        stream = pool.stream(TEN, batch=1)
        rows = aiter(stream)
        await anext(rows)
        await stream.aclose()
        assert pool.stats().busy == 0
        await stream.aclose()
        assert [row async for row in rows] == []
        async with contextlib.aclosing(pool.stream(TEN, batch=1)) as stream:
            async for _ in stream:
                break
        assert script.calls["rollback"] == 2
        assert script.open == 1


async def test_never_begun(script):
    """A stream that nobody reads costs nothing, and can be closed."""
    async with ConnectionPool(script, cp_max=1) as pool:
        stream = pool.stream(TEN)
        await stream.aclose()
        assert [row async for row in stream] == []
        pool.stream(TEN)
        gc.collect()
        assert script.calls["execute"] == 0


async def test_garbage(script):
    """A stream in a circle of garbage is ended when the collector finds it."""
    async with ConnectionPool(script, cp_max=1) as pool:
        circle = {"stream": pool.stream(TEN, batch=1)}
        circle["rows"] = aiter(circle["stream"])
        circle["self"] = circle
        await anext(circle["rows"])
        del circle
        gc.collect()
        await back(pool)
        assert script.calls["rollback"] == 1


async def test_cancelled_reader(endless):
    """A reader cancelled while the server works has its statement stopped there."""
    async with endless.pool(cp_max=2) as pool:

        async def read():
            async for _ in pool.stream(endless.sql):
                raise AssertionError

        task = asyncio.create_task(read())
        await endless.started()
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task
        # It was told when the server had confirmed.
        assert pool.stats().busy == 0
        await endless.ended()
        assert pool.stats().opened == 1
        await alone(pool)


async def test_cancelled_in_the_queue(script):
    """A reader cancelled while the stream waits for a worker takes it out."""
    async with ConnectionPool(script, cp_max=1) as pool:
        call = pool.runQuery("hang here")
        await reached(script.gate("here").reached)
        task = asyncio.create_task(anext(aiter(pool.stream(TEN))))
        await until(lambda: pool.stats().waiting == 1, "the stream to be queued")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.stats().waiting == 0
        script.gate("here").open()
        await call


async def test_forsaken_in_the_queue(script):
    """A stream forgotten while it waits for a worker is taken out of the queue."""
    async with ConnectionPool(script, cp_max=1) as pool:
        call = pool.runQuery("hang here")
        await reached(script.gate("here").reached)
        stream = pool.stream(TEN)
        stream._begin()
        assert pool.stats().waiting == 1
        del stream
        gc.collect()
        await until(lambda: pool.stats().waiting == 0, "the stream to be taken out")
        script.gate("here").open()
        await call
        assert script.calls["execute"] == 1


async def test_forsaken_statement(endless):
    """A statement that still runs for a forgotten stream is stopped in the server."""
    async with endless.pool(cp_max=2) as pool:
        stream = pool.stream(endless.sql)
        await stream.__aenter__()
        await endless.started()
        del stream
        gc.collect()
        await back(pool)
        await endless.ended()
        await alone(pool)


async def test_timeout_around(endless):
    """`asyncio.timeout` around a loop ends the statement, and is told as itself."""
    async with endless.pool(cp_max=2) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                async for _ in pool.stream(endless.sql):
                    raise AssertionError
        await endless.ended()
        await alone(pool)


async def test_no_cancel_for_who_rests(pg_url):
    """Leaving while the worker rests sends the server no cancel, only a rollback."""
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        asked = []
        pool.driver.cancel = asked.append
        for _ in range(5):
            async with pool.stream(MANY, batch=1) as stream:
                await until(lambda: stream._job.idleSince() < 1e9, "the worker to rest")
        assert asked == []
        assert pool.stats().opened == 1


async def test_cancelled_while_leaving(script):
    """A cancel that meets `aclose` is delivered, when the worker has come back."""
    async with ConnectionPool(script, cp_max=1) as pool:
        stream = pool.stream("hang here")
        await stream.__aenter__()
        await reached(script.gate("here").reached)
        task = asyncio.create_task(stream.aclose())
        await asyncio.sleep(0)
        task.cancel()
        script.gate("here").open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.stats().busy == 0


def test_destroyed_task(script, expect_errors):
    """A task destroyed inside its loop does not keep its worker."""
    pool = ConnectionPool(script, cp_max=1)

    async def hold():
        async for _ in pool.stream(TEN, batch=1):
            await asyncio.get_running_loop().create_future()

    async def main():
        task = asyncio.create_task(hold())
        while script.calls["fetch"] < 3:
            await asyncio.sleep(0.001)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(main())
    loop.close()
    del task, loop
    gc.collect()
    wait_until(lambda: script.calls["rollback"] == 1, "the rollback")
    pool.close()
    assert all("destroyed" in r.getMessage() for r in expect_errors)


def test_end_of_the_loop(script):
    """The end of the loop ends a stream; whoever still reads gets LoopClosed."""
    pool = ConnectionPool(script, cp_max=1)
    seen = []

    async def read():
        seen.append(await outcome(anext(aiter(pool.stream("hang here")))))

    async def main():
        deferred = Deferred.fromCoroutine(read())
        await reached(script.gate("here").reached)
        return deferred

    asyncio.run(main())
    script.gate("here").open()
    assert isinstance(seen[0], LoopClosed)
    pool.close()


def test_closed_loop(script, caplog):
    """A loop closed without a word ends its streams within a second or two."""
    pool = ConnectionPool(script, cp_max=1)
    kept = []

    async def main():
        kept.append(pool.stream(TEN, batch=1))
        await kept[0].__aenter__()
        while script.calls["fetch"] < 2:
            await asyncio.sleep(0.001)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    wait_until(lambda: script.calls["rollback"] == 1, "the rollback")
    pool.close()
    assert "An event loop was closed in the middle of a stream: rows 1 2" in caplog.text


async def test_leak_is_told(script, caplog):
    """A stream that nobody reads for long is told of, with where it was made."""
    pool = ConnectionPool(script, cp_max=1, cp_leak=0.02)
    async with pool, pool.stream(TEN, batch=1):
        while "Nobody has read" not in caplog.text:
            await asyncio.sleep(0.001)
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    last = record.getMessage().splitlines()[-1]
    assert __file__ in last
    assert last.endswith("in test_leak_is_told")


async def test_who_reads_is_no_leak(script, caplog):
    """A stream that is read for longer than cp_leak is no leak."""
    async with ConnectionPool(script, cp_max=1, cp_leak=0.02) as pool:
        script.will("fetch", "", "hang here")
        reader = asyncio.create_task(outcome(_all(pool.stream(TEN, batch=1))))
        await reached(script.gate("here").reached)
        await asyncio.sleep(0.05)  # Longer than cp_leak, and it is the driver's time.
        assert caplog.text == ""
        script.gate("here").open()
        assert len(await reader) == 10


async def _all(stream):
    return [row async for row in stream]


def test_exit_with_an_open_stream():
    """A program that ends inside a stream does not wait for it."""
    status, printed, errors = python(
        """
        import asyncio, time
        from enterprise import ConnectionPool

        pool = ConnectionPool("sqlite://")
        loop = asyncio.new_event_loop()

        async def main():
            global stream
            stream = pool.stream("values (1), (2), (3), (4), (5)", batch=1)
            await anext(aiter(stream))
            stream = pool.stream("values (1), (2), (3), (4), (5)", batch=1)
            await stream.__aenter__()

        loop.run_until_complete(main())
        loop.close()
        import atexit
        began = time.monotonic()
        atexit._run_exitfuncs()
        print(time.monotonic() - began < 3)
        """
    )
    assert (status, printed) == (0, "True\n"), errors


@forking
def test_fork(tmp_path, pg_url):
    """A child that drops its parent's stream leaves the parent's reading alone."""
    status, printed, errors = python(
        PRELUDE
        + """
    import gc

    async def main():
        pool = pool_on(path, cp_max=2)
        held = [pool.stream("select generate_series(1, 1000)", batch=10)]
        rows = [aiter(held[0])]
        assert await anext(rows[0]) == (1,)

        def drop():
            rows.clear(), held.clear()
            gc.collect()

        wait(fork(drop))
        print(len([row async for row in rows[0]]))
        await pool.close()

    asyncio.run(main())
        """,
        pg_url,
    )
    assert (status, printed) == (0, "999\n"), errors
