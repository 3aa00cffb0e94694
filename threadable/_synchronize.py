"""Synchronized methods: one at a time per instance, and free while threads are off.

Any thread may enter this room. A class says what is synchronized; while threads are
not on, noting that is all that happens. When they are turned on, two hooks go around
each of these methods, `_synchPre` and `_synchPost`, which take and release the lock of
the instance. There is no other mechanism.
"""

from __future__ import annotations

import os
import threading
import weakref

from threadable import _switch, hook
from threadable._hooked import ABSENT
from threadable._instance_lock import (
    NAME,
    LockAttribute,
    held_inside,
    lock_inside,
    lock_of,
    locks,
    offered,
    refuse_without_place,
)

TYPE_CHECKING = False  # as mypy reads it; `typing` itself costs 7 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from threadable._hooked import Hook
    from threadable._lock import XLock

    Method = TypeVar("Method")

__all__ = ["_synchPost", "_synchPre", "synchronize", "synchronized"]

_changing = threading.RLock()  # one declaration at a time
# Classes whose locks wait for threads; weak, since a class can be local to a function.
_waiting: weakref.WeakSet[type] = weakref.WeakSet()  # guarded by: _changing
# The names that are locked in a class and below it. guarded by: _changing
_locked: weakref.WeakKeyDictionary[type, list[str]] = weakref.WeakKeyDictionary()
_watched: weakref.WeakSet[type] = weakref.WeakSet()  # guarded by: _changing


# -- the two hooks ---------------------------------------------------------------------


def _synchPre(instance: object, *_args: object, **_kwargs: object) -> None:
    """Take the instance's lock: the pre-hook of a synchronized method.

    Source: the paper's Listing 1.
    """
    _lock_for(instance).acquire()


def _synchPost(instance: object, *_args: object, **_kwargs: object) -> None:
    """Release the instance's lock: the post-hook of a synchronized method.

    Source: the paper's Listing 1.
    """
    _lock_for(instance).release()


def _lock_for(instance: object) -> XLock:
    try:  # at once, if it is not the first time
        return locks[id(instance)]
    except KeyError:
        return lock_of(instance)


def _mark(pre: Hook, post: Hook, which: Callable[[Any], XLock]) -> tuple[Hook, Hook]:
    """Say what two hooks do, so that `hook` can do it better than by calling them."""

    def take(instance: object) -> None:
        which(instance).acquire()

    def give_back(instance: object) -> None:
        which(instance).release()

    vars(pre).update(undo=post, context=which, instance_only=take)
    vars(post).update(instance_only=give_back)
    return pre, post


def _hooks(which: Callable[[Any], XLock]) -> tuple[Hook, Hook]:
    """Make the two hooks for a lock that is found in another way."""

    def pre(instance: object, *_args: object, **_kwargs: object) -> None:
        which(instance).acquire()

    def post(instance: object, *_args: object, **_kwargs: object) -> None:
        which(instance).release()

    return _mark(pre, post, which)


_mark(_synchPre, _synchPost, _lock_for)


# -- declaring -------------------------------------------------------------------------


def synchronize(*classes: type) -> None:
    """Make the methods named in each class's `synchronized` exclude each other.

    Per instance, one thread at a time is inside any of them; the same thread may enter
    again. Class and static methods have one lock per class, shared with its
    subclasses. The lock is released also when the method, or a hook of it, raises.

    While threads are not on, nothing changes: the class holds the very functions its
    author wrote, and gets its locks when they are turned on. Subclasses are included,
    those that exist and those to come: where one overrides a synchronized method, its
    version is synchronized, too. Doing it twice does no harm.

    Args:
        classes: each has a list `synchronized` of names of methods, properties, class
            or static methods; inherited ones, too. The lists of bases count as well.

    Raises:
        AttributeError: a class has no list, or no attribute of that name.
        TypeError: a method cannot be synchronized, since its call does not run its
            body (``async def``, generators) or its instances have no room for a lock.
            Then none of *classes* is declared.

    Source: threadable.synchronize of the paper, which is like Java's keyword.
    """
    for cls in classes:
        _check(cls)
    with _changing:
        _waiting.update(classes)
    # In this order: whoever turns threads on looks at _waiting after the switch.
    if _switch.threads_on():
        _lock_waiting()


def synchronized(method: Method) -> Method:
    """Synchronize one method, where it is defined: a decorator.

    The same as naming it in the class's `synchronized`, which it adds it to, and
    passing the class to `synchronize`. It stands above other decorators.

    Args:
        method: a function, property, class or static method in a class's body.

    Returns:
        what becomes the method itself as soon as the class is made.

    Raises:
        TypeError: its call does not run its body: ``async def`` or a generator.
    """
    _refuse_unfit(method, getattr(method, "__qualname__", "the method"))
    mark: Any = _Mark(method)
    return mark  # type: ignore[no-any-return]


class _Mark:
    """Stands in for a decorated method until there is a class to declare."""

    def __init__(self, method: Any) -> None:
        self._method = method

    def __set_name__(self, owner: Any, name: str) -> None:
        setattr(owner, name, self._method)
        if hasattr(self._method, "__set_name__"):
            self._method.__set_name__(owner, name)
        owner.synchronized = [*owner.__dict__.get("synchronized", ()), name]
        synchronize(owner)

    def __call__(self, *_args: object, **_kwargs: object) -> None:
        raise TypeError(
            f"{self._method!r} is decorated as synchronized but is no method of a "
            "class: @synchronized works in a class's body, above other decorators."
        )


def _check(cls: type) -> None:
    """Refuse what can never work, at the declaration and whatever the switch says."""
    for name in _names(cls):
        written = _written(cls, name)
        _refuse_unfit(written, f"{cls.__qualname__}.{name}")
        if not _of_class(written):
            refuse_without_place(cls)


def _names(cls: type) -> list[str]:
    if not hasattr(cls, "synchronized"):
        raise AttributeError(
            f"{cls!r} has no list `synchronized`, so it is not known what to lock: "
            'give the class one, such as synchronized = ["deposit", "withdraw"].'
        )
    from threadable import reflect  # 2 ms, for those who synchronize

    names: list[str] = []
    for klass in cls.__mro__:
        if isinstance(klass.__dict__.get("synchronized"), str):
            raise TypeError(
                f"{klass.__qualname__}.synchronized is the string "
                f"{klass.__dict__['synchronized']!r}, whose letters name no methods: "
                "put it into a list."
            )
    reflect.accumulateClassList(cls, "synchronized", names)
    return list(dict.fromkeys(names))


def _written(cls: type, name: str) -> Any:
    """Find what *cls* has or inherits under *name*, hooks not counted."""
    for klass in cls.__mro__:
        found = hook.authored(klass, name)
        if found is not ABSENT:
            return found
    raise AttributeError(
        f"{cls.__qualname__}.synchronized names {name!r}, but there is no such "
        "attribute: check the spelling."
    )


def _of_class(written: Any) -> bool:
    return isinstance(written, (classmethod, staticmethod))


# Flags of a code object whose call gives something that runs later, not a result.
_LATER = (
    (0x200, "an async generator"),  # CO_ASYNC_GENERATOR
    (0x80 | 0x100, "a coroutine function"),  # CO_COROUTINE, CO_ITERABLE_COROUTINE
    (0x20, "a generator function"),  # CO_GENERATOR
)


def _refuse_unfit(written: Any, name: str) -> None:
    functions = [getattr(written, "__func__", written)]
    if isinstance(written, property):
        functions = [f for f in (written.fget, written.fset, written.fdel) if f]
    for function in functions:
        code = getattr(function, "__code__", None)
        for flag, kind in _LATER:
            if code is not None and code.co_flags & flag:
                raise TypeError(
                    f"{name} cannot be synchronized: it is {kind}, whose call returns "
                    "before its body runs, so the lock would guard nothing. Keep a "
                    "plain method for the part that must not be interrupted."
                )
        if not callable(function):
            raise TypeError(
                f"{name} cannot be synchronized: it is a {type(function).__name__}, "
                "and a lock goes around methods and properties."
            )


# -- locking ---------------------------------------------------------------------------


def _lock_waiting() -> None:
    """Lock all classes that wait; if one fails, the others are locked all the same."""
    errors: list[Exception] = []
    with _changing:
        while _waiting:
            cls = _waiting.pop()
            try:
                _lock_class(cls)
            except Exception as error:  # raised below, after the others
                errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(f"{len(errors)} classes cannot be synchronized", errors)


def _lock_class(cls: type) -> None:  # guarded by: _changing
    names = _names(cls)
    _locked[cls] = names
    if not held_inside(cls) and offered(cls) is None:
        setattr(cls, NAME, LockAttribute())
    # First the ears, then the eyes: a subclass made meanwhile is heard or seen.
    _watch_subclasses(cls, always=True)
    below: list[type] = [cls]
    for klass in below:
        subclasses: list[type] = type.__subclasses__(klass)
        below += [each for each in subclasses if each not in below]
        _watch_subclasses(klass, always=False)
        for name in names:
            _lock_method(klass, name)


def _lock_method(cls: type, name: str) -> None:  # guarded by: _changing
    """Put the two hooks around a method, unless what *cls* has there is locked."""
    provider = next((klass for klass in cls.__mro__ if name in klass.__dict__), None)
    hooks = () if provider is None else hook.pre_hooks(provider, name)
    if any(hasattr(each, "context") for each in hooks):
        return
    written = _written(cls, name)
    if written is None:  # a subclass that takes the method away
        return
    _refuse_unfit(written, f"{cls.__qualname__}.{name}")
    pre: Hook = _synchPre
    post: Hook = _synchPost
    if _of_class(written):
        # The most basic class that declares anything: one lock for the hierarchy, or
        # a subclass and its base could wait for each other.
        root = [klass for klass in cls.__mro__ if "synchronized" in klass.__dict__][-1]
        lock = lock_of(root)
        pre, post = _hooks(lambda _whoever: lock)
    elif held_inside(cls):
        pre, post = _hooks(lock_inside)
    hook.add_pair(cls, name, pre, post)


def _watch_subclasses(cls: type, *, always: bool) -> None:  # guarded by: _changing
    """Hear of subclasses to come; also below one that does not pass the news on."""
    if (always or "__init_subclass__" in cls.__dict__) and cls not in _watched:
        hook.addPost(cls, "__init_subclass__", _subclassed)
        _watched.add(cls)


def _subclassed(cls: type, *_args: object, **_kwargs: object) -> None:
    """Lock what a new subclass overrides: a post-hook of ``__init_subclass__``."""
    with _changing:
        for base in cls.__mro__:
            for name in _locked.get(base, ()):
                _lock_method(cls, name)
        _watch_subclasses(cls, always=False)


_switch.whenThreaded(_lock_waiting)


def _after_fork_in_child() -> None:
    global _changing  # noqa: PLW0603 - one lock in one process
    _changing = threading.RLock()


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork_in_child)
