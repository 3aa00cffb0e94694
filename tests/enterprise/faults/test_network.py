"""A network that swallows, stops, cuts and garbles, between a pool and its server."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import closing

import psycopg
import pytest

from enterprise.errors import ConnectFailed, ConnectionLost, PoolTimeout, QueryTimeout
from tests.enterprise.faults.watch import Answers, every_slot, pool_through
from tests.enterprise.helpers import outcome, until

GRACE = 0.25

# A second for the server to confirm a cancel, the grace, and as long again.
STOP_SECONDS = 2 * GRACE + 1

QUICK = {"cp_grace": GRACE, "cp_connect_timeout": 2}

# In the middle of its result it waits for whoever holds the advisory lock 7.
PAUSING = (
    "select g, md5(g::text), case when g = %s::int + 1000 "
    "then pg_advisory_xact_lock_shared(7)::text end "
    "from generate_series(%s::int, %s::int + 1999) g"
)


def pausing(number):
    """Return PAUSING's rows for *number*."""
    return [
        (
            g,
            hashlib.md5(str(g).encode()).hexdigest(),
            "" if g == number + 1000 else None,
        )
        for g in range(number, number + 2000)
    ]


@pytest.fixture
def opens(postgres, pg_name, pg_proxy, pg_proxy_url):
    """A function that makes a pool behind the proxy, under the rule of this folder."""

    def make(**options):
        return pool_through(
            pg_proxy, pg_proxy_url, postgres, pg_name, **(QUICK | options)
        )

    return make


def ask(txn):
    """Ask something, in an interaction."""
    return txn.execute("select 1").fetchall()


# -- swallowed ---------------------------------------------------------------------


@pytest.mark.parametrize("weather", ["natloss", "freeze"])
async def test_deadline_without_a_network(opens, pg_proxy, weather):
    """Over a network that says nothing a call ends with its deadline; the connection
    is closed by force, and all slots are back once there is a way again.
    """
    async with opens(cp_max=4) as pool:
        await every_slot(pool)
        getattr(pg_proxy, weather)()
        calls, began = Answers(), time.monotonic()
        calls.of(pool.runQuery("select 1", timeout=0.3))
        calls.of(pool.runOperation("select 1", timeout=0.3))
        calls.of(pool.runResult("select 1", timeout=0.3))
        calls.of(pool.runInteraction(ask, timeout=0.3))
        errors = await calls.all()
        assert time.monotonic() - began <= 0.3 + STOP_SECONDS
        assert [type(error) for error in errors] == [QueryTimeout] * 4
        pg_proxy.heal()
        await every_slot(pool)
        assert pool.stats().opened == 8


async def test_deadline_while_the_connection_is_checked(opens, pg_proxy):
    """A call whose idle connection is looked at first, over a network that swallows
    the question, ends with its deadline, too.
    """
    async with opens(cp_max=2, cp_check=0) as pool:
        await every_slot(pool)
        await until(lambda: pool.stats().idle == 2, "the workers to rest")
        pg_proxy.natloss()
        calls, began = Answers(), time.monotonic()
        calls.of(pool.runQuery("select 1", timeout=0.3))
        calls.of(pool.runInteraction(ask, timeout=0.3))
        errors = await calls.all()
        assert time.monotonic() - began <= 0.3 + STOP_SECONDS
        for error in errors:
            late = isinstance(error, TimeoutError)
            assert late or error.outcome in ("not_sent", "rolled_back")
        pg_proxy.heal()
        await every_slot(pool)


async def test_idle_connection_is_lost_in_silence(opens, pg_proxy):
    """A worker that keeps its idle connection alive over a network that swallows the
    question does not wait for the answer for ever: its slot comes back.
    """
    async with opens(cp_max=1, cp_keepalive=0.05, cp_check=60) as pool:
        await every_slot(pool)
        await until(lambda: pool.stats().idle == 1, "the worker to rest")
        pg_proxy.natloss()
        sent = pg_proxy.to_server.bytes
        await until(lambda: pg_proxy.to_server.bytes > sent, "the question")
        pg_proxy.heal()
        await every_slot(pool)


async def test_new_connection_is_lost_in_silence(opens, pg_proxy):
    """A connection that the network swallows while `cp_openfun` speaks to it is given
    up in the time that connecting may take; calls wait no longer than they may.
    """
    opened = []

    def prepare(raw):
        opened.append(raw)
        if len(opened) == 2:
            pg_proxy.natloss()
        raw.execute("select 1")

    async with opens(cp_max=1, cp_openfun=prepare) as pool:
        await every_slot(pool)
        pg_proxy.reset()
        assert isinstance(await outcome(pool.runQuery("select 1")), ConnectionLost)
        error = await outcome(pool.runQuery("select 1", timeout=0.3))
        assert isinstance(error, PoolTimeout)
        assert len(opened) == 2
        pg_proxy.heal()
        await every_slot(pool)
        opened.clear()


async def test_connecting_is_swallowed(opens, pg_proxy):
    """Where connecting is swallowed a call waits as long as it may, and connecting
    takes as long as it may.
    """
    async with opens(cp_max=1) as pool:
        pg_proxy.natloss()
        began = time.monotonic()
        calls = Answers()
        calls.of(pool.runQuery("select 1", timeout=0.3))
        calls.of(pool.runQuery("select 1"))
        late, failed = await calls.all()
        assert isinstance(late, PoolTimeout)
        assert isinstance(failed, ConnectFailed)
        assert isinstance(failed.__cause__, psycopg.OperationalError)
        assert time.monotonic() - began <= 3.5
        pg_proxy.heal()
        await every_slot(pool)


# -- stopped, and going on ---------------------------------------------------------


async def test_freeze_and_thaw(opens, pg_proxy):
    """A network that stops for a while costs time and nothing else."""
    async with opens(cp_max=4) as pool:
        await every_slot(pool)
        pg_proxy.freeze()
        calls = Answers()
        for number in range(12):
            calls.of(pool.runQuery("select %s::int", (number,)))
        await until(lambda: pool.stats().busy == 4, "the calls to be sent")
        pg_proxy.heal()
        assert await calls.all() == [[(number,)] for number in range(12)]
        assert pool.stats().opened == 4
        assert pool.stats().lost == 0


async def test_slow_network(opens, pg_proxy):
    """In pieces of 97 bytes, and with 15 to 35 ms each way, everybody gets their own
    rows.
    """

    def one(txn, number):
        return txn.execute("select %s::int, repeat('x', 300)", (number,)).fetchall()

    async def lease(number):
        async with pool.transaction() as txn:
            return await txn.runQuery("select %s::int, repeat('x', 300)", (number,))

    async with opens(cp_max=4) as pool:
        for weather, seconds in (
            ("dribble", None),
            *(("delay", ms / 1000) for ms in (15, 25, 35)),
        ):
            if seconds is None:
                pg_proxy.dribble()
            else:
                pg_proxy.delay(seconds)
            results = await asyncio.gather(
                *(
                    pool.runQuery("select %s::int, repeat('x', 300)", (number,))
                    for number in range(4)
                ),
                *(pool.runInteraction(one, number) for number in range(4, 8)),
                *(lease(number) for number in range(8, 12)),
            )
            assert results == [[(n, "x" * 300)] for n in range(12)], weather
        pg_proxy.heal()
        assert pool.stats().lost == 0


# -- cut and garbled ---------------------------------------------------------------


FAULTS = {
    "fin": lambda proxy: proxy.cut(),
    "rst": lambda proxy: proxy.reset(),
    "server's half": lambda proxy: proxy.half_close("server"),
    "client's half": lambda proxy: proxy.half_close("client"),
    "torn": lambda proxy: proxy.tear(5000),
    "torn at once": lambda proxy: proxy.tear(0),
    "refused": lambda proxy: (proxy.refuse(), proxy.reset()),
    "ones": lambda proxy: proxy.garbage(),
    "noise 1": lambda proxy: proxy.garbage(1),
    "noise 2": lambda proxy: proxy.garbage(2),
    "noise 3": lambda proxy: proxy.garbage(3),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_fault_in_the_middle_of_a_result(
    postgres, pg_name, opens, pg_proxy, fault
):
    """What ends or garbles a connection in the middle of a result leads to an error
    or to the right rows, never to wrong ones; then all is as before.
    """
    waiting = (
        "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    )
    async with opens(cp_max=4, cp_query_timeout=1.5) as pool:
        with closing(psycopg.connect(postgres.dsn(pg_name), autocommit=True)) as gate:
            await every_slot(pool)
            gate.execute("select pg_advisory_lock(7)")
            calls = Answers()
            for number in range(4):
                calls.of(pool.runQuery(PAUSING, (number,) * 3))
            await until(
                lambda: postgres.psql(waiting) == "4", "all to be in the middle"
            )
            FAULTS[fault](pg_proxy)
        for number, result in enumerate(await calls.all()):
            if not isinstance(result, BaseException):
                assert result == pausing(number)
                continue
            assert isinstance(result, ConnectionLost | QueryTimeout | psycopg.Error)
            if isinstance(result, ConnectionLost):
                assert result.outcome == "rolled_back"
                assert isinstance(result.__cause__, psycopg.Error)
        pg_proxy.heal()
        await every_slot(pool)
        again = [pool.runQuery(PAUSING, (number,) * 3) for number in range(8)]
        assert await asyncio.gather(*again) == [pausing(n) for n in range(8)]


AT_CONNECT = {
    "refused": lambda proxy: proxy.refuse(),
    "garbled": lambda proxy: proxy.garbage(),
    **{
        f"torn at {count}": lambda proxy, count=count: proxy.tear(count)
        for count in (0, 1, 5, 9, 40, 200)
    },
}


async def test_fault_at_connect(opens, pg_proxy):
    """A connection that ends while it is being opened is a ConnectFailed with the
    driver's error, at whatever byte that is; the next attempt serves.
    """
    for fault in AT_CONNECT.values():
        async with opens(cp_max=1) as pool:
            fault(pg_proxy)
            began = time.monotonic()
            error = await outcome(pool.runQuery("select 1"))
            assert isinstance(error, ConnectFailed)
            assert isinstance(error.__cause__, psycopg.OperationalError)
            assert time.monotonic() - began < 2
            pg_proxy.heal()
            assert await pool.runQuery("select 1") == [(1,)]
            assert pool.stats().opened == 1


@pytest.mark.parametrize("end", ["cut", "reset"])
async def test_end_at_connect(opens, pg_proxy, end):
    """So it is when the network stands still first."""
    async with opens(cp_max=1) as pool:
        pg_proxy.freeze()
        call = pool.runQuery("select 1")
        await until(lambda: pg_proxy.accepted == 1, "a connection")
        getattr(pg_proxy, end)()
        assert isinstance(await outcome(call), ConnectFailed)
        pg_proxy.heal()
        assert await pool.runQuery("select 1") == [(1,)]


async def test_all_fail_together(opens, pg_proxy, monkeypatch):
    """Connections that fail at the same moment are one failure: however many they
    are, a short outage is followed by a short pause.
    """
    monkeypatch.setattr("enterprise.outage.random.uniform", lambda _, most: most)
    async with opens(cp_max=8) as pool:
        await every_slot(pool)
        pg_proxy.freeze()
        before = pg_proxy.accepted
        calls = Answers()
        for _ in range(8):
            calls.of(pool.runQuery("select 1"))
        await until(lambda: pool.stats().busy == 8, "all to run")
        pg_proxy.reset()
        for error in await calls.all():
            assert isinstance(error, ConnectionLost)
        again = [pool.runQuery("select 1") for _ in range(8)]
        await until(lambda: pg_proxy.accepted >= before + 8, "all to connect")
        pg_proxy.refuse()
        pg_proxy.reset()
        await until(lambda: pool.stats().failed == 8, "all to fail")
        pg_proxy.heal()
        began = time.monotonic()
        assert await asyncio.gather(*again) == [[(1,)]] * 8
        assert time.monotonic() - began <= 2.5
