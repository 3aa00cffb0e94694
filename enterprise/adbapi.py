"""ConnectionPool: the front door.

Calls come in on a loop's thread and become jobs, in `verbs` and `flows`; workers that
own a connection each pull them; outcomes go home to the loop the call came from.
`close`, `stats`, `snapshot` and `repr` work in any thread; what returns a Deferred
needs a loop.

Source: `adbapi.ConnectionPool` of the 2002 paper and of Twisted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Self

from enterprise.flows import Flows
from enterprise.ledger import Ledger
from enterprise.office import Office
from enterprise.options import Options
from enterprise.snapshot import look
from enterprise.source import driverFor
from threadpool._require import requireDelay
from threadpool.home import here, hereOrNone

if TYPE_CHECKING:
    from enterprise.snapshot import Snapshot
    from enterprise.stats import PoolStats
    from threadpool.defer import Deferred

__all__ = ["ConnectionPool"]


class ConnectionPool(Flows):
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
            push=options.cp_push_timeout,
            bouncer=options.cp_pgbouncer,
            prepare=not options.cp_pgbouncer and options.cp_resetfun is None,
            resolve=options.cp_resolve_commit,
        )
        office = Office(self.driver, options)
        self.name = office.name
        super().__init__(office, Ledger(self.name))

    @property
    def paramstyle(self) -> str:
        """How this driver writes parameters: one of PEP 249's five names."""
        return self.driver.paramstyle

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

    def close(self, timeout: float | None = None) -> Deferred[tuple[str, ...]]:
        """Take no more work, let what was taken end, and close all connections.

        May be called again, at any time and in any thread. Where no event loop runs
        it blocks until all is closed.

        Args:
            timeout: seconds that work may go on before it is stopped; left out,
                `cp_close_timeout`.

        Returns:
            A Deferred that fires when every connection is closed, with what was
            stopped before it was done: SQL without values and names of functions;
            empty where everything ended by itself.

        Raises:
            TypeError: *timeout* is no number.
            ValueError: it is negative or not finite.
            WrongThread: this is a worker of the pool, which would wait for itself.
        """
        if timeout is None:
            timeout = self.options.cp_close_timeout
        requireDelay(timeout, "timeout")
        return self._office.ending.begin(hereOrNone(), timeout)

    def stats(self) -> PoolStats:
        """Return the figures of this moment. Any thread."""
        return self._office.stats()

    def snapshot(self, stacks: bool = False) -> Snapshot:
        """Return who runs what at this moment, for how long, and who waits. Any thread.

        Args:
            stacks: tell also where each worker's thread is in Python. That takes some
                0.1 ms for each, in which no other Python code runs.

        Returns:
            A frozen Snapshot. It holds no values: SQL without its parameters, and names
            of functions.
        """
        return look(self._office, stacks=stacks)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"The pool {self._office.name!r} cannot be pickled or copied: its threads, "
            "connections and passwords stay in this process. Make one from the same "
            "arguments where another is needed."
        )

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<ConnectionPool {self.driver.name!r} {self._office.state}, "
            f"{stats.busy} busy, {stats.idle} idle, {stats.waiting} waiting>"
        )
