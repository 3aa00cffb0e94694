"""Errors: their codes, the page that explains them, and a first user's mistakes."""

from __future__ import annotations

import functools
import gc
import logging
import pickle
import re
import traceback
from datetime import date
from pathlib import Path

import pytest

from enterprise import (
    ConfigurationError,
    ConnectionPool,
    PoolTimeout,
    TransactionEnded,
    errors,
)
from tests.enterprise.helpers import outcome
from threadable._coded import Coded
from threadpool.error import PoolFull

PAGE = Path(__file__).parent.parent.parent / "docs" / "errors.md"

CLASSES = [getattr(errors, name) for name in errors.__all__]


def example(cls):
    """Make an error as it is made elsewhere."""
    if cls is PoolFull:
        return cls("Full.", unfinished=3, limit=2)
    return cls("Something is so.")


@pytest.mark.parametrize("cls", CLASSES)
def test_text_ends_with_the_code(cls):
    """The text is what was said, and the code in brackets behind it."""
    error = example(cls)
    assert str(error) == f"{error.args[0]} [{cls.code}]"
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cls.code)
    assert cls.docs == f"docs/errors.md#{cls.code}"


@pytest.mark.parametrize("cls", CLASSES)
def test_pickling_keeps_everything(cls):
    """A pickled error has its text once, its attributes and its notes."""
    error = example(cls)
    if cls is errors.ConnectionLost:
        error.outcome = "rolled_back"
    error.add_note("A note.")
    copy = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
    assert type(copy) is cls
    assert (str(copy), copy.args) == (str(error), error.args)
    assert vars(copy) == vars(error)


def test_code_alone():
    """An error without a text is its code, and a user's subclass has its base's."""

    class Mine(errors.PoolClosed):
        """Somebody's own."""

    assert str(Mine()) == "[pool-closed]"
    assert Mine.docs == "docs/errors.md#pool-closed"


def test_every_error_has_its_section():
    """The page has one section for each exported class, named by its code."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    told = {}
    for section in sections:
        title, text = section.split("\n", 1)
        told[title] = re.search(r"`(\w+)`", text)[1]
    assert told == {cls.code: cls.__name__ for cls in CLASSES}
    assert list(told) == sorted(told)


def test_every_section_says_what_was_sent_and_what_to_do():
    """Where a call failed, its section says whether anything was sent, and the cure."""
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        if "you will\nnot see it by itself" in section or "Catch it" in section:
            continue  # A base.
        assert "**Sent:**" in section, section
        assert "**To do:**" in section, section


def test_every_class_of_ours_is_exported():
    """No error with a code of its own is missing in `enterprise.errors`."""

    def below(cls):
        for sub in cls.__subclasses__():
            if sub.__module__.partition(".")[0] in {
                *("threadable", "threadpool", "enterprise")
            }:
                yield sub
            yield from below(sub)

    assert set(below(Coded)) == set(CLASSES)


def test_pool_timeout_brings_its_figures_along(script):
    """A PoolTimeout with the pool's figures can be pickled, figures and all."""
    stats = ConnectionPool(script).stats()
    copy = pickle.loads(pickle.dumps(PoolTimeout("Waited.", stats)))
    assert copy.stats == stats
    assert hash(copy.stats) == hash(stats)


# -- What a first user gets wrong --------------------------------------------------


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("sqlite", "'sqlite:///shop.db' for a file, 'sqlite://' for one in memory"),
        ("SQLite", "sqlite:///shop.db"),
        ("postgresql", "'postgresql://user:password@host/name'"),
        ("postgres", "'postgresql://user:password@host/name'"),
        ("mysql", "'mysql\\+pymysql://"),
    ],
)
def test_kind_of_database_instead_of_a_url(name, url):
    """The name of a kind of database is answered with how its URL looks."""
    with pytest.raises(ConfigurationError, match=url) as caught:
        ConnectionPool(name)
    assert f"'{name}' names a kind of database" in str(caught.value)


@pytest.mark.parametrize(
    ("params", "kind", "cure"),
    [
        (7, "int", r"\(7,\) and not 7"),
        (1.5, "float", r"\(7,\) and not 7"),
        (date(2026, 1, 1), "date", r"\(7,\)"),
        ({1, 2}, "set", r"\(7,\)"),
        ((x for x in "ab"), "generator", r"\(7,\)"),
        ("s3cret", "str", r'\("abc",\) and not "abc"'),
        (b"s3cret", "bytes", r'\("abc",\)'),
    ],
)
async def test_one_value_as_parameters(script, params, kind, cure):
    """One value where several belong is refused at the call, without being shown."""
    async with ConnectionPool(script) as pool:
        for verb in (pool.runQuery, pool.runOperation, pool.runResult):
            with pytest.raises(TypeError, match=f"one {kind}.*{cure}") as caught:
                verb("select ?", params)
            assert "s3cret" not in str(caught.value)
        async with pool.transaction() as txn:
            for verb in (txn.runQuery, txn.runOperation, txn.execute):
                with pytest.raises(TypeError, match=cure):
                    verb("select ?", params)
        assert pool.stats().submitted == 1  # The transaction.


@pytest.mark.parametrize("params", [None, (), (7,), [7], {"a": 7}, range(2), "row"])
async def test_several_values_as_parameters(params):
    """Tuples, lists, mappings and any other sequence of values pass."""
    async with ConnectionPool("sqlite://") as pool:
        if params == "row":
            params = await pool.runWithConnection(_row)
        statement = "select :a" if isinstance(params, dict) else "select 1"
        count = len(params) if params else 0
        if count and not isinstance(params, dict):
            statement = "select " + ", ".join("?" * count)
        assert len(await pool.runQuery(statement, params)) == 1


def _row(connection):
    cursor = connection.cursor()
    import sqlite3  # for its rows

    cursor.row_factory = sqlite3.Row
    return cursor.execute("select 1 as a").fetchone()


async def test_cursor_that_was_returned(database):
    """An interaction may return its cursor, as many do; rows are fetched inside."""
    async with ConnectionPool(database.url) as pool:
        txn = await pool.runInteraction(lambda txn: txn.execute("select 1"))
        with pytest.raises(TransactionEnded, match="Fetch them inside the function"):
            txn.fetchall()


async def test_interaction_may_return_anything_else(script):
    """What only looks like a cursor, since it says yes to every name, may come home."""

    class Yes:
        def __getattr__(self, name):
            return self

    yes = Yes()
    async with ConnectionPool(script) as pool:
        assert await pool.runInteraction(lambda txn: yes) is yes


@pytest.mark.parametrize(
    ("option", "cure"),
    [
        ("cp_threads", "say cp_max"),
        ("cp_reactor", "Leave it out"),
        ("cp_pool_size", "cp_max"),
        ("cp_recycle", "cp_lifetime"),
        ("cp_pre_ping", "cp_check"),
    ],
)
def test_option_from_elsewhere(option, cure):
    """What other pools call it is answered with what it is called here."""
    with pytest.raises(ConfigurationError, match=cure):
        ConnectionPool("sqlite://", **{option: 1})


@pytest.mark.parametrize(
    "password", ["p@s3cret", "p@s3/s3cret", "p@s3cret?s3cret", "p=@s3cret", "p@s3cret#"]
)
def test_password_with_a_bare_at(password):
    """A password that is not escaped is refused; no part of it is shown as the host."""
    with pytest.raises(ConfigurationError, match="%40") as caught:
        ConnectionPool(f"postgresql://ada:{password}@h/shop")
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "s3" not in told


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///me@home:a@b.db",
        "postgresql://ada@corp:pw@h/shop",
        "postgresql://ada:p%40ss@h/shop",
        "postgresql://ada:pw@h/shop?application_name=a@b",
        "postgresql://ada@h/shop",
    ],
)
def test_at_where_it_belongs(url):
    """An @ in a file's or a user's name, escaped, or in an option is no mistake."""
    assert "pw" not in repr(ConnectionPool(url))


# -- Failures that nobody looked at ------------------------------------------------


@pytest.mark.usefixtures("expect_errors")
async def test_unseen_failure_shows_only_the_users_frames(caplog):
    """Its report leads to the user's function, and through none of our rooms."""

    def transfer(txn):
        txn.execute("selekt")

    async with ConnectionPool("sqlite://") as pool:
        call = pool.runInteraction(transfer)
        await outcome(pool.runQuery("select 1"))
        del call
        gc.collect()
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    frames = traceback.extract_tb(record.exc_info[2])
    assert [(frame.filename, frame.name) for frame in frames] == [
        (__file__, "transfer")
    ]
    # The failure itself keeps all of its frames.
    assert "/enterprise/interaction.py" in record.failure.getTraceback()


@pytest.mark.usefixtures("expect_errors")
async def test_unseen_failure_of_a_statement(caplog):
    """Where no frame is the user's there is none, and the text says what would help."""
    async with ConnectionPool("sqlite://") as pool:
        call = pool.runQuery("selekt")
        await outcome(pool.runQuery("select 1"))
        del call
        gc.collect()
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.exc_info[2] is None
    assert "setDebugging(True)" in record.getMessage()


async def test_labels_show_no_values():
    """A partial's arguments are no part of any text."""
    from enterprise.jobs import shown

    class Call:
        def __repr__(self):
            return "s3cret"

        def __call__(self, txn):
            """Do nothing."""

    def work(txn, secret):
        """Do nothing."""

    partial = functools.partial(functools.partial(work, secret="s3cret"), 7)
    assert shown(partial).endswith("work")
    assert shown(Call()).endswith("Call")
