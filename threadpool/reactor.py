"""The reactor: a loop under the old names.

`reactor` is the process's default one. It adopts the loop that runs where it is first
used, and the next one after that has ended; or it runs one of its own (`run`). What
is asked of it before waits for the loop. Any thread may call `callFromThread`,
`callInThread` and `stop`; all else belongs to the loop's.

Source: `reactor` of the 2002 paper and of Twisted.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from contextlib import nullcontext
from types import CoroutineType
from typing import TYPE_CHECKING, ParamSpec

from threadpool import home as homes
from threadpool._anteroom import Anteroom
from threadpool._at_home import Posted
from threadpool._coroutine import fromCoroutine
from threadpool._own_loop import OwnLoop
from threadpool._require import requireCallable, requireDelay
from threadpool._services import Services
from threadpool._signals import stoppedBySignals
from threadpool.delayed import DelayedCall
from threadpool.descriptors import Descriptors
from threadpool.error import (
    LoopClosed,
    ReactorAlreadyRunning,
    ReactorNotRestartable,
    ReactorNotRunning,
)
from threadpool.triggers import Triggers

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from threadpool._deferred import Deferred
    from threadpool.events import PendingEvents
    from threadpool.triggers import Phase, Trigger

__all__ = ["DelayedCall", "Reactor", "reactor"]

_log = logging.getLogger(__name__)

P = ParamSpec("P")


class Reactor(Services):
    """A loop under the old names: one that runs already, or one of its own.

    Source: `reactor` of Twisted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._triggers = Triggers()
        self._own: OwnLoop | None = None
        # Of the loop of our own: "new", "running", "stopping", "stopped", "crashed".
        self._state = "new"

    # -- Running -----------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether its loop runs, adopted or its own, and was not told to end."""
        home = self._home
        if home is None or home.over():
            return False
        return self._own is None or self._state == "running"

    def run(
        self,
        install_signal_handlers: bool = True,
        *,
        loop: str | Callable[[], asyncio.AbstractEventLoop] = "asyncio",
    ) -> None:
        """Run a loop of this reactor's own in this thread, until `stop` or `crash`.

        Args:
            install_signal_handlers: have SIGINT and SIGTERM stop it, where this is
                the main thread. The second one ends it at once.
            loop: "asyncio", "uvloop", or a function that makes a loop.

        Raises:
            ReactorAlreadyRunning: it runs, or another loop runs in this thread.
            ReactorNotRestartable: it was stopped before. After `crash` it goes on.
            KeyboardInterrupt: a second signal came, or somebody's Ctrl-C.
        """
        own = self._start(loop)

        def stop(name: str) -> None:
            self.callFromThread(self._stop_by_signal, name)

        with stoppedBySignals(stop) if install_signal_handlers else nullcontext():
            self._go_round(own.run)

    def iterate(self, delay: float = 0) -> None:
        """Let this reactor's own loop go round once, for programs that have none.

        Args:
            delay: seconds to go on for.

        Raises:
            ReactorAlreadyRunning: called inside a loop.
            ReactorNotRestartable: it was stopped before.
            ValueError: *delay* is negative or not finite.
        """
        requireDelay(delay)
        own = self._start("asyncio")
        self._go_round(functools.partial(own.turn, delay))

    def stop(self) -> None:
        """End `run`: fire "shutdown", then stop the loop and the pool. Any thread.

        Raises:
            ReactorNotRunning: it does not run a loop of its own, or is stopping.
        """
        with self._lock:
            if self._state != "running":
                raise ReactorNotRunning(
                    f"This reactor is {self!r} and runs no loop that it could stop. A "
                    "loop that it adopted ends with whoever runs it: return from the "
                    "coroutine that was given to asyncio.run, or end the GUI's."
                )
            self._state = "stopping"
        self.callFromThread(lambda: fromCoroutine(self._shut_down()))

    def crash(self) -> None:
        """End `run` at once, firing nothing; a later `run` goes on from there.

        Raises:
            ReactorNotRunning: it does not run a loop of its own.
        """
        if self._own is None or not self._own.loop.is_running():
            raise ReactorNotRunning(
                f"This reactor is {self!r} and runs no loop that could crash."
            )
        self._state = "crashed"
        self._own.loop.stop()

    def callWhenRunning(
        self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> Trigger | None:
        """Call *function* when the loop runs: at once, or after its startup.

        After `run` has ended it waits for the next loop that is adopted.

        Args:
            function: anything quick, or a coroutine function. What it raises is
                logged, if it is called later.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Returns:
            What `removeSystemEventTrigger` takes; None when it was called at once.

        Raises:
            TypeError: *function* cannot be called.
        """
        requireCallable(function, "callWhenRunning")
        self._adopt_if_here()
        if self.running:
            result = function(*args, **kwargs)
            if isinstance(result, CoroutineType):  # Nobody else could run it.
                fromCoroutine(result)
            return None
        return self.addSystemEventTrigger("after", "startup", function, *args, **kwargs)

    def _start(self, kind: str | Callable[[], asyncio.AbstractEventLoop]) -> OwnLoop:
        here = homes.hereOrNone()
        own = self._own
        busy = self.running if own is None else own.loop.is_running()
        if here is not None or busy:
            raise ReactorAlreadyRunning(
                f"A loop runs already: {here or self._home!r}. The reactor adopts it, "
                "and there is nothing left to run. A GUI's loop, or Twisted's, is "
                "started as it wants to be started."
            )
        if self._state == "stopped":
            raise ReactorNotRestartable(
                "This reactor was stopped, and what was registered with it is gone. "
                "Make another Reactor()."
            )
        if own is None:
            own = self._own = OwnLoop(kind)
        if self._state in ("new", "crashed"):
            resumed, self._state = self._state == "crashed", "running"
            own.loop.call_soon(self._begin, resumed)
        return own

    def _begin(self, resumed: bool) -> None:
        self._adopt_if_here()
        if resumed:
            self._triggers.fire("startup")

    def _go_round(self, go: Callable[[], None]) -> None:
        try:
            go()
        except BaseException:
            self._state = "stopped"
            raise
        finally:
            if self._state == "stopped" and self._own is not None:
                self._end(self._own)

    def _end(self, own: OwnLoop) -> None:
        try:
            own.end()
        finally:
            self._own = None
            with self._lock:
                pool, self._pool = self._pool, None
            if pool is not None:
                pool.dismiss()  # Closed already, unless somebody insisted.

    def _stop_by_signal(self, name: str) -> None:
        _log.info("%s: stopping. Once more ends the program at once", name)
        if self._state == "running":
            self.stop()

    async def _shut_down(self) -> None:
        home, own, pool = self._home, self._own, self._pool
        try:
            if home is not None:
                await home.farewell()
            if pool is not None:
                await pool.close()
        except Exception:
            _log.exception("The reactor could not end in good order")
        # Not in a `finally`: given up at a second signal, this is over before it gets
        # here, and the loop has another end to reach.
        self._state = "stopped"
        if own is not None:
            own.loop.stop()

    # -- Starts and ends ---------------------------------------------------------------

    def addSystemEventTrigger(
        self,
        phase: Phase,
        event_type: str,
        function: Callable[P, object],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Trigger:
        """Call *function* once, when the reactor's loop starts or ends.

        What is returned and can be awaited delays the next phase. A loop that was
        adopted counts as started when it is adopted; it ends when it is shut down as
        `asyncio.run` does it.

        Args:
            phase: "before", "during" or "after".
            event_type: "startup", "shutdown", or a name for `fireSystemEvent`.
            function: what to call; what it raises is logged.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Returns:
            What `removeSystemEventTrigger` takes.

        Raises:
            KeyError: there is no such phase.
            TypeError: *function* cannot be called.
        """
        requireCallable(function, "addSystemEventTrigger")
        call = functools.partial(function, *args, **kwargs)
        return self._triggers.add(phase, event_type, call)

    def removeSystemEventTrigger(self, trigger: Trigger) -> None:
        """Forget *trigger*.

        Args:
            trigger: what `addSystemEventTrigger` returned.

        Raises:
            TypeError: it is something else.
            ValueError: it has run, or was removed before.
        """
        self._triggers.remove(trigger)

    def fireSystemEvent(self, event_type: str) -> Deferred[None]:
        """Run what was registered for that event, in its three phases.

        Args:
            event_type: its name.

        Returns:
            A Deferred that fires when the last phase is over.
        """
        return self._triggers.fire(event_type)

    def _moving_in(self, home: PendingEvents) -> None:
        super()._moving_in(home)
        home.put(Posted(self._triggers.fire, ("startup",), {}))
        home.farewells.append(functools.partial(self._say_farewell, home))

    def _say_farewell(self, home: PendingEvents) -> Deferred[None]:
        lost = LoopClosed("The loop that watched this descriptor ends.")
        over = self._triggers.fire("shutdown", home.later)
        return over.addBoth(lambda _: self._descriptors.disconnectAll(home.loop, lost))

    def _arrived(self, home: PendingEvents) -> None:
        """Adopt a loop that some other room has met, where anybody waits for one."""
        self._meet(home)  # A thread may ask before anybody does on the loop's own.
        if self._anteroom or self._triggers or self._descriptors:
            self._adopt(home)

    def __repr__(self) -> str:
        if self._own is None and self.running:
            return f"<Reactor at home in {self._home!r}>"
        return "<Reactor>" if self._state == "new" else f"<Reactor {self._state}>"


reactor = Reactor()
homes.arrivals.append(reactor._arrived)


def _after_fork_in_child() -> None:
    """Start the child with a free lock and without the parent's loop."""
    reactor._lock = threading.RLock()
    reactor._home = reactor._own = None
    reactor._state = "new"
    reactor._anteroom = Anteroom()
    reactor._met = []
    reactor._delayed.clear()
    reactor._descriptors = Descriptors()  # The parent's are watched by the parent.
    reactor._triggers = Triggers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
