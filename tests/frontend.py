"""Understands what a PostgreSQL client says, as far as a proxy needs to."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# The codes that stand in the place of a protocol version in a first message.
FIRST_MESSAGES = {
    80877102: "cancel",
    80877103: "ssl",
    80877104: "gss",
}

# Of a longer message (values of 200 MB) only so much is looked at.
LONGEST_KEPT = 65_536

_COMMIT = re.compile(rb"\s*(commit|end)\b(?!\s+prepared)", re.IGNORECASE)


def _is_commit(sql: bytes) -> bool:
    return any(_COMMIT.match(part) for part in sql.split(b";"))


class Frontend:
    """Cuts the byte stream of one client into messages.

    Anything that cannot be a PostgreSQL client's stream is left alone.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._before = 0  # bytes of the stream before the buffer
        self._skip = 0  # bytes of a long message that are still to come
        self._started = False
        self._foreign = False
        self._statements: dict[bytes, bool] = {}  # name -> is it a COMMIT
        self._portals: dict[bytes, bool] = {}

    def feed(self, data: bytes) -> Iterator[tuple[str, int, bool]]:
        """Take the next bytes of the stream.

        Yields:
            For every message that is complete (or long enough to be understood): its
            letter, or "startup", "cancel", "ssl", "gss"; where it starts in *data*,
            negative for before it; whether the server executes a COMMIT for it.
        """
        if self._foreign:
            return
        chunk_start = self._before + len(self._buffer)
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            self._before += skipped
            data = data[skipped:]
        self._buffer += data
        while message := self._next():
            kind, start, body = message
            yield kind, start - chunk_start, self._executes_commit(kind, body)

    def _next(self) -> tuple[str, int, bytes] | None:
        header = 5 if self._started else 8
        if len(self._buffer) < header:
            return None
        if self._started:
            kind = chr(self._buffer[0])
            size = 1 + struct.unpack_from("!I", self._buffer, 1)[0]
        else:
            size, code = struct.unpack_from("!II", self._buffer)
            kind = FIRST_MESSAGES.get(code, "startup")
            if kind == "startup" and (code >> 16 != 3 or size > 10_000):
                self._foreign = True
        if self._foreign or size < header:
            self._foreign = True
            return None
        start = self._before
        kept = min(size, LONGEST_KEPT)
        if len(self._buffer) < kept:
            return None
        body = bytes(self._buffer[header:kept])
        taken = min(size, len(self._buffer))
        del self._buffer[:taken]
        self._before += taken
        self._skip = size - taken
        self._started = self._started or kind == "startup"
        return kind, start, body

    def _executes_commit(self, kind: str, body: bytes) -> bool:
        if kind == "Q":
            return _is_commit(body)
        if kind == "P":
            name, _, rest = body.partition(b"\0")
            sql = rest.partition(b"\0")[0]
            self._statements[name] = _is_commit(sql)
        elif kind == "B":
            portal, _, rest = body.partition(b"\0")
            name = rest.partition(b"\0")[0]
            self._portals[portal] = self._statements.get(name, False)
        elif kind == "E":
            return self._portals.get(body.partition(b"\0")[0], False)
        return False
