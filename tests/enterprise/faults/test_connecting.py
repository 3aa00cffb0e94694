"""Connections that cannot be opened, or slowly: quick errors, no storm, no leak."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
import traceback

import psycopg
import pytest

from enterprise import ConnectFailed, ConnectionPool
from enterprise.errors import ConnectionLost, PoolClosed, PoolTimeout
from tests.enterprise.faults.servers import end, sessions_end, slots_are_back
from tests.enterprise.faults.watch import Answers, living_loop
from tests.enterprise.helpers import PATIENCE_SECONDS, outcome, reached, until
from tests.postgres import GUARDED_PASSWORD

SECRET = "wr0ng-pass"

# What a worker that is stuck in the driver may cost at the end: see `close`.
CLOSE_SECONDS = 4


@pytest.fixture
def nobody_stays(postgres, pg_name):
    """After the test its database has no sessions."""
    yield
    sessions_end(postgres, pg_name)


@pytest.fixture
def silence():
    """A port whose listener takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_SECONDS)
        yield listener


def at(listener):
    """Return the URL of a server that would listen there."""
    return f"postgresql://postgres@127.0.0.1:{listener.getsockname()[1]}/x"


# -- refused ---------------------------------------------------------------------------


@pytest.fixture(params=["password", "host", "port"])
def wrong_url(request):
    """The URL of a server that cannot be reached, in several ways."""
    if request.param == "host":
        return f"postgresql://ada:{SECRET}@no-such-host.invalid/x"
    if request.param == "port":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return f"postgresql://ada:{SECRET}@127.0.0.1:{listener.getsockname()[1]}/x"
    server = request.getfixturevalue("postgres")
    return server.guarded_url().replace(GUARDED_PASSWORD, SECRET)


async def test_refused(wrong_url, caplog):
    """Where no connection can be had, twenty calls at once and twenty in a row fail
    soon with the driver's error; few attempts are made, and no password shows.
    """
    caplog.set_level(logging.DEBUG)
    answers = Answers()
    pool = ConnectionPool(wrong_url, cp_max=4, cp_noisy=True)
    async with pool, living_loop():
        began = time.monotonic()
        for _ in range(20):
            answers.of(pool.runQuery("select 1"))
        await answers.all()
        for _ in range(20):
            answers.of(pool.runQuery("select 1"))
            await answers.all()
        assert time.monotonic() - began < 5
        errors = await answers.all()
        assert len(errors) == 40
        assert pool.stats().failed <= 5 + 4 * 5
        shown = [repr(pool), repr(pool.stats()), caplog.text]
        for error in errors:
            assert isinstance(error, ConnectFailed)
            assert isinstance(error.__cause__, psycopg.OperationalError)
            shown += [repr(error), str(error), *traceback.format_exception(error)]
        shown += [repr(call) for call in answers.calls]
        assert SECRET not in "".join(shown)


async def test_no_storm_with_a_wrong_password(postgres, pg_proxy):
    """However fast calls come in, a wrong password is not tried more than once a
    second by each slot, after the first five times.
    """
    url = postgres.guarded_url().replace(GUARDED_PASSWORD, SECRET)
    async with ConnectionPool(pg_proxy.through(url), cp_max=2) as pool, living_loop():
        began = time.monotonic()
        calls = 0
        while (passed := time.monotonic() - began) < 1.5:
            error = await outcome(pool.runQuery("select 1"))
            assert isinstance(error, ConnectFailed)
            calls += 1
            await asyncio.sleep(0)
        assert calls > 20
        # The bound, and what was under way when it was reached.
        assert pg_proxy.accepted <= 5 + 2 * (passed + 1)


async def test_no_storm_in_an_outage(pg_proxy, pg_proxy_url, nobody_stays):
    """While a server that was there is away, calls wait, and it is tried ever less
    often; when it is back they are served.
    """
    async with ConnectionPool(pg_proxy_url, cp_max=4) as pool, living_loop():
        await slots_are_back(pool, 4)
        pg_proxy.refuse()
        pg_proxy.reset()
        answers = Answers()
        for number in range(20):
            answers.of(pool.runQuery("select %s::int", (number,)))
        await until(lambda: pool.stats().failed >= 5, "attempts to fail")
        before, began = pool.stats().failed, time.monotonic()
        await asyncio.sleep(1)  # Not for anything to happen, but for how much does.
        assert pool.stats().failed - before <= 4 * (time.monotonic() - began) + 1
        pg_proxy.heal()
        results = await answers.all()
        lost = [result for result in results if isinstance(result, ConnectionLost)]
        assert 1 <= len(lost) <= 4
        for number, result in enumerate(results):
            assert result in lost or result == [(number,)]
        await slots_are_back(pool, 4)


async def test_password_that_became_wrong(postgres, pg_proxy):
    """When the password is changed, what is connected goes on; once that is lost, the
    calls fail with the server's words, and the old password shows nowhere.
    """
    url = pg_proxy.through(postgres.guarded_url())
    try:
        async with ConnectionPool(url, cp_max=2) as pool, living_loop():
            [(pid,)] = await pool.runQuery("select pg_backend_pid()")
            change = f"alter role guarded password '{SECRET}'"
            await asyncio.to_thread(postgres.psql, change)
            assert await pool.runQuery("select 1") == [(1,)]
            await asyncio.to_thread(end, postgres, pid)
            await outcome(pool.runQuery("select 1"))
            errors = [await outcome(pool.runQuery("select 1")) for _ in range(5)]
            for error in errors:
                assert isinstance(error, ConnectFailed)
                assert "password authentication failed" in str(error)
                told = "".join(traceback.format_exception(error))
                assert GUARDED_PASSWORD not in told
    finally:
        change = f"alter role guarded password '{GUARDED_PASSWORD}'"
        await asyncio.to_thread(postgres.psql, change)


# -- slow ------------------------------------------------------------------------------


async def begun(pool, listener):
    """Have *pool* connect to *listener*; return the call, and the server's end."""
    call = pool.runQuery("select 1")
    server_end, _ = await asyncio.to_thread(listener.accept)
    server_end.settimeout(4)
    return call, server_end


def read_to_the_end(server_end):
    """Read until the client closes; say how often there was something to read."""
    with server_end:
        turns = 0
        while server_end.recv(4096):
            turns += 1
        return turns


async def test_call_cancelled_during_a_connect(silence):
    """A call that is cancelled while its connection is being opened ends at once; the
    attempt ends with its own limit, and closes what it has opened.
    """
    pool = ConnectionPool(at(silence), cp_max=1, cp_connect_timeout=2)
    async with living_loop():
        call, server_end = await begun(pool, silence)
        began = time.monotonic()
        call.cancel()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        assert time.monotonic() - began < 0.25
        await asyncio.to_thread(read_to_the_end, server_end)
        assert time.monotonic() - began < 4
        assert pool.stats().connections == 0
        await pool.close()
        assert pool.stats().unfinished == 0


async def test_call_that_waits_for_a_connect(silence):
    """Who waits for a connection that does not come is told when its time is over,
    and everybody else when the attempt's is.
    """
    pool = ConnectionPool(at(silence), cp_max=1, cp_connect_timeout=2)
    async with living_loop():
        call, server_end = await begun(pool, silence)
        began = time.monotonic()
        impatient = await outcome(pool.runQuery("select 2", timeout=0.2))
        assert isinstance(impatient, PoolTimeout)
        assert time.monotonic() - began < 1
        error = await outcome(call)
        assert isinstance(error, ConnectFailed)
        assert isinstance(error.__cause__, psycopg.OperationalError)
        assert time.monotonic() - began < 4
        await asyncio.to_thread(read_to_the_end, server_end)
        await pool.close()


async def test_closed_during_a_connect(silence):
    """A pool that is closed while it connects to a server that does not answer is
    closed soon; the call is told, and the connection is closed.
    """
    pool = ConnectionPool(at(silence), cp_max=1, cp_connect_timeout=2)
    async with living_loop():
        call, server_end = await begun(pool, silence)
        began = time.monotonic()
        await pool.close(timeout=0)
        assert time.monotonic() - began < CLOSE_SECONDS
        assert isinstance(await outcome(call), PoolClosed | ConnectFailed)
        await asyncio.to_thread(read_to_the_end, server_end)
        assert pool.stats().connections == 0


async def test_connection_that_arrives_after_the_end(
    pg_proxy, pg_proxy_url, nobody_stays
):
    """A connection that arrives when the pool has been closed is closed, too."""
    pg_proxy.freeze()
    pool = ConnectionPool(pg_proxy_url, cp_max=2)
    async with living_loop():
        calls = [pool.runQuery("select 1") for _ in range(2)]
        await until(lambda: pg_proxy.accepted >= 1, "an attempt to connect")
        began = time.monotonic()
        await pool.close(timeout=0)
        assert time.monotonic() - began < CLOSE_SECONDS
        for call in calls:
            assert isinstance(await outcome(call), PoolClosed)
        pg_proxy.heal()
        await until(lambda: pg_proxy.open == 0, "the connections to be closed")
        assert pool.stats().connections == 0


async def test_connection_that_arrives_for_nobody(pg_proxy, pg_proxy_url, nobody_stays):
    """A connection whose only call was cancelled meanwhile is there for the next one,
    and closed with the pool.
    """
    pg_proxy.freeze()
    async with ConnectionPool(pg_proxy_url, cp_max=1) as pool, living_loop():
        call = pool.runQuery("select 1")
        await until(lambda: pg_proxy.accepted == 1, "an attempt to connect")
        call.cancel()
        assert isinstance(await outcome(call), asyncio.CancelledError)
        pg_proxy.heal()
        assert await pool.runQuery("select 2") == [(2,)]
        assert (pool.stats().opened, pool.stats().connections) == (1, 1)
    await until(lambda: pg_proxy.open == 0, "the connection to be closed")


async def test_slow_connect_is_waited_for_at_the_end(
    pg_proxy, pg_proxy_url, nobody_stays
):
    """What was taken is done although the pool is closed while it still connects,
    where that takes no longer than closing may.
    """
    pg_proxy.delay(0.02)
    pool = ConnectionPool(pg_proxy_url, cp_max=2)
    async with living_loop():
        calls = [pool.runQuery("select %s::int", (number,)) for number in range(5)]
        await until(lambda: pg_proxy.accepted >= 1, "an attempt to connect")
        await pool.close()
        results = await asyncio.gather(*calls)
        assert results == [[(number,)] for number in range(5)]
    await until(lambda: pg_proxy.open == 0, "the connections to be closed")


async def test_name_server_that_hangs(pg_url, nobody_stays, monkeypatch):
    """Where the resolver does not answer, only its worker waits: the loop lives, time
    limits are kept, another pool works, and closing is bounded.
    """
    lookup, asked, answered = socket.getaddrinfo, threading.Event(), threading.Event()

    def hang(host, *rest, **more):
        if host != "slow.invalid":
            return lookup(host, *rest, **more)
        asked.set()
        answered.wait(PATIENCE_SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "nobody answers")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    slow = ConnectionPool("postgresql://slow.invalid/x", cp_max=1)
    try:
        async with ConnectionPool(pg_url) as pool, living_loop():
            answers = Answers()
            answers.of(slow.runQuery("select 1"))
            answers.of(slow.runQuery("select 1", timeout=0.1))
            await reached(asked)
            assert await pool.runQuery("select 1") == [(1,)]
            assert isinstance(await outcome(answers.calls[1]), PoolTimeout)
            began = time.monotonic()
            await slow.close(timeout=0)
            assert time.monotonic() - began < CLOSE_SECONDS
            for error in await answers.all():
                assert isinstance(error, PoolTimeout | PoolClosed)
    finally:
        answered.set()
