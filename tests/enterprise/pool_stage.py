"""A pool of connections to be stepped by hand, in a time that stands still.

The pool, its team, its workers and its deadlines are the real ones. Its driver is
scripted, and each worker's thread moves only when it is told to, from one of the
driver's verbs to the next: of all threads one is ever awake.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from enterprise import ConnectionPool
from enterprise import adbapi as adbapi_module
from enterprise import office as office_module
from enterprise.drivers.base import Driver
from enterprise.worker import ConnectionWorker
from tests.scripted import OperationalError, Scripted
from tests.threadpool.stepping import Ticker
from threadpool import home as home_module
from threadpool import ticker as ticker_module
from threadpool.crew import Crew
from threadpool.events import PendingEvents
from threadpool.testing import Clock

# What can become of a connection, by what its worker is about to do.
FATES = {
    "connect": ["fail away"],
    "execute": ["lose", "fail no luck"],
    "fetch": ["lose"],
    "commit": ["lose", "keep; lose", "fail refused"],
    "rollback": ["lose"],
}

_current = threading.local()  # Whose thread this is.


class Bell:
    """What a stepped worker waits at while it is parked."""

    def __init__(self, hand):
        self._hand = hand

    def acquire(self, timeout):
        hand = self._hand
        hand.patience = math.inf if timeout == -1 else timeout
        hand.pause("parked")
        if hand.timed_out:
            hand.timed_out = False
            return False
        hand.wakes -= 1
        return True

    def release(self):
        self._hand.wakes += 1


class Hand(ConnectionWorker):
    """A connection's worker, moved by hand.

    Attributes:
        doing: "hired", "parked", "gone", or a verb of the driver's that it has come to.
        raw_here: the connection of that verb.
        fate: what becomes of that connection in it; "" for nothing.
    """

    def __init__(self, office, lane):
        super().__init__(office, lane)
        self.doing, self.raw_here, self.fate = "hired", None, ""
        self.patience, self.wakes, self.timed_out = math.inf, 0, False
        self._bell = Bell(self)
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = None

    def engage(self, crew):
        self._thread = threading.Thread(target=self._be, args=(crew,), daemon=True)

    def _be(self, crew):
        _current.hand = self
        crew._live(self)
        self.doing = "gone"
        self._stopped.release()

    def pause(self, doing, raw=None):
        """Wait for the next step; this worker's thread."""
        self.doing, self.raw_here = doing, raw
        self._stopped.release()
        self._go.acquire()

    def step(self):
        """End what it is doing, and go on to the next thing; the test's thread."""
        if self.doing == "parked" and not self.wakes:
            self.timed_out = True
        if self.doing == "hired":
            self._thread.start()
        else:
            self._go.release()
        assert self._stopped.acquire(timeout=30), f"{self.doing} never ended"

    def movable(self):
        if self.doing == "parked":
            return self.wakes > 0 or self.patience <= 0
        return self.doing != "gone"


class HandCrew(Crew):
    """A crew of those."""

    def _hire(self):
        hand = self._make_worker()
        hand.engage(self)
        self.__dict__.setdefault("hands", []).append(hand)


class Database(Scripted):
    """A scripted driver that stops at each verb, and knows what was committed."""

    def __init__(self):
        super().__init__()
        self.stored = Counter()
        self.trouble = []

    def act(self, connection, verb, what):
        hand = _current.hand
        if connection.__dict__.get("known_dead") and verb in ("execute", "commit"):
            self.trouble.append(f"{verb} on a connection known to be dead: {what}")
        hand.pause(verb, connection)
        if hand.fate:
            self._lines[verb].append(hand.fate)
            hand.fate = ""
        if connection.__dict__.pop("stopped", False):
            raise OperationalError("stopped")
        try:
            rows = super().act(connection, verb, what)
        except BaseException:
            if connection.lost or connection.closed:
                connection.known_dead = True
            raise
        pending = connection.__dict__.setdefault("pending", [])
        if verb == "execute":
            pending += [int(what[0].split()[1])]
        elif verb == "commit":
            self._keep(connection)
        elif verb in ("rollback", "close"):
            pending.clear()
        return rows

    def _keep(self, connection):
        self.stored.update(connection.pending)
        connection.pending.clear()

    def _do(self, connection, word="", *rest):
        if word == "keep":
            self._keep(connection)
        return super()._do(connection, word, *rest)


class StoppableDriver(Driver):
    """A driver that can stop a statement, and cut a connection off."""

    cancels = True

    def cancel(self, raw):
        if any(
            hand.raw_here is raw and hand.doing == "execute" for hand in self.hands()
        ):
            raw.stopped = True

    def sever(self, raw):
        raw.lost = True

    def lost(self, raw, error):
        return raw.lost or raw.closed


class AtOnce:
    """Stands in for the canceller's threads."""

    def start(self):
        pass

    def callInThread(self, function, *args):  # As a ThreadPool's.
        function(*args)

    def dismiss(self):
        pass


class Stage:
    """A pool to be stepped, in a time that stands still."""

    def __init__(self, **options):
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.ticker = Ticker(self.clock)
        self.turns = []  # What the loop is to call.
        self.script = Database()
        driver = StoppableDriver("scripted", self.script.connect, self.script)
        driver.hands = lambda: self.hands
        self._stop_time()
        self.patch.setattr(office_module, "Crew", HandCrew)
        self.patch.setattr(office_module, "ConnectionWorker", Hand)
        self.patch.setattr(adbapi_module, "driverFor", lambda *_, **__: driver)
        self.home = PendingEvents(self.turns.append, later=self._later)
        self.pool = ConnectionPool(self.script, **options)
        self.office = self.pool._office
        self.office._canceller = AtOnce()
        (self.crew,) = self.office.crews.values()
        self.crew.hands = []

    def _stop_time(self):
        stopped = SimpleNamespace(monotonic=self.clock.seconds)
        real = {
            "time": (time, stopped),
            "ticker": (ticker_module, self.ticker),
            "here": (home_module.here, lambda: self.home),
            "hereOrNone": (home_module.hereOrNone, lambda: self.home),
        }
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in ("enterprise", "threadpool"):
                for word, (found, instead) in real.items():
                    if module is not ticker_module and (
                        module.__dict__.get(word) is found
                    ):
                        self.patch.setattr(module, word, instead)

    def _later(self, seconds, function):
        alive = [function]
        self.ticker.alarm(
            self.clock.seconds() + seconds,
            lambda: alive and self.turns.append(alive[0]),
        )
        return SimpleNamespace(cancel=alive.clear)

    @property
    def hands(self):
        return [hand for hand in self.crew.hands if hand.doing != "gone"]

    def movable(self):
        return [hand for hand in self.hands if hand.movable()]

    def turn(self):
        """Let the loop go round once."""
        turns, self.turns[:] = self.turns[:], []
        for function in turns:
            function()

    def pass_time(self, seconds):
        self.clock.advance(seconds)
        self.ticker.tick()

    def settle(self):
        """Step everybody until nobody can move, and let the loop hear of it."""
        while self.movable() or self.turns:
            for hand in self.movable():
                hand.step()
            self.turn()
