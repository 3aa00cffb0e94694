"""Second floor: databases. `ConnectionPool` is the front door.

Importing this package imports no driver, and not SQLAlchemy either.
"""

from enterprise.adbapi import ConnectionPool
from enterprise.connection import Connection
from enterprise.errors import (
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    NestedAcquire,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    QueryTimeout,
    TransactionEnded,
)
from enterprise.retry import RetryPolicy
from enterprise.rows import Result
from enterprise.snapshot import Snapshot
from enterprise.stats import PoolStats
from enterprise.transaction import Transaction
from threadpool._frames import silence

__all__ = [
    "ConfigurationError",
    "ConnectFailed",
    "Connection",
    "ConnectionLost",
    "ConnectionPool",
    "NestedAcquire",
    "PoolClosed",
    "PoolFull",
    "PoolStats",
    "PoolTimeout",
    "QueryTimeout",
    "Result",
    "RetryPolicy",
    "Snapshot",
    "Transaction",
    "TransactionEnded",
]

silence(__name__)
