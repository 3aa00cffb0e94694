"""From the loop into threads, and from threads into the loop.

`blockingCallFromThread` belongs to threads without a loop, `callMultipleInThread` to
any thread, all else to the loop's.

Source: `twisted.internet.threads`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from threadpool._blocking import BlockingCall, requireReactor
from threadpool._require import requirePlain
from threadpool.reactor import reactor as _reactor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from threadpool._deferred import Deferred
    from threadpool.pool import ThreadPool
    from threadpool.reactor import Reactor

__all__ = [
    "blockingCallFromThread",
    "callMultipleInThread",
    "deferToThread",
    "deferToThreadPool",
]

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
        TypeError: *function* cannot be called.
        WrongThread: no event loop runs here.
    """
    return _reactor.getThreadPool()._defer(function, args, kwargs)


def deferToThreadPool(
    reactor: Reactor,
    pool: ThreadPool,
    function: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Deferred[T]:
    """Call *function* in a thread of *pool*; `pool.deferToThread` does the same.

    Args:
        reactor: adopts the loop that runs here, where it has none. The outcome comes
            home to this loop in any case.
        pool: whose threads to use.
        function: anything that may block. It sees a copy of the caller's context
            variables.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        A Deferred of what it returns or raises. Cancelled while it waits, the function
        is never called. It fails with PoolFull or PoolClosed when the pool takes no
        work.

    Raises:
        TypeError: *function* cannot be called, or *reactor* is none of ours.
        WrongThread: no event loop runs here.
    """
    requireReactor(reactor, "deferToThreadPool")
    reactor._adopt_if_here()
    return pool._defer(function, args, kwargs)


def callMultipleInThread(
    calls: Iterable[
        tuple[Callable[..., object], Sequence[object], Mapping[str, object]]
    ],
) -> None:
    """Call several functions one after the other in one thread of the reactor's pool.

    The first that raises ends the row; what it raised is logged. Any thread.

    Args:
        calls: of each function, its positional and its keyword arguments.

    Raises:
        TypeError: one of them cannot be called, or is a coroutine function.
        PoolFull: the pool's bounds are reached.
    """
    calls = list(calls)
    for function, _, _ in calls:
        requirePlain(function, "callMultipleInThread")
    _reactor.callInThread(_call_all, calls)


def blockingCallFromThread(
    reactor: Reactor,
    function: Callable[..., Any],
    *args: Any,
    timeout: float | None = None,
    **kwargs: Any,
) -> Any:
    """Call *function* on the loop's thread, and wait here for what comes of it.

    For threads without a loop, workers of a pool among them. While there is no loop, it
    waits for one, and says so in the log after a second.

    Args:
        reactor: whose loop to call it on.
        function: what to call. It sees a copy of the caller's context variables. What
            it returns is awaited, if it is a Deferred, a future or a coroutine.
        args: its positional arguments.
        timeout: seconds to wait at the most; None for no limit. A *function* that has
            a parameter of this name must be wrapped, in functools.partial say.
        kwargs: its keyword arguments.

    Returns:
        What it returned, or what that came to.

    Raises:
        WrongThread: a loop runs in this thread, which would wait for itself.
        TimeoutError: there was no answer in time. The call is cancelled.
        LoopClosed: the loop ended before there was an answer.
        TypeError: *reactor* is none of ours, *function* cannot be called, or has a
            parameter `timeout` of its own.
        BaseException: whatever *function* raised.
    """
    return BlockingCall(reactor, function, args, kwargs).wait(timeout)


def _call_all(
    calls: list[tuple[Callable[..., object], Sequence[object], Mapping[str, object]]],
) -> None:
    for function, args, kwargs in calls:
        function(*args, **kwargs)
