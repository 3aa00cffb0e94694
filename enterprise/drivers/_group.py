"""Group commit: writes that wait for SQLite's one writer share a COMMIT.

What makes a durable write slow is the COMMIT, which waits for the disk. So the writer
does what waits behind a job in that job's transaction, and commits once; each has the
outcome that it would have had alone. Everything here runs on the writer's thread.

A cancel or a time limit that comes before the COMMIT leaves nothing of its job behind:
what runs at that moment is interrupted, all is rolled back, and the others are done
again, one by one. One that comes later gets the committed value, as ever.

Source: the group commit of database logs; here one SQLite transaction is the log.
"""

from __future__ import annotations

import functools
import re
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from enterprise.drivers._grouped import Group
from enterprise.interaction import Interaction
from enterprise.jobs import UNDONE, Operation, Query, WholeResult

if TYPE_CHECKING:
    from enterprise.drivers.sqlite import SQLiteDriver
    from enterprise.jobs import DatabaseJob
    from enterprise.worker import ConnectionWorker

__all__ = ["GroupCommit"]

T = TypeVar("T")

# How many share a COMMIT at the most. With 64 its cost is spread thin enough, and who
# was first does not wait for long.
MOST: Final = 64

# For how long a group takes further jobs, in seconds: about as long as a COMMIT takes
# on a plain disk, so that nobody waits more than twice as long as alone.
OPEN_SECONDS: Final = 0.005

# For how long a statement is done alone that took longer than that by itself: the
# others of its group would have had their answers long before.
BARRED_SECONDS: Final = 60.0

# How often in a row it must have: once it may only have waited for the GIL, or for a
# processor, and grouping is worth more than a slow one now and then costs.
SLOW_SIGHTINGS: Final = 3

# How many statements' texts are remembered.
TEXTS: Final = 1000

_STATEMENTS = frozenset({Operation, Query, WholeResult})

# After white space and comments. The atomic group keeps it from going back into them.
_WRITE = re.compile(
    r"(?>(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*)(insert|replace|update|delete|with)\b",
    re.IGNORECASE | re.DOTALL,
)
_CHANGE = re.compile(r"\b(insert|replace|update|delete)\b", re.IGNORECASE)


@functools.lru_cache(TEXTS)
def writes(text: str) -> bool:
    """Say whether *text* is a statement that changes rows, and nothing else.

    Args:
        text: SQL. Of several statements in one text sqlite3 runs none.
    """
    found = _WRITE.match(text)
    # A WITH that only reads has no use for the lock.
    return found is not None and (
        found[1].lower() != "with" or _CHANGE.search(text) is not None
    )


class GroupCommit:
    """The batcher of a connection that writes to a file.

    Args:
        driver: of that connection.
    """

    # One is asked for to see that somebody waits. The others are taken when it is
    # their turn: until then they are in the queue, where a cancel finds them.
    most = 1
    takes_one = False

    def __init__(self, driver: SQLiteDriver) -> None:
        self._driver = driver
        # Until when a text is done alone, in seconds of time.monotonic().
        self._barred: dict[str, float] = {}
        self._slow: dict[str, int] = {}  # How often in a row a text took long.
        # What is true of schemas, by their versions.
        self._known: tuple[Any, bool] | None = None

    def joins(self, job: DatabaseJob[Any]) -> bool:
        """Say whether *job* may share a COMMIT.

        Args:
            job: one that waits, or is about to be done.
        """
        if job.phase is UNDONE:
            return False
        if type(job) in _STATEMENTS:
            text = job.args[0]
            return writes(text) and not (self._barred and self._bars(text))
        return type(job) is Interaction and job.group

    def run(self, worker: ConnectionWorker, jobs: list[DatabaseJob[Any]]) -> None:
        """Do *jobs*, and those that come meanwhile, with one COMMIT.

        Args:
            worker: whose connection lives.
            jobs: its own, and one that was behind it.
        """
        first, *others = jobs
        team = first.team
        team.giveBack(worker, others)
        if not self._suits(worker.upkeep.raw):
            worker.doAlone(first)
            return
        group = Group(worker)
        if not self._begin(group, first):
            return
        began = now = time.monotonic()
        job = first
        while group.do(job):
            now = self._clock(job, now)
            if len(group.members) >= MOST or now - began > OPEN_SECONDS:
                break
            if not team.anyWaiting(worker):
                break
            more = team.take(worker, 1, self.joins)
            if not more:
                break
            job = more[0]
        else:
            self._clock(job, now)
        if not group.commit():
            group.breakUp()

    def _begin(self, group: Group, first: DatabaseJob[Any]) -> bool:
        """Take the lock on behalf of *first*, whose time and whose cancel count."""
        worker = group.worker
        error = group.begin(first)
        if error is None:
            return True
        if first.cancel_wanted or self._driver.locked(error):
            group.fail(first, error)
        else:  # What it says of its own statement is better.
            worker.doAlone(first)
        return False

    # -- Who is better alone -----------------------------------------------------------

    def _suits(self, raw: sqlite3.Connection) -> bool:
        """Say whether in this database a group behaves as its members would alone."""
        try:
            schemas = [row[1] for row in raw.execute("pragma database_list")]
            # BEGIN takes the locks of all files, also of those nobody writes to.
            if any(name not in ("main", "temp") for name in schemas):
                return False
            if not raw.execute("pragma foreign_keys").fetchone()[0]:
                return True
            key = [
                raw.execute(f"pragma {name}.schema_version").fetchone()
                for name in schemas
            ]
            if self._known is None or self._known[0] != key:
                # One member might mend what another one has broken.
                defers = any(
                    raw.execute(
                        f"select 1 from {name}.sqlite_master "  # noqa: S608 - ours
                        "where sql like '%deferred%' limit 1"
                    ).fetchone()
                    for name in schemas
                )
                self._known = key, not defers
            return self._known[1]
        except sqlite3.Error:  # Locked, or no database at all: each will see.
            return False

    def _clock(self, job: DatabaseJob[Any], began: float) -> float:
        """Bar the text of *job* if it took long; return the time."""
        now = time.monotonic()
        slow = now - began > OPEN_SECONDS
        if (slow or self._slow) and type(job) in _STATEMENTS:
            text = job.args[0]
            times = self._slow.pop(text, 0) + 1
            if slow and times < SLOW_SIGHTINGS:
                _keep(self._slow, text, times)
            elif slow:
                _keep(self._barred, text, now + BARRED_SECONDS)
        return now

    def _bars(self, text: str) -> bool:
        until = self._barred.get(text)
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        del self._barred[text]
        return False

    def __repr__(self) -> str:
        return f"<GroupCommit for {self._driver.name}, {len(self._barred)} barred>"


def _keep(notes: dict[str, T], text: str, value: T) -> None:
    while len(notes) >= TEXTS:
        notes.pop(next(iter(notes)))
    notes[text] = value
