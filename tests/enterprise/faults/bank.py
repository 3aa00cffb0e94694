"""A bank on any database: transfers in every way a pool has, and the audit afterwards.

A transfer moves money and writes one line into the ledger, in one transaction. What its
caller was told is noted, and the audit compares that with what is stored.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
from collections import Counter
from contextlib import suppress

import psycopg

from enterprise import (
    ConnectFailed,
    ConnectionLost,
    PoolTimeout,
    QueryTimeout,
    RetryPolicy,
    TransactionEnded,
)
from enterprise.errors import WorkerInterrupted

ACCOUNTS = 10
OPENING = 1000

# What may be in the ledger, for each thing a caller may have been told.
LINES = {"committed": (1,), "undone": (0,), "unknown": (0, 1)}

# PostgreSQL's COMMIT is over before anything can hit it; this makes it take a while.
SLOW_COMMIT = """
create function dawdle() returns trigger language plpgsql as
    'begin perform pg_sleep(0.002); return null; end';
create constraint trigger slow after insert on ledger
    deferrable initially deferred for each row execute function dawdle()
"""


class Refused(Exception):
    """A transfer changes its mind, after all its writes."""


class Stumbled(Exception):
    """The first attempt of a transfer that is going to be repeated."""


REPEATED = RetryPolicy(
    attempts=3, backoff=0.001, on=(Stumbled, "deadlock", "serialization", "busy")
)

# After any of these the transfer is known not to have been done.
UNDOING = (
    asyncio.CancelledError,
    ConnectFailed,
    PoolTimeout,
    QueryTimeout,
    Refused,
    Stumbled,
    TransactionEnded,
    WorkerInterrupted,
    psycopg.Error,
    sqlite3.Error,
)


class Bank:
    """Accounts, a ledger, and what the customers were told.

    Attributes:
        told: by a transfer's number: "committed", "undone" or "unknown".
        errors: how often each kind of error was told.
        sums: how often the accounts were added up while transfers went on.
    """

    def __init__(self, database, seed):
        self.database = database
        self.chance = random.Random(seed)
        self.told = {}
        self.errors = Counter()
        self.sums = 0
        self._fired = Counter()
        self._made = 0
        self._numbers = itertools.count(1)
        # PostgreSQL lets two read the same balance before either writes.
        self._locking = " for update" if database.kind == "postgres" else ""
        if database.kind == "sqlite":
            database.rows("pragma journal_mode = wal")
        database.rows("create table account (id integer primary key, balance integer)")
        database.rows(
            "create table ledger (number integer, source integer, target integer, "
            "amount integer)"
        )
        for text in SLOW_COMMIT.split(";\n") if database.kind == "postgres" else ():
            database.rows(text)
        for account in range(ACCOUNTS):
            database.rows("insert into account values (?, ?)", (account, OPENING))

    # -- A transfer --------------------------------------------------------------------

    def _steps(self, number):
        """Yield the statements of a transfer; they are sent the balances they read."""
        sql, chance = self.database.sql, self.chance
        pair = chance.sample(range(ACCOUNTS), 2)
        amount = chance.randrange(1, 20)
        changes = dict(zip(pair, (-amount, amount), strict=True))
        # A few lock in an order of their own, and meet in a deadlock.
        for account in pair if chance.random() < 0.05 else sorted(pair):
            read = sql("select balance from account where id = ?") + self._locking
            [(balance,)] = yield read, (account,)
            write = sql("update account set balance = ? where id = ?")
            yield write, (balance + changes[account], account)
        yield sql("insert into ledger values (?, ?, ?, ?)"), (number, *pair, amount)

    def move(self, cursor, number):
        """Do a transfer in a worker, through anything that has `execute`."""
        rows, steps = None, self._steps(number)
        with suppress(StopIteration):
            while True:
                cursor.execute(*steps.send(rows))
                rows = cursor.fetchall() if cursor.description else None
        return number

    async def _move_awaited(self, txn, number):
        rows, steps = None, self._steps(number)
        with suppress(StopIteration):
            while True:
                rows = await txn.runQuery(*steps.send(rows))

    def _refuse(self, txn, number):
        self.move(txn, number)
        raise Refused

    def _exit(self, txn, number):
        self.move(txn, number)
        raise SystemExit

    def _with_connection(self, connection, number):
        return self.move(connection.cursor(), number)

    def _with_savepoint(self, txn, number):
        with suppress(Stumbled), txn.savepoint():
            self.move(txn, -number)
            raise Stumbled
        return self.move(txn, number)

    def _repeated(self, pool, number, timeout):
        stumbles = iter([True])

        def move(txn):
            if next(stumbles, False):
                self.move(txn, -number)
                raise Stumbled
            return self.move(txn, number)

        return pool.runInteraction(move, retry=REPEATED, timeout=timeout)

    async def _leased(self, pool, number, seconds):
        async with pool.transaction(timeout=seconds) as txn:
            if number % 3 == 0:
                with suppress(Stumbled):
                    async with txn.savepoint():
                        await self._move_awaited(txn, -number)
                        raise Stumbled
            if number % 3 == 1:
                await txn.runInteraction(self.move, number)
            else:
                await self._move_awaited(txn, number)
            if number % 16 == 0:
                raise Refused
        return number

    def _begin(self, pool, number, timeout):
        """Begin a transfer in one of many ways; return what it can be awaited by."""
        way = self.chance.randrange(12)
        if way < 4:
            return asyncio.create_task(self._leased(pool, number, timeout))
        if way == 4:
            call = self._repeated(pool, number, timeout)
        elif way < 7:
            call = pool.runWithConnection(
                self._with_connection, number, timeout=timeout
            )
        else:
            kinds = [self._refuse, self._exit, self._with_savepoint, self.move]
            kind = kinds[min(way - 7, 3)]
            call = pool.runInteraction(kind, number, timeout=timeout)
        self._made += 1
        call.addBoth(self._note_fired, number)
        if self.chance.random() < 0.5:
            return call
        return asyncio.create_task(_wait_for(call))

    def _note_fired(self, result, number):
        self._fired[number] += 1
        return result

    # -- Customers -----------------------------------------------------------------

    async def transfer(self, pool, *, calm=False):
        """Make one transfer, and note what its caller is told; return that."""
        number, chance = next(self._numbers), self.chance
        kind = 1.0 if calm else chance.random()
        timeout = chance.uniform(0.0005, 0.02) if kind < 0.15 else None
        going = self._begin(pool, number, timeout)
        if kind > 0.85 and not calm:
            await asyncio.wait([going], timeout=chance.uniform(0, 0.01))
            going.cancel()
        await asyncio.wait([going])
        return self._note(number, going)

    def _note(self, number, done):
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is None:
            assert done.result() == number
            told = "committed"
        elif isinstance(error, ConnectionLost):
            told = error.outcome if error.outcome in LINES else "undone"
        else:
            assert isinstance(error, UNDOING), repr(error)
            told = "undone"
        if error is not None:
            self.errors[type(error).__name__] += 1
        self.told[number] = told
        return told

    async def customer(self, pool, over):
        """Make transfers until *over*, an Event, is set."""
        while not over.is_set():
            await self.transfer(pool)

    async def auditor(self, pool, over):
        """Add up the accounts again and again: the sum is the same at any time."""
        while not over.is_set():
            with suppress(ConnectFailed, ConnectionLost, psycopg.Error, sqlite3.Error):
                [(total,)] = await pool.runQuery("select sum(balance) from account")
                assert total == ACCOUNTS * OPENING
                self.sums += 1

    # -- The end -----------------------------------------------------------------------

    def audit(self):
        """Compare what is stored with what was told, line by line."""
        assert list(self._fired.values()) == [1] * self._made
        ledger = self.database.rows("select number, source, target, amount from ledger")
        lines = Counter(number for number, *_ in ledger)
        assert lines.keys() <= self.told.keys()
        wrong = {
            number: (told, lines[number])
            for number, told in self.told.items()
            if lines[number] not in LINES[told]
        }
        assert wrong == {}
        expected = dict.fromkeys(range(ACCOUNTS), OPENING)
        for _, source, target, amount in ledger:
            expected[source] -= amount
            expected[target] += amount
        assert dict(self.database.rows("select id, balance from account")) == expected
        assert sum(expected.values()) == ACCOUNTS * OPENING


async def _wait_for(call):
    return await call
