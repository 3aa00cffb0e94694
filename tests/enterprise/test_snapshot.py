"""The snapshot: who runs what, for how long, and who waits."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import FrozenInstanceError

import pytest

from enterprise import ConnectionPool
from enterprise.snapshot import WAITING_SHOWN
from tests.enterprise.helpers import outcome, reached, until


async def test_snapshot_of_a_pool_at_rest(script):
    """A pool that was not started, or rests, or is closed, runs nothing."""
    pool = ConnectionPool(script)
    assert repr(pool.snapshot()) == "<Snapshot: 0 running, 0 waiting>"
    await pool.runQuery("rows 1")
    await until(lambda: not pool.snapshot().running, "the worker to rest")
    await pool.close()
    assert pool.snapshot(stacks=True).running == ()


async def test_running_and_waiting(script):
    """A running call and a waiting one are told, with times and without values."""
    async with ConnectionPool(script, cp_max=1, cp_name="shop") as pool:
        held = pool.runQuery("hang  here;\nrows 1", ("s3cret",))
        await reached(script.gate("here").reached)
        waits = pool.runOperation("rows 2", ("s3cret",))
        found = pool.snapshot()
        (running,), (waiting,) = found.running, found.waiting
        assert repr(found) == "<Snapshot: 1 running, 1 waiting>"
        assert (running.label, running.kind) == ("hang here; rows 1", "query")
        assert (waiting.label, waiting.kind) == ("rows 2", "operation")
        assert (running.lane, waiting.lane) == ("any", "any")
        assert running.thread_name == "shop-1"
        assert running.phase == "sent"
        assert not running.cancel_wanted
        assert not running.abandoned
        assert (running.borrower, running.stack) == (None, ())
        assert "s3cret" not in repr((found.running, found.waiting))
        assert repr(running).startswith("<query on shop-1 for ")
        assert repr(running).endswith(" s, sent: hang here; rows 1>")
        assert repr(waiting).startswith("<operation waiting for ")
        assert repr(waiting).endswith(" s: rows 2>")
        with pytest.raises(FrozenInstanceError):
            running.label = "x"
        later = pool.snapshot()
        assert later.running[0].running_seconds >= running.running_seconds > 0
        assert later.running[0].waited_seconds == running.waited_seconds >= 0
        assert later.waiting[0].waited_seconds >= waiting.waited_seconds >= 0
        script.gate("here").open()
        await asyncio.gather(held, waits)


async def test_waiting_jobs_are_bounded(script):
    """A hundred of those that wait are shown, the oldest first, and all are counted."""
    async with ConnectionPool(script, cp_max=1) as pool:
        held = pool.runQuery("hang here")
        await reached(script.gate("here").reached)
        calls = [pool.runQuery(f"rows {n}") for n in range(WAITING_SHOWN + 20)]
        calls[0].cancel()
        found = pool.snapshot()
        assert found.waiting_count == WAITING_SHOWN + 19
        assert [job.label for job in found.waiting] == [
            f"rows {n + 1}" for n in range(WAITING_SHOWN)
        ]
        script.gate("here").open()
        await asyncio.gather(held, *calls, return_exceptions=True)


async def test_kinds(script):
    """Each way to use the pool has a word of its own, and a function its name."""

    def sell(thing):
        thing.cursor().execute("hang here") if hasattr(thing, "cursor") else (
            thing.execute("hang here")
        )

    async with ConnectionPool(script, cp_max=1) as pool:
        for call, kind, label in (
            (lambda: pool.runQuery("hang here"), "query", "hang here"),
            (lambda: pool.runOperation("hang here"), "operation", "hang here"),
            (lambda: pool.runResult("hang here"), "result", "hang here"),
            (lambda: pool.runScript("hang here"), "script", "hang here"),
            (lambda: pool.runInteraction(_hang), "interaction", "_hang"),
            (lambda: pool.runWithConnection(sell), "connection", "sell"),
        ):
            gate = script.gate("here")
            done = call()
            await reached(gate.reached)
            (running,) = pool.snapshot().running
            assert running.kind == kind
            assert running.label.endswith(label)
            gate.open()
            await done
            await until(lambda: not pool.snapshot().running, "the worker to rest")
            script._gates.pop("here")


def _hang(txn):
    txn.execute("hang here")


async def test_stacks(script):
    """On request each worker's thread says where it is in Python, without values."""

    def transfer(txn, secret):
        txn.execute("hang here", (secret,))

    async with ConnectionPool(script, cp_max=1) as pool:
        work = pool.runInteraction(transfer, "s3cret")
        await reached(script.gate("here").reached)
        (running,) = pool.snapshot(stacks=True).running
        stack = "\n".join(running.stack)
        assert "in transfer" in stack
        assert 'txn.execute("hang here", (secret,))' in stack
        assert "s3cret" not in stack
        assert all("\n" not in line for line in running.stack)
        assert running.label.endswith("transfer")
        script.gate("here").open()
        await work


async def test_lease_names_its_borrower(script):
    """A lease says which task holds it, and what that does at the moment."""
    async with ConnectionPool(script, cp_max=1) as pool:

        async def shopping():
            async with pool.transaction() as txn:
                await txn.execute("hang here")

        task = asyncio.create_task(shopping(), name="cart 7")
        await reached(script.gate("here").reached)
        (running,) = pool.snapshot().running
        assert (running.kind, running.borrower) == ("lease", "cart 7")
        assert running.label == "a transaction: hang here"
        assert "held by cart 7: a transaction" in repr(running)
        script.gate("here").open()
        await task


async def test_stopping_and_abandoned(script):
    """A call that was told to stop says so, and so does one that was given up."""
    async with ConnectionPool(script, cp_max=1, cp_grace=0.02) as pool:
        call = pool.runQuery("hang here")
        await reached(script.gate("here").reached)
        call.cancel()
        (running,) = pool.snapshot().running
        assert running.cancel_wanted
        assert "sent, being stopped" in repr(running)
        await outcome(call)
        (running,) = pool.snapshot().running
        assert running.abandoned
        assert "sent, abandoned" in repr(running)
        script.gate("here").open()
        await until(lambda: not pool.snapshot().running, "the worker to end")


async def test_snapshot_while_everything_moves(shop):
    """Any thread may look at any time: records are whole, calls not disturbed."""
    async with ConnectionPool(shop.url, cp_max=3) as pool:
        over = threading.Event()
        seen = []

        def watch():
            while not over.is_set():
                seen.extend(pool.snapshot(stacks=True).running)
                repr(seen[-5:])
                pool.stats()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for _ in range(20):
                rows = await asyncio.gather(
                    *[pool.runQuery("select 1") for _ in "x" * 20]
                )
                assert rows == [[(1,)]] * 20
        finally:
            over.set()
            await asyncio.to_thread(watcher.join)
        assert {record.kind for record in seen} <= {"query"}
        assert {record.label for record in seen} <= {"select 1", "a call"}
