"""Pools that starve: who is told, and of whom; what is abandoned, and left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import pickle
import threading
from types import SimpleNamespace

import pytest

from enterprise import ConnectionPool
from enterprise.errors import PoolTimeout, WrongThread
from enterprise.holders import Holder, listed, restsSince
from tests.enterprise.helpers import item_table, names, outcome, reached, until
from tests.enterprise.leases import DATABASE_ERRORS, alone, insert
from threadpool.defer import Deferred
from threadpool.reactor import reactor
from threadpool.threads import blockingCallFromThread


def warnings(caplog, word):
    """Return the texts of the warnings that contain *word*."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and word in record.getMessage()
    ]


async def child(pool, text="rows 1"):
    """Ask in a task of its own, which nobody takes for the one that holds the lease."""
    return await pool.runQuery(text)


# -- Who has the connections -----------------------------------------------------------


async def test_timeout_names_the_holders(script):
    """PoolTimeout says who has the connections and for how long; three by name."""
    async with ConnectionPool(script, cp_max=5, cp_timeout=0.05) as pool:
        held = [pool.runQuery(f"hang here; rows {number}") for number in range(5)]
        await until(lambda: pool.stats().busy == 5, "all to run")
        error = await outcome(pool.runQuery("rows 6"))
        assert isinstance(error, PoolTimeout)
        text = str(error)
        assert "They are held by: hang here; rows" in text
        assert "; and 2 more." in text
        assert text.count("(for 0.") == 3
        assert "raise cp_max" in text
        labels = sorted(holder.label for holder in error.holders)
        assert labels == [f"hang here; rows {number}" for number in range(5)]
        assert {holder.state for holder in error.holders} == {"working"}
        seconds = [holder.seconds for holder in error.holders]
        assert seconds == sorted(seconds, reverse=True)
        assert seconds[-1] >= 0
        again = pickle.loads(pickle.dumps(error))
        assert (again.holders, again.stats) == (error.holders, error.stats)
        script.gate("here").open()
        assert await asyncio.gather(*held) == [[(number,)] for number in range(5)]


async def test_timeout_names_idle_and_blocked(script):
    """A lease between two statements is called idle, a thread that waits blocked."""
    async with ConnectionPool(script, cp_max=2, cp_timeout=0.05) as pool:
        elsewhere = Deferred()

        def wait_for_loop(txn):
            return blockingCallFromThread(reactor, lambda: elsewhere)

        async with pool.transaction() as txn:
            await txn.runQuery("rows 1")
            job = pool.runInteraction(wait_for_loop)
            await until(lambda: pool.stats().busy == 2, "both")
            error = await outcome(asyncio.create_task(child(pool)))
            idle, blocked = error.holders
            assert (idle.state, blocked.state) == ("idle", "blocked")
            assert "a transaction: nothing at the moment (for 0." in str(error)
            assert " s, idle); " in str(error)
            assert "wait_for_loop (for 0." in str(error)
            assert "s, waits for the event loop)" in str(error)
            assert "end transactions before waiting" in str(error)
            elsewhere.callback("done")
            assert await job == "done"


async def test_only_the_lane_is_named(tmp_path):
    """Who waits for SQLite's writer hears of the writer, and not of readers."""
    url = f"sqlite:///{tmp_path}/a.db"
    async with ConnectionPool(url, cp_max=3, cp_timeout=0.05) as pool:
        await pool.runOperation("create table a (id int)")
        go_on = threading.Event()
        reads = pool.runInteraction(lambda txn: go_on.wait(30), readonly=True)
        async with pool.transaction():
            await until(lambda: pool.stats().busy == 2, "both")
            error = await outcome(asyncio.create_task(child_write(pool)))
            assert [holder.label for holder in error.holders] == [
                "a transaction: nothing at the moment"
            ]
        go_on.set()
        await reads


async def child_write(pool):
    """Write in a task of its own."""
    return await pool.runOperation("insert into a values (1)")


def test_texts_of_holders():
    """Each kind of holder has its words, and lists end after three."""
    holders = [
        Holder("a", 1.26, "working"),
        Holder("b", 2.0, "idle"),
        Holder("c", 3.0, "blocked"),
        Holder("d", 4.0, "abandoned"),
    ]
    assert [str(holder) for holder in holders] == [
        "a (for 1.3 s)",
        "b (for 2.0 s, idle)",
        "c (for 3.0 s, waits for the event loop)",
        "d (abandoned 4.0 s after it began)",
    ]
    assert listed(holders[:1]) == "a (for 1.3 s)"
    assert listed("abc") == "a; b; c"
    assert listed("abcd") == "a; b; c; and 1 more"


# -- Starving --------------------------------------------------------------------------


async def test_starving_is_told_once(script, caplog):
    """All connections rest while a call waits: one WARNING after 1 s names both."""
    async with ConnectionPool(script, cp_max=2, cp_name="shop") as pool:
        async with pool.transaction(), pool.transaction():
            began = asyncio.get_running_loop().time()
            calls = [asyncio.create_task(child(pool, f"rows {n}")) for n in range(2)]
            await until(lambda: warnings(caplog, "starves"), "the warning")
            assert 0.9 < asyncio.get_running_loop().time() - began < 10
            (text,) = warnings(caplog, "starves")
            assert text.startswith("shop starves: 2 call(s) wait (rows 0; rows 1), ")
            assert "the 2 connection(s)" in text
            assert text.count("a transaction: nothing at the moment (for") == 2
            # At the second look it is the same situation.
            looks = pool._office._deadlines._next
            await until(
                lambda: pool._office._deadlines._next > looks + 0.5, "another look"
            )
        assert await asyncio.gather(*calls) == [[(0,)], [(1,)]]
        assert len(warnings(caplog, "starves")) == 1


async def test_starving_again(script, caplog):
    """Another situation is told of again."""
    async with ConnectionPool(script, cp_max=1) as pool:
        for count in (1, 2):
            async with pool.transaction():
                call = asyncio.create_task(child(pool))
                await until(
                    lambda count=count: len(warnings(caplog, "starves")) == count,
                    "the warning",
                )
            assert await call == [(1,)]


async def test_blocked_interaction_is_named_once(script, caplog):
    """A worker that waits in blockingCallFromThread is named, and told of once."""
    async with ConnectionPool(script, cp_max=1) as pool:
        elsewhere = Deferred()

        def wait_for_loop(txn):
            return blockingCallFromThread(reactor, lambda: elsewhere)

        job = pool.runInteraction(wait_for_loop)
        await until(lambda: pool.stats().busy == 1, "the interaction")
        call = pool.runQuery("rows 2")
        await until(lambda: warnings(caplog, "starves"), "the warning")
        assert len(warnings(caplog, "starves")) == 1
        assert "wait_for_loop (for" in warnings(caplog, "starves")[0]
        elsewhere.callback("done")
        assert await job == "done"
        assert await call == [(2,)]


async def test_work_is_not_starving(script, caplog):
    """A connection that works keeps others waiting, and nobody starves."""
    async with ConnectionPool(script, cp_max=2) as pool:
        held = pool.runQuery("hang here; rows 1")
        async with pool.transaction():
            call = asyncio.create_task(child(pool))
            await until(lambda: pool.stats().waiting == 1, "the call to wait")
            looks = pool._office._deadlines._next
            await until(lambda: pool._office._deadlines._next > looks + 0.5, "the look")
            script.gate("here").open()
            assert await held == [(1,)]
            assert await call == [(1,)]
    assert not warnings(caplog, "starves")


def test_who_is_being_stopped_does_not_rest():
    """A holder that is being stopped is about to go: nobody starves by it."""
    stopping = SimpleNamespace(cancel_wanted=True, idleSince=lambda: 1.0)
    resting = SimpleNamespace(cancel_wanted=False, idleSince=lambda: 1.0)
    assert restsSince(stopping) == math.inf
    assert restsSince(resting) == 1.0


# -- Abandoned -------------------------------------------------------------------------


async def give_up(pool, script, number):
    """Have the pool abandon a call; return when its caller was told."""
    call = pool.runOperation(f"hang {number}")
    await until(script.gate(str(number)).reached.is_set, "the statement")
    call.cancel()
    assert isinstance(await outcome(call), asyncio.CancelledError)


async def test_abandoned_are_told_at_half_and_at_all(script, caplog):
    """One WARNING when half of cp_max is abandoned, and another when all are."""
    async with ConnectionPool(script, cp_max=4, cp_grace=0.01, cp_timeout=0.05) as pool:
        await give_up(pool, script, 0)
        assert not warnings(caplog, "belong to drivers")
        await give_up(pool, script, 1)
        await until(lambda: warnings(caplog, "belong to drivers"), "the warning")
        (half,) = warnings(caplog, "belong to drivers")
        assert "2 of its 4 connections" in half
        assert "hang 0 (abandoned 0." in half
        assert "The others do the work with 2" in half
        await give_up(pool, script, 2)
        assert await pool.runQuery("rows 1") == [(1,)]
        await give_up(pool, script, 3)
        await until(
            lambda: len(warnings(caplog, "belong to drivers")) == 2, "the other one"
        )
        assert "4 of its 4" in warnings(caplog, "belong to drivers")[1]
        assert "All calls wait" in warnings(caplog, "belong to drivers")[1]
        error = await outcome(pool.runQuery("rows 2"))
        assert isinstance(error, PoolTimeout)
        assert "hang 0 (abandoned 0." in str(error)
        assert "Those abandoned come back" in str(error)
        assert {holder.state for holder in error.holders} == {"abandoned"}
        script.release()
        assert await pool.runQuery("rows 3") == [(3,)]


async def test_the_only_one_abandoned(script, caplog):
    """Of one connection, half is all: told once, and again when it happens again."""
    async with ConnectionPool(script, cp_max=1, cp_grace=0.01) as pool:
        for count in (1, 2):
            await give_up(pool, script, count)
            await until(
                lambda count=count: len(warnings(caplog, "belong to drivers")) == count,
                "the warning",
            )
            script.gate(str(count)).open()
            assert await pool.runQuery("rows 3") == [(3,)]
        assert "1 of its 1" in warnings(caplog, "belong to drivers")[0]


# -- A loop that was closed without a word ---------------------------------------------


def test_lease_of_a_closed_loop(database, caplog):
    """A lease whose loop was closed is rolled back and given back, with one WARNING."""
    item_table(database)
    pool = ConnectionPool(database.url, cp_max=1)
    loop = asyncio.new_event_loop()

    async def begin():
        block = pool.transaction()
        txn = await block.__aenter__()
        await txn.runOperation(insert(3))
        return block

    # Referred to, so that no garbage collector ends it.
    block = loop.run_until_complete(begin())
    loop.close()

    async def use():
        assert await asyncio.create_task(child(pool, "select 1")) == [(1,)]
        await alone(pool)
        await pool.close()

    asyncio.run(use())
    assert len(names(database)) == 2
    assert len(warnings(caplog, "closed in the middle of a transaction")) == 1
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    assert "LeasedTransaction open" in repr(block)
    del block
    gc.collect()
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


def test_lease_of_a_closed_loop_that_nobody_waits_for(database, caplog):
    """It is given back although nobody asks for its connection."""
    pool = ConnectionPool(database.url, cp_max=3)
    loop = asyncio.new_event_loop()

    async def begin():
        block = pool.transaction()
        await block.__aenter__()
        return block

    block = loop.run_until_complete(begin())
    loop.close()

    async def look():
        await until(lambda: pool.stats().busy == 0, "the lease to be given back")
        await pool.close()

    asyncio.run(look())
    assert len(warnings(caplog, "closed in the middle of a transaction")) == 1
    assert block is not None


# -- Smaller ones ----------------------------------------------------------------------


async def test_readonly_lease_that_writes(shop):
    """The driver's own error, with a note that names the cure."""
    async with ConnectionPool(shop.url, cp_max=2) as pool:
        async with pool.transaction(readonly=True) as txn:
            with pytest.raises(DATABASE_ERRORS) as caught:
                async with txn.savepoint():
                    await txn.runOperation(insert(3))
            error = caught.value
            (note,) = error.__notes__
            assert note.startswith("The transaction was begun with readonly=True")
            assert note.endswith("Begin it without readonly.")
        work = pool.runInteraction(
            lambda txn: txn.execute(insert(3)).fetchall(), readonly=True
        )
        assert len((await outcome(work)).__notes__) == 1
        await alone(pool)


async def test_query_that_could_not_be_moved(tmp_path):
    """Whose caller holds the writer, that query's error says so."""
    async with ConnectionPool(f"sqlite:///{tmp_path}/a.db", cp_max=2) as pool:
        await pool.runOperation("create table item (id integer, name text)")
        async with pool.transaction():
            error = await outcome(pool.runQuery(f"{insert(3)} returning id"))
            assert isinstance(error, DATABASE_ERRORS)
            assert "its own caller holds the writer" in error.__notes__[0]


@pytest.mark.parametrize("readonly", [False, True])
async def test_close_in_a_worker(tmp_path, readonly):
    """A worker that closes its own pool would wait for itself, and is refused."""
    pool = ConnectionPool(f"sqlite:///{tmp_path}/a.db", cp_max=2)
    with pytest.raises(WrongThread, match="in one of its own workers"):
        await pool.runInteraction(lambda txn: pool.close(), readonly=readonly)
    assert await pool.runQuery("select 1") == [(1,)]  # It was not even begun.
    await pool.close()


async def test_worker_closes_another_pool(tmp_path, script):
    """A worker may close another pool, and waits for it."""
    other = ConnectionPool(script)
    assert await other.runQuery("rows 1") == [(1,)]
    begun = threading.Event()

    def work(txn):
        begun.set()
        return other.close().result()

    async with ConnectionPool(f"sqlite:///{tmp_path}/a.db") as pool:
        job = pool.runInteraction(work)
        await reached(begun)
        assert await job == ()
