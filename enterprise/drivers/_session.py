"""What we know of one PostgreSQL session: its limits, and its transaction's number.

Touched by the thread that owns the connection only.
"""

from __future__ import annotations

import dataclasses
import math
import re

__all__ = ["Session", "Ticket", "milliseconds", "rounded"]

# A limit of the server's more than so many times too big is set anew.
LOOSE = 4

# Less would stop what only looks whether the connection lives, on a busy server.
SHORTEST_MS = 128

# The server counts milliseconds in 32 bits; what comes near that is no limit at all.
LONGEST_MS = 1 << 30

# No limit is like this one, so it is set anew where any is wanted, and where none is.
UNKNOWN_MS = -1

_UNITS = {"us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000}
_UNITS["d"] = 24 * _UNITS["h"]
_AMOUNT = re.compile(r"(\d+)\s*([a-z]*)")


def milliseconds(shown: str) -> int:
    """Return how long the server says a time is, in milliseconds; 0 for no limit.

    Args:
        shown: as SHOW shows it, such as "5s" or "0".
    """
    found = _AMOUNT.fullmatch(shown)
    if found is None:
        return 0
    return math.ceil(int(found[1]) * _UNITS.get(found[2], 1))


def rounded(seconds: float) -> int:
    """Return a limit for the server, a power of two in milliseconds; 0 for none.

    Never less than was asked for: the server's limit is only there for the case that
    our own canceller does not get through.

    Args:
        seconds: what is left of a job's time.
    """
    if seconds * 1000 >= LONGEST_MS:  # math.inf, too.
        return 0
    limit = max(SHORTEST_MS, 1 << max(0, math.ceil(seconds * 1000) - 1).bit_length())
    return limit if limit < LONGEST_MS else 0


@dataclasses.dataclass(frozen=True, slots=True)
class Ticket:
    """By which a transaction is found again whose COMMIT got no answer.

    Attributes:
        xid: the server's number of the transaction; None where it wrote nothing.
        era: when the server's figures began, which a crash resets: from then on it
            gives some numbers a second time.
    """

    xid: str | None
    era: str


class Session:
    """What we know of one session.

    Attributes:
        usual: its `statement_timeout`, in milliseconds, before we ever set it; None
            as long as nobody has asked.
        limit: what we have set it to; None where we have not.
        deadline: when the time of the job that is about to begin a transaction is
            over, in seconds of time.monotonic(); None for no limit.
        isolation: the isolation level of transactions that do not say.
        era: see `Ticket`; empty where commits cannot be looked up.
        xid: the number of the transaction, if we have it already.
        cancels: how often the server was asked to stop what it does. Written by the
            canceller, while it has the worker's guard.
    """

    __slots__ = ("cancels", "deadline", "era", "isolation", "limit", "usual", "xid")

    def __init__(self) -> None:
        self.usual: int | None = None
        self.limit: int | None = None
        self.deadline: float | None = None
        self.isolation = ""
        self.era = ""
        self.xid: str | None = None
        self.cancels = 0

    @property
    def limited(self) -> bool:
        """Whether a limit of ours, not the user's, holds in this session."""
        return self.limit is not None and self.limit != self.usual

    def capped(self, limit: int) -> int:
        """Return *limit*, or the user's own where that is less.

        Args:
            limit: milliseconds; 0 for none.
        """
        return min(limit or self.usual or 0, self.usual or limit)

    def wanted(self, seconds: float) -> int | None:
        """Return what limit to set for a statement; None to leave it as it is.

        Args:
            seconds: for which the statement may still go on.
        """
        limit = rounded(seconds)
        value = self.capped(limit)
        now = self.usual if self.limit is None else self.limit
        if now is None:
            return value or None
        # Neither too small nor much too big: what would be gained is a round trip less.
        fits = now and seconds * 1000 <= now <= LOOSE * limit
        return None if now == value or fits else value

    def forget(self) -> None:
        """Note that somebody may have set anything."""
        self.usual = self.limit = None

    def doubt(self) -> None:
        """Note that it is not known whether the last limit was taken on."""
        if self.limit is not None:
            self.limit = UNKNOWN_MS

    def __repr__(self) -> str:
        limit = self.usual if self.limit is None else self.limit
        return f"<Session, statement_timeout {'?' if limit is None else limit} ms>"
