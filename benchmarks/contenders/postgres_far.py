"""A row by its primary key out of a PostgreSQL that is one millisecond away.

The same as on the unix socket, but over TCP and through a proxy that delivers
everything a millisecond later in each direction, as another building does. A
connection that waits for each answer gives fewer than 500 a second then; sending
several statements at once is what helps.
"""

from __future__ import annotations

from contextlib import contextmanager

from benchmarks import far
from benchmarks.contenders import postgres

correct = postgres.correct
threadbridge = postgres.threadbridge
run_in_executor = postgres.run_in_executor
psycopg_pool = postgres.psycopg_pool
asyncpg = postgres.asyncpg


@contextmanager
def stage():
    with postgres.served() as server, far.proxy(server.port) as port:
        yield server.url(tcp=True).replace(f":{server.port}/", f":{port}/")
