"""Threads that wait for the loop, and rows of calls in one thread."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import signal
import threading

import pytest

from threadpool import _blocking, threads
from threadpool import home as homes
from threadpool import reactor as reactor_module
from threadpool.defer import CancelledError, Deferred, fail
from threadpool.error import LoopClosed, PoolClosed, WrongThread
from threadpool.pool import ThreadPool
from threadpool.reactor import Reactor
from threadpool.threads import blockingCallFromThread

variable = contextvars.ContextVar("variable", default="nobody")


@pytest.fixture
def reactor(monkeypatch):
    """The default reactor of this test, its pool stopped afterwards."""
    made = Reactor()
    monkeypatch.setattr(threads, "_reactor", made)
    yield made
    if made._pool is not None:
        made._pool.stop()


@pytest.fixture
def default(reactor, monkeypatch):
    """This test's reactor, told of each loop that any room meets, as the default is."""
    monkeypatch.setattr(homes, "arrivals", [reactor._arrived])
    return reactor


class Waiting(threading.Thread):
    """A thread that makes a blocking call and keeps what comes of it."""

    def __init__(self, reactor, function, *args, **kwargs):
        super().__init__()
        self.call = functools.partial(
            blockingCallFromThread, reactor, function, *args, **kwargs
        )
        self.outcome = None

    def run(self):
        try:
            self.outcome = self.call()
        except BaseException as error:
            self.outcome = error

    async def ended(self):
        async with asyncio.timeout(30):
            while self.is_alive():
                await asyncio.sleep(0.001)
        self.join()
        return self.outcome


async def ask(reactor, function, *args, **kwargs):
    """Make a blocking call in a thread of its own and return what comes of it."""
    thread = Waiting(reactor, function, *args, **kwargs)
    thread.start()
    return await thread.ended()


# -- what comes back -----------------------------------------------------------------


async def test_value_comes_back(reactor):
    """The function is called on the loop's thread, with its arguments."""
    reactor.seconds()

    def work(*args, **kwargs):
        return args, kwargs, threading.get_ident()

    outcome = await ask(reactor, work, 1, two=2)
    assert outcome == ((1,), {"two": 2}, threading.get_ident())


async def test_whatever_can_be_awaited_is(reactor):
    """A Deferred, a coroutine and a future are waited for."""
    reactor.seconds()
    loop = asyncio.get_running_loop()
    deferred, future = Deferred(), loop.create_future()

    async def coroutine():
        return await asyncio.sleep(0.001, "slept")

    loop.call_later(0.001, deferred.callback, "fired")
    loop.call_later(0.001, future.set_result, "set")
    assert await ask(reactor, lambda: deferred) == "fired"
    assert await ask(reactor, coroutine) == "slept"
    assert await ask(reactor, lambda: future) == "set"


async def test_errors_come_back(reactor):
    """What is raised, at once or later, is raised in the thread, with its traceback."""
    reactor.seconds()

    def broken():
        raise ValueError("at once")

    for function in (broken, lambda: fail(ValueError("later"))):
        outcome = await ask(reactor, function)
        assert isinstance(outcome, ValueError)
    outcome = await ask(reactor, broken)
    names = []
    tb = outcome.__traceback__
    while tb:
        names.append(tb.tb_frame.f_code.co_name)
        tb = tb.tb_next
    assert names[-1] == "broken"


async def test_the_result_is_not_consumed(reactor):
    """A Deferred that somebody waits for in a thread keeps its result for others."""
    reactor.seconds()
    deferred = Deferred()
    asyncio.get_running_loop().call_later(0.001, deferred.callback, 7)
    assert await ask(reactor, lambda: deferred) == 7
    assert await deferred == 7


async def test_context_goes_along(reactor):
    """The function sees the context variables of the thread that calls."""
    reactor.seconds()

    def call():
        variable.set("thread")
        return blockingCallFromThread(reactor, variable.get)

    assert await asyncio.to_thread(call) == "thread"


async def test_from_a_worker(reactor):
    """A job in a pool may ask the loop, which may answer with another job."""

    def inner():
        return threading.current_thread().name

    def outer():
        return blockingCallFromThread(reactor, threads.deferToThread, inner)

    name = await threads.deferToThread(outer)
    assert name.startswith("reactor-")


# -- where it cannot be --------------------------------------------------------------


async def test_loops_thread_is_refused(reactor):
    """On the loop's own thread it raises instead of waiting for itself."""
    with pytest.raises(WrongThread, match="the loop would wait for itself"):
        blockingCallFromThread(reactor, int)


def test_it_waits_for_the_loop(reactor):
    """Called before there is a loop, it is answered by the one that comes."""
    thread = Waiting(reactor, int, "7")
    thread.start()

    async def main():
        reactor.seconds()
        return await thread.ended()

    assert asyncio.run(main()) == 7


def test_function_with_a_timeout_of_its_own(reactor):
    """`timeout` is ours: a function with such a parameter is refused, with the cure."""

    def function(timeout):
        return timeout

    with pytest.raises(TypeError, match=r"functools\.partial"):
        blockingCallFromThread(reactor, function, timeout=1)


@pytest.mark.parametrize("wrong", [None, "a loop", Deferred])
def test_no_reactor(wrong):
    """What is no reactor of ours is refused before anything is posted to it."""
    with pytest.raises(TypeError, match=r"Pass threadpool\.reactor\.reactor"):
        blockingCallFromThread(wrong, int)
    with pytest.raises(TypeError, match=r"Pass threadpool\.reactor\.reactor"):
        threads.deferToThreadPool(wrong, None, int)


def test_function_that_cannot_be_called(reactor):
    """A coroutine instead of its function is refused, as is what nobody can call."""

    async def work():
        raise AssertionError

    with pytest.raises(TypeError, match="Pass the async function itself"):
        blockingCallFromThread(reactor, work())
    with pytest.raises(TypeError, match="cannot be called"):
        blockingCallFromThread(reactor, None)
    with pytest.raises(TypeError, match="The timeout is '1', of type str"):
        blockingCallFromThread(reactor, int, timeout="1")


# -- loops that only other rooms have met --------------------------------------------


async def answer():
    await asyncio.sleep(0)
    return "answered"


async def test_loop_that_only_a_pool_has_met(default):
    """A worker of one's own pool may ask, although nobody used the reactor before."""
    async with ThreadPool(0, 1, "mine") as pool:
        call = functools.partial(blockingCallFromThread, default, answer, timeout=30)
        assert await pool.deferToThread(call) == "answered"
    assert default.running


async def test_event_for_a_loop_that_only_a_pool_has_met(default):
    """`callFromThread` of such a worker arrives, in the order of the calls."""
    seen = []
    over = asyncio.get_running_loop().create_future()

    def work():
        for number in range(3):
            default.callFromThread(seen.append, number)
        default.callFromThread(over.set_result, None)

    async with ThreadPool(0, 1, "mine") as pool:
        await pool.deferToThread(work)
        async with asyncio.timeout(30):
            await over
    assert seen == [0, 1, 2]


def test_loops_that_have_ended_are_not_adopted(default):
    """Neither a closed loop nor one that was forgotten is posted to: the call waits."""

    async def meet():
        homes.here()

    asyncio.run(meet())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(meet())
    loop.close()  # Without a word.
    assert default._living() == []
    seen = []
    default.callFromThread(seen.append, 1)
    assert seen == []
    assert default._home is None

    async def main():
        homes.here()
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert seen == [1]


def test_loop_that_runs_is_preferred(default):
    """Of several loops that were met a thread's event goes to one that runs."""
    still = asyncio.new_event_loop()
    ready, over = threading.Event(), threading.Event()
    seen = []

    async def meet():
        homes.here()

    async def serve():
        homes.here()
        ready.set()
        await asyncio.to_thread(over.wait, 30)

    def note():
        seen.append(threading.get_ident())
        over.set()

    still.run_until_complete(meet())
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ident = thread.ident
    ready.wait(30)
    default.callFromThread(note)
    thread.join(30)
    still.run_until_complete(still.shutdown_asyncgens())
    still.close()
    assert seen == [ident]


async def test_delayed_call_in_a_worker(default):
    """A worker of a pool cannot make a delayed call: no loop will ever run there."""
    async with ThreadPool(0, 1, "mine") as pool:
        with pytest.raises(WrongThread, match="callFromThread"):
            await pool.deferToThread(default.callLater, 0, int)


def test_fork_forgets_the_loops_that_were_met(monkeypatch):
    """A forked child does not post to its parent's loops."""
    reactor = Reactor()
    monkeypatch.setattr(reactor_module, "reactor", reactor)

    async def main():
        reactor._meet(homes.here())
        assert reactor._living()
        reactor_module._after_fork_in_child()
        assert reactor._living() == []

    asyncio.run(main())


def test_no_loop_is_said(reactor, caplog, monkeypatch):
    """A call that waits while there is no loop at all says so once, at WARNING."""
    monkeypatch.setattr(_blocking, "LOOK_SECONDS", 0.001)
    with pytest.raises(TimeoutError, match="knows of no event loop"):
        blockingCallFromThread(reactor, int, timeout=0.05)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "waits for an event loop" in caplog.text
    assert "on the loop's own thread" in caplog.text


async def test_busy_loop_is_not_called_missing(default, caplog, monkeypatch):
    """A loop that was met and has no time yet is not said to be missing."""
    monkeypatch.setattr(_blocking, "LOOK_SECONDS", 0.001)
    homes.here()
    thread = Waiting(default, int, timeout=0.02)
    thread.start()
    thread.join(30)  # The loop stands still.
    assert isinstance(thread.outcome, TimeoutError)
    assert "find out what keeps the loop" in str(thread.outcome)
    assert caplog.records == []


def test_ended_loop_wins_over_the_timeout(reactor):
    """After the loop has ended it is LoopClosed, however short the timeout was."""

    async def main():
        reactor.seconds()

    asyncio.run(main())
    seen = []
    with pytest.raises(LoopClosed):
        blockingCallFromThread(reactor, seen.append, 1, timeout=0.01)

    asyncio.run(main())  # Nor is it called when the next one comes.
    assert seen == []


def test_error_of_giving_up_hides_nothing(reactor, monkeypatch, expect_errors):
    """Where a call cannot even be cancelled, what ended the wait is still raised."""
    posts = iter([None])

    def post(_):
        for answer in posts:
            return answer
        raise RuntimeError("nothing can be posted")

    monkeypatch.setattr(reactor, "_post", post)
    with pytest.raises(TimeoutError):
        blockingCallFromThread(reactor, int, timeout=0.01)
    assert "could not be cancelled" in expect_errors[0].getMessage()


# -- timeouts and ends ---------------------------------------------------------------


async def test_timeout_cancels(reactor):
    """After `timeout` seconds it raises TimeoutError, and the work is cancelled."""
    reactor.seconds()
    cancelled = asyncio.Event()
    never = Deferred(lambda _: cancelled.set())
    outcome = await ask(reactor, lambda: never, timeout=0.01)
    assert isinstance(outcome, TimeoutError)
    assert "within 0.01 seconds" in str(outcome)
    async with asyncio.timeout(30):
        await cancelled.wait()
    with pytest.raises(CancelledError):
        await never


def test_timeout_without_a_loop(reactor):
    """The time counts also while no loop comes; the function is never called then."""
    called = []
    with pytest.raises(TimeoutError):
        blockingCallFromThread(reactor, called.append, 1, timeout=0.01)

    async def main():
        reactor.seconds()
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert called == []


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf")])
def test_impossible_timeout(reactor, wrong):
    """A timeout is finite and not negative."""
    with pytest.raises(ValueError, match="0 or more"):
        blockingCallFromThread(reactor, int, timeout=wrong)


def test_end_of_the_loop_wakes_it(reactor):
    """When the loop ends the waiting thread gets LoopClosed, not silence."""
    asked = threading.Event()

    def never():
        asked.set()
        return Deferred()

    thread = Waiting(reactor, never)

    async def main():
        reactor.seconds()
        thread.start()
        await asyncio.to_thread(asked.wait)

    asyncio.run(main())
    thread.join(30)
    assert isinstance(thread.outcome, LoopClosed)


def test_call_that_was_posted_at_the_very_end(reactor):
    """A call that only the last pass meets is made, and not waited for."""
    thread = Waiting(reactor, Deferred)

    async def main():
        reactor.seconds()
        home = reactor._home
        put = threading.Event()
        original = home.put

        def noting(event):
            original(event)
            put.set()

        home.put = noting
        thread.start()
        put.wait(30)  # The loop stands still: nothing happens before its end.
        home.close()

    asyncio.run(main())
    thread.join(30)
    assert isinstance(thread.outcome, LoopClosed)


def test_bare_close_wakes_it(reactor):
    """Also loop.close() without a word ends the wait."""
    thread = Waiting(reactor, Deferred)
    loop = asyncio.new_event_loop()

    async def main():
        reactor.seconds()
        thread.start()
        await asyncio.sleep(0.05)

    loop.run_until_complete(main())
    loop.close()
    thread.join(30)
    assert isinstance(thread.outcome, LoopClosed)


def test_stop_of_the_reactor_wakes_it(reactor):
    """`reactor.stop()` is such an end."""
    asked = threading.Event()

    def never():
        asked.set()
        reactor.callLater(0, reactor.stop)
        return Deferred()

    thread = Waiting(reactor, never)
    reactor.callWhenRunning(thread.start)
    reactor.run()
    thread.join(30)
    assert isinstance(thread.outcome, LoopClosed)


def test_interrupted_wait_cancels(reactor):
    """Ctrl-C in a waiting main thread cancels what it waits for."""
    ready, cancelled = threading.Event(), threading.Event()
    main_thread = threading.get_ident()

    def never():
        signal.pthread_kill(main_thread, signal.SIGINT)
        return Deferred(lambda _: cancelled.set())

    async def main():
        reactor.seconds()
        ready.set()
        await asyncio.to_thread(cancelled.wait)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    ready.wait(30)
    with pytest.raises(KeyboardInterrupt):
        blockingCallFromThread(reactor, never)
    thread.join(30)
    assert cancelled.is_set()


def test_starving_pool_says_so(reactor, caplog):
    """When every worker waits for work that needs a worker, one WARNING says it."""
    reactor.suggestThreadPoolSize(2)

    def inner():
        return "never reached"

    def outer():
        return blockingCallFromThread(reactor, threads.deferToThread, inner)

    async def main():
        jobs = [threads.deferToThread(outer) for _ in range(2)]
        async with asyncio.timeout(30):
            while "starves" not in caplog.text:
                await asyncio.sleep(0.001)
        reactor.suggestThreadPoolSize(3)  # As the warning says.
        return await asyncio.gather(*jobs)

    assert asyncio.run(main()) == ["never reached"] * 2
    assert caplog.text.count("starves") == 1
    assert "reactor starves: all its 2 workers" in caplog.text


# -- other ways into threads ---------------------------------------------------------


async def test_defer_to_a_pool(reactor):
    """`deferToThreadPool` uses the pool it is given."""
    pool = ThreadPool(0, 1, "mine")
    pool.start()
    name = await threads.deferToThreadPool(
        reactor, pool, lambda: threading.current_thread().name
    )
    assert name == "mine-1"
    await pool.close()
    with pytest.raises(PoolClosed):
        await threads.deferToThreadPool(reactor, pool, int)


async def test_row_of_calls(reactor):
    """`callMultipleInThread` calls in order, in one thread."""
    seen = []
    over = asyncio.get_running_loop().create_future()

    def note(number, *, last=False):
        seen.append((number, threading.get_ident()))
        if last:
            reactor.callFromThread(over.set_result, None)

    calls = [(note, (number,), {}) for number in range(9)]
    threads.callMultipleInThread([*calls, (note, [9], {"last": True})])
    await over
    assert [number for number, _ in seen] == list(range(10))
    assert len({ident for _, ident in seen} | {threading.get_ident()}) == 2


async def test_error_ends_the_row(reactor, expect_errors):
    """The first that raises ends the row, and is logged."""
    seen = []

    def fail_here():
        raise ValueError("in the row")

    threads.callMultipleInThread([(fail_here, (), {}), (seen.append, (1,), {})])
    await threads.deferToThread(int)
    async with asyncio.timeout(30):
        while not expect_errors:
            await asyncio.sleep(0.001)
    assert "in the row" in str(expect_errors[0].exc_info[1])
    assert seen == []
