"""What is passed wrongly is told at the call that passed it, on the caller's thread."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import math
import re

import pytest
from twisted.internet import defer as twisted_defer

import threadable
from threadpool import home, loops, threads
from threadpool.combine import DeferredQueue, DeferredSemaphore
from threadpool.defer import Deferred, NotACoroutineError, ensureDeferred
from threadpool.loops import tkinter as tk_loop
from threadpool.loops import twisted as twisted_loop
from threadpool.pool import ThreadPool
from threadpool.reactor import Reactor
from threadpool.task import LoopingCall, deferLater
from threadpool.testing import Clock


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
        with pytest.raises(TypeError, match=r"cannot be called\. Pass a function"):
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

    clock = Clock()
    token = variable.set("caller's")
    reactor.callFromThread(look)
    reactor.callLater(0, look)
    clock.callLater(1, look)
    variable.reset(token)
    clock.advance(1)
    async with asyncio.timeout(30):
        while len(contexts) < 3:
            await asyncio.sleep(0.001)
    assert contexts == ["caller's"] * 3


@pytest.mark.parametrize(
    "verb", ["callInThread", "callMultipleInThread", "callInThreadWithCallback"]
)
async def test_threads_run_no_coroutine_functions(reactor, verb):
    """A thread of the pool has no loop: a coroutine function is refused at the call."""
    with pytest.raises(TypeError, match=r"the coroutine function .*no event loop"):
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


# -- numbers ---------------------------------------------------------------------------

DELAYS = {
    "callLater": lambda wrong: Reactor().callLater(wrong, int),
    "iterate": lambda wrong: Reactor().iterate(wrong),
    "deferLater": lambda wrong: deferLater(Clock(), wrong),
    "addTimeout": lambda wrong: Deferred().addTimeout(wrong, Clock()),
    "start": lambda wrong: LoopingCall(int).start(wrong),
    "advance": lambda wrong: Clock().advance(wrong),
    "reset": lambda wrong: Clock().callLater(1, int).reset(wrong),
    "delay": lambda wrong: Clock().callLater(1, int).delay(wrong),
    "idle_seconds": lambda wrong: ThreadPool(0, 1, idle_seconds=wrong),
}

COUNTS = {
    "suggestThreadPoolSize": lambda wrong: Reactor().suggestThreadPoolSize(wrong),
    "tokens": DeferredSemaphore,
    "size": DeferredQueue,
    "backlog of a queue": lambda wrong: DeferredQueue(None, wrong),
    "minimum": lambda wrong: ThreadPool(wrong, 5),
    "maximum": lambda wrong: ThreadPool(0, wrong),
    "backlog": lambda wrong: ThreadPool(0, 1, backlog=wrong),
    "adjustPoolsize": lambda wrong: ThreadPool(0, 1).adjustPoolsize(0, wrong),
}


@pytest.mark.parametrize("verb", DELAYS)
@pytest.mark.parametrize("wrong", [None, "1", int])
def test_what_is_no_number_of_seconds(verb, wrong):
    """What is no number is refused as a time, with its type and what to pass."""
    text = rf"is {re.escape(repr(wrong))}, of type \w+\. Pass a number of seconds"
    with pytest.raises(TypeError, match=text):
        DELAYS[verb](wrong)


@pytest.mark.parametrize("verb", DELAYS)
def test_impossible_times(verb):
    """A time that no clock can keep is a ValueError."""
    for wrong in (math.nan, math.inf, -1):
        if (verb, wrong) not in {("delay", -1), ("idle_seconds", math.inf)}:
            with pytest.raises(ValueError, match="finite number that is 0 or more"):
                DELAYS[verb](wrong)


@pytest.mark.parametrize("verb", COUNTS)
@pytest.mark.parametrize("wrong", ["x", 2.5])
def test_what_does_not_count(verb, wrong):
    """What is no whole number is refused as a count, with its type."""
    with pytest.raises(TypeError, match=r"of type \w+\. Pass a whole number"):
        COUNTS[verb](wrong)


def test_name_of_a_pool():
    """A number in the place of the pool's name is not taken for one."""
    with pytest.raises(TypeError, match=r"The name is 5, of type int.*keywords"):
        ThreadPool(0, 1, 5)


# -- clocks, Deferreds, futures --------------------------------------------------------


def test_what_is_no_clock():
    """What cannot call later is no clock; deferLater takes it first."""
    looping = LoopingCall(int)
    looping.clock = Clock()
    with pytest.raises(TypeError, match=r"The clock is 5.*addTimeout\(seconds\)"):
        Deferred().addTimeout(1, 5)
    with pytest.raises(TypeError, match=r"comes first: deferLater\(reactor, seconds"):
        deferLater(0.01, int)
    looping.clock = 5
    with pytest.raises(TypeError, match="The clock is 5"):
        looping.start(1)
    assert not looping.running


def test_what_cannot_be_fired():
    """ChainDeferred takes a Deferred, and a Deferred a canceller, at once or never."""
    with pytest.raises(TypeError, match="chainDeferred was given 5"):
        Deferred().chainDeferred(5)
    with pytest.raises(TypeError, match="canceller of a Deferred was given 5"):
        Deferred(canceller=5)


async def test_the_other_way_to_a_deferred():
    """A coroutine is no future and a future no coroutine; the error names the verb."""
    loop = asyncio.get_running_loop()
    with pytest.raises(TypeError, match="Use ensureDeferred"):
        Deferred.fromFuture(work())
    with pytest.raises(TypeError, match="5, which is no future"):
        Deferred.fromFuture(5)
    for convert in (ensureDeferred, Deferred.fromCoroutine):
        with pytest.raises(NotACoroutineError, match=r"with Deferred\.fromFuture"):
            convert(loop.create_future())
        with pytest.raises(NotACoroutineError, match="Call the async function first"):
            convert(work)
    gc.collect()  # And Python does not warn of the coroutine.


async def test_what_another_framework_would_await():
    """A Deferred of Twisted's in our coroutine: its type and the way over are named."""

    async def wait():
        await twisted_defer.Deferred()

    with pytest.raises(RuntimeError) as caught:
        await ensureDeferred(wait())
    assert "a twisted.internet.defer.Deferred, which is neither" in str(caught.value)
    assert "fromTwisted" in str(caught.value)


# -- loops -----------------------------------------------------------------------------


class Stuck:
    """The least that `install` takes."""

    def post(self, function):
        raise RuntimeError("this post is broken")

    def later(self, seconds, function):
        return None


def test_what_is_no_loop():
    """What lacks a method, a class, and asyncio's own loop are not installed."""
    for wrong in (None, 5):
        with pytest.raises(TypeError, match="has no post and no later"):
            loops.install(wrong)
    with pytest.raises(TypeError, match="which is a class"):
        loops.install(Stuck)
    loop = asyncio.new_event_loop()
    with pytest.raises(TypeError, match="asyncio's loops need no install"):
        loops.install(loop)
    loop.close()
    assert home.hereOrNone() is None


def test_loop_is_installed_once():
    """A second install says that once is enough."""
    events = loops.install(Stuck())
    with pytest.raises(RuntimeError, match="if it is the same loop, it is installed"):
        loops.install(Stuck())
    events.close()


def test_later_without_a_cancel():
    """An adapter whose later() returns nothing to cancel hears of that at once."""
    events = loops.install(Stuck())
    with pytest.raises(TypeError, match=r"returned None, which has no cancel\(\)"):
        Reactor().callLater(1, int)
    events.close()


def test_post_that_fails(caplog):
    """What an adapter's post() raised is shown, with the lines it was raised at."""
    events = loops.install(Stuck())
    events.fire(events.deferred(), None)
    (record,) = caplog.records
    assert "Posting said: this post is broken" in record.getMessage()
    assert "end with farewell(), then close()" in record.getMessage()
    assert record.exc_info[1].__traceback__ is not None
    assert events.closed
    loops.install(Stuck()).close()  # The thread is free for the next one.
    assert not threadable._switch._here.loops


@pytest.mark.parametrize("wrong", [None, 5])
def test_what_is_no_window(wrong):
    """Tk's adapter wants a window."""
    with pytest.raises(TypeError, match="which is no window"):
        tk_loop.install(wrong)


def test_what_is_no_deferred_of_either_side():
    """Between Twisted and us go Deferreds of the right side only."""
    for convert in (twisted_loop.asTwisted, twisted_loop.fromTwisted):
        with pytest.raises(TypeError, match=r"was given 5, a builtins\.int\. Pass a"):
            convert(5)
        with pytest.raises(TypeError, match="Make a Deferred of it first"):
            convert(work())
    with pytest.raises(TypeError, match="on the side already"):
        twisted_loop.asTwisted(twisted_defer.Deferred())
    with pytest.raises(TypeError, match="on the side already"):
        twisted_loop.fromTwisted(Deferred())
    gc.collect()  # And Python does not warn of the coroutines.
