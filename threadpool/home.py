"""Home: which loop runs in this thread, and the queue that leads to it.

Any thread may ask. A loop is adopted when it is first asked for, and let go when it
ends: asyncio tells by `shutdown_asyncgens`, which `asyncio.run` calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
import weakref
from threading import get_ident
from typing import TYPE_CHECKING

import threadable
from threadable import _switch
from threadpool.error import WrongThread
from threadpool.events import PendingEvents

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["here", "hereOrNone", "install"]


class _Here(threading.local):
    """What the current thread's loop is, as of its last use."""

    events: PendingEvents | None = None
    installed: PendingEvents | None = None
    # The loop that has told us of its end, but may still close what it has open.
    ending: weakref.ref[object] | None = None


_here = _Here()

_nowhere = PendingEvents(lambda _: None)

# The queue found last, by any thread; good for those in whose thread its loop runs.
_last: PendingEvents = _nowhere


def here() -> PendingEvents:
    """Return the queue of the loop that runs in this thread.

    Raises:
        WrongThread: no loop runs here.
    """
    # Before 3.12 get_running_loop() asks the system for the process's number each time,
    # which costs as much as making a job.
    last = _last
    if last.thread == get_ident() and last.running() and not last._closed:
        return last
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        events = _here.installed
        if events is not None and not events.closed:
            return events
        raise WrongThread(
            "No event loop runs in this thread, so there is nowhere for the answer to "
            "come home to. Call this from a coroutine or a callback; from another "
            "thread, use reactor.callFromThread or asyncio.run_coroutine_threadsafe; "
            "inside an interaction, use the transaction it was given."
        ) from None
    return _find(loop)


def hereOrNone() -> PendingEvents | None:
    """Return the queue of the loop that runs in this thread, or None without one."""
    try:
        return here()
    except WrongThread:
        return None


def _find(loop: asyncio.AbstractEventLoop) -> PendingEvents:
    global _last  # noqa: PLW0603 - a cache
    events = _here.events
    if events is None or events.loop is not loop or events.closed:
        events = _adopt(loop)
    _last = events
    return events


def install(events: PendingEvents | None) -> None:
    """Make *events* the queue of this thread, for a loop that is not asyncio's.

    Args:
        events: the queue; None takes it back.
    """
    if events is not None:
        threadable.registerAsIOThread()
    elif _here.installed is not None:
        _switch.forget_io_thread()
    _here.installed = events


def _adopt(loop: asyncio.AbstractEventLoop) -> PendingEvents:
    # Passes run in a context of their own: call_soon would copy the current one, and
    # a pass belongs to nobody.
    context = contextvars.Context()
    if _here.events is not None:
        _leave(_here.events)  # Its loop was closed without a word to us.
    events = PendingEvents(
        functools.partial(loop.call_soon_threadsafe, context=context),
        soon=functools.partial(loop.call_soon, context=context),
        later=loop.call_later,
        loop=loop,
        running=loop.is_running,
    )
    threadable.registerAsIOThread()
    if _here.ending is None or _here.ending() is not loop:
        events.sentinel = _watch_for_the_end(events)
    _here.events = events
    return events


def _leave(events: PendingEvents) -> None:
    """Forget *events* and its loop in this thread, if it is this thread's."""
    global _last  # noqa: PLW0603 - a cache
    if _last is events:
        _last = _nowhere
    if _here.events is events:
        _here.events = None
        _switch.forget_io_thread()


def _watch_for_the_end(events: PendingEvents) -> AsyncGenerator[None, None]:
    # asyncio.run calls loop.shutdown_asyncgens() when everything else is over. A
    # generator of ours that is suspended then learns in this way that the loop ends.
    sentinel = _close_at_the_end(events)
    with contextlib.suppress(StopIteration):  # Reaches its yield without waiting.
        sentinel.asend(None).send(None)
    return sentinel


async def _close_at_the_end(events: PendingEvents) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        if events.loop is not None:
            _here.ending = weakref.ref(events.loop)
        events.close()
        _leave(events)
