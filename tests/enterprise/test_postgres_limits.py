"""Time limits that PostgreSQL keeps, too, in case that ours does not get through."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from enterprise import ConnectionPool
from enterprise.deadline import Deadlines
from enterprise.drivers._session import Session, milliseconds, rounded
from enterprise.errors import QueryTimeout
from tests.enterprise.helpers import outcome

SHOW = "show statement_timeout"


@pytest.fixture
def deaf(monkeypatch):
    """Our own clock stands still: whoever is stopped was stopped by the server."""
    monkeypatch.setattr(Deadlines, "_look", lambda self, now: float("inf"))


def shown(txn):
    return txn.execute(SHOW).fetchone()[0]


async def sent(proxy, call):
    """Return what *call* gives, and how many statements that took."""
    before = proxy.statements
    return await call, proxy.statements - before


# -- how much ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "limit"),
    [
        *[(-1, 128), (0.001, 128), (0.128, 128), (0.129, 256), (1, 1024)],
        *[(1.024, 1024), (1.0241, 2048), (60, 65536), (1e5, 1 << 27), (1e7, 0)],
    ],
)
def test_limits_are_rounded_up(seconds, limit):
    """A limit is the next power of two in milliseconds, 128 at the least; none where
    the server cannot count so far.
    """
    assert rounded(seconds) == limit
    assert not limit or limit >= seconds * 1000


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        *[("0", 0), ("500ms", 500), ("5s", 5000), ("2min", 120_000)],
        *[("1h", 3_600_000), ("1d", 86_400_000), ("gibberish", 0)],
    ],
)
def test_times_as_the_server_shows_them(text, amount):
    """What SHOW says is read in whatever unit it is said."""
    assert milliseconds(text) == amount


def test_when_a_limit_is_sent_again():
    """Only a limit that is too small, or over four times too big, is replaced; the
    user's own never by a longer one.
    """
    session = Session()
    assert session.wanted(1) == 1024  # Nobody knows what is set.
    session.usual = 0
    assert session.wanted(1) == 1024
    session.limit = 1024
    assert session.wanted(1.024) is None
    assert session.wanted(1.1) == 2048
    assert session.wanted(0.25) is None
    assert session.wanted(0.2) is None
    assert session.wanted(0.1) == 128
    assert session.wanted(1e7) == 0
    session.usual, session.limit = 700, None
    assert session.wanted(1) is None
    assert session.wanted(0.1) == 128
    session.limit = 128
    assert session.wanted(100) == 700
    assert "128 ms" in repr(session)


# -- on the wire -----------------------------------------------------------------------


async def test_equal_limits_cost_one_statement(pg_proxy, pg_proxy_url):
    """N calls with the same time limit are N + 1 statements."""
    async with ConnectionPool(pg_proxy_url, cp_max=1) as pool:
        await pool.runQuery("select 1")
        before = pg_proxy.statements
        for _ in range(10):
            assert await pool.runQuery(SHOW, timeout=9) == [("16384ms",)]
        assert pg_proxy.statements - before == 11


async def test_transactions_take_theirs_along(pg_proxy, pg_proxy_url):
    """A transaction's limit costs no statement, and ends with it."""
    async with ConnectionPool(pg_proxy_url, cp_max=1) as pool:
        for _ in range(2):
            call = pool.runInteraction(shown, timeout=9)
            assert await sent(pg_proxy, call) == ("16384ms", 3)
        async with pool.transaction(timeout=3) as txn:
            assert await txn.runQuery(SHOW) == [("4096ms",)]
        assert await sent(pg_proxy, pool.runQuery(SHOW)) == ([("0",)], 1)


async def test_no_old_limit_holds(pg_proxy, pg_proxy_url):
    """A call without a time limit never runs under an earlier one's."""
    async with ConnectionPool(pg_proxy_url, cp_max=1) as pool:
        assert await pool.runQuery(SHOW, timeout=9) == [("16384ms",)]
        # A transaction puts it aside in its BEGIN, a statement has it taken back.
        assert await sent(pg_proxy, pool.runInteraction(shown)) == ("0", 3)
        assert await sent(pg_proxy, pool.runQuery(SHOW)) == ([("0",)], 2)
        assert await sent(pg_proxy, pool.runQuery(SHOW)) == ([("0",)], 1)
        assert await sent(pg_proxy, pool.runInteraction(shown)) == ("0", 3)

        def bare(raw):
            return raw.execute(SHOW).fetchone()[0]

        await pool.runQuery(SHOW, timeout=9)
        assert await pool.runWithConnection(bare, autocommit=True) == "0"


@pytest.mark.parametrize("verb", ["alone", "together"])
async def test_the_users_own_is_kept(pg_url, verb):
    """A limit that the user has set is only ever made shorter, and comes back."""

    def prepare(raw):
        raw.execute("set statement_timeout = '5s'")

    async with ConnectionPool(pg_url, cp_max=1, cp_openfun=prepare) as pool:

        async def ask(**options):
            if verb == "alone":
                return (await pool.runQuery(SHOW, **options))[0][0]
            return await pool.runInteraction(shown, **options)

        assert await ask(timeout=60) == "5s"
        assert await ask() == "5s"
        assert await ask(timeout=0.4) == "512ms"
        assert await ask(timeout=60) == "5s"
        assert await ask(timeout=0.4) == "512ms"
        assert await ask() == "5s"


@pytest.mark.parametrize(
    ("option", "alone", "together"),
    [({"cp_push_timeout": False}, "0", "0"), ({"cp_pgbouncer": True}, "0", "16384ms")],
)
async def test_options(pg_proxy, pg_proxy_url, option, alone, together):
    """`cp_push_timeout=False` tells the server nothing, `cp_pgbouncer=True` nothing
    outside a transaction.
    """
    async with ConnectionPool(pg_proxy_url, cp_max=1, **option) as pool:
        for _ in range(2):
            call = pool.runQuery(SHOW, timeout=9)
            assert await sent(pg_proxy, call) == ([(alone,)], 1)
            call = pool.runInteraction(shown, timeout=9)
            assert await sent(pg_proxy, call) == (together, 3)


async def test_nothing_is_prepared_for_pgbouncer(pg_url):
    """Behind PgBouncer no statement is prepared, and the user has the last word."""
    count = "select count(*) from pg_prepared_statements"
    for options, expected in [
        ({"cp_pgbouncer": True}, False),
        ({}, True),
        ({"cp_pgbouncer": True, "prepare_threshold": 3}, True),
    ]:
        async with ConnectionPool(pg_url, cp_max=1, **options) as pool:
            for n in range(9):
                await pool.runQuery("select %s::int", (n,))
            ((found,),) = await pool.runQuery(count)
            assert (found > 0) is expected


async def test_hooks_have_their_time(pg_url):
    """What the user's functions do between calls is under no call's limit; what they
    change in the session is noticed.
    """
    seen = []

    def reset(raw):
        seen.append(raw.execute(SHOW).fetchone()[0])
        raw.execute("discard all")

    def prepare(raw):
        raw.execute("set statement_timeout = '5s'")

    hooks = {"cp_openfun": prepare, "cp_resetfun": reset}
    async with ConnectionPool(pg_url, cp_max=1, **hooks) as pool:
        assert await pool.runQuery(SHOW, timeout=0.4) == [("512ms",)]
        assert await pool.runQuery(SHOW, timeout=60) == [("65536ms",)]
        assert await pool.runQuery(SHOW) == [("0",)]
        assert pool.stats().opened == 1
    assert seen[0] == "5s"
    assert set(seen[1:]) == {"0"}


async def test_discarded_sessions(pg_url):
    """A session may be cleared by DISCARD ALL after each call: nothing is missed."""

    def reset(raw):
        raw.execute("discard all")

    async with ConnectionPool(pg_url, cp_max=1, cp_resetfun=reset) as pool:
        for n in range(20):
            assert await pool.runQuery("select %s::int", (n,)) == [(n,)]
            assert await pool.runInteraction(shown, timeout=9) == "16384ms"
        assert pool.stats().opened == 1


# -- when it strikes -------------------------------------------------------------------


@pytest.mark.parametrize("sql", ["select pg_sleep(60)", "select pg_sleep(60) as x"])
async def test_stopped_by_the_server(pg_url, deaf, sql):
    """What the server stops after its time is QueryTimeout as well, with the server's
    error as its cause; the connection stays in use.
    """
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        for call in (
            pool.runQuery(sql, timeout=0.1),
            pool.runInteraction(lambda txn: txn.execute(sql), timeout=0.1),
        ):
            error = await outcome(call)
            assert isinstance(error, QueryTimeout)
            assert "more than its 0.1 s" in str(error)
            assert isinstance(error.__cause__, psycopg.errors.QueryCanceled)
        assert await pool.runQuery("select 1") == [(1,)]
        assert pool.stats().opened == 1


async def test_pools_limit_is_kept_by_the_server(pg_url, deaf):
    """`cp_query_timeout` is pushed like a call's own limit."""
    async with ConnectionPool(pg_url, cp_max=1, cp_query_timeout=0.1) as pool:
        error = await outcome(pool.runQuery("select pg_sleep(60)"))
        assert isinstance(error, QueryTimeout)
        assert "more than its 0.1 s" in str(error)


async def test_a_lease_is_stopped_by_the_server(pg_url, deaf):
    """A call in a block whose time is over fails with QueryTimeout, and so does the
    block.
    """
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        with pytest.raises(QueryTimeout):
            async with pool.transaction(timeout=0.1) as txn:
                await txn.runQuery("select pg_sleep(60)")
        assert await pool.runQuery("select 1") == [(1,)]


async def test_stopped_before_its_time(pg_url):
    """A statement that somebody else stops earlier keeps the server's error."""

    def prepare(raw):
        raw.execute("set statement_timeout = '50ms'")

    async with ConnectionPool(pg_url, cp_max=1, cp_openfun=prepare) as pool:
        error = await outcome(pool.runQuery("select pg_sleep(60)", timeout=30))
        assert isinstance(error, psycopg.errors.QueryCanceled)


async def test_ours_is_the_clock(pg_url):
    """Where our canceller gets through, the server's limit makes no difference."""
    async with ConnectionPool(pg_url, cp_max=1) as pool:
        loop = asyncio.get_running_loop()
        began = loop.time()
        error = await outcome(pool.runQuery("select pg_sleep(60)", timeout=0.3))
        assert isinstance(error, QueryTimeout)
        assert error.__cause__ is None
        assert loop.time() - began < 5
