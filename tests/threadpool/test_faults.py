"""Faults at bad moments: each of these went wrong once."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading

import pytest

from threadpool import home, loops
from threadpool.defer import (
    Deferred,
    ensureDeferred,
    fail,
    flushUnhandled,
    inlineCallbacks,
    succeed,
)
from threadpool.pool import ThreadPool
from threadpool.reactor import Reactor


def test_one_failing_closer_hides_the_end_from_nobody(expect_errors):
    """At the end of a loop everybody is told, also after one who failed at it."""
    told = []

    class Closer:
        def __init__(self, error):
            self.error = error

        def loopClosed(self, queue):
            told.append(self)
            if self.error:
                raise self.error

    closers = [Closer(ValueError("no")), Closer(None), Closer(KeyError("no"))]

    async def main():
        for closer in closers:
            home.here().notify(closer)

    asyncio.run(main())
    assert set(told) == set(closers)
    assert len(expect_errors) == 4


def test_interrupted_farewell_still_ends_the_loop():
    """Whatever a farewell raises, what is pending hears of the end."""
    seen = []
    held = threading.Event()
    pool = ThreadPool(0, 1)
    pool.start()

    async def goodbye():
        raise asyncio.CancelledError

    async def main():
        home.here().farewells.append(lambda: ensureDeferred(goodbye()))
        pool.deferToThread(held.wait).addErrback(seen.append)

    asyncio.run(main())
    held.set()
    pool.stop()
    assert len(seen) == 1


async def test_outcomes_at_the_end_do_not_step_tasks_inside_a_task():
    """Closed inside a task, a queue still delivers to the tasks that wait."""
    pool = ThreadPool(0, 1)
    pool.start()
    job = pool.deferToThread(int)
    waits = asyncio.create_task(job.asCoroutine())
    await asyncio.sleep(0)
    pool.stop()  # Its outcome is pending now, and the loop stands still.
    home.here().close()
    assert await waits == 0


def test_finalizer_that_fires_a_failure(expect_errors):
    """A Deferred failed by a finalizer, in the middle of another's failing, is fine."""

    class Holder:
        def __init__(self):
            self.deferred = Deferred()

        def __del__(self):
            self.deferred.errback(ValueError("in a finalizer"))

    for _ in range(100):
        holder = Holder()
        holder.itself = holder
    del holder, _
    for _ in range(2000):  # The collector comes by in some of these.
        fail(KeyError("x")).addErrback(lambda _: None)
    gc.collect()
    flushUnhandled()
    assert len(expect_errors) == 100
    assert all("finalizer" in str(r.exc_info[1]) for r in expect_errors)


async def test_direct_waiter_of_a_chain_that_goes_on():
    """A waiter is not told while another one has set the chain going again."""
    source, later = Deferred(), Deferred()

    async def first():
        await source
        source.addCallback(lambda _: later)

    ensureDeferred(first())
    future = source.asFuture()
    source.callback("early")
    assert not future.done()
    later.callback("final")
    assert await future == "final"


def test_signal_in_the_middle_of_logging():
    """A signal that comes while a log handler is at work does not wait for it."""
    reactor = Reactor()
    entered = []

    class Handler(logging.Handler):
        def emit(self, record):
            if record.name == "program":
                os.kill(os.getpid(), signal.SIGTERM)
            entered.append(record.name)

        def createLock(self):
            self.lock = threading.Lock()  # As a queue in a handler would have it.

    handler = Handler()
    logging.getLogger().addHandler(handler)
    try:
        reactor.callWhenRunning(logging.getLogger("program").error, "x")
        reactor.run()
    finally:
        logging.getLogger().removeHandler(handler)
    assert "program" in entered


test_signal_in_the_middle_of_logging = pytest.mark.usefixtures("expect_errors")(
    test_signal_in_the_middle_of_logging
)


class Reader:
    """Reads from a socket that may be exchanged for another."""

    def __init__(self, sock, seen):
        self.sock, self.seen = sock, seen

    def fileno(self):
        return self.sock.fileno()

    def doRead(self):
        self.seen.append(self.sock.recv(100))

    def connectionLost(self, reason):
        self.seen.append(reason.value)


async def test_reader_with_a_new_descriptor():
    """A reader that has reconnected is watched where it is now, and nowhere else."""
    reactor, seen = Reactor(), []
    (old, old_far), (new, new_far) = socket.socketpair(), socket.socketpair()
    with old, old_far, new, new_far:
        reader = Reader(old, seen)
        reactor.addReader(reader)
        reader.sock = new
        reactor.addReader(reader)
        assert asyncio.get_running_loop().remove_reader(old.fileno()) is False
        new_far.send(b"here")
        async with asyncio.timeout(30):
            while not seen:
                await asyncio.sleep(0)
        assert seen == [b"here"]
        reactor.removeAll()


@pytest.mark.parametrize("rounds", [1000])
def test_coroutines_that_return_the_next_ones_deferred(rounds):
    """A chain of coroutines that each return the next one's Deferred ends."""
    gates = [Deferred() for _ in range(rounds)]

    async def turn(number):
        await gates[number]
        return ensureDeferred(turn(number + 1)) if number + 1 < rounds else "end"

    last = ensureDeferred(turn(0))
    for gate in gates:
        gate.callback(None)
    assert last.result() == "end"


def test_generator_that_returns_a_deferred():
    """A Deferred that a generator returns is waited for."""

    @inlineCallbacks
    def work():
        yield succeed(1)
        return succeed(2)

    assert work().result() == 2


def test_iterate_that_ends_early_leaves_no_timer():
    """A crash during `iterate` does not end the next `run` in its place."""
    reactor = Reactor()
    reactor.callLater(0, reactor.crash)
    reactor.iterate(0.05)
    seen = []
    reactor.callLater(0.1, seen.append, "reached")
    reactor.callLater(0.12, reactor.stop)
    reactor.run()
    assert seen == ["reached"]


# -- which loop ----------------------------------------------------------------------


def test_worker_asks_a_loop_that_never_used_the_reactor():
    """A job of any pool reaches the loop it was submitted from by the reactor."""
    from threadpool.reactor import reactor
    from threadpool.threads import blockingCallFromThread

    async def main():
        pool = ThreadPool(0, 1)
        pool.start()
        answer = await pool.deferToThread(
            blockingCallFromThread, reactor, int, "42", timeout=20
        )
        await pool.close()
        return answer

    # In a thread of its own, where no loop of another test has been.
    answers = []
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(main())))
    thread.start()
    thread.join()
    assert answers == [42]


def test_what_waits_between_two_loops_is_kept():
    """An event posted between two loops outlives a timer that is set there."""
    reactor, seen = Reactor(), []

    async def main():
        reactor.seconds()
        await asyncio.sleep(0.02)

    asyncio.run(main())
    reactor.callFromThread(seen.append, "event")
    reactor.callLater(0, seen.append, "timer")
    asyncio.run(main())
    assert seen == ["event", "timer"]


def test_loop_that_was_closed_barely_gives_way():
    """After loop.close() without a word the next loop is adopted all the same."""
    reactor, seen = Reactor(), []

    async def main():
        reactor.seconds()
        await asyncio.sleep(0.01)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    assert not reactor.running
    reactor.callFromThread(seen.append, 1)
    asyncio.run(main())
    assert seen == [1]


def test_two_loops_that_take_turns_in_one_thread():
    """Loops that run alternately in one thread each keep their queue and their end."""
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    pool = ThreadPool(0, 1)
    pool.start()
    held, seen = threading.Event(), []

    async def here():
        return home.here()

    async def submit():
        pool.deferToThread(held.wait).addErrback(seen.append)

    queues = [loop.run_until_complete(here()) for loop in (first, second, first)]
    assert queues[0] is queues[2]
    assert queues[0] is not queues[1]
    first.run_until_complete(submit())
    for loop in (second, first):
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    held.set()
    pool.stop()
    assert len(seen) == 1


def test_pool_that_was_forbidden_is_not_kept():
    """Where threads are forbidden each call says so; none waits for a dead pool."""
    done = python(
        "import asyncio, threadable\n"
        "from threadpool.threads import deferToThread\n"
        "threadable.init(False)\n"
        "async def main():\n"
        "    for _ in range(2):\n"
        "        try:\n"
        "            await deferToThread(int)\n"
        "        except threadable.ThreadsDisabled:\n"
        "            print('forbidden')\n"
        "    threadable.init()\n"
        "    print(await deferToThread(int, '7'))\n"
        "asyncio.run(main())\n"
    )
    assert done == "forbidden\nforbidden\n7\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_child_forked_inside_a_loop_has_loops_of_its_own():
    """A child forked in a coroutine is at home in the loop that it runs itself."""
    done = python(
        "import asyncio, os, warnings\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "from threadpool.reactor import reactor\n"
        "from threadpool.pool import ThreadPool\n"
        "reactor.addSystemEventTrigger('during', 'shutdown', print, 'parent ends')\n"
        "async def child():\n"
        "    pool = ThreadPool(0, 1)\n"
        "    pool.start()\n"
        "    print(await pool.deferToThread(int, '7'), flush=True)\n"
        "async def main():\n"
        "    reactor.seconds()\n"
        "    if os.fork() == 0:\n"
        "        asyncio._set_running_loop(None)\n"
        "        asyncio.run(child())\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "asyncio.run(main())\n"
    )
    assert done == "7\nparent ends\n"


def python(code):
    """Run *code* in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_callback_that_turns_the_loop_itself():
    """Under a GUI, a modal dialog opened in a callback still gets its answers."""
    turns = queue.SimpleQueue()

    class Gui:
        def post(self, function):
            turns.put(function)

        def later(self, seconds, function):
            raise NotImplementedError

    events = loops.install(Gui())
    pool = ThreadPool(0, 1)
    pool.start()
    seen = []

    def dialog(value):
        seen.append(value)
        pool.deferToThread(int, "2").addCallback(seen.append)
        while len(seen) < 2:
            turns.get(timeout=20)()

    pool.deferToThread(int, "1").addCallback(dialog)
    while len(seen) < 2:
        turns.get(timeout=20)()
    assert seen == [1, 2]
    pool.stop()
    events.close()
