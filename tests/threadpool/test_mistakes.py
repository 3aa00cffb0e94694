"""What is passed wrongly is told at the call that passed it, on the caller's thread."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc

import pytest

from threadpool import threads
from threadpool.reactor import Reactor
from threadpool.task import LoopingCall, deferLater


@pytest.fixture
def reactor(monkeypatch):
    """The default reactor of this test, its pool stopped afterwards."""
    made = Reactor()
    monkeypatch.setattr(threads, "_reactor", made)
    yield made
    if made._pool is not None:
        made._pool.stop()


whose = contextvars.ContextVar("whose", default="nobody's")


async def work(seen=None):
    """A coroutine function."""
    await asyncio.sleep(0)
    if seen is not None:
        seen.append("worked")


async def turns(number=5):
    for _ in range(number):
        await asyncio.sleep(0)


# -- functions -------------------------------------------------------------------------

VERBS = {
    "callLater": lambda reactor, f: reactor.callLater(0, f),
    "callFromThread": lambda reactor, f: reactor.callFromThread(f),
    "callWhenRunning": lambda reactor, f: reactor.callWhenRunning(f),
    "callInThread": lambda reactor, f: reactor.callInThread(f),
    "addSystemEventTrigger": lambda reactor, f: reactor.addSystemEventTrigger(
        "before", "shutdown", f
    ),
    "callMultipleInThread": lambda _, f: threads.callMultipleInThread([(f, (), {})]),
    "deferToThread": lambda _, f: threads.deferToThread(f),
    "deferToThreadPool": lambda reactor, f: threads.deferToThreadPool(
        reactor, reactor.getThreadPool(), f
    ),
    "callInThreadWithCallback": lambda reactor, f: (
        reactor.getThreadPool().callInThreadWithCallback(None, f)
    ),
    "on_result": lambda reactor, f: reactor.getThreadPool().callInThreadWithCallback(
        f or 0, int
    ),
    "LoopingCall": lambda _, f: LoopingCall(f),
    "deferLater": lambda reactor, f: deferLater(reactor, 0, f or 0),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_what_cannot_be_called(reactor, verb):
    """None, a number, or a coroutine is refused where a function is asked for."""
    for wrong in (None, 5):
        with pytest.raises(TypeError, match="cannot be called. Pass a function"):
            VERBS[verb](reactor, wrong)
    with pytest.raises(TypeError, match="Pass the async function itself"):
        VERBS[verb](reactor, work())
    gc.collect()  # And Python does not warn of the coroutine.


@pytest.mark.parametrize("verb", ["callLater", "callFromThread", "callWhenRunning"])
async def test_coroutine_functions_are_run(reactor, verb):
    """A coroutine function is called like any other, and its coroutine is run."""
    seen = []
    VERBS[verb](reactor, functools.partial(work, seen))
    async with asyncio.timeout(30):
        while not seen:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("verb", ["callLater", "callFromThread", "callWhenRunning"])
async def test_coroutines_that_fail_are_logged(reactor, verb, expect_errors):
    """What such a coroutine raises is logged."""

    async def broken():
        await asyncio.sleep(0)
        raise ValueError("in a coroutine")

    VERBS[verb](reactor, broken)
    async with asyncio.timeout(30):
        while not expect_errors:
            await asyncio.sleep(0.001)
            gc.collect()
    assert "in a coroutine" in expect_errors[0].getMessage()


async def test_coroutine_sees_the_context_of_the_caller(reactor):
    """The coroutine goes on in the context of the function that made it."""
    contexts = []
    variable = whose

    async def look():
        await asyncio.sleep(0)
        contexts.append(variable.get())

    token = variable.set("caller's")
    reactor.callFromThread(look)
    reactor.callLater(0, look)
    variable.reset(token)
    async with asyncio.timeout(30):
        while len(contexts) < 2:
            await asyncio.sleep(0.001)
    assert contexts == ["caller's"] * 2


@pytest.mark.parametrize(
    "verb", ["callInThread", "callMultipleInThread", "callInThreadWithCallback"]
)
async def test_threads_run_no_coroutine_functions(reactor, verb):
    """A thread of the pool has no loop: a coroutine function is refused at the call."""
    with pytest.raises(TypeError, match="the coroutine function .*no event loop"):
        VERBS[verb](reactor, work)


async def test_coroutine_that_comes_of_a_plain_function(reactor, expect_errors):
    """One that is found out only in the thread is logged there, with its callback."""
    told = []
    over = asyncio.get_running_loop().create_future()

    def note(*outcome):
        told.append(outcome)
        reactor.callFromThread(over.set_result, None)

    reactor.callInThread(lambda: work())
    reactor.getThreadPool().callInThreadWithCallback(note, lambda: work())
    async with asyncio.timeout(30):
        await over
        while not expect_errors:
            await asyncio.sleep(0.001)
    assert "returned a coroutine" in str(expect_errors[0].exc_info[1])
    assert told[0][0] is False
    assert "returned a coroutine" in str(told[0][1].value)
