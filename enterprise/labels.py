"""Labels: what jobs are called in logs, errors and snapshots. No value is part of one.

Any thread may ask; it never raises.
"""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["Calling", "shown"]

# Of a statement, how much is shown.
LABEL_LENGTH = 120


def shown(work: object) -> str:
    """Return what stands for *work* in texts.

    Args:
        work: a statement, of which values are no part, or a function.
    """
    if callable(work):
        while isinstance(work, functools.partial):  # Whose repr shows the arguments.
            work = work.func
        try:
            name = getattr(work, "__qualname__", None)
        except Exception:  # A proxy, outside of what it stands for.
            name = None
        return str(name or type(work).__qualname__)
    text = " ".join(
        str.__str__(work).split() if isinstance(work, str) else repr(work).split()
    )
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 3] + "..."


class Calling:
    """What a job has that calls a function of the user's: that one's name."""

    __slots__ = ()

    function: Any

    def label(self) -> str:
        """Say which function it calls. Any thread."""
        function = self.function  # Taken away by the worker when it is done.
        return "a call" if function is None else shown(function)
