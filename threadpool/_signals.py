"""Signals that end a program: the first asks it to, the second insists.

Entered by the thread that runs the loop; handlers run in the main thread, wherever it
is at that moment, also inside a callback that blocks.

Source: `asyncio.Runner`, and the reactor of 2002, which counted its Ctrl-C.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["stoppedBySignals"]


@contextlib.contextmanager
def stoppedBySignals(stop: Callable[[str], object]) -> Iterator[None]:
    """Have SIGINT, SIGTERM and SIGBREAK call *stop*, while the body runs.

    Only in the main thread, since no other may set handlers. A SIGINT handler that
    is not Python's own is the program's, and is left alone.

    Args:
        stop: called with the first signal's name, between any two instructions of the
            main thread: it may do no more than post. The second signal raises
            KeyboardInterrupt there instead.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = 0

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        name = signal.Signals(number).name
        if seen > 1:
            raise KeyboardInterrupt(
                f"{name} came while the program was stopping; it ends at once."
            )
        stop(name)  # It logs: here a log handler may be what was interrupted.

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        now = signal.getsignal(number)
        if number != signal.SIGINT or now is signal.default_int_handler:
            before[number] = now
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:  # Else the program has set its own.
                signal.signal(number, handler or signal.SIG_DFL)
