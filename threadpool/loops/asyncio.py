"""asyncio's loop, uvloop's included: the default, adopted when it is first used.

`adopt` is called on the loop's thread while the loop runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from threading import get_ident
from typing import TYPE_CHECKING, Any

from threadpool.events import PendingEvents

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

__all__ = ["adopt"]


def adopt(
    loop: asyncio.AbstractEventLoop, ended: Callable[[PendingEvents], None] | None
) -> PendingEvents:
    """Make the pending-event queue of *loop*.

    Args:
        loop: the running loop.
        ended: called with the queue before it closes itself, when the loop tells that
            it ends; None for a loop that has told so before.
    """
    # Passes run in a context of their own: call_soon would copy the current one, and
    # a pass belongs to nobody.
    context = contextvars.Context()
    events = PendingEvents(
        functools.partial(loop.call_soon_threadsafe, context=context),
        soon=functools.partial(loop.call_soon, context=context),
        later=loop.call_later,
        loop=loop,
        running=_runs_here(loop),
    )
    if ended is not None:
        # asyncio.run calls loop.shutdown_asyncgens() when everything else is over. A
        # generator of ours that is suspended then learns in this way that the loop
        # ends, and may still await.
        events.sentinel = sentinel = _until_the_end(events, ended)
        with contextlib.suppress(StopIteration):  # Reaches its yield without waiting.
            sentinel.asend(None).send(None)
    return events


def _runs_here(loop: asyncio.AbstractEventLoop) -> Callable[[], bool]:
    """Return what says whether *loop* runs in this thread: it may run in another."""
    if isinstance(loop, asyncio.BaseEventLoop):
        # Before 3.12 asking for the running loop costs a system call each time.
        thread = get_ident()
        its: Any = loop
        return lambda: its._thread_id == thread
    return lambda: asyncio._get_running_loop() is loop


async def _until_the_end(
    events: PendingEvents, ended: Callable[[PendingEvents], None]
) -> AsyncGenerator[None, None]:
    # It must be over before the farewells: errors that are raised in them would show
    # it as what happened before.
    with contextlib.suppress(GeneratorExit):
        yield
    try:
        await events.farewell()
    finally:
        ended(events)
        events.close()
