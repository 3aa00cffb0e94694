"""What is measured, beside whom, and what we ask of ourselves.

A new line in the table is a new contender and its name here; nothing else changes.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    there for comparison.
    """

    in_flight: int
    others: Mapping[str, float | None]
    unit: str = "calls/s"


@dataclass(frozen=True)
class Cost:
    """A figure that stands alone, lower is better; `at_most` None: for comparison."""

    contender: str
    unit: str
    at_most: float | None = None


@dataclass(frozen=True)
class Group:
    """Contenders of one module of `benchmarks.contenders`, measured in turns."""

    name: str
    title: str
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
                    "run_in_executor": 4,
                    "to_thread": 4,
                    "twisted": 4.5,
                    "anyio": 10,
                },
            ),
            Race(
                in_flight=1,
                others={
                    "run_in_executor": 0.9,
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
                    "aiosqlite": 2,
                    "run_in_executor": 4,
                    "adbapi": None,
                    "plain_loop": 0.35,
                },
            ),
            Race(
                in_flight=1,
                others={"aiosqlite": None, "run_in_executor": None, "adbapi": None},
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
                    "run_in_executor": 1,
                    "psycopg_pool": None,
                    "asyncpg": None,
                    "adbapi": None,
                    "plain_loop": None,
                },
            ),
            Race(
                in_flight=1,
                others={
                    "run_in_executor": None,
                    "psycopg_pool": None,
                    "asyncpg": None,
                    "adbapi": None,
                },
            ),
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
        "Calls that wait in the queue of a busy pool",
        costs=(
            Cost("traced_1000", "KB/call", at_most=1.5),
            Cost("traced_100000", "KB/call", at_most=1.5),
            Cost("resident_100000", "KB/call", at_most=1.5),
            Cost("time_1000", "µs/call"),
            Cost("time_100000", "µs/call"),
            # "No more per call": 5 % are what two equal measurements differ by here.
            Cost("time_100000_over_1000", "times", at_most=1.05),
        ),
    ),
)
