"""Calls of a lease that are not awaited one by one: in order, whatever is cancelled."""

from __future__ import annotations

import asyncio
import random
import threading
from asyncio import CancelledError

import pytest

from enterprise import ConnectionPool
from tests.enterprise.helpers import PATIENCE_SECONDS, balance, outcome, reached

ROWS = "select id from item order by rowid"


class Held:
    """A lease whose worker can be kept busy while calls pile up."""

    def __init__(self, txn):
        self.gate, inside = threading.Event(), threading.Event()

        def wait(_):
            inside.set()
            assert self.gate.wait(PATIENCE_SECONDS)

        self.call = txn.runInteraction(wait)
        self.inside = inside


async def pool_on(tmp_path):
    pool = ConnectionPool("sqlite3", str(tmp_path / "x.db"))
    await pool.runOperation("create table item (id integer unique)")
    return pool


async def test_in_order(tmp_path):
    """Thousands of calls that nobody awaits are done in order, and committed."""
    async with await pool_on(tmp_path) as pool:
        numbers = random.Random(1).sample(range(10_000), 3000)
        fired = []
        async with pool.transaction() as txn:
            for i in numbers:
                call = txn.runOperation("insert into item values (?)", (i,))
                call.addCallback(lambda _, i=i: fired.append(i))
        assert fired == numbers
        assert await pool.runQuery(ROWS) == [(i,) for i in numbers]


async def test_one_wake_for_many(tmp_path):
    """The worker is told once of all that piled up while it was busy."""
    async with await pool_on(tmp_path) as pool, pool.transaction() as txn:
        held = Held(txn)
        await reached(held.inside)
        calls = [
            txn.runOperation("insert into item values (?)", (i,)) for i in range(100)
        ]
        assert txn._lease.line._words.qsize() == 0
        assert repr(txn._lease.line) == "<Line of 100 calls>"
        held.gate.set()
        await asyncio.gather(*calls)


@pytest.mark.parametrize("seed", range(5))
async def test_cancelled_in_a_burst(tmp_path, seed):
    """Those cancelled before their turn are never done; all others are, in order."""
    chance = random.Random(seed)
    async with await pool_on(tmp_path) as pool:
        async with pool.transaction() as txn:
            held = Held(txn)
            await reached(held.inside)
            calls = [
                txn.runOperation("insert into item values (?)", (i,)) for i in range(50)
            ]
            gone = set(chance.sample(range(50), 20))
            for i in gone:
                assert calls[i].cancel()
            held.gate.set()
            results = [await outcome(call) for call in calls]
        assert {i for i in range(50) if isinstance(results[i], CancelledError)} == gone
        kept = [(i,) for i in range(50) if i not in gone]
        assert await pool.runQuery(ROWS) == kept
        stats = pool.stats()
        assert stats.errors == {}
        assert len(set(balance(stats))) == 1


async def test_cancel_hits_its_own(tmp_path):
    """A cancel of the call that runs never meets the one after it."""
    endless = (
        "with recursive n(i) as (select 1 union all select i + 1 from n) "
        "select count(*) from n"
    )
    async with await pool_on(tmp_path) as pool:
        async with pool.transaction() as txn:
            for i in range(30):
                running = txn.runQuery(endless)
                after = txn.runOperation("insert into item values (?)", (i,))
                await asyncio.sleep(0.001 * (i % 3))
                running.cancel()
                assert isinstance(await outcome(running), CancelledError)
                await after
        assert await pool.runQuery(ROWS) == [(i,) for i in range(30)]


async def test_an_error_in_a_burst(tmp_path):
    """The first error that nobody has seen ends the block, and undoes it all."""
    async with await pool_on(tmp_path) as pool:
        with pytest.raises(Exception, match="UNIQUE"):
            async with pool.transaction() as txn:
                for i in [*range(500), 7, *range(500, 1000)]:
                    txn.runOperation("insert into item values (?)", (i,))
        assert await pool.runQuery(ROWS) == []
        assert pool.stats().errors["IntegrityError"] == 1
