"""Tables that belong to the demonstration, in a database that may belong to others.

The loop thread enters here.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from enterprise.tool.complaint import complaint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from enterprise import ConnectionPool

__all__ = [
    "ACCOUNT",
    "CHARACTER",
    "TableInTheWay",
    "TableLeft",
    "created",
    "emptied",
    "spelled",
]

# A prefix that nobody else has.
CHARACTER = "threadbridge_demo_character"
ACCOUNT = "threadbridge_demo_account"

_COLUMNS = {
    CHARACTER: (
        "code_point integer primary key, "
        "name varchar(100) not null, "
        "category varchar(2) not null"
    ),
    ACCOUNT: "id integer primary key, balance bigint not null",
}


class TableInTheWay(RuntimeError):
    """A table of the demonstration cannot be created."""


class TableLeft(RuntimeError):
    """A table of the demonstration is still there at its end."""


@asynccontextmanager
async def created(pool: ConnectionPool, *, drop: bool) -> AsyncIterator[None]:
    """Have the tables for the `async with` block.

    Args:
        pool: leads to the database.
        drop: whether they go in the end, however it comes.

    Raises:
        TableInTheWay: the database refuses one of them, most likely because it is
            there. It stays as it is.
        TableLeft: one of them could not be dropped.
    """
    ours: list[str] = []
    # Shielded: interrupted in between, we would not know which table is ours.
    creating = asyncio.create_task(_create(pool, ours))
    try:
        try:
            await asyncio.shield(creating)
        finally:
            await asyncio.gather(creating, return_exceptions=True)
        yield
    finally:
        for name in ours if drop else ():
            await _drop(pool, name)


async def _create(pool: ConnectionPool, ours: list[str]) -> None:
    for name in _COLUMNS:
        try:
            await pool.runOperation(_creation(name))
        except Exception as error:
            raise TableInTheWay(
                f"The table {name} cannot be created: {complaint(error)}. The demo "
                "works in new tables of its own, never in others. Drop it if an "
                "earlier demo was killed and left it, or choose another database."
            ) from error
        ours.append(name)


async def _drop(pool: ConnectionPool, name: str) -> None:
    attempts = pool.options.cp_max
    while True:
        try:
            await pool.runOperation(f"drop table if exists {name}")
        except Exception as error:
            # If all connections were lost, each of them says so once.
            attempts -= 1
            if attempts < 0:
                raise TableLeft(
                    f"The table {name} could not be dropped: {complaint(error)}. It "
                    "is still in the database, and the next demo will refuse to touch "
                    "it. Drop it there."
                ) from error
        else:
            return


async def emptied(pool: ConnectionPool, name: str) -> None:
    """Make a table new. Deleting its rows would leave their dust in most databases.

    Args:
        pool: leads to the database.
        name: a table that `created` made.
    """
    await pool.runInteraction(_recreate, name)


def _recreate(txn: Any, name: str) -> None:
    txn.execute(f"drop table {name}")
    txn.execute(_creation(name))


def _creation(name: str) -> str:
    return f"create table {name} ({_COLUMNS[name]})"


def spelled(sql: str, paramstyle: str) -> str:
    """Write a statement as a driver wants it.

    Args:
        sql: with a question mark for each parameter, and none elsewhere.
        paramstyle: as DB-API 2.0 names them.

    Returns:
        the statement with the driver's marks.
    """
    if paramstyle in {"format", "pyformat"}:
        return sql.replace("?", "%s")
    if paramstyle in {"named", "numeric"}:
        numbers = count(1)
        return re.sub(r"\?", lambda _: f":{next(numbers)}", sql)
    return sql
