"""Afterwards: what is to be called once it is known what became of a transaction.

Interactions note it on their worker's thread, leases on the loop's; it is called on the
loop's, in order.

Source: Django's `transaction.on_commit`; unlike there, an undone savepoint counts
as rolled back for what was noted inside it.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from enterprise.errors import Outcome

__all__ = ["Afterwards"]

_log = logging.getLogger(__name__)


class _Note:
    """One function, and the outcome it waits for."""

    __slots__ = ("args", "context", "function", "on_commit", "undone")

    def __init__(
        self, function: Callable[..., object], args: tuple[Any, ...], on_commit: bool
    ) -> None:
        self.function = function
        self.args = args
        self.on_commit = on_commit
        self.undone = False
        self.context = contextvars.copy_context()

    def happen(self) -> None:
        try:
            self.context.run(self.function, *self.args)
        except Exception:
            _log.exception(
                "%r, called after the %s of its transaction, failed; the others go on.",
                self.function,
                "commit" if self.on_commit else "rollback",
            )


class Afterwards:
    """The functions that wait for one transaction's outcome."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        # Only ever appended to, so that the loop and the worker need no lock.
        self._notes: list[_Note] = []

    def note(self, function: Any, args: tuple[Any, ...], *, on_commit: bool) -> None:
        """Remember *function*.

        Args:
            function: called as `function(*args)` in a copy of the current context.
            args: its arguments.
            on_commit: call it after the commit; else after the rollback.

        Raises:
            TypeError: it cannot be called, or would only return a coroutine.
        """
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise TypeError(
                f"{function!r} is no plain function, and nobody would await what it "
                "returns. Pass a function; it may create a task."
            )
        self._notes.append(_Note(function, args, on_commit))

    def mark(self) -> int:
        """Return the place to give to `undo`."""
        return len(self._notes)

    def undo(self, mark: int) -> None:
        """Note that what was done since *mark* has been rolled back by itself.

        Args:
            mark: what `mark` returned; 0 for everything.
        """
        for note in self._notes[mark:]:
            note.undone = True

    def happen(self, fate: Outcome) -> None:
        """Call whoever waited for this. Loop thread, once.

        Args:
            fate: what became of the transaction. Where that is unknown, only those
                are called whose savepoint was undone before.
        """
        left = 0
        for note in self._notes:
            if note.undone:
                if not note.on_commit:
                    note.happen()
            elif fate == "unknown":
                left += 1
            elif note.on_commit == (fate == "committed"):
                note.happen()
        if left:
            _log.warning(
                "The connection was lost during a COMMIT, so %d function(s) given to "
                "onCommit and onRollback were not called: nobody knows which. Look "
                "into the database, and do what they would have done.",
                left,
            )

    def __repr__(self) -> str:
        return f"<Afterwards {len(self._notes)} noted>"
