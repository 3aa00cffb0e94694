"""Group commit: cancels, time limits, locks and kills, at each step of each member."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import subprocess
import sys
import threading
import time
from asyncio import CancelledError
from contextlib import closing

import pytest

from enterprise import QueryTimeout
from tests.enterprise.groups import ENDLESS, INSERT, Stage
from tests.enterprise.helpers import (
    PATIENCE_SECONDS,
    ROOT,
    balance,
    outcome,
    reached,
    until,
)


async def three(stage, middle, **keywords):
    """Pile up a write, the call that *middle* makes, and a write."""
    await stage.hold()
    return [
        stage.pool.runOperation(INSERT, (1, 1), **keywords),
        middle(),
        stage.pool.runOperation(INSERT, (3, 3)),
    ]


def settled(stage):
    """Say whether every call is accounted for, and nothing runs."""
    stats = stage.pool.stats()
    return len(set(balance(stats))) == 1 and not stats.unfinished


# -- Cancels ---------------------------------------------------------------------------


@pytest.mark.parametrize("whom", range(3))
async def test_cancel_while_one_runs(tmp_path, whom):
    """Whoever is cancelled while a member runs is not committed, be it done, running
    or still waiting; the others are, in the end.
    """
    async with Stage(tmp_path) as stage:
        calls = await three(stage, lambda: stage.pool.runOperation(ENDLESS))
        await stage.release()
        await reached(stage.seen)
        calls[whom].cancel()
        assert isinstance(await outcome(calls[whom]), CancelledError)
        if whom != 1:
            calls[1].cancel()
        results = [await outcome(call) for call in calls]
        assert [r is None for r in results] == [i not in (1, whom) for i in range(3)]
        assert [row[0] for row in stage.rows()] == [
            i + 1 for i in range(3) if i not in (1, whom)
        ]
        assert settled(stage)
        assert stage.pool.stats().errors == {}


@pytest.mark.parametrize("done", [True, False])
async def test_time_limit_in_a_group(tmp_path, done):
    """A time limit holds for a member that is done and waits for another one, as for
    the one that runs; it is not committed.
    """
    async with Stage(tmp_path) as stage:
        pool = stage.pool
        limits = {"timeout": 0.2} if done else {}
        calls = await three(
            stage,
            lambda: pool.runOperation(ENDLESS, timeout=None if done else 0.2),
            **limits,
        )
        await stage.release()
        limited = calls[0 if done else 1]
        assert isinstance(await outcome(limited), QueryTimeout)
        if done:
            calls[1].cancel()
        results = [await outcome(call) for call in calls]
        assert (results[0] is None) is not done
        assert results[2] is None
        assert [row[0] for row in stage.rows()] == ([3] if done else [1, 3])
        assert settled(stage)


async def test_cancel_between_members(tmp_path):
    """A cancel that comes while a member's function computes stops its own call only,
    once that function says something; a done one is not committed.
    """
    async with Stage(tmp_path) as stage:
        inside, go = threading.Event(), threading.Event()
        times = []

        def compute(txn):
            times.append(1)
            inside.set()
            assert go.wait(PATIENCE_SECONDS)
            txn.execute(INSERT, (2, 2))

        calls = await three(
            stage, lambda: stage.pool.runInteraction(compute, group=True)
        )
        await stage.release()
        await reached(inside)
        calls[0].cancel()
        go.set()
        results = [await outcome(call) for call in calls]
        assert isinstance(results[0], CancelledError)
        assert results[1:] == [None, None]
        assert [row[0] for row in stage.rows()] == [2, 3]
        assert len(times) == 2
        assert settled(stage)


async def test_cancel_of_a_function(tmp_path):
    """A cancelled function undoes its own part and leaves the group as it was."""
    async with Stage(tmp_path) as stage:
        inside, go = threading.Event(), threading.Event()

        def compute(txn):
            txn.execute(INSERT, (2, 2))
            inside.set()
            assert go.wait(PATIENCE_SECONDS)
            txn.execute(INSERT, (4, 4))

        calls = await three(
            stage, lambda: stage.pool.runInteraction(compute, group=True)
        )
        await stage.release()
        await reached(inside)
        calls[1].cancel()
        go.set()
        results = [await outcome(call) for call in calls]
        assert isinstance(results[1], CancelledError)
        assert (results[0], results[2]) == (None, None)
        assert [row[0] for row in stage.rows()] == [1, 3]
        assert settled(stage)


async def test_cancel_meets_commit(tmp_path):
    """A cancel that comes when COMMIT has begun gets the committed value, and goes on
    to the task that awaits it.
    """
    async with Stage(tmp_path) as stage:
        driver = stage.pool.driver
        commit = driver.commit
        inside, go = threading.Event(), threading.Event()
        # An interrupt may stop a COMMIT that has hardly begun; here it shall not.
        driver.cancel = lambda raw: None

        def slow(raw):
            if stage.said().count("INSERT") > 1:
                inside.set()
                assert go.wait(PATIENCE_SECONDS)
            commit(raw)

        driver.commit = slow
        await stage.hold()
        calls = [stage.pool.runOperation(INSERT, (i, i)) for i in range(3)]
        await stage.release()
        await reached(inside)
        got = []

        async def caller():
            got.append(await calls[1])
            await asyncio.sleep(0)

        task = asyncio.create_task(caller())
        await asyncio.sleep(0)
        task.cancel()
        go.set()
        assert await asyncio.gather(calls[0], calls[2]) == [None, None]
        assert isinstance(await outcome(task), CancelledError)
        assert got == [None]
        assert [row[0] for row in stage.rows()] == [0, 1, 2]
        assert settled(stage)


async def test_nobody_answers(tmp_path):
    """A done member whose group hangs in somebody's function is told after twice the
    grace, is not committed, and the others are done in the end.
    """
    async with Stage(tmp_path, cp_grace=0.05) as stage:
        inside, go = threading.Event(), threading.Event()

        def hang(txn):
            inside.set()
            assert go.wait(PATIENCE_SECONDS)

        calls = await three(stage, lambda: stage.pool.runInteraction(hang, group=True))
        await stage.release()
        await reached(inside)
        calls[0].cancel()
        assert isinstance(await outcome(calls[0]), CancelledError)
        assert not calls[1].called
        go.set()
        assert [await outcome(call) for call in calls[1:]] == [None, None]
        assert [row[0] for row in stage.rows()] == [3]
        await until(lambda: settled(stage), "all to be counted")


@pytest.mark.parametrize("count", [1, 5])
async def test_cancel_of_all(tmp_path, count):
    """Where every call is cancelled nothing is stored, and the writer goes on."""
    async with Stage(tmp_path) as stage:
        await stage.hold()
        calls = [stage.pool.runOperation(INSERT, (i, i)) for i in range(count)]
        calls.append(stage.pool.runOperation(ENDLESS))
        await stage.release()
        await reached(stage.seen)
        for call in calls:
            call.cancel()
        results = [await outcome(call) for call in calls]
        assert all(isinstance(r, CancelledError) for r in results)
        assert stage.rows() == []
        await stage.pool.runOperation(INSERT, (1, 1))
        assert settled(stage)


async def test_loop_ends(tmp_path):
    """Where a loop ends in the middle of a group, the others' calls go on."""
    stage = Stage(tmp_path)
    gate, inside = threading.Event(), threading.Event()

    def hang(txn):
        inside.set()
        assert gate.wait(PATIENCE_SECONDS)

    async def other():
        stage.pool.runOperation(INSERT, (5, 5)).addErrback(lambda _: None)
        stage.pool.runInteraction(hang, group=True).addErrback(lambda _: None)
        await asyncio.sleep(0)
        ready.set()
        await reached(inside)

    ready = threading.Event()
    async with stage:
        await stage.hold()
        thread = threading.Thread(target=lambda: asyncio.run(other()))
        thread.start()
        await reached(ready)
        mine = stage.pool.runOperation(INSERT, (6, 6))
        await stage.release()
        await asyncio.to_thread(thread.join)
        gate.set()
        await mine
        assert (6, 6) in stage.rows()
        await until(lambda: settled(stage), "all to be counted")


# -- Locks -----------------------------------------------------------------------------


async def waiting(stage):
    """Wait until the writer waits for somebody else's lock."""
    await until(lambda: len(stage.pool.driver._waits._bells) == 1, "the wait")


@pytest.mark.parametrize("whom", [None, 0, 1])
async def test_somebody_has_the_lock(tmp_path, whom):
    """A group waits for the lock as its first member; a cancel ends that wait for
    whoever it is meant for, at once, and the others are done when the lock is free.
    """
    async with Stage(tmp_path, timeout=600) as stage:
        with closing(sqlite3.connect(stage.path, isolation_level=None)) as other:
            await stage.pool.runOperation(INSERT, (0, 0))
            other.execute("begin immediate")
            gate = stage.pool.runOperation(INSERT, (50, 50))
            calls = [stage.pool.runOperation(INSERT, (i, i)) for i in range(6, 9)]
            await waiting(stage)
            gate.cancel()
            assert isinstance(await outcome(gate), CancelledError)
            await waiting(stage)  # As a group by now.
            if whom is not None:
                calls[whom].cancel()
                assert isinstance(await outcome(calls[whom]), CancelledError)
                await waiting(stage)
            other.execute("commit")
            results = [await outcome(call) for call in calls]
            assert [r is None for r in results] == [i != whom for i in range(3)]
        kept = [0] + [i for i in range(6, 9) if whom is None or i != whom + 6]
        assert [row[0] for row in stage.rows()] == kept
        assert settled(stage)


async def test_lock_is_not_given(tmp_path):
    """Where the lock does not come in time, each call has waited for it by itself."""
    async with Stage(tmp_path, timeout=0.1) as stage:
        await stage.pool.runOperation(INSERT, (0, 0))
        waits = stage.pool.driver._waits
        repeat, repeated = waits.repeat, []
        waits.repeat = lambda *args: repeated.append(args) or repeat(*args)
        with closing(sqlite3.connect(stage.path, isolation_level=None)) as other:
            other.execute("begin immediate")
            began = time.monotonic()
            calls = [stage.pool.runOperation(INSERT, (i, i)) for i in range(1, 4)]
            results = [await outcome(call) for call in calls]
            assert [r.sqlite_errorname for r in results] == ["SQLITE_BUSY"] * 3
            assert time.monotonic() - began >= 0.3
            assert len(repeated) == 3  # Once each: nobody waited twice.
        await stage.pool.runOperation(INSERT, (1, 1))
        assert settled(stage)


@pytest.mark.parametrize("whom", [None, 0, 1, 2])
async def test_commit_waits_for_a_reader(tmp_path, whom):
    """Without a WAL the COMMIT waits for those who read; a cancel then ends that wait,
    takes back its own call, and the others are done when the reader is gone.
    """
    async with Stage(tmp_path, mode="delete", timeout=600) as stage:
        await stage.pool.runOperation(INSERT, (0, 0))
        with closing(sqlite3.connect(stage.path, isolation_level=None)) as other:
            inside, go = threading.Event(), threading.Event()

            def wait(txn):
                inside.set()
                assert go.wait(PATIENCE_SECONDS)
                txn.execute(INSERT, (2, 2))

            calls = await three(
                stage, lambda: stage.pool.runInteraction(wait, group=True)
            )
            await stage.release()
            await reached(inside)
            other.execute("begin")
            other.execute("select * from item").fetchall()
            go.set()
            await waiting(stage)
            if whom is not None:
                calls[whom].cancel()
                assert isinstance(await outcome(calls[whom]), CancelledError)
            other.execute("commit")
            results = [await outcome(call) for call in calls]
            assert [r is None for r in results] == [i != whom for i in range(3)]
        kept = [0] + [i for i in range(1, 4) if whom is None or i != whom + 1]
        assert [row[0] for row in stage.rows()] == kept
        assert settled(stage)


# -- Kills -----------------------------------------------------------------------------

WRITER = """
    import asyncio, sys
    from enterprise import ConnectionPool

    async def main():
        async with ConnectionPool("sqlite3", sys.argv[1], cp_max=2) as pool:
            async def write(start):
                number = start
                while True:
                    await pool.runOperation(
                        "insert into item values (?, ?)", (number, number)
                    )
                    print(number, flush=True)
                    number += 32
            await asyncio.gather(*map(write, range(32)))

    asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [40, 333, 1000])
def test_killed(tmp_path, lines):
    """What was acknowledged before a kill in the middle of groups is stored."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("pragma journal_mode = wal")
        raw.execute("create table item (id integer primary key, what)")
    with subprocess.Popen(
        [sys.executable, "-c", inspect.cleandoc(WRITER), str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        told = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        told += child.stdout.readlines()
    acknowledged = {int(line) for line in told if line.endswith("\n")}
    with closing(sqlite3.connect(path)) as raw:
        stored = {row[0] for row in raw.execute("select id from item")}
        assert raw.execute("pragma integrity_check").fetchone() == ("ok",)
    assert len(acknowledged) >= lines
    assert acknowledged <= stored
