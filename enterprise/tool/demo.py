"""`enterprise demo`: the pool at work on real data, beside a plain blocking loop.

The loop thread enters here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from enterprise import ConnectionPool
from enterprise.tool.command import Command
from enterprise.tool.progress import displayOn
from enterprise.tool.showcase import place, tables
from enterprise.tool.showcase.accounts import Transfers
from enterprise.tool.showcase.characters import Load, LookUps, characters
from enterprise.tool.showcase.contest import HEADINGS, Measured, compare
from enterprise.tool.table import table
from threadable import usage

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["DemoOptions"]

# As in the benchmarks, so that the figures can be compared.
CONNECTIONS = 8

# More than there are clients: a demonstration is never refused for its own crowd.
BACKLOG = 60_000


def countCoerce(value: str) -> int:
    """Make a number of things out of a text.

    Args:
        value: decimal digits.

    Returns:
        the number, at least 1.

    Raises:
        ValueError: it is something else.
    """
    number = int(value)
    if number < 1:
        raise ValueError(f"too few: {number}")
    return number


countCoerce.coerceDoc = "A whole number from 1 on."  # type: ignore[attr-defined]


class DemoOptions(Command):
    """The options of `enterprise demo`."""

    summary = "Show the pool at work on real data, beside a plain blocking loop."
    longdesc = (
        "Loads Python's own Unicode character database into a table, looks characters "
        "up, and moves money between accounts: each first by a plain loop on one "
        "connection, then by many concurrent callers through the pool. Every answer "
        "is checked. The database is a temporary SQLite file unless you say "
        "otherwise; in yours, the demo uses new tables of its own (named "
        "threadbridge_demo_...) and drops them in the end."
    )
    optParameters = (  # noqa: N815 - the old vocabulary
        ("url", "u", None, "Work in this database, such as postgresql://host/name."),
        ("keep", "k", None, "Work in this new SQLite file, and keep it."),
        ("characters", None, None, "Load so many, instead of all.", countCoerce),
        ("lookups", None, "50000", "Look-ups to make.", countCoerce),
        ("transfers", None, "2000", "Transfers to make.", countCoerce),
    )

    def postOptions(self) -> None:
        """Refuse what contradicts itself."""
        if self["url"] is not None and self["keep"] is not None:
            raise usage.UsageError(
                "--url and --keep were both given, but the demo works in one database "
                "only. Leave out --keep: it is for a SQLite file that is not there yet."
            )

    async def run(self) -> None:
        """Do all work in both ways, and print the table."""
        rows = characters(self["characters"])
        with self._place() as where, displayOn(sys.stderr) as display:
            async with ConnectionPool(
                *where.source,
                cp_min=1,  # What is wrong with the address shows before any work.
                cp_max=CONNECTIONS,
                cp_backlog=BACKLOG,
                cp_wal=where.ours,  # Another's file keeps the journal that it has.
            ) as pool:
                transfers = Transfers(self["transfers"], pool.paramstyle)
                works = (
                    Load(rows, pool.paramstyle),
                    LookUps(rows, self["lookups"], pool.paramstyle),
                    transfers,
                )
                async with tables.created(pool, drop=not where.ours):
                    measured = [await compare(work, pool, display) for work in works]
            if self["keep"] is not None:
                await place.settle(where)
        _report(measured, transfers.refused)

    def _place(self) -> AbstractContextManager[place.Place]:
        if self["url"] is not None:
            return place.givenPlace(self["url"])
        if self["keep"] is not None:
            return place.newFile(Path(self["keep"]))
        return place.temporaryFile()


def _report(measured: list[Measured], refused: int) -> None:
    print(table(HEADINGS, [each.cells() for each in measured]))
    late = max(each.late_seconds for each in measured)
    print(
        f"\nEvery answer was checked: no money was lost or made, and {refused:,} "
        "transfers asked\nfor more than there was and were rolled back. A plain loop "
        "stops the event loop for\nall of its time; while the pool worked, nothing "
        f"else waited longer than {late:.3f} s."
    )
