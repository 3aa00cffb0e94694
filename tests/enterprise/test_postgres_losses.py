"""Which errors mean that a connection is gone, and what is left behind on one."""

from __future__ import annotations

import sys

import psycopg
import pytest
from sqlalchemy.dialects import registry
from sqlalchemy.engine.default import DefaultDialect

from enterprise import ConnectionPool
from enterprise.drivers._losses import endsSession, sqlstate
from enterprise.drivers.base import Driver
from enterprise.errors import ConnectionLost, NestedAcquire, TransactionEnded
from tests.enterprise.helpers import outcome, until
from tests.scripted import Scripted

OURS = {"cp_max": 1}


def raised(*args, **attributes):
    """Make a driver's error."""
    error = RuntimeError(*args)
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize("code", ["08006", "08S01", "57P01", "57P02", "57P03"])
@pytest.mark.parametrize("place", ["sqlstate", "pgcode", "first"])
def test_codes_of_lost_connections(code, place):
    """A connection's death is known by SQLSTATE, wherever the driver puts it."""
    error = raised(code, "text") if place == "first" else raised(**{place: code})
    assert sqlstate(error) == code
    assert endsSession(error)


@pytest.mark.parametrize("code", ["57014", "40001", "25P02", "", None, 8, "HY000"])
def test_codes_of_other_errors(code):
    """Other errors leave the connection alone, whatever they are."""
    assert not endsSession(raised(code, sqlstate=code))
    assert not endsSession(raised())


def test_short_texts_are_no_codes():
    """Only five letters and digits are a code."""
    assert sqlstate(raised("08 is")) == ""
    assert sqlstate(raised("08006: gone")) == ""


@pytest.mark.parametrize(
    ("closed", "lost"),
    [(False, False), (True, True), (0, False), (2, True), (lambda: True, False)],
)
def test_closed_attribute(closed, lost):
    """A connection that says of itself that it is closed is lost; a method of that
    name says nothing.
    """
    raw = type("Raw", (), {"closed": closed})
    raw.closed = closed
    assert Driver("any", raw, Scripted()).lost(raw, ValueError()) is lost


@pytest.mark.parametrize("answer", [True, False, ZeroDivisionError])
def test_sqlalchemys_knowledge(answer):
    """Where a URL was given, SQLAlchemy's dialect is asked; what it does not
    understand is not lost.
    """

    class Dialect:
        def is_disconnect(self, error, connection, cursor):
            if answer is ZeroDivisionError:
                raise answer
            return error.args == ("gone",) and answer

    driver = Driver("any", object, Scripted(), dialect=Dialect())
    assert driver.lost(object(), raised("gone")) is (answer is True)
    assert not driver.lost(object(), raised("here"))


class ScriptedDialect(DefaultDialect):
    """What a third party's package would register with SQLAlchemy."""

    driver = "scripted"

    @classmethod
    def import_dbapi(cls):
        return sys.modules["scripted"]

    def is_disconnect(self, e, connection, cursor):
        return isinstance(e, self.loaded_dbapi.Error) and "server closed" in str(e)


async def test_url_brings_its_dialect(monkeypatch, script):
    """A URL's dialect says by itself what its driver means: the connection is replaced
    although the driver's error is one that others live on with.
    """
    monkeypatch.setitem(sys.modules, "scripted", script)
    registry.register("scripted", __name__, "ScriptedDialect")
    async with ConnectionPool("scripted://nobody@nowhere/none", cp_max=1) as pool:
        assert isinstance(await outcome(pool.runQuery("fail")), script.Error)
        error = await outcome(pool.runQuery("lose"))
        assert isinstance(error, ConnectionLost)
        assert isinstance(error.__cause__, script.OperationalError)
        assert await pool.runQuery("rows 1") == [(1,)]
        assert (pool.stats().opened, pool.stats().connections) == (2, 1)


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("idle_in_transaction_session_timeout = 20", "25P03"),
        ("transaction_timeout = 20", "25P04"),
    ],
)
async def test_session_limits(postgres, pg_url, setting, code):
    """A session that the server ends for its age is lost, and what it did undone."""

    def prepare(raw):
        raw.execute(f"set {setting}")

    def idle(txn):
        pid = txn.execute("select pg_backend_pid()").fetchone()[0]
        alive = f"select count(*) from pg_stat_activity where pid = {pid}"
        return pid, alive

    async with ConnectionPool(pg_url, cp_openfun=prepare, **OURS) as pool:
        with pytest.raises(ConnectionLost) as caught:
            async with pool.transaction() as txn:
                pid, alive = await txn.runInteraction(idle)
                await until(lambda: postgres.psql(alive) == "0", f"{pid} to be ended")
                await txn.runQuery("select 1")
        assert caught.value.outcome == "rolled_back"
        assert caught.value.__cause__.sqlstate == code
        assert await pool.runQuery("select 1") == [(1,)]


async def test_idle_session_limit(postgres, pg_name, pg_url):
    """A session that the server ends for idling is replaced; one call is told."""

    def prepare(raw):
        raw.execute("set idle_session_timeout = 30")

    async with ConnectionPool(pg_url, cp_openfun=prepare, **OURS) as pool:
        await pool.runQuery("select 1")
        await until(lambda: not postgres.backends(pg_name), "the session to end")
        error = await outcome(pool.runQuery("select 2"))
        assert isinstance(error, ConnectionLost)
        assert error.__cause__.sqlstate == "57P05"
        assert await pool.runQuery("select 3") == [(3,)]


@pytest.mark.parametrize("code", ["08006", "57P01", "57P03"])
async def test_somebody_elses_connection(pg_url, code):
    """An error about a connection of the server's own, to a foreign table's server,
    say, is passed on as it is: ours lives.
    """
    async with ConnectionPool(pg_url, **OURS) as pool:
        before = await pool.runQuery("select pg_backend_pid()")
        error = await outcome(
            pool.runScript(f"do $$ begin raise sqlstate '{code}'; end $$")
        )
        assert isinstance(error, psycopg.Error)
        assert error.sqlstate == code
        assert await pool.runQuery("select pg_backend_pid()") == before
        assert pool.stats().lost == 0


async def test_ended_after_its_answer(pg_url):
    """A connection that ends with its job, after the answer, takes no answer away, and
    nobody gets it afterwards.
    """
    async with ConnectionPool(pg_url, **OURS) as pool:

        def end(raw):
            raw.close()
            return "answer"

        assert await pool.runWithConnection(end, autocommit=True) == "answer"
        assert await pool.runQuery("select 1") == [(1,)]
        assert (pool.stats().opened, pool.stats().connections) == (2, 1)


def open_copy(txn):
    copy = txn.copy("copy a from stdin")
    copy.__enter__()
    return copy


def open_stream(txn):
    rows = txn.stream("select n, repeat('x', 999) from generate_series(1, 99999) n")
    next(rows)
    return rows


LEAVING = pytest.mark.parametrize("leave", [open_copy, open_stream])


@LEAVING
@pytest.mark.parametrize("end", ["return", "raise", "execute", "savepoint", "bare"])
async def test_left_in_the_middle(pg_url, caplog, leave, end):
    """A function that leaves a COPY or a stream open neither hangs nor commits, and
    nobody else's call meets what is left of it: it costs the connection.
    """
    kept, hooked = [], []

    def work(txn):
        txn.execute("insert into a values (1)")
        if end == "savepoint":
            with txn.savepoint():
                kept.append(leave(txn))
                raise LookupError("enough")
        kept.append(leave(txn))
        if end == "execute":
            txn.execute("select 1")
        if end == "raise":
            raise LookupError("enough")

    def bare(raw):
        kept.append(leave(raw.cursor()))

    expected = {"raise": LookupError, "savepoint": LookupError}
    expected["execute"] = NestedAcquire
    options = {**OURS, "cp_closefun": lambda raw: hooked.append(raw.closed)}
    async with ConnectionPool(pg_url, **options) as pool:
        await pool.runOperation("create table a (id int)")
        if end == "bare":
            error = await outcome(pool.runWithConnection(bare, autocommit=True))
        else:
            error = await outcome(pool.runInteraction(work))
        assert isinstance(error, expected.get(end, TransactionEnded))
        assert await pool.runQuery("select count(*) from a") == [(0,)]
        assert (pool.stats().opened, pool.stats().connections) == (2, 1)
        assert hooked == []
    assert "the connection is closed" in caplog.text


@LEAVING
async def test_block_left_in_the_middle(pg_url, leave):
    """A lease's function that leaves one open fails, and so does the whole block."""
    kept = []
    async with ConnectionPool(pg_url, **OURS) as pool:
        await pool.runOperation("create table a (id int)")
        with pytest.raises(NestedAcquire):
            async with pool.transaction() as txn:
                await txn.runOperation("insert into a values (1)")
                await txn.runInteraction(lambda txn: kept.append(leave(txn)))
        assert await pool.runQuery("select count(*) from a") == [(0,)]


async def test_pipelines_are_no_such_thing(pg_url):
    """In a pipeline of the user's a connection waits for answers, and takes more."""

    def work(txn):
        with txn.connection.pipeline(), txn.savepoint():
            for n in range(3):
                txn.execute("insert into a values (%s)", (n,))

    async with ConnectionPool(pg_url, **OURS) as pool:
        await pool.runOperation("create table a (id int)")
        await pool.runInteraction(work)
        assert await pool.runQuery("select count(*) from a") == [(3,)]
        assert pool.stats().opened == 1


async def test_what_is_ours_is_never_prepared(pg_url):
    """The same script may be run as often as one likes, and so may any check."""
    options = {"cp_good_sql": "select '%', 1", "cp_check": 0}
    async with ConnectionPool(pg_url, **OURS, **options) as pool:
        for _ in range(12):
            await pool.runScript("select 1; select 2")
            await pool.runInteraction(lambda txn: txn.execute("select 1").fetchall())
        prepared = "select statement from pg_prepared_statements order by 1"
        assert await pool.runQuery(prepared) == [("select 1",)]
        assert pool.stats().opened == 1
