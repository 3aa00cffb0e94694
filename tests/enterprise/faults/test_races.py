"""Races that pools of connections have had, each forced to happen here.

Most are from the release notes and tickets (#) of psycopg_pool, one is asyncpg's. Not
all can happen in a house where a connection and its thread are one:

    ticket         what happened there                   why not here, or where tested
    -------------  ------------------------------------  -----------------------------
    #1124          a connection whose close() returns    a function's close() does
                   it to the pool went round for ever    nothing
    (tests)        a connection returned twice, or to    nobody returns connections
                   the wrong pool
    #219           the queue belonged to another loop    jobs know theirs: test_filling
    #482           an old connection survived check()    test_life.test_lifetime
    #954           threads of a pool that was never      daemons and an exit hook:
                   closed hang at exit                   test_lifecycle
    #1208          cancel during the rollback            test_random_cancels
    (3.0.3)        a pool of 0 connections hangs         test_options: it is refused
"""

from __future__ import annotations

import asyncio
import time

from enterprise import (
    ConnectionLost,
    ConnectionPool,
    PoolTimeout,
)
from tests.enterprise.faults.watch import Answers, living_loop
from tests.enterprise.helpers import balance, outcome, reached, until
from threadpool.home import here


def resting(pool, count=1):
    """Wait until so many workers have nothing to do."""
    return until(lambda: pool.stats().idle == count, "the workers to rest")


def executed(script, number=None):
    """Return the statements that reached the driver, on one connection or any."""
    return [
        what[0]
        for connection, verb, what in script.history
        if verb == "execute" and number in (None, connection)
    ]


# -- Checks ------------------------------------------------------------------------


async def test_cancel_during_the_check(script):
    """#1123: a call cancelled while its connection is checked ends as cancelled, its
    statement is never made, and the connection is not lost.
    """
    options = {"cp_max": 1, "cp_check": 0, "cp_good_sql": "hang check"}
    async with ConnectionPool(script, cp_grace=30, **options) as pool:
        await pool.runQuery("rows 1")
        await resting(pool)
        call = pool.runQuery("rows 2")
        await reached(script.gate("check").reached)
        call.cancel()
        script.gate("check").open()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        assert await pool.runQuery("rows 3") == [(3,)]
        assert "rows 2" not in executed(script)
        assert (pool.stats().opened, pool.stats().connections) == (1, 1)


async def test_cancel_during_a_check_that_fails(script):
    """A call cancelled while its connection is found dead ends as cancelled, at once,
    although no other connection can be opened.
    """
    options = {"cp_max": 1, "cp_check": 0, "cp_good_sql": "hang check; fail check"}
    async with ConnectionPool(script, **options) as pool:
        await pool.runQuery("rows 1")
        await resting(pool)
        call = pool.runQuery("rows 2")
        await reached(script.gate("check").reached)
        call.cancel()
        script.will("connect", *["fail away"] * 1000)
        script.gate("check").open()
        done, _ = await asyncio.wait([call], timeout=3)
        script._lines["connect"].clear()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        assert done


async def test_time_limit_during_the_check(script):
    """#1401: a call whose connection is being checked, for ever, still ends in time,
    and its worker comes back when the driver does.
    """
    options = {"cp_max": 1, "cp_check": 0, "cp_good_sql": "hang check"}
    async with ConnectionPool(script, cp_grace=0.02, **options) as pool:
        await pool.runQuery("rows 1")
        await resting(pool)
        call = pool.runQuery("rows 2", timeout=0.05)
        done, _ = await asyncio.wait([call], timeout=3)
        script.release()
        assert isinstance(await outcome(call), TimeoutError)
        assert done
        assert await pool.runQuery("rows 3") == [(3,)]
        assert "rows 2" not in executed(script)


async def test_time_limit_while_a_dead_connection_is_replaced(script):
    """#709: a call whose check failed and whose new connection does not come ends in
    time, too, and nobody runs what it wanted.
    """
    options = {"cp_max": 1, "cp_check": 0, "cp_good_sql": "rows 9"}
    async with ConnectionPool(script, cp_grace=0.02, **options) as pool:
        await pool.runQuery("rows 1")
        await resting(pool)
        script.connections[0].lost = True
        script.will("connect", "hang connect")
        call = pool.runQuery("rows 2", timeout=0.05)
        done, _ = await asyncio.wait([call], timeout=3)
        script.release()
        assert isinstance(await outcome(call), TimeoutError)
        assert done
        assert await pool.runQuery("rows 3") == [(3,)]
        assert "rows 2" not in executed(script)
        assert pool.stats().connections == 1


async def test_connection_that_failed_its_check(script):
    """#1014: a connection whose check fails is closed and serves nobody; the call gets
    another and does not notice.
    """
    options = {"cp_max": 1, "cp_check": 0, "cp_good_sql": "fail check"}
    async with ConnectionPool(script, **options) as pool:
        await pool.runQuery("rows 1")
        await resting(pool)
        assert await pool.runQuery("rows 2") == [(2,)]
        assert script.connections[0].closed
        assert executed(script, 0) == ["rows 1", "fail check"]
        assert executed(script, 1) == ["rows 2"]


async def test_check_leaves_no_transaction(script):
    """#144: a check leaves no transaction open on the connection it asked."""
    options = {"cp_max": 1, "cp_keepalive": 0.005, "cp_good_sql": "rows 9"}
    async with ConnectionPool(script, **options) as pool:
        await pool.runQuery("rows 1")
        await until(lambda: executed(script).count("rows 9") > 2, "three checks")
    verbs = [verb for _, verb, what in script.history if verb != "fetch"]
    asked = [
        n for n, entry in enumerate(script.history) if entry[2] == ("rows 9", None)
    ]
    assert [script.history[n + 2][1] for n in asked] == ["rollback"] * len(asked)
    assert verbs.count("rollback") == len(asked)


# -- Waiting -----------------------------------------------------------------------


async def test_everybody_leaves_when_a_connection_comes_free(script):
    """#503: fifty who wait are cancelled in the turn in which their connection comes
    free; it is not lost with one of them.
    """
    async with living_loop(), ConnectionPool(script, cp_max=1, cp_min=1) as pool:
        for turn in range(10):
            busy = pool.runQuery(f"hang {turn}; rows 1")
            answers = Answers()
            waiting = [answers.of(pool.runOperation("never")) for _ in range(50)]
            await reached(script.gate(str(turn)).reached)
            script.gate(str(turn)).open()
            for call in waiting:
                call.cancel()
            for result in await answers.all():
                assert isinstance(result, asyncio.CancelledError | None)
            assert await busy == [(1,)]
            assert await pool.runQuery("rows 2") == [(2,)]
        stats = pool.stats()
        assert (stats.opened, stats.unfinished) == (1, 0)
        assert balance(stats)[0] == balance(stats)[1]


async def test_time_is_over_when_the_connection_arrives(script):
    """A call that waited too long for a connection never runs on it when it arrives
    after all; the next one does, and no second connection is opened.
    """
    script.will("connect", "hang connect")
    async with ConnectionPool(script, cp_max=1) as pool:
        call = pool.runOperation("never", timeout=0.02)
        await reached(script.gate("connect").reached)
        assert isinstance(await outcome(call), PoolTimeout)
        waiting = pool.runQuery("rows 2")
        script.release()
        assert await waiting == [(2,)]
        assert executed(script) == ["rows 2"]
        assert pool.stats().opened == 1


# -- In the turn between an answer and its task ----------------------------------------


def block_until(condition):
    """Keep the loop from turning until *condition* holds, which others bring about."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "what the test waited for did not happen"


async def cancel_right_after(script, pool, task, first):
    """Cancel *task* in the very turn of the loop in which its answer comes.

    The answer, which *first* brings about, and that of another call, whose callback
    cancels, are taken in together.
    """
    pending = here()._queue
    other = pool.runQuery("hang other; rows 1")
    other.addCallback(lambda rows: (task.cancel(), rows)[1])
    await reached(script.gate("other").reached)
    first()
    block_until(lambda: len(pending) == 1)
    script.gate("other").open()
    block_until(lambda: len(pending) == 2)
    assert await other == [(1,)]


async def block(pool):
    """Run one statement in a block."""
    async with pool.transaction() as txn:
        return await txn.runQuery("rows 7")


async def test_cancel_between_the_beginning_of_a_block_and_its_task(script):
    """A task cancelled when its block has begun and it has not been told yet gives
    its worker back: nobody else would.
    """
    script.will("cursor", "hang begin")
    async with ConnectionPool(script, cp_max=2) as pool:
        task = asyncio.create_task(block(pool))
        gate = script.gate("begin")
        await reached(gate.reached)
        await cancel_right_after(script, pool, task, gate.open)
        error = await outcome(task)  # Kept: its traceback keeps the block's frames.
        assert isinstance(error, asyncio.CancelledError)
        for _ in range(50):
            await asyncio.sleep(0)
        held = [worker.job for worker in pool._office.writer.team.crew()]
        for lease in held:
            if lease is not None:  # Let the pool close; the test has failed.
                lease.forsake()
        assert held == [None, None]
        assert script.calls["commit"] == 1


async def test_cancel_between_an_unknown_commit_and_its_task(script):
    """A task cancelled when the news is on its way that nobody knows what became of
    its COMMIT is told just that: "cancelled" would say that nothing was committed.
    """
    script.will("commit", "hang commit")
    async with ConnectionPool(script, cp_max=2, cp_grace=0.01) as pool:

        async def insert():
            await pool.runOperation("anything", timeout=0.02)

        task = asyncio.create_task(insert())
        await reached(script.gate("commit").reached)
        await cancel_right_after(script, pool, task, lambda: None)
        error = await outcome(task)
        script.release()
        assert isinstance(error, ConnectionLost)
        assert error.outcome == "unknown"
