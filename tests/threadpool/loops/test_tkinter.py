"""Tk under the bridge, with real windows on a virtual screen."""

from __future__ import annotations

import asyncio
import gc
import re
import sqlite3
import threading
import time
import weakref
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from enterprise import ConnectionPool
from tests import leaks
from tests.threadpool.loops.helpers import COUNT, ENDLESS, Told, make_table
from tests.threadpool.loops.screen import HOW_TO, NoScreenError, Screen
from threadpool import home
from threadpool.defer import Deferred, ensureDeferred, inlineCallbacks
from threadpool.error import LoopClosed, WrongThread
from threadpool.pool import ThreadPool

try:
    import tkinter as tk

    from threadpool.loops import tkinter as adapter
except ImportError as error:
    tk = error

PATIENCE_MS = 30_000
PAGE = Path(__file__).parents[3] / "docs/loops.md"


@pytest.fixture(scope="session")
def screen():
    if isinstance(tk, ImportError):
        pytest.fail(HOW_TO.format(missing=f"tkinter ({tk})"), pytrace=False)
    try:
        with leaks.permanent():
            screen = Screen()
            # Tcl keeps the descriptors of its notifier for the life of the process.
            first = tk.Tk(screen.name)
            first.after(1, first.destroy)
            first.mainloop()
            del first
            gc.collect()
    except NoScreenError as error:
        pytest.fail(str(error), pytrace=False)
    yield screen.name
    screen.close()


class Window:
    """A window with the adapter installed."""

    def __init__(self, screen):
        self.root = tk.Tk(screen, useTk=True)
        self.reported = []
        self.root.report_callback_exception = self.report
        self.too_late = False

    def report(self, _kind, error, _tb):
        self.reported.append(error)

    def turn(self):
        """Run its loop until it quits or is destroyed."""
        watchdog = self.root.after(PATIENCE_MS, self.give_up)
        self.root.mainloop()
        try:
            self.root.after_cancel(watchdog)
        except tk.TclError:  # It was destroyed.
            pass
        assert not self.too_late, "the window waited in vain"
        assert self.reported == []

    def give_up(self):
        self.too_late = True
        self.root.destroy()

    def run(self, function):
        """Run a coroutine function in the window; return what it returns."""
        results = []
        running = ensureDeferred(function())
        running.addBoth(results.append).addBoth(lambda _: self.root.quit())
        self.turn()
        assert results, "the coroutine has not come to its end"
        if not isinstance(results[0], BaseException) and hasattr(results[0], "trap"):
            results[0].raiseException()
        return results[0]

    def close(self):
        try:
            self.root.destroy()
        except tk.TclError:  # The test has done it.
            pass
        # Found by another thread's garbage collection, an interpreter would abort.
        vars(self.root).pop("report_callback_exception", None)
        del self.root
        gc.collect()


@pytest.fixture
def bare(screen):
    window = Window(screen)
    yield window
    if hasattr(window, "root"):
        window.close()


@pytest.fixture
def window(bare):
    adapter.install(bare.root)
    return bare


def signal_of(window):
    """Return a Deferred and a `cp_openfun` whose `started()` in SQL fires it."""
    events, fired = home.here(), Deferred()
    return fired, Told(lambda: events.fire(fired, None))


# -- a pool ------------------------------------------------------------------------


def test_pool_needs_no_asyncio(window, url, no_asyncio):
    """Queries, an interaction, a cancel and the end of a pool need no asyncio loop."""

    async def story():
        started, told = signal_of(window)
        async with ConnectionPool(url, cp_max=2, cp_openfun=told) as pool:
            assert await pool.runInteraction(make_table) == 3
            endless = pool.runQuery(ENDLESS)
            await started
            endless.cancel()
            with pytest.raises(asyncio.CancelledError):
                await endless
            rows = await pool.runQuery("select name from item where id = 2")
        assert pool.stats().connections == 0
        return rows

    assert window.run(story) == [("saw",)]


def test_callbacks_and_generators(window, url):
    """Old-style callbacks and `inlineCallbacks` work in a window."""
    pool = ConnectionPool(url, cp_max=1)
    seen = []

    @inlineCallbacks
    def story():
        count = yield pool.runInteraction(make_table)
        seen.append(count)
        yield pool.close()

    story().addErrback(seen.append).addCallback(lambda _: window.root.quit())
    window.turn()
    assert seen == [3]


def test_window_stays_responsive(window, url):
    """While 200 queries run, the window never stops for half as long as without us."""
    # Every tenth one is slow; nothing here is faster than a few milliseconds.
    sizes = [200_000 if number % 10 == 0 else 2_000 for number in range(200)]

    def directly():
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            for size in sizes:
                connection.execute(COUNT, (size,)).fetchall()
        window.root.after(50, window.root.quit)

    def longest_gap():
        beats = []

        def beat():
            beats.append(time.monotonic())
            window.root.after(10, beat)

        window.root.after(0, beat)
        window.turn()
        return max(b - a for a, b in zip(beats, beats[1:], strict=False)), len(beats)

    window.root.after(50, directly)
    blocked, _ = longest_gap()

    async def bridged():
        async with ConnectionPool(url, cp_max=3) as pool:
            queries = [pool.runQuery(COUNT, (size,)) for size in sizes]
            return [await query for query in queries]

    answers = []
    ensureDeferred(bridged()).addBoth(answers.append).addBoth(
        lambda _: window.root.after(50, window.root.quit)
    )
    gap, beats = longest_gap()
    assert answers == [[[(size,)] for size in sizes]]
    assert gap < blocked / 2
    assert beats > 10


def test_drawing_goes_on(window):
    """A burst that never ends leaves Tk the time to draw, which it does when idle."""
    events, drawn = home.here(), []

    class Again:
        def happen(self):
            if not drawn:
                events.put(self)

    events.put(Again())
    window.root.after_idle(lambda: (drawn.append(True), window.root.quit()))
    for _ in range(10):  # The first rounds are Tk's own.
        window.root.dooneevent()
    window.turn() if not drawn else None
    assert drawn


# -- posting -----------------------------------------------------------------------


def test_posts_from_threads_arrive(window):
    """What threads put arrives in Tk's thread, all of it, and in order."""
    events, seen = home.here(), []

    class Number:
        def __init__(self, number):
            self.number = number

        def happen(self):
            seen.append((self.number, threading.get_ident()))
            if self.number == 999:
                window.root.quit()

    def put():
        for number in range(1000):
            events.put(Number(number))

    thread = threading.Thread(target=put)
    thread.start()
    window.turn()
    thread.join()
    assert seen == [(number, threading.get_ident()) for number in range(1000)]


def test_many_posts_wake_once(bare):
    """Posting far more than a socket holds neither blocks nor loses anything."""
    loop = adapter._Tk(bare.root)
    events = adapter.loops.install(loop)
    loop.open(events)
    assert not loop.timers  # Nothing polls where Tk can be woken.
    seen = []

    def post():
        for number in range(100_000):
            loop.post(partial(seen.append, number))
        loop.post(bare.root.quit)

    thread = threading.Thread(target=post)
    thread.start()
    thread.join()  # Tk does not run, so nobody reads meanwhile.
    bare.turn()
    assert seen == list(range(100_000))


class NoHandlers:
    """Tk's interpreter as it is on Windows: it watches no descriptors."""

    def __init__(self, interpreter):
        self.interpreter = interpreter

    def __getattr__(self, name):
        if name == "createfilehandler":
            raise AttributeError(name)
        return getattr(self.interpreter, name)


def test_polling_where_tk_watches_nothing(bare, url):
    """Where Tk cannot watch a socket it is asked every 10 ms, with the same answers."""
    bare.root.tk = NoHandlers(bare.root.tk)
    adapter.install(bare.root)

    async def story():
        async with ConnectionPool(url, cp_max=1) as pool:
            return await pool.runInteraction(make_table)

    assert bare.run(story) == 3


def test_errors_are_reported(window):
    """What a posted or a delayed function raises goes where Tk's callbacks send it."""
    loop = home.here()
    thread = threading.Thread(target=loop._post, args=(lambda: 1 / 0,))
    thread.start()
    thread.join()
    loop.later(0.01, lambda: {}["missing"])
    loop.later(0.02, window.root.quit)
    window.root.mainloop()
    assert [type(error) for error in window.reported] == [ZeroDivisionError, KeyError]
    window.reported.clear()


def test_window_closed_by_what_was_posted(bare):
    """A posted function may close the window; those after it are still run."""
    loop = adapter._Tk(bare.root)
    loop.open(adapter.loops.install(loop))
    seen = []

    def post():
        for function in (bare.root.destroy, partial(seen.append, 1)):
            loop.post(function)

    thread = threading.Thread(target=post)
    thread.start()
    thread.join()
    bare.turn()
    assert seen == [1]
    with pytest.raises(RuntimeError, match="Keep it open"):
        loop.later(0, print)


# -- timers ------------------------------------------------------------------------


def test_timers(window):
    """`later` calls in the order of time; calling off is harmless at any time."""
    later, seen = home.here().later, []
    second = later(0.02, partial(seen.append, "second"))
    later(0.01, partial(seen.append, "first"))
    later(0.005, partial(seen.append, "never")).cancel()
    later(0.03, window.root.quit)
    open_end = later(1000, print)
    window.turn()
    assert seen == ["first", "second"]
    second.cancel()
    second.cancel()
    window.root.destroy()
    open_end.cancel()


# -- the end -----------------------------------------------------------------------


def test_window_closed_while_queries_run(window, url):
    """Closing the window under running queries ends all, and leaves nothing behind."""
    started, told = signal_of(window)
    pool = ConnectionPool(url, cp_max=2, cp_openfun=told)
    failures = []
    for _ in range(5):
        pool.runQuery(ENDLESS).addErrback(failures.append)
    started.addCallback(lambda _: window.root.destroy())
    window.turn()
    assert [failure.check(LoopClosed) for failure in failures] == [LoopClosed] * 5
    pool.close(0)
    assert pool.stats().connections == 0


def test_after_the_end(window):
    """After the window's end posting is refused, and the thread is free."""
    events = home.here()
    window.root.after(1, window.root.destroy)
    window.turn()
    assert events.closed
    with pytest.raises(RuntimeError, match="Keep it open"):
        events._post(print)
    with pytest.raises(WrongThread):
        home.here()


def test_what_was_posted_is_run_at_the_end(bare):
    """What was accepted before the window's end is run, though Tk turns no more."""
    loop = adapter._Tk(bare.root)
    loop.open(adapter.loops.install(loop))
    seen = []
    thread = threading.Thread(target=loop.post, args=(partial(seen.append, 1),))
    thread.start()
    thread.join()
    loop.post(partial(seen.append, 2))
    bare.root.destroy()
    assert seen == [1, 2]
    assert repr(loop) == "<Tk's loop ended, 0 posted>"


def test_farewell_at_the_end(window):
    """A farewell is said when the window is destroyed, before its queue closes."""
    events, said = home.here(), []

    def farewell():
        said.append(events.closed)
        return Deferred()  # Nobody can wait for it.

    events.farewells.append(farewell)
    window.root.destroy()
    assert said == [False]


def test_end_of_a_child_is_no_end(window):
    """A widget that is destroyed does not end the loop of its window."""
    child = tk.Frame(window.root)
    child.pack()
    child.destroy()
    assert not home.here().closed


def test_end_lets_go_of_the_window(window):
    """After the end nothing of ours keeps the window, whose last user may be a thread.

    Tcl aborts the process when its interpreter is freed in another thread.
    """
    events = home.here()
    timer = events.later(1000, print)
    gone = weakref.ref(window.root)
    window.close()
    assert gone() is None
    assert events.closed
    timer.cancel()


def test_quitting_is_no_end(window):
    """After `root.quit()` the loop may be entered again, and jobs go on."""
    pool = ThreadPool(0, 1, "test")
    pool.start()

    async def story():
        return await pool.deferToThread(pow, 2, 3)

    assert window.run(story) == 8
    assert window.run(story) == 8
    pool.stop()


def test_one_loop_in_a_thread(window):
    """A second install in one thread says what is wrong."""
    with pytest.raises(RuntimeError, match="close that queue first"):
        adapter.install(window.root)


def test_destroyed_window_is_refused(bare):
    """A window that was destroyed is refused, and the thread stays free."""
    bare.root.destroy()
    with pytest.raises(tk.TclError):
        adapter.install(bare.root)
    assert home.hereOrNone() is None


def test_documented_example(screen, tmp_path, monkeypatch):
    """The documentation's window shows what its query found."""
    (source,) = re.findall(
        r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.executescript("pragma journal_mode = wal; begin;")
        make_table(connection.cursor())
        connection.commit()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISPLAY", screen)
    running, shown, names = tk.Tk.mainloop, [], {}

    def mainloop(root):
        def look():
            shown[:] = names["names"].get(0, "end")
            root.after(5, root.destroy if shown else look)

        look()
        running(root)

    monkeypatch.setattr(tk.Tk, "mainloop", mainloop)
    exec(source, names)
    assert shown == ["hammer", "saw", "nail"]
    assert names["pool"].stats().connections == 0
    names.clear()
    gc.collect()
