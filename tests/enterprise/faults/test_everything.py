"""Everything at once: all faults in turn, under a load that counts what it was told."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from contextlib import suppress

import psycopg

from enterprise.errors import ConnectFailed, ConnectionLost, PoolError, QueryTimeout
from tests.enterprise.faults.watch import every_slot, pool_through

# How long there is bad weather; 25 before a release.
SECONDS = 12.0

# Within so many seconds after the last fault, so many calls must succeed.
RECOVERY_SECONDS = 8.0
RECOVERY_CALLS = 50

CLIENTS = 8

# No call may need more: its own limit, and then what it takes to stop it.
CALL_SECONDS = 1.5

SEED = 20


class Load:
    """Clients that insert numbers and read their own, and keep the books.

    Attributes:
        committed: numbers whose insert was reported to be done.
        undone: those that were reported not to be.
        unknown: those of which nothing is known.
        answered: how many calls went well.
        errors: how many of each kind there were.
    """

    def __init__(self, pool, chance):
        self.pool = pool
        self.chance = chance
        self.numbers = itertools.count(1)
        self.committed, self.undone, self.unknown = set(), set(), set()
        self.answered = 0
        self.errors = Counter()
        self.over = False

    async def client(self):
        """Call until it is over."""
        ways = [self.read, self.read, self.single, self.interaction, self.lease]
        while not self.over:
            number = next(self.numbers)
            way = self.chance.choice(ways)
            # A third is cancelled, a third has a limit that is often too short.
            patience = self.chance.choice([None, None, self.chance.random() * 0.02])
            limit = self.chance.choice([CALL_SECONDS, self.chance.random() * 0.02])
            try:
                async with asyncio.timeout(patience):
                    await way(number, limit + 0.001)
                    if way != self.read:
                        self.committed.add(number)
                    self.answered += 1
            except (
                TimeoutError,
                ConnectionLost,
                ConnectFailed,
                PoolError,
                psycopg.Error,
            ) as error:
                self._note(number, error)

    def _note(self, number, error):
        self.errors[type(error).__name__] += 1
        if isinstance(error, ConnectionLost):
            assert isinstance(error.__cause__, psycopg.Error | None)
            if error.outcome == "unknown":
                self.unknown.add(number)
                return
            assert error.outcome in ("rolled_back", "not_sent")
        # Done already, it is only told late that it was to be cancelled.
        if number not in self.committed:
            self.undone.add(number)

    async def read(self, number, limit):
        """Read: nobody gets another's row."""
        rows = await self.pool.runQuery("select %s::int", (number,), timeout=limit)
        assert rows == [(number,)]

    async def single(self, number, limit):
        """Insert in autocommit."""
        await self.pool.runOperation(
            "insert into a values (%s)", (number,), timeout=limit
        )

    async def interaction(self, number, limit):
        """Insert in an interaction that reads its own row."""

        def work(txn):
            txn.execute("insert into a values (%s)", (number,))
            txn.execute("select id from a where id = %s", (number,))
            return txn.fetchall()

        rows = await self.pool.runInteraction(work, timeout=limit)
        assert rows == [(number,)]

    async def lease(self, number, limit):
        """Insert in a lease that reads its own row."""
        async with self.pool.transaction(timeout=limit) as txn:
            await txn.runOperation("insert into a values (%s)", (number,))
            rows = await txn.runQuery("select id from a where id = %s", (number,))
            assert rows == [(number,)]


class Weather:
    """The faults, each of which is over when it returns."""

    def __init__(self, server, name, proxy, chance):
        self.server = server
        self.name = name
        self.proxy = proxy
        self.chance = chance

    async def rage(self, seconds):
        """Let one fault follow the other, each kind as often as the others."""
        faults = [
            self.terminate_one,
            self.terminate_all,
            self.natloss,
            self.reset,
            self.freeze,
            self.restart,
        ]
        until_when = time.monotonic() + seconds
        while True:
            for fault in self.chance.sample(faults, len(faults)):
                await fault()
                await asyncio.sleep(self.chance.uniform(0.05, 0.4))
                if time.monotonic() > until_when:
                    return

    async def terminate_one(self):
        """End one session."""
        await self._terminate("order by random() limit 1")

    async def terminate_all(self):
        """End all sessions."""
        await self._terminate("")

    async def _terminate(self, which):
        await asyncio.to_thread(
            self.server.psql,
            "select pg_terminate_backend(pid) from (select pid from pg_stat_activity "
            f"where datname = '{self.name}' {which}) as victims",
        )

    async def natloss(self):
        """Have the network forget all connections."""
        self.proxy.natloss()
        await asyncio.sleep(self.chance.uniform(0.05, 0.5))
        self.proxy.heal()

    async def reset(self):
        """Have the network reset all connections."""
        self.proxy.reset()

    async def freeze(self):
        """Have the network stand still for a while."""
        self.proxy.freeze()
        await asyncio.sleep(self.chance.uniform(0.05, 0.5))
        self.proxy.heal()

    async def restart(self):
        """Crash the server, and start it again."""
        await asyncio.to_thread(self.server.stop, "immediate")
        await asyncio.sleep(self.chance.uniform(0.05, 0.3))
        await asyncio.to_thread(self.server.start)


async def recovered(load):
    """Wait until enough calls went well after the last fault."""
    before, deadline = load.answered, time.monotonic() + RECOVERY_SECONDS
    while load.answered - before < RECOVERY_CALLS:
        assert time.monotonic() < deadline, load.answered - before
        await asyncio.sleep(0.01)


async def test_everything_at_once(postgres, pg_name, pg_proxy, pg_proxy_url):
    """Terminated, lost, reset and frozen connections, a server that crashes, cancels
    and limits: what was reported committed is there once, what was reported undone is
    not, no call hangs, and soon after the last fault all is as before.
    """
    postgres.psql("create table a (id int); create index on a (id)", pg_name)
    chance = random.Random(SEED)
    async with pool_through(
        pg_proxy,
        pg_proxy_url,
        postgres,
        pg_name,
        cp_max=6,
        cp_grace=0.5,
        cp_connect_timeout=2,
        cp_timeout=CALL_SECONDS,
        cp_close_timeout=1,
    ) as pool:
        await every_slot(pool)
        load = Load(pool, chance)
        clients = [asyncio.create_task(load.client()) for _ in range(CLIENTS)]
        try:
            await Weather(postgres, pg_name, pg_proxy, chance).rage(SECONDS)
            await recovered(load)
        finally:
            load.over = True
            with suppress(TimeoutError):
                await asyncio.wait(clients, timeout=10)
        assert [client for client in clients if not client.done()] == []
        for client in clients:
            client.result()
        await every_slot(pool)
    stored = Counter(
        int(line) for line in postgres.psql("select id from a", pg_name).split()
    )
    assert [number for number, count in stored.items() if count > 1] == []
    assert load.committed - set(stored) == set()
    assert load.undone & set(stored) == set()
    assert set(stored) <= load.committed | load.unknown
    # There was bad weather, and there was work.
    assert len(load.committed) > 200
    assert load.errors["ConnectionLost"] > 10
    assert load.errors[QueryTimeout.__name__] > 10
