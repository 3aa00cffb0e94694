"""What is known of SQL texts: whether they may travel together, and how long they take.

One for all workers of a pool. They look a text up with one access to a dict, often with
their team's lock held; only what is new is added under a lock of its own. Of what a
text is said to take, any of the latest figures will do, so nobody guards those.

Source: PostgreSQL's documentation of pipeline mode, for what cannot stand in one.
"""

from __future__ import annotations

import math
import re
import threading
import time
from typing import Any

__all__ = ["PATIENCE_SECONDS", "Durations", "Known"]

# No statement stands behind more work than this: a loop's other work may wait as long,
# and a round trip to the next room takes some tenths of it.
PATIENCE_SECONDS = 0.005

# How long a text that was slow once travels alone.
BARRED_SECONDS = 60.0

# So many texts are remembered. A program has some dozens; one that writes values into
# them has any number, and then remembering does not help.
TEXTS = 1000

# Longer texts are made by machines, each another one. psycopg draws the same line.
LONGEST_TEXT = 4096

# How much of a new duration is believed.
WEIGHT = 1 / 8

# What begins with one of these is known to run in a pipeline, in one piece.
_FIT = frozenset(
    ["delete", "insert", "merge", "select", "table", "update", "values", "with"]
)
_FIRST_WORD = re.compile(r"[\s(]*([a-z]+)", re.IGNORECASE)

# All that psycopg takes for a placeholder, and a % that it would complain about.
_PLACEHOLDER = re.compile(r"%(?:(%)|\(([^()]*)\)s|(s)|)")


class Known:
    """What is known of one text.

    Attributes:
        plain: as it is sent where there are no parameters.
        numbered: as it is sent with parameters: they are $1, $2, …; empty where
            somebody who knows more about placeholders must read it.
        count: how many parameters there are.
        names: what they are called, in order; None where they have no names.
        fit: it may stand in a pipeline.
        seconds: what it takes in the server; math.inf while that is not known.
        used: by this the least recently used ones are found.
    """

    __slots__ = (
        "_barred_until",
        "count",
        "fit",
        "names",
        "numbered",
        "plain",
        "seconds",
        "used",
    )

    def __init__(self, text: str) -> None:
        self.plain = b""
        self.numbered = b""
        self.count = 0
        self.names: tuple[str, ...] | None = None
        self.seconds = math.inf
        self.used = 0
        self._barred_until = 0.0  # Seconds of time.monotonic().
        self.fit = _fit(text)
        if self.fit:
            self.plain = text.encode()
            self._number(text)

    def _number(self, text: str) -> None:
        pieces: list[str] = []
        names: dict[str, int] = {}
        end = count = 0
        for found in _PLACEHOLDER.finditer(text):
            percent, name, nameless = found.groups()
            pieces.append(text[end : found.start()])
            end = found.end()
            if percent:
                pieces.append("%")
            elif name is not None:
                pieces.append(f"${names.setdefault(name, len(names) + 1)}")
            elif nameless:
                count += 1
                pieces.append(f"${count}")
            else:
                return
        if names and count:
            return
        pieces.append(text[end:])
        self.numbered = "".join(pieces).encode()
        self.names = tuple(names) if names else None
        self.count = len(names) or count

    def takes(self, params: Any) -> bool:
        """Say whether *params* are what the text asks for, without any doubt.

        Args:
            params: as its caller gave them.
        """
        if not self.numbered:
            return False
        kind = type(params)
        if kind is tuple or kind is list:
            return self.names is None and len(params) == self.count
        return kind is dict and self.names is not None

    def expected(self) -> float:
        """Return the seconds it is expected to take; math.inf for better alone."""
        if self._barred_until:
            if time.monotonic() < self._barred_until:
                return math.inf
            self._barred_until, self.seconds = 0.0, math.inf
        return self.seconds

    @property
    def barred(self) -> bool:
        """Whether it was slow lately."""
        return bool(self._barred_until) and time.monotonic() < self._barred_until

    def took(self, seconds: float) -> None:
        """Learn that it took so long, of which the network's part is taken off.

        Args:
            seconds: less than what `bar` is for.
        """
        now = self.seconds
        if now is math.inf:
            self.seconds = seconds
        else:
            self.seconds = now + (seconds - now) * WEIGHT

    def bar(self) -> None:
        """Have it travel alone for a while, since it was slow."""
        self._barred_until = time.monotonic() + BARRED_SECONDS

    def __repr__(self) -> str:
        if not self.fit:
            return "<Known, not for pipelines>"
        state = "barred" if self.barred else f"{self.seconds * 1000:.3f} ms"
        return f"<Known, {self.count} parameters, {state}>"


class Durations:
    """The last 1 000 texts that were asked for."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._lock = threading.Lock()
        self._clock = 0  # Moves on by a little with every text that is new.

    def of(self, text: str) -> Known:
        """Return what is known of *text*."""
        known = self._known.get(text)
        if known is None:
            known = self._add(text)
        known.used = self._clock
        return known

    def _add(self, text: str) -> Known:
        known = Known(text)
        if len(text) > LONGEST_TEXT:
            return known  # To keep it would cost more than to look at it again.
        with self._lock:
            self._clock += 1
            known = self._known.setdefault(text, known)
            if len(self._known) > TEXTS:
                # Several at once, so that this is not done for every new text.
                by_age = sorted(self._known, key=lambda each: self._known[each].used)
                for old in by_age[: TEXTS // 8]:
                    del self._known[old]
        return known

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"<Durations of {len(self)} texts>"


def _fit(text: str) -> bool:
    if len(text) > LONGEST_TEXT or "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    word = _FIRST_WORD.match(text)
    if word is None or word[1].lower() not in _FIT:
        return False
    # One that stands in a literal does no harm, but that is for others to find out.
    return ";" not in text.rstrip().removesuffix(";")
