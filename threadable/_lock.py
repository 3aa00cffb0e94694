"""The lock behind synchronized methods: re-entrant, and safe to meet in a pickle.

Any thread may enter this room. It holds no state of its own.

A lock says who works *now*; that is nothing one could write to a file. So a lock
leaves no trace in a pickle except "here was a lock", and loading gives a fresh one
that nobody holds.
"""

from __future__ import annotations

import threading

TYPE_CHECKING = False  # as mypy reads it; `typing` itself costs 7 ms to import

if TYPE_CHECKING:
    from typing import Any, Self

__all__ = ["DummyLock", "XLock", "unpickle_lock"]


# The type behind threading.RLock() has no public name, and typeshed calls it final. It
# is not: the interpreter documents it as a base (Py_TPFLAGS_BASETYPE).
_RLockType: Any = type(threading.RLock())


class XLock(_RLockType):  # type: ignore[misc]
    """A re-entrant lock that can be pickled: what is loaded is new and free.

    Used like any ``threading.RLock``. Its subclass relation to the interpreter's own
    lock keeps ``acquire`` and ``release`` as fast as theirs.

    Source: threadable.XLock of 2001; there a lock made without threads was a dummy,
    here the lock is always real, so a pickle loaded early is still safe later.
    """

    # Who this lock belongs to; see _instance_lock, the only room that reads it.
    __slots__ = ("_belongs_to",)
    __module__ = "threadable"
    _belongs_to: object

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return unpickle_lock, ()


class DummyLock:
    """The shape of a lock without the locking, for code that runs in one thread.

    It excludes nobody. A pickled one is loaded as a real, free lock, because whoever
    loads it may have threads.
    """

    __slots__ = ()
    __module__ = "threadable"

    def acquire(self, _blocking: bool = True, _timeout: float = -1) -> bool:
        """Say yes, at once and to everybody.

        Returns:
            always True.
        """
        return True

    def release(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        return None

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return unpickle_lock, ()


def unpickle_lock() -> XLock:
    """Give pickles of locks what they load as.

    Returns:
        a new lock that nobody holds.
    Source: threadable.unpickle_lock; the name is part of every pickle that contains
        a lock, so it must never change.
    """
    return XLock()


# Pickles name it by its public place, which outlives this file.
unpickle_lock.__module__ = "threadable"
