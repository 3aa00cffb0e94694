"""Functions and drivers that raise what they should not, and what outlives it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence

import pytest

from enterprise import ConnectFailed, ConnectionPool
from enterprise.errors import NestedAcquire, WorkerInterrupted
from tests.enterprise.faults.watch import Answers, living_loop
from tests.enterprise.helpers import PATIENCE_SECONDS, names, outcome, reached
from tests.scripted import OperationalError, Scripted
from threadpool.reactor import reactor
from threadpool.roster import SHARE
from threadpool.threads import blockingCallFromThread

ITEMS = ["hammer", "saw"]


class OwnBase(BaseException):
    """What some frameworks end their own threads with."""


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class UnprintableExit(SystemExit):
    __str__ = Unprintable.__str__
    __repr__ = Unprintable.__str__


class Untouchable(Exception):
    """Takes no attribute but those that Python itself sets."""

    def __setattr__(self, name, value):
        if name != "__traceback__":
            raise AttributeError(f"{name} cannot be set")
        super().__setattr__(name, value)


class Unhashable(Exception):
    __hash__ = None

    def __eq__(self, other):
        raise RuntimeError("not to be compared")


class Demanding(Exception):
    """Cannot be made again from its `args`."""

    def __init__(self, one, *, two):
        super().__init__()
        self.both = (one, two)


ERRORS = {
    "exit": (SystemExit(3), WorkerInterrupted),
    "interrupt": (KeyboardInterrupt(), WorkerInterrupted),
    "stop": (StopIteration(1), WorkerInterrupted),
    "async stop": (StopAsyncIteration(), WorkerInterrupted),
    "generator exit": (GeneratorExit(), WorkerInterrupted),
    "cancelled": (asyncio.CancelledError("mine"), WorkerInterrupted),
    "unprintable exit": (UnprintableExit(), WorkerInterrupted),
    "memory": (MemoryError(), MemoryError),
    "recursion": (RecursionError(), RecursionError),
    "own": (OwnBase(), OwnBase),
    "group": (BaseExceptionGroup("all", [SystemExit(1)]), BaseExceptionGroup),
    "unprintable": (Unprintable(), Unprintable),
    "untouchable": (Untouchable("no"), Untouchable),
    "unhashable": (Unhashable(), Unhashable),
    "demanding": (Demanding(1, two=2), Demanding),
}
every_error = pytest.mark.parametrize("kind", ERRORS)


def is_it(error, kind):
    """Tell whether a caller was told of the error in the documented way."""
    original, arrives = ERRORS[kind]
    if arrives is WorkerInterrupted:
        return type(error) is WorkerInterrupted and error.__cause__ is original
    return error is original


async def told(awaitable):
    """Return what was raised, without the frames that would keep a connection."""
    error = await outcome(awaitable)
    assert isinstance(error, BaseException)
    return error.with_traceback(None)


# -- functions -------------------------------------------------------------------------


@every_error
@pytest.mark.parametrize("way", ["interaction", "connection", "lease"])
async def test_whatever_a_function_raises(shop, kind, way):
    """Whatever a function raises reaches its caller; it is rolled back, and the worker,
    the loop and the connection go on.
    """
    original, _ = ERRORS[kind]

    def work(handle):
        handle.execute("insert into item values (7, 'nail')")
        raise original

    async def block():
        async with pool.transaction() as txn:
            await txn.runInteraction(work)

    async with living_loop(), ConnectionPool(shop.url, cp_max=1) as pool:
        for _ in range(2):
            if way == "lease":
                error = await told(block())
            elif way == "connection":
                error = await told(pool.runWithConnection(work))
            else:
                error = await told(pool.runInteraction(work))
            assert is_it(error, kind)
            assert names(shop) == ITEMS
        assert await pool.runQuery("select count(*) from item") == [(2,)]
        assert (pool.stats().opened, pool.stats().busy) == (1, 0)


class Trap(Sequence):
    """Parameters that raise when the driver looks at them."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


@every_error
async def test_whatever_parameters_raise(shop, kind):
    """Whatever comes of looking at a parameter reaches the caller; nothing is lost."""
    original, _ = ERRORS[kind]
    sql = shop.sql("insert into item values (?, 'nail')")
    async with living_loop(), ConnectionPool(shop.url, cp_max=1) as pool:
        for call in (pool.runOperation, pool.runQuery, pool.runResult):
            error = await told(call(sql, Trap(original)))
            if kind not in ("stop", "own"):  # A driver may take these for its own ends.
                assert is_it(error, kind)
        await pool.runOperation(sql, (9,))
        assert names(shop) == [*ITEMS, "nail"]
        assert (pool.stats().opened, pool.stats().busy) == (1, 0)


@every_error
async def test_whatever_openfun_raises(shop, kind):
    """Whatever preparing a connection raises is told as ConnectFailed, caused by it;
    the connection is closed, and the next one serves.
    """
    errors = [ERRORS[kind][0]] * 3

    def prepare(raw):
        if errors:
            raise errors.pop()

    async with living_loop(), ConnectionPool(shop.url, cp_openfun=prepare) as pool:
        for _ in range(3):
            error = await told(pool.runQuery("select 1"))
            assert isinstance(error, ConnectFailed)
            assert error.__cause__ is ERRORS[kind][0]
        assert await pool.runQuery("select count(*) from item") == [(2,)]
        assert pool.stats().failed == 3


# -- drivers ---------------------------------------------------------------------------


class Nasty(Scripted):
    """Knows one more word, `raise KIND`, for what no driver should raise."""

    def _do(self, connection, word="", *rest):
        if word == "raise":
            raise ERRORS[" ".join(rest)][0]
        return super()._do(connection, word, *rest)


@pytest.fixture
def nasty():
    script = Nasty()
    yield script
    script.release()
    assert script.trespasses == []


NASTY = ["exit", "own", "unprintable", "untouchable", "memory", "cancelled"]


async def all_slots(pool, script, count):
    """Check that so many connections serve at the same time, and no more than that."""
    gates = [f"slot{n}" for n in range(count)]
    calls = [pool.runQuery(f"hang {gate}; rows 1") for gate in gates]
    for gate in gates:
        await reached(script.gate(gate).reached)
    assert pool.stats().connections == script.open == count
    script.release()
    assert await asyncio.gather(*calls) == [[(1,)]] * count


@pytest.mark.parametrize("kind", NASTY)
@pytest.mark.parametrize("verb", ["connect", "cursor", "execute", "fetch", "commit"])
async def test_whatever_a_driver_raises(nasty, verb, kind):
    """Whatever any call of a driver raises reaches the caller; no slot is lost."""
    async with living_loop(), ConnectionPool(nasty, cp_max=2) as pool:
        nasty.will(verb, f"raise {kind}")
        error = await told(pool.runQuery("rows 1"))
        if verb == "connect":
            assert isinstance(error, ConnectFailed)
            assert error.__cause__ is ERRORS[kind][0]
        else:
            assert is_it(error, kind)
        await all_slots(pool, nasty, 2)
    assert nasty.open == 0


@pytest.mark.parametrize("kind", NASTY)
@pytest.mark.parametrize("way", ["statement", "interaction", "connection", "lease"])
async def test_whatever_a_rollback_raises(nasty, way, kind, caplog):
    """Where the rollback fails, too, in whatever way, the first error is reported, and
    nobody gets that connection again.
    """
    nasty.will("execute", "fail first")
    nasty.will("rollback", f"raise {kind}")

    async def block():
        async with pool.transaction() as txn:
            await txn.runQuery("x")

    ways = {
        "statement": lambda: pool.runOperation("x"),
        "interaction": lambda: pool.runInteraction(lambda txn: txn.execute("x")),
        "connection": lambda: pool.runWithConnection(
            lambda connection: connection.cursor().execute("x")
        ),
        "lease": block,
    }
    async with living_loop(), ConnectionPool(nasty, cp_max=1) as pool:
        error = await told(ways[way]())
        assert isinstance(error, OperationalError)
        assert str(error) == "first"
        assert await pool.runQuery("rows 2") == [(2,)]
        assert nasty.connections[0].closed
        assert (pool.stats().opened, pool.stats().connections) == (2, 1)
    warned = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warned) == 1


@pytest.mark.parametrize("kind", NASTY)
async def test_whatever_a_close_raises(nasty, kind, expect_errors):
    """Whatever closing a connection raises, its slot is free for the next one."""
    nasty.will("close", *[f"raise {kind}"] * 3)
    pool = ConnectionPool(nasty, cp_max=1, cp_timeout=2, cp_close_timeout=1)
    async with living_loop(), pool:
        for number in range(4):
            assert await pool.runQuery(f"rows {number}") == [(number,)]
            error = await told(pool.runQuery("lose"))
            assert isinstance(error, OperationalError | ConnectionError)
    assert pool.stats().connections == 0
    assert nasty.calls["close"] == nasty.calls["connect"] == 4


# -- slots and turns -------------------------------------------------------------------


@pytest.mark.parametrize("once", [False, True], ids=["never", "before"])
async def test_fifteen_failed_connects(script, monkeypatch, once):
    """After fifteen failed attempts to connect every slot is still there."""
    for name in ("BACKOFF_SECONDS", "BACKOFF_LONGEST", "BARRED_SECONDS"):
        monkeypatch.setattr(f"enterprise.outage.{name}", 0.001)
    async with living_loop(), ConnectionPool(script, cp_max=4) as pool:
        if once:
            assert await pool.runQuery("rows 1") == [(1,)]
            script.connections[0].lost = True
            assert isinstance(await outcome(pool.runQuery("rows")), ConnectionError)
        script.will("connect", *["fail away"] * 15)
        answers = Answers()
        while script.calls["connect"] <= 15 + once:
            for _ in range(8):
                answers.of(pool.runQuery("rows 5"))
            for answer in await answers.all():
                assert answer == [(5,)] or isinstance(answer, ConnectFailed)
            await asyncio.sleep(0)  # It may refuse to try for a millisecond.
        await all_slots(pool, script, 4)
        assert pool.stats().failed == 15


async def test_four_hundred_calls_on_four_slots(shop):
    """400 calls on 4 slots: never more than 4 at a time, and nobody is forgotten."""
    slots, count = 4, 400
    # Each four meet before any of them goes on, so that nobody can run ahead unseen.
    meeting = threading.Barrier(slots)
    lock = threading.Lock()
    order, running, highest = [], set(), 0

    def work(txn, number):
        nonlocal highest
        with lock:
            order.append(number)
            running.add(number)
            highest = max(highest, len(running))
        meeting.wait(PATIENCE_SECONDS)
        (answer,) = txn.execute(shop.sql("select ? + 0"), (number,)).fetchone()
        with lock:
            running.discard(number)
        return answer

    # One of SQLite's connections only writes.
    maximum = slots + (shop.kind == "sqlite")
    async with living_loop(), ConnectionPool(shop.url, cp_max=maximum) as pool:
        answers = Answers()
        for number in range(count):
            answers.of(pool.runInteraction(work, number, readonly=True))
        assert await answers.all() == list(range(count))
        assert pool.stats().opened <= maximum
    assert highest == slots
    # Nobody is overtaken by more than what the others may take at a time.
    late = {number: place for place, number in enumerate(order)}
    assert max(abs(place - n) for n, place in late.items()) < slots * SHARE


async def test_threads_that_would_wait_for_each_other(shop):
    """Of functions that wait for a call on their own lane, the one that would close the
    circle is refused, at once; the other goes on, and the pool stays usable.
    """
    both = threading.Barrier(2)

    def work(txn):
        both.wait(PATIENCE_SECONDS)
        began = time.monotonic()
        try:
            return blockingCallFromThread(
                reactor, lambda: pool.runQuery("select 5"), timeout=20
            )
        except NestedAcquire:
            return time.monotonic() - began

    maximum = 3 if shop.kind == "sqlite" else 2
    async with living_loop(), ConnectionPool(shop.url, cp_max=maximum) as pool:
        calls = [pool.runInteraction(work, readonly=True) for _ in range(2)]
        refused, served = sorted(await asyncio.gather(*calls), key=str)
        assert refused < 1
        assert served == [(5,)]
        assert await pool.runQuery("select count(*) from item") == [(2,)]


@pytest.mark.parametrize("way", ["runInteraction", "runWithConnection"])
async def test_nested_call_of_every_kind(shop, way):
    """With one connection, a function that waits for any call of its own pool is told
    at once, each time, and may still do its own work.
    """

    def work(handle):
        for call in (
            lambda: pool.runQuery("select 1"),
            lambda: pool.runOperation("delete from item"),
            lambda: pool.runResult("select 1"),
            lambda: pool.runScript("delete from item"),
            lambda: pool.runInteraction(lambda txn: 1),
            lambda: pool.runWithConnection(lambda connection: 1),
        ):
            began = time.monotonic()
            with pytest.raises(NestedAcquire, match="wait for ever"):
                blockingCallFromThread(reactor, call, timeout=20)
            assert time.monotonic() - began < 1
        handle.execute("insert into item values (3, 'nail')")

    async with living_loop(), ConnectionPool(shop.url, cp_max=1) as pool:
        for _ in range(2):
            await getattr(pool, way)(work)
            await pool.runOperation("delete from item where id = 3")
        assert names(shop) == ITEMS
