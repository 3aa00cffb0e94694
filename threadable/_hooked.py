"""What stands in a class where a method has hooks.

A wrapper is called in any thread, and takes no lock: it reads its hooks once, from one
variable. `Hooked` objects are made and changed by `hook` alone, under its lock.
"""

from __future__ import annotations

import functools
import sys
from types import MethodType

TYPE_CHECKING = False  # as mypy reads it; `typing` itself costs 7 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Hook = Callable[..., object]
    Hooks = tuple[Hook, ...]
    # A hook, its short form or None, and those whose turn was before it (pre) or comes
    # after it (post).
    Steps = tuple[tuple[Hook, Any, Hooks], ...]
    # Sets the hooks of a wrapper: all pre-hooks, all post-hooks.
    Use = Callable[[Hooks, Hooks], None]

ABSENT: Any = object()  # the class itself has nothing under that name: it inherits
_CLASS_METHODS = (classmethod, type(object.__dict__["__init_subclass__"]))
# These have a __get__ (the latter since 3.13), but are given no instance by it.
_NEVER_BOUND = (MethodType, functools.partial)


class HookError(Exception):
    """A hook is not there to be removed, or its method cannot have any."""

    __module__ = "threadable.hook"  # where its users meet it


class Hooked:
    """A method of a class while it has hooks. All fields are guarded by: _lock."""

    __slots__ = ("_use", "cls", "name", "original", "posts", "pres", "wrapper")

    def __init__(self, cls: type, name: str) -> None:
        self.cls = cls
        self.name = name
        self.pres: Hooks = ()
        self.posts: Hooks = ()
        self._use: list[Use] = []
        self.original = cls.__dict__.get(name, ABSENT)
        written = self.original
        if written is ABSENT:
            written = _inherited(cls, cls, name)
        if written is ABSENT:
            raise AttributeError(
                f"{cls.__qualname__} has no attribute {name!r}, so there is nothing to "
                "hook: check the spelling, or define it first."
            )
        self.wrapper = self._wrapped(written)
        _carrier(self.wrapper)._threadable_hooked = self

    def apply(self, pres: Hooks, posts: Hooks) -> None:
        """Use these hooks for all calls that begin from now on."""
        self.pres, self.posts = pres, posts
        for use in self._use:
            use(pres, posts)

    def _wrapped(self, written: Any) -> Any:
        if isinstance(written, property) and _carrier(written) is not None:
            parts = [
                None if part is None else self._around(part, slot=slot)
                for part, slot in (
                    (written.fget, "__get__"),
                    (written.fset, "__set__"),
                    (written.fdel, "__delete__"),
                )
            ]
            make: Any = type(written)  # of a subclass of property, too
            return make(*parts, written.__doc__)
        function = getattr(written, "__func__", written)
        if isinstance(written, staticmethod):
            return staticmethod(self._around_static(function))
        if isinstance(written, _CLASS_METHODS) and callable(function):
            return classmethod(self._around(function, of_class=True))
        # Something like a function: it is given the instance when it is called.
        like_a_function = callable(written) and hasattr(type(written), "__get__")
        if like_a_function and not isinstance(written, _NEVER_BOUND):
            return self._around(written)
        raise HookError(
            f"{self.cls.__qualname__}.{self.name} is a {type(written).__name__}: hooks "
            "go around methods, static and class methods, and properties. Make it one."
        )

    def _around(
        self, function: Callable[..., Any], *, slot: str = "", of_class: bool = False
    ) -> Callable[..., Any]:
        call = function
        if self.original is ABSENT:
            call = self._passing_on(function, slot, of_class)
        wrapper, use = _wrap(call)
        self._use.append(use)
        return wrapper

    def _around_static(self, function: Callable[..., Any]) -> Callable[..., Any]:
        cls, name, inherits = self.cls, self.name, self.original is ABSENT

        def call(_cls: type, *args: Any, **kwargs: Any) -> Any:
            found = getattr(super(cls, cls), name) if inherits else function
            return found(*args, **kwargs)

        around, use = _wrap(call)
        self._use.append(use)

        # The hooks are shown the class, since there is nobody else to be shown.
        @functools.wraps(function)
        def static(*args: Any, **kwargs: Any) -> Any:
            return around(cls, *args, **kwargs)

        return static

    def _passing_on(
        self, function: Callable[..., Any], slot: str, of_class: bool
    ) -> Callable[..., Any]:
        """Go to what is inherited *now*: a base may be hooked or changed later."""
        cls, name = self.cls, self.name

        def call(instance: Any, /, *args: Any, **kwargs: Any) -> Any:
            kind = instance if of_class else type(instance)
            # Not issubclass(), which an abstract base class may answer by opinion.
            place = cls if cls in kind.__mro__ else self._place(kind)
            return getattr(super(place, instance), name)(*args, **kwargs)

        def call_slot(instance: Any, /, *args: Any) -> Any:
            kind = type(instance)
            place = cls if cls in kind.__mro__ else self._place(kind)
            if slot == "__get__":
                args = (kind,)
            return getattr(_inherited(place, kind, name), slot)(instance, *args)

        return functools.wraps(function)(call_slot if slot else call)

    def _place(self, kind: type) -> type:
        """Find the class from which on *kind* inherits, though not a subclass of ours.

        A class decorator may make a new class out of the old one's dictionary.
        """
        for klass in kind.__mro__:
            if klass.__dict__.get(self.name) is self.wrapper:
                return klass
        return self.cls  # a stranger; super() will say so


def _inherited(place: type, kind: type, name: str) -> Any:
    """Find what *kind* has under *name* beyond the class *place*."""
    line = kind.__mro__
    for klass in line[line.index(place) + 1 :]:
        if name in klass.__dict__:
            return klass.__dict__[name]
    return ABSENT


def find(cls: type, name: str) -> Hooked | None:
    """Find the hooks of a method of *cls* itself."""
    held = cls.__dict__.get(name)
    found = getattr(_carrier(held), "_threadable_hooked", None)
    # functools.wraps copies attributes: a decorator put around a wrapper is not it.
    # And a class copied by a decorator holds a wrapper that belongs to another class.
    if isinstance(found, Hooked) and found.wrapper is held and found.cls is cls:
        return found
    return None


def _carrier(held: Any) -> Any:
    """Give the function inside an entry of a class dictionary."""
    if isinstance(held, property):
        return held.fget or held.fset or held.fdel
    return getattr(held, "__func__", held)


# -- one call --------------------------------------------------------------------------


def _wrap(function: Callable[..., Any]) -> tuple[Callable[..., Any], Use]:
    """Make the wrapper of a function, and what sets its hooks.

    A call reads its hooks once, as one value: so its pre- and post-hooks belong
    together, whatever others add or remove meanwhile.
    """
    every: tuple[Steps, Steps] = ((), ())
    # What a lone pair of hooks amounts to, if they say so: `with context(instance)`.
    context: Callable[[Any], Any] | None = None

    def use(pres: Hooks, posts: Hooks) -> None:
        nonlocal every, context
        # First `every`, which is read by those who find no context.
        every = (
            tuple((f, _short(f), pres[:place]) for place, f in enumerate(pres)),
            tuple((f, _short(f), posts[place:]) for place, f in enumerate(posts, 1)),
        )
        context = _context(pres, posts)

    # The same thing three times: for the two hooks of a synchronized method, for any
    # hooks, and with keywords, which make each call cost a dictionary more.
    @functools.wraps(function)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        if context is not None and args:
            # Unlike two calls, `with` leaves no moment at which Ctrl-C could strike
            # between taking a lock and the promise to release it.
            with context(args[0]):
                return function(*args, **kwargs) if kwargs else function(*args)
        pres, posts = every
        if kwargs or not args:
            return _call(function, pres, posts, args, kwargs)
        instance = args[0]
        others: Hooks = ()
        try:
            for pre, short, others in pres:  # noqa: B007 - read where one raises
                short(instance) if short else pre(*args)
        except BaseException:
            _undo(others, args, kwargs)
            raise
        try:
            return function(*args)
        finally:
            try:
                for post, short, others in posts:  # noqa: B007 - same
                    short(instance) if short else post(*args)
            except BaseException:
                _run_posts(others, args, kwargs)
                raise

    code = getattr(function, "__code__", None)
    if sys.version_info >= (3, 12) and code and code.co_flags & 0x80:  # CO_COROUTINE
        import inspect  # 10 ms, for hooks on coroutine functions only

        inspect.markcoroutinefunction(hooked)
    return hooked, use


def _short(hook: Hook) -> Any:
    """Find the form of a hook that looks at the instance alone, if it has one."""
    return getattr(hook, "instance_only", None)


def _context(pres: Hooks, posts: Hooks) -> Callable[[Any], Any] | None:
    """Find what can replace the two hooks, if there are no others."""
    if len(pres) != 1 or len(posts) != 1:
        return None
    if getattr(pres[0], "undo", None) is not posts[0]:
        return None
    found: Callable[[Any], Any] | None = getattr(pres[0], "context", None)
    return found


def _call(
    function: Callable[..., Any],
    pres: Steps,
    posts: Steps,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    others: Hooks = ()
    try:
        for pre, _, others in pres:  # noqa: B007 - read where one raises
            pre(*args, **kwargs)
    except BaseException:
        _undo(others, args, kwargs)
        raise
    try:
        return function(*args, **kwargs)
    finally:
        _run_posts(tuple(post for post, _, _ in posts), args, kwargs)


def _undo(pres: Hooks, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Give back what pre-hooks took, the last one first, also if one fails at that."""
    if not pres:
        return
    try:
        undo = getattr(pres[-1], "undo", None)
        if undo is not None:
            undo(*args, **kwargs)
    finally:
        _undo(pres[:-1], args, kwargs)


def _run_posts(posts: Hooks, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run all post-hooks, also if one fails: another one may release a lock."""
    for position, post in enumerate(posts, start=1):
        try:
            post(*args, **kwargs)
        except BaseException:
            _run_posts(posts[position:], args, kwargs)
            raise
