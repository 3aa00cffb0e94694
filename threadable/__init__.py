"""Threads, if you want them: the switch, and what stands on it.

This is the ground floor of the house: the standard library only, no event loop. Any
thread may use it.

`threaded` (None: undecided, True: on, False: forbidden) and `ioThread` (the ident of
the newest thread with a loop, or None) always tell the current state when read as
``threadable.threaded``; ``from threadable import threaded`` takes a copy of one moment.
"""

from __future__ import annotations

from threadable import _switch
from threadable._lock import DummyLock, XLock, unpickle_lock
from threadable._switch import (
    ThreadsDisabled,
    getThreadID,
    init,
    isInIOThread,
    registerAsIOThread,
    whenThreaded,
)
from threadable._synchronize import _synchPost, _synchPre, synchronize, synchronized

__all__ = [
    "DummyLock",
    "ThreadsDisabled",
    "XLock",
    "_synchPost",
    "_synchPre",
    "getThreadID",
    "init",
    "ioThread",
    "isInIOThread",
    "registerAsIOThread",
    "synchronize",
    "synchronized",
    "threaded",
    "unpickle_lock",
    "whenThreaded",
]

# Declared, never assigned: __getattr__ answers, so that nobody reads an old state.
threaded: bool | None
ioThread: int | None  # noqa: N816 - the old vocabulary


def __getattr__(name: str) -> object:
    if name == "threaded":
        return _switch._threaded
    if name == "ioThread":
        return _switch.io_thread()
    raise AttributeError(
        f"module 'threadable' has no attribute {name!r}; see threadable.__all__"
    )
