"""A worker looks after its connection: hooks, credentials, and those always kept."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from enterprise import ConfigurationError, ConnectFailed, ConnectionPool, PoolClosed
from tests.enterprise.helpers import names, outcome, reached, until

# -- hooks -------------------------------------------------------------------------


async def test_reset_after_each_job(script):
    """cp_resetfun is called after each job, in the connection's own thread."""
    threads = []

    def reset(raw):
        assert raw.thread == threading.get_ident()
        threads.append(raw.number)

    async with ConnectionPool(script, cp_max=1, cp_resetfun=reset) as pool:
        for _ in range(3):
            await pool.runQuery("rows 1")
        await until(lambda: len(threads) == 3, "the third reset")
    assert threads == [0, 0, 0]
    assert not script.trespasses


async def test_answer_does_not_wait_for_the_reset(script):
    """The answer goes home before the session is reset; the next job waits for it."""
    gate = script.gate("reset")
    async with ConnectionPool(
        script, cp_max=1, cp_resetfun=lambda raw: gate.wait()
    ) as pool:
        assert await pool.runQuery("rows 1") == [(1,)]
        await reached(gate.reached)
        following = pool.runQuery("rows 2")
        assert not following.done()
        gate.open()
        assert await following == [(2,)]


async def test_reset_between_jobs_of_a_queue(script):
    """Where the next job waits already, the session is reset before it."""
    seen = []

    def reset(raw):
        seen.append(sum(verb == "execute" for _, verb, _ in script.history))

    async with ConnectionPool(script, cp_max=1, cp_resetfun=reset) as pool:
        held = pool.runQuery("hang here; rows 1")
        others = [pool.runQuery("rows 2") for _ in range(3)]
        script.gate("here").open()
        await asyncio.gather(held, *others)
        await until(lambda: len(seen) == 4, "the last reset")
    assert seen == [1, 2, 3, 4]


async def test_failing_reset_ends_the_connection(script, expect_errors):
    """A connection whose reset failed is closed; the failure is logged with a cure."""

    def reset(raw):
        raise RuntimeError("no such role")

    async with ConnectionPool(script, cp_max=1, cp_resetfun=reset) as pool:
        for number in range(3):
            assert await pool.runQuery(f"rows {number}") == [(number,)]
        await until(lambda: pool.stats().connections == 0, "the last one to be closed")
        assert pool.stats().opened == 3
    assert len(expect_errors) == 3
    assert "cp_resetfun failed" in expect_errors[0].getMessage()


async def test_failing_reset_of_a_database_in_memory(expect_errors):
    """A database in memory outlives a reset that fails: its data are in there."""

    def reset(raw):
        raise RuntimeError("no such pragma")

    async with ConnectionPool("sqlite://", cp_resetfun=reset) as pool:
        await pool.runOperation("create table a (id int)")
        await pool.runOperation("insert into a values (1)")
        assert await pool.runQuery("select id from a") == [(1,)]
    assert expect_errors


async def test_what_a_reset_leaves_open_is_ended(shop):
    """A transaction that cp_resetfun began and did not end is rolled back."""

    def reset(raw):
        raw.execute("begin")
        raw.execute("insert into item values (9, 'axe')")

    async with ConnectionPool(shop.url, cp_max=1, cp_resetfun=reset) as pool:
        await pool.runOperation("insert into item values (3, 'drill')")
        await pool.runQuery("select 1")
    assert names(shop) == ["hammer", "saw", "drill"]


async def test_discard_all_keeps_tenants_apart(pg_url):
    """With DISCARD ALL as its reset, no session keeps what a job has set."""

    def reset(raw):
        raw.execute("discard all")

    async with ConnectionPool(pg_url, cp_max=1, cp_resetfun=reset) as pool:
        await pool.runOperation("set application_name = 'tenant 1'")
        await pool.runOperation("create temp table secret (id int)")
        found = await pool.runQuery("show application_name")
        assert found == [("",)]
        (gone,) = await pool.runQuery("select to_regclass('secret')")
        assert gone == (None,)


async def test_close_hook(script):
    """cp_closefun gets each connection that lives, before it is closed."""
    seen = []

    def goodbye(raw):
        assert not raw.closed
        seen.append(raw.number)

    async with ConnectionPool(script, cp_max=1, cp_closefun=goodbye) as pool:
        await pool.runQuery("rows 1")
        script.connections[0].lost = True
        assert await outcome(pool.runQuery("rows 2"))
        await pool.runQuery("rows 3")
    assert seen == [1]  # To a dead one there is nothing to say.
    assert [connection.closed for connection in script.connections] == [True, True]


async def test_failing_close_hook(script, expect_errors):
    """A cp_closefun that fails is logged, and its connection closed all the same."""

    def goodbye(raw):
        raise RuntimeError("no")

    async with ConnectionPool(script, cp_max=1, cp_closefun=goodbye) as pool:
        await pool.runQuery("rows 1")
    assert script.open == 0
    assert "cp_closefun failed" in expect_errors[0].getMessage()


async def _hook(raw):
    pass


@pytest.mark.parametrize("name", ["cp_openfun", "cp_resetfun", "cp_closefun"])
@pytest.mark.parametrize("value", [7, "select 1", _hook])
def test_hooks_that_are_none(script, name, value):
    """What cannot be called, or would only return a coroutine, is refused at once."""
    with pytest.raises(ConfigurationError, match=name):
        ConnectionPool(script, **{name: value})


# -- credentials -------------------------------------------------------------------


async def test_password_is_asked_for_at_each_connect(script):
    """A password given as a function is asked for each connection, in its thread."""
    asked = []

    def password():
        asked.append(threading.get_ident())
        return f"token {len(asked)}"

    async with ConnectionPool(
        script, user=lambda: "app", password=password, cp_max=1, cp_lifetime=0
    ) as pool:
        for _ in range(2):
            await pool.runQuery("rows 1")
            await until(lambda: pool.stats().connections == 0, "it to be closed")
    said = [what[1] for _, verb, what in script.history if verb == "connect"]
    assert said == [
        {"user": "app", "password": "token 1"},
        {"user": "app", "password": "token 2"},
    ]
    assert asked == [connection.thread for connection in script.connections]


async def test_asked_password_over_a_url(postgres, pg_name, pg_url):
    """It comes on top of a URL, for a real server, too."""
    asked = []
    async with ConnectionPool(pg_url, password=lambda: asked.append(1) or "x") as pool:
        assert await pool.runQuery("select 1") == [(1,)]
    assert asked == [1]


async def test_asked_password_is_a_secret(script, caplog):
    """What the function gave is in no error and no log line."""
    caplog.set_level(logging.DEBUG)
    script.will("connect", "fail wrong password sesame-7 for app")
    async with ConnectionPool(script, password=lambda: "sesame-7") as pool:
        error = await outcome(pool.runQuery("rows 1"))
    assert "wrong password ***" in str(error)
    assert "sesame" not in f"{error!r} {error.__cause__!r} {caplog.text} {pool!r}"


async def test_failing_credentials(script):
    """A function that fails is a connect that failed, with the cause attached."""

    def password():
        raise KeyError("vault is sealed")

    async with ConnectionPool(script, password=password) as pool:
        error = await outcome(pool.runQuery("rows 1"))
    assert isinstance(error, ConnectFailed)
    assert isinstance(error.__cause__, KeyError)
    assert script.calls["connect"] == 0


def test_async_credentials_are_refused(script):
    """A coroutine function cannot be asked in a thread, and is refused at once."""
    with pytest.raises(ConfigurationError, match="password is the coroutine function"):
        ConnectionPool(script, password=_hook)


# -- those always kept ---------------------------------------------------------------


async def test_minimum_is_kept_without_a_call(script):
    """An idle connection of the minimum that died is replaced by itself."""
    async with ConnectionPool(
        script, cp_min=2, cp_max=4, cp_keepalive=0.005, cp_good_sql="rows 99"
    ) as pool:
        script.connections[0].lost = True
        await until(lambda: pool.stats().lost, "the loss to be found")
        await until(lambda: pool.stats().connections == 2, "the minimum to be back")
        assert pool.stats().submitted == 0


async def test_minimum_comes_back_after_an_outage(script):
    """While it cannot be replaced, attempts go on, one at a time."""
    async with ConnectionPool(
        script, cp_min=2, cp_keepalive=0.005, cp_good_sql="rows 99"
    ) as pool:
        script.will("connect", *["fail away"] * 4)
        for connection in script.connections:
            connection.lost = True
        await until(lambda: pool.stats().failed == 4, "the outage")
        await until(lambda: pool.stats().connections == 2, "the minimum to be back")


async def test_minimum_of_a_server_that_comes_later(script):
    """Also where the first attempt failed, and start() said so."""
    script.will("connect", "fail away")
    pool = ConnectionPool(script, cp_min=1)
    assert isinstance(await outcome(pool.start()), ConnectFailed)
    await until(lambda: pool.stats().connections == 1, "the minimum to be there")
    await pool.close()


async def test_expired_connections_go_while_idle(script):
    """An idle connection is closed when its time is over, not at its next job."""
    async with ConnectionPool(script, cp_lifetime=0.02) as pool:
        await pool.runQuery("rows 1")
        await until(lambda: pool.stats().connections == 0, "it to be closed")
        assert script.open == 0


async def test_hopeless_failures_end_in_a_pause(script):
    """After five hopeless failures calls fail for a second without an attempt."""
    script.will("connect", *["fail no route"] * 6)
    async with ConnectionPool(script) as pool:
        errors = [await outcome(pool.runQuery("rows 1")) for _ in range(20)]
        assert all(isinstance(error, ConnectFailed) for error in errors)
        assert len(set(map(id, errors))) == 20
        assert script.calls["connect"] == 6
        await until(lambda: not pool._office.outage.refusal(), "the pause to end")
        assert await pool.runQuery("rows 1") == [(1,)]


# -- the beginning and the end -------------------------------------------------------


async def test_start_after_close(script):
    """A pool that is closed cannot be started again, and says so."""
    pool = ConnectionPool(script)
    await pool.close()
    assert isinstance(await outcome(pool.start()), PoolClosed)


@pytest.mark.parametrize("seconds", [-1, float("nan"), "5"])
async def test_close_with_a_bad_timeout(script, seconds):
    """A timeout that no clock can keep is refused, and nothing is closed."""
    async with ConnectionPool(script) as pool:
        with pytest.raises((TypeError, ValueError), match="timeout"):
            pool.close(seconds)
        assert await pool.runQuery("rows 1") == [(1,)]


# -- without a transaction -----------------------------------------------------------


async def test_bare_connection(shop):
    """With autocommit=True each statement is committed by itself."""

    def work(raw):
        raw.execute("insert into item values (3, 'drill')")
        assert names(shop)[-1] == "drill"  # Seen from outside already.
        raw.execute("vacuum")
        raise RuntimeError("too late to undo anything")

    async with ConnectionPool(shop.url) as pool:
        error = await outcome(pool.runWithConnection(work, autocommit=True))
        assert isinstance(error, RuntimeError)
    assert names(shop) == ["hammer", "saw", "drill"]


async def test_bare_connection_left_in_a_transaction(shop):
    """What such a function leaves open is rolled back, and told."""

    def work(raw):
        raw.execute("begin")
        raw.execute("insert into item values (3, 'drill')")

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        error = await outcome(pool.runWithConnection(work, autocommit=True))
        assert "rolled back" in str(error)
        assert len(await pool.runQuery("select * from item")) == 2


async def test_bare_connection_of_a_driver_without_autocommit(script):
    """A driver that has no such switch says so, and the connection lives on."""
    async with ConnectionPool(script, cp_max=1) as pool:
        error = await outcome(pool.runWithConnection(len, autocommit=True))
        assert isinstance(error, ConfigurationError)
        assert await pool.runQuery("rows 1") == [(1,)]
        assert pool.stats().opened == 1
