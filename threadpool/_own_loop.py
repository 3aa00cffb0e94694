"""A loop of our own: made, run and ended by `Reactor.run`. Its thread only.

Source: `asyncio.Runner`; unlike it this one goes on after a crash.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OwnLoop"]

_log = logging.getLogger(__name__)


class OwnLoop:
    """An asyncio loop that runs until it is stopped, not until a coroutine ends.

    Args:
        kind: "asyncio", "uvloop", or a function that makes a loop.

    Raises:
        ImportError: uvloop is not installed.
        ValueError: *kind* is none of these.
    """

    def __init__(self, kind: str | Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop = _factory(kind)()

    def run(self) -> None:
        """Go round until `loop.stop()`."""
        asyncio.set_event_loop(self.loop)  # Where asyncio before 3.12 looks for it.
        try:
            self.loop.run_forever()
        finally:
            asyncio.set_event_loop(None)

    def turn(self, seconds: float) -> None:
        """Go round once, and on for *seconds*."""
        stop = self.loop.call_later(seconds, self.loop.stop)
        try:
            self.run()
        finally:
            stop.cancel()  # Crashed before: it must not end the next run.

    def end(self) -> None:
        """Cancel every task, let what lives on the loop end, and close it."""
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(_wind_up(self.loop))
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()


async def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel("The reactor has stopped.")
    results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            _log.error("A task failed while the reactor stopped", exc_info=result)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


def _factory(
    kind: str | Callable[[], asyncio.AbstractEventLoop],
) -> Callable[[], asyncio.AbstractEventLoop]:
    if callable(kind):
        return kind
    if kind == "asyncio":
        return asyncio.new_event_loop
    if kind != "uvloop":
        raise ValueError(
            f'The loop is {kind!r}. Choose "asyncio", "uvloop", or give a function '
            "that makes one."
        )
    try:
        import uvloop
    except ImportError as error:
        raise ImportError(
            "uvloop was asked for and is not installed. Install it (pip install "
            'uvloop), or run on loop="asyncio".'
        ) from error
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
