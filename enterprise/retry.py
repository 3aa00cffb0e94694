"""RetryPolicy: when an interaction is run once more, how often, and how soon.

No thread and no clock in this room; a policy can be shared by all of them.

Source: PostgreSQL's advice to retry what fails with 40001 and 40P01; "full jitter" is
Amazon's word for it.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["TRANSIENT", "RetryPolicy", "requireRepeatable"]

# What the database says of two transactions that met, of which one may simply go again.
TRANSIENT = ("serialization", "deadlock", "busy")

_STATES = {"40001": "serialization", "40P01": "deadlock"}

# The low byte of SQLite's extended codes is the code: BUSY_SNAPSHOT is BUSY, too.
_SQLITE_BUSY = 5


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How an interaction is repeated that failed through no fault of its own.

    Args:
        attempts: how often its function is called at the most, the first one included.
        backoff: seconds that the pause after the first attempt may take; it doubles
            with each. A pause is a random part of that.
        longest: seconds that no pause exceeds.
        on: what to repeat for: "serialization" (SQLSTATE 40001), "deadlock" (40P01),
            "busy" (SQLite's BUSY and BUSY_SNAPSHOT), and exception classes.

    Raises:
        ValueError: a number or a word makes no sense.
        TypeError: something in *on* is neither a word nor an exception class.
    """

    attempts: int = 3
    backoff: float = 0.05
    longest: float = 1.0
    on: tuple[str | type[Exception], ...] = TRANSIENT

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(
                f"A policy of {self.attempts!r} attempts would never call the "
                "function. Choose 1 or more; 1 means no repetition."
            )
        for name in ("backoff", "longest"):
            seconds = getattr(self, name)
            if not 0 <= seconds < math.inf:
                raise ValueError(
                    f"{name} is {seconds!r}. It counts seconds: choose 0 or more."
                )
        for kind in self.on:
            if isinstance(kind, str):
                if kind not in TRANSIENT:
                    raise ValueError(
                        f"{kind!r} is nothing to repeat for. There are {TRANSIENT}, "
                        "and exception classes."
                    )
            elif not _is_exception(kind):
                raise TypeError(
                    f"{kind!r} is neither a word nor an exception class. There are "
                    f"{TRANSIENT}, and classes derived from Exception."
                )

    def covers(self, error: BaseException) -> bool:
        """Say whether *error*, or what it was raised from, is one to repeat for.

        Args:
            error: what an attempt raised.
        """
        kinds = tuple(kind for kind in self.on if not isinstance(kind, str))
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, kinds) or _word(cause) in self.on:
                return True
            cause = cause.__cause__
        return False

    def pauses(self) -> Iterator[float]:
        """Yield the seconds to wait before each repetition."""
        for turn in range(self.attempts - 1):
            longest = min(self.longest, self.backoff * 2 ** min(turn, 30))
            # Full jitter: those that met shall not meet again.
            yield random.uniform(0, longest)  # noqa: S311 - no secret


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


def _word(error: BaseException) -> str | None:
    """Return which of TRANSIENT a driver's *error* is."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state is not None:
        return _STATES.get(state)
    code = getattr(error, "sqlite_errorcode", None)
    return "busy" if code is not None and code & 0xFF == _SQLITE_BUSY else None


def requireRepeatable(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Refuse arguments that the first attempt would use up.

    Args:
        function: the interaction's; a functools.partial's arguments count, too.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Raises:
        TypeError: one of them is an iterator.
    """
    while isinstance(function, functools.partial):
        args = (*args, *function.args)
        kwargs = {**function.keywords, **kwargs}
        function = function.func
    for value in (*args, *kwargs.values()):
        if isinstance(value, Iterator):
            raise TypeError(
                f"An argument is {type(value).__name__}, an iterator: the first "
                "attempt would use it up, and the next find nothing. Pass a list, or "
                "leave out retry and group."
            )
