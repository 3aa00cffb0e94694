"""Home: which loop runs in this thread, and the queue that leads to it.

Any thread may ask. A loop is adopted when it is first asked for, and let go when it
ends: asyncio tells by `shutdown_asyncgens`, which `asyncio.run` calls.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from threading import get_ident
from typing import TYPE_CHECKING

import threadable
from threadable import _switch
from threadpool._future import awaiters
from threadpool.error import WrongThread
from threadpool.events import PendingEvents
from threadpool.loops.asyncio import adopt

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.loops import Handle, Loop

__all__ = ["arrivals", "here", "hereOrNone", "install", "installEarly"]


class _Here(threading.local):
    """What the current thread's loop is, as of its last use."""

    events: PendingEvents | None = None
    installed: PendingEvents | None = None
    # The loop that has told us of its end, but may still close what it has open.
    ending: weakref.ref[object] | None = None
    # Of loops that have run here and are neither closed nor ended: they may again.
    others: tuple[PendingEvents, ...] = ()


_here = _Here()

# Called with the queue of each loop that is adopted or installed, on its thread.
arrivals: list[Callable[[PendingEvents], object]] = []

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
    events = hereOrNone()
    if events is None:
        raise WrongThread(
            "No event loop runs in this thread, so there is nowhere for the answer to "
            "come home to. Call this from a coroutine or a callback; from another "
            "thread, use threads.blockingCallFromThread or reactor.callFromThread; "
            "inside an interaction, use the transaction it was given; under a loop "
            "that is not asyncio's, install its adapter from threadpool.loops first."
        )
    return events


def hereOrNone() -> PendingEvents | None:
    """Return the queue of the loop that runs in this thread, or None without one."""
    loop = asyncio._get_running_loop()  # The one that raises costs ten times as much.
    if loop is not None:
        return _find(loop)
    events = _here.installed
    return None if events is None or events.closed else events


def _find(loop: asyncio.AbstractEventLoop) -> PendingEvents:
    global _last  # noqa: PLW0603 - a cache
    events = _here.events
    if events is None or events.loop is not loop or events.closed:
        events = _adopt(loop)
    _last = events
    return events


def install(loop: Loop) -> PendingEvents:
    """Make *loop* the one of this thread; see `threadpool.loops.install`.

    Args:
        loop: one that is not asyncio's.

    Raises:
        RuntimeError: one was installed here and has not ended.
        TypeError: it has not the two methods.
    """
    _require_loop(loop)
    installed = _here.installed
    if installed is not None and not installed.closed:
        raise RuntimeError(
            f"This thread has a loop already: {installed!r}. Install once: if it is "
            "the same loop, it is installed already. For another one, close that queue "
            "first, or start the other loop in a thread of its own."
        )
    if installed is not None and installed.when_closed is not None:
        installed.when_closed(installed)  # It was given up, for its post() failed.

    def later(seconds: float, function: Callable[[], object]) -> Handle:
        handle = loop.later(seconds, function)
        if not callable(getattr(handle, "cancel", None)):
            raise TypeError(
                f"later() of {loop!r} returned {handle!r}, which has no cancel(). It "
                "returns something by which the call can be called off."
            )
        return handle

    events = PendingEvents(loop.post, later=later)
    events.when_closed = _uninstall
    _here.installed = events
    _arrive(events)
    return events


def _require_loop(loop: object) -> None:
    lacking = [
        name for name in ("post", "later") if not callable(getattr(loop, name, None))
    ]
    if isinstance(loop, type):
        raise TypeError(
            f"install() was given {loop!r}, which is a class. Install an object of it: "
            "the loop of this thread."
        )
    if lacking:
        raise TypeError(
            f"install() was given {loop!r}, which has no {' and no '.join(lacking)}. "
            "Give it post(f) and later(seconds, f), as threadpool.loops.Loop says. "
            "asyncio's loops need no install."
        )


def installEarly(loop: asyncio.AbstractEventLoop) -> PendingEvents:
    """Adopt a loop that is going to run in this thread and will not tell of its end.

    Args:
        loop: asyncio's. Whoever ends it closes the queue.
    """
    events = adopt(loop, None)
    events.when_closed = _leave
    # Adopted for when it runs, installed for until then.
    _here.events = _here.installed = events
    _arrive(events)
    return events


def _uninstall(events: PendingEvents) -> None:
    if _here.installed is events:
        _here.installed = None
        _switch.forget_io_thread()


def _adopt(loop: asyncio.AbstractEventLoop) -> PendingEvents:
    others = [other for other in _here.others if not other.over()]
    if _here.events is not None:
        before = _here.events
        _leave(before)
        if not before.over():  # Else its loop was closed without a word to us.
            others.append(before)
    for events in others:
        if events.loop is loop:
            others.remove(events)
            _here.others = tuple(others)
            _here.events = events
            _arrive(events)
            return events
    _here.others = tuple(others)
    ending = _here.ending is not None and _here.ending() is loop
    events = adopt(loop, None if ending else _note_the_end)
    events.when_closed = _leave
    _here.events = events
    _arrive(events)
    return events


def _arrive(events: PendingEvents) -> None:
    threadable.registerAsIOThread()
    for arrival in arrivals:
        arrival(events)


def _note_the_end(events: PendingEvents) -> None:
    if events.loop is not None:
        _here.ending = weakref.ref(events.loop)


def _leave(events: PendingEvents) -> None:
    """Forget *events* and its loop in this thread, if it is this thread's."""
    global _last  # noqa: PLW0603 - a cache
    if _last is events:
        _last = _nowhere
    if _here.installed is events:
        _here.installed = None
    if _here.events is events:
        _here.events = None
        _switch.forget_io_thread()


# What a forked child has of its parent's loops. Never freed: their finalizers would
# speak to the parent.
_parents: list[object] = []


def _after_fork_in_child() -> None:
    """Start the child at home nowhere: the loops of its parent are not its own."""
    global _last  # noqa: PLW0603 - a cache
    _parents.append((_here.events, _here.installed, _here.others, _last))
    _last = _nowhere
    _here.events = _here.installed = _here.ending = None
    _here.others = ()
    awaiters.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
