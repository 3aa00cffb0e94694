"""Tk under the bridge: jobs come home to `root.mainloop()`, and no window freezes.

Tk's thread only; `post` alone is for any thread. Coroutines run under
`ensureDeferred`, for Tk has no tasks of its own.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import sys
import threading
import tkinter as tk
from collections import deque
from typing import TYPE_CHECKING, Any

from threadpool import loops

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool.events import PendingEvents

__all__ = ["install"]

_log = logging.getLogger(__name__)

# How often to look where Tk cannot watch a socket (Windows). A person sees no delay
# below some 50 ms, and the looks cost nothing that could be measured.
POLL_MS = 10

# Tk draws when nothing else is left to do. One millisecond between two passes over a
# long burst of outcomes is enough for that.
BREATH_MS = 1

_ENDED = (
    "The window was destroyed, so nothing can be called in Tk's thread any more. Keep "
    "it open until its work is done."
)


def install(root: tk.Tk) -> PendingEvents:
    """Make Tk's loop the one that Deferreds made in this thread come home to.

    It ends when *root* is destroyed: what is still pending then fails with
    LoopClosed. Leaving `mainloop` by `root.quit()` is no end.

    Args:
        root: the window whose `mainloop` runs in this thread, or will.

    Returns:
        Its pending-event queue.

    Raises:
        RuntimeError: this thread has a loop already.
        TypeError: *root* is no window.
        tkinter.TclError: *root* was destroyed before.
    """
    if not isinstance(root, tk.Misc):
        raise TypeError(
            f"install() was given {root!r}, which is no window. Pass the tkinter.Tk() "
            "whose mainloop runs in this thread."
        )
    loop = _Tk(root)
    events = loops.install(loop)
    try:
        loop.open(events)
    except BaseException:
        events.close()
        loop.close()
        raise
    return events


class _Tk:
    """One Tk interpreter, as the bridge sees it."""

    def __init__(self, root: tk.Tk) -> None:
        # None after the end: a worker may hold the last reference to this object then,
        # and a Tcl interpreter that is freed in another thread than its own aborts.
        self._root: tk.Tk | None = root
        self.thread = threading.get_ident()
        # Appended to by any thread, emptied by Tk's.
        self.posted: deque[Callable[[], object]] = deque()
        self.timers: set[_Timer] = set()  # Tk's thread only.
        # Reentrant: garbage collected in `post` may log, and a log window may post.
        self.lock = threading.RLock()
        self.ended = False  # guarded by: lock
        # The second wakes Tk; None where Tk polls. guarded by: lock
        self.sockets: tuple[socket.socket, socket.socket] | None = None

    @property
    def root(self) -> tk.Tk:
        if self._root is None:
            raise RuntimeError(_ENDED)
        return self._root

    def open(self, events: PendingEvents) -> None:
        """Have Tk look at what is posted, and tell us of its end."""
        root = self.root

        def destroyed(event: tk.Event[Any]) -> None:
            # The root hears of all its children, too.
            if event.widget is self._root:
                events.farewell()  # Only what can be done at once: Tk turns no more.
                events.close()
                self.close()

        root.bind("<Destroy>", destroyed, add=True)
        # Tk watches descriptors wherever they are what Unix means by them.
        if hasattr(root.tk, "createfilehandler"):
            self.sockets = reader, writer = socket.socketpair()
            reader.setblocking(False)
            writer.setblocking(False)
            root.tk.createfilehandler(reader, tk.READABLE, self.woken)
        else:
            self.poll()

    def close(self) -> None:
        """Take nothing more, run what was taken, and leave nothing behind in Tk."""
        with self.lock:
            self.ended = True
            sockets, self.sockets = self.sockets, None
        self.run()
        for timer in list(self.timers):
            timer.cancel()
        if sockets is not None:
            self.root.tk.deletefilehandler(sockets[0])
            for each in sockets:
                each.close()
        self._root = None

    def post(self, function: Callable[[], object]) -> None:
        with self.lock:
            if self.ended:
                raise RuntimeError(_ENDED)
            self.posted.append(function)
            if threading.get_ident() == self.thread:
                self.later(BREATH_MS / 1000, self.run)
            elif self.sockets is not None:
                with contextlib.suppress(BlockingIOError):  # Tk has much to read yet.
                    self.sockets[1].send(b"\0")

    def later(self, seconds: float, function: Callable[[], object]) -> _Timer:
        return _Timer(self, math.ceil(seconds * 1000), function)

    def woken(self, reader: socket.socket, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            reader.recv(4096)
        self.run()

    def poll(self) -> None:
        self.later(POLL_MS / 1000, self.poll)
        self.run()

    def run(self) -> None:
        """Run what was posted up to now."""
        root = self.root
        for _ in range(len(self.posted)):
            if not self.posted:  # One of them has closed the window.
                break
            function = self.posted.popleft()
            try:
                function()
            except Exception:
                # Out of a file handler it would end `mainloop`.
                root.report_callback_exception(*sys.exc_info())

    def __repr__(self) -> str:
        state = "ended" if self.ended else "open"
        return f"<Tk's loop {state}, {len(self.posted)} posted>"


class _Timer:
    """A call that Tk makes later."""

    def __init__(self, loop: _Tk, ms: int, function: Callable[[], object]) -> None:
        self.loop = loop
        self.function = function
        self.name = loop.root.after(ms, self.run)
        loop.timers.add(self)

    def run(self) -> None:
        self.loop.timers.discard(self)
        self.function()

    def cancel(self) -> None:
        if self in self.loop.timers:
            self.loop.timers.discard(self)
            self.loop.root.after_cancel(self.name)
