"""A pool that is closed at any step of its work, from anywhere."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading

import pytest

from enterprise import ConnectionPool, PoolClosed
from enterprise.errors import PoolError
from tests.enterprise.faults.watch import Answers, living_loop
from tests.enterprise.helpers import (
    PATIENCE_SECONDS,
    names,
    outcome,
    reached,
    until,
)
from tests.scripted import OperationalError

STEPS = ["connect", "cursor", "execute", "fetch", "commit", "rollback", "close"]


def at(step, script):
    """Have the next *step* hang; return the statement that leads there."""
    script.will(step, "hang there; rows 1")
    return "fail first" if step == "rollback" else "rows 1"


async def closing(pool, how, **options):
    """Close in one of several ways."""
    if how == "thread":
        await asyncio.to_thread(pool.close, **options)
    elif how == "twice":
        await asyncio.gather(pool.close(**options), pool.close(**options))
    else:
        await pool.close(**options)


@pytest.mark.parametrize("how", ["loop", "thread", "twice"])
@pytest.mark.parametrize("step", STEPS)
async def test_close_lets_every_step_end(script, step, how):
    """Whatever step a call is at when the pool is closed: it is done, so is what waits,
    and no connection is left.
    """
    answers = Answers()
    async with living_loop():
        pool = ConnectionPool(script, cp_max=1)
        answers.of(pool.runQuery(at(step, script)))
        for _ in range(3):
            answers.of(pool.runQuery("rows 2"))
        closed = asyncio.create_task(closing(pool, how))
        await reached(script.gate("there").reached)
        await until(lambda: "closing" in repr(pool), "the pool to be closing")
        assert isinstance(await outcome(pool.runQuery("rows 3")), PoolClosed)
        assert not closed.done()
        script.release()
        await closed
        first, *others = await answers.all()
    if step == "rollback":
        assert isinstance(first, OperationalError)
    else:
        assert first == [(1,)]
    assert others == [[(2,)]] * 3
    assert (script.open, pool.stats().connections) == (0, 0)


@pytest.mark.parametrize("how", ["loop", "thread", "twice"])
@pytest.mark.parametrize("step", STEPS[:-1])
async def test_close_leaves_a_stuck_step(script, monkeypatch, caplog, step, how):
    """A step that does not end is left behind in time: every call has its answer, which
    claims nothing about a COMMIT that may still be done.
    """
    monkeypatch.setattr("enterprise.ending.ABORT_SECONDS", 0.05)
    answers = Answers()
    async with living_loop():
        pool = ConnectionPool(script, cp_max=1)
        answers.of(pool.runOperation(at(step, script)))
        for _ in range(3):
            answers.of(pool.runQuery("rows 2"))
        await reached(script.gate("there").reached)
        await closing(pool, how, timeout=0)
        first, *others = await answers.all()
        assert all(isinstance(error, PoolClosed) for error in others)
        if step == "rollback":
            assert isinstance(first, PoolError | OperationalError)
        elif step == "commit":
            assert "rolled back" not in str(first)
            assert "not known" in str(first)
        else:
            assert isinstance(first, PoolClosed)
        script.release()
        await until(lambda: pool.stats().connections == 0, "the late end")
        await until(lambda: script.open == 0, "the late close")
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert sum("go on in their driver" in text for text in told) == 1


@pytest.mark.parametrize("way", ["awaited", "forgotten"])
async def test_close_from_a_callback(shop, way):
    """A callback may close the pool that it is called by; what was taken is done."""
    closed = []

    def close(rows):
        closed.append(pool.close())
        return closed[0] if way == "awaited" else rows

    async with living_loop():
        pool = ConnectionPool(shop.url, cp_max=2)
        answers = Answers()
        answers.of(pool.runQuery("select 1").addCallback(close))
        for _ in range(20):
            answers.of(pool.runQuery("select 2"))
        first, *others = await answers.all()
        await closed[0]
    assert way == "awaited" or first == [(1,)]
    assert not isinstance(first, BaseException)
    assert others == [[(2,)]] * 20
    assert pool.stats().connections == 0


async def test_close_from_a_worker(shop):
    """A function in a worker may close its own pool: it is refused, or it is done, but
    the pool ends, and so does the function.
    """

    def work(txn):
        pool.close(timeout=0.1)
        return txn.execute("select 1").fetchone()

    async with living_loop():
        pool = ConnectionPool(shop.url, cp_max=2)
        await outcome(pool.runInteraction(work))
        await pool.close()
    assert pool.stats().connections == 0
    assert names(shop) == ["hammer", "saw"]


async def test_close_while_a_crowd_comes(shop):
    """Calls that come while another thread closes the pool are done or refused, each
    once; a refused one was never begun.
    """
    sql = shop.sql("insert into item values (?, 'x')")
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        async with living_loop():
            pool = ConnectionPool(shop.url, cp_max=3)
            answers, go = Answers(), threading.Event()
            closer = asyncio.create_task(asyncio.to_thread(go.wait, PATIENCE_SECONDS))
            closer.add_done_callback(lambda _: None)
            ending = threading.Thread(target=lambda: go.wait(20) and pool.close())
            ending.start()
            for number in range(100, 400):
                answers.of(pool.runOperation(sql, (number,)))
                if number == 200:
                    go.set()
                if number % 10 == 0:
                    await asyncio.sleep(0)
            found = await answers.all()
            await closer
            await asyncio.to_thread(ending.join, PATIENCE_SECONDS)
    finally:
        sys.setswitchinterval(switch)
    done = [answer for answer in found if answer is None]
    assert all(isinstance(each, PoolClosed) for each in found if each is not None)
    assert len(names(shop)) == 2 + len(done)
