"""Which SQLite files this process has open, and which of them a fork has left open.

SQLite keeps in the process's memory what it has locked, while the locks themselves
belong to the process and do not come along into a forked child. A child that opens a
file which its parent had open at the fork therefore believes in locks that it does not
have, and overwrites what others commit. So nobody opens a file while the process forks,
and what could not be closed before is remembered in the child, for the driver to
refuse. Any thread may enter.

Source: "How To Corrupt An SQLite Database File", sqlite.org, section 2.6.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["OpenFiles", "files", "hasContent"]

# A file whatever its name: device and inode.
File: TypeAlias = tuple[int, int]

# How often those that hold a connection are told again to close it, while a fork waits:
# one that was just being opened has not heard it the first time.
AGAIN_SECONDS = 0.01


class _Open(NamedTuple):
    """A connection, the thread that owns it, and its file."""

    raw: Any
    owner: int
    file: File | None


class OpenFiles:
    """The files of one process.

    Attributes:
        forks: how many forks lie between the first process and this one.
    """

    def __init__(self) -> None:
        # One that the same thread may take twice: a signal's handler may fork.
        self._changed = threading.Condition()
        # guarded by: _changed
        self._forking = 0
        self._opening: list[int] = []  # The threads that do.
        self._open: dict[int, _Open] = {}  # By the connection's id().
        self._inherited: set[File] = set()
        self.forks = 0

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Open a connection inside this: no fork comes in between."""
        me = threading.get_ident()
        with self._changed:
            while self._forking:
                self._changed.wait()
            self._opening.append(me)
        try:
            yield
        finally:
            with self._changed:
                self._opening.remove(me)
                self._changed.notify_all()

    def opened(self, raw: Any, path: str) -> None:
        """Note that this thread has opened the file at *path*.

        Args:
            raw: the connection.
            path: where the file is.
        """
        with self._changed:
            self._open[id(raw)] = _Open(raw, threading.get_ident(), _file(path))

    def closed(self, raw: Any) -> None:
        """Note that a connection was closed.

        Args:
            raw: one that was opened here, or not.
        """
        with self._changed:
            self._open.pop(id(raw), None)
            self._changed.notify_all()

    def isOpen(self, raw: Any) -> bool:
        """Say whether *raw* is a connection to a file.

        Args:
            raw: any connection.
        """
        return id(raw) in self._open

    def isInherited(self, path: str) -> bool:
        """Say whether the file was open in the parent when this process was forked.

        Args:
            path: where the file is.
        """
        return bool(self._inherited) and _file(path) in self._inherited

    # -- Around a fork; the thread that forks ------------------------------------------

    def beforeFork(self, seconds: float, ask: Callable[[], object]) -> None:
        """Let nobody open a file from now on, and wait until all are closed.

        Args:
            seconds: how long to wait at the most.
            ask: called now and then, to have them closed.
        """
        until = time.monotonic() + seconds
        with self._changed:
            self._forking += 1
        while self._others():
            left = until - time.monotonic()
            if left <= 0:
                return
            ask()
            with self._changed:
                if self._others():
                    self._changed.wait(min(left, AGAIN_SECONDS))

    def _others(self) -> bool:
        """Say whether a thread but this one has a connection, or opens one."""
        me = threading.get_ident()
        with self._changed:
            owners = [*self._opening, *(held.owner for held in self._open.values())]
        return any(owner != me for owner in owners)

    def afterForkInParent(self) -> None:
        """Let files be opened again."""
        with self._changed:
            self._forking -= 1
            self._changed.notify_all()

    def afterForkInChild(self) -> list[Any]:
        """Begin anew, and remember what is not to be opened here.

        Returns:
            The parent's connections, which must not even be deleted.
        """
        self._changed = threading.Condition()
        held = {entry.file for entry in self._open.values() if entry.file is not None}
        # Those that are not ours as well: a connection whose cursor somebody has kept
        # goes on behind its close(), and other libraries have connections, too.
        self._inherited |= held | _descriptors()
        raws = [entry.raw for entry in self._open.values()]
        self._forking = 0
        self._opening.clear()
        self._open.clear()
        self.forks += 1
        return raws

    def __repr__(self) -> str:
        return (
            f"<OpenFiles: {len(self._open)} connections, {len(self._opening)} being "
            f"opened, {len(self._inherited)} files left open by {self.forks} forks>"
        )


def hasContent(path: str) -> bool:
    """Say whether there is a database; an empty file is one that nobody has written.

    Args:
        path: where the file is.
    """
    try:
        return Path(path).stat().st_size > 0
    except (OSError, ValueError):
        return False


def _file(path: str) -> File | None:
    try:
        found = Path(path).stat()
    except (OSError, ValueError):  # It is not there, or the name can be nobody's.
        return None
    return found.st_dev, found.st_ino


def _descriptors() -> set[File]:
    """Return every regular file that this process has a descriptor of."""
    found: set[File] = set()
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208 - no Path
    except OSError:
        return found  # No such folder here: then what we know ourselves must do.
    for number in numbers:
        with contextlib.suppress(OSError):  # The listing's own, closed by now.
            status = os.fstat(number)
            if stat.S_ISREG(status.st_mode):
                found.add((status.st_dev, status.st_ino))
    return found


files = OpenFiles()
