"""Several Deferreds together: wait for all or the first, or take turns.

Everything here belongs to the thread of the loop, as Deferreds do. It also works where
there is no loop at all.
"""

from __future__ import annotations

from threadpool._gather import DeferredList, gatherResults, race
from threadpool._primitives import (
    DeferredLock,
    DeferredQueue,
    DeferredSemaphore,
    QueueOverflow,
    QueueUnderflow,
)
from threadpool._together import FailureGroup, FirstError

__all__ = [
    "DeferredList",
    "DeferredLock",
    "DeferredQueue",
    "DeferredSemaphore",
    "FailureGroup",
    "FirstError",
    "QueueOverflow",
    "QueueUnderflow",
    "gatherResults",
    "race",
]
