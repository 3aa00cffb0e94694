"""Python's own Unicode character database: loaded into a table, and looked up there.

The loop thread enters here; `plain` and what begins with an underscore run in workers.
"""

from __future__ import annotations

import random
import sys
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from enterprise.tool.showcase.contest import WrongAnswer, crowd
from enterprise.tool.showcase.tables import CHARACTER, emptied, spelled

if TYPE_CHECKING:
    from enterprise import ConnectionPool
    from enterprise.tool.progress import Step

__all__ = ["Character", "Load", "LookUps", "characters"]

Character = tuple[int, str, str]  # code point, name, category

# Rows in one transaction: a hundred times the cost of beginning and ending it.
CHUNK: Final = 2_000

INSERT = f"insert into {CHARACTER} (code_point, name, category) values (?, ?, ?)"  # noqa: S608 - our own name
SELECT = f"select name, category from {CHARACTER} where code_point = ?"  # noqa: S608
COUNT = f"select count(*) from {CHARACTER}"  # noqa: S608


def characters(limit: int | None = None) -> list[Character]:
    """List the characters that have a name.

    Args:
        limit: how many, from U+0020 on; None for all, about 140 000.

    Returns:
        them by code point.
    """
    found: list[Character] = []
    for code_point in range(sys.maxunicode + 1):
        if len(found) == limit:
            break
        character = chr(code_point)
        name = unicodedata.name(character, None)
        if name is not None:
            found.append((code_point, name, unicodedata.category(character)))
    return found


class Load:
    """Put all characters into the table, some thousand in a transaction.

    Args:
        rows: the characters.
        paramstyle: of the driver.
    """

    title = "load characters"

    def __init__(self, rows: list[Character], paramstyle: str) -> None:
        self.units = len(rows)
        self._chunks = [rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK)]
        self._insert = spelled(INSERT, paramstyle)

    async def prepare(self, pool: ConnectionPool) -> None:
        """Begin with an empty table."""
        await emptied(pool, CHARACTER)

    def plain(self, connection: Any, step: Step) -> None:
        """Insert one chunk after the other."""
        cursor = connection.cursor()
        for chunk in self._chunks:
            cursor.executemany(self._insert, chunk)
            connection.commit()
            step.tick(len(chunk))

    async def pooled(self, pool: ConnectionPool, step: Step) -> None:
        """Insert many chunks at a time."""

        async def insert(chunk: list[Character]) -> None:
            await pool.runInteraction(_insert_rows, self._insert, chunk)
            step.tick(len(chunk))

        await crowd(self._chunks, insert)

    async def check(self, pool: ConnectionPool) -> None:
        """Count the rows; the look-ups will see what is in them."""
        [(rows,)] = await pool.runQuery(COUNT)
        if rows != self.units:
            raise WrongAnswer(
                f"{self.units} characters were loaded, but the table has {rows} rows. "
                "Writes were lost or done twice; please report this."
            )


def _insert_rows(txn: Any, insert: str, rows: list[Character]) -> None:
    txn.executemany(insert, rows)


class LookUps:
    """Find characters by their code points, in no order.

    Args:
        rows: what is in the table.
        calls: how many to look up, some of them more than once.
        paramstyle: of the driver.
    """

    title = "look-ups"

    def __init__(self, rows: list[Character], calls: int, paramstyle: str) -> None:
        self.units = calls
        # The same ones each time, so that two runs can be compared.
        self._wanted = random.Random(calls).choices(rows, k=calls)  # noqa: S311 - no secret
        self._select = spelled(SELECT, paramstyle)

    async def prepare(self, pool: ConnectionPool) -> None:
        """Take the table as it is loaded."""

    def plain(self, connection: Any, step: Step) -> None:
        """Look up one after the other."""
        cursor = connection.cursor()
        for wanted in self._wanted:
            cursor.execute(self._select, wanted[:1])
            _check_answer(wanted, cursor.fetchall())
            step.tick()

    async def pooled(self, pool: ConnectionPool, step: Step) -> None:
        """Look up many at a time."""

        async def look_up(wanted: Character) -> None:
            _check_answer(wanted, await pool.runQuery(self._select, wanted[:1]))
            step.tick()

        await crowd(self._wanted, look_up)

    async def check(self, pool: ConnectionPool) -> None:
        """Nothing to do: each answer was checked when it came."""


def _check_answer(wanted: Character, rows: list[Any]) -> None:
    code_point, *expected = wanted
    if rows != [tuple(expected)]:
        raise WrongAnswer(
            f"U+{code_point:04X} is {expected}, but the database answered {rows}. An "
            "answer was lost or given to the wrong caller; please report this."
        )
