"""What the tests of a failing server share: its sessions, its places, its processes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import psycopg

from tests.enterprise.helpers import until
from tests.postgres import wait_until


def end(server, *pids):
    """End sessions, and wait until they are gone."""
    listed = ",".join(map(str, pids))
    server.psql(f"select pg_terminate_backend(n, 5000) from unnest(array[{listed}]) n")


def sessions_end(server, name):
    """Fail unless all sessions in the database *name* come to an end by themselves."""
    server.ensure()
    wait_until(lambda: not server.backends(name), "the pool's sessions to end")


async def running(server, text, count=1):
    """Return the sessions that run a statement with *text*, once so many do."""
    found = []

    def look():
        found[:] = server.psql(
            "select pid from pg_stat_activity where state = 'active' "
            f"and query like '%{text}%' and pid <> pg_backend_pid()"
        ).split()
        return len(found) == count

    await until(look, f"{count} sessions to run {text}")
    return [int(pid) for pid in found]


async def slots_are_back(pool, count, seconds=8.0):
    """Fail unless *count* connections, which all live, are at work at one time."""
    meeting = threading.Barrier(count)

    def meet(txn):
        txn.execute("select 1")
        meeting.wait(seconds)

    began = time.monotonic()
    await asyncio.gather(*(pool.runInteraction(meet) for _ in range(count)))
    assert time.monotonic() - began <= seconds
    assert pool.stats().connections == count


async def rested(pool, count):
    """Open *count* connections, and wait until all of them have nothing to do."""
    await slots_are_back(pool, count)
    await until(lambda: pool.stats().idle == count, "the workers to rest")


class Crowd:
    """Other programs' sessions: all that the server can have, but *free*."""

    def __init__(self, server, free):
        self._dsn = server.dsn()
        self._free = free
        self._sessions = []

    def come(self):
        """Fill the server."""
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                self._sessions.append(psycopg.connect(self._dsn, autocommit=True))
        self.leave(self._free)

    def leave(self, count):
        """Have *count* of them go, and wait until the server has their places."""
        leaving = [self._sessions.pop() for _ in range(count)]
        pids = [session.info.backend_pid for session in leaving]
        for session in leaving:
            session.close()
        here = "select count(*) from pg_stat_activity where pid = any(%s)"
        wait_until(
            lambda: self._sessions[0].execute(here, (pids,)).fetchone() == (0,),
            "places in the server",
        )

    def go(self):
        """Have all of them go."""
        while self._sessions:
            self._sessions.pop().close()
