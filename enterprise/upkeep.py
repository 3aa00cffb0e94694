"""One connection's upkeep: opened, checked, reset, replaced, closed.

Everything here runs on the thread that owns the connection.

Source: HikariCP's and pgxpool's rules for the life of a connection; Go's lazy session
reset, after the answer has gone home.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from enterprise.errors import ConnectFailed
from threadpool import ticker
from threadpool.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enterprise.drivers.base import Lane
    from enterprise.laneoffice import LaneOffice

__all__ = ["Upkeep"]

_log = logging.getLogger(__name__)

# How long a connection may take to say that it is alive: far more than a round trip to
# the other end of the world.
CHECK_SECONDS = 1.0


class Upkeep:
    """The connection of one worker.

    Args:
        office: the pool.
        lane: what kind of worker owns it.

    Attributes:
        raw: the driver's own connection; None while there is none.
        dead: it was found dead.
        gone: a rollback has found that, whatever the error before it said.
        severed: it was cut off by us, which says nothing about other connections.
        attention: it must be looked at before its next job.
        began: when the last attempt to open one did, in seconds of time.monotonic().
        generation: the pool's, when the connection was known to live.
    """

    def __init__(self, office: LaneOffice, lane: Lane) -> None:
        self._office = office
        self._driver = office.driver
        self._options = office.options
        self._lane = lane
        self.raw: Any = None
        self.dead = self.gone = False
        self.severed = False
        self.attention = False
        self.began = 0.0
        self._used = False  # Since it was reset.
        self._doubted = False  # It rested so long that it may have died.
        self.generation = 0  # Of the pool's, when the connection was known to live.
        self._expires = math.inf  # Seconds of time.monotonic().

    # -- From its beginning to its end -------------------------------------------------

    def open(self) -> None:
        """Open a connection.

        Raises:
            ConnectFailed: that could not be done.
        """
        self.began = time.monotonic()
        self._office.connecting()
        try:
            self.raw = self._connect()
        except ConnectFailed:
            raise  # The driver explains it better than we could.
        except BaseException as error:
            raise self._explained(error) from error
        self.dead = self.gone = self.attention = self._used = self._doubted = False
        self._office.tally.connected(time.monotonic() - self.began)
        self._office.opened()

    def _connect(self) -> Any:
        self.generation = self._office.generation
        raw = self._driver.connect(self._lane)
        try:
            with self._bounded(raw, self._options.cp_connect_timeout):
                if self._options.cp_openfun is not None:
                    self._options.cp_openfun(raw)
                self._driver.settle(raw, self._lane)
        except BaseException:
            self._driver.close(raw)
            raise
        if not self._driver.lives_in_memory:
            # Less up to a twentieth: those opened together shall not end together.
            span = self._options.cp_lifetime * random.uniform(0.95, 1)  # noqa: S311
            self._expires = time.monotonic() + span
        return raw

    def close(self) -> None:
        """Close the connection; nothing happens where there is none."""
        if self.raw is None:
            return
        function = self._options.cp_closefun
        if function is not None and not self.dead:
            self._call_hook("cp_closefun", function)
        raw, self.raw = self.raw, None
        try:
            self._driver.close(raw)
        except BaseException as error:  # Else the worker's thread would end with it.
            if not self.dead:
                _log.warning(
                    "A connection to %s closed badly: %s", self._driver.name, error
                )
        finally:
            self._office.closed()

    # -- Whether it still lives --------------------------------------------------------

    def stale(self) -> bool:
        """Say whether others were found dead since this one was known to live."""
        return self.generation != self._office.generation

    def expired(self) -> bool:
        """Say whether its time is over."""
        return time.monotonic() >= self._expires

    def remaining(self) -> float:
        """Return for how many seconds it may still be kept."""
        return self._expires - time.monotonic()

    def alive(self) -> bool:
        """Ask the database; a dead connection is told of, and never used again."""
        try:
            with self._bounded(self.raw, max(CHECK_SECONDS, self._office.grace)):
                self._driver.check(self.raw, self._options.cp_good_sql)
        except Exception as error:
            _log.debug("A connection to %s is dead: %s", self._driver.name, error)
            self.bury()
            return False
        self.generation = self._office.generation
        return True

    def bury(self) -> None:
        """Note that it is dead; unless we did it, the others may be, too."""
        self.dead, self._expires = True, 0.0
        self.attention = True
        if not self.severed:
            self._office.lost()

    def rested(self, seconds: float) -> None:
        """Note that it had nothing to do.

        Args:
            seconds: for so long.
        """
        if seconds > self._options.cp_check:
            self._doubted = self.attention = True

    def used(self) -> None:
        """Note that a job has had it, which may have left something in its session."""
        self._used = self.attention = True

    def reset(self) -> bool:
        """Have the user's function clear away what the last job left behind.

        Returns:
            False where that failed, and the connection must not be used again.
        """
        function = self._options.cp_resetfun
        if not self._used or function is None:
            return True
        self._used = False
        if self._call_hook("cp_resetfun", function) or self._driver.lives_in_memory:
            return True
        self._expires, self.attention = 0.0, True
        return False

    @contextlib.contextmanager
    def _bounded(self, raw: Any, seconds: float) -> Iterator[None]:
        """Cut *raw* off unless the block ends in time: no job stands for this wait."""
        lock = threading.Lock()
        held: list[Any] = [raw]

        def cut() -> None:
            with lock:
                for late in held:
                    self._driver.sever(late)

        if not self._driver.lives_in_memory:
            ticker.alarm(time.monotonic() + seconds, cut)
        try:
            yield
        finally:
            with lock:  # Its descriptor may be another's as soon as it is closed.
                held.clear()

    def renew(self) -> None:
        """Make sure that the connection lives; put another one in its place if not.

        Raises:
            ConnectFailed: it does not, and there is no other.
        """
        fine = self.reset()
        if self._driver.lives_in_memory:
            self.attention = False
            return  # With it the data would go.
        doubted = self._doubted or self.stale() or self._driver.closed(self.raw)
        if fine and not self.expired() and (not doubted or self.alive()):
            self.attention = self._doubted = False
            return
        self.close()
        self.open()

    def _call_hook(self, name: str, function: Callable[[Any], object]) -> bool:
        try:
            self._driver.unlimit(self.raw)  # A job's time is not the function's.
            function(self.raw)
            self._driver.forget(self.raw)
            if self._driver.dirty(self.raw):
                self._driver.rollback(self.raw)
        except BaseException:  # Of whatever kind, it ends this connection only.
            _log.exception(
                "%s failed, so this connection to %s is closed. Mend the function: "
                "it gets each raw connection, in the connection's own thread.",
                name,
                self._driver.name,
            )
            return False
        return True

    # -- Texts -------------------------------------------------------------------------

    def _explained(self, error: BaseException) -> ConnectFailed:
        said = str(Failure(error)).rstrip(".?! \n")
        return ConnectFailed(
            f"No connection to {self._driver.name} could be opened: {said}. Nothing "
            f"was done. {self._advice(error)} The driver's error is the cause."
        )

    def _advice(self, error: BaseException) -> str:
        if isinstance(error, TypeError):
            return (
                "Check the arguments: the driver's connect() got all that do not "
                "start with cp_."
            )
        return self._driver.connect_advice

    def __repr__(self) -> str:
        state = "none" if self.raw is None else "dead" if self.dead else "open"
        return f"<Upkeep of a connection to {self._driver.name}, {state}>"
