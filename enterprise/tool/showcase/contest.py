"""The same work twice: by a plain blocking loop, and by the pool.

The loop thread enters here; what a `Work` does in `plain` happens in a worker.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from enterprise.tool.progress import Stopped, watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from enterprise import ConnectionPool
    from enterprise.tool.progress import Display, Step

__all__ = ["HEADINGS", "Measured", "Work", "WrongAnswer", "compare", "crowd"]

T = TypeVar("T")

# Callers at the same time: what a busy service has. From 64 on it changes little.
CLIENTS = 256


class WrongAnswer(RuntimeError):
    """The database said something that is not so."""


class Work(Protocol):
    """A kind of work that can be done by a plain loop and by the pool.

    Attributes:
        title: what is done, for people.
        units: how many rows or calls it consists of.
    """

    title: str
    units: int

    async def prepare(self, pool: ConnectionPool) -> None:
        """Bring the tables into the state in which the work begins."""

    def plain(self, connection: Any, step: Step) -> None:
        """Do it all as a program without a pool would: one call after the other.

        Runs in a worker's thread, whose connection is in a transaction at first and
        after each commit and rollback.
        """

    async def pooled(self, pool: ConnectionPool, step: Step) -> None:
        """Do it all with many callers at a time."""

    async def check(self, pool: ConnectionPool) -> None:
        """Look at what it left in the tables, and raise WrongAnswer if need be."""


@dataclass(frozen=True)
class Measured:
    """How long both ways took.

    Attributes:
        title: what was done.
        units: rows or calls.
        pool_seconds: by the pool.
        plain_seconds: by the plain loop.
        late_seconds: the longest time for which the pool's work kept the event loop
            from anything else.
    """

    title: str
    units: int
    pool_seconds: float
    plain_seconds: float
    late_seconds: float

    def cells(self) -> tuple[str, ...]:
        """Write it as a row of the table below `HEADINGS`."""
        return (
            self.title,
            f"{self.units:,}",
            f"{self.pool_seconds:.2f}",
            f"{self.units / self.pool_seconds:,.0f}",
            f"{self.plain_seconds:.2f}",
            f"{self.units / self.plain_seconds:,.0f}",
            f"{self.plain_seconds / self.pool_seconds:.2f}",
        )


HEADINGS = (
    *("step", "rows/calls", "seconds", "per second"),
    *("plain seconds", "plain per second", "ratio"),
)


async def compare(work: Work, pool: ConnectionPool, display: Display) -> Measured:
    """Do a work in both ways, from the same beginning, and check both.

    Args:
        work: what to do.
        pool: where to do it; the plain loop borrows one of its connections, so that
            both have the same settings.
        display: shows how far it is.

    Returns:
        how long both took.

    Raises:
        WrongAnswer: one of them did it wrong.
    """
    await work.prepare(pool)
    async with watched(display, f"{work.title}, plain loop", work.units) as plain:
        await _plainly(work, pool, plain)
    await work.check(pool)
    await work.prepare(pool)
    async with watched(display, f"{work.title}, pool", work.units) as pooled:
        await work.pooled(pool, pooled)
    await work.check(pool)
    return Measured(
        *(work.title, work.units),
        *(pooled.seconds, plain.seconds, pooled.late_seconds),
    )


async def _plainly(work: Work, pool: ConnectionPool, step: Step) -> None:
    running = pool.runWithConnection(work.plain, step)
    try:
        # Shielded: a cancel stops a statement, and this loop is mostly between two.
        await asyncio.shield(running)
    except asyncio.CancelledError:
        step.stopped = True  # It hears of it at its next tick.
        with suppress(Stopped):
            await running
        raise


async def crowd(items: Iterable[T], serve: Callable[[T], Awaitable[None]]) -> None:
    """Let many clients at a time work on a common heap.

    Args:
        items: the heap; each client takes the next one when it is done with the last.
        serve: what a client does with one.

    Raises:
        Exception: the first one that *serve* raised; the other clients are cancelled.
    """
    heap = iter(items)

    async def client() -> None:
        for item in heap:
            await serve(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(client())
    except ExceptionGroup as errors:
        # One is enough to know; its own cause stays with it.
        first = errors.exceptions[0]
        raise first from first.__cause__
