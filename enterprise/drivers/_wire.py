"""One PostgreSQL connection in pipeline mode: what is sent, and what comes back.

Through `psycopg.pq`, psycopg's public way to libpq, and its public `Transformer`, which
adapts values exactly as its cursors do. Nothing here ever waits but `wait`, and that
without the GIL: `get_result` would hold it, so it is asked for what is here only.

Only the thread that owns the connection may enter.

Source: libpq's chapter on pipeline mode; psycopg's rule of preparing what was said five
times.
"""

from __future__ import annotations

import math
import select
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from enterprise.drivers._fetch import MANY, inPieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGresult

    from enterprise.drivers._durations import Known

__all__ = ["Entry", "Wire"]

# Of texts that were not said often enough to be prepared, so many are counted.
COUNTED = 1000

_SYNC = ExecStatus.PIPELINE_SYNC
_FATAL = ExecStatus.FATAL_ERROR
_AUTO = PyFormat.AUTO


class _Plan:
    """How often something was said here, and under what name it is prepared."""

    __slots__ = ("count", "name")

    def __init__(self) -> None:
        self.count = 0
        self.name = b""


class Entry:
    """What has its own sync in the pipeline.

    Attributes:
        job: whose statement it is; None for one of ours.
        known: what is known of its text.
        plan: its plan; None where it is not prepared.
        prepares: it begins with preparing that.
        results: the server's, when it has answered.
    """

    __slots__ = ("job", "known", "plan", "prepares", "results")

    def __init__(self, job: Any, known: Known | None = None) -> None:
        self.job = job
        self.known = known
        self.plan: _Plan | None = None
        self.prepares = False
        self.results: list[PGresult] = []

    def failed(self) -> PGresult | None:
        """Return the first of its results that is an error."""
        for result in self.results:
            if result.status == _FATAL:
                return result
        return None


class Wire:
    """A connection, as long as it is open.

    Args:
        raw: psycopg's.

    Attributes:
        due: what was sent and is not answered, in order.
        round_trip: the seconds that an empty message takes; math.inf while nobody
            has looked.
    """

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self.raw = raw
        self._pg = raw.pgconn
        self._poll = select.poll()
        self._poll.register(self._pg.socket, select.POLLIN)
        self._writing = False
        self.due: deque[Entry] = deque()
        self._results: list[PGresult] = []
        self._adapt = Transformer(raw)
        # By text and types, as the server tells statements apart.
        self._plans: OrderedDict[tuple[bytes, tuple[int, ...]], _Plan] = OrderedDict()
        self._prepared: OrderedDict[bytes, _Plan] = OrderedDict()
        self._names = 0
        self.round_trip = math.inf

    def fits(self) -> bool:
        """Say whether all is as it usually is, so that no cursor is needed."""
        # Anew each time, since the user may register adapters between two pipelines.
        raw = self.raw
        self._adapt = Transformer(raw)
        return (
            raw.cursor_factory is psycopg.Cursor
            and raw.row_factory is tuple_row
            and raw.autocommit
            and self._adapt.encoding == "utf-8"
            and self._pg.transaction_status == TransactionStatus.IDLE
            and self._pg.pipeline_status == PipelineStatus.OFF
        )

    def enter(self) -> None:
        """Begin a pipeline."""
        self._pg.enter_pipeline_mode()

    def leave(self) -> None:
        """End it, when everything was answered.

        Raises:
            psycopg.OperationalError: it was not.
        """
        self._pg.exit_pipeline_mode()

    # -- Sending -----------------------------------------------------------------------

    def adapted(self, known: Known, params: Any) -> Sequence[Any]:
        """Return *params* as the server takes them; `say` comes next.

        Args:
            known: what is known of the text.
            params: which `known.takes`.

        Raises:
            Exception: whatever psycopg has against them.
        """
        if known.names is not None:
            params = [params[name] for name in known.names]
        return self._adapt.dump_sequence(params, [_AUTO] * known.count)

    def say(self, entry: Entry, sql: bytes, values: Sequence[Any] | None) -> None:
        """Send a statement and its sync, or as much of it as can be sent now.

        Args:
            entry: of the statement.
            sql: its text.
            values: what `adapted` returned; None where there are none.

        Raises:
            psycopg.OperationalError: the connection is lost, nothing was sent.
        """
        pg = self._pg
        types = formats = None
        if values:
            types, formats = self._adapt.types or (), self._adapt.formats
        name = self._name(entry, sql, types or ())
        if entry.prepares:
            pg.send_prepare(name, sql, types)
        if name:
            pg.send_query_prepared(name, values, formats)
        else:
            pg.send_query_params(sql, values, types, formats)
        self._sync(entry)

    def ask(self, sql: bytes = b"") -> None:
        """Send something of our own; without a text only a sync, to hear an echo.

        Args:
            sql: a statement without parameters.
        """
        if sql:
            self._pg.send_query_params(sql, None)
        self._sync(Entry(None))

    def _sync(self, entry: Entry) -> None:
        self.due.append(entry)
        self._pg.pipeline_sync()

    def _name(self, entry: Entry, sql: bytes, types: tuple[int, ...]) -> bytes:
        """Return the name under which *sql* is prepared, or will be; or nothing."""
        threshold = self.raw.prepare_threshold
        if threshold is None or entry.job is None:
            return b""
        key = (sql, types)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= COUNTED:
                self._forget_oldest()
            plan = self._plans[key] = _Plan()
        entry.plan = plan
        if plan.name:
            self._prepared.move_to_end(plan.name)
        elif plan.count < threshold:
            plan.count += 1
        else:
            self._names += 1
            plan.name = b"_threadbridge_%d" % self._names
            self._make_room()
            self._prepared[plan.name] = plan
            entry.prepares = True
        return plan.name

    def _make_room(self) -> None:
        most = self.raw.prepared_max
        while self._prepared and most is not None and len(self._prepared) >= most:
            name, plan = self._prepared.popitem(last=False)
            plan.name, plan.count = b"", 0
            self.ask(b"deallocate " + name)

    def _forget_oldest(self) -> None:
        # A plan that is in use is at the end of the other dict; these are few.
        for key, plan in list(self._plans.items())[: COUNTED // 8]:
            if not plan.name:
                del self._plans[key]
        if len(self._plans) >= COUNTED:
            self._plans.popitem()

    def unprepared(self, entry: Entry) -> None:
        """Note that *entry*'s statement is not, or no longer, prepared.

        Args:
            entry: answered with an error that says so.
        """
        plan = entry.plan
        if plan is not None and plan.name:
            self._prepared.pop(plan.name, None)
            plan.name, plan.count = b"", 0

    def forgotten(self) -> None:
        """Note that the session's prepared statements were all taken away."""
        for plan in self._prepared.values():
            plan.name, plan.count = b"", 0
        self._prepared.clear()

    # -- Hearing -----------------------------------------------------------------------

    def wait(self, seconds: float) -> bool:
        """Wait for the server; False when it has said nothing for so long.

        Args:
            seconds: at the most.
        """
        unsent = self._pg.flush() != 0
        if unsent is not self._writing:
            self._writing = unsent
            wanted = select.POLLIN | select.POLLOUT if unsent else select.POLLIN
            self._poll.modify(self._pg.socket, wanted)
        return bool(self._poll.poll(seconds * 1000))

    def read(self) -> list[Entry]:
        """Return the entries that are answered by now, their results in them.

        Raises:
            psycopg.OperationalError: the connection is lost, and nothing was read.
        """
        pg = self._pg
        lost: psycopg.Error | None = None
        try:
            pg.consume_input()
        except psycopg.OperationalError as error:
            lost = error  # What came before may still be in the buffer.
        answered: list[Entry] = []
        nothing = 0
        while self.due and not pg.is_busy():
            result = pg.get_result()
            if result is None:
                nothing += 1
                if nothing > 1:
                    break
                continue
            nothing = 0
            if result.status == _SYNC:
                entry = self.due.popleft()
                entry.results, self._results = self._results, entry.results
                answered.append(entry)
            else:
                self._results.append(result)
        while notice := pg.notifies():
            if pg.notify_handler is not None:
                pg.notify_handler(notice)
        if not answered and (lost is not None or pg.status == ConnStatus.BAD):
            raise lost or psycopg.OperationalError(pg.get_error_message())
        return answered

    def rest(self) -> list[PGresult]:
        """Return what came for the oldest one before the connection ended."""
        return self._results

    def rows(self, result: PGresult) -> list[Any]:
        """Return the rows of *result* as tuples."""
        if not result.nfields:
            return []
        adapt = self._adapt
        adapt.set_pgresult(result)
        if result.ntuples <= MANY:
            return adapt.load_rows(0, result.ntuples, tuple)
        return inPieces(_Pages(adapt, result.ntuples), [])

    def __repr__(self) -> str:
        return f"<Wire, {len(self.due)} unanswered, {len(self._prepared)} prepared>"


class _Pages:
    """A result that is here, to be made into Python's objects piece by piece.

    Args:
        adapt: has the result, and knows how.
        count: its rows.
    """

    def __init__(self, adapt: Any, count: int) -> None:
        self._adapt = adapt
        self._count = count
        self._at = 0

    def fetchmany(self, count: int) -> list[Any]:
        begin, self._at = self._at, min(self._at + count, self._count)
        rows: list[Any] = self._adapt.load_rows(begin, self._at, tuple)
        return rows
