"""ConnectionPool: the front door.

Calls come in on a loop's thread and become jobs; workers that own a connection each
pull them; outcomes go home to the loop the call came from. `close`, `stats` and
`repr` work in any thread; what returns a Deferred needs a loop.

Source: `adbapi.ConnectionPool` of the 2002 paper and of Twisted.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Self, TypeVar

from enterprise import jobs
from enterprise.interaction import Interaction, Terms, WithConnection
from enterprise.office import Office
from enterprise.options import Options
from enterprise.source import driverFor
from threadpool.home import here, hereOrNone

if TYPE_CHECKING:
    from collections.abc import Callable

    from enterprise.rows import Result
    from enterprise.stats import PoolStats
    from threadpool.defer import Deferred

__all__ = ["ConnectionPool"]

T = TypeVar("T")


class ConnectionPool:
    """Connections to one database, each with a thread of its own.

    Args:
        source: a URL in SQLAlchemy's spelling ("sqlite:///shop.db",
            "postgresql://user:password@host/name"), the name of a DB-API 2.0 module,
            the module itself, or a callable that opens a connection.
        connargs: positional arguments for connecting.
        connkw: keyword arguments for connecting; those that start with `cp_` are the
            pool's own, see `enterprise.options.Options`.

    Raises:
        ConfigurationError: the URL, the driver or an option is wrong.

    Source: `adbapi.ConnectionPool`. Unlike it, this one has a bounded queue, and
    threads that live as long as their connection.
    """

    def __init__(self, source: object, *connargs: Any, **connkw: Any) -> None:
        self.options, theirs = Options.split(connkw)
        options = self.options
        self.driver = driverFor(
            source,
            connargs,
            theirs,
            connect_seconds=options.cp_connect_timeout,
            wal=options.cp_wal,
        )
        self._office = Office(self.driver, options)
        self.name = self._office.name

    @property
    def paramstyle(self) -> str:
        """How this driver writes parameters: one of PEP 249's five names."""
        return self.driver.paramstyle

    # -- Statements ---------------------------------------------------------------

    def runQuery(
        self, statement: str, params: Any = None, *, write: bool = False
    ) -> Deferred[list[Any]]:
        """Run one statement and return its rows.

        Args:
            statement: SQL, with placeholders in the driver's own style.
            params: a sequence or a mapping of values; None for none.
            write: with SQLite, run it on the writer at once. A statement that turns
                out to write gets there anyway, a little later.

        Returns:
            A Deferred of the list of rows, each a tuple; empty for a statement that
            gives no rows. It fails with the driver's own exception for what is wrong
            with the statement, with ConnectFailed, PoolFull or PoolClosed.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *statement* is not a string.
        """
        _require_statement(statement)
        crew = self._office.writer if write else self._office.reader
        job = jobs.Query(here(), None, (statement, params), None, crew.team)
        return self._office.submit(job)

    def runOperation(self, statement: str, params: Any = None) -> Deferred[None]:
        """Run one statement for its effect; it is committed by itself.

        Args:
            statement: SQL, with placeholders in the driver's own style.
            params: a sequence or a mapping of values; None for none.

        Returns:
            A Deferred of None; it fails as that of `runQuery`.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *statement* is not a string.
        """
        _require_statement(statement)
        job = jobs.Operation(
            here(), None, (statement, params), None, self._office.writer.team
        )
        return self._office.submit(job)

    def runResult(
        self, statement: str, params: Any = None, *, write: bool = False
    ) -> Deferred[Result]:
        """Run one statement and return all that the driver tells about it.

        Args:
            statement: SQL, with placeholders in the driver's own style.
            params: a sequence or a mapping of values; None for none.
            write: as for `runQuery`.

        Returns:
            A Deferred of a Result: rows, column names, rowcount, lastrowid.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *statement* is not a string.
        """
        _require_statement(statement)
        crew = self._office.writer if write else self._office.reader
        job = jobs.WholeResult(here(), None, (statement, params), None, crew.team)
        return self._office.submit(job)

    def runScript(self, text: str) -> Deferred[None]:
        """Run several statements in one text, all or none.

        Args:
            text: statements separated by semicolons, without parameters.

        Returns:
            A Deferred of None.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *text* is not a string.
        """
        _require_statement(text)
        job = jobs.Script(here(), None, (text,), None, self._office.writer.team)
        return self._office.submit(job)

    # -- Functions --------------------------------------------------------------------

    def runInteraction(
        self,
        function: Callable[..., T],
        /,
        *args: Any,
        readonly: bool = False,
        **kwargs: Any,
    ) -> Deferred[T]:
        """Call *function* in a worker, inside one transaction.

        Begin, the whole function and commit are one hop to a thread and back. What
        the function raises rolls everything back and arrives here.

        Args:
            function: a plain function, called as `function(txn, *args, **kwargs)`;
                see `enterprise.transaction.Transaction`.
            args: its further positional arguments.
            readonly: begin a transaction that cannot write; with SQLite it then runs
                beside others, on a reader.
            kwargs: its keyword arguments.

        Returns:
            A Deferred of what the function returns.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *function* is async or a generator: its transaction would end
                before it began. Also when it has a parameter named as one of ours.
        """
        return self._interact(Interaction, function, args, kwargs, readonly)

    def runWithConnection(
        self, function: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> Deferred[T]:
        """Call *function* with a connection, inside one transaction.

        Args:
            function: a plain function, called as `function(connection, *args,
                **kwargs)`; see `enterprise.transaction.Connection`.
            args: its further positional arguments.
            kwargs: its keyword arguments.

        Returns:
            A Deferred of what the function returns.

        Raises:
            WrongThread: no event loop runs here.
            TypeError: *function* is async or a generator.
        """
        return self._interact(WithConnection, function, args, kwargs, False)

    def _interact(
        self,
        kind: type[Interaction[Any]],
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        readonly: bool,
    ) -> Deferred[T]:
        _require_plain(function)
        if kind is Interaction:
            _require_own_names(function)
        crew = self._office.reader if readonly else self._office.writer
        terms = Terms(readonly=readonly)
        job = kind(here(), function, args, kwargs, crew.team, terms=terms)
        return self._office.submit(job)

    # -- Life ------------------------------------------------------------------------

    def start(self) -> Deferred[None]:
        """Open `cp_min` connections now. Nobody must: the first call does it too.

        Returns:
            A Deferred that fires with None when they are open, or fails with the
            first ConnectFailed.

        Raises:
            WrongThread: no event loop runs here.
            threadable.ThreadsDisabled: the program has forbidden threads.
        """
        return self._office.start(here())

    def close(self, timeout: float | None = None) -> Deferred[None]:
        """Take no more work, let what was taken end, and close all connections.

        May be called again, at any time and in any thread. Where no event loop runs
        it blocks until all is closed.

        Args:
            timeout: seconds that work may go on before it is stopped; left out,
                `cp_close_timeout`.

        Returns:
            A Deferred that fires with None when every connection is closed.
        """
        return self._office.close(hereOrNone(), timeout)

    def stats(self) -> PoolStats:
        """Return the figures of this moment. Any thread."""
        return self._office.stats()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<ConnectionPool {self.driver.name!r} {self._office.state}, "
            f"{stats.busy} busy, {stats.idle} idle, {stats.waiting} waiting>"
        )


def _require_statement(statement: object) -> None:
    if not isinstance(statement, str):
        raise TypeError(
            f"The statement is {type(statement).__name__}, not a string. Pass SQL as "
            "text, and values as the parameters after it."
        )


def _require_own_names(function: object) -> None:
    """Refuse functions that would never get their argument, since we take it."""
    code = getattr(function, "__code__", None)  # A partial has none, and is the cure.
    if code is None:
        return
    theirs = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if "readonly" in theirs:
        raise TypeError(
            f"{function!r} has a parameter 'readonly', and runInteraction takes that "
            "word itself. Bind it: functools.partial(function, readonly=...)."
        )


def _require_plain(function: object) -> None:
    """Refuse functions whose work would be done after the transaction's end."""
    called: Any = getattr(function, "func", function)  # functools.partial
    if not callable(called):
        raise TypeError(
            f"{function!r} cannot be called. Pass a function that takes the "
            "transaction as its first argument."
        )
    method = called if inspect.isroutine(called) else type(called).__call__
    for kind, is_kind in (
        ("a coroutine function", inspect.iscoroutinefunction),
        ("an async generator function", inspect.isasyncgenfunction),
        ("a generator function", inspect.isgeneratorfunction),
    ):
        if is_kind(called) or is_kind(method):
            raise TypeError(
                f"{function!r} is {kind}: it would return before it has done "
                "anything, and its transaction would be over. Pass a plain function; "
                "it runs in a thread of its own and may block."
            )
