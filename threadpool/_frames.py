"""Which frames of a traceback are the user's. Any thread may enter.

A report is read by somebody who looks for a mistake of their own; the rooms that a call
went through on its way to a worker only hide it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

__all__ = ["silence", "usersFrames"]

_silent: Final = {"threadable", "threadpool"}


def silence(package: str) -> None:
    """Leave the frames of one more package out of reports.

    Args:
        package: its top-level name.
    """
    _silent.add(package)


def usersFrames(tb: TracebackType | None) -> TracebackType | None:
    """Return *tb* without the frames of this library; None where it has no others.

    Args:
        tb: a traceback, which stays as it is.
    """
    kept = []
    while tb is not None:
        name = str(tb.tb_frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] not in _silent:
            kept.append(tb)
        tb = tb.tb_next
    shown: TracebackType | None = None
    for each in reversed(kept):
        shown = TracebackType(shown, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return shown
