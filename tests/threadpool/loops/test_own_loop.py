"""A loop that somebody wrote, with the adapter that the documentation shows."""

from __future__ import annotations

import asyncio
import inspect
import threading
from functools import partial
from pathlib import Path

import pytest

from enterprise import ConnectionPool
from tests.threadpool.loops import own_loop
from tests.threadpool.loops.helpers import ENDLESS, Told, make_table
from threadpool import home
from threadpool.defer import Deferred, ensureDeferred, inlineCallbacks
from threadpool.error import LoopClosed, WrongThread
from threadpool.reactor import Reactor

PAGE = Path(__file__).parents[3] / "docs/loops.md"


@pytest.fixture
def loop(no_asyncio):
    loop = own_loop.Turnstile()
    yield loop
    if not loop.events.closed:
        loop.end()


def test_documentation_shows_this_loop():
    """What the documentation shows is the loop that is tested here."""
    shown = PAGE.read_text()
    for shared in (own_loop.Turnstile, own_loop.Timer):
        assert inspect.getsource(shared) in shown


def test_callbacks(loop, url):
    """Old-style callbacks run on a loop of two methods."""
    pool = ConnectionPool(url)
    names = pool.runInteraction(make_table)
    names.addCallback(lambda _: pool.runQuery("select name from item where id = 2"))
    names.addCallback(lambda rows: rows[0][0].upper())
    assert loop.run(names) == "SAW"
    loop.run(pool.close())
    assert pool.stats().connections == 0


def test_generators(loop, url):
    """`inlineCallbacks` runs on it, and an error is raised at the `yield`."""
    pool = ConnectionPool(url)

    @inlineCallbacks
    def story():
        count = yield pool.runInteraction(make_table)
        try:
            yield pool.runQuery("select nonsense")
        except Exception as error:
            text = str(error)
        yield pool.close()
        return count, text

    assert loop.run(story()) == (3, "no such column: nonsense")


def test_coroutines(loop, url):
    """`ensureDeferred` runs coroutines on it; a cancel stops the statement."""

    async def story():
        events, started = home.here(), Deferred()
        told = Told(lambda: events.fire(started, None))
        async with ConnectionPool(url, cp_max=1, cp_openfun=told) as pool:
            endless = pool.runQuery(ENDLESS)
            await started
            endless.cancel()
            with pytest.raises(asyncio.CancelledError):
                await endless
            return await pool.runQuery("select 1")

    assert loop.run(ensureDeferred(story())) == [(1,)]


def test_timers(loop):
    """Its timers come in order, and those that were called off never."""
    seen, over = [], Deferred()
    later = home.here().later
    later(0.02, partial(over.callback, seen))
    later(0.01, partial(seen.append, "second"))
    later(0.005, partial(seen.append, "first"))
    later(0.001, partial(seen.append, "never")).cancel()
    assert loop.run(over) == ["first", "second"]


def test_reactor(loop):
    """A reactor is at home on it: it calls later, in threads, and from them."""
    reactor = Reactor()
    seen, over = [], Deferred()
    main = threading.get_ident()

    def work():
        reactor.callFromThread(lambda: seen.append(threading.get_ident() == main))
        return threading.get_ident() != main

    async def story():
        seen.append(await reactor.getThreadPool().deferToThread(work))
        reactor.callLater(0.001, over.callback, None)
        await over
        await reactor.getThreadPool().close()

    loop.run(ensureDeferred(story()))
    assert seen == [True, True]


def test_end(loop, url):
    """Its end says farewell, fails what is pending, and frees the thread."""
    said, failures = [], []
    loop.events.farewells.append(lambda: ensureDeferred(farewell()))

    async def farewell():
        pause = Deferred()
        loop.later(0.001, partial(pause.callback, "said"))
        said.append(await pause)

    pool = ConnectionPool(url, cp_openfun=Told(lambda: None))
    pool.runQuery(ENDLESS).addErrback(failures.append)
    loop.end()
    assert said == ["said"]
    assert [failure.check(LoopClosed) for failure in failures] == [LoopClosed]
    with pytest.raises(WrongThread):
        home.here()
    pool.close(0)
