"""Forks: what becomes of the pools when the process forks.

A child has no threads but the one that forked, and it must leave its parent's
connections alone: to close one would end the parent's session. So it parks them for
good, and every pool begins anew. SQLite's files must not even be open in the parent
meanwhile, see `drivers._files`; their workers are asked to close them before.

The functions here run in the thread that forks: before it, and after it on both sides.

Source: `os.register_at_fork`, and the pools of others, which leave this to their users.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from enterprise.drivers._files import files

if TYPE_CHECKING:
    from enterprise.office import Office
    from enterprise.worker import ConnectionWorker

__all__ = ["BeginsAnew", "register"]

# How long a fork waits for statements to end on SQLite's connections: as long as a
# program can be expected to stand still.
FORK_SECONDS = 1.0


@runtime_checkable
class BeginsAnew(Protocol):
    """A driver that has something to forget in a forked child."""

    def afterFork(self) -> None:
        """Begin anew: other threads' locks are nobody's here."""
        ...


_offices: weakref.WeakSet[Office] = weakref.WeakSet()

# The parent's connections: filled before the fork, kept for ever in the child.
_parked: list[Any] = []


def register(office: Office) -> None:
    """Look after a pool from now on, for as long as it lives.

    Args:
        office: the pool's.
    """
    _offices.add(office)


def _workers(office: Office) -> list[ConnectionWorker]:
    found = [w for crew in office.crews.values() for w in crew.team.crew()]
    return cast("list[ConnectionWorker]", found)  # A pool has no others.


def _before() -> None:
    offices = list(_offices)
    files.beforeFork(FORK_SECONDS, lambda: _ask_to_close(offices))
    for office in offices:
        raws = [worker.upkeep.raw for worker in _workers(office)]
        _parked.extend(raw for raw in raws if raw is not None)
    if offices:
        _keep_for_ever([])  # Only to have imported what the child needs.


def _ask_to_close(offices: list[Office]) -> None:
    """Have those workers leave that have a file open: idle ones now, others soon."""
    for office in offices:
        holding = [w for w in _workers(office) if files.isOpen(w.upkeep.raw)]
        for worker in holding:
            worker.discard()
        for crew in office.crews.values() if holding else ():
            team = crew.team  # Nothing is resized, but everybody looks up.
            team.resize(team.minimum, team.maximum)


def _after_in_parent() -> None:
    _parked.clear()
    files.afterForkInParent()


def _after_in_child() -> None:
    from enterprise.office import Office

    _parked.extend(files.afterForkInChild())
    _keep_for_ever(_parked)
    for office in list(_offices):
        if isinstance(office.driver, BeginsAnew):
            office.driver.afterFork()
        over = office.state in ("closing", "closed")
        # All its locks, figures and crews are new then, whatever they are.
        Office.__init__(office, office.driver, office.options)
        if over:
            office.state = "closed"
            office.ending.over.set()


def _keep_for_ever(objects: list[Any]) -> None:
    """Have *objects* outlive even the interpreter, which deletes what is left."""
    try:
        import ctypes
    except ImportError:
        return  # Then they end with this child, at its very end.
    for one in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))


if hasattr(os, "register_at_fork"):  # Absent on Windows, where nothing forks.
    os.register_at_fork(
        before=_before,
        after_in_parent=_after_in_parent,
        after_in_child=_after_in_child,
    )
