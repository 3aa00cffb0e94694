"""Faults that a review found: each failed before it was mended."""

from __future__ import annotations

import dataclasses

import pytest

from enterprise import ConnectionPool, TransactionEnded


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """An exception whose attributes cannot be set."""

    reason: str = "s3cret"


async def test_exception_that_cannot_be_changed(postgres, pg_name):
    """An exception that refuses to be redacted arrives, and the worker lives on."""

    def work(txn):
        raise Frozen

    url = postgres.url(pg_name)
    async with ConnectionPool(url, password="unused-s3cret", cp_max=1) as pool:
        with pytest.raises(Frozen):
            await pool.runInteraction(work)
        assert await pool.runQuery("select 1") == [(1,)]
        assert pool.stats().opened == 1


async def test_script_that_ends_in_a_comment(tmp_path):
    """A comment that is never closed does not swallow the script's COMMIT."""
    url = f"sqlite:///{tmp_path}/shop.db"
    async with ConnectionPool(url) as pool:
        await pool.runScript("create table t (id integer)")
        await pool.runScript("insert into t values (1); /* note")
        await pool.runScript("insert into t values (2); -- note")
    async with ConnectionPool(url) as pool:
        assert await pool.runQuery("select count(*) from t") == [(2,)]


@pytest.mark.parametrize("call", ["runInteraction", "runWithConnection"])
async def test_script_inside_a_transaction_is_refused(tmp_path, call):
    """Executescript would commit behind the transaction's back; it is not there."""

    def work(handle):
        handle.execute("insert into t values (1)")
        handle.executescript("select 1;")

    async with ConnectionPool(f"sqlite:///{tmp_path}/shop.db") as pool:
        await pool.runScript("create table t (id integer)")
        with pytest.raises(AttributeError, match="runScript"):
            await getattr(pool, call)(work)
        assert await pool.runQuery("select count(*) from t") == [(0,)]


async def test_commit_of_a_failed_transaction_is_no_success(database):
    """Connection.commit after an error that was swallowed says that nothing is left."""

    def work(connection):
        cursor = connection.cursor()
        cursor.execute("insert into t values (1)")
        with pytest.raises(Exception, match="nowhere"):
            cursor.execute("select * from nowhere")
        connection.commit()

    async with ConnectionPool(database.url) as pool:
        await pool.runOperation("create table t (id integer)")
        if database.kind == "postgres":
            with pytest.raises(TransactionEnded):
                await pool.runWithConnection(work)
            assert await pool.runQuery("select count(*) from t") == [(0,)]
        else:  # SQLite's transaction survives a statement that fails.
            await pool.runWithConnection(work)
            assert await pool.runQuery("select count(*) from t") == [(1,)]
