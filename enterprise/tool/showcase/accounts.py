"""Transfers between accounts: transactions that meet each other, and some that fail.

The loop thread enters here; `plain` and `_transfer` run in workers.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from enterprise.tool.showcase.contest import WrongAnswer, crowd
from enterprise.tool.showcase.tables import ACCOUNT, emptied, spelled

if TYPE_CHECKING:
    from enterprise import ConnectionPool
    from enterprise.tool.progress import Step

__all__ = ["Transfers"]

ACCOUNTS: Final = 100  # few enough that transfers often want the same one
MOST: Final = 100  # money in one transfer
REFUSED: Final = 20  # every twentieth transfer asks for more than there is

OPEN = f"insert into {ACCOUNT} (id, balance) values (?, ?)"  # noqa: S608 - our own name
CHANGE = f"update {ACCOUNT} set balance = balance + ? where id = ?"  # noqa: S608
READ = f"select id, balance from {ACCOUNT} where id in (?, ?)"  # noqa: S608
READ_ALL = f"select id, balance from {ACCOUNT}"  # noqa: S608

Balances = dict[int, int]  # by account; none at all where a transfer was refused


class _Refused(Exception):
    """The payer does not have that much; raised after the money was moved."""


@dataclass(frozen=True)
class _Order:
    """One transfer.

    Attributes:
        payer, payee: accounts.
        amount: of money.
        covered: whether the payer has so much.
    """

    payer: int
    payee: int
    amount: int
    covered: bool

    def changes(self) -> list[tuple[int, int]]:
        """List (change, account) by account: one order for all prevents deadlocks."""
        both = [(self.payer, -self.amount), (self.payee, self.amount)]
        return [(change, account) for account, change in sorted(both)]


class Transfers:
    """Move money between accounts; now and then more than there is.

    Args:
        calls: how many transfers.
        paramstyle: of the driver.
    """

    title = "transfers"

    def __init__(self, calls: int, paramstyle: str) -> None:
        self.units = calls
        # As much as one account could ever be asked for.
        self.opening = MOST * calls
        self._orders = _orders(calls, too_much=self.opening * ACCOUNTS + 1)
        self._open = spelled(OPEN, paramstyle)
        self._statements = spelled(CHANGE, paramstyle), spelled(READ, paramstyle)
        self._answers: list[tuple[_Order, Balances]] = []

    @property
    def refused(self) -> int:
        """How many transfers ask for more than there is."""
        return sum(not order.covered for order in self._orders)

    async def prepare(self, pool: ConnectionPool) -> None:
        """Open the accounts, with the same money in each."""
        self._answers = []
        await emptied(pool, ACCOUNT)
        rows = [(account, self.opening) for account in range(ACCOUNTS)]
        await pool.runInteraction(_open_accounts, self._open, rows)

    def plain(self, connection: Any, step: Step) -> None:
        """Make one transfer after the other."""
        cursor = connection.cursor()
        for order in self._orders:
            answer: Balances = {}
            try:
                answer = _transfer(cursor, self._statements, order)
            except _Refused:
                connection.rollback()
            else:
                connection.commit()
            self._answers.append((order, answer))
            step.tick()

    async def pooled(self, pool: ConnectionPool, step: Step) -> None:
        """Make many transfers at a time."""

        async def move(order: _Order) -> None:
            answer: Balances = {}
            with suppress(_Refused):
                answer = await pool.runInteraction(_transfer, self._statements, order)
            self._answers.append((order, answer))
            step.tick()

        await crowd(self._orders, move)

    async def check(self, pool: ConnectionPool) -> None:
        """Check every answer, every account, and the total."""
        final = dict(await pool.runQuery(READ_ALL))
        total = self.opening * ACCOUNTS
        if sum(final.values()) != total:
            raise WrongAnswer(
                f"The accounts hold {sum(final.values())} after the transfers instead "
                f"of {total}. Half a transfer was committed; please report this."
            )
        _check_answers(self._answers, self.opening, final)


def _open_accounts(txn: Any, insert: str, rows: list[tuple[int, int]]) -> None:
    txn.executemany(insert, rows)


def _orders(calls: int, too_much: int) -> list[_Order]:
    dice = random.Random(calls)  # noqa: S311 - no secret, and the same each time
    orders = []
    for number in range(1, calls + 1):
        payer, payee = dice.sample(range(ACCOUNTS), 2)
        covered = number % REFUSED != 0
        amount = dice.randint(1, MOST) if covered else too_much
        orders.append(_Order(payer, payee, amount, covered))
    return orders


def _transfer(txn: Any, statements: tuple[str, str], order: _Order) -> Balances:
    """Move the money in the transaction of *txn*, a cursor of whatever kind."""
    change, read = statements
    for parameters in order.changes():
        txn.execute(change, parameters)
    txn.execute(read, (order.payer, order.payee))
    balances: Balances = dict(txn.fetchall())
    if balances[order.payer] < 0:
        raise _Refused
    return balances


def _check_answers(
    answers: list[tuple[_Order, Balances]], opening: int, final: Balances
) -> None:
    """See whether the answers can all be true.

    The transfers of an account happened one after the other, though nobody knows in
    which order. So each balance that one of them found is the opening balance, or
    what another one left; and each that it left was found by another, or is the final
    one. An update lost, an answer given twice: one of the two sums does not come out.
    """
    found = {account: Counter({balance: 1}) for account, balance in final.items()}
    left = {account: Counter({opening: 1}) for account in final}
    for order, answer in answers:
        if bool(answer) != order.covered:
            raise WrongAnswer(
                f"{order} was answered with {answer}. What the payer has was not "
                "respected; please report this."
            )
        for change, account in order.changes() if answer else ():
            left[account][answer[account]] += 1
            found[account][answer[account] - change] += 1
    broken = [account for account in final if found[account] != left[account]]
    if broken:
        raise WrongAnswer(
            f"The balances that were answered for account {broken[0]} do not follow "
            "from each other. An update was lost; please report this."
        )
