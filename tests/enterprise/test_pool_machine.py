"""A pool of connections under everything that can happen to it, in any order."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from enterprise import (
    ConnectFailed,
    ConnectionLost,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    QueryTimeout,
)
from tests.enterprise.helpers import balance
from tests.enterprise.pool_stage import FATES, Stage
from tests.scripted import OperationalError
from threadpool.failure import Failure

CHOICE = st.integers(min_value=0, max_value=1000)

# After any of these nothing of a job was committed.
UNDOING = (
    asyncio.CancelledError,
    ConnectFailed,
    OperationalError,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    QueryTimeout,
)


class PoolMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.calls, self.told, self.fired = [], {}, Counter()
        self.numbers = itertools.count(1)
        self.closed = []

    @initialize(
        minimum=st.integers(0, 1),
        more=st.integers(0, 2),
        backlog=st.sampled_from([None, None, 2]),
        check=st.sampled_from([1.0, 0.0, 0.0]),
    )
    def start(self, minimum, more, backlog, check):
        self.maximum = max(1, minimum + more)
        self.stage = Stage(
            cp_min=minimum,
            cp_max=self.maximum,
            cp_backlog=backlog,
            cp_check=check,
            cp_idle=5.0,
        )
        self.pool, self.script = self.stage.pool, self.stage.script

    # -- What may happen -------------------------------------------------------------

    @rule(
        kinds=st.lists(st.integers(0, 2), min_size=1, max_size=4),
        timeout=st.sampled_from([None, 0.5, 2.0]),
    )
    def submit(self, kinds, timeout):
        for kind in kinds:
            self.submit_one(kind, timeout)

    def submit_one(self, kind, timeout):
        number = next(self.numbers)
        sql = f"rows {number}"
        if kind == 0:
            call = self.pool.runQuery(sql, timeout=timeout)
        elif kind == 1:
            call = self.pool.runOperation(sql, timeout=timeout)
        else:
            call = self.pool.runInteraction(
                lambda txn: txn.execute(sql).fetchall(), timeout=timeout
            )
        self.calls.append(call)
        call.addBoth(self.note, number)

    def note(self, result, number):
        self.fired[number] += 1
        self.told[number] = result

    @precondition(lambda self: self.calls)
    @rule(choice=CHOICE)
    def cancel(self, choice):
        self.calls[-1 - choice % min(len(self.calls), 6)].cancel()

    @precondition(lambda self: self.stage.movable())
    @rule(choices=st.lists(CHOICE, min_size=1, max_size=6))
    def step(self, choices):
        for choice in choices:
            if movable := self.stage.movable():
                movable[choice % len(movable)].step()

    @precondition(lambda self: self.stage.movable())
    @rule(choice=CHOICE, verb=st.sampled_from([*FATES]))
    def step_one_until(self, choice, verb):
        self.one_at(choice, verb)

    def one_at(self, choice, verb):
        """Let one come to *verb*, where something may befall it, if it ever does."""
        movable = self.stage.movable()
        hand = movable[choice % len(movable)]
        while hand.movable() and hand.doing != verb:
            hand.step()
        return hand

    @precondition(lambda self: self.stage.movable())
    @rule(choice=CHOICE, verb=st.sampled_from([*FATES]), kind=CHOICE)
    def lose(self, choice, verb, kind):
        hand = self.one_at(choice, verb)
        if hand.doing == verb:
            hand.fate = FATES[verb][kind % len(FATES[verb])]
            hand.step()

    @precondition(lambda self: self.calls and self.stage.movable())
    @rule(choice=CHOICE, verb=st.sampled_from([*FATES]))
    def cancel_at(self, choice, verb):
        hand = self.one_at(choice, verb)
        if hand.job is not None:
            hand.job.cancel()

    @precondition(lambda self: self.stage.movable())
    @rule(choice=CHOICE, verb=st.sampled_from([*FATES]))
    def take_too_long_at(self, choice, verb):
        self.one_at(choice, verb)
        self.stage.pass_time(0.6)
        self.stage.pass_time(0.03)

    @rule(choice=CHOICE, kinds=st.lists(st.integers(0, 2), min_size=1, max_size=3))
    def lose_what_rests(self, choice, kinds):
        """All connections are found dead, and the first one cannot be replaced."""
        self.stage.settle()
        self.stage.pass_time(0.03)
        for raw in self.script.connections:
            raw.lost = True
        self.submit(kinds, None)
        if self.stage.movable():
            self.lose(choice, "connect", 0)

    @rule(choice=CHOICE)
    def lose_an_idle_one(self, choice):
        idle = [hand for hand in self.stage.hands if hand.doing == "parked"]
        alive = [raw for raw in self.script.connections if not raw.closed]
        if idle and alive:
            alive[choice % len(alive)].lost = True

    @rule()
    def settle(self):
        self.stage.settle()

    @rule()
    def turn(self):
        self.stage.turn()

    @rule(seconds=st.sampled_from([0.0005, 0.03, 0.6, 3.0]))
    def tick(self, seconds):
        self.stage.pass_time(seconds)

    @precondition(lambda self: self.impatient())
    @rule(choice=CHOICE)
    def run_out_of_patience(self, choice):
        impatient = self.impatient()
        hand = impatient[choice % len(impatient)]
        self.stage.clock.advance(hand.patience)
        hand.step()

    @rule(minimum=st.integers(0, 1), maximum=st.integers(1, 3))
    def resize(self, minimum, maximum):
        maximum = min(maximum, self.maximum)
        self.stage.crew.team.resize(minimum, maximum)

    @rule()
    def nobody_is_stranded(self):
        """Everybody is in something long: who could come for those who wait, comes."""
        self.stage.pass_time(0.03)
        self.stage.pass_time(0.03)
        stats, hands = self.pool.stats(), self.stage.hands
        coming = sum(hand.doing == "hired" or hand.wakes > 0 for hand in hands)
        if stats.waiting and not coming and self.stage.office.setback is None:
            assert not stats.idle, "a job waits beside an idle worker"
            connecting = sum(not hand.ready for hand in hands)
            if connecting < stats.waiting:
                assert len(hands) >= self.stage.crew.team.maximum, "one is stranded"

    @rule(chance=st.integers(0, 20))
    def close(self, chance):
        if chance == 0:
            self.pool.close().addBoth(self.closed.append)

    # -- What must always be true ------------------------------------------------------

    def impatient(self):
        return [
            hand
            for hand in self.stage.hands
            if hand.doing == "parked" and hand.patience != math.inf and not hand.wakes
        ]

    @invariant()
    def figures_add_up(self):
        if hasattr(self, "pool"):
            stats = self.pool.stats()
            first, last = balance(stats)
            assert first == last
            open_now = sum(not raw.closed for raw in self.script.connections)
            connecting = sum(hand.doing == "connect" for hand in self.stage.hands)
            assert open_now + connecting <= self.maximum
            assert stats.connections <= self.maximum

    @invariant()
    def each_is_told_once_and_the_truth(self):
        assert set(self.fired.values()) <= {1}
        for number, told in self.told.items():
            stored = self.script.stored[number]
            if not isinstance(told, Failure):
                assert told in (None, [(number,)])
                assert stored == 1
            elif isinstance(told.value, ConnectionLost):
                possible = {"committed": (1,), "unknown": (0, 1)}
                assert stored in possible.get(told.value.outcome, (0,)), told
            else:
                assert isinstance(told.value, UNDOING), told
                assert stored == 0, told

    @invariant()
    def the_dead_do_not_work(self):
        if hasattr(self, "script"):
            assert self.script.trouble == []

    # -- The end -----------------------------------------------------------------------

    def teardown(self):
        if not hasattr(self, "stage"):
            return
        try:
            self.drain()
        finally:
            self.stage.patch.undo()

    def drain(self):
        stage = self.stage
        for _ in range(100):
            stage.settle()
            if not self.pool.stats().unfinished:
                break
            stage.pass_time(0.1)
        assert self.pool.stats().unfinished == 0, "a job was never done"
        assert self.fired == dict.fromkeys(range(1, next(self.numbers)), 1)
        closings = len(self.closed) + 1
        self.pool.close().addBoth(self.closed.append)
        stage.settle()
        assert stage.hands == []
        assert self.pool.stats().connections == 0
        assert all(raw.closed for raw in self.script.connections)
        assert len(self.closed) >= closings
        assert not any(isinstance(told, Failure) for told in self.closed)
        self.each_is_told_once_and_the_truth()
        assert self.script.trespasses == self.script.trouble == []


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=True,  # A run tells about the code, not about the dice.
    database=None,
)
