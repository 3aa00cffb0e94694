"""The lock of an instance: made at its first use, one and only one, and never copied.

Any thread may enter this room; two may ask for the same new lock at once.

Where the lock is. Not among the instance's own attributes, where a copy, a pickle or a
comparison of ``__dict__`` would meet it, but in one table by identity. As an instance
dies, a weak reference takes its entry out, before its memory can be used again. Where
no weak reference is possible, the lock is in the instance and knows whose it is, so
that a copy that carries it along does not use it.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref

from threadable._lock import XLock

TYPE_CHECKING = False  # as mypy reads it; `typing` itself costs 7 ms to import
if TYPE_CHECKING:
    from typing import Any

NAME = "_threadable_lock"

# Needs no lock: get, setdefault and pop of a dict with int keys are atomic.
locks: dict[int, XLock] = {}
# What keeps an entry of `locks` that somebody has assigned from outliving its instance.
_assigned: dict[int, weakref.ref[object]] = {}
_inside: weakref.WeakSet[XLock] = weakref.WeakSet()  # guarded by: _making
_making = threading.RLock()  # re-entrant: a collection may run a finalizer under it


def lock_of(instance: object) -> XLock:
    """Give the lock of an instance or of a class.

    Args:
        instance: whose lock; a class has one, too.

    Returns:
        the same lock at each call, to each thread.

    Raises:
        TypeError: there is no place for a lock; see `refuse_without_place`.
    """
    found = locks.get(id(instance))
    if found is not None:
        return found
    place = offered(type(instance))
    if place is not None:
        if not hasattr(type(place), "__set__"):  # one lock for all, says the class
            shared: XLock = place
            return shared
        return _make_inside(instance, place)
    made = XLock()
    key = id(instance)
    try:
        # The callback is a bare pop(key, reference): no Python code runs in a dealloc.
        made._belongs_to = weakref.ref(instance, functools.partial(locks.pop, key))
    except TypeError:
        refuse_without_place(type(instance))
        return _make_inside(instance, None)
    # Of two threads that come here at once, one finds the other's lock, and its own
    # goes away unused, the weak reference with it.
    return locks.setdefault(key, made)


def offered(cls: type) -> Any:
    """Give the slot for a lock, or the very lock, that a class offers its instances."""
    for klass in cls.__mro__:
        place = klass.__dict__.get(NAME)
        if place is not None:
            return None if isinstance(place, LockAttribute) else place
    return None


def held_inside(cls: type) -> bool:
    """Tell whether instances of *cls* hold their lock themselves, in slot or dict."""
    return offered(cls) is not None or not cls.__weakrefoffset__


def refuse_without_place(cls: type) -> None:
    """Say why instances of *cls* cannot have a lock, if they cannot.

    Raises:
        TypeError: they have neither a ``__dict__`` nor one of two slots.
    """
    if cls.__dictoffset__ or cls.__weakrefoffset__ or offered(cls) is not None:
        return
    raise TypeError(
        f"{cls.__qualname__} cannot be synchronized: because of __slots__, or of a "
        "base class, its instances have no room for a lock. Add "
        f"{NAME!r} or '__weakref__' to __slots__."
    )


class LockAttribute:
    """Shows the lock as ``instance._threadable_lock``, though it is in the table.

    Assigning a lock makes the instance use that one from its next call on.
    """

    def __get__(self, instance: object, cls: type) -> XLock:
        return lock_of(cls if instance is None else instance)

    def __set__(self, instance: object, lock: XLock) -> None:
        key = id(instance)
        _assigned[key] = weakref.ref(instance, functools.partial(_gone, key))
        locks[key] = lock


def _gone(key: int, _reference: object) -> None:
    locks.pop(key, None)
    _assigned.pop(key, None)


def lock_inside(instance: Any) -> XLock:
    """Give the lock an instance holds itself, quickly where there is one of its own.

    A copy has the original's lock with it. While two objects live their ids differ, so
    at most one of those that hold a lock can be its owner: the others do not use it.
    """
    try:
        lock: XLock = instance._threadable_lock
        if lock._belongs_to == id(instance):
            return lock
    except AttributeError:
        pass  # no lock yet, or one that says nothing of an owner
    return lock_of(instance)


def _make_inside(instance: object, place: Any) -> XLock:
    """Make the lock in the slot *place* or in the dict, unless there is one by now."""
    with _making:
        if place is None:
            found = vars(instance).get(NAME)
        else:
            try:
                found = place.__get__(instance, type(instance))
            except AttributeError:  # the slot is still empty
                found = None
        owner = getattr(found, "_belongs_to", None)
        # One that somebody has assigned has no owner, and is respected.
        if found is None or (isinstance(owner, int) and owner != id(instance)):
            found = XLock()
            found._belongs_to = id(instance)
            _inside.add(found)
            if place is None:
                vars(instance)[NAME] = found
            else:
                place.__set__(instance, found)
        lock: XLock = found
        return lock


def _after_fork_in_child() -> None:
    """Free what threads held that do not exist here; the forking one keeps its own."""
    global _making  # noqa: PLW0603 - one table in one process
    _making = threading.RLock()
    for lock in [*locks.values(), *_inside]:
        if lock.acquire(blocking=False):
            lock.release()
        elif isinstance(lock, XLock):
            lock._at_fork_reinit()  # what the standard library uses


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork_in_child)
