"""The pending-event queue: it brings completions home to their loop, in bursts.

Any thread puts events in; only the loop's thread takes them out, in bounded passes.
The loop is woken once per burst. A worker that has more to do may hold an outcome
back for a moment (`hold`), so that the next ones travel with it.

Source: the reactor's pending-event queue of the 2002 paper, and trio's entry queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from threadpool import ticker
from threadpool._coroutine import fromCoroutine
from threadpool._deferred import Deferred
from threadpool._fire import Fire
from threadpool.error import LoopClosed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from threadpool.loops import Handle

__all__ = ["Event", "PendingEvents"]

_log = logging.getLogger(__name__)

# Outcomes that travel together at the most, while their worker has more to do. Woken
# in the middle of a burst, the loop and the worker fight for the GIL until its end:
# at 32, 64 queries in flight cost a tenth more CPU each than at 64.
BURST: Final = 64

# How long a worker may hold an outcome back. With the ticker's period this keeps the
# promise that no outcome waits more than 1 ms for its loop.
HOLD_SECONDS: Final = 0.0005

# How long one pass may keep the loop from its other work. Timers and sockets then
# get a turn before the next pass.
PASS_SECONDS: Final = 0.002


# A pass that takes so long may sit in a callback that turns the loop itself, and
# whatever arrives is handed to another pass.
NESTED_SECONDS: Final = 0.01


class Event(Protocol):
    """Something pending for the loop."""

    def happen(self) -> None:
        """Do what is pending, on the loop's thread."""
        ...


class PendingEvents:
    """The events that wait for one loop.

    Args:
        post: called as `post(f)` from any thread; runs `f()` soon on the loop's
            thread, or raises RuntimeError when the loop has ended.
        soon: the same for callers on the loop's thread, where it may be cheaper;
            left out, *post* serves.
        later: called as `later(seconds, f)` on the loop's thread; runs `f()` after
            that time, unless `cancel()` of what it returned is called before.
        loop: what the events' Deferreds give as their asyncio loop; None under a
            loop that is not asyncio's.
        running: says whether the loop is running; left out, it never is.
    """

    def __init__(
        self,
        post: Callable[[Callable[[], object]], object],
        *,
        soon: Callable[[Callable[[], object]], object] | None = None,
        later: Callable[[float, Callable[[], object]], Handle] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        running: Callable[[], bool] | None = None,
    ) -> None:
        self.loop = loop
        self.thread = threading.get_ident()  # Where it was made: the loop's thread.
        self.running = running or _no
        self._later = later
        self._post = post
        self._soon = soon or post
        # Appended to by any thread, emptied by the loop's. deque's append, popleft and
        # len are atomic by its documentation, with and without a GIL.
        self._queue: deque[Event] = deque()
        # True from the decision to wake the loop until a pass found the queue empty.
        # Written without a lock: two writers at once cost one needless wake, and a
        # pass looks at the queue once more after it has reset the flag.
        self._woken = False
        # When the pass began that goes on, in seconds of time.monotonic(). Only under
        # loops whose callbacks may turn the loop themselves, as modal dialogs do.
        self._passing_since: float | None = None
        # When the oldest outcome held back was put; None when none is held back.
        self._held_since: float | None = None
        # How many events the pass that goes on has left. Loop thread only.
        self.left = 0
        # Teams that got jobs meanwhile and call somebody for them when it is over. With
        # a GIL, who is called before that only fights for it. Loop thread only.
        self.late: list[Any] = []
        self._closed = False
        self._end = threading.Lock()
        # Kept alive here; closing it closes this queue. None under a loop that says
        # in another way when it ends.
        self.sentinel: AsyncGenerator[None, None] | None = None
        # Who is told of the end. guarded by: _end
        self._closers: weakref.WeakSet[Any] = weakref.WeakSet()
        # Called at last, with this object; loop thread only.
        self.when_closed: Callable[[PendingEvents], object] | None = None
        # Called when the loop is about to end and still goes round. Loop thread only.
        self.farewells: list[Callable[[], Deferred[Any]]] = []

    @property
    def closed(self) -> bool:
        """Whether the loop has ended and every event put now is refused."""
        return self._closed

    def over(self) -> bool:
        """Say whether the loop has ended, with or without a word to us."""
        return self._closed or (self.loop is not None and self.loop.is_closed())

    def put(self, event: Event) -> None:
        """Queue *event* and wake the loop; from any thread.

        Args:
            event: its `happen` is called on the loop's thread, once.

        Raises:
            LoopClosed: the loop has ended. The event was not queued.
        """
        self._queue.append(event)
        if self._closed:
            self._refuse(event)
        elif not self._woken:
            self._wake()

    def hold(self, event: Event, now: float, *, more: bool) -> None:
        """Queue a worker's outcome, and let it wait for others; `release` follows.

        Args:
            event: as for `put`.
            now: seconds of time.monotonic().
            more: the worker does something else before that.

        Raises:
            LoopClosed: the loop has ended. The event was not queued.
        """
        self._queue.append(event)
        if self._closed:
            self._refuse(event)
        elif self._held_since is None and not self._woken:
            self._held_since = now
            if more and self not in ticker.watched:
                ticker.watch(self)  # What comes next may turn out long.

    def release(self, now: float, *, dry: bool) -> None:
        """Wake the loop for what is held, if that has waited long enough.

        Args:
            now: seconds of time.monotonic().
            dry: the worker has nothing more to do, so nothing will travel along.
        """
        if self._woken or self._closed:
            return
        since = self._held_since
        if (
            dry
            or len(self._queue) >= BURST
            or (since is not None and now - since > HOLD_SECONDS)
        ):
            if self._queue:
                self._wake()
        elif self not in ticker.watched:
            ticker.watch(self)

    def fire(self, deferred: Deferred[Any], result: object) -> None:
        """Fire *deferred* on the loop's thread, unless it was cancelled meanwhile.

        Nothing happens when the loop has ended: nobody can be told there any more.

        Args:
            deferred: one that belongs to this loop.
            result: a value or a Failure.
        """
        with contextlib.suppress(LoopClosed):
            self.put(Fire(deferred, result))

    def deferred(self) -> Deferred[Any]:
        """Make a Deferred that belongs to this loop."""
        deferred: Deferred[Any] = Deferred()
        deferred._loop = self.loop
        return deferred

    def later(self, seconds: float, function: Callable[[], object]) -> Handle:
        """Call *function* on the loop's thread, which this is, after a while.

        Args:
            seconds: >= 0.
            function: anything quick.

        Returns:
            What has a `cancel` method.

        Raises:
            NotImplementedError: this loop has no clock for us.
        """
        if self._later is None:
            raise NotImplementedError(f"{self!r} was made without `later`.")
        return self._later(seconds, function)

    def seconds(self) -> float:
        """Return the loop's time, in seconds; only differences mean anything."""
        return time.monotonic() if self.loop is None else self.loop.time()

    def tick(self, now: float) -> bool:
        """Wake the loop for outcomes whose worker went on to something long.

        Called by the ticker.

        Args:
            now: seconds of time.monotonic().

        Returns:
            Whether anything is pending.
        """
        if self._queue and not self._woken and not self._closed:
            held_since = self._held_since
            # Not at once: an outcome put just now may still travel with the next
            # ones. At the next look it would be too late for the promised 1 ms.
            if held_since is None or now - held_since > HOLD_SECONDS / 4:
                self._wake()
        since = self._passing_since
        if since is not None and self._queue and now - since > NESTED_SECONDS:
            self._passing_since = now
            self._wake()
        return bool(self._queue) or since is not None

    def _refuse(self, event: Event) -> None:
        """Take back *event*, which was put after the end; unless it still happened."""
        # Closing empties the queue after it has set the flag: so either it has seen
        # this event, or the event is still here.
        try:
            self._queue.remove(event)
        except ValueError:
            return
        raise LoopClosed(
            f"The event loop of {event!r} has ended, so nobody can be told of it. "
            "Keep the loop running until its work is done, or close the pool first."
        )

    def _wake(self) -> None:
        self._woken = True
        try:
            self._post(self._pass)
        except RuntimeError as error:
            # loop.close() was called without shutdown_asyncgens(), as asyncio.run
            # would have done: no callback can run any more.
            self._abandon(error)

    def _pass(self) -> None:
        """Let what is pending happen: what is there now, for a bounded time."""
        queue = self._queue
        self._held_since = None
        # What is put from here on waits for the next pass: events that put events
        # must not keep the loop from its timers.
        count = len(queue)
        now = time.monotonic()
        until = now + PASS_SECONDS
        if self.loop is None:
            outer, self._passing_since = self._passing_since, now
            ticker.watch(self)
        try:
            while count and queue:
                self.left = count = count - 1
                try:
                    queue.popleft().happen()
                except Exception:
                    _log.exception("A pending event failed; the others go on")
                if not count & 7 and time.monotonic() > until:
                    break
        finally:  # Also when Ctrl-C ends this pass.
            self.left = 0
            if self.loop is None:
                self._passing_since = outer
            if self.late:
                late, self.late = self.late, []
                for team in late:
                    team.tick(now)
            if queue:
                self._soon(self._pass)
            else:
                self._woken = False
                if queue and not self._woken:
                    self._wake()

    def notify(self, closer: Any) -> None:
        """Call `closer.loopClosed(self)`, twice, when the loop ends; from any thread.

        Args:
            closer: referred to weakly. It is called on the loop's thread.
        """
        with self._end:
            self._closers.add(closer)

    def farewell(self) -> Deferred[None]:
        """Let those who asked for it do what they must before the loop ends.

        Loop thread, while the loop still runs. Each is asked once.

        Returns:
            A Deferred that fires when they have; then call `close`.
        """
        return fromCoroutine(self._farewell())

    async def _farewell(self) -> None:
        while self.farewells:
            try:
                await self.farewells.pop(0)()
            except Exception:
                _log.exception(
                    "A farewell to %r failed; the loop ends all the same", self
                )

    def close(self) -> None:
        """Refuse events from now on; let those that are here happen. Loop thread."""
        if self._closed:
            return
        # Twice, since a job may pass from one team to another, once, while they are
        # asked, and be missed by both.
        for _ in range(2):
            with self._end:
                closers = list(self._closers)
            for closer in closers:
                try:
                    closer.loopClosed(self)
                except Exception:
                    _log.exception("%r failed at the end of a loop", closer)
        self._closed = True
        self._empty()
        if self.when_closed is not None:
            self.when_closed(self)

    def _empty(self) -> None:
        """Let happen what is left, at the end of the loop."""
        task = None if self.loop is None else asyncio.current_task(self.loop)
        if task is not None and self.loop is not None:
            # Outcomes step the tasks that wait for them, and no task may be stepped
            # inside another.
            asyncio._leave_task(self.loop, task)
        try:
            while self._queue:
                try:
                    self._queue.popleft().happen()
                except Exception:
                    _log.exception("A pending event failed; the others go on")
        finally:
            if task is not None and self.loop is not None:
                asyncio._enter_task(self.loop, task)

    def _abandon(self, error: RuntimeError) -> None:
        with self._end:  # Two workers may find out at once.
            if self._closed:
                return
            self._closed = True
        lost = len(self._queue)
        self._queue.clear()
        cure = "Use asyncio.run, or call loop.shutdown_asyncgens() before loop.close()."
        if self.loop is None:
            cure = (
                "An adapter's post() raises RuntimeError after its loop's end only, "
                "and tells of that before: end with farewell(), then close()."
            )
        _log.warning(
            "An event loop was closed while work for it was in flight: %d finished "
            "outcome(s) cannot be delivered, and what awaited them never resumes. "
            "Posting said: %s. %s",
            lost,
            error,
            cure,
            # An adapter's own fault is to be found by its lines.
            exc_info=error if self.loop is None else None,
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<PendingEvents {state}, {len(self._queue)} pending>"


def _no() -> bool:
    return False
