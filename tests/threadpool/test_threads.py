"""From the loop into threads by name, and what a process does at its end."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from threadpool import threads
from threadpool.error import PoolFull, WrongThread
from threadpool.reactor import Reactor

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def reactor(monkeypatch):
    """The default reactor of this test, its pool stopped afterwards."""
    made = Reactor()
    monkeypatch.setattr(threads, "_reactor", made)
    yield made
    if made._pool is not None:
        made._pool.stop()


# -- deferToThread -----------------------------------------------------------------


async def test_defer_to_thread(reactor):
    """The function is called in a thread of the reactor's pool, with its arguments."""

    def work(*args, **kwargs):
        return args, kwargs, threading.current_thread().name

    args, kwargs, name = await threads.deferToThread(work, 1, two=2)
    assert (args, kwargs) == ((1,), {"two": 2})
    assert name.startswith("reactor-")


async def test_failure_comes_home(reactor):
    """What the function raises is raised where it is awaited."""
    with pytest.raises(ZeroDivisionError):
        await threads.deferToThread(lambda: 1 / 0)


def test_defer_to_thread_needs_a_loop(reactor):
    """Where no loop runs it raises WrongThread, which names the other way."""
    with pytest.raises(WrongThread, match="from another thread, use"):
        threads.deferToThread(int)


async def test_full_pool_errbacks(reactor):
    """When the pool's bounds are reached the Deferred fails with PoolFull."""
    pool = reactor.getThreadPool()
    pool._team._bound.backlog = 0
    reactor.suggestThreadPoolSize(1)
    end = threading.Event()
    first = threads.deferToThread(end.wait, 30)
    with pytest.raises(PoolFull):
        await threads.deferToThread(int)
    end.set()
    assert await first


def test_successive_loops(reactor):
    """The same pool serves one asyncio.run after the other."""

    async def main():
        return await threads.deferToThread(threading.get_ident)

    first, second = asyncio.run(main()), asyncio.run(main())
    assert first == second
    assert first != threading.get_ident()


# -- processes ---------------------------------------------------------------------


def run(code, timeout=60, returncode=0):
    """Run *code* in a fresh interpreter; it must end well and say nothing."""
    code = inspect.cleandoc(code)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == ""
    assert done.returncode == returncode
    return done.stdout.split()


def test_exit_with_a_forgotten_idle_pool():
    """A pool that nobody stopped does not keep the process alive."""
    out = run("""
        import asyncio
        from threadpool.pool import ThreadPool

        pool = ThreadPool(2, 4)
        pool.start()

        async def main():
            jobs = [pool.deferToThread(pow, n, 2) for n in range(100)]
            print(sum(await asyncio.gather(*jobs)))

        asyncio.run(main())
    """)
    assert out == ["328350"]


def test_exit_with_a_forgotten_busy_pool():
    """A job that never ends delays the exit for seconds, not for ever.

    What waits behind it is never begun.
    """
    out = run(
        """
        import threading
        from threadpool.pool import ThreadPool

        pool = ThreadPool(0, 1)
        pool.start()
        running = threading.Event()

        def work():
            running.set()
            threading.Event().wait()

        pool.callInThread(work)
        pool.callInThread(print, "begun")
        running.wait()
        print("end")
        """,
        timeout=20,
    )
    assert out == ["end"]


def test_exit_waits_for_a_running_job():
    """A job that ends soon is given the time to."""
    out = run("""
        import atexit, threading
        exiting = threading.Event()
        from threadpool.pool import ThreadPool
        atexit.register(exiting.set)  # Runs before the hook that waits.

        pool = ThreadPool(0, 1)
        pool.start()
        running = threading.Event()

        def work():
            running.set()
            exiting.wait()
            print("done")

        pool.callInThread(work)
        running.wait()
    """)
    assert out == ["done"]


def test_exit_in_the_middle_of_asyncio():
    """A program that ends while jobs are in flight ends quietly."""
    out = run("""
        import asyncio, sys, threading
        from threadpool import crew
        from threadpool.threads import deferToThread
        crew.EXIT_SECONDS = 0.1
        outcomes = []

        async def main():
            running = threading.Event()

            def work():
                running.set()
                threading.Event().wait()

            for _ in range(20):
                deferToThread(work).addErrback(lambda f: print(f.type.__name__))
            while not running.is_set():
                await asyncio.sleep(0)

        asyncio.run(main())
    """)
    assert out == ["LoopClosed"] * 20


def test_exit_after_a_bare_close():
    """A loop closed without a word, with work in flight: one WARNING, then the exit."""
    out = run("""
        import asyncio, logging, sys, threading
        from threadpool.threads import deferToThread
        logging.basicConfig(stream=sys.stdout, format="%(levelname)s")
        end, running, done = threading.Event(), threading.Event(), threading.Event()

        def work():
            running.set()
            end.wait()
            return 7

        async def main():
            deferToThread(work)
            while not running.is_set():
                await asyncio.sleep(0)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        end.set()
    """)
    assert out == ["WARNING"]


def test_exit_from_inside_a_job():
    """sys.exit in a job ends the job only; the process ends by itself, later."""
    out = run("""
        import asyncio, sys
        from threadpool.threads import deferToThread

        async def main():
            try:
                await deferToThread(sys.exit, 3)
            except RuntimeError as error:
                print(type(error.__cause__).__name__)

        asyncio.run(main())
    """)
    assert out == ["SystemExit"]


def test_sys_exit_in_a_callback_ends_the_program():
    """SystemExit raised by a callback on the loop's thread propagates."""
    run(
        """
        import asyncio, sys
        from threadpool.threads import deferToThread

        async def main():
            await deferToThread(int).addCallback(lambda _: sys.exit(3))

        asyncio.run(main())
        """,
        returncode=3,
    )


def test_pool_where_threads_are_forbidden():
    """A ThreadPool that starts where threads are forbidden names the remedy."""
    out = run("""
        import threadable
        from threadpool.pool import ThreadPool
        threadable.init(False)
        pool = ThreadPool(name="db")
        try:
            pool.start()
        except threadable.ThreadsDisabled as error:
            print("db" in str(error), "threadable.init()" in str(error))
        print(pool.stats().workers)
    """)
    assert out == ["True", "True", "0"]


def test_pool_turns_threads_on():
    """A ThreadPool that starts while nothing is decided turns threads on."""
    out = run("""
        import threadable
        from threadpool.pool import ThreadPool
        pool = ThreadPool()
        print(threadable.threaded)
        pool.start()
        print(threadable.threaded)
        pool.stop()
    """)
    assert out == ["None", "True"]


FORK = """
    import asyncio, os, sys, threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # Of forking with threads.
    from threadpool import crew, threads
    from threadpool.pool import ThreadPool
    from threadpool.reactor import reactor
    crew.EXIT_SECONDS = 0.5
    pool = ThreadPool(1, 2, "forked", backlog=5)
    pool.start()

    async def use():
        jobs = [pool.deferToThread(pow, n, 2) for n in range(5)]
        jobs.append(threads.deferToThread(pow, 7, 2))
        heard = asyncio.get_running_loop().create_future()
        reactor.callInThread(reactor.callFromThread, heard.set_result, 1)
        await heard
        return await asyncio.gather(*jobs)

    def wait_for_child(pid):
        _, status = os.waitpid(pid, 0)
        print("child", os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_forked_child_starts_clean():
    """A forked child has no threads and no jobs of its parent, and its pools work."""
    out = run(
        inspect.cleandoc(FORK)
        + "\n"
        + inspect.cleandoc("""
        asyncio.run(use())
        block, running = threading.Event(), threading.Event()
        pool.callInThread(lambda: running.set() or block.wait())
        running.wait()
        pid = os.fork()
        if not pid:
            stats = pool.stats()
            assert (stats.workers, stats.unfinished) == (0, 0), stats
            assert stats.submitted == stats.finished + stats.removed, stats
            assert asyncio.run(use()) == [0, 1, 4, 9, 16, 49]
            assert asyncio.run(use()) == [0, 1, 4, 9, 16, 49]
            sys.exit(0)
        wait_for_child(pid)
        block.set()
        print(asyncio.run(use()))
        pool.stop()
        """)
    )
    assert out == ["child", "0", "[0,", "1,", "4,", "9,", "16,", "49]"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_fork_inside_a_running_loop():
    """A child forked while the loop runs has no loop; a new one works there."""
    out = run(
        inspect.cleandoc(FORK)
        + "\n"
        + inspect.cleandoc("""
        async def main():
            await use()
            pid = os.fork()
            if not pid:
                return None
            wait_for_child(pid)
            return await use()

        parent = os.getpid()
        loop = asyncio.new_event_loop()
        found = None
        try:
            found = loop.run_until_complete(main())
        finally:
            if os.getpid() != parent:
                child = threading.Thread(target=lambda: print(asyncio.run(use())))
                child.start()
                child.join()
                sys.stdout.flush()
                os._exit(0)
        print(found)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        """)
    )
    numbers = ["[0,", "1,", "4,", "9,", "16,", "49]"]
    assert out == [*numbers, "child", "0", *numbers]


def test_import_needs_no_loop_and_no_thread():
    """Importing the floor starts nothing."""
    out = run("""
        import threading
        import threadpool.threads, threadpool.testing, threadpool.defer
        print(threading.active_count(), threadpool.threads._reactor._pool)
    """)
    assert out == ["1", "None"]


async def test_coroutine_from_a_thread_is_refused(reactor):
    """A function that returns a coroutine is a mistake, and said to be one."""

    async def never():
        raise AssertionError

    with pytest.raises(TypeError, match="returned a coroutine"):
        await threads.deferToThread(never)
