"""Transfers while everything goes wrong: what was told is what is stored."""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager, suppress

import psycopg

from enterprise import ConnectionPool
from tests.enterprise.faults.bank import Bank
from tests.enterprise.faults.watch import living_loop
from tests.enterprise.helpers import balance, until

SECONDS = 4.0
CUSTOMERS = 12
CONNECTIONS = 8

# What the customers of each database met, among others.
EVERYWHERE = {"CancelledError", "PoolTimeout", "Refused", "WorkerInterrupted"}
MET = {
    "sqlite": EVERYWHERE | {"OperationalError"},
    "postgres": EVERYWHERE | {"ConnectionLost", "QueryCanceled", "QueryTimeout"},
}

# Holds the lock of a SQLite file again and again, for a short time each, until its
# standard input ends.
HOLDER = """
import select, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
print("here", flush=True)
while not select.select([sys.stdin], [], [], 0.03)[0]:
    connection.execute("begin immediate")
    select.select([], [], [], 0.02)
    connection.execute("rollback")
connection.close()
"""

OTHERS = (
    "from pg_stat_activity where datname = current_database() "
    "and pid <> pg_backend_pid() and backend_type = 'client backend'"
)


@asynccontextmanager
async def lock_holder(path):
    """Have another process hold the file's lock for short times."""
    pipe = subprocess.PIPE
    arguments = [sys.executable, "-c", HOLDER, str(path)]
    holder = await asyncio.to_thread(
        subprocess.Popen, arguments, stdin=pipe, stdout=pipe
    )
    with holder:
        assert await asyncio.to_thread(holder.stdout.readline) == b"here\n"
        try:
            yield
        finally:
            holder.stdin.close()
            await asyncio.to_thread(holder.wait, 30)
    assert holder.returncode == 0


async def interrupt_statements(raws, chance):
    """Interrupt whatever SQLite does, from outside, for ever."""
    while True:
        await asyncio.sleep(chance.uniform(0, 0.01))
        for raw in raws:
            with suppress(sqlite3.ProgrammingError):  # It is closed.
                raw.interrupt()


async def harass_server(database):
    """Cancel statements and end sessions from outside, for ever."""
    for turn in itertools.count():
        verb = "terminate" if turn % 4 == 0 else "cancel"
        with suppress(psycopg.Error):  # The server is away.
            await asyncio.to_thread(
                database.rows,
                f"select pg_{verb}_backend(pid) {OTHERS} order by random() limit 1",
            )
        await asyncio.sleep(0.01)


async def in_weather(bank, pool, weather, middle):
    """Let customers and auditors work for SECONDS, and something happen half-way."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        people = [
            group.create_task(bank.customer(pool, over)) for _ in range(CUSTOMERS)
        ]
        people += [group.create_task(bank.auditor(pool, over)) for _ in range(2)]
        storm = group.create_task(weather)
        await asyncio.sleep(SECONDS / 2)
        await middle()
        await asyncio.sleep(SECONDS / 2)
        over.set()
        await asyncio.wait(people)
        storm.cancel()
        await asyncio.wait([storm])


async def fifty_more(bank, pool):
    """When the last fault is over, transfers work again: fifty within 8 s."""
    done = 0
    async with asyncio.timeout(8):
        while done < 50:
            done += await bank.transfer(pool, calm=True) == "committed"


async def nothing():
    """Let nothing happen half-way."""


async def check_pool(pool):
    """The pool is at rest, its figures agree, and it never was too large."""
    await until(lambda: pool.stats().busy == 0, "all workers to be given back")
    stats = pool.stats()
    assert stats.unfinished == 0
    assert stats.connections <= CONNECTIONS
    assert stats.most_workers <= CONNECTIONS
    first, last = balance(stats)
    assert first == last


@asynccontextmanager
async def bad_weather(database, raws):
    """Yield the faults of this kind of database, to be run as a task."""
    if database.kind == "postgres":
        yield harass_server(database)
    else:
        async with lock_holder(database.path):
            yield interrupt_statements(raws, random.Random(2))


async def test_history_of_transfers(database, request):
    """Whatever is cancelled, too late, refused, interrupted, locked out, terminated or
    restarted: each transfer reported as committed is stored once, each reported as
    undone is not, and the accounts are what the ledger says.
    """
    bank, raws = Bank(database, seed=1), []
    middle = nothing
    if database.kind == "postgres":
        server = request.getfixturevalue("postgres")

        async def middle():
            await asyncio.to_thread(server.restart, "immediate")

    def prepare(raw):
        raws.append(raw)
        if database.kind == "postgres":
            raw.execute("set deadlock_timeout = '20ms'")

    async with (
        bad_weather(database, raws) as weather,
        ConnectionPool(
            database.url, cp_min=1, cp_max=CONNECTIONS, cp_openfun=prepare
        ) as pool,
    ):
        async with living_loop():
            await in_weather(bank, pool, weather, middle)
        await fifty_more(bank, pool)
        await check_pool(pool)
    if database.kind == "postgres":
        await until(
            lambda: database.rows(f"select count(*) {OTHERS}") == [(0,)],
            "the server to see all sessions end",
        )
    bank.audit()
    # It is a proof only if everything did happen.
    assert MET[database.kind] <= bank.errors.keys()
    assert Counter(bank.told.values())["committed"] > 150
    assert bank.sums > 10
