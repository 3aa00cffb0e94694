"""What the tests of all adapters share: SQL that does not end, and who made a loop."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

# Says `started()` (see `Told`) when it runs, and then runs for ever.
ENDLESS = (
    "with recursive n (i) as (select started() union all select i + 1 from n) "
    "select count(*) from n"
)

# Takes a moment that grows with its parameter.
COUNT = (
    "with recursive n (i) as (select 1 union all select i + 1 from n where i < ?) "
    "select count(*) from n"
)


class Told:
    """A `cp_openfun` that gives SQL the function `started()`.

    Args:
        hook: called in the worker's thread by each `select started()`.
    """

    def __init__(self, hook):
        self.hook = hook

    def __call__(self, raw):
        raw.create_function("started", 0, self.started)

    def started(self):
        self.hook()
        return 1


@contextmanager
def loops_made():
    """Yield a list of all asyncio loops that are made inside the `with` block."""
    made = []
    plain_init = asyncio.BaseEventLoop.__init__
    plain_new = asyncio.new_event_loop

    def counting_init(self):
        made.append(self)
        plain_init(self)

    def counting_new():
        made.append("new_event_loop")
        return plain_new()

    asyncio.BaseEventLoop.__init__ = counting_init
    asyncio.new_event_loop = counting_new
    try:
        yield made
    finally:
        asyncio.BaseEventLoop.__init__ = plain_init
        asyncio.new_event_loop = plain_new


def make_table(txn):
    """Make a table of three rows, in one transaction."""
    txn.execute("create table item (id integer primary key, name text)")
    txn.executemany(
        "insert into item values (?, ?)", [(1, "hammer"), (2, "saw"), (3, "nail")]
    )
    return txn.execute("select count(*) from item").fetchone()[0]
