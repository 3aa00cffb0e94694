"""Programs that end in the middle of something: soon, with status 0, and silently."""

from __future__ import annotations

import time

from tests.enterprise.faults.programs import EXIT_SECONDS, end, heard, program
from tests.proxy import Proxy

# -- busy ------------------------------------------------------------------------------

IN_C = """
    async def main():
        global pool, job
        pool = ConnectionPool(url, cp_openfun=long_c)
        job = quiet(pool.runQuery(LONG_C))
        await there()
        over()

    asyncio.run(main())
"""


def test_busy_in_c(tmp_path):
    """SQLite inside a long C statement keeps nobody from the exit."""
    end(program(IN_C, f"sqlite:///{tmp_path}/shop.db"))


LOCKED = """
    import sqlite3

    async def main():
        global pool, jobs, other
        other = sqlite3.connect(rest[0], isolation_level=None)
        other.execute("create table item (id integer)")
        other.execute("begin immediate")
        pool = ConnectionPool("sqlite3", rest[0], timeout=600, cp_wal=False)
        jobs = [
            quiet(pool.runOperation("insert into item values (1)")),
            quiet(pool.runInteraction(lambda txn: 1)),
        ]
        while not pool.driver._waits._bells:
            await asyncio.sleep(0.001)
        over()

    asyncio.run(main())
"""


def test_waiting_for_a_lock(tmp_path):
    """SQLite waiting for somebody else's lock keeps nobody from the exit."""
    end(program(LOCKED, "", tmp_path / "shop.db"))


SLEEPING = """
    def work(txn):
        begun.set()
        txn.execute("select pg_sleep(600)")

    async def main():
        global pool, jobs
        pool = ConnectionPool(url, cp_max=3)
        jobs = [quiet(pool.runInteraction(work)), quiet(pool.runQuery(
            "select pg_sleep(600)"))]
        jobs += [quiet(pool.runQuery("select 1")) for _ in range(100)]
        await there()
        while pool.stats().busy < 2:
            await asyncio.sleep(0.001)
        over()

    asyncio.run(main())
"""


def test_busy_in_the_server(postgres, pg_name, pg_url):
    """A long statement in PostgreSQL keeps nobody from the exit; its session ends."""
    end(program(SLEEPING, pg_url))
    assert gone(postgres, pg_name)


def gone(postgres, name):
    """Wait for the sessions that a process has left behind."""
    until = time.monotonic() + EXIT_SECONDS
    while left := postgres.backends(name):
        if time.monotonic() > until:
            return f"still there: {left}"
    return True


NETWORK = """
    async def main():
        global pool, jobs
        pool = ConnectionPool(url, cp_max=10, cp_min=10)
        await pool.start()
        print("warm", flush=True)
        sys.stdin.readline()
        jobs = [quiet(pool.runQuery("select 1")) for _ in range(20)]
        while pool.stats().busy < 10:
            await asyncio.sleep(0.001)
        over()

    asyncio.run(main())
"""


def test_waiting_for_a_network(postgres, pg_name, pg_tcp_url):
    """A network that has gone silent keeps nobody from the exit."""
    with Proxy(postgres.port) as frozen, Proxy(postgres.port) as lost:
        processes = [
            program(NETWORK, proxy.through(pg_tcp_url)) for proxy in (frozen, lost)
        ]
        for process in processes:
            assert heard(process) == "warm"
        frozen.freeze()
        lost.natloss()
        for process in processes:
            process.stdin.write("go on\n")
            process.stdin.flush()
        end(*processes)
    assert gone(postgres, pg_name)


HANGING = """
    async def main():
        global pool, jobs, script
        script = Scripted()
        script.will(rest[0], "hang there")
        pool = ConnectionPool(script, cp_max=1)
        jobs = [quiet(pool.runOperation("fail" if rest[0] == "rollback" else "rows 1"))]
        jobs += [quiet(pool.runQuery("rows 1")) for _ in range(5)]
        await there(script.gate("there").reached)
        over()

    asyncio.run(main())
"""


CONNECTING = """
    import socket

    async def main():
        global pool, jobs, listener
        listener = socket.create_server(("127.0.0.1", 0))  # It never says a word.
        port = listener.getsockname()[1]
        pool = ConnectionPool(f"postgresql://u:p@127.0.0.1:{port}/x", cp_max=2)
        jobs = [quiet(pool.runQuery("select 1")) for _ in range(4)]
        while pool.stats().waiting > 4 or not pool._office.reader.threads():
            await asyncio.sleep(0.001)
        await asyncio.to_thread(listener.accept)
        over()

    asyncio.run(main())
"""


def test_hanging_drivers():
    """A driver that hangs, whatever it was called for, keeps nobody from the exit, and
    neither does one whose server does not answer while it connects.
    """
    verbs = ["connect", "cursor", "execute", "commit", "rollback"]
    end(*(program(HANGING, "", verb) for verb in verbs), program(CONNECTING, ""))


# -- not busy --------------------------------------------------------------------------

IDLE = """
    async def main():
        pool = ConnectionPool(url, cp_max=4, cp_min=2)
        await asyncio.gather(*(pool.runQuery("select 1") for _ in range(20)))
        if rest[0] == "kept":
            globals()["pool"] = pool
        over()

    asyncio.run(main())
"""


def test_idle(database):
    """A pool that is idle and was never closed keeps nobody from the exit."""
    end(*(program(IDLE, database.url, kind) for kind in ("kept", "dropped")))


LEASE = """
    async def block():
        async with pool.transaction() as txn:
            await txn.runQuery("select 1")
            begun.set()
            await asyncio.sleep(600)

    async def main():
        global pool, task, loop
        pool = ConnectionPool(url, cp_max=2)
        task = asyncio.create_task(block())
        await there()
        over()
        if rest[0] == "exit":
            sys.exit(0)

    if rest[0] == "stopped":  # The loop stays as it is, with the task inside.
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        # What asyncio says about a task that nobody ended is its own affair.
        task._log_destroy_pending = False
    else:
        asyncio.run(main())
"""


def test_open_lease(database):
    """A transaction that was begun and not ended keeps nobody from the exit."""
    kinds = ("run", "exit", "stopped")
    end(*(program(LEASE, database.url, kind) for kind in kinds))


CLOSED_LOOP = """
    def work(txn):
        begun.set()
        txn.execute(LONG_C if "sqlite" in url else "select pg_sleep(600)")

    async def main():
        global pool, jobs
        prepare = long_c if "sqlite" in url else None
        pool = ConnectionPool(url, cp_openfun=prepare, cp_max=2)
        jobs = [quiet(pool.runInteraction(work)) for _ in range(3)]
        jobs += [quiet(pool.runQuery("select 1")) for _ in range(100)]
        await there()

    import logging
    logging.getLogger().addHandler(logging.NullHandler())  # It warns, and should.
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    if rest[0] == "asyncgens":
        loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    over()
"""


def test_closed_loop(database):
    """A loop that was closed with work in flight keeps nobody from the exit."""
    kinds = ("bare", "asyncgens")
    end(*(program(CLOSED_LOOP, database.url, kind) for kind in kinds))


SYS_EXIT = """
    def work(txn):
        begun.set()
        txn.execute(LONG_C if "sqlite" in url else "select pg_sleep(600)")

    def leave(rows):
        over()
        sys.exit(5)

    async def main():
        global pool, jobs
        prepare = long_c if "sqlite" in url else None
        pool = ConnectionPool(url, cp_openfun=prepare, cp_max=3)
        await pool.runQuery("select 1")
        jobs = [quiet(pool.runInteraction(work)) for _ in range(500)]
        await there()
        if rest[0] == "main":
            over()
            sys.exit(5)
        other = ConnectionPool(url)
        other.runQuery("select 1").addCallback(leave)
        await asyncio.sleep(600)

    asyncio.run(main())
"""


def test_sys_exit(database):
    """`sys.exit` with work in flight and queued ends the program, with its status."""
    places = ("main", "callback")
    end(*(program(SYS_EXIT, database.url, place) for place in places), status=5)


# -- others that still run -------------------------------------------------------------

OTHER_THREAD = """
    answers = []

    def service():
        async def serve():
            for _ in range(50):
                answers.append(await pool.runQuery("select 1"))
            begun.set()
            hold.wait(20)
            for _ in range(50):
                answers.append(await pool.runQuery("select 1"))
            await pool.close()
            print(len(answers), flush=True)
        asyncio.run(serve())

    pool, hold = ConnectionPool(url, cp_max=2), threading.Event()
    thread = threading.Thread(target=service)
    thread.start()
    begun.wait(20)  # Later no thread can be started.
    # Once the main thread has begun to end, the other one goes on.
    threading._register_atexit(hold.set)
    over()
"""


def test_other_thread(database):
    """A thread that still works when the main one has ended is served to its end."""
    end(program(OTHER_THREAD, database.url), printed="100\n")


CHILD = """
    warnings.simplefilter("ignore", DeprecationWarning)  # Of forking with threads.

    async def main():
        global pool
        pool = ConnectionPool(url, cp_max=2, cp_min=2)
        await asyncio.gather(*(pool.runQuery("select 1") for _ in range(20)))
        over()

    asyncio.run(main())
    faulthandler.cancel_dump_traceback_later()  # Its thread does not come along.
    pid = os.fork()
    if not pid:
        if rest[1] == "used" and "sqlite" not in url:
            async def use():
                global other
                other = ConnectionPool(url)
                assert await other.runQuery("select 1") == [(1,)]
            asyncio.run(use())
        if rest[0] == "exit":
            sys.exit(0)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    async def again():
        print(await pool.runQuery("select 2"), flush=True)

    asyncio.run(again())
"""


def test_child(database):
    """A forked child ends in either way, and its parent goes on and ends as well."""
    children = [
        program(CHILD, database.url, leave, use)
        for leave in ("exit", "_exit")
        for use in ("unused", "used")
    ]
    end(*children, printed="[(2,)]\n")
