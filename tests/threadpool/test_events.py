"""The pending-event queue, with a loop that is only a list."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from functools import partial
from types import SimpleNamespace

import pytest

from tests.threadpool.stepping import Ticker
from threadpool import events as events_module
from threadpool import ticker as ticker_module
from threadpool.defer import Deferred
from threadpool.error import LoopClosed
from threadpool.events import BURST, HOLD_SECONDS, PASS_SECONDS, PendingEvents
from threadpool.testing import Clock


class Loop:
    """A loop: what was posted to it, and how often."""

    def __init__(self):
        self.posted = []
        self.posts = 0
        self.closed = False

    def post(self, function):
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.posts += 1
        self.posted.append(function)

    def turn(self):
        """Run what was posted so far."""
        posted, self.posted = self.posted, []
        for function in posted:
            function()
        return len(posted)


class Note:
    """An event that writes its name down, and then does something more."""

    def __init__(self, diary, name, then=None):
        self.diary, self.name, self.then = diary, name, then

    def happen(self):
        self.diary.append(self.name)
        if self.then is not None:
            self.then()

    def lost(self):
        self.diary.append(f"lost {self.name}")

    def __repr__(self):
        return f"<Note {self.name}>"


class Scene:
    def __init__(self, patch):
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.ticker = Ticker(self.clock)
        patch.setattr(events_module, "ticker", self.ticker)
        patch.setattr(
            events_module, "time", SimpleNamespace(monotonic=self.clock.seconds)
        )
        self.loop = Loop()
        self.events = PendingEvents(self.loop.post)
        self.diary = []

    def note(self, name, then=None):
        return Note(self.diary, name, then)

    def put(self, *names):
        for name in names:
            self.events.put(self.note(name))

    def hold(self, *names, dry=False):
        for name in names:
            self.events.hold(self.note(name), self.clock.seconds(), more=not dry)
            self.events.release(self.clock.seconds(), dry=dry)


@pytest.fixture
def scene(monkeypatch):
    return Scene(monkeypatch)


# -- bursts ------------------------------------------------------------------------


def test_one_wake_for_a_burst(scene):
    """However many events are put before the loop comes by, it is woken once."""
    scene.put(*range(100))
    assert scene.loop.posts == 1
    assert scene.diary == []
    scene.loop.turn()
    assert scene.diary == list(range(100))
    assert scene.loop.posts == 1


def test_next_burst_wakes_again(scene):
    """After a pass that found the queue empty, the next event wakes the loop."""
    scene.put("a")
    scene.loop.turn()
    scene.put("b")
    assert scene.loop.posts == 2
    scene.loop.turn()
    assert scene.diary == ["a", "b"]


def test_events_happen_in_order(scene):
    """First in, first out, also when put by events."""
    scene.events.put(scene.note("a", lambda: scene.put("c")))
    scene.put("b")
    while scene.loop.turn():
        pass
    assert scene.diary == ["a", "b", "c"]


def test_events_of_events_wait_for_the_next_pass(scene):
    """An event that puts an event does not keep the loop from its other work."""

    def again():
        scene.events.put(scene.note("again", again))

    scene.events.put(scene.note("first", again))
    scene.loop.turn()
    assert scene.diary == ["first"]
    scene.loop.turn()
    assert scene.diary == ["first", "again"]


def test_pass_is_bounded_in_time(scene):
    """A pass stops after its time; the rest happens in the next, in order."""

    def slow():
        scene.clock.advance(PASS_SECONDS)

    for number in range(100):
        scene.events.put(scene.note(number, slow))
    scene.loop.turn()
    assert 0 < len(scene.diary) < 20
    while scene.loop.turn():
        pass
    assert scene.diary == list(range(100))


def test_failing_event_is_reported_and_the_others_go_on(scene, expect_errors):
    """What an event raises is logged; the pass goes on."""
    scene.events.put(scene.note("a", lambda: 1 / 0))
    scene.put("b")
    scene.loop.turn()
    assert scene.diary == ["a", "b"]
    (record,) = expect_errors
    assert record.exc_info[0] is ZeroDivisionError
    assert "the others go on" in record.getMessage()


def test_ctrl_c_in_an_event_does_not_lose_the_others(scene):
    """KeyboardInterrupt leaves the pass; the rest happens when the loop goes on."""

    def interrupt():
        raise KeyboardInterrupt

    scene.events.put(scene.note("a", interrupt))
    scene.put("b")
    with pytest.raises(KeyboardInterrupt):
        scene.loop.turn()
    scene.loop.turn()
    assert scene.diary == ["a", "b"]
    scene.put("c")
    scene.loop.turn()
    assert scene.diary == ["a", "b", "c"]


def test_event_put_while_the_pass_ends(scene):
    """An event that comes between the last look and the flag is not stranded.

    1. The pass has emptied the queue and is about to say that nothing is pending.
    2. A worker puts an event; the flag still says that a wake is on its way.
    3. The pass resets the flag, and must look once more.
    """

    class LateQueue(type(scene.events._queue)):
        """Says it is empty while the worker comes by."""

        def __bool__(self):
            if self.late:
                late, self.late = self.late, None
                late()
                return False
            return len(self) > 0

    queue = LateQueue()
    queue.late = None
    scene.events._queue = queue
    scene.put("a")
    queue.late = partial(scene.put, "late")
    while scene.loop.turn():
        pass
    assert scene.diary == ["a", "late"]


# -- holding back ------------------------------------------------------------------


def test_outcome_of_a_worker_that_runs_dry_wakes_at_once(scene):
    """Nothing will travel along: the loop is woken."""
    scene.hold("a", dry=True)
    assert scene.loop.posts == 1


def test_outcome_of_a_busy_worker_is_held_back(scene):
    """More will come: the loop is left alone, and the ticker is told."""
    scene.hold("a")
    assert scene.loop.posts == 0
    assert scene.events in scene.ticker.watched
    assert "1 pending" in repr(scene.events)


def test_full_burst_wakes(scene):
    """A full burst travels at once."""
    scene.hold(*range(BURST - 1))
    assert scene.loop.posts == 0
    scene.hold("last")
    assert scene.loop.posts == 1


def test_outcome_held_long_enough_travels_with_the_next(scene):
    """When the oldest has waited its time, the next outcome wakes the loop."""
    scene.hold("a")
    scene.clock.advance(HOLD_SECONDS / 2)
    scene.hold("b")
    assert scene.loop.posts == 0
    scene.clock.advance(HOLD_SECONDS)
    scene.hold("c")
    assert scene.loop.posts == 1


def test_ticker_brings_home_what_was_left_behind(scene):
    """Its worker went on to something long: the ticker wakes the loop."""
    scene.hold("a")
    scene.clock.advance(HOLD_SECONDS)
    scene.ticker.tick()
    assert scene.loop.posts == 1
    scene.loop.turn()
    assert scene.diary == ["a"]
    scene.ticker.tick()
    assert scene.events not in scene.ticker.watched


def test_ticker_leaves_a_fresh_outcome_alone(scene):
    """An outcome put just now may still travel with the next ones."""
    scene.hold("a")
    scene.ticker.tick()
    assert scene.loop.posts == 0
    assert scene.events in scene.ticker.watched


def test_held_back_outcome_travels_with_any_wake(scene):
    """Whatever wakes the loop brings home what was held back."""
    scene.hold("a")
    scene.put("b")
    assert scene.loop.posts == 1
    scene.loop.turn()
    assert scene.diary == ["a", "b"]
    scene.hold("c")
    assert scene.loop.posts == 1
    scene.clock.advance(HOLD_SECONDS)
    scene.ticker.tick()
    assert scene.loop.posts == 2


# -- the end -----------------------------------------------------------------------


def test_closing_lets_happen_what_is_there(scene):
    """What was put before the end still happens."""
    scene.put("a")
    scene.hold("b")
    scene.events.close()
    assert scene.diary == ["a", "b"]
    assert scene.events.closed
    assert repr(scene.events) == "<PendingEvents closed, 0 pending>"
    scene.loop.turn()
    assert scene.diary == ["a", "b"]


def test_event_after_the_end_is_refused(scene):
    """Whoever puts an event after the end is told, and has it still."""
    scene.events.close()
    with pytest.raises(LoopClosed, match="<Note a>"):
        scene.put("a")
    with pytest.raises(LoopClosed, match="<Note b>"):
        scene.hold("b")
    assert len(scene.events._queue) == 0
    assert scene.diary == []
    assert scene.loop.posts == 0


def test_event_put_in_the_moment_of_closing(scene):
    """An event that comes while the queue closes happens or is refused, never lost.

    The putter has appended its event; before it can look whether the queue is closed,
    the loop closes it, and so lets the event happen. The putter must not be refused.
    """

    class CloseAfterAppend(type(scene.events._queue)):
        def append(self, event):
            super().append(event)
            scene.loop.closed = True
            scene.events.close()

    scene.events._queue = CloseAfterAppend()
    scene.put("a")
    assert scene.diary == ["a"]


def test_closing_tells_the_closers_first(scene):
    """Closers are told, twice, while events still happen: theirs precede the end."""

    class Closer:
        def loopClosed(self, home):
            home.put(scene.note("closer's"))

    closer = Closer()
    scene.events.notify(closer)
    scene.events.close()
    scene.events.close()
    assert scene.diary == ["closer's"] * 2


def test_failing_event_at_the_end_is_reported(scene, expect_errors):
    """At the end, too, one failing event does not take the others along."""
    scene.events.put(scene.note("a", lambda: 1 / 0))
    scene.put("b")
    scene.events.close()
    assert scene.diary == ["a", "b"]
    assert len(expect_errors) == 1


def test_dead_loop_is_one_warning(scene, caplog):
    """A loop closed without a word: one WARNING with the count, then refusals."""
    scene.hold("a", "b")
    scene.loop.closed = True
    with caplog.at_level(logging.WARNING):
        scene.hold("c", dry=True)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "3 finished outcome(s)" in record.getMessage()
    with pytest.raises(LoopClosed):
        scene.hold("d")
    assert len(caplog.records) == 1


def test_two_workers_find_the_dead_loop_at_once(caplog):
    """The one WARNING is one, also when two workers find out in the same moment."""
    both = threading.Barrier(2)

    def post(_):
        both.wait(timeout=30)
        raise RuntimeError("Event loop is closed")

    # The lie: neither of the two sees that the other one is about to wake the loop.
    class Blind(PendingEvents):
        @property
        def _woken(self):
            return False

        @_woken.setter
        def _woken(self, value):
            pass

    pending = Blind(post)
    diary = []
    threads = [
        threading.Thread(target=pending.put, args=(Note(diary, name),)) for name in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.records) == 1


# -- Deferreds ---------------------------------------------------------------------


def test_fire_brings_a_result_home(scene):
    """`fire` gives a Deferred its result on the loop's thread."""
    deferred = Deferred()
    scene.events.fire(deferred, 7)
    assert not deferred.called
    scene.loop.turn()
    assert deferred.result() == 7


def test_fire_of_a_cancelled_deferred(scene):
    """What was cancelled meanwhile stays cancelled."""
    deferred = Deferred(lambda _: None)
    scene.events.fire(deferred, 7)
    deferred.cancel()
    scene.loop.turn()
    assert deferred.cancelled()


def test_fire_after_the_end(scene):
    """Nobody is there any more to be told: nothing happens."""
    scene.events.close()
    scene.events.fire(Deferred(), 7)


# -- with a real loop and real threads ---------------------------------------------


async def test_many_threads_put_many_events():
    """Nothing is lost and each thread's order is kept."""
    loop = asyncio.get_running_loop()
    pending = PendingEvents(loop.call_soon_threadsafe)
    diary, done = [], loop.create_future()
    workers, each = 4, 2_000
    start = threading.Barrier(workers)

    def put(worker):
        start.wait(timeout=30)
        for number in range(each):
            pending.put(Note(diary, (worker, number), seen))

    def seen():
        if len(diary) == workers * each:
            done.set_result(None)

    threads = [threading.Thread(target=put, args=(n,)) for n in range(workers)]
    for thread in threads:
        thread.start()
    await done
    for thread in threads:
        thread.join()
    for worker in range(workers):
        assert [n for w, n in diary if w == worker] == list(range(each))


# -- the ticker --------------------------------------------------------------------


class Patient:
    """Something to watch: waits for so many looks."""

    def __init__(self, looks=1, error=None):
        self.looks, self.error = looks, error
        self.helped = threading.Event()

    def tick(self, now):
        if self.error is not None:
            self.helped.set()
            raise self.error
        self.looks -= 1
        if self.looks <= 0:
            self.helped.set()
        return self.looks > 0


def test_ticker_looks_after_what_it_watches():
    """It comes by until nothing waits any more, and again when asked again."""
    patient = Patient(looks=3)
    ticker_module.watch(patient)
    assert patient.helped.wait(timeout=30)
    patient.looks = 2
    patient.helped.clear()
    ticker_module.watch(patient)
    assert patient.helped.wait(timeout=30)


def test_ticker_survives_whoever_fails(expect_errors):
    """One that fails is reported, and the others are still looked after."""
    broken, patient = Patient(error=KeyError("broken")), Patient(looks=5)
    ticker_module.watch(broken)
    ticker_module.watch(patient)
    assert patient.helped.wait(timeout=30)
    assert broken.helped.wait(timeout=30)
    forget(broken)
    assert expect_errors[0].exc_info[0] is KeyError


def forget(who):
    """Wait until the ticker has forgotten *who*: it looks twenty times in vain."""
    pause = threading.Event()
    while who in ticker_module.watched:
        pause.wait(0.001)


def test_ticker_forgets_what_needs_nothing():
    """What waits no more is forgotten, so that it can be freed."""
    patient = Patient(looks=0)
    ticker_module.watch(patient)
    forget(patient)


def test_ticker_that_cannot_start_is_no_error_of_the_asker(monkeypatch, caplog):
    """No thread can be started: a warning, and the next who asks tries again."""

    class Refusing(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    watched = {}
    ticker = ticker_module.Ticker(watched)
    monkeypatch.setattr(ticker_module.threading, "Thread", Refusing)
    patient = Patient()
    ticker.watch(patient)
    assert "could not be started" in caplog.text
    assert patient not in watched
    monkeypatch.undo()
    started = []
    monkeypatch.setattr(threading.Thread, "start", lambda self: started.append(self))
    ticker.watch(patient)
    assert len(started) == 1
    gc.collect()
