"""Other people's loops: what the bridge needs of one, and how it is put under it.

Under asyncio nothing has to be done. For any other loop there is an adapter: two
methods, `post` and `later`, and no asyncio loop behind them. Twisted's reactor, Tk and
trio have theirs here; write your own for the loop you have, and give it to `install`.

`install` is called on the loop's thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.events import PendingEvents

__all__ = ["Handle", "Loop", "install"]


class Handle(Protocol):
    """A call that a loop was asked for, and may still be called off."""

    def cancel(self) -> object:
        """Call it off. Loop thread; nothing happens when it is too late."""
        ...


class Loop(Protocol):
    """All that the bridge needs of a loop.

    Source: the host loop's two functions in trio's guest mode.
    """

    def post(self, function: Callable[[], object], /) -> object:
        """Run `function()` soon on the loop's thread. Any thread, also the loop's.

        Args:
            function: does not raise.

        Raises:
            RuntimeError: the loop has ended. What it accepted it must also run.
        """
        ...

    def later(self, seconds: float, function: Callable[[], object], /) -> Handle:
        """Run `function()` after that time, on the loop's thread, which this is.

        Args:
            seconds: >= 0.
            function: what it raises is the loop's to report.

        Returns:
            Something with a `cancel` method, or the bridge raises TypeError.
        """
        ...


def install(loop: Loop) -> PendingEvents:
    """Make *loop* the one that Deferreds made in this thread come home to.

    Args:
        loop: it runs in this thread, or will.

    Returns:
        Its pending-event queue. Have the loop call `farewell()` when it is about to
        end, and `close()` at its end: what is still pending then fails with
        LoopClosed, and the thread is free for the next loop.

    Raises:
        RuntimeError: a loop was installed in this thread and has not ended.
        TypeError: *loop* has not the two methods.
    """
    # Imported here, since that room's asyncio adapter lives in this folder.
    from threadpool import home

    return home.install(loop)
