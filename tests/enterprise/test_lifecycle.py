"""How a pool starts and ends: loops, threads, close, the interpreter's exit."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from enterprise import ConnectFailed, ConnectionPool, PoolClosed
from enterprise.errors import LoopClosed
from tests.enterprise.helpers import names, outcome, python, reached, until

# -- start -----------------------------------------------------------------------------


@pytest.mark.parametrize("minimum", [0, 1, 3])
async def test_start(shop, minimum):
    """`start` fires when `cp_min` connections are open; nobody must call it."""
    pool = ConnectionPool(shop.url, cp_min=minimum, cp_max=4)
    assert await pool.start() is None
    assert pool.stats().connections == minimum
    assert await pool.start() is None
    assert await pool.runQuery("select 1") == [(1,)]
    await pool.close()


async def test_start_fails(script):
    """`start` fails with the first connect error; the pool can be used later."""
    script.will("connect", "fail no route")
    pool = ConnectionPool(script, cp_min=1, cp_max=1)
    with pytest.raises(ConnectFailed, match="no route"):
        await pool.start()
    assert await pool.runQuery("rows 1") == [(1,)]
    assert await pool.start() is None
    await pool.close()


async def test_failed_start_in_async_with(script):
    """`async with` tells the connect error, and the pool can still be closed."""
    script.will("connect", "fail no route")
    pool = ConnectionPool(script, cp_min=1)
    with pytest.raises(ConnectFailed):
        async with pool:
            raise AssertionError
    await pool.close()
    assert script.open == 0


async def test_start_again(script):
    """Who starts the pool again after connect errors gets all its connections."""
    script.will("connect", *[f"hang {n}; fail no route" for n in range(3)])
    pool = ConnectionPool(script, cp_min=3, cp_max=3)
    started = outcome(pool.start())
    for n in range(3):
        await reached(script.gate(str(n)).reached)
    script.release()
    while await started is not None:
        started = outcome(pool.start())
    assert pool.stats().connections == script.open == 3
    await pool.close()


async def test_close_while_starting(script, monkeypatch):
    """Whoever waits for the start is told when the pool is closed first."""
    monkeypatch.setattr("enterprise.ending.ABORT_SECONDS", 0.01)
    script.will("connect", "hang here")
    pool = ConnectionPool(script, cp_min=1)
    started = pool.start()
    await reached(script.gate("here").reached)
    await pool.close(timeout=0)
    assert isinstance(await outcome(started), PoolClosed)
    script.release()
    await until(lambda: script.calls["close"], "the late connection to be closed")


async def test_start_after_close(shop):
    """A closed pool says so when it is started."""
    pool = ConnectionPool(shop.url, cp_min=1)
    await pool.close()
    with pytest.raises(PoolClosed):
        await pool.start()


# -- close -----------------------------------------------------------------------------


async def test_close_finishes_the_work(shop):
    """`close` lets all work end that was taken, and then closes all connections."""
    pool = ConnectionPool(shop.url, cp_max=2)
    sql = shop.sql("insert into item values (?, 'x')")
    work = [pool.runOperation(sql, (n,)) for n in range(10, 60)]
    closed = pool.close()
    assert "closing" in repr(pool)
    assert await asyncio.gather(*work) == [None] * 50
    assert await closed == ()
    assert pool.stats().connections == 0
    assert len(names(shop)) == 52


async def test_close_finishes_writes_of_readers(shop):
    """A query that turns out to write is finished, too, when the pool is closing."""
    pool = ConnectionPool(shop.url, cp_max=3)
    work = [
        pool.runQuery(f"insert into item values ({n}, 'x') returning id")
        for n in range(10, 30)
    ]
    closed = pool.close()
    assert await asyncio.gather(*work) == [[(n,)] for n in range(10, 30)]
    await closed


async def test_close_again(shop):
    """`close` may be called twice, at the same time, and from another task."""
    pool = ConnectionPool(shop.url)
    await pool.runQuery("select 1")
    work = pool.runQuery("select 2")

    async def close():
        return await pool.close()

    done = await asyncio.gather(pool.close(), pool.close(), close(), close())
    assert done == [()] * 4
    assert await work == [(2,)]
    assert await pool.close() == ()
    assert repr(pool).endswith(" closed, 0 busy, 0 idle, 0 waiting>")


async def test_close_unused(shop):
    """A pool that was never used can be closed."""
    pool = ConnectionPool(shop.url)
    await pool.close()
    assert "closed" in repr(pool)


async def test_call_after_close(shop):
    """A call after `close` fails with PoolClosed at once, not by raising."""
    pool = ConnectionPool(shop.url)
    await pool.runQuery("select 1")
    closed = pool.close()
    for call in (
        pool.runQuery("select 1"),
        pool.runOperation("select 1"),
        pool.runResult("select 1"),
        pool.runScript("select 1"),
        pool.runInteraction(lambda txn: 1),
        pool.runWithConnection(lambda connection: 1),
    ):
        assert call.done()
        assert isinstance(call.exception(), PoolClosed)
    await closed


def test_close_without_a_loop(shop):
    """`close` in a thread without a loop blocks until all connections are closed."""
    pool = ConnectionPool(shop.url, cp_min=2)

    async def use():
        await pool.start()
        assert pool.stats().connections == 2

    asyncio.run(use())
    closer = threading.Thread(target=pool.close)
    closer.start()
    closer.join(30)
    assert pool.stats().connections == 0
    assert "closed" in repr(pool)


async def test_close_while_others_close(script):
    """A thread without a loop and a task may close at the same time."""
    pool = ConnectionPool(script, cp_max=1)
    work = pool.runQuery("hang here; rows 1")
    await reached(script.gate("here").reached)
    closed = pool.close()
    elsewhere = asyncio.create_task(asyncio.to_thread(pool.close))
    script.gate("here").open()
    assert await work == [(1,)]
    await asyncio.gather(closed, elsewhere)


async def test_close_stops_what_takes_too_long(endless):
    """After the timeout running statements are stopped, and waiting ones refused."""
    pool = endless.pool(cp_max=1)
    running = pool.runQuery(endless.sql)
    await endless.started()
    waiting = pool.runQuery("select 1")
    stopped = await pool.close(timeout=0)
    assert [sql.split()[0] for sql in stopped] == ["select", endless.sql.split()[0]]
    assert await pool.close() == stopped
    for work in (running, waiting):
        assert isinstance(await outcome(work), PoolClosed)
    assert pool.stats().connections == 0
    await endless.ended()


async def test_close_with_a_stuck_driver(script, caplog, monkeypatch):
    """A driver that does not react is left to itself, with a WARNING; close returns."""
    monkeypatch.setattr("enterprise.ending.ABORT_SECONDS", 0.01)
    pool = ConnectionPool(script, cp_max=1)
    stuck = pool.runQuery("hang here")
    await reached(script.gate("here").reached)
    await pool.close(timeout=0)
    assert isinstance(await outcome(stuck), PoolClosed)
    told = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "1 statement(s) go on" in told[0].getMessage()
    assert "closed" in repr(pool)
    script.release()
    await until(lambda: script.open == 0, "the connection to be closed after all")


def test_close_with_a_stuck_driver_without_a_loop(script, caplog, monkeypatch):
    """The same holds where no loop runs: close returns, and the job is told."""
    monkeypatch.setattr("enterprise.ending.ABORT_SECONDS", 0.01)
    pool = ConnectionPool(script, cp_max=1)

    async def use():
        stuck = pool.runQuery("hang here")
        await reached(script.gate("here").reached)
        await asyncio.to_thread(pool.close, 0)
        assert isinstance(await outcome(stuck), PoolClosed)

    asyncio.run(use())
    assert "go on in their driver" in caplog.text
    script.release()


# -- loops -----------------------------------------------------------------------------


def test_two_successive_loops(shop):
    """One pool works in two successive asyncio.run, with the same connections."""
    pool = ConnectionPool(shop.url, cp_max=1)

    async def use():
        return await pool.runQuery("select count(*) from item")

    assert asyncio.run(use()) == asyncio.run(use()) == [(2,)]
    assert pool.stats().opened == 1
    pool.close()


def test_two_loops_at_a_time(shop):
    """Two threads with a loop each share a pool; each gets its own answers."""
    pool = ConnectionPool(shop.url, cp_max=4)
    start = threading.Barrier(2)
    found = {}

    async def use(who):
        here = threading.get_ident()
        start.wait(30)
        seen = []
        sql = shop.sql("select ? + 0")
        for n in range(100):
            work = pool.runQuery(sql, (who * 1000 + n,))
            work.addCallback(lambda rows: (threading.get_ident(), rows[0][0]))
            seen.append(work)
        answers = await asyncio.gather(*seen)
        found[who] = answers == [(here, who * 1000 + n) for n in range(100)]

    threads = [threading.Thread(target=asyncio.run, args=(use(who),)) for who in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {1: True, 2: True}
    pool.close()


def test_loop_ends_with_work_in_flight(script):
    """What is pending when its loop ends fails with LoopClosed, queued or running."""
    pool = ConnectionPool(script, cp_max=1)
    told = []

    async def leave():
        for sql in ("hang here; rows 1", "rows 2", "rows 3"):
            pool.runQuery(sql).addBoth(lambda result: told.append(result) or None)
        await reached(script.gate("here").reached)

    asyncio.run(leave())
    assert [failure.check(LoopClosed) for failure in told] == [LoopClosed] * 3
    script.release()

    async def go_on():
        return await pool.runQuery("rows 4")

    assert asyncio.run(go_on()) == [(4,)]
    pool.close()
    assert script.calls["execute"] == 2  # Those that waited were never begun.


def test_bare_loop_close(script, caplog):
    """After a bare loop.close() there is one WARNING with the count, and no hang."""
    pool = ConnectionPool(script, cp_max=1)
    loop = asyncio.new_event_loop()

    async def leave():
        pool.runQuery("hang here; rows 1")
        await reached(script.gate("here").reached)

    loop.run_until_complete(leave())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    script.release()
    pool.close()
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 1
    assert "1 finished" in told[0]


# -- the interpreter's exit ------------------------------------------------------------

FORGETFUL = """
    import asyncio, sys, threading
    from enterprise import ConnectionPool

    kind, url = sys.argv[1:]
    begun = threading.Event()
    long = (
        "select pg_sleep(600)" if "postgres" in url else
        "with recursive n(i) as (select 1 union all select i + 1 from n) "
        "select count(*) from n"
    )

    def work(txn):
        begun.set()
        txn.execute(long)

    async def main():
        global pool, job
        pool = ConnectionPool(url, cp_min=2)
        await pool.start()
        await pool.runQuery("select 1")
        if kind == "busy":
            job = pool.runInteraction(work)
            job.addErrback(lambda failure: None)
            await asyncio.to_thread(begun.wait)

    asyncio.run(main())
    print("over")
"""


@pytest.mark.parametrize("kind", ["idle", "busy"])
def test_forgotten_pool(database, kind):
    """A forgotten pool, idle or busy, keeps no interpreter from its exit, silently."""
    assert python(FORGETFUL, kind, database.url) == (0, "over\n", "")
