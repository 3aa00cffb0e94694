"""What happens to one call leaves the next ones alone, and the pool as it was."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import sys
import threading
import time
import weakref

import pytest

from enterprise import ConnectionPool, PoolTimeout, TransactionEnded
from enterprise.jobs import shown
from tests.enterprise.faults.watch import living_loop
from tests.enterprise.helpers import PATIENCE_SECONDS, outcome, reached, until
from threadpool import ticker


def worker_of(pool):
    """Return the pool's only worker."""
    (worker,) = (w for crew in pool._office.crews.values() for w in crew.team.crew())
    return worker


def executed(script):
    """Return the statements that reached the driver."""
    return [what[0] for _, verb, what in script.history if verb == "execute"]


def losing(pool):
    """Have the pool's driver cut connections off; return what tells that it has."""
    severed = threading.Event()

    def sever(raw):
        raw.lost = True
        severed.set()

    pool.driver.sever = sever
    return severed


# -- Cutting off -------------------------------------------------------------------


class LateGuard:
    """A worker's guard that the canceller gets only when the job was concluded."""

    def __init__(self, guard, concluded):
        self._guard = guard
        self._concluded = concluded
        self.late = threading.Event()
        self.armed = False

    def __enter__(self):
        if self.armed and "canceller" in threading.current_thread().name:
            self.late.set()
            assert self._concluded.wait(PATIENCE_SECONDS)
        self._guard.acquire()

    def __exit__(self, *_):
        self._guard.release()


@pytest.mark.parametrize("verb", ["sever", "release"])
async def test_canceller_that_comes_too_late(script, verb):
    """A canceller that had to wait until the job was concluded neither cuts its
    connection off nor tells its caller once more.
    """
    pool = ConnectionPool(script, cp_max=1, cp_grace=30)
    async with pool:
        severed, seen = losing(pool), []
        call = pool.runQuery("hang a; rows 7")
        await reached(script.gate("a").reached)
        worker, concluded, go_on = worker_of(pool), threading.Event(), threading.Event()
        worker.guard = guard = LateGuard(worker.guard, concluded)
        ended = pool._office.tally.ended

        def hold(job):
            concluded.set()
            assert go_on.wait(PATIENCE_SECONDS)
            ended(job)

        pool._office.tally.ended = hold
        guard.armed = True
        call.cancel()

        def late():
            getattr(worker, verb)(call)
            seen.append(call.released)
            go_on.set()

        thread = threading.Thread(target=late, name="late canceller")
        thread.start()
        await reached(guard.late)
        script.gate("a").open()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        thread.join(PATIENCE_SECONDS)
        del pool._office.tally.ended
        assert seen == [False]
        assert not severed.is_set()
        assert await pool.runQuery("rows 8") == [(8,)]
        assert (pool.stats().opened, pool.stats().lost) == (1, 0)


async def test_new_connection_that_was_cut_off(script):
    """A connection opened anew for a call that is cancelled, and cut off at that very
    moment, serves nobody: the next call gets another one.
    """
    pool = ConnectionPool(script, cp_max=1, cp_grace=0.02)
    async with pool:
        severed = losing(pool)
        await pool.runQuery("rows 1")
        await until(lambda: pool.stats().idle == 1, "the worker to rest")
        upkeep = worker_of(pool).upkeep
        upkeep._expires, upkeep.attention = 0.0, True
        script.will("connect", "hang c")
        opened = pool._office.opened

        def slowly():
            assert severed.wait(PATIENCE_SECONDS)
            opened()

        upkeep.opened = pool._office.opened = slowly
        call, neighbour = pool.runQuery("rows 2"), pool.runOperation("neighbour")
        await reached(script.gate("c").reached)
        call.cancel()
        script.release()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        pool._office.opened = opened
        assert await outcome(neighbour) is None
        assert executed(script).count("neighbour") == 1


# -- Sessions ----------------------------------------------------------------------


async def test_order_when_a_connection_cannot_be_renewed(script):
    """Writes keep their order although the first one's connection must be replaced and
    the first attempt fails.
    """
    pool = ConnectionPool(script, cp_max=1, cp_check=0)
    async with pool:
        await pool.runQuery("rows 1")
        hold = pool.runQuery("hang g")
        await reached(script.gate("g").reached)
        writes = [pool.runOperation(f"write {n}") for n in range(6)]
        upkeep = worker_of(pool).upkeep
        upkeep.attention, upkeep._expires = True, 0.0
        script.will("connect", "fail once")
        script.release()
        await asyncio.gather(hold, *writes)
        said = [text for text in executed(script) if text.startswith("write")]
        assert said == [f"write {n}" for n in range(6)]


async def test_session_that_begins_transactions_by_itself(database):
    """A function that leaves its connection without autocommit spoils one call at the
    most: the next ones have another connection.
    """

    def spoil(raw):
        if database.kind == "postgres":
            raw.autocommit = False
        else:
            raw.isolation_level = "DEFERRED"

    async with ConnectionPool(database.url, cp_max=1) as pool:
        await pool.runOperation("create table t (a integer)")
        await pool.runWithConnection(spoil, autocommit=True)
        first = await outcome(pool.runOperation("insert into t values (1)"))
        assert first is None or isinstance(first, TransactionEnded)
        await pool.runOperation("insert into t values (2)")
        assert (2,) in await pool.runQuery("select a from t")


# -- Functions that raise ----------------------------------------------------------


async def test_closing_function_that_exits(script, expect_errors):
    """A cp_closefun that raises SystemExit costs one connection, not the worker."""

    def leave(raw):
        sys.exit("closing")

    options = {"cp_max": 1, "cp_check": 0, "cp_closefun": leave}
    pool = ConnectionPool(script, **options)
    async with pool:
        await pool.runQuery("rows 1")
        await until(lambda: pool.stats().idle == 1, "the worker to rest")
        upkeep = worker_of(pool).upkeep
        upkeep._expires, upkeep.attention = 0.0, True
        assert await pool.runQuery("rows 2") == [(2,)]
        assert (script.open, pool.stats().connections) == (1, 1)
    assert script.open == 0
    assert pool.stats().connections == 0
    assert [r.name for r in expect_errors] == ["enterprise.upkeep"] * 2
    expect_errors.clear()


async def test_driver_that_exits_while_closing(script, caplog):
    """A driver whose close() raises no ordinary exception costs one connection."""
    pool = ConnectionPool(script, cp_max=1)
    async with pool:
        await pool.runQuery("rows 1")
        await until(lambda: pool.stats().idle == 1, "the worker to rest")
        upkeep = worker_of(pool).upkeep
        upkeep._expires, upkeep.attention = 0.0, True
        close = pool.driver.close

        def leave(raw):
            pool.driver.close = close
            close(raw)
            raise SystemExit("closing")

        pool.driver.close = leave
        assert await pool.runQuery("rows 2") == [(2,)]
        assert pool.stats().connections == 1
    assert "closed badly: closing" in caplog.text


class Proxy:
    """Stands for a function, and raises where it is asked for its name in vain."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *args):
        return self._function(*args)

    def __getattr__(self, name):
        if name == "__qualname__":
            raise RuntimeError("Working outside of request context.")
        raise AttributeError(name)


class Unreadable(str):
    """A statement whose own text-making fails."""

    __slots__ = ()

    def __str__(self):
        raise RuntimeError("no text")


async def test_name_that_cannot_be_read(script):
    """Where a function does not tell its name, those behind it still time out in time,
    and the pool still closes.
    """
    pool = ConnectionPool(script, cp_max=1, cp_timeout=0.05)
    running = pool.runInteraction(Proxy(lambda txn: txn.execute("hang g")))
    await reached(script.gate("g").reached)
    waiting = [pool.runInteraction(Proxy(print)), pool.runQuery("rows 1")]
    done, _ = await asyncio.wait(waiting, timeout=PATIENCE_SECONDS / 3)
    script.release()
    assert len(done) == 2
    for call in waiting:
        assert isinstance(await outcome(call), PoolTimeout)
    await running
    assert await pool.close() == ()


def test_label_of_a_statement_that_cannot_be_read():
    """The text shown of a statement is the string's own, whatever its class makes."""
    assert shown(Unreadable("select  1")) == "select 1"
    assert shown(Proxy(print)) == "Proxy"


# -- Time --------------------------------------------------------------------------


@pytest.mark.parametrize("endless", [math.inf, float(sys.maxsize)])
async def test_endless_limits(script, endless, monkeypatch):
    """A limit that means `never` keeps nobody else's: other calls still end in time."""
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    options = {"cp_max": 2, "cp_grace": 0.02, "cp_connect_timeout": endless}
    async with ConnectionPool(script, **options) as pool:
        limit = endless if math.isfinite(endless) else None
        first = pool.runQuery("hang a", timeout=limit)
        await reached(script.gate("a").reached)
        await until(lambda: died or ticker._ticker._asleep, "the ticker to sleep")
        second = pool.runQuery("hang b", timeout=0.05)
        done, _ = await asyncio.wait([second], timeout=5)
        script.release()
        assert (len(done), died) == (1, [])
        assert isinstance(await outcome(second), TimeoutError)
        await first


async def test_deadline_that_was_met_keeps_nothing(script):
    """Once a pool is closed and forgotten, the alarm of a deadline long met does not
    keep it in memory; neither do the timers of its close.
    """
    pool = ConnectionPool(script, cp_max=1, cp_connect_timeout=0.01)
    call = pool.runQuery("hang g", timeout=3600)
    await reached(script.gate("g").reached)
    deadlines = pool._office._deadlines
    deadlines._next = 0.0  # As if the first look had come: it finds the next deadline.
    deadlines._ring()
    assert deadlines._next > time.monotonic() + 3000
    script.release()
    await call
    assert await pool.close(3600) == ()
    office = weakref.ref(pool._office)
    del pool, call, deadlines

    def gone():
        gc.collect()
        return office() is None

    await until(gone, "the pool to be freed")


# -- The loop ----------------------------------------------------------------------


async def test_loop_lives_while_a_call_of_a_lease_is_stopped(script, caplog):
    """Leaving a transaction's block while a call in it is being cancelled, and the
    server does not answer, does not keep the loop.
    """
    caplog.set_level(logging.CRITICAL)
    asked, answer = threading.Event(), threading.Event()

    def cancel(raw):
        asked.set()
        answer.wait(PATIENCE_SECONDS / 10)
        script.release()

    pool = ConnectionPool(script, cp_max=1, cp_grace=30)
    pool.driver.cancels, pool.driver.cancel = True, cancel

    async def work():
        async with pool.transaction() as txn:
            running = txn.execute("hang a")
            others = [txn.execute("rows 1") for _ in range(3)]
            await reached(script.gate("a").reached)
            running.cancel()
            await reached(asked)
            # The answer comes only when the loop goes round after the block's end.
            asyncio.get_running_loop().call_later(0.01, answer.set)
            raise ValueError(others)

    async with pool, living_loop():
        assert isinstance(await outcome(work()), ValueError)
