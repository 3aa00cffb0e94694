"""The load: a number of calls kept in flight for a while, and how many came home.

64 in flight means 64 coroutines, each awaiting one call after another: a closed loop,
as a service with 64 busy requests would be. It measures throughput; with one in
flight the same figure is the inverse of the latency.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

# Rows in the tables that are asked for a row by its key; the keys are 1 … ROWS.
ROWS = 10_000

Call = Callable[[int], Any]
Gather = Callable[[list[Any]], Awaitable[list[int]]]


def shuffled_keys() -> Iterator[int]:
    """Every key again and again, in one random order that is the same in every run."""
    return itertools.cycle(random.Random(1).sample(range(1, ROWS + 1), ROWS))


@dataclass(frozen=True)
class Load:
    """What a contender is put under. It hands its call to one of the three drivers.

    A call takes a key and gives the answer (blocking) or something to await.
    """

    seconds: float
    in_flight: int
    target: str
    correct: Callable[[Any], bool] | None
    rows: int = 0  # of work that is counted, not timed

    def loop(self, call: Call) -> float:
        """Calls per second of a blocking call, one after another: the limit."""
        self._check(call(1))
        keys = shuffled_keys()
        for seconds in self._windows():
            calls, start = 0, perf_counter()
            while perf_counter() < start + seconds:
                call(next(keys))
                calls += 1
            rate = calls / (perf_counter() - start)
        return rate

    async def drive(self, call: Call) -> float:
        """Calls per second on the running asyncio loop."""
        return await self._drive(call, lambda chains: asyncio.gather(*chains))

    def drive_twisted(self, call: Call) -> float:
        """Calls per second on Twisted's own reactor, which this starts and stops."""
        from twisted.internet import reactor
        from twisted.internet.defer import Deferred, gatherResults
        from twisted.python.failure import Failure

        outcome: list[Any] = []

        def gather(chains):
            return gatherResults([Deferred.fromCoroutine(chain) for chain in chains])

        def begin():
            driven = Deferred.fromCoroutine(self._drive(call, gather))
            driven.addBoth(outcome.append).addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(begin)
        reactor.run()
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        return outcome[0]

    async def _drive(self, call: Call, gather: Gather) -> float:
        self._check(await call(1))
        keys = shuffled_keys()
        for seconds in self._windows():
            start = perf_counter()
            end = start + seconds
            chains = [_chain(call, keys, end) for _ in range(self.in_flight)]
            calls = sum(await gather(chains))
            rate = calls / (perf_counter() - start)
        return rate

    def inserted(self, rows: int, rate: float) -> float:
        """Give *rate* back, if the table has the rows that were counted.

        An insert's answer says little: that it is there afterwards is the right one.
        """
        if rows < rate * self.seconds:
            raise ValueError(f"{rows} rows are there, not {rate * self.seconds:.0f}")
        return rate

    def finished(self, rows: int, start: float) -> float:
        """Rows per second of counted work that began at *start* and gave *rows*."""
        elapsed = perf_counter() - start
        if rows != self.rows:
            raise ValueError(f"{rows} rows, not {self.rows}")
        return rows / elapsed

    def _windows(self) -> tuple[float, float]:
        """The warm-up (threads start, connections open), then the one that counts."""
        return self.seconds / 3, self.seconds

    def _check(self, answer: Any) -> None:
        """A contender that answers wrongly has no speed."""
        if self.correct and not self.correct(answer):
            raise ValueError(f"wrong answer for key 1: {answer!r}")


async def _chain(call: Call, keys: Iterator[int], end: float) -> int:
    calls = 0
    while perf_counter() < end:
        await call(next(keys))
        calls += 1
    return calls
