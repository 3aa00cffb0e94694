"""SQLite and forks: no file is open while the process forks; so none loses data."""

from __future__ import annotations

import inspect
import textwrap

import pytest

from tests.enterprise.forking import both_ways, forking, rows, run, table

pytestmark = forking


@pytest.fixture(params=["wal", "delete"])
def path(request, tmp_path):
    """A database with an empty table, in each of the two journal modes."""
    return table(tmp_path / "shop.db", request.param)


# -- SQLite ----------------------------------------------------------------------------

SHARED = """
    pool = pool_on("sqlite3", path, cp_wal=False, cp_min=3, cp_max=3)
    asyncio.run(insert(pool, 1, 2))
    asyncio.run(one(pool, "select 1"))
    wrote, closed = os.pipe(), os.pipe()
    pid = fork(
        insert(pool, 3, 4, 5, 6, 7),
        lambda: os.write(wrote[1], b"!"),
        lambda: os.read(closed[0], 1),
        insert(pool, 8),
    )
    os.read(wrote[0], 1)
    if sys.argv[3] == "use":
        print(asyncio.run(one(pool, "select count(*) from item")))
    pool.close()
    os.write(closed[1], b"!")
    wait(pid)
"""


@both_ways
@pytest.mark.parametrize("use", ["use", "close"])
def test_child_writes_while_the_parent_closes(path, leave, use):
    """What a child commits stays, whatever the parent does to its connections."""
    said = run(SHARED, path, leave, use)
    assert said == (["[(7,)]"] if use == "use" else [])
    assert rows(path) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_parent_reopens_when_it_needs_to(path):
    """Before a fork all SQLite connections are closed; the next calls open new ones."""
    said = run(
        """
        pool = pool_on("sqlite3", path, cp_wal=False, cp_min=3, cp_max=3)
        async def start():
            await pool.start()
        asyncio.run(start())
        seen = []
        os.register_at_fork(after_in_parent=lambda: seen.append(pool.stats()))
        def tell():
            stats = pool.stats()
            print(stats.connections, stats.opened, stats.busy, stats.unfinished)
        wait(fork(tell))
        print(seen[0].connections, seen[0].opened)
        asyncio.run(insert(pool, 1))
        stats = pool.stats()
        print(stats.connections > 0, stats.opened - stats.connections)
        pool.close()
        """,
        path,
    )
    assert said == ["0 0 0 0", "0 3", "True 3"]


def test_busy_connections_are_waited_for(path):
    """A fork waits for a statement that is about to end, and for what is queued behind
    it no longer than for that.
    """
    said = run(
        """
        pool = pool_on("sqlite3", path, cp_wal=False, cp_max=1)
        inside, go_on = threading.Event(), threading.Event()
        os.register_at_fork(before=go_on.set)  # Before the pool's own.

        def work(txn):
            inside.set()
            assert go_on.wait(30)
            txn.execute("insert into item values (1)")

        async def main():
            first = pool.runInteraction(work)
            later = [pool.runOperation("insert into item values (2)") for _ in range(9)]
            while not inside.is_set():
                await asyncio.sleep(0.001)
            pid = await asyncio.to_thread(fork, child)
            await asyncio.gather(first, *later)
            await pool.close()
            await asyncio.to_thread(wait, pid)

        def child():
            asyncio.run(insert(pool, 3))

        forks.FORK_SECONDS = 30
        asyncio.run(main())
        """,
        path,
    )
    assert said == []
    assert rows(path) == [1] + [2] * 9 + [3]


def test_nobody_opens_a_file_meanwhile(path):
    """Who wants to open a file while the process forks waits until it has."""
    said = run(
        """
        from enterprise.drivers.base import Lane
        pool = pool_on("sqlite3", path, cp_wal=False, cp_max=2)
        asyncio.run(insert(pool, 1))
        opened, go_on = threading.Event(), threading.Event()

        def late():
            raw = pool.driver.connect(Lane.WRITER)
            opened.set()
            go_on.wait()
            pool.driver.close(raw)

        before = forks.files.beforeFork
        def before_and_late(*arguments):
            before(*arguments)
            threading.Thread(target=late).start()
            while not opened.is_set() and not forks.files._changed._waiters:
                go_on.wait(0.001)

        forks.files.beforeFork = before_and_late
        wait(fork(told(pool, "select 'child'")))
        opened.wait()
        go_on.set()
        print("opened", forks.files)
        pool.close()
        """,
        path,
    )
    assert said[0] == "[('child',)]"
    assert said[1].startswith("opened <OpenFiles: ")


REFUSED = """
    forks.FORK_SECONDS = 0.05
    pool = pool_on("sqlite3", path, cp_wal=False, cp_max=2)
    other = pool_on("sqlite3", path + ".other")
    keep = []

    async def hold():
        await other.runOperation("create table item (id)")
        {hold}
        pid = await asyncio.to_thread(fork, child)
        await asyncio.to_thread(wait, pid)
        {release}
        await told(pool, "select 'parent'")
        await pool.close()
        await other.close()

    def child():
        for _ in range(2):
            asyncio.run(told(pool, "select 'child'"))
        asyncio.run(told(other, "select 'other'"))
        grandchild = os.fork()
        if not grandchild:
            asyncio.run(told(pool, "select 'grandchild'"))
            sys.stdout.flush()
            os._exit(0)
        wait(grandchild)

    asyncio.run(hold())
"""

HOLDERS = {
    "a busy worker": (
        """
        go_on, inside = threading.Event(), threading.Event()
        call = pool.runInteraction(lambda txn: (inside.set(), go_on.wait(30)))
        await asyncio.to_thread(inside.wait)
        """,
        "go_on.set(); await call",
    ),
    "a cursor that somebody keeps": (
        """
        await insert(pool, 1, 2)
        await pool.runInteraction(
            lambda txn: keep.append(txn.connection.execute("select * from item"))
        )
        """,
        "keep.clear()",
    ),
    "somebody else's connection": (
        "plain = sqlite3.connect(path)",
        "plain.close()",
    ),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_file_that_stayed_open(path, holder):
    """A child that would lose data is told so, and its own children; other files work,
    and the parent goes on.
    """
    hold, release = HOLDERS[holder]
    hold = textwrap.indent(inspect.cleandoc(hold), " " * 8).lstrip()
    said = run(REFUSED.replace("{hold}", hold).replace("{release}", release), path)
    assert said == [
        "ForkedSQLite",
        "ForkedSQLite",
        "[('other',)]",
        "ForkedSQLite",
        "[('parent',)]",
    ]


def test_a_worker_that_forks(path):
    """A function may fork inside its worker: the fork does not wait for itself, and
    the child keeps its hands off the file.
    """
    said = run(
        """
        forks.FORK_SECONDS = 60
        pool = pool_on("sqlite3", path, cp_wal=False, cp_max=2)

        def work(txn):
            txn.execute("insert into item values (1)")
            wait(fork(told(pool, "select 1")))

        async def main():
            await pool.runInteraction(work)
            await told(pool, "select count(*) from item")
            await pool.close()

        asyncio.run(main())
        """,
        path,
    )
    assert said == ["ForkedSQLite", "[(1,)]"]


@both_ways
def test_memory_stays_with_the_parent(path, leave):
    """A database in memory is its parent's; one that nobody has used is anybody's."""
    said = run(
        """
        used, fresh = pool_on("sqlite://"), pool_on("sqlite://")
        asyncio.run(one(used, "create table item (id)"))
        wait(fork(told(used, "select 'used'"), told(fresh, "select 'fresh'")))
        asyncio.run(told(used, "select count(*) from item"))
        used.close()
        """,
        path,
        leave,
    )
    assert said == ["DatabaseGone", "[('fresh',)]", "[(0,)]"]
