"""asyncio's loop, uvloop's included: the default, adopted when it is first used.

`adopt` is called on the loop's thread while the loop runs.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from typing import TYPE_CHECKING

from threadpool.events import PendingEvents

if TYPE_CHECKING:
    import asyncio
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
        running=loop.is_running,
    )
    if ended is not None:
        # asyncio.run calls loop.shutdown_asyncgens() when everything else is over. A
        # generator of ours that is suspended then learns in this way that the loop
        # ends, and may still await.
        events.sentinel = sentinel = _until_the_end(events, ended)
        with contextlib.suppress(StopIteration):  # Reaches its yield without waiting.
            sentinel.asend(None).send(None)
    return events


async def _until_the_end(
    events: PendingEvents, ended: Callable[[PendingEvents], None]
) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await events.farewell()
        ended(events)
        events.close()
