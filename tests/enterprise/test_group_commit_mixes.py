"""Group commit: random mixes have the same outcomes with it and without it."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.enterprise.groups import Stage
from tests.enterprise.helpers import outcome

SCHEMA = """
    create table parent (id integer primary key);
    insert into parent values (1), (2);
    create table item (
        id integer primary key autoincrement, what unique,
        parent references parent, again unique on conflict rollback
    );
    create trigger t before insert on item when new.what = 6
    begin select raise(rollback, 'six'); end;
    create trigger u before insert on item when new.what = 7
    begin select raise(fail, 'seven'); end;
"""

small = st.integers(0, 8)
words = st.sampled_from(
    ["", "or abort", "or rollback", "or fail", "or ignore", "or replace"]
)
kinds = st.one_of(
    st.tuples(st.just("insert"), words, small, small),
    st.tuples(st.just("two"), words, small, small),
    st.tuples(st.just("update"), words, small, small),
    st.tuples(st.just("delete"), words, small, small),
    st.tuples(st.just("returning"), words, small, small),
    st.tuples(st.just("broken"), words, small, small),
    st.tuples(st.just("grouped"), words, small, small),
    st.tuples(st.just("alone"), words, small, small),
)


class Whim(Exception):
    """What a function raises."""


def work(txn, word, a, b):
    txn.execute(f"insert {word} into item (what, again) values (?, ?)", (a, b))
    if a % 4 == 3:
        raise Whim(a)
    try:
        with txn.savepoint():
            txn.execute("insert into item (what) values (?)", (b,))
    except Exception as error:
        return type(error).__name__
    return txn.execute("select count(*) from item").fetchone()


def call(pool, kind, word, a, b):
    sql = f"insert {word} into item (what, again) values (?, ?)"
    update = f"update {word} item set what = what + ?, parent = ? where id > ?"
    results = {
        "insert": (sql, (a, b)),
        "two": (sql + ", (?, 70)", (a, b, a + 1)),
        "update": (update, (a - 4, b, a)),
    }
    if kind in results:
        return pool.runResult(*results[kind], write=True)
    match kind:
        case "delete":
            return pool.runOperation("delete from item where what = ?", (a,))
        case "returning":
            return pool.runQuery(sql + " returning id, what", (a, b), write=True)
        case "broken":
            return pool.runOperation("insert into nowhere values (1)")
        case _:
            return pool.runInteraction(work, word, a, b, group=kind == "grouped")


def _shown(made, result):
    if isinstance(result, BaseException):
        return f"{type(result).__name__}: {result}"
    if made[0] == "update" or not getattr(result, "rowcount", 1):
        # What was not inserted has no row: that of some insert before is left there.
        return getattr(result, "rowcount", result)
    return result


async def played(mix, *, grouped):
    with tempfile.TemporaryDirectory() as folder:
        setup = ("pragma foreign_keys = on", "pragma synchronous = off")
        stage = Stage(Path(folder), SCHEMA, setup=setup, cp_group_commit=grouped)
        async with stage:
            await stage.hold()
            calls = [call(stage.pool, *each) for each in mix]
            await stage.release()
            results = [await outcome(each) for each in calls]
            shown = [_shown(*pair) for pair in zip(mix, results, strict=True)]
            sql = "select * from item order by id"
            sequence = stage.rows("select * from sqlite_sequence")
            return shown, stage.rows(sql), sequence, stage.count("COMMIT")


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(mix=st.lists(kinds, min_size=2, max_size=12))
def test_same_outcomes(mix):
    """The same calls have the same outcomes, and leave the same rows, with groups and
    without.
    """

    async def both():
        *with_groups, _ = await played(mix, grouped=True)
        *without, _ = await played(mix, grouped=False)
        assert with_groups == without

    asyncio.run(both())
