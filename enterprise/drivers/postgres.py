"""PostgreSQL through psycopg 3."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from enterprise.drivers._conninfo import passwordIn
from enterprise.drivers._credentials import Connector
from enterprise.drivers._durations import Durations
from enterprise.drivers._flow import PostgresFlows
from enterprise.drivers._losses import endsSession
from enterprise.drivers._pipeline import pipelinerFor
from enterprise.drivers._session import Session, Ticket, milliseconds, rounded
from enterprise.drivers.base import TransactionState

if TYPE_CHECKING:
    from enterprise.batch import Batcher
    from enterprise.drivers.base import Lane
    from enterprise.options import Options

__all__ = ["PostgresDriver"]

# How long a cancel request may take before we stop waiting for its confirmation.
CANCEL_SECONDS = 1.0

# What the server says in English, and libpq in none of the languages it knows.
_FATAL = ("authentication failed", "does not exist", "no pg_hba.conf entry", "password")

# The SQLSTATE of writing where only reading is allowed.
_READ_ONLY = "25006"

# What a statement that was stopped fails with, whoever stopped it.
_CANCELLED = "57014"

# Asked once for each connection, where commits are to be looked up. A server that only
# follows another one gives no numbers.
_INTRODUCTION = (
    "select current_setting('default_transaction_isolation'), "
    "case when pg_is_in_recovery() then '' "
    "else extract(epoch from stats_reset)::text end from pg_stat_bgwriter"
)

# Another era, or a server that follows, would answer for somebody else's transaction.
_VERDICT = (
    "select case when extract(epoch from stats_reset)::text = %s "
    "and not pg_is_in_recovery() then pg_xact_status(%s::text::xid8) end "
    "from pg_stat_bgwriter"
)

_STATES: dict[int, TransactionState] = {
    TransactionStatus.IDLE: TransactionState.NONE,
    TransactionStatus.INERROR: TransactionState.FAILED,
    TransactionStatus.UNKNOWN: TransactionState.NONE,  # The connection has ended.
}


class PostgresDriver(PostgresFlows):
    """PostgreSQL: any connection does anything.

    Args:
        name: for texts; holds no secret.
        args: for `psycopg.connect`.
        kwargs: for `psycopg.connect`.
        connect_seconds: how long connecting may take, where *kwargs* do not say.
        push: have the server, too, stop what takes longer than it may.
        bouncer: PgBouncer stands in between and hands sessions around: nothing is set
            in one.
        prepare: let psycopg prepare what is said often, where *kwargs* do not say; not
            where sessions are handed around, or cleared by DISCARD, unnoticed.
        resolve: find out what became of a COMMIT that got no answer.
    """

    autocommits = True
    cancels = True
    notices = True

    def __init__(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        connect_seconds: float = 10,
        push: bool = True,
        bouncer: bool = False,
        prepare: bool = True,
        resolve: bool = False,
    ) -> None:
        # libpq counts whole seconds and takes less than 2 for 2.
        kwargs = {"connect_timeout": max(2, round(connect_seconds)), **kwargs}
        # A statement by itself costs one round trip in autocommit, three otherwise.
        kwargs["autocommit"] = True
        if not prepare:
            kwargs.setdefault("prepare_threshold", None)
        self.resolves = resolve
        self._push = push
        self._bouncer = bouncer
        # By id() of the connection, which is in here for as long as it is open.
        self._sessions: dict[int, Session] = {}
        # What is known of the pool's statements.
        self.durations = Durations()
        spelled = [*args, kwargs["conninfo"]] if "conninfo" in kwargs else args
        connector = Connector(psycopg.connect, args, kwargs)
        super().__init__(name, connector, psycopg, tuple(map(passwordIn, spelled)))

    def connect(self, lane: Lane) -> psycopg.Connection[Any]:
        """Open a connection."""
        raw: psycopg.Connection[Any] = super().connect(lane)
        self._sessions[id(raw)] = Session()
        return raw

    def settle(self, raw: psycopg.Connection[Any], lane: Lane) -> None:
        """Ask what must be known to find a lost COMMIT again, where that is wanted."""
        if self.resolves:
            session = self._sessions[id(raw)]
            session.isolation, session.era = self._ask(raw, _INTRODUCTION)

    def close(self, raw: psycopg.Connection[Any]) -> None:
        """Close the connection *raw*."""
        self._sessions.pop(id(raw), None)
        raw.close()

    def cancel(self, raw: psycopg.Connection[Any]) -> None:
        """Ask the server to stop what it does for *raw*, and wait for it to say so.

        Not `Connection.cancel`: that holds the GIL while the server is silent.
        """
        session = self._sessions.get(id(raw))
        if session is not None:
            session.cancels += 1  # First: whoever is hit by it looks here.
        raw.cancel_safe(timeout=CANCEL_SECONDS)

    def sever(self, raw: psycopg.Connection[Any]) -> None:
        """Shut the socket down through a duplicate: its owner waits in it."""
        if raw.closed:
            return
        # The one who waits on a dead network wakes in no other way.
        with socket.socket(fileno=os.dup(raw.pgconn.socket)) as double:
            double.shutdown(socket.SHUT_RDWR)

    def check(self, raw: psycopg.Connection[Any], statement: str | None) -> None:
        """Raise if the connection is not alive: one round trip, no transaction."""
        raw.execute((statement or "").encode(), prepare=False)

    def fatal(self, error: BaseException) -> bool:
        """Say whether connecting fails for a reason that waiting will not cure.

        Wrong passwords, roles and databases. libpq gives no SQLSTATE for what the
        server says while connecting, so its text has to serve.
        """
        if not isinstance(error, psycopg.Error):  # Of the user's own preparations.
            return False
        text = str(error)
        return any(word in text for word in _FATAL)

    def closed(self, raw: psycopg.Connection[Any]) -> bool:
        """Say whether libpq knows already that the connection has ended."""
        return raw.closed

    def lost(self, raw: psycopg.Connection[Any], error: BaseException) -> bool:
        """Say whether the connection is broken, or the server has just ended it."""
        return raw.closed or endsSession(error)

    def timedOut(self, error: BaseException) -> bool:
        """Say whether the server has stopped the statement."""
        return isinstance(error, psycopg.Error) and error.sqlstate == _CANCELLED

    def refusedToWrite(self, error: BaseException) -> bool:
        """Say whether the transaction, or the whole server, does not write."""
        return getattr(error, "sqlstate", None) == _READ_ONLY

    def query(self, raw: psycopg.Connection[Any], sql: Any, params: Any) -> list[Any]:
        """Run one statement and return its rows."""
        with raw.cursor() as cursor:
            cursor.execute(sql, params)
            return self.fetch(cursor) if cursor.description else []

    def operate(self, raw: psycopg.Connection[Any], sql: Any, params: Any) -> None:
        """Run one statement for its effect."""
        with raw.cursor() as cursor:
            cursor.execute(sql, params)

    def script(self, raw: psycopg.Connection[Any], text: str) -> None:
        """Run several statements in one text; PostgreSQL makes them one transaction."""
        with raw.cursor() as cursor:
            # Said for the sixth time it would be prepared, which several cannot be.
            cursor.execute(text.encode(), prepare=False)

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
        session = self._sessions[id(raw)]
        if session.deadline is not None or session.limited or self.resolves:
            level = None if readonly else isolation or session.isolation
            self._begin(raw, session, said, level)
        else:
            raw.execute(said.encode(), prepare=False)

    def _begin(
        self,
        raw: psycopg.Connection[Any],
        session: Session,
        said: str,
        level: str | None,
    ) -> None:
        """Begin, and say and ask in the same breath what costs a round trip else."""
        limit = session.usual if session.limited else None
        if session.deadline is not None:
            limit = session.capped(rounded(session.deadline - time.monotonic()))
        asks_usual = session.usual is None and bool(limit)
        if asks_usual:
            said += ";show statement_timeout"
        if limit is not None:
            said += f";set local statement_timeout = {limit}"
        # At other levels the question would already be part of what the transaction
        # sees: it is asked before the COMMIT there, at the price of a round trip.
        numbered = self.resolves and level == "read committed" and bool(session.era)
        if numbered:
            said += ";select pg_current_xact_id()::text"
        session.xid = None
        answers = self._ask(raw, said)
        if numbered:
            session.xid = answers[-1]
        if asks_usual and limit is not None:
            session.usual = milliseconds(answers[0])
            if 0 < session.usual < limit:
                self._ask(raw, f"set local statement_timeout = {session.usual}")

    def _ask(
        self, raw: psycopg.Connection[Any], said: str, params: Any = None
    ) -> list[Any]:
        """Say several things in one message; return the values of all answers."""
        answers: list[Any] = []
        # Not `raw.cursor()`, whose rows are what the user wants them to be. Never
        # prepared: that is for one statement, and survives no DISCARD.
        with psycopg.Cursor(raw, row_factory=tuple_row) as cursor:
            cursor.execute(said.encode(), params, prepare=False)
            while True:
                if cursor.description:
                    answers += cursor.fetchone() or ()
                if not cursor.nextset():
                    return answers

    # -- Pipelines ---------------------------------------------------------------------

    def batcher(self, lane: Lane, options: Options) -> Batcher | None:
        """Return what sends several statements at once, where that can be done."""
        return pipelinerFor(self, options)

    def sessionOf(self, raw: psycopg.Connection[Any]) -> Session:
        """Return what is known of the session of *raw*, which is open."""
        return self._sessions[id(raw)]

    @property
    def pushes(self) -> bool:
        """Whether the server is told the time limits of single statements."""
        return self._push and not self._bouncer

    # -- The server's own clock --------------------------------------------------------

    def limit(
        self,
        raw: psycopg.Connection[Any],
        seconds: float | None,
        *,
        alone: bool = True,
    ) -> None:
        """Have the server stop what takes longer, too.

        Its limit is rounded up and stays as it is while it fits: of equal calls only
        the first one pays for it. A transaction takes its own along with its BEGIN.

        Args:
            raw: a connection.
            seconds: what is left of its job's time; None where the job is over.
            alone: the job is no transaction.
        """
        session = self._sessions.get(id(raw))
        if session is None or not self._push:
            return
        if seconds is None:
            session.deadline = None
        elif not alone:
            session.deadline = time.monotonic() + seconds
        elif not self._bouncer:
            wanted = session.wanted(seconds)
            if wanted is not None:
                self._set_limit(raw, session, wanted)

    def unlimit(self, raw: psycopg.Connection[Any], *, alone: bool = True) -> bool:
        """Take back what `limit` has left in the session; a transaction does it itself.

        Args:
            raw: a connection, about to be given a job that may take its time.
            alone: the job is no transaction.

        Returns:
            Whether something is still left there.
        """
        session = self._sessions.get(id(raw))
        if session is None or not session.limited:
            return False
        if alone:
            self._set_limit(raw, session, session.usual or 0)
        return not alone

    def forget(self, raw: psycopg.Connection[Any]) -> None:
        """Take nothing for granted that was set in the session."""
        session = self._sessions.get(id(raw))
        if session is not None:
            session.forget()

    def _set_limit(
        self, raw: psycopg.Connection[Any], session: Session, limit: int
    ) -> None:
        if session.usual is None:
            said = f"show statement_timeout;set statement_timeout = {limit}"
            session.usual = milliseconds(self._ask(raw, said)[0])
            session.limit = limit
            if not 0 < session.usual < limit:
                return
            limit = session.usual  # The user's own is not to become any longer.
        self._ask(raw, f"set statement_timeout = {limit}")
        session.limit = limit

    # -- What became of a COMMIT -------------------------------------------------------

    def ticket(self, raw: psycopg.Connection[Any]) -> Ticket | None:
        """Return by what the open transaction is found again; None where it is not."""
        session = self._sessions[id(raw)]
        if not session.era:
            return None
        xid = session.xid
        if xid is None:
            (xid,) = self._ask(raw, "select pg_current_xact_id_if_assigned()::text")
        return Ticket(xid, session.era)

    def verdict(self, raw: psycopg.Connection[Any], ticket: Ticket) -> str | None:
        """Ask what became of the transaction that has *ticket*.

        Args:
            raw: a connection of its own.
            ticket: what `ticket` returned.

        Returns:
            "committed", "aborted", "in progress", or None: the server does not know,
            has crashed since, or it is another one.
        """
        (status,) = self._ask(raw, _VERDICT, (ticket.era, ticket.xid))
        return None if status is None else str(status)

    def rollback(self, raw: psycopg.Connection[Any]) -> None:
        """Roll the transaction back, where the connection still can.

        Raises:
            psycopg.ProgrammingError: it cannot, and must be closed.
        """
        if self.state(raw) is TransactionState.BUSY:
            # psycopg would wait for its own lock, which nobody is left to release.
            raise psycopg.ProgrammingError("a result or a COPY was left in the middle")
        if not raw.closed:
            raw.rollback()

    def dirty(self, raw: psycopg.Connection[Any]) -> bool:
        """Say whether somebody's BEGIN was left open."""
        return raw.pgconn.transaction_status != TransactionStatus.IDLE

    def state(self, raw: psycopg.Connection[Any]) -> TransactionState:
        """Say what has become of the transaction; after an error it has failed."""
        status = raw.pgconn.transaction_status
        if status == TransactionStatus.ACTIVE and not raw.pgconn.pipeline_status:
            return TransactionState.BUSY
        return _STATES.get(status, TransactionState.OPEN)
