"""PostgreSQL pipelines: that there are any, and that they change nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import ipaddress
import uuid

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.enterprise.helpers import outcome, until
from tests.enterprise.pipelines import ADD, Gate, learn, pool_of_one

# -- that there are any ----------------------------------------------------------------


async def test_waiting_statements_go_out_together(pg_proxy, pg_proxy_url):
    """What waits together is on the wire before the first answer, and costs one round
    trip.
    """
    async with pool_of_one(pg_proxy_url) as pool:
        await learn(pool, (ADD, (0,)))
        async with Gate(pool):
            calls = [pool.runQuery(ADD, (n,)) for n in range(20)]
            before, there, back = (
                pg_proxy.statements,
                pg_proxy.to_server.chunks,
                pg_proxy.to_client.chunks,
            )
            pg_proxy.freeze()
        await until(lambda: pool.stats().busy == 20, "all of them to be sent")
        await asyncio.to_thread(pg_proxy.heal)
        assert [await call for call in calls] == [[(n + 1,)] for n in range(20)]
        assert pg_proxy.statements - before == 20
        assert pg_proxy.to_server.chunks - there < 10
        assert pg_proxy.to_client.chunks - back < 21


@pytest.mark.parametrize("option", [{"cp_pipeline": False}, {"cp_pgbouncer": True}])
async def test_can_be_turned_off(pg_url, sizes, option):
    """`cp_pipeline=False` sends one after the other, as does `cp_pgbouncer=True`."""
    async with pool_of_one(pg_url, **option) as pool:
        async with Gate(pool):
            calls = [pool.runQuery(ADD, (n,)) for n in range(9)]
        assert [await call for call in calls] == [[(n + 1,)] for n in range(9)]
        assert sizes == []


async def test_no_more_than_thirty_two(pg_url, sizes):
    """A pipeline has 32 statements at the most."""
    async with pool_of_one(pg_url) as pool:
        await learn(pool, (ADD, (0,)))
        sizes.clear()
        async with Gate(pool):
            calls = [pool.runQuery(ADD, (n,)) for n in range(100)]
        assert [await call for call in calls] == [[(n + 1,)] for n in range(100)]
        assert max(sizes) == 32
        assert sum(sizes) == 100


async def test_order_is_kept(pg_url):
    """With one connection statements run in the order of their calls."""
    async with pool_of_one(pg_url) as pool:
        await pool.runOperation("create table t (id serial, n int)")
        add = "insert into t (n) values (%s)"
        async with Gate(pool):
            calls = [pool.runOperation(add, (n,)) for n in range(90)]
        await asyncio.gather(*calls)
        rows = await pool.runQuery("select n from t order by id")
        assert [n for (n,) in rows] == list(range(90))


# -- that they change nothing ----------------------------------------------------------

VALUES = [
    *[1, -(2**31), 2**40, 2**70, 1.5, True, None, "text", "ü%s", "", b"\0bytes"],
    *[decimal.Decimal("1.10"), uuid.UUID(int=7), dt.date(2026, 1, 2)],
    *[
        dt.datetime.fromisoformat("2026-01-02 03:04:05.000006"),
        dt.time(1, 2),
        dt.timedelta(1, 2, 3),
    ],
    dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    *[[1, 2], ["a", None], [[1], [2]], Jsonb({"a": [1]}), ipaddress.ip_address("::1")],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
async def test_values_are_psycopgs_own(pg_url, sizes, value):
    """A value goes and comes back as psycopg would have it, and so does its type."""
    sql = "select %s as x, pg_typeof(%s)::text as t, %s is null, 7::numeric"
    params = (value,) * 3
    with psycopg.connect(pg_url.replace("+psycopg", "")) as connection:
        try:
            cursor = connection.execute(sql, params)
        except psycopg.Error as error:
            expected = type(error), str(error)
        else:
            expected = cursor.fetchall()
    async with pool_of_one(pg_url) as pool:
        await learn(pool, (sql, params))
        for _ in range(3):
            async with Gate(pool):
                calls = [pool.runQuery(sql, params) for _ in range(4)]
            for call in calls:
                found = await outcome(call)
                if isinstance(found, Exception):
                    found = type(found), str(found)
                assert found == expected
    assert not isinstance(expected, list) or max(sizes) > 1


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("select 1, 'a%b'", None),
        ("select 1 as x, '100%%' as y", ()),
        ("select %(a)s::int, %(b)s::text, %(a)s::int", {"a": 1, "b": "x", "c": 9}),
        ("select %s::int, %s::int;  ", [1, 2]),
        ("with x as (select %s::int as n) select n + 1 from x", (1,)),
        ("values (1, 2), (3, 4)", None),
        ("(select 1) union all select 2", None),
        ("select", None),
        ('select 1 as "ü", 2 as "ü"', None),
        ("insert into t values (%s) returning n, n + 1 as m", (5,)),
        ("insert into t select generate_series(1, 3)", None),
        ("update t set n = n where n < %s", (0,)),
        ("delete from t where false", None),
        ("table t", None),
        # Those that only psycopg itself reads.
        ("select %b::int", (1,)),
        ("select 1; select 2", None),
        ("-- why\nselect 1", None),
        ("show statement_timeout", None),
        ("explain select 1", None),
        ("select ';', %s::int", (1,)),
        # Those that fail.
        ("select %s::int", ()),
        ("select %s::int", {"a": 1}),
        ("select %(a)s::int", {"b": 1}),
        ("select %(a)s::int, %s", (1,)),
        ("select 5 % 2", ()),
        ("select 1 / %s::int", (0,)),
        ("select nothing from nowhere", None),
        ("selec 1", None),
        ("select %s::int", (object(),)),
        ("select 'x'::int", None),
        ("select 1\0", None),
        ("select '\ud800'", None),
        ("", None),
        ("insert into strict values (1)", None),
        ("insert into child values (%s)", (99,)),
        ("select '10000-01-01'::date", None),
        ("copy t to stdout", None),
        ("vacuum t", None),
    ],
)
async def test_the_same_with_and_without(pg_url, sql, params):
    """A statement gives the same rows, names, counts, errors, in a pipeline or not."""
    seen = []
    for option in (True, False):
        async with pool_of_one(pg_url, cp_pipeline=option) as pool:
            await pool.runScript(
                "drop table if exists t, strict, child, parent; create table t (n int);"
                "create table strict (n int check (n > 1));"
                "create table parent (n int primary key);"
                "create table child (n int references parent deferrable initially "
                "deferred)"
            )
            found = []
            for _ in range(2):
                async with Gate(pool):
                    calls = [pool.runResult(sql, params), pool.runQuery(sql, params)]
                    calls.append(pool.runOperation(sql, params))
                    calls.append(pool.runQuery("select 'fine'"))
                for call in calls:
                    what = await outcome(call)
                    if isinstance(what, psycopg.Error):
                        diag = what.diag
                        found.append((type(what), str(what), what.sqlstate))
                        found.append((diag.message_primary, diag.constraint_name))
                    elif isinstance(what, Exception):
                        found.append((type(what), str(what)))
                    else:
                        found.append(what)
            found.append(await pool.runQuery("select * from t"))
            seen.append(found)
    assert seen[0] == seen[1]


async def test_an_error_is_its_own_only(pg_url, sizes):
    """In a pipeline, a statement that fails takes nothing else along."""
    sql = "select 10 / %s::int"
    async with pool_of_one(pg_url) as pool:
        await learn(pool, (sql, (1,)))
        sizes.clear()
        async with Gate(pool):
            calls = [pool.runQuery(sql, (n,)) for n in (1, 0, 2, 0, 0, 5)]
        found = [await outcome(call) for call in calls]
        assert max(sizes) == 6
        failed = psycopg.errors.DivisionByZero
        assert [isinstance(one, failed) or one for one in found] == [
            *([(10,)], True, [(5,)], True, True, [(2,)])
        ]
        assert found[1].sqlstate == "22012"
        assert found[1].diag.message_primary == "division by zero"
        assert pool.stats().errors == {"DivisionByZero": 3}


async def test_a_constraint_that_speaks_at_the_commit(pg_url, sizes):
    """What fails only when it is committed fails by itself, too."""
    async with pool_of_one(pg_url) as pool:
        await pool.runScript(
            "create table parent (n int primary key);insert into parent values (1);"
            "create table child (n int references parent deferrable initially deferred)"
        )
        sql = "insert into child values (%s)"
        await learn(pool, (sql, (1,)))
        sizes.clear()
        async with Gate(pool):
            calls = [pool.runOperation(sql, (n,)) for n in (1, 2, 1)]
        found = [await outcome(call) for call in calls]
        assert max(sizes) == 3
        assert isinstance(found[1], psycopg.errors.ForeignKeyViolation)
        assert found[::2] == [None, None]
        assert await pool.runQuery("select count(*) from child") == [(4,)]


async def test_often_said_is_prepared(pg_url):
    """What is said often is prepared after psycopg's threshold, up to its maximum, and
    losing that to a DISCARD is nobody's trouble.
    """
    count = "select count(*) from pg_prepared_statements where name like '_thread%'"
    options = {"prepare_threshold": 2}

    def prepare(raw):
        raw.prepared_max = 3

    async with pool_of_one(pg_url, cp_openfun=prepare, **options) as pool:
        for turn in range(8):
            async with Gate(pool):
                calls = [
                    pool.runQuery(f"select {n}, %s::int", (turn,)) for n in range(6)
                ]
            assert [await call for call in calls] == [[(n, turn)] for n in range(6)]
            if turn % 3 == 2:
                await pool.runWithConnection(
                    lambda raw: raw.execute("discard all"), autocommit=True
                )
        ((found,),) = await pool.runQuery(count)
        assert 0 < found <= 3


async def test_a_table_that_changes(pg_url):
    """A prepared statement whose table has changed is said anew."""
    async with pool_of_one(pg_url, prepare_threshold=0) as pool:
        await pool.runScript("create table t (n int);insert into t values (1)")
        for column in "abc":
            for _ in range(2):
                async with Gate(pool):
                    calls = [pool.runQuery("select * from t") for _ in range(3)]
                rows = [await call for call in calls]
                assert rows[0] == rows[1] == rows[2]
            await pool.runScript(f"alter table t add {column} text")
        assert await pool.runQuery("select * from t") == [(1, None, None, None)]


async def test_rows_of_another_kind(pg_url, sizes):
    """Who has asked psycopg for rows or cursors of another kind gets those."""
    async with pool_of_one(pg_url, row_factory=dict_row) as pool:
        async with Gate(pool):
            calls = [pool.runQuery("select 1 as x") for _ in range(3)]
        assert [await call for call in calls] == [[{"x": 1}]] * 3


async def test_notices_and_notifications(pg_url, sizes):
    """What the server tells besides reaches its handlers, and disturbs nobody."""
    heard, told = [], []

    def prepare(raw):
        raw.add_notify_handler(heard.append)
        raw.add_notice_handler(told.append)
        raw.execute("listen news")

    async with pool_of_one(pg_url, cp_openfun=prepare) as pool:
        await pool.runScript(
            "create function warn(n int) returns int language plpgsql as "
            "$$begin raise notice 'warned %', n; return n; end$$"
        )
        say, warn = "select pg_notify('news', %s)", "select warn(%s)"
        await learn(pool, (say, ("0",)), (warn, (0,)))
        async with Gate(pool):
            calls = [
                pool.runQuery(*call)
                for n in range(5)
                for call in ((say, (str(n),)), (warn, (n,)))
            ]
        found = [await call for call in calls]
        await pool.runQuery("select 'what came after the last answer is heard'")
        assert found[1::2] == [[(n,)] for n in range(5)]
        assert [each.payload for each in heard] == ["0", "0", *"01234"]
        assert len(told) == 7
        assert max(sizes) > 1


async def test_big_ones(pg_url):
    """Values and results that fit into no socket buffer pass through both ways."""
    sql = "select repeat(%s, 3)"
    async with pool_of_one(pg_url) as pool:
        await learn(pool, (sql, ("x",)))
        async with Gate(pool):
            calls = [pool.runQuery(sql, (str(n) * 2_000_000,)) for n in range(6)]
        for n, call in enumerate(calls):
            ((text,),) = await call
            assert text == str(n) * 6_000_000


async def test_scripts_are_never_prepared(pg_url):
    """A script can be run as often as one likes on one connection."""
    async with pool_of_one(pg_url) as pool:
        for _ in range(9):
            await pool.runScript("select 1; select 2")
