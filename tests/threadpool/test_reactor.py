"""The loop under the old names."""

from __future__ import annotations

import asyncio
import contextvars
import math
import re
import threading

import pytest

import threadable
from threadpool import reactor as reactor_module
from threadpool.error import AlreadyCalled, AlreadyCancelled, WrongThread
from threadpool.reactor import Reactor

variable = contextvars.ContextVar("variable", default="nobody")


@pytest.fixture
def reactor():
    """A reactor of this test's own, its pool stopped afterwards."""
    made = Reactor()
    yield made
    if made._pool is not None:
        made._pool.stop()


def in_thread(function, *args):
    """Call *function* in another thread and wait for that thread's end."""
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


async def turns(number=3):
    for _ in range(number):
        await asyncio.sleep(0)


# -- callFromThread ----------------------------------------------------------------


async def test_call_from_thread_calls_on_the_loops_thread(reactor):
    """The function is called on the loop's thread, in the order of the calls."""
    reactor.seconds()
    seen, done = [], asyncio.get_running_loop().create_future()

    def note(number, *, last=False):
        seen.append((number, threading.get_ident()))
        if last:
            done.set_result(None)

    def post():
        for number in range(100):
            reactor.callFromThread(note, number)
        reactor.callFromThread(note, 100, last=True)

    in_thread(post)
    assert seen == []
    await done
    assert seen == [(number, threading.get_ident()) for number in range(101)]


async def test_call_from_the_loops_own_thread_waits_its_turn(reactor):
    """Called on the loop's thread, the function is called soon, not at once."""
    seen = []
    reactor.callFromThread(seen.append, 1)
    assert seen == []
    await turns()
    assert seen == [1]


async def test_call_from_thread_sees_the_callers_context(reactor):
    """The function sees a copy of the caller's context variables."""
    reactor.seconds()
    seen = []

    def post():
        variable.set("thread")
        reactor.callFromThread(lambda: seen.append(variable.get()))

    in_thread(post)
    await turns()
    assert seen == ["thread"]
    assert variable.get() == "nobody"


async def test_failing_call_is_logged_and_the_others_go_on(reactor, expect_errors):
    """What the function raises is logged; the next one is called."""
    seen = []
    reactor.callFromThread(lambda: 1 / 0)
    reactor.callFromThread(seen.append, 1)
    await turns()
    assert seen == [1]
    (record,) = expect_errors
    assert record.exc_info[0] is ZeroDivisionError


def test_calls_wait_for_the_next_loop(reactor):
    """While no loop runs, calls wait for the next one, and keep their order."""
    seen = []
    in_thread(reactor.callFromThread, seen.append, 1)
    reactor.callFromThread(seen.append, 2)

    async def main():
        reactor.callFromThread(seen.append, 3)
        await turns()

    asyncio.run(main())
    assert seen == [1, 2, 3]


def test_reactor_goes_from_loop_to_loop(reactor):
    """After the end of its loop it adopts the next one where it is used again."""
    seen = []

    async def main(number):
        reactor.callFromThread(seen.append, number)
        await turns()

    for number in range(3):
        asyncio.run(main(number))
    assert seen == [0, 1, 2]


def test_call_between_two_loops(reactor):
    """A call made after one loop and before the next one waits for that."""
    seen = []

    async def main():
        reactor.seconds()
        await turns()

    asyncio.run(main())
    in_thread(reactor.callFromThread, seen.append, 1)
    assert seen == []
    asyncio.run(main())
    assert seen == [1]


async def test_job_posts_to_the_loop_it_came_from(reactor):
    """A job may use `callFromThread` although nobody used the reactor before."""
    seen, done = [], asyncio.get_running_loop().create_future()

    def work():
        reactor.callFromThread(seen.append, "progress")
        reactor.callFromThread(done.set_result, None)

    reactor.callInThread(work)
    await done
    assert seen == ["progress"]


def test_call_made_while_the_loop_is_adopted(reactor):
    """A call that just missed the adoption does not wait for ever.

    1. A thread looks: no loop yet, so it is going to leave its call with the others.
    2. Before it has the lock, the loop's thread adopts the loop and takes the others.
    3. The thread gets the lock, and must look again.
    """
    seen, here = [], threading.get_ident()
    looked, adopted = threading.Event(), threading.Event()

    class LyingLock:
        def __init__(self, lock):
            self.lock = lock

        def __enter__(self):
            if threading.get_ident() != here:
                looked.set()
                adopted.wait(timeout=30)
            self.lock.acquire()

        def __exit__(self, *_):
            self.lock.release()

    reactor._lock = LyingLock(reactor._lock)

    async def main():
        thread = threading.Thread(target=reactor.callFromThread, args=(seen.append, 1))
        thread.start()
        looked.wait(timeout=30)
        reactor.seconds()
        adopted.set()
        thread.join()
        await turns()

    asyncio.run(main())
    assert seen == [1]


# -- callLater ---------------------------------------------------------------------


async def test_call_later_calls_once(reactor):
    """The function is called once, with its arguments, not before its time."""
    done = asyncio.get_running_loop().create_future()
    before = reactor.seconds()
    call = reactor.callLater(0.001, lambda *a, **k: done.set_result((a, k)), 1, two=2)
    assert call.active()
    assert call.getTime() >= before + 0.001
    assert await done == ((1,), {"two": 2})
    assert not call.active()
    assert reactor.seconds() >= call.getTime() - 0.001  # The loop's clock resolution.
    with pytest.raises(AlreadyCalled):
        call.cancel()


async def test_call_later_can_be_called_off(reactor):
    """A cancelled call does not happen."""
    seen = []
    call = reactor.callLater(0, seen.append, 1)
    call.cancel()
    await turns()
    assert seen == []
    with pytest.raises(AlreadyCancelled):
        call.reset(1)


async def test_call_later_can_be_moved(reactor):
    """`reset` counts from now, `delay` from when it was due; both ways."""
    done = asyncio.get_running_loop().create_future()
    call = reactor.callLater(3600, done.set_result, "moved")
    due = call.getTime()
    call.delay(10)
    assert call.getTime() == pytest.approx(due + 10)
    call.delay(-10)
    call.reset(0)
    assert await done == "moved"


@pytest.mark.parametrize("wrong", [-1, -0.001, math.inf, math.nan])
async def test_impossible_delays_are_refused(reactor, wrong):
    """A delay is finite and not negative."""
    with pytest.raises(ValueError, match="0 or more"):
        reactor.callLater(wrong, int)
    call = reactor.callLater(3600, int)
    with pytest.raises(ValueError, match="0 or more"):
        call.reset(wrong)
    call.cancel()


def test_delayed_calls_wait_for_the_loop(reactor):
    """What `callLater` was asked before there is a loop happens when it runs."""
    seen = []
    late = reactor.callLater(0.03, seen.append, "late")
    soon = reactor.callLater(0.02, seen.append, "soon")
    moved = reactor.callLater(3600, seen.append, "moved")
    off = reactor.callLater(0, seen.append, "off")
    off.cancel()
    assert reactor.getDelayedCalls() == [soon, late, moved]

    async def main():
        moved.reset(0.01)
        reactor.seconds()
        moved.reset(0.05)
        while len(seen) < 3:
            await asyncio.sleep(0.005)

    asyncio.run(main())
    assert seen == ["soon", "late", "moved"]
    assert reactor.getDelayedCalls() == []


def test_delayed_calls_end_with_their_loop(reactor):
    """A call that its loop did not live to see is not made on the next one."""
    seen = []

    async def first():
        reactor.callLater(0.05, seen.append, "first")

    async def second():
        reactor.callLater(0, seen.append, "second")
        await asyncio.sleep(0.1)

    asyncio.run(first())
    asyncio.run(second())
    assert seen == ["second"]


async def test_another_thread_asks_the_loops_clock_in_vain(reactor):
    """`callLater` in a thread without a loop names the way to the reactor's loop."""
    reactor.seconds()
    errors = []

    def ask():
        try:
            reactor.callLater(0, int)
        except WrongThread as error:
            errors.append(str(error))

    await asyncio.to_thread(ask)
    assert "reactor.callFromThread(reactor.callLater" in errors[0]


async def test_delayed_call_sees_its_callers_context(reactor):
    """A delayed call runs in a copy of the context it was asked for in."""
    variable.set("caller")
    seen = asyncio.get_running_loop().create_future()
    reactor.callLater(0, lambda: seen.set_result(variable.get()))
    variable.set("changed since")
    assert await seen == "caller"


async def test_delayed_call_says_what_it_is(reactor):
    """Its repr tells what will happen and when, or that it has, or never will."""
    call = reactor.callLater(100, int)
    assert re.fullmatch(
        r"<DelayedCall of <class 'int'> in (99|100)\.\d+ s>", repr(call)
    )
    call.cancel()
    assert repr(call) == "<DelayedCall cancelled>"
    call = reactor.callLater(0, int)
    await turns()
    assert repr(call) == "<DelayedCall called>"


# -- threads -----------------------------------------------------------------------


async def test_call_in_thread_runs_elsewhere(reactor):
    """`callInThread` calls the function in another thread, which is no I/O thread."""
    done = asyncio.get_running_loop().create_future()

    def work():
        answer = (threading.get_ident(), threadable.isInIOThread())
        reactor.callFromThread(done.set_result, answer)

    reactor.callInThread(work)
    ident, is_io = await done
    assert ident != threading.get_ident()
    assert not is_io


def test_pool_is_made_once(reactor):
    """The pool is made when it is first needed, started, with ten threads at most."""
    assert reactor._pool is None
    pool = reactor.getThreadPool()
    assert reactor.getThreadPool() is pool
    assert (pool.min, pool.max) == (0, 10)
    assert repr(pool) == "<ThreadPool <Team reactor open, 0 busy, 0 idle, 0 waiting>>"


def test_pool_size_can_be_suggested(reactor):
    """`suggestThreadPoolSize` holds for the pool that is, or that will be."""
    reactor.suggestThreadPoolSize(3)
    assert reactor.getThreadPool().max == 3
    reactor.suggestThreadPoolSize(5)
    assert reactor.getThreadPool().max == 5
    with pytest.raises(ValueError, match="1 or more"):
        reactor.suggestThreadPoolSize(0)


def test_impossible_size_is_refused_before_there_is_a_pool(reactor):
    """A size that no pool can have is refused at once."""
    with pytest.raises(ValueError, match="1 or more"):
        reactor.suggestThreadPoolSize(0)
    assert reactor.getThreadPool().max == 10


def test_the_default_reactor():
    """There is one default reactor, made with nothing running."""
    assert isinstance(reactor_module.reactor, Reactor)
