"""Random programs over a few Deferreds, run on the real one and on a plain model.

The model says what the rules are in the simplest code that can say it: it recurses,
asks everything anew, and knows nothing of speed. Both sides keep a diary; the two
diaries must be the same after every operation.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import re
from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, example, given, note, settings
from hypothesis import strategies as st

from threadpool.defer import (
    LATER,
    AlreadyCalledError,
    CancelledError,
    Deferred,
    Failure,
)

MOST = 3  # Deferreds in a program: enough for an outer, an inner and a bystander.


# -- the rules ---------------------------------------------------------------------


class Model:
    """A Deferred as the specification has it."""

    def __init__(self, canceller, home):
        self.canceller = canceller
        self.home = home  # Whatever all Models of one program share.
        self.called = False
        self.value = None
        self.steps = []
        self.inner = None
        self.paused = 0
        self.in_a_step = False
        self.rests = False
        self.swallows = False
        self.waiters = []
        # Whether somebody looked at this failure, and whether it would be reported.
        self.looked_at = self.reported = False
        self.request = ()  # The message of a cancel.

    # Firing.

    def callback(self, value, *, directly=False):
        if self.called and self.swallows:
            self.swallows = False
        elif self.called:
            raise AlreadyCalledError
        else:
            self.receive(value, directly)

    errback = callback

    def fire_directly(self, value):
        self.callback(value, directly=True)

    def receive(self, value, directly):
        self.called, self.inner, self.value = True, None, value
        self.looked_at = self.reported = False
        self.run(directly)

    # The chain.

    def addCallbacks(self, callback, errback):
        self.steps.append((callback, errback))
        self.set_going()

    def chainDeferred(self, other):
        self.steps.append(("fires", other))
        self.set_going()

    def set_going(self):
        if self.called:
            self.rests = False
            self.run(directly=False)

    def pause(self):
        self.paused += 1
        self.rests = False

    def unpause(self):
        if not self.paused:
            raise RuntimeError
        self.paused -= 1
        if not self.paused and self.called:
            self.run(directly=False)

    def run(self, directly):
        if self.in_a_step:
            return  # The run that made this step goes on by itself.
        while self.steps and not self.paused and self.inner is None:
            first, second = self.steps.pop(0)
            if first == "continues" or (first == "fires" and not second.called):
                value = self.give_away()
                second.receive(value, directly)
            elif first == "fires":
                self.step(second.callback)
            else:
                step = second if isinstance(self.value, Failure) else first
                if step is not None:
                    self.step(step)
        if not (self.steps or self.paused or self.inner or self.rests):
            self.rest(directly)

    def step(self, function):
        value = self.give_away()
        self.in_a_step = True
        try:
            value = function(value)
        except BaseException as error:
            value = Failure(error)
        self.in_a_step = False
        if value is self:
            value = Failure(RuntimeError("wait for itself"))
        if isinstance(value, Model) and value.rests:
            value = value.give_away()
        if isinstance(value, Model):
            self.inner = value
            value.steps.append(("continues", self))
        self.value = value

    def give_away(self):
        value, self.value = self.value, None
        self.looked_at = self.reported = False
        return value

    def rest(self, directly):
        self.rests = True
        self.reported = (
            isinstance(self.value, Failure)
            and not self.value.check(CancelledError)
            and not self.looked_at
        )
        waiters, self.waiters = self.waiters, []
        for position, (watcher, through_the_loop) in enumerate(waiters):
            if not through_the_loop and position and not self.rests:
                self._watch(watcher)  # One before it has set the chain going again.
            elif through_the_loop and (not directly or (position and not self.rests)):
                self.home.soon.append((self, watcher))
            else:
                watcher(self)

    # Looking.

    def done(self):
        return self.rests

    def cancelled(self):
        return self.rests and self.failed() and bool(self.value.check(CancelledError))

    def failed(self):
        return isinstance(self.value, Failure)

    def exception(self):
        if not self.rests:
            raise asyncio.InvalidStateError
        self.looked_at, self.reported = True, False
        if self.cancelled():
            # It says why in its own words, or in those of the request.
            raise CancelledError(*(self.value.value.args or self.request))
        return self.value.value if self.failed() else None

    def result(self):
        error = self.exception()
        if error is not None:
            raise error
        return self.value

    def _watch(self, watcher):
        self.waiters.append((watcher, False))

    def add_done_callback(self, watcher):
        if self.rests:
            self.home.soon.append((self, watcher))
        else:
            self.waiters.append((watcher, True))

    def remove_done_callback(self, watcher):
        before = len(self.waiters)
        self.waiters = [w for w in self.waiters if w[0] is not watcher]
        return before - len(self.waiters)

    def __repr__(self):
        name = f"Deferred at #{self.home.made.index(self)}"
        if not self.called:
            return f"<{name}>"
        if self.inner is not None:
            inner = self.home.made.index(self.inner)
            return f"<{name} waiting on Deferred at #{inner}>"
        return f"<{name} current result: {self.value!r}>"

    # Cancelling.

    def cancel(self, msg=None):
        if self.called:
            return self.inner is not None and self.inner.cancel(msg)
        answer, self.request = None, (msg,)
        if self.canceller is None:
            self.swallows = True
        else:
            try:
                answer = self.canceller(self)
            except Exception as error:
                self.home.complaints.append(str(error))
        if answer is not LATER and not self.called:
            self.receive(Failure(CancelledError(msg)), directly=False)
        return True


class Home:
    """What the Models of one program share: the loop's queue, and the log."""

    def __init__(self):
        self.made, self.soon, self.complaints = [], [], []

    def make(self, canceller):
        self.made.append(Model(canceller, self))
        return self.made[-1]

    def turn(self):
        soon, self.soon = self.soon, []
        for model, watcher in soon:
            if model.rests:
                watcher(model)
            else:
                model.add_done_callback(watcher)

    def reports(self):
        return [shortly(model.value) for model in self.made if model.reported]


# -- the language ------------------------------------------------------------------


class Do(NamedTuple):
    """One operation on the Deferred number *at*; *more* is done inside a step of it.

    Attributes:
        verb: what to do.
        at: to which Deferred.
        other: with which other one.
        ends: how a step ends: what it returns, or that it raises.
        body: how many of the operations that follow are the step's body.
        more: these, once the program is parsed.
    """

    verb: str
    at: int = 0
    other: int = 0
    ends: str = ""
    body: int = 0
    more: tuple[Do, ...] = ()

    def __repr__(self):
        words = [self.verb, self.at, self.other, self.ends, self.body or ""]
        more = f" {list(self.more)}" if self.more else ""
        return f"<{' '.join(str(word) for word in words).strip()}{more}>"


ENDS = ["value", "raise", "failure", "pass", "deferred", "deferred"]
ADDERS = ["callback for", "errback for", "both for", "pair for", "both for"]
WATCHERS = ["watch", "notify"]
FIRING = ["callback", "callback", "errback", "fire_directly"]
CHANGING = ["chain", "chain", "cancel", "cancel", "pause", "unpause", "unpause"]
LOOKING = ["read", "exception", "unnotify", "turn"]
CANCELLERS = [
    *("none", "none", "error", "value", "later"),
    *("confirms", "raises", "silent", "both"),
]

NUMBERS = range(MOST)
BODIES = [0, 0, 1, 2]
PLAIN = [Do(verb, at) for verb in FIRING for at in NUMBERS]
OTHERS = [
    Do(verb, at, other)
    for verb in CHANGING + LOOKING
    for at in NUMBERS
    for other in NUMBERS
]
STEPS = [
    Do(verb, at, other, ends, body)
    for verb in ADDERS
    for at in NUMBERS
    for other in NUMBERS
    for ends in ENDS
    for body in BODIES
]
WATCHES = [
    Do(verb, at, body=body) for verb in WATCHERS for at in NUMBERS for body in BODIES
]

# Flat, and of about one length: hypothesis would rather try programs of no length.
# It shrinks a program by putting nothing in the place of its operations.
programs = st.lists(
    st.sampled_from([Do("nothing")])
    | st.sampled_from(PLAIN)
    | st.sampled_from(OTHERS)
    | st.sampled_from(OTHERS)
    | st.sampled_from(STEPS)
    | st.sampled_from(STEPS)
    | st.sampled_from(STEPS)
    | st.sampled_from(WATCHES),
    min_size=16,
    max_size=24,
)


def parse(flat):
    """Put the operations into the steps that they are the body of."""
    rest = [action for action in reversed(flat) if action.verb != "nothing"]

    def parse_one():
        action = rest.pop()
        more = [parse_one() for _ in range(action.body) if rest]
        return action._replace(body=0, more=tuple(more))

    program = []
    while rest:
        program.append(parse_one())
    return program


def shortly(thing):
    """Return the repr, without the texts of errors that the Deferred made itself."""
    return re.sub("(RuntimeError|AlreadyCalledError).*", r"\1", repr(thing))


class Player:
    """Plays a program on Deferreds of one kind, and keeps the diary."""

    def __init__(self, make, cancellers):
        self.diary = []
        self.numbers = itertools.count(1)
        self.notified = {}
        self.deferreds = [make(self.canceller(kind)) for kind in cancellers]

    def at(self, number):
        return self.deferreds[number % len(self.deferreds)]

    def canceller(self, kind):
        def cancel(deferred):
            self.diary.append(("canceller", self.deferreds.index(deferred)))
            if kind in ("error", "both"):
                deferred.errback(Failure(TimeoutError(next(self.numbers))))
            if kind == "confirms":
                deferred.errback(Failure(CancelledError()))
            if kind == "value":
                deferred.callback(next(self.numbers))
            if kind in ("raises", "both"):
                raise KeyError(next(self.numbers))
            return LATER if kind == "later" else None

        return None if kind == "none" else cancel

    def do(self, action):
        if action.verb == "turn":
            return  # Inside a step the loop has no turn.
        method = getattr(self, action.verb.split()[0] + "_")
        try:
            answer = method(action)
        except BaseException as error:
            own = isinstance(error, ValueError | CancelledError)
            answer = (type(error), error.args if own else ())
        if isinstance(answer, Failure | BaseException):
            answer = shortly(answer)
        self.diary.append((action.verb, answer))

    def step(self, action, side):
        number = next(self.numbers)

        def step(result):
            self.diary.append((number, side, shortly(result)))
            for each in action.more:
                self.do(each)
            return self.end(action, result)

        return step

    def end(self, action, result):
        if action.ends == "pass":
            return result
        if action.ends == "deferred":
            # Never one before itself: a ring would wait for ever, as it should.
            own = action.at % len(self.deferreds)
            return self.at(max(own, action.other % len(self.deferreds)))
        if action.ends == "failure":
            return Failure(ValueError(next(self.numbers)))
        if action.ends == "raise":
            raise ValueError(next(self.numbers))
        return next(self.numbers)

    def watcher(self, action):
        number = next(self.numbers)

        def watch(deferred):
            self.diary.append((number, deferred.done(), deferred is self.at(action.at)))
            for each in action.more:
                self.do(each)

        return watch

    # The verbs.

    def callback_(self, action):
        if action.verb == "callback for":
            self.at(action.at).addCallbacks(self.step(action, "value"), None)
        else:
            self.at(action.at).callback(next(self.numbers))

    def errback_(self, action):
        if action.verb == "errback for":
            self.at(action.at).addCallbacks(None, self.step(action, "failure"))
        else:
            self.at(action.at).errback(Failure(ValueError(next(self.numbers))))

    def both_(self, action):
        step = self.step(action, "either")
        self.at(action.at).addCallbacks(step, step)

    def pair_(self, action):
        self.at(action.at).addCallbacks(
            self.step(action, "value"), self.step(action, "failure")
        )

    def chain_(self, action):
        self.at(action.at).chainDeferred(self.at(action.other))

    def cancel_(self, action):
        return self.at(action.at).cancel(f"by {action.other}")

    def pause_(self, action):
        self.at(action.at).pause()

    def unpause_(self, action):
        self.at(action.at).unpause()

    def read_(self, action):
        return self.at(action.at).result()

    def exception_(self, action):
        return self.at(action.at).exception()

    def watch_(self, action):
        if not self.at(action.at).done():
            self.at(action.at)._watch(self.watcher(action))

    def notify_(self, action):
        watcher = self.notified[action.at] = self.watcher(action)
        self.at(action.at).add_done_callback(watcher)

    def unnotify_(self, action):
        watcher = self.notified.get(action.at)
        return self.at(action.at).remove_done_callback(watcher)

    def fire_directly_(self, action):
        deferred = self.at(action.at)
        if isinstance(deferred, Model):
            deferred.fire_directly(next(self.numbers))
        else:  # As the reactor does in its pass over completions.
            deferred._fire(next(self.numbers), directly=True)

    def looks(self):
        """What can be seen of each Deferred from outside, without touching it."""
        names = {hex(id(d)): f"#{number}" for number, d in enumerate(self.deferreds)}
        return [
            (
                re.sub("0x[0-9a-f]+", lambda m: names[m.group()], shortly(d)),
                d.called,
                d.paused,
                d.done(),
                d.cancelled(),
            )
            for d in self.deferreds
        ]


# -- playing -----------------------------------------------------------------------


# What chance finds too seldom: a waiter that sets the chain going again before the next
# one is told, and a second cancel that says something else than the first.
GOING_AGAIN = [
    Do("notify", 0, body=1),
    *(Do("both for", 0, 1, "deferred"), Do("notify", 0), Do("fire_directly", 0)),
]
ANOTHER_CANCEL = [
    *(Do("cancel", 0, 1), Do("both for", 0, 1, "deferred"), Do("cancel", 0, 2)),
    Do("read", 0),
]


class Log(logging.Filter):
    """Notes what `threadpool.defer` reports, and lets none of it pass.

    A record that somebody kept would keep the Deferreds.
    """

    def __init__(self):
        super().__init__()
        self.unhandled, self.complaints = [], []

    def filter(self, record):
        if hasattr(record, "failure"):
            self.unhandled.append(shortly(record.failure))
        else:
            self.complaints.append(str(record.exc_info[1]))
        return False


async def play(program, cancellers):
    """Play on both; the diaries and the looks are the same after every operation."""
    home = Home()
    real, model = Player(Deferred, cancellers), Player(home.make, cancellers)
    for action in [*program, Do("turn")]:
        if action.verb == "turn":
            while home.soon:
                await asyncio.sleep(0)
                home.turn()
        else:
            real.do(action)
            model.do(action)
        assert real.diary == model.diary
        assert real.looks() == model.looks()
    return Counter(home.complaints), Counter(home.reports())


def play_and_forget(runner, log, program, cancellers):
    log.unhandled, log.complaints = [], []
    gc.disable()  # What the program makes stays in the youngest generation.
    try:
        # Figures only: a Failure would hold the frames, and so the Deferreds.
        complaints, reports = runner.run(play(program, cancellers))
        gc.collect(0)
    finally:
        gc.enable()
    assert Counter(log.complaints) == complaints
    assert Counter(log.unhandled) == reports


@pytest.fixture
def log():
    """The log of `threadpool.defer`, kept from everybody else."""
    logger, log = logging.getLogger("threadpool.defer"), Log()
    logger.addFilter(log)
    yield log
    logger.removeFilter(log)


def test_deferred_does_what_the_model_does(log):
    """Whatever is done to Deferreds, in any order: the rules of the model hold."""
    with asyncio.Runner() as runner:

        @settings(
            max_examples=2000,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            deadline=None,
            derandomize=True,  # A run tells about the code, not about the dice.
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(
            programs, st.lists(st.sampled_from(CANCELLERS), min_size=1, max_size=MOST)
        )
        @example(GOING_AGAIN, ["none", "none"])
        @example(ANOTHER_CANCEL, ["none", "none"])
        def check(flat, cancellers):
            program = parse(flat)
            note(f"The program: {program}")
            play_and_forget(runner, log, program, cancellers)

        check()
