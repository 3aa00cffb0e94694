"""A lock between processes: a file that only one of them may hold.

The kernel keeps the lock for an open file, so a process that dies has let go, however
it died. Taking it and giving it back are a few system calls, quick enough for a loop;
waiting is done by looking again. One thread, the loop's, may enter.

Source: `DeferredFilesystemLock` of Twisted, and flock(2).
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from threadpool._handover import HandOver
from threadpool.failure import Failure
from threadpool.reactor import reactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool._deferred import Deferred

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["AlreadyTryingToLockError", "DeferredFilesystemLock"]

# How long between two looks. Who waits for another process to end does not notice a
# tenth of a second, and a look costs some twenty microseconds.
INTERVAL_SECONDS: Final = 0.1

# What we write into the file while we hold it: the process's number. After a crash of
# the machine a file may have its length and nothing but zeros in it.
_HOLDER = re.compile(rb"([0-9]{1,20})\n|\0{1,21}")

# Windows locks bytes, and nobody else can read those: take one far behind the number.
_LOCKED_BYTE: Final = 1 << 30


class AlreadyTryingToLockError(RuntimeError):
    """`deferUntilLocked` was called while an earlier call still waits."""


class _Call(Protocol):
    """What the clock makes of a call."""

    def cancel(self) -> None: ...


class _Clock(Protocol):
    """What is asked of a clock: a reactor, or `threadpool.testing.Clock`."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, function: Callable[[], object], /) -> _Call: ...


class DeferredFilesystemLock:
    """A lock that one process at a time can hold.

    It stays locked until `unlock` or the end of the process, even if nobody refers to
    this object any more. A forked child does not hold it. On network file systems it
    is as good as their flock.

    Args:
        name: path of a file that is only used for this; made when it is not there,
            and never removed.
        clock: what `callLater` and `seconds` are asked of; left out, the reactor.

    Source: `DeferredFilesystemLock` of Twisted.
    """

    def __init__(
        self, name: str | os.PathLike[str], clock: _Clock | None = None
    ) -> None:
        self.name = os.fspath(name)
        self._clock: _Clock = reactor if clock is None else clock
        self._descriptor: int | None = None
        self._clean: bool | None = None
        self._waiting: HandOver[None] | None = None
        self._timer: _Call | None = None

    @property
    def locked(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    @property
    def clean(self) -> bool | None:
        """False when the holder before us died holding it; None before we held it.

        What it guarded may then be half done. A crash of the whole machine need not
        show here.
        """
        return self._clean

    def lock(self) -> bool:
        """Take the lock if nobody has it.

        Returns:
            True when it is ours now; False when it is held, by whomever.

        Raises:
            OSError: the file cannot be opened, written or locked.
            ValueError: the file holds something else, so it is not a lock.
        """
        if self._descriptor is not None:
            return False
        descriptor = _take(self.name)
        if descriptor is None:
            return False
        try:
            content = _read_holder(descriptor, self.name)
            _write(descriptor, f"{os.getpid()}\n".encode())
        except BaseException:
            os.close(descriptor)
            raise
        self._clean = not content
        self._descriptor = descriptor
        _holding.add(self)
        return True

    def unlock(self) -> None:
        """Give the lock back.

        Raises:
            RuntimeError: this object does not hold it.
        """
        if self._descriptor is None:
            raise RuntimeError(
                f"unlock() was called on {self!r}, which does not hold the lock. Call "
                "it once after lock() was true or deferUntilLocked() has fired."
            )
        descriptor, self._descriptor = self._descriptor, None
        _holding.discard(self)
        try:
            _write(descriptor, b"")  # So that the next one finds it clean.
        finally:
            # This ends the lock. The file stays: while we removed it somebody could
            # have opened it and lock it now, and a third would make a new file of
            # that name and lock that one.
            os.close(descriptor)

    def deferUntilLocked(self, timeout: float | None = None) -> Deferred[None]:
        """Take the lock as soon as nobody has it.

        Who waits is not served in any order. A holder that comes and goes between two
        looks, a tenth of a second apart, is not noticed.

        Args:
            timeout: seconds to wait at the most, >= 0; None for ever.

        Returns:
            A Deferred that fires with None when the lock is ours. Cancelled before
            anybody has received that, it gives the lock back. It fails with
            TimeoutError, with what `lock` or the clock raises, and with
            AlreadyTryingToLockError when an earlier one still waits.

        Raises:
            ValueError: *timeout* is negative or not a number.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(
                f"The timeout is {timeout} seconds. Time goes one way: give a number "
                "that is 0 or more, or None to wait for ever."
            )
        waiter: HandOver[None] = HandOver(self._give_up)
        if self._waiting is not None:
            waiter.errback(
                AlreadyTryingToLockError(
                    f"{self!r} is being waited for already, and it can be locked only "
                    "once. Await the earlier Deferred, or use another object."
                )
            )
            return waiter
        until = None if timeout is None else self._clock.seconds() + timeout
        self._waiting = waiter
        self._look(timeout, until)
        return waiter

    def _look(self, timeout: float | None, until: float | None) -> None:
        """Try to take the lock for the Deferred that waits; else look again later."""
        waiter, self._timer = self._waiting, None
        if waiter is None:
            return
        failure = None
        try:
            if not self.lock():
                pause = INTERVAL_SECONDS
                if until is not None:
                    pause = min(pause, until - self._clock.seconds())
                if pause > 0:
                    self._timer = self._clock.callLater(
                        pause, lambda: self._look(timeout, until)
                    )
                    return
                failure = Failure(
                    TimeoutError(
                        f"{self.name!r} was still locked by {_holder_of(self.name)} "
                        f"after {timeout} seconds. Wait longer, or find out what it "
                        "is doing."
                    )
                )
        except Exception:
            failure = Failure()
        self._waiting = None
        if failure is not None:
            waiter.errback(failure)
        else:
            waiter.hand(None, lambda _: self.unlock())

    def _give_up(self, _: object) -> None:
        self._waiting = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        state = "locked" if self.locked else "not locked"
        if self._waiting is not None:
            state += ", being waited for"
        return f"<DeferredFilesystemLock {self.name!r} {state}>"


# Those that hold their lock: kept alive, and known when the process forks.
_holding: set[DeferredFilesystemLock] = set()


def _take(name: str) -> int | None:
    """Return the descriptor of the file, open and locked; None when it is held."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
    # A link laid by somebody else would have us write into any file we may write.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        descriptor = os.open(name, flags, 0o666)
        good = False
        try:
            held = not _try_lock(descriptor)
            good = not held and _is_still(descriptor, name)
        finally:
            if not good:
                os.close(descriptor)
        if good:
            return descriptor
        if held:
            return None
        # Somebody removed the file between our opening and locking it: what we locked
        # was a file without a name, which nobody else would ever have asked for.


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            # Not fcntl's record locks: those end when any descriptor of the file is
            # closed, even by a part of the program that only had a look at it.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_still(descriptor: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), Path(name).stat())
    except FileNotFoundError:
        return False


def _read_holder(descriptor: int, name: str) -> bytes:
    """Return what the file says about its last holder; empty when that one unlocked."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    content = os.read(descriptor, 32)
    if content and not _HOLDER.fullmatch(content):
        raise ValueError(
            f"The file {name!r} begins with {content!r}, so it is not a lock, and "
            "locking it would overwrite it. Choose another name."
        )
    return content


def _write(descriptor: int, content: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, content)


def _holder_of(name: str) -> str:
    try:
        content = Path(name).read_bytes()
    except OSError:
        content = b""
    found = _HOLDER.fullmatch(content)
    return f"process {int(found[1])}" if found and found[1] else "another process"


def _after_fork_in_child() -> None:
    """Let go of the descriptors, which are the parent's locks, too.

    Closing does not unlock them while the parent has its own; but as long as this
    child kept them open, the parent's death would not unlock them either.
    """
    while _holding:
        lock = _holding.pop()
        if lock._descriptor is not None:
            os.close(lock._descriptor)
            lock._descriptor = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
