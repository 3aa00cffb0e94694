"""A call that does nothing, through a thread and back: the price of the bridge.

Eight threads for everyone who lets us say so; `asyncio.to_thread` has no such knob.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

THREADS = 8


def stage():
    return nullcontext("")


def correct(answer):
    return answer is None


def noop():
    pass


async def threadbridge(load):
    from threadpool.reactor import reactor
    from threadpool.threads import deferToThread

    reactor.suggestThreadPoolSize(THREADS)
    return await load.drive(lambda _: deferToThread(noop))


async def to_thread(load):
    return await load.drive(lambda _: asyncio.to_thread(noop))


async def run_in_executor(load):
    submit = asyncio.get_running_loop().run_in_executor
    with ThreadPoolExecutor(THREADS) as executor:
        return await load.drive(lambda _: submit(executor, noop))


async def anyio(load):
    from anyio import CapacityLimiter, to_thread

    limiter = CapacityLimiter(THREADS)
    return await load.drive(lambda _: to_thread.run_sync(noop, limiter=limiter))


def twisted(load):
    from twisted.internet import reactor
    from twisted.internet.threads import deferToThread

    reactor.suggestThreadPoolSize(THREADS)
    return load.drive_twisted(lambda _: deferToThread(noop))
