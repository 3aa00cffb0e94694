"""From the loop into threads, and from threads into the loop.

`deferToThread` belongs to the loop's thread.

Source: `twisted.internet.threads`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar

from threadpool.reactor import reactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool._deferred import Deferred

__all__ = ["deferToThread"]

P = ParamSpec("P")
T = TypeVar("T")


def deferToThread(
    function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> Deferred[T]:
    """Call *function* in a thread of the reactor's pool.

    Args:
        function: anything that may block. It sees a copy of the caller's context
            variables.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        A Deferred of what it returns or raises. Cancelled while it waits, the function
        is never called. It fails with PoolFull when the pool's bounds are reached.

    Raises:
        WrongThread: no event loop runs here.
    """
    return reactor.getThreadPool()._defer(function, args, kwargs)
