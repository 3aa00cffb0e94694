"""A DB-API 2.0 driver without a database, which does what its script says.

    script = Scripted()
    script.will("commit", "fail")               # the next commit
    pool = ConnectionPool(script)
    pool.runOperation("hang here")              # until script.gate("here").open()

A line of the script is a word and what it needs: in a statement it tells `execute` what
to do, in `will` it tells the next call of any verb.

    rows 1 2 3      give these rows, of one column each
    hang NAME       wait until the gate NAME is opened
    lose            end the connection, and say so
    busy            say that the database is locked
    fail TEXT       raise OperationalError(TEXT)
    crash           raise an error that is none of the driver's

Several lines, separated by semicolons, are done in turn; every other statement gives no
rows. Every call is counted and written down, and so is each that comes in a thread
which may not make it. Needs no pytest; any thread may enter.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from types import ModuleType

VERBS = ("connect", "cursor", "execute", "fetch", "commit", "rollback", "close")

# Whoever forgets to open a gate gets an error, not a hung test run.
PATIENCE_SECONDS = 40.0


class Error(Exception):
    """The base of what this driver raises."""


class InterfaceError(Error):
    """The connection or the cursor is closed."""


class OperationalError(Error):
    """The database had a problem."""


class Gate:
    """Where a call waits; `reached` is set when one has come."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        """Let everybody pass, from now on."""
        self._opened.set()

    def wait(self) -> None:
        self.reached.set()
        if not self._opened.wait(PATIENCE_SECONDS):
            raise OperationalError("Nobody opened the gate.")


class Scripted(ModuleType):
    """A module to hand to ConnectionPool.

    Args:
        paramstyle: as in PEP 249; the parameters themselves are only written down.
        threadsafety: as in PEP 249. Below 2, a connection's calls must all come in the
            thread that opened it.

    Attributes:
        calls: how often each verb was called.
        history: (number of the connection, verb, what it got), in order.
        trespasses: the entries of *history* that came in a wrong thread.
    """

    apilevel = "2.0"
    Error = Error
    InterfaceError = InterfaceError
    OperationalError = OperationalError

    def __init__(self, *, paramstyle: str = "qmark", threadsafety: int = 1) -> None:
        super().__init__("scripted")
        self.paramstyle = paramstyle
        self.threadsafety = threadsafety
        self.calls: Counter[str] = Counter()
        self.history: list[tuple[int, str, object]] = []
        self.trespasses: list[tuple[int, str, object]] = []
        self.connections: list[Connection] = []
        self._gates: dict[str, Gate] = {}
        self._lines: dict[str, deque[str]] = {verb: deque() for verb in VERBS}
        self._lock = threading.Lock()

    def will(self, verb: str, *lines: str) -> None:
        """Say what the next calls of *verb* do, one after the other."""
        self._lines[verb].extend(lines)

    def gate(self, name: str) -> Gate:
        """Return the gate *name*."""
        with self._lock:
            return self._gates.setdefault(name, Gate())

    def release(self) -> None:
        """Open all gates."""
        for gate in list(self._gates.values()):
            gate.open()

    @property
    def open(self) -> int:
        """How many connections are open, the lost ones included."""
        return sum(not connection.closed for connection in self.connections)

    def connect(self, *args: object, **kwargs: object) -> Connection:
        """Open a connection."""
        connection = Connection(self, len(self.connections))
        self.act(connection, "connect", (args, kwargs))
        self.connections.append(connection)
        return connection

    def act(self, connection: Connection, verb: str, what: object) -> list[object]:
        """Note a call and do what its line says; return the rows it gives."""
        with self._lock:
            entry = (connection.number, verb, what)
            self.calls[verb] += 1
            self.history.append(entry)
            if self.threadsafety < 2 and threading.get_ident() != connection.thread:
                self.trespasses.append(entry)
            lines = self._lines[verb].popleft() if self._lines[verb] else ""
        if verb != "close" and (connection.closed or connection.lost):
            raise InterfaceError(f"{verb}: the connection is closed")
        if not lines and verb == "execute":
            lines = str(what[0])
        rows: list[object] = []
        for line in lines.split(";"):
            rows += self._do(connection, *line.split())
        return rows

    def _do(self, connection: Connection, word: str = "", *rest: str) -> list[object]:
        if word == "rows":
            return [(int(value),) for value in rest]
        if word == "hang":
            self.gate(rest[0]).wait()
        elif word == "lose":
            connection.lost = True
            raise OperationalError("server closed the connection")
        elif word == "busy":
            raise OperationalError("database is locked")
        elif word == "fail":
            raise OperationalError(" ".join(rest))
        elif word == "crash":
            raise ZeroDivisionError("a bug in the driver")
        return []


class Connection:
    """A connection of a Scripted driver."""

    def __init__(self, script: Scripted, number: int) -> None:
        self.script = script
        self.number = number
        self.thread = threading.get_ident()
        self.closed = self.lost = False

    def cursor(self) -> Cursor:
        self.script.act(self, "cursor", None)
        return Cursor(self)

    def commit(self) -> None:
        self.script.act(self, "commit", None)

    def rollback(self) -> None:
        self.script.act(self, "rollback", None)

    def close(self) -> None:
        self.script.act(self, "close", None)
        self.closed = True


class Cursor:
    """A cursor of a Scripted driver."""

    rowcount = -1
    arraysize = 1
    description: list[tuple[object, ...]] | None = None

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.closed = False
        self._rows: deque[object] = deque()

    def execute(self, sql: str, params: object = None) -> None:
        self.description = None
        rows = self.connection.script.act(self.connection, "execute", (sql, params))
        self._rows = deque(rows)
        if rows:
            self.description = [("value", *[None] * 6)]

    def executemany(self, sql: str, rows: object) -> None:
        for row in rows:
            self.execute(sql, row)

    def fetchone(self) -> object:
        self.connection.script.act(self.connection, "fetch", None)
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int = 1) -> list[object]:
        self.connection.script.act(self.connection, "fetch", size)
        return [self._rows.popleft() for _ in range(min(size, len(self._rows)))]

    def fetchall(self) -> list[object]:
        self.connection.script.act(self.connection, "fetch", None)
        rows, self._rows = list(self._rows), deque()
        return rows

    def close(self) -> None:
        if self.connection.lost:
            raise InterfaceError("close: the connection is closed")
        self.closed = True
