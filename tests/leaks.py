"""What a test left behind: threads, file descriptors, logged errors.

`Baseline()` remembers what was there, `Baseline.leaks()` says what came and stayed.
A thread or descriptor that shall outlive the test is opened inside `permanent()`.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# One daemon thread of these names may live as long as the process.
PERMANENT_THREADS = ("threadbridge-clock",)

# A record at ERROR from one of these is a failure that nobody looked at. asyncio is
# among them for its "exception was never retrieved".
WATCHED_LOGGERS = ("threadable", "threadpool", "enterprise", "asyncio")

# A thread that has been told to end needs a moment; so does a peer that closes.
PATIENCE_SECONDS = 2.0

_permanent_threads: set[int] = set()
_permanent_files: set[tuple[int, str]] = set()


def threads() -> dict[int, str]:
    """Return {identifier: name} of every thread that runs Python.

    Also finds those started below the `threading` module, which it does not know.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {ident: names.get(ident, "?") for ident in sys._current_frames()}


def files() -> set[tuple[int, str]]:
    """Return (descriptor, target) of every open descriptor; empty where unknown."""
    found = set()
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # The listing's own descriptor, closed by now.
            found.add((int(link.name), str(link.readlink())))
    return found


@contextmanager
def permanent() -> Iterator[None]:
    """Forgive, for the rest of the run, what is opened inside the `with` block."""
    before_threads, before_files = set(threads()), files()
    yield
    _permanent_threads.update(set(threads()) - before_threads)
    _permanent_files.update(files() - before_files)


class Baseline:
    """The threads and descriptors at the moment it was made."""

    def __init__(self) -> None:
        self._threads = set(threads())
        self._files = files()

    def _new_threads(self) -> list[str]:
        found = []
        frames = sys._current_frames()
        known = self._threads | _permanent_threads
        for ident, name in threads().items():
            if ident in known or name.startswith(PERMANENT_THREADS):
                continue
            stack = "".join(traceback.format_stack(frames.get(ident)))
            found.append(f"thread {name!r} ({ident}) is still running:\n{stack}")
        return found

    def _new_files(self) -> list[str]:
        added = files() - self._files - _permanent_files
        return [f"descriptor {number} -> {target}" for number, target in sorted(added)]

    def leaks(self, patience: float | None = None) -> list[str]:
        """Return one text for each new thread or descriptor that does not go away.

        Args:
            patience: seconds to wait for them, PATIENCE_SECONDS if None; nothing is
                waited for, and nothing collected, when there is nothing new.
        """
        patience = PATIENCE_SECONDS if patience is None else patience
        pause = threading.Event()
        deadline = time.monotonic() + patience
        turn = 0
        while found := self._new_threads() + self._new_files():
            if time.monotonic() > deadline:
                return found
            if turn % 20 == 0:  # A cycle of garbage may hold the last reference.
                gc.collect()
            turn += 1
            pause.wait(0.01)
        return []


class Errors(logging.Handler):
    """Collects the records a test must not leave unclaimed.

    Sits on the root logger, so that it sees what a user's handler would see.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._all: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._all.append(record)
        watched = record.name.split(".")[0] in WATCHED_LOGGERS
        if watched and record.levelno >= logging.ERROR:
            self.records.append(record)

    def texts(self) -> list[str]:
        """Return the collected records as text, tracebacks included."""
        formatter = logging.Formatter("%(levelname)s of %(name)s: %(message)s")
        return [formatter.format(record) for record in self.records]

    def forget(self) -> None:
        """Let go of all tracebacks: pytest keeps records, they keep frames alive."""
        formatter = logging.Formatter()
        for record in self._all:
            if record.exc_info:
                record.exc_text = formatter.formatException(record.exc_info)
                record.exc_info = None
        self._all.clear()
