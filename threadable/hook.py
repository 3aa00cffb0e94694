"""Hooks: functions that run before and after a method of somebody else's class.

Any thread may enter this room, also while others call the method: a call uses the
hooks there are when it begins, to its end. Hooks are added and removed one change at a
time, under a lock that no hook ever runs under.

A method with hooks is a wrapper in the class, and the function its author wrote waits
beside it. With the last hook the wrapper goes, and the class holds that very object
again.
"""

from __future__ import annotations

import os
import threading

from threadable._hooked import ABSENT, Hooked, HookError, find

TYPE_CHECKING = False  # as mypy reads it; `typing` itself costs 7 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from threadable._hooked import Hook, Hooks

__all__ = ["HookError", "addPost", "addPre", "error", "removePost", "removePre"]


error = HookError

_lock = threading.RLock()  # one change at a time; no hook and no method runs under it


def addPre(cls: type, name: str, function: Hook) -> None:
    """Call *function* before each call of a method.

    It gets what the method gets: the instance (for a class method the class, for a
    static method the class hooked), then the arguments. If it raises, neither the
    method nor its post-hooks are run.

    A pre-hook that takes something, say a lock, can have an attribute `undo`: a
    function that gives it back. It is called with the same arguments if a later
    pre-hook raises. If besides it has an attribute `context`, a function from the
    instance to a context manager, and *undo* is the only post-hook, ``with`` is used
    instead of calling the two.

    Args:
        cls: the class; existing instances are affected. Hooks of a base class and of a
            subclass are independent, also where the method itself is inherited.
        name: of a method, static method, class method or property. The hooks of a
            property run at each reading, writing and deletion.
        function: hooks run in the order of their addition. Of an ``async def`` and of
            a generator they see the call, which does not run the body yet.

    Raises:
        AttributeError: *cls* has no such method.
        HookError: it is something that cannot be wrapped.

    Source: hook.addPre of the paper.
    """
    _change(cls, name, lambda pres, posts: ((*pres, function), posts))


def addPost(cls: type, name: str, function: Hook) -> None:
    """Call *function* after each call of a method, also if that raises.

    It gets what the method got. The method's value or exception passes through; if
    *function* raises, the other post-hooks still run, and its exception replaces it.

    Args:
        cls: the class, as in `addPre`.
        name: of the method.
        function: hooks run in the order of their addition.

    Raises:
        AttributeError: *cls* has no such method.
        HookError: it is something that cannot be wrapped.

    Source: hook.addPost of the paper.
    """
    _change(cls, name, lambda pres, posts: (pres, (*posts, function)))


def removePre(cls: type, name: str, function: Hook) -> None:
    """Take back one `addPre`.

    Args:
        cls: the class that was given.
        name: of the method.
        function: the hook; where it was added twice, the first one goes.

    Raises:
        HookError: it is not a pre-hook of this method of this class.
    """
    _change(
        cls,
        name,
        lambda pres, posts: (_without(pres, function, cls, name), posts),
        adding=False,
    )


def removePost(cls: type, name: str, function: Hook) -> None:
    """Take back one `addPost`.

    Args:
        cls: the class that was given.
        name: of the method.
        function: the hook; where it was added twice, the first one goes.

    Raises:
        HookError: it is not a post-hook of this method of this class.
    """
    _change(
        cls,
        name,
        lambda pres, posts: (pres, _without(posts, function, cls, name)),
        adding=False,
    )


def add_pair(cls: type, name: str, pre: Hook, post: Hook) -> None:
    """Add a pre- and a post-hook in one step: no call sees only one of them."""
    _change(cls, name, lambda pres, posts: ((*pres, pre), (*posts, post)))


def pre_hooks(cls: type, name: str) -> Hooks:
    """List the pre-hooks of a method of *cls* itself, its bases' not included."""
    found = find(cls, name)
    return found.pres if found is not None else ()


def authored(cls: type, name: str) -> Any:
    """Give what *cls* itself has under *name* without hooks; ABSENT if nothing."""
    found = find(cls, name)
    return cls.__dict__.get(name, ABSENT) if found is None else found.original


def _without(hooks: Hooks, function: Hook, cls: type, name: str) -> Hooks:
    if function not in hooks:
        raise HookError(
            f"{function!r} is no such hook of {cls.__qualname__}.{name}, which has "
            f"{len(hooks)} of its kind: remove what was added, from the class it was "
            "added to, and once for each time."
        )
    position = hooks.index(function)
    return hooks[:position] + hooks[position + 1 :]


def _change(
    cls: type,
    name: str,
    change: Callable[[Hooks, Hooks], tuple[Hooks, Hooks]],
    *,
    adding: bool = True,
) -> None:
    if not isinstance(cls, type):
        raise TypeError(
            f"{cls!r} is no class: hooks are put on a class, and all its instances "
            "have them. Give its class."
        )
    with _lock:
        found = find(cls, name)
        if found is None:
            if not adding:
                raise HookError(
                    f"{cls.__qualname__}.{name} has no hooks: none was added to this "
                    "very class, or something else was put in their place since."
                )
            found = Hooked(cls, name)
            found.apply(*change((), ()))
            setattr(cls, name, found.wrapper)
            return
        found.apply(*change(found.pres, found.posts))
        if found.pres or found.posts:
            return
        if found.original is ABSENT:
            delattr(cls, name)
        else:
            setattr(cls, name, found.original)


# -- fork ------------------------------------------------------------------------------


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - one lock in one process
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork_in_child)
