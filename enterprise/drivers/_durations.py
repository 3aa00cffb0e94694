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

# Or until it was fast so often in a row: a machine that stood still for a moment makes
# everything look slow that ran just then, once.
PARDONED = 256

# So many texts are remembered. A program has some dozens; one that writes values into
# them has any number, and then remembering does not help.
TEXTS = 1000

# Longer texts are made by machines, each another one. psycopg draws the same line.
LONGEST_TEXT = 4096

# The shortest recent duration is what a text is expected to take, as in the team's own
# rule: a mean would include the waits for a busy machine. It grows by this part of it
# with every longer one, so that it follows where the work really gets longer.
FORGETTING = 0.02

# What an answer usually takes now is learnt like this, over all texts and connections.
# On a busy machine that is much longer than the statement, and says nothing about it.
WEIGHT = 1 / 16

# So many times the usual is nothing unusual.
TOLERANCE = 4

# What is thought to be usual before anything is known: connections are being opened.
FIRST_SECONDS = 0.002

# What takes longer than this says nothing about the others.
LONGEST_SECONDS = 0.02

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
        "_good",
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
        self._good = 0  # How often in a row it was fast since then.
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
        """Learn that it took so long, of which the network's part is taken off."""
        shortest = self.seconds * (1 + FORGETTING)
        self.seconds = seconds if seconds < shortest else shortest
        if self._barred_until:
            self._good += 1
            if self._good >= PARDONED:
                self._barred_until = 0.0

    def bar(self) -> None:
        """Have it travel alone, since it was slow: for a while, or until pardoned."""
        self._barred_until = time.monotonic() + BARRED_SECONDS
        self._good = 0

    def __repr__(self) -> str:
        if not self.fit:
            return "<Known, not for pipelines>"
        state = "barred" if self.barred else f"{self.seconds * 1000:.3f} ms"
        return f"<Known, {self.count} parameters, {state}>"


class Durations:
    """The last 1 000 texts that were asked for, and what is usual at the moment.

    Attributes:
        usual: the seconds from a question to its answer, the mean of the last ones.
    """

    def __init__(self) -> None:
        self.usual = FIRST_SECONDS
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

    def answered(self, seconds: float) -> None:
        """Learn what is usual.

        Args:
            seconds: what the first answer of some pipeline took, network and all.
        """
        seconds = min(seconds, LONGEST_SECONDS)
        self.usual += (seconds - self.usual) * WEIGHT

    def slow(self, seconds: float) -> bool:
        """Say whether a statement that took so long has shown itself to be slow.

        Args:
            seconds: without the network's part.
        """
        return seconds > PATIENCE_SECONDS + TOLERANCE * self.usual

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
