"""Every error that a database's users meet: fact, meaning, next step.

What the database itself says, its driver's own exceptions say; these are ours. Each has
a `code`, which its text ends with, and `docs`, where that is explained. Any thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from threadable import ThreadsDisabled
from threadable._coded import Coded
from threadpool.error import (
    LoopClosed,
    PoolClosed,
    PoolError,
    PoolFull,
    WorkerInterrupted,
    WrongThread,
)

if TYPE_CHECKING:
    from enterprise.holders import Holder
    from enterprise.stats import PoolStats

__all__ = [
    "ConfigurationError",
    "ConnectFailed",
    "ConnectionLost",
    "DatabaseBridgeError",
    "DatabaseGone",
    "ForkedSQLite",
    "LoopClosed",
    "NestedAcquire",
    "PoolClosed",
    "PoolError",
    "PoolFull",
    "PoolTimeout",
    "QueryTimeout",
    "ThreadsDisabled",
    "TransactionEnded",
    "WorkerInterrupted",
    "WrongThread",
]


class DatabaseBridgeError(Coded, Exception):
    """The base of this floor's own errors."""

    code = "database-bridge"


class ConfigurationError(DatabaseBridgeError, ValueError):
    """The pool cannot be made like this: a URL, a driver or an option is wrong."""

    code = "configuration"


class ConnectFailed(DatabaseBridgeError, ConnectionError):
    """No connection could be opened; the driver's error is the `__cause__`."""

    code = "connect-failed"


class DatabaseGone(ConnectFailed):
    """The database lived in memory, in one connection, and has ended with it."""

    code = "database-gone"


class ForkedSQLite(ConnectFailed):
    """The file was open when this process was forked, and cannot be used here."""

    code = "forked-sqlite"


class NestedAcquire(DatabaseBridgeError):
    """The call would wait for a connection that its own caller holds, for ever."""

    code = "nested-acquire"


Outcome: TypeAlias = Literal["not_sent", "rolled_back", "committed", "unknown"]


class ConnectionLost(DatabaseBridgeError, ConnectionError):
    """The connection ended under the work; the driver's error is the `__cause__`.

    Attributes:
        outcome: what is known of the work: "not_sent", "rolled_back", "committed" or
            "unknown".
    """

    code = "connection-lost"

    def __init__(self, message: str, outcome: Outcome = "unknown") -> None:
        super().__init__(message)
        self.outcome: Outcome = outcome

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (*self.args, self.outcome), self.__dict__)


class PoolTimeout(PoolError, TimeoutError):
    """The call waited too long for a connection; nothing was sent.

    The cure is more connections, or less work; see `QueryTimeout` for the other one.

    Attributes:
        stats: the pool's figures at that moment.
        holders: who had the connections then, longest first; see
            `enterprise.holders.Holder`.
    """

    code = "pool-timeout"

    def __init__(
        self,
        message: str,
        stats: PoolStats | None = None,
        holders: tuple[Holder, ...] = (),
    ) -> None:
        super().__init__(message)
        self.stats = stats
        self.holders = holders

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (*self.args, self.stats, self.holders), self.__dict__)


class QueryTimeout(DatabaseBridgeError, TimeoutError):
    """The call had its connection and ran too long; it was stopped.

    The cure is a faster statement, or more time; see `PoolTimeout` for the other one.
    """

    code = "query-timeout"


class TransactionEnded(DatabaseBridgeError):
    """The transaction was over before the interaction's end; nothing was committed."""

    code = "transaction-ended"
