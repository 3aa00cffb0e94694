"""A result made, fired by the loop and awaited in a task, beside asyncio's future.

One turn of the loop each, as a driver's answer takes it.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from time import perf_counter

ROUND = 1_000


def stage():
    return nullcontext("")


async def threadbridge(load):
    from threadpool.defer import Deferred

    soon = asyncio.get_running_loop().call_soon

    async def some():
        for number in range(ROUND):
            deferred = Deferred()
            soon(deferred.callback, number)
            await deferred

    return await rate(load, some)


async def future(load):
    loop = asyncio.get_running_loop()
    soon = loop.call_soon

    async def some():
        for number in range(ROUND):
            made = loop.create_future()
            soon(made.set_result, number)
            await made

    return await rate(load, some)


async def rate(load, some):
    """Results per second; *some* makes ROUND of them."""
    await some()
    done, start = 0, perf_counter()
    while perf_counter() < start + load.seconds:
        await some()
        done += ROUND
    return done / (perf_counter() - start)
