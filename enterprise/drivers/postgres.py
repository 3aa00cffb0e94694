"""PostgreSQL through psycopg 3."""

from __future__ import annotations

import os
import socket
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from enterprise.drivers._credentials import Connector
from enterprise.drivers.base import Driver, TransactionState

__all__ = ["PostgresDriver"]

# How long a cancel request may take before we stop waiting for its confirmation.
CANCEL_SECONDS = 1.0

# What the server says in English, and libpq in none of the languages it knows.
_FATAL = ("authentication failed", "does not exist", "no pg_hba.conf entry", "password")

# The SQLSTATE of writing where only reading is allowed.
_READ_ONLY = "25006"

_STATES = {
    TransactionStatus.IDLE: TransactionState.NONE,
    TransactionStatus.INERROR: TransactionState.FAILED,
    TransactionStatus.UNKNOWN: TransactionState.NONE,  # The connection has ended.
}


class PostgresDriver(Driver):
    """PostgreSQL: any connection does anything.

    Args:
        name: for texts; holds no secret.
        args: for `psycopg.connect`.
        kwargs: for `psycopg.connect`.
        connect_seconds: how long connecting may take, where *kwargs* do not say.
    """

    autocommits = True
    cancels = True

    def __init__(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        connect_seconds: float = 10,
    ) -> None:
        # libpq counts whole seconds and takes less than 2 for 2.
        kwargs = {"connect_timeout": max(2, round(connect_seconds)), **kwargs}
        # A statement by itself costs one round trip in autocommit, three otherwise.
        kwargs["autocommit"] = True
        spelled = [*args, kwargs["conninfo"]] if "conninfo" in kwargs else args
        connector = Connector(psycopg.connect, args, kwargs)
        super().__init__(name, connector, psycopg, tuple(map(_password, spelled)))

    def cancel(self, raw: psycopg.Connection[Any]) -> None:
        """Ask the server to stop what it does for *raw*, and wait for it to say so.

        Not `Connection.cancel`: that holds the GIL while the server is silent.
        """
        raw.cancel_safe(timeout=CANCEL_SECONDS)

    def sever(self, raw: psycopg.Connection[Any]) -> None:
        """Shut the socket down through a duplicate: its owner waits in it."""
        # The one who waits on a dead network wakes in no other way.
        with socket.socket(fileno=os.dup(raw.pgconn.socket)) as double:
            double.shutdown(socket.SHUT_RDWR)

    def check(self, raw: psycopg.Connection[Any], statement: str | None) -> None:
        """Raise if the connection is not alive: one round trip, no transaction."""
        raw.execute((statement or "").encode())

    def fatal(self, error: BaseException) -> bool:
        """Say whether connecting fails for a reason that waiting will not cure.

        Wrong passwords, roles and databases. libpq gives no SQLSTATE for what the
        server says while connecting, so its text has to serve.
        """
        text = str(error)
        return any(word in text for word in _FATAL)

    def lost(self, raw: psycopg.Connection[Any], error: BaseException) -> bool:
        """Say whether the connection is closed or broken."""
        return raw.closed

    def refusedToWrite(self, error: BaseException) -> bool:
        """Say whether the transaction, or the whole server, does not write."""
        return getattr(error, "sqlstate", None) == _READ_ONLY

    def query(self, raw: psycopg.Connection[Any], sql: Any, params: Any) -> list[Any]:
        """Run one statement and return its rows."""
        with raw.cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchall() if cursor.description else []

    def operate(self, raw: psycopg.Connection[Any], sql: Any, params: Any) -> None:
        """Run one statement for its effect."""
        with raw.cursor() as cursor:
            cursor.execute(sql, params)

    def script(self, raw: psycopg.Connection[Any], text: str) -> None:
        """Run several statements in one text; PostgreSQL makes them one transaction."""
        with raw.cursor() as cursor:
            cursor.execute(text.encode())

    def begin(
        self,
        raw: psycopg.Connection[Any],
        *,
        readonly: bool,
        isolation: str | None = None,
        deferrable: bool | None = None,
    ) -> None:
        """Begin a transaction, with everything there is to say in one string."""
        said = "begin"
        if isolation is not None:
            said += f" isolation level {isolation}"
        if readonly:
            said += " read only"
        if deferrable is not None:
            said += " deferrable" if deferrable else " not deferrable"
        raw.execute(said.encode())

    def rollback(self, raw: psycopg.Connection[Any]) -> None:
        """Roll the transaction back, where the connection still can."""
        if not raw.closed:
            raw.rollback()

    def dirty(self, raw: psycopg.Connection[Any]) -> bool:
        """Say whether somebody's BEGIN was left open."""
        return raw.pgconn.transaction_status != TransactionStatus.IDLE

    def state(self, raw: psycopg.Connection[Any]) -> TransactionState:
        """Say what has become of the transaction; after an error it has failed."""
        return _STATES.get(raw.info.transaction_status, TransactionState.OPEN)


def _password(conninfo: Any) -> str:
    try:
        return str(psycopg.conninfo.conninfo_to_dict(str(conninfo)).get("password", ""))
    except psycopg.ProgrammingError:
        return str(conninfo)  # Not to be read: better hide all of it.
