"""Forks: the child's pools begin anew and wait for nobody, the parent's go on."""

from __future__ import annotations

import pytest

from tests.enterprise.forking import both_ways, forking, rows, run, table

pytestmark = forking


@pytest.fixture
def path(tmp_path):
    """A database with an empty table."""
    return table(tmp_path / "shop.db", "wal")


# -- other databases -------------------------------------------------------------------


@both_ways
def test_postgres_session_outlives_the_child(pg_url, leave):
    """A child has sessions of its own, and its end leaves those of its parent alone."""
    said = run(
        """
        pool = pool_on(path, cp_max=1)
        asyncio.run(one(pool, "create temp table mine as select 1 as id"))
        ask = "select pg_backend_pid()"
        before = asyncio.run(one(pool, ask))

        def work():
            stats = pool.stats()
            print(stats.connections, stats.opened)
            print(asyncio.run(one(pool, ask)) == before, pool.stats().opened)

        wait(fork(work))
        print(asyncio.run(one(pool, ask)) == before, pool.stats().opened)
        asyncio.run(told(pool, "select * from mine"))
        pool.close()
        """,
        pg_url,
        leave,
    )
    assert said == ["0 0", "False 1", "True 1", "[(1,)]"]


@both_ways
def test_the_parents_connections_are_parked(tmp_path, leave):
    """Nothing in the child closes its parent's connections: not its pool, not the
    garbage collector, not the interpreter's end.
    """
    said = run(
        """
        class Connection:
            def __init__(self):
                self.process = os.getpid()
            def cursor(self):
                return self
            def close(self):
                own = os.getpid() == self.process
                os.write(1, b"closed by the owner\\n" if own else b"by the child\\n")
            def __del__(self, say=os.write, getpid=os.getpid):
                if getpid() != self.process:
                    say(1, b"deleted by the child\\n")

        def tidy():
            global pool
            pool.close()
            del pool
            kept.clear()
            import gc
            gc.collect()

        kept = []
        pool = pool_on(Connection, cp_min=3, cp_openfun=kept.append)
        async def start():
            await pool.start()
        asyncio.run(start())
        # Those of the pool are also held by threads, which end without letting go.
        forks._parked.append(Connection())
        wait(fork(tidy))
        kept.clear()
        pool.close()
        """,
        tmp_path,
        leave,
    )
    assert said == ["closed by the owner"] * 3


# -- what the child must not wait for --------------------------------------------------


def test_locks_are_free_in_the_child(path):
    """A child forked while other threads hold every lock there is does not hang."""
    said = run(
        """
        pool = pool_on("sqlite3", path, cp_wal=False, cp_max=2)
        asyncio.run(insert(pool, 1))
        office, driver = pool._office, pool.driver
        locks = [office._lock, office.outage._lock, office._deadlines._lock]
        locks += [driver._lock]
        held, go_on = threading.Event(), threading.Event()

        def hold():
            for lock in locks:
                lock.acquire()
            held.set()
            go_on.wait()
            for lock in locks:
                lock.release()

        os.register_at_fork(after_in_parent=go_on.set)
        # Closing takes some of them: they are held when that is done.
        before = forks.files.beforeFork
        def close_and_hold(*arguments):
            before(*arguments)
            threading.Thread(target=hold).start()
            held.wait()
        forks.files.beforeFork = close_and_hold
        wait(fork(told(pool, "select 'child'"), pool.close))
        asyncio.run(told(pool, "select 'parent'"))
        pool.close()
        """,
        path,
    )
    assert said == ["[('child',)]", "[('parent',)]"]


def test_fork_while_sqlite_connects(path):
    """A child forked while a connection is being opened does not wait for that one."""
    said = run(
        """
        forks.FORK_SECONDS = 0.05
        parent = os.getpid()
        inside, go_on = threading.Event(), threading.Event()

        class Slow(sqlite3.Connection):
            def __init__(self, *arguments, **keywords):
                if os.getpid() == parent:
                    inside.set()
                    go_on.wait()
                super().__init__(*arguments, **keywords)

        pool = pool_on("sqlite3", path, cp_wal=False, cp_max=2, factory=Slow)

        async def main():
            call = pool.runQuery("select 'parent'")
            await asyncio.to_thread(inside.wait)
            pid = await asyncio.to_thread(fork, child)
            await asyncio.to_thread(wait, pid)
            go_on.set()
            print(await call)
            await pool.close()

        def child():
            asyncio.run(told(pool, "select 'child'"))
            pool.close()

        asyncio.run(main())
        """,
        path,
    )
    assert said == ["[('child',)]", "[('parent',)]"]


@pytest.mark.parametrize("how", ["close", "closing"])
def test_a_closed_pool_stays_closed(path, how):
    """A pool that was closed, or about to be, is closed in the child."""
    said = run(
        """
        pool = pool_on("sqlite3", path, cp_wal=False)
        go_on = threading.Event()

        def child():
            try:
                asyncio.run(one(pool, "select 1"))
            except PoolClosed:
                print("closed", repr(pool).split()[2])
            pool.close()

        async def main():
            call = pool.runInteraction(lambda txn: go_on.wait() and None)
            await pool.runQuery("select 1")
            closed = pool.close()
            if sys.argv[3] == "close":
                go_on.set()
                await closed
            pid = await asyncio.to_thread(fork, child)
            await asyncio.to_thread(wait, pid)
            go_on.set()
            await call
            await closed

        forks.FORK_SECONDS = 0.05
        asyncio.run(main())
        """,
        path,
        "_exit",
        how,
    )
    assert said == ["closed closed,"]


def test_forks_while_the_pool_is_at_work(path):
    """Forty forks in mid work: all is answered, no child hangs, and no row is lost."""
    said = run(
        """
        pool = pool_on("sqlite3", path, cp_wal=False, cp_max=3, timeout=30)
        over = threading.Event()

        def family():
            for n in range(20):
                wait(fork(insert(pool, 1000 + n), pool.close))
            over.set()

        async def main():
            forking = [asyncio.to_thread(family) for _ in range(2)]
            forking = [asyncio.create_task(family) for family in forking]
            count = 0
            while not over.is_set():
                await insert(pool, count)
                await asyncio.gather(*(one(pool, "select 1") for _ in range(5)))
                count += 1
            await asyncio.gather(*forking)
            await pool.close()
            print(count)

        asyncio.run(main())
        """,
        path,
    )
    found = rows(path)
    assert [n for n in found if n < 1000] == list(range(int(said[0])))
    assert [n for n in found if n >= 1000] == sorted([*range(1000, 1020)] * 2)
