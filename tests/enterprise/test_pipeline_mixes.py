"""Pipelines change no outcome, whatever travels together; and what they stand on."""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enterprise import ConnectionPool
from enterprise.drivers._durations import PARDONED, TEXTS, Durations, Known
from enterprise.errors import PoolTimeout, QueryTimeout
from tests.enterprise.helpers import outcome, until
from tests.enterprise.pipelines import Gate

# What a call is, and what becomes of it: a word and a number.
KINDS = ["row", "note", "divides", "twice", "slow", "endless", "late", "cancelled"]
CALLS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 3)), min_size=1, max_size=12
)


def begin(pool, place, kind, number):
    """Make the call; those that are stopped are stopped by and by."""
    note = "insert into note values (%s) returning n"
    made = {
        "row": lambda: pool.runQuery("select %s::int, 'x'", (number,)),
        "note": lambda: pool.runResult(note, (place,)),
        "divides": lambda: pool.runQuery("select 12 / %s::int", (number,)),
        "twice": lambda: pool.runOperation("insert into once values (%s)", (number,)),
        "slow": lambda: pool.runQuery("select %s::int from pg_sleep(0.03)", (number,)),
        "late": lambda: pool.runQuery("select 1 from pg_sleep(60)", timeout=0.1),
        "endless": lambda: pool.runQuery("select %s::int from pg_sleep(60)", (place,)),
        "cancelled": lambda: pool.runOperation(note, (place,)),
    }[kind]()
    if kind == "endless":
        asyncio.get_running_loop().call_later(0.1, made.cancel)
    elif kind == "cancelled":
        made.cancel()
    return made


async def play(url, calls, maximum, pipeline):
    """Return what became of all *calls*, called at once."""
    async with ConnectionPool(url, cp_max=maximum, cp_pipeline=pipeline) as pool:
        await pool.runScript(
            "drop table if exists note, once; create table note (n int);"
            "create table once (n int primary key)"
        )
        for kind in ("row", "slow", "divides"):  # These are known, then.
            for _ in range(2):
                await outcome(begin(pool, 0, kind, 1))
        async with Gate(pool):
            begun = [begin(pool, place, *call) for place, call in enumerate(calls)]
        found = [await outcome(call) for call in begun]
        notes = await pool.runQuery("select n from note order by n")
        once = await pool.runQuery("select n from once order by n")
        # An answer may be home before its worker has put everything away.
        await until(lambda: not pool.stats().unfinished, "the workers to be done")
        assert pool.stats().lost == 0
    stored = [n for (n,) in notes]
    told = []
    for place, ((kind, _), what) in enumerate(zip(calls, found, strict=True)):
        failed = isinstance(what, BaseException)
        if kind == "late":  # Whether it had begun by then is up to the machine.
            told.append(isinstance(what, (QueryTimeout, PoolTimeout)))
        elif kind == "cancelled":  # It may have been done before the cancel arrived.
            assert (place in stored) is not isinstance(what, asyncio.CancelledError)
            stored = [n for n in stored if n != place]
        elif kind != "twice":  # Who comes first among equals is up to the server.
            told.append((type(what).__name__, str(what)) if failed else what)
    twice = [
        isinstance(what, psycopg.errors.UniqueViolation) or what
        for (kind, _), what in zip(calls, found, strict=True)
        if kind == "twice"
    ]
    return told, sorted(map(str, twice)), stored, once


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(calls=CALLS, maximum=st.sampled_from([1, 3]))
def test_mixes(pg_url, calls, maximum):
    """Good, failing, slow, late and cancelled statements have the same outcomes with
    pipelines as without.
    """

    async def both():
        return [await play(pg_url, calls, maximum, on) for on in (True, False)]

    together, alone = asyncio.run(both())
    assert together == alone


async def test_many_at_once(pg_url):
    """Of 2 000 calls with random ends, each has its own answer and nothing is lost."""
    async with ConnectionPool(pg_url, cp_max=4) as pool:
        await pool.runOperation("create table note (n int)")
        add = "insert into note values (%s) returning n"
        calls = [
            pool.runQuery(add, (n,), timeout=0.001 if n % 13 == 5 else None)
            if n % 7
            else pool.runQuery("select %s::int / %s::int", (n, n % 2))
            for n in range(2000)
        ]
        for n in range(3, 2000, 11):
            asyncio.get_running_loop().call_later(n / 20_000, calls[n].cancel)
        found = [await outcome(call) for call in calls]
        stored = {n for (n,) in await pool.runQuery("select n from note")}
        for n, one in enumerate(found):
            if n % 7 == 0:
                fails = psycopg.errors.DivisionByZero
                kinds = (asyncio.CancelledError,) if n % 2 else (fails,)
                assert one == [(n,)] or isinstance(
                    one, (*kinds, asyncio.CancelledError)
                )
            elif isinstance(one, BaseException):
                ends = (asyncio.CancelledError, QueryTimeout)
                assert isinstance(one, (*ends, PoolTimeout))
                assert n not in stored
            else:
                assert one == [(n,)]
                assert n in stored
        # An answer may be home before its worker has put everything away.
        await until(lambda: not pool.stats().unfinished, "the workers to be done")
        assert pool.stats().lost == 0


# -- what is known of a text -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbered", "names", "count"),
    [
        ("select %s, %s", b"select $1, $2", None, 2),
        ("select %(a)s, %(b)s, %(a)s", b"select $1, $2, $1", ("a", "b"), 2),
        ("select '%%', 5 %% %s", b"select '%', 5 % $1", None, 1),
        ("select 1", b"select 1", None, 0),
        ("select %(a)s, %s", b"", None, 0),
        ("select %b", b"", None, 0),
        ("select 5 % 2", b"", None, 0),
    ],
)
def test_placeholders(text, numbered, names, count):
    """Placeholders become numbers; what is not plain is left to psycopg."""
    known = Known(text)
    assert known.fit
    assert (known.numbered, known.names, known.count) == (numbered, names, count)


@pytest.mark.parametrize(
    "text",
    [
        *["", "vacuum", "copy t from stdin", "begin", "create database x", "call p()"],
        *["select 1; select 2", "/* why */ select 1", "select '\0'", "select 'a;b'"],
        *["explain analyze select 1", "listen x", "selectx", "select '\ud800'"],
        "select '" + "x" * 5000 + "'",
    ],
)
def test_texts_that_travel_alone(text):
    """What is not surely one plain statement is not sent in a pipeline."""
    assert not Known(text).fit


def test_texts_are_forgotten():
    """A thousand texts are kept: those used last."""
    durations = Durations()
    first = durations.of("select 0")
    for n in range(3 * TEXTS):
        durations.of(f"select {n}")
        assert durations.of("select 0") is first
    assert len(durations) <= TEXTS
    durations.of("select '" + "x" * 5000 + "'")
    assert len(durations) <= TEXTS


def test_slow_texts(monkeypatch):
    """A slow text is barred for a minute, or until it was fast 256 times in a row."""
    now = [1000.0]
    monkeypatch.setattr("enterprise.drivers._durations.time.monotonic", lambda: now[0])
    known = Known("select 1")
    assert known.expected() == float("inf")
    known.took(0.001)
    known.took(0.002)
    assert 0.001 < known.expected() < 0.0011
    known.bar()
    assert known.barred
    assert known.expected() == float("inf")
    now[0] += 61
    assert not known.barred
    assert known.expected() == float("inf")
    known.took(0.001)
    known.bar()
    for _ in range(PARDONED):
        assert known.barred
        known.took(0.001)
    assert not known.barred


# -- what all this stands on -----------------------------------------------------------


def test_psycopg_is_as_we_know_it():
    """What pipelines use of psycopg is there, and takes what we pass; a new major
    version is to be looked at first.
    """
    from psycopg import errors, pq
    from psycopg.adapt import Transformer

    major, minor = importlib.metadata.version("psycopg").split(".")[:2]
    assert (int(major), int(minor)) >= (3, 2)
    assert int(major) < 4
    wanted = ["send_query_params", "send_query_prepared", "send_prepare", "get_result"]
    wanted += ["enter_pipeline_mode", "exit_pipeline_mode", "pipeline_sync", "flush"]
    wanted += ["consume_input", "is_busy", "notifies", "status", "transaction_status"]
    assert [name for name in wanted if not hasattr(pq.PGconn, name)] == []
    wanted = ["dump_sequence", "load_rows", "set_pgresult", "types", "formats"]
    assert [name for name in wanted if not hasattr(Transformer, name)] == []
    assert (
        next(iter(inspect.signature(errors.error_from_result).parameters)) == "result"
    )
    assert isinstance(psycopg.Connection.prepare_threshold, property)
