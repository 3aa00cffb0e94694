"""Statements stopped in the middle of a pipeline, and pipelines that are cut off."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import psycopg
import pytest

from enterprise.errors import ConnectionLost, QueryTimeout
from tests.enterprise.helpers import outcome, until
from tests.enterprise.pipelines import Gate, learn, pool_of_one

# Takes no time at all, or as long as somebody holds a lock.
NOTE = "insert into note select %s::int where shared(%s::int)"
LOOK = "select %s::int where shared(%s::int)"
COUNT = 6

SETUP = """
create table note (n int);
create function shared(key int) returns bool language plpgsql as $$begin
    perform pg_advisory_xact_lock_shared(key); return true; end$$;
"""


class Held:
    """Locks in the server; who asks for a held one waits."""

    def __init__(self, database_url, keys):
        self._keys = keys
        self.watcher = psycopg.connect(
            database_url.replace("+psycopg", ""), autocommit=True
        )

    def __enter__(self):
        for key in self._keys:
            self.watcher.execute("select pg_advisory_lock(%s)", (key,))
        return self

    def __exit__(self, *_):
        self.watcher.close()

    def open(self, key):
        self.watcher.execute("select pg_advisory_unlock(%s)", (key,))

    def waiting(self):
        """The keys that somebody waits for."""
        rows = self.watcher.execute(
            "select objid from pg_locks where locktype = 'advisory' and not granted"
        )
        return [key for (key,) in rows.fetchall()]

    async def waits_for(self, key):
        await until(lambda: self.waiting() == [key], f"someone to wait for {key}")

    def notes(self):
        rows = self.watcher.execute("select n from note order by n").fetchall()
        return [n for (n,) in rows]


@contextlib.asynccontextmanager
async def stage(url, held, statement=NOTE, **options):
    """A pool of one, whose next pipeline has six notes; those held get stuck."""
    async with pool_of_one(url, **options) as pool:
        await pool.runScript(SETUP)
        await learn(pool, (statement, (99, 99)))
        await pool.runOperation("truncate note")
        with Held(url, held) as locks:
            yield pool, locks


async def together(pool, statement=NOTE, **options):
    async with Gate(pool):
        return [pool.runQuery(statement, (n, n), **options) for n in range(COUNT)]


@pytest.mark.parametrize("place", range(COUNT))
async def test_a_cancel_meets_its_own_statement(pg_url, sizes, place):
    """Who is cancelled while he runs is cancelled; all others get what they asked for,
    on the same connection.
    """
    async with stage(pg_url, [place]) as (pool, locks):
        calls = await together(pool)
        await locks.waits_for(place)
        calls[place].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[place]
        for n, call in enumerate(calls):
            assert n == place or await call == []
        assert locks.notes() == [n for n in range(COUNT) if n != place]
        assert pool.stats().opened == 1
        assert pool.stats().cancels_confirmed == 1
        assert COUNT in sizes


@pytest.mark.parametrize("place", range(1, COUNT))
async def test_a_cancel_behind_others(pg_url, sizes, place):
    """Who is cancelled behind a statement that takes long hears at once what became of
    him; the slow one is interrupted for it and run again, and nothing is done twice.
    """
    async with stage(pg_url, [0]) as (pool, locks):
        calls = await together(pool)
        await locks.waits_for(0)
        calls[place].cancel()
        # It may be done before its own cancel arrives, and says so then.
        found = await outcome(calls[place])
        stopped = isinstance(found, asyncio.CancelledError)
        assert stopped or found == []
        await locks.waits_for(0)  # Again.
        done = [n for n in range(1, COUNT) if n != place or not stopped]
        for n in done:
            assert await calls[n] == []
        assert not calls[0].done()
        locks.open(0)
        assert await calls[0] == []
        assert locks.notes() == [0, *done]
        assert pool.stats().opened == 1


async def test_all_are_cancelled(pg_url, sizes):
    """A whole pipeline may be cancelled; nothing of it is done."""
    async with stage(pg_url, range(COUNT)) as (pool, locks):
        calls = await together(pool)
        await locks.waits_for(0)
        for call in reversed(calls):
            call.cancel()
        for call in calls:
            with pytest.raises(asyncio.CancelledError):
                await call
        assert locks.notes() == []
        assert pool.stats().opened == 1
        assert pool.stats().busy == 0
    stats = pool.stats()
    assert stats.submitted == stats.finished + stats.removed


@pytest.mark.parametrize("place", range(COUNT))
@pytest.mark.parametrize("push", [True, False])
async def test_a_time_limit_is_its_own_only(pg_url, sizes, place, push):
    """Of statements with and without a limit only that one ends with QueryTimeout."""
    async with stage(pg_url, [place], cp_push_timeout=push) as (pool, locks):
        await pool.runQuery("select 1", timeout=9)
        async with Gate(pool):
            calls = [
                pool.runQuery(NOTE, (n, n), timeout=0.4 if n == place else None)
                for n in range(COUNT)
            ]
        for n, call in enumerate(calls):
            if n == place:
                with pytest.raises(QueryTimeout):
                    await call
            else:
                assert await call == []
        assert locks.notes() == [n for n in range(COUNT) if n != place]
        assert await pool.runQuery("show statement_timeout") == [("0",)]
        assert COUNT in sizes


async def test_limits_travel_along(pg_url, sizes):
    """In a pipeline each statement has its own limit in the server, and costs no round
    trip for it.
    """
    sql = "select current_setting('statement_timeout')"
    limits = [9, None, 9, 9, 1, None, None, 60]
    shown = {9: "16384ms", None: "0", 1: "1024ms", 60: "65536ms"}
    async with pool_of_one(pg_url) as pool:
        await learn(pool, (sql,))
        for _ in range(3):
            async with Gate(pool):
                calls = [pool.runQuery(sql, timeout=limit) for limit in limits]
            assert [(await call)[0][0] for call in calls] == [
                shown[limit] for limit in limits
            ]
        assert max(sizes) == len(limits)


@pytest.mark.parametrize("place", range(COUNT))
@pytest.mark.parametrize("statement", [NOTE, LOOK])
async def test_the_server_ends_the_session(pg_url, sizes, place, statement):
    """One statement's session is ended: it alone fails, those before it are done, those
    behind it have not begun and are done on another connection.
    """
    async with stage(pg_url, [place], statement) as (pool, locks):
        calls = await together(pool, statement)
        await locks.waits_for(place)
        locks.watcher.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where pid <> pg_backend_pid() and datname = current_database()"
        )
        error = await outcome(calls[place])
        assert isinstance(error, ConnectionLost)
        assert isinstance(error.__cause__, psycopg.errors.AdminShutdown)
        assert error.outcome == ("unknown" if statement is NOTE else "rolled_back")
        for n, call in enumerate(calls):
            expected = [] if statement is NOTE else [(n,)]
            assert n == place or await call == expected
        if statement is NOTE:
            assert locks.notes() == [n for n in range(COUNT) if n != place]
        assert pool.stats().opened == (1 if place == COUNT - 1 else 2)
        assert pool.stats().unfinished == 0


@pytest.mark.parametrize("place", range(COUNT))
@pytest.mark.parametrize("statement", [NOTE, LOOK])
async def test_the_network_is_cut(
    pg_proxy, pg_proxy_url, pg_url, sizes, place, statement
):
    """The connection breaks in the middle: who was answered keeps his answer, of the
    others those that only read changed nothing, and of the rest nothing is known.
    """
    async with stage(pg_proxy_url, [], statement) as (pool, _):
        with Held(pg_url, [place]) as locks:
            calls = await together(pool, statement)
            await locks.waits_for(place)
            await asyncio.to_thread(pg_proxy.reset)
            for n, call in enumerate(calls):
                found = await outcome(call)
                if n < place:
                    assert found == ([] if statement is NOTE else [(n,)])
                else:
                    assert isinstance(found, ConnectionLost)
                    unknown = statement is NOTE
                    assert found.outcome == ("unknown" if unknown else "rolled_back")
        assert await pool.runQuery("select 1") == [(1,)]
        assert pool.stats().unfinished == 0


async def test_nobody_answers(pg_proxy, pg_proxy_url, sizes):
    """The network forgets everything: a time limit of any of them ends them all."""
    options = {"cp_grace": 0.3, "cp_connect_timeout": 1}
    async with stage(pg_proxy_url, [], **options) as (pool, _):
        await pool.runQuery("select 1", timeout=9)
        async with Gate(pool):
            calls = [
                pool.runQuery(NOTE, (n, n), timeout=1 if n == 3 else None)
                for n in range(COUNT)
            ]
            await asyncio.to_thread(pg_proxy.natloss)
        found = [await outcome(call) for call in calls]
        await asyncio.to_thread(pg_proxy.heal)
        assert [type(error) for error in found] == [ConnectionLost] * COUNT
        assert {error.outcome for error in found} == {"unknown"}
        assert await pool.runQuery("select 1") == [(1,)]


async def test_an_answer_waits_for_no_neighbour(pg_url, sizes):
    """Who is answered goes home, however long the next one takes."""
    async with stage(pg_url, [3]) as (pool, locks):
        calls = await together(pool)
        for n in range(3):
            assert await calls[n] == []
        await locks.waits_for(3)
        locks.open(3)
        for call in calls:
            await call


async def test_slow_once(pg_url, monkeypatch):
    """A text that was slow once has nobody behind it for a while."""
    from enterprise.drivers import _round

    seen = []
    usual = _round.Round._send

    def send(self, jobs):
        seen.append([job.args[1] for job in jobs])
        usual(self, jobs)

    monkeypatch.setattr(_round.Round, "_send", send)
    sleep = "select pg_sleep(%s)"
    async with pool_of_one(pg_url) as pool:
        await learn(pool, (sleep, (0,)))
        await pool.runQuery(sleep, (0.5,))
        seen.clear()
        async with Gate(pool):
            calls = [pool.runQuery(sleep, (0,)) for _ in range(9)]
        await asyncio.gather(*calls)
        assert seen == [[(0,)]] * 9


async def test_closing_stops_a_pipeline(pg_url, sizes):
    """Closing the pool ends all that are in a pipeline, each with an answer."""
    async with stage(pg_url, [2]) as (pool, locks):
        calls = await together(pool)
        await locks.waits_for(2)
        await pool.close(timeout=0.1)
        found = [await outcome(call) for call in calls]
        assert found[:2] == [[], []]
        assert type(found[2]).__name__ == "PoolClosed"
        done = [n for n, one in enumerate(found) if one == []]
        assert locks.notes() == done


async def test_the_end_of_a_loop(pg_url, sizes):
    """Who waits in a loop that ends is told, in a pipeline, too."""
    from enterprise import ConnectionPool

    pool = ConnectionPool(pg_url, cp_max=1)
    told = []

    async def leave():
        await pool.runScript(SETUP)
        await learn(pool, (NOTE, (9, 9)))
        calls = await together(pool)
        await locks.waits_for(2)
        for call in calls:
            call.addBoth(told.append)

    with Held(pg_url, [2]) as locks:
        thread = threading.Thread(target=lambda: asyncio.run(leave()))
        thread.start()
        await until(lambda: not thread.is_alive(), "the loop to end")
    await pool.close()
    assert len(told) == COUNT
    # Those before the one that waits may have been answered in time, or not.
    late = [one for one in told if one != []]
    assert len(late) >= COUNT - 2
    assert {type(one.value).__name__ for one in late} == {"LoopClosed"}
