"""The parts of the demonstration, with pools and accounts that are made up."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from types import SimpleNamespace

import pytest

from enterprise.tool import progress
from enterprise.tool.command import Command
from enterprise.tool.complaint import complaint
from enterprise.tool.showcase import accounts, characters, tables
from enterprise.tool.showcase.contest import WrongAnswer
from enterprise.tool.table import table

# -- its tables ----------------------------------------------------------------------


class RecordingPool:
    """A pool that only remembers what it was asked, and fails where it is told to."""

    def __init__(self, *, failing=None, slow=False):
        self.options = SimpleNamespace(cp_max=2)
        self.asked = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self._failing = failing
        if not slow:
            self.gate.set()

    async def runOperation(self, sql):
        self.asked.append(" ".join(sql.split()[:2]))
        self.begun.set()
        await self.gate.wait()
        if self._failing and sql.startswith(self._failing):
            raise sqlite3.OperationalError("disk I/O error")


async def use(pool):
    """Have the tables in *pool* for no time at all."""
    async with tables.created(pool, drop=True):
        pass


async def test_interrupt_while_tables_are_made():
    """Interrupted between two tables, the demo knows which are its own."""
    pool = RecordingPool(slow=True)
    user = asyncio.ensure_future(use(pool))
    await pool.begun.wait()
    user.cancel()
    await asyncio.sleep(0)
    pool.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await user
    assert pool.asked == ["create table"] * 2 + ["drop table"] * 2


async def test_table_that_cannot_be_dropped_is_named():
    """One that stays is named; each lost connection is one more attempt."""
    pool = RecordingPool(failing="drop")
    with pytest.raises(tables.TableLeft, match=f"{tables.CHARACTER} could not be dr"):
        await use(pool)
    assert pool.asked == ["create table"] * 2 + ["drop table"] * 3


# -- it would notice -----------------------------------------------------------------


class LyingPool:
    """A pool whose answers are whatever the test wants."""

    def __init__(self, answer):
        self.answer = answer

    async def runQuery(self, sql, params=()):
        return self.answer


async def test_wrong_answer_is_noticed():
    """A look-up that brings another character's row fails the demo."""
    rows = [(65, "LATIN CAPITAL LETTER A", "Lu")]
    look_ups = characters.LookUps(rows, 10, "qmark")
    step = progress.Step("look-ups", 10)
    with pytest.raises(WrongAnswer, match=r"U\+0041 is .* answered .*LETTER B"):
        await look_ups.pooled(LyingPool([("LATIN CAPITAL LETTER B", "Lu")]), step)
    assert step.done == 0


async def test_missing_rows_are_noticed():
    """A table with fewer rows than were loaded fails the demo."""
    load = characters.Load(characters.characters(10), "qmark")
    with pytest.raises(WrongAnswer, match=r"10 characters .* has 9 rows"):
        await load.check(LyingPool([(9,)]))
    await load.check(LyingPool([(10,)]))


class Ledger:
    """Accounts in memory, for transfers without a database."""

    def __init__(self, transfers, *, forgetful=False):
        self.balances = dict.fromkeys(range(accounts.ACCOUNTS), transfers.opening)
        self._forgetful = forgetful
        self._before = dict(self.balances)
        self._writes = 0

    def cursor(self):
        return self

    def execute(self, sql, parameters):
        self._writes += 1
        if not sql.startswith("update"):
            self._read = [(account, self.balances[account]) for account in parameters]
        elif not (self._forgetful and self._writes == 4):
            change, account = parameters
            self.balances[account] += change

    def fetchall(self):
        return self._read

    def commit(self):
        self._before = dict(self.balances)

    def rollback(self):
        self.balances = dict(self._before)


async def checked(transfers, ledger):
    """Make transfers in a ledger, and have them checked."""
    transfers.plain(ledger, progress.Step("transfers", transfers.units))
    await transfers.check(LyingPool(list(ledger.balances.items())))


async def test_right_transfers_are_accepted():
    """Transfers that happen as asked pass the check, refused ones included."""
    transfers = accounts.Transfers(200, "qmark")
    assert transfers.refused == 10
    await checked(transfers, Ledger(transfers))


async def test_half_a_transfer_is_noticed():
    """Money that leaves one account and reaches no other fails the demo."""
    transfers = accounts.Transfers(200, "qmark")
    with pytest.raises(WrongAnswer, match="Half a transfer"):
        await checked(transfers, Ledger(transfers, forgetful=True))


def test_lost_update_is_noticed():
    """Two transfers that both saw the same balance cannot both be right."""
    orders = [accounts._Order(1, 2, 10, True), accounts._Order(1, 3, 10, True)]
    final = {1: 80, 2: 110, 3: 110}
    right = [(orders[0], {1: 90, 2: 110}), (orders[1], {1: 80, 3: 110})]
    accounts._check_answers(right, 100, final)
    accounts._check_answers(
        [(orders[0], {1: 80, 2: 110}), (orders[1], {1: 90, 3: 110})], 100, final
    )
    lost = [(orders[0], {1: 90, 2: 110}), (orders[1], {1: 90, 3: 110})]
    with pytest.raises(WrongAnswer, match="account 1 do not follow"):
        accounts._check_answers(lost, 100, final)


def test_refusal_is_noticed():
    """A transfer that is covered must happen, and one that is not must not."""
    final = {1: 100, 2: 100}
    for covered, answer in ((True, {}), (False, {1: 90, 2: 110})):
        order = accounts._Order(1, 2, 10, covered)
        with pytest.raises(WrongAnswer, match="was answered with"):
            accounts._check_answers([(order, answer)], 100, final)


# -- small parts ---------------------------------------------------------------------


def test_transfers_meet():
    """The transfers touch all accounts, each more than once."""
    orders = accounts._orders(2_000, too_much=1)
    touched = Counter(account for order in orders for _, account in order.changes())
    assert len(touched) == accounts.ACCOUNTS
    assert min(touched.values()) > 1


def test_step_that_was_given_up_stops_its_worker():
    """A worker hears at its next tick that nobody waits any more."""
    step = progress.Step("look-ups", 10)
    step.tick(3)
    step.stopped = True
    with pytest.raises(progress.Stopped, match="given up after 3 of 10"):
        step.tick()
    assert repr(step) == "<Step 'look-ups': 3 of 10>"


@pytest.mark.parametrize(
    ("paramstyle", "spelled"),
    [
        ("qmark", "a = ? and b = ?"),
        ("format", "a = %s and b = %s"),
        ("pyformat", "a = %s and b = %s"),
        ("numeric", "a = :1 and b = :2"),
        ("named", "a = :1 and b = :2"),
    ],
)
def test_statement_is_spelled_as_the_driver_wants_it(paramstyle, spelled):
    """Every parameter style of DB-API 2.0 is served."""
    assert tables.spelled("a = ? and b = ?", paramstyle) == spelled


def test_complaint_is_one_line_without_secrets():
    """A driver's error keeps its class, loses its line ends and its passwords."""
    error = sqlite3.OperationalError("no\n  such url: mysql://ada:x@y@host/db?a=b")
    text = "OperationalError: no such url: mysql://ada:***@host/db?a=b"
    assert complaint(error) == text
    assert complaint(WrongAnswer("password=a&b")) == "password=***&b"
    assert complaint(KeyError()) == "KeyError"


def test_table_is_aligned():
    """Text stands left, figures stand right."""
    lines = table(["step", "calls"], [["a", "1,000"], ["longer", "2"]]).splitlines()
    assert lines == ["step    calls", "------  -----", "a       1,000", "longer      2"]


async def test_command_must_do_something():
    """A command without a `run` of its own is not one."""
    with pytest.raises(NotImplementedError):
        await Command().run()
