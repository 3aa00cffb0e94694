"""The reactor's own loop: its start, its end, signals, and system events."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest
import uvloop

from tests import leaks
from threadpool import triggers
from threadpool.defer import Deferred
from threadpool.error import (
    PoolClosed,
    ReactorAlreadyRunning,
    ReactorNotRestartable,
    ReactorNotRunning,
)
from threadpool.reactor import Reactor
from threadpool.task import deferLater


@pytest.fixture
def reactor():
    """A reactor of this test's own, which ends by itself."""
    made = Reactor()
    yield made
    if made._own is not None:  # It crashed, or was only iterated.
        made._own.end()
    if made._pool is not None:
        made._pool.stop()


def run(reactor, *functions, **options):
    """Run *reactor* and call the functions in it; one of them ends it."""
    for function in functions:
        reactor.callWhenRunning(function)
    reactor.run(**options)


# -- run, stop, crash, iterate -----------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", asyncio.new_event_loop])
def test_run_until_stop(reactor, loop):
    """`run` makes a loop of the kind asked for and returns after `stop`."""
    with leaks.permanent():  # uvloop keeps two descriptors for the process's life.
        uvloop.new_event_loop().close()
    seen = []

    def note():
        seen.append(type(asyncio.get_running_loop()).__module__)
        assert reactor.running
        reactor.callLater(0.01, reactor.stop)

    run(reactor, note, loop=loop)
    assert seen[0].startswith("uvloop" if loop == "uvloop" else "asyncio")
    assert not reactor.running
    assert repr(reactor) == "<Reactor stopped>"


def test_unknown_loop_is_refused(reactor):
    """A loop of no known kind is refused with the choices."""
    with pytest.raises(ValueError, match='Choose "asyncio", "uvloop"'):
        reactor.run(loop="select")


def test_missing_uvloop_says_how_to_get_it(reactor, monkeypatch):
    """Where uvloop is not installed, asking for it names the remedy."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(ImportError, match="pip install uvloop"):
        reactor.run(loop="uvloop")


def test_what_was_asked_before_waits_for_run(reactor):
    """Posts, delayed calls and starts from before `run` happen in it, in order."""
    seen = []
    reactor.callFromThread(seen.append, "posted")
    reactor.callLater(0, seen.append, "timer")
    reactor.callWhenRunning(seen.append, "started")
    reactor.callLater(0.01, reactor.stop)
    assert seen == []
    reactor.run()
    assert seen == ["started", "posted", "timer"]


def test_stop_from_another_thread(reactor):
    """`stop` may be called by any thread."""
    thread = threading.Thread(target=reactor.stop)
    run(reactor, thread.start)
    thread.join()


def test_stop_needs_something_that_runs(reactor):
    """`stop` and `crash` of a reactor that runs nothing are errors, also twice."""
    for end in (reactor.stop, reactor.crash):
        with pytest.raises(ReactorNotRunning):
            end()
    again = []

    def stop():
        reactor.stop()
        try:
            reactor.stop()
        except ReactorNotRunning as error:
            again.append(error)

    run(reactor, stop)
    assert len(again) == 1


async def test_adopted_loop_is_not_stopped_by_the_reactor(reactor):
    """Inside somebody else's loop, run, iterate, stop and crash say whose it is."""
    assert reactor.callWhenRunning(int) is None
    assert reactor.running
    for start in (reactor.run, reactor.iterate):
        with pytest.raises(ReactorAlreadyRunning, match="adopts it"):
            start()
    with pytest.raises(ReactorNotRunning, match=r"asyncio\.run"):
        reactor.stop()
    with pytest.raises(ReactorNotRunning):
        reactor.crash()


def test_run_while_at_home_in_another_thread(reactor):
    """A reactor that adopted a loop of another thread cannot run one of its own."""
    adopted, over = threading.Event(), threading.Event()

    async def main():
        reactor.seconds()
        adopted.set()
        await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert adopted.wait(30)
        with pytest.raises(ReactorAlreadyRunning):
            reactor.run()
    finally:
        over.set()
        thread.join()


def test_no_second_run_after_stop(reactor):
    """A reactor that was stopped does not run again."""
    run(reactor, reactor.stop)
    with pytest.raises(ReactorNotRestartable, match="another Reactor"):
        reactor.run()
    with pytest.raises(ReactorNotRestartable):
        reactor.iterate()


def test_run_goes_on_after_crash(reactor):
    """`crash` fires nothing and drops nothing: `run` goes on, and starts up anew."""
    seen = []
    reactor.addSystemEventTrigger("during", "shutdown", seen.append, "shutdown")
    reactor.callLater(0.02, seen.append, "timer")
    reactor.callLater(0.03, reactor.stop)
    run(reactor, lambda: seen.append("first"), reactor.crash)
    assert seen == ["first"]
    assert not reactor.running
    run(reactor, lambda: seen.append("second"))
    assert seen == ["first", "second", "timer", "shutdown"]


def test_adopts_a_loop_after_it_was_stopped(reactor):
    """Stopped for good as an owner, a reactor still adopts whatever loop runs."""
    run(reactor, reactor.stop)

    async def main():
        reactor.seconds()
        return reactor.running

    assert asyncio.run(main())


def test_iterate_goes_round_once(reactor):
    """`iterate` does what is pending and returns; `run` goes on from there."""
    seen = []
    reactor.callFromThread(seen.append, 1)
    while seen != [1]:
        reactor.iterate()
    reactor.callFromThread(seen.append, 2)
    reactor.iterate(0.01)
    assert seen == [1, 2]
    with pytest.raises(ValueError, match="0 or more"):
        reactor.iterate(-1)
    run(reactor, reactor.stop)


def test_iterate_inside_the_loop_is_refused(reactor):
    """`iterate` from a callback would nest the loop, and is refused."""
    errors = []

    def nest():
        try:
            reactor.iterate()
        except ReactorAlreadyRunning as error:
            errors.append(error)
        reactor.stop()

    run(reactor, nest)
    assert len(errors) == 1


def test_stop_while_iterating(reactor):
    """A reactor that is turned by hand ends when it was stopped and turned on."""
    reactor.iterate()
    reactor.iterate()
    reactor.stop()
    while reactor._own is not None:
        reactor.iterate()
    assert repr(reactor) == "<Reactor stopped>"


def test_everything_on_the_loop_ends_with_it(reactor):
    """After `stop`, tasks are cancelled and asynchronous generators closed."""
    seen = []

    async def generate():
        try:
            yield
        finally:
            seen.append("generator closed")

    async def wait():
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("task cancelled")

    async def begin(generator):
        await anext(generator)

    kept = []

    def start():
        kept.append(generate())
        kept.append(asyncio.get_running_loop().create_task(begin(kept[0])))
        kept.append(asyncio.get_running_loop().create_task(wait()))
        reactor.callLater(0.01, reactor.stop)

    run(reactor, start)
    assert seen == ["task cancelled", "generator closed"]


def test_task_that_fails_at_the_end_is_logged(reactor, expect_errors):
    """What a task raises when it is cancelled by the end is not swallowed."""
    kept = []

    async def wait():
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("not tidy")

    def start():
        kept.append(asyncio.get_running_loop().create_task(wait()))
        reactor.callLater(0.01, reactor.stop)

    run(reactor, start)
    assert "not tidy" in str(expect_errors[0].exc_info[1])


def test_pool_is_finished_and_released(reactor):
    """The pool finishes what it was given before `run` returns, and is let go."""
    seen = []
    held = threading.Event()

    def work():
        held.wait(30)
        seen.append("worked")

    def start():
        reactor.callInThread(work)
        seen.append(reactor.getThreadPool())
        reactor.addSystemEventTrigger("after", "shutdown", held.set)
        reactor.stop()

    run(reactor, start)
    pool, worked = seen
    assert worked == "worked"
    assert reactor._pool is None
    assert pool.stats().workers == 0
    with pytest.raises(PoolClosed):
        pool.callInThread(int)


# -- system events -----------------------------------------------------------------


def test_three_phases_in_order(reactor):
    """Triggers run phase by phase, in the order they were added within one."""
    seen = []
    for phase in ("after", "during", "before"):
        for number in (1, 2):
            for event in ("startup", "shutdown"):
                text = f"{phase} {event} {number}"
                reactor.addSystemEventTrigger(phase, event, seen.append, text)
    run(reactor, reactor.stop)
    phases = ("before", "during", "after")
    assert seen == [
        f"{phase} {event} {number}"
        for event in ("startup", "shutdown")
        for phase in phases
        for number in (1, 2)
    ]


def test_deferred_delays_the_next_phase(reactor):
    """The next phase waits for every Deferred and coroutine of the one before."""
    seen = []

    def slowly():
        return deferLater(reactor, 0.02, seen.append, "slow")

    async def coroutine():
        await deferLater(reactor, 0.01)
        seen.append("coroutine")

    reactor.addSystemEventTrigger("before", "shutdown", slowly)
    reactor.addSystemEventTrigger("before", "shutdown", coroutine)
    reactor.addSystemEventTrigger("before", "shutdown", seen.append, "quick")
    reactor.addSystemEventTrigger("during", "shutdown", seen.append, "during")
    run(reactor, reactor.stop)
    assert seen == ["quick", "coroutine", "slow", "during"]


def test_failing_trigger_is_logged_and_the_others_go_on(reactor, expect_errors):
    """A trigger that raises, or whose Deferred fails, stops nobody."""
    seen = []

    def fail():
        raise ValueError("at once")

    async def fail_later():
        await deferLater(reactor, 0)
        raise ValueError("later")

    reactor.addSystemEventTrigger("before", "shutdown", fail)
    reactor.addSystemEventTrigger("before", "shutdown", fail_later)
    reactor.addSystemEventTrigger("during", "shutdown", seen.append, "during")
    run(reactor, reactor.stop)
    assert seen == ["during"]
    assert [str(r.exc_info[1]) for r in expect_errors] == ["at once", "later"]
    assert all("<Trigger before shutdown" in r.getMessage() for r in expect_errors)


def test_failing_trigger_shows_its_own_error_only(reactor, expect_errors):
    """What a trigger raises at the end of an adopted loop has nothing before it."""

    def fail():
        raise ValueError("of the user")

    async def main():
        reactor.addSystemEventTrigger("before", "shutdown", fail)
        reactor.seconds()

    asyncio.run(main())
    (record,) = expect_errors
    assert record.exc_info[1].__context__ is None


def test_trigger_that_keeps_the_end_waiting_is_named(reactor, caplog, monkeypatch):
    """A shutdown trigger that does not end is named in the log, and waited for."""
    monkeypatch.setattr(triggers, "PATIENCE_SECONDS", 0.01)
    answers = [Deferred(), Deferred()]
    reactor.addSystemEventTrigger("before", "shutdown", lambda: answers[0])
    reactor.addSystemEventTrigger("before", "shutdown", lambda: answers[1])

    async def main():
        reactor.seconds()
        over = reactor._home.farewell()
        async with asyncio.timeout(30):
            while not caplog.records:
                await asyncio.sleep(0.001)
        answers[0].callback(None)
        answers[1].callback(None)
        await over

    asyncio.run(main())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "Still waiting for <Trigger before shutdown" in record.getMessage()


async def test_timer_of_a_trigger_goes_with_it(reactor):
    """Where a trigger ends in time its timer is taken away; most need none."""
    reactor.seconds()
    slow, timers = Deferred(), []

    class Timer:
        cancelled = False

        def cancel(self):
            self.cancelled = True

    def later(seconds, _):
        timers.append((seconds, Timer()))
        return timers[-1][1]

    reactor.addSystemEventTrigger("before", "mine", int)
    reactor.addSystemEventTrigger("during", "mine", lambda: slow)
    over = reactor._triggers.fire("mine", later)
    ((seconds, timer),) = timers
    assert seconds == triggers.PATIENCE_SECONDS == 5
    assert not timer.cancelled
    slow.callback(None)
    assert timer.cancelled
    await over


async def test_each_trigger_runs_once(reactor):
    """Fired again, an event runs only what was added since."""
    seen = []
    reactor.addSystemEventTrigger("during", "mine", seen.append, 1)
    await reactor.fireSystemEvent("mine")
    reactor.addSystemEventTrigger("during", "mine", seen.append, 2)
    await reactor.fireSystemEvent("mine")
    await reactor.fireSystemEvent("nobody's")
    assert seen == [1, 2]


async def test_trigger_added_while_its_phase_runs(reactor):
    """A trigger may add triggers to the phase that runs, and to later ones."""
    seen = []

    def add():
        for phase in ("before", "during"):
            reactor.addSystemEventTrigger(phase, "mine", seen.append, phase)

    reactor.addSystemEventTrigger("before", "mine", add)
    await reactor.fireSystemEvent("mine")
    assert seen == ["before", "during"]


def test_triggers_can_be_removed_once(reactor):
    """A removed trigger does not run; removing nonsense says what is wrong."""
    seen = []
    trigger = reactor.addSystemEventTrigger("during", "startup", seen.append, 1)
    reactor.removeSystemEventTrigger(trigger)
    with pytest.raises(ValueError, match="removed before"):
        reactor.removeSystemEventTrigger(trigger)
    with pytest.raises(TypeError, match="is no trigger"):
        reactor.removeSystemEventTrigger("during")
    with pytest.raises(KeyError, match="before, during and after"):
        reactor.addSystemEventTrigger("whenever", "startup", int)
    waiting = reactor.callWhenRunning(seen.append, 2)
    reactor.removeSystemEventTrigger(waiting)
    run(reactor, reactor.stop)
    assert seen == []


def test_events_of_an_adopted_loop(reactor):
    """A loop adopted in asyncio.run starts up when adopted and shuts down with it."""
    seen = []
    reactor.callWhenRunning(seen.append, "running")
    reactor.addSystemEventTrigger("during", "startup", seen.append, "startup")

    async def goodbye():
        await asyncio.sleep(0.01)
        seen.append("goodbye")

    async def main():
        reactor.addSystemEventTrigger("before", "shutdown", goodbye)
        reactor.addSystemEventTrigger("during", "shutdown", seen.append, "shutdown")
        reactor.seconds()
        await asyncio.sleep(0.01)
        seen.append("main ends")

    asyncio.run(main())
    assert seen == ["startup", "running", "main ends", "goodbye", "shutdown"]


def test_default_reactor_hears_of_loops_that_others_use():
    """Who waits for the default reactor is served by the first loop a pool meets."""
    from threadpool.pool import ThreadPool
    from threadpool.reactor import reactor

    seen = []
    reactor.callWhenRunning(seen.append, "running")

    async def main():
        pool = ThreadPool(0, 1)
        pool.start()
        await pool.deferToThread(int)
        await pool.close()

    asyncio.run(main())
    assert seen == ["running"]


# -- signals -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_cleanly(reactor, number, caplog):
    """SIGINT and SIGTERM fire "shutdown" and end `run`; old handlers come back."""
    caplog.set_level(logging.INFO)
    before = signal.getsignal(number)
    seen = []
    reactor.addSystemEventTrigger("during", "shutdown", seen.append, "shutdown")
    run(reactor, lambda: os.kill(os.getpid(), number))
    assert seen == ["shutdown"]
    assert signal.getsignal(number) is before
    assert f"{signal.Signals(number).name}: stopping" in caplog.text


def test_second_signal_insists(reactor):
    """A second signal ends a callback that blocks, and `run`: KeyboardInterrupt."""
    reached = []

    def block():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("not reached")

    with pytest.raises(KeyboardInterrupt, match="while the program was stopping"):
        run(reactor, block)
    assert reached == []
    assert repr(reactor) == "<Reactor stopped>"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_signal_ends_a_shutdown_that_hangs(reactor):
    """A trigger that never ends is given up at the second signal."""
    reactor.addSystemEventTrigger("before", "shutdown", Deferred)
    reactor.callLater(0.02, os.kill, os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(reactor, lambda: os.kill(os.getpid(), signal.SIGTERM))


def test_signals_are_left_alone_when_asked(reactor):
    """Without installing handlers, Ctrl-C is Python's KeyboardInterrupt."""
    with pytest.raises(KeyboardInterrupt):
        run(
            reactor,
            lambda: os.kill(os.getpid(), signal.SIGINT),
            install_signal_handlers=False,
        )
    assert not reactor.running


def test_own_handlers_of_the_program_stay(reactor):
    """A SIGINT handler that the program has set is not replaced; nor one set later."""
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("mine"))
    terminated = signal.getsignal(signal.SIGTERM)
    try:

        def send():
            os.kill(os.getpid(), signal.SIGINT)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            reactor.stop()

        run(reactor, send)
        assert seen == ["mine"]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, terminated)


def test_run_in_another_thread(reactor):
    """In a thread that is not the main one `run` works, without signals."""
    seen = []
    thread = threading.Thread(
        target=run, args=(reactor, lambda: seen.append(1), reactor.stop)
    )
    thread.start()
    thread.join(30)
    assert seen == [1]


def test_interrupted_run_leaves_nothing_running(reactor):
    """An exception that leaves the loop ends it: SystemExit in a callback, say."""
    done = []

    def leave():
        reactor.addSystemEventTrigger("during", "shutdown", done.append, "shutdown")
        reactor.getThreadPool()
        raise SystemExit(3)

    reactor.callLater(0, leave)
    with pytest.raises(SystemExit):
        reactor.run()
    assert done == ["shutdown"]
    assert reactor._pool is None


def test_program_of_old(tmp_path):
    """A script in the old style, with signals sent from outside, ends with status 0."""
    script = tmp_path / "old.py"
    script.write_text(
        "import os, signal\n"
        "from threadpool.reactor import reactor\n"
        "from threadpool.threads import deferToThread\n"
        "def started():\n"
        "    deferToThread(pow, 2, 10).addCallback(print).addBoth(\n"
        "        lambda _: os.kill(os.getpid(), signal.SIGTERM))\n"
        "reactor.callWhenRunning(started)\n"
        "reactor.run()\n"
        "print('over')\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1024\nover\n", "")
