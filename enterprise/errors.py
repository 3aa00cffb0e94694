"""Every error that a database's users meet: fact, meaning, next step.

What the database itself says, its driver's own exceptions say; these are ours.
"""

from __future__ import annotations

from threadable import ThreadsDisabled
from threadpool.error import (
    LoopClosed,
    PoolClosed,
    PoolError,
    PoolFull,
    WorkerInterrupted,
    WrongThread,
)

__all__ = [
    "ConfigurationError",
    "ConnectFailed",
    "ConnectionLost",
    "DatabaseBridgeError",
    "LoopClosed",
    "PoolClosed",
    "PoolError",
    "PoolFull",
    "ThreadsDisabled",
    "TransactionEnded",
    "WorkerInterrupted",
    "WrongThread",
]


class DatabaseBridgeError(Exception):
    """The base of this floor's own errors."""


class ConfigurationError(DatabaseBridgeError, ValueError):
    """The pool cannot be made like this: a URL, a driver or an option is wrong."""


class ConnectFailed(DatabaseBridgeError, ConnectionError):
    """No connection could be opened; the driver's error is the `__cause__`."""


class ConnectionLost(DatabaseBridgeError, ConnectionError):
    """The connection ended under the work; the driver's error is the `__cause__`."""


class TransactionEnded(DatabaseBridgeError):
    """The transaction was over before the interaction's end; nothing was committed."""
