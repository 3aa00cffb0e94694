"""Group commit: who shares a COMMIT, and that nobody can tell from the outcome."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from enterprise import ConfigurationError, ConnectionPool, TransactionEnded
from enterprise.drivers._group import GroupCommit, writes
from enterprise.retry import RetryPolicy
from tests.enterprise.groups import INSERT, Stage
from tests.enterprise.helpers import PATIENCE_SECONDS, balance, outcome, reached


async def test_one_commit(tmp_path):
    """Writes that wait share one COMMIT; each has its own full answer."""
    async with Stage(tmp_path) as stage:
        pool = stage.pool
        await stage.hold()
        calls = [
            pool.runOperation(INSERT, (1, "a")),
            pool.runResult("insert into item values (7, 'b')", write=True),
            pool.runQuery("insert into item values (3, 'c') returning id", write=True),
            pool.runResult("update item set what = what || '!'", write=True),
            pool.runOperation("-- gone\n delete from item where id = 1"),
            pool.runOperation(
                "with x(i) as (values (9)) insert into item select i, i from x"
            ),
        ]
        await stage.release()
        _, second, third, fourth, _, _ = await asyncio.gather(*calls)
        assert (stage.count("BEGIN"), stage.count("COMMIT")) == (1, 1)
        assert "SAVEPOINT" not in stage.said()
        assert (second.lastrowid, third, fourth.rowcount) == (7, [(3,)], 3)
        assert stage.rows() == [(3, "c!"), (7, "b!"), (9, 9)]
        stats = pool.stats()
        assert (stats.unfinished, stats.finished) == (0, 7)
        assert len(set(balance(stats))) == 1
        assert stats.waits.count == stats.runs.count == 7


async def test_answered_after_commit(tmp_path):
    """A call of a group is answered when everybody can see its row."""
    async with Stage(tmp_path) as stage:
        await stage.hold()
        seen = []
        calls = [
            stage.pool.runOperation(INSERT, (i, i)).addCallback(
                lambda _: seen.append(len(stage.rows()))
            )
            for i in range(5)
        ]
        await stage.release()
        await asyncio.gather(*calls)
        assert seen == [5] * 5


async def test_alone_as_before(tmp_path):
    """A write that waits alone gets no transaction of ours around it."""
    async with Stage(tmp_path) as stage:
        await stage.hold()
        call = stage.pool.runOperation(INSERT, (1, 1))
        await stage.release()
        await call
        assert "BEGIN" not in stage.said()


async def test_switched_off(tmp_path):
    """With cp_group_commit=False each write has a COMMIT of its own."""
    async with Stage(tmp_path, cp_group_commit=False) as stage:
        await stage.hold()
        calls = [stage.pool.runOperation(INSERT, (i, i)) for i in range(3)]
        await stage.release()
        await asyncio.gather(*calls)
        assert "BEGIN" not in stage.said()
    with pytest.raises(ConfigurationError, match="cp_group_commit"):
        ConnectionPool("sqlite3", "x.db", cp_group_commit=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("insert into t values (1)", True),
        ("\n /* a */ -- b\n Replace into t values (1)", True),
        ("with a as (select 1) delete from t", True),
        ("with a as (select 1) select * from a", False),
        ("select 1", False),
        ("-- insert into t", False),
        ("/* insert", False),
        ("insertion", False),
        ("pragma user_version = 1", False),
        ("create table t (x)", False),
        ("begin", False),
        ("/*" * 5000, False),
    ],
)
def test_which_texts(text, expected):
    """Only single statements that change rows are grouped, by their first word."""
    assert writes(text) is expected


async def test_what_runs_alone(tmp_path):
    """What is no single write stands between groups and runs alone, in its order."""
    async with Stage(tmp_path) as stage:
        pool = stage.pool
        await stage.hold()
        calls = [
            pool.runOperation(INSERT, (1, 1)),
            pool.runOperation(INSERT, (2, 2)),
            pool.runScript("create table other (x); insert into other values (1)"),
            pool.runInteraction(lambda txn: txn.execute(INSERT, (3, 3)) and None),
            pool.runOperation("pragma user_version = 5"),
            pool.runOperation(INSERT, (4, 4)),
            pool.runOperation(INSERT, (5, 5)),
        ]
        await stage.release()
        await asyncio.gather(*calls)
        # Two groups, the script and the interaction.
        assert (stage.count("BEGIN"), stage.count("COMMIT")) == (4, 4)
        assert [row[0] for row in stage.rows()] == [1, 2, 3, 4, 5]


async def test_no_more_than_64(tmp_path):
    """A group ends with its 64th member."""
    async with Stage(tmp_path) as stage:
        await stage.hold()
        calls = [stage.pool.runOperation(INSERT, (i, i)) for i in range(150)]
        await stage.release()
        await asyncio.gather(*calls)
        assert stage.count("COMMIT") >= 3
        assert len(stage.rows()) == 150


async def test_slow_texts_are_barred(tmp_path):
    """A statement that took long ends its group; three times in a row, and it runs
    alone for a minute.
    """
    async with Stage(tmp_path) as stage:
        pool = stage.pool
        slow = "insert into item select 99 + ?, ? where nap()"

        def nap():
            until = time.monotonic() + napping
            while time.monotonic() < until:
                pass
            return 1

        await pool.runWithConnection(
            lambda raw: raw.create_function("nap", 0, nap), autocommit=True
        )
        (worker,) = pool._office.writer.team.crew()
        batcher = worker._batcher
        assert isinstance(batcher, GroupCommit)
        for turn, napping in enumerate([0.01, 0.01, 0, 0.01, 0.01, 0.01]):
            assert not batcher._barred
            await stage.hold()
            calls = [
                pool.runOperation("delete from item where id < ?", (turn,)),
                pool.runOperation(slow, (turn, f"s{turn}")),
                pool.runOperation("delete from item where id < ?", (turn,)),
                pool.runOperation("delete from item where id < ?", (turn,)),
            ]
            await stage.release()
            await asyncio.gather(*calls)
            if napping:
                assert stage.count("COMMIT") == 2
        assert "1 barred" in repr(batcher)
        assert not batcher.joins(pool.runOperation(slow, (50, "fifty")))
        batcher._barred[slow] = time.monotonic()
        assert batcher.joins(pool.runOperation(slow, (51, "fifty-one")))
        assert not batcher._barred


# -- Failures --------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("bad", ["abort", "rollback", "fail"])
async def test_failing_member(tmp_path, place, bad):
    """A constraint concerns its own statement only, whatever its OR says."""
    async with Stage(tmp_path) as stage:
        with closing(sqlite3.connect(stage.path)) as raw, raw:
            raw.execute("insert into item values (0, 'old')")
        await stage.hold()
        calls = []
        for i in range(4):
            if i == place:
                # The first row of the two is fine, the second is not.
                sql = f"insert or {bad} into item values (50, 'x'), (?, ?)"
                calls.append(stage.pool.runOperation(sql, (51, "old")))
            else:
                calls.append(stage.pool.runOperation(INSERT, (i + 1, i)))
        await stage.release()
        results = [await outcome(call) for call in calls]
        assert isinstance(results[place], sqlite3.IntegrityError)
        assert [r for r in results if r is not results[place]] == [None] * 3
        kept = {i + 1 for i in range(4) if i != place} | {0}
        # FAIL keeps what was done before, as it does without a group.
        assert {row[0] for row in stage.rows()} == kept | (
            {50} if bad == "fail" else set()
        )
        assert stage.pool.stats().errors == {"IntegrityError": 1}


@pytest.mark.parametrize("action", ["rollback", "abort", "fail"])
async def test_failing_trigger(tmp_path, action):
    """A trigger's RAISE undoes no more than it would without a group."""
    schema = f"""
        create table item (id integer primary key, what);
        create trigger t after insert on item when new.what = 'bad'
        begin select raise({action}, 'no'); end;
    """
    async with Stage(tmp_path, schema) as stage:
        await stage.hold()
        whats = ["a", "bad", "b", "bad", "c"]
        calls = [stage.pool.runOperation(INSERT, each) for each in enumerate(whats)]
        await stage.release()
        results = [await outcome(call) for call in calls]
        assert [isinstance(r, sqlite3.IntegrityError) for r in results] == [
            what == "bad" for what in whats
        ]
        wanted = [0, 1, 2, 3, 4] if action == "fail" else [0, 2, 4]
        assert [row[0] for row in stage.rows()] == wanted


async def test_full_disk(tmp_path):
    """Where the file may not grow, those that fit are stored, and only others fail."""
    setup = ("pragma max_page_count = 12",)
    async with Stage(tmp_path, setup=setup) as stage:
        sql = "insert into item values (?, zeroblob(?))"
        await stage.hold()
        sizes = [10, 90_000, 20, 90_001, 30]
        calls = [stage.pool.runOperation(sql, each) for each in enumerate(sizes)]
        await stage.release()
        results = [await outcome(call) for call in calls]
        for size, result in zip(sizes, results, strict=True):
            full = getattr(result, "sqlite_errorname", None) == "SQLITE_FULL"
            assert full == (size > 1000), (size, result)
        assert [row[0] for row in stage.rows()] == [0, 2, 4]


KEYS = """
    create table parent (id integer primary key);
    create table item (id integer primary key, what references parent {});
"""


@pytest.mark.parametrize("deferred", ["", "deferrable initially deferred"])
async def test_foreign_keys(tmp_path, deferred):
    """A foreign key is judged as alone: nobody behind it in the group can mend it."""
    schema = KEYS.format(deferred)
    async with Stage(tmp_path, schema, setup=("pragma foreign_keys = on",)) as stage:
        pool = stage.pool
        for turn in range(2):  # What is known of the schema is asked once.
            await stage.hold()
            calls = [
                pool.runOperation(INSERT, (1, 10)),
                pool.runOperation("insert or ignore into parent values (10)"),
                pool.runOperation("replace into item values (2, 10)"),
            ]
            await stage.release()
            results = [await outcome(call) for call in calls]
            assert stage.count("BEGIN") == (0 if deferred else 1)
            if turn == 0:
                assert isinstance(results[0], sqlite3.IntegrityError)
                assert results[1:] == [None, None]
                assert stage.rows() == [(2, 10)]


async def test_deferred_by_a_function(tmp_path):
    """A function that defers foreign keys has them checked at a COMMIT of its own."""
    stage = Stage(tmp_path, KEYS.format(""), setup=("pragma foreign_keys = on",))
    async with stage:
        pool = stage.pool

        def early(txn):
            txn.execute("pragma defer_foreign_keys = on")
            txn.execute(INSERT, (1, 10))

        await stage.hold()
        calls = [
            pool.runOperation("insert into parent values (1)"),
            pool.runInteraction(early, group=True),
            pool.runOperation("insert into parent values (10)"),
        ]
        await stage.release()
        results = [await outcome(call) for call in calls]
        assert isinstance(results[1], sqlite3.IntegrityError)
        assert (results[0], results[2]) == (None, None)
        assert stage.rows() == []


async def test_failing_commit(tmp_path):
    """Where COMMIT fails, each is done again alone, in order, with its own outcome."""
    async with Stage(tmp_path) as stage:
        driver = stage.pool.driver
        commit, fails = driver.commit, [False, True]

        def failing(raw):
            if fails and fails.pop(0):
                raise sqlite3.OperationalError("the disk says no")
            commit(raw)

        driver.commit = failing
        await stage.hold()
        calls = [stage.pool.runOperation(INSERT, (i, i % 3)) for i in range(4)]
        await stage.release()
        results = [await outcome(call) for call in calls]
        assert results[:3] == [None] * 3
        assert isinstance(results[3], sqlite3.IntegrityError)
        assert stage.rows() == [(0, 0), (1, 1), (2, 2)]
        assert stage.said().count("ROLLBACK") == 1
        stats = stage.pool.stats()
        assert len(set(balance(stats))) == 1
        assert (stats.finished, stats.unfinished) == (5, 0)


@pytest.mark.parametrize("name", ["FULL", "IOERR", "NOMEM"])
async def test_no_room_for_all(tmp_path, name):
    """A member that finds no room in the group gets a try of its own: the others may
    have taken it.
    """
    async with Stage(tmp_path) as stage:
        driver = stage.pool.driver
        operate, fails = driver.operate, [False, True]

        def failing(raw, sql, params):
            if fails and fails.pop(0):
                error = sqlite3.OperationalError("no room")
                error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{name}")
                raise error
            operate(raw, sql, params)

        driver.operate = failing
        await stage.hold()
        calls = [stage.pool.runOperation(INSERT, (i, i)) for i in range(3)]
        await stage.release()
        assert await asyncio.gather(*calls) == [None] * 3
        assert [row[0] for row in stage.rows()] == [0, 1, 2]


async def test_attached_files(tmp_path):
    """With files attached nothing is grouped: BEGIN would want all their locks."""
    other = tmp_path / "other.db"
    setup = (f"attach '{other}' as other",)
    async with Stage(tmp_path, setup=setup) as stage:
        await stage.hold()
        calls = [stage.pool.runOperation(INSERT, (i, i)) for i in range(3)]
        await stage.release()
        await asyncio.gather(*calls)
        assert "BEGIN" not in stage.said()


# -- Functions -------------------------------------------------------------------------


async def test_functions_join(tmp_path):
    """A function with group=True shares the COMMIT; what it raises undoes it only."""
    async with Stage(tmp_path) as stage:
        pool = stage.pool
        told = []

        def add(txn, *numbers):
            txn.onCommit(told.append, ("commit", numbers))
            txn.onRollback(told.append, ("rollback", numbers))
            for i in numbers:
                txn.execute(INSERT, (i, i))
            return sum(numbers)

        await stage.hold()
        calls = [
            pool.runOperation(INSERT, (1, 1)),
            pool.runInteraction(add, 2, 3, group=True),
            pool.runInteraction(add, 4, 1, group=True),
            pool.runOperation(INSERT, (5, 5)),
        ]
        await stage.release()
        results = [await outcome(call) for call in calls]
        assert (stage.count("BEGIN"), stage.count("COMMIT")) == (1, 1)
        assert results[1] == 5
        assert isinstance(results[2], sqlite3.IntegrityError)
        assert [row[0] for row in stage.rows()] == [1, 2, 3, 5]
        assert told == [("commit", (2, 3)), ("rollback", (4, 1))]


async def test_functions_begin_anew(tmp_path):
    """A function that is done again finds its context as before, and has its first
    attempt told as rolled back.
    """
    colour = contextvars.ContextVar("colour", default="none")
    async with Stage(tmp_path) as stage:
        pool = stage.pool
        told, colours = [], []

        def add(txn):
            colours.append(colour.get())
            colour.set("red")
            txn.onCommit(told.append, "commit")
            txn.onRollback(told.append, "rollback")
            txn.execute(INSERT, (1, 1))

        await stage.hold()
        calls = [
            pool.runOperation(INSERT, (9, 9)),
            pool.runInteraction(add, group=True),
            pool.runOperation("insert or rollback into item values (5, 1)"),
        ]
        await stage.release()
        results = [await outcome(call) for call in calls]
        assert results[:2] == [None, None]
        assert isinstance(results[2], sqlite3.IntegrityError)
        assert colours == ["none", "none"]
        assert told == ["rollback", "commit"]


@pytest.mark.parametrize(
    "text", ["commit", "; END", "/* x */ rollback", "begin", "rollback transaction;"]
)
async def test_functions_end_nothing(tmp_path, text):
    """A function in a group cannot end the transaction of the others."""
    async with Stage(tmp_path) as stage:
        pool = stage.pool
        await stage.hold()
        calls = [
            pool.runOperation(INSERT, (1, 1)),
            pool.runInteraction(lambda txn: txn.execute(text) and None, group=True),
            pool.runInteraction(lambda txn: txn.connection.commit(), group=True),
            pool.runOperation(INSERT, (2, 2)),
        ]
        await stage.release()
        results = [await outcome(call) for call in calls]
        assert isinstance(results[1], TransactionEnded)
        assert isinstance(results[2], AttributeError)
        assert stage.count("COMMIT") == 1
        assert stage.rows() == [(1, 1), (2, 2)]


async def test_function_that_gets_at_the_connection(tmp_path):
    """Where a function has committed all the same nothing is done twice: those before
    it learn that nobody knows.
    """
    async with Stage(tmp_path) as stage:
        pool = stage.pool
        await stage.hold()
        calls = [
            pool.runOperation(INSERT, (1, 1)),
            pool.runInteraction(lambda txn: txn._raw.commit(), group=True),
            pool.runOperation(INSERT, (2, 2)),
        ]
        await stage.release()
        results = [await outcome(call) for call in calls]
        assert isinstance(results[0], TransactionEnded)
        assert "not known" in str(results[0])
        assert isinstance(results[1], TransactionEnded)
        assert results[2] is None
        assert stage.rows() == [(1, 1), (2, 2)]


async def test_functions_may_use_savepoints(tmp_path):
    """A function in a group may use savepoints, and roll back to them by hand."""

    def add(txn):
        txn.execute("savepoint mine")
        txn.execute(INSERT, (1, 1))
        txn.execute("rollback to mine")
        with txn.savepoint():
            txn.execute(INSERT, (2, 2))

    async with Stage(tmp_path) as stage:
        await stage.hold()
        calls = [stage.pool.runOperation(INSERT, (3, 3))]
        calls += [stage.pool.runInteraction(add, group=True)]
        await stage.release()
        await asyncio.gather(*calls)
        assert stage.rows() == [(2, 2), (3, 3)]


async def test_functions_that_cannot_join(tmp_path):
    """An iterator is refused with group=True; what asks for a retry, or a kind of
    transaction, is done alone.
    """
    async with Stage(tmp_path) as stage:
        pool = stage.pool
        with pytest.raises(TypeError, match="iterator"):
            pool.runInteraction(print, iter([]), group=True)
        with pytest.raises(TypeError, match="'group'"):
            pool.runInteraction(lambda txn, group: None)
        await stage.hold()
        calls = [
            pool.runInteraction(lambda txn: 1, group=True, retry=RetryPolicy()),
            pool.runInteraction(lambda txn: 2, group=True, isolation="serializable"),
        ]
        await stage.release()
        assert await asyncio.gather(*calls) == [1, 2]
        assert stage.count("COMMIT") == 2


async def test_closing(tmp_path):
    """A pool that is closed does what waits, also what a group leaves to do again."""
    async with Stage(tmp_path) as stage:
        await stage.hold()
        sql = "insert or rollback into item values (?, ?)"
        calls = [stage.pool.runOperation(sql, (i, i // 2)) for i in range(6)]
        closing_ = stage.pool.close()
        await stage.release()
        results = [await outcome(call) for call in calls]
        await closing_
        assert [r is None for r in results] == [True, False] * 3
        assert [row[0] for row in stage.rows()] == [0, 2, 4]


async def test_one_connection_for_all(tmp_path):
    """With cp_max=1 the one connection groups writes as well, and reads in between."""
    async with Stage(tmp_path, cp_max=1) as stage:
        pool = stage.pool
        await stage.hold()
        calls = [pool.runOperation(INSERT, (i, i)) for i in range(3)]
        calls.append(pool.runQuery("select count(*) from item"))
        await stage.release()
        results = await asyncio.gather(*calls)
        assert stage.count("COMMIT") == 1
        assert results[-1] == [(3,)]


async def test_memory_is_left_alone():
    """In memory, where a COMMIT costs nothing, nothing is grouped."""
    log = []
    open_ = lambda raw: raw.set_trace_callback(log.append)  # noqa: E731
    async with ConnectionPool("sqlite://", cp_openfun=open_) as pool:
        await pool.runOperation("create table item (id, what)")
        gate, inside = threading.Event(), threading.Event()

        def hold(txn):
            inside.set()
            assert gate.wait(PATIENCE_SECONDS)

        held = pool.runInteraction(hold)
        await reached(inside)
        calls = [pool.runOperation(INSERT, (i, i)) for i in range(3)]
        log.clear()
        gate.set()
        await asyncio.gather(held, *calls)
        assert not any(text.lower().startswith("begin") for text in log)
