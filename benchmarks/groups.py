"""What is measured, beside whom, and what we ask of ourselves.

A new line in the table is a new contender and its name here; nothing else changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The contender that every other one is divided by.
OURS = "threadbridge"


@dataclass(frozen=True)
class Case:
    """One contender under one load: what one child process measures."""

    contender: str
    in_flight: int = 1


@dataclass(frozen=True)
class Race:
    """We against others, each with so many calls in flight; higher is better.

    `others` maps each to the least ratio ours / theirs that we ask for; None: it is
    there for comparison. `wished` maps some of them to a ratio that would please us.
    `load` says what each does, where that is not a number of calls in flight.
    """

    in_flight: int
    others: Mapping[str, float | None]
    unit: str = "calls/s"
    wished: Mapping[str, float] = field(default_factory=dict)
    load: str = ""


@dataclass(frozen=True)
class Cost:
    """A figure that stands alone, lower is better; `at_most` None: for comparison."""

    contender: str
    unit: str
    at_most: float | None = None


@dataclass(frozen=True)
class Group:
    """Contenders of one module of `benchmarks.contenders`, measured in turns.

    Work is done for some seconds, or, where its size is the point, to its end: `rows`
    is that size then.
    """

    name: str
    title: str
    rows: int = 0
    races: tuple[Race, ...] = ()
    costs: tuple[Cost, ...] = ()

    def cases(self) -> Iterator[Case]:
        for race in self.races:
            for contender in (OURS, *race.others):
                yield Case(contender, race.in_flight)
        for cost in self.costs:
            yield Case(cost.contender)


# Neither races nor costs: a method call takes nanoseconds, so benchmarks.ground_floor
# measures all its variants in turns within one process.
GROUND_FLOOR = Group("ground_floor", "A synchronized method beside one locked by hand")

GROUPS = (
    GROUND_FLOOR,
    Group(
        "awaited",
        "A result made, fired by the loop, and awaited in a task",
        # "At most 1.5 times as long" is a rate of at least two thirds.
        races=(Race(in_flight=1, others={"future": 0.67}, unit="results/s"),),
    ),
    Group(
        "chain",
        "A Deferred with ten callbacks, made and fired",
        races=(Race(in_flight=1, others={"twisted": 2}, unit="chains/s"),),
    ),
    Group(
        "noop",
        "A call that does nothing, through a thread and back",
        races=(
            Race(
                in_flight=64,
                others={
                    "run_in_executor": 6,
                    "to_thread": 6,
                    "twisted": 7,
                    "anyio": 16,
                },
            ),
            Race(
                in_flight=1,
                others={
                    "run_in_executor": 0.95,
                    "to_thread": None,
                    "twisted": None,
                    "anyio": None,
                },
            ),
        ),
    ),
    Group(
        "sqlite",
        "SQLite: a row by its primary key, 8 connections",
        races=(
            Race(
                in_flight=64,
                others={
                    "aiosqlite": 2.5,
                    "run_in_executor": 4.5,
                    "adbapi": 7,
                    "sqlalchemy": 45,
                    "plain_loop": 0.35,
                },
                wished={
                    "aiosqlite": 3,
                    "run_in_executor": 6,
                    "adbapi": 8,
                    "sqlalchemy": 50,
                    "plain_loop": 0.5,
                },
            ),
            Race(
                in_flight=1,
                others={"aiosqlite": None, "run_in_executor": 0.95, "adbapi": None},
            ),
        ),
    ),
    Group(
        "sqlite_insert",
        "SQLite: a row inserted for good, synchronous=FULL, WAL",
        races=(
            Race(
                in_flight=64,
                others={"aiosqlite": 12, "plain_loop": None},
                unit="rows/s",
            ),
        ),
    ),
    Group(
        "sqlite_transaction",
        "SQLite: 1 million inserts in one transaction, each called on its own",
        rows=1_000_000,
        races=(
            Race(
                in_flight=1,
                others={"aiosqlite": 8, "plain_loop": 0.3},
                unit="rows/s",
                load="one transaction",
            ),
        ),
    ),
    Group(
        "postgres",
        "PostgreSQL: a row by its primary key, 8 connections, unix socket",
        races=(
            Race(
                in_flight=64,
                others={
                    "psycopg_pool": 2.2,
                    "asyncpg": 3,
                    "run_in_executor": 2.5,
                    "adbapi": None,
                    "plain_loop": None,
                },
            ),
            Race(
                in_flight=1,
                others={
                    "run_in_executor": 0.95,
                    "psycopg_pool": None,
                    "asyncpg": None,
                    "adbapi": None,
                },
            ),
        ),
    ),
    Group(
        "postgres_far",
        "PostgreSQL: a row by its primary key, 8 connections, 1 ms away",
        races=(
            Race(
                in_flight=64,
                others={"psycopg_pool": 5, "asyncpg": 5, "run_in_executor": None},
            ),
        ),
    ),
    Group(
        "postgres_insert",
        "PostgreSQL: a row inserted and committed, 8 connections, unix socket",
        races=(
            Race(
                in_flight=64,
                others={"psycopg_pool": 2, "asyncpg": 2, "run_in_executor": None},
                unit="rows/s",
            ),
        ),
    ),
    Group(
        "stream",
        "PostgreSQL: 1 million rows, read as they come",
        rows=1_000_000,
        races=(
            Race(
                in_flight=1,
                others={"plain_loop": 0.7, "psycopg_async": None, "asyncpg": None},
                unit="rows/s",
                load="one stream",
            ),
        ),
    ),
    Group(
        "gaps",
        "PostgreSQL: how long a loop stands still while it gets 1 million rows",
        rows=1_000_000,
        costs=(
            Cost("threadbridge_worst", "ms", at_most=15),
            Cost("to_thread_worst", "ms"),
            Cost("asyncpg_worst", "ms"),
            Cost("threadbridge_p99", "ms", at_most=5),
            Cost("to_thread_p99", "ms"),
            Cost("asyncpg_p99", "ms"),
        ),
    ),
    Group(
        "imports",
        "Importing a package, over what it stands on",
        costs=(
            Cost("threadable_over_python", "ms", at_most=15),
            Cost("asyncio_over_python", "ms"),
            Cost("threadpool_over_asyncio", "ms", at_most=60),
            Cost("enterprise_over_asyncio", "ms"),
        ),
    ),
    Group(
        "memory",
        "Calls and queries that wait in the queue of a busy pool",
        costs=(
            Cost("traced_1000", "KB/call", at_most=1.5),
            Cost("traced_100000", "KB/call", at_most=1.5),
            Cost("resident_100000", "KB/call", at_most=1.5),
            Cost("traced_100000_queries", "KB/call", at_most=1),
            Cost("resident_100000_queries", "KB/call", at_most=1),
            Cost("time_1000", "µs/call"),
            Cost("time_100000", "µs/call"),
            # "No more per call": 5 % are what two equal measurements differ by here.
            Cost("time_100000_over_1000", "times", at_most=1.05),
        ),
    ),
)
