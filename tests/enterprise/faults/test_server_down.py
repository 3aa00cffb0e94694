"""A server that stops, crashes, freezes, or is full; one by one, under load."""

from __future__ import annotations

import asyncio
import itertools
import time

import psycopg
import pytest

from enterprise import ConnectFailed, ConnectionPool
from enterprise.errors import ConnectionLost
from tests.enterprise.faults.servers import (
    Crowd,
    end,
    sessions_end,
    slots_are_back,
)
from tests.enterprise.faults.watch import Answers, living_loop
from tests.enterprise.helpers import outcome, until
from tests.postgres import wait_until

# How soon after the server's return work must go on.
PROGRESS_SECONDS = 2.5


@pytest.fixture(autouse=True)
def nobody_stays(postgres, pg_name):
    """After each test its database has no sessions."""
    yield
    sessions_end(postgres, pg_name)


class Load:
    """Writers that each store one number after the other, and a reader who counts.

    Attributes:
        acknowledged: the numbers whose interaction was reported as committed.
        lost: what was said of the others, by number.
        told: how many calls got a ConnectionLost.
        others: errors that are no ConnectionLost.
    """

    def __init__(self, pool, writers=4):
        self.acknowledged = []
        self.lost = {}
        self.told = 0
        self.others = []
        self._pool = pool
        self._numbers = itertools.count()
        self._writers = writers
        self._ends = False

    async def __aenter__(self):
        work = [self._write() for _ in range(self._writers)]
        self._tasks = [asyncio.create_task(each) for each in (*work, self._read())]
        return self

    async def __aexit__(self, *_):
        self._ends = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 10)

    async def _write(self):
        while not self._ends:
            number = next(self._numbers)
            answers = Answers()
            answers.of(self._pool.runInteraction(self._insert, number))
            (result,) = await answers.all()
            if result == number:
                self.acknowledged.append(number)
            elif isinstance(result, ConnectionLost):
                self.lost[number] = result.outcome
                self.told += 1
            else:
                self.others.append(result)

    @staticmethod
    def _insert(txn, number):
        txn.execute("insert into item values (%s)", (number,))
        return number

    async def _read(self):
        while not self._ends:
            known = len(self.acknowledged)
            result = await outcome(self._pool.runQuery("select count(*) from item"))
            if isinstance(result, list):
                assert result[0][0] >= known
            elif isinstance(result, ConnectionLost):
                self.told += 1
            else:
                self.others.append(result)

    async def goes_on(self, more=20):
        """Wait until so many more numbers are acknowledged; say how long it took."""
        began, known = time.monotonic(), len(self.acknowledged)
        while len(self.acknowledged) < known + more:
            await asyncio.sleep(0.001)
        return time.monotonic() - began

    def check(self, stored):
        """Compare what was said with what is *stored*."""
        assert self.others == []
        assert len(set(stored)) == len(stored)
        unknown = {number for number, fate in self.lost.items() if fate == "unknown"}
        assert set(self.acknowledged) <= set(stored)
        assert set(stored) <= set(self.acknowledged) | unknown


async def go_away(postgres, pool, way):
    """Take the server away in one *way*, and let it be missed."""
    failed = pool.stats().failed
    if way == "backend":
        # The postmaster ends all others and recovers by itself.
        [pid] = await pool.runQuery("select pg_backend_pid()")
        await asyncio.to_thread(postgres.kill_backend, *pid)
        return
    if way == "kill":
        await asyncio.to_thread(postgres.kill)
    else:
        await asyncio.to_thread(postgres.stop, way)
    await until(lambda: pool.stats().failed >= failed + 3, "attempts to connect")


@pytest.mark.parametrize("way", ["fast", "immediate", "kill", "backend"])
async def test_server_goes_and_comes_back(postgres, pg_name, pg_url, way):
    """A server that is stopped or killed under load: calls wait, or fail with what is
    known of them; all that was acknowledged is stored, once; nothing else is; and work
    goes on at once when the server is back.
    """
    postgres.psql("create table item (id integer primary key)", pg_name)
    async with ConnectionPool(pg_url, cp_max=4) as pool, living_loop():
        async with Load(pool) as load:
            await load.goes_on()
            lost = pool.stats().lost
            await go_away(postgres, pool, way)
            await until(lambda: pool.stats().lost > lost, "a loss")
            await asyncio.to_thread(postgres.ensure)
            assert await load.goes_on() <= PROGRESS_SECONDS
        await slots_are_back(pool, 4)
        load.check([number for (number,) in await pool.runQuery("select * from item")])
        # Who was at work is told; a connection that is back too soon may end again.
        assert 1 <= load.told <= 2 * 4
        assert pool.stats().most_workers <= 4


async def test_frozen_server(postgres, pg_name, pg_url):
    """A server whose processes are all stopped: a limit of 1 s is kept, the loop goes
    on, and when the server does, too, every slot is back.
    """

    async def ask():
        began = time.monotonic()
        result = await outcome(asyncio.wait_for(pool.runQuery("select 1"), 1))
        return result, time.monotonic() - began

    async with ConnectionPool(pg_url, cp_min=8, cp_max=8) as pool, living_loop():
        await slots_are_back(pool, 8)
        try:
            await asyncio.to_thread(postgres.freeze)
            told = await asyncio.gather(*(ask() for _ in range(8)))
        finally:
            await asyncio.to_thread(postgres.thaw)
        assert [type(result) for result, _ in told] == [TimeoutError] * 8
        longest = max(seconds for _, seconds in told)
        await slots_are_back(pool, 8)
        assert pool.stats().most_workers <= 8
        assert longest <= 2.5


async def test_frozen_server_is_waited_for(postgres, pg_url):
    """Who has all the time in the world gets the answer of a server that was frozen."""
    async with ConnectionPool(pg_url, cp_min=2, cp_max=2) as pool, living_loop():
        answers = Answers()
        await slots_are_back(pool, 2)
        try:
            await asyncio.to_thread(postgres.freeze)
            for number in range(10):
                answers.of(pool.runQuery("select %s::int", (number,)))
            await until(lambda: pool.stats().busy == 2, "calls to be under way")
        finally:
            await asyncio.to_thread(postgres.thaw)
        assert await answers.all() == [[(number,)] for number in range(10)]
        assert (pool.stats().opened, pool.stats().lost) == (2, 0)


# -- a full server -----------------------------------------------------------------


@pytest.fixture
def crowd(postgres):
    """Make crowds, all of whom go at the end."""
    crowds = []

    def make(free):
        crowds.append(Crowd(postgres, free))
        crowds[-1].come()
        return crowds[-1]

    yield make
    for each in crowds:
        each.go()


async def test_few_places(pg_url, crowd):
    """Where the server has fewer places than `cp_max`, from the first call on, those
    connections that can be had serve everybody, although others are refused before.
    """

    def after_a_refusal(raw):
        wait_until(lambda: pool.stats().failed >= 1, "a refusal")

    await asyncio.to_thread(crowd, 3)
    answers = Answers()
    pool = ConnectionPool(pg_url, cp_max=8, cp_openfun=after_a_refusal)
    async with pool, living_loop():
        for number in range(200):
            answers.of(pool.runQuery("select %s::int from pg_sleep(0.005)", (number,)))
        assert await answers.all() == [[(number,)] for number in range(200)]
        assert 1 <= pool.stats().connections == pool.stats().opened <= 3


async def test_idle_connections_are_preferred(pg_url, crowd):
    """A connection that lives and rests is preferred to a new one that cannot be had;
    more are opened as soon as there is room.
    """
    others = await asyncio.to_thread(crowd, 3)
    answers = Answers()
    async with ConnectionPool(pg_url, cp_max=8) as pool, living_loop():
        await pool.runQuery("select 0")
        for number in range(100):
            answers.of(pool.runQuery("select %s::int from pg_sleep(0.005)", (number,)))
        assert await answers.all() == [[(number,)] for number in range(100)]
        stats = pool.stats()
        assert 1 <= stats.connections == stats.opened <= 3
        assert stats.failed >= 1
        await until(lambda: pool.stats().idle == stats.connections, "rest")
        failed = pool.stats().failed
        for number in range(50):
            assert await pool.runQuery("select %s::int", (number,)) == [(number,)]
        assert pool.stats().failed - failed <= 1
        await asyncio.to_thread(others.go)
        await slots_are_back(pool, 8)


async def test_no_place(pg_url, crowd):
    """Whom the server has no place for is told so at once, in the server's words; one
    that is free later is used soon, for all.
    """
    others = await asyncio.to_thread(crowd, 0)
    async with ConnectionPool(pg_url, cp_max=4) as pool, living_loop():
        answers = Answers()
        began = time.monotonic()
        for _ in range(20):
            answers.of(pool.runQuery("select 1"))
        for error in await answers.all():
            assert isinstance(error, ConnectFailed)
            assert isinstance(error.__cause__, psycopg.OperationalError)
            assert "too many clients" in str(error)
        assert time.monotonic() - began < 2
        await asyncio.to_thread(others.leave, 1)
        began = time.monotonic()
        # It does not try at all for a moment after many failures.
        while await outcome(pool.runQuery("select 1")) != [(1,)]:
            await asyncio.sleep(0.005)
        assert time.monotonic() - began < PROGRESS_SECONDS
        assert pool.stats().connections == 1
        await asyncio.to_thread(others.go)
        await slots_are_back(pool, 4)


async def test_lost_connections_of_a_full_server(postgres, pg_name, pg_url, crowd):
    """Where connections are lost and others take their places in the server, those
    that are left serve all the calls.
    """
    async with ConnectionPool(pg_url, cp_min=4, cp_max=4) as pool, living_loop():
        await slots_are_back(pool, 4)
        pids = await asyncio.to_thread(postgres.backends, pg_name)
        await asyncio.to_thread(end, postgres, *pids[:3])
        others = await asyncio.to_thread(crowd, 0)
        answers = Answers()
        for number in range(50):
            answers.of(pool.runQuery("select %s::int", (number,)))
        results = await answers.all()
        errors = [result for result in results if not isinstance(result, list)]
        assert [type(error) for error in errors] == [ConnectionLost] * len(errors)
        assert len(errors) <= 3
        assert pool.stats().connections == 1
        await asyncio.to_thread(others.go)
        await slots_are_back(pool, 4)
