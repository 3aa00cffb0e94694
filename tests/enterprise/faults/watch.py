"""What must hold after every fault: a loop that lived, answers that came once."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from enterprise import ConnectionPool
from enterprise.errors import ConnectionLost
from tests.enterprise.helpers import PATIENCE_SECONDS, until

# No fault may keep the loop from its other work for longer than this.
STALL_SECONDS = 0.25

TICK_SECONDS = 0.005


# How often to note for how long our threads have waited for a processor.
STARVED_TICKS = 10


def starved():
    """Return for how many seconds our threads have waited for a processor, in all.

    On a machine with too much to do the loop stands still whatever we do; so does it
    while the thread that has the interpreter's lock waits for its turn.
    """
    nanoseconds = 0
    for place in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # That thread has just ended.
            nanoseconds += int(place.read_text().split()[1])
    return nanoseconds / 1e9


@asynccontextmanager
async def living_loop(limit=STALL_SECONDS):
    """Fail if the loop stands still for more than *limit* seconds in this block."""
    longest = 0.0

    async def tick():
        nonlocal longest
        before = time.monotonic()
        for turn in itertools.count():
            if turn % STARVED_TICKS == 0:
                waited = starved()
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            gap, before = now - before, now
            if gap > limit:
                gap -= max(0.0, starved() - waited)
            longest = max(longest, gap)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    try:
        yield
        await asyncio.sleep(2 * TICK_SECONDS)  # So that a stall at the end is seen.
    finally:
        ticking.cancel()
        await asyncio.wait([ticking])
    assert longest <= limit, f"the loop stood still for {longest:.3f} s"


class Answers:
    """Counts how often each of many Deferreds is answered.

    calls = Answers()
    calls.of(pool.runQuery("select 1"))
    await calls.all()
    """

    def __init__(self):
        self.calls = []
        self._times = Counter()

    def of(self, call):
        """Watch *call*, a Deferred, and return it; its result stays as it is."""
        number = len(self.calls)
        self.calls.append(call)

        def note(result):
            self._times[number] += 1
            return result

        return call.addBoth(note)

    async def all(self):
        """Wait for all; return what each gave or raised, having come exactly once."""
        # Not `gather`: its cancellation would wait for one that never answers.
        await asyncio.wait(self.calls, timeout=PATIENCE_SECONDS)
        hung = [number for number, call in enumerate(self.calls) if not call.done()]
        assert hung == [], f"after {PATIENCE_SECONDS:.0f} s these calls still hang"
        results = await asyncio.gather(*self.calls, return_exceptions=True)
        assert [self._times[n] for n in range(len(self.calls))] == [1] * len(self.calls)
        return results


@asynccontextmanager
async def pool_through(proxy, url, server, name, **options):
    """A pool behind *proxy*, under the rule of this folder; nothing is left of it.

    The loop lives, there are never more than `cp_max` workers, and after the end the
    server has no session in the database *name*.
    """
    pool = ConnectionPool(url, **options)  # The first one imports its driver.
    async with living_loop():
        async with pool:
            yield pool
            assert pool.stats().most_workers <= pool.options.cp_max
        assert pool.stats().connections == 0
    proxy.heal()  # The server learns now of connections that the network had lost.
    await until(lambda: not server.backends(name), "the sessions to end")


async def every_slot(pool, seconds=8.0):
    """Have all of *pool*'s connections at work at one time, within *seconds*.

    A call that meets a connection which is dead, but was not known to be, tries again.
    """
    lock, complete, present = threading.Lock(), threading.Event(), 0

    def meet(txn):
        nonlocal present
        assert txn.execute("select 1").fetchall() == [(1,)]
        with lock:
            present += 1
            if present == pool.options.cp_max:
                complete.set()
        while not complete.wait(0.01) and not txn.cancelled:
            pass
        with lock:
            present -= 1

    until_when = time.monotonic() + seconds
    while not complete.is_set():
        left = until_when - time.monotonic()
        assert left > 0, f"not all slots are back after {seconds:.0f} s: {pool!r}"
        calls = [
            pool.runInteraction(meet, timeout=1.5) for _ in range(pool.options.cp_max)
        ]
        await asyncio.wait(calls, timeout=left)
        for call in calls:
            if call.done() and call.exception() is not None:
                assert isinstance(call.exception(), ConnectionLost | TimeoutError)
