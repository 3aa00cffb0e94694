"""What the tests of pipelines share: statements that wait together, and are known."""

from __future__ import annotations

import threading

from enterprise import ConnectionPool
from tests.enterprise.helpers import outcome, reached

ADD = "select %s::int + 1"


class Gate:
    """Keeps the only worker busy, so that what is called meanwhile waits together."""

    def __init__(self, pool):
        self._pool = pool
        self._inside, self._open = threading.Event(), threading.Event()

    def _hold(self, raw):
        self._inside.set()
        self._open.wait(30)

    async def __aenter__(self):
        self._call = self._pool.runWithConnection(self._hold, autocommit=True)
        await reached(self._inside)
        return self

    async def __aexit__(self, *_):
        self._open.set()
        await self._call


def pool_of_one(url, **options):
    return ConnectionPool(url, cp_max=1, **options)


async def learn(pool, *calls):
    """Have the pool know how long each statement takes: they run alone at first.

    Twice, since the answer to the first one of a connection may come with its echo.
    """
    for call in calls * 2:
        await outcome(pool.runQuery(*call))
