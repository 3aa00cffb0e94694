"""Outages: what a pool does while no connection can be opened, or some were lost.

Workers report from their threads. Nobody sleeps here: the team is told not to hire
before a certain time.

Source: HikariCP's and pgxpool's back-off; "full jitter" is Amazon's word for it.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enterprise.drivers.base import Driver
    from enterprise.errors import ConnectFailed
    from enterprise.jobs import DatabaseJob
    from threadpool.team import Team

__all__ = ["Outage", "another"]

_log = logging.getLogger(__name__)

# Between attempts to open a connection, in seconds: from the first figure to the
# second, doubling.
BACKOFF_SECONDS = 0.05
BACKOFF_LONGEST = 5.0

# After so many failures in a row that no waiting cures, nobody tries for a while.
HOPELESS = 5
BARRED_SECONDS = 1.0


class Outage:
    """How it stands with a pool's connections.

    Args:
        name: the pool's, for texts.
        driver: says what is hopeless.
    """

    def __init__(self, name: str, driver: Driver) -> None:
        self._name = name
        self._driver = driver
        self._lock = threading.Lock()
        self._failures = 0  # Since the last success. guarded by: _lock
        self._failed_at = -math.inf  # The one counted last. guarded by: _lock
        self._connected = False  # Ever. guarded by: _lock
        self._attempts = 0  # Under way. guarded by: _lock
        # The last failure, while it lasts. guarded by: _lock
        self.setback: ConnectFailed | None = None
        # Seconds until the next attempt should be made, as of the last failure.
        self.pause = 0.0
        # Calls fail without an attempt. guarded by: _lock (for writing)
        self.barred = False
        self._barred_until = 0.0  # Seconds of time.monotonic(). guarded by: _lock

    def begun(self) -> None:
        """Note that an attempt to connect begins; `over` or `failed` ends it."""
        with self._lock:
            self._attempts += 1

    def over(self) -> bool:
        """Note that a connection was opened; say whether that ends an outage."""
        with self._lock:
            self._attempts -= 1
            ended = self.setback is not None
            self._failures, self._connected, self.setback = 0, True, None
            self.pause, self.barred = 0.0, False
        return ended

    def refusal(self) -> ConnectFailed | None:
        """Return why a call is not even to try; None where it is, from now on."""
        with self._lock:
            if self.barred and time.monotonic() >= self._barred_until:
                self.barred = False
            return another(self.setback) if self.barred and self.setback else None

    def failed(
        self, team: Team[DatabaseJob[Any]], error: ConnectFailed, began: float
    ) -> list[DatabaseJob[Any]]:
        """Note that a connection could not be opened.

        While others serve, or the database has been there before, calls wait, and one
        attempt after the other is made. Else, and where waiting is hopeless, as with
        a wrong password, they fail at once.

        Args:
            team: whose worker failed.
            error: why.
            began: when the attempt did, in seconds of time.monotonic().

        Returns:
            The calls that shall fail with it.
        """
        serves = team.serves()
        cause = error.__cause__ or error  # A driver may know it all by itself.
        hopeless = self._driver.fatal(cause)
        now = time.monotonic()
        with self._lock:
            first, self.setback = self.setback is None, error
            self._attempts -= 1
            # Another attempt may be luckier: the last that fails tells the calls.
            hopeful = self._connected or self._attempts > 0
            patient = serves or (hopeful and not hopeless)
            if began > self._failed_at:  # Those that fail together count as one.
                self._failures = min(self._failures + 1, 10)
                self._failed_at = now
            longest = min(BACKOFF_SECONDS * 2**self._failures, BACKOFF_LONGEST)
            # Full jitter: many pools that failed together shall not come back together.
            self.pause = random.uniform(BACKOFF_SECONDS, longest)  # noqa: S311
            if not patient and self._failures > HOPELESS:
                self.pause = max(self.pause, BARRED_SECONDS)
                self.barred, self._barred_until = True, now + BARRED_SECONDS
        if not patient:
            return team.withdraw(lambda _: True)
        team.beCautious(now + self.pause)
        if first and (serves or self._connected):
            goes_on = "fewer connections" if serves else "none until one can be opened"
            _log.warning("%s goes on with %s: %s", self._name, goes_on, str(error))
        return []


def another(error: ConnectFailed) -> ConnectFailed:
    """Make one more of *error*: an exception that is raised twice shows both places.

    Args:
        error: why no connection could be opened.
    """
    twin = type(error)(*error.args)
    twin.__cause__ = error.__cause__
    return twin
