"""Look things up: by name, by prefix, and along a class hierarchy.

Any thread may enter this room; it keeps nothing between two calls.

A plain ``cls.__dict__`` knows only what one class says. What stands here asks the
bases, too: base first, so that what is closer to the class comes later and wins.
"""

from __future__ import annotations

import sys
from types import FunctionType

from threadable._naming import (
    InvalidName,
    ModuleNotFound,
    ObjectNotFound,
    filenameToModuleName,
    fullFuncName,
    fullyQualifiedName,
    namedAny,
    namedClass,
    namedModule,
    namedObject,
    qual,
    requireModule,
)

TYPE_CHECKING = False  # as mypy reads it; `typing` itself costs 7 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping
    from typing import Any

__all__ = [
    "InvalidName",
    "ModuleNotFound",
    "ObjectNotFound",
    "QueueMethod",
    "accumulateClassDict",
    "accumulateClassList",
    "accumulateMethods",
    "addMethodNamesToDict",
    "filenameToModuleName",
    "fullFuncName",
    "fullyQualifiedName",
    "getClass",
    "namedAny",
    "namedClass",
    "namedModule",
    "namedObject",
    "prefixedMethodNames",
    "prefixedMethods",
    "qual",
    "requireModule",
    "safe_repr",
    "safe_str",
]


# -- methods by prefix -----------------------------------------------------------------


def prefixedMethods(obj: object, prefix: str = "") -> list[Callable[..., Any]]:
    """Collect the methods of *obj* whose names begin with *prefix*.

    Args:
        obj: any instance.
        prefix: such as "opt_"; a method named exactly so is not counted.

    Returns:
        bound methods, those of the superclasses first; an overridden one appears once,
        as the subclass has it.

    Source: reflect.prefixedMethods of the paper.
    """
    found: dict[str, Callable[..., Any]] = {}
    accumulateMethods(obj, found, prefix)
    return list(found.values())


def prefixedMethodNames(cls: type, prefix: str) -> list[str]:
    """Collect the names, without *prefix*, of the methods *cls* has under it.

    Args:
        cls: the class; its superclasses are included.
        prefix: such as "opt_".

    Returns:
        names without the prefix, those of the superclasses first.
    """
    names: dict[str, int] = {}
    addMethodNamesToDict(cls, names, prefix)
    return list(names)


def addMethodNamesToDict(
    cls: type,
    dct: MutableMapping[str, int],
    prefix: str,
    baseClass: type | None = None,  # noqa: N803 - the old vocabulary
) -> None:
    """Note in *dct* the name of each method of *cls* that begins with *prefix*.

    Args:
        cls: the class; unlike in its own ``__dict__``, superclasses are included.
        dct: gets ``dct[name without prefix] = 1``; its other keys stay.
        prefix: such as "opt_"; the bare prefix is no name, and only functions count.
        baseClass: count only classes that name this one as a direct base.

    Source: reflect.addMethodNamesToDict of the paper.
    """
    for name, _ in _functions(cls, prefix, baseClass):
        dct[name[len(prefix) :]] = 1


def accumulateMethods(
    obj: object,
    dct: MutableMapping[str, Callable[..., Any]],
    prefix: str = "",
    curClass: type | None = None,  # noqa: N803 - the old vocabulary
) -> None:
    """Put the methods of *obj* that begin with *prefix* into *dct*.

    Args:
        obj: any instance.
        dct: gets ``dct[name without prefix] = bound method``; its other keys stay.
        prefix: such as "opt_"; the bare prefix is no name.
        curClass: collect the names from this class and its superclasses; None for
            those of *obj*'s own class.
    """
    for name, _ in _functions(curClass or type(obj), prefix, None):
        dct[name[len(prefix) :]] = getattr(obj, name)


def _functions(
    cls: type, prefix: str, base: type | None
) -> Iterator[tuple[str, FunctionType]]:
    for klass in reversed(cls.__mro__):
        if base is not None and base not in klass.__bases__:
            continue
        # A copy: another thread may be hooking a method of this very class.
        for name, value in dict(klass.__dict__).items():
            if (
                name.startswith(prefix)
                and len(name) > len(prefix)
                and isinstance(value, FunctionType)
            ):
                yield name, value


# -- attributes along the class hierarchy ----------------------------------------------


def accumulateClassList(
    cls: type,
    attr: str,
    items: list[Any],
    baseClass: type | None = None,  # noqa: N803 - the old vocabulary
) -> None:
    """Append what *cls* and its superclasses list under *attr*.

    The attribute of a subclass does not override its base's: it appends to it. Each
    class is asked once and only for what it says itself, so an inherited list is not
    counted twice, not even below a diamond.

    Args:
        cls: the class to ask.
        attr: the name of a class attribute that holds a list.
        items: is extended, base first, in reverse method resolution order.
        baseClass: ask only classes that name this one as a direct base.

    Source: reflect.accumulateClassList of the paper.
    """
    for klass in reversed(cls.__mro__):
        if baseClass is None or baseClass in klass.__bases__:
            items.extend(klass.__dict__.get(attr, ()))


def accumulateClassDict(
    cls: type,
    attr: str,
    dct: MutableMapping[Any, Any],
    baseClass: type | None = None,  # noqa: N803 - the old vocabulary
) -> None:
    """Merge the dictionaries *cls* and its superclasses have under *attr*.

    Args:
        cls: the class to ask.
        attr: the name of a class attribute that holds a dictionary.
        dct: is updated; where two classes have a key, the one closer to *cls* wins.
        baseClass: ask only classes that name this one as a direct base.
    """
    for klass in reversed(cls.__mro__):
        if baseClass is None or baseClass in klass.__bases__:
            dct.update(klass.__dict__.get(attr, {}))


# -- odds and ends ---------------------------------------------------------------------


def getClass(obj: object) -> type:
    """Give the class an object says it has.

    Args:
        obj: anything.

    Returns:
        its ``__class__``.
    """
    return obj.__class__


class QueueMethod:
    """Stands in for a method that does not exist yet, and notes each call.

    Args:
        name: the method's name.
        calls: gets ``(name, args)`` for each call.
    """

    def __init__(self, name: str, calls: list[tuple[str, tuple[Any, ...]]]) -> None:
        self.name = name
        self.calls = calls

    def __call__(self, *args: Any) -> None:
        """Note the call.

        Args:
            args: noted as they are.
        """
        self.calls.append((self.name, args))

    def __repr__(self) -> str:
        return f"<QueueMethod {self.name!r}, {len(self.calls)} call(s) noted>"


# -- texts that never fail -------------------------------------------------------------


def safe_repr(obj: object) -> str:
    """Give ``repr(obj)``, whatever *obj* does.

    Args:
        obj: anything, also with a broken ``__repr__`` or a lying ``__class__``.

    Returns:
        the text; where there is none, the class, the address and the error.
    """
    return _safe(repr, obj)


def safe_str(obj: object) -> str:
    """Give ``str(obj)``, whatever *obj* does.

    Args:
        obj: anything; bytes are read as UTF-8 if they are.

    Returns:
        the text; where there is none, the class, the address and the error.
    """
    # Not isinstance(), which asks the object for its class.
    if type(obj) is not bytes:
        return _safe(str, obj)
    try:
        return obj.decode()
    except UnicodeDecodeError:
        return repr(obj)


def _safe(convert: Callable[[object], str], obj: object) -> str:
    try:
        return convert(obj)
    except BaseException:  # whatever it is, it becomes part of the text
        error = sys.exc_info()[1]
    # type() and id() ask nothing of the object; even a metaclass cannot fail them.
    name = type.__dict__["__name__"].__get__(type(obj))
    why = type.__dict__["__name__"].__get__(type(error))
    try:
        why = f"{why}: {error}"
    except BaseException:  # the error is broken, too: its class will do
        why = f"{why}, which has no text either"
    return f"<{name} at {id(obj):#x}, whose {convert.__name__}() fails with {why}>"
