"""Second floor: databases. `ConnectionPool` is the front door.

Importing this package imports no driver, and not SQLAlchemy either.
"""

from enterprise.adbapi import ConnectionPool
from enterprise.errors import (
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    PoolClosed,
    PoolFull,
    TransactionEnded,
)
from enterprise.rows import Result
from enterprise.stats import PoolStats
from enterprise.transaction import Connection, Transaction

__all__ = [
    "ConfigurationError",
    "ConnectFailed",
    "Connection",
    "ConnectionLost",
    "ConnectionPool",
    "PoolClosed",
    "PoolFull",
    "PoolStats",
    "Result",
    "Transaction",
    "TransactionEnded",
]
