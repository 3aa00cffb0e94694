"""trio under the bridge: jobs come home to `trio.run`, and its tasks await Deferreds.

The thread of `trio.run` only; `post` alone is for any thread.

Source: trio's own `run_sync_soon`, and its bridge for `await` in guest mode.
"""

from __future__ import annotations

import asyncio
import logging
from threading import get_ident
from typing import TYPE_CHECKING, Any

import trio

from threadpool import loops
from threadpool._coroutine import _agenda
from threadpool._future import awaiters

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from threadpool._deferred import Deferred
    from threadpool.events import PendingEvents

__all__ = ["install"]

_log = logging.getLogger(__name__)


def install() -> PendingEvents:
    """Make the running `trio.run` the loop that Deferreds of this thread come home to.

    From then on `await deferred` works in its tasks, and a cancel scope around it
    cancels the Deferred. It ends by itself, with the main task.

    Returns:
        Its pending-event queue.

    Raises:
        RuntimeError: trio does not run here, runs as asyncio's guest, or was given
            to the bridge before.
    """
    if not trio.lowlevel.in_trio_run() or asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "install() needs a trio.run() that has this thread for itself, and there "
            "is none: call it at the top of trio's main task. Where trio is a guest "
            "of asyncio, Deferreds belong to asyncio: await them in its tasks."
        )
    loop = _Trio()
    events = loops.install(loop)
    awaiters[events.thread] = _wait
    trio.lowlevel.spawn_system_task(loop.keep, events)
    return events


class _Trio:
    """One `trio.run`, as the bridge sees it."""

    def __init__(self) -> None:
        self.post = trio.lowlevel.current_trio_token().run_sync_soon
        self.timers: set[trio.CancelScope] = set()

    def later(self, seconds: float, function: Callable[[], object]) -> trio.CancelScope:
        # Shielded: farewells need their timers after the system tasks were cancelled.
        timer = trio.CancelScope(shield=True)
        self.timers.add(timer)
        deadline = trio.current_time() + seconds
        trio.lowlevel.spawn_system_task(self.run_later, timer, deadline, function)
        return timer

    async def run_later(
        self, timer: trio.CancelScope, deadline: float, function: Callable[[], object]
    ) -> None:
        with timer:
            await trio.sleep_until(deadline)
        self.timers.discard(timer)
        if timer.cancel_called:  # Also when it was too late to be woken by that.
            return
        try:
            function()
        except Exception:
            # Out of a system task it would end the whole run.
            _log.exception("A delayed call failed; the others go on")

    async def keep(self, events: PendingEvents) -> None:
        """Be there until the main task has ended, and then let the queue end."""
        try:
            await trio.sleep_forever()
        finally:
            try:
                with trio.CancelScope(shield=True):
                    await events.farewell()
                events.close()
            finally:
                awaiters.pop(events.thread, None)
                for timer in self.timers:
                    timer.cancel()

    def __repr__(self) -> str:
        return f"<trio's loop in thread {get_ident()}, {len(self.timers)} timers>"


class _Wait:
    """A task that sleeps until a Deferred comes to rest."""

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.deferred = deferred
        self.task = trio.lowlevel.current_task()
        self.asleep = False
        # What raises trio's Cancelled; there once a cancel scope wanted it.
        self.raise_cancel: Callable[[], Any] | None = None

    async def sleep(self) -> None:
        self.asleep = True
        self.deferred._watch(self.wake)
        await trio.lowlevel.wait_task_rescheduled(self.abort)

    def wake(self, _: object) -> None:
        if self.asleep:
            self.asleep = False
            trio.lowlevel.reschedule(self.task)

    def abort(self, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        """Cancel the Deferred, since a scope around the task was cancelled.

        A Deferred whose work takes a moment to stop says so later: until then the
        task sleeps on, for nobody knows yet whether it was cancelled or done.
        """
        deferred = self.deferred
        self.asleep = False  # Not to be woken from in here: trio waits for our answer.
        self.raise_cancel = raise_cancel
        taken = deferred.cancel()
        deferred.remove_done_callback(self.wake)
        if deferred.cancelled() or not (taken or deferred.done()):
            return trio.lowlevel.Abort.SUCCEEDED
        self.asleep = True
        if deferred.done():  # With something better: what its canceller saved.
            self.wake(deferred)
        else:
            deferred._watch(self.wake)
        return trio.lowlevel.Abort.FAILED


def _wait(deferred: Deferred[Any]) -> Generator[Any, Any, None]:
    """Wait for *deferred*, in the way of whoever drives this coroutine."""
    if _agenda.running or asyncio._get_running_loop() is not None:
        deferred._asyncio_future_blocking = True
        yield deferred
        return
    wait = _Wait(deferred)
    while not deferred.done():  # Another who waits may set the chain going again.
        yield from wait.sleep().__await__()
    if wait.raise_cancel is not None and deferred.cancelled():
        wait.raise_cancel()
