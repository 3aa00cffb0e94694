"""Where a reactor is at home: the loop it adopted, its pending events, its timers.

Any thread may call `callFromThread`; all else belongs to the loop's.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
import weakref
from threading import get_ident
from types import CoroutineType
from typing import TYPE_CHECKING, Any, ParamSpec

from threadpool import home as homes
from threadpool._anteroom import Anteroom
from threadpool._coroutine import fromCoroutine
from threadpool._require import requireCallable, requireDelay
from threadpool.crew import currentTeam
from threadpool.delayed import DelayedCall
from threadpool.error import LoopClosed, WrongThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.events import Event, PendingEvents

__all__ = ["AtHome", "Posted"]

P = ParamSpec("P")


class Posted:
    """The event of a function that is to be called on the loop's thread.

    Args:
        function: what to call, in a copy of the current context variables.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """

    __slots__ = ("_args", "_context", "_function", "_kwargs")

    def __init__(
        self,
        function: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._context = contextvars.copy_context()

    def happen(self) -> None:
        """Call it; what it raises is logged by the pass."""
        result = self._context.run(self._function, *self._args, **self._kwargs)
        if result.__class__ is CoroutineType:  # Nobody else could run it.
            self._context.run(fromCoroutine, result)


class AtHome:
    """The half of a reactor that knows its loop: pending events and time events."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._home: PendingEvents | None = None  # guarded by: _lock
        # What was asked for while there was no loop. guarded by: _lock
        self._anteroom = Anteroom()
        # The loops that any room of ours has met: where a thread asks before anybody
        # did on a loop's own thread, one of them is adopted. guarded by: _lock
        self._met: list[weakref.ref[PendingEvents]] = []
        self._delayed: set[DelayedCall] = set()  # Those that are going to happen.

    # -- Pending events ----------------------------------------------------------------

    def callFromThread(
        self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call *function* soon on the loop's thread, in the order of these calls.

        Any thread may ask. What *function* raises is logged. While no loop runs, it
        waits for the next one.

        Args:
            function: anything quick, or a coroutine function. It sees a copy of the
                caller's context variables.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Raises:
            TypeError: *function* cannot be called.
        """
        requireCallable(function, "callFromThread")
        self._post(Posted(function, args, kwargs))

    def _post(self, event: Event) -> None:
        home = self._home
        if home is None or home.over():
            home = self._adopt_if_here()
        while home is not None:
            try:
                home.put(event)
            except LoopClosed:
                home = self._adopt_if_here()
            else:
                return
        with self._lock:
            home = self._home
            if home is None or home.over():
                self._anteroom.put(event)
            else:  # Adopted by another thread in this very moment.
                home.put(event)
                return
        for met in self._living():
            with contextlib.suppress(LoopClosed):
                met.put(Posted(self._adopt, (met,), {}))
                return

    def _living(self) -> list[PendingEvents]:
        """Return the loops that could be adopted; first those that run."""
        with self._lock:
            met = [(ref, ref()) for ref in self._met]
            alive = [(r, h) for r, h in met if h is not None and not h.over()]
            self._met = [ref for ref, _ in alive]
        homes_met = [home for _, home in alive]
        # Under loops that are not asyncio's nobody can say whether they turn.
        homes_met.sort(
            key=lambda home: home.loop is not None and not home.loop.is_running()
        )
        return homes_met

    def _meet(self, home: PendingEvents) -> None:
        """Remember a loop that may be needed here, too."""
        with self._lock:
            others = [ref for ref in self._met if ref() is not None]
            self._met = [*others, weakref.ref(home)]

    # -- Time events -------------------------------------------------------------------

    def callLater(
        self,
        delay: float,
        function: Callable[P, object],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DelayedCall:
        """Call *function* once, *delay* seconds from now; not before the loop runs.

        Args:
            delay: seconds >= 0, measured by `seconds`.
            function: anything quick, or a coroutine function. It sees a copy of the
                caller's context variables.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Raises:
            TypeError: *delay* is no number, or *function* cannot be called.
            ValueError: *delay* is negative or not finite.
            WrongThread: this reactor's loop runs in another thread.
        """
        requireDelay(delay)
        requireCallable(function, "callLater")
        timeline = self._adopt_if_here() or self._before_the_loop("callLater")
        if args or kwargs:
            function = functools.partial(function, *args, **kwargs)
        call = DelayedCall(timeline, delay, function, self._delayed.discard)
        self._delayed.add(call)
        return call

    def seconds(self) -> float:
        """Return the loop's clock, in seconds; only differences mean anything."""
        return (self._adopt_if_here() or self._anteroom).seconds()

    def getDelayedCalls(self) -> list[DelayedCall]:
        """Return the calls that are still going to happen, the next one first."""
        return sorted(self._delayed, key=DelayedCall.getTime)

    # -- Adoption ----------------------------------------------------------------------

    def _adopt_if_here(self) -> PendingEvents | None:
        """Return the queue of the loop that runs here, and make it ours if we may."""
        home = homes.hereOrNone()
        if home is not None and home is not self._home:
            self._adopt(home)
        return home

    def _adopt(self, home: PendingEvents) -> None:
        with self._lock:
            # Where another loop runs in its thread, an old one cannot.
            old = self._home
            stays = old is not None and not old.over() and old.thread != home.thread
            if stays or home.closed or home is old:
                return
            # Under the lock: nobody shall overtake what came before.
            self._moving_in(home)
            self._anteroom.admit(home)
            self._home = home

    def _moving_in(self, home: PendingEvents) -> None:
        """Do what comes before everything else on a new loop; holding the lock."""

    def _before_the_loop(self, verb: str) -> Anteroom | PendingEvents:
        home = self._home
        # A worker of a pool waits for no loop of its own.
        elsewhere = home is not None and not home.over()
        if home is not None and elsewhere and home.thread == get_ident():
            return home  # It stands still, between two turns.
        if currentTeam() is not None or elsewhere:
            raise WrongThread(
                f"{verb} belongs to the loop's thread, which is another one. From "
                f"here, use reactor.callFromThread(reactor.{verb}, …)."
            )
        if home is not None:
            # That loop has ended, and its timers with it.
            with self._lock:
                self._anteroom = self._anteroom.successor()
                self._home = None
        return self._anteroom
