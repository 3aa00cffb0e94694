"""Names and the things they name: from a name to the object, and back.

Any thread may enter this room; it keeps nothing between two calls. Importing a module
by name takes the interpreter's import lock, as any import does. `reflect` shows these
functions to the public.
"""

from __future__ import annotations

import importlib
from types import MethodType

TYPE_CHECKING = False  # as mypy reads it; `typing` itself costs 7 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType, TracebackType
    from typing import Any


class InvalidName(ValueError):
    """What was given cannot be the name of anything: empty, or with an empty part."""

    __module__ = "threadable.reflect"


class ModuleNotFound(InvalidName):
    """There is no module of that name."""

    __module__ = "threadable.reflect"


class ObjectNotFound(InvalidName, AttributeError):
    """The name begins with a module, but does not lead to an object in it.

    Also an AttributeError, which is what a lookup by dots raises.
    """

    __module__ = "threadable.reflect"


# -- things by name --------------------------------------------------------------------


def namedModule(name: str) -> ModuleType:
    """Import a module by its full name.

    Args:
        name: such as "os.path".

    Returns:
        the module itself, not its top-level package.

    Raises:
        ModuleNotFoundError: there is none of that name.
        Exception: whatever the module raises while it is imported.
    """
    return importlib.import_module(name)


def namedObject(name: str) -> Any:
    """Get an attribute of a module by its full name.

    Args:
        name: module and attribute, such as "os.path.join".

    Returns:
        the object.

    Raises:
        InvalidName: *name* has no module part.
        ModuleNotFoundError: there is no such module.
        ObjectNotFound: the module has no such attribute.
    """
    module_name, _, attribute = name.rpartition(".")
    if not module_name or not attribute:
        raise InvalidName(
            f"{name!r} is not the full name of an object: give the module and the "
            "attribute, as in 'os.path.join'."
        )
    return _attribute(namedModule(module_name), module_name, attribute)


namedClass = namedObject  # noqa: N816 - the old vocabulary has both names


def namedAny(name: str) -> Any:
    """Get a package, a module, or anything inside one, by its full name.

    The longest part of the name that can be imported is imported; the rest are
    attributes.

    Args:
        name: such as "os", "os.path" or "collections.OrderedDict.fromkeys".

    Returns:
        the object.

    Raises:
        InvalidName: *name* is empty, or a part between two dots is.
        ModuleNotFound: *name* has one part, and no module is called so.
        ObjectNotFound: a part of *name* leads nowhere; the text says which.
        Exception: whatever a module raises while it is imported, ImportError included.
    """
    parts = name.split(".")
    if not all(parts):
        raise InvalidName(
            f"{name!r} is not a full name: parts are separated by single dots, and "
            "none of them is empty, as in 'os.path.join'."
        )
    found: Any = None
    depth = 0
    for depth in range(len(parts), 0, -1):
        found = _module_or_none(".".join(parts[:depth]))
        if found is not None:
            break
    if found is None:
        # Of a dotted name it is not known whether its last part is a module at all.
        kind = ModuleNotFound if len(parts) == 1 else ObjectNotFound
        raise kind(
            f"no module is named {parts[0]!r}, so {name!r} cannot be found: check its "
            "spelling and sys.path."
        )
    for position in range(depth, len(parts)):
        found = _attribute(found, ".".join(parts[:position]), parts[position])
    return found


def requireModule(name: str, default: Any = None) -> Any:
    """Import a module that may be absent.

    Args:
        name: its full name.
        default: what stands in for it.

    Returns:
        the module, or *default* where there is none of that name.

    Raises:
        Exception: whatever the module raises while it is imported. A module that is
            there and broken is not absent.
    """
    module = _module_or_none(name)
    return default if module is None else module


def _module_or_none(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != name and not name.startswith(missing + "."):
            raise
        if not missing or _ran_code(error.__traceback__):
            raise
        return None


def _ran_code(traceback: TracebackType | None) -> bool:
    """Tell an import that found nothing from a module that failed while it ran."""
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__")
        if module not in _IMPORTERS:
            return True
        traceback = traceback.tb_next
    return False


_IMPORTERS = (
    __name__,
    "importlib",
    "importlib._bootstrap",
    "importlib._bootstrap_external",
    "_frozen_importlib",
    "_frozen_importlib_external",
)


def _attribute(holder: object, holder_name: str, attribute: str) -> Any:
    try:
        return getattr(holder, attribute)
    except AttributeError as error:
        # A property or a module's __getattr__ may fail for a reason of its own.
        raise ObjectNotFound(
            f"{holder_name!r} has no {attribute!r} ({error}): check the spelling, or "
            "whether it is made only later."
        ) from error


# -- names of things -------------------------------------------------------------------


def qual(cls: type) -> str:
    """Give the full name of a class.

    Args:
        cls: a class.

    Returns:
        module and name, with a dot.
    """
    return f"{cls.__module__}.{cls.__name__}"


def fullyQualifiedName(obj: Any) -> str:
    """Give the full name of a module, class, function or method.

    Args:
        obj: one of these.

    Returns:
        for a method, with its class: "package.module.Class.method".
    """
    if isinstance(obj, MethodType):
        return f"{fullyQualifiedName(obj.__func__)}"
    name = getattr(obj, "__qualname__", None) or obj.__name__
    module = getattr(obj, "__module__", None)
    return f"{module}.{name}" if module else str(name)


def fullFuncName(func: Callable[..., Any]) -> str:
    """Give the full name of a function, and be sure that it leads back to it.

    Args:
        func: a function at the top of a module.

    Returns:
        module and name, with a dot.

    Raises:
        ObjectNotFound: that name leads to nothing, or to something else.
    """
    name = f"{func.__module__}.{func.__name__}"
    if namedObject(name) is not func:
        raise ObjectNotFound(
            f"{name!r} is another object than {object.__repr__(func)}: it was replaced "
            "after its definition, or it is not at the top of its module."
        )
    return name


def filenameToModuleName(filename: str) -> str:
    """Give the name under which a file is imported.

    Args:
        filename: a module's file, or a package's folder or ``__init__.py``; absolute or
            relative to the current folder.

    Returns:
        the name with all packages above it: folders that have an ``__init__.py``.
    """
    from pathlib import Path  # 8 ms, for this one function

    path = Path(filename).absolute()
    folder, name = path.parent, path.stem
    if name == "__init__":
        folder, name = folder.parent, folder.name
    while (folder / "__init__.py").exists():
        folder, name = folder.parent, f"{folder.name}.{name}"
    return name
