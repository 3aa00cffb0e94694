"""Circles that go over lanes, pools and threads; and what only looks like one."""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest

from enterprise import ConnectionPool
from enterprise.errors import NestedAcquire, PoolTimeout, QueryTimeout
from enterprise.ledger import book
from tests.enterprise.helpers import outcome, reached, until
from tests.enterprise.leases import alone
from tests.postgres import wait_until
from tests.scripted import Scripted
from threadpool.combine import gatherResults
from threadpool.defer import Deferred
from threadpool.reactor import reactor
from threadpool.threads import blockingCallFromThread


@pytest.fixture
def scripts():
    """Three scripted drivers, each for a pool of one connection."""
    drivers = [Scripted() for _ in range(3)]
    yield drivers
    for driver in drivers:
        driver.release()


class Turns:
    """Tasks that each hold one pool's connection and then ask another one."""

    def __init__(self, count):
        self._all_hold = asyncio.Barrier(count)
        self._asking = 0
        self._turn = asyncio.Condition()

    async def work(self, number, own, ask):
        """Hold *own*, wait until all hold theirs, and ask in the order of numbers."""
        async with own.transaction():
            await self._all_hold.wait()
            async with self._turn:
                await self._turn.wait_for(lambda: self._asking == number)
                self._asking += 1
                self._turn.notify_all()
            return await ask()


async def results(*tasks):
    """Run them all, each in a task of its own."""
    running = [asyncio.create_task(task) for task in tasks]
    return [await outcome(task) for task in running]


# -- Over lanes and pools --------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
async def test_circle_of_pools(scripts, count):
    """Each holds a pool's only connection and asks the next pool: the last is refused.

    It alone: when its block has ended, the others go on, one after the other.
    """
    pools = [ConnectionPool(script, cp_max=1) for script in scripts[:count]]
    turns = Turns(count)
    works = []
    for number, own in enumerate(pools):
        following = pools[(number + 1) % count]
        ask = functools.partial(following.runQuery, "rows 7")
        works.append(turns.work(number, own, ask))
    *others, last = await results(*works)
    assert isinstance(last, NestedAcquire)
    assert others == [[(7,)]] * (count - 1)
    for pool in pools:
        await alone_in(pool)
        await pool.close()
    assert not book.lent


async def alone_in(pool):
    """Check that the connection was given back."""
    assert await pool.runQuery("rows 1") == [(1,)]


async def test_circle_of_lanes(tmp_path):
    """A reader's lease waits for the writer, whose lease asks for a reader: refused."""
    url = f"sqlite:///{tmp_path}/a.db"
    async with ConnectionPool(url, cp_max=2) as pool:
        await pool.runOperation("create table a (id int)")
        reads, writes = asyncio.Event(), asyncio.Event()

        async def reader():
            async with pool.transaction(readonly=True):
                reads.set()
                await writes.wait()
                await pool.runOperation("insert into a values (1)")

        async def writer():
            await reads.wait()
            async with pool.transaction():
                writes.set()
                await until(lambda: pool.stats().waiting == 1, "the reader to ask")
                with pytest.raises(NestedAcquire):
                    await pool.runQuery("select 1")

        assert await results(reader(), writer()) == [None, None]
        assert await pool.runQuery("select id from a") == [(1,)]
        await alone(pool)


async def test_lease_of_another_pool(scripts):
    """A lease is asked for as a statement is: it may close the circle, too."""
    one, two = (ConnectionPool(script, cp_max=1) for script in scripts[:2])

    async def take(pool):
        async with pool.transaction():
            return "taken"

    turns = Turns(2)
    first, last = await results(
        turns.work(0, one, functools.partial(take, two)),
        turns.work(1, two, functools.partial(take, one)),
    )
    assert first == "taken"
    assert isinstance(last, NestedAcquire)
    for pool in (one, two):
        await pool.close()


async def test_interactions_of_two_pools(scripts):
    """Two interactions that wait for each other's pool: the second one is refused."""
    one, two = (ConnectionPool(script, cp_max=1) for script in scripts[:2])
    both = threading.Barrier(2, timeout=30)

    def first(txn):
        both.wait()
        return blockingCallFromThread(reactor, lambda: two.runQuery("rows 2"))

    def second(txn):
        both.wait()
        wait_until(lambda: two.stats().waiting, "first() to ask")
        return blockingCallFromThread(reactor, lambda: one.runQuery("rows 1"))

    jobs = one.runInteraction(first), two.runInteraction(second)
    assert await outcome(jobs[0]) == [(2,)]
    assert isinstance(await outcome(jobs[1]), NestedAcquire)
    for pool in (one, two):
        await alone_in(pool)
        await pool.close()


async def test_a_function_in_a_lease(scripts):
    """A function that a lease runs, and that asks the lease's own pool, is refused."""
    async with ConnectionPool(scripts[0], cp_max=1) as pool:

        def ask(txn):
            return blockingCallFromThread(reactor, lambda: pool.runQuery("rows 1"))

        async with pool.transaction() as txn:
            with pytest.raises(NestedAcquire):
                await txn.runInteraction(ask)
        await alone_in(pool)


async def test_bare_connection_that_asks_its_own_pool(shop):
    """A function with the bare connection counts as an interaction does."""
    async with ConnectionPool(shop.url, cp_max=1) as pool:

        def ask(raw):
            return blockingCallFromThread(reactor, lambda: pool.runQuery("select 1"))

        with pytest.raises(NestedAcquire):
            await pool.runWithConnection(ask, autocommit=True)
        await alone(pool)


async def test_whatever_is_lent(scripts):
    """Whatever serves its caller call by call is entered in the book as a lease is."""
    async with ConnectionPool(scripts[0], cp_max=1) as pool:

        def serve(txn):
            go_on.wait(30)

        go_on = threading.Event()
        job = pool.runInteraction(serve)
        pool._ledger.lend(job)
        await until(lambda: pool.stats().busy == 1, "the interaction")
        with pytest.raises(NestedAcquire):
            await pool.runQuery("rows 1")
        go_on.set()
        await job
        assert await pool.runQuery("rows 1") == [(1,)]
        assert not book.lent


# -- What is no circle -----------------------------------------------------------------


async def test_two_pools_in_the_same_order(scripts):
    """Who takes connections in the same order waits, and is never refused."""
    one, two = (ConnectionPool(script, cp_max=1) for script in scripts[:2])

    async def work():
        async with one.transaction():
            return await two.runQuery("rows 5")

    assert await results(*[work() for _ in range(8)]) == [[(5,)]] * 8
    for pool in (one, two):
        await pool.close()


async def test_one_of_them_works(scripts):
    """While one holder waits for nothing, its worker will come free: no circle."""
    one, two = (
        ConnectionPool(script, cp_max=maximum)
        for script, maximum in zip(scripts, (2, 1), strict=False)
    )
    busy = one.runQuery("hang here; rows 9")
    turns = Turns(2)
    works = asyncio.gather(
        turns.work(0, one, functools.partial(two.runQuery, "rows 2")),
        turns.work(1, two, functools.partial(one.runQuery, "rows 1")),
    )
    await until(lambda: one.stats().waiting == two.stats().waiting == 1, "both to ask")
    scripts[0].gate("here").open()
    assert await works == [[(2,)], [(1,)]]
    assert await busy == [(9,)]
    for pool in (one, two):
        await pool.close()


async def test_wish_that_nobody_waits_for(scripts):
    """A call that its caller does not wait for keeps nobody from going on."""
    one, two = (ConnectionPool(script, cp_max=1) for script in scripts[:2])
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def first():
        async with one.transaction():
            await held.wait()
            later = two.runQuery("rows 2")  # Awaited when the block has ended.
            asked.set()
            await go_on.wait()
        return await later

    held = asyncio.Event()

    async def second():
        async with two.transaction():
            held.set()
            await asked.wait()
            call = one.runQuery("rows 1")  # It waits for first(), who does not wait.
            go_on.set()
            return await call

    assert await results(first(), second()) == [[(2,)], [(1,)]]
    for pool in (one, two):
        await pool.close()


async def test_wish_with_an_errback(scripts):
    """A callback alone is nobody who waits."""
    one, two = (ConnectionPool(script, cp_max=1) for script in scripts[:2])
    asked, go_on, held = asyncio.Event(), asyncio.Event(), asyncio.Event()
    seen = []

    async def first():
        async with one.transaction():
            await held.wait()
            two.runQuery("rows 2").addCallbacks(seen.append, seen.append)
            asked.set()
            await go_on.wait()

    async def second():
        async with two.transaction():
            held.set()
            await asked.wait()
            call = one.runQuery("rows 1")
            go_on.set()
            return await call

    assert await results(first(), second()) == [None, [(1,)]]
    await until(lambda: two.stats().busy == 0, "the other call")
    for pool in (one, two):
        await pool.close()
    assert seen == [[(2,)]]


async def test_chained_wish_counts(scripts):
    """Who awaits a Deferred whose chain waits for the call waits for the call."""
    one, two = (ConnectionPool(script, cp_max=1) for script in scripts[:2])
    turns = Turns(2)

    def chained():
        begun = Deferred()
        begun.addCallback(lambda _: two.runQuery("rows 2"))
        begun.callback(None)
        return begun

    first, last = await results(
        turns.work(0, one, lambda: asyncio.shield(chained())),
        turns.work(1, two, functools.partial(one.runQuery, "rows 1")),
    )
    assert first == [(2,)]
    assert isinstance(last, NestedAcquire)
    for pool in (one, two):
        await pool.close()


async def test_child_task_is_not_its_parent(scripts):
    """A child task of the holder is not refused; who waits for it waits in vain."""
    async with ConnectionPool(scripts[0], cp_max=1, cp_timeout=0.05) as pool:

        async def child():
            return await pool.runQuery("rows 1")

        async with pool.transaction():
            assert isinstance(await outcome(asyncio.create_task(child())), PoolTimeout)
            orphan = asyncio.create_task(child())
            await asyncio.sleep(0)
        assert await orphan == [(1,)]


async def test_fire_and_forget_from_an_interaction(scripts):
    """What an interaction only posts is not what its thread waits for.

    It waits in blockingCallFromThread for something else, meanwhile; the call that was
    posted waits its turn.
    """
    async with ConnectionPool(scripts[0], cp_max=1) as pool:
        posted = asyncio.get_running_loop().create_future()
        elsewhere = Deferred()

        def post():
            posted.set_result(pool.runQuery("rows 4"))

        def work(txn):
            reactor.callFromThread(post)
            return blockingCallFromThread(reactor, lambda: elsewhere)

        job = pool.runInteraction(work)
        call = await posted
        await until(lambda: pool.stats().waiting == 1, "the call that was posted")
        elsewhere.callback("done")
        assert await job == "done"
        assert await call == [(4,)]


async def test_callback_with_an_inherited_context(scripts):
    """A callback that the waited-for function has left on the loop is not the caller.

    It inherits its context; but the worker does not wait for it.
    """
    async with ConnectionPool(scripts[0], cp_max=1) as pool:
        posted = asyncio.get_running_loop().create_future()
        elsewhere = Deferred()

        def post():
            posted.set_result(pool.runQuery("rows 4"))

        def ask():
            asyncio.get_running_loop().call_soon(post)
            return elsewhere

        job = pool.runInteraction(lambda txn: blockingCallFromThread(reactor, ask))
        call = await posted
        await until(lambda: pool.stats().waiting == 1, "the call that was posted")
        elsewhere.callback("done")
        assert await job == "done"
        assert await call == [(4,)]


async def test_call_after_the_answer(scripts):
    """A coroutine that outlives the blocking call it was begun in calls for itself."""
    async with ConnectionPool(scripts[0], cp_max=1) as pool:
        go_on, kept = Deferred(), []
        waits, elsewhere = threading.Event(), Deferred()

        async def later():
            await go_on
            return await pool.runQuery("rows 4")

        def ask():
            kept.append(Deferred.fromCoroutine(later()))
            return "asked"

        def work(txn):
            blockingCallFromThread(reactor, ask)
            return blockingCallFromThread(reactor, wait)

        def wait():
            waits.set()
            return elsewhere

        job = pool.runInteraction(work)
        await reached(waits)
        go_on.callback(None)
        assert pool.stats().waiting == 1
        elsewhere.callback("done")
        assert await job == "done"
        assert await kept[0] == [(4,)]


async def test_member_of_several(scripts):
    """A holder is refused however it goes about waiting for the call."""
    async with ConnectionPool(scripts[0], cp_max=1) as pool, pool.transaction():
        assert isinstance(
            await outcome(asyncio.gather(pool.runQuery("rows 1"))), NestedAcquire
        )
        error = await outcome(gatherResults([pool.runQuery("rows 1")]))
        assert "NestedAcquire" in repr(error)


async def test_lease_that_is_being_stopped(scripts):
    """A holder that is being stopped ends, whatever its task waits for: no circle."""
    one, two = (ConnectionPool(script, cp_max=1) for script in scripts[:2])
    scripts[0].will("rollback", "hang undo")
    undoing, held = scripts[0].gate("undo"), asyncio.Event()

    async def first():
        async with one.transaction(timeout=0.05):
            await held.wait()
            return await two.runQuery("rows 2")

    async def second():
        async with two.transaction():
            held.set()
            await until(undoing.reached.is_set, "the rollback")
            call = one.runQuery("rows 1")
            undoing.open()
            return await call

    stopped, answer = await results(first(), second())
    assert isinstance(stopped, QueryTimeout)
    assert answer == [(1,)]
    for pool in (one, two):
        await pool.close()


async def test_book_is_empty_when_nobody_holds(scripts):
    """After every kind of end nothing is left in the book."""
    async with ConnectionPool(scripts[0], cp_max=1, cp_backlog=0) as pool:
        async with pool.transaction():
            assert len(book.lent) == 1
            await outcome(asyncio.create_task(_take(pool)))  # PoolFull
        assert not book.lent
    await outcome(_take(pool))  # PoolClosed
    assert not book.lent
    assert not book._owners
    assert not book._borrowers
    assert repr(book) == "<Book, 0 lent>"


async def _take(pool):
    async with pool.transaction():
        pass
